//! A residual network in training on the processor: one operation of burn's graph, by the kernels of `hemlock-conv`.
//!
//! Layer by layer, the sums would be the same, but burn stores images in another layout between any two layers. Here
//!
//! - images stay in the layout that convolutions read;
//! - batch norm, shortcut and ReLU are one pass over them;
//! - in the backward pass, the gradient with respect to a convolution's output overwrites that output;
//! - what follows a pass over all tiles begins with the last of them, which is still in the cache.
//!
//! The operation has two parents: the images, and a vector of all parameters.

mod batch;

pub(crate) use batch::Pool;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex};
use burn::nn::BatchNorm;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor, TensorData};
use hemlock_conv::{Accumulate, BlockedTensor, Conv, ConvPass, Epilogue, Geometry, Moments};
use rayon::prelude::*;

use batch::Batch;

use crate::resnet::frozen::{geometry, padding_channels, pooled};
use crate::resnet::{self, ResNet};

/// Images of one task: few enough for their activations to stay in the cache from one pass to the next.
const TILE: usize = 4;
/// Border of every activation after a ReLU: the widest padding of a convolution that reads it, and what max pooling
/// needs.
const BORDER: usize = 1;

/// Features `[n, d]` of normalised images `[n, 3, h, w]`, normalised by batch statistics; updates the running ones.
/// Returns `None` if the tensors are on another backend or the network is not in training mode.
pub(crate) fn forward(net: &ResNet, images: &Tensor<4>) -> Option<Tensor<2>> {
    let layers: Vec<_> = net.layers().collect();
    operation(&layers, || Layers::new(net), images, &net.pool)
}

/// Features `[n, d]` from the output of the first `blocks` blocks, fewer than all, as [`forward`] computes them; `None`
/// in the same cases.
pub(crate) fn after(net: &ResNet, blocks: usize, x: &Tensor<4>) -> Option<Tensor<2>> {
    let layers: Vec<_> = net.blocks().skip(blocks).flat_map(resnet::ResidualBlock::layers).collect();
    operation(&layers, || Layers::after(net, blocks), x, &net.pool)
}

/// Runs the layers of `plan` as one operation of burn's graph.
fn operation(
    layers: &[(&Conv2d, &BatchNorm)],
    plan: impl FnOnce() -> Layers,
    images: &Tensor<4>,
    pool: &Pool,
) -> Option<Tensor<2>> {
    if !layers.iter().all(|(_, norm)| norm.training.is_enabled()) {
        return None;
    }
    let device = images.device();
    let images = images.clone().try_into_primitive::<Autodiff<Flex>>().ok()?;
    let flat = layers.iter().flat_map(|(conv, norm)| {
        let weight = conv.weight.val();
        let count = weight.shape().num_elements();
        [weight.reshape([count]), norm.gamma.val(), norm.beta.val()]
    });
    let parameters = Tensor::cat(flat.collect(), 0).try_into_primitive::<Autodiff<Flex>>().ok()?;
    let ((images, images_node), (parameters, parameters_node)) = (images.into_parts(), parameters.into_parts());

    let images = Tensor::<4>::from_primitive::<Flex>(images);
    let parameters = values(Tensor::<1>::from_primitive::<Flex>(parameters));
    let tape = Tape::record(plan(), images, parameters, pool);
    for ((_, norm), convolved) in layers.iter().zip(tape.conv_outputs()) {
        convolved.update(norm, &device);
    }
    let features = primitive(tape.features());
    let prepared = Derivative.prepare::<NoCheckpointing>([images_node, parameters_node]).compute_bound();
    let features = match prepared.stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(tape, features),
        OpsKind::UnTracked(prepared) => prepared.finish(features),
    };
    Some(Tensor::from_primitive::<Autodiff<Flex>>(features))
}

#[derive(Debug)]
struct Derivative;

impl Backward<Flex, 2> for Derivative {
    type State = Tape;

    fn backward(self, ops: Ops<Tape, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let grad_features = values(Tensor::<2>::from_primitive::<Flex>(gradients.consume::<Flex>(&ops.node)));
        let [images, parameters] = ops.parents;
        let (grad_images, grad_parameters) = ops.state.differentiate(&grad_features, images.is_some());
        if let Some((node, grad_images)) = images.zip(grad_images) {
            gradients.register::<Flex>(node.id, primitive(grad_images.into_tensor()));
        }
        if let Some(node) = parameters {
            let shape = [grad_parameters.len()];
            let grad_parameters = Tensor::<1>::from_data(TensorData::new(grad_parameters, shape), &Device::flex());
            gradients.register::<Flex>(node.id, primitive(grad_parameters));
        }
    }
}

