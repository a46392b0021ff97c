//! Which base models can be chosen: finds their files and folders, tells what they are, and reads their presets; reads
//! no weights.
#![forbid(unsafe_code)]

pub mod headers;
pub mod registry;
pub mod shelves;
pub mod written;

use crate::engine::about::About;
use crate::engine::model::source::{Source, is_safetensors};
use crate::error::{Doing, Error, Result};
use crate::files;
use crate::params::{BUILTIN_MODEL, DEFAULT_PRESET, PARAMS, Params, Preset};
use crate::text::{Text, text};
use headers::{Finding, Headers};
use registry::Registry;
use serde_json::{Map, Value};
use shelves::{LEAST, Shelf, is_checkpoint};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use written::{path_of, text_of};

/// Optional JSON file in a model's folder; beside a model that is a file it is called `NAME.imagic.json`.
/// `description`: one sentence on what it can draw; `examples`: prompts that work; `preset`: settings by parameter id
/// that fit it in every preset; `presets`: those of single presets, by the preset's name; `familiar_psnr`: see
/// [`Model::familiar_psnr`]; `photographs`: `false` if it draws none; `words`: see [`Model::words`].
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
    /// Whether it is to be tried on photographs: any model that does not say otherwise.
    pub draws_photographs: bool,
    /// All words that it knows, in lower case; empty if it does not say.
    pub words: Vec<String>,
}

/// Where models are looked for, and what the user has told of them.
#[derive(Default)]
pub struct Places {
    /// Our own folders, where every model has a name.
    pub folders: Vec<PathBuf>,
    /// What was added, downloaded and made the default.
    pub registry: Registry,
    /// Folders of other programs.
    pub shelves: Vec<Shelf>,
    /// What models are, as far as that is remembered.
    pub headers: Headers,
    /// What lies on the shelves, found when it is first asked for.
    elsewhere: OnceLock<Vec<(&'static str, PathBuf)>>,
}

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It lies in a folder of ours.
    Own,
    /// The user has added it; it lies elsewhere.
    Added,
    /// We have downloaded it from there: `owner/name` or `owner/name/file`.
    Downloaded(String),
    /// It lies in a folder of that program.
    Program(&'static str),
    /// The user has named its path.
    Named,
}

/// A row of the table of all models.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The model; its settings are empty where they cannot be read.
    pub model: Model,
    /// Where it comes from.
    pub origin: Origin,
    /// What it is, or why it cannot be used; `None` where there was no time to look.
    pub finding: Option<Finding>,
}

impl Entry {
    /// What it is, as far as that is known and it can be used.
    pub fn about(&self) -> Option<&About> {
        self.finding.as_ref()?.as_ref().ok()
    }

    /// Whether a photograph can be tried with it, and it did not come with the plug-in.
    pub fn is_for_photographs(&self) -> bool {
        self.model.name != BUILTIN_MODEL && self.model.draws_photographs && self.problem().is_none()
    }

    /// Why it cannot be used, as far as that is known.
    pub fn problem(&self) -> Option<&Text> {
        self.finding.as_ref()?.as_ref().err()
    }
}

impl Places {
    /// With these folders of ours, and nothing that the user has told.
    pub fn of(folders: impl Into<Vec<PathBuf>>) -> Self {
        Self { folders: folders.into(), ..Self::default() }
    }

    /// Name of the model that counts where none is named.
    pub fn default_name(&self) -> &str {
        self.registry.default.as_deref().unwrap_or(BUILTIN_MODEL)
    }

    /// Files and folders that may be models, those of ours first; the same one may come twice.
    fn candidates(&self) -> Vec<(PathBuf, Origin)> {
        let entries = self.folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
        let is_candidate = |path: &PathBuf| {
            let is_hidden = path.file_name().unwrap_or_default().as_encoded_bytes().starts_with(b".");
            let is_folder = || Source::is_model(path) || path.join("model_index.json").is_file();
            !is_hidden && if path.is_dir() { is_folder() } else { is_checkpoint(path) }
        };
        let own = entries.map(|entry| entry.path()).filter(is_candidate);
        let added = self.registry.models.iter().map(|model| model.path.clone());
        let mut found: Vec<_> = own.chain(added).map(|path| (self.origin(&path), path)).collect();
        found.sort_by_cached_key(|(_, path)| name_of(path));
        let elsewhere = self.elsewhere().iter().map(|(program, path)| (Origin::Program(program), path.clone()));
        found.into_iter().chain(elsewhere).map(|(origin, path)| (path, origin)).collect()
    }

