//! The certificate of ridge regression against changed labels.

use ndarray::{Array2, ArrayView1, ArrayView2, Axis, concatenate, s};
use rayon::prelude::*;

use super::Certificates;
use crate::linalg::{gram, inverse};
use crate::{DefenceError, TrainingData};

/// Training samples that are read together, and test samples whose weights are in memory at a time.
const ROWS: usize = 16_384;
const TEST_ROWS: usize = 32;
/// A margin counts as overtaken if it is this close to it, relative to the sum of the absolute weights.
const ROUNDING: f64 = 1e-12;

/// Ridge regression on one-hot labels: the minimum of `1/2 mean |W z + b - e_y|² + λ/2 |W|²`. It predicts the class
/// with the largest score, the first of equal ones.
///
/// Scores are linear in the labels: `s(z) = Σ_i α_i(z) e_{y_i}` with `α_i(z) = aᵀ (AᵀA / N + λ D)⁻¹ a_i / N`. For a
/// class `c` to fall behind `k`, the margin `Σ_i α_i ([y_i = c] - [y_i = k])` has to be lost. A changed label of sample
/// `i` takes at most `|α_i| + α_i ([y_i = c] - [y_i = k])` of it, and always can take as much. The `r` largest of these
/// numbers are therefore the worst attack with `r` labels against this pair of classes. As the prediction changes as
/// soon as any class overtakes, the smallest radius over pairs is exact, for any number of classes.
#[derive(Debug, Clone, PartialEq)]
pub struct RidgeHead {
    /// The samples and a column of ones, `[N, d + 1]`, and their labels.
    augmented: Array2<f64>,
    labels: Vec<u32>,
    classes: usize,
    /// `(AᵀA / N + λ D)⁻¹ / N`.
    inverse: Array2<f64>,
}

impl RidgeHead {
    /// Regresses on the samples of the set. A copy of them is kept.
    ///
    /// # Errors
    /// Returns an error if the weight decay is zero and the features are linearly dependent.
    pub fn train(set: &TrainingData<'_>) -> Result<Self, DefenceError> {
        let (count, dim) = (set.len(), set.dim());
        let mut augmented = Array2::ones((count, dim + 1));
        let rows: Vec<usize> = (0..count).collect();
        for (rows, mut to) in rows.chunks(ROWS).zip(augmented.axis_chunks_iter_mut(Axis(0), ROWS)) {
            to.slice_mut(s![.., ..dim]).assign(&set.select(rows).features);
        }
        let mut normal = gram(augmented.view()) / count as f64;
        normal.diag_mut().iter_mut().take(dim).for_each(|value| *value += set.weight_decay());
        let inverse = inverse(&normal, "the normal equations of ridge regression")? / count as f64;
        Ok(Self { augmented, labels: set.labels(), classes: set.classes(), inverse })
    }

