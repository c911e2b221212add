//! A frozen transformer on the processor, by the kernels of `hemlock-dense`: features, and gradients with respect to
//! pixels.
//!
//! Scales and shifts of layer norms, layer scales and the scale of attention are part of the linear maps beside them.
//! If features are class tokens, the last block computes that token alone. The read-out is burn's, as it takes next to
//! no time.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Device, Tensor};
use hemlock_dense::{Activation as Kernel, Addend, Attention, Heads, Left, product};
use rayon::prelude::*;

use super::{Activation, Positions, Readout, Vit, VitArch, rotary};
use crate::linear::{Linear, Normalised, sized};
use crate::travel::{down, up};
use crate::weights::Weights;

/// Rows that go through the layers together, if one image has fewer: enough for the kernels, few enough for the cache.
const TOGETHER: usize = 400;

/// A frozen transformer for images of one size.
#[derive(Debug, Clone)]
pub(crate) struct FrozenVit {
    arch: VitArch,
    /// Rows and columns of patches.
    grid: [usize; 2],
    /// What reads features of the last tokens.
    net: Box<Vit>,
    device: Device,
    embed: Linear,
    /// The tokens before the patches, and what is added to each patch: `[tokens, width]`.
    start: Vec<f32>,
    /// Scale and shift of the norm before the first block.
    pre: Option<[Vec<f32>; 2]>,
    blocks: Vec<FrozenBlock>,
    /// Cosines and sines of rotary positions, `[patches, channels of a head]`.
    rotation: Option<[Vec<f32>; 2]>,
    /// Finished passes, to be reused: fresh memory costs time.
    passes: Arc<Mutex<Vec<Pass>>>,
}

#[derive(Debug, Clone)]
struct FrozenBlock {
    query: Linear,
    key_value: Linear,
    proj: Linear,
    fc1: Linear,
    fc2: Linear,
}

/// The memory of a pass of a few images. After a forward pass that keeps its tape, the backward pass can follow.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    images: usize,
    /// What the backward pass needs of each block; one for all if there will be none.
    blocks: Vec<BlockTape>,
    pre: Normalised,
    read: Option<Read>,
    /// The tokens, or the gradient with respect to them.
    x: Vec<f32>,
    patches: Vec<f32>,
    wide: Vec<f32>,
    narrow: Vec<f32>,
    grads: Vec<f32>,
    attention: Attention,
}

/// The read-out of some tokens, with burn's graph.
#[derive(Debug)]
struct Read {
    outputs: Vec<Tensor<3>>,
    features: Tensor<2>,
}

/// The tape of one block.
#[derive(Debug, Default)]
struct BlockTape {
    first: Normalised,
    qkv: Vec<f32>,
    mixed: Vec<f32>,
    logs: Vec<f32>,
    second: Normalised,
    hidden: Vec<f32>,
}

impl FrozenVit {
    /// Freezes `net` for images of `[height, width]`.
    pub(crate) fn new(net: &Vit, size: [usize; 2], device: &Device) -> Self {
        let arch = net.arch();
        let weights = Weights::collect(net).0;
        let of = |name: &str| weights.get(name).map_or(&[][..], |weight| &weight.values);
        let block = |i: usize| FrozenBlock::new(arch, |name| of(&format!("blocks.{i}.{name}")));
        let grid = size.map(|side| side / arch.patch);
        let zeros = vec![0.0; arch.width];
        let patch_bias = if arch.patch_bias { of("patch_embed.proj.bias") } else { &zeros };
        let mut start = of("cls_token").to_vec();
        let class = start.len();
        start.resize(class + grid[0] * grid[1] * arch.width, 0.0);
        start.iter_mut().zip(of("pos_embed")).for_each(|(token, position)| *token += position);
        start.splice(class..class, of("reg_token").iter().copied());
        Self {
            arch,
            grid,
            net: Box::new(net.clone()),
            device: device.clone().inner(),
            embed: Linear::new(of("patch_embed.proj.weight"), patch_bias, None, |_| 1.0),
            start,
            pre: arch.pre_norm.then(|| ["weight", "bias"].map(|part| of(&format!("norm_pre.{part}")).to_vec())),
            blocks: (0..arch.depth).into_par_iter().map(block).collect(),
            rotation: (arch.positions == Positions::Rotary).then(|| rotary::tables(arch, grid)),
            passes: Arc::default(),
        }
    }

