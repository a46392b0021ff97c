//! Tuned models on disk: one file each, found again by what they were tuned on; a damaged file is a miss.
#![forbid(unsafe_code)]

use crate::engine::model::conditioning::Conditioning;
use crate::engine::model::lora;
use crate::engine::model::weights::Weights;
use crate::engine::request::EditRequest;
use crate::engine::store::difference::{self, Codes};
use crate::engine::store::entry::{self, CODES, Entry, Refusal};
use crate::engine::store::folder::{self, NewFile, RESUME, TUNED};
use crate::engine::store::key::{FORMAT, TuningKey};
use crate::engine::tuning::tuned_model::TunedModel;
use crate::error::{Doing, Error, Result};
use candle_core::{Device, Tensor};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How the names of a network's tensors begin.
const UNET: &str = "unet.";

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A tuned model.
    Tuned,
    /// Stages A and B as far as they have come: so many steps of so many.
    Unfinished {
        /// Steps of both stages that are done.
        done: u64,
        /// Steps of both stages.
        all: u64,
    },
    /// Of an older version, or damaged; not used.
    Unusable,
}

/// One file in the cache folder.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Where it is.
    pub file: PathBuf,
    /// What it is.
    pub kind: Kind,
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
    /// Width and height of the layer.
    pub picture: Option<[u64; 2]>,
}

/// Everything in the cache folder, least recently used first. A missing folder is empty.
pub fn list(folder: &Path) -> Result<Vec<Listed>> {
    let listed = folder::list(folder)?.into_iter().map(|file| {
        let about = Entry::look(&file.path).unwrap_or_default();
        let text = |key: &str| about[key].as_str().map(str::to_owned);
        let format = text("format").unwrap_or_default();
        let kind = if file.is(TUNED) && format == self::format() {
            Kind::Tuned
        } else if file.is(RESUME) && format == super::resume::format() {
            let steps = |key: &str| about[key].as_u64().unwrap_or_default();
            Kind::Unfinished { done: steps("done"), all: steps("all") }
        } else {
            Kind::Unusable
        };
        let side = |at: usize| about["picture"][at].as_u64();
        Listed {
            kind,
            bytes: file.bytes,
            used: file.used,
            prompt: text("prompt"),
            model: text("model"),
            document: text("document"),
            picture: side(0).zip(side(1)).map(|(width, height)| [width, height]),
            file: file.path,
        }
    });
    Ok(listed.collect())
}

/// Bytes of everything that is listed; 0 where nothing can be.
pub fn bytes(folder: &Path) -> u64 {
    folder::list(folder).unwrap_or_default().iter().map(|file| file.bytes).sum()
}

/// Removes one file of those that are listed; whether it did: somebody may use it.
pub fn remove(listed: &Listed) -> Result<bool> {
    folder::remove_unused(&listed.file).map_err(Error::file(Doing::Remove, &listed.file))
}

/// Removes everything but what is in use now, also what a killed process may have left half-written; returns the bytes
/// freed.
pub fn clear(folder: &Path) -> Result<u64> {
    folder::clear(folder)
}

/// Whether there is a tuned model for `key`; only [`find`] sees whether its file is whole.
pub fn holds(folder: &Path, key: &TuningKey) -> bool {
    path(folder, key).symlink_metadata().is_ok_and(|about| about.is_file())
}

/// What a tuned model has to fit.
pub struct Fitting<'a> {
    /// An embedding of the shapes that its own has.
    pub e: &'a Conditioning,
    /// The base model's network without its values.
    pub network: &'a Weights,
    /// Where it is wanted.
    pub device: &'a Device,
}

/// What the base model's network is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Adapters, which are used beside it.
    Beside,
    /// A difference, which is added to it: it is used up.
    Up,
}

/// The tuned model for `key`, read and verified; `None` if there is none or its file is damaged, which is said once.
/// `base` reads the base model's network where it is needed.
pub fn find(
    folder: &Path,
    key: &TuningKey,
    fitting: &Fitting<'_>,
    base: &mut dyn FnMut(Wanted) -> Result<Weights>,
) -> Option<TunedModel> {
    let file = path(folder, key);
    // Whatever is there: only `read` says what is wrong with it.
    file.symlink_metadata().ok()?;
    let tuned = read(&file, key, fitting, base);
    tuned.inspect_err(|refusal| entry::refuse(&file, refusal)).ok()
}

