//! The dialog of GIMP 2.10: our own fields from the table of parameters, and three buttons.

use crate::error::Result;
use crate::host::gimp::ffi::c_string;
use crate::host::gimp::form::{Form, Parts, Running, model_rows};
use crate::host::gimp::keys::Keys;
use crate::host::gimp::session::Session;
use crate::host::gimp::widgets::{
    self, BORDER, Choices, Chooser, Dialog, Entry, Labels, SPACING, Spinner, TextArea, Tick, Widget,
};
use crate::host::language::translate;
use crate::host::last_values::remember_values;
use crate::host::report::help;
use crate::host::words::{self, BROWSE, NEW_SEED};
use crate::host::{gimp_sys as shared, gimp2_sys as sys};
use crate::params::{Domain, PARAMS, Param, Params};
use crate::text::{Text, text};
use serde_json::Value;
use std::ffi::c_char;
use std::ptr::{null, null_mut};

const EDIT: i32 = 1;
const STOP: i32 = 2;
const CLOSE: i32 = 3;
const HELP: i32 = 4;

const KEYS: Keys = Keys {
    of_gimp: &[],
    before_fields: &[
        &text!("Stop"),
        &text!("Close"),
        &text!("Edit"),
        &BROWSE.label,
        &NEW_SEED.label,
        &text!("Advanced"),
    ],
    after_fields: &[],
};

pub struct Fields {
    parts: Parts,
    edit: Widget,
    stop: Widget,
    /// In the order of the table.
    fields: Vec<Field>,
    /// Labels of the fields that are always shown, and of the advanced ones.
    labels: [Labels; 2],
}

/// The widget of one parameter.
enum Field {
    Prompt(TextArea),
    Model(Chooser),
    Slider(Slider),
    Spinner(Spinner),
    Text(Entry),
    Number(Entry),
    Switch(Tick),
    Choice(Choices),
}

impl Fields {
    /// On GIMP's thread, once in a process.
    pub fn new(session: &Session) -> Self {
        // SAFETY: the name is a static C string; GTK has no widget yet.
        unsafe { sys::gimp_ui_init(c"imagic-edit".as_ptr(), 0) };
        let dialog = dialog("Imagic Edit");
        let [_, stop, _, edit] =
            [(words::HELP, HELP), (text!("Stop"), STOP), (text!("Close"), CLOSE), (text!("Edit"), EDIT)]
                .map(|(label, number)| dialog.add_button(&KEYS.with_key(&label), number));
        dialog.set_default(EDIT);
        let content = widgets::vertical();
        content.set_border(BORDER);
        dialog.content().pack_growing(&content);
        let (prompt, model) = (TextArea::new(), Chooser::new(model_rows(session.models())));
        let field = |param: &Param| match (param.id, param.domain) {
            ("prompt", _) => Field::Prompt(prompt.clone()),
            ("model", _) => Field::Model(model.clone()),
            (_, Domain::Real { min, max }) if !param.advanced => Field::Slider(Slider::new(param, [min, max])),
            (_, Domain::Integer { min, max }) => Field::Spinner(Spinner::new(min, max)),
            // Its text is its label.
            (_, Domain::Switch) => Field::Switch(Tick::new(&KEYS.with_key(&param.label))),
            (_, Domain::Choice { options }) => Field::Choice(Choices::new(options)),
            (_, Domain::Text) => Field::Text(Entry::new()),
            (_, Domain::Real { .. }) => Field::Number(Entry::new()),
        };
        let fields = PARAMS.iter().map(field).collect();
        let parts = Parts { dialog, content, prompt, model };
        Self { parts, edit, stop, fields, labels: [Labels::new(), Labels::new()] }
    }

    fn field(&self, param: &Param) -> &Field {
        let at = PARAMS.iter().position(|row| row.id == param.id);
        &self.fields[at.expect("a row of the table")]
    }
}

impl Form for Fields {
    fn parts(&self) -> &Parts {
        &self.parts
    }

    fn row(&self, param: &'static Param) -> Widget {
        let (labels, text) = (&self.labels[usize::from(param.advanced)], KEYS.with_key(&param.label) + ":");
        let field = match self.field(param) {
            Field::Slider(slider) => {
                labels.add(&slider.label());
                return slider.row.clone();
            }
            Field::Switch(tick) => {
                tick.0.set_tooltip(&help(param));
                return tick.0.clone();
            }
            Field::Prompt(area) => &area.view,
            Field::Model(chooser) => &chooser.widget,
            Field::Spinner(spinner) => &spinner.0,
            Field::Text(entry) | Field::Number(entry) => &entry.0,
            Field::Choice(choices) => &choices.list.widget,
        };
        field.set_tooltip(&help(param));
        let row = widgets::horizontal();
        row.pack(&labels.label_for(&text, field));
        row.pack_growing(field);
        row
    }

    fn label_for(&self, text: &str, target: &Widget) -> Widget {
        self.labels[0].label_for(&format!("{text}:"), target)
    }

    fn with_key(&self, label: &Text) -> String {
        KEYS.with_key(label)
    }

    fn value(&self, param: &Param) -> Value {
        match self.field(param) {
            Field::Prompt(area) => area.text().into(),
            Field::Model(chooser) => chooser.entry.text().trim().into(),
            // The slider shows two digits; the third hides the noise of binary numbers.
            Field::Slider(slider) => ((slider.value() * 1000.0).round() / 1000.0).into(),
            Field::Spinner(spinner) => spinner.value().into(),
            Field::Text(entry) => entry.text().trim().into(),
            Field::Number(entry) => entry.text().trim().replace(',', ".").into(),
            Field::Switch(tick) => tick.is_on().into(),
            Field::Choice(choices) => choices.name().into(),
        }
    }

