//! One walk through the dialog with the keyboard alone, in a real window on a virtual screen.
//!
//! The pictures of the screen stay in target/test-output/gimp2. GIMP tells the number of layers in its window's title.

use super::{Account, can_run};
use serde_json::json;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The slowest thing that is waited for: GIMP's start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

const DIALOG: &str = "^Imagic Edit$";

/// A virtual screen with a window manager and GIMP on it; all end with it.
struct Screen<'a> {
    account: &'a Account,
    display: String,
    pictures: PathBuf,
    /// In the order in which they were started.
    programs: Vec<Child>,
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        for program in self.programs.iter_mut().rev() {
            // A program that has ended on its own cannot be killed.
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

impl<'a> Screen<'a> {
    fn start(account: &'a Account) -> Self {
        let mut server = Command::new("Xvfb")
            .args(["-displayfd", "1", "-screen", "0", "1280x960x24"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Xvfb starts");
        let mut display = String::new();
        let answer = server.stdout.take().expect("a pipe");
        BufReader::new(answer).read_line(&mut display).expect("Xvfb says its number");
        let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("test-output").join("gimp2");
        fs::create_dir_all(&pictures).expect("a folder for pictures");
        let display = format!(":{}", display.trim());
        let mut screen = Self { account, display, pictures, programs: vec![server] };
        screen.run("openbox", &[]);
        screen
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.account.command(program);
        command.env("DISPLAY", &self.display).stderr(Stdio::null());
        command
    }

    /// Starts a program that runs as long as the screen.
    fn run(&mut self, program: &str, arguments: &[&str]) {
        let started = self.command(program).args(arguments).stdout(Stdio::null()).spawn();
        self.programs.push(started.unwrap_or_else(|error| panic!("{program}: {error}")));
    }

    fn xdotool(&self, arguments: &[&str]) -> String {
        let output = self.command("xdotool").args(arguments).output().expect("xdotool runs");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Whether a window's title matches `pattern`.
    fn shows(&self, pattern: &str) -> bool {
        !self.xdotool(&["search", "--onlyvisible", "--name", pattern]).is_empty()
    }

    fn wait_until(&self, what: &str, condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            if start.elapsed() > PATIENCE {
                self.picture("failure");
                panic!("{what} did not come; the screen is in {}", self.pictures.display());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Gives the keyboard to the window with this title, as Alt+Tab does.
    fn activate(&self, pattern: &str) {
        self.wait_until(pattern, || self.shows(pattern));
        self.xdotool(&["search", "--onlyvisible", "--name", pattern, "windowactivate", "--sync"]);
        self.settle();
    }

    fn keys(&self, keys: &[&str]) {
        for key in keys {
            self.xdotool(&["key", key]);
            std::thread::sleep(Duration::from_millis(150));
        }
    }

    fn write(&self, text: &str) {
        self.xdotool(&["type", "--delay", "20", text]);
    }

    /// Lets the windows draw what was typed.
    fn settle(&self) {
        std::thread::sleep(Duration::from_millis(700));
    }

    fn picture(&self, name: &str) {
        let file = self.pictures.join(name).with_extension("png");
        let saved = self.command("import").args(["-window", "root"]).arg(&file).status();
        assert!(saved.is_ok_and(|status| status.success()), "no picture {}", file.display());
    }

    fn tuned_models(&self) -> usize {
        let folder = self.account.folder.join("cache/imagic-edit");
        let files = fs::read_dir(folder).into_iter().flatten().flatten();
        files.filter(|file| file.path().extension().is_some_and(|extension| extension == "safetensors")).count()
    }
}

/// Title of GIMP's window for an image with so many layers.
fn image_with(layers: &str) -> String {
    format!("{layers}\\) .*GIMP")
}

#[test]
fn the_dialog_is_usable_with_the_keyboard_alone() {
    if !can_run(&["gimp-2.10", "Xvfb", "openbox", "xdotool", "import"]) {
        return;
    }
    let account = Account::new("window");
    account.add_model("slow", json!({ "embedding_steps": 1, "tuning_steps": 100_000, "sampling_steps": 1 }));
    account.add_model("patient", json!({ "embedding_steps": 1, "tuning_steps": 1500, "sampling_steps": 1 }));
    let photo = account.folder.join("photo.png");
    image::RgbImage::from_fn(320, 240, |x, y| image::Rgb([(x / 2) as u8, y as u8, 120]))
        .save(&photo)
        .expect("a picture");

    let mut screen = Screen::start(&account);
    screen.run("gimp-2.10", &["-n", "-s", "-d", photo.to_str().expect("a path in UTF-8")]);
    let (one, two, three) = (image_with("1 layer"), image_with("2 layers"), image_with("3 layers"));

    // Filters > Imagic Edit... is the last entry of the menu: GIMP's own ones have taken all its letters.
    screen.activate(&one);
    screen.keys(&["alt+r", "End"]);
    screen.settle();
    screen.picture("1-menu");
    screen.keys(&["Return"]);
    screen.activate(DIALOG);
    screen.write("a red square");
    screen.settle();
    screen.picture("2-dialog");
    screen.keys(&["Return"]);
    screen.wait_until("the first result", || screen.shows(&two));
    screen.settle();
    screen.picture("3-first-result");

    // One step of undo, then another strength from the tuned model that is still in memory.
    screen.activate(&two);
    screen.keys(&["ctrl+z"]);
    screen.wait_until("the undo", || screen.shows(&one));
    let tuned = screen.tuned_models();
    screen.activate(DIALOG);
    screen.keys(&["alt+n", "alt+e"]);
    screen.wait_until("the result with another seed", || screen.shows(&two));
    screen.settle();
    screen.picture("4-tuned-model-reused");
    assert_eq!(screen.tuned_models(), tuned, "another seed tuned a model");

    // What cannot be done is said in the dialog.
    screen.keys(&["alt+t", "ctrl+a", "BackSpace", "Return"]);
    screen.settle();
    screen.picture("5-empty-text-refused");
    screen.write("a blue square");

    // Escape stops what runs and leaves dialog and image alone.
    screen.keys(&["alt+m", "ctrl+a"]);
    screen.write("slow");
    screen.keys(&["alt+a"]);
    screen.settle();
    screen.picture("6-advanced");
    screen.keys(&["alt+e"]);
    std::thread::sleep(Duration::from_secs(3));
    screen.picture("7-running");
    screen.keys(&["Escape"]);
    std::thread::sleep(Duration::from_secs(2));
    screen.picture("8-stopped");
    assert!(screen.shows(DIALOG), "Escape closed the dialog while an edit ran");
    assert!(screen.shows(&two), "a stopped edit changed the image");

    // The next Escape closes; opened again, the dialog knows the last edit's values: Enter repeats it.
    screen.keys(&["Escape"]);
    screen.wait_until("the end of the dialog", || !screen.shows(DIALOG));
    screen.activate(&two);
    screen.keys(&["alt+r", "End", "Return"]);
    screen.activate(DIALOG);
    screen.picture("9-opened-again");
    screen.keys(&["Return"]);
    screen.wait_until("the result with the last values", || screen.shows(&three));
    screen.settle();
    screen.picture("10-last-values");
    assert_eq!(screen.tuned_models(), tuned, "the last values are not those of the last edit");

    // The image is closed while an edit runs: a message, no crash.
    screen.activate(DIALOG);
    screen.keys(&["alt+m", "ctrl+a"]);
    screen.write("patient");
    screen.keys(&["alt+e"]);
    screen.settle();
    screen.activate(&three);
    screen.keys(&["ctrl+w"]);
    screen.settle();
    screen.keys(&["ctrl+d"]);
    screen.wait_until("the closed image", || !screen.shows(&three));
    assert_eq!(screen.tuned_models(), tuned, "the edit ended before the image was closed");
    screen.wait_until("the end of the edit", || screen.tuned_models() > tuned);
    std::thread::sleep(Duration::from_secs(2));
    screen.picture("11-image-closed");
    screen.activate(DIALOG);
    screen.keys(&["alt+c"]);
    screen.wait_until("the end of the dialog", || !screen.shows(DIALOG));
    let gimp = screen.programs.last_mut().expect("GIMP was started last");
    assert!(matches!(gimp.try_wait(), Ok(None)), "GIMP is gone");
}
