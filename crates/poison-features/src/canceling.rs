//! Gradient Canceling: poisons whose gradient at the target cancels that of the clean data.

use crate::{Constraint, adam::Adam};
use hemlock_head::{Head, HeadError, Samples, gradient_sum, mixed_derivative, norm, predict};
use ndarray::{Array2, ArrayView2, s};

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
    /// What does not depend on the poisons' features.
    fn fixed(&self) -> Result<Array2<f64>, HeadError> {
        fixed(self.clean.reborrow(), self.target, self.weight_decay, self.labels.len())
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

/// `G(Z_c, Y_c; w) + (n + m) lambda [W, 0]`: the gradient sum at the target without the poisons' own.
fn fixed(clean: Samples, target: &Head, weight_decay: f64, poisons: usize) -> Result<Array2<f64>, HeadError> {
    let mut fixed = gradient_sum(target, &[clean.reborrow()])?;
    let count = (clean.len() + poisons) as f64;
    fixed.slice_mut(s![.., ..target.dim()]).scaled_add(count * weight_decay, &target.weight());
    Ok(fixed)
}

/// For every row of `features`, the label whose gradient cancels best, to first order: with `R` the gradient without poisons, the
/// largest entry of `R [z, 1]`, as `<R, G(z, y)> = <p, R [z, 1]> - (R [z, 1])_y`.
///
/// # Errors
/// Features that do not fit the head.
pub fn aligned_labels(
    clean: Samples,
    target: &Head,
    weight_decay: f64,
    features: ArrayView2<f64>,
) -> Result<Vec<u32>, HeadError> {
    let direction = fixed(clean, target, weight_decay, features.nrows())?;
    predict(&Head::from_packed(direction)?, features)
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
    let fixed = problem.fixed()?;
    let scale = norm(&fixed).max(f64::MIN_POSITIVE);
    let mut z = start;
    constraint.project(&mut z, problem.labels);
    let mut adam = Adam::new(z.dim(), solver.step, solver.steps);
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
        adam.step(&mut z, &gradient);
        constraint.project(&mut z, problem.labels);
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    //! Gradient Canceling against an independent float64 implementation, and against what it is for: a head that is retrained
    //! on clean data and poisons ends at the target.

    use super::*;
    use hemlock_head::{FitOptions, fit};
    use serde_json::Value;

    fn matrix(v: &Value) -> Array2<f64> {
        let rows: Vec<Vec<f64>> = serde_json::from_value(v.clone()).unwrap();
        Array2::from_shape_vec((rows.len(), rows[0].len()), rows.concat()).unwrap()
    }

    struct Reference {
        json: Value,
        z: Array2<f64>,
        labels: Vec<u32>,
        zeta: Array2<f64>,
        zeta_labels: Vec<u32>,
        target: Head,
    }

    impl Reference {
        fn load() -> Self {
            let json: Value = serde_json::from_str(include_str!("../tests/gc_reference.json")).unwrap();
            Self {
                z: matrix(&json["Z"]),
                labels: serde_json::from_value(json["Y"].clone()).unwrap(),
                zeta: matrix(&json["zeta"]),
                zeta_labels: serde_json::from_value(json["zeta_labels"].clone()).unwrap(),
                target: Head::from_packed(matrix(&json["w"])).unwrap(),
                json,
            }
        }
        fn problem(&self) -> Canceling<'_> {
            Canceling {
                clean: Samples::new(self.z.view(), &self.labels, 3).unwrap(),
                target: &self.target,
                weight_decay: self.json["weight_decay"].as_f64().unwrap(),
                labels: &self.zeta_labels,
            }
        }
    }

    #[test]
    fn objective_and_gradient_are_the_reference_s() {
        let r = Reference::load();
        let n2 = (r.z.nrows() as f64).powi(2);
        let left = r.problem().residual(&r.zeta).unwrap();
        let objective = 0.5 * left.iter().map(|x| x * x).sum::<f64>() / n2;
        assert!((objective - r.json["gc_objective"].as_f64().unwrap()).abs() < 1e-12);
        let poisons = Samples::new(r.zeta.view(), &r.zeta_labels, 3).unwrap();
        let gradient = mixed_derivative(&r.target, poisons, left.view()).unwrap() / n2;
        let off = (&gradient - &matrix(&r.json["gc_gradient_wrt_zeta"])).iter().fold(0.0f64, |m, x| m.max(x.abs()));
        assert!(off < 1e-8, "largest difference {off:e}");
    }

    /// Convex training has one minimum, so poisons that leave no gradient at the target make it that minimum.
    #[test]
    fn retraining_ends_at_the_target() {
        let r = Reference::load();
        let target = fit(&[r.problem().clean], &FitOptions::new(0.01), &|_, _| true).unwrap().head;
        let target = Head::from_packed(&target.packed() * 0.6).unwrap();
        let problem = Canceling { target: &target, ..r.problem() };
        let solver = Solver { steps: 5000, step: 0.05, tolerance: 1e-7 };
        let mut first = None;
        let solution = cancel(&problem, r.zeta.clone(), &Constraint::None, &solver, |_, residual| {
            first.get_or_insert(residual);
            Ok::<_, HeadError>(())
        })
        .unwrap();
        assert!(solution.residual < 1e-6 && first.unwrap() > 0.01, "{} from {first:?}", solution.residual);
        let poisons = Samples::new(solution.features.view(), &r.zeta_labels, 3).unwrap();
        let victim = fit(&[problem.clean, poisons], &FitOptions::new(problem.weight_decay), &|_, _| true).unwrap();
        let off = (&victim.head.packed() - &target.packed()).iter().fold(0.0f64, |m, x| m.max(x.abs()));
        assert!(off < 1e-3, "largest difference {off:e}");
    }

    #[test]
    fn a_ball_is_kept_to() {
        let r = Reference::load();
        let solver = Solver { steps: 200, step: 0.1, tolerance: 0.0 };
        let ball = Constraint::Ball { radius: 1.5 };
        let solution = cancel(&r.problem(), r.zeta.clone(), &ball, &solver, |_, _| Ok::<_, HeadError>(())).unwrap();
        assert!(solution.features.rows().into_iter().all(|z| z.dot(&z).sqrt() <= 1.5 + 1e-12));
        let free =
            cancel(&r.problem(), r.zeta.clone(), &Constraint::None, &solver, |_, _| Ok::<_, HeadError>(())).unwrap();
        assert!(free.residual < solution.residual);
    }
}
