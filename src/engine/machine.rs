//! Where an engine works: what it may use of this machine, and what it computes on. Knows no model.
#![forbid(unsafe_code)]

use super::device::Chosen;
use super::request::EngineOptions;
use candle_core::Device;
use std::cell::OnceCell;

/// The engine's options and the processor or GPU that it has chosen.
pub struct Machine {
    /// Folders and limits.
    pub options: EngineOptions,
    /// Chosen once there is something to do, because it takes up to a second where there is a GPU.
    chosen: OnceCell<Chosen>,
}

impl Machine {
    /// Chooses nothing yet.
    pub fn new(options: EngineOptions) -> Self {
        Self { options, chosen: OnceCell::new() }
    }

    /// What it computes on.
    pub fn chosen(&self) -> &Chosen {
        self.chosen.get_or_init(|| self.options.processor.choose())
    }

    /// For tensors.
    pub fn device(&self) -> &Device {
        &self.chosen().device
    }

    /// Bytes of the memory of what it computes on that can still be had; `None` if nobody says.
    pub fn free_memory(&self) -> Option<u64> {
        self.chosen().free_memory(self.options.free_memory)
    }
}
