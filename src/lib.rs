//! Imagic Edit: the architecture, in the order of one edit.
//!
//! Draft of the skeleton; see the modules.
#![deny(unsafe_op_in_unsafe_fn)]

pub mod engine;
pub mod error;
pub mod host;
pub mod image;
pub mod job;
pub mod models;
pub mod params;

/// Training frees and allocates the same large buffers in every step; see `Cargo.toml`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
