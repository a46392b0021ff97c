//! The command `serve`: the engine as a child process of a host program, by messages over standard input and output. What
//! `imagic-edit serve --help` prints is the protocol.
//!
//! A host that loads the library dies with it; this way only the child does, and the user's unsaved work stays.
#![forbid(unsafe_code)]

use super::{Failure, model_folders};
use crate::catalog;
use crate::engine::Engine;
use crate::engine::budget::cost::Estimate;
use crate::engine::request::{Edit, EditRequest, Progress};
use crate::error::{Doing, Error, Result};
use crate::host::capi::ImagicFormat;
use crate::host::capi::pixels::Layout;
use crate::host::language::{language, translate};
use crate::host::last_values::{last_values, remember_values};
use crate::host::policy;
use crate::host::report::{self, edit_report, layer_name, model_report, parameters_report, progress_text};
use crate::host::{self, engine_options, system};
use crate::image::{LayerImage, MAX_AREA};
use crate::job::{Estimating, Job, JobState, Worker};
use crate::params::{BUILTIN_MODEL, Params};
use crate::text::{Text, text};
use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::io::{BufRead, BufReader, Read, Write, stdin, stdout};
use std::path::PathBuf;
use std::sync::Arc;

/// Version of the protocol. It grows with every change that a host would notice.
const PROTOCOL: u32 = 3;

/// Bytes of a message's line; a prompt of a thousand words is a hundredth of it.
const MAX_LINE: u64 = 1 << 20;

/// Bytes of the largest picture, as 16-bit RGBA.
const MAX_PIXELS: u64 = MAX_AREA * 8;

/// What a host asks for.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
enum Request {
    Edit(EditOrder),
    Estimate(EditOrder),
    Stop { job: u64 },
    Models,
    Model { name: String },
    Remember { params: Map<String, Value> },
}

