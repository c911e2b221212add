//! Repair of a trained head, once some of its poisons are known: the head for the training set without them.
//!
//! | function | what it does | source |
//! | --- | --- | --- |
//! | [`refit`] | trains again: exact, as the problem is convex | |
//! | [`newton_step`] | one step of Newton's method on the objective of what stays | Guo et al., 2020 (without noise) |
//! | [`gradient_ascent`] | descends on what stays and ascends on what goes | Kurmanji et al., 2023 (NegGrad+) |
//! | [`fine_tune`] | descends on what stays | Goel et al., 2023 (catastrophic forgetting) |
//!
//! The last two are what is done with networks, where neither of the first two is possible. A linear head shows what
//! they miss, as `refit` is the truth that they approximate. Time is the caller's to take.

use hemlock_head::{
    Fit, FitOptions, Head, HeadError, Samples, SolveOptions, fit, hessian_vector_sum, loss_and_gradient, solve_hessian,
};
use hemlock_optim::norm;
use ndarray::Array2;

use crate::DefenceError;

/// Number of products with the Hessian that find its largest eigenvalue.
const PRODUCTS: usize = 20;

/// How a head descends in [`gradient_ascent`] and [`fine_tune`]. Each step takes all samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GradientSteps {
    /// `λ >= 0` of the objective `mean cross-entropy + λ/2 |W|²`.
    pub weight_decay: f64,
    /// Number of steps.
    pub count: usize,
    /// The length of a step, as a multiple of the inverse of the largest curvature that the objective has at any head.
    /// Steps of at most 1 descend on what stays.
    pub rate: f64,
}

