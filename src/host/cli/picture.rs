//! Picture files of the command line: read one as a layer, write a layer as one with the colors, the depth and whatever
//! else the picture had; knows no edit.
#![forbid(unsafe_code)]

mod color;
mod encode;
mod exif;
mod extras;

use super::help::size;
use crate::error::{Doing, Error, Result};
use crate::files::{self, Room};
use crate::host::system;
use crate::image::{LayerImage, MAX_AREA, MAX_SIDE};
use crate::text::Text;
use color::{Colors, Numbers};
pub use encode::Format;
use extras::{Extras, MAX_EXTRAS};
use image::codecs::png::PngDecoder;
use image::metadata::Orientation;
use image::{
    AnimationDecoder, ColorType, DynamicImage, ExtendedColorType, GrayImage, ImageBuffer, ImageDecoder, ImageError,
    ImageFormat, ImageReader, Limits, RgbImage,
};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// A picture file: its pixels, and what the output has to keep of it.
pub struct Picture {
    /// The pixels, upright, in sRGB.
    pub layer: Arc<LayerImage>,
    /// 16 bits per channel, not 8.
    sixteen_bits: bool,
    /// It has an alpha channel.
    alpha: bool,
    /// It has no colors.
    gray: bool,
    /// Where its numbers are not those of sRGB.
    own: Option<Own>,
    /// What else it has.
    extras: Extras,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// A picture in its own colors.
struct Own {
    colors: Colors,
    image: DynamicImage,
}

/// Bytes of a color profile; those of printers have three million at most.
const MAX_PROFILE: usize = 16 << 20;

/// What a picture file is decoded to.
struct Decoded {
    pixels: Pixels,
    extras: Extras,
}

enum Pixels {
    /// Gray or RGB, with alpha or without.
    Light(DynamicImage),
    /// CMYK of 8 bits, as a JPEG has it.
    Ink { numbers: Vec<u8>, width: u32, height: u32 },
}

/// Reads the picture in `path`.
pub fn read(path: &Path) -> Result<Picture> {
    let shown = path.display();
    if path.is_dir() {
        return Err(refused(format!("{shown} is a folder; name a picture in it")));
    }
    if path.exists() && !path.is_file() {
        return Err(refused(format!("{shown} is a pipe or a device; name a picture file")));
    }
    let file = files::open(path).map_err(Error::file(Doing::Read, path))?;
    let reader =
        ImageReader::new(BufReader::new(file)).with_guessed_format().map_err(Error::file(Doing::Read, path))?;
    let format = reader.format();
    let Decoded { pixels, mut extras } = match format {
        Some(ImageFormat::Png | ImageFormat::WebP | ImageFormat::Gif | ImageFormat::Tiff) => decode(path, reader)?,
        Some(ImageFormat::Jpeg) => decode_jpeg(path, reader.into_inner())?,
        _ => {
            return Err(refused(format!(
                "{shown} is not a PNG, JPEG, WebP, TIFF or GIF picture; save it as one of these"
            )));
        }
    };
    let mut notes = Vec::new();
    notes.extend(extras.lost.map(|what| format!("the {what} of a TIFF is not kept in the result")));
    if extras.frames > 1 {
        let (frames, is_pages) = (extras.frames, format == Some(ImageFormat::Tiff));
        let (what, each) = if is_pages { ("has", "pages") } else { ("is an animation of", "frames") };
        notes.push(format!("{shown} {what} {frames} {each}; the first is edited and the others are left out"));
    }

    let (pixels, colors) = match pixels {
        Pixels::Light(image) => {
            let numbers = if image.color().has_color() { Numbers::Rgb } else { Numbers::Gray };
            let colors = colors_of(&mut extras, numbers, &mut notes);
            (image, colors)
        }
        Pixels::Ink { numbers, width, height } => {
            (ink_to_light(&mut extras, &numbers, [width, height], &mut notes), None)
        }
    };
    let mut image = pixels;
    image.apply_orientation(extras.exif.as_deref().map_or(Orientation::NoTransforms, exif::orientation));
    if let Some(exif) = &mut extras.exif {
        extras.dots_per_inch = extras.dots_per_inch.or_else(|| exif::dots_per_inch(exif));
        exif::settle(exif, image.width(), image.height());
    }
    if let Some(xmp) = &mut extras.xmp {
        upright(xmp);
    }

    let color = image.color();
    let (sixteen_bits, alpha) = (color.bytes_per_pixel() > color.channel_count(), color.has_alpha());
    let gray = !color.has_color();
    let (rgba, own) = match colors {
        None => (image.into_rgba16(), None),
        Some(colors) => {
            let count = image.width() as usize * image.height() as usize;
            let mut rgba = Vec::with_capacity(count * 4);
            for pixels in stretches(count) {
                let values = values(&image, pixels);
                let rgb = colors.to_srgb(&without_alpha(&values, color));
                let alphas =
                    values.chunks_exact(usize::from(color.channel_count())).map(|pixel| pixel[pixel.len() - 1]);
                for (rgb, last) in rgb.chunks_exact(3).zip(alphas) {
                    rgba.extend_from_slice(rgb);
                    rgba.push(if alpha { last } else { u16::MAX });
                }
            }
            let rgba = ImageBuffer::from_raw(image.width(), image.height(), rgba).expect("four values for each pixel");
            (rgba, Some(Own { colors, image }))
        }
    };
    if alpha && rgba.pixels().all(|pixel| pixel.0[3] == 0) {
        return Err(refused(format!(
            "{shown} is transparent everywhere, so there is nothing to edit; take another one"
        )));
    }
    let layer = LayerImage::new(rgba.width(), rgba.height(), rgba.into_raw())
        .ok_or_else(|| refused(format!("{shown} has no pixels")))?;
    Ok(Picture { layer: layer.into(), sixteen_bits, alpha, gray, own, extras, notes })
}

/// Everything but a JPEG.
fn decode(path: &Path, mut reader: ImageReader<BufReader<File>>) -> Result<Decoded> {
    let format = reader.format();
    let again = || files::open(path).map(BufReader::new).map_err(Error::file(Doing::Read, path));
    let mut limits = Limits::no_limits();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_EXTRAS);
    reader.limits(limits.clone());
    let decoder = reader.into_decoder().map_err(|error| damaged(path, error))?;
    let (width, height) = decoder.dimensions();
    check_area(path, width, height)?;
    check_memory(path, [width, height], decoder.total_bytes(), system::free_memory())?;
    let unreadable = Error::file(Doing::Read, path);
    let extras = match format {
        Some(ImageFormat::Png) => Extras::of_png(again()?).map_err(unreadable)?,
        Some(ImageFormat::WebP) => Extras::of_webp(again()?).map_err(unreadable)?,
        Some(ImageFormat::Gif) => Extras::of_gif(&files::read(path).map_err(unreadable)?),
        _ => Extras::of_tiff(again()?),
    };
    if matches!(decoder.original_color_type(), ExtendedColorType::Cmyk8 | ExtendedColorType::Cmyk16) {
        return Err(refused(format!("{} is a TIFF in CMYK, which cannot be read; save it in RGB", path.display())));
    }
    let image = if extras.frames > 1 && extras.still_is_hidden {
        // Three pictures of four channels are made of it.
        limits.max_alloc = Some(MAX_EXTRAS + 12 * u64::from(width) * u64::from(height));
        let animation = PngDecoder::with_limits(again()?, limits).and_then(PngDecoder::apng);
        let first = animation.and_then(|animation| animation.into_frames().next().transpose());
        let first = first.map_err(|error| damaged(path, error))?;
        let none = || refused(format!("{} is an animation without a frame; take another one", path.display()));
        DynamicImage::ImageRgba8(first.ok_or_else(none)?.into_buffer())
    } else {
        DynamicImage::from_decoder(decoder).map_err(|error| damaged(path, error))?
    };
    // Numbers without limit are none that a layer has.
    let image = match image.color() {
        ColorType::Rgb32F => DynamicImage::ImageRgb16(image.into_rgb16()),
        ColorType::Rgba32F => DynamicImage::ImageRgba16(image.into_rgba16()),
        _ => image,
    };
    Ok(Decoded { pixels: Pixels::Light(image), extras })
}

