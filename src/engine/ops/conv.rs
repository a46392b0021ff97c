//! Two-dimensional convolution as a matrix product with patches of the input laid out as columns.
//!
//! The columns of a whole layer would take up to a gigabyte, so they are made band by band: a band is a run of output
//! rows, counted through the batch, so that small pictures of a batch share one product. Where it is faster, `winograd`
//! does the work.
#![forbid(unsafe_code)]

use super::adam::Adam;
use super::gemm::{Matrix, Out, Threads, matmul};
use super::gradient::{Parameters, hand_over};
use super::operation::{Gradients, Lent, Op, Operation};
use super::values::{Numbers, sum, values, wanted, with_buffer, with_numbers, with_values};
use super::winograd::Tiles;
use candle_core::{CpuStorage, Result, Shape, Tensor};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// A band has at least this many columns, so that the weights are not streamed through the cache too often ...
const BAND_COLUMNS: usize = 512;
/// ... and about this many elements if the layer is narrow.
const BAND_VALUES: usize = 2 << 20;

/// From so many tiles in a batch Winograd's way is faster. With fewer, transforming the weights, which takes as long as
/// some 20 tiles whatever their number, outweighs the multiplications saved. Measured on an EPYC of 2024 with 64 to 640
/// channels.
const WINOGRAD_TILES: usize = 32;

/// Zeros around the input.
#[derive(Clone, Copy, Debug)]
pub enum Padding {
    /// `n` rows and columns on every side.
    Even(usize),
    /// One row below and one column to the right: the VAE encoder's downsampling in diffusers.
    AfterOnly,
}

/// `x`: (b, c, h, w), weight (o, c, k, k), of 16 bits too if it is frozen, bias (o); gives (b, o, h', w').
pub fn conv2d(x: &Tensor, parameters: &Parameters, stride: usize, padding: Padding) -> Result<Tensor> {
    let Parameters { weight, bias, optimizer } = parameters;
    let (before, after) = match padding {
        Padding::Even(n) => (n, n),
        Padding::AfterOnly => (0, 1),
    };
    x.contiguous()?.apply_op3(weight, bias, Op(Conv2d { stride, before, after, optimizer: optimizer.clone() }))
}

pub(super) struct Conv2d {
    stride: usize,
    before: usize,
    after: usize,
    pub(super) optimizer: Option<Arc<Adam>>,
}

/// All sizes of one call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) b: usize,
    pub(super) c: usize,
    pub(super) h: usize,
    pub(super) w: usize,
    pub(super) o: usize,
    pub(super) k: usize,
    pub(super) out_h: usize,
    pub(super) out_w: usize,
    pub(super) stride: usize,
    /// Rows and columns of zeros before the input; behind it there are as many as are needed.
    pub(super) before: usize,
}

impl Conv2d {
    pub(super) fn sizes(&self, x: &[usize], weight: &[usize]) -> Sizes {
        let k = weight[3];
        let out = |size: usize| (size + self.before + self.after - k) / self.stride + 1;
        Sizes {
            b: x[0],
            c: x[1],
            h: x[2],
            w: x[3],
            o: weight[0],
            k,
            out_h: out(x[2]),
            out_w: out(x[3]),
            stride: self.stride,
            before: self.before,
        }
    }
}

impl Sizes {
    /// The tiles of Winograd's way, where it is faster.
    fn tiles(&self) -> Option<Tiles> {
        let tiles = Tiles::new(self.b, self.h, self.w);
        let fits = self.k == 3 && self.stride == 1 && self.before == 1 && self.out_h == self.h;
        (fits && tiles.count() >= WINOGRAD_TILES).then_some(tiles)
    }

    /// Elements of one column: a patch through all channels.
    pub(super) fn patch(&self) -> usize {
        self.c * self.k * self.k
    }

    /// Calls `f` for each band of output rows, counted through the batch, with its columns' number and buffers for its
    /// patches and for its part of y, (o, band), both of any content.
    fn for_each_band(&self, mut f: impl FnMut(&Range<usize>, usize, &mut [f32], &mut [f32])) {
        let rows = (BAND_COLUMNS / self.out_w).max(BAND_VALUES / (self.patch() * self.out_w)).max(1);
        let all = self.b * self.out_h;
        for start in (0..all).step_by(rows) {
            let band = start..(start + rows).min(all);
            let width = band.len() * self.out_w;
            with_buffer((self.patch() + self.o) * width, |buffer| {
                let (patches, of_y) = buffer.split_at_mut(self.patch() * width);
                f(&band, width, patches, of_y);
            });
        }
    }

    /// Input row under output row `row` and kernel row `ky`, and its batch item; `None` in the padding.
    fn input_row(&self, row: usize, ky: usize) -> Option<(usize, usize)> {
        let y = (row % self.out_h * self.stride + ky).checked_sub(self.before).filter(|&y| y < self.h)?;
        Some((row / self.out_h, y))
    }

