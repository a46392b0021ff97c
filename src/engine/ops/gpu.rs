//! The engine's operations in the terms of a GPU: which kernels and matrix products make a result and its gradients.
//!
//! Knows no driver. What runs them is a [`Gpu`]: `cuda.rs`, or in tests the processor with the same kernels compiled as C++, so
//! that everything here is compared with the CPU's operations on machines without a GPU.
//!
//! Unlike the CPU's convolution none is Winograd's: with tensor cores the multiplications that it saves cost less than its
//! transforms.
#![deny(unsafe_code)]

#[cfg(feature = "cuda")]
#[allow(unsafe_code, reason = "calls of kernels and of cuBLAS, whose arguments the compiler cannot check")]
mod cuda;
#[cfg(test)]
#[allow(unsafe_code, reason = "the kernels as C++, in a library that the test compiles")]
mod tests;

#[cfg(feature = "cuda")]
pub(in crate::engine) use cuda::{Held, Moments, Values, adam};
#[cfg(feature = "cuda")]
pub(super) use cuda::{hand_over, storage, tensor, view};

use candle_core::{Result, bail};

/// A device that runs the kernels of `kernels.cu`.
pub(super) trait Gpu {
    /// Some f32 in its memory.
    type Buffer;

    /// Values that an operation may hold beside its inputs and results, about.
    fn scratch(&self) -> usize;

    /// `len` values of any content.
    fn buffer(&self, len: usize) -> Result<Self::Buffer>;

    /// Runs `blocks` blocks of a kernel.
    fn launch(&self, kernel: &'static str, blocks: usize, arguments: &mut [Argument<'_, Self::Buffer>]) -> Result<()>;

    /// A product of matrices, or several at once.
    fn matmul(
        &self,
        out: &mut Self::Buffer,
        a: Matrix<'_, Self::Buffer>,
        b: Matrix<'_, Self::Buffer>,
        product: Product,
    ) -> Result<()>;
}

/// What a kernel gets.
pub(super) enum Argument<'a, B> {
    /// A tensor that it reads.
    In(View<'a, B>),
    /// A tensor that it writes.
    Out(&'a mut B),
    /// A part of one, from that many values on.
    OutFrom((&'a mut B, usize)),
    /// A number that its indices are made of.
    Count(usize),
    /// Another number.
    Value(f32),
}

/// The values of a tensor, which lie in a row from `start` on.
pub(in crate::engine) struct View<'a, B> {
    /// What it is part of.
    pub buffer: &'a B,
    /// Values before it.
    pub start: usize,
}

impl<B> Clone for View<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for View<'_, B> {}

impl<'a, B> View<'a, B> {
    fn all(buffer: &'a B) -> Self {
        Self { buffer, start: 0 }
    }

    fn from(self, start: usize) -> Self {
        Self { start: self.start + start, ..self }
    }

    /// Row-major with `row` values from one row to the next.
    fn matrix(self, row: usize) -> Matrix<'a, B> {
        Matrix { view: self, row, batch: 0, transposed: false }
    }
}

/// One matrix, or several that lie at even distances.
pub(super) struct Matrix<'a, B> {
    /// Where the first one begins.
    pub view: View<'a, B>,
    /// Values from one row in memory to the next.
    pub row: usize,
    /// Values from one matrix to the next; 0 if it is the same one for all products.
    pub batch: usize,
    /// Whether rows in memory are columns.
    pub transposed: bool,
}

impl<B> Matrix<'_, B> {
    fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    fn batch(self, batch: usize) -> Self {
        Self { batch, ..self }
    }
}

/// Sizes of `batches` products: out, (m, n), = scale * a, (m, k), times b, (k, n), plus what `out` holds if `add`.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub scale: f32,
    pub add: bool,
    /// Values of the result before its first matrix.
    pub out_start: usize,
    /// From one row of the result to the next.
    pub out_row: usize,
    /// From one matrix of the result to the next.
    pub out_batch: usize,
    pub batches: usize,
}

