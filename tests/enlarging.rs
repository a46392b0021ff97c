//! Models that enlarge pictures against diffusers, on the data that `tests/reference/make_enlarging.py` made: networks,
//! every gradient, a short tuning, and a whole picture of diffusers' pipeline.
//!
//! Errors are relative, |ours - theirs| / |theirs|, as in `tests/parity.rs`.

use candle_core::{DType, Device, Tensor, Var};
use imagic_edit::engine::auxiliary::tiles::Tiled;
use imagic_edit::engine::auxiliary::{self, Crops, Enlarger};
use imagic_edit::engine::device::{Launches, Precision};
use imagic_edit::engine::imagic;
use imagic_edit::engine::model::codec::Codec;
use imagic_edit::engine::model::conditioning::Conditioning;
use imagic_edit::engine::model::family::UPSCALER_X4;
use imagic_edit::engine::model::guidance::{Guided, Predict};
use imagic_edit::engine::model::schedule::Schedule;
use imagic_edit::engine::model::source::{Part, Source};
use imagic_edit::engine::model::unet::{UNet, UNetConfig};
use imagic_edit::engine::model::weights::Weights;
use imagic_edit::engine::random::{Purpose, Stream};
use imagic_edit::engine::tuning::backward::Activations;
use imagic_edit::engine::tuning::draw::Draw;
use imagic_edit::engine::tuning::mode::Mode;
use imagic_edit::engine::tuning::training::{Setting, Tuning};
use imagic_edit::params::Params;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const DEVICE: Device = Device::Cpu;
const MODELS: [&str; 3] = ["latents", "pixels", "base"];

#[test]
fn networks_predict_the_same_and_have_the_same_gradients() {
    let reference = Reference::open();
    for name in MODELS {
        let model = Model::new(&reference, name);
        let variable =
            |(name, weight): (&String, &Tensor)| (name.clone(), Var::from_tensor(weight).expect("a variable"));
        let variables: BTreeMap<String, Var> = model.weights.tensors.iter().map(variable).collect();
        let tracked = variables.iter().map(|(name, variable)| (name.clone(), variable.as_tensor().clone())).collect();
        let unet = UNet::new(&model.config, &Weights { tensors: tracked, ..model.weights.clone() }).expect("a network");
        let Inputs { x, noise, mut e, small, small_noise } = model.inputs(&reference);
        let tokens = Var::from_tensor(&e.tokens).expect("a variable");
        e.tokens = tokens.as_tensor().clone();
        let timesteps = integers(&reference.facts["timesteps"]);
        let mut e = e.repeat(2).expect("two items");
        if model.enlarges() {
            let levels = model.enlarger.levels(&unet, &integers(&reference.facts["levels"]), &DEVICE).expect("levels");
            e = model.enlarger.condition(&e, &small, &small_noise, &levels).expect("a conditioning");
        }
        let schedule = &model.schedule;
        let sinusoids = Tensor::from_vec(unet.sinusoids(&timesteps), (2, ()), &DEVICE).expect("sinusoids");
        let scales = Tensor::from_vec(schedule.scales(&timesteps), (2, 2, 1, 1, 1), &DEVICE).expect("scales");
        let draw = |activations| Draw { schedule, sinusoids: &sinusoids, scales: &scales, noise: &noise, activations };

        let x_t = draw(Activations::Keep).noised(&x).expect("x_t");
        let prediction = unet.forward(&x_t, &sinusoids, &e).expect("a prediction");
        reference.check(name, 4e-6, [("prediction", prediction)]);
        for activations in [Activations::Keep, Activations::Recompute] {
            let (loss, mut gradients) = imagic::denoising_loss(&unet, &x, &e, &draw(activations)).expect("a loss");
            reference.check(name, 1e-6, [("loss", loss.reshape(1).expect("one number"))]);
            reference.check(name, 1e-5, [("gradient_of_e", gradients.remove(&tokens).expect("a gradient"))]);
            let ours = variables.iter().map(|(weight, variable)| {
                let gradient = gradients.remove(variable).unwrap_or_else(|| panic!("{name}: no gradient of {weight}"));
                (format!("gradient.{weight}"), sketch(&gradient))
            });
            reference.check(
                name,
                1e-5,
                ours.collect::<Vec<_>>().iter().map(|(name, ours)| (name.as_str(), ours.clone())),
            );
        }
        assert_eq!(reference.names(&format!("{name}.gradient.")), variables.keys().cloned().collect::<Vec<_>>());
    }
}

