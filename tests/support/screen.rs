//! A virtual screen for walks through a program's windows with the keyboard alone.
#![allow(dead_code, reason = "every test uses its own part")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The slowest thing that is waited for: GIMP's start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Programs that it needs.
pub const PROGRAMS: [&str; 4] = ["Xvfb", "openbox", "xdotool", "import"];

/// Title of GIMP's dialog.
pub const DIALOG: &str = "^Imagic Edit$";
/// What fits a laptop's screen of 768 pixels with the window's frame.
pub const HIGHEST: u32 = 740;

/// Title of GIMP's window for an image with so many layers.
pub fn image_with(layers: &str) -> String {
    format!("{layers}\\) .*GIMP")
}

/// Tuned models that are kept for an account, which is this folder.
pub fn tuned_models(account: &Path) -> usize {
    kept(account, "safetensors")
}

/// Tunings of an account that can go on where they were stopped.
pub fn resume_points(account: &Path) -> usize {
    kept(account, "resume")
}

fn kept(account: &Path, ending: &str) -> usize {
    let files = fs::read_dir(account.join("cache/imagic-edit")).into_iter().flatten().flatten();
    files.filter(|file| file.path().extension().is_some_and(|extension| extension == ending)).count()
}

/// `false` after saying "skipped" when one of `programs` is missing; with IMAGIC_TEST_GIMP=1 that is a failure.
pub fn can_run(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| {
        let known = Command::new("which").arg(program).stdout(Stdio::null()).status();
        !known.is_ok_and(|status| status.success())
    });
    if let Some(missing) = missing {
        assert!(std::env::var("IMAGIC_TEST_GIMP").as_deref() != Ok("1"), "{missing} is not installed");
        println!("skipped: {missing} is not installed");
    }
    missing.is_none()
}

/// Whose work is looked at: that of the thread of the windows, or that of the engine as well.
#[derive(Clone, Copy)]
enum Threads {
    Main,
    All,
}

/// The folders of its threads; none where it has ended.
fn threads_of(process: u32) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten().map(|thread| thread.path())
}

/// A virtual screen with a window manager and what is started on it; all end with it.
pub struct Screen {
    home: PathBuf,
    pub display: String,
    /// Where they go.
    pub pictures: PathBuf,
    /// In the order in which they were started.
    programs: Vec<Child>,
}

