//! The objective of an attack, in the one form that all solvers use.

use hemlock_head::{Head, HeadError, Samples, logits, mixed_derivative, mixed_derivative_of, predict, probabilities};
use hemlock_optim::Snapshot;
use hemlock_threat::{Constraint, Poison, SupportFunction};
use ndarray::{Array2, ArrayView2};

/// What an attack minimises over poisons: a function of the sum of their gradients at a head.
pub trait Objective {
    /// The value for poisons with `features`, `[m, d]`, and `labels`, `[m]`, and its gradient. `m` may be 0.
    ///
    /// # Errors
    /// Returns an error if the features do not fit the head or are not finite, or if training the head of the inner
    /// problem diverges.
    fn evaluate(&mut self, features: ArrayView2<f64>, labels: &[u32]) -> Result<ObjectiveGradient, HeadError>;

    /// Converts a value to the number that is shown to users: the relative residual, the smoothed error, or the
    /// cross-entropy.
    fn display_value(&self, value: f64) -> f64;

    /// The value at which a solver stops. If the minimum is 0, it is the value that is displayed as `tolerance`;
    /// otherwise, minus infinity.
    fn stop_value(&self, _tolerance: f64) -> f64 {
        f64::NEG_INFINITY
    }

    /// Whether the displayed value rises when the value falls.
    fn is_maximized(&self) -> bool {
        self.display_value(1.0) < self.display_value(0.0)
    }

    /// The factor that converts the gradient of the value into the gradient that [`Solver::NormDescent`] follows: that
    /// of the norm, as a sum over samples, if the value is half a squared norm; otherwise that of the value itself.
    ///
    /// [`Solver::NormDescent`]: crate::Solver::NormDescent
    fn per_norm(&self, _value: f64) -> f64 {
        1.0
    }

    /// A lower bound of the displayed value over all poisons within the constraint, if one is known. The poisons have
    /// the given labels or, if `any_labels`, any labels.
    ///
    /// # Errors
    /// Returns an error if the features do not fit the head.
    fn bound(
        &self,
        _features: ArrayView2<f64>,
        _labels: &[u32],
        _any_labels: bool,
        _constraint: &Constraint,
        _clean: Samples,
    ) -> Result<Option<f64>, HeadError> {
        Ok(None)
    }

    /// What earlier evaluations left behind that later ones depend on. `None` if that cannot be kept: a search cannot
    /// be continued by another process then.
    fn state(&self) -> Option<Snapshot> {
        None
    }

    /// Goes on from a state, so that the same evaluations follow.
    ///
    /// # Errors
    /// Returns what is wrong with the state.
    fn restore(&mut self, _state: &Snapshot) -> Result<(), String> {
        Ok(())
    }

    /// Logs a warning if some gradient was not exact.
    fn warn(&self) {}

    /// Whether every evaluation changes the objective. Values cannot be compared then.
    fn is_stochastic(&self) -> bool {
        false
    }
}

/// The value of an objective at some poisons, and its gradient in adjoint form.
///
/// A poison `(z, y)` affects the objective only through its gradients `g(z, y)` at one head, or at several:
/// `d value / dz = Σ d<adjoint, g(z, y)> / dz`. To first order, adding a poison changes the value by
/// `Σ <adjoint, g(z, y)>`.
#[derive(Debug, Clone)]
pub struct ObjectiveGradient {
    /// The value of the objective.
    pub value: f64,
    /// What the objective depends on; at least one head.
    pub terms: Vec<Term>,
}

/// The dependence of an objective on the poisons' gradients at one head.
#[derive(Debug, Clone)]
pub struct Term {
    /// The head at which the poisons' gradients are taken.
    pub head: Head,
    /// The gradient with respect to the sum of the poisons' gradients, packed `[K, d + 1]`.
    pub adjoint: Array2<f64>,
    /// The poisons' probabilities at the head, `[m, K]`, if they have been computed.
    pub probabilities: Option<Array2<f64>>,
}

impl ObjectiveGradient {
    /// The gradient of an objective that depends on the poisons' gradients at one head.
    #[must_use]
    pub fn new(value: f64, head: Head, adjoint: Array2<f64>) -> Self {
        Self { value, terms: vec![Term { head, adjoint, probabilities: None }] }
    }

