//! The C ABI, for any program that loads the library; `include/imagic.h` is written from this file and its `types` by
//! `tests/capi.rs`.
//!
//! Handles are opaque, made by `_new` or `_submit` and ended by `_free`. All calls on a handle may come from any
//! thread, several at once; only `_free` must be the last. Nothing of ours ever calls into the host or waits for the
//! engine, except [`imagic_worker_free`]. Outputs are written last and only on success.

mod calls;
mod types;

use super::installed::{engine_options, engine_options_in, places};
use super::pixel_layout::{Layout, PixelFormat};
use super::report::{edit_report, models_report, parameters_report};
use super::request;
use crate::catalog::{self, Places};
use crate::engine::Engine;
use crate::engine::picture::selection::Selection;
use crate::engine::request::{Edit, EditRequest, EngineOptions, Progress, Stage};
use crate::error::Error;
use crate::image::LayerImage;
use crate::job::{Job, JobState, Worker};
use crate::params::Params;
use crate::text::Text;
use calls::{Failure, cut_into, give_cut_text, give_text, guard, last_error, read_object};
use serde_json::{Map, Value};
use std::ffi::{CStr, c_char, c_void};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
pub use types::{
    IMAGIC_ABI_VERSION, IMAGIC_PROGRESS_TEXT, ImagicFormat, ImagicPicture, ImagicProgress, ImagicStage, ImagicState,
    ImagicStatus,
};

/// The engine on its own thread.
pub struct ImagicWorker {
    worker: Worker,
    places: Places,
}

/// One edit.
pub struct ImagicJob {
    source: Arc<LayerImage>,
    params: Params,
    state: Mutex<State>,
}

enum State {
    Running(Job, Option<Progress>),
    Ended(Result<Edit, Error>),
}

// Programs may use handles from several threads at once.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<ImagicWorker>();
    shared::<ImagicJob>();
};

/// `IMAGIC_ABI_VERSION` of the loaded library; a program compares it with that of its header.
#[unsafe(no_mangle)]
pub extern "C" fn imagic_abi_version() -> u32 {
    IMAGIC_ABI_VERSION
}

/// Version of Imagic Edit, for people; never freed.
#[unsafe(no_mangle)]
pub extern "C" fn imagic_version() -> *const c_char {
    const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => panic!("a version has no NUL"),
    };
    VERSION.as_ptr()
}

/// Text of the last call on this thread that did not answer OK; cut to the buffer. `text_needed` may be NULL and gets
/// the bytes of the whole text with its NUL.
///
/// # Safety
/// `text` is NULL or has room for `text_len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imagic_last_error(
    text: *mut c_char,
    text_len: usize,
    text_needed: *mut usize,
) -> ImagicStatus {
    guard(|| {
        // SAFETY: the caller's promise is handed on.
        unsafe { give_cut_text(&last_error(), text, text_len, text_needed) };
        Ok(())
    })
}

/// The table of parameters as JSON, for building a dialog: `{"parameters": [{"id", "label", "help", "tooltip", "kind",
/// "min", "max", "default", "source", "affects", "advanced"}]}`.
///
/// # Safety
/// `text` is NULL or has room for `text_len` bytes; `text_needed` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imagic_parameters_json(
    text: *mut c_char,
    text_len: usize,
    text_needed: *mut usize,
) -> ImagicStatus {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { give_text(&parameters_report(Text::to_string).to_string(), text, text_len, text_needed) })
}

/// Makes a worker; cheap, nothing is loaded. `options_json` is NULL or an object that may have `model_folders` (list of
/// paths), `cache_folder` (path, or null to keep tuned models in memory only) and `cache_limit` (bytes).
/// Start the program with `CANDLE_NUM_THREADS=1` in its environment: without it a library inside waits by spinning.
///
/// # Safety
/// `options_json` is NULL or a text that ends with NUL; `worker` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imagic_worker_new(
    options_json: *const c_char,
    worker: *mut *mut ImagicWorker,
) -> ImagicStatus {
    guard(|| {
        // SAFETY: the caller promises a writable place or NULL.
        let out = unsafe { worker.as_mut() }.ok_or_else(|| Failure::argument("worker is NULL"))?;
        let options = if options_json.is_null() {
            Map::new()
        } else {
            // SAFETY: not NULL, so the caller promises a text.
            unsafe { read_object(options_json, "options_json") }?
        };
        let (options, places) = worker_options(options)?;
        let worker = Worker::start(Engine::new(options))?;
        *out = Box::into_raw(Box::new(ImagicWorker { worker, places }));
        Ok(())
    })
}

