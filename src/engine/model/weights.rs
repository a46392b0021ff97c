//! Files of a diffusers folder to named tensors: existence, shapes, finite values, fingerprint. Knows no network.
#![forbid(unsafe_code)]

use crate::engine::model::tensor_file::TensorFile;
use crate::engine::ops::adam::Adam;
use crate::error::{Doing, Error, Result};
use crate::text::{Text, text};
use candle_core::{DType, Device, Storage, Tensor};
use rayon::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Tensors of one network by name, all f32, and the file they came from.
#[derive(Clone)]
pub struct Weights {
    /// For messages.
    pub file: PathBuf,
    /// By the name they have in the file.
    pub tensors: BTreeMap<String, Tensor>,
    /// Trains those that are variables; `None` for a network that is used as it is.
    pub optimizer: Option<Arc<Adam>>,
}

impl Weights {
    /// Reads the weights in `folder` (a part of a diffusers folder, for example `unet`), whatever float type they have.
    pub fn read(folder: &Path, device: &Device) -> Result<Self> {
        let file = weights_file(folder)?;
        let checked = |(name, tensor): (String, io::Result<Tensor>)| {
            let tensor = tensor.map_err(|error| unreadable(&file, error))?;
            // Old checkpoints carry an integer tensor (position_ids) that is no weight.
            if !tensor.dtype().is_float() {
                return Ok(None);
            }
            let tensor = tensor.to_dtype(DType::F32)?;
            if is_finite(&tensor)? {
                return Ok(Some((name, tensor)));
            }
            Err(Error::model(&file, text!("tensor {name} holds NaN or infinite values; get the file again", name)))
        };
        let open = TensorFile::open(&file).map_err(|error| unreadable(&file, error))?;
        let tensors: Vec<_> = open.tensors(device).map(checked).collect::<Result<_>>()?;
        Ok(Self { tensors: tensors.into_iter().flatten().collect(), file, optimizer: None })
    }

    /// Tensors of the names and shapes of those in `folder` that take no memory; their values mean nothing.
    pub fn shapes(folder: &Path, device: &Device) -> Result<Self> {
        let file = weights_file(folder)?;
        let open = TensorFile::open(&file).map_err(|error| unreadable(&file, error))?;
        let tensor = |(name, shape): (String, Vec<usize>)| {
            Ok((name, Tensor::zeros((), DType::F32, device)?.broadcast_as(shape)?))
        };
        Ok(Self { tensors: open.shapes().map(tensor).collect::<Result<_>>()?, file, optimizer: None })
    }

    /// Numbers in all tensors.
    pub fn values(&self) -> usize {
        self.tensors.values().map(Tensor::elem_count).sum()
    }

    /// The whole network.
    pub fn root(&self) -> Scope<'_> {
        Scope { weights: self, prefix: String::new() }
    }
}

/// A place in the tree of names; networks read their tensors through it.
pub struct Scope<'a> {
    weights: &'a Weights,
    prefix: String,
}

impl<'a> Scope<'a> {
    /// The part called `name`.
    pub fn at(&self, name: impl std::fmt::Display) -> Scope<'a> {
        let prefix = if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) };
        Scope { weights: self.weights, prefix }
    }

    /// Who takes the gradients of the tensors here.
    pub fn optimizer(&self) -> Option<Arc<Adam>> {
        self.weights.optimizer.clone()
    }

    /// The tensor `name`, if there is one.
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.weights.tensors.get(&format!("{}.{name}", self.prefix))
    }

    /// The tensor `name`, which must have the shape that the configuration asks for.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let name = format!("{}.{name}", self.prefix);
        let Some(tensor) = self.weights.tensors.get(&name) else {
            return Err(Error::model(
                &self.weights.file,
                text!("tensor {name} is missing; the file is of another kind of model", name),
            ));
        };
        if tensor.dims() != shape {
            let (has, wanted) = (format!("{:?}", tensor.dims()), format!("{shape:?}"));
            let reason = text!("tensor {name} has shape {has}, but config.json asks for {wanted}", name, has, wanted);
            return Err(Error::model(&self.weights.file, reason));
        }
        Ok(tensor.clone())
    }
}

/// The refusal of a weights file.
fn unreadable(file: &Path, error: io::Error) -> Error {
    Error::model(file, text!("not a readable safetensors file: {error}; get it again", error = &error))
}

/// Whether no value is NaN or infinite; copies nothing.
fn is_finite(tensor: &Tensor) -> Result<bool> {
    let (storage, _) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(values) => Ok(values.as_slice::<f32>()?.iter().all(|value| value.is_finite())),
        _ => Ok(tensor.abs()?.sum_all()?.to_scalar::<f32>()?.is_finite()),
    }
}

