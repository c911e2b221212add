//! Adaptive attacks: poisons that pass a filter which the attacker knows.
//!
//! What a filter leaves depends on the poisons themselves, so that there is no fixed set to project onto. As Koh,
//! Steinhardt and Liang do ("Stronger data poisoning attacks break data sanitization defenses", Machine Learning 2022),
//! the attack and the filter take turns:
//!
//! 1. The filter is applied to the clean samples and the poisons. Poisons that it removes go back, some of their way at
//!    a time, until it keeps them ([`Evasion::retreat`]). This works with every filter.
//! 2. The attack moves the poisons. If the filter's score has a gradient, poisons stay below the scores that the filter
//!    kept in step 1, by projection ([`Passing`]); otherwise only step 1 of the next turn brings them back.
//!
//! Before each turn, the objective is evaluated at the poisons that the filter keeps. The best ones are the result; the
//! first ones are those of the attack without a filter, so that an adaptive attack never ends worse, by its own
//! simulation of the filter.

use crate::{Objective, ObjectiveGradient};
use hemlock_artifact::{AttackSpec, SimulatedFilter};
use hemlock_defences::filters::{Filtered, FixedScore};
use hemlock_defences::{ConfiguredFilter, DefenceSpec, TrainingData};
use hemlock_head::Samples;
use hemlock_stage::{ErrorKind, ParamError, StageError};
use hemlock_streams::Purpose;
use hemlock_threat::{Constraint, Project};
use ndarray::{Array2, ArrayView2, ArrayViewMut1, Axis, Zip};
use rand::Rng;
use rayon::prelude::*;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;
use std::borrow::Cow;

/// Number of turns that the attack takes after the one without a filter.
pub const TURNS: u32 = 8;
/// The steps of a turn, of an attack that takes `steps` without a filter: all turns take about as many together.
#[must_use]
pub fn steps_of_turn(steps: u32) -> u32 {
    steps.div_ceil(TURNS)
}

/// Shares of its way that a poison keeps when it goes back for the first time in a turn, for the second time and so on.
/// At last it gives up all of it.
const BACK: [f64; 6] = [0.9, 0.75, 0.5, 0.5, 0.25, 0.0];
/// Share of the largest score that a filter keeps below which poisons stay, because the filter changes as they move.
const MARGIN: f64 = 0.99;
/// Newton steps of one projection onto a level set of a score, and turns between such projections and the constraint.
const NEWTON_STEPS: usize = 8;
const PROJECTIONS: usize = 3;

/// Whether an attack knows the filter of the victim. A plan replaces `true` by the filter of each branch.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Adaptive {
    /// Whether the attack adapts.
    Switch(bool),
    /// The filter that the attack adapts to.
    To(DefenceSpec),
}

impl Default for Adaptive {
    fn default() -> Self {
        Self::Switch(false)
    }
}

impl Adaptive {
    /// Whether the attack does not adapt.
    #[must_use]
    pub fn is_off(&self) -> bool {
        matches!(self, Self::Switch(false))
    }

    /// Checks that the defence is a filter.
    ///
    /// # Errors
    /// Returns an error if it is a transformation of images.
    pub fn check(&self) -> Result<(), ParamError> {
        match self {
            Self::To(defence) if defence.filter().is_none() => {
                let message = format!("is true, and an attack adapts to filters; `{}` is none", defence.kind.name());
                Err(ParamError::new("adaptive", message))
            }
            _ => Ok(()),
        }
    }

    /// The filter without parameters that have no effect.
    #[must_use]
    pub fn resolved(&self) -> Self {
        match self {
            Self::To(filter) => Self::To(filter.resolved()),
            switch => switch.clone(),
        }
    }

