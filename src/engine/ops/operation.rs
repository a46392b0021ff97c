//! What an operation of ours is: a forward and a backward pass on the processor, the same on a GPU, and how candle
//! calls them.
//!
//! The operations beside this file know nothing of GPUs. For each of them a file in `gpu` implements [`OnGpu`], and
//! without the feature `cuda` the implementation is the one below, which is never called.
#![forbid(unsafe_code)]

use crate::engine::stop;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Device, Layout, Result, Shape, Tensor, bail,
};

/// A tensor as candle lends it to a forward pass.
pub(super) type Lent<'a, S> = (&'a S, &'a Layout);

/// Gradients of `N` inputs; `None` for those that nobody wants or the optimizer has used up.
pub(super) type Gradients<const N: usize> = Result<[Option<Tensor>; N]>;

/// An operation on `N` tensors that has gradients. What candle itself does on the processor has neither pass here.
pub(super) trait Operation<const N: usize>: OnGpu<N> {
    /// For messages.
    fn name(&self) -> &'static str;

    /// The result on the processor.
    fn forward(&self, _: [Lent<'_, CpuStorage>; N]) -> Result<(CpuStorage, Shape)> {
        bail!("on the processor {} is candle's", self.name())
    }

    /// Gradients of the inputs on the processor, where that of the result `y` is `dy`; `None` for those that nobody
    /// wants or the optimizer has used up.
    fn backward(&self, _: [&Tensor; N], _y: &Tensor, _dy: &Tensor) -> Gradients<N> {
        bail!("on the processor {} is candle's", self.name())
    }
}

/// The GPU's half of an [`Operation`].
pub(super) trait OnGpu<const N: usize> {
    /// As [`Operation::forward`].
    fn forward_on_gpu(&self, inputs: [Lent<'_, CudaStorage>; N]) -> Result<(CudaStorage, Shape)>;

    /// As [`Operation::backward`]; `dy` is contiguous.
    fn backward_on_gpu(&self, inputs: [&Tensor; N], y: &Tensor, dy: &Tensor) -> Gradients<N>;
}

#[cfg(not(feature = "cuda"))]
impl<O, const N: usize> OnGpu<N> for O {
    fn forward_on_gpu(&self, _: [Lent<'_, CudaStorage>; N]) -> Result<(CudaStorage, Shape)> {
        bail!("it was built without CUDA")
    }

    fn backward_on_gpu(&self, _: [&Tensor; N], _: &Tensor, _: &Tensor) -> Gradients<N> {
        bail!("it was built without CUDA")
    }
}

/// An operation in the form that candle takes.
pub(super) struct Op<O>(pub O);

impl<O> Op<O> {
    /// Where the tensors are decides which half computes the gradients; for the result candle asks for the right one.
    fn gradients<const N: usize>(&self, inputs: [&Tensor; N], y: &Tensor, dy: &Tensor) -> Gradients<N>
    where
        O: Operation<N>,
    {
        match y.device() {
            Device::Cuda(_) => self.0.backward_on_gpu(inputs, y, &dy.contiguous()?),
            _ => {
                let made = self.0.backward(inputs, y, dy)?;
                stop::look().map(|()| made)
            }
        }
    }
}

/// candle's form for operations on so many tensors, each with its layout.
macro_rules! as_candle_calls_it {
    ($Custom:ident<$count:literal>: $($x:ident $layout:ident),+ => $Gradients:ty) => {
        impl<O: Operation<$count>> $Custom for Op<O> {
            fn name(&self) -> &'static str {
                self.0.name()
            }

            fn cpu_fwd(&self, $($x: &CpuStorage, $layout: &Layout),+) -> Result<(CpuStorage, Shape)> {
                let made = self.0.forward([$(($x, $layout)),+])?;
                stop::look().map(|()| made)
            }

            fn cuda_fwd(&self, $($x: &CudaStorage, $layout: &Layout),+) -> Result<(CudaStorage, Shape)> {
                self.0.forward_on_gpu([$(($x, $layout)),+])
            }

            fn bwd(&self, $($x: &Tensor),+, y: &Tensor, dy: &Tensor) -> Result<$Gradients> {
                let [$($x),+] = self.gradients([$($x),+], y, dy)?;
                Ok(($($x),+))
            }
        }
    };
}

as_candle_calls_it! { CustomOp1<1>: a la => Option<Tensor> }
as_candle_calls_it! { CustomOp2<2>: a la, b lb => (Option<Tensor>, Option<Tensor>) }
as_candle_calls_it! { CustomOp3<3>: a la, b lb, c lc => (Option<Tensor>, Option<Tensor>, Option<Tensor>) }
