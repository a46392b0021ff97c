//! A selection of a layer: how much of its surroundings the model sees, and how the result meets them.
//!
//! A part that is cut out and edited is a picture of its own to a model: an ellipse around a car comes back with a
//! whole beach in it. So the model sees a [window](Selection::window) around the selection, and the text may speak of
//! all that is in it. Of what it draws the selected part counts, with its colors [matched](Selection::match_colors)
//! along the border and blended in [softly](Selection::share).
#![forbid(unsafe_code)]

use crate::image::{Gray16, LayerImage, MAX_AREA, Mask, Part, Rgb16};
use image::imageops::{FilterType, crop_imm, resize, thumbnail};
use image::{ImageBuffer, Luma, Rgb};
use std::sync::Arc;

/// The border ends softly over this share of the shorter side of what the model sees ...
const FEATHER: f32 = 1.0 / 40.0;
/// ... but at most over this share of the way to the middle of the selection, so that something is left there.
const DEEPEST: f32 = 0.5;

/// Differences of color at the border are averaged over this share of the shorter side: a color cast is matched, a leaf
/// that ends at the border is no cast.
const CAST: f32 = 1.0 / 32.0;
/// Shorter side in pixels at which that is computed, where a picture is larger.
const LARGEST_CAST: u32 = 128;

/// Which pixels of a layer are to be edited, and how much, 0 to 1 in 16 bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    coverage: Arc<Gray16>,
    /// Around all that is selected.
    bounds: Part,
    /// What the model sees, once that is decided, and the layer.
    seen: Option<(Part, Arc<LayerImage>)>,
}

/// What a host hands over of a layer of the size `layer` where `bounds` are selected: all that a window may reach.
/// Bounds and layer in pixels; the answer is in those of the layer.
pub fn surroundings(bounds: Part, layer: [u32; 2]) -> Part {
    let Part { width, height, .. } = bounds;
    let mut margin = width.max(height);
    loop {
        let part = bounds.grown([width.saturating_add(2 * margin), height.saturating_add(2 * margin)], layer);
        if margin == 0 || u64::from(part.width) * u64::from(part.height) <= MAX_AREA {
            return part;
        }
        margin /= 2;
    }
}

impl Selection {
    /// `coverage` has `width * height` values, row by row; `None` where it does not, or where nothing is selected.
    pub fn new(width: u32, height: u32, coverage: Vec<u16>) -> Option<Self> {
        if coverage.len() as u64 != u64::from(width) * u64::from(height) {
            return None;
        }
        let coverage = Gray16::from_raw(width, height, coverage)?;
        let selected = |pixel: &(u32, u32, &Luma<u16>)| pixel.2.0[0] > 0;
        let mut bounds: Option<[u32; 4]> = None;
        for (x, y, _) in coverage.enumerate_pixels().filter(selected) {
            let [left, top, right, bottom] = bounds.unwrap_or([x, y, x, y]);
            bounds = Some([left.min(x), top.min(y), right.max(x), bottom.max(y)]);
        }
        let [x, y, right, bottom] = bounds?;
        let bounds = Part { x, y, width: right - x + 1, height: bottom - y + 1 };
        Some(Self { coverage: coverage.into(), bounds, seen: None })
    }

    /// The same of bytes, 255 where all is selected.
    pub fn of_bytes(width: u32, height: u32, coverage: &[u8]) -> Option<Self> {
        Self::new(width, height, coverage.iter().map(|&value| u16::from(value) * 257).collect())
    }

    /// Width and height of the layer that it is one of.
    pub fn size(&self) -> [u32; 2] {
        self.coverage.dimensions().into()
    }

    /// Whether everything is selected in full, which is no selection.
    pub fn is_whole(&self) -> bool {
        self.coverage.as_raw().iter().all(|&value| value == u16::MAX)
    }

    /// What the model sees of the layer. `margin` is in percent of the selection's longer side, all around it; 0 is
    /// automatic, for a model that works on as many pixels as a square of side `side` has.
    ///
    /// Automatic is a square, as models know most pictures, in which the selection takes two thirds of a side: without
    /// surroundings a model invents others. Where the selection is small it grows to the model's own size, which costs
    /// nothing, because each pixel of the layer is one of the model's; but to three times the selection at most,
    /// because a model draws badly what is a speck to it. A selection much longer than wide gets a window between both
    /// shapes: each of its sides takes at least a third of that of the window.
    pub fn window(&self, margin: u32, side: usize) -> Part {
        let Part { width, height, .. } = self.bounds;
        let longer = u64::from(width.max(height));
        let length = |own: u32| {
            let own = u64::from(own);
            let length = match u64::from(margin) {
                0 => (side as u64).max(longer * 3 / 2).clamp((own * 3).div_ceil(2), own * 3),
                percent => own + 2 * (longer * percent).div_ceil(100),
            };
            u32::try_from(length).unwrap_or(u32::MAX)
        };
        self.bounds.grown([length(width), length(height)], self.size())
    }

