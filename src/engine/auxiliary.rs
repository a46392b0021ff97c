//! The paper's other half: the auxiliary model, which enlarges the edit. Section 3.2 tunes it with the same loss as the
//! base model, but conditioned on e_tgt and not on e_opt, so that it keeps those fine details of the layer that the
//! small picture lacks; stage C feeds it e_tgt, too.
//!
//! | stage | code |
//! |---|---|
//! | B, on crops of the layer beside what is left of them in small, at e_tgt | [`fine_tune`] |
//! | C, at e_tgt again, tile by tile on one canvas | [`tiles::Tiled`] for [`imagic::generate`] |
//!
//! The network is a diffusion model like the base model. It sees the small picture, with noise of a level that it is
//! told, beside x_t ([`Enlarger::condition`]): the form of Stable Diffusion's x4 upscaler and, with pixels for latents,
//! of Imagen. There is no model to enlarge the result once more, as Imagen has one that is not tuned.
//!
//! [`imagic::generate`]: super::imagic::generate
#![forbid(unsafe_code)]

pub mod tiles;

use super::imagic::denoising_loss;
use super::model::codec::Codec;
use super::model::conditioning::Conditioning;
use super::model::family::UPSCALER_X4;
use super::model::schedule::Schedule;
use super::model::source::Source;
use super::model::unet::{UNet, UNetConfig};
use super::model::weights::Weights;
use super::random::{Purpose, Stream};
use super::request::Stage;
use super::tuning::draw::Draw;
use super::tuning::training::Tuning;
use crate::error::Result;
use candle_core::{Device, Tensor};

/// A model that enlarges pictures, without its network and its text encoder.
pub struct Enlarger {
    /// Of its network.
    pub config: UNetConfig,
    /// Between the large picture and what the network works on.
    pub codec: Codec,
    /// Noise of the large picture.
    pub schedule: Schedule,
    /// Noise of the small one.
    low_schedule: Schedule,
}

/// The x4 upscaler was trained with noise levels below this one (Stability-AI/stablediffusion,
/// `configs/stable-diffusion/x4-upscaling.yaml`, `max_noise_level`).
pub const LEVELS: u32 = 350;

/// What stage B sees of the layer: crops of it in both sizes, of the same places.
pub struct Crops {
    /// As the network works on them, (n, c, h, w).
    pub large: Tensor,
    /// Pixels from -1 to 1, (n, 3, h, w).
    pub small: Tensor,
}

impl Enlarger {
    /// Of the model in `source`, which enlarges.
    pub fn read(source: &Source, device: &Device) -> Result<Self> {
        let config = UNetConfig::read(source, &UPSCALER_X4)?;
        Ok(Self {
            codec: Codec::read(source, &UPSCALER_X4, device)?,
            schedule: Schedule::read(source.scheduler())?,
            low_schedule: Schedule::read(source.low_res_scheduler())?,
            config,
        })
    }

    /// What the network is conditioned on beside the text `e`, whose items are as many: the `small` picture, (b or 1,
    /// 3, h, w), with `noise`, (b, 3, h, w), of the noise levels that `scales` and `class` stand for.
    pub fn condition(
        &self,
        e: &Conditioning,
        small: &Tensor,
        noise: &Tensor,
        Levels { scales, class }: &Levels,
    ) -> Result<Conditioning> {
        let beside = self.low_schedule.add_noise(small, noise, scales)?;
        Ok(Conditioning { beside: Some(beside), class: Some(class.clone()), ..e.clone() })
    }

    /// Noise levels as `unet` and the schedule take them.
    pub fn levels(&self, unet: &UNet, levels: &[u32], device: &Device) -> Result<Levels> {
        Ok(Levels {
            scales: Tensor::from_vec(self.low_schedule.scales(levels), (2, levels.len(), 1, 1, 1), device)?,
            class: Tensor::from_vec(unet.classes(levels), (levels.len(), ()), device)?,
        })
    }
}

/// Noise levels of a batch of b small pictures.
pub struct Levels {
    /// [`Schedule::scales`], (2, b, 1, 1, 1).
    pub scales: Tensor,
    /// [`UNet::classes`], (b, k).
    pub class: Tensor,
}

/// Stage B of the auxiliary model: the weights, trained from `base` on, with which the network reconstructs crops of
/// the layer from small ones at `e_tgt`.
pub fn fine_tune(
    enlarger: &Enlarger,
    base: impl FnOnce() -> Result<Weights>,
    crops: &Crops,
    e_tgt: &Conditioning,
    tuning: &mut Tuning<'_, '_>,
) -> Result<Weights> {
    let unet = tuning.network(base)?;
    let setting = tuning.setting;
    let (params, schedule, batch) = (setting.params, setting.schedule, setting.params.batch_size);
    let (n, device) = (crops.large.dims()[0] as u32, crops.large.device().clone());
    let inputs = |step: u32| {
        let stream = |purpose| Stream::new(params.tuning_seed, purpose, step);
        let timesteps = stream(Purpose::DetailTimesteps).timesteps(batch, schedule.training_timesteps());
        let levels = enlarger.levels(&unet, &stream(Purpose::DetailLevels).timesteps(batch, LEVELS), &Device::Cpu)?;
        // One place for each step: the items of a batch differ by their noise.
        let place = stream(Purpose::DetailCrops).timesteps(1, n)[0] as usize;
        let of = |all: &Tensor| all.narrow(0, place, 1);
        let noise = |purpose, all: &Tensor| {
            let mut shape = all.dims().to_vec();
            shape[0] = batch as usize;
            stream(purpose).normals(&shape, &Device::Cpu)
        };
        Ok([
            Tensor::from_vec(unet.sinusoids(&timesteps), (timesteps.len(), ()), &Device::Cpu)?,
            Tensor::from_vec(schedule.scales(&timesteps), (2, timesteps.len(), 1, 1, 1), &Device::Cpu)?,
            noise(Purpose::DetailNoise, &crops.large)?,
            levels.scales,
            levels.class,
            noise(Purpose::DetailSmallNoise, &crops.small)?,
            of(&crops.large)?,
            of(&crops.small)?,
        ])
    };
    let e = e_tgt.repeat(batch as usize)?;
    let activations = setting.mode.activations();
    tuning.minimize_with(Stage::FineTune, params.tuning_steps, &device, inputs, |inputs| {
        let [sinusoids, scales, noise, low_scales, class, low_noise, large, small] = inputs;
        let levels = Levels { scales: low_scales.clone(), class: class.clone() };
        let e = enlarger.condition(&e, small, low_noise, &levels)?;
        denoising_loss(&unet, large, &e, &Draw { schedule, sinusoids, scales, noise, activations })
    })?;
    Ok(tuning.tuned())
}
