//! The dialog Filters > Imagic Edit: fields from the table of parameters, one edit after the other in the background.
#![forbid(unsafe_code)]

use super::document::Document;
use super::gtk::{self, Bar, Chooser, Dialog, Entry, Form, Icon, Label, Response, Slider, Spinner, TextArea, Widget};
use super::libgimp::Layer;
use crate::error::{Error, Hint, Result};
use crate::host::report::{self, help, progress_text, sentence, summary};
use crate::host::{self, Host, gimp};
use crate::job::{Job, JobState, Worker};
use crate::models::{self, Model};
use crate::params::{BUILTIN_MODEL, Domain, PARAMS, Param, Params};
use serde_json::Value;
use std::cell::RefCell;
use std::ffi::CStr;
use std::path::PathBuf;
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
/// Example prompts that are offered; more would push the fields below away.
const EXAMPLES: usize = 3;

/// Shows the dialog until the user closes it; the newest result, or `Cancelled` when there is none.
pub fn run(document: Document, worker: Worker, folders: Vec<PathBuf>) -> Result<Layer> {
    gtk::start(document.image);
    let window = Window::new(document, worker, folders);
    window.dialog.show();
    window.dialog.run_main_loop();
    window.dialog.hide();
    let result = window.state.borrow().document.result;
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
    worker: Worker,
    folders: Vec<PathBuf>,
    /// Never borrowed while a widget is changed: its signals come back here.
    state: RefCell<State>,
}

struct State {
    document: Document,
    running: Option<Running>,
    /// The model whose preset was applied last.
    model: Option<Model>,
    closing: bool,
}

struct Running {
    job: Job,
    params: Params,
    /// The hint that is shown.
    hint: Option<Hint>,
}

/// The widget of one parameter.
enum Field {
    Prompt(TextArea),
    Model(Chooser),
    Slider(Slider),
    Spinner(Spinner),
    Number(Entry),
}

/// What the line above the buttons tells.
enum Tone {
    Info,
    Success,
    Warning,
    Failure,
}

