//! How programs lay out pixels in memory: sizes are checked here, once, before any byte is touched.
#![forbid(unsafe_code)]

use crate::image::{LayerImage, MAX_AREA};
use crate::text::{Text, text};
use serde::Deserialize;

/// What one pixel is; alpha is straight, colors are sRGB, 16-bit numbers in the machine's byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PixelFormat {
    Rgba8,
    Bgra8,
    Rgba16,
    Bgra16,
}

impl PixelFormat {
    /// Bytes of one of the four channels.
    fn channel(self) -> usize {
        match self {
            Self::Rgba8 | Self::Bgra8 => 1,
            Self::Rgba16 | Self::Bgra16 => 2,
        }
    }

    /// Turns RGBA into this format, and back.
    fn swap(self, pixels: &mut [u8]) {
        if matches!(self, Self::Bgra8 | Self::Bgra16) {
            let (red, blue) = (0, 2 * self.channel());
            for pixel in pixels.chunks_exact_mut(4 * self.channel()) {
                (0..self.channel()).for_each(|byte| pixel.swap(red + byte, blue + byte));
            }
        }
    }
}

/// How the pixels of a picture lie in memory; all sizes are known to fit together.
pub struct Layout {
    format: PixelFormat,
    width: u32,
    height: u32,
    stride: usize,
    /// Bytes of one row.
    row: usize,
    /// Bytes from the first pixel to the last; at most `isize::MAX`.
    pub bytes: usize,
}

impl Layout {
    /// Refuses sizes that make no sense and says why. `stride`: bytes from one row to the next; `None` where rows have
    /// no gaps.
    pub fn new(format: PixelFormat, width: u32, height: u32, stride: Option<usize>) -> Result<Self, Text> {
        let area = u64::from(width) * u64::from(height);
        if area == 0 || area > MAX_AREA {
            let (min, max) = (1, MAX_AREA);
            return Err(text!(
                "the picture has {width}x{height} pixels, must have {min} to {max}",
                width,
                height,
                min,
                max
            ));
        }
        // At most 8 * MAX_AREA, which fits.
        let row = width as usize * 4 * format.channel();
        let stride = stride.unwrap_or(row);
        if stride < row {
            return Err(Text::verbatim(format!("stride is {stride}, must be at least {row}")));
        }
        let bytes = stride.checked_mul(height as usize - 1).and_then(|above| above.checked_add(row));
        let too_long = || Text::verbatim(format!("stride is {stride}, which does not fit into memory"));
        let bytes = bytes.filter(|&bytes| isize::try_from(bytes).is_ok()).ok_or_else(too_long)?;
        Ok(Self { format, width, height, stride, row, bytes })
    }

    /// The layer in `source`, which has exactly `bytes`.
    pub fn read(&self, source: &[u8]) -> Result<LayerImage, Text> {
        let mut packed = source.chunks(self.stride).map(|row| &row[..self.row]).collect::<Vec<_>>().concat();
        self.format.swap(&mut packed);
        let (width, height) = (self.width, self.height);
        let layer = match self.format.channel() {
            1 => LayerImage::from_rgba8(width, height, &packed),
            _ => {
                let values = packed.chunks_exact(2).map(|pair| u16::from_ne_bytes([pair[0], pair[1]]));
                LayerImage::new(width, height, values.collect())
            }
        };
        layer.ok_or_else(|| text!("{width}x{height} pixels are too many; scale the picture down", width, height))
    }

    /// Writes `layer`, which has this size, to `target`, which has exactly `bytes`; what lies between rows stays.
    pub fn write(&self, layer: &LayerImage, target: &mut [u8]) {
        let mut packed = match self.format.channel() {
            1 => layer.to_rgba8(),
            _ => layer.rgba().iter().flat_map(|value| value.to_ne_bytes()).collect(),
        };
        self.format.swap(&mut packed);
        for (row, packed) in target.chunks_mut(self.stride).zip(packed.chunks(self.row)) {
            row[..self.row].copy_from_slice(packed);
        }
    }
}
