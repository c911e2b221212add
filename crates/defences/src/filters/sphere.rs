//! The distance to the centroid of the sample's own class.

use super::{Filter, FilterOptions, Filtered, by_class, remove_of_classes};
use crate::linalg::{centre, squared};
use crate::{DefenceError, TrainingData};

pub(super) static FILTER: Filter = Filter {
    name: "sphere",
    score: "the distance to the centroid of the sample's class",
    rule: "the expected share of each class",
    by_class: true,
    multiple: 1.0,
    source: "Steinhardt, Koh & Liang, 2017; Koh, Steinhardt & Liang, 2022 (there: the L2 defence)",
    run,
};

fn run(set: &TrainingData<'_>, options: &FilterOptions) -> Result<Filtered, DefenceError> {
    let scores = by_class(set, |_, rows| {
        let mut z = set.select(rows).features;
        centre(&mut z);
        Ok(z.rows().into_iter().map(|z| squared(z).sqrt()).collect())
    })?;
    Ok(remove_of_classes(set, scores, options.fraction()))
}
