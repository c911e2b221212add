//! The victim `knn`: a vote of the nearest neighbours, without parameters.

use crate::{Train, TrainingSetChange, VictimData};
use hemlock_artifact::{Answers, Outcome};
use hemlock_stage::{ParamError, StageError};
use hemlock_training::knn;
use ndarray::{Array2, Axis, concatenate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Classification by a vote of the training samples with the largest cosine similarity. Ties go to the smaller class.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Knn {
    /// Number of samples that vote.
    #[schemars(range(min = 1))]
    pub neighbors: usize,
}

impl Default for Knn {
    fn default() -> Self {
        Self { neighbors: 20 }
    }
}

impl Knn {
    pub(crate) fn check(&self) -> Result<(), ParamError> {
        ParamError::at_least_one("neighbors", self.neighbors as u64)
    }
}

impl Train for &Knn {
    fn train(&self, _: &str, data: &VictimData, change: &TrainingSetChange) -> Result<Outcome, StageError> {
        let (clean, test) = (&data.features.train, &data.features.test);
        let all = || (0..clean.labels.len()).collect();
        let kept: Vec<usize> = change.kept(clean.labels.len()).unwrap_or_else(all);
        let added = change.features.mapv(|z| z as f32);
        let samples: Array2<f32> =
            concatenate(Axis(0), &[clean.features.view().select(Axis(0), &kept).view(), added.view()])
                .map_err(|e| StageError::internal(format!("poisons have another dimension: {e}")))?;
        let labels: Vec<u32> = kept.iter().map(|i| clean.labels[*i]).chain(change.labels.iter().copied()).collect();
        let stop = || data.ctx.cancel.requested();
        let queries = test.features.view().to_owned();
        let votes = knn::votes(self.neighbors, (samples, &labels), queries, data.classes(), &stop)
            .ok_or_else(StageError::interrupted)?;
        Ok(data.outcome(Answers::of_scores(votes.view(), &test.labels)))
    }
}
