//! The frozen variational autoencoder (VAE) between pixels and latents: diffusers' AutoencoderKL.
//!
//! Ours, because candle-transformers' hides mean and variance, draws its sample from a generator that takes no seed,
//! and spends most of its time in a slow convolution.
#![forbid(unsafe_code)]

use crate::engine::device::AttentionKernels;
use crate::engine::model::config::Config;
use crate::engine::model::layers::{
    Conv2d, GroupNorm, Linear, Norms, ResnetBlock, Upsampler, downsampler, to_picture, to_sequence,
};
use crate::engine::model::scope::Scope;
use crate::engine::model::trace::{Size, Trace};
use crate::engine::model::weights::Weights;
use crate::engine::ops::{self, Activation, Padding};
use crate::error::Result;
use crate::text::text;
use candle_core::Tensor;
use serde_json::json;

/// What decides the autoencoder's shape. Its latents are not scaled: [`crate::engine::model::codec`] does that.
#[derive(Clone, Debug)]
pub struct VaeConfig {
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Side of a latent's square in pixels; 8 for SD.
    pub downsampling: usize,
    channels: Vec<usize>,
    layers: usize,
    norms: Norms,
    with_attention: bool,
    quant_conv: bool,
    post_quant_conv: bool,
}

/// The latents of a picture: independent normal distributions, with mean and logarithm of the variance of each element,
/// (b, latent_channels, h, w).
pub struct Gaussian {
    /// Mean.
    pub mean: Tensor,
    /// Logarithm of the variance.
    pub logvar: Tensor,
}

/// From pixels to latents.
pub struct Encoder {
    latent_channels: usize,
    quant_conv: Option<Conv2d>,
    conv_in: Conv2d,
    down: Vec<(Vec<ResnetBlock>, Option<Conv2d>)>,
    mid: Mid,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// From latents to pixels.
pub struct Decoder {
    post_quant_conv: Option<Conv2d>,
    conv_in: Conv2d,
    mid: Mid,
    up: Vec<(Vec<ResnetBlock>, Option<Upsampler>)>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

struct Mid {
    resnets: [ResnetBlock; 2],
    attention: Option<MidAttention>,
}

struct MidAttention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl VaeConfig {
    /// Reads and checks `config`.
    pub fn read(config: &Config) -> Result<Self> {
        for (key, allowed) in [
            ("act_fn", &[json!("silu"), json!("swish")][..]),
            ("in_channels", &[json!(3)]),
            ("out_channels", &[json!(3)]),
        ] {
            config.require(key, allowed)?;
        }
        let channels = config.list("block_out_channels", 0, None)?;
        let layers = config.at_least(1, "layers_per_block", 1)?;
        if channels.is_empty() {
            return Err(config.error(text!("{key} lists no blocks", key = "block_out_channels")));
        }
        // AutoencoderKL fixes this eps.
        let norms = Norms { groups: config.usize("norm_num_groups", Some(32))?, eps: 1e-6 };
        if let Some(odd) = channels.iter().find(|&&c| norms.groups == 0 || c % norms.groups != 0) {
            return Err(config.error(text!(
                "{channels} channels do not divide into {groups} groups",
                channels = *odd,
                groups = norms.groups
            )));
        }
        Ok(Self {
            latent_channels: config.usize("latent_channels", Some(4))?,
            downsampling: 1 << (channels.len() - 1),
            channels,
            layers,
            norms,
            with_attention: config.bool("mid_block_add_attention", true),
            quant_conv: config.bool("use_quant_conv", true),
            post_quant_conv: config.bool("use_post_quant_conv", true),
        })
    }

    fn last_channels(&self) -> usize {
        self.channels[self.channels.len() - 1]
    }

    fn norm_out(&self, scope: &Scope<'_>, channels: usize) -> Result<GroupNorm> {
        GroupNorm::new(&scope.at("conv_norm_out"), channels, self.norms.groups, self.norms.eps, Activation::Silu)
    }