impl Product {
    /// One product, its result without gaps.
    fn one([m, n, k]: [usize; 3]) -> Self {
        Self { m, n, k, scale: 1.0, add: false, out_start: 0, out_row: n, out_batch: 0, batches: 1 }
    }
}

/// Threads of a block; as in `kernel.h`.
pub(super) const THREADS: usize = 256;

/// Rows whose sums one thread takes.
const PART: usize = 64;

/// Runs a kernel in which every thread has one of `count` numbers, which is its last argument.
macro_rules! each {
    ($gpu:ident, $kernel:literal, $count:expr, $($kind:ident $argument:expr),+) => {{
        let count = $count;
        let arguments = &mut [$(Argument::$kind($argument)),+, Argument::Count(count)];
        if count > 0 { $gpu.launch($kernel, count.div_ceil(THREADS), arguments)? }
    }};
}

/// Runs a kernel on `blocks` blocks.
macro_rules! blocks {
    ($gpu:ident, $kernel:literal, $blocks:expr, $($kind:ident $argument:expr),+) => {{
        let blocks = $blocks;
        if blocks > 0 { $gpu.launch($kernel, blocks, &mut [$(Argument::$kind($argument)),+])? }
    }};
}

/// `x`: (m, k), `w`: (n, k), `bias`: (n); gives (m, n).
pub(super) fn linear<G: Gpu>(
    gpu: &G,
    x: View<'_, G::Buffer>,
    w: View<'_, G::Buffer>,
    bias: Option<View<'_, G::Buffer>>,
    [m, n, k]: [usize; 3],
) -> Result<G::Buffer> {
    let mut y = gpu.buffer(m * n)?;
    if let Some(bias) = bias {
        each!(gpu, "spread_bias", m * n, Out & mut y, In bias, Count n, Count 1);
    }
    gpu.matmul(&mut y, x.matrix(k), w.matrix(k).t(), Product { add: bias.is_some(), ..Product::one([m, n, k]) })?;
    Ok(y)
}

/// Gradient of `x` in [`linear`].
pub(super) fn linear_input_gradient<G: Gpu>(
    gpu: &G,
    w: View<'_, G::Buffer>,
    dy: View<'_, G::Buffer>,
    [m, n, k]: [usize; 3],
) -> Result<G::Buffer> {
    let mut dx = gpu.buffer(m * k)?;
    gpu.matmul(&mut dx, dy.matrix(n), w.matrix(k), Product::one([m, k, n]))?;
    Ok(dx)
}

/// Gradient of `w` in [`linear`].
pub(super) fn linear_weight_gradient<G: Gpu>(
    gpu: &G,
    x: View<'_, G::Buffer>,
    dy: View<'_, G::Buffer>,
    [m, n, k]: [usize; 3],
) -> Result<G::Buffer> {
    let mut dw = gpu.buffer(n * k)?;
    gpu.matmul(&mut dw, dy.matrix(n).t(), x.matrix(k), Product::one([n, k, m]))?;
    Ok(dw)
}

/// Sums over the rows of `x`, (rows, columns).
pub(super) fn column_sums<G: Gpu>(gpu: &G, x: View<'_, G::Buffer>, rows: usize, columns: usize) -> Result<G::Buffer> {
    let parts = rows.div_ceil(PART);
    let mut partial = gpu.buffer(parts * columns)?;
    each!(gpu, "column_part_sums", parts * columns, Out & mut partial, In x, Count rows, Count columns, Count PART);
    sums_of_parts(gpu, &partial, parts, columns, [1, 0])
}

