//! How Adam keeps its moments, and what they take.
#![forbid(unsafe_code)]

/// Fewest elements of a variable with moments of 8 bits. Smaller ones, biases and norms, take little memory. As in
/// bitsandbytes (`min_8bit_size`).
const LEAST_CODED: usize = 4096;

/// Elements that share a scale: one byte for each moment of an element, and 4 for the largest of each moment; as in
/// `ops/gpu/adam8.cu`.
pub const CODED: usize = 256;

/// How Adam keeps its moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MomentBits {
    /// f32.
    ThirtyTwo,
    /// On a GPU 8 bits for large variables, 256 elements with one scale: a quarter of the memory of f32, and slightly
    /// other steps. The processor keeps f32.
    Eight,
}

impl MomentBits {
    /// Whether a variable of `values` elements has moments of 8 bits.
    pub fn codes(self, values: usize) -> bool {
        self == Self::Eight && values >= LEAST_CODED
    }

    /// How many numbers each of the moments of a variable of `values` elements has: two moments, or both in one buffer.
    pub fn moments(self, values: usize) -> Vec<usize> {
        if self.codes(values) { vec![self.numbers(values)] } else { vec![values; 2] }
    }

    /// What both moments of a variable of `values` elements take, in units of 4 bytes.
    pub fn numbers(self, values: usize) -> usize {
        if self.codes(values) { values.div_ceil(CODED) * (2 * CODED / 4 + 2) } else { 2 * values }
    }
}
