//! Decoding of image files to RGB pixels. A file is decoded to its end or refused, and memory is bounded.

mod jpeg;

use std::io::Cursor;
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;

use hemlock_stage::read_file;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

/// Largest size of an image file, and of its decoded pixels, in MiB.
pub(crate) const LIMIT_MIB: u64 = 512;

/// Number of bytes that all concurrent decodings may take together. A larger picture is decoded while no other large
/// one is.
const TOGETHER: u64 = 2 << 30;

/// Number of bytes above which a picture counts as large: one thread's share of [`TOGETHER`].
static SHARE: LazyLock<u64> =
    LazyLock::new(|| TOGETHER / thread::available_parallelism().map_or(1, usize::from) as u64);

/// Held while a large picture is decoded.
static LARGE: Mutex<()> = Mutex::new(());

/// Decodes an image file, whose format is recognised by its content. Transparency is dropped. Orientation tags (except
/// those of TIFF) and colour profiles are ignored. If there are several frames or pages, the first one is decoded.
///
/// # Errors
/// The reason, in words, why the file cannot be read or decoded to its end.
pub(crate) fn decode(path: &Path) -> Result<RgbImage, String> {
    let bytes = read_file(path, LIMIT_MIB).map_err(|error| error.to_string())?;
    decode_bytes(&bytes, path)
}

/// Decodes the bytes of an image file. `path` has the ending by which a TGA file is recognised.
pub(crate) fn decode_bytes(bytes: &[u8], path: &Path) -> Result<RgbImage, String> {
    match kind(bytes, path)? {
        ImageFormat::Jpeg => jpeg::decode(bytes),
        format => other(bytes, format),
    }
}

/// Recognises the format of a file by its content. TGA files have no signature and are recognised by their name.
fn kind(bytes: &[u8], path: &Path) -> Result<ImageFormat, String> {
    match image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Avif | ImageFormat::Hdr | ImageFormat::OpenExr)) => {
            Err(format!("{format:?} is not decoded; convert it to PNG"))
        }
        Ok(format) => Ok(format),
        Err(_) if bytes.is_empty() => Err("it is empty".to_owned()),
        Err(_) if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("tga")) => Ok(ImageFormat::Tga),
        Err(_) => Err("it is no image of a kind that is decoded".to_owned()),
    }
}

/// Decodes a picture of any format other than JPEG.
fn other(bytes: &[u8], format: ImageFormat) -> Result<RgbImage, String> {
    // A cut may shorten the last number of a plain PNM file without any other trace; but the format requires white
    // space after it.
    let plain = bytes.starts_with(b"P2") || bytes.starts_with(b"P3");
    if plain && !bytes.last().is_some_and(u8::is_ascii_whitespace) {
        return Err("it is cut: no white space follows its last number".to_owned());
    }
    if format == ImageFormat::WebP && riff_length(bytes).is_none_or(|length| length > bytes.len() as u64) {
        return Err("it is cut: it is shorter than it says".to_owned());
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(LIMIT_MIB << 20);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|error| error.to_string())?;
    // Pillow applies the orientation tag of TIFF files only, too.
    let turned = (format == ImageFormat::Tiff).then(|| decoder.orientation().ok()).flatten();
    let color = decoder.color_type();
    if matches!(color, ColorType::Rgb32F | ColorType::Rgba32F) {
        return Err("its pixels are floating-point numbers; convert them to 8 bits".to_owned());
    }
    let stored = decoder.total_bytes();
    let (width, height) = decoder.dimensions();
    let rgb = 3 * u64::from(width) * u64::from(height);
    checked((width, height), stored.max(rgb))?;
    let copy = if color == ColorType::Rgb8 { 0 } else { rgb };
    alone_if_large(bytes.len() as u64 + stored + copy, || {
        let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?;
        turned.into_iter().for_each(|turned| picture.apply_orientation(turned));
        Ok(picture.into_rgb8())
    })
}

/// Returns the size in bytes that a RIFF file's header gives.
fn riff_length(bytes: &[u8]) -> Option<u64> {
    let length = bytes.get(4..)?.first_chunk::<4>()?;
    Some(8 + u64::from(u32::from_le_bytes(*length)))
}

/// Refuses a picture without pixels, and one whose pixels take more bytes than [`LIMIT_MIB`] allows.
fn checked((width, height): (u32, u32), bytes: u64) -> Result<(), String> {
    if width == 0 || height == 0 {
        return Err(format!("it has {width} x {height} pixels"));
    }
    let mib = bytes.div_ceil(1 << 20);
    if mib > LIMIT_MIB {
        return Err(format!("its {width} x {height} pixels take {mib} MiB; the limit is {LIMIT_MIB} MiB"));
    }
    Ok(())
}

