//! Between pixels and what the U-Net works on: the latents of a variational autoencoder (VAE).
#![forbid(unsafe_code)]

use crate::engine::model::family::Family;
use crate::engine::model::source::{Part, Source};
use crate::engine::model::trace::{Size, Trace};
use crate::engine::model::vae::{Gaussian, Vae};
use crate::engine::model::weights::Weights;
use crate::error::Result;
use candle_core::{Device, Tensor};

/// Pixels to latents and back. The U-Net's latents are those of the VAE minus `shift_factor`, times `scaling_factor`,
/// so that they have about unit variance.
pub struct Codec {
    vae: Vae,
    scaling_factor: f64,
    shift_factor: f64,
    /// Channels of the latents; 4 for SD.
    pub channels: usize,
    /// Side of a latent's square in pixels; 8 for SD.
    pub downsampling: usize,
}

impl Codec {
    /// Reads the autoencoder of `source`.
    pub fn read(source: &Source, family: &Family, device: &Device) -> Result<Self> {
        Self::new(source, family, &source.tensors(Part::Vae, device)?)
    }

    /// With the autoencoder of `source` over `weights`.
    pub fn new(source: &Source, family: &Family, weights: &Weights) -> Result<Self> {
        let config = source.config(Part::Vae);
        config.require("latents_mean", &[])?;
        config.require("latents_std", &[])?;
        let vae = Vae::new(config, weights)?;
        Ok(Self {
            scaling_factor: config.f64("scaling_factor", family.scaling_factor)?,
            shift_factor: config.f64("shift_factor", 0.0)?,
            channels: vae.latent_channels,
            downsampling: vae.downsampling,
            vae,
        })
    }

    /// The distribution of the VAE's latents of `pixels`: (b, 3, h, w) from -1 to 1, sides multiples of `downsampling`.
    pub fn encode(&self, pixels: &Tensor) -> Result<Gaussian> {
        self.vae.encode(pixels)
    }

    /// One sample x of `latents`, as the U-Net takes them, (b, channels, h, w); `noise`: standard normal, of that
    /// shape.
    pub fn sample(&self, latents: &Gaussian, noise: &Tensor) -> Result<Tensor> {
        let std = (&latents.logvar * 0.5)?.exp()?;
        let sample = (&latents.mean + (std * noise)?)?;
        Ok(((sample - self.shift_factor)? * self.scaling_factor)?)
    }

    /// Latents as the U-Net makes them, (b, channels, h, w), to pixels from about -1 to 1, (b, 3, h, w).
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        self.vae.decode(&((latents / self.scaling_factor)? + self.shift_factor)?)
    }

    /// Counts what [`Codec::encode`] needs for pixels of that shape.
    pub fn trace_encode(&self, pixels: Size, trace: &mut Trace) {
        self.vae.trace_encode(pixels, trace);
    }

    /// Counts what [`Codec::decode`] needs for latents of that shape.
    pub fn trace_decode(&self, latents: Size, trace: &mut Trace) {
        self.vae.trace_decode(latents, trace);
    }
}
