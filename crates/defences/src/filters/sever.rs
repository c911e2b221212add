//! The projection of a sample's gradient on the direction in which gradients vary most.

use hemlock_head::kernel::{scores, subtract_labels};
use hemlock_head::{Head, gradient_sum, probabilities};
use hemlock_optim::inner;
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
/// Rows per chunk, and number of chunks whose sums wait to be added.
const ROWS: usize = 256;
const WAITING: usize = 16;

pub(super) static FILTER: Filter = Filter {
    name: "sever",
    score: "the squared projection of the sample's gradient on the top right singular vector of all centred gradients \
            at the trained head, relative to the largest one of the round, plus the number of rounds that were left \
            when the sample was removed (4 rounds, with a new head in each)",
    rule: "half of the expected share of all samples in each of 4 rounds",
    by_class: false,
    source: "Diakonikolas et al., 2019",
    run,
    fixed: None,
};

fn run(set: &TrainingData<'_>, options: &FilterOptions) -> Result<Filtered, DefenceError> {
    let share = match options.removal {
        RemovalRule::Share(share) => share,
        RemovalRule::Paper { expected } => (PER_ROUND * expected) * ROUNDS as f64,
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
        let mean = gradient_sum(head, &[subset.samples()])? / subset.labels.len() as f64;
        Ok(Self { features, residuals, mean })
    }

    /// Chunks of features and residuals.
    fn chunks(&self) -> Vec<(ArrayView2<'_, f64>, ArrayView2<'_, f64>)> {
        let features = self.features.axis_chunks_iter(Axis(0), ROWS);
        features.zip(self.residuals.axis_chunks_iter(Axis(0), ROWS)).collect()
    }

    /// The inner products of the centred gradients with a direction, `[n]`.
    fn along(&self, direction: &Array2<f64>) -> Vec<f64> {
        let offset = inner(&self.mean, direction);
        let of = |(z, residuals): &(ArrayView2<'_, f64>, ArrayView2<'_, f64>)| along(direction, *z, *residuals, offset);
        let parts: Vec<Vec<f64>> = self.chunks().par_iter().map(of).collect();
        parts.concat()
    }

    /// The covariance of the gradients times a direction.
    fn covariance_times(&self, direction: &Array2<f64>) -> Array2<f64> {
        let (dim, count) = (self.features.ncols(), self.features.nrows() as f64);
        let offset = inner(&self.mean, direction);
        let part = |(z, residuals): &(ArrayView2<'_, f64>, ArrayView2<'_, f64>)| {
            let mut scaled = residuals.to_owned();
            let along = along(direction, *z, *residuals, offset);
            scaled.rows_mut().into_iter().zip(along).for_each(|(mut row, along)| row *= along / count);
            let mut part = Array2::zeros((scaled.ncols(), dim + 1));
            part.slice_mut(s![.., ..dim]).assign(&scaled.t().dot(z));
            part.column_mut(dim).assign(&scaled.sum_axis(Axis(0)));
            part
        };
        // The centred inner products sum to zero, so that the mean of the gradients need not be subtracted again.
        self.chunks().chunks(WAITING).fold(Array2::zeros(direction.dim()), |sum, some| {
            let parts: Vec<_> = some.par_iter().map(part).collect();
            parts.into_iter().fold(sum, |sum, part| sum + part)
        })
    }
}

/// `<direction, (p - e) [z, 1]ᵀ> - offset` for the rows of a chunk.
fn along(direction: &Array2<f64>, z: ArrayView2<'_, f64>, residuals: ArrayView2<'_, f64>, offset: f64) -> Vec<f64> {
    let mut all = Array2::zeros(residuals.dim());
    scores(direction.view(), z, &mut all.view_mut());
    all.rows().into_iter().zip(residuals.rows()).map(|(s, r)| s.dot(&r) - offset).collect()
}
