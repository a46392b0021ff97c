//! What happens when the user does something in the dialog, and while an edit runs: the same in every GIMP.
#![forbid(unsafe_code)]

use super::dialog::Window;
use super::session::{Look, Message, Tone};
use crate::error::{Error, Result};
use crate::host::language::language;
use crate::host::policy::{NEW_SEEDS, PAUSE, POLL, STRENGTHS, seeds};
use crate::host::recipe::{Recipe, random_number};
use crate::host::thumbnail::curve;
use crate::image::LayerImage;
use crate::params::{CUSTOM, DEFAULT_PRESET, PARAMS, Params};
use std::cell::Cell;
use std::rc::{Rc, Weak};

/// Size of the curve of losses.
const CURVE: (u32, u32) = (180, 28);

/// Another seed, short enough to read, remember and type.
pub fn new_seed() -> u32 {
    (random_number() % u64::from(NEW_SEEDS)) as u32
}

/// What the dialog waits for.
#[derive(Default)]
pub struct Waiting {
    /// Counts changes of the settings: after the last one of a row something is done.
    changes: Cell<u32>,
    /// A look at a running edit or at a question comes again.
    looks: Cell<bool>,
    /// A strength or seed was changed, not the dialog's content as a whole.
    wants_picture: Cell<bool>,
    /// An edit starts when what runs has stopped.
    starts: Cell<bool>,
    /// The dialog says why the settings gave no result; other settings may.
    refused: Cell<bool>,
}

impl Window {
    /// When the dialog has opened.
    pub fn begin(self: &Rc<Self>) {
        let layer = self.session.borrow_mut().read_layer();
        match layer {
            Ok(layer) => self.panel.set_layer(&layer),
            Err(error) => self.tell(&Message::failure(&error)),
        }
        self.list_earlier();
        self.show_busy(false);
        self.panel.draw();
        // What filling the fields has started.
        self.waiting.changes.set(self.waiting.changes.get() + 1);
        self.waiting.wants_picture.set(false);
        self.ask_cost();
    }

