//! Filters: scores of how suspicious every sample of a poisoned training set is, and what to remove. Each filter is one
//! file in this folder and one line of [`FILTERS`].
//!
//! A filter sees the poisoned training set and nothing else: no clean data, and not which samples are poisons.

mod activation_clustering;
mod knn_distance;
mod knn_label;
mod loss;
mod neighbors;
mod roni;
mod self_influence;
mod sever;
mod slab;
mod spectral;
mod sphere;
mod svd;
mod trimmed_loss;

use hemlock_head::HeadError;
use ndarray::{Array1, ArrayView1};
use std::cmp::Ordering;

use crate::linalg::mean;
use crate::losses::rough_tolerance;
use crate::{DefenceError, TrainingData};

/// All filters.
pub static FILTERS: [&Filter; 12] = [
    &sphere::FILTER,
    &slab::FILTER,
    &loss::FILTER,
    &svd::FILTER,
    &knn_distance::FILTER,
    &knn_label::FILTER,
    &spectral::FILTER,
    &activation_clustering::FILTER,
    &sever::FILTER,
    &self_influence::FILTER,
    &trimmed_loss::FILTER,
    &roni::FILTER,
];

/// A filter.
pub struct Filter {
    /// The name, such as `knn-distance`.
    pub name: &'static str,
    /// What the score is, which continues "the score is …".
    pub score: &'static str,
    /// What [`RemovalRule::Paper`] removes, which continues "it removes …".
    pub rule: &'static str,
    /// Whether [`RemovalRule::Share`] is a share of each class; otherwise, it is a share of all samples.
    pub by_class: bool,
    /// The share that [`RemovalRule::Paper`] removes at most, as a multiple of the expected one; 0 if it does not
    /// depend on it.
    pub multiple: f64,
    /// The paper that the filter comes from.
    pub source: &'static str,
    run: fn(&TrainingData<'_>, &FilterOptions) -> Result<Filtered, DefenceError>,
    /// The score with the training set fixed, if it has a gradient.
    fixed: Option<FixScore>,
}

/// Fixes the training set of a filter's score.
type FixScore = fn(&TrainingData<'_>, &FilterOptions) -> Result<Box<dyn FixedScore>, DefenceError>;

/// The score of a sample wherever it lies, while the training set that it is compared with stays fixed. It is the
/// filter's score for the samples of that set, and a smooth function of the features.
pub trait FixedScore: Send + Sync {
    /// The score of a sample with features `z`, `[d]`, and its gradient with respect to them.
    fn at(&self, z: ArrayView1<'_, f64>, label: usize) -> (f64, Array1<f64>);
}

/// Options of a filter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FilterOptions {
    /// How many samples are removed.
    pub removal: RemovalRule,
    /// The number of neighbours of `knn-distance` and `knn-label`. `None` is 5 for the first one and the mean size of a
    /// class for the second one. Other filters ignore it.
    pub neighbors: Option<usize>,
    /// The gradient norm at which the heads that a filter trains count as trained. `None` is three times the weight
    /// decay, but at least 1e-6 and at most 1e-4: scores hardly change below.
    pub tolerance: Option<f64>,
}

/// How many samples a filter removes. Both numbers lie in `[0, 1)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RemovalRule {
    /// The samples with the largest scores: a share of each class or of all samples, see [`Filter::by_class`]. The
    /// number is rounded to the nearest one.
    Share(f64),
    /// What the filter's paper removes if it expects this share of poisons, see [`Filter::rule`].
    Paper {
        /// The expected share of poisons.
        expected: f64,
    },
}

/// What a filter says of a training set.
#[derive(Debug, Clone, PartialEq)]
pub struct Filtered {
    /// The score of every sample, `[N]`; large scores are suspicious. Where classes are filtered one by one, a score
    /// has the same unit in all of them.
    pub scores: Vec<f64>,
    /// Whether the filter removes a sample, `[N]`.
    pub removed: Vec<bool>,
}

impl Filtered {
    /// The samples that stay.
    #[must_use]
    pub fn kept(&self) -> Vec<bool> {
        self.removed.iter().map(|removed| !removed).collect()
    }
}

impl Filter {
    /// The score of any sample with the training set fixed. `None` for a filter whose score has no gradient.
    ///
    /// # Errors
    /// Returns an error if a head that the filter needs cannot be trained, or if the set has too few classes.
    pub fn fixed(
        &self,
        set: &TrainingData<'_>,
        options: &FilterOptions,
    ) -> Result<Option<Box<dyn FixedScore>>, DefenceError> {
        self.fixed.map(|fixed| fixed(set, options)).transpose()
    }

