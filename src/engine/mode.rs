//! The ways to tune, and the choice between them by what memory allows.
#![forbid(unsafe_code)]

use super::checkpoint::Activations;
use super::memory::{Needs, Shapes, Task};
use super::optimizer::MomentBits;
use crate::error::{Error, Result};
use crate::params::Params;
use candle_core::Device;

/// Bytes that system and editor need to go on; with less an edit goes over to a lighter mode.
pub const RESERVE: u64 = 128 << 20;

/// A way of tuning. The first ones are the better ones, the last ones take less memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All weights; as fast as can be.
    Full,
    /// All weights, with the same result in about a third more time.
    Checkpointed,
    /// As before, with Adam's moments in 8 bits: almost the same result. On a GPU only, whose memory is the dearer.
    EightBits,
    /// Adapters instead of the weights: another result, and a much smaller tuned model.
    Lora,
    /// Adapters, intermediate results computed twice.
    LoraCheckpointed,
}

/// What stage B changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trained {
    /// All weights of the network.
    Weights,
    /// The same with moments in 8 bits.
    WeightsInEightBits,
    /// The adapters of [`super::lora`].
    Adapters,
}

impl Trained {
    /// Whether the network's own weights stay as they are.
    pub fn is_adapters(self) -> bool {
        self == Self::Adapters
    }

    /// How Adam keeps its moments.
    pub fn moments(self) -> MomentBits {
        match self {
            Self::Weights | Self::Adapters => MomentBits::ThirtyTwo,
            Self::WeightsInEightBits => MomentBits::Eight,
        }
    }

    /// Note for a tuned model of this kind that is kept, if `best` would be better.
    pub fn note_if_kept(self, best: Self) -> Option<&'static str> {
        match self {
            _ if self == best => None,
            Self::Weights => None,
            Self::WeightsInEightBits => Some(
                "this picture was tuned with moments in 8 bits when memory was short, and that is used again; set the tuning mode to \
                 full to tune with all bits",
            ),
            Self::Adapters => Some(
                "this picture was tuned with adapters (LoRA) when memory was short, and that is used again; set the tuning mode to \
                 full to tune all weights",
            ),
        }
    }
}

impl Mode {
    /// Those that `params.tuning_mode` leaves to choose from on `device`.
    pub fn allowed(params: &Params, device: &Device) -> &'static [Self] {
        match params.tuning_mode.as_str() {
            "full" => &[Self::Full],
            "checkpointed" => &[Self::Checkpointed],
            "lora" => &[Self::Lora, Self::LoraCheckpointed],
            _ if device.is_cuda() => {
                &[Self::Full, Self::Checkpointed, Self::EightBits, Self::Lora, Self::LoraCheckpointed]
            }
            _ => &[Self::Full, Self::Checkpointed, Self::Lora, Self::LoraCheckpointed],
        }
    }

    /// What happens to intermediate results.
    pub fn activations(self) -> Activations {
        match self {
            Self::Full | Self::Lora => Activations::Keep,
            Self::Checkpointed | Self::EightBits | Self::LoraCheckpointed => Activations::Recompute,
        }
    }

    /// What stage B changes.
    pub fn trained(self) -> Trained {
        match self {
            Self::Full | Self::Checkpointed => Trained::Weights,
            Self::EightBits => Trained::WeightsInEightBits,
            Self::Lora | Self::LoraCheckpointed => Trained::Adapters,
        }
    }

    /// The one of `allowed` to go on in when memory runs out in this one.
    pub fn lighter(self, allowed: &[Self]) -> Option<Self> {
        let after = allowed.iter().skip_while(|mode| **mode != self).skip(1);
        // Where keeping results was too much for all weights, it is not tried again with adapters.
        after.copied().find(|mode| mode.activations() == Activations::Recompute)
    }

    /// What it is, for notes.
    fn phrase(self) -> &'static str {
        match self {
            Self::Full => "all weights",
            Self::Checkpointed => "all weights, intermediate results computed twice: the same result in more time",
            Self::EightBits => {
                "all weights, moments in 8 bits and intermediate results computed twice: almost the same result, in more time"
            }
            Self::Lora => "adapters (LoRA) instead of all weights: another result",
            Self::LoraCheckpointed => {
                "adapters (LoRA) instead of all weights, intermediate results computed twice: another result, in more time"
            }
        }
    }

    /// Tells that it goes on in this mode because memory ran short in `before`.
    pub fn note_after(self, before: Self, reason: &str) -> String {
        let again = if self.trained() == before.trained() { "" } else { "; the fine-tuning began anew" };
        let phrase = self.phrase();
        format!("{reason}, so it was tuned from there with {phrase}{again}; close other programs to avoid this")
    }
}

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
    /// Chooses from `allowed` for `shapes` of a base model; `free` bytes are left, and of what is in use, `held` serve this edit or
    /// are given up for it.
    pub fn new(shapes: &Shapes, task: &Task<'_>, allowed: &[Mode], held: u64, free: Option<u64>) -> Result<Self> {
        let modes = allowed.iter().map(|&mode| Ok((mode, shapes.needs(task, mode)?)));
        let modes: Vec<(Mode, Needs)> = modes.collect::<Result<_>>()?;
        let available = free.map(|free| free + held);
        let chosen = modes.iter().find(|(_, needs)| fits(needs.peak(), available)).or(modes.last());
        let (mode, needs) = chosen.expect("every setting allows a mode");
        Ok(Self { mode: *mode, need: needs.peak(), available, best: modes[0].1.peak() })
    }

    /// What the user should know about the choice, if anything; an error if nothing fits.
    pub fn note(&self) -> Result<Option<String>> {
        let gb = |bytes: u64| bytes as f64 / 1e9;
        let (need, best) = (gb(self.need), gb(self.best));
        match self.available.map(gb) {
            Some(available) if !fits(self.need, self.available) => Err(Error::Memory(format!(
                "tuning needs {need:.1} GB of memory and {available:.1} GB can be had; close other programs, set the tuning mode \
                 to automatic, or choose a smaller resolution, batch size or model"
            ))),
            Some(available) if self.need < self.best => Ok(Some(format!(
                "tuned with {} ({need:.1} GB of memory instead of {best:.1} GB; {available:.1} GB could be had)",
                self.mode.phrase()
            ))),
            _ => Ok(None),
        }
    }
}

/// Memory beside that of an edit, so that it can be begun: estimates err by some percent, and an editor has other things to do.
pub fn margin(need: u64) -> u64 {
    (need / 10).max(2 * RESERVE)
}

fn fits(need: u64, available: Option<u64>) -> bool {
    available.is_none_or(|available| need + margin(need) <= available)
}
