//! The tuned model of an edit: kept from an earlier one, or made now by stages A and B, which go on where they were
//! stopped and go over to lighter modes where memory runs short.
#![forbid(unsafe_code)]

use super::base::BaseModel;
use super::budget::clock::Clock;
use super::budget::memory::Task;
use super::budget::plan::{Plan, RESERVE};
use super::imagic;
use super::machine::Machine;
use super::model::conditioning::Conditioning;
use super::model::unet::{self, UNet};
use super::request::{EditRequest, StepWatch, Tuned};
use super::store::cache;
use super::store::key::TuningKey;
use super::tuning::mode::{Mode, Trained};
use super::tuning::training::{Setting, Training, Tuning};
use super::tuning::tuned_model::TunedModel;
use crate::error::{Error, Result};
use crate::text::{Text, text};
use candle_core::Tensor;
use std::sync::Arc;

/// The model tuned last, and what a stopped edit has left.
#[derive(Default)]
pub struct TunedModels {
    last: Option<(TuningKey, Arc<TunedModel>)>,
    stopped: Option<(TuningKey, Stopped)>,
}

/// A tuned model for an edit.
pub struct Found {
    /// What it was tuned on.
    pub key: TuningKey,
    /// The model.
    pub model: Arc<TunedModel>,
    /// Where it came from.
    pub origin: Tuned,
    /// Of stages A and B, where they ran.
    pub losses: [Vec<f32>; 2],
}

/// What is there already of a tuned model.
pub struct Progress {
    /// Whether it is there.
    pub tuned: bool,
    /// Steps of stages A and B that are done where it is not.
    pub steps: [u32; 2],
}

/// Stages A and B as far as they have come.
struct Stopped {
    mode: Mode,
    /// The picture x, as latents.
    x: Tensor,
    /// See [`BaseModel::encode`].
    psnr: Option<f64>,
    /// e_opt and the losses of stage A, once it is done.
    embedding: Option<(Conditioning, Vec<f32>)>,
    /// The stage that was stopped.
    training: Option<Training>,
}

impl TunedModels {
    /// The tuned model that is kept for this picture, text, tuning parameters and base model, or one that is tuned now.
    pub fn find_or_make(
        &mut self,
        base: &BaseModel,
        request: &EditRequest,
        e_tgt: &Conditioning,
        machine: &Machine,
        clock: &mut Clock<'_, '_>,
    ) -> Result<Found> {
        let allowed = Mode::allowed(&request.params, machine.chosen());
        let keys = TuningKey::all(request, allowed, &base.fingerprint);
        if let Some((trained, found)) = self.find(&keys, base, machine) {
            clock.notes.extend(trained.note_if_kept(allowed[0].trained()));
            return Ok(found);
        }
        let mut state = self.begin(&keys, base, request, machine, clock)?;
        clock.hint = request.hint(state.psnr);
        let mut losses = [const { Vec::new() }; 2];
        let tuned = in_lighter_modes(&mut state, request, machine, clock, |state, watch| {
            let Stopped { mode, x, psnr, embedding, training } = state;
            let chosen = machine.chosen();
            let setting = &Setting {
                config: &base.shapes.config,
                schedule: &base.schedule,
                params: &request.params,
                mode: *mode,
                launches: chosen.launches,
                precision: chosen.precision,
            };
            let mut tuning = Tuning { setting, training, watch };
            if embedding.is_none() {
                let e_opt = imagic::optimize_text_embedding(&frozen(setting, base, machine)?, x, e_tgt, &mut tuning)?;
                *embedding = Some((e_opt, tuning.end()));
            }
            let (e_opt, embedding_losses) = embedding.as_ref().expect("set above");
            let weights = || match mode.trained() {
                Trained::Weights | Trained::WeightsInEightBits => base.take_network(machine.device()),
                Trained::Adapters => base.network(machine.device()),
            };
            let unet = imagic::fine_tune(weights, x, e_opt, &mut tuning)?;
            losses = [embedding_losses.clone(), tuning.end()];
            Ok(TunedModel { e_opt: e_opt.clone(), unet, psnr: *psnr })
        });
        let of_mode = |(trained, _): &&(Trained, TuningKey)| *trained == state.mode.trained();
        let (_, key) = keys.iter().find(of_mode).expect("there is a key for every allowed mode").clone();
        if matches!(tuned, Err(Error::Cancelled)) {
            self.stopped = Some((key, state));
            return Err(Error::Cancelled);
        }
        let model = Arc::new(tuned?);
        clock.notes.extend(store(&key, &model, request, machine));
        self.last = Some((key.clone(), model.clone()));
        Ok(Found { key, model, origin: Tuned::Now, losses })
    }

    /// What there is for `keys`, in memory or on disk.
    pub fn progress(&self, keys: &[(Trained, TuningKey)], machine: &Machine) -> Progress {
        let asked = |kept: &TuningKey| keys.iter().any(|(_, key)| key == kept);
        let in_memory = self.last.as_ref().is_some_and(|(key, _)| asked(key));
        let folder = machine.options.cache_folder.as_ref();
        let on_disk = || folder.is_some_and(|folder| keys.iter().any(|(_, key)| cache::holds(folder, key)));
        let stopped = self.stopped.as_ref().filter(|(key, _)| asked(key));
        Progress { tuned: in_memory || on_disk(), steps: stopped.map_or([0; 2], |(_, stopped)| stopped.steps()) }
    }

