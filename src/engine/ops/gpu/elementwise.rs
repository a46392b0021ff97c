//! GEGLU, sums per channel, upsampling.
#![deny(unsafe_code)]

use super::terms::{Argument, Gpu, Kind, THREADS, View, expect};
use candle_core::Result;

/// `x`: (rows, 2 d), gives (rows, d).
pub(super) fn geglu<G: Gpu>(gpu: &G, x: View<'_, G::Buffer>, rows: usize, d: usize) -> Result<G::Buffer> {
    let mut y = gpu.buffer(rows * d, x.kind())?;
    each!(gpu, "geglu" of x.kind(), rows * d, Out & mut y, In x, Count d);
    Ok(y)
}

/// Gradient of `x` in [`geglu`].
pub(super) fn geglu_gradient<G: Gpu>(
    gpu: &G,
    x: View<'_, G::Buffer>,
    dy: View<'_, G::Buffer>,
    rows: usize,
    d: usize,
) -> Result<G::Buffer> {
    expect(x.kind(), &[dy])?;
    let mut dx = gpu.buffer(2 * rows * d, x.kind())?;
    each!(gpu, "geglu_backward" of x.kind(), rows * d, Out & mut dx, In x, In dy, Count d);
    Ok(dx)
}

/// `x`: (channels, plane), `e`: (channels), f32, channels counted through the batch.
pub(super) fn add_per_channel<G: Gpu>(
    gpu: &G,
    x: View<'_, G::Buffer>,
    e: View<'_, G::Buffer>,
    channels: usize,
    plane: usize,
) -> Result<G::Buffer> {
    expect(Kind::F32, &[e])?;
    let mut y = gpu.buffer(channels * plane, x.kind())?;
    each!(gpu, "add_per_channel" of x.kind(), channels * plane, Out & mut y, In x, In e, Count plane);
    Ok(y)
}

/// `x`: (planes, h, w), gives (planes, 2 h, 2 w).
pub(super) fn upsample<G: Gpu>(
    gpu: &G,
    x: View<'_, G::Buffer>,
    planes: usize,
    h: usize,
    w: usize,
) -> Result<G::Buffer> {
    let mut y = gpu.buffer(4 * planes * h * w, x.kind())?;
    each!(gpu, "upsample" of x.kind(), 4 * planes * h * w, Out & mut y, In x, Count h, Count w);
    Ok(y)
}

/// Gradient of `x`, of `values` elements in rows of `w`, in [`upsample`].
pub(super) fn upsample_gradient<G: Gpu>(
    gpu: &G,
    dy: View<'_, G::Buffer>,
    values: usize,
    w: usize,
) -> Result<G::Buffer> {
    let mut dx = gpu.buffer(values, dy.kind())?;
    each!(gpu, "upsample_backward" of dy.kind(), values, Out & mut dx, In dy, Count w);
    Ok(dx)
}

#[cfg(feature = "cuda")]
mod half {
    use super::super::cuda::{Held, storage, tensor, view};
    use super::super::sums::row_sums;
    use crate::engine::ops::elementwise::{AddPerChannel, Geglu, Upsample};
    use crate::engine::ops::operation::{Gradients, Lent, OnGpu};
    use candle_core::{CudaDevice, CudaStorage, D, Result, Shape, Tensor};

    impl OnGpu<1> for Geglu {
        fn forward_on_gpu(&self, [x]: [Lent<'_, CudaStorage>; 1]) -> Result<(CudaStorage, Shape)> {
            let (mut dims, device) = (x.1.dims().to_vec(), &x.0.device);
            let last = dims.len() - 1;
            dims[last] /= 2;
            let rows = dims[..last].iter().product();
            let y = super::geglu(device, view(x)?, rows, dims[last])?;
            Ok((storage(y, device), Shape::from(dims)))
        }

        fn backward_on_gpu(&self, device: &CudaDevice, [x]: [&Tensor; 1], _: &Tensor, dy: &Tensor) -> Gradients<1> {
            let (dy, d) = (dy.contiguous()?, x.dim(D::Minus1)? / 2);
            let rows = x.elem_count() / (2 * d);
            let dx = super::geglu_gradient(device, Held::of(x).view()?, Held::of(&dy).view()?, rows, d)?;
            Ok([Some(tensor(dx, device, x))])
        }
    }

    impl OnGpu<2> for AddPerChannel {
        fn forward_on_gpu(&self, [x, e]: [Lent<'_, CudaStorage>; 2]) -> Result<(CudaStorage, Shape)> {
            let (shape, device, channels) = (x.1.shape(), &x.0.device, e.1.shape().elem_count());
            let y = super::add_per_channel(device, view(x)?, view(e)?, channels, shape.elem_count() / channels)?;
            Ok((storage(y, device), shape.clone()))
        }

        fn backward_on_gpu(&self, device: &CudaDevice, [x, e]: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Gradients<2> {
            let (planes, channels) = (dy.contiguous()?, e.elem_count());
            let de = || row_sums(device, Held::of(&planes).view()?, channels, planes.elem_count() / channels);
            let de = e.track_op().then(de).transpose()?;
            Ok([x.track_op().then(|| dy.clone()), de.map(|de| tensor(de, device, e))])
        }
    }

    impl OnGpu<1> for Upsample {
        fn forward_on_gpu(&self, [x]: [Lent<'_, CudaStorage>; 1]) -> Result<(CudaStorage, Shape)> {
            let ((b, c, h, w), device) = (x.1.shape().dims4()?, &x.0.device);
            let y = super::upsample(device, view(x)?, b * c, h, w)?;
            Ok((storage(y, device), Shape::from((b, c, 2 * h, 2 * w))))
        }

        fn backward_on_gpu(&self, device: &CudaDevice, [x]: [&Tensor; 1], _: &Tensor, dy: &Tensor) -> Gradients<1> {
            let dy = dy.contiguous()?;
            let dx = super::upsample_gradient(device, Held::of(&dy).view()?, x.elem_count(), x.dim(3)?)?;
            Ok([Some(tensor(dx, device, x))])
        }
    }
}
