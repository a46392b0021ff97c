//! As `ops/gradient.rs`, for gradients in the GPU's memory.
#![deny(unsafe_code)]

use super::cuda::{Slice, tensor};
use crate::engine::ops::adam::Adam;
use candle_core::{CudaDevice, Result, Tensor};
use std::sync::Arc;

/// The gradient of `parameter` if one is wanted, unless the optimizer uses it up.
pub(super) fn hand_over(
    optimizer: &Option<Arc<Adam>>,
    device: &CudaDevice,
    parameter: &Tensor,
    gradient: impl FnOnce() -> Result<Slice>,
) -> Result<Option<Tensor>> {
    if !parameter.track_op() {
        return Ok(None);
    }
    let gradient = tensor(gradient()?, device, parameter);
    match optimizer {
        Some(optimizer) if optimizer.trains(parameter) => optimizer.take_tensor(parameter, &gradient).map(|()| None),
        _ => Ok(Some(gradient)),
    }
}
