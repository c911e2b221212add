//! Random views of an image, after SimCLR (appendix A): crop and resize, flip, colour jitter, grayscale and blur; and,
//! after BYOL, which MoCo v3 follows, solarisation of the second view.
//!
//! The definitions are those of torchvision: `RandomResizedCrop` (bilinear), `RandomHorizontalFlip`, `ColorJitter` (in
//! random order), `RandomGrayscale`, `GaussianBlur` and `RandomSolarize`. A view depends on the seed, the epoch, the
//! image and its number (first or second view), and never on threads or batches.

mod on_device;

pub(crate) use on_device::render_views_on;

use hemlock_models::tiles::par_tiles;
use ndarray::ArrayView3;
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use hemlock_stage::ParamError;

/// ITU-R BT.601 luma: the grey value of red, green and blue.
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

/// Range of the blur's standard deviation, in pixels.
const SIGMA: [f32; 2] = [0.1, 2.0];
/// The smallest value that solarisation inverts.
const SOLAR: f32 = 128.0 / 255.0;

/// The distribution of the views.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AugmentConfig {
    /// Smallest share of the image's area that a crop covers; the largest is 1.
    #[schemars(range(min = 0.01, max = 1))]
    pub min_area: f64,
    /// Probability of a horizontal flip.
    #[schemars(range(min = 0, max = 1))]
    pub flip: f64,
    /// Probability of colour jitter.
    #[schemars(range(min = 0, max = 1))]
    pub jitter: f64,
    /// Strength s of the jitter: brightness, contrast and saturation are multiplied by a factor between 1 - 0.8 s and
    /// 1 + 0.8 s, and the hue is turned by up to 0.2 s of a full turn.
    #[schemars(range(min = 0, max = 1.25))]
    pub jitter_strength: f64,
    /// Probability of conversion to grey.
    #[schemars(range(min = 0, max = 1))]
    pub grayscale: f64,
    /// Probability of Gaussian blur, with a kernel of about a tenth of the image and a standard deviation of 0.1 to 2
    /// pixels. Use 0.5 for images of 64 pixels and more; smaller ones have little to blur.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(!skip_serializing_if)]
    #[schemars(range(min = 0, max = 1))]
    pub blur: f64,
    /// Probability of solarisation of the second view of an image: values from 128/255 on are inverted. The
    /// MoCo v3 paper uses 0.2.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(!skip_serializing_if)]
    #[schemars(range(min = 0, max = 1))]
    pub solarize: f64,
}

/// Whether to leave a field out: fields that were added later are left out of keys if they are 0, so that earlier keys
/// stay valid.
fn is_zero(probability: &f64) -> bool {
    *probability == 0.0
}

impl Default for AugmentConfig {
    fn default() -> Self {
        Self { min_area: 0.2, flip: 0.5, jitter: 0.8, jitter_strength: 0.5, grayscale: 0.2, blur: 0.0, solarize: 0.0 }
    }
}

impl AugmentConfig {
    /// Checks every parameter.
    ///
    /// # Errors
    /// The first field that is outside of its range.
    pub(crate) fn check(&self) -> Result<(), ParamError> {
        let fields = [
            ("augment.min_area", self.min_area, 0.01..=1.0),
            ("augment.flip", self.flip, 0.0..=1.0),
            ("augment.jitter", self.jitter, 0.0..=1.0),
            ("augment.jitter_strength", self.jitter_strength, 0.0..=1.25),
            ("augment.grayscale", self.grayscale, 0.0..=1.0),
            ("augment.blur", self.blur, 0.0..=1.0),
            ("augment.solarize", self.solarize, 0.0..=1.0),
        ];
        for (field, value, range) in fields {
            let expected = format!("{} to {}", range.start(), range.end());
            ParamError::require(range.contains(&value), field, value, &expected)?;
        }
        Ok(())
    }
}

