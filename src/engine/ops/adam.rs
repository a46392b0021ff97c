//! Adam (Kingma and Ba, ICLR 2015) without weight decay, in one pass over each variable.
//!
//! A variable is updated the moment its gradient is known, in the middle of the backward pass: nothing in Imagic needs all
//! gradients at once, and together they are as large as the network.
//!
//! candle-nn's only Adam is AdamW, whose weight decay defaults to 0.01 and which skips a variable that has no gradient.
#![forbid(unsafe_code)]

#[cfg(feature = "cuda")]
use super::gpu;
use super::moments::MomentBits;
use super::values::with_values;
#[cfg(feature = "cuda")]
use crate::engine::device::Place;
use crate::error::{Error, Result};
use crate::text::Text;
use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, InplaceOp1, Layout, Tensor, TensorId, Var, bail};
use rayon::prelude::*;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

/// Decay of the first moment (the paper's beta_1, and PyTorch's default).
const BETA_1: f32 = 0.9;
/// Decay of the second moment.
const BETA_2: f32 = 0.999;
/// Added to the root of the second moment.
const EPS: f32 = 1e-8;

/// Some variables and their moments.
pub struct Adam {
    lr: f64,
    /// Behind a lock because the operations of a backward pass share it; only one of them runs at a time.
    state: Mutex<State>,
}

struct State {
    step: i32,
    /// Passes over the variables, each of which updates all of them; a step that is replayed takes none.
    pass: u64,
    /// On a GPU: the step's size and the root of the second bias.
    #[cfg(feature = "cuda")]
    numbers: Option<Place>,
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
    #[cfg(feature = "cuda")]
    Gpu(gpu::Moments),
}

impl Moments {
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "the processor keeps f32"))]
    fn of(variable: &Var, bits: MomentBits) -> Self {
        #[cfg(feature = "cuda")]
        if variable.device().is_cuda() {
            return Self::Gpu(gpu::Moments::None(bits));
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
        let state = State {
            step: 0,
            pass: 0,
            #[cfg(feature = "cuda")]
            numbers: None,
            variables,
        };
        Self { lr, state: Mutex::new(state) }
    }

    /// Counts a step, which [`Adam::update`] then takes.
    pub fn begin_step(&self) -> Result<()> {
        let state = &mut *self.state();
        state.step += 1;
        #[cfg(feature = "cuda")]
        if let Some(Variable { variable, .. }) = state.variables.values().next()
            && variable.device().is_cuda()
        {
            let numbers = match state.numbers.take() {
                Some(numbers) => numbers,
                None => Place::new(2, variable.device())?,
            };
            let (size, root_of_bias_2) = sizes(self.lr, state.step);
            numbers.write(&[size, root_of_bias_2])?;
            state.numbers = Some(numbers);
        }
        Ok(())
    }

    /// One step down from the loss whose gradients `backward` computes; gives back the loss. A variable without a
    /// gradient is an error: something cut the graph.
    pub fn update(&self, backward: impl FnOnce() -> Result<(Tensor, GradStore)>) -> Result<Tensor> {
        self.state().pass += 1;
        let (loss, gradients) = backward()?;
        let state = &mut *self.state();
        // Those that no operation handed over.
        for variable in state.variables.values_mut().filter(|variable| variable.updated < state.pass) {
            let Some(gradient) = gradients.get(&variable.variable) else {
                let shape = variable.variable.dims();
                return Err(Error::Engine(Text::verbatim(format!("a variable of shape {shape:?} got no gradient"))));
            };
            #[cfg(feature = "cuda")]
            if gradient.device().is_cuda() {
                let gradient = gradient.contiguous()?;
                variable.update_on_gpu(gpu::Held::of(&gradient).view()?, state.numbers.as_ref())?;
                variable.updated = state.pass;
                continue;
            }
            with_values(gradient, |gradient| variable.update(gradient, self.lr, state.step))?;
            variable.updated = state.pass;
        }
        Ok(loss)
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

    /// As [`Adam::take`] for a gradient in the GPU's memory.
    #[cfg(feature = "cuda")]
    pub(super) fn take_on_gpu(&self, parameter: &Tensor, gradient: gpu::Values<'_>) -> candle_core::Result<()> {
        let state = &mut *self.state();
        let numbers = state.numbers.clone();
        state.take(parameter)?.update_on_gpu(gradient, numbers.as_ref())
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
        let (size, root_of_bias_2) = sizes(lr, step);
        let pass = Step { size, root_of_bias_2, gradient, moments: Mutex::new(&mut self.moments) };
        self.variable.inplace_op1(&pass)
    }

    #[cfg(feature = "cuda")]
    fn update_on_gpu(&mut self, gradient: gpu::Values<'_>, numbers: Option<&Place>) -> candle_core::Result<()> {
        let (Moments::Gpu(moments), Some(numbers)) = (&mut self.moments, numbers) else {
            bail!("a variable on the CPU has a gradient on the GPU")
        };
        let step = gpu::AdamStep { beta_1: BETA_1, beta_2: BETA_2, eps: EPS };
        gpu::adam(&self.variable, [gradient, gpu::Held::of(numbers.tensor()).view()?], moments, step)
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
            bail!("only variables of f32 that lie in a row are trained")
        };
        let (p, g) = (&mut p[start..end], self.gradient);
        let mut moments = self.moments.lock().expect("no thread panics while it holds this lock");
        let (first, second) = match &mut **moments {
            Moments::Cpu { first, second } => (first, second),
            #[cfg(feature = "cuda")]
            Moments::Gpu(_) => bail!("a variable on the CPU has moments on the GPU"),
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
