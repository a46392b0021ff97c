//! Small operations of the U-Net whose candle form is slow, inexact or wrong.
#![forbid(unsafe_code)]

#[cfg(feature = "cuda")]
use super::gpu::{self, Held};
use super::values::{erf, exp, sum, tensor_like, values, vectorized, with_values};
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// `x`: (..., 2 d), gives (..., d): first half times gelu of the second half. Unlike candle's, gelu is the exact one
/// with erf, as in diffusers; the tanh form differs by 3.5e-5.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Geglu)
}

/// `x`: (b, c, h, w), `e`: (b, c), added at every position.
pub fn add_per_channel(x: &Tensor, e: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&e.contiguous()?, AddPerChannel)
}

/// (b, c, h, w) to (b, c, 2 h, 2 w), every value four times. Unlike candle's, the gradient is right when the input has
/// a second consumer.
pub fn upsample_nearest_2x(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Upsample)
}

struct Geglu;

/// Rows that one task handles: enough to outweigh starting it.
const ROWS: usize = 16;

/// Probability that a standard normal number is below `x`; gelu(x) = x * this.
#[inline(always)]
fn normal_cdf(x: f32) -> f32 {
    0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

impl CustomOp1 for Geglu {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(x, lx)?;
        let mut dims = lx.dims().to_vec();
        let last = dims.len() - 1;
        dims[last] /= 2;
        let d = dims[last];
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

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, lx: &Layout) -> Result<(CudaStorage, Shape)> {
        let (mut dims, last) = (lx.dims().to_vec(), lx.dims().len() - 1);
        dims[last] /= 2;
        let rows = dims[..last].iter().product();
        let y = gpu::geglu(&x.device, gpu::view(x, lx)?, rows, dims[last])?;
        Ok((gpu::storage(y, &x.device), Shape::from(dims)))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        // 1 / sqrt(2 pi), of the normal density.
        const DENSITY_0: f32 = 0.398_942_3;
        let d = x.dim(candle_core::D::Minus1)? / 2;
        #[cfg(feature = "cuda")]
        if let candle_core::Device::Cuda(device) = x.device() {
            let (dy, rows) = (dy.contiguous()?, x.elem_count() / (2 * d));
            let dx = gpu::geglu_gradient(device, Held::of(x).view()?, Held::of(&dy).view()?, rows, d)?;
            return Ok(Some(gpu::tensor(dx, device, x)));
        }
        let dx = with_values(x, |x| {
            with_values(dy, |dy| {
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
            })
        })?;
        Ok(Some(tensor_like(dx, x)?))
    }
}

struct AddPerChannel;

impl CustomOp2 for AddPerChannel {
    fn name(&self) -> &'static str {
        "add per channel"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, e: &CpuStorage, le: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, e) = (values(x, lx)?, values(e, le)?);
        let plane = x.len() / e.len();
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(plane).zip(x.par_chunks(plane)).zip(e).for_each(|((y, x), e)| {
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x + e);
        });
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, lx: &Layout, e: &CudaStorage, le: &Layout) -> Result<(CudaStorage, Shape)> {
        let channels = le.shape().elem_count();
        let plane = lx.shape().elem_count() / channels;
        let y = gpu::add_per_channel(&x.device, gpu::view(x, lx)?, gpu::view(e, le)?, channels, plane)?;
        Ok((gpu::storage(y, &x.device), lx.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, e: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        #[cfg(feature = "cuda")]
        if let candle_core::Device::Cuda(device) = x.device() {
            let (planes, channels) = (dy.contiguous()?, e.elem_count());
            let de = || gpu::row_sums(device, Held::of(&planes).view()?, channels, planes.elem_count() / channels);
            let de = e.track_op().then(de).transpose()?;
            return Ok((x.track_op().then(|| dy.clone()), de.map(|de| gpu::tensor(de, device, e))));
        }
        let de = e.track_op().then(|| {
            with_values(dy, |dy| {
                let plane = dy.len() / e.elem_count();
                tensor_like(dy.par_chunks(plane).map(|plane| sum(plane, |dy| dy)).collect(), e)
            })
        });
        Ok((x.track_op().then(|| dy.clone()), de.transpose()?))
    }
}

struct Upsample;

impl CustomOp1 for Upsample {
    fn name(&self) -> &'static str {
        "upsample nearest 2x"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(x, lx)?;
        let (b, c, h, w) = lx.shape().dims4()?;
        let mut y = vec![0.0; 4 * x.len()];
        y.par_chunks_mut(4 * w).zip(x.par_chunks(w)).for_each(|(rows, x)| {
            let (first, second) = rows.split_at_mut(2 * w);
            first.chunks_mut(2).zip(x).for_each(|(pair, value)| pair.fill(*value));
            second.copy_from_slice(first);
        });
        Ok((CpuStorage::F32(y), Shape::from((b, c, 2 * h, 2 * w))))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, lx: &Layout) -> Result<(CudaStorage, Shape)> {
        let (b, c, h, w) = lx.shape().dims4()?;
        let y = gpu::upsample(&x.device, gpu::view(x, lx)?, b * c, h, w)?;
        Ok((gpu::storage(y, &x.device), Shape::from((b, c, 2 * h, 2 * w))))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let w = x.dim(3)?;
        #[cfg(feature = "cuda")]
        if let candle_core::Device::Cuda(device) = x.device() {
            let dy = dy.contiguous()?;
            let dx = gpu::upsample_gradient(device, Held::of(&dy).view()?, x.elem_count(), w)?;
            return Ok(Some(gpu::tensor(dx, device, x)));
        }
        let dx = with_values(dy, |dy| {
            let mut dx = vec![0.0; dy.len() / 4];
            dx.par_chunks_mut(w).zip(dy.par_chunks(4 * w)).for_each(|(dx, rows)| {
                let (first, second) = rows.split_at(2 * w);
                for (i, dx) in dx.iter_mut().enumerate() {
                    *dx = first[2 * i] + first[2 * i + 1] + second[2 * i] + second[2 * i + 1];
                }
            });
            Ok(dx)
        })?;
        Ok(Some(tensor_like(dx, x)?))
    }
}
