//! Distances between many samples, from products of matrices.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};
use rayon::prelude::*;

use crate::linalg::{squared, times_transposed};

/// Rows whose distances are computed together.
const ROWS: usize = 256;

/// Calls `visit` for every row of `queries` with its number and the squared distances to all `references`, and returns
/// its results in order. Distances come from `|a|² + |b|² - 2 <a, b>`, so that those of close points have a rounding
/// error of about 1e-16 times the squared norms, and may even be slightly negative.
pub(super) fn visit_distances<T: Send>(
    queries: ArrayView2<'_, f64>,
    references: &Array2<f64>,
    visit: impl Fn(usize, &mut [f64]) -> T + Sync,
) -> Vec<T> {
    let norms: Array1<f64> = references.rows().into_iter().map(squared).collect();
    let chunks: Vec<_> = queries.axis_chunks_iter(Axis(0), ROWS).enumerate().collect();
    let results: Vec<Vec<T>> = chunks
        .into_par_iter()
        .map(|(chunk, z)| {
            let mut distances = times_transposed(z, references.view());
            let each = distances.rows_mut().into_iter().zip(z.rows()).enumerate();
            each.map(|(row, (mut to, z))| {
                let own = squared(z);
                to.zip_mut_with(&norms, |product, norm| *product = own + norm - 2.0 * *product);
                visit(chunk * ROWS + row, to.as_slice_mut().expect("a row of a product is contiguous"))
            })
            .collect()
        })
        .collect();
    results.into_iter().flatten().collect()
}

/// Calls `visit` with the places of the `count` smallest numbers, which are at most as many as there are.
pub(super) fn smallest<T>(numbers: &[f64], count: usize, visit: impl FnOnce(&[usize]) -> T) -> T {
    // The numbers are sorted alone, because places that point at them are slow to compare.
    let mut sorted = numbers.to_vec();
    let (below, largest, _) = sorted.select_nth_unstable_by(count - 1, f64::total_cmp);
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
        let (queries, references) = (random(300, 5, 1), random(20, 5, 2));
        let all = visit_distances(queries.view(), &references, |row, squares| (row, squares.to_vec()));
        for (i, (row, squares)) in all.into_iter().enumerate() {
            assert_eq!(i, row);
            for (square, reference) in squares.iter().zip(references.rows()) {
                assert!((square.sqrt() - distance(queries.row(row), reference)).abs() < 1e-10);
            }
        }
    }
}
