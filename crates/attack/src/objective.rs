//! What an attack minimises, in the one form that all solvers know.

use hemlock_head::{Head, HeadError, Samples, logits, mixed_derivative, mixed_derivative_of, predict, probabilities};
use hemlock_threat::{Constraint, Poison, Reach};
use ndarray::{Array2, ArrayView2};

/// What an attack minimises over poisons: a function of the sum of their gradients at a head.
pub trait Objective {
    /// Its value for poisons `features`, `[m, d]`, and how it moves with them. There may be no poisons.
    ///
    /// # Errors
    /// Features that do not fit the head, or are not finite.
    fn evaluate(&mut self, features: ArrayView2<f64>, labels: &[u32]) -> Result<Force, HeadError>;

    /// The value as users know it: the relative residual, the smoothed error, or the cross-entropy.
    fn shown(&self, value: f64) -> f64;

    /// The value that is shown as `tolerance`, where an objective has the least value 0; a solver stops there.
    fn end(&self, _tolerance: f64) -> f64 {
        f64::NEG_INFINITY
    }

    /// Whether what is shown rises where the value falls.
    fn rises(&self) -> bool {
        self.shown(1.0) < self.shown(0.0)
    }

    /// What a gradient of the value is multiplied by to be that of the norm that is left, in sums over samples, where
    /// the value is the square of one.
    fn per_norm(&self, _value: f64) -> Option<f64> {
        None
    }

    /// A lower bound of what is shown, over all poisons within a constraint with the labels of these (with any, if
    /// `free`), where one is known.
    ///
    /// # Errors
    /// Features that do not fit the head.
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

    /// Says so where a gradient was not exact.
    fn warn(&self) {}

    /// Whether every evaluation moves the head, so that values cannot be compared.
    fn moves(&self) -> bool {
        false
    }
}

/// The objective at some poisons, and how it moves with them: a poison `(z, y)` is felt through its gradient `g(z, y)`
/// at a head, `d value / dz = d<force, g(z, y)>/dz`, and another poison changes it by about `<force, g(z, y)>`.
#[derive(Debug, Clone)]
pub struct Force {
    /// The objective.
    pub value: f64,
    /// Where the poisons' gradients are taken.
    pub head: Head,
    /// Packed like the head, `[K, d + 1]`.
    pub force: Array2<f64>,
    /// The poisons' probabilities at the head, `[m, K]`, if they are known.
    pub probabilities: Option<Array2<f64>>,
}

impl Force {
    /// The gradient of the objective by the features of the poisons that it was evaluated at, `[m, d]`.
    ///
    /// # Errors
    /// Features that do not fit the head.
    pub fn gradient(&self, features: ArrayView2<f64>, labels: &[u32]) -> Result<Array2<f64>, HeadError> {
        let poisons = Samples::new(features, labels, self.head.classes())?;
        match &self.probabilities {
            Some(probabilities) => mixed_derivative_of(&self.head, poisons, probabilities, self.force.view()),
            None => mixed_derivative(&self.head, poisons, self.force.view()),
        }
    }

    /// For every row of `features`, the label that lowers the objective most, to first order: the largest entry of
    /// `force [z, 1]`, as `<force, g(z, y)> = <p, force [z, 1]> - (force [z, 1])_y`.
    ///
    /// # Errors
    /// Features that do not fit the head.
    pub fn best_labels(&self, features: ArrayView2<f64>) -> Result<Vec<u32>, HeadError> {
        predict(&Head::from_packed(self.force.clone())?, features)
    }

    /// The poison within a constraint, with one of `labels`, that lowers the objective most, to first order. The clean
    /// samples are where the search starts.
    ///
    /// # Errors
    /// Samples that do not fit the head, or no labels.
    pub fn best_poison(&self, constraint: &Constraint, clean: Samples, labels: &[u32]) -> Result<Poison, HeadError> {
        Reach::new(&self.head, constraint, clean)?.farthest((-&self.force).view(), labels)
    }

    /// How much every label of every row of `features` lowers the objective, to first order: `<-force, g(z, y)>`, `[n,
    /// K]`.
    ///
    /// # Errors
    /// Features that do not fit the head.
    pub fn gains(&self, features: ArrayView2<f64>) -> Result<Array2<f64>, HeadError> {
        let mut gains = logits(&Head::from_packed(self.force.clone())?, features)?;
        let probabilities = probabilities(&self.head, features)?;
        for (mut row, p) in gains.rows_mut().into_iter().zip(probabilities.rows()) {
            row -= row.dot(&p);
        }
        Ok(gains)
    }
}
