//! The bilevel attack: poisons that raise the error of the *retrained* head, by exact implicit differentiation.
//!
//! The outer problem chooses the features of the poisons; the inner problem trains a head on the clean data and the
//! poisons. The inner problem is convex and small, so it is solved again at every step (by L-BFGS, starting from the
//! last head). The gradient of the outer loss is therefore exact. With `U = H(w*)^-1 grad L_val(w*)`, computed by
//! conjugate gradients, it is
//!
//! ```text
//! dL_val(w*)/dz_j = -1/N d<U, G(z_j, y_j)>/dz
//! ```
//!
//! Gradient Canceling and TGDA approximate this problem. The outer loss is bounded ([`smoothed_error`]), because
//! cross-entropy can grow without limit while accuracy hardly changes.
//!
//! There are two variants:
//!
//! - TGDA, total gradient descent ascent (Lu, Kamath and Yu, "Indiscriminate data poisoning attacks on neural
//!   networks", TMLR 2022), has cross-entropy as the outer loss. Its inner problem is not solved, but takes some steps
//!   of gradient descent each time.
//! - With cross-entropy as the outer loss and a retrained head, it is an attack of its own (`bilevel-cross-entropy`).

use crate::{InnerLoop, Objective, ObjectiveGradient};
use hemlock_head::{
    FitOptions, Head, HeadError, MakePasses, OnHost, Passes, Preconditioner, Samples, SolveOptions, fit_with,
    loss_and_gradient, smoothed_error, solve_hessian_with,
};
use hemlock_optim::Snapshot;
use hemlock_stage::Cancel;
use hemlock_streams::Purpose;
use ndarray::{Array2, ArrayView2, Axis, concatenate};
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

/// Gradient norm at which the inner problem counts as solved within a step.
const INNER_TOLERANCE: f64 = 1e-5;
/// Relative residual at which the linear system with the Hessian counts as solved.
const SOLVE_TOLERANCE: f64 = 1e-3;
/// Absolute value of a parameter from which gradient descent on the inner problem counts as diverged.
const DIVERGED: f64 = 1e50;
/// If the inner training and the linear system take more iterations than this in one step, the preconditioner is made
/// again.
const PATIENCE: usize = 60;

/// The objective `-L_val(w*(poisons))`: minus the loss of the inner problem's head on the samples that it should get
/// wrong.
pub struct BilevelObjective<'a> {
    clean: Samples<'a>,
    raised: Vec<Samples<'a>>,
    weight_decay: f64,
    loss: Loss,
    /// The inner gradient descent and its random batches; `None` if the head is retrained.
    descent: Option<(InnerLoop, ChaCha8Rng)>,
    preconditioner: Arc<Preconditioner>,
    /// The last head and the last solution with its Hessian, from which the next ones start.
    head: Head,
    solution: Option<Array2<f64>>,
    /// The largest gradient norm at which an inner training ended above its tolerance; 0 if all converged.
    unconverged: f64,
    /// The largest relative residual at which a linear system was left above its tolerance; 0 if all were solved.
    unsolved: f64,
    /// Asks the inner training to stop.
    cancel: Cancel,
    /// Makes passes over the clean samples and the poisons.
    passes: &'a dyn MakePasses,
}

/// The loss that the outer problem raises.
#[derive(Clone, Copy)]
enum Loss {
    /// The smoothed error with this temperature.
    SmoothedError(f64),
    CrossEntropy,
}

impl<'a> BilevelObjective<'a> {
    /// The bilevel attack on the smoothed error. The inner problem trains a head on `clean` and the poisons with
    /// `weight_decay`, and its first head is `start`, the clean one. The outer problem raises the error on the samples
    /// of `raised`, smoothed with `temperature`.
    ///
    /// # Errors
    /// Returns an error if there are no clean samples, if they do not fit the start, or if the weight decay is negative
    /// or not finite.
    pub fn new(
        clean: Samples<'a>,
        raised: Vec<Samples<'a>>,
        start: Head,
        weight_decay: f64,
        temperature: f64,
    ) -> Result<Self, HeadError> {
        let preconditioner = Arc::new(Preconditioner::at(&start, &[clean], weight_decay)?);
        Ok(Self {
            clean,
            raised,
            weight_decay,
            loss: Loss::SmoothedError(temperature),
            descent: None,
            preconditioner,
            head: start,
            solution: None,
            unconverged: 0.0,
            unsolved: 0.0,
            cancel: Cancel::default(),
            passes: &OnHost,
        })
    }

