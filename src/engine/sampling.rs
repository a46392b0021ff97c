//! Stage C of one edit: what the paper's `generate` needs of base and tuned model, the picture as it forms, and which
//! pixels of the layer the edit does not touch.
#![forbid(unsafe_code)]

use super::base::BaseModel;
use super::budget::clock::Clock;
use super::imagic;
use super::machine::Machine;
use super::model::conditioning::Conditioning;
use super::model::guidance::Guided;
use super::model::unet::{self, UNet};
use super::picture::untouched;
use super::request::{EditRequest, Stage};
use super::store::key::TuningKey;
use super::tuned::Found;
use super::tuning::tuned_model::TunedModel;
use crate::error::Result;
use crate::image::Mask;
use crate::params::Params;
use candle_core::Tensor;
use std::sync::Arc;

/// Draws edits; keeps the picture at eta 0 of the last one, which tells what an edit touches.
#[derive(Default)]
pub struct Sampler {
    reconstruction: Option<(ReconstructionKey, Tensor)>,
}

/// What a picture at eta 0 depends on: tuned model, seed, guidance, steps.
type ReconstructionKey = (TuningKey, u32, u64, u32);

/// One edit, on its way from noise to pixels.
struct Drawing<'a> {
    base: &'a BaseModel,
    request: &'a EditRequest,
    params: &'a Params,
    tuned: &'a TunedModel,
    unet: UNet,
    e_tgt: &'a Conditioning,
    e_null: Conditioning,
    /// Of the latents, (1, c, h, w).
    shape: [usize; 4],
    /// Steps of each sampling, and of all of them.
    steps: u32,
    all_steps: u32,
}

impl Sampler {
    /// The picture that `tuned` draws for `request`, whose text is `e_tgt`, (1, 3, h, w) from about -1 to 1; and how
    /// much it counts where, if the layer's own pixels are to be kept.
    pub fn draw(
        &mut self,
        base: &BaseModel,
        request: &EditRequest,
        e_tgt: &Conditioning,
        tuned: &Found,
        machine: &Machine,
        clock: &mut Clock<'_, '_>,
    ) -> Result<(Tensor, Option<Mask>)> {
        let params = &request.params;
        let key = (tuned.key.clone(), params.seed, params.guidance.to_bits(), params.sampling_steps);
        let mut reconstruction = self.reconstruction.take().filter(|(known, _)| *known == key).map(|(_, known)| known);
        let reconstructs = params.keep_untouched && reconstruction.is_none() && params.eta != 0.0;
        let size = base.shapes.task(request).size;
        let steps = base.schedule.timesteps(params.sampling_steps).len() as u32;
        let drawing = Drawing {
            base,
            request,
            params,
            tuned: &tuned.model,
            unet: network(base, &tuned.model, machine)?,
            e_tgt,
            e_null: base.unconditional(size)?,
            shape: base.latents(size),
            steps,
            all_steps: if reconstructs { 2 * steps } else { steps },
        };
        clock.samples(drawing.all_steps);
        clock.step(Stage::Generate, 0, drawing.all_steps, None)?;
        if reconstructs {
            reconstruction = Some(drawing.at(0.0, 0, 0, machine, clock)?);
        }
        let edited = drawing.at(params.eta, drawing.all_steps - steps, request.previews, machine, clock)?;
        let touched = |reconstruction| untouched::touched(&edited, reconstruction, &request.layer);
        let mask = params.keep_untouched.then(|| touched(reconstruction.as_ref().unwrap_or(&edited))).transpose()?;
        self.reconstruction = reconstruction.map(|reconstruction| (key, reconstruction));
        Ok((edited, mask))
    }
}

impl Drawing<'_> {
    /// The picture at `eta`, (1, 3, h, w), after `done` steps of others; shows `previews` pictures on the way.
    fn at(&self, eta: f64, done: u32, previews: u32, machine: &Machine, clock: &mut Clock<'_, '_>) -> Result<Tensor> {
        let Self { base, params, tuned, unet, e_tgt, e_null, shape, steps, all_steps, .. } = self;
        let e_bar = imagic::interpolate(e_tgt, &tuned.e_opt, eta)?;
        let launches = machine.chosen().launches;
        let mut guided = Guided::new(unet, &e_bar, e_null, params.guidance, launches)?;
        let watch = &mut |step: u32, pred_x0: &Tensor| {
            // Spread evenly, none at the end, where the result itself comes.
            let is_due = |step: u32| (step * (previews + 1) / steps).min(previews);
            if previews > 0 && is_due(step) > is_due(step - 1) {
                let picture = self.request.picture(&base.codec.decode(pred_x0)?)?;
                clock.preview = Some(Arc::new(picture.forming()));
            }
            clock.step(Stage::Generate, done + step, *all_steps, None)
        };
        let x_edit = imagic::generate(&mut guided, &base.schedule, params, shape, watch)?;
        base.codec.decode(&x_edit)
    }
}

/// The tuned network, with half-precision copies of its weights where the GPU multiplies these and there is room for
/// them.
fn network(base: &BaseModel, tuned: &TunedModel, machine: &Machine) -> Result<UNet> {
    let form = machine.chosen().precision.sampling();
    // If as much memory again is left for everything else.
    let needed = 2 * unet::bytes_in_half_precision(&tuned.unet);
    let has_room = machine.free_memory().is_none_or(|free| free >= needed);
    let weights = if has_room { unet::with_half_precision(&tuned.unet, form)? } else { tuned.unet.clone() };
    Ok(UNet::new(&base.shapes.config, &weights)?.in_form(form))
}
