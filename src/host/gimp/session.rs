//! The edits of one dialog, one after the other in the background, their results, and what the dialog says of them;
//! knows no widget.
#![forbid(unsafe_code)]

use super::document::{Document, Outcome};
use super::library::{Image, Layer, Library};
use crate::catalog::{self, Entry, Model, Places};
use crate::engine::Engine;
use crate::engine::budget::cost::Estimate;
use crate::engine::picture::selection::Selection;
use crate::engine::request::{Edit, EditRequest, Stage};
use crate::error::{Error, Hint, Result};
use crate::host::installed::{engine_options, places};
use crate::host::language::translate;
use crate::host::looked_at::{looked_at, remember_looks};
use crate::host::photograph::{is_photograph, not_given_back};
use crate::host::policy::{AT_ONCE, LOOKING, PREVIEWS, SHOWN_SIDE};
use crate::host::recipe::Recipe;
use crate::host::report::{self, progress_text, summary};
use crate::host::wording::{TextRoom, door, remarks};
use crate::host::{log, request, system, wait, words};
use crate::image::LayerImage;
use crate::job::{Estimating, Job, JobState, Worker};
use crate::params::{BUILTIN_MODEL, Params, Preset};
use crate::text::{Text, text};
use std::cell::OnceCell;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Example prompts that are offered; more would push the fields below away.
const EXAMPLES: usize = 3;

pub struct Session {
    pub document: Document,
    pub places: Places,
    /// The table of models, as it was when the dialog opened.
    models: OnceCell<Vec<Entry>>,
    worker: Worker,
    running: Option<Running>,
    /// What is to be made after the running one.
    queue: VecDeque<Params>,
    /// The layer as it was read last.
    pub layer: Option<Arc<LayerImage>>,
    /// What of it is selected.
    selection: Option<Selection>,
    digest: u64,
    small_layer: Option<LayerImage>,
    is_photograph: bool,
    /// The parameter with which the cost was asked for last.
    resolution: u32,
    room: TextRoom,
    /// Every result of `layer`, oldest first.
    pub results: Vec<Outcome>,
    estimating: Option<Estimating>,
    /// What the next edit costs, as far as it is known.
    pub estimate: Option<Estimate>,
    /// Losses of the last tuning.
    pub losses: Vec<(Stage, f32)>,
    /// The model that was chosen last and can be used.
    model: Option<Model>,
}

struct Running {
    job: Job,
    params: Params,
    purpose: Purpose,
    /// The hint that is shown.
    hint: Option<Hint>,
    preview: Option<Arc<LayerImage>>,
}

/// What becomes of a result.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Insert,
    Compare,
    /// A strength or seed was chosen, and its result comes at once.
    Look,
}

/// What the line above the buttons tells.
pub struct Message {
    pub tone: Tone,
    pub text: Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Info,
    Success,
    Warning,
    Failure,
}

/// What a look at the running edit found.
#[derive(Default)]
pub struct Look {
    /// Fraction and text of the progress bar, if there is something new.
    pub bar: Option<(f64, Text)>,
    pub message: Option<Message>,
    /// The picture as it forms, if there is a new one.
    pub preview: Option<Arc<LayerImage>>,
    /// There is another loss.
    pub has_loss: bool,
    /// Number of a result that has come.
    pub result: Option<usize>,
    /// The parameters of a result that was inserted.
    pub inserted: Option<Params>,
    /// Nothing runs any more.
    pub ended: bool,
}

/// What the dialog says of the chosen model.
#[derive(Default)]
pub struct Choice {
    pub description: Text,
    /// The first example prompts, for links.
    pub examples: Vec<String>,
    /// Whether another model than before is chosen, so that its preset is to be taken; the first one comes with its
    /// settings.
    pub is_new: bool,
}

impl Session {
    /// For `layer`, what GIMP calls active in `image`.
    pub fn open(gimp: &'static dyn Library, image: Image, layer: Layer) -> Result<Self> {
        gimp.start();
        let document = Document::open(gimp, image, layer)?;
        system::yield_to_other_programs();
        system::be_killed_first();
        let worker = Worker::start(Engine::new(engine_options()?))?;
        Ok(Self {
            document,
            places: places(),
            models: OnceCell::new(),
            worker,
            running: None,
            queue: VecDeque::new(),
            layer: None,
            selection: None,
            digest: 0,
            small_layer: None,
            is_photograph: false,
            resolution: 0,
            room: TextRoom::default(),
            results: Vec::new(),
            estimating: None,
            estimate: None,
            losses: Vec::new(),
            model: None,
        })
    }

