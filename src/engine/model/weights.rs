//! The tensors of one network by name: read from an open file, checked for shape and finite values. Knows no network.
#![forbid(unsafe_code)]

use crate::engine::model::source::stored::Stored;
use crate::error::{Error, Result};
use crate::text::text;
use candle_core::{DType, Device, Storage, Tensor};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Tensors of one network by name, all f32, and the file they came from.
#[derive(Clone, Default)]
pub struct Weights {
    /// For messages.
    pub file: PathBuf,
    /// By the name they have in the file.
    pub tensors: BTreeMap<String, Tensor>,
}

impl Weights {
    /// Reads those of `stored` that are `wanted`, several at a time, whatever floating-point type they have. `file` is
    /// the one to name where the network as a whole is wrong.
    pub(super) fn read(
        file: &Path,
        stored: &BTreeMap<String, Stored>,
        wanted: impl Fn(&str) -> bool + Sync,
        device: &Device,
    ) -> Result<Self> {
        let read = |(name, stored): (&String, &Stored)| {
            let tensor = stored.read(device).map_err(|error| unreadable(stored.path(), error))?;
            // Old checkpoints carry an integer tensor (position_ids) that is no weight.
            if !tensor.dtype().is_float() {
                return Ok(None);
            }
            let tensor = tensor.to_dtype(DType::F32)?;
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

    /// Tensors of the names and shapes of `stored` that take no memory; their elements mean nothing.
    pub(super) fn shapes(file: &Path, stored: &BTreeMap<String, Stored>) -> Result<Self> {
        let tensor = |(name, stored): (&String, &Stored)| {
            Ok((name.clone(), Tensor::zeros((), DType::F32, &Device::Cpu)?.broadcast_as(stored.shape())?))
        };
        Ok(Self { tensors: stored.iter().map(tensor).collect::<Result<_>>()?, file: file.to_owned() })
    }

    /// Elements of all tensors.
    pub fn elements(&self) -> usize {
        self.tensors.values().map(Tensor::elem_count).sum()
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
        Storage::Cpu(elements) => Ok(elements.as_slice::<f32>()?.iter().all(|element| element.is_finite())),
        _ => Ok(tensor.abs()?.sum_all()?.to_scalar::<f32>()?.is_finite()),
    }
}
