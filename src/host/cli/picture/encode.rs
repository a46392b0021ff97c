//! Writes a picture as PNG, JPEG, WebP or TIFF with what it has beside its pixels; knows no layer and no profile's
//! meaning.
#![forbid(unsafe_code)]

use super::exif;
use super::extras::{EXIF_MARK, Extras, IPTC_MARK, XMP_KEYWORD, XMP_MARK};
use image::codecs::jpeg::JpegEncoder;
use image::{ColorType, DynamicImage, ExtendedColorType, ImageEncoder};
use std::borrow::Cow;
use std::error::Error;
use std::io::{Seek, Write};
use std::path::Path;
use tiff::Directory;
use tiff::encoder::colortype;
use tiff::encoder::compression::DeflateLevel;
use tiff::encoder::{Compression, DirectoryEncoder, Predictor, Rational, TiffEncoder, TiffKind, TiffValue};
use tiff::tags::{ExtraSamples, ResolutionUnit, Tag, Type};

/// What a result can be written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Png,
    Jpeg,
    WebP,
    Tiff,
}

/// Of a JPEG, of 100.
const QUALITY: u8 = 95;

/// A JPEG's segment has at most so many bytes beside its marker and its length.
const SEGMENT: usize = 65_533;

const INCH_IN_METERS: f64 = 0.0254;

impl Format {
    /// What the extension of `path` says; an error names those that are known.
    pub fn of(path: &Path) -> Result<Self, String> {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        match extension.as_str() {
            "png" => Ok(Self::Png),
            "jpg" | "jpeg" => Ok(Self::Jpeg),
            "webp" => Ok(Self::WebP),
            "tif" | "tiff" => Ok(Self::Tiff),
            _ => Err(format!(
                "the result is a PNG, JPEG, WebP or TIFF file; end {} with .png, .jpg, .webp or .tif",
                path.display()
            )),
        }
    }

    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
            Self::Tiff => "TIFF",
        }
    }

    /// Whether it has 16 bits.
    pub fn has_sixteen_bits(self) -> bool {
        matches!(self, Self::Png | Self::Tiff)
    }

    /// Whether it has an alpha channel.
    pub fn has_alpha(self) -> bool {
        self != Self::Jpeg
    }

    /// Whether it has pictures of one channel, and those with alpha beside it.
    pub fn has_gray(self, with_alpha: bool) -> bool {
        match self {
            Self::Png | Self::Tiff => true,
            Self::Jpeg => !with_alpha,
            Self::WebP => false,
        }
    }

    /// What of `extras` it has no place for.
    pub fn leaves_out(self, extras: &Extras) -> Vec<&'static str> {
        let fits = |bytes: &Option<Vec<u8>>, mark: &[u8]| {
            bytes.as_ref().is_none_or(|bytes| self != Self::Jpeg || mark.len() + bytes.len() <= SEGMENT)
        };
        let texts = !extras.texts.is_empty();
        let left_out = [
            ("EXIF", !fits(&extras.exif, EXIF_MARK)),
            ("XMP", !fits(&extras.xmp, XMP_MARK)),
            ("IPTC", matches!(self, Self::Png | Self::WebP) && extras.iptc.is_some()),
            ("the resolution", self == Self::WebP && extras.dots_per_inch.is_some() && extras.exif.is_none()),
            ("texts", self == Self::WebP && texts),
        ];
        left_out.into_iter().filter(|(_, is_left_out)| *is_left_out).map(|(name, _)| name).collect()
    }
}

/// Writes `image`, whose kind of pixels `format` has, with `extras`; of its colors only what is to be written is there.
pub fn write(
    out: impl Write + Seek,
    format: Format,
    image: &DynamicImage,
    extras: &Extras,
) -> Result<(), Box<dyn Error>> {
    match format {
        Format::Png => png(out, image, extras),
        Format::Jpeg => jpeg(out, image, extras),
        Format::WebP => webp(out, image, extras),
        Format::Tiff => tiff(out, image, extras),
    }
}

