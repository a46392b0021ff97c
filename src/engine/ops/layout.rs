//! Changes of layout, weighted sums and the loss: candle's on the processor. On a GPU candle's would copy sizes to it for each
//! of them, in the middle of a step.
#![forbid(unsafe_code)]

use candle_core::{Result, Tensor};

/// `x`: (b, m, n), gives (b, n, m).
pub fn transpose(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return x.contiguous()?.apply_op1(on_gpu::Transpose);
    }
    x.transpose(1, 2)?.contiguous()
}

/// (b, c, h, w) and (b, d, h, w) to (b, c + d, h, w).
pub fn join_channels(x: &Tensor, skip: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return x.contiguous()?.apply_op2(&skip.contiguous()?, on_gpu::Join);
    }
    Tensor::cat(&[x, skip], 1)
}

/// a x + b z, or a x - b z; `x`, `z`: (b, c, h, w), or one item of it for all; `a`, `b`: (b, 1, 1, 1). Knows no gradients.
pub fn weighted_sum([a, x]: [&Tensor; 2], sign: Sign, [b, z]: [&Tensor; 2]) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(device) = x.device() {
        return on_gpu::weighted_sum(device, [a, x], sign, [b, z]);
    }
    let (first, second) = (x.broadcast_mul(a)?, z.broadcast_mul(b)?);
    match sign {
        Sign::Plus => first + second,
        Sign::Minus => first - second,
    }
}

/// How the second half of [`weighted_sum`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// Added.
    Plus,
    /// Subtracted.
    Minus,
}

/// The mean of (prediction - target)^2. Only `prediction` gets a gradient.
pub fn mean_square_error(prediction: &Tensor, target: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if prediction.device().is_cuda() {
        return prediction.contiguous()?.apply_op2(&target.contiguous()?, on_gpu::MeanSquareError);
    }
    (prediction - target)?.sqr()?.mean_all()
}

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::super::gpu::{self, Held};
    use super::Sign;
    use candle_core::backend::BackendStorage;
    use candle_core::op::BackpropOp;
    use candle_core::{
        CpuStorage, CudaDevice, CudaStorage, CustomOp1, CustomOp2, Device, Layout, Result, Shape, Storage, Tensor, bail,
    };

    fn device(tensor: &Tensor) -> Result<&CudaDevice> {
        match tensor.device() {
            Device::Cuda(device) => Ok(device),
            _ => bail!("a tensor is not on the GPU"),
        }
    }

    fn tensor(storage: CudaStorage, shape: impl Into<Shape>) -> Tensor {
        Tensor::from_storage(Storage::Cuda(storage), shape.into(), BackpropOp::none(), false)
    }

    pub struct Transpose;

    impl CustomOp1 for Transpose {
        fn name(&self) -> &'static str {
            "transpose"
        }

        fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
            bail!("candle does this on the processor")
        }

        fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
            let (b, m, n) = layout.shape().dims3()?;
            let y = gpu::transpose(x.device(), gpu::view(x, layout)?, [b, m, n])?;
            Ok((gpu::storage(y, x.device()), Shape::from((b, n, m))))
        }

        fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
            let (b, m, n) = x.dims3()?;
            let dy = dy.contiguous()?;
            let dx = gpu::transpose(device(x)?, Held::of(&dy).view()?, [b, n, m])?;
            Ok(Some(gpu::tensor(dx, device(x)?, x)))
        }
    }

    pub struct Join;

    fn joined(x: &[usize], skip: &[usize]) -> gpu::Joined {
        gpu::Joined { rows: x[0], columns: [x, skip].map(|dims| dims[1..].iter().product()) }
    }

    impl CustomOp2 for Join {
        fn name(&self) -> &'static str {
            "join channels"
        }

        fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
            bail!("candle does this on the processor")
        }

        fn cuda_fwd(&self, x: &CudaStorage, lx: &Layout, z: &CudaStorage, lz: &Layout) -> Result<(CudaStorage, Shape)> {
            let mut dims = lx.dims().to_vec();
            dims[1] += lz.dims()[1];
            let parts = [gpu::view(x, lx)?, gpu::view(z, lz)?];
            let y = gpu::join(x.device(), parts, joined(lx.dims(), lz.dims()))?;
            Ok((gpu::storage(y, x.device()), Shape::from(dims)))
        }

        fn bwd(&self, x: &Tensor, z: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
            let (dy, joined) = (dy.contiguous()?, joined(x.dims(), z.dims()));
            let part = |part, like: &Tensor| {
                let device = device(x)?;
                let wanted = like.track_op().then(|| gpu::split(device, Held::of(&dy).view()?, joined, part));
                Ok::<_, candle_core::Error>(wanted.transpose()?.map(|values| gpu::tensor(values, device, like)))
            };
            Ok((part(0, x)?, part(1, z)?))
        }
    }

    pub fn weighted_sum(gpu: &CudaDevice, [a, x]: [&Tensor; 2], sign: Sign, [b, z]: [&Tensor; 2]) -> Result<Tensor> {
        let all = [a, x, b, z];
        if let Some(other) = all.iter().find(|tensor| !tensor.is_contiguous()) {
            bail!("a tensor of shape {:?} is not contiguous", other.shape())
        }
        let held = all.map(Held::of);
        let (items, sign) = (a.elem_count(), if sign == Sign::Plus { 1.0 } else { -1.0 });
        let parts = [(held[1].view()?, x.elem_count()), (held[3].view()?, z.elem_count())];
        let mut dims = x.dims().to_vec();
        let item = dims[1..].iter().product();
        let y = gpu::weighted_sum(gpu, [held[0].view()?, held[2].view()?], parts, sign, [items, item])?;
        dims[0] = items;
        Ok(tensor(gpu::storage(y, gpu), dims))
    }

    pub struct MeanSquareError;

    impl CustomOp2 for MeanSquareError {
        fn name(&self) -> &'static str {
            "mean square error"
        }

        fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
            bail!("candle does this on the processor")
        }

        fn cuda_fwd(&self, x: &CudaStorage, lx: &Layout, y: &CudaStorage, ly: &Layout) -> Result<(CudaStorage, Shape)> {
            let views = [gpu::view(x, lx)?, gpu::view(y, ly)?];
            let mean = gpu::mean_square_error(x.device(), views, lx.shape().elem_count())?;
            Ok((gpu::storage(mean, x.device()), Shape::from(())))
        }

        fn bwd(&self, x: &Tensor, y: &Tensor, _: &Tensor, d: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
            let d = d.contiguous()?;
            let held = [x, y, &d].map(Held::of);
            let views = [held[0].view()?, held[1].view()?, held[2].view()?];
            let dx = gpu::mean_square_error_gradient(device(x)?, views, x.elem_count())?;
            Ok((Some(gpu::tensor(dx, device(x)?, x)), None))
        }
    }
}
