//! The victims `hinge`, `truncated-loss` and `median-of-means`: linear heads whose training tolerates poisons.

use crate::linear::measure;
use crate::training::on_set;
use crate::{Train, TrainingSetChange, VictimData};
use hemlock_artifact::Outcome;
use hemlock_defences::robust::{hinge, median_of_means, truncated_loss};
use hemlock_stage::{ParamError, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A linear head that minimises the multi-class hinge loss (Crammer & Singer, 2001), which grows linearly with the
/// distance to the wrong side.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Hinge {}

/// A linear head whose training counts the cross-entropy of a sample up to a threshold (Wu & Liu, 2007).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TruncatedLoss {
    /// The threshold, in nats.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub threshold: f64,
}

/// The geometric median of linear heads that are trained on disjoint parts of the training set (Minsker, 2015).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MedianOfMeans {
    /// Number of parts.
    #[schemars(range(min = 1))]
    pub parts: usize,
}

impl Default for TruncatedLoss {
    fn default() -> Self {
        Self { threshold: 4.0 }
    }
}

impl Default for MedianOfMeans {
    fn default() -> Self {
        Self { parts: 10 }
    }
}

impl TruncatedLoss {
    pub(crate) fn check(&self) -> Result<(), ParamError> {
        ParamError::positive("threshold", self.threshold)
    }
}

impl MedianOfMeans {
    pub(crate) fn check(&self) -> Result<(), ParamError> {
        ParamError::at_least_one("parts", self.parts as u64)
    }
}

impl Train for &Hinge {
    fn train(&self, _: &str, data: &VictimData, change: &TrainingSetChange) -> Result<Outcome, StageError> {
        let trained = on_set(data, change, |set| Ok(hinge(set)?))?;
        let (gradient_norm, converged) = (Some(trained.gradient_norm), trained.converged);
        Ok(Outcome { gradient_norm, converged, ..measure(trained.head, data)? })
    }
}

impl Train for &TruncatedLoss {
    fn train(&self, _: &str, data: &VictimData, change: &TrainingSetChange) -> Result<Outcome, StageError> {
        measure(on_set(data, change, |set| Ok(truncated_loss(set, self.threshold)?.head))?, data)
    }
}

impl Train for &MedianOfMeans {
    fn train(&self, _: &str, data: &VictimData, change: &TrainingSetChange) -> Result<Outcome, StageError> {
        measure(on_set(data, change, |set| Ok(median_of_means(set, self.parts)?))?, data)
    }
}
