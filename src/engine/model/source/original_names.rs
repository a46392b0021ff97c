//! From the names that tensors have in single files, those of the programs with which Stable Diffusion was published
//! (CompVis/stable-diffusion, "ldm", and Stability-AI/generative-models, "sgm"), to diffusers' names.
//!
//! The original U-Net is two lists of blocks, `input_blocks.1` to `input_blocks.11` and `output_blocks.0` to
//! `output_blocks.11` in Stable Diffusion 1; diffusers' is a tree by level and place. Which block belongs where is
//! counted from the blocks themselves, so that networks with fewer levels or layers are read as well.
#![forbid(unsafe_code)]

use crate::engine::model::source::stored::Take;
use std::collections::HashMap;

/// Where the blocks of an original U-Net stand in diffusers' tree.
pub struct UNetNames {
    /// For each `input_blocks.I` but the first: level, place in it, and whether it is the level's downsampler.
    inputs: HashMap<usize, (usize, usize, bool)>,
    /// For each `output_blocks.I`: level, place in it.
    outputs: HashMap<usize, (usize, usize)>,
}

impl UNetNames {
    /// For a U-Net that has the tensors that `has` tells of, by their names without the prefix of the U-Net.
    pub fn new(has: impl Fn(&str) -> bool) -> Self {
        let (mut inputs, mut outputs) = (HashMap::new(), HashMap::new());
        let (mut level, mut place) = (0, 0);
        for block in 1.. {
            if has(&format!("input_blocks.{block}.0.op.weight")) {
                inputs.insert(block, (level, 0, true));
                (level, place) = (level + 1, 0);
            } else if has(&format!("input_blocks.{block}.0.in_layers.0.weight")) {
                inputs.insert(block, (level, place, false));
                place += 1;
            } else {
                break;
            }
        }
        (level, place) = (0, 0);
        for block in 0.. {
            if !has(&format!("output_blocks.{block}.0.in_layers.0.weight")) {
                break;
            }
            outputs.insert(block, (level, place));
            let ends_level = |part| has(&format!("output_blocks.{block}.{part}.conv.weight"));
            (level, place) = if ends_level(1) || ends_level(2) { (level + 1, 0) } else { (level, place + 1) };
        }
        Self { inputs, outputs }
    }

    /// diffusers' name of the tensor `name`; `None` where it is none of the network's.
    pub fn diffusers(&self, name: &str) -> Option<String> {
        let parts: Vec<&str> = name.split('.').collect();
        Some(match parts.as_slice() {
            ["time_embed", layer, end] => format!("time_embedding.{}.{end}", linear(layer)?),
            ["label_emb", "0", layer, end] => format!("add_embedding.{}.{end}", linear(layer)?),
            ["label_emb", end] => format!("class_embedding.{end}"),
            ["input_blocks", "0", "0", end] => format!("conv_in.{end}"),
            ["out", "0", end] => format!("conv_norm_out.{end}"),
            ["out", "2", end] => format!("conv_out.{end}"),
            ["middle_block", "0", rest @ ..] => format!("mid_block.resnets.0.{}", resnet(rest)?),
            ["middle_block", "1", rest @ ..] => format!("mid_block.attentions.0.{}", rest.join(".")),
            ["middle_block", "2", rest @ ..] => format!("mid_block.resnets.1.{}", resnet(rest)?),
            ["input_blocks", block, part, rest @ ..] => {
                let &(level, place, is_downsampler) = self.inputs.get(&block.parse().ok()?)?;
                match (*part, rest) {
                    ("0", ["op", end]) if is_downsampler => format!("down_blocks.{level}.downsamplers.0.conv.{end}"),
                    ("0", rest) => format!("down_blocks.{level}.resnets.{place}.{}", resnet(rest)?),
                    ("1", rest) => format!("down_blocks.{level}.attentions.{place}.{}", rest.join(".")),
                    _ => return None,
                }
            }
            ["output_blocks", block, part, rest @ ..] => {
                let &(level, place) = self.outputs.get(&block.parse().ok()?)?;
                match (*part, rest) {
                    ("0", rest) => format!("up_blocks.{level}.resnets.{place}.{}", resnet(rest)?),
                    // Behind the attention, or in its place where the level has none.
                    ("1" | "2", ["conv", end]) => format!("up_blocks.{level}.upsamplers.0.conv.{end}"),
                    ("1", rest) => format!("up_blocks.{level}.attentions.{place}.{}", rest.join(".")),
                    _ => return None,
                }
            }
            _ => return None,
        })
    }
}

fn linear(layer: &str) -> Option<&'static str> {
    match layer {
        "0" => Some("linear_1"),
        "2" => Some("linear_2"),
        _ => None,
    }
}

