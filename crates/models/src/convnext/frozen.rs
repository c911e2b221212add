//! A frozen ConvNeXt on the processor, by the kernels of `hemlock-conv` and `hemlock-dense`: features, and gradients
//! with respect to pixels.
//!
//! Images are rows of channels, a row for each pixel. Scales and shifts of the layer norms before linear maps, and
//! layer scales, are part of these maps; a convolution whose patches do not overlap is a linear map of patches.

use std::sync::{Arc, Mutex, PoisonError};

use hemlock_conv::Depthwise;
use hemlock_dense::{Activation, Addend};
use rayon::prelude::*;

use super::arch::{ConvNextArch, EXPANSION, PATCH, SIDE};
use super::{ConvNext, EPSILON};
use crate::linear::{Linear, Normalised, sized};
use crate::weights::Weights;

/// Images that go through the layers together.
const TOGETHER: usize = 4;
/// Rows that go through an MLP together, if one image has fewer: enough for the kernels, few enough for the cache.
const ROWS: usize = 400;
/// Pixels of a patch before a stage, in one direction.
const HALF: usize = 2;

/// A frozen ConvNeXt for images of one size.
#[derive(Debug, Clone)]
pub(crate) struct FrozenConvNext {
    arch: ConvNextArch,
    /// Height and width of an image.
    size: [usize; 2],
    stem: Linear,
    /// Scale and shift of the norm of the stem, and of the last norm.
    stem_norm: [Vec<f32>; 2],
    last_norm: [Vec<f32>; 2],
    stages: Vec<FrozenStage>,
    /// Finished passes, to be reused: fresh memory costs time.
    passes: Arc<Mutex<Vec<Pass>>>,
}

#[derive(Debug, Clone)]
struct FrozenStage {
    width: usize,
    /// Height and width of its images.
    size: [usize; 2],
    /// The map of patches of normalised pixels.
    downsample: Option<Linear>,
    blocks: Vec<FrozenBlock>,
}

#[derive(Debug, Clone)]
struct FrozenBlock {
    depthwise: Depthwise,
    depthwise_back: Depthwise,
    fc1: Linear,
    /// Scale and shift of global response normalisation.
    response: Option<[Vec<f32>; 2]>,
    fc2: Linear,
}

/// The memory of a pass of a few images. After a forward pass that keeps its tape, the backward pass can follow.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    images: usize,
    stem: Normalised,
    /// Before each stage but the first.
    downsamples: Vec<Normalised>,
    /// What the backward pass needs of each block; one for all if there will be none.
    blocks: Vec<BlockTape>,
    last: Normalised,
    features: Vec<f32>,
    /// The pixels of a stage, or the gradient with respect to them.
    x: Vec<f32>,
    patches: Vec<f32>,
    wide: Vec<f32>,
    other: Vec<f32>,
    narrow: Vec<f32>,
}

/// The tape of one block.
#[derive(Debug, Default)]
struct BlockTape {
    norm: Normalised,
    /// Hidden rows before the activation.
    hidden: Vec<f32>,
}

/// What global response normalisation does to one image: by which factor each channel grows, and what its derivative
/// needs.
struct Response {
    /// Norms of the channels over the image.
    norms: Vec<f32>,
    /// The inverse of their mean, with the epsilon.
    inverse_mean: f32,
}

impl Response {
    /// Of an image `[pixels, channels]`.
    fn of(image: &[f32], channels: usize) -> Self {
        let mut squares = vec![0.0f64; channels];
        for row in image.chunks_exact(channels) {
            squares.iter_mut().zip(row).for_each(|(sum, v)| *sum += f64::from(*v) * f64::from(*v));
        }
        let norms: Vec<f64> = squares.into_iter().map(f64::sqrt).collect();
        let mean = norms.iter().sum::<f64>() / channels as f64;
        Self { norms: norms.into_iter().map(|n| n as f32).collect(), inverse_mean: (1.0 / (mean + EPSILON)) as f32 }
    }