    /// The filter that the attack adapts to, if it does, with draws of its own.
    ///
    /// # Errors
    /// Returns an error if the plan did not say which one.
    pub fn filter(&self, seed: u64) -> Result<Option<SimulatedFilter>, ParamError> {
        match self {
            Self::Switch(false) => Ok(None),
            Self::Switch(true) => Err(ParamError::new("adaptive", "is true, and no filter was named")),
            Self::To(filter) => {
                let params = serde_json::to_string(&filter.resolved());
                let params = params.map_err(|e| ParamError::new("adaptive", e.to_string()))?;
                Ok(Some(SimulatedFilter { params, seed: Purpose::SimulatedFilter.of(seed).next_u64() }))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Adaptive {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Value::deserialize(from)? {
            Value::Bool(switch) => Ok(Self::Switch(switch)),
            table @ Value::Object(_) => DefenceSpec::deserialize(table).map(Self::To).map_err(de::Error::custom),
            other => Err(de::Error::custom(format!("invalid value: {other}, expected true or false"))),
        }
    }
}

impl JsonSchema for Adaptive {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Adaptive".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "boolean" })
    }
}

/// The filter that poisons have to pass, as the attacker simulates it.
pub struct Evasion<'a> {
    filter: ConfiguredFilter,
    clean: Samples<'a>,
    weight_decay: f64,
    seed: u64,
}

/// Poisons that go back towards what the filter keeps.
pub trait Retreat {
    /// Moves some poisons back, so that the given share of their way is left, and returns the features of these,
    /// `[rows, d]`. `least` are the clean samples that the filter suspects least of each class.
    ///
    /// # Errors
    /// Returns an error if the features cannot be computed.
    fn back(&mut self, rows: &[usize], share: f64, least: &[Option<usize>]) -> Result<Array2<f64>, StageError>;
}

impl<'a> Evasion<'a> {
    /// The filter that an attack adapts to, if it does. The victim trains on `clean` and the poisons with
    /// `weight_decay`.
    ///
    /// # Errors
    /// Returns an error if the filter cannot be read.
    pub fn new(spec: &AttackSpec, clean: Samples<'a>, weight_decay: f64) -> Result<Option<Self>, StageError> {
        let Some(SimulatedFilter { params, seed }) = &spec.filter else { return Ok(None) };
        let defence: DefenceSpec = serde_json::from_str(params).map_err(|e| StageError::new(ErrorKind::Artifact, e))?;
        let filter = defence.filter().ok_or_else(|| StageError::internal("an attack adapts to what is no filter"))?;
        Ok(Some(Self { filter, clean, weight_decay, seed: *seed }))
    }

    /// Calls `then` with the training set of clean samples and poisons, and what the filter says of it.
    fn apply<T>(
        &self,
        features: ArrayView2<f64>,
        labels: &[u32],
        then: impl FnOnce(&TrainingData, Filtered) -> Result<T, StageError>,
    ) -> Result<T, StageError> {
        let poisons = Samples::new(features, labels, self.clean.classes())?;
        let set = TrainingData::new(&[self.clean.reborrow(), poisons], self.weight_decay, self.seed)?;
        let filtered = self.filter.apply(&set)?;
        then(&set, filtered)
    }

    /// Whether the filter keeps each of the poisons.
    ///
    /// # Errors
    /// Returns an error if the filter cannot be applied.
    pub fn keeps(&self, features: ArrayView2<f64>, labels: &[u32]) -> Result<Vec<bool>, StageError> {
        self.apply(features, labels, |_, filtered| Ok(filtered.kept().split_off(self.clean.len())))
    }

    /// Moves the poisons that the filter removes back, until it keeps them. `features`, `[m, d]`, are those of all
    /// poisons, before and after. Returns which poisons the filter keeps at the end.
    ///
    /// # Errors
    /// Returns an error if the filter cannot be applied, or if the poisons' features cannot be computed.
    pub fn retreat(
        &self,
        poisons: &mut dyn Retreat,
        features: &mut Array2<f64>,
        labels: &[u32],
    ) -> Result<Vec<bool>, StageError> {
        let (mut kept, least) = self.apply(features.view(), labels, |_, filtered| {
            let least = self.least_suspicious(&filtered.scores);
            Ok((filtered.kept().split_off(self.clean.len()), least))
        })?;
        for share in BACK {
            let removed: Vec<usize> = (0..kept.len()).filter(|row| !kept[*row]).collect();
            if removed.is_empty() {
                break;
            }
            let moved = poisons.back(&removed, share, &least)?;
            for (row, moved) in removed.iter().zip(moved.outer_iter()) {
                features.row_mut(*row).assign(&moved);
            }
            kept = self.keeps(features.view(), labels)?;
        }
        Ok(kept)
    }

