//! What the headers of models have told, remembered: to look at two hundred checkpoints takes seconds. A model is known
//! again by its path and by size, time and place on the disk of each of its files.
#![forbid(unsafe_code)]

use crate::engine::about::About;
use crate::engine::model::source::{Part, Source};
use crate::error::Error;
use crate::files;
use crate::text::Text;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

/// Models that are remembered.
const MOST: usize = 2000;

/// Files of one part of a model that are looked at.
const MOST_FILES: usize = 64;

/// What there is to be said of a model: what it is, or why it cannot be used.
pub type Finding = std::result::Result<About, Text>;

/// Findings by path, with the signature of the model's files.
type Findings = BTreeMap<PathBuf, (u64, Finding)>;

/// Remembered findings.
#[derive(Default)]
pub struct Headers {
    /// Where they are kept between two programs; `None`: nowhere.
    file: Option<PathBuf>,
    known: Mutex<Option<Known>>,
}

#[derive(Default)]
struct Known {
    findings: Findings,
    changed: bool,
}

impl Headers {
    /// Kept in `file`.
    pub fn new(file: Option<PathBuf>) -> Self {
        Self { file, known: Mutex::default() }
    }

    /// What is remembered of the model at `path` as it is now.
    pub fn known(&self, path: &Path) -> Option<Finding> {
        let signature = signature(path);
        let known = self.lock();
        let (of, finding) = known.as_ref()?.findings.get(path)?;
        (*of == signature).then(|| finding.clone())
    }

    /// Looks at the model at `path`, or remembers.
    pub fn of(&self, path: &Path) -> Finding {
        self.known(path).unwrap_or_else(|| {
            let signature = signature(path);
            let finding = About::of(path).map_err(|error| reason(error, path));
            let mut known = self.lock();
            let known = known.get_or_insert_default();
            if known.findings.len() >= MOST {
                known.findings.clear();
            }
            known.findings.insert(path.to_owned(), (signature, finding.clone()));
            known.changed = true;
            finding
        })
    }

    /// Writes what is new. Failures are not told: it is looked at again.
    pub fn keep(&self) {
        let mut known = self.lock();
        let (Some(known), Some(file)) = (known.as_mut().filter(|known| known.changed), &self.file) else { return };
        known.changed = false;
        let models: Map<String, Value> = known.findings.iter().filter_map(written).collect();
        let text = json!({ "version": env!("CARGO_PKG_VERSION"), "models": models }).to_string();
        let _ = files::write_private(file, text.as_bytes());
    }

    fn lock(&self) -> MutexGuard<'_, Option<Known>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get_or_insert_with(|| {
            let findings = self.file.as_deref().and_then(read).unwrap_or_default();
            Known { findings, changed: false }
        });
        known
    }
}

/// What `error` says of the model at `path`, beside which the text stands.
pub fn reason(error: Error, path: &Path) -> Text {
    match error {
        Error::Model { path: at, reason } if at == path => reason,
        error => error.text(),
    }
}

/// A finding as it stands in the file; nothing of a path that is no text.
fn written((path, (signature, finding)): (&PathBuf, &(u64, Finding))) -> Option<(String, Value)> {
    let signature = format!("{signature:016x}");
    let finding = match finding {
        Ok(about) => json!({ "signature": signature, "about": about }),
        Err(reason) => json!({ "signature": signature, "reason": reason.to_json() }),
    };
    Some((path.to_str()?.to_owned(), finding))
}

/// Another version may know more models.
fn read(file: &Path) -> Option<Findings> {
    let content: Value = serde_json::from_slice(&files::read(file).ok()?).ok()?;
    if content["version"] != env!("CARGO_PKG_VERSION") {
        return None;
    }
    let finding = |(path, value): (&String, &Value)| {
        let signature = u64::from_str_radix(value["signature"].as_str()?, 16).ok()?;
        let finding = match &value["about"] {
            Value::Null => Err(Text::from_json(&value["reason"])?),
            about => Ok(serde_json::from_value(about.clone()).ok()?),
        };
        Some((PathBuf::from(path), (signature, finding)))
    };
    Some(content["models"].as_object()?.iter().filter_map(finding).collect())
}

/// A number that is another one when a file of the model at `path` is.
fn signature(path: &Path) -> u64 {
    let mut hash = DefaultHasher::new();
    let place = Source::place(path);
    let mut add = |file: &Path| {
        let Ok(about) = file.metadata() else { return };
        let time = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        (file, about.len(), time).hash(&mut hash);
        #[cfg(unix)]
        std::os::unix::fs::MetadataExt::ino(&about).hash(&mut hash);
    };
    if place.is_file() {
        add(&place);
        add(&place.with_extension("vae.safetensors"));
    } else {
        let parts = Part::ALL.map(Part::folder);
        for folder in ["", "tokenizer", "tokenizer_2", "scheduler"].into_iter().chain(parts) {
            let entries = std::fs::read_dir(place.join(folder)).into_iter().flatten().flatten();
            let mut files: Vec<PathBuf> = entries.take(MOST_FILES).map(|entry| entry.path()).collect();
            files.sort();
            files.iter().for_each(|file| add(file));
        }
    }
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_once_and_again_when_the_file_has_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (model, file) = (folder.path().join("a.safetensors"), folder.path().join("cache/headers.json"));
        std::fs::write(&model, "a text").expect("it can be written");
        let headers = Headers::new(Some(file.clone()));
        assert!(headers.known(&model).is_none());
        let reason = headers.of(&model).expect_err("a text is no model");
        assert!(reason.to_string().contains("this is a text"), "{reason}");
        headers.keep();
        let other = Headers::new(Some(file.clone()));
        assert_eq!(other.known(&model), Some(Err(reason)));
        std::fs::write(&model, "another text").expect("it can be written");
        assert!(other.known(&model).is_none());
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/small-sd1/model");
        let about = other.of(&fixture).expect("a model");
        other.keep();
        assert_eq!(Headers::new(Some(file.clone())).known(&fixture), Some(Ok(about)));
        std::fs::write(&file, "{").expect("it can be written");
        assert!(Headers::new(Some(file)).known(&fixture).is_none());
    }
}
