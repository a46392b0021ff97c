//! The engine against diffusers, transformers and torch, on the data that `tests/reference/make_reference.py` made.
//!
//! Runs over `tests/fixtures/*`, or over the one folder that `IMAGIC_REFERENCE` names.
//! Errors are relative: |ours - theirs| / |theirs|, lengths over a whole tensor. A tolerance is one and a half to five
//! times the most that was measured, on networks up to SD 1.5's size; `rounding` in `reference.json` says how far
//! torch's own f32 lies from f64 on the same numbers, which no other f32 computation can be expected to undercut.

use candle_core::backprop::GradStore;
use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor, Var};
use imagic_edit::engine::Engine;
use imagic_edit::engine::device::{Chosen, Form, Launches, Precision, Processor};
use imagic_edit::engine::imagic;
use imagic_edit::engine::model::codec::Codec;
use imagic_edit::engine::model::conditioning::{Added, Conditioning, sinusoids};
use imagic_edit::engine::model::config::Config;
use imagic_edit::engine::model::family::Family;
use imagic_edit::engine::model::guidance::Guided;
use imagic_edit::engine::model::lora;
use imagic_edit::engine::model::schedule::Schedule;
use imagic_edit::engine::model::source::{Part, Source};
use imagic_edit::engine::model::text_encoder::TextEncoder;
use imagic_edit::engine::model::unet::{self, UNet, UNetConfig};
use imagic_edit::engine::model::weights::{Bits, Weights};
use imagic_edit::engine::ops::MomentBits;
use imagic_edit::engine::ops::adam::Adam;
use imagic_edit::engine::random::{Purpose, Stream};
use imagic_edit::engine::request::{EditRequest, EngineOptions};
use imagic_edit::engine::tuning::backward::{Activations, Input, backward};
use imagic_edit::engine::tuning::draw::Draw;
use imagic_edit::engine::tuning::mode::Mode;
use imagic_edit::engine::tuning::training::{Setting, Tuning};
use imagic_edit::image::LayerImage;
use imagic_edit::params::{LoraLayers, Params};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

/// What the engine computes on: the GPU where `IMAGIC_TEST_DEVICE` is cuda, or tf32 or bf16 for fewer bits than those
/// of f32. `fused` is tf32 with attention by own kernels, for the card that is the processor (tests/cuda), where it has
/// all bits of f32.
static CHOSEN: LazyLock<Chosen> = LazyLock::new(|| {
    let chosen = processor().choose();
    if let Some(reason) = chosen.reason {
        panic!("IMAGIC_TEST_DEVICE asks for a GPU, but nothing runs on one: {reason}");
    }
    println!("on {}", chosen.gpu.as_deref().unwrap_or("the processor"));
    chosen
});

static DEVICE: LazyLock<Device> = LazyLock::new(|| CHOSEN.device.clone());

/// CUDA's libraries lie where the system's loader finds them, or in `IMAGIC_CUDA_FOLDER`.
fn processor() -> Processor {
    let precision = match std::env::var("IMAGIC_TEST_DEVICE").as_deref() {
        Ok("cuda") => Precision::F32,
        Ok("fused") => Precision::Tf32OwnAttention,
        Ok("tf32") => Precision::Tf32,
        Ok("bf16") => Precision::Bf16,
        _ => return Processor::Cpu,
    };
    let folder = std::env::var_os("IMAGIC_CUDA_FOLDER").map(PathBuf::from);
    let (libraries, launches) = (folder.into_iter().collect(), launches());
    Processor::Fastest { libraries, precision, launches, eight_bit_moments: false }
}

/// Replayed, unlike in an edit, unless `IMAGIC_TEST_GRAPHS` is 0.
fn launches() -> Launches {
    if std::env::var("IMAGIC_TEST_GRAPHS").is_ok_and(|graphs| graphs == "0") {
        Launches::Eager
    } else {
        Launches::Replayed
    }
}

/// As the network takes them.
fn of_timesteps(unet: &UNet, timesteps: &[u32]) -> Tensor {
    Tensor::from_vec(unet.sinusoids(timesteps), (timesteps.len(), ()), &DEVICE).expect("sinusoids")
}

/// Formula 2 for these timesteps and noises.
fn denoising_loss(
    schedule: &Schedule,
    unet: &UNet,
    [x, noise]: [&Tensor; 2],
    e: &Conditioning,
    timesteps: &[u32],
    activations: Activations,
) -> (Tensor, GradStore) {
    let sinusoids = of_timesteps(unet, timesteps);
    let scales = Tensor::from_vec(schedule.scales(timesteps), (2, timesteps.len(), 1, 1, 1), &DEVICE).expect("scales");
    let draw = Draw { schedule, sinusoids: &sinusoids, scales: &scales, noise, activations };
    imagic::denoising_loss(unet, x, &e.repeat(draw.items()).expect("copies"), &draw).expect("a loss")
}

/// Stage A and its losses.
fn stage_a(setting: &Setting<'_>, base: &Weights, x: &Tensor, e_tgt: &Conditioning) -> (Conditioning, Vec<f32>) {
    let unet = UNet::new(setting.config, base).expect("a U-Net").in_form(setting.precision.training());
    let (mut training, watch) = (None, &mut |_, _, _, _| Ok(()));
    let mut tuning =
        Tuning { setting, training: &mut training, saved: &mut None, before: &[], watch, keep: &mut |_| () };
    let e_opt = imagic::optimize_text_embedding(&unet, x, e_tgt, &mut tuning).expect("stage A");
    (e_opt, tuning.end())
}

/// Stage B and its losses.
fn stage_b(setting: &Setting<'_>, base: &Weights, x: &Tensor, e_opt: &Conditioning) -> (Weights, Vec<f32>) {
    let (mut training, watch) = (None, &mut |_, _, _, _| Ok(()));
    let mut tuning =
        Tuning { setting, training: &mut training, saved: &mut None, before: &[], watch, keep: &mut |_| () };
    let tuned = imagic::fine_tune(|| Ok(base.clone()), x, e_opt, &mut tuning).expect("stage B");
    (tuned, tuning.end())
}

/// Stage C.
fn stage_c(setting: &Setting<'_>, unet: &UNet, shape: &[usize], e_bar: &Conditioning, e_null: &Conditioning) -> Tensor {
    let guidance = setting.params.guidance;
    let mut guided = Guided::new(unet, e_bar, e_null, guidance, setting.launches).expect("a network");
    let watch = &mut |_, _: &Tensor| Ok(());
    imagic::generate(&mut guided, setting.schedule, setting.params, shape, watch).expect("stage C")
}

