//! Features of a downstream dataset, and their normalisation.

use crate::stored::Matrix;
use crate::{TestGroups, arrays};
use hemlock_head::{HeadError, Samples};
use hemlock_store::{Artifact, PayloadReader, PayloadWriter, StoreError};
use ndarray::{ArrayView2, ArrayViewMut2};
use serde::{Deserialize, Serialize};

/// Features and labels of one split.
#[derive(Debug)]
pub struct FeatureSplit {
    /// The features, `[n, d]`.
    pub features: Matrix,
    /// The class of every row, `[n]`.
    pub labels: Vec<u32>,
    /// The position of every row in what it was drawn from, `[n]`: the pool of images
    /// ([`Images::source_index`](crate::Images::source_index)), or the array that was imported.
    pub source_index: Vec<u32>,
}

impl FeatureSplit {
    /// Makes a split of all rows that can be drawn from, in their order.
    #[must_use]
    pub fn all(features: Matrix, labels: Vec<u32>) -> Self {
        let source_index = (0..labels.len() as u32).collect();
        Self { features, labels, source_index }
    }

    /// Returns the split in the form that `hemlock_head` computes with.
    ///
    /// # Errors
    /// If there are fewer than two classes, if there are no features, if a label is missing or out of range, or if a
    /// feature is not finite.
    pub fn samples(&self, classes: usize) -> Result<Samples<'_>, HeadError> {
        Samples::from_f32(self.features.view(), &self.labels, classes)
    }
}

/// The normalisation of a feature vector, which is applied before the head sees it.
#[derive(Debug, Clone, PartialEq)]
pub enum Normalization {
    /// `(z - shift) * scale`, per coordinate.
    Affine {
        /// The shift that is subtracted, `[d]`.
        shift: Vec<f32>,
        /// The scale that the difference is multiplied by, `[d]`.
        scale: Vec<f32>,
    },
    /// `z / |z|`, every sample divided by its own L2 norm; a zero vector stays 0.
    L2,
}

/// The largest ratio of standard deviation to mean at which a coordinate counts as constant: rounding to 32 bits causes
/// as much.
const CONSTANT: f64 = 1e-6;

impl Normalization {
    /// Returns the normalisation that leaves `dim` coordinates as they are.
    #[must_use]
    pub fn identity(dim: usize) -> Self {
        Self::Affine { shift: vec![0.0; dim], scale: vec![1.0; dim] }
    }

    /// Returns the normalisation that gives every coordinate of `features` (`[n, d]`) mean 0 and standard deviation 1.
    /// A constant coordinate becomes 0. A coordinate is constant if its standard deviation is at most a millionth of
    /// its mean, or is so small (below 3e-39) that its inverse does not fit into 32 bits.
    #[must_use]
    pub fn standardizing(features: ArrayView2<f32>) -> Self {
        let n = features.nrows().max(1) as f64;
        // Sums run row after row: a matrix may be larger than memory, and reading it by columns would fetch single
        // numbers from the disk.
        let average = |of: &dyn Fn(usize, f64) -> f64| -> Vec<f64> {
            let mut sums = vec![0.0; features.ncols()];
            for row in features.rows() {
                sums.iter_mut().zip(row).enumerate().for_each(|(j, (sum, z))| *sum += of(j, f64::from(*z)));
            }
            sums.iter().map(|sum| sum / n).collect()
        };
        let mean = average(&|_, z| z);
        let variance = average(&|j, z| (z - mean[j]).powi(2));
        let scale = |(mean, variance): (&f64, &f64)| {
            let deviation = variance.sqrt();
            let inverse = (1.0 / deviation) as f32;
            if deviation > CONSTANT * mean.abs() && inverse.is_finite() { inverse } else { 0.0 }
        };
        Self::Affine {
            shift: mean.iter().map(|mean| *mean as f32).collect(),
            scale: mean.iter().zip(&variance).map(scale).collect(),
        }
    }

    /// Returns the normalisation of the same kind for other features, whose training split is `train`, `[n, d]`.
    #[must_use]
    pub fn renewed(&self, train: ArrayView2<f32>) -> Self {
        match self {
            Self::L2 => Self::L2,
            other if *other == Self::identity(train.ncols()) => Self::identity(train.ncols()),
            Self::Affine { .. } => Self::standardizing(train),
        }
    }

    /// Number of coordinates that become 0 because they are constant.
    #[must_use]
    pub fn constant(&self) -> usize {
        match self {
            Self::Affine { scale, .. } => scale.iter().filter(|scale| **scale == 0.0).count(),
            Self::L2 => 0,
        }
    }

    /// Normalises every row of `features`, `[n, d]`, in place.
    pub fn apply(&self, mut features: ArrayViewMut2<f32>) {
        for mut row in features.rows_mut() {
            self.map(row.iter_mut());
        }
    }

    /// Normalises one sample, `[d]`, in place.
    pub fn apply_to(&self, z: &mut [f32]) {
        self.map(z.iter_mut());
    }

