//! The engine's side of `benches/speed` and `benches/gpu-check`: prepares one operation, then runs it once for every
//! line on its input.
//!
//! Its one argument is the JSON object that `speed_benchmark/main.py` writes; it answers `ready`, and each line with a
//! JSON list of seconds: one number for each training step, one in all for anything else. On a GPU the last line of its
//! output is the most memory that it took there, in bytes.

use candle_core::{Device, Tensor};
use imagic_edit::engine::Engine;
use imagic_edit::engine::device::{Chosen, Launches, Precision, Processor, RepeatedStep};
use imagic_edit::engine::imagic;
use imagic_edit::engine::model::codec::Codec;
use imagic_edit::engine::model::conditioning::{Added, Conditioning};
use imagic_edit::engine::model::family::Family;
use imagic_edit::engine::model::guidance::Guided;
use imagic_edit::engine::model::schedule::Schedule;
use imagic_edit::engine::model::source::{Part, Source};
use imagic_edit::engine::model::unet::{self, UNet, UNetConfig};
use imagic_edit::engine::model::weights::Bits;
use imagic_edit::engine::random::{Purpose, Stream};
use imagic_edit::engine::request::{EditRequest, EngineOptions, Stage};
use imagic_edit::engine::tuning::mode::Mode;
use imagic_edit::engine::tuning::training::{Setting, Tuning};
use imagic_edit::error::{Error, Result};
use imagic_edit::image::LayerImage;
use imagic_edit::params::Params;
use imagic_edit::text::Text;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::io::{Write, stdin, stdout};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

/// What is measured.
#[derive(Deserialize)]
struct Job {
    operation: String,
    model: PathBuf,
    /// Side of the latents.
    latent: usize,
    /// Tokens of a text.
    tokens: usize,
    /// Parameters of the edit; steps of the training operations.
    params: Map<String, Value>,
    /// Whether weights of 16 bits are widened when they are read, see `benches/sixteen_bits.py`.
    #[serde(default)]
    widened: bool,
    /// The processor, where it is absent.
    gpu: Option<Gpu>,
}

/// How a GPU is used.
#[derive(Clone, Deserialize)]
struct Gpu {
    /// f32, tf32 or bf16, or tf32-attention: with attention by own kernels.
    precision: String,
    /// Folder of CUDA's libraries.
    libraries: PathBuf,
    /// Whether the kernels of a step are launched one after the other, instead of replayed.
    #[serde(default)]
    eager: bool,
}

impl Job {
    fn processor(&self) -> Processor {
        let Some(Gpu { precision, libraries, eager }) = self.gpu.clone() else { return Processor::Cpu };
        let launches = if eager { Launches::Eager } else { Launches::Replayed };
        let precision = match precision.as_str() {
            "tf32-attention" => Precision::Tf32OwnAttention,
            precision => Precision::named(precision).expect("a precision"),
        };
        Processor::Fastest { libraries: vec![libraries], precision, launches, eight_bit_moments: false }
    }
}

/// Runs the operation once.
type Operation = Box<dyn FnMut() -> Result<Vec<f64>>>;

fn main() -> Result<()> {
    let job = std::env::args().nth(1).ok_or_else(|| Error::Parameter(Text::verbatim("no job; run benches/speed")))?;
    let job: Job =
        serde_json::from_str(&job).map_err(|error| Error::Parameter(Text::verbatim(format!("the job: {error}"))))?;
    // As in `job.rs`, where the engine's thread is one of the pool's.
    let _pool = rayon::ThreadPoolBuilder::new().use_current_thread().build();
    let chosen = job.processor().choose();
    if let Some(reason) = &chosen.reason {
        return Err(Error::Engine(Text::verbatim(reason)));
    }
    if job.operation == "start" {
        say(chosen.gpu.as_deref().unwrap_or("the processor"));
        return Ok(());
    }
    let mut operation = prepare(job, &chosen)?;
    operation()?;
    say("ready");
    for _ in stdin().lines() {
        say(&serde_json::to_string(&operation()?).expect("numbers become JSON"));
    }
    if let Some(bytes) = chosen.most_memory() {
        say(&bytes.to_string());
    }
    Ok(())
}

