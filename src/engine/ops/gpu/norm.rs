//! Group and layer normalization.
#![deny(unsafe_code)]

use super::terms::{Argument, Gpu, Kind, PART, THREADS, View, expect};
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
    fn statistics<G: Gpu>(&self, gpu: &G, x: View<'_, G::Buffer>) -> Result<G::Buffer> {
        let mut stats = gpu.buffer(2 * self.b * self.groups, Kind::F32)?;
        blocks!(gpu, "statistics" of x.kind(), self.b * self.groups, Out & mut stats, In x, Count self.in_group(), Value
            self.eps);
        Ok(stats)
    }
}

/// Group or layer normalization of `x`, and SiLU of it.
pub(super) fn normalize<G: Gpu>(
    gpu: &G,
    [x, weight, bias]: [View<'_, G::Buffer>; 3],
    norm: &Norm,
) -> Result<G::Buffer> {
    expect(Kind::F32, &[weight, bias])?;
    let stats = norm.statistics(gpu, x)?;
    let mut y = gpu.buffer(norm.count(), x.kind())?;
    each!(gpu, "normalize" of x.kind(), norm.count(), Out & mut y, In x, In View::all(&stats), In weight, In bias, Count
        norm.channels, Count norm.plane, Count norm.in_group(), Count usize::from(norm.silu));
    Ok(y)
}

/// Gradient of `x` in [`normalize`] with planes, and (b, channels, 2): those of `weight` and `bias` before they are
/// summed over the batch, which [`super::sums::sums_of_parts`] does.
pub(super) fn group_norm_gradients<G: Gpu>(
    gpu: &G,
    [x, weight, bias, dy]: [View<'_, G::Buffer>; 4],
    norm: &Norm,
) -> Result<[G::Buffer; 2]> {
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
pub(super) fn layer_norm_input_gradient<G: Gpu>(
    gpu: &G,
    [x, weight, dy]: [View<'_, G::Buffer>; 3],
    norm: &Norm,
) -> Result<G::Buffer> {
    expect(Kind::F32, &[weight])?;
    expect(x.kind(), &[dy])?;
    let stats = norm.statistics(gpu, x)?;
    let mut dx = gpu.buffer(norm.count(), x.kind())?;
    blocks!(gpu, "layer_norm_backward" of x.kind(), norm.b, Out & mut dx, In x, In dy, In View::all(&stats), In weight,
        Count norm.channels);
    Ok(dx)
}

/// Gradients of `weight` and `bias` in [`normalize`] of rows, before the parts are summed up: (parts, columns, 2).
pub(super) fn layer_norm_sums<G: Gpu>(
    gpu: &G,
    [x, dy]: [View<'_, G::Buffer>; 2],
    norm: &Norm,
) -> Result<(G::Buffer, usize)> {
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
    use super::super::cuda::{Held, storage, tensor, view};
    use super::super::gradient::hand_over;
    use super::super::sums::sums_of_parts;
    use super::{Norm, group_norm_gradients, layer_norm_input_gradient, layer_norm_sums, normalize};
    use crate::engine::ops::norm::{Activation, GroupNorm, LayerNorm};
    use crate::engine::ops::operation::{Gradients, Lent, OnGpu};
    use candle_core::{CudaDevice, CudaStorage, Result, Shape, Tensor};

    fn forward([x, weight, bias]: [Lent<'_, CudaStorage>; 3], norm: &Norm) -> Result<(CudaStorage, Shape)> {
        let y = normalize(&x.0.device, [view(x)?, view(weight)?, view(bias)?], norm)?;
        Ok((storage(y, &x.0.device), x.1.shape().clone()))
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

        fn backward_on_gpu(
            &self,
            device: &CudaDevice,
            [x, weight, bias]: [&Tensor; 3],
            _: &Tensor,
            dy: &Tensor,
        ) -> Gradients<3> {
            let (norm, dy) = (self.on_gpu(x.dims()), dy.contiguous()?);
            let [dx, sums] = {
                let held = [x, weight, bias, &dy].map(Held::of);
                let inputs = [held[0].view()?, held[1].view()?, held[2].view()?, held[3].view()?];
                group_norm_gradients(device, inputs, &norm)?
            };
            let over_batch = |which| sums_of_parts(device, &sums, norm.b, norm.channels, [2, which]);
            Ok([
                x.track_op().then(|| tensor(dx, device, x)),
                hand_over(&self.optimizer, device, weight, || over_batch(0))?,
                hand_over(&self.optimizer, device, bias, || over_batch(1))?,
            ])
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

        fn backward_on_gpu(
            &self,
            device: &CudaDevice,
            [x, weight, bias]: [&Tensor; 3],
            _: &Tensor,
            dy: &Tensor,
        ) -> Gradients<3> {
            let (norm, dy) = (self.on_gpu(x.dims()), &dy.contiguous()?);
            let dx = || -> Result<Tensor> {
                let held = [x, weight, dy].map(Held::of);
                let inputs = [held[0].view()?, held[1].view()?, held[2].view()?];
                Ok(tensor(layer_norm_input_gradient(device, inputs, &norm)?, device, x))
            };
            let dx = x.track_op().then(dx).transpose()?;
            if !weight.track_op() && !bias.track_op() {
                return Ok([dx, None, None]);
            }
            let (sums, parts) = {
                let held = [x, dy].map(Held::of);
                layer_norm_sums(device, [held[0].view()?, held[1].view()?], &norm)?
            };
            let total = |which| sums_of_parts(device, &sums, parts, norm.channels, [2, which]);
            Ok([
                dx,
                hand_over(&self.optimizer, device, weight, || total(0))?,
                hand_over(&self.optimizer, device, bias, || total(1))?,
            ])
        }
    }
}
