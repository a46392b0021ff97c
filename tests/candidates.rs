//! Several versions of one edit: how they are judged, which is taken, what is known of it afterwards; and what versions
//! are drawn with.

use candle_core::Device;
use imagic_edit::engine::Engine;
use imagic_edit::engine::base::BaseModel;
use imagic_edit::engine::candidates::{Judge, LOOKS};
use imagic_edit::engine::model::source::Source;
use imagic_edit::engine::model::unet::UNet;
use imagic_edit::engine::random::{Purpose, Stream};
use imagic_edit::engine::request::{Edit, EditRequest, EngineOptions, Stage};
use imagic_edit::image::LayerImage;
use imagic_edit::params::{Detail, LARGEST_SEED, Params, PredictionType, TuningMode};
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

const STEPS: u32 = 3;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn request(candidates: u32) -> EditRequest {
    let pixel = |i: u32| [(i % 40 * 1600) as u16, (i / 40 * 2000) as u16, (i * 50) as u16, u16::MAX];
    let params = Params {
        prompt: "a photo of a bird".into(),
        embedding_steps: 2,
        tuning_steps: 2,
        sampling_steps: STEPS,
        eta: 1.0,
        seed: 5,
        candidates,
        ..Params::paper()
    };
    EditRequest {
        layer: LayerImage::new(40, 30, (0..1200).flat_map(pixel).collect()).expect("a layer").into(),
        params,
        model_path: fixtures().join("small-sd1/model"),
        familiar_psnr: None,
        document: String::new(),
        selection: None,
        layer_digest: None,
        previews: 0,
    }
}

/// The edit, how many steps stage C had, and how many pictures were shown.
fn edit(engine: &mut Engine, request: &EditRequest) -> (Edit, u32, usize) {
    let (mut steps, mut last, mut shown) = (0, 0, Vec::new());
    let edit = engine.edit(request, &mut |progress| {
        if progress.stage == Stage::Generate {
            (steps, last) = (progress.steps, progress.step);
        }
        shown.extend(progress.preview);
        ControlFlow::Continue(())
    });
    assert_eq!(last, steps, "stage C ends before its last step or goes on behind it");
    shown.dedup_by(|one, other| std::sync::Arc::ptr_eq(one, other));
    (edit.expect("an edit"), steps, shown.len())
}

/// On what make_scores.py made with diffusers.
#[test]
fn a_text_helps_the_network_as_much_as_diffusers_says() {
    let facts = std::fs::read(fixtures().join("scores.json")).expect("a file");
    let facts: Value = serde_json::from_slice(&facts).expect("JSON");
    let (seed, text) = (facts["seed"].as_u64().expect("a seed") as u32, facts["text"].as_str().expect("a text"));
    let shape: Vec<usize> = serde_json::from_value(facts["shape"].clone()).expect("a shape");
    for (name, theirs) in facts["models"].as_object().expect("models") {
        let source = Source::open(&fixtures().join(name).join("model")).expect("a model");
        let mut base = BaseModel::read(source, name.clone(), &Device::Cpu).expect("a model");
        base.predict_as(PredictionType::Automatic, &Device::Cpu).expect("a prediction");
        let size = (shape[3] * base.codec.downsampling, shape[2] * base.codec.downsampling);
        let (e_tgt, _) = base.embed(text, size).expect("an embedding");
        let e_null = base.unconditional(size).expect("an embedding");
        let weights = base.network(&Device::Cpu).expect("weights");
        let unet = UNet::new(&base.shapes.config, &weights).expect("a network");
        let judge = Judge::new(unet, &base.schedule, [&e_null, &e_tgt], seed).expect("a judge");
        let x = Stream::new(seed, Purpose::Latents, 0).normals(&shape, &Device::Cpu).expect("latents");
        let mut looks = Vec::new();
        let watch = &mut |look| {
            looks.push(look);
            Ok(())
        };
        let ours = judge.score(&x, watch).expect("a score");
        let theirs = theirs["score"].as_f64().expect("a number");
        // A difference of losses that are a hundred times as large.
        assert!((ours - theirs).abs() < 1e-6, "{name}: {ours}, by diffusers {theirs}");
        assert_eq!(looks, (1..=LOOKS).collect::<Vec<_>>());
    }
}

#[test]
fn the_version_that_is_taken_is_that_of_its_seed_alone() {
    let mut engine = Engine::new(EngineOptions::default());
    let (best, steps, _) = edit(&mut engine, &request(4));
    assert_eq!(steps, 4 * (STEPS + LOOKS));
    assert!((5..9).contains(&best.seed), "seed {}", best.seed);
    let note = best.notes.iter().map(ToString::to_string).find(|note| note.contains("of 4 versions"));
    assert!(note.is_some_and(|note| note.contains(&format!("seed {} ", best.seed))), "{:?}", best.notes);
    let mut alone = request(1);
    alone.params.seed = best.seed;
    let (alone, steps, _) = edit(&mut engine, &alone);
    assert_eq!((steps, alone.seed, alone.notes.len()), (STEPS, best.seed, 0));
    assert!(alone.picture.opaque() == best.picture.opaque());
    // Whoever runs it and whatever ran before.
    let (again, ..) = edit(&mut Engine::new(EngineOptions::default()), &request(4));
    assert!(again.seed == best.seed && again.picture.opaque() == best.picture.opaque());
}

