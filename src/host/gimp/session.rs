//! The edits of one dialog, one after the other in the background, and what the dialog says of them; knows no widget.
#![forbid(unsafe_code)]

use super::document::Document;
use crate::error::{Error, Hint, Result};
use crate::host::report::{self, progress_text, sentence, summary};
use crate::host::{self, Host};
use crate::job::{Job, JobState, Worker};
use crate::models::{self, Model};
use crate::params::{BUILTIN_MODEL, Params};
use std::path::PathBuf;

/// Example prompts that are offered; more would push the fields below away.
const EXAMPLES: usize = 3;

pub struct Session {
    pub document: Document,
    pub folders: Vec<PathBuf>,
    worker: Worker,
    running: Option<Running>,
    /// The model that was chosen last and can be used.
    model: Option<Model>,
}

struct Running {
    job: Job,
    params: Params,
    /// The hint that is shown.
    hint: Option<Hint>,
}

/// What the line above the buttons tells.
pub struct Message {
    pub tone: Tone,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Info,
    Success,
    Warning,
    Failure,
}

/// What a look at the running edit found.
pub struct Look {
    /// Fraction and text of the progress bar, if there is something new.
    pub bar: Option<(f64, String)>,
    pub message: Option<Message>,
    pub ended: bool,
}

/// What the dialog says of the chosen model.
pub struct Choice {
    pub description: String,
    /// The first example prompts, for links.
    pub examples: Vec<String>,
    /// Whether another model than before is chosen, so that its preset is to be applied.
    pub is_new: bool,
}

impl Session {
    pub fn new(document: Document, worker: Worker, folders: Vec<PathBuf>) -> Self {
        Self { document, folders, worker, running: None, model: None }
    }

    /// What the layer and its image are called.
    pub fn subject(&self) -> String {
        format!("Layer \u{201c}{}\u{201d} of {}", self.document.source.name(), self.document.image.name())
    }

    /// What the dialog says when it opens; `known` when it shows the values of this image's last edit.
    pub fn greeting(known: bool) -> Message {
        Message::info(if known { report::KNOWN_IMAGE } else { report::FIRST_EDIT })
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Starts an edit of the layer as it is now.
    pub fn start(&mut self, params: Params) -> Result<Message> {
        let request = host::request(&mut self.document, &params, &self.folders)?;
        self.running = Some(Running { job: self.worker.submit(request), params, hint: None });
        Ok(Message::info("GIMP and this window stay usable; changes here count for the next edit."))
    }

    /// Looks at the running edit and inserts its result, for whose parameters `keep` makes the next dialog start with
    /// them; `None` when nothing runs.
    pub fn look(&mut self, keep: impl FnOnce(&Params) -> Result<()>) -> Option<Look> {
        let running = self.running.as_mut()?;
        let result = match running.job.poll() {
            JobState::Running(None) => return Some(Look { bar: None, message: None, ended: false }),
            JobState::Running(Some(progress)) => {
                let bar = Some((progress.fraction.into(), progress_text(&progress)));
                // Shown when it comes; later texts, as on stopping, take its place.
                let before = std::mem::replace(&mut running.hint, progress.hint);
                let hint = progress.hint.filter(|_| progress.hint != before);
                let message = hint.map(|hint| Message { tone: Tone::Warning, text: sentence(&hint.to_string()) });
                return Some(Look { bar, message, ended: false });
            }
            JobState::Ended(result) => result,
        };
        let params = self.running.take()?.params;
        let inserted = result.and_then(|edit| {
            self.document.insert_layer(&edit, &params)?;
            let unkept = keep(&params).err().map(|error| format!("\nThe settings are not kept: {error}."));
            let place = self.document.note.map(|note| format!("\n{note}"));
            let tone = if edit.hint.is_some() { Tone::Warning } else { Tone::Success };
            let text = summary(&edit) + &place.unwrap_or_default() + &unkept.unwrap_or_default();
            Ok(Message { tone, text })
        });
        let (bar, message) = match inserted {
            Ok(message) => ((1.0, "Done".to_owned()), message),
            Err(Error::Cancelled) => ((0.0, String::new()), Message::info(report::STOPPED)),
            Err(error) => ((0.0, String::new()), Message::failure(&error)),
        };
        Some(Look { bar: Some(bar), message: Some(message), ended: true })
    }

    /// Asks the running edit to stop at its next step; `None` when nothing runs.
    pub fn stop(&mut self) -> Option<Message> {
        self.running.as_ref()?.job.cancel();
        Some(Message::info(report::STOPPING))
    }

    /// Looks up the model that the user has named.
    pub fn choose_model(&mut self, name: &str) -> Choice {
        let model = match models::find(name.trim(), &self.folders) {
            Ok(model) => model,
            Err(error) => {
                return Choice { description: sentence(&error.to_string()), examples: Vec::new(), is_new: false };
            }
        };
        let others = if model.name == BUILTIN_MODEL { report::OTHER_MODELS } else { "" };
        let description = model.description.clone() + others;
        let examples = model.examples.iter().take(EXAMPLES).cloned().collect();
        // While a path is typed, its beginnings are folders, too.
        let usable = model.folder.join("unet").is_dir();
        let is_new = usable && self.model.as_ref().is_none_or(|before| before.folder != model.folder);
        if usable {
            self.model = Some(model);
        }
        Choice { description, examples, is_new }
    }

    /// The chosen model with its preset.
    pub fn preset(&self) -> Option<Result<Params>> {
        self.model.as_ref().map(Model::params)
    }

    /// Example prompt of the chosen model.
    pub fn example(&self, number: usize) -> Option<String> {
        self.model.as_ref()?.examples.get(number).cloned()
    }
}

impl Choice {
    /// The examples as markup with links, which are their numbers.
    pub fn example_links(&self) -> String {
        let link = |(number, text): (usize, &String)| format!("<a href=\"{number}\">{}</a>", escaped(text));
        let links: Vec<_> = self.examples.iter().enumerate().map(link).collect();
        format!("For example {}", links.join(", "))
    }
}

impl Message {
    pub fn info(text: &str) -> Self {
        Self { tone: Tone::Info, text: text.to_owned() }
    }

    pub fn failure(error: &Error) -> Self {
        Self { tone: Tone::Failure, text: sentence(&error.to_string()) }
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
        let choice = Choice { description: String::new(), examples, is_new: true };
        assert_eq!(
            choice.example_links(),
            "For example <a href=\"0\">a &lt;b&gt; &amp; c</a>, <a href=\"1\">a dog</a>"
        );
    }
}
