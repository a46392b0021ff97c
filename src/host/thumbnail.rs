//! Small pictures for dialogs: a layer that fits into a square, and how the losses go; knows no toolkit.
#![forbid(unsafe_code)]

use crate::engine::request::Stage;
use crate::host::policy::AVERAGED;
use crate::image::{LayerImage, Part};
use image::imageops::{FilterType, resize, thumbnail};
use image::{ImageBuffer, Rgba, RgbaImage};

/// Longest side of what is shown pixel by pixel.
const LARGEST_SIDE: u32 = 4096;

/// Side of a square of the board that shows through transparent pixels, and its two grays.
const BOARD: (u32, [u8; 2]) = (8, [0x99, 0x66]);

/// Colors of the lines of stages A and B, to be seen on light and on dark ground.
const LINES: [Rgba<u8>; 2] = [Rgba([0x35, 0x84, 0xe4, 0xff]), Rgba([0xe6, 0x61, 0x00, 0xff])];

/// `image` as large as it can be in a square of `side` pixels, on a board of gray squares where it is transparent.
pub fn fit(image: &LayerImage, side: u32) -> RgbaImage {
    fit_in(image, [side, side])
}

/// The same in a rectangle of this width and height.
pub fn fit_in(image: &LayerImage, room: [u32; 2]) -> RgbaImage {
    let [across, down] =
        [(room[0], image.width()), (room[1], image.height())].map(|(room, own)| f64::from(room) / f64::from(own));
    let scale = across.min(down);
    let length = |length: u32, room: u32| ((f64::from(length) * scale).round() as u32).clamp(1, room);
    let (w, h) = (length(image.width(), room[0]), length(image.height(), room[1]));
    // Few pixels become many smoothly, many become few without gaps.
    on_board(&if scale > 1.0 {
        resize(image.pixels(), w, h, FilterType::Triangle)
    } else {
        thumbnail(image.pixels(), w, h)
    })
}

/// `image` pixel by pixel; of a very large one its middle.
pub fn in_size(image: &LayerImage) -> RgbaImage {
    let (width, height) = (image.width(), image.height());
    if width.max(height) <= LARGEST_SIDE {
        return on_board(image.pixels());
    }
    let middle = Part { x: width / 2, y: height / 2, width: 1, height: 1 };
    on_board(image.cut(middle.grown([LARGEST_SIDE; 2], [width, height])).pixels())
}

/// The left `share` of `before` beside the rest of `after`, with a line between them; both are of one size.
pub fn split(before: &RgbaImage, mut after: RgbaImage, share: f64) -> RgbaImage {
    let width = after.width();
    let line = (f64::from(width) * share).round() as u32;
    for (x, y, pixel) in after.enumerate_pixels_mut().filter(|(x, ..)| *x < line) {
        *pixel = if x + 1 == line && line < width { LINES[0] } else { before[(x, y)] };
    }
    after
}

/// `picture` with a frame, which says that it is the one that is shown in size.
pub fn framed(mut picture: RgbaImage) -> RgbaImage {
    const FRAME: u32 = 3;
    let (w, h) = picture.dimensions();
    let is_frame = |x: u32, y: u32| x.min(y).min(w - 1 - x).min(h - 1 - y) < FRAME;
    for (_, _, pixel) in picture.enumerate_pixels_mut().filter(|(x, y, _)| is_frame(*x, *y)) {
        *pixel = LINES[0];
    }
    picture
}

fn on_board(scaled: &ImageBuffer<Rgba<u16>, Vec<u16>>) -> RgbaImage {
    RgbaImage::from_fn(scaled.width(), scaled.height(), |x, y| {
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
    fn before_and_after_lie_side_by_side_in_the_room_there_is() {
        let gray = |value: u16| LayerImage::new(40, 20, [value, value, value, 65535].repeat(800)).expect("an image");
        let (before, after) = (fit_in(&gray(0), [100, 300]), fit_in(&gray(65535), [100, 300]));
        assert_eq!(after.dimensions(), (100, 50));
        assert_eq!(in_size(&gray(0)).dimensions(), (40, 20));
        for (share, left, right) in [(0.0, 255, 255), (0.5, 0, 255), (1.0, 0, 0)] {
            let both = split(&before, after.clone(), share);
            assert_eq!((both[(10, 9)].0[0], both[(90, 9)].0[0]), (left, right), "{share}");
        }
        assert_eq!(split(&before, after.clone(), 0.5)[(49, 9)], LINES[0]);
        let framed = framed(after);
        assert_eq!((framed[(0, 20)], framed[(99, 20)], framed[(50, 25)].0), (LINES[0], LINES[0], [255; 4]));
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
