//! The command `doctor`: looks at everything an edit needs and says what is wrong and how to mend it; changes nothing.
#![forbid(unsafe_code)]

use super::help::{self, size};
use crate::catalog::registry::Registry;
use crate::catalog::{self, Model, Places};
use crate::engine::Engine;
use crate::engine::budget::cost::Estimate;
use crate::engine::device::WITH_CUDA;
use crate::error::{Doing, Error};
use crate::files::{self, Room};
use crate::host::installed::{
    data_folder, engine_options, engine_options_in, library_folder, model_folders, registry_file,
};
use crate::host::system::{self, LAUNCHER, LIBRARY};
use crate::host::{log, request, wait};
use crate::image::LayerImage;
use crate::job::Worker;
use crate::params::{BUILTIN_MODEL, DEFAULT_PRESET, Params};
use crate::text::Text;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

const INSTALL: &str = "install Imagic Edit again";

/// Tuned models and results need at least this much free disk.
const LEAST_DISK: u64 = 1 << 30;

/// The findings, and whether all of them are good.
pub fn examine() -> (String, bool) {
    let mut findings = Findings { text: format!("Imagic Edit {}\n", env!("CARGO_PKG_VERSION")), well: true };
    type Look = fn(&mut Findings);
    let parts: [(&str, Look); 5] = [
        ("Editors", editors),
        ("Installed copies", copies),
        ("Machine", machine),
        ("Models", models_found),
        ("Tuned models", cache),
    ];
    for (title, look_at) in parts {
        findings.text += &format!("\n{title}\n");
        look_at(&mut findings);
    }
    (findings.text, findings.well)
}

/// Writes `file` for whoever is to help: the `findings`, what the machine is, the log, and `texts` of the user's where
/// there are any.
pub fn report(file: &Path, findings: &str, texts: &str) -> Result<(), Error> {
    // Nobody's picture, whatever was mistyped.
    if file.exists() && !files::read(file).is_ok_and(|old| old.starts_with(b"Imagic Edit ")) {
        let name = file.display();
        let reason = format!("{name} is there already and no report; choose another name");
        return Err(Error::Host(Text::verbatim(reason)));
    }
    let mut report = format!("{findings}\nSystem\n");
    for (name, path) in [("system", "/etc/os-release"), ("kernel", "/proc/version")] {
        let text = files::read_text(Path::new(path)).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).or(text.lines().next());
        report += &format!("  {name}: {}\n", line.unwrap_or(std::env::consts::OS));
    }
    for (name, value) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("IMAGIC_") || name.starts_with("MIMALLOC_") || name.starts_with("RAYON_") {
            report += &format!("  {name}={}\n", value.to_string_lossy());
        }
    }
    report += "\nLog\n";
    for file in log::files() {
        // What is no text in it was not written by us.
        report += &String::from_utf8_lossy(&files::read(&file).unwrap_or_default());
    }
    if !texts.is_empty() {
        report += &format!("\nTuned models\n{texts}");
    }
    files::write_whole_by(file, |new| {
        new.write_all(log::without_home(&report).as_bytes()).map_err(Error::file(Doing::Write, file))
    })
}

struct Findings {
    text: String,
    well: bool,
}

impl Findings {
    fn good(&mut self, what: &str) {
        self.text += &format!("  ok     {}", help::wrapped(what, 9).trim_start());
    }

    fn wrong(&mut self, what: &str, remedy: &str) {
        self.well = false;
        self.text += &format!("  WRONG  {}", help::wrapped(what, 9).trim_start());
        self.text += &help::wrapped(&format!("-> {remedy}"), 9);
    }
}

/// Host editors on the PATH, and whether the plug-in lies where each of them looks.
fn editors(findings: &mut Findings) {
    let found = [
        gimp(findings, "2.10", &["gimp-2.10", "gimp-console-2.10"], &gimp2_folders()),
        gimp(findings, "3", &["gimp-3.0", "gimp-3.2", "gimp-3", "gimp-console-3.0"], &gimp3_folders()),
    ];
    if !found.contains(&true) && on_path("krita").is_none() {
        // The command line edits without them.
        let what = "neither GIMP nor Krita is on the PATH: pictures are edited on the command line";
        findings.good(&format!("{what}; for them, install one, then {INSTALL}"));
    }
    krita(findings);
}