    /// The same one, of whose `layer` the model sees `window`.
    pub fn seen_in(&self, window: Part, layer: Arc<LayerImage>) -> Self {
        Self { seen: Some((window, layer)), ..self.clone() }
    }

    /// The layer, made so small that what the model sees of it is about `side` pixels long.
    pub fn small_layer(&self, side: u32) -> Option<LayerImage> {
        let (window, layer) = self.seen.as_ref()?;
        let (longest, seen) = (layer.width().max(layer.height()), window.width.max(window.height));
        Some(layer.shrunk((u64::from(side) * u64::from(longest) / u64::from(seen)).max(1) as u32))
    }

    /// What the model sees, in a picture of the size (`width`, `height`) of the layer.
    pub fn seen(&self, width: u32, height: u32) -> Part {
        let [whole_width, whole_height] = self.size();
        let Part { x, y, width: w, height: h } = self.seen.as_ref().map_or(self.bounds, |(window, _)| *window);
        let scaled = |at: u32, to: u32, of: u32| (u64::from(at) * u64::from(to) / u64::from(of)) as u32;
        let (x0, y0) = (scaled(x, width, whole_width), scaled(y, height, whole_height));
        let (x1, y1) = (scaled(x + w, width, whole_width), scaled(y + h, height, whole_height));
        // A long picture made small may have no pixel for it.
        let [x0, y0] = [x0.min(width - 1), y0.min(height - 1)];
        Part { x: x0, y: y0, width: (x1 - x0).max(1), height: (y1 - y0).max(1) }
    }

    /// How much of the edit counts at each pixel of the layer in the size (`width`, `height`): nothing where nothing is
    /// selected, and less than is selected within a feather of that.
    ///
    /// The feather lies inside, so that what is not selected stays as it is. A selection that is softer has its own.
    /// The layer's edge is no border: nothing lies behind it that is to be met.
    pub fn share(&self, width: u32, height: u32) -> Mask {
        let fits = self.coverage.dimensions() == (width, height);
        let small = (!fits).then(|| thumbnail(&*self.coverage, width, height));
        let coverage = small.as_ref().unwrap_or(&self.coverage);
        let depths = depths(coverage);
        let seen = self.seen(width, height);
        let deepest = depths.pixels().map(|depth| depth.0[0]).filter(|depth| depth.is_finite()).fold(0.0, f32::max);
        let feather = (seen.width.min(seen.height) as f32 * FEATHER).max(1.0).min(deepest * DEEPEST);
        Mask::from_fn(width, height, |x, y| {
            let own = f32::from(coverage[(x, y)].0[0]) / f32::from(u16::MAX);
            // The first selected pixel lies half a pixel behind the border.
            let depth = ((depths[(x, y)].0[0] - 0.5) / feather).clamp(0.0, 1.0);
            Luma([own.min(depth * depth * (3.0 - 2.0 * depth))])
        })
    }

