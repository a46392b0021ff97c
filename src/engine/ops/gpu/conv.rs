//! Convolution as products of matrices: patches as columns, in bands that fit into scratch memory.
#![deny(unsafe_code)]

use super::sums::{row_sums, sums_of_parts};
use super::terms::{Argument, Gpu, In, Kind, Product, THREADS, View, expect, narrowed};
use crate::engine::ops::conv::Sizes;
use candle_core::Result;

/// A part of a convolution whose patches fit into scratch memory: some items as a whole, or some output rows of one
/// item.
#[derive(Clone, Copy)]
struct Band {
    item: usize,
    items: usize,
    first: usize,
    rows: usize,
}

impl Sizes {
    fn in_plane(&self) -> usize {
        self.h * self.w
    }

    fn plane(&self) -> usize {
        self.out_h * self.out_w
    }

    /// Whether the input is its own patches.
    fn is_plain(&self) -> bool {
        self.k == 1 && self.stride == 1 && self.before == 0 && self.out_h == self.h && self.out_w == self.w
    }

    fn bands(&self, scratch: usize) -> Vec<Band> {
        let whole = if self.is_plain() { self.b } else { scratch / (self.patch() * self.plane()) };
        if whole > 0 {
            let items = |item| Band { item, items: whole.min(self.b - item), first: 0, rows: self.out_h };
            return (0..self.b).step_by(whole).map(items).collect();
        }
        let rows = (scratch / (self.patch() * self.out_w)).max(1);
        let starts = (0..self.b).flat_map(|item| (0..self.out_h).step_by(rows).map(move |first| (item, first)));
        starts.map(|(item, first)| Band { item, items: 1, first, rows: rows.min(self.out_h - first) }).collect()
    }

    /// The patches of a band, (items, c k k, rows out_w).
    fn gather_on<G: Gpu>(&self, gpu: &G, x: In<'_, G>, band: Band, columns: &mut G::Buffer) -> Result<()> {
        let x = x.from(band.item * self.c * self.in_plane());
        let count = band.items * self.patch() * band.rows * self.out_w;
        each!(gpu, "gather_columns" of x.kind(), count, Out columns, In x, Count self.h, Count self.w, Count self.k,
            Count self.out_w, Count self.stride, Count self.before, Count band.first, Count band.rows);
        Ok(())
    }

    /// Room for the patches of the largest band.
    fn columns<G: Gpu>(&self, gpu: &G, bands: &[Band], kind: Kind) -> Result<G::Buffer> {
        let largest = bands.iter().map(|band| band.items * self.patch() * band.rows * self.out_w).max();
        gpu.buffer(if self.is_plain() { 0 } else { largest.unwrap_or(0) }, kind)
    }
}