    /// Edits without a dialog and waits for it; what the user should know comes as messages of GIMP's.
    pub fn edit_and_wait(mut self, params: &Params) -> Result<Layer> {
        params.check()?;
        let bar = self.document.progress_bar();
        let layer = self.read_layer()?;
        let request = EditRequest { previews: 0, ..self.request(params, layer.clone())? };
        self.choose_model(&params.model);
        let door = self.door();
        let edit = wait(self.worker.submit(request), move |progress| {
            bar.show(&translate(&progress_text(progress)), progress.fraction);
            // GIMP's own Cancel ends the whole process.
            ControlFlow::Continue(())
        })?;
        let (document, outcome) = (&mut self.document, Outcome { params: params.clone(), edit, layer: None });
        document.insert_layers(&[&outcome], &layer)?;
        let hint = outcome.edit.hint.map(Hint::text).or(door);
        for note in outcome.edit.notes.iter().chain(&hint).chain(&document.note) {
            document.tell(note);
        }
        document.result().ok_or_else(|| Error::Host(text!("the image has no result")))
    }

    /// How results of these pixels were made that were looked at before and are no layers.
    pub fn looked_at(&self) -> Vec<Params> {
        self.layer.as_ref().map(|layer| looked_at(&self.name_of_pixels(layer))).unwrap_or_default()
    }

    /// Keeps how those were made that are no layers, for the next time.
    pub fn remember_looks(&self) {
        let Some(layer) = &self.layer else { return };
        let looked_at = self.results.iter().filter(|result| !self.document.has(result));
        let looked_at: Vec<_> = looked_at.map(|result| result.params.clone()).collect();
        if let Err(error) = remember_looks(&self.name_of_pixels(layer), &looked_at) {
            log::line(&format!("what was looked at is not kept: {error}"));
        }
    }

    fn name_of_pixels(&self, layer: &LayerImage) -> String {
        format!("{}x{} {:016x}", layer.width(), layer.height(), self.digest)
    }

    /// The settings with which the dialog opens, if the image knows any, and what it says then.
    pub fn greeting(&self) -> (Option<Params>, Message) {
        if let Some(params) = self.document.opened_from.as_ref().and_then(Recipe::params) {
            return (Some(params), Message::info(words::OF_LAYER));
        }
        let of_image = self.document.history().last_params();
        let text = if of_image.is_some() { words::KNOWN_IMAGE } else { words::FIRST_EDIT };
        (of_image, Message::info(text))
    }

    /// A result on the layer, as large as a dialog shows it.
    pub fn small(&self, result: &Outcome) -> LayerImage {
        let layer = self.small_layer.as_ref().expect("read before there were results");
        result.edit.picture.on(layer).0
    }

    /// The same as large as the layer.
    pub fn whole(&self, number: usize) -> Option<LayerImage> {
        let (layer, result) = (self.layer.as_ref()?, self.results.get(number)?);
        Some(result.edit.picture.on(layer).0)
    }

    /// What stands before an edit of this layer by the chosen model.
    pub fn door(&self) -> Option<Text> {
        door(self.model.as_ref()?, || self.is_photograph)
    }

    /// How to come by another model.
    pub fn other_models(&self) -> Text {
        words::other_models(self.has_other_models())
    }

    /// Whether there is a model for photographs.
    fn has_other_models(&self) -> bool {
        self.models().iter().any(Entry::is_for_photographs)
    }

    /// What is to be said of a target text for the chosen model, and how much of the room for it is used.
    pub fn read_text(&mut self, text: &str) -> (Text, Text) {
        let Some(model) = self.model.as_ref() else { return Default::default() };
        let remarks = remarks(text, model).into_iter().reduce(Text::and).unwrap_or_default();
        let length = self.room.of(text, model).map(|(length, _)| length).unwrap_or_default();
        (remarks, length)
    }

    /// Whether there is a result with these parameters that is no layer.
    pub fn is_to_insert(&self, params: &Params) -> bool {
        self.result_of(params).is_some_and(|number| !self.document.has(&self.results[number]))
    }

    /// Whether the cost is asked for.
    pub fn is_asking(&self) -> bool {
        self.estimating.is_some()
    }

