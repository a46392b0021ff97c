//! The dialog Filters > Imagic Edit: GIMP's own procedure dialog, in which one edit after the other runs in the background.

use super::config::Config;
use super::control::{self, Waiting};
use super::gtk::{self, Icon, ProcedureDialog};
use super::libgimp::Layer;
use super::panel::{self, Panel};
use super::session::{Message, Session, Tone};
use super::sys;
use super::widgets::{self, Bar, Chooser, Dialog, Image, Label, List, Pages, TextArea, Widget};
use crate::catalog;
use crate::error::{Error, Result};
use crate::host::gimp::mnemonics::Mnemonics;
use crate::host::language::{Language, language};
use crate::host::report::help;
use crate::params::{Affects, Domain, PARAMS, Param, Params};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::rc::Rc;

/// Buttons of GIMP's dialog with their keys; OK is later called Edit, but has its key when GIMP looks for double ones.
const BUTTONS_OF_GIMP: [&str; 5] = ["Help", "Reset", "Load Saved Settings", "Save Settings", "OK"];
/// What else can be pressed; the first two get the best keys.
const BUTTONS: [&str; 6] = ["Edit", "New seed", "Stop", "Close", "Browse...", "Advanced"];
/// As [`BUTTONS`], after the fields.
const MORE: [&str; 3] = ["Text", "Previous edits", "Remove"];

const EDIT: sys::GtkResponseType = sys::GtkResponseType::GTK_RESPONSE_OK;
const CLOSE: sys::GtkResponseType = sys::GtkResponseType::GTK_RESPONSE_CANCEL;

/// Width of the texts in pixels.
const WIDTH: i32 = 460;
/// Width of the text beside the tabs.
const SUBJECT_WIDTH: i32 = 380;
/// Largest upper limit of a number that needs many digits: learning rates.
const SMALL: f64 = 1.0;

/// `label` in the user's language with `_` before its key: no two texts of the dialog share one.
pub fn with_key(label: &str) -> String {
    with_key_in(language(), label)
}

fn with_key_in(language: &Language, label: &str) -> String {
    let labels =
        |advanced: bool| PARAMS.iter().filter(move |param| param.advanced == advanced).map(|param| param.label);
    let (first, others) = BUTTONS.split_at(2);
    let ours = first.iter().copied().chain(labels(false)).chain(others.iter().copied());
    let ours = ours.chain(panel::BUTTONS).chain(MORE);
    let mut texts: Vec<&str> = BUTTONS_OF_GIMP.into_iter().chain(ours).collect();
    let between = BUTTONS_OF_GIMP.len()..texts.len();
    texts.extend(labels(true));
    Mnemonics::marked(label, &texts, between, language)
}

/// Shows the dialog until the user closes it; the newest result, or `Cancelled` when there is none.
///
/// # Safety
/// `procedure` is the one that runs, `config` its arguments.
pub unsafe fn run(procedure: *mut sys::GimpProcedure, config: Config, session: Session) -> Result<Layer> {
    gtk::start(session.document.image);
    // SAFETY: the caller's promise.
    let window = unsafe { Window::new(procedure, config, session) };
    window.frame.run();
    // At once for the eye; a running edit ends first, at its next step.
    window.frame.dialog.hide();
    window.stop();
    while window.session.borrow().is_running() {
        window.frame.do_next();
    }
    // GIMP keeps the arguments as the last values: those of the last edit, not what was changed after it.
    if let Some(params) = window.edited.take() {
        window.write(&params);
    }
    let result = window.session.borrow().document.result();
    result.ok_or(Error::Cancelled)
}

pub struct Window {
    frame: ProcedureDialog,
    config: Config,
    prompt: TextArea,
    model: Chooser,
    description: Label,
    examples: Label,
    /// The edits that the document remembers, and the row that holds them.
    pub earlier: List,
    pub earlier_row: Widget,
    pub remove: Widget,
    pub cost: Label,
    pub bar: Bar,
    pub curve: Image,
    icon: Icon,
    status: Label,
    pub panel: Panel,
    /// Never borrowed while a widget or an argument is changed: their signals come back here.
    pub session: RefCell<Session>,
    pub waiting: Waiting,
    /// The preset's settings are being written.
    pub applying: Cell<bool>,
    /// The parameters of the last edit that gave a result.
    edited: Cell<Option<Params>>,
}

