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
//!   with `-imagenet` it is that of the paper, a 7x7 convolution of stride 2 and max pooling; with `-pad2` it is that
//!   of solo-learn for CIFAR, a 3x3 convolution with padding of two pixels.
//! - `-wide` doubles the channels of the 3x3 convolutions in bottlenecks: `resnet50-imagenet-wide` is torchvision's
//!   `wide_resnet50_2` (Zagoruyko & Komodakis, "Wide residual networks", 2016).

mod arch;
mod folded;
pub(crate) mod frozen;
mod layers;

#[cfg(test)]
mod tests;

pub use arch::{ResNetArch, ResNetArchError};
pub(crate) use folded::Folded;
pub(crate) use layers::{averaged, channels_first, channels_last, conv, convolved, normalised};

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{BatchNorm, BatchNormConfig, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};

use crate::initial::WeightSource;
use arch::Stem;
use layers::{pad_channels, pool, pooled};

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
    /// Whether 2x2 average pooling precedes the last convolution of the path and that of the shortcut, as in the
    /// networks of CLIP.
    #[module(skip)]
    pub(crate) averages: bool,
}

impl ResNet {
    /// A network whose convolutions have Kaiming normal weights (fan-out), drawn from `weights` in the order of the
    /// layers, and whose batch norms are the identity up to the normalisation.
    #[must_use]
    pub fn new(arch: ResNetArch, weights: &mut dyn WeightSource, device: &Device) -> Self {
        let (kernel, stride) = if arch.stem == Stem::ImageNet { (7, 2) } else { (3, 1) };
        let mut conv1 = conv([3, arch.width], kernel, stride, weights, device);
        if arch.stem == Stem::Padded {
            conv1.padding = PaddingConfig2d::Explicit(2, 2, 2, 2);
        }
        let bn1 = BatchNormConfig::new(arch.width).init(device);
        let mut channels = arch.width;
        let mut layers = arch.depth.groups().into_iter().enumerate().map(|(g, n)| {
            let [width, made] = arch.depth.block().factors().map(|factor| (arch.width << g) * factor);
            let blocks = (0..n).map(|b| {
                let stride = if g > 0 && b == 0 { 2 } else { 1 };
                let project = channels != made && arch.depth.projects();
                let block = ResidualBlock::new([channels, width, made], stride, project, weights, device);
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
            pools: arch.pools(),
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

    /// Features `[n, d]` from the output of the first `blocks` blocks, `[n, c, h, w]`.
    pub(crate) fn after(&self, blocks: usize, x: Tensor<4>) -> Tensor<2> {
        #[cfg(feature = "flex")]
        if let Some(features) = crate::training::after(self, blocks, &x) {
            return features;
        }
        self.after_by_layers(blocks, x)
    }

    /// [`ResNet::after`] by burn's operations.
    pub(crate) fn after_by_layers(&self, blocks: usize, x: Tensor<4>) -> Tensor<2> {
        let last = self.blocks().skip(blocks).fold(channels_last(x), |x, block| block.forward(x));
        pool(channels_first(last))
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
    pub(crate) fn new(
        [from, width, to]: [usize; 3],
        stride: usize,
        project: bool,
        weights: &mut dyn WeightSource,
        device: &Device,
    ) -> Self {
        let norm = |channels: usize| BatchNormConfig::new(channels).init(device);
        let bottleneck = to != width;
        let [first, second] = if bottleneck { [(1, 1), (3, stride)] } else { [(3, stride), (3, 1)] };
        Self {
            conv1: conv([from, width], first.0, first.1, weights, device),
            bn1: norm(width),
            conv2: conv([width, width], second.0, second.1, weights, device),
            bn2: norm(width),
            conv3: bottleneck.then(|| conv([width, to], 1, 1, weights, device)),
            bn3: bottleneck.then(|| norm(to)),
            downsample: project.then(|| (conv([from, to], 1, stride, weights, device), norm(to))),
            averages: false,
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
    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let layer = |conv, norm, x| normalised(norm, convolved(conv, x));
        let smaller = |x: Tensor<4>| if self.averages { averaged(x) } else { x };
        let shortcut = match &self.downsample {
            Some((conv, norm)) => layer(conv, norm, smaller(x.clone())),
            None => pad_channels(x.clone(), self.bn3.as_ref().unwrap_or(&self.bn2).beta.dims()[0]),
        };
        let last = self.path().count() - 1;
        let y = self.path().enumerate().fold(x, |x, (i, (conv, norm))| {
            let x = if i > 0 { relu(x) } else { x };
            layer(conv, norm, if i == last { smaller(x) } else { x })
        });
        relu(y + shortcut)
    }
}
