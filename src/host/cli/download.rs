//! The command `models download`: which files of a model are wanted, the question before they are fetched, and where
//! they go: nowhere but into our folder of models, and under their names only when they are whole and a model.
#![forbid(unsafe_code)]

use super::arguments::{Arguments, did_you_mean};
use super::help;
use super::hub::{Hub, Page, Remote};
use super::outcome::{Failure, ask, print, said};
use super::progress::Transfer;
use crate::catalog::headers::reason;
use crate::catalog::registry::{Download, DownloadedFile, Registered, Registry};
use crate::engine::about::About;
use crate::engine::model::source::{Part, is_safetensors};
use crate::error::{Doing, Error, Result};
use crate::files;
use crate::host::installed::{data_folder, registry_file};
use fs4::FileExt;
use std::fs::{File, create_dir_all, remove_dir_all, rename};
use std::path::{Path, PathBuf};

/// Bytes of the disk that stay free.
const RESERVE: u64 = 500_000_000;

/// A model that has a short name here.
struct Known {
    name: &'static str,
    /// `owner/name`, and its file where it is one.
    model: &'static str,
    file: Option<&'static str>,
    /// About so many.
    bytes: u64,
    /// That of the file. Where there is none, what the server announces counts.
    sha256: Option<&'static str>,
    licence: &'static str,
    what: &'static str,
}

/// Sizes and digests as several public projects pin them; licences as the models' pages on Hugging Face say them.
const KNOWN: [Known; 4] = [
    Known {
        name: "photo",
        model: "Lykon/absolute-reality-1.81",
        file: None,
        bytes: 2_130_000_000,
        sha256: None,
        licence: "creativeml-openrail-m",
        what: "Absolute Reality 1.81, Stable Diffusion 1.5 fine-tuned on photographs",
    },
    Known {
        name: "sd15",
        model: "Comfy-Org/stable-diffusion-v1-5-archive",
        file: Some("v1-5-pruned-emaonly-fp16.safetensors"),
        bytes: 2_132_696_762,
        sha256: Some("e9476a13728cd75d8279f6ec8bad753a66a1957ca375a1464dc63b37db6e3916"),
        licence: "creativeml-openrail-m",
        what: "Stable Diffusion 1.5",
    },
    Known {
        name: "sdxl",
        model: "stabilityai/stable-diffusion-xl-base-1.0",
        file: Some("sd_xl_base_1.0.safetensors"),
        bytes: 6_938_078_334,
        sha256: Some("31e35c80fc4829d14f90153f4c74cd59c90b779f6afe05a74cd6120b893f7e5b"),
        licence: "openrail++",
        what: "Stable Diffusion XL; needs 20 GB of memory",
    },
    Known {
        name: "tiny",
        model: "nota-ai/bk-sdm-tiny",
        file: None,
        bytes: 1_060_000_000,
        sha256: None,
        licence: "creativeml-openrail-m",
        what: "BK-SDM-Tiny, a Stable Diffusion 1 of a third of the size, for processors",
    },
];

/// What is to be fetched.
struct Wanted {
    /// What the model will be called.
    name: String,
    files: Vec<Remote>,
    is_folder: bool,
}

