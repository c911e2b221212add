//! Compares whole networks with sums in f64, written out.

use super::*;
use crate::device::{self, Backend};
use crate::frozen::FrozenNetwork;
use crate::network::Network;
use burn::tensor::TensorData;
use hemlock_streams::Purpose;

/// One image `[channels, side, side]`.
#[derive(Debug, Clone)]
struct Image {
    channels: usize,
    side: usize,
    values: Vec<f64>,
}

/// A convolution in f64.
struct Exact {
    geometry: Geometry,
    weights: Vec<f64>,
    bias: Vec<f64>,
}

impl Image {
    fn zeros(channels: usize, side: usize) -> Self {
        Self { channels, side, values: vec![0.0; channels * side * side] }
    }

    fn relu(mut self) -> Self {
        self.values.iter_mut().for_each(|x| *x = x.max(0.0));
        self
    }

    /// Adds `other`.
    fn plus(mut self, other: &Self) -> Self {
        self.values.iter_mut().zip(&other.values).for_each(|(x, y)| *x += y);
        self
    }

    /// Zero where `x` is not positive.
    fn masked(mut self, x: &Self) -> Self {
        self.values.iter_mut().zip(&x.values).for_each(|(g, x)| *g = if *x > 0.0 { *g } else { 0.0 });
        self
    }
}

impl Exact {
    fn new(conv: &Conv2d) -> Self {
        let values = |data: TensorData| data.iter::<f64>().collect::<Vec<_>>();
        let bias = conv.bias.as_ref().map(|bias| values(bias.val().into_data())).unwrap_or_default();
        Self { geometry: geometry(conv), weights: values(conv.weight.val().into_data()), bias }
    }

    /// Calls `visit(x, y, weight, length)` for rows of products: `length` inputs from `x` on, at the convolution's
    /// stride, which meet as many outputs from `y` on.
    fn rows(&self, side: usize, mut visit: impl FnMut(usize, usize, f64, usize)) {
        let Geometry { inputs, outputs, kernel, stride, padding } = self.geometry;
        let out = (side + 2 * padding - kernel) / stride + 1;
        for (i, weight) in self.weights.iter().enumerate() {
            let (o, c, ky, kx) =
                (i / (inputs * kernel * kernel), i / (kernel * kernel) % inputs, i / kernel % kernel, i % kernel);
            let inside = |y: usize, k: usize| (y * stride + k).checked_sub(padding).filter(|at| *at < side);
            let Some(first) = (0..out).find(|x| inside(*x, kx).is_some()) else { continue };
            let length = (first..out).take_while(|x| inside(*x, kx).is_some()).count();
            for y in 0..out {
                if let (Some(row), Some(column)) = (inside(y, ky), inside(first, kx)) {
                    visit((c * side + row) * side + column, (o * out + y) * out + first, *weight, length);
                }
            }
        }
        assert!(outputs > 0);
    }

    fn forward(&self, x: &Image) -> Image {
        let Geometry { outputs, kernel, stride, padding, .. } = self.geometry;
        let mut y = Image::zeros(outputs, (x.side + 2 * padding - kernel) / stride + 1);
        let area = y.side * y.side;
        for (channel, bias) in y.values.chunks_exact_mut(area).zip(&self.bias) {
            channel.fill(*bias);
        }
        self.rows(x.side, |from, to, weight, length| {
            let inputs = x.values[from..].iter().step_by(stride);
            y.values[to..to + length].iter_mut().zip(inputs).for_each(|(y, x)| *y += weight * x);
        });
        y
    }

    fn backward(&self, grad: &Image, side: usize) -> Image {
        let mut x = Image::zeros(self.geometry.inputs, side);
        self.rows(side, |to, from, weight, length| {
            let inputs = x.values[to..].iter_mut().step_by(self.geometry.stride);
            inputs.zip(&grad.values[from..from + length]).for_each(|(x, y)| *x += weight * y);
        });
        x
    }
}

