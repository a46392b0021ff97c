use super::*;
use image::codecs::gif::GifEncoder;
use image::codecs::jpeg::JpegEncoder;
use image::{Frame, ImageEncoder, Rgba, RgbaImage};
use serde_json::Value;
use tempfile::TempDir;

/// The numbers of one pixel of each patch.
type Colors = Vec<Vec<u8>>;

/// Side of a patch in `tests/fixtures/pictures`.
const SIDE: u32 = 16;

/// `tests/fixtures/pictures`, made by `tests/reference/make_pictures.py`: the numbers of each patch, and what LittleCMS
/// makes of them in sRGB.
fn fixtures() -> Vec<(PathBuf, Colors, Colors)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures");
    let expected = files::read(&folder.join("expected.json")).expect("the fixture");
    let expected: Value = serde_json::from_slice(&expected).expect("JSON");
    let colors = |value: &Value| serde_json::from_value(value.clone()).expect("lists of numbers");
    let cases = expected.as_object().expect("an object").iter();
    cases.map(|(name, case)| (folder.join(name), colors(&case["numbers"]), colors(&case["srgb"]))).collect()
}

/// The pixel in the middle of patch `at`.
fn middle(at: usize) -> (u32, u32) {
    (at as u32 * SIDE + SIDE / 2, SIDE / 2)
}

fn assert_near(found: &[u16], expected: &[u8], tolerance: u16, what: &str) {
    for (found, expected) in found.iter().zip(expected) {
        let expected = u16::from(*expected) * 257;
        assert!(found.abs_diff(expected) <= tolerance * 257, "{what}: {found} instead of {expected}");
    }
}

/// `picture` with each patch of the color of the one opposite.
fn turned(picture: &Picture) -> LayerImage {
    let (w, h) = (picture.layer.width(), picture.layer.height());
    let pixels = picture.layer.pixels();
    let other = |i: u32| pixels.get_pixel(w - 1 - i % w, i / w).0;
    LayerImage::new(w, h, (0..w * h).flat_map(other).collect()).expect("its size")
}

#[test]
fn every_color_space_becomes_the_srgb_of_littlecms_and_is_written_back_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    for (path, numbers, srgb) in fixtures() {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let picture = read(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        let is_ink = path.extension().is_some_and(|extension| extension == "jpg");
        assert_eq!(picture.notes.iter().any(|note| note.contains("CMYK")), is_ink, "{:?}", picture.notes);
        // A JPEG's own rounding comes before that of the profile's table.
        let tolerance = if is_ink { 4 } else { 1 };
        for (at, expected) in srgb.iter().enumerate() {
            let (x, y) = middle(at);
            let found = picture.layer.pixels().get_pixel(x, y).0;
            assert_near(&found[..3], expected, tolerance, &format!("{name}, patch {at}"));
        }
        for extension in ["png", "tif", "webp", "jpg"] {
            let same = folder.path().join(format!("same.{extension}"));
            write(&same, &picture.layer, &picture, Existing::Replaced).expect("it can be written");
            let again = read(&same).expect("it was just written");
            let worst = again.layer.rgba().iter().zip(picture.layer.rgba()).map(|(a, b)| a.abs_diff(*b)).max();
            // JPEG is not exact, and light numbers of linear light are steps far apart in the dark.
            let most = if extension == "jpg" { 12 } else { 1 };
            assert!(worst <= Some(most * 257) || name == "gamma.png", "{name} as {extension}: {worst:?}");
            if !is_ink && ["png", "tif"].contains(&extension) {
                assert_eq!(again.sixteen_bits, name.contains("16"), "{name} as {extension}");
                let raw = image::open(&same).expect("it was just written").into_rgb16();
                for (at, expected) in numbers.iter().enumerate() {
                    let expected: Vec<u8> = expected.iter().cycle().take(3).copied().collect();
                    assert_near(
                        &raw.get_pixel(middle(at).0, middle(at).1).0,
                        &expected,
                        0,
                        &format!("{name} as {extension}"),
                    );
                }
            }
        }
        if is_ink {
            continue;
        }
        let other = folder.path().join("turned.png");
        write(&other, &turned(&picture), &picture, Existing::Replaced).expect("it can be written");
        let raw = image::open(&other).expect("it was just written").into_rgb16();
        for (at, (expected, srgb)) in numbers.iter().zip(&srgb).rev().enumerate() {
            // A color that sRGB does not have comes back as the nearest that it has.
            if srgb.iter().any(|value| (1..255).contains(value)) && srgb.iter().any(|value| [0, 255].contains(value)) {
                continue;
            }
            let expected: Vec<u8> = expected.iter().cycle().take(3).copied().collect();
            assert_near(
                &raw.get_pixel(middle(at).0, middle(at).1).0,
                &expected,
                1,
                &format!("{name}, turned, patch {at}"),
            );
        }
    }
}

