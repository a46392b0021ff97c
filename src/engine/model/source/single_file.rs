//! A base model in one safetensors file with the names of the programs with which Stable Diffusion was published: what
//! most people have.
#![forbid(unsafe_code)]

use crate::engine::model::config::Config;
use crate::engine::model::source::original_names::{UNetNames, of_open_clip, of_vae};
use crate::engine::model::source::parts::{Network, Parts, TokenizerFiles, Vocabulary};
use crate::engine::model::source::stored::{Stored, Take};
use crate::engine::model::source::tensor_file::TensorFile;
use crate::engine::model::source::{folder, inferred, published, refused};
use crate::engine::model::weights::unreadable;
use crate::error::{Error, Result};
use crate::files;
use crate::text::{Text, text};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What stands before the names of the U-Net's tensors.
const UNET: &str = "model.diffusion_model.";
/// The same of the autoencoder's; the last one in a file of its own.
const VAE: [&str; 3] = ["first_stage_model.", "vae.", ""];
/// The same of CLIP's text encoder, which has transformers' names.
const CLIP: [&str; 2] = ["cond_stage_model.transformer.", "conditioner.embedders.0.transformer."];
/// The same of Stable Diffusion 2's text encoder, which has OpenCLIP's names.
const OPEN_CLIP: [&str; 2] = ["cond_stage_model.model.", "conditioner.embedders.0.model."];
/// The same of Stable Diffusion XL's second text encoder.
const XL_OPEN_CLIP: &str = "conditioner.embedders.1.model.";

/// Latents times this have about unit variance: Stable Diffusion 1 and 2, XL, the x4 upscaler (their published
/// configurations).
const SCALING: f64 = 0.18215;
const XL_SCALING: f64 = 0.13025;
const UPSCALER_SCALING: f64 = 0.08333;

/// An open file and its tensors, by their names without what some programs write before all of them.
struct Original {
    file: Arc<TensorFile>,
    shapes: BTreeMap<String, Vec<usize>>,
    /// What was left out before every name.
    outer: &'static str,
}

/// Opens the base model in `path`, with `vae` in place of its own if it is given. The autoencoder may also be in
/// another file beside it: `NAME.vae.safetensors` belongs to `NAME.safetensors`, as in the programs in which that
/// began (AUTOMATIC1111's and Forge).
pub fn open(path: &Path, vae: Option<Network>) -> Result<Parts> {
    let original = Original::open(path)?;
    if let Some(what) = refused::by_tensors(&original.shapes) {
        return Err(Error::model(path, what));
    }
    refused::check_quantized(&original.file, original.shapes.keys().map(String::as_str))?;
    let unet = original.unet()?;
    let is_xl = !unet.config.value("addition_embed_type").is_null();
    let is_upscaler = !unet.config.value("num_class_embeds").is_null();
    let beside = path.with_extension("vae.safetensors");
    let scaling_factor = match (is_xl, is_upscaler) {
        (true, _) => XL_SCALING,
        (_, true) => UPSCALER_SCALING,
        _ => SCALING,
    };
    let own = |original: &Original| original.vae(Some(scaling_factor));
    let vae = match vae {
        Some(vae) => vae,
        None if beside.is_file() => own(&Original::open(&beside)?)?.ok_or_else(|| Original::is_no_vae(&beside))?,
        None => own(&original)?.ok_or_else(|| original.without_vae(is_xl))?,
    };
    let text_encoders = if is_xl { original.xl_text_encoders()? } else { vec![original.text_encoder()?] };
    let scheduler = if is_upscaler { published::upscaler_scheduler(path) } else { original.scheduler() };
    Ok(Parts {
        tokenizers: text_encoders.iter().map(|_| original.tokenizer()).collect(),
        networks: [vec![unet, vae], text_encoders].into_iter().flatten().collect(),
        low_res_scheduler: scheduler.clone(),
        scheduler,
        // Nothing in a file tells it: as in the folder of Stability AI's own base model.
        pipeline: Config::new(path, json!({ "force_zeros_for_empty_prompt": is_xl })),
    })
}

