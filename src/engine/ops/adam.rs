//! Adam (Kingma and Ba, ICLR 2015) without weight decay, in one pass over each variable.
//!
//! A variable is updated the moment its gradient is known, in the middle of the backward pass: nothing in Imagic needs
//! all gradients at once, and together they are as large as the network.
//!
//! candle-nn's only Adam is AdamW, whose weight decay defaults to 0.01 and which skips a variable that has no gradient.
#![forbid(unsafe_code)]

use super::moments::MomentBits;
use super::values::with_values;
use crate::engine::device::Place;
use crate::engine::stop;
use crate::error::{Error, Result};
use crate::text::Text;
use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, CudaStorage, InplaceOp1, Layout, Tensor, TensorId, Var, bail};
use rayon::prelude::*;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

/// Decay of the first moment (the paper's beta_1, and PyTorch's default).
pub(super) const BETA_1: f32 = 0.9;
/// Decay of the second moment.
pub(super) const BETA_2: f32 = 0.999;
/// Added to the root of the second moment.
pub(super) const EPS: f32 = 1e-8;

/// Some variables and their moments.
pub struct Adam {
    lr: f64,
    /// Behind a lock because the operations of a backward pass share it; only one of them runs at a time.
    state: Mutex<State>,
}

struct State {
    step: i32,
    /// Backward passes, each of which updates all variables; a replayed step has none.
    pass: u64,
    /// On a GPU: a static buffer with the step's size and the root of the second bias, which a replayed step reads.
    sizes: Option<Place>,
    variables: HashMap<TensorId, Variable>,
}

struct Variable {
    variable: Var,
    moments: Moments,
    /// The pass that updated it last.
    updated: u64,
}

enum Moments {
    Cpu {
        first: Vec<f32>,
        second: Vec<f32>,
    },
    /// One buffer for each moment, or one for both in 8 bits; none before the first step.
    Gpu {
        bits: MomentBits,
        buffers: Vec<CudaStorage>,
    },
}

impl Moments {
    /// The processor keeps f32.
    fn of(variable: &Var, bits: MomentBits) -> Self {
        if variable.device().is_cuda() {
            return Self::Gpu { bits, buffers: Vec::new() };
        }
        let zeros = || vec![0.0; variable.elem_count()];
        Self::Cpu { first: zeros(), second: zeros() }
    }
}

impl Adam {
    /// Moments start at zero.
    pub fn new(variables: Vec<Var>, lr: f64, bits: MomentBits) -> Self {
        let with_moments = |variable: Var| {
            let moments = Moments::of(&variable, bits);
            (variable.as_tensor().id(), Variable { variable, moments, updated: 0 })
        };
        let variables = variables.into_iter().map(with_moments).collect();
        Self { lr, state: Mutex::new(State { step: 0, pass: 0, sizes: None, variables }) }
    }

    /// Counts a step, which [`Adam::update`] then takes.
    pub fn begin_step(&self) -> Result<()> {
        let state = &mut *self.state();
        state.step += 1;
        let device = state.variables.values().next().map(|Variable { variable, .. }| variable.device());
        if let Some(device) = device.filter(|device| device.is_cuda()) {
            let buffer = match state.sizes.take() {
                Some(buffer) => buffer,
                None => Place::new(2, device)?,
            };
            buffer.write(&<[f32; 2]>::from(sizes(self.lr, state.step)))?;
            state.sizes = Some(buffer);
        }
        Ok(())
    }

    /// One step down from the loss whose gradients `backward` computes; gives back the loss. A variable without a
    /// gradient is an error: something cut the graph.
    pub fn update(&self, backward: impl FnOnce() -> Result<(Tensor, GradStore)>) -> Result<Tensor> {
        self.state().pass += 1;
        let updated = self.update_by(backward);
        stop::release();
        updated
    }