/// `x`: (b, c, h, w), `weight`: (o, c, k, k), `bias`: (o); gives (b, o, out_h, out_w).
pub(super) fn conv2d<G: Gpu>(gpu: &G, [x, weight, bias]: [In<'_, G>; 3], conv: &Sizes) -> Result<G::Buffer> {
    let (o, plane, patch) = (conv.o, conv.plane(), conv.patch());
    let kind = x.kind();
    expect(Kind::F32, &[bias])?;
    let mut y = gpu.buffer(conv.b * o * plane, kind)?;
    each!(gpu, "spread_bias" of kind, conv.b * o * plane, Out & mut y, In bias, Count o, Count plane);
    let copy = narrowed(gpu, weight, o * patch, kind)?;
    let weight = copy.as_ref().map_or(weight, View::all);
    let bands = conv.bands(gpu.scratch());
    let mut columns = conv.columns(gpu, &bands, kind)?;
    for band in bands {
        let width = band.rows * conv.out_w;
        let columns = if conv.is_plain() {
            x.from(band.item * conv.c * plane)
        } else {
            conv.gather_on(gpu, x, band, &mut columns)?;
            View::all(&columns)
        };
        let product = Product {
            add: true,
            out_start: band.item * o * plane + band.first * conv.out_w,
            out_row: plane,
            out_batch: o * plane,
            batches: band.items,
            ..Product::one([o, width, patch])
        };
        gpu.matmul(&mut y, weight.matrix(patch), columns.matrix(width).batch(patch * width), product)?;
    }
    Ok(y)
}

/// Gradient of `x` in [`conv2d`].
pub(super) fn conv_input_gradient<G: Gpu>(gpu: &G, [weight, dy]: [In<'_, G>; 2], conv: &Sizes) -> Result<G::Buffer> {
    let (o, plane, patch) = (conv.o, conv.plane(), conv.patch());
    let kind = dy.kind();
    let mut dx = gpu.buffer(conv.b * conv.c * conv.in_plane(), kind)?;
    let copy = narrowed(gpu, weight, o * patch, kind)?;
    let weight = copy.as_ref().map_or(weight, View::all);
    let bands = conv.bands(gpu.scratch());
    let mut columns = conv.columns(gpu, &bands, kind)?;
    for band in bands {
        let width = band.rows * conv.out_w;
        let dy = dy.from(band.item * o * plane + band.first * conv.out_w).matrix(plane).batch(o * plane);
        let product = Product { batches: band.items, ..Product::one([patch, width, o]) };
        if conv.is_plain() {
            gpu.matmul(&mut dx, weight.matrix(patch).t(), dy, Product { out_batch: patch * plane, ..product })?;
            continue;
        }
        gpu.matmul(&mut columns, weight.matrix(patch).t(), dy, Product { out_batch: patch * width, ..product })?;
        let (size, columns) = (conv.c * conv.in_plane(), View::all(&columns));
        let (start, count) = (band.item * size, band.items * size);
        // What a band above has put there stays.
        let add = usize::from(band.first > 0);
        each!(gpu, "scatter_columns" of kind, count, OutFrom (&mut dx, start), In columns, Count conv.h, Count conv.w,
            Count conv.k, Count conv.out_w, Count conv.stride, Count conv.before, Count band.first, Count band.rows,
            Count add);
    }
    Ok(dx)
}

/// Gradient of `weight` in [`conv2d`].
pub(super) fn conv_weight_gradient<G: Gpu>(gpu: &G, [x, dy]: [In<'_, G>; 2], conv: &Sizes) -> Result<G::Buffer> {
    let (o, plane, patch) = (conv.o, conv.plane(), conv.patch());
    let mut dw = gpu.buffer(o * patch, Kind::F32)?;
    let bands = conv.bands(gpu.scratch());
    let mut columns = conv.columns(gpu, &bands, x.kind())?;
    let mut add = false;
    for band in bands {
        let width = band.rows * conv.out_w;
        let columns = if conv.is_plain() {
            x.from(band.item * conv.c * plane)
        } else {
            conv.gather_on(gpu, x, band, &mut columns)?;
            View::all(&columns)
        };
        // One after the other, because they are summed up.
        for item in 0..band.items {
            let dy = dy.from((band.item + item) * o * plane + band.first * conv.out_w).matrix(plane);
            let columns = columns.from(item * patch * width).matrix(width).t();
            gpu.matmul(&mut dw, dy, columns, Product { add, ..Product::one([o, patch, width]) })?;
            add = true;
        }
    }
    Ok(dw)
}

/// Gradient of `bias` in [`conv2d`].
pub(super) fn conv_bias_gradient<G: Gpu>(gpu: &G, dy: In<'_, G>, conv: &Sizes) -> Result<G::Buffer> {
    let planes = row_sums(gpu, dy, conv.b * conv.o, conv.plane())?;
    sums_of_parts(gpu, &planes, conv.b, conv.o, [1, 0])
}

#[cfg(feature = "cuda")]
mod half {
    use super::super::cuda::result;
    use super::super::gradient::{hand_over, wanted};
    use super::{conv_bias_gradient, conv_input_gradient, conv_weight_gradient};
    use crate::engine::ops::conv::Conv2d;
    use crate::engine::ops::operation::{Gradients, Lent, OnGpu};
    use candle_core::{CudaStorage, Result, Shape, Tensor};

    impl OnGpu<3> for Conv2d {
        fn forward_on_gpu(&self, inputs: [Lent<'_, CudaStorage>; 3]) -> Result<(CudaStorage, Shape)> {
            let [x, weight, _] = inputs.map(|(_, layout)| layout.dims());
            let conv = self.sizes(x, weight);
            let shape = (conv.b, conv.o, conv.out_h, conv.out_w);
            result(inputs, shape, |gpu, inputs| super::conv2d(gpu, inputs, &conv))
        }

        fn backward_on_gpu(&self, [x, weight, bias]: [&Tensor; 3], _: &Tensor, dy: &Tensor) -> Gradients<3> {
            let (conv, optimizer) = (self.sizes(x.dims(), weight.dims()), &self.optimizer);
            Ok([
                wanted(x, [weight, dy], |gpu, inputs| conv_input_gradient(gpu, inputs, &conv))?,
                hand_over(optimizer, weight, [x, dy], |gpu, inputs| conv_weight_gradient(gpu, inputs, &conv))?,
                hand_over(optimizer, bias, [dy], |gpu, [dy]| conv_bias_gradient(gpu, dy, &conv))?,
            ])
        }
    }
}
