//! Tuned models on disk: one file each, found again by what they were tuned on; a damaged file is a miss.
#![forbid(unsafe_code)]

use crate::engine::model::conditioning::Conditioning;
use crate::engine::model::lora;
use crate::engine::model::tensor_file::TensorFile;
use crate::engine::model::weights::Weights;
use crate::engine::request::EditRequest;
use crate::engine::store::key::{FORMAT, TuningKey};
use crate::engine::tuning::tuned_model::TunedModel;
use crate::error::{Doing, Error, Result};
use crate::files;
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Name of the embedding among the tensors of the network, which are called `unet.*`.
const E_OPT: &str = "e_opt";

/// One file in the cache folder.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where it is.
    pub file: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// When it was last written or used.
    pub used: SystemTime,
    /// The prompt it was tuned for; `None` in a file that cannot be read.
    pub prompt: Option<String>,
    /// The base model's name.
    pub model: Option<String>,
    /// The document it belongs to.
    pub document: Option<String>,
}

/// Everything in the cache folder, least recently used first. A missing folder is empty.
pub fn list(folder: &Path) -> Result<Vec<Entry>> {
    let files = match std::fs::read_dir(folder) {
        Ok(files) => files,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file(Doing::Read, folder)(error)),
    };
    let mut entries = Vec::new();
    for file in files.flatten() {
        let (path, Ok(metadata)) = (file.path(), file.metadata()) else { continue };
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let about = TensorFile::open(&path).ok().and_then(|file| about(&file));
            let text = |key: &str| Some(about.as_ref()?[key].as_str()?.to_owned());
            entries.push(Entry {
                bytes: metadata.len(),
                used: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                prompt: text("prompt"),
                model: text("model"),
                document: text("document"),
                file: path,
            });
        }
    }
    entries.sort_by_key(|entry| entry.used);
    Ok(entries)
}

/// Removes every tuned model, and what a killed process may have left half-written; returns the bytes freed.
pub fn clear(folder: &Path) -> Result<u64> {
    let mut freed = 0;
    for entry in list(folder)? {
        std::fs::remove_file(&entry.file).map_err(Error::file(Doing::Remove, &entry.file))?;
        freed += entry.bytes;
    }
    remove_unfinished(folder, std::time::Duration::ZERO);
    Ok(freed)
}

/// Whether there is a tuned model for `key`; only [`find`] sees whether its file is whole.
pub fn holds(folder: &Path, key: &TuningKey) -> bool {
    path(folder, key).is_file()
}

/// The tuned model for `key`, read and verified; `None` if there is none or its file is damaged, which is logged.
/// `shapes`: the base model's network without its values; `base` reads them where adapters need them.
pub fn find(
    folder: &Path,
    key: &TuningKey,
    shapes: &Weights,
    base: &mut dyn FnMut() -> Result<Weights>,
    device: &Device,
) -> Option<TunedModel> {
    let file = path(folder, key);
    if !file.is_file() {
        return None;
    }
    match read(&file, shapes, base, device) {
        Ok(tuned) => {
            touch(&file);
            Some(tuned)
        }
        Err(reason) => {
            eprintln!("imagic-edit: {} is not used: {reason}; tuning again", file.display());
            None
        }
    }
}

/// Writes `tuned` for `key`: to a temporary file first, so that nobody ever sees half of it; then removes the least
/// recently used entries until all fit into `limit` bytes.
pub fn store(folder: &Path, limit: u64, key: &TuningKey, request: &EditRequest, tuned: &TunedModel) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::file(Doing::Create, folder))?;
    remove_unfinished(folder, std::time::Duration::from_secs(24 * 3600));
    let tensors: BTreeMap<String, Tensor> = std::iter::once((E_OPT.to_owned(), tuned.e_opt.tokens.clone()))
        .chain(tuned.own_tensors().map(|(name, tensor)| (format!("unet.{name}"), tensor.clone())))
        .collect();
    let about = json!({
        "format": FORMAT,
        "key": key.to_string(),
        "digest": digest(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)))?,
        "prompt": request.params.prompt,
        "model": request.params.model,
        "document": request.document,
        "version": env!("CARGO_PKG_VERSION"),
        "psnr": tuned.psnr,
    });
    let metadata = HashMap::from([("imagic-edit".to_owned(), about.to_string())]);
    let file = path(folder, key);
    files::write_whole_by(&file, |new| {
        safetensors::serialize_to_file(&tensors, Some(metadata), new)
            .map_err(|error| Error::file(Doing::Write, &file)(std::io::Error::other(error.to_string())))
    })?;
    prune(folder, limit, &file)
}

