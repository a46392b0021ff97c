//! What people read: a key, which is the English text, and the values in its places. Where a text is shown it becomes a
//! string, in English or in the words of a catalogue.
#![forbid(unsafe_code)]

use serde_json::{Value as Json, json};
use std::collections::BTreeSet;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A text for people.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Text {
    /// The English text with its places, such as `{path}`, written as for `format!`; catalogues know it by this.
    pub key: &'static str,
    /// What stands in each place.
    pub values: Vec<(&'static str, Value)>,
}

/// What stands in a place of a [`Text`].
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// The same in every language: a name, a path, what the user wrote, what the system said.
    Verbatim(String),
    /// A number in English.
    Number(String),
    /// A text of its own.
    Text(Text),
    /// A text of its own that becomes a sentence, see [`sentence`].
    Sentence(Text),
}

/// A [`Text`] from its key and its values: `text!("{id} is {given}, must be a text", id, given = value.to_string())`.
///
/// The key is a literal with named places, and every place has a value; otherwise it does not compile.
macro_rules! text {
    ($key:literal) => { $crate::text::Text { key: $key, values: Vec::new() } };
    ($key:literal $(, $name:ident $(= $value:expr)?)+ $(,)?) => {{
        // `format_args` compares places and names; in a constant it cannot take a place from the variables around.
        const _: fn() = || { let _ = format_args!($key $(, $name = "")+); };
        let values = vec![$((stringify!($name), $crate::text::text!(@value $name $(= $value)?))),+];
        $crate::text::Text { key: $key, values }
    }};
    (@value $name:ident) => { $crate::text::Value::from($name) };
    (@value $name:ident = $value:expr) => { $crate::text::Value::from($value) };
}
pub(crate) use text;

impl Text {
    /// What no catalogue knows: what the system or a library said, and what only programs and the command line read.
    pub fn verbatim(text: impl Into<String>) -> Self {
        Self { key: "{text}", values: vec![("text", Value::Verbatim(text.into()))] }
    }

    /// As a sentence of a dialog.
    pub fn sentence(self) -> Self {
        Self { key: "{sentence}", values: vec![("sentence", Value::Sentence(self))] }
    }

    /// `next` behind it.
    pub fn and(self, next: Self) -> Self {
        Self { key: "{text} {next}", values: vec![("text", Value::Text(self)), ("next", Value::Text(next))] }
    }

    /// What to do about it behind it.
    pub fn and_do(self, remedy: Self) -> Self {
        Self { key: "{text}; {remedy}", values: vec![("text", Value::Text(self)), ("remedy", Value::Text(remedy))] }
    }

    /// `next` in the line below it.
    pub fn and_below(self, next: Self) -> Self {
        Self { key: "{text}\n{next}", values: vec![("text", Value::Text(self)), ("next", Value::Text(next))] }
    }

    /// For a file, see [`Text::from_json`].
    pub fn to_json(&self) -> Json {
        let value = |(name, value): &(&str, Value)| match value {
            Value::Verbatim(text) => json!([name, "verbatim", text]),
            Value::Number(text) => json!([name, "number", text]),
            Value::Text(text) => json!([name, "text", text.to_json()]),
            Value::Sentence(text) => json!([name, "sentence", text.to_json()]),
        };
        json!({ "key": self.key, "values": self.values.iter().map(value).collect::<Vec<_>>() })
    }

    /// What [`Text::to_json`] has written.
    pub fn from_json(json: &Json) -> Option<Self> {
        let value = |value: &Json| {
            let text = || value[2].as_str().map(str::to_owned);
            let inner = || Self::from_json(&value[2]);
            let read = match value[1].as_str()? {
                "verbatim" => Value::Verbatim(text()?),
                "number" => Value::Number(text()?),
                "text" => Value::Text(inner()?),
                "sentence" => Value::Sentence(inner()?),
                _ => return None,
            };
            Some((interned(value[0].as_str()?), read))
        };
        let values = json["values"].as_array()?.iter().map(value).collect::<Option<_>>()?;
        Some(Self { key: interned(json["key"].as_str()?), values })
    }

    /// The text with `template` for a key and `decimal_sign` in numbers.
    pub fn render<'a>(&self, template: &dyn Fn(&'static str) -> &'a str, decimal_sign: &str) -> String {
        fill(template(self.key), |name| match self.values.iter().find(|(known, _)| *known == name)?.1 {
            Value::Verbatim(ref text) => Some(text.clone()),
            Value::Number(ref number) => Some(number.replace('.', decimal_sign)),
            Value::Text(ref text) => Some(text.render(template, decimal_sign)),
            Value::Sentence(ref text) => Some(sentence(&text.render(template, decimal_sign))),
        })
    }
}

/// In English.
impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(&|key| key, "."))
    }
}

/// `text` as if it stood in the program, where all keys stand; kept once however often it is read.
fn interned(text: &str) -> &'static str {
    static KEPT: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = kept.get(text) {
        return known;
    }
    let new: &'static str = Box::leak(text.into());
    kept.insert(new);
    new
}

