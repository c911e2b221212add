//! Labelled features.

use std::ops::Range;

use ndarray::{ArrayView2, Axis, Slice};
use rayon::prelude::*;

use crate::HeadError;

/// Features `[n, d]` with one label each: finite, `d >= 1`, labels below `classes >= 2`. May hold no samples at all.
///
/// A view, cheap to copy; a training set is a slice of these, such as `&[clean, poisons]`.
#[derive(Debug, Clone, Copy)]
pub struct Samples<'a> {
    features: ArrayView2<'a, f64>,
    labels: &'a [u32],
    classes: usize,
}

impl<'a> Samples<'a> {
    /// Checks features `[n, d]` and their `n` labels.
    ///
    /// # Errors
    /// Fewer than two classes, no feature columns, not one label per row, a label out of range, or a feature that is
    /// not finite; the error names the first offender.
    pub fn new(features: ArrayView2<'a, f64>, labels: &'a [u32], classes: usize) -> Result<Self, HeadError> {
        if classes < 2 {
            return Err(HeadError::TooFewClasses { classes });
        }
        if features.ncols() == 0 {
            return Err(HeadError::NoFeatures);
        }
        if features.nrows() != labels.len() {
            return Err(HeadError::LabelCount { features: features.nrows(), labels: labels.len() });
        }
        if let Some((index, &label)) = labels.iter().enumerate().find(|&(_, &label)| label as usize >= classes) {
            return Err(HeadError::LabelOutOfRange { index, label, classes });
        }
        let non_finite = features.axis_iter(Axis(0)).into_par_iter().enumerate().find_map_first(|(row, sample)| {
            let column = sample.iter().position(|value| !value.is_finite())?;
            Some(HeadError::NonFiniteFeature { row, column, value: sample[column] })
        });
        match non_finite {
            Some(error) => Err(error),
            None => Ok(Self { features, labels, classes }),
        }
    }

    /// The same samples for a shorter time: array views do not shorten by themselves.
    #[must_use]
    pub fn reborrow<'b>(&'b self) -> Samples<'b>
    where
        'a: 'b,
    {
        Samples { features: self.features.reborrow(), labels: self.labels, classes: self.classes }
    }

    /// The features, `[n, d]`.
    pub fn features(&self) -> ArrayView2<'a, f64> {
        self.features
    }

    /// The labels, `[n]`.
    pub fn labels(&self) -> &'a [u32] {
        self.labels
    }

    /// The number of classes that the labels choose from.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The number of samples `n`.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The samples of some rows.
    pub(crate) fn rows(&self, rows: Range<usize>) -> Self {
        let mut features = self.features;
        features.slice_axis_inplace(Axis(0), Slice::from(rows.clone()));
        Self { features, labels: &self.labels[rows], classes: self.classes }
    }
}

/// The number of samples in all blocks.
///
/// # Errors
/// None at all: what follows is a mean.
pub(crate) fn count(blocks: &[Samples<'_>]) -> Result<usize, HeadError> {
    match blocks.iter().map(Samples::len).sum() {
        0 => Err(HeadError::Empty),
        count => Ok(count),
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};

    use super::*;

    #[test]
    fn refuses_what_has_no_loss() {
        let features = array![[0.0, 1.0], [2.0, 3.0]];
        let error = |labels: &[u32], classes| Samples::new(features.view(), labels, classes).unwrap_err();
        assert_eq!(error(&[0, 0], 1), HeadError::TooFewClasses { classes: 1 });
        assert_eq!(error(&[0], 2), HeadError::LabelCount { features: 2, labels: 1 });
        assert_eq!(error(&[0, 2], 2), HeadError::LabelOutOfRange { index: 1, label: 2, classes: 2 });
        assert_eq!(Samples::new(Array2::zeros((1, 0)).view(), &[0], 2).unwrap_err(), HeadError::NoFeatures);
        assert_eq!(
            Samples::new(array![[0.0, 1.0], [f64::NEG_INFINITY, f64::NAN]].view(), &[0, 1], 2).unwrap_err(),
            HeadError::NonFiniteFeature { row: 1, column: 0, value: f64::NEG_INFINITY }
        );
        assert!(matches!(count(&[]), Err(HeadError::Empty)));
    }
}
