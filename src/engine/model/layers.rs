//! The layers that U-Net and VAE share, with the names and shapes of diffusers. `trace` counts what `forward` needs.
#![forbid(unsafe_code)]

use crate::engine::model::lora;
use crate::engine::model::scope::Scope;
use crate::engine::model::trace::{Size, Trace, elements};
use crate::engine::ops::adam::Adam;
use crate::engine::ops::{self, Activation, Padding, Parameters};
use crate::error::Result;
use candle_core::{DType, Tensor};
use std::sync::Arc;

/// PyTorch's nn.Conv2d.
pub struct Conv2d {
    parameters: Parameters,
    /// A and B of [`lora`].
    adapter: Option<[Parameters; 2]>,
    stride: usize,
    padding: Padding,
}

impl Conv2d {
    /// Kernel `k` by `k`, stride 1, padded so that height and width stay.
    pub fn new(scope: &Scope<'_>, c_in: usize, c_out: usize, k: usize) -> Result<Self> {
        Self::strided(scope, c_in, c_out, k, 1, Padding::Even(k / 2))
    }

    /// With another stride and padding.
    pub fn strided(
        scope: &Scope<'_>,
        c_in: usize,
        c_out: usize,
        k: usize,
        stride: usize,
        padding: Padding,
    ) -> Result<Self> {
        let weight = scope.get("weight", &[c_out, c_in, k, k])?;
        let bias = scope.get("bias", &[c_out])?;
        let without_bias = |weight: Tensor| -> Result<Parameters> {
            let bias = Tensor::zeros(weight.dims()[0], DType::F32, weight.device())?;
            Ok(Parameters { weight, bias, optimizer: scope.optimizer() })
        };
        let adapter = match scope.find(lora::A).map(|a| a.dims()[0]) {
            Some(rank) => Some([
                without_bias(scope.get(lora::A, &[rank, c_in, k, k])?)?,
                without_bias(scope.get(lora::B, &[c_out, rank, 1, 1])?)?,
            ]),
            None => None,
        };
        Ok(Self { adapter, parameters: Parameters { weight, bias, optimizer: scope.optimizer() }, stride, padding })
    }

    /// (b, c_in, h, w) to (b, c_out, h / stride, w / stride).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = ops::conv2d(x, &self.parameters, self.stride, self.padding)?;
        let Some([a, b]) = &self.adapter else { return Ok(y) };
        let low = ops::conv2d(x, a, self.stride, self.padding)?;
        Ok((y + ops::conv2d(&low, b, 1, Padding::Even(0))?)?)
    }

    /// Counts what [`Conv2d::forward`] needs.
    pub fn trace(&self, [b, c, h, w]: Size, trace: &mut Trace) -> Size {
        let weight = &self.parameters.weight;
        let output = [b, weight.dims()[0], h / self.stride, w / self.stride];
        trace.operation(elements([b, c, h, w]), elements(output), weight.elem_count());
        if let Some([a, _]) = &self.adapter {
            let low = elements(output) / output[1] * a.weight.dims()[0];
            trace.adapter(elements([b, c, h, w]), low, elements(output));
        }
        output
    }
}

/// PyTorch's nn.Linear.
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    /// A and B of [`lora`].
    adapter: Option<[Tensor; 2]>,
    optimizer: Option<Arc<Adam>>,
}

impl Linear {
    /// With bias.
    pub fn new(scope: &Scope<'_>, d_in: usize, d_out: usize) -> Result<Self> {
        Ok(Self { bias: Some(scope.get("bias", &[d_out])?), ..Self::without_bias(scope, d_in, d_out)? })
    }

    /// Without bias.
    pub fn without_bias(scope: &Scope<'_>, d_in: usize, d_out: usize) -> Result<Self> {
        let adapter = match scope.find(lora::A).map(|a| a.dims()[0]) {
            Some(rank) => Some([scope.get(lora::A, &[rank, d_in])?, scope.get(lora::B, &[d_out, rank])?]),
            None => None,
        };
        let weight = scope.get("weight", &[d_out, d_in])?;
        Ok(Self { weight, bias: None, adapter, optimizer: scope.optimizer() })
    }

    /// (..., d_in) to (..., d_out).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = ops::linear(x, &self.weight, self.bias.as_ref(), &self.optimizer)?;
        let Some([a, b]) = &self.adapter else { return Ok(y) };
        let low = ops::linear(x, a, None, &self.optimizer)?;
        Ok((y + ops::linear(&low, b, None, &self.optimizer)?)?)
    }

    /// Counts what [`Linear::forward`] needs for `rows` rows; gives the elements of the result.
    pub fn trace(&self, rows: usize, trace: &mut Trace) -> usize {
        let (n, k) = (self.weight.dims()[0], self.weight.dims()[1]);
        if let Some([a, _]) = &self.adapter {
            trace.adapter(rows * k, rows * a.dims()[0], rows * n);
        }
        trace.operation(rows * k, rows * n, n * k)
    }
}

/// PyTorch's nn.GroupNorm, followed by SiLU (x times its sigmoid) or not.
pub struct GroupNorm {
    parameters: Parameters,
    groups: usize,
    eps: f32,
    after: Activation,
}

impl GroupNorm {
    /// Over `groups` groups of the `channels` channels; `eps` is added to the variance.
    pub fn new(scope: &Scope<'_>, channels: usize, groups: usize, eps: f32, after: Activation) -> Result<Self> {
        Ok(Self { parameters: Parameters::of_norm(scope, channels)?, groups, eps, after })
    }

    /// (b, channels, ...).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(ops::group_norm(x, &self.parameters, self.groups, self.eps, self.after)?)
    }
}

