//! The noise schedule and the DDIM sampler (Song et al., ICLR 2021), deterministic, as in diffusers' DDIMScheduler.
//!
//! | code | DDIM paper | DDPM paper |
//! |---|---|---|
//! | `alphas_cumprod[t]` | alpha_t | alpha-bar_t |
//! | `x_t` | x_t | x_t |
//! | `noise` | epsilon | epsilon |
//! | `pred_x0` | predicted x_0, formula 9 | - |
//! | `step` | formula 12 with sigma_t = 0 | - |
#![forbid(unsafe_code)]

use crate::engine::model::config::Config;
use crate::engine::ops::{self, Sign};
use crate::error::Result;
use crate::text::text;
use candle_core::Tensor;
use serde_json::{Value, json};
use std::f64::consts::FRAC_PI_2;

/// What the network predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// The noise (SD 1.x).
    Epsilon,
    /// v = sqrt(alpha) noise - sqrt(1 - alpha) x (SD 2.x at 768 px, the built-in model).
    V,
    /// The picture x.
    Sample,
}

/// How the betas lie between the first and the last one.
#[derive(Clone, Copy, Debug)]
enum Betas {
    Linear,
    /// Their square roots lie evenly.
    ScaledLinear,
    /// Those of a squared cosine, whatever the first and the last one (Nichol and Dhariwal, ICML 2021).
    SquaredCosine,
}

/// Where sampling puts its timesteps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spacing {
    Leading,
    Trailing,
    Linspace,
}

/// The checkpoint's noise schedule.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Share of the picture's power in x_t at each training timestep, from almost 1 down to almost 0; the rest is
    /// noise.
    pub alphas_cumprod: Vec<f64>,
    /// What the network predicts.
    pub prediction: Prediction,
    /// The same after the last sampling step.
    final_alpha_cumprod: f64,
    spacing: Spacing,
    steps_offset: u32,
    /// The predicted x_0 is clamped to this size, if to any.
    clip_sample: Option<f64>,
}

/// What one DDIM step gives.
pub struct Step {
    /// The latents at the next, smaller timestep.
    pub x_t: Tensor,
    /// The clean latents as they look from here.
    pub pred_x0: Tensor,
}

impl Schedule {
    /// Reads a scheduler's configuration, whatever scheduler it was written for.
    pub fn read(config: &Config) -> Result<Self> {
        config.require("thresholding", &[json!(false)])?;
        let mut alphas_cumprod: Vec<f64> = betas(config)?
            .into_iter()
            .scan(1.0, |product, beta| {
                *product *= 1.0 - beta;
                Some(*product)
            })
            .collect();
        if config.bool("rescale_betas_zero_snr", false) {
            // Lin et al., arXiv 2305.08891, algorithm 1: nothing of the picture is left at the last timestep.
            let (first, last) = (alphas_cumprod[0].sqrt(), alphas_cumprod[alphas_cumprod.len() - 1].sqrt());
            let shifted = |alpha: f64| ((alpha.sqrt() - last) * (first / (first - last))).powi(2);
            alphas_cumprod = alphas_cumprod.into_iter().map(shifted).collect();
        }
        if !alphas_cumprod.iter().all(|alpha| (0.0..1.0).contains(alpha)) {
            return Err(config.error(text!("its betas give no noise schedule; each must lie between 0 and 1")));
        }
        let predictions =
            [("epsilon", Prediction::Epsilon), ("v_prediction", Prediction::V), ("sample", Prediction::Sample)];
        let spacings =
            [("leading", Spacing::Leading), ("trailing", Spacing::Trailing), ("linspace", Spacing::Linspace)];
        // Unlike DDIMScheduler's own default, an absent clip_sample is false: files written for other schedulers lack
        // it, and latents have no limit.
        let clip_sample = config.bool("clip_sample", false);
        Ok(Self {
            final_alpha_cumprod: if config.bool("set_alpha_to_one", true) { 1.0 } else { alphas_cumprod[0] },
            clip_sample: if clip_sample { Some(config.f64("clip_sample_range", 1.0)?) } else { None },
            steps_offset: config.usize("steps_offset", Some(0))? as u32,
            alphas_cumprod,
            prediction: config.choice("prediction_type", &predictions)?,
            spacing: config.choice("timestep_spacing", &spacings)?,
        })
    }

    /// Whether nothing of the picture is left at the last timestep.
    pub fn ends_in_noise(&self) -> bool {
        self.alphas_cumprod.last() == Some(&0.0)
    }

    /// Number of training timesteps.
    pub fn training_timesteps(&self) -> u32 {
        self.alphas_cumprod.len() as u32
    }

    /// The timesteps of `steps` sampling steps, largest first.
    pub fn timesteps(&self, steps: u32) -> Vec<u32> {
        let n = self.training_timesteps();
        let steps = steps.min(n);
        let last = n - 1;
        match self.spacing {
            Spacing::Leading => (0..steps).rev().map(|i| (i * (n / steps) + self.steps_offset).min(last)).collect(),
            Spacing::Trailing => {
                let ratio = f64::from(n) / f64::from(steps);
                (0..steps).map(|i| (f64::from(n) - f64::from(i) * ratio).round_ties_even() as u32 - 1).collect()
            }
            Spacing::Linspace if steps == 1 => vec![0],
            Spacing::Linspace => {
                let at = |i: u32| f64::from(last) * f64::from(i) / f64::from(steps - 1);
                (0..steps).rev().map(|i| at(i).round_ties_even() as u32).collect()
            }
        }
    }

