//! The loss at a head that is trained on everything.

use super::{Filter, FilterOptions, Filtered, remove_of_classes};
use crate::losses::{losses, train};
use crate::{DefenceError, TrainingData};

pub(super) static FILTER: Filter = Filter {
    name: "loss",
    score: "the cross-entropy at the head that is trained on the whole set, in nats",
    rule: "the expected share of each class",
    by_class: true,
    multiple: 1.0,
    source: "Koh, Steinhardt & Liang, 2022",
    run,
};

fn run(set: &TrainingData<'_>, options: &FilterOptions) -> Result<Filtered, DefenceError> {
    let scores = losses(&train(set, options.tolerance_for(set))?.0, set);
    Ok(remove_of_classes(set, scores, options.fraction()))
}
