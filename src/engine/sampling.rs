//! Stage C of one edit: what the paper's `generate` needs of base and tuned model, the picture as it forms, and which
//! pixels of the layer the edit does not touch.
#![forbid(unsafe_code)]

use super::base::BaseModel;
use super::budget::clock::Clock;
use super::candidates::{Judge, LOOKS};
use super::imagic;
use super::inversion;
use super::machine::Machine;
use super::model::conditioning::Conditioning;
use super::model::guidance::Guided;
use super::model::unet::{self, UNet};
use super::model::weights::Weights;
use super::picture::untouched;
use super::request::{EditRequest, Stage};
use super::store::key::TuningKey;
use super::tuned::Found;
use super::tuning::tuned_model::TunedModel;
use crate::error::Result;
use crate::image::Mask;
use crate::params::{LARGEST_SEED, Params};
use crate::text::text;
use candle_core::Tensor;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// Draws edits; keeps what the last one has found out about its tuned model.
#[derive(Default)]
pub struct Sampler {
    /// The picture at eta 0, which tells what an edit touches.
    reconstruction: Option<(TuningKey, Settings, Tensor)>,
    /// The seed of the version that was chosen among so many, the first of them with the settings.
    choice: Option<(TuningKey, Settings, u32, u32)>,
    /// The picture's own noise, found in so many steps.
    own_noise: Option<(TuningKey, u32, Tensor)>,
}

/// What a picture of a tuned model at one eta depends on.
#[derive(Clone, Copy, PartialEq)]
struct Settings {
    seed: u32,
    guidance: f64,
    steps: u32,
    tuning_share: f64,
    own_noise: f64,
}

impl Settings {
    /// Those of `params`, with another seed.
    fn of(params: &Params, seed: u32) -> Self {
        let &Params { guidance, sampling_steps: steps, tuning_share, own_noise, .. } = params;
        Self { seed, guidance, steps, tuning_share, own_noise }
    }
}

/// What was drawn.
pub struct Drawn {
    /// (1, 3, h, w) from about -1 to 1.
    pub picture: Tensor,
    /// How much it counts where, if the layer's own pixels are to be kept.
    pub mask: Option<Mask>,
    /// Seed of the version that was taken.
    pub seed: u32,
}

/// The eta at which versions are compared: the text in full. It is the same for all edits, so that one with another eta
/// shows the same version.
const ETA_OF_CHOICE: f64 = 1.0;

/// One edit, on its way from noise to pixels.
struct Drawing<'a> {
    base: &'a BaseModel,
    request: &'a EditRequest,
    tuned: &'a TunedModel,
    /// The network that draws, and the share of the tuning in it.
    unet: RefCell<Option<(f64, Rc<UNet>)>>,
    e_tgt: &'a Conditioning,
    e_null: Conditioning,
    /// Of the latents, (1, c, h, w).
    shape: [usize; 4],
    /// The picture's own, where there is to be some of it in the start.
    own_noise: Option<Tensor>,
    /// Steps that are done, of all of them.
    done: Cell<u32>,
    all: u32,
}

