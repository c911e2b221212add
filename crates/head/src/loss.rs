//! The training loss and its gradient.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, s};

use crate::float::Float;
use crate::kernel::{CHUNK, map_chunks, residuals, scores, scores_in, subtract_labels, sum_outer};
use crate::parameters::{unpack, unpack_mut};
use crate::samples::count;
use crate::{Head, HeadError, Samples};

/// The mean cross-entropy over all blocks in nats, without weight decay.
///
/// # Errors
/// Returns an error if there are no samples, or if the samples do not fit the head.
pub fn mean_loss(head: &Head, blocks: &[Samples<'_>]) -> Result<f64, HeadError> {
    head.check_samples(blocks)?;
    let count = count(blocks)?;
    let losses = map_chunks(blocks, CHUNK, head.classes(), |mut logits, z, chunk| {
        scores(head.packed(), z, &mut logits);
        residuals(&mut logits, chunk.labels()).sum
    });
    Ok(losses.into_iter().sum::<f64>() / count as f64)
}

/// The gradient of the summed cross-entropy, `G(w) = (P - E)ᵀ [Z, 1]`, `[K, d + 1]`, without weight decay. It is zero
/// if there are no samples.
///
/// # Errors
/// Returns an error if the samples do not fit the head.
pub fn gradient_sum(head: &Head, blocks: &[Samples<'_>]) -> Result<Array2<f64>, HeadError> {
    head.check_samples(blocks)?;
    Ok(loss_and_gradient_sum(head.packed(), blocks).1)
}

/// [`gradient_sum`] for samples whose probabilities, `[n, K]`, are already known. The result has the same bits.
///
/// # Errors
/// Returns an error if the probabilities do not have the shape `[n, K]`.
pub fn gradient_sum_of(samples: Samples<'_>, probabilities: &Array2<f64>) -> Result<Array2<f64>, HeadError> {
    samples.check_probabilities(probabilities)?;
    let of_chunk = |before: usize, c: &mut ArrayViewMut2<'_, f64>, _: ArrayView2<'_, f64>, chunk: Samples<'_>| {
        c.assign(&probabilities.slice(s![before..before + chunk.len(), ..]));
        subtract_labels(c, chunk.labels());
        0.0
    };
    Ok(sum_outer(&[samples], (samples.classes(), samples.dim() + 1), of_chunk).1)
}

/// The training objective, `mean cross-entropy + weight_decay/2 |W|²` (the bias is not decayed), and its gradient `[K,
/// d + 1]`, in one pass over the samples.
///
/// # Errors
/// Returns an error if there are no samples, if the samples do not fit the head, or if the weight decay is negative or
/// not finite.
pub fn loss_and_gradient(
    head: &Head,
    blocks: &[Samples<'_>],
    weight_decay: f64,
) -> Result<(f64, Array2<f64>), HeadError> {
    HeadError::check_non_negative("weight_decay", weight_decay)?;
    head.check_samples(blocks)?;
    let pass = pass(head.packed(), blocks, Precision::Double);
    Ok(objective(head.packed(), pass, (count(blocks)?, weight_decay)))
}

/// The training objective and its gradient, from a pass over all `count` samples at packed parameters `[K, d + 1]`.
pub(crate) fn objective(
    packed: ArrayView2<'_, f64>,
    LossAndGradient { loss, mut gradient, .. }: LossAndGradient,
    (count, weight_decay): (usize, f64),
) -> (f64, Array2<f64>) {
    gradient /= count as f64;
    let decay = add_weight_decay(packed, weight_decay, &mut gradient);
    (loss / count as f64 + decay, gradient)
}

/// Adds `weight_decay * [W, 0]` to `gradient` and returns `weight_decay/2 |W|²`.
pub fn add_weight_decay(packed: ArrayView2<'_, f64>, weight_decay: f64, gradient: &mut Array2<f64>) -> f64 {
    let (weight, _) = unpack(packed);
    unpack_mut(gradient).0.scaled_add(weight_decay, &weight);
    0.5 * weight_decay * weight.rows().into_iter().map(|row| row.dot(&row)).sum::<f64>()
}

/// The summed cross-entropy and its gradient `[K, d + 1]`.
#[must_use]
pub fn loss_and_gradient_sum(packed: ArrayView2<'_, f64>, blocks: &[Samples<'_>]) -> (f64, Array2<f64>) {
    let LossAndGradient { loss, gradient, .. } = pass(packed, blocks, Precision::Double);
    (loss, gradient)
}

/// What one pass over samples gives at a head.
#[derive(Debug, Clone, PartialEq)]
pub struct LossAndGradient {
    /// The summed cross-entropy in nats.
    pub loss: f64,
    /// Its gradient, `[K, d + 1]`.
    pub gradient: Array2<f64>,
    /// The number of samples that are classified correctly.
    pub correct: usize,
}

/// The precision in which a pass over samples multiplies. Sums over many samples are in double precision in either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits: twice as fast where there are many classes. The error of a loss is some 1e-7 of it, and that of a
    /// gradient some 1e-6 of its largest element.
    Single,
    /// 64 bits.
    Double,
}

