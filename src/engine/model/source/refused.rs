//! What people take for a base model and what is none that this engine can use: each is named, with what to do instead.
#![forbid(unsafe_code)]

use crate::engine::model::config::Config;
use crate::engine::model::source::tensor_file::TensorFile;
use crate::error::{Error, Result};
use crate::files;
use crate::text::{Text, text};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Names of the entries of `folder`; none where it cannot be read.
pub fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Refuses a folder that holds another kind of model, or none.
pub fn check_folder(folder: &Path) -> Result<()> {
    let index = Config::read_if_there(&folder.join("model_index.json"))?;
    let class = index.as_ref().map_or("", |index| index.text("_class_name", ""));
    let names = names_in(folder);
    let has = |name: &str| names.contains(name);
    if let Some(what) = of_class(class) {
        return Err(Error::model(folder, instead(what)));
    }
    if has("transformer") && !has("unet") {
        return Err(Error::model(folder, instead(text!("a model with a transformer in place of a U-Net"))));
    }
    if has("prior") || has("unet_1") || has("image_encoder") && class.contains("UnCLIP") {
        return Err(Error::model(folder, instead(text!("a model that works from pictures or in two stages"))));
    }
    if has("unet") {
        return Ok(());
    }
    let reason = if has("adapter_config.json") {
        instead(text!("a LoRA"))
    } else if has("config.json") && names.iter().any(|name| name.starts_with("diffusion_pytorch_model")) {
        text!("is only a part of a model; choose the folder around it, which has model_index.json")
    } else if names.iter().any(|name| name.ends_with(".safetensors")) {
        text!("has no folder unet and more than one safetensors file; choose one of its files")
    } else {
        text!(
            "is not a model; choose a .safetensors file, or a diffusers folder (unet, vae, text_encoder, tokenizer, \
             scheduler)"
        )
    };
    Err(Error::model(folder, reason))
}

/// What a pipeline of the class `name` is, where the engine has none for it.
fn of_class(name: &str) -> Option<Text> {
    // The first that fits counts.
    let kinds = [
        ("StableDiffusion3", Text::verbatim("Stable Diffusion 3")),
        ("Flux", Text::verbatim("FLUX")),
        ("InstructPix2Pix", Text::verbatim("InstructPix2Pix")),
        ("Img2ImgPipeline", text!("an SDXL refiner")),
        ("Depth2Img", text!("a model that also takes a depth map")),
        ("UnCLIP", text!("a model that works from pictures or in two stages")),
        ("ImageVariation", text!("a model that works from pictures or in two stages")),
        ("VideoDiffusion", text!("a model for videos")),
        ("ControlNet", text!("a ControlNet")),
        ("OnnxStableDiffusion", text!("an ONNX model")),
        ("Kandinsky", Text::verbatim("Kandinsky")),
        ("Wuerstchen", text!("Wuerstchen or Stable Cascade")),
        ("StableCascade", text!("Wuerstchen or Stable Cascade")),
        ("PixArt", Text::verbatim("PixArt")),
        ("IFPipeline", Text::verbatim("DeepFloyd IF")),
    ];
    kinds.into_iter().find(|(part, _)| name.contains(part)).map(|(_, what)| what)
}

/// "This is ...; use something else."
pub fn instead(what: Text) -> Text {
    text!("this is {what}, which cannot be used for edits; choose a Stable Diffusion checkpoint", what)
}

/// Refuses a part's folder that is not there.
pub fn check_part(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    Err(Error::model(folder, text!("is missing; the model folder is not complete")))
}

