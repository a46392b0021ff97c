//! What is to be said before time is spent on an edit: of a target text, how much of it the model reads, words that the
//! model does not know, and what it cannot mean here; of a picture, that the model cannot draw it. Knows no host.
#![forbid(unsafe_code)]

use crate::catalog::Model;
use crate::engine::base::tokenizer;
use crate::engine::model::source::Source;
use crate::engine::model::tokenizer::Tokenizer;
use crate::host::words;
use crate::text::{Text, plain};
use std::path::PathBuf;

/// Words with which somebody tells another one what to do to a picture.
const ORDERS: &[&str] = &[
    "add",
    "change",
    "convert",
    "delete",
    "erase",
    "give",
    "increase",
    "make",
    "recolor",
    "recolour",
    "reduce",
    "remove",
    "replace",
    "swap",
    "transform",
    "turn",
];

/// The same, which begin descriptions as well, unless one of [`POINTERS`] follows: "paint the car", "paint on a wall".
const PERHAPS_ORDERS: &[&str] = &["color", "colour", "draw", "edit", "keep", "let", "move", "paint", "put", "set"];
const POINTERS: &[&str] =
    &["a", "all", "an", "every", "her", "him", "his", "it", "its", "my", "some", "that", "the", "their", "this"];

/// What stands before an order of polite people.
const POLITE: &[&str] = &["can", "could", "i", "please", "to", "want", "would", "you", "like"];

/// Frequent small words of English, and of languages in Latin letters that people may write instead; none is in both.
const ENGLISH: &[&str] =
    &["a", "an", "and", "at", "from", "in", "is", "of", "on", "the", "to", "under", "wearing", "with", "its", "while"];
const OTHERS: &[&str] = &[
    // German
    "auf", "aus", "dem", "den", "der", "das", "ein", "eine", "einem", "einen", "einer", "eines", "im", "mit", "mein",
    "und", "vom", "von", "vor", // Dutch
    "een", "het", "met", "naar", "op", "van", // French
    "avec", "dans", "des", "du", "et", "la", "le", "les", "sur", "un", "une", // Italian, Spanish, Portuguese
    "che", "col", "con", "da", "di", "el", "em", "gli", "il", "las", "los", "nel", "sul", "sulla", "um", "uma", "una",
    "uno", "y", "é",
];

/// What is to be said of `text` for `model`, in the order of how much it spoils; nothing for an empty text.
pub fn remarks(text: &str, model: &Model) -> Vec<Text> {
    let text = plain(text);
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split(|sign: char| !sign.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let example = || model.examples.first().map_or(words::AN_EXAMPLE, String::as_str).to_owned();
    let foreign = not_understood(&text);
    let mut remarks = Vec::new();
    if !is_english(&text, &words) {
        remarks.push(words::in_english(example()));
    } else {
        if is_order(&words) {
            remarks.push(words::describe(example()));
        }
        let unknown = unknown(&words, &foreign, model);
        if !unknown.is_empty() {
            remarks.push(words::unknown(unknown.join(", ")));
        }
    }
    if !foreign.is_empty() {
        remarks.push(words::means_nothing(foreign.join(", ")));
    }
    remarks
}

/// What stands before an edit by `model` of a picture that it cannot draw, which it is if it is a photograph.
pub fn door(model: &Model, is_photograph: impl FnOnce() -> bool) -> Option<Text> {
    (!model.draws_photographs && is_photograph()).then(|| words::door(&model.name))
}

/// Whether the text is in English, as far as its letters and small words tell.
fn is_english(text: &str, words: &[&str]) -> bool {
    // Latin letters end with Latin Extended-B.
    let is_latin = text.chars().filter(|letter| letter.is_alphabetic()).all(|letter| letter <= '\u{24f}');
    let count = |known: &[&str]| words.iter().filter(|word| known.contains(word)).count();
    let others = count(OTHERS);
    is_latin && (others == 0 || others <= count(ENGLISH))
}

/// Whether the text says what to do instead of what is to be seen.
fn is_order(words: &[&str]) -> bool {
    let mut words = words.iter().skip_while(|word| POLITE.contains(word));
    let first = words.next().copied().unwrap_or_default();
    let next = words.next().copied().unwrap_or_default();
    ORDERS.contains(&first) || PERHAPS_ORDERS.contains(&first) && POINTERS.contains(&next)
}

/// Words of the text that `model` does not know, each once; none where it does not say which ones it knows.
fn unknown<'a>(words: &[&'a str], foreign: &[&str], model: &Model) -> Vec<&'a str> {
    let mut unknown = Vec::new();
    let is_foreign = |word: &str| foreign.iter().any(|part| part.to_lowercase().contains(word));
    for word in words {
        let is_known = model.words.is_empty() || model.words.iter().any(|known| known == word);
        if !is_known && !is_foreign(word) && !unknown.contains(word) {
            unknown.push(word);
        }
    }
    unknown
}

/// Counts how much of a text a model reads; keeps the tokenizer of the model that was asked for last.
#[derive(Default)]
pub struct TextRoom {
    known: Option<(PathBuf, Option<Tokenizer>)>,
}

impl TextRoom {
    /// How much of the room `text` takes, and whether it fits; `None` where the model's tokenizer cannot be read: the
    /// edit will say why.
    pub fn of(&mut self, text: &str, model: &Model) -> Option<(Text, bool)> {
        if self.known.as_ref().is_none_or(|(path, _)| *path != model.path) {
            let tokenizer = Source::open(&model.path).and_then(|source| tokenizer(&source)).ok();
            self.known = Some((model.path.clone(), tokenizer));
        }
        let tokenizer = self.known.as_ref()?.1.as_ref()?;
        let (used, room) = (tokenizer.count(&plain(text)).ok()?, tokenizer.max_tokens - 2);
        Some((words::length(used, room), used <= room))
    }
}