    /// The gradient as a state, without the probabilities, which do not change a bit of what follows.
    pub(crate) fn state(&self) -> Snapshot {
        let state = Snapshot::default().with("value", self.value).with("terms", self.terms.len());
        self.terms.iter().enumerate().fold(state, |state, (i, term)| {
            let term = Snapshot::default()
                .with_matrix("head", &term.head.packed().to_owned())
                .with_matrix("adjoint", &term.adjoint);
            state.with_all(&i.to_string(), term)
        })
    }

    /// The gradient with a state.
    pub(crate) fn from_state(state: &Snapshot) -> Result<Self, String> {
        let term = |i: usize| {
            let state = state.under(&i.to_string());
            let head = Head::from_packed(state.matrix("head")?).map_err(|e| e.to_string())?;
            let adjoint = state.matrix("adjoint")?;
            if adjoint.dim() != head.packed().dim() {
                return Err("its adjoint has another shape".to_owned());
            }
            Ok(Term { head, adjoint, probabilities: None })
        };
        let terms = (0..state.get("terms")?).map(term).collect::<Result<_, String>>()?;
        Ok(Self { value: state.get("value")?, terms })
    }

    /// The gradient with respect to the features of the poisons at which the objective was evaluated, `[m, d]`.
    ///
    /// # Errors
    /// Returns an error if the features do not fit the head or are not finite.
    pub fn gradient(&self, features: ArrayView2<f64>, labels: &[u32]) -> Result<Array2<f64>, HeadError> {
        let mut sum: Option<Array2<f64>> = None;
        for Term { head, adjoint, probabilities } in &self.terms {
            let poisons = Samples::new(features, labels, head.classes())?;
            let gradient = match probabilities {
                Some(probabilities) => mixed_derivative_of(head, poisons, probabilities, adjoint.view()),
                None => mixed_derivative(head, poisons, adjoint.view()),
            }?;
            sum = Some(match sum {
                Some(sum) => sum + gradient,
                None => gradient,
            });
        }
        Ok(sum.unwrap_or_else(|| Array2::zeros(features.dim())))
    }

    /// For every row of `features`, the label that lowers the objective most, to first order. It is the largest entry
    /// of `Σ adjoint [z, 1]`, because `<adjoint, g(z, y)> = <p, adjoint [z, 1]> - (adjoint [z, 1])_y`.
    ///
    /// # Errors
    /// Returns an error if the features do not fit the head, or if the adjoint is not finite.
    pub fn best_labels(&self, features: ArrayView2<f64>) -> Result<Vec<u32>, HeadError> {
        let mut terms = self.terms.iter();
        let first = terms.next().ok_or(HeadError::Empty)?.adjoint.clone();
        predict(&Head::from_packed(terms.fold(first, |sum, term| sum + &term.adjoint))?, features)
    }

    /// The poison within the constraint, with one of `labels`, that lowers the objective most, to first order. The
    /// search starts at the clean samples. Of several heads, it is the poison for the one with the largest adjoint.
    ///
    /// # Errors
    /// Returns an error if the samples do not fit the head, if the adjoint is not finite, or if there are no labels.
    pub fn best_poison(&self, constraint: &Constraint, clean: Samples, labels: &[u32]) -> Result<Poison, HeadError> {
        let size = |term: &&Term| term.adjoint.iter().map(|a| a * a).sum::<f64>();
        let largest = self.terms.iter().max_by(|a, b| size(a).total_cmp(&size(b)));
        let Term { head, adjoint, .. } = largest.ok_or(HeadError::Empty)?;
        SupportFunction::new(head, constraint, clean)?.argmax((-adjoint).view(), labels)
    }

    /// How much each label lowers the objective for each row of `features`, to first order: `Σ <-adjoint, g(z, y)>`,
    /// `[n, K]`.
    ///
    /// # Errors
    /// Returns an error if the features do not fit the head, or if the adjoint is not finite.
    pub fn gains(&self, features: ArrayView2<f64>) -> Result<Array2<f64>, HeadError> {
        let mut sum: Option<Array2<f64>> = None;
        for Term { head, adjoint, .. } in &self.terms {
            let mut gains = logits(&Head::from_packed(adjoint.clone())?, features)?;
            let probabilities = probabilities(head, features)?;
            for (mut row, p) in gains.rows_mut().into_iter().zip(probabilities.rows()) {
                row -= row.dot(&p);
            }
            sum = Some(match sum {
                Some(sum) => sum + gains,
                None => gains,
            });
        }
        sum.ok_or(HeadError::Empty)
    }
}