/// Sums over the parts of `partial`, (parts, columns, stride), at one place of the last dimension.
pub(super) fn sums_of_parts<G: Gpu>(
    gpu: &G,
    partial: &G::Buffer,
    parts: usize,
    columns: usize,
    [stride, place]: [usize; 2],
) -> Result<G::Buffer> {
    let mut sums = gpu.buffer(columns)?;
    let blocks = columns.div_ceil(THREADS);
    let partial = View::all(partial);
    blocks!(
        gpu,
        "column_sums",
        blocks,
        Out & mut sums,
        In partial,
        Count parts,
        Count columns,
        Count stride,
        Count place
    );
    Ok(sums)
}

/// Sums of the rows of `x`, (rows, length).
pub(super) fn row_sums<G: Gpu>(gpu: &G, x: View<'_, G::Buffer>, rows: usize, length: usize) -> Result<G::Buffer> {
    let mut sums = gpu.buffer(rows)?;
    blocks!(gpu, "row_sums", rows, Out & mut sums, In x, Count length);
    Ok(sums)
}

/// All sizes of a convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conv {
    pub b: usize,
    pub c: usize,
    pub h: usize,
    pub w: usize,
    pub o: usize,
    pub k: usize,
    pub out_h: usize,
    pub out_w: usize,
    pub stride: usize,
    /// Rows and columns of zeros before the input; behind it there are as many as are needed.
    pub before: usize,
}

/// A part of a convolution whose patches fit into scratch memory: some items as a whole, or some output rows of one item.
#[derive(Clone, Copy)]
struct Band {
    item: usize,
    items: usize,
    first: usize,
    rows: usize,
}

impl Conv {
    fn patch(&self) -> usize {
        self.c * self.k * self.k
    }

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
    fn gather<G: Gpu>(&self, gpu: &G, x: View<'_, G::Buffer>, band: Band, columns: &mut G::Buffer) -> Result<()> {
        let x = x.from(band.item * self.c * self.in_plane());
        let count = band.items * self.patch() * band.rows * self.out_w;
        each!(gpu, "gather_columns", count, Out columns, In x, Count self.h, Count self.w, Count self.k, Count self.out_w,
            Count self.stride, Count self.before, Count band.first, Count band.rows);
        Ok(())
    }

    /// Room for the patches of the largest band.
    fn columns<G: Gpu>(&self, gpu: &G, bands: &[Band]) -> Result<G::Buffer> {
        let largest = bands.iter().map(|band| band.items * self.patch() * band.rows * self.out_w).max();
        gpu.buffer(if self.is_plain() { 0 } else { largest.unwrap_or(0) })
    }
}

