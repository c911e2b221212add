//! The distance to the subspace that holds most of the data.

use ndarray::{Array1, Array2, ArrayView1, Axis, Slice};

use super::{Filter, FilterOptions, Filtered, FixedScore, remove_of_classes};
use crate::linalg::{eigen, gram, product, squared};
use crate::{DefenceError, TrainingData};

/// The share of the sum of squares that the subspace keeps at least.
const ENERGY: f64 = 0.95;
/// Rows whose second moments are computed together.
const ROWS: usize = 16_384;

pub(super) static FILTER: Filter = Filter {
    name: "svd",
    score: "the distance to the span of the fewest right singular vectors of all features, not centred, that keep 95 % \
            of their sum of squares",
    rule: "the expected share of each class",
    by_class: true,
    multiple: 1.0,
    source: "Rubinstein et al., 2009; Koh, Steinhardt & Liang, 2022",
    run,
    fixed: Some(fixed),
};

fn run(set: &TrainingData<'_>, options: &FilterOptions) -> Result<Filtered, DefenceError> {
    let basis = basis(set)?;
    let parts = set.map_chunks(|_, z| {
        let outside = &z - &product(product(z, basis.view()).view(), basis.t());
        outside.rows().into_iter().map(|z| squared(z).sqrt()).collect::<Vec<_>>()
    });
    let scores = parts.flatten().collect();
    Ok(remove_of_classes(set, scores, options.fraction()))
}

/// An orthonormal basis of the subspace, `[d, rank]`.
fn basis(set: &TrainingData<'_>) -> Result<Array2<f64>, DefenceError> {
    let rows: Vec<usize> = (0..set.len()).collect();
    let zero = Array2::zeros((set.dim(), set.dim()));
    let moments = rows.chunks(ROWS).fold(zero, |sum, rows| sum + gram(set.select(rows).features.view()));
    let (values, vectors) = eigen(&moments)?;
    let mut left = ENERGY * values.sum();
    let mut rank = 0;
    while left > 0.0 && rank < values.len() {
        left -= values[rank];
        rank += 1;
    }
    Ok(vectors.slice_axis(Axis(1), Slice::from(..rank)).to_owned())
}

/// A basis of the subspace.
struct Subspace(Array2<f64>);

fn fixed(set: &TrainingData<'_>, _: &FilterOptions) -> Result<Box<dyn FixedScore>, DefenceError> {
    Ok(Box::new(Subspace(basis(set)?)))
}

impl FixedScore for Subspace {
    fn at(&self, z: ArrayView1<'_, f64>, _: usize) -> (f64, Array1<f64>) {
        let outside = &z - &self.0.dot(&self.0.t().dot(&z));
        let score = squared(outside.view()).sqrt();
        (score, outside / score.max(f64::MIN_POSITIVE))
    }
}
