//! Extractors: networks of Hemlock's, and functions of Python's.

use crate::arrays::pixels;
use crate::failure::{Failed, failed, parameters};
use crate::functions::{GivenFunctions, Raised};
use crate::work::{Call, work};
use hemlock_artifact::{ExtractorArtifact, Normalization, Pixels};
use hemlock_features::{Normalize, normalization};
use hemlock_models::{Extractor, extract_into, open_network};
use hemlock_pretrain::PretrainConfig;
use hemlock_stage::{ErrorKind, Stage};
use hemlock_store::{Key, Store};
use ndarray::{Array2, ArrayView4};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArray4, PyArrayMethods};
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// A frozen extractor, and the normalisation of its features.
#[pyclass(frozen, name = "Extractor", module = "hemlock._hemlock")]
pub struct GivenExtractor {
    body: Arc<Body>,
    /// The device of a network, or of networks that work with functions.
    device: String,
    normalization: Option<Normalization>,
}

enum Body {
    Network(Box<StoredNetwork>),
    Functions(GivenFunctions),
}

struct StoredNetwork {
    artifact: ExtractorArtifact,
    /// The network, once it was opened.
    opened: Mutex<Option<Extractor>>,
}

/// Shift and scale of features, or the name of their normalisation.
type Normal<'py> = (String, Option<(Bound<'py, PyArray1<f32>>, Bound<'py, PyArray1<f32>>)>);

#[pymethods]
impl GivenExtractor {
    /// A network from a file or a folder of weights: what the stage `pretrain` does with `method = "import"`.
    #[staticmethod]
    #[pyo3(signature = (table, device, show=None))]
    fn imported(py: Python<'_>, table: &str, device: String, show: Option<Py<PyAny>>) -> PyResult<Self> {
        let config = parameters::<PretrainConfig>(table)?;
        let artifact = work(py, show.as_ref(), |call| {
            let inputs = hemlock_pretrain::Inputs { dataset: None };
            Ok(hemlock_pretrain::Stage::run(&config, inputs, &call.context(0, &device))?)
        })?;
        Ok(Self::network(artifact, device))
    }

    /// The extractor that a pipeline has made, by its key.
    #[staticmethod]
    fn stored(py: Python<'_>, root: PathBuf, key: &str, device: String) -> PyResult<Self> {
        let key: Key = key.parse().map_err(|e| Failed::new(ErrorKind::Params, format!("`{key}`: {e}")))?;
        let artifact = work(py, None, move |_| {
            let store = Store::new(&root);
            let manifest = store.verify(hemlock_pretrain::Stage::NAME, &key).map_err(failed)?;
            let artifact: ExtractorArtifact = store.read(&manifest).map_err(failed)?;
            match &artifact.process {
                None => Ok(artifact),
                Some(process) => {
                    let message = format!("the extractor is the process `{}`; give the model itself", process.name);
                    Err(Failed::new(ErrorKind::Params, message))
                }
            }
        })?;
        Ok(Self::network(artifact, device))
    }

    /// An extractor that is an object with the methods `forward`, `forward_kept` and `vjp`.
    #[staticmethod]
    fn functions(object: Py<PyAny>, name: String, keep: usize, device: String) -> Self {
        let body = Body::Functions(GivenFunctions { object, name, keep });
        Self { body: Arc::new(body), device, normalization: None }
    }

    /// The same extractor, whose features are standardised: by the features `train` that it makes of training images.
    fn standardized(&self, train: &Bound<'_, PyArray2<f32>>) -> PyResult<Self> {
        let train = train.readonly();
        let made = normalization(Normalize::Standardize, train.as_array());
        let made = made.map_err(|e| Failed::new(ErrorKind::Numeric, format!("{e}; check the extractor")))?;
        Ok(self.with_normalization(made))
    }

    /// The same extractor, whose features are divided by their L2 norm.
    fn of_length_one(&self) -> Self {
        self.with_normalization(Normalization::L2)
    }

