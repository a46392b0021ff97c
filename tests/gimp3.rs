//! The plug-in in a real GIMP 3: procedure by Script-Fu in gimp-console, dialog by keyboard in a real window.
//!
//! GIMP 3 runs in a Debian 13 root of its own, made by tests/gimp3/root.sh; IMAGIC_GIMP3_ROOT says where it is
//! (`tests/run` sets it). Without it the tests say "skipped". The window also needs Xvfb, openbox, xdotool and
//! ImageMagick.

#[path = "support/gimp.rs"]
mod gimp;
#[path = "support/screen.rs"]
mod screen;
mod support;
#[path = "gimp3/window.rs"]
mod window;

use gimp::{about_model, picture, report, told};
use serde_json::{Value, json};
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where GIMP keeps the last values of the procedure, in its profile.
const LAST_VALUES: &str = "profile/plug-in-settings/GimpProcedureConfigRun-plug-in-imagic-edit.last";

/// An account of its own with GIMP, plug-in and models, in a folder that is made anew by each test.
pub struct Account {
    /// Home of the account; `profile` in it is GIMP's.
    pub folder: PathBuf,
    root: PathBuf,
}

impl Account {
    /// `name` is the test's; `None` after saying "skipped" when there is no GIMP 3.
    pub fn new(name: &str) -> Option<Self> {
        let Some(root) = std::env::var_os("IMAGIC_GIMP3_ROOT").map(PathBuf::from) else {
            println!("skipped: IMAGIC_GIMP3_ROOT names no root with GIMP 3; as root run tests/gimp3/root.sh FOLDER");
            return None;
        };
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gimp3").join(name);
        // Left by the run before.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a temporary folder");
        // GIMP has looked at all of its own plug-ins in this profile; that would take a minute for each test.
        let copied = Command::new("cp").arg("-a").arg(root.join("imagic-profile")).arg(folder.join("profile")).status();
        assert!(copied.is_ok_and(|status| status.success()), "{} has no profile; make it anew", root.display());
        let account = Self { folder, root };
        let plug_in = account.folder.join("profile/plug-ins/imagic-edit");
        support::install(&plug_in);
        let library = plug_in.join("libimagic_edit.so");
        fs::set_permissions(library, fs::Permissions::from_mode(0o644)).expect("our own file");
        account.add_model("scenes-64", json!({ "embedding_steps": 2, "tuning_steps": 2, "sampling_steps": 2 }));
        Some(account)
    }

    /// Installs the small model of the fixtures under `name`: a copy, because links would lead out of the root.
    pub fn add_model(&self, name: &str, preset: Value) {
        let to = self.folder.join("data/imagic-edit/models").join(name);
        fs::create_dir_all(to.parent().expect("joined to a folder")).expect("a temporary folder");
        let copied = Command::new("cp").arg("-r").arg(support::model()).arg(&to).status();
        assert!(copied.is_ok_and(|status| status.success()), "no model {name}");
        fs::write(to.join("imagic.json"), about_model(&preset)).expect("a new folder");
    }

