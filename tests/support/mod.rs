//! What the tests of the built program and library share: a home of their own, with a model in it.
#![allow(dead_code, reason = "every test uses its own part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Options that make an edit quick; its picture is not looked at.
pub const QUICK: [&str; 6] = ["--embedding-steps", "2", "--tuning-steps", "2", "--sampling-steps", "2"];

/// A real model with random weights, so small that a step takes milliseconds.
pub fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/small-sd1/model")
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
