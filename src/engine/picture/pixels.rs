//! Between a layer and the tensors the model works on: size, value range, transparency, likeness.
#![forbid(unsafe_code)]

use crate::engine::picture::rim::without_white;
use crate::engine::picture::selection::Selection;
use crate::error::{Error, Result};
use crate::image::{Gray16, LayerImage, Mask, Rgb16};
use crate::text::text;
use candle_core::{Device, Tensor};
use image::imageops::{FilterType, resize};

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
pub fn to_tensor(layer: &LayerImage, (w, h): (usize, usize), device: &Device) -> Result<Tensor> {
    let picture = on_white(layer, w as u32, h as u32);
    let value = |value: u16| f32::from(value) / (WHITE as f32 / 2.0) - 1.0;
    let planes: Vec<f32> =
        (0..3).flat_map(|channel| picture.pixels().map(move |pixel| value(pixel.0[channel]))).collect();
    Ok(Tensor::from_vec(planes, (1, 3, h, w), device)?)
}

/// `layer` on white in the size (`w`, `h`).
fn on_white(layer: &LayerImage, w: u32, h: u32) -> Rgb16 {
    let mut opaque = Vec::with_capacity(layer.rgba().len() / 4 * 3);
    for pixel in layer.rgba().chunks_exact(4) {
        let alpha = u64::from(pixel[3]);
        let over_white = |&value: &u16| (u64::from(value) * alpha / WHITE + WHITE - alpha) as u16;
        opaque.extend(pixel[..3].iter().map(over_white));
    }
    let picture = Rgb16::from_raw(layer.width(), layer.height(), opaque).expect("three values for each pixel");
    resize(&picture, w, h, FilterType::Lanczos3)
}

/// The alpha of `layer` in the size (`w`, `h`).
fn alpha(layer: &LayerImage, w: u32, h: u32) -> Gray16 {
    let alpha = layer.rgba().iter().skip(3).step_by(4).copied().collect();
    let alpha = Gray16::from_raw(layer.width(), layer.height(), alpha).expect("one value for each pixel");
    resize(&alpha, w, h, FilterType::Triangle)
}

