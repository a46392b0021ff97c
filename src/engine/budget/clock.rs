//! Turns the steps of the stages into [`Progress`] and measures what each stage takes.
#![forbid(unsafe_code)]

use crate::engine::budget::cost::{self, Pace, passes};
use crate::engine::budget::memory::Shapes;
use crate::engine::machine::Machine;
use crate::engine::request::{EditRequest, Progress, Stage, Tuned, Watch};
use crate::engine::tuning::mode::Mode;
use crate::error::{Error, Hint, Result};
use crate::image::LayerImage;
use crate::params::Params;
use crate::text::Text;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

/// One edit's. What it still knows of the running stage when it is dropped goes into the log.
pub struct Clock<'a, 'b> {
    watch: &'a mut Watch<'b>,
    log: fn(&str),
    mode: Option<Mode>,
    /// Steps of the running stage that are done.
    step: u32,
    is_finished: bool,
    /// The stages that have steps, in order.
    parts: [Part; 5],
    /// The stage that runs, since when, and the steps that were done before.
    stage: (Stage, Instant, u32),
    seconds: Vec<(Stage, f32)>,
    /// Seconds per pass, from the stage that runs.
    pace: Option<f32>,
    /// Where the base model's tuned model came from, or that one was tuned here.
    tuned: Option<Tuned>,
    /// Whether the base model was there already.
    pub was_loaded: bool,
    /// Goes with every step from now on.
    pub hint: Option<Hint>,
    /// Goes with every step from now on.
    pub preview: Option<Arc<LayerImage>>,
    /// What the user should know at the end.
    pub notes: Vec<Text>,
}

/// A stage that has steps.
#[derive(Clone, Copy)]
struct Part {
    stage: Stage,
    steps: u32,
    /// What a step costs in passes through the base model's network for one item, or in what takes about as long.
    cost: f32,
    /// Seconds per pass, if it ran here.
    pace: Option<f32>,
}

/// What a clock knows of an edit that is done, as [`Edit`](crate::engine::request::Edit) has it.
pub struct Told {
    /// Whether stages A and B had to run.
    pub tuned: Tuned,
    /// Seconds each stage took.
    pub seconds: Vec<(Stage, f32)>,
    /// What the user should know.
    pub notes: Vec<Text>,
    /// The hint that was part of the progress.
    pub hint: Option<Hint>,
}

impl<'a, 'b> Clock<'a, 'b> {
    /// Begins with loading. The log is told of `request`, and of each stage that ends.
    pub fn new(request: &EditRequest, machine: &Machine, watch: &'a mut Watch<'b>) -> Self {
        let (log, params) = (machine.options.log, &request.params);
        log(&beginning(request, machine));
        // The best mode is the same one on every device.
        let [a, b, c] = passes(params, Mode::allowed(params, machine.chosen())[0]);
        let part = |stage, steps, cost| Part { stage, steps, cost, pace: None };
        let parts = [
            part(Stage::OptimizeTextEmbedding, params.embedding_steps, a),
            part(Stage::FineTune, params.tuning_steps, b),
            part(Stage::Generate, params.sampling_steps, c),
            part(Stage::FineTuneDetail, 0, 0.0),
            part(Stage::Enlarge, 0, 0.0),
        ];
        Self {
            watch,
            log,
            mode: None,
            step: 0,
            is_finished: false,
            parts,
            stage: (Stage::LoadModel, Instant::now(), 0),
            seconds: Vec::new(),
            pace: None,
            tuned: None,
            was_loaded: false,
            hint: None,
            preview: None,
            notes: Vec::new(),
        }
    }

    fn part(&mut self, stage: Stage) -> &mut Part {
        self.parts.iter_mut().find(|part| part.stage == stage).expect("only stages with steps are asked for")
    }

    /// Stages A and B run in `mode` from here on; or, with no stage A, stage B of the model that enlarges.
    pub fn tunes_in(&mut self, params: &Params, mode: Mode, enlarges: bool) {
        self.mode = Some(mode);
        let [a, b, _] = passes(params, mode);
        if !enlarges {
            self.part(Stage::OptimizeTextEmbedding).cost = a;
            self.part(Stage::FineTune).cost = b;
        }
    }

    /// There is a tuned model, the base model's or the one that `enlarges`; where it was kept, the stages that make it
    /// did not have to run.
    pub fn tuned(&mut self, origin: Tuned, enlarges: bool) {
        if origin == Tuned::Now {
            self.tuned = Some(origin);
            return;
        }
        self.tuned = self.tuned.or(Some(origin));
        let stages: &[Stage] =
            if enlarges { &[Stage::FineTuneDetail] } else { &[Stage::OptimizeTextEmbedding, Stage::FineTune] };
        for &stage in stages {
            self.part(stage).steps = 0;
        }
    }

