//! A base model, loaded: its parts, whatever family it is of, and what they make of a text and a picture. Knows no
//! stage.
#![forbid(unsafe_code)]

use super::budget::memory::Shapes;
use super::model::clip::TextEncoder;
use super::model::codec::Codec;
use super::model::conditioning::Conditioning;
use super::model::family::Family;
use super::model::schedule::Schedule;
use super::model::source::{Part, Source};
use super::model::weights::Weights;
use super::picture::pixels;
use super::random::{Purpose, Stream};
use super::request::EditRequest;
use crate::error::{Error, Result};
use crate::text::{Text, text};
use candle_core::{Device, Tensor};
use std::cell::RefCell;

/// A base model; its U-Net is read when it is needed.
pub struct BaseModel {
    /// Its files.
    pub source: Source,
    /// Differs for models with different weights.
    pub fingerprint: String,
    /// Tokenizer and text encoder.
    pub text: TextEncoder,
    /// Pixels to latents and back.
    pub codec: Codec,
    /// Noise schedule.
    pub schedule: Schedule,
    /// Sizes of all parts, and the shape of the U-Net.
    pub shapes: Shapes,
    /// The U-Net while it is in memory. Fine-tuning all weights uses it up: a large one and its tuned copy together
    /// would take a quarter more memory at the peak of an edit than the copy alone.
    network: RefCell<Option<Weights>>,
}

impl BaseModel {
    /// Reads the model in `source` and checks that its parts fit each other.
    pub fn read(source: Source, fingerprint: String, device: &Device) -> Result<Self> {
        let family = Family::of(&source)?;
        let shapes = Shapes::new(&source, family)?;
        let codec = Codec::read(&source, family, device)?;
        let (latents, unet) = (codec.channels, shapes.config.in_channels);
        if latents != unet {
            let reason = text!(
                "the VAE has {vae} latent channels, the U-Net {unet}; they belong to different models",
                vae = latents,
                unet
            );
            return Err(Error::model(source.path(), reason));
        }
        let text = TextEncoder::read(&source, family, device)?;
        Ok(Self {
            text,
            codec,
            schedule: Schedule::read(&source)?,
            shapes,
            fingerprint,
            source,
            network: RefCell::default(),
        })
    }

    /// The embedding of the target text, and a note where the text is too long for the model.
    pub fn embed(&self, prompt: &str) -> Result<(Conditioning, Option<Text>)> {
        let tokens = self.text.tokenizer.tokenize(prompt)?;
        let limit = self.text.tokenizer.max_tokens - 2;
        let note = (!tokens.cut.is_empty()).then(|| {
            text!("the target text is longer than {limit} tokens; not used: \"{cut}\"", limit, cut = &tokens.cut)
        });
        Ok((self.text.embed(&tokens)?, note))
    }

    /// The picture x of a request at `size` (width, height), one sample of its latents, (1, c, h, w); with it how well
    /// the codec gives the picture back, in dB, where the request asks for that.
    pub fn encode(
        &self,
        request: &EditRequest,
        size: (usize, usize),
        device: &Device,
    ) -> Result<(Tensor, Option<f64>)> {
        let pixels = pixels::to_tensor(&request.layer, size, device)?; // (1, 3, h, w)
        let latents = self.codec.encode(&pixels)?;
        let mut psnr = None;
        if request.familiar_psnr.is_some() {
            // Without noise the sample is the mean.
            let mean = self.codec.sample(&latents, &latents.mean.zeros_like()?)?;
            psnr = Some(pixels::psnr(&self.codec.decode(&mean)?, &pixels, &request.layer)?);
        }
        let noise = Stream::new(request.params.tuning_seed, Purpose::VaeSample, 0);
        let noise = noise.normals(latents.mean.dims(), device)?;
        Ok((self.codec.sample(&latents, &noise)?, psnr))
    }

    /// Shape of the latents of a picture of `size` (width, height), (1, c, h, w).
    pub fn latents(&self, (width, height): (usize, usize)) -> [usize; 4] {
        let side = self.codec.downsampling;
        [1, self.codec.channels, height / side, width / side]
    }

    /// Whether the U-Net is in memory.
    pub fn has_network(&self) -> bool {
        self.network.borrow().is_some()
    }

    /// The U-Net's weights, read if they are not there; they stay.
    pub fn network(&self, device: &Device) -> Result<Weights> {
        let weights = self.take_network(device)?;
        self.network.replace(Some(weights.clone()));
        Ok(weights)
    }

    /// The U-Net's weights for whoever changes them; they are read again for the next.
    pub fn take_network(&self, device: &Device) -> Result<Weights> {
        self.network.take().map_or_else(|| self.source.tensors(Part::UNet, device), Ok)
    }
}
