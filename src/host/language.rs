//! The language in which dialogs speak: finds the translation of what the rest of the code says in English. Only the places
//! where a text goes to a toolkit, to GIMP or to the host of `serve` call it; whatever stays between programs is English.
//!
//! A catalogue is one JSON file, English to translation, the same for every host. Keys are whole texts, or templates: `{}`
//! stands for any text and `{#}` for a number. In a translation `{}` or `{0}` is the same text again, which may be a user's
//! and stays as it is, and `{!}` or `{0!}` that text translated as well. A number is written as the language writes it, which
//! the entry `0.5` tells.
#![forbid(unsafe_code)]

use crate::text::Text;
use std::collections::HashMap;
use std::sync::OnceLock;

/// The languages besides English, with their catalogues.
const CATALOGUES: [(&str, &str); 2] = [
    ("de", include_str!("../../plugin-manifest/locale/de.json")),
    ("ko", include_str!("../../plugin-manifest/locale/ko.json")),
];

/// Letters that a template has at least; one with fewer would be found in texts that it does not mean.
const LEAST_LETTERS: usize = 4;

/// The entry that tells how numbers are written.
const NUMBER: &str = "0.5";

/// How often the text in a placeholder is looked up in turn.
const DEPTH: u32 = 4;

/// One catalogue; without entries it is English.
#[derive(Default)]
pub struct Language {
    entries: HashMap<String, String>,
    templates: Vec<Template>,
}

/// `text` in the language of this process, for people; what has no translation stays English.
pub fn translate(text: impl Into<Text>) -> String {
    language().translate(&text.into().to_string())
}

/// The sentence `template` with `values` in its places, in the language of this process.
pub fn say(template: &str, values: &[&str]) -> String {
    language().say(template, values)
}

/// The language that the environment of this process asks for.
pub fn language() -> &'static Language {
    static LANGUAGE: OnceLock<Language> = OnceLock::new();
    LANGUAGE.get_or_init(|| {
        let asked = chosen(|name| std::env::var(name).ok());
        asked.and_then(Language::named).unwrap_or_default()
    })
}

/// The first language of which there is a catalogue; `None` is English. As in gettext the list in LANGUAGE goes first, unless
/// the locale is C. Whether the system has that locale does not matter: the catalogues are in this file.
fn chosen(variable: impl Fn(&str) -> Option<String>) -> Option<&'static str> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_MESSAGES", "LANG"].into_iter().find_map(set);
    if locale.as_deref().is_some_and(|locale| ["C", "POSIX"].contains(&locale)) {
        return None;
    }
    let wanted = set("LANGUAGE").or(locale)?;
    for name in wanted.split(':') {
        let language = name.split(['_', '-', '.', '@']).next().unwrap_or_default().to_ascii_lowercase();
        if language == "en" {
            return None;
        }
        if let Some((known, _)) = CATALOGUES.iter().find(|(known, _)| *known == language) {
            return Some(known);
        }
    }
    None
}

impl Language {
    /// The language with this two-letter name, if there is a catalogue of it.
    pub fn named(name: &str) -> Option<Self> {
        let (_, catalogue) = CATALOGUES.iter().find(|(known, _)| *known == name)?;
        Some(Self::of(serde_json::from_str(catalogue).expect("a test reads every catalogue")))
    }

    /// English and every other language.
    #[cfg(test)]
    pub fn all() -> Vec<Self> {
        let others = CATALOGUES.iter().filter_map(|(name, _)| Self::named(name));
        std::iter::once(Self::default()).chain(others).collect()
    }

    fn of(entries: HashMap<String, String>) -> Self {
        let templates = entries.iter().filter_map(|(english, translation)| Template::of(english, translation));
        Self { templates: templates.collect(), entries }
    }

    /// Every entry, for a host that has texts of its own.
    pub fn entries(&self) -> &HashMap<String, String> {
        &self.entries
    }