    fn update_by(&self, backward: impl FnOnce() -> Result<(Tensor, GradStore)>) -> Result<Tensor> {
        let (loss, gradients) = backward()?;
        let state = &mut *self.state();
        // Those that no operation handed over.
        for variable in state.variables.values_mut().filter(|variable| variable.updated < state.pass) {
            let Some(gradient) = gradients.get(&variable.variable) else {
                let shape = variable.variable.dims();
                return Err(Error::Engine(Text::verbatim(format!("a variable of shape {shape:?} got no gradient"))));
            };
            variable.update_by(gradient, self.lr, state.step, state.sizes.as_ref())?;
            variable.updated = state.pass;
        }
        Ok(loss)
    }

    /// Takes back a step that was begun and has changed no variable yet; whether that is so.
    pub fn take_back_step(&self) -> bool {
        let state = &mut *self.state();
        let is_untouched = state.variables.values().all(|variable| variable.updated < state.pass);
        state.step -= i32::from(is_untouched);
        is_untouched
    }

    /// How many numbers each of the moments of `variable` has; none before the first step on a GPU.
    pub fn moments(&self, variable: &Var) -> Vec<usize> {
        let state = self.state();
        match &state.variables[&variable.as_tensor().id()].moments {
            Moments::Cpu { first, second } => vec![first.len(), second.len()],
            Moments::Gpu { buffers, bits } => match buffers.len() {
                0 => Vec::new(),
                1 => vec![bits.numbers(variable.elem_count())],
                _ => vec![variable.elem_count(); 2],
            },
        }
    }

    /// Calls `f` with the numbers of one of the moments of `variable`, which [`Adam::restore`] takes back.
    pub fn with_moment<R>(&self, variable: &Var, moment: usize, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
        let state = self.state();
        Ok(match &state.variables[&variable.as_tensor().id()].moments {
            Moments::Cpu { first, second } => f([first, second][moment]),
            Moments::Gpu { buffers, .. } => f(buffers[moment].to_cpu_storage()?.as_slice::<f32>()?),
        })
    }

    /// Goes on after `steps` steps, which have left `variable` with these moments; to be called for each variable.
    pub fn restore(&self, steps: usize, variable: &Var, moments: Vec<Vec<f32>>) -> Result<()> {
        let state = &mut *self.state();
        state.step = steps as i32;
        match &mut state.variables.get_mut(&variable.as_tensor().id()).expect("it is one of them").moments {
            Moments::Cpu { first, second } => {
                [*first, *second] = moments.try_into().expect("whoever kept them has kept two");
            }
            Moments::Gpu { buffers, .. } => {
                let device = variable.device().as_cuda_device()?;
                let buffer = |values| device.storage_from_cpu_storage_owned(CpuStorage::F32(values));
                *buffers = moments.into_iter().map(buffer).collect::<candle_core::Result<_>>()?;
            }
        }
        Ok(())
    }

    /// Whether `parameter` is one of the variables.
    pub fn trains(&self, parameter: &Tensor) -> bool {
        self.state().variables.contains_key(&parameter.id())
    }

    /// Uses up the gradient of one of the variables.
    pub fn take(&self, parameter: &Tensor, gradient: &[f32]) -> candle_core::Result<()> {
        let state = &mut *self.state();
        let step = state.step;
        state.take(parameter)?.update(gradient, self.lr, step)
    }

    /// As [`Adam::take`] for a gradient that is a tensor, on a GPU.
    pub fn take_tensor(&self, parameter: &Tensor, gradient: &Tensor) -> candle_core::Result<()> {
        let state = &mut *self.state();
        let (step, sizes) = (state.step, state.sizes.clone());
        state.take(parameter)?.update_by(gradient, self.lr, step, sizes.as_ref())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds this lock")
    }
}

impl State {
    /// A variable that is updated now.
    fn take(&mut self, parameter: &Tensor) -> candle_core::Result<&mut Variable> {
        match self.variables.get_mut(&parameter.id()) {
            Some(variable) if variable.updated < self.pass => {
                variable.updated = self.pass;
                Ok(variable)
            }
            Some(_) => bail!("a parameter that is used twice, or outside of a step, cannot be updated at once"),
            None => bail!("this parameter is none of the variables"),
        }
    }
}

