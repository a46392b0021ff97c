//! Attention as products of matrices: scores of all heads at once, as many queries as scratch memory and the GPU's
//! cache hold; or, for sizes that have one, by a kernel that does not write its scores at all.
#![deny(unsafe_code)]

use super::fused::Fused;
use super::terms::{Argument, Gpu, In, Kind, Matrix, Product, Stored, View, narrowed};
use crate::engine::device::AttentionKernels;
use crate::engine::ops::attention::Sizes;
use candle_core::{Error, Result};

/// Scores that exist at a time, in all matrices of an operation, if that is not less than one query's: 32 MB. What one
/// kernel writes and the next one reads then stays in the L2 cache, 50 MB on an H100 and 40 on an A100. Not measured on
/// either.
const SCORES: usize = 8 << 20;

/// Scores, which are f32, because e to their power multiplies their errors. They become probabilities in place, or in
/// another buffer where the other factor has 16 bits.
struct Probabilities<B> {
    scores: B,
    narrow: Option<B>,
}

impl<B> Probabilities<B> {
    fn get(&mut self) -> &mut B {
        self.narrow.as_mut().unwrap_or(&mut self.scores)
    }
}

/// Some queries of one item, of all heads.
#[derive(Clone, Copy)]
struct Queries {
    item: usize,
    first: usize,
    rows: usize,
}

impl Sizes {
    /// With `matrices` matrices of scores at a time.
    fn queries(&self, scratch: usize, matrices: usize) -> Vec<Queries> {
        let rows = (scratch.min(SCORES / matrices) / (self.heads * self.m)).clamp(1, self.n);
        let starts = (0..self.b).flat_map(|item| (0..self.n).step_by(rows).map(move |first| (item, first)));
        starts.map(|(item, first)| Queries { item, first, rows: rows.min(self.n - first) }).collect()
    }

    /// Room for the scores of as many queries as there are in a chunk, (heads, rows, m).
    fn scores<G: Gpu>(&self, gpu: &G, chunks: &[Queries], kind: Kind) -> Result<G::Buffer> {
        gpu.buffer(chunks.iter().map(|queries| self.heads * queries.rows * self.m).max().unwrap_or(0), kind)
    }

    /// Room for scores and probabilities.
    fn room<G: Gpu>(&self, gpu: &G, chunks: &[Queries], kind: Kind) -> Result<Probabilities<G::Buffer>> {
        let narrow = (kind != Kind::F32).then(|| self.scores(gpu, chunks, kind)).transpose()?;
        Ok(Probabilities { scores: self.scores(gpu, chunks, Kind::F32)?, narrow })
    }

    /// Those of all heads.
    fn of_scores<'a, B>(&self, scores: &'a B, rows: usize) -> Matrix<'a, B> {
        View::all(scores).matrix(self.m).batch(rows * self.m)
    }

    /// Rows of all heads of a tensor (b, length, c), from row `first` of an item on.
    fn heads<'a, B>(&self, x: View<'a, B>, length: usize, item: usize, first: usize) -> Matrix<'a, B> {
        x.from((item * length + first) * self.c).matrix(self.c).batch(self.d)
    }

    /// softmax(q k^T / sqrt(d)) into `p`, (heads, rows, m).
    fn fill<G: Gpu>(
        &self,
        gpu: &G,
        [q, k]: [In<'_, G>; 2],
        queries: Queries,
        p: &mut Probabilities<G::Buffer>,
    ) -> Result<()> {
        let Queries { item, first, rows } = queries;
        let (q, k) = (self.heads(q, self.n, item, first), self.heads(k, self.m, item, 0));
        let product = Product { scale: self.scale(), ..self.product_apart([rows, self.m, self.d]) };
        let Probabilities { scores, narrow } = p;
        gpu.matmul(scores, q, k.t(), product)?;
        match narrow {
            None => blocks!(gpu, "softmax", self.heads * rows, Out scores, Count self.m),
            Some(p) => blocks!(gpu, "softmax" of p.kind(), self.heads * rows, Out p, Out scores, Count self.m),
        }
        Ok(())
    }

    /// One product for each head, the results one behind the other.
    fn product_apart(&self, [m, n, k]: [usize; 3]) -> Product {
        Product { batches: self.heads, out_batch: m * n, ..Product::one([m, n, k]) }
    }

    /// One product for each head, the results where that head's part of a tensor (b, length, c) is.
    fn product_of_heads(&self, [m, n, k]: [usize; 3], length: usize, item: usize, first: usize) -> Product {
        let out_start = (item * length + first) * self.c;
        Product { batches: self.heads, out_batch: self.d, out_row: self.c, out_start, ..Product::one([m, n, k]) }
    }
}