    /// Adds to `edited`, the model's picture of what it [sees](Self::seen_in), what makes its colors meet those that
    /// are there at the border of the selection. `there` is what the model was shown and `alpha` how much of that is to
    /// be seen, both of the size of `edited`.
    ///
    /// It is known outside of the selection, where the model has drawn the surroundings: their difference to what is
    /// there is a cast, or what the text has changed. Inside, it is the smoothest field that continues it (Laplace's
    /// equation, as in Pérez et al., Poisson Image Editing, SIGGRAPH 2003), so that all within the selection keeps its
    /// contrast.
    pub fn match_colors(&self, edited: &mut Rgb16, there: &Rgb16, alpha: &Gray16) {
        let [whole_width, whole_height] = self.size();
        let seen = self.seen(whole_width, whole_height);
        let coverage = crop_imm(&*self.coverage, seen.x, seen.y, seen.width, seen.height).to_image();
        // A cast has no details.
        let (width, height) = edited.dimensions();
        let shrink = width.min(height).div_ceil(LARGEST_CAST);
        let (w, h) = (width / shrink, height / shrink);
        let small = |picture: &Rgb16| resize(picture, w, h, FilterType::Triangle);
        let (there, new, alpha) = (small(there), small(edited), resize(alpha, w, h, FilterType::Triangle));

        let size = [w as usize, h as usize];
        let selected = largest_within(&coverage, size);
        let weight = |(alpha, &selected): (&Luma<u16>, &bool)| if selected { 0.0 } else { f32::from(alpha.0[0]) };
        let weights = alpha.pixels().zip(&selected).map(weight).collect::<Vec<_>>();
        let grain = (w.min(h) as f32 * CAST).max(0.5);
        let near = smoothed(&weights, size, grain);
        let known = weights.iter().map(|&weight| weight > 0.0).collect::<Vec<_>>();
        let casts = [0, 1, 2].map(|channel| {
            let value = |picture: &Rgb<u16>| f32::from(picture.0[channel]) / RANGE;
            let pairs = there.pixels().zip(new.pixels()).zip(&weights);
            let differences =
                pairs.map(|((there, new), weight)| weight * (value(there) - value(new))).collect::<Vec<_>>();
            let mut cast = smoothed(&differences, size, grain);
            for ((value, near), &known) in cast.iter_mut().zip(&near).zip(&known) {
                *value = if known { *value / near } else { 0.0 };
            }
            continue_smoothly(&mut cast, &known, size);
            cast
        });
        // Around the middle, because images hold values from 0 to 1.
        let cast = |x: u32, y: u32| Rgb([0, 1, 2].map(|channel| 0.5 + 0.5 * casts[channel][(y * w + x) as usize]));
        let cast = resize(&ImageBuffer::from_fn(w, h, cast), width, height, FilterType::Triangle);
        for (pixel, cast) in edited.pixels_mut().zip(cast.pixels()) {
            for (value, cast) in pixel.0.iter_mut().zip(cast.0) {
                *value = (f32::from(*value) + (cast - 0.5) * 2.0 * RANGE).round().clamp(0.0, RANGE) as u16;
            }
        }
    }
}

/// Largest value of a color.
const RANGE: f32 = u16::MAX as f32;

/// Whether anything is selected within each pixel of a picture of `w` times `h` pixels of what `coverage` is of.
fn largest_within(coverage: &Gray16, [w, h]: [usize; 2]) -> Vec<bool> {
    let (width, height) = coverage.dimensions();
    let range = |at: usize, of: u32, to: usize| {
        let (first, end) = (at * of as usize / to, ((at + 1) * of as usize).div_ceil(to));
        first as u32..end as u32
    };
    let places = (0..h).flat_map(|y| (0..w).map(move |x| (range(x, width, w), range(y, height, h))));
    places
        .map(|(columns, rows)| rows.flat_map(|y| columns.clone().map(move |x| (x, y))).any(|at| coverage[at].0[0] > 0))
        .collect()
}

/// `values` of a picture of `w` times `h` pixels, averaged with a Gaussian of the width `sigma` in pixels; what lies
/// outside counts as 0.
fn smoothed(values: &[f32], [w, h]: [usize; 2], sigma: f32) -> Vec<f32> {
    let reach = (3.0 * sigma).ceil() as usize;
    let kernel = (0..=reach).map(|far| (-0.5 * (far as f32 / sigma).powi(2)).exp()).collect::<Vec<_>>();
    let along = |values: &[f32], at: usize, length: usize, place: &dyn Fn(usize) -> usize| -> f32 {
        let near = at.saturating_sub(reach)..(at + reach + 1).min(length);
        near.map(|other| kernel[at.abs_diff(other)] * values[place(other)]).sum()
    };
    let rows = (0..w * h).map(|at| along(values, at % w, w, &|x| at / w * w + x)).collect::<Vec<_>>();
    (0..w * h).map(|at| along(&rows, at / w, h, &|y| y * w + at % w)).collect()
}