impl Variable {
    fn update(&mut self, gradient: &[f32], lr: f64, step: i32) -> candle_core::Result<()> {
        // From the first variable on the step is taken to its end.
        stop::hold();
        let (size, root_of_bias_2) = sizes(lr, step);
        let pass = Step { size, root_of_bias_2, gradient, moments: Mutex::new(&mut self.moments) };
        self.variable.inplace_op1(&pass)
    }

    /// Where the gradient lies, there the variable must be; `sizes` is for a GPU.
    fn update_by(&mut self, gradient: &Tensor, lr: f64, step: i32, sizes: Option<&Place>) -> candle_core::Result<()> {
        if !gradient.device().is_cuda() {
            return with_values([gradient], |[gradient]| self.update(gradient, lr, step));
        }
        let (Moments::Gpu { bits, buffers }, Some(sizes)) = (&mut self.moments, sizes) else {
            bail!("a variable on the CPU has a gradient on the GPU")
        };
        let (gradient, sizes) = (&gradient.contiguous()?, sizes.tensor());
        self.variable.inplace_op1(&StepOnGpu { gradient, sizes, bits: *bits, moments: Mutex::new(buffers) })
    }
}

/// The step's size and the root by which the second moment's is divided: both correct moments that start at zero.
fn sizes(lr: f64, step: i32) -> (f32, f32) {
    let bias = |beta: f32| 1.0 - f64::from(beta).powi(step);
    ((lr / bias(BETA_1)) as f32, bias(BETA_2).sqrt() as f32)
}

struct Step<'a> {
    size: f32,
    root_of_bias_2: f32,
    gradient: &'a [f32],
    /// Behind a lock only because candle lends the operation immutably.
    moments: Mutex<&'a mut Moments>,
}

impl InplaceOp1 for Step<'_> {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn cpu_fwd(&self, p: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        const CHUNK: usize = 16 << 10;
        let (Some((start, end)), CpuStorage::F32(p)) = (layout.contiguous_offsets(), p) else {
            bail!("only contiguous variables of f32 are trained")
        };
        let (p, g) = (&mut p[start..end], self.gradient);
        let mut moments = self.moments.lock().expect("no thread panics while it holds this lock");
        let Moments::Cpu { first, second } = &mut **moments else {
            bail!("a variable on the CPU has moments on the GPU")
        };
        let chunks = p.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK));
        chunks.zip(first.par_chunks_mut(CHUNK)).zip(second.par_chunks_mut(CHUNK)).for_each(|(((p, g), m), v)| {
            // Compiled for this processor's vector instructions; see `ops`.
            pulp::Arch::new().dispatch(
                #[inline(always)]
                || {
                    for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                        *m = BETA_1 * *m + (1.0 - BETA_1) * g;
                        *v = BETA_2 * *v + (1.0 - BETA_2) * g * g;
                        *p -= self.size * *m / (v.sqrt() / self.root_of_bias_2 + EPS);
                    }
                },
            );
        });
        Ok(())
    }
}

/// A step of one variable on a GPU.
struct StepOnGpu<'a> {
    gradient: &'a Tensor,
    sizes: &'a Tensor,
    bits: MomentBits,
    /// Behind a lock only because candle lends the operation immutably.
    moments: Mutex<&'a mut Vec<CudaStorage>>,
}

impl InplaceOp1 for StepOnGpu<'_> {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
        bail!("a variable on the CPU has moments on the GPU")
    }

    fn cuda_fwd(&self, p: &mut CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        let moments = &mut **self.moments.lock().expect("no thread panics while it holds this lock");
        Adam::step_on_gpu((p, layout), [self.gradient, self.sizes], self.bits, moments)
    }
}

/// With CUDA it is in `gpu/adam.rs`.
#[cfg(not(feature = "cuda"))]
impl Adam {
    fn step_on_gpu(
        _: (&mut CudaStorage, &Layout),
        _: [&Tensor; 2],
        _: MomentBits,
        _: &mut Vec<CudaStorage>,
    ) -> candle_core::Result<()> {
        bail!("it was built without CUDA")
    }
}
