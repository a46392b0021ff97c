//! The engine's operations in the terms of a GPU: which kernels and matrix products make a result and its gradients.
//!
//! Knows no driver. What runs them is a [`Gpu`]: `cuda.rs`, or in tests the processor with the same kernels compiled as C++, so
//! that everything here is compared with the CPU's operations on machines without a GPU.
//!
//! Tensors of the network may be stored in 16 bits, see [`Kind`]. Weights that are trained stay in f32, as do gradients of weights, sums
//! and statistics: a product whose other factor has 16 bits gets a copy of its weight in 16 bits, which is made just before. Keeping
//! it until the backward pass would save six bytes of traffic for each weight, of which Adam takes 28, and cost two bytes of memory,
//! of which stage B has least. Frozen weights may have 16 bits themselves, see `with_half_precision`.
//!
//! Unlike the CPU's convolution none is Winograd's: with tensor cores the multiplications that it saves cost less than its
//! transforms.
#![deny(unsafe_code)]

/// Runs a kernel, the one for tensors of a kind if one is said, in which every thread has one of `count` numbers, which is its
/// last argument.
macro_rules! each {
    ($gpu:ident, $kernel:tt $(of $stored:expr)?, $count:expr, $($kind:ident $argument:expr),+) => {{
        let count = $count;
        let arguments = &mut [$(Argument::$kind($argument)),+, Argument::Count(count)];
        if count > 0 { $gpu.launch(kernel!($kernel $(of $stored)?), count.div_ceil(THREADS), arguments)? }
    }};
}

/// Runs a kernel on `blocks` blocks.
macro_rules! blocks {
    ($gpu:ident, $kernel:tt $(of $stored:expr)?, $blocks:expr, $($kind:ident $argument:expr),+) => {{
        let blocks = $blocks;
        if blocks > 0 { $gpu.launch(kernel!($kernel $(of $stored)?), blocks, &mut [$(Argument::$kind($argument)),+])? }
    }};
}

/// A kernel's name, which is a literal or in parentheses.
macro_rules! kernel {
    ($kernel:tt of $stored:expr) => {
        &$stored.kernel($kernel)
    };
    ($kernel:tt) => {
        $kernel
    };
}

mod adam8;
mod attention;
mod conv;
#[cfg(feature = "cuda")]
#[allow(unsafe_code, reason = "calls of kernels and of cuBLAS, whose arguments the compiler cannot check")]
mod cuda;
mod fused;
mod layout;
mod norm;
#[cfg(test)]
mod tests;

pub(super) use attention::{Attention, attention, attention_gradients};
pub(super) use conv::{Conv, conv_bias_gradient, conv_input_gradient, conv_weight_gradient, conv2d};
#[cfg(feature = "cuda")]
pub(in crate::engine) use cuda::{Held, Moments, Values, adam};
#[cfg(feature = "cuda")]
pub(super) use cuda::{hand_over, storage, tensor, view};
pub(super) use layout::{Joined, join, mean_square_error, mean_square_error_gradient, split, transpose, weighted_sum};
pub(super) use norm::{Norm, group_norm_gradients, layer_norm_input_gradient, layer_norm_sums, normalize};

use candle_core::{Result, bail};
use std::borrow::Cow;

/// What the numbers of a tensor are stored in; all arithmetic is of f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    F32,
    /// f32's exponent, 7 bits behind the point.
    Bf16,
    /// 10 bits behind the point, numbers up to 65504.
    F16,
}

impl Kind {
    /// The name of a kernel for tensors of that kind.
    fn kernel(self, name: &str) -> Cow<'_, str> {
        match self {
            Self::F32 => name.into(),
            Self::Bf16 => format!("{name}_bf16").into(),
            Self::F16 => format!("{name}_f16").into(),
        }
    }
}

/// What a tensor lies in.
pub(super) trait Stored {
    fn kind(&self) -> Kind;
}

/// A device that runs the kernels of `kernels.cu`.
pub(super) trait Gpu {
    /// Some numbers in its memory.
    type Buffer: Stored;

    /// Values that an operation may hold beside its inputs and results, about.
    fn scratch(&self) -> usize;

    /// Whether attention keeps its scores in a block where there are kernels for that, which multiply in TF32.
    fn fuses_attention(&self) -> bool;

    /// `len` values of any content.
    fn buffer(&self, len: usize, kind: Kind) -> Result<Self::Buffer>;

