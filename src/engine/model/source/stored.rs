//! Where one tensor of a network is stored: in which file, under which name there, and how the one in the file becomes
//! the one of the network. Knows no network and no layout.
#![forbid(unsafe_code)]

use crate::engine::model::source::tensor_file::TensorFile;
use crate::error::sentence;
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::Dtype;
use std::io::{Error, Result};
use std::path::Path;
use std::sync::Arc;

/// A tensor in a file.
#[derive(Clone)]
pub struct Stored {
    file: Arc<TensorFile>,
    name: String,
    /// As the network has it.
    shape: Vec<usize>,
    take: Take,
}

/// How the network's tensor is made of the one in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// As it is.
    Whole,
    /// The first, second or last third of its rows.
    Third(usize),
    /// Rows and columns exchanged.
    Transposed,
    /// Without the two last sides, which are 1: a convolution of 1 x 1 as a linear layer.
    Linear,
}

impl Stored {
    /// The tensor that `take` makes of `name` in `file`, where it has the shape `shape`; `None` where that shape does
    /// not go with `take`.
    pub fn new(file: &Arc<TensorFile>, name: &str, shape: &[usize], take: Take) -> Option<Self> {
        let shape = match (take, shape) {
            (Take::Whole, shape) => shape.to_vec(),
            (Take::Third(_), &[rows, ref sides @ ..]) if rows % 3 == 0 => [&[rows / 3], sides].concat(),
            (Take::Transposed, &[rows, columns]) => vec![columns, rows],
            (Take::Linear, &[rows, columns] | &[rows, columns, 1, 1]) => vec![rows, columns],
            _ => return None,
        };
        Some(Self { file: file.clone(), name: name.to_owned(), shape, take })
    }

    /// All tensors of `file` as they are, by name.
    pub fn all(file: &Arc<TensorFile>) -> impl Iterator<Item = (String, Self)> {
        file.shapes().map(|(name, shape)| {
            let stored = Self { file: file.clone(), name: name.clone(), shape, take: Take::Whole };
            (name, stored)
        })
    }

    /// The shape that the network's tensor has.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The type that it has in memory where it is not trained, on `device`: on the processor operations take weights of
    /// 16 bits as they are, vectors apart, which are small. Numbers of 8 bits are some of f16's.
    pub fn frozen_type(&self, device: &Device) -> DType {
        match self.file.dtype(&self.name) {
            _ if !device.is_cpu() || self.shape.len() < 2 || self.scale().is_some() => DType::F32,
            Some(Dtype::F16 | Dtype::F8_E4M3 | Dtype::F8_E5M2) => DType::F16,
            Some(Dtype::BF16) => DType::BF16,
            _ => DType::F32,
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Reads it; f32 where the file scales it, otherwise in the type of the file.
    pub fn read(&self, device: &Device) -> Result<Tensor> {
        let mut tensor = self.file.tensor(&self.name, device)?;
        if let Some(scale) = self.scale() {
            let scale = self.file.tensor(&scale, device)?;
            tensor = scaled(&tensor, &scale).map_err(|error| Error::other(sentence(&error)))?;
        }
        self.taken(&tensor).map_err(|error| Error::other(sentence(&error)))
    }

    fn taken(&self, tensor: &Tensor) -> candle_core::Result<Tensor> {
        match self.take {
            Take::Whole => Ok(tensor.clone()),
            // Its own memory: a view would hold all three in memory.
            Take::Third(third) => tensor.narrow(0, third * self.shape[0], self.shape[0])?.force_contiguous(),
            Take::Transposed => tensor.t()?.contiguous(),
            Take::Linear => tensor.reshape(self.shape.as_slice()),
        }
    }

    /// The tensor by which this one is to be multiplied, as ComfyUI's "scaled fp8" files have it.
    fn scale(&self) -> Option<String> {
        let name = self.name.strip_suffix(".weight")?;
        ["scale_weight", "weight_scale"].into_iter().map(|scale| format!("{name}.{scale}")).find(|s| self.file.has(s))
    }
}

/// `tensor` times `scale`: one number, or one a row.
fn scaled(tensor: &Tensor, scale: &Tensor) -> candle_core::Result<Tensor> {
    let scale = scale.to_dtype(DType::F32)?.flatten_all()?;
    let mut shape = vec![1; tensor.rank()];
    shape[0] = scale.elem_count();
    tensor.to_dtype(DType::F32)?.broadcast_mul(&scale.reshape(shape)?)
}
