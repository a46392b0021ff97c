//! The packages of a release, as installer/package makes them of the program that was built for the tests: the same
//! bytes twice, installed in fresh Debians and in a Krita, an edit, and nothing left in the end.
//!
//! Debian 12 and 13 lie in roots of their own, made by tests/gimp3/root.sh: IMAGIC_GIMP2_ROOT and IMAGIC_GIMP3_ROOT
//! say where they are (`tests/run` sets them).

#[path = "support/screen.rs"]
mod screen;
mod support;

use screen::{PROGRAMS, Screen, can_run};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use support::Home;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The longest that a Krita may take to start, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// What installer/package needs of this machine.
const PACKING: [&str; 5] = ["dpkg-deb", "objdump", "strip", "zip", "zstd"];

/// Runs it to the end, which has to be a good one; what it printed.
fn good(mut command: Command) -> String {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{shown}: {error}"));
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{shown}\n{text}");
    text
}

/// The program with its arguments.
fn command(program: impl AsRef<Path>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program.as_ref());
    command.args(arguments);
    command
}

fn temporary(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages").join(name);
    // Left by the run before.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a temporary folder");
    folder
}

/// Makes the packages in the folder `name`.
fn make(name: &str) -> PathBuf {
    let folder = temporary(name);
    support::install(&folder.join("binary"));
    let to = folder.join("dist");
    let mut package = Command::new(Path::new(ROOT).join("installer/package"));
    good({
        package.arg("--binary").arg(folder.join("binary")).arg("--to").arg(&to);
        package
    });
    to
}

/// Made once for all tests.
static PACKAGES: LazyLock<PathBuf> = LazyLock::new(|| make("first"));

/// The package whose name ends so.
fn package(end: &str) -> PathBuf {
    let entries = fs::read_dir(&*PACKAGES).expect("it was just made").map(|entry| entry.expect("an entry").path());
    let mut found = entries.filter(|path| path.to_string_lossy().ends_with(end));
    found.next().unwrap_or_else(|| panic!("no package {end}"))
}

#[test]
fn two_runs_make_the_same_bytes_and_every_package_has_the_notices() {
    if !can_run(&PACKING) {
        return;
    }
    let sums = |folder: &Path| fs::read_to_string(folder.join("SHA256SUMS")).expect("checksums");
    let second = make("second");
    assert_eq!(sums(&PACKAGES), sums(&second));
    assert_eq!(sums(&second).lines().count(), 4, "a package, an archive, Krita's, and the list of parts");
    let mut check = command("sha256sum", &["--check", "--strict", "SHA256SUMS"]);
    check.current_dir(&second);
    good(check);

    let lists: [(&str, &str, &[&str]); 3] = [
        ("_amd64.deb", "dpkg-deb", &["--contents"]),
        (".tar.zst", "tar", &["--zstd", "-tf"]),
        ("-krita-linux-x86_64.zip", "python3", &["-m", "zipfile", "-l"]),
    ];
    for (end, program, arguments) in lists {
        let mut list = command(program, arguments);
        list.arg(package(end));
        let list = good(list);
        for file in ["THIRD-PARTY.txt", "imagic-edit", "libimagic_edit.so", "imagic.desktop", "scenes-64/imagic.json"] {
            assert!(list.contains(file), "{end} lacks {file}\n{list}");
        }
        assert!(!list.contains(".pyc"), "{list}");
    }
}

#[test]
fn lintian_finds_no_error_in_the_deb() {
    if can_run(&PACKING) && can_run(&["lintian"]) {
        let mut lintian = command("lintian", &["--allow-root", "--fail-on", "error"]);
        lintian.arg(package(".deb"));
        println!("{}", good(lintian));
    }
}