impl Window {
    /// # Safety
    /// As [`run`].
    unsafe fn new(procedure: *mut sys::GimpProcedure, config: Config, session: Session) -> Rc<Self> {
        // SAFETY: the caller's promise.
        let frame = unsafe { ProcedureDialog::new(procedure, &config, "Imagic Edit", &with_key("Edit")) };
        let text = || {
            let label = Label::new(WIDTH);
            gtk::keep_narrow(&label);
            label
        };
        let subject = Label::new(SUBJECT_WIDTH).in_one_line();
        subject.set_text(&session.subject());
        subject.0.set_tooltip(&session.subject());
        let (description, examples, status) = (text().selectable(), text(), text().selectable());
        description.0.show_only_on_demand();
        examples.0.show_only_on_demand();
        let [browse, new_seed, advanced] = ["Browse...", "New seed", "Advanced"].map(with_key);
        let (browse, new_seed) = (widgets::button(&browse), widgets::button(&new_seed));
        browse.set_tooltip("Choose a folder with a Stable Diffusion model in diffusers layout.");
        new_seed.set_tooltip("Another version of the edit.");

        let prompt = TextArea::around(frame.text_view("prompt"), WIDTH, 70);
        let known = catalog::list(&session.folders);
        let model = Chooser::new(known.iter().map(|model| model.name.as_str()));
        config.bind_text("model", &model.entry.0);
        let seed = frame.spinner("seed");
        let label = |id: &str, target: &Widget| {
            let param = PARAMS.iter().find(|param| param.id == id).expect("a row of the table");
            target.set_tooltip(&help(param).to_string());
            gtk::label_for(&with_key(param.label), target, &seed)
        };
        let (prompt_row, model_row, seed_row) = (widgets::horizontal(), widgets::horizontal(), widgets::horizontal());
        prompt_row.pack(&label("prompt", &prompt.view));
        prompt_row.pack_growing(&prompt.frame);
        model_row.pack(&label("model", &model.entry.0));
        model_row.pack_growing(&model.widget);
        model_row.pack(&browse);
        seed_row.pack_growing(&seed);
        seed_row.pack(&new_seed);

        let [simple, earlier_label, remove] = MORE.map(with_key);
        let (earlier, earlier_row, remove) = (List::new(), widgets::horizontal(), widgets::button(&remove));
        remove.set_tooltip("Deletes the layer of this edit and forgets the edit.");
        earlier.widget.set_tooltip("Takes text and settings of an earlier edit of this image.");
        earlier_row.pack(&gtk::label_for(&earlier_label, &earlier.widget, &seed));
        earlier_row.pack_growing(&earlier.widget);
        earlier_row.pack(&remove);

        let (front, folded) = (widgets::vertical(), widgets::vertical());
        let (both, columns) = gtk::two_columns();
        front.pack(&earlier_row);
        folded.pack(&both);
        let column_length = PARAMS.iter().filter(|param| param.advanced).count().div_ceil(columns.len());
        let mut number = 0;
        for param in PARAMS {
            match param.id {
                "prompt" => [&prompt_row, &examples.0].into_iter().for_each(|row| front.pack(row)),
                "model" => [&model_row, &description.0].into_iter().for_each(|row| front.pack(row)),
                "seed" => front.pack(&seed_row),
                _ if !param.advanced => front.pack(&field(&frame, param)),
                _ => {
                    columns[number / column_length].pack(&field(&frame, param));
                    number += 1;
                }
            }
        }
        let pages = Pages::new();
        pages.add(&simple, &front);
        pages.add(&advanced, &folded);
        pages.add_beside_tabs(&subject.0);
        let panel = Panel::new(panel::BUTTONS.map(with_key));

        let (bar, icon, line) = (gtk::bar(), Icon::new(), widgets::horizontal());
        let (cost, curve) = (text(), Image::new());
        curve.0.set_tooltip("Loss of stages A and B, averaged over 25 steps.");
        // As high as two lines, so that the window keeps its size with most messages; longer ones make it grow.
        icon.0.set_size(-1, 36);
        line.pack(&icon.0);
        line.pack_growing(&status.0);
        let all = widgets::vertical();
        let progress = widgets::horizontal();
        progress.pack_growing(&bar.0);
        progress.pack(&curve.0);
        for row in [&pages.0, &cost.0, &progress, &line] {
            all.pack(row);
        }
        let both = gtk::columns();
        both.pack_growing(&all);
        both.pack(&panel.all);
        earlier_row.show_only_on_demand();
        curve.0.show_only_on_demand();
        frame.dialog.content().pack_growing(&both);
        both.show_all();

        let window = Rc::new(Self {
            frame,
            config,
            prompt,
            model,
            description,
            examples,
            earlier,
            earlier_row,
            remove,
            cost,
            bar,
            curve,
            icon,
            status,
            panel,
            session: RefCell::new(session),
            waiting: Waiting::default(),
            applying: Cell::new(false),
            edited: Cell::new(None),
        });
        window.bar.set(0.0, "");
        window.show_first_values();
        window.connect(&browse, &new_seed);
        window.begin();
        window
    }

