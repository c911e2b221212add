//! The distance to the centroid of the sample's own class, along the line to the other classes.

use ndarray::{Array1, Array2, ArrayView1, Axis};

use super::{Filter, FilterOptions, Filtered, FixedScore, by_class, centroids, remove_of_classes};
use crate::linalg::squared;
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
    fixed: Some(fixed),
};

fn run(set: &TrainingData<'_>, options: &FilterOptions) -> Result<Filtered, DefenceError> {
    let slabs = slabs(set)?;
    let scores = by_class(set, |class, rows| {
        let Slab { own, across } = slabs[class].as_ref().expect("a class with rows has a centroid");
        let offsets: Array2<f64> = set.select(rows).features - own.view().insert_axis(Axis(0));
        Ok(offsets.dot(across).iter().map(|along| along.abs()).collect())
    })?;
    Ok(remove_of_classes(set, scores, options.fraction()))
}

/// The centroid of a class, and the direction there from the mean of the other centroids, of length 1.
struct Slab {
    own: Array1<f64>,
    across: Array1<f64>,
}

/// The slabs of all classes that have samples.
fn slabs(set: &TrainingData<'_>) -> Result<Vec<Option<Slab>>, DefenceError> {
    let centroids = centroids(set);
    let found = centroids.iter().flatten().count();
    if found < 2 {
        return Err(DefenceError::FewClasses { defence: FILTER.name, found });
    }
    let sum = centroids.iter().flatten().fold(Array1::zeros(set.dim()), |sum: Array1<f64>, one| sum + one);
    let slab = |own: Array1<f64>| {
        let others = (&sum - &own) / (found - 1) as f64;
        let across = &own - &others;
        // Without a direction between the centroids, all distances along it are 0.
        let across = &across / squared(across.view()).sqrt().max(f64::MIN_POSITIVE);
        Slab { own, across }
    };
    Ok(centroids.into_iter().map(|own| own.map(slab)).collect())
}

struct Slabs(Vec<Option<Slab>>);

fn fixed(set: &TrainingData<'_>, _: &FilterOptions) -> Result<Box<dyn FixedScore>, DefenceError> {
    Ok(Box::new(Slabs(slabs(set)?)))
}

impl FixedScore for Slabs {
    fn at(&self, z: ArrayView1<'_, f64>, label: usize) -> (f64, Array1<f64>) {
        let Some(Slab { own, across }) = &self.0[label] else { return (0.0, Array1::zeros(z.len())) };
        let along = (&z - own).dot(across);
        (along.abs(), across * along.signum())
    }
}
