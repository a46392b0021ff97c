//! The models of a user: listed, added, removed, checked, found in other programs' folders, and downloaded from a
//! server that does all that servers do.

mod support;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{Home, QUICK, finish, install, model};

/// Exit status, standard output, standard error.
type Ran = (Option<i32>, String, String);

fn command(home: &Home, arguments: &[&str]) -> Command {
    let folder = home.folder.join("program");
    if !folder.exists() {
        install(&folder);
    }
    let mut command = home.command(folder.join("imagic-edit"));
    command.args(arguments);
    for name in
        ["HF_HOME", "HF_HUB_CACHE", "HF_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
    {
        command.env_remove(name);
    }
    command
}

fn output(command: Command) -> Ran {
    let output = finish(command);
    let text = |bytes| String::from_utf8(bytes).expect("everything printed is UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn run(home: &Home, arguments: &[&str]) -> Ran {
    output(command(home, arguments))
}

/// What a command that works prints.
fn done(home: &Home, arguments: &[&str]) -> String {
    let (status, out, messages) = run(home, arguments);
    assert_eq!(status, Some(0), "{arguments:?}: {out} {messages}");
    out
}

/// What a command that fails says.
fn failed(home: &Home, arguments: &[&str]) -> String {
    let (status, out, messages) = run(home, arguments);
    assert_eq!(status, Some(1), "{arguments:?}: {out} {messages}");
    messages
}

/// `text` as it was before it was cut into lines.
fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A copy of the tiny model.
fn put_model(folder: &Path) {
    for (name, bytes) in files() {
        put(&folder.join(name), &bytes);
    }
}

fn put(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(path, bytes).expect("the home is writable");
}

/// The files of the tiny model, by name.
fn files() -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for part in ["", "scheduler", "text_encoder", "tokenizer", "unet", "vae"] {
        for entry in std::fs::read_dir(model().join(part)).expect("the fixture").flatten() {
            let name = Path::new(part).join(entry.file_name()).to_string_lossy().into_owned();
            if entry.path().is_file() {
                files.push((name, std::fs::read(entry.path()).expect("the fixture")));
            }
        }
    }
    files
}

fn models(home: &Home) -> Value {
    serde_json::from_str(&done(home, &["models", "--json"])).expect("it prints JSON")
}

/// The row of the model `name`.
fn row(home: &Home, name: &str) -> Value {
    let models = models(home);
    let found = models["models"].as_array().expect("rows").iter().find(|row| row["name"] == name).cloned();
    found.unwrap_or_else(|| panic!("{name} is not among {models}"))
}

#[test]
fn a_model_is_added_made_the_default_and_forgotten_and_its_files_stay() {
    let home = Home::new("managed-add");
    let place = home.folder.join("elsewhere/My Turbo Model");
    put_model(&place);
    put(&place.join("README.md"), b"---\nlicense: openrail\n---\nmore\n");
    let path = place.to_str().expect("UTF-8");
    assert!(done(&home, &["models", "add", path]).contains("My Turbo Model is in the list now (Stable Diffusion 1,"));
    assert!(failed(&home, &["models", "add", path]).contains("in the list already: added"));
    let added = row(&home, "My Turbo Model");
    assert_eq!((&added["origin"], &added["family"]), (&json!("added"), &json!("Stable Diffusion 1")));
    assert_eq!((&added["licence"], &added["few_steps"]), (&json!("openrail"), &json!(true)));
    assert_eq!((&added["prediction_type"], &added["problem"]), (&json!("epsilon"), &Value::Null));
    assert!(added["bytes"].as_u64() > Some(100_000) && added["resolution"].as_u64() > Some(0), "{added}");
    let list = in_one_line(&done(&home, &["models", "list"]));
    assert!(list.contains("licence: openrail") && list.contains("made for a few sampling steps"), "{list}");
    assert!(list.contains("scenes-64 (default)"), "{list}");

    done(&home, &["models", "default", "My Turbo Model"]);
    assert_eq!(done(&home, &["models", "default"]), "My Turbo Model\n");
    let picture = home.folder.join("in.png");
    image::RgbaImage::from_pixel(16, 16, image::Rgba([200, 100, 50, 255])).save(&picture).expect("a picture");
    let edit = [&["edit", "in.png", "--prompt", "x", "-o", "o.png", "--json", "--private"], &QUICK[..]].concat();
    let (status, out, messages) = run(&home, &edit);
    assert!(status == Some(0) && messages.contains("hint: It was made for a few sampling steps"), "{messages}");
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(report["outputs"][0]["params"]["model"], "My Turbo Model");
    let away = place.with_file_name("away");
    std::fs::rename(&place, &away).expect("the home is writable");
    assert!(failed(&home, &edit).contains("models default NAME"));
    assert!(row(&home, "My Turbo Model")["problem"].as_str().is_some_and(|problem| problem.contains("no such file")));
    std::fs::rename(&away, &place).expect("the home is writable");

    assert!(done(&home, &["models", "remove", "My Turbo Model"]).contains("stays"));
    assert!(place.join("unet/config.json").exists());
    assert_eq!(done(&home, &["models", "default"]), "scenes-64\n");
    assert!(failed(&home, &["models", "remove", "My Turbo Model"]).contains("no such model"));
    assert!(failed(&home, &["models", "remove", "scenes-64"]).contains("the built-in model stays"));
    let missing = home.folder.join("none").display().to_string();
    assert!(failed(&home, &["models", "add", &missing]).contains("there is no such file or folder"));
    put(&home.folder.join("lora.gguf"), b"GGUF");
    assert!(failed(&home, &["models", "add", "lora.gguf"]).contains("GGUF files cannot be trained"));

    // Nothing of the user's is overwritten.
    let registry = home.folder.join("config/imagic-edit/models.json");
    put(&registry, b"{");
    for arguments in [&["models"][..], &["models", "add", path], &["models", "default", "scenes-64"]] {
        assert!(failed(&home, arguments).contains("models.json is damaged"), "{arguments:?}");
    }
    assert_eq!(std::fs::read(&registry).expect("it is there"), b"{");
    let (status, ..) = run(&home, &["models", "burn"]);
    assert_eq!(status, Some(2));
}

#[test]
fn a_path_may_be_any_bytes() {
    let home = Home::new("managed-bytes");
    let place = home.folder.join(std::ffi::OsStr::from_bytes(b"m\xff%41 odel"));
    put_model(&place);
    let mut add = command(&home, &["models", "add"]);
    add.arg(&place);
    let (status, _, messages) = output(add);
    assert_eq!(status, Some(0), "{messages}");
    let name = models(&home)["models"][0]["name"].as_str().expect("a name").to_owned();
    assert!(name.starts_with("file:///") && name.ends_with("/m%FF%2541%20odel"), "{name}");
    let picture = home.folder.join("in.png");
    image::RgbaImage::from_pixel(16, 16, image::Rgba([200, 100, 50, 255])).save(&picture).expect("a picture");
    // As bytes, and as the text that lists and recipes have.
    for model in [place.as_os_str(), name.as_ref()] {
        let mut edit =
            command(&home, &["edit", "--force", "in.png", "--prompt", "x", "-o", "o.png", "--json", "--model"]);
        edit.arg(model).args(QUICK);
        let (status, out, messages) = output(edit);
        assert_eq!(status, Some(0), "{messages}");
        let report: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(report["outputs"][0]["params"]["model"], name);
    }
    done(&home, &["models", "remove", &name]);
    assert!(place.exists());
}

#[test]
fn models_of_other_programs_are_offered_where_they_lie() {
    let home = Home::new("managed-others");
    put_model(&home.folder.join("ComfyUI/models/checkpoints/sd/small"));
    put_model(&home.folder.join("hub/models--some--body/snapshots/abc"));
    // As large as a checkpoint, without taking the room.
    let large = home.folder.join("stable-diffusion-webui/models/Stable-diffusion/big.ckpt");
    put(&large, b"PK\x03\x04");
    std::fs::File::options()
        .write(true)
        .open(&large)
        .and_then(|file| file.set_len(400_000_000))
        .expect("a sparse file");
    put(&large.with_file_name("little.safetensors"), b"x");
    let list = |home: &Home| {
        let mut command = command(home, &["models", "--json"]);
        command.env("HF_HUB_CACHE", home.folder.join("hub"));
        let (status, out, messages) = output(command);
        assert_eq!(status, Some(0), "{messages}");
        let models: Value = serde_json::from_str(&out).expect("JSON");
        let row = |row: &Value| {
            let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            (text("name"), text("origin"), text("problem").chars().take(7).collect::<String>())
        };
        models["models"].as_array().expect("rows").iter().map(row).collect::<Vec<_>>()
    };
    let expected = [
        ("scenes-64", "installed", ""),
        ("small", "found in ComfyUI", ""),
        ("big.ckpt", "found in A1111", "pickled"),
        ("some/body", "found in Hugging Face", ""),
    ];
    let expected = expected.map(|(name, origin, problem)| (name.into(), origin.into(), problem.into()));
    assert_eq!(list(&home), expected);
    // And again, from what is remembered of the headers.
    let headers = home.folder.join("cache/imagic-edit/headers.json");
    assert!(std::fs::read_to_string(&headers).expect("remembered").contains("pickled checkpoints"));
    assert_eq!(list(&home), expected);
    assert!(done(&home, &["models", "check", "small"]).contains("ok     small: Stable Diffusion 1"));
    assert!(failed(&home, &["models", "remove", "small"]).contains("small belongs to ComfyUI"));
    let (status, out, _) = run(&home, &["models", "check", &large.display().to_string()]);
    assert!(status == Some(1) && in_one_line(&out).contains("big.ckpt: pickled checkpoints"), "{out}");
}

/// A request that has come: its first line and its headers, in lower case.
#[derive(Clone, Debug)]
struct Asked {
    line: String,
    headers: String,
}

impl Asked {
    /// From where on it wants a file.
    fn from(&self) -> usize {
        let from = self.headers.split("range: bytes=").nth(1).and_then(|rest| rest.split('-').next()?.parse().ok());
        from.unwrap_or(0)
    }
}

/// What a server does with a request.
enum Act {
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// As `Answer`, but after so many bytes of the body it hangs up.
    Cut(u16, Vec<(&'static str, String)>, Vec<u8>, usize),
    /// As `Answer`, but so many bytes every tenth of a second.
    Drip(Vec<(&'static str, String)>, Vec<u8>, usize),
    Silence,
}

/// A server on this machine.
struct Server {
    address: String,
    log: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// `None` where this machine has no loopback; says so.
    fn start(act: impl Fn(&Asked, usize) -> Act + Send + Sync + 'static) -> Option<Self> {
        if !has_loopback() {
            println!("skipped: the loopback interface is down and only root can bring it up");
            return None;
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let log = Arc::new(Mutex::new(Vec::new()));
        let (kept, act) = (log.clone(), Arc::new(act));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, act) = (kept.clone(), act.clone());
                std::thread::spawn(move || serve(stream, &kept, &*act));
            }
        });
        Some(Self { address, log })
    }

    /// The requests whose first line has `part`.
    fn asked(&self, part: &str) -> Vec<Asked> {
        let log = self.log.lock().expect("no panic");
        log.iter().filter(|asked| asked.line.contains(part)).cloned().collect()
    }
}

/// One connection; a file is asked for and sent, and then it ends.
fn serve(stream: TcpStream, log: &Mutex<Vec<Asked>>, act: &dyn Fn(&Asked, usize) -> Act) {
    let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
    loop {
        let mut lines = Vec::new();
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|read| read > 0) && line.trim_end() != "" {
            lines.push(line.trim_end().to_owned());
            line.clear();
        }
        let Some((first, headers)) = lines.split_first() else { return };
        let asked = Asked { line: first.clone(), headers: headers.join("\n").to_lowercase() };
        let number = {
            let mut log = log.lock().expect("no panic");
            log.push(asked.clone());
            let path = |asked: &Asked| asked.line.split(' ').nth(1).map(str::to_owned);
            log.iter().filter(|known| path(known) == path(&asked)).count() - 1
        };
        let mut out = &stream;
        if asked.line.starts_with("CONNECT ") {
            // A proxy, which is the other end as well.
            let _ = out.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            continue;
        }
        let head = |status: u16, headers: &[(&str, String)], length: usize| {
            let mut head = format!("HTTP/1.1 {status} x\r\nConnection: close\r\n");
            headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
            if !headers.iter().any(|(name, _)| ["Content-Length", "No-Length"].contains(name)) {
                head += &format!("Content-Length: {length}\r\n");
            }
            head + "\r\n"
        };
        match act(&asked, number) {
            Act::Answer(status, headers, body) => {
                let _ = out.write_all(head(status, &headers, body.len()).as_bytes());
                let _ = out.write_all(&body);
            }
            Act::Cut(status, headers, body, bytes) => {
                let _ = out.write_all(head(status, &headers, body.len()).as_bytes());
                let _ = out.write_all(&body[..bytes.min(body.len())]);
            }
            Act::Drip(headers, body, bytes) => {
                let _ = out.write_all(head(200, &headers, body.len()).as_bytes());
                for chunk in body.chunks(bytes) {
                    if out.write_all(chunk).is_err() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
            Act::Silence => std::thread::sleep(Duration::from_secs(5)),
        }
        return;
    }
}

/// Whether connections within this machine work. `tests/run` starts tests where the loopback is down, as root.
fn has_loopback() -> bool {
    let works = || {
        let listener = TcpListener::bind("127.0.0.1:0").ok()?;
        TcpStream::connect_timeout(&listener.local_addr().ok()?, Duration::from_secs(2)).ok()
    };
    if works().is_some() {
        return true;
    }
    // SAFETY: a socket of our own, and a structure that the kernel reads and fills.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
        let mut request: libc::ifreq = std::mem::zeroed();
        (request.ifr_name[0], request.ifr_name[1]) = (b'l' as libc::c_char, b'o' as libc::c_char);
        libc::ioctl(socket, libc::SIOCGIFFLAGS, &raw mut request);
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request);
        libc::close(socket);
    }
    works().is_some()
}

const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// The page of the tiny model.
fn page() -> Value {
    let file = |(name, bytes): &(String, Vec<u8>)| match name.ends_with(".safetensors") {
        true => {
            json!({ "rfilename": name, "size": bytes.len(), "lfs": { "sha256": sha256(bytes), "size": bytes.len() } })
        }
        false => json!({ "rfilename": name, "size": bytes.len() }),
    };
    let mut siblings: Vec<Value> = files().iter().map(file).collect();
    // None of these is wanted, and some lead out of the folder.
    for name in ["../evil.json", "unet/../../evil.txt", "/evil.json", "README.md", "unet/diffusion_pytorch_model.bin"] {
        siblings.push(json!({ "rfilename": name, "size": 1 }));
    }
    json!({ "sha": "abc", "cardData": { "license": "openrail" }, "siblings": siblings })
}

fn json_answer(value: &Value) -> Act {
    Act::Answer(200, vec![("Content-Type", "application/json".into())], value.to_string().into_bytes())
}

/// What an honest server does: the page, and files, also from the middle on.
fn honest(asked: &Asked) -> Act {
    if asked.line.contains("/api/models/") {
        return json_answer(&page());
    }
    let found = files().into_iter().find(|(name, _)| asked.line.contains(&format!("/resolve/abc/{name} ")));
    match found {
        Some((_, bytes)) if asked.from() > 0 => {
            let range = format!("bytes {}-{}/{}", asked.from(), bytes.len() - 1, bytes.len());
            Act::Answer(206, vec![("Content-Range", range)], bytes[asked.from()..].to_vec())
        }
        Some((_, bytes)) => Act::Answer(200, Vec::new(), bytes),
        None => Act::Answer(404, vec![("X-Error-Code", "EntryNotFound".into())], Vec::new()),
    }
}

fn unet() -> Vec<u8> {
    files().into_iter().find(|(name, _)| name == UNET).expect("it has one").1
}

/// `models download` of what the server has, with little patience.
fn download(home: &Home, server: &Server, what: &str) -> Ran {
    let mut command = command(home, &["models", "download", what, "--yes"]);
    command.env("HF_ENDPOINT", &server.address).env("NO_PROXY", "127.0.0.1").env("IMAGIC_DOWNLOAD_SECONDS", "0.5");
    output(command)
}

fn folder(home: &Home) -> PathBuf {
    home.folder.join("data/imagic-edit/models")
}

/// What lies in the folder of models besides the built-in one.
fn names(home: &Home) -> Vec<String> {
    let entries = std::fs::read_dir(folder(home)).expect("the folder").flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name != "scenes-64");
    names.sort();
    names
}