    /// `text` translated as a whole, else line by line, else sentence by sentence; what has no entry stays as it is.
    pub fn translate(&self, text: &str) -> String {
        self.find(text, DEPTH).unwrap_or_else(|| text.to_owned())
    }

    /// The sentence `template` with `values` in its places.
    pub fn say(&self, template: &str, values: &[&str]) -> String {
        let translation = self.entries.get(template).map_or(template, String::as_str);
        let places = pieces(template).into_iter().filter_map(|piece| match piece {
            Piece::Text(_) => None,
            Piece::Place { number, .. } => Some(number),
        });
        let values: Vec<String> = values.iter().map(|&value| value.to_owned()).collect();
        self.fill(&pieces(translation), &self.with_numbers(values, places), DEPTH)
    }

    /// `number` as the language writes it.
    pub fn number(&self, number: &str) -> String {
        let sign = self.entries.get(NUMBER).map(|example| example.trim_matches(|c: char| c.is_ascii_digit()));
        sign.map_or_else(|| number.to_owned(), |sign| number.replace('.', sign))
    }

    fn with_numbers(&self, values: Vec<String>, is_number: impl IntoIterator<Item = bool>) -> Vec<String> {
        let values = values.into_iter().zip(is_number);
        values.map(|(value, is_number)| if is_number { self.number(&value) } else { value }).collect()
    }

    fn find(&self, text: &str, depth: u32) -> Option<String> {
        if self.entries.is_empty() {
            return None;
        }
        if let Some(known) = self.entries.get(text) {
            return Some(known.clone());
        }
        let core = text.trim();
        let (before, after) = text.split_once(core).filter(|_| !core.is_empty())?;
        let found = if core.contains('\n') { self.lines(core, depth) } else { self.line(core, depth) };
        found.map(|found| format!("{before}{found}{after}"))
    }

    fn lines(&self, text: &str, depth: u32) -> Option<String> {
        let found: Vec<_> = text.split('\n').map(|line| self.find(line, depth)).collect();
        let whole = text.split('\n').zip(&found).map(|(line, found)| found.as_deref().unwrap_or(line));
        let whole: Vec<&str> = whole.collect();
        found.iter().any(Option::is_some).then(|| whole.join("\n"))
    }

    /// Sentences that all have entries go before a template for the whole, whose placeholder would swallow some of them.
    fn line(&self, text: &str, depth: u32) -> Option<String> {
        let sentences = sentences(text);
        self.exact(text)
            .or_else(|| if sentences.len() > 1 { self.each(&sentences, true, depth) } else { None })
            .or_else(|| self.by_template(text, depth))
            .or_else(|| if sentences.len() > 1 { self.each(&sentences, false, depth) } else { None })
    }

    /// The sentences one after the other, as many at once as have an entry together. `all`: only if each has one.
    fn each(&self, sentences: &[&str], all: bool, depth: u32) -> Option<String> {
        let (mut at, mut parts, mut is_any) = (0, Vec::new(), false);
        while at < sentences.len() {
            let together = (at + 1..=sentences.len()).rev();
            let known = together.into_iter().find_map(|end| Some((end, self.exact(&sentences[at..end].join(" "))?)));
            let known = known.or_else(|| Some((at + 1, self.by_template(sentences[at], depth).filter(|_| all)?)));
            if all && known.is_none() {
                return None;
            }
            is_any |= known.is_some();
            let (end, part) = known.unwrap_or_else(|| (at + 1, sentences[at].to_owned()));
            parts.push(part);
            at = end;
        }
        is_any.then(|| parts.join(" "))
    }

    fn exact(&self, text: &str) -> Option<String> {
        variants(text).into_iter().find_map(|variant| Some(variant.shape(self.entries.get(&variant.text)?)))
    }

