//! The picture of one layer as it travels between host and engine; knows neither.
#![forbid(unsafe_code)]

use image::imageops::{crop_imm, replace, thumbnail};
use image::{ImageBuffer, Luma, Rgb, Rgba};

/// Largest side of a layer that is accepted, in pixels; GIMP's own limit is 524,288, but four 16-bit
/// channels of that would not fit into memory.
pub const MAX_SIDE: u32 = 65_536;

/// Largest area of a layer that is accepted, in pixels (about 2 GiB as 16-bit RGBA).
pub const MAX_AREA: u64 = 1 << 28;

/// Colors without transparency.
pub type Rgb16 = ImageBuffer<Rgb<u16>, Vec<u16>>;

/// One value for each pixel, 0 to 65535.
pub type Gray16 = ImageBuffer<Luma<u16>, Vec<u16>>;

/// One value for each pixel, 0 to 1.
pub type Mask = ImageBuffer<Luma<f32>, Vec<f32>>;

/// A rectangle of a picture, in pixels from its upper left corner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Of its left side.
    pub x: u32,
    /// Of its upper side.
    pub y: u32,
    /// At least 1.
    pub width: u32,
    /// At least 1.
    pub height: u32,
}

impl Part {
    /// The same middle and the sides `lengths`, moved into a picture of the size `within` and cut to it.
    pub fn grown(self, lengths: [u32; 2], within: [u32; 2]) -> Self {
        let along = |start: u32, own: u32, length: u32, room: u32| {
            let length = length.min(room);
            let first = i64::from(start) - (i64::from(length) - i64::from(own)).div_euclid(2);
            (first.clamp(0, i64::from(room - length)) as u32, length)
        };
        let (x, width) = along(self.x, self.width, lengths[0], within[0]);
        let (y, height) = along(self.y, self.height, lengths[1], within[1]);
        Self { x, y, width, height }
    }
}

/// One layer's pixels: sRGB with its usual transfer curve, straight alpha, 16 bits per channel, row by row.
///
/// The size is checked once, in [`LayerImage::new`]; nobody below checks it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerImage {
    pixels: ImageBuffer<Rgba<u16>, Vec<u16>>,
}

impl LayerImage {
    /// `rgba` holds `width * height * 4` values; `None` when it does not, when a side is 0 or the picture is too large.
    pub fn new(width: u32, height: u32, rgba: Vec<u16>) -> Option<Self> {
        let area = u64::from(width) * u64::from(height);
        let fits = width > 0 && height > 0 && width <= MAX_SIDE && height <= MAX_SIDE && area <= MAX_AREA;
        let exact = fits && rgba.len() as u64 == area * 4;
        exact.then(|| ImageBuffer::from_raw(width, height, rgba).map(|pixels| Self { pixels }))?
    }

    /// As [`LayerImage::new`] from 8-bit values; 255 becomes 65535, so that the way back is exact.
    pub fn from_rgba8(width: u32, height: u32, rgba: &[u8]) -> Option<Self> {
        Self::new(width, height, rgba.iter().map(|&value| u16::from(value) * 257).collect())
    }

    /// Width in pixels, at least 1.
    pub fn width(&self) -> u32 {
        self.pixels.width()
    }

    /// Height in pixels, at least 1.
    pub fn height(&self) -> u32 {
        self.pixels.height()
    }

    /// The picture with sides of at most `side` pixels.
    pub fn shrunk(&self, side: u32) -> Self {
        let longest = self.width().max(self.height());
        if longest <= side {
            return self.clone();
        }
        let length = |length: u32| (u64::from(length) * u64::from(side) / u64::from(longest)).max(1) as u32;
        Self { pixels: thumbnail(&self.pixels, length(self.width()), length(self.height())) }
    }

    /// What lies in `part`, which lies in the picture.
    pub fn cut(&self, part: Part) -> Self {
        Self { pixels: crop_imm(&self.pixels, part.x, part.y, part.width, part.height).to_image() }
    }

    /// The picture as `part` of one of the size `whole`, which is transparent elsewhere.
    pub fn placed(&self, part: Part, whole: [u32; 2]) -> Self {
        let mut pixels = ImageBuffer::new(whole[0], whole[1]);
        replace(&mut pixels, &self.pixels, part.x.into(), part.y.into());
        Self { pixels }
    }

    /// The pixels, for the `image` crate's operations.
    pub fn pixels(&self) -> &ImageBuffer<Rgba<u16>, Vec<u16>> {
        &self.pixels
    }

    /// All values, row by row, R G B A.
    pub fn rgba(&self) -> &[u16] {
        self.pixels.as_raw()
    }

    /// All values rounded to 8 bits.
    pub fn to_rgba8(&self) -> Vec<u8> {
        self.rgba().iter().map(|&value| ((u32::from(value) + 128) / 257) as u8).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_that_does_not_fit_is_refused() {
        for (width, height, len) in [(0, 1, 0), (1, 0, 0), (2, 2, 15), (2, 2, 17), (MAX_SIDE + 1, 1, 4)] {
            assert!(LayerImage::new(width, height, vec![0; len]).is_none(), "{width}x{height} with {len} values");
        }
        assert!(LayerImage::new(1, 1, vec![0; 4]).is_some());
    }

    #[test]
    fn a_part_grows_around_its_middle_and_stays_in_the_picture() {
        let grown = |x, width, length| {
            let part = Part { x, y: 0, width, height: 1 }.grown([length, 1], [100, 1]);
            (part.x, part.width)
        };
        assert_eq!(grown(40, 20, 40), (30, 40));
        assert_eq!(grown(5, 20, 40), (0, 40), "moved in from the left");
        assert_eq!(grown(75, 20, 40), (60, 40), "moved in from the right");
        assert_eq!(grown(40, 20, 200), (0, 100), "cut to the picture");
        assert_eq!(grown(40, 21, 21), (40, 21), "as it was");
    }

    #[test]
    fn eight_bit_values_come_back_unchanged() {
        let rgba: Vec<u8> = (0..=255).collect();
        assert_eq!(LayerImage::from_rgba8(8, 8, &rgba).expect("64 pixels").to_rgba8(), rgba);
    }
}