/// Why a part's folder, which has files of these names, has no weights.
pub fn without_weights(folder: &Path, names: &BTreeSet<String>) -> Error {
    let has = |end: &str| names.iter().any(|name| name.ends_with(end));
    let reason = if has(".bin") || has(".ckpt") || has(".pt") || has(".pth") {
        text!(
            "has only pickled weights (.bin), which can run code when opened and are refused; get the safetensors \
             version"
        )
    } else if has(".msgpack") {
        text!("has only weights for Flax (.msgpack); get the safetensors version")
    } else if has(".onnx") || has(".onnx_data") {
        text!("has only weights for ONNX; get the safetensors version")
    } else {
        text!("has no diffusion_pytorch_model.safetensors or model.safetensors; the model folder is not complete")
    };
    Error::model(folder, reason)
}

/// Refuses tensors `names` of `file` that are stored in bitsandbytes' 4 or 8 bits.
pub fn check_quantized<'a>(file: &TensorFile, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let is_packed = |name: &str| name.contains(".quant_state.") || name.ends_with(".absmax") || name.ends_with(".SCB");
    if names.into_iter().any(is_packed) {
        let reason =
            text!("its weights were packed by bitsandbytes, which cannot be trained; get a version with 16 or 32 bits");
        return Err(Error::model(file.path(), reason));
    }
    Ok(())
}

/// Why `file` cannot be a safetensors file, read off its name and first bytes; `None` where it may be one.
pub fn other_format(file: &Path) -> Option<Text> {
    let pickled = text!(
        "pickled checkpoints can run code when opened and are refused; get the safetensors version, or convert it to \
         safetensors"
    );
    let gguf = text!("GGUF files cannot be trained; get the safetensors version");
    let extension = file.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    match extension.as_str() {
        "ckpt" | "pt" | "pth" | "bin" | "pkl" | "pickle" => return Some(pickled),
        "gguf" => return Some(gguf),
        "onnx" => return Some(text!("ONNX files cannot be trained; get the safetensors version")),
        "msgpack" => return Some(text!("Flax files cannot be read; get the safetensors version")),
        "crdownload" | "part" | "partial" | "download" => {
            return Some(text!("this file is not complete: its download has not ended"));
        }
        _ => {}
    }
    let mut start = [0; 64];
    let read = files::open(file).and_then(|mut file| read_start(&mut file, &mut start)).ok()?;
    let start = &start[..read];
    let word = String::from_utf8_lossy(start).trim_start_matches('\u{feff}').trim_start().to_lowercase();
    Some(match start {
        [] => text!("this file is empty; get it again"),
        [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..] => pickled,
        [b'G', b'G', b'U', b'F', ..] => gguf,
        [0x89, b'P', b'N', b'G', ..]
        | [0xff, 0xd8, 0xff, ..]
        | [b'G', b'I', b'F', b'8', ..]
        | [b'R', b'I', b'F', b'F', ..] => {
            text!("this is a picture, not a model; choose a .safetensors file, or a diffusers folder")
        }
        _ if word.starts_with("version https://git-lfs") => {
            text!("this is only a pointer of Git LFS to the file; get the file itself, for example with git lfs pull")
        }
        _ if word.starts_with("<!doctype") || word.starts_with("<html") || word.starts_with("<?xml") => {
            text!("this is a web page that was saved under the name of a model; get the file again")
        }
        _ if word.starts_with('{') || start.iter().all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~')) => {
            text!("this is a text, not a model; get the file again")
        }
        _ => return None,
    })
}