    /// Runs `blocks` blocks of a kernel.
    fn launch(&self, kernel: &str, blocks: usize, arguments: &mut [Argument<'_, Self::Buffer>]) -> Result<()>;

    /// A product of matrices, or several at once. Both factors are of one kind, and the result is of the same, or of f32.
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

    fn kind(&self) -> Kind
    where
        B: Stored,
    {
        self.buffer.kind()
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

/// Fails if one of them is of another kind, as which a kernel would read it.
fn expect<B: Stored>(kind: Kind, views: &[View<'_, B>]) -> Result<()> {
    match views.iter().find(|view| view.kind() != kind) {
        Some(view) => bail!("an operation got numbers of {:?} where it takes {kind:?}", view.kind()),
        None => Ok(()),
    }
}

/// A copy of `count` numbers in that kind, if they are of another one, f32.
fn narrowed<G: Gpu>(gpu: &G, x: View<'_, G::Buffer>, count: usize, kind: Kind) -> Result<Option<G::Buffer>> {
    if x.kind() == kind {
        return Ok(None);
    }
    expect(Kind::F32, &[x])?;
    let mut copy = gpu.buffer(count, kind)?;
    each!(gpu, "narrow" of kind, count, Out & mut copy, In x);
    Ok(Some(copy))
}

/// `x`: (m, k), `w`: (n, k), `bias`: (n); gives (m, n).
pub(super) fn linear<G: Gpu>(
    gpu: &G,
    x: View<'_, G::Buffer>,
    w: View<'_, G::Buffer>,
    bias: Option<View<'_, G::Buffer>>,
    [m, n, k]: [usize; 3],
) -> Result<G::Buffer> {
    let kind = x.kind();
    let mut y = gpu.buffer(m * n, kind)?;
    if let Some(bias) = bias {
        expect(Kind::F32, &[bias])?;
        each!(gpu, "spread_bias" of kind, m * n, Out & mut y, In bias, Count n, Count 1);
    }
    let copy = narrowed(gpu, w, n * k, kind)?;
    let w = copy.as_ref().map_or(w, View::all);
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
    let mut dx = gpu.buffer(m * k, dy.kind())?;
    let copy = narrowed(gpu, w, n * k, dy.kind())?;
    let w = copy.as_ref().map_or(w, View::all);
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
    let mut dw = gpu.buffer(n * k, Kind::F32)?;
    gpu.matmul(&mut dw, dy.matrix(n).t(), x.matrix(k), Product::one([n, k, m]))?;
    Ok(dw)
}

/// Sums over the rows of `x`, (rows, columns), f32.
pub(super) fn column_sums<G: Gpu>(gpu: &G, x: View<'_, G::Buffer>, rows: usize, columns: usize) -> Result<G::Buffer> {
    let parts = rows.div_ceil(PART);
    let mut partial = gpu.buffer(parts * columns, Kind::F32)?;
    each!(gpu, "column_part_sums" of x.kind(), parts * columns, Out & mut partial, In x, Count rows, Count columns, Count PART);
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
    let mut sums = gpu.buffer(columns, Kind::F32)?;
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

/// Sums of the rows of `x`, (rows, length), f32.
pub(super) fn row_sums<G: Gpu>(gpu: &G, x: View<'_, G::Buffer>, rows: usize, length: usize) -> Result<G::Buffer> {
    let mut sums = gpu.buffer(rows, Kind::F32)?;
    blocks!(gpu, "row_sums" of x.kind(), rows, Out & mut sums, In x, Count length);
    Ok(sums)
}

/// `x`: (rows, 2 d), gives (rows, d).
pub(super) fn geglu<G: Gpu>(gpu: &G, x: View<'_, G::Buffer>, rows: usize, d: usize) -> Result<G::Buffer> {
    let mut y = gpu.buffer(rows * d, x.kind())?;
    each!(gpu, "geglu" of x.kind(), rows * d, Out & mut y, In x, Count d);
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
    expect(x.kind(), &[dy])?;
    let mut dx = gpu.buffer(2 * rows * d, x.kind())?;
    each!(gpu, "geglu_backward" of x.kind(), rows * d, Out & mut dx, In x, In dy, Count d);
    Ok(dx)
}

/// `x`: (channels, plane), `e`: (channels), f32, channels counted through the batch.
pub(super) fn add_per_channel<G: Gpu>(
    gpu: &G,
    x: View<'_, G::Buffer>,
    e: View<'_, G::Buffer>,
    channels: usize,
    plane: usize,
) -> Result<G::Buffer> {
    expect(Kind::F32, &[e])?;
    let mut y = gpu.buffer(channels * plane, x.kind())?;
    each!(gpu, "add_per_channel" of x.kind(), channels * plane, Out & mut y, In x, In e, Count plane);
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
    let mut y = gpu.buffer(4 * planes * h * w, x.kind())?;
    each!(gpu, "upsample" of x.kind(), 4 * planes * h * w, Out & mut y, In x, Count h, Count w);
    Ok(y)
}

/// Gradient of `x`, of `values` values in rows of `w`, in [`upsample`].
pub(super) fn upsample_gradient<G: Gpu>(
    gpu: &G,
    dy: View<'_, G::Buffer>,
    values: usize,
    w: usize,
) -> Result<G::Buffer> {
    let mut dx = gpu.buffer(values, dy.kind())?;
    each!(gpu, "upsample_backward" of dy.kind(), values, Out & mut dx, In dy, Count w);
    Ok(dx)
}

/// Numbers of [`crate::engine::ops::adam::Adam`] that are the same in every step.
#[derive(Clone, Copy)]
pub(in crate::engine) struct AdamStep {
    pub beta_1: f32,
    pub beta_2: f32,
    pub eps: f32,
}

/// Changes `count` numbers `p` and their moments by their gradient `g`; `numbers`: the step's size, the root of the second bias.
pub(super) fn adam_step<G: Gpu>(
    gpu: &G,
    p: &mut G::Buffer,
    [g, numbers]: [View<'_, G::Buffer>; 2],
    [first, second]: [&mut G::Buffer; 2],
    step: AdamStep,
    count: usize,
) -> Result<()> {
    expect(Kind::F32, &[View::all(p), g, View::all(first), View::all(second), numbers])?;
    let AdamStep { beta_1, beta_2, eps } = step;
    each!(gpu, "adam", count, Out p, In g, Out first, Out second, In numbers, Value beta_1, Value beta_2, Value eps);
    Ok(())
}

/// `count` as a kernel counts.
fn count(count: usize) -> Result<u32> {
    match i32::try_from(count) {
        Ok(count) => Ok(count as u32),
        Err(_) => bail!("a tensor of {count} numbers is too large for the GPU; choose a smaller resolution"),
    }
}
