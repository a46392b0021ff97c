//! One edit from pixels to pixels: the order of the paper's stages and what is kept between edits; knows no host.
//!
//! | stage | the paper's part | who calls it |
//! |---|---|---|
//! | A: optimize the text embedding | [`imagic::optimize_text_embedding`] | [`tuned`] |
//! | B: fine-tune the model | [`imagic::fine_tune`] | [`tuned`] |
//! | B of the super-resolution model | [`auxiliary::fine_tune`] | [`tuned`], for [`detail`] |
//! | C: interpolate and generate | [`imagic::interpolate`], [`imagic::generate`] | [`sampling`] |
//! | choose one of several versions | [`candidates::Judge`] | [`sampling`] |
//! | C of the super-resolution model | [`imagic::sample`] with [`auxiliary::tiles`] | [`detail`] |
#![deny(unsafe_code)]

pub mod about;
pub mod auxiliary;
pub mod base;
pub mod budget;
pub mod candidates;
pub mod detail;
pub mod device;
pub mod imagic;
pub mod machine;
pub mod model;
pub mod ops;
pub mod picture;
pub mod random;
pub mod request;
pub mod sampling;
pub mod stop;
pub mod store;
pub mod tuned;
pub mod tuning;

use crate::error::{Error, Result};
use base::BaseModel;
use budget::clock::Clock;
use budget::cost::{self, Estimate};
use budget::memory::{Shapes, Task};
use budget::plan::Plan;
use detail::{Detail, Enlargement};
use machine::Machine;
use model::family::Family;
use model::source::Source;
use model::tokenizer::Tokenizer;
use picture::pixels::Picture;
use request::{Edit, EditRequest, EngineOptions, Stage, Tuned, Watch};
use sampling::{Drawn, Sampler};
use std::cell::RefCell;
use std::sync::Arc;
use store::digests::Digests;
use store::key::Keys;
use tuned::{Progress, TunedModels};
use tuning::mode::Mode;

/// Owns the loaded base model and what edits with it have left for the next ones.
pub struct Engine {
    machine: Machine,
    digests: Digests,
    base: Option<BaseModel>,
    tuned: TunedModels,
    sampler: Sampler,
    /// What enlarged the last edit.
    detail: Detail,
    /// Of the model that was estimated last without being loaded, by its fingerprint: it takes longer to make than the
    /// rest of an estimate.
    tokenizer: RefCell<Option<(String, Tokenizer)>>,
}

impl Engine {
    /// Loads nothing yet.
    pub fn new(options: EngineOptions) -> Self {
        Self {
            digests: Digests::new(options.cache_folder.as_deref()),
            machine: Machine::new(options),
            base: None,
            tuned: TunedModels::default(),
            sampler: Sampler::default(),
            detail: Detail::default(),
            tokenizer: RefCell::default(),
        }
    }

    /// Runs the stages that are needed and returns the edited picture.
    ///
    /// Stages A and B run only if no tuned model is kept for this picture, prompt, tuning parameters and base model.
    /// When they are stopped, the next edit with the same of these goes on from there.
    pub fn edit(&mut self, request: &EditRequest, watch: &mut Watch<'_>) -> Result<Edit> {
        let log = self.machine.options.log;
        log(&self.beginning(request));
        let edit = self.run_stages(request, watch);
        log(&match &edit {
            Ok(_) => "done".to_owned(),
            // Its values may be the user's own words.
            Err(Error::Parameter(text)) => format!("refused: {}", text.key),
            Err(error) => format!("failed: {error}"),
        });
        edit
    }

