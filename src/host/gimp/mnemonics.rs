//! The keys of a window's labels: which letter of each is marked, so that no two share one; knows no widget.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// The letters of European languages end here: Latin Extended-B.
const LAST_LATIN: char = '\u{24f}';

/// `labels`, each with its English text, with `_` before their keys: the first free letter, beginnings of words first;
/// where none is free, a label before gives way if it has another one. Only letters that every keyboard has; a label in
/// another script gets one behind it in brackets, that of its English text if it is free. The labels before
/// `between.start` do not give way, and those from `between.end` on get what is left.
pub fn mark(labels: &[(String, &str)], between: Range<usize>) -> Vec<String> {
    let choices: Vec<_> = labels.iter().map(|(label, english)| choices(label, english)).collect();
    let mut keys = vec![None; labels.len()];
    for label in 0..labels.len() {
        take(label, &choices, &mut keys, |owner| label < between.end && owner >= between.start);
    }
    let marked =
        |((label, _), key): (&(String, &str), Option<char>)| key.map_or(label.clone(), |key| marked(label, key));
    labels.iter().zip(keys).map(marked).collect()
}

/// Finds a key for `label` among its choices, the best first: a free one, or one whose owner may move and can have
/// another, so that as few as can be move.
fn take(label: usize, choices: &[Vec<char>], keys: &mut [Option<char>], may_move: impl Fn(usize) -> bool) {
    // Key -> the label that would take it.
    let mut takers: BTreeMap<char, usize> = BTreeMap::new();
    let mut asking = VecDeque::from([label]);
    while let Some(taker) = asking.pop_front() {
        for &key in &choices[taker] {
            let owner = keys.iter().position(|owned| *owned == Some(key));
            if takers.contains_key(&key) || owner.is_some_and(|owner| !may_move(owner)) {
                continue;
            }
            takers.insert(key, taker);
            if let Some(owner) = owner {
                asking.push_back(owner);
                continue;
            }
            // The free key goes to its taker, the taker's key to its taker, and so on to the label that has none.
            let mut free = key;
            while let Some(before) = keys[takers[&free]].replace(free) {
                free = before;
            }
            return;
        }
    }
}

/// `label` with `_` before `key`, which stands behind it in brackets where it is no letter of it.
pub fn marked_with(label: &str, key: char) -> String {
    let key = key.to_ascii_uppercase();
    match letters(label).into_iter().find(|(_, letter)| *letter == key) {
        Some((at, _)) if is_latin(label) => format!("{}_{}", &label[..at], &label[at..]),
        _ => format!("{label} (_{key})"),
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
    use std::ops::Range;

    #[test]
    fn every_label_has_its_own_key_and_gives_way_where_it_can() {
        let mark = |labels: &[(&str, &'static str)], between: Range<usize>| {
            super::mark(&labels.iter().map(|(label, text)| ((*label).to_owned(), *text)).collect::<Vec<_>>(), between)
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
        assert_eq!(super::marked_with("Insert it", 't'), "Inser_t it");
        assert_eq!(super::marked_with("Insert it", 'x'), "Insert it (_X)");
        assert_eq!(mark(&[("Übung", "Exercise")], 0..9), ["Ü_bung"], "not every keyboard has an Ü");
        assert_eq!(mark(&[("중지", "Halt"), ("찾아보기...", "H")], 0..9), ["중지(_H)", "찾아보기(_A)..."]);
    }
}
