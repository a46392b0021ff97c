//! GEGLU, sums per channel, upsampling.
#![deny(unsafe_code)]

use super::terms::{Argument, Gpu, In, Kind, THREADS, expect};
use candle_core::Result;

/// `x`: (rows, 2 d), gives (rows, d).
pub(super) fn geglu<G: Gpu>(gpu: &G, x: In<'_, G>, rows: usize, d: usize) -> Result<G::Buffer> {
    let mut y = gpu.buffer(rows * d, x.kind())?;
    each!(gpu, "geglu" of x.kind(), rows * d, Out & mut y, In x, Count d);
    Ok(y)
}

/// Gradient of `x` in [`geglu`].
pub(super) fn geglu_gradient<G: Gpu>(gpu: &G, [x, dy]: [In<'_, G>; 2], rows: usize, d: usize) -> Result<G::Buffer> {
    expect(x.kind(), &[dy])?;
    let mut dx = gpu.buffer(2 * rows * d, x.kind())?;
    each!(gpu, "geglu_backward" of x.kind(), rows * d, Out & mut dx, In x, In dy, Count d);
    Ok(dx)
}

/// `x`: (channels, plane), `e`: (channels), f32, channels counted through the batch.
pub(super) fn add_per_channel<G: Gpu>(
    gpu: &G,
    [x, e]: [In<'_, G>; 2],
    [channels, plane]: [usize; 2],
) -> Result<G::Buffer> {
    expect(Kind::F32, &[e])?;
    let mut y = gpu.buffer(channels * plane, x.kind())?;
    each!(gpu, "add_per_channel" of x.kind(), channels * plane, Out & mut y, In x, In e, Count plane);
    Ok(y)
}

/// `x`: (planes, h, w), gives (planes, 2 h, 2 w).
pub(super) fn upsample<G: Gpu>(gpu: &G, x: In<'_, G>, planes: usize, h: usize, w: usize) -> Result<G::Buffer> {
    let mut y = gpu.buffer(4 * planes * h * w, x.kind())?;
    each!(gpu, "upsample" of x.kind(), 4 * planes * h * w, Out & mut y, In x, Count h, Count w);
    Ok(y)
}

/// Gradient of `x`, of `values` elements in rows of `w`, in [`upsample`].
pub(super) fn upsample_gradient<G: Gpu>(gpu: &G, dy: In<'_, G>, values: usize, w: usize) -> Result<G::Buffer> {
    let mut dx = gpu.buffer(values, dy.kind())?;
    each!(gpu, "upsample_backward" of dy.kind(), values, Out & mut dx, In dy, Count w);
    Ok(dx)
}

#[cfg(feature = "cuda")]
mod half {
    use super::super::cuda::result;
    use super::super::gradient::wanted;
    use super::super::sums::row_sums;
    use crate::engine::ops::elementwise::{AddPerChannel, Geglu, Upsample};
    use crate::engine::ops::operation::{Gradients, Lent, OnGpu};
    use candle_core::{CudaStorage, D, Result, Shape, Tensor};

    impl OnGpu<1> for Geglu {
        fn forward_on_gpu(&self, [x]: [Lent<'_, CudaStorage>; 1]) -> Result<(CudaStorage, Shape)> {
            let mut dims = x.1.dims().to_vec();
            let last = dims.len() - 1;
            dims[last] /= 2;
            let (rows, d) = (dims[..last].iter().product(), dims[last]);
            result([x], dims, |gpu, [x]| super::geglu(gpu, x, rows, d))
        }

        fn backward_on_gpu(&self, [x]: [&Tensor; 1], _: &Tensor, dy: &Tensor) -> Gradients<1> {
            let d = x.dim(D::Minus1)? / 2;
            let rows = x.elem_count() / (2 * d);
            Ok([wanted(x, [x, dy], |gpu, inputs| super::geglu_gradient(gpu, inputs, rows, d))?])
        }
    }

    impl OnGpu<2> for AddPerChannel {
        fn forward_on_gpu(&self, [x, e]: [Lent<'_, CudaStorage>; 2]) -> Result<(CudaStorage, Shape)> {
            let (shape, channels) = (x.1.shape(), e.1.shape().elem_count());
            let sizes = [channels, shape.elem_count() / channels];
            result([x, e], shape.clone(), |gpu, inputs| super::add_per_channel(gpu, inputs, sizes))
        }

        fn backward_on_gpu(&self, [x, e]: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Gradients<2> {
            let (channels, plane) = (e.elem_count(), dy.elem_count() / e.elem_count());
            let de = wanted(e, [dy], |gpu, [dy]| row_sums(gpu, dy, channels, plane))?;
            Ok([x.track_op().then(|| dy.clone()), de])
        }
    }

    impl OnGpu<1> for Upsample {
        fn forward_on_gpu(&self, [x]: [Lent<'_, CudaStorage>; 1]) -> Result<(CudaStorage, Shape)> {
            let (b, c, h, w) = x.1.shape().dims4()?;
            result([x], (b, c, 2 * h, 2 * w), |gpu, [x]| super::upsample(gpu, x, b * c, h, w))
        }

        fn backward_on_gpu(&self, [x]: [&Tensor; 1], _: &Tensor, dy: &Tensor) -> Gradients<1> {
            let (values, w) = (x.elem_count(), x.dim(3)?);
            Ok([wanted(x, [dy], |gpu, [dy]| super::upsample_gradient(gpu, dy, values, w))?])
        }
    }
}
