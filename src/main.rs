//! The launcher: loads the library that lies beside it and calls its one entry, with the arguments it was given.
//!
//! GIMP and Krita start a program, other hosts load a library; so everything else is in the library.

use libloading::Library;
use std::ffi::{CString, OsString, c_char, c_int};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::exit;

const LIBRARY: &str = if cfg!(windows) {
    "imagic_edit.dll"
} else if cfg!(target_os = "macos") {
    "libimagic_edit.dylib"
} else {
    "libimagic_edit.so"
};
const ENTRY: &str = "imagic_main";

/// Settings that libraries read from the environment only; what the user has set stays.
const SETTINGS: [(&str, &str); 2] = [
    // candle's own threads wait by spinning: beside a busy program an edit takes twice the processor time. Our
    // operations, which do nearly all of the work, share rayon's threads.
    ("CANDLE_NUM_THREADS", "1"),
    // Milliseconds until the allocator gives memory back: longer than several training steps, which want the same
    // again. After one second it took back what lay free between two operations, and the next step cleared it anew.
    ("MIMALLOC_PURGE_DELAY", "10000"),
];

type Entry = unsafe extern "C" fn(argc: c_int, argv: *mut *mut c_char) -> c_int;

fn main() {
    for (name, value) in SETTINGS {
        if std::env::var_os(name).is_none() {
            // SAFETY: this is the only thread.
            unsafe { std::env::set_var(name, value) };
        }
    }
    let entry = load(&own_folder().join(LIBRARY)).unwrap_or_else(|message| {
        // Nobody may be there to read it.
        let _ = writeln!(std::io::stderr(), "imagic-edit: {message}");
        exit(1);
    });
    // The library keeps pointers into the arguments as long as the program runs, so nothing is freed.
    let argument =
        |text: OsString| CString::new(text.into_encoded_bytes()).expect("the system ends arguments with NUL");
    let mut argv: Vec<*mut c_char> = std::env::args_os().map(|text| argument(text).into_raw()).collect();
    let argc = c_int::try_from(argv.len()).expect("the system gave argc as an int");
    argv.push(std::ptr::null_mut());
    // SAFETY: `argv` is what C's main gets: `argc` texts that end with NUL, writable and never freed, then NULL.
    exit(unsafe { entry(argc, argv.as_mut_ptr()) });
}

/// Folder of this program with links resolved; `/proc` may be missing, then argv[0] has to do.
fn own_folder() -> PathBuf {
    let program = std::env::current_exe().ok().or_else(|| Path::new(&std::env::args_os().next()?).canonicalize().ok());
    program.as_deref().and_then(Path::parent).unwrap_or(Path::new(".")).to_owned()
}

/// The entry of the library, which stays loaded for the rest of the program.
fn load(library: &Path) -> Result<Entry, String> {
    let remedy = "install Imagic Edit again, or put both files of one version into one folder";
    if !library.exists() {
        return Err(format!("{} is missing; {remedy}", library.display()));
    }
    // SAFETY: the library is ours and its start-up code needs nothing prepared.
    let loaded = unsafe { Library::new(library) };
    let loaded = loaded.map_err(|reason| format!("cannot load {}: {reason}; {remedy}", library.display()))?;
    // SAFETY: every version of the library exports this name with this signature (`src/host/entry.rs`).
    let entry = unsafe { loaded.get::<Entry>(ENTRY) }.map(|entry| *entry);
    std::mem::forget(loaded);
    entry.map_err(|_| format!("{} has no {ENTRY}; {remedy}", library.display()))
}
