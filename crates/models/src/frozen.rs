//! A frozen network on the processor, by the kernels of `hemlock-conv`: features, and their derivative by the pixels.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::nn::conv::Conv2d;
use burn::tensor::TensorData;
use hemlock_conv::{Accumulate, BlockedTensor, Conv, Epilogue, Geometry};

use crate::resnet::Folded;

/// Images that go through the layers together: few enough for their planes to stay in the cache.
const TOGETHER: usize = 4;

/// A frozen network, whose batch norms are folded into its convolutions.
#[derive(Debug, Clone)]
pub(crate) struct FoldedNetwork {
    stem: Layer,
    /// Whether a pooling follows.
    pools: bool,
    blocks: Vec<FoldedBlock>,
    /// Memory of passes that are done, for those to come: fresh memory costs more than a convolution.
    tapes: Arc<Mutex<Vec<Tape>>>,
    derivatives: Arc<Mutex<Vec<Vec<BlockedTensor>>>>,
}

#[derive(Debug, Clone)]
struct FoldedBlock {
    /// A ReLU follows on each.
    path: Vec<Layer>,
    /// `None` hands the input on.
    shortcut: Option<Layer>,
}

/// A convolution and its derivative.
#[derive(Debug, Clone)]
struct Layer {
    forward: Conv,
    backward: Conv,
}

/// What a pass of some images leaves behind.
#[derive(Debug)]
pub(crate) struct Tape {
    image: BlockedTensor,
    /// Of the stem, its pooling if it has one, and then of every convolution beside a shortcut, after their ReLU.
    outputs: Vec<BlockedTensor>,
}

impl FoldedNetwork {
    pub(crate) fn new(folded: &Folded) -> Self {
        let blocks = folded.blocks.iter().map(|block| FoldedBlock {
            path: block.path.iter().map(Layer::of).collect(),
            shortcut: match &block.downsample {
                Some(conv) => Some(Layer::of(conv)),
                None => {
                    padding_channels(block.channels()).map(|(geometry, weights)| Layer::new(geometry, &weights, &[]))
                }
            },
        });
        let blocks = blocks.collect();
        let (stem, pools) = (Layer::of(&folded.conv1), folded.pools());
        Self { stem, pools, blocks, tapes: Arc::default(), derivatives: Arc::default() }
    }

    /// Features `[n, d]` of normalised images, `[3, height, width]` each.
    pub(crate) fn features(&self, images: &[f32], size: [usize; 2]) -> Vec<f32> {
        let mut features = Vec::new();
        self.visit(images, size, |tape, _| {
            features.extend(tape.features());
            self.keep(tape);
        });
        features
    }

    /// The same, and the tapes that [`backward`](Self::backward) goes back along.
    pub(crate) fn trace(&self, images: &[f32], size: [usize; 2]) -> (Vec<f32>, Vec<Tape>) {
        let (mut features, mut tapes) = (Vec::new(), Vec::new());
        self.visit(images, size, |tape, _| {
            features.extend(tape.features());
            tapes.push(tape);
        });
        (features, tapes)
    }

    /// Memory that the tape of one image takes.
    pub(crate) fn trace_bytes(&self, [height, width]: [usize; 2]) -> usize {
        let image = [1, 3, height, width];
        self.outputs(image).into_iter().chain([image]).map(|shape| BlockedTensor::bytes(shape, self.border())).sum()
    }

    /// The derivative by the images of a function of the features, which has that derivative by the features `[n, d]`.
    pub(crate) fn backward(&self, tapes: Vec<Tape>, grad_features: &[f32]) -> Vec<f32> {
        let n: usize = tapes.iter().map(|tape| tape.image.shape()[0]).sum();
        let d = grad_features.len() / n.max(1);
        let (mut grad_pixels, mut row) = (Vec::new(), 0);
        for mut tape in tapes {
            let images = tape.image.shape()[0];
            self.backward_tile(&mut tape, &grad_features[row * d..(row + images) * d], &mut grad_pixels);
            row += images;
            self.keep(tape);
        }
        grad_pixels
    }

    /// What the last block makes of normalised images, `[3, height, width]` each, and its shape `[n, c, h, w]`.
    pub(crate) fn activations(&self, images: &[f32], size: [usize; 2]) -> (Vec<f32>, [usize; 4]) {
        let (mut activations, mut shape) = (Vec::new(), [0; 4]);
        self.visit(images, size, |tape, row| {
            let Some(last) = tape.outputs.last() else { return };
            let [n, c, h, w] = last.shape();
            shape = [row + n, c, h, w];
            activations.resize(shape.iter().product(), 0.0);
            last.store(&mut activations[row * c * h * w..]);
            self.keep(tape);
        });
        (activations, shape)
    }