    /// The predictions for features `[n, d]`, and the numbers of changed training labels that they withstand.
    ///
    /// # Errors
    /// Returns an error if the features have another number of columns than the training set.
    pub fn certify(&self, features: ArrayView2<'_, f64>) -> Result<Certificates, DefenceError> {
        let dim = self.augmented.ncols() - 1;
        if features.ncols() != dim {
            return Err(hemlock_head::HeadError::FeatureCount { expected: dim, found: features.ncols() }.into());
        }
        let chunks: Vec<_> = features.axis_chunks_iter(Axis(0), TEST_ROWS).collect();
        let of_chunk = |z: ArrayView2<'_, f64>| {
            let a = concatenate![Axis(1), z, Array2::ones((z.nrows(), 1))];
            let weights = a.dot(&self.inverse).dot(&self.augmented.t());
            weights.rows().into_iter().map(|weights| self.radius(weights)).collect::<Vec<_>>()
        };
        let all: Vec<Vec<(u32, usize)>> = chunks.into_par_iter().map(of_chunk).collect();
        Ok(all.into_iter().flatten().collect())
    }

    /// The prediction and the radius, from the weights `α` of the training samples.
    fn radius(&self, weights: ArrayView1<'_, f64>) -> (u32, usize) {
        let mut scores = vec![0.0; self.classes];
        weights.iter().zip(&self.labels).for_each(|(weight, label)| scores[*label as usize] += weight);
        let winner = (1..self.classes).fold(0, |best, class| if scores[class] > scores[best] { class } else { best });
        let slack = ROUNDING * weights.iter().map(|weight| weight.abs()).sum::<f64>();
        let mut others: Vec<usize> = (0..self.classes).filter(|class| *class != winner).collect();
        others.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        let mut fewest: Option<usize> = None;
        // The largest margin that the fewest labels so far can take, as none takes more than twice its weight.
        let mut reach = f64::INFINITY;
        for other in others {
            let margin = scores[winner] - scores[other] - slack;
            if margin > reach {
                break;
            }
            let found = fewest_with_sum(self.gains(weights, winner, other), margin);
            if let Some(found) = found.filter(|found| fewest.is_none_or(|fewest| *found < fewest)) {
                fewest = Some(found);
                reach = 2.0 * largest_sum(weights.iter().map(|weight| weight.abs()).collect(), found);
            }
        }
        // If not even all labels together change the prediction, any number of changed labels is certified.
        (winner as u32, fewest.map_or(self.labels.len(), |fewest| fewest.saturating_sub(1)))
    }

    /// How much of the margin between two classes each label takes, if it is changed: `|α_i| + α_i ([y_i = c] -
    /// [y_i = k])`.
    fn gains(&self, weights: ArrayView1<'_, f64>, winner: usize, other: usize) -> Vec<f64> {
        let gain = |(weight, label): (&f64, &u32)| {
            let label = *label as usize;
            let sign = f64::from(u8::from(label == winner)) - f64::from(u8::from(label == other));
            weight.abs() + weight * sign
        };
        weights.iter().zip(&self.labels).map(gain).collect()
    }
}

/// The sum of the `count` largest numbers, of at least as many.
fn largest_sum(mut numbers: Vec<f64>, count: usize) -> f64 {
    if count < numbers.len() {
        numbers.select_nth_unstable_by(count, |a, b| b.total_cmp(a));
    }
    numbers[..count].iter().sum()
}

/// The smallest number of `gains` whose sum is at least `sum`; `None` if all together are less.
fn fewest_with_sum(mut gains: Vec<f64>, sum: f64) -> Option<usize> {
    let (mut total, mut done) = (0.0, 0);
    // The largest ones first, in pieces that double, because few of them are usually enough.
    let mut next = 64;
    while done < gains.len() {
        let rest = &mut gains[done..];
        let next_len = rest.len().min(next);
        if next_len < rest.len() {
            rest.select_nth_unstable_by(next_len - 1, |a, b| b.total_cmp(a));
        }
        let piece = &mut rest[..next_len];
        piece.sort_unstable_by(|a, b| b.total_cmp(a));
        for gain in piece.iter() {
            if total >= sum {
                return Some(done);
            }
            total += gain;
            done += 1;
        }
        next *= 2;
    }
    (total >= sum).then_some(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_head::testing::random;

    #[test]
    fn fewest_with_sum_by_hand() {
        let gains = vec![1.0, 4.0, 2.0];
        let fewest = |sum| fewest_with_sum(gains.clone(), sum);
        assert_eq!([0.0, 3.0, 4.0, 5.0, 6.5, 7.5].map(fewest), [Some(0), Some(1), Some(1), Some(2), Some(3), None]);
        assert_eq!([0, 1, 2, 3].map(|count| largest_sum(gains.clone(), count)), [0.0, 4.0, 6.0, 7.0]);
        // Longer than a piece: the same as from a sorted list.
        let many: Vec<f64> = random(1, 500, 3).iter().map(|gain| gain.abs()).collect();
        let mut sorted = many.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        for count in [1, 63, 64, 65, 200, 500] {
            let sum: f64 = sorted[..count].iter().sum::<f64>() - 1e-9;
            assert_eq!(fewest_with_sum(many.clone(), sum), Some(count));
        }
    }
}
