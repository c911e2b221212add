//! How much a sample's own loss would grow if the sample were removed.

use hemlock_head::kernel::subtract_labels;
use hemlock_head::{Head, probabilities};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, concatenate, s};
use rayon::prelude::*;

use super::{Filter, FilterOptions, Filtered, FixedScore, remove_of_classes};
use crate::linalg::{gram, whitened_squares, whitening};
use crate::losses::{log_sum_exp, train};
use crate::{DefenceError, TrainingData};

/// Rows that are in memory at a time.
const ROWS: usize = 8192;
/// Samples with the smallest curvatures `p_k (1 - p_k)` of a class are left out of its block, as long as they have
/// together less than this share of it, and as long as this many samples for each feature stay. The others count more
/// in proportion.
const NEGLIGIBLE_CURVATURE: f64 = 3e-2;
const ENOUGH: usize = 24;
/// Residuals `r_k²` are left out of a score if they are below this share of `|r|²` and below this number. The others
/// count more in proportion.
const NEGLIGIBLE_SHARE: f64 = 3e-2;
const NEGLIGIBLE_SQUARE: f64 = 5e-4;

pub(super) static FILTER: Filter = Filter {
    name: "self-influence",
    score: "to first order, the growth of the sample's own cross-entropy, in nats, if it is left out of training: \
            `g' H⁻¹ g / N`, with the blocks of the Hessian that belong to one class each, times K / (K - 1)",
    rule: "the expected share of each class",
    by_class: true,
    multiple: 1.0,
    source: "Koh & Liang, 2017",
    run,
    fixed: Some(fixed),
};

/// With `r = p - e` and `a = [z, 1]`, the gradient is `g = r aᵀ`, and the blocks are
/// `H_k = K / (K - 1) Σ p_k (1 - p_k) a aᵀ / N + λ diag(1, …, 1, 0)`. The score is `Σ_k r_k² aᵀ H_k⁻¹ a / N`.
///
/// The whole Hessian, `[K (d + 1)]²`, would take more time than everything else together. Gradients sum to zero over
/// classes; for such directions, the factor makes the blocks exact for two classes, and for any number at the zero
/// head.
fn run(set: &TrainingData<'_>, options: &FilterOptions) -> Result<Filtered, DefenceError> {
    let (head, _) = train(set, options.tolerance_for(set))?;
    let whitenings = whitenings(set, &head)?;
    let count = set.len();
    let rows: Vec<usize> = (0..count).collect();
    let augmented = |rows: &[usize]| augmented(set, &head, rows);

    let mut scores = Vec::with_capacity(count);
    for rows in rows.chunks(ROWS) {
        let (a, mut residuals, labels) = augmented(rows)?;
        subtract_labels(&mut residuals.view_mut(), &labels);
        residuals.mapv_inplace(|residual| residual * residual);
        for mut row in residuals.rows_mut() {
            let all = row.sum();
            let least = (all * NEGLIGIBLE_SHARE).min(NEGLIGIBLE_SQUARE);
            row.mapv_inplace(|square| if square > least { square } else { 0.0 });
            let rest = row.sum();
            if rest > 0.0 {
                row *= all / rest;
            }
        }
        let columns: Vec<_> = residuals.columns().into_iter().collect();
        let of_class = |(squares, whitening): (ArrayView1<'_, f64>, &Array2<f64>)| {
            let some: Vec<usize> = (0..rows.len()).filter(|i| squares[*i] > 0.0).collect();
            let lengths = whitened_squares(a.select(Axis(0), &some).view(), whitening.view());
            some.into_iter().zip(lengths).map(|(i, length)| (i, squares[i] * length)).collect::<Vec<_>>()
        };
        let parts: Vec<_> = columns.into_par_iter().zip(&whitenings).map(of_class).collect();
        let start = scores.len();
        scores.resize(start + rows.len(), 0.0);
        parts.into_iter().flatten().for_each(|(i, part)| scores[start + i] += part / count as f64);
    }
    Ok(remove_of_classes(set, scores, options.fraction()))
}

/// Features with a one appended, probabilities at a head, and labels of some samples.
type Augmented = (Array2<f64>, Array2<f64>, Vec<u32>);

/// The features, probabilities and labels of the given rows.
fn augmented(set: &TrainingData<'_>, head: &Head, rows: &[usize]) -> Result<Augmented, DefenceError> {
    let subset = set.select(rows);
    let probabilities = probabilities(head, subset.features.view())?;
    // Row by row in memory, which `concatenate` does not keep.
    let mut a = Array2::ones((rows.len(), set.dim() + 1));
    a.slice_mut(s![.., ..set.dim()]).assign(&subset.features);
    Ok((a, probabilities, subset.labels))
}

