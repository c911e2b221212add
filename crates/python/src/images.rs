//! Poisoned images: inversions of poisoned features, and attacks on pixels.

use crate::arrays::pixels;
use crate::data::GivenData;
use crate::extractors::GivenExtractor;
use crate::failure::{Failed, parameters};
use crate::features::{GivenPoisons, GivenTarget, given_poisons, given_target, seed_of};
use crate::work::Call;
use hemlock_artifact::{Pixels, PoisonFit, Poisons};
use hemlock_decoder as decoder;
use hemlock_invert as invert_stage;
use hemlock_models::Extractor;
use hemlock_perturb::FrozenExtractor;
use hemlock_poison_images as poison_images;
use hemlock_stage::{ErrorKind, Need, Stage, StageError};
use ndarray::{Array2, ArrayView1, Axis, Slice};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArray4};
use pyo3::prelude::*;
use serde_json::json;

/// Poisoned images for Python: the images; the pixels, if they were not clipped; labels; base indices; the measures of
/// every image `[m, 8]`, and the passes that it took; features as a head sees them; and the rest in JSON.
type MadeImages<'py> = (
    Bound<'py, PyArray4<u8>>,
    Option<Bound<'py, PyArray4<f32>>>,
    Bound<'py, PyArray1<u32>>,
    Bound<'py, PyArray1<u32>>,
    Bound<'py, PyArray2<f32>>,
    Bound<'py, PyArray1<u32>>,
    Bound<'py, PyArray2<f32>>,
    String,
);

/// Poisoned images, and their features.
type Found = (Poisons, Array2<f32>);

/// Features of poisoned images, as a victim sees them.
fn with_features(
    poisons: Poisons,
    given: &GivenExtractor,
    extractor: &Extractor,
    call: &Call,
) -> Result<Found, Failed> {
    let normalization = given.normalization_of(extractor.feature_dim());
    let features = match &poisons.pixels {
        Some(pixels) => {
            let frozen = FrozenExtractor::new(extractor, &normalization);
            frozen.features(pixels.view(), &call.context(0, given.device()))?
        }
        None => given.extract(extractor, &Pixels::from(poisons.images.clone()), call)?,
    };
    Ok((poisons, features))
}

