//! The noise predictor f_theta, the network that stage B trains: diffusers' UNet2DConditionModel.
//!
//! Ours, because candle-transformers' U-Net predicts right but its gradients are silently wrong (see `ops`). A network
//! is a tree of layers over named tensors: over variables in training, over plain tensors otherwise.
#![forbid(unsafe_code)]

use crate::engine::device::{AttentionKernels, Form};
use crate::engine::model::clip::ClipConfig;
use crate::engine::model::conditioning::{Added, Conditioning, sinusoids};
use crate::engine::model::config::Config;
use crate::engine::model::family::Family;
use crate::engine::model::layers::{
    Conv2d, GroupNorm, LayerNorm, Linear, Norms, ResnetBlock, Upsampler, downsampler, to_picture, to_sequence,
};
use crate::engine::model::scope::Scope;
use crate::engine::model::source::{Part, Source};
use crate::engine::model::trace::{Size, Trace, elements};
use crate::engine::model::weights::Weights;
use crate::engine::ops::adam::Adam;
use crate::engine::ops::{self, Activation, Padding};
use crate::error::{Error, Result};
use crate::text::text;
use candle_core::{DType, Tensor};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The part of a U-Net's configuration that decides the network's shape.
#[derive(Clone, Debug)]
pub struct UNetConfig {
    /// Channels of the input: those of x_t, and more where the network also sees another picture.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// How the noise level of the small picture is added to the time embedding in models that enlarge it.
    pub class_embedding: Option<ClassEmbedding>,
    /// Side of the latents that it was trained on.
    pub sample_size: usize,
    /// Width of the text embedding.
    pub cross_attention_dim: usize,
    /// Elements of the vector that is added to the time embedding after two layers, see [`Added`]; `None` in families
    /// without one.
    pub added: Option<usize>,
    levels: Vec<Level>,
    middle: Middle,
    norms: Norms,
    linear_projection: bool,
}

/// What becomes of the number that [`Conditioning::class`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassEmbedding {
    /// A row of a table of that many (the x4 upscaler of Stable Diffusion).
    Table(usize),
    /// Its sinusoids after two layers, as of a timestep (Imagen, DeepFloyd IF).
    Sinusoids,
}

/// The blocks of one resolution.
#[derive(Clone, Debug)]
struct Level {
    channels: usize,
    heads: usize,
    /// Whether its transformer blocks see the text twice and never the picture.
    only_cross_attention: bool,
    /// Transformer blocks after each residual block of the down path, 0 without attention.
    down: Vec<usize>,
    /// The same of the up path.
    up: Vec<usize>,
}

/// What stands between the down path and the up path.
#[derive(Clone, Copy, Debug)]
enum Middle {
    /// A residual block, that many transformer blocks, another residual block.
    Attention(usize),
    /// A residual block (SSD-1B, Vega).
    Resnet,
    /// Nothing (small-sd, BK-SDM).
    Nothing,
}

