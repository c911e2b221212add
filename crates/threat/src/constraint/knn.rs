//! The `knn` constraint: the points that lie near k samples of a class.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut1};
use rayon::prelude::*;

use super::{ClassRows, Constraint, ConstraintError, at_quantile, norm, unit};

/// Number of clean samples that a point is moved towards, to choose the nearest result.
const CANDIDATES: usize = 8;

/// The points that have at least `neighbors` samples of a class within `radius`. It is a union of intersections of
/// balls, and not convex.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct KnnSet {
    /// Samples of the class, `[n, d]`.
    samples: Array2<f64>,
    pub(super) radius: f64,
    neighbors: usize,
    /// The samples of the class that lie in the set and in the convex sets. Each is a list of `neighbors` samples: the
    /// sample itself first, then its nearest ones.
    inside: Vec<Vec<usize>>,
}

impl KnnSet {
    pub(super) fn new(
        classes: &ClassRows<'_>,
        class: usize,
        quantile: f64,
        neighbors: usize,
        convex: &Constraint,
    ) -> Result<Self, ConstraintError> {
        let samples = classes.select(class);
        let found = samples.nrows();
        if found <= neighbors {
            return Err(ConstraintError::FewNeighbors { class, found, neighbors });
        }
        // For every sample: the sample itself with its nearest ones, and the distance to its k-th nearest other sample.
        let nearest: Vec<(Vec<usize>, f64)> = (0..found)
            .into_par_iter()
            .map(|i| {
                let mut to = distances(&samples, samples.row(i));
                to[i] = -1.0;
                let mut others: Vec<usize> = (0..found).collect();
                let order = |a: &usize, b: &usize| to[*a].total_cmp(&to[*b]).then(a.cmp(b));
                others.select_nth_unstable_by(neighbors, order);
                let last = to[others[neighbors]];
                others.truncate(neighbors);
                others.sort_unstable_by(order);
                (others, last)
            })
            .collect();
        let radius = at_quantile(nearest.iter().map(|(_, distance)| *distance).collect(), quantile);
        let inside = nearest
            .into_iter()
            .enumerate()
            .filter(|(i, (_, distance))| *distance <= radius && convex.holds(samples.row(*i), class));
        let inside: Vec<_> = inside.map(|(_, (near, _))| near).collect();
        if inside.is_empty() {
            return Err(ConstraintError::Empty(class));
        }
        Ok(Self { samples, radius, neighbors, inside })
    }

    /// An upper bound of `|z|` in the set: every point of it has a sample within the radius.
    pub(super) fn largest_norm(&self) -> f64 {
        self.samples.rows().into_iter().map(norm).fold(0.0, f64::max) + self.radius
    }

    pub(super) fn holds(&self, z: ArrayView1<'_, f64>, radius: f64) -> bool {
        self.has_neighbors(&distances(&self.samples, z), radius)
    }

    fn has_neighbors(&self, distances: &[f64], radius: f64) -> bool {
        distances.iter().filter(|distance| **distance <= radius).count() >= self.neighbors
    }

    /// Moves a point outside of the set towards a sample inside, until the nearest neighbours of that sample are within
    /// the radius. Tries a few of the nearest samples and takes the nearest result. A convex set that contains the
    /// point and the sample also contains the result.
    pub(super) fn restore(&self, mut z: ArrayViewMut1<'_, f64>) {
        let to = distances(&self.samples, z.view());
        if self.has_neighbors(&to, self.radius) {
            return;
        }
        let order = |a: &&Vec<usize>, b: &&Vec<usize>| to[a[0]].total_cmp(&to[b[0]]).then(a[0].cmp(&b[0]));
        let mut candidates: Vec<&Vec<usize>> = self.inside.iter().collect();
        if candidates.len() > CANDIDATES {
            candidates.select_nth_unstable_by(CANDIDATES, order);
            candidates.truncate(CANDIDATES);
        }
        candidates.sort_unstable_by(order);
        let mut best: Option<(f64, Array1<f64>)> = None;
        for near in candidates {
            let length = to[near[0]];
            let sample = self.samples.row(near[0]);
            let away = &z - &sample;
            // The fraction of the way from the sample to the point at which the neighbour is exactly `radius` away: a
            // root of a quadratic equation.
            let argmax = |neighbor: &usize| {
                let offset = &sample - &self.samples.row(*neighbor);
                let (a, half_b) = (away.dot(&away), away.dot(&offset));
                let c = offset.dot(&offset) - self.radius * self.radius;
                ((half_b * half_b - a * c).max(0.0).sqrt() - half_b) / a
            };
            let share = near.iter().map(argmax).fold(1.0, f64::min).max(0.0);
            let left = length * (1.0 - share);
            if best.as_ref().is_none_or(|(least, _)| left < *least) {
                best = Some((left, &sample + &(away * share)));
            }
        }
        if let Some((_, point)) = best {
            z.assign(&point);
        }
    }

    /// Calls `lower` with every `k`, and with an upper bound of `<w_k - w_y, z>` over the set. `w` are `weights`,
    /// `[K, d]`, and `lengths` are at least `|w_k - w_y|`.
    pub(super) fn bound_differences(
        &self,
        weights: ArrayView2<'_, f64>,
        y: usize,
        lengths: &[f64],
        mut lower: impl FnMut(usize, f64),
    ) {
        let along = weights.dot(&self.samples.t());
        for (k, (of_class, length)) in along.rows().into_iter().zip(lengths).enumerate() {
            let mut across: Vec<f64> = of_class.iter().zip(along.row(y)).map(|(a, of_y)| a - of_y).collect();
            let (_, sample, _) = across.select_nth_unstable_by(self.neighbors - 1, |a, b| b.total_cmp(a));
            lower(k, *sample + self.radius * length);
        }
    }

    /// An upper bound of `<direction, z>` over the set, and the point that attains it. A point within `radius` of k
    /// samples reaches at most the k-th largest `<direction, sample>`, plus `radius` times the norm of the direction.
    pub(super) fn extreme(&self, direction: ArrayView1<'_, f64>) -> (f64, Array1<f64>) {
        let along = self.samples.dot(&direction);
        let mut order: Vec<usize> = (0..along.len()).collect();
        order.sort_by(|a, b| along[*b].total_cmp(&along[*a]));
        let sample = order[self.neighbors - 1];
        let point = unit(direction) * self.radius + self.samples.row(sample);
        (along[sample] + self.radius * norm(direction), point)
    }
}

/// The distances from `z` to every sample.
fn distances(samples: &Array2<f64>, z: ArrayView1<'_, f64>) -> Vec<f64> {
    /// Number of partial sums. They are independent of each other, which makes the loop fast.
    const LANES: usize = 8;
    let (z, samples) = (z.to_vec(), samples.as_standard_layout());
    let to = |x: &[f64]| {
        let mut sums = [0.0; LANES];
        let (x, z) = (x.as_chunks::<LANES>(), z.as_chunks::<LANES>());
        for (x, z) in x.0.iter().zip(z.0) {
            for (sum, (x, z)) in sums.iter_mut().zip(x.iter().zip(z)) {
                *sum += (x - z) * (x - z);
            }
        }
        let rest: f64 = x.1.iter().zip(z.1).map(|(x, z)| (x - z) * (x - z)).sum();
        (sums.iter().sum::<f64>() + rest).sqrt()
    };
    samples.as_slice().expect("the samples of a class are contiguous").chunks_exact(z.len()).map(to).collect()
}
