//! The selection of the command line: a gray picture file, white where the picture is to be edited.
#![forbid(unsafe_code)]

use super::picture;
use crate::engine::picture::selection::Selection;
use crate::error::{Error, Result};
use crate::image::LayerImage;
use crate::text::Text;
use std::path::Path;

/// The selection in `path` for `layer`, the picture in `input`.
pub fn read(path: &Path, layer: &LayerImage, input: &Path) -> Result<Selection> {
    let refused = |reason: String| Error::Image(Text::verbatim(format!("{} {reason}", path.display())));
    let mask = picture::read(path)?.layer;
    let [mask_size, size] = [&*mask, layer].map(|picture| format!("{}x{}", picture.width(), picture.height()));
    if mask_size != size {
        let input = input.display();
        return Err(refused(format!("has {mask_size} pixels, must have {size} as {input}; scale or crop it")));
    }
    let is_gray = |pixel: &[u16]| pixel[0] == pixel[1] && pixel[1] == pixel[2];
    if let Some(at) = mask.rgba().chunks_exact(4).position(|pixel| !is_gray(pixel)) {
        let (x, y) = (at as u32 % mask.width(), at as u32 / mask.width());
        return Err(refused(format!(
            "has colors (at {x}, {y}), must be gray: white where the picture is to be edited, black elsewhere"
        )));
    }
    // What is transparent is not selected.
    let value = |pixel: &[u16]| (u32::from(pixel[0]) * u32::from(pixel[3]) / u32::from(u16::MAX)) as u16;
    let coverage = mask.rgba().chunks_exact(4).map(value).collect();
    let selection = Selection::new(mask.width(), mask.height(), coverage);
    selection.ok_or_else(|| refused("selects nothing; paint white what is to be edited".to_owned()))
}
