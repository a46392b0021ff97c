//! What the hosts share: layer in, new layer out. The adapters below are the only code that knows GIMP, Krita, C or
//! files.

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
mod pixel_layout;
mod policy;
mod recipe;
mod report;
mod serve;
mod system;
mod thumbnail;

use crate::catalog::{self, Model};
use crate::engine::request::{Edit, EditRequest, Progress};
use crate::error::Result;
use crate::image::LayerImage;
use crate::job::{Job, JobState, Worker};
use crate::params::Params;
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
    params.check()?;
    let source = Arc::new(host.read_layer()?);
    let request = request_of(source.clone(), host.document(), params, model_folders)?;
    let job = worker.submit(EditRequest { layer_digest: host.layer_digest(), ..request });
    let edit = wait(job, |progress| host.progress(progress))?;
    host.insert_layer(&edit, &source, params)?;
    Ok(edit)
}

/// The request for an edit of `layer` with exactly these parameters.
pub fn request_of(
    layer: Arc<LayerImage>,
    document: String,
    params: &Params,
    model_folders: &[PathBuf],
) -> Result<EditRequest> {
    params.check()?;
    Ok(request(layer, document, params.clone(), catalog::find(&params.model, model_folders)?))
}

/// The request for an edit of `layer` with `params`, which have been checked, by `model`, which they name.
pub fn request(layer: Arc<LayerImage>, document: String, params: Params, model: Model) -> EditRequest {
    let Model { folder: model_folder, familiar_psnr, .. } = model;
    EditRequest { layer, layer_digest: None, params, model_folder, familiar_psnr, document, previews: 0 }
}

/// Waits for the end of `job` and tells `watch` how it goes; `Break` stops it.
pub fn wait(mut job: Job, mut watch: impl FnMut(&Progress) -> ControlFlow<()>) -> Result<Edit> {
    loop {
        match job.poll() {
            JobState::Ended(result) => return result.map(|edit| *edit),
            JobState::Running(progress) => {
                if progress.is_some_and(|progress| watch(&progress).is_break()) {
                    job.cancel();
                }
            }
        }
        std::thread::sleep(policy::POLL);
    }
}
