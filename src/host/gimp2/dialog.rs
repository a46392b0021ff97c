//! The dialog Filters > Imagic Edit: fields from the table of parameters, one edit after the other in the background.
#![forbid(unsafe_code)]

use super::gtk::{self, Form, Icon, Slider, Spinner};
use super::libgimp::Layer;
use super::session::{Message, Session, Tone};
use super::widgets::{self, Bar, Choices, Chooser, Dialog, Entry, Label, TextArea, Tick, Widget};
use crate::error::{Error, Result};
use crate::host::gimp::{self, Mnemonics};
use crate::host::report::help;
use crate::models;
use crate::params::{BUILTIN_MODEL, Domain, PARAMS, Param, Params};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::rc::{Rc, Weak};

const EDIT: i32 = 1;
const STOP: i32 = 2;
const CLOSE: i32 = 3;

/// What can be pressed, in the order in which it gets its key.
const BUTTONS: [&str; 7] = ["Stop", "Close", "Edit", "Browse...", "New seed", "Advanced", "Reset to preset"];

/// Milliseconds between two looks at the running edit.
const POLL: u32 = 60;
/// Width of the fields in pixels.
const WIDTH: i32 = 440;
/// Shows the dialog until the user closes it; the newest result, or `Cancelled` when there is none.
pub fn run(session: Session) -> Result<Layer> {
    gtk::start(session.document.image);
    let window = Window::new(session);
    window.dialog.0.show_all();
    window.dialog.run_main_loop();
    window.dialog.hide();
    let result = window.session.borrow().document.result;
    result.filter(|layer| layer.is_valid()).ok_or(Error::Cancelled)
}