/// How many times a tolerance is taken on this device: half of what the missing bits make. The tensor cores' 32 bit
/// numbers and f16 have 13 bits less behind the point than f32, which is 8192 times; with such numbers on the processor
/// (tests/cuda) a quarter of that was measured at most.
fn slack() -> f64 {
    if matches!(CHOSEN.precision, Precision::F32 | Precision::Tf32OwnAttention) { 1.0 } else { 4096.0 }
}

/// A tolerance for what comes of tensors that are stored as in training. bf16 has 3 bits less than f16; two fifths of
/// what they make were measured at most, in the gradient of an adapter, and a tenth in those of the weights.
fn trained(tolerance: f64) -> f64 {
    if CHOSEN.precision == Precision::Bf16 { 8.0 * tolerance } else { tolerance }
}

/// More than this is never allowed: what has nothing to do with the reference is as far from it as 0, which is 1, or
/// farther.
const LARGEST_TOLERANCE: f64 = 0.5;

#[test]
fn random_numbers_are_the_documented_ones() {
    every_reference(|reference| {
        for (index, facts) in list(&reference.facts["streams"]).iter().enumerate() {
            let number = |key: &str| facts[key].as_u64().expect("a number") as u32;
            let purposes = [
                Purpose::VaeSample,
                Purpose::EmbeddingTimesteps,
                Purpose::EmbeddingNoise,
                Purpose::TuningTimesteps,
                Purpose::TuningNoise,
                Purpose::Latents,
            ];
            let purpose = purposes[number("purpose") as usize - 1];
            let stream = Stream::new(number("seed"), purpose, number("step"));
            assert_eq!(stream.timesteps(5, 1000), integers(&facts["timesteps"]), "timesteps of {purpose:?}");
            let name = format!("streams.{index}.normals");
            let normals = stream.normals(&[3, 7], &DEVICE).expect("21 numbers");
            // Two mathematical libraries may round a logarithm or a sine differently, by one bit of f32 in the end.
            check(reference, "random numbers", 1e-7, [(name.as_str(), normals, reference.tensor(&name))]);
        }
    });
}

#[test]
fn texts_become_the_same_tokens() {
    every_reference(|reference| {
        let encoder = reference.text_encoder();
        for entry in list(&reference.facts["texts"]) {
            let text = entry["text"].as_str().expect("a text");
            let tokens = encoder.encoders[0].tokenizer.tokenize(text).expect("tokens");
            assert_eq!(tokens.ids, integers(&entry["ids"]), "{}: tokens of {text:?}", reference.name());
        }
        for entry in reference.facts["texts_2"].as_array().into_iter().flatten() {
            let text = entry["text"].as_str().expect("a text");
            let tokens = encoder.encoders[1].tokenizer.tokenize(text).expect("tokens");
            assert_eq!(tokens.ids, integers(&entry["ids"]), "{}: second tokens of {text:?}", reference.name());
        }
    });
}

#[test]
fn texts_get_the_same_embedding() {
    every_reference(|reference| {
        let encoder = reference.text_encoder();
        let text = reference.facts["settings"]["text"].as_str().expect("a text");
        let cut = reference.facts["texts"][2]["text"].as_str().expect("a text");
        let embed = |text| encoder.embed(text, reference.size()).expect("an embedding").0;
        let ours = [embed(text), embed(""), embed(cut)];
        let all = ours[0].and(&ours[1]).and_then(|two| two.and(&ours[2])).expect("three of one shape");
        let (w, h) = reference.size();
        if let Some(Added { pooled, sizes }) = all.added {
            let theirs = reference.tensor("text.pooled");
            check(reference, "text encoder: whole texts", 2e-6, [("text.pooled", pooled, theirs)]);
            let theirs = reference.sizes(3, [h as u32, w as u32]);
            assert!(values(&sizes) == values(&theirs), "{}: other sizes", reference.name());
        }
        let hidden = all.tokens;
        check(reference, "text encoder", 2e-6, [("text.hidden", hidden, reference.tensor("text.hidden"))]);
    });
}

#[test]
fn pictures_are_encoded_sampled_and_decoded_alike() {
    every_reference(|reference| {
        let codec = reference.codec();
        let moments = codec.encode(&reference.tensor("vae.image")).expect("moments");
        let latents = codec.sample(&moments, &reference.tensor("vae.noise")).expect("a sample");
        let decoded = codec.decode(&reference.tensor("vae.latents")).expect("a picture");
        let pairs = [
            ("vae.mean", moments.mean),
            ("vae.logvar", moments.logvar),
            ("vae.latents", latents),
            ("vae.decoded", decoded),
        ];
        check(reference, "VAE", 4e-6, pairs.map(|(name, ours)| (name, ours, reference.tensor(name))));
    });
}

#[test]
fn the_network_predicts_the_same_on_square_and_wide_latents() {
    every_reference(|reference| {
        let (config, weights) = reference.unet();
        for size in ["square", "wide"] {
            let tensor = |name: &str| reference.tensor(&format!("forward.{size}.{name}"));
            let e = reference.conditioning(&format!("forward.{size}"), &tensor("x_t"));
            let timesteps = integers(&reference.facts["forward"][size]["timesteps"]);
            let Chosen { precision, .. } = *CHOSEN;
            let check = |form: Form, tolerance| {
                let predict = |weights: &Weights| {
                    let unet = UNet::new(&config, weights).expect("a U-Net").in_form(form);
                    let sinusoids = of_timesteps(&unet, &timesteps);
                    unet.forward(&tensor("x_t"), &sinusoids, &e).expect("a prediction")
                };
                let output = predict(&weights);
                let same = predict(&unet::with_half_precision(&weights, form).expect("copies"));
                assert!(values(&same) == values(&output), "{}: another prediction with copies", reference.name());
                check(reference, "U-Net forward", tolerance, [(size, output, tensor("output"))]);
            };
            check(precision.training(), trained(4e-6));
            if precision.sampling() != precision.training() {
                check(precision.sampling(), 4e-6);
            }
        }
    });
}