fn decode_jpeg(path: &Path, mut file: BufReader<File>) -> Result<Decoded> {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).map_err(Error::file(Doing::Read, path))?;
    let extras = Extras::of_jpeg(&bytes);
    let options = |is_strict| {
        let most = MAX_SIDE as usize;
        DecoderOptions::default().set_strict_mode(is_strict).set_max_width(most).set_max_height(most)
    };
    let said = |error: &dyn std::fmt::Display| broken(path, &error.to_string());
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(&bytes[..]), options(false));
    decoder.decode_headers().map_err(|error| said(&error))?;
    let (width, height) = decoder.dimensions().ok_or_else(|| said(&"it has no size"))?;
    let (width, height) = (width as u32, height as u32);
    check_area(path, width, height)?;
    let kind = decoder.input_colorspace().unwrap_or(ColorSpace::YCbCr);
    let wanted = match kind {
        ColorSpace::Luma | ColorSpace::CMYK | ColorSpace::YCCK => kind,
        _ => ColorSpace::RGB,
    };
    let decoded = u64::from(width) * u64::from(height) * wanted.num_components() as u64;
    check_memory(path, [width, height], decoded, system::free_memory())?;
    let Some(end) = extras.end else {
        return Err(refused(format!(
            "{} ends before the picture does, a part of the file is missing; get it again, or open it in an editor and \
             save what is left",
            path.display()
        )));
    };
    // Without its last marker, which the decoder also takes for the end where much is missing before it; of a
    // progressive one it needs it.
    let end = if extras.is_progressive { bytes.len() } else { end };
    let decode = |is_strict| {
        let options = options(is_strict).jpeg_set_out_colorspace(wanted);
        JpegDecoder::new_with_options(ZCursor::new(&bytes[..end]), options).decode()
    };
    let numbers = match decode(true) {
        // Some cameras leave some there, and nobody minds.
        Err(error) if format!("{error:?}").contains("Extra bytes") => decode(false),
        decoded => decoded,
    };
    let numbers = numbers.map_err(|error| said(&error))?;
    let sized = || broken(path, "its pixels are not as many as its size says");
    let pixels = match wanted {
        ColorSpace::Luma => DynamicImage::ImageLuma8(GrayImage::from_raw(width, height, numbers).ok_or_else(sized)?),
        ColorSpace::RGB => DynamicImage::ImageRgb8(RgbImage::from_raw(width, height, numbers).ok_or_else(sized)?),
        _ => {
            if numbers.len() as u64 != u64::from(width) * u64::from(height) * 4 {
                return Err(sized());
            }
            let numbers = inks(numbers, kind == ColorSpace::YCCK, extras.is_adobe);
            return Ok(Decoded { pixels: Pixels::Ink { numbers, width, height }, extras });
        }
    };
    Ok(Decoded { pixels: Pixels::Light(pixels), extras })
}

