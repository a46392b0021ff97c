//! The C ABI, for any program that loads the library; `include/imagic.h` is written from this file by `tests/capi.rs`.
//!
//! Handles are opaque, made by `_new` or `_submit` and ended by `_free`. All calls on a handle may come from any
//! thread, several at once; only `_free` must be the last. Nothing of ours ever calls into the host or waits for the engine,
//! except [`imagic_worker_free`]. Outputs are written last and only on success.

mod calls;
pub(super) mod pixels;

use super::installed::library_folder;
use super::report::{edit_report, model_report, parameters_report};
use super::request_for;
use crate::catalog;
use crate::engine::Engine;
use crate::engine::request::{Edit, EditRequest, EngineOptions, Progress, Stage};
use crate::error::Error;
use crate::image::LayerImage;
use crate::job::{Job, JobState, Worker};
use crate::params::Params;
use crate::text::Text;
use calls::{Failure, cut_into, give_cut_text, give_text, guard, last_error, read_object};
use pixels::Layout;
use serde_json::{Map, Value, json};
use std::ffi::{CStr, c_char, c_void};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Version of this interface. It grows with every change that a compiled program would notice.
pub const IMAGIC_ABI_VERSION: u32 = 1;

/// Bytes of the text in `imagic_progress`, its NUL included.
pub const IMAGIC_PROGRESS_TEXT: usize = 256;

/// How a call ended. `imagic_last_error` has the text for everything but OK.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagicStatus {
    /// All outputs are written.
    Ok = 0,
    /// A NULL, a size or a JSON text that makes no sense; nothing was done.
    Argument = 1,
    /// The buffer is too short; how much is needed is written, nothing else.
    BufferTooSmall = 2,
    /// The job has not ended.
    Running = 3,
    /// The job was cancelled.
    Cancelled = 4,
    /// A parameter is unknown or out of range.
    Parameter = 5,
    /// The base model is missing or cannot be used.
    Model = 6,
    /// The picture cannot be edited.
    Image = 7,
    /// A file could not be read or written.
    File = 8,
    /// The account or system lacks something.
    Host = 9,
    /// The engine failed.
    Engine = 10,
    /// A defect of the library; the handle can still be freed.
    Panic = 11,
    /// The machine has too little memory for what was asked.
    Memory = 12,
}

/// Where a job is.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagicState {
    /// Waiting or running.
    Running = 0,
    /// `imagic_job_result` has the pixels.
    Done = 1,
    /// Stopped by `imagic_job_cancel` or because the worker was freed.
    Cancelled = 2,
    /// `imagic_job_result` has the reason.
    Failed = 3,
}

/// The stage of a job that runs.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagicStage {
    /// Not started.
    Waiting = 0,
    /// Reading the base model.
    LoadModel = 1,
    /// Stage A.
    OptimizeTextEmbedding = 2,
    /// Stage B.
    FineTune = 3,
    /// Stage C.
    Generate = 4,
}

/// Layout of one pixel. Alpha is straight; colors are sRGB.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagicFormat {
    /// Four bytes: red, green, blue, alpha.
    Rgba8 = 0,
    /// Four bytes: blue, green, red, alpha.
    Bgra8 = 1,
    /// Four 16-bit numbers in the machine's byte order: red, green, blue, alpha; need not be aligned.
    Rgba16 = 2,
    /// As RGBA16: blue, green, red, alpha.
    Bgra16 = 3,
}

/// A picture that a program lends for one call.
#[repr(C)]
pub struct ImagicPicture {
    /// First byte of the top row.
    pub pixels: *const c_void,
    /// Bytes behind `pixels`; at least `stride * (height - 1)` and one row.
    pub pixels_len: usize,
    /// Bytes from one row to the next; at least one row.
    pub stride: usize,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// An `imagic_format`.
    pub format: u32,
}