/// A download that fails for `reason` and leaves nothing under the model's name.
fn refused(home: &Home, server: &Server, what: &str, reason: &str) {
    let (status, out, messages) = download(home, server, what);
    assert_eq!(status, Some(1), "{out} {messages}");
    assert!(messages.contains(reason), "{reason}: {messages}");
    assert!(names(home).iter().all(|name| name.starts_with(".download-")), "{:?}", names(home));
}

#[test]
fn a_download_is_checked_listed_and_deleted_again() {
    let Some(server) = Server::start(|asked, _| honest(asked)) else { return };
    let home = Home::new("managed-download");
    let (status, _, messages) = output({
        let mut command = command(&home, &["models", "download", "some/body"]);
        command.env("HF_ENDPOINT", &server.address).env("NO_PROXY", "127.0.0.1");
        command
    });
    assert!(
        status == Some(2) && messages.contains("add --yes") && messages.contains("licence: openrail"),
        "{messages}"
    );
    assert!(names(&home).is_empty(), "nothing comes before the licence is accepted");
    let (status, out, messages) = download(&home, &server, "some/body");
    assert!(status == Some(0) && out.contains("--model body"), "{out} {messages}");
    assert_eq!(names(&home), ["body"]);
    assert!(!folder(&home).join("evil.txt").exists() && !folder(&home).join("body/README.md").exists());
    assert_eq!(std::fs::read(folder(&home).join("body").join(UNET)).expect("it is there"), unet());
    let body = row(&home, "body");
    assert_eq!((&body["origin"], &body["licence"]), (&json!("downloaded from some/body"), &json!("openrail")));
    refused_again(&home, &server);
    assert!(in_one_line(&done(&home, &["models", "check"])).contains("as it was downloaded"));
    done(&home, &["models", "default", "body"]);

    // A flipped bit.
    let path = folder(&home).join("body").join(UNET);
    let mut bytes = unet();
    *bytes.last_mut().expect("bytes") ^= 1;
    put(&path, &bytes);
    let (status, out, _) = run(&home, &["models", "check", "body"]);
    assert!(status == Some(1) && in_one_line(&out).contains("is not as it was downloaded"), "{out}");

    put(&folder(&home).join("body/mine.txt"), b"mine");
    let (status, _, messages) = run(&home, &["models", "remove", "body"]);
    assert!(status == Some(2) && messages.contains("Delete ") && path.exists(), "{messages}");
    assert!(done(&home, &["models", "remove", "body", "--yes"]).contains("deleted "));
    assert_eq!(std::fs::read_dir(folder(&home).join("body")).expect("not ours").count(), 1, "what is not ours stays");
    assert_eq!(done(&home, &["models", "default"]), "scenes-64\n");
}

