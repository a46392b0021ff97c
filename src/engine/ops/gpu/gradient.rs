//! As `ops/gradient.rs`, for gradients in the GPU's memory.
#![deny(unsafe_code)]

use super::cuda::{Slice, Values, tensor, with_elements};
use crate::engine::ops::adam::Adam;
use candle_core::{CudaDevice, Result, Tensor};
use std::sync::Arc;

/// The gradient of `x` if one is wanted: what `compute` makes of the elements of `of`.
pub(super) fn wanted<const N: usize>(
    x: &Tensor,
    of: [&Tensor; N],
    compute: impl FnOnce(&CudaDevice, [Values<'_>; N]) -> Result<Slice>,
) -> Result<Option<Tensor>> {
    if !x.track_op() {
        return Ok(None);
    }
    let gpu = x.device().as_cuda_device()?;
    Ok(Some(tensor(with_elements(of, |views| compute(gpu, views))?, gpu, x)))
}

/// As [`wanted`] for a parameter, unless the optimizer uses it up.
pub(super) fn hand_over<const N: usize>(
    optimizer: &Option<Arc<Adam>>,
    parameter: &Tensor,
    of: [&Tensor; N],
    compute: impl FnOnce(&CudaDevice, [Values<'_>; N]) -> Result<Slice>,
) -> Result<Option<Tensor>> {
    match (wanted(parameter, of, compute)?, optimizer) {
        (Some(gradient), Some(optimizer)) if optimizer.trains(parameter) => {
            optimizer.take_tensor(parameter, &gradient).map(|()| None)
        }
        (gradient, _) => Ok(gradient),
    }
}