#[test]
fn the_list_of_parts_names_what_the_notices_name_and_the_version() {
    if !can_run(&PACKING) {
        return;
    }
    let list: serde_json::Value =
        serde_json::from_slice(&fs::read(package(".cdx.json")).expect("a file")).expect("JSON");
    assert_eq!(list["bomFormat"], "CycloneDX");
    assert_eq!(list["metadata"]["component"]["version"], env!("CARGO_PKG_VERSION"));
    let notices = fs::read_to_string(Path::new(ROOT).join("installer/THIRD-PARTY.txt")).expect("the notices");
    let parts = list["components"].as_array().expect("a list");
    assert!(parts.len() > 100, "only {} parts", parts.len());
    for part in parts {
        let named =
            format!("\n{} {}: ", part["name"].as_str().expect("a name"), part["version"].as_str().expect("one"));
        assert!(notices.contains(&named), "{named}");
        assert_eq!(part["hashes"][0]["content"].as_str().map(str::len), Some(64), "{part}");
    }
    let named = notices.lines().skip(3).take_while(|line| !line.is_empty()).count();
    assert_eq!(parts.len(), named);
}

/// A folder for one of tests/packages in the Debian that the variable names: with a picture and a profile of its GIMP.
/// `None` after saying "skipped".
fn debian(variable: &str, name: &str) -> Option<(PathBuf, PathBuf)> {
    let Some(root) = std::env::var_os(variable).map(PathBuf::from) else {
        println!("skipped: {variable} names no root with a GIMP; as root run tests/gimp3/root.sh FOLDER");
        return None;
    };
    if !can_run(&PACKING) {
        return None;
    }
    let folder = temporary(name);
    for entry in fs::read_dir(Path::new(ROOT).join("tests/packages")).expect("a folder") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, folder.join(path.file_name().expect("a name"))).expect("a temporary folder");
    }
    fs::copy(Path::new(ROOT).join("models/samples/car-on-beach.png"), folder.join("in.png")).expect("a picture");
    let mut profile = command("cp", &["-a"]);
    profile.arg(root.join("imagic-profile")).arg(folder.join("profile"));
    good(profile);
    Some((root, folder))
}

/// Runs the script in the root, as this account or as an ordinary one; what it printed.
fn run_in(root: &Path, folder: &Path, script: &str, ordinary: bool) -> String {
    let mut command = Command::new(Path::new(ROOT).join("tests/packages/in-fresh-root"));
    command.args([root, folder]).args(["/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"]);
    if ordinary {
        good({
            let mut owner = Command::new("chown");
            owner.args(["-R", "1000:1000"]).arg(folder);
            owner
        });
        command.args(["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"]);
    }
    command.arg(folder.join(script)).arg(folder);
    good(command)
}

/// The edit has changed the picture, and not its size.
fn assert_edited(folder: &Path) {
    let open = |name: &str| {
        let path = folder.join(name);
        image::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into_rgb8()
    };
    let (before, after) = (open("in.png"), open("out.png"));
    assert_eq!(before.dimensions(), after.dimensions());
    let moved = before.as_raw().iter().zip(after.as_raw()).filter(|(a, b)| a.abs_diff(**b) > 8).count();
    assert!(moved > before.as_raw().len() / 100, "{moved} values moved: this is no edit");
}

#[test]
fn the_deb_edits_in_the_gimps_of_debian_12_and_13_and_leaves_nothing() {
    for (variable, name) in [("IMAGIC_GIMP2_ROOT", "deb 12"), ("IMAGIC_GIMP3_ROOT", "deb 13")] {
        let Some((root, folder)) = debian(variable, &name.replace(' ', "-")) else { continue };
        let deb = package(".deb");
        fs::copy(&deb, folder.join(deb.file_name().expect("a name"))).expect("a temporary folder");
        let text = run_in(&root, &folder, "deb.sh", false);
        assert!(text.contains("\nnothing is left\n") && !text.contains("WRONG"), "{text}");
        assert_edited(&folder);
    }
}

