//! k-nearest-neighbour votes in feature space, for a monitor and for a victim that needs no training.

use std::cmp::Ordering;

use ndarray::{Array2, ArrayView1, ArrayView2, Axis};
use rayon::prelude::*;

/// Queries whose similarities are in memory at once.
const TOGETHER: usize = 256;

/// Numbers of votes `[m, classes]`: for each row of `queries`, `[m, d]`, the classes of the `k` rows of `reference`,
/// `[n, d]`, with the largest cosine similarity. `known` holds the classes of `reference`. Returns `None` if `stop`
/// returned `true` before the end.
#[must_use]
pub fn votes(
    k: usize,
    (reference, known): (Array2<f32>, &[u32]),
    queries: Array2<f32>,
    classes: usize,
    stop: &(dyn Fn() -> bool + Sync),
) -> Option<Array2<f64>> {
    let rows = vote(k, (unit_rows(reference).view(), known), unit_rows(queries).view(), |_| None, stop)?;
    Some(Array2::from_shape_fn((rows.len(), classes), |(i, class)| rows[i].get(class).map_or(0.0, |n| *n as f64)))
}

/// Why a vote without a stop always has a result.
const UNSTOPPED: &str = "nothing asked for a stop";

/// The accuracy of the vote: the share of `queries` for which their own class wins. Ties go to the smaller class.
pub(crate) fn accuracy(k: usize, (reference, known): (Array2<f32>, &[u32]), queries: (Array2<f32>, &[u32])) -> f32 {
    let (reference, asked) = (unit_rows(reference), unit_rows(queries.0));
    share(&vote(k, (reference.view(), known), asked.view(), |_| None, &|| false).expect(UNSTOPPED), queries.1)
}

/// The accuracy of the vote for each sample among all the others.
pub(crate) fn leave_one_out(k: usize, (samples, labels): (Array2<f32>, &[u32])) -> f32 {
    let samples = unit_rows(samples);
    share(&vote(k, (samples.view(), labels), samples.view(), Some, &|| false).expect(UNSTOPPED), labels)
}

fn share(votes: &[Vec<usize>], labels: &[u32]) -> f32 {
    let winner = |votes: &[usize]| votes.iter().position(|v| Some(v) == votes.iter().max()).unwrap_or_default();
    let right = votes.iter().zip(labels).filter(|(votes, label)| winner(votes) == **label as usize);
    right.count() as f32 / labels.len().max(1) as f32
}

/// The votes of [`votes`], for rows of unit length. `itself` is called with the number of a query and returns the row
/// of `reference` that is the same sample, which does not vote.
fn vote(
    k: usize,
    (reference, known): (ArrayView2<'_, f32>, &[u32]),
    queries: ArrayView2<'_, f32>,
    itself: impl Fn(usize) -> Option<usize> + Sync,
    stop: &(dyn Fn() -> bool + Sync),
) -> Option<Vec<Vec<usize>>> {
    let classes = known.iter().max().map_or(0, |&label| label as usize + 1);
    let tiles: Vec<usize> = (0..queries.nrows()).step_by(TOGETHER).collect();
    let voted = tiles.into_par_iter().map(|first| {
        if stop() {
            return None;
        }
        let tile = queries.slice(ndarray::s![first..(first + TOGETHER).min(queries.nrows()), ..]);
        let similarity = tile.dot(&reference.t());
        let vote = |(row, query): (ArrayView1<'_, f32>, usize)| {
            let itself = itself(query);
            let mut order: Vec<usize> = (0..row.len()).filter(|i| Some(*i) != itself).collect();
            let nearer = |a: &usize, b: &usize| -> Ordering { row[*b].total_cmp(&row[*a]).then(a.cmp(b)) };
            if k < order.len() {
                order.select_nth_unstable_by(k, nearer);
                order.truncate(k);
            }
            let mut votes = vec![0usize; classes];
            for neighbour in order {
                votes[known[neighbour] as usize] += 1;
            }
            votes
        };
        Some(similarity.rows().into_iter().zip(first..).map(vote).collect::<Vec<_>>())
    });
    Some(voted.collect::<Option<Vec<_>>>()?.concat())
}

fn unit_rows(mut rows: Array2<f32>) -> Array2<f32> {
    for mut row in rows.axis_iter_mut(Axis(0)) {
        let square = row.dot(&row);
        if square.is_normal() {
            row /= square.sqrt();
            continue;
        }
        // The square of the length is too large or too small for f32.
        let length = row.iter().map(|z| f64::from(*z).powi(2)).sum::<f64>().sqrt();
        if length > 0.0 {
            row.mapv_inplace(|z| (f64::from(z) / length) as f32);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    /// By angle the third query is closest to class 1, although its nearest point is of class 0.
    #[test]
    fn neighbours_are_found_by_angle_and_vote() {
        let reference = array![[1.0, 0.0], [1.0, 0.1], [0.0, 9.0], [0.1, 9.0], [0.2, 9.0]];
        let known = [0, 0, 1, 1, 1];
        let queries = array![[5.0, 0.2], [0.0, 1.0], [0.01, 0.1], [3.0, 0.1]];
        let labels = [0, 1, 1, 0];
        let share = |k| accuracy(k, (reference.clone(), &known), (queries.clone(), &labels));
        assert_eq!(share(1), 1.0);
        assert_eq!(share(3), 1.0);
        assert_eq!(share(5), 0.5, "three of five neighbours are of class 1");
    }

    #[test]
    fn lengths_do_not_matter() {
        let reference = array![[1.0f32, 0.0], [1.0, 0.1], [0.0, 9.0], [0.1, 9.0], [0.2, 9.0]];
        let queries = array![[5.0, 0.2], [0.0, 1.0]];
        for scale in [1e-30, 1.0, 3e37] {
            let scaled = (reference.mapv(|z| z * scale), &[0, 0, 1, 1, 1][..]);
            let votes = votes(1, scaled, queries.clone(), 3, &|| false).unwrap();
            assert_eq!(votes, array![[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], "{scale}");
        }
        assert_eq!(votes(1, (reference, &[0, 0, 1, 1, 1]), queries, 2, &|| true), None);
    }

    #[test]
    fn left_out_samples_do_not_vote_for_themselves() {
        let samples = array![[1.0, 0.0], [1.0, 0.1], [0.0, 9.0], [0.1, 9.0], [0.2, 9.0]];
        let share = |k| leave_one_out(k, (samples.clone(), &[0, 0, 1, 1, 1]));
        assert_eq!(share(1), 1.0);
        assert_eq!(share(3), 0.6, "two of three neighbours of either sample of class 0 are of class 1");
        assert_eq!(leave_one_out(1, (array![[1.0], [1.0]], &[0, 1])), 0.0);
        // More than are looked at together: pairs along a circle, of which each sample's nearest is the other.
        let angle = |i: usize| (i / 2) as f32 * 0.01 + (i % 2) as f32 * 0.001;
        let many = Array2::from_shape_fn((600, 2), |(i, j)| if j == 0 { angle(i).cos() } else { angle(i).sin() });
        let labels: Vec<u32> = (0..600).map(|i| i / 2).collect();
        assert_eq!(leave_one_out(1, (many, &labels)), 1.0);
    }
}
