//! Compares the head's closed forms (`hemlock-head`) with burn's automatic differentiation, in double precision.
//!
//! The tests are in this crate because the head knows no network library. Second derivatives are computed as first
//! derivatives of closed forms, because burn's autodiff is of first order.

use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{DType, Device, Tensor, TensorData};
use hemlock_head::{
    FitOptions, Head, Samples, SolveOptions, fit, hessian_vector_sum, implicit_gradient, loss_and_gradient,
    mixed_derivative, smoothed_error, solve_hessian,
};
use ndarray::{Array2, Axis, concatenate};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::device::{self, Backend};

/// Sizes `n, d, K`, and the scale of the parameters; the largest scale saturates the softmax.
const SIZES: [(usize, usize, usize, f64); 5] =
    [(1, 1, 2, 1.0), (7, 1, 3, 1.0), (5, 4, 2, 1.0), (40, 6, 5, 1.0), (9, 3, 4, 1e4)];
const DECAY: f64 = 0.05;

struct Problem {
    z: Array2<f64>,
    labels: Vec<u32>,
    head: Head,
    direction: Array2<f64>,
    device: Device,
}

fn normal(rows: usize, columns: usize, scale: f64, rng: &mut ChaCha8Rng) -> Array2<f64> {
    Array2::from_shape_simple_fn((rows, columns), || {
        let value: f64 = StandardNormal.sample(rng);
        scale * value
    })
}

impl Problem {
    fn new((n, d, classes, scale): (usize, usize, usize, f64)) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64((n * d * classes) as u64);
        Self {
            z: normal(n, d, 1.0, &mut rng),
            labels: (0..n).map(|i| (i * 7 % classes) as u32).collect(),
            head: Head::from_packed(normal(classes, d + 1, scale, &mut rng)).unwrap(),
            direction: normal(classes, d + 1, 1.0, &mut rng),
            device: device::open(Backend::default()).unwrap().autodiff(),
        }
    }

    fn samples(&self) -> Samples<'_> {
        Samples::new(self.z.view(), &self.labels, self.head.classes()).unwrap()
    }

    fn tensor(&self, array: &Array2<f64>) -> Tensor<2> {
        let (rows, columns) = array.dim();
        let data = TensorData::new(array.iter().copied().collect::<Vec<f64>>(), [rows, columns]);
        Tensor::from_data(data, (&self.device, DType::F64))
    }

    fn one_hot(&self, labels: &[u32]) -> Tensor<2> {
        let shape = (labels.len(), self.head.classes());
        self.tensor(&Array2::from_shape_fn(shape, |(i, k)| f64::from(u8::from(labels[i] as usize == k))))
    }
}

/// The features with a column of ones, `[Z, 1]`.
fn augmented(z: Tensor<2>) -> Tensor<2> {
    let ones = z.clone().slice([0..z.dims()[0], 0..1]).zeros_like().add_scalar(1.0);
    Tensor::cat(vec![z, ones], 1)
}

/// The gradient `(P - E)^T [Z, 1]` of the head, as a differentiable tensor.
fn gradient(w: Tensor<2>, z: Tensor<2>, one_hot: Tensor<2>) -> Tensor<2> {
    let a = augmented(z);
    let p = softmax(a.clone().matmul(w.transpose()), 1);
    (p - one_hot).transpose().matmul(a)
}

/// The gradient of the scalar `of` with respect to `by`.
fn derivative(of: &Tensor<1>, by: &Tensor<2>) -> Array2<f64> {
    let mut gradients = of.backward();
    let found = by.grad_remove(&mut gradients).unwrap();
    let [rows, columns] = found.dims();
    Array2::from_shape_vec((rows, columns), found.into_data().iter::<f64>().collect()).unwrap()
}

