//! The projection of a sample's gradient on the direction in which gradients vary most.

use hemlock_head::kernel::{probabilities_of, scores, subtract_labels};
use hemlock_head::{Head, Samples, add_weight_decay};
use hemlock_optim::inner;
use ndarray::{Array2, ArrayView2, Axis, concatenate, s};
use rayon::prelude::*;

use super::{Filter, FilterOptions, Filtered, RemovalRule, count_of, descending};
use crate::linalg::{largest_eigenvector, squared};
use crate::losses::{retrain, train};
use crate::{DefenceError, TrainingData};

/// Number of times that a head is trained, and that samples are removed.
const ROUNDS: usize = 4;
/// The share of the expected poisons that is removed in a round, as in the authors' public code for regression
/// (`linreg/testAll.m`; for classifiers it takes 2 rounds, class by class).
const PER_ROUND: f64 = 0.5;
/// The tolerance of training, as a multiple of that of other filters: nothing but the direction of the gradients is
/// taken from a head.
const LOOSER: f64 = 3.0;
/// The residual of the singular vector, relative to its value, as a multiple of the tolerance of training.
const RESIDUAL: f64 = 30.0;
/// The samples with the smallest gradients are left out of the search for the singular vector, as long as they have
/// together less than this multiple of the residual of the gradients' sum of squares.
const NEGLIGIBLE: f64 = 0.1;
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
    multiple: PER_ROUND * ROUNDS as f64,
    source: "Diakonikolas et al., 2019",
    run,
    fixed: None,
};

