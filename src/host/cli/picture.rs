//! Picture files of the command line: read a PNG, JPEG or WebP as a layer, write a layer as PNG; knows no edit.
#![forbid(unsafe_code)]

use super::help::size;
use crate::error::{Doing, Error, Result};
use crate::files::{self, Room};
use crate::host::system;
use crate::image::{LayerImage, MAX_AREA, MAX_SIDE};
use crate::text::Text;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{DynamicImage, ImageBuffer, ImageDecoder, ImageEncoder, ImageError, ImageFormat, ImageReader, Limits};
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A picture file: its pixels, and what the output has to keep of it.
pub struct Picture {
    /// The pixels, upright.
    pub layer: Arc<LayerImage>,
    /// 16 bits per channel, not 8.
    sixteen_bits: bool,
    /// It has an alpha channel.
    alpha: bool,
    /// ICC profile of the colors.
    profile: Option<Vec<u8>>,
    /// What the user should know about what is not kept.
    pub notes: Vec<String>,
}

impl Picture {
    /// At most so many bytes has an output of its size and depth.
    fn bytes(&self) -> u64 {
        let channels = if self.alpha { 4 } else { 3 };
        let depth = if self.sixteen_bits { 2 } else { 1 };
        let row = u64::from(self.layer.width()) * channels * depth + 1;
        let pixels = u64::from(self.layer.height()) * row;
        // What does not compress stands there as it is, in blocks of 64 KB at most; then there are profile and headers.
        pixels + pixels / 1000 + self.profile.as_ref().map_or(0, Vec::len) as u64 + (4 << 10)
    }
}

/// Bytes of what a picture file has beside its pixels, unpacked: color profile, texts, one row of pixels. A file of 2
/// MB can hold gigabytes of zeros in its profile.
const MAX_EXTRAS: u64 = 64 << 20;

/// Bytes of a color profile; those of printers have three million at most.
const MAX_PROFILE: usize = 16 << 20;

/// Reads the picture in `path`.
pub fn read(path: &Path) -> Result<Picture> {
    let damaged = |error: ImageError| match error {
        ImageError::IoError(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
            Error::file(Doing::Read, path)(error)
        }
        error => refused(format!("cannot read {}: {error}; open it in an editor and save it again", path.display())),
    };
    let reader = files::open(path).and_then(|file| ImageReader::new(BufReader::new(file)).with_guessed_format());
    let mut reader = reader.map_err(Error::file(Doing::Read, path))?;
    if !matches!(reader.format(), Some(ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)) {
        let reason = format!("{} is not a PNG, JPEG or WebP picture; save it as one of these", path.display());
        return Err(refused(reason));
    }
    let mut limits = Limits::no_limits();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_EXTRAS);
    reader.limits(limits);

    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_AREA {
        let limit = MAX_AREA / 1_000_000;
        return Err(refused(format!(
            "{} has {width}x{height} pixels, at most {limit} million can be edited; scale it down",
            path.display()
        )));
    }
    check_memory(path, [width, height], decoder.total_bytes(), system::free_memory())?;
    let orientation = decoder.orientation().map_err(damaged)?;
    let profile = decoder.icc_profile().map_err(damaged)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    image.apply_orientation(orientation);

    let mut notes = Vec::new();
    let profile = profile.filter(|profile| {
        let fits = profile.len() <= MAX_PROFILE;
        if !fits {
            let size = profile.len() / 1_000_000;
            notes.push(format!("the color profile has {size} MB, which is no profile; it is left out of the result"));
        }
        fits
    });
    // Bytes 16 to 19 of an ICC profile name the color space of the pixels it describes.
    let profile = profile.filter(|profile| {
        let fits = profile.get(16..20) == Some(b"RGB ");
        if !fits {
            notes.push("the color profile is not one for RGB and is left out of the result".to_owned());
        }
        fits
    });
    let (sixteen_bits, alpha) =
        (image.color().bytes_per_pixel() / image.color().channel_count() > 1, image.color().has_alpha());
    let rgba = image.into_rgba16();
    let layer = LayerImage::new(rgba.width(), rgba.height(), rgba.into_raw())
        .ok_or_else(|| refused(format!("{} has no pixels", path.display())))?;
    Ok(Picture { layer: layer.into(), sixteen_bits, alpha, profile, notes })
}

