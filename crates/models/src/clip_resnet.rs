//! The residual networks of CLIP, with the parameter names of OpenAI's code.
//!
//! Radford et al., "Learning transferable visual models from natural language supervision" (2021), section 2.4. They
//! differ from torchvision's: the stem has three convolutions and average pooling, average pooling takes the place of
//! strides in blocks, and attention of the mean pixel over all pixels makes the features.

use std::fmt;
use std::str::FromStr;

use burn::module::{Module, Param};
use burn::nn::conv::Conv2d;
use burn::nn::{BatchNorm, BatchNormConfig, Initializer, Linear, LinearConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};

use crate::initial::{WeightSource, normal};
use crate::resnet::{ResidualBlock, averaged, channels_first, channels_last, conv, convolved, normalised};
use crate::vit::attend;

/// By how much the network is smaller than an image.
pub(crate) const STRIDE: usize = 32;
/// Channels of a head of attention.
const HEAD: usize = 64;
/// Channels of the last group, divided by the width.
const LAST: usize = 32;

/// An architecture: a preset, and what differs from it. It is written as the preset's name, `-wN` after it for another
/// width, and `projection=N` for features of another length: `clip-resnet50`, `clip-resnet50x4 projection=512`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClipResNetArch {
    preset: Preset,
    width: usize,
    projection: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Preset {
    name: &'static str,
    blocks: [usize; 4],
    width: usize,
    projection: usize,
}

const PRESETS: [Preset; 5] = [
    Preset { name: "resnet50", blocks: [3, 4, 6, 3], width: 64, projection: 1024 },
    Preset { name: "resnet101", blocks: [3, 4, 23, 3], width: 64, projection: 512 },
    Preset { name: "resnet50x4", blocks: [4, 6, 10, 6], width: 80, projection: 640 },
    Preset { name: "resnet50x16", blocks: [6, 8, 18, 8], width: 96, projection: 768 },
    Preset { name: "resnet50x64", blocks: [3, 15, 36, 10], width: 128, projection: 1024 },
];

/// A text that begins as the name of one of these networks, and is none.
#[derive(Debug, thiserror::Error)]
pub enum ClipResNetArchError {
    /// No network has this name.
    #[error("`{0}` is none of `resnet50`, `resnet101`, `resnet50x4`, `resnet50x16` and `resnet50x64`")]
    Preset(String),
    /// The width is no number, or out of range.
    #[error("`-{0}` is no width; expected `-w` and an even number from 2 to 256")]
    Width(String),
    /// Another field than the projection, or one of another value.
    #[error("`{0}` is no field; expected `projection=` and a number from 1 to 16384")]
    Field(String),
}

impl ClipResNetArch {
    /// Whether a text begins as the name of one of these networks.
    pub(crate) fn is_named(text: &str) -> bool {
        text.starts_with("clip-resnet")
    }

    /// The name of the preset with so many blocks in its groups.
    pub(crate) fn of_layers(layers: &[u64]) -> Option<String> {
        let found = PRESETS.iter().find(|preset| layers.iter().copied().eq(preset.blocks.map(|count| count as u64)));
        found.map(|preset| format!("clip-{}", preset.name))
    }

    /// Number of features, d: the length after the projection.
    #[must_use]
    pub fn feature_dim(self) -> usize {
        self.projection
    }

    /// Number of residual blocks.
    pub(crate) fn blocks(self) -> usize {
        self.preset.blocks.into_iter().sum()
    }

    /// Channels of the last group.
    fn channels(self) -> usize {
        LAST * self.width
    }

    /// A lower bound of the numbers that a forward pass holds at once for one image of `[height, width]`: the stem's
    /// output before its pooling.
    pub(crate) fn held(self, [height, width]: [usize; 2]) -> f64 {
        self.width as f64 * (height / 2) as f64 * (width / 2) as f64
    }

    /// The numbers that the forward cache of a training step holds for one image of `[height, width]`: the outputs of
    /// all convolutions.
    pub(crate) fn kept(self, [height, width]: [usize; 2]) -> f64 {
        let area = (height * width) as f64;
        let groups = self.preset.blocks.iter().enumerate().map(|(group, blocks)| {
            // Two narrow outputs and one of four times their width, for a quarter of the pixels of the group before.
            (blocks * 6 * (self.width << group)) as f64 * area / (16 << (2 * group)) as f64
        });
        2.0 * self.held([height, width]) + groups.sum::<f64>()
    }
}

impl FromStr for ClipResNetArch {
    type Err = ClipResNetArchError;

