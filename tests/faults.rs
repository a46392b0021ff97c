//! What may go wrong around an edit, injected: disks, folders, links, streams, files that change meanwhile, and a power
//! cut. Each time the edit is whole or refused with its true cause, and nothing is lost.

mod support;

use image::DynamicImage;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use support::{Home, QUICK, Ran, SmallDisk, copy_folder, finish, install, model, output, picture, program, run, save};

/// An edit whose resume points are written after every step, from `in.png`.
fn edit(home: &Home, options: &[&str]) -> Command {
    let mut command = home.command(program(home));
    command.args(["edit", "--force", "in.png", "--prompt", "x", "--embedding-steps", "5", "--sampling-steps", "2"]);
    command.args(options).env("IMAGIC_RESUME_SECONDS", "0");
    command
}

/// An edit of some seconds.
fn long_edit(home: &Home, options: &[&str]) -> Command {
    edit(home, &[&["-o", "out.png", "--tuning-steps", "120"], options].concat())
}

/// The result of [`long_edit`] where nothing goes wrong.
static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let home = Home::new("faultless");
    save(&home, "in.png", &picture(64, 64));
    let (status, _, messages) = output(long_edit(&home, &[]));
    assert_eq!(status, Some(0), "{messages}");
    result(&home)
});

fn result(home: &Home) -> Vec<u8> {
    std::fs::read(home.folder.join("out.png")).expect("a result")
}

/// Runs `command`, and `fault` as soon as it tunes, which must take long enough to be told: 120 steps do.
fn with_fault(mut command: Command, fault: impl FnOnce()) -> Ran {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines().map_while(Result::ok);
    let mut messages: Vec<String> = Vec::new();
    let mut fault = Some(fault);
    for line in lines.by_ref() {
        messages.push(line);
        if messages.last().is_some_and(|line| line.starts_with("B: ")) {
            (fault.take().expect("the loop ends with it"))();
            break;
        }
    }
    messages.extend(lines);
    assert!(fault.is_none(), "it was through before it told of stage B: {messages:?}");
    let output = child.wait_with_output().expect("it ends");
    (output.status.code(), String::from_utf8(output.stdout).expect("it is UTF-8"), messages.join("\n"))
}

/// `command` with its streams as the shell's `redirection` says.
fn redirected(command: &Command, redirection: &str) -> Command {
    let mut shell = Command::new("/bin/bash");
    shell.args(["-c", &format!("\"$@\" {redirection}"), "sh"]).arg(command.get_program()).args(command.get_args());
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.current_dir(command.get_current_dir().expect("it runs in the home"));
    shell
}

#[test]
fn whoever_reads_no_messages_stops_no_edit() {
    let home = Home::new("streams");
    save(&home, "in.png", &picture(16, 16));
    let etas = ["-o", "out.png", "--eta", "0.5", "--eta", "1", "--tuning-steps", "3"];
    let outputs = ["out-eta0.50.png", "out-eta1.00.png"].map(|name| home.folder.join(name));
    let read = || outputs.each_ref().map(|path| std::fs::read(path).expect("a result"));
    assert_eq!(output(edit(&home, &etas)).0, Some(0));
    let whole = read();
    let remove = || outputs.iter().for_each(|path| std::fs::remove_file(path).expect("it is ours"));
    for redirection in ["2>&-", "2>/dev/full", "2> >(exec <&-; sleep 1)", ">&- 2>&-"] {
        remove();
        assert_eq!(output(redirected(&edit(&home, &etas), redirection)).0, Some(0), "{redirection}");
        assert!(read() == whole, "{redirection}: other bytes");
    }
    let with_report = [etas.as_slice(), &["--json"]].concat();
    for (redirection, expected) in [(">&-", 0), ("> >(exec <&-; sleep 1)", 0), (">/dev/full", 1)] {
        remove();
        let (status, _, messages) = output(redirected(&edit(&home, &with_report), redirection));
        assert_eq!(status, Some(expected), "{redirection}: {messages}");
        assert!(read() == whole, "{redirection}: other bytes");
        let told = messages.contains("cannot write standard output: No space left on device");
        assert_eq!(told, expected == 1, "{redirection}: {messages}");
    }
    // A failure stays one, and not a crash.
    for (arguments, expected) in
        [(["edit", "none.png", "-o", "out.png", "--prompt", "x"].as_slice(), 1), (&["edti"], 2)]
    {
        let mut command = home.command(program(&home));
        command.args(arguments);
        assert_eq!(output(redirected(&command, "2>/dev/full")).0, Some(expected), "{arguments:?}");
    }
}

