//! What a picture file has beside its pixels: colors, EXIF, texts, resolution, frames. Reads the containers PNG, JPEG,
//! WebP and GIF, and decodes no pixels.
#![forbid(unsafe_code)]

use flate2::read::ZlibDecoder;
use std::io::{self, Read, Seek, SeekFrom};
use tiff::decoder::Decoder;
use tiff::decoder::ifd::Value;
use tiff::tags::Tag;

/// Bytes of what a picture file has beside its pixels, unpacked: color profile, texts. A file of 2 MB can hold
/// gigabytes of zeros.
pub const MAX_EXTRAS: u64 = 64 << 20;

/// What a file has beside its pixels.
#[derive(Default)]
pub struct Extras {
    /// ICC profile.
    pub profile: Option<Vec<u8>>,
    /// What a PNG says of its colors where it has no profile.
    pub png: PngColors,
    /// A TIFF structure.
    pub exif: Option<Vec<u8>>,
    /// A packet of XML.
    pub xmp: Option<Vec<u8>>,
    /// What Photoshop and news agencies keep in a JPEG: the content of its APP13.
    pub iptc: Option<Vec<u8>>,
    /// Pixels per inch, horizontally and vertically.
    pub dots_per_inch: Option<[f64; 2]>,
    /// Keywords such as Copyright, and their texts.
    pub texts: Vec<(String, String)>,
    /// Pictures that follow each other; 1 in a file that is no animation.
    pub frames: u32,
    /// The still picture in the file is none of the animation.
    pub still_is_hidden: bool,
    /// What it has and is not kept.
    pub lost: Option<&'static str>,
    /// Where a JPEG ends as its format says: the offset of its last marker.
    pub end: Option<usize>,
    /// A JPEG is one of Adobe's programs, in which the numbers of CMYK stand for light.
    pub is_adobe: bool,
    /// A JPEG comes in several passes, each finer than the one before.
    pub is_progressive: bool,
}

/// Chunks of a PNG that tell of its colors (PNG, third edition, 4.3: the first that is there counts).
#[derive(Clone, Default)]
pub struct PngColors {
    /// cICP: primaries, curve, matrix, full range.
    pub code_points: Option<[u8; 4]>,
    /// sRGB.
    pub is_srgb: bool,
    /// gAMA: times 100,000.
    pub gamma: Option<u32>,
    /// cHRM: x and y of white, red, green, blue, times 100,000.
    pub chromaticities: Option<[u32; 8]>,
}

/// The keyword under which a PNG has XMP.
pub const XMP_KEYWORD: &str = "XML:com.adobe.xmp";

/// What a JPEG's segments begin with.
pub const EXIF_MARK: &[u8] = b"Exif\0\0";
pub const XMP_MARK: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
pub const IPTC_MARK: &[u8] = b"Photoshop 3.0\0";
const PROFILE_MARK: &[u8] = b"ICC_PROFILE\0";

/// Pages that are counted in a TIFF, which may lead back to the first.
const MAX_PAGES: u32 = 1000;

const INCH_IN_METERS: f64 = 0.0254;

impl Extras {
    /// Of a PNG.
    pub fn of_png(mut file: impl Read + Seek) -> io::Result<Self> {
        let mut extras = Self { frames: 1, ..Self::default() };
        let mut left = MAX_EXTRAS;
        let mut has_pixels = false;
        file.seek(SeekFrom::Start(8))?;
        loop {
            let mut head = [0; 8];
            if file.read_exact(&mut head).is_err() {
                return Ok(extras);
            }
            let [a, b, c, d, name @ ..] = head;
            let length = u32::from_be_bytes([a, b, c, d]);
            let wanted =
                [b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"eXIf", b"pHYs", b"tEXt", b"zTXt", b"iTXt", b"acTL"];
            if !wanted.contains(&&name) || u64::from(length) > left {
                match &name {
                    b"IEND" => return Ok(extras),
                    b"fcTL" if !has_pixels => extras.still_is_hidden = false,
                    b"IDAT" => has_pixels = true,
                    _ => {}
                }
                file.seek(SeekFrom::Current(i64::from(length) + 4))?;
                continue;
            }
            left -= u64::from(length);
            let mut content = vec![0; length as usize];
            if file.read_exact(&mut content).is_err() {
                return Ok(extras);
            }
            file.seek(SeekFrom::Current(4))?;
            extras.take_png(&name, &content, &mut left);
        }
    }

