//! Elements of tensors on the CPU: how operations get at them, and the loops over them that all share.
#![forbid(unsafe_code)]

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};
use half::{bf16, f16};
use std::cell::RefCell;
use std::ops::Range;

/// The elements of a contiguous tensor on the CPU.
pub(super) fn values<'a>((storage, layout): (&'a CpuStorage, &Layout)) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("a tensor of shape {:?} is not contiguous", layout.shape()),
    }
}

/// The finite elements of a weight, which may have 16 bits if it is frozen: it takes half the memory, and every number
/// is that of f32, because what is computed with is widened first.
#[derive(Clone, Copy)]
pub(super) enum Numbers<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

impl<'a> Numbers<'a> {
    /// Those of a contiguous tensor on the CPU.
    pub fn of((storage, layout): (&'a CpuStorage, &Layout)) -> Result<Self> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("a tensor of shape {:?} is not contiguous", layout.shape());
        };
        Ok(match storage {
            CpuStorage::F16(numbers) => Self::F16(&numbers[start..end]),
            CpuStorage::BF16(numbers) => Self::Bf16(&numbers[start..end]),
            others => Self::F32(&others.as_slice::<f32>()?[start..end]),
        })
    }

    /// How many.
    pub fn len(self) -> usize {
        match self {
            Self::F32(numbers) => numbers.len(),
            Self::F16(numbers) => numbers.len(),
            Self::Bf16(numbers) => numbers.len(),
        }
    }

    /// Some of them.
    pub fn part(self, range: Range<usize>) -> Self {
        match self {
            Self::F32(numbers) => Self::F32(&numbers[range]),
            Self::F16(numbers) => Self::F16(&numbers[range]),
            Self::Bf16(numbers) => Self::Bf16(&numbers[range]),
        }
    }

    /// Puts them into `out`, of the same length, on this thread.
    pub fn widen(self, out: &mut [f32]) {
        assert_eq!(self.len(), out.len(), "as many places as numbers");
        vectorized(
            #[inline(always)]
            || match self {
                Self::F32(numbers) => out.copy_from_slice(numbers),
                Self::F16(numbers) => out.iter_mut().zip(numbers).for_each(|(out, n)| *out = widened(n.to_bits())),
                Self::Bf16(numbers) => {
                    out.iter_mut().zip(numbers).for_each(|(out, n)| *out = f32::from_bits(u32::from(n.to_bits()) << 16))
                }
            },
        );
    }
}

/// The f32 of an f16 that is finite. Vector instructions do many at a time, where the conversion of the crate `half` is
/// a call for eight.
#[inline(always)]
fn widened(bits: u16) -> f32 {
    /// What the exponents' biases differ by, and the smallest normal number of f16.
    const BIAS: u32 = (127 - 15) << 23;
    const SMALLEST: f32 = f32::from_bits(BIAS + (1 << 23));
    let (bits, sign) = (u32::from(bits & 0x7fff) << 13, u32::from(bits & 0x8000) << 16);
    let normal = f32::from_bits(bits + BIAS);
    let subnormal = f32::from_bits(bits + BIAS + (1 << 23)) - SMALLEST;
    let magnitude = if bits < 1 << 23 { subnormal } else { normal };
    f32::from_bits(magnitude.to_bits() | sign)
}

/// Calls `f` with the elements of a weight on the CPU, which may be one of 16 bits.
pub(super) fn with_numbers<R>(weight: &Tensor, f: impl FnOnce(Numbers<'_>) -> Result<R>) -> Result<R> {
    let weight = weight.contiguous()?;
    let (storage, layout) = weight.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { bail!("this tensor is not on the CPU") };
    f(Numbers::of((storage, layout))?)
}

/// Calls `f` with the elements of CPU tensors, which are copied first if they are not contiguous.
pub(super) fn with_values<const N: usize, R>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&[f32]; N]) -> Result<R>,
) -> Result<R> {
    let tensors = tensors.into_iter().map(Tensor::contiguous).collect::<Result<Vec<_>>>()?;
    let held: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let mut slices = [&[][..]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&held) {
        let Storage::Cpu(storage) = &**storage else { bail!("this tensor is not on the CPU") };
        *slice = values((storage, layout))?;
    }
    f(slices)
}

/// The gradient of `x`, if one is wanted.
pub(super) fn wanted(x: &Tensor, gradient: impl FnOnce() -> Result<Vec<f32>>) -> Result<Option<Tensor>> {
    x.track_op().then(|| Tensor::from_vec(gradient()?, x.shape(), x.device())).transpose()
}

thread_local! {
    /// Scratch buffers of [`with_buffer`] that are free. Thread-local, because operations have no owner that outlives
    /// them: candle makes one for each call, and their tasks run on any thread of the pool.
    static BUFFERS: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with a scratch buffer of `len` elements of any content. A new vector would be zeroed first, which took a
/// tenth of a training step.
pub(super) fn with_buffer<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    /// Larger buffers, from 32 MB on, are not kept: what they are used for outweighs zeroing them.
    const MOST_KEPT: usize = 8 << 20;
    let mut buffer = BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < len {
        buffer = vec![0.0; len];
    }
    let result = f(&mut buffer[..len]);
    if buffer.len() <= MOST_KEPT {
        BUFFERS.with_borrow_mut(|buffers| buffers.push(buffer));
    }
    result
}

/// `exp` that compiles to vector instructions; relative error 2e-7. Range reduction and polynomial of Cephes `expf`.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Two parts of ln 2, so that n * ln 2 is subtracted without rounding.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-LN_2_HIGH, x);
    let r = n.mul_add(-LN_2_LOW, r);
    let mut p = 1.987_569_1e-4_f32;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p.mul_add(r, coefficient);
    }
    let y = (p * r).mul_add(r, r) + 1.0;
    y * f32::from_bits(((n as i32 + 127) << 23) as u32)
}

#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `erf` that compiles to vector instructions; absolute error 1.5e-7 (Abramowitz and Stegun, 7.1.26).
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let t = 1.0 / x.abs().mul_add(0.327_591_1, 1.0);
    let mut p = 1.061_405_4_f32;
    for coefficient in [-1.453_152, 1.421_413_8, -0.284_496_74, 0.254_829_6] {
        p = p.mul_add(t, coefficient);
    }
    (1.0 - p * t * exp(-x * x)).copysign(x)
}

/// Runs `f` compiled for this processor's vector instructions. Without it the loops here would use what every x86-64
/// has: no fused multiply-add (a function call each) and four numbers at a time.
#[inline(always)]
pub(super) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// Partial sums that are kept apart: vectorizes, and errs less than one running sum.
const LANES: usize = 16;

/// Sum of f(a).
#[inline(always)]
pub(super) fn sum(a: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let chunks = a.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().map(|&a| f(a)).sum();
    for a in chunks {
        for lane in 0..LANES {
            lanes[lane] += f(a[lane]);
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// Sum of f(a, b) over two rows of one length.
#[inline(always)]
pub(super) fn sum2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(&a, &b)| f(a, b)).sum();
    for (a, b) in a.zip(b) {
        for lane in 0..LANES {
            lanes[lane] += f(a[lane], b[lane]);
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// Largest element of a row.
#[inline(always)]
pub(super) fn largest(row: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, larger);
    for row in chunks {
        for lane in 0..LANES {
            lanes[lane] = larger(lanes[lane], row[lane]);
        }
    }
    lanes.into_iter().fold(rest, larger)
}
