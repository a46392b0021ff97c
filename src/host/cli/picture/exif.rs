//! EXIF of a picture: read its orientation, and make it true of an edited picture; knows no file format.
//!
//! A TIFF structure (CIPA DC-008 "Exif 2.32", section 4.5): two letters of byte order, 42, and the offset of directory
//! 0, which is that of the picture; the one that follows it is that of the thumbnail.
#![forbid(unsafe_code)]

use image::metadata::Orientation;
use std::ops::Range;

const ORIENTATION: u16 = 0x0112;
const X_RESOLUTION: u16 = 0x011a;
const Y_RESOLUTION: u16 = 0x011b;
const RESOLUTION_UNIT: u16 = 0x0128;
const EXIF_DIRECTORY: u16 = 0x8769;
const GPS_DIRECTORY: u16 = 0x8825;
const INTEROPERABILITY: u16 = 0xa005;
const PIXEL_WIDTH: u16 = 0xa002;
const PIXEL_HEIGHT: u16 = 0xa003;
const THUMBNAIL: u16 = 0x0201;
const THUMBNAIL_LENGTH: u16 = 0x0202;

/// Which way up the picture is; as it is where `exif` does not say it.
pub fn orientation(exif: &[u8]) -> Orientation {
    let view = View::of(exif);
    let value = view.and_then(|view| view.number(view.first()?, ORIENTATION));
    value.and_then(|value| Orientation::from_exif(u8::try_from(value).ok()?)).unwrap_or(Orientation::NoTransforms)
}

/// Pixels per inch, horizontally and vertically.
pub fn dots_per_inch(exif: &[u8]) -> Option<[f64; 2]> {
    let view = View::of(exif)?;
    let directory = view.first()?;
    let unit = match view.number(directory, RESOLUTION_UNIT).unwrap_or(2) {
        2 => 1.0,
        3 => 2.54,
        _ => return None,
    };
    let of = |tag| view.fraction(directory, tag).map(|value| value * unit).filter(|dots| (1.0..1e6).contains(dots));
    Some([of(X_RESOLUTION)?, of(Y_RESOLUTION)?])
}

/// Makes `exif` true of an upright picture of `width` times `height` pixels: its orientation and size are these, and
/// the thumbnail, which shows the picture before the edit, is gone.
pub fn settle(exif: &mut [u8], width: u32, height: u32) {
    let Some(view) = View::of(exif) else { return };
    let Some(first) = view.first() else { return };
    let mut changes = vec![view.change(first, ORIENTATION, 1)];
    if let Some(details) = view.number(first, EXIF_DIRECTORY).map(|offset| offset as usize) {
        changes.push(view.change(details, PIXEL_WIDTH, width));
        changes.push(view.change(details, PIXEL_HEIGHT, height));
    }
    if let Some((link, second)) = view.next(first) {
        let thumbnail = view.number(second, THUMBNAIL).zip(view.number(second, THUMBNAIL_LENGTH));
        let pixels =
            thumbnail.map(|(start, length)| (start as usize..(start as usize).saturating_add(length as usize), None));
        changes.extend([pixels, Some((link..link + 4, None))]);
    }
    for (place, value) in changes.into_iter().flatten() {
        if let Some(bytes) = exif.get_mut(place) {
            match value {
                Some(value) => bytes.copy_from_slice(&value[..bytes.len()]),
                None => bytes.fill(0),
            }
        }
    }
}

/// One entry of a directory, its numbers in little-endian order.
pub struct Entry {
    pub tag: u16,
    /// As TIFF counts types.
    pub kind: u16,
    pub bytes: Vec<u8>,
}

