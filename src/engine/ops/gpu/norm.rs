//! Group and layer normalization.
#![deny(unsafe_code)]

use super::terms::{Argument, Gpu, In, Kind, PART, THREADS, View, expect};
use candle_core::Result;

/// A normalization of (b, channels, plane) over contiguous groups, in f32 whatever its input is stored in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Norm {
    pub b: usize,
    pub channels: usize,
    pub plane: usize,
    pub groups: usize,
    pub eps: f32,
    pub silu: bool,
}

impl Norm {
    /// Layer normalization of `rows` rows.
    pub fn of_rows(rows: usize, columns: usize, eps: f32) -> Self {
        Self { b: rows, channels: columns, plane: 1, groups: 1, eps, silu: false }
    }

    fn in_group(&self) -> usize {
        self.channels / self.groups * self.plane
    }

    fn count(&self) -> usize {
        self.b * self.channels * self.plane
    }

    /// Mean and 1 / sqrt(variance + eps) of each group.
    fn statistics<G: Gpu>(&self, gpu: &G, x: In<'_, G>) -> Result<G::Buffer> {
        let mut stats = gpu.buffer(2 * self.b * self.groups, Kind::F32)?;
        blocks!(gpu, "statistics" of x.kind(), self.b * self.groups, Out & mut stats, In x, Count self.in_group(), Value
            self.eps);
        Ok(stats)
    }
}