fn png(out: impl Write, image: &DynamicImage, extras: &Extras) -> Result<(), Box<dyn Error>> {
    let mut info = png::Info::with_size(image.width(), image.height());
    info.icc_profile = extras.profile.as_deref().map(Into::into);
    let mut encoder = png::Encoder::with_info(out, info)?;
    let color = image.color();
    encoder.set_color(match color {
        ColorType::L8 | ColorType::L16 => png::ColorType::Grayscale,
        ColorType::La8 | ColorType::La16 => png::ColorType::GrayscaleAlpha,
        ColorType::Rgb8 | ColorType::Rgb16 => png::ColorType::Rgb,
        _ => png::ColorType::Rgba,
    });
    let is_deep = color.bytes_per_pixel() > color.channel_count();
    encoder.set_depth(if is_deep { png::BitDepth::Sixteen } else { png::BitDepth::Eight });
    encoder.set_compression(png::Compression::Balanced);
    encoder.set_filter(png::Filter::Adaptive);
    let mut writer = encoder.write_header()?;

    let big_endian = |numbers: &[u32]| numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>();
    let colors = &extras.png;
    let mut chunks: Vec<([u8; 4], Vec<u8>)> = Vec::new();
    chunks.extend(colors.code_points.map(|points| (*b"cICP", points.to_vec())));
    chunks.extend(colors.is_srgb.then(|| (*b"sRGB", vec![0])));
    chunks.extend(colors.gamma.map(|gamma| (*b"gAMA", big_endian(&[gamma]))));
    chunks.extend(colors.chromaticities.map(|points| (*b"cHRM", big_endian(&points))));
    chunks.extend(extras.dots_per_inch.map(|dots| {
        let per_meter = dots.map(|dots| (dots / INCH_IN_METERS).round() as u32);
        (*b"pHYs", [big_endian(&per_meter), vec![1]].concat())
    }));
    chunks.extend(extras.exif.clone().map(|exif| (*b"eXIf", exif)));
    chunks.extend(extras.texts.iter().map(|(keyword, text)| png_text(keyword, text)));
    let xmp = extras.xmp.as_ref().map(|xmp| String::from_utf8_lossy(xmp));
    chunks.extend(xmp.map(|xmp| (*b"iTXt", international(XMP_KEYWORD, &xmp))));
    for (name, content) in chunks {
        writer.write_chunk(png::chunk::ChunkType(name), &content)?;
    }

    let row = image.width() as usize * usize::from(color.bytes_per_pixel());
    let mut rows = writer.stream_writer()?;
    for native in image.as_bytes().chunks(row) {
        if is_deep {
            let values = native.chunks_exact(2).map(|pair| u16::from_ne_bytes([pair[0], pair[1]]));
            rows.write_all(&values.flat_map(u16::to_be_bytes).collect::<Vec<u8>>())?;
        } else {
            rows.write_all(native)?;
        }
    }
    rows.finish()?;
    Ok(writer.finish()?)
}

/// A chunk for `text`, in the older form where that has its letters.
fn png_text(keyword: &str, text: &str) -> ([u8; 4], Vec<u8>) {
    let latin =
        |text: &str| text.chars().map(|letter| u8::try_from(u32::from(letter)).ok()).collect::<Option<Vec<u8>>>();
    match latin(keyword).zip(latin(text)) {
        Some((keyword, text)) => (*b"tEXt", [keyword, vec![0], text].concat()),
        None => (*b"iTXt", international(keyword, text)),
    }
}

fn international(keyword: &str, text: &str) -> Vec<u8> {
    // Not packed, no language, no keyword in it.
    [keyword.as_bytes(), &[0; 5], text.as_bytes()].concat()
}

