//! Filters of training sets, and certified classifiers.

use crate::arrays::{Floats, labels};
use crate::data::GivenData;
use crate::failure::{Failed, failed, parameters};
use crate::features::seed_of;
use crate::measured::made;
use crate::work::{PROCESSOR, work};
use hemlock_defences::{DefenceSpec, TrainingData};
use hemlock_stage::ErrorKind;
use hemlock_victims::{TrainingSetChange, VictimData, VictimSpec};
use numpy::{IntoPyArray, PyArray1, PyArray2};
use pyo3::prelude::*;

/// Which samples are kept, and the scores of all.
type Kept<'py> = (Bound<'py, PyArray1<bool>>, Bound<'py, PyArray1<f64>>);

/// Scores how suspicious training samples are. Returns which samples a filter keeps, and the scores of all.
#[pyfunction]
#[pyo3(signature = (features, given, classes, table, weight_decay, seed, show=None))]
#[allow(clippy::too_many_arguments, reason = "the native half of a function of Python with keywords")]
pub fn filter<'py>(
    py: Python<'py>,
    features: &Bound<'py, PyAny>,
    given: &Bound<'py, PyArray1<u32>>,
    classes: usize,
    table: &str,
    weight_decay: f64,
    seed: u64,
    show: Option<Py<PyAny>>,
) -> PyResult<Kept<'py>> {
    let (features, labels) = (Floats::of(features)?, labels(given));
    let spec = parameters::<DefenceSpec>(table)?;
    let filtered = work(py, show.as_ref(), move |_| {
        let Some(filter) = spec.filter() else {
            let kind = spec.kind.name();
            let message = format!("`kind`: `{kind}` changes images and filters nothing; expected a filter");
            return Err(Failed::new(ErrorKind::Params, message));
        };
        let samples = features.samples(&labels, classes)?;
        let set = TrainingData::new(&[samples], weight_decay, seed).map_err(failed)?;
        filter.apply(&set).map_err(failed)
    })?;
    Ok((filtered.kept().into_pyarray(py), filtered.scores.into_pyarray(py)))
}

/// The numbers of a certified classifier in JSON, whether it is right for each test sample, the radius of each
/// prediction (negative where it is wrong), and the head of a linear one.
type Certified<'py> =
    (String, Bound<'py, PyArray1<bool>>, Bound<'py, PyArray1<f32>>, Option<Bound<'py, PyArray2<f64>>>);

/// Trains a certified classifier, and says for each test sample how many poisons its prediction withstands.
#[pyfunction]
#[pyo3(signature = (data, table, weight_decay, seed, show=None))]
pub fn certify<'py>(
    py: Python<'py>,
    data: &Bound<'py, GivenData>,
    table: &str,
    weight_decay: f64,
    seed: u64,
    show: Option<Py<PyAny>>,
) -> PyResult<Certified<'py>> {
    let (victim, data) = (parameters::<VictimSpec>(table)?, data.get());
    let outcome = work(py, show.as_ref(), move |call| {
        let kind = victim.kind();
        let nothing = || {
            let expected = "expected `voting`, `prototypes`, `ridge` or `certified-linear`";
            Failed::new(ErrorKind::Params, format!("`kind`: `{kind}` certifies nothing; {expected}"))
        };
        if victim.uses_device() {
            return Err(nothing());
        }
        let ctx = call.context(seed_of::<hemlock_victim::Stage>(&victim, seed), PROCESSOR);
        let features = data.features();
        let data = VictimData::of_features(&features, weight_decay, &ctx);
        let outcome = victim.victim().train("certificates", &data, &TrainingSetChange::none(&data))?;
        if outcome.certificate.is_none() { Err(nothing()) } else { Ok(outcome) }
    })?;
    let (_, about, right, radii, head) = made(py, "clean", "clean", outcome);
    Ok((about, right, radii, head))
}
