//! One edit from pixels to pixels: the order of the paper's stages and what is kept between edits; knows no host.
#![deny(unsafe_code)]

pub mod budget;
pub mod device;
pub mod imagic;
pub mod model;
pub mod ops;
pub mod picture;
pub mod random;
pub mod request;
pub mod store;
pub mod tuning;

use crate::error::{Error, Hint, Result};
use crate::text::{Text, text};
use budget::clock::Clock;
use budget::cost::{self, Estimate};
use budget::memory::{Shapes, Task};
use budget::plan::{Plan, RESERVE};
use candle_core::{Device, Tensor};
use device::Chosen;
use imagic::{Setting, Training};
use model::schedule::Schedule;
use model::text::TextEncoder;
use model::unet::{self, UNet, UNetConfig};
use model::vae::Vae;
use model::weights::{self, Weights};
use picture::pixels::{self, Picture};
use picture::untouched;
use random::{Purpose, Stream};
use request::{Edit, EditRequest, EngineOptions, Stage, Tuned, Watch};
use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::cache;
use store::key::TuningKey;
use tuning::mode::{Mode, Trained};
use tuning::tuned_model::TunedModel;

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
    /// Noise schedule.
    pub schedule: Schedule,
    /// Sizes of all parts, for [`Plan`].
    pub shapes: Shapes,
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
            schedule: Schedule::read(folder)?,
            shapes: Shapes::read(folder)?,
        };
        if base.vae.latent_channels != base.unet_config.latent_channels {
            let (vae, unet) = (base.vae.latent_channels, base.unet_config.latent_channels);
            return Err(Error::model(
                folder,
                text!(
                    "the VAE has {vae} latent channels, the U-Net {unet}; they belong to different models",
                    vae,
                    unet
                ),
            ));
        }
        Ok(base)
    }

    /// Side in pixels of the pictures that this model was trained with.
    fn own_side(&self) -> usize {
        self.unet_config.sample_size * self.vae.downsampling
    }
}

/// Owns the loaded base model, the last tuned model and what a stopped edit has left.
pub struct Engine {
    options: EngineOptions,
    /// What it computes on, once there is something to do.
    chosen: OnceCell<Chosen>,
    base: Option<Arc<BaseModel>>,
    network: Network,
    tuned: Option<(TuningKey, Arc<TunedModel>)>,
    stopped: Option<(TuningKey, Stopped)>,
    reconstruction: Option<(ReconstructionKey, Tensor)>,
}

/// The base model's U-Net, in memory while it is needed. Fine-tuning all weights uses it up: a large one and its tuned copy
/// together would take a quarter more memory at the peak of an edit than the copy alone.
struct Network {
    /// Its part of the diffusers folder; empty before there is a base model.
    folder: PathBuf,
    weights: Option<Weights>,
}

impl Network {
    /// The weights, read if they are not there; they stay.
    fn get(&mut self, device: &Device) -> Result<Weights> {
        let weights = self.take(device)?;
        self.weights = Some(weights.clone());
        Ok(weights)
    }

    /// The weights, for whoever changes them.
    fn take(&mut self, device: &Device) -> Result<Weights> {
        self.weights.take().map_or_else(|| Weights::read(&self.folder, device), Ok)
    }
}

/// Stages A and B as far as they have come.
struct Stopped {
    mode: Mode,
    /// The picture's latents.
    x: Tensor,
    psnr: Option<f64>,
    /// e_opt and the losses of stage A, once it is done.
    embedding: Option<(Tensor, Vec<f32>)>,
    /// The stage that was stopped.
    unfinished: Option<Training>,
}

/// What stages A and B are about.
#[derive(Clone, Copy)]
struct Subject<'a> {
    request: &'a EditRequest,
    base: &'a BaseModel,
    /// Of the tuned models that would do, the better first.
    keys: &'a [(Trained, TuningKey)],
    task: &'a Task<'a>,
    e_tgt: &'a Tensor,
}

/// A tuned model for an edit.
struct Found {
    key: TuningKey,
    tuned: Arc<TunedModel>,
    origin: Tuned,
    /// Of stages A and B, where they ran.
    losses: [Vec<f32>; 2],
}

/// What a picture at eta 0 depends on.
type ReconstructionKey = (TuningKey, u32, u64, u32);

