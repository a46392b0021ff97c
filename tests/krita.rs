//! The plug-in in a real Krita, in a window on a virtual screen: tests/krita/checks.py runs inside as a package of its
//! own.
//!
//! Needs krita, Xvfb, openbox, xdotool and python3. Where one is missing the test says "skipped"; with
//! IMAGIC_TEST_GIMP=1 it fails. Pictures of the screen stay in target/test-output/krita.

#[path = "support/screen.rs"]
mod screen;
mod support;

use screen::{PROGRAMS, Screen, can_run};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use support::{Home, copy_folder, install, run};

/// The longest that all checks together may take.
const PATIENCE: Duration = Duration::from_secs(900);

/// A home with Krita's folders, in which the package lies as the installer puts it, and the checks beside it.
fn home() -> (Home, PathBuf) {
    let home = Home::new("krita");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let data = home.folder.join("data/krita");
    copy_folder(&root.join("plugin-manifest/krita/actions"), &data.join("actions"));
    copy_folder(&root.join("plugin-manifest/krita/pykrita"), &data.join("pykrita"));
    copy_folder(&root.join("plugin-manifest/locale"), &data.join("pykrita/imagic/locale"));
    install(&home.folder.join("program"));
    let program = home.folder.join("program/imagic-edit");
    std::os::unix::fs::symlink(program, data.join("pykrita/imagic/imagic-edit")).expect("a new link");
    let checks = data.join("pykrita/checks");
    fs::create_dir(&checks).expect("a new folder");
    fs::copy(root.join("tests/krita/checks.py"), checks.join("__init__.py")).expect("a new file");
    let about = fs::read_to_string(data.join("pykrita/imagic.desktop")).expect("our own file");
    let about = about.replace("X-KDE-Library=imagic", "X-KDE-Library=checks").replace("Imagic Edit", "Checks");
    fs::write(data.join("pykrita/checks.desktop"), about).expect("a new file");
    fs::create_dir_all(home.folder.join("config")).expect("a temporary folder");
    fs::write(home.folder.join("config/kritarc"), "[python]\nenable_imagic=true\nenable_checks=true\n")
        .expect("a new file");
    home.add_model("drawings", r#"{"photographs": false, "words": ["a", "make", "red", "square"]}"#);
    // A model that cannot be used.
    fs::write(home.folder.join("data/imagic-edit/models/broken.gguf"), "GGUF").expect("a new file");
    let runtime = home.folder.join("run");
    fs::create_dir(&runtime).expect("a temporary folder");
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).expect("our own folder");
    (home, runtime)
}

#[test]
fn every_check_inside_krita_passes_and_quitting_during_an_edit_ends_the_engine() {
    if !can_run(&[&["krita"], PROGRAMS.as_slice()].concat()) {
        return;
    }
    let (home, runtime) = home();
    let mut screen = Screen::start(&home.folder, "krita");
    let mut krita = home.command("krita");
    krita
        .arg("--nosplash")
        .env("XDG_RUNTIME_DIR", runtime)
        .env("LC_ALL", "C.UTF-8")
        .env("IMAGIC_CHECKS", &home.folder)
        .env("IMAGIC_PICTURES", &screen.pictures)
        .env_remove("DBUS_SESSION_BUS_ADDRESS");
    let log = home.folder.join("krita.txt");
    let krita = screen.run_with_log(krita, &log);
    let started = Instant::now();
    let status = loop {
        match krita.try_wait().expect("it can be waited for") {
            Some(status) => break Some(status),
            None if started.elapsed() > PATIENCE => break None,
            None => std::thread::sleep(Duration::from_millis(100)),
        }
    };
    let report = fs::read_to_string(home.folder.join("report.txt")).unwrap_or_default();
    println!("{report}");
    let console = fs::read_to_string(log).unwrap_or_default();
    assert!(report.ends_with("the end\n"), "Krita ended with {status:?} amid the checks\n{report}\n{console}");
    assert!(!report.contains("FAILED"), "{report}\n{console}");
    assert!(report.lines().filter(|line| line.starts_with("ok ")).count() >= 20, "{report}");
    assert!(status.is_some_and(|status| status.success()), "Krita ended with {status:?}\n{console}");

    let engine = report.lines().find_map(|line| line.strip_prefix("engine ")).expect("the last check tells it");
    let process = Path::new("/proc").join(engine);
    let started = Instant::now();
    while process.exists() && started.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!process.exists(), "the engine {engine} outlives Krita");
    // Nothing else has written that the edit went so far: it ran for less than ten seconds.
    let (_, list, _) = run(&home, &["cache", "list"]);
    assert!(list.contains("quit (stopped at step "), "Krita's end was that of the edit: {list}");
}

#[test]
fn what_needs_no_krita_is_right_without_it() {
    if !can_run(&["python3"]) {
        return;
    }
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/krita/test_protocol.py");
    let output = Command::new("python3").arg("-B").arg(tests).output().expect("python3 starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("Ran 3 tests"), "{text}");
}
