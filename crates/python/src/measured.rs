//! What victims are worth after training on poisons and on controls.

use crate::data::Data;
use crate::failure::{Failed, parameters};
use crate::features::{GivenPoisons, given_poisons, given_target, seed_of};
use crate::work::work;
use hemlock_artifact::{Evaluation, Outcome, TrainingSet};
use hemlock_defences::DefenceSpec;
use hemlock_stage::Stage;
use hemlock_victims::VictimSpec;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArray2};
use pyo3::prelude::*;
use serde_json::json;

/// An outcome for Python: the training set's name, its numbers in JSON, whether each test sample was classified
/// correctly, its margin, and the head of a linear victim.
type MadeOutcome<'py> =
    (String, String, Bound<'py, PyArray1<bool>>, Bound<'py, PyArray1<f32>>, Option<Bound<'py, PyArray2<f64>>>);

/// An outcome as Python gets it.
pub(crate) fn made<'py>(py: Python<'py>, name: &str, role: &str, outcome: Outcome) -> MadeOutcome<'py> {
    let about = json!({
        "role": role,
        "accuracy": outcome.accuracy.overall,
        "per_class": outcome.accuracy.per_class,
        "epochs": outcome.epochs,
        "clean_loss": outcome.clean_loss,
        "gradient_norm": outcome.gradient_norm,
        "converged": outcome.converged,
        "weight_decay": outcome.weight_decay,
        "certificate": outcome.certificate,
    });
    let head = outcome.head.map(|head| head.into_packed().into_pyarray(py));
    let (right, margins) = (outcome.answers.right.into_pyarray(py), outcome.answers.margins.into_pyarray(py));
    (name.to_owned(), about.to_string(), right, margins, head)
}

/// Trains a victim on clean data, on poisons and on controls, and measures it: what the stages `victim`, `defence` and
/// `evaluate` do. Returns the outcomes, and what else the evaluation says, in JSON.
#[pyfunction]
#[pyo3(signature = (data, aim, poisons, tables, seed, device, show=None))]
pub fn evaluate<'py>(
    py: Python<'py>,
    data: &Bound<'py, Data>,
    aim: (PyReadonlyArray2<'py, f64>, PyReadonlyArray2<'py, f64>, String),
    poisons: GivenPoisons<'py>,
    tables: (Option<String>, Option<String>, String),
    seed: u64,
    device: String,
    show: Option<Py<PyAny>>,
) -> PyResult<(Vec<MadeOutcome<'py>>, String)> {
    let (data, target, poisons) = (data.get(), given_target(&aim)?, given_poisons(&poisons)?);
    let (victim, defence, table) = tables;
    let victim = victim.map(|table| parameters::<VictimSpec>(&table)).transpose()?;
    let defence = defence.map(|table| parameters::<DefenceSpec>(&table)).transpose()?;
    let params = parameters::<hemlock_evaluate::Params>(&table)?;
    let found: Evaluation = work(py, show.as_ref(), move |call| {
        let images = victim.as_ref().is_some_and(|victim| victim.victim().reads_images());
        if let Some(kind) = victim.as_ref().map(VictimSpec::kind).filter(|_| images) {
            let message = format!("`victim`: `{kind}` trains on images, and these are features; expected another kind");
            return Err(Failed::new(hemlock_stage::ErrorKind::Params, message));
        }
        if let Some(kind) = defence.as_ref().filter(|defence| defence.transform().is_some()).map(|it| it.kind.name()) {
            let message = format!("`defence`: `{kind}` changes images, and these are features; expected a filter");
            return Err(Failed::new(hemlock_stage::ErrorKind::Params, message));
        }
        let ctx = |seed| call.context(seed, &device);
        let victim = victim.map(|params| {
            let inputs = hemlock_victim::Inputs {
                features: data.features(),
                target: Some(target.clone()),
                victim_features: None,
                dataset: None,
                extractor: None,
                victim_extractor: None,
            };
            hemlock_victim::Stage::run(&params, inputs, &ctx(seed_of::<hemlock_victim::Stage>(&params, seed)))
        });
        let victim = victim.transpose()?;
        let defence = defence.map(|params| {
            let inputs = hemlock_defence::Inputs {
                features: data.features(),
                target: target.clone(),
                victim: victim.clone(),
                victim_features: None,
                dataset: None,
                extractor: None,
                victim_extractor: None,
                poisons: None,
            };
            hemlock_defence::Stage::run(&params, inputs, &ctx(seed))
        });
        let inputs = hemlock_evaluate::Inputs {
            features: data.features(),
            target,
            victim,
            defence: defence.transpose()?,
            poison_features: Some(poisons),
            poisons: None,
            dataset: None,
            extractor: None,
            victim_features: None,
            victim_extractor: None,
        };
        Ok(hemlock_evaluate::Stage::run(&params, inputs, &ctx(seed))?)
    })?;
    let about = json!({
        "attack": found.attack, "victim": found.victim, "poisons": found.poisons,
        "poison_fraction": found.poison_fraction, "objective": found.objective, "bound": found.bound,
        "gap": found.gap, "poison_fraction_bound": found.poison_fraction_bound, "loss_bound": found.loss_bound,
        "detection": found.detection,
    });
    let mut outcomes = vec![made(py, "clean", "clean", found.outcomes.clean.clone())];
    for (TrainingSet { name, role }, outcome) in found.outcomes.others() {
        let role = serde_json::to_value(role).map_err(|e| Failed::internal(e.to_string()))?;
        outcomes.push(made(py, name, role.as_str().unwrap_or_default(), outcome.clone()));
    }
    Ok((outcomes, about.to_string()))
}
