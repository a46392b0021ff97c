//! The launcher: loads the library that lies beside it and calls its one entry, with the arguments it was given.
//!
//! GIMP and Krita start a program, other hosts load a library; so everything is in the library and this is all there is here.

use std::ffi::{CStr, CString, OsStr, c_char, c_int};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::exit;

const LIBRARY: &str = "libimagic_edit.so";
const ENTRY: &CStr = c"imagic_main";

/// Settings that libraries read from the environment only; what the user has set stays.
const SETTINGS: [(&str, &str); 2] = [
    // candle's own threads wait by spinning: beside a busy program an edit takes twice the processor time. Our
    // operations, which do nearly all of the work, share rayon's threads.
    ("CANDLE_NUM_THREADS", "1"),
    // Milliseconds until the allocator gives memory back: longer than several training steps, which want the same again.
    // After one second it took back what lay free between two operations, and the next step cleared it anew.
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
        eprintln!("imagic-edit: {message}");
        exit(1);
    });
    // The library keeps pointers into the arguments as long as the program runs, so nothing is freed.
    let mut argv: Vec<*mut c_char> = std::env::args_os()
        .map(|arg| CString::new(arg.into_vec()).expect("the system ends arguments with NUL").into_raw())
        .collect();
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
    let remedy = "run installer/install.sh again, or put both files of one version into one folder";
    if !library.exists() {
        return Err(format!("{} is missing; {remedy}", library.display()));
    }
    let path = CString::new(library.as_os_str().as_bytes()).expect("a path that exists has no NUL");
    // SAFETY: the library is ours and its start-up code needs nothing prepared.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        return Err(format!("cannot load {}: {}; {remedy}", library.display(), loader_error()));
    }
    // SAFETY: `handle` is open and the name ends with NUL.
    let symbol = unsafe { libc::dlsym(handle, ENTRY.as_ptr()) };
    if symbol.is_null() {
        return Err(format!("{} has no {}; {remedy}", library.display(), ENTRY.to_string_lossy()));
    }
    // SAFETY: every version of the library exports this name with this signature (`src/host/entry.rs`).
    Ok(unsafe { std::mem::transmute::<*mut libc::c_void, Entry>(symbol) })
}

fn loader_error() -> String {
    // SAFETY: called right after a dlopen that failed, on the only thread there is.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "the system does not say why".into();
    }
    // SAFETY: dlerror answers a text that ends with NUL and lives until the next dl call.
    let text = unsafe { CStr::from_ptr(text) };
    OsStr::from_bytes(text.to_bytes()).to_string_lossy().into_owned()
}
