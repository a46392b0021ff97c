//! The noise from which the tuned model gives the picture back: DDIM run backwards (Song et al., arXiv 2010.02502,
//! section 4.3). Not in the paper, which starts from noise of the seed alone: a start that knows the picture keeps its
//! layout and what the text leaves alone (docs/BENCHMARK.md).
#![forbid(unsafe_code)]

use super::model::guidance::Predict;
use super::model::schedule::Schedule;
use crate::error::Result;
use candle_core::Tensor;

/// From the clean latents `x`, (1, c, h, w), to the largest of `timesteps`, as `unet` predicts. `watch` is told after
/// each step.
pub fn invert(
    unet: &mut impl Predict,
    schedule: &Schedule,
    timesteps: &[u32],
    mut x: Tensor,
    watch: &mut dyn FnMut() -> Result<()>,
) -> Result<Tensor> {
    let mut before = 0;
    for &t in timesteps.iter().rev() {
        x = schedule.step_back(&unet.predict(&x, before)?, before, t, &x)?;
        before = t;
        watch()?;
    }
    Ok(x)
}

/// Noise with that share of `own` noise in it, from 0 to 1; the rest is `noise`. It stays of variance 1.
pub fn mix(own: &Tensor, noise: &Tensor, share: f64) -> Result<Tensor> {
    Ok(((own * share)? + (noise * (1.0 - share * share).sqrt())?)?)
}
