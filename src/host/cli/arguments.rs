//! Splits a command's arguments into options and words; knows only the names it is told.
#![forbid(unsafe_code)]

use super::Failure;
use crate::host::system::split_at_equals;
use std::ffi::{OsStr, OsString};

/// What stood on the command line after the command.
pub struct Arguments {
    switches: Vec<String>,
    values: Vec<(String, OsString)>,
    words: Vec<OsString>,
}

impl Arguments {
    /// `switches` are the options without a value and `options` those with one, all without `--`;
    /// `-o` is short for `--output`. After `--` everything is a word.
    pub fn parse(arguments: &[OsString], switches: &[&str], options: &[&str]) -> Result<Self, Failure> {
        let mut parsed = Self { switches: Vec::new(), values: Vec::new(), words: Vec::new() };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            if argument == "--" {
                parsed.words.extend(rest.by_ref().cloned());
                break;
            }
            let bytes = argument.as_encoded_bytes();
            let (name, value) = if argument == "-o" {
                ("output", None)
            } else if bytes.starts_with(b"--") {
                let (name, value) = split_at_equals(argument);
                (name.to_str().and_then(|name| name.strip_prefix("--")).unwrap_or_default(), value)
            } else if bytes.len() > 1 && bytes.starts_with(b"-") {
                return Err(unknown(&argument.to_string_lossy(), switches, options));
            } else {
                parsed.words.push(argument.clone());
                continue;
            };
            if switches.contains(&name) {
                if value.is_some() {
                    return Err(Failure::Usage(format!("--{name} takes no value")));
                }
                parsed.switches.push(name.to_owned());
            } else if options.contains(&name) {
                // `--prompt --seed 3` is a forgotten text more often than a text that starts with two dashes.
                let value = match value {
                    Some(value) => Some(value.to_owned()),
                    None => rest.next().filter(|next| !next.as_encoded_bytes().starts_with(b"--")).cloned(),
                };
                let value = value.ok_or_else(|| Failure::Usage(format!("--{name} needs a value")))?;
                parsed.values.push((name.to_owned(), value));
            } else {
                return Err(unknown(&argument.to_string_lossy(), switches, options));
            }
        }
        Ok(parsed)
    }

    /// Whether switch `name` was given.
    pub fn has(&self, name: &str) -> bool {
        self.switches.iter().any(|switch| switch == name)
    }

    /// What stood there without being an option.
    pub fn words(&self) -> &[OsString] {
        &self.words
    }

    /// Every value that was given for option `name`.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a OsStr> {
        self.values.iter().filter(move |(option, _)| option == name).map(|(_, value)| value.as_os_str())
    }

    /// The value of option `name`, which may be given once.
    pub fn one<'a>(&'a self, name: &'a str) -> Result<Option<&'a OsStr>, Failure> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(Failure::Usage(format!("--{name} is given twice"))),
            (value, None) => Ok(value),
        }
    }

    /// Refuses words where none belong.
    pub fn no_more_words(&self) -> Result<(), Failure> {
        match self.words.first() {
            Some(word) => Err(Failure::Usage(format!("{} is not expected here", word.to_string_lossy()))),
            None => Ok(()),
        }
    }
}

fn unknown(argument: &str, switches: &[&str], options: &[&str]) -> Failure {
    let name = argument.split('=').next().unwrap_or_default().trim_start_matches('-');
    let hint = nearest(name, switches.iter().chain(options).copied());
    let hint = hint.map(|known| format!("; did you mean --{known}?")).unwrap_or_default();
    Failure::Usage(format!("there is no option {}{hint}", argument.split('=').next().unwrap_or_default()))
}

/// The known name that `name` is probably a slip of.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let by_distance = known.map(|known| (edit_distance(name, known), known));
    // More than a third of the letters wrong is another word.
    by_distance.min().filter(|&(distance, known)| distance <= known.len().div_ceil(3)).map(|(_, known)| known)
}

/// Levenshtein's: letters to insert, remove or replace.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_a_far_one_is_not() {
        let known = ["seed", "eta", "sampling-steps", "tuning-steps"];
        for (name, expected) in [
            ("sead", Some("seed")),
            ("samplingsteps", Some("sampling-steps")),
            ("tunning-steps", Some("tuning-steps")),
            ("colour", None),
        ] {
            assert_eq!(nearest(name, known.into_iter()), expected, "{name}");
        }
    }

    #[test]
    fn options_take_the_next_argument_or_what_follows_the_equals_sign() {
        let parse = |line: &str| {
            Arguments::parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>(), &["json"], &["eta", "output"])
        };
        let arguments =
            parse("in.png --eta=0.5 --eta -1 -o out.png --json -- --eta").unwrap_or_else(|_| panic!("it is right"));
        assert_eq!(arguments.all("eta").collect::<Vec<_>>(), ["0.5", "-1"]);
        assert_eq!(arguments.words(), ["in.png", "--eta"]);
        assert!(arguments.has("json") && arguments.one("eta").is_err());
        for wrong in ["--eta", "--eta --json", "--json=1", "--etta 1", "-x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
