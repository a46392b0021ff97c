//! The optimization of stages A and B: Adam on the variables, step by step. It may be stopped between two steps and
//! goes on later as if it had not been. Knows no loss.
#![forbid(unsafe_code)]

use super::draw::Draw;
use super::losses;
use super::mode::{Mode, Trained};
use crate::engine::device::{Launches, Precision, RepeatedStep};
use crate::engine::model::conditioning::{Conditioning, POOLED, TOKENS};
use crate::engine::model::lora;
use crate::engine::model::schedule::Schedule;
use crate::engine::model::unet::{UNet, UNetConfig};
use crate::engine::model::weights::Weights;
use crate::engine::ops::MomentBits;
use crate::engine::ops::adam::Adam;
use crate::engine::random::{Purpose, Stream};
use crate::engine::request::{Stage, StepWatch};
use crate::error::{Error, Result};
use crate::params::{OptimizedEmbedding, PARAMS, Params};
use crate::text::{Text, rounded, text};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What stages A and B are carried out with.
pub struct Setting<'a> {
    /// Shape of the network.
    pub config: &'a UNetConfig,
    /// The base model's noise schedule.
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

/// One stage between two steps.
pub struct Training {
    /// The network's weights that stay as they are; none in stage A.
    frozen: Weights,
    variables: BTreeMap<String, Var>,
    adam: Arc<Adam>,
    /// One for each step that is done.
    pub losses: Vec<f32>,
    /// Whether a step failed halfway: some variables have been changed, others not, and nothing goes on from there.
    broken: bool,
}

/// One stage between two steps, as another process has left it.
pub struct Saved {
    /// By the names that the variables have.
    pub variables: BTreeMap<String, Tensor>,
    /// Of each variable, as [`Adam::with_moment`] has given them.
    pub moments: BTreeMap<String, Vec<Vec<f32>>>,
    /// One for each step that is done.
    pub losses: Vec<f32>,
}

impl Training {
    /// Uses up `tensors`: each becomes a variable, in f32, before the next one is copied, so that they never exist
    /// twice.
    fn begin(frozen: Weights, tensors: BTreeMap<String, Tensor>, lr: f64, bits: MomentBits) -> Result<Self> {
        let variable = |(name, tensor): (String, Tensor)| Ok((name, Var::from_tensor(&tensor.to_dtype(DType::F32)?)?));
        let variables: BTreeMap<String, Var> = tensors.into_iter().map(variable).collect::<Result<_>>()?;
        let adam = Arc::new(Adam::new(variables.values().cloned().collect(), lr, bits));
        Ok(Self { frozen, variables, adam, losses: Vec::new(), broken: false })
    }

    /// As [`Training::begin`] where another process has stopped.
    fn go_on(frozen: Weights, saved: Saved, lr: f64, bits: MomentBits) -> Result<Self> {
        let Saved { variables, mut moments, losses } = saved;
        let training = Self { losses, ..Self::begin(frozen, variables, lr, bits)? };
        let steps = training.losses.len();
        for (name, variable) in &training.variables {
            training.adam.restore(steps, variable, moments.remove(name).unwrap_or_default())?;
        }
        Ok(training)
    }

    /// What is trained, by name.
    pub fn variables(&self) -> &BTreeMap<String, Var> {
        &self.variables
    }

    /// What trains it.
    pub fn adam(&self) -> &Adam {
        &self.adam
    }

    /// The network with `tensor` of each variable in it: adapters join the weights, tuned weights take their places.
    fn network(&self, tensor: fn(&Var) -> Tensor) -> Weights {
        let mut weights = self.frozen.clone();
        weights.tensors.extend(self.variables.iter().map(|(name, variable)| (name.clone(), tensor(variable))));
        weights
    }
}

/// One stage while it runs.
pub struct Tuning<'a, 'w> {
    /// What with.
    pub setting: &'a Setting<'a>,
    /// What an earlier run has done of it; the run that fails leaves here what it has done, and the one that ends its
    /// losses.
    pub training: &'a mut Option<Training>,
    /// What another process has done of it.
    pub saved: &'a mut Option<Saved>,
    /// Losses of the same network that came before the stage.
    pub before: &'a [f32],
    /// Told of every step.
    pub watch: &'a mut StepWatch<'w>,
    /// Told after `watch`, unless that has stopped the stage, so that what is done can be kept.
    pub keep: &'a mut dyn FnMut(&Training),
}

