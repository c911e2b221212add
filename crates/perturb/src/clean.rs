//! Statistics of clean features: norms, and distances to the nearest neighbour.

use hemlock_artifact::{PoisonFit, median};
use hemlock_head::subsample;
use ndarray::{Array2, ArrayView1, ArrayView2, Axis, Slice};
use rayon::prelude::*;

/// Queries per thread whose distances to all references are in memory at once.
const BLOCK: usize = 64;

/// Most clean samples whose nearest neighbours are searched; if there are more, a subsample is used.
const SAMPLES: usize = 10_000;

/// For each row of `queries`, `[m, d]`, the `k` nearest rows of `reference`, `[n, d]`: index and L2 distance, nearest
/// first. Of equal distances, the smaller index comes first. There are fewer than `k` if `reference` has fewer rows.
#[must_use]
pub fn nearest(queries: ArrayView2<f32>, reference: ArrayView2<f32>, k: usize) -> Vec<Vec<(usize, f32)>> {
    let squares: Vec<f32> = reference.rows().into_iter().map(|r| r.dot(&r)).collect();
    let blocks: Vec<usize> = (0..queries.nrows()).step_by(BLOCK).collect();
    let block = |start: &usize| {
        let rows = queries.slice_axis(Axis(0), Slice::from(*start..(*start + BLOCK).min(queries.nrows())));
        let products = rows.dot(&reference.t());
        let search = |(query, products): (ArrayView1<f32>, ArrayView1<f32>)| {
            // Half the squared distance, up to a constant of the query.
            let mut found = smallest(products.iter().zip(&squares).map(|(p, s)| 0.5 * s - p), k);
            // As a difference of large numbers, this is exact enough to rank by, but not as a distance.
            found.iter_mut().for_each(|(i, d)| *d = distance(query, reference.row(*i)));
            found
        };
        rows.rows().into_iter().zip(products.rows()).map(search).collect::<Vec<_>>()
    };
    blocks.par_iter().flat_map_iter(block).collect()
}

/// The `k` smallest values with their positions, in ascending order.
fn smallest(values: impl Iterator<Item = f32>, k: usize) -> Vec<(usize, f32)> {
    let mut found: Vec<(usize, f32)> = Vec::with_capacity(k + 1);
    for (i, value) in values.enumerate() {
        if found.len() < k || found.last().is_some_and(|(_, worst)| value < *worst) {
            let at = found.partition_point(|(_, v)| *v <= value);
            found.insert(at, (i, value));
            found.truncate(k);
        }
    }
    found
}

/// The L2 distance of two vectors.
pub(crate) fn distance(a: ArrayView1<f32>, b: ArrayView1<f32>) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt()
}

/// The L2 distance of every row of `a` to the same row of `b`.
#[must_use]
pub fn distances(a: ArrayView2<f32>, b: ArrayView2<f32>) -> Vec<f32> {
    a.rows().into_iter().zip(b.rows()).map(|(a, b)| distance(a, b)).collect()
}

/// The L2 norm of a vector.
#[must_use]
pub fn norm(z: ArrayView1<f32>) -> f32 {
    z.dot(&z).sqrt()
}

/// Median and median absolute deviation (MAD) of a set of values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReferenceStats {
    /// The median.
    pub median: f64,
    deviation: f64,
}

impl ReferenceStats {
    fn of(values: impl Iterator<Item = f32>) -> Self {
        let mut values: Vec<f64> = values.map(f64::from).collect();
        let centre = median(&mut values);
        values.iter_mut().for_each(|v| *v = (*v - centre).abs());
        Self { median: centre, deviation: median(&mut values) }
    }

    /// The robust z-score `0.6745 (x - median) / MAD` (Iglewicz and Hoaglin, 1993); for normally distributed values it
    /// estimates the ordinary z-score.
    pub(crate) fn z(&self, x: f32) -> f32 {
        let off = f64::from(x) - self.median;
        // Norms of L2-normalised features differ by rounding alone.
        let rounding = 1e-6 * self.median.abs();
        let constant = self.deviation <= rounding && off.abs() <= rounding;
        if off == 0.0 || constant { 0.0 } else { (0.6745 * off / self.deviation) as f32 }
    }
}

/// Statistics of clean training features `[n, d]`, with which poisons are compared.
pub struct CleanFeatureStats {
    /// Statistics of the norms.
    pub norm: ReferenceStats,
    /// Statistics of the distances to the nearest other sample.
    pub nearest: ReferenceStats,
}

