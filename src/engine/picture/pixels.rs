//! Between a layer and the tensors the model works on: size, value range, transparency, likeness.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::image::LayerImage;
use crate::text::text;
use candle_core::{Device, Tensor};
use image::imageops::{FilterType, resize};
use image::{ImageBuffer, Luma, Rgb};

type Rgb16 = ImageBuffer<Rgb<u16>, Vec<u16>>;
type Gray16 = ImageBuffer<Luma<u16>, Vec<u16>>;

const WHITE: u64 = u16::MAX as u64;

/// The narrowest picture the model works at is this much longer than wide; what is longer gets squeezed.
const LONGEST: f64 = 4.0;

/// Width and height at which the model works on a layer of `width` by `height`: about as many pixels as a square of
/// side `side`, the layer's aspect ratio, both multiples of `multiple`.
///
/// The area is kept rather than a side, because it is the number of pixels that a model is trained for.
pub fn working_size(width: u32, height: u32, side: usize, multiple: usize) -> (usize, usize) {
    let ratio = (f64::from(width) / f64::from(height)).clamp(1.0 / LONGEST, LONGEST).sqrt();
    let round = |length: f64| ((length / multiple as f64).round() as usize).max(1) * multiple;
    (round(side as f64 * ratio), round(side as f64 / ratio))
}

/// `layer` on white, resized to `size` (width, height): (1, 3, h, w) from -1 to 1.
///
/// White, because a model reads a cut-out figure as "on a white background"; the colour of pixels that nobody sees is
/// arbitrary in most editors.
pub fn to_tensor(layer: &LayerImage, size: (usize, usize), device: &Device) -> Result<Tensor> {
    let mut opaque = Vec::with_capacity(layer.rgba().len() / 4 * 3);
    for pixel in layer.rgba().chunks_exact(4) {
        let alpha = u64::from(pixel[3]);
        let over_white = |&value: &u16| (u64::from(value) * alpha / WHITE + WHITE - alpha) as u16;
        opaque.extend(pixel[..3].iter().map(over_white));
    }
    let picture = Rgb16::from_raw(layer.width(), layer.height(), opaque).expect("three values for each pixel");
    let (w, h) = size;
    let picture = resize(&picture, w as u32, h as u32, FilterType::Lanczos3);
    let value = |value: u16| f32::from(value) / (WHITE as f32 / 2.0) - 1.0;
    let planes: Vec<f32> =
        (0..3).flat_map(|channel| picture.pixels().map(move |pixel| value(pixel.0[channel]))).collect();
    Ok(Tensor::from_vec(planes, (1, 3, h, w), device)?)
}

/// A result at the size at which the model works, and how much of it counts where.
#[derive(Clone, Debug)]
pub struct Picture {
    rgb: Rgb16,
    /// Share of the edit at each pixel, 0 to 1, the rest is the layer's own; `None` is 1 everywhere.
    pub mask: Option<Mask>,
}

/// One value for each pixel.
pub type Mask = ImageBuffer<Luma<f32>, Vec<f32>>;

impl Picture {
    /// Of `pixels`, (1, 3, h, w) from -1 to 1.
    pub fn of(pixels: &Tensor) -> Result<Self> {
        let (_, _, h, w) = pixels.dims4()?;
        let planes = pixels.flatten_all()?.to_vec1::<f32>()?;
        if let Some(odd) = planes.iter().find(|value| !value.is_finite()) {
            return Err(Error::Engine(text!(
                "the result holds {odd}: the model went out of range; lower the learning rates or the guidance",
                odd = *odd
            )));
        }
        let value = |value: f32| ((value.clamp(-1.0, 1.0) + 1.0) * (WHITE as f32 / 2.0)).round() as u16;
        let plane = h * w;
        let interleaved =
            (0..plane).flat_map(|i| [planes[i], planes[plane + i], planes[2 * plane + i]].map(value)).collect();
        let rgb = Rgb16::from_raw(w as u32, h as u32, interleaved).expect("three values for each pixel");
        Ok(Self { rgb, mask: None })
    }

    /// This one, as much of it as `mask` says.
    pub fn counting(self, mask: Option<Mask>) -> Self {
        Self { mask, ..self }
    }

