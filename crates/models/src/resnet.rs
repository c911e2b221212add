//! CIFAR ResNets, and the ResNets of torchvision with three stems, with the parameter names of PyTorch.
//!
//! He et al., "Deep residual learning for image recognition" (2016).
//!
//! - `resnet8` to `resnet1202`, of 6 n + 2 layers, are the CIFAR networks of section 4.2: three groups of n blocks,
//!   with shortcuts that have no parameters (option A). With `-b`, a shortcut to more channels is a projection (option
//!   B).
//! - `resnet18`, `resnet34`, `resnet50`, `resnet101` and `resnet152` are the ImageNet networks of table 1 with
//!   projection shortcuts. As in torchvision, the stride of a bottleneck is at its 3x3 convolution. Their stem is the
//!   usual one for small images, a 3x3 convolution without pooling; with `-pool`, 3x3 max pooling of stride 2 follows;
//!   with `-imagenet` it is that of the paper, a 7x7 convolution of stride 2 and max pooling.
//! - `-wide` doubles the channels of the 3x3 convolutions in bottlenecks: `resnet50-imagenet-wide` is torchvision's
//!   `wide_resnet50_2` (Zagoruyko & Komodakis, "Wide residual networks", 2016).

mod folded;

pub(crate) use folded::Folded;

