//! The ways to tune: what stage B trains, and what becomes of intermediate results.
#![forbid(unsafe_code)]

use crate::engine::device::Chosen;
use crate::engine::ops::MomentBits;
use crate::engine::tuning::backward::Activations;
use crate::params::{Params, TuningMode};
use crate::text::{Text, text};

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
    /// The adapters of [`crate::engine::model::lora`].
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
    pub fn note_if_kept(self, best: Self) -> Option<Text> {
        match self {
            _ if self == best => None,
            Self::Weights => None,
            Self::WeightsInEightBits => Some(text!(
                "this picture was tuned with moments in 8 bits when memory was short, and that is used again; set the \
                 tuning mode to full to tune with all bits"
            )),
            Self::Adapters => Some(text!(
                "this picture was tuned with adapters (LoRA) when memory was short, and that is used again; set the \
                 tuning mode to full to tune all weights"
            )),
        }
    }
}

impl Mode {
    /// Those that `params.tuning_mode` leaves to choose from.
    pub fn allowed(params: &Params, on: &Chosen) -> &'static [Self] {
        match params.tuning_mode {
            TuningMode::Full => &[Self::Full],
            TuningMode::Checkpointed => &[Self::Checkpointed],
            TuningMode::Lora => &[Self::Lora, Self::LoraCheckpointed],
            TuningMode::Automatic if on.eight_bit_moments => {
                &[Self::Full, Self::Checkpointed, Self::EightBits, Self::Lora, Self::LoraCheckpointed]
            }
            TuningMode::Automatic => &[Self::Full, Self::Checkpointed, Self::Lora, Self::LoraCheckpointed],
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
    pub fn phrase(self) -> Text {
        match self {
            Self::Full => text!("all weights"),
            Self::Checkpointed => {
                text!("all weights, intermediate results computed twice: the same result in more time")
            }
            Self::EightBits => {
                text!(
                    "all weights, moments in 8 bits and intermediate results computed twice: almost the same result, \
                     in more time"
                )
            }
            Self::Lora => text!("adapters (LoRA) instead of all weights: another result"),
            Self::LoraCheckpointed => {
                text!(
                    "adapters (LoRA) instead of all weights, intermediate results computed twice: another result, in \
                     more time"
                )
            }
        }
    }

    /// Tells that it goes on in this mode because memory ran short in `before`.
    pub fn note_after(self, before: Self, reason: Text) -> Text {
        let mode = self.phrase();
        if self.trained() == before.trained() {
            return text!(
                "{reason}, so it was tuned from there with {mode}; close other programs to avoid this",
                reason,
                mode
            );
        }
        text!(
            "{reason}, so it was tuned from there with {mode}; the fine-tuning began anew; close other programs to \
             avoid this",
            reason,
            mode
        )
    }
}
