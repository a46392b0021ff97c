//! A base model, loaded: its parts, whatever family it is of, and what they make of a text and a picture. Knows no
//! stage.
#![forbid(unsafe_code)]

use super::budget::memory::Shapes;
use super::model::clip::ClipConfig;
use super::model::codec::Codec;
use super::model::conditioning::Conditioning;
use super::model::family::{Family, FamilyPrediction};
use super::model::schedule::{Prediction, Schedule};
use super::model::source::{Part, Source};
use super::model::text_encoder::TextEncoder;
use super::model::tokenizer::Tokenizer;
use super::model::unet::UNet;
use super::model::vae::Gaussian;
use super::model::weights::{Bits, Weights};
use super::picture::pixels;
use super::random::{Purpose, Stream};
use super::request::EditRequest;
use crate::error::{Error, Result};
use crate::params::PredictionType;
use crate::text::{Text, clipped, text};
use candle_core::{DType, Device, Tensor};
use std::cell::RefCell;

/// A base model; its U-Net is read when it is needed.
pub struct BaseModel {
    /// Its files.
    pub source: Source,
    /// Differs for models with different weights.
    pub fingerprint: String,
    /// Tokenizers and text encoders.
    pub text: TextEncoder,
    /// Pixels to latents and back.
    pub codec: Codec,
    /// Noise schedule; what the network predicts is as [`BaseModel::predict_as`] was told.
    pub schedule: Schedule,
    /// What the network predicts if nobody says otherwise; `None` until it was asked.
    prediction: Option<Prediction>,
    /// Sizes of all parts, and the shape of the U-Net.
    pub shapes: Shapes,
    /// The U-Net while it is in memory. Fine-tuning all weights uses it up: a large one and its tuned copy together
    /// would take a quarter more memory at the peak of an edit than the copy alone.
    network: RefCell<Option<Weights>>,
    /// What an inpainting model sees beside x_t, for pictures of that size (width, height).
    beside: RefCell<Option<((usize, usize), Tensor)>>,
}

impl BaseModel {
    /// Reads the model in `source` and checks that its parts fit each other.
    pub fn read(source: Source, fingerprint: String, device: &Device) -> Result<Self> {
        let family = Family::of(&source)?;
        Self::of_family(family, source, fingerprint, device)
    }

    /// The same of a model that is known to be of `family`.
    pub fn of_family(family: &Family, source: Source, fingerprint: String, device: &Device) -> Result<Self> {
        let shapes = Shapes::new(&source, family, device)?;
        let codec = Codec::read(&source, family, device)?;
        let (latents, unet) = (codec.channels, shapes.config.out_channels);
        if latents != unet {
            let reason = text!(
                "the VAE has {vae} latent channels, the U-Net {unet}; they belong to different models",
                vae = latents,
                unet
            );
            return Err(Error::model(source.path(), reason));
        }
        let text = TextEncoder::read(&source, family, device)?;
        let schedule = Schedule::read(source.scheduler())?;
        let is_open =
            family.prediction == FamilyPrediction::NoiseOrV && source.scheduler().value("prediction_type").is_null();
        Ok(Self {
            text,
            codec,
            prediction: (!is_open).then_some(schedule.prediction),
            schedule,
            shapes,
            fingerprint,
            source,
            network: RefCell::default(),
            beside: RefCell::default(),
        })
    }

    /// Has the network predict what `asked` says, or, where that is left open, what the model's files say; where these
    /// do not, the network itself is asked.
    pub fn predict_as(&mut self, asked: PredictionType, device: &Device) -> Result<()> {
        self.schedule.prediction = match (asked, self.prediction) {
            (PredictionType::Epsilon, _) => Prediction::Epsilon,
            (PredictionType::V, _) => Prediction::V,
            (PredictionType::Automatic, Some(known)) => known,
            (PredictionType::Automatic, None) => *self.prediction.insert(self.try_prediction(device)?),
        };
        if self.source.config(Part::UNet).value("sample_size").is_null() {
            let predicts_v = self.schedule.prediction == Prediction::V;
            self.shapes.config.sample_size = Family::of(&self.source)?.sample_size_of(predicts_v);
        }
        if self.schedule.prediction == Prediction::Epsilon && self.schedule.ends_in_noise() {
            return Err(self.source.scheduler().error(text!(
                "rescale_betas_zero_snr leaves only noise at the last timestep, of which a model that predicts noise \
                 cannot tell a picture; set the prediction type to v_prediction"
            )));
        }
        Ok(())
    }

