//! Tuned models that outlive the program.

pub mod cache;
pub mod key;
