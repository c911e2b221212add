//! Features and labels, as stages read them.

use crate::arrays::{labels, matrix};
use hemlock_artifact::{Dataset, FeatureSplit, Features, Images, Matrix, Normalization, Pixels};
use ndarray::{Array2, Array4};
use numpy::{PyArray1, PyArray2};
use pyo3::prelude::*;

/// A matrix of features and its labels.
type Given<'py> = (Bound<'py, PyArray2<f32>>, Bound<'py, PyArray1<u32>>);

/// Features and labels of a training set, and of what is held out. The features stay where NumPy has them.
#[pyclass(frozen, name = "Data", module = "hemlock._hemlock")]
pub struct GivenData {
    classes: Vec<String>,
    train: Split,
    validation: Split,
    test: Split,
}

struct Split {
    features: Matrix,
    labels: Vec<u32>,
}

impl Split {
    fn new((features, given): &Given<'_>) -> PyResult<Self> {
        Ok(Self { features: matrix(features)?, labels: labels(given) })
    }

    fn split(&self) -> FeatureSplit {
        FeatureSplit::all(self.features.clone(), self.labels.clone())
    }
}

#[pymethods]
impl GivenData {
    /// `classes` are the names of the classes, which labels index. Without a test set, the training set stands for it:
    /// the caller leaves out what is measured there.
    #[new]
    fn new(
        classes: Vec<String>,
        train: Given<'_>,
        validation: Option<Given<'_>>,
        test: Option<Given<'_>>,
    ) -> PyResult<Self> {
        let none = |split: &Split| Split {
            features: Array2::zeros((0, split.features.view().ncols())).into(),
            labels: Vec::new(),
        };
        let test = Split::new(test.as_ref().unwrap_or(&train))?;
        let train = Split::new(&train)?;
        let validation = validation.as_ref().map_or_else(|| Ok(none(&train)), Split::new)?;
        Ok(Self { classes, train, validation, test })
    }
}

impl GivenData {
    /// The features of all splits, which are seen as they are. They share the memory.
    pub(crate) fn features(&self) -> Features {
        self.normalized(Normalization::identity(self.train.features.view().ncols()))
    }

    /// The features of all splits, which an extractor made with a normalisation.
    pub(crate) fn normalized(&self, normalization: Normalization) -> Features {
        Features {
            classes: self.classes.clone(),
            normalization,
            train: self.train.split(),
            validation: self.validation.split(),
            test: self.test.split(),
            test_groups: None,
        }
    }

    /// The training set, as images.
    pub(crate) fn dataset(&self, pixels: &Pixels) -> Dataset {
        let (_, channels, height, width) = pixels.view().dim();
        let none = || Images {
            pixels: Array4::zeros((0, channels, height, width)).into(),
            labels: Vec::new(),
            source_index: Vec::new(),
        };
        let labels = self.train.labels.clone();
        let train = Images { pixels: pixels.clone(), source_index: (0..labels.len() as u32).collect(), labels };
        Dataset {
            name: "given".to_owned(),
            classes: self.classes.clone(),
            train,
            validation: none(),
            test: none(),
            skipped: 0,
            test_groups: None,
        }
    }
}
