//! Resume points on disk: stages A and B as far as they have come, so that the next edit of the same picture and text
//! goes on from there, in whatever program, however this one ends. Variables, Adam's moments, losses, e_opt and the
//! picture are in them; everything random is a function of the step.
#![forbid(unsafe_code)]

use crate::engine::model::conditioning::Conditioning;
use crate::engine::model::lora;
use crate::engine::model::weights::Weights;
use crate::engine::ops::MomentBits;
use crate::engine::request::{EditRequest, EngineOptions};
use crate::engine::store::entry::{self, E_OPT, Entry, Refusal, Shapes, Values};
use crate::engine::store::folder::{self, NewFile, RESUME};
use crate::engine::store::key::{FORMAT, TuningKey};
use crate::engine::tuning::mode::{Mode, Trained};
use crate::engine::tuning::training::{Saved, Training, optimized};
use crate::engine::tuning::unfinished::Unfinished;
use crate::error::{Doing, Error, Result};
use crate::params::Params;
use crate::text::{gigabytes, text};
use candle_core::{Device, Tensor};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// At most this share of the time goes into resume points: one in so many parts.
const SHARE: u32 = 20;

/// Bytes a second that an edit writes on average at most: disks wear out.
const WEAR: f64 = 32e6;

/// Bytes a second that a disk is thought to write before it has shown what it can.
const USUAL_SPEED: f64 = 500e6;

/// Stages A and B between two steps.
pub struct State<'a> {
    /// The picture x, as latents.
    pub x: &'a Tensor,
    /// See [`Unfinished::psnr`].
    pub psnr: Option<f64>,
    /// e_opt and the losses of stage A, once it is done.
    pub embedding: Option<&'a (Conditioning, Vec<f32>)>,
    /// The stage that runs.
    pub training: Option<&'a Training>,
}

impl<'a> State<'a> {
    /// Of what was stopped here.
    pub fn of(unfinished: &'a Unfinished) -> Self {
        let Unfinished { x, psnr, embedding, training, .. } = unfinished;
        Self { x, psnr: *psnr, embedding: embedding.as_ref(), training: training.as_ref() }
    }

    /// Nothing is to be kept of a stage before its first step.
    fn training(&self) -> Option<&'a Training> {
        self.training.filter(|training| !training.losses.is_empty())
    }

    fn losses(&self) -> [&'a [f32]; 2] {
        let running = self.training().map_or(&[][..], |training| &training.losses);
        match self.embedding {
            Some((_, losses)) => [losses, running],
            None => [running, &[]],
        }
    }

    fn shapes(&self) -> Shapes {
        let e_opt = self.embedding.iter().flat_map(|(e_opt, _)| entry::e_opt(e_opt));
        let mut shapes = entry::shapes_of(e_opt.chain([(X.to_owned(), self.x)]));
        for (name, losses) in LOSSES.into_iter().zip(self.losses()) {
            if !losses.is_empty() {
                shapes.insert(name.to_owned(), vec![losses.len()]);
            }
        }
        if let Some(training) = self.training() {
            for (name, variable) in training.variables() {
                shapes.insert(format!("{VARIABLE}{name}"), variable.dims().to_vec());
                for (moment, len) in MOMENTS.iter().zip(training.adam().moments(variable)) {
                    shapes.insert(format!("{moment}{name}"), vec![len]);
                }
            }
        }
        shapes
    }

    fn add(&self, name: &str, values: &mut Values<'_>) -> std::io::Result<()> {
        if name == X {
            return values.add_tensor(self.x);
        }
        for (losses, own) in LOSSES.iter().zip(self.losses()) {
            if name == *losses {
                return values.add(own);
            }
        }
        if let Some((e_opt, _)) = self.embedding
            && let Some((_, part)) = entry::e_opt(e_opt).find(|(part, _)| part == name)
        {
            return values.add_tensor(part);
        }
        let training = self.training().expect("all other tensors are a stage's");
        if let Some(variable) = name.strip_prefix(VARIABLE) {
            return values.add_tensor(training.variables()[variable].as_tensor());
        }
        let moment = MOMENTS.iter().position(|moment| name.starts_with(moment)).expect("there are no others");
        let variable = &training.variables()[&name[MOMENTS[moment].len()..]];
        let added = training.adam().with_moment(variable, moment, |moment| values.add(moment));
        added.map_err(|error| std::io::Error::other(error.to_string()))?
    }
}

