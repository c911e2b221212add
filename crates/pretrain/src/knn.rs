//! Accuracy of the k nearest neighbours in feature space: a monitor that trains nothing.

use ndarray::{Array2, Axis};

/// Share of `queries` `[m, d]` whose class wins the vote of the `k` rows of `reference` `[n, d]`
/// with the largest cosine similarity; ties go to the smaller class.
pub(crate) fn accuracy(k: usize, reference: (Array2<f32>, &[u32]), queries: (Array2<f32>, &[u32])) -> f32 {
    let (reference, known) = (unit_rows(reference.0), reference.1);
    let (queries, labels) = (unit_rows(queries.0), queries.1);
    let classes = known.iter().max().map_or(0, |&label| label as usize + 1);
    let similarity = queries.dot(&reference.t());
    let correct = similarity.rows().into_iter().zip(labels).filter(|(row, label)| {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        let mut votes = vec![0usize; classes];
        for &neighbour in order.iter().take(k) {
            votes[known[neighbour] as usize] += 1;
        }
        let most = votes.iter().max();
        votes.iter().position(|v| Some(v) == most) == Some(**label as usize)
    });
    correct.count() as f32 / labels.len().max(1) as f32
}

fn unit_rows(mut rows: Array2<f32>) -> Array2<f32> {
    for mut row in rows.axis_iter_mut(Axis(0)) {
        let length = row.dot(&row).sqrt();
        if length > 0.0 {
            row /= length;
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
}
