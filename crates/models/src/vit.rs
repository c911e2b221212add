//! Vision transformers, with the parameter names of timm.
//!
//! Dosovitskiy et al., "An image is worth 16x16 words" (2021), with pre-norm blocks. [`VitArch`] has what differs
//! between the families that people use: tokens, positions, MLPs, norms, and which tokens become features. As in MoCo
//! v3 (Chen, Xie and He, 2021), learned positions are initialised with sines and cosines of row and column.

mod arch;
pub(crate) mod frozen;
mod rotary;

pub(crate) use arch::{Activation, Positions, Readout};
pub use arch::{VitArch, VitArchError};

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::activation::{gelu, gelu_approximate, sigmoid, silu, softmax};
use burn::tensor::{Device, Tensor, TensorData, s};
use std::ops::Range;

use crate::initial::{WeightSource, normal};
use rotary::Rotation;

/// Standard deviation of the initial weights.
const STD: f32 = 0.02;

/// A transformer without its classifier: images `[n, 3, h, w]` in, features `[n, d]` out.
#[derive(Module, Debug)]
pub struct Vit {
    cls_token: Option<Param<Tensor<3>>>,
    reg_token: Option<Param<Tensor<3>>>,
    pos_embed: Option<Param<Tensor<3>>>,
    patch_embed: PatchEmbed,
    norm_pre: Option<LayerNorm>,
    blocks: Vec<TransformerBlock>,
    norm: LayerNorm,
    attn_pool: Option<AttentionPool>,
    projection: Option<Linear>,
    #[module(skip)]
    arch: VitArch,
}

#[derive(Module, Debug)]
struct PatchEmbed {
    proj: Conv2d,
}

#[derive(Module, Debug)]
struct TransformerBlock {
    norm1: LayerNorm,
    attn: Attention,
    ls1: Option<LayerScale>,
    norm2: LayerNorm,
    mlp: Mlp,
    ls2: Option<LayerScale>,
}

#[derive(Module, Debug)]
struct LayerScale {
    gamma: Param<Tensor<1>>,
}

#[derive(Module, Debug)]
struct Attention {
    qkv: Linear,
    proj: Linear,
    #[module(skip)]
    heads: usize,
}

#[derive(Module, Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    activation: Activation,
}

/// Attention of one learned query over all tokens, and an MLP (Zhai et al., "Sigmoid loss for language image
/// pre-training", 2023).
#[derive(Module, Debug)]
struct AttentionPool {
    latent: Param<Tensor<3>>,
    q: Linear,
    kv: Linear,
    proj: Linear,
    norm: LayerNorm,
    mlp: Mlp,
    #[module(skip)]
    heads: usize,
}

/// Draws the weights of a new network, in the order of the calls.
struct Draw<'a> {
    arch: VitArch,
    weights: &'a mut dyn WeightSource,
    device: &'a Device,
}

impl Draw<'_> {
    fn norm(&self) -> LayerNorm {
        LayerNormConfig::new(self.arch.width).with_epsilon(self.arch.norm_eps.value()).init(self.device)
    }

    fn linear(&mut self, from: usize, to: usize, bias: bool) -> Linear {
        let config = LinearConfig::new(from, to).with_initializer(Initializer::Zeros).with_bias(bias);
        let mut layer = config.init(self.device);
        layer.weight = normal([from, to], STD, self.weights, self.device);
        layer
    }

    fn token(&mut self, count: usize) -> Param<Tensor<3>> {
        normal([1, count, self.arch.width], STD, self.weights, self.device)
    }

    fn mlp(&mut self) -> Mlp {
        let VitArch { width, hidden, activation, .. } = self.arch;
        let first = if activation == Activation::SwiGlu { 2 * hidden } else { hidden };
        Mlp { fc1: self.linear(width, first, true), fc2: self.linear(hidden, width, true), activation }
    }

    fn block(&mut self) -> TransformerBlock {
        let VitArch { width, heads, layer_scale, qkv_bias, .. } = self.arch;
        let scale = |device| LayerScale { gamma: Param::from_tensor(Tensor::ones([width], device)) };
        TransformerBlock {
            norm1: self.norm(),
            attn: Attention {
                qkv: self.linear(width, 3 * width, qkv_bias),
                proj: self.linear(width, width, true),
                heads,
            },
            ls1: layer_scale.then(|| scale(self.device)),
            norm2: self.norm(),
            mlp: self.mlp(),
            ls2: layer_scale.then(|| scale(self.device)),
        }
    }

    fn attention_pool(&mut self) -> AttentionPool {
        let VitArch { width, heads, .. } = self.arch;
        AttentionPool {
            latent: self.token(1),
            q: self.linear(width, width, true),
            kv: self.linear(width, 2 * width, true),
            proj: self.linear(width, width, true),
            norm: self.norm(),
            mlp: self.mlp(),
            heads,
        }
    }
}