pub fn run(arguments: &Arguments, words: &[&str]) -> std::result::Result<(), Failure> {
    let [name] = words else {
        return if words.is_empty() { Ok(print(&list())?) } else { Err(Failure::Usage("one model at a time".into())) };
    };
    let known = KNOWN.iter().find(|known| known.name == *name);
    let hub = Hub::from_environment()?;
    let (model, file) = match known {
        Some(known) => (known.model.to_owned(), known.file.map(str::to_owned)),
        None => named(hub.without_endpoint(name))?,
    };
    let page = hub.page(&model)?;
    let wanted = choose(&page, file.as_deref())?;
    check_known(known, &wanted)?;
    let folder = data_folder().ok_or_else(|| said("this account has no data folder; set HOME or XDG_DATA_HOME"))?;
    let place = Place::new(&folder.join("models"), &wanted)?;
    place.check_disk(&wanted)?;

    let bytes = wanted.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add);
    let licence = page.licence.clone().or_else(|| known.map(|known| known.licence.to_owned()));
    let size = help::size(bytes);
    let shown = licence.as_deref().unwrap_or("unknown");
    eprint!(
        "{}: {} of {model} ({size}) to {}\nlicence: {shown}, see {}\n",
        wanted.name,
        if wanted.is_folder { format!("{} files", wanted.files.len()) } else { wanted.files[0].name.clone() },
        place.target.display(),
        hub.address(&model)
    );
    ask(arguments.has("yes"), "Do you accept the licence and want to download it?")?;
    let lock = place.begin()?;
    let files = place.fetch(&hub, &page, &wanted, bytes)?;
    About::of(&place.staged(&wanted)).map_err(|error| {
        let why = reason(error, &place.staged(&wanted));
        let _ = remove_dir_all(&place.staging);
        said(format!("{model} came whole, but it is no model for edits and was removed: {why}"))
    })?;
    place.put(&wanted)?;
    drop(lock);
    let _ = remove_dir_all(&place.staging);
    let from = if wanted.is_folder { model } else { format!("{model}/{}", wanted.files[0].name) };
    let download = Some(Download { from, revision: page.revision, licence, files });
    let file = registry_file()?;
    let mut registry = Registry::read(&file)?;
    registry.models.retain(|model| model.path != place.target);
    registry.models.push(Registered { path: place.target.clone(), download });
    registry.write(&file)?;
    let name = &wanted.name;
    Ok(print(&format!(
        "{name} is in {}; choose it in the dialog or with --model {name}\n\
         'imagic-edit models default {name}' makes it the one that counts without that\n",
        place.target.display()
    ))?)
}

/// The models that have a short name.
fn list() -> String {
    let row = |known: &Known| {
        let from = known.file.map_or_else(|| known.model.to_owned(), |file| format!("{}/{file}", known.model));
        let (name, what, size, licence) = (known.name, known.what, help::size(known.bytes), known.licence);
        format!("{name:<6} {size:>6}  {what}\n               {from}\n               licence: {licence}\n")
    };
    let rows: String = KNOWN.iter().map(row).collect();
    format!("{rows}or any OWNER/NAME or OWNER/NAME/FILE of Hugging Face\n")
}

/// `owner/name` and the file in it of what people write or copy from a browser.
fn named(text: &str) -> std::result::Result<(String, Option<String>), Failure> {
    let text = text.trim_end_matches('/').split(['?', '#']).next().unwrap_or_default();
    let parts: Vec<&str> = text.split('/').collect();
    let plain = |part: &&str| {
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        !part.is_empty() && part.chars().all(is_plain) && part.chars().any(|letter| letter != '.')
    };
    match parts[..] {
        [owner, name, ref file @ ..] if plain(&owner) && plain(&name) => {
            // .../blob/main/FILE, .../tree/main
            let file = match file {
                ["blob" | "resolve" | "tree", _, file @ ..] => file,
                file => file,
            };
            Ok((format!("{owner}/{name}"), (!file.is_empty()).then(|| file.join("/"))))
        }
        _ => {
            let hint = did_you_mean("", text, KNOWN.iter().map(|known| known.name));
            Err(Failure::Usage(format!(
                "{text} is no model to download{hint}; there are photo, sd15, sdxl, tiny, and OWNER/NAME or \
                 OWNER/NAME/FILE of Hugging Face"
            )))
        }
    }
}

