//! Small pictures for dialogs: a layer that fits into a square, and how the losses go; knows no toolkit.
#![forbid(unsafe_code)]

use crate::engine::request::Stage;
use crate::host::policy::AVERAGED;
use crate::image::LayerImage;
use image::imageops::{FilterType, resize, thumbnail};
use image::{Rgba, RgbaImage};

/// Side of a square of the board that shows through transparent pixels, and its two grays.
const BOARD: (u32, [u8; 2]) = (8, [0x99, 0x66]);

/// Colors of the lines of stages A and B, to be seen on light and on dark ground.
const LINES: [Rgba<u8>; 2] = [Rgba([0x35, 0x84, 0xe4, 0xff]), Rgba([0xe6, 0x61, 0x00, 0xff])];

/// `image` as large as it can be in a square of `side` pixels, on a board of gray squares where it is transparent.
pub fn fit(image: &LayerImage, side: u32) -> RgbaImage {
    let scale = f64::from(side) / f64::from(image.width().max(image.height()));
    let length = |length: u32| ((f64::from(length) * scale).round() as u32).clamp(1, side);
    let (w, h) = (length(image.width()), length(image.height()));
    // Few pixels become many smoothly, many become few without gaps.
    let scaled =
        if scale > 1.0 { resize(image.pixels(), w, h, FilterType::Triangle) } else { thumbnail(image.pixels(), w, h) };
    RgbaImage::from_fn(w, h, |x, y| {
        let Rgba([r, g, b, alpha]) = scaled[(x, y)];
        let (square, grays) = BOARD;
        let ground = u32::from(grays[((x / square + y / square) % 2) as usize]) * 257;
        let over = |value: u16| {
            let (value, alpha) = (u32::from(value), u32::from(alpha));
            // At most 65535 * 65535, which fits.
            (((value * alpha / 65_535) + (ground * (65_535 - alpha) / 65_535)) / 257) as u8
        };
        Rgba([over(r), over(g), over(b), u8::MAX])
    })
}

/// The losses of stages A and B, in the order in which they came, as one line each on transparent ground.
pub fn curve(losses: &[(Stage, f32)], width: u32, height: u32) -> RgbaImage {
    let mut picture = RgbaImage::new(width, height);
    let stages = [Stage::OptimizeTextEmbedding, Stage::FineTune].map(|stage| {
        let of_stage = losses.iter().filter(|(other, _)| *other == stage).map(|(_, loss)| *loss);
        averaged(&of_stage.collect::<Vec<_>>())
    });
    let top = stages.iter().flatten().copied().fold(f32::MIN_POSITIVE, f32::max);
    let shown = stages.iter().filter(|line| !line.is_empty()).count().max(1) as u32;
    let (width, bottom) = (width / shown, height.saturating_sub(2) as f32);
    let lines = stages.iter().zip(LINES).filter(|(line, _)| !line.is_empty()).enumerate();
    for (place, (line, color)) in lines {
        let row = |x: u32| {
            let at = x as f32 / width.max(2).saturating_sub(1) as f32 * (line.len() - 1) as f32;
            let (before, after) = (line[at as usize], line[(at as usize + 1).min(line.len() - 1)]);
            bottom * (1.0 - (before + (after - before) * at.fract()) / top)
        };
        let mut last = row(0);
        for x in 0..width {
            let now = row(x);
            // A steep line is a column of pixels, so that it has no gaps.
            for y in last.min(now) as u32..=(last.max(now) + 1.0) as u32 {
                if let Some(pixel) = picture.get_pixel_mut_checked(place as u32 * width + x, y) {
                    *pixel = color;
                }
            }
            last = now;
        }
    }
    picture
}

/// The running mean of the last [`AVERAGED`] losses.
fn averaged(losses: &[f32]) -> Vec<f32> {
    let mean = |at: usize| {
        let window = &losses[(at + 1).saturating_sub(AVERAGED)..=at];
        window.iter().sum::<f32>() / window.len() as f32
    };
    (0..losses.len()).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_fits_and_keeps_its_shape() {
        for ((width, height), side, expected) in
            [((300, 100), 30, (30, 10)), ((2, 1), 64, (64, 32)), ((5000, 1), 64, (64, 1)), ((64, 64), 64, (64, 64))]
        {
            let image =
                LayerImage::new(width, height, vec![u16::MAX; (width * height * 4) as usize]).expect("an image");
            let fitted = fit(&image, side);
            assert_eq!(fitted.dimensions(), expected, "{width}x{height}");
            assert!(fitted.pixels().all(|pixel| pixel.0 == [255; 4]));
        }
        let clear = LayerImage::new(16, 16, vec![0; 16 * 16 * 4]).expect("an image");
        let fitted = fit(&clear, 16);
        assert_eq!((fitted[(0, 0)].0, fitted[(8, 0)].0), ([0x99, 0x99, 0x99, 255], [0x66, 0x66, 0x66, 255]));
    }

    #[test]
    fn a_curve_falls_from_left_to_right_with_its_losses() {
        let falling = |stage| (0..200).map(move |step| (stage, 1.0 - step as f32 / 250.0));
        let losses: Vec<_> = falling(Stage::OptimizeTextEmbedding).chain(falling(Stage::FineTune)).collect();
        let picture = curve(&losses, 100, 40);
        let first_row = |x: u32| (0..40).find(|&y| picture[(x, y)].0[3] > 0).expect("a line in every column");
        assert!(first_row(0) < 3 && first_row(49) > 20 && first_row(50) < 3 && first_row(99) > 20);
        assert_eq!((picture[(0, first_row(0))], picture[(99, first_row(99))]), (LINES[0], LINES[1]));
        assert!(curve(&[], 100, 40).pixels().all(|pixel| pixel.0[3] == 0));
        assert!(curve(&losses[..1], 100, 40).pixels().any(|pixel| pixel.0[3] > 0));
        assert_eq!(curve(&losses, 1, 1).dimensions(), (1, 1));
    }
}
