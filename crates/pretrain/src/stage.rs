//! Stage: a feature extractor, trained without labels.

use crate::{Method, Monitor, PretrainConfig, pretrain};
use hemlock_artifact::{Dataset, Extractor};
use hemlock_models::open_device;
use hemlock_stage::{Context, StageError, inputs};
use serde_json::Value;

inputs! {
    /// What the stage reads.
    pub struct Inputs {
        /// Images to train on; their labels only monitor.
        dataset: Dataset = "dataset.pretrain",
    }
}

/// The stage.
pub struct Stage;

impl hemlock_stage::Stage for Stage {
    const NAME: &'static str = "pretrain";
    const VERSION: u32 = 1;
    /// The extractor's seed is a parameter of its own: seeds of the attack share one extractor.
    const SEEDED: bool = false;
    const USES_DEVICE: bool = true;
    type Params = PretrainConfig;
    type Inputs = Inputs;
    type Output = Extractor;

    /// Of what trains, nothing decides a random initialisation.
    fn key_params(config: &PretrainConfig) -> Result<Value, serde_json::Error> {
        let mut value = serde_json::to_value(config)?;
        if let (Method::Random, Some(fields)) = (config.method, value.as_object_mut()) {
            fields.retain(|field, _| ["method", "arch", "seed"].contains(&field.as_str()));
        }
        Ok(value)
    }

    fn run(config: &PretrainConfig, Inputs { dataset }: Inputs, ctx: &Context) -> Result<Extractor, StageError> {
        let device = open_device(ctx.device)?;
        let monitor = (config.knn_every > 0 && !dataset.validation.is_empty())
            .then_some(Monitor { reference: &dataset.train, queries: &dataset.validation });
        let trained = pretrain(config, dataset.train.pixels.view(), monitor, &device, ctx)?;
        Ok(Extractor {
            arch: trained.spec.arch.to_string(),
            method: config.method.to_string(),
            dim: trained.spec.arch.feature_dim(),
            image_size: trained.spec.image_size[0],
            mean: trained.spec.mean,
            std: trained.spec.std,
            weights: trained.weights,
            curve: trained.curve,
        })
    }
}
