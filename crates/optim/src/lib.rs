//! Minimisers of smooth functions, for whoever has a function and its gradient.

mod lbfgs;

pub use lbfgs::{Limits, Minimum, minimize};

use ndarray::Array2;

/// The sum of the products of the elements of two matrices of one shape.
#[must_use]
pub fn inner(a: &Array2<f64>, b: &Array2<f64>) -> f64 {
    a.rows().into_iter().zip(b.rows()).map(|(a, b)| a.dot(&b)).sum()
}

/// The square root of the sum of a matrix's squared elements.
#[must_use]
pub fn norm(a: &Array2<f64>) -> f64 {
    inner(a, a).sqrt()
}
