//! The distance to the centroid of the sample's own class.

use ndarray::{Array1, ArrayView1};

use super::{Filter, FilterOptions, Filtered, FixedScore, by_class, centroids, remove_of_classes};
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
    fixed: Some(fixed),
};

fn run(set: &TrainingData<'_>, options: &FilterOptions) -> Result<Filtered, DefenceError> {
    let scores = by_class(set, |_, rows| {
        let mut z = set.select(rows).features;
        centre(&mut z);
        Ok(z.rows().into_iter().map(|z| squared(z).sqrt()).collect())
    })?;
    Ok(remove_of_classes(set, scores, options.fraction()))
}

/// The centroids of the classes that have samples.
struct Sphere(Vec<Option<Array1<f64>>>);

fn fixed(set: &TrainingData<'_>, _: &FilterOptions) -> Result<Box<dyn FixedScore>, DefenceError> {
    Ok(Box::new(Sphere(centroids(set))))
}

impl FixedScore for Sphere {
    fn at(&self, z: ArrayView1<'_, f64>, label: usize) -> (f64, Array1<f64>) {
        let off = self.0[label].as_ref().map_or_else(|| Array1::zeros(z.len()), |centroid| &z - centroid);
        let score = squared(off.view()).sqrt();
        (score, off / score.max(f64::MIN_POSITIVE))
    }
}
