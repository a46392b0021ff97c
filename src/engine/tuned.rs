//! The tuned model of an edit: kept from an earlier one, or made now by stages A and B, which go on where they were
//! stopped and go over to lighter modes where memory runs short.
#![forbid(unsafe_code)]

use super::auxiliary::{self, Crops, Enlarger};
use super::base::BaseModel;
use super::budget::clock::Clock;
use super::budget::memory::Task;
use super::budget::plan::{self, Plan};
use super::imagic;
use super::machine::Machine;
use super::model::conditioning::Conditioning;
use super::model::lora;
use super::model::schedule::Prediction;
use super::model::unet::{self, UNet};
use super::request::{EditRequest, Stage, StepWatch, Tuned};
use super::stop;
use super::store::cache::Wanted;
use super::store::difference::{self, Codes};
use super::store::folder::Lock;
use super::store::key::{Keys, TuningKey};
use super::store::resume::{self, Points, State};
use super::store::{cache, entry};
use super::tuning::mode::{Mode, Trained};
use super::tuning::prediction;
use super::tuning::training::{Setting, Tuning};
use super::tuning::tuned_model::TunedModel;
use super::tuning::unfinished::Unfinished;
use crate::error::{Error, Result};
use crate::params::PredictionType;
use crate::text::{Text, rounded, text};
use candle_core::Tensor;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Time between two looks at another program that tunes the same.
const LOOK: Duration = Duration::from_millis(100);

/// The lock that whoever tunes has.
const TURN: &str = "turn";

/// The model tuned last, and what a stopped edit has left. Both go to the disk on threads of their own, so that nobody
/// waits for it; when this is dropped they are there.
#[derive(Default)]
pub struct TunedModels {
    last: Option<(TuningKey, Arc<TunedModel>)>,
    /// The lock of the last one, which has still to be written, and how, where it was rounded.
    unwritten: Option<(Lock, Codes)>,
    writing: Option<JoinHandle<Result<()>>>,
    stopped: Option<Stopped>,
}

/// A tuned model for an edit.
pub struct Found {
    /// What it was tuned on.
    pub key: TuningKey,
    /// The model.
    pub model: Arc<TunedModel>,
    /// Where it came from.
    origin: Tuned,
    /// Of stages A and B, where they ran.
    pub losses: [Vec<f32>; 2],
}

/// What is there already of a tuned model.
#[derive(Default)]
pub struct Progress {
    /// Whether it is there.
    pub tuned: bool,
    /// Steps of stages A and B that are done where it is not.
    pub steps: [u32; 2],
}

/// Stages A and B of an edit that was stopped.
struct Stopped {
    key: TuningKey,
    mode: Mode,
    /// Steps of each that are done.
    steps: [u32; 2],
    /// Them, when they have been written.
    unfinished: JoinHandle<Unfinished>,
}

/// What an edit goes on from, or begins with.
struct Begin<'a> {
    base: &'a BaseModel,
    request: &'a EditRequest,
    e_tgt: &'a Conditioning,
    machine: &'a Machine,
    keys: Keys,
    allowed: &'static [Mode],
    enlarging: Option<&'a Enlarging<'a>>,
}

/// What else stage B of a model that enlarges needs, which is the model of the edit then; it has no stage A.
pub struct Enlarging<'a> {
    /// How it sees the small picture.
    pub enlarger: &'a Enlarger,
    /// What it sees of the layer.
    pub crops: &'a Crops,
    /// Width and height of the large picture that they are of.
    pub size: (usize, usize),
}

impl Enlarging<'_> {
    /// The fingerprint to tell what is tuned of the model of that `fingerprint`.
    pub fn fingerprint(fingerprint: &str, (w, h): (usize, usize)) -> String {
        format!("{fingerprint} for {w}x{h}")
    }
}

