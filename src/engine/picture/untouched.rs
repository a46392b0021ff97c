//! Which pixels an edit does not touch: those stay the layer's own.
//!
//! An edit touches a pixel where it differs from two pictures: from the layer, and from the reconstruction, the picture
//! that the same tuned model gives at eta 0 with the same noise. The second one keeps out what the model cannot
//! reconstruct; that is no edit. At eta 0 an edit is its reconstruction and touches nothing.
#![forbid(unsafe_code)]

use crate::engine::picture::pixels::to_tensor;
use crate::error::Result;
use crate::image::{LayerImage, Mask};
use candle_core::Tensor;
use image::Luma;
use image::imageops::blur;

/// A difference up to this one is noise of sampling ...
const SAME: f32 = 0.04;
/// ... and from this one on an edit, as a share of the range of values. Measured on the scenes of `benches/edits`.
const OTHER: f32 = 0.12;

/// Differences are averaged over this share of the picture's shorter side: a lone pixel is no edit, an edge of one is.
const GRAIN: f32 = 1.0 / 64.0;
/// The touched part grows by twice this share of the shorter side and ends softly: what lies beside an edit is part of
/// it, like a shadow.
const FEATHER: f32 = 1.0 / 40.0;

/// How much the edit counts at each pixel of the size at which the model works, 0 to 1.
///
/// `edited` and `reconstruction`: (1, 3, h, w) from -1 to 1, by one model with one noise; `layer` is what was edited.
pub fn touched(edited: &Tensor, reconstruction: &Tensor, layer: &LayerImage) -> Result<Mask> {
    let (_, _, h, w) = edited.dims4()?;
    let original = to_tensor(layer, (w, h), edited.device())?;
    let grain = (w.min(h) as f32 * GRAIN).max(0.5);
    let difference = |other: &Tensor| -> Result<Mask> {
        // Values are from -1 to 1: half of a difference is its share of the range.
        let difference = ((edited.clamp(-1f32, 1f32)? - other.clamp(-1f32, 1f32)?)?.abs()? * 0.5)?;
        let values = difference.max(1)?.flatten_all()?.to_vec1::<f32>()?; // h * w
        Ok(blur(&Mask::from_raw(w as u32, h as u32, values).expect("one value for each pixel"), grain))
    };
    let (from_reconstruction, from_layer) = (difference(reconstruction)?, difference(&original)?);
    let values = from_reconstruction.as_raw().iter().zip(from_layer.as_raw());
    let certain = values.map(|(a, b)| smooth_step((a.min(*b) - SAME) / (OTHER - SAME))).collect();
    let certain = Mask::from_raw(w as u32, h as u32, certain).expect("one value for each pixel");
    let feather = w.min(h) as f32 * FEATHER;
    let grown = grow(&certain, (2.0 * feather).round() as u32);
    let soft = blur(&grown, feather);
    // The tail of the blur reaches far and shows nothing; without its end every pixel of a picture would be touched a
    // bit.
    let values = soft.as_raw().iter().map(|&share| smooth_step((share - 0.02) / 0.96)).collect();
    Ok(Mask::from_raw(w as u32, h as u32, values).expect("one value for each pixel"))
}

/// 0 up to 0, 1 from 1 on, without a kink in between.
fn smooth_step(x: f32) -> f32 {
    let x = x.clamp(0.0, 1.0);
    x * x * (3.0 - 2.0 * x)
}

/// The largest value within `radius` pixels in rows and columns.
fn grow(mask: &Mask, radius: u32) -> Mask {
    let (w, h) = mask.dimensions();
    let largest = |mask: &Mask, x0: u32, x1: u32, y0: u32, y1: u32| {
        (y0..=y1).flat_map(|y| (x0..=x1).map(move |x| (x, y))).map(|(x, y)| mask[(x, y)].0[0]).fold(0.0, f32::max)
    };
    let near = |at: u32, size: u32| (at.saturating_sub(radius), (at + radius).min(size - 1));
    let rows = Mask::from_fn(w, h, |x, y| {
        let (first, last) = near(x, w);
        Luma([largest(mask, first, last, y, y)])
    });
    Mask::from_fn(w, h, |x, y| {
        let (first, last) = near(y, h);
        Luma([largest(&rows, x, x, first, last)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::picture::pixels::Picture;
    use candle_core::Device;

    /// A gray picture of 64 x 64 pixels with a square from (16, 16) to (32, 32) of another value.
    fn picture(square: f32) -> Tensor {
        let inside = |at: usize| (16..32).contains(&(at % 64)) && (16..32).contains(&(at / 64 % 64));
        let values = (0..3 * 64 * 64).map(|at| if inside(at) { square } else { 0.1 }).collect::<Vec<_>>();
        Tensor::from_vec(values, (1, 3, 64, 64), &Device::Cpu).expect("a tensor")
    }

    fn layer(of: &Tensor) -> LayerImage {
        Picture::of(of).expect("a picture").opaque()
    }

    /// The layer with the edit, and which pixels are its own.
    fn keep(edited: &Tensor, reconstruction: &Tensor, layer: &LayerImage) -> (LayerImage, Vec<bool>) {
        let mask = touched(edited, reconstruction, layer).expect("a mask");
        let mut picture = Picture::of(edited).expect("a picture");
        picture.mask = Some(mask);
        picture.on(layer)
    }

    #[test]
    fn at_eta_0_every_pixel_is_the_layers_own() {
        let layer = layer(&picture(0.1));
        let noisy = (picture(-0.9) + 0.05).expect("a tensor");
        let (kept, untouched) = keep(&noisy, &noisy, &layer);
        assert!(kept == layer && untouched.iter().all(|&untouched| untouched));
    }

    #[test]
    fn the_edit_shows_where_it_differs_and_the_layer_elsewhere() {
        let layer = layer(&picture(0.1));
        // The model reconstructs everything a bit too bright, and badly in the lower half; neither is an edit.
        let bad = |tensor: Tensor| {
            let (top, bottom) = (tensor.narrow(2, 0, 40).expect("rows"), tensor.narrow(2, 40, 24).expect("rows"));
            Tensor::cat(&[top, (bottom - 0.5).expect("rows")], 2).expect("a tensor")
        };
        let edited = bad((picture(0.9) + 0.02).expect("a tensor"));
        let (kept, untouched) = keep(&edited, &bad((picture(0.1) + 0.02).expect("a tensor")), &layer);
        let value = |image: &LayerImage, x: usize, y: usize| image.rgba()[(y * 64 + x) * 4];
        let edited = Picture::of(&edited).expect("a picture").opaque();
        assert_eq!(value(&kept, 24, 24), value(&edited, 24, 24), "inside the square");
        for (x, y) in [(4, 4), (60, 24), (24, 60), (50, 50)] {
            assert!(untouched[y * 64 + x] && value(&kept, x, y) == value(&layer, x, y), "({x}, {y})");
        }
        assert!(untouched.iter().filter(|&&untouched| !untouched).count() < 30 * 30, "the square and its border");
    }
}
