//! The bilevel attack on a victim that chooses its weight decay: raises the least error of the heads on a grid.

use super::{Attack, Defaults, ObjectiveInputs, bilevel};
use crate::{BilevelObjective, Objective, ObjectiveGradient};
use hemlock_head::HeadError;
use hemlock_optim::Snapshot;
use hemlock_stage::{ParamError, StageError};
use hemlock_threat::Sees;
use ndarray::ArrayView2;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Difference of smoothed errors that counts in the smooth minimum.
const SHARPNESS: f64 = 0.01;

/// Raises the smoothed error of the best of several retrained heads, each with a weight decay of its own, for a victim
/// that chooses among them. An evaluation takes as long as one of `bilevel` for every weight decay.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct BilevelSweep {
    /// The splits whose error is raised.
    sees: Sees,
    /// Temperature of the smoothed error. The lower it is, the closer is the smoothed error to the error rate.
    #[schemars(extend("exclusiveMinimum" = 0))]
    temperature: f64,
    /// The weight decays that the victim chooses from.
    #[schemars(length(min = 1))]
    weight_decays: Vec<f64>,
}

impl Default for BilevelSweep {
    fn default() -> Self {
        let weight_decays = vec![1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
        Self { sees: Sees::default(), temperature: 0.5, weight_decays }
    }
}

impl Attack for BilevelSweep {
    const NAME: &'static str = "bilevel-sweep";
    const VALUE_LABEL: &'static str = "the smallest smoothed error of the retrained heads, smoothed";
    const DEFAULTS: Defaults = bilevel::Bilevel::DEFAULTS;

    fn check(&self) -> Result<(), ParamError> {
        ParamError::positive("temperature", self.temperature)?;
        if self.weight_decays.is_empty() {
            return Err(ParamError::new(
                "weight_decays",
                "is empty; expected weight decays that a victim chooses from",
            ));
        }
        self.weight_decays.iter().try_for_each(|decay| ParamError::non_negative("weight_decays", *decay))
    }

    fn objective<'a>(&self, given: &ObjectiveInputs<'a>) -> Result<Box<dyn Objective + 'a>, StageError> {
        let raised = given.raised(self.sees)?;
        let head = |decay: &f64| {
            let start = given.target.clean.clone();
            let objective = BilevelObjective::new(given.clean, raised.clone(), start, *decay, self.temperature)?;
            Ok::<_, HeadError>(objective.within(given.cancel, given.passes))
        };
        Ok(Box::new(SweepObjective(self.weight_decays.iter().map(head).collect::<Result<_, _>>()?)))
    }
}

/// Minus the smooth minimum `-s ln(1/n Σ exp(-L / s))` of the losses `L` of several inner problems. The smooth minimum
/// lies between the smallest loss and the mean.
struct SweepObjective<'a>(Vec<BilevelObjective<'a>>);

impl Objective for SweepObjective<'_> {
    fn evaluate(&mut self, features: ArrayView2<f64>, labels: &[u32]) -> Result<ObjectiveGradient, HeadError> {
        let all: Vec<_> = self.0.iter_mut().map(|one| one.evaluate(features, labels)).collect::<Result<_, _>>()?;
        // Values are minus losses, so the largest one is of the smallest loss.
        let most = all.iter().map(|one| one.value).fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = all.iter().map(|one| ((one.value - most) / SHARPNESS).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let value = most + SHARPNESS * (sum / all.len() as f64).ln();
        let weighted = all.into_iter().zip(&weights).flat_map(|(one, weight)| {
            one.terms.into_iter().map(move |mut term| {
                term.adjoint *= weight / sum;
                term
            })
        });
        Ok(ObjectiveGradient { value, terms: weighted.collect() })
    }

    fn display_value(&self, value: f64) -> f64 {
        -value
    }

    fn state(&self) -> Option<Snapshot> {
        let states = self.0.iter().map(Objective::state).enumerate();
        states.into_iter().try_fold(Snapshot::default(), |all, (i, one)| Some(all.with_all(&i.to_string(), one?)))
    }

    fn restore(&mut self, state: &Snapshot) -> Result<(), String> {
        self.0.iter_mut().enumerate().try_for_each(|(i, one)| one.restore(&state.under(&i.to_string())))
    }

    fn warn(&self) {
        self.0.iter().for_each(Objective::warn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Clouds, clouds};

    fn sweep<'a>(setting: &'a Clouds, decays: &[f64]) -> SweepObjective<'a> {
        let one = |decay: &f64| {
            let raised = vec![setting.validation()];
            BilevelObjective::new(setting.clean(), raised, setting.head.clone(), *decay, 1.0).unwrap()
        };
        SweepObjective(decays.iter().map(one).collect())
    }

    /// One weight decay is the bilevel attack; of several, the value is between the smallest loss and the mean.
    #[test]
    fn the_smallest_loss_counts() {
        let setting = Clouds::new();
        let (z, labels) = clouds(6, 3);
        let decays = [1e-3, 1e-1, 10.0];
        let loss = |decays: &[f64]| -sweep(&setting, decays).evaluate(z.view(), &labels).unwrap().value;
        let each = decays.map(|decay| loss(&[decay]));
        let (least, mean) = (each.iter().copied().fold(f64::INFINITY, f64::min), each.iter().sum::<f64>() / 3.0);
        let all = loss(&decays);
        assert!(least <= all && all <= mean && each[2] > least + 0.01, "{each:?} {all}");
    }

    #[test]
    fn the_gradient_is_that_of_finite_differences() {
        let setting = Clouds::new();
        let (z, labels) = clouds(6, 3);
        let decays = [1e-2, 3e-2];
        let value = |z: &ndarray::Array2<f64>| {
            // Trained again and again, heads converge further than within one evaluation.
            let mut objective = sweep(&setting, &decays);
            (0..3).map(|_| objective.evaluate(z.view(), &labels).unwrap().value).last().unwrap()
        };
        let found = sweep(&setting, &decays).evaluate(z.view(), &labels).unwrap().gradient(z.view(), &labels).unwrap();
        let largest = found.iter().fold(0.0f64, |most, g| most.max(g.abs()));
        for (i, j) in [(0, 0), (2, 1), (5, 0)] {
            let moved = |by: f64| {
                let mut z = z.clone();
                z[(i, j)] += by;
                value(&z)
            };
            let expected = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!((found[(i, j)] - expected).abs() < 0.05 * largest, "{} {expected}", found[(i, j)]);
        }
    }
}
