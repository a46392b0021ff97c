//! Turns the steps of the stages into [`Progress`] and measures what each stage takes.
#![forbid(unsafe_code)]

use crate::engine::budget::cost::{Pace, passes};
use crate::engine::device::Processor;
use crate::engine::request::{Progress, Stage, Tuned, Watch};
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
    /// Steps of stages A, B and C, and the cost of one, in passes through the network for one item; between them and
    /// last the same of B and C of the model that enlarges, in passes of the base model that take about as long.
    costs: [(Stage, u32, f32); 5],
    /// The stage that runs, since when, and the steps that were done before.
    stage: (Stage, Instant, u32),
    seconds: Vec<(Stage, f32)>,
    /// Seconds per pass, from the stage that runs.
    pace: Option<f32>,
    /// The same of each stage that ran here.
    paces: [Option<f32>; 5],
    /// Goes with every step from now on.
    pub hint: Option<Hint>,
    /// Goes with every step from now on.
    pub preview: Option<Arc<LayerImage>>,
    /// What the user should know at the end.
    pub notes: Vec<Text>,
}

impl<'a, 'b> Clock<'a, 'b> {
    /// For an edit with `params`; stages that end are told to `log`.
    pub fn new(params: &Params, log: fn(&str), watch: &'a mut Watch<'b>) -> Self {
        // The best mode is the same one on every device.
        let [a, b, c] = passes(params, Mode::allowed(params, &Processor::Cpu.choose())[0]);
        let costs = [
            (Stage::OptimizeTextEmbedding, params.embedding_steps, a),
            (Stage::FineTune, params.tuning_steps, b),
            (Stage::Generate, params.sampling_steps, c),
            (Stage::FineTuneDetail, 0, 0.0),
            (Stage::Enlarge, 0, 0.0),
        ];
        let stage = (Stage::LoadModel, Instant::now(), 0);
        Self {
            watch,
            log,
            mode: None,
            step: 0,
            is_finished: false,
            costs,
            stage,
            seconds: Vec::new(),
            pace: None,
            paces: [None; 5],
            hint: None,
            preview: None,
            notes: Vec::new(),
        }
    }

    /// Stages A and B run in `mode` from here on; or, with no stage A, stage B of the model that enlarges.
    pub fn tunes_in(&mut self, params: &Params, mode: Mode, enlarges: bool) {
        self.mode = Some(mode);
        let [a, b, _] = passes(params, mode);
        if !enlarges {
            (self.costs[0].2, self.costs[1].2) = (a, b);
        }
    }

    /// Stages A and B did not have to run.
    pub fn tuned(&mut self, origin: Tuned) {
        if origin != Tuned::Now {
            self.costs[0].1 = 0;
            self.costs[1].1 = 0;
        }
    }

    /// Stage B of the model that enlarges did not have to run.
    pub fn detail_tuned(&mut self, origin: Tuned) {
        if origin != Tuned::Now {
            self.costs[3].1 = 0;
        }
    }

    /// Stage C takes `steps` steps.
    pub fn samples(&mut self, steps: u32) {
        self.costs[2].1 = steps;
    }

    /// The edit is enlarged by a model: steps of its stages B and C, and what one costs.
    pub fn enlarges(&mut self, [b, c]: [(u32, f32); 2]) {
        self.costs[3] = (Stage::FineTuneDetail, b.0, b.1);
        self.costs[4] = (Stage::Enlarge, c.0, c.1);
    }

    pub fn step(&mut self, stage: Stage, step: u32, steps: u32, loss: Option<f32>) -> Result<()> {
        self.enter(stage, step);
        self.step = step;
        let (mut done, mut all) = (0.0, 0.0);
        let mut before = true;
        for (index, (other, steps, cost)) in self.costs.into_iter().enumerate() {
            all += steps as f32 * cost;
            if other == stage {
                before = false;
                done += step as f32 * cost;
                let ran = step - self.stage.2;
                if ran > 0 {
                    self.pace = Some(self.stage.1.elapsed().as_secs_f32() / (ran as f32 * cost));
                    self.paces[index] = self.pace;
                }
            } else if before && ![Stage::LoadModel, Stage::Wait].contains(&stage) {
                done += steps as f32 * cost;
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

    /// Seconds that each stage took, and the pace of this edit. `pixels`: those of the picture at the size at which the
    /// model worked, and at the model's own.
    pub fn finish(&mut self, [pixels, own_pixels]: [usize; 2], was_loaded: bool) -> (Vec<(Stage, f32)>, Pace) {
        let [a, b, c, detail, enlarging] = self.paces;
        let sampled = c.unwrap_or_default() * self.costs[2].1 as f32 * self.costs[2].2;
        self.close();
        self.is_finished = true;
        let took = |stage| self.seconds.iter().find(|(other, _)| *other == stage).map_or(0.0, |(_, seconds)| *seconds);
        let pace = Pace {
            pixels: pixels as f32,
            own_pixels: own_pixels as f32,
            load: (!was_loaded).then(|| took(Stage::LoadModel)),
            passes: [a, b, c],
            detail: [detail, enlarging].map(|pace| pace.unwrap_or_default()),
            decode: Some((took(Stage::Generate) - sampled).max(0.0)),
        };
        (std::mem::take(&mut self.seconds), pace)
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
