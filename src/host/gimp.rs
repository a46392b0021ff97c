//! What the adapters of all GIMP versions share: which version started us, the last values and what a document
//! remembers; calls no GIMP function.
//!
//! The files in `gimp/` call GIMP through the `libgimp` of the adapter that they are compiled into: once for each version,
//! because the C types of two versions have the same names and must not mix.

use crate::engine::request::{Edit, Tuned};
use crate::error::{Error, Result};
use crate::host::language::{Language, say};
use crate::host::report::{layer_name, stage_seconds};
use crate::host::{gimp2, gimp3};
use crate::params::{CUSTOM, Params};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::{CStr, CString, c_char, c_int};
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::{fs, slice};

/// Exit status of a plug-in that could not start.
const FAILED: c_int = 1;

/// Serves the GIMP that started this process and returns the exit status; `None` when it was not GIMP.
///
/// # Safety
/// `argv` holds `argc` C strings that live as long as the process.
pub unsafe fn run_if_started_by_gimp(argc: c_int, argv: *mut *mut c_char) -> Option<c_int> {
    let count = usize::try_from(argc).ok().filter(|&count| count > 0)?;
    // SAFETY: the caller's promise.
    let pointers = unsafe { slice::from_raw_parts(argv, count) };
    // SAFETY: the caller's promise.
    let arguments: Vec<&CStr> = pointers.iter().map(|&pointer| unsafe { CStr::from_ptr(pointer) }).collect();
    // SAFETY: the caller's promise.
    let served = unsafe {
        match starter(&arguments)? {
            Starter::Gimp2 => gimp2::main(argc, argv),
            Starter::Gimp3 => gimp3::main(argc, argv),
        }
    };
    Some(served.unwrap_or_else(|error| {
        eprintln!("imagic-edit: {error}");
        FAILED
    }))
}

#[derive(Debug, PartialEq)]
enum Starter {
    Gimp2,
    Gimp3,
}

/// GIMP 2.10 calls `PROGRAM -gimp READ WRITE MODE STACK`, GIMP 3 `PROGRAM -gimp PROTOCOL READ WRITE MODE STACK`.
fn starter(arguments: &[&CStr]) -> Option<Starter> {
    let is_mode = |at: usize| arguments.get(at).is_some_and(|text| [c"-query", c"-init", c"-run"].contains(text));
    match arguments.get(1) {
        Some(&first) if first == c"-gimp" && is_mode(4) => Some(Starter::Gimp2),
        Some(&first) if first == c"-gimp" => Some(Starter::Gimp3),
        _ => None,
    }
}

/// Runs what C has called; a panic must not cross into C and gives `on_panic`.
pub fn guard<T>(on_panic: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(on_panic)
}

/// What a call of the procedure answers after a panic.
pub fn panicked() -> Error {
    Error::Engine("the plug-in panicked; the text before this one on the console says where".into())
}

/// A text for C; NUL, which no GIMP text can hold, becomes a space.
pub fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).expect("NULs are replaced")
}

/// A rectangle in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rectangle {
    pub x: i32,
    pub y: i32,
    pub width: i32,
    pub height: i32,
}

impl Rectangle {
    /// Pixels in it; what libgimp reports is never negative.
    pub fn area(self) -> usize {
        self.width as usize * self.height as usize
    }
}

/// How the pixels of an image are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Rgb,
    Gray,
    Indexed,
}

/// What a drawable is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Layer,
    FloatingSelection,
    LayerMask,
    Channel,
}

/// Name of the parasites on images (a [`History`]) and on result layers (a [`Recipe`]).
pub const PARASITE: &str = "imagic-edit";

/// Runs that a document remembers; older ones go.
pub const REMEMBERED_RUNS: usize = 100;

/// What a document remembers, as JSON in a parasite that is saved with it.
#[derive(Debug, Serialize, Deserialize)]
pub struct History {
    /// Format of this object: 1.
    version: u32,
    /// Identifies the document in the cache of tuned models.
    pub document: String,
    /// All edits, oldest first.
    pub runs: Vec<Recipe>,
}

