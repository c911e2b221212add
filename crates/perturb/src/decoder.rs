//! Decoders: networks from features to images.

use crate::{
    clean::norm,
    pass::{TILE, host},
};
use burn::{
    module::{Module, Param},
    nn::{
        Linear, LinearConfig,
        conv::{ConvTranspose2d, ConvTranspose2dConfig},
    },
    tensor::{
        Device, Tensor, TensorData,
        activation::{relu, sigmoid},
    },
};
use hemlock_artifact::DecoderArtifact;
use hemlock_models::initial::{WeightSource, Zeros, normal};
use hemlock_models::{Weights, tiles::on_device};
use hemlock_stage::{Context, StageError};
use ndarray::{Array2, Array4, ArrayView2, Axis, Slice};

/// A network from features `[n, d]` to images `[n, 3, 8 s, 8 s]` in `[0, 1]`: a linear layer to `s x s` pixels, and
/// three transposed convolutions that each double the size.
#[derive(Module, Debug)]
pub struct DecoderNetwork {
    seed: Linear,
    up1: ConvTranspose2d,
    up2: ConvTranspose2d,
    up3: ConvTranspose2d,
    channels: usize,
    side: usize,
}

impl DecoderNetwork {
    /// A network with random weights, for features of dimension `dim` and images of `8 side` x `8 side` pixels, with
    /// `width` channels in its widest layer.
    #[must_use]
    pub fn new(dim: usize, width: usize, side: usize, weights: &mut dyn WeightSource, device: &Device) -> Self {
        let mut seed = LinearConfig::new(dim, width * side * side).init(device);
        seed.weight = normal([dim, width * side * side], (2.0 / dim as f32).sqrt(), weights, device);
        seed.bias = seed.bias.map(zeros);
        let mut up = |from: usize, to: usize| {
            let config = ConvTranspose2dConfig::new([from, to], [4, 4]).with_stride([2, 2]).with_padding([1, 1]);
            let mut layer = config.init(device);
            // Every output pixel sums 2 x 2 taps of every input channel.
            layer.weight = normal([from, to, 4, 4], (2.0 / (4 * from) as f32).sqrt(), weights, device);
            layer.bias = layer.bias.map(zeros);
            layer
        };
        let (up1, up2, up3) = (up(width, width), up(width, width / 2), up(width / 2, 3));
        Self { seed, up1, up2, up3, channels: width, side }
    }

    /// A lower bound of the memory in bytes that training such a network takes, with `images` images per step: weights,
    /// gradients, two moments, and the outputs of the layers.
    #[must_use]
    pub fn bytes(dim: usize, width: usize, side: usize, images: usize) -> f64 {
        let [dim, width, places, images] = [dim, width, side * side, images].map(|n| n as f64);
        let weights = dim * width * places + 16.0 * (width * width + width * width / 2.0 + 3.0 * width / 2.0);
        // The layers have 1, 4, 16 and 64 pixels for each of the `side x side` places.
        let made = places * (width + 4.0 * width + 8.0 * width + 3.0 * 64.0);
        4.0 * (4.0 * weights + images * made)
    }

    /// Images `[n, 3, 8 s, 8 s]` from features `[n, d]`.
    #[must_use]
    pub fn forward(&self, z: Tensor<2>) -> Tensor<4> {
        let [n, _] = z.dims();
        let x = relu(self.seed.forward(z)).reshape([n, self.channels, self.side, self.side]);
        let x = relu(self.up1.forward(x));
        let x = relu(self.up2.forward(x));
        sigmoid(self.up3.forward(x))
    }
}

fn zeros(bias: Param<Tensor<1>>) -> Param<Tensor<1>> {
    bias.map(|b| b.zeros_like())
}

/// A trained decoder on its device.
pub struct Decoder {
    /// The network.
    pub network: DecoderNetwork,
    /// The largest norm of the features that it was trained on.
    pub norm: f32,
    /// The device that the network is on.
    pub device: Device,
}

impl Decoder {
    /// The decoder of an artifact, on `device`.
    ///
    /// # Errors
    /// If the weights are not those of its architecture.
    pub fn open(artifact: &DecoderArtifact, device: &Device) -> Result<Self, StageError> {
        let (dim, width, side) = (artifact.dim as usize, artifact.width as usize, artifact.image_size as usize / 8);
        // The initial values do not matter: loading replaces every one of them, or fails.
        let network = DecoderNetwork::new(dim, width, side, &mut Zeros, device);
        let network = Weights::from_safetensors(&artifact.weights)?.load(network)?;
        Ok(Self { network, norm: artifact.norm, device: device.clone() })
    }

    /// Images `[m, 3, height, width]` in `[0, 1]` from features `[m, d]`. Features with a larger norm than any that the
    /// decoder was trained on are scaled down to the largest one, because the network would have to extrapolate.
    ///
    /// # Errors
    /// If the run was interrupted.
    pub fn decode(&self, features: ArrayView2<f32>, ctx: &Context) -> Result<Array4<f32>, StageError> {
        let (m, d) = features.dim();
        let images = on_device(&self.device, m, TILE, |rows| {
            ctx.check()?;
            let z: Array2<f32> = within(features.slice_axis(Axis(0), Slice::from(rows)), self.norm);
            let z = TensorData::new(z.iter().copied().collect(), [z.nrows(), d]);
            Ok::<_, StageError>(host(self.network.forward(Tensor::from_data(z, &self.device)).into_data()))
        })?;
        let side = 8 * self.network.side;
        Array4::from_shape_vec((m, 3, side, side), images.concat())
            .map_err(|e| StageError::internal(format!("the decoder's output has another shape than it says: {e}")))
    }
}

/// `features`, where rows with a norm above `largest` are scaled down to it.
fn within(features: ArrayView2<f32>, largest: f32) -> Array2<f32> {
    let mut z = features.to_owned();
    for mut row in z.rows_mut() {
        let length = norm(row.view());
        if length > largest {
            row *= largest / length;
        }
    }
    z
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn only_what_is_too_long_is_shortened() {
        assert_eq!(within(array![[3.0, 4.0], [0.3, 0.4]].view(), 2.5), array![[1.5, 2.0], [0.3, 0.4]]);
    }
}
