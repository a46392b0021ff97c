//! Configurations read off the shapes of tensors under diffusers' names, for files that come without any. What shapes
//! do not tell (the number of heads, the activation) is what Stability AI published for networks of that width.
#![forbid(unsafe_code)]

use crate::engine::model::source::stored::Stored;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Tensors by diffusers' names.
type Tensors = BTreeMap<String, Stored>;

/// Width of the text embedding of the models that have 8 heads in every level: those of the family Stable Diffusion 1.
/// So has the x4 upscaler; all others have 64 channels a head.
const SD1_TEXT_WIDTH: usize = 768;

/// A side of the tensor `name`; `None` without the tensor or the side.
fn side(tensors: &Tensors, name: &str, side: usize) -> Option<usize> {
    tensors.get(name)?.shape().get(side).copied()
}

/// How many of `at(0)`, `at(1)`... there are in a row.
fn count(tensors: &Tensors, at: impl Fn(usize) -> String) -> usize {
    (0..).take_while(|&i| tensors.contains_key(&at(i))).count()
}

/// The one number that all of `list` are, or the list.
fn joined(list: &[usize]) -> Value {
    if let [first, rest @ ..] = list
        && rest.iter().all(|other| other == first)
    {
        json!(first)
    } else {
        json!(list)
    }
}

/// The configuration of the U-Net of `tensors`; `None` where it is no whole U-Net.
pub fn unet(tensors: &Tensors) -> Option<Map<String, Value>> {
    let blocks = |way: &str| {
        let levels = count(tensors, |i| format!("{way}_blocks.{i}.resnets.0.conv1.weight"));
        (0..levels).map(|i| Block::new(tensors, &format!("{way}_blocks.{i}"))).collect::<Option<Vec<_>>>()
    };
    let (down, up) = (blocks("down")?, blocks("up")?);
    let layers = down.first()?.attentions.len();
    let fits = down.len() == up.len()
        && down.iter().all(|block| block.attentions.len() == layers)
        && up.iter().all(|block| block.attentions.len() == layers + 1);
    if !fits {
        return None;
    }
    let channels: Vec<usize> = down.iter().map(|block| block.channels).collect();
    let attention = down.iter().chain(&up).find(|block| block.has_attention())?;
    let block = format!("{}.attentions.0", attention.at);
    let text_width = side(tensors, &format!("{block}.transformer_blocks.0.attn2.to_k.weight"), 1)?;
    let levels_of_noise = side(tensors, "class_embedding.weight", 0);
    let heads = if text_width == SD1_TEXT_WIDTH || levels_of_noise.is_some() {
        json!(8)
    } else {
        channels.iter().map(|channels| (channels / 64).max(1)).collect()
    };
    let types = |blocks: &[Block], with: &str, without: &str| -> Value {
        blocks.iter().map(|block| if block.has_attention() { with } else { without }).collect()
    };
    let depths = |blocks: &[Block]| blocks.iter().map(|block| joined(&block.depths())).collect::<Vec<_>>();
    let mid = ["mid_block.attentions.0.norm.weight", "mid_block.resnets.0.conv1.weight"]
        .map(|name| tensors.contains_key(name));
    let mut config = json!({
        "in_channels": side(tensors, "conv_in.weight", 1)?,
        "out_channels": side(tensors, "conv_out.weight", 0)?,
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": types(&down, "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": types(&up, "CrossAttnUpBlock2D", "UpBlock2D"),
        "mid_block_type": match mid {
            [true, _] => Some("UNetMidBlock2DCrossAttn"),
            [false, true] => Some("UNetMidBlock2D"),
            [false, false] => None,
        },
        "transformer_layers_per_block": depths(&down),
        "attention_head_dim": heads,
        "cross_attention_dim": text_width,
        "use_linear_projection": tensors.get(&format!("{block}.proj_in.weight"))?.shape().len() == 2,
    });
    let is_mirrored = up.iter().zip(down.iter().rev()).all(|(up, down)| {
        let (up, down) = (joined(&up.depths()), joined(&down.depths()));
        up == down
    });
    if !is_mirrored {
        config["reverse_transformer_layers_per_block"] = json!(depths(&up));
    }
    if let Some(rows) = levels_of_noise {
        config["num_class_embeds"] = json!(rows);
        // A level whose first attention could be either sees the picture: the last one of the x4 upscaler.
        let sees_text_twice = |block: &Block| {
            let seen = format!("{}.attentions.0.transformer_blocks.0.attn1.to_k.weight", block.at);
            side(tensors, &seen, 1).is_none_or(|seen| seen != block.channels)
        };
        config["only_cross_attention"] = down.iter().map(sees_text_twice).collect();
    }
    if let Some(added) = side(tensors, "add_embedding.linear_1.weight", 1) {
        config["addition_embed_type"] = json!("text_time");
        config["addition_time_embed_dim"] = json!(256);
        config["projection_class_embeddings_input_dim"] = json!(added);
    }
    config.as_object().cloned()
}

