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

use crate::engine::device::{Launches, Place, Precision, Replay};
use crate::engine::model::lora;
use crate::engine::model::schedule::Schedule;
use crate::engine::model::unet::{self, UNet, UNetConfig};
use crate::engine::model::weights::Weights;
use crate::engine::ops;
use crate::engine::ops::MomentBits;
use crate::engine::ops::adam::Adam;
use crate::engine::random::{Purpose, Stream};
use crate::engine::request::{SampleWatch, Stage, StepWatch};
use crate::engine::tuning::backward::{self, Activations, Input};
use crate::engine::tuning::mode::{Mode, Trained};
use crate::error::{Error, Result};
use crate::params::Params;
use crate::text::text;
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What every stage needs.
pub struct Setting<'a> {
    /// Shape of the network.
    pub config: &'a UNetConfig,
    /// The checkpoint's noise schedule.
    pub schedule: &'a Schedule,
    /// Steps, learning rates, seeds.
    pub params: &'a Params,
    /// What stage B trains, and how both get at the intermediate results that gradients need, which changes no number.
    pub mode: Mode,
    /// How a GPU is told what to do, which changes no number either.
    pub launches: Launches,
    /// What the device computes in.
    pub precision: Precision,
}

/// Stage A or B between two steps. One that was stopped goes on from here as if it had not been.
pub struct Training {
    /// Where the network comes from, for messages.
    file: PathBuf,
    /// Weights of the network that stay as they are.
    frozen: BTreeMap<String, Tensor>,
    variables: BTreeMap<String, Var>,
    adam: Arc<Adam>,
    /// One for each step that is done.
    losses: Vec<f32>,
    /// Whether a step failed halfway: some variables have been changed, others not, and nothing goes on from there.
    broken: bool,
}

impl Training {
    /// Uses up `tensors`: each becomes a variable before the next one is copied, so that they never exist twice.
    fn begin(frozen: Weights, tensors: BTreeMap<String, Tensor>, lr: f64, bits: MomentBits) -> Result<Self> {
        let variable = |(name, tensor): (String, Tensor)| Ok((name, Var::from_tensor(&tensor)?));
        let variables: BTreeMap<String, Var> = tensors.into_iter().map(variable).collect::<Result<_>>()?;
        let adam = Arc::new(Adam::new(variables.values().cloned().collect(), lr, bits));
        let Weights { file, tensors: frozen } = frozen;
        Ok(Self { file, frozen, variables, adam, losses: Vec::new(), broken: false })
    }

    /// The network with `tensor` of each variable in it: adapters join the weights, tuned weights take their places.
    fn network(&self, tensor: fn(&Var) -> Tensor) -> Weights {
        let mut tensors = self.frozen.clone();
        tensors.extend(self.variables.iter().map(|(name, variable)| (name.clone(), tensor(variable))));
        Weights { file: self.file.clone(), tensors }
    }

    /// Steps that are done.
    pub fn steps(&self) -> u32 {
        self.losses.len() as u32
    }
}

/// Stage A: the embedding that makes the frozen network reconstruct `x` best, near `e_tgt`, where it starts.
/// `x`: the picture, one sample of the VAE, scaled, (1, c, h, w); the same one in stage B.
/// Goes on from `unfinished`, and leaves there what was done if it fails. Returns e_opt, (1, tokens, d), and the losses.
pub fn optimize_text_embedding(
    setting: &Setting<'_>,
    base: &Weights,
    x: &Tensor,
    e_tgt: &Tensor,
    unfinished: &mut Option<Training>,
    watch: &mut StepWatch<'_>,
) -> Result<(Tensor, Vec<f32>)> {
    const E: &str = "e";
    let params = setting.params;
    let form = setting.precision.training();
    // Where stage B trains all weights with moments of f32, these will take more memory than the copies do here.
    let factors = match setting.mode.trained() {
        Trained::Weights => unet::with_half_precision(base, form)?,
        // There memory is short.
        Trained::WeightsInEightBits | Trained::Adapters => base.clone(),
    };
    let unet = UNet::new(setting.config, &factors)?.in_form(form);
    let mut training = match unfinished.take() {
        Some(training) => training,
        None => {
            let e = BTreeMap::from([(E.to_owned(), e_tgt.clone())]);
            let frozen = Weights { tensors: BTreeMap::new(), ..base.clone() };
            Training::begin(frozen, e, params.embedding_lr, MomentBits::ThirtyTwo)?
        }
    };
    let plan = Plan {
        x,
        stage: Stage::OptimizeTextEmbedding,
        steps: params.embedding_steps,
        timesteps: Purpose::EmbeddingTimesteps,
        noise: Purpose::EmbeddingNoise,
    };
    let e = training.variables[E].as_tensor().clone();
    if let Err(error) = train(setting, &plan, &unet, &e, &mut training, watch) {
        *unfinished = Some(training).filter(|training| !training.broken);
        return Err(error);
    }
    Ok((e.detach(), training.losses))
}