    fn connect(self: &Rc<Self>, browse: &Widget, new_seed: &Widget) {
        let on = |action: fn(&Rc<Self>)| self.on(action);
        browse.connect(c"clicked", on(|window| window.choose_model_folder()));
        new_seed.connect(c"clicked", on(|window| window.set("seed", &control::new_seed().into())));
        // Also when GIMP's dialog resets the arguments or loads saved ones.
        self.config.connect_changed("model", on(|window| window.show_model()));
        for param in PARAMS {
            let name = param.id.replace('_', "-");
            match param.affects {
                Affects::Nothing => {}
                Affects::Parameters => self.config.connect_changed(&name, on(|window| window.apply_preset())),
                Affects::Generation => self.config.connect_changed(&name, on(|window| window.changed(true))),
                Affects::Tuning => self.config.connect_changed(&name, on(|window| window.changed(false))),
            }
            if param.is_of_preset() {
                self.config.connect_changed(&name, on(|window| window.name_preset()));
            }
        }
        self.connect_results();
        let edit = on(Self::start);
        self.prompt.view.connect_key(move |key| {
            if key.is_plain_enter() {
                edit();
            }
            key.is_plain_enter()
        });
        let window = Rc::downgrade(self);
        self.examples.0.connect_link(move |number| {
            if let Some(window) = window.upgrade() {
                window.take_example(number.parse().unwrap_or(0));
            }
        });
        let window = Rc::downgrade(self);
        self.frame.dialog.connect_response(move |response| {
            let Some(window) = window.upgrade() else { return };
            // GIMP's dialog would end with these; its own buttons and the closing of the window go on to it.
            if response == EDIT.0 {
                window.frame.use_up_response();
                window.start();
            } else if response == CLOSE.0 && window.stop() {
                window.frame.use_up_response();
            }
        });
        let window = Rc::downgrade(self);
        // Escape stops a running edit first; only the next one closes.
        self.frame.dialog.connect_escape(move || window.upgrade().is_some_and(|window| window.stop()));
    }

    /// The settings of the layer or of this image's last edit, else those of the last edit anywhere, with which GIMP has filled the arguments.
    fn show_first_values(&self) {
        let (known, message) = self.session.borrow().greeting();
        self.tell(&message);
        if let Some(params) = &known {
            self.write(params);
        }
        self.show_model();
        self.apply_preset();
        self.prompt.select_all();
        self.prompt.view.grab_focus();
    }

    /// What the argument of `id` says.
    pub fn value(&self, id: &str) -> Value {
        self.config.get(PARAMS.iter().find(|param| param.id == id).expect("a row of the table"))
    }

    /// Sets the argument of `id`.
    pub fn set(&self, id: &str, value: &Value) {
        self.config.set(PARAMS.iter().find(|param| param.id == id).expect("a row of the table"), value);
    }

    pub fn dialog(&self) -> &Dialog {
        &self.frame.dialog
    }

    /// What the arguments say.
    pub fn read(&self) -> Result<Params> {
        super::params_of(&self.config, &self.session.borrow().folders)
    }

