//! The tensors of one network by name: read from an open file, checked for shape and finite values. Knows no network.
#![forbid(unsafe_code)]

use crate::engine::model::source::stored::Stored;
use crate::engine::stop;
use crate::error::{Error, Result};
use crate::text::text;
use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Tensors of one network by name, and the file they came from. All are f32 but those of [`Bits::Stored`].
#[derive(Clone, Default)]
pub struct Weights {
    /// For messages.
    pub file: PathBuf,
    /// By the name they have in the file.
    pub tensors: BTreeMap<String, Tensor>,
}

/// In how many bits weights are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// f32, for weights that are trained or that candle's layers take.
    ThirtyTwo,
    /// As [`Stored::frozen_type`] says: as few as hold the same numbers, for weights that only our operations take.
    Stored,
}

impl Weights {
    /// Reads those of `stored` that are `wanted`, several at a time, whatever floating-point type they have. `file` is
    /// the one to name where the network as a whole is wrong.
    pub(super) fn read(
        file: &Path,
        stored: &BTreeMap<String, Stored>,
        wanted: impl Fn(&str) -> bool + Sync,
        bits: Bits,
        device: &Device,
    ) -> Result<Self> {
        let read = |(name, stored): (&String, &Stored)| {
            stop::look()?;
            let tensor = stored.read(device).map_err(|error| unreadable(stored.path(), error))?;
            // Old checkpoints carry an integer tensor (position_ids) that is no weight.
            if !tensor.dtype().is_float() {
                return Ok(None);
            }
            let dtype = if bits == Bits::Stored { stored.frozen_type(device) } else { DType::F32 };
            let tensor = tensor.to_dtype(dtype)?;
            if is_finite(&tensor)? {
                return Ok(Some((name.clone(), tensor)));
            }
            let reason = text!("tensor {name} holds NaN or infinite values; get the file again", name);
            Err(Error::model(stored.path(), reason))
        };
        let wanted = stored.par_iter().filter(|(name, _)| wanted(name));
        let tensors: Vec<_> = wanted.map(read).collect::<Result<_>>()?;
        Ok(Self { tensors: tensors.into_iter().flatten().collect(), file: file.to_owned() })
    }

    /// Tensors of the names and shapes of `stored` that take no memory, of the types that they have on `device` with
    /// [`Bits::Stored`]; their elements mean nothing.
    pub(super) fn shapes(file: &Path, stored: &BTreeMap<String, Stored>, device: &Device) -> Result<Self> {
        let tensor = |(name, stored): (&String, &Stored)| {
            let zero = Tensor::zeros((), stored.frozen_type(device), &Device::Cpu)?;
            Ok((name.clone(), zero.broadcast_as(stored.shape())?))
        };
        Ok(Self { tensors: stored.iter().map(tensor).collect::<Result<_>>()?, file: file.to_owned() })
    }

    /// Elements of all tensors.
    pub fn elements(&self) -> usize {
        self.tensors.values().map(Tensor::elem_count).sum()
    }

    /// Bytes of all tensors, those that share memory counted as if they did not.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(|tensor| (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64).sum()
    }

    /// The tensor `name`, which must have the shape that the configuration asks for.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let Some(tensor) = self.tensors.get(name) else {
            let reason = text!("tensor {name} is missing; the file is of another kind of model", name);
            return Err(Error::model(&self.file, reason));
        };
        if tensor.dims() != shape {
            let (has, wanted) = (format!("{:?}", tensor.dims()), format!("{shape:?}"));
            let reason = text!(
                "tensor {name} has shape {has}, but the model's configuration asks for {wanted}",
                name,
                has,
                wanted
            );
            return Err(Error::model(&self.file, reason));
        }
        Ok(tensor.clone())
    }
}

/// The refusal of a file that is not what it should be.
pub(super) fn unreadable(file: &Path, error: io::Error) -> Error {
    Error::model(file, text!("not a readable safetensors file: {error}; get it again", error = &error))
}

/// Whether no element is NaN or infinite; copies nothing.
fn is_finite(tensor: &Tensor) -> Result<bool> {
    let (storage, _) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::F16(elements)) => Ok(all(elements, |element| element.is_finite())),
        Storage::Cpu(CpuStorage::BF16(elements)) => Ok(all(elements, |element| element.is_finite())),
        Storage::Cpu(elements) => Ok(all(elements.as_slice::<f32>()?, |element| element.is_finite())),
        _ => Ok(tensor.abs()?.sum_all()?.to_scalar::<f32>()?.is_finite()),
    }
}

/// Whether `is_so` for all `elements`; many at a time, as `Iterator::all` cannot.
fn all<T: Copy>(elements: &[T], is_so: impl Fn(T) -> bool) -> bool {
    elements.chunks(1 << 12).all(|some| some.iter().fold(true, |so_far, &element| so_far & is_so(element)))
}
