//! Adaptive attacks: poisons that pass a filter which the attacker knows.
//!
//! What a filter leaves depends on the poisons themselves, so that there is no fixed set to project onto. As Koh,
//! Steinhardt and Liang do ("Stronger data poisoning attacks break data sanitization defenses", Machine Learning 2022),
//! the attack and the filter take turns:
//!
//! 1. The filter is applied to the clean samples and the poisons. Poisons that it removes go back, some of their way at
//!    a time, until it keeps them ([`AdaptivePoisons::back`]). This works with every filter.
//! 2. The attack moves the poisons. If the filter's score has a gradient, poisons stay below the scores that the filter
//!    kept in step 1, by projection; otherwise only step 1 of the next turn brings them back.
//!
//! Before each turn, the objective is evaluated at the poisons that the filter keeps. The best ones are the result; the
//! first ones are those of the attack without a filter, so that an adaptive attack never ends worse, by its own
//! simulation of the filter.

use crate::Objective;
use hemlock_artifact::{AttackSpec, SimulatedFilter};
use hemlock_defences::filters::{Filtered, FixedScore};
use hemlock_defences::{ConfiguredFilter, DefenceSpec, TrainingData};
use hemlock_head::Samples;
use hemlock_stage::{ErrorKind, ParamError, StageError};
use hemlock_streams::Purpose;
use hemlock_threat::{Constraint, Project};
use ndarray::{Array2, ArrayViewMut1, Axis, Zip};
use rand::Rng;
use rayon::prelude::*;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

/// Number of turns that the attack takes after the one without a filter.
pub const TURNS: u32 = 5;

/// The steps of a turn, if all turns together are to take `steps`, rounded up.
#[must_use]
pub fn steps_of_turn(steps: u32) -> u32 {
    steps.div_ceil(TURNS)
}

/// Shares of its way that a poison keeps when it goes back for the first time in a turn, for the second time and so on.
/// At last it gives up all of it.
const BACK: [f64; 2] = [0.6, 0.0];
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

/// The filter that poisons have to pass, as the attacker simulates it.
pub struct Evasion<'a> {
    filter: ConfiguredFilter,
    clean: Samples<'a>,
    weight_decay: f64,
    seed: u64,
}

/// Poisons that an attack moves in turns with a filter.
pub trait AdaptivePoisons {
    /// The labels, `[m]`.
    fn labels(&self) -> &[u32];

    /// The features of all poisons, `[m, d]`.
    ///
    /// # Errors
    /// Returns an error if they cannot be computed.
    fn features(&self) -> Result<Array2<f64>, StageError>;

    /// Moves some poisons back, so that the given share of their way is left, and returns the features of these,
    /// `[rows, d]`. `least` has the clean sample of each class that the filter suspects least.
    ///
    /// # Errors
    /// Returns an error if the features cannot be computed.
    fn back(&mut self, rows: &[usize], share: f64, least: &[Option<usize>]) -> Result<Array2<f64>, StageError>;

    /// Goes on with the attack for [`steps_of_turn`] steps within a set.
    ///
    /// # Errors
    /// Returns an error if the objective cannot be evaluated, or if the run was interrupted.
    fn descend(&mut self, objective: &mut dyn Objective, set: &dyn Project) -> Result<(), StageError>;

    /// Remembers the poisons as the best so far, with the value of those that the filter keeps.
    fn remember(&mut self, value: f64);
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

