//! The catalogues have exactly the texts that the sources make, with the same places.

use proc_macro2::{TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn catalogue(language: &str) -> BTreeMap<String, String> {
    let text = fs::read_to_string(root().join(format!("plugin-manifest/locale/{language}.json")));
    serde_json::from_str(&text.expect("the catalogue")).unwrap_or_else(|error| panic!("{language}: {error}"))
}

fn rust_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a source folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                files.push(entry);
            }
        }
    }
    files
}

/// The keys of every `text!("key" ...)` in `tokens`, whatever it is compiled for.
fn keys_in(tokens: TokenStream, keys: &mut BTreeSet<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else { continue };
        let before = &tokens[at.saturating_sub(2)..at];
        let is_text = matches!(before, [TokenTree::Ident(name), TokenTree::Punct(sign)]
            if name == "text" && sign.as_char() == '!');
        if let Some(TokenTree::Literal(key)) = group.stream().into_iter().next().filter(|_| is_text) {
            keys.insert(syn::parse_str::<syn::LitStr>(&key.to_string()).expect("a text").value());
        }
        keys_in(group.stream(), keys);
    }
}

fn rust_keys() -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for file in rust_files() {
        let source = fs::read_to_string(&file).expect("a source file");
        keys_in(source.parse().unwrap_or_else(|error| panic!("{}: {error}", file.display())), &mut keys);
    }
    // What is only places needs no words; numbers have their entry.
    keys.retain(|key| key == "0.5" || without_names(key).chars().any(char::is_alphabetic));
    keys
}

/// The texts of Krita's package: those that it translates as they stand, and all others, of which tables and variables
/// may hold some that are translated later.
fn python_keys() -> Option<[BTreeSet<String>; 2]> {
    let output = Command::new("python3").arg("-B").arg(root().join("tests/krita/keys.py")).output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).expect("two lists of texts"))
}

fn is_name(text: &str) -> bool {
    text.chars().all(|letter| letter.is_alphanumeric() || letter == '_')
}

/// `text` with `{}` for every place.
fn without_names(text: &str) -> String {
    places(text).into_iter().fold(text.to_owned(), |text, name| text.replace(&format!("{{{name}}}"), "{}"))
}

/// The names of the places.
fn places(text: &str) -> BTreeSet<&str> {
    let inside = text.split('{').skip(1).filter_map(|part| Some(part.split_once('}')?.0));
    inside.filter(|inside| is_name(inside)).collect()
}

#[test]
fn every_text_has_an_entry_and_every_entry_a_text() {
    let (rust, python) = (rust_keys(), python_keys());
    assert!(rust.len() > 100, "only {} texts were found", rust.len());
    for language in ["de", "ko"] {
        let entries = catalogue(language);
        let missing: Vec<_> = rust.iter().filter(|key| !entries.contains_key(*key)).collect();
        assert!(missing.is_empty(), "{language} has no {missing:#?}");
        let Some([translated, others]) = &python else {
            println!("skipped: python3 is not installed, so that the texts of Krita's package are not known");
            continue;
        };
        let known: BTreeSet<String> = entries.keys().map(|key| without_names(key)).collect();
        let missing: Vec<_> = translated.iter().filter(|key| !known.contains(*key)).collect();
        assert!(missing.is_empty(), "{language} has no {missing:#?}");
        let is_used = |key: &&String| rust.contains(*key) || others.contains(&without_names(key));
        let unused: Vec<_> = entries.keys().filter(|key| !is_used(key)).collect();
        assert!(unused.is_empty(), "nobody says {unused:#?}");
    }
}

#[test]
fn a_translation_has_the_places_of_its_key() {
    for language in ["de", "ko"] {
        for (key, translation) in catalogue(language) {
            assert!(!translation.trim().is_empty(), "{language}: nothing for {key}");
            assert_eq!(places(&key), places(&translation), "{language}: {key} -> {translation}");
        }
    }
    assert_eq!(places(r#"{b} {{"c": 1}} {a}"#), ["a", "b"].into());
}

#[test]
fn the_krita_package_translates_without_krita() {
    let tests = root().join("tests/krita/test_language.py");
    let Ok(output) = Command::new("python3").arg("-B").arg(tests).output() else {
        println!("skipped: python3 is not installed");
        return;
    };
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("Ran 4 tests"), "{text}");
}
