//! Training on the samples with the least loss, again and again.

use super::{Filter, FilterOptions, Filtered, remove_of_all};
use crate::losses::{losses, retrain, train};
use crate::{DefenceError, TrainingData};

/// Largest number of trainings after the first.
const ROUNDS: usize = 10;

pub(super) static FILTER: Filter = Filter {
    name: "trimmed-loss",
    score: "the cross-entropy, in nats, at a head that is trained on the samples that stay: training and choosing the \
            samples with the least loss alternate until the choice is stable, at most 10 times",
    rule: "the expected share of all samples",
    by_class: false,
    multiple: 1.0,
    source: "Shen & Sanghavi, 2019 (iterative trimmed loss minimisation)",
    run,
    fixed: None,
};

fn run(set: &TrainingData<'_>, options: &FilterOptions) -> Result<Filtered, DefenceError> {
    let tolerance = options.tolerance_for(set);
    let (mut head, preconditioner) = train(set, tolerance)?;
    let mut filtered = remove_of_all(losses(&head, set), options.fraction());
    for _ in 0..ROUNDS {
        let kept = set.filter(&filtered.kept())?;
        head = retrain(&[kept.samples()], set.weight_decay(), tolerance, Some(&head), &preconditioner)?;
        let next = remove_of_all(losses(&head, set), options.fraction());
        let stable = next.removed == filtered.removed;
        filtered = next;
        if stable {
            break;
        }
    }
    Ok(filtered)
}