    /// Adapts the poisons of an attack that ran without the filter.
    ///
    /// # Errors
    /// Returns an error if the filter cannot be applied, or if poisons cannot be moved.
    pub fn adapt(
        &self,
        objective: &mut dyn Objective,
        constraint: &Constraint,
        poisons: &mut dyn AdaptivePoisons,
    ) -> Result<(), StageError> {
        let mut features = poisons.features()?;
        let mut filtered = self.apply(&features, poisons.labels())?;
        let mut best = self.value(objective, &features, poisons.labels(), &filtered)?;
        poisons.remember(best);
        for turn in 0..=TURNS {
            if turn > 0 {
                let passing = self.passing(constraint, &features, poisons.labels(), &filtered)?;
                poisons.descend(objective, &passing)?;
                features = poisons.features()?;
                filtered = self.apply(&features, poisons.labels())?;
            }
            self.retreat(poisons, &mut features, &mut filtered)?;
            let value = self.value(objective, &features, poisons.labels(), &filtered)?;
            if value < best || objective.is_stochastic() {
                best = value;
                poisons.remember(best);
            }
        }
        Ok(())
    }

    /// Moves the poisons that the filter removes back, until it keeps them.
    fn retreat(
        &self,
        poisons: &mut dyn AdaptivePoisons,
        features: &mut Array2<f64>,
        filtered: &mut Filtered,
    ) -> Result<(), StageError> {
        let least = self.least_suspicious(&filtered.scores);
        for share in BACK {
            let removed = self.poisons(filtered, true);
            if removed.is_empty() {
                break;
            }
            let moved = poisons.back(&removed, share, &least)?;
            for (row, moved) in removed.iter().zip(moved.outer_iter()) {
                features.row_mut(*row).assign(&moved);
            }
            *filtered = self.apply(features, poisons.labels())?;
        }
        Ok(())
    }

    /// What the filter says of the clean samples and the poisons, in this order.
    fn apply(&self, features: &Array2<f64>, labels: &[u32]) -> Result<Filtered, StageError> {
        self.on_set(features, labels, |set| Ok(self.filter.apply(set)?))
    }

    fn on_set<T>(
        &self,
        features: &Array2<f64>,
        labels: &[u32],
        then: impl FnOnce(&TrainingData) -> Result<T, StageError>,
    ) -> Result<T, StageError> {
        let poisons = Samples::new(features.view(), labels, self.clean.classes())?;
        then(&TrainingData::new(&[self.clean.reborrow(), poisons], self.weight_decay, self.seed)?)
    }

    /// The poisons that the filter removes, or those that it keeps.
    fn poisons(&self, filtered: &Filtered, removed: bool) -> Vec<usize> {
        let poisons = &filtered.removed[self.clean.len()..];
        (0..poisons.len()).filter(|row| poisons[*row] == removed).collect()
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
    fn passing<'c>(
        &self,
        constraint: &'c Constraint,
        features: &Array2<f64>,
        labels: &[u32],
        filtered: &Filtered,
    ) -> Result<Passing<'c>, StageError> {
        self.on_set(features, labels, |set| {
            let Some(score) = self.filter.fixed(set)? else { return Ok(Passing { constraint, score: None }) };
            let mut most = vec![f64::NEG_INFINITY; set.classes()];
            for (label, (removed, score)) in set.labels().into_iter().zip(filtered.removed.iter().zip(&filtered.scores))
            {
                if !removed {
                    most[label as usize] = most[label as usize].max(*score);
                }
            }
            most.iter_mut().for_each(|most| *most *= MARGIN);
            Ok(Passing { constraint, score: Some((score, most)) })
        })
    }

    /// The value of an objective at the poisons that the filter keeps, if any.
    fn value(
        &self,
        objective: &mut dyn Objective,
        features: &Array2<f64>,
        labels: &[u32],
        filtered: &Filtered,
    ) -> Result<f64, StageError> {
        let kept = self.poisons(filtered, false);
        let labels: Vec<u32> = kept.iter().map(|row| labels[*row]).collect();
        Ok(objective.evaluate(features.select(Axis(0), &kept).view(), &labels)?.value)
    }
}

/// The set that poisons stay in while they move: a constraint and, where a filter's score has a gradient, the features
/// whose score is at most so large for each class.
struct Passing<'a> {
    constraint: &'a Constraint,
    score: Option<(Box<dyn FixedScore>, Vec<f64>)>,
}