/// Trains a head on the samples that stay, from the old one. This is the exact answer: the objective is convex.
///
/// # Errors
/// Returns the errors of [`hemlock_head::fit`].
pub fn refit(head: &Head, kept: &[Samples<'_>], weight_decay: f64) -> Result<Fit, DefenceError> {
    let options = FitOptions { start: Some(head.clone()), ..FitOptions::new(weight_decay) };
    Ok(fit(kept, &options, &|_, _| true)?)
}

/// One step of Newton's method from the old head on the objective of the samples that stay:
///
/// ```text
/// w' = w - H⁻¹ ∇F(w),   F(w) = mean cross-entropy over what stays + λ/2 |W|²
/// ```
///
/// If `w` is the minimum for all `N` samples and `s` of them go, `-∇F(w)` is `(Σ_gone g + s λ [W, 0]) / (N - s)`.
///
/// # Errors
/// Returns an error if there are no samples, if the samples do not fit the head, if the weight decay is negative or not
/// finite, or if the linear system has no solution within its tolerance.
pub fn newton_step(head: &Head, kept: &[Samples<'_>], weight_decay: f64) -> Result<Head, DefenceError> {
    let (_, gradient) = loss_and_gradient(head, kept, weight_decay)?;
    let found = solve_hessian(head, kept, gradient.view(), &SolveOptions::new(weight_decay))?;
    if !found.converged {
        return Err(DefenceError::Singular { what: "the Hessian of the samples that stay" });
    }
    Ok(Head::from_packed(&head.packed() - &found.solution)?)
}

/// Descends on the objective of the samples that stay, minus `ascent` times the mean cross-entropy of the samples that
/// go.
///
/// # Errors
/// Returns an error if there are no samples of either kind, if they do not fit the head, if a number is negative or not
/// finite, or if the parameters stop being finite.
pub fn gradient_ascent(
    head: &Head,
    kept: &[Samples<'_>],
    gone: &[Samples<'_>],
    ascent: f64,
    steps: &GradientSteps,
) -> Result<Head, DefenceError> {
    HeadError::check_non_negative("ascent", ascent)?;
    descend(head, kept, steps, |head, gradient| {
        gradient.scaled_add(-ascent, &loss_and_gradient(head, gone, 0.0)?.1);
        Ok(())
    })
}

/// Descends on the objective of the samples that stay, from the old head.
///
/// # Errors
/// Returns an error if there are no samples, if they do not fit the head, if a number is negative or not finite, or if
/// the parameters stop being finite.
pub fn fine_tune(head: &Head, kept: &[Samples<'_>], steps: &GradientSteps) -> Result<Head, DefenceError> {
    descend(head, kept, steps, |_, _| Ok(()))
}

fn descend(
    head: &Head,
    kept: &[Samples<'_>],
    steps: &GradientSteps,
    change: impl Fn(&Head, &mut Array2<f64>) -> Result<(), HeadError>,
) -> Result<Head, DefenceError> {
    HeadError::check_non_negative("rate", steps.rate)?;
    let length = steps.rate / largest_curvature(head, kept, steps.weight_decay)?;
    let mut head = head.clone();
    for _ in 0..steps.count {
        let (_, mut gradient) = loss_and_gradient(&head, kept, steps.weight_decay)?;
        change(&head, &mut gradient)?;
        let mut packed = head.into_packed();
        packed.scaled_add(-length, &gradient);
        head = Head::from_packed(packed)?;
    }
    Ok(head)
}

/// An upper bound of the objective's curvature at any head: half of the largest eigenvalue of `AᵀA / n`, which the
/// power method finds, plus `λ`, because `diag p - p pᵀ` has no eigenvalue above 1/2 (Böhning, 1992).
fn largest_curvature(head: &Head, kept: &[Samples<'_>], weight_decay: f64) -> Result<f64, DefenceError> {
    HeadError::check_non_negative("weight_decay", weight_decay)?;
    let count: usize = kept.iter().map(Samples::len).sum();
    if count == 0 {
        return Err(HeadError::Empty.into());
    }
    let (classes, dim) = (head.classes(), head.dim());
    // At the zero head, the Hessian multiplies what sums to zero over classes by `AᵀA / (n K)`.
    let zero = Head::zeros(classes, dim)?;
    let mut direction = Array2::zeros((classes, dim + 1));
    direction.row_mut(0).fill(1.0);
    direction.row_mut(1).fill(-1.0);
    let mut largest = 0.0;
    for _ in 0..PRODUCTS {
        direction /= norm(&direction).max(f64::MIN_POSITIVE);
        direction = hessian_vector_sum(&zero, kept, direction.view())?;
        direction *= classes as f64 / count as f64;
        largest = norm(&direction);
    }
    Ok(0.5 * largest + weight_decay)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_head::gradient_sum;
    use hemlock_head::testing::{GaussianClusters, assert_close, random};

    const DECAY: f64 = 1e-2;

    /// A head for 200 clean samples and 10 far ones with wrong labels, the samples, and the exact repair.
    fn poisoned(test: impl Fn(&Head, Samples<'_>, Samples<'_>, &Head)) {
        let data = GaussianClusters::new(200, 4, 3, 1);
        let far = random(10, 4, 2) * 3.0;
        let labels: Vec<u32> = (0..10).map(|i| i % 3).collect();
        let (clean, poisons) = (data.samples(), Samples::new(far.view(), &labels, 3).unwrap());
        let options = FitOptions { gradient_tolerance: 1e-10, ..FitOptions::new(DECAY) };
        let head = fit(&[clean, poisons], &options, &|_, _| true).unwrap().head;
        let exact = fit(&[clean], &options, &|_, _| true).unwrap().head;
        test(&head, clean, poisons, &exact);
    }

    fn off(a: &Head, b: &Head) -> f64 {
        norm(&(&a.packed() - &b.packed()))
    }

    #[test]
    fn refit_is_exact_and_one_newton_step_is_close() {
        poisoned(|head, clean, poisons, exact| {
            assert!(off(&refit(head, &[clean], DECAY).unwrap().head, exact) < 1e-3);
            let once = newton_step(head, &[clean], DECAY).unwrap();
            let twice = newton_step(&once, &[clean], DECAY).unwrap();
            assert!(off(&once, exact) < 0.3 * off(head, exact), "{} {}", off(&once, exact), off(head, exact));
            // Newton's method squares the error.
            assert!(off(&twice, exact) < 0.2 * off(&once, exact));

            // The same step from the gradients of what goes.
            let mut right_side = gradient_sum(head, &[poisons]).unwrap();
            hemlock_head::add_weight_decay(head.packed(), 10.0 * DECAY, &mut right_side);
            right_side /= 200.0;
            let solve = SolveOptions { tolerance: 1e-12, ..SolveOptions::new(DECAY) };
            let step = solve_hessian(head, &[clean], right_side.view(), &solve).unwrap().solution;
            assert_close(&once.into_packed(), &(&head.packed() + &step), 1e-6);
        });
    }

    #[test]
    fn descent_descends_and_ascent_forgets_faster() {
        poisoned(|head, clean, poisons, exact| {
            let descent = GradientSteps { weight_decay: DECAY, count: 20, rate: 1.0 };
            let objective = |head: &Head| loss_and_gradient(head, &[clean], DECAY).unwrap().0;
            let steps = |steps| fine_tune(head, &[clean], &GradientSteps { count: steps, ..descent }).unwrap();
            let objectives: Vec<f64> = (0..20).map(|n| objective(&steps(n))).collect();
            assert!(objectives.windows(2).all(|pair| pair[1] < pair[0]), "{objectives:?}");
            assert!(off(&steps(2000), exact) < 1e-4);
            assert_eq!(steps(0), *head);

            let loss = |head: &Head| hemlock_head::mean_loss(head, &[poisons]).unwrap();
            let ascended = gradient_ascent(head, &[clean], &[poisons], 0.05, &descent).unwrap();
            assert!(loss(&ascended) > loss(&steps(20)) && loss(&steps(20)) > loss(head));
            assert_eq!(gradient_ascent(head, &[clean], &[poisons], 0.0, &descent).unwrap(), steps(20));
        });
    }

    /// Two samples on a line: `AᵀA / n` is diag(4, 1).
    #[test]
    fn largest_curvature_by_hand() {
        let z = ndarray::array![[2.0], [-2.0]];
        let samples = [Samples::new(z.view(), &[0, 1], 2).unwrap()];
        let found = largest_curvature(&Head::zeros(2, 1).unwrap(), &samples, 0.25).unwrap();
        assert!((found - 2.25).abs() < 1e-9, "{found}");
    }

    #[test]
    fn nothing_left_is_refused() {
        let head = Head::zeros(2, 1).unwrap();
        let descent = GradientSteps { weight_decay: 0.1, count: 1, rate: 1.0 };
        let empty = DefenceError::Head(HeadError::Empty);
        assert_eq!(refit(&head, &[], 0.1).unwrap_err(), empty);
        assert_eq!(newton_step(&head, &[], 0.1).unwrap_err(), empty);
        assert_eq!(fine_tune(&head, &[], &descent).unwrap_err(), empty);
        let z = ndarray::array![[1.0]];
        let one = [Samples::new(z.view(), &[0], 2).unwrap()];
        assert_eq!(gradient_ascent(&head, &one, &[], 1.0, &descent).unwrap_err(), empty);
        let backwards = GradientSteps { rate: -1.0, ..descent };
        assert!(matches!(fine_tune(&head, &one, &backwards), Err(DefenceError::Head(HeadError::InvalidOption { .. }))));
    }
}
