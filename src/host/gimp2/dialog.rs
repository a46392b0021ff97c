//! The dialog Filters > Imagic Edit: fields from the table of parameters, one edit after the other in the background.
#![forbid(unsafe_code)]

use super::control::{self, Waiting};
use super::gtk::{self, Form, Icon, Slider, Spinner};
use super::libgimp::Layer;
use super::panel::{self, Panel};
use super::session::{Message, Session, Tone};
use super::widgets::{self, Bar, Choices, Chooser, Dialog, Entry, Image, Label, List, Pages, TextArea, Tick, Widget};
use crate::catalog;
use crate::error::{Error, Result};
use crate::host::gimp::mnemonics::Mnemonics;
use crate::host::language::{Language, language};
use crate::host::last_values::{last_values, remember_values};
use crate::host::report::help;
use crate::params::{Affects, BUILTIN_MODEL, DEFAULT_PRESET, Domain, PARAMS, Param, Params};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::rc::Rc;

const EDIT: i32 = 1;
const STOP: i32 = 2;
const CLOSE: i32 = 3;

/// What can be pressed, in the order in which it gets its key.
const BUTTONS: [&str; 6] = ["Stop", "Close", "Edit", "Browse...", "New seed", "Advanced"];
/// As [`BUTTONS`], after the fields.
const MORE: [&str; 3] = ["Text", "Previous edits", "Remove"];

/// `label` in the user's language with `_` before its key: no two texts of the dialog share one; what is folded away gets
/// what is left.
fn with_key(label: &str) -> String {
    with_key_in(language(), label)
}

fn with_key_in(language: &Language, label: &str) -> String {
    let fields =
        |advanced: bool| PARAMS.iter().filter(move |param| param.advanced == advanced).map(|param| param.label);
    let shown = BUTTONS.into_iter().chain(fields(false)).chain(panel::BUTTONS).chain(MORE);
    let mut texts: Vec<&str> = shown.collect();
    let shown = 0..texts.len();
    texts.extend(fields(true));
    Mnemonics::marked(label, &texts, shown, language)
}

/// Width of the fields in pixels.
const WIDTH: i32 = 440;
/// Width of the text beside the tabs.
const SUBJECT_WIDTH: i32 = 340;

/// Shows the dialog until the user closes it; the newest result, or `Cancelled` when there is none.
pub fn run(session: Session) -> Result<Layer> {
    gtk::start(session.document.image);
    let window = Window::new(session);
    window.dialog.0.show_all();
    window.focus_prompt();
    window.begin();
    window.dialog.run_main_loop();
    window.dialog.hide();
    let result = window.session.borrow().document.result();
    result.ok_or(Error::Cancelled)
}