use std::fmt;
use std::str::FromStr;

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::MaxPool2dConfig;
use burn::nn::{BatchNorm, BatchNormConfig, Initializer, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData, s};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// An architecture. It is written as its depth, its stem or shortcuts, and its widths, if these are not the usual ones:
/// `resnet20`, `resnet20-b`, `resnet20-w8` if its first group has 8 channels, or `resnet50-imagenet-wide`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResNetArch {
    depth: Depth,
    width: usize,
    stem: Stem,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stem {
    /// A 3x3 convolution.
    Small,
    /// A 3x3 convolution, and max pooling of stride 2.
    Pooled,
    /// A 7x7 convolution of stride 2, and max pooling of stride 2.
    ImageNet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Depth {
    /// Three groups of `blocks` blocks each.
    Cifar { blocks: usize, shortcuts: Shortcuts },
    /// Four groups, with projection shortcuts.
    ImageNet { depth: usize, blocks: [usize; 4], block: Block },
}

/// What leads to more channels beside the blocks of a CIFAR network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Shortcuts {
    /// Option A: every second pixel, padded with channels of zeros.
    Padding,
    /// Option B: a convolution and a batch norm.
    Projection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Block {
    /// Two 3x3 convolutions.
    Basic,
    /// A 3x3 convolution between two of 1x1, with four times its channels outside.
    Bottleneck,
    /// The same with twice its channels outside.
    Wide,
}

/// A text that begins as the name of a residual network, and is none.
#[derive(Debug, thiserror::Error)]
pub enum ResNetArchError {
    /// No network has this depth.
    #[error("`{0}` is no depth; expected 18, 34, 50, 101 or 152, or, for a CIFAR network, 6 n + 2 from 8 to 1202")]
    Depth(String),
    /// Networks of this depth have no such variant.
    #[error("`-{suffix}` is for {of}")]
    Variant {
        /// The suffix that asks for the variant.
        suffix: &'static str,
        /// The networks that have it.
        of: &'static str,
    },
    /// The first width is no number, or out of range.
    #[error("`-{0}` is no width; expected `-w` and a multiple of 4 from 4 to 256")]
    Width(String),
    /// The suffix is unknown, or at the wrong place.
    #[error("`-{0}` is unexpected here; the suffixes are, in this order, `-imagenet`, `-pool` or `-b`, `-wide`, `-wN`")]
    Suffix(String),
}

/// Where a name's `-pool` and `-imagenet` fit, and where its `-b` does.
const TORCHVISION: &str = "`resnet18`, `resnet34`, `resnet50`, `resnet101` and `resnet152`";
const CIFAR: &str = "the CIFAR networks, such as `resnet20`";

impl Depth {
    /// The networks of torchvision.
    const IMAGENET: [Self; 5] = [
        Self::ImageNet { depth: 18, blocks: [2, 2, 2, 2], block: Block::Basic },
        Self::ImageNet { depth: 34, blocks: [3, 4, 6, 3], block: Block::Basic },
        Self::ImageNet { depth: 50, blocks: [3, 4, 6, 3], block: Block::Bottleneck },
        Self::ImageNet { depth: 101, blocks: [3, 4, 23, 3], block: Block::Bottleneck },
        Self::ImageNet { depth: 152, blocks: [3, 8, 36, 3], block: Block::Bottleneck },
    ];

    /// The network of so many layers: of 50 and 152, torchvision's and not that for CIFAR.
    fn of(layers: usize) -> Option<Self> {
        let cifar = || {
            let blocks = layers.checked_sub(2)? / 6;
            let made = Self::Cifar { blocks, shortcuts: Shortcuts::Padding };
            (made.layers() == layers && (1..=200).contains(&blocks)).then_some(made)
        };
        Self::IMAGENET.into_iter().find(|depth| depth.layers() == layers).or_else(cifar)
    }

    /// Number of convolutions on the way through all blocks, and the classifier.
    fn layers(self) -> usize {
        match self {
            Self::Cifar { blocks, .. } => 6 * blocks + 2,
            Self::ImageNet { depth, .. } => depth,
        }
    }

    fn default_width(self) -> usize {
        match self {
            Self::Cifar { .. } => 16,
            Self::ImageNet { .. } => 64,
        }
    }

    /// Number of blocks of each group.
    fn groups(self) -> Vec<usize> {
        match self {
            Self::Cifar { blocks, .. } => vec![blocks; 3],
            Self::ImageNet { blocks, .. } => blocks.to_vec(),
        }
    }

    fn block(self) -> Block {
        match self {
            Self::Cifar { .. } => Block::Basic,
            Self::ImageNet { block, .. } => block,
        }
    }

    /// Whether a shortcut to another number of channels is a projection.
    fn projects(self) -> bool {
        !matches!(self, Self::Cifar { shortcuts: Shortcuts::Padding, .. })
    }
}

impl Block {
    /// Channels of the 3x3 convolutions and of the output, divided by the width of the group.
    fn factors(self) -> [usize; 2] {
        match self {
            Self::Basic => [1, 1],
            Self::Bottleneck => [1, 4],
            Self::Wide => [2, 4],
        }
    }
}

impl ResNetArch {
    /// Number of features, d: the channels of the last group, averaged over the image.
    #[must_use]
    pub fn feature_dim(self) -> usize {
        (self.width << (self.depth.groups().len() - 1)) * self.depth.block().factors()[1]
    }

    /// A lower bound of the numbers that a forward pass holds at once, for one image of `[height, width]`: the stem's
    /// output.
    pub(crate) fn held(self, [height, width]: [usize; 2]) -> f64 {
        let stride = if self.stem == Stem::ImageNet { 2 } else { 1 };
        self.width as f64 * (height / stride) as f64 * (width / stride) as f64
    }

    /// The numbers that the forward cache of a training step holds for one image of `[height, width]`: the outputs of
    /// all convolutions.
    pub(crate) fn kept(self, size: [usize; 2]) -> f64 {
        let (mut area, mut kept) = (size.map(|side| side as f64), 0.0);
        let halve = |area: &mut [f64; 2]| *area = area.map(|side| (side / 2.0).ceil());
        if self.stem == Stem::ImageNet {
            halve(&mut area);
        }
        kept += self.width as f64 * area[0] * area[1];
        if self.stem != Stem::Small {
            halve(&mut area);
        }
        let [inner, outer] = self.depth.block().factors();
        let channels = if outer > 1 { 2 * inner + outer } else { 2 };
        for (group, blocks) in self.depth.groups().into_iter().enumerate() {
            if group > 0 {
                halve(&mut area);
            }
            kept += (blocks * channels * (self.width << group)) as f64 * area[0] * area[1];
        }
        kept
    }
}

impl Default for ResNetArch {
    /// `resnet20`.
    fn default() -> Self {
        let depth = Depth::Cifar { blocks: 3, shortcuts: Shortcuts::Padding };
        Self { depth, width: depth.default_width(), stem: Stem::Small }
    }
}

impl FromStr for ResNetArch {
    type Err = ResNetArchError;

    fn from_str(s: &str) -> Result<Self, ResNetArchError> {
        let mut parts = s.strip_prefix("resnet").unwrap_or_default().split('-').peekable();
        let layers = parts.next().unwrap_or_default();
        let digits = !layers.starts_with('0') && layers.bytes().all(|byte| byte.is_ascii_digit());
        let known = layers.parse().ok().filter(|_| digits).and_then(Depth::of);
        let mut depth = known.ok_or_else(|| ResNetArchError::Depth(layers.to_owned()))?;
        let mut next = |suffix: &str| parts.next_if_eq(&suffix).is_some();
        let unfit = |suffix, of| Err(ResNetArchError::Variant { suffix, of });

        let stem = match &mut depth {
            Depth::ImageNet { .. } if next("imagenet") => Stem::ImageNet,
            Depth::ImageNet { .. } if next("pool") => Stem::Pooled,
            Depth::ImageNet { .. } if next("b") => return unfit("b", CIFAR),
            Depth::Cifar { .. } if next("imagenet") => return unfit("imagenet", TORCHVISION),
            Depth::Cifar { .. } if next("pool") => return unfit("pool", TORCHVISION),
            Depth::Cifar { shortcuts, .. } if next("b") => {
                *shortcuts = Shortcuts::Projection;
                Stem::Small
            }
            _ => Stem::Small,
        };
        if next("wide") {
            match &mut depth {
                Depth::ImageNet { block: block @ Block::Bottleneck, .. } => *block = Block::Wide,
                _ => return unfit("wide", "`resnet50`, `resnet101` and `resnet152`"),
            }
        }
        let width = match parts.next_if(|part| part.starts_with('w') && *part != "wide") {
            Some(part) => {
                let width = part[1..].parse().ok().filter(|w: &usize| (4..=256).contains(w) && w.is_multiple_of(4));
                width.ok_or_else(|| ResNetArchError::Width(part.to_owned()))?
            }
            None => depth.default_width(),
        };
        match parts.next() {
            Some(part) => Err(ResNetArchError::Suffix(part.to_owned())),
            None => Ok(Self { depth, width, stem }),
        }
    }
}

impl fmt::Display for ResNetArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variant = match (self.stem, self.depth) {
            (Stem::ImageNet, _) => "-imagenet",
            (Stem::Pooled, _) => "-pool",
            (Stem::Small, Depth::Cifar { shortcuts: Shortcuts::Projection, .. }) => "-b",
            (Stem::Small, _) => "",
        };
        let wide = if self.depth.block() == Block::Wide { "-wide" } else { "" };
        let width = if self.width == self.depth.default_width() { String::new() } else { format!("-w{}", self.width) };
        f.pad(&format!("resnet{}{variant}{wide}{width}", self.depth.layers()))
    }
}

