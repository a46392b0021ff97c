//! A text to the embedding that the network is conditioned on: the tokenizers and text encoders of a model, put
//! together as its family does it.
#![forbid(unsafe_code)]

use crate::engine::model::clip::{Clip, ClipConfig, Projection};
use crate::engine::model::conditioning::{Added, Conditioning, sinusoids};
use crate::engine::model::family::{Family, TextLayer};
use crate::engine::model::source::{Part, Source};
use crate::engine::model::tokenizer::Tokenizer;
use crate::error::Result;
use candle_core::{Device, Tensor};
use std::cell::RefCell;

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
    /// What the encoders made of the texts that were asked for last, so that they are read once for all edits with one
    /// text.
    known: RefCell<Vec<Embedded>>,
}

/// A text's embedding, whatever the size of the picture.
#[derive(Clone)]
struct Embedded {
    text: String,
    tokens: Tensor,
    pooled: Option<Tensor>,
    /// The end of the text that did not fit.
    cut: String,
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
    /// The text encoders of `source`, which are read when there is a text; embeddings will be on `device`. They are
    /// always computed on the CPU: a text takes a tenth of a second there.
    pub fn read(source: &Source, family: &Family, device: &Device) -> Result<Self> {
        let read = |part: Part, pad_token: &str, projection: Projection| {
            let config = ClipConfig::read(source.config(part), family.tokens)?;
            let clip = Clip::new(config, source, part, projection)?;
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
        let (layer, device, known) = (family.text_layer, device.clone(), RefCell::default());
        Ok(Self { encoders, layer, size_width, unconditional, device, known })
    }

    /// The embedding of `text` for pictures of `size` (width, height) pixels, and the end of the text that did not fit;
    /// empty if all did.
    pub fn embed(&self, text: &str, size: (usize, usize)) -> Result<(Conditioning, String)> {
        let Embedded { tokens, pooled, cut, .. } = self.embedded(text)?;
        let added = match (pooled, self.size_width) {
            (Some(pooled), Some(width)) => Some(Added { pooled, sizes: self.sizes(size, width)? }),
            _ => None,
        };
        Ok((Conditioning { tokens, added, beside: None, class: None }, cut))
    }

    /// The embedding of `text`, which is computed unless it is known; in the same go that of the empty text where
    /// guidance leads away from it.
    fn embedded(&self, text: &str) -> Result<Embedded> {
        let known = |known: &[Embedded], text: &str| known.iter().find(|known| known.text == text).cloned();
        let mut all = self.known.borrow_mut();
        if let Some(known) = known(&all, text) {
            return Ok(known);
        }
        all.retain(|known| known.text.is_empty());
        let with_empty = self.unconditional == Unconditional::EmptyText && !text.is_empty() && all.is_empty();
        let texts = if with_empty { vec![text, ""] } else { vec![text] };
        let mut parts = vec![(Vec::new(), None, String::new()); texts.len()];
        for Encoder { tokenizer, clip } in &self.encoders {
            let tokens = texts.iter().map(|text| tokenizer.tokenize(text)).collect::<Result<Vec<_>>>()?;
            let read = tokens.iter().map(|tokens| (tokens.ids.as_slice(), tokens.end)).collect::<Vec<_>>();
            let read = clip.forward(&read)?;
            for ((hidden, pooled, cut), (tokens, own)) in parts.iter_mut().zip(tokens.into_iter().zip(read)) {
                hidden.push(match self.layer {
                    TextLayer::Last => own.last,
                    TextLayer::Penultimate => own.penultimate,
                });
                *pooled = own.pooled.or(pooled.take());
                *cut = tokens.cut;
            }
        }
        let to_device = |tensor: Tensor| Ok::<_, crate::error::Error>(tensor.to_device(&self.device)?.detach());
        for (text, (hidden, pooled, cut)) in texts.into_iter().zip(parts) {
            let (tokens, pooled) = (to_device(Tensor::cat(&hidden, 2)?)?, pooled.map(to_device).transpose()?);
            all.push(Embedded { text: text.to_owned(), tokens, pooled, cut });
        }
        Ok(known(&all, text).expect("it was put there"))
    }

    /// What guidance leads away from: the embedding of the empty text, or zeros in place of it.
    pub fn unconditional(&self, size: (usize, usize)) -> Result<Conditioning> {
        // For zeros any text will do.
        let known = self.known.borrow().last().filter(|_| self.unconditional == Unconditional::Zeros).cloned();
        let (mut e, _) = self.embed(&known.map_or_else(String::new, |known| known.text), size)?;
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
