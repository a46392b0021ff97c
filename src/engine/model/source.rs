//! Where a base model's files are: opens each of them once and says which part is where. Knows no network.
//!
//! Today that is a folder in the layout of diffusers. For another layout, such as one file with all parts, only this
//! file changes: whatever the layout, parts are asked for by [`Part`], tensors and configurations have diffusers'
//! names.
#![forbid(unsafe_code)]

use crate::engine::model::config::Config;
use crate::engine::model::tensor_file::TensorFile;
use crate::engine::model::weights::{Weights, unreadable};
use crate::error::{Doing, Error, Result};
use crate::text::text;
use candle_core::Device;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::path::{Path, PathBuf};

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
    /// In the order of their declaration, by which [`Source`] numbers them, and in which its fingerprint takes them.
    const ALL: [Self; 4] = [Self::UNet, Self::Vae, Self::TextEncoder, Self::TextEncoder2];

    fn folder(self) -> &'static str {
        match self {
            Self::UNet => "unet",
            Self::Vae => "vae",
            Self::TextEncoder => "text_encoder",
            Self::TextEncoder2 => "text_encoder_2",
        }
    }
}

/// The open files of a base model.
pub struct Source {
    folder: PathBuf,
    /// Configuration and weights of each of [`Part::ALL`]; the last one only where the model has it.
    parts: Vec<(Config, TensorFile)>,
    scheduler: Config,
    pipeline: Config,
}

/// The files of a CLIP tokenizer.
pub struct TokenizerFiles {
    /// For messages.
    pub folder: PathBuf,
    /// `tokenizer_config.json`.
    pub config: Config,
    /// `vocab.json`: a number for each token.
    pub vocab: PathBuf,
    /// `merges.txt`: which pairs of tokens become one, the first pair first.
    pub merges: PathBuf,
}

impl Source {
    /// Whether there seems to be a base model at `path`; opens nothing.
    pub fn is_model(path: &Path) -> bool {
        path.join(Part::UNet.folder()).is_dir()
    }

    /// Opens the base model at `path`: reads its configurations and the headers of its weights.
    pub fn open(path: &Path) -> Result<Self> {
        let open = |part: Part| {
            let folder = path.join(part.folder());
            let config = Config::read(&folder.join("config.json"))?;
            let file = weights_file(&folder)?;
            Ok((config, TensorFile::open(&file).map_err(|error| unreadable(&file, error))?))
        };
        let is_there = |part: &Part| *part != Part::TextEncoder2 || path.join(part.folder()).is_dir();
        Ok(Self {
            folder: path.to_owned(),
            parts: Part::ALL.into_iter().filter(is_there).map(open).collect::<Result<_>>()?,
            scheduler: Config::read(&path.join("scheduler/scheduler_config.json"))?,
            pipeline: Config::read_if_there(&path.join("model_index.json"))?,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Whether the model has `part`: all have all but [`Part::TextEncoder2`].
    pub fn has(&self, part: Part) -> bool {
        self.parts.len() > part as usize
    }

    /// The configuration of `part`, which the model has, in diffusers' words.
    pub fn config(&self, part: Part) -> &Config {
        &self.parts[part as usize].0
    }

    /// The scheduler's configuration, in diffusers' words.
    pub fn scheduler(&self) -> &Config {
        &self.scheduler
    }

    /// What the pipeline makes of its parts (`model_index.json`), in diffusers' words; empty where nothing tells.
    pub fn pipeline(&self) -> &Config {
        &self.pipeline
    }

    /// The tensors of `part` under diffusers' names, read from the disk.
    pub fn tensors(&self, part: Part, device: &Device) -> Result<Weights> {
        Weights::read(&self.parts[part as usize].1, device)
    }

    /// Tensors of the names and shapes of those of `part` that take no memory; their elements mean nothing.
    pub fn shapes(&self, part: Part) -> Result<Weights> {
        Weights::shapes(&self.parts[part as usize].1)
    }

    /// The tokenizer of the text encoder `part`.
    pub fn tokenizer(&self, part: Part) -> Result<TokenizerFiles> {
        let folder = self.folder.join(if part == Part::TextEncoder2 { "tokenizer_2" } else { "tokenizer" });
        let (vocab, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
        for file in [&vocab, &merges] {
            if !file.is_file() {
                return Err(Error::model(file, text!("is missing; the model folder is not complete")));
            }
        }
        Ok(TokenizerFiles { config: Config::read(&folder.join("tokenizer_config.json"))?, folder, vocab, merges })
    }

    /// A text that differs for models with different weights, configurations or tokenizers: SHA-256 over them and over
    /// what `digest` says of each large file, open and with its path.
    pub fn fingerprint(&self, digest: &mut dyn FnMut(&File, &Path) -> Result<String>) -> Result<String> {
        let mut hash = Sha256::new();
        for (part, (config, weights)) in Part::ALL.into_iter().zip(&self.parts) {
            hash.update(config.to_json());
            hash.update(digest(weights.file(), weights.path())?);
            if matches!(part, Part::TextEncoder | Part::TextEncoder2) {
                let files = self.tokenizer(part)?;
                hash.update(files.config.to_json());
                for file in [&files.vocab, &files.merges] {
                    let open = File::open(file).map_err(Error::file(Doing::Read, file))?;
                    hash.update(digest(&open, file)?);
                }
            }
        }
        hash.update(self.scheduler.to_json());
        if self.has(Part::TextEncoder2) {
            hash.update(self.pipeline.to_json());
        }
        Ok(format!("{:x}", hash.finalize()))
    }
}

/// The safetensors file in a part's folder; says what was expected where if there is none.
fn weights_file(folder: &Path) -> Result<PathBuf> {
    const NAMES: [&str; 4] = [
        "diffusion_pytorch_model.safetensors",
        "model.safetensors",
        "diffusion_pytorch_model.fp16.safetensors",
        "model.fp16.safetensors",
    ];
    if let Some(file) = NAMES.iter().map(|name| folder.join(name)).find(|file| file.is_file()) {
        return Ok(file);
    }
    let pickled = ["diffusion_pytorch_model.bin", "pytorch_model.bin"].iter().any(|name| folder.join(name).is_file());
    let reason = if pickled {
        text!(
            "has only pickled weights (.bin), which can run code when opened and are refused; get the safetensors \
             version"
        )
    } else {
        text!("has no diffusion_pytorch_model.safetensors or model.safetensors; the model folder is not complete")
    };
    Err(Error::model(folder, reason))
}