/// Krita needs the package, its way to the engine, and a line in its settings.
fn krita(findings: &mut Findings) {
    let Some(program) = on_path("krita") else {
        return findings.good("Krita is not on the PATH, so nothing is to be said of it");
    };
    findings.good(&format!("Krita, {}", program.display()));
    let again = &format!("{INSTALL} and start Krita again");
    // The account's own comes before the system's, as Krita has it.
    let data = dirs::data_dir().into_iter().chain([PathBuf::from("/usr/share")]);
    let mut packages = data.map(|data| data.join("krita/pykrita/imagic"));
    let whole =
        |package: &PathBuf| package.join("__init__.py").is_file() && package.with_extension("desktop").is_file();
    let Some(package) = packages.find(whole) else {
        return findings.wrong("the plug-in is not installed in Krita", again);
    };
    let launcher = package.join(LAUNCHER);
    match first_line(&launcher, "--version") {
        Some(version) => findings.good(&format!("{version} serves Krita from {}", launcher.display())),
        None => findings.wrong(&format!("{} does not start", launcher.display()), again),
    }
    // Where Qt keeps such files on each system.
    let folder = if cfg!(windows) { dirs::config_local_dir() } else { dirs::preference_dir() };
    let settings = folder.map(|folder| folder.join("kritarc")).unwrap_or_default();
    let enabled = files::read_text(&settings).is_ok_and(|text| is_enabled_in_krita(&text));
    if !enabled {
        let remedy =
            "in Krita choose Settings > Configure Krita > Python Plugin Manager > Imagic Edit, and start it again";
        findings.wrong(&format!("the plug-in is switched off in {}", settings.display()), remedy);
    }
}

/// What Krita's settings say of our package.
fn is_enabled_in_krita(settings: &str) -> bool {
    let lines = settings.lines().map(str::trim);
    let section = lines.skip_while(|line| *line != "[python]").skip(1).take_while(|line| !line.starts_with('['));
    section.filter_map(|line| line.strip_prefix("enable_imagic=")).last() == Some("true")
}

/// One GIMP: whether it is here, and whether the plug-in lies in one of the `folders` where it looks.
fn gimp(findings: &mut Findings, series: &str, programs: &[&str], folders: &[PathBuf]) -> bool {
    let Some(program) = programs.iter().copied().find_map(on_path) else {
        // Flatpak and snap keep their programs for themselves; their profiles tell.
        return folders.iter().any(|folder| folder.exists());
    };
    let version = first_line(&program, "--version").and_then(|line| Some(line.rsplit(' ').next()?.to_owned()));
    findings.good(&format!("GIMP {}, {}", version.as_deref().unwrap_or(series), program.display()));
    if folders.iter().all(|folder| !folder.exists()) {
        let what = format!("the plug-in is not installed in GIMP {series}");
        findings.wrong(&what, &format!("{INSTALL} and start GIMP again"));
    }
    true
}

/// Where GIMP 2.10 looks for our plug-in: the profiles, then the whole machine.
fn gimp2_folders() -> Vec<PathBuf> {
    gimp_folders("GIMP2_DIRECTORY", &["2.10"], "2.0")
}

/// As [`gimp2_folders`] for GIMP 3, whose versions have profiles of their own and one folder for the whole machine.
fn gimp3_folders() -> Vec<PathBuf> {
    gimp_folders("GIMP3_DIRECTORY", &["3.0", "3.2"], "3.0")
}

fn gimp_folders(variable: &str, versions: &[&str], system: &str) -> Vec<PathBuf> {
    let ordinary = dirs::config_dir().into_iter();
    let home = dirs::home_dir().into_iter();
    let packaged =
        home.flat_map(|home| [home.join(".var/app/org.gimp.GIMP/config"), home.join("snap/gimp/current/.config")]);
    let configs: Vec<PathBuf> = ordinary.chain(packaged).collect();
    let profiles = configs.iter().flat_map(|config| versions.iter().map(|version| config.join("GIMP").join(version)));
    let named = std::env::var_os(variable).map(PathBuf::from);
    // Debian's GIMP 3 has its plug-ins where libraries of one processor lie.
    let libraries = ["/usr/lib".to_owned(), format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH)];
    let systems = libraries.map(|libraries| Path::new(&libraries).join("gimp").join(system));
    let all = named.into_iter().chain(profiles).chain(systems);
    all.map(|folder| folder.join("plug-ins/imagic-edit")).collect()
}

