//! `imagic-edit serve` as a host program meets it: the built program over its pipes, in a home of its own.

mod support;

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use support::{Home, install};

/// Side of the test picture.
const SIDE: usize = 24;

/// The program, started; killed in the end.
struct Engine {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        // One that has ended cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Engine {
    /// Starts it and returns its greeting.
    fn start(home: &Home) -> (Self, Value) {
        Self::start_in("en", home)
    }

    /// As [`Engine::start`], where the user's language is another one.
    fn start_in(language: &str, home: &Home) -> (Self, Value) {
        Self::start_with(home, &[("LANGUAGE", language)])
    }

    /// As [`Engine::start`], in another environment.
    fn start_with(home: &Home, environment: &[(&str, &str)]) -> (Self, Value) {
        let folder = home.folder.join("program");
        if !folder.exists() {
            install(&folder);
        }
        let mut command = home.command(folder.join("imagic-edit"));
        command.env("LANGUAGE", "en").envs(environment.iter().copied());
        command.arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("it starts");
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("it is piped"));
        let mut engine = Self { child, input, output: BufReader::new(output) };
        let (hello, _) = engine.next();
        (engine, hello)
    }

    fn write(&mut self, bytes: &[u8]) {
        let input = self.input.as_mut().expect("it is open");
        input.write_all(bytes).and_then(|()| input.flush()).expect("the engine reads");
    }

    fn ask(&mut self, message: Value) {
        self.write(format!("{message}\n").as_bytes());
    }

    /// Asks for an edit of `pixels`, four values each of the type that `format` says.
    fn edit(&mut self, job: u64, format: &str, pixels: &[u8], params: Value) {
        let message = json!({
            "do": "edit", "job": job, "params": params, "document": "a test",
            "width": SIDE, "height": SIDE, "format": format, "bytes": pixels.len(),
        });
        self.ask(message);
        self.write(pixels);
    }

    /// The next message and its pixels.
    fn next(&mut self) -> (Value, Vec<u8>) {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it speaks UTF-8");
        let message: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        let mut pixels = vec![0; message["bytes"].as_u64().unwrap_or(0) as usize];
        self.output.read_exact(&mut pixels).expect("as many bytes as it said");
        (message, pixels)
    }

    /// The next message that is no progress, its pixels, and the progress before it.
    fn end(&mut self) -> (Value, Vec<u8>, Vec<Value>) {
        let mut progress = Vec::new();
        loop {
            let (message, pixels) = self.next();
            if message["event"] != "progress" {
                return (message, pixels, progress);
            }
            progress.push(message);
        }
    }

    /// Waits until `job` is being tuned.
    fn wait_for_tuning(&mut self, job: u64) {
        loop {
            let (message, _) = self.next();
            assert_eq!((&message["event"], &message["job"]), (&json!("progress"), &json!(job)), "{message}");
            if message["stage"] == "fine_tune" {
                return;
            }
        }
    }

    fn exit_status(&mut self) -> Option<i32> {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(20) {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it did not end");
    }
}

fn quick(prompt: &str) -> Value {
    json!({ "prompt": prompt, "embedding_steps": 2, "tuning_steps": 2, "sampling_steps": 2 })
}

/// An edit that takes longer than any test waits.
fn slow(prompt: &str) -> Value {
    json!({ "prompt": prompt, "embedding_steps": 1, "tuning_steps": 100_000, "sampling_steps": 1 })
}

/// Resident memory in MB.
fn resident(engine: &Engine) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", engine.child.id())).expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("every process has it");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number") / 1000
}