impl Vit {
    /// A network for images of `[height, width]`, which must be multiples of the patch, with weights drawn from
    /// `weights` in the order of the layers.
    #[must_use]
    pub fn new(arch: VitArch, size: [usize; 2], weights: &mut dyn WeightSource, device: &Device) -> Self {
        let VitArch { width, depth, patch, class_token, .. } = arch;
        let mut draw = Draw { arch, weights, device };
        let mut proj = Conv2dConfig::new([3, width], [patch; 2])
            .with_stride([patch; 2])
            .with_initializer(Initializer::Zeros)
            .with_bias(arch.patch_bias)
            .init(device);
        // The embedding of a patch is initialised like one linear map (Glorot and Bengio, 2010).
        let std = (2.0 / (3 * patch * patch + width) as f32).sqrt();
        proj.weight = normal([width, 3, patch, patch], std, draw.weights, device);
        let cls_token = class_token.then(|| draw.token(1));
        let reg_token = (arch.registers > 0).then(|| draw.token(arch.registers));
        let blocks = (0..depth).map(|_| draw.block()).collect();
        let learned = || Param::from_data(positions(width, class_token, size.map(|side| side / patch)), device);
        Self {
            cls_token,
            reg_token,
            pos_embed: (arch.positions == Positions::Learned).then(learned),
            patch_embed: PatchEmbed { proj },
            norm_pre: arch.pre_norm.then(|| draw.norm()),
            blocks,
            norm: draw.norm(),
            attn_pool: (arch.readout == Readout::Attention).then(|| draw.attention_pool()),
            projection: (arch.projection > 0).then(|| draw.linear(width, arch.projection, false)),
            arch,
        }
    }

    /// The architecture.
    pub(crate) fn arch(&self) -> VitArch {
        self.arch
    }

