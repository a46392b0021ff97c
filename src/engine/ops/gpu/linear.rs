//! Linear layers: products of matrices.
#![deny(unsafe_code)]

use super::terms::{Argument, Gpu, Kind, Product, THREADS, View, expect, narrowed};
use candle_core::Result;

/// `x`: (m, k), `w`: (n, k), `bias`: (n); gives (m, n).
pub(super) fn linear<G: Gpu>(
    gpu: &G,
    x: View<'_, G::Buffer>,
    w: View<'_, G::Buffer>,
    bias: Option<View<'_, G::Buffer>>,
    [m, n, k]: [usize; 3],
) -> Result<G::Buffer> {
    let kind = x.kind();
    let mut y = gpu.buffer(m * n, kind)?;
    if let Some(bias) = bias {
        expect(Kind::F32, &[bias])?;
        each!(gpu, "spread_bias" of kind, m * n, Out & mut y, In bias, Count n, Count 1);
    }
    let copy = narrowed(gpu, w, n * k, kind)?;
    let w = copy.as_ref().map_or(w, View::all);
    gpu.matmul(&mut y, x.matrix(k), w.matrix(k).t(), Product { add: bias.is_some(), ..Product::one([m, n, k]) })?;
    Ok(y)
}

/// Gradient of `x` in [`linear`].
pub(super) fn linear_input_gradient<G: Gpu>(
    gpu: &G,
    w: View<'_, G::Buffer>,
    dy: View<'_, G::Buffer>,
    [m, n, k]: [usize; 3],
) -> Result<G::Buffer> {
    let mut dx = gpu.buffer(m * k, dy.kind())?;
    let copy = narrowed(gpu, w, n * k, dy.kind())?;
    let w = copy.as_ref().map_or(w, View::all);
    gpu.matmul(&mut dx, dy.matrix(n), w.matrix(k), Product::one([m, k, n]))?;
    Ok(dx)
}

/// Gradient of `w` in [`linear`].
pub(super) fn linear_weight_gradient<G: Gpu>(
    gpu: &G,
    x: View<'_, G::Buffer>,
    dy: View<'_, G::Buffer>,
    [m, n, k]: [usize; 3],
) -> Result<G::Buffer> {
    let mut dw = gpu.buffer(n * k, Kind::F32)?;
    gpu.matmul(&mut dw, dy.matrix(n).t(), x.matrix(k), Product::one([n, k, m]))?;
    Ok(dw)
}

#[cfg(feature = "cuda")]
mod half {
    use super::super::cuda::{Held, storage, tensor, view};
    use super::super::gradient::hand_over;
    use super::super::sums::column_sums;
    use crate::engine::ops::linear::Linear;
    use crate::engine::ops::operation::{Gradients, Lent, OnGpu};
    use candle_core::{CudaDevice, CudaStorage, Result, Shape, Tensor};

    type Input<'a> = Lent<'a, CudaStorage>;

    fn forward(x: Input<'_>, w: Input<'_>, bias: Option<Input<'_>>) -> Result<(CudaStorage, Shape)> {
        let (mut dims, (n, k)) = (x.1.dims().to_vec(), w.1.shape().dims2()?);
        let m = x.1.shape().elem_count() / k;
        let (device, last) = (&x.0.device, dims.len() - 1);
        let y = super::linear(device, view(x)?, view(w)?, bias.map(view).transpose()?, [m, n, k])?;
        dims[last] = n;
        Ok((storage(y, device), Shape::from(dims)))
    }

    impl OnGpu<2> for Linear {
        fn forward_on_gpu(&self, [x, w]: [Input<'_>; 2]) -> Result<(CudaStorage, Shape)> {
            forward(x, w, None)
        }

        fn backward_on_gpu(&self, device: &CudaDevice, [x, w]: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Gradients<2> {
            let (n, k) = w.dims2()?;
            let (sizes, dy) = ([x.elem_count() / k, n, k], &dy.contiguous()?);
            let dx = || -> Result<Tensor> {
                let dx = super::linear_input_gradient(device, Held::of(w).view()?, Held::of(dy).view()?, sizes)?;
                Ok(tensor(dx, device, x))
            };
            let dw = || super::linear_weight_gradient(device, Held::of(x).view()?, Held::of(dy).view()?, sizes);
            Ok([x.track_op().then(dx).transpose()?, hand_over(&self.optimizer, device, w, dw)?])
        }
    }

    impl OnGpu<3> for Linear {
        fn forward_on_gpu(&self, [x, w, bias]: [Input<'_>; 3]) -> Result<(CudaStorage, Shape)> {
            forward(x, w, Some(bias))
        }

        fn backward_on_gpu(
            &self,
            device: &CudaDevice,
            [x, w, b]: [&Tensor; 3],
            y: &Tensor,
            dy: &Tensor,
        ) -> Gradients<3> {
            let [dx, dw] = self.backward_on_gpu(device, [x, w], y, dy)?;
            let (dy, n) = (dy.contiguous()?, b.elem_count());
            let db = || column_sums(device, Held::of(&dy).view()?, dy.elem_count() / n, n);
            Ok([dx, dw, hand_over(&self.optimizer, device, b, db)?])
        }
    }
}