impl CleanFeatureStats {
    /// Computes the statistics of `features`.
    #[must_use]
    pub fn new(features: ArrayView2<f32>) -> Self {
        let sampled = subsample(features.nrows(), SAMPLES);
        let queries: Array2<f32> = features.select(Axis(0), &sampled);
        let found = nearest(queries.view(), features, 2);
        // The nearest neighbour of a sample is the sample itself.
        let other = |(own, found): (&usize, &Vec<(usize, f32)>)| found.iter().find(|(i, _)| i != own).map(|(_, d)| *d);
        Self {
            norm: ReferenceStats::of(features.rows().into_iter().map(norm)),
            nearest: ReferenceStats::of(sampled.iter().zip(&found).filter_map(other)),
        }
    }

    /// The share of `samples`, `[m, d]`, that would count as outliers if they were poisons. `features` must be those
    /// that the statistics are of.
    #[must_use]
    pub fn outliers(&self, samples: ArrayView2<f32>, features: ArrayView2<f32>) -> f64 {
        let found = nearest(samples, features, 1);
        let outlier = |(z, found): (ArrayView1<f32>, &Vec<(usize, f32)>)| {
            let nearest_z = found.first().map_or(0.0, |(_, d)| self.nearest.z(*d));
            PoisonFit { norm_z: self.norm.z(norm(z)), nearest_z, ..PoisonFit::default() }.is_outlier()
        };
        let count = samples.rows().into_iter().zip(&found).filter(|(z, found)| outlier((*z, found))).count();
        count as f64 / samples.nrows().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn neighbours_are_those_of_the_definition() {
        let point = |i: usize, j: usize| ((i * 71 + j * 29 + i * i * 13) % 101) as f32;
        let (queries, reference) = (
            Array2::from_shape_fn((70, 3), |(i, j)| point(i + 300, j)),
            Array2::from_shape_fn((150, 3), |(i, j)| point(i, j)),
        );
        let found = nearest(queries.view(), reference.view(), 4);
        assert_eq!(found.len(), 70);
        for (query, found) in queries.rows().into_iter().zip(&found) {
            let mut all: Vec<f32> = reference.rows().into_iter().map(|r| distance(query, r)).collect();
            assert!(found.iter().all(|(i, d)| all[*i] == *d));
            all.sort_by(f32::total_cmp);
            assert_eq!(found.iter().map(|(_, d)| *d).collect::<Vec<_>>(), all[..4]);
        }
        assert_eq!(nearest(queries.view(), reference.slice_axis(Axis(0), (..2).into()), 4)[0].len(), 2);
    }

    #[test]
    fn scores_by_hand() {
        let usual = ReferenceStats::of([1.0, 2.0, 3.0, 4.0, 100.0].into_iter());
        assert_eq!(usual, ReferenceStats { median: 3.0, deviation: 1.0 });
        assert_eq!((usual.z(5.0), usual.z(3.0)), (0.6745 * 2.0, 0.0));
        // If most values are equal, any other value is an outlier.
        assert_eq!(ReferenceStats::of([2.0; 3].into_iter()).z(2.1), f32::INFINITY);
        // Except for rounding: the norms of L2-normalised samples are all 1.
        let unit = ReferenceStats::of([1.0, 1.0 - 6e-8, 1.0, 1.0 + 1.2e-7, 1.0 + 1.2e-7].into_iter());
        assert_eq!((unit.z(1.0 + 3.6e-7), unit.z(1.0 - 6e-8)), (0.0, 0.0));
        assert!(unit.z(0.9) < -3.5);
    }

    #[test]
    fn a_sample_is_not_its_own_neighbour() {
        let clean = CleanFeatureStats::new(array![[0.0, 0.0], [3.0, 4.0], [3.0, 5.0], [3.0, 5.0]].view());
        // Distances 5, 1, 0, 0; norms 0, 5, and sqrt(34) twice.
        assert_eq!(clean.nearest.median, 0.5);
        assert!((clean.norm.median - 0.5 * (5.0 + 34f64.sqrt())).abs() < 1e-6);
    }

    #[test]
    fn outliers_are_unusual_by_norm_or_far_from_all() {
        let features =
            Array2::from_shape_fn((40, 2), |(i, j)| [(i % 8) as f32, (i / 8) as f32][j] + 10.0 + 0.01 * i as f32);
        let clean = CleanFeatureStats::new(features.view());
        // A sample among the others, one far away, and one with a usual norm that is far from all others.
        let samples = array![[12.3, 12.4], [900.0, 900.0], [0.0, 18.0]];
        assert_eq!(clean.outliers(samples.view(), features.view()), 2.0 / 3.0);
        assert_eq!(clean.outliers(features.view(), features.view()), 0.0);
    }
}