#[track_caller]
fn assert_close(found: &Array2<f64>, expected: &Array2<f64>, tolerance: f64) {
    assert!(found.iter().chain(expected).all(|x| x.is_finite()));
    let scale = expected.fold(1e-9f64, |m, x| m.max(x.abs()));
    let off = (found - expected).fold(0f64, |m, x| m.max(x.abs()));
    assert!(off <= tolerance * scale, "off by {off:e} of {scale:e}");
}

#[test]
fn first_and_second_derivatives() {
    for size in SIZES {
        let p = Problem::new(size);
        let (n, one_hot) = (p.labels.len() as f64, p.one_hot(&p.labels));
        let packed = p.head.packed().to_owned();

        let w = p.tensor(&packed).require_grad();
        let logits = augmented(p.tensor(&p.z)).matmul(w.clone().transpose());
        let loss = (log_softmax(logits, 1) * one_hot.clone()).sum().neg();
        let (value, found) = loss_and_gradient(&p.head, &[p.samples()], 0.0).unwrap();
        let expected: f64 = loss.clone().inner().into_data().iter::<f64>().next().unwrap();
        assert!((n * value - expected).abs() < 1e-12 * expected.abs().max(1.0));
        assert_close(&(found * n), &derivative(&loss, &w), 1e-12);

        let w = p.tensor(&packed).require_grad();
        let along = (gradient(w.clone(), p.tensor(&p.z), one_hot.clone()) * p.tensor(&p.direction)).sum();
        let found = hessian_vector_sum(&p.head, &[p.samples()], p.direction.view()).unwrap();
        assert_close(&found, &derivative(&along, &w), 1e-10);

        let z = p.tensor(&p.z).require_grad();
        let along = (gradient(p.tensor(&packed), z.clone(), one_hot) * p.tensor(&p.direction)).sum();
        let found = mixed_derivative(&p.head, p.samples(), p.direction.view()).unwrap();
        assert_close(&found, &derivative(&along, &z), 1e-10);
    }
}

/// The gradient of a validation loss with respect to the features of some training samples, through gradient descent
/// that is unrolled from close to the minimum until the minimum.
#[test]
fn implicit_derivative_through_retraining() {
    for size in [(6, 1, 2, 1.0), (12, 2, 3, 1.0)] {
        let p = Problem::new(size);
        let (d, classes) = (p.z.ncols(), p.head.classes());
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        let poisons = normal(2, d, 1.0, &mut rng);
        let poison_labels = vec![0, 1];
        let added = Samples::new(poisons.view(), &poison_labels, classes).unwrap();
        let options = FitOptions { gradient_tolerance: 1e-12, ..FitOptions::new(DECAY) };
        let training = [p.samples(), added];
        let retrained = fit(&training, &options, &|_, _| true).unwrap().head;
        let count = p.labels.len() + 2;
        let (_, upper) = smoothed_error(&retrained, &[p.samples()], 1.0).unwrap();
        let solve = SolveOptions { tolerance: 1e-12, ..SolveOptions::new(DECAY) };
        let solution = solve_hessian(&retrained, &training, upper.view(), &solve).unwrap().solution;
        let found = implicit_gradient(&retrained, added, solution.view(), count).unwrap();

        let z = p.tensor(&poisons).require_grad();
        let all = Tensor::cat(vec![p.tensor(&p.z), z.clone()], 0);
        let one_hot = p.one_hot(&[&p.labels[..], &poison_labels].concat());
        // Weight decay does not apply to the bias.
        let decayed = concatenate![Axis(1), Array2::from_elem((classes, d), DECAY), Array2::zeros((classes, 1))];
        let decay = p.tensor(&decayed);
        let mut w = p.tensor(&retrained.packed().to_owned());
        for _ in 0..600 {
            let step = gradient(w.clone(), all.clone(), one_hot.clone()) / count as f64 + w.clone() * decay.clone();
            w = w - step * 0.7;
        }
        // To first order around the minimum, the loss is linear in the parameters.
        let loss = (w * p.tensor(&upper)).sum();
        assert_close(&found, &derivative(&loss, &z), 1e-6);
    }
}