impl TunedModels {
    /// The tuned model that is kept for this picture, text, tuning parameters and base model, or one that is tuned now.
    pub fn find_or_make(
        &mut self,
        base: &BaseModel,
        request: &EditRequest,
        e_tgt: &Conditioning,
        enlarging: Option<&Enlarging<'_>>,
        machine: &Machine,
        clock: &mut Clock<'_, '_>,
    ) -> Result<Found> {
        let allowed = Mode::allowed(&request.params, machine.chosen());
        let fingerprint = |with: &Enlarging<'_>| Enlarging::fingerprint(&base.fingerprint, with.size);
        let fingerprint = enlarging.map_or(base.fingerprint.clone(), fingerprint);
        let keys = Keys::of(request, &base.tokens(&request.params.prompt)?, allowed, &fingerprint);
        let begin = Begin { base, request, e_tgt, machine, keys, allowed, enlarging };
        let steps = request.params.embedding_steps + request.params.tuning_steps;
        let (mut state, lock, _turn) = loop {
            if let Some((trained, found)) = self.find(&begin) {
                clock.notes.extend(trained.note_if_kept(allowed[0].trained()));
                clock.tuned(found.origin, enlarging.is_some());
                clock.hint = clock.hint.or(request.hint(found.model.psnr));
                return Ok(found);
            }
            self.wait_for_disk(clock)?;
            // One tuning at a time has all threads, and the memory that a mode is chosen by.
            let turn = if steps > 0 { lock(TURN, machine, clock)? } else { Some(Lock::none()) };
            let Some(turn) = turn else { continue };
            let (mode, note) = self.choose_mode(&begin)?;
            // Until what was tuned is written; then it is looked for again.
            let Some(lock) = lock(begin.key(mode).as_str(), machine, clock)? else { continue };
            clock.notes.extend(note.into_iter().chain(begin.note_without_room(mode)));
            break (self.begin(&begin, mode)?, lock, turn);
        };
        // Kept with the tuned model: measuring again would take longer than stage C with large layers.
        clock.hint = clock.hint.or(request.hint(state.psnr));
        let mut points = Points::new(&machine.options, request);
        let (mut losses, mut codes) = ([const { Vec::new() }; 2], Codes::new());
        let task = base.shapes.task(request, machine.chosen().precision);
        let reserve = |mode| Ok(plan::reserve(base.shapes.needs(&task, mode)?.peak()));
        let tuned = in_lighter_modes(&mut state, &begin, clock, reserve, |state, watch| {
            let Unfinished { mode, x, psnr, embedding, training, saved } = state;
            let (chosen, key) = (machine.chosen(), begin.key(*mode));
            let setting = &Setting {
                config: &base.shapes.config,
                schedule: &base.schedule,
                params: &request.params,
                mode: *mode,
                launches: chosen.launches,
                precision: chosen.precision,
            };
            if embedding.is_none() {
                let unet = frozen(setting, base, machine)?;
                if training.is_none() && saved.is_none() {
                    begin.check_prediction(&unet, x, watch)?;
                }
                let keep = &mut |training: &_| {
                    points.step(key, &State { x, psnr: *psnr, embedding: None, training: Some(training) });
                };
                let mut tuning = Tuning { setting, training, saved, before: &[], watch, keep };
                let e_opt = imagic::optimize_text_embedding(&unet, x, e_tgt, &mut tuning)?;
                *embedding = Some((e_opt, tuning.end()));
            }
            let embedding = embedding.as_ref();
            let keep = &mut |training: &_| {
                points.step(key, &State { x, psnr: *psnr, embedding, training: Some(training) });
            };
            let (e_opt, before) = embedding.expect("set above");
            let mut tuning = Tuning { setting, training, saved, before, watch, keep };
            let weights = || match mode.trained() {
                Trained::Weights | Trained::WeightsInEightBits => base.take_network(machine.device()),
                Trained::Adapters => base.network(machine.device()),
            };
            let mut unet = match enlarging {
                Some(Enlarging { enlarger, crops, .. }) => {
                    auxiliary::fine_tune(enlarger, weights, crops, e_opt, &mut tuning)?
                }
                None => imagic::fine_tune(weights, x, e_opt, &mut tuning)?,
            };
            losses = [before.clone(), tuning.end()];
            if begin.is_rounded(*mode) {
                codes = difference::round(&mut unet, |name| base.network_tensor(name, machine.device()))?;
            }
            Ok(TunedModel { e_opt: e_opt.clone(), unet, psnr: *psnr })
        });
        let key = begin.key(state.mode).clone();
        if matches!(tuned, Err(Error::Cancelled)) || (tuned.is_err() && stop::asked()) {
            self.stopped = Some(Stopped::keep(key, state, request, machine, lock)?);
            return Err(Error::Cancelled);
        }
        if let Err(error @ Error::Diverged(_)) = tuned {
            if let Some(folder) = &machine.options.cache_folder {
                resume::remove(folder, &key);
            }
            if state.embedding.is_some() {
                // What stage A has made serves a tuning with another learning rate.
                let embedding = begin.keys.embedding.clone();
                self.stopped = Some(Stopped::keep(embedding, state, request, machine, lock)?);
            }
            return Err(error);
        }
        let model = Arc::new(tuned?);
        clock.notes.extend(
            points
                .failure()
                .map(|error| text!("stopped, this edit could not go on in another program: {error}", error = &error)),
        );
        self.last = Some((key.clone(), model.clone()));
        // What nothing was tuned of is made again at once.
        self.unwritten = (steps > 0).then_some((lock, codes));
        clock.tuned(Tuned::Now, enlarging.is_some());
        Ok(Found { key, model, origin: Tuned::Now, losses })
    }

