//! Group normalization (with SiLU, its usual neighbor) and layer normalization.
#![forbid(unsafe_code)]

use super::{sigmoid, sum, tensor_like, values, with_values};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// What follows the normalization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// x * sigmoid(x).
    Silu,
}

/// `x`: (b, c, ...), `weight`, `bias`: (c).
pub fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f32,
    after: Activation,
) -> Result<Tensor> {
    x.contiguous()?.apply_op3(weight, bias, GroupNorm { groups, eps, after })
}

/// `x`: (..., c), `weight`, `bias`: (c).
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    x.contiguous()?.apply_op3(weight, bias, LayerNorm { eps })
}

/// Mean and 1 / sqrt(variance + eps), in two passes. Partial sums go to f64 because a group can hold a million values.
fn statistics(x: &[f32], eps: f32) -> (f32, f32) {
    const CHUNK: usize = 4096;
    let n = x.len() as f64;
    let total = |f: &dyn Fn(&[f32]) -> f32| x.chunks(CHUNK).map(|chunk| f64::from(f(chunk))).sum::<f64>();
    let mean = (total(&|chunk| sum(chunk.iter().copied())) / n) as f32;
    let variance = total(&|chunk| sum(chunk.iter().map(|x| (x - mean) * (x - mean)))) / n;
    (mean, 1.0 / (variance as f32 + eps).sqrt())
}

struct GroupNorm {
    groups: usize,
    eps: f32,
    after: Activation,
}

impl CustomOp3 for GroupNorm {
    fn name(&self) -> &'static str {
        "group norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        weight: &CpuStorage,
        lw: &Layout,
        bias: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight, bias) = (values(x, lx)?, values(weight, lw)?, values(bias, lb)?);
        let plane: usize = lx.dims()[2..].iter().product();
        let channels = weight.len() / self.groups;
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(channels * plane).zip(x.par_chunks(channels * plane)).enumerate().for_each(
            |(group, (y, x))| {
                let (mean, rstd) = statistics(x, self.eps);
                let first = group % self.groups * channels;
                for (c, (y, x)) in y.chunks_mut(plane).zip(x.chunks(plane)).enumerate() {
                    let scale = rstd * weight[first + c];
                    let shift = bias[first + c] - mean * scale;
                    match self.after {
                        Activation::None => y.iter_mut().zip(x).for_each(|(y, x)| *y = x.mul_add(scale, shift)),
                        Activation::Silu => y.iter_mut().zip(x).for_each(|(y, x)| {
                            let z = x.mul_add(scale, shift);
                            *y = z * sigmoid(z);
                        }),
                    }
                }
            },
        );
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let plane: usize = x.dims()[2..].iter().product();
        let c = weight.elem_count();
        let channels = c / self.groups;
        let group_len = channels * plane;
        let with = |f: &mut dyn FnMut(&[f32], &[f32], &[f32], &[f32])| {
            with_values(x, |x| with_values(weight, |w| with_values(bias, |b| with_values(dy, |dy| Ok(f(x, w, b, dy))))))
        };
        let mut dx = vec![0.0; x.elem_count()];
        let mut sums = vec![[0.0f32; 2]; x.dims()[0] * c]; // (b, c): gradients of weight and bias
        with(&mut |x, weight, bias, dy| {
            let inputs = x.par_chunks(group_len).zip(dy.par_chunks(group_len));
            let outputs = dx.par_chunks_mut(group_len).zip(sums.par_chunks_mut(channels));
            outputs.zip(inputs).enumerate().for_each(|(group, ((dx, sums), (x, dy)))| {
                let (mean, rstd) = statistics(x, self.eps);
                let first = group % self.groups * channels;
                // z = x_hat * weight + bias; dx holds dz until both means below are known.
                let (mut mean_d, mut mean_dx) = (0.0f32, 0.0f32);
                for channel in 0..channels {
                    let (w, b) = (weight[first + channel], bias[first + channel]);
                    let here = channel * plane..(channel + 1) * plane;
                    let dz = &mut dx[here.clone()];
                    match self.after {
                        Activation::None => dz.copy_from_slice(&dy[here.clone()]),
                        Activation::Silu => {
                            for ((dz, x), dy) in dz.iter_mut().zip(&x[here.clone()]).zip(&dy[here.clone()]) {
                                let z = ((x - mean) * rstd).mul_add(w, b);
                                let s = sigmoid(z);
                                *dz = dy * s * (1.0 + z * (1.0 - s));
                            }
                        }
                    }
                    let dw = sum(dz.iter().zip(&x[here]).map(|(dz, x)| dz * ((x - mean) * rstd)));
                    let db = sum(dz.iter().copied());
                    sums[channel] = [dw, db];
                    mean_dx += dw * w;
                    mean_d += db * w;
                }
                mean_d /= group_len as f32;
                mean_dx /= group_len as f32;
                for (channel, (dx, x)) in dx.chunks_mut(plane).zip(x.chunks(plane)).enumerate() {
                    let w = weight[first + channel];
                    for (dx, x) in dx.iter_mut().zip(x) {
                        *dx = rstd * (*dx * w - mean_d - (x - mean) * rstd * mean_dx);
                    }
                }
            });
        })?;
        let over_batch =
            |which: usize| (0..c).map(|c0| sums.iter().skip(c0).step_by(c).map(|s| s[which]).sum()).collect();
        Ok((
            x.track_op().then(|| tensor_like(dx, x)).transpose()?,
            weight.track_op().then(|| tensor_like(over_batch(0), weight)).transpose()?,
            bias.track_op().then(|| tensor_like(over_batch(1), bias)).transpose()?,
        ))
    }
}

