//! Stage `decoder`: a network from features to images, trained on clean pairs of both.

use burn::{
    optim::{AdamConfig, GradientsParams},
    tensor::{Tensor, TensorData},
};
use hemlock_artifact::{CurvePoint, Dataset, DecoderArtifact, ExtractorArtifact, Features, Pixels, Reconstruction};
use hemlock_models::{Extractor, Weights, extract, extracted, open_extractor, travel::down};
use hemlock_optim::half_cosine;
use hemlock_perturb::{Decoder, DecoderNetwork, FrozenExtractor, OnDevice, distances, host, norm, rounded, up};
use hemlock_stage::{About, Context, ErrorKind, ParamError, Port, StageError, StageRole, inputs};
use hemlock_streams::Purpose;
use ndarray::{Array2, Axis};
use rand::seq::SliceRandom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A network from features to images, which is trained once for all attacks and seeds. Leave the table out if no
/// `[invert]` reads it. Images have to be square, with a side that is a multiple of 8.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// Passes over the clean training images.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub epochs: u32,
    /// Images per step.
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// Learning rate of Adam, with a cosine schedule.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// Channels of the widest layer of the network.
    #[schemars(range(min = 4, max = 65536))]
    pub width: usize,
    /// Weight of the mean squared error of the features, relative to that of the pixels. With 0, the decoder is trained
    /// on pixels alone, without the extractor.
    #[schemars(range(min = 0))]
    pub feature_weight: f64,
    /// Seed of the initial weights, the order of the images, and the choice of held-out images.
    pub seed: u64,
}

impl Default for Params {
    fn default() -> Self {
        Self { epochs: 10, batch: 128, learning_rate: 2e-3, width: 64, feature_weight: 0.03, seed: 0 }
    }
}

impl hemlock_stage::Params for Params {
    fn check(&self) -> Result<(), ParamError> {
        ParamError::epochs("epochs", self.epochs as usize)?;
        ParamError::at_least_one("batch", self.batch as u64)?;
        ParamError::positive("learning_rate", self.learning_rate)?;
        ParamError::require(self.width >= 4, "width", self.width, "at least 4")?;
        ParamError::units("width", self.width)?;
        ParamError::non_negative("feature_weight", self.feature_weight)
    }
}

inputs! {
    /// What the stage reads.
    pub struct Inputs {
        /// Downstream images.
        dataset: Dataset = "dataset.downstream",
        /// The frozen extractor.
        extractor: ExtractorArtifact = "pretrain",
        /// Features of the downstream dataset.
        features: Features = "features",
    }
}

/// The stage.
pub struct Stage;

impl hemlock_stage::Stage for Stage {
    const NAME: &'static str = "decoder";
    const ABOUT: About = About::new(StageRole::Preparation, "train a network that turns features back into images");
    const VERSION: u32 = 4;
    // The decoder is a tool of the attacker, like the extractor: it has a seed of its own, and serves all attacks.
    const SEEDED: bool = false;
    const USES_DEVICE: bool = true;
    type Params = Params;
    type Inputs = Inputs;
    type Output = DecoderArtifact;

    fn accepts(_: &Params, port: &Port, made_with: &Value) -> Result<(), ParamError> {
        extracted(port, made_with)
    }

    fn run(params: &Params, inputs: Inputs, ctx: &Context) -> Result<DecoderArtifact, StageError> {
        let Inputs { dataset, extractor, features } = inputs;
        train(params, &open_extractor(&extractor, ctx)?, dataset, features, ctx)
    }
}

/// Trains a decoder on images and their features.
///
/// # Errors
/// If the images have another size than decoders make, if the training diverges, if the extractor fails, or if the run
/// was interrupted.
pub fn train(
    params: &Params,
    extractor: &Extractor,
    dataset: Dataset,
    features: Features,
    ctx: &Context,
) -> Result<DecoderArtifact, StageError> {
    let (_, _, height, width) = dataset.train.pixels.view().dim();
    if height != width || height % 8 != 0 {
        let message = format!("makes square images whose side is a multiple of 8; these are {height} x {width}");
        return Err(ParamError::new("", message).into());
    }
    let normalization = features.normalization.clone();
    let frozen = FrozenExtractor::new(extractor, &normalization);
    let (train, held_out) = pairs(dataset, features, params.seed);
    let (network, curve) = train_network(params, &frozen, &train, ctx)?;
    let decoder = Decoder {
        norm: train.features.rows().into_iter().map(norm).fold(0.0, f32::max),
        device: frozen.device().clone(),
        network,
    };
    Ok(DecoderArtifact {
        dim: train.features.ncols() as u64,
        width: params.width as u64,
        image_size: height as u64,
        norm: decoder.norm,
        curve,
        held_out: held_out.reconstruct(&decoder, &frozen, ctx)?,
        weights: Weights::collect(&decoder.network).to_safetensors()?,
    })
}