impl Drop for Screen {
    fn drop(&mut self) {
        // What the programs have started outlives them: a script of GIMP that waits for the test would wait for ever.
        let started: Vec<String> = self.processes().iter().map(u32::to_string).collect();
        // Some have ended on their own.
        let _ = Command::new("kill").arg("-KILL").args(started).stderr(Stdio::null()).status();
        for program in self.programs.iter_mut().rev() {
            // A program that has ended on its own cannot be killed.
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

impl Screen {
    /// Pictures of it go to target/test-output/`name`; its own programs have `home` as home.
    pub fn start(home: &Path, name: &str) -> Self {
        Self::of_size("1280x960", home, name)
    }

    /// The same of another size.
    pub fn of_size(size: &str, home: &Path, name: &str) -> Self {
        let mut server = Command::new("Xvfb")
            // Without -noreset it would drop everybody when the only program that is connected ends.
            .args(["-displayfd", "1", "-noreset", "-screen", "0", &format!("{size}x24")])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Xvfb starts");
        let mut display = String::new();
        let answer = server.stdout.take().expect("a pipe");
        BufReader::new(answer).read_line(&mut display).expect("Xvfb says its number");
        let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("test-output").join(name);
        fs::create_dir_all(&pictures).expect("a folder for pictures");
        let display = format!(":{}", display.trim());
        let mut screen = Self { home: home.to_owned(), display, pictures, programs: vec![server] };
        let window_manager = screen.command("openbox");
        screen.run(window_manager);
        screen
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("HOME", &self.home).env("LC_ALL", "C.UTF-8").env("DISPLAY", &self.display);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Starts a program that runs as long as the screen.
    pub fn run(&mut self, mut command: Command) {
        let started = command.env("DISPLAY", &self.display).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.programs.push(started.unwrap_or_else(|error| panic!("{command:?}: {error}")));
    }

    /// As [`Screen::run`]; what the program says goes to `log`.
    pub fn run_with_log(&mut self, mut command: Command, log: &Path) -> &mut Child {
        let log = fs::File::create(log).expect("the home is writable");
        let output = log.try_clone().expect("an open file");
        let started = command.env("DISPLAY", &self.display).stdout(output).stderr(log).spawn();
        self.programs.push(started.unwrap_or_else(|error| panic!("{command:?}: {error}")));
        self.programs.last_mut().expect("it was just added")
    }

    /// Whether the program that was started last still runs.
    pub fn last_one_runs(&mut self) -> bool {
        self.programs.last_mut().is_some_and(|program| matches!(program.try_wait(), Ok(None)))
    }

    fn xdotool(&self, arguments: &[&str]) -> String {
        let output = self.command("xdotool").args(arguments).output().expect("xdotool runs");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Whether a window's title matches `pattern`.
    pub fn shows(&self, pattern: &str) -> bool {
        !self.xdotool(&["search", "--onlyvisible", "--name", pattern]).is_empty()
    }

    /// Height in pixels of the window with this title, without its frame.
    pub fn height(&self, pattern: &str) -> u32 {
        self.measure(pattern, "HEIGHT=")
    }

    /// The same across.
    pub fn width(&self, pattern: &str) -> u32 {
        self.measure(pattern, "WIDTH=")
    }

    fn measure(&self, pattern: &str, what: &str) -> u32 {
        let told = self.xdotool(&["search", "--onlyvisible", "--name", pattern, "getwindowgeometry", "--shell"]);
        let length = told.lines().find_map(|line| line.strip_prefix(what));
        length.and_then(|length| length.parse().ok()).unwrap_or_else(|| panic!("no {what} of {pattern}: {told}"))
    }

    /// Makes the window with this title so large.
    pub fn resize(&self, pattern: &str, [width, height]: [u32; 2]) {
        let [width, height] = [width, height].map(|length| length.to_string());
        self.xdotool(&["search", "--onlyvisible", "--name", pattern, "windowsize", "--sync", &width, &height]);
        self.settle();
    }

    pub fn wait_until(&self, what: &str, condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < PATIENCE, "{}", self.failure(&format!("{what} did not come")));
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What to say of one: a picture of the screen is kept, and the titles of what is on it, which a log can hold.
    fn failure(&self, what: &str) -> String {
        self.picture("failure");
        let windows = self.xdotool(&["search", "--onlyvisible", "--name", ".", "getwindowname", "%@"]);
        let windows: Vec<_> = windows.lines().collect();
        let active = self.xdotool(&["getactivewindow", "getwindowname"]);
        let pictures = self.pictures.display();
        format!("{what}; the keyboard is with {active:?} of {windows:?}; the screen is in {pictures}")
    }

    /// Gives the keyboard to the window with this title, as Alt+Tab does.
    pub fn activate(&self, pattern: &str) {
        self.wait_until(pattern, || self.shows(pattern));
        self.xdotool(&["search", "--onlyvisible", "--name", pattern, "windowactivate", "--sync"]);
        self.settle();
    }

    /// Types them, each when the one before has been dealt with.
    pub fn keys(&self, keys: &[&str]) {
        for key in keys {
            self.xdotool(&["key", key]);
            std::thread::sleep(Duration::from_millis(150));
            self.wait_while_busy(Threads::Main, Duration::from_millis(50), Duration::from_secs(3));
        }
    }

    pub fn write(&self, text: &str) {
        self.xdotool(&["type", "--delay", "20", text]);
        self.wait_while_busy(Threads::Main, Duration::from_millis(50), Duration::from_secs(3));
    }

    /// Lets the windows draw what was typed, also on a slow machine; while an edit runs they are never done.
    pub fn settle(&self) {
        std::thread::sleep(Duration::from_millis(300));
        // GTK shows a button pressed for a quarter of a second, in which nobody is busy.
        self.wait_while_busy(Threads::Main, Duration::from_millis(400), Duration::from_secs(3));
    }

    /// Waits until what was begun in the background is done.
    pub fn wait_for_work(&self) {
        std::thread::sleep(Duration::from_millis(500));
        let calm = self.wait_while_busy(Threads::All, Duration::from_secs(1), PATIENCE);
        assert!(calm, "{}", self.failure("the end of the work did not come"));
    }

    /// Whether nobody on the screen was busy for as long as `calm` before the end of `patience`. One look in ten may
    /// find somebody busy: the border of a selection moves all the time.
    fn wait_while_busy(&self, threads: Threads, calm: Duration, patience: Duration) -> bool {
        const BETWEEN: Duration = Duration::from_millis(20);
        let (start, needed) = (Instant::now(), calm.as_millis().div_ceil(BETWEEN.as_millis()) as usize);
        let mut looks = std::collections::VecDeque::with_capacity(needed);
        loop {
            looks.push_back(self.is_busy(threads));
            if looks.len() > needed {
                looks.pop_front();
            }
            if looks.len() == needed && looks.iter().filter(|busy| **busy).count() <= needed / 10 {
                return true;
            }
            if start.elapsed() > patience {
                return false;
            }
            std::thread::sleep(BETWEEN);
        }
    }

    /// Whether something that was started on the screen computes, waits for a processor or for a disk.
    fn is_busy(&self, threads: Threads) -> bool {
        let is_busy = |thread: PathBuf| {
            let about = fs::read_to_string(thread.join("stat")).unwrap_or_default();
            // The state is the first letter behind the name, which is in brackets.
            about.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['R', 'D']))
        };
        self.processes().into_iter().any(|process| match threads {
            Threads::Main => is_busy(format!("/proc/{process}").into()),
            Threads::All => threads_of(process).any(is_busy),
        })
    }

    /// What was started on the screen and what that has started.
    fn processes(&self) -> Vec<u32> {
        let mut found: Vec<u32> = self.programs.iter().map(Child::id).collect();
        let mut at = 0;
        while let Some(&process) = found.get(at) {
            for thread in threads_of(process) {
                let children = fs::read_to_string(thread.join("children")).unwrap_or_default();
                found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
            }
            at += 1;
        }
        found
    }

    pub fn picture(&self, name: &str) {
        let file = self.pictures.join(name).with_extension("png");
        let saved = self.command("import").args(["-window", "root"]).arg(&file).status();
        assert!(saved.is_ok_and(|status| status.success()), "no picture {}", file.display());
    }
}
