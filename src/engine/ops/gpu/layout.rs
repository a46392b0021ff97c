//! Changes of layout, and what an example of a step is made of and compared with.
#![deny(unsafe_code)]

use super::sums::row_sums;
use super::terms::{Argument, Gpu, In, Kind, THREADS, View, expect};
use candle_core::Result;

/// Side of the squares that one block transposes; as in `kernels.cu`.
const TILE: usize = 32;

/// Elements whose squared error one block sums up.
const ERRORS: usize = 4096;

/// `x`: (b, m, n), gives (b, n, m).
pub(super) fn transpose<G: Gpu>(gpu: &G, x: In<'_, G>, [b, m, n]: [usize; 3]) -> Result<G::Buffer> {
    let mut y = gpu.buffer(b * m * n, x.kind())?;
    blocks!(gpu, "transpose" of x.kind(), b * m.div_ceil(TILE) * n.div_ceil(TILE), Out & mut y, In x, Count m, Count n);
    Ok(y)
}

/// Sizes of two tensors whose rows are joined to those of a third.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joined {
    pub rows: usize,
    /// Elements of a row of each.
    pub columns: [usize; 2],
}

/// (rows, columns[0]) and (rows, columns[1]) to (rows, columns[0] + columns[1]).
pub(super) fn join<G: Gpu>(gpu: &G, parts: [In<'_, G>; 2], joined: Joined) -> Result<G::Buffer> {
    let Joined { rows, columns } = joined;
    let (row, kind) = (columns[0] + columns[1], parts[0].kind());
    expect(kind, &parts)?;
    let mut y = gpu.buffer(rows * row, kind)?;
    for (x, start, columns) in [(parts[0], 0, columns[0]), (parts[1], columns[0], columns[1])] {
        each!(gpu, "copy_rows" of kind, rows * columns, OutFrom (&mut y, start), In x, Count columns, Count row, Count
            columns);
    }
    Ok(y)
}

/// One of the parts of [`join`] back from `y`.
pub(super) fn split<G: Gpu>(gpu: &G, y: In<'_, G>, joined: Joined, part: usize) -> Result<G::Buffer> {
    let Joined { rows, columns } = joined;
    let (row, start, columns) = (columns[0] + columns[1], [0, columns[0]][part], columns[part]);
    let mut x = gpu.buffer(rows * columns, y.kind())?;
    each!(gpu, "copy_rows" of y.kind(), rows * columns, Out & mut x, In y.from(start), Count columns, Count columns,
        Count row);
    Ok(x)
}

/// a x + sign b z, (items, item); `a`, `b`: (items), `x` and `z` with their elements: of all items, or of one for all.
pub(super) fn weighted_sum<G: Gpu>(
    gpu: &G,
    [a, b]: [In<'_, G>; 2],
    [(x, x_count), (z, z_count)]: [(In<'_, G>, usize); 2],
    sign: f32,
    [items, item]: [usize; 2],
) -> Result<G::Buffer> {
    expect(Kind::F32, &[a, b, x, z])?;
    let mut y = gpu.buffer(items * item, Kind::F32)?;
    each!(gpu, "weighted_sum", items * item, Out & mut y, In x, In a, In z, In b, Value sign, Count item, Count x_count,
        Count z_count);
    Ok(y)
}

/// The mean of (x - y)^2 over `count` elements.
pub(super) fn mean_square_error<G: Gpu>(gpu: &G, [x, y]: [In<'_, G>; 2], count: usize) -> Result<G::Buffer> {
    expect(Kind::F32, &[x, y])?;
    let parts = count.div_ceil(ERRORS);
    let mut sums = gpu.buffer(parts, Kind::F32)?;
    blocks!(gpu, "squared_error_sums", parts, Out & mut sums, In x, In y, Value 1.0 / count as f32, Count ERRORS, Count
        count);
    row_sums(gpu, View::all(&sums), 1, parts)
}

/// Gradient of `x` in [`mean_square_error`], where that of the mean is `dmean`.
pub(super) fn mean_square_error_gradient<G: Gpu>(gpu: &G, inputs: [In<'_, G>; 3], count: usize) -> Result<G::Buffer> {
    let [x, y, dmean] = inputs;
    expect(Kind::F32, &[x, y, dmean])?;
    let mut dx = gpu.buffer(count, Kind::F32)?;
    each!(gpu, "squared_error_backward", count, Out & mut dx, In x, In y, In dmean, Value 1.0 / count as f32);
    Ok(dx)
}

#[cfg(feature = "cuda")]
mod half {
    use super::super::cuda::result;
    use super::super::gradient::wanted;
    use super::Joined;
    use crate::engine::ops::layout::{Join, MeanSquareError, Sign, Transpose, WeightedSum};
    use crate::engine::ops::operation::{Gradients, Lent, OnGpu};
    use candle_core::{CudaStorage, Result, Shape, Tensor, bail};

    impl OnGpu<1> for Transpose {
        fn forward_on_gpu(&self, [x]: [Lent<'_, CudaStorage>; 1]) -> Result<(CudaStorage, Shape)> {
            let (b, m, n) = x.1.shape().dims3()?;
            result([x], (b, n, m), |gpu, [x]| super::transpose(gpu, x, [b, m, n]))
        }

        fn backward_on_gpu(&self, [x]: [&Tensor; 1], _: &Tensor, dy: &Tensor) -> Gradients<1> {
            let (b, m, n) = x.dims3()?;
            Ok([wanted(x, [dy], |gpu, [dy]| super::transpose(gpu, dy, [b, n, m]))?])
        }
    }

    impl Joined {
        fn of(x: &[usize], skip: &[usize]) -> Self {
            Self { rows: x[0], columns: [x, skip].map(|dims| dims[1..].iter().product()) }
        }
    }

    impl OnGpu<2> for Join {
        fn forward_on_gpu(&self, [x, skip]: [Lent<'_, CudaStorage>; 2]) -> Result<(CudaStorage, Shape)> {
            let (mut dims, joined) = (x.1.dims().to_vec(), Joined::of(x.1.dims(), skip.1.dims()));
            dims[1] += skip.1.dims()[1];
            result([x, skip], dims, |gpu, inputs| super::join(gpu, inputs, joined))
        }

        fn backward_on_gpu(&self, [x, skip]: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Gradients<2> {
            let joined = Joined::of(x.dims(), skip.dims());
            let part = |part, like| wanted(like, [dy], |gpu, [dy]| super::split(gpu, dy, joined, part));
            Ok([part(0, x)?, part(1, skip)?])
        }
    }

    impl OnGpu<3> for WeightedSum {
        fn forward_on_gpu(&self, [x, z, scales]: [Lent<'_, CudaStorage>; 3]) -> Result<(CudaStorage, Shape)> {
            let (mut dims, items) = (x.1.dims().to_vec(), scales.1.dims()[1]);
            let (item, counts) = (dims[1..].iter().product(), [x, z].map(|part| part.1.shape().elem_count()));
            let sign = if self.sign == Sign::Plus { 1.0 } else { -1.0 };
            dims[0] = items;
            result([x, z, scales], dims, |gpu, [x, z, scales]| {
                let parts = [(x, counts[0]), (z, counts[1])];
                super::weighted_sum(gpu, [scales, scales.from(items)], parts, sign, [items, item])
            })
        }

        fn backward_on_gpu(&self, _: [&Tensor; 3], _: &Tensor, _: &Tensor) -> Gradients<3> {
            bail!("a weighted sum has no gradients")
        }
    }

    impl OnGpu<2> for MeanSquareError {
        fn forward_on_gpu(&self, [x, y]: [Lent<'_, CudaStorage>; 2]) -> Result<(CudaStorage, Shape)> {
            let count = x.1.shape().elem_count();
            result([x, y], (), |gpu, inputs| super::mean_square_error(gpu, inputs, count))
        }

        fn backward_on_gpu(&self, [x, y]: [&Tensor; 2], _: &Tensor, d: &Tensor) -> Gradients<2> {
            let count = x.elem_count();
            let dx = wanted(x, [x, y, d], |gpu, inputs| super::mean_square_error_gradient(gpu, inputs, count))?;
            Ok([dx, None])
        }
    }
}