/// A level of a U-Net's path.
struct Block {
    at: String,
    channels: usize,
    /// For each residual block the transformer blocks behind it; 0 without attention.
    attentions: Vec<usize>,
}

impl Block {
    fn new(tensors: &Tensors, at: &str) -> Option<Self> {
        let layers = count(tensors, |j| format!("{at}.resnets.{j}.conv1.weight"));
        let depth = |j| count(tensors, |n| format!("{at}.attentions.{j}.transformer_blocks.{n}.attn2.to_k.weight"));
        Some(Self {
            at: at.to_owned(),
            channels: side(tensors, &format!("{at}.resnets.0.conv1.weight"), 0)?,
            attentions: (0..layers).map(depth).collect(),
        })
    }

    fn has_attention(&self) -> bool {
        self.attentions.iter().any(|&depth| depth > 0)
    }

    /// Transformer blocks; 1, which means nothing, without attention.
    fn depths(&self) -> Vec<usize> {
        if self.has_attention() { self.attentions.clone() } else { vec![1] }
    }
}

/// The configuration of the autoencoder of `tensors`; `None` where it is no whole autoencoder.
pub fn vae(tensors: &Tensors) -> Option<Map<String, Value>> {
    let conv = |i: usize, j: usize| format!("encoder.down_blocks.{i}.resnets.{j}.conv1.weight");
    let levels = count(tensors, |i| conv(i, 0));
    let channels = (0..levels).map(|i| side(tensors, &conv(i, 0), 0)).collect::<Option<Vec<_>>>()?;
    let config = json!({
        "latent_channels": side(tensors, "decoder.conv_in.weight", 1)?,
        "block_out_channels": channels,
        "layers_per_block": count(tensors, |j| conv(0, j)),
        "mid_block_add_attention": tensors.contains_key("encoder.mid_block.attentions.0.group_norm.weight"),
        "use_quant_conv": tensors.contains_key("quant_conv.weight"),
        "use_post_quant_conv": tensors.contains_key("post_quant_conv.weight"),
    });
    (levels > 0).then(|| config.as_object().cloned()).flatten()
}

/// The configuration of the text encoder of `tensors`, whose activation is `activation`; `None` where it is no whole
/// text encoder.
pub fn text_encoder(tensors: &Tensors, activation: &str) -> Option<Map<String, Value>> {
    let width = side(tensors, "text_model.embeddings.token_embedding.weight", 1)?;
    let layer = |i: usize| format!("text_model.encoder.layers.{i}.mlp.fc1.weight");
    let config = json!({
        "hidden_act": activation,
        "hidden_size": width,
        "intermediate_size": side(tensors, &layer(0), 0)?,
        "num_hidden_layers": count(tensors, layer),
        "num_attention_heads": (width / 64).max(1),
        "max_position_embeddings": side(tensors, "text_model.embeddings.position_embedding.weight", 0)?,
        "vocab_size": side(tensors, "text_model.embeddings.token_embedding.weight", 0)?,
        "projection_dim": side(tensors, "text_projection.weight", 0).unwrap_or(width),
    });
    config.as_object().cloned()
}
