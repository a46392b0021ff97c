//! One JSON configuration of a model, read key by key. A refusal names the file and the key.
#![forbid(unsafe_code)]

use crate::error::{Doing, Error, Result};
use crate::files;
use crate::text::{Text, text};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The content of a JSON file.
#[derive(Clone)]
pub struct Config {
    file: PathBuf,
    content: Value,
}

impl Config {
    /// Reads `file`.
    pub fn read(file: &Path) -> Result<Self> {
        Self::read_if_there(file)?
            .ok_or_else(|| Error::model(file, text!("is missing; the model folder is not complete")))
    }

    /// Reads `file`; `None` where there is none.
    pub fn read_if_there(file: &Path) -> Result<Option<Self>> {
        let bytes = match files::read(file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file(Doing::Read, file)(error)),
        };
        let content = serde_json::from_slice(&bytes)
            .map_err(|error| Error::model(file, text!("is not valid JSON: {error}", error = error.to_string())))?;
        Ok(Some(Self::new(file, content)))
    }

    /// With that `content`; refusals name `file`.
    pub fn new(file: &Path, content: Value) -> Self {
        Self { file: file.to_owned(), content }
    }

    /// Everything in it.
    pub fn content(&self) -> &Value {
        &self.content
    }

    /// The same, without the file.
    pub fn into_content(self) -> Value {
        self.content
    }

    /// Everything in it, as JSON without spaces.
    pub fn to_json(&self) -> String {
        self.content.to_string()
    }

    /// Whether it says anything about `key`, were it `Null`.
    pub fn has(&self, key: &str) -> bool {
        self.content.get(key).is_some()
    }

    /// The value of `key`; `Null` if absent.
    pub fn value(&self, key: &str) -> &Value {
        &self.content[key]
    }

    /// A refusal that names the file.
    pub fn error(&self, reason: Text) -> Error {
        Error::model(&self.file, reason)
    }

    /// A whole number; `default` where the key is absent or null.
    pub fn usize(&self, key: &str, default: Option<usize>) -> Result<usize> {
        match &self.content[key] {
            Value::Null => default.ok_or_else(|| self.error(text!("{key} is missing", key))),
            value => value
                .as_u64()
                .filter(|&number| number <= 1 << 24)
                .map(|number| number as usize)
                .ok_or_else(|| self.error(text!("{key} is {value}, must be a whole number", key, value))),
        }
    }

    /// As [`Config::usize`], not below `min`.
    pub fn at_least(&self, min: usize, key: &str, default: usize) -> Result<usize> {
        let value = self.usize(key, Some(default))?;
        if value < min {
            return Err(self.error(text!("{key} is {value}, must be at least {min}", key, value, min)));
        }
        Ok(value)
    }

    /// What the name at `key` stands for; the first of `options` where the key is absent or null.
    pub fn choice<T: Copy>(&self, key: &str, options: &[(&str, T)]) -> Result<T> {
        let value = self.text(key, options[0].0);
        options.iter().find(|(name, _)| *name == value).map(|(_, meaning)| *meaning).ok_or_else(|| {
            let names: Vec<&str> = options.iter().map(|(name, _)| *name).collect();
            self.error(text!("{key} is {value}, must be one of {names}", key, value, names = names.join(", ")))
        })
    }

    /// A number; `default` where the key is absent or null.
    pub fn f64(&self, key: &str, default: f64) -> Result<f64> {
        match &self.content[key] {
            Value::Null => Ok(default),
            value => value.as_f64().ok_or_else(|| self.error(text!("{key} is {value}, must be a number", key, value))),
        }
    }

    /// A text; `default` where the key is absent or null.
    pub fn text<'a>(&'a self, key: &str, default: &'a str) -> &'a str {
        self.content[key].as_str().unwrap_or(default)
    }

    /// A truth value; `default` where the key is absent or null.
    pub fn bool(&self, key: &str, default: bool) -> bool {
        self.content[key].as_bool().unwrap_or(default)
    }

    /// A list of whole numbers above 0, or one number for all `len` places.
    pub fn list(&self, key: &str, len: usize, default: Option<usize>) -> Result<Vec<usize>> {
        match &self.content[key] {
            Value::Array(items) => {
                let list: Option<Vec<usize>> = items
                    .iter()
                    .map(|item| item.as_u64().filter(|&n| n > 0 && n <= 1 << 20).map(|n| n as usize))
                    .collect();
                list.filter(|list| list.len() == len || len == 0).ok_or_else(|| {
                    let value = &self.content[key];
                    self.error(text!(
                        "{key} is {value}, must be {count} whole numbers above 0",
                        key,
                        value,
                        count = len
                    ))
                })
            }
            _ => Ok(vec![self.usize(key, default)?; len]),
        }
    }

    /// Refuses a model that needs something this engine does not have: `key` must be absent, null or one of `allowed`.
    pub fn require(&self, key: &str, allowed: &[Value]) -> Result<()> {
        let value = &self.content[key];
        if value.is_null() || allowed.contains(value) {
            return Ok(());
        }
        Err(self.error(text!(
            "{key} is {value}, which is not supported; use a Stable Diffusion 1, 2 or XL model",
            key,
            value
        )))
    }
}
