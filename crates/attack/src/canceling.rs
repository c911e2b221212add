//! Gradient Canceling: poisons whose gradient at the target head cancels the gradient of the clean data (Lu et al.,
//! 2023).

use crate::{Objective, ObjectiveGradient, Term};
use hemlock_head::{Head, HeadError, Samples, gradient_sum, gradient_sum_of, probabilities};
use hemlock_optim::{Snapshot, inner, norm};
use hemlock_threat::{Constraint, SupportFunction};
use ndarray::{Array2, ArrayView2};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The objective of Gradient Canceling, `1/2 |r|^2 / |r_c|^2` with `r = r_c + sum_j c(z_j, y_j)`.
///
/// - `r_c` is the summed gradient of the clean data at the target, with weight decay.
/// - `c(z, y) = g(z, y) + lambda [W, 0]` is what a poison adds.
///
/// The clean part is computed once, so that an evaluation costs `O(m d K)` whatever the clean count.
pub struct CancelingObjective<'a> {
    target: &'a Head,
    /// `r_c`, packed `[K, d + 1]`.
    clean: Array2<f64>,
    /// `lambda [W, 0]`.
    decay: Array2<f64>,
    /// `|r_c|^2`.
    scale: f64,
    part: Canceled,
}

/// Which part of the gradient is canceled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Canceled {
    /// The whole gradient: the minimum of the victim's training is at the target.
    #[default]
    All,
    /// The gradient with respect to the weights and not to the biases, as in the authors' public script. The target is
    /// then no stationary point: training moves the biases, and with them the weights.
    Weights,
}

impl<'a> CancelingObjective<'a> {
    /// The objective for a target head of training on `clean` with `weight_decay`.
    ///
    /// # Errors
    /// Returns an error if the samples do not fit the target.
    pub fn new(target: &'a Head, clean: Samples, weight_decay: f64) -> Result<Self, HeadError> {
        let mut decay = target.packed().to_owned();
        decay.column_mut(target.dim()).fill(0.0);
        decay *= weight_decay;
        let count = clean.len() as f64;
        let mut gradient = gradient_sum(target, &[clean])?;
        gradient.scaled_add(count, &decay);
        let scale = inner(&gradient, &gradient).max(f64::MIN_POSITIVE);
        Ok(Self { target, clean: gradient, decay, scale, part: Canceled::All })
    }

    /// Restricts the objective to a part of the gradient. `r` and `r_c` then stand for that part.
    #[must_use]
    pub fn of(mut self, part: Canceled) -> Self {
        self.part = part;
        part.keep(&mut self.clean);
        self.scale = inner(&self.clean, &self.clean).max(f64::MIN_POSITIVE);
        self
    }

    /// The residual `r` at the target, `[K, d + 1]`, and the poisons' probabilities there, `[m, K]`.
    ///
    /// # Errors
    /// Returns an error if the features do not fit the head or are not finite.
    pub fn residual(&self, features: ArrayView2<f64>, labels: &[u32]) -> Result<(Array2<f64>, Array2<f64>), HeadError> {
        let poisons = Samples::new(features, labels, self.target.classes())?;
        let probabilities = probabilities(self.target, features)?;
        let mut left = &self.clean + &gradient_sum_of(poisons, &probabilities)?;
        left.scaled_add(labels.len() as f64, &self.decay);
        self.part.keep(&mut left);
        Ok((left, probabilities))
    }

