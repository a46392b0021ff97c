//! What one step of stages A and B draws, timesteps and noises, and how they make noisy pictures of the picture.
#![forbid(unsafe_code)]

use super::backward::Activations;
use crate::engine::model::schedule::Schedule;
use crate::error::Result;
use candle_core::Tensor;

/// b timesteps t with a noise each.
pub struct Draw<'a> {
    /// What makes noisy pictures of them.
    pub schedule: &'a Schedule,
    /// The timesteps as the network takes them, (b, d):
    /// [`UNet::sinusoids`](crate::engine::model::unet::UNet::sinusoids).
    pub sinusoids: &'a Tensor,
    /// The timesteps as the schedule takes them, (2, b, 1, 1, 1): [`Schedule::scales`].
    pub scales: &'a Tensor,
    /// The noises, (b, c, h, w).
    pub noise: &'a Tensor,
    /// What happens to intermediate results until the backward pass; changes no number.
    pub activations: Activations,
}

impl Draw<'_> {
    /// x_t of the picture `x`, (1, c, h, w): `x` with each of the noises at its timestep, (b, c, h, w).
    pub fn noised(&self, x: &Tensor) -> Result<Tensor> {
        self.schedule.add_noise(x, self.noise, self.scales)
    }

    /// What the network should predict of them: the noises, or v for a model that predicts v, (b, c, h, w).
    pub fn target(&self, x: &Tensor) -> Result<Tensor> {
        self.schedule.target(x, self.noise, self.scales)
    }

    /// How many there are.
    pub fn items(&self) -> usize {
        self.noise.dims()[0]
    }
}
