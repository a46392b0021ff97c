//! The written pages: the parts that the code knows better, links that lead somewhere, and how long lines are.

use imagic_edit::params::{Affects, DEFAULT_PRESET, Domain, PARAMS, Param, Params, Preset};
use serde_json::Value;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const BEGIN: &str = "<!-- parameters: written by tests/docs.rs -->\n";
const END: &str = "<!-- end of parameters -->\n";

/// Those that stand for settings, in the order of the table.
const PRESETS: [Preset; 3] = [Preset::Paper, Preset::Balanced, Preset::Fast];

fn default(param: &Param, preset: Preset) -> String {
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
        let mut defaults = PRESETS.iter().map(|&preset| default(param, preset)).collect::<Vec<_>>();
        if param.id == "preset" {
            defaults = vec![DEFAULT_PRESET.to_string()];
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
        let (id, help, source) = (param.id, &param.help, param.source);
        table += &format!("| `{id}` | {default} | {range} | {again} | {help} | {source} |\n");
    }
    table
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_parameter_table_is_the_one_in_the_code() {
    let path = Path::new(ROOT).join("docs/manual.md");
    let manual = read(&path);
    let (before, rest) = manual.split_once(BEGIN).expect("the place of the table");
    let (old, after) = rest.split_once(END).expect("the end of the table");
    let new = parameter_table();
    if old != new {
        std::fs::write(&path, [before, BEGIN, &new, END, after].concat()).expect("a new manual");
        panic!("docs/manual.md was out of date and has been written anew; commit it");
    }
}

/// Every file of ours that is read as text, without what is generated or downloaded.
fn texts() -> Vec<PathBuf> {
    let (mut texts, mut folders) = (Vec::new(), vec![PathBuf::from(ROOT)]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry")) {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let kind = entry.file_type().expect("a file's kind");
            if kind.is_dir() {
                let ours = [".ci", ".github"].contains(&&*name) || !name.starts_with('.');
                let made = ["demo", "fixtures", "work", "__pycache__"].contains(&&*name) || name.starts_with("target");
                if ours && !made {
                    folders.push(path);
                }
            } else if kind.is_file() && !name.ends_with("_sys.rs") && is_text(&path) {
                texts.push(path);
            }
        }
    }
    assert!(texts.len() > 100, "only {} files were found", texts.len());
    texts
}

/// By the ending of its name, scripts without one by their first line; Python is ruff's.
fn is_text(path: &Path) -> bool {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some(ending) => ["md", "rs", "scm", "sh", "toml", "yml"].contains(&ending),
        None => std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"#!")),
    }
}

#[test]
fn no_line_is_longer_than_120_columns_but_a_table_s() {
    let mut long = String::new();
    for path in texts() {
        let is_page = path.extension().is_some_and(|ending| ending == "md");
        let mut generated = false;
        for (index, line) in read(&path).lines().enumerate() {
            if is_page && line.starts_with("<!-- ") {
                generated = line.contains("written by");
            }
            let columns = line.chars().count();
            if columns > 120 && !(is_page && (generated || line.starts_with('|'))) {
                long += &format!("{}:{}: {columns} columns\n", path.display(), index + 1);
            }
        }
    }
    assert!(long.is_empty(), "longer than 120 columns:\n{long}");
}

/// The text of a page without blocks of code.
fn without_code(page: &str) -> String {
    page.split("```").step_by(2).collect()
}

/// What stands in the round brackets of `[text](...)`.
fn links(page: &str) -> Vec<String> {
    let after = page.split("](").skip(1);
    after.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

/// The name by which a link finds this heading.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    heading.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c)).collect::<String>().replace(' ', "-")
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let pages = texts().into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "md"));
    for path in pages {
        for link in links(&without_code(&read(&path))) {
            if link.contains("://") {
                continue;
            }
            let (file, part) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { path.clone() } else { path.with_file_name(file) };
            assert!(target.exists(), "{}: there is no {link}", path.display());
            if !part.is_empty() {
                let found = read(&target).lines().any(|line| line.starts_with('#') && anchor(line) == part);
                assert!(found, "{}: there is no heading {link}", path.display());
            }
        }
    }
}