impl Window {
    fn new(document: Document, worker: Worker, folders: Vec<PathBuf>) -> Rc<Self> {
        let dialog = Dialog::new("Imagic Edit");
        let mut mnemonics = Mnemonics::default();
        let [stop, close, edit, browse, new_seed, advanced, reset] = BUTTONS.map(|label| mnemonics.mark(label));
        let stop = dialog.add_button(&stop, STOP);
        dialog.add_button(&close, CLOSE);
        let edit = dialog.add_button(&edit, EDIT);
        dialog.set_default(EDIT);

        let subject = Label::new(WIDTH);
        subject.set_text(&format!("Layer \u{201c}{}\u{201d} of {}", document.source.name(), document.image.name()));
        let (description, examples) = (Label::new(WIDTH).selectable(), Label::new(WIDTH));
        description.0.show_only_on_demand();
        examples.0.show_only_on_demand();
        let (browse, new_seed, reset) = (gtk::button(&browse), gtk::button(&new_seed), gtk::button(&reset));
        let fold = gtk::expander(&advanced);
        let (basic, columns) = (Form::new(8), [Form::new(8), Form::new(8)]);
        let column_length = PARAMS.iter().filter(|param| param.advanced).count().div_ceil(columns.len());
        let mut fields = Vec::new();
        for param in PARAMS {
            let folded = fields.iter().filter(|(before, _): &&(&Param, Field)| before.advanced).count();
            let form = if param.advanced { &columns[folded / column_length] } else { &basic };
            let label = mnemonics.mark(param.label) + ":";
            let field = match (param.id, param.domain) {
                ("prompt", _) => {
                    let area = TextArea::new(WIDTH, 80);
                    form.add(&label, &area.view, &area.frame);
                    form.add_below(&examples.0);
                    Field::Prompt(area)
                }
                ("model", _) => {
                    let known = models::list(&folders);
                    let chooser = Chooser::new(known.iter().map(|model| model.name.as_str()));
                    let row = gtk::horizontal();
                    row.pack_growing(&chooser.widget);
                    row.pack(&browse);
                    form.add(&label, &chooser.entry.0, &row);
                    form.add_below(&description.0);
                    Field::Model(chooser)
                }
                ("seed", Domain::Integer { min, max }) => {
                    let (spinner, row) = (Spinner::new(min, max), gtk::horizontal());
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
        advanced.set_border(gtk::BORDER);
        columns.iter().for_each(|column| advanced.pack_growing(&column.table));
        fold.add(&advanced);

        let (bar, icon, status, line) =
            (Bar::new(), Icon::new(), Label::new(WIDTH + 60).selectable(), gtk::horizontal());
        // The icon is as high as two lines, so that the window keeps its size with most messages; longer ones make it grow.
        icon.0.set_size(-1, 36);
        status.0.set_size(WIDTH + 60, -1);
        line.pack(&icon.0);
        line.pack_growing(&status.0);
        let all = gtk::vertical();
        all.set_border(gtk::BORDER);
        all.pack(&subject.0);
        all.pack(&basic.table);
        all.pack(&fold);
        all.pack(&bar.0);
        all.pack(&line);
        dialog.content().pack_growing(&all);

        let state = RefCell::new(State { document, running: None, model: None, closing: false });
        let window = Rc::new(Self {
            dialog,
            fields,
            description,
            examples,
            bar,
            icon,
            status,
            edit,
            stop,
            worker,
            folders,
            state,
        });
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
                Response::Button(EDIT) => window.start(),
                Response::Button(STOP) => {
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
        let of_image = self.state.borrow().document.history().last_params();
        let text = if of_image.is_some() { report::KNOWN_IMAGE } else { report::FIRST_EDIT };
        self.tell(&Tone::Info, text);
        let params = of_image.or_else(gimp::last_values).unwrap_or_else(|| {
            models::find(BUILTIN_MODEL, &self.folders).and_then(|model| model.params()).unwrap_or_else(|error| {
                self.tell(&Tone::Failure, &sentence(&error.to_string()));
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
        if self.state.borrow().running.is_some() {
            return;
        }
        let submitted = self.read().and_then(|params| {
            let request = host::request(&mut self.state.borrow_mut().document, &params, &self.folders)?;
            Ok(Running { job: self.worker.submit(request), params, hint: None })
        });
        match submitted {
            Ok(running) => {
                self.state.borrow_mut().running = Some(running);
                self.tell(&Tone::Info, "GIMP and this window stay usable; changes here count for the next edit.");
                self.bar.set(0.0, "Starting");
                self.set_busy(true);
                let window = Rc::downgrade(self);
                self.dialog.repeat(POLL, move || window.upgrade().is_some_and(|window| window.look_at_job()));
            }
            Err(error) => {
                self.bar.set(0.0, "");
                self.tell(&Tone::Failure, &sentence(&error.to_string()));
            }
        }
    }

    /// Shows how the edit goes; `false` when there is no more to see.
    fn look_at_job(&self) -> bool {
        let polled = match &mut self.state.borrow_mut().running {
            Some(running) => running.job.poll(),
            None => return false,
        };
        match polled {
            JobState::Running(progress) => {
                if let Some(progress) = progress {
                    self.bar.set(progress.fraction.into(), &progress_text(&progress));
                    self.show_hint(progress.hint);
                }
                return true;
            }
            JobState::Ended(result) => {
                let ended = self.state.borrow_mut().running.take();
                let params = ended.expect("it was there when it was polled").params;
                let inserted = result.and_then(|edit| {
                    let document = &mut self.state.borrow_mut().document;
                    document.insert_layer(&edit, &params)?;
                    let kept = gimp::remember_values(&params);
                    let unkept =
                        kept.err().map(|error| format!("\nThe settings are not kept: {error}.")).unwrap_or_default();
                    let place = document.note.map(|note| format!("\n{note}")).unwrap_or_default();
                    let tone = if edit.hint.is_some() { Tone::Warning } else { Tone::Success };
                    Ok((tone, summary(&edit) + &place + &unkept))
                });
                self.set_busy(false);
                match inserted {
                    Ok((tone, text)) => {
                        self.bar.set(1.0, "Done");
                        self.tell(&tone, &text);
                    }
                    Err(Error::Cancelled) => {
                        self.bar.set(0.0, "");
                        self.tell(&Tone::Info, report::STOPPED);
                    }
                    Err(error) => {
                        self.bar.set(0.0, "");
                        self.tell(&Tone::Failure, &sentence(&error.to_string()));
                    }
                }
            }
        }
        if self.state.borrow().closing {
            self.dialog.quit_main_loop();
        }
        false
    }

    /// Shows the running edit's hint when it comes; later texts, as on stopping, take its place.
    fn show_hint(&self, hint: Option<Hint>) {
        let before = match &mut self.state.borrow_mut().running {
            Some(running) => std::mem::replace(&mut running.hint, hint),
            None => return,
        };
        if let Some(hint) = hint.filter(|_| hint != before) {
            self.tell(&Tone::Warning, &sentence(&hint.to_string()));
        }
    }

    /// `false` when nothing runs.
    fn stop(&self) -> bool {
        let asked = self.state.borrow().running.as_ref().map(|running| running.job.cancel()).is_some();
        if asked {
            self.stop.set_sensitive(false);
            self.tell(&Tone::Info, report::STOPPING);
        }
        asked
    }

    /// At once for the eye; a running edit ends first, at its next step.
    fn close(&self) {
        self.state.borrow_mut().closing = true;
        self.dialog.hide();
        if !self.stop() {
            self.dialog.quit_main_loop();
        }
    }

    fn set_busy(&self, busy: bool) {
        self.edit.set_sensitive(!busy);
        self.stop.set_sensitive(busy);
    }

    fn tell(&self, tone: &Tone, text: &str) {
        let icon: &CStr = match tone {
            Tone::Info => c"gtk-dialog-info",
            Tone::Success => c"gtk-apply",
            Tone::Warning => c"gtk-dialog-warning",
            Tone::Failure => c"gtk-dialog-error",
        };
        self.icon.set(icon);
        self.status.set_text(text);
    }

    fn model_changed(&self) {
        let Some(Field::Model(chooser)) = self.field("model") else { return };
        let found = models::find(chooser.entry.text().trim(), &self.folders);
        let (description, examples) = match &found {
            Ok(model) => {
                let others = if model.name == BUILTIN_MODEL { report::OTHER_MODELS } else { "" };
                (model.description.clone() + others, model.examples.as_slice())
            }
            Err(error) => (sentence(&error.to_string()), [].as_slice()),
        };
        self.description.set_text(&description);
        self.description.0.set_visible(!description.is_empty());
        let link = |(number, text): (usize, &String)| format!("<a href=\"{number}\">{}</a>", gtk::escaped(text));
        let links: Vec<_> = examples.iter().take(EXAMPLES).enumerate().map(link).collect();
        self.examples.set_markup(&format!("For example {}", links.join(", ")));
        self.examples.0.set_visible(!links.is_empty());
        let before = self.state.borrow().model.as_ref().map(|model| model.folder.clone());
        // While a path is typed, its beginnings are folders, too.
        let Some(model) = found.ok().filter(|model| model.folder.join("unet").is_dir()) else { return };
        let is_new = before != Some(model.folder.clone());
        self.state.borrow_mut().model = Some(model);
        if is_new {
            self.apply_preset();
        }
    }

    /// Everything but prompt, model and seed as the model's preset says.
    fn apply_preset(&self) {
        let Some(preset) = self.state.borrow().model.as_ref().map(Model::params) else { return };
        match preset {
            Ok(preset) => {
                for (param, field) in &self.fields {
                    if !["prompt", "model", "seed"].contains(&param.id) {
                        field.set_value(&preset.get(param.id).expect("a row of the table"));
                    }
                }
            }
            Err(error) => self.tell(&Tone::Failure, &sentence(&error.to_string())),
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
            // Short enough to read, remember and type.
            spinner.set_value((gimp::random_number() % 1_000_000) as u32);
        }
    }

    fn take_example(&self, number: usize) {
        let example = self.state.borrow().model.as_ref().and_then(|model| model.examples.get(number).cloned());
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
        }
    }

    fn set_tooltip(&self, help: &str) {
        match self {
            Self::Prompt(area) => area.view.set_tooltip(&format!("{help} Enter starts the edit.")),
            Self::Model(chooser) => chooser.entry.0.set_tooltip(help),
            Self::Spinner(spinner) => spinner.0.set_tooltip(help),
            Self::Number(entry) => entry.0.set_tooltip(help),
            // Got its help when it was made.
            Self::Slider(_) => {}
        }
    }
}

/// Gives every label of the window its own key, as long as the label has a letter that is free.
#[derive(Default)]
struct Mnemonics(Vec<char>);

impl Mnemonics {
    /// `label` with `_` before its key: the first free letter, beginnings of words first.
    fn mark(&mut self, label: &str) -> String {
        let letters = || label.char_indices().filter(|(_, letter)| letter.is_ascii_alphabetic());
        let begins_word = |&(at, _): &(usize, char)| !label[..at].ends_with(|before: char| before.is_alphanumeric());
        let free = |(_, letter): &(usize, char)| !self.0.contains(&letter.to_ascii_uppercase());
        let Some((at, letter)) = letters().filter(begins_word).chain(letters()).find(free) else {
            return label.to_owned();
        };
        self.0.push(letter.to_ascii_uppercase());
        format!("{}_{}", &label[..at], &label[at..])
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