/// A residual network without its classifier: images `[n, 3, h, w]` in, features `[n, d]` out.
#[derive(Module, Debug)]
pub struct ResNet {
    conv1: Conv2d,
    bn1: BatchNorm,
    layer1: Vec<ResidualBlock>,
    layer2: Vec<ResidualBlock>,
    layer3: Vec<ResidualBlock>,
    /// Empty in the CIFAR networks.
    layer4: Vec<ResidualBlock>,
    /// Whether max pooling follows the stem's convolution.
    #[module(skip)]
    pub(crate) pools: bool,
    #[cfg(feature = "flex")]
    #[module(skip)]
    pub(crate) pool: crate::training::Pool,
}

/// A residual block: two 3x3 convolutions (figure 2 of the paper), or a 3x3 convolution between two of 1x1 (figure 5),
/// and a shortcut.
#[derive(Module, Debug)]
pub(crate) struct ResidualBlock {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
    conv3: Option<Conv2d>,
    bn3: Option<BatchNorm>,
    downsample: Option<(Conv2d, BatchNorm)>,
}

impl ResNet {
    /// A network whose convolutions have Kaiming normal weights (fan-out), drawn from `rng` in the order of the layers,
    /// and whose batch norms are the identity up to the normalisation.
    #[must_use]
    pub fn new(arch: ResNetArch, rng: &mut ChaCha8Rng, device: &Device) -> Self {
        let (kernel, stride) = if arch.stem == Stem::ImageNet { (7, 2) } else { (3, 1) };
        let conv1 = conv([3, arch.width], kernel, stride, rng, device);
        let bn1 = BatchNormConfig::new(arch.width).init(device);
        let mut channels = arch.width;
        let mut layers = arch.depth.groups().into_iter().enumerate().map(|(g, n)| {
            let [width, made] = arch.depth.block().factors().map(|factor| (arch.width << g) * factor);
            let blocks = (0..n).map(|b| {
                let stride = if g > 0 && b == 0 { 2 } else { 1 };
                let project = channels != made && arch.depth.projects();
                let block = ResidualBlock::new([channels, width, made], stride, project, rng, device);
                channels = made;
                block
            });
            blocks.collect::<Vec<_>>()
        });
        let mut layer = || layers.next().unwrap_or_default();
        Self {
            layer1: layer(),
            layer2: layer(),
            layer3: layer(),
            layer4: layer(),
            conv1,
            bn1,
            pools: arch.stem != Stem::Small,
            #[cfg(feature = "flex")]
            pool: Default::default(),
        }
    }

