//! How much a sample's own loss would grow if the sample were removed.

use hemlock_head::kernel::subtract_labels;
use hemlock_head::probabilities;
use ndarray::{Array2, ArrayView1, ArrayView2, Axis, concatenate};
use rayon::prelude::*;

use super::{Filter, FilterOptions, Filtered, remove_of_classes};
use crate::linalg::{gram, inverse, product};
use crate::losses::train;
use crate::{DefenceError, TrainingData};

/// Rows that are in memory at a time.
const ROWS: usize = 8192;
/// Samples with the smallest curvatures `p_k (1 - p_k)` of a class are left out of its block, as long as they have
/// together less than this share of it.
const NEGLIGIBLE_CURVATURE: f64 = 1e-3;
/// Residuals `r_k²` below this share of `|r|²` are left out of a score.
const NEGLIGIBLE_RESIDUAL: f64 = 1e-3;

pub(super) static FILTER: Filter = Filter {
    name: "self-influence",
    score: "to first order, the growth of the sample's own cross-entropy, in nats, if it is left out of training: \
            `g' H⁻¹ g / N`, with the blocks of the Hessian that belong to one class each, times K / (K - 1)",
    rule: "the expected share of each class",
    by_class: true,
    source: "Koh & Liang, 2017",
    run,
    fixed: None,
};

/// With `r = p - e` and `a = [z, 1]`, the gradient is `g = r aᵀ`, and the blocks are
/// `H_k = K / (K - 1) Σ p_k (1 - p_k) a aᵀ / N + λ diag(1, …, 1, 0)`. The score is `Σ_k r_k² aᵀ H_k⁻¹ a / N`.
///
/// The whole Hessian, `[K (d + 1)]²`, would take more time than everything else together. Gradients sum to zero over
/// classes; for such directions, the factor makes the blocks exact for two classes, and for any number at the zero
/// head.
fn run(set: &TrainingData<'_>, options: &FilterOptions) -> Result<Filtered, DefenceError> {
    let (head, _) = train(set, options.tolerance_for(set))?;
    let (count, classes, dim) = (set.len(), set.classes(), set.dim());
    let rows: Vec<usize> = (0..count).collect();
    let augmented = |rows: &[usize]| {
        let subset = set.select(rows);
        let probabilities = probabilities(&head, subset.features.view())?;
        let a = concatenate![Axis(1), subset.features, Array2::ones((rows.len(), 1))];
        Ok::<_, DefenceError>((a, probabilities, subset.labels))
    };

    let mut blocks = vec![Array2::zeros((dim + 1, dim + 1)); classes];
    for rows in rows.chunks(ROWS) {
        let (a, probabilities, _) = augmented(rows)?;
        let columns: Vec<_> = probabilities.columns().into_iter().collect();
        blocks.par_iter_mut().zip(columns).for_each(|(block, p)| *block += &weighted_gram(a.view(), p));
    }
    let scale = classes as f64 / ((classes - 1) * count) as f64;
    for block in &mut blocks {
        *block *= scale;
        block.diag_mut().iter_mut().take(dim).for_each(|value| *value += set.weight_decay());
        *block = inverse(block, "the Hessian of `self-influence`")?;
    }

    let mut scores = Vec::with_capacity(count);
    for rows in rows.chunks(ROWS) {
        let (a, mut residuals, labels) = augmented(rows)?;
        subtract_labels(&mut residuals.view_mut(), &labels);
        residuals.mapv_inplace(|residual| residual * residual);
        let least = residuals.sum_axis(Axis(1)) * NEGLIGIBLE_RESIDUAL;
        let columns: Vec<_> = residuals.columns().into_iter().collect();
        let of_class = |(squares, block): (ArrayView1<'_, f64>, &Array2<f64>)| {
            let some: Vec<usize> = (0..rows.len()).filter(|i| squares[*i] > least[*i]).collect();
            let a = a.select(Axis(0), &some);
            let through = product(a.view(), block.view());
            let each = some.into_iter().zip(a.rows().into_iter().zip(through.rows()));
            each.map(|(i, (a, through))| (i, squares[i] * a.dot(&through))).collect::<Vec<_>>()
        };
        let parts: Vec<_> = columns.into_par_iter().zip(&blocks).map(of_class).collect();
        let start = scores.len();
        scores.resize(start + rows.len(), 0.0);
        parts.into_iter().flatten().for_each(|(i, part)| scores[start + i] += part / count as f64);
    }
    Ok(remove_of_classes(set, scores, options.fraction()))
}

/// `Σ p (1 - p) a aᵀ`, without the samples that hardly matter.
fn weighted_gram(a: ArrayView2<'_, f64>, p: ArrayView1<'_, f64>) -> Array2<f64> {
    let weights: Vec<f64> = p.iter().map(|p| (p * (1.0 - p)).max(0.0)).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|a, b| weights[*a].total_cmp(&weights[*b]).then(a.cmp(b)));
    let mut left = NEGLIGIBLE_CURVATURE * weights.iter().sum::<f64>();
    let first = order.iter().position(|row| {
        left -= weights[*row];
        left < 0.0
    });
    let some = &mut order[first.unwrap_or(0)..];
    some.sort_unstable();
    let mut a = a.select(Axis(0), some);
    a.rows_mut().into_iter().zip(some).for_each(|(mut row, i)| row *= weights[*i].sqrt());
    gram(a.view())
}