/// What `exif` says of the picture, of how it was taken and of where, for a file that is a TIFF structure itself:
/// without what tells of the pixels.
pub fn directories(exif: &[u8]) -> [Vec<Entry>; 3] {
    /// Tags of a directory that say nothing of how pixels are stored, apart from orientation and resolution.
    const OF_PICTURE: [u16; 8] = [0x010d, 0x010e, 0x010f, 0x0110, 0x0131, 0x0132, 0x013b, 0x8298];
    let Some((view, first)) = View::of(exif).and_then(|view| Some((view, view.first()?))) else {
        return Default::default();
    };
    let linked = |tag| view.number(first, tag).map_or_else(Vec::new, |offset| view.entries(offset as usize));
    let mut of_picture = view.entries(first);
    of_picture.retain(|entry| OF_PICTURE.contains(&entry.tag));
    let mut details = linked(EXIF_DIRECTORY);
    // A link to a directory that nobody misses.
    details.retain(|entry| entry.tag != INTEROPERABILITY);
    [of_picture, details, linked(GPS_DIRECTORY)]
}

/// What is to be written where; zeros where that is `None`.
type Change = Option<(Range<usize>, Option<[u8; 4]>)>;

#[derive(Clone, Copy)]
struct View<'a> {
    bytes: &'a [u8],
    big_endian: bool,
}

