//! A frozen network on the processor, by our own kernels: features, and gradients with respect to pixels.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::nn::PaddingConfig2d;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor, TensorData};
use hemlock_conv::{Accumulate, BlockedTensor, Conv, Epilogue, Geometry};

use crate::clip_resnet::AttentionPool;
use crate::convnext::{self, frozen::FrozenConvNext};
use crate::network::Network;
use crate::resnet::Folded;
use crate::travel::{down, up};
use crate::vit::frozen::{FrozenVit, Pass};

/// Images that go through the layers together: few enough for their activations to stay in the cache.
const TOGETHER: usize = 4;

/// A frozen network of any family, for images of one size.
#[derive(Debug, Clone)]
pub(crate) enum FrozenNetwork {
    ResNet(Box<FoldedNetwork>, [usize; 2]),
    Vit(FrozenVit),
    ConvNext(FrozenConvNext),
}

/// The forward cache of some images.
#[derive(Debug)]
pub(crate) enum Tapes {
    ResNet(Vec<Tape>),
    Vit(Vec<Pass>),
    ConvNext(Vec<convnext::frozen::Pass>),
}

impl FrozenNetwork {
    /// Freezes `net` for images of `[height, width]`.
    pub(crate) fn new(net: &Network, size: [usize; 2], device: &Device) -> Self {
        match net {
            Network::ResNet(net) => Self::ResNet(Box::new(FoldedNetwork::new(&Folded::new(net), device)), size),
            Network::ClipResNet(net) => Self::ResNet(Box::new(FoldedNetwork::new(&Folded::of_clip(net), device)), size),
            Network::Vit(net) => Self::Vit(FrozenVit::new(net, size, device)),
            Network::ConvNext(net) => Self::ConvNext(FrozenConvNext::new(net, size)),
        }
    }

    /// How many images go through the layers together, if a larger tile would be of no use.
    pub(crate) fn together(&self) -> Option<usize> {
        match self {
            Self::ResNet(..) | Self::ConvNext(_) => None,
            Self::Vit(net) => Some(net.together()),
        }
    }

    /// Features `[n, d]` of normalised images `[n, 3, height, width]`.
    pub(crate) fn features(&self, images: &[f32]) -> Vec<f32> {
        match self {
            Self::ResNet(net, size) => net.features(images, *size),
            Self::Vit(net) => net.features(images),
            Self::ConvNext(net) => net.features(images),
        }
    }

    /// Features `[n, d]`, and the tapes for [`backward`](Self::backward).
    pub(crate) fn forward_cached(&self, images: &[f32]) -> (Vec<f32>, Tapes) {
        match self {
            Self::ResNet(net, size) => {
                let (features, tapes) = net.forward_cached(images, *size);
                (features, Tapes::ResNet(tapes))
            }
            Self::Vit(net) => {
                let (features, passes) = net.forward_cached(images);
                (features, Tapes::Vit(passes))
            }
            Self::ConvNext(net) => {
                let (features, passes) = net.forward_cached(images);
                (features, Tapes::ConvNext(passes))
            }
        }
    }

    /// Memory of the tape of one image, in bytes.
    pub(crate) fn cache_bytes(&self) -> usize {
        match self {
            Self::ResNet(net, size) => net.cache_bytes(*size),
            Self::Vit(net) => net.cache_bytes(),
            Self::ConvNext(net) => net.cache_bytes(),
        }
    }

    /// The gradient with respect to the normalised images, given the gradient `[n, d]` with respect to the features.
    /// `tapes` must come from the same network.
    pub(crate) fn backward(&self, tapes: Tapes, grad_features: &[f32]) -> Vec<f32> {
        match (self, tapes) {
            (Self::ResNet(net, _), Tapes::ResNet(tapes)) => net.backward(tapes, grad_features),
            (Self::Vit(net), Tapes::Vit(passes)) => net.backward(passes, grad_features),
            (Self::ConvNext(net), Tapes::ConvNext(passes)) => net.backward(passes, grad_features),
            _ => Vec::new(),
        }
    }

    /// The gradient of a scalar function of the features with respect to the normalised images.
    /// `derivative(first_row, features)` is called with the features of consecutive images and returns the gradient
    /// with respect to these.
    pub(crate) fn vjp(&self, images: &[f32], derivative: impl FnMut(usize, &[f32]) -> Vec<f32>) -> Vec<f32> {
        match self {
            Self::ResNet(net, size) => net.vjp(images, *size, derivative),
            Self::Vit(net) => net.vjp(images, derivative),
            Self::ConvNext(net) => net.vjp(images, derivative),
        }
    }
}