/// The features of an image, and the gradient of half of their squared norm with respect to it.
fn exact(net: &Folded, image: &Image) -> (Vec<f64>, Vec<f64>) {
    let stem = Exact::new(&net.stem[0]);
    let first = stem.forward(image).relu();
    let (mut x, mut tape) = (first.clone(), Vec::new());
    for block in &net.blocks {
        let path: Vec<Exact> = block.path.iter().map(Exact::new).collect();
        let shortcut = match &block.downsample {
            Some(conv) => Some(Exact::new(conv)),
            None => padding_channels(block.channels()).map(|(geometry, weights)| Exact {
                geometry,
                weights: weights.into_iter().map(f64::from).collect(),
                bias: Vec::new(),
            }),
        };
        let inner = path[0].forward(&x).relu();
        let added = shortcut.as_ref().map_or_else(|| x.clone(), |shortcut| shortcut.forward(&x));
        let y = path[1].forward(&inner).plus(&added).relu();
        tape.push((path, shortcut, x, inner));
        x = y;
    }
    let area = x.side * x.side;
    let features: Vec<f64> = x.values.chunks_exact(area).map(|c| c.iter().sum::<f64>() / area as f64).collect();
    let mut grad = Image::zeros(x.channels, x.side);
    for (channel, feature) in grad.values.chunks_exact_mut(area).zip(&features) {
        channel.fill(feature / area as f64);
    }
    grad = grad.masked(&x);
    for (path, shortcut, x, inner) in tape.iter().rev() {
        let by_path = path[0].backward(&path[1].backward(&grad, inner.side).masked(inner), x.side);
        let by_shortcut = shortcut.as_ref().map_or_else(|| grad.clone(), |shortcut| shortcut.backward(&grad, x.side));
        grad = by_path.plus(&by_shortcut).masked(x);
    }
    (features, stem.backward(&grad, image.side).values)
}

/// The largest distance, relative to the largest expected value.
fn distance(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    found.iter().zip(expected).fold(0.0f64, |m, (x, y)| m.max((f64::from(*x) - y).abs())) / largest
}

/// What Winograd's algorithm costs in precision, which docs/performance.md states. Where an error turns the sign of the
/// input of a ReLU, gradients differ by more, whatever the algorithm; the images of this test have no such pixel.
#[test]
#[allow(clippy::print_stderr)]
fn features_and_gradients_are_those_in_double_precision() {
    let device = device::open(Backend::default()).unwrap();
    for arch in ["resnet20", "resnet18"] {
        let net = Network::new(arch.parse().unwrap(), [32, 32], &mut Purpose::Test.of(1), &device);
        let Network::ResNet(net) = net else { panic!("{arch} is no residual network") };
        let folded = Folded::new(&net);
        let frozen = FoldedNetwork::new(&folded, &device.clone().inner());
        for seed in 0..2 {
            let value = |i: usize| ((i * 7919 + seed * 104_729) % 256) as f32 / 64.0 - 2.0;
            let pixels: Vec<f32> = (0..3 * 32 * 32).map(value).collect();
            let image = Image { channels: 3, side: 32, values: pixels.iter().map(|x| f64::from(*x)).collect() };
            let (features, gradient) = exact(&folded, &image);
            let mut found = Vec::new();
            let found_gradient = frozen.vjp(&pixels, [32, 32], |_, z| {
                found = z.to_vec();
                z.to_vec()
            });
            let errors = [distance(&found, &features), distance(&found_gradient, &gradient)];
            eprintln!("{arch}: {:.1e} of the largest feature, {:.1e} of the largest gradient", errors[0], errors[1]);
            assert!(errors.iter().all(|error| *error < 1e-5), "{arch}: {errors:?}");
        }
    }
}

/// Images do not influence each other, however many go through the layers together.
#[test]
fn the_tile_changes_no_result() {
    let device = device::open(Backend::default()).unwrap();
    let net = Network::new("resnet18-w32".parse().unwrap(), [16, 16], &mut Purpose::Test.of(1), &device);
    let frozen = FrozenNetwork::new(&net, [16, 16], &device.inner());
    let one = 3 * 16 * 16;
    let images: Vec<f32> = (0..21 * one).map(|i| ((i * 7919) % 251) as f32 / 64.0 - 2.0).collect();
    let in_tiles = |tile: usize| {
        let tiles = images.chunks(tile * one);
        let made = tiles.map(|images| (frozen.features(images), frozen.vjp(images, |_, z| z.to_vec())));
        let (features, gradients): (Vec<_>, Vec<_>) = made.unzip();
        (features.concat(), gradients.concat())
    };
    let expected = in_tiles(21);
    for tile in [1, 2, 6, 16] {
        assert!(in_tiles(tile) == expected, "tiles of {tile} images");
    }
}

#[test]
fn threads_get_tiles_of_the_same_size() {
    assert_eq!([32, 64, 80, 300].map(|n| even_tile(n, 32, 2)), [16, 32, 20, 30]);
    assert_eq!([0, 1, 5, 300].map(|n| even_tile(n, 32, 64)), [1, 2, 2, 6]);
    assert_eq!(even_tile(100, 1, 3), 1);
}