/// Fills `bytes` as far as `file` goes; returns how far.
fn read_start(file: &mut File, bytes: &mut [u8]) -> std::io::Result<usize> {
    let mut read = 0;
    while read < bytes.len() {
        match file.read(&mut bytes[read..])? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

/// What a safetensors file is, read off the names of its tensors, where it is no base model of a family that the
/// engine knows; `None` where it may be one.
pub fn by_tensors(shapes: &BTreeMap<String, Vec<usize>>) -> Option<Text> {
    let names: Vec<&String> = shapes.keys().collect();
    let any = |test: &dyn Fn(&str) -> bool| names.iter().any(|name| test(name));
    let starts = |start: &str| any(&|name| name.starts_with(start));
    let has = |part: &str| any(&|name| name.contains(part));
    let ends = |end: &str| any(&|name| name.ends_with(end));
    let is_there = |name: &str| shapes.contains_key(name);
    let unet = |name: &str| is_there(&format!("model.diffusion_model.{name}"));
    let side = |name: &str, side: usize| {
        shapes.get(&format!("model.diffusion_model.{name}")).and_then(|shape| shape.get(side).copied())
    };
    let in_channels = side("input_blocks.0.0.weight", 1);
    let added = side("label_emb.0.0.weight", 1);
    let what = if names.is_empty() {
        return Some(text!("this file holds no tensors; get it again"));
    } else if ["lora_up.", "lora_down.", "lora_A.", "lora_B.", "hada_w1", "lokr_w1", "dora_scale", "oft_diag"]
        .iter()
        .any(|part| has(part))
        || starts("lora_unet_")
    {
        text!("a LoRA")
    } else if starts("control_model.") || has("input_hint_block") || has("controlnet_") {
        text!("a ControlNet")
    } else if starts("ip_adapter.") || starts("image_proj.") {
        text!("an IP-Adapter")
    } else if has("emb_params") || has("string_to_param") || names.len() <= 2 && (has("clip_l") || has("clip_g")) {
        text!("a textual inversion")
    } else if has("double_blocks.") || has("single_transformer_blocks.") {
        Text::verbatim("FLUX")
    } else if has("joint_blocks.") {
        Text::verbatim("Stable Diffusion 3")
    } else if has("time_stack.") || has("temporal_transformer") || has("motion_modules.") {
        text!("a model for videos")
    } else if has("clip_txt_mapper") || has("effnet_mapper") {
        text!("Wuerstchen or Stable Cascade")
    } else if is_there("edm_vpred.sigma_max") {
        text!("CosXL, whose noise schedule is another")
    } else if is_there("edm_mean") || is_there("edm_std") {
        text!("Playground, whose noise schedule is another")
    } else if unet("input_blocks.0.0.weight") && in_channels == Some(5) {
        text!("a model that also takes a depth map")
    } else if unet("input_blocks.0.0.weight") && in_channels == Some(7) && !unet("label_emb.weight") {
        text!("a model that enlarges pictures")
    } else if unet("input_blocks.0.0.weight") && in_channels == Some(8) {
        Text::verbatim("InstructPix2Pix")
    } else if added == Some(2560) {
        text!("an SDXL refiner")
    } else if added == Some(768) || unet("label_emb.0.0.weight") && added.is_some_and(|n| n == 1536 || n == 2048) {
        text!("a model that works from pictures or in two stages")
    } else if unet("input_blocks.0.0.weight") {
        return None;
    } else if starts("input_blocks.") && has("output_blocks.") {
        return Some(text!(
            "this is a U-Net alone, without text encoder and VAE; choose a checkpoint with all parts, or a diffusers \
             folder"
        ));
    } else if starts("down_blocks.") && has("up_blocks.") && has(".attn2.") {
        return Some(text!("this is the U-Net of a diffusers folder; choose the folder around it"));
    } else if (starts("encoder.") && starts("decoder.")) || starts("first_stage_model.") || starts("vae.") {
        text!("a VAE alone")
    } else if starts("text_model.") || starts("transformer.resblocks.") || starts("cond_stage_model.") {
        text!("a text encoder alone")
    } else if starts("model_ema.") {
        return Some(text!(
            "this file holds only averaged weights under names that cannot be told apart; get the file of the model"
        ));
    } else if is_there("conv_first.weight") || ends("upconv1.weight") || is_there("model.0.weight") {
        text!("a model that enlarges pictures")
    } else if has("transformer_blocks.") || has("blocks.0.") {
        text!("a model with a transformer in place of a U-Net")
    } else {
        return Some(text!(
            "this is no Stable Diffusion checkpoint: its tensors have other names, such as {name}",
            name = names[0]
        ));
    };
    Some(instead(what))
}