struct Window {
    dialog: Dialog,
    fields: Vec<(&'static Param, Field)>,
    description: Label,
    examples: Label,
    bar: Bar,
    icon: Icon,
    status: Label,
    edit: Widget,
    stop: Widget,
    /// Never borrowed while a widget is changed: its signals come back here.
    session: RefCell<Session>,
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
        let mut mnemonics = Mnemonics::default();
        let [stop, close, edit, browse, new_seed, advanced, reset] = BUTTONS.map(|label| mnemonics.mark(label));
        let stop = dialog.add_button(&stop, STOP);
        dialog.add_button(&close, CLOSE);
        let edit = dialog.add_button(&edit, EDIT);
        dialog.set_default(EDIT);

        let subject = Label::new(WIDTH);
        subject.set_text(&session.subject());
        let (description, examples) = (Label::new(WIDTH).selectable(), Label::new(WIDTH));
        description.0.show_only_on_demand();
        examples.0.show_only_on_demand();
        let (browse, new_seed, reset) = (widgets::button(&browse), widgets::button(&new_seed), widgets::button(&reset));
        let fold = widgets::expander(&advanced);
        let (basic, columns) = (Form::new(8), [Form::new(8), Form::new(8)]);
        let column_length = PARAMS.iter().filter(|param| param.advanced).count().div_ceil(columns.len());
        let mut fields = Vec::new();
        for param in PARAMS {
            let folded = fields.iter().filter(|(before, _): &&(&Param, Field)| before.advanced).count();
            let form = if param.advanced { &columns[folded / column_length] } else { &basic };
            let text = mnemonics.mark(param.label);
            let label = format!("{text}:");
            let field = match (param.id, param.domain) {
                ("prompt", _) => {
                    let area = TextArea::around(gtk::text_view(), WIDTH, 80);
                    form.add(&label, &area.view, &area.frame);
                    form.add_below(&examples.0);
                    Field::Prompt(area)
                }
                ("model", _) => {
                    let known = models::list(&session.folders);
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
                    Field::Slider(form.add_slider(&label, min..=max, 0.05, &help(param)))
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
            field.set_tooltip(&help(param));
            fields.push((param, field));
        }
        reset.set_tooltip("Sets the strength and everything here to what fits the base model.");
        browse.set_tooltip("Choose a folder with a Stable Diffusion model in diffusers layout.");
        new_seed.set_tooltip("Another version of the edit.");
        columns[1].add_below(&reset);
        let advanced = gtk::columns();
        advanced.set_border(widgets::BORDER);
        columns.iter().for_each(|column| advanced.pack_growing(&column.table));
        fold.add(&advanced);

        let (bar, icon, status, line) =
            (Bar::new(), Icon::new(), Label::new(WIDTH + 60).selectable(), widgets::horizontal());
        // The icon is as high as two lines, so that the window keeps its size with most messages; longer ones make it grow.
        icon.0.set_size(-1, 36);
        status.0.set_size(WIDTH + 60, -1);
        line.pack(&icon.0);
        line.pack_growing(&status.0);
        let all = widgets::vertical();
        all.set_border(widgets::BORDER);
        all.pack(&subject.0);
        all.pack(&basic.table);
        all.pack(&fold);
        all.pack(&bar.0);
        all.pack(&line);
        dialog.content().pack_growing(&all);

        let (session, closing) = (RefCell::new(session), Cell::new(false));
        let window =
            Rc::new(Self { dialog, fields, description, examples, bar, icon, status, edit, stop, session, closing });
        window.connect(&browse, &new_seed, &reset);
        window.show_last_values();
        window.set_busy(false);
        window
    }

    /// Handlers hold the window weakly, or it would never go.
    fn connect(self: &Rc<Self>, browse: &Widget, new_seed: &Widget, reset: &Widget) {
        let on = |action: fn(&Rc<Self>)| {
            let window: Weak<Self> = Rc::downgrade(self);
            move || {
                if let Some(window) = window.upgrade() {
                    action(&window);
                }
            }
        };
        browse.connect(c"clicked", on(|window| window.choose_model_folder()));
        new_seed.connect(c"clicked", on(|window| window.set_new_seed()));
        reset.connect(c"clicked", on(|window| window.apply_preset()));
        for (_, field) in &self.fields {
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

    /// The values of this image's last edit, else of the last edit anywhere, else the built-in model's preset.
    fn show_last_values(&self) {
        let of_image = self.session.borrow().document.history().last_params();
        self.tell(&Session::greeting(of_image.is_some()));
        let params = of_image.or_else(gimp::last_values).unwrap_or_else(|| {
            let builtin = models::find(BUILTIN_MODEL, &self.session.borrow().folders);
            builtin.and_then(|model| model.params()).unwrap_or_else(|error| {
                self.tell(&Message::failure(&error));
                Params::paper()
            })
        });
        self.write(&params);
        if let Some(Field::Prompt(area)) = self.field("prompt") {
            area.select_all();
            area.view.grab_focus();
        }
    }

    fn field(&self, id: &str) -> Option<&Field> {
        self.fields.iter().find(|(param, _)| param.id == id).map(|(_, field)| field)
    }

    /// What the fields say.
    fn read(&self) -> Result<Params> {
        let mut params = Params::paper();
        self.fields.iter().try_for_each(|(param, field)| params.set(param.id, &field.value()))?;
        Ok(params)
    }

    /// Sets all fields; the model comes before those that its preset sets.
    fn write(&self, params: &Params) {
        for (param, field) in &self.fields {
            field.set_value(&params.get(param.id).expect("a row of the table"));
        }
    }

    fn start(self: &Rc<Self>) {
        if self.session.borrow().is_running() {
            return;
        }
        let started = self.read().and_then(|params| self.session.borrow_mut().start(params));
        match started {
            Ok(message) => {
                self.tell(&message);
                self.bar.set(0.0, "Starting");
                self.set_busy(true);
                let window = Rc::downgrade(self);
                self.dialog.repeat(POLL, move || window.upgrade().is_some_and(|window| window.look_at_job()));
            }
            Err(error) => {
                self.bar.set(0.0, "");
                self.tell(&Message::failure(&error));
            }
        }
    }

    /// Shows how the edit goes; `false` when there is no more to see.
    fn look_at_job(&self) -> bool {
        let look = self.session.borrow_mut().look(gimp::remember_values);
        let Some(look) = look else { return false };
        if let Some((fraction, text)) = &look.bar {
            self.bar.set(*fraction, text);
        }
        if let Some(message) = &look.message {
            self.tell(message);
        }
        if look.ended {
            self.set_busy(false);
            if self.closing.get() {
                self.dialog.quit_main_loop();
            }
        }
        !look.ended
    }

    /// `false` when nothing runs.
    fn stop(&self) -> bool {
        let stopping = self.session.borrow_mut().stop();
        if let Some(message) = &stopping {
            self.stop.set_sensitive(false);
            self.tell(message);
        }
        stopping.is_some()
    }

    /// At once for the eye; a running edit ends first, at its next step.
    fn close(&self) {
        self.closing.set(true);
        self.dialog.hide();
        if !self.stop() {
            self.dialog.quit_main_loop();
        }
    }

    fn set_busy(&self, busy: bool) {
        self.edit.set_sensitive(!busy);
        self.stop.set_sensitive(busy);
    }

    fn tell(&self, message: &Message) {
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
            self.apply_preset();
        }
    }

    /// Everything but prompt, model and seed as the model's preset says.
    fn apply_preset(&self) {
        let Some(preset) = self.session.borrow().preset() else { return };
        match preset {
            Ok(preset) => {
                for (param, field) in &self.fields {
                    if !["prompt", "model", "seed"].contains(&param.id) {
                        field.set_value(&preset.get(param.id).expect("a row of the table"));
                    }
                }
            }
            Err(error) => self.tell(&Message::failure(&error)),
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
            spinner.set_value(gimp::new_seed());
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
        let mut mnemonics = Mnemonics::default();
        assert_eq!(mnemonics.mark("Stop"), "_Stop");
        assert_eq!(mnemonics.mark("Steps"), "S_teps");
        assert_eq!(mnemonics.mark("Tops"), "T_ops");
        assert_eq!(mnemonics.mark("Spot"), "S_pot");
        assert_eq!(mnemonics.mark("Toss"), "Toss", "no letter is left");

        let mut mnemonics = Mnemonics::default();
        for button in BUTTONS {
            assert!(mnemonics.mark(button).contains('_'), "no key is left for {button}");
        }
        for param in PARAMS {
            assert!(mnemonics.mark(param.label).contains('_') || param.advanced, "no key is left for {}", param.label);
        }
    }
}