    /// Gray, for tests of those who carry it about.
    #[cfg(test)]
    pub fn gray(w: u32, h: u32) -> Self {
        Self { rgb: Rgb16::from_pixel(w, h, Rgb([u16::MAX / 2; 3])), mask: None }
    }

    /// The picture as it is, without transparency.
    pub fn opaque(&self) -> LayerImage {
        let rgba = self.rgb.pixels().flat_map(|pixel| [pixel.0[0], pixel.0[1], pixel.0[2], u16::MAX]).collect();
        let (w, h) = self.rgb.dimensions();
        LayerImage::new(w, h, rgba).expect("the model works on pictures of a layer's sizes")
    }

    /// The edited layer: size and alpha of `source`. With a mask also which pixels, row by row, are the layer's own;
    /// empty without.
    pub fn on(&self, source: &LayerImage) -> (LayerImage, Vec<bool>) {
        let (w, h) = (source.width(), source.height());
        let edited = resize(&self.rgb, w, h, FilterType::CatmullRom);
        let pixels = edited.pixels().zip(source.rgba().chunks_exact(4));
        let (mut rgba, mut untouched) = (Vec::with_capacity(source.rgba().len()), Vec::new());
        match &self.mask {
            None => rgba.extend(pixels.flat_map(|(new, own)| [new.0[0], new.0[1], new.0[2], own[3]])),
            Some(mask) => {
                for ((new, own), share) in pixels.zip(resize(mask, w, h, FilterType::Triangle).into_raw()) {
                    let mix = |new: u16, own: u16| {
                        (f32::from(own) + share * (f32::from(new) - f32::from(own))).round() as u16
                    };
                    let is_own = share <= 0.0;
                    rgba.extend((0..3).map(|at| if is_own { own[at] } else { mix(new.0[at], own[at]) }));
                    rgba.push(own[3]);
                    untouched.push(is_own);
                }
            }
        }
        (LayerImage::new(w, h, rgba).expect("the size of a layer"), untouched)
    }
}

/// `pixels` with the colors of `plain` over wide places, both (1, 3, h, w) from about -1 to 1: what enlarges paints
/// detail, and is not to change the picture's colors, as Stable Diffusion's x4 upscaler does.
pub fn with_colors_of(pixels: &Tensor, plain: &Tensor) -> Result<Tensor> {
    /// Pixels over which colors are compared.
    const WIDE: usize = 16;
    let (_, _, h, w) = pixels.dims4()?;
    let difference = (plain - pixels)?.flatten_all()?.to_vec1::<f32>()?;
    let coarse = |length: usize| length.div_ceil(WIDE) as u32;
    let planes = difference.chunks(h * w).map(|plane| {
        let plane = Mask::from_raw(w as u32, h as u32, plane.to_vec()).expect("one value for each pixel");
        let coarse = resize(&plane, coarse(w), coarse(h), FilterType::Triangle);
        resize(&coarse, w as u32, h as u32, FilterType::CatmullRom).into_raw()
    });
    let planes: Vec<f32> = planes.flatten().collect();
    Ok((pixels + Tensor::from_vec(planes, pixels.dims(), pixels.device())?)?)
}