    /// A stage takes `steps` steps, each of which costs `cost` passes.
    pub fn takes(&mut self, stage: Stage, steps: u32, cost: f32) {
        let part = self.part(stage);
        (part.steps, part.cost) = (steps, cost);
    }

    /// Stage C takes `steps` steps.
    pub fn samples(&mut self, steps: u32) {
        self.part(Stage::Generate).steps = steps;
    }

    pub fn step(&mut self, stage: Stage, step: u32, steps: u32, loss: Option<f32>) -> Result<()> {
        self.enter(stage, step);
        self.step = step;
        let (mut done, mut all) = (0.0, 0.0);
        let mut before = true;
        for Part { stage: other, steps, cost, pace } in &mut self.parts {
            let (steps, cost) = (*steps as f32, *cost);
            all += steps * cost;
            if *other == stage {
                before = false;
                done += step as f32 * cost;
                let ran = step - self.stage.2;
                if ran > 0 {
                    *pace = Some(self.stage.1.elapsed().as_secs_f32() / (ran as f32 * cost));
                    self.pace = *pace;
                }
            } else if before && ![Stage::LoadModel, Stage::Wait].contains(&stage) {
                done += steps * cost;
            }
        }
        let fraction = if all > 0.0 { (done / all).min(1.0) } else { 0.0 };
        let seconds_left = self.pace.map(|pace| pace * (all - done).max(0.0));
        let (hint, preview) = (self.hint, self.preview.clone());
        match (self.watch)(Progress { stage, step, steps, loss, fraction, seconds_left, hint, preview }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled),
        }
    }

    /// Closes the running stage if `stage` is another one.
    fn enter(&mut self, stage: Stage, step: u32) {
        if self.stage.0 != stage {
            self.close();
            self.stage = (stage, Instant::now(), step);
        }
    }

    fn close(&mut self) {
        let (stage, began, first) = self.stage;
        let seconds = began.elapsed().as_secs_f32();
        self.seconds.push((stage, seconds));
        let steps = if self.step > first { format!(", steps {first} to {}", self.step) } else { String::new() };
        let is_tuning = matches!(stage, Stage::OptimizeTextEmbedding | Stage::FineTune | Stage::FineTuneDetail);
        let mode = self.mode.filter(|_| is_tuning).map_or_else(String::new, |mode| format!(", {mode:?}"));
        (self.log)(&format!("{stage:?}: {seconds:.2} s{steps}{mode}"));
        self.step = 0;
    }

    /// The edit of `request` by the model of that fingerprint and of those shapes is done; its pace is kept for
    /// estimates.
    pub fn finish(mut self, fingerprint: &str, shapes: &Shapes, request: &EditRequest, machine: &Machine) -> Told {
        self.close();
        self.is_finished = true;
        let (w, h) = shapes.size(request);
        let took = |stage| self.seconds.iter().find(|(other, _)| *other == stage).map_or(0.0, |(_, seconds)| *seconds);
        let [a, b, c, detail, enlarging] = self.parts;
        let sampled = c.pace.unwrap_or_default() * c.steps as f32 * c.cost;
        let pace = Pace {
            pixels: (w * h) as f32,
            own_pixels: shapes.own_side().pow(2) as f32,
            load: (!self.was_loaded).then(|| took(Stage::LoadModel)),
            passes: [a, b, c].map(|part| part.pace),
            detail: [detail, enlarging].map(|part| part.pace.unwrap_or_default()),
            decode: Some((took(Stage::Generate) - sampled).max(0.0)),
        };
        cost::remember(&machine.options, fingerprint, pace);
        Told {
            tuned: self.tuned.unwrap_or(Tuned::Now),
            seconds: std::mem::take(&mut self.seconds),
            notes: std::mem::take(&mut self.notes),
            hint: self.hint,
        }
    }
}

/// Where `finish` was not called, the edit ended in the stage that runs.
impl Drop for Clock<'_, '_> {
    fn drop(&mut self) {
        if !self.is_finished {
            self.close();
        }
    }
}

/// For the log: what is edited, on what.
fn beginning(request: &EditRequest, machine: &Machine) -> String {
    let (params, layer) = (&request.params, &request.layer);
    let whose = machine.chosen().gpu.as_deref().unwrap_or("the processor");
    let free = machine.free_memory().map_or_else(String::new, |free| format!(", {} MB free", free / 1_000_000));
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
