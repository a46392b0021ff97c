//! The keys of a window's labels: which letter of each is marked, so that no two share one; knows no widget.
#![forbid(unsafe_code)]

use crate::host::language::Language;
use crate::text::Text;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// The letters of European languages end here: Latin Extended-B.
const LAST_LATIN: char = '\u{24f}';

/// The keys of all labels of a window, a different one for each, as far as their letters go.
#[derive(Default)]
pub struct Mnemonics {
    /// What each label can have, the best first.
    choices: Vec<Vec<char>>,
    /// The label that has a key.
    owners: BTreeMap<char, usize>,
}

impl Mnemonics {
    /// `labels` with `_` before their keys: the first free letter, beginnings of words first; where none is free, a
    /// label before gives way if it has another one. Only letters that every keyboard has; a label in another script
    /// gets one behind it in brackets, that of its English text if it is free. The labels before `between.start` do not
    /// give way, and those from `between.end` on get what is left. Each comes with its English text.
    pub fn mark<'a>(labels: impl IntoIterator<Item = (String, &'a str)>, between: Range<usize>) -> Vec<String> {
        let labels: Vec<_> = labels.into_iter().collect();
        let mut keys =
            Self { choices: labels.iter().map(|(label, text)| choices(label, text)).collect(), ..Self::default() };
        for label in 0..labels.len() {
            keys.take(label, |owner| label < between.end && owner >= between.start);
        }
        let key_of = |number: usize| keys.owners.iter().find(|(_, owner)| **owner == number).map(|(key, _)| *key);
        let marked = labels.iter().enumerate().map(|(number, (label, _))| match key_of(number) {
            Some(key) => marked(label, key),
            None => label.clone(),
        });
        marked.collect()
    }

    /// `label`, one of `texts`, as `language` says it and with its key, see [`Self::mark`]. Those that do not give way
    /// are GIMP's own, which it marks itself, in other languages mostly with the same letters.
    pub fn marked(label: &Text, texts: &[&Text], between: Range<usize>, language: &Language) -> String {
        let Some(at) = texts.iter().position(|text| *text == label) else { return language.render(label) };
        let shown = |(at, text): (usize, &&Text)| {
            if at < between.start { text.to_string() } else { language.render(text) }
        };
        let shown = texts.iter().enumerate().map(shown).zip(texts.iter().map(|text| text.key));
        Self::mark(shown, between.clone()).swap_remove(at)
    }

    /// Finds a key for `label`: a free one, or one whose owner may move and can have another, so that as few as can be
    /// move.
    fn take(&mut self, label: usize, may_move: impl Fn(usize) -> bool) {
        // Key -> the label that would take it.
        let mut takers: BTreeMap<char, usize> = BTreeMap::new();
        let mut asking = VecDeque::from([label]);
        while let Some(taker) = asking.pop_front() {
            for &key in &self.choices[taker] {
                let owner = self.owners.get(&key).copied();
                if takers.contains_key(&key) || owner.is_some_and(|owner| !may_move(owner)) {
                    continue;
                }
                takers.insert(key, taker);
                match owner {
                    Some(owner) => asking.push_back(owner),
                    None => return self.move_along(key, &takers),
                }
            }
        }
    }

    /// Gives `free` to its taker, the taker's key to its taker, and so on to the label that has none.
    fn move_along(&mut self, free: char, takers: &BTreeMap<char, usize>) {
        let mut key = free;
        loop {
            let taker = takers[&key];
            let before = self.owners.iter().find(|(_, owner)| **owner == taker).map(|(key, _)| *key);
            self.owners.insert(key, taker);
            match before {
                Some(before) => key = before,
                None => return,
            }
        }
    }
}

/// Whether a label is written in Latin letters, of which one can be its key.
fn is_latin(label: &str) -> bool {
    label.chars().find(|letter| letter.is_alphabetic()).is_some_and(|letter| letter <= LAST_LATIN)
}

/// Where the letters of a label are that can be its key, beginnings of words first.
fn letters(label: &str) -> Vec<(usize, char)> {
    let letters = || label.char_indices().filter(|(_, letter)| letter.is_ascii_alphabetic());
    let begins_word = |&(at, _): &(usize, char)| !label[..at].ends_with(|before: char| before.is_alphanumeric());
    letters().filter(begins_word).chain(letters()).map(|(at, letter)| (at, letter.to_ascii_uppercase())).collect()
}

/// The keys that a label can have.
fn choices(label: &str, english: &str) -> Vec<char> {
    if is_latin(label) {
        return letters(label).into_iter().map(|(_, letter)| letter).collect();
    }
    let own = english.chars().filter(char::is_ascii_alphabetic).map(|letter| letter.to_ascii_uppercase());
    own.chain('A'..='Z').collect()
}

/// `label` with `_` before its key.
fn marked(label: &str, key: char) -> String {
    if !is_latin(label) {
        let text = label.trim_end_matches('.');
        return format!("{text}(_{key}){}", &label[text.len()..]);
    }
    let at = letters(label).into_iter().find(|(_, letter)| *letter == key).map_or(0, |(at, _)| at);
    format!("{}_{}", &label[..at], &label[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_has_its_own_key_and_gives_way_where_it_can() {
        let mark = |labels: &[(&str, &'static str)], between: Range<usize>| {
            Mnemonics::mark(labels.iter().map(|(label, english)| ((*label).to_owned(), *english)), between)
        };
        let same = |labels: &[&'static str], between| {
            mark(&labels.iter().map(|label| (*label, *label)).collect::<Vec<_>>(), between)
        };
        assert_eq!(same(&["Stop", "Steps", "Tops", "Spot"], 0..9), ["_Stop", "S_teps", "T_ops", "S_pot"]);
        assert_eq!(same(&["Stop", "Tops", "Spot", "Pots", "Toss"], 0..9)[4], "Toss", "no letter is left");
        assert_eq!(same(&["Past", "As"], 0..9), ["_Past", "_As"]);
        assert_eq!(same(&["Sat", "As", "S"], 0..9), ["Sa_t", "_As", "_S"], "the first gives way");
        assert_eq!(same(&["Sat", "As", "S"], 1..9), ["_Sat", "_As", "S"], "the first must not give way");
        assert_eq!(same(&["Sat", "As", "S"], 0..2), ["_Sat", "_As", "S"], "the last gets what is left");
        assert_eq!(mark(&[("Übung", "Exercise")], 0..9), ["Ü_bung"], "not every keyboard has an Ü");
        assert_eq!(mark(&[("중지", "Halt"), ("찾아보기...", "H")], 0..9), ["중지(_H)", "찾아보기(_A)..."]);
    }
}
