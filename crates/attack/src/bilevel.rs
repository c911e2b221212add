//! The bilevel attack: poisons that raise the error of the *retrained* head, by exact implicit differentiation.
//!
//! The leader chooses the poisons' features, the follower trains a head on the clean data and the poisons. The
//! follower's problem is convex and small, so that it is solved anew at every step (L-BFGS, started from the last
//! head), and the gradient of the leader's loss through it is exact: with `U = H(w*)^-1 grad L_val(w*)`, by conjugate
//! gradients,
//!
//! ```text
//! dL_val(w*)/dz_j = -1/N d<U, G(z_j, y_j)>/dz
//! ```
//!
//! This is the problem that Gradient CancelingObjective and TGDA approximate. The leader's loss is bounded
//! ([`smoothed_error`]): cross-entropy soars while accuracy hardly moves.
//!
//! TGDA, total gradient descent ascent (Lu, Kamath and Yu, "Indiscriminate data poisoning attacks on neural networks",
//! TMLR 2022), has cross-entropy for the leader's loss, and a follower who takes some steps of gradient descent where
//! this one is retrained. Cross-entropy against a follower who is retrained is an attack of its own.

use crate::{InnerLoop, Objective, ObjectiveGradient};
use hemlock_head::{
    FitOptions, Head, HeadError, Preconditioner, Samples, SolveOptions, fit, loss_and_gradient, smoothed_error,
    solve_hessian,
};
use hemlock_stage::Cancel;
use hemlock_streams::Purpose;
use ndarray::{Array2, ArrayView2, Axis, concatenate};
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

/// Gradient norm at which the follower counts as trained within a step.
const FOLLOWER_TOLERANCE: f64 = 1e-5;
/// Relative residual at which the Hessian counts as inverted.
const SOLVE_TOLERANCE: f64 = 1e-3;
/// Parameters of a follower that has diverged.
const DIVERGED: f64 = 1e50;
/// Iterations of training and inversion together, in one step, after which the preconditioner is made anew.
const PATIENCE: usize = 60;

/// The objective `-L_val(w*(poisons))`: minus the loss of the follower on samples that the leader wants it to get
/// wrong.
pub struct BilevelObjective<'a> {
    clean: Samples<'a>,
    raised: Vec<Samples<'a>>,
    weight_decay: f64,
    loss: Loss,
    /// Of a follower who descends; `None`: it is retrained.
    descent: Option<(InnerLoop, ChaCha8Rng)>,
    preconditioner: Arc<Preconditioner>,
    /// The last inner, and the last solution with its Hessian: where the next ones start.
    head: Head,
    solution: Option<Array2<f64>>,
    /// The largest gradient norm at which a follower's training stopped above its tolerance; 0: none did.
    unconverged: f64,
    /// A request to stop.
    cancel: Cancel,
}

/// What the leader raises.
#[derive(Clone, Copy)]
enum Loss {
    /// The error, smoothed with that temperature.
    SmoothedError(f64),
    CrossEntropy,
}

impl<'a> BilevelObjective<'a> {
    /// Against a follower that trains on `clean` and the poisons with that weight decay, and a leader who raises the
    /// error on the samples of `raised`, smoothed with that temperature. `start` is the follower's first head: the
    /// clean one.
    ///
    /// # Errors
    /// No clean samples, or samples that do not fit each other.
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
            cancel: Cancel::default(),
        })
    }

    /// TGDA: the same against a follower who descends from `start`, on batches that are drawn with `seed`, and a leader
    /// who raises the cross-entropy.
    ///
    /// # Errors
    /// As [`BilevelObjective::new`].
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

    /// Against a follower who is retrained, and a leader who raises the cross-entropy.
    ///
    /// # Errors
    /// As [`BilevelObjective::new`].
    pub fn cross_entropy(
        clean: Samples<'a>,
        raised: Vec<Samples<'a>>,
        start: Head,
        weight_decay: f64,
    ) -> Result<Self, HeadError> {
        // The temperature is of the error, which is not raised here.
        Ok(Self { loss: Loss::CrossEntropy, ..Self::new(clean, raised, start, weight_decay, 1.0)? })
    }

    /// Ends what the follower does where a stop is asked for. What comes out then is of no use.
    #[must_use]
    pub fn stopped_by(self, cancel: &Cancel) -> Self {
        Self { cancel: cancel.clone(), ..self }
    }

    /// Stochasticity the inner, and returns how many steps its preconditioned training took, if that is what it
    /// does.
    fn follow(&mut self, training: &[Samples<'_>; 2]) -> Result<usize, HeadError> {
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
                        "a smaller one (or a smaller `weight_decay`): the follower's parameters grow without end";
                    let value = *learning_rate;
                    return Err(HeadError::InvalidOption { name: "inner.learning_rate", value, expected });
                }
                self.head = Head::from_packed(packed)?;
            }
            return Ok(0);
        }
        let options = FitOptions {
            gradient_tolerance: FOLLOWER_TOLERANCE,
            start: Some(self.head.clone()),
            preconditioner: Some(Arc::clone(&self.preconditioner)),
            ..FitOptions::new(self.weight_decay)
        };
        let found = fit(training, &options, &|_, _| !self.cancel.requested())?;
        if !found.converged {
            self.unconverged = self.unconverged.max(found.gradient_norm);
        }
        self.head = found.head;
        Ok(found.iterations)
    }

    /// The largest gradient norm at which a follower's training stopped above its tolerance, if one did: gradients are
    /// not exact then.
    #[must_use]
    pub fn unconverged(&self) -> Option<f64> {
        (self.unconverged > 0.0).then_some(self.unconverged)
    }
}

