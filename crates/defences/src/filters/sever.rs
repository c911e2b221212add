//! The projection of a sample's gradient on the direction in which gradients vary most.

use hemlock_head::kernel::subtract_labels;
use hemlock_head::{Head, probabilities};
use ndarray::{Array2, ArrayView2, Axis, s};
use rayon::prelude::*;

use super::{Filter, FilterOptions, Filtered, RemovalRule, count_of, descending};
use crate::linalg::largest_eigenvector;
use crate::losses::{retrain, train};
use crate::{DefenceError, Subset, TrainingData};

/// Number of times that a head is trained, and that samples are removed.
const ROUNDS: usize = 4;
/// The share of the expected poisons that the paper removes in a round of its experiments.
const PER_ROUND: f64 = 0.5;
/// The residual of the singular vector, relative to its value, as a multiple of the tolerance of training.
const RESIDUAL: f64 = 100.0;
/// Rows per chunk.
const ROWS: usize = 256;

pub(super) static FILTER: Filter = Filter {
    name: "sever",
    score: "the squared projection of the sample's gradient on the top right singular vector of all centred gradients \
            at the trained head, relative to the largest one of the round, plus the number of rounds that were left \
            when the sample was removed (4 rounds, with a new head in each)",
    rule: "half of the expected share of all samples in each of 4 rounds",
    by_class: false,
    source: "Diakonikolas et al., 2019",
    run,
};

fn run(set: &TrainingData<'_>, options: &FilterOptions) -> Result<Filtered, DefenceError> {
    let share = match options.removal {
        RemovalRule::Share(share) => share,
        RemovalRule::Rule { expected } => (PER_ROUND * expected) * ROUNDS as f64,
    };
    DefenceError::check_share("remove", share)?;
    let tolerance = options.tolerance_for(set);
    let (mut head, preconditioner) = train(set, tolerance)?;
    let mut filtered = Filtered { scores: vec![0.0; set.len()], removed: vec![false; set.len()] };
    let (mut direction, mut done) = (None, 0);
    for round in 1..=ROUNDS {
        let kept: Vec<usize> = (0..set.len()).filter(|row| !filtered.removed[*row]).collect();
        let subset = set.select(&kept);
        if round > 1 {
            head = retrain(&[subset.samples()], set.weight_decay(), tolerance, Some(&head), &preconditioner)?;
        }
        let gradients = Gradients::at(&head, &subset)?;
        let covariance = |v: &Array2<f64>| gradients.covariance_times(v);
        let top = largest_eigenvector(covariance, head.packed().dim(), direction.take(), RESIDUAL * tolerance)?;
        let squares: Vec<f64> = gradients.along(&top).into_iter().map(|along| along * along).collect();
        direction = Some(top);
        let most = squares.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let mut order: Vec<usize> = (0..kept.len()).collect();
        order.sort_by(descending(&squares));
        let until = count_of(share * round as f64 / ROUNDS as f64, set.len());
        kept.iter().zip(&squares).for_each(|(row, square)| filtered.scores[*row] = square / most);
        for i in order.into_iter().take(until - done) {
            filtered.removed[kept[i]] = true;
            filtered.scores[kept[i]] += (ROUNDS - round) as f64;
        }
        // What is removed in the last round ranks above what stays, by its score in the same round.
        done = until;
    }
    Ok(filtered)
}

/// The gradients of single samples, `(p - e) [z, 1]ᵀ`, as products, and their mean.
struct Gradients<'a> {
    features: ArrayView2<'a, f64>,
    /// `p - e`, `[n, K]`.
    residuals: Array2<f64>,
    /// `[K, d + 1]`.
    mean: Array2<f64>,
}

impl<'a> Gradients<'a> {
    fn at(head: &Head, subset: &'a Subset) -> Result<Self, DefenceError> {
        let features = subset.features.view();
        let mut residuals = probabilities(head, features)?;
        subtract_labels(&mut residuals.view_mut(), &subset.labels);
        let mut gradients = Self { features, residuals, mean: Array2::zeros(head.packed().dim()) };
        let one = vec![1.0 / subset.labels.len() as f64; subset.labels.len()];
        gradients.mean = gradients.weighted_sum(&one);
        Ok(gradients)
    }

    /// The inner products of the centred gradients with a direction, `[n]`.
    fn along(&self, direction: &Array2<f64>) -> Vec<f64> {
        let dim = self.features.ncols();
        let (weight, bias) = (direction.slice(s![.., ..dim]), direction.column(dim));
        let offset = hemlock_optim::inner(&self.mean, direction);
        let chunks = self.features.axis_chunks_iter(Axis(0), ROWS).into_par_iter();
        let parts: Vec<Vec<f64>> = chunks
            .zip(self.residuals.axis_chunks_iter(Axis(0), ROWS))
            .map(|(z, residuals)| {
                let scores = z.dot(&weight.t()) + bias;
                scores.rows().into_iter().zip(residuals.rows()).map(|(s, r)| s.dot(&r) - offset).collect()
            })
            .collect();
        parts.concat()
    }

    /// The sum of all gradients, not centred, times a number each, `[K, d + 1]`.
    fn weighted_sum(&self, numbers: &[f64]) -> Array2<f64> {
        let dim = self.features.ncols();
        let chunks: Vec<_> = self
            .features
            .axis_chunks_iter(Axis(0), ROWS)
            .zip(self.residuals.axis_chunks_iter(Axis(0), ROWS))
            .zip(numbers.chunks(ROWS))
            .collect();
        let part = |((z, residuals), numbers): &((ArrayView2<'_, f64>, ArrayView2<'_, f64>), &[f64])| {
            let mut scaled = residuals.to_owned();
            scaled.rows_mut().into_iter().zip(*numbers).for_each(|(mut row, number)| row *= *number);
            let mut part = Array2::zeros((scaled.ncols(), dim + 1));
            part.slice_mut(s![.., ..dim]).assign(&scaled.t().dot(z));
            part.column_mut(dim).assign(&scaled.sum_axis(Axis(0)));
            part
        };
        let zero = Array2::zeros((self.residuals.ncols(), dim + 1));
        chunks.chunks(16).fold(zero, |sum, some| {
            let parts: Vec<_> = some.par_iter().map(part).collect();
            parts.into_iter().fold(sum, |sum, part| sum + part)
        })
    }

    /// The covariance of the gradients times a direction.
    fn covariance_times(&self, direction: &Array2<f64>) -> Array2<f64> {
        let mut along = self.along(direction);
        let count = along.len() as f64;
        // The centred inner products sum to zero, so that the mean of the gradients need not be subtracted again.
        along.iter_mut().for_each(|value| *value /= count);
        self.weighted_sum(&along)
    }
}
