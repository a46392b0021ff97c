//! What outlives the program: tuned models, and how far stages A and B have come where they were stopped.

pub mod cache;
pub mod difference;
pub mod digests;
pub mod entry;
pub mod folder;
pub mod key;
pub mod resume;
