//! Linear layers: products of matrices.
#![deny(unsafe_code)]

use super::terms::{Argument, Gpu, In, Kind, Product, THREADS, View, expect, narrowed};
use candle_core::Result;

/// `x`: (m, k), `w`: (n, k), `bias`: (n); gives (m, n).
pub(super) fn linear<G: Gpu>(
    gpu: &G,
    x: In<'_, G>,
    w: In<'_, G>,
    bias: Option<In<'_, G>>,
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
pub(super) fn linear_input_gradient<G: Gpu>(gpu: &G, [w, dy]: [In<'_, G>; 2], sizes: [usize; 3]) -> Result<G::Buffer> {
    let [m, n, k] = sizes;
    let mut dx = gpu.buffer(m * k, dy.kind())?;
    let copy = narrowed(gpu, w, n * k, dy.kind())?;
    let w = copy.as_ref().map_or(w, View::all);
    gpu.matmul(&mut dx, dy.matrix(n), w.matrix(k), Product::one([m, k, n]))?;
    Ok(dx)
}

/// Gradient of `w` in [`linear`].
pub(super) fn linear_weight_gradient<G: Gpu>(gpu: &G, [x, dy]: [In<'_, G>; 2], sizes: [usize; 3]) -> Result<G::Buffer> {
    let [m, n, k] = sizes;
    let mut dw = gpu.buffer(n * k, Kind::F32)?;
    gpu.matmul(&mut dw, dy.matrix(n).t(), x.matrix(k), Product::one([n, k, m]))?;
    Ok(dw)
}

#[cfg(feature = "cuda")]
mod half {
    use super::super::cuda::result;
    use super::super::gradient::{hand_over, wanted};
    use super::super::sums::column_sums;
    use super::{linear_input_gradient, linear_weight_gradient};
    use crate::engine::ops::linear::Linear;
    use crate::engine::ops::operation::{Gradients, Lent, OnGpu};
    use candle_core::{CudaStorage, Layout, Result, Shape, Tensor};

    /// The result's shape, and m, n and k.
    fn sizes(x: &Layout, w: &Layout) -> Result<(Vec<usize>, [usize; 3])> {
        let (mut dims, (n, k)) = (x.dims().to_vec(), w.shape().dims2()?);
        dims.pop();
        dims.push(n);
        Ok((dims, [x.shape().elem_count() / k, n, k]))
    }

    impl OnGpu<2> for Linear {
        fn forward_on_gpu(&self, [x, w]: [Lent<'_, CudaStorage>; 2]) -> Result<(CudaStorage, Shape)> {
            let (dims, sizes) = sizes(x.1, w.1)?;
            result([x, w], dims, |gpu, [x, w]| super::linear(gpu, x, w, None, sizes))
        }

        fn backward_on_gpu(&self, [x, w]: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Gradients<2> {
            let (_, sizes) = sizes(x.layout(), w.layout())?;
            let dx = wanted(x, [w, dy], |gpu, inputs| linear_input_gradient(gpu, inputs, sizes))?;
            let optimizer = &self.optimizer;
            let dw = hand_over(optimizer, w, [x, dy], |gpu, inputs| linear_weight_gradient(gpu, inputs, sizes))?;
            Ok([dx, dw])
        }
    }

    impl OnGpu<3> for Linear {
        fn forward_on_gpu(&self, [x, w, bias]: [Lent<'_, CudaStorage>; 3]) -> Result<(CudaStorage, Shape)> {
            let (dims, sizes) = sizes(x.1, w.1)?;
            result([x, w, bias], dims, |gpu, [x, w, bias]| super::linear(gpu, x, w, Some(bias), sizes))
        }

        fn backward_on_gpu(&self, [x, w, b]: [&Tensor; 3], y: &Tensor, dy: &Tensor) -> Gradients<3> {
            let [dx, dw] = self.backward_on_gpu([x, w], y, dy)?;
            let (rows, n) = (dy.elem_count() / b.elem_count(), b.elem_count());
            let db = hand_over(&self.optimizer, b, [dy], |gpu, [dy]| column_sums(gpu, dy, rows, n))?;
            Ok([dx, dw, db])
        }
    }
}
