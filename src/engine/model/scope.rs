//! A place in the tree of a network's names: where a layer finds its tensors, and the optimizer that trains them.
#![forbid(unsafe_code)]

use crate::engine::model::weights::Weights;
use crate::engine::ops::adam::Adam;
use crate::error::{Error, Result};
use crate::text::Text;
use candle_core::Tensor;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A place in the tree, for example `down_blocks.0.resnets.1`.
pub struct Scope<'a> {
    weights: &'a Weights,
    prefix: String,
    optimizer: Option<&'a Arc<Adam>>,
    names: Option<&'a RefCell<BTreeSet<String>>>,
}

impl<'a> Scope<'a> {
    /// The whole network. `optimizer` takes the gradients of those tensors that are its variables; `None` for a network
    /// that is used as it is.
    pub fn root(weights: &'a Weights, optimizer: Option<&'a Arc<Adam>>) -> Self {
        Self { weights, prefix: String::new(), optimizer, names: None }
    }

    /// The same, noting in `names` which tensors are found in the whole tree.
    pub fn noting(self, names: &'a RefCell<BTreeSet<String>>) -> Self {
        Self { names: Some(names), ..self }
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
        let name = format!("{}.{name}", self.prefix);
        let tensor = self.weights.tensors.get(&name);
        if tensor.is_some() {
            self.note(name);
        }
        tensor
    }

    /// The tensor `name`, which must have the shape that the configuration asks for.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let name = format!("{}.{name}", self.prefix);
        let tensor = self.weights.get(&name, shape)?;
        self.note(name);
        Ok(tensor)
    }

    fn note(&self, name: String) {
        if let Some(names) = self.names {
            names.borrow_mut().insert(name);
        }
    }
}
