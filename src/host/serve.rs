//! `imagic-edit serve`: the engine as a child process of a host program, by messages over standard input and output.
//!
//! A host that loads the library dies with it; this way only the child does, and the user's unsaved work stays.
#![forbid(unsafe_code)]

mod answers;
pub(super) mod protocol;

use crate::catalog::{self, Places};
use crate::engine::Engine;
use crate::engine::picture::selection::Selection;
use crate::engine::request::{Edit, EditRequest, Progress};
use crate::error::{Error, Result};
use crate::host::installed::{engine_options, places};
use crate::host::language::translate;
use crate::host::last_values::remember_values;
use crate::host::photograph::{is_photograph, not_given_back};
use crate::host::pixel_layout::{Layout, PixelFormat};
use crate::host::policy::{KEPT_RESULTS, POLL};
use crate::host::report::seen_text;
use crate::host::wording::{TextRoom, door};
use crate::host::{request, system};
use crate::image::LayerImage;
use crate::job::{Estimating, Job, JobState, Worker};
use crate::params::Params;
use crate::text::Text;
use answers::complaint;
use crossbeam::channel::{Receiver, RecvTimeoutError};
use protocol::{EditOrder, Message, Outbox, Request};
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::sync::Arc;

/// One edit that was asked for and has not ended.
struct Running {
    job: Job,
    wanted: Wanted,
    source: Arc<LayerImage>,
    params: Params,
    told: Option<Progress>,
}

/// How the host wants to see a result.
struct Wanted {
    /// The number of the job.
    number: u64,
    format: PixelFormat,
    /// Longest side, where it is only looked at.
    side: Option<u32>,
}

struct Server {
    worker: Worker,
    outbox: Outbox,
    places: Places,
    room: TextRoom,
    running: Vec<Running>,
    /// Estimates that were asked for, with their numbers, what stands before the edit, and what the model sees of the
    /// picture.
    estimates: Vec<(u64, Estimating, [Option<Text>; 2])>,
    /// The picture that came last, with what is selected of it and its format.
    picture: Option<(Arc<LayerImage>, Option<Selection>, PixelFormat)>,
    is_photograph: bool,
    /// Its latest results, so that one that was looked at becomes a layer without another edit.
    results: VecDeque<(Params, Edit)>,
}

/// Serves until standard input ends, which it does when the host closes it, ends or is killed.
pub fn run() -> Result<()> {
    system::yield_to_other_programs();
    system::be_killed_first();
    let worker = Worker::start(Engine::new(engine_options()?))?;
    let (running, estimates, results) = (Vec::new(), Vec::new(), VecDeque::new());
    let (outbox, places) = (Outbox::open()?, places());
    let room = TextRoom::default();
    let mut server =
        Server { worker, outbox, places, room, running, estimates, picture: None, is_photograph: false, results };
    let served = server.serve(&protocol::read_in_background()?);
    let Server { worker, outbox, .. } = server;
    // The worker ends when the running step is done, and what there is of a tuned model is on disk.
    drop(worker);
    served.and(outbox.close())
}

