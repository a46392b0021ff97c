//! Edits that a second model enlarges, from pixels to pixels on small random models: what is tuned when, what is kept,
//! where a stopped edit goes on.

mod support;

use candle_core::{DType, Device, Tensor};
use imagic_edit::engine::Engine;
use imagic_edit::engine::auxiliary::{Enlarger, Sees};
use imagic_edit::engine::model::source::Source;
use imagic_edit::engine::picture::selection::Selection;
use imagic_edit::engine::request::{Edit, EditRequest, EngineOptions, Stage, Tuned};
use imagic_edit::error::Result;
use imagic_edit::image::LayerImage;
use imagic_edit::params::{Detail, LoraLayers, Params, TuningMode};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::time::Duration;
use support::{copy_folder, model};
use tempfile::TempDir;

const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";

/// A base model of 16 pixels with a companion in its folder.
struct Models {
    folder: TempDir,
}

impl Models {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        copy_folder(&model(), folder.path());
        let models = Self { folder };
        let pipeline = json!({
            "residual_scale": 2.0, "max_noise_level": 10, "noise_level": 2, "sampling_steps": 3, "guidance_scale": 1.0,
        });
        models.write_enlarger("enlarger", 4, &pipeline);
        models
    }

    fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// The base model's network, that sees `beside` more channels and is told of noise.
    fn write_enlarger(&self, name: &str, beside: usize, pipeline: &Value) {
        let (base, folder) = (self.folder.path(), self.folder.path().join(name));
        std::fs::create_dir_all(folder.join("unet")).expect("a folder");
        std::fs::write(folder.join("model_index.json"), pipeline.to_string()).expect("a file");
        let config = std::fs::read(base.join("unet/config.json")).expect("a configuration");
        let mut config: Value = serde_json::from_slice(&config).expect("JSON");
        (config["in_channels"], config["num_class_embeds"]) = (json!(4 + beside), json!(10));
        std::fs::write(folder.join("unet/config.json"), config.to_string()).expect("a file");
        let mut tensors = candle_core::safetensors::load(base.join(WEIGHTS), &Device::Cpu).expect("weights");
        let seen = tensors["conv_in.weight"].narrow(1, 0, beside).and_then(|part| part * 0.5).expect("weights");
        let conv_in = Tensor::cat(&[&tensors["conv_in.weight"], &seen], 1).expect("weights");
        let width = tensors["time_embedding.linear_2.bias"].dims()[0];
        let table = Tensor::arange(0f32, 10.0 * width as f32, &Device::Cpu).and_then(|table| table.sin());
        let table = table.and_then(|table| table.reshape((10, width))?.to_dtype(DType::F32)).expect("a table");
        tensors.insert("conv_in.weight".into(), conv_in);
        tensors.insert("class_embedding.weight".into(), table);
        candle_core::safetensors::save(&tensors, folder.join(WEIGHTS)).expect("a file");
    }

    /// Has the network in `folder` see `inputs` pictures and make one, with `side` x `side` pixels at each place.
    fn work_on_pixels(&self, folder: &str, inputs: usize, side: usize) {
        let outputs = 3 * side * side;
        let inputs = inputs * outputs;
        let folder = self.path().join(folder);
        let config = std::fs::read(folder.join("unet/config.json")).expect("a configuration");
        let mut config: Value = serde_json::from_slice(&config).expect("JSON");
        (config["in_channels"], config["out_channels"]) = (json!(inputs), json!(outputs));
        std::fs::write(folder.join("unet/config.json"), config.to_string()).expect("a file");
        let mut tensors = candle_core::safetensors::load(folder.join(WEIGHTS), &Device::Cpu).expect("weights");
        let outs = ["conv_out.weight", "conv_out.bias"].map(|name| (name, 0, outputs));
        for (name, at, channels) in [("conv_in.weight", 1, inputs)].into_iter().chain(outs) {
            let tensor = &tensors[name];
            let there = tensor.dims()[at] as u32;
            let again = Tensor::from_iter((0..channels as u32).map(|i| i % there), &Device::Cpu);
            let channels = again.and_then(|again| tensor.index_select(&again, at)).expect("channels");
            tensors.insert(name.into(), channels);
        }
        candle_core::safetensors::save(&tensors, folder.join(WEIGHTS)).expect("a file");
    }

    fn request(&self, detail: Detail) -> EditRequest {
        let params = Params {
            prompt: "a photo of a bird".into(),
            embedding_steps: 2,
            tuning_steps: 2,
            detail_steps: 3,
            detail_lr: 1e-4,
            sampling_steps: 2,
            detail,
            ..Params::paper()
        };
        EditRequest {
            layer: layer(72, 56).into(),
            params,
            model_path: self.path(),
            familiar_psnr: None,
            document: "document".into(),
            selection: None,
            layer_digest: None,
            previews: 0,
        }
    }
}