fn say(line: &str) {
    println!("{line}");
    stdout().flush().expect("the benchmark reads this");
}

fn prepare(job: Job, chosen: &Chosen) -> Result<Operation> {
    let (device, precision, launches) = (chosen.device.clone(), chosen.precision, chosen.launches);
    // What a GPU is told to do it does later.
    let done = device.clone();
    let timed = move |run: Box<dyn FnMut() -> Result<()>>| timed(run, done.clone());
    let mut params = Params::paper();
    params.set_all(&job.params)?;
    if job.operation == "edit" {
        return edit(job, params);
    }
    let source = Source::open(&job.model)?;
    let family = Family::of(&source)?;
    if job.operation.starts_with("vae") {
        let codec = Codec::read(&source, family, &device)?;
        let normals = |shape: &[usize]| Stream::new(0u32, Purpose::VaeSample, 0).normals(shape, &device);
        let side = job.latent * codec.downsampling;
        return Ok(if job.operation == "vae encode" {
            let pixels = (normals(&[1, 3, side, side])? * 0.3)?;
            timed(Box::new(move || codec.encode(&pixels).map(drop)))
        } else {
            let latents = normals(&[1, codec.channels, job.latent, job.latent])?;
            timed(Box::new(move || codec.decode(&latents).map(drop)))
        });
    }
    let config = UNetConfig::read(&source, family)?;
    let bits = if job.widened { Bits::ThirtyTwo } else { Bits::Stored };
    let weights = source.wanted_tensors(Part::UNet, |_| true, bits, &device)?;
    let schedule = Schedule::read(source.scheduler())?;
    let shape = [1, config.in_channels, job.latent, job.latent];
    let x = Stream::new(0u32, Purpose::VaeSample, 0).normals(&shape, &device)?;
    let text =
        |step| Stream::new(0u32, Purpose::Latents, step).normals(&[1, job.tokens, config.cross_attention_dim], &device);
    let normals = |step, width| Stream::new(0u32, Purpose::Latents, step).normals(&[1, width], &device);
    // Which part of it are sizes makes no difference here.
    let added = |step| {
        let part = |width: usize| Ok::<_, Error>(Added { pooled: normals(step, 1)?, sizes: normals(step, width - 1)? });
        config.added.map(part).transpose()
    };
    let e = |step| Ok::<_, Error>(Conditioning { tokens: text(step)?, added: added(step)?, beside: None, class: None });
    let (e, e_null) = (e(1)?, e(2)?);
    let own = config.clone();
    match job.operation.as_str() {
        "forward" => {
            let form = precision.sampling();
            let unet = UNet::new(&config, &unet::with_half_precision(&weights, form)?)?.in_form(form);
            let batch = params.batch_size as usize;
            let (x, e) = (x.repeat((batch, 1, 1, 1))?, e.repeat(batch)?);
            let timesteps = unet.sinusoids(&vec![500; params.batch_size as usize]);
            let timesteps = Tensor::from_vec(timesteps, (params.batch_size as usize, ()), &device)?;
            let mut step = RepeatedStep::new(&device, launches);
            Ok(timed(Box::new(move || step.run([&x, &timesteps], |[x, t]| unet.forward(x, t, &e)).map(drop))))
        }
        "stage A step" => Ok(Box::new(move || {
            let (params, mode) = (&params, Mode::Full);
            let setting = Setting { config: &own, schedule: &schedule, params, mode, precision, launches };
            let form = precision.training();
            let unet = UNet::new(&own, &unet::with_half_precision(&weights, form)?)?.in_form(form);
            Steps::of(Stage::OptimizeTextEmbedding, &setting, |tuning| {
                imagic::optimize_text_embedding(&unet, &x, &e, tuning).map(drop)
            })
        })),
        "stage B step" => Ok(Box::new(move || {
            let (params, mode) = (&params, Mode::Full);
            let setting = Setting { config: &own, schedule: &schedule, params, mode, precision, launches };
            // Read anew each time, as the engine does: fine-tuning uses them up.
            let base = || source.wanted_tensors(Part::UNet, |_| true, bits, &device);
            Steps::of(Stage::FineTune, &setting, |tuning| imagic::fine_tune(base, &x, &e, tuning).map(drop))
        })),
        "DDIM" => Ok(timed(Box::new(move || {
            let form = precision.sampling();
            let unet = UNet::new(&own, &unet::with_half_precision(&weights, form)?)?.in_form(form);
            let mut guided = Guided::new(&unet, &e, &e_null, params.guidance, launches)?;
            imagic::generate(&mut guided, &schedule, &params, &shape, &mut |_, _| Ok(()))?;
            Ok(())
        }))),
        other => Err(Error::Parameter(Text::verbatim(format!("no operation is called {other}")))),
    }
}