/// Calls `decode`, which takes `bytes` bytes. If these are many, waits until no other large picture is decoded.
fn alone_if_large<T>(bytes: u64, decode: impl FnOnce() -> T) -> T {
    // The lock guards no data that a panic could have left half-changed.
    let _alone = (bytes > *SHARE).then(|| LARGE.lock().unwrap_or_else(PoisonError::into_inner));
    decode()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    fn pictures() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures")
    }

    /// Files of all formats, and the pixels that Pillow decodes from them.
    fn kinds() -> Vec<(PathBuf, RgbImage)> {
        let read = |path: &Path| image::open(path).unwrap().into_rgb8();
        let entries = fs::read_dir(pictures().join("kinds")).unwrap();
        let kinds: Vec<_> = entries
            .map(|entry| {
                let path = entry.unwrap().path();
                let expected = pictures().join("expected").join(path.file_stem().unwrap()).with_extension("png");
                let expected = if expected.exists() { expected } else { pictures().join("picture.png") };
                (path, read(&expected))
            })
            .collect();
        assert!(kinds.len() > 20);
        kinds
    }

    #[test]
    fn every_kind_is_decoded_as_pillow_does() {
        for (path, expected) in kinds() {
            let found = decode(&path).unwrap_or_else(|reason| panic!("{}: {reason}", path.display()));
            assert_eq!(found.dimensions(), expected.dimensions(), "{}", path.display());
            let differences: Vec<u8> =
                found.as_raw().iter().zip(expected.as_raw()).map(|(a, b)| a.abs_diff(*b)).collect();
            let largest = differences.iter().max().unwrap();
            let mean = differences.iter().map(|d| f64::from(*d)).sum::<f64>() / differences.len() as f64;
            // Decoders of lossy formats round differently.
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let lossy = name.starts_with("jpeg") || name == "webp" || name == "dds";
            let (most, on_average) = if lossy { (4, 0.5) } else { (0, 0.0) };
            assert!(*largest <= most && mean <= on_average, "{}: {largest}, {mean} on average", path.display());
        }
    }

    #[test]
    fn what_is_no_picture_is_refused_in_words() {
        let refused = |bytes: &[u8], name: &str| decode_bytes(bytes, Path::new(name)).unwrap_err();
        assert_eq!(refused(b"", "a.png"), "it is empty");
        assert_eq!(refused(b"just text", "a.jpg"), "it is no image of a kind that is decoded");
        assert_eq!(refused(b"\0\0\0\x20ftypavif\0\0\0\0", "a"), "Avif is not decoded; convert it to PNG");
        let plain = b"P2 2 1 255\n7 123\n";
        assert_eq!(decode_bytes(plain, Path::new("a")).unwrap().into_raw(), [7, 7, 7, 123, 123, 123]);
        for cut in 1..plain.len() {
            refused(&plain[..cut], "a");
        }
        // Nothing says which floating-point sample is white.
        let mut floats = Cursor::new(Vec::new());
        image::Rgb32FImage::new(2, 2).write_to(&mut floats, ImageFormat::Tiff).unwrap();
        assert!(refused(floats.get_ref(), "a.tif").contains("floating-point"));
        // A header of 18 bytes that announces 12 GiB of pixels.
        let greedy = b"P6 65535 65535 255\n";
        let message = "its 65535 x 65535 pixels take 12288 MiB; the limit is 512 MiB";
        assert_eq!(refused(greedy, "a"), message);
        assert!(refused(b"P6 0 4 255\n", "a").len() < 200);
    }

    /// A cut in the middle of a file, which leaves its end in place.
    #[test]
    fn a_webp_that_is_shorter_than_it_says_is_cut() {
        let path = pictures().join("kinds/webp.webp");
        let bytes = fs::read(&path).unwrap();
        for at in (40..bytes.len() - 8).step_by(7) {
            let hole = [&bytes[..at], &bytes[at + 8..]].concat();
            assert!(decode_bytes(&hole, &path).unwrap_err().contains("shorter than it says"), "{at}");
        }
    }

    #[test]
    fn a_turned_tiff_is_turned_back() {
        // The six pixels are stored with rows as columns: orientation 6 of TIFF's tag 274.
        let tiff = |orientation: u8| {
            let mut file = b"II*\0\x08\0\0\0\x09\0".to_vec();
            let entry = |tag: u16, kind: u16, value: u32| {
                [&tag.to_le_bytes()[..], &kind.to_le_bytes(), &1u32.to_le_bytes(), &value.to_le_bytes()].concat()
            };
            let data = 8 + 2 + 9 * 12 + 4;
            for (tag, value) in [
                (256, 3),
                (257, 2),
                (258, 8),
                (259, 1),
                (262, 1),
                (273, data),
                (274, orientation.into()),
                (278, 2),
                (279, 6),
            ] {
                file.extend(entry(tag, 4, value));
            }
            file.extend([0; 4]);
            file.extend([1, 2, 3, 4, 5, 6]);
            decode_bytes(&file, Path::new("a.tif")).unwrap()
        };
        let levels = |picture: &RgbImage| picture.pixels().map(|p| p.0[0]).collect::<Vec<_>>();
        let (plain, turned) = (tiff(1), tiff(6));
        assert_eq!((plain.dimensions(), levels(&plain)), ((3, 2), vec![1, 2, 3, 4, 5, 6]));
        assert_eq!((turned.dimensions(), levels(&turned)), ((2, 3), vec![4, 1, 5, 2, 6, 3]));
    }

    #[test]
    fn what_follows_a_jpeg_is_ignored() {
        let path = pictures().join("kinds/jpeg-420.jpg");
        let bytes = fs::read(&path).unwrap();
        let whole = decode_bytes(&bytes, &path).unwrap();
        let followed = [bytes.as_slice(), b"and more"].concat();
        assert!(decode_bytes(&followed, &path).unwrap() == whole);
    }

    #[test]
    fn every_cut_is_an_error_or_leaves_the_picture_whole() {
        for (path, _) in kinds() {
            let bytes = fs::read(&path).unwrap();
            let whole = decode_bytes(&bytes, &path).unwrap();
            let mut refused = 0;
            for length in 0..bytes.len() {
                match decode_bytes(&bytes[..length], &path) {
                    Ok(picture) => {
                        assert!(picture == whole, "{}: {length} of {} bytes", path.display(), bytes.len());
                    }
                    Err(_) => refused += 1,
                }
            }
            assert!(refused > bytes.len() / 2, "{}: {refused}", path.display());
        }
    }
}