#[test]
fn a_gray_picture_stays_gray_until_an_edit_gives_it_colors() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, ..) = fixtures().into_iter().find(|(path, ..)| path.ends_with("gray.png")).expect("the fixture");
    let picture = read(&path).expect("it can be read");
    let out = folder.path().join("out.png");
    let notes = write(&out, &picture.layer, &picture, Existing::Replaced).expect("it can be written");
    let gray = image::open(&out).expect("it was just written");
    assert!(notes.is_empty() && gray.color() == ColorType::L8, "{notes:?} {:?}", gray.color());
    let red: Vec<u16> = picture
        .layer
        .rgba()
        .chunks_exact(4)
        .flat_map(|pixel| [u16::MAX, pixel[1] / 2, pixel[2] / 2, pixel[3]])
        .collect();
    let red = LayerImage::new(picture.layer.width(), picture.layer.height(), red).expect("its size");
    let notes = write(&out, &red, &picture, Existing::Replaced).expect("it can be written");
    assert!(notes.iter().any(|note| note.contains("gray") && note.contains("RGB")), "{notes:?}");
    let again = read(&out).expect("it was just written");
    assert_eq!(again.layer.to_rgba8(), red.to_rgba8());
    assert!(again.extras.profile.is_none(), "a profile for gray on a picture with colors");
}

/// A picture of 40 x 30 pixels, bright in its first corner, with EXIF that says to turn it.
fn photo(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("photo.jpg");
    let pixels = RgbImage::from_fn(40, 30, |x, y| image::Rgb([if x < 20 && y < 15 { 250 } else { 20 }, 60, 60]));
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, 95);
    encoder.set_exif_metadata(exif::tests::example(true)).expect("JPEG has EXIF");
    encoder.write_image(&pixels, 40, 30, image::ExtendedColorType::Rgb8).expect("it can be written");
    let comment = [&[0xff, 0xfe, 0, 7], b"hello".as_slice()].concat();
    let xmp = [extras::XMP_MARK, b"<x tiff:Orientation=\"6\"/>".as_slice()].concat();
    let xmp = [&[0xff, 0xe1, 0, xmp.len() as u8 + 2], xmp.as_slice()].concat();
    std::fs::write(&path, [&bytes[..2], &comment, &xmp, &bytes[2..]].concat()).expect("it can be written");
    path
}

#[test]
fn a_turned_photo_is_upright_once_and_keeps_exif_resolution_and_texts() {
    let folder = tempfile::tempdir().expect("a folder");
    let picture = read(&photo(&folder)).expect("it can be read");
    let check = |picture: &Picture, what: &str| {
        assert_eq!((picture.layer.width(), picture.layer.height()), (30, 40), "{what}");
        // Its first corner is turned to the right.
        assert!(picture.layer.pixels().get_pixel(27, 2).0[0] > 50_000, "{what}");
        assert!(picture.layer.pixels().get_pixel(2, 2).0[0] < 20_000, "{what}");
    };
    check(&picture, "read");
    for (extension, has_exif, has_texts) in
        [("jpg", true, true), ("png", true, true), ("webp", true, false), ("tif", false, true)]
    {
        let path = folder.path().join(format!("out.{extension}"));
        write(&path, &picture.layer, &picture, Existing::Replaced).expect("it can be written");
        let again = read(&path).expect("it was just written");
        check(&again, extension);
        let Extras { exif, xmp, dots_per_inch, texts, .. } = &again.extras;
        assert_eq!(exif.is_some(), has_exif, "{extension}");
        assert!(exif.as_ref().is_none_or(|exif| exif::orientation(exif) == Orientation::NoTransforms), "{extension}");
        assert_eq!(xmp.as_deref(), Some(b"<x tiff:Orientation=\"1\"/>".as_slice()), "{extension}");
        let dots = dots_per_inch.expect("a resolution");
        assert!(dots.iter().all(|dots| (dots - 300.0).abs() < 0.1), "{extension}: {dots:?}");
        assert_eq!(texts.iter().any(|(_, text)| text == "hello"), has_texts, "{extension}: {texts:?}");
        if extension == "tif" {
            let mut decoder = tiff::decoder::Decoder::new(files::open(&path).expect("it was written")).expect("a TIFF");
            let link = decoder.get_tag(tiff::tags::Tag::ExifDirectory).and_then(|link| link.into_ifd_pointer());
            let details = decoder.read_directory(link.expect("EXIF")).expect("EXIF");
            assert!(details.contains(tiff::tags::Tag::from_u16_exhaustive(0xa002)));
            assert!(again.notes.iter().any(|note| note.contains("EXIF")), "{:?}", again.notes);
        }
        let left_out = picture.left_out(Format::of(&path).expect("a format")).join("");
        assert_eq!(left_out.contains("texts"), !has_texts, "{left_out}");
    }
}

