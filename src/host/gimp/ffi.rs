//! What every call between C and us needs: panics stay on our side, texts go over and come back.

use crate::host::gimp_sys as sys;
use std::ffi::{CStr, CString, OsString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

/// Runs what C has called; a panic must not cross into C and gives `on_panic`.
pub fn guard<T>(on_panic: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(on_panic)
}

/// A text for C; NUL, which no GIMP text can hold, becomes a space.
pub fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).expect("NULs are replaced")
}

/// Takes over a text that libgimp or GTK has allocated; null is an empty text.
///
/// # Safety
/// `text` is null or a C string from GLib's allocator that nobody else frees.
pub unsafe fn take_text(text: *mut c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe {
        let copy = CStr::from_ptr(text).to_string_lossy().into_owned();
        sys::g_free(text.cast());
        copy
    }
}

/// Takes over a path as [`take_text`] does a text; on Unix it may be any bytes. `None` for null and for the empty one.
///
/// # Safety
/// As for [`take_text`].
pub unsafe fn take_path(path: *mut c_char) -> Option<PathBuf> {
    if path.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe {
        let copy = CStr::from_ptr(path).to_bytes().to_vec();
        sys::g_free(path.cast());
        copy
    };
    #[cfg(unix)]
    let path: OsString = std::os::unix::ffi::OsStringExt::from_vec(bytes);
    // GLib's paths are UTF-8 there.
    #[cfg(not(unix))]
    let path = OsString::from(String::from_utf8_lossy(&bytes).into_owned());
    (!path.is_empty()).then(|| path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_does_not_leave_the_guard() {
        assert_eq!(guard(7, || panic!("in a test")), 7);
    }
}