impl Engine {
    /// Loads nothing yet.
    pub fn new(options: EngineOptions) -> Self {
        Self {
            options,
            chosen: OnceCell::new(),
            base: None,
            network: Network { folder: PathBuf::new(), weights: None },
            tuned: None,
            stopped: None,
            reconstruction: None,
        }
    }

    /// Runs the stages that are needed and returns the edited layer.
    ///
    /// Stages A and B run only if no tuned model is kept for this picture, prompt, tuning parameters and base model. When
    /// they are stopped, the next edit with the same of these goes on from there.
    pub fn edit(&mut self, request: &EditRequest, watch: &mut Watch<'_>) -> Result<Edit> {
        let params = &request.params;
        params.check()?;
        let mut clock = Clock::new(params, watch);
        let mut notes = Vec::new();

        clock.step(Stage::LoadModel, 0, 0, None)?;
        let chosen = self.chosen().clone();
        let _at_work = chosen.at_work();
        let is_loaded = self.is_loaded(&request.model_folder)?;
        let base = self.base_model(&request.model_folder, is_loaded)?;
        let keys = TuningKey::all(request, Mode::allowed(params, &chosen.device), &base.fingerprint);
        let tokens = base.text.tokenize(&params.prompt)?;
        if !tokens.cut.is_empty() {
            let limit = base.text.max_tokens - 2;
            notes.push(text!(
                "the target text is longer than {limit} tokens; not used: \"{cut}\"",
                limit,
                cut = &tokens.cut
            ));
        }
        let e_tgt = base.text.embed(&tokens)?; // (1, tokens, d)
        let task = Task { precision: chosen.precision, ..base.shapes.task(request) };
        let size = task.size;
        let subject = Subject { request, base: &base, keys: &keys, task: &task, e_tgt: &e_tgt };
        let Found { key, tuned, origin, losses: [embedding_losses, tuning_losses] } =
            self.find_or_tune(&subject, &mut notes, &mut clock)?;
        self.tuned = Some((key.clone(), tuned.clone()));
        let setting = Setting {
            config: &base.unet_config,
            schedule: &base.schedule,
            params,
            mode: Mode::Full,
            launches: chosen.launches,
            precision: chosen.precision,
        };

        clock.tuned(origin);
        // Kept with the tuned model: measuring again would take longer than stage C with large layers.
        clock.hint = hint(tuned.psnr, request.familiar_psnr);
        let e_null = base.text.embed(&base.text.tokenize("")?)?;
        let storage = chosen.precision.sampling();
        // If as much memory again is left for everything else.
        let needed = 2 * unet::bytes_of_factors(&tuned.unet);
        let has_room = chosen.free_memory(self.options.free_memory).is_none_or(|free| free >= needed);
        let factors = if has_room { unet::with_factors(&tuned.unet, storage)? } else { tuned.unet.clone() };
        let unet = UNet::new(&base.unet_config, &factors)?.stored_in(storage);
        let (w, h) = size;
        let shape = [1, base.vae.latent_channels, h / base.vae.downsampling, w / base.vae.downsampling];
        let steps = base.schedule.timesteps(params.sampling_steps).len() as u32;
        // The picture at eta 0, which tells what an edit touches, unless it is known already.
        let reconstruction_key = (key, params.seed, params.guidance.to_bits(), params.sampling_steps);
        let known = self.reconstruction.take().filter(|(key, _)| *key == reconstruction_key);
        let reconstructs = params.keep_untouched && known.is_none() && params.eta != 0.0;
        let all_steps = if reconstructs { 2 * steps } else { steps };
        clock.samples(all_steps);
        clock.step(Stage::Generate, 0, all_steps, None)?;
        let mut sample = |eta, done: u32, previews: u32| -> Result<Tensor> {
            let e_bar = imagic::interpolate(&e_tgt, &tuned.e_opt, eta)?;
            let watch = &mut |step, pred_x0: &Tensor| {
                // Spread evenly, none at the end, where the result itself comes.
                let is_due = |step: u32| (step * (previews + 1) / steps).min(previews);
                if previews > 0 && is_due(step) > is_due(step - 1) {
                    let picture = Picture::of(&base.vae.decode(pred_x0)?)?;
                    clock.preview = Some(Arc::new(picture.opaque()));
                }
                clock.step(Stage::Generate, done + step, all_steps, None)
            };
            let x_edit = imagic::generate(&setting, &unet, &shape, &e_bar, &e_null, watch)?;
            base.vae.decode(&x_edit)
        };
        let reconstruction = match known {
            Some((_, known)) => Some(known),
            None if reconstructs => Some(sample(0.0, 0, 0)?),
            None => None,
        };
        let edited = sample(params.eta, all_steps - steps, request.previews)?;
        let mut picture = Picture::of(&edited)?;
        if params.keep_untouched {
            let reconstruction = reconstruction.as_ref().unwrap_or(&edited);
            picture.mask = Some(untouched::touched(&edited, reconstruction, &request.layer)?);
        }
        if let Some(reconstruction) = reconstruction {
            self.reconstruction = Some((reconstruction_key, reconstruction));
        }
        let (layer, untouched) = picture.on(&request.layer);
        let hint = clock.hint;
        let (seconds, pace) = clock.finish([w * h, base.own_side().pow(2)], is_loaded);
        cost::remember(&self.options, &base.fingerprint, pace);
        Ok(Edit { layer, tuned: origin, seconds, embedding_losses, tuning_losses, notes, hint, untouched, picture })
    }