    /// By the template with the most text of its own.
    fn by_template(&self, text: &str, depth: u32) -> Option<String> {
        let depth = depth.checked_sub(1)?;
        let mut best: Option<(&Template, Variant, Vec<String>)> = None;
        for variant in variants(text) {
            for template in &self.templates {
                // The same text always finds the same template, in whatever order the table of entries gives them.
                let rank = |template: &Template| (template.weight, template.literals.concat());
                let is_better = best.as_ref().is_none_or(|(known, of, _)| {
                    if of.text == variant.text { rank(template) > rank(known) } else { template.weight > known.weight }
                });
                if let Some(values) = is_better.then(|| template.values(&variant.text)).flatten() {
                    best = Some((template, variant.clone(), values));
                }
            }
        }
        let (template, variant, values) = best?;
        let values = self.with_numbers(values, template.numbers.iter().copied());
        Some(variant.shape(&self.fill(&template.translation, &values, depth)))
    }

    fn fill(&self, pieces: &[Piece], values: &[String], depth: u32) -> String {
        let mut text = String::new();
        for piece in pieces {
            match piece {
                Piece::Text(literal) => text += literal,
                Piece::Place { at, translated, .. } => {
                    let value = values.get(*at).map_or("", String::as_str);
                    let found = translated.then(|| self.find(value, depth)).flatten();
                    text += found.as_deref().unwrap_or(value);
                }
            }
        }
        text
    }
}

/// A key with placeholders and its translation.
struct Template {
    /// The text before, between and behind the placeholders.
    literals: Vec<String>,
    /// Which of them are numbers.
    numbers: Vec<bool>,
    weight: usize,
    translation: Vec<Piece>,
}

impl Template {
    /// `None` for a key without placeholders, and for one that is looked up by its name only.
    fn of(english: &str, translation: &str) -> Option<Self> {
        let (mut literals, mut numbers) = (vec![String::new()], Vec::new());
        for piece in pieces(english) {
            match piece {
                Piece::Text(text) => *literals.last_mut().expect("never empty") += &text,
                Piece::Place { number, .. } => {
                    numbers.push(number);
                    literals.push(String::new());
                }
            }
        }
        let weight =
            literals.iter().flat_map(|literal| literal.chars()).filter(|letter| letter.is_alphabetic()).count();
        let is_told_apart = weight >= LEAST_LETTERS || weight > 0 && numbers.iter().all(|&number| number);
        let is_one = !numbers.is_empty() && is_told_apart;
        is_one.then(|| Self { literals, numbers, weight, translation: pieces(translation) })
    }

    /// What stands in the places; `None` when the text is another one.
    fn values(&self, text: &str) -> Option<Vec<String>> {
        let (first, others) = self.literals.split_first()?;
        let (last, between) = others.split_last()?;
        let mut rest = text.strip_prefix(first.as_str())?.strip_suffix(last.as_str())?;
        let mut values = Vec::new();
        for literal in between {
            let (value, behind) = rest.split_once(literal.as_str())?;
            values.push(value.to_owned());
            rest = behind;
        }
        values.push(rest.to_owned());
        let fits = |(value, &number): (&String, &bool)| {
            !value.is_empty() && (!number || value.chars().all(|c| c.is_ascii_digit() || ".-".contains(c)))
        };
        values.iter().zip(&self.numbers).all(fits).then_some(values)
    }
}

/// A part of a key or a translation.
enum Piece {
    Text(String),
    Place { at: usize, translated: bool, number: bool },
}

/// Splits at `{}`, `{0}`, `{#}`, `{!}` and `{0!}`; other braces are text.
fn pieces(text: &str) -> Vec<Piece> {
    let (mut pieces, mut literal, mut rest, mut next) = (Vec::new(), String::new(), text, 0);
    while let Some((before, behind)) = rest.split_once('{') {
        literal += before;
        let inside = behind.split_once('}');
        let place = inside.and_then(|(inside, behind)| {
            let (translated, number) = (inside.ends_with('!'), inside.ends_with('#'));
            let digits = inside.trim_end_matches(['!', '#']);
            let at = if digits.is_empty() { next } else { digits.parse().ok()? };
            (inside.len() - digits.len() <= 1).then_some((Piece::Place { at, translated, number }, behind))
        });
        match place {
            Some((place, behind)) => {
                pieces.extend([Piece::Text(std::mem::take(&mut literal)), place]);
                (next, rest) = (next + 1, behind);
            }
            None => {
                literal.push('{');
                rest = behind;
            }
        }
    }
    pieces.push(Piece::Text(literal + rest));
    pieces
}