    /// For each class, the clean sample with the smallest score.
    fn least_suspicious(&self, scores: &[f64]) -> Vec<Option<usize>> {
        let mut least: Vec<Option<usize>> = vec![None; self.clean.classes()];
        for (row, label) in self.clean.labels().iter().enumerate() {
            let least = &mut least[*label as usize];
            if least.is_none_or(|other| scores[row] < scores[other]) {
                *least = Some(row);
            }
        }
        least
    }

    /// The set that poisons stay in during a turn that starts at `features`, `[m, d]`: the constraint and, if the score
    /// has a gradient, what the filter keeps.
    ///
    /// # Errors
    /// Returns an error if the filter cannot be applied.
    pub fn passing<'c>(
        &self,
        constraint: &'c Constraint,
        features: ArrayView2<f64>,
        labels: &[u32],
    ) -> Result<Passing<'c>, StageError> {
        self.apply(features, labels, |set, filtered| {
            let mut most = vec![f64::NEG_INFINITY; set.classes()];
            let each = set.labels().into_iter().zip(filtered.removed.iter().zip(&filtered.scores));
            for (label, (_, score)) in each.filter(|(_, (removed, _))| !**removed) {
                most[label as usize] = most[label as usize].max(*score);
            }
            most.iter_mut().for_each(|most| *most *= MARGIN);
            Ok(Passing { constraint, score: self.filter.fixed(set)?.map(|score| (score, most)) })
        })
    }

    /// The value of an objective at the poisons that are kept, infinite if there are none.
    ///
    /// # Errors
    /// Returns an error if the objective cannot be evaluated.
    pub fn value(
        objective: &mut dyn Objective,
        features: &Array2<f64>,
        labels: &[u32],
        kept: &[bool],
    ) -> Result<f64, StageError> {
        let rows: Vec<usize> = (0..kept.len()).filter(|row| kept[*row]).collect();
        if rows.is_empty() {
            return Ok(f64::INFINITY);
        }
        let labels: Vec<u32> = rows.iter().map(|row| labels[*row]).collect();
        let ObjectiveGradient { value, .. } = objective.evaluate(features.select(Axis(0), &rows).view(), &labels)?;
        Ok(value)
    }
}

/// The set that poisons stay in while they move: a constraint and, where a filter's score has a gradient, the features
/// whose score is at most so large for each class.
pub struct Passing<'a> {
    constraint: &'a Constraint,
    score: Option<(Box<dyn FixedScore>, Vec<f64>)>,
}

impl Project for Passing<'_> {
    /// Projects onto both sets in turns, and onto the constraint last.
    fn project(&self, features: &mut Array2<f64>, labels: &[u32]) {
        if let Some((score, most)) = &self.score {
            for _ in 0..PROJECTIONS {
                self.constraint.project(features, labels);
                let rows: Vec<_> = features.rows_mut().into_iter().zip(labels).collect();
                rows.into_par_iter().for_each(|(row, label)| lower(row, *label as usize, &**score, most));
            }
        }
        self.constraint.project(features, labels);
    }
}

/// Moves a sample along the gradient of its score until that is small enough: to first order to the nearest such point.
fn lower(mut z: ArrayViewMut1<f64>, label: usize, score: &dyn FixedScore, most: &[f64]) {
    for _ in 0..NEWTON_STEPS {
        let (value, gradient) = score.at(z.view(), label);
        let (above, square) = (value - most[label], gradient.dot(&gradient));
        if !(above > 0.0 && square > 0.0 && above.is_finite()) {
            return;
        }
        z.scaled_add(-above / square, &gradient);
    }
}

/// Poisoned features, which go back towards the clean sample of their label that the filter suspects least.
pub struct FeaturePoisons<'a> {
    clean: Samples<'a>,
    features: Array2<f64>,
    labels: Vec<u32>,
}

impl<'a> FeaturePoisons<'a> {
    /// Poisons with the given features, `[m, d]`.
    #[must_use]
    pub fn new(clean: Samples<'a>, features: Array2<f64>, labels: &[u32]) -> Self {
        Self { clean, features, labels: labels.to_vec() }
    }
}

