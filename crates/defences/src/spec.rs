//! A defence as it is written in specs: a filter, or a transformation of images.

use crate::filters::{FILTERS, Filter, FilterOptions, Filtered, FixedScore, RemovalRule, find};
use crate::images::{ImageKind, ImageTransform};
use crate::{DefenceError, TrainingData, TrainingSize};
use hemlock_artifact::Defence;
use hemlock_stage::{ErrorKind, ParamError, StageError};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::json;
use std::borrow::Cow;
use std::fmt;

/// A filter of the training set, or a transformation of images. A filter sees the features and labels of all samples,
/// poisons among them, and does not know which these are; the victim trains on what it leaves. A transformation changes
/// the images for training and for testing alike, before the extractor sees them.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DefenceSpec {
    /// The filter, or the transformation.
    pub kind: DefenceKind,
    /// Share of the samples that a filter removes; by default as many as the filter's paper removes if it expects the
    /// share of poisons `expected`.
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
    /// Quality of `jpeg`; by default 10, as in image shortcut squeezing (Liu et al., 2023). It has no effect on other
    /// kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub quality: Option<u32>,
    /// Standard deviation of `blur`, in pixels; by default 1. It has no effect on other kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 64))]
    pub sigma: Option<f64>,
    /// Bits of `bit-depth` per channel; by default 5, as in feature squeezing for colours (Xu et al., 2018). It has no
    /// effect on other kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 8))]
    pub bits: Option<u32>,
    /// Factor by which `resize` scales both sides before it scales them back; by default 0.5. It has no effect on other
    /// kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub factor: Option<f64>,
    /// Standard deviation of `noise`, in grey levels; by default 8. It has no effect on other kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 255))]
    pub std: Option<f64>,
}

fn reckoned() -> f64 {
    0.05
}

impl hemlock_stage::Params for DefenceSpec {
    fn check(&self) -> Result<(), ParamError> {
        for (field, share) in [("remove", self.remove.unwrap_or(0.0)), ("expected", self.expected)] {
            ParamError::require((0.0..1.0).contains(&share), field, share, "at least 0 and below 1")?;
        }
        if let (None, DefenceKind::Filter(filter)) = (self.remove, self.kind) {
            filter.0.check_expected(self.expected).map_err(|e| ParamError::new("expected", e.to_string()))?;
        }
        if let Some(neighbors) = self.neighbors {
            ParamError::at_least_one("neighbors", neighbors as u64)?;
        }
        // Fields are held to their ranges whatever the kind is.
        for kind in ImageKind::ALL {
            if let Err(DefenceError::Parameter { name, value, expected }) = self.as_transform(kind).check() {
                return Err(ParamError::new(name, format!("is {value}; expected {expected}")));
            }
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
        fn of<T>(holds: bool, value: impl Into<Option<T>>) -> Option<T> {
            value.into().filter(|_| holds)
        }
        let filter = match self.kind {
            DefenceKind::Filter(filter) => Some(filter),
            DefenceKind::Image(_) => None,
        };
        let is = |kind: ImageKind| matches!(self.kind, DefenceKind::Image(own) if own == kind);
        Self {
            kind: self.kind,
            remove: of(filter.is_some(), self.remove),
            expected: if filter.is_none() || self.remove.is_some() { reckoned() } else { self.expected },
            neighbors: of(filter.is_some_and(FilterRef::has_neighbors), self.neighbors),
            quality: of(is(ImageKind::Jpeg), self.quality()),
            sigma: of(is(ImageKind::Blur), self.sigma()),
            bits: of(is(ImageKind::BitDepth), self.bits()),
            factor: of(is(ImageKind::Resize), self.factor()),
            std: of(is(ImageKind::Noise), self.std()),
        }
    }

    /// Checks that a training set of this size is large enough for a filter.
    ///
    /// # Errors
    /// The filter would remove everything, or looks at more neighbours than there are.
    pub fn fits(&self, size: TrainingSize) -> Result<(), ParamError> {
        let DefenceKind::Filter(FilterRef(filter)) = self.kind else { return Ok(()) };
        if let Some(share) = self.remove {
            size.require_rest("remove", share, filter.by_class)?;
        }
        match self.neighbors {
            Some(neighbors) if filter.name == "knn-distance" => {
                size.require_per_class("neighbors", neighbors, neighbors.saturating_add(1))
            }
            Some(neighbors) if filter.name == "knn-label" => {
                size.require("neighbors", neighbors, neighbors.saturating_add(1))
            }
            _ => Ok(()),
        }
    }

    fn quality(&self) -> u32 {
        self.quality.unwrap_or(10)
    }

    fn sigma(&self) -> f64 {
        self.sigma.unwrap_or(1.0)
    }

    fn bits(&self) -> u32 {
        self.bits.unwrap_or(5)
    }

    fn factor(&self) -> f64 {
        self.factor.unwrap_or(0.5)
    }

    fn std(&self) -> f64 {
        self.std.unwrap_or(8.0)
    }

    /// The transformation of that kind, with the parameters as they are.
    fn as_transform(&self, kind: ImageKind) -> ImageTransform {
        match kind {
            ImageKind::Jpeg => ImageTransform::Jpeg { quality: self.quality() },
            ImageKind::Grey => ImageTransform::Grey,
            ImageKind::Blur => ImageTransform::Blur { sigma: self.sigma() },
            ImageKind::BitDepth => ImageTransform::BitDepth { bits: self.bits() },
            ImageKind::Resize => ImageTransform::Resize { factor: self.factor() },
            ImageKind::Noise => ImageTransform::Noise { std: self.std() },
        }
    }

    /// The transformation of images; `None` if the defence is a filter.
    #[must_use]
    pub fn transform(&self) -> Option<ImageTransform> {
        match self.kind {
            DefenceKind::Filter(_) => None,
            DefenceKind::Image(kind) => Some(self.as_transform(kind)),
        }
    }

    /// The filter with its options; `None` if the defence is a transformation of images.
    #[must_use]
    pub fn filter(&self) -> Option<ConfiguredFilter> {
        let DefenceKind::Filter(FilterRef(filter)) = self.kind else { return None };
        let removal = self.remove.map_or(RemovalRule::Paper { expected: self.expected }, RemovalRule::Share);
        Some(ConfiguredFilter {
            filter,
            options: FilterOptions { removal, neighbors: self.neighbors, tolerance: None },
        })
    }
}

/// A filter with its options.
#[derive(Clone, Copy)]
pub struct ConfiguredFilter {
    filter: &'static Filter,
    options: FilterOptions,
}

impl ConfiguredFilter {
    /// Scores the samples of a training set, and says which ones to remove.
    ///
    /// # Errors
    /// Returns the errors of [`Filter::apply`].
    pub fn apply(&self, set: &TrainingData<'_>) -> Result<Filtered, DefenceError> {
        self.filter.apply(set, &self.options)
    }