/// Parts of `text` that other programs take for weights, adapters or breaks and here are read letter by letter.
pub fn not_understood(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(['<', '(', '[']) {
        let open = &rest[start..];
        let close = match open.as_bytes()[0] {
            b'<' => '>',
            b'(' => ')',
            _ => ']',
        };
        let doubled = if open[1..].starts_with(&open[..1]) { 2 } else { 1 };
        let end = open
            .find(close)
            .map(|end| end + open[end..].chars().take(doubled).take_while(|&next| next == close).count());
        let Some(end) = end else { break };
        let part = &open[..end];
        // <lora:name:0.8>, (word:1.4), [from:to:0.5]; ((more)), [[less]].
        let is_number = |text: &str| text.trim_matches([')', ']']).trim().parse::<f64>().is_ok();
        let is_meant = match close {
            '>' => part.contains(':'),
            _ => doubled == 2 || part.rsplit_once(':').is_some_and(|(_, number)| is_number(number)),
        };
        if is_meant {
            found.push(part);
            rest = &open[end..];
        } else {
            rest = &open[1..];
        }
    }
    found.extend(text.split([' ', ',', '\n']).find(|word| *word == "BREAK"));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(words: &[&str]) -> Model {
        let about = serde_json::json!({ "words": words, "examples": ["a photo of a blue car"] });
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("imagic.json"), about.to_string()).expect("our own folder");
        crate::catalog::find(&folder.path().to_string_lossy(), &crate::catalog::Places::default())
            .expect("a folder with settings")
    }

    #[test]
    fn a_text_gets_a_word_where_the_model_cannot_mean_what_it_says() {
        let scenes = model(&["a", "photo", "of", "blue", "car", "on", "the", "sandy", "beach", "red"]);
        let anything = model(&[]);
        let said =
            |text: &str, model: &Model| remarks(text, model).iter().map(Text::to_string).collect::<Vec<_>>().join(" ");
        for fine in ["a photo of a blue car on the sandy beach", "A  Photo of\n“blue” CAR", ""] {
            assert_eq!(said(fine, &scenes), "", "{fine}");
        }
        assert_eq!(said("a photo of a shiny blue Porsche on the beach", &scenes), "Unknown words: shiny, porsche.");
        assert_eq!(said("a photo of a shiny blue Porsche on the beach", &anything), "");
        for order in ["make the car blue", "Please turn it red", "can you remove the car", "paint the car blue"] {
            assert!(said(order, &anything).starts_with("Describe the whole picture, for example"), "{order}");
        }
        for fine in ["paint on a wall", "color photo of a car", "a man who can move the car"] {
            assert_eq!(said(fine, &anything), "", "{fine}");
        }
        for other in
            ["Ein Foto eines blauen Autos am Strand mit einem Hund", "파란 자동차", "une voiture bleue sur la plage"]
        {
            assert!(said(other, &scenes).starts_with("Write the text in English, for example"), "{other}");
        }
        assert_eq!(said("a photo of the Eiffel tower in la Défense on the beach", &anything), "");
        assert!(said("a (blue:1.4) car", &scenes).starts_with("(blue:1.4) means nothing here"));
    }

    #[test]
    fn a_counter_tells_how_much_of_the_room_a_text_takes() {
        let places = crate::catalog::Places::of([concat!(env!("CARGO_MANIFEST_DIR"), "/models").into()]);
        let model = crate::catalog::find("scenes-64", &places).expect("the built-in model");
        let mut room = TextRoom::default();
        let mut of = |text: &str| room.of(text, &model).map(|(text, fits)| (text.to_string(), fits));
        let (short, fits) = of("a photo of a dog").expect("a tokenizer");
        assert!(short.starts_with("5 of ") && fits, "{short}");
        let (long, fits) = of(&"a photo of a dog ".repeat(40)).expect("a tokenizer");
        assert!(long.starts_with("200 of ") && long.contains("cut off") && !fits, "{long}");
    }

    #[test]
    fn the_built_in_model_knows_the_words_of_its_examples() {
        let places = crate::catalog::Places::of([concat!(env!("CARGO_MANIFEST_DIR"), "/models").into()]);
        let model = crate::catalog::find("scenes-64", &places).expect("the built-in model");
        assert!(!model.words.is_empty() && !model.draws_photographs);
        for example in &model.examples {
            assert_eq!(remarks(example, &model), Vec::new(), "{example}");
        }
    }

    #[test]
    fn weights_adapters_and_breaks_are_found_and_plain_brackets_are_not() {
        for (text, expected) in [
            (
                "a (blue:1.4) car, BREAK [[red]] <lora:foo:0.8>",
                &["(blue:1.4)", "[[red]]", "<lora:foo:0.8>", "BREAK"][..],
            ),
            ("a ((very)) blue car", &["((very))"]),
            ("a [dog:cat:0.5]", &["[dog:cat:0.5]"]),
            ("a car (blue) at 10:30, 3 < 4 > 2, [sic], unBREAKable", &[]),
            ("a (smile", &[]),
            ("(é:1.2) 파란 (자동차)", &["(é:1.2)"]),
        ] {
            assert_eq!(not_understood(text), expected, "{text}");
        }
    }
}
