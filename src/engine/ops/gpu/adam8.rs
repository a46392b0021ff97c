//! A step of Adam whose moments are kept in 8 bits.
#![deny(unsafe_code)]

use super::adam::AdamStep;
use super::terms::{Argument, Gpu, Kind, View, expect};
use crate::engine::ops::moments::CODED;
use candle_core::Result;

/// Groups of elements with one scale that a block of threads updates, one for each warp.
const AT_ONCE: usize = 8;

/// As `adam_step`, with both moments in one buffer of `MomentBits::numbers` elements, zeros before the first step.
pub(super) fn adam8_step<G: Gpu>(
    gpu: &G,
    p: &mut G::Buffer,
    [g, numbers]: [View<'_, G::Buffer>; 2],
    moments: &mut G::Buffer,
    step: AdamStep,
    count: usize,
) -> Result<()> {
    expect(Kind::F32, &[View::all(p), g, View::all(moments), numbers])?;
    let AdamStep { beta_1, beta_2, eps } = step;
    blocks!(gpu, "adam8", count.div_ceil(AT_ONCE * CODED), Out p, In g, Out moments, In numbers, Value beta_1, Value
        beta_2, Value eps, Count count);
    Ok(())
}
