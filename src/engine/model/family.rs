//! Families of base models: what the models of a family have in common that the names and shapes of their tensors do
//! not tell. Knows no network.
#![forbid(unsafe_code)]

use crate::engine::model::source::{Part, Source};
use crate::error::Result;
use crate::text::text;
use serde_json::json;

/// What holds for models of a family unless their configuration says otherwise.
pub struct Family {
    /// What people call it.
    pub name: &'static str,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Side of the latents that its U-Nets were trained on.
    pub sample_size: usize,
    /// The same of those of its U-Nets that predict v.
    pub sample_size_of_v: usize,
    /// Attention heads of each level of its U-Nets, the last number for all further ones; tensors have the same shape
    /// whatever their number.
    pub heads: &'static [usize],
    /// Latents times this have about unit variance.
    pub scaling_factor: f64,
    /// Tokens of every text, with those that begin, end and pad it.
    pub tokens: usize,
    /// The token with which a text is padded.
    pub pad_token: &'static str,
    /// What the network sees of its text encoders.
    pub text_layer: TextLayer,
    /// What comes with a second text encoder, in families that have one.
    pub second: Option<Second>,
    /// Whether models of this family predict noise where nothing tells.
    pub prediction: FamilyPrediction,
}

/// Layer of a text encoder whose result is the embedding of the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextLayer {
    /// The last one, after the final norm.
    Last,
    /// The last one but one, without a norm.
    Penultimate,
}

/// What models of a family predict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyPrediction {
    /// The noise.
    Noise,
    /// Some the noise, others v.
    NoiseOrV,
}

/// Of a family with two text encoders.
pub struct Second {
    /// The token with which the second one's text is padded.
    pub pad_token: &'static str,
    /// Elements that become of each number of a picture's size.
    pub size_width: usize,
}

/// Stable Diffusion 1, models that were fine-tuned or distilled from it, and the built-in model, which is a small one
/// of the same kind. The numbers are those of CompVis/stable-diffusion, `configs/stable-diffusion/v1-inference.yaml`.
pub const STABLE_DIFFUSION_1: Family = Family {
    name: "Stable Diffusion 1",
    latent_channels: 4,
    sample_size: 64,
    sample_size_of_v: 64,
    heads: &[8],
    scaling_factor: 0.18215,
    tokens: 77,
    pad_token: "<|endoftext|>",
    text_layer: TextLayer::Last,
    second: None,
    prediction: FamilyPrediction::Noise,
};

/// Stable Diffusion 2, whose text encoder is that of OpenCLIP: Stability-AI/stablediffusion,
/// `configs/stable-diffusion/v2-inference.yaml`.
pub const STABLE_DIFFUSION_2: Family = Family {
    name: "Stable Diffusion 2",
    sample_size_of_v: 96,
    heads: &[5, 10, 20, 20],
    pad_token: "!",
    prediction: FamilyPrediction::NoiseOrV,
    ..STABLE_DIFFUSION_1
};

/// Stable Diffusion XL and models that were fine-tuned or distilled from it: Stability-AI/generative-models,
/// `configs/inference/sd_xl_base.yaml`.
pub const STABLE_DIFFUSION_XL: Family = Family {
    name: "Stable Diffusion XL",
    sample_size: 128,
    sample_size_of_v: 128,
    heads: &[5, 10, 20],
    scaling_factor: 0.13025,
    text_layer: TextLayer::Penultimate,
    second: Some(Second { pad_token: "!", size_width: 256 }),
    ..STABLE_DIFFUSION_1
};

/// Stability AI's model that enlarges pictures four times: Stability-AI/stablediffusion,
/// `configs/stable-diffusion/x4-upscaling.yaml`. Not a family of base models: see [`crate::engine::auxiliary`].
pub const UPSCALER_X4: Family = Family {
    name: "Stable Diffusion x4 upscaler",
    sample_size: 128,
    sample_size_of_v: 128,
    scaling_factor: 0.08333,
    pad_token: "!",
    ..STABLE_DIFFUSION_1
};

impl Family {
    /// The family of the base model that the configurations in `source` tell of; others are refused by name.
    pub fn of(source: &Source) -> Result<&'static Self> {
        let unet = source.config(Part::UNet);
        let family = if unet.value("addition_embed_type") == "text_time" {
            &STABLE_DIFFUSION_XL
        } else if source.config(Part::TextEncoder).value("hidden_act") == "gelu" {
            &STABLE_DIFFUSION_2
        } else {
            &STABLE_DIFFUSION_1
        };
        if family.second.is_some() != source.has(Part::TextEncoder2) {
            return Err(unet.error(if family.second.is_some() {
                text!(
                    "the model has no second text encoder, as those of the {family} family have",
                    family = family.name
                )
            } else {
                text!("the model has a second text encoder, as none of the {family} family has", family = family.name)
            }));
        }
        // Classes are what a model that enlarges is told of noise.
        unet.require("num_class_embeds", &[json!(0)])?;
        let channels = |key: &str| unet.usize(key, Some(family.latent_channels));
        let (in_channels, out_channels) = (channels("in_channels")?, channels("out_channels")?);
        // An inpainting model also sees a mask and the latents of another picture.
        if in_channels != out_channels && in_channels != 2 * out_channels + 1 {
            return Err(unet.error(text!(
                "in_channels is {channels}: models that also need another picture cannot be edited with; use a \
                 text-to-image model",
                channels = in_channels
            )));
        }
        Ok(family)
    }

    /// Side of the latents that U-Nets of the family were trained on that predict v, or do not.
    pub fn sample_size_of(&self, predicts_v: bool) -> usize {
        if predicts_v { self.sample_size_of_v } else { self.sample_size }
    }

    /// Attention heads of each of `n` levels.
    pub fn heads(&self, n: usize) -> Vec<usize> {
        (0..n).map(|level| self.heads[level.min(self.heads.len() - 1)]).collect()
    }
}
