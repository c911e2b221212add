//! InfoNCE over the batch, the contrastive loss of MoCo v3.
//!
//! Chen, Xie and He (2021), algorithm 1. With queries q and keys k scaled to unit length, and k_i the key of query i,
//!
//! ```text
//! loss = 2 t / b sum_i -log( exp(<q_i, k_i> / t) / sum_j exp(<q_i, k_j> / t) )
//! ```
//!
//! The factor 2 t keeps the size of the gradient when the temperature t changes.

use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;

use crate::ntxent::unit_rows;

/// The loss `[1]` of queries `[b, p]` and their keys `[b, p]`: InfoNCE, multiplied by twice the temperature.
#[must_use]
pub fn info_nce(queries: Tensor<2>, keys: Tensor<2>, temperature: f64) -> Tensor<1> {
    let [n, _] = queries.dims();
    let device = queries.device();
    let similarity = unit_rows(queries).matmul(unit_rows(keys).transpose()).div_scalar(temperature);
    let positives = Tensor::<2>::eye(n, &device);
    (log_softmax(similarity, 1) * positives).sum().mul_scalar(-2.0 * temperature / n as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use hemlock_models::device::{self, Backend};

    fn open() -> Device {
        device::open(Backend::default()).unwrap().autodiff()
    }

    /// Queries along the axes, and the first key in between: cosines are (r, 0) and (r, 1) with r = sqrt(1/2).
    #[test]
    fn two_pairs_by_hand() {
        let device = open();
        let q = Tensor::<2>::from_floats([[2.0, 0.0], [0.0, 0.5]], &device);
        let k = Tensor::<2>::from_floats([[3.0, 3.0], [0.0, 1.0]], &device);
        let (t, r) = (0.2f64, 0.5f64.sqrt());
        let row = |own: f64, other: f64| ((own / t).exp() + (other / t).exp()).ln() - own / t;
        let expected = 2.0 * t * 0.5 * (row(r, 0.0) + row(1.0, r));
        let loss = f64::from(info_nce(q, k, t).into_scalar::<f32>());
        assert!((loss - expected).abs() < 1e-6, "{loss} {expected}");
    }

    #[test]
    fn equal_vectors_give_the_logarithm_of_the_batch() {
        let ones = Tensor::<2>::ones([8, 3], &open());
        let loss = info_nce(ones.clone(), ones, 0.2).into_scalar::<f32>();
        assert!((loss - 0.4 * 8f32.ln()).abs() < 1e-5);
    }

    #[test]
    fn its_gradient_matches_finite_differences() {
        let device = open();
        let (n, p, t) = (4, 3, 0.5);
        let at = |i: usize, shift: usize| ((i * 7 + shift * 5) % 11) as f32 / 4.0 - 1.1;
        let q: Vec<f32> = (0..n * p).map(|i| at(i, 0)).collect();
        let k: Vec<f32> = (0..n * p).map(|i| at(i * i, 1)).collect();
        let tensor = |v: &[f32]| Tensor::<1>::from_floats(v, &device).reshape([n, p]);
        // In f64, from the formula.
        let by_hand = |q: &[f64]| {
            let unit = |v: &[f64]| {
                let length = v.iter().map(|x| x * x).sum::<f64>().sqrt();
                v.iter().map(|x| x / length).collect::<Vec<_>>()
            };
            let keys: Vec<Vec<f64>> =
                k.chunks(p).map(|k| unit(&k.iter().map(|x| f64::from(*x)).collect::<Vec<_>>())).collect();
            let rows = q.chunks(p).map(unit).enumerate().map(|(i, q)| {
                let s: Vec<f64> = keys.iter().map(|k| k.iter().zip(&q).map(|(a, b)| a * b).sum::<f64>() / t).collect();
                s.iter().map(|s| s.exp()).sum::<f64>().ln() - s[i]
            });
            2.0 * t * rows.sum::<f64>() / n as f64
        };
        let queries = tensor(&q).require_grad();
        let gradients = info_nce(queries.clone(), tensor(&k), t).backward();
        let gradient: Vec<f32> = queries.grad(&gradients).unwrap().into_data().iter().collect();
        let q: Vec<f64> = q.iter().map(|x| f64::from(*x)).collect();
        for (i, g) in gradient.iter().enumerate() {
            let moved = |step: f64| {
                let mut q = q.clone();
                q[i] += step;
                by_hand(&q)
            };
            let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((f64::from(*g) - difference).abs() < 1e-4, "{i}: {g} {difference}");
        }
        assert!(gradient.iter().any(|g| g.abs() > 0.01));
    }
}