/// Ink from what a JPEG has.
fn inks(mut numbers: Vec<u8>, is_ycck: bool, is_adobe: bool) -> Vec<u8> {
    for pixel in numbers.chunks_exact_mut(4) {
        if is_ycck {
            // ITU-T T.871, 7: luminance and color to red, green and blue, which are the inverse of the numbers.
            let [y, cb, cr] = [pixel[0], pixel[1], pixel[2]].map(f32::from);
            let (cb, cr) = (cb - 128.0, cr - 128.0);
            let rgb = [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb];
            for (number, light) in pixel.iter_mut().zip(rgb) {
                *number = 255 - light.round().clamp(0.0, 255.0) as u8;
            }
        }
        if is_adobe {
            pixel.iter_mut().for_each(|number| *number = 255 - *number);
        }
    }
    numbers
}

/// The picture that `numbers` of CMYK show, in sRGB.
fn ink_to_light(
    extras: &mut Extras,
    numbers: &[u8],
    [width, height]: [u32; 2],
    notes: &mut Vec<String>,
) -> DynamicImage {
    let colors = extras.profile.take().map(|profile| Colors::of_icc(profile, Numbers::Cmyk));
    let rgb = match colors {
        Some(Ok(Some(colors))) => {
            notes.push(
                "the picture is in CMYK, for print; the result is in RGB, with the same colors in sRGB".to_owned(),
            );
            let deep: Vec<u16> = numbers.iter().map(|&number| u16::from(number) * 257).collect();
            colors.to_srgb(&deep).into_iter().map(|value| ((u32::from(value) + 128) / 257) as u8).collect()
        }
        other => {
            let why = match other {
                Some(Err(why)) => format!("its color profile {why}"),
                _ => "it has no color profile".to_owned(),
            };
            notes.push(format!(
                "the picture is in CMYK and {why}, so its colors are a guess; save it in RGB for the right ones"
            ));
            let light = |ink: u8, black: u8| (u32::from(255 - ink) * u32::from(255 - black) / 255) as u8;
            numbers.chunks_exact(4).flat_map(|ink| [0, 1, 2].map(|at| light(ink[at], ink[3]))).collect()
        }
    };
    DynamicImage::ImageRgb8(RgbImage::from_raw(width, height, rgb).expect("three values for each pixel"))
}

