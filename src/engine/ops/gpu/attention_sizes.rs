//! The sizes of an attention.
#![deny(unsafe_code)]

/// All sizes of an attention: queries (b, n, c), keys and values (b, m, c), c = heads * d.
#[derive(Clone, Copy)]
pub(super) struct Attention {
    pub b: usize,
    pub n: usize,
    pub m: usize,
    pub c: usize,
    pub heads: usize,
}

impl Attention {
    pub(super) fn d(&self) -> usize {
        self.c / self.heads
    }

    pub(super) fn scale(&self) -> f32 {
        1.0 / (self.d() as f32).sqrt()
    }
}