    fn take_png(&mut self, name: &[u8; 4], content: &[u8], left: &mut u64) {
        let number =
            |at: usize| content.get(at..at + 4).map(|four| u32::from_be_bytes([four[0], four[1], four[2], four[3]]));
        match name {
            b"cICP" => self.png.code_points = content.try_into().ok(),
            b"sRGB" => self.png.is_srgb = true,
            b"gAMA" => self.png.gamma = number(0),
            b"cHRM" => {
                let points: Option<Vec<u32>> = (0..8).map(|at| number(4 * at)).collect();
                self.png.chromaticities = points.and_then(|points| points.try_into().ok());
            }
            b"iCCP" => {
                // A name, the way of packing, packed bytes.
                let packed = content.splitn(2, |&byte| byte == 0).nth(1).and_then(|rest| rest.get(1..));
                self.profile = packed.and_then(|packed| unpacked(packed, left));
            }
            b"eXIf" => self.exif = Some(content.to_vec()),
            b"pHYs" => {
                if let (Some(x), Some(y), Some(1)) = (number(0), number(4), content.get(8)) {
                    self.dots_per_inch = Some([x, y].map(|per_meter| f64::from(per_meter) * INCH_IN_METERS));
                }
            }
            b"acTL" => {
                self.frames = number(0).unwrap_or(1).max(1);
                // Until a frame begins before the pixels.
                self.still_is_hidden = true;
            }
            _ => match png_text(name, content, left) {
                Some((keyword, text)) if keyword == XMP_KEYWORD => self.xmp = Some(text.into_bytes()),
                Some(text) => self.texts.push(text),
                None => {}
            },
        }
    }

    /// Of a JPEG.
    pub fn of_jpeg(bytes: &[u8]) -> Self {
        let mut extras = Self { frames: 1, ..Self::default() };
        let mut profile: Vec<(u8, &[u8])> = Vec::new();
        let mut at = 2;
        while let Some((marker, segment, end)) = next_segment(bytes, at) {
            at = end;
            match marker {
                0xd9 => {
                    extras.end = Some(at - 2);
                    break;
                }
                0xe0 if segment.starts_with(b"JFIF\0") && segment.len() >= 12 => {
                    let unit = match segment[7] {
                        1 => 1.0,
                        2 => 2.54,
                        _ => continue,
                    };
                    let dots = |at: usize| f64::from(u16::from_be_bytes([segment[at], segment[at + 1]])) * unit;
                    extras.dots_per_inch = Some([dots(8), dots(10)]);
                }
                0xc2 => extras.is_progressive = true,
                0xee => extras.is_adobe |= segment.starts_with(b"Adobe"),
                0xe1 if extras.exif.is_none() => extras.exif = segment.strip_prefix(EXIF_MARK).map(<[u8]>::to_vec),
                _ => {}
            }
            match marker {
                0xe1 if extras.xmp.is_none() => extras.xmp = segment.strip_prefix(XMP_MARK).map(<[u8]>::to_vec),
                0xed if extras.iptc.is_none() && segment.starts_with(IPTC_MARK) => extras.iptc = Some(segment.to_vec()),
                0xe2 => {
                    if let Some([number, _, part @ ..]) = segment.strip_prefix(PROFILE_MARK) {
                        profile.push((*number, part));
                    }
                }
                0xfe => {
                    let text = String::from_utf8_lossy(segment).trim_end_matches('\0').to_owned();
                    extras.texts.push(("Comment".to_owned(), text));
                }
                _ => {}
            }
        }
        profile.sort_by_key(|&(number, _)| number);
        extras.profile = (!profile.is_empty()).then(|| profile.iter().flat_map(|(_, part)| *part).copied().collect());
        extras
    }

    /// Of a WebP.
    pub fn of_webp(mut file: impl Read + Seek) -> io::Result<Self> {
        let mut extras = Self { frames: 0, ..Self::default() };
        let mut left = MAX_EXTRAS;
        let mut head = [0; 12];
        file.read_exact(&mut head)?;
        let end = 8 + u64::from(u32::from_le_bytes([head[4], head[5], head[6], head[7]]));
        let size = file.seek(SeekFrom::End(0))?;
        let mut at = 12;
        while at + 8 <= end.min(size) {
            file.seek(SeekFrom::Start(at))?;
            let mut head = [0; 8];
            file.read_exact(&mut head)?;
            let [name @ .., a, b, c, d] = head;
            let length = u64::from(u32::from_le_bytes([a, b, c, d]));
            at += 8 + length + length % 2;
            let place = match &name {
                b"ICCP" => &mut extras.profile,
                b"EXIF" => &mut extras.exif,
                b"XMP " => &mut extras.xmp,
                b"ANMF" => {
                    extras.frames += 1;
                    continue;
                }
                _ => continue,
            };
            if length <= left {
                left -= length;
                let mut content = vec![0; length as usize];
                if file.read_exact(&mut content).is_ok() {
                    *place = Some(content);
                }
            }
        }
        extras.frames = extras.frames.max(1);
        // Some programs put a JPEG's mark before it.
        extras.exif = extras.exif.map(|exif| exif.strip_prefix(EXIF_MARK).map(<[u8]>::to_vec).unwrap_or(exif));
        Ok(extras)
    }

