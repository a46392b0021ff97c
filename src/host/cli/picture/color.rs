//! Colors of a picture file to sRGB and back, through its ICC profile or what a PNG says in its place; knows no file.
#![forbid(unsafe_code)]

use moxcms::{
    Chromaticity, CicpColorPrimaries, CicpProfile, ColorPrimaries, ColorProfile, DataColorSpace, Layout,
    MatrixCoefficients, RenderingIntent, TransferCharacteristics, Transform16BitExecutor, TransformOptions, XyY,
    curve_from_gamma,
};
use rayon::prelude::*;
use std::sync::Arc;

/// Pixels that one thread converts at a time.
const CHUNK: usize = 1 << 14;

/// From so many sixteenth bits on (a quarter of a step of eight bits) a color is not that of sRGB.
const SAME: u16 = 64;

/// What the numbers of a picture are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    Gray,
    Rgb,
    /// Ink: 0 is none.
    Cmyk,
}

impl Numbers {
    /// Numbers of one pixel, without alpha.
    pub fn channels(self) -> usize {
        match self {
            Self::Gray => 1,
            Self::Rgb => 3,
            Self::Cmyk => 4,
        }
    }
}

/// Between the colors of a picture and sRGB; 16 bits each.
pub struct Colors {
    numbers: Numbers,
    /// The profile in full, for formats that know no other way.
    pub profile: Vec<u8>,
    to_srgb: Arc<Transform16BitExecutor>,
    /// `None` where the profile goes one way only.
    from_srgb: Option<Arc<Transform16BitExecutor>>,
    /// Linear light of the darkest ink, which becomes black as in editors (black point compensation); 0 else.
    black: f32,
}

impl Colors {
    /// Through the ICC profile `icc`; `None` where the colors are those of sRGB. An error says what is wrong with it.
    pub fn of_icc(icc: Vec<u8>, numbers: Numbers) -> Result<Option<Self>, String> {
        let profile = ColorProfile::new_from_slice(&icc).map_err(|error| format!("cannot be read ({error})"))?;
        let of = match profile.color_space {
            DataColorSpace::Gray => Numbers::Gray,
            DataColorSpace::Rgb => Numbers::Rgb,
            DataColorSpace::Cmyk => Numbers::Cmyk,
            _ => return Err("is neither one for RGB nor for gray nor for CMYK".to_owned()),
        };
        if of != numbers {
            let name = |numbers| match numbers {
                Numbers::Gray => "gray",
                Numbers::Rgb => "RGB",
                Numbers::Cmyk => "CMYK",
            };
            return Err(format!("is one for {}, and the picture is {}", name(of), name(numbers)));
        }
        Self::of(&profile, numbers, icc).ok_or_else(|| "lacks what a conversion needs".to_owned())
    }

    /// Through the exponent `gamma` of a file (gAMA: 0.45455 for a usual display) and the chromaticities of white, red,
    /// green and blue (cHRM), those of sRGB where there are none.
    pub fn of_gamma(gamma: f32, chromaticities: Option<[f32; 8]>, numbers: Numbers) -> Option<Self> {
        const SRGB: [f32; 8] = [0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06];
        /// The exponent that stands for the curve of sRGB (PNG, section 11.3.2.5).
        const SRGB_GAMMA: f32 = 0.45455;
        let points = chromaticities.unwrap_or(SRGB);
        let is_srgb = |(a, b): (&f32, &f32)| (a - b).abs() < 0.002;
        let is_usual = (gamma - SRGB_GAMMA).abs() < 0.01;
        if is_usual && points.iter().zip(&SRGB).all(is_srgb) {
            return None;
        }
        let valid = points.iter().all(|value| (0.0..=1.0).contains(value)) && points[1] > 0.0;
        if !(valid && (0.05..20.0).contains(&gamma)) {
            return None;
        }
        let curve = curve_from_gamma(1.0 / gamma);
        let mut profile = ColorProfile::new_srgb();
        if numbers == Numbers::Gray {
            profile = ColorProfile::new_gray_with_gamma(1.0 / gamma);
        } else {
            let point = |at: usize| Chromaticity::new(points[at], points[at + 1]);
            let primaries = ColorPrimaries { red: point(2), green: point(4), blue: point(6) };
            profile.update_rgb_colorimetry(XyY { x: points[0].into(), y: points[1].into(), yb: 1.0 }, primaries);
            let curve = || Some(curve.clone());
            (profile.red_trc, profile.green_trc, profile.blue_trc) = (curve(), curve(), curve());
        }
        let icc = profile.encode().ok()?;
        // As it is read again, so that every format has the same colors.
        Self::of(&ColorProfile::new_from_slice(&icc).ok()?, numbers, icc)?
    }

