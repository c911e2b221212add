//! Decoding of JPEG pictures to the pixels that libjpeg gives, including their last column and row.

use super::{alone_if_large, checked};
use image::RgbImage;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;
use zune_jpeg::{ImageInfo, JpegDecoder, SampleRatios};

/// Decodes a JPEG picture. Missing or damaged data is an error; the `image` crate would paint it grey.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, String> {
    if !ends(bytes) {
        return Err("it is cut: its end is missing".to_owned());
    }
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX));
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|error| error.to_string())?;
    let info = decoder.info().ok_or("it has no header")?;
    let size = (u32::from(info.width), u32::from(info.height));
    let pixels = u64::from(size.0) * u64::from(size.1);
    checked(size, 3 * pixels)?;
    // The coefficients of a progressive picture take two bytes each, and there are as many as samples.
    let cost = bytes.len() as u64 + pixels * (3 + 2 * u64::from(info.components));
    let beyond =
        if decoder.input_colorspace() == Some(ColorSpace::YCbCr) { Beyond::of(&info) } else { Beyond::default() };
    let out = if beyond.any() { ColorSpace::YCbCr } else { ColorSpace::RGB };
    decoder.set_options(options.jpeg_set_out_colorspace(out));
    alone_if_large(cost, || {
        let mut picture = RgbImage::new(size.0, size.1);
        decoder.decode_into(&mut picture).map_err(|error| error.to_string())?;
        if beyond.any() {
            beyond.mend(&mut picture);
            picture.pixels_mut().for_each(|pixel| pixel.0 = rgb(pixel.0));
        }
        Ok(picture)
    })
}

/// The sides on which colour of half the resolution was interpolated with padding beyond the picture's edge. libjpeg
/// repeats the picture's last sample there, so that the last column or row has exactly its value.
#[derive(Default)]
struct Beyond {
    column: bool,
    row: bool,
}

impl Beyond {
    fn of(info: &ImageInfo) -> Self {
        let halved = |side: u16| side > 2 && side.is_multiple_of(2) && !(side / 2).is_multiple_of(8);
        Self {
            column: matches!(info.sample_ratio, SampleRatios::H | SampleRatios::HV) && halved(info.width),
            row: matches!(info.sample_ratio, SampleRatios::V | SampleRatios::HV) && halved(info.height),
        }
    }

    fn any(&self) -> bool {
        self.column || self.row
    }

    /// Sets the colours of the last column and row of a Y'CbCr picture to those of the last samples.
    fn mend(&self, picture: &mut RgbImage) {
        let (width, height) = picture.dimensions();
        if self.column {
            for y in 0..height {
                let (a, b) = (picture[(width - 2, y)].0, picture[(width - 3, y)].0);
                let last = &mut picture[(width - 1, y)].0;
                (1..3).for_each(|channel| last[channel] = last_sample(a[channel], b[channel]));
            }
        }
        if self.row {
            for x in 0..width {
                let (a, b) = (picture[(x, height - 2)].0, picture[(x, height - 3)].0);
                let last = &mut picture[(x, height - 1)].0;
                (1..3).for_each(|channel| last[channel] = last_sample(a[channel], b[channel]));
            }
        }
    }
}

/// Recovers the last sample `c` of a line, up to 1, from the two values that were interpolated between `c` and the
/// sample `d` before it: `a = (3 c + d + 2) >> 2` and `b = (3 d + c + 2) >> 2`. Hence `c` is `(3 a - b) / 2`, less an
/// eighth for what the shifts cut off on average.
fn last_sample(a: u8, b: u8) -> u8 {
    let eighths = 12 * i32::from(a) - 4 * i32::from(b) - 1;
    ((eighths + 4) >> 3).clamp(0, 255) as u8
}

/// Converts a Y'CbCr pixel to RGB (JFIF 1.02, page 3), with 16 fractional bits.
fn rgb([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let rounded = |change: i32| (y + ((change + 0x8000) >> 16)).clamp(0, 255) as u8;
    [rounded(91_881 * cr), rounded(-22_554 * cb - 46_802 * cr), rounded(116_130 * cb)]
}

/// Whether a JPEG file has its end-of-image marker. Segments are skipped by their length, because they may contain a
/// picture of their own. Entropy-coded data is searched for markers. Anything after the end is ignored.
fn ends(bytes: &[u8]) -> bool {
    const END: u8 = 0xD9;
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == 0xFF) {
        let Some(marker) = rest.get(at + 1) else { return false };
        let segment = match *marker {
            END => return true,
            // A fill byte before the marker.
            0xFF => {
                rest = &rest[at + 1..];
                continue;
            }
            // A stuffed zero, a reserved marker, a restart, or the start of the image: none has a segment.
            0x00 | 0x01 | 0xD0..=0xD8 => 0,
            _ => match rest.get(at + 2..at + 4) {
                Some(length) => usize::from(u16::from_be_bytes([length[0], length[1]])),
                None => return false,
            },
        };
        let Some(next) = rest.get(at + 2 + segment..) else { return false };
        rest = next;
    }
    false
}