fn refused_again(home: &Home, server: &Server) {
    let (status, _, messages) = download(home, server, "some/body");
    assert!(status == Some(1) && messages.contains("is there already"), "{messages}");
}

#[test]
fn what_was_cut_goes_on_where_it_was_also_another_time() {
    let third = unet().len() / 3;
    let Some(cutting) = Server::start(move |asked, number| match honest(asked) {
        Act::Answer(status, headers, body) if asked.line.contains(UNET) && number < 2 => {
            Act::Cut(status, headers, body, third)
        }
        act => act,
    }) else {
        return;
    };
    let home = Home::new("managed-cut");
    let (status, _, messages) = download(&home, &cutting, "some/body");
    assert_eq!(status, Some(0), "{messages}");
    let from: Vec<_> = cutting.asked(UNET).iter().map(Asked::from).collect();
    assert_eq!(from, [0, third, 2 * third]);
    assert_eq!(std::fs::read(folder(&home).join("body").join(UNET)).expect("it is there"), unet());

    // The server goes away, and comes back for another call.
    let gone = Server::start(move |asked, number| match honest(asked) {
        Act::Answer(status, headers, body) if asked.line.contains(UNET) => {
            Act::Cut(status, headers, body, if number == 0 { third } else { 0 })
        }
        act => act,
    });
    let home = Home::new("managed-gone");
    let gone = gone.expect("there was one before");
    refused(&home, &gone, "some/body", "5 times in a row; what came is kept");
    assert_eq!(names(&home), [".download-body"]);
    let back = Server::start(|asked, _| honest(asked)).expect("there was one before");
    let (status, _, messages) = download(&home, &back, "some/body");
    assert_eq!(status, Some(0), "{messages}");
    assert_eq!(back.asked(UNET).iter().map(Asked::from).collect::<Vec<_>>(), [third]);
    assert_eq!(names(&home), ["body"]);

    // One that knows no ranges begins anew.
    let home = Home::new("managed-anew");
    refused(&home, &gone_again(third), "some/body", "what came is kept");
    let simple = Server::start(|asked, _| match asked.line.contains(UNET) {
        true => Act::Answer(200, Vec::new(), unet()),
        false => honest(asked),
    });
    let (status, _, messages) = download(&home, &simple.expect("there was one before"), "some/body");
    assert_eq!(status, Some(0), "{messages}");
}