#[test]
fn stage_b_of_the_auxiliary_model_takes_the_same_steps() {
    let reference = Reference::open();
    let facts = &reference.facts["tuning"];
    let number = |key: &str| facts[key].as_u64().expect("a number") as u32;
    let params = Params {
        tuning_steps: number("steps"),
        tuning_lr: facts["lr"].as_f64().expect("a rate"),
        batch_size: number("batch"),
        tuning_seed: 42,
        ..Params::paper()
    };
    for name in ["latents", "pixels"] {
        let model = Model::new(&reference, name);
        let Inputs { x, e, small, .. } = model.inputs(&reference);
        let tune = |mode| {
            let setting = &Setting {
                config: &model.config,
                schedule: &model.schedule,
                params: &params,
                mode,
                launches: Launches::Eager,
                precision: Precision::F32,
            };
            let (mut training, watch) = (None, &mut |_, _, _, _| Ok(()));
            let mut tuning =
                Tuning { setting, training: &mut training, saved: &mut None, before: &[], watch, keep: &mut |_| () };
            let crops = Crops { large: x.clone(), seen: small.clone() };
            assert_eq!(model.enlarger.levels, number("levels"));
            let base = || Ok(model.weights.clone());
            let tuned = auxiliary::fine_tune(&model.enlarger, base, &crops, &e, &mut tuning).expect("stage B");
            (tuned, tuning.end())
        };
        let (tuned, losses) = tune(Mode::Full);
        reference.check(name, 1e-5, [("losses", Tensor::new(losses, &DEVICE).expect("a row"))]);
        let ours = tuned.tensors.iter().map(|(weight, tensor)| (format!("tuned.{weight}"), sketch(tensor)));
        // Of the weights; the steps changed them by a hundredth.
        reference.check(name, 5e-5, ours.collect::<Vec<_>>().iter().map(|(name, ours)| (name.as_str(), ours.clone())));
        let (again, _) = tune(Mode::Checkpointed);
        for (weight, tensor) in &tuned.tensors {
            assert!(values(&again.tensors[weight]) == values(tensor), "{name}: another {weight}");
        }
    }
}

#[test]
fn a_picture_is_enlarged_as_by_the_pipeline_of_diffusers() {
    let reference = Reference::open();
    let model = Model::new(&reference, "latents");
    let facts = &reference.facts["pipeline"];
    let mut drawn = Drawn::default();
    let [h, w] = reference.small();
    let small = (drawn.normals(&[1, 3, h, w]) / 2.0).and_then(|small| small.clamp(-1f32, 1f32)).expect("a picture");
    let (small_noise, latents) = (drawn.normals(&[1, 3, h, w]), drawn.normals(&[1, 4, h, w]));
    let [e, e_null] = [(); 2].map(|()| reference.text(&mut drawn));
    let unet = UNet::new(&model.config, &model.weights).expect("a network");
    let level = facts["level"].as_u64().expect("a level") as u32;
    let levels = model.enlarger.levels(&unet, &[level], &DEVICE).expect("levels");
    let condition = |e| model.enlarger.condition(e, &small, &small_noise, &levels).expect("a conditioning");
    let (e, e_null) = (condition(&e), condition(&e_null));
    let guidance = facts["guidance"].as_f64().expect("a number");
    let steps = facts["steps"].as_u64().expect("a number") as u32;
    let enlarge = |network: &mut dyn FnMut(&Tensor, u32) -> Tensor| {
        let mut x_t = latents.clone();
        for t in model.schedule.timesteps(steps) {
            x_t = model.schedule.step(&network(&x_t, t), t, steps, &x_t).expect("a step").x_t;
        }
        x_t
    };
    let mut guided = Guided::new(&unet, &e, &e_null, guidance, Launches::Eager).expect("a network");
    let whole = enlarge(&mut |x_t, t| guided.predict(x_t, t).expect("a prediction"));
    reference.check("pipeline", 1e-5, [("latent", whole.clone())]);
    let picture = model.codec.decode(&whole).expect("a picture");
    let picture = ((picture / 2.0).and_then(|picture| picture + 0.5)).and_then(|picture| picture.clamp(0f32, 1f32));
    reference.check("pipeline", 1e-5, [("pt", picture.expect("a picture"))]);

    // One tile as large as the canvas is the canvas.
    let (mut asked, wanted) = (0, |_, _| true);
    let go_on = &mut || {
        asked += 1;
        Ok(())
    };
    let mut tiled = Tiled::new(&unet, [&e, &e_null], guidance, w, wanted, go_on).expect("tiles");
    let one = enlarge(&mut |x_t, t| tiled.predict(x_t, t).expect("a prediction"));
    assert!(relative_error(&one, &whole) < 1e-6);
    assert_eq!(asked, steps, "asked before every tile whether to go on");
}

