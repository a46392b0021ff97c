//! A safetensors file, read one tensor at a time: with a copy of the whole file, tensors would take twice their size.
#![forbid(unsafe_code)]

use crate::error::sentence;
use crate::files;
use candle_core::safetensors::Load;
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, Metadata, TensorInfo, TensorView};
use std::fs::File;
use std::io::{Error, Read, Result};
use std::path::{Path, PathBuf};

/// Largest header that is read, in bytes.
const MAX_HEADER: u64 = 16 << 20;

/// An open file whose header was read.
pub struct TensorFile {
    path: PathBuf,
    file: File,
    /// Where the tensors begin.
    start: u64,
    header: Metadata,
}

impl TensorFile {
    /// Reads the header and checks that the file is as long as it says.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(files::open(path)?, path)
    }

    /// As [`TensorFile::open`], of a file that is open.
    pub fn of(mut file: File, path: &Path) -> Result<Self> {
        let mut length = [0; 8];
        file.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER {
            return Err(Error::other(format!("its header would have {length} bytes")));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header)?;
        let header: Metadata = serde_json::from_slice(&header)?;
        let (start, size) = (8 + length, file.metadata()?.len());
        let expected = start + header.data_len() as u64;
        if size != expected {
            return Err(Error::other(format!("it has {size} bytes, its header asks for {expected}")));
        }
        Ok(Self { path: path.to_owned(), file, start, header })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Fills `bytes` with those from `offset` on.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        read_at(&self.file, bytes, offset)
    }

    /// What its writer noted under `key`.
    pub fn note(&self, key: &str) -> Option<&str> {
        self.header.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// Names and shapes.
    pub fn shapes(&self) -> impl Iterator<Item = (String, Vec<usize>)> {
        self.header.tensors().into_iter().map(|(name, info)| (name, info.shape.clone()))
    }

    /// Reads all tensors, several at a time, in no particular order.
    pub fn tensors(&self, device: &Device) -> impl ParallelIterator<Item = (String, Result<Tensor>)> {
        let tensors: Vec<_> = self.header.tensors().into_iter().collect();
        tensors.into_par_iter().map(|(name, info)| (name, self.read(info, device)))
    }

    /// Whether it has a tensor `name`.
    pub fn has(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    /// The type in which the tensor `name` is stored.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        Some(self.header.info(name)?.dtype)
    }

    /// Reads the tensor `name`, in the type in which it is stored or, where candle lacks that, in the next larger one.
    pub fn tensor(&self, name: &str, device: &Device) -> Result<Tensor> {
        let info = self.header.info(name).ok_or_else(|| Error::other(format!("it has no tensor {name}")))?;
        self.read(info, device)
    }

    fn read(&self, info: &TensorInfo, device: &Device) -> Result<Tensor> {
        let (from, to) = info.data_offsets;
        let mut bytes = vec![0; to - from];
        self.read_at(&mut bytes, self.start + from as u64)?;
        let mut dtype = info.dtype;
        if dtype == Dtype::F8_E5M2 {
            // The upper half of an f16.
            (dtype, bytes) = (Dtype::F16, bytes.into_iter().flat_map(|byte| [0, byte]).collect());
        }
        let view = TensorView::new(dtype, info.shape.clone(), &bytes).map_err(|e| Error::other(e.to_string()))?;
        view.load(device).map_err(|error| Error::other(sentence(&error)))
    }
}

/// Fills `bytes` from `offset` on; several threads may read one file.
#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

/// Fills `bytes` from `offset` on; several threads may read one file.
#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => (bytes, offset) = (&mut bytes[read..], offset + read as u64),
        }
    }
    Ok(())
}