/// Every folder that holds launcher and library: complete, startable, and all of this build?
fn copies(findings: &mut Findings) {
    let own = library_folder();
    let folders = own.clone().into_iter().chain(data_folder()).chain(gimp2_folders()).chain(gimp3_folders());
    let own_library = own.and_then(|folder| files::read(&folder.join(LIBRARY)).ok());
    let mut seen = BTreeSet::new();
    for folder in folders {
        // What a system's package has in GIMP's folder is a link.
        let real = folder.join(LAUNCHER).canonicalize().ok().and_then(|launcher| Some(launcher.parent()?.to_owned()));
        let folder = real.unwrap_or(folder);
        let (launcher, library) = (folder.join(LAUNCHER), folder.join(LIBRARY));
        let shown = folder.display();
        // A folder without either holds models at most.
        if !(launcher.exists() || library.exists()) || !seen.insert(folder.clone()) {
            continue;
        }
        if !system::is_program(&launcher) || !library.is_file() {
            findings.wrong(&format!("{shown} lacks {LAUNCHER} (executable) or {LIBRARY}"), INSTALL);
            continue;
        }
        let expected = concat!("imagic-edit ", env!("CARGO_PKG_VERSION"));
        match first_line(&launcher, "--version") {
            Some(version) if version != expected => {
                findings.wrong(&format!("{shown} holds {version}, this is {expected}"), INSTALL)
            }
            Some(_) if own_library.is_some() && files::read(&library).ok() != own_library => {
                findings.wrong(&format!("{shown} holds another build of the same version"), INSTALL);
            }
            Some(version) => findings.good(&format!("{version} in {shown}")),
            None => findings.wrong(&format!("{} does not start", launcher.display()), INSTALL),
        }
    }
}

fn machine(findings: &mut Findings) {
    if let Some(free) = system::free_memory() {
        findings.good(&format!("{} of memory free{}", size(free), system::limited_by()));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let processor = format!("processor with {cores} cores{}", vector_units());
    let chosen = match engine_options_in(None) {
        Ok(options) => options.processor.choose(),
        Err(error) => return findings.wrong(&error.to_string(), "set it to one of these, or unset it"),
    };
    match (chosen.gpu, chosen.reason) {
        (Some(gpu), _) => {
            findings.good(&processor);
            findings.good(&format!("GPU {gpu}; edits run on it"));
        }
        (None, Some(reason)) if WITH_CUDA => {
            findings.good(&format!("{processor}; edits run on it and not on a GPU, because {reason}"));
        }
        (None, _) => findings.good(&format!("{processor}; edits run on it")),
    }
}

#[cfg(target_arch = "x86_64")]
fn vector_units() -> &'static str {
    if is_x86_feature_detected!("avx512f") {
        ", AVX-512"
    } else if is_x86_feature_detected!("avx2") {
        ", AVX2"
    } else {
        ", without AVX2 (slow)"
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn vector_units() -> &'static str {
    ""
}

fn models_found(findings: &mut Findings) {
    let places = Places::of(model_folders());
    let entries = places.folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    // The installed program's own folder is that of the account too.
    let found: BTreeMap<PathBuf, PathBuf> =
        entries.filter_map(|entry| Some((entry.path().canonicalize().ok()?, entry.path()))).collect();
    for folder in found.values().filter(|folder| folder.is_dir()) {
        match catalog::find(&folder.to_string_lossy(), &Places::default()).and_then(|model| draw(&model)) {
            Ok(estimate) => tuning(findings, folder, &estimate),
            Err(error) => findings.wrong(&error.to_string(), "copy the model again, or remove its folder"),
        }
    }
    if let Err(error) = registry_file().and_then(|file| Registry::read(&file)) {
        findings.wrong(&error.to_string(), "nothing that you have told of models counts until then");
    }
    if catalog::find(BUILTIN_MODEL, &places).is_err() {
        findings.wrong(&format!("the built-in model {BUILTIN_MODEL} is missing"), INSTALL);
    }
}

/// What tuning the model needs of memory, after a tiny picture was drawn with it untuned, which proves that all its
/// parts can be read and fit each other.
fn draw(model: &Model) -> Result<Estimate, Error> {
    let params = Params { prompt: "a test".into(), ..model.params(DEFAULT_PRESET)? };
    let layer = Arc::new(LayerImage::new(1, 1, vec![0; 4]).expect("one pixel is four values"));
    // The tiny picture is no one's, so no hint about it is wanted.
    let model = Model { familiar_psnr: None, ..model.clone() };
    let asked = request(layer.clone(), String::new(), params.clone(), model.clone());
    let engine = Engine::new(engine_options_in(None)?);
    let estimate = engine.estimate(&asked)?;
    let untuned = Params { embedding_steps: 0, tuning_steps: 0, sampling_steps: 1, resolution: 64, ..params };
    let worker = Worker::start(engine)?;
    let job = worker.submit(request(layer, String::new(), untuned, model));
    wait(job, |_| ControlFlow::Continue(())).map(|_| estimate)
}

/// Says what tuning the model in `folder` takes; wrong only where no mode of tuning fits.
fn tuning(findings: &mut Findings, folder: &Path, estimate: &Estimate) {
    let plan = estimate.memory.as_ref().expect("nothing is tuned yet");
    let whose = if estimate.on_gpu { "the GPU's memory" } else { "memory" };
    let what = format!("{}, an edit needs {} of {whose}", folder.display(), size(plan.need));
    match (plan.note(), plan.available) {
        (Err(_), Some(available)) => {
            let what = format!("{what}, {} can be had", size(available));
            findings.wrong(&what, "close other programs, or choose a smaller model");
        }
        (Err(error), None) => findings.wrong(&error.to_string(), "choose a smaller model"),
        (Ok(_), _) => findings.good(&what),
    }
}

fn cache(findings: &mut Findings) {
    let options = match engine_options() {
        Ok(options) => options,
        Err(error) => return findings.wrong(&error.to_string(), "set HOME"),
    };
    let Some(folder) = options.cache_folder else { return };
    // The folder is made by the first edit; until then its parents tell.
    let existing = folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    if !existing.is_dir() {
        return findings.wrong(&format!("{} is not a folder", existing.display()), "move it, or set XDG_CACHE_HOME");
    }
    // A file is made there and removed: no permission tells of a file system that is read-only.
    if let Err(error) = Room::for_file(&existing.join("imagic-edit"), 0) {
        return findings.wrong(&error.to_string(), "make the folder writable, or set XDG_CACHE_HOME");
    }
    let (used, limit) = (bytes_in(&folder), options.cache_limit);
    findings.good(&format!("{} of at most {} used in {}", size(used), size(limit), folder.display()));
    match fs4::available_space(existing) {
        Ok(free) if free < LEAST_DISK => {
            let what = format!("{} of disk free, {} is the least that makes sense", size(free), size(LEAST_DISK));
            findings.wrong(&what, "free some disk, for example with: imagic-edit cache clear");
        }
        Ok(free) => findings.good(&format!("{} of disk free", size(free))),
        Err(_) => {}
    }
}

fn bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let known = entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)));
    known.map(|(path, about)| if about.is_dir() { bytes_in(&path) } else { about.len() }).sum()
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let program = format!("{program}{}", std::env::consts::EXE_SUFFIX);
    std::env::split_paths(&path).map(|folder| folder.join(&program)).find(|file| file.is_file())
}

