//! One edit from pixels to pixels: the order of the paper's stages and what is kept between edits; knows no host.
#![forbid(unsafe_code)]

use crate::error::Result;
use crate::image::LayerImage;
use crate::params::Params;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// Where the engine keeps things and how much it may use.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Folder of the tuned models; `None` keeps them in memory only.
    pub cache_folder: Option<PathBuf>,
    /// Bytes that the cache folder may hold; the least recently used entries go first.
    pub cache_limit: u64,
}

/// Everything one edit needs; the engine reads nothing else.
#[derive(Clone, Debug)]
pub struct EditRequest {
    /// The picture x.
    pub layer: LayerImage,
    /// What to do with it.
    pub params: Params,
    /// Diffusers folder of the base model that `params.model` means.
    pub model_folder: PathBuf,
    /// Identifies the document, to group tuned models in the cache; may be empty.
    pub document: String,
}

/// The parts of an edit that take time, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reading the base model.
    LoadModel,
    /// Stage A.
    OptimizeTextEmbedding,
    /// Stage B.
    FineTune,
    /// Stage C.
    Generate,
}

impl Stage {
    /// What a progress bar says.
    pub fn label(self) -> &'static str {
        match self {
            Self::LoadModel => "Loading the model",
            Self::OptimizeTextEmbedding => "A: optimizing the text embedding",
            Self::FineTune => "B: fine-tuning the model",
            Self::Generate => "C: generating",
        }
    }
}

/// State of a running edit, reported after every step.
#[derive(Clone, Copy, Debug, PartialEq)]
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
}

/// Told of progress after every step; answers whether to go on.
pub type Watch<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;

/// Where the tuned model of an edit came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tuned {
    /// Stages A and B ran.
    Now,
    /// Still in memory from an earlier edit.
    InMemory,
    /// Read from the cache folder.
    OnDisk,
}

/// A finished edit.
#[derive(Clone, Debug)]
pub struct Edit {
    /// The result: size and alpha of the request's layer.
    pub layer: LayerImage,
    /// Whether stages A and B had to run.
    pub tuned: Tuned,
    /// Seconds each stage took; stages that did not run are absent.
    pub seconds: Vec<(Stage, f32)>,
    /// Losses of stage A, one a step; empty if it did not run.
    pub embedding_losses: Vec<f32>,
    /// Losses of stage B.
    pub tuning_losses: Vec<f32>,
    /// What the user should know, for example which words of the prompt were cut.
    pub notes: Vec<String>,
}

/// Owns the loaded base model and the tuned models.
pub struct Engine {
    options: EngineOptions,
}

impl Engine {
    /// Loads nothing yet.
    pub fn new(options: EngineOptions) -> Self {
        Self { options }
    }

    /// Runs the stages that are needed and returns the edited layer.
    pub fn edit(&mut self, request: &EditRequest, watch: &mut Watch<'_>) -> Result<Edit> {
        // Placeholder of the skeleton: takes the time of an edit and inverts the colours.
        let _ = &self.options;
        for step in 1..=40 {
            std::thread::sleep(std::time::Duration::from_millis(50));
            let progress = Progress {
                stage: Stage::FineTune,
                step,
                steps: 40,
                loss: Some(1.0),
                fraction: step as f32 / 40.0,
                seconds_left: Some((40 - step) as f32 * 0.05),
            };
            if watch(progress).is_break() {
                return Err(crate::error::Error::Cancelled);
            }
        }
        let rgba = request.layer.rgba().chunks(4).flat_map(|p| [65535 - p[0], 65535 - p[1], 65535 - p[2], p[3]]).collect();
        let layer = LayerImage::new(request.layer.width(), request.layer.height(), rgba).expect("the size of a layer");
        Ok(Edit { layer, tuned: Tuned::Now, seconds: vec![(Stage::FineTune, 2.0)], embedding_losses: vec![], tuning_losses: vec![], notes: vec![] })
    }
}
