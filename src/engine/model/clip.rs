//! The frozen text encoder of CLIP (contrastive language-image pre-training, Radford et al., ICML 2021): a text to the
//! embedding that the U-Net attends to.
#![forbid(unsafe_code)]

use crate::engine::model::conditioning::Conditioning;
use crate::engine::model::family::Family;
use crate::engine::model::source::{Part, Source};
use crate::engine::model::tokenizer::{Tokenizer, Tokens};
use crate::error::{Error, Result, sentence};
use crate::text::text;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::clip::text_model::{Activation, ClipTextConfig, ClipTextTransformer};

/// Tokenizer and transformer.
pub struct TextEncoder {
    /// Text to tokens.
    pub tokenizer: Tokenizer,
    transformer: ClipTextTransformer,
    /// Where embeddings are wanted.
    device: Device,
}

impl TextEncoder {
    /// Reads the text encoder of `source`; embeddings will be on `device`. They are always computed on the CPU: a text
    /// takes a tenth of a second there, and candle's transformer would need more of its crates built for the GPU.
    pub fn read(source: &Source, family: &Family, device: &Device) -> Result<Self> {
        let config = source.config(Part::TextEncoder);
        let eps = config.f64("layer_norm_eps", 1e-5)?;
        if eps != 1e-5 {
            return Err(config.error(text!(
                "{key} is {value}, must be {allowed}",
                key = "layer_norm_eps",
                value = eps,
                allowed = "1e-5"
            )));
        }
        let embed_dim = config.usize("hidden_size", None)?;
        let clip = ClipTextConfig {
            vocab_size: config.usize("vocab_size", None)?,
            embed_dim,
            // The only one of candle's; `Family::of` refuses models with another.
            activation: Activation::QuickGelu,
            intermediate_size: config.usize("intermediate_size", None)?,
            max_position_embeddings: config.usize("max_position_embeddings", Some(family.tokens))?,
            pad_with: None,
            num_hidden_layers: config.usize("num_hidden_layers", None)?,
            num_attention_heads: config.usize("num_attention_heads", None)?,
            projection_dim: config.usize("projection_dim", Some(embed_dim))?,
        };
        let weights = source.tensors(Part::TextEncoder, &Device::Cpu)?;
        // transformers 5 dropped the outer name.
        let nested = weights.tensors.keys().any(|name| name.starts_with("text_model."));
        let builder = VarBuilder::from_tensors(weights.tensors.into_iter().collect(), DType::F32, &Device::Cpu);
        let builder = if nested { builder.pp("text_model") } else { builder };
        let transformer = ClipTextTransformer::new(builder, &clip).map_err(|error| {
            Error::model(&weights.file, text!("does not fit its config.json: {error}", error = sentence(&error)))
        })?;
        let tokenizer = Tokenizer::new(
            &source.tokenizer(Part::TextEncoder)?,
            family,
            clip.max_position_embeddings,
            clip.vocab_size,
        )?;
        Ok(Self { tokenizer, transformer, device: device.clone() })
    }

    /// The embedding of `tokens` after the final layer norm: (1, tokens, d), f32.
    pub fn embed(&self, tokens: &Tokens) -> Result<Conditioning> {
        let ids = Tensor::new(tokens.ids.as_slice(), &Device::Cpu)?.unsqueeze(0)?;
        // Stable Diffusion masks only what comes later in the text, never the padding.
        let tokens = self.transformer.forward_with_mask(&ids, usize::MAX)?.to_device(&self.device)?.detach();
        Ok(Conditioning { tokens })
    }

    /// What guidance leads away from: the embedding of the empty text.
    pub fn unconditional(&self) -> Result<Conditioning> {
        self.embed(&self.tokenizer.tokenize("")?)
    }
}