/// softmax(q k^T / sqrt(d)) v of each head, (b, n, c).
pub(super) fn attention<G: Gpu>(
    gpu: &G,
    [q, k, v]: [In<'_, G>; 3],
    sizes: &Sizes,
    kernels: AttentionKernels,
) -> Result<G::Buffer> {
    let Sizes { b, n, m, c, d, .. } = *sizes;
    if let Some(fused) = Fused::of(sizes).filter(|_| kernels == AttentionKernels::Own) {
        return fused.forward(gpu, [q, k, v]);
    }
    let mut out = gpu.buffer(b * n * c, q.kind())?;
    let chunks = sizes.queries(gpu.scratch(), 1);
    let mut p = sizes.room(gpu, &chunks, q.kind())?;
    for queries in chunks {
        let Queries { item, first, rows } = queries;
        sizes.fill(gpu, [q, k], queries, &mut p)?;
        let product = sizes.product_of_heads([rows, d, m], n, item, first);
        gpu.matmul(&mut out, sizes.of_scores(p.get(), rows), sizes.heads(v, m, item, 0), product)?;
    }
    Ok(out)
}

/// Gradients of q, k and v; the scores are computed again. `out`: what [`attention`] gave.
pub(super) fn attention_gradients<G: Gpu>(
    gpu: &G,
    [q, k, v, out, dout]: [In<'_, G>; 5],
    sizes: &Sizes,
    kernels: AttentionKernels,
) -> Result<[G::Buffer; 3]> {
    let Sizes { b, n, m, c, d, heads } = *sizes;
    if let Some(fused) = Fused::of(sizes).filter(|_| kernels == AttentionKernels::Own) {
        return fused.gradients(gpu, [q, k, v, out, dout]);
    }
    let kind = q.kind();
    let chunks = sizes.queries(gpu.scratch(), 2);
    // Sums over several chunks are rounded once, in the end.
    let of_sums = if chunks.len() > b { Kind::F32 } else { kind };
    let mut dq = gpu.buffer(b * n * c, kind)?;
    let (mut dk, mut dv) = (gpu.buffer(b * m * c, of_sums)?, gpu.buffer(b * m * c, of_sums)?);
    let mut p = sizes.room(gpu, &chunks, kind)?;
    let mut dp = sizes.scores(gpu, &chunks, Kind::F32)?;
    for queries in chunks {
        let Queries { item, first, rows } = queries;
        let add = first > 0;
        let dout = || sizes.heads(dout, n, item, first);
        sizes.fill(gpu, [q, k], queries, &mut p)?;
        let to_keys = Product { add, ..sizes.product_of_heads([m, d, rows], m, item, 0) };
        gpu.matmul(&mut dv, sizes.of_scores(p.get(), rows).t(), dout(), to_keys)?;
        gpu.matmul(&mut dp, dout(), sizes.heads(v, m, item, 0).t(), sizes.product_apart([rows, m, d]))?;
        blocks!(gpu, "softmax_backward" of kind, heads * rows, Out p.get(), In View::all(&dp), Value sizes.scale(),
            Count m);
        let of_queries = sizes.product_of_heads([rows, d, m], n, item, first);
        gpu.matmul(&mut dq, sizes.of_scores(p.get(), rows), sizes.heads(k, m, item, 0), of_queries)?;
        gpu.matmul(&mut dk, sizes.of_scores(p.get(), rows).t(), sizes.heads(q, n, item, first), to_keys)?;
    }
    let sums = |x: G::Buffer| Ok::<_, Error>(narrowed(gpu, View::all(&x), b * m * c, kind)?.unwrap_or(x));
    Ok([dq, sums(dk)?, sums(dv)?])
}

#[cfg(feature = "cuda")]
mod half {
    use super::super::cuda::{result, with_elements};
    use super::super::gradient::wanted;
    use super::attention_gradients;
    use crate::engine::ops::attention::Attention;
    use crate::engine::ops::operation::{Gradients, Lent, OnGpu};
    use candle_core::{CudaStorage, Result, Shape, Tensor};

    impl OnGpu<3> for Attention {
        fn forward_on_gpu(&self, inputs: [Lent<'_, CudaStorage>; 3]) -> Result<(CudaStorage, Shape)> {
            let [q, k, _] = inputs.map(|(_, layout)| layout);
            let sizes = self.sizes(q.dims(), k.dims());
            result(inputs, q.shape().clone(), |gpu, inputs| super::attention(gpu, inputs, &sizes, self.kernels))
        }

        fn backward_on_gpu(&self, [q, k, v]: [&Tensor; 3], o: &Tensor, dout: &Tensor) -> Gradients<3> {
            let (sizes, gpu) = (self.sizes(q.dims(), k.dims()), q.device().as_cuda_device()?);
            let inputs = [q, k, v, o, dout];
            let [dq, dk, dv] = with_elements(inputs, |inputs| attention_gradients(gpu, inputs, &sizes, self.kernels))?;
            let wanted = |x, dx| wanted(x, [], |_, []| Ok(dx));
            Ok([wanted(q, dq)?, wanted(k, dk)?, wanted(v, dv)?])
        }
    }
}
