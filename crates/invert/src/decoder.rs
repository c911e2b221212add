//! A decoder: a network that turns features back into images, trained on clean pairs.

use crate::{cosine, matrix, unit_pixels};
use burn::{
    module::{Module, Param},
    nn::{
        Linear, LinearConfig,
        conv::{ConvTranspose2d, ConvTranspose2dConfig},
    },
    optim::{AdamConfig, GradientsParams},
    tensor::{
        Device, Tensor,
        activation::{relu, sigmoid},
    },
};
use hemlock_artifact::{CurvePoint, Images};
use hemlock_models::resnet::normal;
use hemlock_stage::{Context, ErrorKind, ParamError, StageError};
use ndarray::{Array2, Array4, ArrayView2, Axis};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

/// Features `[n, d]` to images `[n, 3, 8 s, 8 s]` in `[0, 1]`: a linear layer to `s x s`, and three transposed convolutions that
/// double the size.
#[derive(Module, Debug)]
struct Decoder {
    seed: Linear,
    up1: ConvTranspose2d,
    up2: ConvTranspose2d,
    up3: ConvTranspose2d,
    channels: usize,
    side: usize,
}

impl Decoder {
    fn new(dim: usize, width: usize, side: usize, rng: &mut ChaCha8Rng, device: &Device) -> Self {
        let mut seed = LinearConfig::new(dim, width * side * side).init(device);
        seed.weight = normal([dim, width * side * side], (2.0 / dim as f32).sqrt(), rng, device);
        seed.bias = seed.bias.map(zeros);
        let mut up = |from: usize, to: usize| {
            let config = ConvTranspose2dConfig::new([from, to], [4, 4]).with_stride([2, 2]).with_padding([1, 1]);
            let mut layer = config.init(device);
            // Every output pixel sums 2 x 2 taps of every input channel.
            layer.weight = normal([from, to, 4, 4], (2.0 / (4 * from) as f32).sqrt(), rng, device);
            layer.bias = layer.bias.map(zeros);
            layer
        };
        let (up1, up2, up3) = (up(width, width), up(width, width / 2), up(width / 2, 3));
        Self { seed, up1, up2, up3, channels: width, side }
    }

    fn forward(&self, z: Tensor<2>) -> Tensor<4> {
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

/// How a decoder is trained: Adam on the mean squared error of pixels, with a cosine schedule.
pub(crate) struct Training {
    pub(crate) epochs: u32,
    pub(crate) batch: usize,
    pub(crate) learning_rate: f64,
    pub(crate) width: usize,
}

impl Training {
    /// Trains on clean pairs (`features`, `[n, d]`, and `images`), then decodes `zeta`, `[m, d]`: images `[m, 3, height, width]` in
    /// `[0, 1]`, and the mean loss of every epoch.
    pub(crate) fn run(
        &self,
        features: &Array2<f32>,
        images: &Images,
        zeta: ArrayView2<f32>,
        device: &Device,
        ctx: &Context,
    ) -> Result<(Array4<f32>, Vec<CurvePoint>), StageError> {
        let (_, _, height, width) = images.pixels.dim();
        if height != width || height % 8 != 0 {
            let message = format!("decodes square images whose side is a multiple of 8; these are {height} x {width}");
            return Err(ParamError::new("method", message).into());
        }
        let n = images.len();
        let batch = self.batch.min(n);
        let steps = n / batch;
        let mut rng = ChaCha8Rng::seed_from_u64(ctx.seed);
        let training = device.clone().autodiff();
        let mut decoder = Decoder::new(features.ncols(), self.width, height / 8, &mut rng, &training);
        let mut adam = AdamConfig::new().init();
        let bar = ctx.progress.start("decoder", u64::from(self.epochs) * steps as u64, "steps");
        let mut order: Vec<usize> = (0..n).collect();
        let mut curve = Vec::new();
        for epoch in 0..self.epochs {
            order.shuffle(&mut rng);
            let mut sum = 0.0;
            for (step, rows) in order.chunks_exact(batch).enumerate() {
                ctx.check()?;
                let z = matrix(features.select(Axis(0), rows).view(), &training);
                let x = unit_pixels(images.pixels.select(Axis(0), rows).view(), &training);
                let loss = (decoder.forward(z) - x).powi_scalar(2).mean();
                let value = f64::from(loss.clone().into_scalar::<f32>());
                if !value.is_finite() {
                    let message = format!("the decoder diverged in epoch {epoch}; lower `learning_rate`");
                    return Err(StageError::new(ErrorKind::Numeric, message));
                }
                sum += value;
                let done = u64::from(epoch) * steps as u64 + step as u64;
                let rate = self.learning_rate * cosine(done, u64::from(self.epochs) * steps as u64);
                let gradients = GradientsParams::from_grads(loss.backward(), &decoder);
                decoder = adam.step(rate, decoder, gradients);
                bar.at(done + 1);
                bar.say(format!("loss {value:.4}"));
            }
            curve.push(CurvePoint { step: epoch, objective: sum / steps as f64 });
        }
        let decoded = decoder.valid().forward(matrix(zeta, device));
        let [m, channels, height, width] = decoded.dims();
        let pixels: Vec<f32> = decoded.into_data().iter::<f32>().collect();
        let pixels = Array4::from_shape_vec((m, channels, height, width), pixels)
            .map_err(|e| StageError::internal(format!("the decoder's output has another shape than it says: {e}")))?;
        Ok((pixels, curve))
    }
}
