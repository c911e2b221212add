//! A filter as it is written in specs.

use crate::filters::{FILTERS, Filter, FilterOptions, Filtered, FixedScore, RemovalRule, find};
use crate::{DefenceError, TrainingData};
use hemlock_artifact::Defence;
use hemlock_stage::{ErrorKind, ParamError, StageError};
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

    /// Scores the samples of a training set, and says which ones to remove.
    ///
    /// # Errors
    /// Returns the errors of [`Filter::apply`].
    pub fn apply(&self, set: &TrainingData<'_>) -> Result<Filtered, DefenceError> {
        self.kind.0.apply(set, &self.options())
    }

    /// The score of any sample with the training set fixed. `None` for a filter whose score has no gradient.
    ///
    /// # Errors
    /// Returns the errors of [`Filter::fixed`].
    pub fn fixed(&self, set: &TrainingData<'_>) -> Result<Option<Box<dyn FixedScore>>, DefenceError> {
        self.kind.0.fixed(set, &self.options())
    }

    fn options(&self) -> FilterOptions {
        let removal = self.remove.map_or(RemovalRule::Paper { expected: self.expected }, RemovalRule::Share);
        FilterOptions { removal, neighbors: self.neighbors, tolerance: None }
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
