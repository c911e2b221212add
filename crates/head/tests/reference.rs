//! Compares this crate with `reference/head_reference.json`, which an independent implementation in numpy and scipy
//! made: see `reference/make_head_reference.py`.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use hemlock_head::{
    FitOptions, Head, Samples, SolveOptions, fit, gradient_sum, hessian_vector_sum, implicit_gradient, mean_loss,
    mixed_derivative, solve_hessian,
};
use ndarray::{Array2, Axis, Slice};
use serde_json::Value;

const CLASSES: usize = 3;

struct Reference(Value);

impl Reference {
    fn load() -> Self {
        Self(serde_json::from_str(include_str!("reference/head_reference.json")).unwrap())
    }

    fn number(&self, key: &str) -> f64 {
        self.0[key].as_f64().unwrap()
    }

    fn labels(&self, key: &str) -> Vec<u32> {
        serde_json::from_value(self.0[key].clone()).unwrap()
    }

    fn matrix(&self, key: &str) -> Array2<f64> {
        let rows: Vec<Vec<f64>> = serde_json::from_value(self.0[key].clone()).unwrap();
        Array2::from_shape_vec((rows.len(), rows[0].len()), rows.concat()).unwrap()
    }

    fn head(&self, key: &str) -> Head {
        Head::from_packed(self.matrix(key)).unwrap()
    }
}

#[track_caller]
fn assert_close(found: &Array2<f64>, expected: &Array2<f64>, tolerance: f64) {
    assert_eq!(found.dim(), expected.dim());
    let scale = expected.fold(0f64, |max, value| max.max(value.abs()));
    let worst = (found - expected).fold(0f64, |max, error| max.max(error.abs()));
    assert!(worst <= tolerance * scale, "off by {:e} of {scale}", worst / scale);
}

#[test]
fn loss_gradient_and_hessian() {
    let reference = Reference::load();
    let (features, labels) = (reference.matrix("Z"), reference.labels("Y"));
    let clean = [Samples::new(features.view(), &labels, CLASSES).unwrap()];
    let head = reference.head("w");
    assert!((mean_loss(&head, &clean).unwrap() - reference.number("mean_loss")).abs() < 1e-13);
    assert_close(&gradient_sum(&head, &clean).unwrap(), &reference.matrix("gradient_sum"), 1e-13);
    let product = hessian_vector_sum(&head, &clean, reference.matrix("V").view()).unwrap();
    assert_close(&product, &reference.matrix("hvp_sum_without_decay"), 1e-13);
    let far = reference.head("gradpc_l2_half_radius");
    assert!((mean_loss(&far, &clean).unwrap() - reference.number("gradpc_mean_loss")).abs() < 1e-13);
}

#[test]
fn gradient_canceling() {
    let reference = Reference::load();
    let (features, labels) = (reference.matrix("Z"), reference.labels("Y"));
    let clean = Samples::new(features.view(), &labels, CLASSES).unwrap();
    let (features, labels) = (reference.matrix("zeta"), reference.labels("zeta_labels"));
    let poisons = Samples::new(features.view(), &labels, CLASSES).unwrap();
    let head = reference.head("w");

    let mut left = gradient_sum(&head, &[clean, poisons]).unwrap();
    let decay = (clean.len() + poisons.len()) as f64 * reference.number("weight_decay");
    left.slice_axis_mut(Axis(1), Slice::from(..-1)).scaled_add(decay, &head.weight());
    let squared_count = (clean.len() as f64).powi(2);
    let objective = 0.5 * left.iter().map(|value| value * value).sum::<f64>() / squared_count;
    assert!((objective - reference.number("gc_objective")).abs() < 1e-13);
    let gradient = mixed_derivative(&head, poisons, left.view()).unwrap() / squared_count;
    assert_close(&gradient, &reference.matrix("gc_gradient_wrt_zeta"), 1e-8);
}

#[test]
fn trained_head() {
    let reference = Reference::load();
    let (features, labels) = (reference.matrix("Z"), reference.labels("Y"));
    let clean = Samples::new(features.view(), &labels, CLASSES).unwrap();
    let options = FitOptions { gradient_tolerance: 1e-11, ..FitOptions::new(reference.number("weight_decay")) };
    let found = fit(&[clean], &options, &|_, _| true).unwrap();
    assert!(found.converged);
    assert!((found.objective - reference.number("w_clean_objective")).abs() < 1e-12);
    assert_close(&found.head.into_packed(), &reference.matrix("w_clean"), 1e-6);
}

#[test]
fn validation_loss_through_retraining() {
    let reference = Reference::load();
    let (features, labels) = (reference.matrix("Z"), reference.labels("Y"));
    let clean = Samples::new(features.view(), &labels, CLASSES).unwrap();
    let (features, labels) = (reference.matrix("zeta"), reference.labels("zeta_labels"));
    let poisons = Samples::new(features.view(), &labels, CLASSES).unwrap();
    let (features, labels) = (reference.matrix("Z_val"), reference.labels("Y_val"));
    let validation = Samples::new(features.view(), &labels, CLASSES).unwrap();
    let weight_decay = reference.number("weight_decay");

    let training = [clean, poisons];
    let options = FitOptions { gradient_tolerance: 1e-11, ..FitOptions::new(weight_decay) };
    let retrained = fit(&training, &options, &|_, _| true).unwrap().head;
    let loss = mean_loss(&retrained, &[validation]).unwrap();
    assert!((loss - reference.number("val_loss_after_retraining")).abs() < 1e-6);

    let right_side = gradient_sum(&retrained, &[validation]).unwrap() / validation.len() as f64;
    let solved = solve_hessian(&retrained, &training, right_side.view(), &SolveOptions::new(weight_decay)).unwrap();
    assert!(solved.converged);
    let count = clean.len() + poisons.len();
    let gradient = implicit_gradient(&retrained, poisons, solved.solution.view(), count).unwrap();
    assert_close(&gradient, &reference.matrix("val_loss_gradient_wrt_zeta"), 2e-3);
}