    /// TGDA: the head takes steps of gradient descent from `start`, on batches that are drawn with `seed`, and the
    /// outer problem raises the cross-entropy.
    ///
    /// # Errors
    /// Returns the errors of [`BilevelObjective::new`].
    pub fn tgda(
        clean: Samples<'a>,
        raised: Vec<Samples<'a>>,
        start: Head,
        weight_decay: f64,
        inner: InnerLoop,
        seed: u64,
    ) -> Result<Self, HeadError> {
        let descent = Some((inner, Purpose::FollowerBatches.of(seed)));
        Ok(Self { descent, ..Self::cross_entropy(clean, raised, start, weight_decay)? })
    }

    /// The bilevel attack on the cross-entropy: the head is retrained, and the outer problem raises its cross-entropy.
    ///
    /// # Errors
    /// Returns the errors of [`BilevelObjective::new`].
    pub fn cross_entropy(
        clean: Samples<'a>,
        raised: Vec<Samples<'a>>,
        start: Head,
        weight_decay: f64,
    ) -> Result<Self, HeadError> {
        // The temperature belongs to the smoothed error, which is not used here.
        Ok(Self { loss: Loss::CrossEntropy, ..Self::new(clean, raised, start, weight_decay, 1.0)? })
    }

    /// Makes a request to stop end the inner training early, after which results are meaningless. `passes` are those
    /// that the inner training and the linear systems take over the clean samples and the poisons; by default, they are
    /// the host's.
    #[must_use]
    pub fn within(self, cancel: &Cancel, passes: &'a dyn MakePasses) -> Self {
        Self { cancel: cancel.clone(), passes, ..self }
    }

    /// Updates the head of the inner problem: by steps of gradient descent for TGDA, and by retraining otherwise.
    /// Returns the number of iterations of retraining, 0 for gradient descent.
    fn follow(&mut self, training: &[Samples<'_>; 2], passes: &Passes<'_, '_>) -> Result<usize, HeadError> {
        if let Some((InnerLoop { steps, learning_rate, batch }, rng)) = &mut self.descent {
            let [clean, poisons] = training;
            let count = clean.len() + poisons.len();
            for _ in 0..*steps {
                if self.cancel.requested() {
                    break;
                }
                let rows = index::sample(rng, count, (*batch).min(count)).into_vec();
                let (of_clean, of_poisons): (Vec<usize>, Vec<usize>) = rows.iter().partition(|row| **row < clean.len());
                let of_poisons: Vec<usize> = of_poisons.iter().map(|row| row - clean.len()).collect();
                let z = concatenate![Axis(0), clean.select(&of_clean), poisons.select(&of_poisons)];
                let labels = of_clean.iter().map(|row| clean.labels()[*row]);
                let labels: Vec<u32> = labels.chain(of_poisons.iter().map(|row| poisons.labels()[*row])).collect();
                let batch = Samples::new(z.view(), &labels, clean.classes())?;
                let (_, gradient) = loss_and_gradient(&self.head, &[batch], self.weight_decay)?;
                let mut packed = self.head.packed().to_owned();
                packed.scaled_add(-*learning_rate, &gradient);
                if !packed.iter().all(|w| w.abs() < DIVERGED) {
                    let expected =
                        "a smaller one (or a smaller `weight_decay`): the inner head's parameters grow without end";
                    let value = *learning_rate;
                    return Err(HeadError::InvalidOption { name: "inner.learning_rate", value, expected });
                }
                self.head = Head::from_packed(packed)?;
            }
            return Ok(0);
        }
        let options = FitOptions {
            gradient_tolerance: INNER_TOLERANCE,
            start: Some(self.head.clone()),
            preconditioner: Some(Arc::clone(&self.preconditioner)),
            ..FitOptions::new(self.weight_decay)
        };
        let found = fit_with(passes, &options, &|_, _| !self.cancel.requested())?;
        if !found.converged {
            self.unconverged = self.unconverged.max(found.gradient_norm);
        }
        self.head = found.head;
        Ok(found.iterations)
    }

    /// The largest gradient norm at which an inner training ended above its tolerance, if there was one. Gradients are
    /// not exact then.
    #[must_use]
    pub fn unconverged(&self) -> Option<f64> {
        (self.unconverged > 0.0).then_some(self.unconverged)
    }

    /// The largest relative residual at which a linear system with the Hessian was left above its tolerance, if there
    /// was one. Gradients are not exact then.
    #[must_use]
    pub fn unsolved(&self) -> Option<f64> {
        (self.unsolved > 0.0).then_some(self.unsolved)
    }
}

impl Objective for BilevelObjective<'_> {
    fn evaluate(&mut self, features: ArrayView2<f64>, labels: &[u32]) -> Result<ObjectiveGradient, HeadError> {
        let poisons = Samples::new(features.reborrow(), labels, self.clean.classes())?;
        let clean = self.clean;
        let training = [clean.reborrow(), poisons];
        let passes = self.passes.over(&training);
        let iterations = self.follow(&training, &passes)?;
        let head = self.head.clone();
        let (loss, gradient) = match self.loss {
            Loss::SmoothedError(temperature) => smoothed_error(&head, &self.raised, temperature)?,
            Loss::CrossEntropy => loss_and_gradient(&head, &self.raised, 0.0)?,
        };
        let options = SolveOptions {
            tolerance: SOLVE_TOLERANCE,
            start: self.solution.take(),
            preconditioner: Some(Arc::clone(&self.preconditioner)),
            ..SolveOptions::new(self.weight_decay)
        };
        let solved = solve_hessian_with(&passes, &head, gradient.view(), &options)?;
        if !solved.converged {
            self.unsolved = self.unsolved.max(solved.residual);
        }
        if iterations + solved.iterations > PATIENCE && self.preconditioner.is_local() {
            // Poisons far from the clean samples add curvature that a preconditioner for the clean samples does not
            // know.
            self.preconditioner = Arc::new(Preconditioner::at(&head, &training, self.weight_decay)?);
        }
        let solution = solved.solution;
        let count = (self.clean.len() + labels.len()) as f64;
        let adjoint = &solution / count;
        self.solution = Some(solution);
        Ok(ObjectiveGradient::new(-loss, head, adjoint))
    }

