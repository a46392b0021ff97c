//! What the adapters of all GIMP versions share; calls no GIMP function.
//!
//! The files in `gimp/` call GIMP through the `libgimp` of the adapter that they are compiled into: once for each version,
//! because the C types of two versions have the same names and must not mix.

pub mod ffi;
pub mod mnemonics;

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
}

/// How the pixels of an image are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Rgb,
    Gray,
    Indexed,
}

/// What a drawable is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Layer,
    FloatingSelection,
    LayerMask,
    Channel,
}
