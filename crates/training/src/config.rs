//! The parameters of a training, and their valid ranges.

use hemlock_models::Arch;
use hemlock_optim::half_cosine;
use hemlock_stage::{ParamError, Seed};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::augment::AugmentConfig;

/// A training method. All methods share one set of fields, so that one table compares them; a field that a method does
/// not use is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Contrastive training without labels ([`simclr`](crate::simclr)).
    Simclr,
    /// Contrastive training without labels, against a momentum encoder ([`moco`](crate::moco)).
    MocoV3,
    /// Training with labels ([`supervised`](crate::supervised)).
    Supervised,
}

impl Method {
    /// The name in a spec.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Simclr => "simclr",
            Self::MocoV3 => "moco-v3",
            Self::Supervised => "supervised",
        }
    }

    /// Fields that the method ignores.
    fn idle(self) -> &'static [&'static str] {
        match self {
            Self::Simclr => &["momentum", "predictor"],
            Self::MocoV3 => &[],
            Self::Supervised => &["temperature", "projector", "momentum", "predictor"],
        }
    }
}

/// Most devices that can share a step.
const MOST_DEVICES: usize = 1024;

/// Fields that decide how a training runs, and not what it gives.
const RUNNING: [&str; 2] = ["checkpoint_minutes", "allow_collapse"];

/// A first-order optimiser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay, betas 0.9 and 0.999.
    #[default]
    AdamW,
    /// Gradient descent with momentum 0.9.
    Sgd,
    /// Layer-wise adaptive rates (You et al., 2017), with momentum 0.9 and trust coefficient 0.001, for large batches.
    /// Its learning rates are hundreds of times those of `adamw`.
    Lars,
}

/// Widths of the projector, which is dropped after training: d -> hidden -> out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProjectorConfig {
    /// Width of the hidden layer of the projector (`simclr`, `moco-v3`).
    #[schemars(range(min = 1, max = 65536))]
    pub hidden: usize,
    /// Dimension of the embeddings that the loss compares.
    #[schemars(range(min = 2, max = 65536))]
    pub out: usize,
}

/// Widths of the predictor on the projections of [`Method::MocoV3`]: out -> hidden -> out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PredictorConfig {
    /// Width of the hidden layer of the predictor (`moco-v3`).
    #[schemars(range(min = 1, max = 65536))]
    pub hidden: usize,
}

/// The parameters of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// The architecture: docs/pretraining.md lists them.
    pub arch: Arch,
    /// Seed of the initial weights, the order of the images and the views. With `run`, it is the pipeline's seed, so
    /// that every seed of the pipeline has its own extractor.
    pub seed: Seed,
    /// Passes over the images.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub epochs: usize,
    /// Images of a step; without labels, each has two views. At the end of an epoch, images that do not fill a batch
    /// are left out.
    #[schemars(range(min = 2))]
    pub batch: usize,
    /// The optimiser.
    pub optimizer: OptimizerKind,
    /// Peak learning rate, after the warm-up; from there it falls to 0 along half a cosine. Use about 1e-3 for `adamw`,
    /// 0.1 for `sgd`, and 0.3 `batch` / 256 for `lars`.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// Weight decay of convolutions and matrices; biases and batch norms have none.
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
    /// Epochs of linear warm-up, fewer than `epochs`.
    pub warmup_epochs: usize,
    /// Temperature of the contrastive loss of `simclr` and `moco-v3`. If it is absent, it is 1 for ResNets with
    /// `moco-v3`.
    #[schemars(range(min = 0.01))]
    pub temperature: f64,
    /// Momentum of the momentum encoder of `moco-v3` at the start; it rises to 1 along half a cosine.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub momentum: f64,
    /// The projector.
    pub projector: ProjectorConfig,
    /// The predictor.
    pub predictor: PredictorConfig,
    /// The distribution of the views.
    pub augment: AugmentConfig,
    /// Epochs between two k-nearest-neighbour checks, if there are labelled images; 0 turns them off.
    pub knn_every: usize,
    /// Minutes between two checkpoints within an epoch; there is also one after every epoch. Not in the key.
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1440))]
    pub checkpoint_minutes: f64,
    /// Whether a network with collapsed embeddings is a result and not an error. Not in the key.
    pub allow_collapse: bool,
    /// Devices of the backend that share every step: 1, or an even number. Two devices take one half each, and give the
    /// result of one device up to rounding. More devices cut the halves into shards with their own batch statistics,
    /// which changes the result.
    #[schemars(range(min = 1, max = 1024))]
    pub devices: usize,
}