    fn from_str(s: &str) -> Result<Self, ClipResNetArchError> {
        let mut words = s.split_whitespace();
        let name = words.next().unwrap_or_default();
        let name = name.strip_prefix("clip-").unwrap_or(name);
        let (name, suffix) = name.split_once('-').map_or((name, None), |(name, suffix)| (name, Some(suffix)));
        let found = PRESETS.into_iter().find(|preset| preset.name == name);
        let preset = found.ok_or_else(|| ClipResNetArchError::Preset(name.to_owned()))?;
        let mut arch = Self { preset, width: preset.width, projection: preset.projection };
        if let Some(suffix) = suffix {
            let width = suffix.strip_prefix('w').and_then(|width| width.parse().ok());
            let width = width.filter(|w: &usize| (2..=256).contains(w) && w.is_multiple_of(2));
            arch.width = width.ok_or_else(|| ClipResNetArchError::Width(suffix.to_owned()))?;
        }
        for word in words {
            let length = word.strip_prefix("projection=").and_then(|length| length.parse().ok());
            let length = length.filter(|length| (1..=16_384).contains(length));
            arch.projection = length.ok_or_else(|| ClipResNetArchError::Field(word.to_owned()))?;
        }
        Ok(arch)
    }
}

impl fmt::Display for ClipResNetArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Preset { name, width, projection, .. } = self.preset;
        let wide = if self.width == width { String::new() } else { format!("-w{}", self.width) };
        let to = if self.projection == projection { String::new() } else { format!(" projection={}", self.projection) };
        f.pad(&format!("clip-{name}{wide}{to}"))
    }
}

/// A residual network of CLIP: images `[n, 3, h, w]` in, features `[n, d]` out.
#[derive(Module, Debug)]
pub struct ClipResNet {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
    conv3: Conv2d,
    bn3: BatchNorm,
    layer1: Vec<ResidualBlock>,
    layer2: Vec<ResidualBlock>,
    layer3: Vec<ResidualBlock>,
    layer4: Vec<ResidualBlock>,
    attnpool: AttentionPool,
}

/// Attention of the mean of all pixels over that mean and the pixels, and a projection.
#[derive(Module, Debug)]
pub(crate) struct AttentionPool {
    positional_embedding: Param<Tensor<2>>,
    k_proj: Linear,
    q_proj: Linear,
    v_proj: Linear,
    c_proj: Linear,
}

impl ClipResNet {
    /// A network for images of `[height, width]`, which must be multiples of 32. Convolutions have Kaiming normal
    /// weights (fan-out), drawn from `weights` in the order of the layers, and the matrices of the attention normal
    /// weights with the variance of the inverse of the number of their inputs.
    #[must_use]
    pub fn new(arch: ClipResNetArch, size: [usize; 2], weights: &mut dyn WeightSource, device: &Device) -> Self {
        let norm = |channels: usize| BatchNormConfig::new(channels).init(device);
        let (half, width) = (arch.width / 2, arch.width);
        let stem = [([3, half], 2), ([half, half], 1), ([half, width], 1)];
        let [conv1, conv2, conv3] = stem.map(|(channels, stride)| conv(channels, 3, stride, weights, device));
        let mut channels = width;
        let mut layers = arch.preset.blocks.into_iter().enumerate().map(|(group, count)| {
            let inner = width << group;
            let blocks = (0..count).map(|b| {
                let mut block = ResidualBlock::new([channels, inner, 4 * inner], 1, b == 0, weights, device);
                block.averages = group > 0 && b == 0;
                channels = 4 * inner;
                block
            });
            blocks.collect::<Vec<_>>()
        });
        let mut layer = || layers.next().unwrap_or_default();
        let [layer1, layer2, layer3, layer4] = [layer(), layer(), layer(), layer()];
        let pixels = size.map(|side| side / STRIDE).iter().product();
        let attnpool = AttentionPool::new([arch.channels(), arch.projection], pixels, weights, device);
        let [bn1, bn2, bn3] = [norm(half), norm(half), norm(width)];
        Self { conv1, bn1, conv2, bn2, conv3, bn3, layer1, layer2, layer3, layer4, attnpool }
    }

    /// The convolutions of the stem with their batch norms.
    pub(crate) fn stem(&self) -> [(&Conv2d, &BatchNorm); 3] {
        [(&self.conv1, &self.bn1), (&self.conv2, &self.bn2), (&self.conv3, &self.bn3)]
    }

    /// All blocks, in order.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = &ResidualBlock> {
        [&self.layer1, &self.layer2, &self.layer3, &self.layer4].into_iter().flatten()
    }

    /// What makes features of the output of the last block.
    pub(crate) fn attention(&self) -> &AttentionPool {
        &self.attnpool
    }

    /// Features `[n, d]` of normalised images `[n, 3, h, w]`.
    #[must_use]
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let layer = |x, (conv, norm)| relu(normalised(norm, convolved(conv, x)));
        let x = averaged(self.stem().into_iter().fold(channels_last(images), layer));
        let x = self.blocks().fold(x, |x, block| block.forward(x));
        self.attnpool.forward(channels_first(x))
    }

    /// Features `[n, d]` from the output of the first `blocks` blocks, `[n, c, h, w]`.
    pub(crate) fn after(&self, blocks: usize, x: Tensor<4>) -> Tensor<2> {
        let last = self.blocks().skip(blocks).fold(channels_last(x), |x, block| block.forward(x));
        self.attnpool.forward(channels_first(last))
    }
}

