//! Data sets with poisons among the clean samples, on disk.

use crate::failure::Failed;
use crate::work::work;
use hemlock_pipeline::{LabelledSamples, PoisonedSet, SetFormat, SetSamples, export_set};
use numpy::{PyArray1, PyArray2, PyArray4, PyArrayMethods, PyReadonlyArray2, PyReadonlyArray4};
use pyo3::prelude::*;
use std::path::PathBuf;

/// Images or features that Python holds, with their labels.
struct GivenSamples<'py> {
    samples: Kind<'py>,
    labels: Vec<u32>,
}

enum Kind<'py> {
    Images(PyReadonlyArray4<'py, u8>),
    Features(PyReadonlyArray2<'py, f32>),
}

/// Images or features, and labels.
type Given<'py> = (Bound<'py, PyAny>, Bound<'py, PyArray1<u32>>);

impl<'py> GivenSamples<'py> {
    fn of((samples, labels): &Given<'py>) -> PyResult<Self> {
        let samples = match samples.cast::<PyArray4<u8>>() {
            Ok(images) => Kind::Images(images.readonly()),
            Err(_) => Kind::Features(samples.cast::<PyArray2<f32>>()?.readonly()),
        };
        Ok(Self { samples, labels: crate::arrays::labels(labels) })
    }

    fn view(&self) -> LabelledSamples<'_> {
        let samples = match &self.samples {
            Kind::Images(images) => SetSamples::Images(images.as_array()),
            Kind::Features(features) => SetSamples::Features(features.as_array()),
        };
        LabelledSamples { samples, labels: &self.labels }
    }
}

/// Training samples, validation samples, test samples, and poisons.
type Splits<'py> = (Given<'py>, Option<Given<'py>>, Option<Given<'py>>, Given<'py>);

/// Writes a data set with poisons among the clean samples. Returns the paths of its files.
#[pyfunction]
pub fn save_dataset(
    py: Python<'_>,
    folder: PathBuf,
    format: &str,
    classes: Vec<String>,
    splits: Splits<'_>,
    source: Option<Vec<u32>>,
) -> PyResult<Vec<PathBuf>> {
    let format: SetFormat =
        format.parse().map_err(|e| Failed::new(hemlock_stage::ErrorKind::Params, format!("{e}")))?;
    let (train, validation, test, poisons) = splits;
    let (train, poisons) = (GivenSamples::of(&train)?, GivenSamples::of(&poisons)?);
    let [validation, test] = [validation, test].map(|split| split.map(|split| GivenSamples::of(&split)).transpose());
    let (validation, test) = (validation?, test?);
    let set = PoisonedSet {
        classes: &classes,
        train: train.view(),
        validation: validation.as_ref().map(GivenSamples::view),
        test: test.as_ref().map(GivenSamples::view),
        poisons: poisons.view(),
        base_index: source.as_deref(),
        replaces: false,
    };
    work(py, None, |_| export_set(&set, format, &folder).map_err(|e| Failed::of(&e.into())))
}