struct LayerNorm {
    eps: f32,
}

/// Rows whose weight gradients are summed together; fixed, so that the sum does not depend on the threads.
const ROWS: usize = 64;

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        weight: &CpuStorage,
        lw: &Layout,
        bias: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight, bias) = (values(x, lx)?, values(weight, lw)?, values(bias, lb)?);
        let c = weight.len();
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(c).zip(x.par_chunks(c)).for_each(|(y, x)| {
            let (mean, rstd) = statistics(x, self.eps);
            for i in 0..c {
                y[i] = ((x[i] - mean) * rstd).mul_add(weight[i], bias[i]);
            }
        });
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let c = weight.elem_count();
        let mut dx = vec![0.0; x.elem_count()];
        let mut sums = vec![0.0f32; x.elem_count().div_ceil(ROWS * c) * 2 * c]; // a chunk of rows each: dw, db
        with_values(x, |x| {
            with_values(weight, |weight| {
                with_values(dy, |dy| {
                    let inputs = x.par_chunks(ROWS * c).zip(dy.par_chunks(ROWS * c));
                    dx.par_chunks_mut(ROWS * c).zip(sums.par_chunks_mut(2 * c)).zip(inputs).for_each(
                        |((dx, sums), (x, dy))| {
                            let (dw, db) = sums.split_at_mut(c);
                            for ((dx, x), dy) in dx.chunks_mut(c).zip(x.chunks(c)).zip(dy.chunks(c)) {
                                let (mean, rstd) = statistics(x, self.eps);
                                for i in 0..c {
                                    dw[i] += dy[i] * (x[i] - mean) * rstd;
                                    db[i] += dy[i];
                                }
                                let dz = |i: usize| dy[i] * weight[i];
                                let mean_d = sum((0..c).map(dz)) / c as f32;
                                let mean_dx = sum((0..c).map(|i| dz(i) * (x[i] - mean) * rstd)) / c as f32;
                                for i in 0..c {
                                    dx[i] = rstd * (dz(i) - mean_d - (x[i] - mean) * rstd * mean_dx);
                                }
                            }
                        },
                    );
                    Ok(())
                })
            })
        })?;
        let total = |offset: usize| (0..c).map(|i| sums.iter().skip(offset + i).step_by(2 * c).sum()).collect();
        Ok((
            x.track_op().then(|| tensor_like(dx, x)).transpose()?,
            weight.track_op().then(|| tensor_like(total(0), weight)).transpose()?,
            bias.track_op().then(|| tensor_like(total(c), bias)).transpose()?,
        ))
    }
}
