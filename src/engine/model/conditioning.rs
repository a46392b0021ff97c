//! What the network is conditioned on: the embedding e of a text. Knows neither the text nor the network.
//!
//! Stage A optimizes it, formula 3 interpolates it and the network takes it, always as a whole.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use candle_core::Tensor;
use std::collections::BTreeMap;

/// Name of [`Conditioning::tokens`] among the parts.
pub const TOKENS: &str = "tokens";
/// Name of [`Added::pooled`].
pub const POOLED: &str = "pooled";
/// Name of [`Added::sizes`].
const SIZES: &str = "sizes";
/// Name of [`Conditioning::beside`].
const BESIDE: &str = "beside";
/// Name of [`Conditioning::class`].
const CLASS: &str = "class";

/// The embedding of one text, or of several with the same shapes.
#[derive(Clone, Debug)]
pub struct Conditioning {
    /// What the text encoders make of each token, (b, tokens, d).
    pub tokens: Tensor,
    /// What is added to the time embedding in the Stable Diffusion XL family.
    pub added: Option<Added>,
    /// What the network sees beside x_t, (b, k, h, w). An inpainting model: where it may paint, and the latents of what
    /// is left of the picture elsewhere; here it may paint everywhere, and nothing is left. A model that enlarges: the
    /// small picture, with noise.
    pub beside: Option<Tensor>,
    /// How much noise there is in the small picture that a model enlarges:
    /// [`UNet::classes`](super::unet::UNet::classes), (b, k).
    pub class: Option<Tensor>,
}

/// The other part of the conditioning of Stable Diffusion XL (Podell et al., arXiv 2307.01952, section 2.2).
#[derive(Clone, Debug)]
pub struct Added {
    /// What the second text encoder makes of the whole text, (b, p).
    pub pooled: Tensor,
    /// [`sinusoids`] of height and width of the picture, where it was cut from, and height and width again, (b, 6 d).
    /// The same for all texts of an edit, so that formula 3 leaves it as it is.
    pub sizes: Tensor,
}

impl Conditioning {
    /// Each part with its name.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, &Tensor)> {
        let added = self.added.iter().flat_map(|added| [(POOLED, &added.pooled), (SIZES, &added.sizes)]);
        let beside = self.beside.iter().map(|beside| (BESIDE, beside));
        let class = self.class.iter().map(|class| (CLASS, class));
        std::iter::once((TOKENS, &self.tokens)).chain(added).chain(beside).chain(class)
    }

    /// What has the parts of this one as `part` gives them, which is told name and part.
    pub fn with(&self, mut part: impl FnMut(&'static str, &Tensor) -> Result<Tensor>) -> Result<Self> {
        let mut added = |Added { pooled, sizes }: &Added| {
            Ok::<_, Error>(Added { pooled: part(POOLED, pooled)?, sizes: part(SIZES, sizes)? })
        };
        let added = self.added.as_ref().map(&mut added).transpose()?;
        let beside = self.beside.as_ref().map(|beside| part(BESIDE, beside)).transpose()?;
        let class = self.class.as_ref().map(|class| part(CLASS, class)).transpose()?;
        Ok(Self { tokens: part(TOKENS, &self.tokens)?, added, beside, class })
    }

    /// Each part as `change` makes it.
    pub fn map(&self, change: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        self.with(|_, part| change(part))
    }

    /// Each part as `join` makes it of both, which are of one model.
    pub fn zip(&self, other: &Self, join: impl Fn(&Tensor, &Tensor) -> Result<Tensor>) -> Result<Self> {
        let others: BTreeMap<&str, &Tensor> = other.parts().collect();
        self.with(|name, part| join(part, others[name]))
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
}

/// Each number as `d` elements in f32: cosines of it times 10000^(-i / (d / 2)), then sines. Timesteps and sizes go
/// into the network like that.
pub fn sinusoids(numbers: &[u32], d: usize) -> Vec<f32> {
    const MAX_PERIOD: f64 = 10_000.0;
    let half = d / 2;
    let mut values = Vec::with_capacity(numbers.len() * d);
    for &number in numbers {
        // f32 as in diffusers' get_timestep_embedding, so that both round alike.
        let angle = |i: usize| number as f32 * (-(MAX_PERIOD.ln() as f32) * i as f32 / half as f32).exp();
        values.extend((0..half).map(|i| angle(i).cos()));
        values.extend((0..half).map(|i| angle(i).sin()));
        values.resize(values.len() + d % 2, 0.0);
    }
    values
}
