//! The command `models`: the table of all models, and what the user tells of them.
#![forbid(unsafe_code)]

use super::arguments::Arguments;
use super::outcome::{Failure, ask, print, said};
use super::{download, help};
use crate::catalog::registry::{Download, Registered, Registry};
use crate::catalog::written::{path_of, text_of};
use crate::catalog::{self, Entry, Model, Origin, Places};
use crate::engine::about::About;
use crate::engine::store::digests::Digests;
use crate::error::{Doing, Error, Result};
use crate::files;
use crate::host::installed::{places, registry_file};
use crate::host::last_values::{last_values, remember_values};
use crate::host::report::{FEW_STEPS, models_report, origin_text};
use crate::params::{BUILTIN_MODEL, DEFAULT_PRESET, PARAMS, Params, Preset};
use crate::text::Text;
use serde_json::{Map, Value};
use std::ffi::OsString;
use std::fs::{remove_dir, remove_file};
use std::path::{Path, PathBuf};

pub fn run(arguments: &[OsString]) -> std::result::Result<(), Failure> {
    let arguments = Arguments::parse(arguments, &["json", "yes"], &[])?;
    let words = arguments.words();
    let Some((what, rest)) = words.split_first() else { return list(&arguments) };
    let texts: Vec<_> = rest.iter().map(text).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let usage = |message: &str| Err(Failure::Usage(message.to_owned()));
    match (what.to_string_lossy().as_ref(), &texts[..]) {
        ("list", []) => list(&arguments),
        ("add", [path]) => add(path),
        ("add", _) => usage("say which file or folder to add"),
        ("remove", [name]) => remove(name, &arguments),
        ("remove", _) => usage("say which model to remove; imagic-edit models shows what there is"),
        ("default", []) => Ok(print(&format!("{}\n", read()?.default_name()))?),
        ("default", [name]) => set_default(name),
        ("check", names) => check(names),
        ("download", names) => download::run(&arguments, names),
        (other, _) => {
            Err(Failure::Usage(format!("models can list, add, remove, default, check and download, not {other}")))
        }
    }
}

/// A word as the catalogue takes it: a path may be any bytes.
fn text(word: &OsString) -> String {
    word.to_str().map_or_else(|| text_of(Path::new(word)), str::to_owned)
}

/// All places; unlike for dialogs, a damaged list of the user's is an error.
fn read() -> Result<Places> {
    let mut places = places();
    places.registry = Registry::read(&registry_file()?)?;
    Ok(places)
}

/// Changes what the user has told.
fn change(change: impl FnOnce(&mut Registry)) -> Result<()> {
    let file = registry_file()?;
    let mut registry = Registry::read(&file)?;
    change(&mut registry);
    registry.write(&file)
}

fn list(arguments: &Arguments) -> std::result::Result<(), Failure> {
    let places = read()?;
    if arguments.has("json") {
        return Ok(print(&format!("{:#}\n", models_report(&places, None, Text::to_string)))?);
    }
    let (good, bad): (Vec<_>, Vec<_>) =
        catalog::table(&places, None).into_iter().partition(|entry| entry.problem().is_none());
    let mut text = String::new();
    for entry in &good {
        let is_default = entry.model.name == places.default_name();
        text += &format!("{}{}\n", entry.model.name, if is_default { " (default)" } else { "" });
        text += &facts(entry);
        text += &presets(&entry.model);
    }
    if good.is_empty() {
        let mut folders: Vec<String> = places.folders.iter().map(|folder| folder.display().to_string()).collect();
        folders.dedup();
        text += &format!(
            "no models in {}; install Imagic Edit again, get one with 'imagic-edit models download', or put a \
             .safetensors checkpoint or a diffusers folder there\n",
            folders.join(" or ")
        );
    }
    if !bad.is_empty() {
        text += "\nWhat cannot be used:\n";
        text += &bad.iter().map(|entry| format!("{}\n{}", entry.model.name, facts(entry))).collect::<String>();
    }
    Ok(print(&text)?)
}

/// Where a model is, and what it is or why it cannot be used.
fn facts(entry: &Entry) -> String {
    let Entry { model, origin, .. } = entry;
    let mut text = format!("  {}\n", model.path.display());
    if let Some(problem) = entry.problem() {
        return text + &help::wrapped(&format!("{}: {problem}", origin_text(origin)), 2);
    }
    if let Some(about) = entry.about() {
        let licence = about.licence.as_deref().unwrap_or("unknown");
        text += &help::wrapped(&format!("{}; {}; licence: {licence}", what(about), origin_text(origin)), 2);
        if about.few_steps {
            text += &help::wrapped(&FEW_STEPS.to_string(), 2);
        }
    }
    if !model.description.is_empty() {
        text += &help::wrapped(&model.description, 2);
    }
    for example in &model.examples {
        text += &format!("  for example: \"{example}\"\n");
    }
    text
}