impl Project for Passing<'_> {
    /// Projects onto both sets in turns, and onto the constraint last.
    fn project(&self, features: &mut Array2<f64>, labels: &[u32]) {
        if let Some((score, most)) = &self.score {
            let mut moved = vec![true; labels.len()];
            for _ in 0..PROJECTIONS {
                self.constraint.project(features, labels);
                let rows: Vec<_> = features.rows_mut().into_iter().zip(labels).zip(&mut moved).collect();
                rows.into_par_iter().for_each(|((row, label), moved)| {
                    *moved = *moved && lower(row, *label as usize, &**score, most);
                });
                if !moved.contains(&true) {
                    return;
                }
            }
        }
        self.constraint.project(features, labels);
    }
}

/// Moves a sample along the gradient of its score until that is small enough: to first order to the nearest such point.
/// Returns whether it has moved.
fn lower(mut z: ArrayViewMut1<f64>, label: usize, score: &dyn FixedScore, most: &[f64]) -> bool {
    for step in 0..NEWTON_STEPS {
        let (value, gradient) = score.at(z.view(), label);
        let (above, square) = (value - most[label], gradient.dot(&gradient));
        if !(above > 0.0 && square > 0.0 && above.is_finite()) {
            return step > 0;
        }
        z.scaled_add(-above / square, &gradient);
    }
    true
}

