//! Changes of layout, and what an example of a step is made of and compared with.
#![deny(unsafe_code)]

use super::{Argument, Gpu, Kind, THREADS, View, expect, row_sums};
use candle_core::Result;

/// Side of the squares that one block transposes; as in `kernels.cu`.
const TILE: usize = 32;

/// Numbers whose squared error one block sums up.
const ERRORS: usize = 4096;

/// `x`: (b, m, n), gives (b, n, m).
pub(in crate::engine::ops) fn transpose<G: Gpu>(
    gpu: &G,
    x: View<'_, G::Buffer>,
    [b, m, n]: [usize; 3],
) -> Result<G::Buffer> {
    let mut y = gpu.buffer(b * m * n, x.kind())?;
    blocks!(gpu, "transpose" of x.kind(), b * m.div_ceil(TILE) * n.div_ceil(TILE), Out & mut y, In x, Count m, Count n);
    Ok(y)
}

/// Sizes of two tensors that lie beside each other in the rows of a third.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine::ops) struct Joined {
    pub rows: usize,
    /// Numbers in a row of each.
    pub columns: [usize; 2],
}

/// (rows, columns[0]) and (rows, columns[1]) to (rows, columns[0] + columns[1]).
pub(in crate::engine::ops) fn join<G: Gpu>(
    gpu: &G,
    parts: [View<'_, G::Buffer>; 2],
    joined: Joined,
) -> Result<G::Buffer> {
    let Joined { rows, columns } = joined;
    let (row, kind) = (columns[0] + columns[1], parts[0].kind());
    expect(kind, &parts)?;
    let mut y = gpu.buffer(rows * row, kind)?;
    for (x, start, columns) in [(parts[0], 0, columns[0]), (parts[1], columns[0], columns[1])] {
        each!(gpu, "copy_rows" of kind, rows * columns, OutFrom (&mut y, start), In x, Count columns, Count row, Count columns);
    }
    Ok(y)
}

/// One of the parts of [`join`] back from `y`.
pub(in crate::engine::ops) fn split<G: Gpu>(
    gpu: &G,
    y: View<'_, G::Buffer>,
    joined: Joined,
    part: usize,
) -> Result<G::Buffer> {
    let Joined { rows, columns } = joined;
    let (row, start, columns) = (columns[0] + columns[1], [0, columns[0]][part], columns[part]);
    let mut x = gpu.buffer(rows * columns, y.kind())?;
    each!(gpu, "copy_rows" of y.kind(), rows * columns, Out & mut x, In y.from(start), Count columns, Count columns, Count row);
    Ok(x)
}

/// a x + sign b z, (items, item); `a`, `b`: (items), `x` and `z` with as many numbers: of all items, or of one for all.
pub(in crate::engine::ops) fn weighted_sum<G: Gpu>(
    gpu: &G,
    [a, b]: [View<'_, G::Buffer>; 2],
    [(x, x_count), (z, z_count)]: [(View<'_, G::Buffer>, usize); 2],
    sign: f32,
    [items, item]: [usize; 2],
) -> Result<G::Buffer> {
    expect(Kind::F32, &[a, b, x, z])?;
    let mut y = gpu.buffer(items * item, Kind::F32)?;
    each!(gpu, "weighted_sum", items * item, Out & mut y, In x, In a, In z, In b, Value sign, Count item, Count x_count,
        Count z_count);
    Ok(y)
}

/// The mean of (x - y)^2 over `count` numbers.
pub(in crate::engine::ops) fn mean_square_error<G: Gpu>(
    gpu: &G,
    [x, y]: [View<'_, G::Buffer>; 2],
    count: usize,
) -> Result<G::Buffer> {
    expect(Kind::F32, &[x, y])?;
    let parts = count.div_ceil(ERRORS);
    let mut sums = gpu.buffer(parts, Kind::F32)?;
    blocks!(gpu, "squared_error_sums", parts, Out & mut sums, In x, In y, Value 1.0 / count as f32, Count ERRORS, Count count);
    row_sums(gpu, View::all(&sums), 1, parts)
}

/// Gradient of `x` in [`mean_square_error`], where that of the mean is `dmean`.
pub(in crate::engine::ops) fn mean_square_error_gradient<G: Gpu>(
    gpu: &G,
    [x, y, dmean]: [View<'_, G::Buffer>; 3],
    count: usize,
) -> Result<G::Buffer> {
    expect(Kind::F32, &[x, y, dmean])?;
    let mut dx = gpu.buffer(count, Kind::F32)?;
    each!(gpu, "squared_error_backward", count, Out & mut dx, In x, In y, In dmean, Value 1.0 / count as f32);
    Ok(dx)
}