#[derive(Deserialize)]
struct EditOrder {
    job: u64,
    params: Map<String, Value>,
    #[serde(default)]
    document: String,
    #[serde(default)]
    previews: u32,
    // Of the pixels that follow; all three are left out when the picture that came last is meant.
    width: Option<u32>,
    height: Option<u32>,
    format: Option<PixelFormat>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PixelFormat {
    Rgba8,
    Bgra8,
    Rgba16,
    Bgra16,
}

/// What the reader's thread found on standard input.
enum Message {
    /// A JSON object, and the bytes that followed it.
    Request(Map<String, Value>, Vec<u8>),
    /// What follows cannot be told apart any more.
    Broken(String),
}

/// One edit that was asked for and has not ended.
struct Running {
    number: u64,
    job: Job,
    source: Arc<LayerImage>,
    params: Params,
    format: PixelFormat,
    told: Option<Progress>,
}

/// One estimate that was asked for.
struct Estimated {
    number: u64,
    estimating: Estimating,
}

struct Server {
    worker: Worker,
    folders: Vec<PathBuf>,
    running: Vec<Running>,
    estimates: Vec<Estimated>,
    /// The picture that came last, with its format.
    picture: Option<(Arc<LayerImage>, PixelFormat)>,
}

/// Serves until standard input ends, which it does when the host closes it, ends or is killed.
pub fn run() -> std::result::Result<(), Failure> {
    system::yield_to_other_programs();
    let worker = Worker::start(Engine::new(engine_options()?))?;
    let folders = model_folders();
    let mut server = Server { worker, folders, running: Vec::new(), estimates: Vec::new(), picture: None };
    let outcome = server.serve(&read_in_background()?);
    // Dropping the worker would wait for the running step, and nobody is left to wait for.
    std::mem::forget(server);
    Ok(outcome?)
}

impl Server {
    fn serve(&mut self, inbox: &Receiver<Message>) -> Result<()> {
        say(&self.hello(), &[])?;
        loop {
            let message = if self.running.is_empty() && self.estimates.is_empty() {
                inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                inbox.recv_timeout(policy::POLL)
            };
            match message {
                Ok(Message::Request(request, pixels)) => self.answer(request, &pixels)?,
                Ok(Message::Broken(reason)) => {
                    say(&complaint(None, Text::verbatim(&reason)), &[])?;
                    return Err(Error::Host(Text::verbatim(reason)));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            self.look_at_jobs()?;
        }
    }

    fn hello(&self) -> Value {
        json!({
            "event": "hello",
            "protocol": PROTOCOL,
            "version": env!("CARGO_PKG_VERSION"),
            "parameters": parameters_report(translate)["parameters"],
            "models": self.models(),
            "builtin_model": BUILTIN_MODEL,
            "last_values": last_values().map(|params| params.to_json()),
            "policy": told_policy(),
            "texts": {
                "other_models": translate(&report::OTHER_MODELS),
                "first_edit": translate(&report::FIRST_EDIT),
                "known_image": translate(&report::KNOWN_IMAGE),
                "stopping": translate(&report::STOPPING),
                "stopped": translate(&report::STOPPED),
            },
            "translations": language().entries(),
        })
    }

    fn models(&self) -> Vec<Value> {
        catalog::list(&self.folders).iter().map(|model| model_report(model, translate)).collect()
    }

    fn answer(&mut self, request: Map<String, Value>, pixels: &[u8]) -> Result<()> {
        let job = request.get("job").and_then(Value::as_u64);
        let answered = match serde_json::from_value(Value::Object(request)) {
            Ok(Request::Edit(order)) => self.edit(order, pixels).map(|()| None),
            Ok(Request::Estimate(order)) => self.estimate(order, pixels).map(|()| None),
            Ok(Request::Stop { job }) => {
                self.running.iter().filter(|running| running.number == job).for_each(|running| running.job.cancel());
                Ok(None)
            }
            Ok(Request::Models) => Ok(Some(json!({ "event": "models", "models": self.models() }))),
            Ok(Request::Model { name }) => Ok(Some(match catalog::find(&name, &self.folders) {
                Ok(model) => json!({ "event": "model", "name": name, "model": model_report(&model, translate) }),
                Err(error) => {
                    let message = translate(&error.text().sentence());
                    json!({ "event": "model", "name": name, "model": null, "message": message })
                }
            })),
            Ok(Request::Remember { params }) => remember(&params).map(|()| None),
            Err(error) => Err(Error::Host(Text::verbatim(format!("this message makes no sense: {error}")))),
        };
        match answered {
            Ok(Some(answer)) => say(&answer, &[]),
            Ok(None) => Ok(()),
            Err(error) => say(&complaint(job, error.text()), &[]),
        }
    }

    fn edit(&mut self, order: EditOrder, pixels: &[u8]) -> Result<()> {
        let number = order.job;
        if self.running.iter().any(|running| running.number == number) {
            return Err(Error::Host(Text::verbatim(format!(
                "job {number} runs already; give every job a number of its own"
            ))));
        }
        let (request, format) = self.request(order, pixels)?;
        let (source, params) = (request.layer.clone(), request.params.clone());
        self.running.push(Running { number, job: self.worker.submit(request), source, params, format, told: None });
        Ok(())
    }

    fn estimate(&mut self, order: EditOrder, pixels: &[u8]) -> Result<()> {
        let number = order.job;
        let (request, _) = self.request(order, pixels)?;
        self.estimates.push(Estimated { number, estimating: self.worker.estimate(request) });
        Ok(())
    }

    fn request(&mut self, order: EditOrder, pixels: &[u8]) -> Result<(EditRequest, PixelFormat)> {
        if let (Some(width), Some(height), Some(format)) = (order.width, order.height, order.format) {
            let layout = format.layout(width, height)?;
            if pixels.len() != layout.bytes {
                let (got, expected) = (pixels.len(), layout.bytes);
                return Err(Error::Host(Text::verbatim(format!(
                    "{got} bytes of pixels came, {width}x{height} pixels are {expected}"
                ))));
            }
            let layer = layout.read(pixels).map_err(|failure| Error::Image(failure.text))?;
            self.picture = Some((layer.into(), format));
        } else if order.width.is_some() || order.height.is_some() || order.format.is_some() || !pixels.is_empty() {
            return Err(Error::Host(Text::verbatim(
                "width, height, format and bytes belong together; give all or none",
            )));
        }
        let Some((layer, format)) = self.picture.clone() else {
            return Err(Error::Host(Text::verbatim("no picture has come yet; give width, height, format and bytes")));
        };
        let mut request = host::request_for(&order.params, layer, order.document, &self.folders)?;
        request.previews = order.previews;
        Ok((request, format))
    }

    /// Tells what has changed.
    fn look_at_jobs(&mut self) -> Result<()> {
        let mut running = std::mem::take(&mut self.running);
        for mut one in running.drain(..) {
            match one.job.poll() {
                JobState::Running(progress) => {
                    if let Some(progress) = progress.filter(|progress| one.told.as_ref() != Some(progress)) {
                        one.tell_progress(progress)?;
                    }
                    self.running.push(one);
                }
                JobState::Ended(Ok(edit)) => one.tell_result(&edit)?,
                JobState::Ended(Err(Error::Cancelled)) => say(&json!({ "event": "stopped", "job": one.number }), &[])?,
                JobState::Ended(Err(error)) => say(&complaint(Some(one.number), error.text()), &[])?,
            }
        }
        let mut estimates = std::mem::take(&mut self.estimates);
        for one in estimates.drain(..) {
            match one.estimating.poll() {
                None => self.estimates.push(one),
                Some(Ok(estimate)) => say(&estimate_message(one.number, &estimate), &[])?,
                Some(Err(error)) => say(&complaint(Some(one.number), error.text()), &[])?,
            }
        }
        Ok(())
    }
}

impl Running {
    /// With the pixels of a picture that has not been shown yet.
    fn tell_progress(&mut self, progress: Progress) -> Result<()> {
        let mut message = progress_message(self.number, &progress);
        let shown = self.told.as_ref().and_then(|told| told.preview.as_ref());
        let is_new = |preview: &&Arc<LayerImage>| !shown.is_some_and(|shown| Arc::ptr_eq(shown, preview));
        let mut pixels = Vec::new();
        if let Some(preview) = progress.preview.as_ref().filter(is_new) {
            let layout = self.format.layout(preview.width(), preview.height())?;
            pixels.resize(layout.bytes, 0);
            layout.write(preview, &mut pixels);
            message["preview"] = json!({ "width": preview.width(), "height": preview.height() });
            message["bytes"] = pixels.len().into();
        }
        self.told = Some(progress);
        say(&message, &pixels)
    }

    fn tell_result(&self, edit: &Edit) -> Result<()> {
        let layout = self.format.layout(self.source.width(), self.source.height())?;
        let mut pixels = vec![0; layout.bytes];
        layout.write(&edit.picture.on(&self.source).0, &mut pixels);
        let message = json!({
            "event": "done",
            "job": self.number,
            "name": layer_name(&self.params),
            "summary": translate(&report::summary(edit)),
            "report": edit_report(edit, &self.source, &self.params),
            "bytes": pixels.len(),
        });
        say(&message, &pixels)
    }
}

impl PixelFormat {
    /// Rows without gaps.
    fn layout(self, width: u32, height: u32) -> Result<Layout> {
        let (format, pixel) = match self {
            Self::Rgba8 => (ImagicFormat::Rgba8, 4),
            Self::Bgra8 => (ImagicFormat::Bgra8, 4),
            Self::Rgba16 => (ImagicFormat::Rgba16, 8),
            Self::Bgra16 => (ImagicFormat::Bgra16, 8),
        };
        let stride = (width as usize).saturating_mul(pixel);
        Layout::new(format as u32, width, height, stride).map_err(|failure| Error::Image(failure.text))
    }
}

/// What Krita's dialog does as GIMP's do.
fn told_policy() -> Value {
    let button = |button: &&policy::Button| {
        let texts = json!({ "label": translate(&button.label), "tooltip": translate(&button.tooltip) });
        (button.id.to_owned(), texts)
    };
    json!({
        "strengths": policy::STRENGTHS,
        "seeds": policy::SEEDS,
        "new_seeds": policy::NEW_SEEDS,
        "previews": policy::PREVIEWS,
        "shown_side": policy::SHOWN_SIDE,
        "at_once": policy::AT_ONCE,
        "pause": policy::PAUSE.as_millis() as u64,
        "averaged": policy::AVERAGED,
        "remembered_runs": policy::REMEMBERED_RUNS,
        "buttons": policy::BUTTONS.iter().map(button).collect::<Map<_, _>>(),
    })
}

/// Keeps `given` as the values with which the next dialog opens, in any host.
fn remember(given: &Map<String, Value>) -> Result<()> {
    let mut params = Params::paper();
    params.set_all(given)?;
    remember_values(&params)
}

fn progress_message(job: u64, progress: &Progress) -> Value {
    json!({
        "event": "progress",
        "job": job,
        "stage": report::stage_id(progress.stage),
        "step": progress.step,
        "steps": progress.steps,
        "loss": progress.loss,
        "fraction": progress.fraction,
        "seconds_left": progress.seconds_left,
        "text": translate(&progress_text(progress)),
        "hint": progress.hint.map(|hint| translate(&hint.text().sentence())),
    })
}

fn estimate_message(job: u64, estimate: &Estimate) -> Value {
    json!({
        "event": "estimate",
        "job": job,
        "tuned": estimate.tuned,
        "goes_on": estimate.goes_on,
        "seconds": estimate.seconds,
        "text": translate(&report::cost_text(estimate)),
    })
}

/// What went wrong with `job`, or with a message that names none.
fn complaint(job: Option<u64>, reason: Text) -> Value {
    json!({ "event": "failed", "job": job, "message": translate(&reason.sentence()) })
}

/// One message to the host.
fn say(message: &Value, pixels: &[u8]) -> Result<()> {
    let mut out = stdout().lock();
    let written = writeln!(out, "{message}").and_then(|()| out.write_all(pixels)).and_then(|()| out.flush());
    written.map_err(Error::file(Doing::Write, "standard output".as_ref()))
}

/// A thread that reads messages while an edit runs; the channel closes with standard input.
fn read_in_background() -> Result<Receiver<Message>> {
    // One at a time: pictures are large.
    let (sender, inbox) = bounded(1);
    let read = move || {
        let mut input = BufReader::new(stdin());
        while let Some(message) = next_message(&mut input) {
            let is_last = matches!(message, Message::Broken(_));
            if sender.send(message).is_err() || is_last {
                break;
            }
        }
    };
    std::thread::Builder::new().name("imagic-messages".into()).spawn(read).map_err(|error| {
        Error::Engine(text!("cannot start a thread: {error}; close other programs and try again", error = &error))
    })?;
    Ok(inbox)
}

/// `None` at the end, also where it comes amid a message: whoever wrote that is gone.
fn next_message(input: &mut impl BufRead) -> Option<Message> {
    let mut line = Vec::new();
    input.take(MAX_LINE).read_until(b'\n', &mut line).ok()?;
    if line.pop_if(|last| *last == b'\n').is_none() {
        let too_long = line.len() as u64 == MAX_LINE;
        return too_long.then(|| Message::Broken(format!("a line is longer than {MAX_LINE} bytes")));
    }
    let mut request: Map<String, Value> = match serde_json::from_slice(&line) {
        Ok(request) => request,
        Err(error) => return Some(Message::Broken(format!("a line is not a JSON object: {error}"))),
    };
    let bytes = match request.remove("bytes").map(|bytes| (bytes.as_u64().filter(|&bytes| bytes <= MAX_PIXELS), bytes))
    {
        None => 0,
        Some((Some(bytes), _)) => bytes,
        Some((None, given)) => return Some(Message::Broken(format!("bytes is {given}, must be 0 to {MAX_PIXELS}"))),
    };
    let mut pixels = Vec::new();
    let read = input.take(bytes).read_to_end(&mut pixels).ok()?;
    (read as u64 == bytes).then_some(Message::Request(request, pixels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_and_the_rest_of_one_is_the_end() {
        let next = |input: &mut &[u8]| match next_message(input) {
            Some(Message::Request(request, pixels)) => format!("{} {pixels:?}", Value::Object(request)),
            Some(Message::Broken(reason)) => reason,
            None => "the end".to_owned(),
        };
        let mut input = &b"{\"do\":\"a\",\"bytes\":3}\n12\n{\"do\":\"b\"}\n{\"do\":\"c\",\"bytes\":9}\n12"[..];
        assert_eq!(next(&mut input), "{\"do\":\"a\"} [49, 50, 10]");
        assert_eq!(next(&mut input), "{\"do\":\"b\"} []");
        assert_eq!(next(&mut input), "the end");
        for (text, reason) in [
            ("pixels\n", "a line is not a JSON object"),
            ("[1]\n", "a line is not a JSON object"),
            ("{\"bytes\":-1}\n", "bytes is -1, must be 0 to"),
            ("{\"bytes\":99999999999}\n", "bytes is 99999999999, must be 0 to"),
            ("{\"do\":", "the end"),
            ("", "the end"),
        ] {
            let found = next(&mut text.as_bytes());
            assert!(found.starts_with(reason), "{text}: {found}");
        }
        let long = vec![b' '; MAX_LINE as usize + 1];
        assert!(next(&mut long.as_slice()).starts_with("a line is longer than"));
    }
}