    /// The first convolution.
    pub(crate) fn stem(&self) -> (&Conv2d, &BatchNorm) {
        (&self.conv1, &self.bn1)
    }

    /// All blocks, in order.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = &ResidualBlock> {
        [&self.layer1, &self.layer2, &self.layer3, &self.layer4].into_iter().flatten()
    }

    /// All convolutions with their batch norms: the stem, then, for each block, its path and its projection.
    #[cfg(feature = "flex")]
    pub(crate) fn layers(&self) -> impl Iterator<Item = (&Conv2d, &BatchNorm)> {
        let blocks = self.blocks().flat_map(ResidualBlock::layers);
        std::iter::once(self.stem()).chain(blocks)
    }

    /// Features `[n, d]` of normalised images `[n, 3, h, w]`.
    #[must_use]
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        #[cfg(feature = "flex")]
        if let Some(features) = crate::training::forward(self, &images) {
            return features;
        }
        self.forward_by_layers(images)
    }

    /// Features `[n, d]` from the input of the last block, `[n, c, h, w]`.
    pub(crate) fn last_block(&self, x: Tensor<4>) -> Tensor<2> {
        #[cfg(feature = "flex")]
        if let Some(features) = crate::training::last_block(self, &x) {
            return features;
        }
        self.last_block_by_layers(x)
    }

    /// [`ResNet::last_block`] by burn's operations.
    pub(crate) fn last_block_by_layers(&self, x: Tensor<4>) -> Tensor<2> {
        pool(match self.blocks().last() {
            Some(block) => channels_first(block.forward(channels_last(x))),
            None => x,
        })
    }

    /// [`ResNet::forward`] by burn's operations.
    pub(crate) fn forward_by_layers(&self, images: Tensor<4>) -> Tensor<2> {
        let (conv, norm) = self.stem();
        let mut x = relu(normalised(norm, convolved(conv, channels_last(images))));
        if self.pools {
            x = pooled(x);
        }
        for block in self.blocks() {
            x = block.forward(x);
        }
        pool(channels_first(x))
    }
}