/// A picture with some structure.
fn layer(width: u32, height: u32) -> LayerImage {
    let pixel = |i: u32| {
        let (x, y) = (i % width, i / width);
        [(x * 900) as u16, (y * 1100) as u16, ((x ^ y) * 500) as u16, u16::MAX]
    };
    LayerImage::new(width, height, (0..width * height).flat_map(pixel).collect()).expect("a layer")
}

/// With everything that is done written after every step.
fn engine(cache: Option<&TempDir>) -> Engine {
    Engine::new(EngineOptions {
        cache_folder: cache.map(|folder| folder.path().to_owned()),
        resume_every: Duration::ZERO,
        ..EngineOptions::default()
    })
}

/// The edit, and the first step that was told of each stage that ran.
fn edit(engine: &mut Engine, request: &EditRequest) -> Result<(Edit, Vec<(Stage, u32)>)> {
    let mut stages: Vec<(Stage, u32)> = Vec::new();
    let edit = engine.edit(request, &mut |progress| {
        if stages.last().is_none_or(|(stage, _)| *stage != progress.stage) {
            stages.push((progress.stage, progress.step));
        }
        ControlFlow::Continue(())
    })?;
    stages.retain(|(stage, _)| ![Stage::LoadModel, Stage::Wait].contains(stage));
    Ok((edit, stages))
}

fn size(edit: &Edit) -> (u32, u32) {
    let picture = edit.picture.opaque();
    (picture.width(), picture.height())
}

const FRESH: [(Stage, u32); 5] = [
    (Stage::OptimizeTextEmbedding, 0),
    (Stage::FineTune, 0),
    (Stage::Generate, 0),
    (Stage::FineTuneDetail, 0),
    (Stage::Enlarge, 0),
];

/// Where everything was tuned before.
const DRAWN: [(Stage, u32); 2] = [(Stage::Generate, 0), (Stage::Enlarge, 0)];

#[test]
fn an_edit_is_enlarged_by_the_model_that_comes_with_the_base_model_tuned_once() {
    let (models, cache) = (Models::new(), tempfile::tempdir().expect("a folder"));
    let request = models.request(Detail::Automatic);
    let mut first = engine(Some(&cache));
    let (cold, stages) = edit(&mut first, &request).expect("an edit");
    assert_eq!((stages.as_slice(), cold.tuned), (&FRESH[..], Tuned::Now));
    let (small, _) = edit(&mut engine(None), &models.request(Detail::Off)).expect("an edit");
    let (w, h) = size(&small);
    assert_eq!(size(&cold), (4 * w, 4 * h));
    let same = |other: &Edit| cold.picture.opaque() == other.picture.opaque();
    let (warm, stages) = edit(&mut first, &request).expect("an edit");
    assert!(stages == DRAWN && warm.tuned == Tuned::InMemory && same(&warm));
    first.settle();
    let (kept, stages) = edit(&mut engine(Some(&cache)), &request).expect("an edit");
    assert!(stages == DRAWN && kept.tuned == Tuned::OnDisk && same(&kept));
    assert!(same(&edit(&mut engine(None), &request).expect("an edit").0), "without a cache");

    let changed = |change: &dyn Fn(&mut Params)| {
        let mut request = request.clone();
        change(&mut request.params);
        let (edit, stages) = edit(&mut engine(Some(&cache)), &request).expect("an edit");
        assert!(!same(&edit), "the same picture");
        stages.into_iter().map(|(stage, _)| stage).collect::<Vec<_>>()
    };
    let drawn = [Stage::Generate, Stage::Enlarge];
    assert_eq!(changed(&|params| params.eta = 0.2), drawn);
    assert_eq!(changed(&|params| params.seed = 3), drawn);
    assert_eq!(changed(&|params| params.detail = Detail::Pretrained), drawn);
    assert_eq!(changed(&|params| params.detail = Detail::Off), drawn[..1]);
    let detail = [Stage::Generate, Stage::FineTuneDetail, Stage::Enlarge];
    assert_eq!(changed(&|params| params.detail_lr = 2e-4), detail, "the base model's tuning is kept");
    assert_eq!(changed(&|params| params.detail_steps = 4), detail);
}