    /// Features `[n, d]` of normalised images `[n, 3, height, width]`.
    pub(crate) fn features(&self, images: &[f32]) -> Vec<f32> {
        let mut features = Vec::new();
        self.visit(images, false, |pass, _| {
            features.extend(pass.features());
            self.keep(pass);
        });
        features
    }

    /// Features `[n, d]`, and the passes for [`backward`](Self::backward).
    pub(crate) fn forward_cached(&self, images: &[f32]) -> (Vec<f32>, Vec<Pass>) {
        let (mut features, mut passes) = (Vec::new(), Vec::new());
        self.visit(images, true, |pass, _| {
            features.extend(pass.features());
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
            let grad_features = derivative(row, &pass.features());
            self.backward_pass(&mut pass, &grad_features, &mut grad_pixels);
            self.keep(pass);
        });
        grad_pixels
    }

    /// Memory of the tape of one image, in bytes.
    pub(crate) fn cache_bytes(&self) -> usize {
        let (tokens, width, first) = (self.tokens(), self.arch.width, self.first());
        4 * self.blocks.len() * tokens * (2 * (width + 1) + 4 * width + self.arch.heads + first)
    }

    /// How many images go through the layers together.
    pub(crate) fn together(&self) -> usize {
        (TOGETHER / self.tokens()).max(1)
    }

    /// Width and epsilon of the layer norms.
    fn norm(&self) -> (usize, f32) {
        (self.arch.width, self.arch.norm_eps.value() as f32)
    }

    fn tokens(&self) -> usize {
        self.arch.before_patches() + self.grid[0] * self.grid[1]
    }

    /// Columns of the first linear map of an MLP.
    fn first(&self) -> usize {
        if self.arch.activation == Activation::SwiGlu { 2 * self.arch.hidden } else { self.arch.hidden }
    }

    /// Tokens of an image that block number `i` gives an output for: they are its queries.
    fn queries(&self, i: usize) -> usize {
        let class = self.arch.readout == Readout::Class && i + 1 == self.blocks.len();
        if class { 1 } else { self.tokens() }
    }

    /// Values of an image, `3 * height * width`.
    fn pixels(&self) -> usize {
        3 * self.grid[0] * self.grid[1] * self.arch.patch * self.arch.patch
    }

    /// Passes all images forward, a few at a time, and calls `done` with each pass and the number of its first image.
    fn visit(&self, images: &[f32], keeps: bool, mut done: impl FnMut(Pass, usize)) {
        let together = self.together();
        for (i, images) in images.chunks(together * self.pixels()).enumerate() {
            let mut passes = self.passes.lock().unwrap_or_else(PoisonError::into_inner);
            let mut pass = passes.pop().unwrap_or_default();
            drop(passes);
            self.forward_pass(&mut pass, images, keeps);
            done(pass, i * together);
        }
    }

    /// Returns the memory of a pass, for a later one.
    fn keep(&self, mut pass: Pass) {
        pass.read = None;
        self.passes.lock().unwrap_or_else(PoisonError::into_inner).push(pass);
    }

