//! The frozen text transformer of CLIP (contrastive language-image pre-training, Radford et al., ICML 2021), as in
//! transformers' CLIPTextModel. Knows no text and no family.
//!
//! Ours, because candle-transformers' has one activation only and gives away no layer but the last. Nothing is trained
//! here, so its layers are candle's, without a backward pass.
#![forbid(unsafe_code)]

use crate::engine::model::config::Config;
use crate::engine::model::source::{Part, Source};
use crate::engine::model::weights::{Bits, Weights};
use crate::error::{Error, Result, sentence};
use crate::text::text;
use candle_core::{D, DType, Device, Tensor};
use candle_nn::{LayerNorm, Linear, Module, VarBuilder, ops};

/// What decides the transformer's shape.
#[derive(Clone, Copy, Debug)]
pub struct ClipConfig {
    /// Different tokens.
    pub vocabulary: usize,
    /// Tokens of a text.
    pub positions: usize,
    /// Elements of each token's embedding.
    pub width: usize,
    /// Elements of a whole text's embedding.
    pub pooled_width: usize,
    hidden_width: usize,
    layers: usize,
    heads: usize,
    activation: Activation,
    eps: f64,
}

#[derive(Clone, Copy, Debug)]
enum Activation {
    /// x times the sigmoid of 1.702 x.
    QuickGelu,
    /// The exact one, with erf.
    Gelu,
}

impl ClipConfig {
    /// Reads and checks `config`; `positions`: tokens of a text where it does not say.
    pub fn read(config: &Config, positions: usize) -> Result<Self> {
        let (width, heads) = (config.usize("hidden_size", None)?, config.usize("num_attention_heads", None)?);
        if width == 0 || heads == 0 || width % heads != 0 {
            let reason = text!("hidden_size {width} does not divide into {heads} heads", width, heads);
            return Err(config.error(reason));
        }
        let activations = [("quick_gelu", Activation::QuickGelu), ("gelu", Activation::Gelu)];
        Ok(Self {
            vocabulary: config.usize("vocab_size", None)?,
            positions: config.usize("max_position_embeddings", Some(positions))?,
            width,
            pooled_width: config.usize("projection_dim", Some(width))?,
            hidden_width: config.usize("intermediate_size", None)?,
            layers: config.at_least(1, "num_hidden_layers", 0)?,
            heads,
            activation: config.choice("hidden_act", &activations)?,
            eps: config.f64("layer_norm_eps", 1e-5)?,
        })
    }
}

/// The transformer, whose tensors are read when a text is there, layer by layer: they take more memory than all that an
/// edit needs of them afterwards.
pub struct Clip {
    config: ClipConfig,
    source: Source,
    part: Part,
    projection: Projection,
    /// What stands before the names of all tensors but the projection's.
    inner: &'static str,
}

/// Tokens of a text, and the place of the one that stands for the whole text.
pub type Tokens<'a> = (&'a [u32], usize);

/// What the transformer makes of a text.
pub struct Hidden {
    /// After the last layer and the final norm, (1, tokens, d).
    pub last: Tensor,
    /// After the last layer but one, without a norm, (1, tokens, d).
    pub penultimate: Tensor,
    /// The projection of `last` at one token, (1, p); `None` without a projection.
    pub pooled: Option<Tensor>,
}

/// Whether a transformer has the layer that projects a text's embedding to the one that it shares with pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    /// Not read even if it is there.
    Without,
    /// Must be there.
    With,
}

impl Clip {
    /// The transformer that is `part` of `source`, whose tensors have the shapes that `config` asks for.
    pub fn new(config: ClipConfig, source: &Source, part: Part, projection: Projection) -> Result<Self> {
        let shapes = source.shapes(part, &Device::Cpu)?;
        // transformers 5 dropped the outer name in CLIPTextModel.
        let nested = shapes.tensors.keys().any(|name| name.starts_with("text_model."));
        let inner = if nested { "text_model." } else { "" };
        let clip = Self { config, source: source.clone(), part, projection, inner };
        // f32, so that candle's layers take them without making numbers.
        let zero = Tensor::zeros((), DType::F32, &Device::Cpu)?;
        clip.run(
            |prefix| {
                let own = shapes.tensors.iter().filter(|(name, _)| name.starts_with(prefix));
                let own = own.map(|(name, shape)| Ok((name.clone(), zero.broadcast_as(shape.shape())?)));
                Ok(Weights { tensors: own.collect::<Result<_>>()?, file: shapes.file.clone() })
            },
            &[],
        )?;
        Ok(clip)
    }