fn jpeg(mut out: impl Write, image: &DynamicImage, extras: &Extras) -> Result<(), Box<dyn Error>> {
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, QUALITY);
    if let Some(profile) = &extras.profile {
        encoder.set_icc_profile(profile.clone())?;
    }
    if let Some(dots) = extras.dots_per_inch {
        let [x, y] = dots.map(|dots| dots.round().clamp(1.0, f64::from(u16::MAX)) as u16);
        encoder.set_pixel_density(image::codecs::jpeg::PixelDensity {
            density: (x, y),
            unit: image::codecs::jpeg::PixelDensityUnit::Inches,
        });
    }
    encoder.write_image(image.as_bytes(), image.width(), image.height(), extended(image.color()))?;
    let comments = extras.texts.iter().map(|(keyword, text)| match keyword.as_str() {
        "Comment" => text.clone().into_bytes(),
        _ => format!("{keyword}: {text}").into_bytes(),
    });
    let mark = |mark: &[u8], content: &Option<Vec<u8>>| content.as_ref().map(|content| [mark, content].concat());
    let segments = [
        mark(EXIF_MARK, &extras.exif).map(|content| (0xe1, content)),
        mark(XMP_MARK, &extras.xmp).map(|content| (0xe1, content)),
        extras.iptc.clone().map(|content| (0xed, content)),
    ];
    let segments = segments.into_iter().flatten().chain(comments.map(|comment| (0xfe, comment)));
    // Behind the picture's begin and its first segment, which is JFIF's.
    let first = 4 + usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
    out.write_all(&bytes[..first])?;
    for (marker, content) in segments.filter(|(_, content)| content.len() <= SEGMENT) {
        out.write_all(&[0xff, marker])?;
        out.write_all(&(content.len() as u16 + 2).to_be_bytes())?;
        out.write_all(&content)?;
    }
    Ok(out.write_all(&bytes[first..])?)
}

fn webp(out: impl Write, image: &DynamicImage, extras: &Extras) -> Result<(), Box<dyn Error>> {
    let mut encoder = image_webp::WebPEncoder::new(out);
    encoder.set_icc_profile(extras.profile.clone().unwrap_or_default());
    encoder.set_exif_metadata(extras.exif.clone().unwrap_or_default());
    encoder.set_xmp_metadata(extras.xmp.clone().unwrap_or_default());
    let color = match image.color() {
        ColorType::Rgba8 => image_webp::ColorType::Rgba8,
        _ => image_webp::ColorType::Rgb8,
    };
    Ok(encoder.encode(image.as_bytes(), image.width(), image.height(), color)?)
}

fn tiff(out: impl Write + Seek, image: &DynamicImage, extras: &Extras) -> Result<(), Box<dyn Error>> {
    let has_alpha = image.color().has_alpha();
    let mut encoder = TiffEncoder::new(out)?
        .with_compression(Compression::Deflate(DeflateLevel::default()))
        // The encoder's does not know of alpha.
        .with_predictor(if has_alpha { Predictor::None } else { Predictor::Horizontal });
    let [of_picture, details, place] = extras.exif.as_deref().map(exif::directories).unwrap_or_default();
    let mut links = Vec::new();
    for (tag, entries) in [(Tag::ExifDirectory, details), (Tag::GpsDirectory, place)] {
        if !entries.is_empty() {
            let mut directory = encoder.extra_directory()?;
            write_entries(&mut directory, &entries)?;
            links.push((tag, directory.finish_with_offsets()?.offset));
        }
    }
    macro_rules! written {
        ($kind:ident, $pixels:expr) => {{
            let mut page = encoder.new_image::<colortype::$kind>(image.width(), image.height())?;
            if has_alpha {
                page.extra_samples(&[ExtraSamples::UnassociatedAlpha])?;
            }
            if let Some([x, y]) = extras.dots_per_inch {
                const FINE: f64 = 10_000.0;
                let rational = |dots: f64| Rational { n: (dots * FINE).round() as u32, d: FINE as u32 };
                page.resolution_unit(ResolutionUnit::Inch);
                page.x_resolution(rational(x));
                page.y_resolution(rational(y));
            }
            let directory = page.encoder();
            if let Some(profile) = &extras.profile {
                directory.write_tag(Tag::IccProfile, profile.as_slice())?;
            }
            if let Some(xmp) = &extras.xmp {
                directory.write_tag(Tag::Unknown(XMP), xmp.as_slice())?;
            }
            if let Some(iptc) = &extras.iptc {
                directory.write_tag(Tag::Unknown(PHOTOSHOP), photoshop_blocks(iptc))?;
            }
            write_entries(directory, &of_picture)?;
            for &(tag, offset) in &links {
                directory.write_tag(tag, offset)?;
            }
            for (tag, text) in tiff_texts(&extras.texts) {
                directory.write_tag(tag, TiffText(text))?;
            }
            page.write_data($pixels)?;
        }};
    }
    match image {
        DynamicImage::ImageLuma8(pixels) => written!(Gray8, pixels.as_raw()),
        DynamicImage::ImageLuma16(pixels) => written!(Gray16, pixels.as_raw()),
        DynamicImage::ImageLumaA8(pixels) => written!(Gray8, pixels.as_raw()),
        DynamicImage::ImageLumaA16(pixels) => written!(Gray16, pixels.as_raw()),
        DynamicImage::ImageRgb8(pixels) => written!(RGB8, pixels.as_raw()),
        DynamicImage::ImageRgb16(pixels) => written!(RGB16, pixels.as_raw()),
        DynamicImage::ImageRgba16(pixels) => written!(RGB16, pixels.as_raw()),
        other => written!(RGB8, other.to_rgba8().as_raw()),
    }
    Ok(())
}