/// A frozen residual network, with its batch norms folded into the convolutions.
#[derive(Debug, Clone)]
pub(crate) struct FoldedNetwork {
    /// The convolutions of the stem, each followed by a ReLU.
    stem: Vec<Layer>,
    /// Whether max pooling follows the stem.
    pools: bool,
    blocks: Vec<FoldedBlock>,
    /// What makes features of the last output, by burn's operations; `None` is the mean over the image.
    attention: Option<AttentionPool>,
    device: Device,
    /// Forward caches of finished passes, to be reused: fresh memory costs more than a convolution.
    tapes: Arc<Mutex<Vec<Tape>>>,
    derivatives: Arc<Mutex<Vec<Vec<BlockedTensor>>>>,
}

#[derive(Debug, Clone)]
struct FoldedBlock {
    /// The convolutions of the path, each followed by a ReLU.
    path: Vec<Layer>,
    /// The shortcut's convolution; `None` is the identity.
    shortcut: Option<Layer>,
}

/// A convolution and its vector-Jacobian product.
#[derive(Debug, Clone)]
struct Layer {
    forward: Conv,
    backward: Conv,
}

/// The forward cache (tape) of some images.
#[derive(Debug)]
pub(crate) struct Tape {
    image: BlockedTensor,
    /// Outputs of the stem, of its pooling if there is one, and of every convolution of a path, all after their ReLU.
    outputs: Vec<BlockedTensor>,
    /// The last output of each image and the features that attention makes of it, with burn's graph.
    read: Vec<(Tensor<4>, Tensor<2>)>,
}

impl FoldedNetwork {
    pub(crate) fn new(folded: &Folded, device: &Device) -> Self {
        let blocks = folded.blocks.iter().map(|block| FoldedBlock {
            path: block.path.iter().map(Layer::of).collect(),
            shortcut: match &block.downsample {
                Some(conv) => Some(Layer::of(conv)),
                None => {
                    padding_channels(block.channels()).map(|(geometry, weights)| Layer::new(geometry, &weights, &[]))
                }
            },
        });
        Self {
            stem: folded.stem.iter().map(Layer::of).collect(),
            pools: folded.pools,
            blocks: blocks.collect(),
            attention: folded.attention.clone(),
            device: device.clone().inner(),
            tapes: Arc::default(),
            derivatives: Arc::default(),
        }
    }

    /// Features `[n, d]` of normalised images `[n, 3, height, width]`.
    pub(crate) fn features(&self, images: &[f32], size: [usize; 2]) -> Vec<f32> {
        let mut features = Vec::new();
        self.visit(images, size, |mut tape, _| {
            features.extend(self.read(&mut tape));
            self.keep(tape);
        });
        features
    }

    /// Features `[n, d]`, and the tapes for [`backward`](Self::backward).
    pub(crate) fn forward_cached(&self, images: &[f32], size: [usize; 2]) -> (Vec<f32>, Vec<Tape>) {
        let (mut features, mut tapes) = (Vec::new(), Vec::new());
        self.visit(images, size, |mut tape, _| {
            features.extend(self.read(&mut tape));
            tapes.push(tape);
        });
        (features, tapes)
    }

    /// Memory of the tape of one image, in bytes.
    pub(crate) fn cache_bytes(&self, [height, width]: [usize; 2]) -> usize {
        let image = [1, 3, height, width];
        self.outputs(image).into_iter().chain([image]).map(|shape| BlockedTensor::bytes(shape, self.border())).sum()
    }

    /// The gradient with respect to the normalised images, given the gradient `[n, d]` with respect to the features.
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

    /// The output of the last block for normalised images `[n, 3, height, width]`, and its shape `[n, c, h, w]`.
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

    /// The gradient of a scalar function of the features with respect to the normalised images.
    /// `derivative(first_row, features)` is called with the features of consecutive images and returns the gradient
    /// with respect to these.
    pub(crate) fn vjp(
        &self,
        images: &[f32],
        size: [usize; 2],
        mut derivative: impl FnMut(usize, &[f32]) -> Vec<f32>,
    ) -> Vec<f32> {
        let mut grad_pixels = Vec::with_capacity(images.len());
        self.visit(images, size, |mut tape, row| {
            let grad_features = derivative(row, &self.read(&mut tape));
            self.backward_tile(&mut tape, &grad_features, &mut grad_pixels);
            self.keep(tape);
        });
        grad_pixels
    }

    /// Passes all images forward, a few at a time, and calls `done` with each tape and the number of its first image.
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