    /// Begins to write the model that was tuned last, unless it is on the disk, and if there is a folder for it.
    pub fn write(&mut self, request: &EditRequest, machine: &Machine) -> Result<()> {
        let (Some((lock, codes)), Some((key, model))) = (self.unwritten.take(), self.last.clone()) else {
            return Ok(());
        };
        let Some(folder) = machine.options.cache_folder.clone() else { return Ok(()) };
        let (request, limit) = (request.clone(), machine.options.cache_limit);
        self.writing = Some(in_background(move || {
            let written = cache::store(&folder, limit, &key, &request, (&model, &codes));
            match &written {
                Ok(()) => resume::remove(&folder, &key),
                Err(error) => entry::tell(&not_kept(error)),
            }
            drop(lock);
            written
        })?);
        Ok(())
    }

    /// What there is for `keys`, in memory or on disk.
    pub fn progress(&self, keys: &Keys, machine: &Machine) -> Progress {
        let in_memory = self.last.as_ref().is_some_and(|(key, _)| keys.have(key));
        let folder = machine.options.cache_folder.as_ref();
        let tuned = keys.tuned.iter().map(|(_, key)| key);
        let on_disk = || folder.is_some_and(|folder| tuned.clone().any(|key| cache::holds(folder, key)));
        let stopped = self.stopped.as_ref().filter(|stopped| keys.have(&stopped.key)).map(|stopped| stopped.steps);
        let point =
            |folder: &PathBuf| tuned.clone().chain([&keys.embedding]).find_map(|key| resume::steps(folder, key));
        let elsewhere = folder.and_then(point);
        let steps = stopped.into_iter().chain(elsewhere).max_by_key(|steps| steps[0] + steps[1]);
        Progress { tuned: in_memory || on_disk(), steps: steps.unwrap_or_default() }
    }

    /// Bytes of what is in memory of `base` and the model tuned last, which goes when another is tuned.
    pub fn held(&self, base: &BaseModel, task: &Task<'_>) -> u64 {
        let network = base.shapes.network_bytes();
        let read = if base.has_network() { network } else { 0 };
        let tuned = self.last.as_ref().filter(|(_, tuned)| !tuned.has_adapters());
        let tuned = tuned.map_or(0, |_| base.shapes.tuned_bytes());
        base.shapes.model_bytes(task) - network + read + tuned
    }

