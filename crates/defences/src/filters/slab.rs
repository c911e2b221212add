//! The distance to the centroid of the sample's own class, along the line to the other classes.

use ndarray::{Array1, Array2, Axis};

use super::{Filter, FilterOptions, Filtered, by_class, remove_of_classes};
use crate::linalg::{mean, squared};
use crate::{DefenceError, TrainingData};

pub(super) static FILTER: Filter = Filter {
    name: "slab",
    score: "the distance to the centroid of the sample's class, along the line from there to the mean of the other \
            classes' centroids",
    rule: "the expected share of each class",
    by_class: true,
    multiple: 1.0,
    source: "Steinhardt, Koh & Liang, 2017, for two classes; the mean of the others follows `threat`'s slab",
    run,
};

fn run(set: &TrainingData<'_>, options: &FilterOptions) -> Result<Filtered, DefenceError> {
    let centroids: Vec<Option<Array1<f64>>> = set
        .class_rows()
        .iter()
        .map(|rows| (!rows.is_empty()).then(|| mean(set.select(rows).features.view())))
        .collect();
    let found = centroids.iter().flatten().count();
    if found < 2 {
        return Err(DefenceError::FewClasses { defence: FILTER.name, found });
    }
    let sum = centroids.iter().flatten().fold(Array1::zeros(set.dim()), |sum: Array1<f64>, one| sum + one);
    let scores = by_class(set, |class, rows| {
        let own = centroids[class].as_ref().expect("a class with rows has a centroid");
        let others = (&sum - own) / (found - 1) as f64;
        let across = own - &others;
        // Without a direction between the centroids, all distances along it are 0.
        let across = &across / squared(across.view()).sqrt().max(f64::MIN_POSITIVE);
        let offsets: Array2<f64> = set.select(rows).features - own.view().insert_axis(Axis(0));
        Ok(offsets.dot(&across).iter().map(|along| along.abs()).collect())
    })?;
    Ok(remove_of_classes(set, scores, options.fraction()))
}