    /// The features of a tape.
    fn read(&self, tape: &mut Tape) -> Vec<f32> {
        let Some(last) = tape.outputs.last() else { return Vec::new() };
        let Some(attention) = &self.attention else { return last.means() };
        let [n, c, h, w] = last.shape();
        let mut values = vec![0.0; n * c * h * w];
        last.store(&mut values);
        // Image by image, as the sums of a batch depend on its length.
        let read = values.chunks_exact(c * h * w).map(|image| {
            let image = Tensor::<4>::from_inner(up(image.to_vec(), [1, c, h, w], &self.device)).require_grad();
            let features = attention.forward(image.clone());
            (image, features)
        });
        tape.read = read.collect();
        tape.read.iter().flat_map(|(_, features)| down(features.clone().inner())).collect()
    }

    /// Writes the gradient with respect to the last output, before its ReLU, to `grad`, given the gradient with respect
    /// to the features.
    fn read_backward(&self, tape: &mut Tape, grad_features: &[f32], grad: &mut BlockedTensor) {
        let Some(last) = tape.outputs.last() else { return };
        if self.attention.is_none() {
            return grad.means_derivative(grad_features, last);
        }
        let mut values = vec![0.0; last.shape().iter().product()];
        last.store(&mut values);
        let d = grad_features.len() / last.shape()[0].max(1);
        let one = values.len() / last.shape()[0].max(1);
        let images = values.chunks_exact_mut(one).zip(grad_features.chunks_exact(d));
        for ((values, grad_features), (image, features)) in images.zip(tape.read.drain(..)) {
            let grad_features = up(grad_features.to_vec(), features.dims(), &self.device);
            let mut gradients = (features * Tensor::from_inner(grad_features)).sum().backward();
            // burn registers no gradient if the features do not depend on the image; then it is zero.
            let found = image.grad_remove(&mut gradients).map_or_else(|| vec![0.0; one], down);
            values.iter_mut().zip(found).for_each(|(y, g)| *y = if *y > 0.0 { g } else { 0.0 });
        }
        grad.load(&values);
    }

    /// Returns a tape to the pool, for a later pass.
    fn keep(&self, mut tape: Tape) {
        tape.read.clear();
        locked(&self.tapes).push(tape);
    }

    fn tape(&self, shape: [usize; 4]) -> Tape {
        let mut pool = locked(&self.tapes);
        if let Some(i) = pool.iter().rposition(|tape| tape.image.shape() == shape) {
            return pool.swap_remove(i);
        }
        drop(pool);
        let tensor = |shape| BlockedTensor::new(shape, self.border());
        Tape { image: tensor(shape), outputs: self.outputs(shape).into_iter().map(tensor).collect(), read: Vec::new() }
    }

    /// The widest border that a layer needs.
    fn border(&self) -> usize {
        let all = self.blocks.iter().flat_map(|block| block.path.iter().chain(&block.shortcut)).chain(&self.stem);
        all.map(|layer| layer.forward.border().max(layer.backward.border())).max().unwrap_or(0)
    }

    /// Shapes of a tape's outputs, for images of the shape `images`.
    fn outputs(&self, images: [usize; 4]) -> Vec<[usize; 4]> {
        let (mut shapes, mut before) = (Vec::new(), images);
        let mut put = |shape| {
            shapes.push(shape);
            shape
        };
        for layer in &self.stem {
            before = put(layer.forward.geometry().output(before));
        }
        if self.pools {
            before = put(pooled(before));
        }
        for layer in self.blocks.iter().flat_map(|block| &block.path) {
            before = put(layer.forward.geometry().output(before));
        }
        shapes
    }

    fn forward(&self, tape: &mut Tape) {
        let Tape { image, outputs, .. } = tape;
        for (i, layer) in self.stem.iter().enumerate() {
            let (before, after) = outputs.split_at_mut(i);
            layer.forward.apply(before.last().unwrap_or(image), Accumulate::Zero, Epilogue::Relu, &mut after[0]);
        }
        let mut at = self.stem.len() - 1;
        if self.pools {
            let (x, y) = outputs[at..].split_at_mut(1);
            x[0].max_pool(&mut y[0]);
            at += 1;
        }
        for block in &self.blocks {
            let (x, outputs) = outputs[at..].split_at_mut(1);
            block.forward(&x[0], &mut outputs[..block.path.len()]);
            at += block.path.len();
        }
    }

