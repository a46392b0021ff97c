//! A base model in diffusers' layout: a folder with a folder for each part. Finds the files, whatever variant they are
//! of and however many a network was cut into.
#![forbid(unsafe_code)]

use crate::engine::model::config::Config;
use crate::engine::model::source::parts::{Network, Part, Parts, TokenizerFiles, Vocabulary, patch};
use crate::engine::model::source::published;
use crate::engine::model::source::refused;
use crate::engine::model::source::stored::Stored;
use crate::engine::model::source::tensor_file::TensorFile;
use crate::engine::model::weights::unreadable;
use crate::error::{Error, Result};
use crate::text::text;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The stems of the names of weights files, of diffusers and of transformers.
const STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];

/// Whether there seems to be a base model in this layout at `path`; opens nothing.
pub fn is_model(path: &Path) -> bool {
    path.join(Part::UNet.folder()).is_dir()
}

/// Whether the model in the folder `path` is one of the Stable Diffusion XL family; `None` where nothing tells.
pub fn is_xl(path: &Path) -> Option<bool> {
    let config = Config::read(&path.join(Part::UNet.folder()).join("config.json")).ok()?;
    Some(config.value("addition_embed_type") == "text_time")
}

/// Name of the folder of a model that enlarges, in that of the base model with which it comes.
pub const COMPANION: &str = "enlarger";

/// Opens the base model in the folder `path`, with `vae` in place of its own if it is given. A companion takes what it
/// lacks from its base model.
pub fn open(path: &Path, mut vae: Option<Network>) -> Result<Parts> {
    refused::check_folder(path)?;
    let base = path.parent().filter(|_| path.file_name().is_some_and(|name| name == COMPANION));
    let inner = |name: &str| match base {
        Some(base) if !path.join(name).is_dir() => base.join(name),
        _ => path.join(name),
    };
    let is_there = |part: &Part| *part != Part::TextEncoder2 || inner(part.folder()).is_dir();
    let parts = Part::ALL.into_iter().filter(is_there);
    let network = |part: Part| match vae.take_if(|_| part == Part::Vae) {
        Some(vae) => Ok(vae),
        None if part == Part::Vae && works_on_pixels(path) => Ok(Network {
            config: Config::new(&path.join("vae"), Value::Null),
            path: path.join("vae"),
            files: Vec::new(),
            tensors: BTreeMap::new(),
        }),
        None => network(&inner(part.folder())),
    };
    let networks: Vec<_> = parts.map(network).collect::<Result<_>>()?;
    let tokenizers = if networks.len() == Part::ALL.len() { &["tokenizer", "tokenizer_2"][..] } else { &["tokenizer"] };
    let scheduler = inner("scheduler").join("scheduler_config.json");
    let low_res_scheduler = Config::read_if_there(&path.join("low_res_scheduler/scheduler_config.json"))?;
    let pipeline = path.join("model_index.json");
    let scheduler = Config::read_if_there(&scheduler)?.unwrap_or_else(|| published::scheduler(&scheduler));
    Ok(Parts {
        networks,
        tokenizers: tokenizers.iter().map(|name| tokenizer(&inner(name))).collect::<Result<_>>()?,
        low_res_scheduler: low_res_scheduler.unwrap_or_else(|| scheduler.clone()),
        scheduler,
        pipeline: Config::read_if_there(&pipeline)?.unwrap_or_else(|| Config::new(&pipeline, Value::Null)),
    })
}

/// Whether a model without an autoencoder of its own needs none: its network makes red, green and blue, as Imagen's do,
/// of one pixel or of a square of them.
fn works_on_pixels(path: &Path) -> bool {
    let unet = || Config::read(&path.join(Part::UNet.folder()).join("config.json")).ok();
    let makes = |unet: &Config| unet.value("out_channels").as_u64().and_then(|channels| patch(channels as usize));
    !path.join(Part::Vae.folder()).is_dir() && unet().as_ref().and_then(makes).is_some()
}

/// The autoencoder in `folder`, which is its own or that of a model.
pub fn vae(folder: &Path) -> Result<Network> {
    let inner = folder.join(Part::Vae.folder());
    let network = network(if inner.is_dir() { &inner } else { folder })?;
    if network.tensors.contains_key("decoder.conv_in.weight") {
        return Ok(network);
    }
    Err(Error::model(folder, text!("is no VAE; choose the file or the folder of one, or of a model")))
}

/// The network in `folder`: `config.json` and weights.
fn network(folder: &Path) -> Result<Network> {
    refused::check_part(folder)?;
    let config = Config::read(&folder.join("config.json"))?;
    let paths = weights_files(folder)?;
    let open = |path: &PathBuf| TensorFile::open(path).map(Arc::new).map_err(|error| unreadable(path, error));
    let files: Vec<_> = paths.iter().map(open).collect::<Result<_>>()?;
    let tensors: BTreeMap<_, _> = files.iter().flat_map(Stored::all).collect();
    refused::check_quantized(&files[0], tensors.keys().map(String::as_str))?;
    // One file is the one to look at; of several, any may be wrong.
    let path = if let [path] = paths.as_slice() { path.clone() } else { folder.to_owned() };
    Ok(Network { config, path, files, tensors })
}