fn path(folder: &Path, key: &TuningKey) -> PathBuf {
    folder.join(format!("{key}.safetensors"))
}

/// Removes the least recently used entries, but never `keep`.
fn prune(folder: &Path, limit: u64, keep: &Path) -> Result<()> {
    let entries = list(folder)?;
    let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
    for entry in entries.iter().filter(|entry| entry.file != keep) {
        if total <= limit {
            break;
        }
        std::fs::remove_file(&entry.file).map_err(Error::file(Doing::Remove, &entry.file))?;
        total -= entry.bytes;
    }
    Ok(())
}

/// Removes temporary files that nobody has written to for `age`.
fn remove_unfinished(folder: &Path, age: std::time::Duration) {
    for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let old = file
            .metadata()
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|at| at.elapsed().is_ok_and(|passed| passed >= age));
        if old && file.path().extension().is_some_and(|extension| extension == "tmp") {
            // Tidying up: if it fails, nothing but space is lost, and the next call tries again.
            let _ = std::fs::remove_file(file.path());
        }
    }
}

/// Marks a file as used now, for `prune`.
fn touch(file: &Path) {
    // An entry that cannot be touched is only forgotten earlier.
    let _ = File::options().append(true).open(file).and_then(|file| file.set_modified(SystemTime::now()));
}

/// What a cache file says about itself; `None` if it is not one of ours.
fn about(file: &TensorFile) -> Option<Value> {
    serde_json::from_str(file.note("imagic-edit")?).ok()
}

/// Reads and verifies; the error is a phrase for the log.
fn read(
    file: &Path,
    shapes: &Weights,
    base: &mut dyn FnMut() -> Result<Weights>,
    device: &Device,
) -> std::result::Result<TunedModel, String> {
    let open = TensorFile::open(file).map_err(|error| error.to_string())?;
    let about = about(&open).ok_or("it was not written by this plug-in")?;
    if about["format"] != json!(FORMAT) {
        return Err(format!("its format is {}, not {FORMAT}", about["format"]));
    }
    let tensors: std::io::Result<BTreeMap<String, Tensor>> =
        open.tensors(device).map(|(name, tensor)| Ok((name, tensor?))).collect();
    let tensors = tensors.map_err(|error| error.to_string())?;
    if digest(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))).map_err(|error| error.to_string())?
        != about["digest"].as_str().unwrap_or_default()
    {
        return Err("its content does not fit its digest".into());
    }
    let own = |name: &str| tensors.get(&format!("unet.{name}"));
    let adapters: Vec<&str> =
        tensors.keys().filter_map(|name| name.strip_prefix("unet.")).filter(|name| lora::is_adapter(name)).collect();
    let mut unet = BTreeMap::new();
    if adapters.is_empty() {
        for (name, tensor) in &shapes.tensors {
            match own(name) {
                Some(tuned) if tuned.shape() == tensor.shape() => unet.insert(name.clone(), tuned.clone()),
                _ => return Err(format!("tensor {name} does not fit the base model")),
            };
        }
    } else {
        unet = base().map_err(|error| error.to_string())?.tensors;
        // The digest fits and the key names rank and layers, so that the network will find them to have its shapes.
        unet.extend(adapters.into_iter().filter_map(|name| Some((name.to_owned(), own(name)?.clone()))));
    }
    let e_opt = Conditioning { tokens: tensors.get(E_OPT).ok_or("it has no embedding")?.clone() };
    Ok(TunedModel { e_opt, unet: Weights { file: file.to_owned(), tensors: unet }, psnr: about["psnr"].as_f64() })
}

/// SHA-256 over names, shapes and values, in the order given.
fn digest<'a>(tensors: impl Iterator<Item = (&'a str, &'a Tensor)>) -> Result<String> {
    let mut hash = Sha256::new();
    for (name, tensor) in tensors {
        hash.update(format!("{name} {:?}\n", tensor.dims()));
        for values in tensor.flatten_all()?.to_vec1::<f32>()?.chunks(1 << 14) {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            hash.update(&bytes);
        }
    }
    Ok(format!("{:x}", hash.finalize()))
}