#[test]
fn loss_and_every_gradient_are_the_same() {
    every_reference(|reference| {
        let tensor = |name: &str| reference.tensor(&format!("loss.{name}"));
        let (config, Weights { file, tensors }) = reference.unet();
        let variable = |(name, weight): (String, Tensor)| (name, Var::from_tensor(&weight).expect("a variable"));
        let variables: BTreeMap<String, Var> = tensors.into_iter().map(variable).collect();
        let tensors = variables.iter().map(|(name, variable)| (name.clone(), variable.as_tensor().clone())).collect();
        let unet = UNet::new(&config, &Weights { file, tensors }).expect("a U-Net");
        let unet = unet.in_form(CHOSEN.precision.training());
        let schedule = Schedule::read(reference.source.scheduler()).expect("a schedule");
        let timesteps = integers(&reference.facts["loss"]["timesteps"]);
        let (x, noise) = (tensor("x_0"), tensor("noise"));
        let mut e = reference.conditioning("loss", &x);
        let variable = |tensor: &Tensor| Var::from_tensor(tensor).expect("a variable");
        let mut parts = BTreeMap::from([("e", variable(&e.tokens))]);
        e.tokens = parts["e"].as_tensor().clone();
        if let Some(added) = &mut e.added {
            parts.insert("pooled", variable(&added.pooled));
            added.pooled = parts["pooled"].as_tensor().clone();
        }

        let scales =
            Tensor::from_vec(schedule.scales(&timesteps), (2, timesteps.len(), 1, 1, 1), &DEVICE).expect("scales");
        let x_t = schedule.add_noise(&x, &noise, &scales).expect("x_t");
        let target = schedule.target(&x, &noise, &scales).expect("a target");
        // Through the schedule's square roots, of which theirs are in f32.
        check(reference, "x_t, target", 1e-6, [("x_t", x_t, tensor("x_t")), ("target", target, tensor("target"))]);

        let both = [Activations::Keep, Activations::Recompute];
        let [(loss, mut gradients), (_, recomputed)] =
            both.map(|activations| denoising_loss(&schedule, &unet, [&x, &noise], &e, &timesteps, activations));
        check(reference, "loss", trained(1e-6), [("loss", loss.reshape(1).expect("one number"), tensor("loss"))]);

        let names = variables.keys().map(String::as_str).chain(parts.keys().copied());
        for (name, variable) in names.zip(variables.values().chain(parts.values())) {
            let [kept, recomputed] = [&gradients, &recomputed].map(|gradients| gradients.get(variable).map(values));
            assert!(kept == recomputed, "{}: another gradient of {name} without activations", reference.name());
        }
        for (name, variable) in parts {
            let ours = gradients.remove(&variable).unwrap_or_else(|| panic!("no gradient of {name}"));
            let theirs = tensor(&format!("gradient_of_{name}"));
            check(reference, "gradient of the embedding", trained(1e-5), [(name, ours, theirs)]);
        }

        let theirs = reference.gradients();
        let their_names: BTreeSet<String> = theirs.tensors().into_iter().map(|(name, _)| name).collect();
        let our_names: BTreeSet<String> = variables.keys().cloned().collect();
        assert_eq!(our_names, their_names, "names of the weights");
        let without: Vec<_> =
            variables.iter().filter(|(_, weight)| gradients.get(weight).is_none()).map(|(name, _)| name).collect();
        assert!(without.is_empty(), "{}: no gradient for {without:?}", reference.name());
        let sketched = reference.facts["settings"]["gradients"] == "sketch";
        let pairs = variables.iter().map(|(name, variable)| {
            let ours = gradients.remove(variable).expect("checked above");
            let ours = if sketched { sketch(&ours) } else { ours };
            (name.as_str(), ours, theirs.load(name, &DEVICE).expect("checked above"))
        });
        check(reference, "gradients of the weights", trained(reference.tolerance(1e-5, "gradients")), pairs);
    });
}

/// Against the file that make_lora.py adds to the folders of the small models.
/// Over the model that `IMAGIC_FULL_WIDTH` names, with what tests/reference/make_full_width.py has put beside it. Of
/// Stable Diffusion XL's size it takes 8 GB of memory.
#[test]
fn a_network_of_full_width_gives_the_same_prediction_and_gradient() {
    let Some(folder) = std::env::var_os("IMAGIC_FULL_WIDTH").map(PathBuf::from) else {
        println!("skipped: IMAGIC_FULL_WIDTH names no model of a published size");
        return;
    };
    let run = || {
        let theirs = candle_core::safetensors::load(folder.join("full-width.safetensors"), &DEVICE).expect("a file");
        let source = Source::open(&folder).expect("a model");
        let config = UNetConfig::read(&source, Family::of(&source).expect("a family")).expect("a configuration");
        let weights = source.wanted_tensors(Part::UNet, |_| true, Bits::Stored, &DEVICE).expect("weights");
        let unet = UNet::new(&config, &weights).expect("a U-Net");
        let variable = |name: &str| theirs.get(name).map(|tensor| Var::from_tensor(tensor).expect("a variable"));
        let (x_t, e, pooled) = (&theirs["x_t"], variable("e").expect("an embedding"), variable("pooled"));
        let added = pooled.as_ref().map(|pooled| {
            let side = x_t.dims()[2] as u32 * 8;
            let width = source.config(Part::UNet).usize("addition_time_embed_dim", None).expect("a width");
            let sizes = Tensor::from_vec(sinusoids(&[side, side, 0, 0, side, side], width), (1, ()), &DEVICE);
            Added { pooled: pooled.as_tensor().clone(), sizes: sizes.expect("sizes") }
        });
        let input = Input {
            x_t,
            sinusoids: &of_timesteps(&unet, &[500]),
            e: &Conditioning { tokens: e.as_tensor().clone(), added, beside: None, class: None },
        };
        let mut output = None;
        let (_, gradients) = backward(&unet, &input, Activations::Recompute, |prediction| {
            output = Some(prediction.detach());
            Ok((prediction * &theirs["weights"])?.sum_all()?)
        })
        .expect("gradients");
        let gradient = |variable: &Var| gradients.get(variable).expect("a gradient").clone();
        let ours = [("output", output), ("gradient.e", Some(gradient(&e)))].into_iter();
        for (name, ours) in ours.chain([("gradient.pooled", pooled.as_ref().map(gradient))]) {
            let Some(ours) = ours else { continue };
            let error = relative_error(&ours, &theirs[name]);
            println!("{}: {name}: {error:.1e}", folder.display());
            assert!(error < 2e-5, "{name}: {error:.1e} beside the reference");
        }
    };
    // As in `every_reference`.
    let stack = std::thread::Builder::new().stack_size(64 << 20);
    std::thread::scope(|scope| stack.spawn_scoped(scope, run).expect("a thread").join()).expect("no panic");
}

