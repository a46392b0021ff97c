//! The command `edit`: one picture file in, one file for each eta out.
#![forbid(unsafe_code)]

use super::arguments::Arguments;
use super::picture::{self, Picture};
use super::progress::Bar;
use super::{Failure, model_folders, print};
use crate::catalog;
use crate::engine::Engine;
use crate::engine::request::{Edit, Progress, Tuned};
use crate::error::{Error, Hint};
use crate::host::report::{duration, edit_report};
use crate::host::{Host, edit_active_layer, engine_options, system};
use crate::image::LayerImage;
use crate::job::Worker;
use crate::params::{BUILTIN_MODEL, PARAMS, Params};
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What the command line asks for, checked as far as that goes without looking at files.
pub struct Order {
    input: PathBuf,
    output: PathBuf,
    /// Values by parameter id, all but eta.
    settings: Map<String, Value>,
    /// Empty: the one of the preset.
    etas: Vec<f64>,
    json: bool,
}

impl Order {
    /// Reads the arguments after `edit`.
    pub fn parse(arguments: &[OsString]) -> Result<Self, Failure> {
        let names: Vec<String> = PARAMS.iter().map(|param| param.id.replace('_', "-")).collect();
        let options: Vec<&str> = names.iter().map(String::as_str).chain(["output"]).collect();
        let arguments = Arguments::parse(arguments, &["json"], &options)?;
        let usage = |message: &str| Failure::Usage(message.to_owned());

        let input = match arguments.words() {
            [] => return Err(usage("name the picture to edit")),
            [input] => PathBuf::from(input),
            [_, second, ..] => {
                return Err(usage(&format!("one picture at a time; {} is one too many", second.to_string_lossy())));
            }
        };
        let output =
            PathBuf::from(arguments.one("output")?.ok_or_else(|| usage("say where the result goes: -o OUT.png"))?);
        if !output.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png")) {
            return Err(usage(&format!("the result is a PNG file; end {} with .png", output.display())));
        }
        let mut etas = Vec::new();
        let mut settings = Map::new();
        for (param, name) in PARAMS.iter().zip(&names) {
            if param.id != "eta" {
                arguments.one(name)?;
            }
            for value in arguments.all(name) {
                let value = json!(value.to_str().ok_or_else(|| usage(&format!("--{name} is not valid UTF-8")))?);
                let mut checked = Params::paper();
                checked.set(param.id, &value).map_err(|error| Failure::Usage(error.to_string()))?;
                if param.id != "eta" {
                    settings.insert(param.id.to_owned(), value);
                } else if etas.contains(&checked.eta) {
                    return Err(usage(&format!("--eta {} is given twice", checked.eta)));
                } else {
                    etas.push(checked.eta);
                }
            }
        }
        let prompt = settings.get("prompt").and_then(Value::as_str).unwrap_or_default();
        if prompt.trim().is_empty() {
            return Err(usage("say what the picture should become: --prompt TEXT"));
        }
        Ok(Self { input, output, settings, etas, json: arguments.has("json") })
    }

    fn params(&self, model_folders: &[PathBuf]) -> Result<Params, Error> {
        let named = self.settings.get("model").and_then(Value::as_str);
        catalog::find(named.unwrap_or(BUILTIN_MODEL), model_folders)?.params_for(&self.settings)
    }

    /// The file for `eta`: the output itself unless there are several.
    fn output_for(&self, eta: f64) -> PathBuf {
        if self.etas.len() < 2 {
            return self.output.clone();
        }
        let two_digits = format!("{eta:.2}");
        // More digits where two would give different values one name.
        let shown = if two_digits.parse() == Ok(eta) { two_digits } else { eta.to_string() };
        let mut name = self.output.file_stem().unwrap_or_default().to_owned();
        name.push(format!("-eta{shown}.png"));
        self.output.with_file_name(name)
    }
}

/// Edits the picture; the files of etas that were done stay when a later one fails or is stopped.
pub fn run(order: &Order) -> Result<(), Failure> {
    let started = Instant::now();
    let folders = model_folders();
    let mut params = order.params(&folders)?;
    let picture = picture::read(&order.input)?;
    let etas = if order.etas.is_empty() { vec![params.eta] } else { order.etas.clone() };
    for &eta in &etas {
        picture::check_output(&order.output_for(eta), &order.input)?;
    }
    for note in &picture.notes {
        eprintln!("note: {note}");
    }

    system::catch_stop_signals();
    let worker = Worker::start(Engine::new(engine_options()?))?;
    let mut file = PictureFile {
        picture: &picture,
        input: &order.input,
        output: order.output.clone(),
        bar: Bar::default(),
        hint: None,
    };
    let mut outputs = Vec::new();
    for &eta in &etas {
        params.eta = eta;
        file.output = order.output_for(eta);
        let started = Instant::now();
        let result = edit_active_layer(&mut file, &worker, &params, &folders);
        file.bar.clear();
        let edit = match result {
            Err(Error::Cancelled) => {
                return Err(Failure::Stopped(system::stop_signal().unwrap_or(libc::SIGINT)));
            }
            result => result?,
        };
        file.tell(edit.hint);
        eprintln!("{}", summary(&file.output, &edit, eta, started.elapsed().as_secs_f32()));
        for note in &edit.notes {
            eprintln!("note: {note}");
        }
        let mut report = edit_report(&edit, &picture.layer, &params);
        report.insert("path".into(), json!(file.output.to_string_lossy()));
        outputs.push(report);
    }
    if order.json {
        let report = json!({
            "input": order.input.to_string_lossy(),
            "outputs": outputs,
            "notes": picture.notes,
            "seconds": (started.elapsed().as_secs_f64() * 1e3).round() / 1e3,
        });
        print(&format!("{report:#}\n"))?;
    }
    Ok(())
}

fn summary(output: &Path, edit: &Edit, eta: f64, seconds: f32) -> String {
    let tuned = match edit.tuned {
        Tuned::Now => "tuned now",
        Tuned::InMemory => "already tuned",
        Tuned::OnDisk => "tuned earlier",
    };
    format!("wrote {} (eta {eta}, {tuned}, {})", output.display(), duration(seconds))
}

/// A picture file as a host: its only layer is the picture, the new layer is the output file.
struct PictureFile<'a> {
    picture: &'a Picture,
    input: &'a Path,
    output: PathBuf,
    bar: Bar,
    /// The hint that was told last.
    hint: Option<Hint>,
}

impl PictureFile<'_> {
    /// Tells a hint once, however many steps and etas it comes with.
    fn tell(&mut self, hint: Option<Hint>) {
        if let Some(hint) = hint.filter(|_| hint != self.hint) {
            self.bar.clear();
            eprintln!("hint: {hint}");
            self.hint = Some(hint);
        }
    }
}

impl Host for PictureFile<'_> {
    fn read_layer(&mut self) -> Result<LayerImage, Error> {
        Ok(self.picture.layer.clone())
    }

    fn document(&mut self) -> String {
        self.input.canonicalize().unwrap_or_else(|_| self.input.to_owned()).to_string_lossy().into_owned()
    }

    fn progress(&mut self, progress: &Progress) -> ControlFlow<()> {
        if system::stop_signal().is_some() {
            return ControlFlow::Break(());
        }
        self.tell(progress.hint);
        self.bar.show(progress);
        ControlFlow::Continue(())
    }

    fn insert_layer(&mut self, edit: &Edit, source: &LayerImage, _params: &Params) -> Result<(), Error> {
        picture::write(&self.output, &edit.picture.on(source).0, self.picture)
    }
}