/// The transformations that make one view of an image, in the order in which they are applied.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The rectangle that is resized to the full size of the image.
    pub crop: Crop,
    /// Whether left and right are swapped.
    pub flip: bool,
    /// Changes of colour, in the order in which they are applied.
    pub colour: Vec<Colour>,
    /// Standard deviation of the blur, in pixels.
    pub blur: Option<f32>,
    /// Whether values from 128/255 on are inverted.
    pub solarize: bool,
}

/// A rectangle of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
    /// Number of rows.
    pub height: usize,
    /// Number of columns.
    pub width: usize,
}

/// A change of colour, whose result is clipped to `[0, 1]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Colour {
    /// Multiplies every value by a factor.
    Brightness(f32),
    /// Scales the distance to the mean grey of the image.
    Contrast(f32),
    /// Scales the distance to the grey of each pixel.
    Saturation(f32),
    /// Turns the hue by this share of a full turn.
    Hue(f32),
}

impl View {
    /// The view that leaves an image of `height` x `width` as it is.
    #[must_use]
    pub fn identity(height: usize, width: usize) -> Self {
        let crop = Crop { top: 0, left: 0, height, width };
        Self { crop, flip: false, colour: Vec::new(), blur: None, solarize: false }
    }

    /// Draws a view of an image of `height` x `width`; `view` is 0 for the first view and 1 for the second.
    #[must_use]
    pub fn draw(config: &AugmentConfig, height: usize, width: usize, view: usize, rng: &mut ChaCha8Rng) -> Self {
        let happens = |p: f64, rng: &mut ChaCha8Rng| rng.random::<f32>() < p as f32;
        let crop = draw_crop(config.min_area as f32, height, width, rng);
        let flip = happens(config.flip, rng);
        let mut colour = Vec::new();
        if happens(config.jitter, rng) {
            let strength = config.jitter_strength as f32;
            let spread = 0.8 * strength;
            let mut factor = || (1.0 + spread * (2.0 * rng.random::<f32>() - 1.0)).max(0.0);
            colour.extend([Colour::Brightness(factor()), Colour::Contrast(factor()), Colour::Saturation(factor())]);
            let turn = 2.0 * rng.random::<f32>() - 1.0;
            colour.push(Colour::Hue(0.2 * strength * turn));
            colour.shuffle(rng);
        }
        if happens(config.grayscale, rng) {
            colour.push(Colour::Saturation(0.0));
        }
        // Blur and solarisation are drawn last, so that the other draws are those of versions without them.
        let blur = happens(config.blur, rng).then(|| SIGMA[0] + (SIGMA[1] - SIGMA[0]) * rng.random::<f32>());
        let solarize = view == 1 && happens(config.solarize, rng);
        Self { crop, flip, colour, blur, solarize }
    }

    /// Writes the view of `image`, `[3, h, w]`, to `out`, as `3 h w` values in `[0, 1]`.
    pub fn render(&self, image: ArrayView3<'_, u8>, out: &mut [f32]) {
        let (_, height, width) = image.dim();
        let rows = taps(height, self.crop.top, self.crop.height);
        let mut columns = taps(width, self.crop.left, self.crop.width);
        if self.flip {
            columns.reverse();
        }
        let mut stretched = vec![0.0; self.crop.height * width];
        for (plane, out) in image.outer_iter().zip(out.chunks_exact_mut(height * width)) {
            let crop = self.crop.top..self.crop.top + self.crop.height;
            for (y, to) in crop.zip(stretched.chunks_exact_mut(width)) {
                let row = plane.row(y);
                for (to, tap) in to.iter_mut().zip(&columns) {
                    *to = tap.mix(f32::from(row[tap.low]), f32::from(row[tap.high])) / 255.0;
                }
            }
            let row = |y: usize| &stretched[(y - self.crop.top) * width..][..width];
            for (tap, to) in rows.iter().zip(out.chunks_exact_mut(width)) {
                for ((to, a), b) in to.iter_mut().zip(row(tap.low)).zip(row(tap.high)) {
                    *to = tap.mix(*a, *b);
                }
            }
        }
        for colour in &self.colour {
            colour.apply(out);
        }
        if let Some(sigma) = self.blur {
            blur(out, height, width, sigma);
        }
        if self.solarize {
            out.iter_mut().filter(|v| **v >= SOLAR).for_each(|v| *v = 1.0 - *v);
        }
    }
}