/// A result at the size at which the model works, and how much of it counts where.
#[derive(Clone, Debug)]
pub struct Picture {
    rgb: Rgb16,
    /// Share of the edit at each pixel, 0 to 1, the rest is the layer's own; `None` is 1 everywhere.
    pub mask: Option<Mask>,
    /// Of the layer, where the picture is one of what the model sees around it.
    selection: Option<Selection>,
}

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
        Ok(Self { rgb, mask: None, selection: None })
    }

    /// This one, as much of it as `mask` says.
    pub fn counting(self, mask: Option<Mask>) -> Self {
        Self { mask, ..self }
    }

    /// Gray, for tests of those who carry it about.
    #[cfg(test)]
    pub fn gray(w: u32, h: u32) -> Self {
        Self { rgb: Rgb16::from_pixel(w, h, image::Rgb([u16::MAX / 2; 3])), mask: None, selection: None }
    }

    /// The picture as it forms: with a selection in its place in the layer, which is made so small.
    pub fn forming(&self) -> LayerImage {
        let (w, h) = self.rgb.dimensions();
        let layer = self.selection.as_ref().and_then(|selection| selection.small_layer(w.max(h)));
        layer.map_or_else(|| self.opaque(), |layer| self.on(&layer).0)
    }

    /// The picture as it is, without transparency.
    pub fn opaque(&self) -> LayerImage {
        let rgba = self.rgb.pixels().flat_map(|pixel| [pixel.0[0], pixel.0[1], pixel.0[2], u16::MAX]).collect();
        let (w, h) = self.rgb.dimensions();
        LayerImage::new(w, h, rgba).expect("the model works on pictures of a layer's sizes")
    }

    /// The picture as one of what the model sees around `selection`: `window`, a part of the layer. Its colors are made
    /// to meet those at the border.
    pub fn around(mut self, selection: &Selection, window: &LayerImage) -> Self {
        let (w, h) = self.rgb.dimensions();
        selection.match_colors(&mut self.rgb, &on_white(window, w, h), &alpha(window, w, h));
        Self { selection: Some(selection.clone()), ..self }
    }

    /// The edited layer: size and alpha of `source`, which is the layer or what a host has made smaller of it. With a
    /// mask or a selection also which pixels, row by row, are the layer's own; empty without.
    pub fn on(&self, source: &LayerImage) -> (LayerImage, Vec<bool>) {
        let (edited, share) = self.apart(source);
        let Some(share) = share else { return (edited, Vec::new()) };
        let pixels = edited.rgba().chunks_exact(4).zip(source.rgba().chunks_exact(4)).zip(share.as_raw());
        let (mut rgba, mut untouched) = (Vec::with_capacity(source.rgba().len()), Vec::new());
        for ((new, own), &share) in pixels {
            let mix = |new: u16, own: u16| (f32::from(own) + share * (f32::from(new) - f32::from(own))).round() as u16;
            let is_own = share <= 0.0;
            rgba.extend((0..3).map(|at| if is_own { own[at] } else { mix(new[at], own[at]) }));
            rgba.push(own[3]);
            untouched.push(is_own);
        }
        (LayerImage::new(source.width(), source.height(), rgba).expect("the size of a layer"), untouched)
    }

    /// The edit with size and alpha of `source`, nothing where the model saw nothing of that, and how much of it counts
    /// at each pixel; `None` is all.
    pub fn apart(&self, source: &LayerImage) -> (LayerImage, Option<Mask>) {
        let (width, height) = (source.width(), source.height());
        let seen = self.selection.as_ref().map(|selection| selection.seen(width, height));
        let (w, h) = seen.map_or((width, height), |seen| (seen.width, seen.height));
        let window = seen.map(|seen| source.cut(seen));
        let window = window.as_ref().unwrap_or(source);
        let edited = resize(without_white(&self.rgb, window).as_ref(), w, h, FilterType::CatmullRom);
        let mask = self.mask.as_ref().map(|mask| resize(mask, w, h, FilterType::Triangle));
        let with_alpha = |edited: Rgb16, source: &LayerImage| {
            let pixels = edited.pixels().zip(source.rgba().chunks_exact(4));
            let rgba = pixels.flat_map(|(new, own)| [new.0[0], new.0[1], new.0[2], own[3]]).collect();
            LayerImage::new(source.width(), source.height(), rgba).expect("the size of a layer")
        };
        let (Some(selection), Some(seen)) = (&self.selection, seen) else { return (with_alpha(edited, source), mask) };
        let mut share = selection.share(width, height);
        for (x, y, touched) in mask.iter().flat_map(|mask| mask.enumerate_pixels()) {
            share[(seen.x + x, seen.y + y)].0[0] *= touched.0[0];
        }
        (with_alpha(edited, window).placed(seen, [width, height]), Some(share))
    }
}

/// `pixels` with the colors of `plain` over wide places, both (1, 3, h, w) from about -1 to 1: what enlarges paints
/// detail, and is not to change the picture's colors, as Stable Diffusion's x4 upscaler does.
pub fn with_colors_of(pixels: &Tensor, plain: &Tensor) -> Result<Tensor> {
    /// Pixels over which colors are compared.
    const WIDE: usize = 16;
    let (_, _, h, w) = pixels.dims4()?;
    let difference = (plain - pixels)?.flatten_all()?.to_vec1::<f32>()?;
    let (rows, columns) = (h.div_ceil(WIDE), w.div_ceil(WIDE));
    // The two places between whose middles a pixel lies, and the second one's share.
    let between = |at: usize, places: usize| {
        let at = ((at as f32 + 0.5) / WIDE as f32 - 0.5).clamp(0.0, (places - 1) as f32);
        (at as usize, (at as usize + 1).min(places - 1), at.fract())
    };
    let mut planes = Vec::with_capacity(difference.len());
    for plane in difference.chunks(h * w) {
        let mean = |place: usize| {
            let (y, x) = (place / columns * WIDE, place % columns * WIDE);
            let rows = y..(y + WIDE).min(h);
            let of_row = |row: usize| &plane[row * w + x..row * w + (x + WIDE).min(w)];
            let count = (rows.len() * of_row(y).len()) as f32;
            rows.flat_map(of_row).sum::<f32>() / count
        };
        let means: Vec<f32> = (0..rows * columns).map(mean).collect();
        for (y0, y1, down) in (0..h).map(|y| between(y, rows)) {
            for (x0, x1, right) in (0..w).map(|x| between(x, columns)) {
                let row = |y: usize| means[y * columns + x0] * (1.0 - right) + means[y * columns + x1] * right;
                planes.push(row(y0) * (1.0 - down) + row(y1) * down);
            }
        }
    }
    Ok((pixels + Tensor::from_vec(planes, pixels.dims(), pixels.device())?)?)
}

