//! How many of the nearest samples have another label.

use hemlock_head::subsample;

use super::neighbors::{Single, smallest, visit_distances};
use super::{Filter, FilterOptions, Filtered, RemovalRule, remove_of_all};
use crate::{DefenceError, TrainingData};

/// The largest number of samples among which neighbours are searched. With more samples, neighbours are searched in a
/// random subset, and their number shrinks with it.
const REFERENCES: usize = 4096;
/// Rows that are in memory at a time.
const ROWS: usize = 16_384;

pub(super) static FILTER: Filter = Filter {
    name: "knn-label",
    score: "of the k nearest other samples, the share with the most frequent label, minus the share with the sample's \
            own label (k is the mean size of a class; among 4,096 random samples, and k smaller in proportion, if \
            there are more)",
    rule: "every sample whose label is not the most frequent one among its neighbours, whatever share is expected",
    by_class: false,
    multiple: 0.0,
    source: "Peri et al., 2020 (deep k-NN)",
    run,
    fixed: None,
};

fn run(set: &TrainingData<'_>, options: &FilterOptions) -> Result<Filtered, DefenceError> {
    let count = set.len();
    DefenceError::check_count("samples of `knn-label`", count, 2, usize::MAX)?;
    let neighbors = options.neighbors.unwrap_or(count.div_ceil(set.classes()).min(count - 1));
    DefenceError::check_count("neighbors", neighbors, 1, count - 1)?;
    // Chosen rows of the references; none is missing if there are few samples.
    let chosen = subsample(count, REFERENCES);
    let references = set.select(&chosen);
    let single = Single::of(references.features.view());
    let points = single.points(references.features.view());
    let share = chosen.len() as f64 / count as f64;
    let neighbors = ((neighbors as f64 * share).round() as usize).clamp(1, chosen.len() - 1);

    let labels = set.labels();
    let rows: Vec<usize> = (0..count).collect();
    let mut scores = Vec::with_capacity(count);
    for rows in rows.chunks(ROWS) {
        let queries = single.points(set.select(rows).features.view());
        scores.extend(visit_distances(queries.view(), &points, |row, squares| {
            let row = rows[row];
            if let Ok(own) = chosen.binary_search(&row) {
                squares[own] = f32::INFINITY;
            }
            let mut votes = vec![0usize; set.classes()];
            smallest(squares, neighbors, |nearest| {
                nearest.iter().for_each(|near| votes[references.labels[*near] as usize] += 1);
            });
            let most = votes.iter().max().copied().unwrap_or(0);
            (most - votes[labels[row] as usize]) as f64 / neighbors as f64
        }));
    }
    Ok(match options.removal {
        RemovalRule::Share(share) => remove_of_all(scores, share),
        RemovalRule::Paper { .. } => Filtered { removed: scores.iter().map(|score| *score > 0.0).collect(), scores },
    })
}
