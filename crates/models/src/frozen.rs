//! A frozen network on the processor, by our own kernels: features, and gradients with respect to pixels.

use burn::tensor::Device;

use crate::convnext::{self, frozen::FrozenConvNext};
use crate::extractor::Needs;
use crate::network::Network;
use crate::resnet::Folded;
use crate::resnet::frozen::{FoldedNetwork, Tape, even_tile};
use crate::vit::frozen::{FrozenVit, Pass};

/// A frozen network of any family, for images of one size.
#[derive(Debug, Clone)]
pub(crate) enum FrozenNetwork {
    ResNet(Box<FoldedNetwork>, [usize; 2]),
    Vit(FrozenVit),
    ConvNext(FrozenConvNext),
}

/// The forward cache of some images.
#[derive(Debug)]
pub(crate) enum Tapes {
    ResNet(Vec<Tape>),
    Vit(Vec<Pass>),
    ConvNext(Vec<convnext::frozen::Pass>),
}

impl FrozenNetwork {
    /// Freezes `net` for images of `[height, width]`.
    pub(crate) fn new(net: &Network, size: [usize; 2], device: &Device) -> Self {
        match net {
            Network::ResNet(net) => Self::ResNet(Box::new(FoldedNetwork::new(&Folded::new(net), device)), size),
            Network::ClipResNet(net) => Self::ResNet(Box::new(FoldedNetwork::new(&Folded::of_clip(net), device)), size),
            Network::Vit(net) => Self::Vit(FrozenVit::new(net, size, device)),
            Network::ConvNext(net) => Self::ConvNext(FrozenConvNext::new(net, size)),
        }
    }

    /// Computes, on the threads of the current rayon pool, what passes of images need and would otherwise compute when
    /// they first meet a layer.
    pub(crate) fn prepare(&self, needs: Needs) {
        if let Self::ResNet(net, size) = self {
            net.prepare(*size, needs);
        }
    }

    /// How many of `n` images a thread should pass at a time: at most `most`, and fewer if few images fill the caches.
    /// In a residual network the tile changes no image's result, so that all threads get as many.
    pub(crate) fn tile(&self, n: usize, most: usize, threads: usize) -> usize {
        match self {
            Self::ResNet(..) => even_tile(n, most, threads),
            Self::Vit(net) => net.together().min(most),
            Self::ConvNext(_) => most,
        }
    }

    /// Features `[n, d]` of normalised images `[n, 3, height, width]`.
    pub(crate) fn features(&self, images: &[f32]) -> Vec<f32> {
        match self {
            Self::ResNet(net, size) => net.features(images, *size),
            Self::Vit(net) => net.features(images),
            Self::ConvNext(net) => net.features(images),
        }
    }

    /// Features `[n, d]`, and the tapes for [`backward`](Self::backward).
    pub(crate) fn forward_cached(&self, images: &[f32]) -> (Vec<f32>, Tapes) {
        match self {
            Self::ResNet(net, size) => {
                let (features, tapes) = net.forward_cached(images, *size);
                (features, Tapes::ResNet(tapes))
            }
            Self::Vit(net) => {
                let (features, passes) = net.forward_cached(images);
                (features, Tapes::Vit(passes))
            }
            Self::ConvNext(net) => {
                let (features, passes) = net.forward_cached(images);
                (features, Tapes::ConvNext(passes))
            }
        }
    }

    /// Memory of the tape of one image, in bytes.
    pub(crate) fn cache_bytes(&self) -> usize {
        match self {
            Self::ResNet(net, size) => net.cache_bytes(*size),
            Self::Vit(net) => net.cache_bytes(),
            Self::ConvNext(net) => net.cache_bytes(),
        }
    }

    /// The gradient with respect to the normalised images, given the gradient `[n, d]` with respect to the features.
    /// `tapes` must come from the same network.
    pub(crate) fn backward(&self, tapes: Tapes, grad_features: &[f32]) -> Vec<f32> {
        match (self, tapes) {
            (Self::ResNet(net, _), Tapes::ResNet(tapes)) => net.backward(tapes, grad_features),
            (Self::Vit(net), Tapes::Vit(passes)) => net.backward(passes, grad_features),
            (Self::ConvNext(net), Tapes::ConvNext(passes)) => net.backward(passes, grad_features),
            _ => Vec::new(),
        }
    }

    /// The gradient of a scalar function of the features with respect to the normalised images.
    /// `derivative(first_row, features)` is called with the features of consecutive images and returns the gradient
    /// with respect to these.
    pub(crate) fn vjp(&self, images: &[f32], derivative: impl FnMut(usize, &[f32]) -> Vec<f32>) -> Vec<f32> {
        match self {
            Self::ResNet(net, size) => net.vjp(images, *size, derivative),
            Self::Vit(net) => net.vjp(images, derivative),
            Self::ConvNext(net) => net.vjp(images, derivative),
        }
    }
}