    fn elsewhere(&self) -> &[(&'static str, PathBuf)] {
        self.elsewhere.get_or_init(|| shelves::candidates(&self.shelves))
    }

    /// What the page of a download said of its licence, where its files do not.
    fn add_licence(&self, path: &Path, finding: &mut Option<Finding>) {
        if let Some(Ok(about)) = finding
            && about.licence.is_none()
        {
            let download = self.registry.of(path).and_then(|model| model.download.as_ref());
            about.licence = download.and_then(|download| download.licence.clone());
        }
    }

    /// Where the model at `path` comes from.
    fn origin(&self, path: &Path) -> Origin {
        if let Some(known) = self.registry.of(path) {
            return known.download.as_ref().map_or(Origin::Added, |of| Origin::Downloaded(of.from.clone()));
        }
        if self.folders.iter().any(|folder| path.parent() == Some(folder)) {
            return Origin::Own;
        }
        let program = self.elsewhere.get().and_then(|found| found.iter().find(|(_, known)| known == path));
        program.map_or(Origin::Named, |(program, _)| Origin::Program(program))
    }
}

impl Model {
    /// Without settings.
    fn bare(name: &str, path: &Path) -> Self {
        Self {
            name: name.to_owned(),
            path: path.to_owned(),
            description: String::new(),
            examples: Vec::new(),
            preset: Map::new(),
            presets: Map::new(),
            familiar_psnr: None,
            draws_photographs: true,
            words: Vec::new(),
        }
    }

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
        let texts = |key: &str| {
            let texts = about[key].as_array().into_iter().flatten();
            texts.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let settings = |key: &str| about[key].as_object().cloned().unwrap_or_default();
        Ok(Self {
            description: about["description"].as_str().unwrap_or_default().to_owned(),
            examples: texts("examples"),
            preset: settings("preset"),
            presets: settings("presets"),
            familiar_psnr,
            draws_photographs: about["photographs"].as_bool().unwrap_or(true),
            words: texts("words"),
            ..Self::bare(name, path)
        })
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

/// The parameters that `given` means, by parameter id, and the model that they name; without a name the default one.
/// What is left out comes from the model's preset that is given, or from the default one. All hosts make parameters of
/// what they were given in this way.
pub fn params_of(given: &Map<String, Value>, places: &Places) -> Result<(Params, Model)> {
    let mut params = Params::of_preset(DEFAULT_PRESET);
    params.set_all(given)?;
    let named = given.contains_key("model").then(|| params.model.trim()).filter(|name| !name.is_empty());
    let model = named.map_or_else(|| default(places), |name| find(name, places))?;
    params = model.params(params.preset)?;
    params.set_all(given)?;
    params.model.clone_from(&model.name);
    if !params.vae.trim().is_empty() {
        params.vae = path_of(&params.vae).to_string_lossy().into_owned();
    }
    params.check()?;
    model.name_preset(&mut params)?;
    Ok((params, model))
}

/// The model that counts where none is named.
pub fn default(places: &Places) -> Result<Model> {
    find(places.default_name(), places).map_err(|error| match error {
        Error::Model { path, reason } if places.registry.default.is_some() => {
            let reason = text!("{reason}; \"imagic-edit models default NAME\" makes another model the default", reason);
            Error::Model { path, reason }
        }
        error => error,
    })
}

/// What is wrong with a model's file of settings.
fn of_file(reason: Text) -> Text {
    text!("{file}: {reason}", file = PRESET_FILE, reason)
}

/// All models there are, also those that cannot be used: ours by name, then those of other programs. Headers that are
/// not remembered are read as long as `patience` lasts.
pub fn table(places: &Places, patience: Option<Duration>) -> Vec<Entry> {
    let started = Instant::now();
    let has_time = || patience.is_none_or(|patience| started.elapsed() < patience);
    let (mut entries, mut paths, mut names) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for (path, origin) in places.candidates() {
        let name = name_of(&path);
        // Installations have copies of the built-in model beside their libraries.
        let is_copy = origin == Origin::Own && names.contains(&name);
        if is_copy || !paths.insert(path.canonicalize().unwrap_or_else(|_| path.clone())) {
            continue;
        }
        let known = places.headers.known(&path);
        let mut finding = known.or_else(|| has_time().then(|| places.headers.of(&path)));
        places.add_licence(&path, &mut finding);
        let is_small = || path.is_file() && path.metadata().is_ok_and(|about| about.len() < LEAST);
        if matches!((&origin, &finding), (Origin::Program(_), Some(Err(_)))) && is_small() {
            continue;
        }
        // `find` takes the first one.
        let name = if names.insert(name.clone()) { name } else { text_of(&path) };
        let model = Model::open(&name, &path).unwrap_or_else(|error| {
            finding = Some(Err(headers::reason(error, &path)));
            Model::bare(&name, &path)
        });
        entries.push(Entry { model, origin, finding });
    }
    places.headers.keep();
    entries
}

/// What there is to be said of the model that `name` means, see [`find`].
pub fn look_up(name: &str, places: &Places) -> Result<Entry> {
    let model = find(name, places)?;
    let mut finding = Some(places.headers.of(&model.path));
    places.add_licence(&model.path, &mut finding);
    Ok(Entry { origin: places.origin(&model.path), finding, model })
}

/// What the model at `path` is called: its folder, or its file without the ending, or, in the cache of Hugging Face,
/// `owner/name`.
pub fn name_of(path: &Path) -> String {
    let name = if is_safetensors(path) { path.file_stem() } else { path.file_name() };
    let name = name.unwrap_or_default();
    let Some(name) = name.to_str() else { return text_of(path) };
    name.strip_prefix("models--").map_or_else(|| name.to_owned(), |name| name.replacen("--", "/", 1))
}

/// The model that the parameter `model` means: a path as people write it, or a name, in our folders, of what was added,
/// or in the folders of other programs.
pub fn find(name: &str, places: &Places) -> Result<Model> {
    let path = path_of(name);
    if path.exists() {
        if !path.is_file() && !path.is_dir() {
            let reason = text!("is neither a file nor a folder; choose a .safetensors file, or a diffusers folder");
            return Err(Error::model(&path, reason));
        }
        return Model::open(&text_of(&path), &path);
    }
    let missing = |reason: Text| Error::model(&path, Source::other_format(&path).unwrap_or(reason));
    if path.is_absolute() {
        return Err(missing(text!("there is no such file or folder")));
    }
    if path.components().count() == 1 {
        let file = |folder: &PathBuf| folder.join(format!("{}.safetensors", path.display()));
        let own = places.folders.iter().flat_map(|folder| [folder.join(&path), file(folder)]);
        if let Some(place) = own.filter(|place| place.exists()).min_by_key(|place| !Source::is_model(place)) {
            return Model::open(&name_of(&place), &place);
        }
    }
    let is_meant = |place: &&PathBuf| place.file_name() == Some(path.as_os_str()) || Path::new(&name_of(place)) == path;
    let mut added = places.registry.models.iter().map(|model| &model.path);
    if let Some(place) = added.find(is_meant) {
        let gone = || Error::model(place, text!("there is no such file or folder"));
        return if place.exists() { Model::open(&name_of(place), place) } else { Err(gone()) };
    }
    if let Some(place) = places.elsewhere().iter().map(|(_, place)| place).find(is_meant) {
        return Model::open(&name_of(place), place);
    }
    if path.components().count() > 1 {
        return Err(missing(text!("there is no such file or folder")));
    }
    let mut folders: Vec<String> = places.folders.iter().map(|folder| folder.display().to_string()).collect();
    // An installation looks where it is installed, and beside its library, which may be the same.
    folders.dedup();
    let folders = folders.join(" or ");
    Err(missing(text!("no such model in {folders}; run the installer or choose a file or folder", folders)))
}