    /// Output columns for which kernel column `kx` falls inside the input, and the input column of the first.
    fn inside(&self, kx: usize) -> (Range<usize>, usize) {
        let first = self.before.saturating_sub(kx).div_ceil(self.stride).min(self.out_w);
        let end = (self.w + self.before).saturating_sub(kx).div_ceil(self.stride).min(self.out_w).max(first);
        (first..end, (first * self.stride + kx).saturating_sub(self.before).min(self.w))
    }

    /// Fills `columns`, (c k k, band), with the patches under the output rows `band`.
    fn gather(&self, x: &[f32], band: &Range<usize>, columns: &mut [f32]) {
        let width = band.len() * self.out_w;
        columns.par_chunks_mut(self.k * self.k * width).enumerate().for_each(|(channel, columns)| {
            for (tap, columns) in columns.chunks_mut(width).enumerate() {
                let (ky, kx) = (tap / self.k, tap % self.k);
                let (inside, x0) = self.inside(kx);
                for (row, columns) in band.clone().zip(columns.chunks_mut(self.out_w)) {
                    let Some((item, y)) = self.input_row(row, ky) else {
                        columns.fill(0.0);
                        continue;
                    };
                    let source = &x[((item * self.c + channel) * self.h + y) * self.w..][..self.w];
                    columns[..inside.start].fill(0.0);
                    columns[inside.end..].fill(0.0);
                    let columns = &mut columns[inside.clone()];
                    if self.stride == 1 {
                        columns.copy_from_slice(&source[x0..x0 + columns.len()]);
                    } else {
                        let source = source[x0..].iter().step_by(self.stride);
                        columns.iter_mut().zip(source).for_each(|(value, x)| *value = *x);
                    }
                }
            }
        });
    }

    /// Fills `patches`, (band, c k k), the transpose of what [`Sizes::gather`] makes.
    fn gather_rows(&self, x: &[f32], band: &Range<usize>, patches: &mut [f32]) {
        patches.par_chunks_mut(self.out_w * self.patch()).zip(band.clone()).for_each(|(patches, row)| {
            if let (1, Some((item, y))) = (self.k, self.input_row(row, 0)) {
                for channel in 0..self.c {
                    let source = x[((item * self.c + channel) * self.h + y) * self.w..].iter().step_by(self.stride);
                    patches.chunks_exact_mut(self.c).zip(source).for_each(|(patch, x)| patch[channel] = *x);
                }
                return;
            }
            let input_rows = (0..self.k).map(|ky| self.input_row(row, ky));
            let input_rows: Vec<_> = input_rows.enumerate().filter_map(|(ky, at)| Some((ky, at?))).collect();
            for (out_x, patch) in patches.chunks_exact_mut(self.patch()).enumerate() {
                // Kernel columns that fall inside the input.
                let left = out_x * self.stride;
                let inside = self.before.saturating_sub(left)..self.k.min((self.w + self.before).saturating_sub(left));
                if input_rows.len() * inside.len() < self.k * self.k {
                    patch.fill(0.0);
                }
                for &(ky, (item, y)) in &input_rows {
                    let first = (item * self.c * self.h + y) * self.w + left + inside.start - self.before;
                    for (channel, taps) in patch.chunks_exact_mut(self.k * self.k).enumerate() {
                        let source = &x[first + channel * self.h * self.w..];
                        let taps = &mut taps[ky * self.k + inside.start..];
                        match (taps.first_chunk_mut::<3>(), source.first_chunk::<3>()) {
                            // Most are three, and so few cost a call to be copied if their number is not known.
                            (Some(taps), Some(source)) if inside.len() == 3 => *taps = *source,
                            _ => taps.iter_mut().zip(source).take(inside.len()).for_each(|(tap, x)| *tap = *x),
                        }
                    }
                }
            }
        });
    }

    /// Adds `columns` back to where [`Sizes::gather`] took them from; `dx` is (c, b, h, w).
    fn scatter(&self, columns: &[f32], band: &Range<usize>, dx: &mut [f32]) {
        let width = band.len() * self.out_w;
        let taps = columns.par_chunks(self.k * self.k * width);
        dx.par_chunks_mut(self.b * self.h * self.w).zip(taps).for_each(|(dx, columns)| {
            for (tap, columns) in columns.chunks(width).enumerate() {
                let (ky, kx) = (tap / self.k, tap % self.k);
                let (inside, x0) = self.inside(kx);
                for (row, columns) in band.clone().zip(columns.chunks(self.out_w)) {
                    let Some((item, y)) = self.input_row(row, ky) else { continue };
                    let target = &mut dx[(item * self.h + y) * self.w..][..self.w];
                    let columns = &columns[inside.clone()];
                    if self.stride == 1 {
                        let target = &mut target[x0..x0 + columns.len()];
                        target.iter_mut().zip(columns).for_each(|(sum, value)| *sum += value);
                    } else {
                        let target = target[x0..].iter_mut().step_by(self.stride);
                        target.zip(columns).for_each(|(sum, value)| *sum += value);
                    }
                }
            }
        });
    }