    /// The smoothed error or, with cross-entropy as the outer loss, the cross-entropy.
    fn display_value(&self, value: f64) -> f64 {
        -value
    }

    fn is_stochastic(&self) -> bool {
        self.descent.is_some()
    }

    fn state(&self) -> Option<Snapshot> {
        let mut state = Snapshot::default()
            .with("unconverged", self.unconverged)
            .with("unsolved", self.unsolved)
            .with_matrix("head", &self.head.packed().to_owned())
            .with_all("preconditioner", self.preconditioner.state());
        if let Some(solution) = &self.solution {
            state = state.with_matrix("solution", solution);
        }
        if let Some((_, rng)) = &self.descent {
            // 128 bits do not fit a number of JSON.
            state = state.with("drawn", rng.get_word_pos().to_string());
        }
        Some(state)
    }

    fn restore(&mut self, state: &Snapshot) -> Result<(), String> {
        let head = Head::from_packed(state.matrix("head")?).map_err(|e| e.to_string())?;
        if head.packed().dim() != self.head.packed().dim() {
            return Err("its head has another shape".to_owned());
        }
        self.preconditioner = Arc::new(Preconditioner::from_state(&state.under("preconditioner"))?);
        (self.unconverged, self.unsolved) = (state.get("unconverged")?, state.get("unsolved")?);
        self.solution = state.find_matrix("solution");
        if let Some((_, rng)) = &mut self.descent {
            let drawn: String = state.get("drawn")?;
            rng.set_word_pos(drawn.parse().map_err(|_| "its `drawn` is no number")?);
        }
        self.head = head;
        Ok(())
    }

    fn warn(&self) {
        if let Some(gradient_norm) = self.unconverged() {
            tracing::warn!(gradient_norm, "a head that the attack retrained stopped before its tolerance");
        }
        if let Some(relative_residual) = self.unsolved() {
            tracing::warn!(relative_residual, "a gradient of the attack is not exact: a linear system was not solved");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Clouds, clouds};
    use crate::{Choice, Descent, add, descend};
    use hemlock_head::{accuracy, fit};
    use hemlock_threat::Constraint;

    fn bilevel(setting: &Clouds) -> BilevelObjective<'_> {
        BilevelObjective::new(setting.clean(), vec![setting.validation()], setting.head.clone(), 1e-2, 1.0).unwrap()
    }