    /// Normalises the image in place.
    fn forward(&self, [scale, shift]: &[Vec<f32>; 2], image: &mut [f32]) {
        let factors: Vec<f32> =
            self.norms.iter().zip(scale).map(|(norm, scale)| 1.0 + scale * norm * self.inverse_mean).collect();
        for row in image.chunks_exact_mut(factors.len()) {
            row.iter_mut().zip(&factors).zip(shift).for_each(|((v, factor), shift)| *v = *v * factor + shift);
        }
    }

    /// Turns the gradient with respect to the normalised image into that with respect to the image.
    fn backward(&self, [scale, _]: &[Vec<f32>; 2], image: &[f32], grad: &mut [f32]) {
        let channels = self.norms.len();
        // Of each channel, the gradient with respect to its relative norm.
        let mut sums = vec![0.0f64; channels];
        for (row, grad) in image.chunks_exact(channels).zip(grad.chunks_exact(channels)) {
            sums.iter_mut().zip(row).zip(grad).for_each(|((sum, v), g)| *sum += f64::from(*v) * f64::from(*g));
        }
        sums.iter_mut().zip(scale).for_each(|(sum, scale)| *sum *= f64::from(*scale));
        let inverse = f64::from(self.inverse_mean);
        let all: f64 = sums.iter().zip(&self.norms).map(|(sum, norm)| sum * f64::from(*norm)).sum();
        let common = all * inverse * inverse / channels as f64;
        let (mut factors, mut pulls) = (Vec::with_capacity(channels), Vec::with_capacity(channels));
        for ((sum, norm), scale) in sums.into_iter().zip(&self.norms).zip(scale) {
            factors.push(1.0 + scale * norm * self.inverse_mean);
            // Where a channel is zero all over the image, its norm has no derivative.
            pulls.push(if *norm > 0.0 { ((sum * inverse - common) / f64::from(*norm)) as f32 } else { 0.0 });
        }
        for (row, grad) in image.chunks_exact(channels).zip(grad.chunks_exact_mut(channels)) {
            for (((g, v), factor), pull) in grad.iter_mut().zip(row).zip(&factors).zip(&pulls) {
                *g = *g * factor + v * pull;
            }
        }
    }
}

/// Calls `copy` with the place of each run of values of one row of a patch among all patches, `[patches, side, side,
/// width]`, its place in an image of rows, `[height, width, channels]`, and its length.
fn each_run([height, width]: [usize; 2], side: usize, channels: usize, mut copy: impl FnMut(usize, usize, usize)) {
    let run = side * channels;
    for patch in 0..height / side * (width / side) {
        let (top, left) = (patch / (width / side) * side, patch % (width / side) * side);
        for line in 0..side {
            copy((patch * side + line) * run, ((top + line) * width + left) * channels, run);
        }
    }
}

/// Scale and shift of rows.
fn scaled(rows: &[f32], [scale, shift]: &[Vec<f32>; 2], out: &mut [f32]) {
    for (row, out) in rows.chunks_exact(scale.len()).zip(out.chunks_exact_mut(scale.len())) {
        out.iter_mut().zip(row).zip(scale).zip(shift).for_each(|(((out, v), scale), shift)| *out = v * scale + shift);
    }
}

/// The gradient of [`scaled`] with respect to the rows.
fn unscaled(grad: &[f32], [scale, _]: &[Vec<f32>; 2], out: &mut [f32]) {
    for (row, out) in grad.chunks_exact(scale.len()).zip(out.chunks_exact_mut(scale.len())) {
        out.iter_mut().zip(row).zip(scale).for_each(|((out, g), scale)| *out = g * scale);
    }
}

/// Weights of a convolution, `[outputs, inputs, side, side]`, in the order `[outputs, side, side, inputs]`.
fn channels_inside(weights: &[f32], inputs: usize, side: usize) -> Vec<f32> {
    let taps = side * side;
    let outputs = weights.chunks_exact(inputs * taps);
    outputs.flat_map(|of| (0..taps * inputs).map(move |i| of[i % inputs * taps + i / inputs])).collect()
}

