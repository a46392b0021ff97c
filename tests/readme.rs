//! Parts of the README that the code knows better: written by this test when they are out of date.

use imagic_edit::params::{Affects, DEFAULT_PRESET, Domain, PARAMS, Param, Params};
use serde_json::Value;
use std::path::Path;

const BEGIN: &str = "<!-- parameters: written by tests/readme.rs -->\n";
const END: &str = "<!-- end of parameters -->\n";

/// Those that stand for settings, in the order of the table.
const PRESETS: [&str; 3] = ["paper", "balanced", "fast"];

fn default(param: &Param, preset: &str) -> String {
    match Params::of_preset(preset).get(param.id) {
        Some(Value::String(text)) => text,
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Bool(on)) => if on { "yes" } else { "no" }.to_owned(),
        other => panic!("{} is {other:?}", param.id),
    }
}

fn parameter_table() -> String {
    let mut table = String::from(
        "| parameter | default | range | again | what it does | default from |\n|---|---|---|---|---|---|\n",
    );
    for param in PARAMS {
        let mut defaults = PRESETS.iter().map(|preset| default(param, preset)).collect::<Vec<_>>();
        if param.id == "preset" {
            defaults = vec![DEFAULT_PRESET.to_owned()];
        } else if defaults.iter().all(|default| *default == defaults[0]) {
            defaults.truncate(1);
        }
        let default = defaults.join(", ");
        let range = match param.domain {
            Domain::Text => "text".to_owned(),
            Domain::Integer { min, max } => format!("{min} to {max}"),
            Domain::Real { min, max } => format!("{min} to {max}"),
            Domain::Switch => "yes or no".to_owned(),
            Domain::Choice { options } => options.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" or "),
        };
        let again = match param.affects {
            Affects::Parameters | Affects::Nothing => "-",
            Affects::Tuning => "A, B, C",
            Affects::Generation => "C",
        };
        let (id, help, source) = (param.id, param.help, param.source);
        table += &format!("| `{id}` | {default} | {range} | {again} | {help} | {source} |\n");
    }
    table
}

#[test]
fn the_parameter_table_is_the_one_in_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).expect("a README");
    let (before, rest) = readme.split_once(BEGIN).expect("the place of the table");
    let (old, after) = rest.split_once(END).expect("the end of the table");
    let new = parameter_table();
    if old != new {
        std::fs::write(&path, [before, BEGIN, &new, END, after].concat()).expect("a new README");
        panic!("README.md was out of date and has been written anew; commit it");
    }
}