    /// The name of the normalisation, and shift and scale, by which `(z - shift) * scale` is what a head sees.
    #[getter]
    fn normalization<'py>(&self, py: Python<'py>) -> Normal<'py> {
        match &self.normalization {
            None => ("none".to_owned(), None),
            Some(Normalization::L2) => ("l2".to_owned(), None),
            Some(Normalization::Affine { shift, scale }) => {
                let [shift, scale] = [shift, scale].map(|values| PyArray1::from_slice(py, values));
                ("standardize".to_owned(), Some((shift, scale)))
            }
        }
    }

    /// The architecture and the size of the images of a network.
    #[getter]
    fn network_of(&self) -> Option<(String, usize)> {
        match &*self.body {
            Body::Network(network) => Some((network.artifact.arch.clone(), network.artifact.image_size)),
            Body::Functions(_) => None,
        }
    }
}

impl GivenExtractor {
    fn network(artifact: ExtractorArtifact, device: String) -> Self {
        let body = Body::Network(Box::new(StoredNetwork { artifact, opened: Mutex::default() }));
        Self { body: Arc::new(body), device, normalization: None }
    }

    fn with_normalization(&self, normalization: Normalization) -> Self {
        Self { body: Arc::clone(&self.body), device: self.device.clone(), normalization: Some(normalization) }
    }

    /// The device that networks are on.
    pub(crate) fn device(&self) -> &str {
        &self.device
    }

    /// The normalisation of `dim` features.
    pub(crate) fn normalization_of(&self, dim: usize) -> Normalization {
        self.normalization.clone().unwrap_or_else(|| Normalization::identity(dim))
    }

    fn open(&self, images: ArrayView4<'_, u8>, gradients: bool, raised: &Raised) -> Result<Extractor, Failed> {
        let network = match &*self.body {
            Body::Network(network) => network,
            Body::Functions(functions) => return functions.open(images, &self.device, gradients, raised),
        };
        let mut opened = network.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = &*opened {
            return Ok(opened.clone());
        }
        Ok(opened.insert(open_network(&network.artifact, &self.device)?).clone())
    }

    /// Does work with the extractor, opened for these images. If a function of Python's raised something, that is the
    /// cause of the error. `gradients`: the work needs gradients, too.
    pub(crate) fn with<T: Send>(
        &self,
        py: Python<'_>,
        show: Option<&Py<PyAny>>,
        (images, gradients): (&Pixels, bool),
        go: impl FnOnce(&Call, &Extractor) -> Result<T, Failed> + Send,
    ) -> PyResult<T> {
        let raised = Raised::default();
        let done = work(py, show, |call| {
            let extractor = self.open(images.view(), gradients, &raised)?;
            call.check()?;
            go(call, &extractor)
        });
        done.inspect_err(|e| {
            let cause = raised.lock().unwrap_or_else(PoisonError::into_inner).take();
            if cause.is_some() {
                e.set_cause(py, cause);
            }
        })
    }

    /// Features of images `[n, d]`, normalised.
    pub(crate) fn extract(&self, extractor: &Extractor, images: &Pixels, call: &Call) -> Result<Array2<f32>, Failed> {
        let images = images.view();
        let n = images.dim().0;
        let mut features = Array2::zeros((n, extractor.feature_dim()));
        let bar = hemlock_stage::Progress::start(&call.bars, "features", n as u64, "images");
        let ctx = call.context(0, &self.device);
        extract_into(extractor, images, features.view_mut(), &ctx, &|done| bar.at(done as u64))?;
        if let Some(normalization) = &self.normalization {
            normalization.apply(features.view_mut());
        }
        Ok(features)
    }
}

/// Features `[n, d]` of images, as a head sees them.
#[pyfunction]
#[pyo3(signature = (extractor, images, show=None))]
pub fn features<'py>(
    py: Python<'py>,
    extractor: &Bound<'py, GivenExtractor>,
    images: &Bound<'py, PyArray4<u8>>,
    show: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let (given, images) = (extractor.get(), pixels(images)?);
    let made =
        given.with(py, show.as_ref(), (&images, false), |call, extractor| given.extract(extractor, &images, call))?;
    Ok(made.into_pyarray(py))
}