impl Tuning<'_, '_> {
    /// The embedding of stage A, which starts as `e_tgt`; its variables are what is [`optimized`] of it.
    pub fn embedding(&mut self, e_tgt: &Conditioning) -> Result<Conditioning> {
        if self.training.is_none() {
            let params = self.setting.params;
            let (lr, bits) = (params.embedding_lr, MomentBits::ThirtyTwo);
            let begin = || optimized(e_tgt, params).map(|(name, part)| (name.to_owned(), part.clone())).collect();
            *self.training = Some(match self.saved.take() {
                Some(saved) => Training::go_on(Weights::default(), saved, lr, bits)?,
                None => Training::begin(Weights::default(), begin(), lr, bits)?,
            });
        }
        let variables = &self.running().variables;
        e_tgt.with(|name, part| Ok(variables.get(name).map_or(part, |variable| variable.as_tensor()).clone()))
    }

    /// The network of stage B, whose weights are the variables and start as `base`; or, where memory is short, those of
    /// adapters to it. `base` is called only for a beginning, or for what adapters belong to. Where all weights are
    /// trained they take its place, and the memory of a second network is saved if nobody else keeps them.
    pub fn network(&mut self, base: impl FnOnce() -> Result<Weights>) -> Result<UNet> {
        let Setting { config, params, mode, precision, .. } = self.setting;
        if self.training.is_none() {
            let (saved, bits) = (self.saved.take(), mode.trained().moments());
            let (weights, adapters) = (params.tuning_lr, lora::RATE * params.tuning_lr);
            *self.training = Some(match (mode.trained(), saved) {
                (Trained::Weights | Trained::WeightsInEightBits, None) => {
                    let mut base = base()?;
                    let tensors = std::mem::take(&mut base.tensors);
                    Training::begin(base, tensors, weights, bits)?
                }
                (Trained::Weights | Trained::WeightsInEightBits, Some(saved)) => {
                    Training::go_on(Weights::default(), saved, weights, bits)?
                }
                (Trained::Adapters, None) => {
                    let base = base()?;
                    let device = base.tensors.values().next().map(Tensor::device).cloned();
                    let tensors = lora::begin(&base, params, &device.unwrap_or(Device::Cpu))?;
                    Training::begin(base, tensors, adapters, bits)?
                }
                (Trained::Adapters, Some(saved)) => Training::go_on(base()?, saved, adapters, bits)?,
            });
        }
        let training = self.running();
        let tracked = training.network(|variable| variable.as_tensor().clone());
        let on_processor = training.variables.values().all(|variable| variable.device().is_cpu());
        // Gradients of adapters are small: kept until the step's end, they let it be stopped anywhere in between. On a
        // GPU a step is short.
        let unet = if mode.trained() == Trained::Adapters && on_processor {
            UNet::new(config, &tracked)?
        } else {
            UNet::trained(config, &tracked, &training.adam)?
        };
        Ok(unet.in_form(precision.training()))
    }

    /// The weights as stage B has left them.
    pub fn tuned(&mut self) -> Weights {
        self.running().network(|variable| variable.as_tensor().detach())
    }

    /// The stage is done: its losses, one a step. Its variables and moments go.
    pub fn end(&mut self) -> Vec<f32> {
        self.training.take().map(|training| training.losses).unwrap_or_default()
    }

