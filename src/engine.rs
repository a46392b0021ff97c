//! One edit from pixels to pixels: the order of the paper's stages and what is kept between edits; knows no host.
#![deny(unsafe_code)]

pub mod cache;
pub mod checkpoint;
pub mod imagic;
pub mod layers;
pub mod ops;
pub mod optimizer;
pub mod pixels;
pub mod random;
pub mod schedule;
pub mod text;
pub mod unet;
pub mod vae;
pub mod weights;

use crate::error::{Error, Hint, Result};
use crate::image::LayerImage;
use crate::params::Params;
use cache::{TunedModel, TuningKey};
use candle_core::Device;
use checkpoint::Activations;
use imagic::Setting;
use random::{Purpose, Stream};
use schedule::Schedule;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use text::TextEncoder;
use unet::{UNet, UNetConfig};
use vae::Vae;
use weights::Weights;

/// Where the engine keeps things and how much it may use.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Folder of the tuned models; `None` keeps them in memory only.
    pub cache_folder: Option<PathBuf>,
    /// Bytes that the cache folder may hold; the least recently used entries go first.
    pub cache_limit: u64,
    /// Bytes of memory that can still be had; `None` if the system does not say. Asked before tuning.
    pub free_memory: fn() -> Option<u64>,
}

/// Everything one edit needs; the engine reads nothing else.
#[derive(Clone, Debug)]
pub struct EditRequest {
    /// The picture x.
    pub layer: LayerImage,
    /// What to do with it.
    pub params: Params,
    /// Diffusers folder of the base model that `params.model` means.
    pub model_folder: PathBuf,
    /// Pictures that the base model's autoencoder gives back at this many dB are familiar to it, others get a hint; `None`
    /// if the model does not say.
    pub familiar_psnr: Option<f64>,
    /// Identifies the document, to group tuned models in the cache; may be empty.
    pub document: String,
}

/// The parts of an edit that take time, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reading the base model.
    LoadModel,
    /// Stage A.
    OptimizeTextEmbedding,
    /// Stage B.
    FineTune,
    /// Stage C.
    Generate,
}

impl Stage {
    /// What a progress bar says.
    pub fn label(self) -> &'static str {
        match self {
            Self::LoadModel => "Loading the model",
            Self::OptimizeTextEmbedding => "A: optimizing the text embedding",
            Self::FineTune => "B: fine-tuning the model",
            Self::Generate => "C: generating",
        }
    }
}

/// State of a running edit, reported after every step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// The stage that runs.
    pub stage: Stage,
    /// Steps of this stage that are done.
    pub step: u32,
    /// Steps this stage has; 0 while unknown.
    pub steps: u32,
    /// Loss of the last step of stages A and B.
    pub loss: Option<f32>,
    /// Share of the whole edit that is done, 0 to 1, weighted by what the stages cost.
    pub fraction: f32,
    /// Seconds until the edit is done, estimated from the steps so far.
    pub seconds_left: Option<f32>,
    /// What the user should know; there from the first step of stage A on, or of stage C where the model is tuned already.
    pub hint: Option<Hint>,
}

/// Told of progress after every step; answers whether to go on.
pub type Watch<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;

/// Where the tuned model of an edit came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tuned {
    /// Stages A and B ran.
    Now,
    /// Still in memory from an earlier edit.
    InMemory,
    /// Read from the cache folder.
    OnDisk,
}

/// A finished edit.
#[derive(Clone, Debug)]
pub struct Edit {
    /// The result: size and alpha of the request's layer.
    pub layer: LayerImage,
    /// Whether stages A and B had to run.
    pub tuned: Tuned,
    /// Seconds each stage took; stages that did not run are absent.
    pub seconds: Vec<(Stage, f32)>,
    /// Losses of stage A, one a step; empty if it did not run.
    pub embedding_losses: Vec<f32>,
    /// Losses of stage B.
    pub tuning_losses: Vec<f32>,
    /// What the user should know, for example which words of the prompt were cut.
    pub notes: Vec<String>,
    /// The hint that was part of the progress.
    pub hint: Option<Hint>,
}