    /// Scores the samples of a training set, and says which ones to remove.
    ///
    /// # Errors
    /// Returns an error if an option is out of its range, if a class has too few samples for the filter, if the filter
    /// would remove all samples of a class, or if a head that it needs cannot be trained.
    pub fn apply(&self, set: &TrainingData<'_>, options: &FilterOptions) -> Result<Filtered, DefenceError> {
        match options.removal {
            RemovalRule::Share(share) => DefenceError::check_share("remove", share)?,
            RemovalRule::Paper { expected } => self.check_expected(expected)?,
        }
        options.tolerance.map_or(Ok(()), |tolerance| HeadError::check_non_negative("tolerance", tolerance))?;
        let filtered = (self.run)(set, options)?;
        let (mut samples, mut kept) = (vec![0; set.classes()], vec![0; set.classes()]);
        for (label, removed) in set.labels().into_iter().zip(&filtered.removed) {
            samples[label as usize] += 1;
            kept[label as usize] += usize::from(!removed);
        }
        match (0..set.classes()).find(|class| samples[*class] > 0 && kept[*class] == 0) {
            Some(class) => Err(DefenceError::WholeClass { filter: self.name, class, samples: samples[class] }),
            None => Ok(filtered),
        }
    }
}

impl Filter {
    /// Checks that what the filter's paper removes is less than everything.
    ///
    /// # Errors
    /// Returns an error if the expected share is not in `[0, 1)`, or if the filter would remove all samples.
    pub fn check_expected(&self, expected: f64) -> Result<(), DefenceError> {
        DefenceError::check_share("expected", expected)?;
        if self.multiple * expected < 1.0 {
            return Ok(());
        }
        Err(DefenceError::Everything { filter: self.name, expected, multiple: self.multiple })
    }
}

/// The filter with the given name, if there is one.
#[must_use]
pub fn find(name: &str) -> Option<&'static Filter> {
    FILTERS.into_iter().find(|filter| filter.name == name)
}

impl FilterOptions {
    /// Removes a share of the samples, with the filter's defaults otherwise.
    #[must_use]
    pub fn share(share: f64) -> Self {
        Self { removal: RemovalRule::Share(share), neighbors: None, tolerance: None }
    }

    /// Removes what the filter's paper removes if it expects this share of poisons.
    #[must_use]
    pub fn paper(expected: f64) -> Self {
        Self { removal: RemovalRule::Paper { expected }, neighbors: None, tolerance: None }
    }

    /// The gradient norm at which heads count as trained.
    fn tolerance_for(&self, set: &TrainingData<'_>) -> f64 {
        self.tolerance.unwrap_or_else(|| rough_tolerance(set.weight_decay()))
    }

    /// The share itself, or the expected one.
    fn fraction(&self) -> f64 {
        match self.removal {
            RemovalRule::Share(share) | RemovalRule::Paper { expected: share } => share,
        }
    }
}

/// A share of a number of samples, rounded.
pub(crate) fn count_of(share: f64, samples: usize) -> usize {
    (share * samples as f64).round() as usize
}

/// Largest scores first; equal ones in the order of their rows.
fn descending(scores: &[f64]) -> impl Fn(&usize, &usize) -> Ordering {
    |a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b))
}