    /// Takes the stage's steps down `loss` from where it is: for each a fresh timestep and noise for each item of the
    /// batch, the same ones whether or not it was stopped in between. Unlike in the paper a step may have several
    /// items; their timesteps are spread over the range. `x` is what they are noises for; `unet` is what they are drawn
    /// for.
    pub fn minimize(
        &mut self,
        stage: Stage,
        unet: &UNet,
        x: &Tensor,
        loss: impl Fn(&Draw<'_>) -> Result<(Tensor, GradStore)>,
    ) -> Result<()> {
        let Setting { schedule, params, mode, .. } = self.setting;
        let (steps, timesteps, noise) = match stage {
            Stage::OptimizeTextEmbedding => {
                (params.embedding_steps, Purpose::EmbeddingTimesteps, Purpose::EmbeddingNoise)
            }
            _ => (params.tuning_steps, Purpose::TuningTimesteps, Purpose::TuningNoise),
        };
        let mut shape = x.dims().to_vec();
        shape[0] = params.batch_size as usize;
        let inputs = |step: u32| {
            let stream = |purpose| Stream::new(params.tuning_seed, purpose, step);
            let timesteps = stream(timesteps).timesteps(params.batch_size, schedule.training_timesteps());
            Ok([
                Tensor::from_vec(unet.sinusoids(&timesteps), (timesteps.len(), ()), &Device::Cpu)?,
                Tensor::from_vec(schedule.scales(&timesteps), (2, timesteps.len(), 1, 1, 1), &Device::Cpu)?,
                stream(noise).normals(&shape, &Device::Cpu)?,
            ])
        };
        self.minimize_with(stage, steps, x.device(), inputs, |[sinusoids, scales, noise]| {
            loss(&Draw { schedule, sinusoids, scales, noise, activations: mode.activations() })
        })
    }

    /// The same with other numbers drawn: `inputs` of a step, on the processor, which `loss` gets on `device`.
    pub fn minimize_with<const N: usize>(
        &mut self,
        stage: Stage,
        steps: u32,
        device: &Device,
        inputs: impl Fn(u32) -> Result<[Tensor; N]>,
        loss: impl Fn([&Tensor; N]) -> Result<(Tensor, GradStore)>,
    ) -> Result<()> {
        let ended = self.take_steps(stage, steps, device, inputs, loss);
        if self.training.as_ref().is_some_and(|training| training.broken) {
            *self.training = None;
        }
        ended
    }

    fn take_steps<const N: usize>(
        &mut self,
        stage: Stage,
        steps: u32,
        device: &Device,
        inputs: impl Fn(u32) -> Result<[Tensor; N]>,
        loss: impl Fn([&Tensor; N]) -> Result<(Tensor, GradStore)>,
    ) -> Result<()> {
        let mut repeated = RepeatedStep::new(device, self.setting.launches);
        let done = self.running().losses.len() as u32;
        (self.watch)(stage, done, steps, None)?;
        for step in done..steps {
            let inputs = inputs(step)?;
            let training = self.running();
            training.broken = true;
            training.adam.begin_step()?;
            let taken = repeated.run(inputs.each_ref(), |inputs| training.adam.update(|| loss(inputs)));
            if matches!(taken, Err(Error::Cancelled)) {
                // Stopped in the middle of the step, which is taken anew later.
                training.broken = !training.adam.take_back_step();
            }
            let loss = taken?;
            let loss = loss.to_scalar::<f32>()?;
            training.broken = false;
            training.losses.push(loss);
            let losses = &self.training.as_ref().expect("it runs").losses;
            if let Some([start, now]) = losses::diverged(self.before, losses) {
                // Of no use to anybody: variables and moments go.
                *self.training = None;
                return Err(Error::Diverged(diverged(stage, self.setting.params, step + 1, [start, now])));
            }
            (self.watch)(stage, step + 1, steps, Some(loss))?;
            (self.keep)(self.training.as_ref().expect("it runs"));
        }
        Ok(())
    }

    fn running(&mut self) -> &mut Training {
        self.training.as_mut().expect("`embedding` or `network` has begun it")
    }
}

/// What the user should know of a stage whose loss has gone from `start` to `now`.
fn diverged(stage: Stage, params: &Params, step: u32, [start, now]: [f32; 2]) -> Text {
    let (id, value) = match stage {
        Stage::OptimizeTextEmbedding => ("embedding_lr", params.embedding_lr),
        _ => ("tuning_lr", params.tuning_lr),
    };
    let label = PARAMS.iter().find(|param| param.id == id).map(|param| param.label.clone());
    text!(
        "{stage}: the loss went from {start} to {now} by step {step}, so it was stopped; the value of \"{label}\" is \
         {value}, try a tenth of it",
        stage = stage.label(),
        start = rounded(start.into(), 2),
        now = rounded(now.into(), 2),
        step,
        label = label.unwrap_or_default(),
        value = value
    )
}

/// Parts of the embedding that stage A optimizes, with their names.
pub fn optimized<'a>(e: &'a Conditioning, params: &Params) -> impl Iterator<Item = (&'static str, &'a Tensor)> {
    let pooled = params.optimized_embedding == OptimizedEmbedding::All;
    e.parts().filter(move |(name, _)| *name == TOKENS || (pooled && *name == POOLED))
}
