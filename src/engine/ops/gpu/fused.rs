//! Attention by kernels of our own, which keep scores in shared memory: which kernel, and how many blocks. Off by
//! default.
#![deny(unsafe_code)]

use super::attention_sizes::Attention;
use super::sums::sums_of_parts;
use super::terms::{Argument, Gpu, Kind, View, expect, narrowed};
use candle_core::{Error, Result};

/// Kernels for heads of at most `d` elements.
struct Kernels {
    d: usize,
    forward: &'static str,
    statistics: &'static str,
    query_gradient: &'static str,
    key_gradients: &'static str,
}

/// Of Stable Diffusion 1.5's three sizes, and of 2's one.
const KERNELS: [Kernels; 4] = [
    Kernels {
        d: 40,
        forward: "attention_40",
        statistics: "attention_statistics_40",
        query_gradient: "attention_query_gradient_40",
        key_gradients: "attention_key_gradients_40",
    },
    Kernels {
        d: 64,
        forward: "attention_64",
        statistics: "attention_statistics_64",
        query_gradient: "attention_query_gradient_64",
        key_gradients: "attention_key_gradients_64",
    },
    Kernels {
        d: 80,
        forward: "attention_80",
        statistics: "attention_statistics_80",
        query_gradient: "attention_query_gradient_80",
        key_gradients: "attention_key_gradients_80",
    },
    Kernels {
        d: 160,
        forward: "attention_160",
        statistics: "attention_statistics_160",
        query_gradient: "attention_query_gradient_160",
        key_gradients: "attention_key_gradients_160",
    },
];

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
    sizes: &'a Attention,
    kernels: &'static Kernels,
}

impl<'a> Fused<'a> {
    pub(super) fn of(sizes: &'a Attention) -> Option<Self> {
        let kernels = KERNELS.iter().find(|kernels| sizes.d() <= kernels.d)?;
        Some(Self { sizes, kernels })
    }

    /// Blocks for `rows` rows of each head.
    fn blocks(&self, rows: usize, in_block: usize) -> usize {
        self.sizes.b * self.sizes.heads * rows.div_ceil(in_block)
    }

    /// As `attention`.
    pub(super) fn forward<G: Gpu>(
        &self,
        gpu: &G,
        q: View<'_, G::Buffer>,
        k: View<'_, G::Buffer>,
        v: View<'_, G::Buffer>,
    ) -> Result<G::Buffer> {
        let Attention { b, n, m, c, heads } = *self.sizes;
        let kind = q.kind();
        expect(kind, &[k, v])?;
        let mut out = gpu.buffer(b * n * c, kind)?;
        let blocks = self.blocks(n, QUERIES);
        blocks!(gpu, (self.kernels.forward) of kind, blocks, Out & mut out, In q, In k, In v, Value self.sizes.scale(),
            Count n, Count m, Count heads, Count self.sizes.d());
        Ok(out)
    }

    /// As `attention_gradients`.
    pub(super) fn gradients<G: Gpu>(
        &self,
        gpu: &G,
        [q, k, v, out, dout]: [View<'_, G::Buffer>; 5],
    ) -> Result<[G::Buffer; 3]> {
        let Attention { b, n, m, c, heads } = *self.sizes;
        let (scale, d, kind) = (self.sizes.scale(), self.sizes.d(), q.kind());
        expect(kind, &[k, v, out, dout])?;
        let mut statistics = gpu.buffer(2 * b * heads * n, Kind::F32)?;
        let blocks = self.blocks(n, QUERIES);
        blocks!(gpu, (self.kernels.statistics) of kind, blocks, Out & mut statistics, In q, In k, In out, In dout,
            Value scale, Count n, Count m, Count heads, Count d);
        let statistics = View::all(&statistics);
        let mut dq = gpu.buffer(b * n * c, kind)?;
        let blocks = self.blocks(n, ROWS);
        blocks!(gpu, (self.kernels.query_gradient) of kind, blocks, Out & mut dq, In q, In k, In v, In dout, In
            statistics, Value scale, Count n, Count m, Count heads, Count d);
        let (blocks, values) = (self.blocks(m, ROWS), b * m * c);
        let parts = (BLOCKS / blocks.max(1)).min(n.div_ceil(STEP)).max(1);
        let (mut dk, mut dv) = (gpu.buffer(parts * values, Kind::F32)?, gpu.buffer(parts * values, Kind::F32)?);
        blocks!(gpu, (self.kernels.key_gradients) of kind, parts * blocks, Out & mut dk, Out & mut dv, In q, In k, In v,
            In dout, In statistics, Value scale, Count n, Count m, Count heads, Count d, Count parts, Count values);
        if parts > 1 {
            dk = sums_of_parts(gpu, &dk, parts, values, [1, 0])?;
            dv = sums_of_parts(gpu, &dv, parts, values, [1, 0])?;
        }
        let sums = |x: G::Buffer| Ok::<_, Error>(narrowed(gpu, View::all(&x), values, kind)?.unwrap_or(x));
        Ok([dq, sums(dk)?, sums(dv)?])
    }
}
