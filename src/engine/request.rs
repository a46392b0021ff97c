//! What host and engine say to each other: a request, its progress, the finished edit.
#![forbid(unsafe_code)]

use crate::engine::device::Processor;
use crate::engine::model::source::Source;
use crate::engine::picture::pixels::Picture;
use crate::engine::picture::selection::Selection;
use crate::error::{Error, Hint, Result};
use crate::image::LayerImage;
use crate::params::{Detail, Params};
use crate::text::{Text, text};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Where the engine keeps things and how much it may use.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Folder of the tuned models; `None` keeps them in memory only.
    pub cache_folder: Option<PathBuf>,
    /// Bytes that the cache folder may hold; the least recently used entries go first.
    pub cache_limit: u64,
    /// Time after which what stages A and B have done is written into the cache folder, so that it is not lost however
    /// the program ends; longer where writing takes long. Zero is after every step, whatever that takes.
    pub resume_every: Duration,
    /// Bytes of memory that can still be had; `None` if the system does not say. Asked before tuning, unless on a GPU,
    /// which has memory of its own.
    pub free_memory: fn() -> Option<u64>,
    /// What to compute on.
    pub processor: Processor,
    /// Told of each stage that ends, in one line without the picture and without a word of the user's; does nothing
    /// where nothing may be kept.
    pub log: fn(&str),
    /// Gives memory that nobody needs now back to the system; called when nothing was asked for a while.
    pub give_back: fn(),
    /// A network of more bytes is kept as its difference to the base model in three bits a weight
    /// ([`crate::engine::store::difference`]).
    pub exact_up_to: u64,
}

/// Bytes of the largest network that is kept exactly, with all its weights: that of the built-in model has 43 MB, that
/// of Stable Diffusion 1.5 3.4 GB.
pub const EXACT_UP_TO: u64 = 256 << 20;

/// On the processor, with as much memory as it likes, keeping nothing on the disk.
impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            cache_folder: None,
            cache_limit: 1 << 30,
            resume_every: Duration::MAX,
            free_memory: || None,
            processor: Processor::Cpu,
            log: |_| (),
            give_back: || (),
            exact_up_to: EXACT_UP_TO,
        }
    }
}

/// Everything one edit needs; the engine reads nothing else.
#[derive(Clone, Debug)]
pub struct EditRequest {
    /// The picture x.
    pub layer: Arc<LayerImage>,
    /// What of it is to be edited, in a picture of its size; `None` is everything.
    pub selection: Option<Selection>,
    /// Differs for layers with different pixels. From a host whose conversion to `layer` is not exact, so that a layer
    /// is known again by what it is and not by how it was converted; `None` where `layer` itself tells.
    pub layer_digest: Option<u64>,
    /// What to do with it.
    pub params: Params,
    /// File or folder of the base model that `params.model` means.
    pub model_path: PathBuf,
    /// Pictures that the base model's autoencoder gives back at this many dB are familiar to it, others get a hint;
    /// `None` if the model does not say.
    pub familiar_psnr: Option<f64>,
    /// Identifies the document, to group tuned models in the cache; may be empty.
    pub document: String,
    /// How many times stage C shows the picture as it forms; each costs a pass of the autoencoder.
    pub previews: u32,
}

impl EditRequest {
    /// The base model's files, its autoencoder's among them.
    pub fn source(&self) -> Result<Source> {
        let vae = Some(self.params.vae.trim()).filter(|vae| !vae.is_empty());
        Source::with_vae(&self.model_path, vae.map(Path::new))
    }

    /// The files of the model that enlarges the edit, and whether it is tuned; `None` where nothing does.
    pub fn enlarger(&self) -> Result<Option<(Source, bool)>> {
        let tunes = self.params.detail != Detail::Pretrained;
        let chosen = Some(self.params.enlarger.trim()).filter(|chosen| !chosen.is_empty());
        let place = chosen.map(PathBuf::from).or_else(|| Source::companion(&self.model_path));
        match (self.params.detail, place) {
            (Detail::Off, _) | (Detail::Automatic, None) => Ok(None),
            (_, Some(place)) => Ok(Some((Source::open_enlarger(&place)?, tunes))),
            (asked, None) => Err(Error::Parameter(text!(
                "detail is {asked}, and no model that enlarges comes with this base model; name one (--enlarger), or \
                 set detail to off",
                asked = asked.name()
            ))),
        }
    }

