//! What an engine computes on: the processor, or the GPU of its machine where that can be used. Knows no operation.
#![deny(unsafe_code)]

#[cfg(feature = "cuda")]
#[allow(unsafe_code, reason = "asks the driver for what cudarc has no function for")]
mod cuda;
#[cfg(feature = "cuda")]
#[allow(unsafe_code, reason = "finds CUDA's functions when the program runs")]
mod symbols;

use candle_core::Device;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};

/// What an engine may compute on.
#[derive(Clone, Debug)]
pub enum Processor {
    /// The processor.
    Cpu,
    /// The GPU if there is one that can be used, otherwise the processor.
    Fastest {
        /// Folders in which CUDA's libraries are looked for where the system's loader does not find them.
        libraries: Vec<PathBuf>,
        /// Of a GPU's matrix products; the processor's are always of f32.
        precision: Precision,
    },
}

/// What a GPU multiplies matrices in. All numbers are kept in f32, and sums are taken in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// f32, as on the processor.
    F32,
    /// The tensor cores' 32 bit numbers, which have 10 bits behind the point instead of 23, as f16 has; several times as fast.
    Tf32,
}

/// How attention is computed on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Attention {
    /// [`Attention::Fused`] with [`Precision::Tf32`], else [`Attention::Scores`].
    ByPrecision,
    /// By kernels that keep scores to themselves, for the sizes that have one; these always multiply in TF32.
    Fused,
    /// By products of matrices, with scores in memory.
    Scores,
}

static ATTENTION: AtomicU8 = AtomicU8::new(Attention::ByPrecision as u8);

/// Chooses for this process, so that both ways can be measured and tested.
#[doc(hidden)]
pub fn set_attention(attention: Attention) {
    ATTENTION.store(attention as u8, Ordering::Relaxed);
}

/// Whether a GPU's attention keeps scores to itself where it can.
#[cfg(feature = "cuda")]
pub(super) fn fuses_attention(precision: Precision) -> bool {
    match ATTENTION.load(Ordering::Relaxed) {
        attention if attention == Attention::Fused as u8 => true,
        attention if attention == Attention::Scores as u8 => false,
        _ => precision == Precision::Tf32,
    }
}

/// What an engine computes on.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// For tensors.
    pub device: Device,
    /// The GPU's name, memory and driver; `None` for the processor.
    pub gpu: Option<String>,
    /// Why it is not a GPU, where one was to be used: the cause, and what to do if something can be done.
    pub reason: Option<String>,
}

impl Processor {
    /// Takes up to a second where there is a GPU. The answer is the same each time, but for a GPU whose memory is used up.
    pub fn choose(&self) -> Chosen {
        let cpu = |reason| Chosen { device: Device::Cpu, gpu: None, reason };
        match self {
            Self::Cpu => cpu(None),
            Self::Fastest { libraries, precision } => {
                gpu(libraries, *precision).unwrap_or_else(|reason| cpu(Some(reason)))
            }
        }
    }
}

impl Chosen {
    /// While this lives, a GPU's memory that is freed is kept for what comes next; then other programs get it back.
    pub fn at_work(&self) -> AtWork {
        AtWork(self.clone())
    }

    /// Bytes of memory that can still be had; `of_system` tells for the processor.
    pub fn free_memory(&self, of_system: fn() -> Option<u64>) -> Option<u64> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = &self.device {
            return cuda::free_memory(device);
        }
        of_system()
    }

    /// Bytes of a GPU's memory that were in use at most; `None` for the processor.
    pub fn most_memory(&self) -> Option<u64> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = &self.device {
            return cuda::most_memory(device);
        }
        None
    }
}

/// See [`Chosen::at_work`].
#[must_use]
pub struct AtWork(#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the processor keeps nothing"))] Chosen);

impl Drop for AtWork {
    fn drop(&mut self) {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = &self.0.device {
            cuda::give_back_memory(device);
        }
    }
}

#[cfg(feature = "cuda")]
fn gpu(libraries: &[PathBuf], precision: Precision) -> std::result::Result<Chosen, String> {
    let (device, name) = cuda::open(libraries, precision)?;
    Ok(Chosen { device: Device::Cuda(device), gpu: Some(name), reason: None })
}

#[cfg(not(feature = "cuda"))]
fn gpu(_: &[PathBuf], _: Precision) -> std::result::Result<Chosen, String> {
    Err("it was built without CUDA".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_what_there_always_is() {
        let chosen = Processor::Cpu.choose();
        assert!(chosen.device.is_cpu() && chosen.gpu.is_none() && chosen.reason.is_none());
        assert_eq!(chosen.free_memory(|| Some(7)), Some(7));
    }

    /// Also where there is neither a driver nor a GPU, as on most machines that run this.
    #[test]
    fn the_fastest_is_a_gpu_or_says_why_not() {
        let chosen = Processor::Fastest { libraries: vec!["/nowhere".into()], precision: Precision::F32 }.choose();
        assert_eq!(chosen.device.is_cpu(), chosen.gpu.is_none());
        match &chosen.reason {
            Some(reason) => println!("skipped: nothing was run on a GPU: {reason}"),
            None => println!("{}", chosen.gpu.expect("there is one")),
        }
        assert_eq!(chosen.device.is_cpu(), chosen.reason.is_some());
    }
}