impl UNetConfig {
    /// Reads and checks the U-Net's configuration in `source`, and that its text encoders fit it.
    pub fn read(source: &Source, family: &Family) -> Result<Self> {
        let config = source.config(Part::UNet);
        for (key, allowed) in [
            ("act_fn", &[json!("silu"), json!("swish")][..]),
            ("addition_embed_type", &[json!("text_time")]),
            ("attention_type", &[json!("default")]),
            ("center_input_sample", &[json!(false)]),
            ("class_embed_type", &[json!("timestep")]),
            ("conv_in_kernel", &[json!(3)]),
            ("conv_out_kernel", &[json!(3)]),
            ("cross_attention_norm", &[]),
            ("downsample_padding", &[json!(1)]),
            ("dual_cross_attention", &[json!(false)]),
            ("encoder_hid_dim", &[]),
            ("encoder_hid_dim_type", &[]),
            ("flip_sin_to_cos", &[json!(true)]),
            ("freq_shift", &[json!(0)]),
            ("mid_block_only_cross_attention", &[json!(false)]),
            ("mid_block_scale_factor", &[json!(1), json!(1.0)]),
            ("resnet_out_scale_factor", &[json!(1), json!(1.0)]),
            ("resnet_skip_time_act", &[json!(false)]),
            ("resnet_time_scale_shift", &[json!("default")]),
            ("time_cond_proj_dim", &[]),
            ("time_embedding_act_fn", &[]),
            ("time_embedding_dim", &[]),
            ("time_embedding_type", &[json!("positional")]),
            ("timestep_post_act", &[]),
        ] {
            config.require(key, allowed)?;
        }
        let channels = config.list("block_out_channels", 0, None)?;
        let n = channels.len();
        if n == 0 {
            return Err(config.error(text!("{key} lists no blocks", key = "block_out_channels")));
        }
        // diffusers' own misnomer: `attention_head_dim` is the number of heads where `num_attention_heads` is absent.
        let heads_key =
            if config.value("num_attention_heads").is_null() { "attention_head_dim" } else { "num_attention_heads" };
        let heads = match config.value(heads_key) {
            Value::Null => family.heads(n),
            _ => config.list(heads_key, n, None)?,
        };
        let groups = config.usize("norm_num_groups", Some(32))?;
        for (&channels, &heads) in channels.iter().zip(&heads) {
            if groups == 0 || heads == 0 || channels % groups != 0 || channels % heads != 0 {
                let reason = text!(
                    "{channels} channels do not divide into {groups} groups and {heads} heads",
                    channels,
                    groups,
                    heads
                );
                return Err(config.error(reason));
            }
        }
        let layers = match config.value("layers_per_block") {
            Value::Array(_) => config.list("layers_per_block", n, None)?,
            _ => vec![config.at_least(1, "layers_per_block", 2)?; n],
        };
        let down_attention = attention(config, "down_block_types", ["CrossAttnDownBlock2D", "DownBlock2D"], n)?;
        let up_attention = attention(config, "up_block_types", ["CrossAttnUpBlock2D", "UpBlock2D"], n)?;
        let (depths_key, reversed_key) = ("transformer_layers_per_block", "reverse_transformer_layers_per_block");
        let only_cross_attention = match config.value("only_cross_attention") {
            Value::Array(levels) if levels.len() == n && levels.iter().all(Value::is_boolean) => {
                levels.iter().map(|level| *level == json!(true)).collect()
            }
            _ => {
                config.require("only_cross_attention", &[json!(false), json!(true)])?;
                vec![config.bool("only_cross_attention", false); n]
            }
        };
        let levels = (0..n).map(|i| {
            let (mirrored, layers) = (n - 1 - i, layers[i]);
            let down = match down_attention[i] {
                true => depths(config, depths_key, i, layers)?,
                false => vec![0; layers],
            };
            let up = match up_attention[mirrored] {
                true if config.value(reversed_key).is_null() => depths(config, depths_key, i, layers + 1)?,
                true => depths(config, reversed_key, mirrored, layers + 1)?,
                false => vec![0; layers + 1],
            };
            let only_cross_attention = only_cross_attention[i];
            Ok(Level { channels: channels[i], heads: heads[i], only_cross_attention, down, up })
        });
        let middle = match config.value("mid_block_type") {
            // What is absent is diffusers' default, what is null is none.
            Value::Null if config.has("mid_block_type") => Middle::Nothing,
            Value::String(kind) if kind == "UNetMidBlock2D" => Middle::Resnet,
            _ => {
                config.require("mid_block_type", &[json!("UNetMidBlock2DCrossAttn")])?;
                Middle::Attention(depths(config, depths_key, n - 1, layers[n - 1])?[0])
            }
        };
        let predicts_v = source.scheduler().value("prediction_type") == "v_prediction";
        let unet = Self {
            in_channels: config.usize("in_channels", Some(family.latent_channels))?,
            out_channels: config.usize("out_channels", Some(family.latent_channels))?,
            class_embedding: match config.usize("num_class_embeds", Some(0))? {
                0 if config.value("class_embed_type").is_null() => None,
                0 => Some(ClassEmbedding::Sinusoids),
                rows => Some(ClassEmbedding::Table(rows)),
            },
            sample_size: config.at_least(1, "sample_size", family.sample_size_of(predicts_v))?,
            cross_attention_dim: config.usize("cross_attention_dim", None)?,
            added: family
                .second
                .as_ref()
                .map(|_| config.usize("projection_class_embeddings_input_dim", None))
                .transpose()?,
            levels: levels.collect::<Result<_>>()?,
            middle,
            norms: Norms { groups, eps: config.f64("norm_eps", 1e-5)? as f32 },
            linear_projection: config.bool("use_linear_projection", false),
        };
        unet.check_text(source, family)?;
        Ok(unet)
    }

