//! Scaling of pictures as in Pillow. The bytes are the same if Pillow scales rows before columns. Pillow 13 scales the
//! columns of some tall pictures first, and rounding then differs by at most 1 grey level.
//!
//! The geometry is that of torchvision's `Resize` followed by `CenterCrop(size)`: of `Resize(r)`, where the shorter
//! side becomes `r` and the longer one `r * long / short`, rounded down; or of `Resize((r, r))`. Only pixels that the
//! crop keeps are computed, so that a thin picture, whose longer side may become very long, costs no more than any
//! other.
//!
//! A pixel of the result is a weighted sum of source pixels, first along its row and then along its column, rounded to
//! 8 bits each time. If a side shrinks, the filter widens by the same factor. The weights of a pixel sum to 1, and are
//! integers in units of 2^-22, as in Pillow's `Resample.c`.

use std::f64::consts::PI;
use std::ops::Range;

use image::RgbImage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::DataError;

/// How pictures of any size become images of one size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preparation {
    /// Height and width of the images, in pixels; `None` for the source's own, or 32 if its pictures have several.
    pub size: Option<usize>,
    /// What is resized.
    pub resize: Resize,
    /// How pixels are weighted.
    pub interpolation: Interpolation,
    /// The share of the resized picture's side that the crop keeps, above 0 and up to 1: `size / crop`, rounded down,
    /// is what sides are resized to.
    pub crop: f64,
}

impl Default for Preparation {
    fn default() -> Self {
        Self { size: None, resize: Resize::default(), interpolation: Interpolation::default(), crop: 1.0 }
    }
}

/// Which sides of a picture are resized before the square in its centre is cut out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Resize {
    /// The shorter side, and the longer one in proportion.
    #[default]
    Shorter,
    /// Both sides, to a square, whatever the proportion.
    Square,
    /// None: pictures are only cropped.
    None,
}

/// How source pixels are weighted when a picture is resized.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Interpolation {
    /// The nearest pixel alone.
    Nearest,
    /// A triangle; torchvision's default.
    #[default]
    Bilinear,
    /// Keys' cubic with a = -1/2; timm's usual choice.
    Bicubic,
    /// A sinc that is windowed to three lobes.
    Lanczos,
}

