//! The paper: Imagic (Kawar et al., CVPR 2023), its three stages and nothing else.
//!
//! | code | paper |
//! |---|---|
//! | `x` | x, here as the VAE's latents |
//! | `e_tgt`, `e_opt`, `e_bar` | the embeddings of section 3.2 |
//! | `eta` | eta of formula 3 |
//! | `unet` | f_theta |
//! | `denoising_loss` | L of formula 2 |
//!
//! Stages A and B minimize the same loss with Adam, without weight decay: [`Tuning`] takes the steps.
#![forbid(unsafe_code)]

use super::model::conditioning::Conditioning;
use super::model::guidance::Predict;
use super::model::schedule::Schedule;
use super::model::unet::UNet;
use super::model::weights::Weights;
use super::ops::mean_square_error;
use super::random::{Purpose, Stream};
use super::request::{SampleWatch, Stage};
use super::tuning::backward::{Input, backward};
use super::tuning::draw::Draw;
use super::tuning::training::Tuning;
use crate::error::Result;
use crate::params::Params;
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};

/// Stage A: the embedding near `e_tgt`, where it starts, with which the frozen network reconstructs `x` best.
/// `x`: the picture, one sample of the VAE, scaled, (1, c, h, w); the same one in stage B. Gives e_opt.
pub fn optimize_text_embedding(
    unet: &UNet,
    x: &Tensor,
    e_tgt: &Conditioning,
    tuning: &mut Tuning<'_, '_>,
) -> Result<Conditioning> {
    let e = tuning.embedding(e_tgt)?;
    tuning.minimize(Stage::OptimizeTextEmbedding, unet, x, |draw| {
        denoising_loss(unet, x, &e.repeat(draw.items())?, draw)
    })?;
    // Without the variables behind it.
    e.map(|part| Ok(part.detach()))
}

/// Stage B: the weights with which the network reconstructs `x` at `e_opt`, all of them trained from `base` on; or,
/// unlike in the paper, `base` with trained adapters. Gives the tuned weights.
pub fn fine_tune(
    base: impl FnOnce() -> Result<Weights>,
    x: &Tensor,
    e_opt: &Conditioning,
    tuning: &mut Tuning<'_, '_>,
) -> Result<Weights> {
    let unet = tuning.network(base)?;
    tuning.minimize(Stage::FineTune, &unet, x, |draw| denoising_loss(&unet, x, &e_opt.repeat(draw.items())?, draw))?;
    Ok(tuning.tuned())
}

/// Formula 2: the mean of (target - prediction)^2 over timesteps and noises, where the target is the noise, or v for a
/// model that predicts v; `e`: an item for each. Gives it with the gradients of the variables behind network and
/// embedding.
pub fn denoising_loss(unet: &UNet, x: &Tensor, e: &Conditioning, draw: &Draw<'_>) -> Result<(Tensor, GradStore)> {
    let (x_t, target) = (draw.noised(x)?, draw.target(x)?);
    let input = Input { x_t: &x_t, sinusoids: draw.sinusoids, e };
    backward(unet, &input, draw.activations, |prediction| Ok(mean_square_error(prediction, &target)?))
}

/// Formula 3: e_bar = eta e_tgt + (1 - eta) e_opt.
pub fn interpolate(e_tgt: &Conditioning, e_opt: &Conditioning, eta: f64) -> Result<Conditioning> {
    e_tgt.zip(e_opt, |e_tgt, e_opt| Ok(((e_tgt * eta)? + (e_opt * (1.0 - eta))?)?))
}

/// Stage C: latents of `shape`, (1, c, h, w), sampled with DDIM from pure noise, as `unet` predicts at e_bar with
/// guidance. `watch` is told after each step, with the clean latents as they look from there.
pub fn generate(
    unet: &mut impl Predict,
    schedule: &Schedule,
    params: &Params,
    shape: &[usize],
    watch: &mut SampleWatch<'_>,
) -> Result<Tensor> {
    let x_t = start(params, shape, unet.device())?;
    let timesteps = schedule.timesteps(params.sampling_steps);
    sample(unet, schedule, (params.sampling_steps, &timesteps), x_t, watch)
}

/// The noise of the seed, latents of `shape`.
pub fn start(params: &Params, shape: &[usize], device: &Device) -> Result<Tensor> {
    Stream::new(params.seed, Purpose::Latents, 0).normals(shape, device)
}

/// DDIM from `x_t`, of the first of `timesteps`, which are the last ones of those of `steps` steps.
pub fn sample(
    unet: &mut impl Predict,
    schedule: &Schedule,
    (steps, timesteps): (u32, &[u32]),
    mut x_t: Tensor,
    watch: &mut SampleWatch<'_>,
) -> Result<Tensor> {
    for (step, &t) in timesteps.iter().enumerate() {
        let next = schedule.step(&unet.predict(&x_t, t)?, t, steps, &x_t)?;
        x_t = next.x_t;
        watch(step as u32 + 1, &next.pred_x0)?;
    }
    Ok(x_t)
}
