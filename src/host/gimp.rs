//! What the adapters of all GIMP versions share: which version started us, the last values and what a document
//! remembers; calls no GIMP function.
//!
//! The files in `gimp/` call GIMP through the `libgimp` of the adapter that they are compiled into: once for each version,
//! because the C types of two versions have the same names and must not mix.

use crate::engine::{Edit, Tuned};
use crate::error::{Error, Result};
use crate::host::language::say;
use crate::host::report::{layer_name, stage_seconds};
use crate::host::{gimp2, gimp3};
use crate::params::Params;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::ffi::{CStr, CString, c_char, c_int};
use std::hash::{BuildHasher, RandomState};
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
    let mut params = Params::paper();
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

/// Gives every label of the window its own key, as long as the label has a letter that is free.
#[derive(Default)]
pub struct Mnemonics(Vec<char>);

impl Mnemonics {
    /// `label` with `_` before its key: the first free letter, beginnings of words first. Only letters that every keyboard
    /// has; a label in another script gets one behind it in brackets, that of the `english` label if it is free.
    pub fn mark(&mut self, label: &str, english: &str) -> String {
        let letters = || label.char_indices().filter(|(_, letter)| letter.is_ascii_alphabetic());
        let is_latin = |letter: char| letter <= LAST_LATIN;
        if !label.chars().find(|letter| letter.is_alphabetic()).is_some_and(is_latin) {
            return self.mark_behind(label, english);
        }
        let begins_word = |&(at, _): &(usize, char)| !label[..at].ends_with(|before: char| before.is_alphanumeric());
        let free = |(_, letter): &(usize, char)| !self.0.contains(&letter.to_ascii_uppercase());
        let Some((at, letter)) = letters().filter(begins_word).chain(letters()).find(free) else {
            return label.to_owned();
        };
        self.0.push(letter.to_ascii_uppercase());
        format!("{}_{}", &label[..at], &label[at..])
    }

    fn mark_behind(&mut self, label: &str, english: &str) -> String {
        let own = english.chars().filter(char::is_ascii_alphabetic).map(|letter| letter.to_ascii_uppercase());
        let Some(key) = own.chain('A'..='Z').find(|letter| !self.0.contains(letter)) else {
            return label.to_owned();
        };
        self.0.push(key);
        let text = label.trim_end_matches('.');
        format!("{text}(_{key}){}", &label[text.len()..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            history.push(Recipe { layer, source: 1, tuned: TunedFrom::Now, params, seconds: Map::new() });
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
