//! The contract with the dialog of one GIMP version: the fields of the parameters and the buttons below. Knows no edit.
#![forbid(unsafe_code)]

use super::widgets::{Chooser, Dialog, Row, TextArea, Widget};
use crate::catalog::Entry;
use crate::error::Result;
use crate::host::words;
use crate::params::{Param, Params};
use crate::text::Text;
use serde_json::Value;

/// The list of models to choose from.
pub fn model_rows(models: &[Entry]) -> Vec<Row> {
    let row = |entry: &Entry| {
        let name = &entry.model.name;
        let problem = entry.problem().map(|problem| words::unusable(name.into(), problem.clone().into()));
        Row { text: name.clone(), problem }
    };
    models.iter().map(row).collect()
}

/// Whether something runs that can be stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Running {
    Nothing,
    Something,
    /// It was asked to stop and ends soon.
    Stopping,
}

/// What every dialog has.
pub struct Parts {
    pub dialog: Dialog,
    /// What the layout goes into.
    pub content: Widget,
    /// The fields of the parameters `prompt` and `model`.
    pub prompt: TextArea,
    pub model: Chooser,
}

/// The fields and the buttons of a dialog that has no other content yet.
pub trait Form {
    fn parts(&self) -> &Parts;
    /// A row with label and field of any other parameter; asked for once.
    fn row(&self, param: &'static Param) -> Widget;
    /// A label with a mnemonic that leads to `target`, as wide as those of the rows.
    fn label_for(&self, text: &str, target: &Widget) -> Widget;
    /// `label` in the user's language with `_` before its key.
    fn with_key(&self, label: &Text) -> String;

    /// What the field of a parameter says.
    fn value(&self, param: &Param) -> Value;
    fn set(&self, param: &Param, value: &Value);
    /// Calls `body` when what the field says has changed, whoever changed it.
    fn connect_changed(&self, param: &Param, body: Box<dyn Fn()>);
    /// Whether GIMP fills the fields, when the dialog opens and when the user loads settings.
    fn is_filled_by_gimp(&self) -> bool;
    /// Makes the next dialog start with these settings of an edit.
    fn keep(&self, params: &Params) -> Result<()>;

    /// `stop` says whether something ran.
    fn connect_buttons(&self, edit: Box<dyn Fn()>, stop: Box<dyn Fn() -> bool>, help: Box<dyn Fn()>);
    fn allow_edit(&self, can_start: bool);
    /// What the button that edits will do.
    fn name_edit(&self, label: &Text);
    fn show_running(&self, running: Running);
    /// Shows the dialog until the user closes it.
    fn run(&self);
    /// After the last edit has ended.
    fn finish(&self) {}
}