/// Stops the running job, waits for its current step and ends the engine. Jobs stay valid, as cancelled ones.
///
/// # Safety
/// `worker` is NULL or comes from `imagic_worker_new`, and no other call uses it now or later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imagic_worker_free(worker: *mut ImagicWorker) -> ImagicStatus {
    guard(|| {
        if !worker.is_null() {
            // SAFETY: made by Box::into_raw, and the caller promises that this is the last use.
            drop(unsafe { Box::from_raw(worker) });
        }
        Ok(())
    })
}

/// The models that can be named in a request, as JSON:
/// `{"models": [{"name", "path", "origin", "family", "bytes", "resolution", "prediction_type", "licence", "few_steps",
/// "inpainting", "description", "examples", "photographs", "params", "presets", "problem"}], "default"}`; `photographs`
/// is false where the model draws none, `params` are all settings that fit the model, and `problem` says why it cannot
/// be used, or is null.
///
/// # Safety
/// `worker` is NULL or alive; `text` is NULL or has room for `text_len` bytes; `text_needed` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imagic_models_json(
    worker: *const ImagicWorker,
    text: *mut c_char,
    text_len: usize,
    text_needed: *mut usize,
) -> ImagicStatus {
    guard(|| {
        // SAFETY: the caller promises a live handle or NULL.
        let worker = unsafe { worker.as_ref() }.ok_or_else(|| Failure::argument("worker is NULL"))?;
        let models = models_report(&worker.places, None, Text::to_string).to_string();
        // SAFETY: the caller's promise is handed on.
        unsafe { give_text(&models, text, text_len, text_needed) }
    })
}

/// Queues an edit; it runs when the ones before it have ended. `request_json` has `params` (an object by parameter id;
/// what is missing comes from the model's preset) and may have `document` (a text that is the same every time the
/// document is opened). The picture is copied.
///
/// # Safety
/// `worker` is NULL or alive; `request_json` is NULL or ends with NUL; `picture` is NULL or valid with `pixels_len`
/// readable bytes behind `pixels`; `job` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imagic_worker_submit(
    worker: *const ImagicWorker,
    request_json: *const c_char,
    picture: *const ImagicPicture,
    job: *mut *mut ImagicJob,
) -> ImagicStatus {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { submit(worker, request_json, picture, std::ptr::null(), 0, job) })
}

/// As `imagic_worker_submit`, for a part of the picture: `selection` has a byte for each pixel, row by row without
/// gaps, 255 where it is to be edited and 0 where it stays as it is; NULL is everything. The model sees the part in its
/// surroundings, and `imagic_job_result` gives the whole picture.
///
/// # Safety
/// As `imagic_worker_submit`; `selection` is NULL or has `selection_len` readable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imagic_worker_submit_part(
    worker: *const ImagicWorker,
    request_json: *const c_char,
    picture: *const ImagicPicture,
    selection: *const u8,
    selection_len: usize,
    job: *mut *mut ImagicJob,
) -> ImagicStatus {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { submit(worker, request_json, picture, selection, selection_len, job) })
}

/// How far the job is; never waits. Answers OK for a failed job too: look at `state`.
///
/// # Safety
/// `job` is NULL or alive; `progress` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imagic_job_poll(job: *const ImagicJob, progress: *mut ImagicProgress) -> ImagicStatus {
    guard(|| {
        // SAFETY: the caller promises a live handle or NULL.
        let job = unsafe { job.as_ref() }.ok_or_else(|| Failure::argument("job is NULL"))?;
        if progress.is_null() {
            return Err(Failure::argument("progress is NULL"));
        }
        let answer = progress_of(&job.look());
        // SAFETY: the caller promises a writable place; `write` does not read what was there.
        unsafe { progress.write(answer) };
        Ok(())
    })
}

