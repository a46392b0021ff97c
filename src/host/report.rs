//! What hosts tell of edits, models and parameters, as texts for people and as JSON for programs; knows no host.
#![forbid(unsafe_code)]

use crate::catalog::{self, Entry, Origin, Places};
use crate::engine::about::About;
use crate::engine::budget::cost::Estimate;
use crate::engine::picture::pixels::working_size;
use crate::engine::request::{Edit, Progress, Stage, Tuned};
use crate::error::{Error, Hint, Result};
use crate::host::policy::NAME_LENGTH;
use crate::host::words;
use crate::image::LayerImage;
use crate::params::{Affects, BUILTIN_MODEL, DEFAULT_PRESET, Domain, PARAMS, Param, Params, Preset};
use crate::text::{Text, gigabytes, rounded, text};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// How texts become strings: for programs `Text::to_string`, which is English, for people in their language.
pub type Words = fn(&Text) -> String;

/// What a dialog says of a model: its description, which only the built-in one has in every language, or what it is;
/// why it cannot be used, or what is to be feared of it.
pub fn description(entry: &Entry) -> Text {
    let Entry { model, .. } = entry;
    if let Some(problem) = entry.problem() {
        return problem.clone().sentence();
    }
    if model.name != BUILTIN_MODEL {
        let own = (!model.description.is_empty()).then(|| Text::verbatim(&model.description));
        let about = || entry.about().map(about_text);
        let hint = entry.about().filter(|about| about.few_steps).map(|_| FEW_STEPS);
        return own.or_else(about).into_iter().chain(hint).reduce(Text::and).unwrap_or_default();
    }
    text!(
        "Small drawn scenes: one dog, cat, bird, person, ball, box, car, house, tree, balloon, cone or fish in one of \
         ten colors, on grass, beach, snow, desert, at night or at sunset."
    )
}

/// The hint on models that were distilled for sampling in a few steps, whose schedule is not that of the tuning.
pub const FEW_STEPS: Text = text!(
    "It was made for a few sampling steps, which the tuning does not suit: edits are likely to be poor. Better take \
     the model that it was made from."
);

/// What a model is, in one line.
pub fn about_text(about: &About) -> Text {
    let (family, side, size) = (&about.family, about.side, gigabytes(about.bytes));
    text!("{family}, {side} x {side} pixels, {size} GB on disk.", family, side, size)
}

/// Where a model comes from, for the command line and for programs.
pub fn origin_text(origin: &Origin) -> String {
    match origin {
        Origin::Own => "installed".to_owned(),
        Origin::Added => "added".to_owned(),
        Origin::Downloaded(from) => format!("downloaded from {from}"),
        Origin::Program(program) => format!("found in {program}"),
        Origin::Named => "named by its path".to_owned(),
    }
}

/// Everything about `edit`, of `source`, but its pixels: parameters, where the tuned model came from, seconds, the
/// seed of the version that was taken, losses, notes, hint.
pub fn edit_report(edit: &Edit, source: &LayerImage, params: &Params) -> Value {
    let losses = |losses: &[f32]| losses.iter().map(|&loss| short(loss)).collect::<Vec<_>>();
    json!({
        "width": source.width(),
        "height": source.height(),
        "params": params.to_json(),
        "tuned": edit.tuned,
        "cache_hit": edit.tuned != Tuned::Now,
        "seconds": stage_seconds(edit),
        "seed": edit.seed,
        "embedding_losses": losses(&edit.embedding_losses),
        "tuning_losses": losses(&edit.tuning_losses),
        "notes": edit.notes,
        "hint": edit.hint.as_ref().map(hint_report),
    })
}

/// A hint's numbers and its text.
fn hint_report(hint: &Hint) -> Value {
    let Hint::UnfamiliarPicture { psnr, familiar_psnr } = hint;
    json!({
        "kind": "unfamiliar_picture",
        "psnr": short(*psnr as f32),
        "familiar_psnr": familiar_psnr,
        "text": hint.to_string(),
    })
}

/// Seconds that each stage took, by its stable name.
pub fn stage_seconds(edit: &Edit) -> Map<String, Value> {
    edit.seconds.iter().map(|&(stage, seconds)| (stage_id(stage).into(), short(seconds))).collect()
}

