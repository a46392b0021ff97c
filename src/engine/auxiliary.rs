//! The paper's other half, of which only the place is here: its auxiliary models for super-resolution.
//!
//! In the paper (section 4; Imagen, 64 to 256 to 1024 pixels) stage B also tunes the model that enlarges the picture:
//! with the same loss on the same picture, in parallel, conditioned on e_tgt and never on e_opt. Stage C then enlarges
//! the edit, conditioned on e_tgt again. The largest model is used as it was trained.
//!
//! This engine has no such model yet: an edit leaves it at the size at which the base model works, and [`Picture::on`]
//! enlarges it by interpolation. What a super-resolution model needs is shared with the base model: its U-Net sees the
//! small picture beside the latents ([`UNetConfig::in_channels`]) and how noisy that is
//! ([`UNetConfig::class_embedding`]); [`Codec`], [`Conditioning`] and [`Tuning`] are the same. Stage B belongs in
//! [`TunedModels::find_or_make`], stage C behind [`Sampler::draw`].
//!
//! [`Picture::on`]: super::picture::pixels::Picture::on
//! [`UNetConfig::in_channels`]: super::model::unet::UNetConfig::in_channels
//! [`UNetConfig::class_embedding`]: super::model::unet::UNetConfig::class_embedding
//! [`Codec`]: super::model::codec::Codec
//! [`Conditioning`]: super::model::conditioning::Conditioning
//! [`Tuning`]: super::tuning::training::Tuning
//! [`TunedModels::find_or_make`]: super::tuned::TunedModels::find_or_make
//! [`Sampler::draw`]: super::sampling::Sampler::draw
