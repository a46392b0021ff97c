//! A text to the embedding that the network is conditioned on: the tokenizers and text encoders of a model, put
//! together as its family does it.
#![forbid(unsafe_code)]

use crate::engine::model::clip::{Clip, ClipConfig, Hidden, Projection};
use crate::engine::model::conditioning::{Added, Conditioning, sinusoids};
use crate::engine::model::family::{Family, TextLayer};
use crate::engine::model::source::{Part, Source};
use crate::engine::model::tokenizer::Tokenizer;
use crate::error::Result;
use candle_core::{Device, Tensor};

/// The text encoders of a model.
pub struct TextEncoder {
    /// One, or two in the Stable Diffusion XL family.
    pub encoders: Vec<Encoder>,
    layer: TextLayer,
    /// Elements that become of each of the numbers in [`Added::sizes`]; `None` in families without them.
    size_width: Option<usize>,
    /// What guidance leads away from in this model.
    unconditional: Unconditional,
    /// Where embeddings are wanted.
    pub device: Device,
}

/// One text encoder with its tokenizer.
pub struct Encoder {
    /// Text to tokens.
    pub tokenizer: Tokenizer,
    clip: Clip,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unconditional {
    /// The embedding of the empty text.
    EmptyText,
    /// Zeros in place of it.
    Zeros,
}

impl TextEncoder {
    /// Reads the text encoders of `source`; embeddings will be on `device`. They are always computed on the CPU: a text
    /// takes a tenth of a second there.
    pub fn read(source: &Source, family: &Family, device: &Device) -> Result<Self> {
        let read = |part: Part, pad_token: &str, projection: Projection| {
            let config = ClipConfig::read(source.config(part), family.tokens)?;
            let clip = Clip::new(&config, source.tensors(part, &Device::Cpu)?, projection)?;
            let tokenizer = Tokenizer::new(source.tokenizer(part), pad_token, config.positions, config.vocabulary)?;
            Ok::<_, crate::error::Error>(Encoder { tokenizer, clip })
        };
        let mut encoders = vec![read(Part::TextEncoder, family.pad_token, Projection::Without)?];
        let (mut size_width, mut unconditional) = (None, Unconditional::EmptyText);
        if let Some(second) = &family.second {
            encoders.push(read(Part::TextEncoder2, second.pad_token, Projection::With)?);
            size_width = Some(source.config(Part::UNet).usize("addition_time_embed_dim", Some(second.size_width))?);
            // As StableDiffusionXLPipeline takes it where it is absent.
            if source.pipeline().bool("force_zeros_for_empty_prompt", true) {
                unconditional = Unconditional::Zeros;
            }
        }
        Ok(Self { encoders, layer: family.text_layer, size_width, unconditional, device: device.clone() })
    }

    /// The embedding of `text` for pictures of `size` (width, height) pixels, and the end of the text that did not fit;
    /// empty if all did.
    pub fn embed(&self, text: &str, size: (usize, usize)) -> Result<(Conditioning, String)> {
        let (mut hidden, mut cut, mut pooled) = (Vec::new(), String::new(), None);
        for Encoder { tokenizer, clip } in &self.encoders {
            let tokens = tokenizer.tokenize(text)?;
            let Hidden { last, penultimate, pooled: own } = clip.forward(&tokens.ids, tokens.end)?;
            hidden.push(match self.layer {
                TextLayer::Last => last,
                TextLayer::Penultimate => penultimate,
            });
            pooled = own.or(pooled);
            cut = tokens.cut;
        }
        let to_device = |tensor: Tensor| Ok::<_, crate::error::Error>(tensor.to_device(&self.device)?.detach());
        let added = match (pooled, self.size_width) {
            (Some(pooled), Some(width)) => Some(Added { pooled: to_device(pooled)?, sizes: self.sizes(size, width)? }),
            _ => None,
        };
        Ok((Conditioning { tokens: to_device(Tensor::cat(&hidden, 2)?)?, added, beside: None, class: None }, cut))
    }

    /// What guidance leads away from: the embedding of the empty text, or zeros in place of it.
    pub fn unconditional(&self, size: (usize, usize)) -> Result<Conditioning> {
        let (mut e, _) = self.embed("", size)?;
        if self.unconditional == Unconditional::Zeros {
            e.tokens = e.tokens.zeros_like()?;
            if let Some(added) = &mut e.added {
                added.pooled = added.pooled.zeros_like()?;
            }
        }
        Ok(e)
    }

    /// The picture's own size before and after it was cut, and the corner where it was cut: it was not cut at all.
    fn sizes(&self, (w, h): (usize, usize), width: usize) -> Result<Tensor> {
        let (w, h) = (w as u32, h as u32);
        Ok(Tensor::from_vec(sinusoids(&[h, w, 0, 0, h, w], width), (1, ()), &self.device)?)
    }
}
