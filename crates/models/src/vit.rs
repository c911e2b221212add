//! Small vision transformers, with the parameter names of timm.
//!
//! Dosovitskiy et al., "An image is worth 16x16 words" (2021), with pre-norm blocks; the features are the class token's
//! output. As in MoCo v3 (Chen, Xie and He, 2021), the position embeddings are initialised with sines and cosines of
//! row and column. Here they are learned from there.

use std::fmt;
use std::str::FromStr;

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::activation::{gelu, softmax};
use burn::tensor::{Device, Tensor, TensorData, s};
use rand_chacha::ChaCha8Rng;

use crate::resnet::normal;

/// Channels of an attention head.
const HEAD: usize = 64;
/// Standard deviation of the initial weights.
const STD: f32 = 0.02;

/// An architecture. It is written `vit-tiny-p4` for patches of 4x4 pixels, with `-d6` for a depth of 6 blocks instead
/// of 12.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VitArch {
    width: usize,
    depth: usize,
    patch: usize,
}

/// Widths by name, and the default depth.
const NAMED: [(&str, usize); 3] = [("vit-nano", 64), ("vit-tiny", 192), ("vit-small", 384)];
const DEPTH: usize = 12;

impl VitArch {
    /// Number of features, d.
    #[must_use]
    pub fn feature_dim(self) -> usize {
        self.width
    }

    /// The numbers that the forward cache of a training step holds for one image of `[height, width]`: the outputs of
    /// all matrices, and the attention weights.
    pub(crate) fn kept(self, [height, width]: [usize; 2]) -> f64 {
        let tokens = 1.0 + (height / self.patch) as f64 * (width / self.patch) as f64;
        let (made, attention) = ((3 + 1 + 4 + 1) * self.width, self.heads() as f64 * tokens);
        self.depth as f64 * tokens * (made as f64 + attention)
    }

    /// A lower bound of the numbers that a forward pass holds at once for one image: those of one block.
    pub(crate) fn held(self, size: [usize; 2]) -> f64 {
        self.kept(size) / self.depth as f64
    }

    /// Number of attention heads.
    #[must_use]
    pub fn heads(self) -> usize {
        self.width / HEAD
    }

    /// Number of blocks.
    #[must_use]
    pub fn depth(self) -> usize {
        self.depth
    }

    /// Side of a patch in pixels; the sides of an image must be multiples of it.
    #[must_use]
    pub fn patch(self) -> usize {
        self.patch
    }
}

impl FromStr for VitArch {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        let (name, width) = NAMED.into_iter().find(|(name, _)| s.starts_with(name)).ok_or(())?;
        let number = |s: &str| s.parse().ok().filter(|n| (1..=64).contains(n)).ok_or(());
        let rest = s[name.len()..].strip_prefix("-p").ok_or(())?;
        let (patch, depth) = match rest.split_once("-d") {
            Some((patch, depth)) => (number(patch)?, number(depth)?),
            None => (number(rest)?, DEPTH),
        };
        Ok(Self { width, depth, patch })
    }
}

impl fmt::Display for VitArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMED.into_iter().find(|(_, width)| *width == self.width).map_or("vit", |(name, _)| name);
        let depth = if self.depth == DEPTH { String::new() } else { format!("-d{}", self.depth) };
        f.pad(&format!("{name}-p{}{depth}", self.patch))
    }
}

/// A transformer without its classifier: images `[n, 3, h, w]` in, features `[n, d]` out.
#[derive(Module, Debug)]
pub struct Vit {
    cls_token: Param<Tensor<3>>,
    pos_embed: Param<Tensor<3>>,
    patch_embed: PatchEmbed,
    blocks: Vec<TransformerBlock>,
    norm: LayerNorm,
}

#[derive(Module, Debug)]
struct PatchEmbed {
    proj: Conv2d,
}

#[derive(Module, Debug)]
struct TransformerBlock {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
}

#[derive(Module, Debug)]
struct Attention {
    qkv: Linear,
    proj: Linear,
}

#[derive(Module, Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

impl Vit {
    /// A network for images of `[height, width]`, which must be multiples of the patch, with weights drawn from `rng`
    /// in the order of the layers.
    #[must_use]
    pub fn new(arch: VitArch, size: [usize; 2], rng: &mut ChaCha8Rng, device: &Device) -> Self {
        let VitArch { width, depth, patch } = arch;
        let mut proj = Conv2dConfig::new([3, width], [patch; 2])
            .with_stride([patch; 2])
            .with_initializer(Initializer::Zeros)
            .init(device);
        // The embedding of a patch is initialised like one linear map (Glorot and Bengio, 2010).
        let std = (2.0 / (3 * patch * patch + width) as f32).sqrt();
        proj.weight = normal([width, 3, patch, patch], std, rng, device);
        let cls_token = normal([1, 1, width], STD, rng, device);
        let norm = || LayerNormConfig::new(width).with_epsilon(1e-6).init(device);
        let mut linear = |from: usize, to: usize| {
            let mut layer = LinearConfig::new(from, to).with_initializer(Initializer::Zeros).init(device);
            layer.weight = normal([from, to], STD, rng, device);
            layer
        };
        let blocks = (0..depth).map(|_| TransformerBlock {
            norm1: norm(),
            attn: Attention { qkv: linear(width, 3 * width), proj: linear(width, width) },
            norm2: norm(),
            mlp: Mlp { fc1: linear(width, 4 * width), fc2: linear(4 * width, width) },
        });
        let blocks = blocks.collect();
        let pos_embed = Param::from_data(positions(width, size.map(|side| side / patch)), device);
        Self { cls_token, pos_embed, patch_embed: PatchEmbed { proj }, blocks, norm: norm() }
    }