/// A text as a key may have it.
#[derive(Clone)]
struct Variant {
    text: String,
    is_lowered: bool,
    is_without_stop: bool,
}

/// `text` as it is, and as it was before `report::sentence` made a sentence of it.
fn variants(text: &str) -> Vec<Variant> {
    let lowered = |text: &str| {
        let mut letters = text.chars();
        letters.next().into_iter().flat_map(char::to_lowercase).chain(letters).collect::<String>()
    };
    let mut variants = Vec::new();
    let stopless = text.strip_suffix('.').filter(|text| !text.ends_with('.'));
    for (text, is_without_stop) in stopless.map(|text| (text, true)).into_iter().chain([(text, false)]) {
        variants.push(Variant { text: text.to_owned(), is_lowered: false, is_without_stop });
        let lowered = lowered(text);
        if lowered != text {
            variants.push(Variant { text: lowered, is_lowered: true, is_without_stop });
        }
    }
    variants
}

impl Variant {
    /// The translation in the shape of the text that was asked for.
    fn shape(&self, translation: &str) -> String {
        let mut letters = translation.chars();
        let first = letters.next();
        let first: String = match first {
            Some(first) if self.is_lowered => first.to_uppercase().collect(),
            first => first.into_iter().collect(),
        };
        let stop = if self.is_without_stop && !translation.ends_with(['.', '!', '?', ':']) { "." } else { "" };
        first + letters.as_str() + stop
    }
}

