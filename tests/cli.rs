//! The command line as a person or a script meets it: the built program and library, in a home of their own.

mod support;

use candle_core::Device;
use image::codecs::png::PngEncoder;
use image::{DynamicImage, ImageDecoder, ImageEncoder, ImageReader};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;
use support::{Home, QUICK, Ran, SmallDisk, output, picture, program, run, save};

/// Runs `edit` with few steps and expects it to work.
fn edit(home: &Home, arguments: &[&str]) -> Ran {
    let ran = run(home, &[&["edit", "--force"], arguments, &QUICK].concat());
    assert_eq!(ran.0, Some(0), "{arguments:?}: {}", ran.2);
    ran
}

fn open(home: &Home, name: &str) -> DynamicImage {
    image::open(home.folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The command of docs/MODELS.md, for a model of each family.
#[test]
fn a_text_without_tuning_becomes_the_picture_of_diffusers_pipeline() {
    let home = Home::new("text-to-image");
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut compared = 0;
    for folder in std::fs::read_dir(fixtures).expect("the fixtures").map(|entry| entry.expect("an entry").path()) {
        let Ok(pictures) = candle_core::safetensors::load(folder.join("pipeline.safetensors"), &Device::Cpu) else {
            continue;
        };
        let theirs = &pictures["image"]; // (1, 3, h, w) from 0 to 1
        let (_, _, h, w) = theirs.dims4().expect("a picture");
        let facts = std::fs::read(folder.join("reference.json")).expect("facts");
        let facts: Value = serde_json::from_slice(&facts).expect("JSON");
        let model = folder.join(facts["model"].as_str().expect("a path"));
        let black: image::ImageBuffer<image::Rgb<u16>, _> = image::ImageBuffer::new(w as u32, h as u32);
        save(&home, "any.png", &DynamicImage::ImageRgb16(black));
        let settings = &facts["settings"];
        let setting = |name: &str| settings[name].to_string();
        let options = [
            ("--prompt", settings["text"].as_str().expect("a text").to_owned()),
            ("--model", model.to_str().expect("a path of ours").to_owned()),
            ("--seed", setting("seed")),
            ("--guidance", setting("guidance")),
            ("--sampling-steps", setting("steps")),
            ("--resolution", ((h * w) as f64).sqrt().round().to_string()),
            ("--embedding-steps", "0".to_owned()),
            ("--tuning-steps", "0".to_owned()),
            ("--candidates", "1".to_owned()),
            ("--eta", "1".to_owned()),
        ];
        let options = options.iter().flat_map(|(name, value)| [*name, value.as_str()]);
        let arguments: Vec<&str> = ["edit", "any.png", "--force", "-o", "out.png"].into_iter().chain(options).collect();
        let (status, _, errors) = run(&home, &arguments);
        assert_eq!(status, Some(0), "{}: {errors}", folder.display());
        let ours = image::open(home.folder.join("out.png")).expect("a picture").into_rgb16();
        let theirs = theirs.squeeze(0).and_then(|image| image.permute((1, 2, 0))).and_then(|image| image.flatten_all());
        let theirs: Vec<f32> = theirs.and_then(|image| image.to_vec1()).expect("numbers");
        let square = |(ours, theirs): (&u16, &f32)| (f64::from(*ours) / 65535.0 - f64::from(*theirs)).powi(2);
        let error = ours.as_raw().iter().zip(&theirs).map(square).sum::<f64>() / theirs.len() as f64;
        let psnr = -10.0 * error.log10();
        assert!(psnr >= 65.0, "{}: only {psnr:.1} dB", folder.display());
        compared += 1;
    }
    assert_eq!(compared, 7, "models with a picture of the pipeline");
}

#[test]
fn an_edit_keeps_size_depth_and_alpha_and_leaves_the_input_alone() {
    let home = Home::new("kept");
    let picture = picture(40, 30);
    for (name, input) in [
        ("rgba16.png", picture.clone()),
        ("rgb16.png", picture.to_rgb16().into()),
        ("rgba8.png", picture.to_rgba8().into()),
        ("rgb8.png", picture.to_rgb8().into()),
        ("gray16.png", picture.to_luma16().into()),
        ("gray-alpha8.png", picture.to_luma_alpha8().into()),
        ("photo.jpg", picture.to_rgb8().into()),
        ("small.webp", picture.to_rgba8().into()),
    ] {
        let before = save(&home, name, &input);
        edit(&home, &[name, "--prompt", "a red dog", "-o", "out.png"]);
        assert_eq!(std::fs::read(home.folder.join(name)).expect("the input is there"), before, "{name} was changed");
        let result = open(&home, "out.png");
        assert_eq!((result.width(), result.height()), (40, 30), "{name}");
        let (before, after) = (input.color(), result.color());
        assert_eq!(after.has_alpha(), before.has_alpha(), "{name}");
        assert_eq!(
            after.bytes_per_pixel() / after.channel_count(),
            before.bytes_per_pixel() / before.channel_count(),
            "{name}"
        );
        if before.has_alpha() {
            let alpha = |image: &DynamicImage| image.to_rgba8().pixels().map(|pixel| pixel[3]).collect::<Vec<_>>();
            assert_eq!(alpha(&result), alpha(&input), "{name}");
        }
    }
}

#[test]
fn a_picture_of_one_pixel_can_be_edited() {
    let home = Home::new("pixel");
    save(&home, "in.png", &picture(1, 1).to_rgb8().into());
    edit(&home, &["in.png", "--prompt", "snow", "-o", "out.png"]);
    assert_eq!((open(&home, "out.png").width(), open(&home, "out.png").height()), (1, 1));
}

/// What is in the profile is looked at in `src/host/cli/picture/tests.rs`.
#[test]
fn a_color_profile_is_kept_in_every_format_and_one_that_is_none_is_left_out_with_a_note() {
    let home = Home::new("profiles");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures/adobergb.png");
    let profile = |path: &Path| {
        if path.extension().is_some_and(|extension| extension == "tif") {
            let file = std::fs::File::open(path).expect("the picture is there");
            return tiff::decoder::Decoder::new(file).expect("a TIFF").get_tag_u8_vec(tiff::tags::Tag::IccProfile).ok();
        }
        let reader = ImageReader::open(path).expect("the picture is there");
        reader.into_decoder().expect("it can be read").icc_profile().expect("its profile can be read")
    };
    let expected = profile(&fixture);
    assert!(expected.is_some());
    for output in ["out.png", "out.jpg", "out.webp", "out.tif"] {
        let (_, _, messages) = edit(&home, &[fixture.to_str().expect("a path"), "--prompt", "snow", "-o", output]);
        assert!(!messages.contains("note: "), "{messages}");
        assert_eq!(profile(&home.folder.join(output)), expected, "{output}");
    }
    let file = std::fs::File::create(home.folder.join("in.png")).expect("the home is writable");
    let mut encoder = PngEncoder::new(file);
    encoder.set_icc_profile(vec![0; 200]).expect("PNG has profiles");
    picture(16, 16).write_with_encoder(encoder).expect("the picture can be written");
    let (_, _, messages) = edit(&home, &["in.png", "--prompt", "snow", "-o", "out.png"]);
    assert!(messages.contains("note: the color profile cannot be read"), "{messages}");
    assert_eq!(profile(&home.folder.join("out.png")), None);
}

#[test]
fn several_etas_give_several_files_from_one_tuning_and_a_second_run_tunes_no_more() {
    let home = Home::new("etas");
    save(&home, "in.png", &picture(32, 32));
    let (_, json, _) =
        edit(&home, &["in.png", "--prompt", "a cat", "-o", "out.png", "--eta", "0.6", "--eta=0.855", "--json"]);
    assert_eq!(home.files(), ["in.png", "out-eta0.60.png", "out-eta0.855.png"]);
    let report: Value = serde_json::from_str(&json).expect("it prints one JSON object");
    let tuned: Vec<&Value> =
        report["outputs"].as_array().expect("a list").iter().map(|output| &output["tuned"]).collect();
    assert_eq!(tuned, ["now", "in_memory"]);
    let first = &report["outputs"][0];
    assert_eq!(first["path"], "out-eta0.60.png");
    assert_eq!(first["params"]["eta"], 0.6);
    assert_eq!(first["params"]["tuning_steps"], 2);
    assert_eq!(first["embedding_losses"].as_array().map(Vec::len), Some(2));
    assert_eq!(first["tuning_losses"].as_array().map(Vec::len), Some(2));
    assert!(first["seconds"]["fine_tune"].is_number() && first["seconds"]["generate"].is_number(), "{first}");
    assert_eq!(report["outputs"][1]["params"]["eta"], 0.855);

    let (_, json, _) =
        edit(&home, &["in.png", "--prompt", "a cat", "-o", "out.png", "--eta", "1.1", "--seed", "3", "--json"]);
    let report: Value = serde_json::from_str(&json).expect("it prints one JSON object");
    assert_eq!(report["outputs"][0]["tuned"], "on_disk");
    assert_eq!(report["outputs"][0]["cache_hit"], true);
}

/// Of the kind that photographs are: nothing in it is plain.
fn photograph() -> DynamicImage {
    let noise =
        |x: u32, y: u32| (x / 3).wrapping_mul(2_654_435_761).wrapping_add((y / 3).wrapping_mul(40_503_217)) >> 13;
    let pixel = |x, y| image::Rgb([(noise(x, y) % 97) as u8 + 90, (noise(y, x) % 61) as u8 + 60, (y / 2) as u8]);
    DynamicImage::ImageRgb8(image::RgbImage::from_fn(160, 120, pixel))
}

#[test]
fn a_photograph_and_a_text_get_a_word_before_time_is_spent() {
    let home = Home::new("door");
    home.add_model("drawings", r#"{"photographs": false, "words": ["a", "the", "make", "red", "dog"]}"#);
    save(&home, "photo.png", &photograph());
    save(&home, "drawn.png", &picture(160, 120));
    let told = |picture: &str, model: &str, text: &str| {
        edit(&home, &[picture, "--prompt", text, "-o", "out.png", "--model", model, "--eta", "0"]).2
    };
    let messages = told("photo.png", "drawings", "make the dog red");
    let at = |text: &str| messages.find(text).unwrap_or_else(|| panic!("no {text} in {messages}"));
    let door = "hint: The model drawings draws no photographs. For photographs";
    assert!(
        at(door) < at("wrote ") && at("note: Describe the whole picture, for example") < at("wrote "),
        "{messages}"
    );
    assert_eq!(messages.matches("hint: ").count(), 1, "{messages}");
    // At eta 0 a model that learned nothing gives something else.
    assert!(messages.contains("note: At strength 0 the result should be the layer"), "{messages}");
    for (picture, model) in [("drawn.png", "drawings"), ("photo.png", "scenes-64")] {
        let messages = told(picture, model, "a red dog");
        assert!(!messages.contains("hint: ") && !messages.contains("nknown"), "{messages}");
    }
    let messages = told("drawn.png", "drawings", "a shiny red Dog");
    assert!(messages.contains("note: Unknown words: shiny."), "{messages}");
}

#[test]
fn a_picture_the_model_cannot_draw_is_hinted_at_once_and_edited() {
    let home = Home::new("hint");
    home.add_model("strict", r#"{"familiar_psnr": 200}"#);
    save(&home, "in.png", &picture(32, 32));
    let hints = |model: &str, etas: &[&str]| {
        let arguments = ["in.png", "--prompt", "a cat", "-o", "out.png", "--json", "--model", model];
        let (_, json, messages) = edit(&home, &[&arguments, etas].concat());
        let report: Value = serde_json::from_str(&json).expect("it prints one JSON object");
        let outputs = report["outputs"].as_array().expect("a list").clone();
        (outputs.into_iter().map(|mut output| output["hint"].take()).collect::<Vec<_>>(), messages)
    };
    // With the second call the tuned model is on disk.
    for etas in [&["--eta", "0.6", "--eta", "0.8"][..], &["--eta", "1"]] {
        let (hints, messages) = hints("strict", etas);
        for hint in hints {
            assert_eq!(hint["kind"], "unfamiliar_picture");
            assert_eq!(hint["familiar_psnr"], 200.0);
            assert!(hint["psnr"].as_f64().is_some_and(|psnr| psnr < 200.0), "{hint}");
            let line = format!("hint: {}", hint["text"].as_str().expect("a text"));
            assert!(!line.contains("dB") && line.contains("choose a Stable Diffusion model"), "{line}");
            assert_eq!(messages.lines().filter(|told| *told == line).count(), 1, "{messages}");
        }
        let at = |beginning: &str| messages.find(beginning).unwrap_or_else(|| panic!("no {beginning} in {messages}"));
        assert!(at("hint: ") < at("wrote "), "told too late: {messages}");
    }
    let (hints, messages) = hints("scenes-64", &["--eta", "0.8"]);
    assert!(hints == [Value::Null] && !messages.contains("hint: "), "{hints:?} {messages}");

    home.add_model("wrong", r#"{"familiar_psnr": "24 dB"}"#);
    let (status, _, messages) = run(&home, &["edit", "in.png", "--prompt", "x", "-o", "o.png", "--model", "wrong"]);
    assert_eq!(status, Some(1));
    assert!(messages.contains("familiar_psnr is \"24 dB\", must be a number of dB, for example 24"), "{messages}");
}

#[test]
fn wrong_usage_is_answered_with_a_remedy_and_status_2() {
    let home = Home::new("usage");
    save(&home, "in.png", &picture(8, 8));
    let check = |arguments: &[&str], expected: &str| {
        let (status, out, messages) = run(&home, arguments);
        assert_eq!((status, out.as_str()), (Some(2), ""), "{arguments:?}: {messages}");
        assert!(messages.contains(expected), "{arguments:?}: {messages}");
    };
    check(&[], "say what to do: edit, models, cache or doctor");
    check(&["edti"], "there is no command edti; did you mean edit?");
    check(&["edit"], "name the picture to edit");
    check(&["edit", "in.png", "--prompt", "x"], "say where the result goes: -o OUT.png");
    check(&["edit", "in.png", "-o", "out.png"], "say what the picture should become: --prompt TEXT");
    check(&["edit", "in.png", "-o", "out.png", "--prompt", " "], "say what the picture should become");
    check(&["edit", "in.png", "-o", "out.bmp", "--prompt", "x"], "end out.bmp with .png, .jpg, .webp or .tif");
    check(&["edit", "in.png", "-o", "out", "--prompt", "x"], "a PNG, JPEG, WebP or TIFF file");
    check(&["edit", "in.png", "b.png", "-o", "out.png", "--prompt", "x"], "b.png is one too many");
    check(&["edit", "in.png", "--promt", "x"], "there is no option --promt; did you mean --prompt?");
    check(&["edit", "in.png", "--tunning-steps=3"], "there is no option --tunning-steps; did you mean --tuning-steps?");
    check(&["edit", "in.png", "-x"], "there is no option -x");
    check(&["edit", "in.png", "--prompt", "--json"], "--prompt needs a value");
    check(&["edit", "in.png", "-o", "a.png", "--prompt", "x", "--seed", "1", "--seed", "2"], "--seed is given twice");
    check(&["edit", "in.png", "-o", "a.png", "--prompt", "x", "--eta", "1", "--eta", "1.0"], "--eta 1 is given twice");
    check(&["edit", "in.png", "-o", "a.png", "--prompt", "x", "--eta", "-1"], "eta is -1, must be 0 to 2");
    check(&["edit", "in.png", "-o", "a.png", "--prompt", "x", "--strength", "3"], "eta is 3, must be 0 to 2");
    check(
        &["edit", "in.png", "-o", "a.png", "--prompt", "x", "--eta", "1", "--strength", "1,0"],
        "--eta 1 is given twice",
    );
    check(&["edit", "in.png", "-o", "a.png", "--prompt", "\u{200b}\u{feff}"], "say what the picture should become");
    check(
        &["edit", "in.png", "-o", "a.png", "--prompt", "x", "--resolution", "7"],
        "resolution is 7, must be 16 or more, or 0 for the model's own",
    );
    check(
        &["edit", "in.png", "-o", "a.png", "--prompt", "x", "--sampling-steps", "1.000"],
        "sampling_steps is 1.000, must be a whole number",
    );
    check(&["edit", "in.png", "-o", "a.png", "--prompt", "x", "--seed", "nan"], "seed is nan, must be a whole number");
    check(
        &["edit", "in.png", "-o", "a.png", "--prompt", "x", "--preset", "slow"],
        "preset is slow, must be paper or balanced or fast or custom",
    );
    check(&["models", "all"], "models can list, add, remove, default, check and download, not all");
    check(&["cache"], "list or clear");
    check(&["cache", "burn"], "not burn");
    check(&["doctor", "--fix"], "there is no option --fix");
    assert_eq!(home.files(), ["in.png"]);
}

#[test]
fn what_cannot_be_done_is_said_with_the_reason_and_status_1_and_nothing_is_written() {
    let home = Home::new("failures");
    let whole = save(&home, "in.png", &picture(64, 64));
    std::fs::write(home.folder.join("cut.png"), &whole[..whole.len() / 2]).expect("the home is writable");
    std::fs::write(home.folder.join("text.png"), "not a picture").expect("the home is writable");
    std::fs::write(home.folder.join("old.ckpt"), "pickle").expect("the home is writable");
    std::os::unix::fs::symlink("in.png", home.folder.join("link.png")).expect("links can be made");
    let files = home.files();
    let check = |input: &str, output: &str, more: &[&str], expected: &str| {
        let (status, out, messages) =
            run(&home, &[&["edit", input, "-o", output, "--prompt", "x"], more, &QUICK].concat());
        assert_eq!((status, out.as_str()), (Some(1), ""), "{input} {output} {more:?}: {messages}");
        assert!(messages.contains(expected), "{input} {output} {more:?}: {messages}");
        assert_eq!(home.files(), files, "{input} {output} {more:?}");
    };
    check("missing.png", "out.png", &[], "cannot read missing.png: No such file");
    check("cut.png", "out.png", &[], "cut.png ends before the picture does");
    check("text.png", "out.png", &[], "text.png is not a PNG, JPEG, WebP, TIFF or GIF picture");
    check("in.png", "cut.png", &[], "cut.png is there already; name another file, or replace it with --force");
    check("in.png", "in.png", &["--force"], "the output in.png is the input");
    check("in.png", "in.png", &[], "the output in.png is the input");
    check("in.png", "link.png", &[], "the output link.png is the input");
    check("in.png", "nowhere/out.png", &[], "there is no folder nowhere; make it, or name another file");
    check("in.png", "in.png/out.png", &[], "cannot write in.png/out.png: Not a directory");
    check("in.png", "out.png", &["--model", "dreams"], "model dreams: no such model in");
    check("in.png", "out.png", &["--model", "/dev/null"], "model /dev/null: is neither a file nor a folder; choose");
    check("in.png", "out.png", &["--model", "in.png"], "model in.png: this is a picture, not a model; choose");
    check(".", "out.png", &[], ". is a folder; name a picture in it");
    check("/dev/null", "out.png", &[], "/dev/null is a pipe or a device; name a picture file");
    check("in.png", "out.png", &["--model", "/no/model"], "model /no/model: there is no such file or folder");
    check(
        "in.png",
        "out.png",
        &["--model", "old.ckpt"],
        "pickled checkpoints can run code when opened and are refused",
    );
    assert_eq!(std::fs::read(home.folder.join("in.png")).expect("the input is there"), whole);
}

#[test]
fn a_full_disk_leaves_the_old_output_and_no_rest() {
    let home = Home::new("full");
    save(&home, "in.png", &picture(200, 200));
    edit(&home, &["in.png", "--prompt", "x", "-o", "out.png"]);
    let before = std::fs::read(home.folder.join("out.png")).expect("it was just written");
    // A limit on the size of files stands for the disk; the tuned model is on disk already.
    let mut shell = home.command("/bin/sh");
    shell
        .args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$@\"", "sh"])
        .arg(program(&home))
        .args(["edit", "in.png", "--prompt", "x"]);
    shell.args(["-o", "out.png", "--eta", "0.3", "--force"]).args(QUICK);
    let (status, _, messages) = output(shell);
    assert_eq!(status, Some(1), "{messages}");
    assert!(messages.contains("cannot write out.png: File too large"), "{messages}");
    assert_eq!(std::fs::read(home.folder.join("out.png")).expect("the old output is there"), before);
    assert_eq!(home.files(), ["in.png", "out.png"]);
}

#[test]
fn ctrl_c_stops_within_a_step_with_status_130_and_leaves_nothing() {
    let home = Home::new("stopped");
    save(&home, "in.png", &picture(64, 64));
    let mut command = home.command(program(&home));
    command.args(["edit", "in.png", "--prompt", "x", "-o", "out.png", "--embedding-steps", "100000"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut messages = BufReader::new(child.stderr.take().expect("it is piped")).lines().map_while(Result::ok);
    assert!(messages.any(|line| line.starts_with("A: ") || line.starts_with("B: ")), "it never came to stage A");
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill is there");
    assert!(kill.success());
    assert_eq!(messages.last().as_deref(), Some("imagic-edit: stopped"));
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    assert_eq!(home.files(), ["in.png"]);
}

#[test]
fn a_second_ctrl_c_costs_nothing() {
    let home = Home::new("twice");
    save(&home, "in.png", &picture(64, 64));
    let start = || {
        let mut command = home.command(program(&home));
        command.args(["edit", "in.png", "--prompt", "x", "-o", "out.png", "--embedding-steps", "100000"]);
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
        let mut messages = BufReader::new(child.stderr.take().expect("it is piped")).lines().map_while(Result::ok);
        assert!(messages.any(|line| line.starts_with("A: ")), "it never came to stage A");
        (child, messages)
    };
    let (mut child, messages) = start();
    for _ in 0..2 {
        let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill is there");
        assert!(kill.success());
    }
    let messages: Vec<String> = messages.collect();
    assert!(messages.iter().any(|line| line.starts_with("stopping within a step")), "{messages:?}");
    assert_eq!(messages.last().map(String::as_str), Some("imagic-edit: stopped"));
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    let (_, list, _) = run(&home, &["cache", "list"]);
    assert!(list.contains("(stopped at step "), "{list}");
}

#[test]
fn what_nobody_sees_in_a_text_changes_nothing_and_what_other_programs_read_in_it_is_named() {
    let home = Home::new("texts");
    save(&home, "in.png", &picture(16, 16));
    let tuned = |prompt: &str| {
        let (_, json, messages) = edit(&home, &["in.png", "--prompt", prompt, "-o", "out.png", "--json"]);
        let report: Value = serde_json::from_str(&json).expect("it prints JSON");
        (report["outputs"][0]["tuned"].as_str().expect("a word").to_owned(), messages)
    };
    assert_eq!(tuned("a dog's ball").0, "now");
    for same in ["a dog\u{2019}s ball", " a dog's  ball\u{200b}", "a\u{a0}dog's \u{feff}ball"] {
        let (tuned, messages) = tuned(same);
        assert!(tuned == "on_disk" && !messages.contains("note: "), "{same:?}: {tuned} {messages}");
    }
    let (_, messages) = tuned("a (blue:1.4) car, BREAK <lora:foo:0.8>");
    assert!(messages.contains("note: (blue:1.4), <lora:foo:0.8>, BREAK means nothing here"), "{messages}");
}

/// An edit of some seconds that keeps what it has done after every step.
fn long_edit(home: &Home) -> Command {
    // The tests may run under nohup, and what nohup ignores is heard by nobody below it.
    let mut command = home.command("env");
    command.arg("--default-signal=HUP").arg(program(home));
    command.args(["edit", "in.png", "--prompt", "x", "-o", "out.png", "--embedding-steps", "30"]);
    command.args(["--tuning-steps", "120", "--sampling-steps", "4"]).env("IMAGIC_RESUME_SECONDS", "0");
    command
}

/// The result of [`long_edit`] where nothing comes in between.
static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let home = Home::new("uninterrupted");
    save(&home, "in.png", &picture(64, 64));
    let (status, _, messages) = output(long_edit(&home));
    assert_eq!(status, Some(0), "{messages}");
    std::fs::read(home.folder.join("out.png")).expect("it was just written")
});

/// Starts [`long_edit`] and sends `signal` once a line of its messages begins with `beginning`, after `pause`; how far
/// it says to have come before.
fn interrupt(home: &Home, beginning: &str, pause: Duration, signal: &str) -> Option<String> {
    let mut child = long_edit(home).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut messages = BufReader::new(child.stderr.take().expect("it is piped")).lines().map_while(Result::ok);
    let mut goes_on = None;
    for line in messages.by_ref() {
        if line.starts_with("Goes on at step ") {
            goes_on = Some(line);
        } else if line.starts_with(beginning) {
            break;
        }
    }
    std::thread::sleep(pause);
    // It may have ended meanwhile.
    let _ = Command::new("kill").args([signal, &child.id().to_string()]).stderr(Stdio::null()).status();
    messages.for_each(drop);
    child.wait().expect("it ends");
    goes_on
}

#[test]
fn whatever_ends_the_program_the_next_one_goes_on_and_ends_in_the_same_bytes() {
    for signal in ["-INT", "-TERM", "-HUP", "-KILL"] {
        let home = Home::new(&format!("resume{signal}"));
        save(&home, "in.png", &picture(64, 64));
        let pause = Duration::from_millis(100);
        assert_eq!(interrupt(&home, "B: ", pause, signal), None, "{signal}");
        assert_eq!(home.files(), ["in.png"], "{signal}");
        let (_, list, _) = run(&home, &["cache", "list"]);
        assert!(list.contains("  x (stopped at step ") && list.contains("64x64"), "{signal}: {list}");
        let (status, _, messages) = output(long_edit(&home));
        assert_eq!(status, Some(0), "{signal}: {messages}");
        assert!(messages.contains("Goes on at step ") && messages.contains(" of 150"), "{signal}: {messages}");
        assert!(!messages.contains("A: "), "{signal}: stage A ran again: {messages}");
        assert!(std::fs::read(home.folder.join("out.png")).expect("a result") == *WHOLE, "{signal}: other bytes");
        let (_, list, _) = run(&home, &["cache", "list"]);
        assert!(list.contains("\n1 tuned models") && !list.contains("stopped"), "{signal}: {list}");
    }
}

/// Many more are in `benches/kills.py`.
#[test]
fn kills_at_any_moment_cost_no_bytes_and_leave_nothing_behind() {
    let home = Home::new("kills");
    save(&home, "in.png", &picture(64, 64));
    let mut goes_on = 0;
    for pause in [30, 700, 90, 400, 10, 250] {
        goes_on += usize::from(interrupt(&home, "", Duration::from_millis(pause), "-KILL").is_some());
        // On a fast machine one may have come to its end before.
        if let Ok(whole) = std::fs::read(home.folder.join("out.png")) {
            assert!(whole == *WHOLE, "other bytes");
            std::fs::remove_file(home.folder.join("out.png")).expect("a file of ours");
        }
    }
    assert!(goes_on > 0, "every edit began anew");
    let (status, _, messages) = output(long_edit(&home));
    assert_eq!(status, Some(0), "{messages}");
    assert!(std::fs::read(home.folder.join("out.png")).expect("a result") == *WHOLE, "other bytes");
    let left = std::fs::read_dir(home.folder.join("cache/imagic-edit")).expect("the cache").flatten();
    let left: Vec<_> = left.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
    assert!(left.iter().all(|name| !name.ends_with(".part") && !name.ends_with(".resume")), "{left:?}");
}

#[test]
fn what_tells_of_an_edit_only_the_user_can_read() {
    let home = Home::new("private");
    save(&home, "in.png", &picture(16, 16));
    edit(&home, &["in.png", "--prompt", "x", "-o", "out.png"]);
    let cache = home.folder.join("cache/imagic-edit");
    let mode = |path: &Path| path.metadata().expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&cache), 0o700);
    for file in std::fs::read_dir(&cache).expect("the cache").flatten() {
        assert_eq!(mode(&file.path()), 0o600, "{}", file.path().display());
    }
}

#[test]
fn help_tells_of_every_command_and_parameter() {
    let home = Home::new("help");
    let (status, overview, _) = run(&home, &["--help"]);
    assert_eq!(status, Some(0));
    for command in ["edit", "models", "cache", "doctor", "serve"] {
        assert!(overview.contains(&format!("imagic-edit {command}")), "{command}");
        let (status, help, messages) = run(&home, &[command, "--help"]);
        assert_eq!((status, messages.as_str()), (Some(0), ""), "{command}");
        assert!(help.starts_with(&format!("imagic-edit {command}")), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
    }
    let (_, help, _) = run(&home, &["help", "edit"]);
    for param in imagic_edit::params::PARAMS {
        let option = format!("  --{} ", param.id.replace('_', "-"));
        assert!(help.contains(&option), "{option} is missing in {help}");
    }
    let (status, version, _) = run(&home, &["--version"]);
    assert_eq!((status, version.trim_end()), (Some(0), concat!("imagic-edit ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn models_are_listed_with_their_settings() {
    let home = Home::new("models");
    let (status, list, _) = run(&home, &["models"]);
    assert_eq!(status, Some(0));
    assert!(list.starts_with("scenes-64 (default)\n"), "{list}");
    let (_, json, _) = run(&home, &["models", "--json"]);
    let models: Value = serde_json::from_str(&json).expect("it prints JSON");
    assert_eq!(models["models"][0]["name"], "scenes-64");
    assert!(models["models"][0]["params"]["eta"].is_number(), "{models}");
}

#[test]
fn tuned_models_are_listed_and_cleared() {
    let home = Home::new("cache");
    assert!(run(&home, &["cache", "list"]).1.starts_with("0 tuned models"));
    save(&home, "in.png", &picture(16, 16));
    edit(&home, &["in.png", "--prompt", "a green door", "-o", "out.png"]);
    let (status, list, _) = run(&home, &["cache", "list"]);
    assert_eq!(status, Some(0));
    assert!(list.contains("used today  a green door\n") && list.contains("1 tuned models"), "{list}");
    let (_, json, _) = run(&home, &["cache", "list", "--json"]);
    let cache: Value = serde_json::from_str(&json).expect("it prints JSON");
    assert_eq!(cache["tuned_models"][0]["model"], "scenes-64");
    assert_eq!(run(&home, &["cache", "clear"]).0, Some(0));
    assert!(run(&home, &["cache", "list"]).1.starts_with("0 tuned models"));
}

/// Gray, of 40 x 30 pixels: white in a rectangle, or soft around it.
fn mask(soft: bool) -> DynamicImage {
    let value = |x: u32, y: u32| {
        let inside = (x as i32 - 9).min(25 - x as i32).min(y as i32 - 7).min(22 - y as i32).max(0) as u16;
        image::Luma([if soft { inside.min(6) * 10_922 } else { inside.min(1) * u16::MAX }])
    };
    DynamicImage::ImageLuma16(image::ImageBuffer::from_fn(40, 30, value))
}

#[test]
fn a_selection_is_edited_in_its_surroundings_and_what_is_not_selected_stays() {
    let home = Home::new("selection");
    let input = picture(40, 30);
    save(&home, "in.png", &input);
    let input = input.into_rgba16();
    let with = |selection: &str, more: &[&str]| {
        let fixed = ["in.png", "--prompt", "a blue bird", "-o", "out.png", "--selection", selection];
        let (_, _, messages) = edit(&home, &[&fixed, more].concat());
        (open(&home, "out.png").into_rgba16(), messages)
    };
    for (name, soft) in [("hard.png", false), ("soft.png", true)] {
        save(&home, name, &mask(soft));
        let (edited, _) = with(name, &[]);
        let mut changed = 0;
        for ((x, y, value), new) in mask(soft).into_luma16().enumerate_pixels().zip(edited.pixels()) {
            let own = input.get_pixel(x, y);
            assert!(value.0[0] > 0 || own == new, "{name}: {own:?} at {x}, {y} became {new:?}");
            assert_eq!(own[3], new[3], "{name}: alpha at {x}, {y}");
            changed += u32::from(own != new);
        }
        assert!(changed > 150, "{name}: {changed} pixels changed");
    }

    // Another margin is another picture to the model; the same one is known, however soft the selection is.
    assert!(with("soft.png", &[]).1.contains("tuned earlier"));
    let (narrow, messages) = with("hard.png", &["--margin", "10"]);
    assert!(messages.contains("tuned now"), "{messages}");
    assert!(narrow != with("hard.png", &[]).0, "the margin shows nowhere");

    // All of it is as good as none.
    save(&home, "all.png", &DynamicImage::ImageLuma8(image::ImageBuffer::from_pixel(40, 30, image::Luma([255]))));
    let (all, _) = with("all.png", &[]);
    let (_, _, messages) = edit(&home, &["in.png", "--prompt", "a blue bird", "-o", "none.png"]);
    assert!(messages.contains("tuned earlier"), "{messages}");
    assert!(all == open(&home, "none.png").into_rgba16());
}

#[test]
fn a_selection_that_fits_no_picture_is_refused_with_the_remedy() {
    let home = Home::new("selection-refused");
    save(&home, "in.png", &picture(40, 30));
    save(&home, "small.png", &DynamicImage::new_luma8(20, 15));
    save(&home, "black.png", &DynamicImage::new_luma8(40, 30));
    save(&home, "colored.png", &picture(40, 30));
    for (name, message) in [
        ("small.png", "small.png has 20x15 pixels, must have 40x30 as in.png; scale or crop it"),
        ("black.png", "black.png selects nothing; paint white what is to be edited"),
        ("colored.png", "must be gray: white where the picture is to be edited, black elsewhere"),
        ("none.png", "none.png"),
    ] {
        let arguments = ["edit", "in.png", "--prompt", "x", "-o", "out.png", "--selection", name];
        let (status, _, messages) = run(&home, &arguments);
        assert!(status == Some(1) && messages.contains(message), "{name}: {messages}");
    }
    assert!(!home.folder.join("out.png").exists());
}

#[test]
fn one_tuned_model_is_removed_by_its_letters_and_the_limit_is_set() {
    let home = Home::new("remove");
    save(&home, "in.png", &picture(16, 16));
    for prompt in ["a green door", "a red door"] {
        edit(&home, &["in.png", "--prompt", prompt, "-o", "out.png"]);
    }
    let (_, json, _) = run(&home, &["cache", "list", "--json"]);
    let cache: Value = serde_json::from_str(&json).expect("it prints JSON");
    let red = &cache["tuned_models"][1];
    assert_eq!((&red["prompt"], &red["kind"]), (&Value::from("a red door"), &Value::from("tuned")));
    assert_eq!(red["picture"], serde_json::json!([16, 16]));
    let id = red["id"].as_str().expect("letters").to_owned();
    let (status, list, _) = run(&home, &["cache", "list"]);
    let line = format!(
        "          {id}  in.png  16x16  {}\n",
        home.folder.canonicalize().expect("a home").join("in.png").display()
    );
    assert!(status == Some(0) && list.contains(&line), "{list}");
    let (status, _, messages) = run(&home, &["cache", "remove", &id, "none"]);
    assert!(status == Some(1) && messages.contains("no tuned model none; imagic-edit cache list"), "{messages}");
    assert_eq!(run(&home, &["cache", "remove", &id]).0, Some(0));
    let (_, list, _) = run(&home, &["cache", "list"]);
    assert!(list.contains("a green door") && !list.contains("a red door"), "{list}");
    edit(&home, &["in.png", "--prompt", "a red door", "-o", "out.png"]);
    let (status, removed, _) = run(&home, &["cache", "remove", "in.png"]);
    assert!(status == Some(0) && removed.starts_with("removed 2, "), "{removed}");
    assert!(run(&home, &["cache", "list"]).1.starts_with("0 tuned models"));
    for prompt in ["a green door", "a red door"] {
        edit(&home, &["in.png", "--prompt", prompt, "-o", "out.png"]);
    }

    let (status, limit, _) = run(&home, &["cache", "limit"]);
    assert!(status == Some(0) && limit.contains("a fifth of the free disk"), "{limit}");
    let (status, limit, _) = run(&home, &["cache", "limit", "1.5 gb"]);
    assert!(status == Some(0) && limit.contains("may take 1.5 GB (as it was set)"), "{limit}");
    assert!(run(&home, &["cache", "limit"]).1.contains("1.5 GB"));
    assert!(run(&home, &["cache", "limit", "automatic"]).1.contains("a fifth of the free disk"));
    for wrong in ["much", "-1", "5", "5 apples"] {
        let (status, _, messages) = run(&home, &["cache", "limit", "--", wrong]);
        assert!(status == Some(2) && messages.contains("must be a size such as 20GB"), "{wrong}: {messages}");
    }
    // So little that nothing but the last one fits.
    run(&home, &["cache", "limit", "1 B"]);
    edit(&home, &["in.png", "--prompt", "a blue door", "-o", "out.png"]);
    let (_, list, _) = run(&home, &["cache", "list"]);
    assert!(list.contains("a blue door") && list.contains("\n1 tuned models"), "{list}");
}

#[test]
fn a_private_edit_leaves_nothing_but_its_output() {
    let home = Home::new("private-edit");
    save(&home, "in.png", &picture(16, 16));
    edit(&home, &["in.png", "--prompt", "a secret", "-o", "out.png", "--private"]);
    assert_eq!(home.files(), ["in.png", "out.png"]);
    let left = |folder: &str| std::fs::read_dir(home.folder.join(folder)).map_or(0, |files| files.count());
    assert_eq!((left("cache"), left("config")), (0, 0));
}

#[test]
fn what_is_no_file_in_the_cache_is_a_miss_and_nobody_waits_for_it_or_follows_it() {
    let home = Home::new("no-files");
    save(&home, "in.png", &picture(16, 16));
    let tune = || edit(&home, &["in.png", "--prompt", "x", "-o", "out.png"]).2;
    tune();
    let folder = home.folder.join("cache/imagic-edit");
    let files = std::fs::read_dir(&folder).expect("the cache").flatten().map(|file| file.path());
    let entry = files.into_iter().find(|path| path.extension().is_some_and(|end| end == "safetensors")).expect("one");
    let whole = std::fs::read(&entry).expect("a tuned model");
    let victim = home.folder.join("victim");
    std::fs::write(&victim, &whole).expect("the home is writable");
    let make = |what: &str| match what {
        "a link" => std::os::unix::fs::symlink(&victim, &entry).expect("links can be made"),
        "a pipe" => assert!(Command::new("mkfifo").arg(&entry).status().expect("mkfifo is there").success()),
        _ => std::fs::create_dir(&entry).expect("a folder"),
    };
    for what in ["a link", "a pipe", "a folder"] {
        std::fs::remove_file(&entry).expect("it is ours");
        make(what);
        let messages = tune();
        assert!(messages.contains("is not used: it is not a file; tuning again"), "{what}: {messages}");
        assert!(messages.contains("tuned now"), "{what}: {messages}");
        assert_eq!(std::fs::read(&victim).expect("it is there"), whole, "{what}");
        assert!(entry.symlink_metadata().expect("a new one").is_file(), "{what}");
        let messages = tune();
        assert!(
            !messages.contains("is not used") && messages.contains("tuned earlier"),
            "{what}: told twice: {messages}"
        );
    }
    assert_eq!(run(&home, &["cache", "clear"]).0, Some(0));
}

#[test]
fn a_cache_on_a_full_disk_costs_what_does_not_fit_and_not_the_edit() {
    let home = Home::new("small-disk");
    save(&home, "in.png", &picture(16, 16));
    // A tuned model has 560 KB, a resume point three times as much.
    for (size, tuned_fits) in [("900k", true), ("300k", false)] {
        let Some(disk) = SmallDisk::new(&home.folder.join("cache/imagic-edit"), &["size=", size].concat()) else {
            return;
        };
        let mut command = home.command(program(&home));
        command.args(["edit", "--force", "in.png", "--prompt", "x", "-o", "out.png"]).args(QUICK);
        let (status, _, messages) = output({
            command.env("IMAGIC_RESUME_SECONDS", "0");
            command
        });
        assert_eq!(status, Some(0), "{size}: {messages}");
        assert!(
            messages.contains("note: stopped, this edit could not go on in another program: "),
            "{size}: {messages}"
        );
        let note = "note: the tuned model is kept only until this program closes: cannot write ";
        assert_eq!(messages.contains(note), !tuned_fits, "{size}: {messages}");
        let left = std::fs::read_dir(&disk.0).expect("the cache").flatten();
        let left: Vec<_> = left.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
        let is_left = |ending: &str| left.iter().any(|name| name.ends_with(ending));
        // The embedding's resume point is small; where the tuned model is not kept, it is better than nothing.
        assert!(!is_left(".part") && is_left(".resume") != tuned_fits, "{size}: {left:?}");
        assert_eq!(is_left(".safetensors"), tuned_fits, "{size}: {left:?}");
    }
}

#[test]
fn doctor_names_what_is_wrong_and_how_to_mend_it() {
    let home = Home::new("doctor");
    // A copy of another version, as an update that was not finished leaves it.
    let copy = home.folder.join("config/GIMP/2.10/plug-ins/imagic-edit");
    std::fs::create_dir_all(&copy).expect("the home is writable");
    std::fs::write(copy.join("libimagic_edit.so"), "").expect("the home is writable");
    std::fs::write(copy.join("imagic-edit"), "#!/bin/sh\necho imagic-edit 0.0.1\n").expect("the home is writable");
    let status = Command::new("chmod").arg("755").arg(copy.join("imagic-edit")).status().expect("chmod is there");
    assert!(status.success());
    let (status, text, _) = run(&home, &["doctor"]);
    assert_eq!(status, Some(1), "{text}");
    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(joined.contains("holds imagic-edit 0.0.1, this is imagic-edit"), "{text}");
    assert!(joined.contains("-> install Imagic Edit again"), "{text}");
    assert!(joined.contains("ok processor with"), "{text}");
    let cache = home.folder.join("cache");
    std::fs::create_dir_all(&cache).expect("the home is writable");
    std::fs::write(cache.join("imagic-edit"), "a file").expect("the home is writable");
    let (_, without_folder, _) = run(&home, &["doctor"]);
    let without_blanks = without_folder.split_whitespace().collect::<String>();
    assert!(without_blanks.contains("isnotafolder") && !without_blanks.contains("usedin"), "{without_folder}");
    // Tiny, so that tuning it fits into any memory.
    assert!(joined.contains("scenes-64, an edit needs ") && !joined.contains("WRONG scenes-64"), "{text}");
}

#[test]
fn doctor_finds_nothing_wrong_where_no_editor_is_and_an_edit_works() {
    let home = Home::new("no-editor");
    let mut command = home.command(program(&home));
    let (status, text, _) = output({
        command.arg("doctor").env("PATH", "/nowhere");
        command
    });
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("neither GIMP nor Krita is on the PATH"), "{text}");
}

#[test]
fn the_log_tells_of_every_stage_and_of_no_text_and_doctor_bundles_it() {
    let home = Home::new("log");
    save(&home, "in.png", &picture(20, 16));
    let log = home.folder.join("state/imagic-edit/log.txt");
    edit(&home, &["in.png", "-o", "out.png", "--prompt", "a secret bird", "--private"]);
    assert!(!log.exists(), "nothing is kept of a private edit");
    edit(&home, &["in.png", "-o", "out.png", "--prompt", "a secret bird"]);
    let (status, _, _) = run(&home, &["edit", "in.png", "-o", "out.png", "--prompt", "another", "--model", "none"]);
    assert_eq!(status, Some(1));
    let text = std::fs::read_to_string(&log).expect("a log");
    let lines: Vec<&str> = text.lines().collect();
    let said = |what: &str| lines.iter().any(|line| line.contains(what));
    assert!(lines[0].contains(concat!("Z ", env!("CARGO_PKG_VERSION"))), "{text}");
    assert!(said(" edit of 20x16 pixels, ") && said(" on the processor, ") && said(" MB free; "), "{text}");
    assert!(said(" LoadModel: ") && said(" OptimizeTextEmbedding: ") && said(" FineTune: "), "{text}");
    assert!(said(" steps 0 to 2, Full; ") && said(" Generate: ") && said(" done; ") && said(" MB, at most "), "{text}");
    assert_eq!(log.metadata().expect("it is there").permissions().mode() & 0o777, 0o600);

    let (_, told, _) = run(&home, &["doctor", "--report", "report.txt"]);
    let report = std::fs::read_to_string(home.folder.join("report.txt")).expect("a report");
    assert!(told.ends_with("wrote report.txt; read it before you send it\n"), "{told}");
    for part in ["Imagic Edit ", "\nMachine\n", "  kernel: ", " OptimizeTextEmbedding: "] {
        assert!(report.contains(part), "no {part} in {report}");
    }
    assert!(!report.contains("secret") && !report.contains("another"), "{report}");
    assert!(!report.contains(&*home.folder.to_string_lossy()), "{report}");
    let (status, _, messages) = run(&home, &["doctor", "--report", "in.png"]);
    assert!(status == Some(1) && messages.contains("in.png is there already and no report"), "{messages}");
    run(&home, &["doctor", "--report", "report.txt", "--texts"]);
    let report = std::fs::read_to_string(home.folder.join("report.txt")).expect("a report");
    assert!(report.contains("a secret bird"), "{report}");
    assert_eq!(run(&home, &["doctor", "--texts"]).0, Some(2));
}

/// The most memory that the last edit in this home had, in MB.
fn most_memory(home: &Home) -> u64 {
    let log = std::fs::read_to_string(home.folder.join("state/imagic-edit/log.txt")).expect("a log");
    let last = log.lines().last().expect("a line");
    let most = last.strip_suffix(" MB").and_then(|line| line.rsplit(' ').next()?.parse().ok());
    most.unwrap_or_else(|| panic!("{last}"))
}

#[test]
fn a_color_profile_that_unpacks_to_hundreds_of_megabytes_takes_none_of_them() {
    let home = Home::new("profile");
    let profile = vec![0; 400_000_000];
    let mut packed = flate2::write::ZlibEncoder::new(b"zeros\0\0".to_vec(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, &profile).expect("memory takes everything");
    let content = packed.finish().expect("memory takes everything");
    drop(profile);
    save(&home, "in.png", &picture(20, 16));
    let png = std::fs::read(home.folder.join("in.png")).expect("a picture");
    let mut chunk = [b"iCCP", content.as_slice()].concat();
    let mut crc = flate2::Crc::new();
    crc.update(&chunk);
    chunk = [&(content.len() as u32).to_be_bytes(), chunk.as_slice(), &crc.sum().to_be_bytes()].concat();
    // Behind the signature and the header.
    let with = [&png[..33], &chunk, &png[33..]].concat();
    std::fs::write(home.folder.join("bomb.png"), with).expect("it can be written");
    edit(&home, &["in.png", "-o", "out.png", "--prompt", "a bird"]);
    let usual = most_memory(&home);
    edit(&home, &["bomb.png", "-o", "out.png", "--prompt", "a bird"]);
    let most = most_memory(&home);
    assert!(most < usual + 150, "{most} MB instead of {usual} MB");
}

#[test]
fn where_memory_is_limited_a_sentence_says_so_before_a_large_picture_is_decoded() {
    let home = Home::new("limited");
    let white: image::GrayImage = image::ImageBuffer::from_pixel(10_000, 10_000, image::Luma([255]));
    save(&home, "large.png", &DynamicImage::ImageLuma8(white));
    save(&home, "small.png", &picture(20, 16));
    let installed = program(&home);
    let limited = |limit: &str, picture: &str| {
        let mut command = home.command("sh");
        command.args(["-c", &format!("{limit} && exec \"$0\" \"$@\"")]).arg(&installed);
        command.args(["edit", "--force", picture, "-o", "out.png", "--prompt", "a bird"]).args(QUICK);
        output(command)
    };
    let (status, _, errors) = limited("ulimit -v 2500000", "large.png");
    assert_eq!(status, Some(1), "{errors}");
    let sentence = "large.png has 10000x10000 pixels, which take 3.1 GB of memory, and ";
    assert!(errors.contains(sentence) && errors.contains("scale it down"), "{errors}");
    // In between it depends on what the allocator and the threads reserve; it never just dies.
    let limits = ["-v 4000000", "-v 2500000", "-v 1500000", "-v 900000", "-v 300000", "-d 600000", "-d 300000"];
    let ended = limits.map(|limit| {
        // Otherwise only the first one tunes.
        let _ = std::fs::remove_dir_all(home.folder.join("cache"));
        let (status, _, errors) = limited(&format!("ulimit {limit}"), "small.png");
        let is_told = status == Some(1) && errors.contains("close other programs");
        assert!(status == Some(0) || is_told, "{limit}: {status:?} {errors}");
        status
    });
    assert_eq!((ended[0], ended[4]), (Some(0), Some(1)));

    // A control group, as a container has one.
    let folder = Path::new("/sys/fs/cgroup/memory").join(format!("imagic-edit-{}", std::process::id()));
    let (group, bytes) = match std::fs::create_dir(&folder) {
        Ok(()) => (folder.clone(), "memory.limit_in_bytes"),
        Err(_) => (Path::new("/sys/fs/cgroup").join(folder.file_name().expect("a name")), "memory.max"),
    };
    let made = group.is_dir() || std::fs::create_dir(&group).is_ok();
    if !made || std::fs::write(group.join(bytes), "260000000").is_err() {
        let _ = std::fs::remove_dir(&group);
        return println!("skipped: this account may make no control group with a limit of memory");
    }
    let enter = format!("echo $$ > '{}'", group.join("cgroup.procs").display());
    let (status, _, errors) = limited(&enter, "small.png");
    assert_eq!(status, Some(0), "{errors}");
    let (status, _, errors) = limited(&enter, "large.png");
    assert_eq!(status, Some(1), "{errors}");
    assert!(errors.contains(sentence), "{errors}");
    let mut doctor = home.command("sh");
    doctor.args(["-c", &format!("{enter} && exec \"$0\" doctor")]).arg(&installed);
    let (_, text, _) = output(doctor);
    assert!(text.contains("of memory free, as a control group allows"), "{text}");
    std::fs::remove_dir(&group).expect("nobody is in it any more");
}

#[test]
fn an_unknown_precision_is_refused_with_the_known_ones() {
    let home = Home::new("precision");
    save(&home, "in.png", &picture(8, 8));
    let mut command = home.command(program(&home));
    command.args(["edit", "in.png", "--prompt", "x", "-o", "out.png"]).env("IMAGIC_PRECISION", "fp8");
    let (status, _, messages) = output(command);
    assert_eq!(status, Some(1));
    assert!(messages.contains("IMAGIC_PRECISION is fp8, must be f32, tf32 or bf16"), "{messages}");
}

#[test]
fn a_launcher_without_its_library_says_so() {
    let home = Home::new("launcher");
    let alone = home.folder.join("imagic-edit");
    std::fs::copy(program(&home), &alone).expect("the program can be copied");
    let (status, _, messages) = output(home.command(&alone));
    assert_eq!(status, Some(1));
    assert!(messages.contains("libimagic_edit.so is missing; install Imagic Edit again"), "{messages}");

    std::fs::write(home.folder.join("libimagic_edit.so"), "not a library").expect("the home is writable");
    let (status, _, messages) = output(home.command(&alone));
    assert_eq!(status, Some(1));
    assert!(messages.contains("cannot load "), "{messages}");

    // Another library, in which the entry is missing.
    let other =
        ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/libm.so.6"].into_iter().find(|path| Path::new(path).exists());
    let Some(other) = other else {
        return eprintln!("skipped: no other library at hand");
    };
    std::fs::copy(other, home.folder.join("libimagic_edit.so")).expect("the library can be copied");
    let (status, _, messages) = output(home.command(&alone));
    assert_eq!(status, Some(1));
    assert!(messages.contains("has no imagic_main"), "{messages}");

    // Started through a link, it still finds the library beside the program itself.
    let link = home.folder.join("link");
    std::os::unix::fs::symlink(program(&home), &link).expect("links can be made");
    let mut version = home.command(&link);
    version.arg("--version");
    assert_eq!(output(version).0, Some(0));
}