/// How the stages report: (stage, steps done, steps in all, loss); fails with [`Error::Cancelled`] to stop them.
pub type StepWatch<'a> = dyn FnMut(Stage, u32, u32, Option<f32>) -> Result<()> + 'a;

/// A base model, loaded.
pub struct BaseModel {
    /// Its diffusers folder.
    pub folder: PathBuf,
    /// Differs for models with different weights.
    pub fingerprint: String,
    /// Tokenizer and text encoder.
    pub text: TextEncoder,
    /// Autoencoder.
    pub vae: Vae,
    /// Shape of the network.
    pub unet_config: UNetConfig,
    /// Weights of the network; never changed.
    pub unet: Weights,
    /// Noise schedule.
    pub schedule: Schedule,
}

impl BaseModel {
    /// Reads a diffusers folder and checks that its parts fit each other.
    pub fn read(folder: &Path, device: &Device) -> Result<Self> {
        let base = Self {
            folder: folder.to_owned(),
            fingerprint: weights::fingerprint(folder)?,
            text: TextEncoder::read(folder, device)?,
            vae: Vae::read(folder, device)?,
            unet_config: UNetConfig::read(folder)?,
            unet: Weights::read(&folder.join("unet"), device)?,
            schedule: Schedule::read(folder)?,
        };
        UNet::new(&base.unet_config, &base.unet)?;
        if base.vae.latent_channels != base.unet_config.latent_channels {
            let (vae, unet) = (base.vae.latent_channels, base.unet_config.latent_channels);
            return Err(Error::model(
                folder,
                format!("the VAE has {vae} latent channels, the U-Net {unet}; they belong to different models"),
            ));
        }
        Ok(base)
    }

    /// Width and height in pixels at which this model works on `layer`.
    fn working_size(&self, layer: &LayerImage, resolution: u32) -> (usize, usize) {
        let own = self.unet_config.sample_size * self.vae.downsampling;
        let side = if resolution == 0 { own } else { resolution as usize };
        let multiple = self.vae.downsampling * self.unet_config.latent_multiple();
        pixels::working_size(layer.width(), layer.height(), side, multiple)
    }
}

/// Owns the loaded base model and the last tuned model.
pub struct Engine {
    options: EngineOptions,
    device: Device,
    base: Option<Arc<BaseModel>>,
    tuned: Option<(TuningKey, Arc<TunedModel>)>,
}

impl Engine {
    /// Loads nothing yet.
    pub fn new(options: EngineOptions) -> Self {
        Self { options, device: Device::Cpu, base: None, tuned: None }
    }