#[test]
fn adapters_get_the_same_gradients_and_take_the_same_steps() {
    every_reference(|reference| {
        let file = reference.folder.join("lora.safetensors");
        if !file.is_file() {
            println!("skipped: {} has no adapters", reference.name());
            return;
        }
        let theirs = candle_core::safetensors::load(file, &DEVICE).expect("a safetensors file");
        let (config, base) = reference.unet();
        let schedule = Schedule::read(reference.source.scheduler()).expect("a schedule");
        let input = |name: &str| reference.tensor(&format!("loss.{name}"));
        let (x, noise) = (input("x_0"), input("noise"));
        let e = reference.conditioning("loss", &x);
        for layers in [LoraLayers::Attention, LoraLayers::All] {
            let their = |name: &str| theirs[&format!("{layers}.{name}")].clone();
            let mut params = reference.params();
            (params.lora_layers, params.lora_rank) = (layers, 2);
            (params.tuning_lr, params.tuning_steps) = (1e-3 / lora::RATE, 5);

            let shapes: Vec<lora::Shape> = lora::shapes(&base, &params).into_iter().flatten().collect();
            let variable = |(index, shape): (usize, &lora::Shape)| {
                let normals = Stream::new(1u32, Purpose::Latents, index as u32).normals(&shape.shape, &DEVICE);
                let tensor = normals.and_then(|normals| Ok((normals * 0.1)?)).expect("normal numbers");
                (shape.name.clone(), Var::from_tensor(&tensor).expect("a variable"))
            };
            let variables: BTreeMap<String, Var> = shapes.iter().enumerate().map(variable).collect();
            let mut adapted = base.clone();
            adapted.tensors.extend(variables.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())));
            let unet = UNet::new(&config, &adapted).expect("a U-Net").in_form(CHOSEN.precision.training());
            let timesteps = integers(&reference.facts["loss"]["timesteps"]);
            let (loss, mut gradients) =
                denoising_loss(&schedule, &unet, [&x, &noise], &e, &timesteps, Activations::Recompute);
            check(
                reference,
                "LoRA: loss",
                trained(1e-6),
                [(layers.name(), loss.reshape(1).expect("a number"), their("loss"))],
            );
            let pairs = variables.iter().map(|(name, variable)| {
                let ours = gradients.remove(variable).unwrap_or_else(|| panic!("no gradient for {name}"));
                (name.as_str(), ours, their(&format!("gradient.{name}")))
            });
            check(reference, "LoRA: gradients", trained(reference.tolerance(1e-5, "gradients")), pairs);

            let precision = CHOSEN.precision;
            let tune = |mode| {
                let setting = Setting {
                    config: &config,
                    schedule: &schedule,
                    params: &params,
                    mode,
                    precision,
                    launches: launches(),
                };
                stage_b(&setting, &base, &x, &e)
            };
            let (tuned, losses) = tune(Mode::Lora);
            let losses = Tensor::new(losses, &DEVICE).expect("a row");
            check(reference, "LoRA: losses of stage B", trained(1e-6), [(layers.name(), losses, their("losses"))]);
            let pairs = shapes.iter().map(|shape| {
                (shape.name.as_str(), tuned.tensors[&shape.name].clone(), their(&format!("tuned.{}", shape.name)))
            });
            // As in `check_changes`; torch's own f32 and f64 differ by up to 3e-4, in the same tensor.
            check(reference, "LoRA: adapters", trained(5e-3), pairs);
            let form = precision.sampling();
            let [alone, with_half_precision] =
                [Ok(tuned.clone()), unet::with_half_precision(&tuned, form)].map(|weights| {
                    let unet = UNet::new(&config, &weights.expect("copies")).expect("a U-Net").in_form(form);
                    values(&unet.forward(&x, &of_timesteps(&unet, &timesteps[..1]), &e).expect("a prediction"))
                });
            assert!(alone == with_half_precision, "{}: another prediction with copies", reference.name());
            let (again, _) = tune(Mode::LoraCheckpointed);
            for (name, tensor) in &tuned.tensors {
                assert!(values(&again.tensors[name]) == values(tensor), "{}: another {name}", reference.name());
                let own = base.tensors.get(name).is_none_or(|before| before.id() == tensor.id());
                assert!(own, "a copy of {name}");
            }
        }
    });
}

/// As `sketch` in make_reference.py: 64 sums of the elements times normal numbers.
fn sketch(gradient: &Tensor) -> Tensor {
    const NUMBERS: usize = 64;
    let count = gradient.elem_count();
    let normals =
        Stream::new(0u32, Purpose::Latents, 0).normals(&[count], &DEVICE).and_then(|n| Ok(n.to_vec1::<f32>()?));
    let values = gradient.flatten_all().and_then(|gradient| gradient.to_vec1::<f32>()).expect("values");
    let mut sums = [0.0f64; NUMBERS];
    for (index, (value, normal)) in values.into_iter().zip(normals.expect("normal numbers")).enumerate() {
        sums[index % NUMBERS] += f64::from(value) * f64::from(normal);
    }
    Tensor::from_vec(sums.map(|sum| sum as f32).to_vec(), NUMBERS, &DEVICE).expect("64 numbers")
}

#[test]
fn adam_takes_the_same_steps() {
    every_reference(|reference| {
        for name in list(&reference.facts["adam"]["names"]) {
            let tensor = |part: &str| reference.tensor(&format!("adam.{}.{part}", name.as_str().expect("a name")));
            let variable = Var::from_tensor(&tensor("start")).expect("a variable");
            let adam = Adam::new(
                vec![variable.clone()],
                reference.facts["adam"]["learning_rate"].as_f64().expect("a rate"),
                MomentBits::ThirtyTwo,
            );
            for step in 0..10 {
                let gradient = tensor("gradients").get(step).expect("ten gradients");
                // A sum of products has its factors as gradient.
                let loss = (variable.as_tensor() * gradient).and_then(|product| product.sum_all()).expect("a sum");
                adam.begin_step().expect("a step");
                adam.update(|| Ok((loss.clone(), loss.backward()?))).expect("a step");
            }
            check(
                reference,
                "Adam",
                1e-7,
                [(name.as_str().expect("a name"), variable.as_detached_tensor(), tensor("end"))],
            );
        }
    });
}

#[test]
fn the_noise_schedule_is_the_same() {
    every_reference(|reference| {
        let schedule = Schedule::read(reference.source.scheduler()).expect("a schedule");
        for steps in [10, 50] {
            let theirs = integers(&reference.facts["scheduler"][format!("timesteps_{steps}")]);
            assert_eq!(schedule.timesteps(steps), theirs, "{}: timesteps of {steps} steps", reference.name());
        }
        let ours = Tensor::new(schedule.alphas_cumprod.as_slice(), &DEVICE).expect("a row");
        // Ours is in f64, theirs multiplies a thousand numbers in f32.
        let theirs = reference.tensor("scheduler.alphas_cumprod");
        check(reference, "noise schedule", 1e-6, [("alphas_cumprod", ours, theirs)]);
    });
}

