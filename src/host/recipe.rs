//! What a document remembers of its edits, and a result of its own: JSON that hosts keep with the file; knows no host.
#![forbid(unsafe_code)]

use crate::engine::request::Tuned;
use crate::host::language::translate;
use crate::host::policy::REMEMBERED_RUNS;
use crate::host::report::short_prompt;
use crate::host::words;
use crate::params::{Params, Preset};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::ffi::CStr;
use std::hash::{BuildHasher, RandomState};

/// Name of the parasites on images (a [`History`]) and on result layers (a [`Recipe`]).
pub const PARASITE: &CStr = c"imagic-edit";

/// What a document remembers, as JSON in a parasite that is saved with it.
#[derive(Debug, Serialize, Deserialize)]
pub struct History {
    /// Format of this object: 1.
    version: u32,
    /// Identifies the document in the cache of tuned models: 32 hexadecimal digits.
    pub document: String,
    /// All edits, oldest first.
    pub runs: Vec<Recipe>,
}

/// How one result layer was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recipe {
    /// Tattoo (GIMP's lasting number) of the result layer.
    pub layer: u32,
    /// Tattoo of the layer that was edited.
    pub source: u32,
    /// Tattoo of the group that was made around several results; none around one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// Where the tuned model came from.
    pub tuned: Tuned,
    /// All parameters by id.
    pub params: Map<String, Value>,
    /// Seconds each stage took; empty where an older version did not say.
    #[serde(default)]
    pub seconds: Map<String, Value>,
}

impl History {
    /// The history in a parasite; one that cannot be read counts as none, because it only serves convenience.
    pub fn from_bytes(bytes: Option<Vec<u8>>) -> Self {
        let known =
            bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).filter(|known: &Self| known.version == 1);
        known.unwrap_or_else(|| {
            let document = format!("{:016x}{:016x}", random_number(), random_number());
            Self { version: 1, document, runs: Vec::new() }
        })
    }

    /// Adds a run and forgets the oldest beyond the limit.
    pub fn push(&mut self, run: Recipe) {
        self.runs.push(run);
        let surplus = self.runs.len().saturating_sub(REMEMBERED_RUNS);
        self.runs.drain(..surplus);
    }

    /// The parameters of the newest run.
    pub fn last_params(&self) -> Option<Params> {
        self.runs.last()?.params()
    }
}

impl Recipe {
    /// The recipe in a layer's parasite.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// The parameters; `None` when another version wrote one that this version does not know.
    pub fn params(&self) -> Option<Params> {
        params_from(&self.params)
    }

    /// What a list of edits says of it.
    pub fn title(&self) -> String {
        let params = self.params().unwrap_or_else(Params::paper);
        translate(&words::earlier_edit(short_prompt(&params).into(), params.eta.into(), params.seed.into()))
    }
}

/// What goes into the parasite of a history or recipe.
pub fn to_bytes(kept: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(kept).expect("texts and numbers always become JSON")
}

/// Another number each time; the standard library seeds its hash tables from the system's random numbers.
pub fn random_number() -> u64 {
    RandomState::new().hash_one(0)
}

/// `None` when another version wrote a parameter that this one does not know.
pub fn params_from(values: &Map<String, Value>) -> Option<Params> {
    // What a version without presets wrote are settings of its own.
    let mut params = Params::of_preset(Preset::Custom);
    params.set_all(values).ok().map(|()| params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_comes_back_from_its_parasite_and_forgets_the_oldest_runs() {
        let mut history = History::from_bytes(None);
        for layer in 0..REMEMBERED_RUNS as u32 + 5 {
            let params = Params { eta: 0.25, ..Params::paper() }.to_json();
            let (group, seconds) = (None, Map::new());
            history.push(Recipe { layer, source: 1, group, tuned: Tuned::Now, params, seconds });
        }
        let back = History::from_bytes(Some(to_bytes(&history)));
        assert_eq!(back.document, history.document);
        assert_eq!(back.runs.len(), REMEMBERED_RUNS);
        assert_eq!(back.runs[0].layer, 5);
        assert_eq!(back.last_params().map(|params| params.eta), Some(0.25));
    }

    #[test]
    fn a_foreign_parasite_counts_as_none_and_documents_differ() {
        let strange = History::from_bytes(Some(b"{\"version\":2}".to_vec()));
        assert!(strange.runs.is_empty());
        assert_ne!(strange.document, History::from_bytes(None).document);
    }
}
