//! Certificates: for every test sample, a number of poisons up to which its prediction provably stays, whatever the
//! poisons are.
//!
//! | certificate | of which classifier | a unit of the radius is | source |
//! | --- | --- | --- | --- |
//! | [`Ensemble::plurality`], spread 1 | votes of heads on disjoint parts (DPA) | a sample added, removed or relabelled; a sample with changed features counts as two | Levine & Feizi, 2021 |
//! | [`Ensemble::plurality`], spread > 1 | votes of heads on overlapping parts (finite aggregation) | the same | Wang, Levine & Feizi, 2022 |
//! | [`Ensemble::run_off`] | the same heads, with a second round between two classes | the same | Rezaei et al., 2023 |
//! | [`StrongConvexity`] | one softmax head with weight decay on all of its parameters | a sample added, within a constraint | from strong convexity, see there |
//! | [`RidgeHead::certify`] | ridge regression on one-hot labels | a label changed | exact; from linearity in the labels |
//! | [`certify_prototypes`] | [`TrimmedPrototypes`](crate::robust::TrimmedPrototypes) | a sample with changed features, its label kept | Wang et al., 2024 (FCert) |

mod convexity;
mod ensemble;
mod labels;
mod prototypes;
mod run_off;

pub use convexity::StrongConvexity;
pub use ensemble::Ensemble;
pub use labels::RidgeHead;
pub use prototypes::certify_prototypes;

use crate::DefenceError;

/// Predictions for test samples, and how many poisons each of them withstands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificates {
    /// The predicted classes, `[n]`.
    pub predictions: Vec<u32>,
    /// The radii, `[n]`: no attack of at most this many units changes the prediction. [`certificates`](self) says what
    /// a unit is. A prediction that may change with a single unit has the radius 0.
    pub radii: Vec<usize>,
}

impl Certificates {
    /// The share of test samples, in `[0, 1]`, that are predicted correctly with a radius of at least `budget`. With a
    /// budget of 0, this is the accuracy.
    ///
    /// # Errors
    /// Returns an error if there are no test samples, or if the labels are not as many.
    pub fn certified_accuracy(&self, labels: &[u32], budget: usize) -> Result<f64, DefenceError> {
        let count = self.predictions.len();
        DefenceError::check_length("the list of labels", labels.len(), count)?;
        DefenceError::check_count("test samples", count, 1, usize::MAX)?;
        let each = self.predictions.iter().zip(&self.radii).zip(labels);
        let certified = each.filter(|((prediction, radius), label)| prediction == label && **radius >= budget);
        Ok(certified.count() as f64 / count as f64)
    }
}

impl FromIterator<(u32, usize)> for Certificates {
    fn from_iter<T: IntoIterator<Item = (u32, usize)>>(each: T) -> Self {
        let (predictions, radii) = each.into_iter().unzip();
        Self { predictions, radii }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certified_accuracy_by_hand() {
        let certificates: Certificates = [(0, 2), (1, 0), (1, 5), (0, 9)].into_iter().collect();
        let at = |budget| certificates.certified_accuracy(&[0, 1, 1, 1], budget).unwrap();
        assert_eq!([0, 1, 2, 3, 6].map(at), [0.75, 0.5, 0.5, 0.25, 0.0]);
        assert!(certificates.certified_accuracy(&[0], 0).is_err());
    }
}