    /// A tuned model that is kept for one of the keys, the first one that is; the last one is given up where it is of
    /// no use.
    fn find(&mut self, begin: &Begin<'_>) -> Option<(Trained, Found)> {
        let Begin { base, e_tgt, machine, keys, .. } = begin;
        if let Some((key, model)) = self.last.take()
            && let Some((trained, _)) = keys.tuned.iter().find(|(_, asked)| *asked == key)
        {
            self.last = Some((key.clone(), model.clone()));
            return Some((*trained, Found { key, model, origin: Tuned::InMemory, losses: Default::default() }));
        }
        let folder = machine.options.cache_folder.as_ref()?;
        let device = machine.device();
        let fitting = cache::Fitting { e: e_tgt, network: base.shapes.network(), device };
        let (trained, key, model) = keys.tuned.iter().find_map(|(trained, key)| {
            let network = &mut |wanted| match wanted {
                Wanted::Beside => base.network(device),
                Wanted::Up => base.take_network(device),
            };
            let model = cache::find(folder, key, &fitting, network)?;
            Some((*trained, key.clone(), Arc::new(model)))
        })?;
        self.last = Some((key.clone(), model.clone()));
        Some((trained, Found { key, model, origin: Tuned::OnDisk, losses: Default::default() }))
    }

    /// How to tune, and what the user should know of that: as an edit did that was stopped, or in the best mode that
    /// memory allows.
    fn choose_mode(&self, begin: &Begin<'_>) -> Result<(Mode, Option<Text>)> {
        let Begin { base, request, machine, keys, allowed, .. } = begin;
        if let Some(stopped) = self.stopped.as_ref().filter(|stopped| keys.have(&stopped.key)) {
            // Another mode may be asked for now; the keys say that it trains the same.
            return Ok((if allowed.contains(&stopped.mode) { stopped.mode } else { allowed[0] }, None));
        }
        let task = base.shapes.task(request, machine.chosen().precision);
        let held = self.held(base, &task);
        let plan = |allowed: &[Mode]| Plan::new(&base.shapes, &task, allowed, held, machine.free_memory());
        for (trained, key) in &keys.tuned {
            let folder = machine.options.cache_folder.as_ref();
            if folder.and_then(|folder| resume::steps(folder, key)).is_some() {
                let modes: Vec<Mode> = allowed.iter().copied().filter(|mode| mode.trained() == *trained).collect();
                let plan = plan(&modes)?;
                // Where it does not fit, it is left for another time.
                if let Ok(note) = plan.note() {
                    return Ok((plan.mode, note.or(trained.note_if_kept(allowed[0].trained()))));
                }
            }
        }
        let plan = plan(allowed)?;
        Ok((plan.mode, plan.note()?))
    }

    /// Where stages A and B begin: where an edit was stopped, here or in another program, or at the picture.
    fn begin(&mut self, begin: &Begin<'_>, mode: Mode) -> Result<Unfinished> {
        let Begin { base, request, e_tgt, machine, .. } = begin;
        let (key, folder, device) = (begin.key(mode), machine.options.cache_folder.as_ref(), machine.device());
        let steps = |steps: [u32; 2]| steps[0] + steps[1];
        let elsewhere = folder.and_then(|folder| resume::steps(folder, key)).map_or(0, steps);
        if let Some(stopped) = self.stopped.take()
            // What was stopped of another edit is on the disk and gives its memory back; a thread that panicked has
            // said so.
            && let Ok(unfinished) = stopped.unfinished.join()
            && begin.keys.have(&stopped.key)
            && steps(stopped.steps) >= elsewhere
        {
            return Ok(Unfinished { mode, ..unfinished });
        }
        let size = base.shapes.size(request);
        let (network, mut x) = (base.shapes.network(), base.latents(size));
        if let Some(Enlarging { crops, .. }) = begin.enlarging {
            x.copy_from_slice(crops.large.dims());
        }
        let fitting = resume::Fitting { e: e_tgt, network, params: &request.params, x, device };
        let mut known = [key, &begin.keys.embedding].into_iter();
        let found = folder.and_then(|folder| known.find_map(|key| resume::find(folder, key, mode, &fitting)));
        if let Some(unfinished) = found {
            return Ok(unfinished);
        }
        if let Some(Enlarging { crops, .. }) = begin.enlarging {
            base.network(device)?;
            let embedding = Some(((*e_tgt).clone(), Vec::new()));
            return Ok(Unfinished { mode, x: crops.large.clone(), psnr: None, embedding, training: None, saved: None });
        }
        let (x, psnr) = base.encode(request, size, device)?;
        base.codec.forget_encoder();
        base.network(device)?;
        Ok(Unfinished { mode, x, psnr, embedding: None, training: None, saved: None })
    }