#[test]
fn another_strength_shows_the_same_version_without_a_new_choice() {
    let mut engine = Engine::new(EngineOptions::default());
    let (best, ..) = edit(&mut engine, &request(3));
    let mut weaker = request(3);
    weaker.params.eta = 0.6;
    let (warm, steps, _) = edit(&mut engine, &weaker);
    assert_eq!((steps, warm.seed), (STEPS, best.seed));
    let (cold, steps, _) = edit(&mut Engine::new(EngineOptions::default()), &weaker);
    assert_eq!((steps, cold.seed), (3 * (STEPS + LOOKS) + STEPS, best.seed));
    assert!(cold.picture.opaque() == warm.picture.opaque());
    weaker.params.keep_untouched = true;
    let (kept, steps, _) = edit(&mut engine, &weaker);
    assert_eq!((steps, kept.seed), (2 * STEPS, best.seed));
    let (_, steps, _) = edit(&mut engine, &weaker);
    assert_eq!(steps, STEPS, "what the edit touches is known");
    weaker.params.seed += 1;
    let (_, steps, _) = edit(&mut engine, &weaker);
    assert_eq!(steps, 3 * (STEPS + LOOKS) + 2 * STEPS);
}

#[test]
fn seeds_go_on_with_the_smallest_behind_the_largest() {
    let mut last = request(2);
    last.params.seed = LARGEST_SEED;
    let (best, ..) = edit(&mut Engine::new(EngineOptions::default()), &last);
    assert!([LARGEST_SEED, 0].contains(&best.seed));
}

#[test]
fn the_first_version_forms_and_better_ones_take_its_place() {
    let (mut looked_at, plain) = (request(3), request(3));
    looked_at.previews = 2;
    let mut engine = Engine::new(EngineOptions::default());
    let (with, _, shown) = edit(&mut engine, &looked_at);
    assert!((3..=5).contains(&shown), "{shown} pictures");
    let (without, _, none) = edit(&mut Engine::new(EngineOptions::default()), &plain);
    assert!(none == 0 && with.picture.opaque() == without.picture.opaque(), "looking changed the edit");
}

#[test]
fn versions_are_part_of_what_an_edit_costs() {
    let cache = tempfile::tempdir().expect("a folder");
    let options = EngineOptions { cache_folder: Some(cache.path().to_owned()), ..EngineOptions::default() };
    let mut engine = Engine::new(options);
    edit(&mut engine, &request(1));
    let seconds = |engine: &Engine, candidates| {
        engine.estimate(&request(candidates)).expect("an estimate").seconds.expect("a known pace")
    };
    let [one, eight] = [1, 8].map(|candidates| seconds(&engine, candidates));
    assert!(one < eight, "{one} and {eight}");
    edit(&mut engine, &request(8));
    let chosen = seconds(&engine, 8);
    assert!(chosen < eight, "{chosen} where the choice is known, {eight} before");
}

/// The pixels of an edit with `request`'s parameters changed.
fn drawn(engine: &mut Engine, change: impl FnOnce(&mut Params)) -> LayerImage {
    let mut request = request(1);
    change(&mut request.params);
    edit(engine, &request).0.picture.opaque()
}

#[test]
fn without_a_share_of_the_tuning_the_base_model_draws() {
    for tuning_mode in [TuningMode::Full, TuningMode::Lora] {
        let engine = &mut Engine::new(EngineOptions::default());
        // So much that it shows.
        let tuned = |params: &mut Params| (params.tuning_mode, params.tuning_lr) = (tuning_mode, 1e-2);
        let all = drawn(engine, tuned);
        let half = drawn(engine, |params| (tuned(params), params.tuning_share = 0.5).0);
        let none = drawn(engine, |params| (tuned(params), params.tuning_share = 0.0).0);
        let at_0 = |engine: &mut Engine, share| {
            drawn(engine, |params| {
                tuned(params);
                (params.tuning_share, params.eta) = (share, 0.0);
            })
        };
        assert!(at_0(engine, 0.0) == at_0(engine, 1.0), "{tuning_mode}: eta 0 is the reconstruction");
        let untuned = drawn(engine, |params| (tuned(params), params.tuning_steps = 0).0);
        assert!(none == untuned, "{tuning_mode}");
        assert!(half != all && half != none, "{tuning_mode}");
    }
}

#[test]
fn the_pictures_own_noise_gives_it_back() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sample = image::open(root.join("models/samples/car-on-beach.png")).expect("a picture").to_rgba8();
    let (w, h) = sample.dimensions();
    // At the size at which the model works.
    let layer = LayerImage::from_rgba8(w, h, &sample).expect("a layer").shrunk(64);
    let engine = &mut Engine::new(EngineOptions::default());
    // Untuned, and with its own text: the network alone has to know the way back.
    let mut draw = |own_noise, seed, prompt: &str| {
        let mut request = request(1);
        (request.layer, request.model_path) = (layer.clone().into(), root.join("models/scenes-64"));
        let params = &mut request.params;
        (params.prompt, params.detail, params.guidance) = (prompt.into(), Detail::Off, 1.0);
        (params.embedding_steps, params.tuning_steps, params.sampling_steps) = (0, 0, 25);
        (params.own_noise, params.seed) = (own_noise, seed);
        edit(engine, &request).0.picture.opaque()
    };
    let text = "a photo of a blue car on a sandy beach";
    let distance = |picture: &LayerImage| {
        let pairs = picture.rgba().iter().zip(layer.rgba());
        pairs.map(|(a, b)| f64::from(a.abs_diff(*b)) / 65535.0).sum::<f64>() / picture.rgba().len() as f64
    };
    let (own, seeds) = (draw(1.0, 0, text), draw(0.0, 0, text));
    assert!(distance(&own) < 0.4 * distance(&seeds), "{} and {}", distance(&own), distance(&seeds));
    assert!(own == draw(1.0, 7, text), "of the seed nothing is left");
    let half = draw(0.5, 7, text);
    assert!(half != own && half != draw(0.5, 8, text));
}
