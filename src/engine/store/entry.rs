//! The form of the store's files: safetensors that say what they are, and a digest of that and of every value, so that
//! nothing is taken for what it is not. Knows neither tuned models nor resume points.
//!
//! Values are written as they come, so that a file of gigabytes needs no copy of them; its digest is put into the
//! header last.
#![forbid(unsafe_code)]

use crate::engine::model::conditioning::Conditioning;
use crate::engine::model::source::tensor_file::TensorFile;
use crate::engine::request::EditRequest;
use crate::engine::stop;
use crate::engine::store::folder;
use crate::engine::store::key::TuningKey;
use crate::error::{Doing, Error, STOPPED};
use crate::files;
use crate::text::{self, Text};
use candle_core::{Device, Storage, Tensor};
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

/// Under this name safetensors' header has what the file says of itself.
const ABOUT: &str = "imagic-edit";
/// What stands before the digest in the header, where JSON stands in a text of JSON.
const BEFORE_DIGEST: &[u8] = br#"\"digest\":\""#;
/// Of SHA-256, in hexadecimal.
const DIGEST_LENGTH: usize = 64;

/// How the names of tensors of bytes begin; all others are of f32.
pub const CODES: &str = "codes.";

/// How the names of the parts of the optimized embedding begin.
pub const E_OPT: &str = "e_opt.";

/// Shapes of the tensors of a file by name, in the order in which their values stand there.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// Takes the values of a file's tensors, in the order of their names.
pub struct Values<'a> {
    out: BufWriter<&'a mut File>,
    hash: Sha256,
}

impl Values<'_> {
    /// Those of one tensor, or the next ones of it.
    pub fn add(&mut self, values: &[f32]) -> std::io::Result<()> {
        for values in values.chunks(1 << 14) {
            if stop::asked() {
                return Err(std::io::Error::other(STOPPED));
            }
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            self.hash.update(&bytes);
            self.out.write_all(&bytes)?;
        }
        Ok(())
    }

    /// As [`Values::add`], of a tensor of bytes.
    pub fn add_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hash.update(bytes);
        self.out.write_all(bytes)
    }

    /// As [`Values::add`], of a tensor wherever it is.
    pub fn add_tensor(&mut self, tensor: &Tensor) -> std::io::Result<()> {
        with_values(tensor, |values| self.add(values)).map_err(std::io::Error::other)?
    }
}

