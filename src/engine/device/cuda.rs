//! The NVIDIA GPU of this machine: whether it can be used, and how much of its memory is free.

use super::precision::Precision;
use super::symbols;
use crate::error::sentence;
use candle_core::CudaDevice;
use candle_core::cuda_backend::cudarc::cublas::sys as cublas;
use candle_core::cuda_backend::cudarc::driver::{DriverError, result, sys};
use candle_core::cuda_backend::{WrapErr, set_gemm_reduced_precision_f32};
use std::ffi::{c_int, c_void};
use std::path::PathBuf;

/// What the kernels are translated from and the driver must know: CUDA 13.0, driver 580.
const LEAST_CUDA: c_int = 13_000;
/// What build.rs compiles the kernels for: Ampere, RTX 30 and A100.
const LEAST_CAPABILITY: (c_int, c_int) = (8, 0);
/// Less than the smallest model of the Stable Diffusion family takes with adapters, where an edit is not even to be
/// begun.
const LEAST_MEMORY: usize = 3 << 30;

/// What operations hold for a moment beside what is counted for them: patches, scores and their gradients, and cuBLAS's
/// own.
const SCRATCH: u64 = 1 << 30;

/// The first GPU that can be used and what it is called, or why there is none.
pub fn open(libraries: &[PathBuf], precision: Precision) -> Result<(CudaDevice, String), String> {
    symbols::load(libraries)?;
    let driver = driver_version().map_err(said)?;
    let version = |number: c_int| format!("{}.{}", number / 1000, number % 1000 / 10);
    if driver < LEAST_CUDA {
        let (has, least) = (version(driver), version(LEAST_CUDA));
        return Err(format!(
            "NVIDIA's driver is of CUDA {has}, must be of {least} or newer; install driver 580 or newer"
        ));
    }
    result::init().map_err(|error| format!("NVIDIA's driver finds no GPU: {}", said(error)))?;
    let mut refused = "NVIDIA's driver finds no GPU".to_owned();
    for ordinal in 0..result::device::get_count().map_err(said)? {
        match suits(ordinal) {
            Err(reason) => refused = reason,
            Ok((name, memory)) => {
                let device = begin(ordinal, precision)
                    .map_err(|error| format!("{name} cannot be used: {}", sentence(&error)))?;
                let gb = memory as f64 / 1e9;
                let unusual = match precision {
                    Precision::Tf32 => "",
                    Precision::Tf32OwnAttention => ", with its own attention",
                    Precision::F32 => ", in f32",
                    Precision::Bf16 => ", in bf16",
                };
                return Ok((device, format!("{name}, {gb:.1} GB, CUDA {}{unusual}", version(driver))));
            }
        }
    }
    Err(refused)
}

