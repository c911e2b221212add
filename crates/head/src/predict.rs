//! Logits, probabilities, predictions and accuracies.

use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use crate::kernel::{CHUNK, ROWS, fill_probabilities, map_chunks, scores};
use crate::samples::count;
use crate::{Head, HeadError, Samples};

/// The logits `Z Wᵀ + b`, `[n, K]`, of features `[n, d]`.
///
/// # Errors
/// Returns an error if the features have a different number of columns than the head.
pub fn logits(head: &Head, features: ArrayView2<'_, f64>) -> Result<Array2<f64>, HeadError> {
    by_chunks(head, features, |features, out| scores(head.packed(), features, out))
}

/// The probabilities `softmax(Z Wᵀ + b)`, `[n, K]`, of features `[n, d]`. They are stable for finite logits of any
/// size.
///
/// # Errors
/// Returns an error if the features have a different number of columns than the head.
pub fn probabilities(head: &Head, features: ArrayView2<'_, f64>) -> Result<Array2<f64>, HeadError> {
    by_chunks(head, features, |features, out| fill_probabilities(head, features, out))
}

/// Calls `fill` on chunks of features, and returns what it writes, `[n, K]`.
fn by_chunks(
    head: &Head,
    features: ArrayView2<'_, f64>,
    fill: impl Fn(ArrayView2<'_, f64>, &mut ArrayViewMut2<'_, f64>) + Sync,
) -> Result<Array2<f64>, HeadError> {
    head.check_dim(features.ncols())?;
    let mut all = Array2::zeros((features.nrows(), head.classes()));
    let chunks = all.axis_chunks_iter_mut(Axis(0), ROWS).into_par_iter();
    chunks.zip(features.axis_chunks_iter(Axis(0), ROWS)).for_each(|(mut out, features)| fill(features, &mut out));
    Ok(all)
}

/// The most probable class of each row of features `[n, d]`; the first one, if several are equally probable.
///
/// # Errors
/// Returns an error if the features have a different number of columns than the head.
pub fn predict(head: &Head, features: ArrayView2<'_, f64>) -> Result<Vec<u32>, HeadError> {
    Ok(logits(head, features)?.rows().into_iter().map(first_largest).collect())
}

/// Whether `label` has the largest of a sample's scores, `[K]`, and its margin: its score minus the largest other
/// score. Of several equal scores, the first counts as the largest.
#[must_use]
pub fn judge(scores: ArrayView1<'_, f64>, label: u32) -> (bool, f64) {
    let label = label as usize;
    let others = scores.iter().enumerate().filter(|(class, _)| *class != label);
    let other = others.map(|(_, score)| *score).fold(f64::NEG_INFINITY, f64::max);
    (first_largest(scores) as usize == label, scores[label] - other)
}

/// [`judge`] for the logits of every sample: whether it is classified correctly, and its margin.
///
/// # Errors
/// Returns an error if the samples do not fit the head.
pub fn judgements(head: &Head, samples: Samples<'_>) -> Result<Vec<(bool, f64)>, HeadError> {
    head.check_samples(&[samples])?;
    let chunks = map_chunks(&[samples], CHUNK, head.classes(), |mut logits, z, samples| {
        scores(head.packed(), z, &mut logits);
        logits.rows().into_iter().zip(samples.labels()).map(|(row, label)| judge(row, *label)).collect::<Vec<_>>()
    });
    Ok(chunks.concat())
}

/// The fraction of samples whose label is predicted, in `[0, 1]`.
///
/// # Errors
/// Returns an error if there are no samples, or if the samples do not fit the head.
pub fn accuracy(head: &Head, samples: Samples<'_>) -> Result<f64, HeadError> {
    let count = count(&[samples])?;
    let hits: usize = tally(head, samples)?.into_iter().map(|(hits, _)| hits).sum();
    Ok(hits as f64 / count as f64)
}

/// For each class, the fraction of its samples that are predicted correctly, in `[0, 1]`; `None` for a class without
/// samples.
///
/// # Errors
/// Returns an error if the samples do not fit the head.
pub fn per_class_accuracy(head: &Head, samples: Samples<'_>) -> Result<Vec<Option<f64>>, HeadError> {
    let share = |(hits, count)| (count > 0).then(|| hits as f64 / count as f64);
    Ok(tally(head, samples)?.into_iter().map(share).collect())
}

/// For each class, the number of its samples that are predicted correctly, and the number of all its samples.
fn tally(head: &Head, samples: Samples<'_>) -> Result<Vec<(usize, usize)>, HeadError> {
    let mut tally = vec![(0, 0); head.classes()];
    for ((right, _), &label) in judgements(head, samples)?.into_iter().zip(samples.labels()) {
        let (hits, count) = &mut tally[label as usize];
        *hits += usize::from(right);
        *count += 1;
    }
    Ok(tally)
}

fn first_largest(row: ArrayView1<'_, f64>) -> u32 {
    let mut best = 0;
    for (class, &value) in row.iter().enumerate() {
        if value > row[best] {
            best = class;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn counts_hits_by_class() {
        let head = Head::from_packed(array![[1.0, 0.0], [-1.0, 0.0], [0.0, -9.0]]).unwrap();
        let features = array![[2.0], [-1.0], [3.0], [0.0], [-2.0]];
        let samples = Samples::new(features.view(), &[0, 0, 0, 0, 1], 3).unwrap();
        // The tie at zero goes to the first class.
        assert_eq!(predict(&head, features.view()).unwrap(), [0, 1, 0, 0, 1]);
        assert_eq!(accuracy(&head, samples).unwrap(), 0.8);
        assert_eq!(per_class_accuracy(&head, samples).unwrap(), [Some(0.75), Some(1.0), None]);
        let margins = [(true, 4.0), (false, -2.0), (true, 6.0), (true, 0.0), (true, 4.0)];
        assert_eq!(judgements(&head, samples).unwrap(), margins);
    }

    #[test]
    fn probabilities_by_hand_and_saturated() {
        let head = Head::from_packed(array![[1.0, 0.0], [0.0, 0.0]]).unwrap();
        let found = probabilities(&head, array![[3f64.ln()], [1e4], [-1e4]].view()).unwrap();
        assert!((&found - array![[0.75, 0.25], [1.0, 0.0], [0.0, 1.0]]).iter().all(|error| error.abs() < 1e-15));
    }

    #[test]
    fn no_samples_have_no_accuracy() {
        let head = Head::zeros(2, 1).unwrap();
        let features = Array2::zeros((0, 1));
        let none = Samples::new(features.view(), &[], 2).unwrap();
        assert_eq!(accuracy(&head, none), Err(HeadError::Empty));
        assert_eq!(per_class_accuracy(&head, none).unwrap(), [None, None]);
    }
}