impl Retreat for FeaturePoisons<'_> {
    fn back(&mut self, rows: &[usize], share: f64, least: &[Option<usize>]) -> Result<Array2<f64>, StageError> {
        for row in rows {
            let Some(end) = least[self.labels[*row] as usize] else { continue };
            let end = self.clean.select(&[end]);
            Zip::from(self.features.row_mut(*row)).and(end.row(0)).for_each(|z, end| *z = end + share * (*z - end));
        }
        Ok(self.features.select(Axis(0), rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Clouds, clouds};
    use hemlock_defences::filters::FILTERS;
    use serde_json::json;

    /// The filter of the given name against poisons of the clouds.
    fn evasion<'a>(setting: &'a Clouds, kind: &str) -> Evasion<'a> {
        let defence: DefenceSpec = serde_json::from_value(json!({ "kind": kind, "remove": 0.1 })).unwrap();
        Evasion { filter: defence.filter().unwrap(), clean: setting.clean(), weight_decay: 1e-2, seed: 0 }
    }

    /// Poisons far out, all of which the sphere removes.
    fn far(count: usize) -> (Array2<f64>, Vec<u32>) {
        let (z, labels) = clouds(count, 3);
        (z * 20.0, labels)
    }

    #[test]
    fn poisons_go_back_until_every_filter_keeps_them() {
        let setting = Clouds::new();
        for filter in FILTERS {
            let evasion = evasion(&setting, filter.name);
            let (mut z, labels) = far(6);
            let before = evasion.keeps(z.view(), &labels).unwrap();
            let mut moving = FeaturePoisons::new(setting.clean(), z.clone(), &labels);
            let after = evasion.retreat(&mut moving, &mut z, &labels).unwrap();
            assert_eq!(after, evasion.keeps(z.view(), &labels).unwrap());
            let count = |kept: &[bool]| kept.iter().filter(|kept| **kept).count();
            assert!(count(&after) >= count(&before), "{}: {before:?} and {after:?}", filter.name);
            if ["sphere", "slab", "loss", "knn-distance", "spectral"].contains(&filter.name) {
                assert_eq!(count(&after), 6, "{}: {after:?}", filter.name);
            }
        }
    }

    /// Projected poisons have scores just below those that the filter keeps, and keep to the constraint.
    #[test]
    fn poisons_stay_below_the_scores_that_pass() {
        let setting = Clouds::new();
        for kind in ["sphere", "slab", "svd", "loss", "spectral"] {
            let evasion = evasion(&setting, kind);
            let (near, labels) = clouds(6, 3);
            let constraint = Constraint::ball(3.0);
            let passing = evasion.passing(&constraint, near.view(), &labels).unwrap();
            let (score, most) = passing.score.as_ref().unwrap();
            let mut z = far(6).0;
            passing.project(&mut z, &labels);
            for (row, label) in z.rows().into_iter().zip(&labels) {
                assert!(row.dot(&row).sqrt() <= 3.0 + 1e-9);
                let (value, most) = (score.at(row, *label as usize).0, most[*label as usize]);
                assert!(value <= most * 1.05 + 1e-9, "{kind}: {value} above {most}");
            }
        }
    }

    #[test]
    fn the_value_is_that_of_the_poisons_which_are_kept() {
        let setting = Clouds::new();
        let mut objective =
            crate::BilevelObjective::new(setting.clean(), vec![setting.validation()], setting.head.clone(), 1e-2, 1.0)
                .unwrap();
        let (z, labels) = clouds(6, 3);
        let some = Evasion::value(&mut objective, &z, &labels, &[true, false, true, true, false, false]).unwrap();
        let alone = z.select(Axis(0), &[0, 2, 3]);
        let expected = objective.evaluate(alone.view(), &[labels[0], labels[2], labels[3]]).unwrap().value;
        assert!((some - expected).abs() < 1e-6, "{some} and {expected}");
        assert_eq!(Evasion::value(&mut objective, &z, &labels, &[false; 6]).unwrap(), f64::INFINITY);
    }
}
