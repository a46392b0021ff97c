//! The keys of the dialog's texts: which labels there are, and which of them get the best letters.
#![forbid(unsafe_code)]

use super::mnemonics::{mark, marked_with};
use super::panel;
use crate::host::language::{Language, language};
use crate::host::words::EARLIER_EDITS;
use crate::params::PARAMS;
use crate::text::{Text, text};

/// After the fields and the panel.
const MORE: [&Text; 3] = [&FRONT, &EARLIER_EDITS.label, &REMOVE];

/// The tab with the fields that are always shown.
pub static FRONT: Text = text!("Text");
pub static REMOVE: Text = text!("Remove");

/// What is pressed in the dialog of one GIMP version, in the order in which it gets its key.
pub struct Keys {
    /// Buttons of GIMP's own, which it marks itself.
    pub of_gimp: &'static [&'static Text],
    pub before_fields: &'static [&'static Text],
    pub after_fields: &'static [&'static Text],
}

impl Keys {
    /// `label` in the user's language with `_` before its key: no two texts of the dialog share one; what is folded
    /// away gets what is left.
    pub fn with_key(&self, label: &Text) -> String {
        self.with_key_in(language(), label)
    }

    /// `label` with the key of `other`, in whose place it stands.
    pub fn with_key_of(&self, label: &Text, other: &Text) -> String {
        if label == other {
            return self.with_key(label);
        }
        let marked = self.with_key(other);
        let key = marked.split_once('_').and_then(|(_, key)| key.chars().next());
        let label = language().render(label);
        key.map_or(label.clone(), |key| marked_with(&label, key))
    }

    pub fn with_key_in(&self, language: &Language, label: &Text) -> String {
        let mut texts = self.shown();
        let between = self.of_gimp.len()..texts.len();
        texts.extend(labels(true));
        let Some(at) = texts.iter().position(|text| *text == label) else { return language.render(label) };
        // GIMP's own are in other languages mostly marked at the same letters as in English.
        let own = |at| at < between.start;
        let labels: Vec<_> = texts
            .iter()
            .enumerate()
            .map(|(at, text)| (if own(at) { text.to_string() } else { language.render(text) }, text.key))
            .collect();
        mark(&labels, between).swap_remove(at)
    }

    /// All that is not folded away.
    fn shown(&self) -> Vec<&'static Text> {
        let buttons = |buttons: &'static [&'static Text]| buttons.iter().copied();
        let fields = buttons(self.before_fields).chain(labels(false)).chain(buttons(self.after_fields));
        buttons(self.of_gimp).chain(fields).chain(panel::BUTTONS).chain(MORE).collect()
    }

    /// Fails where two texts share a key in a language, or one that is always shown has none.
    #[cfg(test)]
    pub fn check(&self) {
        let shown = self.shown();
        for language in Language::all() {
            let key = |label: &Text| {
                let marked = self.with_key_in(&language, label);
                marked.split_once('_').and_then(|(_, key)| key.chars().next()).map(|key| key.to_ascii_uppercase())
            };
            let mut keys: Vec<char> = Vec::new();
            for label in &shown {
                keys.push(key(label).unwrap_or_else(|| panic!("no key is left for {}", language.render(label))));
            }
            keys.extend(labels(true).filter_map(key));
            let count = keys.len();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), count, "{keys:?}");
        }
    }
}

fn labels(advanced: bool) -> impl Iterator<Item = &'static Text> {
    PARAMS.iter().filter(move |param| param.advanced == advanced).map(|param| &param.label)
}