#[test]
fn it_is_killed_before_its_host_and_gives_the_memory_of_a_large_picture_back() {
    let home = Home::new("serve-memory");
    let (mut engine, _) = Engine::start(&home);
    let score = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", engine.child.id())).expect("Linux tells");
    assert_eq!(score.trim(), "1000");
    engine.edit(1, "bgra8", &picture(), quick("a bird"));
    assert_eq!(engine.end().0["event"], "done");
    let before = resident(&engine);
    let (width, height) = (5000, 4000);
    let pixels = vec![200; width * height * 4];
    let params = quick("a bird");
    engine.ask(json!({
        "do": "edit", "job": 2, "params": params, "document": "a test",
        "width": width, "height": height, "format": "bgra8", "bytes": pixels.len(),
    }));
    engine.write(&pixels);
    assert_eq!(engine.end().0["event"], "done");
    let large = resident(&engine);
    engine.edit(3, "bgra8", &picture(), quick("a bird"));
    assert_eq!(engine.end().0["event"], "done");
    // After some seconds of rest.
    let mut after = resident(&engine);
    for _ in 0..100 {
        if after < before + 60 {
            return;
        }
        std::thread::sleep(Duration::from_millis(200));
        after = resident(&engine);
    }
    panic!("{after} MB are left of {large} MB, and {before} MB were enough before");
}

/// `IMAGIC_TEST_JOBS=1000` runs as many instead of a few: a tenth of them is stopped in the middle.
#[test]
fn memory_does_not_grow_with_the_number_of_edits_and_of_stopped_ones() {
    let jobs: u64 = std::env::var("IMAGIC_TEST_JOBS").map_or(120, |jobs| jobs.parse().expect("a number"));
    let home = Home::new("serve-jobs");
    let (mut engine, _) = Engine::start(&home);
    let mut after_some = 0;
    for job in 1..=jobs {
        // Each is tuned anew, and drawn with another strength.
        let mut params = quick("a bird");
        (params["tuning_seed"], params["tuning_mode"], params["eta"]) = (json!(job), json!("lora"), json!(0.5));
        if job % 10 == 0 {
            params["tuning_steps"] = json!(100_000);
        }
        engine.edit(job, "bgra8", &picture(), params);
        if job % 10 == 0 {
            engine.wait_for_tuning(job);
            engine.ask(json!({ "do": "stop", "job": job }));
        }
        let expected = if job % 10 == 0 { "stopped" } else { "done" };
        assert_eq!(engine.end().0["event"], expected);
        if job == jobs / 3 {
            after_some = resident(&engine);
        }
    }
    let after_all = resident(&engine);
    println!("{after_some} MB after {} edits, {after_all} MB after {jobs}", jobs / 3);
    // The allocator's own ups and downs are some MB. A network that was left behind is 1.7 MB each time, a set of
    // adapters 0.2 MB, which is 16 MB in the shortest run.
    assert!(after_all < after_some + 12, "{after_some} MB after {} edits, {after_all} MB after {jobs}", jobs / 3);
}

/// A gradient with a half transparent column, as BGRA.
fn picture() -> Vec<u8> {
    let pixel = |at: usize| [(at % SIDE * 10) as u8, (at / SIDE * 9) as u8, 200, if at % SIDE == 3 { 77 } else { 255 }];
    (0..SIDE * SIDE).flat_map(pixel).collect()
}

/// The same in 16 bits, red first.
fn picture16() -> Vec<u8> {
    let wide = |value: &u8| (u16::from(*value) * 257).to_ne_bytes();
    picture().chunks_exact(4).flat_map(|p| [p[2], p[1], p[0], p[3]]).flat_map(|value| wide(&value)).collect()
}

