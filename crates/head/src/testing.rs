//! Random data and comparisons for tests of this crate and of the crates that depend on it.

use ndarray::Array2;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::Samples;

/// Normally distributed features around one random centre for each class, with their labels.
pub struct GaussianClusters {
    /// The features, `[n, d]`.
    pub features: Array2<f64>,
    labels: Vec<u32>,
    classes: usize,
}

impl GaussianClusters {
    /// `n` samples with `d` features. Equal seeds give equal samples.
    #[must_use]
    pub fn new(n: usize, d: usize, classes: usize, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let labels: Vec<u32> = (0..n).map(|_| rng.random_range(0..classes as u32)).collect();
        let centres = random(classes, d, seed ^ 0x5eed);
        let features = Array2::from_shape_fn((n, d), |(row, column)| {
            let noise: f64 = StandardNormal.sample(&mut rng);
            0.5 * centres[(labels[row] as usize, column)] + noise
        });
        Self { features, labels, classes }
    }

    /// A view of the samples.
    ///
    /// # Panics
    /// Panics if there are fewer than two classes or no features, or if a feature was set to a value that is not
    /// finite.
    #[must_use]
    pub fn samples(&self) -> Samples<'_> {
        Samples::new(self.features.view(), &self.labels, self.classes).expect("labels are drawn below the classes")
    }
}

/// Standard normal values `[rows, columns]`.
#[must_use]
pub fn random(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Array2::from_shape_simple_fn((rows, columns), || StandardNormal.sample(&mut rng))
}

/// The gradient of `f` at `at`, by central differences.
pub fn derivative(f: impl Fn(&Array2<f64>) -> f64, at: &Array2<f64>) -> Array2<f64> {
    let step = 1e-5;
    Array2::from_shape_fn(at.dim(), |index| {
        let mut probe = at.clone();
        probe[index] = at[index] + step;
        let above = f(&probe);
        probe[index] = at[index] - step;
        (above - f(&probe)) / (2.0 * step)
    })
}

/// Asserts that all elements differ from the expected ones by at most `tolerance * max(1, largest |expected|)`.
///
/// # Panics
/// Panics if an element differs by more, or if the shapes differ.
#[track_caller]
pub fn assert_close(found: &Array2<f64>, expected: &Array2<f64>, tolerance: f64) {
    assert_eq!(found.dim(), expected.dim());
    let scale = expected.fold(1f64, |max, value| max.max(value.abs()));
    let worst = (found - expected).fold(0f64, |max, error| if error.abs() <= max { max } else { error.abs() });
    assert!(worst <= tolerance * scale, "off by {worst:e}:\n{found}\ninstead of\n{expected}");
}
