//! Which base models can be chosen: finds their folders and reads their presets; opens no weights.
#![forbid(unsafe_code)]

use crate::engine::model::source::Source;
use crate::error::{Doing, Error, Result};
use crate::params::{BUILTIN_MODEL, DEFAULT_PRESET, PARAMS, Params, Preset};
use crate::text::{Text, text};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Optional JSON file in a model's folder. `description`: one sentence on what it can draw; `examples`: prompts that
/// work; `preset`: settings by parameter id that fit it in every preset; `presets`: those of single presets, by the
/// preset's name; `familiar_psnr`: see [`Model::familiar_psnr`].
pub const PRESET_FILE: &str = "imagic.json";

/// One base model that can be chosen.
#[derive(Clone, Debug)]
pub struct Model {
    /// What the parameter `model` says: the folder's name, or its path where it was given as a path.
    pub name: String,
    /// The diffusers folder.
    pub folder: PathBuf,
    /// One sentence on what it can draw; empty if unknown.
    pub description: String,
    /// Prompts that are known to work.
    pub examples: Vec<String>,
    /// Settings that fit this model in every preset, by parameter id.
    pub preset: Map<String, Value>,
    /// Settings of each preset on top of that, by its name.
    pub presets: Map<String, Value>,
    /// Peak signal-to-noise ratio in dB at which this model's autoencoder reproduces pictures that the model can draw;
    /// other pictures get a hint. `None` if unknown.
    pub familiar_psnr: Option<f64>,
}

impl Model {
    fn open(name: &str, folder: &Path) -> Result<Self> {
        let path = folder.join(PRESET_FILE);
        let wrong = |reason| Error::model(folder, reason);
        let about: Value = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                wrong(text!("{file} is not valid JSON: {error}", file = PRESET_FILE, error = error.to_string()))
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Value::Null,
            Err(error) => return Err(Error::file(Doing::Read, &path)(error)),
        };
        let familiar_psnr = match &about["familiar_psnr"] {
            Value::Null => None,
            value => Some(value.as_f64().ok_or_else(|| {
                wrong(of_file(text!("familiar_psnr is {value}, must be a number of dB, for example 24", value)))
            })?),
        };
        let examples = about["examples"].as_array().into_iter().flatten();
        let settings = |key: &str| about[key].as_object().cloned().unwrap_or_default();
        Ok(Self {
            name: name.to_owned(),
            folder: folder.to_owned(),
            description: about["description"].as_str().unwrap_or_default().to_owned(),
            examples: examples.filter_map(Value::as_str).map(str::to_owned).collect(),
            preset: settings("preset"),
            presets: settings("presets"),
            familiar_psnr,
        })
    }

    /// Whether its folder seems to hold a base model. While a path is typed, its beginnings are folders, too.
    pub fn exists(&self) -> bool {
        Source::is_model(&self.folder)
    }

    /// The settings of `preset` for this model.
    pub fn params(&self, preset: Preset) -> Result<Params> {
        let mut params = Params::of_preset(preset);
        let of_preset = self.presets.get(preset.name()).and_then(Value::as_object);
        for own in std::iter::once(&self.preset).chain(of_preset) {
            params.set_all(own).map_err(|error| Error::model(&self.folder, of_file(error.text())))?;
        }
        params.preset = preset;
        params.model.clone_from(&self.name);
        Ok(params)
    }

    /// Makes the preset of `params` the custom one unless the advanced settings are the preset's.
    pub fn name_preset(&self, params: &mut Params) -> Result<()> {
        let preset = self.params(params.preset)?;
        let mut of_preset = PARAMS.iter().filter(|param| param.is_of_preset());
        if !of_preset.all(|param| params.get(param.id) == preset.get(param.id)) {
            params.preset = Preset::Custom;
        }
        Ok(())
    }
}

/// The parameters that `given` means, by parameter id, and the model that they name; without a name the built-in one.
/// What is left out comes from the model's preset that is given, or from the default one. All hosts make parameters of
/// what they were given in this way.
pub fn params_of(given: &Map<String, Value>, folders: &[PathBuf]) -> Result<(Params, Model)> {
    let mut params = Params::of_preset(DEFAULT_PRESET);
    params.set_all(given)?;
    let name = Some(params.model.trim()).filter(|name| !name.is_empty()).unwrap_or(BUILTIN_MODEL);
    let model = find(name, folders)?;
    params = model.params(params.preset)?;
    params.set_all(given)?;
    params.model.clone_from(&model.name);
    params.check()?;
    model.name_preset(&mut params)?;
    Ok((params, model))
}

/// What is wrong with a model's file of settings.
fn of_file(reason: Text) -> Text {
    text!("{file}: {reason}", file = PRESET_FILE, reason)
}

/// All models in `folders`, sorted by name; where two have the same name, the first.
pub fn list(folders: &[PathBuf]) -> Vec<Model> {
    let mut models: Vec<Model> = Vec::new();
    for entry in folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if Source::is_model(&entry.path()) && models.iter().all(|model| model.name != name) {
            // A broken imagic.json must not hide the other models; choosing this one reports it.
            models.extend(Model::open(&name, &entry.path()));
        }
    }
    models.sort_by(|a, b| a.name.cmp(&b.name));
    models
}

/// The model that the parameter `model` means: a name in `folders`, or a path.
pub fn find(name: &str, folders: &[PathBuf]) -> Result<Model> {
    let path = Path::new(name);
    let is_path = path.is_absolute() || path.components().count() > 1 || Source::is_model(path);
    let reason = if path.extension().is_some_and(|extension| extension == "ckpt" || extension == "pt") {
        text!(
            "pickled checkpoints can run code when opened and are refused; convert it to a diffusers folder with \
             safetensors files"
        )
    } else if is_path && path.is_dir() {
        return Model::open(name, path);
    } else if is_path {
        text!("no such folder; choose a diffusers folder (unet, vae, text_encoder, tokenizer, scheduler)")
    } else if let Some(folder) = folders.iter().map(|folder| folder.join(name)).find(|folder| folder.is_dir()) {
        return Model::open(name, &folder);
    } else {
        let folders = folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(" or ");
        text!("no such model in {folders}; run the installer or choose a folder", folders)
    };
    Err(Error::model(path, reason))
}
