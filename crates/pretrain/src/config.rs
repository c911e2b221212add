//! The parameters of pre-training, and what makes them valid.

use hemlock_models::Arch;
use hemlock_stage::{ParamError, Params};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use serde_json::{Map, Value};

use crate::augment::AugmentConfig;
use crate::import::ImportConfig;

/// How an extractor is made, and what that needs.
///
/// In TOML a table with the `method` (`simclr` where it is absent) and the fields of that method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", tag = "method", rename_all = "lowercase")]
pub enum PretrainConfig {
    /// Contrastive training without labels.
    Simclr(SimclrConfig),
    /// The random initialisation as it is: the control. It has the fields of the training that it is the
    /// control of, so that one table compares both; `arch` and `seed` decide it.
    Random(SimclrConfig),
    /// Weights that were trained elsewhere.
    Import(ImportConfig),
}

impl PretrainConfig {
    /// The method's name in a spec.
    #[must_use]
    pub fn method(&self) -> &'static str {
        match self {
            Self::Simclr(_) => "simclr",
            Self::Random(_) => "random",
            Self::Import(_) => "import",
        }
    }
}

impl Serialize for PretrainConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The derived, inherent function of `remote = "Self"`.
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for PretrainConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut table = Map::deserialize(deserializer)?;
        table.entry("method").or_insert_with(|| "simclr".into());
        Self::deserialize(Value::Object(table)).map_err(D::Error::custom)
    }
}

impl Params for PretrainConfig {
    fn check(&self) -> Result<(), ParamError> {
        match self {
            Self::Simclr(config) | Self::Random(config) => config.check(),
            Self::Import(config) => config.check(),
        }
    }
}

/// A first-order optimiser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay, betas 0.9 and 0.999.
    #[default]
    AdamW,
    /// Gradient descent with momentum 0.9.
    Sgd,
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

/// The parameters of SimCLR.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimclrConfig {
    /// The network.
    pub arch: Arch,
    /// Seed of the initialisation, the order of the images and the views.
    pub seed: u64,
    /// Passes over the images.
    pub epochs: usize,
    /// Images of a step, each in two views; the rest of an epoch that fills no batch is left out.
    pub batch: usize,
    /// The optimiser.
    pub optimizer: OptimizerKind,
    /// Largest learning rate, after the warm-up; from there it falls to 0 along a cosine.
    pub learning_rate: f64,
    /// Weight decay of convolutions and matrices; biases and batch norms have none.
    pub weight_decay: f64,
    /// Epochs over which the learning rate rises linearly.
    pub warmup_epochs: usize,
    /// Temperature of the contrastive loss.
    pub temperature: f64,
    /// The projection head.
    pub projector: ProjectorConfig,
    /// The views.
    pub augment: AugmentConfig,
    /// Epochs between two k-nearest-neighbour checks, where labelled images are given; 0 for none.
    pub knn_every: usize,
}

impl Default for ProjectorConfig {
    fn default() -> Self {
        Self { hidden: 256, out: 64 }
    }
}

impl Default for SimclrConfig {
    fn default() -> Self {
        Self {
            arch: Arch::default(),
            seed: 0,
            epochs: 20,
            batch: 256,
            optimizer: OptimizerKind::default(),
            learning_rate: 2e-3,
            weight_decay: 1e-4,
            warmup_epochs: 1,
            temperature: 0.2,
            projector: ProjectorConfig::default(),
            augment: AugmentConfig::default(),
            knn_every: 0,
        }
    }
}

impl SimclrConfig {
    /// Checks every parameter.
    ///
    /// # Errors
    /// The first field outside its range.
    pub(crate) fn check(&self) -> Result<(), ParamError> {
        let Self { epochs, batch, warmup_epochs, temperature, .. } = *self;
        let ProjectorConfig { hidden, out } = self.projector;
        ParamError::at_least_one("epochs", epochs as u64)?;
        ParamError::require(batch >= 2, "batch", batch, "at least 2, as the loss compares different images")?;
        ParamError::positive("learning_rate", self.learning_rate)?;
        ParamError::non_negative("weight_decay", self.weight_decay)?;
        ParamError::require(warmup_epochs < epochs, "warmup_epochs", warmup_epochs, "fewer than `epochs`")?;
        let stable = temperature >= 0.01 && temperature.is_finite();
        ParamError::require(stable, "temperature", temperature, "at least 0.01")?;
        ParamError::at_least_one("projector.hidden", hidden as u64)?;
        ParamError::require(out >= 2, "projector.out", out, "at least 2")?;
        self.augment.check()
    }

    /// Learning rate at `step` of `steps`: linear warm-up, then half a cosine down to 0.
    pub(crate) fn learning_rate_at(&self, step: usize, steps: usize) -> f64 {
        let warmup = self.warmup_epochs * steps / self.epochs;
        if step < warmup {
            return self.learning_rate * (step + 1) as f64 / warmup as f64;
        }
        let done = (step - warmup) as f64 / (steps - warmup) as f64;
        self.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<PretrainConfig, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_valid_and_fields_are_checked() {
        assert_eq!(SimclrConfig::default().check(), Ok(()));
        let config = parse(r#"{"epochs": 3, "warmup_epochs": 3}"#).unwrap();
        assert_eq!(config.check().unwrap_err().to_string(), "`warmup_epochs`: is 3; expected fewer than `epochs`");
        assert!(parse(r#"{"epoch": 3}"#).unwrap_err().contains("unknown field `epoch`"));
        assert!(parse(r#"{"arch": "vgg"}"#).unwrap_err().contains("`resnet20`"));
    }

    #[test]
    fn every_method_has_its_fields_and_simclr_is_the_default() {
        assert_eq!(parse("{}"), Ok(PretrainConfig::Simclr(SimclrConfig::default())));
        assert_eq!(parse(r#"{"method": "random", "epochs": 20}"#), Ok(PretrainConfig::Random(SimclrConfig::default())));
        let import = r#"{"method": "import", "weights": "x.pth", "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}"#;
        let config = parse(import).unwrap();
        assert_eq!(serde_json::from_value(serde_json::to_value(&config).unwrap()).ok(), Some(config));
        let message = parse(&import.replace('}', r#", "epochs": 3}"#)).unwrap_err();
        assert!(message.starts_with("unknown field `epochs`, expected one of `arch`, `weights`"), "{message}");
        assert!(parse(r#"{"method": "simclr", "weights": "x.pth"}"#).unwrap_err().contains("unknown field `weights`"));
        assert!(parse(r#"{"method": "moco"}"#).unwrap_err().contains("`simclr`, `random`, `import`"));
    }

    #[test]
    fn the_learning_rate_warms_up_and_falls_to_nought() {
        let config = SimclrConfig { epochs: 10, warmup_epochs: 2, learning_rate: 1.0, ..SimclrConfig::default() };
        let lr = |step| config.learning_rate_at(step, 100);
        assert!((lr(0) - 0.05).abs() < 1e-12);
        assert!((lr(19) - 1.0).abs() < 1e-12);
        assert!((lr(20) - 1.0).abs() < 1e-12);
        assert!((lr(60) - 0.5).abs() < 1e-12, "half way down the cosine");
        assert!(lr(99) < 0.001);
    }
}
