//! What stages A and B make, and stage C draws with.
#![forbid(unsafe_code)]

use crate::engine::model::conditioning::Conditioning;
use crate::engine::model::lora;
use crate::engine::model::weights::Weights;
use candle_core::Tensor;

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

    /// The tensors that are not the base model's.
    pub fn own_tensors(&self) -> impl Iterator<Item = (&String, &Tensor)> {
        let has_adapters = self.has_adapters();
        self.unet.tensors.iter().filter(move |(name, _)| !has_adapters || lora::is_adapter(name))
    }
}
