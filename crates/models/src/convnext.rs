//! ConvNeXt, with the parameter names of timm.
//!
//! Liu et al., "A ConvNet for the 2020s" (2022), and Woo et al., "ConvNeXt V2" (2023), which has global response
//! normalisation in place of layer scales.

mod arch;
pub(crate) mod frozen;

pub use arch::{ConvNextArch, ConvNextArchError};
pub(crate) use arch::{PATCH, STRIDE};

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::gelu;
use burn::tensor::{Device, Tensor};
use std::ops::Range;

use crate::initial::{WeightSource, normal};
use crate::resnet::{channels_first, channels_last, convolved};
use arch::{EXPANSION, SIDE};

/// Standard deviation of the initial weights, and the initial layer scale.
const STD: f32 = 0.02;
const SCALE: f32 = 1e-6;
/// What layer norms inside of the network add to the variance, and global response normalisation to a mean.
pub(crate) const EPSILON: f64 = 1e-6;

/// A ConvNeXt without its classifier: images `[n, 3, h, w]` in, features `[n, d]` out.
#[derive(Module, Debug)]
pub struct ConvNext {
    stem: (Conv2d, LayerNorm),
    stages: Vec<Stage>,
    head: Head,
    #[module(skip)]
    arch: ConvNextArch,
}

#[derive(Module, Debug)]
struct Stage {
    downsample: Option<(LayerNorm, Conv2d)>,
    blocks: Vec<Block>,
}

#[derive(Module, Debug)]
struct Block {
    conv_dw: Conv2d,
    norm: LayerNorm,
    mlp: Mlp,
    gamma: Option<Param<Tensor<1>>>,
}

#[derive(Module, Debug)]
struct Mlp {
    fc1: Linear,
    grn: Option<ResponseNorm>,
    fc2: Linear,
}

/// Global response normalisation: a channel is amplified by its norm over the image, relative to the other channels.
#[derive(Module, Debug)]
struct ResponseNorm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
}

#[derive(Module, Debug)]
struct Head {
    norm: LayerNorm,
}

/// Draws the weights of a new network, in the order of the calls.
struct Draw<'a> {
    weights: &'a mut dyn WeightSource,
    device: &'a Device,
}

impl Draw<'_> {
    fn norm(&self, width: usize, epsilon: f64) -> LayerNorm {
        LayerNormConfig::new(width).with_epsilon(epsilon).init(self.device)
    }

    /// A convolution of patches, or, with `groups`, of each channel with its own kernel.
    fn conv(&mut self, [from, to]: [usize; 2], side: usize, groups: usize) -> Conv2d {
        let (stride, pad) = if groups > 1 { (1, side / 2) } else { (side, 0) };
        let mut conv = Conv2dConfig::new([from, to], [side; 2])
            .with_stride([stride; 2])
            .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
            .with_groups(groups)
            .with_initializer(Initializer::Zeros)
            .init(self.device);
        conv.weight = normal([to, from / groups, side, side], STD, self.weights, self.device);
        conv
    }

    fn linear(&mut self, from: usize, to: usize) -> Linear {
        let mut layer = LinearConfig::new(from, to).with_initializer(Initializer::Zeros).init(self.device);
        layer.weight = normal([from, to], STD, self.weights, self.device);
        layer
    }

    fn block(&mut self, width: usize, arch: ConvNextArch) -> Block {
        let constant = |length: usize, value: f32| Param::from_tensor(Tensor::full([length], value, self.device));
        let hidden = EXPANSION * width;
        let grn =
            arch.response_norm().then(|| ResponseNorm { weight: constant(hidden, 0.0), bias: constant(hidden, 0.0) });
        let gamma = (!arch.response_norm()).then(|| constant(width, SCALE));
        Block {
            conv_dw: self.conv([width, width], SIDE, width),
            norm: self.norm(width, EPSILON),
            mlp: Mlp { fc1: self.linear(width, hidden), grn, fc2: self.linear(hidden, width) },
            gamma,
        }
    }
}

impl ConvNext {
    /// A network whose weights are drawn from `weights` in the order of the layers.
    #[must_use]
    pub fn new(arch: ConvNextArch, weights: &mut dyn WeightSource, device: &Device) -> Self {
        let mut draw = Draw { weights, device };
        let widths = arch.widths();
        let stem = (draw.conv([3, widths[0]], PATCH, 1), draw.norm(widths[0], EPSILON));
        let stages = arch.depths().into_iter().enumerate().map(|(i, depth)| {
            let downsample = (i > 0).then(|| {
                let from = widths[i - 1];
                (draw.norm(from, EPSILON), draw.conv([from, widths[i]], 2, 1))
            });
            Stage { downsample, blocks: (0..depth).map(|_| draw.block(widths[i], arch)).collect() }
        });
        let stages = stages.collect();
        Self { stem, stages, head: Head { norm: draw.norm(widths[3], arch.norm_eps()) }, arch }
    }