    /// Refuses text encoders whose embeddings have other widths than those that the network was trained with.
    fn check_text(&self, source: &Source, family: &Family) -> Result<()> {
        let config = source.config(Part::UNet);
        let encoder = |part| ClipConfig::read(source.config(part), family.tokens);
        let mut width = encoder(Part::TextEncoder)?.width;
        if let (Some(second), Some(wanted)) = (&family.second, self.added) {
            let second_encoder = encoder(Part::TextEncoder2)?;
            width += second_encoder.width;
            // Six numbers tell of sizes, see `Added`.
            let sizes = 6 * config.usize("addition_time_embed_dim", Some(second.size_width))?;
            let added = second_encoder.pooled_width + sizes;
            if added != wanted {
                return Err(config.error(text!(
                    "projection_class_embeddings_input_dim is {wanted}, but text encoder and sizes give {added}; they \
                     belong to different models",
                    wanted,
                    added
                )));
            }
        }
        if width != self.cross_attention_dim {
            return Err(config.error(text!(
                "cross_attention_dim is {wanted}, but the text encoder's embeddings have {width} elements; they belong \
                 to different models",
                wanted = self.cross_attention_dim,
                width
            )));
        }
        Ok(())
    }

    /// Sides of the latents must be multiples of this, because every level but the last halves them.
    pub fn latent_multiple(&self) -> usize {
        1 << (self.levels.len() - 1)
    }

    /// Width of the time embedding.
    fn time_embedding(&self) -> usize {
        4 * self.levels[0].channels
    }
}

/// Which blocks of a path have attention: their types, of those with and without.
fn attention(config: &Config, key: &str, [with, without]: [&str; 2], n: usize) -> Result<Vec<bool>> {
    let types = config.value(key).as_array().filter(|types| types.len() == n);
    let types = types.ok_or_else(|| config.error(text!("{key} must list {n} blocks", key, n)))?;
    types
        .iter()
        .map(|kind| match kind.as_str() {
            Some(kind) if kind == with => Ok(true),
            Some(kind) if kind == without => Ok(false),
            _ => Err(config.error(text!("{key} has {kind}, must be {with} or {without}", key, kind, with, without))),
        })
        .collect()
}

/// Transformer blocks after each of the `layers` residual blocks of block `i` of a path: one number for all blocks, or
/// for each block one number or a list.
fn depths(config: &Config, key: &str, i: usize, layers: usize) -> Result<Vec<usize>> {
    const MOST: u64 = 1000;
    let whole = config.value(key);
    let number = |value: &Value| value.as_u64().filter(|&n| n > 0 && n <= MOST).map(|n| n as usize);
    let of_block = whole.as_array().map_or(Some(whole), |blocks| blocks.get(i));
    let depths = match of_block {
        Some(Value::Null) => Some(vec![1; layers]),
        Some(Value::Array(depths)) if depths.len() == layers => depths.iter().map(number).collect(),
        Some(value) => number(value).map(|n| vec![n; layers]),
        None => None,
    };
    depths.ok_or_else(|| config.error(text!("{key} is {value}, which does not fit the blocks", key, value = whole)))
}

/// The network over some tensors: a list of blocks from x_t to the prediction.
pub struct UNet {
    config: UNetConfig,
    time_embedding: [Linear; 2],
    /// Of what is added to the time embedding.
    add_embedding: Option<[Linear; 2]>,
    class_embedding: Option<ClassLayers>,
    /// In the order in which they run.
    pub blocks: Vec<Block>,
    /// The type of the tensors between its layers; weights and the time embedding are f32.
    pub storage: DType,
}