/// A model, what it is, and the parameters that fit it: those of the default preset, and of every preset; `problem`
/// says why it cannot be used.
pub fn model_report(entry: &Entry, words: Words) -> Value {
    let (model, about) = (&entry.model, entry.about());
    let presets =
        Preset::ALL.iter().map(|&preset| Ok((preset.name().to_owned(), model.params(preset)?.to_json().into())));
    let presets = presets.collect::<Result<Map<String, Value>>>();
    let problem = entry.problem().cloned().or(presets.as_ref().err().map(Error::text));
    let presets = presets.unwrap_or_default();
    json!({
        "name": model.name,
        "path": model.path.to_string_lossy(),
        "origin": origin_text(&entry.origin),
        "family": about.map(|about| &about.family),
        "bytes": about.map(|about| about.bytes),
        "resolution": about.map(|about| about.side),
        "prediction_type": about.and_then(|about| about.prediction.as_ref()),
        "licence": about.and_then(|about| about.licence.as_ref()),
        "few_steps": about.map(|about| about.few_steps),
        "inpainting": about.map(|about| about.inpainting),
        "description": words(&description(entry)),
        "examples": model.examples,
        "photographs": model.draws_photographs,
        "params": presets.get(DEFAULT_PRESET.name()),
        "presets": presets,
        "problem": problem.map(|problem| words(&problem)),
    })
}

/// All models, as [`model_report`] tells of each, and which one counts where none is named.
pub fn models_report(places: &Places, patience: Option<Duration>, words: Words) -> Value {
    let models: Vec<Value> = catalog::table(places, patience).iter().map(|entry| model_report(entry, words)).collect();
    json!({ "models": models, "default": places.default_name() })
}

/// A parameter's help, and what a change of it costs.
pub fn help(param: &Param) -> Text {
    let cost = match param.affects {
        Affects::Parameters => text!("A change sets the advanced settings."),
        Affects::Tuning => text!("A change tunes the model anew."),
        Affects::Generation => text!("A change keeps the tuned model."),
        Affects::Nothing => return param.help.clone(),
    };
    param.help.clone().and(cost)
}

/// The table of parameters, for programs that build a dialog from it; defaults are the paper's.
pub fn parameters_report(words: Words) -> Value {
    let defaults = Params { preset: DEFAULT_PRESET, ..Params::paper() };
    let row = |param: &Param| {
        let option = |(name, label): &(&str, Text)| json!({ "name": name, "label": words(label) });
        let (kind, min, max, options) = match param.domain {
            Domain::Text => ("text", None, None, None),
            Domain::Integer { min, max } => ("integer", Some(json!(min)), Some(json!(max)), None),
            Domain::Real { min, max } => ("real", Some(json!(min)), Some(json!(max)), None),
            Domain::Switch => ("switch", None, None, None),
            Domain::Choice { options } => ("choice", None, None, Some(options.iter().map(option).collect::<Value>())),
        };
        json!({
            "id": param.id,
            "label": words(&param.label),
            "help": words(&param.help),
            "tooltip": words(&help(param)),
            "kind": kind,
            "min": min,
            "max": max,
            "options": options,
            "default": defaults.get(param.id),
            "source": param.source,
            "affects": param.affects,
            "advanced": param.advanced,
        })
    };
    json!({ "parameters": PARAMS.iter().map(row).collect::<Vec<_>>() })
}

/// Stable name of a stage in JSON.
pub fn stage_id(stage: Stage) -> &'static str {
    match stage {
        Stage::LoadModel => "load_model",
        Stage::Wait => "wait",
        Stage::OptimizeTextEmbedding => "optimize_text_embedding",
        Stage::FineTune => "fine_tune",
        Stage::FineTuneDetail => "fine_tune_detail",
        Stage::Generate => "generate",
        Stage::Enlarge => "enlarge",
    }
}

/// Six digits after the point, so that 0.1 is written as 0.1; `null` when it is not finite.
fn short(value: f32) -> Value {
    json!((f64::from(value) * 1e6).round() / 1e6)
}

/// "2.1 s", "48 s", "3 min 20 s", "2 h 5 min".
pub fn duration(seconds: f32) -> Text {
    let whole = seconds.round() as u64;
    match whole {
        0..10 => text!("{seconds} s", seconds = rounded(seconds.into(), 1)),
        10..90 => text!("{seconds} s", seconds = whole),
        90..3600 => text!("{minutes} min {seconds} s", minutes = whole / 60, seconds = whole % 60),
        _ => text!("{hours} h {minutes} min", hours = whole / 3600, minutes = whole % 3600 / 60),
    }
}

