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
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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

/// What asks to stop: Ctrl+C, SIGTERM, or SIGHUP, when the terminal is closed. The first one is heard, the second one
/// too, because it must not cost what is being kept; the third one kills as usual.
pub struct StopSignals {
    /// The number of one that was not looked at yet, 0 for none.
    came: Arc<AtomicUsize>,
    /// Whether the next one kills.
    kills: Arc<AtomicBool>,
    heard: Vec<usize>,
}

impl StopSignals {
    /// Listens from now on.
    pub fn new() -> Self {
        let (came, kills) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        for signal in [SIGINT, SIGTERM].into_iter().chain(hangup()) {
            let registered = flag::register_conditional_default(signal, kills.clone())
                .and_then(|_| flag::register_usize(signal, came.clone(), signal as usize));
            registered.expect("they can be caught everywhere");
        }
        Self { came, kills, heard: Vec::new() }
    }

    /// Whether it is to be stopped, and then whether that is news. To be called again and again.
    pub fn look(&mut self) -> Option<bool> {
        let signal = self.came.swap(0, Ordering::Relaxed);
        self.heard.extend((signal != 0).then_some(signal));
        if self.heard.len() > 1 {
            self.kills.store(true, Ordering::Relaxed);
        }
        (!self.heard.is_empty()).then_some(signal != 0 && self.heard.len() == 1)
    }

    /// The number of the first one, 0 where none came.
    pub fn signal(&self) -> usize {
        self.heard.first().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_signal_kills() {
        let mut stop = StopSignals::new();
        assert_eq!((stop.look(), stop.signal()), (None, 0));
        let mut came = |expected| {
            stop.came.store(SIGINT as usize, Ordering::Relaxed);
            assert_eq!(stop.look(), Some(expected));
            assert_eq!(stop.look(), Some(false));
            stop.kills.load(Ordering::Relaxed)
        };
        assert_eq!([came(true), came(false)], [false, true]);
        assert_eq!(stop.signal(), SIGINT as usize);
    }
}