/// `x`: (b, c, h, w), `weight`: (o, c, k, k), `bias`: (o); gives (b, o, out_h, out_w).
pub(super) fn conv2d<G: Gpu>(
    gpu: &G,
    x: View<'_, G::Buffer>,
    weight: View<'_, G::Buffer>,
    bias: View<'_, G::Buffer>,
    conv: &Conv,
) -> Result<G::Buffer> {
    let (o, plane, patch) = (conv.o, conv.plane(), conv.patch());
    let mut y = gpu.buffer(conv.b * o * plane)?;
    each!(gpu, "spread_bias", conv.b * o * plane, Out & mut y, In bias, Count o, Count plane);
    let bands = conv.bands(gpu.scratch());
    let mut columns = conv.columns(gpu, &bands)?;
    for band in bands {
        let width = band.rows * conv.out_w;
        let columns = if conv.is_plain() {
            x.from(band.item * conv.c * plane)
        } else {
            conv.gather(gpu, x, band, &mut columns)?;
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
pub(super) fn conv_input_gradient<G: Gpu>(
    gpu: &G,
    weight: View<'_, G::Buffer>,
    dy: View<'_, G::Buffer>,
    conv: &Conv,
) -> Result<G::Buffer> {
    let (o, plane, patch) = (conv.o, conv.plane(), conv.patch());
    let mut dx = gpu.buffer(conv.b * conv.c * conv.in_plane())?;
    let bands = conv.bands(gpu.scratch());
    let mut columns = conv.columns(gpu, &bands)?;
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
        each!(gpu, "scatter_columns", count, OutFrom (&mut dx, start), In columns, Count conv.h, Count conv.w, Count conv.k,
            Count conv.out_w, Count conv.stride, Count conv.before, Count band.first, Count band.rows, Count add);
    }
    Ok(dx)
}

/// Gradient of `weight` in [`conv2d`].
pub(super) fn conv_weight_gradient<G: Gpu>(
    gpu: &G,
    x: View<'_, G::Buffer>,
    dy: View<'_, G::Buffer>,
    conv: &Conv,
) -> Result<G::Buffer> {
    let (o, plane, patch) = (conv.o, conv.plane(), conv.patch());
    let mut dw = gpu.buffer(o * patch)?;
    let bands = conv.bands(gpu.scratch());
    let mut columns = conv.columns(gpu, &bands)?;
    let mut add = false;
    for band in bands {
        let width = band.rows * conv.out_w;
        let columns = if conv.is_plain() {
            x.from(band.item * conv.c * plane)
        } else {
            conv.gather(gpu, x, band, &mut columns)?;
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
pub(super) fn conv_bias_gradient<G: Gpu>(gpu: &G, dy: View<'_, G::Buffer>, conv: &Conv) -> Result<G::Buffer> {
    let planes = row_sums(gpu, dy, conv.b * conv.o, conv.plane())?;
    sums_of_parts(gpu, &planes, conv.b, conv.o, [1, 0])
}

/// A normalization over groups of numbers that lie in a row: of (b, channels, plane).
#[derive(Clone, Copy, Debug)]
pub(super) struct Norm {
    pub b: usize,
    pub channels: usize,
    pub plane: usize,
    pub groups: usize,
    pub eps: f32,
    pub silu: bool,
}

impl Norm {
    /// Layer normalization of `rows` rows.
    pub fn of_rows(rows: usize, columns: usize, eps: f32) -> Self {
        Self { b: rows, channels: columns, plane: 1, groups: 1, eps, silu: false }
    }

    fn in_group(&self) -> usize {
        self.channels / self.groups * self.plane
    }

    fn count(&self) -> usize {
        self.b * self.channels * self.plane
    }

    /// Mean and 1 / sqrt(variance + eps) of each group.
    fn statistics<G: Gpu>(&self, gpu: &G, x: View<'_, G::Buffer>) -> Result<G::Buffer> {
        let mut stats = gpu.buffer(2 * self.b * self.groups)?;
        blocks!(gpu, "statistics", self.b * self.groups, Out & mut stats, In x, Count self.in_group(), Value self.eps);
        Ok(stats)
    }
}

/// Group or layer normalization of `x`, and SiLU of it.
pub(super) fn normalize<G: Gpu>(
    gpu: &G,
    [x, weight, bias]: [View<'_, G::Buffer>; 3],
    norm: &Norm,
) -> Result<G::Buffer> {
    let stats = norm.statistics(gpu, x)?;
    let mut y = gpu.buffer(norm.count())?;
    each!(gpu, "normalize", norm.count(), Out & mut y, In x, In View::all(&stats), In weight, In bias, Count norm.channels,
        Count norm.plane, Count norm.in_group(), Count usize::from(norm.silu));
    Ok(y)
}

/// Gradient of `x` in [`normalize`] with planes, and (b, channels, 2): those of `weight` and `bias` before they are summed over
/// the batch, which [`sums_of_parts`] does.
pub(super) fn group_norm_gradients<G: Gpu>(
    gpu: &G,
    [x, weight, bias, dy]: [View<'_, G::Buffer>; 4],
    norm: &Norm,
) -> Result<[G::Buffer; 2]> {
    let Norm { b, channels, plane, groups, .. } = *norm;
    let (in_group, silu) = (norm.in_group(), usize::from(norm.silu));
    let stats = norm.statistics(gpu, x)?;
    let mut sums = gpu.buffer(2 * b * channels)?;
    blocks!(gpu, "group_norm_sums", b * channels, Out & mut sums, In x, In dy, In View::all(&stats), In weight, In bias,
        Count channels, Count plane, Count in_group, Count silu);
    let mut means = gpu.buffer(2 * b * groups)?;
    each!(gpu, "group_norm_means", b * groups, Out & mut means, In View::all(&sums), In weight, Count channels,
        Count channels / groups, Count in_group);
    let mut dx = gpu.buffer(norm.count())?;
    each!(gpu, "group_norm_backward", norm.count(), Out & mut dx, In x, In dy, In View::all(&stats), In View::all(&means),
        In weight, In bias, Count channels, Count plane, Count in_group, Count silu);
    Ok([dx, sums])
}

/// Gradient of `x` in [`normalize`] of rows.
pub(super) fn layer_norm_input_gradient<G: Gpu>(
    gpu: &G,
    [x, weight, dy]: [View<'_, G::Buffer>; 3],
    norm: &Norm,
) -> Result<G::Buffer> {
    let stats = norm.statistics(gpu, x)?;
    let mut dx = gpu.buffer(norm.count())?;
    blocks!(gpu, "layer_norm_backward", norm.b, Out & mut dx, In x, In dy, In View::all(&stats), In weight,
        Count norm.channels);
    Ok(dx)
}

/// Gradients of `weight` and `bias` in [`normalize`] of rows, before the parts are summed up: (parts, columns, 2).
pub(super) fn layer_norm_sums<G: Gpu>(
    gpu: &G,
    [x, dy]: [View<'_, G::Buffer>; 2],
    norm: &Norm,
) -> Result<(G::Buffer, usize)> {
    let (rows, columns) = (norm.b, norm.channels);
    let stats = norm.statistics(gpu, x)?;
    let parts = rows.div_ceil(PART);
    let mut sums = gpu.buffer(2 * parts * columns)?;
    each!(gpu, "layer_norm_part_sums", parts * columns, Out & mut sums, In x, In dy, In View::all(&stats), Count rows,
        Count columns, Count PART);
    Ok((sums, parts))
}

/// All sizes of an attention: queries (b, n, c), keys and values (b, m, c), c = heads * d.
#[derive(Clone, Copy)]
pub(super) struct Attention {
    pub b: usize,
    pub n: usize,
    pub m: usize,
    pub c: usize,
    pub heads: usize,
}

/// Some queries of one item, of all heads.
#[derive(Clone, Copy)]
struct Queries {
    item: usize,
    first: usize,
    rows: usize,
}

impl Attention {
    fn d(&self) -> usize {
        self.c / self.heads
    }

    fn scale(&self) -> f32 {
        1.0 / (self.d() as f32).sqrt()
    }

    fn queries(&self, scratch: usize) -> Vec<Queries> {
        let rows = (scratch / (self.heads * self.m)).clamp(1, self.n);
        let starts = (0..self.b).flat_map(|item| (0..self.n).step_by(rows).map(move |first| (item, first)));
        starts.map(|(item, first)| Queries { item, first, rows: rows.min(self.n - first) }).collect()
    }

    /// Room for the scores of as many queries as there are in a chunk, (heads, rows, m).
    fn scores<G: Gpu>(&self, gpu: &G, chunks: &[Queries]) -> Result<G::Buffer> {
        gpu.buffer(chunks.iter().map(|queries| self.heads * queries.rows * self.m).max().unwrap_or(0))
    }

    /// Those of all heads.
    fn of_scores<'a, B>(&self, scores: &'a B, rows: usize) -> Matrix<'a, B> {
        View::all(scores).matrix(self.m).batch(rows * self.m)
    }

    /// Rows of all heads of a tensor (b, length, c), from row `first` of an item on.
    fn heads<'a, B>(&self, x: View<'a, B>, length: usize, item: usize, first: usize) -> Matrix<'a, B> {
        x.from((item * length + first) * self.c).matrix(self.c).batch(self.d())
    }

    /// softmax(q k^T / sqrt(d)) into `p`, (heads, rows, m).
    fn probabilities<G: Gpu>(
        &self,
        gpu: &G,
        q: View<'_, G::Buffer>,
        k: View<'_, G::Buffer>,
        queries: Queries,
        p: &mut G::Buffer,
    ) -> Result<()> {
        let Queries { item, first, rows } = queries;
        let (q, k) = (self.heads(q, self.n, item, first), self.heads(k, self.m, item, 0));
        gpu.matmul(p, q, k.t(), Product { scale: self.scale(), ..self.product_apart([rows, self.m, self.d()]) })?;
        blocks!(gpu, "softmax", self.heads * rows, Out p, Count self.m);
        Ok(())
    }

    /// One product for each head, the results one behind the other.
    fn product_apart(&self, [m, n, k]: [usize; 3]) -> Product {
        Product { batches: self.heads, out_batch: m * n, ..Product::one([m, n, k]) }
    }

    /// One product for each head, the results where that head's part of a tensor (b, length, c) is.
    fn product_of_heads(&self, [m, n, k]: [usize; 3], length: usize, item: usize, first: usize) -> Product {
        let out_start = (item * length + first) * self.c;
        Product { batches: self.heads, out_batch: self.d(), out_row: self.c, out_start, ..Product::one([m, n, k]) }
    }
}

/// softmax(q k^T / sqrt(d)) v of each head, (b, n, c).
pub(super) fn attention<G: Gpu>(
    gpu: &G,
    q: View<'_, G::Buffer>,
    k: View<'_, G::Buffer>,
    v: View<'_, G::Buffer>,
    sizes: &Attention,
) -> Result<G::Buffer> {
    let Attention { b, n, m, c, .. } = *sizes;
    let mut out = gpu.buffer(b * n * c)?;
    let chunks = sizes.queries(gpu.scratch());
    let mut p = sizes.scores(gpu, &chunks)?;
    for queries in chunks {
        let Queries { item, first, rows } = queries;
        sizes.probabilities(gpu, q, k, queries, &mut p)?;
        let product = sizes.product_of_heads([rows, sizes.d(), m], n, item, first);
        gpu.matmul(&mut out, sizes.of_scores(&p, rows), sizes.heads(v, m, item, 0), product)?;
    }
    Ok(out)
}

/// Gradients of q, k and v; the scores are computed again.
pub(super) fn attention_gradients<G: Gpu>(
    gpu: &G,
    [q, k, v, dout]: [View<'_, G::Buffer>; 4],
    sizes: &Attention,
) -> Result<[G::Buffer; 3]> {
    let (Attention { b, n, m, c, heads }, d) = (*sizes, sizes.d());
    let (mut dq, mut dk, mut dv) = (gpu.buffer(b * n * c)?, gpu.buffer(b * m * c)?, gpu.buffer(b * m * c)?);
    let chunks = sizes.queries(gpu.scratch());
    let (mut p, mut dp) = (sizes.scores(gpu, &chunks)?, sizes.scores(gpu, &chunks)?);
    for queries in chunks {
        let Queries { item, first, rows } = queries;
        let add = first > 0;
        let dout = || sizes.heads(dout, n, item, first);
        sizes.probabilities(gpu, q, k, queries, &mut p)?;
        let to_keys = Product { add, ..sizes.product_of_heads([m, d, rows], m, item, 0) };
        gpu.matmul(&mut dv, sizes.of_scores(&p, rows).t(), dout(), to_keys)?;
        gpu.matmul(&mut dp, dout(), sizes.heads(v, m, item, 0).t(), sizes.product_apart([rows, m, d]))?;
        blocks!(gpu, "softmax_backward", heads * rows, Out & mut p, In View::all(&dp), Value sizes.scale(), Count m);
        let of_queries = sizes.product_of_heads([rows, d, m], n, item, first);
        gpu.matmul(&mut dq, sizes.of_scores(&p, rows), sizes.heads(k, m, item, 0), of_queries)?;
        gpu.matmul(&mut dk, sizes.of_scores(&p, rows).t(), sizes.heads(q, n, item, first), to_keys)?;
    }
    Ok([dq, dk, dv])
}

/// `x`: (rows, 2 d), gives (rows, d).
pub(super) fn geglu<G: Gpu>(gpu: &G, x: View<'_, G::Buffer>, rows: usize, d: usize) -> Result<G::Buffer> {
    let mut y = gpu.buffer(rows * d)?;
    each!(gpu, "geglu", rows * d, Out & mut y, In x, Count d);
    Ok(y)
}

/// Gradient of `x` in [`geglu`].
pub(super) fn geglu_gradient<G: Gpu>(
    gpu: &G,
    x: View<'_, G::Buffer>,
    dy: View<'_, G::Buffer>,
    rows: usize,
    d: usize,
) -> Result<G::Buffer> {
    let mut dx = gpu.buffer(2 * rows * d)?;
    each!(gpu, "geglu_backward", rows * d, Out & mut dx, In x, In dy, Count d);
    Ok(dx)
}

/// `x`: (channels, plane), `e`: (channels), channels counted through the batch.
pub(super) fn add_per_channel<G: Gpu>(
    gpu: &G,
    x: View<'_, G::Buffer>,
    e: View<'_, G::Buffer>,
    channels: usize,
    plane: usize,
) -> Result<G::Buffer> {
    let mut y = gpu.buffer(channels * plane)?;
    each!(gpu, "add_per_channel", channels * plane, Out & mut y, In x, In e, Count plane);
    Ok(y)
}

/// `x`: (planes, h, w), gives (planes, 2 h, 2 w).
pub(super) fn upsample<G: Gpu>(
    gpu: &G,
    x: View<'_, G::Buffer>,
    planes: usize,
    h: usize,
    w: usize,
) -> Result<G::Buffer> {
    let mut y = gpu.buffer(4 * planes * h * w)?;
    each!(gpu, "upsample", 4 * planes * h * w, Out & mut y, In x, Count h, Count w);
    Ok(y)
}

/// Gradient of `x`, of `values` values in rows of `w`, in [`upsample`].
pub(super) fn upsample_gradient<G: Gpu>(
    gpu: &G,
    dy: View<'_, G::Buffer>,
    values: usize,
    w: usize,
) -> Result<G::Buffer> {
    let mut dx = gpu.buffer(values)?;
    each!(gpu, "upsample_backward", values, Out & mut dx, In dy, Count w);
    Ok(dx)
}

/// Numbers that go into one step of [`crate::engine::optimizer::Adam`].
#[derive(Clone, Copy)]
pub(in crate::engine) struct AdamStep {
    pub beta_1: f32,
    pub beta_2: f32,
    pub size: f32,
    pub root_of_bias_2: f32,
    pub eps: f32,
}

/// Changes `count` numbers `p` and their moments by their gradient `g`.
pub(super) fn adam_step<G: Gpu>(
    gpu: &G,
    p: &mut G::Buffer,
    g: View<'_, G::Buffer>,
    [first, second]: [&mut G::Buffer; 2],
    step: AdamStep,
    count: usize,
) -> Result<()> {
    let AdamStep { beta_1, beta_2, size, root_of_bias_2, eps } = step;
    each!(gpu, "adam", count, Out p, In g, Out first, Out second, Value beta_1, Value beta_2, Value size,
        Value root_of_bias_2, Value eps);
    Ok(())
}

/// `count` as a kernel counts.
fn count(count: usize) -> Result<u32> {
    match i32::try_from(count) {
        Ok(count) => Ok(count as u32),
        Err(_) => bail!("a tensor of {count} numbers is too large for the GPU; choose a smaller resolution"),
    }
}