/// How one result layer was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recipe {
    /// Tattoo (GIMP's lasting number) of the result layer.
    pub layer: u32,
    /// Tattoo of the layer that was edited.
    pub source: u32,
    /// Tattoo of the group that was made around several results; none around one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// Where the tuned model came from.
    pub tuned: TunedFrom,
    /// All parameters by id.
    pub params: Map<String, Value>,
    /// Seconds each stage took; empty where an older version did not say.
    #[serde(default)]
    pub seconds: Map<String, Value>,
}

/// [`Tuned`] as the JSON says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TunedFrom {
    /// Stages A and B ran.
    Now,
    /// Kept in memory by an edit before.
    InMemory,
    /// Read from the cache folder.
    OnDisk,
}

/// What is told of a result besides its parameters.
#[derive(Clone, Debug)]
pub struct Made {
    /// Where the tuned model came from.
    pub tuned: TunedFrom,
    /// Seconds each stage took.
    pub seconds: Map<String, Value>,
}

impl Made {
    pub fn of(edit: &Edit) -> Self {
        Self { tuned: edit.tuned.into(), seconds: stage_seconds(edit) }
    }
}

impl From<Tuned> for TunedFrom {
    fn from(tuned: Tuned) -> Self {
        match tuned {
            Tuned::Now => Self::Now,
            Tuned::InMemory => Self::InMemory,
            Tuned::OnDisk => Self::OnDisk,
        }
    }
}

impl History {
    /// The history in a parasite; one that cannot be read counts as none, because it only serves convenience.
    pub fn from_bytes(bytes: Option<Vec<u8>>) -> Self {
        let known =
            bytes.and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok()).filter(|known| known.version == 1);
        known.unwrap_or_else(|| Self { version: 1, document: random_name(), runs: Vec::new() })
    }

    /// What goes into the parasite.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers always become JSON")
    }

    /// Adds a run and forgets the oldest beyond the limit.
    pub fn push(&mut self, run: Recipe) {
        self.runs.push(run);
        let surplus = self.runs.len().saturating_sub(REMEMBERED_RUNS);
        self.runs.drain(..surplus);
    }

    /// The parameters of the newest run.
    pub fn last_params(&self) -> Option<Params> {
        self.runs.last()?.params()
    }

    /// Forgets the run that made this layer.
    pub fn forget(&mut self, layer: u32) {
        self.runs.retain(|run| run.layer != layer);
    }
}

impl Recipe {
    /// The recipe in a layer's parasite.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// What goes into the parasite.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers always become JSON")
    }

    /// The parameters; `None` when another version wrote one that this version does not know.
    pub fn params(&self) -> Option<Params> {
        params_from(&self.params)
    }

    /// What a list of edits says of it.
    pub fn title(&self) -> String {
        let params = self.params().unwrap_or_else(Params::paper);
        say("{}, seed {#}", &[&layer_name(&params), &params.seed.to_string()])
    }
}

/// Another number each time; the standard library seeds its hash tables from the system's random numbers.
pub fn random_number() -> u64 {
    RandomState::new().hash_one(0)
}

/// 32 hexadecimal digits.
fn random_name() -> String {
    format!("{:016x}{:016x}", random_number(), random_number())
}

/// `None` when another version wrote a parameter that this one does not know.
fn params_from(values: &Map<String, Value>) -> Option<Params> {
    // What a version without presets wrote are settings of its own.
    let mut params = Params::of_preset(CUSTOM);
    params.set_all(values).ok().map(|()| params)
}

/// The parameters of the last edit in any document; `None` before the first.
pub fn last_values() -> Option<Params> {
    params_from(&serde_json::from_slice(&fs::read(last_values_file()?).ok()?).ok()?)
}