impl Objective for BilevelObjective<'_> {
    fn evaluate(&mut self, features: ArrayView2<f64>, labels: &[u32]) -> Result<ObjectiveGradient, HeadError> {
        let poisons = Samples::new(features.reborrow(), labels, self.clean.classes())?;
        let clean = self.clean;
        let training = [clean.reborrow(), poisons];
        let iterations = self.follow(&training)?;
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
        let solved = solve_hessian(&head, &training, gradient.view(), &options)?;
        if iterations + solved.iterations > PATIENCE && self.preconditioner.is_local() {
            // Poisons that are far out bend the objective where clean samples do not.
            self.preconditioner = Arc::new(Preconditioner::at(&head, &training, self.weight_decay)?);
        }
        let solution = solved.solution;
        let count = (self.clean.len() + labels.len()) as f64;
        let adjoint = &solution / count;
        self.solution = Some(solution);
        Ok(ObjectiveGradient { value: -loss, head, adjoint, probabilities: None })
    }

    /// The smoothed error; of TGDA the cross-entropy.
    fn display_value(&self, value: f64) -> f64 {
        -value
    }

    fn is_stochastic(&self) -> bool {
        self.descent.is_some()
    }

    fn warn(&self) {
        if let Some(gradient_norm) = self.unconverged() {
            tracing::warn!(gradient_norm, "a head that the attack retrained stopped before its tolerance");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Clouds, clouds};
    use crate::{Choice, Descent, add, descend};
    use hemlock_head::accuracy;
    use hemlock_threat::Constraint;

    fn bilevel(setting: &Clouds) -> BilevelObjective<'_> {
        BilevelObjective::new(setting.clean(), vec![setting.validation()], setting.head.clone(), 1e-2, 1.0).unwrap()
    }

    /// The leader's loss of poisons, with a follower trained to the last digit.
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

    /// Cross-entropy of a follower trained to the last digit.
    fn cross_entropy(setting: &Clouds, z: &Array2<f64>, labels: &[u32]) -> f64 {
        let poisons = Samples::new(z.view(), labels, 3).unwrap();
        let options = FitOptions { gradient_tolerance: 1e-11, ..FitOptions::new(1e-2) };
        let head = fit(&[setting.clean(), poisons], &options, &|_, _| true).unwrap().head;
        loss_and_gradient(&head, &[setting.validation()], 0.0).unwrap().0
    }

    /// Against a follower of so many steps; 0: one who is retrained.
    fn tgda(setting: &Clouds, steps: u32) -> BilevelObjective<'_> {
        let (clean, raised, head) = (setting.clean(), vec![setting.validation()], setting.head.clone());
        if steps == 0 {
            return BilevelObjective::cross_entropy(clean, raised, head, 1e-2).unwrap();
        }
        let inner = InnerLoop { steps, learning_rate: 1.0, batch: 1000 };
        BilevelObjective::tgda(clean, raised, head, 1e-2, inner, 0).unwrap()
    }

    /// With a follower who is retrained, and with one who has descended for long enough, the total gradient is that of
    /// the retrained head's loss.
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
    fn a_follower_who_descends_is_fooled_as_one_who_is_retrained() {
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
            // What it says is what a follower trained from scratch gives.
            assert!((loss(&setting, &found.features, &found.labels) - error).abs() < 1e-4);
            (first.unwrap(), error, found)
        };
        let (first, kept, found) = run(None, &ball);
        assert_eq!(found.labels, labels);
        assert!(kept > first + 0.005, "{first} to {kept}");
        assert!(found.features.rows().into_iter().all(|z| z.dot(&z).sqrt() <= 1.5 + 1e-12));
        let (_, chosen, _) = run(Some(10), &ball);
        let (_, free, _) = run(Some(10), &Constraint::default());
        assert!(chosen > kept + 0.005, "{chosen} over {kept}");
        assert!(free > chosen + 0.005, "{free} over {chosen}");
        assert!(accuracy(&setting.head, setting.validation()).unwrap() > 0.7);

        let mut objective = bilevel(&setting);
        let any = Choice::Any { most: vec![300; 3] };
        let visit = |_, _| Ok::<_, HeadError>(());
        let added = add(&mut objective, 15, &any, &ball, setting.clean(), 0, visit).unwrap();
        assert!(-added.value > first + 0.01, "{} from {first}", -added.value);
    }
}
