//! What the tests of the built program and library share: a home of their own, with a model in it.
#![allow(dead_code, reason = "every test uses its own part")]

use image::DynamicImage;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Options that make an edit quick; its picture is not looked at.
pub const QUICK: [&str; 6] = ["--embedding-steps", "2", "--tuning-steps", "2", "--sampling-steps", "2"];

/// A real model with random weights, so small that a step takes milliseconds.
pub fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/small-sd1/model")
}

/// Copies a folder with all that is in it, and the files that links in it lead to.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("temporary folders can be made");
    for entry in std::fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a file that can be copied");
        }
    }
}

/// Puts launcher and library into `folder`, as the installer does.
///
/// The library is the one beside the test program: `cargo test` builds it there and leaves an older one in the folder
/// above.
pub fn install(folder: &Path) {
    let test = std::env::current_exe().expect("the test knows its own file");
    let library = test.with_file_name("libimagic_edit.so");
    std::fs::create_dir_all(folder).expect("temporary folders can be made");
    std::fs::copy(env!("CARGO_BIN_EXE_imagic-edit"), folder.join("imagic-edit")).expect("the launcher can be copied");
    std::fs::copy(library, folder.join("libimagic_edit.so")).expect("the library can be copied");
}

/// An empty home in which a tiny model stands in for the built-in one; removed in the end.
pub struct Home {
    /// Its folder; commands run in it.
    pub folder: PathBuf,
}

impl Home {
    /// `name` differs from test to test.
    pub fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("imagic-{}-{name}", std::process::id()));
        let models = folder.join("data/imagic-edit/models");
        std::fs::create_dir_all(&models).expect("temporary folders can be made");
        std::os::unix::fs::symlink(model(), models.join("scenes-64")).expect("links can be made");
        Self { folder }
    }

    /// Another tiny model, with this `imagic.json`.
    pub fn add_model(&self, name: &str, about: &str) {
        let folder = self.folder.join("data/imagic-edit/models").join(name);
        std::fs::create_dir(&folder).expect("a new folder");
        for part in std::fs::read_dir(model()).expect("the fixture").map(|part| part.expect("a part of the model")) {
            std::os::unix::fs::symlink(part.path(), folder.join(part.file_name())).expect("links can be made");
        }
        std::fs::write(folder.join("imagic.json"), about).expect("the home is writable");
    }

    /// `program` in this home.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .current_dir(&self.folder)
            .env("HOME", &self.folder)
            .env("XDG_CACHE_HOME", self.folder.join("cache"))
            .env("XDG_CONFIG_HOME", self.folder.join("config"))
            .env("XDG_DATA_HOME", self.folder.join("data"))
            .env("XDG_STATE_HOME", self.folder.join("state"))
            .env("LC_ALL", "C.UTF-8")
            .env_remove("LANGUAGE")
            .env_remove("GIMP2_DIRECTORY")
            .env_remove("GIMP3_DIRECTORY")
            .stdin(Stdio::null());
        command
    }

    /// Names of the files in the home, sorted; folders are left out.
    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.folder).expect("the home is there").flatten();
        let files = entries.filter(|entry| entry.path().is_file());
        let mut names: Vec<String> = files.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What cannot be removed is left to the system's cleaning of its temporary folder.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Runs to the end, at most five minutes.
pub fn finish(mut command: Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let started = Instant::now();
    // The outputs are short enough for the pipes, so nobody has to read them meanwhile.
    while child.try_wait().expect("it can be waited for").is_none() {
        if started.elapsed() > Duration::from_secs(300) {
            child.kill().expect("it can be killed");
            panic!("{command:?} did not end in time");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().expect("its output can be read")
}

/// Exit status, standard output, standard error.
pub type Ran = (Option<i32>, String, String);

/// The installed program of this home.
pub fn program(home: &Home) -> PathBuf {
    let folder = home.folder.join("program");
    if !folder.exists() {
        install(&folder);
    }
    folder.join("imagic-edit")
}

/// Runs the installed program of this home.
pub fn run(home: &Home, arguments: &[&str]) -> Ran {
    let mut command = home.command(program(home));
    command.args(arguments);
    output(command)
}

/// Runs to the end.
pub fn output(command: Command) -> Ran {
    let output = finish(command);
    let text = |bytes| String::from_utf8(bytes).expect("everything printed is UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A picture with some of everything: gradients, an edge, alpha from 0 to full.
pub fn picture(width: u32, height: u32) -> DynamicImage {
    let pixel = |x: u32, y: u32| {
        let alpha = (x * 65535 / width.max(2)) as u16;
        image::Rgba([(x * 900) as u16, (y * 700) as u16, if x > y { 60_000 } else { 3_000 }, alpha])
    };
    DynamicImage::ImageRgba16(image::ImageBuffer::from_fn(width, height, pixel))
}

/// Writes a picture into the home; its bytes.
pub fn save(home: &Home, name: &str, picture: &DynamicImage) -> Vec<u8> {
    let path = home.folder.join(name);
    picture.save(&path).expect("the picture can be written");
    std::fs::read(path).expect("it was just written")
}

/// A disk of its own at a folder; taken away in the end.
pub struct SmallDisk(pub PathBuf);

impl SmallDisk {
    /// With these options of tmpfs; `None` after saying "skipped" where none can be made.
    pub fn new(folder: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(folder).expect("the home is writable");
        let made = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(folder)
            .stderr(Stdio::null())
            .status();
        if made.is_ok_and(|status| status.success()) {
            return Some(Self(folder.to_owned()));
        }
        println!("skipped: no disk can be made here; that takes root");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
