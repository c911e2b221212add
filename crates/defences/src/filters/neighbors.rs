//! Distances between many samples, from products of matrices.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};
use rayon::prelude::*;

use crate::linalg::squared;

/// Rows whose distances are computed together.
const ROWS: usize = 64;

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
            let mut distances = z.dot(&references.t());
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

/// The distance between two points.
pub(super) fn distance(a: ArrayView1<'_, f64>, b: ArrayView1<'_, f64>) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
}