/// The safetensors file in a part's folder; says what was expected where if there is none.
fn weights_file(folder: &Path) -> Result<PathBuf> {
    const NAMES: [&str; 4] = [
        "diffusion_pytorch_model.safetensors",
        "model.safetensors",
        "diffusion_pytorch_model.fp16.safetensors",
        "model.fp16.safetensors",
    ];
    if let Some(file) = NAMES.iter().map(|name| folder.join(name)).find(|file| file.is_file()) {
        return Ok(file);
    }
    let pickled = ["diffusion_pytorch_model.bin", "pytorch_model.bin"].iter().any(|name| folder.join(name).is_file());
    let reason = if pickled {
        text!(
            "has only pickled weights (.bin), which can run code when opened and are refused; get the safetensors version"
        )
    } else {
        text!("has no diffusion_pytorch_model.safetensors or model.safetensors; the model folder is not complete")
    };
    Err(Error::model(folder, reason))
}

/// A JSON file of the model folder.
pub fn read_json(path: &Path) -> Result<Value> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::model(path, text!("is missing; the model folder is not complete")));
        }
        Err(error) => return Err(Error::file(Doing::Read, path)(error)),
    };
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::model(path, text!("is not valid JSON: {error}", error = error.to_string())))
}

/// The parts of a diffusers folder that decide what it draws.
const PARTS: [&str; 3] = ["unet", "vae", "text_encoder"];

/// A text that differs for models with different weights: SHA-256 over names, sizes and configurations, and over 64
/// samples of 64 KiB spread evenly through each weights file. Reading all of a 4 GB model would take seconds each time.
pub fn fingerprint(folder: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    for part in PARTS {
        let folder = folder.join(part);
        hash.update(read_json(&folder.join("config.json"))?.to_string());
        let file = weights_file(&folder)?;
        hash_samples(&file, &mut hash).map_err(Error::file(Doing::Read, &file))?;
    }
    hash.update(read_json(&folder.join("scheduler/scheduler_config.json"))?.to_string());
    Ok(hex(&hash.finalize()))
}

fn hash_samples(path: &Path, hash: &mut Sha256) -> std::io::Result<()> {
    const SAMPLES: u64 = 64;
    const SAMPLE_BYTES: u64 = 64 << 10;
    let mut file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    hash.update(size.to_le_bytes());
    let last = size.saturating_sub(SAMPLE_BYTES);
    for index in 0..SAMPLES {
        file.seek(SeekFrom::Start(last * index / (SAMPLES - 1)))?;
        let mut sample = Vec::new();
        file.by_ref().take(SAMPLE_BYTES).read_to_end(&mut sample)?;
        hash.update(&sample);
    }
    Ok(())
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads numbers out of a configuration, with a message that names file and key.
pub struct Config {
    path: PathBuf,
    value: Value,
}

impl Config {
    /// Opens `config.json` of a part, or another JSON file.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Self { value: read_json(path)?, path: path.to_owned() })
    }

    /// The value of `key`; `Null` if absent.
    pub fn value(&self, key: &str) -> &Value {
        &self.value[key]
    }

    /// A refusal that names the file.
    pub fn error(&self, reason: Text) -> Error {
        Error::model(&self.path, reason)
    }

    /// A whole number; `default` where the key is absent or null.
    pub fn usize(&self, key: &str, default: Option<usize>) -> Result<usize> {
        match &self.value[key] {
            Value::Null => default.ok_or_else(|| self.error(text!("{key} is missing", key))),
            value => value
                .as_u64()
                .filter(|&number| number <= 1 << 24)
                .map(|number| number as usize)
                .ok_or_else(|| self.error(text!("{key} is {value}, must be a whole number", key, value))),
        }
    }

    /// A number; `default` where the key is absent or null.
    pub fn f64(&self, key: &str, default: f64) -> Result<f64> {
        match &self.value[key] {
            Value::Null => Ok(default),
            value => value.as_f64().ok_or_else(|| self.error(text!("{key} is {value}, must be a number", key, value))),
        }
    }

    /// A text; `default` where the key is absent or null.
    pub fn text<'a>(&'a self, key: &str, default: &'a str) -> &'a str {
        self.value[key].as_str().unwrap_or(default)
    }

    /// A truth value; `default` where the key is absent or null.
    pub fn bool(&self, key: &str, default: bool) -> bool {
        self.value[key].as_bool().unwrap_or(default)
    }

    /// A list of whole numbers above 0, or one number for all `len` places.
    pub fn list(&self, key: &str, len: usize, default: Option<usize>) -> Result<Vec<usize>> {
        match &self.value[key] {
            Value::Array(items) => {
                let list: Option<Vec<usize>> = items
                    .iter()
                    .map(|item| item.as_u64().filter(|&n| n > 0 && n <= 1 << 20).map(|n| n as usize))
                    .collect();
                list.filter(|list| list.len() == len || len == 0).ok_or_else(|| {
                    let value = &self.value[key];
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
        let value = &self.value[key];
        if value.is_null() || allowed.contains(value) {
            return Ok(());
        }
        Err(self.error(text!(
            "{key} is {value}, which is not supported; use a model of the Stable Diffusion 1 family",
            key,
            value
        )))
    }
}
