//! A step of Adam, with moments of f32 or of 8 bits.
#![deny(unsafe_code)]

use super::terms::{Argument, Gpu, In, Kind, THREADS, View, expect};
use crate::engine::ops::moments::CODED;
use candle_core::Result;

/// Constants of Adam.
#[derive(Clone, Copy)]
pub(super) struct AdamStep {
    pub beta_1: f32,
    pub beta_2: f32,
    pub eps: f32,
}

/// Changes `count` elements `p` and their moments by their gradient `g`; `sizes`: the step's size, the root of the
/// second bias.
pub(super) fn adam_step<G: Gpu>(
    gpu: &G,
    p: &mut G::Buffer,
    [g, sizes]: [In<'_, G>; 2],
    [first, second]: [&mut G::Buffer; 2],
    step: AdamStep,
    count: usize,
) -> Result<()> {
    expect(Kind::F32, &[View::all(p), g, View::all(first), View::all(second), sizes])?;
    let AdamStep { beta_1, beta_2, eps } = step;
    each!(gpu, "adam", count, Out p, In g, Out first, Out second, In sizes, Value beta_1, Value beta_2, Value eps);
    Ok(())
}

/// Groups of elements with one scale that a block of threads updates, one for each warp.
const AT_ONCE: usize = 8;

/// As `adam_step`, with both moments in one buffer of `MomentBits::numbers` elements, zeros before the first step.
pub(super) fn adam8_step<G: Gpu>(
    gpu: &G,
    p: &mut G::Buffer,
    [g, numbers]: [In<'_, G>; 2],
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

#[cfg(feature = "cuda")]
mod half {
    use super::super::cuda::{Slice, with_elements};
    use super::{AdamStep, adam_step, adam8_step};
    use crate::engine::ops::adam::{Adam, BETA_1, BETA_2, EPS};
    use crate::engine::ops::moments::MomentBits;
    use candle_core::{CudaStorage, Layout, Result, Tensor, bail};

    impl Adam {
        /// Changes a variable and its moments, none before the first step, by its gradient and by the step's size and
        /// the root of the second bias.
        pub(in crate::engine::ops) fn step_on_gpu(
            (variable, layout): (&mut CudaStorage, &Layout),
            gradient_and_sizes: [&Tensor; 2],
            bits: MomentBits,
            moments: &mut Vec<CudaStorage>,
        ) -> Result<()> {
            let (device, count) = (variable.device.clone(), layout.shape().elem_count());
            if layout.contiguous_offsets() != Some((0, count)) || !matches!(variable.slice, Slice::F32(_)) {
                bail!("only contiguous variables of f32 are trained")
            }
            if moments.is_empty() {
                let lens = if bits.codes(count) { vec![bits.numbers(count)] } else { vec![count; 2] };
                let zeros = |len| Ok(CudaStorage::wrap_cuda_slice(device.alloc_zeros::<f32>(len)?, device.clone()));
                *moments = lens.into_iter().map(zeros).collect::<Result<_>>()?;
            }
            let p = &mut variable.slice;
            let step = AdamStep { beta_1: BETA_1, beta_2: BETA_2, eps: EPS };
            with_elements(gradient_and_sizes, |read| match moments.as_mut_slice() {
                [first, second] => adam_step(&device, p, read, [&mut first.slice, &mut second.slice], step, count),
                [coded] => adam8_step(&device, p, read, &mut coded.slice, step, count),
                _ => unreachable!("made above"),
            })
        }
    }
}