    /// The outer loss for some poisons, with the inner problem solved to full precision.
    fn loss(setting: &Clouds, z: &Array2<f64>, labels: &[u32]) -> f64 {
        let poisons = Samples::new(z.view(), labels, 3).unwrap();
        let options = FitOptions { gradient_tolerance: 1e-11, ..FitOptions::new(1e-2) };
        let head = fit(&[setting.clean(), poisons], &options, &|_, _| true).unwrap().head;
        smoothed_error(&head, &[setting.validation()], 1.0).unwrap().0
    }

    #[test]
    fn the_gradient_goes_through_retraining() {
        let setting = Clouds::new();
        let (z, labels) = clouds(6, 3);
        let local = bilevel(&setting).evaluate(z.view(), &labels).unwrap();
        assert!((loss(&setting, &z, &labels) + local.value).abs() < 1e-5);
        let found = local.gradient(z.view(), &labels).unwrap();
        let largest = found.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        for i in 0..6 {
            for j in 0..2 {
                let moved = |by: f64| {
                    let mut z = z.clone();
                    z[(i, j)] += by;
                    -loss(&setting, &z, &labels)
                };
                let expected = (moved(1e-4) - moved(-1e-4)) / 2e-4;
                assert!((found[(i, j)] - expected).abs() < 1e-2 * largest, "{} {expected}", found[(i, j)]);
            }
        }
    }

    /// Without weight decay, the Hessian is zero along a feature that no training sample has. No solution exists if the
    /// outer loss depends on that feature.
    #[test]
    fn a_linear_system_without_a_solution_is_noticed() {
        let setting = Clouds::new();
        let (z, labels) = clouds(6, 3);
        let mut solvable = bilevel(&setting);
        solvable.evaluate(z.view(), &labels).unwrap();
        assert_eq!(solvable.unsolved(), None);
        let flat = |samples: Samples| {
            let mut z = samples.select(&(0..samples.len()).collect::<Vec<_>>());
            z.column_mut(1).fill(0.0);
            z
        };
        let (z, clean) = (flat(Samples::new(z.view(), &labels, 3).unwrap()), flat(setting.clean()));
        let clean = Samples::new(clean.view(), setting.clean().labels(), 3).unwrap();
        let head = fit(&[clean.reborrow()], &FitOptions::new(0.0), &|_, _| true).unwrap().head;
        let mut objective = BilevelObjective::new(clean, vec![setting.validation()], head, 0.0, 1.0).unwrap();
        objective.evaluate(z.view(), &labels).unwrap();
        assert!(objective.unsolved().unwrap() > 0.1, "{:?}", objective.unsolved());
    }

    /// The cross-entropy for some poisons, with the inner problem solved to full precision.
    fn cross_entropy(setting: &Clouds, z: &Array2<f64>, labels: &[u32]) -> f64 {
        let poisons = Samples::new(z.view(), labels, 3).unwrap();
        let options = FitOptions { gradient_tolerance: 1e-11, ..FitOptions::new(1e-2) };
        let head = fit(&[setting.clean(), poisons], &options, &|_, _| true).unwrap().head;
        loss_and_gradient(&head, &[setting.validation()], 0.0).unwrap().0
    }