    /// Of a TIFF.
    pub fn of_tiff(file: impl Read + Seek) -> Self {
        let mut extras = Self { frames: 1, ..Self::default() };
        let Ok(mut decoder) = Decoder::new(file) else { return extras };
        let unit = match decoder.find_tag_unsigned::<u16>(Tag::ResolutionUnit) {
            Ok(Some(3)) => 2.54,
            Ok(Some(2) | None) => 1.0,
            _ => 0.0,
        };
        let mut dots = |tag| match decoder.get_tag(tag) {
            Ok(Value::Rational(above, below)) => Some(f64::from(above) / f64::from(below) * unit),
            _ => None,
        };
        let dots = dots(Tag::XResolution).zip(dots(Tag::YResolution)).map(|(x, y)| [x, y]);
        extras.dots_per_inch = dots.filter(|dots| dots.iter().all(|dots| (1.0..1e6).contains(dots)));
        extras.profile = decoder.get_tag_u8_vec(Tag::IccProfile).ok();
        extras.xmp = decoder.get_tag_u8_vec(Tag::Unknown(700)).ok();
        let blocks = decoder.get_tag_u8_vec(Tag::Unknown(34_377)).ok();
        extras.iptc = blocks.map(|blocks| [IPTC_MARK, &blocks].concat());
        for (tag, keyword) in [
            (Tag::ImageDescription, "Description"),
            (Tag::Artist, "Author"),
            (Tag::Copyright, "Copyright"),
            (Tag::Software, "Software"),
        ] {
            if let Ok(text) = decoder.get_tag_ascii_string(tag) {
                extras.texts.push((keyword.to_owned(), text));
            }
        }
        let has_exif = decoder.find_tag(Tag::ExifDirectory).is_ok_and(|link| link.is_some());
        extras.lost = has_exif.then_some("EXIF");
        while decoder.more_images() && extras.frames < MAX_PAGES && decoder.next_image().is_ok() {
            extras.frames += 1;
        }
        extras
    }

    /// Of a GIF.
    pub fn of_gif(bytes: &[u8]) -> Self {
        let mut extras = Self { frames: 0, ..Self::default() };
        let table = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
        let blocks = |mut at: usize| {
            while let Some(&length) = bytes.get(at) {
                at += 1 + usize::from(length);
                if length == 0 {
                    break;
                }
            }
            at
        };
        let mut at = 13 + bytes.get(10).map_or(0, |&flags| table(flags));
        loop {
            at = match bytes.get(at) {
                Some(0x21) => blocks(at + 2),
                Some(0x2c) => {
                    extras.frames += 1;
                    blocks(at + 11 + bytes.get(at + 9).map_or(0, |&flags| table(flags)))
                }
                _ => {
                    extras.frames = extras.frames.max(1);
                    return extras;
                }
            }
        }
    }
}

/// The segment of a JPEG that begins at `at` or behind: its marker, its content, where the next one is looked for.
fn next_segment(bytes: &[u8], mut at: usize) -> Option<(u8, &[u8], usize)> {
    loop {
        at += bytes.get(at..)?.iter().position(|&byte| byte == 0xff)?;
        let marker = *bytes.get(at + 1)?;
        at += match marker {
            // Filling, which may precede a marker.
            0xff => 1,
            // Compressed pixels and restart markers among them.
            0x00 | 0x01 | 0xd0..=0xd8 => 2,
            0xd9 => return Some((marker, &[], at + 2)),
            _ => {
                let length = usize::from(u16::from_be_bytes([*bytes.get(at + 2)?, *bytes.get(at + 3)?])).max(2);
                return Some((marker, bytes.get(at + 4..at + 2 + length)?, at + 2 + length));
            }
        }
    }
}

/// Keyword and text of a chunk of a PNG.
fn png_text(name: &[u8; 4], content: &[u8], left: &mut u64) -> Option<(String, String)> {
    let latin = |bytes: &[u8]| bytes.iter().map(|&byte| char::from(byte)).collect::<String>();
    let end = content.iter().position(|&byte| byte == 0)?;
    let (keyword, rest) = (latin(&content[..end]), &content[end + 1..]);
    let text = match name {
        b"tEXt" => latin(rest),
        b"zTXt" => latin(&unpacked(rest.get(1..)?, left)?),
        _ => {
            // Whether it is packed, how, the language, the keyword in it.
            let mut parts = rest.get(2..)?.splitn(3, |&byte| byte == 0).skip(2);
            let text = parts.next()?;
            let text = if rest[0] == 0 { text.to_vec() } else { unpacked(text, left)? };
            String::from_utf8(text).ok()?
        }
    };
    Some((keyword, text))
}

/// `None` where it is damaged or larger than what is left.
fn unpacked(packed: &[u8], left: &mut u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    ZlibDecoder::new(packed).take(*left + 1).read_to_end(&mut bytes).ok()?;
    *left = left.checked_sub(bytes.len() as u64)?;
    Some(bytes)
}
