//! Linear layer: y = x W^T + b.
#![forbid(unsafe_code)]

use super::adam::Adam;
use super::gemm::{Matrix, Out, Threads, matmul};
use super::gradient::hand_over;
use super::values::{tensor_like, values, with_values};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

/// `x`: (..., k), `weight`: (n, k), `bias`: (n); gives (..., n). `optimizer` as in [`super::Parameters`].
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, optimizer: &Option<Arc<Adam>>) -> Result<Tensor> {
    let (x, linear) = (x.contiguous()?, Linear { optimizer: optimizer.clone() });
    match bias {
        Some(bias) => x.apply_op3(weight, bias, linear),
        None => x.apply_op2(weight, linear),
    }
}

struct Linear {
    optimizer: Option<Arc<Adam>>,
}

impl Linear {
    fn forward(&self, x: &[f32], x_layout: &Layout, w: &[f32], n: usize, bias: Option<&[f32]>) -> (CpuStorage, Shape) {
        let mut dims = x_layout.dims().to_vec();
        let k = dims[dims.len() - 1];
        let m = x.len() / k;
        let mut y = vec![0.0; m * n];
        if let Some(bias) = bias {
            y.par_chunks_mut(n).for_each(|row| row.copy_from_slice(bias));
        }
        matmul(&mut y, Out::Add, 1.0, Matrix::new(x, m, k), Matrix::new(w, n, k).t(), Threads::All);
        let last = dims.len() - 1;
        dims[last] = n;
        (CpuStorage::F32(y), Shape::from(dims))
    }

    fn backward(&self, x: &Tensor, w: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if let candle_core::Device::Cuda(device) = x.device() {
            return self.backward_on_gpu(device, x, w, dy);
        }
        let (n, k) = w.dims2()?;
        let m = x.elem_count() / k;
        with_values(dy, |dy| {
            let dx = x.track_op().then(|| {
                with_values(w, |w| {
                    let mut dx = vec![0.0; m * k];
                    matmul(&mut dx, Out::Replace, 1.0, Matrix::new(dy, m, n), Matrix::new(w, n, k), Threads::All);
                    tensor_like(dx, x)
                })
            });
            let dx = dx.transpose()?;
            let dw = hand_over(&self.optimizer, w, |dw| {
                with_values(x, |x| {
                    matmul(dw, Out::Replace, 1.0, Matrix::new(dy, m, n).t(), Matrix::new(x, m, k), Threads::All);
                    Ok(())
                })
            })?;
            Ok((dx, dw))
        })
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(self.forward(values(x, lx)?, lx, values(w, lw)?, lw.dims()[0], None))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, lx: &Layout, w: &CudaStorage, lw: &Layout) -> Result<(CudaStorage, Shape)> {
        on_gpu::forward((x, lx), (w, lw), None)
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.backward(x, w, dy)
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear with bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok(self.forward(values(x, lx)?, lx, values(w, lw)?, lw.dims()[0], Some(values(b, lb)?)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        lx: &Layout,
        w: &CudaStorage,
        lw: &Layout,
        b: &CudaStorage,
        lb: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        on_gpu::forward((x, lx), (w, lw), Some((b, lb)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = self.backward(x, w, dy)?;
        #[cfg(feature = "cuda")]
        if let candle_core::Device::Cuda(device) = x.device() {
            return Ok((dx, dw, self.bias_gradient_on_gpu(device, b, dy)?));
        }
        let db = hand_over(&self.optimizer, b, |db| {
            with_values(dy, |dy| {
                db.fill(0.0);
                for row in dy.chunks(db.len()) {
                    db.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                }
                Ok(())
            })
        })?;
        Ok((dx, dw, db))
    }
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::super::gpu::{self, Held};
    use super::Linear;
    use candle_core::{CudaDevice, CudaStorage, Layout, Result, Shape, Tensor};

    type Values<'a> = (&'a CudaStorage, &'a Layout);

    pub fn forward(x: Values<'_>, w: Values<'_>, bias: Option<Values<'_>>) -> Result<(CudaStorage, Shape)> {
        let (mut dims, (n, k)) = (x.1.dims().to_vec(), w.1.shape().dims2()?);
        let m = x.1.shape().elem_count() / k;
        let (device, last) = (&x.0.device, dims.len() - 1);
        let bias = bias.map(|(storage, layout)| gpu::view(storage, layout)).transpose()?;
        let y = gpu::linear(device, gpu::view(x.0, x.1)?, gpu::view(w.0, w.1)?, bias, [m, n, k])?;
        dims[last] = n;
        Ok((gpu::storage(y, device), Shape::from(dims)))
    }

    impl Linear {
        pub fn backward_on_gpu(
            &self,
            device: &CudaDevice,
            x: &Tensor,
            w: &Tensor,
            dy: &Tensor,
        ) -> Result<(Option<Tensor>, Option<Tensor>)> {
            let (n, k) = w.dims2()?;
            let (sizes, dy) = ([x.elem_count() / k, n, k], &dy.contiguous()?);
            let dx = || -> Result<Tensor> {
                let dx = gpu::linear_input_gradient(device, Held::of(w).view()?, Held::of(dy).view()?, sizes)?;
                Ok(gpu::tensor(dx, device, x))
            };
            let dw = || gpu::linear_weight_gradient(device, Held::of(x).view()?, Held::of(dy).view()?, sizes);
            Ok((x.track_op().then(dx).transpose()?, gpu::hand_over(&self.optimizer, device, w, dw)?))
        }

        pub fn bias_gradient_on_gpu(&self, device: &CudaDevice, b: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
            let (dy, n) = (dy.contiguous()?, b.elem_count());
            let db = || gpu::column_sums(device, Held::of(&dy).view()?, dy.elem_count() / n, n);
            gpu::hand_over(&self.optimizer, device, b, db)
        }
    }
}
