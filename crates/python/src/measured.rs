//! What victims are worth after training on poisons and on controls.

use crate::data::GivenData;
use crate::failure::{Failed, parameters};
use crate::features::{GivenPoisons, GivenTarget, given_poisons, given_target, seed_of};
use crate::work::{Call, work};
use hemlock_artifact::{Defence, Evaluation, Outcome, PoisonFeatures, TargetParams, Victim};
use hemlock_defences::DefenceSpec;
use hemlock_stage::{ErrorKind, Stage, StageError};
use hemlock_victims::VictimSpec;
use numpy::{IntoPyArray, PyArray1, PyArray2};
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

/// What an evaluation is made of.
struct Asked<'a> {
    data: &'a GivenData,
    target: TargetParams,
    poisons: PoisonFeatures,
    victim: Option<VictimSpec>,
    defence: Option<DefenceSpec>,
    params: hemlock_evaluate::Params,
    seed: u64,
    device: String,
}

impl Asked<'_> {
    /// Refuses what needs images.
    fn check(&self) -> Result<(), Failed> {
        let refuse = |message: String| Err(Failed::new(ErrorKind::Params, message));
        if let Some(victim) = self.victim.as_ref().filter(|victim| victim.victim().reads_images()) {
            let kind = victim.kind();
            return refuse(format!(
                "`victim`: `{kind}` trains on images, and these are features; expected another kind"
            ));
        }
        if let Some(defence) = self.defence.as_ref().filter(|defence| defence.transform().is_some()) {
            let kind = defence.kind.name();
            return refuse(format!("`defence`: `{kind}` changes images, and these are features; expected a filter"));
        }
        Ok(())
    }

    fn victim(&self, call: &Call) -> Result<Option<Victim>, StageError> {
        let Some(params) = &self.victim else { return Ok(None) };
        let inputs = hemlock_victim::Inputs {
            features: self.data.features(),
            target: Some(self.target.clone()),
            victim_features: None,
            dataset: None,
            extractor: None,
            victim_extractor: None,
        };
        let seed = seed_of::<hemlock_victim::Stage>(params, self.seed);
        hemlock_victim::Stage::run(params, inputs, &call.context(seed, &self.device)).map(Some)
    }

    fn defence(&self, victim: Option<&Victim>, call: &Call) -> Result<Option<Defence>, StageError> {
        let Some(params) = &self.defence else { return Ok(None) };
        let inputs = hemlock_defence::Inputs {
            features: self.data.features(),
            target: self.target.clone(),
            victim: victim.cloned(),
            victim_features: None,
            dataset: None,
            extractor: None,
            victim_extractor: None,
            poisons: None,
        };
        hemlock_defence::Stage::run(params, inputs, &call.context(self.seed, &self.device)).map(Some)
    }

    fn evaluation(self, call: &Call) -> Result<Evaluation, Failed> {
        self.check()?;
        let victim = self.victim(call)?;
        let defence = self.defence(victim.as_ref(), call)?;
        let ctx = call.context(self.seed, &self.device);
        let inputs = hemlock_evaluate::Inputs {
            features: self.data.features(),
            target: self.target,
            victim,
            defence,
            poison_features: Some(self.poisons),
            poisons: None,
            dataset: None,
            extractor: None,
            victim_features: None,
            victim_extractor: None,
        };
        Ok(hemlock_evaluate::Stage::run(&self.params, inputs, &ctx)?)
    }
}

/// Trains a victim on clean data, on poisons and on controls, and measures it: what the stages `victim`, `defence` and
/// `evaluate` do. `tables` are theirs. Returns the outcomes, and what else the evaluation says, in JSON.
#[pyfunction]
#[pyo3(signature = (data, aim, poisons, tables, draws, show=None))]
pub fn evaluate<'py>(
    py: Python<'py>,
    data: &Bound<'py, GivenData>,
    aim: GivenTarget<'py>,
    poisons: GivenPoisons<'py>,
    tables: (Option<String>, Option<String>, String),
    draws: (u64, String),
    show: Option<Py<PyAny>>,
) -> PyResult<(Vec<MadeOutcome<'py>>, String)> {
    let (victim, defence, table) = tables;
    let (seed, device) = draws;
    let asked = Asked {
        data: data.get(),
        target: given_target(&aim)?,
        poisons: given_poisons(&poisons)?,
        victim: victim.map(|table| parameters(&table)).transpose()?,
        defence: defence.map(|table| parameters(&table)).transpose()?,
        params: parameters(&table)?,
        seed,
        device,
    };
    let found = work(py, show.as_ref(), move |call| asked.evaluation(call))?;
    let about = json!({
        "attack": found.attack, "victim": found.victim, "poisons": found.poisons,
        "poison_fraction": found.poison_fraction, "objective": found.objective, "bound": found.bound,
        "gap": found.gap, "poison_fraction_bound": found.poison_fraction_bound, "loss_bound": found.loss_bound,
        "detection": found.detection,
    });
    let mut outcomes = vec![made(py, "clean", "clean", found.outcomes.clean.clone())];
    for (set, outcome) in found.outcomes.others() {
        let role = serde_json::to_value(set.role()).map_err(|e| Failed::internal(e.to_string()))?;
        outcomes.push(made(py, &set.name, role.as_str().unwrap_or_default(), outcome.clone()));
    }
    Ok((outcomes, about.to_string()))
}
