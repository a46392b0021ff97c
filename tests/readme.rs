//! Parts of the README that the code knows better: written by this test when they are out of date.

use imagic_edit::params::{Affects, Domain, PARAMS, Params};
use serde_json::Value;
use std::path::Path;

const BEGIN: &str = "<!-- parameters: written by tests/readme.rs -->\n";
const END: &str = "<!-- end of parameters -->\n";

fn parameter_table() -> String {
    let mut table = String::from(
        "| parameter | default | range | again | what it does | default from |\n|---|---|---|---|---|---|\n",
    );
    for param in PARAMS {
        let default = match Params::paper().get(param.id) {
            Some(Value::String(text)) if text.is_empty() => String::new(),
            Some(Value::String(text)) => text,
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::Bool(on)) => if on { "yes" } else { "no" }.to_owned(),
            other => panic!("{} is {other:?}", param.id),
        };
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
