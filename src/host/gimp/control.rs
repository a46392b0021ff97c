//! What happens when the user does something in the dialog, and while an edit runs: the same in every GIMP.
#![forbid(unsafe_code)]

use super::form::{Form, Running};
use super::layout::Layout;
use super::library::Layer;
use super::panel::Caption;
use super::procedure;
use super::session::{Look, Message, Session, Tone};
use crate::catalog::written::text_of;
use crate::error::{Error, Result};
use crate::host::installed::help_page;
use crate::host::last_values::last_values;
use crate::host::policy::{NEW_SEEDS, PAUSE, POLL, STRENGTHS, seeds};
use crate::host::recipe::{Recipe, random_number};
use crate::host::report::short_prompt;
use crate::host::thumbnail::curve;
use crate::host::words;
use crate::image::LayerImage;
use crate::params::{Affects, BUILTIN_MODEL, DEFAULT_PRESET, PARAMS, Param, Params, Preset};
use crate::text::{Text, text};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// Size of the curve of losses.
const CURVE: (u32, u32) = (180, 28);

/// What the dialog waits for.
#[derive(Default)]
struct Waiting {
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
    /// The user has gone through the door: an edit is to be tried anyway.
    tries: Cell<bool>,
    /// Results that were looked at before, which come again as soon as it is known that they take no time.
    again: RefCell<Vec<Params>>,
}

/// The dialog Filters > Imagic Edit: fields from the table of parameters, one edit after the other in the background.
pub struct Window {
    form: Box<dyn Form>,
    layout: Layout,
    /// Never borrowed while a field is changed: its signals come back here.
    session: RefCell<Session>,
    waiting: Waiting,
    /// The settings of a preset or of an edit before are being written: half of them are no reason to name them the
    /// user's own.
    applying: Cell<bool>,
}

/// Shows the dialog until the user closes it; the newest result, or `Cancelled` when there is none.
pub fn run(session: Session, form: Box<dyn Form>) -> Result<Layer> {
    let window = Window::open(session, form);
    window.form.run();
    // At once for the eye; a running edit ends first, at its next step.
    window.form.parts().dialog.0.set_visible(false);
    window.waiting.starts.set(false);
    window.stop();
    while window.session.borrow().is_running() {
        window.form.parts().dialog.do_next();
    }
    window.session.borrow().remember_looks();
    window.form.finish();
    let result = window.session.borrow().document.result();
    result.ok_or(Error::Cancelled)
}

impl Window {
    fn open(session: Session, form: Box<dyn Form>) -> Rc<Self> {
        let layout = Layout::new(&*form, &session.document.subject());
        let (session, waiting, applying) = (RefCell::new(session), Waiting::default(), Cell::new(false));
        let window = Rc::new(Self { form, layout, session, waiting, applying });
        window.connect();
        window.read_layer();
        *window.waiting.again.borrow_mut() = window.session.borrow().looked_at();
        window.show_first_values();
        if window.session.borrow().layer.is_none() {
            // Says why.
            window.read_layer();
        }
        window.list_earlier();
        window.show_door();
        window.layout.fit_screen(&*window.form);
        window.layout.panel.draw();
        // What filling the fields has started.
        window.waiting.changes.set(window.waiting.changes.get() + 1);
        window.waiting.wants_picture.set(false);
        window.ask_cost();
        window
    }

    fn read_layer(&self) {
        let layer = self.session.borrow_mut().read_layer();
        match layer {
            Ok(layer) => self.layout.panel.set_layer(&layer),
            Err(error) => self.tell(&Message::failure(&error)),
        }
    }