    /// A lower bound of `|r| / |r_c|` over all poisons within a constraint, with the given labels or, if `any_labels`,
    /// with any.
    ///
    /// The objective is convex in the sum of the contributions. It is therefore at least its value at these poisons
    /// minus the Frank-Wolfe duality gap `sum_j max_z <-r, c(z, y_j)> - <-r, sum_j c_j>` (Jaggi, 2013). The maxima are
    /// those that [`SupportFunction`] finds by ascent, so the bound is not certified.
    ///
    /// # Errors
    /// Returns an error if the features or the clean samples do not fit the head, or if there are no clean samples.
    pub fn residual_bound(
        &self,
        features: ArrayView2<f64>,
        labels: &[u32],
        any_labels: bool,
        constraint: &Constraint,
        clean: Samples,
    ) -> Result<f64, HeadError> {
        let (left, _) = self.residual(features, labels)?;
        let mut support = SupportFunction::new(self.target, constraint, clean)?.support((-&left).view())?;
        // The given poisons lie in the set, too, so they count for the maxima. The decay is the same for all poisons
        // and cancels.
        let here = ObjectiveGradient::new(0.0, self.target.clone(), left.clone()).gains(features)?;
        let given: Vec<f64> = here.rows().into_iter().zip(labels).map(|(row, y)| row[*y as usize]).collect();
        for (given, y) in given.iter().zip(labels) {
            support[*y as usize] = support[*y as usize].max(*given);
        }
        let most = support.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let offered = labels.iter().map(|y| if any_labels { most } else { support[*y as usize] });
        let gap: f64 = offered.zip(&given).map(|(offered, given)| offered - given).sum();
        let square = inner(&left, &left) - 2.0 * gap;
        Ok((square.max(0.0) / self.scale).sqrt())
    }
}

impl Canceled {
    /// Sets the other part of a gradient, `[K, d + 1]`, to zero.
    fn keep(self, gradient: &mut Array2<f64>) {
        if self == Self::Weights {
            let bias = gradient.ncols() - 1;
            gradient.column_mut(bias).fill(0.0);
        }
    }
}

impl Objective for CancelingObjective<'_> {
    fn evaluate(&mut self, features: ArrayView2<f64>, labels: &[u32]) -> Result<ObjectiveGradient, HeadError> {
        let (left, probabilities) = self.residual(features, labels)?;
        let value = 0.5 * norm(&left).powi(2) / self.scale;
        let adjoint = left / self.scale;
        let term = Term { head: self.target.clone(), adjoint, probabilities: Some(probabilities) };
        Ok(ObjectiveGradient { value, terms: vec![term] })
    }

    /// The relative residual `|r| / |r_c|`.
    fn display_value(&self, value: f64) -> f64 {
        (2.0 * value).sqrt()
    }

    /// `|r_c|² / |r|`: the value is `1/2 |r|² / |r_c|²`, and the norm, in sums over samples, is `|r|`.
    fn per_norm(&self, value: f64) -> f64 {
        (self.scale / (2.0 * value).max(f64::MIN_POSITIVE)).sqrt()
    }

    fn state(&self) -> Option<Snapshot> {
        Some(Snapshot::default())
    }

    fn stop_value(&self, tolerance: f64) -> f64 {
        0.5 * tolerance * tolerance
    }

    /// See [`CancelingObjective::residual_bound`].
    fn bound(
        &self,
        features: ArrayView2<f64>,
        labels: &[u32],
        any_labels: bool,
        constraint: &Constraint,
        clean: Samples,
    ) -> Result<Option<f64>, HeadError> {
        self.residual_bound(features, labels, any_labels, constraint, clean).map(Some)
    }
}

#[cfg(test)]
mod tests {
    //! Compares Gradient Canceling with an independent float64 implementation, and checks its purpose: a head that is
    //! retrained on clean data and poisons ends at the target.

    use super::*;
    use crate::{Descent, Solver, descend};
    use hemlock_head::{FitOptions, fit, mixed_derivative};
    use ndarray::s;
    use serde_json::Value;

    fn matrix(v: &Value) -> Array2<f64> {
        let rows: Vec<Vec<f64>> = serde_json::from_value(v.clone()).unwrap();
        Array2::from_shape_vec((rows.len(), rows[0].len()), rows.concat()).unwrap()
    }

    pub(crate) struct Reference {
        json: Value,
        z: Array2<f64>,
        labels: Vec<u32>,
        zeta: Array2<f64>,
        zeta_labels: Vec<u32>,
        target: Head,
        weight_decay: f64,
    }

