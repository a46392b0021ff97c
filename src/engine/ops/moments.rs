//! How Adam keeps its moments, and what they take.
#![forbid(unsafe_code)]

/// Values of a variable whose moments are kept in 8 bits where others' are, at least; the rest, biases and norms, take little memory. As
/// bitsandbytes does it (`min_8bit_size`).
const LEAST_CODED: usize = 4096;

/// Values that are coded together, one byte for each moment of a value and 4 for the largest of each moment; as in `ops/gpu/adam8.cu`.
pub const CODED: usize = 256;

/// How Adam keeps its moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MomentBits {
    /// f32.
    ThirtyTwo,
    /// On a GPU in 8 bits, 256 values together, those of large variables: other steps than with f32, a quarter of the memory. The
    /// processor keeps f32.
    Eight,
}

impl MomentBits {
    /// Whether a variable of `values` values has moments of 8 bits.
    pub fn codes(self, values: usize) -> bool {
        self == Self::Eight && values >= LEAST_CODED
    }

    /// Numbers of 4 bytes that both moments of a variable of `values` values take where it has them so.
    pub fn numbers(self, values: usize) -> usize {
        if self.codes(values) { values.div_ceil(CODED) * (2 * CODED / 4 + 2) } else { 2 * values }
    }
}
