//! The paper: Imagic (Kawar et al., CVPR 2023), its three stages and nothing else.
//!
//! | code | paper |
//! |---|---|
//! | `x` | x, here as the VAE's latents |
//! | `e_tgt`, `e_opt`, `e_bar` | the embeddings of section 3.2 |
//! | `eta` | eta of formula 3 |
//! | `unet` | f_theta |
//! | `denoising_loss` | L of formula 2 |
#![forbid(unsafe_code)]

use super::checkpoint::{self, Activations, Input};
use super::optimizer::Adam;
use super::random::{Purpose, Stream};
use super::schedule::Schedule;
use super::unet::{UNet, UNetConfig};
use super::weights::Weights;
use super::{Stage, StepWatch};
use crate::error::{Error, Result};
use crate::params::Params;
use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What every stage needs.
pub struct Setting<'a> {
    /// Shape of the network.
    pub config: &'a UNetConfig,
    /// The checkpoint's noise schedule.
    pub schedule: &'a Schedule,
    /// Steps, learning rates, seeds.
    pub params: &'a Params,
    /// How stages A and B get at the intermediate results that gradients need; changes no number.
    pub activations: Activations,
}

/// Stage A: the embedding that makes the frozen network reconstruct `x` best, near `e_tgt`, where it starts.
/// `x`: the picture, one sample of the VAE, scaled, (1, c, h, w); the same one in stage B.
/// Returns e_opt, (1, tokens, d), and the losses.
pub fn optimize_text_embedding(
    setting: &Setting<'_>,
    base: &Weights,
    x: &Tensor,
    e_tgt: &Tensor,
    watch: &mut StepWatch<'_>,
) -> Result<(Tensor, Vec<f32>)> {
    let unet = UNet::new(setting.config, base)?;
    let e = Var::from_tensor(e_tgt)?;
    let params = setting.params;
    let adam = Adam::new(vec![e.clone()], params.embedding_lr);
    let training = Training {
        x,
        stage: Stage::OptimizeTextEmbedding,
        steps: params.embedding_steps,
        adam: &adam,
        timesteps: Purpose::EmbeddingTimesteps,
        noise: Purpose::EmbeddingNoise,
    };
    let losses = train(setting, &training, &unet, e.as_tensor(), watch)?;
    Ok((e.as_tensor().detach(), losses))
}

/// Stage B: the network's weights that reconstruct `x` at `e_opt`, all of them trained, starting from `base`.
/// Returns the tuned weights and the losses; `base` stays as it is, for the next picture.
pub fn fine_tune(
    setting: &Setting<'_>,
    base: &Weights,
    x: &Tensor,
    e_opt: &Tensor,
    watch: &mut StepWatch<'_>,
) -> Result<(Weights, Vec<f32>)> {
    let variable = |(name, tensor): (&String, &Tensor)| Ok((name.clone(), Var::from_tensor(tensor)?));
    let variables: BTreeMap<String, Var> = base.tensors.iter().map(variable).collect::<Result<_>>()?;
    let params = setting.params;
    let adam = Arc::new(Adam::new(variables.values().cloned().collect(), params.tuning_lr));
    let weights = |tensor: fn(&Var) -> Tensor, optimizer| Weights {
        file: base.file.clone(),
        tensors: variables.iter().map(|(name, variable)| (name.clone(), tensor(variable))).collect(),
        optimizer,
    };
    let unet = UNet::new(setting.config, &weights(|variable| variable.as_tensor().clone(), Some(adam.clone())))?;
    let training = Training {
        x,
        stage: Stage::FineTune,
        steps: params.tuning_steps,
        adam: &adam,
        timesteps: Purpose::TuningTimesteps,
        noise: Purpose::TuningNoise,
    };
    let losses = train(setting, &training, &unet, e_opt, watch)?;
    Ok((weights(|variable| variable.as_tensor().detach(), None), losses))
}

/// Formula 3: e_bar = eta e_tgt + (1 - eta) e_opt.
pub fn interpolate(e_tgt: &Tensor, e_opt: &Tensor, eta: f64) -> Result<Tensor> {
    Ok(((e_tgt * eta)? + (e_opt * (1.0 - eta))?)?)
}

