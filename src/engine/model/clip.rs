//! The frozen text transformer of CLIP (contrastive language-image pre-training, Radford et al., ICML 2021), as in
//! transformers' CLIPTextModel. Knows no text and no family.
//!
//! Ours, because candle-transformers' has one activation only and gives away no layer but the last. Nothing is trained
//! here, so its layers are candle's, without a backward pass.
#![forbid(unsafe_code)]

use crate::engine::model::config::Config;
use crate::engine::model::weights::Weights;
use crate::error::{Error, Result, sentence};
use crate::text::text;
use candle_core::{D, DType, Device, Tensor};
use candle_nn::{Embedding, LayerNorm, Linear, Module, VarBuilder, ops};

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

/// The transformer over its tensors.
pub struct Clip {
    token_embedding: Embedding,
    /// (tokens, d).
    position_embedding: Tensor,
    layers: Vec<Layer>,
    final_layer_norm: LayerNorm,
    text_projection: Option<Linear>,
}

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
    /// The transformer whose tensors are `weights`, on the CPU.
    pub fn new(config: &ClipConfig, weights: Weights, projection: Projection) -> Result<Self> {
        // transformers 5 dropped the outer name in CLIPTextModel.
        let nested = weights.tensors.keys().any(|name| name.starts_with("text_model."));
        let root = VarBuilder::from_tensors(weights.tensors.into_iter().collect(), DType::F32, &Device::Cpu);
        let inner = if nested { root.pp("text_model") } else { root.clone() };
        let ClipConfig { width, eps, .. } = *config;
        let build = || {
            let embeddings = inner.pp("embeddings");
            let layer = |i: usize| Layer::new(config, &inner.pp("encoder.layers").pp(i));
            let project = || candle_nn::linear_no_bias(width, config.pooled_width, root.pp("text_projection"));
            Ok(Self {
                token_embedding: candle_nn::embedding(config.vocabulary, width, embeddings.pp("token_embedding"))?,
                position_embedding: embeddings.pp("position_embedding").get((config.positions, width), "weight")?,
                layers: (0..config.layers).map(layer).collect::<candle_core::Result<_>>()?,
                final_layer_norm: candle_nn::layer_norm(width, eps, inner.pp("final_layer_norm"))?,
                text_projection: (projection == Projection::With).then(project).transpose()?,
            })
        };
        build().map_err(|error: candle_core::Error| {
            Error::model(&weights.file, text!("does not fit its config.json: {error}", error = sentence(&error)))
        })
    }

    /// What it makes of the tokens `ids`; `pooled_at`: the place of the token that stands for the whole text.
    pub fn forward(&self, ids: &[u32], pooled_at: usize) -> Result<Hidden> {
        let n = ids.len();
        let tokens = self.token_embedding.forward(&Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?)?; // (1, n, d)
        let mut hidden = tokens.broadcast_add(&self.position_embedding.narrow(0, 0, n)?)?;
        // Only what comes later in the text is masked, never the padding.
        let later = |i: usize| (0..n).map(move |j| if j > i { f32::MIN } else { 0.0 });
        let mask = Tensor::from_vec((0..n).flat_map(later).collect::<Vec<_>>(), (n, n), &Device::Cpu)?;
        let mut penultimate = hidden.clone();
        for layer in &self.layers {
            penultimate = hidden;
            hidden = layer.forward(&penultimate, &mask)?;
        }
        let last = self.final_layer_norm.forward(&hidden)?;
        let project =
            |projection: &Linear| Ok::<_, Error>(projection.forward(&last.narrow(1, pooled_at, 1)?.squeeze(1)?)?);
        let pooled = self.text_projection.as_ref().map(project).transpose()?;
        Ok(Hidden { last, penultimate, pooled })
    }
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