    /// Features `[n, d]` of normalised images `[n, 3, h, w]`.
    #[must_use]
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let rotation = self.rotation(&images);
        let (tokens, mut outputs) = self.run(self.tokens(images), 0..self.blocks.len(), rotation.as_ref());
        outputs.push(tokens);
        self.read(&outputs)
    }

    /// Features `[n, d]` from what [`before`](Self::before) returns for as many blocks.
    pub(crate) fn after(&self, blocks: usize, x: Tensor<4>) -> Tensor<2> {
        let rows = x.squeeze_dim::<3>(1);
        let kept = self.kept(blocks);
        let tokens = rows.dims()[1] - kept;
        let mut outputs: Vec<Tensor<3>> = (0..kept).map(|i| rows.clone().narrow(1, tokens + i, 1)).collect();
        let tokens = rows.narrow(1, 0, tokens);
        let patches = tokens.dims()[1] - self.arch.before_patches();
        // Images are square wherever blocks are trained alone.
        let side = patches.isqrt();
        let rotation = (self.arch.positions == Positions::Rotary)
            .then(|| Rotation::new(self.arch, [side, side], &tokens.device()));
        let (tokens, later) = self.run(tokens, blocks..self.blocks.len(), rotation.as_ref());
        outputs.extend(later);
        outputs.push(tokens);
        self.read(&outputs)
    }

    /// The output of the first `blocks` blocks for normalised images `[n, 3, h, w]`, followed by the class tokens of
    /// those of them that become features: `[n, 1, tokens + kept, width]`.
    pub(crate) fn before(&self, blocks: usize, images: Tensor<4>) -> Tensor<4> {
        let rotation = self.rotation(&images);
        let (tokens, outputs) = self.run(self.tokens(images), 0..blocks, rotation.as_ref());
        let classes = outputs.into_iter().map(|output| output.narrow(1, 0, 1));
        // The last block that has run is the last of those that are kept.
        let last = (self.kept(blocks) > 0).then(|| tokens.clone().narrow(1, 0, 1));
        let rows = std::iter::once(tokens).chain(classes).chain(last).collect();
        Tensor::cat(rows, 1).unsqueeze_dim(1)
    }

    /// Number of the first `blocks` blocks, fewer than all, whose class tokens become features.
    fn kept(&self, blocks: usize) -> usize {
        blocks.saturating_sub(self.blocks.len() - self.arch.last)
    }

    /// The output of the last of these blocks for an input `[n, tokens, width]`, and those of the blocks before it that
    /// become features without being the last of the network, in order.
    fn run(
        &self,
        mut tokens: Tensor<3>,
        blocks: Range<usize>,
        rotation: Option<&Rotation>,
    ) -> (Tensor<3>, Vec<Tensor<3>>) {
        let mut outputs = Vec::new();
        for i in blocks.clone() {
            if i > blocks.start && self.kept(i) > 0 {
                outputs.push(tokens.clone());
            }
            tokens = self.blocks[i].forward(tokens, rotation);
        }
        (tokens, outputs)
    }

    /// The rotation of queries and keys for images `[n, 3, h, w]`, if positions are rotary.
    fn rotation(&self, images: &Tensor<4>) -> Option<Rotation> {
        let [.., height, width] = images.dims();
        let grid = [height, width].map(|side| side / self.arch.patch);
        (self.arch.positions == Positions::Rotary).then(|| Rotation::new(self.arch, grid, &images.device()))
    }

    /// The embedded tokens, `[n, tokens, width]`: class token, registers and patches, as far as there are any. Learned
    /// positions are added to all but the registers.
    fn tokens(&self, images: Tensor<4>) -> Tensor<3> {
        let patches = self.patch_embed.proj.forward(images).flatten::<3>(2, 3).swap_dims(1, 2);
        let n = patches.dims()[0];
        let each = |token: &Param<Tensor<3>>| token.val().repeat_dim(0, n);
        let class = self.cls_token.as_ref().map(each);
        let mut tokens = Tensor::cat(class.into_iter().chain([patches]).collect(), 1);
        if let Some(positions) = &self.pos_embed {
            tokens = tokens + positions.val();
        }
        if let Some(registers) = self.reg_token.as_ref().map(each) {
            let (class, all) = (usize::from(self.arch.class_token), tokens.dims()[1]);
            let patches = tokens.clone().narrow(1, class, all - class);
            let class = (class > 0).then(|| tokens.narrow(1, 0, class));
            tokens = Tensor::cat(class.into_iter().chain([registers, patches]).collect(), 1);
        }
        match &self.norm_pre {
            Some(norm) => norm.forward(tokens),
            None => tokens,
        }
    }

    /// The features `[n, d]` of the outputs of the last blocks, each `[n, tokens, width]`, of which all but the last
    /// need the class token alone.
    fn read(&self, outputs: &[Tensor<3>]) -> Tensor<2> {
        let normed = |rows: Tensor<3>| self.norm.forward(rows);
        let class = |x: &Tensor<3>| normed(x.clone().slice(s![.., 0..1])).squeeze_dim::<2>(1);
        let patches = |x: &Tensor<3>| normed(x.clone().slice(s![.., self.arch.before_patches()..]));
        let mut parts: Vec<Tensor<2>> = match self.arch.readout {
            Readout::Class | Readout::ClassMean => outputs.iter().map(class).collect(),
            Readout::Mean | Readout::Attention => Vec::new(),
        };
        if let Some(last) = outputs.last() {
            match (self.arch.readout, &self.attn_pool) {
                (Readout::Mean | Readout::ClassMean, _) => parts.push(patches(last).mean_dim(1).squeeze_dim::<2>(1)),
                (Readout::Attention, Some(pool)) => parts.push(pool.forward(normed(last.clone()))),
                (Readout::Class | Readout::Attention, _) => {}
            }
        }
        let projected = parts.into_iter().map(|part| match &self.projection {
            Some(projection) => projection.forward(part),
            None => part,
        });
        Tensor::cat(projected.collect(), 1)
    }
}

impl TransformerBlock {
    fn forward(&self, x: Tensor<3>, rotation: Option<&Rotation>) -> Tensor<3> {
        let x = x.clone() + scaled(self.ls1.as_ref(), self.attn.forward(self.norm1.forward(x), rotation));
        x.clone() + scaled(self.ls2.as_ref(), self.mlp.forward(self.norm2.forward(x)))
    }
}

fn scaled(scale: Option<&LayerScale>, x: Tensor<3>) -> Tensor<3> {
    match scale {
        Some(scale) => x * scale.gamma.val().unsqueeze(),
        None => x,
    }
}

impl Attention {
    fn forward(&self, x: Tensor<3>, rotation: Option<&Rotation>) -> Tensor<3> {
        let [n, tokens, width] = x.dims();
        let (heads, head) = (self.heads, width / self.heads);
        let all = self.qkv.forward(x).reshape([n, tokens, 3, heads, head]).permute([2, 0, 3, 1, 4]);
        let part = |i: usize| all.clone().narrow(0, i, 1).squeeze_dim::<4>(0);
        let rotated = |x: Tensor<4>| match rotation {
            Some(rotation) => rotation.apply(x),
            None => x,
        };
        let mixed = attend(rotated(part(0)), rotated(part(1)), part(2));
        self.proj.forward(mixed.swap_dims(1, 2).reshape([n, tokens, width]))
    }
}

