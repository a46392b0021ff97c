//! The one entry the launcher calls: decides who started us. Knows neither GIMP's protocol nor the command line's options.

use super::{cli, gimp};
use crate::job::panic_text;
use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Serves GIMP when GIMP started us, otherwise the person at the command line; returns the exit status.
///
/// # Safety
/// `argv` points to `argc` texts that end with NUL and live as long as the program, then NULL: what C's `main` gets.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imagic_main(argc: c_int, argv: *mut *mut c_char) -> c_int {
    let run = || {
        // SAFETY: the caller's promise is handed on.
        unsafe { gimp::run_if_started_by_gimp(argc, argv) }.unwrap_or_else(|| {
            // SAFETY: as above.
            cli::run(&unsafe { arguments(argc, argv) })
        })
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        eprintln!("imagic-edit: this is a defect of Imagic Edit, please report it: {}", panic_text(&*panic));
        1
    })
}

/// The arguments without the program's name.
///
/// # Safety
/// As [`imagic_main`].
unsafe fn arguments(argc: c_int, argv: *mut *mut c_char) -> Vec<OsString> {
    (1..usize::try_from(argc).unwrap_or(0))
        .map(|index| {
            // SAFETY: `index` is below `argc` and every one of `argc` entries is a text that ends with NUL.
            let text = unsafe { CStr::from_ptr(*argv.add(index)) };
            OsStr::from_bytes(text.to_bytes()).to_owned()
        })
        .collect()
}

/// Folder of the loaded library; models may lie beside it.
pub fn library_folder() -> Option<PathBuf> {
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    // SAFETY: dladdr only compares the address with those of the loaded files, and `info` is writable.
    let found = unsafe { libc::dladdr(imagic_main as *const libc::c_void, &raw mut info) } != 0;
    if !found || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the name ends with NUL and lives as long as the library is loaded, which is now.
    let file = unsafe { CStr::from_ptr(info.dli_fname) };
    let file = Path::new(OsStr::from_bytes(file.to_bytes())).canonicalize().ok()?;
    file.parent().map(Path::to_owned)
}
