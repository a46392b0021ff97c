//! Runs the kernels and products of `gpu` on an NVIDIA GPU, through candle's device: its stream, its allocator, its cuBLAS.

use super::adam8::adam8_step;
use super::{AdamStep, Argument, Gpu, Matrix, Product, THREADS, View, adam_step, count};
use crate::engine::device::{Precision, fuses_attention};
use crate::engine::optimizer::{Adam, MomentBits};
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::cublas::{result::gemm_strided_batched_ex, sys as cublas};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut, LaunchConfig, PushKernelArg, sys};
use candle_core::cuda_backend::{WrapErr, gemm_reduced_precision_f32};
use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, InplaceOp1, Layout, Result, Storage, StorageRef, Tensor, Var, bail,
};
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

/// What build.rs makes of kernels.cu.
const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx"));

/// 256 MB: the patches of a layer of Stable Diffusion at 512 pixels, but for the largest ones of its autoencoder.
const SCRATCH: usize = 64 << 20;

/// Values in the GPU's memory.
pub type Slice = CudaSlice<f32>;

/// The values of a tensor there.
pub type Values<'a> = View<'a, Slice>;

/// An argument as the driver takes it.
enum Passed {
    Pointer(sys::CUdeviceptr),
    Count(u32),
    Value(f32),
}

impl Gpu for CudaDevice {
    type Buffer = Slice;

    fn scratch(&self) -> usize {
        SCRATCH
    }

    fn fuses_attention(&self) -> bool {
        fuses_attention(if gemm_reduced_precision_f32() { Precision::Tf32 } else { Precision::F32 })
    }

    fn buffer(&self, len: usize) -> Result<Slice> {
        // SAFETY: f32 of any bits is a number, and what reads a buffer runs behind what fills it, on the one stream of a device.
        // The driver has no blocks of no bytes.
        unsafe { self.alloc(len.max(1)) }
    }

    fn launch(&self, kernel: &'static str, blocks: usize, arguments: &mut [Argument<'_, Slice>]) -> Result<()> {
        let stream = self.cuda_stream();
        let mut passed = Vec::with_capacity(arguments.len());
        for argument in arguments {
            passed.push(match argument {
                Argument::In(view) => Passed::Pointer(address(view.buffer.device_ptr(&stream).0, view.start)),
                Argument::Out(buffer) => Passed::Pointer(buffer.device_ptr_mut(&stream).0),
                Argument::OutFrom((buffer, start)) => {
                    Passed::Pointer(address(buffer.device_ptr_mut(&stream).0, *start))
                }
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
        // SAFETY: the functions of `gpu` pass what the kernel of that name takes; the tests there run all of them with the
        // kernels as C++, which refuses another number of arguments. Events need not be recorded: there is one stream.
        unsafe { launch.launch(shape) }.w()?;
        Ok(())
    }

    fn matmul(&self, out: &mut Slice, a: Matrix<'_, Slice>, b: Matrix<'_, Slice>, product: Product) -> Result<()> {
        let Product { m, n, k, scale, add, out_start, out_row, out_batch, batches } = product;
        let stream = self.cuda_stream();
        let int = |number| Ok::<_, candle_core::Error>(count(number)? as i32);
        let pointer = |matrix: &Matrix<'_, Slice>| {
            address(matrix.view.buffer.device_ptr(&stream).0, matrix.view.start) as *const c_void
        };
        let operation = |matrix: &Matrix<'_, Slice>| match matrix.transposed {
            false => cublas::cublasOperation_t::CUBLAS_OP_N,
            true => cublas::cublasOperation_t::CUBLAS_OP_T,
        };
        let compute = match gemm_reduced_precision_f32() {
            false => cublas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            true => cublas::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
        };
        let real = cublas::cudaDataType::CUDA_R_32F;
        let beta = if add { 1.0f32 } else { 0.0 };
        let out = address(out.device_ptr_mut(&stream).0, out_start) as *mut c_void;
        // cuBLAS counts down columns: what it takes for a matrix is the transpose of ours, and out^T = b^T a^T.
        // SAFETY: all pointers are to memory of this device, and `product` and the matrices say what lies there; the tests of
        // `gpu` compute the same products on the processor with bounds checked.
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
                real,
                int(b.row)?,
                b.batch as i64,
                pointer(&a),
                real,
                int(a.row)?,
                a.batch as i64,
                (&raw const beta).cast(),
                out,
                real,
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

/// The address of value `start`.
fn address(pointer: sys::CUdeviceptr, start: usize) -> sys::CUdeviceptr {
    pointer + (start * size_of::<f32>()) as u64
}

/// What an operation gets from candle.
pub fn view<'a>(storage: &'a CudaStorage, layout: &Layout) -> Result<Values<'a>> {
    match layout.contiguous_offsets() {
        Some((start, _)) => Ok(View { buffer: storage.as_cuda_slice::<f32>()?, start }),
        None => bail!("a tensor of shape {:?} is not contiguous", layout.shape()),
    }
}

