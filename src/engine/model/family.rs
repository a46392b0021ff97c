//! Families of base models: what the models of a family have in common that the names and shapes of their tensors do
//! not tell. Knows no network.
#![forbid(unsafe_code)]

use crate::engine::model::source::{Part, Source};
use crate::error::Result;
use crate::text::text;

/// What holds for models of a family unless their configuration says otherwise.
pub struct Family {
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Side of the latents that its U-Nets were trained on.
    pub sample_size: usize,
    /// Attention heads of its U-Nets; tensors have the same shape whatever their number.
    pub heads: usize,
    /// Latents times this have about unit variance.
    pub scaling_factor: f64,
    /// Activation of its text encoder, the only one that models of this family may have.
    pub activation: &'static str,
    /// Tokens of every text, with those that begin, end and pad it.
    pub tokens: usize,
    /// The token with which a text is padded.
    pub pad_token: &'static str,
}

/// Stable Diffusion 1, models that were fine-tuned from it, and the built-in model, which is a small one of the same
/// kind. The numbers are those of CompVis/stable-diffusion, `configs/stable-diffusion/v1-inference.yaml`.
pub const STABLE_DIFFUSION_1: Family = Family {
    latent_channels: 4,
    sample_size: 64,
    heads: 8,
    scaling_factor: 0.18215,
    activation: "quick_gelu",
    tokens: 77,
    pad_token: "<|endoftext|>",
};

impl Family {
    /// The family that the configurations in `source` tell of; others are refused by name.
    pub fn of(source: &Source) -> Result<&'static Self> {
        let unet = source.config(Part::UNet);
        if unet.value("addition_embed_type") == "text_time" {
            return Err(unet.error(text!(
                "addition_embed_type is text_time: models of the Stable Diffusion XL family are not supported yet; use \
                 a model of the Stable Diffusion 1 family"
            )));
        }
        let family = &STABLE_DIFFUSION_1;
        let channels = |key: &str| unet.usize(key, Some(family.latent_channels));
        let in_channels = channels("in_channels")?;
        if in_channels != channels("out_channels")? {
            return Err(unet.error(text!(
                "in_channels is {channels}: inpainting and similar models cannot be edited with; use a text-to-image \
                 model",
                channels = in_channels
            )));
        }
        let text_encoder = source.config(Part::TextEncoder);
        let activation = text_encoder.text("hidden_act", family.activation);
        if activation != family.activation {
            return Err(text_encoder.error(text!(
                "hidden_act is {act}: text encoders of the Stable Diffusion 2 family are not supported yet; use a \
                 model of the Stable Diffusion 1 family",
                act = activation
            )));
        }
        Ok(family)
    }
}