/// On the file that make_schedules.py made.
#[test]
fn every_scheduler_configuration_gives_the_same_timesteps_and_steps() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/schedules.json");
    let facts: Value = serde_json::from_slice(&std::fs::read(file).expect("a file")).expect("JSON from the script");
    let folder = tempfile::tempdir().expect("a folder");
    let row = |value: &Value| -> Vec<f32> { list(value).iter().filter_map(|x| Some(x.as_f64()? as f32)).collect() };
    let tensor = |value: &Value| Tensor::from_vec(row(value), (1, 1, 2, 2), &Device::Cpu).expect("four numbers");
    for entry in list(&facts["entries"]) {
        let (file, about) = (folder.path().join("scheduler_config.json"), &entry["config"]);
        std::fs::write(&file, about.to_string()).expect("a file");
        let schedule = Schedule::read(&Config::read(&file).expect("a configuration")).expect("a schedule");
        let compare = |what: &str, ours: &[f64], theirs: &[f32]| {
            let square = |x: f64| x * x;
            let both = ours.iter().zip(theirs);
            let difference: f64 = both.map(|(ours, theirs)| square(ours - f64::from(*theirs))).sum();
            let error = (difference / theirs.iter().map(|theirs| square(f64::from(*theirs))).sum::<f64>()).sqrt();
            // Theirs is in f32 from the betas on, where 1 - alpha of the first timesteps has only five right digits.
            assert!(error <= 3e-5, "{what}: {ours:?} and theirs {theirs:?} with {about}");
        };
        let shown: Vec<f64> =
            integers(&entry["shown"]).into_iter().map(|t| schedule.alphas_cumprod[t as usize]).collect();
        compare("alpha", &shown, &row(&entry["alphas_cumprod"]));
        for steps in integers(&facts["steps"]) {
            let theirs = integers(&entry[format!("timesteps_{steps}")]);
            assert_eq!(schedule.timesteps(steps), theirs, "{steps} steps with {about}");
        }
        let steps = list(&entry["steps"]);
        for (t, theirs) in schedule.timesteps(steps.len() as u32).into_iter().zip(steps) {
            let (prediction, x_t) = (tensor(&facts["prediction"]), tensor(&facts["x_t"]));
            let next = schedule.step(&prediction, t, steps.len() as u32, &x_t).expect("a step");
            compare(&format!("the step at {t}"), &values(&next.x_t), &row(theirs));
        }
    }
}

#[test]
fn sampling_with_guidance_takes_the_same_path() {
    every_reference(|reference| {
        let (config, weights) = reference.unet();
        let unet = UNet::new(&config, &weights).expect("a U-Net").in_form(CHOSEN.precision.sampling());
        let schedule = Schedule::read(reference.source.scheduler()).expect("a schedule");
        let trajectory = reference.tensor("ddim.latents");
        let (params, precision) = (reference.params(), CHOSEN.precision);
        let at = |step: usize| trajectory.narrow(0, step, 1).expect("a step");
        let (e, e_null) = reference.embeddings();
        // `generate` gives only the last latents, so each step is also taken alone, from the reference's latents before
        // it.
        let timesteps = schedule.timesteps(params.sampling_steps);
        let mut steps = Vec::new();
        for (step, &t) in timesteps.iter().enumerate() {
            let predict =
                |e: &Conditioning| unet.forward(&at(step), &of_timesteps(&unet, &[t]), e).expect("a prediction");
            let (null, text) = (predict(&e_null), predict(&e));
            let guided =
                ((&text - &null).and_then(|way| way * params.guidance)).and_then(|way| null + way).expect("one shape");
            let ours = schedule.step(&guided, t, params.sampling_steps, &at(step)).expect("a step").x_t;
            steps.push((format!("step {step} at t = {t}"), ours, at(step + 1)));
        }
        let pairs = steps.iter().map(|(name, ours, theirs)| (name.as_str(), ours.clone(), theirs.clone()));
        check(reference, "DDIM, each step alone", 5e-6, pairs);

        let (params, mode, launches) = (&params, Mode::Full, launches());
        let setting = Setting { config: &config, schedule: &schedule, params, mode, precision, launches };
        let last = stage_c(&setting, &unet, at(0).dims(), &e, &e_null);
        check(reference, "DDIM, all steps", 5e-6, [("latents", last, at(timesteps.len()))]);
    });
}

#[test]
fn a_whole_edit_is_the_same() {
    every_reference(|reference| {
        let tensor = |name: &str| reference.tensor(&format!("imagic.{name}"));
        let (config, base) = reference.unet();
        let codec = reference.codec();
        let schedule = Schedule::read(reference.source.scheduler()).expect("a schedule");
        let (params, precision) = (reference.params(), CHOSEN.precision);
        let (e_tgt, e_null) = reference.embeddings();

        let moments = codec.encode(&reference.tensor("vae.image")).expect("moments");
        let noise = Stream::new(params.tuning_seed, Purpose::VaeSample, 0)
            .normals(moments.mean.dims(), &DEVICE)
            .expect("noise");
        let x = codec.sample(&moments, &noise).expect("a sample");
        check(reference, "edit: x", 4e-6, [("x", x.clone(), tensor("x_0"))]);

        let (params, mode, launches) = (&params, Mode::Full, launches());
        let setting = Setting { config: &config, schedule: &schedule, params, mode, precision, launches };
        let row = |losses: Vec<f32>| Tensor::new(losses, &DEVICE).expect("a row");
        let (e_opt, losses) = stage_a(&setting, &base, &x, &e_tgt);
        check(reference, "edit: losses of stage A", trained(1e-6), [("losses", row(losses), tensor("losses_a"))]);
        check(reference, "edit: e_opt", trained(2e-6), [("e_opt", e_opt.tokens.clone(), tensor("e_opt"))]);
        if let Some(added) = &e_opt.added {
            let ours = added.pooled.clone();
            check(reference, "edit: pooled e_opt", trained(2e-6), [("pooled", ours, tensor("pooled_opt"))]);
        }

        let (tuned, losses) = stage_b(&setting, &base, &x, &e_opt);
        check(reference, "edit: losses of stage B", trained(1e-6), [("losses", row(losses), tensor("losses_b"))]);
        check_changes(reference, &base, &tuned);
        let sparing = Setting { mode: Mode::Checkpointed, ..setting };
        let (e, _) = stage_a(&sparing, &base, &x, &e_tgt);
        let (again, _) = stage_b(&sparing, &base, &x, &e);
        assert!(values(&e.tokens) == values(&e_opt.tokens), "{}: another e_opt without activations", reference.name());
        for (name, weight) in &tuned.tensors {
            assert!(values(&again.tensors[name]) == values(weight), "{}: another {name}", reference.name());
        }

        let e_bar = imagic::interpolate(&e_tgt, &e_opt, params.eta).expect("e_bar");
        check(reference, "edit: e_bar", trained(1e-6), [("e_bar", e_bar.tokens.clone(), tensor("e_bar"))]);
        if let Some(added) = &e_bar.added {
            let ours = added.pooled.clone();
            check(reference, "edit: pooled e_bar", trained(1e-6), [("pooled", ours, tensor("pooled_bar"))]);
        }
        let unet = UNet::new(&config, &tuned).expect("a U-Net").in_form(precision.sampling());
        let latents = stage_c(&setting, &unet, x.dims(), &e_bar, &e_null);
        let image = codec.decode(&latents).expect("a picture");
        let pairs = [("latents", latents), ("image", image)];
        check(
            reference,
            "edit: result",
            trained(reference.tolerance(5e-6, "imagic.image")),
            pairs.map(|(name, ours)| (name, ours, tensor(name))),
        );
    });
}

