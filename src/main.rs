//! The launcher: loads the library that lies beside it and calls its one entry, with the arguments it was given.
//!
//! GIMP and Krita start a program, other hosts load a library; so everything is in the library and this is all there is here.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::exit;

const LIBRARY: &str = if cfg!(windows) {
    "imagic_edit.dll"
} else if cfg!(target_os = "macos") {
    "libimagic_edit.dylib"
} else {
    "libimagic_edit.so"
};
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
    let mut argv: Vec<*mut c_char> =
        std::env::args_os().map(|argument| system::c_argument(argument).into_raw()).collect();
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
    let handle =
        system::open(library).map_err(|reason| format!("cannot load {}: {reason}; {remedy}", library.display()))?;
    let Some(symbol) = system::find(handle, ENTRY) else {
        return Err(format!("{} has no {}; {remedy}", library.display(), ENTRY.to_string_lossy()));
    };
    // SAFETY: every version of the library exports this name with this signature (`src/host/entry.rs`).
    Ok(unsafe { std::mem::transmute::<*mut c_void, Entry>(symbol) })
}

#[cfg(unix)]
mod system {
    use std::ffi::{CStr, CString, OsString, c_void};
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::Path;

    /// An argument as C's main gets it.
    pub fn c_argument(argument: OsString) -> CString {
        CString::new(argument.into_vec()).expect("the system ends arguments with NUL")
    }

    pub fn open(library: &Path) -> Result<*mut c_void, String> {
        let path = CString::new(library.as_os_str().as_bytes()).expect("a path that exists has no NUL");
        // SAFETY: the library is ours and its start-up code needs nothing prepared.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() { Err(loader_error()) } else { Ok(handle) }
    }

    pub fn find(library: *mut c_void, name: &CStr) -> Option<*mut c_void> {
        // SAFETY: `library` is open and the name ends with NUL.
        let symbol = unsafe { libc::dlsym(library, name.as_ptr()) };
        (!symbol.is_null()).then_some(symbol)
    }

    fn loader_error() -> String {
        // SAFETY: called right after a dlopen that failed, on the only thread there is.
        let text = unsafe { libc::dlerror() };
        if text.is_null() {
            return "the system does not say why".into();
        }
        // SAFETY: dlerror answers a text that ends with NUL and lives until the next dl call.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }
}

#[cfg(windows)]
mod system {
    use std::ffi::{CStr, CString, OsString, c_void};
    use std::os::windows::ffi::OsStrExt;
    use std::path::Path;
    use windows_sys::Win32::System::LibraryLoader::{GetProcAddress, LoadLibraryW};

    /// An argument in UTF-8.
    pub fn c_argument(argument: OsString) -> CString {
        CString::new(argument.to_string_lossy().as_bytes()).expect("the system ends arguments with NUL")
    }

    pub fn open(library: &Path) -> Result<*mut c_void, String> {
        let path: Vec<u16> = library.as_os_str().encode_wide().chain([0]).collect();
        // SAFETY: the library is ours and its start-up code needs nothing prepared; the path ends with NUL.
        let handle = unsafe { LoadLibraryW(path.as_ptr()) };
        if handle.is_null() { Err(std::io::Error::last_os_error().to_string()) } else { Ok(handle) }
    }

    pub fn find(library: *mut c_void, name: &CStr) -> Option<*mut c_void> {
        // SAFETY: `library` is open and the name ends with NUL.
        unsafe { GetProcAddress(library, name.as_ptr().cast()) }.map(|function| function as *mut c_void)
    }
}
