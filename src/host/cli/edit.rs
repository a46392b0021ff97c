//! The command `edit`: one picture file in, one file for each eta out.
#![forbid(unsafe_code)]

use super::arguments::Arguments;
use super::outcome::{Failure, print};
use super::picture::{self, Existing, Format};
use super::progress::Bar;
use super::selection;
use crate::catalog::written::text_of;
use crate::catalog::{self, Entry};
use crate::engine::Engine;
use crate::engine::request::{Edit, EditRequest, Tuned};
use crate::error::{Error, Hint};
use crate::files::Room;
use crate::host::installed::{engine_options, engine_options_in, places};
use crate::host::photograph::{is_photograph, not_given_back};
use crate::host::policy::LOOKING;
use crate::host::report::{FEW_STEPS, cost_text, duration, edit_report};
use crate::host::wording::{TextRoom, door, remarks};
use crate::host::{request, system, wait, wait_for_estimate};
use crate::job::Worker;
use crate::params::{PARAMS, Params};
use crate::text::{Text, plain, tell};
use serde_json::{Map, Value, json};
use std::ffi::{OsString, c_int};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What dialogs call eta.
const STRENGTH: &str = "strength";

/// Behind what the model cannot draw, where there is one for photographs and where there is none.
const CHOOSE_ANOTHER: &str = "Name another one with --model; 'imagic-edit models' lists them.";
const GET_ANOTHER: &str =
    "For photographs: 'imagic-edit models download photo' (2 GB), or name a file that you have with --model.";

/// On a square of a smaller side no model that is known draws a picture.
const LEAST_SIDE: u32 = 16;

/// What the command line asks for, checked as far as that goes without looking at files.
pub struct Order {
    input: PathBuf,
    output: PathBuf,
    /// A picture of what is to be edited; `None` is everything.
    selection: Option<PathBuf>,
    /// Values by parameter id, all but eta.
    settings: Map<String, Value>,
    /// Empty: the one of the preset.
    etas: Vec<f64>,
    json: bool,
    /// Whether nothing of it is kept but the output.
    private: bool,
    /// What becomes of outputs that are there.
    existing: Existing,
}

