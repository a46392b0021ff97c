//! Everything that reads what came from outside, fed with bytes of any kind: nothing may panic, hang, or take memory
//! that the bytes do not account for. `fuzz/` searches for hours with libFuzzer; the test below takes seconds.

use super::capi;
use super::cli::picture;
use super::pixel_layout::Layout;
use super::recipe::{History, Recipe};
use super::serve::protocol::{EditOrder, Request, next_message};
use crate::catalog::{self, Places};
use crate::engine::base;
use crate::engine::budget::memory::Shapes;
use crate::engine::device::Processor;
use crate::engine::model::family::Family;
use crate::engine::model::schedule::Schedule;
use crate::engine::model::source::Source;
use crate::engine::store::entry;
use serde_json::Value;
use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// What reads bytes.
pub type Target = fn(&[u8]);

/// By the names that they have in `fuzz/`.
pub const TARGETS: [(&str, Target); 6] = [
    ("c_json", c_json),
    ("serve", serve),
    ("history", history),
    ("entries", entry::fuzz),
    ("models", models),
    ("pictures", pictures),
];

/// The options and requests of the C interface.
pub fn c_json(bytes: &[u8]) {
    capi::fuzz(bytes);
}

/// The messages of a host to `serve`.
pub fn serve(mut bytes: &[u8]) {
    while let Some(Ok((request, pixels))) = next_message(&mut bytes) {
        if let Ok(Request::Edit(order) | Request::Estimate(order)) = serde_json::from_value(Value::Object(request)) {
            let EditOrder { params, width, height, format, .. } = order;
            let layout = format.and_then(|format| Layout::new(format, width?, height?, None).ok());
            if let Some(layout) = layout.filter(|layout| layout.bytes == pixels.len()) {
                let _ = layout.read(&pixels);
            }
            let _ = catalog::params_of(&params, &Places::of([]));
        }
    }
}

/// What documents remember.
pub fn history(bytes: &[u8]) {
    let history = History::from_bytes(Some(bytes.to_vec()));
    for run in history.runs.iter().chain(&Recipe::from_bytes(bytes)) {
        run.title();
    }
    history.last_params();
}

/// Files of a base model. The first byte says which file of a good model the others take the place of, or that they are
/// a model in one file.
pub fn models(bytes: &[u8]) {
    const FILES: [&str; 9] = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/tokenizer_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
    ];
    let Some((which, content)) = bytes.split_first() else { return };
    let good = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/small-sd1/model");
    in_folder(|folder| {
        let single = folder.join("one.safetensors");
        let Some(file) = FILES.get(usize::from(*which)) else {
            fs::write(&single, content).expect("it can be written");
            return look_at(&single);
        };
        let model = folder.join("model");
        if !model.exists() {
            copy(&good, &model);
        }
        fs::write(model.join(file), content).expect("it can be written");
        look_at(&model);
        fs::copy(good.join(file), model.join(file)).expect("it can be copied");
    });
}

/// Picture files.
pub fn pictures(bytes: &[u8]) {
    in_folder(|folder| {
        let file = folder.join("picture");
        fs::write(&file, bytes).expect("it can be written");
        let _ = picture::read(&file);
    });
}

fn look_at(model: &Path) {
    let _ = Source::other_format(model);
    let Ok(source) = Source::open(model) else { return };
    let device = Processor::Cpu.choose().device;
    let _ = Family::of(&source).and_then(|family| Shapes::new(&source, family, &device));
    let _ = Schedule::read(source.scheduler());
    let _ = base::tokenizer(&source).and_then(|tokenizer| tokenizer.tokenize("a photo of a bird"));
}

/// Calls `f` with a folder of this thread's own.
fn in_folder(f: impl FnOnce(&Path)) {
    thread_local!(static FOLDER: OnceCell<TempDir> = const { OnceCell::new() });
    FOLDER.with(|folder| f(folder.get_or_init(|| tempfile::tempdir().expect("a temporary folder")).path()));
}

fn copy(from: &PathBuf, to: &PathBuf) {
    fs::create_dir_all(to).expect("it can be made");
    for entry in fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).expect("it can be copied");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;

    /// Mutants of each target's corpus, unless `IMAGIC_TEST_MUTANTS` says how many.
    const MUTANTS: u64 = 1500;

    /// Numbers and words that are worth a try anywhere.
    const WORDS: [&[u8]; 14] = [
        b"\xff\xff\xff\xff",
        b"\0\0\0\0\0\0\0\0",
        b"\xff\xff\xff\x7f",
        b"null",
        b"-1",
        b"1e999",
        b"18446744073709551616",
        b"{\"",
        b"[[[[[[[[",
        b"\\ud800",
        b"\xc3\x28",
        b"../../",
        b"\"shape\":[4294967296,4294967296]",
        b"NaN",
    ];

    /// The same numbers every time: SplitMix64.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) % limit.max(1) as u64) as usize
        }
    }

    fn mutant(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
        let mut bytes = corpus[random.below(corpus.len())].clone();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len() + 1);
            let end = (at + random.below(16)).min(bytes.len());
            match random.below(7) {
                0 => bytes.truncate(at),
                1 => drop(bytes.drain(at..end)),
                2 => drop(bytes.splice(at..at, WORDS[random.below(WORDS.len())].iter().copied())),
                3 => drop(bytes.splice(at..end, WORDS[random.below(WORDS.len())].iter().copied())),
                4 => {
                    let piece = bytes[at..end].to_vec();
                    drop(bytes.splice(at..at, piece));
                }
                5 => {
                    let other = &corpus[random.below(corpus.len())];
                    let from = random.below(other.len());
                    bytes.truncate(at);
                    bytes.extend(&other[from..]);
                }
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << random.below(8);
                    }
                }
            }
        }
        bytes
    }

    /// The number that the environment gives under this name.
    fn number(name: &str) -> Option<u64> {
        Some(std::env::var(name).ok()?.parse().expect("a number"))
    }

    #[test]
    fn nothing_that_comes_from_outside_makes_anything_panic() {
        let mutants = number("IMAGIC_TEST_MUTANTS").unwrap_or(MUTANTS);
        let only = std::env::var("IMAGIC_TEST_TARGET").ok();
        for (name, target) in TARGETS.iter().filter(|(name, _)| only.as_ref().is_none_or(|only| only == name)) {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
            let files = fs::read_dir(&folder).expect(name).map(|entry| entry.expect(name).path());
            let mut files: Vec<PathBuf> = files.collect();
            files.sort();
            let corpus: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).expect(name)).collect();
            let mut random = Random(number("IMAGIC_TEST_SEED").unwrap_or(1));
            let mutants = (0..mutants).map(|_| mutant(&corpus, &mut random));
            for bytes in corpus.iter().cloned().chain(mutants) {
                assert!(catch_unwind(|| target(&bytes)).is_ok(), "{name}: {:?}", bytes.escape_ascii().to_string());
            }
        }
    }
}
