//! Transformations of images, before an extractor sees them. They squeeze out what is small and unlike pictures, noise
//! of an attacker among it, and with it some of the picture.
//!
//! All work on 8-bit RGB images `[3, height, width]`, and give such images. Results are rounded to the nearest grey
//! level.

use crate::DefenceError;
use hemlock_data::{Interpolation, Preparation, Resize};
use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, RgbImage};
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A transformation of images, without its parameter. Training and test images go through it alike, and the extractor
/// computes their features anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ImageKind {
    /// Compresses images by JPEG (Liu et al., 2023).
    Jpeg,
    /// Makes images grey (Liu et al., 2023).
    Grey,
    /// Smooths images.
    Blur,
    /// Leaves fewer grey levels (Xu et al., 2018).
    BitDepth,
    /// Scales images down and up again.
    Resize,
    /// Adds normal noise.
    Noise,
}

impl ImageKind {
    /// All transformations.
    pub const ALL: [Self; 6] = [Self::Jpeg, Self::Grey, Self::Blur, Self::BitDepth, Self::Resize, Self::Noise];

    /// The name in specs and results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Grey => "grey",
            Self::Blur => "blur",
            Self::BitDepth => "bit-depth",
            Self::Resize => "resize",
            Self::Noise => "noise",
        }
    }
}

/// A transformation of an image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ImageTransform {
    /// Baseline JPEG of this quality, 1 to 100, with libjpeg's tables and without subsampling of colours; then decoded
    /// again (Liu, Zhao & Larson, "Image shortcut squeezing", ICML 2023).
    Jpeg {
        /// The quality.
        quality: u32,
    },
    /// The luma of ITU-R 601 in all three channels: `(19595 r + 38470 g + 7471 b + 2¹⁵) / 2¹⁶`, rounded down, as in
    /// Pillow (Liu et al. 2023).
    Grey,
    /// Gaussian smoothing with this standard deviation in pixels, over three of them to either side, with mirrored
    /// edges.
    Blur {
        /// The standard deviation.
        sigma: f64,
    },
    /// `2^bits` grey levels, 1 to 8 bits: with `m = 2^bits - 1`, the level `round(m x) / m` nearest to a pixel `x` in
    /// `[0, 1]` (Xu, Evans & Qi, "Feature squeezing", NDSS 2018).
    BitDepth {
        /// The number of bits.
        bits: u32,
    },
    /// Scales both sides by this factor, below 1, and back, bilinearly and as Pillow does.
    Resize {
        /// The factor.
        factor: f64,
    },
    /// Adds normal noise with this standard deviation in grey levels, to every pixel of every channel.
    Noise {
        /// The standard deviation.
        std: f64,
    },
}

impl ImageTransform {
    /// Checks the parameter.
    ///
    /// # Errors
    /// If it is out of its range.
    pub fn check(&self) -> Result<(), DefenceError> {
        let (name, value, holds, expected) = match *self {
            Self::Grey => return Ok(()),
            Self::Jpeg { quality } => ("quality", f64::from(quality), (1..=100).contains(&quality), "1 to 100"),
            Self::Blur { sigma } => ("sigma", sigma, sigma > 0.0 && sigma <= WIDEST, "above 0 and at most 64 pixels"),
            Self::BitDepth { bits } => ("bits", f64::from(bits), (1..=8).contains(&bits), "1 to 8"),
            Self::Resize { factor } => ("factor", factor, factor > 0.0 && factor < 1.0, "above 0 and below 1"),
            Self::Noise { std } => ("std", std, std > 0.0 && std <= 255.0, "above 0 and at most 255 grey levels"),
        };
        if holds { Ok(()) } else { Err(DefenceError::Parameter { name, value, expected: expected.to_owned() }) }
    }

    /// Whether the transformation draws random numbers.
    #[must_use]
    pub fn draws(&self) -> bool {
        matches!(self, Self::Noise { .. })
    }

    /// Transforms the image `chw`, `[3, height, width]`, in place. Noise comes from `rng`.
    ///
    /// # Errors
    /// - If the parameter is out of its range, or if the image is not of that size or has no pixels.
    /// - If the image cannot be resized because it is not square.
    /// - If the codec fails, which it does for sides above 65,535 pixels.
    pub fn apply(&self, chw: &mut [u8], [height, width]: [usize; 2], rng: &mut impl Rng) -> Result<(), DefenceError> {
        self.check()?;
        if chw.is_empty() || chw.len() != 3 * height * width {
            let what = format!("{} bytes are no image of {height} x {width} pixels", chw.len());
            return Err(DefenceError::Image { what });
        }
        match *self {
            Self::Jpeg { quality } => jpeg(chw, [height, width], quality as u8)?,
            Self::Grey => grey(chw),
            Self::Blur { sigma } => blur(chw, [height, width], sigma),
            Self::BitDepth { bits } => {
                let most = f64::from((1u32 << bits) - 1);
                each(chw, |x| (x / 255.0 * most).round() / most * 255.0);
            }
            Self::Resize { factor } => resize(chw, [height, width], factor)?,
            Self::Noise { std } => each(chw, |x| {
                let noise: f64 = StandardNormal.sample(rng);
                x + std * noise
            }),
        }
        Ok(())
    }
}