/// `text` cut behind each full stop that a space follows.
fn sentences(text: &str) -> Vec<&str> {
    let (mut sentences, mut begin) = (Vec::new(), 0);
    for (at, _) in text.match_indices(". ") {
        sentences.push(text[begin..=at].trim());
        begin = at + 1;
    }
    sentences.push(text[begin..].trim());
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::request::Stage;
    use crate::error::{Doing, Error, Hint};
    use crate::host::report;
    use crate::params::{Domain, PARAMS, Params};
    use crate::text::sentence;
    use serde_json::json;

    fn german() -> Language {
        Language::named("de").expect("German")
    }

    /// Numbers of the places, sorted.
    fn places(text: &str) -> Vec<usize> {
        let place = |piece: &Piece| match piece {
            Piece::Text(_) => None,
            Piece::Place { at, .. } => Some(*at),
        };
        let mut places: Vec<_> = pieces(text).iter().filter_map(place).collect();
        places.sort_unstable();
        places
    }

    #[test]
    fn the_environment_says_which_language() {
        for (variables, wanted) in [
            (vec![], None),
            (vec![("LANG", "de_AT.UTF-8")], Some("de")),
            (vec![("LANG", "ko_KR.UTF-8"), ("LC_ALL", "")], Some("ko")),
            (vec![("LANG", "ko_KR.UTF-8"), ("LC_MESSAGES", "de_DE@euro")], Some("de")),
            (vec![("LANG", "ko_KR.UTF-8"), ("LC_MESSAGES", "de_DE"), ("LC_ALL", "en_US.UTF-8")], None),
            (vec![("LANG", "en_US.UTF-8"), ("LANGUAGE", "ko")], Some("ko")),
            (vec![("LANG", "en_US.UTF-8"), ("LANGUAGE", "fr_FR:de-DE:ko")], Some("de")),
            (vec![("LANG", "de_DE.UTF-8"), ("LANGUAGE", "fr:en:de")], None),
            (vec![("LANG", "de_DE.UTF-8"), ("LANGUAGE", "fr")], None),
            (vec![("LANG", "fr_FR.UTF-8")], None),
            (vec![("LANGUAGE", "de")], Some("de")),
            (vec![("LC_ALL", "C"), ("LANGUAGE", "de"), ("LANG", "de_DE")], None),
            (vec![("LC_ALL", "C.UTF-8"), ("LANGUAGE", "de")], Some("de")),
            (vec![("LC_ALL", "C.UTF-8")], None),
        ] {
            let variable =
                |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
            assert_eq!(chosen(variable), wanted, "{variables:?}");
        }
    }

    #[test]
    fn catalogues_have_the_same_keys_with_the_same_places_and_no_empty_text() {
        let keys: Vec<_> = CATALOGUES
            .iter()
            .map(|(name, text)| {
                let entries: HashMap<String, String> =
                    serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
                for (key, translation) in &entries {
                    assert!(!translation.trim().is_empty(), "{name}: nothing for {key}");
                    assert_eq!(places(key), places(translation), "{name}: {key} -> {translation}");
                }
                let mut keys: Vec<String> = entries.into_keys().collect();
                keys.sort();
                keys
            })
            .collect();
        for others in &keys[1..] {
            let odd: Vec<_> = keys[0].iter().filter(|key| !others.contains(key)).collect();
            let more: Vec<_> = others.iter().filter(|key| !keys[0].contains(key)).collect();
            assert!(odd.is_empty() && more.is_empty(), "only in one of them: {odd:?} {more:?}");
        }
    }

    #[test]
    fn the_table_the_stages_and_what_dialogs_say_have_entries() {
        let stages = [Stage::LoadModel, Stage::OptimizeTextEmbedding, Stage::FineTune, Stage::Generate];
        let mut texts: Vec<String> = stages.iter().map(|stage| stage.label().to_string()).collect();
        for param in PARAMS {
            texts.extend([param.label.to_owned(), param.help.to_owned(), report::help(param).to_string()]);
            if let Domain::Choice { options } = param.domain {
                texts.extend(options.iter().map(|(_, label)| (*label).to_owned()));
            }
        }
        let said = [
            report::OTHER_MODELS,
            report::FIRST_EDIT,
            report::KNOWN_IMAGE,
            report::OF_LAYER,
            report::SHOWN,
            report::STOPPING,
            report::STOPPED,
        ];
        texts.extend(said.map(|text| text.to_string()));
        let hint = Hint::UnfamiliarPicture { psnr: 19.84, familiar_psnr: 24.0 };
        texts.extend([hint.to_string(), sentence(&hint.to_string())]);
        for language in Language::all().iter().skip(1) {
            for text in &texts {
                assert_ne!(&language.translate(text), text, "no translation");
            }
        }
    }

    #[test]
    fn texts_are_found_whole_as_sentences_by_line_and_by_template() {
        let german = german();
        for (english, wanted) in [
            ("Stop", "Stopp"),
            ("Nobody knows this.", "Nobody knows this."),
            (
                "Done in 3 min 20 s.\nThe edited layer is gone, so the result lies on top of the image.",
                "Fertig in 3 min 20 s.\nDie bearbeitete Ebene gibt es nicht mehr, daher liegt das Ergebnis zuoberst im Bild.",
            ),
            (
                "Draws noise. For photographs choose your own Stable Diffusion folder with Browse...",
                "Draws noise. Für Fotos wählen Sie mit „Durchsuchen...“ Ihren eigenen Stable-Diffusion-Ordner.",
            ),
            (
                "B: fine-tuning the model, step 3 of 40, 3 min 20 s left",
                "B: Modell wird angepasst, Schritt 3 von 40, noch 3 min 20 s",
            ),
            ("loss 0.25", "Verlust 0,25"),
            (
                "B: fine-tuning the model, step 3 of 40, 1.8 s left",
                "B: Modell wird angepasst, Schritt 3 von 40, noch 1,8 s",
            ),
            ("C: generating, 2 h 5 min left", "C: Bild wird erzeugt, noch 2 h 5 min"),
            ("Loading the model, step 3 of 40", "Das Modell wird geladen, Schritt 3 von 40"),
            (
                "The settings are not kept: eta is 3, must be 0 to 2.",
                "Die Einstellungen werden nicht behalten: eta ist 3, muss zwischen 0 und 2 liegen.",
            ),
            (
                "Goes on from where it was stopped: about 1 min 40 s more.",
                "Macht dort weiter, wo angehalten wurde: noch etwa 1 min 40 s.",
            ),
        ] {
            assert_eq!(german.translate(english), wanted);
        }
        let korean = Language::named("ko").expect("Korean");
        assert_eq!(
            korean.translate("B: fine-tuning the model, step 3 of 40, 3 min 20 s left"),
            "B: 모델 미세 조정 중, 스텝 3/40, 3분 20초 남음"
        );
        assert_eq!(Language::default().translate("Stop"), "Stop");
    }

    #[test]
    fn errors_are_found_as_they_are_and_as_sentences() {
        let german = german();
        let error = |id: &str, value| Params::paper().set(id, &value).expect_err("a wrong value").to_string();
        for (english, wanted) in [
            (error("eta", json!(3)), "eta ist 3, muss zwischen 0 und 2 liegen"),
            (error("seed", json!(-1)), "seed ist -1, muss eine ganze Zahl von 0 bis 2147483647 sein"),
            (error("prompt", json!(1)), "prompt ist 1, muss ein Text sein"),
            (error("keep_untouched", json!(2)), "keep_untouched ist 2, muss wahr (true) oder falsch (false) sein"),
            (
                Params::paper().check().expect_err("no text").to_string(),
                "der Zieltext ist leer; schreiben Sie, was aus dem Bild werden soll",
            ),
            (
                Error::model("/my. models".as_ref(), "is missing; the model folder is not complete").to_string(),
                "Modell /my. models: fehlt; der Modellordner ist unvollständig",
            ),
            (
                Error::file(Doing::Write, "/Done".as_ref())(std::io::Error::from_raw_os_error(28)).to_string(),
                "/Done kann nicht geschrieben werden: Kein Speicherplatz mehr auf dem Datenträger (Fehler 28)",
            ),
            (
                "GIMP refused to make a layer: no reason".to_owned(),
                "GIMP hat es abgelehnt, eine Ebene anzulegen: no reason",
            ),
            (
                "settings is not a JSON object like {\"guidance\": 3}: x".to_owned(),
                "settings ist kein JSON-Objekt wie {\"guidance\": 3}: x",
            ),
        ] {
            assert_eq!(german.translate(&english), wanted);
            let shaped = sentence(&english);
            assert_eq!(german.translate(&shaped), sentence(wanted), "{shaped}");
        }
    }

    #[test]
    fn what_is_the_users_stays_as_it_is() {
        let german = german();
        assert_eq!(german.translate("Layer “Done” of Stop.png"), "Ebene „Done“ von Stop.png");
        assert_eq!(german.translate("Layer “Seed. Stop” of a {}.png"), "Ebene „Seed. Stop“ von a {}.png");
        assert_eq!(german.say("{}, seed {#}", &["Seed (eta 0.7)", "3"]), "Seed (eta 0.7), Startwert 3");
        assert_eq!(german.say("Strength {#}, seed {#}", &["0.7", "3"]), "Stärke 0,7, Startwert 3");
        let examples = "For example <a href=\"0\">a dog</a>, <a href=\"1\">Stop. Close</a>";
        assert_eq!(german.translate(examples), examples.replace("For example", "Zum Beispiel"));
        assert_eq!(Language::default().say("{}, seed {#}", &["Stop", "3"]), "Stop, seed 3");
    }
}