/// The layers behind [`ClassEmbedding`].
enum ClassLayers {
    /// (rows, d).
    Table(Tensor),
    Sinusoids([Linear; 2]),
}

/// A part of the network between two tensors that other parts see.
pub struct Block {
    /// Its end of a connection from the down path to the up path, if it has one.
    pub skip: Skip,
    layers: Vec<Layer>,
}

/// The up path takes the outputs of the down path, the last one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// Its output goes to the next block only.
    None,
    /// Its output goes to a block of the up path, too.
    Gives,
    /// The channels of an output of the down path are joined to its input.
    Takes,
}

enum Layer {
    Conv(Conv2d),
    Resnet(ResnetBlock),
    Transformer(Transformer),
    Upsampler(Upsampler),
    Norm(GroupNorm),
}

impl UNet {
    /// The network whose tensors are `weights`, all of them checked against `config`.
    pub fn new(config: &UNetConfig, weights: &Weights) -> Result<Self> {
        Self::over(config, &Scope::root(weights, None))
    }

    /// The names of those of `weights` that the network has; a file may hold more.
    pub fn names(config: &UNetConfig, weights: &Weights) -> Result<BTreeSet<String>> {
        let names = RefCell::default();
        Self::over(config, &Scope::root(weights, None).noting(&names))?;
        Ok(names.into_inner())
    }

    /// The same in stage B: `optimizer` takes the gradients of those of `weights` that are its variables.
    pub fn trained(config: &UNetConfig, weights: &Weights, optimizer: &Arc<Adam>) -> Result<Self> {
        Self::over(config, &Scope::root(weights, Some(optimizer)))
    }

