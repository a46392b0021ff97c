//! Whether a picture is a photograph or a drawing, told from its pixels alone, and how alike two pictures are; knows
//! neither model nor host.
//!
//! In a drawing most pixels lie in a plain area or on a smooth slope of colors. In a photograph, also in one of smooth
//! things, nearly every pixel is a little lighter or darker than the mean of its neighbors, beside it as well as above
//! and below. `docs/BENCHMARK.md` has what this was measured on.
#![forbid(unsafe_code)]

use crate::engine::picture::pixels::Picture;
use crate::host::policy::SHOWN_SIDE;
use crate::host::words;
use crate::image::LayerImage;
use crate::text::Text;
use image::imageops::thumbnail;
use image::{ImageBuffer, Luma, Rgba};

/// Pictures are looked at with the area of a square of this side, at which sensor noise and traces of JPEG are averaged
/// out.
const SIDE: f64 = 64.0;

/// A pixel counts when its lightness is further than this from the mean of the two beside it, and from that of the two
/// above and below: a quarter of a step of 8 bits.
const BEND: f32 = 0.25 * 257.0;

/// Share of such pixels from which on a picture counts as a photograph.
const PHOTOGRAPH: f64 = 0.48;

/// Mean difference up to which a picture counts as given back.
const GIVEN_BACK: f64 = 0.05;

/// Whether `layer` is more likely a photograph than a drawing.
pub fn is_photograph(layer: &LayerImage) -> bool {
    bent_share(layer) > PHOTOGRAPH
}

/// Share of pixels whose lightness bends along its row and along its column; what is transparent does not count.
pub fn bent_share(layer: &LayerImage) -> f64 {
    let (small, light) = (reduced(layer), |pixel: &Rgba<u16>| {
        let [r, g, b, _] = pixel.0.map(f32::from);
        0.299 * r + 0.587 * g + 0.114 * b
    });
    let (width, height) = small.dimensions();
    let lightness = ImageBuffer::from_fn(width, height, |x, y| Luma([light(&small[(x, y)])]));
    let (mut seen, mut bent) = (0_u32, 0_u32);
    for (x, y) in (1..height.saturating_sub(1)).flat_map(|y| (1..width.saturating_sub(1)).map(move |x| (x, y))) {
        let around = [(x, y), (x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)];
        if around.iter().any(|&at| small[at].0[3] < u16::MAX) {
            continue;
        }
        let [here, left, right, above, below] = around.map(|at| lightness[at].0[0]);
        seen += 1;
        bent += u32::from(off(here, left, right) > BEND && off(here, above, below) > BEND);
    }
    f64::from(bent) / f64::from(seen.max(1))
}

/// How far `here` is from the mean of two others.
fn off(here: f32, one: f32, other: f32) -> f32 {
    (here - (one + other) / 2.0).abs()
}

/// What is to be said of an edit of `layer` whose result is `picture`: at eta 0 it should be the layer again.
pub fn not_given_back(eta: f64, layer: &LayerImage, picture: &Picture) -> Option<Text> {
    let is_another = || {
        let layer = layer.shrunk(SHOWN_SIDE);
        difference(&layer, &picture.on(&layer).0) > GIVEN_BACK
    };
    (eta == 0.0 && is_another()).then_some(words::NOT_GIVEN_BACK)
}

/// Mean difference of two pictures of one size, 0 to 1, where both are opaque; both are looked at as small ones, where
/// a model of few pixels can be as good as one of many.
pub fn difference(one: &LayerImage, other: &LayerImage) -> f64 {
    let (one, other) = (reduced(one), reduced(other));
    let is_opaque = |pixel: &Rgba<u16>| pixel.0[3] == u16::MAX;
    let pairs = one.pixels().zip(other.pixels()).filter(|(one, other)| is_opaque(one) && is_opaque(other));
    let (mut sum, mut count) = (0.0, 0_u32);
    for (one, other) in pairs {
        sum += (0..3).map(|at| f64::from(one.0[at].abs_diff(other.0[at]))).sum::<f64>();
        count += 3;
    }
    sum / f64::from(count.max(1)) / f64::from(u16::MAX)
}

fn reduced(layer: &LayerImage) -> ImageBuffer<Rgba<u16>, Vec<u16>> {
    let (width, height) = (f64::from(layer.width()), f64::from(layer.height()));
    let scale = SIDE / (width * height).sqrt();
    if scale >= 1.0 {
        return layer.pixels().clone();
    }
    let length = |length: f64| (length * scale).round().max(1.0) as u32;
    thumbnail(layer.pixels(), length(width), length(height))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u32, height: u32, pixel: impl Fn(u32, u32) -> [u16; 4]) -> LayerImage {
        let values = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).flat_map(|(x, y)| pixel(x, y));
        LayerImage::new(width, height, values.collect()).expect("a picture")
    }

    fn file(name: &str) -> LayerImage {
        let path = format!("{}/{name}", env!("CARGO_MANIFEST_DIR"));
        let pixels = image::open(path).expect("a picture of ours").into_rgba8();
        LayerImage::from_rgba8(pixels.width(), pixels.height(), &pixels).expect("its size is right")
    }

    /// Something between noise and blobs, as of leaves or skin: `strength` in 65535ths.
    fn grain(x: u32, y: u32, strength: f32) -> f32 {
        let cell = |x: u32, y: u32| {
            let mixed = (x.wrapping_mul(0x9e37_79b1) ^ y.wrapping_mul(0x85eb_ca6b)).wrapping_mul(0xc2b2_ae35);
            (mixed >> 16) as f32 / 32768.0 - 1.0
        };
        strength * (cell(x / 8, y / 8) + cell(x / 16 + 99, y / 16))
    }

    #[test]
    fn drawings_and_slopes_of_colors_are_no_photographs() {
        for name in ["bird-on-beach", "car-on-beach", "cat-in-desert", "demo", "dog-on-grass", "house-on-grass"] {
            let share = bent_share(&file(&format!("models/samples/{name}.png")));
            assert!(share < 0.2, "{name}: {share}");
        }
        let slope = picture(320, 240, |x, y| [(x * 100) as u16, (y * 200) as u16, 30000, u16::MAX]);
        assert!(bent_share(&slope) < 0.05, "a slope of colors");
        assert_eq!(bent_share(&picture(2, 2, |_, _| [0, 0, 0, u16::MAX])), 0.0, "too small to tell");
        assert_eq!(bent_share(&picture(90, 90, |x, _| [x as u16 * 700, 0, 0, 0])), 0.0, "nothing to be seen");
    }

    #[test]
    fn smooth_photographs_count_as_well_as_rich_ones() {
        for strength in [600.0, 6000.0] {
            let sky = |x: u32, y: u32| {
                let light = (20000.0 + y as f32 * 40.0 + grain(x, y, strength)) as u16;
                [light, light, light + 9000, u16::MAX]
            };
            assert!(is_photograph(&picture(512, 384, sky)), "{strength}");
        }
        let cut_out = picture(512, 512, |x, y| {
            let light = (30000.0 + grain(x, y, 4000.0)) as u16;
            [light, light, light, if x < 256 { u16::MAX } else { 0 }]
        });
        assert!(is_photograph(&cut_out), "what is transparent does not count");
    }

    #[test]
    fn pictures_differ_by_what_differs() {
        let gray = |value: u16| picture(100, 100, move |_, _| [value, value, value, u16::MAX]);
        assert_eq!(difference(&gray(500), &gray(500)), 0.0);
        assert!((difference(&gray(0), &gray(6554)) - 0.1).abs() < 1e-3);
    }
}