    /// The part of `y`, (b, o, h', w'), that belongs to `band`, as runs (position in `y`, position in the band,
    /// length).
    fn runs(&self, channel: usize, band: &Range<usize>) -> impl Iterator<Item = (usize, usize, usize)> {
        let (out_h, out_w, o, start, end) = (self.out_h, self.out_w, self.o, band.start, band.end);
        (start / out_h..end.div_ceil(out_h)).map(move |item| {
            let first = start.max(item * out_h);
            let last = end.min((item + 1) * out_h);
            let in_y = ((item * o + channel) * out_h + first - item * out_h) * out_w;
            (in_y, (first - start) * out_w, (last - first) * out_w)
        })
    }

    /// Rows `band` of `y` as (o, band).
    fn band_of(&self, y: &[f32], band: &Range<usize>, out: &mut [f32]) {
        out.par_chunks_mut(band.len() * self.out_w).enumerate().for_each(|(channel, out)| {
            for (in_y, in_band, len) in self.runs(channel, band) {
                out[in_band..in_band + len].copy_from_slice(&y[in_y..in_y + len]);
            }
        });
    }

    fn forward(&self, x: &[f32], weight: Numbers<'_>, bias: &[f32]) -> Vec<f32> {
        if let Some(tiles) = self.tiles() {
            return tiles.forward(x, weight, bias);
        }
        let weight = Matrix::of(weight, self.o, self.patch());
        let mut y = vec![0.0; self.b * self.o * self.out_h * self.out_w];
        self.for_each_band(|band, width, columns, product| {
            self.gather(x, band, columns);
            matmul(product, Out::Replace, 1.0, weight, Matrix::new(columns, self.patch(), width), Threads::All);
            for (channel, (product, bias)) in product.chunks(width).zip(bias).enumerate() {
                for (in_y, in_band, len) in self.runs(channel, band) {
                    let row = &mut y[in_y..in_y + len];
                    row.iter_mut().zip(&product[in_band..]).for_each(|(y, value)| *y = value + bias);
                }
            }
        });
        y
    }

    /// Gradient of the weight, fills `dw`, (o, c k k).
    fn weight_gradient(&self, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        if let Some(tiles) = self.tiles() {
            return tiles.weight_gradient(x, dy, dw);
        }
        self.for_each_band(|band, width, patches, dy_band| {
            let mode = if band.start == 0 { Out::Replace } else { Out::Add };
            self.gather_rows(x, band, patches);
            self.band_of(dy, band, dy_band);
            let (dy, patches) = (Matrix::new(dy_band, self.o, width), Matrix::new(patches, width, self.patch()));
            matmul(dw, mode, 1.0, dy, patches, Threads::All);
        });
    }

    /// Gradient of the input, (b, c, h, w).
    fn input_gradient(&self, weight: Numbers<'_>, dy: &[f32]) -> Vec<f32> {
        if let Some(tiles) = self.tiles() {
            return tiles.input_gradient(weight, dy);
        }
        let weight = Matrix::of(weight, self.o, self.patch()).t();
        let plane = self.h * self.w;
        let mut batch_first = vec![0.0; self.b * self.c * plane];
        with_buffer(batch_first.len(), |dx| {
            dx.fill(0.0); // (c, b, h, w)
            self.for_each_band(|band, width, columns, dy_band| {
                self.band_of(dy, band, dy_band);
                matmul(columns, Out::Replace, 1.0, weight, Matrix::new(dy_band, self.o, width), Threads::All);
                self.scatter(columns, band, dx);
            });
            batch_first.par_chunks_mut(plane).enumerate().for_each(|(index, out)| {
                let (item, channel) = (index / self.c, index % self.c);
                out.copy_from_slice(&dx[(channel * self.b + item) * plane..][..plane]);
            });
        });
        batch_first
    }
}

impl Operation<3> for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn forward(&self, [x, weight, bias]: [Lent<'_, CpuStorage>; 3]) -> Result<(CpuStorage, Shape)> {
        let sizes = self.sizes(x.1.dims(), weight.1.dims());
        let y = sizes.forward(values(x)?, Numbers::of(weight)?, values(bias)?);
        Ok((CpuStorage::F32(y), Shape::from((sizes.b, sizes.o, sizes.out_h, sizes.out_w))))
    }

    fn backward(&self, [x, weight, bias]: [&Tensor; 3], _: &Tensor, dy: &Tensor) -> Gradients<3> {
        let sizes = self.sizes(x.dims(), weight.dims());
        with_values([x, dy], |[values, dy]| {
            let dx = wanted(x, || with_numbers(weight, |weight| Ok(sizes.input_gradient(weight, dy))))?;
            let dw = hand_over(&self.optimizer, weight, |dw| {
                sizes.weight_gradient(values, dy, dw);
                Ok(())
            })?;
            let db = hand_over(&self.optimizer, bias, |db| {
                let plane = sizes.out_h * sizes.out_w;
                db.par_iter_mut().enumerate().for_each(|(channel, db)| {
                    let planes = dy.chunks(plane).skip(channel).step_by(sizes.o);
                    *db = planes.map(|plane| sum(plane, |dy| dy)).sum();
                });
                Ok(())
            })?;
            Ok([dx, dw, db])
        })
    }
}
