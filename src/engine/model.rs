//! A base model: where its files are, what family it is of, its networks and its noise schedule. Knows no edit.

pub mod clip;
pub mod codec;
pub mod conditioning;
pub mod config;
pub mod family;
pub mod guidance;
pub mod layers;
pub mod lora;
pub mod schedule;
pub mod scope;
pub mod source;
pub mod text_encoder;
pub mod tokenizer;
pub mod trace;
pub mod unet;
pub mod vae;
pub mod weights;
