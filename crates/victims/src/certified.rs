//! The victims `ensemble`, `prototypes` and `ridge`: classifiers that certify how many poisons a prediction withstands.

use crate::training::on_set;
use crate::{Train, TrainingSetChange, VictimData};
use hemlock_artifact::{Answers, Certificate, Outcome};
use hemlock_defences::certificates::{Certificates, Ensemble, RidgeHead, certify_prototypes};
use hemlock_defences::robust::TrimmedPrototypes;
use hemlock_stage::{ParamError, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Votes of linear heads on parts of the training set, which certify how many samples may be added or removed: deep
/// partition aggregation (Levine & Feizi, 2021) and, with a `spread`, finite aggregation (Wang, Levine & Feizi, 2022).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Voting {
    /// Number of heads.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub heads: usize,
    /// Number of heads that train on each sample.
    #[schemars(range(min = 1))]
    pub spread: usize,
    /// How the votes decide.
    pub election: Election,
}

/// How the votes of heads decide.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Election {
    /// The class with the most votes wins.
    #[default]
    Plurality,
    /// The two classes with the most votes meet in a second round, in which every head votes for one of them (Rezaei et
    /// al., 2023).
    RunOff,
}

/// The class whose training samples are nearest by their trimmed mean distance, which certifies how many of them may be
/// replaced (FCert; Wang et al., 2024). It needs few samples of each class.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Prototypes {
    /// Number of distances that are left out at either end, in each class. A class needs more than twice as many
    /// samples.
    pub trim: usize,
}

/// Ridge regression on one-hot labels, which certifies how many training labels may be changed.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ridge {}

impl Default for Voting {
    fn default() -> Self {
        Self { heads: 50, spread: 1, election: Election::Plurality }
    }
}

impl Default for Prototypes {
    fn default() -> Self {
        Self { trim: 4 }
    }
}

impl Voting {
    pub(crate) fn check(&self) -> Result<(), ParamError> {
        let Self { heads, spread, .. } = *self;
        ParamError::count("heads", heads, 1 << 20)?;
        ParamError::require((1..=heads).contains(&spread), "spread", spread, "at least 1 and at most `heads`")
    }
}

/// The outcome of a certified classifier. Margins of images are radii, and negative ones if the prediction is wrong.
fn outcome(unit: &str, found: &Certificates, data: &VictimData) -> Result<Outcome, StageError> {
    let labels = &data.features.test.labels;
    let each = found.predictions.iter().zip(&found.radii).zip(labels);
    let judged = each.map(|((predicted, radius), label)| {
        let (right, radius) = (predicted == label, *radius as f64);
        (right, if right { radius } else { -radius })
    });
    let outcome = data.outcome(Answers::of(judged));
    let farthest = found.radii.iter().copied().max().unwrap_or(0);
    let accuracy = (0..=farthest).map(|budget| found.certified_accuracy(labels, budget)).collect::<Result<_, _>>()?;
    Ok(Outcome { certificate: Some(Certificate { unit: unit.to_owned(), accuracy }), ..outcome })
}

impl Train for &Voting {
    fn train(&self, _: &str, data: &VictimData, change: &TrainingSetChange) -> Result<Outcome, StageError> {
        let ensemble = on_set(data, change, |set| Ok(Ensemble::train(set, self.heads, self.spread)?))?;
        let test = data.features.test.features.view().mapv(f64::from);
        let found = match self.election {
            Election::Plurality => ensemble.plurality(test.view()),
            Election::RunOff => ensemble.run_off(test.view()),
        };
        outcome("samples added or removed", &found?, data)
    }
}

impl Train for &Prototypes {
    fn train(&self, _: &str, data: &VictimData, change: &TrainingSetChange) -> Result<Outcome, StageError> {
        let prototypes = on_set(data, change, |set| Ok(TrimmedPrototypes::new(set, self.trim)?))?;
        let test = data.features.test.features.view().mapv(f64::from);
        outcome("samples replaced", &certify_prototypes(&prototypes, test.view())?, data)
    }
}

impl Train for &Ridge {
    fn train(&self, _: &str, data: &VictimData, change: &TrainingSetChange) -> Result<Outcome, StageError> {
        let head = on_set(data, change, |set| Ok(RidgeHead::train(set)?))?;
        let test = data.features.test.features.view().mapv(f64::from);
        outcome("labels changed", &head.certify(test.view())?, data)
    }
}
