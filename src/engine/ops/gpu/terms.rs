//! The terms of a GPU in which operations are written: tensors, what kernels get, products of matrices, and what runs
//! them.
#![deny(unsafe_code)]

use candle_core::{Result, bail};
use std::borrow::Cow;

/// What the elements of a tensor are stored in; all arithmetic is f32.
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
    pub(super) fn kernel(self, name: &str) -> Cow<'_, str> {
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
    /// A buffer in its memory.
    type Buffer: Stored;

    /// Elements of scratch memory that an operation may take beside its inputs and results, about.
    fn scratch(&self) -> usize;

    /// `len` elements of any content.
    fn buffer(&self, len: usize, kind: Kind) -> Result<Self::Buffer>;

    /// Runs `blocks` blocks of a kernel.
    fn launch(&self, kernel: &str, blocks: usize, arguments: &mut [Argument<'_, Self::Buffer>]) -> Result<()>;

    /// A product of matrices, or several at once. Both factors are of one kind, and the result is of the same, or of
    /// f32.
    fn matmul(
        &self,
        out: &mut Self::Buffer,
        a: Matrix<'_, Self::Buffer>,
        b: Matrix<'_, Self::Buffer>,
        product: Product,
    ) -> Result<()>;
}

/// The elements of a tensor that an operation on `G` reads.
pub(super) type In<'a, G> = View<'a, <G as Gpu>::Buffer>;

/// What a kernel gets.
pub(super) enum Argument<'a, B> {
    /// A tensor that it reads.
    In(View<'a, B>),
    /// A tensor that it writes.
    Out(&'a mut B),
    /// A part of one, from that element on.
    OutFrom((&'a mut B, usize)),
    /// A number that its indices are made of.
    Count(usize),
    /// Another number.
    Value(f32),
}

/// The contiguous elements of a tensor, from `start` on.
pub(super) struct View<'a, B> {
    /// What it is part of.
    pub buffer: &'a B,
    /// Elements before it.
    pub start: usize,
}

impl<B> Clone for View<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for View<'_, B> {}

impl<'a, B> View<'a, B> {
    pub(super) fn all(buffer: &'a B) -> Self {
        Self { buffer, start: 0 }
    }

    pub(super) fn from(self, start: usize) -> Self {
        Self { start: self.start + start, ..self }
    }

    pub(super) fn kind(&self) -> Kind
    where
        B: Stored,
    {
        self.buffer.kind()
    }

    /// Row-major with `row` elements from one row to the next.
    pub(super) fn matrix(self, row: usize) -> Matrix<'a, B> {
        Matrix { view: self, row, batch: 0, transposed: false }
    }
}

/// One matrix, or several at even distances in memory.
pub(super) struct Matrix<'a, B> {
    /// Where the first one begins.
    pub view: View<'a, B>,
    /// Elements from one row in memory to the next.
    pub row: usize,
    /// Elements from one matrix to the next; 0 if it is the same one for all products.
    pub batch: usize,
    /// Whether rows in memory are columns.
    pub transposed: bool,
}

impl<B> Matrix<'_, B> {
    pub(super) fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    pub(super) fn batch(self, batch: usize) -> Self {
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
    /// Elements of the result before its first matrix.
    pub out_start: usize,
    /// From one row of the result to the next.
    pub out_row: usize,
    /// From one matrix of the result to the next.
    pub out_batch: usize,
    pub batches: usize,
}

impl Product {
    /// One product, its result without gaps.
    pub(super) fn one([m, n, k]: [usize; 3]) -> Self {
        Self { m, n, k, scale: 1.0, add: false, out_start: 0, out_row: n, out_batch: 0, batches: 1 }
    }
}

/// Threads of a block; as in `kernel.h`.
pub(super) const THREADS: usize = 256;

/// Rows whose sums one thread takes.
pub(super) const PART: usize = 64;

/// Fails if one of them is of another kind, because a kernel would misread it.
pub(super) fn expect<B: Stored>(kind: Kind, views: &[View<'_, B>]) -> Result<()> {
    match views.iter().find(|view| view.kind() != kind) {
        Some(view) => bail!("an operation got numbers of {:?} where it takes {kind:?}", view.kind()),
        None => Ok(()),
    }
}

/// A half-precision copy of `count` elements if `x` is of f32 and `kind` is not.
pub(super) fn narrowed<G: Gpu>(gpu: &G, x: In<'_, G>, count: usize, kind: Kind) -> Result<Option<G::Buffer>> {
    if x.kind() == kind {
        return Ok(None);
    }
    expect(Kind::F32, &[x])?;
    let mut copy = gpu.buffer(count, kind)?;
    each!(gpu, "narrow" of kind, count, Out & mut copy, In x);
    Ok(Some(copy))
}

/// `count` as a kernel counts.
pub(super) fn count(count: usize) -> Result<u32> {
    match i32::try_from(count) {
        Ok(count) => Ok(count as u32),
        Err(_) => bail!("a tensor of {count} numbers is too large for the GPU; choose a smaller resolution"),
    }
}
