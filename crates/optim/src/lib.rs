//! Minimisers of smooth functions, for whoever has a function and its gradient.
//!
//! - [`minimize`]: L-BFGS for convex functions of a matrix, to the minimum.
//! - [`LbfgsMemory`]: the memory of L-BFGS, for vectors so long that reading them is what a step costs.
//! - [`Adam`]: Adam with a cosine schedule, on a matrix.
//! - [`boxed`]: minimisers of a vector within bounds on every coordinate.
//! - [`half_cosine`]: the schedule that they share.

mod adam;
pub mod boxed;
mod lbfgs;
mod lbfgs_memory;

pub use adam::Adam;
pub use lbfgs::{Limits, Minimum, minimize};
pub use lbfgs_memory::{LbfgsMemory, PAIRS};

use ndarray::Array2;
use std::f64::consts::PI;

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

/// The share of the first step's length at `done` of `all` steps: half a cosine, from 1 to 0.
#[must_use]
pub fn half_cosine(done: f64, all: f64) -> f64 {
    0.5 * (1.0 + (PI * done / all).cos())
}