#[test]
fn texts_for_people_are_in_their_language_and_the_report_is_not() {
    let home = Home::new("serve-language");
    let (_, english) = Engine::start(&home);
    assert_eq!(english["translations"], json!({}));
    let (mut engine, hello) = Engine::start_in("fr:de_AT", &home);
    let rows = hello["parameters"].as_array().expect("the table");
    let label = |id: &str| rows.iter().find(|row| row["id"] == id).map(|row| row["label"].clone());
    assert_eq!((label("prompt"), label("seed")), (Some(json!("Zieltext")), Some(json!("Startwert"))));
    assert_eq!(hello["texts"]["stopping"], "Hält nach diesem Schritt an.");
    assert_eq!(hello["translations"]["Insert"], "Einfügen");
    engine.edit(1, "bgra8", &picture(), quick(" "));
    let (failed, _, _) = engine.end();
    assert_eq!(failed["message"], "Der Zieltext ist leer; schreiben Sie, was aus dem Bild werden soll.");
    engine.edit(2, "bgra8", &picture(), quick("Stop"));
    let (done, _, progress) = engine.end();
    assert!(done["summary"].as_str().is_some_and(|text| text.starts_with("Fertig in ")), "{done}");
    assert_eq!((&done["name"], &done["report"]["tuned"]), (&json!("eta 0.7 #0: Stop"), &json!("now")));
    let texts: Vec<_> = progress.iter().filter_map(|message| message["text"].as_str()).collect();
    assert!(texts.iter().all(|text| !text.contains(" step ") && !text.contains(" left")), "{texts:?}");
}