/// Gaussian blur of planes of `height` x `width`, in place. The kernel is separable and of odd width, a tenth of the
/// image and at least 3. At the edges, pixels are mirrored, and the edge pixel is not repeated.
fn blur(planes: &mut [f32], height: usize, width: usize, sigma: f32) {
    let kernel = kernel(Some(sigma), height, width);
    // The position that element `i` of the kernel reads, in a line of `length` pixels.
    let read = |centre: usize, i: usize, length: usize| mirrored(centre + i, kernel.len() / 2, length);
    let mut rows = vec![0.0; height * width];
    for plane in planes.chunks_exact_mut(height * width) {
        for (from, to) in plane.chunks_exact(width).zip(rows.chunks_exact_mut(width)) {
            for (x, to) in to.iter_mut().enumerate() {
                *to = kernel.iter().enumerate().map(|(i, weight)| weight * from[read(x, i, width)]).sum();
            }
        }
        for (y, to) in plane.chunks_exact_mut(width).enumerate() {
            to.fill(0.0);
            for (i, weight) in kernel.iter().enumerate() {
                let from = &rows[read(y, i, height) * width..][..width];
                to.iter_mut().zip(from).for_each(|(to, from)| *to += weight * from);
            }
        }
    }
}

/// The weights of a blur with the standard deviation `sigma` in pixels; without it, those of the identity.
fn kernel(sigma: Option<f32>, height: usize, width: usize) -> Vec<f32> {
    let radius = (height.min(width) / 20).max(1);
    let Some(sigma) = sigma else { return (0..=2 * radius).map(|i| f32::from(u8::from(i == radius))).collect() };
    let mut kernel: Vec<f32> =
        (0..=2 * radius).map(|i| (-0.5 * ((i as f32 - radius as f32) / sigma).powi(2)).exp()).collect();
    let total: f32 = kernel.iter().sum();
    kernel.iter_mut().for_each(|weight| *weight /= total);
    kernel
}

/// The pixel at position `at` of a line of `length` pixels that is extended by `radius` mirrored pixels at both ends.
fn mirrored(at: usize, radius: usize, length: usize) -> usize {
    let (at, last) = (at.abs_diff(radius), length - 1);
    if at > last { (2 * last).saturating_sub(at) } else { at }
}

/// A linear interpolation between two pixels, with the weight of the second one.
struct Tap {
    low: usize,
    high: usize,
    weight: f32,
}

impl Tap {
    #[inline]
    fn mix(&self, low: f32, high: f32) -> f32 {
        low + self.weight * (high - low)
    }
}

/// The bilinear interpolations that stretch the pixels `from..from + length` over `size` pixels, with aligned pixel
/// centres and repeated edges.
fn taps(size: usize, from: usize, length: usize) -> Vec<Tap> {
    let scale = length as f32 / size as f32;
    let last = length - 1;
    (0..size)
        .map(|i| {
            let at = ((i as f32 + 0.5) * scale - 0.5).clamp(0.0, last as f32);
            let low = at as usize;
            Tap { low: from + low, high: from + (low + 1).min(last), weight: at - low as f32 }
        })
        .collect()
}

/// Draws a crop with a uniform share of the area and a log-uniform aspect ratio between 3/4 and 4/3. After ten crops
/// that do not fit, it is the whole image.
fn draw_crop(min_area: f32, height: usize, width: usize, rng: &mut ChaCha8Rng) -> Crop {
    let largest = (4.0f32 / 3.0).ln();
    for _ in 0..10 {
        let share = min_area + (1.0 - min_area) * rng.random::<f32>();
        let ratio = (largest * (2.0 * rng.random::<f32>() - 1.0)).exp();
        let area = share * (height * width) as f32;
        let crop_width = (area * ratio).sqrt().round() as usize;
        let crop_height = (area / ratio).sqrt().round() as usize;
        if (1..=width).contains(&crop_width) && (1..=height).contains(&crop_height) {
            return Crop {
                top: rng.random_range(0..=height - crop_height),
                left: rng.random_range(0..=width - crop_width),
                height: crop_height,
                width: crop_width,
            };
        }
    }
    View::identity(height, width).crop
}

