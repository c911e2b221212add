//! Losses and gradients of single samples.

use hemlock_head::kernel::scores;
use hemlock_head::{FitOptions, Head, HeadError, Preconditioner, Samples, fit};
use ndarray::{Array2, ArrayView1};
use std::sync::Arc;

use crate::{DefenceError, TrainingData};

/// The cross-entropy of every sample at `head`, in nats, `[N]`. The samples fit the head.
pub(crate) fn losses(head: &Head, set: &TrainingData<'_>) -> Vec<f64> {
    let parts = set.map_chunks(|chunk, z| {
        let mut logits = Array2::zeros((z.nrows(), head.classes()));
        scores(head.packed(), z, &mut logits.view_mut());
        let loss = |(row, label): (ArrayView1<'_, f64>, &u32)| log_sum_exp(row) - row[*label as usize];
        logits.rows().into_iter().zip(chunk.labels()).map(loss).collect::<Vec<_>>()
    });
    parts.flatten().collect()
}

pub(crate) fn log_sum_exp(row: ArrayView1<'_, f64>) -> f64 {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + row.iter().map(|logit| (logit - max).exp()).sum::<f64>().ln()
}

/// Trains a head on the whole set, to a gradient norm of `tolerance`.
pub(crate) fn train(set: &TrainingData<'_>, tolerance: f64) -> Result<(Head, Arc<Preconditioner>), DefenceError> {
    let preconditioner = Arc::new(Preconditioner::new(set.blocks(), set.weight_decay())?);
    let head = retrain(set.blocks(), set.weight_decay(), tolerance, None, &preconditioner)?;
    Ok((head, preconditioner))
}

/// Trains a head on blocks that are similar to those of the preconditioner. A head that stops before the tolerance is
/// used as it is: without weight decay, separable samples have no minimum.
pub(crate) fn retrain(
    blocks: &[Samples<'_>],
    weight_decay: f64,
    tolerance: f64,
    start: Option<&Head>,
    preconditioner: &Arc<Preconditioner>,
) -> Result<Head, HeadError> {
    let options = FitOptions {
        gradient_tolerance: tolerance,
        start: start.cloned(),
        preconditioner: Some(Arc::clone(preconditioner)),
        ..FitOptions::new(weight_decay)
    };
    Ok(fit(blocks, &options, &|_, _| true)?.head)
}

/// The gradient norm at which a head counts as trained if it is compared with others and not used itself: three times
/// the weight decay, between 1e-6 and 1e-4. At a gradient norm of `λ`, the weights are off by about 1 at most.
pub(crate) fn rough_tolerance(weight_decay: f64) -> f64 {
    (3.0 * weight_decay).clamp(1e-6, 1e-4)
}