    /// Whether what runs makes results that are only looked at.
    pub fn is_showing(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.purpose != Purpose::Insert)
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The layer as it is now; results of another picture are forgotten.
    pub fn read_layer(&mut self) -> Result<Arc<LayerImage>> {
        let layer = self.document.read_layer()?;
        let digest = self.document.digest();
        let is_known = |known: &&Arc<LayerImage>| {
            self.digest == digest
                && (known.width(), known.height()) == (layer.width(), layer.height())
                && self.selection.as_ref() == self.document.selection()
        };
        if let Some(known) = self.layer.as_ref().filter(is_known) {
            return Ok(known.clone());
        }
        self.digest = digest;
        self.selection = self.document.selection().cloned();
        self.results.clear();
        let small = layer.shrunk(SHOWN_SIDE);
        self.is_photograph = is_photograph(&small);
        self.small_layer = Some(small);
        let layer = Arc::new(layer);
        self.layer = Some(layer.clone());
        Ok(layer)
    }

    /// What is asked of the engine for `params`.
    fn request(&self, params: &Params, layer: Arc<LayerImage>) -> Result<EditRequest> {
        params.check()?;
        let model = catalog::find(&params.model, &self.places)?;
        let request = request(layer, self.document.history().document, params.clone(), model);
        let selection = self.selection.clone();
        Ok(EditRequest { selection, layer_digest: Some(self.digest), previews: PREVIEWS, ..request })
    }

    /// Number of the result with these parameters.
    pub fn result_of(&self, params: &Params) -> Option<usize> {
        self.results.iter().position(|result| result.params == *params)
    }

    /// Starts an edit of the layer as it is now, whose result becomes a layer; one that is there already does at once.
    pub fn start(&mut self, params: Params) -> Result<Look> {
        let layer = self.read_layer()?;
        if let Some(known) = self.result_of(&params) {
            let message = self.insert(&[known])?;
            let (result, inserted, ended) = (Some(known), Some(params), true);
            return Ok(Look { message: Some(message), result, inserted, ended, ..Look::default() });
        }
        self.run(params, layer, Purpose::Insert)?;
        Ok(Look { bar: Some((0.0, words::STARTING)), message: Some(Message::info(words::RUNNING)), ..Look::default() })
    }

    /// Makes the results with these parameters that are not there yet, one after the other; they become no layers.
    pub fn compare(&mut self, all: Vec<Params>) -> Result<Look> {
        let layer = self.read_layer()?;
        self.queue = all.into_iter().filter(|params| self.result_of(params).is_none()).collect();
        let message = self.compare_next(layer)?;
        let bar = self.is_running().then_some((0.0, words::STARTING));
        Ok(Look { bar, message: Some(message), ended: !self.is_running(), ..Look::default() })
    }

    /// Starts the next one of the queue, and says how many there are, or what can be done with them.
    fn compare_next(&mut self, layer: Arc<LayerImage>) -> Result<Message> {
        let to_come = self.queue.len();
        let Some(params) = self.queue.pop_front() else { return Ok(Message::info(words::COMPARED)) };
        self.run(params, layer, Purpose::Compare)?;
        Ok(Message::info(words::to_come(to_come.into())))
    }

    /// Makes the result with these parameters, only to be seen.
    pub fn show(&mut self, params: Params) -> Result<Look> {
        let layer = self.read_layer()?;
        self.run(params, layer, Purpose::Look)?;
        Ok(Look { bar: Some((0.0, words::STARTING)), ..Look::default() })
    }

    fn run(&mut self, params: Params, layer: Arc<LayerImage>, purpose: Purpose) -> Result<()> {
        let request = self.request(&params, layer)?;
        self.losses.clear();
        self.running = Some(Running { job: self.worker.submit(request), params, purpose, hint: None, preview: None });
        Ok(())
    }

    /// Looks at the running edit and inserts its result, if it is to become a layer; `None` when nothing runs.
    pub fn look(&mut self) -> Option<Look> {
        let running = self.running.as_mut()?;
        let is_open = self.document.is_open();
        if !is_open {
            // Nothing is left that the result could be put into.
            self.queue.clear();
            running.job.cancel();
        }
        let result = match running.job.poll() {
            JobState::Running(None) => return Some(Look::default()),
            JobState::Running(Some(progress)) => {
                let bar = Some((progress.fraction.into(), progress_text(&progress)));
                // Shown when it comes; later texts, as on stopping, take its place.
                let before = std::mem::replace(&mut running.hint, progress.hint);
                let hint = progress.hint.filter(|_| progress.hint != before);
                let message = hint.map(|hint| Message { tone: Tone::Warning, text: hint.text().sentence() });
                let shown = std::mem::replace(&mut running.preview, progress.preview.clone());
                let is_new = |preview: &Arc<LayerImage>| !shown.is_some_and(|shown| Arc::ptr_eq(&shown, preview));
                let preview = progress.preview.filter(is_new);
                let loss = progress.loss.map(|loss| (progress.stage, loss));
                let has_loss = loss.is_some() && loss != self.losses.last().copied();
                self.losses.extend(loss.filter(|_| has_loss));
                return Some(Look { bar, message, preview, has_loss, ..Look::default() });
            }
            JobState::Ended(result) => result,
        };
        let Running { params, purpose, .. } = self.running.take()?;
        let look = result.and_then(|edit| self.take(*edit, params, purpose)).unwrap_or_else(|error| {
            self.queue.clear();
            let message = match error {
                Error::Cancelled if !is_open => Message { tone: Tone::Failure, text: words::CLOSED },
                Error::Cancelled => Message::info(words::STOPPED),
                error => Message::failure(&error),
            };
            Look { bar: Some((0.0, Text::default())), message: Some(message), ended: true, ..Look::default() }
        });
        Some(look)
    }