/// `template` with values for its places; `{{` and `}}` are braces.
fn fill(template: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let (mut filled, mut rest) = (String::new(), template);
    while let Some(at) = rest.find(['{', '}']) {
        filled += &rest[..at];
        let behind = &rest[at + 1..];
        let place = behind.split_once('}').filter(|_| !behind.starts_with(['{', '}']));
        rest = match place {
            Some((name, behind)) => {
                filled += &value(name).unwrap_or_default();
                behind
            }
            None => {
                filled += &rest[at..=at];
                behind.get(1..).unwrap_or_default()
            }
        };
    }
    filled + rest
}

/// `text` with a capital letter and a full stop, unless it ends with a sign already.
pub fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    let stop = if text.ends_with(['.', '!', '?', ':']) { "" } else { "." };
    first.chain(letters).chain(stop.chars()).collect()
}

/// What somebody wrote, cut where it is long, so that a message stays one.
pub fn clipped(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text.to_owned(),
    }
}

/// What somebody wrote, as a model shall read it: letters that nobody sees are gone, quotation marks are those of a
/// typewriter, and between words there is one blank.
pub fn plain(text: &str) -> String {
    // Soft hyphens, letters without width, and which way a text runs.
    let hidden = [
        '\u{ad}'..='\u{ad}',
        '\u{200b}'..='\u{200f}',
        '\u{202a}'..='\u{202e}',
        '\u{2060}'..='\u{2064}',
        '\u{feff}'..='\u{feff}',
    ];
    let is_hidden = |letter: &char| hidden.iter().any(|range| range.contains(letter));
    let typed = |letter: char| match letter {
        '\u{2018}'..='\u{201b}' | '\u{2032}' => '\'',
        '\u{201c}'..='\u{201f}' | '\u{2033}' => '"',
        other => other,
    };
    let shown: String = text.chars().filter(|letter| !is_hidden(letter)).map(typed).collect();
    shown.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `number` with as many digits after the decimal sign.
pub fn rounded(number: f64, digits: usize) -> Value {
    Value::Number(format!("{number:.digits$}"))
}

/// `bytes` in GB, with one digit after the decimal sign.
pub fn gigabytes(bytes: u64) -> Value {
    rounded(bytes as f64 / 1e9, 1)
}

macro_rules! values {
    ($make:expr; $($kind:ty),+) => {
        $(impl From<$kind> for Value {
            fn from(value: $kind) -> Self {
                let make: fn($kind) -> Self = $make;
                make(value)
            }
        })+
    };
}
values!(|number| Self::Number(number.to_string()); u8, u32, u64, usize, i32, f32, f64);
values!(|text| Self::Verbatim(text.to_string()); &str, String, &String, std::borrow::Cow<'_, str>, &serde_json::Value);
values!(|path| Self::Verbatim(path.display().to_string()); &Path, PathBuf, &PathBuf);
values!(Self::Text; Text);

/// What the system said, in the words of the user where it is said often.
impl From<&std::io::Error> for Value {
    fn from(error: &std::io::Error) -> Self {
        let Some(code) = error.raw_os_error() else { return Self::Verbatim(error.to_string()) };
        Self::Text(match error.kind() {
            std::io::ErrorKind::NotFound => text!("No such file or directory (os error {code})", code),
            std::io::ErrorKind::PermissionDenied => text!("Permission denied (os error {code})", code),
            std::io::ErrorKind::StorageFull => text!("No space left on device (os error {code})", code),
            _ => return Self::Verbatim(error.to_string()),
        })
    }
}

/// A line for whoever reads the program's messages. Where nobody can, that is no reason to stop, as it would be for
/// `eprintln!`.
pub fn tell(line: impl fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// For programs, which read English.
impl serde::Serialize for Text {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_in_their_places() {
        let (id, max) = ("eta", 2.5);
        let known = text!("{id} is {given}, must be {min} to {max}", id, given = "{max}", min = 0, max);
        assert_eq!(known.to_string(), "eta is {max}, must be 0 to 2.5");
        assert_eq!(known.clone().sentence().to_string(), "Eta is {max}, must be 0 to 2.5.");
        assert_eq!(Text::verbatim("{x}").and(known.clone()).to_string(), "{x} eta is {max}, must be 0 to 2.5");
        let other = |key| if key == known.key { "{max} {{id}} {given}: {id}" } else { key };
        assert_eq!(known.render(&other, ","), "2,5 {id} {max}: eta");
        let nested = text!("the engine failed: {reason}", reason = known.clone());
        assert_eq!(
            nested.and_below(known.clone()).render(&other, ","),
            "the engine failed: 2,5 {id} {max}: eta\n2,5 {id} {max}: eta"
        );
    }

    #[test]
    fn numbers_have_the_digits_that_are_asked_for() {
        assert_eq!(rounded(19.84, 1), Value::Number("19.8".into()));
        assert_eq!(gigabytes(14_340_000_000), Value::Number("14.3".into()));
        assert_eq!(Value::from(0.1_f32), Value::Number("0.1".into()));
    }

    #[test]
    fn what_the_system_says_is_a_text_of_its_own() {
        for code in [2, 13, 28, 5] {
            let error = std::io::Error::from_raw_os_error(code);
            assert_eq!(
                text!("the engine failed: {reason}", reason = &error).to_string(),
                format!("the engine failed: {error}")
            );
        }
        let other = std::io::Error::other("odd");
        assert_eq!(Value::from(&other), Value::Verbatim("odd".into()));
    }
}
