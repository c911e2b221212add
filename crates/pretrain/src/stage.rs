//! Stage: a feature extractor, trained without labels.

use crate::{Checkpoints, Hooks, InvalidConfig, LabelledImages, Method, Monitor, PretrainConfig, PretrainError, pretrain};
use hemlock_artifact::{Dataset, Extractor, Images};
use hemlock_models::open_device;
use hemlock_stage::{Context, ErrorKind, ParamError, StageError, inputs};
use serde_json::Value;
use std::{io, sync::OnceLock};

impl hemlock_stage::Params for PretrainConfig {
    fn check(&self) -> Result<(), ParamError> {
        Ok(self.validate()?)
    }
}

impl From<InvalidConfig> for ParamError {
    fn from(e: InvalidConfig) -> Self {
        Self::new(e.field, e.message)
    }
}

impl From<PretrainError> for StageError {
    fn from(e: PretrainError) -> Self {
        let kind = match e {
            PretrainError::Interrupted { .. } => return Self::interrupted(),
            PretrainError::Config(e) => return ParamError::from(e).into(),
            PretrainError::NonFinite { .. } => ErrorKind::Numeric,
            PretrainError::Checkpoint { .. } => ErrorKind::Artifact,
            PretrainError::Weights(_) | PretrainError::Monitor(_) => ErrorKind::Internal,
        };
        Self::new(kind, e)
    }
}

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
        let Dataset { train, validation, .. } = dataset;
        let pixels = train.pixels.clone();
        let labelled = |images: Images| LabelledImages { images: images.pixels, labels: images.labels };
        let monitor = (config.knn_every > 0 && !validation.is_empty())
            .then(|| Monitor { reference: labelled(train), queries: labelled(validation) });
        let bar = OnceLock::new();
        let checkpoints = StageCheckpoints(ctx);
        let hooks = Hooks {
            checkpoints: &checkpoints,
            progress: &|p| {
                let total = (p.epochs * p.steps) as u64;
                let bar = bar.get_or_init(|| ctx.progress.start("pre-training", total, "steps"));
                bar.at(((p.epoch - 1) * p.steps + p.step) as u64);
                bar.say(format!("epoch {}/{} loss {:.3}", p.epoch, p.epochs, p.loss));
            },
            cancelled: &|| ctx.cancel.requested(),
        };
        let trained = pretrain(config, pixels.view(), monitor.as_ref(), &device, hooks)?;
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

/// The context's checkpoints, as the training loop wants them. An unreadable one is as good as none.
struct StageCheckpoints<'a>(&'a Context<'a>);

impl Checkpoints for StageCheckpoints<'_> {
    fn load(&self) -> Option<Vec<u8>> {
        self.0.checkpoints.load().unwrap_or_else(|e| {
            tracing::warn!("no checkpoint to resume from: {e}");
            None
        })
    }
    fn save(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.checkpoints.save(bytes).map_err(io::Error::other)
    }
}