    fn over(config: &UNetConfig, root: &Scope<'_>) -> Result<Self> {
        let UNetConfig { levels, norms, .. } = config;
        let (n, norms, time) = (levels.len(), *norms, Some(config.time_embedding()));
        let (first, last) = (&levels[0], &levels[n - 1]);
        let resnet = |scope: &Scope<'_>, j: usize, c_in: usize, c_out: usize| {
            Ok::<_, Error>(Layer::Resnet(ResnetBlock::new(&scope.at("resnets").at(j), c_in, c_out, norms, time)?))
        };
        let transformer = |scope: &Scope<'_>, j: usize, level: &Level, only_cross: bool, blocks: usize| {
            let scope = scope.at("attentions").at(j);
            Ok::<_, Error>(Layer::Transformer(Transformer::new(&scope, config, level, only_cross, blocks)?))
        };
        let mut blocks = Vec::new();
        let mut block = |skip, layers| blocks.push(Block { skip, layers });

        let conv_in = Conv2d::new(&root.at("conv_in"), config.in_channels, first.channels, 3)?;
        block(Skip::Gives, vec![Layer::Conv(conv_in)]);
        for (i, level) in levels.iter().enumerate() {
            let scope = root.at("down_blocks").at(i);
            for (j, &depth) in level.down.iter().enumerate() {
                let c_in = if j == 0 { levels[i.saturating_sub(1)].channels } else { level.channels };
                let mut layers = vec![resnet(&scope, j, c_in, level.channels)?];
                if depth > 0 {
                    layers.push(transformer(&scope, j, level, level.only_cross_attention, depth)?);
                }
                block(Skip::Gives, layers);
            }
            if i + 1 < n {
                block(Skip::Gives, vec![Layer::Conv(downsampler(&scope, level.channels, Padding::Even(1))?)]);
            }
        }
        let scope = root.at("mid_block");
        let mid = |j| resnet(&scope, j, last.channels, last.channels);
        match config.middle {
            Middle::Attention(depth) => {
                // diffusers' middle block sees the picture whatever its levels do.
                block(Skip::None, vec![mid(0)?, transformer(&scope, 0, last, false, depth)?, mid(1)?]);
            }
            Middle::Resnet => block(Skip::None, vec![mid(0)?]),
            Middle::Nothing => {}
        }
        for i in 0..n {
            let scope = root.at("up_blocks").at(i);
            let level = &levels[n - 1 - i];
            let below = levels[(n - i).min(n - 1)].channels;
            let above = levels[(n - 1 - i).saturating_sub(1)].channels;
            for (j, &depth) in level.up.iter().enumerate() {
                let hidden = if j == 0 { below } else { level.channels };
                let skip = if j + 1 == level.up.len() { above } else { level.channels };
                let mut layers = vec![resnet(&scope, j, hidden + skip, level.channels)?];
                if depth > 0 {
                    layers.push(transformer(&scope, j, level, level.only_cross_attention, depth)?);
                }
                block(Skip::Takes, layers);
            }
            if i + 1 < n {
                block(Skip::None, vec![Layer::Upsampler(Upsampler::new(&scope, level.channels)?)]);
            }
        }
        let c = first.channels;
        let norm = GroupNorm::new(&root.at("conv_norm_out"), c, norms.groups, norms.eps, Activation::Silu)?;
        let conv_out = Conv2d::new(&root.at("conv_out"), c, config.out_channels, 3)?;
        block(Skip::None, vec![Layer::Norm(norm), Layer::Conv(conv_out)]);

        let width = config.time_embedding();
        let two_layers = |name: &str, d_in: usize| {
            let scope = root.at(name);
            let second = Linear::new(&scope.at("linear_2"), width, width)?;
            Ok::<_, Error>([Linear::new(&scope.at("linear_1"), d_in, width)?, second])
        };
        let class_embedding = config.class_embedding.map(|kind| match kind {
            ClassEmbedding::Table(rows) => {
                // candle's product takes no 16 bits.
                let table = root.at("class_embedding").get("weight", &[rows, width])?;
                Ok(ClassLayers::Table(table.to_dtype(DType::F32)?))
            }
            ClassEmbedding::Sinusoids => two_layers("class_embedding", c).map(ClassLayers::Sinusoids),
        });
        Ok(Self {
            time_embedding: two_layers("time_embedding", c)?,
            class_embedding: class_embedding.transpose()?,
            add_embedding: config.added.map(|d_in| two_layers("add_embedding", d_in)).transpose()?,
            config: config.clone(),
            blocks,
            storage: DType::F32,
        })
    }

    /// The same with layers that compute in that form.
    pub fn in_form(mut self, form: Form) -> Self {
        self.storage = form.storage;
        for layer in self.blocks.iter_mut().flat_map(|block| &mut block.layers) {
            let Layer::Transformer(transformer) = layer else { continue };
            for TransformerBlock { attn1, attn2, .. } in &mut transformer.blocks {
                (attn1.kernels, attn2.kernels) = (form.attention, form.attention);
            }
        }
        self
    }

    /// `x_t`: (b, c, h, w); `sinusoids`: [`UNet::sinusoids`] of b timesteps, (b, d); `e`: what it is conditioned on, b
    /// items; all f32. Gives the prediction (noise or v), (b, c, h, w), f32.
    pub fn forward(&self, x_t: &Tensor, sinusoids: &Tensor, e: &Conditioning) -> Result<Tensor> {
        let silu_emb = self.embed_timesteps(sinusoids, e)?;
        let (mut h, mut skips) = (self.input(x_t, e)?, Vec::new());
        for block in &self.blocks {
            let skip = (block.skip == Skip::Takes).then(|| skips.pop().expect("the down path gives as many"));
            h = block.forward(&h, skip.as_ref(), &silu_emb, &e.tokens)?;
            if block.skip == Skip::Gives {
                skips.push(h.clone());
            }
        }
        Ok(h.to_dtype(DType::F32)?)
    }

    /// What the first block takes, (b, in_channels, h, w), of type `storage`.
    pub fn input(&self, x_t: &Tensor, e: &Conditioning) -> Result<Tensor> {
        let joined = e.beside.as_ref().map(|beside| ops::join_channels(x_t, beside)).transpose()?;
        Ok(joined.as_ref().unwrap_or(x_t).to_dtype(self.storage)?)
    }

    /// SiLU of the time embedding of [`UNet::sinusoids`] and of what is added to it, (b, 4 d), f32: every residual
    /// block begins with that.
    pub fn embed_timesteps(&self, sinusoids: &Tensor, e: &Conditioning) -> Result<Tensor> {
        let embed = |[first, second]: &[Linear; 2], x: &Tensor| second.forward(&first.forward(x)?.silu()?);
        let mut emb = embed(&self.time_embedding, sinusoids)?;
        if let Some(layers) = &self.add_embedding {
            let Added { pooled, sizes } = e.added.as_ref().expect("embeddings of this family have it");
            emb = (emb + embed(layers, &Tensor::cat(&[pooled, sizes], 1)?)?)?;
        }
        if let Some(layers) = &self.class_embedding {
            let class = e.class.as_ref().expect("embeddings for models that enlarge have it");
            emb = (emb
                + match layers {
                    ClassLayers::Table(table) => class.matmul(table)?,
                    ClassLayers::Sinusoids(layers) => embed(layers, class)?,
                })?;
        }
        Ok(emb.silu()?)
    }

    /// The numbers of b classes as [`Conditioning::class`]: the elements of a tensor (b, k).
    pub fn classes(&self, numbers: &[u32]) -> Vec<f32> {
        match self.config.class_embedding {
            // One of `rows` in each row: the product with the table takes it out, and its gradient goes back there.
            Some(ClassEmbedding::Table(rows)) => {
                numbers.iter().flat_map(|&n| (0..rows).map(move |row| f32::from(row == n as usize))).collect()
            }
            Some(ClassEmbedding::Sinusoids) => self.sinusoids(numbers),
            None => Vec::new(),
        }
    }

    /// Timestep embedding: the elements of a tensor (b, d).
    pub fn sinusoids(&self, timesteps: &[u32]) -> Vec<f32> {
        sinusoids(timesteps, self.config.levels[0].channels)
    }
}