impl Sampler {
    /// The picture that `tuned` draws for `request`, whose text is `e_tgt`.
    pub fn draw(
        &mut self,
        base: &BaseModel,
        request: &EditRequest,
        e_tgt: &Conditioning,
        tuned: &Found,
        machine: &Machine,
        clock: &mut Clock<'_, '_>,
    ) -> Result<Drawn> {
        let params = &request.params;
        let is_its_key = |key: &TuningKey| *key == tuned.key;
        let size = base.shapes.size(request);
        let mut drawing = Drawing {
            base,
            request,
            tuned: &tuned.model,
            unet: RefCell::default(),
            e_tgt,
            e_null: base.unconditional(size)?,
            shape: base.latents(size),
            own_noise: None,
            done: Cell::new(0),
            all: self.steps(is_its_key, params),
        };
        clock.samples(drawing.all);
        clock.step(Stage::Generate, 0, drawing.all, None)?;

        if params.own_noise > 0.0 {
            let own = match self.own_noise(is_its_key, params) {
                Some(known) => known.clone(),
                None => drawing.invert(machine, clock)?,
            };
            self.own_noise = Some((tuned.key.clone(), params.sampling_steps, own.clone()));
            drawing.own_noise = Some(own);
        }
        let mut chosen = None;
        let seed = match self.seed(is_its_key, params) {
            Some(seed) => seed,
            None => {
                let (seed, x_edit) = drawing.choose(machine, clock)?;
                let of = Settings::of(params, params.seed);
                self.choice = Some((tuned.key.clone(), of, params.candidates, seed));
                chosen = Some(x_edit);
                seed
            }
        };
        let x_edit = match chosen.filter(|_| params.eta == ETA_OF_CHOICE) {
            Some(x_edit) => x_edit,
            None => drawing.at(params.eta, seed, request.previews, machine, clock)?,
        };
        let picture = base.codec.decode(&x_edit)?;
        let mut mask = None;
        if params.keep_untouched {
            let reconstruction = match self.reconstruction(is_its_key, params, seed) {
                Some(known) => known.clone(),
                None if params.eta == 0.0 => picture.clone(),
                None => base.codec.decode(&drawing.at(0.0, seed, 0, machine, clock)?)?,
            };
            mask = Some(untouched::touched(&picture, &reconstruction, &request.layer)?);
            self.reconstruction = Some((tuned.key.clone(), Settings::of(params, seed), reconstruction));
        }
        if params.candidates > 1 {
            let n = params.candidates;
            clock.notes.push(text!("of {n} versions the one of seed {seed} shows best what the text says", n, seed));
        }
        Ok(Drawn { picture, mask, seed })
    }

    /// Seed of the version that is taken, with the tuned model whose key `is_its_key`; `None` until it was chosen.
    fn seed(&self, is_its_key: impl Fn(&TuningKey) -> bool, params: &Params) -> Option<u32> {
        if params.candidates == 1 {
            return Some(params.seed);
        }
        let (key, settings, n, seed) = self.choice.as_ref()?;
        let is_it = is_its_key(key) && *settings == Settings::of(params, params.seed) && *n == params.candidates;
        is_it.then_some(*seed)
    }

    /// The picture's own noise, if it was found.
    fn own_noise(&self, is_its_key: impl Fn(&TuningKey) -> bool, params: &Params) -> Option<&Tensor> {
        let (key, steps, known) = self.own_noise.as_ref()?;
        (is_its_key(key) && *steps == params.sampling_steps).then_some(known)
    }

    /// The picture at eta 0, with `seed`, if it was drawn.
    fn reconstruction(&self, is_its_key: impl Fn(&TuningKey) -> bool, params: &Params, seed: u32) -> Option<&Tensor> {
        let (key, settings, known) = self.reconstruction.as_ref()?;
        (is_its_key(key) && *settings == Settings::of(params, seed)).then_some(known)
    }

    /// Steps of stage C with the tuned model whose key `is_its_key`, as far as is known before it begins.
    pub fn steps(&self, is_its_key: impl Fn(&TuningKey) -> bool, params: &Params) -> u32 {
        let seed = self.seed(&is_its_key, params);
        let choosing = if seed.is_none() { params.candidates * (params.sampling_steps + LOOKS) } else { 0 };
        let is_drawn = seed.is_none() && params.eta == ETA_OF_CHOICE;
        let is_known = seed.is_some_and(|seed| self.reconstruction(&is_its_key, params, seed).is_some());
        let reconstructs = params.keep_untouched && params.eta != 0.0 && !is_known;
        let inverts = params.own_noise > 0.0 && self.own_noise(&is_its_key, params).is_none();
        choosing + params.sampling_steps * (u32::from(!is_drawn) + u32::from(reconstructs) + u32::from(inverts))
    }
}

