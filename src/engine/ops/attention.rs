//! Attention with several heads; the backward recomputes the scores instead of keeping them.
#![forbid(unsafe_code)]

use super::gemm::{Matrix, Out, Threads, matmul};
use super::operation::{Gradients, Lent, Op, Operation};
use super::values::{exp, largest, sum, sum2, values, vectorized, wanted, with_values};
use crate::engine::device::AttentionKernels;
use crate::engine::stop;
use candle_core::{CpuStorage, Result, Shape, Tensor};
use rayon::prelude::*;

/// Rows of scores that exist at a time, for each head.
const QUERY_ROWS: usize = 256;

/// `q`: (b, n, c), `k`, `v`: (b, m, c) with c = heads * d; gives softmax(q k^T / sqrt(d)) v of each head: (b, n, c).
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, kernels: AttentionKernels) -> Result<Tensor> {
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, Op(Attention { heads, kernels }))
}

pub(super) struct Attention {
    pub(super) heads: usize,
    /// Of a GPU.
    pub(super) kernels: AttentionKernels,
}

/// All sizes of one call: queries (b, n, c), keys and values (b, m, c), c = heads * d.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) b: usize,
    pub(super) n: usize,
    pub(super) m: usize,
    pub(super) c: usize,
    pub(super) d: usize,
    pub(super) heads: usize,
}

impl Sizes {
    pub(super) fn scale(self) -> f32 {
        1.0 / (self.d as f32).sqrt()
    }

