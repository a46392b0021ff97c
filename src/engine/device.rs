//! What an engine computes on: the processor, or the GPU of its machine where that can be used. Knows no operation.
#![deny(unsafe_code)]

#[cfg(feature = "cuda")]
#[allow(unsafe_code, reason = "asks the driver for what cudarc has no function for")]
mod cuda;
mod graph;
mod precision;
mod repeated;
#[cfg(feature = "cuda")]
#[allow(unsafe_code, reason = "finds CUDA's functions when the program runs")]
mod symbols;

pub use graph::{Launches, Place};
pub use precision::{AttentionKernels, Form, Precision};
pub use repeated::RepeatedStep;

use candle_core::Device;
use std::path::PathBuf;

/// Whether it was built for GPUs, too.
pub const WITH_CUDA: bool = cfg!(feature = "cuda");

/// What an engine may compute on.
#[derive(Clone, Debug)]
pub enum Processor {
    /// The processor.
    Cpu,
    /// The GPU if there is one that can be used, otherwise the processor.
    Fastest {
        /// Folders in which CUDA's libraries are looked for where the system's loader does not find them.
        libraries: Vec<PathBuf>,
        /// Of a GPU; the processor computes in f32 always.
        precision: Precision,
        /// Of a GPU's kernels.
        launches: Launches,
        /// Whether a GPU may keep Adam's moments in 8 bits where memory is short. Never run on a card.
        eight_bit_moments: bool,
    },
}

/// What an engine computes on.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// For tensors.
    pub device: Device,
    /// What it computes in.
    pub precision: Precision,
    /// The GPU's name, memory and driver; `None` for the processor.
    pub gpu: Option<String>,
    /// Why it is not a GPU, where one was to be used: the cause, and what to do if something can be done.
    pub reason: Option<String>,
    /// How a GPU's kernels are launched.
    pub launches: Launches,
    /// Whether it may keep Adam's moments in 8 bits where memory is short.
    pub eight_bit_moments: bool,
}

impl Processor {
    /// Takes up to a second where there is a GPU. The answer is the same each time, except for a GPU whose memory is
    /// used up.
    pub fn choose(&self) -> Chosen {
        let cpu = Chosen {
            device: Device::Cpu,
            precision: Precision::F32,
            gpu: None,
            reason: None,
            launches: Launches::Eager,
            eight_bit_moments: false,
        };
        let Self::Fastest { ref libraries, precision, launches, eight_bit_moments } = *self else { return cpu };
        match gpu(libraries, precision) {
            Ok((device, name)) => {
                Chosen { device, precision, gpu: Some(name), reason: None, launches, eight_bit_moments }
            }
            Err(reason) => Chosen { reason: Some(reason), ..cpu },
        }
    }

    /// Switches on what was never run on a card and is off by default, named by words with commas between them:
    /// `graphs` ([`Launches::Replayed`]), `attention` ([`AttentionKernels::Own`], which goes with [`Precision::Tf32`]
    /// only) and `moments8` (Adam's moments in 8 bits). The error is the word that cannot be had.
    pub fn with_experiments(mut self, words: &str) -> std::result::Result<Self, String> {
        let Self::Fastest { precision, launches, eight_bit_moments, .. } = &mut self else { return Ok(self) };
        for word in words.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match (word, *precision) {
                ("graphs", _) => *launches = Launches::Replayed,
                ("attention", Precision::Tf32 | Precision::Tf32OwnAttention) => {
                    *precision = Precision::Tf32OwnAttention;
                }
                ("moments8", _) => *eight_bit_moments = true,
                _ => return Err(word.to_owned()),
            }
        }
        Ok(self)
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
fn gpu(libraries: &[PathBuf], precision: Precision) -> std::result::Result<(Device, String), String> {
    let (device, name) = cuda::open(libraries, precision)?;
    Ok((Device::Cuda(device), name))
}

#[cfg(not(feature = "cuda"))]
fn gpu(_: &[PathBuf], _: Precision) -> std::result::Result<(Device, String), String> {
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
        let libraries = vec!["/nowhere".into()];
        let (precision, launches) = (Precision::F32, Launches::Eager);
        let chosen = Processor::Fastest { libraries, precision, launches, eight_bit_moments: false }.choose();
        assert_eq!(chosen.device.is_cpu(), chosen.gpu.is_none());
        match &chosen.reason {
            Some(reason) => println!("skipped: nothing was run on a GPU: {reason}"),
            None => println!("{}", chosen.gpu.expect("there is one")),
        }
        assert_eq!(chosen.device.is_cpu(), chosen.reason.is_some());
    }

    #[test]
    fn experiments_are_switched_on_by_their_words_only() {
        let asked = |precision, words: &str| {
            let (libraries, launches) = (Vec::new(), Launches::Eager);
            let processor = Processor::Fastest { libraries, precision, launches, eight_bit_moments: false };
            match processor.with_experiments(words)? {
                Processor::Cpu => panic!("it was the fastest"),
                Processor::Fastest { precision, launches, eight_bit_moments, .. } => {
                    Ok::<_, String>((precision, launches, eight_bit_moments))
                }
            }
        };
        use {Launches::*, Precision::*};
        assert_eq!(asked(Tf32, ""), Ok((Tf32, Eager, false)));
        assert_eq!(asked(Tf32, "graphs, attention"), Ok((Tf32OwnAttention, Replayed, false)));
        assert_eq!(asked(Bf16, "moments8,graphs"), Ok((Bf16, Replayed, true)));
        assert_eq!(asked(Bf16, "attention"), Err("attention".into()));
        assert_eq!(asked(Tf32, "graphs,Graphs"), Err("Graphs".into()));
    }
}
