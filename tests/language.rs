//! Texts that the sources show have an entry in the catalogues.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Calls whose first argument is a text for people, in Rust.
const RUST: [&str; 10] = [
    "refused(",
    "set_tooltip(",
    "Message::info(",
    "Error::Host(",
    "Error::Parameter(",
    "Error::Engine(",
    "choose_folder(",
    "self.note = Some(",
    "translate(",
    "say(",
];

/// The same in Krita's package.
const PYTHON: [&str; 1] = ["tr("];

fn files(folder: &str, kind: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a source folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == kind) {
                files.push(entry);
            }
        }
    }
    files
}

/// The literal texts with which `calls` are made.
fn texts(source: &str, calls: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for call in calls {
        for (at, _) in source.match_indices(call) {
            let is_word = source[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_');
            let Some(literal) = source[at + call.len()..].trim_start().strip_prefix('"').filter(|_| !is_word) else {
                continue;
            };
            let mut text = String::new();
            let mut letters = literal.chars();
            while let Some(letter) = letters.next().filter(|letter| *letter != '"') {
                match letter {
                    '\\' => match letters.next() {
                        // A literal that goes on in the next line.
                        Some('\n') => letters = letters.as_str().trim_start().chars(),
                        escaped => text.extend(escaped),
                    },
                    letter => text.push(letter),
                }
            }
            // A Python text of several literals is one text.
            while let Some(more) = letters.as_str().trim_start().strip_prefix('"') {
                let (part, _) = more.split_once('"').expect("the end of a literal");
                text += part;
                letters = more[part.len() + 1..].chars();
            }
            found.push(text);
        }
    }
    found
}

/// `text` with `{#}` for its numbers.
fn with_places(text: &str) -> String {
    let is_digit = |letter: char| letter.is_ascii_digit();
    let parts = text.as_bytes().chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit());
    let parts = parts.map(|part| String::from_utf8_lossy(part));
    parts.map(|part| if part.starts_with(is_digit) { "{#}".to_owned() } else { part.into_owned() }).collect()
}

#[test]
fn every_text_that_is_shown_has_an_entry() {
    let catalogue = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugin-manifest/locale/de.json");
    let catalogue = fs::read_to_string(catalogue).expect("the catalogue");
    let entries: HashMap<String, String> = serde_json::from_str(&catalogue).expect("texts");
    let keys: Vec<String> = entries.keys().map(|key| key.replace("{#}", "{}")).collect();
    // The command line is English; serve's complaints on wrong messages are for programmers.
    let is_dialog =
        |path: &PathBuf| !path.components().any(|part| ["cli", "capi"].iter().any(|name| part.as_os_str() == *name));
    let rust = files("src", "rs").into_iter().filter(is_dialog).map(|path| (path, RUST.as_slice()));
    let python = files("plugin-manifest/krita", "py").into_iter().map(|path| (path, PYTHON.as_slice()));
    let mut count = 0;
    let mut missing = Vec::new();
    for (path, calls) in rust.chain(python) {
        let source = fs::read_to_string(&path).expect("a source file");
        let source = source.split("#[cfg(test)]").next().unwrap_or_default();
        for text in texts(source, calls) {
            count += 1;
            let is_known = |text: &str| keys.contains(&text.replace("{#}", "{}"));
            if !is_known(&text) && !is_known(&with_places(&text)) {
                missing.push(format!("{}: {text}", path.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(count > 30, "only {count} texts were found");
}

#[test]
fn the_krita_package_translates_without_krita() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/krita/test_language.py");
    let Ok(output) = Command::new("python3").arg("-B").arg(tests).output() else {
        println!("skipped: python3 is not installed");
        return;
    };
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("Ran 4 tests"), "{text}");
}
