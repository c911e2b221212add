//! The parameters of pre-training, and what makes them valid.

use hemlock_models::Arch;
use hemlock_stage::{ParamError, Params};
use serde::{Deserialize, Serialize};

use crate::augment::AugmentConfig;

/// How an extractor is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Contrastive training without labels.
    #[default]
    Simclr,
    /// The random initialisation as it is: the control.
    Random,
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Simclr => "simclr",
            Self::Random => "random",
        })
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

/// The parameters of pre-training. `random` uses only `arch`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PretrainConfig {
    /// How the extractor is made.
    pub method: Method,
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

impl Default for PretrainConfig {
    fn default() -> Self {
        Self {
            method: Method::default(),
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

impl Params for PretrainConfig {
    fn check(&self) -> Result<(), ParamError> {
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
}

impl PretrainConfig {
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

    #[test]
    fn defaults_are_valid_and_fields_are_checked() {
        assert_eq!(PretrainConfig::default().check(), Ok(()));
        let config: PretrainConfig = serde_json::from_str(r#"{"epochs": 3, "warmup_epochs": 3}"#).unwrap();
        assert_eq!(config.check().unwrap_err().to_string(), "`warmup_epochs`: is 3; expected fewer than `epochs`");
        let unknown = serde_json::from_str::<PretrainConfig>(r#"{"epoch": 3}"#);
        assert!(unknown.unwrap_err().to_string().contains("unknown field `epoch`"));
        let arch = serde_json::from_str::<PretrainConfig>(r#"{"arch": "vgg"}"#);
        assert!(arch.unwrap_err().to_string().contains("`resnet20`"));
    }

    #[test]
    fn the_learning_rate_warms_up_and_falls_to_nought() {
        let config = PretrainConfig { epochs: 10, warmup_epochs: 2, learning_rate: 1.0, ..PretrainConfig::default() };
        let lr = |step| config.learning_rate_at(step, 100);
        assert!((lr(0) - 0.05).abs() < 1e-12);
        assert!((lr(19) - 1.0).abs() < 1e-12);
        assert!((lr(20) - 1.0).abs() < 1e-12);
        assert!((lr(60) - 0.5).abs() < 1e-12, "half way down the cosine");
        assert!(lr(99) < 0.001);
    }
}