/// A file of this project that a page names in `backticks`; patterns, and what only an installation has, are none.
fn is_ours(name: &str) -> bool {
    let folders = ["src/", "tests/", "docs/", "installer/", "plugin-manifest/", "include/", "models/", "benches/"];
    let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "/._-".contains(c));
    folders.iter().any(|folder| name.starts_with(folder))
        && plain
        && !name.contains("/work/")
        && !name.ends_with("/work")
}

#[test]
fn every_file_that_a_page_names_is_there() {
    for path in texts().into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "md")) {
        let page = without_code(&read(&path));
        for name in page.split('`').skip(1).step_by(2).filter(|name| is_ours(name)) {
            assert!(Path::new(ROOT).join(name).exists(), "{}: there is no {name}", path.display());
        }
    }
}

/// The program's own texts, as they are written in its code: a text that goes on in the next line is whole.
fn texts_of_the_program() -> String {
    let (mut all, mut folders) = (String::new(), vec![Path::new(ROOT).join("src"), krita_package()]);
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs" || ending == "py") {
                all += &read(&path);
            }
        }
    }
    let lines = all.split("\\\n").enumerate();
    lines.map(|(at, part)| if at == 0 { part } else { part.trim_start() }).collect()
}

fn krita_package() -> PathBuf {
    Path::new(ROOT).join("plugin-manifest/krita/pykrita/imagic")
}

#[test]
fn the_messages_that_the_readme_explains_are_the_program_s() {
    let (readme, texts) = (read(&Path::new(ROOT).join("README.md")), texts_of_the_program());
    let (_, table) = readme.split_once("| message | remedy |").expect("the table of messages");
    for row in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let message = row.split('|').nth(1).expect("a first column");
        // In round brackets is what the program does not say.
        let message = message.split('(').next().expect("a beginning").trim();
        assert!(texts.contains(message), "no text of the program has `{message}`");
    }
}

#[test]
fn the_labels_that_the_manual_names_are_the_program_s() {
    let (manual, texts) = (read(&Path::new(ROOT).join("docs/manual.md")), texts_of_the_program());
    // The one-letter ones are the stages.
    for label in manual.split("**").skip(1).step_by(2).filter(|label| label.len() > 1) {
        for part in label.split(" → ") {
            assert!(texts.contains(part), "no text of the program has `{part}`");
        }
    }
}

/// Paragraphs, items of lists and headings, without what a link leads to and without pictures, tables and comments.
fn paragraphs(page: &str) -> Vec<String> {
    let mut paragraphs = vec![String::new()];
    for line in without_code(page).lines() {
        let text = line.trim_start_matches([' ', '#', '-', '>']);
        let starts = line.is_empty() || text.len() < line.len() || line.starts_with(|c: char| c.is_ascii_digit());
        if starts && !line.starts_with("  ") {
            paragraphs.push(String::new());
        }
        if !["|", "!", "<!--"].iter().any(|start| text.starts_with(start)) {
            let mut parts = text.split("](");
            let shown =
                parts.next().into_iter().chain(parts.map(|part| part.split_once(')').map_or("", |part| part.1)));
            *paragraphs.last_mut().expect("the one above") += &format!("{} ", shown.collect::<String>());
        }
    }
    paragraphs
}

#[test]
fn the_readme_is_short_and_so_are_its_sentences() {
    let paragraphs = paragraphs(&read(&Path::new(ROOT).join("README.md")));
    let words: usize = paragraphs.iter().map(|text| text.split_whitespace().count()).sum();
    assert!((600..=1000).contains(&words), "README.md has {words} words");
    for sentence in paragraphs.iter().flat_map(|text| text.split(". ")) {
        let words = sentence.split_whitespace().filter(|word| word.contains(char::is_alphanumeric)).count();
        assert!(words <= 25, "{words} words: {sentence}");
    }
}