#[test]
fn texts_of_a_png_are_kept_whatever_their_letters() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("in.png");
    let file = File::create(&path).expect("it can be made");
    let mut encoder = png::Encoder::new(file, 1, 1);
    encoder.add_text_chunk("Copyright".into(), "© me".into()).expect("a text");
    encoder.add_ztxt_chunk("Comment".into(), "packed ".repeat(99)).expect("a text");
    encoder.add_itxt_chunk("Title".into(), "그림".into()).expect("a text");
    let mut writer = encoder.write_header().expect("it can be written");
    writer.write_image_data(&[7]).expect("a pixel");
    writer.finish().expect("it can be written");
    let texts = |path: &Path| {
        let mut texts = read(path).expect("it can be read").extras.texts;
        texts.sort();
        texts
    };
    let expected = [("Comment", "packed ".repeat(99)), ("Copyright", "© me".into()), ("Title", "그림".into())];
    assert_eq!(texts(&path), expected.map(|(keyword, text)| (keyword.to_owned(), text)));
    let picture = read(&path).expect("it can be read");
    let out = folder.path().join("out.png");
    write(&out, &picture.layer, &picture, Existing::Stays).expect("it can be written");
    assert_eq!(texts(&out), texts(&path));
    let refusal = write(&out, &picture.layer, &picture, Existing::Stays).expect_err("it is there").to_string();
    assert!(refusal.contains("out.png is there already") && refusal.contains("--force"), "{refusal}");
}

#[test]
fn a_jpeg_of_which_a_part_is_missing_or_damaged_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let noise = RgbImage::from_fn(200, 150, |x, y| image::Rgb([(x * y * 7) as u8, (x * 31) as u8, (y * 17) as u8]));
    let mut whole = Vec::new();
    JpegEncoder::new_with_quality(&mut whole, 90)
        .write_image(&noise, 200, 150, image::ExtendedColorType::Rgb8)
        .expect("a JPEG");
    let ended = |bytes: &[u8]| {
        let path = folder.path().join("in.jpg");
        std::fs::write(&path, bytes).expect("it can be written");
        read(&path).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(ended(&whole), Ok(()));
    // Phones put a film behind their photos.
    assert_eq!(ended(&[&whole, b"\0\0\0\x20ftypmp42".as_slice()].concat()), Ok(()));
    for eighth in 1..8 {
        let cut = &whole[..whole.len() * eighth / 8];
        let refusal = ended(cut).expect_err("a part is missing");
        assert!(refusal.contains("a part of the file is missing") && refusal.contains("get it again"), "{refusal}");
        let refusal = ended(&[cut, &[0xff, 0xd9]].concat()).expect_err("a part is missing");
        assert!(refusal.contains("get it again"), "{refusal}");
    }
}

#[test]
fn of_an_animation_the_first_frame_is_edited_and_a_note_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let frame = |red: u8| RgbaImage::from_pixel(4, 4, Rgba([red, 0, 0, 255]));
    let gif = folder.path().join("two.gif");
    let mut encoder = GifEncoder::new(File::create(&gif).expect("it can be made"));
    encoder.encode_frames([200, 100].map(|red| Frame::new(frame(red)))).expect("two frames");
    drop(encoder);
    // A still picture for those who show no animation, and two frames.
    let png = folder.path().join("hidden.png");
    let mut encoder = png::Encoder::new(File::create(&png).expect("it can be made"), 4, 4);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_animated(2, 0).expect("two frames");
    encoder.set_sep_def_img(true).expect("another still picture");
    let mut writer = encoder.write_header().expect("it can be written");
    for red in [50, 200, 100] {
        writer.write_image_data(&frame(red)).expect("a frame");
    }
    writer.finish().expect("it can be written");
    for path in [gif, png] {
        let picture = read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(picture.layer.to_rgba8()[0], 200, "{}", path.display());
        assert!(
            picture.notes.iter().any(|note| note.contains("is an animation of 2 frames; the first")),
            "{:?}",
            picture.notes
        );
    }
}

#[test]
fn a_picture_in_which_nothing_is_to_be_seen_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("in.png");
    RgbaImage::from_pixel(4, 4, Rgba([9, 9, 9, 0])).save(&path).expect("it can be written");
    let refusal = read(&path).map(|_| ()).expect_err("nothing to edit").to_string();
    assert!(refusal.contains("transparent everywhere"), "{refusal}");
}

#[test]
fn without_transparency_a_result_is_laid_on_white() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("in.png");
    RgbaImage::from_fn(16, 16, |x, _| Rgba([0, 0, 0, if x < 8 { 0 } else { 255 }]))
        .save(&path)
        .expect("it can be written");
    let picture = read(&path).expect("it can be read");
    let out = folder.path().join("out.jpg");
    write(&out, &picture.layer, &picture, Existing::Stays).expect("it can be written");
    let out = image::open(&out).expect("it was just written").into_rgb8();
    assert!(out.get_pixel(1, 8).0[0] > 245 && out.get_pixel(14, 8).0[0] < 10);
    assert!(picture.left_out(Format::Jpeg).iter().any(|note| note.contains("laid on white")));
}