/// How much `decoded` is like `pixels`, both (1, 3, h, w) from -1 to 1: peak signal-to-noise ratio in dB over what is
/// to be seen of `layer`, from which `pixels` comes. NaN where nothing is to be seen.
///
/// Transparent parts do not count, because white is easy for every model and would hide what the rest is like.
pub fn psnr(decoded: &Tensor, pixels: &Tensor, layer: &LayerImage) -> Result<f64> {
    let (_, _, h, w) = pixels.dims4()?;
    let alpha = layer.rgba().iter().skip(3).step_by(4).copied().collect();
    let alpha = Gray16::from_raw(layer.width(), layer.height(), alpha).expect("one value for each pixel");
    let alpha = resize(&alpha, w as u32, h as u32, FilterType::Triangle);
    let errors = (decoded.clamp(-1f32, 1f32)? - pixels)?.sqr()?.mean(1)?.flatten_all()?.to_vec1::<f32>()?; // h * w
    let (mut sum, mut weights) = (0.0, 0.0);
    for (error, alpha) in errors.into_iter().zip(alpha.pixels()) {
        sum += f64::from(error) * f64::from(alpha.0[0]);
        weights += f64::from(alpha.0[0]);
    }
    // The peak is the range from -1 to 1.
    Ok(10.0 * (2f64.powi(2) * weights / sum).log10())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_working_size_keeps_area_and_aspect() {
        for ((width, height), side, multiple, expected) in [
            ((512, 512), 512, 64, (512, 512)),
            ((6000, 4000), 512, 64, (640, 448)),
            ((640, 480), 64, 8, (72, 56)),
            ((1, 1), 64, 8, (64, 64)),
            ((1, 6000), 64, 8, (32, 128)),
            ((6000, 1), 64, 8, (128, 32)),
        ] {
            assert_eq!(working_size(width, height, side, multiple), expected, "{width}x{height}");
        }
    }

    #[test]
    fn a_layer_survives_the_way_there_and_back() {
        let rgba = (0..8 * 8 * 4).map(|i| if i % 4 == 3 { u16::MAX } else { (i * 257) as u16 }).collect();
        let layer = LayerImage::new(8, 8, rgba).expect("8x8");
        let tensor = to_tensor(&layer, (8, 8), &Device::Cpu).expect("a tensor");
        let (back, untouched) = Picture::of(&tensor).expect("a picture").on(&layer);
        assert!(untouched.is_empty());
        let worst = layer.rgba().iter().zip(back.rgba()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(1), "{worst:?}");
    }

    #[test]
    fn detail_stays_where_colors_are_those_of_the_plain_picture() {
        let of = |value: &dyn Fn(usize) -> f32| {
            let values: Vec<f32> = (0..3 * 128 * 64).map(value).collect();
            Tensor::from_vec(values, (1, 3, 64, 128), &Device::Cpu).expect("a tensor")
        };
        let stripes = |at: usize| if (at / 4).is_multiple_of(2) { 0.25 } else { -0.25 };
        let (painted, plain) = (of(&|at| stripes(at) + 0.2), of(&|_| -0.1));
        let fixed = with_colors_of(&painted, &plain).expect("a tensor").flatten_all().expect("numbers");
        for (at, value) in fixed.to_vec1::<f32>().expect("numbers").into_iter().enumerate() {
            assert!((value - (stripes(at) - 0.1)).abs() < 0.01, "{value} at {at}");
        }
    }

    #[test]
    fn likeness_is_that_of_the_pixels_that_are_seen() {
        let check = |alpha: [u16; 2], errors: [f32; 2], expected: f64| {
            let rgba = alpha.into_iter().flat_map(|alpha| [0, 0, 0, alpha]).collect();
            let layer = LayerImage::new(2, 1, rgba).expect("2x1");
            let pixels = to_tensor(&layer, (2, 1), &Device::Cpu).expect("a tensor");
            let errors = Tensor::new(&errors, &Device::Cpu).and_then(|errors| errors.broadcast_as((1, 3, 1, 2)));
            let decoded = (&pixels + errors.expect("a tensor")).expect("a tensor");
            let psnr = psnr(&decoded, &pixels, &layer).expect("a number");
            assert!((psnr - expected).abs() < 1e-3 || psnr == expected, "{psnr} instead of {expected}");
        };
        // 20 dB are a tenth of the range.
        check([u16::MAX; 2], [0.2, 0.2], 20.0);
        check([u16::MAX, 0], [0.2, -1.0], 20.0);
        check([u16::MAX, u16::MAX / 3], [0.2, -0.4], 20.0 - 10.0 * 1.75_f64.log10());
        // What a decoder overshoots is cut off in the picture.
        check([u16::MAX, 0], [0.0, 0.2], f64::INFINITY);
        check([u16::MAX, u16::MAX], [-0.5, -0.5], f64::INFINITY);
    }

    #[test]
    fn transparent_pixels_are_white_to_the_model_and_keep_their_alpha() {
        let layer = LayerImage::new(2, 1, vec![0, 0, 0, 0, 0, 0, 0, u16::MAX]).expect("2x1");
        let tensor = to_tensor(&layer, (2, 1), &Device::Cpu).expect("a tensor");
        assert_eq!(tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("values"), [1., -1., 1., -1., 1., -1.]);
        assert_eq!(Picture::of(&tensor).expect("a picture").on(&layer).0.rgba()[3], 0);
    }
}