/// At the paper's learning rate a step is less than numbers of 16 bits, as which the network may be multiplied, can
/// tell.
#[test]
fn one_step_of_stage_b_moves_the_weights_by_the_learning_rate() {
    every_reference(|reference| {
        let (config, base) = reference.unet();
        let schedule = Schedule::read(reference.source.scheduler()).expect("a schedule");
        let x = reference.tensor("loss.x_0");
        let e = reference.conditioning("loss", &x);
        let (params, precision) = (Params { tuning_steps: 1, ..Params::paper() }, CHOSEN.precision);
        let (params, mode, launches) = (&params, Mode::Full, launches());
        let setting = Setting { config: &config, schedule: &schedule, params, mode, precision, launches };
        let (tuned, _) = stage_b(&setting, &base, &x, &e);
        let (mut moved, mut all) = (0, 0);
        for (name, before) in &base.tensors {
            let changes = values(&(&tuned.tensors[name] - before).expect("one shape"));
            // Adam's first step is the learning rate, or less where a gradient is as small as its eps; f32's own steps
            // are a quarter of it for weights from 1 to 2.
            let here = changes.iter().filter(|change| (change.abs() / params.tuning_lr - 1.0).abs() < 0.25).count();
            assert!(here > 0, "{}: {name} did not move", reference.name());
            moved += here;
            all += changes.len();
        }
        let share = moved as f64 / all as f64;
        println!("{:12} moved by the learning rate: {share:.3} of all weights", reference.name());
        assert!(share > 0.8, "{}: only {share} of all weights moved by the learning rate", reference.name());
    });
}

/// What stage B changed: the smaller weights value by value, and of every weight how far it went.
fn check_changes(reference: &Reference, base: &Weights, tuned: &Weights) {
    let changes: BTreeMap<&str, Tensor> = base
        .tensors
        .iter()
        .map(|(name, before)| (name.as_str(), (&tuned.tensors[name] - before).expect("one shape")))
        .collect();
    let whole = changes.iter().filter_map(|(&name, ours)| {
        let theirs = reference.tensors.get(&format!("change.{name}"))?;
        Some((name, ours.clone(), theirs.clone()))
    });
    // Adam's first steps are the learning rate times little more than the sign of the gradient, so that a value whose
    // gradient is next to zero may go either way: torch's own f32 and f64 differ by as much.
    check(reference, "edit: changes of the smaller weights", trained(2e-3), whole);
    let lengths = reference.facts["tuned"]["change_lengths"].as_object().expect("lengths by name");
    assert!(lengths.keys().map(String::as_str).eq(changes.keys().copied()), "names of the weights");
    let pairs = changes.iter().map(|(&name, ours)| {
        let length = values(ours).iter().map(|change| change.powi(2)).sum::<f64>().sqrt();
        let theirs = lengths[name].as_f64().expect("a length");
        (name, Tensor::new(&[length], &DEVICE).expect("a number"), Tensor::new(&[theirs], &DEVICE).expect("a number"))
    });
    check(reference, "edit: lengths of all changes", trained(1e-4), pairs);
}

/// Besides the stages, the order in which [`Engine::edit`] calls them and what it passes from one to the next.
#[test]
fn the_engine_makes_the_same_picture_of_a_layer() {
    every_reference(|reference| {
        let (mut engine, request) = (engine(), reference.request(reference.params()));
        let edit = engine.edit(&request, &mut |_| ControlFlow::Continue(())).expect("an edit");
        let row = |losses: Vec<f32>| Tensor::new(losses, &DEVICE).expect("a row");
        // A layer has 16 bits a channel, the reference's picture has not been rounded to them.
        let tensor = |name: &str| reference.tensor(&format!("imagic.{name}"));
        let losses =
            [("A", row(edit.embedding_losses), tensor("losses_a")), ("B", row(edit.tuning_losses), tensor("losses_b"))];
        check(reference, "engine: losses", trained(3e-6), losses);
        let in_a_row = |rgba: &[u16]| row(rgba.iter().map(|&value| f32::from(value)).collect());
        let theirs = in_a_row(&pixels(&tensor("image")));
        // One unit of 16 bits is 3e-5 of the middle of the range.
        check(
            reference,
            "engine: layer",
            trained(3e-5),
            [("layer", in_a_row(edit.picture.on(&request.layer).0.rgba()), theirs)],
        );
    });
}

/// Without tuning and at eta 1 nothing of the picture is left but its size: text to image, as the pipeline draws it.
#[test]
fn a_text_alone_becomes_the_picture_of_the_pipeline() {
    every_reference(|reference| {
        let file = reference.folder.join("pipeline.safetensors");
        if !file.is_file() {
            println!("skipped: {} has no picture of the pipeline", reference.name());
            return;
        }
        let theirs = candle_core::safetensors::load(file, &DEVICE).expect("a safetensors file");
        check_text_to_image(&reference.name(), reference.text_to_image(), &theirs["image"]);
    });
}