/// Features `[n, d]`, and the images `[n, 3, height, width]` that they were extracted from.
struct Pairs {
    features: Array2<f32>,
    images: Pixels,
    normalization: hemlock_artifact::Normalization,
}

/// The clean pairs to train on, and those to measure on: the validation split, or, if there is none, a tenth of the
/// training split.
fn pairs(dataset: Dataset, features: Features, seed: u64) -> (Pairs, Pairs) {
    let normalization = features.normalization;
    let pairs = |features, images| Pairs { features, images, normalization: normalization.clone() };
    if !dataset.validation.is_empty() {
        let train = pairs(features.train.features.view().to_owned(), dataset.train.pixels);
        return (train, pairs(features.validation.features.view().to_owned(), dataset.validation.pixels));
    }
    let mut rows: Vec<usize> = (0..dataset.train.len()).collect();
    rows.shuffle(&mut Purpose::DecoderHeldOut.of(seed));
    let (held_out, train) = rows.split_at((rows.len() / 10).max(1));
    let of = |rows: &[usize]| {
        pairs(
            features.train.features.view().select(Axis(0), rows),
            dataset.train.pixels.view().select(Axis(0), rows).into(),
        )
    };
    (of(train), of(held_out))
}

/// Trains a decoder by Adam, on the squared errors of pixels and features, with a cosine schedule. Returns the network
/// and the mean loss of every epoch.
fn train_network(
    params: &Params,
    frozen: &FrozenExtractor,
    train: &Pairs,
    ctx: &Context,
) -> Result<(DecoderNetwork, Vec<CurvePoint>), StageError> {
    let (n, _, side, _) = train.images.view().dim();
    if n == 0 {
        let message = "the only training image is held out; expected a validation split, or at least 2 training images";
        return Err(StageError::new(ErrorKind::Data, message));
    }
    let batch = params.batch.min(n);
    let bytes = DecoderNetwork::bytes(train.features.ncols(), params.width, side / 8, batch);
    ParamError::fits("width", format!("a decoder of width {}, on {batch} images a step,", params.width), bytes)?;
    let device = frozen.device().clone().autodiff();
    let [mut weights, mut rng] = [Purpose::DecoderWeights, Purpose::DecoderOrder].map(|p| p.of(params.seed));
    let mut network = DecoderNetwork::new(train.features.ncols(), params.width, side / 8, &mut weights, &device);
    let mut adam = AdamConfig::new().init();
    let steps = (n / batch) as u64;
    let all = u64::from(params.epochs) * steps;
    let bar = ctx.progress.start("decoder", all, "steps");
    let mut order: Vec<usize> = (0..n).collect();
    let on_device = (!frozen.extractor.on_host()).then(|| OnDevice::new(frozen));
    let (mut curve, mut done) = (Vec::new(), 0);
    for epoch in 0..params.epochs {
        order.shuffle(&mut rng);
        let mut sum = 0.0;
        let mut add = |value: Loss| {
            let value = value();
            if !value.is_finite() {
                let message = format!("the decoder diverged in epoch {epoch}; lower `learning_rate`");
                return Err(StageError::new(ErrorKind::Numeric, message));
            }
            sum += value;
            bar.say(format!("loss {value:.4}"));
            Ok(())
        };
        // On a GPU, the loss of a step is downloaded once the next step has been submitted.
        let mut coming = None;
        for rows in order.chunks_exact(batch) {
            ctx.check()?;
            let (loss, value) = loss(params, frozen, on_device.as_ref(), &network, train, rows)?;
            let rate = params.learning_rate * half_cosine(done as f64, all as f64);
            let gradients = GradientsParams::from_grads(loss.backward(), &network);
            network = adam.step(rate, network, gradients);
            coming.replace(value).map_or(Ok(()), &mut add)?;
            done += 1;
            bar.at(done);
        }
        coming.map_or(Ok(()), &mut add)?;
        curve.push(CurvePoint { step: epoch, objective: sum / steps as f64 });
    }
    Ok((burn::module::Module::valid(&network), curve))
}

/// Waits for the loss of a batch, which a device may still be computing.
type Loss = Box<dyn FnOnce() -> f64>;