/// The layers of a network, or of its last blocks, without their parameters.
#[derive(Debug, Clone)]
struct Layers {
    /// `None` if the first block reads the input directly.
    stem: Option<Stem>,
    blocks: Vec<BlockLayers>,
}

#[derive(Debug, Clone)]
struct Stem {
    layer: Layer,
    /// Whether max pooling follows.
    pools: bool,
}

#[derive(Debug, Clone)]
struct BlockLayers {
    /// The convolutions of the path, each followed by a ReLU.
    path: Vec<Layer>,
    shortcut: Shortcut,
}

#[derive(Debug, Clone)]
enum Shortcut {
    Identity,
    /// A convolution whose weights are constant.
    Fixed(Geometry, Vec<f32>),
    Trained(Layer),
}

/// A convolution and the batch norm after it.
#[derive(Debug, Clone)]
struct Layer {
    geometry: Geometry,
    epsilon: f64,
    /// Position of its parameters in the vector of all: weights, then scale and shift of the batch norm.
    at: usize,
}

/// The output of a layer's convolution for a batch.
#[derive(Debug, Clone)]
struct ConvOutput {
    raw: Batch,
    moments: Moments,
    /// 1 / sqrt(variance + epsilon) of every channel.
    inverse_deviation: Vec<f64>,
}

/// The forward cache of a batch.
#[derive(Debug, Clone)]
struct Tape {
    plan: Layers,
    parameters: Vec<f32>,
    images: Batch,
    stem: Option<StemTape>,
    blocks: Vec<BlockTape>,
}

#[derive(Debug, Clone)]
struct StemTape {
    convolved: ConvOutput,
    /// The output after the ReLU.
    output: Batch,
    pooled: Option<Batch>,
}

#[derive(Debug, Clone)]
struct BlockTape {
    convolved: Vec<ConvOutput>,
    shortcut: Option<ConvOutput>,
    /// The outputs of the path's layers after their ReLU; the shortcut is added to the last one.
    outputs: Vec<Batch>,
}

impl Layers {
    fn new(net: &ResNet) -> Self {
        let mut at = 0;
        let stem = Stem { layer: Layer::new(net.stem(), &mut at), pools: net.pools };
        let blocks = net.blocks().map(|block| BlockLayers::new(block, &mut at)).collect();
        Self { stem: Some(stem), blocks }
    }

    fn after(net: &ResNet, blocks: usize) -> Self {
        let mut at = 0;
        let rest = net.blocks().skip(blocks).map(|block| BlockLayers::new(block, &mut at)).collect();
        Self { stem: None, blocks: rest }
    }
}

impl Layer {
    /// A layer whose parameters begin at `at`, which is advanced to their end.
    fn new((conv, norm): (&Conv2d, &BatchNorm), at: &mut usize) -> Self {
        let layer = Self { geometry: geometry(conv), epsilon: norm.epsilon, at: *at };
        *at += layer.parameters();
        layer
    }

    fn parameters(&self) -> usize {
        self.geometry.weights() + 2 * self.geometry.outputs
    }

