//! What every layout of a base model comes to: its parts, each with a configuration and tensors in diffusers' words.
#![forbid(unsafe_code)]

use crate::engine::model::config::Config;
use crate::engine::model::source::stored::Stored;
use crate::engine::model::source::tensor_file::TensorFile;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A network of a base model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The noise predictor.
    UNet,
    /// The autoencoder.
    Vae,
    /// The text encoder.
    TextEncoder,
    /// The second one of Stable Diffusion XL.
    TextEncoder2,
}

impl Part {
    /// In the order of their declaration, by which a source numbers them, and in which its fingerprint takes them.
    pub const ALL: [Self; 4] = [Self::UNet, Self::Vae, Self::TextEncoder, Self::TextEncoder2];

    /// Its folder in diffusers' layout.
    pub fn folder(self) -> &'static str {
        match self {
            Self::UNet => "unet",
            Self::Vae => "vae",
            Self::TextEncoder => "text_encoder",
            Self::TextEncoder2 => "text_encoder_2",
        }
    }
}

/// Side of the square of pixels that a network makes at each place if it works on pixels and has so many channels.
///
/// A square is for the price: with 4 x 4 pixels a place the network does on 64 x 64 places what it would do on
/// 256 x 256, as transformers do (Peebles and Xie, "Scalable Diffusion Models with Transformers", ICCV 2023). Noise and
/// loss are the same either way.
pub fn patch(channels: usize) -> Option<usize> {
    (1..=16).find(|side| 3 * side * side == channels)
}

/// The files of a base model, with the headers of the weights read.
pub struct Parts {
    /// One for each of [`Part::ALL`]; the last one only where the model has it.
    pub networks: Vec<Network>,
    /// One for each text encoder.
    pub tokenizers: Vec<TokenizerFiles>,
    /// The scheduler's configuration.
    pub scheduler: Config,
    /// That of the noise in the small picture, of a model that enlarges it; the scheduler's again where there is none.
    pub low_res_scheduler: Config,
    /// `model_index.json`; empty without one.
    pub pipeline: Config,
}

/// A network's configuration and where its tensors are.
pub struct Network {
    /// In diffusers' words.
    pub config: Config,
    /// The file to name where the network as a whole is wrong.
    pub path: PathBuf,
    /// All files that hold something of it, also what the network does not use.
    pub files: Vec<Arc<TensorFile>>,
    /// By diffusers' names.
    pub tensors: BTreeMap<String, Stored>,
}

/// The files of a CLIP tokenizer.
pub struct TokenizerFiles {
    /// For messages.
    pub path: PathBuf,
    /// Which tokens are special, and how long a text may be.
    pub config: Config,
    /// Its tokens.
    pub vocabulary: Vocabulary,
    /// Tokens that were added to the vocabulary, with their numbers: `added_tokens.json`.
    pub added: Vec<(String, u32)>,
}

/// Where the tokens of a text encoder are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vocabulary {
    /// The one of CLIP, which every Stable Diffusion model has; it is part of the program.
    Clip,
    /// `vocab.json`, a number for each token, and `merges.txt`, which pairs of tokens become one, the first pair first.
    Files {
        /// The first.
        vocab: PathBuf,
        /// The second.
        merges: PathBuf,
    },
    /// Both in one `tokenizer.json`.
    Json(PathBuf),
}

impl Vocabulary {
    /// The files that it is in.
    pub fn files(&self) -> Vec<&Path> {
        match self {
            Self::Clip => Vec::new(),
            Self::Files { vocab, merges } => vec![vocab, merges],
            Self::Json(file) => vec![file],
        }
    }
}