/// The picture's name among the tensors.
const X: &str = "x";
/// Losses of stages A and B.
const LOSSES: [&str; 2] = ["losses.a", "losses.b"];
/// How the variables' names begin.
const VARIABLE: &str = "variable.";
/// How the names of their moments begin.
const MOMENTS: [&str; 2] = ["moment1.", "moment2."];

/// What [`Entry::read`] expects.
pub fn format() -> String {
    format!("resume point {FORMAT}")
}

/// Steps of stages A and B that are done for `key`, if there is a resume point; only [`find`] sees whether it is whole.
pub fn steps(folder: &Path, key: &TuningKey) -> Option<[u32; 2]> {
    let about = Entry::look(&path(folder, key))?;
    let steps = |at: usize| Some(about["steps"][at].as_u64()? as u32);
    let is_ours = about["format"] == json!(format()) && about["key"] == json!(key.as_str());
    is_ours.then(|| Some([steps(0)?, steps(1)?])).flatten()
}

/// What a resume point has to fit.
pub struct Fitting<'a> {
    /// An embedding of the shapes that its own has.
    pub e: &'a Conditioning,
    /// The base model's network without its values.
    pub network: &'a Weights,
    /// What was asked for.
    pub params: &'a Params,
    /// Shape of the latents.
    pub x: [usize; 4],
    /// Where it is wanted.
    pub device: &'a Device,
}

/// The resume point for `key`, read and verified, to go on with in `mode`; `None` if there is none or its file is
/// damaged, which is said once.
pub fn find(folder: &Path, key: &TuningKey, mode: Mode, fitting: &Fitting<'_>) -> Option<Unfinished> {
    let file = path(folder, key);
    file.symlink_metadata().ok()?;
    read(&file, key, mode, fitting).inspect_err(|refusal| entry::refuse(&file, refusal)).ok()
}

/// Removes the resume point for `key`: it is done.
pub fn remove(folder: &Path, key: &TuningKey) {
    // One that stays is of no harm: the tuned model is found before it.
    let _ = std::fs::remove_file(path(folder, key));
}

/// Writes a resume point for `key` in the place of an earlier one: whoever comes finds this one or that one. Least
/// recently used files go until all fit into `limit` bytes.
pub fn write(folder: &Path, limit: u64, key: &TuningKey, request: &EditRequest, state: &State<'_>) -> Result<()> {
    let (file, shapes) = (path(folder, key), state.shapes());
    let steps = state.losses().map(<[f32]>::len);
    let mut about = entry::about(key, request);
    (about["format"], about["psnr"], about["steps"]) = (json!(format()), json!(state.psnr), json!(steps));
    about["done"] = json!(steps[0] + steps[1]);
    about["all"] = json!(request.params.embedding_steps + request.params.tuning_steps);
    let bytes = entry::bytes(&about, &shapes);
    if bytes > limit {
        return Err(too_large(bytes, limit));
    }
    let mut new = NewFile::begin(folder)?;
    if !folder::make_room(folder, limit, bytes, &file)? {
        return Err(Error::file(Doing::Write, &file)(std::io::ErrorKind::StorageFull.into()));
    }
    entry::write(new.file(), &about, &shapes, |name, values| state.add(name, values))
        .map_err(entry::unwritten(&file))?;
    new.keep(&file)
}

fn too_large(bytes: u64, limit: u64) -> Error {
    Error::Host(text!(
        "it needs {need} GB of the {limit} GB that tuned models may take; raise that with imagic-edit cache limit",
        need = gigabytes(bytes),
        limit = gigabytes(limit)
    ))
}

fn path(folder: &Path, key: &TuningKey) -> PathBuf {
    folder.join(key.as_str()).with_extension(RESUME)
}