impl AttentionPool {
    /// Attention over so many pixels of `from` channels.
    fn new([from, to]: [usize; 2], pixels: usize, weights: &mut dyn WeightSource, device: &Device) -> Self {
        let std = (1.0 / from as f32).sqrt();
        let mut linear = |to: usize| {
            let mut layer = LinearConfig::new(from, to).with_initializer(Initializer::Zeros).init(device);
            layer.weight = normal([from, to], std, weights, device);
            layer
        };
        let [k_proj, q_proj, v_proj, c_proj] = [linear(from), linear(from), linear(from), linear(to)];
        let positional_embedding = normal([pixels + 1, from], std, weights, device);
        Self { positional_embedding, k_proj, q_proj, v_proj, c_proj }
    }

    /// Features `[n, d]` of `[n, c, h, w]`.
    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let pixels = x.flatten::<3>(2, 3).swap_dims(1, 2);
        let tokens = Tensor::cat(vec![pixels.clone().mean_dim(1), pixels], 1);
        let tokens = tokens + self.positional_embedding.val().unsqueeze();
        let [n, count, width] = tokens.dims();
        let heads = |x: Tensor<3>| {
            let count = x.dims()[1];
            x.reshape([n, count, width / HEAD, HEAD]).swap_dims(1, 2)
        };
        let query = heads(self.q_proj.forward(tokens.clone().narrow(1, 0, 1)));
        let (keys, values) = (heads(self.k_proj.forward(tokens.clone())), heads(self.v_proj.forward(tokens)));
        debug_assert_eq!(keys.dims()[2], count, "a key for each token");
        let mixed = attend(query, keys, values).swap_dims(1, 2).reshape([n, width]);
        self.c_proj.forward(mixed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{self, Backend};
    use crate::network::Arch;
    use crate::resnet::Folded;
    use crate::weights::Weights;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn build(name: &str, size: usize) -> ClipResNet {
        let device = device::open(Backend::default()).unwrap();
        ClipResNet::new(name.parse().unwrap(), [size; 2], &mut ChaCha8Rng::seed_from_u64(1), &device)
    }

    #[test]
    fn names_round_trip_and_errors_say_what_is_valid() {
        for name in ["clip-resnet50", "clip-resnet101-w8", "clip-resnet50x4 projection=7", "clip-resnet50x64-w2"] {
            assert_eq!(name.parse::<Arch>().unwrap().to_string(), name);
        }
        assert_eq!("clip-resnet50-w64 projection=1024".parse::<Arch>().unwrap().to_string(), "clip-resnet50");
        for (name, expected) in [
            ("clip-resnet18", "unknown architecture `clip-resnet18`: `resnet18` is none of `resnet50`, `resnet101`"),
            ("clip-resnet50-w3", "`-w3` is no width; expected `-w` and an even number from 2 to 256"),
            ("clip-resnet50-imagenet", "`-imagenet` is no width"),
            ("clip-resnet50 heads=2", "`heads=2` is no field; expected `projection=` and a number from 1 to 16384"),
            ("clip-resnet50 projection=0", "`projection=0` is no field"),
        ] {
            let message = name.parse::<Arch>().unwrap_err().to_string();
            assert!(message.contains(expected), "{name}: {message}");
        }
    }

    /// OpenCLIP's image towers of these names, without `num_batches_tracked`: `sum(p.numel() for p in
    /// open_clip.create_model(name).visual.parameters())`, at 224 and 288 pixels.
    #[test]
    fn parameter_counts_are_those_of_open_clip() {
        for (name, size, count) in [
            ("clip-resnet50", 224, 38_316_896),
            ("clip-resnet101", 224, 56_259_936),
            ("clip-resnet50x4", 288, 87_137_080),
        ] {
            let weights = Weights::collect(&build(name, size)).0;
            let trained = weights.iter().filter(|(name, _)| !name.contains("running_"));
            assert_eq!(trained.map(|(_, weight)| weight.values.len()).sum::<usize>(), count, "{name}");
        }
    }

    #[test]
    fn folding_changes_nothing() {
        let net = build("clip-resnet50-w4 projection=8", 32).valid();
        let device = device::open(Backend::default()).unwrap();
        let pixels = (0..2 * 3 * 32 * 32).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect::<Vec<_>>();
        let images = Tensor::<1>::from_floats(&*pixels, &device).reshape([2, 3, 32, 32]);
        let expected = net.forward(images.clone());
        let largest = expected.clone().abs().max().into_scalar::<f32>();
        let off = (Folded::of_clip(&net).forward(images) - expected).abs().max().into_scalar::<f32>();
        assert!(largest > 1e-3 && off < 1e-5 * largest, "{off} of {largest}");
    }
}