/// Name and memory in bytes of a GPU that can be used.
fn suits(ordinal: c_int) -> Result<(String, usize), String> {
    use sys::CUdevice_attribute_enum as Attribute;
    let device = result::device::get(ordinal).map_err(said)?;
    let name = result::device::get_name(device).map_err(said)?;
    let attribute = |which| {
        // SAFETY: `device` comes from the driver.
        unsafe { result::device::get_attribute(device, which) }.map_err(said)
    };
    let capability = (
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    if capability < LEAST_CAPABILITY {
        let ((major, minor), (least_major, least_minor)) = (capability, LEAST_CAPABILITY);
        return Err(format!(
            "{name} has compute capability {major}.{minor}, must be {least_major}.{least_minor} or more: a \
             card of 2020 or newer"
        ));
    }
    // SAFETY: as above.
    let memory = unsafe { result::device::total_mem(device) }.map_err(said)?;
    if memory < LEAST_MEMORY {
        let gb = |bytes: usize| bytes as f64 / 1e9;
        return Err(format!("{name} has {:.1} GB of memory, must have {:.1} GB", gb(memory), gb(LEAST_MEMORY)));
    }
    Ok((name, memory))
}

fn begin(ordinal: c_int, precision: Precision) -> candle_core::Result<CudaDevice> {
    // Unlike candle's ordinary device, whose threads have a stream each: weights are read by several threads.
    let device = CudaDevice::new_with_stream(ordinal as usize)?;
    // SAFETY: all work is on the one stream made here, in the order in which it is called for.
    unsafe { device.disable_event_tracking() };
    let sums_in_f32 = cublas::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
    // Otherwise cuBLAS may add up parts of a long sum in the 16 bits of its result.
    // SAFETY: the handle is the device's own.
    unsafe { cublas::cublasSetMathMode(*device.cublas_handle().handle(), sums_in_f32) }.result().w()?;
    // candle keeps this for the whole process; our own products ask it, too.
    set_gemm_reduced_precision_f32(precision != Precision::F32);
    give_workspace(&device)?;
    // Otherwise freed memory goes back to the system whenever the loss is read, and the next step asks for all of it
    // again. Without, it is only slower.
    set_bytes_of_pool(&device, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, u64::MAX);
    Ok(device)
}

/// Gives cuBLAS memory for what it puts down for a moment. Its own it would take anew in every product of a recorded
/// step.
fn give_workspace(device: &CudaDevice) -> candle_core::Result<()> {
    // NVIDIA's recommendation in the documentation of cublasSetWorkspace: 32 MB from Hopper on, 4 MB before.
    let major = sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR;
    let newer = device.cuda_stream().context().attribute(major).w()? >= 9;
    let bytes = if newer { 32 << 20 } else { 4 << 20 };
    // SAFETY: cuBLAS reads nothing there that it has not written.
    let workspace = unsafe { device.alloc::<u8>(bytes)? };
    // Never freed, because cuBLAS may use it as long as any tensor of this device lives; a process opens a device once.
    let workspace = workspace.leak() as *mut c_void;
    // SAFETY: the handle is candle's, whose stream is set already, and the memory is of that size.
    unsafe { cublas::cublasSetWorkspace_v2(*device.cublas_handle().handle(), workspace, bytes) }.result().w()
}

fn pool(device: &CudaDevice) -> Result<sys::CUmemoryPool, DriverError> {
    let ordinal = device.cuda_stream().context().cu_device();
    let mut pool = std::ptr::null_mut();
    // SAFETY: the driver writes one pool to the pointer.
    unsafe { sys::cuDeviceGetDefaultMemPool(&raw mut pool, ordinal) }.result()?;
    Ok(pool)
}

/// Bytes of its memory that can still be had.
pub fn free_memory(device: &CudaDevice) -> Option<u64> {
    let (free, _) = device.cuda_stream().context().mem_get_info().ok()?;
    // What the pool has taken and does not use.
    let reserved = bytes_of_pool(device, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT).unwrap_or(0);
    let used = bytes_of_pool(device, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT).unwrap_or(0);
    Some((free as u64 + reserved.saturating_sub(used)).saturating_sub(SCRATCH))
}

/// Gives other programs what is free in the pool.
pub fn give_back_memory(device: &CudaDevice) {
    let stream = device.cuda_stream();
    // What is still being used would stay. Both can fail only together with the edit that they follow, which tells why.
    if stream.synchronize().is_ok()
        && let Ok(pool) = pool(device)
    {
        // SAFETY: a pool of the driver's.
        let _ = unsafe { sys::cuMemPoolTrimTo(pool, 0) }.result();
        // SAFETY: the device that the stream is of. This is what graphs had that are gone.
        let _ = unsafe { sys::cuDeviceGraphMemTrim(stream.context().cu_device()) }.result();
    }
}

/// [`memory_of_a_run`] and [`most_memory`] count from here.
pub fn forget_most_memory(device: &CudaDevice) {
    // Without, more seems to be taken than is.
    set_bytes_of_pool(device, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH, 0);
}

/// Bytes of the GPU's memory that are free, where the pool keeps none, and what was taken since [`forget_most_memory`]
/// and is free again.
pub fn memory_of_a_run(device: &CudaDevice) -> Option<(u64, u64)> {
    let (free, _) = device.cuda_stream().context().mem_get_info().ok()?;
    let most = bytes_of_pool(device, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)?;
    let used = bytes_of_pool(device, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
    Some((free as u64, most.saturating_sub(used)))
}

/// Bytes that were in use at most since the last stage began; without what driver and cuBLAS take for themselves.
pub fn most_memory(device: &CudaDevice) -> Option<u64> {
    let most = bytes_of_pool(device, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)?;
    let used = bytes_of_pool(device, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
    let mut of_graphs = 0u64;
    let attribute = sys::CUgraphMem_attribute::CU_GRAPH_MEM_ATTR_USED_MEM_HIGH;
    let ordinal = device.cuda_stream().context().cu_device();
    // SAFETY: this attribute is a u64, and the driver writes one to the pointer.
    let answer = unsafe { sys::cuDeviceGetGraphMemAttribute(ordinal, attribute, (&raw mut of_graphs).cast()) };
    answer.result().ok()?;
    Some(most.max(used + of_graphs))
}

/// One of the pool's attributes that are numbers of bytes.
fn bytes_of_pool(device: &CudaDevice, which: sys::CUmemPool_attribute) -> Option<u64> {
    let mut bytes = 0u64;
    // SAFETY: these attributes are u64s, and the driver writes one to the pointer.
    let answer = unsafe { sys::cuMemPoolGetAttribute(pool(device).ok()?, which, (&raw mut bytes).cast()) };
    answer.result().ok().map(|()| bytes)
}

/// Sets one of them, where the driver lets it.
fn set_bytes_of_pool(device: &CudaDevice, which: sys::CUmemPool_attribute, bytes: u64) {
    if let Ok(pool) = pool(device) {
        // SAFETY: these attributes are u64s, and this one lives until the call is over.
        let _ = unsafe { sys::cuMemPoolSetAttribute(pool, which, (&raw const bytes).cast_mut().cast()) }.result();
    }
}

fn driver_version() -> Result<c_int, DriverError> {
    let mut version = 0;
    // SAFETY: the driver writes one number to the pointer.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
    Ok(version)
}

/// What the driver says about it.
pub fn said(error: DriverError) -> String {
    match error.error_string() {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => error.to_string(),
    }
}
