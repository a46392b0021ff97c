//! Which base models can be chosen: finds their files and folders and reads their presets; reads no weights.
#![forbid(unsafe_code)]

use crate::engine::model::source::{Source, is_safetensors};
use crate::error::{Doing, Error, Result};
use crate::files;
use crate::params::{BUILTIN_MODEL, DEFAULT_PRESET, PARAMS, Params, Preset};
use crate::text::{Text, text};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Optional JSON file in a model's folder; beside a model that is a file it is called `NAME.imagic.json`.
/// `description`: one sentence on what it can draw; `examples`: prompts that work; `preset`: settings by parameter id
/// that fit it in every preset; `presets`: those of single presets, by the preset's name; `familiar_psnr`: see
/// [`Model::familiar_psnr`].
pub const PRESET_FILE: &str = "imagic.json";

/// One base model that can be chosen.
#[derive(Clone, Debug)]
pub struct Model {
    /// What the parameter `model` says: the name of the folder or file, or its path where it was given as a path.
    pub name: String,
    /// The checkpoint: a file, or a folder in diffusers' layout.
    pub path: PathBuf,
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
    fn open(name: &str, path: &Path) -> Result<Self> {
        let presets = if path.is_file() { path.with_extension(PRESET_FILE) } else { path.join(PRESET_FILE) };
        let wrong = |reason| Error::model(path, reason);
        let about: Value = match files::read(&presets) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                wrong(text!("{file} is not valid JSON: {error}", file = PRESET_FILE, error = error.to_string()))
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Value::Null,
            Err(error) => return Err(Error::file(Doing::Read, &presets)(error)),
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
            path: path.to_owned(),
            description: about["description"].as_str().unwrap_or_default().to_owned(),
            examples: examples.filter_map(Value::as_str).map(str::to_owned).collect(),
            preset: settings("preset"),
            presets: settings("presets"),
            familiar_psnr,
        })
    }

    /// Whether there seems to be a base model. While a path is typed, its beginnings are folders, too.
    pub fn exists(&self) -> bool {
        Source::is_model(&self.path)
    }

    /// The settings of `preset` for this model.
    pub fn params(&self, preset: Preset) -> Result<Params> {
        let mut params = Params::of_preset(preset);
        let of_preset = self.presets.get(preset.name()).and_then(Value::as_object);
        for own in std::iter::once(&self.preset).chain(of_preset) {
            params.set_all(own).map_err(|error| Error::model(&self.path, of_file(error.text())))?;
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
    if !params.vae.trim().is_empty() {
        params.vae = written(&params.vae).to_string_lossy().into_owned();
    }
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
        let path = entry.path();
        let name = name_of(&path);
        // Of files, many are something else: LoRAs, upscalers.
        let is_model = if path.is_file() { Source::open(&path).is_ok() } else { Source::is_model(&path) };
        if is_model && models.iter().all(|model| model.name != name) {
            // A broken imagic.json must not hide the other models; choosing this one reports it.
            models.extend(Model::open(&name, &path));
        }
    }
    models.sort_by(|a, b| a.name.cmp(&b.name));
    models
}

/// What the model at `path` is called: its folder, or its file without the ending.
fn name_of(path: &Path) -> String {
    let name = if is_safetensors(path) { path.file_stem() } else { path.file_name() };
    name.unwrap_or_default().to_string_lossy().into_owned()
}

/// The model that the parameter `model` means: a name in `folders`, or a path as people write it.
pub fn find(name: &str, folders: &[PathBuf]) -> Result<Model> {
    let path = written(name);
    if path.is_absolute() || path.components().count() > 1 || path.exists() {
        if !path.exists() {
            let missing = || text!("there is no such file or folder");
            return Err(Error::model(&path, Source::other_format(&path).unwrap_or_else(missing)));
        }
        return Model::open(&path.to_string_lossy(), &path);
    }
    let file = |folder: &PathBuf| folder.join(format!("{}.safetensors", path.display()));
    let places = folders.iter().flat_map(|folder| [folder.join(&path), file(folder)]);
    if let Some(place) = places.filter(|place| place.exists()).min_by_key(|place| !Source::is_model(place)) {
        return Model::open(&name_of(&place), &place);
    }
    let folders = folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(" or ");
    let missing = || text!("no such model in {folders}; run the installer or choose a file or folder", folders);
    Err(Error::model(&path, Source::other_format(&path).unwrap_or_else(missing)))
}

/// The path that somebody means who copied it from a terminal, a file manager or a browser.
fn written(path: &str) -> PathBuf {
    let path = path.trim();
    let quoted = |quote: char| path.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    let path = quoted('"').or_else(|| quoted('\'')).unwrap_or(path);
    if let Some(uri) = path.strip_prefix("file://") {
        let local = uri.strip_prefix("localhost").unwrap_or(uri);
        // On Windows: file:///C:/models
        let is_drive = local.as_bytes().get(2) == Some(&b':');
        return PathBuf::from(unescaped(if is_drive { &local[1..] } else { local }));
    }
    match path.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with(['/', '\\']) => {
            dirs::home_dir().map_or_else(|| path.into(), |home| home.join(rest.trim_start_matches(['/', '\\'])))
        }
        _ => PathBuf::from(path),
    }
}

/// `text` with its `%20` as what they stand for; as it is where that is no text.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| first == b'%').and_then(|code| std::str::from_utf8(code).ok());
        let byte = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        bytes.push(byte.unwrap_or(first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_understood_as_they_are_copied() {
        for (given, meant) in [
            ("/models/a b.safetensors", "/models/a b.safetensors"),
            ("  /models/a.safetensors\n", "/models/a.safetensors"),
            ("\"/models/a.safetensors\"", "/models/a.safetensors"),
            ("'/models/a.safetensors'", "/models/a.safetensors"),
            ("file:///models/a%20b%C3%A4.safetensors", "/models/a b\u{e4}.safetensors"),
            ("file://localhost/models/a", "/models/a"),
            ("file:///C:/models/a", "C:/models/a"),
            ("100%.safetensors", "100%.safetensors"),
            ("dreamshaper", "dreamshaper"),
        ] {
            assert_eq!(written(given), Path::new(meant), "{given:?}");
        }
        let home = dirs::home_dir().expect("a home");
        assert_eq!(written("~/models/a"), home.join("models/a"));
        assert_eq!(written("~"), home);
        assert_eq!(written("~other/a"), Path::new("~other/a"));
    }
}
