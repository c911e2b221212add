//! A frozen network on the processor, by the kernels of `hemlock-conv`: features, and their derivative by the pixels.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::nn::conv::Conv2d;
use burn::tensor::TensorData;
use hemlock_conv::{Conv, Finish, Geometry, Planes, Start};

use crate::resnet::Folded;

/// Images that go through the layers together: few enough for their planes to stay in the cache.
const TOGETHER: usize = 4;

/// A frozen network, whose batch norms are folded into its convolutions.
#[derive(Debug, Clone)]
pub(crate) struct Frozen {
    stem: Layer,
    blocks: Vec<Block>,
    /// Tapes of passes that are done, for those to come: fresh memory costs more than a convolution.
    tapes: Arc<Mutex<Vec<Tape>>>,
}

#[derive(Debug, Clone)]
struct Block {
    conv1: Layer,
    conv2: Layer,
    /// `None` hands the input on.
    shortcut: Option<Layer>,
}

/// A convolution and its derivative.
#[derive(Debug, Clone)]
struct Layer {
    forward: Conv,
    backward: Conv,
}

/// What a pass leaves behind.
#[derive(Debug)]
struct Tape {
    image: Planes,
    /// Of the stem, and then of both convolutions of every block, after their ReLU.
    outputs: Vec<Planes>,
    /// The derivatives by what the convolutions sum to; empty if none are wanted.
    derivatives: Vec<Planes>,
}

impl Frozen {
    pub(crate) fn new(folded: &Folded) -> Self {
        let blocks = folded.blocks.iter().map(|block| Block {
            conv1: Layer::of(&block.conv1),
            conv2: Layer::of(&block.conv2),
            shortcut: match &block.downsample {
                Some(conv) => Some(Layer::of(conv)),
                None => Layer::padding_channels(&block.conv1),
            },
        });
        Self { stem: Layer::of(&folded.conv1), blocks: blocks.collect(), tapes: Arc::default() }
    }

    /// Features `[n, d]` of normalised images, `[3, height, width]` each.
    pub(crate) fn features(&self, images: &[f32], size: [usize; 2]) -> Vec<f32> {
        let mut features = Vec::new();
        self.visit(images, size, false, |tape, _| {
            features.extend(tape.features());
        });
        features
    }

    /// Features, and the derivative by the images of a function of the features: `derivative` gives it by the features of the images from a
    /// row on.
    pub(crate) fn pull(
        &self,
        images: &[f32],
        size: [usize; 2],
        mut derivative: impl FnMut(usize, &[f32]) -> Vec<f32>,
    ) -> Vec<f32> {
        let mut pulled = vec![0.0; images.len()];
        let one = 3 * size[0] * size[1];
        self.visit(images, size, true, |tape, row| {
            let by_features = derivative(row, &tape.features());
            let by_images = self.backward(tape, &by_features);
            let [n, ..] = by_images.shape();
            by_images.store(&mut pulled[row * one..(row + n) * one]);
        });
        pulled
    }

    /// Passes all images through, and calls `done` with each tape and its first image.
    fn visit(&self, images: &[f32], [height, width]: [usize; 2], keep: bool, mut done: impl FnMut(&mut Tape, usize)) {
        let one = 3 * height * width;
        for (i, images) in images.chunks(TOGETHER * one).enumerate() {
            let shape = [images.len() / one, 3, height, width];
            let mut tape = self.tape(shape, keep);
            tape.image.load(images);
            self.forward(&mut tape);
            done(&mut tape, i * TOGETHER);
            self.pool().push(tape);
        }
    }

    fn pool(&self) -> MutexGuard<'_, Vec<Tape>> {
        self.tapes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tape(&self, shape: [usize; 4], keep: bool) -> Tape {
        let mut pool = self.pool();
        let fits = |tape: &Tape| tape.image.shape() == shape && tape.derivatives.is_empty() != keep;
        if let Some(i) = pool.iter().position(fits) {
            return pool.swap_remove(i);
        }
        drop(pool);
        let layers = self.blocks.iter().flat_map(|block| [&block.conv1, &block.conv2]);
        let all = self.blocks.iter().flat_map(|block| [&block.conv1, &block.conv2].into_iter().chain(&block.shortcut));
        let borders = all.chain([&self.stem]).flat_map(|layer| [layer.forward.border(), layer.backward.border()]);
        let border = borders.max().unwrap_or(0);
        let image = Planes::new(shape, border);
        let (mut outputs, mut before) = (Vec::new(), shape);
        for layer in [&self.stem].into_iter().chain(layers) {
            before = layer.forward.geometry().output(before);
            outputs.push(Planes::new(before, border));
        }
        let derivatives = if keep { outputs.clone() } else { Vec::new() };
        Tape { image, outputs, derivatives }
    }

