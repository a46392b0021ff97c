//! Group normalization (with SiLU, its usual neighbor) and layer normalization.
#![forbid(unsafe_code)]

use super::adam::Adam;
use super::gradient::{Parameters, hand_over};
use super::operation::{Gradients, Lent, Op, Operation};
use super::values::{sigmoid, sum, sum2, values, vectorized, wanted, with_values};
use candle_core::{CpuStorage, Result, Shape, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

/// What follows the normalization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// x * sigmoid(x).
    Silu,
}

/// `x`: (b, c, ...), weight and bias (c).
pub fn group_norm(x: &Tensor, parameters: &Parameters, groups: usize, eps: f32, after: Activation) -> Result<Tensor> {
    let Parameters { weight, bias, optimizer } = parameters;
    x.contiguous()?.apply_op3(weight, bias, Op(GroupNorm { groups, eps, after, optimizer: optimizer.clone() }))
}

/// `x`: (..., c), weight and bias (c).
pub fn layer_norm(x: &Tensor, parameters: &Parameters, eps: f32) -> Result<Tensor> {
    let Parameters { weight, bias, optimizer } = parameters;
    x.contiguous()?.apply_op3(weight, bias, Op(LayerNorm { eps, optimizer: optimizer.clone() }))
}

/// Mean and 1 / sqrt(variance + eps), in two passes. Partial sums go to f64 because a group can have a million
/// elements.
#[inline(always)]
fn statistics(x: &[f32], eps: f32) -> (f32, f32) {
    const CHUNK: usize = 4096;
    let n = x.len() as f64;
    let mean = (x.chunks(CHUNK).map(|chunk| f64::from(sum(chunk, |x| x))).sum::<f64>() / n) as f32;
    let squares = |chunk| f64::from(sum(chunk, |x| (x - mean) * (x - mean)));
    let variance = x.chunks(CHUNK).map(squares).sum::<f64>() / n;
    (mean, 1.0 / (variance as f32 + eps).sqrt())
}

pub(super) struct GroupNorm {
    pub(super) groups: usize,
    pub(super) eps: f32,
    pub(super) after: Activation,
    pub(super) optimizer: Option<Arc<Adam>>,
}

impl GroupNorm {
    /// One group of one item: `x`, `y`: (channels, plane); `weight`, `bias`: (channels).
    #[inline(always)]
    fn group_forward(&self, y: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32]) {
        let plane = x.len() / weight.len();
        let (mean, rstd) = statistics(x, self.eps);
        let channels = y.chunks_exact_mut(plane).zip(x.chunks_exact(plane));
        for ((y, x), (weight, bias)) in channels.zip(weight.iter().zip(bias)) {
            let scale = rstd * weight;
            let shift = bias - mean * scale;
            match self.after {
                Activation::None => y.iter_mut().zip(x).for_each(|(y, x)| *y = x.mul_add(scale, shift)),
                Activation::Silu => y.iter_mut().zip(x).for_each(|(y, x)| {
                    let z = x.mul_add(scale, shift);
                    *y = z * sigmoid(z);
                }),
            }
        }
    }

    /// Gradients of one group of one item; `sums` takes those of weight and bias for each channel.
    #[inline(always)]
    fn group_backward(&self, dx: &mut [f32], sums: &mut [[f32; 2]], [x, weight, bias, dy]: [&[f32]; 4]) {
        let plane = x.len() / weight.len();
        let (mean, rstd) = statistics(x, self.eps);
        // z = x_hat * weight + bias; dx holds dz until the means of dz * weight and of dz * weight * x_hat are known.
        let (mut mean_d, mut mean_dx) = (0.0f32, 0.0f32);
        let channels = dx.chunks_exact_mut(plane).zip(x.chunks_exact(plane)).zip(dy.chunks_exact(plane));
        for (((dz, x), dy), ((weight, bias), sums)) in channels.zip(weight.iter().zip(bias).zip(sums)) {
            match self.after {
                Activation::None => dz.copy_from_slice(dy),
                Activation::Silu => {
                    for ((dz, x), dy) in dz.iter_mut().zip(x).zip(dy) {
                        let z = ((x - mean) * rstd).mul_add(*weight, *bias);
                        let s = sigmoid(z);
                        *dz = dy * s * (1.0 + z * (1.0 - s));
                    }
                }
            }
            *sums = [sum2(dz, x, |dz, x| dz * ((x - mean) * rstd)), sum(dz, |dz| dz)];
            mean_dx += sums[0] * weight;
            mean_d += sums[1] * weight;
        }
        mean_d /= x.len() as f32;
        mean_dx /= x.len() as f32;
        for ((dx, x), weight) in dx.chunks_exact_mut(plane).zip(x.chunks_exact(plane)).zip(weight) {
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = rstd * (*dx * weight - mean_d - (x - mean) * rstd * mean_dx);
            }
        }
    }
}