/// A network whose prediction at a place is that of a few places around it, so that tiles of it must agree where they
/// overlap by more.
#[test]
fn tiles_join_without_a_seam_and_leave_out_what_is_not_wanted() {
    let reference = Reference::open();
    let model = Model::new(&reference, "latents");
    let unet = UNet::new(&model.config, &model.weights).expect("a network");
    let mut drawn = Drawn::default();
    let (h, w, side) = (16, 40, 16);
    let e = reference.text(&mut drawn);
    // Everywhere the same picture and the same noise: so are all tiles, and so must their sum be.
    let flat = |channels: usize, value: f32| Tensor::full(value, (1, channels, h, w), &DEVICE).expect("a tensor");
    let levels = model.enlarger.levels(&unet, &[20], &DEVICE).expect("levels");
    let e = model.enlarger.condition(&e, &flat(3, 0.25), &flat(3, 0.5), &levels).expect("a conditioning");
    let x_t = flat(4, 0.7);
    let predict = |wanted: &dyn Fn((usize, usize)) -> bool| {
        let go_on = &mut || Ok(());
        let mut tiled = Tiled::new(&unet, [&e, &e], 1.0, side, |place, _| wanted(place), go_on).expect("tiles");
        (tiled.predict(&x_t, 500).expect("a prediction"), tiled.count())
    };
    let (all, count) = predict(&|_| true);
    assert_eq!(count, 3, "40 places by tiles of 16, a quarter of which overlaps");
    let one = {
        let cut = |tensor: &Tensor| tensor.narrow(3, 0, side).and_then(|tile| tile.contiguous()).expect("a tile");
        let e = Conditioning { beside: e.beside.as_ref().map(cut), ..e.clone() };
        let mut guided = Guided::new(&unet, &e, &e, 1.0, Launches::Eager).expect("a network");
        guided.predict(&cut(&x_t), 500).expect("a prediction")
    };
    for place in [0, 12, 24] {
        // The middle of each tile is that of the one tile, the Gaussians of its neighbours are small there.
        let middle = |tensor: &Tensor, at: usize| tensor.narrow(3, at + 6, 4).expect("places");
        assert!(relative_error(&middle(&all, place), &middle(&one, 0)) < 0.05, "the tile at {place}");
    }
    let (some, count) = predict(&|(_, x)| x == 0);
    assert_eq!(count, 1);
    let row = |tensor: &Tensor, from: usize, n: usize| values(&tensor.narrow(3, from, n).expect("places"));
    assert!(relative_error(&some.narrow(3, 0, side).expect("places"), &one) < 1e-6);
    assert!(row(&some, side, w - side).iter().all(|&value| value == 0.0), "nothing is predicted elsewhere");
}

/// The data of the script.
struct Reference {
    facts: Value,
    tensors: HashMap<String, Tensor>,
    /// Where models are written.
    folder: TempDir,
}