    fn forward(&self, tape: &mut Tape) {
        let Tape { image, outputs, .. } = tape;
        self.stem.forward.apply(image, Start::Zero, Finish::Relu, &mut outputs[0]);
        for (i, block) in self.blocks.iter().enumerate() {
            let [x, h, y] = three(outputs, 2 * i);
            block.conv1.forward.apply(x, Start::Zero, Finish::Relu, h);
            let start = match &block.shortcut {
                None => Start::Add(&*x),
                Some(layer) => {
                    layer.forward.apply(x, Start::Zero, Finish::Keep, y);
                    Start::Result
                }
            };
            block.conv2.forward.apply(h, start, Finish::Relu, y);
        }
    }

    /// The derivative by the images.
    fn backward<'a>(&self, tape: &'a mut Tape, by_features: &[f32]) -> &'a Planes {
        let Tape { image, outputs, derivatives } = tape;
        if let (Some(by), Some(last)) = (derivatives.last_mut(), outputs.last()) {
            by.spread(by_features, last);
        }
        for (i, block) in self.blocks.iter().enumerate().rev() {
            let [by_x, by_h, by_y] = three(derivatives, 2 * i);
            let [x, h] = [&outputs[2 * i], &outputs[2 * i + 1]];
            block.conv2.backward.apply(by_y, Start::Zero, Finish::Mask(h), by_h);
            let start = match &block.shortcut {
                None => Start::Add(&*by_y),
                Some(layer) => {
                    layer.backward.apply(by_y, Start::Zero, Finish::Keep, by_x);
                    Start::Result
                }
            };
            block.conv1.backward.apply(by_h, start, Finish::Mask(x), by_x);
        }
        self.stem.backward.apply(&derivatives[0], Start::Zero, Finish::Keep, image);
        image
    }
}

impl Tape {
    fn features(&self) -> Vec<f32> {
        self.outputs.last().map_or_else(Vec::new, Planes::means)
    }
}

/// What a block reads, its middle and its result.
fn three(planes: &mut [Planes], at: usize) -> [&mut Planes; 3] {
    let [x, h, y, ..] = &mut planes[at..] else {
        // A tape has a plane for every convolution.
        unreachable!("no planes for the block at {at}")
    };
    [x, h, y]
}

impl Layer {
    fn new(geometry: Geometry, weights: &[f32], bias: &[f32]) -> Self {
        Self { forward: Conv::new(geometry, weights, bias), backward: Conv::transposed(geometry, weights) }
    }

    fn of(conv: &Conv2d) -> Self {
        let values = |data: TensorData| data.iter::<f32>().collect::<Vec<_>>();
        let [outputs, inputs, kernel, _] = conv.weight.dims();
        let geometry = Geometry { inputs, outputs, kernel, stride: conv.stride[0], padding: kernel / 2 };
        let bias = conv.bias.as_ref().map(|bias| values(bias.val().into_data())).unwrap_or_default();
        Self::new(geometry, &values(conv.weight.val().into_data()), &bias)
    }

    /// The shortcut of option A around a block that begins with `conv`, as a convolution: every second pixel, each channel to the
    /// middle of the new ones.
    fn padding_channels(conv: &Conv2d) -> Option<Self> {
        let [outputs, inputs, ..] = conv.weight.dims();
        let mut weights = vec![0.0; outputs * inputs];
        for input in 0..inputs {
            weights[((outputs - inputs) / 2 + input) * inputs + input] = 1.0;
        }
        let geometry = Geometry { inputs, outputs, kernel: 1, stride: 2, padding: 0 };
        (outputs != inputs).then(|| Self::new(geometry, &weights, &[]))
    }
}
