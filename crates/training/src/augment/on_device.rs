//! Views that are rendered by tensor operations on the network's device. They are drawn on the host, and up to rounding
//! they are those that [`render_views`](super::render_views) renders.
//!
//! Only the original images and a few numbers per view are transferred. Resizing is two products with matrices that
//! have two entries per row. Changes of colour are done in rounds (slots): in each, every image has one change or none.

use super::{AugmentConfig, Colour, LUMA, SOLAR, View, kernel, mirrored, taps};
use burn::tensor::{Device, Int, Tensor, TensorData};
use hemlock_models::travel::up;
use ndarray::ArrayView3;
use rand_chacha::ChaCha8Rng;

/// Renders one view of each of the images with the numbers `indices` on a device, as
/// [`render_views`](super::render_views) does: `[indices.len(), 3, h, w]` in `[0, 1]`.
pub(crate) fn render_views_on<'a>(
    config: &AugmentConfig,
    image: &(dyn Fn(usize) -> ArrayView3<'a, u8> + Sync),
    indices: &[usize],
    stream: &(dyn Fn(usize) -> ChaCha8Rng + Sync),
    view: usize,
    device: &Device,
) -> Tensor<4> {
    let (_, height, width) = indices.first().map_or((3, 1, 1), |first| image(*first).dim());
    let views: Vec<View> =
        indices.iter().map(|number| View::draw(config, height, width, view, &mut stream(*number))).collect();
    let pixels = indices.iter().flat_map(|number| image(*number)).map(|value| f32::from(*value) / 255.0).collect();
    let images = up(pixels, [indices.len(), 3, height, width], device);
    let mut numbers = Numbers::new(&views, height, width, device);
    let [rows, columns] = [height, width].map(|size| numbers.sampling(size));
    let mut images = resized(images, rows, columns);
    for slot in 0..slots(&views) {
        let turns = views.iter().any(|view| matches!(view.colour.get(slot), Some(Colour::Hue(_))));
        images = recoloured(images, [(); 4].map(|()| numbers.next()), turns);
    }
    if views.iter().any(|view| view.blur.is_some()) {
        let weights = (0..kernel(None, height, width).len()).map(|_| numbers.next()).collect();
        images = blurred(images, weights);
    }
    if views.iter().any(|view| view.solarize) {
        let shape = images.dims();
        let solar = numbers.next().greater_elem(0.5).expand(shape);
        let inverts = images.clone().greater_equal_elem(SOLAR).bool_and(solar);
        images = images.clone().mask_where(inverts, images.neg().add_scalar(1.0));
    }
    images
}

/// The largest number of colour changes of a view.
fn slots(views: &[View]) -> usize {
    views.iter().map(|view| view.colour.len()).max().unwrap_or(0)
}

/// The numbers that describe the views, in one tensor with a row per view, so that they are transferred at once.
struct Numbers {
    all: Tensor<2>,
    taken: usize,
}

impl Numbers {
    fn new(views: &[View], height: usize, width: usize, device: &Device) -> Self {
        let (slots, mut all) = (slots(views), Vec::new());
        let blurs = views.iter().any(|view| view.blur.is_some());
        for view in views {
            let rows = taps(height, view.crop.top, view.crop.height);
            let mut columns = taps(width, view.crop.left, view.crop.width);
            if view.flip {
                columns.reverse();
            }
            for taps in [rows, columns] {
                all.extend(taps.iter().map(|tap| tap.low as f32));
                all.extend(taps.iter().map(|tap| tap.high as f32));
                all.extend(taps.iter().map(|tap| tap.weight));
            }
            for slot in 0..slots {
                // A factor; 1 if it scales the distance to the mean grey; 1 if it scales the distance to each pixel's
                // grey; a turn of the hue.
                all.extend(match view.colour.get(slot) {
                    None => [1.0, 0.0, 0.0, 0.0],
                    Some(Colour::Brightness(factor)) => [*factor, 0.0, 0.0, 0.0],
                    Some(Colour::Contrast(factor)) => [*factor, 1.0, 0.0, 0.0],
                    Some(Colour::Saturation(factor)) => [*factor, 0.0, 1.0, 0.0],
                    Some(Colour::Hue(turn)) => [1.0, 0.0, 0.0, *turn],
                });
            }
            if blurs {
                all.extend(kernel(view.blur, height, width));
            }
            all.push(f32::from(u8::from(view.solarize)));
        }
        let columns = all.len() / views.len().max(1);
        Self { all: up(all, [views.len(), columns], device), taken: 0 }
    }