#[test]
fn the_model_that_enlarges_is_tuned_in_every_mode() {
    let models = Models::new();
    let with = |mode, layers, steps| {
        let mut request = models.request(Detail::Tuned);
        let params = &mut request.params;
        (params.tuning_mode, params.lora_layers, params.detail_steps) = (mode, layers, steps);
        let (edit, stages) = edit(&mut engine(None), &request).expect("an edit");
        assert!(steps == 0 || stages == FRESH, "{mode}, {layers}: {stages:?}");
        edit.picture.opaque()
    };
    let full = with(TuningMode::Full, LoraLayers::All, 3);
    assert!(full == with(TuningMode::Checkpointed, LoraLayers::All, 3), "less memory, another result");
    for layers in [LoraLayers::Attention, LoraLayers::All] {
        let adapted = with(TuningMode::Lora, layers, 3);
        assert!(adapted != full && adapted != with(TuningMode::Lora, layers, 0), "{layers}: nothing was tuned");
    }
}

/// What a user may change beside what another test of this file changes.
type Change = (&'static str, fn(&mut EditRequest));
const CHANGES: [Change; 22] = [
    ("adapters", |r| r.params.tuning_mode = TuningMode::Lora),
    ("adapters in attention", |r| {
        (r.params.tuning_mode, r.params.lora_layers) = (TuningMode::Lora, LoraLayers::Attention)
    }),
    ("less memory", |r| r.params.tuning_mode = TuningMode::Checkpointed),
    ("a batch of 3", |r| r.params.batch_size = 3),
    ("eta 0", |r| r.params.eta = 0.0),
    ("eta 2", |r| r.params.eta = 2.0),
    ("no stage A", |r| r.params.embedding_steps = 0),
    ("no stage B", |r| r.params.tuning_steps = 0),
    ("no stage B of the detail", |r| r.params.detail_steps = 0),
    ("detail off", |r| r.params.detail = Detail::Off),
    ("detail as it is", |r| r.params.detail = Detail::Pretrained),
    ("no guidance", |r| r.params.guidance = 1.0),
    ("one step", |r| r.params.sampling_steps = 1),
    ("two versions", |r| r.params.candidates = 2),
    ("half of its own noise", |r| r.params.own_noise = 0.5),
    ("half of the tuning", |r| r.params.tuning_share = 0.5),
    ("keep untouched", |r| r.params.keep_untouched = true),
    ("32 pixels", |r| r.params.resolution = 32),
    ("previews", |r| r.previews = 2),
    ("a selection", |r| r.selection = Some(selection(&r.layer, 10))),
    ("a selection of one pixel", |r| r.selection = Some(selection(&r.layer, 1))),
    ("a narrow layer", |r| r.layer = layer(90, 7).into()),
];

/// So many columns of the layer, and as many rows.
fn selection(layer: &LayerImage, side: u32) -> Selection {
    let (w, h) = (layer.width(), layer.height());
    let inside = |at: u32| (20..20 + side).contains(&(at % w)) && (3..3 + side).contains(&(at / w));
    Selection::new(w, h, (0..w * h).map(|at| if inside(at) { u16::MAX } else { 0 }).collect()).expect("a selection")
}

/// With adapters and in a selection, which change most of what an edit does; all 231 pairs were tried once.
#[test]
fn settings_go_together() {
    let models = Models::new();
    for (one, change) in CHANGES.iter().filter(|(name, _)| ["adapters", "a selection"].contains(name)) {
        // One engine for several edits, as in a dialog: what one leaves behind is there for the next.
        let mut engine = engine(None);
        for (other, more) in &CHANGES {
            let mut request = models.request(Detail::Automatic);
            more(&mut request);
            change(&mut request);
            let (edit, _) = edit(&mut engine, &request).unwrap_or_else(|error| panic!("{one}, {other}: {error}"));
            let result = edit.picture.on(&request.layer).0;
            let size = [request.layer.width(), request.layer.height()];
            assert_eq!([result.width(), result.height()], size, "{one}, {other}");
        }
    }
}

#[test]
fn where_nothing_enlarges_an_edit_it_is_what_it_was() {
    let models = Models::new();
    let mut engine = engine(None);
    let (off, _) = edit(&mut engine, &models.request(Detail::Off)).expect("an edit");
    // A layer that is no larger than the base model's pictures.
    let mut small = models.request(Detail::Automatic);
    small.layer = layer(16, 16).into();
    let (small, stages) = edit(&mut engine, &small).expect("an edit");
    assert_eq!((size(&small), stages.len()), ((16, 16), 3));
    let mut request = models.request(Detail::Automatic);
    std::fs::remove_dir_all(models.path().join("enlarger")).expect("removed");
    let (without, _) = edit(&mut engine, &request).expect("an edit");
    assert!(without.picture.opaque() == off.picture.opaque());
    request.params.detail = Detail::Tuned;
    let error = edit(&mut engine, &request).expect_err("no model that enlarges").to_string();
    assert!(error.contains("detail is tuned") && error.contains("--enlarger"), "{error}");
    request.params.enlarger = models.path().join("no such file").display().to_string();
    let error = edit(&mut engine, &request).expect_err("no such file").to_string();
    assert!(error.contains("no such file"), "{error}");
    request.params.enlarger = models.path().display().to_string();
    let error = edit(&mut engine, &request).expect_err("a base model").to_string();
    assert!(error.contains("is not a model that enlarges"), "{error}");
}

#[test]
fn an_edit_that_dies_while_its_detail_is_tuned_goes_on_there_to_the_same_bytes() {
    let (models, cache) = (Models::new(), tempfile::tempdir().expect("a folder"));
    let request = models.request(Detail::Tuned);
    let (whole, _) = edit(&mut engine(None), &request).expect("an edit");
    let mut mortal = engine(Some(&cache));
    let died = std::panic::catch_unwind(AssertUnwindSafe(|| {
        mortal.edit(&request, &mut |progress| {
            assert!(progress.stage != Stage::FineTuneDetail || progress.step != 2, "as told");
            ControlFlow::Continue(())
        })
    }));
    assert!(died.is_err());
    drop(mortal);
    let (rest, stages) = edit(&mut engine(Some(&cache)), &request).expect("the rest");
    assert!(matches!(stages[..], [_, (Stage::FineTuneDetail, 1 | 2), _]), "{stages:?}");
    assert!(rest.picture.opaque() == whole.picture.opaque());

    // Stopped by its user: the base model's tuning is not lost, and the detail's goes on.
    let cache = tempfile::tempdir().expect("a folder");
    let mut stopped = engine(Some(&cache));
    let result = stopped.edit(&request, &mut |progress| {
        let is_there = progress.stage == Stage::FineTuneDetail && progress.step == 2;
        if is_there { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(result.is_err());
    drop(stopped);
    let (rest, stages) = edit(&mut engine(Some(&cache)), &request).expect("the rest");
    assert_eq!(stages, [DRAWN[0], (Stage::FineTuneDetail, 2), DRAWN[1]]);
    assert!(rest.picture.opaque() == whole.picture.opaque());
}

#[test]
fn a_model_that_sees_pixels_enlarges_to_the_layers_own_size() {
    let models = Models::new();
    models.write_enlarger("upscaler", 3, &json!({ "_class_name": "StableDiffusionUpscalePipeline" }));
    for part in ["vae", "text_encoder", "tokenizer", "scheduler"] {
        copy_folder(&models.path().join(part), &models.path().join("upscaler").join(part));
    }
    let mut request = models.request(Detail::Automatic);
    request.params.enlarger = models.path().join("upscaler").display().to_string();
    request.layer = layer(120, 84).into();
    // 10 noise levels in its table, and not the 350 of the x4 upscaler.
    let index = json!({ "_class_name": "StableDiffusionUpscalePipeline", "max_noise_level": 10, "noise_level": 2 });
    std::fs::write(models.path().join("upscaler/model_index.json"), index.to_string()).expect("a file");
    let (edited, stages) = edit(&mut engine(None), &request).expect("an edit");
    assert_eq!(stages, FRESH);
    // Twice the smallest picture that the network takes and that is half of the layer.
    assert_eq!(size(&edited), (120, 84));
}

#[test]
fn what_is_painted_is_what_the_plain_enlargement_lacks() {
    let models = Models::new();
    models.work_on_pixels("enlarger", 2, 1);
    let with_scale = |scale: f64| {
        let pipeline = json!({ "residual_scale": scale, "sampling_steps": 3, "guidance_scale": 1.0 });
        std::fs::write(models.path().join("enlarger/model_index.json"), pipeline.to_string()).expect("a file");
        let request = models.request(Detail::Pretrained);
        edit(&mut engine(None), &request).expect("an edit").0.picture.on(&request.layer).0
    };
    let off = models.request(Detail::Off);
    let off = edit(&mut engine(None), &off).expect("an edit").0.picture.on(&off.layer).0;
    let distance = |picture: &LayerImage| {
        let pairs = picture.pixels().as_raw().iter().zip(off.pixels().as_raw());
        pairs.map(|(&one, &other)| f64::from(one.abs_diff(other))).sum::<f64>()
            / f64::from(4 * picture.width() * picture.height())
    };
    // Enlarged and scaled to the layer's size is nearly scaled to it at once.
    let [plain, painted] = [1e6, 1.0].map(|scale| distance(&with_scale(scale)));
    assert!(plain < 1500.0 && painted > 5000.0, "{plain} and {painted} of 65535 levels");
    let source = Source::open_enlarger(&models.path().join("enlarger")).expect("a model that enlarges");
    let enlarger = Enlarger::read(&source).expect("a model that enlarges");
    assert_eq!(enlarger.sees, Sees::Enlarged { residual_scale: 1.0 });
}

/// Imagen's form: base model and the one that enlarges both work on pixels.
#[test]
fn models_without_an_autoencoder_edit_pixels_in_all_stages() {
    let models = Models::new();
    models.work_on_pixels("", 1, 1);
    models.work_on_pixels("enlarger", 2, 1);
    std::fs::remove_dir_all(models.path().join("vae")).expect("removed");
    let cache = tempfile::tempdir().expect("a folder");
    let request = models.request(Detail::Automatic);
    let mut first = engine(Some(&cache));
    let (cold, stages) = edit(&mut first, &request).expect("an edit");
    assert_eq!(stages, FRESH);
    // The network's 8 places are 8 pixels; the layer of 72 x 56 has the shape of 10 x 6, which is enlarged.
    let (w, h) = size(&cold);
    assert_eq!((w % 8, h % 8), (0, 0));
    drop(first);
    let (kept, stages) = edit(&mut engine(Some(&cache)), &request).expect("an edit");
    assert!(stages == DRAWN && kept.picture.opaque() == cold.picture.opaque());
}

#[test]
fn a_companion_on_pixels_takes_no_autoencoder_from_its_base_model() {
    // A square of pixels at each place, as the built-in model's companion has it.
    let models = Models::new();
    models.work_on_pixels("enlarger", 2, 2);
    let cache = tempfile::tempdir().expect("a folder");
    let request = models.request(Detail::Automatic);
    let mut first = engine(Some(&cache));
    let (cold, stages) = edit(&mut first, &request).expect("an edit");
    assert_eq!(stages, FRESH);
    let (off, _) = edit(&mut first, &models.request(Detail::Off)).expect("an edit");
    assert_eq!(size(&cold), (4 * size(&off).0, 4 * size(&off).1));
    drop(first);
    let (kept, stages) = edit(&mut engine(Some(&cache)), &request).expect("an edit");
    assert!(stages == DRAWN && kept.picture.opaque() == cold.picture.opaque());
    // What it is tuned on went through the base model's autoencoder.
    let file = models.path().join("vae/diffusion_pytorch_model.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).expect("weights");
    let bias = (&tensors["decoder.conv_out.bias"] + 0.5).expect("a bias");
    tensors.insert("decoder.conv_out.bias".into(), bias);
    std::fs::remove_file(&file).expect("removed");
    candle_core::safetensors::save(&tensors, &file).expect("a file");
    let (_, stages) = edit(&mut engine(Some(&cache)), &request).expect("an edit");
    assert_eq!(stages, FRESH, "another autoencoder is another request");
}

#[test]
fn only_what_an_edit_touches_is_painted_and_the_rest_is_the_layers_own() {
    let models = Models::new();
    let mut request = models.request(Detail::Pretrained);
    (request.params.keep_untouched, request.params.eta) = (true, 0.0);
    let (kept, _) = edit(&mut engine(None), &request).expect("an edit");
    let (layer, untouched) = kept.picture.on(&request.layer);
    assert!(layer == *request.layer && untouched.iter().all(|&untouched| untouched), "at eta 0 nothing is touched");
}

#[test]
fn what_an_edit_costs_counts_its_detail() {
    let (models, cache) = (Models::new(), tempfile::tempdir().expect("a folder"));
    let mut engine = engine(Some(&cache));
    let request = models.request(Detail::Tuned);
    let seconds = |engine: &Engine, detail| {
        let mut request = request.clone();
        (request.params.detail, request.params.seed) = (detail, 9);
        engine.estimate(&request).expect("an estimate").seconds
    };
    assert_eq!(seconds(&engine, Detail::Tuned), None, "nothing is known before the first edit");
    edit(&mut engine, &request).expect("an edit");
    let [off, tuned] = [Detail::Off, Detail::Tuned].map(|detail| seconds(&engine, detail).expect("seconds"));
    assert!(off < tuned, "{off} and {tuned}");
    let mut longer = request.clone();
    longer.params.detail_steps = 3000;
    let longer = engine.estimate(&longer).expect("an estimate").seconds.expect("seconds");
    assert!(tuned < longer, "{tuned} and {longer}");
}