/// Removes the samples with the largest scores of every class.
fn remove_of_classes(set: &TrainingData<'_>, scores: Vec<f64>, share: f64) -> Filtered {
    let mut removed = vec![false; scores.len()];
    for mut rows in set.class_rows() {
        rows.sort_by(descending(&scores));
        rows.iter().take(count_of(share, rows.len())).for_each(|row| removed[*row] = true);
    }
    Filtered { scores, removed }
}

/// Removes the samples with the largest scores of all.
fn remove_of_all(scores: Vec<f64>, share: f64) -> Filtered {
    let mut rows: Vec<usize> = (0..scores.len()).collect();
    rows.sort_by(descending(&scores));
    let mut removed = vec![false; scores.len()];
    rows.iter().take(count_of(share, rows.len())).for_each(|row| removed[*row] = true);
    Filtered { scores, removed }
}

/// The centroid of every class that has samples.
fn centroids(set: &TrainingData<'_>) -> Vec<Option<Array1<f64>>> {
    let of_class = |rows: &Vec<usize>| (!rows.is_empty()).then(|| mean(set.select(rows).features.view()));
    set.class_rows().iter().map(of_class).collect()
}

/// The scores of all samples, from those of every class. `of` is called with the rows of a class that has samples.
fn by_class(
    set: &TrainingData<'_>,
    mut of: impl FnMut(usize, &[usize]) -> Result<Vec<f64>, DefenceError>,
) -> Result<Vec<f64>, DefenceError> {
    let mut scores = vec![0.0; set.len()];
    for (class, rows) in set.class_rows().iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
        rows.iter().zip(of(class, rows)?).for_each(|(row, score)| scores[*row] = score);
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_head::testing::GaussianClusters;

    #[test]
    fn names_are_found_and_differ() {
        for filter in FILTERS {
            assert!(std::ptr::eq(find(filter.name).unwrap(), filter));
            assert!(!filter.score.is_empty() && !filter.rule.is_empty() && !filter.source.is_empty());
        }
        assert!(find("none").is_none());
    }

    #[test]
    fn the_largest_of_each_class_or_of_all_are_removed() {
        let data = GaussianClusters::new(40, 2, 2, 1);
        let blocks = [data.samples()];
        let set = TrainingData::new(&blocks, 0.0, 0).unwrap();
        let scores: Vec<f64> = (0..40).map(f64::from).collect();
        let all = remove_of_all(scores.clone(), 0.1);
        assert_eq!((0..40).filter(|row| all.removed[*row]).collect::<Vec<_>>(), [36, 37, 38, 39]);
        let each = remove_of_classes(&set, scores, 0.1);
        for rows in set.class_rows() {
            let count = count_of(0.1, rows.len());
            let expected: Vec<bool> = (0..rows.len()).map(|i| i >= rows.len() - count).collect();
            assert_eq!(rows.iter().map(|row| each.removed[*row]).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn no_class_disappears() {
        let data = GaussianClusters::new(40, 2, 2, 1);
        let blocks = [data.samples()];
        let set = TrainingData::new(&blocks, 0.1, 0).unwrap();
        let refused = |options: FilterOptions| find("sphere").unwrap().apply(&set, &options).unwrap_err();
        assert!(matches!(
            refused(FilterOptions::share(0.999)),
            DefenceError::WholeClass { filter: "sphere", class: 0, .. }
        ));
        assert!(matches!(refused(FilterOptions::share(1.0)), DefenceError::Parameter { name: "remove", .. }));
        assert!(matches!(refused(FilterOptions::paper(f64::NAN)), DefenceError::Parameter { name: "expected", .. }));
        let paper = |name: &str, expected| find(name).unwrap().apply(&set, &FilterOptions::paper(expected));
        for (name, expected) in [("sever", 0.5), ("spectral", 0.7)] {
            let message = paper(name, expected).unwrap_err().to_string();
            assert!(message.contains(name) && message.contains("`expected`"), "{message}");
            assert!(paper(name, expected - 0.2).is_ok(), "{name}");
        }
        let message = refused(FilterOptions::share(0.999)).to_string();
        assert!(message.contains("all") && message.contains("class 0") && message.contains("remove less"), "{message}");
    }
}
