//! Adam (Kingma and Ba, ICLR 2015) without weight decay, in one pass over each variable.
//!
//! candle-nn's only Adam is AdamW, whose weight decay defaults to 0.01 and which skips a variable that has no gradient.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, InplaceOp2, Layout, Var, bail};
use rayon::prelude::*;
use std::sync::Mutex;

/// Decay of the first moment (the paper's beta_1, and PyTorch's default).
const BETA_1: f32 = 0.9;
/// Decay of the second moment.
const BETA_2: f32 = 0.999;
/// Added to the root of the second moment.
const EPS: f32 = 1e-8;

/// The moments of some variables.
pub struct Adam {
    lr: f64,
    step: i32,
    variables: Vec<(Var, Moments)>,
}

struct Moments {
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Adam {
    /// Moments start at zero.
    pub fn new(variables: Vec<Var>, lr: f64) -> Self {
        let zeros = |variable: &Var| vec![0.0; variable.elem_count()];
        let with_moments = |variable: Var| {
            let moments = Moments { first: zeros(&variable), second: zeros(&variable) };
            (variable, moments)
        };
        Self { lr, step: 0, variables: variables.into_iter().map(with_moments).collect() }
    }

    /// One step. A variable without a gradient is an error: something cut the graph.
    pub fn step(&mut self, gradients: &GradStore) -> Result<()> {
        self.step += 1;
        let update = |(index, (variable, moments)): (usize, &mut (Var, Moments))| {
            let Some(gradient) = gradients.get(variable) else {
                return Err(Error::Engine(format!("variable {index} got no gradient")));
            };
            let bias = |beta: f32| 1.0 - f64::from(beta).powi(self.step);
            let step = Step {
                size: (self.lr / bias(BETA_1)) as f32,
                root_of_bias_2: bias(BETA_2).sqrt() as f32,
                moments: Mutex::new(moments),
            };
            Ok(variable.inplace_op2(&gradient.contiguous()?, &step)?)
        };
        self.variables.iter_mut().enumerate().try_for_each(update)
    }
}

struct Step<'a> {
    size: f32,
    root_of_bias_2: f32,
    /// Behind a lock only because candle lends the operation immutably.
    moments: Mutex<&'a mut Moments>,
}

impl InplaceOp2 for Step<'_> {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn cpu_fwd(&self, p: &mut CpuStorage, lp: &Layout, g: &CpuStorage, lg: &Layout) -> candle_core::Result<()> {
        const CHUNK: usize = 16 << 10;
        let ((p_start, p_end), (g_start, g_end)) = match (lp.contiguous_offsets(), lg.contiguous_offsets()) {
            (Some(p), Some(g)) => (p, g),
            _ => bail!("a variable or its gradient is not contiguous"),
        };
        let CpuStorage::F32(p) = p else { bail!("only f32 variables are trained") };
        let (p, g) = (&mut p[p_start..p_end], &g.as_slice::<f32>()?[g_start..g_end]);
        let mut moments = self.moments.lock().expect("no thread panics while it holds this lock");
        let Moments { first, second } = &mut **moments;
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
