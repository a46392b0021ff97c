//! Changes of layout, weighted sums and the loss: candle's on the processor. On a GPU candle's would upload sizes for
//! each of them, in the middle of a step.
#![forbid(unsafe_code)]

use super::operation::{Op, Operation};
use candle_core::{Result, Tensor};

/// `x`: (b, m, n), gives (b, n, m).
pub fn transpose(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cuda() {
        return x.contiguous()?.apply_op1(Op(Transpose));
    }
    x.transpose(1, 2)?.contiguous()
}

/// (b, c, h, w) and (b, d, h, w) to (b, c + d, h, w).
pub fn join_channels(x: &Tensor, skip: &Tensor) -> Result<Tensor> {
    if x.device().is_cuda() {
        return x.contiguous()?.apply_op2(&skip.contiguous()?, Op(Join));
    }
    Tensor::cat(&[x, skip], 1)
}

/// a x + b z, or a x - b z; `x`, `z`: (b, c, h, w), or one item of it for all; `scales`: a, then b, (2, b, 1, 1, 1).
/// Has no gradients.
pub fn weighted_sum(scales: &Tensor, x: &Tensor, sign: Sign, z: &Tensor) -> Result<Tensor> {
    if x.device().is_cuda() {
        return x.apply_op3(z, scales, Op(WeightedSum { sign }));
    }
    let (first, second) = (x.broadcast_mul(&scales.get(0)?)?, z.broadcast_mul(&scales.get(1)?)?);
    match sign {
        Sign::Plus => first + second,
        Sign::Minus => first - second,
    }
}

/// How the second half of [`weighted_sum`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// Added.
    Plus,
    /// Subtracted.
    Minus,
}

/// The mean of (prediction - target)^2. Only `prediction` gets a gradient.
pub fn mean_square_error(prediction: &Tensor, target: &Tensor) -> Result<Tensor> {
    if prediction.device().is_cuda() {
        return prediction.contiguous()?.apply_op2(&target.contiguous()?, Op(MeanSquareError));
    }
    (prediction - target)?.sqr()?.mean_all()
}

pub(super) struct Transpose;

impl Operation<1> for Transpose {
    fn name(&self) -> &'static str {
        "transpose"
    }
}

pub(super) struct Join;

impl Operation<2> for Join {
    fn name(&self) -> &'static str {
        "join channels"
    }
}

pub(super) struct WeightedSum {
    pub(super) sign: Sign,
}

impl Operation<3> for WeightedSum {
    fn name(&self) -> &'static str {
        match self.sign {
            Sign::Plus => "weighted sum",
            Sign::Minus => "weighted difference",
        }
    }
}

pub(super) struct MeanSquareError;

impl Operation<2> for MeanSquareError {
    fn name(&self) -> &'static str {
        "mean square error"
    }
}
