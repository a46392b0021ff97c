//! The colors of a cut-out up to its rim and beyond, from a picture of it on white; knows no model.
//!
//! A model sees a cut-out on white and draws it so. Laid on something else its soft rim would shine white: there the
//! white is taken out again, and the less of the cut-out a pixel shows the more its color is that of the pixels around
//! it which show more.
#![forbid(unsafe_code)]

use crate::image::LayerImage;
use image::imageops::{FilterType, resize};
use image::{ImageBuffer, Luma, Rgb};
use std::borrow::Cow;

type Rgb16 = ImageBuffer<Rgb<u16>, Vec<u16>>;

const WHITE: f32 = u16::MAX as f32;

/// Pixels around one in which it is looked for those that show more.
const AROUND: usize = 2;

/// `on_white`, which shows `layer` on white, without the white; the same picture where the layer has no transparency.
pub fn without_white<'a>(on_white: &'a Rgb16, layer: &LayerImage) -> Cow<'a, Rgb16> {
    let alpha: Vec<u16> = layer.rgba().iter().skip(3).step_by(4).copied().collect();
    if alpha.iter().all(|&alpha| alpha == u16::MAX) {
        return Cow::Borrowed(on_white);
    }
    let (w, h) = on_white.dimensions();
    let alpha = ImageBuffer::<Luma<u16>, _>::from_raw(layer.width(), layer.height(), alpha).expect("its size");
    let alpha = resize(&alpha, w, h, FilterType::Triangle);
    let shares: Vec<f32> = alpha.as_raw().iter().map(|&alpha| f32::from(alpha) / WHITE).collect();
    let (w, h) = (w as usize, h as usize);
    let most = most_around(&shares, w, h);
    let cells = on_white.pixels().zip(shares.iter().zip(most)).map(|(pixel, (&share, most))| {
        let light = pixel.0.map(|value| (f32::from(value) - (1.0 - share) * WHITE).clamp(0.0, share * WHITE));
        // Noise is that of the picture divided by the share, so the square is the weight.
        Cell { sum: light.map(|light| light * share), weight: share * share, trust: (share / most.max(1e-6)).powi(2) }
    });
    let colors = filled(&cells.collect::<Vec<_>>(), w, h);
    let colors = colors.into_iter().flatten().map(|value| value.round() as u16).collect();
    Cow::Owned(Rgb16::from_raw(w as u32, h as u32, colors).expect("three values for each pixel"))
}

/// The largest value within [`AROUND`] of each.
fn most_around(values: &[f32], w: usize, h: usize) -> Vec<f32> {
    let span = |at: usize, end: usize| at.saturating_sub(AROUND)..(at + AROUND + 1).min(end);
    let most = |found: f32, value: f32| found.max(value);
    let rows: Vec<f32> = (0..w * h).map(|i| span(i % w, w).map(|x| values[i / w * w + x]).fold(0.0, most)).collect();
    (0..w * h).map(|i| span(i / w, h).map(|y| rows[y * w + i % w]).fold(0.0, most)).collect()
}

/// What is known of the color of a pixel, or of four together.
#[derive(Clone, Copy, Default)]
struct Cell {
    /// Color times weight.
    sum: [f32; 3],
    weight: f32,
    /// How much its own color counts, the rest is that of the larger cell in which it lies; 0 to 1.
    trust: f32,
}