#[test]
fn the_archive_edits_in_the_gimps_of_debian_12_and_13_without_root_and_leaves_nothing() {
    for (variable, name) in [("IMAGIC_GIMP2_ROOT", "archive-12"), ("IMAGIC_GIMP3_ROOT", "archive-13")] {
        let Some((root, folder)) = debian(variable, name) else { continue };
        fs::create_dir(folder.join("package")).expect("a temporary folder");
        let mut unpack = command("tar", &["--zstd", "--strip-components=1", "-xf"]);
        unpack.arg(package(".tar.zst")).arg("-C").arg(folder.join("package"));
        good(unpack);
        let text = run_in(&root, &folder, "tarball.sh", true);
        assert!(text.contains("\nnothing is left\n") && !text.contains("WRONG"), "{text}");
        assert_edited(&folder);
    }
}

/// Puts the package tests/packages/krita.py into Krita's resources below `data`, and enables it and ours in `config`.
fn put_checks(data: &Path, config: &Path) {
    let checks = data.join("krita/pykrita/checks");
    fs::create_dir_all(&checks).expect("a temporary folder");
    fs::copy(Path::new(ROOT).join("tests/packages/krita.py"), checks.join("__init__.py")).expect("a new file");
    let about = fs::read_to_string(Path::new(ROOT).join("plugin-manifest/krita/pykrita/imagic.desktop"));
    let about = about.expect("our own file").replace("X-KDE-Library=imagic", "X-KDE-Library=checks");
    fs::write(checks.with_extension("desktop"), about.replace("Imagic Edit", "Checks")).expect("a new file");
    fs::create_dir_all(config).expect("a temporary folder");
    fs::write(config.join("kritarc"), "[python]\nenable_imagic=true\nenable_checks=true\n").expect("a new file");
}

/// Starts `krita` on a screen of its own and waits until the checks have ended it: they find the menu entry, and an
/// engine that has the built-in model.
fn assert_serves(home: &Home, name: &str, krita: Command) {
    let report = krita.get_envs().find(|(name, _)| *name == "IMAGIC_REPORT").and_then(|(_, file)| file);
    let (report, log) = (PathBuf::from(report.expect("Krita was told")), home.folder.join("krita.txt"));
    let mut screen = Screen::start(&home.folder, name);
    let krita = screen.run_with_log(krita, &log);
    let started = Instant::now();
    let mut ended = false;
    while !ended && started.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(100));
        ended = krita.try_wait().expect("it can be waited for").is_some();
    }
    let told = fs::read_to_string(&report).unwrap_or_default();
    let console = fs::read_to_string(log).unwrap_or_default();
    assert!(ended && told == "menu True\nmodels scenes-64\n", "{told}\n{console}");
}

/// `start`, which starts Krita in this home; it writes its report and its own things to `folder`.
fn krita(home: &Home, mut start: Command, folder: &Path) -> Command {
    let runtime = folder.join("run");
    fs::create_dir_all(&runtime).expect("a temporary folder");
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).expect("our own folder");
    start.arg("--nosplash").env("XDG_RUNTIME_DIR", runtime).env("IMAGIC_REPORT", folder.join("report.txt"));
    start.current_dir(&home.folder).env_remove("DBUS_SESSION_BUS_ADDRESS");
    start
}

/// A home without models of its own.
fn empty_home(name: &str) -> Home {
    let home = Home::new(name);
    fs::remove_dir_all(home.folder.join("data")).expect("it was just made");
    home
}

fn can_run_krita() -> bool {
    can_run(&PACKING) && can_run(&[&["krita"], PROGRAMS.as_slice()].concat())
}

#[test]
fn what_krita_s_own_importer_unpacks_serves_krita() {
    const IMPORTER: &str = "/usr/share/krita/pykrita/plugin_importer/plugin_importer.py";
    if !can_run_krita() {
        return;
    }
    let home = empty_home("packages-krita");
    let resources = home.folder.join("data/krita");
    fs::create_dir_all(&resources).expect("the home is writable");
    let mut import = command("python3", &[IMPORTER]);
    import.arg(package("-krita-linux-x86_64.zip")).arg(&resources);
    assert!(good(import).contains("Imported plugin: Imagic Edit"));
    assert!(resources.join("actions/imagic.action").is_file());
    put_checks(&home.folder.join("data"), &home.folder.join("config"));
    let krita = krita(&home, home.command("krita"), &home.folder);
    assert_serves(&home, "krita-zip", krita);
}

