//! Which file imports which: every path of a `use`, and every other path that begins with `crate` or `super`, read off
//! the source files. Test modules do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The files of a crate by their modules, such as `engine::model::unet`; the root is the empty text.
pub struct Files(BTreeMap<String, String>);

impl Files {
    /// Of `sources`: path below `src` and content.
    pub fn of(sources: impl IntoIterator<Item = (String, String)>) -> Self {
        let is_test = |path: &str| path.ends_with("tests.rs") || path.contains("tests/");
        let counted = sources.into_iter().filter(|(path, _)| !is_test(path) && path != "main.rs");
        Self(counted.map(|(path, text)| (module(&path), without_tests(&text).to_owned())).collect())
    }

    /// The modules, with the others that each imports.
    pub fn arrows(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let imports = |(module, text): (&String, &String)| -> BTreeSet<&str> {
            let paths = paths(&tokens(text), module, &|name: &str| self.0.contains_key(name));
            paths.iter().map(|path| self.file_of(path)).filter(|file| file != module).collect()
        };
        self.0.iter().map(|file| (file.0.as_str(), imports(file))).collect()
    }

    /// The file that `path` leads to: the longest beginning of it that is a module with a file.
    fn file_of(&self, path: &[String]) -> &str {
        let beginnings = (0..=path.len()).rev().map(|end| path[..end].join("::"));
        let known = beginnings.into_iter().find_map(|path| self.0.get_key_value(&path));
        known.map_or("", |(module, _)| module)
    }
}

/// `engine/model/unet.rs` to `engine::model::unet`.
fn module(path: &str) -> String {
    let path = Path::new(path).with_extension("");
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts == ["lib"] { String::new() } else { parts.join("::") }
}

/// What comes before the tests at the end of a file.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or_default()
}

/// Words and signs, without comments and texts.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut letters = text.chars().peekable();
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    while let Some(letter) = letters.next() {
        if letter == '/' && letters.peek() == Some(&'/') {
            letters.by_ref().find(|letter| *letter == '\n');
        } else if letter == '"' {
            while let Some(letter) = letters.next().filter(|letter| *letter != '"') {
                if letter == '\\' {
                    letters.next();
                }
            }
        } else if letter == '\'' {
            // A letter in quotes, or the name of a lifetime.
            let rest: String = letters.clone().take(3).collect();
            let quoted = if rest.starts_with('\\') { 3 } else { 2 };
            if rest.chars().nth(quoted - 1) == Some('\'') {
                letters.nth(quoted - 1);
            }
        } else if is_word(letter) {
            let mut word = String::from(letter);
            while let Some(letter) = letters.next_if(|letter| is_word(*letter)) {
                word.push(letter);
            }
            tokens.push(word);
        } else if letter == ':' && letters.next_if_eq(&':').is_some() {
            tokens.push("::".into());
        } else if !letter.is_whitespace() {
            tokens.push(letter.into());
        }
    }
    tokens
}

/// All paths to other modules, from the root of the crate on.
fn paths(tokens: &[String], file: &str, is_file: &dyn Fn(&str) -> bool) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    // Modules within the file that are open, and other braces.
    let mut open: Vec<Option<String>> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let here = || {
            let own = file.split("::").filter(|part| !part.is_empty()).map(str::to_owned);
            own.chain(open.iter().flatten().cloned()).collect::<Vec<_>>()
        };
        match tokens[at].as_str() {
            "mod" if tokens.get(at + 2).is_some_and(|token| token == "{") => {
                open.push(Some(tokens[at + 1].clone()));
                at += 2;
            }
            "{" => open.push(None),
            "}" => drop(open.pop()),
            // A visibility such as `pub(in crate::engine)` is no import.
            "pub" if tokens.get(at + 1).is_some_and(|token| token == "(") => {
                at += tokens[at..].iter().position(|token| token == ")").unwrap_or_default();
            }
            "use" => {
                let end = at + tokens[at..].iter().position(|token| token == ";").unwrap_or_default();
                for path in tree(&tokens[at + 1..end]) {
                    let begins_here = path.first().is_some_and(|first| {
                        let child = here().into_iter().chain([first.clone()]).collect::<Vec<_>>().join("::");
                        ["crate", "super", "self"].contains(&first.as_str()) || is_file(&child)
                    });
                    if begins_here {
                        found.push(absolute(&path, &here()));
                    }
                }
                at = end;
            }
            "crate" | "super" if tokens.get(at + 1).is_some_and(|token| token == "::") => {
                let path: Vec<_> = tokens[at..].iter().take_while(|token| is_part(token)).cloned().collect();
                at += path.len() - 1;
                let path: Vec<_> = path.into_iter().filter(|token| token != "::").collect();
                found.push(absolute(&path, &here()));
            }
            _ => {}
        }
        at += 1;
    }
    found
}

fn is_part(token: &str) -> bool {
    token == "::" || token.chars().all(|letter| letter.is_alphanumeric() || letter == '_')
}

/// The paths of a tree such as `a::{b, c::{self, d}}`.
fn tree(tokens: &[String]) -> Vec<Vec<String>> {
    let mut paths: Vec<Vec<String>> = Vec::new();
    let mut prefixes: Vec<Vec<String>> = Vec::new();
    // What comes behind the last comma or brace.
    let mut path: Vec<String> = Vec::new();
    for token in tokens.iter().map(String::as_str).chain([","]) {
        let prefix = || prefixes.iter().flatten().cloned();
        match token {
            "::" => {}
            "{" => prefixes.push(std::mem::take(&mut path)),
            "," | "}" => {
                if !path.is_empty() {
                    // `self` at the end is what stands before it.
                    paths.push(
                        prefix().chain(path.drain(..).filter(|part| part != "self" || prefixes.is_empty())).collect(),
                    );
                }
                if token == "}" {
                    prefixes.pop();
                }
            }
            word => path.push(word.to_owned()),
        }
    }
    paths
}

/// `path` from the root on, for a module at `here`.
fn absolute(path: &[String], here: &[String]) -> Vec<String> {
    let mut result = here.to_vec();
    for part in path {
        match part.as_str() {
            "crate" => result.clear(),
            "self" => {}
            "super" => drop(result.pop()),
            name => result.push(name.to_owned()),
        }
    }
    result
}

#[test]
fn paths_of_every_form_are_found() {
    let text = "//! use crate::not;\nuse crate::a::{self, b::C, d::{E, F as G}};\npub use child::X;\nuse std::fmt;\n\
                pub(in crate::engine) fn f() { let x = super::y::z(); \"use crate::text;\" }\n\
                mod inner { use super::super::w; }\n#[cfg(test)]\nmod tests { use crate::hidden; }";
    let found = paths(&tokens(without_tests(text)), "m::n", &|name| name == "m::n::child");
    let found: Vec<String> = found.iter().map(|path| path.join(" ")).collect();
    assert_eq!(found, ["a", "a b C", "a d E", "a d F as G", "m n child X", "m y z", "m w"]);
}