/// A model of it.
struct Model {
    config: UNetConfig,
    weights: Weights,
    schedule: Schedule,
    enlarger: Enlarger,
    codec: Codec,
}

/// What the script draws for a model.
struct Inputs {
    x: Tensor,
    noise: Tensor,
    e: Conditioning,
    small: Tensor,
    small_noise: Tensor,
}

/// Streams of normal numbers, one after the other.
#[derive(Default)]
struct Drawn(u32);

impl Drawn {
    fn normals(&mut self, shape: &[usize]) -> Tensor {
        self.0 += 1;
        Stream::new(2000u32, Purpose::Latents, self.0).normals(shape, &DEVICE).expect("normal numbers")
    }
}

impl Reference {
    fn open() -> Self {
        let fixture = fixtures().join("enlarging");
        let facts = std::fs::read(fixture.join("facts.json")).expect("the script's facts");
        Self {
            facts: serde_json::from_slice(&facts).expect("JSON"),
            tensors: candle_core::safetensors::load(fixture.join("reference.safetensors"), &DEVICE).expect("tensors"),
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    /// Height and width.
    fn small(&self) -> [usize; 2] {
        let sides = integers(&self.facts["small"]);
        [sides[0] as usize, sides[1] as usize]
    }

    fn text(&self, drawn: &mut Drawn) -> Conditioning {
        let tokens = self.facts["tokens"].as_u64().expect("a number") as usize;
        let width = self.facts["unets"]["latents"]["cross_attention_dim"].as_u64().expect("a number") as usize;
        Conditioning { tokens: drawn.normals(&[1, tokens, width]), added: None, beside: None, class: None }
    }

    /// Names after `prefix`, sorted.
    fn names(&self, prefix: &str) -> Vec<String> {
        let mut names: Vec<_> =
            self.tensors.keys().filter_map(|name| name.strip_prefix(prefix)).map(str::to_owned).collect();
        names.sort();
        names
    }

    /// Against torch's f64. Beyond `least`, or three times what its f32 differs from that in tensors of that kind, it
    /// fails.
    fn check<'a>(&self, model: &str, least: f64, ours: impl IntoIterator<Item = (&'a str, Tensor)>) {
        let mut worst = (0.0, String::new());
        let mut tolerance = least;
        for (name, ours) in ours {
            let kind = name.split('.').next().unwrap_or_default();
            let rounding = self.facts["rounding"][format!("{model}.{kind}")].as_f64().unwrap_or_default();
            tolerance = least.max(3.0 * rounding);
            let theirs = &self.tensors[&format!("{model}.{name}")];
            assert_eq!(ours.dims(), theirs.dims(), "{model}: shape of {name}");
            let error = relative_error(&ours, theirs);
            assert!(
                error <= tolerance,
                "{model}: {name} is {error:.1e} beside the reference, more than {tolerance:.0e}"
            );
            if error >= worst.0 {
                worst = (error, name.to_owned());
            }
        }
        println!("{model:8} {:.1e} of {tolerance:.0e} ({})", worst.0, worst.1);
    }
}

