//! The dialog of GIMP 3: its own procedure dialog, which makes a field for each argument and brings the buttons.

use super::config::{Config, property};
use crate::error::Result;
use crate::host::gimp::ffi::c_string;
use crate::host::gimp::form::{Form, Parts, Running, model_rows};
use crate::host::gimp::keys::Keys;
use crate::host::gimp::session::Session;
use crate::host::gimp::widgets::{Chooser, Dialog, Labels, TextArea, Widget};
use crate::host::gimp3_sys as sys;
use crate::host::words::{BROWSE, NEW_SEED};
use crate::params::{Domain, PARAMS, Param, Params};
use crate::text::{Text, text};
use serde_json::Value;
use std::cell::Cell;

pub const KEYS: Keys = Keys {
    // OK is later called Edit, but has its key when GIMP looks for double ones.
    of_gimp: &[
        &of_gimp("Help"),
        &of_gimp("Reset"),
        &of_gimp("Load Saved Settings"),
        &of_gimp("Save Settings"),
        &of_gimp("OK"),
    ],
    before_fields: &[&text!("Edit"), &NEW_SEED.label],
    after_fields: &[&text!("Stop"), &text!("Close"), &BROWSE.label, &text!("Advanced")],
};

/// A label that GIMP translates.
const fn of_gimp(label: &'static str) -> Text {
    Text { key: label, values: Vec::new() }
}

const EDIT: i32 = sys::GtkResponseType::GTK_RESPONSE_OK.0;
const CLOSE: i32 = sys::GtkResponseType::GTK_RESPONSE_CANCEL.0;
const HELP: i32 = sys::GtkResponseType::GTK_RESPONSE_HELP.0;

/// Largest upper limit of a number that needs many digits: learning rates.
const SMALL: f64 = 1.0;

/// Calls GIMP's dialog with live widgets and C strings that outlive the call.
macro_rules! gimp {
    ($function:ident($($argument:expr),*)) => {
        // SAFETY: pointers come from `Widget`s, which hold references, or from C strings of the caller, which are
        // copied; GTK checks each widget's type; a `Fields` exists only on GTK's thread.
        unsafe { sys::$function($($argument),*) }
    };
}

pub struct Fields {
    parts: Parts,
    config: Config,
    /// All labels: ours are as wide as those of GIMP's fields.
    labels: Labels,
    seed: Widget,
    /// The parameters of the last edit that gave a result.
    edited: Cell<Option<Params>>,
}

impl Fields {
    /// On GIMP's thread, once in a process.
    ///
    /// # Safety
    /// `procedure` is the one that runs, `config` its arguments.
    pub unsafe fn new(procedure: *mut sys::GimpProcedure, config: Config, session: &Session) -> Self {
        gimp!(gimp_ui_init(c"imagic-edit".as_ptr()));
        let (title, edit) = (c"Imagic Edit".as_ptr(), c_string(&KEYS.with_key(&text!("Edit"))));
        // SAFETY: the caller's promise; the text is copied.
        let dialog = Widget::own(unsafe { sys::gimp_procedure_dialog_new(procedure, config.object(), title) });
        gimp!(gimp_procedure_dialog_set_ok_label(dialog.as_ptr(), edit.as_ptr()));
        let prompt = TextArea::around(field(&dialog, "prompt", gimp!(gtk_text_view_get_type())));
        let model = Chooser::new(model_rows(session.models()));
        config.bind_text("model", &model.entry.0);
        let (seed, labels) = (field(&dialog, "seed", gimp!(gimp_label_spin_get_type())), Labels::new());
        labels.add(&Widget::own(gimp!(gimp_labeled_get_label(seed.as_ptr()))));
        let dialog = Dialog(dialog);
        let parts = Parts { content: dialog.content(), dialog, prompt, model };
        Self { parts, config, labels, seed, edited: Cell::new(None) }
    }

    fn set_button_sensitive(&self, response: i32, sensitive: bool) {
        gimp!(gtk_dialog_set_response_sensitive(self.parts.dialog.0.as_ptr(), response, sensitive.into()));
    }
}

/// The field that GIMP makes for the argument of parameter `id`.
fn field(dialog: &Widget, id: &str, kind: sys::GType) -> Widget {
    let name = property(id);
    Widget::own(gimp!(gimp_procedure_dialog_get_widget(dialog.as_ptr(), name.as_ptr(), kind)))
}

