//! Attacks on features, controls beside them, and bounds of what they can do.

use crate::data::GivenData;
use crate::failure::{Failed, failed, parameters};
use crate::work::{PROCESSOR, work};
use hemlock_artifact::{AttackSpec, Bounds, CurvePoint, PathPoint, PoisonFeatures, SteppedBack, TargetParams};
use hemlock_attack::poison_count;
use hemlock_evaluate::Params as ControlParams;
use hemlock_head::{Head, Passes, loss_and_gradient};
use hemlock_poison_features as poison_features;
use hemlock_stage::{ParamError, Stage};
use hemlock_target_params as target_params;
use hemlock_threat::{Constraint, ConstraintKinds, LossBoundStart, loss_bound, poison_fraction_bounds};
use hemlock_victims::VictimData;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A matrix of f64, for Python.
type Matrix64<'py> = Bound<'py, PyArray2<f64>>;

/// The clean head and the target head, `[K, d + 1]`, and what else is known of them, in JSON.
pub(crate) type GivenTarget<'py> = (PyReadonlyArray2<'py, f64>, PyReadonlyArray2<'py, f64>, String);

/// What is known of a target besides its heads. Bounds that are infinite are `null`.
#[derive(Serialize, Deserialize)]
struct TargetInfo {
    weight_decay: f64,
    clean_gradient_norm: f64,
    method: String,
    constraint: String,
    path: Vec<Point>,
    stepped_back: Option<SteppedBack>,
}

/// A point of the path to a target.
#[derive(Serialize, Deserialize)]
struct Point {
    step: u32,
    radius: f64,
    loss: f64,
    gradient_norm: f64,
    poison_fraction_bound: PointBounds,
    train_accuracy: f64,
    test_accuracy: f64,
}

/// [`Bounds`], where JSON knows no infinity.
#[derive(Serialize, Deserialize)]
struct PointBounds {
    norm: Option<f64>,
    support: Option<f64>,
    certified: Option<f64>,
}

impl From<&PathPoint> for Point {
    fn from(point: &PathPoint) -> Self {
        let Bounds { norm, support, certified } = point.poison_fraction_bound;
        let finite = |x: f64| Some(x).filter(|x| x.is_finite());
        Self {
            step: point.step,
            radius: point.radius,
            loss: point.loss,
            gradient_norm: point.gradient_norm,
            poison_fraction_bound: PointBounds {
                norm: finite(norm),
                support: finite(support),
                certified: finite(certified),
            },
            train_accuracy: point.train_accuracy,
            test_accuracy: point.test_accuracy,
        }
    }
}

impl From<Point> for PathPoint {
    fn from(point: Point) -> Self {
        let PointBounds { norm, support, certified } = point.poison_fraction_bound;
        let whole = |x: Option<f64>| x.unwrap_or(f64::INFINITY);
        Self {
            step: point.step,
            radius: point.radius,
            loss: point.loss,
            gradient_norm: point.gradient_norm,
            poison_fraction_bound: Bounds { norm: whole(norm), support: whole(support), certified: whole(certified) },
            train_accuracy: point.train_accuracy,
            test_accuracy: point.test_accuracy,
        }
    }
}

/// The target that Python holds.
pub(crate) fn given_target((clean, target, info): &GivenTarget<'_>) -> Result<TargetParams, Failed> {
    let head = |packed: &PyReadonlyArray2<f64>| Head::from_packed(packed.as_array().to_owned()).map_err(failed);
    let info: TargetInfo =
        serde_json::from_str(info).map_err(|e| Failed::data(format!("the target is not what made it: {e}")))?;
    Ok(TargetParams {
        clean: head(clean)?,
        target: head(target)?,
        weight_decay: info.weight_decay,
        clean_gradient_norm: info.clean_gradient_norm,
        method: info.method,
        constraint: info.constraint,
        path: info.path.into_iter().map(PathPoint::from).collect(),
        stepped_back: info.stepped_back,
    })
}

/// The seed of a stage's run: 0 for one that draws nothing, as in pipelines.
pub(crate) fn seed_of<S: Stage>(params: &S::Params, seed: u64) -> u64 {
    if S::seeded(params) { seed } else { 0 }
}

fn text(value: &impl Serialize) -> Result<String, Failed> {
    serde_json::to_string(value).map_err(|e| Failed::internal(e.to_string()))
}