impl Default for ProjectorConfig {
    fn default() -> Self {
        Self { hidden: 256, out: 64 }
    }
}

impl Default for PredictorConfig {
    fn default() -> Self {
        Self { hidden: 256 }
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            arch: Arch::default(),
            seed: Seed::default(),
            epochs: 20,
            batch: 256,
            optimizer: OptimizerKind::default(),
            learning_rate: 2e-3,
            weight_decay: 1e-4,
            warmup_epochs: 1,
            temperature: 0.2,
            momentum: 0.99,
            projector: ProjectorConfig::default(),
            predictor: PredictorConfig::default(),
            augment: AugmentConfig::default(),
            knn_every: 0,
            checkpoint_minutes: 5.0,
            allow_collapse: false,
            devices: 1,
        }
    }
}

impl TrainConfig {
    /// Checks every parameter.
    ///
    /// # Errors
    /// The first field that is outside of its range.
    pub fn check(&self) -> Result<(), ParamError> {
        let Self { epochs, batch, warmup_epochs, temperature, .. } = *self;
        let ProjectorConfig { hidden, out } = self.projector;
        ParamError::epochs("epochs", epochs)?;
        ParamError::require(batch >= 2, "batch", batch, "at least 2, as the loss compares different images")?;
        ParamError::positive("learning_rate", self.learning_rate)?;
        ParamError::non_negative("weight_decay", self.weight_decay)?;
        ParamError::require(warmup_epochs < epochs, "warmup_epochs", warmup_epochs, "fewer than `epochs`")?;
        let stable = temperature >= 0.01 && temperature.is_finite();
        ParamError::require(stable, "temperature", temperature, "at least 0.01")?;
        let moving = (0.0..1.0).contains(&self.momentum);
        ParamError::require(moving, "momentum", self.momentum, "0 or more, and below 1")?;
        ParamError::units("projector.hidden", hidden)?;
        ParamError::require(out >= 2, "projector.out", out, "at least 2")?;
        ParamError::units("projector.out", out)?;
        ParamError::units("predictor.hidden", self.predictor.hidden)?;
        let devices = self.devices;
        ParamError::require(
            devices == 1 || (devices > 0 && devices.is_multiple_of(2)),
            "devices",
            devices,
            "1 or an even number",
        )?;
        ParamError::count("devices", devices, MOST_DEVICES)?;
        // Batch statistics need at least two images per shard; in supervised training, a half is half of the batch.
        let fits = devices <= 2 || batch >= 2 * devices;
        ParamError::require(fits, "batch", batch, "at least twice as many images as `devices`")?;
        let minutes = self.checkpoint_minutes;
        // A day is more than any epoch takes, and far below what overflows a duration.
        ParamError::require(
            minutes > 0.0 && minutes <= 1440.0,
            "checkpoint_minutes",
            minutes,
            "above 0, and up to 1440",
        )?;
        self.augment.check()
    }

    /// Checks that the heads on the network fit into memory.
    ///
    /// # Errors
    /// If they do not fit.
    pub(crate) fn heads_fit(&self, method: Method) -> Result<(), ParamError> {
        let ProjectorConfig { hidden, out } = self.projector;
        // 4 bytes each for every weight, its gradient and at least one moment of the optimiser.
        let bytes = |from: usize, to: usize| 12.0 * from as f64 * to as f64;
        let idle = method.idle();
        if !idle.contains(&"projector") {
            let what = format!("a projector of {hidden} and {out} units");
            ParamError::fits("projector", what, bytes(self.arch.feature_dim(), hidden) + bytes(hidden, out))?;
        }
        if !idle.contains(&"predictor") {
            let hidden = self.predictor.hidden;
            let what = format!("a predictor of {hidden} and {out} units");
            ParamError::fits("predictor.hidden", what, bytes(out, hidden) + bytes(hidden, out))?;
        }
        Ok(())
    }