    fn map<'a>(&self, z: impl Iterator<Item = &'a mut f32>) {
        match self {
            Self::Affine { shift, scale } => {
                for ((z, shift), scale) in z.zip(shift).zip(scale) {
                    let moved = *z - shift;
                    // The difference of two large numbers may overflow in 32 bits.
                    let wide = || (f64::from(*z) - f64::from(*shift)) * f64::from(*scale);
                    *z = if moved.is_finite() { moved * scale } else { wide() as f32 };
                }
            }
            Self::L2 => {
                let z: Vec<&mut f32> = z.collect();
                let length = length(z.iter().map(|z| **z));
                let norm = length as f32;
                for z in z {
                    // The length may overflow in 32 bits, or be subnormal and lose digits.
                    let wide = if length > 0.0 { f64::from(*z) / length } else { 0.0 };
                    *z = if norm.is_normal() { *z / norm } else { wide as f32 };
                }
            }
        }
    }

    /// Backpropagates through the normalisation of the sample `z`, `[d]`: turns `gradient`, the gradient with respect
    /// to the normalised sample, into the gradient with respect to `z`, in place.
    pub fn backward(&self, z: &[f32], gradient: &mut [f32]) {
        match self {
            Self::Affine { scale, .. } => gradient.iter_mut().zip(scale).for_each(|(g, scale)| *g *= scale),
            Self::L2 => {
                let norm = length(z.iter().copied()) as f32;
                if norm == 0.0 {
                    return gradient.fill(0.0);
                }
                // The Jacobian of z / |z| is (1 - u u') / |z|, with u = z / |z|.
                let along = z.iter().zip(&*gradient).map(|(z, g)| z / norm * g).sum::<f32>();
                gradient.iter_mut().zip(z).for_each(|(g, z)| *g = (*g - along * z / norm) / norm);
            }
        }
    }
}

/// L2 norm, summed in f64, where the square of no f32 overflows or underflows.
fn length(z: impl Iterator<Item = f32>) -> f64 {
    z.map(|z| f64::from(z).powi(2)).sum::<f64>().sqrt()
}

/// Features of a dataset's splits, normalised as the head sees them.
#[derive(Debug)]
pub struct Features {
    /// Class names; a label is an index into them.
    pub classes: Vec<String>,
    /// The normalisation that was applied to the extractor's output, or to the imported features.
    pub normalization: Normalization,
    /// The clean training set, `D_c`.
    pub train: FeatureSplit,
    /// Samples that are held out from training; may be empty.
    pub validation: FeatureSplit,
    /// Samples for measuring only.
    pub test: FeatureSplit,
    /// The groups of the test samples, if the dataset has groups.
    pub test_groups: Option<TestGroups>,
}

#[derive(Serialize, Deserialize)]
struct Info {
    classes: Vec<String>,
    normalization: Vectors,
}

/// A normalisation as it is stored. Both vectors are empty for [`Normalization::L2`].
#[derive(Serialize, Deserialize)]
struct Vectors {
    shift: Vec<f32>,
    scale: Vec<f32>,
}

impl From<Vectors> for Normalization {
    fn from(Vectors { shift, scale }: Vectors) -> Self {
        if shift.is_empty() && scale.is_empty() { Self::L2 } else { Self::Affine { shift, scale } }
    }
}

impl From<Normalization> for Vectors {
    fn from(normalization: Normalization) -> Self {
        match normalization {
            Normalization::Affine { shift, scale } => Self { shift, scale },
            Normalization::L2 => Self { shift: Vec::new(), scale: Vec::new() },
        }
    }
}

impl Artifact for Features {
    const KIND: &'static str = "features";

    fn write(&self, w: &mut PayloadWriter) -> Result<(), StoreError> {
        w.value("info", &Info { classes: self.classes.clone(), normalization: self.normalization.clone().into() })?;
        for (split, s) in [("train", &self.train), ("validation", &self.validation), ("test", &self.test)] {
            s.features.write(w, &format!("{split}.features"))?;
            arrays::write_vec(w, &format!("{split}.labels"), &s.labels)?;
            arrays::write_vec(w, &format!("{split}.source_index"), &s.source_index)?;
        }
        TestGroups::write(self.test_groups.as_ref(), w)
    }

    fn read(r: &PayloadReader) -> Result<Self, StoreError> {
        let Info { classes, normalization } = r.value("info")?;
        let split = |split: &str| -> Result<FeatureSplit, StoreError> {
            Ok(FeatureSplit {
                features: Matrix::read(r, &format!("{split}.features"))?,
                labels: arrays::read_vec(r, &format!("{split}.labels"))?,
                source_index: arrays::read_vec(r, &format!("{split}.source_index"))?,
            })
        };
        Ok(Self {
            classes,
            normalization: normalization.into(),
            train: split("train")?,
            validation: split("validation")?,
            test: split("test")?,
            test_groups: TestGroups::read(r)?,
        })
    }