/// Between the colors of the picture and sRGB; `None` where they are the same, or nobody knows. What of `extras` does
/// not fit is taken out.
fn colors_of(extras: &mut Extras, numbers: Numbers, notes: &mut Vec<String>) -> Option<Colors> {
    if let Some(points) = extras.png.code_points {
        extras.profile = None;
        // Those of sRGB.
        if points == [1, 13, 0, 1] {
            return None;
        }
        match Colors::of_cicp(points) {
            Ok(colors) if numbers == Numbers::Rgb => return colors,
            Ok(_) => {}
            Err(why) => notes.push(format!("{why}; the colors are taken for those of sRGB")),
        }
        extras.png.code_points = None;
        return None;
    }
    if let Some(profile) = extras.profile.take() {
        if profile.len() > MAX_PROFILE {
            let size = profile.len() / 1_000_000;
            notes.push(format!("the color profile has {size} MB, which is no profile; it is left out of the result"));
            return None;
        }
        return match Colors::of_icc(profile.clone(), numbers) {
            Ok(Some(colors)) if !colors.goes_back() => {
                notes.push("the color profile goes one way only; the result is in sRGB".to_owned());
                Some(colors)
            }
            Ok(colors) => {
                extras.profile = Some(profile);
                colors
            }
            Err(why) => {
                notes.push(format!("the color profile {why}; it is left out, and the colors are taken for sRGB"));
                None
            }
        };
    }
    if extras.png.is_srgb {
        return None;
    }
    let points = extras.png.chromaticities.map(|points| points.map(|point| point as f32 / 1e5));
    Colors::of_gamma(extras.png.gamma? as f32 / 1e5, points, numbers)
}

/// Pixels that are converted at a time.
const STRETCH: usize = 1 << 20;

/// `count` pixels in stretches.
fn stretches(count: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(STRETCH).map(move |start| start..(start + STRETCH).min(count))
}

/// All values of some pixels, with 16 bits.
fn values(image: &DynamicImage, pixels: Range<usize>) -> Vec<u16> {
    let (color, bytes) = (image.color(), usize::from(image.color().bytes_per_pixel()));
    let bytes = &image.as_bytes()[pixels.start * bytes..pixels.end * bytes];
    if color.bytes_per_pixel() > color.channel_count() {
        return bytes.chunks_exact(2).map(|pair| u16::from_ne_bytes([pair[0], pair[1]])).collect();
    }
    bytes.iter().map(|&value| u16::from(value) * 257).collect()
}

/// Values of pixels of the kind `color`, alpha left out.
fn without_alpha(values: &[u16], color: ColorType) -> Vec<u16> {
    let channels = usize::from(color.channel_count());
    let kept = channels - usize::from(color.has_alpha());
    values.chunks_exact(channels).flat_map(|pixel| &pixel[..kept]).copied().collect()
}

/// Tells `xmp` that the picture is upright.
fn upright(xmp: &mut [u8]) {
    const NAME: &[u8] = b"tiff:Orientation";
    let mut at = 0;
    while let Some(found) = xmp[at..].windows(NAME.len()).position(|window| window == NAME) {
        at += found + NAME.len();
        // ="6" or >6<
        let value = xmp[at..].iter().take(4).position(u8::is_ascii_digit);
        if let Some(value) = value {
            xmp[at + value] = b'1';
        }
    }
}

