//! The pixels of one drawable as GEGL keeps them: read, written, copied and told apart; knows neither images nor
//! layers.

use crate::host::gimp_sys as sys;
use std::ffi::{CStr, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Rows that are read at a time where their order is all that counts.
const DIGEST_ROWS: i32 = 64;

/// Nothing lies outside of a buffer.
const OUTSIDE: sys::GeglAbyssPolicy = sys::GeglAbyssPolicy::GEGL_ABYSS_NONE;

/// A rectangle in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rectangle {
    pub x: i32,
    pub y: i32,
    pub width: i32,
    pub height: i32,
}

impl Rectangle {
    /// Pixels in it; what libgimp reports is never negative.
    pub fn area(self) -> usize {
        self.width as usize * self.height as usize
    }

    /// The same size at 0, 0: of a drawable that lies here, all in its own coordinates.
    pub fn at_origin(self) -> Self {
        Self { x: 0, y: 0, ..self }
    }

    /// Whether both have the same width and height.
    pub fn has_size_of(self, other: Self) -> bool {
        (self.width, self.height) == (other.width, other.height)
    }
}

/// Values of 16 bits: how babl calls them, and how many make a pixel.
pub struct Format {
    name: &'static CStr,
    channels: usize,
}

/// sRGB with straight alpha; babl converts from and to what the image has: another mode, precision or profile.
pub const RGBA: Format = Format { name: c"R'G'B'A u16", channels: 4 };
/// A mask or the selection.
pub const MASK: Format = Format { name: c"Y u16", channels: 1 };

/// The buffer of a drawable. That of one which was deleted in this moment holds nothing, and what comes next finds that
/// out.
pub struct Buffer(*mut sys::GeglBuffer);

impl Drop for Buffer {
    /// libgimp sends what was written to GIMP.
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the reference is ours, as `take` was promised.
            unsafe { sys::g_object_unref(self.0.cast()) };
        }
    }
}

impl Buffer {
    /// # Safety
    /// `buffer` is null, or a reference that libgimp has given away; GEGL is prepared; this is the thread GIMP called.
    pub unsafe fn take(buffer: *mut sys::GeglBuffer) -> Self {
        Self(buffer)
    }

    /// The pixels of `part`, row by row.
    pub fn read(&self, part: Rectangle, format: &Format) -> Vec<u16> {
        let mut values = vec![0; part.area() * format.channels];
        if !self.0.is_null() {
            // SAFETY: the buffer is ours; `values` has room for every pixel of `part`, without gaps between the rows
            // (stride 0).
            unsafe {
                let (format, data) = (sys::babl_format(format.name.as_ptr()), values.as_mut_ptr().cast::<c_void>());
                sys::gegl_buffer_get(self.0, &gegl(part), 1.0, format.cast(), data, 0, OUTSIDE);
            }
        }
        values
    }

    /// Writes what [`Buffer::read`] gave.
    pub fn write(&self, part: Rectangle, format: &Format, values: &[u16]) {
        assert_eq!(values.len(), part.area() * format.channels, "values for every pixel of the part");
        if !self.0.is_null() {
            // SAFETY: as in `read`; the length is checked above.
            unsafe {
                let (format, data) = (sys::babl_format(format.name.as_ptr()), values.as_ptr().cast::<c_void>());
                sys::gegl_buffer_set(self.0, &gegl(part), 0, format.cast(), data, 0);
            }
        }
    }

    /// Differs for different pixels in `part`, told apart as finely as the buffer can hold them.
    pub fn digest(&self, part: Rectangle) -> u64 {
        let mut hasher = DefaultHasher::new();
        if self.0.is_null() {
            return hasher.finish();
        }
        // SAFETY: the buffer is ours, and babl keeps its formats and their names.
        let (format, name, pixel) = unsafe {
            let format = sys::gegl_buffer_get_format(self.0);
            (format, CStr::from_ptr(sys::babl_get_name(format)), sys::babl_format_get_bytes_per_pixel(format))
        };
        // It names the color space, which a user can change without touching a pixel.
        name.hash(&mut hasher);
        let row = part.width as usize * pixel as usize;
        let mut bytes = vec![0_u8; row * DIGEST_ROWS as usize];
        for y in (0..part.height).step_by(DIGEST_ROWS as usize) {
            let band = Rectangle { y: part.y + y, height: DIGEST_ROWS.min(part.height - y), ..part };
            let data = bytes.as_mut_ptr().cast::<c_void>();
            // SAFETY: `bytes` has room for the rows of a band in the buffer's own format, without gaps (stride 0).
            unsafe { sys::gegl_buffer_get(self.0, &gegl(band), 1.0, format.cast(), data, 0, OUTSIDE) };
            bytes[..row * band.height as usize].hash(&mut hasher);
        }
        hasher.finish()
    }
}

fn gegl(part: Rectangle) -> sys::GeglRectangle {
    sys::GeglRectangle { x: part.x, y: part.y, width: part.width, height: part.height }
}
