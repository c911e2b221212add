//! The layers of residual networks, by burn's operations.

use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::{AvgPool2dConfig, MaxPool2dConfig};
use burn::nn::{BatchNorm, Initializer, PaddingConfig2d};
use burn::tensor::{Device, Tensor, s};

use crate::initial::{WeightSource, normal};

// Between convolutions, a network computes with `[n, h, w, c]`, the layout that convolutions have in memory on a GPU:
// burn does not fuse operations on another layout.

/// Permutes `[n, c, h, w]` to `[n, h, w, c]`.
pub(crate) fn channels_last(x: Tensor<4>) -> Tensor<4> {
    x.permute([0, 2, 3, 1])
}

/// Permutes `[n, h, w, c]` to `[n, c, h, w]`.
pub(crate) fn channels_first(x: Tensor<4>) -> Tensor<4> {
    x.permute([0, 3, 1, 2])
}

/// A convolution of `[n, h, w, c]`.
pub(crate) fn convolved(conv: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    channels_last(conv.forward(channels_first(x)))
}

/// A batch norm of `[n, h, w, c]`. burn copies to channels first and sums over rows. Without the copy it would sum over
/// columns, by a kernel that takes twice as long as copy and sums together.
pub(crate) fn normalised(norm: &BatchNorm, x: Tensor<4>) -> Tensor<4> {
    channels_last(norm.forward(channels_first(x)))
}

/// The option A shortcut of `[n, h, w, c]` to `to` channels. If these are more than c, it takes every second pixel and
/// pads with channels of zeros, half of them before and half after the old ones. Otherwise it is the identity.
pub(super) fn pad_channels(x: Tensor<4>, to: usize) -> Tensor<4> {
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
pub(super) fn pooled(x: Tensor<4>) -> Tensor<4> {
    let padding = PaddingConfig2d::Explicit(1, 1, 1, 1);
    let pool = MaxPool2dConfig::new([3, 3]).with_strides([2, 2]).with_padding(padding).init();
    channels_last(pool.forward(channels_first(x)))
}

/// 2x2 average pooling of stride 2 of `[n, h, w, c]`.
pub(crate) fn averaged(x: Tensor<4>) -> Tensor<4> {
    channels_last(AvgPool2dConfig::new([2, 2]).with_strides([2, 2]).init().forward(channels_first(x)))
}

/// The mean of every channel over the image (global average pooling): `[n, c, h, w]` to `[n, c]`.
pub(super) fn pool(x: Tensor<4>) -> Tensor<2> {
    x.flatten::<3>(2, 3).mean_dim(2).squeeze_dim::<2>(2)
}

/// A convolution without bias, whose padding keeps the image size if the stride is 1.
pub(crate) fn conv(
    [from, to]: [usize; 2],
    kernel: usize,
    stride: usize,
    weights: &mut dyn WeightSource,
    device: &Device,
) -> Conv2d {
    let pad = kernel / 2;
    let mut conv = Conv2dConfig::new([from, to], [kernel; 2])
        .with_stride([stride; 2])
        .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
        .with_bias(false)
        .with_initializer(Initializer::Zeros)
        .init(device);
    let std = (2.0 / (to * kernel * kernel) as f32).sqrt();
    conv.weight = normal([to, from, kernel, kernel], std, weights, device);
    conv
}
