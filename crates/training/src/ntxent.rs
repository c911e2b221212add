//! The contrastive loss NT-Xent: normalised temperature-scaled cross entropy.
//!
//! Chen et al. (2020), equation 1. With the 2b embeddings z of both views, scaled to unit length,
//! and p(i) the other view of the same image,
//!
//! ```text
//! loss = 1/2b sum_i -log( exp(<z_i, z_p(i)> / t) / sum_{k != i} exp(<z_i, z_k> / t) )
//! ```

use burn::tensor::activation::log_softmax;
use burn::tensor::{Bool, Tensor};

/// The length that shorter embeddings are treated as having, so that an embedding of zeros has a small, finite
/// gradient.
const SMALLEST_LENGTH: f32 = 1e-3;

/// The loss `[1]` of the embeddings `[b, p]` of two views of b images.
#[must_use]
pub fn nt_xent(a: Tensor<2>, b: Tensor<2>, temperature: f64) -> Tensor<1> {
    let [n, _] = a.dims();
    let device = a.device();
    let z = unit_rows(Tensor::cat(vec![a, b], 0));
    let similarity = z.clone().matmul(z.transpose()).div_scalar(temperature);
    let itself = Tensor::<2, Bool>::diag_mask([2 * n, 2 * n], 0, &device).bool_not();
    // A logit far below all others, but finite: the gradient through an infinite one would be NaN.
    let log_p = log_softmax(similarity.mask_fill(itself, -1e9), 1);
    let other = Tensor::<2>::eye(n, &device);
    let none = Tensor::zeros([n, n], &device);
    let positives =
        Tensor::cat(vec![Tensor::cat(vec![none.clone(), other.clone()], 1), Tensor::cat(vec![other, none], 1)], 0);
    (log_p * positives).sum().div_scalar(-((2 * n) as f32))
}

/// Rows scaled to unit Euclidean length.
pub(crate) fn unit_rows(z: Tensor<2>) -> Tensor<2> {
    // Clamped before the square root, whose derivative at 0 is infinite.
    let square = z.clone().square().sum_dim(1).clamp_min(SMALLEST_LENGTH * SMALLEST_LENGTH);
    z / square.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};
    use hemlock_models::device::{self, Backend};
    use ndarray::{Array2, concatenate};

    fn embeddings(n: usize, p: usize, shift: usize) -> Array2<f64> {
        Array2::from_shape_fn((n, p), |(i, j)| {
            (((i * 7 + j * 13 + shift * 5) % 11) as f64 - 5.0) / 3.0 + 0.1 * (i as f64)
        })
    }

    /// Equation 1 as written, in f64.
    fn by_hand(a: &Array2<f64>, b: &Array2<f64>, t: f64) -> f64 {
        let n = a.nrows();
        let mut z = concatenate![ndarray::Axis(0), *a, *b];
        for mut row in z.rows_mut() {
            let length = row.dot(&row).sqrt();
            row /= length;
        }
        let s = z.dot(&z.t()) / t;
        let loss = |i: usize| {
            let others = (0..2 * n).filter(|&k| k != i);
            let total: f64 = others.map(|k| s[(i, k)].exp()).sum();
            total.ln() - s[(i, (i + n) % (2 * n))]
        };
        (0..2 * n).map(loss).sum::<f64>() / (2 * n) as f64
    }

    fn tensor(z: &Array2<f64>, device: &Device) -> Tensor<2> {
        let values: Vec<f32> = z.iter().map(|v| *v as f32).collect();
        Tensor::from_data(TensorData::new(values, [z.nrows(), z.ncols()]), device)
    }

    #[test]
    fn it_is_equation_1() {
        let device = device::open(Backend::default()).unwrap();
        for t in [0.05, 0.2, 1.0] {
            let (a, b) = (embeddings(5, 4, 0), embeddings(5, 4, 1));
            let loss = nt_xent(tensor(&a, &device), tensor(&b, &device), t);
            let expected = by_hand(&a, &b, t);
            assert!((f64::from(loss.into_scalar::<f32>()) - expected).abs() < 1e-4 * expected);
        }
    }

    #[test]
    fn equal_embeddings_give_the_logarithm_of_the_others() {
        let device = device::open(Backend::default()).unwrap();
        let ones = Tensor::<2>::ones([4, 3], &device);
        let loss = nt_xent(ones.clone(), ones, 0.5).into_scalar::<f32>();
        assert!((loss - 7f32.ln()).abs() < 1e-5);
    }

    #[test]
    fn its_gradient_matches_finite_differences() {
        let device = device::open(Backend::default()).unwrap().autodiff();
        let (a, b) = (embeddings(4, 3, 0), embeddings(4, 3, 1));
        let (x, y) = (tensor(&a, &device).require_grad(), tensor(&b, &device).require_grad());
        let gradients = nt_xent(x.clone(), y.clone(), 0.2).backward();
        let read = |t: &Tensor<2>| -> Vec<f32> { t.grad(&gradients).unwrap().into_data().iter().collect() };
        let (gx, gy) = (read(&x), read(&y));
        for i in 0..12 {
            let at = (i / 3, i % 3);
            let moved = |step: f64| {
                let (mut ma, mut mb) = (a.clone(), b.clone());
                ma[at] += step;
                mb[at] += step;
                [by_hand(&ma, &b, 0.2), by_hand(&a, &mb, 0.2)]
            };
            let (up, down) = (moved(1e-5), moved(-1e-5));
            for (g, k) in [(gx[i], 0), (gy[i], 1)] {
                let difference = (up[k] - down[k]) / 2e-5;
                assert!((f64::from(g) - difference).abs() < 1e-4, "{g} {difference}");
            }
        }
    }

    #[test]
    fn an_embedding_of_zeros_has_a_finite_gradient() {
        let device = device::open(Backend::default()).unwrap().autodiff();
        let mut a = embeddings(4, 3, 0);
        a.row_mut(1).fill(0.0);
        let (x, y) = (tensor(&a, &device).require_grad(), tensor(&embeddings(4, 3, 1), &device));
        let gradients = nt_xent(x.clone(), y, 0.2).backward();
        let gradient: Vec<f32> = x.grad(&gradients).unwrap().into_data().iter().collect();
        assert!(gradient.iter().all(|g| g.is_finite()), "{gradient:?}");
        assert!(gradient[3..6].iter().any(|g| *g != 0.0), "{gradient:?}");
    }
}