    fn weights<'p>(&self, parameters: &'p [f32]) -> &'p [f32] {
        &parameters[self.at..][..self.geometry.weights()]
    }

    /// Scale and shift of the batch norm.
    fn norm<'p>(&self, parameters: &'p [f32]) -> (&'p [f32], &'p [f32]) {
        let outputs = self.geometry.outputs;
        parameters[self.at + self.geometry.weights()..][..2 * outputs].split_at(outputs)
    }

    /// The output of the convolution for the input `x`, and its moments.
    fn convolve(&self, parameters: &[f32], x: &Batch) -> ConvOutput {
        let conv = Conv::new(self.geometry, self.weights(parameters), &[]).with_workspace(&x.pool.workspace);
        // The border is that which the transposed convolution needs: in the backward pass, the gradient overwrites this
        // output.
        let mut raw = x.pool.batch(self.geometry.output(x.shape), self.geometry.padding);
        let moments = apply_then(&conv, x, |_| Accumulate::Zero, |_| Epilogue::Keep, &mut raw, Moments::new);
        let moments = Moments::merge(&moments);
        let inverse_deviation = moments.variance().map(|variance| 1.0 / (variance + self.epsilon).sqrt()).collect();
        ConvOutput { raw, moments, inverse_deviation }
    }

    /// The output of the batch norm, with `plus` added, followed by a ReLU if `rectified`.
    fn normalise(&self, parameters: &[f32], convolved: &ConvOutput, plus: Option<&Batch>, rectified: bool) -> Batch {
        let (scale, shift) = self.norm(parameters);
        let scale: Vec<f64> = scale
            .iter()
            .zip(&convolved.inverse_deviation)
            .map(|(scale, inverse)| f64::from(*scale) * inverse)
            .collect();
        let shift = shift.iter().zip(&scale).zip(&convolved.moments.mean);
        let shift: Vec<f32> = shift.map(|((shift, scale), mean)| (f64::from(*shift) - scale * mean) as f32).collect();
        let scale: Vec<f32> = scale.into_iter().map(|scale| scale as f32).collect();
        let mut out = convolved.raw.pool.batch(convolved.raw.shape, BORDER);
        out.par_iter_mut().zip(convolved.raw.par_iter()).enumerate().rev().for_each(|(i, (out, raw))| {
            raw.affine([&scale, &shift], plus.map(|plus| &plus[i]), rectified, out);
        });
        out
    }

    /// The backward pass of convolution and batch norm. Given `grad_output`, the gradient with respect to the layer's
    /// output for the input `x`, writes the gradient with respect to the layer's parameters to `gradient` and
    /// overwrites `convolved.raw` with the gradient with respect to the convolution's output. That with respect to the
    /// input goes to `grad_x`.
    fn differentiate(
        &self,
        parameters: &[f32],
        x: &Batch,
        convolved: &mut ConvOutput,
        grad_output: &Batch,
        gradient: &mut [f32],
        grad_x: Option<GradInput<'_>>,
    ) {
        let (grad_weights, grad_norm) = gradient[self.at..][..self.parameters()].split_at_mut(self.geometry.weights());
        let maps = self.norm_derivative(parameters, convolved, grad_output, grad_norm);
        let maps = maps.each_ref().map(Vec::as_slice);
        let (group, workspace) = (self.geometry.gradient_group(x), &x.pool.workspace);
        let (transposed, count) = (grad_x.is_some().then(|| self.transposed(parameters, x)), x.len().div_ceil(group));
        if let (Some(conv), Some(dy)) = (&transposed, grad_output.first()) {
            conv.prepare(dy.shape());
        }
        let (rule, outputs) = match grad_x {
            Some(GradInput { start, finish, out }) => {
                (Some((start, finish)), out.chunks_mut(group).map(Some).collect())
            }
            None => (None, Vec::from_iter((0..count).map(|_| None))),
        };
        // Group by group, so that what one step writes is in the cache for the next.
        let groups = convolved.raw.par_chunks_mut(group).zip(x.par_chunks(group)).zip(grad_output.par_chunks(group));
        let partials = groups.zip(outputs).enumerate().map(|(i, (((raw, x), dy), out))| {
            raw.par_iter_mut().zip(dy).for_each(|(raw, dy)| raw.combine(maps, dy));
            if let (Some(conv), Some((start, finish)), Some(out)) = (&transposed, &rule, out) {
                apply(conv, raw, |tile| start(i * group + tile), |tile| finish(i * group + tile), out);
            }
            self.geometry.partial_gradient(x, raw, workspace)
        });
        grad_weights.copy_from_slice(&self.geometry.merge(partials.collect(), workspace));
    }

    /// The backward pass of the batch norm. Writes the gradient with respect to its parameters to `grad_norm`, and
    /// returns the maps, for [`BlockedTensor::combine`], from its input to the gradient with respect to that input.
    fn norm_derivative(
        &self,
        parameters: &[f32],
        convolved: &ConvOutput,
        grad_output: &Batch,
        grad_norm: &mut [f32],
    ) -> [Vec<f32>; 3] {
        let ConvOutput { raw, moments, inverse_deviation } = convolved;
        let mean: Vec<f32> = moments.mean.iter().map(|&mean| mean as f32).collect();
        let tiles = grad_output.par_iter().zip(raw.par_iter()).rev();
        let mut sums: Vec<_> = tiles.map(|(dy, raw)| dy.products(raw, &mean)).collect();
        sums.reverse();
        let (scale, _) = self.norm(parameters);
        let (grad_scale, grad_shift) = grad_norm.split_at_mut(self.geometry.outputs);
        let mut maps = [(); 3].map(|()| vec![0.0; self.geometry.outputs]);
        for (channel, inverse) in inverse_deviation.iter().enumerate() {
            let [sum, product] = [0, 1].map(|i| sums.iter().map(|tile| tile[i][channel]).sum::<f64>());
            // Corrects for the rounding of the mean to f32.
            let product = product + sum * (f64::from(mean[channel]) - moments.mean[channel]);
            grad_scale[channel] = (product * inverse) as f32;
            grad_shift[channel] = sum as f32;
            // The gradient is factor (dy - sum(dy) / n - x^ sum(dy x^) / n), where n is the number of values of the
            // channel and x^ are the normalised values.
            let factor = f64::from(scale[channel]) * inverse;
            let slope = -factor * inverse * inverse * product / moments.count;
            let constant = -factor * sum / moments.count - slope * moments.mean[channel];
            for (map, value) in maps.iter_mut().zip([slope, constant, factor]) {
                map[channel] = value as f32;
            }
        }
        maps
    }

    /// The vector-Jacobian product of the convolution with respect to its input.
    fn transposed(&self, parameters: &[f32], x: &Batch) -> Conv {
        Conv::transposed(self.geometry, self.weights(parameters)).with_workspace(&x.pool.workspace)
    }
}

