//! What hosts ask the operating system: Ctrl+C, free memory, where our library lies, texts that need not be Unicode.
//! The files in `system/` have the same functions, one for each kind of system.

#[cfg(all(unix, not(target_os = "macos")))]
mod limits;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
#[cfg(unix)]
pub use unix::*;
#[cfg(windows)]
pub use windows::*;

unsafe extern "C" {
    /// The allocator's own, see mimalloc.h: frees what the calling thread holds for later, and with `force` gives what
    /// lies free back to the system.
    fn mi_collect(force: bool);
}

/// Gives memory back to the system that lies free in the allocator.
pub fn give_back_memory() {
    // SAFETY: it may be called on any thread at any time.
    unsafe { mi_collect(true) };
}

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

/// The number of the signal that asked to stop (Ctrl+C, SIGTERM, or SIGHUP, when the terminal is closed), 0 until one
/// comes; the second one kills as usual.
pub fn stop_signal() -> Arc<AtomicUsize> {
    let (came, again) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    for signal in [SIGINT, SIGTERM].into_iter().chain(hangup()) {
        // In this order: what the first signal sets, the second one finds.
        let registered = flag::register_conditional_default(signal, again.clone())
            .and_then(|_| flag::register(signal, again.clone()))
            .and_then(|_| flag::register_usize(signal, came.clone(), signal as usize));
        registered.expect("they can be caught everywhere");
    }
    came
}
