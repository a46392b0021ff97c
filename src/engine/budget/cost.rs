//! What an edit will cost, from what earlier ones have taken on this machine.
#![forbid(unsafe_code)]

use crate::engine::budget::plan::Plan;
use crate::engine::request::{EditRequest, EngineOptions};
use crate::engine::tuning::backward::Activations;
use crate::engine::tuning::mode::Mode;
use crate::error::Result;
use crate::files;
use crate::params::Params;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// File in the cache folder: [`Pace`]s of base models, by [`key`].
const FILE: &str = "pace.json";

/// Paces that are kept.
const MAX_PACES: usize = 200;

/// What an edit will cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Whether a tuned model is kept, so that only stage C runs.
    pub tuned: bool,
    /// Steps of stages A and B that are done, and all of them, where an edit that was stopped goes on.
    pub goes_on: Option<[u32; 2]>,
    /// Seconds; `None` before the first edit with this base model.
    pub seconds: Option<f32>,
    /// How it will be tuned and the memory that takes; `None` if it is tuned already.
    pub memory: Option<Plan>,
    /// Whether a GPU does it; the memory is that of the GPU then.
    pub on_gpu: bool,
}

/// How fast one base model runs on this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    /// Pixels of the picture at the size at which the model worked.
    pub pixels: f32,
    /// Pixels of a picture of the model's own size.
    pub own_pixels: f32,
    /// Seconds to read the model and to encode the picture.
    pub load: Option<f32>,
    /// Seconds per pass of stages A, B and C; see [`passes`].
    pub passes: [Option<f32>; 3],
    /// The same of B and C of the model that enlarges; 0 where it never ran.
    #[serde(default)]
    pub detail: [f32; 2],
    /// Seconds to decode and scale the result.
    pub decode: Option<f32>,
}

/// Cost of one step of stages A, B and C in `mode`, in passes through the network for one item.
pub fn passes(params: &Params, mode: Mode) -> [f32; 3] {
    // A: forward and the gradient of the activations; B: the gradient of the weights as well, which is little for
    // adapters; C: two with guidance.
    let again = if mode.activations() == Activations::Recompute { 1.0 } else { 0.0 };
    let weights = if mode.trained().is_adapters() { 0.0 } else { 1.0 };
    let batch = params.batch_size as f32;
    let passes = if params.guidance == 1.0 { 1.0 } else { 2.0 };
    [(2.0 + again) * batch, (2.0 + again + weights) * batch, passes]
}

/// What `request` costs when `done` steps of stages A and B have been taken already, with so many steps of stage C and
/// `detail` passes of stages B and C of the model that enlarges.
pub fn estimate(
    options: &EngineOptions,
    request: &EditRequest,
    fingerprint: &str,
    memory: Option<Plan>,
    is_loaded: bool,
    (done, sampling, detail): ([u32; 2], u32, [f32; 2]),
) -> Result<Estimate> {
    let tuned = memory.is_none();
    let paces = options.cache_folder.as_deref().map(read).unwrap_or_default();
    let pace = pace(&paces, fingerprint, &request.params);
    let steps = [done[0] + done[1], request.params.embedding_steps + request.params.tuning_steps];
    let goes_on = (!tuned && steps[0] > 0).then_some(steps);
    Ok(Estimate {
        tuned,
        goes_on,
        memory,
        on_gpu: false,
        seconds: pace.and_then(|pace| {
            let enlarging = enlarging(&pace, detail)?;
            let mode = memory.map(|plan| plan.mode);
            Some(enlarging + seconds(&pace, &request.params, mode, is_loaded, (done, sampling))?)
        }),
    })
}

/// Seconds for so many passes of stages B and C of the model that enlarges; `None` where one that has to run never ran.
fn enlarging(pace: &Pace, passes: [f32; 2]) -> Option<f32> {
    let stage = |(pace, passes): (f32, f32)| (passes == 0.0 || pace > 0.0).then_some(pace * passes);
    pace.detail.into_iter().zip(passes).map(stage).sum()
}

/// What is known of the base model's pace at the size of `params`: that of the size which is nearest, and where a stage
/// never ran at it that of the next one. A pass at a much smaller size says little of a larger one.
fn pace(paces: &BTreeMap<String, Pace>, fingerprint: &str, params: &Params) -> Option<Pace> {
    let of_model = paces.iter().filter(|(key, _)| key.split('@').next() == Some(fingerprint));
    let mut of_model: Vec<Pace> = of_model.map(|(_, pace)| *pace).collect();
    let wanted = working_pixels(params, of_model.first()?.own_pixels);
    let distance = |pace: &Pace| (pace.pixels.max(1.0) / wanted.max(1.0)).ln().abs();
    of_model.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
    let nearest_first = |kept: Pace, other: Pace| Pace {
        load: kept.load.or(other.load),
        passes: [0, 1, 2].map(|stage| {
            let scaled = other.passes[stage].map(|seconds| seconds * kept.pixels / other.pixels.max(1.0));
            kept.passes[stage].or(scaled)
        }),
        detail: [0, 1].map(|stage| if kept.detail[stage] > 0.0 { kept.detail[stage] } else { other.detail[stage] }),
        decode: kept.decode.or(other.decode),
        ..kept
    };
    of_model.into_iter().reduce(nearest_first)
}