/// On the file that make_inpainting.py made: an inpainting model that may paint everywhere draws from the text alone.
#[test]
fn an_inpainting_model_is_told_that_it_may_paint_everywhere() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let theirs = candle_core::safetensors::load(fixtures.join("inpainting.safetensors"), &Device::Cpu).expect("a file");
    let reference = Reference::open(fixtures.join("small-sd1"));
    let folder = tempfile::tempdir().expect("a folder");
    for part in ["unet", "vae", "text_encoder", "tokenizer", "scheduler"] {
        std::fs::create_dir(folder.path().join(part)).expect("a folder");
        for entry in std::fs::read_dir(reference.source.path().join(part)).expect("a part of the model") {
            let entry = entry.expect("a file");
            std::fs::copy(entry.path(), folder.path().join(part).join(entry.file_name())).expect("a copy");
        }
    }
    let config = folder.path().join("unet/config.json");
    let mut wide: Value = serde_json::from_slice(&std::fs::read(&config).expect("a file")).expect("JSON");
    wide["in_channels"] = 9.into();
    std::fs::write(config, wide.to_string()).expect("a changed file");
    let weights = folder.path().join("unet/diffusion_pytorch_model.safetensors");
    let mut tensors = candle_core::safetensors::load(&weights, &Device::Cpu).expect("weights");
    let both = [&tensors["conv_in.weight"], &theirs["conv_in"]];
    let joined = Tensor::cat(&both, 1).expect("nine channels");
    tensors.insert("conv_in.weight".to_owned(), joined);
    candle_core::safetensors::save(&tensors, weights).expect("changed weights");
    let mut request = reference.text_to_image();
    request.model_path = folder.path().to_owned();
    check_text_to_image("inpainting", request.clone(), &theirs["image"]);

    request.params = reference.params();
    request.params.prompt = "a photo of a bird".into();
    request.params.resolution = 0;
    let edit = engine().edit(&request, &mut |_| ControlFlow::Continue(())).expect("an edit");
    assert!(!edit.tuning_losses.is_empty(), "nothing was tuned");
}

/// The picture that `request` asks for must be `theirs`, (1, 3, h, w) from 0 to 1.
fn check_text_to_image(name: &str, request: EditRequest, theirs: &Tensor) {
    let theirs = (theirs * 2.0).and_then(|image| image - 1.0).expect("a picture");
    let edit = engine().edit(&request, &mut |_| ControlFlow::Continue(())).expect("a picture");
    let (ours, _) = edit.picture.on(&request.layer);
    let squares = ours.rgba().iter().zip(pixels(&theirs)).map(|(&a, b)| (f64::from(a) - f64::from(b)).powi(2));
    // Alpha is the same in both.
    let error = squares.sum::<f64>() / (ours.rgba().len() / 4 * 3) as f64;
    let psnr = 10.0 * (f64::from(u16::MAX).powi(2) / error).log10();
    println!("{name:12} text to image: {psnr:.0} dB");
    let enough = if CHOSEN.precision == Precision::F32 { 80.0 } else { 40.0 };
    assert!(psnr >= enough, "{name}: only {psnr:.1} dB");
}

fn engine() -> Engine {
    Engine::new(EngineOptions { cache_limit: 0, processor: processor(), ..EngineOptions::default() })
}

/// (1, 3, h, w) from -1 to 1 as an opaque layer's values.
fn pixels(image: &Tensor) -> Vec<u16> {
    let rows = image.squeeze(0).and_then(|image| image.permute((1, 2, 0))).and_then(|image| image.flatten_all());
    let rows: Vec<f32> = rows.and_then(|rows| rows.to_vec1()).expect("a picture");
    let value = |value: f32| ((value.clamp(-1.0, 1.0) + 1.0) * 32767.5).round() as u16;
    rows.chunks(3).flat_map(|rgb| [value(rgb[0]), value(rgb[1]), value(rgb[2]), u16::MAX]).collect()
}

/// One folder of `make_reference.py`.
struct Reference {
    folder: PathBuf,
    /// The model, a diffusers folder.
    source: Source,
    /// `reference.json`.
    facts: Value,
    tensors: HashMap<String, Tensor>,
}

impl Reference {
    fn open(folder: PathBuf) -> Self {
        let text = std::fs::read_to_string(folder.join("reference.json")).unwrap_or_else(|error| {
            panic!("{}: {error}; make it with tests/reference/make_reference.py", folder.display())
        });
        let facts: Value = serde_json::from_str(&text).expect("JSON from the script");
        let source = Source::open(&folder.join(facts["model"].as_str().expect("a path"))).expect("a model");
        let tensors =
            candle_core::safetensors::load(folder.join("reference.safetensors"), &DEVICE).expect("a safetensors file");
        Self { folder, source, facts, tensors }
    }