fn check_area(path: &Path, width: u32, height: u32) -> Result<()> {
    if u64::from(width) * u64::from(height) <= MAX_AREA {
        return Ok(());
    }
    let limit = MAX_AREA / 1_000_000;
    Err(refused(format!(
        "{} has {width}x{height} pixels, at most {limit} million can be edited; scale it down",
        path.display()
    )))
}

/// Refuses a picture of `width` times `height` pixels, which has so many bytes when it is `decoded`, before it takes
/// memory that is not there.
fn check_memory(path: &Path, [width, height]: [u32; 2], decoded: u64, free: Option<u64>) -> Result<()> {
    // As a layer a pixel has 8 bytes, and as the result; a picture with a profile stays as it was decoded; while the
    // result is scaled up there are 6 more, 5 for what the edit touches, and 3 where there is transparency.
    const EDITED: u64 = 30;
    let pixels = u64::from(width) * u64::from(height);
    let need = decoded + EDITED * pixels;
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

fn damaged(path: &Path, error: ImageError) -> Error {
    match error {
        ImageError::IoError(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
            Error::file(Doing::Read, path)(error)
        }
        ImageError::Limits(_) => refused(format!(
            "{} is larger than {MAX_SIDE} pixels on a side, or what it has beside its pixels takes more than {}; scale \
             it down, or open it in an editor and save it again",
            path.display(),
            size(MAX_EXTRAS)
        )),
        error => broken(path, &error.to_string()),
    }
}

/// A picture file that its decoder refuses with these words.
fn broken(path: &Path, said: &str) -> Error {
    let shown = path.display();
    let why = if said.contains("CgBI") {
        "is a PNG for iPhones, as Xcode writes them"
    } else if said.contains("CRC") {
        "is damaged: its check sums are wrong"
    } else if ["nexpected end", "nexpected EOF", "UnexpectedEof", "xhausted", "remature", "failed to fill"]
        .iter()
        .any(|words| said.contains(words))
    {
        "ends before the picture does, a part of the file is missing"
    } else {
        "is damaged or of a kind that cannot be read"
    };
    refused(format!("{shown} {why}; get it again, or open it in an editor and save it as PNG"))
}

impl Picture {
    /// At most so many bytes has an output of its size and depth.
    fn bytes(&self, format: Format) -> u64 {
        let channels = if self.alpha && format.has_alpha() { 4 } else { 3 };
        let depth = if self.sixteen_bits && format.has_sixteen_bits() { 2 } else { 1 };
        let row = u64::from(self.layer.width()) * channels * depth + 1;
        let pixels = u64::from(self.layer.height()) * row;
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let Extras { profile, exif, xmp, iptc, texts, .. } = &self.extras;
        let texts: usize = texts.iter().map(|(keyword, text)| keyword.len() + text.len() + 32).sum();
        let extras = [profile, exif, xmp, iptc].into_iter().map(length).sum::<u64>() + texts as u64;
        // What does not compress stands there as it is, in blocks of 64 KB at most; then there are profile and headers.
        pixels + pixels / 1000 + extras + (4 << 10)
    }

    /// What of the picture a file of `format` does not keep.
    pub fn left_out(&self, format: Format) -> Vec<String> {
        let mut notes = Vec::new();
        let name = format.name();
        if self.alpha && !format.has_alpha() {
            notes.push(format!("{name} has no transparency; the result is laid on white"));
        }
        if self.sixteen_bits && !format.has_sixteen_bits() {
            notes.push(format!("{name} has 8 bits per channel, the picture has 16"));
        }
        let left_out = format.leaves_out(&self.extras);
        if !left_out.is_empty() {
            notes.push(format!("{name} has no place for {} of the picture; PNG keeps more", left_out.join(", ")));
        }
        notes
    }

    /// `result` in the picture's own colors, depth and channels, as far as `format` has them; whether it is no longer
    /// gray, as the picture is.
    fn pixels(&self, result: &LayerImage, format: Format) -> (DynamicImage, bool, bool) {
        let with_alpha = self.alpha && format.has_alpha();
        let has_color = self.gray && is_colored(result);
        let as_gray = self.gray && !has_color && format.has_gray(with_alpha);
        let own = self.own.as_ref().filter(|own| own.colors.goes_back() && as_gray == self.gray);
        // Without transparency it is laid on white.
        let is_laid = self.alpha && !with_alpha;
        let white = u32::from(u16::MAX);
        let laid = |value: u16, alpha: u16| {
            let alpha = u32::from(alpha);
            ((u32::from(value) * alpha + white * (white - alpha) + white / 2) / white) as u16
        };
        let channels = if as_gray { 1 } else { 3 };
        let mut out = Out::new(self.sixteen_bits && format.has_sixteen_bits());
        let (width, height) = (result.width(), result.height());
        for pixels in stretches(width as usize * height as usize) {
            let rgba = 4 * pixels.start..4 * pixels.end;
            let (now, was) = (&result.rgba()[rgba.clone()], &self.layer.rgba()[rgba]);
            let shown = |pixel: &[u16]| [0, 1, 2].map(|at| if is_laid { laid(pixel[at], pixel[3]) } else { pixel[at] });
            let rgb: Vec<u16> = now.chunks_exact(4).flat_map(shown).collect();
            let mut numbers = match own {
                Some(own) => own.colors.back(&rgb),
                None if as_gray => rgb.chunks_exact(3).map(luminance).collect(),
                None => rgb,
            };
            // What the edit has left alone is as it was, also where sRGB has no such color.
            if let Some(own) = own {
                let before = without_alpha(&values(&own.image, pixels), own.image.color());
                for (at, (now, was)) in now.chunks_exact(4).zip(was.chunks_exact(4)).enumerate() {
                    if now == was && (!is_laid || now[3] == u16::MAX) {
                        let place = at * channels..(at + 1) * channels;
                        numbers[place.clone()].copy_from_slice(&before[place]);
                    }
                }
            }
            for (numbers, pixel) in numbers.chunks_exact(channels).zip(now.chunks_exact(4)) {
                numbers.iter().for_each(|&number| out.push(number));
                if with_alpha {
                    out.push(pixel[3]);
                }
            }
        }
        (out.image([width, height], channels + usize::from(with_alpha)), has_color, own.is_some())
    }
}

/// Rec. ITU-R BT.709: what of each color the eye sees as light.
fn luminance(rgb: &[u16]) -> u16 {
    let [red, green, blue] = [rgb[0], rgb[1], rgb[2]].map(u32::from);
    ((2126 * red + 7152 * green + 722 * blue + 5000) / 10_000) as u16
}

/// Values of an image on their way out.
enum Out {
    Deep(Vec<u16>),
    Shallow(Vec<u8>),
}

impl Out {
    fn new(is_deep: bool) -> Self {
        if is_deep { Self::Deep(Vec::new()) } else { Self::Shallow(Vec::new()) }
    }

    fn push(&mut self, value: u16) {
        match self {
            Self::Deep(values) => values.push(value),
            Self::Shallow(values) => values.push(((u32::from(value) + 128) / 257) as u8),
        }
    }

    /// An image of so many channels.
    fn image(self, [width, height]: [u32; 2], channels: usize) -> DynamicImage {
        macro_rules! image {
            ($deep:ident, $shallow:ident) => {
                match self {
                    Self::Deep(values) => {
                        DynamicImage::$deep(ImageBuffer::from_raw(width, height, values).expect("its size"))
                    }
                    Self::Shallow(values) => {
                        DynamicImage::$shallow(ImageBuffer::from_raw(width, height, values).expect("its size"))
                    }
                }
            };
        }
        match channels {
            1 => image!(ImageLuma16, ImageLuma8),
            2 => image!(ImageLumaA16, ImageLumaA8),
            3 => image!(ImageRgb16, ImageRgb8),
            _ => image!(ImageRgba16, ImageRgba8),
        }
    }
}

/// Whether more than one in a thousand of the visible pixels has a color to speak of.
fn is_colored(layer: &LayerImage) -> bool {
    // A tenth of the range between the strongest and the weakest channel; a model's own rounding is far below.
    const COLOR: u16 = u16::MAX / 10;
    let colored = |pixel: &&[u16]| {
        let (most, least) = (pixel[..3].iter().max(), pixel[..3].iter().min());
        pixel[3] > 0 && most.zip(least).is_some_and(|(most, least)| most - least > COLOR)
    };
    let count = layer.rgba().chunks_exact(4).filter(colored).count();
    count as u64 * 1000 > u64::from(layer.width()) * u64::from(layer.height())
}

/// What becomes of a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    Stays,
    Replaced,
}

