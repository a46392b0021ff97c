//! The engine from pixels to pixels on a small random model: determinism, cache, stopping, and what it says when
//! something is wrong.

mod support;

use candle_core::Device;
use imagic_edit::catalog;
use imagic_edit::engine::Engine;
use imagic_edit::engine::budget::memory::{Needs, Shapes, Task};
use imagic_edit::engine::budget::plan::{self, Plan};
use imagic_edit::engine::device::{Chosen, Launches, Precision, Processor};
use imagic_edit::engine::model::family::Family;
use imagic_edit::engine::model::source::Source;
use imagic_edit::engine::request::{Edit, EditRequest, EngineOptions, Progress, Stage, Tuned};
use imagic_edit::engine::store::cache::{self, Kind};
use imagic_edit::engine::store::difference;
use imagic_edit::engine::store::digests::Digests;
use imagic_edit::engine::tuning::mode::Mode;
use imagic_edit::error::{Error, Hint, Result};
use imagic_edit::image::LayerImage;
use imagic_edit::job::{JobState, Worker};
use imagic_edit::params::{Detail, LoraLayers, Params, PredictionType, TuningMode};
use serde_json::{Value, json};
use std::fs::File;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};
use support::{copy_folder, model};

fn shapes() -> Shapes {
    let source = Source::open(&model()).expect("a model");
    Shapes::new(&source, Family::of(&source).expect("a family"), &Device::Cpu).expect("shapes")
}

/// An empty folder that is removed again.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("imagic-edit-{}-{name}", std::process::id()));
        // Left over from an aborted run with the same process number.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// On the processor, or on the GPU where `IMAGIC_TEST_DEVICE` is cuda.
fn engine(cache: Option<&Folder>) -> Engine {
    let processor = match std::env::var("IMAGIC_TEST_DEVICE").as_deref() {
        Ok("cuda") => {
            let (precision, launches) = (Precision::F32, Launches::Replayed);
            Processor::Fastest { libraries: Vec::new(), precision, launches, eight_bit_moments: true }
        }
        _ => Processor::Cpu,
    };
    Engine::new(EngineOptions {
        cache_folder: cache.map(|folder| folder.0.clone()),
        processor,
        ..EngineOptions::default()
    })
}

/// A picture with some structure.
fn layer(width: u32, height: u32) -> LayerImage {
    let pixel = |i: u32| {
        let (x, y) = (i % width, i / width);
        [(x * 2000) as u16, (y * 3000) as u16, ((x ^ y) * 1000) as u16, if x == 0 { 30_000 } else { u16::MAX }]
    };
    LayerImage::new(width, height, (0..width * height).flat_map(pixel).collect()).expect("a layer")
}

fn request() -> EditRequest {
    let params = Params {
        prompt: "a photo of a bird".into(),
        embedding_steps: 3,
        tuning_steps: 3,
        sampling_steps: 3,
        embedding_lr: 1e-3,
        tuning_lr: 1e-4,
        guidance: 3.0,
        ..Params::paper()
    };
    let (layer, document) = (layer(40, 30).into(), "document".into());
    EditRequest {
        layer,
        params,
        model_path: model(),
        familiar_psnr: None,
        document,
        selection: None,
        layer_digest: None,
        previews: 0,
    }
}

/// What the edit's layer is: the size of that of every request here.
fn rendered(edit: &Edit) -> LayerImage {
    edit.picture.on(&request().layer).0
}

/// Which of its pixels are the source's own.
fn untouched(edit: &Edit) -> Vec<bool> {
    edit.picture.on(&request().layer).1
}

fn edit(engine: &mut Engine, request: &EditRequest) -> Result<Edit> {
    engine.edit(request, &mut |_| ControlFlow::Continue(()))
}

#[test]
fn the_same_request_gives_the_same_bytes_cold_from_memory_and_from_disk() {
    let cache = Folder::new("same-bytes");
    let mut first = engine(Some(&cache));
    let cold = edit(&mut first, &request()).expect("an edit");
    assert_eq!((cold.tuned, cold.embedding_losses.len(), cold.tuning_losses.len()), (Tuned::Now, 3, 3));
    let warm = edit(&mut first, &request()).expect("an edit");
    assert_eq!((warm.tuned, warm.embedding_losses.len()), (Tuned::InMemory, 0));
    let from_disk = edit(&mut engine(Some(&cache)), &request()).expect("an edit");
    assert_eq!(from_disk.tuned, Tuned::OnDisk);
    let alone = edit(&mut engine(None), &request()).expect("an edit");
    for other in [&warm, &from_disk, &alone] {
        assert!(rendered(&cold) == rendered(other), "{:?} gave other pixels", other.tuned);
    }
    assert_eq!((rendered(&cold).width(), rendered(&cold).height()), (40, 30));
    let alpha = |layer: &LayerImage| layer.rgba().iter().skip(3).step_by(4).copied().collect::<Vec<_>>();
    assert_eq!(alpha(&rendered(&cold)), alpha(&request().layer), "the alpha of the source");
}

#[test]
fn only_what_tuning_depends_on_tunes_anew() {
    let mut engine = engine(None);
    edit(&mut engine, &request()).expect("an edit");
    let mut check = |what: &str, change: &dyn Fn(&mut EditRequest), expected: Tuned| {
        // Back to the first request, whatever was tuned last.
        edit(&mut engine, &request()).expect("an edit");
        let mut changed = request();
        change(&mut changed);
        assert_eq!(edit(&mut engine, &changed).expect(what).tuned, expected, "{what}");
    };
    check("eta", &|r| r.params.eta = 0.3, Tuned::InMemory);
    check("seed", &|r| r.params.seed = 5, Tuned::InMemory);
    check("guidance", &|r| r.params.guidance = 1.0, Tuned::InMemory);
    check("sampling steps", &|r| r.params.sampling_steps = 2, Tuned::InMemory);
    check("document", &|r| r.document = "copy".into(), Tuned::InMemory);
    check("case and blanks", &|r| r.params.prompt = " A  photo of a\tBird ".into(), Tuned::InMemory);
    check("signs that nobody sees", &|r| r.params.prompt = "a pho\u{ad}to of\u{200b} a bird".into(), Tuned::InMemory);
    check("prompt", &|r| r.params.prompt = "a cat".into(), Tuned::Now);
    check("tuning seed", &|r| r.params.tuning_seed = 1, Tuned::Now);
    check("learning rate", &|r| r.params.tuning_lr = 2e-4, Tuned::Now);
    let one_value_more = |r: &mut EditRequest| {
        let mut rgba = r.layer.rgba().to_vec();
        rgba[5] += 1;
        r.layer = LayerImage::new(40, 30, rgba).expect("the same size").into();
    };
    check("a layer that is known by its digest", &|r| r.layer_digest = Some(1), Tuned::Now);
    check("one value of one pixel", &one_value_more, Tuned::Now);
}

/// Tuned models are kept under it, so that a new version must find it unchanged.
#[test]
fn a_model_keeps_its_fingerprint() {
    for (model, fingerprint) in [
        ("tests/fixtures/small-sd1/model", "af6e29e5890169bb016659749ba6913021f0de8c545ccdf04576a1ccc2c82cd0"),
        ("tests/fixtures/small-v/model", "9b5ecc641a68a4a668d86a0b0a7f97d8a99df76ad19c9c4eb2c17417b6f51ae3"),
    ] {
        let source = Source::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(model)).expect("a model");
        let digests = Digests::new(None);
        let mut digest = |file: &File, path: &Path| digests.of(file, path, &mut || Ok(()));
        assert_eq!(source.fingerprint(&mut digest).expect("a fingerprint"), fingerprint, "{model}");
    }
}

#[test]
fn eta_and_seed_change_the_result() {
    let mut engine = engine(None);
    let mut at = |eta, seed| {
        let mut request = request();
        (request.params.eta, request.params.seed) = (eta, seed);
        rendered(&edit(&mut engine, &request).expect("an edit"))
    };
    let first = at(0.7, 0);
    assert!(first != at(1.0, 0) && first != at(0.7, 1));
}