impl ConvOutput {
    /// Updates a batch norm's running statistics with those of the batch.
    fn update(&self, norm: &BatchNorm, device: &Device) {
        let tensor =
            |values: Vec<f32>| Tensor::<1>::from_data(TensorData::new(values, [self.inverse_deviation.len()]), device);
        let mean = tensor(self.moments.mean.iter().map(|&mean| mean as f32).collect());
        let variance = tensor(self.moments.variance().map(|variance| variance as f32).collect());
        for (running, now) in [(&norm.running_mean, mean), (&norm.running_var, variance)] {
            let before = running.value_sync().to_device(device);
            running.update((before.mul_scalar(1.0 - norm.momentum) + now.mul_scalar(norm.momentum)).detach());
        }
    }
}

impl Tape {
    /// The forward pass.
    fn record(plan: Layers, images: Tensor<4>, parameters: Vec<f32>, pool: &Pool) -> Self {
        let border = plan.stem.as_ref().map_or(BORDER, |stem| stem.layer.geometry.padding);
        let images = Batch::from_tensor(images, border, pool);
        let stem = plan.stem.as_ref().map(|stem| stem.record(&parameters, &images));
        let mut tape = Self { plan, parameters, images, stem, blocks: Vec::new() };
        for i in 0..tape.plan.blocks.len() {
            let block = tape.plan.blocks[i].record(&tape.parameters, tape.input(i));
            tape.blocks.push(block);
        }
        tape
    }

    /// The outputs of all layers' convolutions, in the order of [`ResNet::layers`].
    fn conv_outputs(&self) -> impl Iterator<Item = &ConvOutput> {
        let blocks = self.blocks.iter().flat_map(|block| block.convolved.iter().chain(&block.shortcut));
        self.stem.iter().map(|stem| &stem.convolved).chain(blocks)
    }

    /// The input of a block; for the number of blocks, the output of the last one.
    fn input(&self, block: usize) -> &Batch {
        let before = block.checked_sub(1).and_then(|block| self.blocks[block].outputs.last());
        let stem = self.stem.as_ref().map(|stem| stem.pooled.as_ref().unwrap_or(&stem.output));
        before.or(stem).unwrap_or(&self.images)
    }

    /// Features `[n, d]`.
    fn features(&self) -> Tensor<2> {
        let last = self.input(self.blocks.len());
        let means: Vec<f32> = last.iter().flat_map(BlockedTensor::means).collect();
        let [n, d, ..] = last.shape;
        Tensor::from_data(TensorData::new(means, [n, d]), &Device::flex())
    }

