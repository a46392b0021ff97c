//! What the hosts share: layer in, new layer out. The adapters below are the only code that knows GIMP, Krita, C or
//! files.

mod cache_limit;
pub mod capi;
mod cli;
mod entry;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
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
mod log;
mod looked_at;
mod other_programs;
mod photograph;
mod pixel_layout;
mod policy;
mod recipe;
mod report;
mod serve;
mod system;
mod thumbnail;
mod wording;
mod words;

use crate::catalog::Model;
use crate::engine::budget::cost::Estimate;
use crate::engine::request::{Edit, EditRequest, Progress};
use crate::error::Result;
use crate::image::LayerImage;
use crate::job::{Estimating, Job, JobState};
use crate::params::Params;
use crate::text::plain;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The request for an edit of `layer` with `params`, which have been checked, by `model`, which they name. Its target
/// text is a plain one, so that what nobody sees in it changes nothing.
pub fn request(layer: Arc<LayerImage>, document: String, params: Params, model: Model) -> EditRequest {
    let params = Params { prompt: plain(&params.prompt), ..params };
    let Model { path: model_path, familiar_psnr, .. } = model;
    EditRequest { layer, selection: None, layer_digest: None, params, model_path, familiar_psnr, document, previews: 0 }
}

/// Waits for an estimate.
pub fn wait_for_estimate(estimating: &Estimating) -> Result<Estimate> {
    loop {
        if let Some(estimate) = estimating.poll() {
            return estimate;
        }
        std::thread::sleep(policy::POLL);
    }
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