fn write_entries<W: Write + Seek, K: TiffKind>(
    directory: &mut DirectoryEncoder<W, K>,
    entries: &[exif::Entry],
) -> Result<(), Box<dyn Error>> {
    let mut written = Directory::empty();
    for exif::Entry { tag, kind, bytes } in entries {
        // The encoder writes in the order of the machine, the entries are in that of all that this runs on.
        if let Some(kind) = Type::from_u16(*kind).filter(|_| cfg!(target_endian = "little")) {
            written.extend([(Tag::from_u16_exhaustive(*tag), directory.write_entry_bytes(kind, bytes)?)]);
        }
    }
    directory.extend_from(&written);
    Ok(())
}

/// A text as TIFF has it, in UTF-8 where plain letters do not do.
struct TiffText(String);

impl TiffValue for TiffText {
    const BYTE_LEN: u8 = 1;
    const FIELD_TYPE: Type = Type::ASCII;

    fn count(&self) -> usize {
        self.0.len() + 1
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned([self.0.as_bytes(), b"\0"].concat())
    }
}

/// Tags of TIFF for XMP and for what Photoshop keeps, which has no mark there.
const XMP: u16 = 700;
const PHOTOSHOP: u16 = 34_377;

fn photoshop_blocks(iptc: &[u8]) -> &[u8] {
    iptc.strip_prefix(IPTC_MARK).unwrap_or(iptc)
}

/// Texts in the tags that TIFF has for them, those without in the description.
fn tiff_texts(texts: &[(String, String)]) -> Vec<(Tag, String)> {
    let tag = |keyword: &str| match keyword {
        "Author" => Tag::Artist,
        "Copyright" => Tag::Copyright,
        "Software" => Tag::Software,
        _ => Tag::ImageDescription,
    };
    let mut tags: Vec<(Tag, String)> = Vec::new();
    for (keyword, text) in texts {
        // What ends a text there.
        let text = text.replace('\0', " ");
        let tag = tag(keyword);
        let is_plain = tag != Tag::ImageDescription || ["Comment", "Description"].contains(&keyword.as_str());
        let text = if is_plain { text } else { format!("{keyword}: {text}") };
        match tags.iter_mut().find(|(known, _)| *known == tag) {
            Some((_, before)) => *before += &format!("\n{text}"),
            None => tags.push((tag, text)),
        }
    }
    tags
}

fn extended(color: ColorType) -> ExtendedColorType {
    color.into()
}
