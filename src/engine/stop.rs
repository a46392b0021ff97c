//! Whether the running edit is to stop, for whatever takes long between two steps. A step of a large model takes
//! minutes; nobody waits for that who has said that it shall end. Knows no edit.
#![forbid(unsafe_code)]

use crate::error::STOPPED;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

thread_local! {
    /// Of the edit for which this thread works.
    static STOP: RefCell<Option<Stop>> = const { RefCell::new(None) };
}

/// What tells an edit to stop.
#[derive(Clone, Default)]
pub struct Stop {
    /// Either of them.
    pub asked: [Arc<AtomicBool>; 2],
    /// Until something is done that cannot be left half-done.
    held: Arc<AtomicBool>,
}

impl Stop {
    /// Of these two, each of which stays set once it is.
    pub fn new(asked: [Arc<AtomicBool>; 2]) -> Self {
        Self { asked, held: Arc::default() }
    }

    fn is_asked(&self) -> bool {
        !self.held.load(Ordering::Relaxed) && self.asked.iter().any(|asked| asked.load(Ordering::Relaxed))
    }
}

/// From now on this thread works for the edit that `stop` stops; for none that can be stopped if there is none.
pub fn obey(stop: Option<Stop>) {
    STOP.replace(stop);
}

/// Whether to stop. What comes of a computation during which it was asked means nothing: [`look`] before it is used.
pub fn asked() -> bool {
    STOP.with_borrow(|stop| stop.as_ref().is_some_and(Stop::is_asked))
}

/// An error that becomes [`Error::Cancelled`](crate::error::Error::Cancelled), if it is to stop.
pub fn look() -> candle_core::Result<()> {
    if asked() { Err(candle_core::Error::Msg(STOPPED.into())) } else { Ok(()) }
}

/// Nothing is to stop until [`release`]: weights are being changed, and a half-changed network is worth nothing.
pub fn hold() {
    set_held(true);
}

/// Ends what [`hold`] began.
pub fn release() {
    set_held(false);
}

fn set_held(held: bool) {
    STOP.with_borrow(|stop| stop.iter().for_each(|stop| stop.held.store(held, Ordering::Relaxed)));
}