/// `imagic-edit serve` with an edit of 400 x 400 pixels that it was asked for, four bytes each: more than a pipe holds.
fn serve(home: &Home, stdout: Stdio) -> Child {
    let mut command = home.command(program(home));
    command.arg("serve").stdin(Stdio::piped()).stdout(stdout).stderr(Stdio::null());
    let mut child = command.spawn().expect("it starts");
    let message = serde_json::json!({
        "do": "edit", "job": 1, "width": 400, "height": 400, "format": "rgba8", "bytes": 640_000,
        "params": { "prompt": "x", "embedding_steps": 2, "tuning_steps": 2, "sampling_steps": 2 },
    });
    let input = child.stdin.as_mut().expect("it is piped");
    input.write_all(format!("{message}\n").as_bytes()).expect("it reads");
    input.write_all(&[77; 640_000]).expect("it reads");
    child
}

/// Waits at most a minute.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(60), "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn cached(home: &Home, ending: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(home.folder.join("cache/imagic-edit")).into_iter().flatten().flatten();
    let files = files.map(|file| file.path());
    files.filter(|file| file.extension().is_some_and(|extension| extension == ending)).collect()
}

#[test]
fn serve_ends_with_its_input_whatever_its_output_does() {
    for (what, expected) in [("nobody reads", 0), ("closed", 1), ("full", 1)] {
        let home = Home::new("serve-output");
        let full = std::fs::File::options().write(true).open("/dev/full").expect("Linux has it");
        let mut child = serve(&home, if what == "full" { full.into() } else { Stdio::piped() });
        if what == "closed" {
            drop(child.stdout.take());
        }
        wait_until("the tuned model", || !cached(&home, "safetensors").is_empty());
        assert!(child.try_wait().expect("it can be waited for").is_none(), "{what}: it ended before its input");
        drop(child.stdin.take());
        let mut status = None;
        wait_until("its end", || {
            status = child.try_wait().expect("it can be waited for");
            status.is_some()
        });
        assert_eq!(status.and_then(|status| status.code()), Some(expected), "{what}");
    }
    // What was asked for before the end of the input is still told to whoever reads slowly.
    let home = Home::new("serve-slow-reader");
    let mut child = home.command(program(&home));
    child.arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = child.spawn().expect("it starts");
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all("{\"do\":\"models\"}\n".repeat(300).as_bytes()).expect("it reads");
    drop(input);
    std::thread::sleep(Duration::from_millis(500));
    let mut told = String::new();
    child.stdout.take().expect("it is piped").read_to_string(&mut told).expect("it is UTF-8");
    assert_eq!(told.lines().filter(|line| line.contains("\"event\":\"models\"")).count(), 300);
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn room_for_the_result_is_there_before_the_tuning_or_the_edit_is_refused() {
    let home = Home::new("small-output");
    // 640 KB that do not compress.
    let noise = |x: u32, y: u32| {
        let random =
            (x * 7919 + y * 104_729 + 1).wrapping_mul(2_654_435_761).rotate_left(13).wrapping_mul(2_246_822_519);
        image::Rgba(random.to_le_bytes())
    };
    save(&home, "in.png", &DynamicImage::ImageRgba8(image::ImageBuffer::from_fn(400, 400, noise)));
    let folder = home.folder.join("small");
    let options = ["-o", "small/out.png", "--tuning-steps", "3"];
    {
        let Some(_disk) = SmallDisk::new(&folder, "size=300k") else { return };
        let (status, _, messages) = output(edit(&home, &options));
        assert_eq!(status, Some(1), "{messages}");
        let reason =
            "cannot write small/out.png: it takes up to 0.6 MB, and 0.3 MB are free; free some space on this disk";
        assert!(messages.contains(reason) && !messages.contains("A: "), "{messages}");
    }
    {
        // Somebody else fills the disk while it tunes.
        let Some(_disk) = SmallDisk::new(&folder, "size=1m") else { return };
        let (status, _, messages) = with_fault(edit(&home, &["-o", "small/out.png", "--tuning-steps", "120"]), || {
            let mut other = std::fs::File::create(folder.join("other")).expect("there is room for a name");
            while other.write_all(&[1; 4096]).is_ok() {}
        });
        assert_eq!(status, Some(0), "{messages}");
        assert!(image::open(folder.join("out.png")).is_ok_and(|picture| picture.width() == 400));
        assert_eq!(std::fs::read_dir(&folder).expect("the disk").count(), 2, "something else is left");
    }
    {
        // The cache is on the same disk, where only the result has room.
        let Some(_disk) = SmallDisk::new(&folder, "size=900k") else { return };
        let mut command = edit(&home, &["-o", "small/out.png", "--tuning-steps", "3", "--seed", "2"]);
        command.env("XDG_CACHE_HOME", folder.join("cache"));
        let (status, _, messages) = output(command);
        assert_eq!(status, Some(0), "{messages}");
        assert!(image::open(folder.join("out.png")).is_ok_and(|picture| picture.width() == 400));
        let note = "note: the tuned model is kept only until this program closes: cannot write ";
        assert!(messages.contains(note) && messages.contains("free some space on this disk"), "{messages}");
    }
}

#[test]
fn a_result_that_finds_no_place_in_the_end_lies_elsewhere_and_the_other_ones_follow() {
    let home = Home::new("lost-folder");
    save(&home, "in.png", &picture(64, 64));
    let (folder, elsewhere) = (home.folder.join("results"), home.folder.join("elsewhere"));
    for folder in [&folder, &elsewhere] {
        std::fs::create_dir(folder).expect("a new folder");
    }
    let mut command = edit(&home, &["-o", "results/out.png", "--tuning-steps", "120", "--eta", "0.5", "--eta", "1"]);
    command.env("TMPDIR", &elsewhere);
    let (status, _, messages) = with_fault(command, || std::fs::remove_dir(&folder).expect("nothing is in it"));
    assert_eq!(status, Some(1), "{messages}");
    assert!(messages.contains("cannot write results/out-eta1.00.png: No such file or directory"), "{messages}");
    for name in ["out-eta0.50", "out-eta1.00"] {
        let line = messages.lines().find(|line| line.starts_with("wrote ") && line.contains(name));
        let path = line.and_then(|line| line["wrote ".len()..].split(" (eta").next());
        let path = Path::new(path.unwrap_or_else(|| panic!("{name}: {messages}")));
        assert!(path.starts_with(&elsewhere), "{}", path.display());
        assert!(image::open(path).is_ok_and(|picture| picture.width() == 64), "{}", path.display());
    }
}

#[test]
fn a_cache_folder_that_goes_or_cannot_be_written_costs_no_edit_and_the_cause_is_said() {
    let not_kept = "the tuned model is kept only until this program closes: ";
    // (what happens to it, what is said)
    let cases = [
        ("it is removed", ""),
        ("a file takes its place", "File exists (os error 17); a file is in the place of a folder; move it away"),
        ("a file was there before", "File exists (os error 17); a file is in the place of a folder; move it away"),
        (
            "its disk can only be read",
            "Read-only file system (os error 30); this disk can only be read; use another one",
        ),
    ];
    for (what, said) in cases {
        let home = Home::new("cache-folder");
        save(&home, "in.png", &picture(64, 64));
        let folder = home.folder.join("cache/imagic-edit");
        let replace = || {
            // The edit makes the folder anew meanwhile.
            while std::fs::write(&folder, "not a folder").is_err() {
                let _ = std::fs::remove_dir_all(&folder);
            }
        };
        std::fs::create_dir_all(folder.parent().expect("the home's cache")).expect("the home is writable");
        let mut disk = None;
        match what {
            "a file was there before" => replace(),
            "its disk can only be read" => {
                disk = SmallDisk::new(&folder, "ro");
                if disk.is_none() {
                    continue;
                }
            }
            _ => {}
        }
        let (status, _, messages) = with_fault(long_edit(&home, &[]), || match what {
            // Again where it was just being written into.
            "it is removed" => wait_until("the folder's end", || std::fs::remove_dir_all(&folder).is_ok()),
            "a file takes its place" => replace(),
            _ => {}
        });
        assert_eq!(status, Some(0), "{what}: {messages}");
        assert!(result(&home) == *WHOLE, "{what}: other bytes");
        let note = messages.lines().find(|line| line.contains(not_kept));
        assert_eq!(note.is_some(), !said.is_empty(), "{what}: {messages}");
        assert!(note.is_none_or(|note| note.contains(said)), "{what}: {messages}");
        assert!(!messages.contains("free some space"), "{what}: {messages}");
        drop(disk);
    }
}

#[test]
fn pipes_and_devices_are_refused_and_never_waited_for() {
    let home = Home::new("pipes");
    save(&home, "in.png", &picture(16, 16));
    let pipe = |path: &Path| {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("the home is writable");
        let made = Command::new("mkfifo").arg(path).status().expect("mkfifo is there");
        assert!(made.success());
    };
    pipe(&home.folder.join("pipe.png"));
    symlink("/dev/zero", home.folder.join("device.png")).expect("links can be made");
    let refused = |input: &str, out: &str, options: &[&str], reason: &str| {
        let arguments = [&["edit", input, "--prompt", "x", "-o", out], options, &QUICK].concat();
        let (status, _, messages) = run(&home, &arguments);
        assert_eq!(status, Some(1), "{input} {out} {options:?}: {messages}");
        assert!(messages.contains(reason), "{input} {out} {options:?}: {messages}");
    };
    for input in ["pipe.png", "device.png"] {
        refused(input, "out.png", &[], &format!("{input} is a pipe or a device; name a picture file"));
    }
    refused("in.png", "pipe.png", &[], "pipe.png is a pipe or a device; name another file");
    pipe(&home.folder.join("model.safetensors"));
    refused("in.png", "out.png", &["--model", "model.safetensors"], "model.safetensors");
    let models = home.folder.join("data/imagic-edit/models");
    for (name, part) in [("a", "unet/config.json"), ("b", "imagic.json"), ("c", "tokenizer/vocab.json")] {
        copy_folder(&model(), &models.join(name));
        let _ = std::fs::remove_file(models.join(name).join(part));
        pipe(&models.join(name).join(part));
        refused("in.png", "out.png", &["--model", name], "");
    }
    // What is read beside an edit is as if it were not there.
    for name in ["cache/imagic-edit/digests.json", "cache/imagic-edit/pace.json", "cache/imagic-edit/.gate"] {
        pipe(&home.folder.join(name));
    }
    for name in ["settings.json", "last-values.json"] {
        pipe(&home.folder.join("config/imagic-edit").join(name));
    }
    let (status, _, messages) =
        run(&home, &[&["edit", "in.png", "--prompt", "x", "-o", "out.png"], &QUICK[..]].concat());
    assert_eq!(status, Some(0), "{messages}");
}

#[test]
fn links_that_somebody_has_planted_are_not_followed() {
    let home = Home::new("planted");
    save(&home, "in.png", &picture(16, 16));
    let victim = home.folder.join("victim");
    std::fs::write(&victim, "precious").expect("the home is writable");
    let quick = [&["edit", "--force", "in.png", "--prompt", "x", "-o", "out.png"], &QUICK[..]].concat();
    assert_eq!(run(&home, &quick).0, Some(0));
    let key = cached(&home, "safetensors")[0].file_stem().expect("a key").to_string_lossy().into_owned();
    for name in ["cache", "config"] {
        let folder = home.folder.join(name).join("imagic-edit");
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("the home is writable");
        let endings = ["safetensors", "resume", "lock", "bad"].map(|ending| format!("{key}.{ending}"));
        let names = [".gate", "digests.json", "pace.json", "settings.json", "last-values.json"].map(str::to_owned);
        for name in endings.into_iter().chain(names) {
            symlink(&victim, folder.join(name)).expect("links can be made");
        }
    }
    std::fs::remove_file(home.folder.join("out.png")).expect("it is ours");
    symlink(&victim, home.folder.join("out.png")).expect("links can be made");
    for seconds in ["0", "10"] {
        let mut command = home.command(program(&home));
        command.args(&quick).env("IMAGIC_RESUME_SECONDS", seconds);
        let (status, _, messages) = output(command);
        assert_eq!(status, Some(0), "{messages}");
    }
    assert_eq!(run(&home, &["cache", "limit", "1GB"]).0, Some(0));
    let mut serve = home.command(program(&home));
    serve.arg("serve").stdin(Stdio::piped()).stdout(Stdio::null());
    let mut serve = serve.spawn().expect("it starts");
    let remember = b"{\"do\":\"remember\",\"params\":{\"prompt\":\"x\"}}\n";
    serve.stdin.take().expect("it is piped").write_all(remember).expect("it reads");
    assert!(serve.wait().expect("it ends").success());
    assert_eq!(run(&home, &["cache", "clear"]).0, Some(0));
    assert_eq!(std::fs::read(&victim).expect("it is there"), b"precious");
    assert!(home.folder.join("out.png").symlink_metadata().expect("a result").is_file());
}

#[test]
fn paths_may_hold_blanks_and_bytes_that_are_no_text() {
    let home = Home::new("odd-paths");
    save(&home, "in.png", &picture(16, 16));
    let odd = |name: &str| home.folder.join(OsStr::from_bytes(&[name.as_bytes(), b" \xff\n'\" "].concat()));
    let (input, result) = (odd("in").with_extension("png"), odd("out").with_extension("png"));
    std::fs::rename(home.folder.join("in.png"), &input).expect("it is ours");
    let data = odd("data");
    std::fs::rename(home.folder.join("data"), &data).expect("it is ours");
    let odd_program = odd("program");
    install(&odd_program);
    let oddly = |mut command: Command| {
        command.env("XDG_DATA_HOME", &data).env("XDG_CACHE_HOME", odd("cache"));
        command.env("XDG_CONFIG_HOME", odd("config")).env("XDG_STATE_HOME", odd("state"));
        command
    };
    for tuned in ["tuned now", "tuned earlier"] {
        let mut command = oddly(home.command(odd_program.join("imagic-edit")));
        command.args(["edit", "--force"]).arg(&input).arg("-o").arg(&result).args(["--prompt", "x"]).args(QUICK);
        let output = finish(command);
        let messages = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{messages}");
        assert!(messages.contains(tuned), "{messages}");
        assert!(image::open(&result).is_ok_and(|picture| picture.width() == 16));
    }
    for command in [["cache", "list"], ["models", "--json"]] {
        let mut program = oddly(home.command(odd_program.join("imagic-edit")));
        program.args(command);
        assert_eq!(finish(program).status.code(), Some(0), "{command:?}");
    }
    let names: Vec<OsString> =
        std::fs::read_dir(&home.folder).expect("the home").flatten().map(|file| file.file_name()).collect();
    assert!(names.iter().all(|name| name.as_bytes().contains(&0xff)), "something was put elsewhere: {names:?}");
}

#[test]
fn a_model_that_is_deleted_or_replaced_meanwhile_is_tuned_to_the_end() {
    for what in ["deleted", "replaced"] {
        let home = Home::new("model-gone");
        save(&home, "in.png", &picture(64, 64));
        let own = home.folder.join("own");
        copy_folder(&model(), &own);
        let (status, _, messages) = with_fault(long_edit(&home, &["--model", "own"]), || {
            std::fs::remove_dir_all(&own).expect("it is ours");
            if what == "replaced" {
                copy_folder(&model().with_file_name("../small-sd2/model"), &own);
            }
        });
        assert_eq!(status, Some(0), "{what}: {messages}");
        assert!(result(&home) == *WHOLE, "{what}: other bytes");
        let (status, _, messages) = output(long_edit(&home, &["--model", "own"]));
        let expected = if what == "deleted" { Some(1) } else { Some(0) };
        assert_eq!(status, expected, "{what}: {messages}");
        assert!(!messages.contains("tuned earlier"), "{what}: the other model's tuning was used: {messages}");
    }
}

/// A power cut drops what was not synced: so everything is, before it gets the name under which it is found, and the
/// name itself afterwards.
#[test]
fn what_a_power_cut_may_drop_has_no_name_yet() {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        println!("skipped: strace is not installed");
        return;
    }
    let home = Home::new("power");
    save(&home, "in.png", &picture(16, 16));
    let log = home.folder.join("log");
    let edit = edit(&home, &["-o", "out.png", "--tuning-steps", "3"]);
    let mut strace = home.command("strace");
    strace.args(["-f", "-y", "-qq", "-s", "0", "-e", "trace=write,pwrite64,fsync,fdatasync,rename,renameat,renameat2"]);
    strace.arg("-o").arg(&log).arg(edit.get_program()).args(edit.get_args()).env("IMAGIC_RESUME_SECONDS", "0");
    let (status, _, messages) = output(strace);
    if status != Some(0) && messages.contains("ptrace") {
        println!("skipped: nothing can be traced here");
        return;
    }
    assert_eq!(status, Some(0), "{messages}");
    let log = std::fs::read_to_string(&log).expect("a log");
    // Files that hold what is not synced, and folders that hold names that are not.
    let (mut dirty, mut unnamed) = (Vec::<String>::new(), Vec::<String>::new());
    let (mut renamed, mut named) = (Vec::<String>::new(), 0);
    for line in log.lines().filter(|line| !line.contains(" resumed>")) {
        let Some((call, rest)) = line.split_once(' ').and_then(|(_, call)| call.trim_start().split_once('(')) else {
            continue;
        };
        // With -y a descriptor is 3</path>.
        let path = || rest.split_once('<').and_then(|(_, path)| path.split_once('>')).map_or("", |(path, _)| path);
        match call {
            "write" | "pwrite64" => dirty.push(path().to_owned()),
            "fsync" | "fdatasync" => {
                dirty.retain(|file| file != path());
                named += unnamed.len();
                unnamed.retain(|folder| folder != path());
                named -= unnamed.len();
            }
            _ => {
                let names: Vec<&str> = rest.split('"').skip(1).step_by(2).collect();
                let [from, to] = names[..] else { panic!("{line}") };
                let own = from.trim_start_matches("./");
                assert!(!dirty.iter().any(|file| file.ends_with(own)), "not synced before it got its name: {line}");
                let folder = Path::new(to).parent().expect("a folder");
                let folder = if folder.as_os_str().is_empty() { &home.folder } else { folder };
                unnamed.push(folder.canonicalize().expect("it is there").to_string_lossy().into_owned());
                renamed.push(to.to_owned());
            }
        }
    }
    for ending in ["out.png", ".safetensors", ".resume", "pace.json"] {
        assert!(renamed.iter().any(|to| to.ends_with(ending)), "{ending} was not written: {renamed:?}");
    }
    assert_eq!((unnamed, named), (Vec::new(), renamed.len()), "names that were not synced");
}
