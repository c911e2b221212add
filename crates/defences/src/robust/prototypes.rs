//! Trimmed mean distances to the samples of each class.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};
use rayon::prelude::*;

use crate::{DefenceError, TrainingData};

/// A classifier for few samples of each class. Its score of a class is the mean distance to the class's samples,
/// without the `trim` nearest and the `trim` farthest ones; it predicts the class with the smallest score, the first of
/// equal ones. Up to `trim` poisons in a class cannot move that class's score arbitrarily far.
#[derive(Debug, Clone, PartialEq)]
pub struct TrimmedPrototypes {
    /// The features of every class, `[K]` times `[n, d]`.
    classes: Vec<Array2<f64>>,
    trim: usize,
}

impl TrimmedPrototypes {
    /// Takes the samples of the set as they are: there is nothing to train.
    ///
    /// # Errors
    /// Returns an error if a class has no more than `2 trim` samples.
    pub fn new(set: &TrainingData<'_>, trim: usize) -> Result<Self, DefenceError> {
        let class = |(class, rows): (usize, &Vec<usize>)| {
            let (needed, found) = (2 * trim + 1, rows.len());
            if found < needed {
                return Err(DefenceError::FewSamples { defence: "trimmed prototypes", class, needed, found });
            }
            Ok(set.select(rows).features)
        };
        Ok(Self { classes: set.class_rows().iter().enumerate().map(class).collect::<Result<_, _>>()?, trim })
    }

    /// The number of samples that are trimmed at each end.
    #[must_use]
    pub fn trim(&self) -> usize {
        self.trim
    }

    /// The trimmed mean distances of features `[n, d]` to every class, `[n, K]`. Small ones mean that the class is
    /// likely.
    ///
    /// # Errors
    /// Returns an error if the features have a different number of columns.
    pub fn distances(&self, features: ArrayView2<'_, f64>) -> Result<Array2<f64>, DefenceError> {
        let all = self.map(features, |sorted| {
            sorted.iter().map(|sorted| trimmed_mean(sorted, self.trim, 0)).collect::<Array1<f64>>()
        })?;
        let mut out = Array2::zeros((features.nrows(), self.classes.len()));
        out.rows_mut().into_iter().zip(all).for_each(|(mut to, from)| to.assign(&from));
        Ok(out)
    }

    /// The class with the smallest trimmed mean distance for each row of features `[n, d]`.
    ///
    /// # Errors
    /// Returns an error if the features have a different number of columns.
    pub fn predict(&self, features: ArrayView2<'_, f64>) -> Result<Vec<u32>, DefenceError> {
        Ok(self.distances(features)?.rows().into_iter().map(first_smallest).collect())
    }

    /// Calls `part` for each row of features, in parallel, with its distances to the samples of every class, in
    /// ascending order.
    pub(crate) fn map<T: Send>(
        &self,
        features: ArrayView2<'_, f64>,
        part: impl Fn(&[Vec<f64>]) -> T + Sync,
    ) -> Result<Vec<T>, DefenceError> {
        let dim = self.classes.first().map_or(0, Array2::ncols);
        if features.ncols() != dim {
            return Err(hemlock_head::HeadError::FeatureCount { expected: dim, found: features.ncols() }.into());
        }
        let rows: Vec<_> = features.axis_iter(Axis(0)).collect();
        let sorted = |z: &ArrayView1<'_, f64>| {
            let to = |samples: &Array2<f64>| {
                let distance = |sample: ArrayView1<'_, f64>| {
                    sample.iter().zip(z).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
                };
                let mut distances: Vec<f64> = samples.rows().into_iter().map(distance).collect();
                distances.sort_by(f64::total_cmp);
                distances
            };
            part(&self.classes.iter().map(to).collect::<Vec<_>>())
        };
        Ok(rows.par_iter().map(sorted).collect())
    }
}

/// The mean of ascending numbers without `trim` of them at each end, after the window has moved `shift` places up.
/// `shift` is at most `trim` in size.
pub(crate) fn trimmed_mean(ascending: &[f64], trim: usize, shift: isize) -> f64 {
    let start = trim.checked_add_signed(shift).expect("the window moves by at most `trim`");
    let count = ascending.len() - 2 * trim;
    ascending[start..start + count].iter().sum::<f64>() / count as f64
}

pub(crate) fn first_smallest(row: ArrayView1<'_, f64>) -> u32 {
    (1..row.len()).fold(0, |best, class| if row[class] < row[best] { class } else { best }) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_head::Samples;
    use ndarray::array;

    #[test]
    fn distances_by_hand() {
        let z = array![[0.0], [1.0], [100.0], [10.0], [11.0], [15.0]];
        let blocks = [Samples::new(z.view(), &[0, 0, 0, 1, 1, 1], 2).unwrap()];
        let set = TrainingData::new(&blocks, 0.0, 0).unwrap();
        let prototypes = TrimmedPrototypes::new(&set, 1).unwrap();
        let test = array![[2.0], [20.0]];
        assert_eq!(prototypes.distances(test.view()).unwrap(), array![[2.0, 9.0], [20.0, 9.0]]);
        assert_eq!(prototypes.predict(test.view()).unwrap(), [0, 1]);
        // Without trimming, the sample at 100 decides.
        let plain = TrimmedPrototypes::new(&set, 0).unwrap();
        assert_eq!(plain.distances(test.view()).unwrap(), array![[101.0 / 3.0, 10.0], [119.0 / 3.0, 8.0]]);
        assert!(matches!(
            TrimmedPrototypes::new(&set, 2),
            Err(DefenceError::FewSamples { class: 0, needed: 5, found: 3, .. })
        ));
        assert!(prototypes.predict(array![[0.0, 1.0]].view()).is_err());
    }
}