    fn run_stages(&mut self, request: &EditRequest, watch: &mut Watch<'_>) -> Result<Edit> {
        request.params.check()?;
        let mut clock = Clock::new(&request.params, self.machine.options.log, watch);
        clock.step(Stage::LoadModel, 0, 0, None)?;
        let _at_work = self.machine.chosen().at_work();
        let was_loaded = self.load(request, &mut clock)?;
        let Self { machine, digests, base, tuned, sampler, detail, .. } = self;
        let base = base.as_mut().expect("loaded above");
        base.predict_as(request.params.prediction_type, machine.device())?;
        let base = &*base;
        let request = &request.seen(base.shapes.own_side());

        let (e_tgt, note) = base.embed(&request.params.prompt, base.shapes.task(request).size)?;
        clock.notes.extend(note);
        let enlargement =
            Enlargement::of(request, (&base.fingerprint, &base.shapes), machine.device(), &mut |file, path| {
                digests.of(file, path, &mut || clock.step(Stage::LoadModel, 0, 0, None))
            })?;
        let enlargement = enlargement.as_ref();
        clock.enlarges(enlargement.map_or([(0, 0.0); 2], |with| with.costs(request, &base.shapes)));
        let found = tuned.find_or_make(base, request, &e_tgt, None, machine, &mut clock)?; // stages A and B
        clock.tuned(found.origin);
        // Kept with the tuned model: measuring again would take longer than stage C with large layers.
        clock.hint = request.hint(found.model.psnr);
        if enlargement.is_some() {
            // What comes now may take as long again, and may be killed.
            tuned.write(request, machine)?;
        }
        let drawn = (|| {
            // Stage C, and then stages B and C of the auxiliary model: meanwhile there is a picture to be seen.
            let drawn = sampler.draw(base, request, &e_tgt, &found, machine, &mut clock)?;
            let Drawn { mut picture, mask, seed } = drawn;
            if enlargement.is_some() && request.previews > 0 {
                clock.preview = Some(Arc::new(request.picture(&picture)?.forming()));
            }
            let network = detail.network(enlargement, base, request, machine, &mut clock)?;
            if let Some((with, network)) = enlargement.zip(network) {
                picture = detail.enlarge(with, &picture, mask.as_ref(), &network, request, &mut clock)?;
            }
            Ok::<_, Error>((Picture::counting(request.picture(&picture)?, mask), seed))
        })();
        // Behind the picture, and also where that was stopped.
        tuned.write(request, machine)?;
        detail.write(enlargement, request, machine)?;
        let (picture, seed) = drawn?;

        let (w, h) = base.shapes.task(request).size;
        let (seconds, pace) = clock.finish([w * h, base.shapes.own_side().pow(2)], was_loaded);
        cost::remember(&machine.options, &base.fingerprint, pace);
        let [embedding_losses, tuning_losses] = found.losses;
        let (notes, hint) = (std::mem::take(&mut clock.notes), clock.hint);
        let tuned_detail = seconds.iter().any(|(stage, _)| *stage == Stage::FineTuneDetail);
        let tuned = if tuned_detail { Tuned::Now } else { found.origin };
        Ok(Edit { tuned, seconds, seed, embedding_losses, tuning_losses, notes, hint, picture })
    }

    /// Waits until what edits have left for later ones is on the disk.
    pub fn settle(&mut self) {
        self.tuned.settle();
        self.detail.settle();
    }

    /// What gives memory back that lies free: for each thread that has worked, when nothing was asked for a while.
    pub fn give_back(&self) -> fn() {
        self.machine.options.give_back
    }

    /// For the log: what is edited, on what.
    fn beginning(&self, request: &EditRequest) -> String {
        let chosen = self.machine.chosen();
        let (params, layer) = (&request.params, &request.layer);
        let whose = chosen.gpu.as_deref().unwrap_or("the processor");
        let free =
            self.machine.free_memory().map_or_else(String::new, |free| format!(", {} MB free", free / 1_000_000));
        format!(
            "edit of {}x{} pixels, resolution {}, batch {}, {}+{}+{} steps, {} tuning, on {whose}, {} threads{free}",
            layer.width(),
            layer.height(),
            params.resolution,
            params.batch_size,
            params.embedding_steps,
            params.tuning_steps,
            params.sampling_steps,
            params.tuning_mode,
            params.threads,
        )
    }