impl FrozenConvNext {
    /// Freezes `net` for images of `[height, width]`.
    pub(crate) fn new(net: &ConvNext, size: [usize; 2]) -> Self {
        let arch = net.arch();
        let weights = Weights::collect(net).0;
        let of = |name: &str| weights.get(name).map_or(&[][..], |weight| &weight.values);
        let both = |name: &str| ["weight", "bias"].map(|part| of(&format!("{name}.{part}")).to_vec());
        let widths = arch.widths();
        let stages = arch.depths().into_iter().zip(widths).enumerate().map(|(i, (depth, width))| {
            let prefix = format!("stages.{i}");
            let downsample = (i > 0).then(|| {
                let inputs = widths[i - 1];
                let taps = HALF * HALF;
                let norm = both(&format!("{prefix}.downsample.0")).map(|values| values.repeat(taps));
                let weight = channels_inside(of(&format!("{prefix}.downsample.1.weight")), inputs, HALF);
                let bias = of(&format!("{prefix}.downsample.1.bias"));
                Linear::new(&weight, bias, Some([&norm[0], &norm[1]]), |_| 1.0)
            });
            let block = |b| FrozenBlock::new(|name| of(&format!("{prefix}.blocks.{b}.{name}")));
            let blocks = (0..depth).into_par_iter().map(block).collect();
            FrozenStage { width, size: size.map(|side| side / (PATCH << i)), downsample, blocks }
        });
        let stem = channels_inside(of("stem.0.weight"), 3, PATCH);
        Self {
            arch,
            size,
            stem: Linear::new(&stem, of("stem.0.bias"), None, |_| 1.0),
            stem_norm: both("stem.1"),
            last_norm: both("head.norm"),
            stages: stages.collect(),
            passes: Arc::default(),
        }
    }

    /// Features `[n, d]` of normalised images `[n, 3, height, width]`.
    pub(crate) fn features(&self, images: &[f32]) -> Vec<f32> {
        let mut features = Vec::new();
        self.visit(images, false, |pass, _| {
            features.extend(&pass.features);
            self.keep(pass);
        });
        features
    }

    /// Features `[n, d]`, and the passes for [`backward`](Self::backward).
    pub(crate) fn forward_cached(&self, images: &[f32]) -> (Vec<f32>, Vec<Pass>) {
        let (mut features, mut passes) = (Vec::new(), Vec::new());
        self.visit(images, true, |pass, _| {
            features.extend(&pass.features);
            passes.push(pass);
        });
        (features, passes)
    }

    /// The gradient with respect to the normalised images, given the gradient `[n, d]` with respect to the features.
    pub(crate) fn backward(&self, passes: Vec<Pass>, grad_features: &[f32]) -> Vec<f32> {
        let (mut grad_pixels, mut row) = (Vec::new(), 0);
        let d = self.arch.feature_dim();
        for mut pass in passes {
            let rows = row..row + pass.images;
            row = rows.end;
            self.backward_pass(&mut pass, &grad_features[rows.start * d..rows.end * d], &mut grad_pixels);
            self.keep(pass);
        }
        grad_pixels
    }

    /// The gradient of a scalar function of the features with respect to the normalised images.
    /// `derivative(first_row, features)` is called with the features of consecutive images and returns the gradient
    /// with respect to these.
    pub(crate) fn vjp(&self, images: &[f32], mut derivative: impl FnMut(usize, &[f32]) -> Vec<f32>) -> Vec<f32> {
        let mut grad_pixels = Vec::with_capacity(images.len());
        self.visit(images, true, |mut pass, row| {
            let grad_features = derivative(row, &pass.features);
            self.backward_pass(&mut pass, &grad_features, &mut grad_pixels);
            self.keep(pass);
        });
        grad_pixels
    }

    /// Memory of the tape of one image, in bytes.
    pub(crate) fn cache_bytes(&self) -> usize {
        let stages = self.stages.iter();
        let numbers = stages.map(|stage| stage.blocks.len() * stage.pixels() * ((1 + EXPANSION) * stage.width + 1));
        4 * numbers.sum::<usize>()
    }

    /// Values of an image, `3 * height * width`.
    fn values(&self) -> usize {
        3 * self.size[0] * self.size[1]
    }