pub struct Window {
    dialog: Dialog,
    fields: Vec<(&'static Param, Field)>,
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
    edit: Widget,
    stop: Widget,
    pub panel: Panel,
    /// Never borrowed while a widget is changed: its signals come back here.
    pub session: RefCell<Session>,
    pub waiting: Waiting,
    /// The preset's settings are being written.
    pub applying: Cell<bool>,
    closing: Cell<bool>,
}

/// The widget of one parameter.
enum Field {
    Prompt(TextArea),
    Model(Chooser),
    Slider(Slider),
    Spinner(Spinner),
    Number(Entry),
    Switch(Tick),
    Choice(Choices),
}

impl Window {
    fn new(session: Session) -> Rc<Self> {
        let dialog = gtk::dialog("Imagic Edit");
        let [stop, close, edit, browse, new_seed, advanced] = BUTTONS.map(with_key);
        let stop = dialog.add_button(&stop, STOP);
        dialog.add_button(&close, CLOSE);
        let edit = dialog.add_button(&edit, EDIT);
        dialog.set_default(EDIT);

        let subject = Label::new(SUBJECT_WIDTH).in_one_line();
        subject.set_text(&session.subject());
        subject.0.set_tooltip(&session.subject());
        let (description, examples) = (Label::new(WIDTH).selectable(), Label::new(WIDTH));
        description.0.show_only_on_demand();
        examples.0.show_only_on_demand();
        let (browse, new_seed) = (widgets::button(&browse), widgets::button(&new_seed));
        let (basic, columns) = (Form::new(8), [Form::new(8), Form::new(8)]);
        let column_length = PARAMS.iter().filter(|param| param.advanced).count().div_ceil(columns.len());
        let mut fields = Vec::new();
        for param in PARAMS {
            let folded = fields.iter().filter(|(before, _): &&(&Param, Field)| before.advanced).count();
            let form = if param.advanced { &columns[folded / column_length] } else { &basic };
            let text = with_key(param.label);
            let label = format!("{text}:");
            let field = match (param.id, param.domain) {
                ("prompt", _) => {
                    let area = TextArea::around(gtk::text_view(), WIDTH, 80);
                    form.add(&label, &area.view, &area.frame);
                    form.add_below(&examples.0);
                    Field::Prompt(area)
                }
                ("model", _) => {
                    let known = catalog::list(&session.folders);
                    let chooser = Chooser::new(known.iter().map(|model| model.name.as_str()));
                    let row = widgets::horizontal();
                    row.pack_growing(&chooser.widget);
                    row.pack(&browse);
                    form.add(&label, &chooser.entry.0, &row);
                    form.add_below(&description.0);
                    Field::Model(chooser)
                }
                ("seed", Domain::Integer { min, max }) => {
                    let (spinner, row) = (Spinner::new(min, max), widgets::horizontal());
                    row.pack_growing(&spinner.0);
                    row.pack(&new_seed);
                    form.add(&label, &spinner.0, &row);
                    Field::Spinner(spinner)
                }
                (_, Domain::Real { min, max }) if !param.advanced => {
                    Field::Slider(form.add_slider(&label, min..=max, 0.05, &help(param).to_string()))
                }
                (_, Domain::Integer { min, max }) => {
                    let spinner = Spinner::new(min, max);
                    form.add(&label, &spinner.0, &spinner.0);
                    Field::Spinner(spinner)
                }
                (_, Domain::Switch) => {
                    // Its text is its label.
                    let tick = Tick::new(&text);
                    form.add_below(&tick.0);
                    Field::Switch(tick)
                }
                (_, Domain::Choice { options }) => {
                    let choices = Choices::new(options);
                    form.add(&label, &choices.widget, &choices.widget);
                    Field::Choice(choices)
                }
                (_, Domain::Real { .. } | Domain::Text) => {
                    let entry = Entry::new();
                    form.add(&label, &entry.0, &entry.0);
                    Field::Number(entry)
                }
            };
            field.set_tooltip(&help(param).to_string());
            fields.push((param, field));
        }
        browse.set_tooltip("Choose a folder with a Stable Diffusion model in diffusers layout.");
        new_seed.set_tooltip("Another version of the edit.");
        let folded = gtk::columns();
        columns.iter().for_each(|column| folded.pack_growing(&column.table));

        let [simple, earlier_label, remove] = MORE.map(with_key);
        let (earlier, earlier_row, remove) = (List::new(), widgets::horizontal(), widgets::button(&remove));
        remove.set_tooltip("Deletes the layer of this edit and forgets the edit.");
        earlier.widget.set_tooltip("Takes text and settings of an earlier edit of this image.");
        let earlier_label = gtk::label_for(&(earlier_label + ":"), &earlier.widget);
        earlier_row.pack(&earlier_label);
        earlier_row.pack_growing(&earlier.widget);
        earlier_row.pack(&remove);
        earlier_row.show_only_on_demand();
        let panel = Panel::new(panel::BUTTONS.map(with_key));

        let (bar, icon, status, line) =
            (Bar::new(), Icon::new(), Label::new(WIDTH + 60).selectable(), widgets::horizontal());
        let (cost, curve) = (Label::new(WIDTH + 60), Image::new());
        curve.0.set_tooltip("Loss of stages A and B, averaged over 25 steps.");
        curve.0.show_only_on_demand();
        // The icon is as high as two lines, so that the window keeps its size with most messages; longer ones make it grow.
        icon.0.set_size(-1, 36);
        status.0.set_size(WIDTH + 60, -1);
        line.pack(&icon.0);
        line.pack_growing(&status.0);
        let progress = widgets::horizontal();
        progress.pack_growing(&bar.0);
        progress.pack(&curve.0);
        let (front, pages, all) = (widgets::vertical(), Pages::new(), widgets::vertical());
        front.pack(&earlier_row);
        front.pack(&basic.table);
        pages.add(&simple, &front);
        pages.add(&advanced, &folded);
        pages.add_beside_tabs(&subject.0);
        for row in [&pages.0, &cost.0, &progress, &line] {
            all.pack(row);
        }
        let both = gtk::columns();
        both.set_border(widgets::BORDER);
        both.pack_growing(&all);
        both.pack(&panel.all);
        dialog.content().pack_growing(&both);

        let window = Rc::new(Self {
            dialog,
            fields,
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
            edit,
            stop,
            panel,
            session: RefCell::new(session),
            waiting: Waiting::default(),
            applying: Cell::new(false),
            closing: Cell::new(false),
        });
        window.connect(&browse, &new_seed);
        window.show_first_values();
        window
    }