#[test]
fn stopping_takes_effect_within_one_step_at_every_stage_and_leaves_no_trace() {
    let cache = Folder::new("stop");
    for stage in [Stage::LoadModel, Stage::OptimizeTextEmbedding, Stage::FineTune] {
        let mut engine = engine(Some(&cache));
        let mut steps_after = 0;
        let mut stopped = false;
        let result = engine.edit(&request(), &mut |progress: Progress| {
            steps_after += u32::from(stopped);
            stopped |= progress.stage == stage;
            if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(result, Err(Error::Cancelled)), "{stage:?}");
        assert_eq!(steps_after, 0, "{stage:?} went on");
        let entries = cache::list(&cache.0).expect("the folder");
        assert!(entries.iter().all(|entry| entry.kind != Kind::Tuned), "{stage:?} left a tuned model");
        assert_eq!(edit(&mut engine, &request()).expect("the next job").tuned, Tuned::Now);
        engine.settle();
        cache::clear(&cache.0).expect("an empty cache");
    }
    // Stopped in stage C, the finished tuning is kept.
    let mut engine = engine(Some(&cache));
    let result = engine.edit(&request(), &mut |progress: Progress| {
        if progress.stage == Stage::Generate { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(result, Err(Error::Cancelled)));
    assert_eq!(edit(&mut engine, &request()).expect("the next job").tuned, Tuned::InMemory);
}

#[test]
fn an_edit_that_was_stopped_goes_on_and_ends_as_if_it_had_not_been() {
    let whole = edit(&mut engine(None), &request()).expect("an edit");
    for (stage, step) in [
        (Stage::OptimizeTextEmbedding, 0),
        (Stage::OptimizeTextEmbedding, 2),
        (Stage::OptimizeTextEmbedding, 3),
        (Stage::FineTune, 1),
        (Stage::FineTune, 3),
    ] {
        let mut engine = engine(None);
        let stop_at = |progress: &Progress| progress.stage == stage && progress.step == step;
        let result = engine.edit(&request(), &mut |progress| {
            if stop_at(&progress) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(result, Err(Error::Cancelled)));
        let expected = stage == Stage::FineTune || step > 0;
        let goes_on = engine.estimate(&request()).expect("an estimate").goes_on;
        let done = if stage == Stage::FineTune { 3 + step } else { step };
        assert_eq!(goes_on, expected.then_some([done, 6]), "{stage:?} {step}");
        let mut first = None;
        let rest = engine.edit(&request(), &mut |progress| {
            if progress.stage != Stage::LoadModel {
                first.get_or_insert((progress.stage, progress.step));
            }
            ControlFlow::Continue(())
        });
        let rest = rest.expect("the rest of the edit");
        assert_eq!(first, Some((stage, step)), "went on from another step");
        assert!(rendered(&rest) == rendered(&whole), "{stage:?} {step}: other pixels");
        let losses = |edit: &Edit| (edit.embedding_losses.clone(), edit.tuning_losses.clone());
        assert_eq!(losses(&rest), losses(&whole));
    }
    // Something else in between begins anew.
    let mut engine = engine(None);
    let stop = |progress: Progress| {
        if progress.stage == Stage::FineTune { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    assert!(engine.edit(&request(), &mut { stop }).is_err());
    let mut other = request();
    other.params.tuning_seed = 9;
    edit(&mut engine, &other).expect("another edit");
    assert!(engine.estimate(&request()).expect("an estimate").goes_on.is_none());
    assert!(rendered(&edit(&mut engine, &request()).expect("an edit")) == rendered(&whole));
}

#[test]
fn an_edit_that_is_stopped_in_the_middle_of_a_step_goes_on_and_ends_as_if_it_had_not_been() {
    for tuning_mode in [TuningMode::Full, TuningMode::Checkpointed, TuningMode::Lora] {
        let mut request = request();
        request.params.tuning_mode = tuning_mode;
        (request.params.embedding_steps, request.params.tuning_steps) = (15, 15);
        let started = Instant::now();
        let whole = edit(&mut engine(None), &request).expect("an edit");
        let mut took = started.elapsed();
        let (mut stopped, mut result) = stopped_at_moments_of(took, &request);
        while stopped == 0 && took > Duration::from_millis(1) {
            // The machine had more to do while the time was taken.
            took /= 2;
            (stopped, result) = stopped_at_moments_of(took, &request);
        }
        assert!(stopped > 0, "{tuning_mode:?}: nothing was stopped");
        assert!(rendered(&result) == rendered(&whole), "{tuning_mode:?}: other pixels");
    }
}

/// How often an edit that takes about so long was stopped, each time going on at where it was, and how it ended.
fn stopped_at_moments_of(took: Duration, request: &EditRequest) -> (u32, Edit) {
    // Both are threads of a worker's own, which look at the stop amid an operation.
    let cache = Folder::new("middle");
    let worker = Worker::start(careful_engine(&cache)).expect("a thread");
    let mut stopped = 0;
    loop {
        let moment = took * ((stopped + 1) * 37 % 100) / 100;
        let mut job = worker.submit(request.clone());
        let started = Instant::now();
        let ended = loop {
            if stopped < 25 && started.elapsed() >= moment {
                job.cancel();
            }
            if let JobState::Ended(ended) = job.poll() {
                break ended;
            }
            std::thread::sleep(Duration::from_micros(100));
        };
        match ended {
            Err(Error::Cancelled) => stopped += 1,
            ended => return (stopped, *ended.expect("an edit")),
        }
    }
}

#[test]
fn while_a_stopped_edit_is_being_written_the_next_one_can_be_stopped() {
    let cache = Folder::new("still-writing");
    let mut engine = engine(Some(&cache));
    // Who has it keeps others from writing for a second or two.
    let gate = File::options().create(true).append(true).open(cache.0.join(".gate")).expect("a temporary folder");
    let stopped = engine.edit(&request(), &mut |progress: Progress| {
        if (progress.stage, progress.step) == (Stage::FineTune, 1) {
            gate.lock().expect("nobody has it for long");
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    assert!(matches!(stopped, Err(Error::Cancelled)));
    let mut told = Vec::new();
    let next = engine.edit(&request(), &mut |progress: Progress| {
        told.push(progress.stage);
        // The first comes before the waiting.
        if told.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(next, Err(Error::Cancelled)), "{told:?}");
    assert_eq!(told, [Stage::LoadModel; 2], "it waited for the disk without a look at the stop");
    gate.unlock().expect("it is ours");
    let (_, first) = rest_of(&mut engine, &request());
    assert_eq!(first, Some((Stage::FineTune, 1)), "what was stopped is lost");
}

#[test]
fn after_a_panic_in_any_stage_the_next_edit_is_as_if_there_had_been_none() {
    let mut request = request();
    request.previews = 1;
    let whole = edit(&mut engine(None), &request).expect("an edit");
    let cache = Folder::new("panics");
    for (stage, step) in [
        (Stage::LoadModel, 0),
        (Stage::OptimizeTextEmbedding, 0),
        (Stage::OptimizeTextEmbedding, 2),
        (Stage::FineTune, 0),
        (Stage::FineTune, 2),
        (Stage::Generate, 0),
        (Stage::Generate, 2),
    ] {
        let mut engine = careful_engine(&cache);
        let died = std::panic::catch_unwind(AssertUnwindSafe(|| {
            engine.edit(&request, &mut |progress: Progress| {
                assert!((progress.stage, progress.step) != (stage, step), "as told");
                ControlFlow::Continue(())
            })
        }));
        assert!(died.is_err(), "it never came to step {step} of {stage:?}");
        let next = edit(&mut engine, &request).expect("the next edit");
        assert!(rendered(&next) == rendered(&whole), "{stage:?} {step}: other pixels");
        drop(engine);
        assert!(files_in(&cache).iter().all(|file| file.ends_with(".safetensors")), "{:?}", files_in(&cache));
        cache::clear(&cache.0).expect("an empty cache");
    }
}

/// On the processor; what stages A and B have done is written after every step.
fn careful_engine(cache: &Folder) -> Engine {
    Engine::new(EngineOptions {
        cache_folder: Some(cache.0.clone()),
        resume_every: Duration::ZERO,
        ..EngineOptions::default()
    })
}

/// Edits until `step` of `stage` is done, then dies as a program that has a defect.
fn die_at(mut engine: Engine, request: &EditRequest, stage: Stage, step: u32) {
    let died = std::panic::catch_unwind(AssertUnwindSafe(|| {
        engine.edit(request, &mut |progress: Progress| {
            assert!(progress.stage != stage || progress.step != step, "as told");
            ControlFlow::Continue(())
        })
    }));
    assert!(died.is_err(), "it never came to step {step} of {stage:?}");
}

/// The edit, and the first step of stage A or B that was told.
fn rest_of(engine: &mut Engine, request: &EditRequest) -> (Edit, Option<(Stage, u32)>) {
    let mut first = None;
    let rest = engine.edit(request, &mut |progress| {
        if [Stage::OptimizeTextEmbedding, Stage::FineTune].contains(&progress.stage) {
            first.get_or_insert((progress.stage, progress.step));
        }
        ControlFlow::Continue(())
    });
    (rest.expect("the rest of the edit"), first)
}

/// Every file of the cache folder but those that any program may leave there.
fn files_in(cache: &Folder) -> Vec<String> {
    let files = std::fs::read_dir(&cache.0).expect("the folder").flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| !name.ends_with(".json") && name != ".gate").collect();
    names.sort();
    names
}

#[test]
fn an_edit_goes_on_in_another_program_however_the_first_one_ended() {
    for tuning_mode in [TuningMode::Full, TuningMode::Lora] {
        let mut request = request();
        request.params.tuning_mode = tuning_mode;
        let whole = edit(&mut engine(None), &request).expect("an edit");
        for (stage, step) in [
            (Stage::OptimizeTextEmbedding, 1),
            (Stage::OptimizeTextEmbedding, 3),
            (Stage::FineTune, 0),
            (Stage::FineTune, 2),
            (Stage::FineTune, 3),
            (Stage::Generate, 1),
        ] {
            for stops in [true, false] {
                let cache = Folder::new("resume");
                let mut lost = 0;
                if stops {
                    let mut engine = engine(Some(&cache));
                    let stopped = engine.edit(&request, &mut |progress| {
                        let is_there = progress.stage == stage && progress.step == step;
                        if is_there { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                    });
                    assert!(matches!(stopped, Err(Error::Cancelled)));
                } else {
                    die_at(careful_engine(&cache), &request, stage, step);
                    // What was told last was not written yet.
                    lost = 1;
                }
                let what = format!("{tuning_mode:?}, {stage:?} {step}, stopped: {stops}");
                let mut second = engine(Some(&cache));
                let goes_on = second.estimate(&request).expect("an estimate").goes_on;
                let (rest, first) = rest_of(&mut second, &request);
                let done = match stage {
                    Stage::OptimizeTextEmbedding => step - lost,
                    Stage::FineTune => 3 + step.saturating_sub(lost),
                    _ => 6,
                };
                if stage == Stage::Generate && stops {
                    assert_eq!(rest.tuned, Tuned::OnDisk, "{what}");
                } else {
                    assert_eq!(goes_on, (done > 0).then_some([done, 6]), "{what}");
                    let (stage, step) = first.expect("it goes on");
                    let at = if stage == Stage::FineTune { 3 + step } else { step };
                    assert_eq!(at, done, "{what}: went on from another step");
                    let losses = |edit: &Edit| (edit.embedding_losses.clone(), edit.tuning_losses.clone());
                    assert_eq!(losses(&rest), losses(&whole), "{what}");
                }
                assert!(rendered(&rest) == rendered(&whole), "{what}: other pixels");
                drop(second);
                let files = files_in(&cache);
                assert!(files.len() == 1 && files[0].ends_with(".safetensors"), "{what}: {files:?}");
            }
        }
    }
}

#[test]
fn a_resume_point_serves_the_mode_that_fits_now() {
    let mut request = request();
    let whole = edit(&mut engine(None), &request).expect("an edit");
    let cache = Folder::new("resume-modes");
    request.params.tuning_mode = TuningMode::Checkpointed;
    die_at(careful_engine(&cache), &request, Stage::FineTune, 2);
    request.params.tuning_mode = TuningMode::Automatic;
    let (rest, first) = rest_of(&mut engine(Some(&cache)), &request);
    assert_eq!(first, Some((Stage::FineTune, 1)));
    assert!(rendered(&rest) == rendered(&whole), "other pixels");
    // Adapters that somebody asked for are not what somebody else asks for.
    cache::clear(&cache.0).expect("an empty cache");
    request.params.tuning_mode = TuningMode::Lora;
    die_at(careful_engine(&cache), &request, Stage::FineTune, 2);
    request.params.tuning_mode = TuningMode::Full;
    assert!(engine(Some(&cache)).estimate(&request).expect("an estimate").goes_on.is_none());
}

/// As it is before its last bytes are written.
fn without_digest(entry: &[u8]) -> Vec<u8> {
    let before = br#"\"digest\":\""#;
    let at = entry.windows(before.len()).position(|window| window == before).expect("a digest") + before.len();
    [&entry[..at], &[b'0'; 64], &entry[at + 64..]].concat()
}

#[test]
fn a_damaged_or_foreign_resume_point_is_a_miss_and_moved_aside() {
    let whole = edit(&mut engine(None), &request()).expect("an edit");
    let cache = Folder::new("resume-damaged");
    let leave = |request: &EditRequest| {
        die_at(careful_engine(&cache), request, Stage::FineTune, 2);
        let files = files_in(&cache);
        let name = files.iter().find(|name| name.ends_with(".resume")).expect("a resume point");
        cache.0.join(name)
    };
    let mut other = request();
    other.params.tuning_seed = 1;
    let others = leave(&other);
    let foreign = std::fs::read(&others).expect("a resume point");
    std::fs::remove_file(&others).expect("it is ours");
    let file = leave(&request());
    let good = std::fs::read(&file).expect("a resume point");
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("truncated", good[..good.len() - 10].to_vec()),
        ("one bit of a value flipped", flipped(good.len() / 2)),
        ("no safetensors at all", vec![255; 100]),
        // What a power cut leaves on a disk that keeps no order: a name before what is in the file, or a part of it.
        ("nothing but its length", vec![0; good.len()]),
        ("without its digest", without_digest(&good)),
        ("without its first page", [&[0; 4096], &good[4096..]].concat()),
        ("without its last page", [&good[..good.len() - 4096], &[0; 4096]].concat()),
        ("with a page of another edit", {
            let page = good.len() / 2 / 4096 * 4096;
            [&good[..page], &foreign[page..page + 4096], &good[page + 4096..]].concat()
        }),
        ("another edit's", foreign),
    ] {
        std::fs::write(&file, bytes).expect("a damaged resume point");
        let (rest, first) = rest_of(&mut engine(Some(&cache)), &request());
        assert_eq!(first, Some((Stage::OptimizeTextEmbedding, 0)), "{what}");
        assert!(rendered(&rest) == rendered(&whole), "{what}: other pixels");
        let kinds: Vec<Kind> = cache::list(&cache.0).expect("the folder").into_iter().map(|entry| entry.kind).collect();
        assert!(kinds.contains(&Kind::Tuned) && !file.exists(), "{what}: {kinds:?}");
        cache::clear(&cache.0).expect("an empty cache");
        assert!(files_in(&cache).is_empty(), "{what}: {:?}", files_in(&cache));
    }
    std::fs::write(&file, good).expect("a good one");
    assert_eq!(rest_of(&mut engine(Some(&cache)), &request()).1, Some((Stage::FineTune, 1)));
}

#[test]
fn two_programs_tune_the_same_once_and_the_second_can_stop_waiting() {
    let cache = Folder::new("two");
    let (at_work, second_waits) = (Barrier::new(2), AtomicBool::new(false));
    let (first, second) = std::thread::scope(|threads| {
        let first = threads.spawn(|| {
            engine(Some(&cache)).edit(&request(), &mut |progress| {
                if (progress.stage, progress.step) == (Stage::FineTune, 1) {
                    at_work.wait();
                    while !second_waits.load(Relaxed) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
                ControlFlow::Continue(())
            })
        });
        at_work.wait();
        let given_up = engine(Some(&cache)).edit(&request(), &mut |progress| match progress.stage {
            Stage::Wait => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        assert!(matches!(given_up, Err(Error::Cancelled)), "{given_up:?}");
        let second = engine(Some(&cache)).edit(&request(), &mut |progress| {
            second_waits.fetch_or(progress.stage == Stage::Wait, Relaxed);
            ControlFlow::Continue(())
        });
        (first.join().expect("no panic"), second)
    });
    let (first, second) = (first.expect("an edit"), second.expect("an edit"));
    assert_eq!((first.tuned, second.tuned), (Tuned::Now, Tuned::OnDisk));
    assert!(rendered(&first) == rendered(&second));
    assert_eq!(files_in(&cache).len(), 1, "{:?}", files_in(&cache));
}

#[test]
fn two_programs_tune_one_after_the_other_and_draw_at_once() {
    let cache = Folder::new("queue");
    let (at_work, second_is_there) = (Barrier::new(2), AtomicBool::new(false));
    let (first_is_through, second_tunes_meanwhile) = (AtomicBool::new(false), AtomicBool::new(false));
    let kept = edit(&mut engine(Some(&cache)), &request()).expect("an edit");
    let mut another = request();
    another.params.prompt = "a cat".into();
    let mut third = request();
    third.params.prompt = "a dog".into();
    let waited = std::thread::scope(|threads| {
        let first = threads.spawn(|| {
            engine(Some(&cache)).edit(&another, &mut |progress| {
                if (progress.stage, progress.step) == (Stage::FineTune, 1) {
                    at_work.wait();
                    while !second_is_there.load(Relaxed) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
                first_is_through.fetch_or(progress.stage == Stage::Generate, Relaxed);
                ControlFlow::Continue(())
            })
        });
        at_work.wait();
        // What was tuned before waits for nobody.
        let again = edit(&mut engine(Some(&cache)), &request()).expect("an edit");
        assert!(again.tuned == Tuned::OnDisk && rendered(&again) == rendered(&kept));
        let mut waited = false;
        let second = engine(Some(&cache)).edit(&third, &mut |progress| {
            waited |= progress.stage == Stage::Wait;
            second_is_there.fetch_or(waited, Relaxed);
            let tunes = [Stage::OptimizeTextEmbedding, Stage::FineTune].contains(&progress.stage);
            second_tunes_meanwhile.fetch_or(tunes && !first_is_through.load(Relaxed), Relaxed);
            ControlFlow::Continue(())
        });
        let both = [first.join().expect("no panic"), second];
        assert!(both.iter().all(|edit| edit.as_ref().is_ok_and(|edit| edit.tuned == Tuned::Now)));
        waited
    });
    assert!(waited && !second_tunes_meanwhile.load(Relaxed));
}

#[test]
fn a_picture_forms_in_stage_c_when_it_is_asked_for() {
    let shown = |previews: u32, sampling_steps: u32| {
        let mut request = request();
        (request.previews, request.params.sampling_steps) = (previews, sampling_steps);
        let mut pictures = Vec::new();
        let edit = engine(None).edit(&request, &mut |progress| {
            pictures.extend(progress.preview.map(|picture| (progress.step, picture)));
            ControlFlow::Continue(())
        });
        pictures.dedup_by(|(_, later), (_, earlier)| Arc::ptr_eq(later, earlier));
        (pictures, edit.expect("an edit"))
    };
    let (none, plain) = shown(0, 8);
    assert!(none.is_empty());
    let (pictures, edit) = shown(3, 8);
    assert_eq!(pictures.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [2, 4, 6]);
    assert!(
        pictures.iter().all(|(_, picture)| picture.width() > 0 && picture.rgba().chunks(4).all(|p| p[3] == u16::MAX))
    );
    assert!(pictures[0].1 != pictures[1].1, "it does not form");
    assert!(rendered(&edit) == rendered(&plain), "looking changed the edit");
    assert!(shown(5, 2).0.len() <= 2, "more pictures than steps");
}

#[test]
fn what_an_edit_does_not_touch_is_the_layers_own() {
    let mut engine = engine(None);
    let mut request = request();
    request.params.keep_untouched = true;
    request.params.eta = 0.0;
    let kept = edit(&mut engine, &request).expect("an edit");
    assert!(rendered(&kept) == *request.layer, "at eta 0 nothing is touched");
    assert!(untouched(&kept).len() == 40 * 30 && untouched(&kept).iter().all(|&own| own));
    request.params.eta = 2.0;
    let cold = edit(&mut self::engine(None), &request).expect("an edit");
    let warm = edit(&mut engine, &request).expect("an edit");
    assert!(rendered(&cold) == rendered(&warm) && untouched(&cold) == untouched(&warm), "depends on what ran before");
    request.params.keep_untouched = false;
    assert!(untouched(&edit(&mut engine, &request).expect("an edit")).is_empty());
}

#[test]
fn an_edit_tells_what_the_next_one_will_cost() {
    let cache = Folder::new("cost");
    let mut first = engine(Some(&cache));
    let unknown = first.estimate(&request()).expect("an estimate");
    assert!(!unknown.tuned && unknown.seconds.is_none());
    let digests = cache.0.join("digests.json");
    assert!(!digests.exists(), "an estimate reads no whole file");
    edit(&mut first, &request()).expect("an edit");
    assert!(digests.exists());
    let mut other = request();
    other.params.prompt = "a cat".into();
    let cost = |engine: &Engine, request: &EditRequest| {
        let estimate = engine.estimate(request).expect("an estimate");
        (estimate.tuned, estimate.seconds.expect("a known pace"))
    };
    let (again, anew) = (cost(&first, &request()), cost(&first, &other));
    assert!(again.0 && !anew.0 && again.1 > 0.0 && anew.1 > again.1, "{again:?} {anew:?}");
    other.params.tuning_steps *= 100;
    assert!(cost(&first, &other).1 > 5.0 * anew.1, "more steps cost more");
    // Another program knows it, too, and has to load the model.
    first.settle();
    let second = engine(Some(&cache));
    assert!(cost(&second, &request()).0 && cost(&second, &request()).1 > again.1);
}

#[test]
fn progress_grows_to_the_end() {
    let mut all: Vec<Progress> = Vec::new();
    let result = engine(None).edit(&request(), &mut |progress| {
        all.push(progress);
        ControlFlow::Continue(())
    });
    let stages: Vec<Stage> = result.expect("an edit").seconds.iter().map(|(stage, _)| *stage).collect();
    assert_eq!(stages, [Stage::LoadModel, Stage::OptimizeTextEmbedding, Stage::FineTune, Stage::Generate]);
    assert!(all.is_sorted_by(|a, b| a.fraction <= b.fraction));
    let last = all.last().expect("some progress");
    assert_eq!((last.fraction, last.step, last.steps), (1.0, 3, 3));
    assert!(
        all.iter()
            .filter(|p| p.stage == Stage::FineTune && p.step > 0)
            .all(|p| p.loss.is_some() && p.seconds_left.is_some())
    );
}

#[test]
fn a_damaged_or_foreign_cache_entry_is_a_miss() {
    let cache = Folder::new("damaged");
    edit(&mut engine(Some(&cache)), &request()).expect("an edit");
    let file = cache::list(&cache.0).expect("the folder")[0].file.clone();
    let good = std::fs::read(&file).expect("the entry");
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let foreign = std::fs::read(model().join("unet/diffusion_pytorch_model.safetensors")).expect("weights");
    for (what, bytes) in [
        ("empty", &[][..]),
        ("truncated", &good[..good.len() - 10]),
        ("one bit flipped", &flipped),
        ("another program's", &foreign),
        ("no safetensors at all", &[255; 100]),
    ] {
        std::fs::write(&file, bytes).expect("a damaged entry");
        assert_eq!(edit(&mut engine(Some(&cache)), &request()).expect(what).tuned, Tuned::Now, "{what}");
        assert_eq!(std::fs::read(&file).expect("the entry"), good, "{what}: the entry was not written again");
    }
}

#[test]
fn the_cache_keeps_to_its_limit_and_forgets_the_oldest() {
    let cache = Folder::new("limit");
    let mut size = 0;
    for seed in 0..4 {
        let mut request = request();
        request.params.tuning_seed = seed;
        let options =
            EngineOptions { cache_folder: Some(cache.0.clone()), cache_limit: size * 2, ..EngineOptions::default() };
        edit(&mut Engine::new(options), &request).expect("an edit");
        let entries = cache::list(&cache.0).expect("the folder");
        size = entries[0].bytes;
        assert_eq!(entries.len(), (seed as usize + 1).min(2));
        assert_eq!(entries[0].prompt.as_deref(), Some("a photo of a bird"));
    }
    assert_eq!(cache::clear(&cache.0).expect("an empty cache"), 2 * size);
    assert!(cache::list(&cache.0.join("missing")).expect("no entries").is_empty());
}

#[test]
fn a_cache_that_cannot_be_written_costs_the_cache_and_not_the_edit() {
    let folder = Folder::new("unwritable");
    let file = folder.0.join("a file, not a folder");
    std::fs::write(&file, "").expect("a file");
    let options = EngineOptions { cache_folder: Some(file), ..EngineOptions::default() };
    let edit = edit(&mut Engine::new(options), &request()).expect("an edit");
    assert!(
        edit.notes[0].to_string().starts_with("the tuned model is kept only until this program closes"),
        "{:?}",
        edit.notes
    );
}

#[test]
fn too_little_memory_is_said_before_tuning_and_a_tuned_model_still_serves() {
    let cache = Folder::new("memory");
    let poor = || {
        let options = EngineOptions {
            cache_folder: Some(cache.0.clone()),
            free_memory: || Some(1000),
            ..EngineOptions::default()
        };
        Engine::new(options)
    };
    let error = edit(&mut poor(), &request()).expect_err("1000 bytes");
    assert!(matches!(error, Error::Memory(_)) && error.to_string().contains("close other programs"), "{error}");
    edit(&mut engine(Some(&cache)), &request()).expect("an edit");
    assert_eq!(edit(&mut poor(), &request()).expect("no tuning needed").tuned, Tuned::OnDisk);
}

#[test]
fn tuning_takes_the_best_mode_that_fits_and_gives_the_same_picture() {
    static FREE: AtomicU64 = AtomicU64::new(0);
    let cache = Folder::new("modes");
    let engine = |cache: Option<&Folder>| {
        let cache_folder = cache.map(|folder| folder.0.clone());
        Engine::new(EngineOptions {
            cache_folder,
            free_memory: || Some(FREE.load(Relaxed)),
            ..EngineOptions::default()
        })
    };
    let mut request = request();
    request.params.batch_size = 4;
    let shapes = shapes();
    let [full, checkpointed] = [Mode::Full, Mode::Checkpointed]
        .map(|mode| shapes.needs(&shapes.task(&request, Precision::F32), mode).expect("needs"));
    // All but the U-Net is there when the engine chooses.
    let with_margin = |needs: Needs| needs.peak() + plan::margin(needs.peak()) - (needs.model - shapes.network_bytes());
    assert!(with_margin(checkpointed) < with_margin(full));

    FREE.store(with_margin(full), Relaxed);
    let rich = edit(&mut engine(Some(&cache)), &request).expect("an edit");
    assert!(rich.notes.is_empty(), "{:?}", rich.notes);
    let mut second = engine(None);
    // Before the base model is loaded, it has to fit, too.
    FREE.store(checkpointed.peak() + plan::margin(checkpointed.peak()), Relaxed);
    let plan = second.estimate(&request).expect("an estimate").memory.expect("not tuned yet");
    assert_eq!((plan.mode, plan.need), (Mode::Checkpointed, checkpointed.peak()));
    FREE.store(with_margin(checkpointed), Relaxed);
    let poor = edit(&mut second, &request).expect("an edit");
    assert!(
        poor.notes[0].to_string().starts_with("tuned with all weights, intermediate results computed twice"),
        "{:?}",
        poor.notes
    );
    assert!(rendered(&poor) == rendered(&rich), "another picture");
    request.params.tuning_mode = TuningMode::Checkpointed;
    assert_eq!(
        edit(&mut engine(Some(&cache)), &request).expect("an edit").tuned,
        Tuned::OnDisk,
        "it is the same model"
    );
    request.params.tuning_mode = TuningMode::Full;
    let error = edit(&mut engine(None), &request).expect_err("asked for more than there is");
    assert!(error.to_string().contains("set the tuning mode to automatic"), "{error}");
}

/// The choice, without a GPU to make it on.
#[test]
fn moments_of_8_bits_are_what_a_gpu_takes_before_adapters() {
    const ON_GPU: [Mode; 5] = [Mode::Full, Mode::Checkpointed, Mode::EightBits, Mode::Lora, Mode::LoraCheckpointed];
    let request = request();
    let on = Processor::Cpu.choose();
    assert!(!Mode::allowed(&request.params, &on).contains(&Mode::EightBits), "they are off by default");
    assert_eq!(Mode::allowed(&request.params, &Chosen { eight_bit_moments: true, ..on }), ON_GPU);
    let shapes = shapes();
    let task = shapes.task(&request, Precision::F32);
    let [checkpointed, eight_bits] =
        [Mode::Checkpointed, Mode::EightBits].map(|mode| shapes.needs(&task, mode).expect("needs"));
    // Two moments of 4 bytes, or of 1 and of 4 for 256 values; small variables have the first.
    let moments = |values: usize| if values < 4096 { 8 * values } else { values.div_ceil(256) * 520 };
    let weights = || shapes.network().tensors.values().map(|tensor| tensor.elem_count());
    let saved: usize = weights().map(|values| 8 * values - moments(values)).sum();
    assert!(saved > 100_000, "{saved} bytes: the fixture has no large variables");
    assert_eq!(checkpointed.tuning - eight_bits.tuning, saved as u64);
    assert_eq!((checkpointed.embedding, checkpointed.generation), (eight_bits.embedding, eight_bits.generation));

    let plan = |free: u64| Plan::new(&shapes, &task, &ON_GPU, 0, Some(free)).expect("a plan");
    let with_margin = |needs: Needs| needs.peak() + plan::margin(needs.peak());
    assert_eq!(plan(with_margin(checkpointed)).mode, Mode::Checkpointed);
    assert_eq!(plan(with_margin(checkpointed) - 1).mode, Mode::EightBits);
    let note = plan(with_margin(eight_bits)).note().expect("it fits").expect("not the best mode");
    assert!(note.to_string().starts_with("tuned with all weights, moments in 8 bits"), "{note}");
    let lighter: Vec<_> = ON_GPU.iter().map(|mode| mode.lighter(&ON_GPU)).collect();
    let adapters = Some(Mode::LoraCheckpointed);
    assert_eq!(lighter, [Some(Mode::Checkpointed), Some(Mode::EightBits), adapters, adapters, None]);
}

/// Free memory as it was told to be: plenty, and for some askings of the rest nothing.
mod lying {
    use super::{AtomicU64, Relaxed};

    pub static PLENTY: AtomicU64 = AtomicU64::new(0);
    pub static NOTHING: AtomicU64 = AtomicU64::new(0);

    pub fn free_memory() -> Option<u64> {
        let less = |left: u64| left.checked_sub(1);
        if PLENTY.fetch_update(Relaxed, Relaxed, less).is_ok() {
            return Some(1 << 40);
        }
        Some(if NOTHING.fetch_update(Relaxed, Relaxed, less).is_ok() { 1000 } else { 1 << 40 })
    }
}

#[test]
fn an_edit_whose_memory_runs_short_goes_on_in_a_lighter_mode() {
    let cache = Folder::new("lighter");
    let engine = |plenty, nothing| {
        lying::PLENTY.store(plenty, Relaxed);
        lying::NOTHING.store(nothing, Relaxed);
        let cache_folder = Some(cache.0.clone());
        Engine::new(EngineOptions { cache_folder, free_memory: lying::free_memory, ..EngineOptions::default() })
    };
    let mut request = request();
    (request.params.embedding_steps, request.params.tuning_steps) = (6, 8);
    let exact = edit(&mut engine(u64::MAX, 0), &request).expect("an edit");
    cache::clear(&cache.0).expect("an empty cache");

    // Once: asked before tuning, at the begin of each stage and after each of its steps.
    let same = edit(&mut engine(12, 1), &request).expect("an edit");
    assert!(same.notes.len() == 1 && same.notes[0].to_string().contains("computed twice"), "{:?}", same.notes);
    assert!(rendered(&same) == rendered(&exact), "another picture");
    assert_eq!(same.tuning_losses, exact.tuning_losses);
    cache::clear(&cache.0).expect("an empty cache");

    // For good: stage B begins anew with adapters, and there nothing is lighter.
    let other = edit(&mut engine(12, u64::MAX), &request).expect("an edit");
    assert!(other.notes.len() == 2 && other.notes[1].to_string().contains("began anew"), "{:?}", other.notes);
    assert_eq!((&other.embedding_losses, other.tuning_losses.len()), (&exact.embedding_losses, 8));
    assert!(rendered(&other) != rendered(&exact), "adapters are not the same");
    let found = edit(&mut engine(u64::MAX, 0), &request).expect("an edit");
    assert!(found.notes[0].to_string().contains("set the tuning mode to full"), "{:?}", found.notes);
    assert_eq!(found.tuned, Tuned::OnDisk, "what was tuned serves where memory is not short any more");
    assert!(rendered(&found) == rendered(&other), "another picture from disk");
    request.params.tuning_mode = TuningMode::Lora;
    assert_eq!(edit(&mut engine(u64::MAX, 0), &request).expect("an edit").tuned, Tuned::OnDisk);
    request.params.tuning_mode = TuningMode::Full;
    assert_eq!(edit(&mut engine(u64::MAX, 0), &request).expect("an edit").tuned, Tuned::Now);

    // Asked for, full tuning is not given up.
    cache::clear(&cache.0).expect("an empty cache");
    let insisted = edit(&mut engine(12, u64::MAX), &request).expect("an edit");
    assert!(insisted.notes.is_empty() && rendered(&insisted) == rendered(&exact), "{:?}", insisted.notes);
}

#[test]
fn adapters_are_tuned_anew_for_what_they_depend_on_and_the_full_model_is_not() {
    let cache = Folder::new("adapters");
    let mut engine = engine(Some(&cache));
    let mut request = request();
    request.params.tuning_mode = TuningMode::Lora;
    let mut tuned = |change: &dyn Fn(&mut Params)| {
        change(&mut request.params);
        let tuned = edit(&mut engine, &request).expect("an edit").tuned;
        engine.settle();
        tuned
    };
    assert_eq!(tuned(&|_| ()), Tuned::Now);
    assert_eq!(tuned(&|p| p.lora_rank = 2), Tuned::Now);
    assert_eq!(tuned(&|p| p.lora_layers = LoraLayers::Attention), Tuned::Now);
    assert_eq!(tuned(&|p| p.tuning_lr = 5e-4), Tuned::Now);
    let entries = cache::list(&cache.0).expect("the folder");
    let full = std::fs::metadata(model().join("unet/diffusion_pytorch_model.safetensors")).expect("weights").len();
    assert!(entries.len() == 4 && entries.iter().all(|entry| entry.bytes < full), "{entries:?}");
    assert_eq!(tuned(&|p| p.tuning_mode = TuningMode::Full), Tuned::Now);
    assert_eq!(tuned(&|p| p.lora_rank = 3), Tuned::InMemory);
}

/// `layer` for the built-in model; its edit is not looked at.
fn scene(layer: LayerImage) -> EditRequest {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models/scenes-64");
    let model = catalog::find(folder, &catalog::Places::default()).expect("the built-in model");
    let detail = Detail::Off;
    let params = Params { embedding_steps: 1, tuning_steps: 1, sampling_steps: 1, detail, ..request().params };
    let layer = layer.into();
    EditRequest { layer, params, familiar_psnr: model.familiar_psnr, model_path: model.path, ..request() }
}

/// One of the pictures that come with the built-in model.
fn drawn(name: &str) -> LayerImage {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/samples").join(name);
    let picture = image::open(path).expect("a sample").into_rgba16();
    LayerImage::new(picture.width(), picture.height(), picture.into_raw()).expect("a layer")
}

/// Shades and texture of every size everywhere, as photographs have them and drawn scenes do not.
fn photo_like(side: u32) -> LayerImage {
    let random = |x: u32, y: u32, octave: u32| {
        let hash = (x.wrapping_mul(374_761_393) ^ y.wrapping_mul(668_265_263) ^ octave.wrapping_mul(974_711))
            .wrapping_mul(1_274_126_177);
        f64::from((hash ^ (hash >> 15)).wrapping_mul(2_246_822_519) >> 16) / 65536.0 - 0.5
    };
    let pixel = |i: u32| {
        let (x, y) = (i % side, i / side);
        let texture: f64 = (1..5).map(|octave| random(x >> octave, y >> octave, octave)).sum();
        let shade =
            |slope: f64| slope * f64::from(x) / f64::from(side) + (1.0 - slope) * f64::from(y) / f64::from(side);
        let value = |slope: f64| ((0.2 + 0.6 * shade(slope) + 0.25 * texture).clamp(0.0, 1.0) * 65535.0) as u16;
        [value(0.2), value(0.5), value(0.7), u16::MAX]
    };
    LayerImage::new(side, side, (0..side * side).flat_map(pixel).collect()).expect("a layer")
}

/// `layer` with everything but its left half transparent.
fn half_seen(layer: &LayerImage) -> LayerImage {
    let (width, height) = (layer.width(), layer.height());
    let mut rgba = layer.rgba().to_vec();
    let right = (0..width * height).filter(|i| i % width >= width / 2);
    right.for_each(|i| rgba[4 * i as usize + 3] = 0);
    LayerImage::new(width, height, rgba).expect("the same size")
}

#[test]
fn a_picture_the_model_cannot_draw_gives_a_hint_before_the_tuning_and_a_drawn_one_none() {
    let mut engine = engine(None);
    for name in ["dog-on-grass.png", "car-on-beach.png", "house-on-grass.png", "bird-on-beach.png", "cat-in-desert.png"]
    {
        assert_eq!(edit(&mut engine, &scene(drawn(name))).expect("an edit").hint, None, "{name}");
    }
    for photo in [photo_like(256), photo_like(64), half_seen(&photo_like(256))] {
        let mut hints = Vec::new();
        let edit = engine.edit(&scene(photo.clone()), &mut |progress| {
            hints.push((progress.stage, progress.hint));
            ControlFlow::Continue(())
        });
        let hint = edit.expect("the edit goes on").hint;
        let Some(Hint::UnfamiliarPicture { psnr, familiar_psnr }) = hint else { panic!("no hint") };
        assert!(psnr > 5.0 && psnr < familiar_psnr, "{psnr} dB");
        let (loading, later): (Vec<_>, Vec<_>) = hints.iter().partition(|(stage, _)| *stage == Stage::LoadModel);
        assert!(loading.iter().all(|(_, before)| before.is_none()));
        assert!(later.iter().all(|(_, told)| *told == hint), "told too late: {later:?}");
        assert_eq!(later[0].0, Stage::OptimizeTextEmbedding);

        let of_another_model = EditRequest { familiar_psnr: None, ..scene(photo) };
        assert_eq!(self::edit(&mut engine, &of_another_model).expect("an edit").hint, None, "the model does not say");
    }
}

#[test]
fn a_tuned_model_that_is_found_again_brings_its_hint() {
    let cache = Folder::new("hint");
    let mut first = engine(Some(&cache));
    let request = scene(photo_like(64));
    let hint = edit(&mut first, &request).expect("an edit").hint;
    assert!(hint.is_some());
    for (engine, origin) in [(&mut first, Tuned::InMemory), (&mut engine(Some(&cache)), Tuned::OnDisk)] {
        let again = edit(engine, &request).expect("an edit");
        assert_eq!((again.tuned, again.hint), (origin, hint));
        let lenient = EditRequest { familiar_psnr: Some(1.0), ..request.clone() };
        assert_eq!(edit(engine, &lenient).expect("an edit").hint, None, "another threshold needs no tuning");
    }
}

#[test]
fn layers_of_any_size_keep_their_size() {
    let mut engine = engine(None);
    for (width, height) in [(1, 1), (1, 500), (700, 3), (63, 65), (3000, 2000)] {
        let mut request = request();
        request.layer = layer(width, height).into();
        request.params.embedding_steps = 0;
        request.params.tuning_steps = 0;
        request.params.sampling_steps = 1;
        let edit = edit(&mut engine, &request).expect("an edit");
        let (layer, _) = edit.picture.on(&request.layer);
        assert_eq!((layer.width(), layer.height()), (width, height));
    }
}

#[test]
fn a_prompt_that_is_too_long_is_cut_and_the_user_told() {
    let mut request = request();
    request.params.prompt = format!("{} end", "bird ".repeat(100));
    let edit = edit(&mut engine(None), &request).expect("an edit");
    let note = edit.notes[0].to_string();
    // Its beginning says where it was cut; all of it would fill a window.
    assert!(note.contains("is longer than 75 tokens; not used: \"bird bird") && note.ends_with("…\""), "{note}");
    assert!(note.chars().count() < 150, "{note}");
}

#[test]
fn a_bad_request_is_refused_with_a_sentence() {
    let mut blank = request();
    blank.params.prompt = "  ".into();
    let error = edit(&mut engine(None), &blank).expect_err("a blank prompt");
    assert_eq!(error.to_string(), "the target text is empty; write what the picture should become");
}

#[test]
fn a_diverged_tuning_is_stopped_with_the_remedy_and_what_stage_a_has_made_is_not_lost() {
    for cache in [None, Some(Folder::new("diverged"))] {
        let mut diverging = request();
        (diverging.params.tuning_lr, diverging.params.tuning_steps) = (0.5, 400);
        let mut first = engine(cache.as_ref());
        let mut steps = 0;
        let error = first.edit(&diverging, &mut |progress| {
            steps = progress.step;
            ControlFlow::Continue(())
        });
        let error = error.map(|edit| edit.tuning_losses).expect_err("it diverges").to_string();
        assert!(steps < 60, "stopped after step {steps} only");
        assert!(error.starts_with("B: fine-tuning the model: the loss went from ") && error.contains("0.5"), "{error}");
        assert!(error.ends_with("the value of \"Tuning learning rate\" is 0.5, try a tenth of it"), "{error}");

        let mut mended = diverging.clone();
        (mended.params.tuning_lr, mended.params.tuning_steps) = (1e-4, 3);
        let expected = edit(&mut engine(None), &mended).expect("an edit");
        let mut others = vec![first];
        if let Some(cache) = &cache {
            // Another program finds it on the disk, once the first has written it there.
            drop(others.pop());
            let left = cache::list(&cache.0).expect("the folder");
            assert_eq!(left.iter().map(|file| file.kind).collect::<Vec<_>>(), [Kind::Unfinished { done: 3, all: 403 }]);
            others.push(engine(Some(cache)));
        }
        let estimate = others[0].estimate(&mended).expect("an estimate");
        assert_eq!(estimate.goes_on, Some([3, 6]));
        let mut stages = Vec::new();
        let again = others[0].edit(&mended, &mut |progress| {
            stages.push(progress.stage);
            ControlFlow::Continue(())
        });
        assert!(!stages.contains(&Stage::OptimizeTextEmbedding), "stage A ran again");
        let again = again.expect("an edit");
        assert!(rendered(&again) == rendered(&expected) && again.embedding_losses == expected.embedding_losses);
    }
}

#[test]
fn a_model_that_predicts_something_else_than_its_files_say_is_told_before_the_tuning() {
    let builtin = scene(drawn("dog-on-grass.png"));
    let says = |model: &Path| {
        set(&model.join("scheduler/scheduler_config.json"), "prediction_type", json!("epsilon"));
    };
    let model = changed("mistaken", &builtin.model_path, says);
    for name in ["dog-on-grass.png", "car-on-beach.png", "house-on-grass.png", "bird-on-beach.png"] {
        let picture = drawn(name);
        let mut undeclared = EditRequest { model_path: model.0.clone(), ..scene(picture.clone()) };
        let error = engine(None).edit(&undeclared, &mut |progress| {
            assert_eq!(progress.step, 0, "time was spent");
            ControlFlow::Continue(())
        });
        let error = error.map(|_| name).expect_err("it predicts v").to_string();
        println!("{error}");
        assert!(error.ends_with("set the prediction type (--prediction-type) to v_prediction"), "{error}");
        // Whoever says so is obeyed, and a model that says what is true is not asked again.
        undeclared.params.prediction_type = PredictionType::Epsilon;
        edit(&mut engine(None), &undeclared).expect("an edit");
        edit(&mut engine(None), &scene(picture)).expect("an edit");
    }
    // Untrained networks explain nothing of either.
    for fixture in ["small-sd1", "small-v", "small-sd2", "small-tiny", "small-sdxl", "small-vega", "scenes-64"] {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture).join("model");
        if model.is_dir() {
            edit(&mut engine(None), &EditRequest { model_path: model, ..request() }).expect(fixture);
        }
    }
}

/// Peak signal-to-noise ratio in dB.
fn psnr(one: &LayerImage, other: &LayerImage) -> f64 {
    let square = |(a, b): (&u16, &u16)| (f64::from(*a) - f64::from(*b)).powi(2);
    let squares: f64 = one.rgba().iter().zip(other.rgba()).map(square).sum();
    10.0 * (65535.0_f64.powi(2) * one.rgba().len() as f64 / squares).log10()
}

#[test]
fn a_large_network_is_kept_rounded_and_gives_the_same_bytes_cold_from_memory_and_from_disk() {
    let cache = Folder::new("rounded");
    let rounding = |cache: Option<&Folder>| {
        let cache_folder = cache.map(|folder| folder.0.clone());
        Engine::new(EngineOptions { cache_folder, exact_up_to: 0, ..EngineOptions::default() })
    };
    for builtin in [false, true] {
        let mut request = request();
        if builtin {
            let tuning = Params { embedding_steps: 10, tuning_steps: 20, tuning_lr: 1.4e-4, ..request.params.clone() };
            request = scene(drawn("dog-on-grass.png"));
            request.params = Params { sampling_steps: 10, detail: Detail::Off, ..tuning };
        }
        let mut exact = engine(None);
        let mut first = rounding(Some(&cache));
        let cold = edit(&mut first, &request).expect("an edit");
        let memory = edit(&mut first, &request).expect("an edit");
        drop(first);
        let mut second = rounding(Some(&cache));
        let disk = edit(&mut second, &request).expect("an edit");
        assert_eq!([cold.tuned, memory.tuned, disk.tuned], [Tuned::Now, Tuned::InMemory, Tuned::OnDisk]);
        let layer = request.layer.clone();
        let on = |edit: &Edit| edit.picture.on(&layer).0;
        assert!(on(&cold) == on(&memory) && on(&cold) == on(&disk), "another picture");
        assert!(on(&edit(&mut rounding(None), &request).expect("an edit")) == on(&cold), "another one without a disk");
        let entry = cache::list(&cache.0).expect("the folder").pop().expect("an entry");
        let source = Source::open(&request.model_path).expect("a model");
        let family = Family::of(&source).expect("a family");
        let network = Shapes::new(&source, family, &candle_core::Device::Cpu).expect("shapes").tuned_bytes();
        println!("{} of {network} bytes", entry.bytes);
        // The tiny one has more biases and names than weights.
        assert!(entry.bytes < network / if builtin { 9 } else { 4 }, "{} of {network} bytes", entry.bytes);
        let near = [0.0, 0.4, 0.8, 1.2].map(|eta| {
            request.params.eta = eta;
            let near = edit(&mut second, &request).expect("an edit");
            let psnr = psnr(&on(&near), &on(&edit(&mut exact, &request).expect("an edit")));
            println!("eta {eta}: {psnr:.1} dB");
            psnr
        });
        // Twenty steps of 1.4e-4 change the built-in model far more than a thousand of 2e-6 change Stable Diffusion.
        assert!(near.iter().all(|psnr| *psnr > 32.0), "{near:?} dB");
    }
}

/// A copy of the fixture in which `spoil` breaks something.
fn spoiled(name: &str, spoil: impl Fn(&Path)) -> Folder {
    changed(name, &model(), spoil)
}

/// A copy of `model` as `change` leaves it.
fn changed(name: &str, model: &Path, spoil: impl Fn(&Path)) -> Folder {
    let folder = Folder::new(name);
    copy_folder(model, &folder.0);
    spoil(&folder.0);
    folder
}

fn set(file: &Path, key: &str, value: Value) {
    let mut config: Value = serde_json::from_slice(&std::fs::read(file).expect("a file")).expect("JSON");
    config[key] = value;
    std::fs::write(file, config.to_string()).expect("a changed file");
}

/// Replaces one tensor of the U-Net.
fn set_tensor(model: &Path, name: &str, change: impl Fn(&candle_core::Tensor) -> candle_core::Tensor) {
    let file = model.join("unet/diffusion_pytorch_model.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &candle_core::Device::Cpu).expect("weights");
    let tensor = tensors.get_mut(name).expect("a bias");
    *tensor = change(tensor);
    candle_core::safetensors::save(&tensors, &file).expect("changed weights");
}

/// At the last timestep a network that predicts noise gives back what it sees, one that predicts v the picture with the
/// other sign: a random network does the former more or less, and the latter with a large negative bias at its end.
#[test]
fn a_stable_diffusion_2_model_that_does_not_say_what_it_predicts_is_asked() {
    let model = model().parent().expect("a folder").with_file_name("small-sd2").join("model");
    let quiet = |model: &Path| set(&model.join("scheduler/scheduler_config.json"), "prediction_type", Value::Null);
    let low = |bias: &candle_core::Tensor| (bias - 5.0).expect("a bias");
    let of_v = |model: &Path| {
        quiet(model);
        set_tensor(model, "conv_out.bias", low);
    };
    for (name, model, expected, other) in [
        ("says-noise", changed("says-noise", &model, quiet), PredictionType::Epsilon, PredictionType::V),
        ("says-v", changed("says-v", &model, of_v), PredictionType::V, PredictionType::Epsilon),
    ] {
        let mut engine = engine(None);
        let mut draw = |prediction_type| {
            let mut request = request();
            request.model_path = model.0.clone();
            request.params.prediction_type = prediction_type;
            rendered(&edit(&mut engine, &request).expect("an edit")).rgba().to_vec()
        };
        let asked = draw(PredictionType::Automatic);
        assert!(asked == draw(expected), "{name}: not {expected}");
        assert!(asked != draw(other), "{name}: {other} is the same");
    }
}

#[test]
fn every_byte_of_a_model_and_its_tokenizer_tells_it_from_another() {
    let fingerprint = |model: &Path| {
        let digests = Digests::new(None);
        let mut digest = |file: &File, path: &Path| digests.of(file, path, &mut || Ok(()));
        Source::open(model).expect("a model").fingerprint(&mut digest).expect("a fingerprint")
    };
    let original = fingerprint(&model());
    assert_eq!(fingerprint(&spoiled("copied", |_| ()).0), original, "where it is does not count");
    let special = |model: &Path| set(&model.join("tokenizer/special_tokens_map.json"), "pad_token", json!("!"));
    assert!(fingerprint(&spoiled("special", special).0) != original, "a special token");
    for name in [
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
    ] {
        let last_bit = |model: &Path| {
            let file = model.join(name);
            let mut bytes = std::fs::read(&file).expect("a file of the model");
            *bytes.last_mut().expect("it is not empty") ^= 1;
            std::fs::write(&file, bytes).expect("it is a copy");
        };
        assert!(fingerprint(&spoiled("last-bit", last_bit).0) != original, "{name}");
    }
}

/// Over the folders of tests/reference/make_real_sizes.py, which `IMAGIC_REAL_SIZES` names; they take minutes to make.
#[test]
fn published_configurations_give_networks_of_the_published_sizes() {
    let Some(folder) = std::env::var_os("IMAGIC_REAL_SIZES").map(PathBuf::from) else {
        println!("skipped: IMAGIC_REAL_SIZES names no folders of published sizes");
        return;
    };
    for model in std::fs::read_dir(folder).expect("folders").map(|entry| entry.expect("a folder").path()) {
        let about = std::fs::read(model.join("parameters.json")).expect("the number of parameters");
        let about: Value = serde_json::from_slice(&about).expect("JSON");
        let source = Source::open(&model).expect("a model");
        // Every tensor that the network asks for is there with its shape.
        let shapes = Shapes::new(&source, Family::of(&source).expect("a family"), &Device::Cpu).expect("a network");
        assert_eq!(Some(shapes.tuned_bytes() / 4), about["unet"].as_u64(), "{}", model.display());
        let side = shapes.own_side();
        let (params, layer, precision) = (&Params::paper(), [side as u32; 2], Precision::F32);
        let task = Task { params, layer, size: (side, side), precision };
        let [full, light] = [Mode::Full, Mode::LoraCheckpointed].map(|mode| {
            let needs = shapes.needs(&task, mode).expect("an estimate");
            assert!(needs.model > shapes.network_bytes() && needs.peak() > needs.model, "{needs:?}");
            needs.peak() as f64 / 1e9
        });
        let name = model.file_name().unwrap_or_default().to_string_lossy();
        let millions = shapes.tuned_bytes() as f64 / 4e6;
        let kept = difference::bytes(shapes.network());
        // 3.25 bits a weight instead of 32, and what stays exact: 351 MB of Stable Diffusion 1.5.
        assert!(kept < shapes.tuned_bytes() * 103 / 1000, "{name}: {kept} bytes");
        println!("| {name} | {millions:.0} | {side} | {full:.1} | {light:.1} |");
    }
}

#[test]
fn every_problem_of_a_model_is_one_sentence_with_a_remedy() {
    let unet = |model: &Path| model.join("unet/config.json");
    let weights = |model: &Path| model.join("unet/diffusion_pytorch_model.safetensors");
    let check = |name: &str, spoil: &dyn Fn(&Path), expected: &[&str]| {
        let model = spoiled(name, spoil);
        let mut request = request();
        request.model_path = model.0.clone();
        let error = edit(&mut engine(None), &request).expect_err(name).to_string();
        for part in expected {
            assert!(error.contains(part), "{name}: {error}");
        }
        assert!(!error.contains('\n'), "{name}: more than one line: {error}");
    };
    let remove = |file: &str| {
        let file = file.to_owned();
        move |model: &Path| std::fs::remove_file(model.join(&file)).expect("removed")
    };
    check("no-config", &remove("unet/config.json"), &["unet/config.json", "is missing"]);
    check("no-weights", &remove("unet/diffusion_pytorch_model.safetensors"), &["/unet", "is not complete"]);
    check("no-vocabulary", &remove("tokenizer/vocab.json"), &["tokenizer/vocab.json", "is missing"]);
    let pickle = |model: &Path| {
        std::fs::rename(weights(model), model.join("unet/diffusion_pytorch_model.bin")).expect("renamed")
    };
    check("pickle", &pickle, &["can run code", "safetensors"]);
    check(
        "garbage",
        &|model| std::fs::write(weights(model), "garbage").expect("written"),
        &["not a readable safetensors file"],
    );
    check("broken-json", &|model| std::fs::write(unet(model), "{").expect("written"), &["is not valid JSON"]);
    let nan = |tensor: &candle_core::Tensor| ((tensor * 0.0).expect("zeros") / 0.0).expect("NaN");
    check("nan", &|model| set_tensor(model, "conv_in.bias", nan), &["conv_in.bias", "NaN"]);
    let longer = |tensor: &candle_core::Tensor| candle_core::Tensor::cat(&[tensor, tensor], 0).expect("twice");
    check("shape", &|model| set_tensor(model, "conv_in.bias", longer), &["conv_in.bias", "has shape", "asks for"]);
    check("pix2pix", &|model| set(&unet(model), "in_channels", json!(8)), &["in_channels is 8", "text-to-image"]);
    check(
        "blocks",
        &|model| set(&unet(model), "down_block_types", json!(["Strange", "DownBlock2D"])),
        &["Strange", "must be"],
    );
    check(
        "sdxl",
        &|model| set(&unet(model), "addition_embed_type", json!("text_time")),
        &["no second text encoder", "Stable Diffusion XL"],
    );
    let classes = |model: &Path| set(&unet(model), "num_class_embeds", json!(1000));
    check("classes", &classes, &["num_class_embeds is 1000", "not supported"]);
    check("no-heads", &|model| set(&unet(model), "attention_head_dim", json!(0)), &["0 heads"]);
    check("no-blocks", &|model| set(&unet(model), "block_out_channels", json!([])), &["block_out_channels lists no"]);
    check("no-layers", &|model| set(&unet(model), "layers_per_block", json!([0, 2])), &["layers_per_block is [0,2]"]);
    let odd_depths = |model: &Path| set(&unet(model), "transformer_layers_per_block", json!([1, [1, 2, 3]]));
    check("depths", &odd_depths, &["transformer_layers_per_block is [1,[1,2,3]]", "does not fit"]);
    let width = |model: &Path| set(&unet(model), "cross_attention_dim", json!(768));
    check("cross-attention", &width, &["cross_attention_dim is 768", "have 32 elements", "different models"]);
    let vae = |model: &Path| set(&model.join("vae/config.json"), "block_out_channels", json!([]));
    check("no-vae-blocks", &vae, &["vae/config.json", "lists no blocks"]);
    let schedule = |model: &Path| model.join("scheduler/scheduler_config.json");
    check(
        "prediction",
        &|model| set(&schedule(model), "prediction_type", json!("flow_prediction")),
        &["prediction_type is flow_prediction"],
    );
    let only_noise = |model: &Path| set(&schedule(model), "rescale_betas_zero_snr", json!(true));
    check("only-noise", &only_noise, &["rescale_betas_zero_snr", "v_prediction"]);
    check("betas", &|model| set(&schedule(model), "beta_end", json!(2)), &["no noise schedule"]);
    check("trained-betas", &|model| set(&schedule(model), "trained_betas", json!(["a"])), &["two numbers"]);
    let text = |model: &Path| model.join("text_encoder/config.json");
    check("act", &|model| set(&text(model), "hidden_act", json!("relu")), &["hidden_act is relu", "gelu"]);
    check("no-text-heads", &|model| set(&text(model), "num_attention_heads", json!(0)), &["into 0 heads"]);
    check("wide-text", &|model| set(&text(model), "hidden_size", json!(64)), &["have 64 elements"]);
    let deep = |model: &Path| set(&text(model), "num_hidden_layers", json!(12));
    check("deep-text", &deep, &["does not fit its config.json"]);
}