/// As [`duration`], not finer than a guess is.
fn rough_duration(seconds: f32) -> Text {
    let step = match seconds {
        ..10.0 => return text!("{seconds} s", seconds = seconds.ceil().max(1.0)),
        ..90.0 => 5.0,
        ..600.0 => 10.0,
        _ => 60.0,
    };
    duration((seconds / step).ceil() * step)
}

/// What a progress bar says: stage, step and time left.
pub fn progress_text(progress: &Progress) -> Text {
    let Progress { step, steps, .. } = *progress;
    let stage = progress.stage.label();
    match progress.seconds_left.map(duration) {
        Some(left) if steps > 0 => text!("{stage}, step {step} of {steps}, {left} left", stage, step, steps, left),
        None if steps > 0 => text!("{stage}, step {step} of {steps}", stage, step, steps),
        Some(left) => text!("{stage}, {left} left", stage, left),
        None => stage,
    }
}

/// Bytes from which on a dialog tells the need of memory.
const WORTH_TELLING: u64 = 1 << 30;

/// What a dialog says before an edit: how long it will take, as far as that is known, and how much memory.
pub fn cost_text(estimate: &Estimate) -> Text {
    let place = estimate.on_gpu.then(|| text!("Runs on the GPU."));
    // A smaller process is an editor's everyday.
    let plan = estimate.memory.as_ref().filter(|plan| plan.need >= WORTH_TELLING);
    let memory = plan.map(|plan| text!("Needs {need} GB of memory.", need = gigabytes(plan.need)));
    place.into_iter().chain(memory).fold(time_text(estimate), Text::and)
}

/// What a model of pictures with this side sees of a layer, where that is much larger; 0 is the model's own side.
pub fn seen_text(layer: &LayerImage, resolution: u32, own_side: usize) -> Option<Text> {
    // How many times as long a side is; what a model that enlarges paints is there for it, too.
    const MUCH: usize = 4;
    const ENLARGED: usize = 256;
    // As autoencoders have it.
    const MULTIPLE: usize = 8;
    let side = if resolution == 0 { own_side } else { resolution as usize };
    let (width, height) = (layer.width(), layer.height());
    if width.max(height) as usize <= MUCH * side.max(ENLARGED) {
        return None;
    }
    let (seen_width, seen_height) = working_size(width, height, side, MULTIPLE);
    Some(words::seen([seen_width, seen_height], [width, height]))
}

fn time_text(estimate: &Estimate) -> Text {
    let time = estimate.seconds.map(rough_duration);
    match (estimate, time) {
        (Estimate { tuned: true, .. }, Some(time)) => text!("The tuned model is there: about {time}.", time),
        (Estimate { tuned: true, .. }, None) => text!("The tuned model is there: only the last stage runs."),
        (Estimate { goes_on: Some([step, steps]), .. }, Some(time)) => {
            text!("Goes on at step {step} of {steps}: about {time} more.", step = *step, steps = *steps, time)
        }
        (Estimate { goes_on: Some([step, steps]), .. }, None) => {
            text!("Goes on at step {step} of {steps}.", step = *step, steps = *steps)
        }
        (_, Some(time)) => text!("The model has to be tuned to the layer: about {time}.", time),
        (_, None) => {
            text!("The model has to be tuned to the layer; how long that takes shows after the first steps.")
        }
    }
}

/// What a dialog says of a finished edit, with its notes and hint.
pub fn summary(edit: &Edit) -> Text {
    let time = duration(edit.seconds.iter().map(|&(_, seconds)| seconds).sum());
    let text = match edit.tuned {
        Tuned::Now => text!("Done in {time}.", time),
        Tuned::InMemory | Tuned::OnDisk => text!("Tuned model reused: only stage C ran, {time}.", time),
    };
    let notes = edit.notes.iter().cloned().chain(edit.hint.map(Hint::text));
    notes.fold(text, |text, note| text.and_below(note.sentence()))
}

/// Name of a result layer: first what tells it from the others, because editors cut names at their end.
pub fn layer_name(params: &Params) -> String {
    format!("{}: {}", layer_name_in_group(params), short_prompt(params))
}

/// Name of a result layer in a group, which has the prompt's name.
pub fn layer_name_in_group(params: &Params) -> String {
    format!("eta {} #{}", params.eta, params.seed)
}

