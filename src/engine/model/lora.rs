//! Low-rank adapters (LoRA, Hu et al., ICLR 2022): stage B trains two small matrices for each layer instead of all
//! weights.
//!
//! | code | paper |
//! |---|---|
//! | `W` | W_0, the layer's own weight, which stays as it is |
//! | `A` | A, of `rank` rows, random at first |
//! | `B` | B, of `rank` columns, zero at first, so that nothing changes before the first step |
//!
//! A layer gives W x + B A x: the paper's alpha is the rank, as in the examples of diffusers. Adapters are tensors of
//! the network like all others, under the names of the library PEFT (parameter-efficient fine-tuning).
#![forbid(unsafe_code)]

use crate::engine::model::weights::Weights;
use crate::engine::random::{Purpose, Stream};
use crate::error::Result;
use crate::params::{LoraLayers, Params};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;

/// The learning rate for adapters divided by that for all weights: as in the DreamBooth examples of diffusers, 1e-4 and
/// 5e-6. With the built-in model, too, this comes closest to full tuning.
pub const RATE: f64 = 20.0;

/// Name of A among the tensors of a layer.
pub const A: &str = "lora_A.weight";
/// Name of B.
pub const B: &str = "lora_B.weight";

/// The levels of noise of a model that enlarges: a table of which a row is added, and no layer that an adapter could
/// stand beside. PEFT has none for it either.
const TABLE: &str = "class_embedding";

/// One tensor of an adapter.
pub struct Shape {
    /// Among those of the network.
    pub name: String,
    /// (rank, inputs) or (outputs, rank), followed by height and width of the kernel of a convolution.
    pub shape: Vec<usize>,
}

/// The adapters that `params` asks for in the network of `base`: an A and a B for each layer, in the order of the
/// layers' names.
pub fn shapes(base: &Weights, params: &Params) -> Vec<[Shape; 2]> {
    let rank = params.lora_rank as usize;
    let all = params.lora_layers == LoraLayers::All;
    let layers = base.tensors.iter().filter_map(|(name, weight)| {
        let layer = name.strip_suffix(".weight").filter(|layer| *layer != TABLE)?;
        if !all && !layer.contains(".attentions.") {
            return None;
        }
        let (mut a, mut b) = (weight.dims().to_vec(), weight.dims().to_vec());
        // The vectors belong to normalizations.
        if a.len() < 2 {
            return None;
        }
        a[0] = rank;
        b[1] = rank;
        b[2..].fill(1);
        Some([(A, a), (B, b)].map(|(part, shape)| Shape { name: format!("{layer}.{part}"), shape }))
    });
    layers.collect()
}

impl Shape {
    /// Elements of a tensor of that shape.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Whether a tensor of the network is part of an adapter.
pub fn is_adapter(name: &str) -> bool {
    name.ends_with(A) || name.ends_with(B)
}

/// The network of `base` with adapters that take no memory; their elements mean nothing.
pub fn with_shapes(base: &Weights, adapters: &[[Shape; 2]]) -> Result<Weights> {
    let mut adapted = base.clone();
    for Shape { name, shape } in adapters.iter().flatten() {
        let tensor = Tensor::zeros((), DType::F32, &Device::Cpu)?.broadcast_as(shape.as_slice())?;
        adapted.tensors.insert(name.clone(), tensor);
    }
    Ok(adapted)
}

/// The adapters before the first step.
pub fn begin(base: &Weights, params: &Params, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    let mut tensors = BTreeMap::new();
    for (index, [a, b]) in shapes(base, params).into_iter().enumerate() {
        let inputs = a.elements() / a.shape[0];
        let stream = Stream::new(params.tuning_seed, Purpose::Adapters, index as u32);
        // Uniform within 1 / sqrt(inputs): PyTorch's and PEFT's start of a linear layer.
        let start = stream.uniforms(&a.shape, 1.0 / (inputs as f64).sqrt(), device)?;
        tensors.insert(a.name, start);
        tensors.insert(b.name, Tensor::zeros(b.shape, DType::F32, device)?);
    }
    Ok(tensors)
}