    /// The backward pass: given the gradient with respect to the features, returns that with respect to the images, if
    /// it is wanted, and that with respect to the parameters.
    fn differentiate(mut self, grad_features: &[f32], images: bool) -> (Option<Batch>, Vec<f32>) {
        let mut gradient = vec![0.0; self.parameters.len()];
        let last = self.input(self.blocks.len());
        let (pool, dim) = (last.pool.clone(), last.shape[1]);
        let mut grad_output = pool.batch(last.shape, BORDER);
        grad_output.par_iter_mut().zip(last.par_iter()).zip(grad_features.par_chunks(TILE * dim)).for_each(
            |((grad_output, x), means)| {
                grad_output.means_derivative(means, x);
            },
        );
        while let Some(tape) = self.blocks.pop() {
            let i = self.blocks.len();
            let rectified = i > 0 || self.plan.stem.is_some();
            grad_output = self.plan.blocks[i].differentiate(
                &self.parameters,
                (self.input(i), rectified),
                tape,
                &grad_output,
                &mut gradient,
            );
        }
        let Self { plan, parameters, images: x, stem: tape, .. } = self;
        let Some((Stem { layer, .. }, StemTape { mut convolved, output, pooled })) = plan.stem.zip(tape) else {
            return (images.then_some(grad_output), gradient);
        };
        if pooled.is_some() {
            let mut grad_stem = pool.batch(output.shape, BORDER);
            let tiles = grad_stem.par_iter_mut().zip(output.par_iter()).zip(grad_output.par_iter());
            tiles.for_each(|((grad_x, x), grad_output)| x.max_pool_derivative(grad_output, grad_x));
            grad_output = grad_stem;
        }
        let mut grad_images = images.then(|| pool.batch(x.shape, 0));
        let (start, finish) = (|_| Accumulate::Zero, |_| Epilogue::Keep);
        let grad_x = grad_images.as_deref_mut().map(|out| GradInput { start: &start, finish: &finish, out });
        layer.differentiate(&parameters, &x, &mut convolved, &grad_output, &mut gradient, grad_x);
        (grad_images, gradient)
    }
}

impl Stem {
    fn record(&self, parameters: &[f32], images: &Batch) -> StemTape {
        let convolved = self.layer.convolve(parameters, images);
        let output = self.layer.normalise(parameters, &convolved, None, true);
        let pooled = self.pools.then(|| {
            let mut out = images.pool.batch(pooled(output.shape), BORDER);
            out.par_iter_mut().zip(output.par_iter()).for_each(|(out, x)| x.max_pool(out));
            out
        });
        StemTape { convolved, output, pooled }
    }
}

impl BlockLayers {
    /// A block whose parameters begin at `at`, which is advanced to their end.
    fn new(block: &resnet::ResidualBlock, at: &mut usize) -> Self {
        let path: Vec<Layer> = block.path().map(|layer| Layer::new(layer, at)).collect();
        let (from, to) = (path[0].geometry.inputs, path[path.len() - 1].geometry.outputs);
        let shortcut = match block.projection() {
            Some(projection) => Shortcut::Trained(Layer::new(projection, at)),
            None => padding_channels([from, to])
                .map_or(Shortcut::Identity, |(geometry, weights)| Shortcut::Fixed(geometry, weights)),
        };
        Self { path, shortcut }
    }

    fn record(&self, parameters: &[f32], x: &Batch) -> BlockTape {
        let (mut projected, mut added) = (None, None);
        match &self.shortcut {
            Shortcut::Identity => {}
            Shortcut::Fixed(geometry, weights) => {
                let mut out = x.pool.batch(geometry.output(x.shape), 0);
                let conv = Conv::new(*geometry, weights, &[]);
                apply(&conv, x, |_| Accumulate::Zero, |_| Epilogue::Keep, &mut out);
                added = Some(out);
            }
            Shortcut::Trained(layer) => {
                let convolved = layer.convolve(parameters, x);
                added = Some(layer.normalise(parameters, &convolved, None, false));
                projected = Some(convolved);
            }
        }
        let (mut convolved, mut outputs) = (Vec::new(), Vec::new());
        for (i, layer) in self.path.iter().enumerate() {
            let raw = layer.convolve(parameters, outputs.last().unwrap_or(x));
            let plus = (i + 1 == self.path.len()).then(|| added.as_ref().unwrap_or(x));
            outputs.push(layer.normalise(parameters, &raw, plus, true));
            convolved.push(raw);
        }
        BlockTape { convolved, shortcut: projected, outputs }
    }