/// Writes `tuned` for `key`, those of its tensors that are rounded by their `codes`: nobody ever sees half of it. Least
/// recently used files go until all fit into `limit` bytes.
pub fn store(
    folder: &Path,
    limit: u64,
    key: &TuningKey,
    request: &EditRequest,
    (tuned, codes): (&TunedModel, &Codes),
) -> Result<()> {
    let exact = tuned.own_tensors().filter(|(name, _)| !codes.contains_key(*name));
    let tensors: BTreeMap<String, &Tensor> =
        entry::e_opt(&tuned.e_opt).chain(exact.map(|(name, tensor)| (format!("{UNET}{name}"), tensor))).collect();
    let mut shapes = entry::shapes_of(tensors.iter().map(|(name, tensor)| (name.clone(), *tensor)));
    shapes.extend(codes.iter().map(|(name, codes)| (format!("{CODES}{name}"), vec![codes.len()])));
    let mut about = entry::about(key, request);
    (about["format"], about["psnr"]) = (json!(format()), json!(tuned.psnr));
    let file = path(folder, key);
    let mut new = NewFile::begin(folder)?;
    folder::make_room(folder, limit, entry::bytes(&about, &shapes), &file)?;
    let written = entry::write(new.file(), &about, &shapes, |name, values| match name.strip_prefix(CODES) {
        Some(name) => values.add_bytes(&codes[name]),
        None => values.add_tensor(tensors[name]),
    });
    written.map_err(entry::unwritten(&file))?;
    new.keep(&file)
}

/// Refuses now what could not be written in the end: a folder where nothing can be made, or a disk without room for
/// `bytes`.
pub fn check(folder: &Path, limit: u64, bytes: u64) -> Result<()> {
    drop(NewFile::begin(folder)?);
    match folder::make_room(folder, limit, bytes, Path::new(""))? {
        true => Ok(()),
        false => Err(Error::file(Doing::Write, folder)(std::io::ErrorKind::StorageFull.into())),
    }
}

fn format() -> String {
    format!("tuned model {FORMAT}")
}

fn path(folder: &Path, key: &TuningKey) -> PathBuf {
    folder.join(key.as_str()).with_extension(TUNED)
}

fn read(
    file: &Path,
    key: &TuningKey,
    fitting: &Fitting<'_>,
    base: &mut dyn FnMut(Wanted) -> Result<Weights>,
) -> std::result::Result<TunedModel, Refusal> {
    let open = Entry::open(file)?;
    let mut tensors = open.read(key, &format())?;
    let place = |tensor: &Tensor| tensor.to_device(fitting.device).map_err(Refusal::bad);
    let psnr = open.about["psnr"].as_f64();
    let mut base = |wanted| base(wanted).map_err(|error| Refusal::Foreign(error.to_string()));
    let mut unet = BTreeMap::new();
    if tensors.keys().any(|name| lora::is_adapter(name)) {
        unet = base(Wanted::Beside)?.tensors;
        // The digest fits and the key names rank and layers, so that the network will find them to have its shapes.
        for (name, tensor) in &tensors {
            if let Some(name) = name.strip_prefix(UNET) {
                unet.insert(name.to_owned(), place(tensor)?);
            }
        }
    } else {
        let has_codes = tensors.keys().any(|name| name.starts_with(CODES));
        let mut base = if has_codes { base(Wanted::Up)?.tensors } else { BTreeMap::new() };
        for (name, tensor) in &fitting.network.tensors {
            let (exact, codes) = (tensors.remove(&format!("{UNET}{name}")), tensors.remove(&format!("{CODES}{name}")));
            let tuned = match (exact, codes, base.remove(name)) {
                (Some(exact), None, _) if exact.shape() == tensor.shape() => place(&exact)?,
                (None, Some(codes), Some(base))
                    if codes.elem_count() == difference::code_bytes(tensor.elem_count())
                        && base.shape() == tensor.shape() =>
                {
                    let codes = entry::bytes_of(&codes).map_err(Refusal::bad)?;
                    place(&difference::restore(&base, &codes).map_err(Refusal::bad)?)?
                }
                _ => return Err(Refusal::bad(format!("tensor {name} does not fit the base model"))),
            };
            unet.insert(name.clone(), tuned);
        }
    }
    let e_opt = entry::conditioning(&tensors, fitting.e, fitting.device)?;
    Ok(TunedModel { e_opt, unet: Weights { file: file.to_owned(), tensors: unet }, psnr })
}
