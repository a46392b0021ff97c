//! What the user has told of models: where some lie, which one counts without a name, and what was downloaded. One
//! small file; knows nothing of what is in a model.
#![forbid(unsafe_code)]

use super::written::{path_of, text_of};
use crate::error::{Doing, Error, Result};
use crate::files;
use crate::text::text;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Registry {
    /// Name of the model that counts where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// In the order in which they came.
    #[serde(default)]
    pub models: Vec<Registered>,
}

/// A model that the user has added or downloaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Registered {
    /// Its file or folder.
    #[serde(serialize_with = "write_path", deserialize_with = "read_path")]
    pub path: PathBuf,
    /// Where it came from, if we have downloaded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download: Option<Download>,
}

/// What is known of a download.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Download {
    /// `owner/name`, or `owner/name/file`.
    pub from: String,
    /// The version of it.
    pub revision: String,
    /// As its page says it.
    pub licence: Option<String>,
    /// Nothing else of the folder is ours.
    pub files: Vec<DownloadedFile>,
}

/// A file of a download.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DownloadedFile {
    /// Path in the model's folder; the model itself where that is a file.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 in hexadecimal digits.
    pub sha256: String,
}

impl Registry {
    /// The content of `file`; nothing where there is none.
    pub fn read(file: &Path) -> Result<Self> {
        let bytes = match files::read(file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Error::file(Doing::Read, file)(error)),
        };
        serde_json::from_slice(&bytes).map_err(|error| {
            Error::Host(text!(
                "{path} is damaged: {error}; mend it, or remove it to begin with an empty list of models",
                path = file,
                error = error.to_string()
            ))
        })
    }

    /// Writes it whole.
    pub fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).expect("texts and numbers always become JSON");
        files::write_private(file, &text)
    }

    /// What is known of the model at `path`.
    pub fn of(&self, path: &Path) -> Option<&Registered> {
        self.models.iter().find(|model| same(&model.path, path))
    }

    /// Forgets the model at `path`; the default with it, if that is called `name`.
    pub fn forget(&mut self, path: &Path, name: &str) {
        self.models.retain(|model| !same(&model.path, path));
        self.default.take_if(|default| default == name);
    }
}

/// Whether both lead to the same file or folder.
fn same(a: &Path, b: &Path) -> bool {
    a == b || a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
}

fn write_path<S: Serializer>(path: &Path, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_str(&text_of(path))
}

fn read_path<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<PathBuf, D::Error> {
    Ok(path_of(&String::deserialize(from)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_kept_and_a_damaged_file_is_not_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("made/models.json");
        assert_eq!(Registry::read(&file).expect("nothing yet"), Registry::default());
        let model = folder.path().join("a b\u{e4}.safetensors");
        let mut registry =
            Registry { default: Some("a".into()), models: vec![Registered { path: model.clone(), download: None }] };
        registry.write(&file).expect("it can be written");
        assert_eq!(Registry::read(&file).expect("as it was"), registry);
        registry.forget(&model, "a");
        assert_eq!(registry, Registry::default());
        std::fs::write(&file, "{").expect("it can be written");
        let error = Registry::read(&file).expect_err("damaged").to_string();
        assert!(error.contains("models.json is damaged") && error.contains("remove it"), "{error}");
    }
}