    /// The backward pass of a block. Given `grad_output`, the gradient with respect to its output before the last
    /// ReLU, adds the gradient of its parameters to `gradient`, and returns the gradient with respect to `x`, or, if
    /// `x` is `rectified`, with respect to what it was before its ReLU.
    fn differentiate(
        &self,
        parameters: &[f32],
        (x, rectified): (&Batch, bool),
        tape: BlockTape,
        grad_output: &Batch,
        gradient: &mut [f32],
    ) -> Batch {
        let BlockTape { mut convolved, shortcut, outputs } = tape;
        let mut inner: Option<Batch> = None;
        for i in (1..self.path.len()).rev() {
            let input = &outputs[i - 1];
            let mut grad_input = x.pool.batch(input.shape, 0);
            let (start, finish) = (|_| Accumulate::Zero, |tile: usize| Epilogue::Mask(&input[tile]));
            let grad_x = GradInput { start: &start, finish: &finish, out: &mut grad_input };
            let by_output = inner.as_ref().unwrap_or(grad_output);
            self.path[i].differentiate(parameters, input, &mut convolved[i], by_output, gradient, Some(grad_x));
            inner = Some(grad_input);
        }
        let mut grad_x = x.pool.batch(x.shape, BORDER);
        let (zero, keep) = (|_| Accumulate::Zero, |_| Epilogue::Keep);
        match (&self.shortcut, shortcut) {
            (Shortcut::Fixed(geometry, weights), _) => {
                apply(&Conv::transposed(*geometry, weights), grad_output, zero, keep, &mut grad_x);
            }
            (Shortcut::Trained(layer), Some(mut convolved)) => {
                let grad_x = GradInput { start: &zero, finish: &keep, out: &mut grad_x };
                layer.differentiate(parameters, x, &mut convolved, grad_output, gradient, Some(grad_x));
            }
            _ => {}
        }
        let start = |tile: usize| match &self.shortcut {
            Shortcut::Identity => Accumulate::Add(&grad_output[tile]),
            _ => Accumulate::Result,
        };
        let finish = |tile: usize| if rectified { Epilogue::Mask(&x[tile]) } else { Epilogue::Keep };
        let by_output = inner.as_ref().unwrap_or(grad_output);
        let into = GradInput { start: &start, finish: &finish, out: &mut grad_x };
        self.path[0].differentiate(parameters, x, &mut convolved[0], by_output, gradient, Some(into));
        grad_x
    }
}

/// Where the gradient with respect to a layer's input goes, and what happens to it, tile by tile.
struct GradInput<'a> {
    start: &'a (dyn Fn(usize) -> Accumulate<'a> + Sync),
    finish: &'a (dyn Fn(usize) -> Epilogue<'a> + Sync),
    out: &'a mut [BlockedTensor],
}

/// Applies a convolution to all tiles.
fn apply<'a>(
    conv: &Conv,
    x: &'a [BlockedTensor],
    start: impl Fn(usize) -> Accumulate<'a> + Sync,
    finish: impl Fn(usize) -> Epilogue<'a> + Sync,
    out: &mut [BlockedTensor],
) {
    apply_then(conv, x, start, finish, out, |_| ());
}

/// Applies a convolution to all tiles, and returns what `then` makes of each output while it is in the cache.
fn apply_then<'a, T: Send>(
    conv: &Conv,
    x: &'a [BlockedTensor],
    start: impl Fn(usize) -> Accumulate<'a> + Sync,
    finish: impl Fn(usize) -> Epilogue<'a> + Sync,
    out: &mut [BlockedTensor],
    then: impl Fn(&BlockedTensor) -> T + Sync,
) -> Vec<T> {
    let Some(shape) = x.first().map(BlockedTensor::shape) else { return Vec::new() };
    conv.prepare(shape);
    let together = conv.together(shape);
    let chunks = out.par_chunks_mut(together).zip(x.par_chunks(together)).enumerate();
    let made: Vec<Vec<T>> = chunks
        .map(|(chunk, (out, x))| {
            let job = |(i, (out, x))| {
                let tile = chunk * together + i;
                ConvPass { x, start: start(tile), finish: finish(tile), out }
            };
            conv.apply_all(&mut out.iter_mut().zip(x).enumerate().map(job).collect::<Vec<_>>());
            out.iter().map(&then).collect()
        })
        .collect();
    made.into_iter().flatten().collect()
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.into_data();
    data.try_to_vec().unwrap_or_else(|_| data.iter::<f32>().collect())
}

fn primitive<const D: usize>(tensor: Tensor<D>) -> FloatTensor<Flex> {
    match tensor.try_into_primitive::<Flex>() {
        Ok(primitive) => primitive,
        Err(e) => unreachable!("a tensor made on flex lies elsewhere: {e:?}"),
    }
}

#[cfg(test)]
mod tests;