    fn name(&self) -> String {
        self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn tensor(&self, name: &str) -> Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("{} has no tensor {name}", self.name())).clone()
    }

    /// `least`, or three times what torch's own f32 differs from its f64 in the tensors of this name: two programs that
    /// round independently differ by about twice that in the worst of hundreds of tensors.
    fn tolerance(&self, least: f64, prefix: &str) -> f64 {
        let rounding = self.facts["rounding"].as_object().into_iter().flatten();
        let of_these = rounding.filter(|(name, _)| name.starts_with(prefix));
        of_these.filter_map(|(_, worst)| worst["error"].as_f64()).fold(least, |most, error| most.max(3.0 * error))
    }

    /// Width and height of the edited picture.
    fn size(&self) -> (usize, usize) {
        let (_, _, h, w) = self.tensor("vae.image").dims4().expect("a picture");
        (w, h)
    }

    /// The edit of `vae.image`.
    fn request(&self, mut params: Params) -> EditRequest {
        let image = self.tensor("vae.image");
        let (w, h) = self.size();
        params.prompt = self.facts["settings"]["text"].as_str().expect("a text").to_owned();
        params.resolution = ((h * w) as f64).sqrt().round() as u32;
        EditRequest {
            layer: LayerImage::new(w as u32, h as u32, pixels(&image)).expect("a layer").into(),
            params,
            model_path: self.source.path().to_owned(),
            familiar_psnr: None,
            document: String::new(),
            selection: None,
            layer_digest: None,
            previews: 0,
        }
    }

    /// A picture of the edit's text and size alone.
    fn text_to_image(&self) -> EditRequest {
        self.request(Params { eta: 1.0, embedding_steps: 0, tuning_steps: 0, ..self.params() })
    }

    /// `NAME.e`, and `NAME.pooled` where there is one, for pictures whose latents have the size of `latents`.
    fn conditioning(&self, name: &str, latents: &Tensor) -> Conditioning {
        let added = self.tensors.get(&format!("{name}.pooled")).map(|pooled| {
            let downsampling = self.codec().downsampling;
            let side = |dim: usize| (latents.dims()[dim] * downsampling) as u32;
            Added { pooled: pooled.clone(), sizes: self.sizes(pooled.dims()[0], [side(2), side(3)]) }
        });
        Conditioning { tokens: self.tensor(&format!("{name}.e")), added, beside: None, class: None }
    }

    /// Those of the edit's text and of what stands for the empty one.
    fn embeddings(&self) -> (Conditioning, Conditioning) {
        let (w, h) = self.size();
        let sizes = |pooled: &Tensor| self.sizes(pooled.dims()[0], [h as u32, w as u32]);
        let tokens = self.tensor("text.hidden");
        let added = self.tensors.get("text.pooled").map(|pooled| (pooled.clone(), sizes(pooled)));
        let [text, empty] = [0, 1].map(|index| {
            let of_index = |tensor: &Tensor| tensor.narrow(0, index, 1).expect("an embedding");
            let added =
                added.as_ref().map(|(pooled, sizes)| Added { pooled: of_index(pooled), sizes: of_index(sizes) });
            Conditioning { tokens: of_index(&tokens), added, beside: None, class: None }
        });
        if self.source.pipeline().bool("force_zeros_for_empty_prompt", false) {
            let zeros = |tensor: &Tensor| tensor.zeros_like().expect("zeros");
            let added = empty.added.map(|Added { pooled, sizes }| Added { pooled: zeros(&pooled), sizes });
            return (text, Conditioning { tokens: zeros(&empty.tokens), added, beside: None, class: None });
        }
        (text, empty)
    }

    /// Sizes of pictures as `items` items take them.
    fn sizes(&self, items: usize, [h, w]: [u32; 2]) -> Tensor {
        let width = self.source.config(Part::UNet).usize("addition_time_embed_dim", None).expect("a width");
        let row = Tensor::from_vec(sinusoids(&[h, w, 0, 0, h, w], width), (1, ()), &DEVICE);
        row.and_then(|row| row.repeat((items, 1))).expect("rows")
    }

    fn gradients(&self) -> MmapedSafetensors {
        let file = self.folder.join("gradients.safetensors");
        // SAFETY: nobody changes the file while a test runs.
        unsafe { MmapedSafetensors::new(file) }.expect("a safetensors file")
    }

    fn unet(&self) -> (UNetConfig, Weights) {
        let config = UNetConfig::read(&self.source, self.family()).expect("a configuration");
        (config, self.source.tensors(Part::UNet, &DEVICE).expect("weights"))
    }

    fn text_encoder(&self) -> TextEncoder {
        TextEncoder::read(&self.source, self.family(), &DEVICE).expect("a text encoder")
    }

    fn codec(&self) -> Codec {
        Codec::read(&self.source, self.family(), &DEVICE).expect("an autoencoder")
    }

    fn family(&self) -> &'static Family {
        Family::of(&self.source).expect("a family")
    }

    /// The script's settings under the engine's names.
    fn params(&self) -> Params {
        let settings = &self.facts["settings"];
        let mut params = Params::paper();
        for (ours, theirs) in [
            ("eta", "eta"),
            ("seed", "seed"),
            ("guidance", "guidance"),
            ("sampling_steps", "steps"),
            ("embedding_steps", "steps_a"),
            ("embedding_lr", "learning_rate_a"),
            ("tuning_steps", "steps_b"),
            ("tuning_lr", "learning_rate_b"),
            ("batch_size", "batch"),
            ("tuning_seed", "tuning_seed"),
        ] {
            params.set(ours, &settings[theirs]).unwrap_or_else(|error| panic!("{}: {error}", self.name()));
        }
        if let Some(optimized) = settings.get("optimized_embedding") {
            params.set("optimized_embedding", optimized).unwrap_or_else(|error| panic!("{}: {error}", self.name()));
        }
        params
    }
}

/// Runs `test` on each, one at a time: of a model of real size two do not fit into memory.
fn every_reference(test: impl Fn(&Reference) + Sync) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folders: Vec<PathBuf> = match std::env::var_os("IMAGIC_REFERENCE") {
        Some(folder) => vec![folder.into()],
        None => {
            let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
            let entries = std::fs::read_dir(fixtures).expect("the committed fixtures");
            let folders = entries.map(|entry| entry.expect("a folder's entry").path());
            folders
                .filter(|folder| folder.join("reference.json").is_file())
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect()
        }
    };
    assert!(!folders.is_empty(), "no reference to compare with");
    let run = || folders.into_iter().for_each(|folder| test(&Reference::open(folder)));
    // candle walks and drops its graph recursively; the worker of the product has as much.
    let stack = std::thread::Builder::new().stack_size(64 << 20);
    let ended = std::thread::scope(|scope| stack.spawn_scoped(scope, run).expect("a thread").join());
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

/// Compares tensors by name and prints the worst; fails beyond `tolerance` and on another shape.
fn check<'a>(
    reference: &Reference,
    what: &str,
    tolerance: f64,
    pairs: impl IntoIterator<Item = (&'a str, Tensor, Tensor)>,
) {
    let tolerance = (tolerance * slack()).min(LARGEST_TOLERANCE);
    let errors = pairs.into_iter().map(|(name, ours, theirs)| {
        assert_eq!(ours.dims(), theirs.dims(), "{}, {what}: shape of {name}", reference.name());
        (relative_error(&ours, &theirs), name.to_owned())
    });
    let mut errors: Vec<_> = errors.collect();
    // NaN counts as the largest.
    errors.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (worst, name) = errors.first().unwrap_or_else(|| panic!("{what}: nothing to compare"));
    println!("{:12} {what}: {worst:.1e} of {tolerance:.0e} ({name}, worst of {})", reference.name(), errors.len());
    let beyond: Vec<_> = errors.iter().filter(|(error, _)| error.is_nan() || *error > tolerance).take(5).collect();
    assert!(
        beyond.is_empty(),
        "{}, {what}: more than {tolerance:.0e} beside the reference: {beyond:?}",
        reference.name()
    );
}

fn relative_error(ours: &Tensor, theirs: &Tensor) -> f64 {
    let (ours, theirs) = (values(ours), values(theirs));
    let difference: f64 = ours.iter().zip(&theirs).map(|(a, b)| (a - b).powi(2)).sum();
    let length: f64 = theirs.iter().map(|b| b.powi(2)).sum();
    if length == 0.0 { difference.sqrt() } else { (difference / length).sqrt() }
}

/// In f64, because a sum of millions of squares in f32 is itself wrong by a thousandth.
fn values(tensor: &Tensor) -> Vec<f64> {
    let row = tensor.detach().to_dtype(DType::F64).and_then(|tensor| tensor.flatten_all());
    row.and_then(|row| row.to_vec1()).expect("numbers")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn integers(value: &Value) -> Vec<u32> {
    list(value).iter().map(|number| number.as_u64().expect("a whole number") as u32).collect()
}
