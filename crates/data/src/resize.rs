//! Scaling of pictures as in Pillow. The bytes are the same if Pillow scales rows before columns. Pillow 13 scales the
//! columns of some tall pictures first, and rounding then differs by at most 1 grey level.
//!
//! The geometry is that of torchvision's `Resize(size)` followed by `CenterCrop(size)`: the shorter side becomes
//! `size`, the longer one `size * long / short`, rounded down. Only pixels that the crop keeps are computed, so that a
//! thin picture, whose longer side may become very long, costs no more than any other.
//!
//! A pixel of the result is a weighted sum of source pixels, first along its row and then along its column, rounded to
//! 8 bits each time. If a side shrinks, the filter widens by the same factor. The weights of a pixel sum to 1, and are
//! integers in units of 2^-22, as in Pillow's `Resample.c`.

use std::f64::consts::PI;
use std::ops::Range;

use image::RgbImage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The filter that weights source pixels when a picture is scaled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Filter {
    /// A triangle; torchvision's default.
    #[default]
    Bilinear,
    /// Keys' cubic with a = -1/2; timm's usual choice.
    Bicubic,
    /// A sinc that is windowed to three lobes.
    Lanczos,
}

impl Filter {
    /// The name in specs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bilinear => "bilinear",
            Self::Bicubic => "bicubic",
            Self::Lanczos => "lanczos",
        }
    }

    /// Half the width of the filter, in pixels.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    /// The weight of a pixel at a distance from the centre, in pixels.
    fn weight(self, distance: f64) -> f64 {
        let x = distance.abs();
        match self {
            _ if x >= self.support() => 0.0,
            Self::Bilinear => 1.0 - x,
            Self::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::Bicubic => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            Self::Lanczos => sinc(x) * sinc(x / 3.0),
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) }
}

/// Number of fractional bits of a weight.
const PRECISION: u32 = 22;
/// One half in units of a sum; it is added before shifting, to round.
const HALF: i32 = 1 << (PRECISION - 1);

/// The pixels of one side of the result: for each, its first source pixel, and the weights from there on.
struct Axis(Vec<(usize, Vec<i32>)>);

impl Axis {
    /// Computes the `size` pixels in the middle of a side of `source` pixels that is scaled to `size / short` of its
    /// length.
    fn new(source: u32, short: u32, size: u32, filter: Filter) -> Self {
        let scaled = u64::from(size) * u64::from(source) / u64::from(short);
        let scale = f64::from(source) / scaled as f64;
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        let first = centred(scaled - u64::from(size));
        let pixel = |at: u64| {
            let centre = (at as f64 + 0.5) * scale;
            // The conversions round down, and turn negative numbers into 0.
            let (from, to) = ((centre - support + 0.5) as usize, (centre + support + 0.5) as usize);
            let taps = from..to.min(source as usize);
            let weights: Vec<f64> =
                taps.clone().map(|tap| filter.weight((tap as f64 - centre + 0.5) / stretch)).collect();
            let sum: f64 = weights.iter().sum();
            let fixed = |weight: f64| (weight / sum * f64::from(1 << PRECISION)).round() as i32;
            (taps.start, weights.into_iter().map(fixed).collect())
        };
        Self((first..first + u64::from(size)).map(pixel).collect())
    }

    /// The range of source pixels that have a weight.
    fn taps(&self) -> Range<usize> {
        let ends = self.0.iter().map(|(from, weights)| from + weights.len());
        self.0.first().map_or(0, |(from, _)| *from)..ends.max().unwrap_or(0)
    }
}

/// Half of the number of pixels that are cut off a side, with ties to even.
fn centred(cut: u64) -> u64 {
    let half = cut / 2;
    if cut % 2 == 1 && half % 2 == 1 { half + 1 } else { half }
}

