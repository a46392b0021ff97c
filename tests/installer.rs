//! The installer in a home of its own: what it puts where, that a second run changes nothing, and what is left in the
//! end.

mod support;

use std::path::Path;
use std::process::Command;
use support::{Home, finish};

const PLUG_IN: &str = "config/GIMP/2.10/plug-ins/imagic-edit";
const PLUG_IN_3: &str = "config/GIMP/3.0/plug-ins/imagic-edit";
const PLUG_IN_FLATPAK: &str = ".var/app/org.gimp.GIMP/config/GIMP/3.0/plug-ins/imagic-edit";

/// Runs the installer in `home`; it builds with the tools of this account.
fn installer(home: &Home, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = home.command(Path::new(env!("CARGO_MANIFEST_DIR")).join("installer/install.sh"));
    let tools = |name: &str| Path::new(&std::env::var_os("HOME").expect("tests run in an account")).join(name);
    for (variable, folder) in [("CARGO_HOME", tools(".cargo")), ("RUSTUP_HOME", tools(".rustup"))] {
        command.env(variable, std::env::var_os(variable).unwrap_or(folder.into()));
    }
    command.env_remove("SUDO_USER").args(arguments);
    let output = finish(command);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("everything printed is UTF-8"))
}

/// Every file and folder in the home with its mode, and the content's size.
fn tree(home: &Home) -> Vec<String> {
    let mut find = Command::new("find");
    find.args([".", "-mindepth", "1", "-printf", "%M %s %p\n"]).current_dir(&home.folder);
    let output = String::from_utf8(finish(find).stdout).expect("the names are ours");
    let mut lines: Vec<String> = output.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn installing_twice_is_as_once_and_uninstalling_leaves_only_what_the_user_made() {
    if !Path::new("/usr/bin/gimp-console-2.10").exists() {
        assert!(std::env::var("IMAGIC_TEST_GIMP").as_deref() != Ok("1"), "gimp-console-2.10 is not installed");
        return println!("skipped: gimp-console-2.10 is not installed");
    }
    // Two blanks, of which a word that is not quoted makes one.
    let home = Home::new("installer  with blanks");
    // The stand-in for the model is not wanted here.
    std::fs::remove_dir_all(home.folder.join("data")).expect("it was just made");

    // A GIMP 3 that was started before, and one from flatpak.
    for plug_in in [PLUG_IN_3, PLUG_IN_FLATPAK] {
        let profile = home.folder.join(plug_in.trim_end_matches("/plug-ins/imagic-edit"));
        std::fs::create_dir_all(profile).expect("the home is writable");
    }

    let (status, text) = installer(&home, &["--no-packages"]);
    assert_eq!(status, Some(0), "{text}");
    let strewn = home.folder.to_string_lossy().split("  ").next().map(Path::new).is_some_and(Path::exists);
    assert!(!strewn, "the blanks in the home's name divide it");
    let installed = tree(&home);
    for plug_in in [PLUG_IN, PLUG_IN_3, PLUG_IN_FLATPAK] {
        for (file, mode) in [("imagic-edit", "-rwxr-xr-x"), ("libimagic_edit.so", "-rw-r--r--")] {
            let found = installed.iter().find(|line| line.ends_with(&format!("/{plug_in}/{file}")));
            assert!(found.is_some_and(|line| line.starts_with(mode)), "{plug_in}/{file}: {installed:#?}");
        }
    }
    let model = format!("{PLUG_IN_FLATPAK}/models/scenes-64/imagic.json");
    assert!(home.folder.join(model).is_file(), "flatpak's GIMP sees no model: {installed:#?}");
    let mut doctor = home.command(home.folder.join(".local/bin/imagic-edit"));
    doctor.arg("doctor");
    let output = finish(doctor);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));

    let once = tree(&home);
    let (status, text) = installer(&home, &["--no-packages"]);
    assert_eq!((status, tree(&home)), (Some(0), once), "{text}");

    let model = home.folder.join("data/imagic-edit/models/mine");
    std::fs::create_dir_all(&model).expect("the home is writable");
    std::fs::write(model.join("weights"), "mine").expect("the home is writable");
    let (status, text) = installer(&home, &["--uninstall"]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("Kept: "), "{text}");
    std::fs::remove_dir_all(home.folder.join("data/imagic-edit/models")).expect("only the user's model is there");
    let left: Vec<String> = tree(&home).into_iter().filter(|line| line.contains("imagic")).collect();
    assert!(left.len() == 1 && left[0].ends_with("./data/imagic-edit"), "{left:#?}");
    assert!(home.folder.join("config/GIMP/2.10/gradients").is_dir(), "GIMP has no profile of its own");
}

#[test]
fn an_editor_that_is_not_there_is_refused() {
    let home = Home::new("installer-editor");
    if Path::new("/usr/bin/gimp-3.0").exists() {
        return println!("skipped: this machine has GIMP 3");
    }
    let (status, text) = installer(&home, &["--no-packages", "gimp3"]);
    assert!(status == Some(1) && text.contains("there is no GIMP 3 for this account"), "{text}");
}

#[test]
fn an_unknown_option_is_refused() {
    let home = Home::new("installer-usage");
    let (status, text) = installer(&home, &["--uninstal"]);
    assert_eq!(status, Some(2));
    assert!(text.contains("there is no option --uninstal") && text.contains("usage: "), "{text}");
    let (status, text) = installer(&home, &["--binary", "/nowhere"]);
    assert!(status == Some(1) && text.contains("'/nowhere' has not both"), "{text}");
    let (status, text) = installer(&home, &["--help"]);
    assert!(status == Some(0) && text.contains("--demo"), "{text}");
}

#[test]
fn krita_named_alone_is_enabled_beside_what_the_user_chose_and_uninstalling_restores_the_settings() {
    for (before, enabled) in [
        ("[python]\nenable_other=true\n\n[theme]\nTheme=dark\n", "[python]\nenable_imagic=true\nenable_other=true\n"),
        ("[theme]\nTheme=dark\n", "Theme=dark\n\n[python]\nenable_imagic=true\n"),
    ] {
        let home = Home::new("installer-krita");
        std::fs::remove_dir_all(home.folder.join("data")).expect("it was just made");
        for folder in ["data/krita", "config/GIMP/3.0"] {
            std::fs::create_dir_all(home.folder.join(folder)).expect("the home is writable");
        }
        let settings = home.folder.join("config/kritarc");
        std::fs::write(&settings, before).expect("the home is writable");

        let (status, text) = installer(&home, &["--no-packages", "krita"]);
        assert_eq!(status, Some(0), "{text}");
        for file in ["pykrita/imagic.desktop", "pykrita/imagic/__init__.py", "actions/imagic.action"] {
            assert!(home.folder.join("data/krita").join(file).is_file(), "{file}: {text}");
        }
        // The engine is found through it.
        assert!(home.folder.join("data/krita/pykrita/imagic/imagic-edit").is_file(), "{text}");
        assert!(!home.folder.join(PLUG_IN_3).exists(), "GIMP 3 was not named: {text}");
        let now = std::fs::read_to_string(&settings).expect("the settings are there");
        assert!(now.contains(enabled) && now.contains("[theme]\nTheme=dark\n"), "{now}");

        let (status, text) = installer(&home, &["--uninstall"]);
        assert_eq!(status, Some(0), "{text}");
        assert_eq!(std::fs::read_to_string(&settings).expect("the settings are there"), before);
        assert!(!home.folder.join("data/krita/pykrita/imagic").exists(), "{text}");
    }
}