/// How much `decoded` is like `pixels`, both (1, 3, h, w) from -1 to 1: peak signal-to-noise ratio in dB over what is
/// to be seen of `layer`, from which `pixels` comes. NaN where nothing is to be seen.
///
/// Transparent parts do not count, because white is easy for every model and would hide what the rest is like.
pub fn psnr(decoded: &Tensor, pixels: &Tensor, layer: &LayerImage) -> Result<f64> {
    let (_, _, h, w) = pixels.dims4()?;
    let alpha = alpha(layer, w as u32, h as u32);
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

    /// What a layer of 120 x 90 pixels shows at (x, y): two gradients, and waves of some pixels.
    fn scene(x: u32, y: u32) -> [f32; 3] {
        let waves = 0.03 * (x as f32 * 0.7).sin() * (y as f32 * 0.9).cos();
        [0.3 + 0.002 * x as f32 + waves, 0.5 - 0.002 * y as f32 + waves, 0.4]
    }

    fn scene_layer() -> LayerImage {
        let value = |value: f32| (value * WHITE as f32).round() as u16;
        let pixel = |at: u32| {
            let [r, g, b] = scene(at % 120, at / 120).map(value);
            [r, g, b, u16::MAX]
        };
        LayerImage::new(120, 90, (0..120 * 90).flat_map(pixel).collect()).expect("120x90")
    }

    /// An ellipse within that, soft over so many pixels.
    fn ellipse(softness: f32) -> Selection {
        let distance = |x: u32, y: u32| ((x as f32 - 60.0) / 26.0).powi(2) + ((y as f32 - 45.0) / 18.0).powi(2);
        let coverage = (0..120 * 90).map(|at| {
            let inside = (1.0 - distance(at % 120, at / 120).sqrt()) * 18.0;
            (if softness == 0.0 { f32::from(inside >= 0.0) } else { (inside / softness).clamp(0.0, 1.0) }
                * WHITE as f32) as u16
        });
        Selection::new(120, 90, coverage.collect()).expect("an ellipse")
    }

    /// Largest and mean difference of what is beside each other across the border of the ellipse, as a share of the
    /// range, without that which is there in the layer.
    fn steps(edited: &LayerImage, layer: &LayerImage, selection: &Selection) -> (f32, f32) {
        let share = selection.share(120, 90);
        let value = |picture: &LayerImage, x: u32, y: u32| {
            picture.pixels()[(x, y)].0.map(|value| f32::from(value) / WHITE as f32)
        };
        let (mut largest, mut sum, mut count) = (0_f32, 0.0, 0.0);
        for (x, y) in (0..89).flat_map(|y| (0..119).map(move |x| (x, y))) {
            for other in [(x + 1, y), (x, y + 1)] {
                if (share[(x, y)].0[0] > 0.0) != (share[other].0[0] > 0.0) {
                    let of = |picture, channel: usize| {
                        value(picture, x, y)[channel] - value(picture, other.0, other.1)[channel]
                    };
                    let step =
                        (0..3).map(|channel| (of(edited, channel) - of(layer, channel)).abs()).fold(0.0, f32::max);
                    (largest, sum, count) = (largest.max(step), sum + step, count + 1.0);
                }
            }
        }
        (largest, sum / count)
    }

    /// What a model that works at 64 x 64 pixels gives of the window: all a fifth too bright and too red, and a dark
    /// disk in the middle.
    fn miscolored(selection: &Selection, layer: &LayerImage) -> (Picture, LayerImage) {
        let seen = selection.seen(120, 90);
        let window = layer.cut(seen);
        let shown = to_tensor(&window, (64, 64), &Device::Cpu).expect("a tensor");
        let more = |at: usize| {
            let (x, y, channel) = (at % 64, at / 64 % 64, at / 4096);
            let disk = if (x as f32 - 32.0).hypot(y as f32 - 32.0) < 8.0 { -0.6 } else { 0.0 };
            disk + if channel == 0 { 0.4 } else { 0.2 }
        };
        let more = Tensor::from_vec((0..3 * 4096).map(more).collect::<Vec<f32>>(), (1, 3, 64, 64), &Device::Cpu);
        (Picture::of(&(shown + more.expect("a tensor")).expect("a tensor")).expect("a picture"), window)
    }

    #[test]
    fn what_is_not_selected_stays_and_a_cast_shows_no_seam_at_the_border() {
        let layer = scene_layer();
        for softness in [0.0, 6.0] {
            let selection = ellipse(softness);
            let selection = selection.seen_in(selection.window(0, 64), layer.clone().into());
            let (picture, window) = miscolored(&selection, &layer);
            let (edited, untouched) = picture.around(&selection, &window).on(&layer);
            let share = selection.share(120, 90);
            for (at, (own, new)) in layer.rgba().chunks(4).zip(edited.rgba().chunks(4)).enumerate() {
                let is_selected = share.as_raw()[at] > 0.0;
                assert!(is_selected || own == new, "pixel {at} is not selected, and {own:?} became {new:?}");
                assert_eq!(untouched[at], !is_selected);
            }
            let (largest, mean) = steps(&edited, &layer, &selection);
            assert!(largest < 0.02 && mean < 0.004, "steps of {largest}, {mean} on average, soft by {softness}");

            // What is in the middle keeps its contrast to what is around it.
            let red = |x: u32, y: u32| f32::from(edited.pixels()[(x, y)].0[0]) / WHITE as f32 - scene(x, y)[0];
            let contrast = red(60, 45) - red(60, 33);
            assert!((contrast + 0.3).abs() < 0.06, "the disk is darker by {contrast}, should be by 0.3");
            assert!(red(60, 33).abs() < 0.06, "beside the disk a cast of {} is left", red(60, 33));
        }
        // Without the colors matched it is a seam that the eye sees.
        let selection = ellipse(0.0);
        let selection = selection.seen_in(selection.window(0, 64), layer.clone().into());
        let (mut picture, _) = miscolored(&selection, &layer);
        picture.selection = Some(selection.clone());
        assert!(steps(&picture.on(&layer).0, &layer, &selection).0 > 0.03);
    }

    #[test]
    fn a_selection_in_small_is_that_of_the_layer_in_small() {
        let layer = scene_layer();
        let selection = ellipse(0.0);
        let selection = selection.seen_in(selection.window(0, 64), layer.clone().into());
        let (picture, window) = miscolored(&selection, &layer);
        let picture = picture.around(&selection, &window);
        let (small, large) = (picture.on(&layer.shrunk(40)).0, picture.on(&layer).0.shrunk(40));
        assert_eq!((small.width(), small.height()), (40, 30));
        let mean = |picture: &LayerImage| picture.rgba().iter().map(|&value| f64::from(value)).sum::<f64>();
        assert!((mean(&small) / mean(&large) - 1.0).abs() < 0.01);
        assert_eq!((picture.forming().width(), picture.forming().height()), (96, 72), "as large as the model works");
        let (edited, share) = picture.apart(&layer);
        let seen = selection.seen(120, 90);
        assert_eq!(edited.pixels()[(seen.x, seen.y)].0[3], u16::MAX);
        assert!(seen.x == 0 || edited.pixels()[(seen.x - 1, seen.y)].0[3] == 0, "nothing was drawn there");
        assert_eq!(share.expect("a selection has one").dimensions(), (120, 90));
    }
}
