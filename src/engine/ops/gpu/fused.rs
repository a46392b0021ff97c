//! Attention by kernels of our own, which keep scores in shared memory: which kernel, and how many blocks. Off by
//! default.
#![deny(unsafe_code)]

use super::sums::sums_of_parts;
use super::terms::{Argument, Gpu, In, Kind, View, expect, narrowed};
use crate::engine::ops::attention::Sizes;
use candle_core::{Error, Result};

/// Heads have at most so many elements, each size with kernels of its own: Stable Diffusion 1.5's three, and 2's one.
const KERNELS: [usize; 4] = [40, 64, 80, 160];

/// Queries of a block of the forward pass; as in `attention.cu`, like the next two.
const QUERIES: usize = 128;

/// Queries or keys of a block of the backward pass.
const ROWS: usize = 64;

/// Queries in a step of the backward pass at least.
const STEP: usize = 16;

/// Blocks that keep a card busy: two for each of an H100's 132 multiprocessors. Where keys make fewer, as a text's 77
/// do, several blocks share the queries of each.
const BLOCKS: usize = 264;

/// The attention of those sizes, if there are kernels for it.
pub(super) struct Fused<'a> {
    sizes: &'a Sizes,
    /// What its kernels' names end with.
    size: usize,
}

impl<'a> Fused<'a> {
    pub(super) fn of(sizes: &'a Sizes) -> Option<Self> {
        let size = KERNELS.into_iter().find(|size| sizes.d <= *size)?;
        Some(Self { sizes, size })
    }

    fn kernel(&self, name: &str) -> String {
        format!("{name}_{}", self.size)
    }

    /// Blocks for `rows` rows of each head.
    fn blocks(&self, rows: usize, in_block: usize) -> usize {
        self.sizes.b * self.sizes.heads * rows.div_ceil(in_block)
    }

    /// As `attention`.
    pub(super) fn forward<G: Gpu>(&self, gpu: &G, [q, k, v]: [In<'_, G>; 3]) -> Result<G::Buffer> {
        let Sizes { b, n, m, c, d, heads } = *self.sizes;
        let kind = q.kind();
        expect(kind, &[k, v])?;
        let mut out = gpu.buffer(b * n * c, kind)?;
        let blocks = self.blocks(n, QUERIES);
        blocks!(gpu, (&self.kernel("attention")) of kind, blocks, Out & mut out, In q, In k, In v, Value
            self.sizes.scale(), Count n, Count m, Count heads, Count d);
        Ok(out)
    }

    /// As `attention_gradients`.
    pub(super) fn gradients<G: Gpu>(&self, gpu: &G, [q, k, v, out, dout]: [In<'_, G>; 5]) -> Result<[G::Buffer; 3]> {
        let Sizes { b, n, m, c, d, heads } = *self.sizes;
        let (scale, kind) = (self.sizes.scale(), q.kind());
        expect(kind, &[k, v, out, dout])?;
        let mut statistics = gpu.buffer(2 * b * heads * n, Kind::F32)?;
        let blocks = self.blocks(n, QUERIES);
        blocks!(gpu, (&self.kernel("attention_statistics")) of kind, blocks, Out & mut statistics, In q, In k, In out,
            In dout, Value scale, Count n, Count m, Count heads, Count d);
        let statistics = View::all(&statistics);
        let mut dq = gpu.buffer(b * n * c, kind)?;
        let blocks = self.blocks(n, ROWS);
        blocks!(gpu, (&self.kernel("attention_query_gradient")) of kind, blocks, Out & mut dq, In q, In k, In v, In
            dout, In statistics, Value scale, Count n, Count m, Count heads, Count d);
        let (blocks, values) = (self.blocks(m, ROWS), b * m * c);
        let parts = (BLOCKS / blocks.max(1)).min(n.div_ceil(STEP)).max(1);
        let (mut dk, mut dv) = (gpu.buffer(parts * values, Kind::F32)?, gpu.buffer(parts * values, Kind::F32)?);
        blocks!(gpu, (&self.kernel("attention_key_gradients")) of kind, parts * blocks, Out & mut dk, Out & mut dv, In
            q, In k, In v, In dout, In statistics, Value scale, Count n, Count m, Count heads, Count d, Count parts,
            Count values);
        if parts > 1 {
            dk = sums_of_parts(gpu, &dk, parts, values, [1, 0])?;
            dv = sums_of_parts(gpu, &dv, parts, values, [1, 0])?;
        }
        let sums = |x: G::Buffer| Ok::<_, Error>(narrowed(gpu, View::all(&x), values, kind)?.unwrap_or(x));
        Ok([dq, sums(dk)?, sums(dv)?])
    }
}
