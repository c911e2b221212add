//! The parameters of a training, and what makes them valid.

use hemlock_models::Arch;
use hemlock_optim::half_cosine;
use hemlock_stage::{ParamError, Seed};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::augment::AugmentConfig;

/// A way of training. Methods share their fields, so that one table compares them; a field that a method has no use for
/// is ignored.
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

    /// Fields that it ignores.
    fn idle(self) -> &'static [&'static str] {
        match self {
            Self::Simclr => &["momentum", "predictor"],
            Self::MocoV3 => &[],
            Self::Supervised => &["temperature", "projector", "momentum", "predictor"],
        }
    }
}

/// Most devices that a step is shared by.
const MOST_DEVICES: usize = 1024;

/// Fields that decide how a training runs, and nothing of what comes out.
const RUNNING: [&str; 2] = ["checkpoint_minutes", "allow_collapse"];

/// A first-order optimiser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay, betas 0.9 and 0.999.
    #[default]
    AdamW,
    /// Gradient descent with momentum 0.9.
    Sgd,
    /// Layer-wise adaptive rates (You et al., 2017) with momentum 0.9 and trust coefficient 0.001, for large batches.
    /// Its learning rates are hundreds of times those of `adamw`.
    Lars,
}

/// Sizes of the projection head, which is dropped after training: d -> hidden -> out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProjectorConfig {
    /// Width of the hidden layer.
    pub hidden: usize,
    /// Dimension of the embeddings that the loss compares.
    pub out: usize,
}

/// Sizes of the prediction head on the projection of [`Method::MocoV3`]: out -> hidden -> out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PredictorConfig {
    /// Width of the hidden layer.
    pub hidden: usize,
}

/// The parameters of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// The network.
    pub arch: Arch,
    /// Seed of the initialisation, the order of the images and the views; `run`: the pipeline's, so that every seed of
    /// the pipeline has an extractor of its own.
    pub seed: Seed,
    /// Passes over the images.
    pub epochs: usize,
    /// Images of a step, each in two views without labels; the rest of an epoch that fills no batch is left out.
    pub batch: usize,
    /// The optimiser.
    pub optimizer: OptimizerKind,
    /// Largest learning rate, after the warm-up; from there it falls to 0 along a cosine.
    pub learning_rate: f64,
    /// Weight decay of convolutions and matrices; biases and batch norms have none.
    pub weight_decay: f64,
    /// Epochs over which the learning rate rises linearly.
    pub warmup_epochs: usize,
    /// Temperature of the contrastive loss; in a spec that does not give it, 1 for ResNets with `moco-v3`.
    pub temperature: f64,
    /// Momentum of the key encoder at the start; it rises to 1 along half a cosine.
    pub momentum: f64,
    /// The projection head.
    pub projector: ProjectorConfig,
    /// The prediction head.
    pub predictor: PredictorConfig,
    /// The views.
    pub augment: AugmentConfig,
    /// Epochs between two k-nearest-neighbour checks, where labelled images are given; 0 for none.
    pub knn_every: usize,
    /// Minutes between two checkpoints within an epoch; after every epoch there is one, too.
    pub checkpoint_minutes: f64,
    /// Whether a network whose embeddings have collapsed counts as a result.
    pub allow_collapse: bool,
    /// Devices of the backend that share every step: 1, or an even number. Two take a half each, and give what one
    /// gives but for rounding; more cut the halves into shards with batch statistics of their own.
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
    /// The first field outside its range.
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
        // Statistics take at least two images a shard, and without a second view a half is half of the batch.
        let fits = devices <= 2 || batch >= 2 * devices;
        ParamError::require(fits, "batch", batch, "at least twice as many images as `devices`")?;
        let minutes = self.checkpoint_minutes;
        // A day is more than any epoch takes, and far from what a duration cannot hold.
        ParamError::require(
            minutes > 0.0 && minutes <= 1440.0,
            "checkpoint_minutes",
            minutes,
            "above 0, and up to 1440",
        )?;
        self.augment.check()
    }

    /// Requires memory for the heads on the network.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn heads_fit(&self, method: Method) -> Result<(), ParamError> {
        let ProjectorConfig { hidden, out } = self.projector;
        // Of every weight its gradient and at least one moment.
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

    /// The parameters that decide what `method` gives, with its name.
    /// # Errors
    /// None of these parameters give one.
    pub fn key(&self, method: Method) -> serde_json::Result<Value> {
        let mut value = serde_json::to_value(self)?;
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|field, _| !RUNNING.contains(&field.as_str()) && !method.idle().contains(&field.as_str()));
            if self.devices <= 2 {
                fields.remove("devices");
            }
            // There is no second view of an image with a label.
            if let (Method::Supervised, Some(Value::Object(augment))) = (method, fields.get_mut("augment")) {
                augment.remove("solarize");
            }
            fields.insert("method".to_owned(), method.name().into());
        }
        Ok(value)
    }

    /// The number that it draws with. That of a pipeline is put in its place before it trains.
    pub(crate) fn seed(&self) -> u64 {
        self.seed.of(0)
    }

    /// Learning rate at `step` of `steps`: linear warm-up, then half a cosine down to 0.
    pub(crate) fn learning_rate_at(&self, step: usize, steps: usize) -> f64 {
        let warmup = self.warmup_epochs * steps / self.epochs;
        if step < warmup {
            return rise(self.learning_rate, step, warmup);
        }
        fall(self.learning_rate, step - warmup, steps - warmup)
    }
}

/// Learning rate at `step` of a linear warm-up to `peak`.
pub(crate) fn rise(peak: f64, step: usize, steps: usize) -> f64 {
    peak * (step + 1) as f64 / steps as f64
}

/// Learning rate at `step` of a fall from `peak` to 0 along half a cosine.
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
