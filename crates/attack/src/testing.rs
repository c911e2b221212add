//! A small problem for tests of this crate and of the crates that depend on it.

#![allow(clippy::unwrap_used, clippy::new_without_default)]

use hemlock_head::{FitOptions, Head, Samples, fit};
use ndarray::Array2;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Overlapping clouds of points around the corners of a triangle: features `[n, 2]` and labels `[n]`.
#[must_use]
pub fn clouds(n: usize, seed: u64) -> (Array2<f64>, Vec<u32>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let labels: Vec<u32> = (0..n).map(|i| (i % 3) as u32).collect();
    let z = Array2::from_shape_fn((n, 2), |(i, j)| {
        let corner = [[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]][i % 3][j];
        corner + (0..4).map(|_| rng.random_range(-0.5..0.5)).sum::<f64>()
    });
    (z, labels)
}

/// Clean data, validation data, and the clean head for a weight decay of 0.01.
pub struct Clouds {
    clean: (Array2<f64>, Vec<u32>),
    validation: (Array2<f64>, Vec<u32>),
    /// The head trained on the clean data.
    pub head: Head,
}

impl Clouds {
    /// Creates the problem, which is the same every time.
    #[must_use]
    pub fn new() -> Self {
        let clean = clouds(300, 1);
        let samples = Samples::new(clean.0.view(), &clean.1, 3).unwrap();
        let head = fit(&[samples], &FitOptions::new(1e-2), &|_, _| true).unwrap().head;
        Self { clean, validation: clouds(150, 2), head }
    }

    /// The clean training data.
    #[must_use]
    pub fn clean(&self) -> Samples<'_> {
        Samples::new(self.clean.0.view(), &self.clean.1, 3).unwrap()
    }

    /// Validation samples, on which the head is not trained.
    #[must_use]
    pub fn validation(&self) -> Samples<'_> {
        Samples::new(self.validation.0.view(), &self.validation.1, 3).unwrap()
    }
}