/// What is wanted of a model's files: the one that was asked for, or the parts in diffusers' layout, in 16 bits where
/// there are such, or the only checkpoint.
fn choose(page: &Page, file: Option<&str>) -> Result<Wanted> {
    let Page { model, files, .. } = page;
    let checkpoints: Vec<&Remote> =
        files.iter().filter(|file| is_safetensors(Path::new(&file.name)) && !file.name.contains('/')).collect();
    let one = |file: &Remote| {
        let stem = Path::new(&file.name).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Wanted { name: stem, files: vec![file.clone()], is_folder: false }
    };
    let names = |files: &[&Remote]| files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(name) = file {
        let found = files.iter().find(|file| file.name == name);
        let found = found
            .ok_or_else(|| said(format!("{model} has no file {name}; its checkpoints are: {}", names(&checkpoints))))?;
        if !is_safetensors(Path::new(name)) {
            return Err(said(format!("{name} is no .safetensors file; others are refused")));
        }
        return Ok(one(found));
    }
    if files.iter().any(|file| file.name.starts_with("unet/")) {
        let name = model.rsplit('/').next().unwrap_or_default().to_owned();
        return Ok(Wanted { name, files: parts(model, files)?, is_folder: true });
    }
    match checkpoints[..] {
        [only] => Ok(one(only)),
        [] => Err(said(format!(
            "{model} has neither a folder unet nor a .safetensors file: it is no Stable Diffusion model"
        ))),
        ref several => Err(said(format!("{model} has several checkpoints, say which: {}", names(several)))),
    }
}

/// The files of a model in diffusers' layout that an edit needs.
fn parts(model: &str, files: &[Remote]) -> Result<Vec<Remote>> {
    let mut wanted: Vec<Remote> = files.iter().filter(|file| file.name == "model_index.json").cloned().collect();
    let in_folder = |folder: &str| -> Vec<(&Remote, &str)> {
        let below = |file| Some((file, file_name(file, folder)?));
        files.iter().filter_map(below).collect()
    };
    for folder in ["tokenizer", "tokenizer_2", "scheduler"].into_iter().chain(Part::ALL.map(Part::folder)) {
        let in_it = in_folder(folder);
        let is_text = |name: &str| [".json", ".txt"].iter().any(|ending| name.ends_with(ending));
        let is_index = |name: &str| name.contains(".safetensors.index");
        wanted
            .extend(in_it.iter().filter(|(_, name)| is_text(name) && !is_index(name)).map(|(file, _)| (*file).clone()));
        if in_it.is_empty() || !Part::ALL.iter().any(|part| part.folder() == folder) {
            continue;
        }
        let weights: Vec<_> = in_it.iter().filter(|(_, name)| name.ends_with(".safetensors")).collect();
        let is_half = |name: &str| name.contains("fp16");
        let is_plain = |name: &str| {
            ["model", "diffusion_pytorch_model"].iter().any(|stem| {
                name.strip_prefix(stem).is_some_and(|rest| rest.starts_with(".safetensors") || rest.starts_with('-'))
            })
        };
        let of = |test: &dyn Fn(&str) -> bool, whole: bool| -> Vec<Remote> {
            let fits = |name: &str| test(name) && name.contains("-of-") != whole;
            weights.iter().filter(|(_, name)| fits(name)).map(|(file, _)| (*file).clone()).collect()
        };
        let choices = [of(&is_half, true), of(&is_plain, true), of(&is_half, false), of(&is_plain, false)];
        let Some(at) = choices.iter().position(|choice| !choice.is_empty()) else {
            return Err(said(format!(
                "{model} has no .safetensors weights in its folder {folder}, only others, which are refused"
            )));
        };
        if at >= 2 {
            // Cut into several, with an index.
            let half = at == 2;
            let indices = in_it.iter().filter(|(_, name)| is_index(name) && is_half(name) == half);
            wanted.extend(indices.map(|(file, _)| (*file).clone()));
        }
        wanted.extend(choices[at].iter().take(if at < 2 { 1 } else { usize::MAX }).cloned());
    }
    Ok(wanted)
}

/// The name of `file` in `folder`; `None` where it lies elsewhere.
fn file_name<'a>(file: &'a Remote, folder: &str) -> Option<&'a str> {
    file.name.strip_prefix(folder)?.strip_prefix('/').filter(|name| !name.contains('/'))
}

/// Refuses another file under a known name.
fn check_known(known: Option<&Known>, wanted: &Wanted) -> Result<()> {
    let (Some(known), Some(sha256)) = (known, known.and_then(|known| known.sha256)) else { return Ok(()) };
    let file = &wanted.files[0];
    if file.sha256.as_deref() == Some(sha256) {
        return Ok(());
    }
    let from = format!("{}/{}", known.model, file.name);
    Err(said(format!(
        "the server has another file under the name {from} than the one that is known as {}; if you trust it, download \
         {from}",
        known.name
    )))
}