#[test]
fn what_the_deb_puts_for_the_whole_machine_serves_krita() {
    if !can_run_krita() {
        return;
    }
    let home = empty_home("packages-krita-deb");
    let mut unpack = command("dpkg-deb", &["--extract"]);
    unpack.arg(package(".deb")).arg(home.folder.join("system"));
    good(unpack);
    put_checks(&home.folder.join("data"), &home.folder.join("config"));
    let mut krita = krita(&home, home.command("krita"), &home.folder);
    let shared = format!("{}:/usr/local/share:/usr/share", home.folder.join("system/usr/share").display());
    krita.env("XDG_DATA_DIRS", shared);
    assert_serves(&home, "krita-deb", krita);
}

#[test]
fn gimp_and_krita_of_a_flatpak_edit_with_what_their_sandbox_lets_them_see() {
    if !can_run_krita() || !can_run(&["bwrap", "gimp-console-2.10"]) {
        return;
    }
    let home = empty_home("packages-flatpak");
    let (gimp, paint) = ("org.gimp.GIMP", "org.kde.krita");
    let own = |app: &str| home.folder.join(".var/app").join(app);
    // A GIMP that was started before, in its flatpak and out of it.
    for profile in [own(gimp).join("config/GIMP/2.10"), home.folder.join("config/GIMP/2.10")] {
        fs::create_dir_all(profile).expect("the home is writable");
    }
    fs::create_dir_all(own(paint).join("data/krita")).expect("the home is writable");
    let mut unpack = command("tar", &["--zstd", "--strip-components=1", "-xf"]);
    fs::create_dir(home.folder.join("package")).expect("the home is writable");
    unpack.arg(package(".tar.zst")).arg("-C").arg(home.folder.join("package"));
    good(unpack);
    let install = |arguments: &[&str]| {
        let mut install = home.command(home.folder.join("package/install.sh"));
        install.env_remove("SUDO_USER").args(arguments);
        good(install)
    };
    install(&["--no-packages", "gimp2", "krita"]);
    // What the sandbox does not see would be an installation of the account's.
    let in_flatpak = |app: &str, program: &str| {
        let mut sandbox = home.command(Path::new(ROOT).join("tests/packages/in-flatpak"));
        sandbox.arg(app).arg(&home.folder).arg(program);
        sandbox
    };

    let folder = own(gimp);
    for name in ["edit-in-gimp", "gimp-console-2.scm"] {
        fs::copy(Path::new(ROOT).join("tests/packages").join(name), folder.join(name)).expect("the home is writable");
    }
    fs::copy(Path::new(ROOT).join("models/samples/car-on-beach.png"), folder.join("in.png")).expect("a picture");
    let mut edit = in_flatpak(gimp, &folder.join("edit-in-gimp").to_string_lossy());
    edit.args([folder.join("in.png"), folder.join("out.png")]);
    good(edit);
    assert_edited(&folder);
    let tuned = fs::read_dir(folder.join("cache/imagic-edit")).expect("the flatpak's own cache").count();
    assert!(tuned > 0, "nothing was kept");

    put_checks(&own(paint).join("data"), &own(paint).join("config"));
    assert_serves(&home, "krita-flatpak", krita(&home, in_flatpak(paint, "krita"), &own(paint)));

    install(&["--uninstall", "--purge"]);
    let mut find = command("find", &[".var", "(", "-path", "*imagic*", "-o", "-name", "scenes-64", ")", "-print"]);
    find.current_dir(&home.folder);
    assert_eq!(good(find), "", "left in the flatpaks");
}