/// Scaled dot-product attention of queries `[n, heads, q, head]` over keys and values `[n, heads, tokens, head]`.
pub(crate) fn attend(queries: Tensor<4>, keys: Tensor<4>, values: Tensor<4>) -> Tensor<4> {
    let head = queries.dims()[3];
    softmax(queries.matmul(keys.transpose()) / (head as f32).sqrt(), 3).matmul(values)
}

impl Mlp {
    fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let x = self.fc1.forward(x);
        self.fc2.forward(match self.activation {
            Activation::Gelu => gelu(x),
            Activation::GeluTanh => gelu_approximate(x),
            Activation::QuickGelu => x.clone() * sigmoid(x * 1.702),
            Activation::SwiGlu => {
                let hidden = x.dims()[D - 1] / 2;
                silu(x.clone().narrow(D - 1, 0, hidden)) * x.narrow(D - 1, hidden, hidden)
            }
        })
    }
}

impl AttentionPool {
    /// Features `[n, width]` of normalised tokens `[n, tokens, width]`.
    fn forward(&self, x: Tensor<3>) -> Tensor<2> {
        let [n, tokens, width] = x.dims();
        let (heads, head) = (self.heads, width / self.heads);
        let queries = self.q.forward(self.latent.val()).reshape([1, 1, heads, head]).swap_dims(1, 2);
        let all = self.kv.forward(x).reshape([n, tokens, 2, heads, head]).permute([2, 0, 3, 1, 4]);
        let part = |i: usize| all.clone().narrow(0, i, 1).squeeze_dim::<4>(0);
        let mixed = attend(queries.repeat_dim(0, n), part(0), part(1));
        let x = self.proj.forward(mixed.swap_dims(1, 2).reshape([n, 1, width]));
        (x.clone() + self.mlp.forward(self.norm.forward(x))).squeeze_dim::<2>(1)
    }
}

/// Sines and cosines of each patch's row and column at geometric frequencies, `[1, rows * columns, width]`, after zeros
/// for a class token.
fn positions(width: usize, class_token: bool, [rows, columns]: [usize; 2]) -> TensorData {
    let (quarter, first) = (width / 4, usize::from(class_token));
    let mut values = vec![0.0f32; first * width];
    for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
        let angle = |at: usize, i: usize| at as f32 / 10_000f32.powf(i as f32 / quarter as f32);
        for at in [column, row] {
            values.extend((0..quarter).map(|i| angle(at, i).sin()));
            values.extend((0..quarter).map(|i| angle(at, i).cos()));
        }
    }
    TensorData::new(values, [1, first + rows * columns, width])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{self, Backend};
    use crate::weights::Weights;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn build(name: &str, size: [usize; 2]) -> Vit {
        let device = device::open(Backend::default()).unwrap();
        Vit::new(name.parse().unwrap(), size, &mut ChaCha8Rng::seed_from_u64(1), &device)
    }

    /// timm's `vit_tiny_patch16_224` has 5,717,416 parameters, of which 193,000 are its classifier's.
    #[test]
    fn names_and_counts_are_those_of_timm() {
        let weights = Weights::collect(&build("vit-tiny-p16", [224, 224])).0;
        let count: usize = weights.values().map(|w| w.values.len()).sum();
        assert_eq!(count, 5_717_416 - 193_000);
        for (name, shape) in [
            ("cls_token", &[1, 1, 192][..]),
            ("pos_embed", &[1, 197, 192]),
            ("patch_embed.proj.weight", &[192, 3, 16, 16]),
            ("blocks.0.norm1.weight", &[192]),
            ("blocks.11.attn.qkv.weight", &[576, 192]),
            ("blocks.11.mlp.fc2.bias", &[192]),
            ("norm.bias", &[192]),
        ] {
            assert_eq!(weights[name].shape, shape, "{name}");
        }
    }

    /// Where a patch lies matters: features of an image change when its patches are swapped.
    #[test]
    fn features_know_positions() {
        let net = build("vit-nano-p4-d2", [8, 8]).valid();
        let device = device::open(Backend::default()).unwrap();
        let image = Tensor::<1>::from_floats(
            std::array::from_fn::<f32, { 3 * 8 * 8 }, _>(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0),
            &device,
        )
        .reshape([1, 3, 8, 8]);
        let [top, bottom] = [0..4, 4..8].map(|rows| image.clone().slice([0..1, 0..3, rows]));
        let features = net.forward(Tensor::cat(vec![image, Tensor::cat(vec![bottom, top], 2)], 0));
        assert_eq!(features.dims(), [2, 64]);
        let values: Vec<f32> = features.into_data().iter().collect();
        let off = values[..64].iter().zip(&values[64..]).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(off > 1e-3, "{off}");
    }
}