/// The same network with those weights in `storage` that are multiplied with tensors of that type. Otherwise every
/// product converts its weight again, which costs more than the memory is worth where a network is used a thousand
/// times unchanged.
pub fn with_half_precision(weights: &Weights, Form { storage, .. }: Form) -> Result<Weights> {
    let mut copies = weights.clone();
    if storage == DType::F32 {
        return Ok(copies);
    }
    // Vectors are added, not multiplied; the layers of the time embedding stay f32, see `ResnetBlock`.
    let of_embedding = |name: &str| {
        name.contains("time_emb") || name.starts_with("add_embedding") || name.starts_with("class_embedding")
    };
    let is_multiplied = |name: &str, weight: &Tensor| weight.rank() > 1 && !of_embedding(name);
    for (_, weight) in copies.tensors.iter_mut().filter(|(name, weight)| is_multiplied(name, weight)) {
        *weight = weight.to_dtype(storage)?;
    }
    Ok(copies)
}

/// Bytes of the copies that [`with_half_precision`] makes, about.
pub fn bytes_in_half_precision(weights: &Weights) -> u64 {
    2 * weights.elements() as u64
}

impl Block {
    /// `h`: (b, c, h, w); `skip`: the same with other channels, for a block that takes one; both of type
    /// [`UNet::storage`]. `silu_emb`: (b, d) and `e`: (b, tokens, d) are f32, so that the gradient of `e` is summed
    /// over all blocks in f32.
    pub fn forward(&self, h: &Tensor, skip: Option<&Tensor>, silu_emb: &Tensor, e: &Tensor) -> Result<Tensor> {
        let mut h = skip.map_or_else(|| Ok(h.clone()), |skip| ops::join_channels(h, skip))?;
        for layer in &self.layers {
            h = match layer {
                Layer::Conv(conv) => conv.forward(&h),
                Layer::Resnet(resnet) => resnet.forward(&h, Some(silu_emb)),
                Layer::Transformer(transformer) => transformer.forward(&h, e),
                Layer::Upsampler(upsampler) => upsampler.forward(&h),
                Layer::Norm(norm) => norm.forward(&h),
            }?;
        }
        Ok(h)
    }