impl Interpolation {
    /// Half the width of the filter, in pixels.
    fn support(self) -> f64 {
        match self {
            Self::Nearest => 0.5,
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
            Self::Nearest => 1.0,
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
    /// Computes the `size` pixels in the middle of a side of `source` pixels that is resized to `scaled` pixels.
    fn new(source: u32, scaled: u64, size: u32, interpolation: Interpolation) -> Self {
        let scale = f64::from(source) / scaled as f64;
        let stretch = scale.max(1.0);
        let support = interpolation.support() * stretch;
        let first = centred(scaled - u64::from(size));
        let pixel = |at: u64| {
            let centre = (at as f64 + 0.5) * scale;
            if interpolation == Interpolation::Nearest {
                return ((centre as usize).min(source as usize - 1), vec![1 << PRECISION]);
            }
            // The conversions round down, and turn negative numbers into 0.
            let (from, to) = ((centre - support + 0.5) as usize, (centre + support + 0.5) as usize);
            let taps = from..to.min(source as usize);
            let weights: Vec<f64> =
                taps.clone().map(|tap| interpolation.weight((tap as f64 - centre + 0.5) / stretch)).collect();
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

/// Writes the square in the centre of a picture, both of whose sides have at least `size` pixels.
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

impl Preparation {
    /// Checks that every parameter is within its range.
    ///
    /// # Errors
    /// [`DataError::Parameter`] for the first parameter that is not.
    pub fn check(&self) -> Result<(), DataError> {
        let wrong = |field, value: String, expected| Err(DataError::Parameter { field, value, expected });
        match (self.size, self.resize) {
            (Some(size), _) if !(1..=1024).contains(&size) => wrong("size", size.to_string(), "1 to 1024 pixels"),
            _ if !(self.crop > 0.0 && self.crop <= 1.0) => wrong("crop", self.crop.to_string(), "above 0 and up to 1"),
            (_, Resize::None) if self.crop < 1.0 => {
                wrong("crop", self.crop.to_string(), "1, as `resize` is \"none\": it is a share of what is resized")
            }
            _ => Ok(()),
        }
    }

    /// Writes a picture as an image, `[3, size, size]`, to `chw`. The picture must have at least one pixel.
    ///
    /// # Errors
    /// The reason, if nothing is resized and the picture is too small.
    pub fn write(&self, picture: &RgbImage, size: usize, chw: &mut [u8]) -> Result<(), String> {
        let (width, height) = picture.dimensions();
        let (short, resized) = (u64::from(width.min(height)), (size as f64 / self.crop) as u64);
        let sides = [width, height].map(|side| match self.resize {
            Resize::Shorter => resized * u64::from(side) / short,
            Resize::Square => resized,
            Resize::None => side.into(),
        });
        if sides == [width, height].map(u64::from) {
            if short < size as u64 {
                return Err(format!(
                    "it has {width} x {height} pixels, and `size` is {size}; `resize` would enlarge it"
                ));
            }
            crop(picture, size, chw);
        } else {
            resize_and_crop(picture, sides, size, self.interpolation, chw);
        }
        Ok(())
    }
}

/// Resizes a picture to `[width, height]`, and writes the square in its centre to `chw`, `[3, size, size]`.
fn resize_and_crop(picture: &RgbImage, sides: [u64; 2], size: usize, interpolation: Interpolation, chw: &mut [u8]) {
    let (width, height) = picture.dimensions();
    // `Preparation::check` limits sizes, so that they fit.
    let axis = |side, scaled| Axis::new(side, scaled, size as u32, interpolation);
    let (columns, rows) = (axis(width, sides[0]), axis(height, sides[1]));

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
        let same = |name: &str, size: usize, preparation: Preparation| {
            let expected = read(&format!("resized/{name}.png"));
            let mut chw = vec![0; 3 * size * size];
            preparation.write(&picture, size, &mut chw).unwrap();
            for (x, y, pixel) in expected.enumerate_pixels() {
                let at = |channel: usize| chw[(channel * size + y as usize) * size + x as usize];
                assert_eq!([at(0), at(1), at(2)], pixel.0, "{name}: {x}, {y}");
            }
        };
        let usual = Preparation::default();
        for (name, interpolation) in [
            ("nearest", Interpolation::Nearest),
            ("bilinear", Interpolation::Bilinear),
            ("bicubic", Interpolation::Bicubic),
            ("lanczos", Interpolation::Lanczos),
        ] {
            for size in [1, 6, 22, 26] {
                same(&format!("{name}-{size}"), size, Preparation { interpolation, ..usual });
            }
            let preparation = Preparation { interpolation, resize: Resize::Square, ..usual };
            same(&format!("{name}-square-14"), 14, preparation);
            same(&format!("{name}-crop-14"), 14, Preparation { interpolation, crop: 0.875, ..usual });
        }
        same("none-14", 14, Preparation { resize: Resize::None, ..usual });
        let large = Preparation { resize: Resize::None, ..usual }.write(&picture, 1000, &mut vec![0; 3_000_000]);
        assert!(large.unwrap_err().ends_with("pixels, and `size` is 1000; `resize` would enlarge it"));
    }

    #[test]
    fn a_thin_picture_costs_no_more_than_its_crop() {
        for (width, height) in [(1, 10_000_000), (10_000_000, 1)] {
            let picture = RgbImage::from_pixel(width, height, image::Rgb([9, 8, 7]));
            let mut chw = vec![0; 3 * 32 * 32];
            Preparation { interpolation: Interpolation::Lanczos, ..Preparation::default() }
                .write(&picture, 32, &mut chw)
                .unwrap();
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
            Preparation { interpolation: Interpolation::Lanczos, ..Preparation::default() }
                .write(&picture, 9, &mut chw)
                .unwrap();
            for (i, level) in chw.iter().enumerate() {
                let (channel, y, x) = (i / 81, i / 9 % 9, i % 9);
                let pixel = picture.get_pixel(x as u32 + left, y as u32 + top);
                assert_eq!(*level, pixel[channel], "{width} x {height}");
            }
        }
    }
}
