//! Sums, in f32, in a fixed order.
#![deny(unsafe_code)]

use super::terms::{Argument, Gpu, In, Kind, PART, THREADS, View};
use candle_core::Result;

/// Sums over the rows of `x`, (rows, columns), f32.
pub(super) fn column_sums<G: Gpu>(gpu: &G, x: In<'_, G>, rows: usize, columns: usize) -> Result<G::Buffer> {
    let parts = rows.div_ceil(PART);
    let mut partial = gpu.buffer(parts * columns, Kind::F32)?;
    each!(gpu, "column_part_sums" of x.kind(), parts * columns, Out & mut partial, In x, Count rows, Count columns,
        Count PART);
    sums_of_parts(gpu, &partial, parts, columns, [1, 0])
}

/// Sums over the parts of `partial`, (parts, columns, stride), at one index of the last dimension.
pub(super) fn sums_of_parts<G: Gpu>(
    gpu: &G,
    partial: &G::Buffer,
    parts: usize,
    columns: usize,
    [stride, place]: [usize; 2],
) -> Result<G::Buffer> {
    let mut sums = gpu.buffer(columns, Kind::F32)?;
    blocks!(gpu, "column_sums", columns.div_ceil(THREADS), Out & mut sums, In View::all(partial), Count parts, Count
        columns, Count stride, Count place);
    Ok(sums)
}

/// Sums of the rows of `x`, (rows, length), f32.
pub(super) fn row_sums<G: Gpu>(gpu: &G, x: In<'_, G>, rows: usize, length: usize) -> Result<G::Buffer> {
    let mut sums = gpu.buffer(rows, Kind::F32)?;
    blocks!(gpu, "row_sums" of x.kind(), rows, Out & mut sums, In x, Count length);
    Ok(sums)
}
