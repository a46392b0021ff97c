//! A gradient that is known already, as the beginning of candle's backward pass.
#![forbid(unsafe_code)]

use super::operation::{Gradients, Lent, Op, Operation};
use candle_core::{CpuStorage, Result, Shape, Tensor};

/// A number whose gradient by `y` is `gradient`. Its own value means nothing: it would be a sum that nobody reads.
pub fn seed_gradient(y: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    y.apply_op1(Op(Seed { gradient: gradient.clone() }))
}

pub(super) struct Seed {
    pub(super) gradient: Tensor,
}

impl Operation<1> for Seed {
    fn name(&self) -> &'static str {
        "seed gradient"
    }

    fn forward(&self, _: [Lent<'_, CpuStorage>; 1]) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(())))
    }

    fn backward(&self, _: [&Tensor; 1], _: &Tensor, _: &Tensor) -> Gradients<1> {
        Ok([Some(self.gradient.clone())])
    }
}