    /// Passes all images forward, a few at a time, and calls `done` with each pass and the number of its first image.
    fn visit(&self, images: &[f32], keeps: bool, mut done: impl FnMut(Pass, usize)) {
        for (i, images) in images.chunks(TOGETHER * self.values()).enumerate() {
            let mut passes = self.passes.lock().unwrap_or_else(PoisonError::into_inner);
            let mut pass = passes.pop().unwrap_or_default();
            drop(passes);
            self.forward_pass(&mut pass, images, keeps);
            done(pass, i * TOGETHER);
        }
    }

    /// Returns the memory of a pass, for a later one.
    fn keep(&self, pass: Pass) {
        self.passes.lock().unwrap_or_else(PoisonError::into_inner).push(pass);
    }

    fn forward_pass(&self, pass: &mut Pass, images: &[f32], keeps: bool) {
        pass.images = images.len() / self.values();
        let blocks = if keeps { self.stages.iter().map(|stage| stage.blocks.len()).sum() } else { 1 };
        pass.blocks.resize_with(blocks, BlockTape::default);
        pass.downsamples.resize_with(self.stages.len() - 1, Normalised::default);
        self.embed(pass, images);
        let mut tape = 0;
        for (i, stage) in self.stages.iter().enumerate() {
            if let Some(linear) = &stage.downsample {
                stage.reduce(pass, linear, i - 1, self.stages[i - 1].size);
            }
            for block in &stage.blocks {
                block.forward(stage, pass, tape, keeps);
                tape += usize::from(keeps);
            }
        }
        let d = self.arch.feature_dim();
        let pixels = pass.x.len() / (pass.images * d);
        let mut means = vec![0.0f32; pass.images * d];
        for (mean, image) in means.chunks_exact_mut(d).zip(pass.x.chunks_exact(pixels * d)) {
            for row in image.chunks_exact(d) {
                mean.iter_mut().zip(row).for_each(|(mean, v)| *mean += v / pixels as f32);
            }
        }
        pass.last.forward((d, self.arch.norm_eps() as f32), &means);
        pass.features.resize(means.len(), 0.0);
        scaled(&pass.last.rows, &self.last_norm, &mut pass.features);
    }

    /// Writes the output of the stem to `pass.x`.
    fn embed(&self, pass: &mut Pass, images: &[f32]) {
        let [height, width] = self.size;
        let (first, inputs) = (self.stages[0].width, self.stem.inputs());
        let rows = pass.images * self.stages[0].pixels();
        let patches = sized(&mut pass.patches, rows * inputs);
        for (image, patches) in images.chunks_exact(self.values()).zip(patches.chunks_exact_mut(self.values())) {
            each_run(self.size, PATCH, 3, |at, from, length| {
                let run = patches[at..at + length].as_chunks_mut::<3>().0;
                for (i, pixel) in run.iter_mut().enumerate() {
                    *pixel = [0, 1, 2].map(|channel| image[channel * height * width + from / 3 + i]);
                }
            });
        }
        let made = sized(&mut pass.narrow, rows * first);
        self.stem.apply(rows, patches, inputs, made, first);
        pass.stem.forward((first, EPSILON as f32), made);
        pass.x.resize(made.len(), 0.0);
        scaled(&pass.stem.rows, &self.stem_norm, &mut pass.x);
    }

    /// Appends the gradient with respect to the images to `grad_pixels`.
    fn backward_pass(&self, pass: &mut Pass, grad_features: &[f32], grad_pixels: &mut Vec<f32>) {
        let (d, n) = (self.arch.feature_dim(), pass.images);
        let last = &self.stages[self.stages.len() - 1];
        let (mut grad_rows, mut grad_means) = (vec![0.0; n * d], vec![0.0; n * d]);
        unscaled(grad_features, &self.last_norm, &mut grad_rows);
        pass.last.backward(d, &grad_rows, &mut grad_means);
        grad_means.iter_mut().for_each(|g| *g /= last.pixels() as f32);
        pass.x.clear();
        for mean in grad_means.chunks_exact(d) {
            (0..last.pixels()).for_each(|_| pass.x.extend(mean));
        }
        let mut tape = pass.blocks.len();
        for (i, stage) in self.stages.iter().enumerate().rev() {
            for block in stage.blocks.iter().rev() {
                tape -= 1;
                block.backward(stage, pass, tape);
            }
            if let Some(linear) = &stage.downsample {
                stage.reduce_backward(pass, linear, i - 1, self.stages[i - 1].size);
            }
        }
        self.embed_backward(pass, grad_pixels);
    }