/// Where a model goes.
struct Place {
    /// Its place in the end.
    target: PathBuf,
    /// What is there until then, also between two calls.
    staging: PathBuf,
}

impl Place {
    fn new(models: &Path, wanted: &Wanted) -> Result<Self> {
        let file = if wanted.is_folder { wanted.name.clone() } else { format!("{}.safetensors", wanted.name) };
        let (target, staging) = (models.join(&file), models.join(format!(".download-{file}")));
        if target.exists() {
            return Err(said(format!(
                "{} is there already; 'imagic-edit models check {}' says what it is",
                target.display(),
                wanted.name
            )));
        }
        Ok(Self { target, staging })
    }

    /// Makes the folder in which the model comes together; the lock keeps others out of it.
    fn begin(&self) -> Result<File> {
        create_dir_all(&self.staging).map_err(Error::file(Doing::Create, &self.staging))?;
        let path = self.staging.join("lock");
        let lock = File::options().create(true).append(true).open(&path).map_err(Error::file(Doing::Write, &path))?;
        match FileExt::try_lock(&lock) {
            Ok(()) => Ok(lock),
            Err(_) => Err(said(format!("another program downloads {} at present", self.target.display()))),
        }
    }

    /// Refuses what does not fit on the disk.
    fn check_disk(&self, wanted: &Wanted) -> Result<()> {
        let here = |file: &Remote| {
            let whole = self.path(wanted, file);
            let size = |path: &Path| path.metadata().map_or(0, |about| about.len());
            size(&whole).max(size(&part(&whole, file)))
        };
        let missing = wanted.files.iter().map(|file| file.bytes.saturating_sub(here(file)));
        let missing = missing.fold(0, u64::saturating_add);
        // Folders are made when something comes.
        let disk = self.staging.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
        let free = fs4::available_space(disk).map_err(Error::file(Doing::Read, disk))?;
        if missing.saturating_add(RESERVE) <= free {
            return Ok(());
        }
        Err(said(format!(
            "{} needs {} more of disk and {} that stay free, {} has {}; free some space",
            wanted.name,
            help::size(missing),
            help::size(RESERVE),
            disk.display(),
            help::size(free)
        )))
    }

    /// The model before it is put in its place.
    fn staged(&self, wanted: &Wanted) -> PathBuf {
        let name = self.target.file_name().expect("it has one");
        if wanted.is_folder { self.staging.join("model") } else { self.staging.join(name) }
    }

    /// Where a whole file is until then.
    fn path(&self, wanted: &Wanted, file: &Remote) -> PathBuf {
        let staged = self.staged(wanted);
        if wanted.is_folder { staged.join(&file.name) } else { staged }
    }

    /// Fetches what is not there yet, `bytes` in all.
    fn fetch(&self, hub: &Hub, page: &Page, wanted: &Wanted, bytes: u64) -> Result<Vec<DownloadedFile>> {
        let mut transfer = Transfer::new(bytes);
        let (mut done, mut files) = (0, Vec::new());
        for file in &wanted.files {
            let whole = self.path(wanted, file);
            let folder = whole.parent().expect("it is in a folder");
            create_dir_all(folder).map_err(Error::file(Doing::Create, folder))?;
            // What came whole before is read again as a part to which nothing is missing.
            let part = part(&whole, file);
            if whole.exists() {
                rename(&whole, &part).map_err(Error::file(Doing::Write, &part))?;
            }
            let fetched = hub.fetch(page, file, &part, &mut |here| transfer.show(&file.name, done + here));
            transfer.clear();
            let sha256 = fetched?;
            rename(&part, &whole).map_err(Error::file(Doing::Write, &whole))?;
            done += file.bytes;
            files.push(DownloadedFile { name: file.name.clone(), bytes: file.bytes, sha256 });
        }
        Ok(files)
    }

    /// Puts the model in its place at once.
    fn put(&self, wanted: &Wanted) -> Result<()> {
        rename(self.staged(wanted), &self.target).map_err(Error::file(Doing::Write, &self.target))?;
        files::settle(&self.target);
        Ok(())
    }
}