/// Pixels on which the model works.
fn working_pixels(params: &Params, own_pixels: f32) -> f32 {
    if params.resolution == 0 { own_pixels } else { (params.resolution as f32).powi(2) }
}

/// One for sizes that differ by less than a half.
fn key(fingerprint: &str, pixels: f32) -> String {
    format!("{fingerprint}@{}", (pixels.max(1.0).log2() * 2.0).round())
}

/// `None` where a stage that has to run never ran. `mode`: how it is tuned; `None` if it is already. `done`: steps of
/// stages A and B that have been taken; `sampling`: those of stage C.
fn seconds(
    pace: &Pace,
    params: &Params,
    mode: Option<Mode>,
    is_loaded: bool,
    (done, sampling): ([u32; 2], u32),
) -> Option<f32> {
    let [a, b, c] = passes(params, mode.unwrap_or(Mode::Full));
    let mut stages = vec![(pace.passes[2], sampling, c)];
    if mode.is_some() {
        stages.push((pace.passes[0], params.embedding_steps.saturating_sub(done[0]), a));
        stages.push((pace.passes[1], params.tuning_steps.saturating_sub(done[1]), b));
    }
    let pixels = working_pixels(params, pace.own_pixels);
    // Passes of another size take about as much longer as the picture has more pixels.
    let scale = pixels / pace.pixels.max(1.0);
    let stage = |(pace, steps, cost): (Option<f32>, u32, f32)| match steps {
        0 => Some(0.0),
        _ => Some(scale * pace? * steps as f32 * cost),
    };
    let load = if is_loaded { 0.0 } else { pace.load? };
    let steps: f32 = stages.into_iter().map(stage).sum::<Option<f32>>()?;
    Some(load + steps + pace.decode.unwrap_or_default())
}

/// Keeps the pace of a finished edit; what it did not do stays as it was.
///
/// Failures are not reported: an estimate is a convenience, and the edit has succeeded.
pub fn remember(options: &EngineOptions, fingerprint: &str, new: Pace) {
    let Some(folder) = options.cache_folder.as_deref() else { return };
    let mut paces = read(folder);
    let key = key(fingerprint, new.pixels);
    if paces.len() >= MAX_PACES && !paces.contains_key(&key) {
        paces.clear();
    }
    let kept = paces.entry(key).or_default();
    let scale = if kept.pixels > 0.0 { new.pixels / kept.pixels } else { 1.0 };
    for (kept, new) in kept.passes.iter_mut().zip(new.passes) {
        *kept = new.or(kept.map(|seconds| seconds * scale));
    }
    (kept.pixels, kept.own_pixels) = (new.pixels, new.own_pixels);
    for (kept, new) in kept.detail.iter_mut().zip(new.detail).filter(|(_, new)| *new > 0.0) {
        *kept = new;
    }
    kept.load = new.load.or(kept.load);
    kept.decode = new.decode.or(kept.decode);
    let bytes = serde_json::to_vec_pretty(&paces).expect("numbers and texts always become JSON");
    let _ = files::write_private(&folder.join(FILE), &bytes);
}

fn read(folder: &Path) -> BTreeMap<String, Pace> {
    files::read(&folder.join(FILE)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_at_another_size_does_not_spoil_the_estimate() {
        let (load, detail, decode) = (Some(1.0), [0.0; 2], None);
        let pace = |pixels: f32, passes| Pace { pixels, own_pixels: 4096.0, load, passes, detail, decode };
        let folder = tempfile::tempdir().expect("a folder");
        let options = EngineOptions { cache_folder: Some(folder.path().to_owned()), ..EngineOptions::default() };
        remember(&options, "model", pace(4096.0, [Some(0.5), Some(1.0), Some(0.25)]));
        let at = |resolution: u32| {
            let params = Params { resolution, ..Params::paper() };
            super::pace(&read(folder.path()), "model", &params).expect("a pace").passes.map(Option::unwrap)
        };
        assert_eq!(at(0), [0.5, 1.0, 0.25]);
        // A pass on few pixels takes longer than its share, and only stage C ran.
        remember(&options, "model", pace(64.0, [None, None, Some(0.1)]));
        assert_eq!(at(0), [0.5, 1.0, 0.25]);
        assert_eq!(at(8), [0.5 / 64.0, 1.0 / 64.0, 0.1]);
        assert!(super::pace(&read(folder.path()), "other", &Params::paper()).is_none());
    }
}