    /// The architecture.
    pub(crate) fn arch(&self) -> ConvNextArch {
        self.arch
    }

    /// Features `[n, d]` of normalised images `[n, 3, h, w]`.
    #[must_use]
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.read(self.run(self.stem(images), 0..usize::MAX))
    }

    /// The output of the first `blocks` blocks, `[n, c, h, w]`, for normalised images `[n, 3, h, w]`.
    pub(crate) fn before(&self, blocks: usize, images: Tensor<4>) -> Tensor<4> {
        channels_first(self.run(self.stem(images), 0..blocks))
    }

    /// Features `[n, d]` from the output of the first `blocks` blocks, `[n, c, h, w]`.
    pub(crate) fn after(&self, blocks: usize, x: Tensor<4>) -> Tensor<2> {
        self.read(self.run(channels_last(x), blocks..usize::MAX))
    }

    /// The output `[n, h, w, c]` of the stem.
    fn stem(&self, images: Tensor<4>) -> Tensor<4> {
        let (conv, norm) = &self.stem;
        norm.forward(convolved(conv, channels_last(images)))
    }

    /// The output `[n, h, w, c]` of these blocks for an input `[n, h, w, c]`. The downsampling of a stage belongs to
    /// its first block.
    fn run(&self, mut x: Tensor<4>, blocks: Range<usize>) -> Tensor<4> {
        let mut first = 0;
        for stage in &self.stages {
            if let Some((norm, conv)) = stage.downsample.as_ref().filter(|_| blocks.contains(&first)) {
                x = convolved(conv, norm.forward(x));
            }
            for (i, block) in stage.blocks.iter().enumerate() {
                if blocks.contains(&(first + i)) {
                    x = block.forward(x);
                }
            }
            first += stage.blocks.len();
        }
        x
    }

    /// The features of the last output `[n, h, w, c]`.
    fn read(&self, x: Tensor<4>) -> Tensor<2> {
        let pixels = x.flatten::<3>(1, 2);
        self.head.norm.forward(pixels.mean_dim(1).squeeze_dim::<2>(1))
    }
}

impl Block {
    /// The output `[n, h, w, c]` for an input `[n, h, w, c]`.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let hidden = gelu(self.mlp.fc1.forward(self.norm.forward(convolved(&self.conv_dw, x.clone()))));
        let hidden = match &self.mlp.grn {
            Some(norm) => norm.forward(hidden),
            None => hidden,
        };
        let made = self.mlp.fc2.forward(hidden);
        x + match &self.gamma {
            Some(gamma) => made * gamma.val().unsqueeze(),
            None => made,
        }
    }
}

impl ResponseNorm {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        // Where a channel is zero all over the image, the root has no derivative; the smallest number gives it one.
        let square = (x.clone() * x.clone()).sum_dim(1).sum_dim(2);
        let norm = (square + f32::MIN_POSITIVE).sqrt();
        let relative = norm.clone() / (norm.mean_dim(3) + EPSILON);
        x.clone() * (relative * self.weight.val().unsqueeze() + 1.0) + self.bias.val().unsqueeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{self, Backend};
    use crate::weights::Weights;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    /// timm: `sum(p.numel() for p in timm.create_model(name, num_classes=0).parameters())`.
    #[test]
    fn names_and_counts_are_those_of_timm() {
        let device = device::open(Backend::default()).unwrap();
        let build = |name: &str| {
            let net = ConvNext::new(name.parse().unwrap(), &mut ChaCha8Rng::seed_from_u64(1), &device);
            Weights::collect(&net).0
        };
        for (name, count) in COUNTS {
            assert_eq!(build(name).values().map(|w| w.values.len()).sum::<usize>(), count, "{name}");
        }
        let (first, second) = (build("convnext-atto"), build("convnextv2-atto"));
        for (weights, name, shape) in [
            (&first, "stem.0.weight", &[40, 3, 4, 4][..]),
            (&first, "stem.1.bias", &[40]),
            (&first, "stages.0.blocks.1.gamma", &[40]),
            (&first, "stages.1.downsample.0.weight", &[40]),
            (&first, "stages.1.downsample.1.weight", &[80, 40, 2, 2]),
            (&first, "stages.2.blocks.5.conv_dw.weight", &[160, 1, 7, 7]),
            (&first, "stages.3.blocks.1.mlp.fc2.weight", &[320, 1280]),
            (&first, "head.norm.weight", &[320]),
            (&second, "stages.3.blocks.1.mlp.grn.bias", &[1280]),
        ] {
            assert_eq!(weights[name].shape, shape, "{name}");
        }
        assert!(!second.contains_key("stages.0.blocks.1.gamma"));
    }

    const COUNTS: [(&str, usize); 3] =
        [("convnext-tiny", 27_820_128), ("convnext-nano", 14_952_560), ("convnextv2-atto", 3_387_400)];
}
