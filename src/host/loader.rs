//! Opens a host's C library at run time and looks its functions up on first use; knows no host.

use crate::error::{Error, Result};
use crate::host::system;
use crate::text::text;
use std::ffi::{CStr, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

/// The library in which every [`Symbol`] is looked up: one process serves one host.
static LIBRARY: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

/// Opens the library for good: GObject types cannot be unloaded again.
pub fn open(name: &CStr) -> Result<()> {
    let library = system::open_library(name).map_err(|reason| {
        Error::Host(text!("{reason}; install GIMP's libraries or start the plug-in from GIMP", reason))
    })?;
    LIBRARY.store(library, Ordering::Release);
    Ok(())
}

/// One C function, looked up when it is first called.
pub struct Symbol {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

impl Symbol {
    /// Looks nothing up yet.
    pub const fn new(name: &'static CStr) -> Self {
        Self { name, address: AtomicPtr::new(null_mut()) }
    }

    /// The function's address in the library that is open, `None` when it has no such function.
    pub fn find(&self) -> Option<*mut c_void> {
        let library = LIBRARY.load(Ordering::Acquire);
        if library.is_null() {
            return None;
        }
        // SAFETY: the library came from `open_library`.
        let address = unsafe { system::find_function(library, self.name) };
        (!address.is_null()).then_some(address)
    }

    /// The function's address. Panics where the host lacks the function: every call from a host sits in a guard.
    pub fn address(&self) -> *mut c_void {
        let known = self.address.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        let found = self.find().unwrap_or_else(|| panic!("this host has no function {}", self.name.to_string_lossy()));
        self.address.store(found, Ordering::Relaxed);
        found
    }
}
