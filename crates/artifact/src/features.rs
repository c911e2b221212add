//! Features of a downstream dataset.

use crate::arrays;
use hemlock_head::{HeadError, Samples};
use hemlock_store::{Artifact, Mapped, PayloadReader, PayloadWriter, StoreError};
use ndarray::{Array2, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

/// Features and labels of one split.
#[derive(Debug)]
pub struct FeatureSplit {
    /// `[n, d]`.
    pub features: Matrix,
    /// Class of every row.
    pub labels: Vec<u32>,
}

impl FeatureSplit {
    /// The split as the head's mathematics wants it.
    ///
    /// # Errors
    /// Fewer than two classes, no features, a label out of range, or a feature that is not finite.
    pub fn samples(&self, classes: usize) -> Result<Samples<'_>, HeadError> {
        Samples::from_f32(self.features.view(), &self.labels, classes)
    }
}

/// A matrix in memory, or in a payload file that is mapped into memory.
#[derive(Debug)]
pub struct Matrix(Place);

#[derive(Debug)]
enum Place {
    Memory(Array2<f32>),
    /// Of two axes.
    File(Mapped<f32>),
}

impl Matrix {
    /// The matrix.
    #[must_use]
    pub fn view(&self) -> ArrayView2<'_, f32> {
        let mapped = match &self.0 {
            Place::Memory(matrix) => return matrix.view(),
            Place::File(mapped) => mapped,
        };
        let [rows, columns] = mapped.shape() else { unreachable!("a mapped matrix has two axes") };
        let Ok(view) = ArrayView2::from_shape((*rows, *columns), mapped.data()) else {
            unreachable!("a mapped array fills its shape")
        };
        view
    }

    fn map(r: &PayloadReader, name: &str) -> Result<Self, StoreError> {
        let mapped = r.map::<f32>(name)?;
        match mapped.shape().len() {
            2 => Ok(Self(Place::File(mapped))),
            axes => Err(r.corrupt(name, format!("has {axes} axes; expected 2"))),
        }
    }
}

impl From<Array2<f32>> for Matrix {
    fn from(matrix: Array2<f32>) -> Self {
        Self(Place::Memory(matrix))
    }
}

/// What is done to the extractor's output before the head sees it: `(z - shift) * scale`, per coordinate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Affine {
    /// Subtracted from every coordinate, `[d]`.
    pub shift: Vec<f32>,
    /// Multiplied after that, `[d]`.
    pub scale: Vec<f32>,
}

impl Affine {
    /// Leaves `dim` coordinates as they are.
    #[must_use]
    pub fn identity(dim: usize) -> Self {
        Self { shift: vec![0.0; dim], scale: vec![1.0; dim] }
    }

    /// Gives every coordinate of `features` (`[n, d]`) mean 0 and standard deviation 1. A constant coordinate becomes 0.
    #[must_use]
    pub fn standardizing(features: ArrayView2<f32>) -> Self {
        let n = features.nrows().max(1) as f64;
        let (mut shift, mut scale) = (Vec::new(), Vec::new());
        for column in features.axis_iter(Axis(1)) {
            let mean = column.iter().map(|&z| f64::from(z)).sum::<f64>() / n;
            let variance = column.iter().map(|&z| (f64::from(z) - mean).powi(2)).sum::<f64>() / n;
            shift.push(mean as f32);
            scale.push(if variance.sqrt() > 1e-6 * mean.abs().max(1e-6) {
                (1.0 / variance.sqrt()) as f32
            } else {
                0.0
            });
        }
        Self { shift, scale }
    }

    /// Applies the map to every row of `features`, `[n, d]`.
    pub fn apply(&self, features: &mut Array2<f32>) {
        for mut row in features.rows_mut() {
            for ((z, shift), scale) in row.iter_mut().zip(&self.shift).zip(&self.scale) {
                *z = (*z - shift) * scale;
            }
        }
    }
}

/// Features of a dataset's splits, as the head sees them.
#[derive(Debug)]
pub struct Features {
    /// Class names; a label is an index into them.
    pub classes: Vec<String>,
    /// The map from the extractor's output to these features.
    pub normalization: Affine,
    /// The clean training set, `D_c`.
    pub train: FeatureSplit,
    /// Held out from training; may be empty.
    pub validation: FeatureSplit,
    /// For measuring only.
    pub test: FeatureSplit,
}

#[derive(Serialize, Deserialize)]
struct Info {
    classes: Vec<String>,
    normalization: Affine,
}

impl Artifact for Features {
    const KIND: &'static str = "features";

    fn write(&self, w: &mut PayloadWriter) -> Result<(), StoreError> {
        w.value("info", &Info { classes: self.classes.clone(), normalization: self.normalization.clone() })?;
        for (split, s) in [("train", &self.train), ("validation", &self.validation), ("test", &self.test)] {
            let z = s.features.view();
            // Both places keep rows one after the other.
            w.array(&format!("{split}.features"), z.shape(), z.as_slice().unwrap_or_default())?;
            arrays::write_vec(w, &format!("{split}.labels"), &s.labels)?;
        }
        Ok(())
    }

    fn read(r: &PayloadReader) -> Result<Self, StoreError> {
        let Info { classes, normalization } = r.value("info")?;
        let split = |split: &str| -> Result<FeatureSplit, StoreError> {
            Ok(FeatureSplit {
                features: Matrix::map(r, &format!("{split}.features"))?,
                labels: arrays::read_vec(r, &format!("{split}.labels"))?,
            })
        };
        Ok(Self {
            classes,
            normalization,
            train: split("train")?,
            validation: split("validation")?,
            test: split("test")?,
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
    use ndarray::array;

    #[test]
    fn standardizing_gives_mean_zero_and_deviation_one() {
        let mut z = array![[1.0f32, 5.0, 7.0], [3.0, 5.0, 9.0], [5.0, 5.0, 2.0]];
        Affine::standardizing(z.view()).apply(&mut z);
        for (j, column) in z.axis_iter(Axis(1)).enumerate() {
            let mean = column.sum() / 3.0;
            let variance = column.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 3.0;
            assert!(mean.abs() < 1e-6);
            assert!((variance - if j == 1 { 0.0 } else { 1.0 }).abs() < 1e-5, "column {j}: {variance}");
        }
    }
}
