//! The victims `voting`, `prototypes`, `ridge` and `certified-linear`: classifiers that certify how many poisons a
//! prediction withstands.

use crate::training::on_set;
use crate::{Train, TrainingSetChange, VictimData};
use hemlock_artifact::{Answers, Certificate, Outcome};
use hemlock_defences::certificates::{Certificates, Ensemble, RidgeHead, StrongConvexity, certify_prototypes};
use hemlock_defences::robust::TrimmedPrototypes;
use hemlock_stage::{ParamError, StageError};
use hemlock_threat::{Constraint, ConstraintKind, ConstraintKinds};
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

/// A linear head with weight decay on the bias too, which certifies how many samples may be added within a constraint,
/// by the strong convexity and the self-concordance of its objective.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CertifiedLinear {
    /// Weight decay of the head, bias included. By default it is that of `[target-params]`, at which little can be
    /// certified if it is small.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub weight_decay: Option<f64>,
    /// The constraint on added features, as in `[poison-features]`. It has to bound them: `none` and `slab` alone do
    /// not.
    pub constraint: ConstraintKinds,
    /// The fraction of the clean features that lies within each set of the constraint.
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1))]
    pub quantile: f64,
    /// The k of the constraint `knn`.
    #[schemars(range(min = 1))]
    pub neighbors: u32,
}

impl Default for CertifiedLinear {
    fn default() -> Self {
        let constraint = "ball".parse().expect("`ball` is a constraint");
        Self { weight_decay: None, constraint, quantile: 0.95, neighbors: 5 }
    }
}

impl CertifiedLinear {
    pub(crate) fn check(&self) -> Result<(), ParamError> {
        if let Some(weight_decay) = self.weight_decay {
            ParamError::positive("weight_decay", weight_decay)?;
        }
        ParamError::share("quantile", self.quantile)?;
        ParamError::at_least_one("neighbors", self.neighbors)?;
        let bounds = self.constraint.kinds().iter().any(|kind| *kind != ConstraintKind::Slab);
        let expected = "a constraint that bounds poisons, as unbounded ones cannot be certified: `ball`, `box`, \
                        `sphere` or `knn`";
        ParamError::require(bounds, "constraint", &self.constraint, expected)
    }

    /// Returns the parameters with the defaults of those that have no effect.
    #[must_use]
    pub(crate) fn resolved(&self) -> Self {
        let kinds = self.constraint.kinds();
        let quantile = if self.constraint.has_quantile() { self.quantile } else { Self::default().quantile };
        let is_read = kinds.contains(&ConstraintKind::Knn);
        let neighbors = if is_read { self.neighbors } else { Self::default().neighbors };
        Self { quantile, neighbors, ..self.clone() }
    }
}

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

impl Train for &CertifiedLinear {
    fn train(&self, _: &str, data: &VictimData, change: &TrainingSetChange) -> Result<Outcome, StageError> {
        let clean = data.features.train.samples(data.classes())?;
        let constraint = Constraint::new(&self.constraint, clean, self.quantile, self.neighbors as usize)
            .map_err(|e| ParamError::new("constraint", e.to_string()))?;
        let weight_decay = self.weight_decay.unwrap_or(data.weight_decay);
        let data = &VictimData { weight_decay, preconditioner: None, ..*data };
        let head = on_set(data, change, |set| Ok(StrongConvexity::train(set, &constraint)?))?;
        let test = data.features.test.features.view().mapv(f64::from);
        outcome("samples added within the constraint", &head.certify(test.view())?, data)
    }
}