/// Distance of each selected pixel to the next one that is not, in pixels; infinite where all are selected.
///
/// In steps to neighbors, straight and diagonal ones (Borgefors 1986), which is up to 8 % more than it is.
fn depths(coverage: &Gray16) -> Mask {
    const STRAIGHT: f32 = 1.0;
    const DIAGONAL: f32 = std::f32::consts::SQRT_2;
    let (width, height) = coverage.dimensions();
    let start = |pixel: &Luma<u16>| if pixel.0[0] == 0 { 0.0 } else { f32::INFINITY };
    let mut depths = Mask::from_raw(width, height, coverage.pixels().map(start).collect()).expect("one for each pixel");
    let mut visit = |x: u32, y: u32, before: [(i64, i64, f32); 4]| {
        let mut least = depths[(x, y)].0[0];
        for (dx, dy, step) in before {
            let at = (i64::from(x) + dx, i64::from(y) + dy);
            if (0..i64::from(width)).contains(&at.0) && (0..i64::from(height)).contains(&at.1) {
                least = least.min(depths[(at.0 as u32, at.1 as u32)].0[0] + step);
            }
        }
        depths[(x, y)] = Luma([least]);
    };
    for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))) {
        visit(x, y, [(-1, 0, STRAIGHT), (-1, -1, DIAGONAL), (0, -1, STRAIGHT), (1, -1, DIAGONAL)]);
    }
    for (x, y) in (0..height).rev().flat_map(|y| (0..width).rev().map(move |x| (x, y))) {
        visit(x, y, [(1, 0, STRAIGHT), (1, 1, DIAGONAL), (0, 1, STRAIGHT), (-1, 1, DIAGONAL)]);
    }
    depths
}

