//! What an edit costs: memory before it begins, time while it runs, and what earlier ones have taken.

pub(in crate::engine) mod clock;
pub mod cost;
pub mod memory;
pub mod plan;
