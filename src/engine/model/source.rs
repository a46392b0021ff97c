//! Where a base model's files are: opens each of them once and says which part is where. Knows no network.
//!
//! Whatever the layout (a folder as diffusers writes it, one file as most people have it), parts are asked for by
//! [`Part`], tensors and configurations have diffusers' names. A layout is a file of `source/` that makes
//! [`parts::Parts`].
#![forbid(unsafe_code)]

mod folder;
mod inferred;
mod original_names;
mod parts;
mod published;
mod refused;
mod single_file;
pub(in crate::engine) mod stored;
pub(in crate::engine) mod tensor_file;

use crate::engine::model::config::Config;
use crate::engine::model::weights::{Bits, Weights};
use crate::error::{Doing, Error, Result};
use crate::files;
use crate::text::{Text, text};
use candle_core::Device;
use parts::{Network, Parts};
pub use parts::{Part, TokenizerFiles, Vocabulary};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The open files of a base model; a copy has the same ones.
#[derive(Clone)]
pub struct Source {
    path: PathBuf,
    parts: Arc<Parts>,
    has_chosen_vae: bool,
}

impl Source {
    /// Whether there seems to be a base model at `path`; opens nothing.
    pub fn is_model(path: &Path) -> bool {
        let path = whole(path);
        folder::is_model(&path) || is_safetensors(&path) && path.is_file()
    }

    /// Why the file `path` cannot be a base model, read off its name and first bytes, whether it is there or not.
    pub fn other_format(path: &Path) -> Option<Text> {
        refused::other_format(path)
    }

    /// Opens the base model at `path`, a file or a folder: reads its configurations and the headers of its weights.
    pub fn open(path: &Path) -> Result<Self> {
        Self::with_vae(path, None)
    }

    /// The same with the autoencoder at `vae` in place of the model's own: a file, or the folder of one or of a model.
    pub fn with_vae(path: &Path, vae: Option<&Path>) -> Result<Self> {
        let source = Self::open_any(path, vae)?;
        if source.enlarges() {
            return Err(Error::model(path, refused::instead(text!("a model that enlarges pictures"))));
        }
        Ok(source)
    }

    /// Opens the model at `path`, a file or a folder, that enlarges pictures.
    pub fn open_enlarger(path: &Path) -> Result<Self> {
        let source = Self::open_any(path, None)?;
        if !source.enlarges() {
            return Err(Error::model(path, text!("is not a model that enlarges pictures; choose an x4 upscaler")));
        }
        Ok(source)
    }

    fn open_any(path: &Path, vae: Option<&Path>) -> Result<Self> {
        let missing = |path: &Path| Error::model(path, text!("there is no such file or folder"));
        let vae = match vae {
            Some(folder) if folder.is_dir() => Some(folder::vae(folder)?),
            Some(file) if file.is_file() => Some(single_file::vae(file)?),
            Some(path) => return Err(missing(path)),
            None => None,
        };
        let has_chosen_vae = vae.is_some();
        let parts = match &whole(path) {
            folder if folder.is_dir() => folder::open(folder, vae)?,
            file if file.is_file() => single_file::open(file, vae)?,
            _ => return Err(missing(path)),
        };
        Ok(Self { path: path.to_owned(), parts: Arc::new(parts), has_chosen_vae })
    }

    /// The model that enlarges which comes with the base model at `path`, if one does.
    pub fn companion(path: &Path) -> Option<PathBuf> {
        let companion = whole(path).join(folder::COMPANION);
        folder::is_model(&companion).then_some(companion)
    }

    /// The whole model that `path` is a piece of or an entry to.
    pub fn place(path: &Path) -> PathBuf {
        whole(path)
    }

    /// Where it is, as it was asked for.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the autoencoder was chosen by itself.
    pub fn has_chosen_vae(&self) -> bool {
        self.has_chosen_vae
    }

    /// Whether the model has `part`: all have all but [`Part::TextEncoder2`].
    pub fn has(&self, part: Part) -> bool {
        self.parts.networks.len() > part as usize
    }