    /// Bytes of what is in memory of `base` and the model tuned last, which goes when another is tuned.
    pub fn held(&self, base: &BaseModel, task: &Task<'_>) -> u64 {
        let network = base.shapes.network_bytes();
        let read = if base.has_network() { network } else { 0 };
        let tuned = if self.last.as_ref().is_some_and(|(_, tuned)| !tuned.has_adapters()) { network } else { 0 };
        base.shapes.model_bytes(task) - network + read + tuned
    }

    /// A tuned model that is kept for one of `keys`, the first one that is; the last one is given up where it is of no
    /// use.
    fn find(&mut self, keys: &[(Trained, TuningKey)], base: &BaseModel, machine: &Machine) -> Option<(Trained, Found)> {
        if let Some((key, model)) = self.last.take()
            && let Some((trained, _)) = keys.iter().find(|(_, asked)| *asked == key)
        {
            self.last = Some((key.clone(), model.clone()));
            return Some((*trained, Found { key, model, origin: Tuned::InMemory, losses: Default::default() }));
        }
        let folder = machine.options.cache_folder.as_ref()?;
        let device = machine.device();
        let (trained, key, model) = keys.iter().find_map(|(trained, key)| {
            let model = cache::find(folder, key, base.shapes.network(), &mut || base.network(device), device)?;
            Some((*trained, key.clone(), Arc::new(model)))
        })?;
        self.last = Some((key.clone(), model.clone()));
        Some((trained, Found { key, model, origin: Tuned::OnDisk, losses: Default::default() }))
    }

    /// Where stages A and B begin: where an edit for one of `keys` was stopped, or at the picture, in the best mode
    /// that memory allows.
    fn begin(
        &mut self,
        keys: &[(Trained, TuningKey)],
        base: &BaseModel,
        request: &EditRequest,
        machine: &Machine,
        clock: &mut Clock<'_, '_>,
    ) -> Result<Stopped> {
        let allowed = Mode::allowed(&request.params, machine.chosen());
        if let Some((_, stopped)) = self.stopped.take().filter(|(kept, _)| keys.iter().any(|(_, key)| key == kept)) {
            // Another mode may be asked for now; the keys say that it trains the same.
            let mode = if allowed.contains(&stopped.mode) { stopped.mode } else { allowed[0] };
            return Ok(Stopped { mode, ..stopped });
        }
        let task = Task { precision: machine.chosen().precision, ..base.shapes.task(request) };
        let plan = Plan::new(&base.shapes, &task, allowed, self.held(base, &task), machine.free_memory())?;
        clock.notes.extend(plan.note()?);
        base.network(machine.device())?;
        let (x, psnr) = base.encode(request, task.size, machine.device())?;
        Ok(Stopped { mode: plan.mode, x, psnr, embedding: None, training: None })
    }
}

impl Stopped {
    /// Steps of stages A and B that are done.
    fn steps(&self) -> [u32; 2] {
        let unfinished = self.training.as_ref().map_or(0, |training| training.losses.len() as u32);
        match &self.embedding {
            Some((_, losses)) => [losses.len() as u32, unfinished],
            None => [unfinished, 0],
        }
    }

    /// Goes over to a mode that takes less memory, if there is one in `allowed`, and keeps what can be kept; tells the
    /// user.
    fn lighten(&mut self, allowed: &[Mode], reason: Text) -> Result<Text> {
        let before = self.mode;
        self.mode = before.lighter(allowed).ok_or_else(|| Error::Memory(reason.clone()))?;
        if self.embedding.is_some() && self.mode.trained() != before.trained() {
            // Stage B, whose weights or moments become others.
            self.training = None;
        }
        Ok(self.mode.note_after(before, reason))
    }
}

/// Does `work`, stages A and B from where `state` is; again in a lighter mode as long as memory runs short and there is
/// one.
fn in_lighter_modes(
    state: &mut Stopped,
    request: &EditRequest,
    machine: &Machine,
    clock: &mut Clock<'_, '_>,
    mut work: impl FnMut(&mut Stopped, &mut StepWatch<'_>) -> Result<TunedModel>,
) -> Result<TunedModel> {
    // The allocator gives memory of the mode before back only by and by.
    const SETTLING: u32 = 3;
    let allowed = Mode::allowed(&request.params, machine.chosen());
    loop {
        clock.tunes_in(&request.params, state.mode);
        let can_lighten = state.mode.lighter(allowed).is_some();
        let mut steps = 0;
        let tuned = work(state, &mut |stage, step, all, loss| {
            clock.step(stage, step, all, loss)?;
            steps += 1;
            match machine.free_memory() {
                Some(free) if free < RESERVE && can_lighten && steps > SETTLING => {
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

/// Keeps `model` on disk, if there is a folder for it; a note where that fails.
fn store(key: &TuningKey, model: &TunedModel, request: &EditRequest, machine: &Machine) -> Option<Text> {
    let folder = machine.options.cache_folder.as_ref()?;
    let stored = cache::store(folder, machine.options.cache_limit, key, request, model);
    stored.err().map(|error| {
        text!("the tuned model is kept only until this program closes: {error}; free some space", error = &error)
    })
}