/// Stage C: samples latents of `shape`, (1, c, h, w), with DDIM from pure noise, guided from `e_null` (the empty text's embedding) to `e_bar`.
pub fn generate(
    setting: &Setting<'_>,
    unet: &UNet,
    shape: &[usize],
    e_bar: &Tensor,
    e_null: &Tensor,
    watch: &mut StepWatch<'_>,
) -> Result<Tensor> {
    let Setting { schedule, params, .. } = setting;
    let timesteps = schedule.timesteps(params.sampling_steps);
    // Guidance of 1 is the conditional prediction itself; then half of the work is not done.
    let guided = params.guidance != 1.0;
    let e = if guided { Tensor::cat(&[e_null, e_bar], 0)? } else { e_bar.clone() };
    let mut x_t = Stream::new(params.seed, Purpose::Latents, 0).normals(shape, e_bar.device())?;
    watch(Stage::Generate, 0, timesteps.len() as u32, None)?;
    for (step, &t) in timesteps.iter().enumerate() {
        let prediction = if guided {
            let both = unet.forward(&Tensor::cat(&[&x_t, &x_t], 0)?, &[t, t], &e)?;
            let (null, text) = (both.narrow(0, 0, 1)?, both.narrow(0, 1, 1)?);
            (&null + ((text - &null)? * params.guidance)?)?
        } else {
            unet.forward(&x_t, &[t], &e)?
        };
        x_t = schedule.step(&prediction, t, params.sampling_steps, &x_t)?;
        watch(Stage::Generate, step as u32 + 1, timesteps.len() as u32, None)?;
    }
    Ok(x_t)
}

/// What one step of stages A and B looks at.
pub struct Sample<'a> {
    /// The picture x, (1, c, h, w).
    pub x: &'a Tensor,
    /// The embedding, (1, tokens, d).
    pub e: &'a Tensor,
    /// b timesteps t.
    pub timesteps: &'a [u32],
    /// Their noises, (b, c, h, w).
    pub noise: &'a Tensor,
}

/// Formula 2: the mean of (target - prediction)^2, where the target is the noise, or v for a model that predicts v.
/// Returns it with the gradients of the variables in network and embedding.
pub fn denoising_loss(
    schedule: &Schedule,
    unet: &UNet,
    sample: &Sample<'_>,
    activations: Activations,
) -> Result<(Tensor, GradStore)> {
    let &Sample { x, e, timesteps, noise } = sample;
    let (_, tokens, d) = e.dims3()?;
    let e = e.broadcast_as((timesteps.len(), tokens, d))?.contiguous()?;
    let x_t = schedule.add_noise(x, noise, timesteps)?;
    let target = schedule.target(x, noise, timesteps)?;
    let loss = |prediction: &Tensor| Ok((prediction - target)?.sqr()?.mean_all()?);
    checkpoint::backward(unet, &Input { x_t: &x_t, timesteps, e: &e }, activations, loss)
}

/// What differs between stages A and B besides the variables.
struct Training<'a> {
    x: &'a Tensor,
    stage: Stage,
    steps: u32,
    adam: &'a Adam,
    timesteps: Purpose,
    noise: Purpose,
}

/// The loop of stages A and B: Adam on L, a fresh timestep and noise for each item and step.
fn train(
    setting: &Setting<'_>,
    training: &Training<'_>,
    unet: &UNet,
    e: &Tensor,
    watch: &mut StepWatch<'_>,
) -> Result<Vec<f32>> {
    let (Setting { schedule, params, .. }, x) = (setting, training.x);
    let mut losses = Vec::with_capacity(training.steps as usize);
    let mut shape = x.dims().to_vec();
    shape[0] = params.batch_size as usize;
    watch(training.stage, 0, training.steps, None)?;
    for step in 0..training.steps {
        let stream = |purpose| Stream::new(params.tuning_seed, purpose, step);
        let timesteps = stream(training.timesteps).timesteps(params.batch_size, schedule.training_timesteps());
        let noise = stream(training.noise).normals(&shape, x.device())?;
        let sample = Sample { x, e, timesteps: &timesteps, noise: &noise };
        let loss = training.adam.step(|| denoising_loss(schedule, unet, &sample, setting.activations))?;
        let loss = loss.to_scalar::<f32>()?;
        if !loss.is_finite() {
            let stage = training.stage.label();
            return Err(Error::Engine(format!(
                "{stage}: the loss is {loss} at step {}; lower the learning rate",
                step + 1
            )));
        }
        losses.push(loss);
        watch(training.stage, step + 1, training.steps, Some(loss))?;
    }
    Ok(losses)
}