    /// Features, and the derivative by the images of a function of the features: `derivative` gives it by the features
    /// of the images from a row on.
    pub(crate) fn vjp(
        &self,
        images: &[f32],
        size: [usize; 2],
        mut derivative: impl FnMut(usize, &[f32]) -> Vec<f32>,
    ) -> Vec<f32> {
        let mut grad_pixels = Vec::with_capacity(images.len());
        self.visit(images, size, |mut tape, row| {
            let grad_features = derivative(row, &tape.features());
            self.backward_tile(&mut tape, &grad_features, &mut grad_pixels);
            self.keep(tape);
        });
        grad_pixels
    }

    /// Passes all images through, and calls `done` with each tape and its first image.
    fn visit(&self, images: &[f32], [height, width]: [usize; 2], mut done: impl FnMut(Tape, usize)) {
        let one = 3 * height * width;
        for (i, images) in images.chunks(TOGETHER * one).enumerate() {
            let shape = [images.len() / one, 3, height, width];
            let mut tape = self.tape(shape);
            tape.image.load(images);
            self.forward(&mut tape);
            done(tape, i * TOGETHER);
        }
    }

    /// Keeps a tape for a pass to come.
    fn keep(&self, tape: Tape) {
        locked(&self.tapes).push(tape);
    }

    fn tape(&self, shape: [usize; 4]) -> Tape {
        let mut pool = locked(&self.tapes);
        if let Some(i) = pool.iter().rposition(|tape| tape.image.shape() == shape) {
            return pool.swap_remove(i);
        }
        drop(pool);
        let planes = |shape| BlockedTensor::new(shape, self.border());
        Tape { image: planes(shape), outputs: self.outputs(shape).into_iter().map(planes).collect() }
    }

    /// The widest border that a layer asks for.
    fn border(&self) -> usize {
        let all = self.blocks.iter().flat_map(|block| block.path.iter().chain(&block.shortcut)).chain([&self.stem]);
        all.map(|layer| layer.forward.border().max(layer.backward.border())).max().unwrap_or(0)
    }

    /// Shapes of a tape's outputs, for images of that shape.
    fn outputs(&self, images: [usize; 4]) -> Vec<[usize; 4]> {
        let mut shapes = vec![self.stem.forward.geometry().output(images)];
        let mut before = shapes[0];
        let mut put = |shape| {
            shapes.push(shape);
            shape
        };
        if self.pools {
            before = put(pooled(before));
        }
        for layer in self.blocks.iter().flat_map(|block| &block.path) {
            before = put(layer.forward.geometry().output(before));
        }
        shapes
    }

    fn forward(&self, tape: &mut Tape) {
        let Tape { image, outputs } = tape;
        self.stem.forward.apply(image, Accumulate::Zero, Epilogue::Relu, &mut outputs[0]);
        let mut at = 0;
        if self.pools {
            let (x, y) = outputs.split_at_mut(1);
            x[0].max_pool(&mut y[0]);
            at = 1;
        }
        for block in &self.blocks {
            let (x, made) = outputs[at..].split_at_mut(1);
            block.forward(&x[0], &mut made[..block.path.len()]);
            at += block.path.len();
        }
    }

    /// Appends the derivative by the images, which the tape holds no more.
    fn backward_tile(&self, tape: &mut Tape, grad_features: &[f32], grad_pixels: &mut Vec<f32>) {
        let Tape { image, outputs } = tape;
        // By what the convolutions sum to.
        let mut derivatives = self.derivatives(outputs);
        let mut at = outputs.len() - 1;
        derivatives[at].spread(grad_features, &outputs[at]);
        for block in self.blocks.iter().rev() {
            let length = block.path.len();
            at -= length;
            let (by_x, by_made) = derivatives[at..].split_at_mut(1);
            block.backward(&outputs[at], &outputs[at + 1..][..length], &mut by_x[0], &mut by_made[..length]);
        }
        if self.pools {
            let (by_x, by_y) = derivatives.split_at_mut(1);
            outputs[0].max_pool_derivative(&by_y[0], &mut by_x[0]);
        }
        self.stem.backward.apply(&derivatives[0], Accumulate::Zero, Epilogue::Keep, image);
        locked(&self.derivatives).push(derivatives);
        let from = grad_pixels.len();
        grad_pixels.resize(from + image.shape().iter().product::<usize>(), 0.0);
        image.store(&mut grad_pixels[from..]);
    }