impl Operation<3> for GroupNorm {
    fn name(&self) -> &'static str {
        "group norm"
    }

    fn forward(&self, [x, weight, bias]: [Lent<'_, CpuStorage>; 3]) -> Result<(CpuStorage, Shape)> {
        let shape = x.1.shape().clone();
        let (x, weight, bias) = (values(x)?, values(weight)?, values(bias)?);
        let plane: usize = shape.dims()[2..].iter().product();
        let channels = weight.len() / self.groups;
        let mut y = vec![0.0; x.len()];
        let groups = y.par_chunks_mut(channels * plane).zip(x.par_chunks(channels * plane));
        groups.enumerate().for_each(|(group, (y, x))| {
            let here = group % self.groups * channels..(group % self.groups + 1) * channels;
            vectorized(
                #[inline(always)]
                || self.group_forward(y, x, &weight[here.clone()], &bias[here.clone()]),
            );
        });
        Ok((CpuStorage::F32(y), shape))
    }

    fn backward(&self, [x, weight, bias]: [&Tensor; 3], _: &Tensor, dy: &Tensor) -> Gradients<3> {
        let plane: usize = x.dims()[2..].iter().product();
        let c = weight.elem_count();
        let channels = c / self.groups;
        let group = channels * plane;
        let mut dx = vec![0.0; x.elem_count()];
        let mut sums = vec![[0.0f32; 2]; x.dims()[0] * c]; // (b, c): gradients of weight and bias
        with_values([x, weight, bias, dy], |[x, weight, bias, dy]| {
            let outputs = dx.par_chunks_mut(group).zip(sums.par_chunks_mut(channels));
            let groups = outputs.zip(x.par_chunks(group).zip(dy.par_chunks(group)));
            groups.enumerate().for_each(|(index, ((dx, sums), (x, dy)))| {
                let here = index % self.groups * channels..(index % self.groups + 1) * channels;
                let (weight, bias) = (&weight[here.clone()], &bias[here]);
                vectorized(
                    #[inline(always)]
                    || self.group_backward(dx, sums, [x, weight, bias, dy]),
                );
            });
            Ok(())
        })?;
        let over_batch = |which: usize, gradient: &mut [f32]| {
            for (channel, sum) in gradient.iter_mut().enumerate() {
                *sum = sums.iter().skip(channel).step_by(c).map(|s| s[which]).sum();
            }
            Ok(())
        };
        Ok([
            wanted(x, || Ok(dx))?,
            hand_over(&self.optimizer, weight, |dw| over_batch(0, dw))?,
            hand_over(&self.optimizer, bias, |db| over_batch(1, db))?,
        ])
    }
}

pub(super) struct LayerNorm {
    pub(super) eps: f32,
    pub(super) optimizer: Option<Arc<Adam>>,
}

/// Rows whose weight gradients are summed together; fixed, so that the sum does not depend on the threads.
const ROWS: usize = 64;

impl LayerNorm {
    /// Some rows; `sums` takes the gradients of weight and bias.
    #[inline(always)]
    fn rows_backward(&self, dx: &mut [f32], sums: &mut [f32], [x, weight, dy]: [&[f32]; 3]) {
        let c = weight.len();
        let (dw, db) = sums.split_at_mut(c);
        for ((dx, x), dy) in dx.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(dy.chunks_exact(c)) {
            let (mean, rstd) = statistics(x, self.eps);
            for (((dw, db), x), dy) in dw.iter_mut().zip(db.iter_mut()).zip(x).zip(dy) {
                *dw += dy * (x - mean) * rstd;
                *db += dy;
            }
            // dx holds dy * weight until its means are known.
            dx.iter_mut().zip(dy).zip(weight).for_each(|((dx, dy), weight)| *dx = dy * weight);
            let mean_d = sum(dx, |d| d) / c as f32;
            let mean_dx = sum2(dx, x, |d, x| d * (x - mean) * rstd) / c as f32;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = rstd * (*dx - mean_d - (x - mean) * rstd * mean_dx);
            }
        }
    }
}

impl Operation<3> for LayerNorm {
    fn name(&self) -> &'static str {
        "layer norm"
    }

    fn forward(&self, [x, weight, bias]: [Lent<'_, CpuStorage>; 3]) -> Result<(CpuStorage, Shape)> {
        let shape = x.1.shape().clone();
        let (x, weight, bias) = (values(x)?, values(weight)?, values(bias)?);
        let c = weight.len();
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(ROWS * c).zip(x.par_chunks(ROWS * c)).for_each(|(y, x)| {
            vectorized(
                #[inline(always)]
                || {
                    for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                        let (mean, rstd) = statistics(x, self.eps);
                        for ((y, x), (weight, bias)) in y.iter_mut().zip(x).zip(weight.iter().zip(bias)) {
                            *y = ((x - mean) * rstd).mul_add(*weight, *bias);
                        }
                    }
                },
            );
        });
        Ok((CpuStorage::F32(y), shape))
    }

    fn backward(&self, [x, weight, bias]: [&Tensor; 3], _: &Tensor, dy: &Tensor) -> Gradients<3> {
        let c = weight.elem_count();
        let mut dx = vec![0.0; x.elem_count()];
        let mut sums = vec![0.0f32; x.elem_count().div_ceil(ROWS * c) * 2 * c]; // a chunk of rows each: dw, db
        with_values([x, weight, dy], |[x, weight, dy]| {
            let inputs = x.par_chunks(ROWS * c).zip(dy.par_chunks(ROWS * c));
            let outputs = dx.par_chunks_mut(ROWS * c).zip(sums.par_chunks_mut(2 * c));
            outputs.zip(inputs).for_each(|((dx, sums), (x, dy))| {
                vectorized(
                    #[inline(always)]
                    || self.rows_backward(dx, sums, [x, weight, dy]),
                );
            });
            Ok(())
        })?;
        let total = |offset: usize, gradient: &mut [f32]| {
            for (i, sum) in gradient.iter_mut().enumerate() {
                *sum = sums.iter().skip(offset + i).step_by(2 * c).sum();
            }
            Ok(())
        };
        Ok([
            wanted(x, || Ok(dx))?,
            hand_over(&self.optimizer, weight, |dw| total(0, dw))?,
            hand_over(&self.optimizer, bias, |db| total(c, db))?,
        ])
    }
}