    /// The residual block `j` of a level from `c_in` channels to `c`.
    fn resnet(&self, level: &Scope<'_>, j: usize, c_in: usize, c: usize) -> Result<ResnetBlock> {
        ResnetBlock::new(&level.at("resnets").at(j), if j == 0 { c_in } else { c }, c, self.norms, None)
    }
}

impl Encoder {
    /// Whether a tensor of an autoencoder is one of the encoder's.
    pub fn has(name: &str) -> bool {
        name.starts_with("encoder.") || name.starts_with("quant_conv.")
    }

    /// The encoder whose tensors are `weights`, all of them checked against `config`.
    pub fn new(config: &VaeConfig, weights: &Weights) -> Result<Self> {
        let (root, channels, last) = (Scope::root(weights, None), &config.channels, config.last_channels());
        let scope = root.at("encoder");
        let mut down = Vec::new();
        for (i, &c) in channels.iter().enumerate() {
            let scope = scope.at("down_blocks").at(i);
            let c_in = channels[i.saturating_sub(1)];
            let resnets = (0..config.layers).map(|j| config.resnet(&scope, j, c_in, c)).collect::<Result<_>>()?;
            let is_last = i + 1 == channels.len();
            down.push((resnets, (!is_last).then(|| downsampler(&scope, c, Padding::AfterOnly)).transpose()?));
        }
        let out = 2 * config.latent_channels;
        Ok(Self {
            latent_channels: config.latent_channels,
            quant_conv: config.quant_conv.then(|| Conv2d::new(&root.at("quant_conv"), out, out, 1)).transpose()?,
            conv_in: Conv2d::new(&scope.at("conv_in"), 3, channels[0], 3)?,
            down,
            mid: Mid::new(&scope.at("mid_block"), last, config.norms, config.with_attention)?,
            conv_norm_out: config.norm_out(&scope, last)?,
            conv_out: Conv2d::new(&scope.at("conv_out"), last, out, 3)?,
        })
    }

    /// `pixels`: (b, 3, h, w) from -1 to 1, sides multiples of [`VaeConfig::downsampling`].
    pub fn encode(&self, pixels: &Tensor) -> Result<Gaussian> {
        let mut h = self.conv_in.forward(pixels)?;
        for (resnets, downsampler) in &self.down {
            for resnet in resnets {
                h = resnet.forward(&h, None)?;
            }
            if let Some(downsampler) = downsampler {
                h = downsampler.forward(&h)?;
            }
        }
        h = self.mid.forward(&h)?;
        h = self.conv_out.forward(&self.conv_norm_out.forward(&h)?)?;
        if let Some(conv) = &self.quant_conv {
            h = conv.forward(&h)?;
        }
        let mean = h.narrow(1, 0, self.latent_channels)?.contiguous()?;
        // DiagonalGaussianDistribution clamps to these.
        let logvar = h.narrow(1, self.latent_channels, self.latent_channels)?.contiguous()?.clamp(-30f32, 20f32)?;
        Ok(Gaussian { mean, logvar })
    }

    /// Counts what [`Encoder::encode`] needs for pixels of that shape.
    pub fn trace(&self, pixels: Size, trace: &mut Trace) {
        let mut size = self.conv_in.trace(pixels, trace);
        for (resnets, downsampler) in &self.down {
            size = resnets.iter().fold(size, |size, resnet| resnet.trace(size, trace));
            size = downsampler.as_ref().map_or(size, |downsampler| downsampler.trace(size, trace));
        }
        self.mid.resnets.iter().fold(size, |size, resnet| resnet.trace(size, trace));
    }
}

impl Decoder {
    /// Whether a tensor of an autoencoder is one of the decoder's.
    pub fn has(name: &str) -> bool {
        name.starts_with("decoder.") || name.starts_with("post_quant_conv.")
    }

