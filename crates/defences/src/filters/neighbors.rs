//! Distances between many samples, from products of matrices.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};
use rayon::prelude::*;

use crate::linalg::{mean, times_transposed};

/// Rows whose distances are computed together.
const ROWS: usize = 256;

/// What is subtracted from points and what they are multiplied with, so that their distances fit into single precision.
/// Distances of what is left are those of the points, times the factor.
pub(super) struct Single {
    centre: Array1<f64>,
    factor: f64,
}

impl Single {
    /// Puts the mean of some points, at least one, at the origin, and the farthest coordinate at 1.
    pub(super) fn of(points: ArrayView2<'_, f64>) -> Self {
        let centre = mean(points);
        let off =
            |point: ArrayView1<'_, f64>| point.iter().zip(&centre).map(|(z, c)| (z - c).abs()).fold(0.0, f64::max);
        let farthest = points.rows().into_iter().map(off).fold(0.0, f64::max);
        Self { factor: if farthest > 0.0 { farthest.recip() } else { 1.0 }, centre }
    }

    /// The points in single precision.
    pub(super) fn points(&self, z: ArrayView2<'_, f64>) -> Array2<f32> {
        let mut points = Array2::zeros(z.dim());
        for (mut to, from) in points.rows_mut().into_iter().zip(z.rows()) {
            let each = to.iter_mut().zip(from.iter().zip(&self.centre));
            each.for_each(|(to, (z, centre))| *to = ((z - centre) * self.factor) as f32);
        }
        points
    }
}

/// Calls `visit` for every row of `queries` with its number and the squared distances to all `references`, and returns
/// its results in order. Distances come from `|a|² + |b|² - 2 <a, b>`, so that those of close points have a rounding
/// error of about 1e-7 times the squared norms, and may even be slightly negative.
pub(super) fn visit_distances<T: Send>(
    queries: ArrayView2<'_, f32>,
    references: &Array2<f32>,
    visit: impl Fn(usize, &mut [f32]) -> T + Sync,
) -> Vec<T> {
    let norms: Array1<f32> = references.rows().into_iter().map(|z| z.dot(&z)).collect();
    let chunks: Vec<_> = queries.axis_chunks_iter(Axis(0), ROWS).enumerate().collect();
    let results: Vec<Vec<T>> = chunks
        .into_par_iter()
        .map(|(chunk, z)| {
            let mut distances = times_transposed(z, references.view());
            let each = distances.rows_mut().into_iter().zip(z.rows()).enumerate();
            each.map(|(row, (mut to, z))| {
                let own = z.dot(&z);
                to.zip_mut_with(&norms, |product, norm| *product = own + norm - 2.0 * *product);
                visit(chunk * ROWS + row, to.as_slice_mut().expect("a row of a product is contiguous"))
            })
            .collect()
        })
        .collect();
    results.into_iter().flatten().collect()
}

/// Calls `visit` with the places of the `count` smallest numbers, which are at most as many as there are.
pub(super) fn smallest<T>(numbers: &[f32], count: usize, visit: impl FnOnce(&[usize]) -> T) -> T {
    // The numbers are sorted alone, because places that point at them are slow to compare.
    let mut sorted = numbers.to_vec();
    let (below, largest, _) = sorted.select_nth_unstable_by(count - 1, f32::total_cmp);
    let largest = *largest;
    let equal = count - below.iter().filter(|number| **number < largest).count();
    let mut places = Vec::with_capacity(count);
    places.extend((0..numbers.len()).filter(|place| numbers[*place] < largest));
    places.extend((0..numbers.len()).filter(|place| numbers[*place] == largest).take(equal));
    visit(&places)
}

/// The distance between two points.
pub(super) fn distance(a: ArrayView1<'_, f64>, b: ArrayView1<'_, f64>) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_head::testing::random;

    #[test]
    fn the_smallest_are_found_once_each() {
        let numbers = [3.0, 1.0, 2.0, 1.0, 5.0, 1.0];
        let of = |count| smallest(&numbers, count, <[usize]>::to_vec);
        assert_eq!([of(1), of(2), of(4)], [vec![1], vec![1, 3], vec![1, 3, 5, 2]]);
        assert_eq!(of(6).len(), 6);
    }

    #[test]
    fn distances_are_those_of_differences() {
        let (queries, references) = (random(300, 5, 1) * 1e30 + 7e30, random(20, 5, 2) * 1e30 + 7e30);
        let single = Single::of(references.view());
        let (some, others) = (single.points(queries.view()), single.points(references.view()));
        let all = visit_distances(some.view(), &others, |row, squares| (row, squares.to_vec()));
        for (i, (row, squares)) in all.into_iter().enumerate() {
            assert_eq!(i, row);
            for (square, reference) in squares.iter().zip(references.rows()) {
                let expected = distance(queries.row(row), reference) * single.factor;
                assert!((f64::from(*square) - expected * expected).abs() < 1e-5);
            }
        }
    }
}