    /// The same request for what a model whose own pictures have the side `own_side` sees of the layer, and the
    /// selection in it; itself where all is selected.
    pub fn seen(&self, own_side: usize) -> Self {
        let side = if self.params.resolution == 0 { own_side } else { self.params.resolution as usize };
        let Some(selection) = self.selection.as_ref().filter(|selection| !selection.is_whole()) else {
            return Self { selection: None, ..self.clone() };
        };
        let window = selection.window(self.params.margin, side);
        // FNV-1a: the same for each version of the program, because tuned models are kept under it.
        let place = [window.x, window.y, window.width, window.height];
        let placed = |digest: u64| {
            place.iter().fold(digest, |digest, &at| (digest ^ u64::from(at)).wrapping_mul(0x100_0000_01b3))
        };
        Self {
            layer: self.layer.cut(window).into(),
            layer_digest: self.layer_digest.map(placed),
            selection: Some(selection.seen_in(window, self.layer.clone())),
            ..self.clone()
        }
    }

    /// The picture in `pixels`, (1, 3, h, w) from about -1 to 1, of what was [seen](Self::seen) for this request.
    pub fn picture(&self, pixels: &Tensor) -> Result<Picture> {
        let picture = Picture::of(pixels)?;
        Ok(match &self.selection {
            Some(selection) => picture.around(selection, &self.layer),
            None => picture,
        })
    }

    /// The hint for a picture that the base model's codec gives back at `psnr` dB, if it needs one.
    pub fn hint(&self, psnr: Option<f64>) -> Option<Hint> {
        let (psnr, familiar_psnr) = (psnr?, self.familiar_psnr?);
        (psnr < familiar_psnr).then_some(Hint::UnfamiliarPicture { psnr, familiar_psnr })
    }
}

/// The parts of an edit that take time, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Reading the base model.
    #[default]
    LoadModel,
    /// Another program tunes the same; what comes of it will be used.
    Wait,
    /// Stage A.
    OptimizeTextEmbedding,
    /// Stage B.
    FineTune,
    /// Stage C.
    Generate,
    /// Stage B of the model that enlarges.
    FineTuneDetail,
    /// Stage C of the model that enlarges.
    Enlarge,
}

impl Stage {
    /// What a progress bar says.
    pub fn label(self) -> Text {
        match self {
            Self::LoadModel => text!("Loading the model"),
            Self::Wait => text!("Waiting for another edit to be tuned"),
            Self::OptimizeTextEmbedding => text!("A: optimizing the text embedding"),
            Self::FineTune => text!("B: fine-tuning the model"),
            Self::Generate => text!("C: generating"),
            Self::FineTuneDetail => text!("B: fine-tuning the detail model"),
            Self::Enlarge => text!("C: painting the detail"),
        }
    }
}

/// State of a running edit, reported after every step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// The stage that runs.
    pub stage: Stage,
    /// Steps of this stage that are done.
    pub step: u32,
    /// Steps this stage has; 0 while unknown.
    pub steps: u32,
    /// Loss of the last step of stages A and B.
    pub loss: Option<f32>,
    /// Share of the whole edit that is done, 0 to 1, weighted by what the stages cost.
    pub fraction: f32,
    /// Seconds until the edit is done, estimated from the steps so far.
    pub seconds_left: Option<f32>,
    /// What the user should know; there from the first step of stage A on, or of stage C where the model is tuned
    /// already.
    pub hint: Option<Hint>,
    /// The picture as it forms in stage C, about at the size at which the model works, with a selection in its place in
    /// the layer; the same one until the next is made.
    pub preview: Option<Arc<LayerImage>>,
}

/// Told of progress after every step; answers whether to go on.
pub type Watch<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;

/// Where the tuned model of an edit came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tuned {
    /// Stages A and B ran, or that of the model that enlarges.
    Now,
    /// Still in memory from an earlier edit.
    InMemory,
    /// Read from the cache folder.
    OnDisk,
}

/// A finished edit.
#[derive(Clone, Debug)]
pub struct Edit {
    /// Whether stages A and B had to run.
    pub tuned: Tuned,
    /// Seconds each stage took; stages that did not run are absent.
    pub seconds: Vec<(Stage, f32)>,
    /// Seed of the version that was taken; see [`Params::candidates`].
    pub seed: u32,
    /// Losses of stage A, one a step; empty if it did not run.
    pub embedding_losses: Vec<f32>,
    /// Losses of stage B.
    pub tuning_losses: Vec<f32>,
    /// What the user should know, for example which words of the prompt were cut.
    pub notes: Vec<Text>,
    /// The hint that was part of the progress.
    pub hint: Option<Hint>,
    /// The result at the size at which the model works; [`Picture::on`] renders it at a layer's size.
    pub picture: Picture,
}

/// How the stages report: (stage, steps done, steps in all, loss); fails with [`crate::error::Error::Cancelled`] to
/// stop them.
pub type StepWatch<'a> = dyn FnMut(Stage, u32, u32, Option<f32>) -> Result<()> + 'a;

/// How stage C reports: (steps done, the clean latents as they look from there); fails with
/// [`crate::error::Error::Cancelled`] to stop it.
pub type SampleWatch<'a> = dyn FnMut(u32, &Tensor) -> Result<()> + 'a;
