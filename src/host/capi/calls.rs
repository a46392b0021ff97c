//! What every call of the C ABI goes through: the guard, the last error, texts in and out.

use super::types::ImagicStatus;
use crate::error::Error;
use crate::job::panic_text;
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static LAST_ERROR: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Why a call does not answer OK.
pub struct Failure {
    pub status: ImagicStatus,
    pub text: String,
}

impl Failure {
    pub fn new(status: ImagicStatus, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    pub fn argument(text: impl Into<String>) -> Self {
        Self::new(ImagicStatus::Argument, text)
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let status = match error {
            Error::Parameter(_) | Error::Diverged(_) => ImagicStatus::Parameter,
            Error::Model { .. } => ImagicStatus::Model,
            Error::Image(_) => ImagicStatus::Image,
            Error::File { .. } => ImagicStatus::File,
            Error::Host(_) => ImagicStatus::Host,
            Error::Memory(_) => ImagicStatus::Memory,
            Error::Engine(_) => ImagicStatus::Engine,
            Error::Cancelled => ImagicStatus::Cancelled,
        };
        Self::new(status, error.to_string())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

/// Runs the body of one call: no panic leaves it, and its error becomes status and text.
pub fn guard(body: impl FnOnce() -> Result<(), Failure>) -> ImagicStatus {
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return ImagicStatus::Ok,
        Ok(Err(failure)) => failure,
        Err(panic) => {
            let text = format!("a defect of Imagic Edit, please report it: {}", panic_text(&*panic));
            Failure::new(ImagicStatus::Panic, text)
        }
    };
    // While a thread ends its storage may be gone already; the status alone has to do then.
    let _ = LAST_ERROR.try_with(|last| last.replace(failure.text));
    failure.status
}

/// Text of the last call on this thread that failed.
pub fn last_error() -> String {
    LAST_ERROR.try_with(|last| last.borrow().clone()).unwrap_or_default()
}

/// Writes as much of `given` as fits and a NUL.
///
/// # Safety
/// As [`give_text`].
pub unsafe fn give_cut_text(given: &str, text: *mut c_char, text_len: usize, text_needed: *mut usize) {
    let used = text_len.min(given.len() + 1);
    if !text.is_null() && used > 0 {
        // SAFETY: the caller promises `text_len` bytes, which is not less.
        cut_into(given, unsafe { std::slice::from_raw_parts_mut(text, used) });
    }
    // SAFETY: the caller promises NULL or a place for a number.
    if let Some(out) = unsafe { text_needed.as_mut() } {
        *out = given.len() + 1;
    }
}

/// Writes `given` and a NUL, or only how much room that needs.
///
/// # Safety
/// `text` is NULL or has room for `text_len` bytes; `text_needed` is NULL or writable.
pub unsafe fn give_text(
    given: &str,
    text: *mut c_char,
    text_len: usize,
    text_needed: *mut usize,
) -> Result<(), Failure> {
    let needed = given.len() + 1;
    let fits = !text.is_null() && text_len >= needed;
    let text = if fits { text } else { std::ptr::null_mut() };
    // SAFETY: the caller's promise is handed on.
    unsafe { give_cut_text(given, text, text_len, text_needed) };
    if fits {
        return Ok(());
    }
    let message = format!("text_len is {text_len}, must be at least {needed}");
    Err(Failure::new(ImagicStatus::BufferTooSmall, message))
}

/// As much of `text` as fits, whole characters, then NUL.
pub fn cut_into(text: &str, buffer: &mut [c_char]) {
    let mut end = text.len().min(buffer.len() - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    for (place, &byte) in buffer.iter_mut().zip(&text.as_bytes()[..end]) {
        // A NUL would end the text for C; `?` keeps what follows.
        *place = if byte == 0 { b'?' } else { byte } as c_char;
    }
    buffer[end] = 0;
}

/// The JSON object in `text`, which the caller calls `name`.
///
/// # Safety
/// `text` is NULL or ends with NUL.
pub unsafe fn read_object(text: *const c_char, name: &str) -> Result<Map<String, Value>, Failure> {
    if text.is_null() {
        return Err(Failure::argument(format!("{name} is NULL")));
    }
    // SAFETY: not NULL, so the caller promises a text that ends with NUL.
    let bytes = unsafe { CStr::from_ptr(text) }.to_bytes();
    serde_json::from_slice(bytes).map_err(|error| Failure::argument(format!("{name} is not a JSON object: {error}")))
}