/// First line that `program argument` prints, if it ends well.
fn first_line(program: &Path, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::budget::plan::Plan;
    use crate::engine::tuning::mode::Mode;

    #[test]
    fn a_model_is_wrong_only_where_no_mode_of_tuning_fits() {
        // Stable Diffusion: more than these 8 GB for all weights, less for adapters.
        for (available, well) in [(Some(8_000_000_000), true), (Some(3_000_000_000), false), (None, true)] {
            let plan = Plan { mode: Mode::Lora, need: 5_600_000_000, available, best: 14_300_000_000 };
            let estimate = Estimate { tuned: false, goes_on: None, seconds: None, memory: Some(plan), on_gpu: false };
            let mut findings = Findings { text: String::new(), well: true };
            tuning(&mut findings, Path::new("model"), &estimate);
            assert_eq!(findings.well, well, "{available:?}: {}", findings.text);
            assert!(findings.text.contains("model, an edit needs 5.6 GB of memory"), "{}", findings.text);
        }
    }

    #[test]
    fn the_plug_in_is_enabled_by_its_line_in_the_right_section() {
        for (settings, enabled) in [
            ("[python]\nenable_imagic=true\n", true),
            ("[a]\nb=c\n\n[python]\nenable_other=true\nenable_imagic=true\n[z]\n", true),
            ("[python]\nenable_imagic=false\n", false),
            ("[a]\nenable_imagic=true\n[python]\n", false),
            ("[python]\n[z]\nenable_imagic=true\n", false),
            ("", false),
        ] {
            assert_eq!(is_enabled_in_krita(settings), enabled, "{settings}");
        }
    }
}