    fn take(&mut self, columns: usize) -> Tensor<2> {
        self.taken += columns;
        self.all.clone().narrow(1, self.taken - columns, columns)
    }

    /// The next number of every view, `[n, 1, 1, 1]`.
    fn next(&mut self) -> Tensor<4> {
        let numbers = self.take(1);
        let n = numbers.dims()[0];
        numbers.reshape([n, 1, 1, 1])
    }

    /// The matrices `[n, size, size]` that resample a line: each row mixes two pixels.
    fn sampling(&mut self, size: usize) -> Tensor<3> {
        let [low, high, weight] = [(); 3].map(|()| {
            let numbers = self.take(size);
            let n = numbers.dims()[0];
            numbers.reshape([n, size, 1])
        });
        let shape = [low.dims()[0], size, size];
        let line = Tensor::<1, Int>::arange(0..size as i64, &low.device()).float();
        let line = line.reshape([1, 1, size]).expand(shape);
        let entry = |index: Tensor<3>, weight: Tensor<3>| line.clone().equal(index.expand(shape)).float() * weight;
        entry(low, weight.clone().neg().add_scalar(1.0)) + entry(high, weight)
    }
}

/// Crops that are stretched to the full size, and flipped.
fn resized(images: Tensor<4>, rows: Tensor<3>, columns: Tensor<3>) -> Tensor<4> {
    let [n, channels, height, width] = images.dims();
    let wide = images.reshape([n, channels * height, width]).matmul(columns.swap_dims(1, 2));
    let by_row = wide.reshape([n, channels, height, width]).swap_dims(1, 2).reshape([n, height, channels * width]);
    rows.matmul(by_row).reshape([n, height, channels, width]).swap_dims(1, 2)
}

/// Applies one change of colour to every image, by the numbers of its slot.
fn recoloured(images: Tensor<4>, [factor, by_mean, by_grey, turn]: [Tensor<4>; 4], turns: bool) -> Tensor<4> {
    let [r, g, b] = [0, 1, 2].map(|channel| images.clone().narrow(1, channel, 1));
    let grey = r * LUMA[0] + g * LUMA[1] + b * LUMA[2];
    let mean = grey.clone().mean_dim(3).mean_dim(2);
    // The colour that the distance is measured from: black, the mean grey of the image, or the grey of each pixel.
    let base = by_mean * mean + by_grey * grey;
    let blended = (base.clone() + factor * (images - base)).clamp(0.0, 1.0);
    if turns { turned(blended, turn) } else { blended }
}

/// Turns the hue of every image by its share of a full turn, `[n, 1, 1, 1]`, as [`turn_hue`](super::turn_hue) does.
fn turned(images: Tensor<4>, turn: Tensor<4>) -> Tensor<4> {
    let [r, g, b] = [0, 1, 2].map(|channel| images.clone().narrow(1, channel, 1));
    let value = r.clone().max_pair(g.clone()).max_pair(b.clone());
    let chroma = value.clone() - r.clone().min_pair(g.clone()).min_pair(b.clone());
    let plain = chroma.clone().lower_equal_elem(0.0);
    let divisor = chroma.clone().mask_fill(plain.clone(), 1.0);
    let of_blue = (r.clone() - g.clone()) / divisor.clone() + 4.0;
    let of_green = (b.clone() - r.clone()) / divisor.clone() + 2.0;
    let of_red = (g.clone() - b) / divisor;
    let hue = of_blue.mask_where(value.clone().equal(g), of_green).mask_where(value.clone().equal(r), of_red);
    let hue = hue + turn.clone() * 6.0 + 12.0;
    let channel = |n: f32| {
        let k = hue.clone() + n;
        let k = k.clone() - (k * (1.0 / 6.0)).floor() * 6.0;
        let rest = k.clone().min_pair(k.neg() + 4.0).clamp(0.0, 1.0);
        value.clone() - chroma.clone() * rest
    };
    let turned = Tensor::cat(vec![channel(5.0), channel(3.0), channel(1.0)], 1);
    let shape = images.dims();
    let stays = plain.expand(shape).bool_or(turn.equal_elem(0.0).expand(shape));
    turned.mask_where(stays, images)
}