impl<'a> View<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let big_endian = match bytes.get(..4)? {
            b"MM\0*" => true,
            b"II*\0" => false,
            _ => return None,
        };
        Some(Self { bytes, big_endian })
    }

    fn u16(self, at: usize) -> Option<u16> {
        let two = self.bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if self.big_endian { u16::from_be_bytes(two) } else { u16::from_le_bytes(two) })
    }

    fn u32(self, at: usize) -> Option<u32> {
        let four = self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if self.big_endian { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) })
    }

    /// Offset of the directory of the picture.
    fn first(self) -> Option<usize> {
        self.u32(4).map(|offset| offset as usize)
    }

    /// Where the directory at `directory` has the link to the next one, and that one.
    fn next(self, directory: usize) -> Option<(usize, usize)> {
        let link = directory.checked_add(2 + 12 * usize::from(self.u16(directory)?))?;
        Some((link, self.u32(link)? as usize)).filter(|&(_, next)| next > 0)
    }

    /// Offset of the entry of `tag`, which has 12 bytes: tag, type, count, value.
    fn entry(self, directory: usize, tag: u16) -> Option<usize> {
        let mut entries = (0..usize::from(self.u16(directory)?)).map_while(|at| directory.checked_add(2 + 12 * at));
        entries.find(|&entry| self.u16(entry) == Some(tag) && entry.checked_add(12).is_some())
    }

    /// All entries of known types of the directory at `directory`.
    fn entries(self, directory: usize) -> Vec<Entry> {
        // Bytes of one value, and of the numbers in it.
        let sizes = |kind| match kind {
            1 | 2 | 6 | 7 => Some((1, 1)),
            3 | 8 => Some((2, 2)),
            4 | 9 | 11 => Some((4, 4)),
            5 | 10 => Some((8, 4)),
            12 => Some((8, 8)),
            _ => None,
        };
        let entry = |at: usize| {
            let (tag, kind, count) = (self.u16(at)?, self.u16(at + 2)?, self.u32(at + 4)? as usize);
            let (size, number) = sizes(kind)?;
            let length = count.checked_mul(size)?;
            let start = if length <= 4 { at + 8 } else { self.u32(at + 8)? as usize };
            let mut bytes = self.bytes.get(start..start.checked_add(length)?)?.to_vec();
            if self.big_endian {
                bytes.chunks_exact_mut(number).for_each(<[u8]>::reverse);
            }
            (length > 0).then_some(Entry { tag, kind, bytes })
        };
        let count = usize::from(self.u16(directory).unwrap_or_default());
        (0..count).map_while(|at| directory.checked_add(2 + 12 * at)).filter_map(entry).collect()
    }

    /// A short or long number.
    fn number(self, directory: usize, tag: u16) -> Option<u32> {
        let entry = self.entry(directory, tag)?;
        match self.u16(entry + 2)? {
            3 => self.u16(entry + 8).map(u32::from),
            4 => self.u32(entry + 8),
            _ => None,
        }
    }

    /// A quotient of two long numbers.
    fn fraction(self, directory: usize, tag: u16) -> Option<f64> {
        let entry = self.entry(directory, tag)?;
        let at = (self.u16(entry + 2)? == 5).then(|| self.u32(entry + 8))?? as usize;
        Some(f64::from(self.u32(at)?) / f64::from(self.u32(at.checked_add(4)?)?))
    }

    /// Another number in the place of the one that is there.
    fn change(self, directory: usize, tag: u16, value: u32) -> Change {
        let entry = self.entry(directory, tag)?;
        let bytes = |four: [u8; 4], two: [u8; 2]| match self.u16(entry + 2)? {
            3 => Some((entry + 8..entry + 10, Some([two[0], two[1], 0, 0]))),
            4 => Some((entry + 8..entry + 12, Some(four))),
            _ => None,
        };
        if self.big_endian {
            bytes(value.to_be_bytes(), (value as u16).to_be_bytes())
        } else {
            bytes(value.to_le_bytes(), (value as u16).to_le_bytes())
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A directory with orientation 6, 300 dots per inch, a size, and a thumbnail of three bytes.
    pub fn example(big_endian: bool) -> Vec<u8> {
        let two = |value: u16| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() }.to_vec();
        let four = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() }.to_vec();
        let entry = |tag, kind, value: Vec<u8>| {
            let mut entry = [two(tag), two(kind), four(1), value].concat();
            entry.resize(12, 0);
            entry
        };
        let directory = |entries: &[Vec<u8>], next| [two(entries.len() as u16), entries.concat(), four(next)].concat();
        let head = [if big_endian { b"MM" } else { b"II" }.to_vec(), two(42), four(8)].concat();
        let entries = [
            entry(ORIENTATION, 3, two(6)),
            entry(X_RESOLUTION, 5, four(134)),
            entry(Y_RESOLUTION, 5, four(134)),
            entry(RESOLUTION_UNIT, 3, two(2)),
            entry(EXIF_DIRECTORY, 4, four(74)),
        ];
        let details = [entry(PIXEL_WIDTH, 4, four(40)), entry(PIXEL_HEIGHT, 3, two(30))];
        let thumbnail = [entry(THUMBNAIL, 4, four(142)), entry(THUMBNAIL_LENGTH, 4, four(3))];
        [
            head,
            directory(&entries, 104),
            directory(&details, 0),
            directory(&thumbnail, 0),
            four(300),
            four(1),
            b"abc".to_vec(),
        ]
        .concat()
    }

    #[test]
    fn after_an_edit_orientation_size_and_thumbnail_are_those_of_the_result() {
        for big_endian in [false, true] {
            let mut exif = example(big_endian);
            assert_eq!(exif.len(), 145, "the offsets above are those of the example");
            assert_eq!(orientation(&exif), Orientation::Rotate90);
            assert_eq!(dots_per_inch(&exif), Some([300.0; 2]));
            settle(&mut exif, 30, 40);
            assert_eq!(orientation(&exif), Orientation::NoTransforms);
            let view = View::of(&exif).expect("EXIF");
            assert_eq!((view.number(74, PIXEL_WIDTH), view.number(74, PIXEL_HEIGHT)), (Some(30), Some(40)));
            assert_eq!((view.next(8), &exif[142..]), (None, &[0; 3][..]));
            assert_eq!(dots_per_inch(&exif), Some([300.0; 2]));
        }
    }

    #[test]
    fn a_tiff_gets_what_is_not_of_its_pixels() {
        for big_endian in [false, true] {
            let [of_picture, details, place] = directories(&example(big_endian));
            assert!(of_picture.is_empty() && place.is_empty(), "orientation and resolution are the file's own");
            let details: Vec<_> = details.iter().map(|entry| (entry.tag, entry.kind, entry.bytes.as_slice())).collect();
            assert_eq!(details, [(PIXEL_WIDTH, 4, &[40, 0, 0, 0][..]), (PIXEL_HEIGHT, 3, &[30, 0])]);
        }
    }

    #[test]
    fn what_is_cut_off_is_left_alone() {
        let whole = example(true);
        for end in 0..whole.len() {
            let mut cut = whole[..end].to_vec();
            let _ = (orientation(&cut), dots_per_inch(&cut), directories(&cut));
            settle(&mut cut, 1, 1);
        }
    }
}