    /// What `request` would cost now. Loads nothing, and reads no whole file, which can take many seconds: nothing is
    /// known to be kept of a model whose files no edit has read yet.
    pub fn estimate(&self, request: &EditRequest) -> Result<Estimate> {
        let (machine, chosen) = (&self.machine, self.machine.chosen());
        let source = request.source()?;
        let mut is_known = true;
        let fingerprint = source.fingerprint(&mut |file, path| {
            let digest = self.digests.at_hand(file, path);
            is_known &= digest.is_some();
            Ok(digest.unwrap_or_default())
        })?;
        let allowed = Mode::allowed(&request.params, chosen);
        let loaded = self.loaded(&source, &fingerprint).filter(|_| is_known);
        let read = loaded.is_none().then(|| Shapes::new(&source, Family::of(&source)?, &chosen.device)).transpose()?;
        let shapes = loaded.map(|base| &base.shapes).or(read.as_ref()).expect("read where none is loaded");
        let request = &request.seen(shapes.own_side());
        let keys = || {
            let tokens = self.tokens(&request.params.prompt, &source, loaded, &fingerprint)?;
            Ok::<_, Error>(Keys::of(request, &tokens, allowed, &fingerprint))
        };
        let keys = is_known.then(keys).transpose()?;
        let progress = keys.as_ref().map_or_else(Progress::default, |keys| self.tuned.progress(keys, machine));
        let is_its_key = |key: &_| keys.as_ref().is_some_and(|keys| keys.have(key));
        let sampling_steps = self.sampler.steps(is_its_key, &request.params);
        let task = Task { precision: chosen.precision, ..shapes.task(request) };
        let held = loaded.map_or(0, |base| self.tuned.held(base, &task));
        let plan = || Plan::new(shapes, &task, allowed, held, machine.free_memory());
        let mut memory = (!progress.tuned).then(plan).transpose()?;
        let is_loaded = loaded.is_some();
        let detail = self.detail.outlook(request, (&fingerprint, shapes), machine, &mut |file, path| {
            Ok(self.digests.at_hand(file, path).unwrap_or_default())
        })?;
        if let Some(plan) = &mut memory {
            plan.need = plan.need.max(detail.need);
        }
        let of = (progress.steps, sampling_steps, detail.passes);
        let estimate = cost::estimate(&machine.options, request, &fingerprint, memory, is_loaded, of)?;
        Ok(Estimate { on_gpu: chosen.gpu.is_some(), ..estimate })
    }

    /// The tokens of `prompt` for the model in `source`, which may be `loaded`.
    fn tokens(&self, prompt: &str, source: &Source, loaded: Option<&BaseModel>, of: &str) -> Result<Vec<u32>> {
        if let Some(base) = loaded {
            return base.tokens(prompt);
        }
        let mut kept = self.tokenizer.borrow_mut();
        if kept.as_ref().is_none_or(|(fingerprint, _)| fingerprint != of) {
            *kept = Some((of.to_owned(), base::tokenizer(source)?));
        }
        Ok(kept.as_ref().expect("made above").1.tokenize(prompt)?.ids)
    }

    /// Reads the request's base model unless it is the loaded one; tells whether it was.
    fn load(&mut self, request: &EditRequest, clock: &mut Clock<'_, '_>) -> Result<bool> {
        let source = request.source()?;
        let go_on = &mut || clock.step(Stage::LoadModel, 0, 0, None);
        let fingerprint = source.fingerprint(&mut |file, path| self.digests.of(file, path, go_on))?;
        if self.loaded(&source, &fingerprint).is_some() {
            return Ok(true);
        }
        // Free the old one first: two do not fit into memory on small machines.
        self.base = None;
        (self.tuned, self.sampler) = Default::default();
        self.base = Some(BaseModel::read(source, fingerprint, self.machine.device())?);
        Ok(false)
    }

    /// The loaded base model if it is the one in `source`, whose files may have been exchanged since.
    fn loaded(&self, source: &Source, fingerprint: &str) -> Option<&BaseModel> {
        self.base.as_ref().filter(|base| base.source.path() == source.path() && base.fingerprint == fingerprint)
    }
}
