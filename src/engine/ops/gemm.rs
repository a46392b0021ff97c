//! The matrix product: the `gemm` crate's kernels behind slices whose bounds are checked.

use gemm::Parallelism;

/// A read-only view of a matrix in a slice.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
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

    /// Row-major, `row_stride` elements from one row to the next.
    pub fn strided(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        let matrix = Self { data, rows, columns, row_stride, column_stride: 1 };
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

/// `out = scale * a b` or `out += scale * a b`; `out` is row-major without gaps.
pub fn matmul(out: &mut [f32], mode: Out, scale: f32, a: Matrix<'_>, b: Matrix<'_>, threads: Threads) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert_eq!(k, b.rows, "inner sizes");
    assert_eq!(out.len(), m * n, "size of the result");
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::All => Parallelism::Rayon(rayon::current_num_threads()),
    };
    // SAFETY: `Matrix::strided` checked that every element of `a` and `b` lies in its slice (a transpose reaches the
    // same elements), `out` holds m * n contiguous elements, and `out` is borrowed mutably, so it overlaps neither.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            mode == Out::Add,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0f32,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}
