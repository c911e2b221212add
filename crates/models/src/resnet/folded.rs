//! Frozen residual networks, with the batch norms folded into the convolutions.

use burn::module::{Module, Param};
use burn::nn::BatchNorm;
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;
use burn::tensor::activation::relu;

use super::{ResNet, ResidualBlock, channels_first, channels_last, convolved, pad_channels, pool, pooled};

/// A frozen network, with every batch norm folded into the convolution before it: the same map in fewer operations.
#[derive(Clone, Debug)]
pub(crate) struct Folded {
    pub(crate) conv1: Conv2d,
    /// Whether max pooling follows the stem's convolution.
    pub(crate) pools: bool,
    pub(crate) blocks: Vec<FoldedBlock>,
}

#[derive(Clone, Debug)]
pub(crate) struct FoldedBlock {
    pub(crate) path: Vec<Conv2d>,
    pub(crate) downsample: Option<Conv2d>,
}

impl FoldedBlock {
    /// Number of input and of output channels.
    pub(crate) fn channels(&self) -> [usize; 2] {
        let [first, last] = [0, self.path.len() - 1].map(|i| self.path[i].weight.dims());
        [first[1], last[0]]
    }
}

impl Folded {
    /// Folds a network in inference mode ([`Module::valid`]).
    pub(crate) fn new(net: &ResNet) -> Self {
        let block = |block: &ResidualBlock| FoldedBlock {
            path: block.path().map(|(conv, norm)| fold(conv, norm)).collect(),
            downsample: block.projection().map(|(conv, norm)| fold(conv, norm)),
        };
        Self { conv1: fold(&net.conv1, &net.bn1), pools: net.pools, blocks: net.blocks().map(block).collect() }
    }

    /// Features `[n, d]` of normalised images `[n, 3, h, w]`.
    pub(crate) fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        pool(self.activations(images))
    }

    /// The output of the last block, `[n, c, h, w]`, for normalised images `[n, 3, h, w]`.
    pub(crate) fn activations(&self, images: Tensor<4>) -> Tensor<4> {
        let mut x = relu(convolved(&self.conv1, channels_last(images)));
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
