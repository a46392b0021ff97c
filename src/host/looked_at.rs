//! Results that were looked at and did not become layers: how they were made is kept, so that they are there again when
//! the dialog opens next time on the same pixels. Their pictures are not kept; the tuned model makes them again. Knows
//! no host.
#![forbid(unsafe_code)]

use crate::error::Result;
use crate::files;
use crate::host::policy::KEPT_RESULTS;
use crate::host::recipe::params_from;
use crate::params::Params;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Layers of which results are remembered; older ones go.
const LAYERS: usize = 16;

/// What is remembered, newest first.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    layers: Vec<Looks>,
}

#[derive(Serialize, Deserialize)]
struct Looks {
    /// Tells the layer's pixels.
    layer: String,
    /// Parameters of its results, oldest first.
    results: Vec<Map<String, Value>>,
}

/// How the results of the layer with these pixels were made that have not become layers, oldest first.
pub fn looked_at(layer: &str) -> Vec<Params> {
    file().map(|file| looked_at_in(&file, layer)).unwrap_or_default()
}

/// Keeps this for the next time.
pub fn remember_looks(layer: &str, results: &[Params]) -> Result<()> {
    file().map_or(Ok(()), |file| remember_in(&file, layer, results))
}

fn looked_at_in(file: &Path, layer: &str) -> Vec<Params> {
    let looks = read(file).layers.into_iter().find(|looks| looks.layer == layer);
    looks.into_iter().flat_map(|looks| looks.results).filter_map(|params| params_from(&params)).collect()
}

fn remember_in(file: &Path, layer: &str, results: &[Params]) -> Result<()> {
    let mut kept = read(file);
    let before = kept.layers.len();
    kept.layers.retain(|looks| looks.layer != layer);
    if results.is_empty() && kept.layers.len() == before {
        return Ok(());
    }
    if !results.is_empty() {
        let newest = &results[results.len().saturating_sub(KEPT_RESULTS)..];
        let results = newest.iter().map(Params::to_json).collect();
        kept.layers.insert(0, Looks { layer: layer.to_owned(), results });
    }
    kept.layers.truncate(LAYERS);
    files::write_private(file, &serde_json::to_vec(&kept).expect("texts and numbers always become JSON"))
}

/// What cannot be read counts as nothing, because it only serves convenience.
fn read(file: &Path) -> Kept {
    files::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn file() -> Option<PathBuf> {
    Some(dirs::config_dir()?.join("imagic-edit/looked-at.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_looked_at_comes_back_for_the_same_pixels_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("looked-at.json");
        let params = |seed| Params { seed, prompt: "a dog".into(), ..Params::paper() };
        remember_in(&file, "one", &[params(1), params(2)]).expect("a temporary folder");
        for other in 0..LAYERS {
            remember_in(&file, &format!("other {other}"), &[params(9)]).expect("a temporary folder");
        }
        assert!(looked_at_in(&file, "one").is_empty(), "the oldest goes");
        remember_in(&file, "one", &[params(1), params(2)]).expect("a temporary folder");
        let seeds = |layer: &str| looked_at_in(&file, layer).iter().map(|params| params.seed).collect::<Vec<_>>();
        assert_eq!((seeds("one"), seeds("other 3")), (vec![1, 2], vec![9]));
        remember_in(&file, "one", &[]).expect("a temporary folder");
        assert!(seeds("one").is_empty());
    }
}
