//! Labelled features.

use std::ops::Range;

use hemlock_streams::Purpose;
use ndarray::{Array2, ArrayView2, Axis, CowArray, Ix2, Slice};
use rand::seq::index;
use rayon::prelude::*;

use crate::HeadError;
use crate::float::convert;
use crate::kernel::CHUNK;

/// Features `[n, d]` with one label for each row. The features are finite, `d >= 1`, `classes >= 2`, and labels are
/// below `classes`. `n` may be 0.
///
/// This is a view that is cheap to copy; a training set is a slice of views, such as `&[clean, poisons]`. Features are
/// f64 or f32. Features in f32 are converted to f64 chunk by chunk when they are used, so that they may be mapped from
/// a file that does not fit into memory.
#[derive(Debug, Clone, Copy)]
pub struct Samples<'a> {
    features: FloatMatrix<'a>,
    labels: &'a [u32],
    classes: usize,
}

/// Features in the precision in which they are stored.
#[derive(Debug, Clone, Copy)]
enum FloatMatrix<'a> {
    F64(ArrayView2<'a, f64>),
    F32(ArrayView2<'a, f32>),
}

impl<'a> Samples<'a> {
    /// Checks features `[n, d]` and their `n` labels.
    ///
    /// # Errors
    /// Returns an error that names the first violation if
    ///
    /// - there are fewer than two classes,
    /// - the features have no columns,
    /// - the number of labels is not `n`,
    /// - a label is not below `classes`, or
    /// - a feature is not finite.
    pub fn new(features: ArrayView2<'a, f64>, labels: &'a [u32], classes: usize) -> Result<Self, HeadError> {
        Self::checked(FloatMatrix::F64(features), labels, classes)
    }

    /// [`Samples::new`] for features in single precision. All results are the same as for features that were converted
    /// to f64 beforehand.
    ///
    /// # Errors
    /// Returns the errors of [`Samples::new`].
    pub fn from_f32(features: ArrayView2<'a, f32>, labels: &'a [u32], classes: usize) -> Result<Self, HeadError> {
        Self::checked(FloatMatrix::F32(features), labels, classes)
    }

    fn checked(features: FloatMatrix<'a>, labels: &'a [u32], classes: usize) -> Result<Self, HeadError> {
        let samples = Self { features, labels, classes };
        if classes < 2 {
            return Err(HeadError::TooFewClasses { classes });
        }
        if samples.dim() == 0 {
            return Err(HeadError::NoFeatures);
        }
        let rows = match features {
            FloatMatrix::F64(z) => z.nrows(),
            FloatMatrix::F32(z) => z.nrows(),
        };
        if rows != labels.len() {
            return Err(HeadError::LabelCount { features: rows, labels: labels.len() });
        }
        if let Some((index, &label)) = labels.iter().enumerate().find(|&(_, &label)| label as usize >= classes) {
            return Err(HeadError::LabelOutOfRange { index, label, classes });
        }
        let starts: Vec<usize> = (0..rows).step_by(CHUNK).collect();
        let non_finite = starts.into_par_iter().find_map_first(|start| {
            let chunk = samples.rows(start..rows.min(start + CHUNK)).to_f64();
            // Reading every value is faster than stopping at the first one that is not finite.
            if chunk.fold(true, |finite, value| finite & value.is_finite()) {
                return None;
            }
            let ((row, column), &value) = chunk.indexed_iter().find(|(_, value)| !value.is_finite())?;
            Some(HeadError::NonFiniteFeature { row: start + row, column, value })
        });
        match non_finite {
            Some(error) => Err(error),
            None => Ok(samples),
        }
    }

    /// The same samples with a shorter lifetime, which array views do not allow implicitly.
    #[must_use]
    pub fn reborrow<'b>(&'b self) -> Samples<'b>
    where
        'a: 'b,
    {
        let features = match &self.features {
            FloatMatrix::F64(z) => FloatMatrix::F64(z.reborrow()),
            FloatMatrix::F32(z) => FloatMatrix::F32(z.reborrow()),
        };
        Samples { features, labels: self.labels, classes: self.classes }
    }

    /// The number of features `d`.
    pub fn dim(&self) -> usize {
        match self.features {
            FloatMatrix::F64(z) => z.ncols(),
            FloatMatrix::F32(z) => z.ncols(),
        }
    }

    /// The labels, `[n]`.
    pub fn labels(&self) -> &'a [u32] {
        self.labels
    }

    /// The number of classes `K`.
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

    /// All features, `[n, d]`: a view if they are stored in f64, a copy otherwise.
    pub fn to_f64(&self) -> CowArray<'a, f64, Ix2> {
        match self.features {
            FloatMatrix::F64(z) => z.into(),
            FloatMatrix::F32(z) => z.mapv(f64::from).into(),
        }
    }

    /// All features, `[n, d]`, in single precision: a view if they are stored so, and a rounded copy otherwise.
    pub fn to_f32(&self) -> CowArray<'a, f32, Ix2> {
        match self.features {
            FloatMatrix::F64(z) => z.mapv(|z| z as f32).into(),
            FloatMatrix::F32(z) => z.into(),
        }
    }

    /// Whether the features are stored in single precision.
    pub fn is_single(&self) -> bool {
        matches!(self.features, FloatMatrix::F32(_))
    }

    /// The features of the given rows, in the given order, `[rows.len(), d]`.
    ///
    /// # Panics
    /// Panics if a row is not below `n`.
    pub fn select(&self, rows: &[usize]) -> Array2<f64> {
        match self.features {
            FloatMatrix::F64(z) => z.select(Axis(0), rows),
            FloatMatrix::F32(z) => z.select(Axis(0), rows).mapv(f64::from),
        }
    }

    /// Consecutive chunks of a few hundred rows; the last one may be shorter.
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = Self> {
        self.chunks_of(CHUNK)
    }

    /// Consecutive chunks of `size` rows; the last one may be shorter.
    pub fn chunks_of(&self, size: usize) -> impl ExactSizeIterator<Item = Self> {
        let (all, count) = (*self, self.len());
        (0..count.div_ceil(size)).map(move |i| all.rows(i * size..count.min((i + 1) * size)))
    }

    /// The features of a chunk, `[n, d]`, without an allocation for each chunk: a view of the features if they are
    /// stored in f64, and of the first rows of `scratch` otherwise.
    pub(crate) fn read<'s>(&self, scratch: &'s mut Array2<f64>) -> ArrayView2<'s, f64>
    where
        'a: 's,
    {
        match self.features {
            FloatMatrix::F64(z) => z,
            FloatMatrix::F32(z) => {
                if scratch.nrows() < z.nrows() {
                    *scratch = Array2::zeros(z.dim());
                }
                let mut rows = scratch.slice_axis_mut(Axis(0), Slice::from(..z.nrows()));
                match (z.to_slice(), rows.as_slice_mut()) {
                    (Some(from), Some(to)) => convert(from, to),
                    _ => rows.zip_mut_with(&z, |to, from| *to = f64::from(*from)),
                }
                scratch.slice_axis(Axis(0), Slice::from(..z.nrows()))
            }
        }
    }

    /// [`Samples::read`] in single precision.
    pub(crate) fn read_single<'s>(&self, scratch: &'s mut Array2<f32>) -> ArrayView2<'s, f32>
    where
        'a: 's,
    {
        match self.features {
            FloatMatrix::F32(z) => z,
            FloatMatrix::F64(z) => {
                *scratch = z.mapv(|z| z as f32);
                scratch.view()
            }
        }
    }

    /// Returns an error if `probabilities` is not `[n, K]`.
    pub(crate) fn check_probabilities(&self, probabilities: &Array2<f64>) -> Result<(), HeadError> {
        let (expected, found) = ((self.len(), self.classes), probabilities.dim());
        if expected == found { Ok(()) } else { Err(HeadError::ProbabilityShape { expected, found }) }
    }

    /// The samples of a range of rows.
    pub(crate) fn rows(&self, rows: Range<usize>) -> Self {
        let slice = Slice::from(rows.clone());
        let mut features = self.features;
        match &mut features {
            FloatMatrix::F64(z) => z.slice_axis_inplace(Axis(0), slice),
            FloatMatrix::F32(z) => z.slice_axis_inplace(Axis(0), slice),
        }
        Self { features, labels: &self.labels[rows], classes: self.classes }
    }
}

/// A random subset of at most `most` of the rows `0..count`, in ascending order. The subset is the same in every call.
/// Its rows are irregular, because labels may follow a regular pattern.
pub fn subsample(count: usize, most: usize) -> Vec<usize> {
    let mut rows = index::sample(&mut Purpose::Excerpt.of(0), count, most.min(count)).into_vec();
    rows.sort_unstable();
    rows
}

/// The number of samples in all blocks.
///
/// # Errors
/// Returns [`HeadError::Empty`] if there are no samples, because callers divide by the number.
pub(crate) fn count(blocks: &[Samples<'_>]) -> Result<usize, HeadError> {
    match blocks.iter().map(Samples::len).sum() {
        0 => Err(HeadError::Empty),
        count => Ok(count),
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

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
        let infinite = array![[0.0f32], [f32::INFINITY]];
        assert_eq!(
            Samples::from_f32(infinite.view(), &[0, 1], 2).unwrap_err(),
            HeadError::NonFiniteFeature { row: 1, column: 0, value: f64::INFINITY }
        );
        assert!(matches!(count(&[]), Err(HeadError::Empty)));
    }
}
