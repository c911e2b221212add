//! The distance to the k-th nearest sample of the same class.

use super::neighbors::{distance, smallest, visit_distances};
use super::{Filter, FilterOptions, Filtered, by_class, remove_of_classes};
use crate::linalg::centre;
use crate::{DefenceError, TrainingData};

const NEIGHBORS: usize = 5;

pub(super) static FILTER: Filter = Filter {
    name: "knn-distance",
    score: "the distance to the k-th nearest other sample of the same class (k = 5)",
    rule: "the expected share of each class",
    by_class: true,
    source: "Koh, Steinhardt & Liang, 2022 (there: the k-NN defence)",
    run,
    fixed: None,
};

fn run(set: &TrainingData<'_>, options: &FilterOptions) -> Result<Filtered, DefenceError> {
    let neighbors = options.neighbors.unwrap_or(NEIGHBORS);
    DefenceError::check_count("neighbors", neighbors, 1, set.len())?;
    let scores = by_class(set, |class, rows| {
        if rows.len() <= neighbors {
            let (needed, found) = (neighbors + 1, rows.len());
            return Err(DefenceError::FewSamples { defence: FILTER.name, class, needed, found });
        }
        let mut z = set.select(rows).features;
        // Distances do not change, and their rounding errors become smaller.
        centre(&mut z);
        Ok(visit_distances(z.view(), &z, |row, squares| {
            squares[row] = f64::INFINITY;
            // The chosen distances are computed once more, because those above are rounded.
            smallest(squares, neighbors, |nearest| {
                nearest.iter().map(|other| distance(z.row(row), z.row(*other))).fold(0.0, f64::max)
            })
        }))
    })?;
    Ok(remove_of_classes(set, scores, options.fraction()))
}
