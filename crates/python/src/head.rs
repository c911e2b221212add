//! The linear head.

use crate::arrays::{Floats, labels};
use crate::failure::{Failed, failed};
use crate::work::work;
use hemlock_head::{FitOptions, Head, HeadError, logits, probabilities};
use ndarray::{Array2, ArrayView2, Axis, s};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArray2};
use pyo3::prelude::*;

/// Rows that are converted to 64 bits at a time.
const ROWS: usize = 8192;

/// The parameters of a trained head, `[K, d + 1]`, the number of steps, the norm of the gradient, the objective, and
/// whether the tolerance was met.
type Fitted<'py> = (Bound<'py, PyArray2<f64>>, usize, f64, f64, bool);

/// Trains a head to the minimum of `mean cross-entropy + weight_decay/2 |W|^2`.
#[pyfunction]
#[pyo3(signature = (features, given, classes, weight_decay, tolerance, steps, start=None))]
#[allow(clippy::too_many_arguments, reason = "the native half of a function of Python with keywords")]
pub fn fit<'py>(
    py: Python<'py>,
    features: &Bound<'py, PyAny>,
    given: &Bound<'py, PyArray1<u32>>,
    classes: usize,
    weight_decay: f64,
    tolerance: f64,
    steps: usize,
    start: Option<PyReadonlyArray2<'py, f64>>,
) -> PyResult<Fitted<'py>> {
    let (features, labels) = (Floats::of(features)?, labels(given));
    let start = start.map(|start| Head::from_packed(start.as_array().to_owned())).transpose().map_err(failed)?;
    let fit = work(py, None, move |call| {
        let options =
            FitOptions { gradient_tolerance: tolerance, max_iterations: steps, start, ..FitOptions::new(weight_decay) };
        let samples = features.samples(&labels, classes)?;
        let fit = hemlock_head::fit(&[samples], &options, &|_, _| call.goes_on()).map_err(failed)?;
        call.check()?;
        Ok(fit)
    })?;
    let packed = fit.head.into_packed().into_pyarray(py);
    Ok((packed, fit.iterations, fit.gradient_norm, fit.objective, fit.converged))
}

/// The logits of a head, `[n, K]`, or its probabilities.
#[pyfunction]
pub fn scores<'py>(
    py: Python<'py>,
    head: PyReadonlyArray2<'py, f64>,
    features: &Bound<'py, PyAny>,
    probable: bool,
) -> PyResult<Bound<'py, PyArray2<f64>>> {
    let head = Head::from_packed(head.as_array().to_owned()).map_err(failed)?;
    let features = Floats::of(features)?;
    let of = move |features: ArrayView2<f64>| -> Result<Array2<f64>, HeadError> {
        if probable { probabilities(&head, features) } else { logits(&head, features) }
    };
    let scores = work(py, None, move |call| match &features {
        Floats::F64(lent) => of(lent.view()).map_err(failed),
        Floats::F32(lent) => {
            let all = lent.view();
            let mut scores: Option<Array2<f64>> = None;
            for (i, rows) in all.axis_chunks_iter(Axis(0), ROWS).enumerate() {
                call.check()?;
                let of_rows = of(rows.mapv(f64::from).view()).map_err(failed)?;
                let scores = scores.get_or_insert_with(|| Array2::zeros((all.nrows(), of_rows.ncols())));
                scores.slice_mut(s![i * ROWS..i * ROWS + of_rows.nrows(), ..]).assign(&of_rows);
            }
            scores.ok_or_else(|| Failed::data("there are no samples to predict"))
        }
    })?;
    Ok(scores.into_pyarray(py))
}