    /// Appends the gradient with respect to the images to `grad_pixels`, given that with respect to the stem's output,
    /// in `pass.x`.
    fn embed_backward(&self, pass: &mut Pass, grad_pixels: &mut Vec<f32>) {
        let [height, width] = self.size;
        let (first, rows) = (self.stages[0].width, pass.images * self.stages[0].pixels());
        let grad = sized(&mut pass.narrow, rows * first);
        unscaled(&pass.x, &self.stem_norm, grad);
        pass.x.fill(0.0);
        pass.stem.backward(first, grad, &mut pass.x);
        let patches = sized(&mut pass.patches, rows * self.stem.inputs());
        self.stem.transposed(rows, &pass.x, first, patches, Addend::Zero);
        for patches in patches.chunks_exact(self.values()) {
            let from = grad_pixels.len();
            grad_pixels.resize(from + self.values(), 0.0);
            let image = &mut grad_pixels[from..];
            each_run(self.size, PATCH, 3, |at, to, length| {
                for (i, pixel) in patches[at..at + length].as_chunks::<3>().0.iter().enumerate() {
                    for (channel, value) in pixel.iter().enumerate() {
                        image[channel * height * width + to / 3 + i] = *value;
                    }
                }
            });
        }
    }
}

impl FrozenStage {
    /// Pixels of an image.
    fn pixels(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// Replaces the pixels of the stage before, of images of the size `before`, in `pass.x` by the first ones of this
    /// stage.
    fn reduce(&self, pass: &mut Pass, linear: &Linear, tape: usize, before: [usize; 2]) {
        let (rows, inputs) = (pass.images * self.pixels(), linear.inputs());
        let channels = inputs / (HALF * HALF);
        let one = before[0] * before[1] * channels;
        let norm = &mut pass.downsamples[tape];
        norm.forward((channels, EPSILON as f32), &pass.x);
        let patches = sized(&mut pass.patches, rows * inputs);
        for (image, patches) in norm.rows.chunks_exact(one).zip(patches.chunks_exact_mut(self.pixels() * inputs)) {
            each_run(before, HALF, channels, |at, from, length| {
                patches[at..at + length].copy_from_slice(&image[from..from + length]);
            });
        }
        pass.x.resize(rows * self.width, 0.0);
        linear.apply(rows, patches, inputs, &mut pass.x, self.width);
    }

    /// Replaces the gradient with respect to the output of [`reduce`](Self::reduce) in `pass.x` by that with respect to
    /// its input.
    fn reduce_backward(&self, pass: &mut Pass, linear: &Linear, tape: usize, before: [usize; 2]) {
        let (rows, inputs) = (pass.images * self.pixels(), linear.inputs());
        let channels = inputs / (HALF * HALF);
        let one = before[0] * before[1] * channels;
        let patches = sized(&mut pass.patches, rows * inputs);
        linear.transposed(rows, &pass.x, self.width, patches, Addend::Zero);
        let grad = sized(&mut pass.narrow, pass.images * one);
        for (image, patches) in grad.chunks_exact_mut(one).zip(patches.chunks_exact(self.pixels() * inputs)) {
            each_run(before, HALF, channels, |at, to, length| {
                image[to..to + length].copy_from_slice(&patches[at..at + length]);
            });
        }
        pass.x.clear();
        pass.x.resize(pass.images * one, 0.0);
        pass.downsamples[tape].backward(channels, grad, &mut pass.x);
    }
}

impl FrozenBlock {
    /// `of` gives a tensor's values by its name in the block; they are empty if there is no such tensor.
    fn new<'a>(of: impl Fn(&str) -> &'a [f32]) -> Self {
        let depthwise = Depthwise::new(SIDE, of("conv_dw.weight"), of("conv_dw.bias"));
        let norm = ["weight", "bias"].map(|part| of(&format!("norm.{part}")));
        let gamma = of("gamma");
        let response = ["weight", "bias"].map(|part| of(&format!("mlp.grn.{part}")).to_vec());
        Self {
            depthwise_back: depthwise.transposed(),
            depthwise,
            fc1: Linear::new(of("mlp.fc1.weight"), of("mlp.fc1.bias"), Some(norm), |_| 1.0),
            response: Some(response).filter(|[scale, _]| !scale.is_empty()),
            fc2: Linear::new(of("mlp.fc2.weight"), of("mlp.fc2.bias"), None, |o| gamma.get(o).copied().unwrap_or(1.0)),
        }
    }

