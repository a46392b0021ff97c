//! A place in the tree of a network's names: where a layer finds its tensors, and the optimizer that trains them.
#![forbid(unsafe_code)]

use crate::engine::model::weights::Weights;
use crate::engine::ops::adam::Adam;
use crate::error::{Error, Result};
use crate::text::Text;
use candle_core::Tensor;
use std::sync::Arc;

/// A place in the tree, for example `down_blocks.0.resnets.1`.
pub struct Scope<'a> {
    weights: &'a Weights,
    prefix: String,
    optimizer: Option<&'a Arc<Adam>>,
}

impl<'a> Scope<'a> {
    /// The whole network. `optimizer` takes the gradients of those tensors that are its variables; `None` for a network
    /// that is used as it is.
    pub fn root(weights: &'a Weights, optimizer: Option<&'a Arc<Adam>>) -> Self {
        Self { weights, prefix: String::new(), optimizer }
    }

    /// The part called `name`.
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        let prefix = if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) };
        Self { prefix, ..*self }
    }

    /// Who takes the gradients of the tensors here.
    pub fn optimizer(&self) -> Option<Arc<Adam>> {
        self.optimizer.cloned()
    }

    /// The refusal of a network that cannot be built.
    pub fn error(&self, reason: Text) -> Error {
        Error::model(&self.weights.file, reason)
    }

    /// The tensor `name`, if there is one.
    pub fn find(&self, name: &str) -> Option<&'a Tensor> {
        self.weights.tensors.get(&format!("{}.{name}", self.prefix))
    }

    /// The tensor `name`, which must have the shape that the configuration asks for.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.weights.get(&format!("{}.{name}", self.prefix), shape)
    }
}