    /// A handler that holds the window weakly, or it would never go.
    fn on<R: Default>(self: &Rc<Self>, action: impl Fn(&Rc<Self>) -> R + 'static) -> impl Fn() -> R + 'static {
        let window = Rc::downgrade(self);
        move || window.upgrade().map(|window| action(&window)).unwrap_or_default()
    }

    fn connect(self: &Rc<Self>) {
        let Layout { panel, .. } = &self.layout;
        self.layout.browse.connect(c"clicked", self.on(|window| window.choose_model_file()));
        self.layout.new_seed.connect(
            c"clicked",
            self.on(|window| window.set("seed", &(random_number() % u64::from(NEW_SEEDS)).into())),
        );
        self.layout.earlier.widget.connect(c"changed", self.on(|window| window.take_earlier()));
        self.layout.remove.connect(c"clicked", self.on(|window| window.remove_earlier()));
        let strengths = |params: &Params| STRENGTHS.map(|eta| Params { eta, ..params.clone() }).to_vec();
        // Each seed's own version.
        let of_seed = |params: &Params, seed| Params { seed, candidates: 1, ..params.clone() };
        let seeds = move |params: &Params| seeds(params.seed).map(|seed| of_seed(params, seed)).collect();
        panel.strengths.connect(c"clicked", self.on(move |window| window.compare(strengths)));
        panel.seeds.connect(c"clicked", self.on(move |window| window.compare(seeds)));
        panel.insert.connect(c"clicked", self.on(|window| window.insert()));
        panel.original.0.connect(c"toggled", self.on(|window| window.layout.panel.draw()));
        panel.split.0.connect(c"value-changed", self.on(|window| window.layout.panel.draw()));
        panel.zoom.0.connect(c"toggled", self.on(|window| window.show_whole()));
        panel.place.connect_resized(self.on(|window| window.draw_soon()));
        let window = Rc::downgrade(self);
        panel.connect_clicked(move |number| {
            let window = window.clone();
            Box::new(move || {
                if let Some(window) = window.upgrade() {
                    window.take_result(number);
                }
            })
        });
        self.layout.get_model.connect(c"clicked", self.on(|window| window.tell_of_models()));
        self.layout.try_anyway.connect(c"clicked", self.on(|window| window.try_anyway()));
        self.form.connect_changed(param("model"), Box::new(self.on(|window| window.show_model())));
        for param in PARAMS {
            let action: Option<fn(&Rc<Self>)> = match param.affects {
                Affects::Nothing => None,
                Affects::Parameters => Some(|window| window.apply_preset()),
                Affects::Generation => Some(|window| window.changed(true)),
                Affects::Tuning => Some(|window| window.changed(false)),
            };
            let naming: Option<fn(&Rc<Self>)> = param.is_of_preset().then_some(|window| window.name_preset());
            for action in action.into_iter().chain(naming) {
                self.form.connect_changed(param, Box::new(self.on(action)));
            }
        }
        let edit = self.on(Self::start);
        self.form.parts().prompt.view.connect_key(move |key| {
            if key.is_plain_enter() {
                edit();
            }
            key.is_plain_enter()
        });
        let window = Rc::downgrade(self);
        self.layout.examples.0.connect_link(move |number| {
            if let Some(window) = window.upgrade() {
                window.take_example(number.parse().unwrap_or(0));
            }
        });
        let [edit, help] =
            [Self::start, |window: &Rc<Self>| window.open_help()].map(|action| Box::new(self.on(action)));
        self.form.connect_buttons(edit, Box::new(self.on(|window| window.stop())), help);
        // Escape stops a running edit first; only the next one closes.
        self.form.parts().dialog.connect_escape(self.on(|window| window.stop()));
    }

    /// The settings of the layer or of this image's last edit, else of the last edit anywhere, else the
    /// default model's preset.
    fn show_first_values(&self) {
        let (known, message) = self.session.borrow().greeting();
        self.tell(&message);
        let fallback = || procedure::defaults(&self.session.borrow().places);
        let of_last_edit = || {
            if !self.form.is_filled_by_gimp() {
                return Some(last_values().map_or_else(fallback, Ok));
            }
            // Only before the first edit there is no text; what GIMP has filled in then is of the built-in model.
            let is_first = self.form.parts().prompt.text().is_empty();
            (is_first && self.session.borrow().places.default_name() != BUILTIN_MODEL).then(fallback)
        };
        // Those have strengths and seeds of their own, which nobody has chosen.
        let looked_at = || {
            let again = self.waiting.again.borrow().last().cloned()?;
            let Params { eta, seed, .. } = last_values().map_or_else(fallback, Ok).ok()?;
            Some(Params { eta, seed, ..again })
        };
        let first = known.or_else(looked_at).map(Ok).or_else(of_last_edit);
        self.show_model();
        match first {
            Some(Ok(params)) => self.write(&params),
            Some(Err(error)) => {
                self.tell(&Message::failure(&error));
                self.write(&Params::paper());
            }
            None => self.apply_preset(),
        }
        self.form.parts().prompt.select_all();
        self.form.parts().prompt.view.grab_focus();
    }

    /// What the field of `id` says.
    fn value(&self, id: &str) -> Value {
        self.form.value(param(id))
    }

    /// Sets the field of `id`.
    fn set(&self, id: &str, value: &Value) {
        self.form.set(param(id), value);
    }

    /// What the fields say, whether or not the preset goes before them.
    fn shown(&self) -> Result<Params> {
        let mut params = Params::paper();
        // JSON has no NaN or infinity; they become null, which no number's range holds.
        PARAMS.iter().try_for_each(|param| params.set(param.id, &self.form.value(param)))?;
        Ok(params)
    }

    /// The parameters that the fields mean.
    fn read(&self) -> Result<Params> {
        procedure::params_of(&self.shown()?, &self.session.borrow().places)
    }

    /// Sets all fields; the model comes before those that its preset sets.
    fn write(&self, params: &Params) {
        self.applying.set(true);
        for param in PARAMS {
            self.form.set(param, &params.get(param.id).expect("a row of the table"));
        }
        self.applying.set(false);
        self.name_preset();
    }

    fn tell(&self, message: &Message) {
        // Names from GIMP's own icon theme.
        self.layout.icon.set(match message.tone {
            Tone::Info => c"dialog-information",
            Tone::Success => c"gtk-ok",
            Tone::Warning => c"dialog-warning",
            Tone::Failure => c"dialog-error",
        });
        self.layout.status.set_text(&message.text);
    }

    fn show_busy(&self, busy: bool) {
        let is_closed = self.is_closed();
        self.form.allow_edit(!busy && !is_closed);
        self.form.show_running(if busy { Running::Something } else { Running::Nothing });
        self.layout.panel.set_busy(busy || is_closed);
    }

    /// Whether the model cannot draw what the layer shows, and the user does not want to try.
    fn is_closed(&self) -> bool {
        !self.waiting.tries.get() && self.session.borrow().door().is_some()
    }

    /// Says so before anything is spent.
    fn show_door(&self) {
        let door = self.session.borrow().door().filter(|_| !self.waiting.tries.get());
        self.layout.door.set_visible(door.is_some());
        if let Some(door) = door {
            self.layout.door_text.set_text(&door);
        }
        let is_running = self.session.borrow().is_running();
        if !is_running {
            self.show_busy(false);
        }
    }

    fn try_anyway(&self) {
        self.waiting.tries.set(true);
        self.show_door();
        self.form.parts().prompt.view.grab_focus();
    }

    fn open_help(&self) {
        let page = help_page();
        if !page.as_ref().is_some_and(|page| self.form.parts().dialog.open_page(page)) {
            let page = page.map_or_else(|| "help.html".to_owned(), |page| text_of(&page));
            self.tell(&Message::info(words::help_is_in(page)));
        }
    }

    fn tell_of_models(&self) {
        let text = self.session.borrow().other_models();
        self.tell(&Message::info(text));
        self.form.parts().model.entry.0.grab_focus();
    }

    /// What is to be said of the target text.
    fn show_remarks(&self) {
        let text = self.form.parts().prompt.text();
        let (remarks, length) = self.session.borrow_mut().read_text(&text);
        self.layout.remarks.set_text(&remarks);
        self.layout.remarks.0.set_tooltip(&remarks);
        self.layout.counter.set_text(&length);
    }

    /// What the button that edits will do with what the fields say.
    fn name_edit(&self) {
        let is_to_insert = self.read().is_ok_and(|params| self.session.borrow().is_to_insert(&params));
        self.form.name_edit(&if is_to_insert { words::INSERT_RESULT } else { text!("Edit") });
    }

    /// Draws again once the window has its size.
    fn draw_soon(self: &Rc<Self>) {
        if self.layout.panel.is_resized() {
            let draw = |window: &Rc<Self>| {
                if window.layout.panel.is_resized() {
                    window.layout.panel.draw();
                }
                false
            };
            self.form.parts().dialog.repeat(Duration::ZERO, self.on(draw));
        }
    }

    /// The picture in another size.
    fn show_whole(&self) {
        if let Some(number) = self.layout.panel.wants_whole() {
            let whole = self.session.borrow().whole(number);
            if let Some(whole) = whole {
                self.layout.panel.set_whole(whole);
            }
        }
        self.layout.panel.draw();
    }

    /// What the chosen model can draw, and its preset.
    fn show_model(&self) {
        let choice = self.session.borrow_mut().choose_model(&self.form.parts().model.entry.text());
        let Layout { description, examples, .. } = &self.layout;
        description.set_text(&choice.description);
        description.0.set_visible(!choice.description.to_string().is_empty());
        examples.set_markup(&choice.example_links());
        examples.0.set_visible(!choice.examples.is_empty());
        self.show_door();
        if choice.is_new {
            self.take_preset();
            let preset = self.session.borrow().preset(DEFAULT_PRESET);
            // Settings that GIMP loads bring their strength, before or after their model.
            if let Some(Ok(preset)) = preset.filter(|_| !self.form.is_filled_by_gimp()) {
                self.set("eta", &preset.eta.into());
            }
        }
    }

    fn choose_model_file(&self) {
        if let Some(file) = self.form.parts().dialog.choose_file(&words::CHOOSE_MODEL) {
            self.set("model", &text_of(&file).into());
        }
    }

    fn take_example(&self, number: usize) {
        let example = self.session.borrow().example(number);
        if let Some(example) = example {
            self.form.parts().prompt.set_text(&example);
            self.form.parts().prompt.view.grab_focus();
        }
    }

    fn start(self: &Rc<Self>) {
        if self.session.borrow().is_showing() {
            // A result that is only looked at gives way.
            self.waiting.starts.set(true);
            self.stop();
            return;
        }
        if self.session.borrow().is_running() {
            return;
        }
        if self.is_closed() {
            self.layout.try_anyway.grab_focus();
            return;
        }
        let started = self.read().and_then(|params| self.session.borrow_mut().start(params));
        self.begin_to_look(started);
    }

    /// Makes results with other strengths or seeds.
    fn compare(self: &Rc<Self>, variants: impl Fn(&Params) -> Vec<Params>) {
        if self.session.borrow().is_running() {
            return;
        }
        let started = self.read().and_then(|params| self.session.borrow_mut().compare(variants(&params)));
        self.begin_to_look(started);
    }

    fn begin_to_look(self: &Rc<Self>, started: Result<Look>) {
        // Read anew before an edit: it may be another picture now.
        let layer = self.session.borrow().layer.clone();
        if let Some(layer) = layer {
            self.layout.panel.set_layer(&layer);
        }
        self.show_door();
        match started {
            Ok(look) => {
                self.show_busy(!look.ended);
                if self.session.borrow().is_showing() {
                    self.form.allow_edit(true);
                }
                self.show(look);
                self.look_again();
            }
            Err(error) => {
                self.layout.bar.set(0.0, &Text::default());
                self.waiting.refused.set(true);
                self.tell(&Message::failure(&error));
            }
        }
    }

    /// Looks until nothing runs and no question is open.
    fn look_again(self: &Rc<Self>) {
        if !self.waiting.looks.replace(true) {
            self.form.parts().dialog.repeat(POLL, self.on(Self::look));
        }
    }

    /// `false` when there is no more to see.
    fn look(self: &Rc<Self>) -> bool {
        let cost = self.session.borrow_mut().cost();
        if let Some(text) = cost {
            self.layout.cost.set_text(&text);
            self.show_again();
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
            self.layout.bar.set(*fraction, text);
        }
        if let Some(message) = &look.message {
            self.waiting.refused.set(message.tone == Tone::Failure);
            self.tell(message);
        }
        if let Some(preview) = look.preview {
            self.layout.panel.show((*preview).clone(), None);
        }
        if look.has_loss {
            self.show_losses();
        }
        if let Some(number) = look.result {
            self.add_result(number);
        }
        if let Some(params) = &look.inserted {
            if let Err(error) = self.form.keep(params) {
                let text = text!("The settings are not kept: {error}.", error = &error);
                self.tell(&Message { tone: Tone::Warning, text });
            }
            self.list_earlier();
        }
        if look.ended {
            self.show_busy(false);
            // Of several results the last one is seen, and the fields are of another.
            let own = self.read().ok().and_then(|params| self.session.borrow().result_of(&params));
            if let Some(number) = own {
                self.show_result(number, self.result(number).0);
            }
            if self.waiting.starts.take() {
                self.start();
            } else {
                self.ask_cost();
            }
        }
    }

    fn show_losses(&self) {
        let session = self.session.borrow();
        self.layout.curve.0.set_visible(!session.losses.is_empty());
        if !session.losses.is_empty() {
            self.layout.curve.set(&curve(&session.losses, CURVE.0, CURVE.1));
        }
    }

    /// Puts a result into the strip, unless it is there, and shows it.
    fn add_result(self: &Rc<Self>, number: usize) {
        let (picture, params) = self.result(number);
        if number >= self.layout.panel.len() {
            let tooltip = words::result(params.eta.into(), params.seed.into());
            let (text, eta, seed) = (short_prompt(&params), params.eta, params.seed);
            self.layout.panel.add(&picture, Caption { text, eta, seed, tooltip });
        }
        self.show_result(number, picture);
    }

    fn show_result(&self, number: usize, picture: LayerImage) {
        self.layout.panel.show(picture, Some(number));
        if self.layout.panel.wants_whole().is_some() {
            self.show_whole();
        }
    }

    /// A click in the strip: the fields tell how the result was made.
    fn take_result(&self, number: usize) {
        let (picture, params) = self.result(number);
        self.show_result(number, picture);
        let (is_running, is_to_insert) =
            (self.session.borrow().is_running(), self.session.borrow().is_to_insert(&params));
        if !is_running {
            self.tell(&Message::info(if is_to_insert { words::ONLY_SHOWN } else { words::IS_LAYER }));
        }
        self.write(&params);
    }

    /// The picture of a result as it would be on the layer, and its parameters.
    fn result(&self, number: usize) -> (LayerImage, Params) {
        let session = self.session.borrow();
        let result = &session.results[number];
        (session.small(result), result.params.clone())
    }

    /// Makes layers of the chosen results.
    fn insert(self: &Rc<Self>) {
        let chosen = self.layout.panel.chosen();
        let inserted = self.session.borrow_mut().insert(&chosen);
        match inserted {
            Ok(message) => {
                self.tell(&message);
                self.layout.panel.untick();
                self.list_earlier();
                self.name_edit();
            }
            Err(error) => {
                let message = self.session.borrow().not_inserted(&error);
                self.tell(&message);
            }
        }
    }

    /// `false` when nothing runs.
    fn stop(&self) -> bool {
        let stopping = self.session.borrow_mut().stop();
        if let Some(message) = &stopping {
            self.form.show_running(Running::Stopping);
            self.tell(message);
        }
        stopping.is_some()
    }

    /// A setting was changed. `shows`: its result is shown at once, if that is fast.
    fn changed(self: &Rc<Self>, shows: bool) {
        let number = self.waiting.changes.get() + 1;
        self.waiting.changes.set(number);
        if shows {
            self.waiting.wants_picture.set(true);
        }
        if self.waiting.refused.take() {
            let (_, message) = self.session.borrow().greeting();
            self.tell(&message);
        }
        let ask = move |window: &Rc<Self>| {
            if window.waiting.changes.get() == number {
                window.ask_cost();
            }
            false
        };
        self.form.parts().dialog.repeat(PAUSE, self.on(ask));
    }

    fn ask_cost(self: &Rc<Self>) {
        self.show_remarks();
        self.name_edit();
        if self.session.borrow().is_running() {
            return;
        }
        let params = self.read();
        self.session.borrow_mut().ask_cost(params);
        if !self.session.borrow().is_asking() {
            self.layout.cost.set_text(&Text::default());
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
                let started = self.session.borrow_mut().show(params);
                self.begin_to_look(started);
            }
        }
    }