/// What the user should know of this edit before its time is spent, as a sentence, for example that the model cannot
/// draw pictures like this one; empty if there is nothing. Known from the first step of stage A on, where the model is
/// tuned already of stage C; a finished job keeps it, a failed or cancelled one does not.
///
/// # Safety
/// `job` is NULL or alive; `text` is NULL or has room for `text_len` bytes; `text_needed` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imagic_job_hint(
    job: *const ImagicJob,
    text: *mut c_char,
    text_len: usize,
    text_needed: *mut usize,
) -> ImagicStatus {
    guard(|| {
        // SAFETY: the caller promises a live handle or NULL.
        let job = unsafe { job.as_ref() }.ok_or_else(|| Failure::argument("job is NULL"))?;
        let hint = match &*job.look() {
            State::Running(_, progress) => progress.as_ref().and_then(|progress| progress.hint),
            State::Ended(result) => result.as_ref().ok().and_then(|edit| edit.hint),
        };
        let hint = hint.map(|hint| hint.to_string()).unwrap_or_default();
        // SAFETY: the caller's promise is handed on.
        unsafe { give_text(&hint, text, text_len, text_needed) }
    })
}

/// Asks the job to stop; it does within one step. No effect on a job that has ended.
///
/// # Safety
/// `job` is NULL or alive.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imagic_job_cancel(job: *const ImagicJob) -> ImagicStatus {
    guard(|| {
        // SAFETY: the caller promises a live handle or NULL.
        let job = unsafe { job.as_ref() }.ok_or_else(|| Failure::argument("job is NULL"))?;
        if let State::Running(running, _) = &*job.look() {
            running.cancel();
        }
        Ok(())
    })
}

/// Copies the edited picture, which has the size of the submitted one. Answers RUNNING, CANCELLED or the reason of the
/// failure when there is none. Bytes between the rows are left alone.
///
/// # Safety
/// `job` is NULL or alive; `pixels` is NULL or has room for `pixels_len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imagic_job_result(
    job: *const ImagicJob,
    format: u32,
    stride: usize,
    pixels: *mut c_void,
    pixels_len: usize,
) -> ImagicStatus {
    guard(|| {
        // SAFETY: the caller promises a live handle or NULL.
        let job = unsafe { job.as_ref() }.ok_or_else(|| Failure::argument("job is NULL"))?;
        let state = job.look();
        let edit = state.edit()?;
        let layout = layout(format, job.source.width(), job.source.height(), stride)?;
        check_pixels(pixels, pixels_len, &layout, ImagicStatus::BufferTooSmall)?;
        // SAFETY: the caller promises `pixels_len` bytes, which is not less; `Layout` keeps it to isize::MAX.
        let pixels = unsafe { std::slice::from_raw_parts_mut(pixels.cast::<u8>(), layout.bytes) };
        layout.write(&edit.picture.on(&job.source).0, pixels);
        Ok(())
    })
}

/// Everything about a finished edit but its pixels, as JSON: `width`, `height`, `params`, `tuned`, `cache_hit`,
/// `seconds`, `seed` (of the version that was taken), `embedding_losses`, `tuning_losses`, `notes`, `hint` (null or
/// `kind`, `text` and its numbers).
///
/// # Safety
/// `job` is NULL or alive; `text` is NULL or has room for `text_len` bytes; `text_needed` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imagic_job_report_json(
    job: *const ImagicJob,
    text: *mut c_char,
    text_len: usize,
    text_needed: *mut usize,
) -> ImagicStatus {
    guard(|| {
        // SAFETY: the caller promises a live handle or NULL.
        let job = unsafe { job.as_ref() }.ok_or_else(|| Failure::argument("job is NULL"))?;
        let report = edit_report(job.look().edit()?, &job.source, &job.params).to_string();
        // SAFETY: the caller's promise is handed on.
        unsafe { give_text(&report, text, text_len, text_needed) }
    })
}

/// Ends the handle; a job that runs is cancelled. Does not wait.
///
/// # Safety
/// `job` is NULL or comes from `imagic_worker_submit`, and no other call uses it now or later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imagic_job_free(job: *mut ImagicJob) -> ImagicStatus {
    guard(|| {
        if !job.is_null() {
            // SAFETY: made by Box::into_raw, and the caller promises that this is the last use.
            drop(unsafe { Box::from_raw(job) });
        }
        Ok(())
    })
}