    /// The parameters that decide the result of `method`, and the method's name, for the key.
    ///
    /// # Errors
    /// If a parameter cannot be written as JSON, which does not happen with these types.
    pub fn key(&self, method: Method) -> serde_json::Result<Value> {
        let mut value = serde_json::to_value(self)?;
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|field, _| !RUNNING.contains(&field.as_str()) && !method.idle().contains(&field.as_str()));
            if self.devices <= 2 {
                fields.remove("devices");
            }
            // Labelled images have no second view, which is the one that is solarised.
            if let (Method::Supervised, Some(Value::Object(augment))) = (method, fields.get_mut("augment")) {
                augment.remove("solarize");
            }
            fields.insert("method".to_owned(), method.name().into());
        }
        Ok(value)
    }

    /// The seed. A pipeline replaces `run` by its own seed before it trains.
    pub(crate) fn seed(&self) -> u64 {
        self.seed.of(0)
    }

    /// The learning rate at `step` of `steps`: linear warm-up, then half a cosine down to 0.
    pub(crate) fn learning_rate_at(&self, step: usize, steps: usize) -> f64 {
        let warmup = self.warmup_epochs * steps / self.epochs;
        if step < warmup {
            return rise(self.learning_rate, step, warmup);
        }
        fall(self.learning_rate, step - warmup, steps - warmup)
    }
}

/// The learning rate at `step` of a linear warm-up to `peak`.
pub(crate) fn rise(peak: f64, step: usize, steps: usize) -> f64 {
    peak * (step + 1) as f64 / steps as f64
}

/// The learning rate at `step` of half a cosine from `peak` to 0.
pub(crate) fn fall(peak: f64, step: usize, steps: usize) -> f64 {
    let done = step as f64 / steps as f64;
    peak * half_cosine(done, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields that SimCLR had before there were other methods are those of its key still.
    #[test]
    fn a_key_has_the_fields_that_the_method_reads() {
        let key = |method, config: TrainConfig| -> Value { config.key(method).unwrap() };
        let fields = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
        let simclr = key(Method::Simclr, TrainConfig::default());
        assert_eq!(
            fields(&simclr),
            "arch augment batch epochs knn_every learning_rate method optimizer projector seed temperature \
             warmup_epochs weight_decay"
        );
        assert_eq!(fields(&simclr["augment"]), "flip grayscale jitter jitter_strength min_area");
        let moco = fields(&key(Method::MocoV3, TrainConfig::default()));
        assert_eq!(
            moco,
            fields(&simclr).replace("method ", "method momentum ").replace("optimizer ", "optimizer predictor ")
        );
        let supervised = fields(&key(Method::Supervised, TrainConfig::default()));
        assert_eq!(supervised, fields(&simclr).replace("projector ", "").replace("temperature ", ""));
        let other = TrainConfig {
            checkpoint_minutes: 1.0,
            allow_collapse: true,
            momentum: 0.5,
            devices: 2,
            ..TrainConfig::default()
        };
        assert_eq!(key(Method::Simclr, other), simclr);
        assert_ne!(key(Method::Simclr, TrainConfig { devices: 4, ..TrainConfig::default() }), simclr);
    }

    #[test]
    fn the_learning_rate_warms_up_and_falls_to_nought() {
        let config = TrainConfig { epochs: 10, warmup_epochs: 2, learning_rate: 1.0, ..TrainConfig::default() };
        let lr = |step| config.learning_rate_at(step, 100);
        assert!((lr(0) - 0.05).abs() < 1e-12);
        assert!((lr(19) - 1.0).abs() < 1e-12);
        assert!((lr(20) - 1.0).abs() < 1e-12);
        assert!((lr(60) - 0.5).abs() < 1e-12, "half way down the cosine");
        assert!(lr(99) < 0.001);
    }
}