/// How far a job is.
#[repr(C)]
pub struct ImagicProgress {
    /// An `imagic_state`.
    pub state: u32,
    /// An `imagic_stage`: the latest one.
    pub stage: u32,
    /// Steps of this stage that are done.
    pub step: u32,
    /// Steps of this stage; 0 while unknown.
    pub steps: u32,
    /// Share of the whole job, 0 to 1.
    pub fraction: f64,
    /// Seconds until the job is done; negative while unknown.
    pub seconds_left: f64,
    /// Loss of the last step of stages A and B; negative where there is none.
    pub loss: f64,
    /// What a progress bar says, or why the job failed; UTF-8, cut if too long.
    pub text: [c_char; IMAGIC_PROGRESS_TEXT],
}

/// The engine on its own thread.
pub struct ImagicWorker {
    worker: Worker,
    model_folders: Vec<PathBuf>,
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
        let (options, model_folders) = worker_options(options)?;
        let worker = Worker::start(Engine::new(options))?;
        *out = Box::into_raw(Box::new(ImagicWorker { worker, model_folders }));
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

/// The models that can be named in a request, as JSON: `{"models": [{"name", "folder", "description", "examples", "params",
/// "problem"}]}`; `params` are all settings that fit the model.
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
        let models: Vec<Value> =
            catalog::list(&worker.model_folders).iter().map(|model| model_report(model, Text::to_string)).collect();
        // SAFETY: the caller's promise is handed on.
        unsafe { give_text(&json!({ "models": models }).to_string(), text, text_len, text_needed) }
    })
}

/// Queues an edit; it runs when the ones before it have ended. `request_json` has `params` (an object by parameter id;
/// what is missing comes from the model's preset) and may have `document` (a text that is the same every time the document
/// is opened). The picture is copied.
///
/// # Safety
/// `worker` is NULL or alive; `request_json` is NULL or ends with NUL; `picture` is NULL or valid with `pixels_len` readable
/// bytes behind `pixels`; `job` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imagic_worker_submit(
    worker: *const ImagicWorker,
    request_json: *const c_char,
    picture: *const ImagicPicture,
    job: *mut *mut ImagicJob,
) -> ImagicStatus {
    guard(|| {
        // SAFETY: the caller promises a live handle or NULL.
        let worker = unsafe { worker.as_ref() }.ok_or_else(|| Failure::argument("worker is NULL"))?;
        // SAFETY: the caller promises a valid picture or NULL.
        let picture = unsafe { picture.as_ref() }.ok_or_else(|| Failure::argument("picture is NULL"))?;
        // SAFETY: the caller promises a writable place or NULL.
        let out = unsafe { job.as_mut() }.ok_or_else(|| Failure::argument("job is NULL"))?;
        // SAFETY: the caller promises a text or NULL.
        let request = unsafe { read_object(request_json, "request_json") }?;
        let layout = Layout::new(picture.format, picture.width, picture.height, picture.stride)?;
        if picture.pixels.is_null() {
            return Err(Failure::argument("pixels is NULL"));
        }
        let needed = layout.bytes;
        if picture.pixels_len < needed {
            let text = format!("pixels_len is {}, must be at least {needed}", picture.pixels_len);
            return Err(Failure::argument(text));
        }
        // SAFETY: the caller promises `pixels_len` bytes, which is not less; `Layout` keeps it to isize::MAX.
        let layer = layout.read(unsafe { std::slice::from_raw_parts(picture.pixels.cast::<u8>(), needed) })?;
        let request = edit_request(request, layer, &worker.model_folders)?;
        let (source, params) = (request.layer.clone(), request.params.clone());
        let job = worker.worker.submit(request);
        *out = Box::into_raw(Box::new(ImagicJob { source, params, state: Mutex::new(State::Running(job, None)) }));
        Ok(())
    })
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

/// What the user should know of this edit before its time is spent, as a sentence, for example that the model cannot draw
/// pictures like this one; empty if there is nothing. Known from the first step of stage A on, where the model is tuned
/// already of stage C; a finished job keeps it, a failed or cancelled one does not.
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

/// Copies the edited picture, which has the size of the submitted one. Answers RUNNING, CANCELLED or the reason of the failure
/// when there is none. Bytes between the rows are left alone.
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
        let layout = Layout::new(format, job.source.width(), job.source.height(), stride)?;
        if pixels.is_null() {
            return Err(Failure::argument("pixels is NULL"));
        }
        let needed = layout.bytes;
        if pixels_len < needed {
            let text = format!("pixels_len is {pixels_len}, must be at least {needed}");
            return Err(Failure::new(ImagicStatus::BufferTooSmall, text));
        }
        // SAFETY: the caller promises `pixels_len` bytes, which is not less; `Layout` keeps it to isize::MAX.
        layout.write(&edit.picture.on(&job.source).0, unsafe {
            std::slice::from_raw_parts_mut(pixels.cast::<u8>(), needed)
        });
        Ok(())
    })
}

