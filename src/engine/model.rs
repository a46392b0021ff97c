//! A base model: where its files are, what family it is of, its networks and its noise schedule. Knows no edit.

pub mod layers;
pub mod lora;
pub mod schedule;
pub(in crate::engine) mod tensor_file;
pub mod text;
pub mod trace;
pub mod unet;
pub mod vae;
pub mod weights;