/// PyTorch's nn.LayerNorm with its default eps.
pub struct LayerNorm {
    parameters: Parameters,
}

impl LayerNorm {
    /// Over the last dimension, of `d` elements.
    pub fn new(scope: &Scope<'_>, d: usize) -> Result<Self> {
        Ok(Self { parameters: Parameters::of_norm(scope, d)? })
    }

    /// (..., d).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(ops::layer_norm(x, &self.parameters, 1e-5)?)
    }
}

impl Parameters {
    /// Of a normalization of `channels` channels.
    fn of_norm(scope: &Scope<'_>, channels: usize) -> Result<Self> {
        let (weight, bias) = (scope.get("weight", &[channels])?, scope.get("bias", &[channels])?);
        Ok(Self { weight, bias, optimizer: scope.optimizer() })
    }
}

/// What all group normalizations of a network have in common.
#[derive(Clone, Copy, Debug)]
pub struct Norms {
    /// Groups of channels that are normalized together.
    pub groups: usize,
    /// Added to the variance in residual blocks.
    pub eps: f32,
}

/// diffusers' ResnetBlock2D.
pub struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    /// `time_embedding`: width of the time embedding, `None` in a VAE.
    pub fn new(
        scope: &Scope<'_>,
        c_in: usize,
        c_out: usize,
        norms: Norms,
        time_embedding: Option<usize>,
    ) -> Result<Self> {
        let norm = |name: &str, c| GroupNorm::new(&scope.at(name), c, norms.groups, norms.eps, Activation::Silu);
        Ok(Self {
            norm1: norm("norm1", c_in)?,
            conv1: Conv2d::new(&scope.at("conv1"), c_in, c_out, 3)?,
            time_emb_proj: time_embedding.map(|d| Linear::new(&scope.at("time_emb_proj"), d, c_out)).transpose()?,
            norm2: norm("norm2", c_out)?,
            conv2: Conv2d::new(&scope.at("conv2"), c_out, c_out, 3)?,
            conv_shortcut: (c_in != c_out)
                .then(|| Conv2d::new(&scope.at("conv_shortcut"), c_in, c_out, 1))
                .transpose()?,
        })
    }

    /// `x`: (b, c_in, h, w); `silu_emb`: SiLU of the time embedding, (b, d). Gives (b, c_out, h, w). The embedding and
    /// its projection are f32 even where `x` has fewer bits: they are small, and their gradients are sums over whole
    /// planes.
    pub fn forward(&self, x: &Tensor, silu_emb: Option<&Tensor>) -> Result<Tensor> {
        let mut h = self.conv1.forward(&self.norm1.forward(x)?)?;
        if let (Some(proj), Some(emb)) = (&self.time_emb_proj, silu_emb) {
            h = ops::add_per_channel(&h, &proj.forward(emb)?)?;
        }
        // Each result goes when the next one is there, unless a backward pass needs it.
        h = self.norm2.forward(&h)?;
        h = self.conv2.forward(&h)?;
        let shortcut = self.conv_shortcut.as_ref().map_or_else(|| Ok(x.clone()), |conv| conv.forward(x))?;
        Ok((shortcut + h)?)
    }

    /// Counts what [`ResnetBlock::forward`] needs.
    pub fn trace(&self, size: Size, trace: &mut Trace) -> Size {
        trace.operation(elements(size), elements(size), 0);
        let output = self.conv1.trace(size, trace);
        let n = elements(output);
        if let Some(proj) = &self.time_emb_proj {
            proj.trace(output[0], trace);
            trace.operation(n, n, 0);
        }
        trace.operation(n, n, 0);
        self.conv2.trace(output, trace);
        if let Some(conv) = &self.conv_shortcut {
            conv.trace(size, trace);
        }
        trace.operation(n, n, 0);
        // x beside its normalization and the first convolution, or beside the second one, the shortcut and the sum.
        let after = if self.conv_shortcut.is_some() { 3 * n } else { 2 * n };
        trace.alive(elements(size) + after.max(elements(size) + n));
        output
    }
}

/// Halves height and width by a convolution of stride 2; the VAE pads only below and on the right, the U-Net evenly.
pub fn downsampler(scope: &Scope<'_>, channels: usize, padding: Padding) -> Result<Conv2d> {
    Conv2d::strided(&scope.at("downsamplers.0.conv"), channels, channels, 3, 2, padding)
}

/// Doubles height and width by repeating pixels, then a convolution.
pub struct Upsampler(Conv2d);

impl Upsampler {
    /// That of the block at `scope`.
    pub fn new(scope: &Scope<'_>, channels: usize) -> Result<Self> {
        Ok(Self(Conv2d::new(&scope.at("upsamplers.0.conv"), channels, channels, 3)?))
    }

    /// (b, c, h, w) to (b, c, 2 h, 2 w).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward(&ops::upsample_nearest_2x(x)?)
    }

    /// Counts what [`Upsampler::forward`] needs.
    pub fn trace(&self, [b, c, h, w]: Size, trace: &mut Trace) -> Size {
        let large = [b, c, 2 * h, 2 * w];
        trace.operation(elements([b, c, h, w]), elements(large), 0);
        trace.alive(elements([b, c, h, w]) + 2 * elements(large));
        self.0.trace(large, trace)
    }
}

/// (b, c, h, w) to (b, h w, c).
pub fn to_sequence(x: &Tensor) -> Result<Tensor> {
    Ok(ops::transpose(&x.flatten_from(2)?)?)
}

/// (b, h w, c) to (b, c, h, w).
pub fn to_picture(x: &Tensor, h: usize, w: usize) -> Result<Tensor> {
    let (b, _, c) = x.dims3()?;
    Ok(ops::transpose(x)?.reshape((b, c, h, w))?)
}