    /// Through the code points of a cICP chunk: primaries, curve, matrix, full range. An error where they are no RGB of
    /// the full range or unknown.
    pub fn of_cicp([primaries, curve, matrix, full]: [u8; 4]) -> Result<Option<Self>, String> {
        let wrong = || format!("cICP {primaries} {curve} {matrix} {full} is not known");
        let color_primaries = CicpColorPrimaries::try_from(primaries).map_err(|_| wrong())?;
        let transfer_characteristics = TransferCharacteristics::try_from(curve).map_err(|_| wrong())?;
        let matrix_coefficients = MatrixCoefficients::Identity;
        if (matrix, full) != (0, 1) {
            return Err(wrong());
        }
        let cicp = CicpProfile { color_primaries, transfer_characteristics, matrix_coefficients, full_range: true };
        let mut profile = ColorProfile::new_from_cicp(cicp);
        if !profile.is_matrix_shaper() {
            return Err(wrong());
        }
        // The curves say it, and some readers know no code points in profiles.
        profile.cicp = None;
        let icc = profile.encode().map_err(|_| wrong())?;
        let read = ColorProfile::new_from_slice(&icc).map_err(|_| wrong())?;
        Self::of(&read, Numbers::Rgb, icc).ok_or_else(wrong)
    }

    /// `Some(None)` where it is sRGB.
    fn of(profile: &ColorProfile, numbers: Numbers, icc: Vec<u8>) -> Option<Option<Self>> {
        let layout = match numbers {
            Numbers::Gray => Layout::Gray,
            Numbers::Rgb => Layout::Rgb,
            Numbers::Cmyk => Layout::Rgba,
        };
        let options = TransformOptions {
            // What printers' profiles are made for, and the same as any other in those of displays and cameras.
            rendering_intent: RenderingIntent::Perceptual,
            prefer_fixed_point: false,
            ..TransformOptions::default()
        };
        let srgb = ColorProfile::new_srgb();
        let to_srgb = profile.create_transform_16bit(layout, &srgb, Layout::Rgb, options).ok()?;
        let from_srgb = match numbers {
            Numbers::Cmyk => None,
            _ => srgb.create_transform_16bit(Layout::Rgb, profile, layout, options).ok(),
        };
        let mut colors = Self { numbers, profile: icc, to_srgb, from_srgb, black: 0.0 };
        if numbers == Numbers::Cmyk {
            let darkest = colors.to_srgb(&[u16::MAX; 4]);
            colors.black = darkest.iter().map(|&value| linear(value)).sum::<f32>() / 3.0;
        }
        let is_srgb = numbers != Numbers::Cmyk && colors.is_srgb();
        Some((!is_srgb).then_some(colors))
    }

    /// Whether a grid of colors stays as it is.
    fn is_srgb(&self) -> bool {
        let level = |step: usize| (step * usize::from(u16::MAX) / 8) as u16;
        let grid: Vec<u16> = match self.numbers {
            Numbers::Gray => (0..9).map(level).collect(),
            _ => (0..729).flat_map(|at| [at / 81, at / 9 % 9, at % 9].map(level)).collect(),
        };
        let back = self.to_srgb(&grid);
        let expected = grid.iter().flat_map(|&value| vec![value; if self.numbers == Numbers::Gray { 3 } else { 1 }]);
        back.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= SAME)
    }

    /// Whether [`Colors::back`] can be asked.
    pub fn goes_back(&self) -> bool {
        self.from_srgb.is_some()
    }

    /// Red, green and blue of sRGB for `numbers` of whole pixels.
    pub fn to_srgb(&self, numbers: &[u16]) -> Vec<u16> {
        let mut rgb = converted(self.to_srgb.as_ref(), numbers, self.numbers.channels(), 3);
        if self.black > 0.0 && self.black < 0.5 {
            let deeper = |value: u16| curved((linear(value) - self.black) / (1.0 - self.black));
            let table: Vec<u16> = (0..=u16::MAX).map(deeper).collect();
            rgb.par_iter_mut().for_each(|value| *value = table[usize::from(*value)]);
        }
        rgb
    }

    /// The way back, for what [`Colors::goes_back`].
    pub fn back(&self, rgb: &[u16]) -> Vec<u16> {
        let transform = self.from_srgb.as_ref().expect("the caller has asked whether it goes back");
        converted(transform.as_ref(), rgb, 3, self.numbers.channels())
    }
}

fn converted(transform: &Transform16BitExecutor, from: &[u16], channels: usize, wanted: usize) -> Vec<u16> {
    let mut to = vec![0; from.len() / channels * wanted];
    let chunks = to.par_chunks_mut(CHUNK * wanted).zip(from.par_chunks(CHUNK * channels));
    chunks.for_each(|(to, from)| transform.transform(from, to).expect("as many pixels in as out"));
    to
}

/// Linear light of a number of sRGB (IEC 61966-2-1).
fn linear(value: u16) -> f32 {
    let value = f32::from(value) / f32::from(u16::MAX);
    if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
}

/// The way back of [`linear`].
fn curved(light: f32) -> u16 {
    let light = light.clamp(0.0, 1.0);
    let value = if light <= 0.003_130_8 { light * 12.92 } else { 1.055 * light.powf(1.0 / 2.4) - 0.055 };
    (value * f32::from(u16::MAX)).round() as u16
}
