//! Gradient Canceling against an independent float64 implementation, and against what it is for: a head that is retrained
//! on clean data and poisons ends at the target.

use hemlock_head::{FitOptions, Head, HeadError, Samples, fit, mixed_derivative};
use hemlock_poison_features::{Canceling, Constraint, Solver, cancel};
use ndarray::Array2;
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
        let json: Value = serde_json::from_str(include_str!("gc_reference.json")).unwrap();
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
    let free = cancel(&r.problem(), r.zeta.clone(), &Constraint::None, &solver, |_, _| Ok::<_, HeadError>(())).unwrap();
    assert!(free.residual < solution.residual);
}
