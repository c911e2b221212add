//! Stage: the frozen extractor's features of a downstream dataset.

use hemlock_artifact::{Dataset, Extractor, FeatureSplit, Features, Images, Normalization};
use hemlock_stage::{Context, ParamError, StageError, inputs};
use ndarray::Array2;
use serde::{Deserialize, Serialize};

/// Parameters of the stage.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// What is done to the extractor's output before the head sees it.
    pub normalization: Normalize,
}

/// What is done to every feature vector before the head sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalize {
    /// Nothing.
    None,
    /// Every coordinate gets mean 0 and standard deviation 1 over the clean training split.
    #[default]
    Standardize,
    /// Every sample is divided by its L2 norm.
    L2,
}

impl hemlock_stage::Params for Params {
    fn check(&self) -> Result<(), ParamError> {
        Ok(())
    }
}

inputs! {
    /// What the stage reads.
    pub struct Inputs {
        /// Downstream images.
        dataset: Dataset = "dataset.downstream",
        /// The frozen extractor.
        extractor: Extractor = "pretrain",
    }
}

/// The stage.
pub struct Stage;

impl hemlock_stage::Stage for Stage {
    const NAME: &'static str = "features";
    const VERSION: u32 = 3;
    const SEEDED: bool = false;
    const USES_DEVICE: bool = true;
    type Params = Params;
    type Inputs = Inputs;
    type Output = Features;

    fn run(params: &Params, inputs: Inputs, ctx: &Context) -> Result<Features, StageError> {
        let Inputs { dataset, extractor } = inputs;
        let extractor = hemlock_models::open_extractor(&extractor, ctx.device)?;
        let total = dataset.train.len() + dataset.validation.len() + dataset.test.len();
        let bar = ctx.progress.start("features", total as u64, "images");
        let mut before = 0;
        let mut extract = |images: &Images| -> Result<Array2<f32>, StageError> {
            let features =
                hemlock_models::extract(&extractor, images.pixels.view(), ctx, &|done| bar.at((before + done) as u64))?;
            before += images.len();
            Ok(features)
        };
        let train = extract(&dataset.train)?;
        let validation = extract(&dataset.validation)?;
        let test = extract(&dataset.test)?;
        let normalization = match params.normalization {
            Normalize::None => Normalization::identity(train.ncols()),
            Normalize::Standardize => Normalization::standardizing(train.view()),
            Normalize::L2 => Normalization::L2,
        };
        let split = |mut features: Array2<f32>, images: Images| {
            normalization.apply(&mut features);
            FeatureSplit { features: features.into(), labels: images.labels }
        };
        Ok(Features {
            classes: dataset.classes,
            train: split(train, dataset.train),
            validation: split(validation, dataset.validation),
            test: split(test, dataset.test),
            normalization,
        })
    }
}