    /// Whether it is a model that enlarges a picture: its network sees that beside x_t, in red, green and blue, or as
    /// latents and is told how much noise there is in it.
    fn enlarges(&self) -> bool {
        let unet = self.config(Part::UNet);
        let channels = |key| unet.value(key).as_u64();
        let beside = channels("in_channels").zip(channels("out_channels"));
        let told = unet.value("num_class_embeds").as_u64().is_some_and(|classes| classes > 0);
        beside.is_some_and(|(input, output)| input.checked_sub(output) == Some(3) || told && input == 2 * output)
            || self.pipeline().text("_class_name", "").contains("Upscale")
    }

    /// Side of the square of pixels that is one place to its network; `None` where it works on latents.
    pub fn patch(&self) -> Result<Option<usize>> {
        if !self.network(Part::Vae).tensors.is_empty() {
            return Ok(None);
        }
        Ok(parts::patch(self.config(Part::UNet).usize("out_channels", None)?))
    }

    /// The configuration of `part`, which the model has, in diffusers' words.
    pub fn config(&self, part: Part) -> &Config {
        &self.network(part).config
    }

    /// The scheduler's configuration, in diffusers' words.
    pub fn scheduler(&self) -> &Config {
        &self.parts.scheduler
    }

    /// The configuration of the noise in the small picture, of a model that enlarges it.
    pub fn low_res_scheduler(&self) -> &Config {
        &self.parts.low_res_scheduler
    }

    /// What the pipeline makes of its parts (`model_index.json`), in diffusers' words; empty where nothing tells.
    pub fn pipeline(&self) -> &Config {
        &self.parts.pipeline
    }

    /// The tensors of `part` under diffusers' names, read from the disk, in f32.
    pub fn tensors(&self, part: Part, device: &Device) -> Result<Weights> {
        self.wanted_tensors(part, |_| true, Bits::ThirtyTwo, device)
    }

    /// Those of the tensors of `part` that are `wanted`, one after the other into what they are in memory. The file is
    /// not mapped: one that somebody else cuts short would kill the program.
    pub fn wanted_tensors(
        &self,
        part: Part,
        wanted: impl Fn(&str) -> bool + Sync,
        bits: Bits,
        device: &Device,
    ) -> Result<Weights> {
        let network = self.network(part);
        Weights::read(&network.path, &network.tensors, wanted, bits, device)
    }

    /// Tensors of the names and shapes of those of `part` that take no memory, of the types that they have on `device`
    /// with [`Bits::Stored`]; their elements mean nothing.
    pub fn shapes(&self, part: Part, device: &Device) -> Result<Weights> {
        let network = self.network(part);
        Weights::shapes(&network.path, &network.tensors, device)
    }

    /// The tokenizer of the text encoder `part`.
    pub fn tokenizer(&self, part: Part) -> &TokenizerFiles {
        &self.parts.tokenizers[part as usize - Part::TextEncoder as usize]
    }

    /// What the writer of the U-Net's file noted under `key`.
    pub fn note(&self, key: &str) -> Option<&str> {
        self.network(Part::UNet).files.first()?.note(key)
    }

    /// What its files say of their licence: the notes of a single file, or the head of a folder's `README.md`, as
    /// models on Hugging Face have it.
    pub fn licence(&self) -> Option<String> {
        let noted = ["modelspec.license", "license"].into_iter().find_map(|key| self.note(key)).map(str::to_owned);
        noted.or_else(|| licence_in(&whole(&self.path).join("README.md"))).filter(|licence| !licence.is_empty())
    }

    /// Bytes of all its weights.
    pub fn bytes(&self) -> u64 {
        let files = self.parts.networks.iter().flat_map(|network| &network.files);
        let sizes: BTreeMap<_, _> =
            files.map(|file| (file.path(), file.file().metadata().map_or(0, |about| about.len()))).collect();
        sizes.values().sum()
    }