    /// A command in the root that sees this account only; `display` is a screen of this machine.
    pub fn command(&self, display: &str, program: &[&str]) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gimp3/in-root"));
        let variable = |name: &str, part: &str| format!("{name}={}", self.folder.join(part).display());
        command
            .args([&self.root, &self.folder])
            .args(["/usr/bin/env", "-i", "PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "NO_AT_BRIDGE=1"])
            .arg(format!("DISPLAY={display}"))
            .args([variable("HOME", ""), variable("GIMP3_DIRECTORY", "profile"), variable("XDG_DATA_HOME", "data")])
            .args([variable("XDG_CONFIG_HOME", "config"), variable("XDG_CACHE_HOME", "cache")])
            .args(program)
            .stdin(Stdio::null());
        command
    }

    /// Runs one of the scripts beside this file in gimp-console and returns the lines it told; what GIMP wrote on the
    /// console is in console.txt.
    fn run_script(&self, script: &str) -> Vec<String> {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gimp3");
        let copied = ["../support/report.scm", "check.scm", script].map(|name| {
            let (from, to) = (scripts.join(name), self.folder.join(Path::new(name).file_name().expect("a file")));
            fs::copy(from, &to).expect("a script");
            format!("(load {to:?})")
        });
        let text = format!("(begin (define folder {:?}) {})", self.folder, copied.concat());
        let gimp =
            ["gimp-console-3", "-i", "-d", "-s", "--quit", "--batch-interpreter", "plug-in-script-fu-eval", "-b"];
        let output = self.command("", &[gimp.as_slice(), &[&text]].concat()).output().expect("gimp-console starts");
        report(&self.folder, script, &output)
    }

    /// A picture that a script saved.
    fn picture(&self, name: &str) -> image::RgbaImage {
        picture(&self.folder.join(name))
    }
}

fn alpha(picture: &image::RgbaImage) -> Vec<u8> {
    picture.pixels().map(|pixel| pixel[3]).collect()
}

#[test]
fn every_kind_of_layer_gets_its_result_above_it() {
    let Some(account) = Account::new("layers") else { return };
    let lines = account.run_script("layers.scm");
    let runs = told(&lines, "effects ")["runs"].clone();
    let tuned = [&runs[0]["tuned"], &runs[1]["tuned"], &runs[2]["tuned"]];
    assert_eq!(tuned, ["now", "now", "on_disk"], "an effect was not read");
    let (before, after) = (account.picture("before.png"), account.picture("after.png"));
    assert!(before == after, "the source's pixels changed");
    let result = account.picture("result.png");
    assert_eq!(alpha(&result), alpha(&before), "the result's alpha is the source's");
    assert!(alpha(&before).contains(&0) && alpha(&before).contains(&255), "the source is half transparent");
    assert!(result != before, "nothing was edited");
    assert!(alpha(&account.picture("grouped.png")).iter().all(|&alpha| alpha == 255), "the source's mask was baked in");

    // The selected part of the layer is 10 to 20 both ways.
    let (mask, selected) = (account.picture("mask.png"), account.picture("selected.png"));
    for (x, y, pixel) in mask.enumerate_pixels() {
        let inside = (10..20).contains(&x) && (10..20).contains(&y);
        let middle = (12..18).contains(&x) && (12..18).contains(&y);
        assert!((pixel[0] > 0) == inside && (pixel[0] == 255) >= middle, "the mask at {x}, {y}: {pixel:?}");
        // A gray picture has a curve that a mask has not.
        let alpha = selected.get_pixel(x, y)[3];
        assert_eq!((alpha > 0, alpha < 255), (pixel[0] > 0, pixel[0] < 255), "the result at {x}, {y}");
    }
    assert!(mask.get_pixel(10, 15)[0] < 255, "the border is hard");
    let soft = account.picture("soft-mask.png");
    assert!(soft.pixels().any(|pixel| (1..255).contains(&pixel[0])), "a soft selection gave a hard mask");
}

#[test]
fn a_document_remembers_its_edits_and_another_eta_reuses_the_tuned_model() {
    let Some(account) = Account::new("memory") else { return };
    let lines = account.run_script("memory.scm");
    let image = told(&lines, "image ");
    let runs = image["runs"].as_array().expect("a list of runs");
    let seen: Vec<_> = runs.iter().map(|run| (run["params"]["eta"].as_f64(), run["tuned"].as_str())).collect();
    let (now, disk) = (Some("now"), Some("on_disk"));
    assert_eq!(seen, [(Some(0.6), now), (Some(1.1), disk), (Some(0.0), disk), (Some(0.6), now)]);
    assert_eq!(runs[0]["params"].as_object().map(|params| params.len()), Some(imagic_edit::params::PARAMS.len()));
    assert_eq!(runs[0]["params"]["tuning_steps"], json!(2), "the preset does not count");
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
fn what_cannot_be_done_is_refused_with_the_remedy() {
    let Some(account) = Account::new("refusals") else { return };
    let call = |layers: &str, arguments: &str| {
        format!("(plug-in-imagic-edit #:image image #:drawables (vector {layers}) {arguments})")
    };
    let with = |arguments: &str| call("layer", arguments);
    let cases = [
        (with(r#"#:prompt " ""#), "the target text is empty; write what the picture should become"),
        (with(r#"#:prompt "x" #:eta 3"#), "out of range"),
        (with(r#"#:prompt "x" #:model "nothing""#), "no such model in"),
        (with(r#"#:prompt "x" #:model "/nothing/there""#), "there is no such file or folder"),
        (with(r#"#:prompt "x" #:model "model.ckpt""#), "pickled checkpoints can run code when opened"),
        (
            with(r#"#:prompt "x" #:guidance 3"#),
            "guidance is 3.0, but the preset balanced takes 7.5; set preset to custom",
        ),
        (call("mask", r#"#:prompt "x""#), "a layer mask is active; click the layer's picture"),
        (call("channel", r#"#:prompt "x""#), "a channel is active; click a layer"),
        (call("layer mask", r#"#:prompt "x""#), "2 layers are selected, must be 1; click one layer"),
        (
            with(r#"#:prompt "x""#).replace("image image", "image indexed").replace("layer", "dots"),
            "choose Image > Mode > RGB",
        ),
        (
            with(r#"#:prompt "x""#).replace("image image", "image missed").replace("layer", "outside"),
            "the selection lies outside of the layer",
        ),
        (with("#:run-mode RUN-WITH-LAST-VALS"), "choose Filters > Imagic Edit once"),
    ];
    let actions: String = cases.iter().map(|(call, _)| format!("(tell (failure (lambda () {call})))\n")).collect();
    fs::write(account.folder.join("cases.scm"), actions).expect("a temporary folder");
    let lines = account.run_script("refusals.scm");
    let messages: Vec<_> = lines.iter().filter(|line| !line.starts_with("ok ") && *line != "the end").collect();
    assert_eq!(messages.len(), cases.len(), "{lines:#?}");
    for ((call, wanted), message) in cases.iter().zip(messages) {
        assert!(message.contains(wanted), "{call}\n  said {message}\n  not  {wanted}");
    }
}

#[test]
fn the_last_values_come_back() {
    let Some(account) = Account::new("last-values") else { return };
    let file = account.folder.join(LAST_VALUES);
    fs::create_dir_all(file.parent().expect("joined to a folder")).expect("a temporary folder");
    let values = "(prompt \"a last value\")\n(eta 1.5)\n(seed 3)\n(preset \"custom\")\n(guidance 2.5)\n\
                  (sampling-steps 1)\n(embedding-steps 1)\n(tuning-steps 1)\n(tuning-lr 5e-07)\n";
    fs::write(&file, values).expect("a temporary folder");
    let lines = account.run_script("last-values.scm");
    let params = told(&lines, "image ")["runs"][0]["params"].clone();
    for (id, value) in [
        ("prompt", json!("a last value")),
        ("eta", json!(1.5)),
        ("seed", json!(3)),
        ("guidance", json!(2.5)),
        ("sampling_steps", json!(1)),
        ("tuning_lr", json!(5e-7)),
    ] {
        assert_eq!(params[id], value, "{id}");
    }
}

/// The generated lists of functions, as text: the modules are not public.
const BINDINGS: [&str; 2] = [include_str!("../src/host/gimp3_sys.rs"), include_str!("../src/host/gimp_sys.rs")];

#[test]
fn every_function_exists_in_the_real_libraries() {
    const INSIDE: &str = "IMAGIC_LOOK_FUNCTIONS_UP";
    if std::env::var_os(INSIDE).is_some() {
        let lists = BINDINGS.map(|file| file.split_once("pub const FUNCTIONS").expect("build.rs writes it").1);
        let lines = lists.iter().flat_map(|list| list.lines());
        let names = lines.filter_map(|line| line.trim().strip_prefix("c\"")?.strip_suffix("\","));
        let names: Vec<CString> = names.map(|name| CString::new(name).expect("a C name has no NUL")).collect();
        assert!(names.len() > 100, "{names:?}");
        // SAFETY: opening a shared library runs its initializers, which libgimp and GTK are made for; names are C
        // strings.
        let missing: Vec<_> = unsafe {
            let library = libc::dlopen(c"libgimpui-3.0.so.0".as_ptr(), libc::RTLD_LAZY | libc::RTLD_GLOBAL);
            assert!(!library.is_null(), "no libgimpui-3.0.so.0");
            names.iter().filter(|name| libc::dlsym(library, name.as_ptr()).is_null()).collect()
        };
        assert!(missing.is_empty(), "{missing:?}");
        return;
    }
    let Some(account) = Account::new("symbols") else { return };
    // This test again, where the libraries are.
    let copy = account.folder.join("test");
    fs::copy(std::env::current_exe().expect("the test knows its own file"), &copy).expect("a temporary folder");
    let (inside, copy) = (format!("{INSIDE}=1"), copy.to_str().expect("a path in UTF-8"));
    let output = account.command("", &[&inside, copy, "every_function_exists"]).output().expect("the test starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "nothing was looked up");
}