    /// Features `[n, d]` of normalised images `[n, 3, h, w]`.
    #[must_use]
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let tokens = self.blocks.iter().fold(self.tokens(images), |x, block| block.forward(x));
        self.read(tokens)
    }

    /// Features `[n, d]` from the input of the last block, `[n, 1, tokens, width]`.
    pub(crate) fn last_block(&self, x: Tensor<4>) -> Tensor<2> {
        let tokens = x.squeeze_dim::<3>(1);
        self.read(match self.blocks.last() {
            Some(block) => block.forward(tokens),
            None => tokens,
        })
    }

    /// The input of the last block, `[n, 1, tokens, width]`, for normalised images `[n, 3, h, w]`.
    pub(crate) fn before_last_block(&self, images: Tensor<4>) -> Tensor<4> {
        let before = self.blocks.iter().take(self.blocks.len().saturating_sub(1));
        before.fold(self.tokens(images), |x, block| block.forward(x)).unsqueeze_dim(1)
    }

    /// The embedded class token and patches with their positions added, `[n, tokens, width]`.
    fn tokens(&self, images: Tensor<4>) -> Tensor<3> {
        let patches = self.patch_embed.proj.forward(images).flatten::<3>(2, 3).swap_dims(1, 2);
        let [n, _, width] = patches.dims();
        let class = self.cls_token.val().expand([n, 1, width]);
        Tensor::cat(vec![class, patches], 1) + self.pos_embed.val()
    }

    /// The normalised output of the class token, `[n, d]`.
    fn read(&self, tokens: Tensor<3>) -> Tensor<2> {
        let class = tokens.slice(s![.., 0..1]);
        self.norm.forward(class).squeeze_dim::<2>(1)
    }
}

impl TransformerBlock {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = x.clone() + self.attn.forward(self.norm1.forward(x));
        x.clone() + self.mlp.fc2.forward(gelu(self.mlp.fc1.forward(self.norm2.forward(x))))
    }
}

impl Attention {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [n, tokens, width] = x.dims();
        let heads = width / HEAD;
        let all = self.qkv.forward(x).reshape([n, tokens, 3, heads, HEAD]).permute([2, 0, 3, 1, 4]);
        let part = |i: usize| all.clone().narrow(0, i, 1).squeeze_dim::<4>(0);
        let scores = part(0).matmul(part(1).transpose()) / (HEAD as f32).sqrt();
        let mixed = softmax(scores, 3).matmul(part(2));
        self.proj.forward(mixed.swap_dims(1, 2).reshape([n, tokens, width]))
    }
}

/// Sines and cosines of each patch's row and column at geometric frequencies, `[1, 1 + rows * columns, width]`; zeros
/// for the class token.
fn positions(width: usize, [rows, columns]: [usize; 2]) -> TensorData {
    let quarter = width / 4;
    let mut values = vec![0.0f32; width];
    for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
        let angle = |at: usize, i: usize| at as f32 / 10_000f32.powf(i as f32 / quarter as f32);
        for at in [column, row] {
            values.extend((0..quarter).map(|i| angle(at, i).sin()));
            values.extend((0..quarter).map(|i| angle(at, i).cos()));
        }
    }
    TensorData::new(values, [1, 1 + rows * columns, width])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{self, Backend};
    use crate::weights::Weights;
    use rand::SeedableRng;

    fn build(name: &str, size: [usize; 2]) -> Vit {
        let device = device::open(Backend::default()).unwrap();
        Vit::new(name.parse().unwrap(), size, &mut ChaCha8Rng::seed_from_u64(1), &device)
    }

    #[test]
    fn names_round_trip() {
        for name in ["vit-tiny-p4", "vit-small-p16", "vit-nano-p8-d2"] {
            assert_eq!(name.parse::<VitArch>().unwrap().to_string(), name);
        }
        for name in ["vit-tiny", "vit-tiny-p0", "vit-tiny-p4-d", "vit-tiny-p4-d99", "vit"] {
            assert!(name.parse::<VitArch>().is_err(), "{name}");
        }
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
