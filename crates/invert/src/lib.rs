//! Stage: images whose features are the poisoned ones.

mod decoder;
mod matching;

use burn::tensor::{Device, Tensor, TensorData};
use hemlock_artifact::{Affine, Dataset, Extractor, Features, Images, PoisonFeatures, Poisons};
use hemlock_models::{extract, open_extractor};
use hemlock_stage::{Context, ErrorKind, ParamError, StageError, inputs};
use ndarray::{Array4, ArrayView2, ArrayView4, Axis, Zip};
use serde::{Deserialize, Serialize};

/// Parameters of the stage: a method, and what it needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Params {
    /// Pixels that minimise `|f(x) - zeta|^2 + beta |x - x_b|^2`, started at the base image `x_b`.
    FeatureMatching {
        /// Weight of the distance to the base image; 0 leaves the image free within `[0, 1]`.
        #[serde(default)]
        beta: f64,
        /// Steps of Adam.
        #[serde(default = "defaults::matching_steps")]
        steps: u32,
        /// Length of a step, in pixel units of `[0, 1]`.
        #[serde(default = "defaults::matching_step")]
        step: f64,
    },
    /// A network that was trained to turn clean features back into their images.
    Decoder {
        /// Passes over the clean training images.
        #[serde(default = "defaults::decoder_epochs")]
        epochs: u32,
        /// Images a step.
        #[serde(default = "defaults::decoder_batch")]
        batch: usize,
        /// Learning rate of Adam, with a cosine schedule.
        #[serde(default = "defaults::decoder_rate")]
        learning_rate: f64,
        /// Channels of the widest layer.
        #[serde(default = "defaults::decoder_width")]
        width: usize,
    },
}

mod defaults {
    pub(super) fn matching_steps() -> u32 {
        150
    }
    pub(super) fn matching_step() -> f64 {
        0.02
    }
    pub(super) fn decoder_epochs() -> u32 {
        10
    }
    pub(super) fn decoder_batch() -> usize {
        128
    }
    pub(super) fn decoder_rate() -> f64 {
        2e-3
    }
    pub(super) fn decoder_width() -> usize {
        64
    }
}

impl hemlock_stage::Params for Params {
    fn check(&self) -> Result<(), ParamError> {
        match *self {
            Self::FeatureMatching { beta, steps, step } => {
                ParamError::non_negative("beta", beta)?;
                ParamError::at_least_one("steps", steps)?;
                ParamError::positive("step", step)
            }
            Self::Decoder { epochs, batch, learning_rate, width } => {
                ParamError::at_least_one("epochs", epochs)?;
                ParamError::at_least_one("batch", batch as u64)?;
                ParamError::positive("learning_rate", learning_rate)?;
                ParamError::require(width >= 4, "width", width, "at least 4")
            }
        }
    }
}

inputs! {
    /// What the stage reads.
    pub struct Inputs {
        /// Downstream images.
        dataset: Dataset = "dataset.downstream",
        /// The frozen extractor.
        extractor: Extractor = "pretrain",
        /// Features of the downstream dataset.
        features: Features = "features",
        /// Poisoned features.
        poison_features: PoisonFeatures = "poison-features",
    }
}

/// The stage.
pub struct Stage;

impl hemlock_stage::Stage for Stage {
    const NAME: &'static str = "invert";
    const VERSION: u32 = 1;
    const SEEDED: bool = true;
    const USES_DEVICE: bool = true;
    type Params = Params;
    type Inputs = Inputs;
    type Output = Poisons;

    fn run(params: &Params, inputs: Inputs, ctx: &Context) -> Result<Poisons, StageError> {
        let Inputs { dataset, extractor, features, poison_features } = inputs;
        let extractor = open_extractor(&extractor, ctx.device)?;
        let device = extractor.device().clone();
        let head_space = HeadSpace::new(&features.normalization, &device);
        let (method, (pixels, curve)) = match *params {
            Params::FeatureMatching { beta, steps, step } => {
                let base = base_images(&dataset.train, &poison_features.base_index)?;
                let matching = matching::Matching { beta, steps, step };
                let zeta = poison_features.features.view();
                ("feature-matching", matching.run(&extractor, &head_space, base.view(), zeta, ctx)?)
            }
            Params::Decoder { epochs, batch, learning_rate, width } => {
                let training = decoder::Training { epochs, batch, learning_rate, width };
                let zeta = poison_features.features.view();
                (
                    "decoder",
                    training.run(&features.train.features.view().to_owned(), &dataset.train, zeta, &device, ctx)?,
                )
            }
        };
        let images = pixels.mapv(|x| (x.clamp(0.0, 1.0) * 255.0).round() as u8);
        let mut z = extract(&extractor, images.view(), ctx, &|_| {})?;
        features.normalization.apply(&mut z);
        let distance = Zip::from(z.rows())
            .and(poison_features.features.rows())
            .map_collect(|a, b| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt())
            .to_vec();
        Ok(Poisons {
            images,
            labels: poison_features.labels,
            base_index: poison_features.base_index,
            method: method.to_owned(),
            distance,
            curve,
        })
    }
}

/// The map from the extractor's output to the head's space, on a device.
pub(crate) struct HeadSpace {
    shift: Tensor<2>,
    scale: Tensor<2>,
}

impl HeadSpace {
    fn new(affine: &Affine, device: &Device) -> Self {
        let row = |v: &[f32]| Tensor::from_data(TensorData::new(v.to_vec(), [1, v.len()]), device);
        Self { shift: row(&affine.shift), scale: row(&affine.scale) }
    }

    /// Maps every row of `features`, `[n, d]`.
    pub(crate) fn apply(&self, features: Tensor<2>) -> Tensor<2> {
        (features - self.shift.clone()) * self.scale.clone()
    }
}

/// The images that the poisons started from, `[m, 3, height, width]`.
fn base_images(train: &Images, base_index: &[u32]) -> Result<Array4<u8>, StageError> {
    let rows: Vec<usize> = base_index.iter().map(|i| *i as usize).collect();
    match rows.iter().find(|i| **i >= train.len()) {
        Some(i) => {
            let message = format!("a poison started from training image {i}, and there are {}", train.len());
            Err(StageError::new(ErrorKind::Artifact, message))
        }
        None => Ok(train.pixels.select(Axis(0), &rows)),
    }
}

/// Images `[n, 3, height, width]` in `[0, 1]`, on a device.
pub(crate) fn unit_pixels(images: ArrayView4<u8>, device: &Device) -> Tensor<4> {
    let pixels: Vec<f32> = images.iter().map(|p| f32::from(*p) / 255.0).collect();
    let (n, channels, height, width) = images.dim();
    Tensor::from_data(TensorData::new(pixels, [n, channels, height, width]), device)
}

/// The share of the first step's length at `done` of `all` steps: half a cosine, from 1 to 0.
pub(crate) fn cosine(done: u64, all: u64) -> f64 {
    0.5 * (1.0 + (std::f64::consts::PI * done as f64 / all as f64).cos())
}

/// A matrix, on a device.
pub(crate) fn matrix(values: ArrayView2<f32>, device: &Device) -> Tensor<2> {
    let (rows, columns) = values.dim();
    Tensor::from_data(TensorData::new(values.iter().copied().collect(), [rows, columns]), device)
}
