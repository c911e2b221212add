//! Frozen residual networks, with the batch norms folded into the convolutions.

use burn::module::{Module, Param};
use burn::nn::conv::Conv2d;
use burn::nn::{BatchNorm, PaddingConfig2d};
use burn::tensor::Tensor;
use burn::tensor::activation::relu;

use super::{ResNet, ResidualBlock, channels_first, channels_last, convolved, pad_channels, pool, pooled};
use crate::clip_resnet::{AttentionPool, ClipResNet};

/// A frozen network, with every batch norm folded into the convolution before it, and 2x2 average pooling into those
/// after it: the same map in fewer operations.
#[derive(Clone, Debug)]
pub(crate) struct Folded {
    pub(crate) stem: Vec<Conv2d>,
    /// Whether max pooling follows the stem.
    pub(crate) pools: bool,
    pub(crate) blocks: Vec<FoldedBlock>,
    /// What makes features of the output of the last block; `None` is the mean over the image.
    pub(crate) attention: Option<AttentionPool>,
}

#[derive(Clone, Debug)]
pub(crate) struct FoldedBlock {
    pub(crate) path: Vec<Conv2d>,
    pub(crate) downsample: Option<Conv2d>,
}

impl FoldedBlock {
    fn new(block: &ResidualBlock) -> Self {
        let mut path: Vec<Conv2d> = block.path().map(|(conv, norm)| fold(conv, norm)).collect();
        let mut downsample = block.projection().map(|(conv, norm)| fold(conv, norm));
        if block.averages {
            path.last_mut().into_iter().chain(&mut downsample).for_each(fold_average);
        }
        Self { path, downsample }
    }

    /// Number of input and of output channels.
    pub(crate) fn channels(&self) -> [usize; 2] {
        let [first, last] = [0, self.path.len() - 1].map(|i| self.path[i].weight.dims());
        [first[1], last[0]]
    }
}

impl Folded {
    /// Folds a network in inference mode ([`Module::valid`]).
    pub(crate) fn new(net: &ResNet) -> Self {
        let blocks = net.blocks().map(FoldedBlock::new).collect();
        Self { stem: vec![fold(&net.conv1, &net.bn1)], pools: net.pools, blocks, attention: None }
    }

    /// Folds a network of CLIP in inference mode.
    pub(crate) fn of_clip(net: &ClipResNet) -> Self {
        let stem = net.stem().map(|(conv, norm)| fold(conv, norm)).to_vec();
        let mut blocks: Vec<FoldedBlock> = net.blocks().map(FoldedBlock::new).collect();
        // The pooling of the stem is read by both ways of the first block, which begin with convolutions of 1x1.
        if let Some(FoldedBlock { path, downsample }) = blocks.first_mut() {
            path.first_mut().into_iter().chain(downsample).for_each(fold_average);
        }
        Self { stem, pools: false, blocks, attention: Some(net.attention().clone()) }
    }

    /// Features `[n, d]` of normalised images `[n, 3, h, w]`.
    pub(crate) fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let last = self.activations(images);
        match &self.attention {
            Some(attention) => attention.forward(last),
            None => pool(last),
        }
    }

    /// The output of the last block, `[n, c, h, w]`, for normalised images `[n, 3, h, w]`.
    pub(crate) fn activations(&self, images: Tensor<4>) -> Tensor<4> {
        let mut x = self.stem.iter().fold(channels_last(images), |x, conv| relu(convolved(conv, x)));
        if self.pools {
            x = pooled(x);
        }
        for block @ FoldedBlock { path, downsample } in &self.blocks {
            let shortcut = match downsample {
                Some(conv) => convolved(conv, x.clone()),
                None => pad_channels(x.clone(), block.channels()[1]),
            };
            let path = path.iter().enumerate();
            let y = path.fold(x, |x, (i, conv)| convolved(conv, if i > 0 { relu(x) } else { x }));
            x = relu(y + shortcut);
        }
        channels_first(x)
    }
}

/// Folds a batch norm, with its running statistics, into the convolution before it.
fn fold(conv: &Conv2d, norm: &BatchNorm) -> Conv2d {
    let scale = norm.gamma.val() / (norm.running_var.value() + norm.epsilon).sqrt();
    let bias = norm.beta.val() - norm.running_mean.value() * scale.clone();
    let channels = scale.dims()[0];
    let weight = conv.weight.val() * scale.reshape([channels, 1, 1, 1]);
    let mut folded = conv.clone();
    folded.weight = Param::from_tensor(weight).no_grad();
    folded.bias = Some(Param::from_tensor(bias).no_grad());
    folded
}

/// Folds 2x2 average pooling of stride 2 into the convolution of 1x1 after it: together they are a convolution of 2x2
/// whose weights are a quarter each.
fn fold_average(conv: &mut Conv2d) {
    let weight = conv.weight.val().repeat(&[1, 1, 2, 2]) / 4.0;
    conv.weight = Param::from_tensor(weight).no_grad();
    (conv.kernel_size, conv.stride, conv.padding) = ([2, 2], [2, 2], PaddingConfig2d::Explicit(0, 0, 0, 0));
}