/// The color of each cell, with the help of cells twice as large, and so on.
fn filled(cells: &[Cell], w: usize, h: usize) -> Vec<[f32; 3]> {
    let own = |cell: &Cell| cell.sum.map(|sum| if cell.weight > 0.0 { sum / cell.weight } else { 0.0 });
    if w * h == 1 || cells.iter().all(|cell| cell.trust >= 1.0) {
        return cells.iter().map(own).collect();
    }
    let (half_w, half_h) = (w.div_ceil(2), h.div_ceil(2));
    let mut larger = vec![Cell::default(); half_w * half_h];
    for (i, cell) in cells.iter().enumerate() {
        let into = &mut larger[i / w / 2 * half_w + i % w / 2];
        (0..3).for_each(|channel| into.sum[channel] += cell.sum[channel]);
        into.weight += cell.weight;
        into.trust = into.trust.max(cell.trust);
    }
    let around = filled(&larger, half_w, half_h);
    let mix = |(i, cell): (usize, &Cell)| {
        let (own, around) = (own(cell), around[i / w / 2 * half_w + i % w / 2]);
        [0, 1, 2].map(|channel| around[channel] + cell.trust * (own[channel] - around[channel]))
    };
    cells.iter().enumerate().map(mix).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A red disc whose alpha falls from 1 to 0 over some pixels, with green hidden where nothing is to be seen.
    fn disc(side: u32) -> LayerImage {
        let pixel = |i: u32| {
            let center = f64::from(side) / 2.0;
            let (x, y) = (f64::from(i % side) + 0.5 - center, f64::from(i / side) + 0.5 - center);
            let alpha = ((center * 0.7 - x.hypot(y)) / (center * 0.2)).clamp(0.0, 1.0);
            let color = if alpha > 0.0 { [50_000, 4_000, 4_000] } else { [0, 60_000, 0] };
            [color[0], color[1], color[2], (alpha * f64::from(WHITE)) as u16]
        };
        LayerImage::new(side, side, (0..side * side).flat_map(pixel).collect()).expect("a square")
    }

    fn on_white(layer: &LayerImage) -> Rgb16 {
        let mix = |value: u16, alpha: u16| {
            let share = f32::from(alpha) / WHITE;
            (f32::from(value) * share + WHITE * (1.0 - share)).round() as u16
        };
        let pixels = layer.rgba().chunks_exact(4).flat_map(|pixel| [0, 1, 2].map(|at| mix(pixel[at], pixel[3])));
        Rgb16::from_raw(layer.width(), layer.height(), pixels.collect()).expect("its size")
    }

    #[test]
    fn a_soft_rim_has_the_color_of_what_it_is_the_rim_of() {
        let layer = disc(64);
        // As sharp as the layer, and as a model draws it at a quarter of the size.
        let sharp = on_white(&layer);
        for picture in [sharp.clone(), resize(&sharp, 16, 16, FilterType::Triangle)] {
            let colors = resize(without_white(&picture, &layer).as_ref(), 64, 64, FilterType::CatmullRom);
            for (color, pixel) in colors.pixels().zip(layer.rgba().chunks_exact(4)).filter(|(_, pixel)| pixel[3] > 0) {
                let error = (0..3).map(|at| color.0[at].abs_diff(pixel[at])).max();
                assert!(error < Some(2_000), "{color:?} instead of {pixel:?}");
            }
        }
    }

    #[test]
    fn glass_keeps_what_is_seen_through_it_and_an_opaque_layer_every_number() {
        let of_alpha = |alpha: u16| {
            let pixels = (0..256u32).flat_map(|i| [(i * 250) as u16, 9_000, 65_000 - (i * 200) as u16, alpha]);
            LayerImage::new(16, 16, pixels.collect()).expect("a square")
        };
        let glass = of_alpha(u16::MAX / 2);
        let colors = without_white(&on_white(&glass), &glass).into_owned();
        for (color, pixel) in colors.pixels().zip(glass.rgba().chunks_exact(4)) {
            assert!((0..3).all(|at| color.0[at].abs_diff(pixel[at]) < 10), "{color:?} instead of {pixel:?}");
        }
        let opaque = of_alpha(u16::MAX);
        assert!(matches!(without_white(&on_white(&opaque), &opaque), Cow::Borrowed(_)));
    }

    #[test]
    fn where_nothing_is_to_be_seen_nothing_goes_wrong() {
        let layer = LayerImage::new(3, 5, vec![0; 60]).expect("a picture");
        assert_eq!(without_white(&on_white(&layer), &layer).dimensions(), (3, 5));
    }
}
