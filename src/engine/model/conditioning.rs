//! What the network is conditioned on: the embedding e of a text. Knows neither the text nor the network.
//!
//! Stage A optimizes it, formula 3 interpolates it and the network takes it, always as a whole: a family that
//! conditions on more than the tokens (SDXL's pooled vector) adds a field here and to [`Conditioning::zip`], and these
//! follow.
#![forbid(unsafe_code)]

use crate::error::Result;
use candle_core::Tensor;

/// Name of that part.
const TOKENS: &str = "tokens";

/// The embedding of one text, or of several with the same shapes.
#[derive(Clone, Debug)]
pub struct Conditioning {
    /// What the text encoder makes of each token, (b, tokens, d).
    pub tokens: Tensor,
}

impl Conditioning {
    /// Each part with its name.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, &Tensor)> {
        [(TOKENS, &self.tokens)].into_iter()
    }

    /// What has the parts of this one as `part` gives them by name.
    pub fn with(&self, mut part: impl FnMut(&str) -> Result<Tensor>) -> Result<Self> {
        Ok(Self { tokens: part(TOKENS)? })
    }

    /// Each part as `change` makes it.
    pub fn map(&self, change: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self { tokens: change(&self.tokens)? })
    }

    /// Each part as `join` makes it of both.
    pub fn zip(&self, other: &Self, join: impl Fn(&Tensor, &Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self { tokens: join(&self.tokens, &other.tokens)? })
    }

    /// This and `other`, as two items of a batch.
    pub fn and(&self, other: &Self) -> Result<Self> {
        self.zip(other, |one, other| Ok(Tensor::cat(&[one, other], 0)?))
    }

    /// The same for each of `b` items.
    pub fn repeat(&self, b: usize) -> Result<Self> {
        self.map(|part| {
            let mut times = vec![1; part.rank()];
            times[0] = b;
            Ok(part.repeat(times)?)
        })
    }

    /// The values as they are now, without the variables behind them.
    pub fn detached(&self) -> Self {
        Self { tokens: self.tokens.detach() }
    }
}