    /// A handler that holds the window weakly, or it would never go.
    pub fn on(self: &Rc<Self>, action: fn(&Rc<Self>)) -> impl Fn() + 'static {
        let window: Weak<Self> = Rc::downgrade(self);
        move || {
            if let Some(window) = window.upgrade() {
                action(&window);
            }
        }
    }

    /// What the widgets do that are the same in every GIMP.
    pub fn connect_results(self: &Rc<Self>) {
        self.earlier.widget.connect(c"changed", self.on(Self::take_earlier));
        self.remove.connect(c"clicked", self.on(Self::remove_earlier));
        self.panel.strengths.connect(c"clicked", self.on(Self::compare_strengths));
        self.panel.seeds.connect(c"clicked", self.on(Self::compare_seeds));
        self.panel.insert.connect(c"clicked", self.on(Self::insert));
        self.panel.original.0.connect(c"toggled", self.on(|window| window.panel.draw()));
    }

    pub fn start(self: &Rc<Self>) {
        if self.session.borrow().is_showing() {
            // A result that is only looked at gives way.
            self.waiting.starts.set(true);
            self.stop();
            return;
        }
        if self.session.borrow().is_running() {
            return;
        }
        let started = self.read().and_then(|params| self.session.borrow_mut().start(params));
        self.begin_to_look(started);
    }

    /// Makes results with other strengths.
    pub fn compare_strengths(self: &Rc<Self>) {
        self.compare(|params| STRENGTHS.map(|eta| Params { eta, ..params.clone() }).to_vec());
    }

    /// Makes results with other seeds.
    pub fn compare_seeds(self: &Rc<Self>) {
        self.compare(|params| seeds(params.seed).map(|seed| Params { seed, ..params.clone() }).collect());
    }

    fn compare(self: &Rc<Self>, variants: impl Fn(&Params) -> Vec<Params>) {
        if self.session.borrow().is_running() {
            return;
        }
        let started = self.read().and_then(|params| self.session.borrow_mut().show(variants(&params)));
        self.begin_to_look(started);
    }

    fn begin_to_look(self: &Rc<Self>, started: Result<Look>) {
        // Read anew before an edit: it may be another picture now.
        let layer = self.session.borrow().layer();
        if let Some(layer) = layer {
            self.panel.set_layer(&layer);
        }
        match started {
            Ok(look) => {
                self.show_busy(!look.ended);
                if self.session.borrow().is_showing() {
                    self.allow_edit();
                }
                self.show(look);
                self.look_again();
            }
            Err(error) => {
                self.bar.set(0.0, "");
                self.waiting.refused.set(true);
                self.tell(&Message::failure(&error));
            }
        }
    }

    /// Looks until nothing runs and no question is open.
    fn look_again(self: &Rc<Self>) {
        if !self.waiting.looks.replace(true) {
            let window = Rc::downgrade(self);
            self.dialog().repeat(POLL.as_millis() as u32, move || window.upgrade().is_some_and(|window| window.look()));
        }
    }

    /// `false` when there is no more to see.
    fn look(self: &Rc<Self>) -> bool {
        let cost = self.session.borrow_mut().cost();
        if let Some(text) = cost {
            self.cost.set_text(&text);
            self.show_at_once();
        }
        let look = self.session.borrow_mut().look();
        if let Some(look) = look {
            self.show(look);
        }
        let session = self.session.borrow();
        let more = session.is_running() || session.is_asking();
        self.waiting.looks.set(more);
        more
    }

    /// Shows what a look has found.
    fn show(self: &Rc<Self>, look: Look) {
        if let Some((fraction, text)) = &look.bar {
            self.bar.set(*fraction, text);
        }
        if let Some(message) = &look.message {
            self.waiting.refused.set(message.tone == Tone::Failure);
            self.tell(message);
        }
        if let Some(preview) = look.preview {
            self.panel.show((*preview).clone(), None);
        }
        if look.has_loss {
            self.show_losses();
        }
        if let Some(number) = look.result {
            self.add_result(number);
        }
        if let Some(params) = &look.inserted {
            if let Err(error) = self.keep(params) {
                let text = format!("The settings are not kept: {error}.");
                self.tell(&Message { tone: Tone::Warning, text });
            }
            self.list_earlier();
        }
        if look.ended {
            self.show_busy(false);
            self.ended();
            if self.waiting.starts.take() {
                self.start();
            } else {
                self.ask_cost();
            }
        }
    }

    fn show_losses(&self) {
        let session = self.session.borrow();
        self.curve.0.set_visible(!session.losses.is_empty());
        if !session.losses.is_empty() {
            self.curve.set(&curve(&session.losses, CURVE.0, CURVE.1));
        }
    }

    /// Puts a result into the strip, unless it is there, and shows it.
    fn add_result(self: &Rc<Self>, number: usize) {
        let (picture, params) = self.result(number);
        if number >= self.panel.len() {
            let window = Rc::downgrade(self);
            let clicked = move || {
                if let Some(window) = window.upgrade() {
                    window.take_result(number);
                }
            };
            // What is new in it.
            let seed_before = number.checked_sub(1).map(|before| self.session.borrow().results[before].params.seed);
            let has_new_seed = seed_before.is_some_and(|before| before != params.seed);
            let eta = || language().number(&params.eta.to_string());
            let caption = if has_new_seed { format!("#{}", params.seed) } else { eta() };
            self.panel.add(&picture, &caption, &format!("Strength {}, seed {}", params.eta, params.seed), clicked);
        }
        self.panel.show(picture, Some(number));
    }

    /// A click in the strip: the fields tell how the result was made.
    fn take_result(&self, number: usize) {
        let (picture, params) = self.result(number);
        self.panel.show(picture, Some(number));
        self.write(&params);
    }

    /// The picture of a result as it would be on the layer, and its parameters.
    fn result(&self, number: usize) -> (LayerImage, Params) {
        let session = self.session.borrow();
        let result = &session.results[number];
        (session.small(result), result.params.clone())
    }

    /// Makes layers of the chosen results.
    pub fn insert(self: &Rc<Self>) {
        let chosen = self.panel.chosen();
        let inserted = self.session.borrow_mut().insert(&chosen);
        match inserted {
            Ok(message) => {
                self.tell(&message);
                self.panel.untick();
                self.list_earlier();
            }
            Err(error) => self.tell(&Message::failure(&error)),
        }
    }

    /// `false` when nothing runs.
    pub fn stop(&self) -> bool {
        let stopping = self.session.borrow_mut().stop();
        if let Some(message) = &stopping {
            self.show_stopping();
            self.tell(message);
        }
        stopping.is_some()
    }

    /// A setting was changed. `shows`: its result is shown at once, if that is fast.
    pub fn changed(self: &Rc<Self>, shows: bool) {
        let number = self.waiting.changes.get() + 1;
        self.waiting.changes.set(number);
        if shows {
            self.waiting.wants_picture.set(true);
        }
        if self.waiting.refused.take() {
            let (_, message) = self.session.borrow().greeting();
            self.tell(&message);
        }
        let window = Rc::downgrade(self);
        self.dialog().repeat(PAUSE.as_millis() as u32, move || {
            if let Some(window) = window.upgrade().filter(|window| window.waiting.changes.get() == number) {
                window.ask_cost();
            }
            false
        });
    }

    fn ask_cost(self: &Rc<Self>) {
        if self.session.borrow().is_running() {
            return;
        }
        let params = self.read();
        self.session.borrow_mut().ask_cost(params);
        if !self.session.borrow().is_asking() {
            self.cost.set_text("");
        }
        self.look_again();
    }

    /// Shows the result of a strength or seed that was just chosen, if it is there or comes at once.
    fn show_at_once(self: &Rc<Self>) {
        if !self.waiting.wants_picture.take() || !self.session.borrow().comes_at_once() {
            return;
        }
        let Ok(params) = self.read() else { return };
        let known = self.session.borrow().result_of(&params);
        match known {
            Some(number) => self.add_result(number),
            None => {
                let started = self.session.borrow_mut().show(vec![params]);
                self.begin_to_look(started);
            }
        }
    }

    /// Another model was chosen: own settings were for the one before.
    pub fn take_preset(&self) {
        if self.value("preset") == CUSTOM {
            self.set("preset", &DEFAULT_PRESET.into());
        } else {
            self.apply_preset();
        }
    }

    /// The advanced settings as the chosen preset says; own settings stay.
    pub fn apply_preset(&self) {
        let name = self.value("preset");
        let Some(name) = name.as_str().filter(|name| *name != CUSTOM) else { return };
        let preset = self.session.borrow().preset(name);
        match preset {
            Some(Ok(preset)) => {
                self.applying.set(true);
                for param in PARAMS.iter().filter(|param| param.is_of_preset()) {
                    self.set(param.id, &preset.get(param.id).expect("a row of the table"));
                }
                self.applying.set(false);
            }
            Some(Err(error)) => self.tell(&Message::failure(&error)),
            None => {}
        }
    }

    /// Shows that the settings are the user's own when they are not the preset's any more.
    pub fn name_preset(&self) {
        // A field may hold a number that is only half typed.
        let Some(mut params) = self.shown().ok().filter(|_| !self.applying.get()) else { return };
        let before = params.preset.clone();
        self.session.borrow().name_preset(&mut params);
        if params.preset != before {
            self.set("preset", &params.preset.into());
        }
    }

    /// Fills the list of the document's edits, newest first.
    fn list_earlier(&self) {
        let runs = self.session.borrow().document.history().runs;
        self.earlier.fill(runs.iter().rev().map(Recipe::title));
        self.earlier_row.set_visible(!runs.is_empty());
        self.remove.set_sensitive(false);
    }

    fn earlier_edit(&self) -> Option<Recipe> {
        let chosen = self.earlier.chosen()?;
        self.session.borrow().document.history().runs.into_iter().rev().nth(chosen)
    }

    /// Takes the settings of an earlier edit.
    pub fn take_earlier(self: &Rc<Self>) {
        let Some(recipe) = self.earlier_edit() else { return };
        self.remove.set_sensitive(true);
        match recipe.params() {
            Some(params) => self.write(&params),
            None => self.tell(&Message::failure(&Error::Host(
                "another version of the plug-in made this edit, with settings that this one does not know".into(),
            ))),
        }
    }

    /// Removes an earlier edit and its layer.
    pub fn remove_earlier(self: &Rc<Self>) {
        let Some(recipe) = self.earlier_edit() else { return };
        let removed = self.session.borrow_mut().document.remove(&recipe);
        match removed {
            Ok(()) => self.tell(&Message::info("The layer and its entry are removed; one undo brings both back.")),
            Err(error) => self.tell(&Message::failure(&error)),
        }
        self.list_earlier();
    }
}
