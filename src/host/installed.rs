//! Where this installation has its files, and the engine's options that follow from it; knows no host.

use crate::catalog::Places;
use crate::catalog::headers::Headers;
use crate::catalog::registry::Registry;
use crate::engine::device::{Launches, Precision, Processor};
use crate::engine::request::{EXACT_UP_TO, EngineOptions};
use crate::error::{Error, Result};
use crate::host::{cache_limit, log, other_programs, system};
use crate::text::text;
use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Folder of the loaded library; models may lie beside it.
pub fn library_folder() -> Option<PathBuf> {
    // Any function of ours tells in which file it is.
    system::file_of(library_folder as *const c_void)?.parent().map(Path::to_owned)
}

/// Where models are looked for: in our own folders, where the user has said, and where other programs keep theirs. A
/// list of the user's that is damaged counts as empty; `imagic-edit models` says so.
pub fn places() -> Places {
    let registry = registry_file().and_then(|file| Registry::read(&file)).unwrap_or_default();
    let headers = Headers::new(dirs::cache_dir().map(|cache| cache.join("imagic-edit/headers.json")));
    let mut places = Places::of(model_folders());
    (places.registry, places.shelves, places.headers) = (registry, other_programs::shelves(), headers);
    places
}

/// Our own folders of models: that of the installation, where the installer puts the built-in one, and downloads and
/// users their own, then the one beside our library.
pub fn model_folders() -> Vec<PathBuf> {
    data_folder().into_iter().chain(library_folder()).map(|folder| folder.join("models")).collect()
}

/// The page that Help opens; it comes with the models.
pub fn help_page() -> Option<PathBuf> {
    model_folders().into_iter().map(|folder| folder.join("help.html")).find(|page| page.is_file())
}

/// Where it is kept what the user has told of models.
pub fn registry_file() -> Result<PathBuf> {
    let folder = dirs::config_dir()
        .ok_or_else(|| Error::Host(text!("this account has no configuration folder; set HOME or XDG_CONFIG_HOME")))?;
    Ok(folder.join("imagic-edit/models.json"))
}

/// Where the installer puts launcher, library and models.
pub fn data_folder() -> Option<PathBuf> {
    Some(dirs::data_dir()?.join("imagic-edit"))
}

/// The engine's options on this machine, with tuned models in the platform's cache folder.
pub fn engine_options() -> Result<EngineOptions> {
    let cache = dirs::cache_dir()
        .ok_or_else(|| Error::Host(text!("this account has no cache folder; set HOME or XDG_CACHE_HOME")))?;
    engine_options_in(Some(cache.join("imagic-edit")))
}

/// As [`engine_options`] with tuned models in `cache_folder`, or in memory only.
pub fn engine_options_in(cache_folder: Option<PathBuf>) -> Result<EngineOptions> {
    let processor = processor()?;
    let cache_limit = cache_folder.as_deref().map_or(0, cache_limit::limit);
    Ok(EngineOptions {
        // Where nothing is to be kept, there is no log either.
        log: if cache_folder.is_some() { log::line } else { |_| () },
        cache_folder,
        cache_limit,
        resume_every: resume_every()?,
        free_memory: system::free_memory,
        processor,
        give_back: system::give_back_memory,
        exact_up_to: EXACT_UP_TO,
    })
}

/// Ten seconds, so that writing and a step included no more than fifteen are lost; or as many as the environment's
/// IMAGIC_RESUME_SECONDS says.
fn resume_every() -> Result<Duration> {
    let Some(given) = std::env::var_os("IMAGIC_RESUME_SECONDS") else { return Ok(Duration::from_secs(10)) };
    let given = given.to_string_lossy().into_owned();
    let seconds = given.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds
        .ok_or_else(|| Error::Parameter(text!("IMAGIC_RESUME_SECONDS is {given}, must be a number of seconds", given)))
}

/// The GPU where there is one, with CUDA's libraries in the folder `cuda` beside our library or in the installed copy.
/// It computes in TF32, unless the environment's IMAGIC_PRECISION is f32 or bf16; neither has been measured on a GPU.
/// IMAGIC_EXPERIMENTAL names what else is to be tried that was never run on one, see docs/CUDA.md.
fn processor() -> Result<Processor> {
    let libraries = library_folder().into_iter().chain(data_folder()).map(|folder| folder.join("cuda")).collect();
    let variable = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let precision = match variable("IMAGIC_PRECISION") {
        None => Precision::Tf32,
        Some(name) => Precision::named(&name)
            .ok_or_else(|| Error::Parameter(text!("IMAGIC_PRECISION is {name}, must be f32, tf32 or bf16", name)))?,
    };
    let launches = Launches::Eager;
    let processor = Processor::Fastest { libraries, precision, launches, eight_bit_moments: false };
    processor.with_experiments(&variable("IMAGIC_EXPERIMENTAL").unwrap_or_default()).map_err(|word| {
        Error::Parameter(text!(
            "IMAGIC_EXPERIMENTAL has {word}, must be graphs, moments8, or, in TF32, attention, with commas between \
             them",
            word
        ))
    })
}
