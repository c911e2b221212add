//! Minimisers of smooth functions whose gradients are given.
//!
//! - [`minimize`]: L-BFGS for convex functions of a matrix, run to the minimum.
//! - [`LbfgsMemory`]: the memory of L-BFGS, for vectors so long that reading them dominates the cost of a step.
//! - [`Adam`]: Adam with a cosine schedule, on a matrix.
//! - [`boxed`]: minimisers of a vector with bounds on every coordinate.
//! - [`half_cosine`]: the step schedule of both Adam optimisers and of gradient descent.
//!
//! L-BFGS has several recursions, because its problems differ in size and place:
//!
//! - [`minimize`] has a head of some thousand numbers in f64, and preconditions;
//! - [`LbfgsMemory`] has all poisoned features, and reads as little memory as it can;
//! - [`boxed`] has one image in f32, within bounds, whose function a batch of other images is evaluated with;
//! - `hemlock-perturb` has the same as [`boxed`] on the tensors of a GPU, and compares the two in a test.

mod adam;
pub mod boxed;
mod lbfgs;
mod lbfgs_memory;

pub use adam::Adam;
pub use lbfgs::{Level, Limits, Minimum, Objective, minimize, minimize_in_levels};
pub use lbfgs_memory::{LbfgsMemory, PAIRS};

use ndarray::Array2;
use std::f64::consts::PI;

/// The inner product of two matrices of the same shape: the sum of the products of their elements.
#[must_use]
pub fn inner(a: &Array2<f64>, b: &Array2<f64>) -> f64 {
    a.rows().into_iter().zip(b.rows()).map(|(a, b)| a.dot(&b)).sum()
}

/// The Frobenius norm of a matrix: the square root of the sum of its squared elements.
#[must_use]
pub fn norm(a: &Array2<f64>) -> f64 {
    inner(a, a).sqrt()
}

/// The step length after `done` of `all` steps, as a fraction of the first step's: half a cosine, which falls from 1
/// to 0.
#[must_use]
pub fn half_cosine(done: f64, all: f64) -> f64 {
    0.5 * (1.0 + (PI * done / all).cos())
}