impl Server {
    fn serve(&mut self, inbox: &Receiver<Message>) -> Result<()> {
        self.outbox.say(&answers::hello(&self.places), &[]);
        loop {
            let message = if self.running.is_empty() && self.estimates.is_empty() {
                inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                inbox.recv_timeout(POLL)
            };
            match message {
                Ok(Ok((request, pixels))) => self.answer(request, &pixels),
                Ok(Err(reason)) => {
                    let reason = Text::verbatim(reason);
                    self.outbox.say(&complaint(None, reason.clone()), &[]);
                    return Err(Error::Host(reason));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            self.poll_jobs();
        }
    }

    fn answer(&mut self, request: Map<String, Value>, pixels: &[u8]) {
        let job = request.get("job").and_then(Value::as_u64);
        let answered = match serde_json::from_value(Value::Object(request)) {
            Ok(Request::Edit(order)) => self.edit(order, pixels),
            Ok(Request::Estimate(order)) => self.estimate(order, pixels),
            Ok(Request::Stop { job }) => {
                self.running.iter().filter(|one| one.wanted.number == job).for_each(|one| one.job.cancel());
                Ok(())
            }
            Ok(Request::Models) => {
                self.outbox.say(&answers::models(&self.places), &[]);
                Ok(())
            }
            Ok(Request::Model { name }) => {
                self.outbox.say(&answers::named_model(&name, &self.places), &[]);
                Ok(())
            }
            Ok(Request::Text { text, model }) => {
                self.outbox.say(&answers::of_text(&text, &model, &self.places, &mut self.room), &[]);
                Ok(())
            }
            Ok(Request::Remember { params: given }) => {
                // The values with which the next dialog opens, in any host.
                let mut params = Params::paper();
                params.set_all(&given).and_then(|()| remember_values(&params))
            }
            Err(error) => Err(wrong(format!("this message makes no sense: {error}"))),
        };
        if let Err(error) = answered {
            self.outbox.say(&complaint(job, error.text()), &[]);
        }
    }

    fn edit(&mut self, order: EditOrder, pixels: &[u8]) -> Result<()> {
        let (number, side) = (order.job, order.side);
        if self.running.iter().any(|running| running.wanted.number == number) {
            return Err(wrong(format!("job {number} runs already; give every job a number of its own")));
        }
        let (request, format) = self.request(order, pixels)?;
        let (source, params) = (request.layer.clone(), request.params.clone());
        let wanted = Wanted { number, format, side };
        if let Some((_, known)) = self.results.iter().find(|(known, _)| *known == params) {
            wanted.tell(known, &source, &params, &self.outbox);
            return Ok(());
        }
        self.running.push(Running { job: self.worker.submit(request), wanted, source, params, told: None });
        Ok(())
    }

    fn estimate(&mut self, order: EditOrder, pixels: &[u8]) -> Result<()> {
        let number = order.job;
        let (request, _) = self.request(order, pixels)?;
        let model = catalog::find(&request.params.model, &self.places)?;
        let door = door(&model, || self.is_photograph);
        let side = self.places.headers.of(&model.path).ok().map(|about| about.side);
        let seen = side.filter(|_| request.selection.is_none());
        let seen = seen.and_then(|side| seen_text(&request.layer, request.params.resolution, side));
        self.estimates.push((number, self.worker.estimate(request), [door, seen]));
        Ok(())
    }

    fn request(&mut self, order: EditOrder, pixels: &[u8]) -> Result<(EditRequest, PixelFormat)> {
        if let (Some(width), Some(height), Some(format)) = (order.width, order.height, order.format) {
            let layout = Layout::new(format, width, height, None).map_err(Error::Image)?;
            let selected = if order.selection { width as usize * height as usize } else { 0 };
            if pixels.len() != layout.bytes + selected {
                let (got, expected) = (pixels.len(), layout.bytes + selected);
                return Err(wrong(format!("{got} bytes of pixels came, {width}x{height} pixels are {expected}")));
            }
            let (pixels, coverage) = pixels.split_at(layout.bytes);
            let selection = order
                .selection
                .then(|| Selection::of_bytes(width, height, coverage).ok_or_else(|| wrong("nothing is selected")));
            let selection = selection.transpose()?;
            let picture = layout.read(pixels).map_err(Error::Image)?;
            self.is_photograph = is_photograph(&picture);
            self.picture = Some((picture.into(), selection, format));
            self.results.clear();
        } else if [order.width, order.height].iter().any(Option::is_some)
            || order.format.is_some()
            || order.selection
            || !pixels.is_empty()
        {
            return Err(wrong("width, height, format, selection and bytes belong together; give all or none"));
        }
        let Some((layer, selection, format)) = self.picture.clone() else {
            return Err(wrong("no picture has come yet; give width, height, format and bytes"));
        };
        let (params, model) = catalog::params_of(&order.params, &self.places)?;
        let request = request(layer, order.document, params, model);
        Ok((EditRequest { selection, previews: order.previews, ..request }, format))
    }

    /// Tells what has changed.
    fn poll_jobs(&mut self) {
        for mut one in std::mem::take(&mut self.running) {
            let number = one.wanted.number;
            match one.job.poll() {
                JobState::Running(progress) => {
                    let is_new = |progress: &Progress| one.told.as_ref() != Some(progress);
                    // A host that is behind hears of the next one.
                    if let Some(progress) = progress.filter(is_new).filter(|_| !self.outbox.is_behind()) {
                        one.tell_progress(progress, &self.outbox);
                    }
                    self.running.push(one);
                }
                JobState::Ended(Ok(edit)) => {
                    one.wanted.tell(&edit, &one.source, &one.params, &self.outbox);
                    // Another picture may have come meanwhile.
                    if self.picture.as_ref().is_some_and(|(picture, ..)| Arc::ptr_eq(picture, &one.source)) {
                        self.results.truncate(KEPT_RESULTS - 1);
                        self.results.push_front((one.params, *edit));
                    }
                }
                JobState::Ended(Err(Error::Cancelled)) => {
                    self.outbox.say(&json!({ "event": "stopped", "job": number }), &[]);
                }
                JobState::Ended(Err(error)) => self.outbox.say(&complaint(Some(number), error.text()), &[]),
            }
        }
        for (number, estimating, texts) in std::mem::take(&mut self.estimates) {
            match estimating.poll() {
                None => self.estimates.push((number, estimating, texts)),
                Some(Ok(estimate)) => self.outbox.say(&answers::estimate(number, &estimate, texts), &[]),
                Some(Err(error)) => self.outbox.say(&complaint(Some(number), error.text()), &[]),
            }
        }
    }
}

impl Running {
    /// With the pixels of a picture that has not been shown yet.
    fn tell_progress(&mut self, progress: Progress, outbox: &Outbox) {
        let mut message = answers::progress(self.wanted.number, &progress);
        let shown = self.told.as_ref().and_then(|told| told.preview.as_ref());
        let is_new = |preview: &&Arc<LayerImage>| !shown.is_some_and(|shown| Arc::ptr_eq(shown, preview));
        let mut pixels = Vec::new();
        if let Some(preview) = progress.preview.as_ref().filter(is_new) {
            pixels = self.wanted.pixels(preview);
            message["preview"] = json!({ "width": preview.width(), "height": preview.height() });
            message["bytes"] = pixels.len().into();
        }
        self.told = Some(progress);
        outbox.say(&message, &pixels);
    }
}

impl Wanted {
    /// Renders the result: in its place to be looked at, or as a layer and how much of it is to be seen.
    fn tell(&self, edit: &Edit, source: &LayerImage, params: &Params, outbox: &Outbox) {
        let longest = source.width().max(source.height());
        let (result, share) = match self.side.filter(|&side| side < longest) {
            Some(side) => (edit.picture.on(&source.shrunk(side)).0, None),
            None => edit.picture.apart(source),
        };
        let mut pixels = self.pixels(&result);
        let has_mask = share.is_some();
        pixels.extend(
            share.iter().flat_map(|share| share.as_raw()).map(|share| (share * f32::from(u8::MAX)).round() as u8),
        );
        let mut message = answers::done(self.number, edit, params, source, &result, pixels.len());
        if let Some(unlike) = not_given_back(params.eta, source, &edit.picture) {
            message["unlike"] = translate(&unlike).into();
        }
        message["mask"] = has_mask.into();
        outbox.say(&message, &pixels);
    }

    fn pixels(&self, picture: &LayerImage) -> Vec<u8> {
        let layout = Layout::new(self.format, picture.width(), picture.height(), None);
        let layout = layout.expect("no larger than a layer is");
        let mut pixels = vec![0; layout.bytes];
        layout.write(picture, &mut pixels);
        pixels
    }
}

/// What only whoever writes a host reads.
fn wrong(reason: impl Into<String>) -> Error {
    Error::Host(Text::verbatim(reason))
}
