//! Defences: what is done with a training set before a victim trains on it.

use crate::training::on_set;
use crate::{Train, TrainingSetChange, VictimData};
use hemlock_artifact::{Defence, Detection, Outcome};
use hemlock_defences::filters::{FILTERS, Filter, FilterOptions, RemovalRule, find};
use hemlock_defences::metrics;
use hemlock_stage::{ErrorKind, ParamError, StageError};
use ndarray::Axis;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::json;
use std::borrow::Cow;
use std::fmt;

/// A filter of the training set. It sees the features and labels of all samples, poisons among them, and does not know
/// which these are. The victim trains on what it leaves.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DefenceSpec {
    /// The filter.
    pub kind: FilterRef,
    /// Share of the samples that is removed; by default as many as the filter's paper removes if it expects the share
    /// of poisons `expected`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub remove: Option<f64>,
    /// Share of poisons among the samples that the defender reckons with. It has no effect beside `remove`.
    #[serde(default = "reckoned")]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub expected: f64,
    /// Number of neighbours of `knn-distance` and `knn-label`; by default 5 and the mean size of a class. It has no
    /// effect on other filters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub neighbors: Option<usize>,
}

fn reckoned() -> f64 {
    0.05
}

impl hemlock_stage::Params for DefenceSpec {
    fn check(&self) -> Result<(), ParamError> {
        for (field, share) in [("remove", self.remove.unwrap_or(0.0)), ("expected", self.expected)] {
            ParamError::require((0.0..1.0).contains(&share), field, share, "at least 0 and below 1")?;
        }
        if self.remove.is_none() {
            self.kind.0.check_expected(self.expected).map_err(|e| ParamError::new("expected", e.to_string()))?;
        }
        if let Some(neighbors) = self.neighbors {
            ParamError::at_least_one("neighbors", neighbors as u64)?;
        }
        Ok(())
    }
}

impl DefenceSpec {
    /// The defence that the stage `defence` applied.
    ///
    /// # Errors
    /// If the artifact does not say how it works.
    pub fn of(defence: &Defence) -> Result<Self, StageError> {
        serde_json::from_str(&defence.params).map_err(|e| StageError::new(ErrorKind::Artifact, e))
    }

    /// Returns the parameters without those that have no effect.
    #[must_use]
    pub fn resolved(&self) -> Self {
        let expected = if self.remove.is_some() { reckoned() } else { self.expected };
        let neighbors = self.neighbors.filter(|_| self.kind.has_neighbors());
        Self { expected, neighbors, ..self.clone() }
    }

    fn options(&self) -> FilterOptions {
        let removal = self.remove.map_or(RemovalRule::Paper { expected: self.expected }, RemovalRule::Share);
        FilterOptions { removal, neighbors: self.neighbors, tolerance: None }
    }

    /// Filters clean data with a change, and trains a victim on what is left. Samples that the change adds count as
    /// poisons in what is detected.
    ///
    /// # Errors
    /// If the filter would remove a whole class or cannot be applied, or if training fails or is interrupted.
    pub fn train(
        &self,
        victim: &dyn Train,
        what: &str,
        data: &VictimData,
        change: &TrainingSetChange,
    ) -> Result<(Outcome, Detection), StageError> {
        let bar = data.ctx.progress.start(&format!("{} on {what}", self.kind.name()), 0, "steps");
        let filtered = on_set(data, change, |set| Ok(self.kind.0.apply(set, &self.options())?))?;
        drop(bar);
        let n = data.features.train.labels.len();
        let clean = change.kept(n).unwrap_or_else(|| (0..n).collect());
        let is_poison: Vec<bool> = (0..filtered.removed.len()).map(|row| row >= clean.len()).collect();
        let found = metrics::detection(&filtered, &is_poison)?;
        let (of_clean, of_added) = filtered.removed.split_at(clean.len());
        let stays: Vec<usize> = (0..of_added.len()).filter(|row| !of_added[*row]).collect();
        let gone = clean.iter().zip(of_clean).filter(|(_, removed)| **removed).map(|(row, _)| *row as u32);
        let left = TrainingSetChange {
            features: change.features.select(Axis(0), &stays),
            images: None,
            labels: stays.iter().map(|row| change.labels[*row]).collect(),
            removed: change.removed.iter().copied().chain(gone).collect(),
        };
        let metrics::DetectionRates { recall, false_positives, auroc, removed } = found;
        Ok((victim.train(what, data, &left)?, Detection { recall, false_positives, auroc, removed }))
    }
}

/// One of the filters. Specs write it as its name.
#[derive(Clone, Copy)]
pub struct FilterRef(&'static Filter);

impl FilterRef {
    /// The name in specs and results.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// The filter.
    #[must_use]
    pub fn filter(self) -> &'static Filter {
        self.0
    }

    fn has_neighbors(self) -> bool {
        self.name().starts_with("knn-")
    }
}

impl fmt::Debug for FilterRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for FilterRef {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for FilterRef {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        find(&name).map(Self).ok_or_else(|| {
            let known = FILTERS.map(|filter| format!("`{}`", filter.name)).join(", ");
            de::Error::custom(format!("unknown variant `{name}`, expected one of {known}"))
        })
    }
}

impl JsonSchema for FilterRef {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "FilterRef".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let described = |filter: &Filter| {
            let Filter { name, score, rule, source, .. } = filter;
            json!({ "const": name, "description": format!("Scores by {score}. By default removes {rule}. {source}.") })
        };
        json_schema!({ "oneOf": FILTERS.map(described) })
    }
}
