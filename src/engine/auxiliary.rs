//! The paper's other half: the auxiliary model, which enlarges the edit. Section 3.2 tunes it with the same loss as the
//! base model, but conditioned on e_tgt and not on e_opt, so that it keeps those fine details of the layer that the
//! small picture lacks; stage C feeds it e_tgt, too.
//!
//! | stage | code |
//! |---|---|
//! | B, on crops of the layer beside what is left of them in small, at e_tgt | [`fine_tune`] |
//! | C, at e_tgt again, tile by tile on one canvas | [`tiles::Tiled`] for [`imagic::sample`] |
//!
//! The network is a diffusion model like the base model. It sees the small picture, with noise of a level that it is
//! told, beside x_t ([`Enlarger::condition`]): the form of Stable Diffusion's x4 upscaler and, with pixels for latents,
//! of Imagen. There is no model to enlarge the result once more, as Imagen has one that is not tuned.
//!
//! [`imagic::sample`]: super::imagic::sample
#![forbid(unsafe_code)]

pub mod tiles;

use super::imagic::denoising_loss;
use super::model::conditioning::Conditioning;
use super::model::schedule::Schedule;
use super::model::source::{Part, Source};
use super::model::unet::UNet;
use super::model::weights::Weights;
use super::random::{Purpose, Stream};
use super::request::Stage;
use super::tuning::draw::Draw;
use super::tuning::training::Tuning;
use crate::error::{Error, Result};
use candle_core::{Device, Tensor};

/// How a model that enlarges sees the small picture, and how it draws the large one.
pub struct Enlarger {
    /// What it sees of the small picture.
    pub sees: Sees,
    /// Sides of the large picture are this many times those of the small one.
    pub factor: usize,
    /// It was trained with noise levels of the small picture below this one.
    pub levels: u32,
    /// The noise level while it draws.
    pub level: u32,
    /// Steps of stage C. A model of one step draws from the last timestep alone, and is tuned there.
    pub steps: u32,
    /// Guidance of stage C.
    pub guidance: f64,
    /// Noise of the small picture.
    low_schedule: Schedule,
}

/// What a model that enlarges sees of the small picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sees {
    /// Its pixels, at a place of x_t each, as Stable Diffusion's x4 upscaler does.
    Pixels,
    /// The latents of its plain enlargement, or the pixels where the model works on those, as the one does that
    /// models/train trains for the built-in model.
    Enlarged {
        /// The network does not work on the latents of the large picture but on what those of the plain enlargement
        /// lack, so many times as large: what is there already need not be found again, after Yue et al., "ResShift",
        /// arXiv 2307.12348.
        residual_scale: f64,
    },
}

/// What stage B sees of the layer: crops of it, and of what the network sees of the small picture, of the same places.
pub struct Crops {
    /// As the network works on them, see [`Enlarger::lacking`], (n, c, h, w).
    pub large: Tensor,
    /// What it sees beside them, (n, k, h, w).
    pub seen: Tensor,
}

impl Enlarger {
    /// Of the model in `source`, which enlarges.
    pub fn read(source: &Source) -> Result<Self> {
        let (unet, pipeline) = (source.config(Part::UNet), source.pipeline());
        let channels = |key| unet.value(key).as_u64().unwrap_or_default();
        let sees = if channels("in_channels") == 2 * channels("out_channels") {
            Sees::Enlarged { residual_scale: pipeline.f64("residual_scale", 1.0)? }
        } else {
            Sees::Pixels
        };
        let number = |key, default| Ok::<_, Error>(pipeline.usize(key, Some(default))? as u32);
        Ok(Self {
            factor: match sees {
                Sees::Pixels => 1 << (source.config(Part::Vae).list("block_out_channels", 0, None)?.len() - 1),
                Sees::Enlarged { .. } => 4,
            },
            sees,
            // Stability-AI/stablediffusion, `configs/stable-diffusion/x4-upscaling.yaml`.
            levels: number("max_noise_level", 350)?.max(1),
            // The pipeline of diffusers; its 75 steps are cut to what samplers of today need.
            level: number("noise_level", 20)?,
            guidance: pipeline.f64("guidance_scale", 9.0)?,
            steps: number("sampling_steps", 20)?.max(1),
            low_schedule: Schedule::read(source.low_res_scheduler())?,
        })
    }