/// Writes a file that says `about` of itself, with tensors of `shapes`, whose values `add` adds one after the other.
pub fn write(
    file: &mut File,
    about: &Value,
    shapes: &Shapes,
    mut add: impl FnMut(&str, &mut Values<'_>) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let (header, digest_at) = header(about, shapes);
    let mut values = Values { out: BufWriter::with_capacity(1 << 18, file), hash: Sha256::new() };
    values.hash.update(&header);
    values.out.write_all(&header)?;
    for name in shapes.keys() {
        add(name, &mut values)?;
    }
    let Values { mut out, hash } = values;
    out.seek(SeekFrom::Start(digest_at as u64))?;
    out.write_all(format!("{:x}", hash.finalize()).as_bytes())?;
    out.flush()
}

/// What [`write`] puts into a file.
pub fn bytes(about: &Value, shapes: &Shapes) -> u64 {
    let values: usize = shapes.iter().map(|(name, shape)| stored(name, shape).1).sum();
    (header(about, shapes).0.len() + values) as u64
}

/// The type of a tensor in safetensors' words, and its bytes.
fn stored(name: &str, shape: &[usize]) -> (&'static str, usize) {
    let elements = shape.iter().product::<usize>();
    if name.starts_with(CODES) { ("U8", elements) } else { ("F32", 4 * elements) }
}

/// With its length before it, and where the digest goes, for which zeros stand there.
fn header(about: &Value, shapes: &Shapes) -> (Vec<u8>, usize) {
    let mut about = about.clone();
    about["digest"] = "0".repeat(DIGEST_LENGTH).into();
    let mut header = Map::from_iter([("__metadata__".to_owned(), json!({ ABOUT: about.to_string() }))]);
    let mut at = 0;
    for (name, shape) in shapes {
        let (dtype, bytes) = stored(name, shape);
        let end = at + bytes;
        header.insert(name.clone(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [at, end] }));
        at = end;
    }
    let mut text = Value::Object(header).to_string();
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    let bytes = [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let digest_at = digest_at(&bytes).expect("it was put there");
    (bytes, digest_at)
}

/// Where the digest stands in a header.
fn digest_at(header: &[u8]) -> Option<usize> {
    let at = header.windows(BEFORE_DIGEST.len()).position(|window| window == BEFORE_DIGEST)? + BEFORE_DIGEST.len();
    (at + DIGEST_LENGTH <= header.len()).then_some(at)
}

/// Why a file is not used: a phrase for the log.
pub enum Refusal {
    /// It may be of use to somebody else, or later.
    Foreign(String),
    /// It is not what it should be, and never will be.
    Bad(String),
}

impl Refusal {
    /// Of something that could not be read.
    pub fn bad(reason: impl ToString) -> Self {
        Self::Bad(reason.to_string())
    }
}

/// An open file that says what it should; its values are not read yet.
pub struct Entry {
    file: TensorFile,
    /// What it says of itself.
    pub about: Value,
}

impl Entry {
    /// Opens the file `path`, marks it as used and reads what it says.
    pub fn open(path: &Path) -> std::result::Result<Self, Refusal> {
        let file = files::open_plain(path, File::options().read(true)).map_err(|error| {
            // A file that cannot be opened now may be good.
            let is_file = path.symlink_metadata().is_ok_and(|about| about.is_file());
            if is_file { Refusal::Foreign(error.to_string()) } else { Refusal::bad("it is not a file") }
        })?;
        folder::use_now(&file);
        let file = TensorFile::of(file, path).map_err(Refusal::bad)?;
        let about = file.note(ABOUT).and_then(|about| serde_json::from_str(about).ok());
        let about = about.ok_or_else(|| Refusal::bad("it was not written by this plug-in"))?;
        Ok(Self { file, about })
    }

    /// What the file `path` says of itself, if it is one of ours; does not count as use.
    pub fn look(path: &Path) -> Option<Value> {
        let file = files::open_plain(path, File::options().read(true)).ok()?;
        serde_json::from_str(TensorFile::of(file, path).ok()?.note(ABOUT)?).ok()
    }

    /// Reads all tensors, and verifies that the file says to be the one for `key`, of the format `format`, and that
    /// every bit of it is as it was written.
    pub fn read(&self, key: &TuningKey, format: &str) -> std::result::Result<BTreeMap<String, Tensor>, Refusal> {
        if self.about["format"] != json!(format) {
            return Err(Refusal::Foreign(format!("its format is {}, not {format}", self.about["format"])));
        }
        if self.about["key"] != json!(key.as_str()) {
            return Err(Refusal::bad("it is another one under this name"));
        }
        let header = self.header().map_err(Refusal::bad)?;
        let at = digest_at(&header).ok_or_else(|| Refusal::bad("it has no digest"))?;
        let mut without = header.clone();
        without[at..at + DIGEST_LENGTH].fill(b'0');
        let mut hash = Sha256::new_with_prefix(without);
        let tensors: std::io::Result<BTreeMap<String, Tensor>> =
            self.file.tensors(&Device::Cpu).map(|(name, tensor)| Ok((name, tensor?))).collect();
        let tensors = tensors.map_err(Refusal::bad)?;
        let mut is_finite = true;
        for (name, tensor) in &tensors {
            if name.starts_with(CODES) {
                hash.update(bytes_of(tensor).map_err(Refusal::bad)?);
                continue;
            }
            let read = with_values(tensor, |values| {
                for values in values.chunks(1 << 14).take_while(|_| !stop::asked()) {
                    is_finite &= values.iter().all(|value| value.is_finite());
                    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                    hash.update(&bytes);
                }
            });
            read.map_err(Refusal::bad)?;
        }
        if stop::asked() {
            return Err(Refusal::Foreign(STOPPED.to_owned()));
        }
        if format!("{:x}", hash.finalize()).as_bytes() != &header[at..at + DIGEST_LENGTH] {
            return Err(Refusal::bad("its content does not fit its digest"));
        }
        if !is_finite {
            return Err(Refusal::bad("it holds NaN or infinite values"));
        }
        Ok(tensors)
    }

    /// All before the values.
    fn header(&self) -> std::io::Result<Vec<u8>> {
        let mut length = [0; 8];
        self.file.read_at(&mut length, 0)?;
        // The file was opened, so its header is short enough.
        let mut header = vec![0; 8 + u64::from_le_bytes(length) as usize];
        self.file.read_at(&mut header, 0)?;
        Ok(header)
    }
}

/// A file of any kind, for `fuzz/`.
#[cfg(any(test, fuzzing))]
pub fn fuzz(bytes: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("it can be written");
    if let Ok(entry) = Entry::open(file.path()) {
        let format = entry.about["format"].as_str().unwrap_or_default().to_owned();
        let _ = entry.read(&TuningKey::from(entry.about["key"].as_str().unwrap_or_default()), &format);
    }
    Entry::look(file.path());
}

/// The elements of a tensor of bytes.
pub fn bytes_of(tensor: &Tensor) -> candle_core::Result<Vec<u8>> {
    tensor.flatten_all()?.to_vec1()
}

/// Calls `f` with the values of `tensor`, which are copied where they do not lie in the computer's memory in one piece.
fn with_values<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> candle_core::Result<R> {
    if tensor.is_contiguous() {
        let (storage, layout) = tensor.storage_and_layout();
        if let Storage::Cpu(storage) = &*storage {
            let start = layout.start_offset();
            return Ok(f(&storage.as_slice::<f32>()?[start..start + tensor.elem_count()]));
        }
    }
    Ok(f(&tensor.flatten_all()?.to_vec1::<f32>()?))
}

/// The failure of writing the file `path`.
pub fn unwritten(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    Error::file(Doing::Write, path)
}

/// Shapes of tensors by name.
pub fn shapes_of<'a>(tensors: impl Iterator<Item = (String, &'a Tensor)>) -> Shapes {
    tensors.map(|(name, tensor)| (name, tensor.dims().to_vec())).collect()
}