/// Gaussian blur with the weights of every image; those of images without blur are the identity.
fn blurred(images: Tensor<4>, weights: Vec<Tensor<4>>) -> Tensor<4> {
    let [_, _, height, width] = images.dims();
    let (size, device) = (weights.len(), images.device());
    let along = |images: Tensor<4>, axis: usize, length: usize| {
        let read: Vec<i32> = (0..length + size - 1).map(|at| mirrored(at, size / 2, length) as i32).collect();
        let count = read.len();
        let padded = images.select(axis, Tensor::<1, Int>::from_data(TensorData::new(read, [count]), &device));
        let terms =
            weights.iter().enumerate().map(|(i, weight)| padded.clone().narrow(axis, i, length) * weight.clone());
        terms.reduce(|sum, term| sum + term).unwrap_or(padded)
    };
    along(along(images, 3, width), 2, height)
}

#[cfg(test)]
mod tests {
    use super::super::render_views;
    use super::*;
    use hemlock_models::{
        device::{self, Backend},
        travel::{Travelled, travelled},
    };
    use hemlock_streams::Trained;
    use ndarray::{Array4, Axis};

    /// Every change, alone and together, on images that are not square.
    #[test]
    fn views_are_those_of_the_processor() {
        let device = device::open(Backend::default()).unwrap();
        let images = Array4::from_shape_fn((24, 3, 40, 48), |(i, c, y, x)| {
            // Some are grey, where hues are not defined.
            let c = if i % 5 == 0 { 0 } else { c };
            ((i * 31 + c * 71 + y * (37 + i) + x * 19) % 256) as u8
        });
        let image = |i: usize| images.index_axis(Axis(0), i);
        let indices: Vec<usize> = (0..24).rev().collect();
        let none = AugmentConfig { min_area: 1.0, flip: 0.0, jitter: 0.0, grayscale: 0.0, ..AugmentConfig::default() };
        let all = AugmentConfig { blur: 0.5, solarize: 0.5, jitter_strength: 1.0, ..AugmentConfig::default() };
        for config in [
            none,
            AugmentConfig { min_area: 0.1, flip: 0.5, ..none },
            AugmentConfig { jitter: 0.8, jitter_strength: 1.0, ..none },
            AugmentConfig { grayscale: 0.5, ..none },
            AugmentConfig { blur: 0.7, ..none },
            AugmentConfig { solarize: 0.7, ..none },
            all,
        ] {
            for view in [0, 1] {
                let stream = |i: usize| Trained::Extractor.view(3, 1, i, view);
                let expected = render_views(&config, &image, &indices, &stream, view);
                let (rendered, travelled) =
                    travelled(|| render_views_on(&config, &image, &indices, &stream, view, &device));
                assert_eq!(travelled, Travelled { up: 2, down: 0 }, "the images, and the numbers of their views");
                assert_eq!(rendered.dims(), [24, 3, 40, 48]);
                let rendered: Vec<f32> = rendered.into_data().iter::<f32>().collect();
                let far = |(a, b): &(&f32, &f32)| (*a - *b).abs() > 2e-5;
                // A value at a threshold, of solarisation or of two channels' order, may fall on its other side.
                let apart = expected.iter().zip(&rendered).filter(far).count();
                assert!(apart <= expected.len() / 2000, "{config:?}, view {view}: {apart} of {}", expected.len());
            }
        }
    }
}