    /// The decoder whose tensors are `weights`, all of them checked against `config`.
    pub fn new(config: &VaeConfig, weights: &Weights) -> Result<Self> {
        let (root, channels, last) = (Scope::root(weights, None), &config.channels, config.last_channels());
        let (scope, n, latent) = (root.at("decoder"), channels.len(), config.latent_channels);
        let mut up = Vec::new();
        for i in 0..n {
            let scope = scope.at("up_blocks").at(i);
            let (c_in, c) = (channels[(n - i).min(n - 1)], channels[n - 1 - i]);
            let resnets = (0..=config.layers).map(|j| config.resnet(&scope, j, c_in, c)).collect::<Result<_>>()?;
            up.push((resnets, (i + 1 < n).then(|| Upsampler::new(&scope, c)).transpose()?));
        }
        let post_quant_conv = || Conv2d::new(&root.at("post_quant_conv"), latent, latent, 1);
        Ok(Self {
            post_quant_conv: config.post_quant_conv.then(post_quant_conv).transpose()?,
            conv_in: Conv2d::new(&scope.at("conv_in"), latent, last, 3)?,
            mid: Mid::new(&scope.at("mid_block"), last, config.norms, config.with_attention)?,
            up,
            conv_norm_out: config.norm_out(&scope, channels[0])?,
            conv_out: Conv2d::new(&scope.at("conv_out"), channels[0], 3, 3)?,
        })
    }

    /// `latents`: (b, c, h, w), to pixels from about -1 to 1.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let h = self.post_quant_conv.as_ref().map_or_else(|| Ok(latents.clone()), |conv| conv.forward(latents))?;
        let mut h = self.mid.forward(&self.conv_in.forward(&h)?)?;
        for (resnets, upsampler) in &self.up {
            for resnet in resnets {
                h = resnet.forward(&h, None)?;
            }
            if let Some(upsampler) = upsampler {
                h = upsampler.forward(&h)?;
            }
        }
        self.conv_out.forward(&self.conv_norm_out.forward(&h)?)
    }

    /// Counts what [`Decoder::decode`] needs for latents of that shape.
    pub fn trace(&self, latents: Size, trace: &mut Trace) {
        let mut size = self.conv_in.trace(latents, trace);
        size = self.mid.resnets.iter().fold(size, |size, resnet| resnet.trace(size, trace));
        for (resnets, upsampler) in &self.up {
            size = resnets.iter().fold(size, |size, resnet| resnet.trace(size, trace));
            size = upsampler.as_ref().map_or(size, |upsampler| upsampler.trace(size, trace));
        }
    }
}

impl Mid {
    fn new(scope: &Scope<'_>, c: usize, norms: Norms, with_attention: bool) -> Result<Self> {
        let resnet = |j| ResnetBlock::new(&scope.at("resnets").at(j), c, c, norms, None);
        let attention = with_attention.then(|| MidAttention::new(&scope.at("attentions.0"), c, norms)).transpose()?;
        Ok(Self { resnets: [resnet(0)?, resnet(1)?], attention })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut h = self.resnets[0].forward(x, None)?;
        if let Some(attention) = &self.attention {
            h = attention.forward(&h)?;
        }
        self.resnets[1].forward(&h, None)
    }
}

impl MidAttention {
    fn new(scope: &Scope<'_>, c: usize, norms: Norms) -> Result<Self> {
        // Checkpoints from before diffusers 0.18 use other names for the same tensors.
        let old = scope.at("query").find("weight").is_some();
        let linear = |new: &str, before: &str| Linear::new(&scope.at(if old { before } else { new }), c, c);
        Ok(Self {
            group_norm: GroupNorm::new(&scope.at("group_norm"), c, norms.groups, norms.eps, Activation::None)?,
            to_q: linear("to_q", "query")?,
            to_k: linear("to_k", "key")?,
            to_v: linear("to_v", "value")?,
            to_out: linear("to_out.0", "proj_attn")?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, _, h, w) = x.dims4()?;
        let hidden = to_sequence(&self.group_norm.forward(x)?)?;
        let (q, k, v) = (self.to_q.forward(&hidden)?, self.to_k.forward(&hidden)?, self.to_v.forward(&hidden)?);
        let hidden = self.to_out.forward(&ops::attention(&q, &k, &v, 1, AttentionKernels::Cublas)?)?;
        Ok((to_picture(&hidden, h, w)? + x)?)
    }
}