fn made(py: Python<'_>, (poisons, features): Found) -> PyResult<MadeImages<'_>> {
    let info = json!({
        "attack": poisons.attack, "method": poisons.method, "objective": poisons.objective,
        "clean_label": poisons.clean_label, "poison_fraction": poisons.poison_fraction,
        "clean_nearest": poisons.clean_nearest, "relative_distance": poisons.relative_distance(),
        "outside": poisons.outside(), "outliers": poisons.outliers(),
        "outliers_of_features": poisons.outliers_of_features, "curve": poisons.curve, "refined": poisons.refined,
        "measures": PoisonFit::NUMBERS,
        "outlier": poisons.fits.iter().map(PoisonFit::is_outlier).collect::<Vec<_>>(),
    });
    let fits: Vec<f32> = poisons.fits.iter().flat_map(PoisonFit::numbers).collect();
    let fits = Array2::from_shape_vec((poisons.fits.len(), PoisonFit::NUMBERS.len()), fits);
    let fits = fits.map_err(|e| Failed::internal(e.to_string()))?;
    let passes: Vec<u32> = poisons.fits.iter().map(|fit| fit.passes).collect();
    Ok((
        poisons.images.into_pyarray(py),
        poisons.pixels.map(|pixels| pixels.into_pyarray(py)),
        poisons.labels.into_pyarray(py),
        poisons.base_index.into_pyarray(py),
        fits.into_pyarray(py),
        passes.into_pyarray(py),
        features.into_pyarray(py),
        info.to_string(),
    ))
}

/// Images whose features are compared with those that were given.
const COMPARED: usize = 2;

/// How far features may be from those that were given, relative to their norm: devices round, and normalisations differ
/// by more.
const APART: f32 = 0.02;

/// Checks that the features that were given are those of the extractor with its normalisation.
fn same_features(
    given: &GivenExtractor,
    data: &GivenData,
    (extractor, images): (&Extractor, &Pixels),
    call: &Call,
) -> Result<(), Failed> {
    let features = data.features().train.features;
    let (known, d) = (features.view(), extractor.feature_dim());
    if known.ncols() != d {
        let message = format!("`features` has {} features, and the extractor makes {d}", known.ncols());
        return Err(Failed::data(message));
    }
    let first = Slice::from(..images.view().dim().0.min(COMPARED));
    let made = given.extract(extractor, &images.view().slice_axis(Axis(0), first).to_owned().into(), call)?;
    for (row, (made, known)) in made.rows().into_iter().zip(known.rows()).enumerate() {
        let norm = |z: ArrayView1<'_, f32>| z.dot(&z).sqrt();
        if norm((&made - &known).view()) > APART * norm(known) + f32::EPSILON {
            let message = format!(
                "`features` are not those that the extractor makes of the images: row {row} is another one; expected \
                 `extractor(images)`, with the normalisation that the attacked features have"
            );
            return Err(Failed::data(message));
        }
    }
    Ok(())
}

/// Whether an inversion with these parameters reads a role.
fn reads(params: &invert_stage::Params, role: &str) -> bool {
    let mut ports = <invert_stage::Inputs as hemlock_stage::Inputs>::PORTS.iter();
    ports.any(|port| port.role == role && invert_stage::Stage::need(params, port) == Need::Required)
}

/// Makes images of poisoned features: what the stage `invert` does. `tables` are those of the inversion and of a
/// decoder, which is trained if the inversion reads one.
#[pyfunction]
#[pyo3(signature = (extractor, data, images, poisons, aim, tables, seed, show=None))]
#[allow(clippy::too_many_arguments, reason = "the native half of a function of Python with keywords")]
pub fn invert<'py>(
    py: Python<'py>,
    extractor: &Bound<'py, GivenExtractor>,
    data: &Bound<'py, GivenData>,
    images: &Bound<'py, PyArray4<u8>>,
    poisons: GivenPoisons<'py>,
    aim: Option<GivenTarget<'py>>,
    tables: (String, Option<String>),
    seed: u64,
    show: Option<Py<PyAny>>,
) -> PyResult<MadeImages<'py>> {
    let (given, data, images) = (extractor.get(), data.get(), pixels(images)?);
    let params = parameters::<invert_stage::Params>(&tables.0)?;
    let training = tables.1.map(|table| parameters::<decoder::Params>(&table)).transpose()?;
    let (poison_features, target) = (given_poisons(&poisons)?, aim.as_ref().map(given_target).transpose()?);
    let missing = |what: &str| Failed::new(ErrorKind::Params, format!("the inversion needs a {what}; give `{what}=`"));
    let found = given.with(py, show.as_ref(), (&images, true), |call, extractor| {
        same_features(given, data, (extractor, &images), call)?;
        let normalization = given.normalization_of(extractor.feature_dim());
        let features = || data.normalized(normalization.clone());
        let dataset = data.dataset(&images);
        let ctx = call.context(seed_of::<invert_stage::Stage>(&params, seed), given.device());
        let decoder = match (reads(&params, "decoder"), &training) {
            (false, _) => None,
            (true, None) => return Err(missing("decoder")),
            (true, Some(training)) => Some(decoder::train(training, extractor, dataset.clone(), features(), &ctx)?),
        };
        let target = if reads(&params, "target") { Some(target.ok_or_else(|| missing("target"))?) } else { None };
        let known =
            invert_stage::Known { train: &dataset.train, features: &features(), poison_features: &poison_features };
        let made = invert_stage::invert(&params, extractor, known, (decoder.as_ref(), target.as_ref()), &ctx)?;
        with_features(made, given, extractor, call)
    })?;
    made(py, found)
}

/// Finds poisoned images in pixels: what the stage `poison-images` does.
#[pyfunction]
#[pyo3(signature = (extractor, data, images, aim, table, seed, show=None))]
#[allow(clippy::too_many_arguments, reason = "the native half of a function of Python with keywords")]
pub fn attack_images<'py>(
    py: Python<'py>,
    extractor: &Bound<'py, GivenExtractor>,
    data: &Bound<'py, GivenData>,
    images: &Bound<'py, PyArray4<u8>>,
    aim: GivenTarget<'py>,
    table: &str,
    seed: u64,
    show: Option<Py<PyAny>>,
) -> PyResult<MadeImages<'py>> {
    let (given, data, images) = (extractor.get(), data.get(), pixels(images)?);
    let (params, target) = (parameters::<poison_images::Params>(table)?, given_target(&aim)?);
    let found = given.with(py, show.as_ref(), (&images, true), |call, extractor| {
        same_features(given, data, (extractor, &images), call)?;
        let features = data.normalized(given.normalization_of(extractor.feature_dim()));
        let ctx = call.context(seed_of::<poison_images::Stage>(&params, seed), given.device());
        let train = data.dataset(&images).train;
        let made = poison_images::poison(&params, extractor, &train, (&features, &target), &ctx);
        let made = made.map_err(|e: StageError| Failed::from(e))?;
        with_features(made, given, extractor, call)
    })?;
    made(py, found)
}