impl Model {
    /// Writes the model as a diffusers folder and reads it.
    fn new(reference: &Reference, name: &str) -> Self {
        let folder = reference.folder.path().join(name);
        let write = |file: &str, content: &Value| {
            let file = folder.join(file);
            std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
            std::fs::write(file, content.to_string()).expect("a file");
        };
        let facts = &reference.facts;
        write("model_index.json", &json!({ "_class_name": "StableDiffusionUpscalePipeline" }));
        write("unet/config.json", &facts["unets"][name]);
        write("vae/config.json", &facts["vae"]);
        for scheduler in ["scheduler", "low_res_scheduler"] {
            write(&format!("{scheduler}/scheduler_config.json"), &facts["scheduler"]);
        }
        // The text encoder of another model, of the width that the network takes.
        for part in ["text_encoder", "tokenizer"] {
            let from = fixtures().join("small-sd2/model").join(part);
            std::fs::create_dir_all(folder.join(part)).expect("a folder");
            for entry in std::fs::read_dir(from).expect("a part of a model") {
                let entry = entry.expect("a file");
                std::fs::copy(entry.path(), folder.join(part).join(entry.file_name())).expect("a copy");
            }
        }
        // As `fill` of the script.
        for (part, network) in [("unet", name), ("vae", "vae")] {
            let shapes: BTreeMap<_, _> = facts["shapes"][network].as_object().expect("shapes").iter().collect();
            let tensors: HashMap<String, Tensor> = shapes
                .into_iter()
                .enumerate()
                .map(|(number, (name, shape))| (name.clone(), weight(number as u32, name, &integers(shape))))
                .collect();
            let file = folder.join(part).join("diffusion_pytorch_model.safetensors");
            candle_core::safetensors::save(&tensors, file).expect("a file");
        }
        let source = Source::open_enlarger(&folder).expect("a model that enlarges");
        assert!(Source::open(&folder).is_err(), "it is no base model");
        let config = UNetConfig::read(&source, &UPSCALER_X4).expect("a configuration");
        Self {
            config,
            weights: source.tensors(Part::UNet, &DEVICE).expect("weights"),
            schedule: Schedule::read(source.scheduler()).expect("a schedule"),
            enlarger: Enlarger::read(&source).expect("a model that enlarges"),
            codec: Codec::read(&source, &UPSCALER_X4, &DEVICE).expect("a codec"),
        }
    }

    fn enlarges(&self) -> bool {
        self.config.class_embedding.is_some()
    }

    fn inputs(&self, reference: &Reference) -> Inputs {
        let (mut drawn, [h, w]) = (Drawn::default(), reference.small());
        let c = self.config.out_channels;
        let (x, noise) = (drawn.normals(&[1, c, h, w]), drawn.normals(&[2, c, h, w]));
        let e = reference.text(&mut drawn);
        let small = (drawn.normals(&[1, 3, h, w]) / 2.0).expect("a picture");
        Inputs { x, noise, e, small, small_noise: drawn.normals(&[2, 3, h, w]) }
    }
}

/// As `weight` in the script.
fn weight(number: u32, name: &str, shape: &[u32]) -> Tensor {
    let shape: Vec<usize> = shape.iter().map(|&side| side as usize).collect();
    let normals = Stream::new(1000u32, Purpose::Latents, number).normals(&shape, &DEVICE).expect("normal numbers");
    let scaled = match shape.as_slice() {
        [_] if name.ends_with("weight") => normals.affine(0.25, 1.0),
        [_] => normals / 8.0,
        _ if name == "class_embedding.weight" => normals / 2.0,
        [_, inputs @ ..] => normals / (inputs.iter().product::<usize>() as f64).sqrt(),
        [] => unreachable!("no numbers alone"),
    };
    scaled.expect("a weight")
}

/// As `sketch` in the script: 16 sums of the elements times normal numbers.
fn sketch(tensor: &Tensor) -> Tensor {
    let weights = Stream::new(0u32, Purpose::Latents, 0).normals(&[tensor.elem_count()], &DEVICE).expect("numbers");
    let mut sums = [0.0; 16];
    for (at, (value, weight)) in values(tensor).into_iter().zip(values(&weights)).enumerate() {
        sums[at % 16] += value * weight;
    }
    Tensor::new(sums.map(|sum| sum as f32).as_slice(), &DEVICE).expect("16 numbers")
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn relative_error(ours: &Tensor, theirs: &Tensor) -> f64 {
    let (ours, theirs) = (values(ours), values(theirs));
    let difference: f64 = ours.iter().zip(&theirs).map(|(a, b)| (a - b).powi(2)).sum();
    (difference / theirs.iter().map(|b| b.powi(2)).sum::<f64>()).sqrt()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    let row = tensor.detach().to_dtype(DType::F64).and_then(|tensor| tensor.flatten_all());
    row.and_then(|row| row.to_vec1()).expect("numbers")
}

fn integers(value: &Value) -> Vec<u32> {
    let number = |number: &Value| number.as_u64().expect("a whole number") as u32;
    value.as_array().expect("a list").iter().map(number).collect()
}