    /// Waits until what was tuned last is on the disk, and what was stopped, which is only there from now on.
    pub fn settle(&mut self) {
        // Whatever failed has been said.
        let _ = self.writing.take().map(JoinHandle::join);
        let _ = self.stopped.take().map(|stopped| stopped.unfinished.join());
    }

    /// Waits for what is being written, so that it and what is tuned now are not in memory at once.
    fn wait_for_disk(&mut self, clock: &mut Clock<'_, '_>) -> Result<()> {
        let is_written = |Stopped { unfinished, .. }: &Stopped| unfinished.is_finished();
        while self.writing.as_ref().is_some_and(|writing| !writing.is_finished())
            || !self.stopped.as_ref().is_none_or(is_written)
        {
            clock.step(Stage::LoadModel, 0, 0, None)?;
            std::thread::sleep(LOOK);
        }
        if let Some(Ok(Err(error))) = self.writing.take().map(JoinHandle::join) {
            clock.notes.push(not_kept(&error));
        }
        Ok(())
    }
}

impl Drop for TunedModels {
    fn drop(&mut self) {
        self.settle();
    }
}

impl Begin<'_> {
    fn key(&self, mode: Mode) -> &TuningKey {
        let of_mode = |(trained, _): &&(Trained, TuningKey)| *trained == mode.trained();
        &self.keys.tuned.iter().find(of_mode).expect("there is a key for every allowed mode").1
    }

    /// Whether only a difference in a few bits is kept of what is tuned in `mode`.
    fn is_rounded(&self, mode: Mode) -> bool {
        let is_large = self.base.shapes.tuned_bytes() > self.machine.options.exact_up_to;
        is_large && !mode.trained().is_adapters()
    }

    /// Refuses a base model that shows to predict something else than its files say, unless the user has said what it
    /// predicts.
    fn check_prediction(&self, unet: &UNet, x: &Tensor, watch: &mut StepWatch<'_>) -> Result<()> {
        let Self { base, request: EditRequest { params, .. }, e_tgt, .. } = self;
        if params.prediction_type != PredictionType::Automatic || params.embedding_steps + params.tuning_steps == 0 {
            return Ok(());
        }
        let go_on = &mut || watch(Stage::OptimizeTextEmbedding, 0, params.embedding_steps, None);
        let found = prediction::mistaken(unet, &base.schedule, (x, e_tgt), params.tuning_seed, go_on)?;
        let Some((other, [loss, otherwise])) = found else { return Ok(()) };
        let names = |prediction| match prediction {
            Prediction::V => PredictionType::V,
            _ => PredictionType::Epsilon,
        };
        Err(Error::model(
            base.source.path(),
            text!(
                "its files say that it predicts {said}, but its loss is {loss} then, and {otherwise} with {other}; set \
                 the prediction type (--prediction-type) to {other}",
                said = names(base.schedule.prediction).name(),
                loss = rounded(loss.into(), 2),
                otherwise = rounded(otherwise.into(), 2),
                other = names(other).name()
            ),
        ))
    }

    /// What the user should know before the time is spent, if what is tuned in `mode` could not be kept.
    fn note_without_room(&self, mode: Mode) -> Option<Text> {
        let Self { base, request, machine, .. } = self;
        let folder = machine.options.cache_folder.as_ref()?;
        let bytes = match mode.trained() {
            _ if self.is_rounded(mode) => difference::bytes(base.shapes.network()),
            Trained::Weights | Trained::WeightsInEightBits => base.shapes.tuned_bytes(),
            Trained::Adapters => {
                let adapters = lora::shapes(base.shapes.network(), &request.params);
                4 * adapters.iter().flatten().map(lora::Shape::elements).sum::<usize>() as u64
            }
        };
        cache::check(folder, machine.options.cache_limit, bytes).err().map(|error| not_kept(&error))
    }
}