/// For every class the matrix `T_k`, so that `aᵀ H_k⁻¹ a = |T_k a|²`.
fn whitenings(set: &TrainingData<'_>, head: &Head) -> Result<Vec<Array2<f64>>, DefenceError> {
    let (count, classes, dim) = (set.len(), set.classes(), set.dim());
    let rows: Vec<usize> = (0..count).collect();
    let mut blocks = vec![Array2::zeros((dim + 1, dim + 1)); classes];
    for rows in rows.chunks(ROWS) {
        let (a, probabilities, _) = augmented(set, head, rows)?;
        let columns: Vec<_> = probabilities.columns().into_iter().collect();
        // The part of all samples that have to stay which falls to these rows.
        let enough = (ENOUGH * (dim + 1) * rows.len()).div_ceil(count);
        blocks.par_iter_mut().zip(columns).for_each(|(block, p)| *block += &weighted_gram(a.view(), p, enough));
    }
    let scale = classes as f64 / ((classes - 1) * count) as f64;
    for block in &mut blocks {
        *block *= scale;
        block.diag_mut().iter_mut().take(dim).for_each(|value| *value += set.weight_decay());
    }
    blocks.par_iter().map(|block| whitening(block, "the Hessian of `self-influence`")).collect()
}

/// The head that is trained on the whole set, and the inverses of the blocks of its Hessian.
struct SelfInfluence {
    head: Head,
    /// `H_k⁻¹`, `[K (d + 1), d + 1]`.
    inverses: Array2<f64>,
    count: f64,
}

fn fixed(set: &TrainingData<'_>, options: &FilterOptions) -> Result<Box<dyn FixedScore>, DefenceError> {
    let (head, _) = train(set, options.tolerance_for(set))?;
    let (classes, size) = (set.classes(), set.dim() + 1);
    let mut inverses = Array2::zeros((classes * size, size));
    for (mut block, whitening) in inverses.axis_chunks_iter_mut(Axis(0), size).zip(whitenings(set, &head)?) {
        block.assign(&whitening.t().dot(&whitening));
    }
    Ok(Box::new(SelfInfluence { head, inverses, count: set.len() as f64 }))
}

impl FixedScore for SelfInfluence {
    /// Unlike the filter, which leaves out what hardly matters, this counts all classes.
    fn at(&self, z: ArrayView1<'_, f64>, label: usize) -> (f64, Array1<f64>) {
        let packed = self.head.packed();
        let weights = packed.slice(s![.., ..-1]);
        let logits = weights.dot(&z) + packed.slice(s![.., -1]);
        let normalizer = log_sum_exp(logits.view());
        let p = logits.mapv(|logit| (logit - normalizer).exp());
        let mut residuals = p.clone();
        residuals[label] -= 1.0;
        let a = concatenate![Axis(0), z, Array1::ones(1)];
        let solved = self.inverses.dot(&a);
        let squares = &residuals * &residuals;
        let (mut lengths, mut through) = (Array1::zeros(p.len()), Array1::zeros(a.len()));
        for (class, solved) in solved.exact_chunks(a.len()).into_iter().enumerate() {
            lengths[class] = solved.dot(&a);
            through.scaled_add(2.0 * squares[class], &solved);
        }
        let slopes = 2.0 * &residuals * &lengths * &p;
        // The gradient of p_k is p_k (w_k - Σ p_j w_j).
        let slopes = &slopes - &(&p * slopes.sum());
        let gradient = slopes.dot(&weights) + through.slice(s![..-1]);
        (squares.dot(&lengths) / self.count, gradient / self.count)
    }
}

/// `Σ p (1 - p) a aᵀ`, without the samples that hardly matter.
fn weighted_gram(a: ArrayView2<'_, f64>, p: ArrayView1<'_, f64>, enough: usize) -> Array2<f64> {
    let weights: Vec<f64> = p.iter().map(|p| (p * (1.0 - p)).max(0.0)).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|a, b| weights[*a].total_cmp(&weights[*b]).then(a.cmp(b)));
    let all: f64 = weights.iter().sum();
    let mut left = NEGLIGIBLE_CURVATURE * all;
    let first = order.iter().position(|row| {
        left -= weights[*row];
        left < 0.0
    });
    let first = first.unwrap_or(0).min(order.len().saturating_sub(enough));
    let some = &mut order[first..];
    some.sort_unstable();
    let rest: f64 = some.iter().map(|row| weights[*row]).sum();
    let more = if rest > 0.0 { all / rest } else { 1.0 };
    let mut a = a.select(Axis(0), some);
    a.rows_mut().into_iter().zip(some).for_each(|(mut row, i)| row *= (weights[*i] * more).sqrt());
    gram(a.view())
}
