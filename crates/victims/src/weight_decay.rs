//! The weight decay that a victim chooses.

use crate::VictimData;
use hemlock_defences::weight_decay::{Criterion, Trial, choose};
use hemlock_defences::{TrainingData, TrainingSize};
use hemlock_head::Samples;
use hemlock_stage::{ErrorKind, ParamError, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a victim chooses its weight decay: the value of a grid with the largest accuracy on samples that heads were not
/// trained on; of equal ones, the largest value. The victim then trains on all of its training set.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightDecayChoice {
    /// The samples on which heads are compared.
    pub by: ChosenBy,
    /// The weight decays to choose from.
    #[serde(default = "usual")]
    #[schemars(length(min = 1))]
    pub grid: Vec<f64>,
    /// Share of the training set that is held out, for `validation`.
    #[serde(default = "fifth")]
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub held_out: f64,
    /// Number of folds, for `cross-validation`.
    #[serde(default = "five")]
    #[schemars(range(min = 2))]
    pub folds: usize,
}

/// The samples on which heads are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ChosenBy {
    /// A part of the training set that is held out, with the poisons that are in it.
    Validation,
    /// The clean validation split of the dataset, which the victim trusts.
    Trusted,
    /// Every part of the training set in turn, with the poisons that are in it.
    CrossValidation,
}

fn usual() -> Vec<f64> {
    vec![1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]
}

fn fifth() -> f64 {
    0.2
}

fn five() -> usize {
    5
}

impl WeightDecayChoice {
    pub(crate) fn check(&self) -> Result<(), ParamError> {
        if self.grid.is_empty() {
            return Err(ParamError::new("weight_decay.grid", "is empty; expected weight decays to choose from"));
        }
        self.grid.iter().try_for_each(|decay| ParamError::positive("weight_decay.grid", *decay))?;
        let held_out = self.held_out;
        let inside = held_out > 0.0 && held_out < 1.0;
        ParamError::require(inside, "weight_decay.held_out", held_out, "above 0 and below 1")?;
        ParamError::require(self.folds >= 2, "weight_decay.folds", self.folds, "at least 2")
    }

    /// Returns the parameters with the defaults of those that have no effect.
    #[must_use]
    pub(crate) fn resolved(&self) -> Self {
        let Self { by, ref grid, held_out, folds } = *self;
        let held_out = if by == ChosenBy::Validation { held_out } else { fifth() };
        let folds = if by == ChosenBy::CrossValidation { folds } else { five() };
        Self { by, grid: grid.clone(), held_out, folds }
    }

    pub(crate) fn fits_size(&self, size: TrainingSize) -> Result<(), ParamError> {
        let folds = if self.by == ChosenBy::CrossValidation { self.folds } else { 0 };
        size.require("weight_decay.folds", folds, folds)
    }

    /// Chooses the weight decay for a training set.
    pub(crate) fn choose(&self, blocks: &[Samples<'_>], data: &VictimData) -> Result<f64, StageError> {
        let blocks: Vec<Samples> = blocks.iter().map(Samples::reborrow).collect();
        let set = TrainingData::new(&blocks, 0.0, data.ctx.seed)?;
        let trusted = [data.features.validation.samples(data.classes())?];
        let trial = match self.by {
            ChosenBy::Validation => Trial::HeldOut(self.held_out),
            ChosenBy::CrossValidation => Trial::Folds(self.folds),
            ChosenBy::Trusted if trusted[0].is_empty() => {
                let message = "the victim chooses its weight decay by `trusted` samples, and the dataset has no \
                               validation split: set `validation` of [dataset.downstream]";
                return Err(StageError::new(ErrorKind::Params, message));
            }
            ChosenBy::Trusted => Trial::Trusted(&trusted),
        };
        Ok(choose(&set, &self.grid, trial, Criterion::Accuracy)?.best.weight_decay)
    }
}