fn gone_again(third: usize) -> Server {
    let server = Server::start(move |asked, number| match honest(asked) {
        Act::Answer(status, headers, body) if asked.line.contains(UNET) => {
            Act::Cut(status, headers, body, if number == 0 { third } else { 0 })
        }
        act => act,
    });
    server.expect("there was one before")
}

#[test]
fn a_server_that_lies_is_found_out() {
    let home = Home::new("managed-lies");
    type Lie = fn(Vec<u8>) -> Act;
    let lies: [(&str, Lie); 6] = [
        ("came damaged: its SHA-256 is", |mut bytes| {
            bytes[1000] ^= 1;
            Act::Answer(200, Vec::new(), bytes)
        }),
        ("bytes by now", |bytes| Act::Answer(200, Vec::new(), [&bytes[..], b"more"].concat())),
        ("bytes by now", |bytes| Act::Answer(200, Vec::new(), bytes[..1000].to_vec())),
        ("has more than the", |bytes| {
            Act::Answer(200, vec![("No-Length", "x".into())], [&bytes[..], b"more"].concat())
        }),
        ("5 times in a row", |bytes| Act::Answer(206, vec![("Content-Range", "bytes 7-8/9".into())], bytes)),
        ("sends a web page in place of", |_| {
            Act::Answer(200, vec![("Content-Type", "text/html; charset=utf-8".into())], b"<html>log in</html>".to_vec())
        }),
    ];
    for (reason, lie) in lies {
        let server = Server::start(move |asked, _| if asked.line.contains(UNET) { lie(unet()) } else { honest(asked) });
        let Some(server) = server else { return };
        let reason = if reason == "5 times in a row" { "from 0 on and sends" } else { reason };
        refused(&home, &server, "some/body", reason);
    }
    let pages: [(&str, Act); 3] = [
        ("a web page where the list", Act::Answer(200, Vec::new(), b" <!doctype html>".to_vec())),
        ("it is no Stable Diffusion model", json_answer(&json!({ "siblings": [] }))),
        (
            "free some space",
            json_answer(&json!({ "siblings": [
            { "rfilename": "a.safetensors", "size": 1_000_000_000_000_000_u64 }
        ] })),
        ),
    ];
    for (reason, act) in pages {
        let act = Mutex::new(Some(act));
        let server = Server::start(move |_, _| act.lock().expect("no panic").take().expect("one request"));
        refused(&home, &server.expect("there was one before"), "some/body", reason);
    }
    // What is no base model is removed, and known names stand for known files.
    let lora = json!({ "siblings": [{ "rfilename": "a.safetensors", "size": 10 }] });
    let server = Server::start(move |asked, _| match asked.line.contains("/api/") {
        true => json_answer(&lora),
        false => Act::Answer(200, Vec::new(), b"0123456789".to_vec()),
    });
    let home = Home::new("managed-lora");
    refused(&home, &server.expect("there was one before"), "some/body", "it is no model for edits and was removed");
    assert!(names(&home).is_empty());
    let other = json!({ "siblings": [{ "rfilename": "v1-5-pruned-emaonly-fp16.safetensors", "size": 10,
        "lfs": { "sha256": sha256(b"0123456789"), "size": 10 } }] });
    let server = Server::start(move |_, _| json_answer(&other)).expect("there was one before");
    refused(&home, &server, "sd15", "has another file under the name Comfy-Org/");
}

