//! The distance to the k-th nearest sample of the same class.

use super::neighbors::{Single, distance, smallest, visit_distances};
use super::{Filter, FilterOptions, Filtered, by_class, remove_of_classes};
use crate::{DefenceError, TrainingData};

const NEIGHBORS: usize = 5;
/// How many more samples than neighbours are looked at closely, because distances that find them are rounded.
const SPARE: usize = 8;

pub(super) static FILTER: Filter = Filter {
    name: "knn-distance",
    score: "the distance to the k-th nearest other sample of the same class (k = 5)",
    rule: "the expected share of each class",
    by_class: true,
    multiple: 1.0,
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
        let z = set.select(rows).features;
        let points = Single::of(z.view()).points(z.view());
        Ok(visit_distances(points.view(), &points, |row, squares| {
            squares[row] = f32::INFINITY;
            smallest(squares, (neighbors + SPARE).min(rows.len() - 1), |nearest| {
                let mut distances: Vec<f64> = nearest.iter().map(|other| distance(z.row(row), z.row(*other))).collect();
                *distances.select_nth_unstable_by(neighbors - 1, f64::total_cmp).1
            })
        }))
    })?;
    Ok(remove_of_classes(set, scores, options.fraction()))
}