/// "Stable Diffusion 1, 512 x 512 pixels, predicts epsilon, 2.1 GB".
fn what(about: &About) -> String {
    let About { family, side, .. } = about;
    let prediction = match &about.prediction {
        Some(prediction) => format!("predicts {prediction}"),
        None => "predicts epsilon or v, found out when it is loaded".to_owned(),
    };
    let kind = if about.inpainting { " (inpainting)" } else { "" };
    format!("{family}{kind}, {side} x {side} pixels, {prediction}, {}", help::size(about.bytes))
}

fn presets(model: &Model) -> String {
    let mut text = String::new();
    for &preset in Preset::ALL.iter().filter(|&&preset| preset != Preset::Custom) {
        match model.params(preset) {
            Ok(params) => text += &help::wrapped(&format!("preset {preset}: {}", settings(model, &params)), 2),
            Err(error) => return text + &format!("  damaged: {error}\n"),
        }
    }
    text
}

/// The settings of `model` that are not the same in every model, as options.
fn settings(model: &Model, params: &Params) -> String {
    let own = model.presets.get(params.preset.name()).and_then(Value::as_object).into_iter().flat_map(Map::keys);
    let paper = Params::paper();
    let differs = |id: &str| model.preset.contains_key(id) || own.clone().any(|own| own == id);
    let shown = |id: &str| differs(id) || (params.get(id) != paper.get(id) && !["model", "preset"].contains(&id));
    let ids = PARAMS.iter().map(|param| param.id).filter(|id| shown(id));
    let options = ids.filter_map(|id| Some(format!("--{} {}", id.replace('_', "-"), params.get(id)?)));
    options.collect::<Vec<_>>().join(" ")
}

fn add(path: &str) -> std::result::Result<(), Failure> {
    let (places, name) = (read()?, path);
    let path = std::path::absolute(path_of(path)).map_err(Error::file(Doing::Read, path.as_ref()))?;
    // What is in the list may be called by its name, too.
    let is_it =
        |entry: &Entry| is_same(&entry.model.path, &path) || (!path.exists() && entry.model.name.as_str() == name);
    let known = catalog::table(&places, None).into_iter().find(is_it);
    if let Some(Entry { model, origin, .. }) = known.filter(|entry| !matches!(entry.origin, Origin::Program(_))) {
        return Err(said(format!("{} is in the list already: {}", model.name, origin_text(&origin))).into());
    }
    let entry = catalog::look_up(&text_of(&path), &places)?;
    if let Some(problem) = entry.problem() {
        return Err(Error::model(&path, problem.clone()).into());
    }
    change(|registry| registry.models.push(Registered { path: path.clone(), download: None }))?;
    let name = catalog::table(&read()?, None).into_iter().find(|entry| is_same(&entry.model.path, &path));
    let name = name.map_or_else(|| text_of(&path), |entry| entry.model.name);
    let about = entry.about().map(what).unwrap_or_default();
    Ok(print(&format!("{name} is in the list now ({about}); it stays where it lies, {}\n", path.display()))?)
}

fn is_same(a: &Path, b: &Path) -> bool {
    a == b || a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b))
}

fn remove(name: &str, arguments: &Arguments) -> std::result::Result<(), Failure> {
    let places = read()?;
    let is_gone = |model: &&Registered| {
        !model.path.exists() && (catalog::name_of(&model.path) == name || text_of(&model.path) == name)
    };
    if let Some(Registered { path, .. }) = places.registry.models.iter().find(is_gone) {
        change(|registry| registry.forget(path, name))?;
        return Ok(print(&format!("{name} is not in the list any more; {} was gone already\n", path.display()))?);
    }
    let Entry { model, origin, .. } = catalog::look_up(name, &places)?;
    let path = &model.path;
    match origin {
        Origin::Downloaded(_) => {
            let registered = places.registry.of(path).expect("it has told the origin");
            let download = registered.download.as_ref().expect("it is a download");
            let bytes = help::size(download.files.iter().map(|file| file.bytes).sum());
            ask(arguments.has("yes"), &format!("Delete {} ({bytes}), which was downloaded?", path.display()))?;
            delete(path, download)?;
            change(|registry| registry.forget(path, &model.name))?;
            Ok(print(&format!("deleted {bytes}: {}\n", path.display()))?)
        }
        Origin::Added => {
            change(|registry| registry.forget(path, &model.name))?;
            Ok(print(&format!("{} is not in the list any more; {} stays\n", model.name, path.display()))?)
        }
        Origin::Own if model.name == BUILTIN_MODEL => Err(said("the built-in model stays").into()),
        Origin::Own => Err(said(format!(
            "{} was not downloaded by this program, which deletes no files of yours; move {} elsewhere",
            model.name,
            path.display()
        ))
        .into()),
        Origin::Program(program) => Err(said(format!("{} belongs to {program}, remove it there", model.name)).into()),
        Origin::Named => Err(said(format!("{} is in no list", model.name)).into()),
    }
}