    /// Counts what [`Block::forward`] needs with an embedding of `tokens` tokens; gives the size of its output.
    pub fn trace(&self, mut size: Size, skip: Option<Size>, tokens: usize, trace: &mut Trace) -> Size {
        if let Some([_, c, ..]) = skip {
            let input = elements(size);
            size[1] += c;
            trace.operation(input, elements(size), 0);
        }
        for layer in &self.layers {
            size = match layer {
                Layer::Conv(conv) => conv.trace(size, trace),
                Layer::Resnet(resnet) => resnet.trace(size, trace),
                Layer::Transformer(transformer) => transformer.trace(size, tokens, trace),
                Layer::Upsampler(upsampler) => upsampler.trace(size, trace),
                Layer::Norm(_) => {
                    trace.operation(elements(size), elements(size), 0);
                    size
                }
            };
        }
        size
    }
}

/// diffusers' Transformer2DModel: transformer blocks over the positions of a feature map.
struct Transformer {
    norm: GroupNorm,
    proj_in: Projection,
    blocks: Vec<TransformerBlock>,
    proj_out: Projection,
}

/// To and from the sequence: a 1x1 convolution (SD 1) or a linear layer (SD 2 and the built-in model); the arithmetic
/// is the same, only the shapes differ.
enum Projection {
    Conv(Conv2d),
    Linear(Linear),
}

impl Transformer {
    fn new(
        scope: &Scope<'_>,
        config: &UNetConfig,
        level: &Level,
        only_cross_attention: bool,
        blocks: usize,
    ) -> Result<Self> {
        // Transformer2DModel fixes this eps; the residual blocks' comes from the configuration.
        const EPS: f32 = 1e-6;
        let c = level.channels;
        let projection = |name: &str| -> Result<Projection> {
            let scope = scope.at(name);
            Ok(if config.linear_projection {
                Projection::Linear(Linear::new(&scope, c, c)?)
            } else {
                Projection::Conv(Conv2d::new(&scope, c, c, 1)?)
            })
        };
        let block = |i| {
            let scope = scope.at("transformer_blocks").at(i);
            TransformerBlock::new(&scope, c, level.heads, config.cross_attention_dim, only_cross_attention)
        };
        Ok(Self {
            norm: GroupNorm::new(&scope.at("norm"), c, config.norms.groups, EPS, Activation::None)?,
            proj_in: projection("proj_in")?,
            blocks: (0..blocks).map(block).collect::<Result<_>>()?,
            proj_out: projection("proj_out")?,
        })
    }

    /// `x`: (b, c, h, w), `e`: (b, tokens, d).
    fn forward(&self, x: &Tensor, e: &Tensor) -> Result<Tensor> {
        let (_, _, h, w) = x.dims4()?;
        let e = &e.to_dtype(x.dtype())?;
        let mut hidden = match &self.proj_in {
            Projection::Conv(conv) => to_sequence(&conv.forward(&self.norm.forward(x)?)?)?,
            Projection::Linear(linear) => linear.forward(&to_sequence(&self.norm.forward(x)?)?)?,
        };
        for block in &self.blocks {
            hidden = block.forward(&hidden, e)?;
        }
        let hidden = match &self.proj_out {
            Projection::Conv(conv) => conv.forward(&to_picture(&hidden, h, w)?)?,
            Projection::Linear(linear) => to_picture(&linear.forward(&hidden)?, h, w)?,
        };
        Ok((hidden + x)?)
    }

    /// Counts what [`Transformer::forward`] needs.
    fn trace(&self, [b, c, h, w]: Size, tokens: usize, trace: &mut Trace) -> Size {
        let (size, rows) = ([b, c, h, w], b * h * w);
        let n = trace.operation(elements(size), elements(size), 0);
        let projection = |projection: &Projection, trace: &mut Trace| {
            match projection {
                Projection::Conv(conv) => elements(conv.trace(size, trace)),
                Projection::Linear(linear) => linear.trace(rows, trace),
            };
            // The transpose to a sequence or back.
            trace.operation(n, n, 0);
        };
        projection(&self.proj_in, trace);
        self.blocks.iter().for_each(|block| block.trace(rows, b * tokens, trace));
        projection(&self.proj_out, trace);
        trace.operation(n, n, 0);
        size
    }
}

