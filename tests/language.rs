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
    keys_of(rust_files())
}

fn keys_of(files: Vec<PathBuf>) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for file in files {
        let source = fs::read_to_string(&file).expect("a source file");
        keys_in(source.parse().unwrap_or_else(|error| panic!("{}: {error}", file.display())), &mut keys);
    }
    // What is only places needs no words; numbers have their entry.
    keys.retain(|key| key == "0.5" || without_names(key).chars().any(char::is_alphabetic));
    keys
}

/// The texts of Krita's package: those that it translates as they stand; all others, of which tables and variables may
/// hold some that are translated later; and those of its dialog.
fn python_keys() -> Option<[BTreeSet<String>; 3]> {
    let output = Command::new("python3").arg("-B").arg(root().join("tests/krita/keys.py")).output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).expect("three lists of texts"))
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
        let Some([translated, others, _]) = &python else {
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

/// What GIMP's dialogs and Krita's both say and each has in its own code: Krita's says it before the engine's greeting
/// has come, or where it knows no engine. `stopped` is the name of an event there.
const WRITTEN_TWICE: [&str; 9] = [
    "Advanced",
    "Close",
    "Edit",
    "Layer “{}” of {}",
    "Remove",
    "Stop",
    "Text",
    "The edited layer is gone, so the result lies on top of the image.",
    "stopped",
];

/// What only Krita's dialog says: its engine has to start, examples are in a menu, earlier edits are removed in a
/// window of its own, a caption is below the picture and a number in the curve, and the strip has a name for screen
/// readers.
const ONLY_IN_KRITA: [&str; 16] = [
    "&Remove...",
    "Cancel",
    "Compared pictures",
    "Delete their layers, too",
    "Edits that this document shall forget:",
    "Examples",
    "Hold the mouse button to see the original.",
    "Imagic Edit",
    "One step of undo for each layer. Only layers that Imagic Edit made are deleted.",
    "Remove earlier edits",
    "Starting the engine.",
    "Texts that the base model understands.",
    "The picture as it forms",
    "a document without a file",
    "loss {}",
    "{}: its layer is gone",
];

/// What only GIMP's dialogs say: examples are links, an earlier edit is removed by a button, results have boxes to mark
/// them, and GIMP keeps last values in the dialog's own process.
const ONLY_IN_GIMP: [&str; 7] = [
    "Deletes the layer of this edit and forgets the edit.",
    "For example {}",
    "Insert makes layers of all results that are marked.",
    "The settings are not kept: {}.",
    "another version of the plug-in made this edit, with settings that this one does not know",
    "the image has no result",
    "there is no result yet",
];

#[test]
fn gimp_and_krita_say_the_same_in_the_same_words() {
    let Some([_, everywhere, dialog]) = python_keys() else {
        println!("skipped: python3 is not installed, so that the texts of Krita's package are not known");
        return;
    };
    let plain = |keys: BTreeSet<String>| keys.iter().map(|key| without_names(key)).collect::<BTreeSet<_>>();
    let known = plain(catalogue("de").into_keys().collect());
    let rust = plain(rust_keys());
    let of_gimp = |file: &PathBuf| {
        let path = file.strip_prefix(root().join("src/host")).map(|path| path.to_string_lossy().into_owned());
        let no_dialog = ["gimp/document.rs", "gimp/library.rs", "gimp/procedure.rs"];
        path.is_ok_and(|path| path.starts_with("gimp") && path.contains('/') && !no_dialog.contains(&path.as_str()))
    };
    let gimp = plain(keys_of(rust_files().into_iter().filter(of_gimp).collect()));
    let is_text = |text: &&String| known.contains(*text) && *text != "0.5";
    let twice: Vec<_> = everywhere.iter().filter(is_text).filter(|text| rust.contains(*text)).collect();
    assert_eq!(twice, WRITTEN_TWICE, "what both say belongs into src/host/words.rs, and comes to Krita by `hello`");
    let of_krita: Vec<_> = dialog.iter().filter(is_text).filter(|text| !rust.contains(*text)).collect();
    assert_eq!(of_krita, ONLY_IN_KRITA, "if GIMP's dialogs say the same, it belongs into src/host/words.rs");
    let of_gimp: Vec<_> = gimp.iter().filter(|text| !dialog.contains(*text)).collect();
    assert_eq!(of_gimp, ONLY_IN_GIMP, "if Krita's dialog says the same, it belongs into src/host/words.rs");
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
