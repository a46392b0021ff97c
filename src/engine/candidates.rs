//! Which of several versions of an edit shows best what the text says, without another network: the base model, which
//! has not seen the picture, tells how much the text helps it to predict their noise.
//!
//! The paper draws eight seeds and picks by hand. The score is that of Li et al., "Your Diffusion Model is Secretly a
//! Zero-Shot Classifier", ICCV 2023 (arXiv 2303.16203), with the empty text as the other class.
#![forbid(unsafe_code)]

use super::model::conditioning::Conditioning;
use super::model::schedule::Schedule;
use super::model::unet::UNet;
use super::random::{Purpose, Stream};
use crate::error::Result;
use candle_core::{Device, Tensor};

/// Timesteps at which a version is looked at, each with a noise that is the same for all versions. Twelve brought the
/// share of successful edits on an earlier built-in model from 37.5 to 62.5 % (8 seeds, 32 edits), and nothing on
/// today's (docs/BENCHMARK.md).
pub const LOOKS: u32 = 12;

/// The ends of the range over which they are spread, as shares of all timesteps: near its own ends there is nothing but
/// grain or nothing but a guess to predict.
const RANGE: [f64; 2] = [0.1, 0.9];

/// The base model, asked about one text.
pub struct Judge<'a> {
    unet: UNet,
    schedule: &'a Schedule,
    /// Those of the empty text and of the text.
    e: Conditioning,
    seed: u32,
}

impl<'a> Judge<'a> {
    /// The untuned network `unet`, asked about the text of embedding `e_tgt`; `e_null`: that of the empty text. `seed`:
    /// of the noises.
    pub fn new(unet: UNet, schedule: &'a Schedule, [e_null, e_tgt]: [&Conditioning; 2], seed: u32) -> Result<Self> {
        Ok(Self { unet, schedule, e: e_null.and(e_tgt)?, seed })
    }

    /// How well the picture of the latents `x`, (1, c, h, w), fits the text: the mean share of the loss under the empty
    /// text that the text takes away; larger is better. `watch` is told how often it was looked.
    pub fn score(&self, x: &Tensor, watch: &mut dyn FnMut(u32) -> Result<()>) -> Result<f64> {
        let mut score = 0.0;
        for look in 0..LOOKS {
            let t = self.timestep(look);
            let noise = Stream::new(self.seed, Purpose::CandidateNoise, look).normals(x.dims(), x.device())?;
            let scales = Tensor::from_vec(self.schedule.scales(&[t]), (2, 1, 1, 1, 1), x.device())?;
            let x_t = self.schedule.add_noise(x, &noise, &scales)?;
            let target = self.schedule.target(x, &noise, &scales)?;
            let sinusoids = Tensor::from_vec(self.unet.sinusoids(&[t; 2]), (2, ()), &Device::Cpu)?;
            let sinusoids = sinusoids.to_device(x.device())?;
            let both = self.unet.forward(&Tensor::cat(&[&x_t, &x_t], 0)?, &sinusoids, &self.e)?;
            let losses = both.broadcast_sub(&target)?.sqr()?.flatten_from(1)?.mean(1)?.to_vec1::<f32>()?;
            let [without, with] = [losses[0], losses[1]].map(f64::from);
            score += (without - with) / without.max(f64::MIN_POSITIVE) / f64::from(LOOKS);
            watch(look + 1)?;
        }
        Ok(score)
    }

    fn timestep(&self, look: u32) -> u32 {
        let [from, to] = RANGE;
        let share = from + (to - from) * f64::from(look) / f64::from(LOOKS - 1);
        (share * f64::from(self.schedule.training_timesteps())) as u32
    }
}
