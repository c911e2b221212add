//! The loss at a head that is trained on everything.

use hemlock_head::Head;
use ndarray::{Array1, ArrayView1, s};

use super::{Filter, FilterOptions, Filtered, FixedScore, remove_of_classes};
use crate::losses::{log_sum_exp, losses, train};
use crate::{DefenceError, TrainingData};

pub(super) static FILTER: Filter = Filter {
    name: "loss",
    score: "the cross-entropy at the head that is trained on the whole set, in nats",
    rule: "the expected share of each class",
    by_class: true,
    multiple: 1.0,
    source: "Koh, Steinhardt & Liang, 2022",
    run,
    fixed: Some(fixed),
};

fn run(set: &TrainingData<'_>, options: &FilterOptions) -> Result<Filtered, DefenceError> {
    let scores = losses(&train(set, options.tolerance_for(set))?.0, set);
    Ok(remove_of_classes(set, scores, options.fraction()))
}

/// The head that is trained on the whole set.
struct Loss(Head);

fn fixed(set: &TrainingData<'_>, options: &FilterOptions) -> Result<Box<dyn FixedScore>, DefenceError> {
    Ok(Box::new(Loss(train(set, options.tolerance_for(set))?.0)))
}

impl FixedScore for Loss {
    fn at(&self, z: ArrayView1<'_, f64>, label: usize) -> (f64, Array1<f64>) {
        let packed = self.0.packed();
        let (weights, bias) = (packed.slice(s![.., ..-1]), packed.slice(s![.., -1]));
        let logits = weights.dot(&z) + bias;
        let normalizer = log_sum_exp(logits.view());
        let loss = normalizer - logits[label];
        let mut residual = logits.mapv(|logit| (logit - normalizer).exp());
        residual[label] -= 1.0;
        (loss, residual.dot(&weights))
    }
}
