//! The GPU's half of each operation: which kernels and matrix products make a result and its gradients, and how
//! candle's tensors get there (`half` in each file, with the feature `cuda` only).
//!
//! Kernels run on a [`terms::Gpu`]: `cuda.rs`, or in tests the processor with the same kernels compiled as C++, so that
//! everything here is compared with the CPU's operations on machines without a GPU.
//!
//! Tensors of the network may be stored in 16 bits, see [`terms::Kind`]. Weights that are trained stay in f32, as do
//! gradients of weights, sums and statistics: a product whose other factor has 16 bits gets a half-precision copy of
//! its weight, which is made just before. Keeping it until the backward pass would save six bytes of traffic for each
//! weight, of which Adam takes 28, and cost two bytes of memory, of which stage B has least. Frozen weights may have 16
//! bits themselves, see `with_half_precision`.
//!
//! Unlike the CPU's convolution none is Winograd's: with tensor cores the multiplications that it saves cost less than
//! its transforms.
#![deny(unsafe_code)]

/// Runs a kernel, the one for tensors of a kind if one is given, with one thread for each of `count` elements; that is
/// its last argument.
macro_rules! each {
    ($gpu:ident, $kernel:tt $(of $stored:expr)?, $count:expr, $($kind:ident $argument:expr),+) => {{
        let count = $count;
        let arguments = &mut [$(Argument::$kind($argument)),+, Argument::Count(count)];
        if count > 0 { $gpu.launch(kernel!($kernel $(of $stored)?), count.div_ceil(THREADS), arguments)? }
    }};
}

/// Runs a kernel on `blocks` blocks.
macro_rules! blocks {
    ($gpu:ident, $kernel:tt $(of $stored:expr)?, $blocks:expr, $($kind:ident $argument:expr),+) => {{
        let blocks = $blocks;
        if blocks > 0 { $gpu.launch(kernel!($kernel $(of $stored)?), blocks, &mut [$(Argument::$kind($argument)),+])? }
    }};
}

/// A kernel's name, which is a literal or in parentheses.
macro_rules! kernel {
    ($kernel:tt of $stored:expr) => {
        &$stored.kernel($kernel)
    };
    ($kernel:tt) => {
        $kernel
    };
}

mod adam;
mod attention;
mod conv;
#[cfg(feature = "cuda")]
#[allow(unsafe_code, reason = "calls of kernels and of cuBLAS, whose arguments the compiler cannot check")]
mod cuda;
mod elementwise;
mod fused;
#[cfg(feature = "cuda")]
mod gradient;
mod layout;
mod linear;
mod norm;
#[cfg(feature = "cuda")]
mod seed_gradient;
mod sums;
mod terms;
#[cfg(test)]
mod tests;