/// diffusers' BasicTransformerBlock.
struct TransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    /// Whether the first attention is to the text, as the second one is.
    only_cross_attention: bool,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff_in: Linear,
    ff_out: Linear,
}

impl TransformerBlock {
    fn new(scope: &Scope<'_>, c: usize, heads: usize, context: usize, only_cross_attention: bool) -> Result<Self> {
        let norm = |name: &str| LayerNorm::new(&scope.at(name), c);
        let seen = if only_cross_attention { context } else { c };
        Ok(Self {
            norm1: norm("norm1")?,
            attn1: Attention::new(&scope.at("attn1"), c, seen, heads)?,
            only_cross_attention,
            norm2: norm("norm2")?,
            attn2: Attention::new(&scope.at("attn2"), c, context, heads)?,
            norm3: norm("norm3")?,
            ff_in: Linear::new(&scope.at("ff.net.0.proj"), c, 8 * c)?, // GEGLU halves it
            ff_out: Linear::new(&scope.at("ff.net.2"), 4 * c, c)?,
        })
    }

    /// `x`: (b, n, c), `e`: (b, tokens, d).
    fn forward(&self, x: &Tensor, e: &Tensor) -> Result<Tensor> {
        let normed = self.norm1.forward(x)?;
        let seen = if self.only_cross_attention { e } else { &normed };
        let x = (self.attn1.forward(&normed, seen)? + x)?;
        let x = (self.attn2.forward(&self.norm2.forward(&x)?, e)? + x)?;
        let hidden = ops::geglu(&self.ff_in.forward(&self.norm3.forward(&x)?)?)?;
        Ok((self.ff_out.forward(&hidden)? + x)?)
    }

    /// Counts what [`TransformerBlock::forward`] needs for `rows` positions and `tokens` tokens of a whole batch.
    fn trace(&self, rows: usize, tokens: usize, trace: &mut Trace) {
        let seen = if self.only_cross_attention { tokens } else { rows };
        for (attention, context) in [(&self.attn1, seen), (&self.attn2, tokens)] {
            let n = attention.to_q.trace(rows, trace);
            trace.operation(n, n, 0); // the normalization before
            let k = attention.to_k.trace(context, trace) + attention.to_v.trace(context, trace);
            // The gradients of every head are made first, then joined.
            trace.operation(2 * (n + k), n, 0);
            attention.to_out.trace(rows, trace);
            trace.operation(n, n, 0);
        }
        let wide = self.ff_in.trace(rows, trace);
        trace.operation(wide, wide / 2, 0);
        let n = self.ff_out.trace(rows, trace);
        trace.operation(n, n, 0);
        trace.operation(n, n, 0);
        // x twice, the normalization, and the wide layer.
        trace.alive(3 * n + wide + wide / 2);
    }
}

struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
    kernels: AttentionKernels,
}

impl Attention {
    fn new(scope: &Scope<'_>, c: usize, context: usize, heads: usize) -> Result<Self> {
        Ok(Self {
            to_q: Linear::without_bias(&scope.at("to_q"), c, c)?,
            to_k: Linear::without_bias(&scope.at("to_k"), context, c)?,
            to_v: Linear::without_bias(&scope.at("to_v"), context, c)?,
            to_out: Linear::new(&scope.at("to_out.0"), c, c)?,
            heads,
            kernels: AttentionKernels::Cublas,
        })
    }

    fn forward(&self, x: &Tensor, context: &Tensor) -> Result<Tensor> {
        let (q, k, v) = (self.to_q.forward(x)?, self.to_k.forward(context)?, self.to_v.forward(context)?);
        self.to_out.forward(&ops::attention(&q, &k, &v, self.heads, self.kernels)?)
    }
}