    fn forward_pass(&self, pass: &mut Pass, images: &[f32], keeps: bool) {
        let (tokens, width) = (self.tokens(), self.arch.width);
        let n = images.len() / self.pixels();
        pass.images = n;
        pass.blocks.resize_with(if keeps { self.blocks.len() } else { 1 }, BlockTape::default);
        self.embed(pass, images);
        let first = self.blocks.len() - self.arch.last;
        let mut outputs = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            if i > first {
                // Of the blocks before the last one, the class token alone becomes features.
                let class = pass.x.chunks_exact(tokens * width).flat_map(|rows| &rows[..width]);
                outputs.push((class.copied().collect(), 1));
            }
            let heads = self.heads(self.queries(i));
            block.forward(self, pass, if keeps { i } else { 0 }, heads);
        }
        outputs.push((pass.x.clone(), self.queries(self.blocks.len() - 1)));
        let tensor = |(values, rows): (Vec<f32>, usize)| {
            Tensor::<3>::from_inner(up(values, [n, rows, width], &self.device)).require_grad()
        };
        let outputs: Vec<Tensor<3>> = outputs.into_iter().map(tensor).collect();
        pass.read = Some(Read { features: self.net.read(&outputs), outputs });
    }

    /// Writes the tokens before the first block to `pass.x`, `[n, tokens, width]`.
    fn embed(&self, pass: &mut Pass, images: &[f32]) {
        let (tokens, width) = (self.tokens(), self.arch.width);
        let (before, count, inputs) = (self.arch.before_patches(), self.grid[0] * self.grid[1], self.embed.inputs());
        pass.x.clear();
        for image in images.chunks_exact(self.pixels()) {
            let patches = sized(&mut pass.patches, count * inputs);
            self.each_run(|at, from, length| patches[at..at + length].copy_from_slice(&image[from..from + length]));
            let from = pass.x.len();
            pass.x.extend(&self.start);
            self.embed.add(count, patches, &mut pass.x[from + before * width..]);
        }
        debug_assert_eq!(pass.x.len(), images.len() / self.pixels() * tokens * width, "all tokens");
        if let Some([scale, shift]) = &self.pre {
            pass.pre.forward(self.norm(), &pass.x);
            for (row, normed) in pass.x.chunks_exact_mut(width).zip(pass.pre.rows.chunks_exact(width)) {
                let scaled = normed.iter().zip(scale).zip(shift).map(|((v, scale), shift)| v * scale + shift);
                row.iter_mut().zip(scaled).for_each(|(x, v)| *x = v);
            }
        }
    }

    /// Calls `copy` with the place of each row of a patch's channel among all patches, `[patches, 3, patch, patch]`,
    /// its place in the image, `[3, height, width]`, and its length.
    fn each_run(&self, mut copy: impl FnMut(usize, usize, usize)) {
        let ([rows, columns], side) = (self.grid, self.arch.patch);
        for patch in 0..rows * columns {
            for line in 0..3 * side {
                let (channel, y) = (line / side, patch / columns * side + line % side);
                let from = ((channel * rows * side + y) * columns + patch % columns) * side;
                copy((patch * 3 * side + line) * side, from, side);
            }
        }
    }

    fn heads(&self, queries: usize) -> Heads {
        let VitArch { heads, width, .. } = self.arch;
        Heads { count: heads, channels: width / heads, tokens: self.tokens(), queries }
    }

    /// Appends the gradient with respect to the images to `grad_pixels`.
    fn backward_pass(&self, pass: &mut Pass, grad_features: &[f32], grad_pixels: &mut Vec<f32>) {
        let Some(Read { outputs, features }) = pass.read.take() else { return };
        let (tokens, width) = (self.tokens(), self.arch.width);
        let grad = up(grad_features.to_vec(), features.dims(), &self.device);
        let mut gradients = (features * Tensor::from_inner(grad)).sum().backward();
        let mut grads: Vec<Vec<f32>> = (outputs.iter())
            .map(|output| {
                let grad = output.grad_remove(&mut gradients);
                grad.map_or_else(|| vec![0.0; output.dims().iter().product()], down)
            })
            .collect();
        pass.x = grads.pop().unwrap_or_default();
        for (i, block) in self.blocks.iter().enumerate().rev() {
            block.backward(self, pass, i, self.heads(self.queries(i)));
            // The class token before this block may be a feature, too.
            if i > self.blocks.len() - self.arch.last
                && let Some(class) = grads.pop()
            {
                for (row, grad) in pass.x.chunks_exact_mut(tokens * width).zip(class.chunks_exact(width)) {
                    row.iter_mut().zip(grad).for_each(|(x, g)| *x += g);
                }
            }
        }
        self.embed_backward(pass, grad_pixels);
    }

    /// Appends the gradient with respect to the images to `grad_pixels`, given that with respect to the tokens before
    /// the first block, in `pass.x`.
    fn embed_backward(&self, pass: &mut Pass, grad_pixels: &mut Vec<f32>) {
        let (tokens, width) = (self.tokens(), self.arch.width);
        let (before, count, inputs) = (self.arch.before_patches(), self.grid[0] * self.grid[1], self.embed.inputs());
        if let Some([scale, _]) = &self.pre {
            let grad = sized(&mut pass.narrow, pass.x.len());
            for (row, x) in grad.chunks_exact_mut(width).zip(pass.x.chunks_exact(width)) {
                row.iter_mut().zip(x).zip(scale).for_each(|((g, x), scale)| *g = x * scale);
            }
            pass.x.fill(0.0);
            pass.pre.backward(width, grad, &mut pass.x);
        }
        for rows in pass.x.chunks_exact(tokens * width) {
            let patches = sized(&mut pass.patches, count * inputs);
            self.embed.transposed(count, &rows[before * width..], width, patches, Addend::Zero);
            let from = grad_pixels.len();
            grad_pixels.resize(from + self.pixels(), 0.0);
            let image = &mut grad_pixels[from..];
            self.each_run(|at, to, length| image[to..to + length].copy_from_slice(&patches[at..at + length]));
        }
    }

    /// Rotates queries and keys of patches, or rotates them back.
    fn rotate(&self, qkv: &mut [f32], heads: Heads, back: bool) {
        let Some([cos, sin]) = &self.rotation else { return };
        let (before, channels, width) = (self.arch.before_patches(), heads.channels, heads.width());
        let parts = if heads.queries > before { 0..2 } else { 1..2 };
        for (token, row) in qkv.chunks_exact_mut(3 * width).enumerate() {
            let Some(patch) = (token % heads.tokens).checked_sub(before) else { continue };
            let [cos, sin] = [cos, sin].map(|table| &table[patch * channels..][..channels]);
            for head in row[parts.start * width..parts.end * width].chunks_exact_mut(channels) {
                let (first, second) = head.split_at_mut(channels / 2);
                for (i, (a, b)) in first.iter_mut().zip(second).enumerate() {
                    let sin = if back { -sin[i] } else { sin[i] };
                    (*a, *b) = (*a * cos[i] - *b * sin, *b * cos[i] + *a * sin);
                }
            }
        }
    }
}