/// A whole edit from a picture to a picture, with nothing kept from the one before.
fn edit(job: Job, params: Params) -> Result<Operation> {
    let source = Source::open(&job.model)?;
    let side = job.latent * Codec::read(&source, Family::of(&source)?, &Device::Cpu)?.downsampling;
    let layer = LayerImage::from_rgba8(side as u32, side as u32, &picture(side)).expect("a square of that side");
    let (processor, model_path) = (job.processor(), job.model);
    let run = move || {
        let options = EngineOptions { cache_limit: 0, processor: processor.clone(), ..EngineOptions::default() };
        let (layer, params, model_path) = (layer.clone().into(), params.clone(), model_path.clone());
        let document = String::new();
        let request = EditRequest {
            layer,
            selection: None,
            params,
            model_path,
            familiar_psnr: None,
            document,
            layer_digest: None,
            previews: 0,
        };
        Engine::new(options).edit(&request, &mut |_| ControlFlow::Continue(()))?;
        Ok(())
    };
    Ok(timed(Box::new(run), Device::Cpu))
}

/// A smooth picture, RGBA.
fn picture(side: usize) -> Vec<u8> {
    let value = |at: usize| (at * 255 / side) as u8;
    (0..side * side).flat_map(|i| [value(i % side), value(i / side), value((i % side + i / side) / 2), 255]).collect()
}

fn timed(mut run: Box<dyn FnMut() -> Result<()>>, device: Device) -> Operation {
    Box::new(move || {
        let start = Instant::now();
        run()?;
        device.synchronize()?;
        Ok(vec![start.elapsed().as_secs_f64()])
    })
}

/// Takes the time of each training step from the progress.
struct Steps {
    stage: Stage,
    last: Instant,
    seconds: Vec<f64>,
}

impl Steps {
    /// Seconds of each step of `stage`, which `run` runs from its beginning.
    fn of(
        stage: Stage,
        setting: &Setting<'_>,
        run: impl FnOnce(&mut Tuning<'_, '_>) -> Result<()>,
    ) -> Result<Vec<f64>> {
        let mut steps = Self { stage, last: Instant::now(), seconds: Vec::new() };
        let watch = &mut |stage, step, _, _| steps.took(stage, step);
        let (training, saved, keep) = (&mut None, &mut None, &mut |_: &_| ());
        run(&mut Tuning { setting, training, saved, before: &[], watch, keep })?;
        Ok(steps.seconds)
    }

    fn took(&mut self, stage: Stage, step: u32) -> Result<()> {
        assert!(stage == self.stage, "only one stage runs");
        if step > 0 {
            self.seconds.push(self.last.elapsed().as_secs_f64());
        }
        self.last = Instant::now();
        Ok(())
    }
}
