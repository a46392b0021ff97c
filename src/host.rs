//! What the hosts share: layer in, new layer out. The adapters below are the only code that knows GIMP, Krita, C or files.

pub mod capi;
mod cli;
mod entry;
mod gimp;
mod gimp2;
mod gimp2_sys;
mod gimp3;
mod gimp3_sys;
mod gimp_sys;
mod installed;
mod language;
mod last_values;
mod loader;
mod policy;
mod recipe;
mod report;
mod system;
mod thumbnail;

use crate::catalog::{self, Model};
use crate::engine::device::{Launches, Precision, Processor};
use crate::engine::request::{Edit, EditRequest, EngineOptions, Progress};
use crate::error::{Error, Result};
use crate::image::LayerImage;
use crate::job::{JobState, Worker};
use crate::params::{BUILTIN_MODEL, Params};
use crate::text::text;
use serde_json::{Map, Value};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

/// A program with layers. Every method is called only on the thread on which the host called us.
pub trait Host {
    /// Pixels of the layer the filter runs on, cut to the selection's bounds if there is one.
    fn read_layer(&mut self) -> Result<LayerImage>;
    /// [`EditRequest::layer_digest`] of what was read last.
    fn layer_digest(&self) -> Option<u64> {
        None
    }
    /// Identifies the document; the same text every time it is opened.
    fn document(&mut self) -> String;
    /// Shows progress and lets the host breathe; `Break` when the user wants to stop.
    fn progress(&mut self, progress: &Progress) -> ControlFlow<()>;
    /// Puts the result of editing `source`, the layer as it was read, above the newest one, with its recipe.
    fn insert_layer(&mut self, edit: &Edit, source: &LayerImage, params: &Params) -> Result<()>;
}

/// Runs the whole edit and waits for it, telling `host` how it goes.
pub fn edit_active_layer(
    host: &mut dyn Host,
    worker: &Worker,
    params: &Params,
    model_folders: &[PathBuf],
) -> Result<Edit> {
    let request = request(host, params, model_folders)?;
    let source = request.layer.clone();
    let mut job = worker.submit(request);
    let edit = loop {
        match job.poll() {
            JobState::Ended(result) => break result?,
            JobState::Running(progress) => {
                if progress.is_some_and(|progress| host.progress(&progress).is_break()) {
                    job.cancel();
                }
            }
        }
        std::thread::sleep(policy::POLL);
    };
    host.insert_layer(&edit, &source, params)?;
    Ok(*edit)
}

/// The request for an edit of the host's layer, with everything checked that can be checked before any work.
pub fn request(host: &mut dyn Host, params: &Params, model_folders: &[PathBuf]) -> Result<EditRequest> {
    params.check()?;
    let layer = host.read_layer()?.into();
    let request = request_of(layer, host.document(), params, model_folders)?;
    Ok(EditRequest { layer_digest: host.layer_digest(), ..request })
}

/// The request for an edit of `layer` with exactly these parameters.
pub fn request_of(
    layer: Arc<LayerImage>,
    document: String,
    params: &Params,
    model_folders: &[PathBuf],
) -> Result<EditRequest> {
    params.check()?;
    let Model { folder: model_folder, familiar_psnr, .. } = catalog::find(&params.model, model_folders)?;
    let params = params.clone();
    Ok(EditRequest { layer, layer_digest: None, params, model_folder, familiar_psnr, document, previews: 0 })
}

/// The request for an edit of `layer` with the `chosen` parameters; those it leaves out come from the model's preset.
pub fn request_for(
    chosen: &Map<String, Value>,
    layer: Arc<LayerImage>,
    document: String,
    model_folders: &[PathBuf],
) -> Result<EditRequest> {
    let name = chosen.get("model").and_then(Value::as_str).unwrap_or(BUILTIN_MODEL);
    let model = catalog::find(name, model_folders)?;
    let params = model.params_for(chosen)?;
    params.check()?;
    let Model { folder: model_folder, familiar_psnr, .. } = model;
    Ok(EditRequest { layer, layer_digest: None, params, model_folder, familiar_psnr, document, previews: 0 })
}

/// Bytes of tuned models that are kept on disk by default: five of Stable Diffusion 1.5's size.
pub const CACHE_LIMIT: u64 = 20 << 30;

/// The engine's options on this machine, with tuned models in `cache_folder`, or in memory only.
pub fn engine_options_in(cache_folder: Option<PathBuf>) -> Result<EngineOptions> {
    let processor = processor()?;
    Ok(EngineOptions { cache_folder, cache_limit: CACHE_LIMIT, free_memory: system::free_memory, processor })
}

/// The GPU where there is one, with CUDA's libraries in the folder `cuda` beside our library or in the installed copy. It
/// computes in TF32, unless the environment's IMAGIC_PRECISION is f32 or bf16; neither has been measured on a GPU.
/// IMAGIC_EXPERIMENTAL names what else is to be tried that was never run on one, see docs/CUDA.md.
pub fn processor() -> Result<Processor> {
    let installed = dirs::data_dir().map(|data| data.join("imagic-edit"));
    let folders = installed::library_folder().into_iter().chain(installed);
    let libraries = folders.map(|folder| folder.join("cuda")).collect();
    let variable = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let precision = match variable("IMAGIC_PRECISION") {
        None => Precision::Tf32,
        Some(name) => Precision::named(&name)
            .ok_or_else(|| Error::Parameter(text!("IMAGIC_PRECISION is {name}, must be f32, tf32 or bf16", name)))?,
    };
    let launches = Launches::Eager;
    let processor = Processor::Fastest { libraries, precision, launches, eight_bit_moments: false };
    processor.with_experiments(&variable("IMAGIC_EXPERIMENTAL").unwrap_or_default()).map_err(|word| {
        Error::Parameter(text!(
            "IMAGIC_EXPERIMENTAL has {word}, must be graphs, moments8, or, in TF32, attention, with commas between them",
            word
        ))
    })
}

/// As [`engine_options_in`] with the platform's cache folder.
pub fn engine_options() -> Result<EngineOptions> {
    let cache = dirs::cache_dir()
        .ok_or_else(|| Error::Host(text!("this account has no cache folder; set HOME or XDG_CACHE_HOME")))?;
    engine_options_in(Some(cache.join("imagic-edit")))
}
