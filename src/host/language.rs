//! The language in which dialogs speak: renders texts with a catalogue. Only the places where a text goes to a toolkit,
//! to GIMP or to the host of `serve` call it; whatever stays between programs is English.
//!
//! A catalogue is one JSON file, from the key of a [`Text`] to its translation, the same for every host. A translation
//! has the places of its key, in the order that the language wants. A number is written as the language writes it,
//! which the entry `0.5` tells.
#![forbid(unsafe_code)]

use crate::text::{Text, text};
use std::collections::HashMap;
use std::sync::OnceLock;

/// The languages besides English, with their catalogues.
const CATALOGUES: [(&str, &str); 2] = [
    ("de", include_str!("../../plugin-manifest/locale/de.json")),
    ("ko", include_str!("../../plugin-manifest/locale/ko.json")),
];

/// The entry that tells how numbers are written.
const NUMBER: Text = text!("0.5");

/// One catalogue; without entries it is English.
#[derive(Default)]
pub struct Language {
    entries: HashMap<String, String>,
}

/// `text` in the language of this process, for people.
pub fn translate(text: &Text) -> String {
    language().render(text)
}

/// The language that the environment of this process asks for.
pub fn language() -> &'static Language {
    static LANGUAGE: OnceLock<Language> = OnceLock::new();
    LANGUAGE.get_or_init(|| {
        let asked = chosen(|name| std::env::var(name).ok());
        asked.and_then(Language::named).unwrap_or_default()
    })
}

/// The first language of which there is a catalogue; `None` is English. As in gettext the list in LANGUAGE goes first,
/// unless the locale is C. Whether the system has that locale does not matter: the catalogues are in this file.
fn chosen(variable: impl Fn(&str) -> Option<String>) -> Option<&'static str> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_MESSAGES", "LANG"].into_iter().find_map(set);
    if locale.as_deref().is_some_and(|locale| ["C", "POSIX"].contains(&locale)) {
        return None;
    }
    let known = |name: &str| {
        let language = name.split(['_', '-', '.', '@']).next().unwrap_or_default().to_ascii_lowercase();
        let found = CATALOGUES.iter().map(|(known, _)| *known).find(|known| *known == language);
        // English ends the search and has no catalogue.
        if language == "en" { Some(None) } else { found.map(Some) }
    };
    set("LANGUAGE").or(locale)?.split(':').find_map(known).flatten()
}

impl Language {
    /// The language with this two-letter name, if there is a catalogue of it.
    pub fn named(name: &str) -> Option<Self> {
        let (_, catalogue) = CATALOGUES.iter().find(|(known, _)| *known == name)?;
        Some(Self { entries: serde_json::from_str(catalogue).expect("a test reads every catalogue") })
    }

    /// English and every other language.
    #[cfg(test)]
    pub fn all() -> Vec<Self> {
        let others = CATALOGUES.iter().filter_map(|(name, _)| Self::named(name));
        std::iter::once(Self::default()).chain(others).collect()
    }

    /// Every entry, for a host that has texts of its own.
    pub fn entries(&self) -> &HashMap<String, String> {
        &self.entries
    }

    /// `text` in this language; what has no entry is English.
    pub fn render(&self, text: &Text) -> String {
        text.render(&|key| self.template(key), self.template(NUMBER.key).trim_matches(|c: char| c.is_ascii_digit()))
    }

    /// `number` as the language writes it.
    pub fn number(&self, number: f64) -> String {
        self.render(&text!("{number}", number))
    }

    fn template(&self, key: &'static str) -> &str {
        self.entries.get(key).map_or(key, String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::host::words;
    use crate::params::Params;
    use crate::text::Value;
    use serde_json::json;

    fn german() -> Language {
        Language::named("de").expect("German")
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
    fn errors_are_said_in_the_language_with_what_is_the_users_as_it_is() {
        let german = german();
        let error = |id: &str, value| Params::paper().set(id, &value).expect_err("a wrong value");
        for (error, wanted) in [
            (error("eta", json!(3)), "eta ist 3, muss zwischen 0 und 2 liegen"),
            (error("seed", json!(-1)), "seed ist -1, muss eine ganze Zahl von 0 bis 2147483647 sein"),
            (error("prompt", json!(1)), "prompt ist 1, muss ein Text sein"),
            (
                Error::model("/my. models".as_ref(), text!("is missing; the model folder is not complete")),
                "Modell /my. models: fehlt; der Modellordner ist unvollständig",
            ),
            (
                Error::file(crate::error::Doing::Write, "/Done".as_ref())(std::io::Error::from_raw_os_error(28)),
                "/Done kann nicht geschrieben werden: Kein Speicherplatz mehr auf dem Datenträger (Fehler 28); \
                 schaffen Sie dort Platz",
            ),
        ] {
            assert_eq!(german.render(&error.text()), wanted);
            assert_eq!(german.render(&error.text().sentence()), crate::text::sentence(wanted));
        }
    }

    #[test]
    fn values_are_said_in_the_language_and_in_its_order() {
        let left = text!("{minutes} min {seconds} s", minutes = 3, seconds = 20);
        let stage = text!("B: fine-tuning the model");
        let bar = text!("{stage}, step {step} of {steps}, {left} left", stage, step = 3, steps = 40, left);
        let korean = Language::named("ko").expect("Korean");
        assert_eq!(german().render(&bar), "B: Modell wird angepasst, Schritt 3 von 40, noch 3 min 20 s");
        assert_eq!(korean.render(&bar), "B: 모델 미세 조정 중, 스텝 3/40, 3분 20초 남음");
        assert_eq!(Language::default().render(&bar), bar.to_string());
        let strength = words::result(0.7.into(), 3.into());
        assert_eq!(german().render(&strength), "Stärke 0,7, Startwert 3");
        let title = words::earlier_edit("Seed".into(), 0.7.into(), 3.into());
        assert_eq!(german().render(&title), "Seed (eta 0,7, Startwert 3)");
    }

    #[test]
    fn what_no_catalogue_knows_is_english() {
        let unknown = Text { key: "{size} of nothing", values: vec![("size", Value::Number("0.5".into()))] };
        assert_eq!(german().render(&unknown), "0,5 of nothing");
    }
}
