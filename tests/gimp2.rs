//! The plug-in in a real GIMP 2.10: procedure by Script-Fu in gimp-console, dialog by keyboard in a real window.
//!
//! Needs gimp-console-2.10; the window also needs gimp-2.10, Xvfb, openbox, xdotool and ImageMagick. Where one is
//! missing the test says "skipped"; with IMAGIC_TEST_GIMP=1 it fails.

#[path = "support/gimp.rs"]
mod gimp;
#[path = "support/screen.rs"]
mod screen;
mod support;
#[path = "gimp2/window.rs"]
mod window;

use gimp::{about_model, picture, report, told};
use screen::can_run;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An account of its own with GIMP, plug-in and models, in a folder that is made anew by each test.
pub struct Account {
    /// Home of the account; `profile` in it is GIMP's.
    pub folder: PathBuf,
}

impl Account {
    /// `name` is the test's.
    pub fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gimp2").join(name);
        // Left by the run before.
        let _ = fs::remove_dir_all(&folder);
        let account = Self { folder };
        let plug_in = account.folder.join("profile/plug-ins/imagic-edit");
        support::install(&plug_in);
        let library = plug_in.join("libimagic_edit.so");
        fs::set_permissions(library, fs::Permissions::from_mode(0o644)).expect("our own file");
        // Imported pictures would ask about their profile otherwise.
        fs::write(account.folder.join("profile/gimprc"), "(color-profile-policy keep)\n(check-updates no)\n")
            .expect("a temporary folder");
        account.add_model("scenes-64", json!({ "embedding_steps": 2, "tuning_steps": 2, "sampling_steps": 2 }));
        account
    }

    /// Installs the small model of the fixtures under `name`.
    pub fn add_model(&self, name: &str, preset: Value) {
        let to = self.folder.join("data/imagic-edit/models").join(name);
        fs::create_dir_all(&to).expect("a temporary folder");
        for part in fs::read_dir(support::model()).expect("the fixture").map(|part| part.expect("a part of the model"))
        {
            std::os::unix::fs::symlink(part.path(), to.join(part.file_name())).expect("a new folder");
        }
        fs::write(to.join("imagic.json"), about_model(&preset)).expect("a new folder");
    }

    /// A command that sees this account only.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("HOME", &self.folder)
            .env("GIMP2_DIRECTORY", self.folder.join("profile"))
            .env("XDG_DATA_HOME", self.folder.join("data"))
            .env("XDG_CONFIG_HOME", self.folder.join("config"))
            .env("XDG_CACHE_HOME", self.folder.join("cache"))
            .env("LC_ALL", "C.UTF-8")
            .env_remove("LANGUAGE")
            .stdin(Stdio::null());
        command
    }

    /// Runs one of the scripts beside this file in gimp-console and returns the lines it told; what GIMP wrote on the
    /// console is in console.txt.
    fn run_script(&self, script: &str, beginning: &str) -> Vec<String> {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gimp2");
        let text = format!(
            "(begin (define folder {:?}) (load {:?}) (load {:?}) {beginning} (load {:?}))",
            self.folder,
            scripts.with_file_name("support/report.scm"),
            scripts.join("check.scm"),
            scripts.join(script)
        );
        let output = self
            .command("gimp-console-2.10")
            .args(["-i", "-d", "-s", "--batch-interpreter", "plug-in-script-fu-eval"])
            .args(["-b", &text, "-b", "(gimp-quit 1)"])
            .output()
            .expect("gimp-console starts");
        report(&self.folder, script, &output)
    }

    /// A picture that a script saved.
    fn picture(&self, name: &str) -> image::RgbaImage {
        picture(&self.folder.join(name))
    }
}

#[test]
fn every_kind_of_layer_gets_its_result_above_it() {
    if !can_run(&["gimp-console-2.10"]) {
        return;
    }
    let account = Account::new("layers");
    account.run_script("layers.scm", "");
    let (before, after) = (account.picture("before.png"), account.picture("after.png"));
    assert!(before == after, "the source's pixels changed");
    let result = account.picture("result.png");
    let alpha = |picture: &image::RgbaImage| picture.pixels().map(|pixel| pixel[3]).collect::<Vec<_>>();
    assert_eq!(alpha(&result), alpha(&before), "the result's alpha is the source's");
    assert!(alpha(&before).contains(&0) && alpha(&before).contains(&255), "the source is half transparent");
    assert!(result != before, "nothing was edited");
}