/// Options and a request of any kind, for [`crate::host::fuzz`].
#[cfg(any(test, fuzzing))]
pub fn fuzz(bytes: &[u8]) {
    if let Ok(given) = serde_json::from_slice::<Map<String, Value>>(bytes) {
        let _ = worker_options(given.clone());
        let layer = LayerImage::new(1, 1, vec![0; 4]).expect("one pixel is four values");
        let _ = edit_request(given, layer, &Places::of([]));
    }
}

/// # Safety
/// As [`imagic_worker_submit_part`].
unsafe fn submit(
    worker: *const ImagicWorker,
    request_json: *const c_char,
    picture: *const ImagicPicture,
    selection: *const u8,
    selection_len: usize,
    job: *mut *mut ImagicJob,
) -> Result<(), Failure> {
    // SAFETY: the caller promises a live handle or NULL.
    let worker = unsafe { worker.as_ref() }.ok_or_else(|| Failure::argument("worker is NULL"))?;
    // SAFETY: the caller promises a valid picture or NULL.
    let picture = unsafe { picture.as_ref() }.ok_or_else(|| Failure::argument("picture is NULL"))?;
    // SAFETY: the caller promises a writable place or NULL.
    let out = unsafe { job.as_mut() }.ok_or_else(|| Failure::argument("job is NULL"))?;
    // SAFETY: the caller promises a text or NULL.
    let request = unsafe { read_object(request_json, "request_json") }?;
    let layout = layout(picture.format, picture.width, picture.height, picture.stride)?;
    check_pixels(picture.pixels, picture.pixels_len, &layout, ImagicStatus::Argument)?;
    // SAFETY: the caller promises `pixels_len` bytes, which is not less; `Layout` keeps it to isize::MAX.
    let pixels = unsafe { std::slice::from_raw_parts(picture.pixels.cast::<u8>(), layout.bytes) };
    let layer = layout.read(pixels).map_err(|text| Failure::argument(text.to_string()))?;
    let mut request = edit_request(request, layer, &worker.places)?;
    if !selection.is_null() {
        let [width, height] = [picture.width, picture.height];
        // It fits: so many pixels are there.
        let needed = width as usize * height as usize;
        if selection_len < needed {
            let text = format!("selection_len is {selection_len}, must be at least {needed}");
            return Err(Failure::argument(text));
        }
        // SAFETY: the caller promises `selection_len` bytes, which is not less.
        let coverage = unsafe { std::slice::from_raw_parts(selection, needed) };
        let selection = Selection::of_bytes(width, height, coverage);
        request.selection = Some(selection.ok_or_else(|| Failure::argument("nothing is selected"))?);
    }
    let (source, params) = (request.layer.clone(), request.params.clone());
    let job = worker.worker.submit(request);
    *out = Box::into_raw(Box::new(ImagicJob { source, params, state: Mutex::new(State::Running(job, None)) }));
    Ok(())
}

fn worker_options(mut given: Map<String, Value>) -> Result<(EngineOptions, Places), Failure> {
    let wrong = |key: &str, kind: &str| Failure::argument(format!("{key} in options_json must be {kind}"));
    let mut places = places();
    if let Some(list) = given.remove("model_folders") {
        let paths: Option<Vec<PathBuf>> =
            list.as_array().and_then(|list| list.iter().map(|path| path.as_str().map(PathBuf::from)).collect());
        places = Places::of(paths.ok_or_else(|| wrong("model_folders", "a list of paths"))?);
    }
    let mut options = match given.remove("cache_folder") {
        Some(Value::Null) => engine_options_in(None)?,
        Some(Value::String(path)) => engine_options_in(Some(path.into()))?,
        Some(_) => return Err(wrong("cache_folder", "a path or null")),
        None => engine_options()?,
    };
    if let Some(limit) = given.remove("cache_limit") {
        options.cache_limit = limit.as_u64().ok_or_else(|| wrong("cache_limit", "a number of bytes"))?;
    }
    match given.keys().next() {
        Some(key) => Err(Failure::argument(format!(
            "there is no option {key}; there are model_folders, cache_folder, cache_limit"
        ))),
        None => Ok((options, places)),
    }
}