impl Order {
    /// Reads the arguments after `edit`.
    pub fn parse(arguments: &[OsString]) -> Result<Self, Failure> {
        let names: Vec<String> = PARAMS.iter().map(|param| param.id.replace('_', "-")).collect();
        let options: Vec<&str> = names.iter().map(String::as_str).chain(["output", "selection", STRENGTH]).collect();
        let arguments = Arguments::parse(arguments, &["force", "json", "private"], &options)?;
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
        Format::of(&output).map_err(Failure::Usage)?;
        let selection = arguments.one("selection")?.map(PathBuf::from);
        let mut etas = Vec::new();
        let mut settings = Map::new();
        for (param, name) in PARAMS.iter().zip(&names) {
            if param.id != "eta" {
                arguments.one(name)?;
            }
            let called = if param.id == "eta" { STRENGTH } else { name };
            for value in arguments.all(name).chain(arguments.all(called).filter(|_| called != name)) {
                // A path may be any bytes.
                let as_path = || (param.id == "model").then(|| text_of(Path::new(value)));
                let value = value.to_str().map(str::to_owned).or_else(as_path);
                let value = json!(value.ok_or_else(|| usage(&format!("--{name} is not valid UTF-8")))?);
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
        if plain(prompt).is_empty() {
            return Err(usage("say what the picture should become: --prompt TEXT"));
        }
        let mut checked = Params::paper();
        checked.set_all(&settings).map_err(|error| Failure::Usage(error.to_string()))?;
        let side = checked.resolution;
        if side > 0 && side < LEAST_SIDE {
            return Err(usage(&format!(
                "resolution is {side}, must be {LEAST_SIDE} or more, or 0 for the model's own; no model draws on \
                 fewer pixels"
            )));
        }
        let (json, private) = (arguments.has("json"), arguments.has("private"));
        let existing = if arguments.has("force") { Existing::Replaced } else { Existing::Stays };
        Ok(Self { input, output, selection, settings, etas, json, private, existing })
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
        name.push(format!("-eta{shown}."));
        name.push(self.output.extension().unwrap_or_default());
        self.output.with_file_name(name)
    }
}

/// Edits the picture; the files of etas that were done stay when a later one fails or is stopped.
pub fn run(order: &Order) -> Result<(), Failure> {
    system::be_killed_first();
    let started = Instant::now();
    let places = places();
    let (mut params, model) = catalog::params_of(&order.settings, &places)?;
    let picture = picture::read(&order.input)?;
    let selection =
        order.selection.as_ref().map(|path| selection::read(path, &picture.layer, &order.input)).transpose()?;
    let etas = if order.etas.is_empty() { vec![params.eta] } else { order.etas.clone() };
    let rooms =
        etas.iter().map(|&eta| picture::check_output(&order.output_for(eta), &order.input, &picture, order.existing));
    // One for each output, which takes it in the end.
    let mut rooms = rooms.collect::<Result<Vec<Room>, Error>>()?.into_iter();
    let prompt = order.settings.get("prompt").and_then(Value::as_str).unwrap_or_default();
    let format = Format::of(&order.output).map_err(Failure::Usage)?;
    let mut notes = [picture.notes.clone(), picture.left_out(format)].concat();
    notes.extend(remarks(prompt, &model).iter().map(Text::to_string));
    let length = TextRoom::default().of(prompt, &model).filter(|(_, fits)| !fits);
    notes.extend(length.map(|(length, _)| length.to_string()));
    for note in &notes {
        tell(format_args!("note: {note}"));
    }
    if places.headers.of(&model.path).is_ok_and(|about| about.few_steps) {
        tell(format_args!("hint: {FEW_STEPS}"));
    }
    let door = door(&model, || is_photograph(&picture.layer));
    let is_foreign = door.is_some();
    if let Some(door) = door {
        let has_more = catalog::table(&places, Some(LOOKING)).iter().any(Entry::is_for_photographs);
        let others = if has_more { CHOOSE_ANOTHER } else { GET_ANOTHER };
        tell(format_args!("hint: {door} {others}"));
    }

    let mut stop = system::StopSignals::new();
    let options = if order.private { engine_options_in(None)? } else { engine_options()? };
    let worker = Worker::start(Engine::new(options))?;
    let document = order.input.canonicalize().unwrap_or_else(|_| order.input.clone()).to_string_lossy().into_owned();
    // It has been told already.
    let mut screen = Screen { is_told: is_foreign, ..Screen::default() };
    let mut outputs = Vec::new();
    let mut failed = None;
    for &eta in &etas {
        params.eta = eta;
        let output = order.output_for(eta);
        let started = Instant::now();
        let request = request(picture.layer.clone(), document.clone(), params.clone(), model.clone());
        let request = EditRequest { selection: selection.clone(), ..request };
        let estimate = wait_for_estimate(&worker.estimate(request.clone()))?;
        if estimate.goes_on.is_some() {
            tell(cost_text(&estimate));
        }
        let edit = wait(worker.submit(request), |progress| {
            if let Some(first) = stop.look() {
                if first {
                    screen.bar.clear();
                    tell("stopping within a step, and keeping what is done; three times Ctrl+C ends at once");
                }
                return ControlFlow::Break(());
            }
            screen.tell(progress.hint);
            screen.bar.show(progress);
            ControlFlow::Continue(())
        });
        screen.bar.clear();
        let edit = match edit {
            Err(Error::Cancelled) => return Err(Failure::Stopped(stop.signal() as c_int)),
            edit => edit?,
        };
        let result = edit.picture.on(&picture.layer).0;
        let unlike = not_given_back(eta, &picture.layer, &edit.picture);
        drop(rooms.next());
        let (output, written) = match picture::write(&output, &result, &picture, order.existing) {
            Ok(written) => (output, written),
            // Nothing of an hour's work is lost for that.
            Err(error) => {
                let rescued = picture::write_elsewhere(&output, &result, &picture);
                let Some(rescued) = rescued else { return Err(error.into()) };
                failed = Some(error);
                (rescued, Vec::new())
            }
        };
        screen.tell(edit.hint);
        tell(summary(&output, &edit, eta, started.elapsed().as_secs_f32()));
        for note in edit.notes.iter().chain(&unlike).map(Text::to_string).chain(written) {
            tell(format_args!("note: {note}"));
        }
        let mut report = edit_report(&edit, &picture.layer, &params);
        report["path"] = json!(output.to_string_lossy());
        outputs.push(report);
    }
    if order.json {
        let report = json!({
            "input": order.input.to_string_lossy(),
            "outputs": outputs,
            "notes": notes,
            "seconds": (started.elapsed().as_secs_f64() * 1e3).round() / 1e3,
        });
        print(&format!("{report:#}\n"))?;
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

fn summary(output: &Path, edit: &Edit, eta: f64, seconds: f32) -> String {
    let tuned = match edit.tuned {
        Tuned::Now => "tuned now",
        Tuned::InMemory => "already tuned",
        Tuned::OnDisk => "tuned earlier",
    };
    format!("wrote {} (eta {eta}, {tuned}, {})", output.display(), duration(seconds))
}

/// What the person sees meanwhile.
#[derive(Default)]
struct Screen {
    bar: Bar,
    /// Whether what a hint would say was said before.
    is_told: bool,
    /// The hint that was told last.
    hint: Option<Hint>,
}

impl Screen {
    /// Tells a hint once, however many steps and etas it comes with.
    fn tell(&mut self, hint: Option<Hint>) {
        if let Some(hint) = hint.filter(|_| hint != self.hint && !self.is_told) {
            self.bar.clear();
            tell(format_args!("hint: {hint}"));
            self.hint = Some(hint);
        }
    }
}