    fn summary(&self) -> serde_json::Value {
        serde_json::json!({
            "classes": self.classes.len(), "features": self.train.features.view().ncols(),
            "train": self.train.labels.len(), "validation": self.validation.labels.len(), "test": self.test.labels.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array2, Axis, array};

    #[test]
    fn standardizing_gives_mean_zero_and_deviation_one() {
        let mut z = array![[1.0f32, 5.0, 7.0], [3.0, 5.0, 9.0], [5.0, 5.0, 2.0]];
        Normalization::standardizing(z.view()).apply(z.view_mut());
        for (j, column) in z.axis_iter(Axis(1)).enumerate() {
            let mean = column.sum() / 3.0;
            let variance = column.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 3.0;
            assert!(mean.abs() < 1e-6);
            assert!((variance - if j == 1 { 0.0 } else { 1.0 }).abs() < 1e-5, "column {j}: {variance}");
        }
    }

    #[test]
    fn l2_gives_length_one_and_leaves_zero_alone() {
        let mut z = array![[3.0f32, -4.0], [0.0, 0.0], [2e-30, 0.0], [1e30, 1e30], [-3e38, 3e38], [0.0, 3e-42]];
        Normalization::L2.apply(z.view_mut());
        assert_eq!(z.row(0).to_vec(), [0.6, -0.8]);
        assert_eq!(z.row(1).to_vec(), [0.0, 0.0]);
        assert_eq!(z.row(2).to_vec(), [1.0, 0.0], "short as it is, it has a direction");
        assert!((z[[3, 0]] - 0.5f32.sqrt()).abs() < 1e-7);
        assert!((z[[4, 0]] + 0.5f32.sqrt()).abs() < 1e-7, "longer than 32 bits can say");
        assert_eq!(z.row(5).to_vec(), [0.0, 1.0]);
    }

    /// The expected values come from scikit-learn's `StandardScaler`; the units of a feature do not matter.
    #[test]
    fn standardizing_does_not_know_the_scale() {
        let z = array![[1.0f32, 5.0], [3.0, 5.5], [5.0, 4.0], [2.0, 9.0]];
        let standardized = |mut z: Array2<f32>| {
            let normalization = Normalization::standardizing(z.view());
            normalization.apply(z.view_mut());
            (z, normalization.constant())
        };
        let (expected, _) = standardized(z.clone());
        for scale in [1e-37f32, 1e-30, 1e-14, 1e-11, 1e11, 3e37] {
            let (found, constant) = standardized(z.mapv(|z| z * scale));
            assert_eq!(constant, 0, "{scale}");
            let apart = (&found - &expected).mapv(f32::abs).into_iter().fold(0.0, f32::max);
            assert!(apart < 1e-5, "{scale}: {apart}");
        }
        // Differences that overflow in 32 bits.
        let (found, _) = standardized(array![[-3e38f32], [3e38], [3e38]]);
        assert!((found[[0, 0]] + 2f32.sqrt()).abs() < 1e-5, "{found}");
        // Coordinates that are constant up to rounding, constant, and 0.
        let (found, constant) = standardized(array![[0.1f32, 1e-20, 0.0], [0.1 + 1e-8, 1e-20, 0.0]]);
        assert_eq!((found, constant), (Array2::zeros((2, 3)), 3));
    }

    #[test]
    fn gradients_are_pulled_back_as_finite_differences_say() {
        let (z, zeta) = ([0.4f32, -1.2, 2.0], [0.1f32, 0.3, -0.2]);
        let value = |normalization: &Normalization, z: &[f32]| {
            let mut z = z.to_vec();
            normalization.apply_to(&mut z);
            z.iter().zip(zeta).map(|(z, zeta)| f64::from(z - zeta).powi(2)).sum::<f64>()
        };
        let affine = Normalization::Affine { shift: vec![0.5, 0.0, 1.0], scale: vec![2.0, 0.5, 1.5] };
        for normalization in [affine, Normalization::L2] {
            let mut u = z.to_vec();
            normalization.apply_to(&mut u);
            let mut gradient: Vec<f32> = u.iter().zip(zeta).map(|(u, zeta)| 2.0 * (u - zeta)).collect();
            normalization.backward(&z, &mut gradient);
            for (j, analytic) in gradient.iter().enumerate() {
                let moved = |by: f32| {
                    let mut z = z.to_vec();
                    z[j] += by;
                    value(&normalization, &z)
                };
                let numeric = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                assert!((numeric - f64::from(*analytic)).abs() < 1e-3, "{normalization:?} {j}: {numeric} {analytic}");
            }
        }
        let mut gradient = [1.0, 2.0];
        Normalization::L2.backward(&[0.0, 0.0], &mut gradient);
        assert_eq!(gradient, [0.0, 0.0]);
    }

    #[test]
    fn every_normalization_is_read_as_it_was_stored() {
        for normalization in [Normalization::identity(2), Normalization::L2] {
            assert_eq!(Normalization::from(Vectors::from(normalization.clone())), normalization);
        }
    }
}