    /// The tuned model that is kept for `subject`, or one that is tuned now.
    fn find_or_tune(
        &mut self,
        subject: &Subject<'_>,
        notes: &mut Vec<Text>,
        clock: &mut Clock<'_, '_>,
    ) -> Result<Found> {
        let Subject { request, base, keys, task, e_tgt } = *subject;
        let params = &request.params;
        let allowed = Mode::allowed(params, self.device());
        let (chosen, of_system) = (self.chosen().clone(), self.options.free_memory);
        let free_memory = || chosen.free_memory(of_system);
        let device = chosen.device.clone();
        if let Some((key, tuned, origin)) = self.find_tuned(keys, base) {
            let kept = keys.iter().find(|(_, kept)| *kept == key);
            let note = kept.and_then(|(trained, _)| trained.note_if_kept(allowed[0].trained()));
            notes.extend(note);
            return Ok(Found { key, tuned, origin, losses: Default::default() });
        }
        let stopped = self.stopped.take().filter(|(kept, _)| keys.iter().any(|(_, key)| key == kept));
        let mut state = match stopped {
            Some((_, stopped)) => stopped,
            None => {
                let plan = Plan::new(&base.shapes, task, allowed, self.held(&base.shapes, task), free_memory())?;
                notes.extend(plan.note()?);
                self.network.get(&device)?;
                self.begin(base, request, task.size, plan.mode)?
            }
        };
        if !allowed.contains(&state.mode) {
            // The keys say that this trains the same.
            state.mode = allowed[0];
        }
        clock.hint = hint(state.psnr, request.familiar_psnr);
        let tuned = loop {
            let setting = Setting {
                config: &base.unet_config,
                schedule: &base.schedule,
                params,
                mode: state.mode,
                launches: chosen.launches,
                precision: chosen.precision,
            };
            clock.tunes_in(params, state.mode);
            let tuned = tune(&setting, &mut self.network, e_tgt, &mut state, &free_memory, clock);
            let can_lighten = state.mode.lighter(allowed).is_some();
            let reason = match tuned {
                Err(Error::Memory(reason)) if can_lighten => reason,
                _ => break tuned,
            };
            notes.push(state.lighten(allowed, reason));
        };
        let is_of_mode = |(trained, _): &&(Trained, TuningKey)| *trained == state.mode.trained();
        let (_, key) = keys.iter().find(is_of_mode).expect("there is a key for every allowed mode");
        if matches!(tuned, Err(Error::Cancelled)) {
            self.stopped = Some((key.clone(), state));
        }
        let (tuned, losses) = tuned?;
        if let Some(folder) = &self.options.cache_folder {
            let stored = cache::store(folder, self.options.cache_limit, key, request, &tuned);
            notes.extend(stored.err().map(|error| {
                text!(
                    "the tuned model is kept only until this program closes: {error}; free some space",
                    error = &error
                )
            }));
        }
        Ok(Found { key: key.clone(), tuned: tuned.into(), origin: Tuned::Now, losses })
    }