/// What the README's first command leaves in demo/.
#[test]
fn the_demo_shows_the_result_over_the_picture() {
    if !can_run(&["gimp-console-2.10"]) {
        return;
    }
    let account = Account::new("demo");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = account
        .command("gimp-console-2.10")
        .env("IMAGIC_IN", root.join("models/samples/demo.png"))
        .env("IMAGIC_PNG", account.folder.join("demo.png"))
        .env("IMAGIC_XCF", "")
        .env("IMAGIC_PROMPT", "a photo of a blue car on a sandy beach")
        .env("IMAGIC_ETA", "0")
        .args(["-i", "-d", "-f", "-s", "--batch-interpreter", "plug-in-script-fu-eval"])
        .args(["-b", &format!("(load {:?})", root.join("installer/demo.scm")), "-b", "(gimp-quit 0)"])
        .output()
        .expect("gimp-console starts");
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("imagic-demo: done"), "{said}");
    let both = account.picture("demo.png");
    let (w, h) = both.dimensions();
    // At eta 0 the mask hides all of the result.
    let equal = (0..h).all(|y| (0..w / 2).all(|x| both.get_pixel(x, y).0[..3] == both.get_pixel(x + w / 2, y).0[..3]));
    assert!(equal, "what the mask hides is not the picture below");
}

#[test]
fn a_document_remembers_its_edits_and_another_eta_reuses_the_tuned_model() {
    if !can_run(&["gimp-console-2.10"]) {
        return;
    }
    let account = Account::new("memory");
    let lines = account.run_script("memory.scm", "");
    let image = told(&lines, "image ");
    let runs = image["runs"].as_array().expect("a list of runs");
    let seen: Vec<_> = runs.iter().map(|run| (run["params"]["eta"].as_f64(), run["tuned"].as_str())).collect();
    let (now, disk) = (Some("now"), Some("on_disk"));
    assert_eq!(seen, [(Some(0.6), now), (Some(1.1), disk), (Some(0.0), disk), (Some(0.6), now)]);
    assert_eq!(runs[0]["params"].as_object().map(|params| params.len()), Some(imagic_edit::params::PARAMS.len()));
    assert!(runs.iter().all(|run| run["source"] == runs[0]["source"]), "a result was taken for a source");
    assert_eq!(told(&lines, "layer ")["params"], runs[1]["params"]);
    assert_eq!(told(&lines, "opened "), image, "the document forgot something in its file");
    let reused = told(&lines, "reused ");
    assert_eq!(reused["document"], image["document"]);
    assert_eq!(reused["runs"][4]["tuned"], json!("on_disk"));
    assert!(account.picture("again.png") == account.picture("first.png"), "the same settings gave another picture");
    assert!(account.picture("third.png") != account.picture("first.png"), "eta has no effect");
}

#[test]
fn a_picture_the_model_cannot_draw_is_edited_and_a_message_says_so() {
    if !can_run(&["gimp-console-2.10"]) {
        return;
    }
    let account = Account::new("hint");
    let about = account.folder.join("data/imagic-edit/models/scenes-64/imagic.json");
    let preset = json!({ "embedding_steps": 1, "tuning_steps": 1, "sampling_steps": 1 });
    fs::write(about, json!({ "familiar_psnr": 200, "preset": preset }).to_string()).expect("our own file");
    account.run_script("hint.scm", "");
    let console = fs::read_to_string(account.folder.join("console.txt")).expect("it was just written");
    let message = "this picture is unlike what the base model can draw";
    assert_eq!(console.matches(message).count(), 1, "{console}");
}