/// The prompt in one line, cut where it is long.
pub fn short_prompt(params: &Params) -> String {
    let prompt = params.prompt.split_whitespace().collect::<Vec<_>>().join(" ");
    match prompt.char_indices().nth(NAME_LENGTH) {
        Some((end, _)) => format!("{}…", prompt[..end].trim_end()),
        None => prompt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::picture::pixels::Picture;

    #[test]
    fn progress_and_result_read_like_sentences() {
        let (stage, seconds_left) = (Stage::FineTune, Some(200.0));
        let progress = Progress { stage, step: 3, steps: 40, fraction: 0.5, seconds_left, ..Progress::default() };
        assert_eq!(progress_text(&progress).to_string(), "B: fine-tuning the model, step 3 of 40, 3 min 20 s left");
        let mut edit = Edit {
            tuned: Tuned::OnDisk,
            seconds: vec![(Stage::Generate, 2.06)],
            seed: 0,
            embedding_losses: vec![],
            tuning_losses: vec![],
            notes: vec![Text::verbatim("two words were cut")],
            hint: None,
            picture: Picture::gray(1, 1),
        };
        assert_eq!(summary(&edit).to_string(), "Tuned model reused: only stage C ran, 2.1 s.\nTwo words were cut.");
        edit.tuned = Tuned::Now;
        edit.hint = Some(Hint::UnfamiliarPicture { psnr: 19.84, familiar_psnr: 24.0 });
        let summary = summary(&edit).to_string();
        assert!(summary.starts_with("Done in 2.1 s.\n"), "{summary}");
        assert!(summary.contains("\nThis picture is unlike ") && !summary.contains("dB"), "{summary}");
    }

    #[test]
    fn the_cost_is_told_as_roughly_as_it_is_known() {
        let estimate = |tuned, goes_on, seconds| Estimate { tuned, goes_on, seconds, memory: None, on_gpu: false };
        let text = |tuned, goes_on, seconds| cost_text(&estimate(tuned, goes_on, seconds)).to_string();
        let on_gpu = Estimate { on_gpu: true, ..estimate(true, None, Some(0.4)) };
        assert_eq!(cost_text(&on_gpu).to_string(), "The tuned model is there: about 1 s. Runs on the GPU.");
        assert_eq!(text(true, None, Some(0.4)), "The tuned model is there: about 1 s.");
        assert_eq!(text(false, None, Some(41.0)), "The model has to be tuned to the layer: about 45 s.");
        assert_eq!(text(false, Some([412, 1500]), Some(95.0)), "Goes on at step 412 of 1500: about 1 min 40 s more.");
        assert!(text(false, None, None).contains("after the first steps"));
    }

    #[test]
    fn a_large_layer_is_told_how_little_of_it_the_model_sees() {
        let seen = |width, height, resolution, own_side| {
            let layer = LayerImage::new(width, height, vec![0; (width * height * 4) as usize]).expect("a layer");
            seen_text(&layer, resolution, own_side).map(|text| text.to_string())
        };
        let told = "The model sees 80 x 56 pixels of your 1500 x 1000: select a part for sharper results.";
        assert_eq!(seen(1500, 1000, 0, 64).as_deref(), Some(told));
        assert!(seen(1500, 1000, 0, 512).is_none() && seen(1000, 1000, 0, 64).is_none());
        assert!(seen(1500, 1000, 64, 512).is_some());
    }

    #[test]
    fn the_built_in_model_describes_itself_as_dialogs_do() {
        let about = include_str!("../../models/scenes-64/imagic.json");
        let about: Value = serde_json::from_str(about).expect("a JSON object");
        let places = Places::of([concat!(env!("CARGO_MANIFEST_DIR"), "/models").into()]);
        let model = catalog::look_up(BUILTIN_MODEL, &places).expect("the built-in model");
        assert_eq!(about["description"], description(&model).to_string());
    }

    #[test]
    fn a_layer_is_named_after_prompt_and_eta() {
        let name = |prompt: &str| layer_name(&Params { prompt: prompt.into(), eta: 0.7, ..Params::paper() });
        assert_eq!(name("a  red\nsquare "), "eta 0.7 #0: a red square");
        assert_eq!(name(&"é".repeat(61)), format!("eta 0.7 #0: {}…", "é".repeat(60)));
    }
}
