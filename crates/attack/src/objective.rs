//! What an attack minimises, in the one form that all solvers know.

use hemlock_head::{Head, HeadError, Samples, logits, mixed_derivative, mixed_derivative_of, predict, probabilities};
use hemlock_threat::{Constraint, Poison, SupportFunction};
use ndarray::{Array2, ArrayView2};

/// What an attack minimises over poisons: a function of the sum of their gradients at a head.
pub trait Objective {
    /// The value for poisons `features`, `[m, d]`, with `labels`, `[m]`, and its gradient. There may be no poisons.
    ///
    /// # Errors
    /// The features do not fit the head, or are not finite.
    fn evaluate(&mut self, features: ArrayView2<f64>, labels: &[u32]) -> Result<ObjectiveGradient, HeadError>;

    /// The value as users know it: the relative residual, the smoothed error, or the cross-entropy.
    fn display_value(&self, value: f64) -> f64;

    /// The value at which a solver stops: the one that is displayed as `tolerance`, if the least value is 0.
    fn stop_value(&self, _tolerance: f64) -> f64 {
        f64::NEG_INFINITY
    }

    /// Whether the displayed value rises where the value falls.
    fn is_maximized(&self) -> bool {
        self.display_value(1.0) < self.display_value(0.0)
    }

    /// If the value is half a squared norm: the factor that turns its gradient into that of the norm, in sums over
    /// samples.
    fn per_norm(&self, _value: f64) -> Option<f64> {
        None
    }

    /// A lower bound of the displayed value over all poisons within the constraint, if one is known: with these labels,
    /// or with any if `free`.
    ///
    /// # Errors
    /// The features do not fit the head.
    fn bound(
        &self,
        _features: ArrayView2<f64>,
        _labels: &[u32],
        _free: bool,
        _constraint: &Constraint,
        _clean: Samples,
    ) -> Result<Option<f64>, HeadError> {
        Ok(None)
    }

    /// Logs a warning if a gradient was not exact.
    fn warn(&self) {}

    /// Whether every evaluation changes the objective, so that its values cannot be compared.
    fn is_stochastic(&self) -> bool {
        false
    }
}

/// An objective's value at some poisons, and its gradient in adjoint form.
///
/// A poison `(z, y)` acts on the objective through its gradient `g(z, y)` at a head alone:
/// `d value / dz = d<adjoint, g(z, y)> / dz`. To first order, another poison changes the value by
/// `<adjoint, g(z, y)>`.
#[derive(Debug, Clone)]
pub struct ObjectiveGradient {
    /// The value.
    pub value: f64,
    /// The head at which the poisons' gradients are taken.
    pub head: Head,
    /// The derivative with respect to the sum of the poisons' gradients, packed `[K, d + 1]`.
    pub adjoint: Array2<f64>,
    /// The poisons' probabilities at the head, `[m, K]`, if they are known.
    pub probabilities: Option<Array2<f64>>,
}

impl ObjectiveGradient {
    /// The gradient with respect to the features of the poisons that the objective was evaluated at, `[m, d]`.
    ///
    /// # Errors
    /// The features do not fit the head.
    pub fn gradient(&self, features: ArrayView2<f64>, labels: &[u32]) -> Result<Array2<f64>, HeadError> {
        let poisons = Samples::new(features, labels, self.head.classes())?;
        match &self.probabilities {
            Some(probabilities) => mixed_derivative_of(&self.head, poisons, probabilities, self.adjoint.view()),
            None => mixed_derivative(&self.head, poisons, self.adjoint.view()),
        }
    }

    /// For every row of `features`, the label that lowers the objective most, to first order: the largest entry of
    /// `adjoint [z, 1]`, as `<adjoint, g(z, y)> = <p, adjoint [z, 1]> - (adjoint [z, 1])_y`.
    ///
    /// # Errors
    /// The features do not fit the head.
    pub fn best_labels(&self, features: ArrayView2<f64>) -> Result<Vec<u32>, HeadError> {
        predict(&Head::from_packed(self.adjoint.clone())?, features)
    }

    /// The poison within a constraint, with one of `labels`, that lowers the objective most, to first order. The clean
    /// samples are where the search starts.
    ///
    /// # Errors
    /// Samples that do not fit the head, or no labels.
    pub fn best_poison(&self, constraint: &Constraint, clean: Samples, labels: &[u32]) -> Result<Poison, HeadError> {
        SupportFunction::new(&self.head, constraint, clean)?.argmax((-&self.adjoint).view(), labels)
    }

    /// How much every label of every row of `features` lowers the objective, to first order: `<-adjoint, g(z, y)>`,
    /// `[n, K]`.
    ///
    /// # Errors
    /// The features do not fit the head.
    pub fn gains(&self, features: ArrayView2<f64>) -> Result<Array2<f64>, HeadError> {
        let mut gains = logits(&Head::from_packed(self.adjoint.clone())?, features)?;
        let probabilities = probabilities(&self.head, features)?;
        for (mut row, p) in gains.rows_mut().into_iter().zip(probabilities.rows()) {
            row -= row.dot(&p);
        }
        Ok(gains)
    }
}
