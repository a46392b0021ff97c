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

/// Encoder and decoder. Its latents are not scaled: [`crate::engine::model::codec`] does that.
pub struct Vae {
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Side of a latent's square in pixels; 8 for SD.
    pub downsampling: usize,
}

/// The latents of a picture: independent normal distributions, with mean and logarithm of the variance of each element,
/// (b, latent_channels, h, w).
pub struct Gaussian {
    /// Mean.
    pub mean: Tensor,
    /// Logarithm of the variance.
    pub logvar: Tensor,
}

struct Encoder {
    conv_in: Conv2d,
    down: Vec<(Vec<ResnetBlock>, Option<Conv2d>)>,
    mid: Mid,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

struct Decoder {
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

impl Vae {
    /// The autoencoder whose tensors are `weights`, all of them checked against `config`.
    pub fn new(config: &Config, weights: &Weights) -> Result<Self> {
        for (key, allowed) in [
            ("act_fn", &[json!("silu"), json!("swish")][..]),
            ("in_channels", &[json!(3)]),
            ("out_channels", &[json!(3)]),
        ] {
            config.require(key, allowed)?;
        }
        let channels = config.list("block_out_channels", 0, None)?;
        let (n, layers) = (channels.len(), config.at_least(1, "layers_per_block", 1)?);
        if n == 0 {
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
        let latent_channels = config.usize("latent_channels", Some(4))?;
        let with_attention = config.bool("mid_block_add_attention", true);
        let last = channels[n - 1];
        let root = Scope::root(weights, None);

        let scope = root.at("encoder");
        let mut down = Vec::new();
        for (i, &c) in channels.iter().enumerate() {
            let scope = scope.at("down_blocks").at(i);
            let c_in = channels[i.saturating_sub(1)];
            let resnet =
                |j| ResnetBlock::new(&scope.at("resnets").at(j), if j == 0 { c_in } else { c }, c, norms, None);
            let resnets = (0..layers).map(resnet).collect::<Result<_>>()?;
            down.push((resnets, (i + 1 < n).then(|| downsampler(&scope, c, Padding::AfterOnly)).transpose()?));
        }
        let encoder = Encoder {
            conv_in: Conv2d::new(&scope.at("conv_in"), 3, channels[0], 3)?,
            down,
            mid: Mid::new(&scope.at("mid_block"), last, norms, with_attention)?,
            conv_norm_out: GroupNorm::new(&scope.at("conv_norm_out"), last, norms.groups, norms.eps, Activation::Silu)?,
            conv_out: Conv2d::new(&scope.at("conv_out"), last, 2 * latent_channels, 3)?,
        };

        let scope = root.at("decoder");
        let mut up = Vec::new();
        for i in 0..n {
            let scope = scope.at("up_blocks").at(i);
            let (c_in, c) = (channels[(n - i).min(n - 1)], channels[n - 1 - i]);
            let resnet =
                |j| ResnetBlock::new(&scope.at("resnets").at(j), if j == 0 { c_in } else { c }, c, norms, None);
            let resnets = (0..=layers).map(resnet).collect::<Result<_>>()?;
            up.push((resnets, (i + 1 < n).then(|| Upsampler::new(&scope, c)).transpose()?));
        }
        let decoder = Decoder {
            conv_in: Conv2d::new(&scope.at("conv_in"), latent_channels, last, 3)?,
            mid: Mid::new(&scope.at("mid_block"), last, norms, with_attention)?,
            up,
            conv_norm_out: GroupNorm::new(
                &scope.at("conv_norm_out"),
                channels[0],
                norms.groups,
                norms.eps,
                Activation::Silu,
            )?,
            conv_out: Conv2d::new(&scope.at("conv_out"), channels[0], 3, 3)?,
        };
        let one_by_one = |name: &str, flag: &str, c: usize| {
            config.bool(flag, true).then(|| Conv2d::new(&root.at(name), c, c, 1)).transpose()
        };
        Ok(Self {
            encoder,
            decoder,
            quant_conv: one_by_one("quant_conv", "use_quant_conv", 2 * latent_channels)?,
            post_quant_conv: one_by_one("post_quant_conv", "use_post_quant_conv", latent_channels)?,
            latent_channels,
            downsampling: 1 << (n - 1),
        })
    }

    /// `pixels`: (b, 3, h, w) from -1 to 1, sides multiples of [`Vae::downsampling`].
    pub fn encode(&self, pixels: &Tensor) -> Result<Gaussian> {
        let mut h = self.encoder.conv_in.forward(pixels)?;
        for (resnets, downsampler) in &self.encoder.down {
            for resnet in resnets {
                h = resnet.forward(&h, None)?;
            }
            if let Some(downsampler) = downsampler {
                h = downsampler.forward(&h)?;
            }
        }
        h = self.encoder.mid.forward(&h)?;
        h = self.encoder.conv_out.forward(&self.encoder.conv_norm_out.forward(&h)?)?;
        if let Some(conv) = &self.quant_conv {
            h = conv.forward(&h)?;
        }
        let mean = h.narrow(1, 0, self.latent_channels)?.contiguous()?;
        // DiagonalGaussianDistribution clamps to these.
        let logvar = h.narrow(1, self.latent_channels, self.latent_channels)?.contiguous()?.clamp(-30f32, 20f32)?;
        Ok(Gaussian { mean, logvar })
    }

    /// `latents`: (b, c, h, w), to pixels from about -1 to 1.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let h = self.post_quant_conv.as_ref().map_or_else(|| Ok(latents.clone()), |conv| conv.forward(latents))?;
        let mut h = self.decoder.mid.forward(&self.decoder.conv_in.forward(&h)?)?;
        for (resnets, upsampler) in &self.decoder.up {
            for resnet in resnets {
                h = resnet.forward(&h, None)?;
            }
            if let Some(upsampler) = upsampler {
                h = upsampler.forward(&h)?;
            }
        }
        self.decoder.conv_out.forward(&self.decoder.conv_norm_out.forward(&h)?)
    }

    /// Counts what [`Vae::encode`] needs for pixels of that shape.
    pub fn trace_encode(&self, pixels: Size, trace: &mut Trace) {
        let mut size = self.encoder.conv_in.trace(pixels, trace);
        for (resnets, downsampler) in &self.encoder.down {
            size = resnets.iter().fold(size, |size, resnet| resnet.trace(size, trace));
            size = downsampler.as_ref().map_or(size, |downsampler| downsampler.trace(size, trace));
        }
        self.encoder.mid.resnets.iter().fold(size, |size, resnet| resnet.trace(size, trace));
    }

    /// Counts what [`Vae::decode`] needs for latents of that shape.
    pub fn trace_decode(&self, latents: Size, trace: &mut Trace) {
        let mut size = self.decoder.conv_in.trace(latents, trace);
        size = self.decoder.mid.resnets.iter().fold(size, |size, resnet| resnet.trace(size, trace));
        for (resnets, upsampler) in &self.decoder.up {
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
