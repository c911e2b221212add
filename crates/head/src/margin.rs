//! The smoothed error: a bounded loss that approximates the error rate.

use ndarray::{Array2, ArrayView2, ArrayViewMut2};

use crate::kernel::{scores, sum_outer};
use crate::samples::count;
use crate::{Head, HeadError, Samples};

/// The smoothed error over the samples of all blocks, in `[0, 1]`, and its gradient `[K, d + 1]`.
///
/// It is the mean of `sigmoid(-margin / temperature)`, where the margin is the label's logit minus the largest other
/// logit. At a low temperature it approaches the error rate. Unlike cross-entropy it is bounded: only more mistakes
/// raise it, and not a few enormous losses.
///
/// # Errors
/// Returns an error if there are no samples, if the samples do not fit the head, or if the temperature is not finite
/// and above 0.
pub fn smoothed_error(head: &Head, blocks: &[Samples<'_>], temperature: f64) -> Result<(f64, Array2<f64>), HeadError> {
    if !(temperature > 0.0 && temperature.is_finite()) {
        return Err(HeadError::InvalidOption {
            name: "temperature",
            value: temperature,
            expected: "finite and above 0",
        });
    }
    head.check_samples(blocks)?;
    let count = count(blocks)? as f64;
    let of_chunk = |_, logits: &mut ArrayViewMut2<'_, f64>, z: ArrayView2<'_, f64>, chunk: Samples<'_>| {
        scores(head.packed(), z, logits);
        let mut sum = 0.0;
        for (mut row, &label) in logits.rows_mut().into_iter().zip(chunk.labels()) {
            let label = label as usize;
            let others = row.iter().enumerate().filter(|(class, _)| *class != label);
            // There are at least two classes, so another class exists.
            let (rival, highest) =
                others.fold((label, f64::NEG_INFINITY), |best, (k, &s)| if s > best.1 { (k, s) } else { best });
            let error = sigmoid((highest - row[label]) / temperature);
            let slope = error * (1.0 - error) / temperature;
            sum += error;
            row.fill(0.0);
            row[rival] = slope;
            row[label] = -slope;
        }
        sum
    };
    let (sum, gradient) = sum_outer(blocks, head.packed().dim(), of_chunk);
    Ok((sum / count, gradient / count))
}

/// `1 / (1 + exp(-x))`, without overflow.
fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::accuracy;
    use crate::testing::{GaussianClusters, assert_close, derivative, random};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn gradient_is_the_derivative(n in 1usize..40, d in 1usize..6, classes in 2usize..6, seed: u64) {
            let data = GaussianClusters::new(n, d, classes, seed);
            let packed = random(classes, d + 1, seed ^ 1);
            let at = |packed: &Array2<f64>| {
                smoothed_error(&Head::from_packed(packed.clone()).unwrap(), &[data.samples()], 0.7).unwrap()
            };
            // The loss is not differentiable where two logits are equal.
            let logits = crate::logits(&Head::from_packed(packed.clone()).unwrap(), data.features.view()).unwrap();
            let gap = |a: f64, b: f64| (a - b).abs() > 1e-3;
            let apart = |row: ndarray::ArrayView1<'_, f64>| (0..classes).all(|i| (0..i).all(|j| gap(row[i], row[j])));
            prop_assume!(logits.rows().into_iter().all(apart));
            assert_close(&at(&packed).1, &derivative(|w| at(w).0, &packed), 1e-6);
        }
    }

    #[test]
    fn a_low_temperature_counts_mistakes() {
        let data = GaussianClusters::new(300, 4, 3, 5);
        let head = Head::from_packed(random(3, 5, 6) * 1e3).unwrap();
        let (error, _) = smoothed_error(&head, &[data.samples()], 1e-3).unwrap();
        assert!((error - (1.0 - accuracy(&head, data.samples()).unwrap())).abs() < 1e-9);
    }

    #[test]
    fn of_two_classes_it_is_the_other_s_probability() {
        let data = GaussianClusters::new(50, 3, 2, 1);
        let head = Head::from_packed(random(2, 4, 2)).unwrap();
        let p = crate::probabilities(&head, data.features.view()).unwrap();
        let labels = data.samples().labels();
        let expected = labels.iter().enumerate().map(|(i, &y)| 1.0 - p[(i, y as usize)]).sum::<f64>() / 50.0;
        let (error, _) = smoothed_error(&head, &[data.samples()], 1.0).unwrap();
        assert!((error - expected).abs() < 1e-14);
    }

    #[test]
    fn refuses_what_it_cannot_measure() {
        let data = GaussianClusters::new(5, 2, 3, 0);
        let head = Head::zeros(3, 2).unwrap();
        assert!(matches!(
            smoothed_error(&head, &[data.samples()], 0.0),
            Err(HeadError::InvalidOption { name: "temperature", .. })
        ));
        assert_eq!(smoothed_error(&head, &[data.samples().rows(0..0)], 1.0), Err(HeadError::Empty));
    }
}
