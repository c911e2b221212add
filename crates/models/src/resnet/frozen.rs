//! A frozen residual network on the processor, by our own kernels.

mod buffers;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use buffers::{Buffers, Kept};
use burn::nn::PaddingConfig2d;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor};
use hemlock_conv::{Accumulate, BlockedTensor, Conv, ConvPass, Epilogue, Geometry};
use rayon::prelude::*;

use super::Folded;
use crate::clip_resnet::AttentionPool;
use crate::extractor::Needs;
use crate::travel::{down, up};

/// Images of one tape: few enough for their activations to stay in the cache.
const TOGETHER: usize = 2;
/// Most tapes that go through the last layers together, so that these read their weights, which fill no cache, less
/// often.
const TAPES: usize = 16;
/// Weights of a convolution that do not stay in the cache beside the images.
const LARGE: usize = 100_000;

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
    derivatives: Arc<Mutex<Vec<Buffers>>>,
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
    kept: Kept,
    /// Outputs of the stem, of its pooling if there is one, and of every convolution of a path, all after their ReLU.
    outputs: Buffers,
    /// The last output of each image and the features that attention makes of it, with burn's graph.
    read: Vec<(Tensor<4>, Tensor<2>)>,
}

/// A backward pass: the tape, and gradients with respect to its outputs.
struct Backward<'a> {
    tape: &'a mut Tape,
    gradients: Buffers,
}

/// Consecutive blocks, which some tapes pass together before others.
struct Segment<'a> {
    tapes: usize,
    blocks: Vec<(&'a FoldedBlock, usize)>,
}

