//! Where the gradient of a weight goes: to the optimizer at once, or back from the backward pass.
#![forbid(unsafe_code)]

use super::adam::Adam;
use super::values::with_buffer;
use crate::engine::stop;
use candle_core::{Result, Tensor};
use std::sync::Arc;

/// The parameters of a layer.
pub struct Parameters {
    /// Weight.
    pub weight: Tensor,
    /// Bias.
    pub bias: Tensor,
    /// Takes their gradients in the middle of the backward pass; without it they come back from it.
    pub optimizer: Option<Arc<Adam>>,
}

/// The gradient of `parameter` if one is wanted, unless the optimizer uses it up; `fill` computes it into a buffer of
/// any content. The optimizer changes the parameter, so whatever else needs its old elements comes first.
pub(super) fn hand_over(
    optimizer: &Option<Arc<Adam>>,
    parameter: &Tensor,
    fill: impl FnOnce(&mut [f32]) -> Result<()>,
) -> Result<Option<Tensor>> {
    if !parameter.track_op() {
        return Ok(None);
    }
    with_buffer(parameter.elem_count(), |gradient| {
        fill(gradient)?;
        stop::look()?;
        match optimizer {
            Some(optimizer) if optimizer.trains(parameter) => optimizer.take(parameter, gradient).map(|()| None),
            _ => Tensor::from_slice(gradient, parameter.shape(), parameter.device()).map(Some),
        }
    })
}