/// The rest of the name of a tensor in a residual block of the U-Net.
fn resnet(rest: &[&str]) -> Option<String> {
    let (layer, end) = match rest {
        ["skip_connection", end] => ("conv_shortcut", end),
        ["in_layers", "0", end] => ("norm1", end),
        ["in_layers", "2", end] => ("conv1", end),
        ["emb_layers", "1", end] => ("time_emb_proj", end),
        ["out_layers", "0", end] => ("norm2", end),
        ["out_layers", "3", end] => ("conv2", end),
        _ => return None,
    };
    Some(format!("{layer}.{end}"))
}

/// diffusers' name of the tensor `name` of an autoencoder with `levels` levels, and how it is taken; `None` where it
/// is none of the network's.
pub fn of_vae(name: &str, levels: usize) -> Option<(String, Take)> {
    let parts: Vec<&str> = name.split('.').collect();
    let whole = |name: String| Some((name, Take::Whole));
    // diffusers counts the levels of the decoder from the latents on.
    let level = |side: &str, level: &str| {
        let level: usize = level.parse().ok()?;
        if side == "encoder" { Some(level) } else { levels.checked_sub(level.checked_add(1)?) }
    };
    match parts.as_slice() {
        ["quant_conv" | "post_quant_conv", _] => whole(name.to_owned()),
        ["encoder" | "decoder", "conv_in" | "conv_out", _] => whole(name.to_owned()),
        [side @ ("encoder" | "decoder"), "norm_out", end] => whole(format!("{side}.conv_norm_out.{end}")),
        [side @ ("encoder" | "decoder"), "mid", "attn_1", layer, end] => {
            let at = format!("{side}.mid_block.attentions.0");
            match *layer {
                "norm" => whole(format!("{at}.group_norm.{end}")),
                // Of 1 x 1 pixel; a bias has no such sides.
                "q" | "k" | "v" | "proj_out" => {
                    let layer = if *layer == "proj_out" { "to_out.0".into() } else { format!("to_{layer}") };
                    let take = if *end == "weight" { Take::Linear } else { Take::Whole };
                    Some((format!("{at}.{layer}.{end}"), take))
                }
                _ => None,
            }
        }
        [side @ ("encoder" | "decoder"), "mid", block @ ("block_1" | "block_2"), rest @ ..] => {
            let place = if *block == "block_1" { 0 } else { 1 };
            whole(format!("{side}.mid_block.resnets.{place}.{}", vae_resnet(rest)))
        }
        [side @ ("encoder" | "decoder"), way @ ("down" | "up"), at, "block", place, rest @ ..] => {
            let level = level(side, at)?;
            whole(format!("{side}.{way}_blocks.{level}.resnets.{place}.{}", vae_resnet(rest)))
        }
        [side @ ("encoder" | "decoder"), way @ ("down" | "up"), at, sampler, "conv", end] => {
            let level = level(side, at)?;
            let sampler = match *sampler {
                "downsample" => "downsamplers",
                "upsample" => "upsamplers",
                _ => return None,
            };
            whole(format!("{side}.{way}_blocks.{level}.{sampler}.0.conv.{end}"))
        }
        _ => None,
    }
}

/// The rest of the name of a tensor in a residual block of the autoencoder.
fn vae_resnet(rest: &[&str]) -> String {
    rest.join(".").replace("nin_shortcut", "conv_shortcut")
}

/// The names in transformers of what becomes of the tensor `name` of an OpenCLIP text encoder, and how they are taken;
/// none where it is none of the network's.
pub fn of_open_clip(name: &str) -> Vec<(String, Take)> {
    let whole = |name: String| vec![(name, Take::Whole)];
    let parts: Vec<&str> = name.split('.').collect();
    match parts.as_slice() {
        ["positional_embedding"] => whole("text_model.embeddings.position_embedding.weight".into()),
        ["token_embedding", "weight"] => whole("text_model.embeddings.token_embedding.weight".into()),
        ["ln_final", end] => whole(format!("text_model.final_layer_norm.{end}")),
        // x P there, a linear layer here.
        ["text_projection"] => vec![("text_projection.weight".into(), Take::Transposed)],
        ["text_projection", "weight"] => whole(name.to_owned()),
        ["transformer", "resblocks", layer, rest @ ..] => {
            let at = format!("text_model.encoder.layers.{layer}");
            match rest {
                ["ln_1", end] => whole(format!("{at}.layer_norm1.{end}")),
                ["ln_2", end] => whole(format!("{at}.layer_norm2.{end}")),
                ["mlp", "c_fc", end] => whole(format!("{at}.mlp.fc1.{end}")),
                ["mlp", "c_proj", end] => whole(format!("{at}.mlp.fc2.{end}")),
                ["attn", "out_proj", end] => whole(format!("{at}.self_attn.out_proj.{end}")),
                ["attn", joined @ ("in_proj_weight" | "in_proj_bias")] => {
                    let end = joined.trim_start_matches("in_proj_");
                    let third = |(i, name)| (format!("{at}.self_attn.{name}_proj.{end}"), Take::Third(i));
                    ["q", "k", "v"].into_iter().enumerate().map(third).collect()
                }
                _ => Vec::new(),
            }
        }
        _ => Vec::new(),
    }
}