    /// A result has come.
    fn take(&mut self, edit: Edit, params: Params, purpose: Purpose) -> Result<Look> {
        if !edit.embedding_losses.is_empty() || !edit.tuning_losses.is_empty() {
            let of = |stage, losses: &[f32]| losses.iter().map(move |&loss| (stage, loss)).collect::<Vec<_>>();
            self.losses = of(Stage::OptimizeTextEmbedding, &edit.embedding_losses);
            self.losses.extend(of(Stage::FineTune, &edit.tuning_losses));
        }
        let unlike = self.small_layer.as_ref().and_then(|layer| not_given_back(params.eta, layer, &edit.picture));
        let is_doubtful = edit.hint.is_some() || unlike.is_some();
        let (text, tone) = (summary(&edit), if is_doubtful { Tone::Warning } else { Tone::Success });
        let text = unlike.iter().cloned().fold(text, Text::and_below);
        self.results.push(Outcome { params: params.clone(), edit, layer: None });
        let result = Some(self.results.len() - 1);
        let mut look = Look { bar: Some((1.0, words::DONE)), has_loss: true, result, ..Look::default() };
        let layer = self.layer.clone().expect("read before it was edited");
        match purpose {
            Purpose::Insert => match self.insert(&[self.results.len() - 1]) {
                Ok(_) => {
                    look.message = Some(Message { tone, text: self.document.with_note(text) });
                    look.inserted = Some(params);
                }
                Err(error) => look.message = Some(self.not_inserted(&error)),
            },
            Purpose::Compare => look.message = Some(self.compare_next(layer)?),
            Purpose::Look => look.message = Some(Message::info(words::ONLY_SHOWN)),
        }
        if let Some(unlike) = unlike.filter(|_| purpose != Purpose::Insert) {
            let before = look.message.take().map(|message| message.text).unwrap_or_default();
            look.message = Some(Message { tone: Tone::Warning, text: unlike.and_below(before) });
        }
        look.ended = !self.is_running();
        Ok(look)
    }

    /// Why a result is no layer; it can become one later where its image still is.
    pub fn not_inserted(&self, error: &Error) -> Message {
        let Message { tone, text } = Message::failure(error);
        let text = if self.document.is_open() { text.and(words::KEPT) } else { text };
        Message { tone, text }
    }

    /// Makes layers of results that are none, in a group when they are several, in one step of undo.
    pub fn insert(&mut self, numbers: &[usize]) -> Result<Message> {
        let Some(source) = self.layer.clone() else { return Err(Error::Host(text!("there is no result yet"))) };
        let is_chosen =
            |(number, result): &(usize, &mut Outcome)| numbers.contains(number) && !self.document.has(result);
        let mut chosen: Vec<_> =
            self.results.iter_mut().enumerate().filter(is_chosen).map(|(_, result)| result).collect();
        if chosen.is_empty() {
            return Ok(Message::info(words::IS_LAYER));
        }
        let outcomes: Vec<&Outcome> = chosen.iter().map(|result| &**result).collect();
        let layers = self.document.insert_layers(&outcomes, &source)?;
        let text = if layers.len() == 1 { words::NEW_LAYER } else { words::new_layers(layers.len().into()) };
        for (result, layer) in chosen.iter_mut().zip(layers) {
            result.layer = Some(layer);
        }
        Ok(Message::success(self.document.with_note(text)))
    }

    /// Asks the running edit to stop at its next step; `None` when nothing runs.
    pub fn stop(&mut self) -> Option<Message> {
        self.queue.clear();
        self.running.as_ref()?.job.cancel();
        Some(Message::info(words::STOPPING))
    }