/// Converts a sum of weighted pixels to a grey level.
fn level(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Writes the square in the centre of a picture whose shorter side has `size` pixels already, so that scaling would not
/// change it.
fn crop(picture: &RgbImage, size: usize, chw: &mut [u8]) {
    let (width, height) = picture.dimensions();
    let offset = |side: u32| centred(u64::from(side) - size as u64) as usize;
    let (left, top) = (offset(width), offset(height));
    let lines = picture.as_raw().chunks_exact(3 * width as usize).skip(top).take(size);
    for (y, line) in lines.enumerate() {
        for (x, pixel) in line.chunks_exact(3).skip(left).take(size).enumerate() {
            for (channel, level) in pixel.iter().enumerate() {
                chw[(channel * size + y) * size + x] = *level;
            }
        }
    }
}

/// Scales the shorter side of a picture to `size` pixels, and writes the square in its centre to `chw`, `[3, size,
/// size]`. The picture must have at least one pixel, and `size` must not be 0.
pub(crate) fn resize_and_crop(picture: &RgbImage, size: usize, filter: Filter, chw: &mut [u8]) {
    let (width, height) = picture.dimensions();
    let short = width.min(height);
    if short as usize == size {
        return crop(picture, size, chw);
    }
    // `Source::check` limits sizes, so that they fit.
    let axis = |side| Axis::new(side, short, size as u32, filter);
    let (columns, rows) = (axis(width), axis(height));

    let read = rows.taps();
    let (stride, kept) = (3 * width as usize, 3 * size);
    let lines = picture.as_raw().chunks_exact(stride).skip(read.start).take(read.len());
    let mut narrow = vec![0; read.len() * kept];
    for (line, narrow) in lines.zip(narrow.chunks_exact_mut(kept)) {
        for ((from, weights), pixel) in columns.0.iter().zip(narrow.chunks_exact_mut(3)) {
            let mut sums = [HALF; 3];
            for (weight, source) in weights.iter().zip(line[3 * from..].chunks_exact(3)) {
                for (sum, level) in sums.iter_mut().zip(source) {
                    *sum += weight * i32::from(*level);
                }
            }
            for (byte, sum) in pixel.iter_mut().zip(sums) {
                *byte = level(sum);
            }
        }
    }

    let mut sums = vec![HALF; kept];
    for (y, (from, weights)) in rows.0.iter().enumerate() {
        sums.fill(HALF);
        let lines = narrow.chunks_exact(kept).skip(from - read.start);
        for (weight, line) in weights.iter().zip(lines) {
            for (sum, level) in sums.iter_mut().zip(line) {
                *sum += weight * i32::from(*level);
            }
        }
        for (x, pixel) in sums.chunks_exact(3).enumerate() {
            for (channel, sum) in pixel.iter().enumerate() {
                chw[(channel * size + y) * size + x] = level(*sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_scaled_as_by_pillow_and_torchvision() {
        let pictures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures");
        let read = |name: &str| image::open(pictures.join(name)).unwrap().into_rgb8();
        let picture = read("scaled.png");
        for filter in [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos] {
            for size in [1, 6, 22, 26] {
                let expected = read(&format!("resized/{}-{size}.png", filter.name()));
                let mut chw = vec![0; 3 * size * size];
                resize_and_crop(&picture, size, filter, &mut chw);
                for (x, y, pixel) in expected.enumerate_pixels() {
                    let at = |channel: usize| chw[(channel * size + y as usize) * size + x as usize];
                    assert_eq!([at(0), at(1), at(2)], pixel.0, "{filter:?} to {size}: {x}, {y}");
                }
            }
        }
    }

    #[test]
    fn a_thin_picture_costs_no_more_than_its_crop() {
        for (width, height) in [(1, 10_000_000), (10_000_000, 1)] {
            let picture = RgbImage::from_pixel(width, height, image::Rgb([9, 8, 7]));
            let mut chw = vec![0; 3 * 32 * 32];
            resize_and_crop(&picture, 32, Filter::Lanczos, &mut chw);
            assert!(chw[..1024].iter().all(|byte| *byte == 9));
        }
    }

    #[test]
    fn halves_go_to_the_even_offset_as_in_python() {
        // The formula of torchvision's `CenterCrop`: `int(round((h - size) / 2.0))`.
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 7].map(centred), [0, 0, 1, 2, 2, 2, 3, 4]);
    }

    #[test]
    fn a_picture_of_the_right_size_is_cut_out() {
        for (width, height, left, top) in [(9, 9, 0, 0), (12, 9, 2, 0), (9, 14, 0, 2)] {
            let picture =
                RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8 * 20, y as u8 * 18, (x * y) as u8]));
            let mut chw = vec![0; 3 * 81];
            resize_and_crop(&picture, 9, Filter::Lanczos, &mut chw);
            for (i, level) in chw.iter().enumerate() {
                let (channel, y, x) = (i / 81, i / 9 % 9, i % 9);
                let pixel = picture.get_pixel(x as u32 + left, y as u32 + top);
                assert_eq!(*level, pixel[channel], "{width} x {height}");
            }
        }
    }
}