    /// Runs the stages that are needed and returns the edited layer.
    ///
    /// Stages A and B run only if no tuned model is kept for this picture, prompt, tuning parameters and base model.
    pub fn edit(&mut self, request: &EditRequest, watch: &mut Watch<'_>) -> Result<Edit> {
        let params = &request.params;
        params.check()?;
        let mut clock = Clock::new(params, watch);
        let mut notes = Vec::new();

        clock.step(Stage::LoadModel, 0, 0, None)?;
        let base = self.base_model(&request.model_folder)?;
        let key = TuningKey::of(request, &base.fingerprint);
        let tokens = base.text.tokenize(&params.prompt)?;
        if !tokens.cut.is_empty() {
            let limit = base.text.max_tokens - 2;
            notes.push(format!("the target text is longer than {limit} tokens; not used: \"{}\"", tokens.cut));
        }
        let e_tgt = base.text.embed(&tokens)?; // (1, tokens, d)
        let size = base.working_size(&request.layer, params.resolution);
        let setting =
            Setting { config: &base.unet_config, schedule: &base.schedule, params, activations: Activations::Keep };

        let (mut embedding_losses, mut tuning_losses) = (Vec::new(), Vec::new());
        let (tuned, origin) = match self.find_tuned(&key, &base) {
            Some(found) => found,
            None => {
                self.check_memory(&base, params)?;
                let pixels = pixels::to_tensor(&request.layer, size, &self.device)?; // (1, 3, h, w)
                let moments = base.vae.encode(&pixels)?;
                let mut psnr = None;
                if request.familiar_psnr.is_some() {
                    // Without noise the sample is the mean.
                    let mean = base.vae.sample(&moments, &moments.mean.zeros_like()?)?;
                    psnr = Some(pixels::psnr(&base.vae.decode(&mean)?, &pixels, &request.layer)?);
                }
                clock.hint = hint(psnr, request.familiar_psnr);
                let noise = Stream::new(params.tuning_seed, Purpose::VaeSample, 0);
                let noise = noise.normals(moments.mean.dims(), &self.device)?;
                let x = base.vae.sample(&moments, &noise)?; // (1, c, h, w)
                let watch = &mut |stage, step, steps, loss| clock.step(stage, step, steps, loss);
                let (e_opt, losses) = imagic::optimize_text_embedding(&setting, &base.unet, &x, &e_tgt, watch)?;
                embedding_losses = losses;
                let (unet, losses) = imagic::fine_tune(&setting, &base.unet, &x, &e_opt, watch)?;
                tuning_losses = losses;
                let tuned = Arc::new(TunedModel { e_opt, unet, psnr });
                if let Some(folder) = &self.options.cache_folder {
                    let stored = cache::store(folder, self.options.cache_limit, &key, request, &tuned);
                    notes.extend(stored.err().map(|error| {
                        format!("the tuned model is kept only until this program closes: {error}; free some space")
                    }));
                }
                (tuned, Tuned::Now)
            }
        };
        self.tuned = Some((key, tuned.clone()));

        clock.tuned(origin);
        // Kept with the tuned model: measuring again would take longer than stage C with large layers.
        clock.hint = hint(tuned.psnr, request.familiar_psnr);
        clock.step(Stage::Generate, 0, params.sampling_steps, None)?;
        let e_null = base.text.embed(&base.text.tokenize("")?)?;
        let e_bar = imagic::interpolate(&e_tgt, &tuned.e_opt, params.eta)?;
        let unet = UNet::new(&base.unet_config, &tuned.unet)?;
        let watch = &mut |stage, step, steps, loss| clock.step(stage, step, steps, loss);
        let (w, h) = size;
        let shape = [1, base.vae.latent_channels, h / base.vae.downsampling, w / base.vae.downsampling];
        let x_edit = imagic::generate(&setting, &unet, &shape, &e_bar, &e_null, watch)?;
        let layer = pixels::to_layer(&base.vae.decode(&x_edit)?, &request.layer)?;
        let hint = clock.hint;
        Ok(Edit { layer, tuned: origin, seconds: clock.finish(), embedding_losses, tuning_losses, notes, hint })
    }

    /// The base model in `folder`, read unless it is the loaded one.
    fn base_model(&mut self, folder: &Path) -> Result<Arc<BaseModel>> {
        if let Some(base) = self.base.as_ref().filter(|base| base.folder == folder) {
            // The files may have been exchanged since.
            if weights::fingerprint(folder)? == base.fingerprint {
                return Ok(base.clone());
            }
        }
        // Free the old one first: two do not fit into memory on small machines.
        self.base = None;
        self.tuned = None;
        let base = Arc::new(BaseModel::read(folder, &self.device)?);
        self.base = Some(base.clone());
        Ok(base)
    }

    /// Refuses to tune what cannot fit, before the system kills the process that holds the user's editor session.
    fn check_memory(&self, base: &BaseModel, params: &Params) -> Result<()> {
        // Beside the base weights, which are loaded: tuned weights and Adam's two moments.
        let copies = if params.tuning_steps > 0 { 3 } else { 1 };
        let weights: u64 = base.unet.tensors.values().map(|tensor| 4 * tensor.elem_count() as u64).sum();
        let (need, free) = (copies * weights, (self.options.free_memory)().unwrap_or(u64::MAX));
        if need <= free {
            return Ok(());
        }
        let gb = |bytes: u64| bytes as f64 / 1e9;
        Err(Error::Memory(format!(
            "tuning this model needs at least {:.1} GB of memory and {:.1} GB are free; close other programs or choose a smaller model",
            gb(need),
            gb(free)
        )))
    }

