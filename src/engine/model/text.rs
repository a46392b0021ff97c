//! The frozen text encoder: CLIP's tokenizer and transformer.
#![forbid(unsafe_code)]

use crate::engine::model::weights::{Config, Weights};
use crate::error::{Error, Result, sentence};
use crate::text::{Text, text};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::clip::text_model::{Activation, ClipTextConfig, ClipTextTransformer};
use serde_json::{Value, json};
use std::path::Path;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

/// How CLIP cuts a text into words (openai/CLIP, `simple_tokenizer.py`).
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Tokenizer and transformer.
pub struct TextEncoder {
    tokenizer: Tokenizer,
    special: SpecialTokens,
    /// Tokens of every text, begin, end and padding included; 77 for SD.
    pub max_tokens: usize,
    transformer: ClipTextTransformer,
    /// Where embeddings are wanted.
    device: Device,
}

struct SpecialTokens {
    begin: u32,
    end: u32,
    pad: u32,
}

/// A text as tokens.
#[derive(Debug, PartialEq, Eq)]
pub struct Tokens {
    /// `max_tokens` of them.
    pub ids: Vec<u32>,
    /// The end of the text that did not fit; empty if all did.
    pub cut: String,
}

impl TextEncoder {
    /// Reads `tokenizer/` and `text_encoder/` of a model folder; embeddings will be on `device`. They are computed by the
    /// processor in any case: a text takes a tenth of a second, and candle's transformer would need more of its crates built
    /// for the GPU.
    pub fn read(model: &Path, device: &Device) -> Result<Self> {
        let config = Config::read(&model.join("text_encoder/config.json"))?;
        let act = config.text("hidden_act", "quick_gelu");
        if act != "quick_gelu" {
            let reason = text!(
                "hidden_act is {act}: text encoders of the Stable Diffusion 2 family are not supported yet; use a model of the Stable Diffusion 1 family",
                act
            );
            return Err(config.error(reason));
        }
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
            activation: Activation::QuickGelu,
            intermediate_size: config.usize("intermediate_size", None)?,
            max_position_embeddings: config.usize("max_position_embeddings", Some(77))?,
            pad_with: None,
            num_hidden_layers: config.usize("num_hidden_layers", None)?,
            num_attention_heads: config.usize("num_attention_heads", None)?,
            projection_dim: config.usize("projection_dim", Some(embed_dim))?,
        };
        let weights = Weights::read(&model.join("text_encoder"), &Device::Cpu)?;
        // transformers 5 dropped the outer name.
        let nested = weights.tensors.keys().any(|name| name.starts_with("text_model."));
        let builder = VarBuilder::from_tensors(weights.tensors.into_iter().collect(), DType::F32, &Device::Cpu);
        let builder = if nested { builder.pp("text_model") } else { builder };
        let transformer = ClipTextTransformer::new(builder, &clip).map_err(|error| {
            Error::model(&weights.file, text!("does not fit its config.json: {error}", error = sentence(&error)))
        })?;

        let folder = model.join("tokenizer");
        let about = Config::read(&folder.join("tokenizer_config.json"))?;
        let mut tokenizer = read_tokenizer(&folder)?;
        let mut special = |key: &str, default: &str| {
            let token = match about.value(key) {
                Value::Object(token) => token.get("content").and_then(Value::as_str).unwrap_or(default),
                value => value.as_str().unwrap_or(default),
            };
            // Special tokens count wherever they stand in a text; in SD 2 even "!" is one, the padding.
            let added = tokenizer.add_special_tokens([AddedToken::from(token, true)]);
            added.map_err(|error| about.error(Text::verbatim(format!("{key}: {error}"))))?;
            tokenizer
                .token_to_id(token)
                .ok_or_else(|| about.error(text!("{token} is not in vocab.json", token = format!("{key} {token}"))))
        };
        let special = SpecialTokens {
            begin: special("bos_token", "<|startoftext|>")?,
            end: special("eos_token", "<|endoftext|>")?,
            pad: special("pad_token", "<|endoftext|>")?,
        };
        let positions = clip.max_position_embeddings;
        // transformers writes 10^30 where there is no limit.
        let max_tokens = about.value("model_max_length").as_u64().map_or(positions, |n| positions.min(n as usize));
        if max_tokens < 3 {
            return Err(about.error(text!(
                "{key} is {value}, must be at least {min}",
                key = "model_max_length",
                value = max_tokens,
                min = 3
            )));
        }
        if tokenizer.get_vocab_size(true) > clip.vocab_size {
            let reason = text!(
                "vocab.json has {tokens} tokens, the text encoder only {known}",
                tokens = tokenizer.get_vocab_size(true),
                known = clip.vocab_size
            );
            return Err(about.error(reason));
        }
        Ok(Self { tokenizer, special, max_tokens, transformer, device: device.clone() })
    }

    /// Begin, the text's tokens, end, padding; as many in all as the encoder was trained on.
    pub fn tokenize(&self, text: &str) -> Result<Tokens> {
        let encoding = self.tokenizer.encode_char_offsets(text, false);
        let encoding = encoding.map_err(|error| {
            Error::Parameter(text!("the target text cannot be read: {error}", error = error.to_string()))
        })?;
        let room = self.max_tokens - 2;
        let cut_at = encoding.get_offsets().get(room).map(|offsets| offsets.0);
        let mut ids = vec![self.special.begin];
        ids.extend(encoding.get_ids().iter().take(room));
        ids.push(self.special.end);
        ids.resize(self.max_tokens, self.special.pad);
        Ok(Tokens { ids, cut: cut_at.map(|at| text.chars().skip(at).collect()).unwrap_or_default() })
    }

    /// The embedding of `tokens` after the final layer norm: (1, max_tokens, d).
    pub fn embed(&self, tokens: &Tokens) -> Result<Tensor> {
        let ids = Tensor::new(tokens.ids.as_slice(), &Device::Cpu)?.unsqueeze(0)?;
        // Stable Diffusion masks only what comes later in the text, never the padding.
        Ok(self.transformer.forward_with_mask(&ids, usize::MAX)?.to_device(&self.device)?.detach())
    }
}

fn read_tokenizer(folder: &Path) -> Result<Tokenizer> {
    let (vocab, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
    for file in [&vocab, &merges] {
        if !file.is_file() {
            return Err(Error::model(file, text!("is missing; the model folder is not complete")));
        }
    }
    let wrong = |error: tokenizers::Error| {
        Error::model(folder, text!("the tokenizer cannot be read: {error}", error = error.to_string()))
    };
    let bpe = BPE::from_file(&vocab.to_string_lossy(), &merges.to_string_lossy())
        .unk_token("<|endoftext|>".into())
        .end_of_word_suffix("</w>".into())
        .build()
        .map_err(wrong)?;
    let mut tokenizer = Tokenizer::new(bpe);
    // The library has no constructor for a regular expression but through its serialized form.
    let spaces: Replace =
        serde_json::from_value(json!({ "type": "Replace", "pattern": { "Regex": r"\s+" }, "content": " " }))
            .map_err(|error| wrong(error.into()))?;
    tokenizer.with_normalizer(Some(Sequence::new(vec![NFC.into(), spaces.into(), Lowercase.into()]))).map_err(wrong)?;
    let words = Split::new(SplitPattern::Regex(WORDS.into()), SplitDelimiterBehavior::Removed, true).map_err(wrong)?;
    let bytes = ByteLevel::default().add_prefix_space(false).use_regex(false);
    tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(vec![words.into(), bytes.into()])));
    Ok(tokenizer)
}