impl ResidualBlock {
    /// A block from `from` to `to` channels, whose 3x3 convolutions have `width` channels.
    fn new([from, width, to]: [usize; 3], stride: usize, project: bool, rng: &mut ChaCha8Rng, device: &Device) -> Self {
        let norm = |channels: usize| BatchNormConfig::new(channels).init(device);
        let bottleneck = to != width;
        let [first, second] = if bottleneck { [(1, 1), (3, stride)] } else { [(3, stride), (3, 1)] };
        Self {
            conv1: conv([from, width], first.0, first.1, rng, device),
            bn1: norm(width),
            conv2: conv([width, width], second.0, second.1, rng, device),
            bn2: norm(width),
            conv3: bottleneck.then(|| conv([width, to], 1, 1, rng, device)),
            bn3: bottleneck.then(|| norm(to)),
            downsample: project.then(|| (conv([from, to], 1, stride, rng, device), norm(to))),
        }
    }

    /// The convolutions of the residual path, with their batch norms.
    pub(crate) fn path(&self) -> impl Iterator<Item = (&Conv2d, &BatchNorm)> {
        let third = self.conv3.as_ref().zip(self.bn3.as_ref());
        [(&self.conv1, &self.bn1), (&self.conv2, &self.bn2)].into_iter().chain(third)
    }

    /// All convolutions with their batch norms: those of the path, then that of the shortcut.
    #[cfg(feature = "flex")]
    pub(crate) fn layers(&self) -> impl Iterator<Item = (&Conv2d, &BatchNorm)> {
        self.path().chain(self.projection())
    }

    /// The convolution of the shortcut and its batch norm, if it is a projection.
    pub(crate) fn projection(&self) -> Option<(&Conv2d, &BatchNorm)> {
        self.downsample.as_ref().map(|(conv, norm)| (conv, norm))
    }

    /// The output `[n, h, w, c]` for an input `[n, h, w, c]`.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let layer = |conv, norm, x| normalised(norm, convolved(conv, x));
        let shortcut = match &self.downsample {
            Some((conv, norm)) => layer(conv, norm, x.clone()),
            None => pad_channels(x.clone(), self.bn3.as_ref().unwrap_or(&self.bn2).beta.dims()[0]),
        };
        let path = self.path().enumerate();
        let y = path.fold(x, |x, (i, (conv, norm))| layer(conv, norm, if i > 0 { relu(x) } else { x }));
        relu(y + shortcut)
    }
}

// Between convolutions, a network computes with `[n, h, w, c]`, the layout that convolutions have in memory on a GPU:
// burn does not fuse operations on another layout.

/// Permutes `[n, c, h, w]` to `[n, h, w, c]`.
fn channels_last(x: Tensor<4>) -> Tensor<4> {
    x.permute([0, 2, 3, 1])
}

/// Permutes `[n, h, w, c]` to `[n, c, h, w]`.
fn channels_first(x: Tensor<4>) -> Tensor<4> {
    x.permute([0, 3, 1, 2])
}

/// A convolution of `[n, h, w, c]`.
fn convolved(conv: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    channels_last(conv.forward(channels_first(x)))
}

/// A batch norm of `[n, h, w, c]`. burn copies to channels first and sums over rows. Without the copy it would sum over
/// columns, by a kernel that takes twice as long as copy and sums together.
fn normalised(norm: &BatchNorm, x: Tensor<4>) -> Tensor<4> {
    channels_last(norm.forward(channels_first(x)))
}

/// The option A shortcut of `[n, h, w, c]` to `to` channels. If these are more than c, it takes every second pixel and
/// pads with channels of zeros, half of them before and half after the old ones. Otherwise it is the identity.
fn pad_channels(x: Tensor<4>, to: usize) -> Tensor<4> {
    let from = x.dims()[3];
    if from == to {
        return x;
    }
    let x = x.slice(s![.., ..;2, ..;2, ..]);
    let [n, h, w, _] = x.dims();
    let zeros = Tensor::zeros([n, h, w, (to - from) / 2], &x.device());
    Tensor::cat(vec![zeros.clone(), x, zeros], 3)
}