    fn find_tuned(&mut self, key: &TuningKey, base: &BaseModel) -> Option<(Arc<TunedModel>, Tuned)> {
        if let Some((_, tuned)) = self.tuned.as_ref().filter(|(kept, _)| kept == key) {
            return Some((tuned.clone(), Tuned::InMemory));
        }
        self.tuned = None;
        let folder = self.options.cache_folder.as_ref()?;
        let tuned = cache::find(folder, key, &base.unet, &self.device)?;
        Some((Arc::new(tuned), Tuned::OnDisk))
    }
}

/// The hint for a picture that the base model's autoencoder gives back at `psnr` dB, if it needs one.
fn hint(psnr: Option<f64>, familiar_psnr: Option<f64>) -> Option<Hint> {
    let (psnr, familiar_psnr) = (psnr?, familiar_psnr?);
    (psnr < familiar_psnr).then_some(Hint::UnfamiliarPicture { psnr, familiar_psnr })
}

/// Turns the steps of the stages into [`Progress`] and measures what each stage takes.
struct Clock<'a, 'b> {
    watch: &'a mut Watch<'b>,
    /// Cost of one step of stages A, B and C, in passes through the network for one item.
    costs: [(Stage, u32, f32); 3],
    stage: (Stage, Instant),
    seconds: Vec<(Stage, f32)>,
    /// Seconds per pass, from the stage that runs.
    pace: Option<f32>,
    /// Goes with every step from now on.
    hint: Option<Hint>,
}

impl<'a, 'b> Clock<'a, 'b> {
    fn new(params: &Params, watch: &'a mut Watch<'b>) -> Self {
        // A: forward and the gradient of the activations; B: the gradient of the weights as well; C: two with guidance.
        let batch = params.batch_size as f32;
        let passes = if params.guidance == 1.0 { 1.0 } else { 2.0 };
        let costs = [
            (Stage::OptimizeTextEmbedding, params.embedding_steps, 2.0 * batch),
            (Stage::FineTune, params.tuning_steps, 3.0 * batch),
            (Stage::Generate, params.sampling_steps, passes),
        ];
        let now = Instant::now();
        Self { watch, costs, stage: (Stage::LoadModel, now), seconds: Vec::new(), pace: None, hint: None }
    }

    /// Stages A and B did not have to run.
    fn tuned(&mut self, origin: Tuned) {
        if origin != Tuned::Now {
            self.costs[0].1 = 0;
            self.costs[1].1 = 0;
        }
    }

    fn step(&mut self, stage: Stage, step: u32, steps: u32, loss: Option<f32>) -> Result<()> {
        self.enter(stage);
        let (mut done, mut all) = (0.0, 0.0);
        let mut before = true;
        for (other, steps, cost) in self.costs {
            all += steps as f32 * cost;
            if other == stage {
                before = false;
                done += step as f32 * cost;
                if step > 0 {
                    self.pace = Some(self.stage.1.elapsed().as_secs_f32() / (step as f32 * cost));
                }
            } else if before && stage != Stage::LoadModel {
                done += steps as f32 * cost;
            }
        }
        let fraction = if all > 0.0 { (done / all).min(1.0) } else { 0.0 };
        let seconds_left = self.pace.map(|pace| pace * (all - done).max(0.0));
        match (self.watch)(Progress { stage, step, steps, loss, fraction, seconds_left, hint: self.hint }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled),
        }
    }

    /// Closes the running stage if `stage` is another one.
    fn enter(&mut self, stage: Stage) {
        if self.stage.0 != stage {
            self.seconds.push((self.stage.0, self.stage.1.elapsed().as_secs_f32()));
            self.stage = (stage, Instant::now());
        }
    }

    fn finish(mut self) -> Vec<(Stage, f32)> {
        self.seconds.push((self.stage.0, self.stage.1.elapsed().as_secs_f32()));
        self.seconds
    }
}