/// What an operation gives back to candle.
pub fn storage(values: Slice, device: &CudaDevice) -> CudaStorage {
    CudaStorage::wrap_cuda_slice(values, device.clone())
}

/// A tensor of `like`'s shape.
pub fn tensor(values: Slice, device: &CudaDevice, like: &Tensor) -> Tensor {
    Tensor::from_storage(Storage::Cuda(storage(values, device)), like.shape(), BackpropOp::none(), false)
}

/// A tensor on the GPU while its values are used.
pub struct Held<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> Held<'a> {
    /// `tensor` must be contiguous.
    pub fn of(tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Self { storage, layout }
    }

    /// Its values.
    pub fn view(&self) -> Result<Values<'_>> {
        match &*self.storage {
            Storage::Cuda(storage) => view(storage, self.layout),
            _ => bail!("a tensor of shape {:?} is not on the GPU", self.layout.shape()),
        }
    }
}

/// As `hand_over` in `ops`, with a gradient in the GPU's memory.
pub fn hand_over(
    optimizer: &Option<Arc<Adam>>,
    device: &CudaDevice,
    parameter: &Tensor,
    gradient: impl FnOnce() -> Result<Slice>,
) -> Result<Option<Tensor>> {
    if !parameter.track_op() {
        return Ok(None);
    }
    let gradient = gradient()?;
    match optimizer {
        Some(optimizer) if optimizer.trains(parameter) => {
            optimizer.take_on_gpu(parameter, View::all(&gradient)).map(|()| None)
        }
        _ => Ok(Some(tensor(gradient, device, parameter))),
    }
}

/// Adam's moments of one variable.
pub enum Moments {
    /// Not there before the first step.
    None(MomentBits),
    /// Each as many as the variable's numbers.
    Each([Slice; 2]),
    /// In 8 bits, together.
    Coded(Slice),
}

/// Changes `variable` and its moments, which are 0 if there are none yet.
pub fn adam(variable: &Var, gradient: Values<'_>, moments: &mut Moments, step: AdamStep) -> Result<()> {
    variable.inplace_op1(&Step { gradient, moments: Mutex::new(moments), step })
}

struct Step<'a> {
    gradient: Values<'a>,
    /// Behind a lock only because candle lends the operation immutably.
    moments: Mutex<&'a mut Moments>,
    step: AdamStep,
}

impl InplaceOp1 for Step<'_> {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        bail!("a variable on the CPU has a gradient on the GPU")
    }

    fn cuda_fwd(&self, variable: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let device = variable.device().clone();
        let values = layout.shape().elem_count();
        if layout.contiguous_offsets() != Some((0, values)) {
            bail!("only variables of f32 that lie in a row are trained")
        }
        let mut moments = self.moments.lock().expect("no thread panics while it holds this lock");
        if let Moments::None(bits) = **moments {
            **moments = match bits {
                MomentBits::Eight if bits.codes(values) => Moments::Coded(device.alloc_zeros(bits.numbers(values))?),
                _ => Moments::Each([device.alloc_zeros(values)?, device.alloc_zeros(values)?]),
            };
        }
        let p = variable.as_cuda_slice_mut::<f32>()?;
        match &mut **moments {
            Moments::None(_) => unreachable!("set above"),
            Moments::Each([first, second]) => adam_step(&device, p, self.gradient, [first, second], self.step, values),
            Moments::Coded(coded) => adam8_step(&device, p, self.gradient, coded, self.step, values),
        }
    }
}