    /// Rows `from..from + rows` of one head of a tensor (b, length, c).
    fn head(self, x: &[f32], index: usize, length: usize, from: usize, rows: usize) -> Matrix<'_> {
        let (item, head) = (index / self.heads, index % self.heads);
        let start = (item * length + from) * self.c + head * self.d;
        Matrix::strided(&x[start..], rows, self.d, self.c)
    }

    /// (b * heads, length, d) to (b, length, c).
    fn join_heads(self, x: &[f32], length: usize) -> Vec<f32> {
        let mut joined = vec![0.0; x.len()];
        joined.par_chunks_mut(self.c).enumerate().for_each(|(row, out)| {
            let (item, position) = (row / length, row % length);
            for (head, out) in out.chunks_mut(self.d).enumerate() {
                out.copy_from_slice(&x[((item * self.heads + head) * length + position) * self.d..][..self.d]);
            }
        });
        joined
    }

    /// Every head on a thread of its own, unless there are fewer heads than threads.
    fn for_each_head<T: Send>(self, tasks: Vec<T>, run: impl Fn(usize, T, Threads) + Sync) {
        if tasks.len() >= rayon::current_num_threads() {
            tasks.into_par_iter().enumerate().for_each(|(index, task)| run(index, task, Threads::One));
        } else {
            tasks.into_iter().enumerate().for_each(|(index, task)| run(index, task, Threads::All));
        }
    }

    /// softmax(q k^T / sqrt(d)) of some rows, into `scores`, (rows, m).
    fn probabilities(self, q: Matrix<'_>, k: Matrix<'_>, scores: &mut [f32], threads: Threads) {
        matmul(scores, Out::Replace, self.scale(), q, k.t(), threads);
        vectorized(
            #[inline(always)]
            || {
                for row in scores.chunks_exact_mut(self.m) {
                    let max = largest(row);
                    row.iter_mut().for_each(|score| *score = exp(*score - max));
                    let norm = 1.0 / sum(row, |score| score);
                    row.iter_mut().for_each(|score| *score *= norm);
                }
            },
        );
    }

    fn forward(self, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; q.len()]; // (b * heads, n, d)
        self.for_each_head(out.chunks_mut(self.n * self.d).collect(), |index, out, threads| {
            let (k, v) = (self.head(k, index, self.m, 0, self.m), self.head(v, index, self.m, 0, self.m));
            let mut scores = vec![0.0; QUERY_ROWS.min(self.n) * self.m];
            for (chunk, out) in out.chunks_mut(QUERY_ROWS * self.d).enumerate().take_while(|_| !stop::asked()) {
                let rows = out.len() / self.d;
                let scores = &mut scores[..rows * self.m];
                self.probabilities(self.head(q, index, self.n, chunk * QUERY_ROWS, rows), k, scores, threads);
                matmul(out, Out::Replace, 1.0, Matrix::new(scores, rows, self.m), v, threads);
            }
        });
        self.join_heads(&out, self.n)
    }

    /// Gradients of q, k and v; `o` is the forward's result.
    fn backward(self, [q, k, v, o, dout]: [&[f32]; 5]) -> [Vec<f32>; 3] {
        let Sizes { n, m, d, .. } = self;
        let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
        let tasks = dq.chunks_mut(n * d).zip(dk.chunks_mut(m * d)).zip(dv.chunks_mut(m * d)).collect();
        self.for_each_head(tasks, |index, ((dq, dk), dv), threads| {
            let (k, v) = (self.head(k, index, m, 0, m), self.head(v, index, m, 0, m));
            let mut p = vec![0.0; QUERY_ROWS.min(n) * m];
            let mut dp = p.clone();
            for (chunk, dq) in dq.chunks_mut(QUERY_ROWS * d).enumerate().take_while(|_| !stop::asked()) {
                let (from, rows) = (chunk * QUERY_ROWS, dq.len() / d);
                let (p, dp) = (&mut p[..rows * m], &mut dp[..rows * m]);
                let (q, dout_rows) = (self.head(q, index, n, from, rows), self.head(dout, index, n, from, rows));
                self.probabilities(q, k, p, threads);
                matmul(dv, Out::Add, 1.0, Matrix::new(p, rows, m).t(), dout_rows, threads);
                matmul(dp, Out::Replace, 1.0, dout_rows, v.t(), threads);
                // ds = p (dp - sum(p dp)) / sqrt(d), and sum(p dp) of a row is its o . dout.
                let (item, head) = (index / self.heads, index % self.heads);
                vectorized(
                    #[inline(always)]
                    || {
                        for (row, (p, dp)) in p.chunks_exact_mut(m).zip(dp.chunks_exact(m)).enumerate() {
                            let start = (item * n + from + row) * self.c + head * d;
                            let delta = sum2(&o[start..start + d], &dout[start..start + d], |o, dout| o * dout);
                            p.iter_mut().zip(dp).for_each(|(p, dp)| *p *= self.scale() * (dp - delta));
                        }
                    },
                );
                let ds = Matrix::new(p, rows, m);
                matmul(dq, Out::Replace, 1.0, ds, k, threads);
                matmul(dk, Out::Add, 1.0, ds.t(), q, threads);
            }
        });
        [self.join_heads(&dq, n), self.join_heads(&dk, m), self.join_heads(&dv, m)]
    }
}

impl Attention {
    pub(super) fn sizes(&self, q: &[usize], k: &[usize]) -> Sizes {
        Sizes { b: q[0], n: q[1], m: k[1], c: q[2], d: q[2] / self.heads, heads: self.heads }
    }
}

impl Operation<3> for Attention {
    fn name(&self) -> &'static str {
        match self.kernels {
            AttentionKernels::Cublas => "attention",
            AttentionKernels::Own => "attention by own kernels",
        }
    }

    fn forward(&self, [q, k, v]: [Lent<'_, CpuStorage>; 3]) -> Result<(CpuStorage, Shape)> {
        let sizes = self.sizes(q.1.dims(), k.1.dims());
        let out = sizes.forward(values(q)?, values(k)?, values(v)?);
        Ok((CpuStorage::F32(out), Shape::from((sizes.b, sizes.n, sizes.c))))
    }

    fn backward(&self, [q, k, v]: [&Tensor; 3], o: &Tensor, dout: &Tensor) -> Gradients<3> {
        let sizes = self.sizes(q.dims(), k.dims());
        let [dq, dk, dv] = with_values([q, k, v, o, dout], |inputs| Ok(sizes.backward(inputs)))?;
        Ok([wanted(q, || Ok(dq))?, wanted(k, || Ok(dk))?, wanted(v, || Ok(dv))?])
    }
}
