//! Splits a command's arguments into options and words; knows only the names it is told.
#![forbid(unsafe_code)]

use super::outcome::Failure;
use lexopt::{Arg, Parser};
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
        let mut parser = Parser::from_args(arguments);
        while let Some(argument) = parser.next().map_err(|error| Failure::Usage(error.to_string()))? {
            let name = match argument {
                Arg::Value(word) => {
                    parsed.words.push(word);
                    continue;
                }
                Arg::Short('o') => "output".to_owned(),
                Arg::Short(letter) => return Err(Failure::Usage(format!("there is no option -{letter}"))),
                Arg::Long(name) => name.to_owned(),
            };
            if switches.contains(&name.as_str()) {
                parsed.switches.push(name);
            } else if options.contains(&name.as_str()) {
                // `--prompt --seed 3` is a forgotten text more often than a text that starts with two dashes.
                let is_option = |next: &OsStr| next.as_encoded_bytes().starts_with(b"--");
                let mut next = || parser.try_raw_args()?.next_if(|next| !is_option(next));
                let value = next().or_else(|| parser.optional_value());
                let value = value.ok_or_else(|| Failure::Usage(format!("--{name} needs a value")))?;
                parsed.values.push((name, value));
            } else {
                let hint = did_you_mean("--", &name, switches.iter().chain(options).copied());
                return Err(Failure::Usage(format!("there is no option --{name}{hint}")));
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

/// A hint where `name` is probably a slip of one that is known.
pub fn did_you_mean<'a>(dashes: &str, name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let by_distance = known.map(|known| (strsim::levenshtein(name, known), known));
    // More than a third of the letters wrong is another word.
    let nearest = by_distance.min().filter(|&(distance, known)| distance <= known.len().div_ceil(3));
    nearest.map(|(_, known)| format!("; did you mean {dashes}{known}?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_a_far_one_is_not() {
        let known = ["seed", "eta", "sampling-steps", "tuning-steps"];
        for (name, expected) in [
            ("sead", "; did you mean --seed?"),
            ("samplingsteps", "; did you mean --sampling-steps?"),
            ("tunning-steps", "; did you mean --tuning-steps?"),
            ("colour", ""),
        ] {
            assert_eq!(did_you_mean("--", name, known.into_iter()), expected, "{name}");
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