    /// What it makes of each of `texts`.
    pub fn forward(&self, texts: &[Tokens<'_>]) -> Result<Vec<Hidden>> {
        let read = |prefix: &str| {
            let wanted = |name: &str| name.starts_with(prefix);
            self.source.wanted_tensors(self.part, wanted, Bits::ThirtyTwo, &Device::Cpu)
        };
        self.run(read, texts)
    }

    /// With the tensors that `read` gives, which is told how their names begin.
    fn run(&self, read: impl Fn(&str) -> Result<Weights>, texts: &[Tokens<'_>]) -> Result<Vec<Hidden>> {
        let Self { config, inner, .. } = self;
        let ClipConfig { width, eps, .. } = *config;
        // All of a layer's tensors are gone when the next one's are read.
        let at = |prefix: String| {
            let weights = read(&prefix)?;
            let root = VarBuilder::from_tensors(weights.tensors.into_iter().collect(), DType::F32, &Device::Cpu);
            let unfit = move |error: candle_core::Error| {
                Error::model(&weights.file, text!("does not fit its config.json: {error}", error = sentence(&error)))
            };
            Ok::<_, Error>((root.pp(prefix.trim_end_matches('.')), unfit))
        };
        let mut hidden = {
            let (scope, unfit) = at(format!("{inner}embeddings."))?;
            let embed = || {
                let tokens = candle_nn::embedding(config.vocabulary, width, scope.pp("token_embedding"))?;
                // (tokens, d)
                let positions = scope.pp("position_embedding").get((config.positions, width), "weight")?;
                let of_text = |(ids, _): &Tokens<'_>| {
                    let tokens = tokens.forward(&Tensor::new(*ids, &Device::Cpu)?.unsqueeze(0)?)?; // (1, n, d)
                    tokens.broadcast_add(&positions.narrow(0, 0, ids.len())?)
                };
                texts.iter().map(of_text).collect::<candle_core::Result<Vec<_>>>()
            };
            embed().map_err(unfit)?
        };
        let mut penultimate = hidden.clone();
        for i in 0..config.layers {
            let (scope, unfit) = at(format!("{inner}encoder.layers.{i}."))?;
            let run = || {
                let layer = Layer::new(config, &scope)?;
                let next = |(hidden, (ids, _)): (&Tensor, &Tokens<'_>)| layer.forward(hidden, &mask(ids.len())?);
                hidden.iter().zip(texts).map(next).collect::<candle_core::Result<Vec<_>>>()
            };
            let next = run().map_err(unfit)?;
            penultimate = std::mem::replace(&mut hidden, next);
        }
        let (norm, unfit) = at(format!("{inner}final_layer_norm."))?;
        let last = || {
            let norm = candle_nn::layer_norm(width, eps, norm)?;
            hidden.iter().map(|hidden| norm.forward(hidden)).collect::<candle_core::Result<Vec<_>>>()
        };
        let last = last().map_err(unfit)?;
        let mut pooled = vec![None; texts.len()];
        if self.projection == Projection::With {
            let (scope, unfit) = at("text_projection.".to_owned())?;
            let project = || {
                let projection = candle_nn::linear_no_bias(width, config.pooled_width, scope)?;
                let of_text = |(last, (_, at)): (&Tensor, &Tokens<'_>)| {
                    projection.forward(&last.narrow(1, *at, 1)?.squeeze(1)?).map(Some)
                };
                last.iter().zip(texts).map(of_text).collect::<candle_core::Result<Vec<_>>>()
            };
            pooled = project().map_err(unfit)?;
        }
        let all = last.into_iter().zip(penultimate).zip(pooled);
        Ok(all.map(|((last, penultimate), pooled)| Hidden { last, penultimate, pooled }).collect())
    }
}

/// (n, n), added to the scores: only what comes later in the text is masked, never the padding.
fn mask(n: usize) -> candle_core::Result<Tensor> {
    let later = |i: usize| (0..n).map(move |j| if j > i { f32::MIN } else { 0.0 });
    Tensor::from_vec((0..n).flat_map(later).collect::<Vec<_>>(), (n, n), &Device::Cpu)
}

struct Layer {
    layer_norm1: LayerNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
    activation: Activation,
}

impl Layer {
    fn new(config: &ClipConfig, scope: &VarBuilder<'_>) -> candle_core::Result<Self> {
        let ClipConfig { width, hidden_width, heads, activation, eps, .. } = *config;
        let norm = |name: &str| candle_nn::layer_norm(width, eps, scope.pp(name));
        let projection = |name: &str| candle_nn::linear(width, width, scope.pp("self_attn").pp(name));
        Ok(Self {
            layer_norm1: norm("layer_norm1")?,
            q_proj: projection("q_proj")?,
            k_proj: projection("k_proj")?,
            v_proj: projection("v_proj")?,
            out_proj: projection("out_proj")?,
            layer_norm2: norm("layer_norm2")?,
            fc1: candle_nn::linear(width, hidden_width, scope.pp("mlp.fc1"))?,
            fc2: candle_nn::linear(hidden_width, width, scope.pp("mlp.fc2"))?,
            heads,
            activation,
        })
    }

    /// `x`: (1, n, d); `mask`: (n, n), added to the scores.
    fn forward(&self, x: &Tensor, mask: &Tensor) -> candle_core::Result<Tensor> {
        let x = (self.attend(&self.layer_norm1.forward(x)?, mask)? + x)?;
        let wide = self.fc1.forward(&self.layer_norm2.forward(&x)?)?;
        let wide = match self.activation {
            Activation::QuickGelu => (&wide * ops::sigmoid(&(&wide * 1.702)?)?)?,
            Activation::Gelu => wide.gelu_erf()?,
        };
        self.fc2.forward(&wide)? + x
    }

    fn attend(&self, x: &Tensor, mask: &Tensor) -> candle_core::Result<Tensor> {
        let (_, n, d) = x.dims3()?;
        let width = d / self.heads;
        let by_head = |x: Tensor| x.reshape((n, self.heads, width))?.transpose(0, 1)?.contiguous(); // (heads, n, width)
        let q = by_head((self.q_proj.forward(x)? * (width as f64).powf(-0.5))?)?;
        let (k, v) = (by_head(self.k_proj.forward(x)?)?, by_head(self.v_proj.forward(x)?)?);
        let weights = ops::softmax(&q.matmul(&k.t()?)?.broadcast_add(mask)?, D::Minus1)?; // (heads, n, n)
        self.out_proj.forward(&weights.matmul(&v)?.transpose(0, 1)?.reshape((1, n, d))?)
    }
}