    /// A text that differs for models with different weights, configurations or tokenizers: SHA-256 over them and over
    /// what `digest` says of each large file, open and with its path.
    pub fn fingerprint(&self, digest: &mut dyn FnMut(&File, &Path) -> Result<String>) -> Result<String> {
        let mut hash = Sha256::new();
        let mut seen = BTreeSet::new();
        for (part, network) in Part::ALL.into_iter().zip(&self.parts.networks) {
            hash.update(network.config.to_json());
            for weights in network.files.iter().filter(|file| seen.insert(file.path())) {
                hash.update(digest(weights.file(), weights.path())?);
            }
            if matches!(part, Part::TextEncoder | Part::TextEncoder2) {
                let tokenizer = self.tokenizer(part);
                hash.update(tokenizer.config.to_json());
                for (token, number) in &tokenizer.added {
                    hash.update(format!("{number} {token}\n"));
                }
                for file in tokenizer.vocabulary.files() {
                    let open = files::open(file).map_err(Error::file(Doing::Read, file))?;
                    hash.update(digest(&open, file)?);
                }
            }
        }
        hash.update(self.parts.scheduler.to_json());
        if self.enlarges() {
            hash.update(self.parts.low_res_scheduler.to_json());
        }
        if self.has(Part::TextEncoder2) || self.enlarges() {
            hash.update(self.parts.pipeline.to_json());
        }
        Ok(format!("{:x}", hash.finalize()))
    }

    fn network(&self, part: Part) -> &Network {
        &self.parts.networks[part as usize]
    }
}

/// Whether a file of that name is one of safetensors.
pub fn is_safetensors(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("safetensors"))
}

/// The whole model that `path` is a piece of or an entry to: the folder around `model_index.json` or a part's weights,
/// the newest version in a folder of Hugging Face's cache, the only checkpoint in a folder; otherwise `path`.
fn whole(path: &Path) -> PathBuf {
    let above = path.parent().map(Path::to_owned).unwrap_or_default();
    if path.file_name().is_some_and(|name| name == "model_index.json") {
        return above;
    }
    // A part's folder, or a file in it.
    let part = if path.is_file() { &above } else { path };
    let is_part = Part::ALL.iter().any(|known| part.file_name().is_some_and(|name| name == known.folder()));
    if let Some(top) = part.parent().filter(|top| is_part && folder::is_model(top)) {
        return top.to_owned();
    }
    if path.is_file() {
        return path.to_owned();
    }
    let path = cached_version(path).unwrap_or_else(|| path.to_owned());
    if !folder::is_model(&path) && !path.join("model_index.json").is_file() {
        let names = refused::names_in(&path);
        let mut files = names.iter().map(|name| path.join(name)).filter(|file| is_safetensors(file));
        if let (Some(only), None) = (files.next(), files.next()) {
            return only;
        }
    }
    path
}

/// The licence in the head of a model's page, which is YAML between lines of dashes.
fn licence_in(page: &Path) -> Option<String> {
    // The head of a page is shorter.
    const HEAD: u64 = 16 << 10;
    let mut text = Vec::new();
    files::open(page).ok()?.take(HEAD).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines().map(str::trim_end);
    if lines.next() != Some("---") {
        return None;
    }
    let licence = lines.take_while(|line| *line != "---").find_map(|line| line.strip_prefix("license:"))?;
    Some(licence.trim().trim_matches(['"', '\'']).to_owned())
}

/// The version that Hugging Face's cache means by its folder `models--OWNER--NAME`.
fn cached_version(folder: &Path) -> Option<PathBuf> {
    let versions = folder.join("snapshots");
    let main = files::read(&folder.join("refs/main")).unwrap_or_default();
    let main = String::from_utf8_lossy(&main);
    let named = versions.join(main.trim());
    if !main.trim().is_empty() && named.is_dir() {
        return Some(named);
    }
    let modified = |path: &PathBuf| path.metadata().and_then(|metadata| metadata.modified()).ok();
    let versions = std::fs::read_dir(versions).ok()?.flatten().map(|entry| entry.path());
    versions.filter(|path| path.is_dir()).max_by_key(modified)
}
