//! Gradient Canceling: poisons whose gradient at the target cancels that of the clean data.

use crate::Constraint;
use hemlock_head::{Head, HeadError, Samples, gradient_sum, mixed_derivative};
use ndarray::{Array2, Zip, s};

/// The problem: clean data, the target, and the labels of the poisons.
#[derive(Clone, Copy)]
pub struct Canceling<'a> {
    /// Clean training samples.
    pub clean: Samples<'a>,
    /// Parameters that are to become stationary.
    pub target: &'a Head,
    /// Weight decay of the victim's training.
    pub weight_decay: f64,
    /// Labels of the poisons.
    pub labels: &'a [u32],
}

/// Projected Adam with a cosine schedule.
#[derive(Debug, Clone, Copy)]
pub struct Solver {
    /// Most steps.
    pub steps: u32,
    /// Length of the first step per coordinate, in features' units.
    pub step: f64,
    /// Relative residual to stop at.
    pub tolerance: f64,
}

/// Poisoned features, and how well they cancel.
#[derive(Debug, Clone)]
pub struct Solution {
    /// `[m, d]`; the best ones seen.
    pub features: Array2<f64>,
    /// Their residual: `|r| / |r without poisons|`.
    pub residual: f64,
    /// Steps that were taken.
    pub steps: u32,
}

impl Canceling<'_> {
    /// What does not depend on the poisons' features: `G(Z_c, Y_c; w) + (n + m) lambda [W, 0]`.
    fn fixed(&self) -> Result<Array2<f64>, HeadError> {
        let mut fixed = gradient_sum(self.target, &[self.clean])?;
        let count = (self.clean.len() + self.labels.len()) as f64;
        let dim = self.target.dim();
        fixed.slice_mut(s![.., ..dim]).scaled_add(count * self.weight_decay, &self.target.weight());
        Ok(fixed)
    }

    /// The gradient sum that is left at the target, `[K, d + 1]`: `G_c + G_p + (n + m) lambda [W, 0]`.
    ///
    /// # Errors
    /// Features that do not fit the head, or are not finite.
    pub fn residual(&self, features: &Array2<f64>) -> Result<Array2<f64>, HeadError> {
        let poisons = Samples::new(features.view(), self.labels, self.target.classes())?;
        Ok(self.fixed()? + gradient_sum(self.target, &[poisons])?)
    }
}

/// Minimises `1/2 |r|^2 / |r_0|^2` over the poisons' features within a constraint, `r` the gradient that is left at the
/// target and `r_0` the one without poisons. The clean part of `r` is computed once, so a step costs `O(m d K)` whatever the clean count.
/// `visit` hears the relative residual before every step.
///
/// # Errors
/// Features that do not fit the head, or are not finite; what `visit` returns.
pub fn cancel<E: From<HeadError>>(
    problem: &Canceling,
    start: Array2<f64>,
    constraint: &Constraint,
    solver: &Solver,
    mut visit: impl FnMut(u32, f64) -> Result<(), E>,
) -> Result<Solution, E> {
    const DECAY: (f64, f64) = (0.9, 0.999);
    let fixed = problem.fixed()?;
    let scale = norm(&fixed).max(f64::MIN_POSITIVE);
    let mut z = start;
    constraint.project(&mut z);
    let (mut first, mut second) = (Array2::<f64>::zeros(z.raw_dim()), Array2::<f64>::zeros(z.raw_dim()));
    let mut best = Solution { features: z.clone(), residual: f64::INFINITY, steps: 0 };
    for step in 0..=solver.steps {
        let poisons = Samples::new(z.view(), problem.labels, problem.target.classes())?;
        let left = &fixed + &gradient_sum(problem.target, &[poisons])?;
        let residual = norm(&left) / scale;
        visit(step, residual)?;
        best.steps = step;
        if residual < best.residual {
            best.residual = residual;
            best.features.assign(&z);
        }
        if residual <= solver.tolerance || step == solver.steps {
            break;
        }
        let gradient = mixed_derivative(problem.target, poisons, left.view())?;
        let t = f64::from(step);
        let rate = solver.step * 0.5 * (1.0 + (std::f64::consts::PI * t / f64::from(solver.steps)).cos());
        let (unbias1, unbias2) = (1.0 - DECAY.0.powf(t + 1.0), 1.0 - DECAY.1.powf(t + 1.0));
        // Dividing by the scale keeps Adam's epsilon out of play for any size of problem.
        Zip::from(&mut z).and(&mut first).and(&mut second).and(&gradient).for_each(|z, m, v, g| {
            let g = g / (scale * scale);
            *m = DECAY.0 * *m + (1.0 - DECAY.0) * g;
            *v = DECAY.1 * *v + (1.0 - DECAY.1) * g * g;
            *z -= rate * (*m / unbias1) / ((*v / unbias2).sqrt() + 1e-16);
        });
        constraint.project(&mut z);
    }
    Ok(best)
}

fn norm(a: &Array2<f64>) -> f64 {
    a.iter().map(|x| x * x).sum::<f64>().sqrt()
}
