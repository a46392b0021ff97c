//! What every call between C and us needs: panics stay on our side, texts go over and come back.

use crate::error::Error;
use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_does_not_leave_the_guard() {
        assert_eq!(guard(7, || panic!("in a test")), 7);
    }
}