    /// Brings back what was looked at before and is of the tuned model that is there, right after opening or never.
    fn show_again(self: &Rc<Self>) {
        if self.is_closed() {
            return;
        }
        let again = self.waiting.again.take();
        if again.is_empty() || !self.session.borrow().comes_at_once() {
            return;
        }
        let Ok(params) = self.read() else { return };
        let tuning = || PARAMS.iter().filter(|param| param.affects == Affects::Tuning);
        let is_of_model = |other: &Params| tuning().all(|param| other.get(param.id) == params.get(param.id));
        let again: Vec<_> = again.into_iter().filter(is_of_model).collect();
        let started = self.session.borrow_mut().compare(again);
        self.begin_to_look(started);
    }

    /// Another model was chosen: own settings were for the one before.
    fn take_preset(&self) {
        if self.value("preset") == Preset::Custom.name() {
            self.set("preset", &DEFAULT_PRESET.into());
        } else {
            self.apply_preset();
        }
    }

    /// The advanced settings as the chosen preset says; own settings stay.
    fn apply_preset(&self) {
        let name = self.value("preset");
        let Some(preset) = name.as_str().and_then(Preset::named).filter(|preset| *preset != Preset::Custom) else {
            return;
        };
        let preset = self.session.borrow().preset(preset);
        match preset {
            Some(Ok(preset)) => {
                let applying = self.applying.replace(true);
                for param in PARAMS.iter().filter(|param| param.is_of_preset()) {
                    self.form.set(param, &preset.get(param.id).expect("a row of the table"));
                }
                self.applying.set(applying);
            }
            Some(Err(error)) => self.tell(&Message::failure(&error)),
            None => {}
        }
    }