/// Everything about a finished edit but its pixels, as JSON: `width`, `height`, `params`, `tuned`, `cache_hit`, `seconds`,
/// `embedding_losses`, `tuning_losses`, `notes`, `hint` (null or `kind`, `text` and its numbers).
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
        let report = Value::Object(edit_report(job.look().edit()?, &job.source, &job.params)).to_string();
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

fn worker_options(mut given: Map<String, Value>) -> Result<(EngineOptions, Vec<PathBuf>), Failure> {
    let wrong = |key: &str, kind: &str| Failure::argument(format!("{key} in options_json must be {kind}"));
    let mut model_folders = catalog::folders(library_folder().as_deref());
    if let Some(list) = given.remove("model_folders") {
        let paths = list.as_array().and_then(|list| list.iter().map(|path| path.as_str().map(PathBuf::from)).collect());
        model_folders = paths.ok_or_else(|| wrong("model_folders", "a list of paths"))?;
    }
    let mut options = match given.remove("cache_folder") {
        Some(Value::Null) => super::engine_options_in(None)?,
        Some(Value::String(path)) => super::engine_options_in(Some(path.into()))?,
        Some(_) => return Err(wrong("cache_folder", "a path or null")),
        None => super::engine_options()?,
    };
    if let Some(limit) = given.remove("cache_limit") {
        options.cache_limit = limit.as_u64().ok_or_else(|| wrong("cache_limit", "a number of bytes"))?;
    }
    match given.keys().next() {
        Some(key) => Err(Failure::argument(format!(
            "there is no option {key}; there are model_folders, cache_folder, cache_limit"
        ))),
        None => Ok((options, model_folders)),
    }
}

fn edit_request(
    mut given: Map<String, Value>,
    layer: LayerImage,
    model_folders: &[PathBuf],
) -> Result<EditRequest, Failure> {
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
    Ok(request_for(&chosen, layer.into(), document, model_folders)?)
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
            answer.stage = stage_number(progress.stage) as u32;
            (answer.step, answer.steps) = (progress.step, progress.steps);
            answer.fraction = f64::from(progress.fraction);
            answer.seconds_left = progress.seconds_left.map_or(-1.0, f64::from);
            answer.loss = progress.loss.map_or(-1.0, f64::from);
            progress.stage.label().to_string()
        }
        State::Ended(result) => {
            let (ended, text) = match result {
                Ok(_) => (ImagicState::Done, "Done".to_owned()),
                Err(Error::Cancelled) => (ImagicState::Cancelled, "Stopped".to_owned()),
                Err(error) => (ImagicState::Failed, error.to_string()),
            };
            (answer.state, answer.seconds_left) = (ended as u32, 0.0);
            answer.fraction = if ended == ImagicState::Done { 1.0 } else { 0.0 };
            text
        }
    };
    cut_into(&text, &mut answer.text);
    answer
}

fn stage_number(stage: Stage) -> ImagicStage {
    match stage {
        Stage::LoadModel => ImagicStage::LoadModel,
        Stage::OptimizeTextEmbedding => ImagicStage::OptimizeTextEmbedding,
        Stage::FineTune => ImagicStage::FineTune,
        Stage::Generate => ImagicStage::Generate,
    }
}
