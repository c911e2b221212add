//! The first blocks of a frozen network, for training the rest alone.

use burn::tensor::{Device, Tensor, TensorData};

use crate::convnext::ConvNext;
use crate::device::runs_on_rayon;
use crate::extractor::{ExtractError, Extractor, ExtractorSpec, Needs};
use crate::network::Network;
use crate::resnet::Folded;
use crate::resnet::frozen::FoldedNetwork;
use crate::tiles::on_device;
use crate::vit::Vit;

/// Images of one tile on the processor: few, so that half a training batch keeps several threads busy.
const TILE: usize = 16;

/// The stem and the first blocks of an extractor, frozen, with the running statistics in their batch norms.
///
/// [`Network::after`] computes features from its output. If all blocks are frozen, its output are the features.
#[derive(Clone, Debug)]
pub struct BackbonePrefix {
    spec: ExtractorSpec,
    kernels: Kernels,
    /// Number of blocks.
    blocks: usize,
    device: Device,
}

/// What computes, as in [`Extractor`]. Convolutional networks end after the frozen blocks.
#[derive(Clone, Debug)]
enum Kernels {
    Vit(Box<Vit>),
    ConvNext(Box<ConvNext>),
    Folded(Box<Folded>),
    Own(Box<FoldedNetwork>),
}

impl BackbonePrefix {
    /// The first `blocks` blocks of `extractor`, or all of them if it has fewer.
    ///
    /// # Errors
    /// [`ExtractError::NoNetwork`] if the extractor is a child process.
    pub fn new(extractor: &Extractor, blocks: usize) -> Result<Self, ExtractError> {
        let beginning = |mut folded: Folded| {
            folded.blocks.truncate(blocks);
            if runs_on_rayon(extractor.device()) {
                Kernels::Own(Box::new(FoldedNetwork::new(&folded, extractor.device())))
            } else {
                Kernels::Folded(Box::new(folded))
            }
        };
        let kernels = match extractor.network()? {
            Network::ResNet(net) => beginning(Folded::new(net)),
            Network::ClipResNet(net) => beginning(Folded::of_clip(net)),
            Network::ConvNext(net) => Kernels::ConvNext(Box::new(net.clone())),
            Network::Vit(net) => Kernels::Vit(Box::new(net.clone())),
        };
        let spec = extractor.spec()?.clone();
        Ok(Self { blocks: blocks.min(spec.arch.blocks()), spec, kernels, device: extractor.device().clone() })
    }

    /// The output of the blocks for images `[n, 3, h, w]` in `[0, 1]`: `[n, c, h, w]` of a convolutional network, or
    /// the tokens `[n, 1, tokens, width]` of a transformer; of all blocks, it is the features, `[n, d, 1, 1]`. It is
    /// computed in tiles on the threads of the current rayon pool, whose number does not change the result.
    #[must_use]
    pub fn activations(&self, pixels: &[f32]) -> Tensor<4> {
        let [height, width] = self.spec.image_size;
        let size = 3 * height * width;
        if let Kernels::Own(net) = &self.kernels {
            net.prepare(self.spec.image_size, Needs::Features);
        }
        let tiles = on_device(&self.device, pixels.len() / size, TILE, |rows| {
            let pixels = &pixels[rows.start * size..rows.end * size];
            if self.blocks == self.spec.arch.blocks() {
                let features = self.features(pixels);
                let [n, d] = features.dims();
                return Ok(features.reshape([n, d, 1, 1]));
            }
            Ok::<_, std::convert::Infallible>(match &self.kernels {
                Kernels::Own(net) => {
                    let (values, shape) = net.activations(&self.spec.normalised(pixels), [height, width]);
                    Tensor::from_data(TensorData::new(values, shape), &self.device)
                }
                Kernels::Folded(net) => net.activations(self.images(pixels)),
                Kernels::ConvNext(net) => net.before(self.blocks, self.images(pixels)),
                Kernels::Vit(net) => net.before(self.blocks, self.images(pixels)),
            })
        });
        match tiles {
            Ok(tiles) => Tensor::cat(tiles, 0),
            Err(never) => match never {},
        }
    }

    /// Features `[n, d]`, if all blocks are here.
    fn features(&self, pixels: &[f32]) -> Tensor<2> {
        match &self.kernels {
            Kernels::Own(net) => {
                let features = net.features(&self.spec.normalised(pixels), self.spec.image_size);
                let d = self.spec.arch.feature_dim();
                let shape = [features.len() / d, d];
                Tensor::from_data(TensorData::new(features, shape), &self.device)
            }
            Kernels::Folded(net) => net.forward(self.images(pixels)),
            Kernels::ConvNext(net) => net.forward(self.images(pixels)),
            Kernels::Vit(net) => net.forward(self.images(pixels)),
        }
    }

    /// Pixels as a normalised tensor `[n, 3, h, w]`.
    fn images(&self, pixels: &[f32]) -> Tensor<4> {
        let [height, width] = self.spec.image_size;
        let shape = [pixels.len() / (3 * height * width), 3, height, width];
        self.spec.normalise(Tensor::from_data(TensorData::new(pixels.to_vec(), shape), &self.device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{self, Backend};
    use crate::network::Arch;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use std::collections::BTreeSet;

    /// The prefix followed by the rest gives the extractor's features, for more images than a tile has.
    #[test]
    fn the_prefix_and_the_rest_are_the_extractor() {
        let device = device::open(Backend::default()).unwrap();
        for arch in [
            "resnet8-w4",
            "resnet8-b-w4",
            "resnet18-w4",
            "resnet18-pool-w4",
            "resnet18-pad2-w4",
            "resnet50-imagenet-w4",
            "resnet50-wide-w4",
            "vit-nano-p4-d2",
            "vit-nano-p4-d1",
            "vit-nano-p4-d4 last=3",
            "clip-resnet50-w2",
            "convnext-atto-w4",
        ] {
            let side = if arch.starts_with("clip-resnet") || arch.starts_with("convnext") { 32 } else { 8 };
            let (arch, image_size): (Arch, _) = (arch.parse().unwrap(), [side; 2]);
            let spec = ExtractorSpec { arch, image_size, mean: [0.5, 0.4, 0.3], std: [0.2, 0.25, 0.3] };
            let net = Network::new(arch, image_size, &mut ChaCha8Rng::seed_from_u64(1), &device);
            let extractor = Extractor::new(spec, &net, &device);
            let one = 3 * side * side;
            let pixels: Vec<f32> = (0..70 * one).map(|i| ((i * 37 + i / one * 101) % 256) as f32 / 255.0).collect();
            let expected = extractor.forward(&pixels).unwrap();
            let largest = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let all = arch.blocks();
            let depths = [1, all / 3, all / 2, 2 * all / 3, all - 1, all];
            for blocks in BTreeSet::from(depths).into_iter().filter(|blocks| *blocks > 0 || all == 1) {
                let activations = BackbonePrefix::new(&extractor, blocks).unwrap().activations(&pixels);
                assert_eq!(activations.dims()[0], 70);
                let rest = extractor.network().unwrap().after(blocks, activations);
                let found: Vec<f32> = rest.into_data().iter().collect();
                let off = found.iter().zip(&expected).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
                assert!(
                    found.len() == expected.len() && largest > 0.0 && off < 1e-5 * largest,
                    "{arch} after {blocks} of {all}: {off} of {largest}"
                );
            }
        }
    }
}