    /// What `request` would cost now; loads nothing.
    pub fn estimate(&self, request: &EditRequest) -> Result<Estimate> {
        let is_loaded = self.is_loaded(&request.model_folder)?;
        let fingerprint = match self.base.as_ref().filter(|_| is_loaded) {
            Some(base) => base.fingerprint.clone(),
            None => weights::fingerprint(&request.model_folder)?,
        };
        let allowed = Mode::allowed(&request.params, self.device());
        let keys = TuningKey::all(request, allowed, &fingerprint);
        let is_asked_for = |kept: &TuningKey| keys.iter().any(|(_, key)| key == kept);
        let in_memory = self.tuned.as_ref().is_some_and(|(kept, _)| is_asked_for(kept));
        let folder = self.options.cache_folder.as_ref();
        let on_disk = || folder.is_some_and(|folder| keys.iter().any(|(_, key)| cache::holds(folder, key)));
        let tuned = in_memory || on_disk();
        let stopped =
            self.stopped.as_ref().filter(|(kept, _)| is_asked_for(kept)).map_or([0; 2], |(_, stopped)| stopped.steps());
        let read;
        let shapes = match self.base.as_ref().filter(|_| is_loaded) {
            Some(base) => &base.shapes,
            None => {
                read = Shapes::read(&request.model_folder)?;
                &read
            }
        };
        let free = || self.chosen().free_memory(self.options.free_memory);
        let task = Task { precision: self.chosen().precision, ..shapes.task(request) };
        let held = if is_loaded { self.held(shapes, &task) } else { 0 };
        let plan = || Plan::new(shapes, &task, allowed, held, free());
        let memory = (!tuned).then(plan).transpose()?;
        let estimate = cost::estimate(&self.options, request, &fingerprint, memory, is_loaded, stopped)?;
        Ok(Estimate { on_gpu: self.chosen().gpu.is_some(), ..estimate })
    }

    /// What it computes on.
    fn chosen(&self) -> &Chosen {
        self.chosen.get_or_init(|| self.options.processor.choose())
    }

    fn device(&self) -> &Device {
        &self.chosen().device
    }

    /// What stages A and B need of the picture.
    fn begin(&self, base: &BaseModel, request: &EditRequest, size: (usize, usize), mode: Mode) -> Result<Stopped> {
        let pixels = pixels::to_tensor(&request.layer, size, self.device())?; // (1, 3, h, w)
        let moments = base.vae.encode(&pixels)?;
        let mut psnr = None;
        if request.familiar_psnr.is_some() {
            // Without noise the sample is the mean.
            let mean = base.vae.sample(&moments, &moments.mean.zeros_like()?)?;
            psnr = Some(pixels::psnr(&base.vae.decode(&mean)?, &pixels, &request.layer)?);
        }
        let noise = Stream::new(request.params.tuning_seed, Purpose::VaeSample, 0);
        let noise = noise.normals(moments.mean.dims(), self.device())?;
        let x = base.vae.sample(&moments, &noise)?; // (1, c, h, w)
        Ok(Stopped { mode, x, psnr, embedding: None, unfinished: None })
    }

    /// Bytes of what is in memory of the loaded base model and the model tuned last, which goes when another is tuned.
    fn held(&self, shapes: &Shapes, task: &Task<'_>) -> u64 {
        let network = shapes.network_bytes();
        let read = if self.network.weights.is_some() { network } else { 0 };
        let tuned = if self.tuned.as_ref().is_some_and(|(_, tuned)| !tuned.has_adapters()) { network } else { 0 };
        shapes.model_bytes(task) - network + read + tuned
    }

    fn is_loaded(&self, folder: &Path) -> Result<bool> {
        match self.base.as_ref().filter(|base| base.folder == folder) {
            // The files may have been exchanged since.
            Some(base) => Ok(weights::fingerprint(folder)? == base.fingerprint),
            None => Ok(false),
        }
    }

