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
use model::clip::TextEncoder;
use model::codec::Codec;
use model::family::Family;
use model::schedule::Schedule;
use model::source::{Part, Source};
use model::unet::{self, UNet};
use model::weights::Weights;
use picture::pixels::{self, Picture};
use picture::untouched;
use random::{Purpose, Stream};
use request::{Edit, EditRequest, EngineOptions, Stage, Tuned, Watch};
use std::cell::OnceCell;
use std::sync::Arc;
use store::cache;
use store::key::TuningKey;
use tuning::mode::{Mode, Trained};
use tuning::tuned_model::TunedModel;

/// A base model, loaded; its U-Net is read when it is needed.
pub struct BaseModel {
    /// Its files.
    pub source: Source,
    /// Differs for models with different weights.
    pub fingerprint: String,
    /// Tokenizer and text encoder.
    pub text: TextEncoder,
    /// Pixels to latents and back.
    pub codec: Codec,
    /// Noise schedule.
    pub schedule: Schedule,
    /// Sizes of all parts, for [`Plan`], and the shape of the U-Net.
    pub shapes: Shapes,
}

impl BaseModel {
    /// Reads the model in `source` and checks that its parts fit each other.
    pub fn read(source: Source, fingerprint: String, device: &Device) -> Result<Self> {
        let family = Family::of(&source)?;
        let shapes = Shapes::new(&source, family)?;
        let codec = Codec::read(&source, family, device)?;
        let (latents, unet) = (codec.channels, shapes.config.in_channels);
        if latents != unet {
            let reason = text!(
                "the VAE has {vae} latent channels, the U-Net {unet}; they belong to different models",
                vae = latents,
                unet
            );
            return Err(Error::model(source.path(), reason));
        }
        let text = TextEncoder::read(&source, family, device)?;
        Ok(Self { text, codec, schedule: Schedule::read(&source)?, shapes, fingerprint, source })
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
#[derive(Default)]
struct Network(Option<Weights>);

impl Network {
    /// The weights, read from `source` if they are not there; they stay.
    fn get(&mut self, source: &Source, device: &Device) -> Result<Weights> {
        let weights = self.take(source, device)?;
        self.0 = Some(weights.clone());
        Ok(weights)
    }

    /// The weights, for whoever changes them.
    fn take(&mut self, source: &Source, device: &Device) -> Result<Weights> {
        self.0.take().map_or_else(|| source.tensors(Part::UNet, device), Ok)
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
            network: Network::default(),
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
        let source = Source::open(&request.model_folder)?;
        let fingerprint = source.fingerprint()?;
        let is_loaded = self.loaded(&source, &fingerprint).is_some();
        let base = self.base_model(source, fingerprint)?;
        let keys = TuningKey::all(request, Mode::allowed(params, &chosen), &base.fingerprint);
        let tokens = base.text.tokenizer.tokenize(&params.prompt)?;
        if !tokens.cut.is_empty() {
            let limit = base.text.tokenizer.max_tokens - 2;
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
            config: &base.shapes.config,
            schedule: &base.schedule,
            params,
            mode: Mode::Full,
            launches: chosen.launches,
            precision: chosen.precision,
        };

        clock.tuned(origin);
        // Kept with the tuned model: measuring again would take longer than stage C with large layers.
        clock.hint = hint(tuned.psnr, request.familiar_psnr);
        let e_null = base.text.unconditional()?;
        let form = chosen.precision.sampling();
        // If as much memory again is left for everything else.
        let needed = 2 * unet::bytes_in_half_precision(&tuned.unet);
        let has_room = chosen.free_memory(self.options.free_memory).is_none_or(|free| free >= needed);
        let factors = if has_room { unet::with_half_precision(&tuned.unet, form)? } else { tuned.unet.clone() };
        let unet = UNet::new(&base.shapes.config, &factors)?.in_form(form);
        let (w, h) = size;
        let shape = [1, base.codec.channels, h / base.codec.downsampling, w / base.codec.downsampling];
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
                    let picture = Picture::of(&base.codec.decode(pred_x0)?)?;
                    clock.preview = Some(Arc::new(picture.opaque()));
                }
                clock.step(Stage::Generate, done + step, all_steps, None)
            };
            let x_edit = imagic::generate(&setting, &unet, &shape, &e_bar, &e_null, watch)?;
            base.codec.decode(&x_edit)
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
        let hint = clock.hint;
        let (seconds, pace) = clock.finish([w * h, base.shapes.own_side().pow(2)], is_loaded);
        cost::remember(&self.options, &base.fingerprint, pace);
        Ok(Edit { tuned: origin, seconds, embedding_losses, tuning_losses, notes, hint, picture })
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
        let allowed = Mode::allowed(params, self.chosen());
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
                self.network.get(&base.source, &device)?;
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
                config: &base.shapes.config,
                schedule: &base.schedule,
                params,
                mode: state.mode,
                launches: chosen.launches,
                precision: chosen.precision,
            };
            clock.tunes_in(params, state.mode);
            let can_lighten = state.mode.lighter(allowed).is_some();
            let tuned = tune(&setting, base, &mut self.network, e_tgt, &mut state, &free_memory, can_lighten, clock);
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
        let source = Source::open(&request.model_folder)?;
        let fingerprint = source.fingerprint()?;
        let allowed = Mode::allowed(&request.params, self.chosen());
        let keys = TuningKey::all(request, allowed, &fingerprint);
        let is_asked_for = |kept: &TuningKey| keys.iter().any(|(_, key)| key == kept);
        let in_memory = self.tuned.as_ref().is_some_and(|(kept, _)| is_asked_for(kept));
        let folder = self.options.cache_folder.as_ref();
        let on_disk = || folder.is_some_and(|folder| keys.iter().any(|(_, key)| cache::holds(folder, key)));
        let tuned = in_memory || on_disk();
        let stopped =
            self.stopped.as_ref().filter(|(kept, _)| is_asked_for(kept)).map_or([0; 2], |(_, stopped)| stopped.steps());
        let loaded = self.loaded(&source, &fingerprint);
        let read = loaded.is_none().then(|| Shapes::new(&source, Family::of(&source)?)).transpose()?;
        let shapes = loaded.map(|base| &base.shapes).or(read.as_ref()).expect("read where none is loaded");
        let free = || self.chosen().free_memory(self.options.free_memory);
        let task = Task { precision: self.chosen().precision, ..shapes.task(request) };
        let held = if loaded.is_some() { self.held(shapes, &task) } else { 0 };
        let plan = || Plan::new(shapes, &task, allowed, held, free());
        let memory = (!tuned).then(plan).transpose()?;
        let estimate = cost::estimate(&self.options, request, &fingerprint, memory, loaded.is_some(), stopped)?;
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
        let moments = base.codec.encode(&pixels)?;
        let mut psnr = None;
        if request.familiar_psnr.is_some() {
            // Without noise the sample is the mean.
            let mean = base.codec.sample(&moments, &moments.mean.zeros_like()?)?;
            psnr = Some(pixels::psnr(&base.codec.decode(&mean)?, &pixels, &request.layer)?);
        }
        let noise = Stream::new(request.params.tuning_seed, Purpose::VaeSample, 0);
        let noise = noise.normals(moments.mean.dims(), self.device())?;
        let x = base.codec.sample(&moments, &noise)?; // (1, c, h, w)
        Ok(Stopped { mode, x, psnr, embedding: None, unfinished: None })
    }

    /// Bytes of what is in memory of the loaded base model and the model tuned last, which goes when another is tuned.
    fn held(&self, shapes: &Shapes, task: &Task<'_>) -> u64 {
        let network = shapes.network_bytes();
        let read = if self.network.0.is_some() { network } else { 0 };
        let tuned = if self.tuned.as_ref().is_some_and(|(_, tuned)| !tuned.has_adapters()) { network } else { 0 };
        shapes.model_bytes(task) - network + read + tuned
    }

    /// The loaded base model if it is the one in `source`, whose files may have been exchanged since.
    fn loaded(&self, source: &Source, fingerprint: &str) -> Option<&Arc<BaseModel>> {
        self.base.as_ref().filter(|base| base.source.path() == source.path() && base.fingerprint == fingerprint)
    }

    /// The base model in `source`, read unless it is the loaded one.
    fn base_model(&mut self, source: Source, fingerprint: String) -> Result<Arc<BaseModel>> {
        if let Some(base) = self.loaded(&source, &fingerprint) {
            return Ok(base.clone());
        }
        // Free the old one first: two do not fit into memory on small machines.
        self.base = None;
        self.network = Network::default();
        self.tuned = None;
        self.stopped = None;
        self.reconstruction = None;
        let base = Arc::new(BaseModel::read(source, fingerprint, self.device())?);
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
        let mut network = || self.network.get(&base.source, &device);
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
    base: &BaseModel,
    network: &mut Network,
    e_tgt: &Tensor,
    state: &mut Stopped,
    free_memory: &dyn Fn() -> Option<u64>,
    can_lighten: bool,
    clock: &mut Clock<'_, '_>,
) -> Result<(TunedModel, [Vec<f32>; 2])> {
    // The allocator gives memory of the mode before back only by and by.
    const SETTLING: u32 = 3;
    let Stopped { x, psnr, embedding, unfinished, .. } = state;
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
        let weights = network.get(&base.source, x.device())?;
        *embedding = Some(imagic::optimize_text_embedding(setting, &weights, x, e_tgt, unfinished, watch)?);
    }
    let (e_opt, embedding_losses) = embedding.as_ref().expect("set above").clone();
    let weights = || match setting.mode.trained() {
        Trained::Weights | Trained::WeightsInEightBits => network.take(&base.source, x.device()),
        Trained::Adapters => network.get(&base.source, x.device()),
    };
    let (unet, tuning_losses) = imagic::fine_tune(setting, weights, x, &e_opt, unfinished, watch)?;
    Ok((TunedModel { e_opt, unet, psnr: *psnr }, [embedding_losses, tuning_losses]))
}

/// The hint for a picture that the base model's autoencoder gives back at `psnr` dB, if it needs one.
fn hint(psnr: Option<f64>, familiar_psnr: Option<f64>) -> Option<Hint> {
    let (psnr, familiar_psnr) = (psnr?, familiar_psnr?);
    (psnr < familiar_psnr).then_some(Hint::UnfamiliarPicture { psnr, familiar_psnr })
}
