//! Differentiable operations with their own backward, where candle's is missing or slow.
//!
//! Why ours: candle builds `layer_norm` and `softmax_last_dim` without a backward, so that gradients silently stop;
//! its CPU convolution computes its gradients with a scalar loop; and every binary operation computes the gradients of
//! both arguments, wanted or not. Here a gradient is computed only for arguments that a variable stands behind.
//!
//! All of them take contiguous `f32` tensors; on a GPU those of the network may be bf16 or f16. On the CPU they give
//! the same bytes however many threads run: sums over a batch are taken in a fixed order, and threads split rows, never
//! sums. Each file here is an operation on the CPU, `gpu` has the other half of each, and `operation` what the two have
//! in common.
#![deny(unsafe_code)]

pub mod adam;
mod attention;
mod conv;
mod elementwise;
#[allow(unsafe_code, reason = "one call into the gemm crate, behind bounds checks")]
mod gemm;
#[cfg(any(test, feature = "cuda"))]
pub(super) mod gpu;
mod gradient;
mod layout;
mod linear;
mod moments;
mod norm;
mod operation;
mod seed_gradient;
mod values;
mod winograd;

pub use attention::attention;
pub use conv::{Padding, conv2d};
pub use elementwise::{add_per_channel, geglu, upsample_nearest_2x};
pub use gradient::Parameters;
pub use layout::{Sign, join_channels, mean_square_error, transpose, weighted_sum};
pub use linear::linear;
pub use moments::MomentBits;
pub use norm::{Activation, group_norm, layer_norm};
pub use seed_gradient::seed_gradient;

#[cfg(test)]
mod tests;