/// The summed cross-entropy of packed parameters, with its gradient and the number of correct predictions, in one pass
/// over samples that fit the parameters.
#[must_use]
pub(crate) fn pass(packed: ArrayView2<'_, f64>, blocks: &[Samples<'_>], precision: Precision) -> LossAndGradient {
    match precision {
        Precision::Single => pass_in(packed.mapv(|w| w as f32).view(), blocks),
        Precision::Double => pass_in(packed, blocks),
    }
}

fn pass_in<T: Float>(packed: ArrayView2<'_, T>, blocks: &[Samples<'_>]) -> LossAndGradient {
    let (losses, gradient) = sum_outer(blocks, packed.dim(), |_, logits: &mut ArrayViewMut2<'_, T>, z, chunk| {
        scores_in(packed, z, logits);
        residuals(logits, chunk.labels())
    });
    LossAndGradient { loss: losses.sum, gradient, correct: losses.correct }
}

#[cfg(test)]
mod tests {
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{GaussianClusters, assert_close, derivative, random};
    use crate::{mixed_derivative, mixed_derivative_of, probabilities};

    #[test]
    fn two_classes_are_logistic_regression() {
        // One sample z = 2, label 1, logits (0, 0.5 * 2 - 1) = (0, 0): loss ln 2, p - e = (1/2, -1/2).
        let head = Head::from_packed(array![[0.0, 0.0], [0.5, -1.0]]).unwrap();
        let features = array![[2.0]];
        let samples = [Samples::new(features.view(), &[1], 2).unwrap()];
        let (loss, gradient) = loss_and_gradient(&head, &samples, 0.1).unwrap();
        assert!((loss - (2f64.ln() + 0.05 * 0.25)).abs() < 1e-15);
        assert_close(&gradient, &array![[1.0, 0.5], [-1.0 + 0.05, -0.5]], 1e-15);
    }

    #[test]
    fn single_precision_is_double_precision_rounded() {
        let data = GaussianClusters::new(9_000, 40, 30, 6);
        let single = data.features.mapv(|z| z as f32);
        let samples = Samples::from_f32(single.view(), data.samples().labels(), 30).unwrap();
        let packed = random(30, 41, 7);
        let exact = pass(packed.view(), &[samples.rows(0..4_000), samples.rows(4_000..9_000)], Precision::Double);
        let found = pass(packed.view(), &[samples], Precision::Single);
        assert!((found.loss - exact.loss).abs() < 1e-6 * exact.loss, "{} {}", found.loss, exact.loss);
        let largest = exact.gradient.fold(0.0f64, |largest, g| largest.max(g.abs()));
        assert_close(&(found.gradient / largest), &(&exact.gradient / largest), 2e-6);
        assert!(found.correct.abs_diff(exact.correct) <= 1);
        let head = Head::from_packed(packed).unwrap();
        let accuracy = crate::accuracy(&head, samples).unwrap();
        assert_eq!((accuracy * 9_000.0).round() as usize, exact.correct);
    }