/// Fills `values` of a picture of `w` times `h` pixels where they are not `known` with the solution of Laplace's
/// equation that has the known ones around it; 0 where none is known.
///
/// From small to large: a solution at half the size is where the next one begins, which then needs few sweeps.
fn continue_smoothly(values: &mut [f32], known: &[bool], [w, h]: [usize; 2]) {
    const SWEEPS: usize = 16;
    if known.iter().all(|&known| known) || !known.iter().any(|&known| known) {
        return;
    }
    if w > 1 || h > 1 {
        let half = [w.div_ceil(2), h.div_ceil(2)];
        let (mut sums, mut counts) = (vec![0.0; half[0] * half[1]], vec![0.0; half[0] * half[1]]);
        for at in (0..w * h).filter(|&at| known[at]) {
            let small = at / w / 2 * half[0] + at % w / 2;
            sums[small] += values[at];
            counts[small] += 1.0;
        }
        let small_known = counts.iter().map(|&count| count > 0.0).collect::<Vec<_>>();
        let means = sums.iter().zip(&counts).map(|(sum, count)| if *count > 0.0 { sum / count } else { 0.0 });
        let mut small = means.collect::<Vec<f32>>();
        continue_smoothly(&mut small, &small_known, half);
        for at in (0..w * h).filter(|&at| !known[at]) {
            values[at] = small[at / w / 2 * half[0] + at % w / 2];
        }
    }
    for _ in 0..SWEEPS {
        for at in (0..w * h).filter(|&at| !known[at]) {
            let (x, y) = (at % w, at / w);
            // Nothing flows over the edges of the picture.
            let beside = [
                (x > 0).then(|| values[at - 1]),
                (x + 1 < w).then(|| values[at + 1]),
                (y > 0).then(|| values[at - w]),
                (y + 1 < h).then(|| values[at + w]),
            ];
            let (sum, count) =
                beside.into_iter().flatten().fold((0.0, 0.0), |(sum, count), one| (sum + one, count + 1.0));
            values[at] = sum / count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rectangle of a layer of 400 x 300 pixels.
    fn rectangle(part: Part) -> Selection {
        let inside = |at: u32| {
            (part.x..part.x + part.width).contains(&(at % 400)) && (part.y..part.y + part.height).contains(&(at / 400))
        };
        Selection::new(400, 300, (0..400 * 300).map(|at| if inside(at) { u16::MAX } else { 0 }).collect())
            .expect("something")
    }

    #[test]
    fn the_window_is_what_a_model_sees_well_around_the_selection() {
        let seen = |x, y, width, height, margin, side| {
            let window = rectangle(Part { x, y, width, height }).window(margin, side);
            [window.x, window.y, window.width, window.height]
        };
        assert_eq!(seen(150, 100, 100, 100, 0, 64), [125, 75, 150, 150], "two thirds of a side");
        assert_eq!(seen(150, 100, 100, 80, 0, 64), [125, 65, 150, 150], "a square");
        assert_eq!(seen(180, 140, 40, 40, 0, 64), [168, 128, 64, 64], "as many pixels as the model has");
        assert_eq!(seen(180, 140, 30, 30, 0, 64), [163, 123, 64, 64], "the model's own, odd");
        assert_eq!(seen(200, 150, 10, 10, 0, 64), [190, 140, 30, 30], "three times a speck");
        assert_eq!(seen(0, 0, 100, 100, 0, 64), [0, 0, 150, 150], "moved into the layer");
        assert_eq!(seen(100, 140, 200, 20, 0, 64), [50, 120, 300, 60], "between both shapes");
        assert_eq!(seen(10, 10, 380, 280, 0, 64), [0, 0, 400, 300], "no more than there is");
        assert_eq!(seen(150, 100, 100, 50, 20, 64), [130, 80, 140, 90], "20 % of the longer side on each");
    }

    #[test]
    fn what_a_host_hands_over_holds_every_window() {
        for (x, y, width, height) in [(150, 100, 100, 100), (0, 0, 60, 20), (340, 260, 60, 40), (200, 150, 1, 1)] {
            let bounds = Part { x, y, width, height };
            let area = surroundings(bounds, [400, 300]);
            let inner = Part { x: x - area.x, y: y - area.y, ..bounds };
            let coverage = (0..area.width * area.height).map(|at| {
                let (x, y) = (at % area.width, at / area.width);
                let inside = (inner.x..inner.x + width).contains(&x) && (inner.y..inner.y + height).contains(&y);
                if inside { u16::MAX } else { 0 }
            });
            let cut = Selection::new(area.width, area.height, coverage.collect()).expect("something");
            for (margin, side) in [(0, 64), (0, 512), (30, 64), (100, 64)] {
                let (window, whole) = (cut.window(margin, side), rectangle(bounds).window(margin, side));
                let placed = Part { x: window.x + area.x, y: window.y + area.y, ..window };
                assert_eq!(placed, whole, "{bounds:?} with {margin} % for {side}");
            }
        }
        let huge = surroundings(Part { x: 0, y: 0, width: 15_000, height: 15_000 }, [60_000, 60_000]);
        assert!(u64::from(huge.width) * u64::from(huge.height) <= MAX_AREA && huge.width >= 15_000, "{huge:?}");
    }

    #[test]
    fn the_feather_lies_inside_and_a_soft_selection_has_its_own() {
        let hard = rectangle(Part { x: 100, y: 100, width: 200, height: 150 });
        let share = hard.share(400, 300);
        let at = |x, y| share[(x, y)].0[0];
        assert_eq!((at(99, 150), at(200, 99), at(200, 175)), (0.0, 0.0, 1.0));
        let across = (100..110).map(|x| at(x, 175)).collect::<Vec<_>>();
        assert!(across[0] > 0.0 && across.is_sorted() && across[0] < 0.1 && across[9] == 1.0, "{across:?}");
        // At the layer's edge nothing is to be met.
        let beside = rectangle(Part { x: 0, y: 0, width: 400, height: 150 }).share(400, 300);
        assert_eq!((beside[(0, 0)].0[0], beside[(399, 75)].0[0]), (1.0, 1.0));
        // A ramp over 100 pixels is softer than the feather.
        let ramp = (0..400 * 300).map(|at| ((at % 400).min(100) * 655) as u16).collect::<Vec<_>>();
        let soft = Selection::new(400, 300, ramp.clone()).expect("something").share(400, 300);
        for x in [5, 50, 100, 399] {
            assert_eq!(soft[(x, 7)].0[0], f32::from(ramp[x as usize]) / f32::from(u16::MAX), "at {x}");
        }
        // A single pixel is all there is to edit.
        assert_eq!(rectangle(Part { x: 7, y: 7, width: 1, height: 1 }).share(400, 300)[(7, 7)].0[0], 1.0);
    }

    #[test]
    fn a_continued_field_is_that_of_its_border() {
        // A plane solves Laplace's equation: what is cut out of it comes back.
        let plane = |at: usize| 0.3 * (at % 40) as f32 - 0.2 * (at / 40) as f32;
        let known = |at: usize| (at % 40 < 8) || (at % 40 > 30) || (at / 40 < 5) || (at / 40 > 33);
        let known = (0..40 * 40).map(known).collect::<Vec<_>>();
        let mut field = (0..40 * 40).map(|at| if known[at] { plane(at) } else { 0.0 }).collect::<Vec<_>>();
        continue_smoothly(&mut field, &known, [40, 40]);
        let worst = (0..40 * 40).map(|at| (field[at] - plane(at)).abs()).fold(0.0, f32::max);
        assert!(worst < 0.25, "{worst} of 11.7");
        let mut nothing = vec![1.0; 4];
        continue_smoothly(&mut nothing, &[false; 4], [2, 2]);
        assert_eq!(nothing, [1.0; 4]);
    }
}