    /// Square roots of alpha-bar, then of 1 - alpha-bar, at each of b timesteps: the elements of a tensor
    /// (2, b, 1, 1, 1).
    pub fn scales(&self, timesteps: &[u32]) -> Vec<f32> {
        let alphas = || timesteps.iter().map(|&t| self.alphas_cumprod[t as usize]);
        alphas().map(|alpha| alpha.sqrt() as f32).chain(alphas().map(|alpha| (1.0 - alpha).sqrt() as f32)).collect()
    }

    /// x_t of `x`, (1, c, h, w), at b timesteps; `noise`: (b, c, h, w), `scales`: [`Schedule::scales`] of the
    /// timesteps.
    pub fn add_noise(&self, x: &Tensor, noise: &Tensor, scales: &Tensor) -> Result<Tensor> {
        Ok(ops::weighted_sum(scales, x, Sign::Plus, noise)?)
    }

    /// What the network should predict, (b, c, h, w): `noise`, v or `x`. Arguments as in [`Schedule::add_noise`].
    pub fn target(&self, x: &Tensor, noise: &Tensor, scales: &Tensor) -> Result<Tensor> {
        match self.prediction {
            Prediction::Epsilon => Ok(noise.clone()),
            Prediction::V => Ok(ops::weighted_sum(scales, noise, Sign::Minus, x)?),
            Prediction::Sample => Ok(x.broadcast_as(noise.shape())?.contiguous()?),
        }
    }

    /// One of `steps` DDIM steps, from timestep `t` to the next smaller one; `prediction` is the network's at `x_t`.
    pub fn step(&self, prediction: &Tensor, t: u32, steps: u32, x_t: &Tensor) -> Result<Step> {
        let previous = t.checked_sub(self.training_timesteps() / steps.min(self.training_timesteps()));
        let alpha_previous = previous.map_or(self.final_alpha_cumprod, |t| self.alphas_cumprod[t as usize]);
        let (mut pred_x0, noise) = self.parts(prediction, t, x_t)?;
        if let Some(limit) = self.clip_sample {
            // As in DDIMScheduler, the noise stays that of the picture before.
            pred_x0 = pred_x0.clamp(-limit, limit)?;
        }
        let x_t = ((&pred_x0 * alpha_previous.sqrt())? + (noise * (1.0 - alpha_previous).sqrt())?)?;
        Ok(Step { x_t, pred_x0 })
    }

    /// A DDIM step backwards: x_t at timestep `to`, which is larger than `t`; `prediction` is the network's at `x_t`.
    pub fn step_back(&self, prediction: &Tensor, t: u32, to: u32, x_t: &Tensor) -> Result<Tensor> {
        let (pred_x0, noise) = self.parts(prediction, t, x_t)?;
        let alpha = self.alphas_cumprod[to as usize];
        Ok(((pred_x0 * alpha.sqrt())? + (noise * (1.0 - alpha).sqrt())?)?)
    }

    /// The clean latents and the noise in `x_t`, as the network predicts them.
    fn parts(&self, prediction: &Tensor, t: u32, x_t: &Tensor) -> Result<(Tensor, Tensor)> {
        let alpha = self.alphas_cumprod[t as usize];
        let (signal, rest) = (alpha.sqrt(), (1.0 - alpha).sqrt());
        Ok(match self.prediction {
            Prediction::Epsilon => (((x_t - (prediction * rest)?)? / signal)?, prediction.clone()),
            Prediction::V => (((x_t * signal)? - (prediction * rest)?)?, ((prediction * signal)? + (x_t * rest)?)?),
            Prediction::Sample => (prediction.clone(), ((x_t - (prediction * signal)?)? / rest)?),
        })
    }
}

/// Share of noise that each training timestep adds.
fn betas(config: &Config) -> Result<Vec<f64>> {
    if let Value::Array(trained) = config.value("trained_betas") {
        let betas: Option<Vec<f64>> = trained.iter().map(Value::as_f64).collect();
        return betas
            .filter(|betas| betas.len() > 1)
            .ok_or_else(|| config.error(text!("{key} must list at least two numbers", key = "trained_betas")));
    }
    let n = config.at_least(2, "num_train_timesteps", 1000)?;
    // diffusers' defaults; Stable Diffusion's files say 0.00085 and 0.012.
    let (start, end) = (config.f64("beta_start", 0.0001)?, config.f64("beta_end", 0.02)?);
    let linspace = |from: f64, to: f64, i: usize| from + (to - from) * i as f64 / (n - 1) as f64;
    let schedules = [
        ("linear", Betas::Linear),
        ("scaled_linear", Betas::ScaledLinear),
        ("squaredcos_cap_v2", Betas::SquaredCosine),
    ];
    let schedule = config.choice("beta_schedule", &schedules)?;
    let alpha_bar = |i: usize| ((i as f64 / n as f64 + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
    let beta = |i: usize| match schedule {
        Betas::Linear => linspace(start, end, i),
        Betas::ScaledLinear => linspace(start.sqrt(), end.sqrt(), i).powi(2),
        Betas::SquaredCosine => (1.0 - alpha_bar(i + 1) / alpha_bar(i)).min(0.999),
    };
    Ok((0..n).map(beta).collect())
}