/// Where a file is while it comes; of another version of it nothing is of use.
fn part(whole: &Path, file: &Remote) -> PathBuf {
    let mut name = whole.file_name().unwrap_or_default().to_owned();
    let version = file.sha256.as_deref().and_then(|sha256| sha256.get(..8)).unwrap_or("new");
    name.push(format!(".{version}.part"));
    whole.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(names: &[&str]) -> Page {
        let file = |name: &&str| Remote { name: (*name).to_owned(), bytes: 1, sha256: None };
        let files = names.iter().map(file).collect();
        Page { model: "a/b".into(), revision: "main".into(), licence: None, files }
    }

    fn chosen(names: &[&str], file: Option<&str>) -> std::result::Result<Vec<String>, String> {
        let wanted = choose(&page(names), file).map_err(|error| error.to_string())?;
        Ok(wanted.files.into_iter().map(|file| file.name).collect())
    }

    #[test]
    fn of_a_folder_what_an_edit_needs_is_chosen_in_16_bits_where_there_are_such() {
        let all = [
            "model_index.json",
            "README.md",
            "big.safetensors",
            "safety_checker/model.safetensors",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "unet/diffusion_pytorch_model.non_ema.safetensors",
            "unet/diffusion_pytorch_model.bin",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
            "text_encoder/config.json",
            "text_encoder/model-00001-of-00002.safetensors",
            "text_encoder/model-00002-of-00002.safetensors",
            "text_encoder/model.safetensors.index.json",
            "tokenizer/vocab.json",
            "tokenizer/merges.txt",
            "scheduler/scheduler_config.json",
        ];
        let mut expected = vec![
            "model_index.json",
            "tokenizer/vocab.json",
            "tokenizer/merges.txt",
            "scheduler/scheduler_config.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
            "text_encoder/config.json",
            "text_encoder/model.safetensors.index.json",
            "text_encoder/model-00001-of-00002.safetensors",
            "text_encoder/model-00002-of-00002.safetensors",
        ];
        let mut found = chosen(&all, None).expect("a model");
        found.sort();
        expected.sort_unstable();
        assert_eq!(found, expected);
        let reason = chosen(&["unet/config.json", "unet/diffusion_pytorch_model.bin"], None).expect_err("pickles");
        assert!(reason.contains("no .safetensors weights in its folder unet"), "{reason}");
    }

    #[test]
    fn of_checkpoints_the_only_one_or_the_named_one_is_chosen() {
        assert_eq!(chosen(&["a.safetensors", "x/b.safetensors"], None), Ok(vec!["a.safetensors".into()]));
        let several = ["a.safetensors", "b.safetensors", "c.ckpt"];
        assert!(chosen(&several, None).is_err_and(|reason| reason.contains("say which: a.safetensors, b.safetensors")));
        assert_eq!(chosen(&several, Some("b.safetensors")), Ok(vec!["b.safetensors".into()]));
        assert!(chosen(&several, Some("d.safetensors")).is_err_and(|reason| reason.contains("no file d")));
        assert!(chosen(&several, Some("c.ckpt")).is_err_and(|reason| reason.contains("no .safetensors file")));
        assert!(chosen(&["a.gguf"], None).is_err_and(|reason| reason.contains("no Stable Diffusion model")));
    }

    #[test]
    fn models_are_named_as_people_copy_them() {
        let named = |text: &str| named(text).map_err(|_| ());
        let of = |model: &str, file: Option<&str>| Ok((model.to_owned(), file.map(str::to_owned)));
        assert_eq!(named("a/b"), of("a/b", None));
        assert_eq!(named("a/b/"), of("a/b", None));
        assert_eq!(named("a/b/c/d.safetensors"), of("a/b", Some("c/d.safetensors")));
        assert_eq!(named("a/b/resolve/main/d.safetensors?download=true"), of("a/b", Some("d.safetensors")));
        assert_eq!(named("a/b/tree/main"), of("a/b", None));
        for wrong in ["phot", "a", "../b", "a/..", "a b/c", "", "/a/b"] {
            assert_eq!(named(wrong), Err(()), "{wrong}");
        }
    }
}