/// Trains the clean head, and makes the target head: what the stage `target-params` does.
#[pyfunction]
#[pyo3(signature = (data, table, seed, show=None))]
pub fn target<'py>(
    py: Python<'py>,
    data: &Bound<'py, GivenData>,
    table: &str,
    seed: u64,
    show: Option<Py<PyAny>>,
) -> PyResult<(Matrix64<'py>, Matrix64<'py>, String)> {
    let (params, data) = (parameters::<target_params::Params>(table)?, data.get());
    let made = work(py, show.as_ref(), move |call| {
        let inputs = target_params::Inputs { features: data.features() };
        let seed = seed_of::<target_params::Stage>(&params, seed);
        Ok(target_params::Stage::run(&params, inputs, &call.context(seed, PROCESSOR))?)
    })?;
    let info = text(&TargetInfo {
        weight_decay: made.weight_decay,
        clean_gradient_norm: made.clean_gradient_norm,
        method: made.method,
        constraint: made.constraint,
        path: made.path.iter().map(Point::from).collect(),
        stepped_back: made.stepped_back,
    })?;
    let heads = [made.clean, made.target].map(|head| head.into_packed().into_pyarray(py));
    let [clean, target] = heads;
    Ok((clean, target, info))
}

/// What is known of poisons besides their arrays. Poisons that no attack of Hemlock's made have neither a `spec` nor an
/// `objective`.
#[derive(Serialize, Deserialize)]
pub(crate) struct PoisonInfo {
    spec: Option<AttackSpec>,
    clean_label: bool,
    poison_fraction: f64,
    objective: Option<f64>,
    bound: Option<f64>,
    gap: Option<f64>,
    stopped: String,
    curve: Vec<CurvePoint>,
}

/// The attack of poisons that Python was given.
const GIVEN: &str = "given";

/// Features `[m, d]`, labels and base indices of poisons, and what else is known of them, in JSON.
pub(crate) type GivenPoisons<'py> =
    (PyReadonlyArray2<'py, f32>, PyReadonlyArray1<'py, u32>, PyReadonlyArray1<'py, u32>, String);

/// The poisons that Python holds.
pub(crate) fn given_poisons((features, labels, base, info): &GivenPoisons<'_>) -> Result<PoisonFeatures, Failed> {
    let info: PoisonInfo =
        serde_json::from_str(info).map_err(|e| Failed::data(format!("the poisons are not what made them: {e}")))?;
    Ok(PoisonFeatures {
        features: features.as_array().to_owned(),
        labels: labels.as_array().to_vec(),
        base_index: base.as_array().to_vec(),
        spec: info.spec.unwrap_or_else(|| AttackSpec {
            attack: GIVEN.to_owned(),
            parameters: serde_json::Map::new(),
            seed: 0,
            constraint: ConstraintKinds::default(),
            quantile: quantile(),
            neighbors: neighbors(),
            filter: None,
        }),
        clean_label: info.clean_label,
        poison_fraction: info.poison_fraction,
        objective: info.objective.unwrap_or(f64::NAN),
        bound: info.bound,
        gap: info.gap,
        stopped: info.stopped,
        curve: info.curve,
    })
}

/// What [`attack`] returns: features, labels, base indices, and the rest in JSON.
type Made<'py> = (Bound<'py, PyArray2<f32>>, Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<u32>>, String);

/// Finds poisoned features: what the stage `poison-features` does.
#[pyfunction]
#[pyo3(signature = (data, aim, table, seed, show=None))]
pub fn attack<'py>(
    py: Python<'py>,
    data: &Bound<'py, GivenData>,
    aim: GivenTarget<'py>,
    table: &str,
    seed: u64,
    show: Option<Py<PyAny>>,
) -> PyResult<Made<'py>> {
    let (params, data, target) = (parameters::<poison_features::Params>(table)?, data.get(), given_target(&aim)?);
    let made = work(py, show.as_ref(), move |call| {
        let inputs = poison_features::Inputs { features: data.features(), target };
        let seed = seed_of::<poison_features::Stage>(&params, seed);
        Ok(poison_features::Stage::run(&params, inputs, &call.context(seed, PROCESSOR))?)
    })?;
    let info = text(&PoisonInfo {
        spec: Some(made.spec),
        clean_label: made.clean_label,
        poison_fraction: made.poison_fraction,
        objective: Some(made.objective),
        bound: made.bound,
        gap: made.gap,
        stopped: made.stopped,
        curve: made.curve,
    })?;
    Ok((made.features.into_pyarray(py), made.labels.into_pyarray(py), made.base_index.into_pyarray(py), info))
}