impl Colour {
    /// Changes the colours of an image of three planes in place.
    fn apply(self, image: &mut [f32]) {
        let plane = image.len() / 3;
        let (red, rest) = image.split_at_mut(plane);
        let (green, blue) = rest.split_at_mut(plane);
        let pixels = red.iter_mut().zip(green).zip(blue);
        let pixels = pixels.map(|((r, g), b)| [r, g, b]);
        match self {
            Self::Brightness(factor) => {
                for pixel in pixels {
                    blend(pixel, 0.0, factor);
                }
            }
            Self::Contrast(factor) => {
                let pixels: Vec<_> = pixels.collect();
                let total: f32 = pixels.iter().map(grey).sum();
                let mean = total / plane as f32;
                for pixel in pixels {
                    blend(pixel, mean, factor);
                }
            }
            Self::Saturation(factor) => {
                for pixel in pixels {
                    let grey = grey(&pixel);
                    blend(pixel, grey, factor);
                }
            }
            Self::Hue(turn) => {
                for pixel in pixels {
                    turn_hue(pixel, turn);
                }
            }
        }
    }
}

#[inline]
fn grey(pixel: &[&mut f32; 3]) -> f32 {
    LUMA[0] * *pixel[0] + LUMA[1] * *pixel[1] + LUMA[2] * *pixel[2]
}

/// Writes `base + factor (pixel - base)`, clipped to `[0, 1]`.
#[inline]
fn blend(pixel: [&mut f32; 3], base: f32, factor: f32) {
    for v in pixel {
        *v = (base + factor * (*v - base)).clamp(0.0, 1.0);
    }
}

/// Turns the hue in HSV colour space, which keeps the largest and the smallest channel value.
#[inline]
fn turn_hue([r, g, b]: [&mut f32; 3], turn: f32) {
    let value = r.max(*g).max(*b);
    let chroma = value - r.min(*g).min(*b);
    if chroma <= 0.0 {
        return;
    }
    // The hue in sixths of a full turn.
    let hue = if value == *r {
        (*g - *b) / chroma
    } else if value == *g {
        2.0 + (*b - *r) / chroma
    } else {
        4.0 + (*r - *g) / chroma
    };
    let hue = hue + 6.0 * turn + 12.0;
    // The usual closed form of HSV to RGB: f(n) = v - c max(0, min(k, 4 - k, 1)), k = (n + hue) mod 6.
    let channel = |n: f32| {
        let k = n + hue;
        let k = k - 6.0 * (k * (1.0 / 6.0)).floor();
        value - chroma * k.min(4.0 - k).clamp(0.0, 1.0)
    };
    (*r, *g, *b) = (channel(5.0), channel(3.0), channel(1.0));
}

