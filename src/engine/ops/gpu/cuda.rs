//! Runs the kernels and products of `gpu` on an NVIDIA GPU, through candle's device: its stream, its allocator, its
//! cuBLAS.

use super::terms::{Argument, Gpu, Kind, Matrix, Product, Stored, THREADS, View, count};
use crate::engine::ops::operation::Lent;
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::cublas::{result::gemm_strided_batched_ex, sys as cublas};
use candle_core::cuda_backend::cudarc::driver::{
    CudaStream, DevicePtr, DevicePtrMut, LaunchConfig, PushKernelArg, sys,
};
use candle_core::cuda_backend::{CudaStorageSlice, WrapErr, gemm_reduced_precision_f32};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, Result, Shape, Storage, Tensor, bail};
use std::array::from_fn;
use std::ffi::c_void;

/// What build.rs makes of kernels.cu.
const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx"));

/// 256 MB: the patches of a layer of Stable Diffusion at 512 pixels, except for the largest layers of its autoencoder.
const SCRATCH: usize = 64 << 20;

/// A buffer in the GPU's memory; of the kinds only those of [`Kind`], which [`view`] checks.
pub type Slice = CudaStorageSlice;

/// The elements of a tensor there.
pub type Values<'a> = View<'a, Slice>;

/// An argument as the driver takes it.
enum Passed {
    Pointer(sys::CUdeviceptr),
    Count(u32),
    Value(f32),
}

/// Evaluates an expression with the elements of one of the kinds.
macro_rules! with_values {
    ($slice:expr, $values:ident => $result:expr) => {
        match $slice {
            CudaStorageSlice::F32($values) => $result,
            CudaStorageSlice::BF16($values) => $result,
            CudaStorageSlice::F16($values) => $result,
            _ => unreachable!("operations get only kinds that they know, see `view`"),
        }
    };
}

impl Stored for Slice {
    fn kind(&self) -> Kind {
        match self {
            Self::F32(_) => Kind::F32,
            Self::BF16(_) => Kind::Bf16,
            Self::F16(_) => Kind::F16,
            _ => unreachable!("operations get only kinds that they know, see `view`"),
        }
    }
}

impl Kind {
    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    fn of_cublas(self) -> cublas::cudaDataType {
        match self {
            Self::F32 => cublas::cudaDataType::CUDA_R_32F,
            Self::Bf16 => cublas::cudaDataType::CUDA_R_16BF,
            Self::F16 => cublas::cudaDataType::CUDA_R_16F,
        }
    }
}

impl Gpu for CudaDevice {
    type Buffer = Slice;

    fn scratch(&self) -> usize {
        SCRATCH
    }

    fn buffer(&self, len: usize, kind: Kind) -> Result<Slice> {
        // The driver has no blocks of no bytes.
        let len = len.max(1);
        // SAFETY: any bits are a number of these kinds, and a buffer is filled before it is read, in the order of the
        // one stream of a device.
        unsafe {
            Ok(match kind {
                Kind::F32 => Slice::F32(self.alloc(len)?),
                Kind::Bf16 => Slice::BF16(self.alloc(len)?),
                Kind::F16 => Slice::F16(self.alloc(len)?),
            })
        }
    }

