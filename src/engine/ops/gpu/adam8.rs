//! A step of Adam whose moments are kept in 8 bits.
#![deny(unsafe_code)]

use super::{AdamStep, Argument, Gpu, View};
use crate::engine::optimizer::CODED;
use candle_core::Result;

/// Blocks of values that a block of threads codes, one for each warp.
const AT_ONCE: usize = 8;

/// Changes `count` numbers `p` by their gradient `g`, and `moments`, [`MomentBits::numbers`] numbers that are zeros before the first
/// step.
///
/// [`MomentBits::numbers`]: crate::engine::optimizer::MomentBits::numbers
pub(super) fn adam8_step<G: Gpu>(
    gpu: &G,
    p: &mut G::Buffer,
    g: View<'_, G::Buffer>,
    moments: &mut G::Buffer,
    step: AdamStep,
    count: usize,
) -> Result<()> {
    let AdamStep { beta_1, beta_2, size, root_of_bias_2, eps } = step;
    blocks!(gpu, "adam8", count.div_ceil(AT_ONCE * CODED), Out p, In g, Out moments, Value beta_1, Value beta_2, Value size,
        Value root_of_bias_2, Value eps, Count count);
    Ok(())
}