impl Stopped {
    /// Begins to write `unfinished`, if there is a folder for it.
    fn keep(
        key: TuningKey,
        unfinished: Unfinished,
        request: &EditRequest,
        machine: &Machine,
        lock: Lock,
    ) -> Result<Self> {
        let (mode, steps) = (unfinished.mode, unfinished.steps());
        let (request, options, of) = (request.clone(), machine.options.clone(), key.clone());
        let unfinished = in_background(move || {
            if let Some(folder) = options.cache_folder.filter(|_| steps != [0; 2])
                && let Err(error) = resume::write(&folder, options.cache_limit, &of, &request, &State::of(&unfinished))
            {
                entry::tell(&Text::verbatim(error.to_string()));
            }
            drop(lock);
            unfinished
        })?;
        Ok(Self { key, mode, steps, unfinished })
    }
}

/// The lock `name` of this user's programs; `None` after another one has had it.
fn lock(name: &str, machine: &Machine, clock: &mut Clock<'_, '_>) -> Result<Option<Lock>> {
    let Some(folder) = machine.options.cache_folder.as_ref() else { return Ok(Some(Lock::none())) };
    let mut had_to_wait = false;
    loop {
        match Lock::of(folder, name) {
            Some(lock) => return Ok((!had_to_wait).then_some(lock)),
            None => {
                clock.step(Stage::Wait, 0, 0, None)?;
                had_to_wait = true;
                std::thread::sleep(LOOK);
            }
        }
    }
}

fn in_background<T: Send + 'static>(write: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    std::thread::Builder::new().name("imagic-disk".into()).spawn(write).map_err(|error| {
        Error::Engine(text!("cannot start a thread: {error}; close other programs and try again", error = &error))
    })
}

/// The note for a tuned model that cannot be written.
fn not_kept(error: &Error) -> Text {
    text!("the tuned model is kept only until this program closes: {error}", error = error)
}

/// Does `work`, stages A and B from where `state` is; again in a lighter mode as long as less than `reserve` of memory
/// is left and there is one.
fn in_lighter_modes(
    state: &mut Unfinished,
    begin: &Begin<'_>,
    clock: &mut Clock<'_, '_>,
    reserve: impl Fn(Mode) -> Result<u64>,
    mut work: impl FnMut(&mut Unfinished, &mut StepWatch<'_>) -> Result<TunedModel>,
) -> Result<TunedModel> {
    // The allocator gives memory of the mode before back only by and by.
    const SETTLING: u32 = 3;
    let Begin { request, machine, allowed, enlarging, .. } = *begin;
    loop {
        clock.tunes_in(&request.params, state.mode, enlarging.is_some());
        let (can_lighten, reserve) = (state.mode.lighter(allowed).is_some(), reserve(state.mode)?);
        let mut steps = 0;
        let tuned = work(state, &mut |stage, step, all, loss| {
            clock.step(stage, step, all, loss)?;
            steps += 1;
            match machine.free_memory() {
                Some(free) if free < reserve && can_lighten && steps > SETTLING => {
                    Err(Error::Memory(text!("{left} MB of memory were left", left = free / 1_000_000)))
                }
                _ => Ok(()),
            }
        });
        match tuned {
            Err(Error::Memory(reason)) => clock.notes.push(state.lighten(allowed, reason)?),
            tuned => return tuned,
        }
    }
}

/// The network of stage A, which is used as it is.
fn frozen(setting: &Setting<'_>, base: &BaseModel, machine: &Machine) -> Result<UNet> {
    let (weights, form) = (base.network(machine.device())?, setting.precision.training());
    // Where stage B trains all weights with moments of f32, these will take more memory than the copies do here.
    let weights = match setting.mode.trained() {
        Trained::Weights => unet::with_half_precision(&weights, form)?,
        // These modes are for little memory.
        Trained::WeightsInEightBits | Trained::Adapters => weights,
    };
    Ok(UNet::new(setting.config, &weights)?.in_form(form))
}