/// Refuses a picture of `width` times `height` pixels, which has so many bytes when it is `decoded`, before it takes
/// memory that is not there.
fn check_memory(path: &Path, [width, height]: [u32; 2], decoded: u64, free: Option<u64>) -> Result<()> {
    // As a layer a pixel has 8 bytes; while it is edited as many again for the result, and 7 for the file.
    const LAYER: u64 = 8;
    const EDITED: u64 = 23;
    let pixels = u64::from(width) * u64::from(height);
    let need = (decoded + LAYER * pixels).max(EDITED * pixels);
    match free {
        Some(free) if need > free => Err(Error::Memory(Text::verbatim(format!(
            "{} has {width}x{height} pixels, which take {} of memory, and {} can be had; scale it down or close other \
             programs",
            path.display(),
            size(need),
            size(free)
        )))),
        _ => Ok(()),
    }
}

/// Writes `layer` to `path` as PNG with the depth, alpha channel and profile of `like`: either the whole file or none.
pub fn write(path: &Path, layer: &LayerImage, like: &Picture) -> Result<()> {
    let image = if like.sixteen_bits {
        DynamicImage::ImageRgba16(layer.pixels().clone())
    } else {
        let rgba = ImageBuffer::from_raw(layer.width(), layer.height(), layer.to_rgba8()).expect("the size of a layer");
        DynamicImage::ImageRgba8(rgba)
    };
    let image = match (like.alpha, like.sixteen_bits) {
        (true, _) => image,
        (false, true) => DynamicImage::ImageRgb16(image.into_rgb16()),
        (false, false) => DynamicImage::ImageRgb8(image.into_rgb8()),
    };
    let failed = |error: ImageError| match error {
        ImageError::IoError(error) => Error::file(Doing::Write, path)(error),
        error => Error::Engine(Text::verbatim(format!("cannot encode {}: {error}", path.display()))),
    };
    files::write_whole_by(path, |new| {
        let mut out = BufWriter::new(new);
        let mut encoder = PngEncoder::new_with_quality(&mut out, CompressionType::Default, FilterType::Adaptive);
        if let Some(profile) = &like.profile {
            encoder.set_icc_profile(profile.clone()).map_err(|error| failed(ImageError::Unsupported(error)))?;
        }
        image.write_with_encoder(encoder).map_err(failed)?;
        out.flush().map_err(Error::file(Doing::Write, path))
    })
}

/// Writes `layer` as [`write()`] does into the system's folder for temporary files or into the home, where `path` was
/// refused; where it lies now.
pub fn write_elsewhere(path: &Path, layer: &LayerImage, like: &Picture) -> Option<PathBuf> {
    [Some(std::env::temp_dir()), dirs::home_dir()].into_iter().flatten().find_map(|folder| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        // A folder that nobody else can have put there.
        let own = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(folder).ok()?;
        let rescued = own.path().join(path.file_name()?);
        write(&rescued, layer, like).ok()?;
        // It stays.
        let _ = own.keep();
        Some(rescued)
    })
}

/// Refuses now what could not be written in the end: a missing, read-only or full folder, or the input itself. Until
/// what it gives is dropped, nobody else gets the room that the output of `picture` takes.
pub fn check_output(output: &Path, input: &Path, picture: &Picture) -> Result<Room> {
    if output.is_dir() {
        return Err(refused(format!("{} is a folder; name a file in it", output.display())));
    }
    // A link is replaced by the output.
    if output.symlink_metadata().is_ok_and(|about| !about.is_file() && !about.is_symlink()) {
        return Err(refused(format!("{} is a pipe or a device; name another file", output.display())));
    }
    if let (Ok(output_file), Ok(input_file)) = (output.canonicalize(), input.canonicalize())
        && output_file == input_file
    {
        return Err(refused(format!("the output {} is the input; name another file", output.display())));
    }
    Room::for_file(output, picture.bytes())
}

fn refused(reason: String) -> Error {
    Error::Image(Text::verbatim(reason))
}