/// Renders one view of each of the images with the numbers `indices`, as `indices.len() * 3 h w` values in `[0, 1]`.
/// `image` is called with a number and returns the image `[3, h, w]`; `stream` is called with a number and returns the
/// generator that draws its view. `view` is 0 for first views and 1 for second views.
#[must_use]
pub fn render_views<'a>(
    config: &AugmentConfig,
    image: &(dyn Fn(usize) -> ArrayView3<'a, u8> + Sync),
    indices: &[usize],
    stream: &(dyn Fn(usize) -> ChaCha8Rng + Sync),
    view: usize,
) -> Vec<f32> {
    let tiles = par_tiles(indices.len(), 32, |range| {
        let mut out = Vec::new();
        for &number in &indices[range] {
            let image = image(number);
            let (_, height, width) = image.dim();
            let drawn = View::draw(config, height, width, view, &mut stream(number));
            let at = out.len();
            out.resize(at + image.len(), 0.0);
            drawn.render(image, &mut out[at..]);
        }
        Ok::<_, std::convert::Infallible>(out)
    });
    match tiles {
        Ok(tiles) => tiles.concat(),
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_streams::Trained;
    use ndarray::{Array3, Array4, Axis};

    fn image() -> Array3<u8> {
        Array3::from_shape_fn((3, 6, 8), |(c, y, x)| ((c * 71 + y * 37 + x * 19) % 256) as u8)
    }

    fn render(view: &View, image: &Array3<u8>) -> Vec<f32> {
        let mut out = vec![0.0; image.len()];
        view.render(image.view(), &mut out);
        out
    }

    fn coloured(colour: Colour, pixel: [f32; 3]) -> [f32; 3] {
        let mut image = pixel.to_vec();
        colour.apply(&mut image);
        [image[0], image[1], image[2]]
    }

    fn assert_close(a: &[f32], b: &[f32]) {
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }

    #[test]
    fn the_identity_shows_the_image_and_a_flip_mirrors_it() {
        let image = image();
        let pixels: Vec<f32> = image.iter().map(|&v| f32::from(v) / 255.0).collect();
        let mut view = View::identity(6, 8);
        assert_eq!(render(&view, &image), pixels);
        view.flip = true;
        let mirrored: Vec<f32> = pixels.chunks(8).flat_map(|row| row.iter().rev().copied()).collect();
        assert_eq!(render(&view, &image), mirrored);
    }

    /// A crop of two columns stretched over four: samples at -0.25 (clamped), 0.25, 0.75, 1.25
    /// (clamped).
    #[test]
    fn a_crop_is_interpolated_linearly_between_pixel_centres() {
        let image = Array3::from_shape_fn((3, 1, 4), |(_, _, x)| [255, 0, 204, 255][x]);
        let mut view = View::identity(1, 4);
        view.crop.left = 1;
        view.crop.width = 2;
        assert_close(&render(&view, &image)[..4], &[0.0, 0.2, 0.6, 0.8]);
    }

    #[test]
    fn colours_change_by_hand_computed_values() {
        let p = [0.2, 0.4, 0.8];
        let grey = 0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.8;
        assert_close(&coloured(Colour::Brightness(1.5), p), &[0.3, 0.6, 1.0]);
        assert_close(&coloured(Colour::Saturation(0.0), p), &[grey; 3]);
        let half = p.map(|v| 0.5 * (v + grey));
        assert_close(&coloured(Colour::Saturation(0.5), p), &half);
        assert_close(&coloured(Colour::Contrast(0.5), p), &half);
        assert_close(&coloured(Colour::Contrast(1.0), p), &p);
    }

    #[test]
    fn a_third_of_a_turn_rotates_the_channels() {
        let p = [0.9, 0.3, 0.1];
        assert_close(&coloured(Colour::Hue(0.0), p), &p);
        assert_close(&coloured(Colour::Hue(1.0 / 3.0), p), &[0.1, 0.9, 0.3]);
        assert_close(&coloured(Colour::Hue(-1.0 / 3.0), p), &[0.3, 0.1, 0.9]);
        assert_close(&coloured(Colour::Hue(1.0 / 6.0), [1., 0., 0.]), &[1., 1., 0.]);
        assert_close(&coloured(Colour::Hue(0.5), [1., 0., 0.]), &[0., 1., 1.]);
        assert_close(&coloured(Colour::Hue(0.3), [0.4; 3]), &[0.4; 3]);
    }

    /// A bright pixel spreads as the outer product of the kernel with itself, and mirrored pixels come back at the
    /// edges.
    #[test]
    fn blur_is_a_separable_gaussian_with_mirrored_edges() {
        let w = (-0.5f32 / 0.64).exp();
        let [side, middle] = [w / (1.0 + 2.0 * w), 1.0 / (1.0 + 2.0 * w)];
        let mut plane = vec![0.0; 25];
        plane[2 * 5 + 2] = 1.0;
        blur(&mut plane, 5, 5, 0.8);
        let kernel = [0.0, side, middle, side, 0.0];
        let expected: Vec<f32> = kernel.iter().flat_map(|a| kernel.map(|b| a * b)).collect();
        assert_close(&plane, &expected);
        let mut edge = vec![0.0, 1.0, 0.0, 0.0];
        blur(&mut edge, 1, 4, 0.8);
        assert_close(&edge, &[2.0 * side, middle, side, 0.0]);
        // A kernel of 9 for 96 pixels: constants stay, also where it reaches over the edges.
        let mut flat = vec![0.25; 96 * 96];
        blur(&mut flat, 96, 96, 2.0);
        assert_close(&flat, &[0.25; 96 * 96]);
    }

    #[test]
    fn solarisation_inverts_what_is_bright_in_second_views_alone() {
        let image = Array3::from_shape_fn((3, 1, 4), |(_, _, x)| [0, 127, 128, 255][x]);
        let view = View { solarize: true, ..View::identity(1, 4) };
        assert_close(&render(&view, &image)[..4], &[0.0, 127.0 / 255.0, 127.0 / 255.0, 0.0]);
        let config = AugmentConfig { solarize: 1.0, blur: 0.5, ..AugmentConfig::default() };
        let mut blurred = 0;
        for epoch in 0..200 {
            let drawn = |view| {
                let mut rng = Trained::Extractor.view(1, epoch, 0, view);
                View::draw(&config, 6, 8, view, &mut rng)
            };
            let [first, second] = [drawn(0), drawn(1)];
            assert!(!first.solarize && second.solarize);
            assert!(first.blur.is_none_or(|sigma| (0.1..2.0).contains(&sigma)));
            blurred += usize::from(first.blur.is_some());
        }
        assert!((70..130).contains(&blurred), "{blurred}");
    }

    #[test]
    fn drawn_views_stay_in_range_and_vary_as_configured() {
        let config = AugmentConfig::default();
        let mut rng = Trained::Extractor.weights(3);
        let image = image();
        let (mut flips, mut jitters, mut areas) = (0, 0, 0.0);
        for _ in 0..2000 {
            let view = View::draw(&config, 6, 8, 0, &mut rng);
            flips += usize::from(view.flip);
            jitters += usize::from(view.colour.len() >= 4);
            areas += (view.crop.height * view.crop.width) as f32 / 48.0;
            assert!(view.crop.top + view.crop.height <= 6);
            assert!(view.crop.left + view.crop.width <= 8);
            let pixels = render(&view, &image);
            assert!(pixels.iter().all(|v| (0.0..=1.0).contains(v)));
        }
        assert!((900..1100).contains(&flips), "{flips}");
        assert!((1530..1670).contains(&jitters), "{jitters}");
        assert!((0.5..0.7).contains(&(areas / 2000.0)), "{areas}");
    }

    #[test]
    fn views_depend_on_the_image_and_not_on_batch_or_threads() {
        let images =
            Array4::from_shape_fn((50, 3, 6, 8), |(i, c, y, x)| ((i * 11 + c * 71 + y * 37 + x * 19) % 256) as u8);
        let config = AugmentConfig::default();
        let all: Vec<usize> = (0..50).collect();
        let views = |indices: &[usize], epoch, view| {
            let image = |i| images.index_axis(Axis(0), i);
            render_views(&config, &image, indices, &|i| Trained::Extractor.view(1, epoch, i, view), view)
        };
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let three = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let expected = one.install(|| views(&all, 0, 0));
        assert_eq!(expected, three.install(|| views(&all, 0, 0)));
        assert_eq!(expected[7 * 144..8 * 144], views(&[7], 0, 0));
        assert_ne!(expected, views(&all, 1, 0));
        assert_ne!(expected, views(&all, 0, 1));
    }
}