#[test]
fn what_cannot_be_done_is_refused_with_the_remedy() {
    if !can_run(&["gimp-console-2.10"]) {
        return;
    }
    let account = Account::new("refusals");
    let call =
        |layer: &str, arguments: &str| format!("(plug-in-imagic-edit RUN-NONINTERACTIVE image {layer} {arguments})");
    let with = |arguments: &str| call("layer", arguments);
    let cases = [
        (with(r#"" " "" 0.7 0 0 """#), "the target text is empty; write what the picture should become"),
        (with(r#""x" "" 3 0 0 """#), "eta is 3.0, must be 0 to 2"),
        (with(r#""x" "" 0.7 -1 0 """#), "seed is -1, must be a whole number from 0 to 2147483647"),
        (with(r#""x" "nothing" 0.7 0 0 """#), "no such model in"),
        (with(r#""x" "/nothing/there" 0.7 0 0 """#), "there is no such file or folder"),
        (with(r#""x" "model.ckpt" 0.7 0 0 """#), "pickled checkpoints can run code when opened"),
        (with(r#""x" "" 0.7 0 0 "guidance=3""#), "settings is not a JSON object like"),
        (with(r#""x" "" 0.7 0 0 "{\"eta\": 1}""#), "settings names eta; give eta as the argument eta"),
        (with(r#""x" "" 0.7 0 0 "{\"beta\": 1}""#), "there is no parameter beta; there are prompt, model"),
        (with(r#""x" "" 0.7 0 0 "{\"guidance\": 99}""#), "guidance is 99, must be 1 to 30"),
        (call("mask", r#""x" "" 0.7 0 0 """#), "a layer mask is active; click the layer's picture"),
        (call("channel", r#""x" "" 0.7 0 0 """#), "a channel is active; click a layer"),
        (with(r#""x" "" 0.7 0 0 """#).replace("image layer", "floating-image floating"), "choose Layer > Anchor Layer"),
        (with(r#""x" "" 0.7 0 0 """#).replace("image layer", "indexed dots"), "choose Image > Mode > RGB"),
        (
            with(r#""x" "" 0.7 0 0 """#).replace("image layer", "missed outside"),
            "the selection lies outside of the layer",
        ),
        (with(r#""x" "" 0.7 0 0 """#).replace("NONINTERACTIVE", "WITH-LAST-VALS"), "choose Filters > Imagic Edit once"),
    ];
    let actions: String = cases.iter().map(|(call, _)| format!("(tell (failure (lambda () {call})))\n")).collect();
    fs::write(account.folder.join("cases.scm"), actions).expect("a temporary folder");
    let lines = account.run_script("refusals.scm", "");
    let messages: Vec<_> = lines.iter().filter(|line| !line.starts_with("ok ") && *line != "the end").collect();
    assert_eq!(messages.len(), cases.len(), "{lines:#?}");
    for ((call, wanted), message) in cases.iter().zip(messages) {
        assert!(message.contains(wanted), "{call}\n  said {message}\n  not  {wanted}");
    }
}

/// Many more are in `benches/kills.py`, whose part for GIMP this is.
#[test]
fn kills_of_gimp_or_of_its_plug_in_cost_no_bytes_and_leave_nothing_behind() {
    if !can_run(&["gimp-console-2.10", "python3"]) {
        return;
    }
    let account = Account::new("kills");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut kills = Command::new("python3");
    kills.arg(root.join("benches/kills.py")).args(["--ways", "Gimp", "--kills", "6", "--seed", "3", "--keep", "0"]);
    kills.arg("--program").arg(account.folder.join("profile/plug-ins/imagic-edit/imagic-edit"));
    kills.arg("--model").arg(root.join("tests/fixtures/small-sd1/model"));
    kills.args(["--prompt", "x", "--embedding-steps", "30", "--tuning-steps", "200", "--sampling-steps", "2"]);
    let output = kills.output().expect("python3 starts");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or_default();
    assert!(output.status.success() && last.ends_with(" 0 wrong, 0 files left"), "{said}");
    assert!(!last.contains(" 0 went on"), "every edit began anew: {said}");
}

#[test]
fn the_last_values_come_back() {
    if !can_run(&["gimp-console-2.10"]) {
        return;
    }
    let account = Account::new("last-values");
    let config = account.folder.join("config/imagic-edit");
    fs::create_dir_all(&config).expect("a temporary folder");
    let mut params = imagic_edit::params::Params::paper();
    for (id, value) in [
        ("prompt", json!("a last value")),
        ("eta", json!(1.5)),
        ("embedding_steps", json!(1)),
        ("tuning_steps", json!(1)),
    ] {
        params.set(id, &value).expect("a value in range");
    }
    params.sampling_steps = 1;
    fs::write(config.join("last-values.json"), Value::Object(params.to_json()).to_string())
        .expect("a temporary folder");
    let lines = account.run_script("last-values.scm", "");
    assert_eq!(told(&lines, "image ")["runs"][0]["params"], Value::Object(params.to_json()));
}