#[test]
fn a_server_that_refuses_or_is_busy_is_understood() {
    let home = Home::new("managed-busy");
    let Some(busy) = Server::start(|asked, number| match number {
        0 => Act::Answer(429, vec![("Retry-After", "1".into())], Vec::new()),
        _ => honest(asked),
    }) else {
        return;
    };
    let (status, _, messages) = download(&home, &busy, "some/body");
    assert_eq!(status, Some(0), "{messages}");
    let home = Home::new("managed-refused");
    let answer = |status, headers: Vec<(&'static str, String)>| {
        Server::start(move |_, _| Act::Answer(status, headers.clone(), Vec::new())).expect("there was one before")
    };
    let code = |code: &str| vec![("X-Error-Code", code.to_owned())];
    refused(&home, &answer(429, vec![("Retry-After", "3600".into())]), "some/body", "left alone for 3600 seconds");
    refused(&home, &answer(503, Vec::new()), "some/body", "is busy (status 503), 5 times in a row");
    refused(&home, &answer(404, Vec::new()), "some/body", "has no such model");
    refused(&home, &answer(401, code("RepoNotFound")), "some/body", "has no such model");
    refused(&home, &answer(401, code("GatedRepo")), "some/body", "make a token there and set HF_TOKEN");
    refused(&home, &answer(418, Vec::new()), "some/body", "answers with status 418");
    let silent = Server::start(|_, _| Act::Silence).expect("there was one before");
    refused(&home, &silent, "some/body", "cannot be reached");
    let slow = Server::start(|asked, _| match asked.line.contains(UNET) {
        true => Act::Drip(Vec::new(), unet(), 10),
        false => honest(asked),
    });
    refused(&home, &slow.expect("there was one before"), "some/body", "sends less than 1000 bytes a second");
    assert_eq!(names(&home), [".download-body"]);
    let (status, _, messages) = run(&home, &["models", "download", "phot"]);
    assert!(status == Some(2) && messages.contains("did you mean photo?"), "{messages}");
    assert!(done(&home, &["models", "download"]).contains("licence: creativeml-openrail-m"));
}