    /// TGDA with `steps` steps of inner gradient descent; if 0, the attack that retrains the head.
    fn tgda(setting: &Clouds, steps: u32) -> BilevelObjective<'_> {
        let (clean, raised, head) = (setting.clean(), vec![setting.validation()], setting.head.clone());
        if steps == 0 {
            return BilevelObjective::cross_entropy(clean, raised, head, 1e-2).unwrap();
        }
        let inner = InnerLoop { steps, learning_rate: 1.0, batch: 1000 };
        BilevelObjective::tgda(clean, raised, head, 1e-2, inner, 0).unwrap()
    }

    /// The total gradient is the gradient of the retrained head's loss, both if the head is retrained and if it has
    /// descended for long enough.
    #[test]
    fn the_total_gradient_is_that_of_the_retrained_head_s_loss() {
        let setting = Clouds::new();
        let (z, labels) = clouds(6, 3);
        for steps in [0, 3000] {
            let local = tgda(&setting, steps).evaluate(z.view(), &labels).unwrap();
            assert!((cross_entropy(&setting, &z, &labels) + local.value).abs() < 1e-4, "{steps} steps");
            let found = local.gradient(z.view(), &labels).unwrap();
            let largest = found.iter().fold(0.0f64, |m, g| m.max(g.abs()));
            for ((i, j), found) in found.indexed_iter() {
                let moved = |by: f64| {
                    let mut z = z.clone();
                    z[(i, j)] += by;
                    -cross_entropy(&setting, &z, &labels)
                };
                let expected = (moved(1e-4) - moved(-1e-4)) / 2e-4;
                assert!((found - expected).abs() < 1e-2 * largest, "{steps} steps: {found} {expected}");
            }
        }
    }

    #[test]
    fn a_head_that_descends_is_fooled_like_one_that_is_retrained() {
        let setting = Clouds::new();
        let (z, labels) = clouds(15, 5);
        let mut objective = tgda(&setting, 5);
        let descent = Descent { steps: 100, step: 0.2, ..Descent::default() };
        let visit = |_, _| Ok::<_, HeadError>(());
        let found =
            descend(&mut objective, z.clone(), labels.clone(), &Constraint::ball(1.5), &descent, visit).unwrap();
        let [before, after] = [&z, &found.features].map(|z| cross_entropy(&setting, z, &labels));
        assert!(after > before + 0.01, "{before} to {after}");
    }

    #[test]
    fn best_labels_and_gains_are_those_of_trial() {
        let setting = Clouds::new();
        let (z, labels) = clouds(12, 4);
        let local = bilevel(&setting).evaluate(Array2::zeros((0, 2)).view(), &[]).unwrap();
        let best = local.best_labels(z.view()).unwrap();
        let gains = local.gains(z.view()).unwrap();
        for (i, row) in z.rows().into_iter().enumerate() {
            let one = row.to_owned().insert_axis(Axis(0));
            let gain = |label: u32| loss(&setting, &one, &[label]);
            let by_trial = (0..3).max_by(|a, b| gain(*a).total_cmp(&gain(*b)));
            assert_eq!(Some(best[i]), by_trial);
            // The decay of one more sample is the same for all labels.
            let (label, other) = (labels[i], (labels[i] + 1) % 3);
            let found = gains[(i, label as usize)] - gains[(i, other as usize)];
            let expected = gain(label) - gain(other);
            assert!((found - expected).abs() < 0.1 * expected.abs() + 1e-5, "{found} {expected}");
        }
    }

    #[test]
    fn it_beats_its_start_and_more_freedom_beats_less() {
        let setting = Clouds::new();
        let (z, labels) = clouds(15, 5);
        let ball = Constraint::ball(1.5);
        let run = |label_update_interval, constraint: &Constraint| {
            let descent = Descent { steps: 60, step: 0.2, label_update_interval, ..Descent::default() };
            let mut first = None;
            let mut bilevel = bilevel(&setting);
            let found = descend(&mut bilevel, z.clone(), labels.clone(), constraint, &descent, |_, error| {
                first.get_or_insert(error);
                Ok::<_, HeadError>(())
            })
            .unwrap();
            let error = bilevel.display_value(found.value);
            // The reported error is that of a head that is trained from scratch.
            assert!((loss(&setting, &found.features, &found.labels) - error).abs() < 1e-4);
            (first.unwrap(), error, found)
        };
        let (first, kept, found) = run(None, &ball);
        assert_eq!(found.labels, labels);
        assert!(kept > first + 0.005, "{first} to {kept}");
        assert!(found.features.rows().into_iter().all(|z| z.dot(&z).sqrt() <= 1.5 + 1e-12));
        let (_, chosen, _) = run(Some(10), &ball);
        let (_, unconstrained, _) = run(Some(10), &Constraint::default());
        assert!(chosen > kept + 0.005, "{chosen} over {kept}");
        assert!(unconstrained > chosen + 0.005, "{unconstrained} over {chosen}");
        assert!(accuracy(&setting.head, setting.validation()).unwrap() > 0.7);

        let mut objective = bilevel(&setting);
        let any = Choice::Any { most: vec![300; 3] };
        let visit = |_, _| Ok::<_, HeadError>(());
        let added = add(&mut objective, 15, &any, &ball, setting.clean(), 0, visit).unwrap();
        assert!(-added.value > first + 0.01, "{} from {first}", -added.value);
    }
}