#[test]
fn a_picture_comes_once_for_an_estimate_and_edits_which_show_how_it_forms() {
    let home = Home::new("serve-estimate");
    let (mut engine, _) = Engine::start(&home);
    engine.ask(json!({
        "do": "estimate", "job": 1, "params": quick("x"),
        "width": SIDE, "height": SIDE, "format": "bgra8", "bytes": picture().len(),
    }));
    engine.write(&picture());
    let (answer, _) = engine.next();
    assert_eq!(
        (&answer["event"], &answer["tuned"], &answer["seconds"]),
        (&json!("estimate"), &json!(false), &json!(null))
    );
    let mut params = quick("x");
    // Long enough for a look at it between the steps.
    params["sampling_steps"] = json!(600);
    engine.ask(json!({ "do": "edit", "job": 2, "params": params, "previews": 2 }));
    let mut previews = Vec::new();
    let done = loop {
        let (message, pixels) = engine.next();
        if message["event"] != "progress" {
            break message;
        }
        let size = |side: &str| message["preview"][side].as_u64().unwrap_or(0) as usize;
        assert_eq!(pixels.len(), size("width") * size("height") * 4, "{message}");
        if !pixels.is_empty() {
            previews.push(pixels);
        }
    };
    assert_eq!(done["event"], "done", "{done}");
    previews.dedup();
    assert!(previews.len() == 2, "{} pictures; each comes once", previews.len());
    engine.ask(json!({ "do": "estimate", "job": 3, "params": params }));
    let (answer, _) = engine.next();
    assert!(answer["tuned"] == true && answer["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{answer}");
    assert!(
        answer["text"].as_str().is_some_and(|text| text.starts_with("The tuned model is there: about")),
        "{answer}"
    );
}

#[test]
fn a_result_that_is_looked_at_is_small_and_comes_in_full_without_another_edit() {
    let home = Home::new("serve-side");
    let (mut engine, _) = Engine::start(&home);
    engine.edit(1, "bgra8", &picture(), quick("x"));
    let (_, whole, _) = engine.end();
    let mut params = quick("x");
    params["seed"] = json!(5);
    engine.ask(json!({ "do": "edit", "job": 2, "params": params, "side": 9 }));
    let (done, small, _) = engine.end();
    assert_eq!((&done["width"], &done["height"], small.len()), (&json!(9), &json!(9), 9 * 9 * 4), "{done}");
    assert_eq!((&done["report"]["width"], &done["report"]["tuned"]), (&json!(SIDE), &json!("in_memory")));
    // Without a step, which would be told.
    for (job, params, tuned, expected) in [(3, params, "in_memory", None), (4, quick("x"), "now", Some(&whole))] {
        engine.ask(json!({ "do": "edit", "job": job, "params": params }));
        let (done, pixels, progress) = engine.end();
        assert_eq!((&done["width"], &done["report"]["tuned"]), (&json!(SIDE), &json!(tuned)), "{done}");
        assert!(progress.is_empty() && pixels.len() == whole.len(), "{progress:?}");
        assert!(expected.is_none_or(|expected| *expected == pixels), "job {job}");
    }
    // Of a picture that comes anew no result is known, only its tuned model.
    engine.edit(5, "rgba16", &picture16(), quick("x"));
    let (done, _, _) = engine.end();
    assert_eq!(done["report"]["tuned"], "in_memory", "{done}");
}

#[test]
fn the_greeting_has_all_that_a_dialog_needs() {
    let home = Home::new("serve-hello");
    home.add_model("other", r#"{"preset": {"eta": 0.9}, "description": "Draws noise."}"#);
    let (mut engine, hello) = Engine::start(&home);
    assert_eq!((&hello["event"], &hello["protocol"]), (&json!("hello"), &json!(6)));
    let ids: Vec<_> = hello["parameters"].as_array().expect("a list").iter().map(|row| row["id"].clone()).collect();
    assert_eq!(ids, imagic_edit::params::PARAMS.iter().map(|param| json!(param.id)).collect::<Vec<_>>());
    assert_eq!(hello["models"][0]["name"], "other");
    assert_eq!(hello["models"][0]["params"]["eta"], 0.9);
    for preset in ["paper", "balanced", "fast"] {
        let params = &hello["models"][0]["presets"][preset];
        assert_eq!((&params["eta"], &params["preset"]), (&json!(0.9), &json!(preset)));
    }
    let policy = &hello["policy"];
    assert_eq!((&policy["seeds"], &policy["strengths"][6], &policy["pause"]), (&json!(6), &json!(1.2), &json!(400)));
    let texts = &hello["texts"];
    assert_eq!(
        (&texts["buttons"]["insert"]["label"], &texts["result"]),
        (&json!("Insert"), &json!("Strength {eta}, seed {seed}"))
    );
    assert!(hello["last_values"].is_null() && hello["texts"]["stopped"].is_string(), "{hello}");

    engine.ask(json!({ "do": "remember", "params": quick("remembered") }));
    home.add_model("third", "{}");
    engine.ask(json!({ "do": "models" }));
    let (models, _) = engine.next();
    assert_eq!(models["models"].as_array().map(Vec::len), Some(3), "{models}");
    for (name, known) in [("other", true), ("/nothing/there", false)] {
        engine.ask(json!({ "do": "model", "name": name }));
        let (answer, _) = engine.next();
        assert_eq!((&answer["name"], answer["model"].is_object()), (&json!(name), known), "{answer}");
        assert_eq!(
            answer["message"].as_str().is_some_and(|text| text.contains("there is no such file or folder")),
            !known,
            "{answer}"
        );
    }
    assert_eq!(Engine::start(&home).1["last_values"]["prompt"], "remembered");
}

#[test]
fn an_edit_comes_back_in_its_own_format_with_progress_and_recipe() {
    let home = Home::new("serve-edit");
    home.add_model("strict", r#"{"familiar_psnr": 200}"#);
    let (mut engine, _) = Engine::start(&home);
    engine.edit(1, "bgra8", &picture(), quick("a red dog"));
    let (done, eight, progress) = engine.end();
    assert_eq!((&done["event"], &done["job"]), (&json!("done"), &json!(1)), "{done}");
    assert_eq!(done["name"], "eta 0.7 #0: a red dog");
    assert_eq!(done["report"]["tuned"], "now");
    assert_eq!(done["report"]["params"]["tuning_steps"], 2);
    assert!(done["summary"].as_str().is_some_and(|text| text.starts_with("Done in ")), "{done}");
    assert!(progress.iter().all(|message| message["job"] == 1 && message["text"].is_string()), "{progress:?}");
    let alpha = |pixels: &[u8]| pixels.iter().skip(3).step_by(4).copied().collect::<Vec<_>>();
    assert_eq!(alpha(&eight), alpha(&picture()));
    assert_ne!(eight, picture());

    // Other layouts of the same picture are the same picture: the tuned model is found.
    engine.edit(2, "rgba16", &picture16(), quick("a red dog"));
    let (done, sixteen, _) = engine.end();
    assert_eq!(done["report"]["tuned"], "in_memory", "{done}");
    let value = |index: usize| u16::from_ne_bytes([sixteen[2 * index], sixteen[2 * index + 1]]);
    for pixel in 0..SIDE * SIDE {
        for (channel, from) in [2, 1, 0, 3].into_iter().enumerate() {
            let rounded = ((u32::from(value(4 * pixel + channel)) + 128) / 257) as u8;
            assert_eq!(rounded, eight[4 * pixel + from], "pixel {pixel}, channel {channel}");
        }
    }
    let swapped: Vec<u8> =
        picture16().chunks_exact(8).flat_map(|p| [&p[4..6], &p[2..4], &p[..2], &p[6..]].concat()).collect();
    engine.edit(3, "bgra16", &swapped, quick("a red dog"));
    let (done, pixels, _) = engine.end();
    assert_eq!(done["report"]["tuned"], "in_memory", "{done}");
    let back: Vec<u8> = pixels.chunks_exact(8).flat_map(|p| [&p[4..6], &p[2..4], &p[..2], &p[6..]].concat()).collect();
    assert_eq!(back, sixteen);

    // What is to be said of a text and of the picture, before anything is spent.
    home.add_model("drawings", r#"{"photographs": false, "words": ["a", "red"], "examples": ["a red dog"]}"#);
    engine.ask(json!({ "do": "text", "text": "a red dog", "model": "drawings" }));
    let (text, _) = engine.next();
    assert_eq!((&text["event"], &text["remarks"]), (&json!("text"), &json!(["Unknown words: dog."])));
    assert_eq!(text["length"], "4 of 75 tokens");

    // Long enough for some progress.
    let mut params = quick("a green dog");
    (params["model"], params["tuning_steps"]) = (json!("strict"), json!(100));
    engine.edit(4, "bgra8", &picture(), params);
    let (done, _, progress) = engine.end();
    let hint = progress.iter().find_map(|message| message["hint"].as_str()).expect("a hint before the end");
    assert!(hint.starts_with("This picture is unlike ") && hint.ends_with('.'), "{hint}");
    assert!(done["summary"].as_str().is_some_and(|text| text.contains(hint)), "{done}");
}

#[test]
fn edits_wait_for_each_other_and_each_can_be_stopped() {
    let home = Home::new("serve-stop");
    let (mut engine, _) = Engine::start(&home);
    engine.edit(1, "bgra8", &picture(), slow("one"));
    engine.wait_for_tuning(1);
    engine.edit(2, "bgra8", &picture(), slow("two"));
    engine.edit(1, "bgra8", &picture(), slow("one"));
    let (refused, _, _) = engine.end();
    assert_eq!(refused["message"], "Job 1 runs already; give every job a number of its own.");
    engine.ask(json!({ "do": "stop", "job": 1 }));
    let (stopped, _, _) = engine.end();
    assert_eq!(stopped, json!({ "event": "stopped", "job": 1 }));
    engine.wait_for_tuning(2);
    engine.ask(json!({ "do": "stop", "job": 7 }));
    engine.ask(json!({ "do": "stop", "job": 2 }));
    let (stopped, _, _) = engine.end();
    assert_eq!(stopped, json!({ "event": "stopped", "job": 2 }));
    engine.edit(3, "bgra8", &picture(), quick("three"));
    assert_eq!(engine.end().0["event"], "done");
}

#[test]
fn what_makes_no_sense_is_answered_and_the_next_message_is_understood() {
    let home = Home::new("serve-wrong");
    let (mut engine, _) = Engine::start(&home);
    let edit = |change: &dyn Fn(&mut Value)| {
        let mut message = json!({
            "do": "edit", "job": 5, "params": quick("x"), "width": 2, "height": 1, "format": "rgba8", "bytes": 8,
        });
        change(&mut message);
        message
    };
    for (message, job, expected) in [
        (json!({ "do": "dance" }), json!(null), "This message makes no sense: unknown variant `dance`"),
        (json!({}), json!(null), "This message makes no sense: missing field `do`"),
        (json!({ "do": "stop" }), json!(null), "missing field `job`"),
        (json!({ "do": "remember", "params": { "eta": 9 } }), json!(null), "Eta is 9, must be 0 to 2."),
        (edit(&|m| m["format"] = json!("cmyk")), json!(5), "unknown variant `cmyk`"),
        (edit(&|m| m["height"] = json!(null)), json!(5), "Width, height, format, selection and bytes belong"),
        (json!({ "do": "edit", "job": 5, "params": quick("x") }), json!(5), "No picture has come yet; give width"),
        (edit(&|m| m["height"] = json!(2)), json!(5), "8 bytes of pixels came, 2x2 pixels are 16."),
        (edit(&|m| m["width"] = json!(0)), json!(5), "The picture has 0x1 pixels, must have 1 to"),
        (edit(&|m| m["width"] = json!(u32::MAX)), json!(5), "pixels, must have 1 to"),
        (edit(&|m| m["params"]["eta"] = json!(3)), json!(5), "Eta is 3, must be 0 to 2."),
        (edit(&|m| m["params"]["prompt"] = json!(" ")), json!(5), "The target text is empty; write what"),
        (edit(&|m| m["params"]["model"] = json!("dreams")), json!(5), "Model dreams: no such model in"),
    ] {
        let pixels = message["bytes"].as_u64().unwrap_or(0);
        engine.ask(message.clone());
        engine.write(&vec![7; pixels as usize]);
        let (answer, _) = engine.next();
        assert_eq!((&answer["event"], &answer["job"]), (&json!("failed"), &job), "{message}: {answer}");
        assert!(answer["message"].as_str().is_some_and(|text| text.contains(expected)), "{message}: {answer}");
    }
    engine.edit(6, "bgra8", &picture(), quick("x"));
    assert_eq!(engine.end().0["event"], "done");

    engine.write(b"not json\n");
    let (answer, _) = engine.next();
    assert!(answer["message"].as_str().is_some_and(|text| text.starts_with("A line is not a JSON object")), "{answer}");
    assert_eq!(engine.exit_status(), Some(1));
}

#[test]
fn files_that_cannot_be_used_are_told_and_the_engine_goes_on() {
    let home = Home::new("serve-files");
    let (mut engine, _) = Engine::start(&home);
    // A file in the place of the folder with the last values, and a folder in the place of a file of a model.
    std::fs::create_dir_all(home.folder.join("config")).expect("a new folder");
    std::fs::write(home.folder.join("config/imagic-edit"), "").expect("a new file");
    home.add_model("odd", "{}");
    let about = home.folder.join("data/imagic-edit/models/odd/imagic.json");
    std::fs::remove_file(&about).and_then(|()| std::fs::create_dir(&about)).expect("our own folder");
    for (message, expected) in [
        (json!({ "do": "remember", "params": quick("x") }), "Cannot create"),
        (json!({ "do": "model", "name": "odd" }), "Cannot read"),
    ] {
        engine.ask(message.clone());
        let (answer, _) = engine.next();
        assert!(answer["message"].as_str().is_some_and(|text| text.contains(expected)), "{message}: {answer}");
    }
    engine.edit(1, "bgra8", &picture(), quick("x"));
    assert_eq!(engine.end().0["event"], "done");
}

#[test]
fn the_end_of_the_host_is_the_end_of_the_engine_at_once() {
    let home = Home::new("serve-end");
    let (mut engine, _) = Engine::start(&home);
    engine.edit(1, "bgra8", &picture(), slow("x"));
    engine.wait_for_tuning(1);
    engine.input = None;
    assert_eq!(engine.exit_status(), Some(0));

    let (mut engine, _) = Engine::start(&home);
    engine.ask(json!({ "do": "edit", "job": 1, "bytes": 1000 }));
    engine.input = None;
    assert_eq!(engine.exit_status(), Some(0), "it ends amid a message, too");
}

#[test]
fn an_edit_goes_on_in_another_engine_and_whoever_asks_is_told_so_before() {
    let params = json!({ "prompt": "x", "embedding_steps": 5, "tuning_steps": 400, "sampling_steps": 2 });
    let whole = {
        let home = Home::new("serve-whole");
        let (mut engine, _) = Engine::start(&home);
        engine.edit(1, "bgra8", &picture(), params.clone());
        engine.end().1
    };
    for ending in ["stop", "end of the host", "kill"] {
        let home = Home::new("serve-resume");
        let (mut engine, _) = Engine::start_with(&home, &[("IMAGIC_RESUME_SECONDS", "0")]);
        engine.edit(1, "bgra8", &picture(), params.clone());
        engine.wait_for_tuning(1);
        // Some steps more; the first resume points are there then.
        let done = loop {
            let (message, _) = engine.next();
            if message["step"].as_u64().is_some_and(|step| step > 3) {
                break message["step"].as_u64().expect("a step");
            }
        };
        match ending {
            "stop" => {
                engine.ask(json!({ "do": "stop", "job": 1 }));
                assert_eq!(engine.end().0["event"], "stopped");
                engine.input = None;
                engine.exit_status();
            }
            "end of the host" => {
                engine.input = None;
                engine.exit_status();
            }
            _ => engine.child.kill().expect("it runs"),
        }
        let (mut engine, _) = Engine::start(&home);
        engine.ask(json!({
            "do": "estimate", "job": 1, "params": params,
            "width": SIDE, "height": SIDE, "format": "bgra8", "bytes": picture().len(),
        }));
        engine.write(&picture());
        let (answer, _) = engine.next();
        assert_eq!((&answer["goes_on"], &answer["steps"][1]), (&json!(true), &json!(405)), "{ending}: {answer}");
        // The last step that was told may have been the one that was being written.
        let at_least = if ending == "kill" { 5 + done - 1 } else { 5 + done };
        assert!(answer["steps"][0].as_u64().is_some_and(|step| step >= at_least), "{ending}: {answer} after {done}");
        assert!(answer["text"].as_str().is_some_and(|text| text.starts_with("Goes on at step ")), "{ending}: {answer}");
        engine.ask(json!({ "do": "edit", "job": 2, "params": params }));
        let (end, pixels, progress) = engine.end();
        assert_eq!(end["report"]["tuned"], "now", "{ending}: {end}");
        assert!(progress.iter().all(|message| message["stage"] != "optimize_text_embedding"), "{ending}");
        assert!(pixels == whole, "{ending}: other pixels");
    }
}

#[test]
fn a_killed_or_aborted_engine_closes_its_pipe_and_another_one_goes_on() {
    let home = Home::new("serve-killed");
    for signal in ["-KILL", "-ABRT"] {
        let (mut engine, _) = Engine::start(&home);
        engine.edit(1, "bgra8", &picture(), slow("x"));
        engine.wait_for_tuning(1);
        let kill = Command::new("kill").args([signal, &engine.child.id().to_string()]).status();
        assert!(kill.is_ok_and(|status| status.success()), "{signal}");
        assert_eq!(engine.exit_status(), None, "{signal}: a signal is no exit status");
        let mut rest = Vec::new();
        engine.output.read_to_end(&mut rest).expect("the pipe ends");
    }
    let (mut engine, _) = Engine::start(&home);
    engine.edit(1, "bgra8", &picture(), quick("x"));
    assert_eq!(engine.end().0["event"], "done");
}
