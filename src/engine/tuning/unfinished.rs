//! Stages A and B as far as they have come: what the next edit of the same picture and text goes on from.
#![forbid(unsafe_code)]

use super::mode::Mode;
use super::training::{Saved, Training};
use crate::engine::model::conditioning::Conditioning;
use crate::error::{Error, Result};
use crate::text::Text;
use candle_core::Tensor;

/// Stages A and B as far as they have come.
pub struct Unfinished {
    /// How they tune.
    pub mode: Mode,
    /// The picture x, as latents.
    pub x: Tensor,
    /// How well the base model's autoencoder gives the picture back, in dB, where that was asked.
    pub psnr: Option<f64>,
    /// e_opt and the losses of stage A, once it is done.
    pub embedding: Option<(Conditioning, Vec<f32>)>,
    /// The stage that was stopped here.
    pub training: Option<Training>,
    /// The stage that was stopped in another process.
    pub saved: Option<Saved>,
}

impl Unfinished {
    /// Steps of stages A and B that are done.
    pub fn steps(&self) -> [u32; 2] {
        let saved = self.saved.as_ref().map(|saved| &saved.losses);
        let losses = self.training.as_ref().map(|training| &training.losses).or(saved);
        let running = losses.map_or(0, Vec::len) as u32;
        match &self.embedding {
            Some((_, losses)) => [losses.len() as u32, running],
            None => [running, 0],
        }
    }

    /// Goes over to a mode that takes less memory, if there is one in `allowed`, and keeps what can be kept; tells the
    /// user.
    pub fn lighten(&mut self, allowed: &[Mode], reason: Text) -> Result<Text> {
        let before = self.mode;
        self.mode = before.lighter(allowed).ok_or_else(|| Error::Memory(reason.clone()))?;
        if self.embedding.is_some() && self.mode.trained() != before.trained() {
            // Stage B, whose weights or moments become others.
            (self.training, self.saved) = (None, None);
        }
        Ok(self.mode.note_after(before, reason))
    }
}