    /// Asks what an edit with `params` would cost; what cannot be edited has no cost.
    pub fn ask_cost(&mut self, params: Result<Params>) {
        self.estimate = None;
        self.estimating = None;
        let layer = match &self.layer {
            Some(layer) => Ok(layer.clone()),
            None => self.read_layer(),
        };
        self.resolution = params.as_ref().map_or(0, |params| params.resolution);
        let request = params.and_then(|params| self.request(&params, layer?));
        self.estimating = request.ok().map(|request| self.worker.estimate(request));
    }

    /// The text of the answer when it has come; empty for what cannot be edited.
    pub fn cost(&mut self) -> Option<Text> {
        let answer = self.estimating.as_ref()?.poll()?;
        self.estimating = None;
        self.estimate = answer.ok();
        let cost = self.estimate.as_ref().map(report::cost_text).unwrap_or_default();
        Some(self.seen().into_iter().fold(cost, Text::and))
    }

    /// What the chosen model sees of a large layer of which nothing is selected.
    fn seen(&self) -> Option<Text> {
        let (layer, model) = (self.layer.as_ref()?, self.model.as_ref()?);
        let own_side = self.places.headers.of(&model.path).ok()?.side;
        report::seen_text(layer, self.resolution, own_side).filter(|_| self.selection.is_none())
    }

    /// Whether a result with the parameters of the last estimate comes so fast that a look at it costs nothing.
    pub fn comes_at_once(&self) -> bool {
        let fast = |estimate: &Estimate| estimate.tuned && estimate.seconds.is_some_and(|seconds| seconds <= AT_ONCE);
        !self.is_running() && self.estimate.as_ref().is_some_and(fast)
    }

    /// All models, those that can be used first.
    pub fn models(&self) -> &[Entry] {
        self.models.get_or_init(|| {
            let mut models = catalog::table(&self.places, Some(LOOKING));
            models.sort_by_key(|entry| entry.problem().is_some());
            models
        })
    }

    /// Looks up the model that the user has named.
    pub fn choose_model(&mut self, name: &str) -> Choice {
        let entry = match catalog::look_up(name.trim(), &self.places) {
            Ok(entry) => entry,
            Err(error) => return Choice { description: error.text().sentence(), ..Choice::default() },
        };
        let mut description = report::description(&entry);
        let usable = entry.problem().is_none();
        let model = entry.model;
        if model.name == BUILTIN_MODEL {
            description = description.and(self.other_models());
        }
        let examples = model.examples.iter().take(EXAMPLES).cloned().collect();
        let is_new = usable && self.model.as_ref().is_some_and(|before| before.path != model.path);
        if usable {
            self.model = Some(model);
        }
        Choice { description, examples, is_new }
    }

    /// The settings of `preset` for the chosen model.
    pub fn preset(&self, preset: Preset) -> Option<Result<Params>> {
        Some(self.model.as_ref()?.params(preset))
    }

    /// See [`Model::name_preset`]; a model that cannot be read has no presets.
    pub fn name_preset(&self, params: &mut Params) {
        if let Some(Err(_)) | None = self.model.as_ref().map(|model| model.name_preset(params)) {
            params.preset = Preset::Custom;
        }
    }

    /// Example prompt of the chosen model.
    pub fn example(&self, number: usize) -> Option<String> {
        self.model.as_ref()?.examples.get(number).cloned()
    }
}

impl Choice {
    /// The examples as markup with links, which are their numbers.
    pub fn example_links(&self) -> Text {
        let link = |(number, text): (usize, &String)| format!("<a href=\"{number}\">{}</a>", escaped(text));
        let links: Vec<_> = self.examples.iter().enumerate().map(link).collect();
        text!("For example {texts}", texts = links.join(", "))
    }
}

impl Message {
    pub fn info(text: Text) -> Self {
        Self { tone: Tone::Info, text }
    }

    pub fn success(text: Text) -> Self {
        Self { tone: Tone::Success, text }
    }

    pub fn failure(error: &Error) -> Self {
        Self { tone: Tone::Failure, text: error.text().sentence() }
    }
}

/// `text` as part of Pango's markup.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn example_links_are_numbers_and_show_every_letter() {
        let examples = vec!["a <b> & c".to_owned(), "a dog".to_owned()];
        let choice = Choice { description: Text::default(), examples, is_new: true };
        assert_eq!(
            choice.example_links().to_string(),
            "For example <a href=\"0\">a &lt;b&gt; &amp; c</a>, <a href=\"1\">a dog</a>"
        );
    }
}