/// Moves some of the features `[m, d]` of poisons towards the clean samples of their labels that the filter suspects
/// least, within the constraint, and returns them, `[rows, d]`. See [`AdaptivePoisons::back`].
pub fn move_back(
    features: &mut Array2<f64>,
    labels: &[u32],
    (rows, share, least): (&[usize], f64, &[Option<usize>]),
    clean: Samples,
    constraint: &Constraint,
) -> Array2<f64> {
    let mut moved = features.select(Axis(0), rows);
    for (mut z, row) in moved.rows_mut().into_iter().zip(rows) {
        if let Some(end) = least[labels[*row] as usize] {
            let end = clean.select(&[end]);
            Zip::from(&mut z).and(end.row(0)).for_each(|z, end| *z = end + share * (*z - end));
        }
    }
    // The clean sample itself may lie outside.
    constraint.project(&mut moved, &rows.iter().map(|row| labels[*row]).collect::<Vec<_>>());
    rows.iter().zip(moved.rows()).for_each(|(row, z)| features.row_mut(*row).assign(&z));
    moved
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

    /// Poisons that no attack moves: they only go back.
    struct Features<'a> {
        setting: &'a Clouds,
        constraint: Constraint,
        features: Array2<f64>,
        labels: Vec<u32>,
        best: Option<(f64, Array2<f64>)>,
    }

    impl AdaptivePoisons for Features<'_> {
        fn labels(&self) -> &[u32] {
            &self.labels
        }
        fn features(&self) -> Result<Array2<f64>, StageError> {
            Ok(self.features.clone())
        }
        fn back(&mut self, rows: &[usize], share: f64, least: &[Option<usize>]) -> Result<Array2<f64>, StageError> {
            let back = (rows, share, least);
            Ok(move_back(&mut self.features, &self.labels, back, self.setting.clean(), &self.constraint))
        }
        fn descend(&mut self, _: &mut dyn Objective, set: &dyn Project) -> Result<(), StageError> {
            set.project(&mut self.features, &self.labels);
            Ok(())
        }
        fn remember(&mut self, value: f64) {
            self.best = Some((value, self.features.clone()));
        }
    }

    #[test]
    fn poisons_go_back_until_every_filter_keeps_them() {
        let setting = Clouds::new();
        for filter in FILTERS {
            let evasion = evasion(&setting, filter.name);
            let (features, labels) = far(6);
            let before = evasion.apply(&features, &labels).unwrap();
            let constraint = Constraint::ball(3.0);
            let mut poisons = Features { setting: &setting, constraint, features, labels, best: None };
            let (mut features, mut filtered) = (poisons.features.clone(), before.clone());
            evasion.retreat(&mut poisons, &mut features, &mut filtered).unwrap();
            assert_eq!(features, poisons.features);
            assert_eq!(filtered, evasion.apply(&features, &poisons.labels).unwrap());
            let (removed, first) = (evasion.poisons(&filtered, true), evasion.poisons(&before, true));
            assert!(removed.len() <= first.len(), "{}: {first:?} and {removed:?}", filter.name);
            if ["sphere", "slab", "loss", "knn-distance", "spectral"].contains(&filter.name) {
                assert!(removed.is_empty(), "{}: {removed:?}", filter.name);
            }
            // What went back keeps to the constraint, wherever the clean sample lies that it goes back to.
            for row in first {
                assert!(features.row(row).dot(&features.row(row)).sqrt() <= 3.0 + 1e-9, "{}", filter.name);
            }
        }
    }

    /// Projected poisons have scores just below those that the filter keeps, and keep to the constraint.
    #[test]
    fn poisons_stay_below_the_scores_that_pass() {
        let setting = Clouds::new();
        for kind in ["sphere", "slab", "svd", "loss", "spectral", "self-influence"] {
            let evasion = evasion(&setting, kind);
            let (near, labels) = clouds(6, 3);
            let constraint = Constraint::ball(3.0);
            let filtered = evasion.apply(&near, &labels).unwrap();
            let passing = evasion.passing(&constraint, &near, &labels, &filtered).unwrap();
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

    fn bilevel(setting: &Clouds) -> crate::BilevelObjective<'_> {
        let raised = vec![setting.validation()];
        crate::BilevelObjective::new(setting.clean(), raised, setting.head.clone(), 1e-2, 1.0).unwrap()
    }

    /// The poisons of the result are at least as good as the first ones, as the filter leaves them.
    #[test]
    fn the_result_is_never_worse_than_the_attack_without_the_filter() {
        let setting = Clouds::new();
        for filter in FILTERS {
            let evasion = evasion(&setting, filter.name);
            let (features, labels) = far(6);
            let filtered = evasion.apply(&features, &labels).unwrap();
            let first = evasion.value(&mut bilevel(&setting), &features, &labels, &filtered).unwrap();
            let constraint = Constraint::default();
            let mut poisons = Features { setting: &setting, constraint, features, labels, best: None };
            evasion.adapt(&mut bilevel(&setting), &Constraint::default(), &mut poisons).unwrap();
            let (value, features) = poisons.best.unwrap();
            assert!(value <= first + 1e-6, "{}: {value} and {first}", filter.name);
            let filtered = evasion.apply(&features, &poisons.labels).unwrap();
            let again = evasion.value(&mut bilevel(&setting), &features, &poisons.labels, &filtered).unwrap();
            assert!((value - again).abs() < 1e-4, "{}: {value} and {again}", filter.name);
        }
    }

    /// If the filter keeps no poison, the value is that of clean data.
    #[test]
    fn the_value_is_that_of_the_poisons_which_are_kept() {
        let setting = Clouds::new();
        let evasion = evasion(&setting, "sphere");
        let (z, labels) = clouds(6, 3);
        let mut filtered = evasion.apply(&z, &labels).unwrap();
        let mut value = |removed: [bool; 6]| {
            filtered.removed[setting.clean().len()..].copy_from_slice(&removed);
            evasion.value(&mut bilevel(&setting), &z, &labels, &filtered).unwrap()
        };
        let some = value([false, true, false, false, true, true]);
        let alone = z.select(Axis(0), &[0, 2, 3]);
        let expected = bilevel(&setting).evaluate(alone.view(), &[labels[0], labels[2], labels[3]]).unwrap().value;
        assert!((some - expected).abs() < 1e-6, "{some} and {expected}");
        let none = bilevel(&setting).evaluate(Array2::zeros((0, 2)).view(), &[]).unwrap().value;
        assert!((value([true; 6]) - none).abs() < 1e-6);
    }
}