fn read(file: &Path, key: &TuningKey, mode: Mode, fitting: &Fitting<'_>) -> std::result::Result<Unfinished, Refusal> {
    let open = Entry::open(file)?;
    let mut tensors = open.read(key, &format())?;
    let psnr = open.about["psnr"].as_f64();
    let place = |tensor: &Tensor| tensor.to_device(fitting.device).map_err(Refusal::bad);
    let numbers = |tensor: &Tensor| tensor.flatten_all().and_then(|flat| flat.to_vec1::<f32>()).map_err(Refusal::bad);
    let x = tensors.remove(X).filter(|x| x.dims() == fitting.x);
    let x = place(&x.ok_or_else(|| Refusal::bad("its picture has another size"))?)?;
    let mut losses = Vec::new();
    for name in LOSSES {
        losses.push(tensors.remove(name).map_or_else(|| Ok(Vec::new()), |tensor| numbers(&tensor))?);
    }
    let [losses_a, losses_b] = <[Vec<f32>; 2]>::try_from(losses).expect("one for each of two names");
    let is_in_b = tensors.keys().any(|name| name.starts_with(E_OPT));
    let embedding = match is_in_b {
        true => Some((entry::conditioning(&tensors, fitting.e, fitting.device)?, losses_a.clone())),
        false => None,
    };
    let losses = if is_in_b { losses_b } else { losses_a };
    let mut saved = None;
    if !losses.is_empty() {
        let expected = variables(mode.trained(), is_in_b, fitting);
        let bits = if is_in_b { mode.trained().moments() } else { MomentBits::ThirtyTwo };
        let (mut variables, mut moments) = (BTreeMap::new(), BTreeMap::new());
        for (name, shape) in expected {
            let variable = tensors.remove(&format!("{VARIABLE}{name}")).filter(|variable| variable.dims() == shape);
            let variable = variable.ok_or_else(|| Refusal::bad(format!("variable {name} does not fit")))?;
            let found = MOMENTS.iter().filter_map(|moment| tensors.remove(&format!("{moment}{name}")));
            let found: Vec<Vec<f32>> = found.map(|moment| numbers(&moment)).collect::<std::result::Result<_, _>>()?;
            if found.iter().map(Vec::len).ne(bits.moments(variable.elem_count())) {
                return Err(Refusal::bad(format!("the moments of variable {name} do not fit")));
            }
            variables.insert(name.clone(), place(&variable)?);
            moments.insert(name, found);
        }
        saved = Some(Saved { variables, moments, losses });
    }
    Ok(Unfinished { mode, x, psnr, embedding, training: None, saved })
}

/// Names and shapes of what a stage trains.
fn variables(trained: Trained, is_in_b: bool, fitting: &Fitting<'_>) -> Shapes {
    if !is_in_b {
        return entry::shapes_of(optimized(fitting.e, fitting.params).map(|(name, part)| (name.to_owned(), part)));
    }
    match trained {
        Trained::Weights | Trained::WeightsInEightBits => {
            entry::shapes_of(fitting.network.tensors.iter().map(|(name, tensor)| (name.clone(), tensor)))
        }
        Trained::Adapters => {
            let adapters = lora::shapes(fitting.network, fitting.params).into_iter().flatten();
            adapters.map(|adapter| (adapter.name, adapter.shape)).collect()
        }
    }
}

/// Writes the resume points of one edit, as often as they are worth it.
pub struct Points<'a> {
    options: &'a EngineOptions,
    request: &'a EditRequest,
    /// When the last one was written, or the edit began.
    last: Instant,
    /// What the last one took.
    took: Option<Duration>,
    /// Why the last one was not: there may be room for the next one.
    failed: Option<Error>,
}

impl<'a> Points<'a> {
    /// Into the folder that `options` names.
    pub fn new(options: &'a EngineOptions, request: &'a EditRequest) -> Self {
        Self { options, request, last: Instant::now(), took: None, failed: None }
    }

    /// After a step: writes one if it is time for it.
    pub fn step(&mut self, key: &TuningKey, state: &State<'_>) {
        let EngineOptions { cache_folder: Some(folder), cache_limit, resume_every, .. } = self.options else { return };
        if self.last.elapsed() < *resume_every {
            return;
        }
        let began = Instant::now();
        if !resume_every.is_zero() && !self.is_worth_it(state) {
            return;
        }
        self.failed = write(folder, *cache_limit, key, self.request, state).err();
        self.last = Instant::now();
        self.took = Some(began.elapsed());
    }

    /// Whether a resume point takes little of the time since the last one, and of what a disk can bear.
    fn is_worth_it(&self, state: &State<'_>) -> bool {
        let values: usize = state.shapes().values().map(|shape| shape.iter().product::<usize>()).sum();
        let bytes = 4.0 * values as f64;
        let took = self.took.unwrap_or(Duration::from_secs_f64(bytes / USUAL_SPEED));
        self.last.elapsed() >= (SHARE * took).max(Duration::from_secs_f64(bytes / WEAR))
    }

    /// Why the edit cannot go on from where it is in another program.
    pub fn failure(self) -> Option<Error> {
        self.failed
    }
}