/// The autoencoder in the file `path`: of its own, under the names of diffusers or the original ones, or in a
/// checkpoint. What its latents are scaled with is up to the family.
pub fn vae(path: &Path) -> Result<Network> {
    Original::open(path)?.vae(None)?.ok_or_else(|| Original::is_no_vae(path))
}

impl Original {
    fn open(path: &Path) -> Result<Self> {
        if let Some(reason) = refused::other_format(path) {
            return Err(Error::model(path, reason));
        }
        let file = Arc::new(TensorFile::open(path).map_err(|error| unreadable(path, error))?);
        let all: Vec<(String, Vec<usize>)> = file.shapes().collect();
        let is_outer = |outer: &str| !all.is_empty() && all.iter().all(|(name, _)| name.starts_with(outer));
        let outer = if is_outer("state_dict.") { "state_dict." } else { "" };
        let shapes = all.into_iter().map(|(name, shape)| (name[outer.len()..].to_owned(), shape)).collect();
        Ok(Self { file, shapes, outer })
    }

    /// Names without `prefix`, of the tensors that have it.
    fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a [usize])> {
        let names = self.shapes.range(prefix.to_owned()..).take_while(move |(name, _)| name.starts_with(prefix));
        names.map(move |(name, shape)| (&name[prefix.len()..], shape.as_slice()))
    }

    /// The first of `prefixes` under which there is a tensor `name`.
    fn prefix<'a>(&self, prefixes: &[&'a str], name: &str) -> Option<&'a str> {
        prefixes.iter().copied().find(|prefix| self.shapes.contains_key(&format!("{prefix}{name}")))
    }

    /// The tensor `name` of the file, as a network has it that takes it so.
    fn stored(&self, name: &str, take: Take) -> Option<Stored> {
        Stored::new(&self.file, &format!("{}{name}", self.outer), &self.shapes[name], take)
    }

    fn config(&self, content: Map<String, Value>) -> Config {
        Config::new(self.file.path(), Value::Object(content))
    }

    fn network(&self, tensors: BTreeMap<String, Stored>, config: Option<Map<String, Value>>) -> Result<Network> {
        let config = config.ok_or_else(|| self.error(text!("some of its tensors are missing; get it again")))?;
        let path = self.file.path().to_owned();
        Ok(Network { config: self.config(config), path, files: vec![self.file.clone()], tensors })
    }

    fn error(&self, reason: Text) -> Error {
        Error::model(self.file.path(), reason)
    }

    /// The U-Net; its average over training where the file has both.
    fn unet(&self) -> Result<Network> {
        // A file with fewer has none of the network's.
        const EMA: usize = 100;
        let has_ema = self.under("model_ema.").count() >= EMA;
        let names = UNetNames::new(|name| self.shapes.contains_key(&format!("{UNET}{name}")));
        let tensor = |(name, _): (&str, &[usize])| {
            // Torch's buffers may not have dots in their names.
            let average = format!("model_ema.diffusion_model{}", name.replace('.', ""));
            let has_average = has_ema && self.shapes.contains_key(&average);
            let own = if has_average { average } else { format!("{UNET}{name}") };
            Some((names.diffusers(name)?, self.stored(&own, Take::Whole)?))
        };
        let tensors = self.under(UNET).filter_map(tensor).collect();
        let config = inferred::unet(&tensors).map(|mut config| {
            config.extend(self.sample_size().map(|side| ("sample_size".to_owned(), json!(side))));
            config
        });
        self.network(tensors, config)
    }

    /// The autoencoder, if the file has one.
    fn vae(&self, scaling_factor: Option<f64>) -> Result<Option<Network>> {
        let has_diffusers_names = self.shapes.contains_key("encoder.down_blocks.0.resnets.0.conv1.weight");
        let Some(prefix) = self.prefix(&VAE, "decoder.conv_in.weight") else { return Ok(None) };
        let levels = (0..)
            .take_while(|level| self.shapes.contains_key(&format!("{prefix}encoder.down.{level}.block.0.conv1.weight")))
            .count();
        let tensor = |(name, _): (&str, &[usize])| {
            let known = if has_diffusers_names { Some((name.to_owned(), Take::Whole)) } else { of_vae(name, levels) };
            let (diffusers, take) = known?;
            Some((diffusers, self.stored(&format!("{prefix}{name}"), take)?))
        };
        let tensors = self.under(prefix).filter_map(tensor).collect();
        let config = inferred::vae(&tensors).map(|mut config| {
            config.extend(scaling_factor.map(|scaling_factor| ("scaling_factor".to_owned(), json!(scaling_factor))));
            config
        });
        self.network(tensors, config).map(Some)
    }

    fn is_no_vae(path: &Path) -> Error {
        Error::model(path, text!("is no VAE; choose the file or the folder of one, or of a model"))
    }

    /// The refusal of a file without an autoencoder. Models in the same folder, of the same family, may have one that
    /// fits.
    fn without_vae(&self, is_xl: bool) -> Error {
        let path = self.file.path();
        let name = path.with_extension("vae.safetensors");
        let name = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let folder = path.parent().unwrap_or(Path::new("."));
        let others = refused::names_in(folder).into_iter().map(|name| folder.join(name)).filter(|other| other != path);
        let has_one = |other: &PathBuf| match other.is_dir() {
            true => folder::vae(other).is_ok() && folder::is_xl(other) == Some(is_xl),
            false if other.extension().is_none_or(|extension| extension != "safetensors") => false,
            // What an autoencoder alone belongs to, only its name might tell.
            false => Self::open(other)
                .and_then(|other| {
                    let unet = other.unet()?;
                    Ok(other.vae(None)?.is_some() && unet.config.value("addition_embed_type").is_null() != is_xl)
                })
                .is_ok_and(|has_one| has_one),
        };
        match others.into_iter().find(has_one) {
            Some(found) => {
                let found = found.display().to_string();
                self.error(text!(
                    "has no VAE; choose that of a model of the same family with the setting VAE, for example {found}",
                    found
                ))
            }
            None => self.error(text!(
                "has no VAE; choose one of the same family with the setting VAE, or put its file beside this one and \
                 call it {name}",
                name
            )),
        }
    }

    /// Side of the latents that it was trained on, if a note says the pictures' size.
    fn sample_size(&self) -> Option<usize> {
        /// Pixels of a latent's side in all families.
        const PIXELS: f64 = 8.0;
        let (width, height) = self.file.note("modelspec.resolution")?.split_once('x')?;
        let number = |text: &str| text.trim().parse::<u32>().ok().filter(|side| (64..=4096).contains(side));
        let side = (f64::from(number(width)?) * f64::from(number(height)?)).sqrt();
        Some((side / PIXELS).round() as usize)
    }

    fn text_encoder(&self) -> Result<Network> {
        if let Some(clip) = self.clip() {
            return clip;
        }
        let prefix = self.prefix(&OPEN_CLIP, "token_embedding.weight").ok_or_else(|| self.without_text_encoder())?;
        let tensors = without_last_layer(self.open_clip(prefix));
        let config = inferred::text_encoder(&tensors, "gelu");
        self.network(tensors, config)
    }

    fn xl_text_encoders(&self) -> Result<Vec<Network>> {
        let tensors = self.open_clip(XL_OPEN_CLIP);
        match self.clip() {
            Some(clip) if !tensors.is_empty() => {
                let config = inferred::text_encoder(&tensors, "gelu");
                Ok(vec![clip?, self.network(tensors, config)?])
            }
            _ => Err(self.without_text_encoder()),
        }
    }

    fn without_text_encoder(&self) -> Error {
        self.error(text!("has no text encoder; choose a checkpoint with all parts"))
    }

    /// CLIP's text encoder, if the file has it.
    fn clip(&self) -> Option<Result<Network>> {
        // Some merged files lack the inner name.
        let inner = |prefix| [format!("{prefix}text_model."), String::from(prefix)];
        let is_there =
            |prefix: &String| self.shapes.contains_key(&format!("{prefix}embeddings.token_embedding.weight"));
        let prefix = CLIP.into_iter().flat_map(inner).find(is_there)?;
        let tensor = |(name, _): (&str, &[usize])| {
            Some((format!("text_model.{name}"), self.stored(&format!("{prefix}{name}"), Take::Whole)?))
        };
        let tensors = self.under(&prefix).filter_map(tensor).collect();
        let config = inferred::text_encoder(&tensors, "quick_gelu");
        Some(self.network(tensors, config))
    }

    /// CLIP's tokenizer; the family knows what pads a text.
    fn tokenizer(&self) -> TokenizerFiles {
        let path = self.file.path();
        let (path, config) = (path.to_owned(), Config::new(path, Value::Null));
        TokenizerFiles { path, config, vocabulary: Vocabulary::Clip, added: Vec::new() }
    }

    /// A text encoder under OpenCLIP's names.
    fn open_clip(&self, prefix: &str) -> BTreeMap<String, Stored> {
        let tensor = |(name, _): (&str, &[usize])| {
            let own = format!("{prefix}{name}");
            of_open_clip(name).into_iter().filter_map(move |(name, take)| Some((name, self.stored(&own, take)?)))
        };
        self.under(prefix).flat_map(tensor).collect()
    }

    /// The noise schedule that all Stable Diffusion models have, and what of it the file tells.
    fn scheduler(&self) -> Config {
        let mut scheduler = published::scheduler(self.file.path()).into_content();
        let declared = match self.file.note("modelspec.prediction_type") {
            _ if self.shapes.contains_key("v_pred") => Some("v_prediction"),
            Some("v" | "v_prediction") => Some("v_prediction"),
            Some("epsilon") => Some("epsilon"),
            _ => self.parameterization(),
        };
        if let Some(prediction) = declared {
            scheduler["prediction_type"] = json!(prediction);
        }
        if self.shapes.contains_key("ztsnr") {
            // With these goes a last step of pure noise, at which sampling has to begin.
            scheduler["rescale_betas_zero_snr"] = json!(true);
            scheduler["timestep_spacing"] = json!("trailing");
        }
        Config::new(self.file.path(), scheduler)
    }

    /// What the configuration in `NAME.yaml` says that the network predicts, as the original programs have it beside
    /// checkpoints that do not tell. No more of it is read: all else can be seen in the file.
    fn parameterization(&self) -> Option<&'static str> {
        const MOST: u64 = 1 << 16;
        let mut text = String::new();
        let beside = files::open(&self.file.path().with_extension("yaml")).ok()?;
        beside.take(MOST).read_to_string(&mut text).ok()?;
        let value = text.lines().find_map(|line| line.trim().strip_prefix("parameterization:"))?;
        match value.trim().trim_matches(['"', '\'']) {
            "v" => Some("v_prediction"),
            "eps" => Some("epsilon"),
            _ => None,
        }
    }
}

/// Stable Diffusion 2 takes what the last but one layer gives: diffusers leaves the last of 24 out, which is of no use.
fn without_last_layer(mut tensors: BTreeMap<String, Stored>) -> BTreeMap<String, Stored> {
    // Files that were made of diffusers' folders lack it already.
    const PUBLISHED: usize = 23;
    let layer = |i: usize| format!("text_model.encoder.layers.{i}.");
    let layers = (0..).take_while(|&i| tensors.contains_key(&format!("{}layer_norm1.weight", layer(i)))).count();
    if layers > 0 && layers != PUBLISHED {
        tensors.retain(|name, _| !name.starts_with(&layer(layers - 1)));
    }
    tensors.remove("text_projection.weight");
    tensors
}