/// Stage B: the network's weights that reconstruct `x` at `e_opt`, all of them trained, starting from `base`; or, unlike in the
/// paper, `base` with trained adapters, where memory is short.
/// Goes on from `unfinished`, and leaves there what was done if it fails. Returns the tuned weights and the losses. `base` is
/// called only for a beginning; where all weights are trained they become the tuned ones, and the memory of a second network is
/// saved if nobody else keeps them.
pub fn fine_tune(
    setting: &Setting<'_>,
    base: impl FnOnce() -> Result<Weights>,
    x: &Tensor,
    e_opt: &Tensor,
    unfinished: &mut Option<Training>,
    watch: &mut StepWatch<'_>,
) -> Result<(Weights, Vec<f32>)> {
    let params = setting.params;
    let mut training = match unfinished.take() {
        Some(training) => training,
        None => {
            let mut base = base()?;
            let trained = setting.mode.trained();
            match trained {
                Trained::Weights | Trained::WeightsInEightBits => {
                    let weights = std::mem::take(&mut base.tensors);
                    Training::begin(base, weights, params.tuning_lr, trained.moments())?
                }
                Trained::Adapters => {
                    let adapters = lora::begin(&base, params, x.device())?;
                    Training::begin(base, adapters, lora::RATE * params.tuning_lr, trained.moments())?
                }
            }
        }
    };
    let tracked = training.network(|variable| variable.as_tensor().clone());
    let unet = UNet::trained(setting.config, &tracked, &training.adam)?.in_form(setting.precision.training());
    let plan = Plan {
        x,
        stage: Stage::FineTune,
        steps: params.tuning_steps,
        timesteps: Purpose::TuningTimesteps,
        noise: Purpose::TuningNoise,
    };
    if let Err(error) = train(setting, &plan, &unet, e_opt, &mut training, watch) {
        *unfinished = Some(training).filter(|training| !training.broken);
        return Err(error);
    }
    Ok((training.network(|variable| variable.as_tensor().detach()), training.losses))
}

/// Formula 3: e_bar = eta e_tgt + (1 - eta) e_opt.
pub fn interpolate(e_tgt: &Tensor, e_opt: &Tensor, eta: f64) -> Result<Tensor> {
    Ok(((e_tgt * eta)? + (e_opt * (1.0 - eta))?)?)
}

/// Stage C: samples latents of `shape`, (1, c, h, w), with DDIM from pure noise, guided from `e_null` (the empty text's embedding) to `e_bar`.
/// `watch` is told after each step, with the clean latents as they look from there.
pub fn generate(
    setting: &Setting<'_>,
    unet: &UNet,
    shape: &[usize],
    e_bar: &Tensor,
    e_null: &Tensor,
    watch: &mut SampleWatch<'_>,
) -> Result<Tensor> {
    let Setting { schedule, params, .. } = setting;
    let timesteps = schedule.timesteps(params.sampling_steps);
    // Guidance of 1 is the conditional prediction itself; then half of the work is not done.
    let guided = params.guidance != 1.0;
    let e = if guided { Tensor::cat(&[e_null, e_bar], 0)? } else { e_bar.clone() };
    let items = if guided { 2 } else { 1 };
    // What the network reads and makes lies at places, so that a GPU can do a step from its recording.
    let mut x_t = Stream::new(params.seed, Purpose::Latents, 0).normals(shape, e_bar.device())?;
    let (input, prediction) = (Place::new(shape, x_t.device())?, Place::new(shape, x_t.device())?);
    let sinusoids = Place::new((items, unet.sinusoids(&[0]).len()), x_t.device())?;
    let mut replay = Replay::new(x_t.device(), setting.launches);
    for (step, &t) in timesteps.iter().enumerate() {
        input.copy(&x_t)?;
        sinusoids.write(&unet.sinusoids(&vec![t; items]))?;
        replay.run(|| {
            let x_t = input.tensor();
            prediction.copy(&if guided {
                let both = unet.forward(&Tensor::cat(&[x_t, x_t], 0)?, sinusoids.tensor(), &e)?;
                let (null, text) = (both.narrow(0, 0, 1)?, both.narrow(0, 1, 1)?);
                (&null + ((text - &null)? * params.guidance)?)?
            } else {
                unet.forward(x_t, sinusoids.tensor(), &e)?
            })
        })?;
        let next = schedule.step(prediction.tensor(), t, params.sampling_steps, &x_t)?;
        x_t = next.x_t;
        watch(step as u32 + 1, &next.pred_x0)?;
    }
    Ok(x_t)
}