impl Drawing<'_> {
    /// The seed of the version that fits the text best, and its latents at [`ETA_OF_CHOICE`]. What the first one is to
    /// be is shown as it forms, and then the best so far.
    fn choose(&self, machine: &Machine, clock: &mut Clock<'_, '_>) -> Result<(u32, Tensor)> {
        let Self { base, request, .. } = self;
        let params = &request.params;
        let untuned = network(base, &base.network(machine.device())?, machine)?;
        let judge = Judge::new(untuned, &base.schedule, [&self.e_null, self.e_tgt], params.tuning_seed)?;
        let mut best: Option<(f64, u32, Tensor)> = None;
        for candidate in 0..params.candidates {
            // Those after the largest seed are the smallest ones.
            let seed = (params.seed + candidate) % (LARGEST_SEED + 1);
            let previews = if candidate == 0 { request.previews } else { 0 };
            let x_edit = self.at(ETA_OF_CHOICE, seed, previews, machine, clock)?;
            let score = judge.score(&x_edit, &mut |_| self.step(clock))?;
            if best.as_ref().is_none_or(|(known, ..)| score > *known) {
                if request.previews > 0 {
                    clock.preview = Some(Arc::new(request.picture(&base.codec.decode(&x_edit)?)?.forming()));
                }
                best = Some((score, seed, x_edit));
            }
        }
        let (_, seed, x_edit) = best.expect("there is at least one version");
        Ok((seed, x_edit))
    }

    /// The latents at `eta`, (1, c, h, w); shows `previews` pictures on the way.
    fn at(&self, eta: f64, seed: u32, previews: u32, machine: &Machine, clock: &mut Clock<'_, '_>) -> Result<Tensor> {
        let Self { base, request, tuned, e_tgt, e_null, shape, .. } = self;
        let params = Params { seed, ..request.params.clone() };
        let unet = self.network(1.0 - (1.0 - params.tuning_share) * eta.min(1.0), machine)?;
        let e_bar = imagic::interpolate(e_tgt, &tuned.e_opt, eta)?;
        let mut guided = Guided::new(&unet, &e_bar, e_null, params.guidance, machine.chosen().launches)?;
        let steps = base.schedule.timesteps(params.sampling_steps).len() as u32;
        let watch = &mut |step: u32, pred_x0: &Tensor| {
            // Spread evenly, none at the end, where the result itself comes.
            let is_due = |step: u32| (step * (previews + 1) / steps).min(previews);
            if previews > 0 && is_due(step) > is_due(step - 1) {
                let picture = request.picture(&base.codec.decode(pred_x0)?)?;
                clock.preview = Some(Arc::new(picture.forming()));
            }
            self.step(clock)
        };
        let Some(own) = &self.own_noise else {
            return imagic::generate(&mut guided, &base.schedule, &params, shape, watch);
        };
        let x_t = inversion::mix(own, &imagic::start(&params, shape, own.device())?, params.own_noise)?;
        let timesteps = base.schedule.timesteps(params.sampling_steps);
        imagic::sample(&mut guided, &base.schedule, (params.sampling_steps, &timesteps), x_t, watch)
    }

    /// The noise from which the tuned model gives the picture back.
    fn invert(&self, machine: &Machine, clock: &mut Clock<'_, '_>) -> Result<Tensor> {
        let Self { base, request, tuned, e_null, .. } = self;
        let x = base.x(request, base.shapes.size(request), machine.device())?;
        base.codec.forget_encoder();
        let unet = self.network(1.0, machine)?;
        let mut plain = Guided::new(&unet, &tuned.e_opt, e_null, 1.0, machine.chosen().launches)?;
        let timesteps = base.schedule.timesteps(request.params.sampling_steps);
        inversion::invert(&mut plain, &base.schedule, &timesteps, x, &mut || self.step(clock))
    }

    /// The network with that share of the tuning; one is kept, since they are large.
    fn network(&self, share: f64, machine: &Machine) -> Result<Rc<UNet>> {
        let mut kept = self.unet.borrow_mut();
        if let Some((_, unet)) = kept.as_ref().filter(|(of, _)| *of == share) {
            return Ok(unet.clone());
        }
        *kept = None;
        let weights = self.tuned.with_share(share, || self.base.network(machine.device()))?;
        let unet = Rc::new(network(self.base, &weights, machine)?);
        *kept = Some((share, unet.clone()));
        Ok(unet)
    }

    /// One step more is done.
    fn step(&self, clock: &mut Clock<'_, '_>) -> Result<()> {
        self.done.set(self.done.get() + 1);
        clock.step(Stage::Generate, self.done.get().min(self.all), self.all, None)
    }
}

/// The network of those `weights`, with half-precision copies of them where the GPU multiplies these and there is room
/// for them.
fn network(base: &BaseModel, weights: &Weights, machine: &Machine) -> Result<UNet> {
    let form = machine.chosen().precision.sampling();
    // If as much memory again is left for everything else.
    let needed = 2 * unet::bytes_in_half_precision(weights);
    let has_room = machine.free_memory().is_none_or(|free| free >= needed);
    let weights = if has_room { unet::with_half_precision(weights, form)? } else { weights.clone() };
    Ok(UNet::new(&base.shapes.config, &weights)?.in_form(form))
}