/// The weights files in a part's folder: one, or those that an index names; says what was expected where if there are
/// none. Where there are variants the one without a name counts, then those of 16 bits; weights that are not the
/// average of training come last.
fn weights_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let names: BTreeSet<String> = refused::names_in(folder);
    let found = names.iter().filter_map(|name| Some((variant(name)?, name)));
    let rank = |variant: &str| match variant {
        "" => 0,
        "fp32" => 1,
        "fp16" => 2,
        "bf16" => 3,
        "non_ema" => 5,
        _ => 4,
    };
    let Some((_, name)) = found.min_by_key(|((variant, is_index), name)| (rank(variant), *is_index, name.len())) else {
        return Err(refused::without_weights(folder, &names));
    };
    let file = folder.join(name);
    if name.ends_with(".json") { shards(&file) } else { Ok(vec![file]) }
}

/// Of which variant a weights file of that name is, empty without one, and whether it is an index of several; `None`
/// for other files.
fn variant(name: &str) -> Option<(&str, bool)> {
    let rest = STEMS.iter().find_map(|stem| name.strip_prefix(stem))?;
    // model.safetensors, model.fp16.safetensors
    if let Some(variant) = rest.strip_suffix(".safetensors") {
        let is_shard = variant.rsplit_once("-of-").is_some_and(|(_, n)| n.bytes().all(|byte| byte.is_ascii_digit()));
        let is_variant = variant.is_empty() || variant.starts_with('.');
        return (is_variant && !is_shard).then(|| (variant.trim_start_matches('.'), false));
    }
    // model.safetensors.index.json, model.safetensors.index.fp16.json, model.fp16.safetensors.index.json
    let (before, after) = rest.strip_suffix(".json")?.split_once(".safetensors.index")?;
    Some((if before.is_empty() { after } else { before }.trim_start_matches('.'), true))
}

/// The files that the index `file` names.
fn shards(file: &Path) -> Result<Vec<PathBuf>> {
    let index = Config::read(file)?;
    let names: Option<BTreeSet<&str>> =
        index.value("weight_map").as_object().and_then(|map| map.values().map(Value::as_str).collect());
    let folder = file.parent().expect("it was found in a folder");
    let is_beside = |name: &&str| Path::new(name).components().count() == 1;
    let names = names.filter(|names| !names.is_empty() && names.iter().all(is_beside));
    let names = names.ok_or_else(|| index.error(text!("weight_map must name a file for each tensor")))?;
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// The tokenizer in `folder`; what the files leave out is CLIP's.
pub fn tokenizer(folder: &Path) -> Result<TokenizerFiles> {
    let [vocab, merges, json] = ["vocab.json", "merges.txt", "tokenizer.json"].map(|name| folder.join(name));
    let vocabulary = match (vocab.is_file(), merges.is_file(), json.is_file()) {
        (true, true, _) => Vocabulary::Files { vocab, merges },
        (_, _, true) => Vocabulary::Json(json),
        (false, false, false) => Vocabulary::Clip,
        (has_vocab, ..) => {
            let missing = if has_vocab { &merges } else { &vocab };
            return Err(Error::model(missing, text!("is missing; the model folder is not complete")));
        }
    };
    let path = folder.join("tokenizer_config.json");
    let mut content = Map::new();
    // The later ones count: in the folders of SD 2 only the second has the right padding.
    for file in [&path, &folder.join("special_tokens_map.json")] {
        if let Some(Value::Object(more)) = Config::read_if_there(file)?.map(Config::into_content) {
            content.extend(more);
        }
    }
    Ok(TokenizerFiles {
        path: folder.to_owned(),
        config: Config::new(&path, Value::Object(content)),
        vocabulary,
        added: added(&folder.join("added_tokens.json"))?,
    })
}

/// The tokens of `added_tokens.json`, by number.
fn added(file: &Path) -> Result<Vec<(String, u32)>> {
    let Some(config) = Config::read_if_there(file)? else { return Ok(Vec::new()) };
    let tokens = config.content().as_object().and_then(|tokens| {
        let number = |(token, number): (&String, &Value)| Some((token.clone(), u32::try_from(number.as_u64()?).ok()?));
        tokens.iter().map(number).collect::<Option<Vec<_>>>()
    });
    let mut tokens = tokens.ok_or_else(|| config.error(text!("must have a number for each token")))?;
    tokens.sort_by_key(|(_, number)| *number);
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_found_under_every_name_that_diffusers_and_transformers_write() {
        for (name, expected) in [
            ("diffusion_pytorch_model.safetensors", Some(("", false))),
            ("model.safetensors", Some(("", false))),
            ("model.fp16.safetensors", Some(("fp16", false))),
            ("diffusion_pytorch_model.non_ema.safetensors", Some(("non_ema", false))),
            ("diffusion_pytorch_model.safetensors.index.json", Some(("", true))),
            ("diffusion_pytorch_model.safetensors.index.fp16.json", Some(("fp16", true))),
            ("model.bf16.safetensors.index.json", Some(("bf16", true))),
            ("diffusion_pytorch_model-00001-of-00002.safetensors", None),
            ("diffusion_pytorch_model.fp16-00001-of-00002.safetensors", None),
            ("model_old.safetensors", None),
            ("model.bin", None),
            ("config.json", None),
        ] {
            assert_eq!(variant(name), expected, "{name}");
        }
    }
}