    fn connect(self: &Rc<Self>, browse: &Widget, new_seed: &Widget) {
        let on = |action: fn(&Rc<Self>)| self.on(action);
        browse.connect(c"clicked", on(|window| window.choose_model_folder()));
        new_seed.connect(c"clicked", on(|window| window.set_new_seed()));
        self.connect_results();
        for (param, field) in &self.fields {
            field.connect_changed(match param.affects {
                Affects::Nothing => Box::new(|| {}),
                Affects::Parameters => Box::new(on(|window| window.apply_preset())),
                Affects::Generation => Box::new(on(|window| window.changed(true))),
                Affects::Tuning => Box::new(on(|window| window.changed(false))),
            });
            if param.is_of_preset() {
                field.connect_changed(Box::new(on(|window| window.name_preset())));
            }
            match field {
                Field::Model(chooser) => chooser.entry.0.connect(c"changed", on(|window| window.model_changed())),
                Field::Prompt(area) => {
                    let edit = on(Self::start);
                    area.view.connect_key(move |key| {
                        if key.is_plain_enter() {
                            edit();
                        }
                        key.is_plain_enter()
                    });
                }
                _ => {}
            }
        }
        let window = Rc::downgrade(self);
        self.examples.0.connect_link(move |number| {
            if let Some(window) = window.upgrade() {
                window.take_example(number.parse().unwrap_or(0));
            }
        });
        let window = Rc::downgrade(self);
        self.dialog.connect_response(move |response| {
            let Some(window) = window.upgrade() else { return };
            match response {
                EDIT => window.start(),
                STOP => {
                    window.stop();
                }
                _ => window.close(),
            }
        });
        let window = Rc::downgrade(self);
        // Escape stops a running edit first; only the next one closes.
        self.dialog.connect_escape(move || window.upgrade().is_some_and(|window| window.stop()));
    }

    /// The settings of the layer or of this image's last edit, else of the last edit anywhere, else the built-in model's preset.
    fn show_first_values(&self) {
        let (known, message) = self.session.borrow().greeting();
        self.tell(&message);
        let params = known.or_else(last_values).unwrap_or_else(|| {
            let builtin = catalog::find(BUILTIN_MODEL, &self.session.borrow().folders);
            builtin.and_then(|model| model.params(DEFAULT_PRESET)).unwrap_or_else(|error| {
                self.tell(&Message::failure(&error));
                Params::paper()
            })
        });
        self.write(&params);
    }

    /// Lets the user write the target text at once; a page of tabs gives nothing the focus before it is shown.
    fn focus_prompt(&self) {
        if let Some(Field::Prompt(area)) = self.field("prompt") {
            area.select_all();
            area.view.grab_focus();
        }
    }

    pub fn dialog(&self) -> &Dialog {
        &self.dialog
    }

    fn field(&self, id: &str) -> Option<&Field> {
        self.fields.iter().find(|(param, _)| param.id == id).map(|(_, field)| field)
    }

    /// What the field of `id` says.
    pub fn value(&self, id: &str) -> Value {
        self.field(id).expect("a row of the table").value()
    }

    /// Sets the field of `id`.
    pub fn set(&self, id: &str, value: &Value) {
        self.field(id).expect("a row of the table").set_value(value);
    }

    /// What the fields say.
    pub fn read(&self) -> Result<Params> {
        self.shown()
    }

    /// As [`Self::read`]: the fields say all.
    pub fn shown(&self) -> Result<Params> {
        let mut params = Params::paper();
        self.fields.iter().try_for_each(|(param, field)| params.set(param.id, &field.value()))?;
        Ok(params)
    }

    /// Sets all fields; the model comes before those that its preset sets.
    pub fn write(&self, params: &Params) {
        for (param, field) in &self.fields {
            field.set_value(&params.get(param.id).expect("a row of the table"));
        }
    }

    /// Makes the next dialog start with these settings.
    pub fn keep(&self, params: &Params) -> Result<()> {
        remember_values(params)
    }

    /// Nothing runs any more.
    pub fn ended(&self) {
        if self.closing.get() {
            self.dialog.quit_main_loop();
        }
    }

    /// Lets an edit start while something runs.
    pub fn allow_edit(&self) {
        self.edit.set_sensitive(true);
    }

    pub fn show_stopping(&self) {
        self.stop.set_sensitive(false);
    }

    /// At once for the eye; a running edit ends first, at its next step.
    fn close(&self) {
        self.closing.set(true);
        self.dialog.hide();
        if !self.stop() {
            self.dialog.quit_main_loop();
        }
    }

    pub fn show_busy(&self, busy: bool) {
        self.edit.set_sensitive(!busy);
        self.stop.set_sensitive(busy);
        self.panel.set_busy(busy);
    }

