//! The projection on the direction in which the class varies most.

use ndarray::{Array1, ArrayView1, Axis};

use super::{Filter, FilterOptions, Filtered, FixedScore, RemovalRule, by_class, remove_of_classes};
use crate::linalg::{centre, eigen, gram, mean};
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
    fixed: Some(fixed),
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

/// The centroids and the top singular vectors of the classes that have samples.
struct Spectral(Vec<Option<(Array1<f64>, Array1<f64>)>>);

fn fixed(set: &TrainingData<'_>, _: &FilterOptions) -> Result<Box<dyn FixedScore>, DefenceError> {
    let of_class = |rows: &Vec<usize>| {
        let mut z = set.select(rows).features;
        if z.is_empty() {
            return Ok(None);
        }
        let centroid = mean(z.view());
        centre(&mut z);
        Ok(Some((centroid, eigen(&gram(z.view()))?.1.index_axis(Axis(1), 0).to_owned())))
    };
    let classes: Result<_, DefenceError> = set.class_rows().iter().map(of_class).collect();
    Ok(Box::new(Spectral(classes?)))
}

impl FixedScore for Spectral {
    fn at(&self, z: ArrayView1<'_, f64>, label: usize) -> (f64, Array1<f64>) {
        let Some((centroid, top)) = &self.0[label] else { return (0.0, Array1::zeros(z.len())) };
        let along = (&z - centroid).dot(top);
        (along * along, top * (2.0 * along))
    }
}