/// The largest standard deviation of smoothing, in pixels.
const WIDEST: f64 = 64.0;

/// Replaces every grey level by the nearest one to what `level` returns.
fn each(chw: &mut [u8], mut level: impl FnMut(f64) -> f64) {
    // The conversion saturates.
    chw.iter_mut().for_each(|x| *x = level(f64::from(*x)).round() as u8);
}

fn grey(chw: &mut [u8]) {
    let plane = chw.len() / 3;
    for i in 0..plane {
        let [r, g, b] = [0, 1, 2].map(|channel| u32::from(chw[channel * plane + i]));
        let luma = ((19_595 * r + 38_470 * g + 7_471 * b + 0x8000) >> 16) as u8;
        (0..3).for_each(|channel| chw[channel * plane + i] = luma);
    }
}

/// Smooths rows, then columns.
fn blur(chw: &mut [u8], [height, width]: [usize; 2], sigma: f64) {
    let radius = (3.0 * sigma).ceil() as isize;
    let weights: Vec<f64> = (-radius..=radius).map(|i| (-0.5 * (i as f64 / sigma).powi(2)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut from: Vec<f64> = chw.iter().map(|x| f64::from(*x)).collect();
    let mut to = vec![0.0; from.len()];
    for (side, stride) in [(width, 1), (height, width)] {
        for (i, to) in to.iter_mut().enumerate() {
            let at = i / stride % side;
            let line = i - at * stride;
            let smoothed = weights.iter().zip(-radius..).map(|(weight, offset)| {
                let near = mirrored(at as isize + offset, side);
                weight / sum * from[line + near * stride]
            });
            *to = smoothed.sum();
        }
        std::mem::swap(&mut from, &mut to);
    }
    chw.iter_mut().zip(from).for_each(|(x, smoothed)| *x = smoothed.round() as u8);
}

/// The pixel of a side of `side` pixels that stands at `at` if the side is mirrored at its first and its last pixel.
fn mirrored(at: isize, side: usize) -> usize {
    let period = (2 * side as isize - 2).max(1);
    let at = at.rem_euclid(period);
    at.min(period - at).min(side as isize - 1) as usize
}

fn resize(chw: &mut [u8], [height, width]: [usize; 2], factor: f64) -> Result<(), DefenceError> {
    if height != width {
        let what = format!("an image of {height} x {width} pixels is not square, so that it cannot be resized");
        return Err(DefenceError::Image { what });
    }
    let small = ((factor * height as f64).round() as usize).max(1);
    let how = Preparation { resize: Resize::Square, interpolation: Interpolation::Bilinear, ..Preparation::default() };
    let mut scaled = vec![0; 3 * small * small];
    how.write(&picture(chw, [height, width]), small, &mut scaled).map_err(|what| DefenceError::Image { what })?;
    how.write(&picture(&scaled, [small; 2]), height, chw).map_err(|what| DefenceError::Image { what })
}

fn jpeg(chw: &mut [u8], size: [usize; 2], quality: u8) -> Result<(), DefenceError> {
    let refused = |e: image::ImageError| DefenceError::Image { what: format!("JPEG: {e}") };
    let mut coded = Vec::new();
    picture(chw, size).write_with_encoder(JpegEncoder::new_with_quality(&mut coded, quality)).map_err(refused)?;
    let decoded = image::load_from_memory_with_format(&coded, ImageFormat::Jpeg).map_err(refused)?.into_rgb8();
    let plane = chw.len() / 3;
    for (i, pixel) in decoded.pixels().enumerate() {
        (0..3).for_each(|channel| chw[channel * plane + i] = pixel[channel]);
    }
    Ok(())
}

/// The image as a picture, whose channels lie together.
fn picture(chw: &[u8], [height, width]: [usize; 2]) -> RgbImage {
    let at = |x: u32, y: u32, channel: usize| chw[(channel * height + y as usize) * width + x as usize];
    RgbImage::from_fn(width as u32, height as u32, |x, y| image::Rgb([0, 1, 2].map(|channel| at(x, y, channel))))
}