/// 3x3 max pooling of stride 2 of `[n, h, w, c]`.
fn pooled(x: Tensor<4>) -> Tensor<4> {
    let padding = PaddingConfig2d::Explicit(1, 1, 1, 1);
    let pool = MaxPool2dConfig::new([3, 3]).with_strides([2, 2]).with_padding(padding).init();
    channels_last(pool.forward(channels_first(x)))
}

/// The mean of every channel over the image (global average pooling): `[n, c, h, w]` to `[n, c]`.
fn pool(x: Tensor<4>) -> Tensor<2> {
    x.flatten::<3>(2, 3).mean_dim(2).squeeze_dim::<2>(2)
}

/// A convolution without bias, whose padding keeps the image size if the stride is 1.
fn conv([from, to]: [usize; 2], kernel: usize, stride: usize, rng: &mut ChaCha8Rng, device: &Device) -> Conv2d {
    let pad = kernel / 2;
    let mut conv = Conv2dConfig::new([from, to], [kernel; 2])
        .with_stride([stride; 2])
        .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
        .with_bias(false)
        .with_initializer(Initializer::Zeros)
        .init(device);
    let std = (2.0 / (to * kernel * kernel) as f32).sqrt();
    conv.weight = normal([to, from, kernel, kernel], std, rng, device);
    conv
}