#[test]
fn a_token_stays_with_its_server_and_redirects_and_proxies_are_followed() {
    let home = Home::new("managed-token");
    let Some(files) = Server::start(|asked, _| honest(asked)) else { return };
    // The same place under another name.
    let elsewhere = files.address.replace("127.0.0.1", "localhost");
    let hub = Server::start(move |asked, _| {
        if !asked.headers.contains("authorization: bearer secret") {
            return Act::Answer(401, vec![("X-Error-Code", "GatedRepo".into())], Vec::new());
        }
        let path = asked.line.split(' ').nth(1).unwrap_or_default();
        match asked.line.contains("safetensors") {
            true => Act::Answer(302, vec![("Location", format!("{elsewhere}{path}"))], Vec::new()),
            false => honest(asked),
        }
    });
    let hub = hub.expect("there was one before");
    put(&home.folder.join("token"), b"secret\n");
    let mut command = command(&home, &["models", "download", "some/body", "--yes"]);
    command
        .env("HF_ENDPOINT", &hub.address)
        .env("NO_PROXY", "127.0.0.1,localhost")
        .env("HF_TOKEN_PATH", home.folder.join("token"));
    let (status, _, messages) = output(command);
    assert_eq!(status, Some(0), "{messages}");
    assert_eq!(files.asked("safetensors").len(), 3);
    assert!(files.asked("").iter().all(|asked| !asked.headers.contains("authorization")), "{:?}", files.asked(""));

    // A host that only the proxy knows; it is the server itself.
    let home = Home::new("managed-proxy");
    let mut command = self::command(&home, &["models", "download", "some/body", "--yes"]);
    command.env("HF_ENDPOINT", "http://hub.invalid").env("HTTP_PROXY", &files.address).env_remove("NO_PROXY");
    command.env_remove("no_proxy").env_remove("HTTPS_PROXY").env_remove("https_proxy");
    let (status, _, messages) = output(command);
    assert_eq!(status, Some(0), "{messages}");
    let through = |asked: &Asked| asked.line.contains("hub.invalid") || asked.headers.contains("host: hub.invalid");
    assert!(files.asked("").iter().any(through), "{:?}", files.asked(""));
}
