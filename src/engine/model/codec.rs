//! Between pixels and what the U-Net works on: latents of a variational autoencoder (VAE), or the pixels themselves,
//! one or a square of them at each place.
#![forbid(unsafe_code)]

use crate::engine::model::family::Family;
use crate::engine::model::source::{Part, Source};
use crate::engine::model::trace::{Size, Trace};
use crate::engine::model::vae::{Decoder, Encoder, Gaussian, VaeConfig};
use crate::engine::model::weights::Bits;
use crate::error::Result;
use crate::text::text;
use candle_core::{Device, Tensor};
use std::cell::RefCell;

/// Pixels to latents and back. The U-Net's latents are those of the VAE minus `shift_factor`, times `scaling_factor`,
/// so that they have about unit variance.
pub struct Codec {
    /// `None` for a U-Net that works on pixels, as Imagen's do.
    vae: Option<Vae>,
    scaling_factor: f64,
    shift_factor: f64,
    /// Channels of the latents; 4 for SD, 3 for each pixel of a place.
    pub channels: usize,
    /// Side of a latent's square in pixels; 8 for SD.
    pub downsampling: usize,
}

struct Vae {
    source: Source,
    device: Device,
    config: VaeConfig,
    /// While a picture is to be encoded.
    encoder: RefCell<Option<Encoder>>,
    decoder: Decoder,
}

impl Codec {
    /// Reads the decoder of `source`. The encoder is read when it is needed, but its shapes are checked now.
    pub fn read(source: &Source, family: &Family, device: &Device) -> Result<Self> {
        let mut codec = Self::shapes(source, family, device)?;
        if let Some(vae) = &mut codec.vae {
            let weights = source.wanted_tensors(Part::Vae, Decoder::has, Bits::Stored, device)?;
            vae.decoder = Decoder::new(&vae.config, &weights)?;
            vae.encoder = RefCell::default();
        }
        Ok(codec)
    }

    /// The codec of `source` without values.
    pub fn shapes(source: &Source, family: &Family, device: &Device) -> Result<Self> {
        if let Some(side) = source.patch()? {
            let channels = 3 * side * side;
            return Ok(Self { vae: None, scaling_factor: 1.0, shift_factor: 0.0, channels, downsampling: side });
        }
        let config = source.config(Part::Vae);
        config.require("latents_mean", &[])?;
        config.require("latents_std", &[])?;
        let vae = VaeConfig::read(config)?;
        let scaling_factor = config.f64("scaling_factor", family.scaling_factor)?;
        if source.has_chosen_vae() && scaling_factor != family.scaling_factor {
            return Err(config.error(text!(
                "this VAE is of another family: it scales latents by {own}, those of {family} by {factor}; choose one \
                 of the model's family",
                own = scaling_factor,
                family = family.name,
                factor = family.scaling_factor
            )));
        }
        let weights = source.shapes(Part::Vae, device)?;
        Ok(Self {
            scaling_factor,
            shift_factor: config.f64("shift_factor", 0.0)?,
            channels: vae.latent_channels,
            downsampling: vae.downsampling,
            vae: Some(Vae {
                encoder: RefCell::new(Some(Encoder::new(&vae, &weights)?)),
                decoder: Decoder::new(&vae, &weights)?,
                source: source.clone(),
                device: device.clone(),
                config: vae,
            }),
        })
    }

    /// Gives the encoder's memory back; it is read again for the next picture.
    pub fn forget_encoder(&self) {
        if let Some(vae) = &self.vae {
            vae.encoder.take();
        }
    }

    /// The distribution of the VAE's latents of `pixels`: (b, 3, h, w) from -1 to 1, sides multiples of `downsampling`.
    pub fn encode(&self, pixels: &Tensor) -> Result<Gaussian> {
        let Some(vae) = &self.vae else {
            // Themselves, for certain; in PyTorch's order of `pixel_unshuffle`.
            let ((b, c, h, w), n) = (pixels.dims4()?, self.downsampling);
            let squares = pixels.reshape(&[b, c, h / n, n, w / n, n][..])?.permute([0, 1, 3, 5, 2, 4])?;
            let mean = squares.reshape((b, self.channels, h / n, w / n))?;
            let logvar = mean.zeros_like()?.affine(1.0, f64::NEG_INFINITY)?;
            return Ok(Gaussian { mean, logvar });
        };
        let encoder = match vae.encoder.take() {
            Some(encoder) => encoder,
            None => {
                let weights = vae.source.wanted_tensors(Part::Vae, Encoder::has, Bits::Stored, &vae.device)?;
                Encoder::new(&vae.config, &weights)?
            }
        };
        let latents = encoder.encode(pixels);
        vae.encoder.replace(Some(encoder));
        latents
    }

    /// One sample x of `latents`, as the U-Net takes them, (b, channels, h, w); `noise`: standard normal, of that
    /// shape.
    pub fn sample(&self, latents: &Gaussian, noise: &Tensor) -> Result<Tensor> {
        let std = (&latents.logvar * 0.5)?.exp()?;
        let sample = (&latents.mean + (std * noise)?)?;
        Ok(((sample - self.shift_factor)? * self.scaling_factor)?)
    }

    /// Latents as the U-Net makes them, (b, channels, h, w), to pixels from about -1 to 1, (b, 3, h, w).
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        match &self.vae {
            Some(vae) => vae.decoder.decode(&((latents / self.scaling_factor)? + self.shift_factor)?),
            None => {
                let ((b, _, h, w), n) = (latents.dims4()?, self.downsampling);
                let pixels = latents.reshape(&[b, 3, n, n, h, w][..])?.permute([0, 1, 4, 2, 5, 3])?;
                Ok(pixels.reshape((b, 3, n * h, n * w))?)
            }
        }
    }

    /// Counts what [`Codec::encode`] needs for pixels of that shape, where the encoder is there.
    pub fn trace_encode(&self, pixels: Size, trace: &mut Trace) {
        if let Some(vae) = &self.vae
            && let Some(encoder) = &*vae.encoder.borrow()
        {
            encoder.trace(pixels, trace);
        }
    }

    /// Counts what [`Codec::decode`] needs for latents of that shape.
    pub fn trace_decode(&self, latents: Size, trace: &mut Trace) {
        if let Some(vae) = &self.vae {
            vae.decoder.trace(latents, trace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_its_pixels_in_the_order_of_pixel_unshuffle() -> Result<()> {
        let codec = Codec { vae: None, scaling_factor: 1.0, shift_factor: 0.0, channels: 12, downsampling: 2 };
        let pixels = Tensor::arange(0f32, 48.0, &Device::Cpu)?.reshape((1, 3, 4, 4))?;
        let places = codec.encode(&pixels)?.mean;
        assert_eq!(places.dims(), [1, 12, 2, 2]);
        // torch.nn.functional.pixel_unshuffle(torch.arange(48.).reshape(1, 3, 4, 4), 2)[0, :, 0, 1]
        let of_one = places.narrow(2, 0, 1)?.narrow(3, 1, 1)?.flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(of_one, [2.0, 3.0, 6.0, 7.0, 18.0, 19.0, 22.0, 23.0, 34.0, 35.0, 38.0, 39.0]);
        let back = codec.decode(&places)?;
        assert_eq!(back.flatten_all()?.to_vec1::<f32>()?, pixels.flatten_all()?.to_vec1::<f32>()?);
        Ok(())
    }
}