/// Writes `layer` to `path` in the format that its extension says, with what `like` has: either the whole file or none.
/// What the user should know of it.
pub fn write(path: &Path, layer: &LayerImage, like: &Picture, existing: Existing) -> Result<Vec<String>> {
    let format = Format::of(path).map_err(refused)?;
    let (image, has_color, is_own) = like.pixels(layer, format);
    let mut extras = Extras {
        profile: None,
        png: Default::default(),
        exif: like.extras.exif.clone(),
        xmp: like.extras.xmp.clone(),
        iptc: like.extras.iptc.clone(),
        dots_per_inch: like.extras.dots_per_inch,
        texts: like.extras.texts.clone(),
        ..Extras::default()
    };
    if is_own || (like.own.is_none() && !(like.gray && image.color().has_color())) {
        extras.profile = like.extras.profile.clone();
        extras.png = like.extras.png.clone();
        // Other formats have no such chunks.
        if let (Some(own), None, true) = (&like.own, &extras.profile, format != Format::Png) {
            extras.profile = Some(own.colors.profile.clone());
        }
    }
    let failed = |error: Box<dyn std::error::Error>| match error.downcast::<std::io::Error>() {
        Ok(error) => Error::file(Doing::Write, path)(*error),
        Err(error) => Error::Engine(Text::verbatim(format!("cannot encode {}: {error}", path.display()))),
    };
    if existing == Existing::Stays && path.symlink_metadata().is_ok() {
        return Err(is_there(path));
    }
    files::write_whole_by(path, |new| {
        let mut out = BufWriter::new(new);
        encode::write(&mut out, format, &image, &extras).map_err(failed)?;
        out.flush().map_err(Error::file(Doing::Write, path))
    })?;
    let note = format!("the picture is gray and {} has colors, so it is written in RGB", path.display());
    Ok(if has_color { vec![note] } else { Vec::new() })
}