    /// Appends the gradient with respect to the images to `grad_pixels`. It is computed in the memory of `tape.image`.
    fn backward_tile(&self, tape: &mut Tape, grad_features: &[f32], grad_pixels: &mut Vec<f32>) {
        // Gradients with respect to the outputs of the convolutions, before their ReLU.
        let mut derivatives = self.derivatives(&tape.outputs);
        let mut at = tape.outputs.len() - 1;
        self.read_backward(tape, grad_features, &mut derivatives[at]);
        let Tape { image, outputs, .. } = tape;
        for block in self.blocks.iter().rev() {
            let length = block.path.len();
            at -= length;
            let (grad_x, grad_outputs) = derivatives[at..].split_at_mut(1);
            block.backward(&outputs[at], &outputs[at + 1..][..length], &mut grad_x[0], &mut grad_outputs[..length]);
        }
        if self.pools {
            at -= 1;
            let (grad_x, grad_y) = derivatives[at..].split_at_mut(1);
            outputs[at].max_pool_derivative(&grad_y[0], &mut grad_x[0]);
        }
        for (i, layer) in self.stem.iter().enumerate().rev() {
            let (before, after) = derivatives.split_at_mut(i);
            match before.last_mut() {
                Some(x) => layer.backward.apply(&after[0], Accumulate::Zero, Epilogue::Mask(&outputs[i - 1]), x),
                None => layer.backward.apply(&after[0], Accumulate::Zero, Epilogue::Keep, image),
            }
        }
        locked(&self.derivatives).push(derivatives);
        let from = grad_pixels.len();
        grad_pixels.resize(from + image.shape().iter().product::<usize>(), 0.0);
        image.store(&mut grad_pixels[from..]);
    }

    /// Tensors with the shapes of `outputs`, with arbitrary values.
    fn derivatives(&self, outputs: &[BlockedTensor]) -> Vec<BlockedTensor> {
        let mut pool = locked(&self.derivatives);
        let fits = |tensors: &Vec<BlockedTensor>| {
            tensors.iter().map(BlockedTensor::shape).eq(outputs.iter().map(BlockedTensor::shape))
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
    /// Writes the outputs of the path's convolutions, after their ReLU, for the input `x`.
    fn forward(&self, x: &BlockedTensor, outputs: &mut [BlockedTensor]) {
        let ([inner @ .., last], [outputs @ .., y]) = (&self.path[..], outputs) else { return };
        for (i, layer) in inner.iter().enumerate() {
            let (before, after) = outputs.split_at_mut(i);
            layer.forward.apply(before.last().unwrap_or(x), Accumulate::Zero, Epilogue::Relu, &mut after[0]);
        }
        let start = match &self.shortcut {
            None => Accumulate::Add(x),
            Some(layer) => {
                layer.forward.apply(x, Accumulate::Zero, Epilogue::Keep, y);
                Accumulate::Result
            }
        };
        last.forward.apply(outputs.last().unwrap_or(x), start, Epilogue::Relu, y);
    }

    /// The backward pass of a block: given the gradient with respect to its output, the last element of `grad_outputs`,
    /// writes the gradients with respect to the inner outputs and to `x`, all before their ReLU.
    fn backward(
        &self,
        x: &BlockedTensor,
        outputs: &[BlockedTensor],
        grad_x: &mut BlockedTensor,
        grad_outputs: &mut [BlockedTensor],
    ) {
        let [first, others @ ..] = &self.path[..] else { return };
        for (i, layer) in others.iter().enumerate().rev() {
            let (before, after) = grad_outputs.split_at_mut(i + 1);
            layer.backward.apply(&after[0], Accumulate::Zero, Epilogue::Mask(&outputs[i]), &mut before[i]);
        }
        let grad_y = &grad_outputs[others.len()];
        let start = match &self.shortcut {
            None => Accumulate::Add(grad_y),
            Some(layer) => {
                layer.backward.apply(grad_y, Accumulate::Zero, Epilogue::Keep, grad_x);
                Accumulate::Result
            }
        };
        first.backward.apply(&grad_outputs[0], start, Epilogue::Mask(x), grad_x);
    }
}

/// The shape of the output of [`BlockedTensor::max_pool`].
pub(crate) fn pooled([images, channels, height, width]: [usize; 4]) -> [usize; 4] {
    [images, channels, height.div_ceil(2), width.div_ceil(2)]
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

/// The geometry of a square convolution with the same padding at all sides.
pub(crate) fn geometry(conv: &Conv2d) -> Geometry {
    let [outputs, inputs, kernel, _] = conv.weight.dims();
    let padding = if let PaddingConfig2d::Explicit(padding, ..) = conv.padding { padding } else { 0 };
    Geometry { inputs, outputs, kernel, stride: conv.stride[0], padding }
}

/// The option A shortcut from `inputs` to `outputs` channels, as a convolution and its weights: it takes every second
/// pixel and moves the channels to the middle of the new ones. `None` if the numbers are equal, and the shortcut is the
/// identity.
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