/// One control: its name, and the features and labels that it adds.
type MadeControl<'py> = (String, Matrix64<'py>, Bound<'py, PyArray1<u32>>);

/// Makes the training sets of controls beside poisons. `size` is the number of poisons, or the poison fraction.
#[pyfunction]
#[pyo3(signature = (data, aim, table, size, seed, show=None))]
pub fn controls<'py>(
    py: Python<'py>,
    data: &Bound<'py, GivenData>,
    aim: GivenTarget<'py>,
    table: &str,
    size: (Option<usize>, f64),
    seed: u64,
    show: Option<Py<PyAny>>,
) -> PyResult<Vec<MadeControl<'py>>> {
    let (params, data, target) = (parameters::<ControlParams>(table)?, data.get(), given_target(&aim)?);
    let made = work(py, show.as_ref(), move |call| {
        let (ctx, features) = (call.context(seed, PROCESSOR), data.features());
        let weight_decay = target.weight_decay;
        let (count, poison_fraction) = size;
        let clean = features.train.labels.len();
        let count = match count {
            Some(count) => count,
            None => {
                ParamError::share("poison_fraction", poison_fraction)?;
                poison_count(poison_fraction, clean)?
            }
        };
        let data = VictimData::of_features(&features, weight_decay, &ctx);
        Ok(hemlock_evaluate::controls(&params, &data, &target.clean, count)?)
    })?;
    let control = |(name, change): (String, hemlock_victims::TrainingSetChange)| {
        (name, change.features.into_pyarray(py), change.labels.into_pyarray(py))
    };
    Ok(made.into_iter().map(control).collect())
}

/// The constraint of bounds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BoundTable {
    #[serde(default)]
    constraint: ConstraintKinds,
    #[serde(default = "quantile")]
    quantile: f64,
    #[serde(default = "neighbors")]
    neighbors: u32,
}

fn quantile() -> f64 {
    0.95
}

fn neighbors() -> u32 {
    5
}

/// Bounds of what poisons within a constraint can do, in JSON: lower bounds of the poison fraction that makes each head
/// stationary, and, with a number of poisons, an upper bound of the clean loss of any head that is trained on them.
#[pyfunction]
#[pyo3(signature = (data, clean, heads, table, weight_decay, poisons=None, show=None))]
#[allow(clippy::too_many_arguments, reason = "the native half of a function of Python with keywords")]
pub fn bounds(
    py: Python<'_>,
    data: &Bound<'_, GivenData>,
    clean: PyReadonlyArray2<'_, f64>,
    heads: Vec<PyReadonlyArray2<'_, f64>>,
    table: &str,
    weight_decay: f64,
    poisons: Option<usize>,
    show: Option<Py<PyAny>>,
) -> PyResult<String> {
    let head = |packed: &PyReadonlyArray2<f64>| Head::from_packed(packed.as_array().to_owned()).map_err(failed);
    let (data, clean) = (data.get(), head(&clean)?);
    let heads = heads.iter().map(head).collect::<Result<Vec<_>, _>>()?;
    let table: Value = serde_json::from_str(table).map_err(|e| Failed::internal(e.to_string()))?;
    let table: BoundTable = hemlock_stage::read(&table).map_err(Failed::from)?;
    let found = work(py, show.as_ref(), move |call| {
        ParamError::share("quantile", table.quantile)?;
        ParamError::at_least_one("neighbors", table.neighbors)?;
        let features = data.features();
        let train = features.train.samples(features.classes.len()).map_err(failed)?;
        let constraint = Constraint::new(&table.constraint, train, table.quantile, table.neighbors as usize)
            .map_err(|e| ParamError::new("constraint", e.to_string()))?;
        let mut of_heads = Vec::new();
        for head in &heads {
            call.check()?;
            let (_, gradient) = loss_and_gradient(head, &[train], weight_decay).map_err(failed)?;
            let bounds = poison_fraction_bounds(head, train, &constraint, (&gradient, weight_decay)).map_err(failed)?;
            of_heads.push(Bounds::from(bounds));
        }
        let loss = poisons.map(|poisons| {
            let start = LossBoundStart { head: &clean, preconditioner: None };
            loss_bound(&Passes::new(&[train]), &constraint, poisons, weight_decay, start, &|_, _| call.goes_on())
                .map_err(failed)
        });
        let loss = loss.transpose()?;
        call.check()?;
        text(&json!({ "poison_fraction": of_heads, "loss": loss }))
    })?;
    Ok(found)
}