    /// What the network is conditioned on beside the text `e`, whose items are as many: what it has `seen` of the small
    /// picture, (b or 1, k, h, w), with `noise`, (b, k, h, w), of the noise levels that `scales` and `class` stand for.
    pub fn condition(
        &self,
        e: &Conditioning,
        seen: &Tensor,
        noise: &Tensor,
        Levels { scales, class }: &Levels,
    ) -> Result<Conditioning> {
        let beside = self.low_schedule.add_noise(seen, noise, scales)?;
        Ok(Conditioning { beside: Some(beside), class: Some(class.clone()), ..e.clone() })
    }

    /// Noise levels as `unet` and the schedule take them.
    pub fn levels(&self, unet: &UNet, levels: &[u32], device: &Device) -> Result<Levels> {
        Ok(Levels {
            scales: Tensor::from_vec(self.low_schedule.scales(levels), (2, levels.len(), 1, 1, 1), device)?,
            class: Tensor::from_vec(unet.classes(levels), (levels.len(), ()), device)?,
        })
    }

    /// Timesteps below `all` for a batch of stage B.
    fn timesteps(&self, stream: Stream, batch: u32, all: u32) -> Vec<u32> {
        match self.steps {
            // The last one, of noise, is all that it ever sees.
            1 => vec![all - 1; batch as usize],
            _ => stream.timesteps(batch, all),
        }
    }

    /// What the network works on where the large picture has the latents `large` and it sees `seen` of the small one.
    pub fn lacking(&self, large: Tensor, seen: &Tensor) -> Result<Tensor> {
        Ok(match self.sees {
            Sees::Pixels => large,
            Sees::Enlarged { residual_scale } => ((large - seen)? * residual_scale)?,
        })
    }

    /// Back from [`Self::lacking`]: the latents of the large picture.
    pub fn complete(&self, lacking: Tensor, seen: &Tensor) -> Result<Tensor> {
        Ok(match self.sees {
            Sees::Pixels => lacking,
            Sees::Enlarged { residual_scale } => ((lacking / residual_scale)? + seen)?,
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
        let timesteps = enlarger.timesteps(stream(Purpose::DetailTimesteps), batch, schedule.training_timesteps());
        let levels = stream(Purpose::DetailLevels).timesteps(batch, enlarger.levels);
        let levels = enlarger.levels(&unet, &levels, &Device::Cpu)?;
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
            noise(Purpose::DetailSmallNoise, &crops.seen)?,
            of(&crops.large)?,
            of(&crops.seen)?,
        ])
    };
    let e = e_tgt.repeat(batch as usize)?;
    let activations = setting.mode.activations();
    tuning.minimize_with(Stage::FineTuneDetail, params.tuning_steps, &device, inputs, |inputs| {
        let [sinusoids, scales, noise, low_scales, class, low_noise, large, seen] = inputs;
        let levels = Levels { scales: low_scales.clone(), class: class.clone() };
        let e = enlarger.condition(&e, seen, low_noise, &levels)?;
        denoising_loss(&unet, large, &e, &Draw { schedule, sinusoids, scales, noise, activations })
    })?;
    Ok(tuning.tuned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::model::config::Config;
    use serde_json::Value;
    use std::path::Path;

    #[test]
    fn a_model_of_one_step_is_tuned_where_it_draws() -> Result<()> {
        let of = |steps| {
            Ok::<_, Error>(Enlarger {
                sees: Sees::Enlarged { residual_scale: 4.0 },
                factor: 4,
                levels: 30,
                level: 0,
                steps,
                guidance: 1.0,
                low_schedule: Schedule::read(&Config::new(Path::new("scheduler"), Value::Null))?,
            })
        };
        let timesteps =
            |steps| Ok::<_, Error>(of(steps)?.timesteps(Stream::new(7u64, Purpose::DetailTimesteps, 0), 4, 1000));
        assert_eq!(timesteps(1)?, [999; 4]);
        let many = timesteps(2)?;
        assert!(many.is_sorted() && many[0] < 250 && many[3] >= 750, "{many:?}");
        Ok(())
    }
}