    /// As [`Self::read`], without asking the preset.
    pub fn shown(&self) -> Result<Params> {
        self.config.params()
    }

    /// Sets all arguments.
    pub fn write(&self, params: &Params) {
        self.config.set_all(params, |_| true);
    }

    /// Makes the next dialog start with these settings.
    pub fn keep(&self, params: &Params) -> Result<()> {
        self.edited.set(Some(params.clone()));
        Ok(())
    }

    /// Nothing runs any more: the loop that waits for the end of the last edit looks by itself.
    pub fn ended(&self) {}

    /// Lets an edit start while something runs.
    pub fn allow_edit(&self) {
        self.frame.set_button_sensitive(EDIT, true);
    }

    pub fn show_stopping(&self) {
        self.frame.set_button_sensitive(CLOSE, false);
    }

    /// While an edit runs, the button that closes stops it.
    pub fn show_busy(&self, busy: bool) {
        self.panel.set_busy(busy);
        self.frame.set_button_sensitive(EDIT, !busy);
        self.frame.set_button_sensitive(CLOSE, true);
        self.frame.rename_button(CLOSE, &with_key(if busy { "Stop" } else { "Close" }));
    }

    pub fn tell(&self, message: &Message) {
        // Names from GIMP's own icon theme.
        let icon: &CStr = match message.tone {
            Tone::Info => c"dialog-information",
            Tone::Success => c"gtk-ok",
            Tone::Warning => c"dialog-warning",
            Tone::Failure => c"dialog-error",
        };
        self.icon.set(icon);
        self.status.set_text(&message.text);
    }

    /// What the chosen model can draw, and its preset. The strength stays: saved settings and a reset set it themselves.
    fn show_model(&self) {
        let choice = self.session.borrow_mut().choose_model(&self.model.entry.text());
        self.description.set_text(&choice.description);
        self.description.0.set_visible(!choice.description.is_empty());
        self.examples.set_markup(&choice.example_links());
        self.examples.0.set_visible(!choice.examples.is_empty());
        if choice.is_new {
            self.take_preset();
        }
    }

    fn choose_model_folder(&self) {
        if let Some(folder) = self.frame.dialog.choose_folder("Choose the folder of a base model") {
            self.set("model", &folder.to_string_lossy().into());
        }
    }

    fn take_example(&self, number: usize) {
        let example = self.session.borrow().example(number);
        if let Some(example) = example {
            self.prompt.set_text(&example);
            self.prompt.view.grab_focus();
        }
    }
}

/// The field that GIMP makes for a parameter, with its label.
fn field(frame: &ProcedureDialog, param: &Param) -> Widget {
    match param.domain {
        Domain::Real { max, .. } if max <= SMALL => frame.small_number(param.id),
        Domain::Real { .. } if !param.advanced => frame.slider(param.id),
        Domain::Switch => frame.tick(param.id),
        Domain::Choice { .. } => frame.choices(param.id),
        Domain::Real { .. } | Domain::Integer { .. } | Domain::Text => frame.spinner(param.id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_texts_share_a_key_and_what_is_always_shown_has_one() {
        let labels =
            |advanced: bool| PARAMS.iter().filter(move |param| param.advanced == advanced).map(|param| param.label);
        let shown = BUTTONS_OF_GIMP.into_iter().chain(BUTTONS).chain(labels(false)).chain(panel::BUTTONS).chain(MORE);
        let shown: Vec<_> = shown.collect();
        for language in Language::all() {
            let key = |label: &str| {
                let marked = with_key_in(&language, label);
                marked.split_once('_').and_then(|(_, key)| key.chars().next()).map(|key| key.to_ascii_uppercase())
            };
            let mut keys: Vec<char> = Vec::new();
            for label in &shown {
                keys.push(key(label).unwrap_or_else(|| panic!("no key is left for {}", language.translate(label))));
            }
            keys.extend(labels(true).filter_map(key));
            let count = keys.len();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), count, "{keys:?}");
        }
        let with_key = |label| with_key_in(&Language::default(), label);
        assert_eq!(BUTTONS_OF_GIMP.map(with_key), ["_Help", "_Reset", "_Load Saved Settings", "_Save Settings", "_OK"]);
    }
}