impl FrozenBlock {
    /// `of` gives a tensor's values by its name in the block; they are empty if there is no such tensor.
    fn new<'a>(arch: VitArch, of: impl Fn(&str) -> &'a [f32]) -> Self {
        let VitArch { width, heads, .. } = arch;
        let zeros = vec![0.0; 3 * width];
        let [first, second] = [1, 2].map(|i| ["weight", "bias"].map(|part| of(&format!("norm{i}.{part}"))));
        let scaled = |name: &str, scale: &str| {
            let scale = of(scale);
            let after = |o: usize| scale.get(o).copied().unwrap_or(1.0);
            Linear::new(of(&format!("{name}.weight")), of(&format!("{name}.bias")), None, after)
        };
        let (qkv, bias) = (of("attn.qkv.weight"), of("attn.qkv.bias"));
        let bias = if bias.is_empty() { &zeros } else { bias };
        let scale = 1.0 / ((width / heads) as f32).sqrt();
        Self {
            query: Linear::new(&qkv[..width * width], &bias[..width], Some(first), |_| scale),
            key_value: Linear::new(&qkv[width * width..], &bias[width..], Some(first), |_| 1.0),
            proj: scaled("attn.proj", "ls1.gamma"),
            fc1: Linear::new(of("mlp.fc1.weight"), of("mlp.fc1.bias"), Some(second), |_| 1.0),
            fc2: scaled("mlp.fc2", "ls2.gamma"),
        }
    }

    /// Replaces the tokens in `pass.x` by the block's output for the queries, and writes tape number `tape`.
    fn forward(&self, net: &FrozenVit, pass: &mut Pass, tape: usize, heads: Heads) {
        let (arch, n, width) = (net.arch, pass.images, heads.width());
        let (Heads { tokens, queries, .. }, first) = (heads, net.first());
        let Pass { x, blocks, wide, attention, .. } = pass;
        let tape = &mut blocks[tape];

        tape.first.forward(net.norm(), x);
        let (rows, qkv) = (&tape.first.rows, sized(&mut tape.qkv, n * tokens * 3 * width));
        self.key_value.apply(n * tokens, rows, width, &mut qkv[width..], 3 * width);
        if queries == tokens {
            self.query.apply(n * tokens, rows, width, qkv, 3 * width);
        } else {
            // A row of each image: the first ones, as far apart as images.
            self.query.apply(n, rows, tokens * width, qkv, tokens * 3 * width);
        }
        net.rotate(qkv, heads, false);
        let mixed = sized(&mut tape.mixed, n * queries * width);
        let logs = sized(&mut tape.logs, n * queries * heads.count);
        let images = qkv.chunks_exact(tokens * 3 * width).zip(mixed.chunks_exact_mut(queries * width));
        for ((qkv, mixed), logs) in images.zip(logs.chunks_exact_mut(queries * heads.count)) {
            attention.forward(heads, qkv, mixed, logs);
        }
        if queries < tokens {
            for image in 0..n {
                x.copy_within(image * tokens * width..(image * tokens + queries) * width, image * queries * width);
            }
            x.truncate(n * queries * width);
        }
        let rows = n * queries;
        self.proj.add(rows, mixed, x);

        tape.second.forward(net.norm(), x);
        let hidden = sized(&mut tape.hidden, rows * first);
        self.fc1.apply(rows, &tape.second.rows, width, hidden, first);
        let active = sized(wide, rows * arch.hidden);
        kernel(arch.activation).forward(arch.hidden, hidden, active);
        self.fc2.add(rows, active, x);
    }

    /// Replaces the gradient in `pass.x` with respect to the block's output by that with respect to its input.
    fn backward(&self, net: &FrozenVit, pass: &mut Pass, tape: usize, heads: Heads) {
        let (arch, n, width) = (net.arch, pass.images, heads.width());
        let (Heads { tokens, queries, .. }, first, rows) = (heads, net.first(), pass.images * heads.queries);
        let Pass { x, blocks, wide, narrow, grads, attention, .. } = pass;
        let tape = &blocks[tape];

        let grad_active = sized(wide, rows * arch.hidden);
        self.fc2.transposed(rows, x, width, grad_active, Addend::Zero);
        let grad_hidden = sized(grads, rows * first);
        kernel(arch.activation).backward(arch.hidden, &tape.hidden[..rows * first], grad_active, grad_hidden);
        let grad_rows = sized(narrow, rows * width);
        self.fc1.transposed(rows, grad_hidden, first, grad_rows, Addend::Zero);
        tape.second.backward(width, grad_rows, x);

        let grad_mixed = sized(narrow, rows * width);
        self.proj.transposed(rows, x, width, grad_mixed, Addend::Zero);
        let grad_qkv = sized(grads, n * tokens * 3 * width);
        for image in 0..n {
            let (each, own) = (tokens * 3 * width, queries * width);
            attention.backward(
                heads,
                &tape.qkv[image * each..][..each],
                &tape.mixed[image * own..][..own],
                &tape.logs[image * queries * heads.count..][..queries * heads.count],
                &grad_mixed[image * own..][..own],
                &mut grad_qkv[image * each..][..each],
            );
        }
        net.rotate(grad_qkv, heads, true);
        if queries < tokens {
            let last = std::mem::take(x);
            x.resize(n * tokens * width, 0.0);
            for (x, last) in x.chunks_exact_mut(tokens * width).zip(last.chunks_exact(queries * width)) {
                x[..queries * width].copy_from_slice(last);
            }
        }
        let grad_rows = sized(wide, n * tokens * width);
        self.key_value.transposed(n * tokens, &grad_qkv[width..], 3 * width, grad_rows, Addend::Zero);
        if queries == tokens {
            self.query.transposed(n * tokens, grad_qkv, 3 * width, grad_rows, Addend::Result);
        } else {
            let left = Left::rows(grad_qkv, tokens * 3 * width);
            product(n, left, &self.query.backward, grad_rows, tokens * width, Addend::Result);
        }
        tape.first.backward(width, grad_rows, x);
    }
}

impl Pass {
    fn features(&self) -> Vec<f32> {
        self.read.as_ref().map_or_else(Vec::new, |read| down(read.features.clone().inner()))
    }
}

fn kernel(activation: Activation) -> Kernel {
    match activation {
        Activation::Gelu => Kernel::Gelu,
        Activation::GeluTanh => Kernel::GeluTanh,
        Activation::QuickGelu => Kernel::QuickGelu,
        Activation::SwiGlu => Kernel::SwiGlu,
    }
}