    /// The score of any sample with the training set fixed. `None` for a filter whose score has no gradient.
    ///
    /// # Errors
    /// Returns the errors of [`Filter::fixed`].
    pub fn fixed(&self, set: &TrainingData<'_>) -> Result<Option<Box<dyn FixedScore>>, DefenceError> {
        self.filter.fixed(set, &self.options)
    }
}

/// A filter or a transformation of images. Specs write it as its name.
#[derive(Debug, Clone, Copy)]
pub enum DefenceKind {
    /// A filter of features.
    Filter(FilterRef),
    /// A transformation of images.
    Image(ImageKind),
}

impl DefenceKind {
    /// The name in specs and results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Filter(filter) => filter.name(),
            Self::Image(kind) => kind.name(),
        }
    }
}

impl Serialize for DefenceKind {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for DefenceKind {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        let image = ImageKind::ALL.into_iter().find(|kind| kind.name() == name).map(Self::Image);
        let found = image.or_else(|| find(&name).map(|filter| Self::Filter(FilterRef(filter))));
        found.ok_or_else(|| unknown(&name, ImageKind::ALL.map(ImageKind::name).into_iter()))
    }
}

/// The error of a name that is neither a filter's nor one of `others`.
fn unknown<E: de::Error>(name: &str, others: impl Iterator<Item = &'static str>) -> E {
    let known = FILTERS.iter().map(|filter| filter.name).chain(others);
    let known = known.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    E::custom(format!("unknown variant `{name}`, expected one of {known}"))
}

impl JsonSchema for DefenceKind {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "DefenceKind".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let all = [FilterRef::json_schema(generator), ImageKind::json_schema(generator)];
        let all = all.iter().filter_map(|schema| schema.get("oneOf")?.as_array());
        json_schema!({ "oneOf": all.flatten().collect::<Vec<_>>() })
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
        find(&name).map(Self).ok_or_else(|| unknown(&name, std::iter::empty()))
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
            json!({ "const": name, "description": format!("Score: {score}. Removed by default: {rule}. {source}.") })
        };
        json_schema!({ "oneOf": FILTERS.map(described) })
    }
}
