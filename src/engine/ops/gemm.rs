//! The matrix product: the `gemm` crate's kernels behind slices whose bounds are checked. A factor of 16 bits is
//! widened block by block, into memory that stays in the cache; every sum is the one that it would be in f32.

use super::values::{Numbers, with_buffer};
use crate::engine::stop;
use gemm::Parallelism;
use rayon::prelude::*;
use std::ops::Range;

/// Elements of a factor that are widened at a time, about.
const BLOCK: usize = 1 << 18;

/// A read-only view of a matrix in a slice.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    data: Numbers<'a>,
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major, without gaps.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// As [`Matrix::new`], of elements that may have 16 bits.
    pub fn of(data: Numbers<'a>, rows: usize, columns: usize) -> Self {
        assert!(rows * columns <= data.len(), "{rows}x{columns} in {}", data.len());
        Self { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// Row-major, `row_stride` elements from one row to the next.
    pub fn strided(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        let matrix = Self { data: Numbers::F32(data), rows, columns, row_stride, column_stride: 1 };
        assert!(
            rows * columns == 0 || (rows - 1) * row_stride + columns <= data.len(),
            "{rows}x{columns} in {}",
            data.len()
        );
        matrix
    }

    /// The transpose; moves nothing.
    pub fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// Calls `f` with `rows` of it in f32.
    fn with_rows_widened(self, rows: Range<usize>, threads: Threads, f: impl FnOnce(Matrix<'_>)) {
        // How it lies in memory: a transpose has its rows in the columns there.
        let is_transposed = self.column_stride != 1;
        let (lines, line, stride) = match is_transposed {
            true => (self.columns, rows.clone(), self.column_stride),
            false => (rows.len(), 0..self.columns, self.row_stride),
        };
        let first = if is_transposed { 0 } else { rows.start };
        with_buffer(lines * line.len(), |buffer| {
            let widen = |(index, out): (usize, &mut [f32])| {
                let start = (first + index) * stride + line.start;
                self.data.part(start..start + out.len()).widen(out);
            };
            match threads {
                Threads::One => buffer.chunks_mut(line.len()).enumerate().for_each(widen),
                Threads::All => buffer.par_chunks_mut(line.len()).enumerate().for_each(widen),
            }
            let wide = Matrix::new(buffer, lines, line.len());
            f(if is_transposed { wide.t() } else { wide });
        });
    }
}

/// What happens to the elements that `out` holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Out {
    /// They are replaced.
    Replace,
    /// The product is added to them.
    Add,
}

/// Who computes.
#[derive(Clone, Copy)]
pub enum Threads {
    /// The calling thread, because its siblings have matrices of their own.
    One,
    /// All threads of the pool.
    All,
}

/// `out = scale * a b` or `out += scale * a b`; `out` is row-major without gaps. At most one of `a` and `b` has 16
/// bits. Does nothing where the edit is to stop: nearly all of its time is spent here.
pub fn matmul(out: &mut [f32], mode: Out, scale: f32, a: Matrix<'_>, b: Matrix<'_>, threads: Threads) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert_eq!(k, b.rows, "inner sizes");
    assert_eq!(out.len(), m * n, "size of the result");
    if m * n == 0 {
        return;
    }
    let by = Factors { mode, scale, threads };
    match (a.data, b.data) {
        (Numbers::F32(_), Numbers::F32(_)) => by.multiply(out, n, a, b),
        (_, Numbers::F32(_)) => blocks(m, n, k).for_each(|rows| {
            let out = &mut out[rows.start * n..rows.end * n];
            a.with_rows_widened(rows, threads, |a| by.multiply(out, n, a, b));
        }),
        (Numbers::F32(_), _) => blocks(n, m, k).for_each(|columns| {
            let out = &mut out[columns.start..];
            b.t().with_rows_widened(columns, threads, |b| by.multiply(out, n, a, b.t()));
        }),
        _ => unreachable!("activations and gradients are f32"),
    }
}

/// `rows` in blocks of about the same number, for a result of so many `columns`. `gemm` adds products up in another
/// order where a result is small (see its `gemm_basic_generic`), so a block of one that is not must not be small
/// either.
fn blocks(rows: usize, columns: usize, row: usize) -> impl Iterator<Item = Range<usize>> {
    const LARGEST_SIDE: usize = 64;
    const LARGEST_AREA: usize = 256;
    let least = (LARGEST_SIDE + 1).max(LARGEST_AREA / columns + 1);
    let most = (BLOCK / row.max(1)).max(1);
    let count = rows.div_ceil(most).min(rows / least).max(1);
    (0..count).map(move |i| i * rows / count..(i + 1) * rows / count)
}

/// All of a product but the matrices.
struct Factors {
    mode: Out,
    scale: f32,
    threads: Threads,
}

impl Factors {
    /// To the first columns of `out`, whose rows are `stride` elements apart; `a` and `b` are f32.
    fn multiply(&self, out: &mut [f32], stride: usize, a: Matrix<'_>, b: Matrix<'_>) {
        let (m, n, k) = (a.rows, b.columns, a.columns);
        let (Numbers::F32(left), Numbers::F32(right)) = (a.data, b.data) else { unreachable!("they were widened") };
        assert!(k == b.rows && n <= stride && (m - 1) * stride + n <= out.len(), "{m}x{n} in {}", out.len());
        if stop::asked() {
            return;
        }
        let parallelism = match self.threads {
            Threads::One => Parallelism::None,
            Threads::All => Parallelism::Rayon(rayon::current_num_threads()),
        };
        // SAFETY: `Matrix::of` and `Matrix::strided` checked that every element of `a` and `b` lies in its slice (a
        // transpose reaches the same elements), `out` holds m rows of n elements, `stride` apart, and is borrowed
        // mutably, so it overlaps neither.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                out.as_mut_ptr(),
                1,
                stride as isize,
                self.mode == Out::Add,
                left.as_ptr(),
                a.column_stride as isize,
                a.row_stride as isize,
                right.as_ptr(),
                b.column_stride as isize,
                b.row_stride as isize,
                1.0f32,
                self.scale,
                false,
                false,
                false,
                parallelism,
            );
        }
    }
}