    /// The base model in `folder`, read unless it is the loaded one.
    fn base_model(&mut self, folder: &Path, is_loaded: bool) -> Result<Arc<BaseModel>> {
        if let Some(base) = self.base.as_ref().filter(|_| is_loaded) {
            return Ok(base.clone());
        }
        // Free the old one first: two do not fit into memory on small machines.
        self.base = None;
        self.network = Network { folder: folder.join("unet"), weights: None };
        self.tuned = None;
        self.stopped = None;
        self.reconstruction = None;
        let base = Arc::new(BaseModel::read(folder, self.device())?);
        self.base = Some(base.clone());
        Ok(base)
    }

    /// The first of `keys` for which there is a tuned model.
    fn find_tuned(
        &mut self,
        keys: &[(Trained, TuningKey)],
        base: &BaseModel,
    ) -> Option<(TuningKey, Arc<TunedModel>, Tuned)> {
        if let Some((key, tuned)) = self.tuned.take()
            && keys.iter().any(|(_, asked)| *asked == key)
        {
            return Some((key, tuned, Tuned::InMemory));
        }
        let folder = self.options.cache_folder.as_ref()?;
        let device = self.device().clone();
        let mut network = || self.network.get(&device);
        let find = |(_, key): &(Trained, TuningKey)| {
            let tuned = cache::find(folder, key, base.shapes.network(), &mut network, &device)?;
            Some((key.clone(), Arc::new(tuned), Tuned::OnDisk))
        };
        keys.iter().find_map(find)
    }
}

impl Stopped {
    /// Goes over to a mode that takes less memory, and keeps what can be kept; tells the user.
    fn lighten(&mut self, allowed: &[Mode], reason: Text) -> Text {
        let before = self.mode;
        self.mode = before.lighter(allowed).expect("memory is watched only where there is one");
        if self.embedding.is_some() && self.mode.trained() != before.trained() {
            // Stage B, whose weights or moments become others.
            self.unfinished = None;
        }
        self.mode.note_after(before, reason)
    }

    /// Steps of stages A and B that are done.
    fn steps(&self) -> [u32; 2] {
        let unfinished = self.unfinished.as_ref().map_or(0, Training::steps);
        match &self.embedding {
            Some((_, losses)) => [losses.len() as u32, unfinished],
            None => [unfinished, 0],
        }
    }
}

/// Stages A and B from where `state` is; its losses are those of A and of B.
fn tune(
    setting: &Setting<'_>,
    network: &mut Network,
    e_tgt: &Tensor,
    state: &mut Stopped,
    free_memory: &dyn Fn() -> Option<u64>,
    clock: &mut Clock<'_, '_>,
) -> Result<(TunedModel, [Vec<f32>; 2])> {
    // The allocator gives memory of the mode before back only by and by.
    const SETTLING: u32 = 3;
    let Stopped { x, psnr, embedding, unfinished, .. } = state;
    let can_lighten = setting.mode.lighter(Mode::allowed(setting.params, x.device())).is_some();
    let mut steps_here = 0;
    let watch = &mut |stage, step, steps, loss| {
        clock.step(stage, step, steps, loss)?;
        steps_here += 1;
        match free_memory() {
            Some(free) if free < RESERVE && can_lighten && steps_here > SETTLING => {
                Err(Error::Memory(text!("{left} MB of memory were left", left = free / 1_000_000)))
            }
            _ => Ok(()),
        }
    };
    if embedding.is_none() {
        let base = network.get(x.device())?;
        *embedding = Some(imagic::optimize_text_embedding(setting, &base, x, e_tgt, unfinished, watch)?);
    }
    let (e_opt, embedding_losses) = embedding.as_ref().expect("set above").clone();
    let base = || match setting.mode.trained() {
        Trained::Weights | Trained::WeightsInEightBits => network.take(x.device()),
        Trained::Adapters => network.get(x.device()),
    };
    let (unet, tuning_losses) = imagic::fine_tune(setting, base, x, &e_opt, unfinished, watch)?;
    Ok((TunedModel { e_opt, unet, psnr: *psnr }, [embedding_losses, tuning_losses]))
}

/// The hint for a picture that the base model's autoencoder gives back at `psnr` dB, if it needs one.
fn hint(psnr: Option<f64>, familiar_psnr: Option<f64>) -> Option<Hint> {
    let (psnr, familiar_psnr) = (psnr?, familiar_psnr?);
    (psnr < familiar_psnr).then_some(Hint::UnfamiliarPicture { psnr, familiar_psnr })
}