/// Group or layer normalization of `x`, and SiLU of it.
pub(super) fn normalize<G: Gpu>(gpu: &G, [x, weight, bias]: [In<'_, G>; 3], norm: &Norm) -> Result<G::Buffer> {
    expect(Kind::F32, &[weight, bias])?;
    let stats = norm.statistics(gpu, x)?;
    let mut y = gpu.buffer(norm.count(), x.kind())?;
    each!(gpu, "normalize" of x.kind(), norm.count(), Out & mut y, In x, In View::all(&stats), In weight, In bias, Count
        norm.channels, Count norm.plane, Count norm.in_group(), Count usize::from(norm.silu));
    Ok(y)
}

/// Gradient of `x` in [`normalize`] with planes, and (b, channels, 2): those of `weight` and `bias` before they are
/// summed over the batch, which [`super::sums::sums_of_parts`] does.
pub(super) fn group_norm_gradients<G: Gpu>(gpu: &G, inputs: [In<'_, G>; 4], norm: &Norm) -> Result<[G::Buffer; 2]> {
    let [x, weight, bias, dy] = inputs;
    let Norm { b, channels, plane, groups, .. } = *norm;
    let (in_group, silu) = (norm.in_group(), usize::from(norm.silu));
    expect(Kind::F32, &[weight, bias])?;
    expect(x.kind(), &[dy])?;
    let stats = norm.statistics(gpu, x)?;
    let mut sums = gpu.buffer(2 * b * channels, Kind::F32)?;
    blocks!(gpu, "group_norm_sums" of x.kind(), b * channels, Out & mut sums, In x, In dy, In View::all(&stats), In
        weight, In bias, Count channels, Count plane, Count in_group, Count silu);
    let mut means = gpu.buffer(2 * b * groups, Kind::F32)?;
    each!(gpu, "group_norm_means", b * groups, Out & mut means, In View::all(&sums), In weight, Count channels,
        Count channels / groups, Count in_group);
    let mut dx = gpu.buffer(norm.count(), x.kind())?;
    each!(gpu, "group_norm_backward" of x.kind(), norm.count(), Out & mut dx, In x, In dy, In View::all(&stats), In
        View::all(&means), In weight, In bias, Count channels, Count plane, Count in_group, Count silu);
    Ok([dx, sums])
}

/// Gradient of `x` in [`normalize`] of rows.
pub(super) fn layer_norm_input_gradient<G: Gpu>(gpu: &G, inputs: [In<'_, G>; 3], norm: &Norm) -> Result<G::Buffer> {
    let [x, weight, dy] = inputs;
    expect(Kind::F32, &[weight])?;
    expect(x.kind(), &[dy])?;
    let stats = norm.statistics(gpu, x)?;
    let mut dx = gpu.buffer(norm.count(), x.kind())?;
    blocks!(gpu, "layer_norm_backward" of x.kind(), norm.b, Out & mut dx, In x, In dy, In View::all(&stats), In weight,
        Count norm.channels);
    Ok(dx)
}

/// Gradients of `weight` and `bias` in [`normalize`] of rows, before the parts are summed up: (parts, columns, 2).
pub(super) fn layer_norm_sums<G: Gpu>(gpu: &G, [x, dy]: [In<'_, G>; 2], norm: &Norm) -> Result<(G::Buffer, usize)> {
    let (rows, columns) = (norm.b, norm.channels);
    expect(x.kind(), &[dy])?;
    let stats = norm.statistics(gpu, x)?;
    let parts = rows.div_ceil(PART);
    let mut sums = gpu.buffer(2 * parts * columns, Kind::F32)?;
    each!(gpu, "layer_norm_part_sums" of x.kind(), parts * columns, Out & mut sums, In x, In dy, In View::all(&stats),
        Count rows, Count columns, Count PART);
    Ok((sums, parts))
}

#[cfg(feature = "cuda")]
mod half {
    use super::super::cuda::{Slice, result, with_elements};
    use super::super::gradient::{hand_over, wanted};
    use super::super::sums::sums_of_parts;
    use super::{Norm, group_norm_gradients, layer_norm_input_gradient, layer_norm_sums, normalize};
    use crate::engine::ops::adam::Adam;
    use crate::engine::ops::norm::{Activation, GroupNorm, LayerNorm};
    use crate::engine::ops::operation::{Gradients, Lent, OnGpu};
    use candle_core::{CudaStorage, Result, Shape, Tensor};
    use std::sync::Arc;

    fn forward(inputs: [Lent<'_, CudaStorage>; 3], norm: &Norm) -> Result<(CudaStorage, Shape)> {
        result(inputs, inputs[0].1.shape().clone(), |gpu, inputs| normalize(gpu, inputs, norm))
    }

    /// The gradients of weight and bias, from their `parts` in `sums`, (parts, channels, 2).
    fn totals(optimizer: &Option<Arc<Adam>>, [weight, bias]: [&Tensor; 2], sums: &Slice, parts: usize) -> Gradients<2> {
        let total = |parameter: &Tensor, which| {
            let columns = parameter.elem_count();
            hand_over(optimizer, parameter, [], |gpu, []| sums_of_parts(gpu, sums, parts, columns, [2, which]))
        };
        Ok([total(weight, 0)?, total(bias, 1)?])
    }

    impl GroupNorm {
        fn on_gpu(&self, x: &[usize]) -> Norm {
            let (b, channels, plane) = (x[0], x[1], x[2..].iter().product());
            let (groups, eps, silu) = (self.groups, self.eps, self.after == Activation::Silu);
            Norm { b, channels, plane, groups, eps, silu }
        }
    }

    impl OnGpu<3> for GroupNorm {
        fn forward_on_gpu(&self, inputs: [Lent<'_, CudaStorage>; 3]) -> Result<(CudaStorage, Shape)> {
            forward(inputs, &self.on_gpu(inputs[0].1.dims()))
        }

        fn backward_on_gpu(&self, [x, weight, bias]: [&Tensor; 3], _: &Tensor, dy: &Tensor) -> Gradients<3> {
            let (norm, gpu) = (self.on_gpu(x.dims()), x.device().as_cuda_device()?);
            let inputs = [x, weight, bias, dy];
            let [dx, sums] = with_elements(inputs, |inputs| group_norm_gradients(gpu, inputs, &norm))?;
            let [dw, db] = totals(&self.optimizer, [weight, bias], &sums, norm.b)?;
            Ok([wanted(x, [], |_, []| Ok(dx))?, dw, db])
        }
    }

    impl LayerNorm {
        fn on_gpu(&self, x: &[usize]) -> Norm {
            let (columns, rows) = x.split_last().expect("a normalization has a dimension");
            Norm::of_rows(rows.iter().product(), *columns, self.eps)
        }
    }

    impl OnGpu<3> for LayerNorm {
        fn forward_on_gpu(&self, inputs: [Lent<'_, CudaStorage>; 3]) -> Result<(CudaStorage, Shape)> {
            forward(inputs, &self.on_gpu(inputs[0].1.dims()))
        }

        fn backward_on_gpu(&self, [x, weight, bias]: [&Tensor; 3], _: &Tensor, dy: &Tensor) -> Gradients<3> {
            let (norm, gpu) = (self.on_gpu(x.dims()), x.device().as_cuda_device()?);
            let dx = wanted(x, [x, weight, dy], |gpu, inputs| layer_norm_input_gradient(gpu, inputs, &norm))?;
            if !weight.track_op() && !bias.track_op() {
                return Ok([dx, None, None]);
            }
            let (sums, parts) = with_elements([x, dy], |inputs| layer_norm_sums(gpu, inputs, &norm))?;
            let [dw, db] = totals(&self.optimizer, [weight, bias], &sums, parts)?;
            Ok([dx, dw, db])
        }
    }
}
