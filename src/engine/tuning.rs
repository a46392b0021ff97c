//! How stages A and B tune: what is trained, how its gradients are computed, and what comes of it.

pub mod backward;
pub mod draw;
pub mod losses;
pub mod mode;
pub mod prediction;
pub mod training;
pub mod tuned_model;
pub mod unfinished;