/// The embedding's parts by their names among the tensors.
pub fn e_opt(e_opt: &Conditioning) -> impl Iterator<Item = (String, &Tensor)> {
    e_opt.parts().map(|(name, part)| (format!("{E_OPT}{name}"), part))
}

/// What a file for `key` says of itself.
pub fn about(key: &TuningKey, request: &EditRequest) -> Value {
    json!({
        "key": key.as_str(),
        "prompt": request.params.prompt,
        "model": request.params.model,
        "document": request.document,
        "picture": [request.layer.width(), request.layer.height()],
        "version": env!("CARGO_PKG_VERSION"),
    })
}

/// The embedding among `tensors`, whose parts have the names and shapes of those of `like`.
pub fn conditioning(
    tensors: &BTreeMap<String, Tensor>,
    like: &Conditioning,
    device: &Device,
) -> std::result::Result<Conditioning, Refusal> {
    let fits = |name: &str, part: &Tensor| {
        tensors.get(&format!("{E_OPT}{name}")).is_some_and(|tensor| tensor.shape() == part.shape())
    };
    if !like.parts().all(|(name, part)| fits(name, part)) {
        return Err(Refusal::bad("its embedding does not fit the base model"));
    }
    like.with(|name, _| Ok(tensors[&format!("{E_OPT}{name}")].to_device(device)?)).map_err(Refusal::bad)
}

/// Says once, where a person may read it, that `path` is of no use, and moves it aside if it never will be.
pub fn refuse(path: &Path, refusal: &Refusal) {
    if stop::asked() {
        return;
    }
    let (Refusal::Foreign(reason) | Refusal::Bad(reason)) = refusal;
    tell(&Text::verbatim(format!("{} is not used: {reason}; tuning again", path.display())));
    if let Refusal::Bad(_) = refusal {
        folder::move_aside(path);
    }
}

/// Says what no answer to a host can say any more.
pub fn tell(text: &Text) {
    text::tell(format_args!("imagic-edit: {text}"));
}
