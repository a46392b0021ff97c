//! The one entry the launcher calls: decides who started us. Knows neither GIMP's protocol nor the command line's options.

use super::{cli, gimp, system};
use crate::job::panic_text;
use std::ffi::{CStr, OsString, c_char, c_int, c_void};
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
            system::os_text(text)
        })
        .collect()
}

/// Folder of the loaded library; models may lie beside it.
pub fn library_folder() -> Option<PathBuf> {
    system::file_of(imagic_main as *const c_void)?.parent().map(Path::to_owned)
}
