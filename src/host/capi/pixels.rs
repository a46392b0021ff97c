//! Pixels that a program lends to the C ABI: sizes are checked here, once, before any byte is touched.
#![forbid(unsafe_code)]

use super::calls::Failure;
use super::{ImagicFormat, ImagicStatus};
use crate::image::{LayerImage, MAX_AREA};
use crate::text::text;

/// How the pixels of a picture lie in memory; all sizes are known to fit together.
pub struct Layout {
    format: ImagicFormat,
    width: u32,
    height: u32,
    stride: usize,
    /// Bytes of one row.
    row: usize,
    /// Bytes from the first pixel to the last; at most `isize::MAX`.
    pub bytes: usize,
}

impl Layout {
    /// Refuses unknown formats and sizes that make no sense.
    pub fn new(format: u32, width: u32, height: u32, stride: usize) -> Result<Self, Failure> {
        let format = [ImagicFormat::Rgba8, ImagicFormat::Bgra8, ImagicFormat::Rgba16, ImagicFormat::Bgra16]
            .into_iter()
            .find(|known| format == *known as u32)
            .ok_or_else(|| Failure::argument(format!("format is {format}, must be 0 to 3")))?;
        let area = u64::from(width) * u64::from(height);
        if area == 0 || area > MAX_AREA {
            let (min, max) = (1, MAX_AREA);
            let text =
                text!("the picture has {width}x{height} pixels, must have {min} to {max}", width, height, min, max);
            return Err(Failure { status: ImagicStatus::Argument, text });
        }
        let too_long = || Failure::argument(format!("stride is {stride}, which does not fit into memory"));
        let pixel = match format {
            ImagicFormat::Rgba8 | ImagicFormat::Bgra8 => 4,
            ImagicFormat::Rgba16 | ImagicFormat::Bgra16 => 8,
        };
        let row = (width as usize).checked_mul(pixel).ok_or_else(too_long)?;
        if stride < row {
            return Err(Failure::argument(format!("stride is {stride}, must be at least {row}")));
        }
        let above = stride.checked_mul(height as usize - 1).ok_or_else(too_long)?;
        let bytes = above.checked_add(row).filter(|&bytes| isize::try_from(bytes).is_ok()).ok_or_else(too_long)?;
        Ok(Self { format, width, height, stride, row, bytes })
    }

    /// The layer in `source`, which has exactly `bytes`.
    pub fn read(&self, source: &[u8]) -> Result<LayerImage, Failure> {
        let rows = source.chunks(self.stride).map(|row| &row[..self.row]);
        let layer = match self.format {
            ImagicFormat::Rgba8 => LayerImage::from_rgba8(self.width, self.height, &rows.collect::<Vec<_>>().concat()),
            ImagicFormat::Bgra8 => {
                let mut rgba = rows.collect::<Vec<_>>().concat();
                swap_red_and_blue(&mut rgba);
                LayerImage::from_rgba8(self.width, self.height, &rgba)
            }
            ImagicFormat::Rgba16 | ImagicFormat::Bgra16 => {
                let pairs = rows.flat_map(|row| row.chunks_exact(2));
                let mut values: Vec<_> = pairs.map(|pair| u16::from_ne_bytes([pair[0], pair[1]])).collect();
                if self.format == ImagicFormat::Bgra16 {
                    swap_red_and_blue(&mut values);
                }
                LayerImage::new(self.width, self.height, values)
            }
        };
        let (width, height) = (self.width, self.height);
        let text = || text!("{width}x{height} pixels are too many; scale the picture down", width, height);
        layer.ok_or_else(|| Failure { status: ImagicStatus::Argument, text: text() })
    }

    /// Writes `layer`, which has this size, to `target`, which has exactly `bytes`; what lies between rows stays.
    pub fn write(&self, layer: &LayerImage, target: &mut [u8]) {
        let packed = match self.format {
            ImagicFormat::Rgba8 => layer.to_rgba8(),
            ImagicFormat::Bgra8 => {
                let mut bgra = layer.to_rgba8();
                swap_red_and_blue(&mut bgra);
                bgra
            }
            ImagicFormat::Rgba16 => layer.rgba().iter().flat_map(|value| value.to_ne_bytes()).collect(),
            ImagicFormat::Bgra16 => {
                let mut bgra = layer.rgba().to_vec();
                swap_red_and_blue(&mut bgra);
                bgra.iter().flat_map(|value| value.to_ne_bytes()).collect()
            }
        };
        for (row, packed) in target.chunks_mut(self.stride).zip(packed.chunks(self.row)) {
            row[..self.row].copy_from_slice(packed);
        }
    }
}

fn swap_red_and_blue<T>(pixels: &mut [T]) {
    pixels.chunks_exact_mut(4).for_each(|pixel| pixel.swap(0, 2));
}