fn edit_request(mut given: Map<String, Value>, layer: LayerImage, places: &Places) -> Result<EditRequest, Failure> {
    let Some(Value::Object(chosen)) = given.remove("params") else {
        return Err(Failure::argument("request_json has no object params"));
    };
    let document = match given.remove("document") {
        Some(Value::String(document)) => document,
        None => String::new(),
        Some(_) => return Err(Failure::argument("document in request_json must be a text")),
    };
    if let Some(key) = given.keys().next() {
        return Err(Failure::argument(format!("there is no {key} in a request; there are params, document")));
    }
    let (params, model) = catalog::params_of(&chosen, places)?;
    Ok(request(layer.into(), document, params, model))
}

/// Refuses unknown formats and sizes that make no sense.
fn layout(format: u32, width: u32, height: u32, stride: usize) -> Result<Layout, Failure> {
    let format = match format {
        _ if format == ImagicFormat::Rgba8 as u32 => PixelFormat::Rgba8,
        _ if format == ImagicFormat::Bgra8 as u32 => PixelFormat::Bgra8,
        _ if format == ImagicFormat::Rgba16 as u32 => PixelFormat::Rgba16,
        _ if format == ImagicFormat::Bgra16 as u32 => PixelFormat::Bgra16,
        _ => return Err(Failure::argument(format!("format is {format}, must be 0 to 3"))),
    };
    Layout::new(format, width, height, Some(stride)).map_err(|text| Failure::argument(text.to_string()))
}

/// Refuses a buffer of the caller that is not there or too short.
fn check_pixels(pixels: *const c_void, len: usize, layout: &Layout, too_short: ImagicStatus) -> Result<(), Failure> {
    if pixels.is_null() {
        return Err(Failure::argument("pixels is NULL"));
    }
    let needed = layout.bytes;
    let text = || format!("pixels_len is {len}, must be at least {needed}");
    if len < needed { Err(Failure::new(too_short, text())) } else { Ok(()) }
}

impl ImagicJob {
    /// The state as of now.
    fn look(&self) -> MutexGuard<'_, State> {
        // A panic cannot leave the state half changed: it is replaced whole.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Running(job, latest) = &mut *state {
            match job.poll() {
                JobState::Running(progress) => *latest = progress,
                JobState::Ended(result) => *state = State::Ended(result.map(|edit| *edit)),
            }
        }
        state
    }
}

impl State {
    fn edit(&self) -> Result<&Edit, Failure> {
        match self {
            Self::Running(..) => Err(Failure::new(ImagicStatus::Running, "the job has not ended")),
            Self::Ended(result) => result.as_ref().map_err(Failure::from),
        }
    }
}

fn progress_of(state: &State) -> ImagicProgress {
    let mut answer = ImagicProgress {
        state: ImagicState::Running as u32,
        stage: ImagicStage::Waiting as u32,
        step: 0,
        steps: 0,
        fraction: 0.0,
        seconds_left: -1.0,
        loss: -1.0,
        text: [0; IMAGIC_PROGRESS_TEXT],
    };
    let text = match state {
        State::Running(_, None) => "Waiting".to_owned(),
        State::Running(_, Some(progress)) => {
            let stage = match progress.stage {
                Stage::LoadModel => ImagicStage::LoadModel,
                Stage::Wait => ImagicStage::Waiting,
                Stage::OptimizeTextEmbedding => ImagicStage::OptimizeTextEmbedding,
                Stage::FineTune => ImagicStage::FineTune,
                Stage::FineTuneDetail => ImagicStage::FineTuneDetail,
                Stage::Generate => ImagicStage::Generate,
                Stage::Enlarge => ImagicStage::Enlarge,
            };
            answer.stage = stage as u32;
            (answer.step, answer.steps) = (progress.step, progress.steps);
            answer.fraction = f64::from(progress.fraction);
            answer.seconds_left = progress.seconds_left.map_or(-1.0, f64::from);
            answer.loss = progress.loss.map_or(-1.0, f64::from);
            progress.stage.label().to_string()
        }
        State::Ended(result) => {
            let (ended, fraction, text) = match result {
                Ok(_) => (ImagicState::Done, 1.0, "Done".to_owned()),
                Err(Error::Cancelled) => (ImagicState::Cancelled, 0.0, "Stopped".to_owned()),
                Err(error) => (ImagicState::Failed, 0.0, error.to_string()),
            };
            (answer.state, answer.fraction, answer.seconds_left) = (ended as u32, fraction, 0.0);
            text
        }
    };
    cut_into(&text, &mut answer.text);
    answer
}