    /// Whether the network predicts noise or v, found out as in stable-diffusion.cpp and AUTOMATIC1111's web UI: at the
    /// last timestep the input is almost all noise, which a network that predicts noise gives back; v is about minus
    /// the picture there.
    fn try_prediction(&self, device: &Device) -> Result<Prediction> {
        let config = &self.shapes.config;
        let unet = UNet::new(config, &self.network(device)?)?;
        let half = |shape: &[usize]| Tensor::full(0.5f32, shape, device);
        let side = config.latent_multiple();
        let x_t = half(&[1, config.out_channels, side, side])?;
        let tokens = half(&[1, 2, config.cross_attention_dim])?;
        let beside = config.in_channels.checked_sub(config.out_channels).filter(|&channels| channels > 0);
        let beside = beside.map(|channels| half(&[1, channels, side, side])).transpose()?;
        let e = Conditioning { tokens, added: None, beside, class: None };
        let last = unet.sinusoids(&[self.schedule.training_timesteps() - 1]);
        let output = unet.forward(&x_t, &Tensor::from_vec(last, (1, ()), device)?, &e)?;
        let difference = (output - x_t)?.mean_all()?.to_scalar::<f32>()?;
        Ok(if difference < -1.0 { Prediction::V } else { Prediction::Epsilon })
    }

    /// The tokens of a text as the first text encoder reads it, begin, end and padding included.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.text.encoders[0].tokenizer.tokenize(text)?.ids)
    }

    /// The embedding of the target text for pictures of `size` (width, height), and a note where the text is too long
    /// for the model.
    pub fn embed(&self, prompt: &str, size: (usize, usize)) -> Result<(Conditioning, Option<Text>)> {
        let (mut e, cut) = self.text.embed(prompt, size)?;
        e.beside = self.beside(size)?;
        let limit = self.text.encoders[0].tokenizer.max_tokens - 2;
        let note = (!cut.is_empty()).then(|| {
            text!("the target text is longer than {limit} tokens; not used: \"{cut}\"", limit, cut = clipped(&cut))
        });
        Ok((e, note))
    }

    /// What guidance leads away from, see [`TextEncoder::unconditional`].
    pub fn unconditional(&self, size: (usize, usize)) -> Result<Conditioning> {
        Ok(Conditioning { beside: self.beside(size)?, ..self.text.unconditional(size)? })
    }

    /// For an inpainting model: that it may paint everywhere, and latents of gray, which is what is left of the
    /// picture. Unlike in diffusers their mean, because a sample would be one more random number of every edit.
    fn beside(&self, (w, h): (usize, usize)) -> Result<Option<Tensor>> {
        if self.shapes.config.in_channels != 2 * self.codec.channels + 1 {
            return Ok(None);
        }
        if let Some((size, beside)) = &*self.beside.borrow()
            && *size == (w, h)
        {
            return Ok(Some(beside.clone()));
        }
        let device = &self.text.device;
        let gray = self.codec.encode(&Tensor::zeros((1, 3, h, w), DType::F32, device)?)?;
        let gray = self.codec.sample(&gray, &gray.mean.zeros_like()?)?;
        let everywhere = gray.narrow(1, 0, 1)?.ones_like()?;
        let beside = Tensor::cat(&[everywhere, gray], 1)?;
        self.beside.replace(Some(((w, h), beside.clone())));
        Ok(Some(beside))
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
        Ok((self.sample(&latents, request, device)?, psnr))
    }

    /// The same picture x alone.
    pub fn x(&self, request: &EditRequest, size: (usize, usize), device: &Device) -> Result<Tensor> {
        let pixels = pixels::to_tensor(&request.layer, size, device)?;
        self.sample(&self.codec.encode(&pixels)?, request, device)
    }

    fn sample(&self, latents: &Gaussian, request: &EditRequest, device: &Device) -> Result<Tensor> {
        let noise = Stream::new(request.params.tuning_seed, Purpose::VaeSample, 0);
        self.codec.sample(latents, &noise.normals(latents.mean.dims(), device)?)
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

    /// The U-Net's weights, read if they are not there; they stay. In 16 bits where the file has them so and the device
    /// takes them.
    pub fn network(&self, device: &Device) -> Result<Weights> {
        let weights = self.take_network(device)?;
        self.network.replace(Some(weights.clone()));
        Ok(weights)
    }

    /// One tensor of the U-Net, read from the disk.
    pub fn network_tensor(&self, name: &str, device: &Device) -> Result<Tensor> {
        let shape = self.shapes.network().tensors[name].dims();
        self.source.wanted_tensors(Part::UNet, |other| other == name, Bits::Stored, device)?.get(name, shape)
    }

    /// The U-Net's weights for whoever changes them; they are read again for the next.
    pub fn take_network(&self, device: &Device) -> Result<Weights> {
        let shapes = self.shapes.network();
        let is_own = |name: &str| shapes.tensors.contains_key(name);
        let read = || self.source.wanted_tensors(Part::UNet, is_own, Bits::Stored, device);
        self.network.take().map_or_else(read, Ok)
    }
}

/// What makes the tokens of [`BaseModel::tokens`], of the model in `source`, which is not loaded.
pub fn tokenizer(source: &Source) -> Result<Tokenizer> {
    tokenizer_of(Family::of(source)?, source)
}

/// The same of a model that is known to be of `family`.
pub fn tokenizer_of(family: &Family, source: &Source) -> Result<Tokenizer> {
    let config = ClipConfig::read(source.config(Part::TextEncoder), family.tokens)?;
    let files = source.tokenizer(Part::TextEncoder);
    Tokenizer::new(files, family.pad_token, config.positions, config.vocabulary)
}
