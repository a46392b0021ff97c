//! What stages A and B make, and stage C draws with.
#![forbid(unsafe_code)]

use crate::engine::model::conditioning::Conditioning;
use crate::engine::model::lora;
use crate::engine::model::weights::Weights;
use crate::error::Result;
use candle_core::{DType, Tensor};

/// The product of stages A and B.
pub struct TunedModel {
    /// The optimized embedding.
    pub e_opt: Conditioning,
    /// The tuned network's weights.
    pub unet: Weights,
    /// How well the base model's autoencoder gives the picture back, in dB; `None` where nobody asked when it was
    /// tuned.
    pub psnr: Option<f64>,
}

impl TunedModel {
    /// Whether stage B left the base model's weights as they were.
    pub fn has_adapters(&self) -> bool {
        self.unet.tensors.keys().any(|name| lora::is_adapter(name))
    }

    /// The weights with that share of what stage B has changed, from 0 to 1; `base` reads the base model's.
    pub fn with_share(&self, share: f64, base: impl FnOnce() -> Result<Weights>) -> Result<Weights> {
        let mut mixed = self.unet.clone();
        if share == 1.0 {
            return Ok(mixed);
        }
        if self.has_adapters() {
            // Of the product B A one factor is enough.
            for (_, tensor) in mixed.tensors.iter_mut().filter(|(name, _)| name.ends_with(lora::B)) {
                *tensor = (&*tensor * share)?;
            }
            return Ok(mixed);
        }
        let base = base()?;
        for (name, tensor) in &mut mixed.tensors {
            let before = base.tensors[name].to_dtype(DType::F32)?;
            *tensor = ((&*tensor * share)? + (before * (1.0 - share))?)?;
        }
        Ok(mixed)
    }

    /// The tensors that are not the base model's.
    pub fn own_tensors(&self) -> impl Iterator<Item = (&String, &Tensor)> {
        let has_adapters = self.has_adapters();
        self.unet.tensors.iter().filter(move |(name, _)| !has_adapters || lora::is_adapter(name))
    }
}