    /// Images that go through the MLP together.
    fn chunk(stage: &FrozenStage) -> usize {
        (ROWS / stage.pixels()).max(1) * stage.pixels()
    }

    /// Replaces the pixels in `pass.x` by the block's output, and writes tape number `tape`.
    fn forward(&self, stage: &FrozenStage, pass: &mut Pass, tape: usize, keeps: bool) {
        let (width, one, hidden) = (stage.width, stage.pixels() * stage.width, EXPANSION * stage.width);
        let Pass { x, blocks, wide, narrow, .. } = pass;
        let BlockTape { norm, hidden: kept } = &mut blocks[tape];
        let convolved = sized(narrow, x.len());
        for (x, out) in x.chunks_exact(one).zip(convolved.chunks_exact_mut(one)) {
            self.depthwise.apply(stage.size, x, out);
        }
        norm.forward((width, EPSILON as f32), convolved);
        let rows = Self::chunk(stage);
        let all = if keeps { x.len() / width } else { rows };
        let kept = sized(kept, all * hidden);
        for (i, (x, normed)) in x.chunks_mut(rows * width).zip(norm.rows.chunks(rows * width)).enumerate() {
            let count = x.len() / width;
            let before = &mut kept[if keeps { i * rows * hidden } else { 0 }..][..count * hidden];
            self.fc1.apply(count, normed, width, before, hidden);
            let active = sized(wide, count * hidden);
            Activation::Gelu.forward(hidden, before, active);
            if let Some(response) = &self.response {
                for image in active.chunks_exact_mut(stage.pixels() * hidden) {
                    Response::of(image, hidden).forward(response, image);
                }
            }
            self.fc2.add(count, active, x);
        }
    }

    /// Replaces the gradient in `pass.x` with respect to the block's output by that with respect to its input.
    fn backward(&self, stage: &FrozenStage, pass: &mut Pass, tape: usize) {
        let (width, one, hidden) = (stage.width, stage.pixels() * stage.width, EXPANSION * stage.width);
        let Pass { x, blocks, wide, other, narrow, patches, .. } = pass;
        let tape = &blocks[tape];
        let rows = Self::chunk(stage);
        let grad_normed = sized(narrow, x.len());
        for (i, (x, grad_normed)) in x.chunks(rows * width).zip(grad_normed.chunks_mut(rows * width)).enumerate() {
            let count = x.len() / width;
            let before = &tape.hidden[i * rows * hidden..][..count * hidden];
            let grad_active = sized(wide, count * hidden);
            self.fc2.transposed(count, x, width, grad_active, Addend::Zero);
            let made = sized(other, count * hidden);
            if let Some(response) = &self.response {
                Activation::Gelu.forward(hidden, before, made);
                let each = stage.pixels() * hidden;
                for (image, grad) in made.chunks_exact(each).zip(grad_active.chunks_exact_mut(each)) {
                    Response::of(image, hidden).backward(response, image, grad);
                }
            }
            Activation::Gelu.backward(hidden, before, grad_active, made);
            self.fc1.transposed(count, made, hidden, grad_normed, Addend::Zero);
        }
        let grad_convolved = sized(patches, x.len());
        grad_convolved.fill(0.0);
        tape.norm.backward(width, grad_normed, grad_convolved);
        let back = sized(narrow, one);
        for (x, grad) in x.chunks_exact_mut(one).zip(grad_convolved.chunks_exact(one)) {
            self.depthwise_back.apply(stage.size, grad, back);
            x.iter_mut().zip(&*back).for_each(|(x, g)| *x += g);
        }
    }
}