/// b timesteps t as network and schedule take them, at places of a device's memory, where others can follow them.
pub struct Timesteps<'a> {
    schedule: &'a Schedule,
    unet: &'a UNet,
    /// (b, d)
    sinusoids: Place,
    /// (2, b, 1, 1, 1)
    scales: Place,
}

impl<'a> Timesteps<'a> {
    /// Memory for `b` of them.
    pub fn new(schedule: &'a Schedule, unet: &'a UNet, b: usize, device: &Device) -> Result<Self> {
        let sinusoids = Place::new((b, unet.sinusoids(&[0]).len()), device)?;
        Ok(Self { schedule, unet, sinusoids, scales: Place::new((2, b, 1, 1, 1), device)? })
    }

    /// From here on they are these.
    pub fn set(&self, timesteps: &[u32]) -> Result<()> {
        self.sinusoids.write(&self.unet.sinusoids(timesteps))?;
        self.scales.write(&self.schedule.scales(timesteps))
    }
}

/// What one step of stages A and B looks at.
pub struct Sample<'a> {
    /// The picture x, (1, c, h, w).
    pub x: &'a Tensor,
    /// The embedding, (1, tokens, d).
    pub e: &'a Tensor,
    /// b timesteps t.
    pub timesteps: &'a Timesteps<'a>,
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
    let &Sample { x, e, timesteps: Timesteps { sinusoids, scales, .. }, noise } = sample;
    let e = e.repeat((noise.dims()[0], 1, 1))?;
    let x_t = schedule.add_noise(x, noise, scales.tensor())?;
    let target = schedule.target(x, noise, scales.tensor())?;
    let loss = |prediction: &Tensor| Ok(ops::mean_square_error(prediction, &target)?);
    backward::backward(unet, &Input { x_t: &x_t, sinusoids: sinusoids.tensor(), e: &e }, activations, loss)
}

/// What differs between stages A and B besides the variables.
struct Plan<'a> {
    x: &'a Tensor,
    stage: Stage,
    steps: u32,
    timesteps: Purpose,
    noise: Purpose,
}

/// The loop of stages A and B: Adam on L, a fresh timestep and noise for each item and step, the same ones whether or not it
/// was stopped in between. Unlike in the paper a step may have several items; their timesteps are spread over the range.
fn train(
    setting: &Setting<'_>,
    plan: &Plan<'_>,
    unet: &UNet,
    e: &Tensor,
    training: &mut Training,
    watch: &mut StepWatch<'_>,
) -> Result<()> {
    let (Setting { schedule, params, .. }, x) = (setting, plan.x);
    let mut shape = x.dims().to_vec();
    shape[0] = params.batch_size as usize;
    // What a step reads and makes lies at places, so that a GPU can do it from its recording.
    let timesteps = Timesteps::new(schedule, unet, shape[0], x.device())?;
    let (noise, loss) = (Place::new(shape.as_slice(), x.device())?, Place::new(1, x.device())?);
    let sample = Sample { x, e, timesteps: &timesteps, noise: noise.tensor() };
    let mut replay = Replay::new(x.device(), setting.launches);
    let done = training.steps();
    watch(plan.stage, done, plan.steps, None)?;
    for step in done..plan.steps {
        let stream = |purpose| Stream::new(params.tuning_seed, purpose, step);
        timesteps.set(&stream(plan.timesteps).timesteps(params.batch_size, schedule.training_timesteps()))?;
        noise.write(&stream(plan.noise).normal_numbers(shape.iter().product()))?;
        training.broken = true;
        training.adam.begin_step()?;
        replay.run(|| {
            let denoising_loss = || denoising_loss(schedule, unet, &sample, setting.mode.activations());
            loss.copy(&training.adam.update(denoising_loss)?.reshape(1)?)
        })?;
        let loss = loss.tensor().to_vec1::<f32>()?[0];
        training.broken = false;
        if !loss.is_finite() {
            let stage = plan.stage.label();
            return Err(Error::Engine(text!(
                "{stage}: the loss is {loss} at step {step}; lower the learning rate",
                stage,
                loss,
                step = step + 1
            )));
        }
        training.losses.push(loss);
        watch(plan.stage, step + 1, plan.steps, Some(loss))?;
    }
    Ok(())
}