impl Form for Fields {
    fn parts(&self) -> &Parts {
        &self.parts
    }

    fn row(&self, param: &'static Param) -> Widget {
        // <gobject/gtype.h>: G_TYPE_NONE, GIMP's own choice, which has a label.
        const NONE: sys::GType = 1 << 2;
        let field = |kind| field(&self.parts.dialog.0, param.id, kind);
        match param.domain {
            _ if param.id == "seed" => self.seed.clone(),
            Domain::Real { max, .. } if max <= SMALL => {
                let spinner = field(gimp!(gimp_label_spin_get_type()));
                gimp!(gimp_label_spin_set_digits(spinner.as_ptr(), 8));
                gimp!(gimp_label_spin_set_increments(spinner.as_ptr(), 1e-5, 1e-3));
                spinner
            }
            Domain::Real { .. } if !param.advanced => field(gimp!(gimp_scale_entry_get_type())),
            Domain::Switch => field(gimp!(gtk_check_button_get_type())),
            // A list, or an entry.
            Domain::Choice { .. } | Domain::Text => field(NONE),
            Domain::Real { .. } | Domain::Integer { .. } => field(gimp!(gimp_label_spin_get_type())),
        }
    }

    fn label_for(&self, text: &str, target: &Widget) -> Widget {
        self.labels.label_for(text, target)
    }

    fn with_key(&self, label: &Text) -> String {
        KEYS.with_key(label)
    }

    fn value(&self, param: &Param) -> Value {
        self.config.get(param)
    }

    fn set(&self, param: &Param, value: &Value) {
        self.config.set(param, value);
    }

    /// Also when GIMP's dialog resets the arguments or loads saved ones.
    fn connect_changed(&self, param: &Param, body: Box<dyn Fn()>) {
        self.config.connect_changed(param, body);
    }

    /// The arguments are those of the last edit.
    fn is_filled_by_gimp(&self) -> bool {
        true
    }

    fn keep(&self, params: &Params) -> Result<()> {
        self.edited.set(Some(params.clone()));
        Ok(())
    }

    /// GIMP's dialog would end with these; its own buttons and the closing of the window go on to it.
    fn connect_buttons(&self, edit: Box<dyn Fn()>, stop: Box<dyn Fn() -> bool>, help: Box<dyn Fn()>) {
        self.parts.dialog.connect_response(move |response| {
            match response {
                EDIT => edit(),
                HELP => help(),
                _ => {}
            }
            [EDIT, HELP].contains(&response) || response == CLOSE && stop()
        });
    }

    fn allow_edit(&self, can_start: bool) {
        self.set_button_sensitive(EDIT, can_start);
    }

    fn name_edit(&self, label: &Text) {
        let label = c_string(&KEYS.with_key_of(label, &text!("Edit")));
        let button = gimp!(gtk_dialog_get_widget_for_response(self.parts.dialog.0.as_ptr(), EDIT));
        gimp!(gtk_button_set_label(button.cast(), label.as_ptr()));
    }

    /// While an edit runs, the button that closes stops it.
    fn show_running(&self, running: Running) {
        self.set_button_sensitive(CLOSE, running != Running::Stopping);
        let label = c_string(&KEYS.with_key(&if running == Running::Nothing { text!("Close") } else { text!("Stop") }));
        let button = gimp!(gtk_dialog_get_widget_for_response(self.parts.dialog.0.as_ptr(), CLOSE));
        gimp!(gtk_button_set_label(button.cast(), label.as_ptr()));
    }

    /// Ends with a response that nobody has used up.
    fn run(&self) {
        gimp!(gimp_procedure_dialog_run(self.parts.dialog.0.as_ptr()));
    }

    /// GIMP keeps the arguments as the last values: those of the last edit, not what was changed after it.
    fn finish(&self) {
        if let Some(params) = self.edited.take() {
            for param in PARAMS {
                self.config.set(param, &params.get(param.id).expect("a row of the table"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::language::Language;

    #[test]
    fn no_two_texts_share_a_key_and_what_is_always_shown_has_one() {
        KEYS.check();
        let marked: Vec<_> = KEYS.of_gimp.iter().map(|label| KEYS.with_key_in(&Language::default(), label)).collect();
        assert_eq!(marked, ["_Help", "_Reset", "_Load Saved Settings", "_Save Settings", "_OK"]);
    }
}