    impl Reference {
        fn load() -> Self {
            let json: Value =
                serde_json::from_str(include_str!("../../head/tests/reference/head_reference.json")).unwrap();
            Self {
                z: matrix(&json["Z"]),
                labels: serde_json::from_value(json["Y"].clone()).unwrap(),
                zeta: matrix(&json["zeta"]),
                zeta_labels: serde_json::from_value(json["zeta_labels"].clone()).unwrap(),
                target: Head::from_packed(matrix(&json["w"])).unwrap(),
                weight_decay: json["weight_decay"].as_f64().unwrap(),
                json,
            }
        }
        fn clean(&self) -> Samples<'_> {
            Samples::new(self.z.view(), &self.labels, 3).unwrap()
        }
        /// A target that few poisons can reach: the clean head, scaled down.
        fn weak_target(&self) -> Head {
            let clean = fit(&[self.clean()], &FitOptions::new(0.01), &|_, _| true).unwrap().head;
            Head::from_packed(&clean.packed() * 0.6).unwrap()
        }
    }

    #[test]
    fn objective_and_gradient_are_the_reference_s() {
        let r = Reference::load();
        let n2 = (r.z.nrows() as f64).powi(2);
        let mut canceling = CancelingObjective::new(&r.target, r.clean(), r.weight_decay).unwrap();
        let (left, _) = canceling.residual(r.zeta.view(), &r.zeta_labels).unwrap();
        let objective = 0.5 * left.iter().map(|x| x * x).sum::<f64>() / n2;
        assert!((objective - r.json["gc_objective"].as_f64().unwrap()).abs() < 1e-12);
        let poisons = Samples::new(r.zeta.view(), &r.zeta_labels, 3).unwrap();
        let gradient = mixed_derivative(&r.target, poisons, left.view()).unwrap() / n2;
        let off = |gradient: &Array2<f64>| {
            (gradient - &matrix(&r.json["gc_gradient_wrt_zeta"])).iter().fold(0.0f64, |m, x| m.max(x.abs()))
        };
        assert!(off(&gradient) < 1e-8, "largest difference {:e}", off(&gradient));
        let local = canceling.evaluate(r.zeta.view(), &r.zeta_labels).unwrap();
        let scale = canceling.scale / n2;
        assert!((local.value * scale - objective).abs() < 1e-12);
        let gradient = local.gradient(r.zeta.view(), &r.zeta_labels).unwrap() * scale;
        assert!(off(&gradient) < 1e-8, "largest difference {:e}", off(&gradient));
    }

    /// Only the gradient with respect to the weights is canceled, so the retrained head does not end at the target.
    #[test]
    fn a_bias_that_nobody_cancels_moves_on() {
        let r = Reference::load();
        let target = r.weak_target();
        let mut canceling = CancelingObjective::new(&target, r.clean(), r.weight_decay).unwrap().of(Canceled::Weights);
        let (whole, _) = CancelingObjective::new(&target, r.clean(), r.weight_decay)
            .unwrap()
            .residual(r.zeta.view(), &r.zeta_labels)
            .unwrap();
        let (left, _) = canceling.residual(r.zeta.view(), &r.zeta_labels).unwrap();
        assert_eq!(left.slice(s![.., ..4]), whole.slice(s![.., ..4]));
        assert!(left.column(4).iter().all(|g| *g == 0.0) && whole.column(4).iter().any(|g| g.abs() > 0.1));
        let descent = Descent { steps: 5000, step: 0.05, target: 0.5e-14, ..Descent::default() };
        let visit = |_, _| Ok::<_, HeadError>(());
        let (zeta, labels) = (r.zeta.clone(), r.zeta_labels.clone());
        let found = descend(&mut canceling, zeta, labels, &Constraint::default(), &descent, visit).unwrap();
        assert!(canceling.display_value(found.value) < 1e-6);
        let poisons = Samples::new(found.features.view(), &r.zeta_labels, 3).unwrap();
        let training = [r.clean(), poisons];
        let bias = gradient_sum(&target, &training).unwrap().column(4).mapv(f64::abs).sum();
        assert!(bias > 0.01, "{bias}");
        let victim = fit(&training, &FitOptions::new(r.weight_decay), &|_, _| true).unwrap();
        assert!(norm(&(&victim.head.packed() - &target.packed())) > 1e-2);
    }

    /// One step on the norm, in sums over samples, agrees with finite differences. The rate falls along half a cosine.
    #[test]
    fn the_norm_is_descended_at_an_absolute_rate() {
        let r = Reference::load();
        let mut canceling = CancelingObjective::new(&r.target, r.clean(), r.weight_decay).unwrap();
        let norm_at = |z: &Array2<f64>| {
            let canceling = CancelingObjective::new(&r.target, r.clean(), r.weight_decay).unwrap();
            norm(&canceling.residual(z.view(), &r.zeta_labels).unwrap().0)
        };
        let after = |canceling: &mut CancelingObjective, steps| {
            let descent = Descent { solver: Solver::NormDescent, steps, step: 1e-3, ..Descent::default() };
            let visit = |_, _| Ok::<_, HeadError>(());
            let none = Constraint::default();
            descend(canceling, r.zeta.clone(), r.zeta_labels.clone(), &none, &descent, visit).unwrap().features
        };
        let one = after(&mut canceling, 1);
        for ((i, j), moved) in one.indexed_iter() {
            let at = |by: f64| {
                let mut z = r.zeta.clone();
                z[(i, j)] += by;
                norm_at(&z)
            };
            let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((r.zeta[(i, j)] - moved - 1e-3 * slope).abs() < 1e-8, "{slope}");
        }
        // The second of two steps is half as long as the first.
        let two = after(&mut canceling, 2);
        let lengths = [norm(&(&one - &r.zeta)), norm(&(&two - &one))];
        assert!((lengths[1] / lengths[0] - 0.5).abs() < 0.01, "{lengths:?}");
    }

    /// Training is convex and has one minimum. Poisons that leave no gradient at the target make it this minimum,
    /// whichever solver finds them.
    #[test]
    fn retraining_ends_at_the_target() {
        let r = Reference::load();
        let target = r.weak_target();
        for (solver, steps) in [(Solver::Adam, 5000), (Solver::Lbfgs, 2000)] {
            let mut canceling = CancelingObjective::new(&target, r.clean(), r.weight_decay).unwrap();
            let descent = Descent { solver, steps, step: 0.05, target: 0.5e-14, ..Descent::default() };
            let mut first = None;
            let found = descend(
                &mut canceling,
                r.zeta.clone(),
                r.zeta_labels.clone(),
                &Constraint::default(),
                &descent,
                |_, residual| {
                    first.get_or_insert(residual);
                    Ok::<_, HeadError>(())
                },
            )
            .unwrap();
            let residual = canceling.display_value(found.value);
            assert!(residual < 1e-6 && first.unwrap() > 0.01, "{solver:?}: {residual} from {first:?}");
            let poisons = Samples::new(found.features.view(), &r.zeta_labels, 3).unwrap();
            let victim = fit(&[r.clean(), poisons], &FitOptions::new(r.weight_decay), &|_, _| true).unwrap();
            let off = (&victim.head.packed() - &target.packed()).iter().fold(0.0f64, |m, x| m.max(x.abs()));
            assert!(off < 1e-3, "largest difference {off:e}");
        }
    }

    #[test]
    fn a_ball_is_kept_to_and_bounds_what_can_be_cancelled() {
        let r = Reference::load();
        let run = |solver, constraint: &Constraint| {
            let mut canceling = CancelingObjective::new(&r.target, r.clean(), r.weight_decay).unwrap();
            let descent = Descent { solver, steps: 400, step: 0.1, ..Descent::default() };
            let visit = |_, _| Ok::<_, HeadError>(());
            let found =
                descend(&mut canceling, r.zeta.clone(), r.zeta_labels.clone(), constraint, &descent, visit).unwrap();
            let bound =
                canceling.residual_bound(found.features.view(), &found.labels, false, constraint, r.clean()).unwrap();
            (canceling.display_value(found.value), bound, found.features)
        };
        let ball = Constraint::ball(1.5);
        let unconstrained = run(Solver::Adam, &Constraint::default()).0;
        // A bound that is computed at the start holds for the residuals that all solvers reach.
        let early = CancelingObjective::new(&r.target, r.clean(), r.weight_decay).unwrap();
        let early = early.residual_bound(r.zeta.view(), &r.zeta_labels, false, &ball, r.clean()).unwrap();
        for solver in [Solver::Adam, Solver::Lbfgs, Solver::GradientDescent] {
            let (residual, bound, features) = run(solver, &ball);
            assert!(features.rows().into_iter().all(|z| z.dot(&z).sqrt() <= 1.5 + 1e-12));
            assert!(unconstrained < residual, "{solver:?}");
            assert!(
                early <= residual && bound <= residual && bound > 0.5 * residual,
                "{solver:?}: {bound} and {residual}"
            );
        }
    }
}
