//! What hosts ask the operating system: Ctrl+C, the terminal's width, free disk and memory, shared libraries, texts that need not
//! be Unicode. The files in `system/` have the same functions, one for each kind of system; the command line's unsafe code is here.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::ffi::OsStr;
#[cfg(unix)]
pub use unix::*;
#[cfg(windows)]
pub use windows::*;

/// The launcher's file.
pub const LAUNCHER: &str = if cfg!(windows) { "imagic-edit.exe" } else { "imagic-edit" };

/// The library's file, beside the launcher.
pub const LIBRARY: &str = if cfg!(windows) {
    "imagic_edit.dll"
} else if cfg!(target_os = "macos") {
    "libimagic_edit.dylib"
} else {
    "libimagic_edit.so"
};

/// What stands before and after the first `=`.
pub fn split_at_equals(text: &OsStr) -> (&OsStr, Option<&OsStr>) {
    let bytes = text.as_encoded_bytes();
    let Some(at) = bytes.iter().position(|&byte| byte == b'=') else { return (text, None) };
    // SAFETY: the bytes are those of a text, cut at a letter of ASCII.
    let part = |bytes| unsafe { OsStr::from_encoded_bytes_unchecked(bytes) };
    (part(&bytes[..at]), Some(part(&bytes[at + 1..])))
}
