//! The certificate of one softmax head, from the strong convexity of its objective.

use hemlock_head::{Head, Preconditioner, loss_and_gradient_sum};
use hemlock_optim::{Limits, minimize, norm};
use hemlock_threat::Constraint;
use ndarray::{Array2, ArrayView1, ArrayView2};

use super::Certificates;
use crate::linalg::squared;
use crate::{DefenceError, TrainingData};

const TOLERANCE: f64 = 1e-9;
const STEPS: usize = 10_000;

/// A head with weight decay on all of its parameters, the bias too, and how far poisons can move it.
///
/// The head `w` minimises `F(w) = mean cross-entropy + λ/2 |w|²`, which is λ-strongly convex. With `m` poisons, it
/// minimises `F'`, the same with the mean over `n + m` samples, and `∇F'(w) = θ (ḡ + λ w)` with `θ = m / (n + m)` and
/// the mean gradient `ḡ` of the poisons. Strong convexity puts the new head `w'` into the ball around `w - ∇F'(w) / 2λ`
/// of radius `|∇F'(w)| / 2λ`. For the difference `u = (e_c - e_k) [z, 1]ᵀ` of two logits, with the margin
/// `M = <u, w> > 0`,
///
/// ```text
/// <u, w'> >= M - (<u, ∇F'> + |u| |∇F'|) / 2λ >= M - θ (2 |u| B + λ |u| |w| + λ M) / 2λ
/// ```
///
/// if no poison's gradient is longer than `B`. It is not if `B = √2 √(1 + R²)` and no poison is longer than `R`, as
/// `|g| = |p - e| |[z, 1]|`. The margin therefore stays positive for `θ < 2λ M / (2 |u| B + λ |u| |w| + λ M)`. What the
/// gradient at `w` still is, because training ends, is added to the bound.
///
/// The bound is loose for a small weight decay. Its curve over `λ`, beside the accuracy, is what it is good for.
#[derive(Debug, Clone, PartialEq)]
pub struct StrongConvexity {
    head: Head,
    samples: usize,
    weight_decay: f64,
    /// The L2 norm of the objective's gradient at the head.
    gradient_norm: f64,
    /// `B`: an upper bound of the norm of a poison's gradient.
    largest_gradient: f64,
}

impl StrongConvexity {
    /// Trains the head on a set that counts as clean. Poisons will lie in `constraint`, with any label.
    ///
    /// # Errors
    /// Returns an error if the weight decay is not positive, if the constraint does not bound poisons of some class, or
    /// if training does not reach its minimum.
    pub fn train(set: &TrainingData<'_>, constraint: &Constraint) -> Result<Self, DefenceError> {
        let weight_decay = set.weight_decay();
        DefenceError::check_positive("weight_decay", weight_decay)?;
        let norms: Vec<f64> = (0..set.classes()).map(|class| constraint.largest_norm(class)).collect();
        if let Some(class) = norms.iter().position(|norm| !norm.is_finite()) {
            return Err(DefenceError::Unbounded { class });
        }
        let longest = norms.into_iter().fold(0.0, f64::max);
        let preconditioner = Preconditioner::new(set.blocks(), weight_decay)?;
        let count = set.len() as f64;
        let found = minimize(
            Array2::zeros((set.classes(), set.dim() + 1)),
            |packed| {
                let (loss, mut gradient) = loss_and_gradient_sum(packed.view(), set.blocks());
                gradient /= count;
                gradient.scaled_add(weight_decay, packed);
                (loss / count + 0.5 * weight_decay * norm(packed).powi(2), gradient)
            },
            |gradient| preconditioner.apply(gradient),
            &Limits { gradient_tolerance: TOLERANCE, max_iterations: STEPS },
            &|_, _| true,
        );
        // Rounding may end the training a little before the tolerance; what remains is part of the bound.
        if found.gradient_norm > TOLERANCE.sqrt() {
            let gradient_norm = found.gradient_norm;
            return Err(DefenceError::NotConverged { defence: "strong convexity", gradient_norm });
        }
        Ok(Self {
            head: Head::from_packed(found.at)?,
            samples: set.len(),
            weight_decay,
            gradient_norm: found.gradient_norm,
            largest_gradient: 2f64.sqrt() * (1.0 + longest * longest).sqrt(),
        })
    }

    /// The head.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// An upper bound of `|w' - w|` with `poisons` poisons: `(θ (B + λ |w|) + what is left of the gradient) / λ`.
    #[must_use]
    pub fn largest_change(&self, poisons: usize) -> f64 {
        let share = poisons as f64 / (self.samples + poisons) as f64;
        let gradient = share * (self.largest_gradient + self.weight_decay * self.head.norm());
        (gradient + self.gradient_norm) / self.weight_decay
    }

    /// The predictions for features `[n, d]`, and the numbers of added poisons that they withstand.
    ///
    /// # Errors
    /// Returns an error if the features have another number of columns than the head.
    pub fn certify(&self, features: ArrayView2<'_, f64>) -> Result<Certificates, DefenceError> {
        let logits = hemlock_head::logits(&self.head, features)?;
        let predictions = hemlock_head::predict(&self.head, features)?;
        let each = logits.rows().into_iter().zip(features.rows()).zip(&predictions);
        Ok(each.map(|((logits, z), class)| (*class, self.radius(logits, z, *class as usize))).collect())
    }

    fn radius(&self, logits: ArrayView1<'_, f64>, z: ArrayView1<'_, f64>, class: usize) -> usize {
        let length = (2.0 * (1.0 + squared(z))).sqrt();
        let others = logits.iter().enumerate().filter(|(other, _)| *other != class);
        let margin = others.map(|(_, other)| logits[class] - other).fold(f64::INFINITY, f64::min);
        let left = 2.0 * (self.weight_decay * margin - length * self.gradient_norm);
        let per_share = 2.0 * length * self.largest_gradient + self.weight_decay * (length * self.head.norm() + margin);
        let share = left / per_share;
        // `m / (n + m) < share`; the share is below 1, because the margin is at most `length |w|`.
        let poisons = self.samples as f64 * share / (1.0 - share);
        if share > 0.0 { (poisons.ceil() - 1.0) as usize } else { 0 }
    }
}
