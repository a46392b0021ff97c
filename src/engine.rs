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
pub mod inversion;
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
use budget::clock::{Clock, Told};
use budget::cost::{self, Estimate};
use budget::memory::Shapes;
use budget::plan::Plan;
use detail::{Detail, Enlargement};
use machine::Machine;
use model::family::Family;
use model::source::Source;
use model::tokenizer::Tokenizer;
use picture::pixels::Picture;
use request::{Edit, EditRequest, EngineOptions, Stage, Watch};
use sampling::Sampler;
use std::cell::RefCell;
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
        request.params.check()?;
        let _at_work = self.machine.chosen().at_work();
        let mut clock = Clock::new(request, &self.machine, watch);
        self.load(request, &mut clock)?;
        let Self { machine, digests, base, tuned, sampler, detail, .. } = self;
        let base = base.as_ref().expect("loaded above");
        let request = &request.seen(base.shapes.own_side());
        let (e_tgt, note) = base.embed(&request.params.prompt, base.shapes.size(request))?;
        clock.notes.extend(note);
        let enlargement = Enlargement::of_edit(base, request, machine, digests, &mut clock)?;

        let found = tuned.find_or_make(base, request, &e_tgt, None, machine, &mut clock)?; // stages A and B
        let drawn = sampler.draw(base, request, &e_tgt, &found, machine, &mut clock); // stage C
        // Behind the picture, and also where that was stopped.
        tuned.write(request, machine)?;
        // Stages B and C of the auxiliary model.
        let drawn = detail.enlarge(enlargement, drawn?, base, request, machine, &mut clock)?;

        let picture = Picture::counting(request.picture(&drawn.picture)?, drawn.mask);
        let Told { tuned, seconds, notes, hint } = clock.finish(&base.fingerprint, &base.shapes, request, machine);
        let [embedding_losses, tuning_losses] = found.losses;
        Ok(Edit { tuned, seconds, seed: drawn.seed, embedding_losses, tuning_losses, notes, hint, picture })
    }

    /// Waits until what edits have left for later ones is on the disk.
    pub fn settle(&mut self) {
        self.tuned.settle();
        self.detail.settle();
    }

    /// Where it keeps things, and what it tells of its work.
    pub fn options(&self) -> &EngineOptions {
        &self.machine.options
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
        let task = shapes.task(request, chosen.precision);
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

    /// Reads the request's base model unless it is the loaded one.
    fn load(&mut self, request: &EditRequest, clock: &mut Clock<'_, '_>) -> Result<()> {
        clock.step(Stage::LoadModel, 0, 0, None)?;
        let source = request.source()?;
        let go_on = &mut || clock.step(Stage::LoadModel, 0, 0, None);
        let fingerprint = source.fingerprint(&mut |file, path| self.digests.of(file, path, go_on))?;
        clock.was_loaded = self.loaded(&source, &fingerprint).is_some();
        let device = self.machine.device();
        if !clock.was_loaded {
            // Free the old one first: two do not fit into memory on small machines.
            self.base = None;
            (self.tuned, self.sampler) = Default::default();
            self.base = Some(BaseModel::read(source, fingerprint, device)?);
        }
        let base = self.base.as_mut().expect("read above");
        base.predict_as(request.params.prediction_type, device)
    }

    /// The loaded base model if it is the one in `source`, whose files may have been exchanged since.
    fn loaded(&self, source: &Source, fingerprint: &str) -> Option<&BaseModel> {
        self.base.as_ref().filter(|base| base.source.path() == source.path() && base.fingerprint == fingerprint)
    }
}