    /// BlockedTensor of the shapes of `outputs`.
    fn derivatives(&self, outputs: &[BlockedTensor]) -> Vec<BlockedTensor> {
        let mut pool = locked(&self.derivatives);
        let fits = |planes: &Vec<BlockedTensor>| {
            planes.iter().map(BlockedTensor::shape).eq(outputs.iter().map(BlockedTensor::shape))
        };
        match pool.iter().rposition(fits) {
            Some(i) => pool.swap_remove(i),
            None => outputs.to_vec(),
        }
    }
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FoldedBlock {
    /// From `x` what every convolution of the path makes.
    fn forward(&self, x: &BlockedTensor, made: &mut [BlockedTensor]) {
        let ([inner @ .., last], [made @ .., y]) = (&self.path[..], made) else { return };
        for (i, layer) in inner.iter().enumerate() {
            let (before, after) = made.split_at_mut(i);
            layer.forward.apply(before.last().unwrap_or(x), Accumulate::Zero, Epilogue::Relu, &mut after[0]);
        }
        let start = match &self.shortcut {
            None => Accumulate::Add(x),
            Some(layer) => {
                layer.forward.apply(x, Accumulate::Zero, Epilogue::Keep, y);
                Accumulate::Result
            }
        };
        last.forward.apply(made.last().unwrap_or(x), start, Epilogue::Relu, y);
    }

    /// From the derivative by the last of what was made, that by the others and by `x`.
    fn backward(
        &self,
        x: &BlockedTensor,
        made: &[BlockedTensor],
        by_x: &mut BlockedTensor,
        by_made: &mut [BlockedTensor],
    ) {
        let [first, others @ ..] = &self.path[..] else { return };
        for (i, layer) in others.iter().enumerate().rev() {
            let (before, after) = by_made.split_at_mut(i + 1);
            layer.backward.apply(&after[0], Accumulate::Zero, Epilogue::Mask(&made[i]), &mut before[i]);
        }
        let by_y = &by_made[others.len()];
        let start = match &self.shortcut {
            None => Accumulate::Add(by_y),
            Some(layer) => {
                layer.backward.apply(by_y, Accumulate::Zero, Epilogue::Keep, by_x);
                Accumulate::Result
            }
        };
        first.backward.apply(&by_made[0], start, Epilogue::Mask(x), by_x);
    }
}

/// The shape after [`BlockedTensor::max_pool`].
pub(crate) fn pooled([images, channels, height, width]: [usize; 4]) -> [usize; 4] {
    [images, channels, height.div_ceil(2), width.div_ceil(2)]
}

impl Tape {
    fn features(&self) -> Vec<f32> {
        self.outputs.last().map_or_else(Vec::new, BlockedTensor::means)
    }
}

impl Layer {
    fn new(geometry: Geometry, weights: &[f32], bias: &[f32]) -> Self {
        Self { forward: Conv::new(geometry, weights, bias), backward: Conv::transposed(geometry, weights) }
    }

    fn of(conv: &Conv2d) -> Self {
        let values = |data: TensorData| data.iter::<f32>().collect::<Vec<_>>();
        let bias = conv.bias.as_ref().map(|bias| values(bias.val().into_data())).unwrap_or_default();
        Self::new(geometry(conv), &values(conv.weight.val().into_data()), &bias)
    }
}

/// A square convolution that keeps the image size up to its stride.
pub(crate) fn geometry(conv: &Conv2d) -> Geometry {
    let [outputs, inputs, kernel, _] = conv.weight.dims();
    Geometry { inputs, outputs, kernel, stride: conv.stride[0], padding: kernel / 2 }
}

/// The shortcut of option A between so many channels, where these differ, as a convolution and its weights: every
/// second pixel, each channel to the middle of the new ones.
pub(crate) fn padding_channels([inputs, outputs]: [usize; 2]) -> Option<(Geometry, Vec<f32>)> {
    if inputs == outputs {
        return None;
    }
    let mut weights = vec![0.0; outputs * inputs];
    for input in 0..inputs {
        weights[((outputs - inputs) / 2 + input) * inputs + input] = 1.0;
    }
    Some((Geometry { inputs, outputs, kernel: 1, stride: 2, padding: 0 }, weights))
}