fn run(set: &TrainingData<'_>, options: &FilterOptions) -> Result<Filtered, DefenceError> {
    let share = match options.removal {
        RemovalRule::Share(share) => share,
        RemovalRule::Paper { expected } => FILTER.multiple * expected,
    };
    let tolerance = LOOSER * options.tolerance_for(set);
    let (mut head, preconditioner) = train(set, tolerance)?;
    let mut filtered = Filtered { scores: vec![0.0; set.len()], removed: vec![false; set.len()] };
    let (mut direction, mut done) = (None, 0);
    for round in 1..=ROUNDS {
        let kept: Vec<usize> = (0..set.len()).filter(|row| !filtered.removed[*row]).collect();
        let subset = (kept.len() < set.len()).then(|| set.select(&kept));
        let blocks: Vec<Samples<'_>> = match &subset {
            Some(subset) => vec![subset.samples()],
            None => set.blocks().iter().map(Samples::reborrow).collect(),
        };
        let rest = TrainingData::new(&blocks, set.weight_decay(), set.seed())?;
        if round > 1 {
            head = retrain(rest.blocks(), set.weight_decay(), tolerance, Some(&head), &preconditioner)?;
        }
        let gradients = Gradients::at(&head, &rest);
        let top = gradients.top(direction.take(), RESIDUAL * tolerance)?;
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

/// The gradients of single samples at a trained head, `(p - e) [z, 1]ᵀ`.
struct Gradients<'a, 'b> {
    head: &'a Head,
    set: &'a TrainingData<'b>,
    /// Their mean, `[K, d + 1]`. As the head is trained, it is `-λ [W, 0]`, up to the tolerance.
    mean: Array2<f64>,
}

impl<'a, 'b> Gradients<'a, 'b> {
    fn at(head: &'a Head, set: &'a TrainingData<'b>) -> Self {
        let mut mean = Array2::zeros(head.packed().dim());
        add_weight_decay(head.packed(), -set.weight_decay(), &mut mean);
        Self { head, set, mean }
    }

    fn residuals(&self, chunk: &Samples<'_>, z: ArrayView2<'_, f64>) -> Array2<f64> {
        let mut residuals = probabilities_of(self.head, z);
        subtract_labels(&mut residuals.view_mut(), chunk.labels());
        residuals
    }

    /// The inner products of the centred gradients with a direction, `[n]`.
    fn along(&self, direction: &Array2<f64>) -> Vec<f64> {
        let offset = inner(&self.mean, direction);
        let of = |chunk: &Samples<'_>, z: ArrayView2<'_, f64>| {
            let along = along(direction, z, self.residuals(chunk, z).view());
            along.into_iter().map(|along| along - offset).collect::<Vec<_>>()
        };
        self.set.map_chunks(of).flatten().collect()
    }

    /// The direction in which the gradients vary most, without the smallest gradients.
    fn top(&self, start: Option<Array2<f64>>, residual: f64) -> Result<Array2<f64>, DefenceError> {
        let of = |chunk: &Samples<'_>, z: ArrayView2<'_, f64>| {
            let residuals = self.residuals(chunk, z);
            let each = z.rows().into_iter().zip(residuals.rows());
            (each.map(|(z, r)| squared(r) * (1.0 + squared(z))).collect::<Vec<_>>(), residuals)
        };
        let (squares, residuals): (Vec<_>, Vec<_>) = self.set.map_chunks(of).unzip();
        let rows = without_smallest(&squares.concat(), NEGLIGIBLE * residual);
        let views: Vec<_> = residuals.iter().map(|residuals| residuals.view()).collect();
        let residuals = concatenate(Axis(0), &views).expect("residuals have one column for each class");
        let (features, residuals) = (self.set.select(&rows).features, residuals.select(Axis(0), &rows));
        let chunks: Vec<_> =
            features.axis_chunks_iter(Axis(0), ROWS).zip(residuals.axis_chunks_iter(Axis(0), ROWS)).collect();
        let count = self.set.len() as f64;
        let covariance = |direction: &Array2<f64>| {
            let part = |(z, residuals): &(ArrayView2<'_, f64>, ArrayView2<'_, f64>)| {
                let mut scaled = residuals.to_owned();
                let along = along(direction, *z, *residuals);
                scaled.rows_mut().into_iter().zip(along).for_each(|(mut row, along)| row *= along / count);
                let mut part = Array2::zeros(direction.dim());
                part.slice_mut(s![.., ..z.ncols()]).assign(&scaled.t().dot(z));
                part.column_mut(z.ncols()).assign(&scaled.sum_axis(Axis(0)));
                part
            };
            // At a trained head the mean is small, so that the subtraction loses no digits.
            let mean = &self.mean * -inner(&self.mean, direction);
            chunks.chunks(WAITING).fold(mean, |sum, some| {
                let parts: Vec<_> = some.par_iter().map(part).collect();
                parts.into_iter().fold(sum, |sum, part| sum + part)
            })
        };
        largest_eigenvector(covariance, self.head.packed().dim(), start, residual)
    }
}

/// The places of numbers in ascending order, without the smallest ones, which are together at most a share `negligible`
/// of the sum.
fn without_smallest(numbers: &[f64], negligible: f64) -> Vec<usize> {
    let mut places: Vec<usize> = (0..numbers.len()).collect();
    places.sort_by(descending(numbers));
    let mut left = negligible * numbers.iter().sum::<f64>();
    while let Some(last) = places.pop() {
        left -= numbers[last];
        if left < 0.0 {
            places.push(last);
            break;
        }
    }
    places.sort_unstable();
    places
}

/// `<direction, (p - e) [z, 1]ᵀ>` for the rows of a chunk.
fn along(direction: &Array2<f64>, z: ArrayView2<'_, f64>, residuals: ArrayView2<'_, f64>) -> Vec<f64> {
    let mut all = Array2::zeros(residuals.dim());
    scores(direction.view(), z, &mut all.view_mut());
    all.rows().into_iter().zip(residuals.rows()).map(|(s, r)| s.dot(&r)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_go_as_long_as_they_are_negligible() {
        let numbers = [5.0, 1.0, 0.0, 3.0, 1.0];
        let of = |negligible| without_smallest(&numbers, negligible);
        assert_eq!([of(0.0), of(0.1), of(0.2), of(0.5)], [vec![0, 1, 3, 4], vec![0, 1, 3], vec![0, 3], vec![0]]);
        assert!(without_smallest(&[0.0, 0.0], 0.5).is_empty());
    }
}