/// A parameter drawn from N(0, `std`^2) by the caller's generator and not by burn's global one.
pub fn normal<const D: usize>(shape: [usize; D], std: f32, rng: &mut ChaCha8Rng, device: &Device) -> Param<Tensor<D>> {
    let draws = StandardNormal.sample_iter(rng).map(|z: f32| z * std);
    let values: Vec<f32> = draws.take(shape.iter().product()).collect();
    Param::from_data(TensorData::new(values, shape), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{self, Backend};
    use crate::network::Arch;
    use crate::weights::Weights;
    use rand::SeedableRng;

    fn open() -> Device {
        device::open(Backend::default()).unwrap()
    }

    fn build(arch: &str, seed: u64) -> ResNet {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        ResNet::new(arch.parse().unwrap(), &mut rng, &open())
    }

    /// Number of trainable values.
    fn parameters(net: &ResNet) -> usize {
        let layer = |(conv, norm): (&Conv2d, &BatchNorm)| {
            conv.weight.dims().iter().product::<usize>() + 2 * norm.beta.dims()[0]
        };
        let blocks = net.blocks().flat_map(|block| block.path().chain(block.projection()));
        std::iter::once(net.stem()).chain(blocks).map(layer).sum()
    }

    #[test]
    fn names_round_trip_and_errors_list_what_is_valid() {
        for name in [
            "resnet8",
            "resnet20",
            "resnet44",
            "resnet56-w32",
            "resnet110-b",
            "resnet1202-b-w8",
            "resnet18",
            "resnet18-pool",
            "resnet34-w16",
            "resnet50",
            "resnet50-wide-w8",
            "resnet50-imagenet-w32",
            "resnet101-imagenet",
            "resnet152-pool-wide-w4",
        ] {
            assert_eq!(name.parse::<ResNetArch>().unwrap().to_string(), name);
        }
        assert_eq!("resnet20-w16".parse::<ResNetArch>().unwrap().to_string(), "resnet20");
        let depth = "is no depth; expected 18, 34, 50, 101 or 152, or, for a CIFAR network, 6 n + 2 from 8 to 1202";
        for (name, expected) in [
            ("resnet51", &*format!("unknown architecture `resnet51`: `51` {depth} (docs/pretraining.md)")),
            ("resnet", &format!("`` {depth}")),
            ("resnet2", &format!("`2` {depth}")),
            ("resnet020", &format!("`020` {depth}")),
            ("resnet1208", &format!("`1208` {depth}")),
            ("resnet99999999999999999999", depth),
            ("resnet20-imagenet", "`-imagenet` is for `resnet18`, `resnet34`, `resnet50`, `resnet101` and `resnet152`"),
            ("resnet110-pool", "`-pool` is for `resnet18`"),
            ("resnet50-b", "`-b` is for the CIFAR networks, such as `resnet20`"),
            ("resnet34-wide", "`-wide` is for `resnet50`, `resnet101` and `resnet152`"),
            ("resnet20-w", "`-w` is no width; expected `-w` and a multiple of 4 from 4 to 256"),
            ("resnet20-w0", "`-w0` is no width"),
            ("resnet20-w6", "`-w6` is no width"),
            ("resnet20-w260", "`-w260` is no width"),
            (
                "resnet18-w8-pool",
                "`-pool` is unexpected here; the suffixes are, in this order, `-imagenet`, `-pool` or",
            ),
            ("resnet50-imagenet-pool", "`-pool` is unexpected here"),
            ("resnet50-wide-wide", "`-wide` is unexpected here"),
            ("resnet20-b-", "`-` is unexpected here"),
            ("", "unknown architecture ``: expected a residual network such as `resnet20`"),
        ] {
            let message = name.parse::<Arch>().unwrap_err().to_string();
            assert!(message.contains(expected), "{name}: {message}");
        }
    }

    /// Trainable parameters as published, with a classifier: of the CIFAR networks with option A
    /// (akamaster/pytorch_resnet_cifar10) and B (chenyaofo/pytorch-cifar-models), of ResNet-18 with a 3x3 stem, and of
    /// torchvision's.
    #[test]
    fn parameter_counts_are_the_published_ones() {
        let published = [
            ("resnet20", 10, 269_722),
            ("resnet32", 10, 464_154),
            ("resnet44", 10, 658_586),
            ("resnet56", 10, 853_018),
            ("resnet110", 10, 1_727_962),
            ("resnet1202", 10, 19_421_274),
            ("resnet20-b", 10, 272_474),
            ("resnet56-b", 100, 861_620),
            ("resnet18", 10, 11_173_962),
            ("resnet18-pool", 10, 11_173_962),
            ("resnet50-imagenet", 1000, 25_557_032),
            ("resnet101-imagenet", 1000, 44_549_160),
            ("resnet152-imagenet", 1000, 60_192_808),
            ("resnet50-imagenet-wide", 1000, 68_883_240),
            ("resnet101-imagenet-wide", 1000, 126_886_696),
        ];
        for (name, classes, with_classifier) in published {
            let arch: ResNetArch = name.parse().unwrap();
            let count = parameters(&build(name, 0)) + classes * (arch.feature_dim() + 1);
            assert_eq!(count, with_classifier, "{name}");
        }
    }

    #[test]
    fn names_and_shapes_are_those_of_torchvision() {
        let weights = Weights::collect(&build("resnet18-w8", 0)).0;
        for (name, shape) in [
            ("conv1.weight", &[8, 3, 3, 3][..]),
            ("bn1.running_var", &[8]),
            ("layer1.0.bn2.weight", &[8]),
            ("layer2.0.downsample.0.weight", &[16, 8, 1, 1]),
            ("layer2.0.downsample.1.bias", &[16]),
            ("layer4.1.conv2.weight", &[64, 64, 3, 3]),
        ] {
            assert_eq!(weights[name].shape, shape, "{name}");
        }
        let bottleneck = Weights::collect(&build("resnet50-imagenet-w8", 0)).0;
        for (name, shape) in [
            ("conv1.weight", &[8, 3, 7, 7][..]),
            ("layer1.0.conv1.weight", &[8, 8, 1, 1]),
            ("layer1.0.downsample.0.weight", &[32, 8, 1, 1]),
            ("layer2.0.conv2.weight", &[16, 16, 3, 3]),
            ("layer4.2.conv3.weight", &[256, 64, 1, 1]),
            ("layer4.2.bn3.running_mean", &[256]),
        ] {
            assert_eq!(bottleneck[name].shape, shape, "{name}");
        }
        let wide = Weights::collect(&build("resnet101-wide-w4", 0)).0;
        for (name, shape) in [
            ("layer1.0.conv1.weight", &[8, 4, 1, 1][..]),
            ("layer3.22.conv2.weight", &[32, 32, 3, 3]),
            ("layer4.2.conv3.weight", &[128, 64, 1, 1]),
        ] {
            assert_eq!(wide[name].shape, shape, "{name}");
        }
        let option_b = Weights::collect(&build("resnet8-b-w4", 0)).0;
        assert_eq!(option_b["layer3.0.downsample.0.weight"].shape, [16, 8, 1, 1]);
        let projections: Vec<_> = option_b.keys().filter(|name| name.contains("downsample.0")).collect();
        assert_eq!(projections, ["layer2.0.downsample.0.weight", "layer3.0.downsample.0.weight"]);
        assert!(!weights.contains_key("layer1.0.downsample.0.weight"));
    }

    #[test]
    fn features_have_the_dimension_of_the_architecture() {
        for arch in [
            "resnet8-w4",
            "resnet44-b-w4",
            "resnet18-w4",
            "resnet18-pool-w4",
            "resnet50-wide-w4",
            "resnet18-imagenet-w4",
        ] {
            let net = build(arch, 0).valid();
            let y = net.forward(Tensor::ones([2, 3, 16, 16], &open()));
            assert_eq!(y.dims(), [2, arch.parse::<ResNetArch>().unwrap().feature_dim()], "{arch}");
        }
    }

    #[test]
    fn the_seed_decides_the_initial_values() {
        let weights = |seed| Weights::collect(&build("resnet8", seed));
        assert_eq!(weights(7), weights(7));
        assert_ne!(weights(7), weights(8));
        let conv = &weights(7).0["layer3.0.conv2.weight"].values;
        let square: f32 = conv.iter().map(|v| v * v).sum();
        let variance = square / conv.len() as f32;
        let kaiming = 2.0 / (64.0 * 9.0);
        // 36,864 draws: the standard error of the variance is 0.7 %.
        assert!((variance / kaiming - 1.0).abs() < 0.04, "{variance}");
    }

    #[test]
    fn option_a_takes_every_second_pixel_and_pads_channels_on_both_sides() {
        let device = open();
        let x = Tensor::<1>::from_floats(
            [1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15., 16., 17., 18.],
            &device,
        );
        let y = channels_first(pad_channels(channels_last(x.reshape([1, 2, 3, 3])), 4));
        assert_eq!(y.dims(), [1, 4, 2, 2]);
        assert_eq!(
            y.into_data().try_to_vec::<f32>().unwrap(),
            [0., 0., 0., 0., 1., 3., 7., 9., 10., 12., 16., 18., 0., 0., 0., 0.]
        );
    }

    /// A network in inference mode whose batch norms are far from their identity.
    fn trained(arch: &str) -> ResNet {
        let net = build(arch, 3);
        let mut weights = Weights::collect(&net);
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        for (name, weight) in &mut weights.0 {
            let spread = if name.contains("running_var") { 0.3 } else { 0.5 };
            if name.contains("bn") || name.contains("downsample.1") {
                for value in &mut weight.values {
                    let z: f32 = StandardNormal.sample(&mut rng);
                    *value += spread * z.clamp(-2.0, 2.0);
                }
            }
        }
        weights.load(build(arch, 0)).unwrap().valid()
    }

    #[test]
    fn folding_changes_nothing() {
        for arch in ["resnet8-w4", "resnet8-b-w4", "resnet18-w4", "resnet18-pool-w4", "resnet50-imagenet-w4"] {
            let net = trained(arch);
            let images = Tensor::<1>::from_floats(
                std::array::from_fn::<f32, { 2 * 3 * 8 * 8 }, _>(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0),
                &open(),
            )
            .reshape([2, 3, 8, 8]);
            let expected = net.forward(images.clone());
            let largest = expected.clone().abs().max().into_scalar::<f32>();
            let off = (Folded::new(&net).forward(images) - expected).abs().max().into_scalar::<f32>();
            assert!(largest > 0.1 && off < 1e-5 * largest, "{arch}: {off} of {largest}");
        }
    }
}
