//! The choice between the ways to tune by what memory allows.
#![forbid(unsafe_code)]

use crate::engine::budget::memory::{Needs, Shapes, Task};
use crate::engine::tuning::mode::Mode;
use crate::error::{Error, Result};
use crate::text::{Text, gigabytes, text};

/// Bytes that system and editor need to go on.
const RESERVE: u64 = 128 << 20;

/// How an edit will be tuned, and what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The best of the allowed modes that fits; the lightest one if none does.
    pub mode: Mode,
    /// Bytes of the whole process at most.
    pub need: u64,
    /// Bytes that it can have: what is free and what it has already; `None` if the system does not say.
    pub available: Option<u64>,
    /// What the best of the allowed modes would need.
    pub best: u64,
}

impl Plan {
    /// Chooses from `allowed` for `shapes` of a base model; `free` bytes are left, and of what is in use, `held` serve
    /// this edit or are given up for it.
    pub fn new(shapes: &Shapes, task: &Task<'_>, allowed: &[Mode], held: u64, free: Option<u64>) -> Result<Self> {
        let modes = allowed.iter().map(|&mode| Ok((mode, shapes.needs(task, mode)?)));
        let modes: Vec<(Mode, Needs)> = modes.collect::<Result<_>>()?;
        let available = free.map(|free| free + held);
        let chosen = modes.iter().find(|(_, needs)| fits(needs.peak(), available)).or(modes.last());
        let (mode, needs) = chosen.expect("every setting allows a mode");
        Ok(Self { mode: *mode, need: needs.peak(), available, best: modes[0].1.peak() })
    }

    /// What the user should know about the choice, if anything; an error if nothing fits.
    pub fn note(&self) -> Result<Option<Text>> {
        let (need, best) = (gigabytes(self.need), gigabytes(self.best));
        match self.available.map(gigabytes) {
            Some(available) if !fits(self.need, self.available) => Err(Error::Memory(text!(
                "tuning needs {need} GB of memory and {available} GB can be had; close other programs, set the tuning \
                 mode to automatic, or choose a smaller resolution, batch size or model",
                need,
                available
            ))),
            Some(available) if self.need < self.best => Ok(Some(text!(
                "tuned with {mode} ({need} GB of memory instead of {best} GB; {available} GB could be had)",
                mode = self.mode.phrase(),
                need,
                best,
                available
            ))),
            _ => Ok(None),
        }
    }
}

/// Memory beside that of an edit, so that it can be begun: estimates err by some percent, and an editor has other
/// things to do. A small edit, as one in a container of 256 MB, leaves half as much again.
pub fn margin(need: u64) -> u64 {
    (need / 10).max((2 * RESERVE).min(need / 2))
}

/// Free memory below which an edit that needs `need` bytes goes over to a lighter mode: at most half of what it was
/// begun with beside its need, or it would go over although all is as foreseen.
pub fn reserve(need: u64) -> u64 {
    RESERVE.min(margin(need) / 2)
}

fn fits(need: u64, available: Option<u64>) -> bool {
    available.is_none_or(|available| need + margin(need) <= available)
}