/// Deletes the files of a download, and the folders that are empty then.
fn delete(path: &Path, download: &Download) -> Result<()> {
    if path.is_file() {
        return remove_file(path).map_err(Error::file(Doing::Remove, path));
    }
    let mut folders = vec![path.to_owned()];
    for file in &download.files {
        let file = path.join(&file.name);
        if file.exists() {
            remove_file(&file).map_err(Error::file(Doing::Remove, &file))?;
        }
        folders.extend(file.parent().map(Path::to_owned));
    }
    // The inner ones first.
    folders.sort_by_key(|folder| std::cmp::Reverse(folder.components().count()));
    folders.dedup();
    // What somebody has put there keeps its folder.
    folders.iter().for_each(|folder| drop(remove_dir(folder)));
    Ok(())
}

fn set_default(name: &str) -> std::result::Result<(), Failure> {
    let entry = catalog::look_up(name, &read()?)?;
    let model = &entry.model;
    if let Some(problem) = entry.problem() {
        return Err(Error::model(&model.path, problem.clone()).into());
    }
    let is_builtin = model.name == BUILTIN_MODEL;
    change(|registry| registry.default = (!is_builtin).then(|| model.name.clone()))?;
    // The next dialog opens with it, too.
    if let Some(last) = last_values() {
        let of_model = model.params(DEFAULT_PRESET)?;
        remember_values(&Params { prompt: last.prompt, ..of_model })?;
    }
    Ok(print(&format!("{} is what dialogs begin with and 'imagic-edit edit' takes without --model\n", model.name))?)
}

fn check(names: &[&str]) -> std::result::Result<(), Failure> {
    let places = read()?;
    let entries = if names.is_empty() {
        catalog::table(&places, None)
    } else {
        names.iter().map(|name| catalog::look_up(name, &places)).collect::<Result<_>>()?
    };
    let mut well = true;
    for entry in &entries {
        let name = &entry.model.name;
        let damaged = match (entry.problem(), places.registry.of(&entry.model.path)) {
            (Some(problem), _) => Some(problem.to_string()),
            (None, Some(Registered { path, download: Some(download) })) => damaged(path, download)?,
            _ => None,
        };
        let text = match (&damaged, entry.about()) {
            (Some(reason), _) => format!("  WRONG  {}", help::wrapped(&format!("{name}: {reason}"), 9).trim_start()),
            (None, about) => {
                let about = about.map(what).unwrap_or_default();
                let digests = if matches!(entry.origin, Origin::Downloaded(_)) { "; as it was downloaded" } else { "" };
                format!("  ok     {}", help::wrapped(&format!("{name}: {about}{digests}"), 9).trim_start())
            }
        };
        // What other programs keep and we cannot use is nothing wrong.
        well &= damaged.is_none() || names.is_empty() && matches!(entry.origin, Origin::Program(_));
        print(&text)?;
    }
    if well { Ok(()) } else { Err(Failure::Unwell) }
}

/// What is no more as it was downloaded; reads everything.
fn damaged(path: &Path, download: &Download) -> Result<Option<String>> {
    for file in &download.files {
        let at: PathBuf = if path.is_file() { path.to_owned() } else { path.join(&file.name) };
        let open = files::open(&at).map_err(Error::file(Doing::Read, &at))?;
        let sha256 = Digests::new(None).of(&open, &at, &mut || Ok(()))?;
        if sha256 != file.sha256 {
            return Ok(Some(format!(
                "{} is not as it was downloaded: its SHA-256 is {sha256}, was {}; remove it and download it again",
                at.display(),
                file.sha256
            )));
        }
    }
    Ok(None)
}
