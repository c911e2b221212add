//! The projection on the direction in which the class varies most.

use ndarray::Axis;

use super::{Filter, FilterOptions, Filtered, RemovalRule, by_class, remove_of_classes};
use crate::linalg::{centre, eigen, gram};
use crate::{DefenceError, TrainingData};

/// How many times the expected share the paper removes.
const GENEROSITY: f64 = 1.5;

pub(super) static FILTER: Filter = Filter {
    name: "spectral",
    score: "the squared projection of the class's centred features on their top right singular vector",
    rule: "1.5 times the expected share of each class",
    by_class: true,
    multiple: GENEROSITY,
    source: "Tran, Li & Madry, 2018, algorithm 1",
    run,
};

fn run(set: &TrainingData<'_>, options: &FilterOptions) -> Result<Filtered, DefenceError> {
    let scores = by_class(set, |_, rows| {
        let mut z = set.select(rows).features;
        centre(&mut z);
        let (_, vectors) = eigen(&gram(z.view()))?;
        Ok(z.dot(&vectors.index_axis(Axis(1), 0)).iter().map(|along| along * along).collect())
    })?;
    let share = match options.removal {
        RemovalRule::Share(share) => share,
        RemovalRule::Paper { expected } => FILTER.multiple * expected,
    };
    Ok(remove_of_classes(set, scores, share))
}