/// A scalar whose gradient is that of a batch's loss, and the loss itself: the mean squared error of the pixels, plus
/// the weighted mean squared error of the features.
fn loss(
    params: &Params,
    frozen: &FrozenExtractor,
    on_device: Option<&OnDevice>,
    network: &DecoderNetwork,
    train: &Pairs,
    rows: &[usize],
) -> Result<(Tensor<1>, Loss), StageError> {
    let device = frozen.device().clone().autodiff();
    let z = train.features.select(Axis(0), rows);
    let zeta: Vec<f32> = z.iter().copied().collect();
    let x: Vec<f32> = train.images.view().select(Axis(0), rows).iter().map(|p| f32::from(*p) / 255.0).collect();
    let decoded = network.forward(Tensor::from_data(TensorData::new(zeta.clone(), [z.nrows(), z.ncols()]), &device));
    let shape = decoded.dims();
    let pixel_error = (decoded.clone() - Tensor::from_data(TensorData::new(x, shape), &device)).powi_scalar(2).mean();
    let weight = params.feature_weight / zeta.len() as f64;
    if let Some(on_device) = on_device {
        let value = |value: Tensor<1>| -> Loss { Box::new(|| down(value).into_iter().map(f64::from).sum()) };
        let error = pixel_error.clone().inner();
        if params.feature_weight == 0.0 {
            return Ok((pixel_error, value(error)));
        }
        let images = decoded.clone().inner().flatten(1, 3);
        let (squares, gradient) = on_device.pass(images)?.gradient(up(zeta, z.ncols(), frozen.device()));
        let gradient = Tensor::from_inner(gradient.reshape(shape)) * weight;
        return Ok((pixel_error + (decoded * gradient).sum(), value(error + squares.sum() * weight)));
    }
    let value = f64::from(pixel_error.clone().into_scalar::<f32>());
    if params.feature_weight == 0.0 {
        return Ok((pixel_error, Box::new(move || value)));
    }
    let (squares, gradient) = frozen.gradient_in_tiles(&host(decoded.clone().into_data()), &zeta)?;
    let squares: f64 = squares.into_iter().map(f64::from).sum();
    // Linear in the images, so that its gradient is the one that the chain rule requires.
    let gradient = Tensor::from_data(TensorData::new(gradient, shape), &device) * weight;
    let value = value + weight * squares;
    Ok((pixel_error + (decoded * gradient).sum(), Box::new(move || value)))
}

impl Pairs {
    /// How well the decoder reconstructs these images from their features, as 8-bit images.
    fn reconstruct(
        &self,
        decoder: &Decoder,
        frozen: &FrozenExtractor,
        ctx: &Context,
    ) -> Result<Reconstruction, StageError> {
        let images = rounded(&decoder.decode(self.features.view(), ctx)?);
        let (n, mut errors) = (images.dim().0, Vec::new());
        for (a, b) in images.axis_iter(Axis(0)).zip(self.images.view().axis_iter(Axis(0))) {
            let squares: f64 = a.iter().zip(b).map(|(a, b)| ((f64::from(*a) - f64::from(*b)) / 255.0).powi(2)).sum();
            errors.push(squares / a.len() as f64);
        }
        let mut features = extract(frozen.extractor, images.view(), ctx)?;
        self.normalization.apply(features.view_mut());
        let squares = |d: Vec<f32>| d.into_iter().map(|d| f64::from(d).powi(2)).sum::<f64>();
        let mean = self.features.mean_axis(Axis(0)).expect("at least one image is held out").insert_axis(Axis(0));
        let spread = mean.broadcast(self.features.dim()).map_or(0.0, |m| squares(distances(self.features.view(), m)));
        let count = n.max(1) as f64;
        Ok(Reconstruction {
            images: n as u64,
            pixel_error: errors.iter().sum::<f64>() / count,
            psnr: errors.iter().map(|e| -10.0 * e.max(1e-6).log10()).sum::<f64>() / count,
            feature_error: (squares(distances(features.view(), self.features.view())) / spread).sqrt(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_fixtures::{AttackInputs, context, extractor};
    use hemlock_stage::Stage as _;

    fn train_on(images: usize) -> Result<DecoderArtifact, StageError> {
        let AttackInputs { dataset, extractor, features, .. } =
            AttackInputs::new(&extractor("resnet8-w4", "flex")?, images, 0)?;
        let params = Params { epochs: 1, width: 4, ..Params::default() };
        context(0, |ctx| Stage::run(&params, Inputs { dataset, extractor, features }, ctx))
    }

    #[test]
    fn one_image_cannot_be_trained_on_and_held_out() {
        let e = train_on(1).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Data);
        assert!(e.to_string().contains("at least 2 training images"), "{e}");
        assert_eq!(train_on(2).unwrap().held_out.images, 1);
    }
}