    fn set(&self, param: &Param, value: &Value) {
        let text = value.as_str().unwrap_or_default();
        match self.field(param) {
            Field::Prompt(area) => area.set_text(text),
            Field::Model(chooser) => chooser.entry.set_text(text),
            Field::Slider(slider) => slider.set_value(value.as_f64().unwrap_or_default()),
            Field::Spinner(spinner) => spinner.set_value(value.as_u64().unwrap_or_default() as u32),
            Field::Text(entry) => entry.set_text(text),
            Field::Number(entry) => entry.set_text(&format!("{:?}", value.as_f64().unwrap_or_default())),
            Field::Switch(tick) => tick.set(value.as_bool().unwrap_or_default()),
            Field::Choice(choices) => choices.choose(text),
        }
    }

    fn connect_changed(&self, param: &Param, body: Box<dyn Fn()>) {
        match self.field(param) {
            Field::Prompt(area) => area.connect_changed(body),
            Field::Model(chooser) => chooser.entry.0.connect(c"changed", body),
            Field::Slider(slider) => slider.adjustment.connect(c"value-changed", body),
            Field::Spinner(spinner) => spinner.0.connect(c"value-changed", body),
            Field::Text(entry) | Field::Number(entry) => entry.0.connect(c"changed", body),
            Field::Switch(tick) => tick.0.connect(c"toggled", body),
            Field::Choice(choices) => choices.list.widget.connect(c"changed", body),
        }
    }

    fn is_filled_by_gimp(&self) -> bool {
        false
    }

    fn keep(&self, params: &Params) -> Result<()> {
        remember_values(params)
    }

    fn connect_buttons(&self, edit: Box<dyn Fn()>, stop: Box<dyn Fn() -> bool>, help: Box<dyn Fn()>) {
        self.parts.dialog.connect_response(move |response| {
            match response {
                EDIT => edit(),
                STOP => drop(stop()),
                HELP => help(),
                // SAFETY: the dialog lives in the main loop that `run` has started.
                _ => unsafe { sys::gtk_main_quit() },
            }
            false
        });
    }

    fn allow_edit(&self, can_start: bool) {
        self.edit.set_sensitive(can_start);
    }

    fn name_edit(&self, label: &Text) {
        let label = c_string(&KEYS.with_key_of(label, &text!("Edit")));
        // SAFETY: the button is live; the text is copied.
        unsafe { sys::gtk_button_set_label(self.edit.as_ptr(), label.as_ptr()) };
    }

    fn show_running(&self, running: Running) {
        self.stop.set_sensitive(running == Running::Something);
    }

    fn run(&self) {
        self.parts.dialog.0.show_all();
        // A page of tabs gives nothing the focus before it is shown.
        self.parts.prompt.view.grab_focus();
        // SAFETY: `gimp_ui_init` has prepared GTK, on this thread.
        unsafe { sys::gtk_main() };
    }
}

/// A dialog that GIMP's windows do not cover.
fn dialog(title: &str) -> Dialog {
    let title = c_string(title);
    // SAFETY: the strings are copied; no parent, no help function; the list of buttons ends at once.
    let dialog = Widget::own(unsafe {
        let (role, end) = (c"imagic-edit", null::<c_char>());
        sys::gimp_dialog_new()(title.as_ptr(), role.as_ptr(), null_mut(), sys::GtkDialogFlags(0), None, null(), end)
    });
    // SAFETY: the dialog is live.
    unsafe { sys::gimp_window_set_transient(dialog.as_ptr()) };
    Dialog(dialog)
}

/// GIMP's slider with its label and a number field.
struct Slider {
    row: Widget,
    adjustment: Widget,
}

impl Slider {
    fn new(param: &Param, [min, max]: [f64; 2]) -> Self {
        const STEP: f64 = 0.05;
        let (label, help) = (c_string(&(KEYS.with_key(&param.label) + ":")), c_string(&translate(&help(param))));
        // SAFETY: the table is live; the texts are copied.
        unsafe {
            let row = Widget::own(sys::gtk_table_new(1, 3, 0));
            sys::gtk_table_set_col_spacings(row.as_ptr(), SPACING as u32);
            let adjustment = Widget::own(sys::gimp_scale_entry_new(
                row.as_ptr(),
                0,
                0,
                label.as_ptr(),
                160,
                6,
                min,
                min,
                max,
                STEP,
                STEP * 2.0,
                2,
                1,
                0.0,
                0.0,
                help.as_ptr(),
                null(),
            ));
            Self { row, adjustment }
        }
    }

    fn label(&self) -> Widget {
        // SAFETY: <libgimpwidgets/gimpwidgets.h>, GIMP_SCALE_ENTRY_LABEL: the adjustment knows the label by this name.
        Widget::own(unsafe { sys::g_object_get_data(self.adjustment.as_ptr(), c"label".as_ptr()) })
    }

    fn value(&self) -> f64 {
        // SAFETY: the adjustment is live.
        unsafe { sys::gtk_adjustment_get_value(self.adjustment.as_ptr()) }
    }

    fn set_value(&self, value: f64) {
        // SAFETY: as above.
        unsafe { shared::gtk_adjustment_set_value(self.adjustment.as_ptr(), value) };
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_two_texts_share_a_key_and_what_is_always_shown_has_one() {
        super::KEYS.check();
    }
}