    fn launch(&self, kernel: &str, blocks: usize, arguments: &mut [Argument<'_, Slice>]) -> Result<()> {
        let stream = self.cuda_stream();
        let mut passed = Vec::with_capacity(arguments.len());
        for argument in arguments {
            passed.push(match argument {
                Argument::In(view) => Passed::Pointer(address(view, &stream)),
                Argument::Out(buffer) => Passed::Pointer(address_mut(buffer, 0, &stream)),
                Argument::OutFrom((buffer, start)) => Passed::Pointer(address_mut(buffer, *start, &stream)),
                Argument::Count(number) => Passed::Count(count(*number)?),
                Argument::Value(value) => Passed::Value(*value),
            });
        }
        let function = self.get_or_load_custom_func(kernel, "imagic", PTX)?;
        let mut launch = function.builder();
        for argument in &passed {
            match argument {
                Passed::Pointer(pointer) => launch.arg(pointer),
                Passed::Count(count) => launch.arg(count),
                Passed::Value(value) => launch.arg(value),
            };
        }
        let shape = LaunchConfig {
            grid_dim: (count(blocks)?, 1, 1),
            block_dim: (THREADS as u32, 1, 1),
            shared_mem_bytes: 0, // beyond what the kernels declare
        };
        // SAFETY: the functions of `gpu` pass what the kernel of that name takes; the tests there run all of them with
        // the kernels as C++, which refuses other arguments and tensors of another kind. Events need not be recorded:
        // there is one stream.
        unsafe { launch.launch(shape) }.w()?;
        Ok(())
    }

    fn matmul(&self, out: &mut Slice, a: Matrix<'_, Slice>, b: Matrix<'_, Slice>, product: Product) -> Result<()> {
        let Product { m, n, k, scale, add, out_start, out_row, out_batch, batches } = product;
        let stream = self.cuda_stream();
        let int = |number| Ok::<_, candle_core::Error>(count(number)? as i32);
        let pointer = |matrix: &Matrix<'_, Slice>| address(&matrix.view, &stream) as *const c_void;
        let operation = |matrix: &Matrix<'_, Slice>| match matrix.transposed {
            false => cublas::cublasOperation_t::CUBLAS_OP_N,
            true => cublas::cublasOperation_t::CUBLAS_OP_T,
        };
        let (factors, result) = (a.view.kind(), out.kind());
        if b.view.kind() != factors || (result != factors && result != Kind::F32) {
            bail!("a product of {factors:?} and {:?} cannot be {result:?}", b.view.kind())
        }
        // Sums are of f32 in any case.
        let compute = match factors == Kind::F32 && gemm_reduced_precision_f32() {
            false => cublas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            true => cublas::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
        };
        let beta = if add { 1.0f32 } else { 0.0 };
        let out = address_mut(out, out_start, &stream) as *mut c_void;
        // cuBLAS counts down columns: what it takes for a matrix is the transpose of ours, and out^T = b^T a^T.
        // SAFETY: all pointers are to memory of this device, and `product` and the matrices say what lies there; the
        // tests of `gpu` compute the same products on the processor with bounds checked.
        unsafe {
            gemm_strided_batched_ex(
                *self.cublas_handle().handle(),
                operation(&b),
                operation(&a),
                int(n)?,
                int(m)?,
                int(k)?,
                (&raw const scale).cast(),
                pointer(&b),
                factors.of_cublas(),
                int(b.row)?,
                b.batch as i64,
                pointer(&a),
                factors.of_cublas(),
                int(a.row)?,
                a.batch as i64,
                (&raw const beta).cast(),
                out,
                result.of_cublas(),
                int(out_row)?,
                out_batch as i64,
                int(batches)?,
                compute,
                cublas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .w()
    }
}

/// The address of a view's first element.
fn address(view: &Values<'_>, stream: &CudaStream) -> sys::CUdeviceptr {
    let pointer = with_values!(view.buffer, values => values.device_ptr(stream).0);
    pointer + (view.start * view.kind().bytes()) as u64
}

/// The address of element `start` of a buffer.
fn address_mut(buffer: &mut Slice, start: usize, stream: &CudaStream) -> sys::CUdeviceptr {
    let bytes = buffer.kind().bytes();
    let pointer = with_values!(buffer, values => values.device_ptr_mut(stream).0);
    pointer + (start * bytes) as u64
}

/// What an operation gets from candle.
pub fn view<'a>((storage, layout): Lent<'a, CudaStorage>) -> Result<Values<'a>> {
    if !matches!(storage.slice, Slice::F32(_) | Slice::BF16(_) | Slice::F16(_)) {
        bail!("no operation takes tensors of {:?}", storage.dtype())
    }
    match layout.contiguous_offsets() {
        Some((start, _)) => Ok(View { buffer: &storage.slice, start }),
        None => bail!("a tensor of shape {:?} is not contiguous", layout.shape()),
    }
}

/// What an operation gives back to candle: what `compute` makes of the elements that candle lends.
pub fn result<const N: usize>(
    inputs: [Lent<'_, CudaStorage>; N],
    shape: impl Into<Shape>,
    compute: impl FnOnce(&CudaDevice, [Values<'_>; N]) -> Result<Slice>,
) -> Result<(CudaStorage, Shape)> {
    let (views, device) = (inputs.into_iter().map(view).collect::<Result<Vec<_>>>()?, &inputs[0].0.device);
    let slice = compute(device, from_fn(|input| views[input]))?;
    Ok((CudaStorage { slice, device: device.clone() }, shape.into()))
}

/// A tensor of `like`'s shape.
pub fn tensor(slice: Slice, device: &CudaDevice, like: &Tensor) -> Tensor {
    let storage = Storage::Cuda(CudaStorage { slice, device: device.clone() });
    Tensor::from_storage(storage, like.shape(), BackpropOp::none(), false)
}

/// Calls `f` with the elements of contiguous tensors on the GPU, which are locked until it is done.
pub fn with_elements<const N: usize, R>(
    tensors: [&Tensor; N],
    f: impl FnOnce([Values<'_>; N]) -> Result<R>,
) -> Result<R> {
    let held = tensors.map(Tensor::storage_and_layout);
    let views = held.iter().map(|(storage, layout)| match &**storage {
        Storage::Cuda(storage) => view((storage, layout)),
        _ => bail!("a tensor of shape {:?} is not on the GPU", layout.shape()),
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    f(from_fn(|tensor| views[tensor]))
}