    /// Shows that the settings are the user's own when they are not the preset's any more.
    fn name_preset(&self) {
        // A field may hold a number that is only half typed.
        let Some(mut params) = self.shown().ok().filter(|_| !self.applying.get()) else { return };
        let before = params.preset;
        self.session.borrow().name_preset(&mut params);
        if params.preset != before {
            self.set("preset", &params.preset.into());
        }
    }

    /// Fills the list of the document's edits, newest first.
    fn list_earlier(&self) {
        let runs = self.session.borrow().document.history().runs;
        self.layout.earlier.fill(runs.iter().rev().map(Recipe::title));
        self.layout.earlier_row.set_visible(!runs.is_empty());
        self.layout.remove.set_sensitive(false);
    }

    fn earlier_edit(&self) -> Option<Recipe> {
        let chosen = self.layout.earlier.chosen()?;
        self.session.borrow().document.history().runs.into_iter().rev().nth(chosen)
    }

    /// Takes the settings of an earlier edit.
    fn take_earlier(self: &Rc<Self>) {
        let Some(recipe) = self.earlier_edit() else { return };
        self.layout.remove.set_sensitive(true);
        match recipe.params() {
            Some(params) => self.write(&params),
            None => self.tell(&Message::failure(&Error::Host(text!(
                "another version of the plug-in made this edit, with settings that this one does not know"
            )))),
        }
    }

    /// Removes an earlier edit and its layer.
    fn remove_earlier(self: &Rc<Self>) {
        let Some(recipe) = self.earlier_edit() else { return };
        let removed = self.session.borrow_mut().document.remove(&recipe);
        match removed {
            Ok(()) => self.tell(&Message::success(words::REMOVED)),
            Err(error) => self.tell(&Message::failure(&error)),
        }
        self.list_earlier();
    }
}

/// The row of the table of parameters.
fn param(id: &str) -> &'static Param {
    PARAMS.iter().find(|param| param.id == id).expect("a row of the table")
}
