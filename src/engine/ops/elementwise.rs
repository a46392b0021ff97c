//! Small operations of the U-Net whose candle form is slow, inexact or wrong.
#![forbid(unsafe_code)]

use super::operation::{Gradients, Lent, Op, Operation};
use super::values::{erf, exp, sum, values, vectorized, wanted, with_values};
use candle_core::{CpuStorage, Result, Shape, Tensor};
use rayon::prelude::*;

/// `x`: (..., 2 d), gives (..., d): first half times gelu of the second half. Unlike candle's, gelu is the exact one
/// with erf, as in diffusers; the tanh form differs by 3.5e-5.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Op(Geglu))
}

/// `x`: (b, c, h, w), `e`: (b, c), added at every position.
pub fn add_per_channel(x: &Tensor, e: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&e.contiguous()?, Op(AddPerChannel))
}

/// (b, c, h, w) to (b, c, 2 h, 2 w), every element four times. Unlike candle's, the gradient is right when the input
/// has a second consumer.
pub fn upsample_nearest_2x(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Op(Upsample))
}

pub(super) struct Geglu;

/// Rows that one task handles: enough to outweigh starting it.
const ROWS: usize = 16;

/// Probability that a standard normal number is below `x`; gelu(x) = x * this.
#[inline(always)]
fn normal_cdf(x: f32) -> f32 {
    0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

impl Operation<1> for Geglu {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn forward(&self, [x]: [Lent<'_, CpuStorage>; 1]) -> Result<(CpuStorage, Shape)> {
        let mut dims = x.1.dims().to_vec();
        let last = dims.len() - 1;
        dims[last] /= 2;
        let (d, x) = (dims[last], values(x)?);
        let mut y = vec![0.0; x.len() / 2];
        y.par_chunks_mut(ROWS * d).zip(x.par_chunks(ROWS * 2 * d)).for_each(|(y, x)| {
            vectorized(
                #[inline(always)]
                || {
                    for (y, x) in y.chunks_exact_mut(d).zip(x.chunks_exact(2 * d)) {
                        let (h, gate) = x.split_at(d);
                        for ((y, h), gate) in y.iter_mut().zip(h).zip(gate) {
                            *y = h * gate * normal_cdf(*gate);
                        }
                    }
                },
            );
        });
        Ok((CpuStorage::F32(y), Shape::from(dims)))
    }

    fn backward(&self, [x]: [&Tensor; 1], _: &Tensor, dy: &Tensor) -> Gradients<1> {
        // 1 / sqrt(2 pi), of the normal density.
        const DENSITY_0: f32 = 0.398_942_3;
        let d = x.dim(candle_core::D::Minus1)? / 2;
        let of_values = |[x, dy]: [&[f32]; 2]| {
            let mut dx = vec![0.0; x.len()];
            let inputs = x.par_chunks(ROWS * 2 * d).zip(dy.par_chunks(ROWS * d));
            dx.par_chunks_mut(ROWS * 2 * d).zip(inputs).for_each(|(dx, (x, dy))| {
                vectorized(
                    #[inline(always)]
                    || {
                        let rows = dx.chunks_exact_mut(2 * d).zip(x.chunks_exact(2 * d)).zip(dy.chunks_exact(d));
                        for ((dx, x), dy) in rows {
                            let ((h, gate), (dh, dgate)) = (x.split_at(d), dx.split_at_mut(d));
                            for ((((dh, dgate), h), g), dy) in dh.iter_mut().zip(dgate).zip(h).zip(gate).zip(dy) {
                                let cdf = normal_cdf(*g);
                                *dh = dy * g * cdf;
                                *dgate = dy * h * (cdf + g * DENSITY_0 * exp(-0.5 * g * g));
                            }
                        }
                    },
                );
            });
            Ok(dx)
        };
        Ok([wanted(x, || with_values([x, dy], of_values))?])
    }
}

pub(super) struct AddPerChannel;

impl Operation<2> for AddPerChannel {
    fn name(&self) -> &'static str {
        "add per channel"
    }

    fn forward(&self, [x, e]: [Lent<'_, CpuStorage>; 2]) -> Result<(CpuStorage, Shape)> {
        let shape = x.1.shape().clone();
        let (x, e) = (values(x)?, values(e)?);
        let plane = x.len() / e.len();
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(plane).zip(x.par_chunks(plane)).zip(e).for_each(|((y, x), e)| {
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x + e);
        });
        Ok((CpuStorage::F32(y), shape))
    }

    fn backward(&self, [x, e]: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Gradients<2> {
        let plane = dy.elem_count() / e.elem_count();
        let sums = |[dy]: [&[f32]; 1]| Ok(dy.par_chunks(plane).map(|plane| sum(plane, |dy| dy)).collect());
        Ok([x.track_op().then(|| dy.clone()), wanted(e, || with_values([dy], sums))?])
    }
}

pub(super) struct Upsample;

impl Operation<1> for Upsample {
    fn name(&self) -> &'static str {
        "upsample nearest 2x"
    }

    fn forward(&self, [x]: [Lent<'_, CpuStorage>; 1]) -> Result<(CpuStorage, Shape)> {
        let (b, c, h, w) = x.1.shape().dims4()?;
        let x = values(x)?;
        let mut y = vec![0.0; 4 * x.len()];
        y.par_chunks_mut(4 * w).zip(x.par_chunks(w)).for_each(|(rows, x)| {
            let (first, second) = rows.split_at_mut(2 * w);
            first.chunks_mut(2).zip(x).for_each(|(pair, value)| pair.fill(*value));
            second.copy_from_slice(first);
        });
        Ok((CpuStorage::F32(y), Shape::from((b, c, 2 * h, 2 * w))))
    }

    fn backward(&self, [x]: [&Tensor; 1], _: &Tensor, dy: &Tensor) -> Gradients<1> {
        let w = x.dim(3)?;
        let of_values = |[dy]: [&[f32]; 1]| {
            let mut dx = vec![0.0; dy.len() / 4];
            dx.par_chunks_mut(w).zip(dy.par_chunks(4 * w)).for_each(|(dx, rows)| {
                let (first, second) = rows.split_at(2 * w);
                for (i, dx) in dx.iter_mut().enumerate() {
                    *dx = first[2 * i] + first[2 * i + 1] + second[2 * i] + second[2 * i + 1];
                }
            });
            Ok(dx)
        };
        Ok([wanted(x, || with_values([dy], of_values))?])
    }
}
