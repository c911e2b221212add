//! How much a sample's own loss would grow if the sample were removed.

use hemlock_head::kernel::subtract_labels;
use hemlock_head::probabilities;
use ndarray::{Array2, Axis, concatenate};

use super::{Filter, FilterOptions, Filtered, remove_of_classes};
use crate::linalg::{gram, inverse, product};
use crate::losses::train;
use crate::{DefenceError, TrainingSet};

/// Rows that are in memory at a time.
const ROWS: usize = 16_384;

pub(super) static FILTER: Filter = Filter {
    name: "self-influence",
    score: "to first order, the growth of the sample's own cross-entropy, in nats, if it is left out of training: \
            `g' H⁻¹ g / N`, with the blocks of the Hessian that belong to one class each, times K / (K - 1)",
    rule: "the expected share of each class",
    by_class: true,
    source: "Koh & Liang, 2017",
    run,
};

/// With `r = p - e` and `a = [z, 1]`, the gradient is `g = r aᵀ`, and the blocks are
/// `H_k = K / (K - 1) Σ p_k (1 - p_k) a aᵀ / N + λ diag(1, …, 1, 0)`. The score is `Σ_k r_k² aᵀ H_k⁻¹ a / N`.
///
/// The whole Hessian, `[K (d + 1)]²`, would take more time than everything else together. Gradients sum to zero over
/// classes; for such directions, the factor makes the blocks exact for two classes, and for any number at the zero
/// head.
fn run(set: &TrainingSet<'_>, options: &FilterOptions) -> Result<Filtered, DefenceError> {
    let (head, _) = train(set)?;
    let (count, classes, dim) = (set.len(), set.classes(), set.dim());
    let rows: Vec<usize> = (0..count).collect();
    let mut blocks = vec![Array2::zeros((dim + 1, dim + 1)); classes];
    let augmented = |rows: &[usize]| {
        let subset = set.select(rows);
        let probabilities = probabilities(&head, subset.features.view())?;
        let a = concatenate![Axis(1), subset.features, Array2::ones((rows.len(), 1))];
        Ok::<_, DefenceError>((a, probabilities, subset.labels))
    };
    for rows in rows.chunks(ROWS) {
        let (a, probabilities, _) = augmented(rows)?;
        for (p, block) in probabilities.columns().into_iter().zip(&mut blocks) {
            let deviations = (&p * &(1.0 - &p)).mapv(|weight| weight.max(0.0).sqrt());
            *block += &gram((&a * &deviations.insert_axis(Axis(1))).view());
        }
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
        let mut sums = vec![0.0; rows.len()];
        for (r, block) in residuals.columns().into_iter().zip(&blocks) {
            let through = product(a.view(), block.view());
            for (sum, ((r, a), through)) in sums.iter_mut().zip(r.iter().zip(a.rows()).zip(through.rows())) {
                *sum += r * r * a.dot(&through).max(0.0);
            }
        }
        scores.extend(sums.into_iter().map(|sum| sum / count as f64));
    }
    Ok(remove_of_classes(set, scores, options.fraction()))
}