    pub fn tell(&self, message: &Message) {
        let icon: &CStr = match message.tone {
            Tone::Info => c"gtk-dialog-info",
            Tone::Success => c"gtk-apply",
            Tone::Warning => c"gtk-dialog-warning",
            Tone::Failure => c"gtk-dialog-error",
        };
        self.icon.set(icon);
        self.status.set_text(&message.text);
    }

    fn model_changed(&self) {
        let Some(Field::Model(chooser)) = self.field("model") else { return };
        let choice = self.session.borrow_mut().choose_model(&chooser.entry.text());
        self.description.set_text(&choice.description);
        self.description.0.set_visible(!choice.description.is_empty());
        self.examples.set_markup(&choice.example_links());
        self.examples.0.set_visible(!choice.examples.is_empty());
        if choice.is_new {
            self.take_preset();
            if let Some(Ok(preset)) = self.session.borrow().preset(DEFAULT_PRESET) {
                self.set("eta", &preset.eta.into());
            }
        }
    }

    fn choose_model_folder(&self) {
        let folder = self.dialog.choose_folder("Choose the folder of a base model");
        if let (Some(folder), Some(Field::Model(chooser))) = (folder, self.field("model")) {
            chooser.entry.set_text(&folder.to_string_lossy());
        }
    }

    fn set_new_seed(&self) {
        if let Some(Field::Spinner(spinner)) = self.field("seed") {
            spinner.set_value(control::new_seed());
        }
    }

    fn take_example(&self, number: usize) {
        let example = self.session.borrow().example(number);
        if let (Some(example), Some(Field::Prompt(area))) = (example, self.field("prompt")) {
            area.set_text(&example);
            area.view.grab_focus();
        }
    }
}

impl Field {
    fn value(&self) -> Value {
        match self {
            Self::Prompt(area) => area.text().into(),
            Self::Model(chooser) => chooser.entry.text().trim().into(),
            // The slider shows two digits; the third hides the noise of binary numbers.
            Self::Slider(slider) => ((slider.value() * 1000.0).round() / 1000.0).into(),
            Self::Spinner(spinner) => spinner.value().into(),
            Self::Number(entry) => entry.text().trim().replace(',', ".").into(),
            Self::Switch(tick) => tick.is_on().into(),
            Self::Choice(choices) => choices.name().into(),
        }
    }

    fn set_value(&self, value: &Value) {
        let text = value.as_str().unwrap_or_default();
        match self {
            Self::Prompt(area) => area.set_text(text),
            Self::Model(chooser) => chooser.entry.set_text(text),
            Self::Slider(slider) => slider.set_value(value.as_f64().unwrap_or_default()),
            Self::Spinner(spinner) => spinner.set_value(value.as_u64().unwrap_or_default() as u32),
            Self::Number(entry) => entry.set_text(&format!("{:?}", value.as_f64().unwrap_or_default())),
            Self::Switch(tick) => tick.set(value.as_bool().unwrap_or_default()),
            Self::Choice(choices) => choices.choose(text),
        }
    }

    fn connect_changed(&self, body: Box<dyn Fn()>) {
        match self {
            Self::Prompt(area) => area.connect_changed(body),
            Self::Model(chooser) => chooser.entry.0.connect(c"changed", body),
            Self::Slider(slider) => slider.0.connect(c"value-changed", body),
            Self::Spinner(spinner) => spinner.0.connect(c"value-changed", body),
            Self::Number(entry) => entry.0.connect(c"changed", body),
            Self::Switch(tick) => tick.0.connect(c"toggled", body),
            Self::Choice(choices) => choices.widget.connect(c"changed", body),
        }
    }

    fn set_tooltip(&self, help: &str) {
        match self {
            Self::Prompt(area) => area.view.set_tooltip(&format!("{help} Enter starts the edit.")),
            Self::Model(chooser) => chooser.entry.0.set_tooltip(help),
            Self::Spinner(spinner) => spinner.0.set_tooltip(help),
            Self::Number(entry) => entry.0.set_tooltip(help),
            Self::Switch(tick) => tick.0.set_tooltip(help),
            Self::Choice(choices) => choices.widget.set_tooltip(help),
            // Got its help when it was made.
            Self::Slider(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_labels_share_a_key_and_what_is_always_shown_has_one() {
        let shown = PARAMS.iter().filter(|param| !param.advanced).map(|param| param.label);
        let shown: Vec<_> = BUTTONS.into_iter().chain(shown).chain(panel::BUTTONS).chain(MORE).collect();
        for language in Language::all() {
            let mut keys: Vec<char> = Vec::new();
            for label in &shown {
                let marked = with_key_in(&language, label);
                let key = marked.split_once('_').and_then(|(_, key)| key.chars().next());
                keys.push(key.unwrap_or_else(|| panic!("no key is left for {marked}")).to_ascii_uppercase());
            }
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), shown.len(), "{keys:?}");
        }
    }
}
