//! What a tuned model was tuned on, in one name.
#![forbid(unsafe_code)]

use crate::engine::request::EditRequest;
use crate::engine::tuning::mode::{Mode, Trained};
use crate::params::{Affects, OptimizedEmbedding, PARAMS, PredictionType};
use sha2::{Digest, Sha256};

/// Changes whenever files of an older version must not be read: when their form or the numbers of tuning change.
pub const FORMAT: u32 = 5;

/// Identifies what a model was tuned on: SHA-256 over pixels, text, tuning parameters and base model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TuningKey(String);

impl TuningKey {
    /// As a text, the name of its files.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(any(test, fuzzing))]
impl From<&str> for TuningKey {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

/// What a request is kept under.
pub struct Keys {
    /// One for each thing that a mode of those that are allowed may train, the better first.
    pub tuned: Vec<(Trained, TuningKey)>,
    /// Of what stage A makes, whatever stage B does with it.
    pub embedding: TuningKey,
}

impl Keys {
    /// For `request`, whose modes are `allowed`. `fingerprint` is the base model's, see
    /// [`crate::engine::model::source::Source::fingerprint`], and `tokens` are those of the prompt: blanks and case are
    /// no other text to it.
    pub fn of(request: &EditRequest, tokens: &[u32], allowed: &[Mode], fingerprint: &str) -> Self {
        let pixels = match request.layer_digest {
            Some(digest) => format!("{digest:016x}"),
            None => digest_of_pixels(request),
        };
        let key = |what: &str, counts: &dyn Fn(&str) -> bool| {
            let mut hash = Sha256::new();
            hash.update(format!("imagic-edit {what}\n{fingerprint}\n"));
            for param in PARAMS.iter().filter(|param| param.affects == Affects::Tuning) {
                // The model counts by its fingerprint, which is also that of its VAE: another name or folder for the
                // same weights is no change. The text counts by its tokens. How much memory the tuning takes changes no
                // number. A margin shows in the pixels.
                let counts = match param.id {
                    "prompt" | "model" | "vae" | "tuning_mode" | "margin" => false,
                    // Younger than the tuned models that people keep, which were tuned with the default.
                    "optimized_embedding" => request.params.optimized_embedding != OptimizedEmbedding::All,
                    "prediction_type" => request.params.prediction_type != PredictionType::Automatic,
                    id => counts(id),
                };
                if counts {
                    hash.update(format!("{}={}\n", param.id, request.params.get(param.id).unwrap_or_default()));
                }
            }
            hash.update(format!("{tokens:?}\n"));
            hash.update(format!("{}x{} {pixels}\n", request.layer.width(), request.layer.height()));
            TuningKey(format!("{:x}", hash.finalize()))
        };
        let of_adapters = |id: &str| ["lora_rank", "lora_layers"].contains(&id);
        let mut trained: Vec<Trained> = allowed.iter().map(|mode| mode.trained()).collect();
        trained.dedup();
        let tuned = |trained: Trained| {
            let counts = |id: &str| trained.is_adapters() || !of_adapters(id);
            (trained, key(&format!("tuned model {FORMAT} {trained:?}"), &counts))
        };
        let of_stage_b = |id: &str| of_adapters(id) || ["tuning_steps", "tuning_lr"].contains(&id);
        Self {
            tuned: trained.into_iter().map(tuned).collect(),
            embedding: key(&format!("embedding {FORMAT}"), &|id| !of_stage_b(id)),
        }
    }

    /// Whether `key` is one of them.
    pub fn have(&self, key: &TuningKey) -> bool {
        *key == self.embedding || self.tuned.iter().any(|(_, tuned)| tuned == key)
    }
}

fn digest_of_pixels(request: &EditRequest) -> String {
    let mut hash = Sha256::new();
    for row in request.layer.rgba().chunks(1 << 16) {
        let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
        hash.update(&bytes);
    }
    format!("{:x}", hash.finalize())
}
