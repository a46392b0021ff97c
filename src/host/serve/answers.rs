//! What `serve` tells its host, in the user's language: the greeting, and an answer to each question.
#![forbid(unsafe_code)]

use super::protocol::PROTOCOL;
use crate::catalog::{self, Places};
use crate::engine::budget::cost::Estimate;
use crate::engine::request::{Edit, Progress};
use crate::host::installed::help_page;
use crate::host::language::{language, translate};
use crate::host::last_values::last_values;
use crate::host::policy;
use crate::host::wording::{TextRoom, remarks};
use crate::host::{report, words};
use crate::image::LayerImage;
use crate::params::{BUILTIN_MODEL, Params};
use crate::text::Text;
use serde_json::{Map, Value, json};

/// What comes first: all that a dialog needs.
pub fn hello(places: &Places) -> Value {
    let models = report::models_report(places, Some(policy::LOOKING), translate);
    json!({
        "event": "hello",
        "protocol": PROTOCOL,
        "version": env!("CARGO_PKG_VERSION"),
        "parameters": report::parameters_report(translate)["parameters"],
        "models": models["models"],
        "default_model": models["default"],
        "builtin_model": BUILTIN_MODEL,
        "last_values": last_values().map(|params| params.to_json()),
        "policy": policy(),
        "texts": texts(has_more(&models)),
        "help": help_page().map(|page| page.to_string_lossy().into_owned()),
        "translations": language().entries(),
    })
}

/// All models that can be named.
pub fn models(places: &Places) -> Value {
    json!({ "event": "models", "models": report::models_report(places, None, translate)["models"] })
}

/// Whether there is a model for photographs, as [`Entry::is_for_photographs`] has it.
///
/// [`Entry::is_for_photographs`]: crate::catalog::Entry::is_for_photographs
fn has_more(models: &Value) -> bool {
    let is_other =
        |model: &Value| model["name"] != BUILTIN_MODEL && model["photographs"] == true && model["problem"].is_null();
    models["models"].as_array().is_some_and(|models| models.iter().any(is_other))
}

/// What Krita's dialog does as GIMP's do.
fn policy() -> Value {
    json!({
        "strengths": policy::STRENGTHS,
        "seeds": policy::SEEDS,
        "new_seeds": policy::NEW_SEEDS,
        "previews": policy::PREVIEWS,
        "shown_side": policy::SHOWN_SIDE,
        "at_once": policy::AT_ONCE,
        "pause": policy::PAUSE.as_millis() as u64,
        "averaged": policy::AVERAGED,
        "remembered_runs": policy::REMEMBERED_RUNS,
        "name_length": policy::NAME_LENGTH,
    })
}

/// What Krita's dialog says as GIMP's do.
fn texts(has_more_models: bool) -> Value {
    let button = |button: &&words::Button| {
        let texts = json!({ "label": translate(&button.label), "tooltip": translate(&button.tooltip) });
        (button.id.to_owned(), texts)
    };
    let sentences = words::sentences(has_more_models).map(|(id, text)| (id.to_owned(), translate(&text).into()));
    let buttons = ("buttons".to_owned(), words::BUTTONS.iter().map(button).collect::<Map<_, _>>().into());
    sentences.into_iter().chain([buttons]).collect::<Map<_, _>>().into()
}

/// What is known of the model that is called `name`, or why it cannot be used.
pub fn named_model(name: &str, places: &Places) -> Value {
    match catalog::look_up(name, places) {
        Ok(found) => json!({ "event": "model", "name": name, "model": report::model_report(&found, translate) }),
        Err(error) => {
            let message = translate(&error.text().sentence());
            json!({ "event": "model", "name": name, "model": null, "message": message })
        }
    }
}

/// What is to be said of a target text for the model that is called `name`.
pub fn of_text(text: &str, name: &str, places: &Places, room: &mut TextRoom) -> Value {
    let model = catalog::find(name, places).ok();
    let remarks = model.iter().flat_map(|model| remarks(text, model)).map(|remark| translate(&remark));
    let length = model.as_ref().and_then(|model| room.of(text, model)).map(|(length, _)| translate(&length));
    json!({ "event": "text", "text": text, "remarks": remarks.collect::<Vec<_>>(), "length": length })
}

pub fn progress(job: u64, progress: &Progress) -> Value {
    json!({
        "event": "progress",
        "job": job,
        "stage": report::stage_id(progress.stage),
        "step": progress.step,
        "steps": progress.steps,
        "loss": progress.loss,
        "fraction": progress.fraction,
        "seconds_left": progress.seconds_left,
        "text": translate(&report::progress_text(progress)),
        "hint": progress.hint.map(|hint| translate(&hint.text().sentence())),
    })
}

/// `door` says why an edit by the model makes no sense, `seen` what it sees of the picture.
pub fn estimate(job: u64, estimate: &Estimate, [door, seen]: [Option<Text>; 2]) -> Value {
    json!({
        "event": "estimate",
        "job": job,
        "tuned": estimate.tuned,
        "goes_on": estimate.goes_on.is_some(),
        "steps": estimate.goes_on,
        "seconds": estimate.seconds,
        "text": translate(&seen.into_iter().fold(report::cost_text(estimate), Text::and)),
        "door": door.as_ref().map(translate),
    })
}

/// A finished edit of `source`, whose `shown` pixels follow in so many `bytes`.
pub fn done(job: u64, edit: &Edit, params: &Params, source: &LayerImage, shown: &LayerImage, bytes: usize) -> Value {
    json!({
        "event": "done",
        "job": job,
        "name": report::layer_name(params),
        "summary": translate(&report::summary(edit)),
        "report": report::edit_report(edit, source, params),
        "width": shown.width(),
        "height": shown.height(),
        "bytes": bytes,
    })
}

/// What went wrong with `job`, or with a message that names none.
pub fn complaint(job: Option<u64>, reason: Text) -> Value {
    json!({ "event": "failed", "job": job, "message": translate(&reason.sentence()) })
}