/// Keeps the parameters for the next edit, also in another session.
pub fn remember_values(params: &Params) -> Result<()> {
    let Some(file) = last_values_file() else {
        return Err(Error::Host("this account has no configuration folder; set HOME or XDG_CONFIG_HOME".into()));
    };
    let folder = file.parent().expect("joined to a folder above");
    fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
    let text = serde_json::to_string_pretty(&params.to_json()).expect("texts and numbers always become JSON");
    // Another GIMP may read at any time: the file appears at once and whole.
    let new = file.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&new, text).map_err(Error::file("write", &new))?;
    fs::rename(&new, &file).map_err(Error::file("write", &file))
}

fn last_values_file() -> Option<PathBuf> {
    Some(dirs::config_dir()?.join("imagic-edit").join("last-values.json"))
}

/// Another seed, short enough to read, remember and type.
pub fn new_seed() -> u32 {
    (random_number() % 1_000_000) as u32
}

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
    /// `labels` with `_` before their keys: the first free letter, beginnings of words first; where none is free, a label before
    /// gives way if it has another one. Only letters that every keyboard has; a label in another script gets one behind it in
    /// brackets, that of its English text if it is free.
    /// The labels before `between.start` do not give way, and those from `between.end` on get what is left. Each comes with its
    /// English text.
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

    /// `label`, one of `texts`, as `language` says it and with its key, see [`Self::mark`]. Those that do not give way are GIMP's
    /// own, which it marks itself, in other languages mostly with the same letters.
    pub fn marked(label: &str, texts: &[&str], between: Range<usize>, language: &Language) -> String {
        let Some(at) = texts.iter().position(|text| *text == label) else { return label.to_owned() };
        let shown = |(at, text): (usize, &&str)| {
            if at < between.start { (*text).to_owned() } else { language.translate(text) }
        };
        let shown = texts.iter().enumerate().map(shown).zip(texts.iter().copied());
        Self::mark(shown, between.clone()).swap_remove(at)
    }

    /// Finds a key for `label`: a free one, or one whose owner may move and can have another, so that as few as can be move.
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

    #[test]
    fn the_arguments_say_which_gimp_started_the_plug_in() {
        let start = |arguments: &[&CStr]| starter(arguments);
        assert_eq!(start(&[c"p", c"-gimp", c"8", c"9", c"-query", c"0"]), Some(Starter::Gimp2));
        assert_eq!(start(&[c"p", c"-gimp", c"272", c"8", c"9", c"-run", c"0"]), Some(Starter::Gimp3));
        assert_eq!(start(&[c"p", c"edit", c"--prompt", c"x", c"-run"]), None);
        assert_eq!(start(&[c"p"]), None);
    }

    #[test]
    fn a_history_comes_back_from_its_parasite_and_forgets_the_oldest_runs() {
        let mut history = History::from_bytes(None);
        for layer in 0..REMEMBERED_RUNS as u32 + 5 {
            let params = Params { eta: 0.25, ..Params::paper() }.to_json();
            let (group, seconds) = (None, Map::new());
            history.push(Recipe { layer, source: 1, group, tuned: TunedFrom::Now, params, seconds });
        }
        let back = History::from_bytes(Some(history.to_bytes()));
        assert_eq!(back.document, history.document);
        assert_eq!(back.runs.len(), REMEMBERED_RUNS);
        assert_eq!(back.runs[0].layer, 5);
        assert_eq!(back.last_params().map(|params| params.eta), Some(0.25));
    }

    #[test]
    fn a_foreign_parasite_counts_as_none_and_documents_differ() {
        let strange = History::from_bytes(Some(b"{\"version\":2}".to_vec()));
        assert!(strange.runs.is_empty());
        assert_ne!(strange.document, History::from_bytes(None).document);
    }

    #[test]
    fn a_panic_does_not_leave_the_guard() {
        assert_eq!(guard(7, || panic!("in a test")), 7);
    }
}