/// Writes `layer` as [`write()`] does into the system's folder for temporary files or into the home, where `path` was
/// refused; where it lies now.
pub fn write_elsewhere(path: &Path, layer: &LayerImage, like: &Picture) -> Option<PathBuf> {
    [Some(std::env::temp_dir()), dirs::home_dir()].into_iter().flatten().find_map(|folder| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        // A folder that nobody else can have put there.
        let own = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(folder).ok()?;
        let rescued = own.path().join(path.file_name()?);
        write(&rescued, layer, like, Existing::Stays).ok()?;
        // It stays.
        let _ = own.keep();
        Some(rescued)
    })
}

/// Refuses now what could not be written in the end: a missing, read-only or full folder, a file that is there, or the
/// input itself. Until what it gives is dropped, nobody else gets the room that the output of `picture` takes.
pub fn check_output(output: &Path, input: &Path, picture: &Picture, existing: Existing) -> Result<Room> {
    let format = Format::of(output).map_err(refused)?;
    if output.is_dir() {
        return Err(refused(format!("{} is a folder; name a file in it", output.display())));
    }
    if let Some(folder) = output.parent().filter(|folder| *folder != Path::new("") && !folder.exists()) {
        return Err(refused(format!("there is no folder {}; make it, or name another file", folder.display())));
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
    if existing == Existing::Stays && output.symlink_metadata().is_ok() {
        return Err(is_there(output));
    }
    Room::for_file(output, picture.bytes(format))
}

fn is_there(output: &Path) -> Error {
    refused(format!("{} is there already; name another file, or replace it with --force", output.display()))
}

fn refused(reason: String) -> Error {
    Error::Image(Text::verbatim(reason))
}

#[cfg(test)]
mod tests;