impl FoldedNetwork {
    pub(crate) fn new(folded: &Folded, device: &Device) -> Self {
        let blocks = folded.blocks.par_iter().map(|block| FoldedBlock {
            path: block.path.par_iter().map(Layer::of).collect(),
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

    /// Computes the transformed weights of all layers, for images of `[height, width]`. Otherwise the first thread that
    /// meets a layer does so, and the others wait for it.
    pub(crate) fn prepare(&self, [height, width]: [usize; 2], needs: Needs) {
        let image = [TOGETHER, 3, height, width];
        let outputs = self.outputs(image);
        let stem = self.stem.iter().zip(std::iter::once(&image).chain(&outputs));
        let path = self.blocks.iter().flat_map(|block| &block.path).zip(&outputs[self.inputs()..]);
        stem.chain(path).collect::<Vec<_>>().into_par_iter().for_each(|(Layer { forward, backward }, input)| {
            forward.prepare(*input);
            if needs == Needs::Gradients {
                backward.prepare(forward.geometry().output(*input));
            }
        });
    }

    /// Features `[n, d]` of normalised images `[n, 3, height, width]`.
    pub(crate) fn features(&self, images: &[f32], size: [usize; 2]) -> Vec<f32> {
        let mut features = Vec::new();
        self.visit(images, size, Kept::Block, |tapes, _| {
            for mut tape in tapes {
                features.extend(self.read(&mut tape));
                self.keep(tape);
            }
        });
        features
    }

    /// Features `[n, d]`, and the tapes for [`backward`](Self::backward).
    pub(crate) fn forward_cached(&self, images: &[f32], size: [usize; 2]) -> (Vec<f32>, Vec<Tape>) {
        let (mut features, mut all) = (Vec::new(), Vec::new());
        self.visit(images, size, Kept::All, |mut tapes, _| {
            features.extend(tapes.iter_mut().flat_map(|tape| self.read(tape)));
            all.extend(tapes);
        });
        (features, all)
    }

    /// Memory of the tape of one image, in bytes.
    pub(crate) fn cache_bytes(&self, [height, width]: [usize; 2]) -> usize {
        let image = [1, 3, height, width];
        self.outputs(image).into_iter().chain([image]).map(|shape| BlockedTensor::bytes(shape, self.border())).sum()
    }

    /// The gradient with respect to the normalised images, given the gradient `[n, d]` with respect to the features.
    pub(crate) fn backward(&self, mut tapes: Vec<Tape>, grad_features: &[f32]) -> Vec<f32> {
        let n: usize = tapes.iter().map(|tape| tape.image.shape()[0]).sum();
        let d = grad_features.len() / n.max(1);
        let (mut grad_pixels, mut row) = (Vec::new(), 0);
        for tapes in tapes.chunks_mut(TAPES) {
            let images: usize = tapes.iter().map(|tape| tape.image.shape()[0]).sum();
            self.backward_tapes(tapes, &grad_features[row * d..(row + images) * d], &mut grad_pixels);
            row += images;
        }
        tapes.into_iter().for_each(|tape| self.keep(tape));
        grad_pixels
    }

    /// The output of the last block for normalised images `[n, 3, height, width]`, and its shape `[n, c, h, w]`.
    pub(crate) fn activations(&self, images: &[f32], size: [usize; 2]) -> (Vec<f32>, [usize; 4]) {
        let (mut activations, mut shape) = (Vec::new(), [0; 4]);
        self.visit(images, size, Kept::Block, |tapes, _| {
            for tape in tapes {
                let Some(last) = tape.outputs.last() else { return };
                let ([n, c, h, w], from) = (last.shape(), activations.len());
                shape = [shape[0] + n, c, h, w];
                activations.resize(shape.iter().product(), 0.0);
                last.store(&mut activations[from..]);
                self.keep(tape);
            }
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
        self.visit(images, size, Kept::All, |mut tapes, row| {
            let features: Vec<f32> = tapes.iter_mut().flat_map(|tape| self.read(tape)).collect();
            self.backward_tapes(&mut tapes, &derivative(row, &features), &mut grad_pixels);
            tapes.into_iter().for_each(|tape| self.keep(tape));
        });
        grad_pixels
    }

    /// Passes all images forward, and calls `done` with some tapes and the number of their first image.
    fn visit(&self, images: &[f32], [height, width]: [usize; 2], kept: Kept, mut done: impl FnMut(Vec<Tape>, usize)) {
        let (one, border) = (3 * height * width, self.border());
        let most = TOGETHER * self.segments([TOGETHER, 3, height, width]).iter().map(|s| s.tapes).max().unwrap_or(1);
        for (i, images) in images.chunks(most * one).enumerate() {
            let mut tapes: Vec<Tape> = Vec::new();
            for images in images.chunks(TOGETHER * one) {
                let mut tape = self.tape([images.len() / one, 3, height, width], kept, border);
                tape.image.load(images);
                tapes.push(tape);
            }
            self.forward(&mut tapes);
            done(tapes, i * most);
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

    fn tape(&self, shape: [usize; 4], kept: Kept, border: usize) -> Tape {
        let mut pool = locked(&self.tapes);
        if let Some(i) = pool.iter().rposition(|tape| tape.image.shape() == shape && tape.kept == kept) {
            return pool.swap_remove(i);
        }
        drop(pool);
        let outputs = self.buffers(shape, kept, border);
        Tape { image: BlockedTensor::new(shape, border), kept, outputs, read: Vec::new() }
    }

    /// Memory for the outputs of all layers, for images of the shape `images`.
    fn buffers(&self, images: [usize; 4], kept: Kept, border: usize) -> Buffers {
        let mut first = self.inputs() + 1;
        let starts = self.blocks.iter().map(|block| {
            first += block.path.len();
            first - block.path.len()
        });
        let starts: Vec<usize> = std::iter::once(0).chain(starts).collect();
        Buffers::new(&self.outputs(images), &starts, kept, border)
    }

    /// The number of the output that the first block reads.
    fn inputs(&self) -> usize {
        self.stem.len() + usize::from(self.pools) - 1
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

    fn forward(&self, tapes: &mut [Tape]) {
        let Some(images) = tapes.first().map(|tape| tape.image.shape()) else { return };
        let segments = self.segments(images);
        for tapes in tapes.chunks_mut(segments.first().map_or(1, |segment| segment.tapes)) {
            tapes.iter_mut().for_each(|tape| self.forward_stem(tape));
            segments.iter().take(1).for_each(|segment| segment.forward(tapes));
        }
        for segment in segments.iter().skip(1) {
            tapes.chunks_mut(segment.tapes).for_each(|tapes| segment.forward(tapes));
        }
    }

    fn forward_stem(&self, Tape { image, outputs, .. }: &mut Tape) {
        for (i, layer) in self.stem.iter().enumerate() {
            let (start, finish) = (Accumulate::Zero, Epilogue::Relu);
            match i.checked_sub(1) {
                None => layer.forward.apply(image, start, finish, outputs.output_mut(i)),
                Some(before) => {
                    let ([x, _], out) = outputs.split([before; 2], i);
                    layer.forward.apply(x, start, finish, out);
                }
            }
        }
        if self.pools {
            let ([x, _], out) = outputs.split([self.stem.len() - 1; 2], self.stem.len());
            x.max_pool(out);
        }
    }

    /// The blocks in groups of those that as many tapes should pass together, for images of the shape `images`.
    fn segments(&self, images: [usize; 4]) -> Vec<Segment<'_>> {
        let shapes = self.outputs(images);
        let mut segments: Vec<Segment> = Vec::new();
        let mut at = self.inputs();
        for block in &self.blocks {
            let large = |layer: &&Layer| layer.forward.geometry().weights() > LARGE;
            let together = block.path.iter().zip(&shapes[at..]).filter(|(layer, _)| large(layer));
            let tapes = together.map(|(layer, shape)| layer.forward.together(*shape)).max().unwrap_or(1).min(TAPES);
            match segments.last_mut().filter(|segment| segment.tapes == tapes) {
                Some(segment) => segment.blocks.push((block, at)),
                None => segments.push(Segment { tapes, blocks: vec![(block, at)] }),
            }
            at += block.path.len();
        }
        segments
    }

    /// Appends the gradient with respect to the images to `grad_pixels`. It is computed in the memory of their images.
    fn backward_tapes(&self, tapes: &mut [Tape], grad_features: &[f32], grad_pixels: &mut Vec<f32>) {
        // Gradients with respect to the outputs of the convolutions, before their ReLU.
        let mut passes: Vec<Backward> = Vec::with_capacity(tapes.len());
        let images: usize = tapes.iter().map(|tape| tape.image.shape()[0]).sum();
        let Some(shape) = tapes.first().map(|tape| tape.image.shape()) else { return };
        let (d, mut row) = (grad_features.len() / images.max(1), 0);
        for tape in tapes {
            let mut gradients = self.gradients(tape.image.shape());
            let n = tape.image.shape()[0];
            if let Some(last) = gradients.last_mut() {
                self.read_backward(tape, &grad_features[row * d..(row + n) * d], last);
            }
            row += n;
            passes.push(Backward { tape, gradients });
        }
        let segments = self.segments(shape);
        for segment in segments.iter().skip(1).rev() {
            passes.chunks_mut(segment.tapes).for_each(|passes| segment.backward(passes));
        }
        for passes in passes.chunks_mut(segments.first().map_or(1, |segment| segment.tapes)) {
            segments.iter().take(1).for_each(|segment| segment.backward(passes));
            passes.iter_mut().for_each(|pass| self.backward_stem(pass));
        }
        for pass in passes {
            let image = &pass.tape.image;
            let from = grad_pixels.len();
            grad_pixels.resize(from + image.shape().iter().product::<usize>(), 0.0);
            image.store(&mut grad_pixels[from..]);
            locked(&self.derivatives).push(pass.gradients);
        }
    }

    fn backward_stem(&self, Backward { tape: Tape { image, outputs, .. }, gradients }: &mut Backward<'_>) {
        if self.pools {
            let at = self.stem.len() - 1;
            let ([grad_y, _], grad_x) = gradients.split([at + 1; 2], at);
            outputs.output(at).max_pool_derivative(grad_y, grad_x);
        }
        for (i, layer) in self.stem.iter().enumerate().rev() {
            match i.checked_sub(1) {
                None => layer.backward.apply(gradients.output(i), Accumulate::Zero, Epilogue::Keep, image),
                Some(before) => {
                    let ([grad_y, _], grad_x) = gradients.split([i; 2], before);
                    let mask = Epilogue::Mask(outputs.output(before));
                    layer.backward.apply(grad_y, Accumulate::Zero, mask, grad_x);
                }
            }
        }
    }

    /// Memory for gradients with respect to the outputs, with arbitrary values.
    fn gradients(&self, images: [usize; 4]) -> Buffers {
        let (mut pool, shapes) = (locked(&self.derivatives), self.outputs(images));
        let fits = |buffers: &Buffers| shapes.iter().enumerate().all(|(i, shape)| buffers.output(i).shape() == *shape);
        if let Some(i) = pool.iter().rposition(fits) {
            return pool.swap_remove(i);
        }
        drop(pool);
        self.buffers(images, Kept::Block, self.border())
    }
}

impl Segment<'_> {
    fn forward(&self, tapes: &mut [Tape]) {
        self.blocks.iter().for_each(|(block, at)| block.forward(tapes, *at));
    }

    fn backward(&self, passes: &mut [Backward<'_>]) {
        self.blocks.iter().rev().for_each(|(block, at)| block.backward(passes, *at));
    }
}

/// The size of tiles of at most `most` of `n` images, so that `threads` threads end at the same time: a multiple of
/// [`TOGETHER`].
pub(crate) fn even_tile(n: usize, most: usize, threads: usize) -> usize {
    let rounds = n.div_ceil((most * threads).max(1)).max(1);
    n.div_ceil((rounds * threads).max(1)).next_multiple_of(TOGETHER).min(most).max(1)
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FoldedBlock {
    /// Writes the outputs of the path's convolutions, after their ReLU, for the input that is output `at`.
    fn forward(&self, tapes: &mut [Tape], at: usize) {
        let last = self.path.len() - 1;
        for (i, layer) in self.path.iter().enumerate() {
            if let Some(shortcut) = self.shortcut.as_ref().filter(|_| i == last) {
                shortcut.forward.apply_all(&mut jobs(tapes, |tape| {
                    let ([x, _], out) = tape.outputs.split([at; 2], at + 1 + last);
                    ConvPass { x, start: Accumulate::Zero, finish: Epilogue::Keep, out }
                }));
            }
            layer.forward.apply_all(&mut jobs(tapes, |tape| {
                let ([x, identity], out) = tape.outputs.split([at + i, at], at + 1 + i);
                ConvPass { x, start: self.start(i == last, identity), finish: Epilogue::Relu, out }
            }));
        }
    }

    /// The backward pass of a block whose input is output `at`: given the gradient with respect to its output, writes
    /// the gradients with respect to the inner outputs and to its input, all before their ReLU.
    fn backward(&self, passes: &mut [Backward<'_>], at: usize) {
        let end = at + self.path.len();
        for (i, layer) in self.path.iter().enumerate().rev() {
            if let Some(shortcut) = self.shortcut.as_ref().filter(|_| i == 0) {
                shortcut.backward.apply_all(&mut jobs(passes, |pass| {
                    let ([x, _], out) = pass.gradients.split([end; 2], at);
                    ConvPass { x, start: Accumulate::Zero, finish: Epilogue::Keep, out }
                }));
            }
            layer.backward.apply_all(&mut jobs(passes, |pass| {
                let ([x, identity], out) = pass.gradients.split([at + i + 1, end], at + i);
                let finish = Epilogue::Mask(pass.tape.outputs.output(at + i));
                ConvPass { x, start: self.start(i == 0, identity), finish, out }
            }));
        }
    }

    /// What a convolution's result is added to: where the shortcut `joins`, what passed it.
    fn start<'a>(&self, joins: bool, identity: &'a BlockedTensor) -> Accumulate<'a> {
        match (joins, &self.shortcut) {
            (false, _) => Accumulate::Zero,
            (true, None) => Accumulate::Add(identity),
            (true, Some(_)) => Accumulate::Result,
        }
    }
}

fn jobs<'a, T>(items: &'a mut [T], job: impl Fn(&'a mut T) -> ConvPass<'a>) -> Vec<ConvPass<'a>> {
    items.iter_mut().map(job).collect()
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
        let bias = conv.bias.as_ref().map(|bias| down(bias.val())).unwrap_or_default();
        let weights = down(conv.weight.val());
        let [outputs, inputs, kernel, _] = conv.weight.dims();
        if kernel != 2 {
            return Self::new(geometry(conv), &weights, &bias);
        }
        // Average pooling that was folded into a convolution of 1x1, four equal weights of a quarter.
        let (channels, weights) = ([outputs, inputs], weights.chunks_exact(4).map(|w| 4.0 * w[0]).collect::<Vec<_>>());
        Self {
            forward: Conv::with_average_pooling(channels, &weights, &bias),
            backward: Conv::transposed_with_average_pooling(channels, &weights),
        }
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

#[cfg(test)]
mod tests;
