//! Where this copy of the plug-in lies; knows no host.

use crate::host::system;
use std::ffi::c_void;
use std::path::{Path, PathBuf};

/// Folder of the loaded library; models may lie beside it.
pub fn library_folder() -> Option<PathBuf> {
    system::file_of(library_folder as *const c_void)?.parent().map(Path::to_owned)
}
