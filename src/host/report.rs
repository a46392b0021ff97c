//! What hosts tell of edits, models and parameters: durations as text, everything else as JSON; knows no host.
#![forbid(unsafe_code)]

use crate::engine::{Edit, Stage, Tuned};
use crate::error::Hint;
use crate::models::Model;
use crate::params::{Affects, Domain, PARAMS, Params};
use serde_json::{Map, Value, json};

/// Everything about `edit` but its pixels: parameters, where the tuned model came from, seconds, losses, notes, hint.
pub fn edit_report(edit: &Edit, params: &Params) -> Map<String, Value> {
    let tuned = match edit.tuned {
        Tuned::Now => "now",
        Tuned::InMemory => "in_memory",
        Tuned::OnDisk => "on_disk",
    };
    let losses = |losses: &[f32]| losses.iter().map(|&loss| short(loss)).collect::<Vec<_>>();
    let report = json!({
        "width": edit.layer.width(),
        "height": edit.layer.height(),
        "params": params.to_json(),
        "tuned": tuned,
        "cache_hit": edit.tuned != Tuned::Now,
        "seconds": stage_seconds(edit),
        "embedding_losses": losses(&edit.embedding_losses),
        "tuning_losses": losses(&edit.tuning_losses),
        "notes": edit.notes,
        "hint": edit.hint.as_ref().map(hint_report),
    });
    match report {
        Value::Object(report) => report,
        _ => unreachable!("it is written as an object above"),
    }
}

/// A hint's numbers and its text.
fn hint_report(hint: &Hint) -> Value {
    match hint {
        Hint::UnfamiliarPicture { psnr, familiar_psnr } => json!({
            "kind": "unfamiliar_picture",
            "psnr": short(*psnr as f32),
            "familiar_psnr": familiar_psnr,
            "text": hint.to_string(),
        }),
    }
}

/// Seconds that each stage took, by its stable name.
pub fn stage_seconds(edit: &Edit) -> Map<String, Value> {
    edit.seconds.iter().map(|&(stage, seconds)| (stage_id(stage).into(), short(seconds))).collect()
}

/// A model and the parameters that fit it; `problem` says why it cannot be used.
pub fn model_report(model: &Model) -> Value {
    let (params, problem) = match model.params() {
        Ok(params) => (Value::Object(params.to_json()), Value::Null),
        Err(error) => (Value::Null, json!(error.to_string())),
    };
    json!({
        "name": model.name,
        "folder": model.folder.to_string_lossy(),
        "description": model.description,
        "examples": model.examples,
        "params": params,
        "problem": problem,
    })
}

/// The table of parameters, for programs that build a dialog from it; defaults are the paper's.
pub fn parameters_report() -> Value {
    let defaults = Params::paper();
    let row = |param: &crate::params::Param| {
        let (kind, min, max) = match param.domain {
            Domain::Text => ("text", Value::Null, Value::Null),
            Domain::Integer { min, max } => ("integer", json!(min), json!(max)),
            Domain::Real { min, max } => ("real", json!(min), json!(max)),
        };
        let affects = match param.affects {
            Affects::Tuning => "tuning",
            Affects::Generation => "generation",
        };
        json!({
            "id": param.id,
            "label": param.label,
            "help": param.help,
            "kind": kind,
            "min": min,
            "max": max,
            "default": defaults.get(param.id),
            "source": param.source,
            "affects": affects,
            "advanced": param.advanced,
        })
    };
    json!({ "parameters": PARAMS.iter().map(row).collect::<Vec<_>>() })
}

/// Stable name of a stage in JSON.
fn stage_id(stage: Stage) -> &'static str {
    match stage {
        Stage::LoadModel => "load_model",
        Stage::OptimizeTextEmbedding => "optimize_text_embedding",
        Stage::FineTune => "fine_tune",
        Stage::Generate => "generate",
    }
}

/// Six digits after the point, so that 0.1 is written as 0.1; `null` when it is not finite.
fn short(value: f32) -> Value {
    json!((f64::from(value) * 1e6).round() / 1e6)
}

/// "2.1 s", "48 s", "3 min 20 s", "2 h 5 min".
pub fn duration(seconds: f32) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..90 => format!("{whole} s"),
        90..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}