    #[test]
    fn saturated_logits_give_finite_losses() {
        let head = Head::from_packed(array![[1e4, 0.0], [-1e4, 0.0]]).unwrap();
        let features = array![[1.0], [1.0]];
        let samples = [Samples::new(features.view(), &[0, 1], 2).unwrap()];
        let (loss, gradient) = loss_and_gradient(&head, &samples, 0.0).unwrap();
        assert_eq!(loss, 1e4);
        assert_eq!(gradient, array![[0.5, 0.5], [-0.5, -0.5]]);
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let head = Head::zeros(3, 2).unwrap();
        let data = GaussianClusters::new(5, 2, 4, 0);
        let expected = HeadError::ClassCount { expected: 3, found: 4 };
        assert_eq!(gradient_sum(&head, &[data.samples()]), Err(expected));
        let data = GaussianClusters::new(5, 1, 3, 0);
        assert_eq!(mean_loss(&head, &[data.samples()]), Err(HeadError::FeatureCount { expected: 2, found: 1 }));
        assert_eq!(mean_loss(&head, &[]), Err(HeadError::Empty));
        assert_eq!(gradient_sum(&head, &[]), Ok(Array2::zeros((3, 3))));
        let data = GaussianClusters::new(5, 2, 3, 0);
        assert!(matches!(
            loss_and_gradient(&head, &[data.samples()], -1.0),
            Err(HeadError::InvalidOption { name: "weight_decay", .. })
        ));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn gradient_is_the_derivative(n in 1usize..40, d in 1usize..6, classes in 2usize..6, seed: u64) {
            let data = GaussianClusters::new(n, d, classes, seed);
            let (first, second) = (data.samples().rows(0..n / 3), data.samples().rows(n / 3..n));
            let packed = random(classes, d + 1, seed ^ 1);
            let at = |packed: &Array2<f64>| {
                loss_and_gradient(&Head::from_packed(packed.clone()).unwrap(), &[first, second], 0.03).unwrap()
            };
            assert_close(&at(&packed).1, &derivative(|w| at(w).0, &packed), 1e-7);

            let head = Head::from_packed(packed).unwrap();
            let mut sum = gradient_sum(&head, &[data.samples()]).unwrap() / n as f64;
            let decay = add_weight_decay(head.packed(), 0.03, &mut sum);
            let (objective, gradient) = at(&head.clone().into_packed());
            assert_close(&sum, &gradient, 1e-12);
            prop_assert!((mean_loss(&head, &[first, second]).unwrap() + decay - objective).abs() < 1e-12);
        }
    }

    #[test]
    fn known_probabilities_change_no_bit() {
        // The samples fill more than a chunk, and their number is no multiple of `kernel::ROWS`.
        let (data, head) = (GaussianClusters::new(300, 7, 5, 1), Head::from_packed(random(5, 8, 2)).unwrap());
        let direction = random(5, 8, 3);
        let known = probabilities(&head, data.features.view()).unwrap();
        assert_eq!(gradient_sum_of(data.samples(), &known).unwrap(), gradient_sum(&head, &[data.samples()]).unwrap());
        assert_eq!(
            mixed_derivative_of(&head, data.samples(), &known, direction.view()).unwrap(),
            mixed_derivative(&head, data.samples(), direction.view()).unwrap()
        );
        let short = known.slice(ndarray::s![..299, ..]).to_owned();
        let refused = HeadError::ProbabilityShape { expected: (300, 5), found: (299, 5) };
        assert_eq!(gradient_sum_of(data.samples(), &short), Err(refused.clone()));
        assert_eq!(mixed_derivative_of(&head, data.samples(), &short, direction.view()), Err(refused));
    }
}
