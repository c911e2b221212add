//! Functions of Python's that compute features and gradients.

use crate::failure::Failed;
use hemlock_models::{Description, Extractor, ExtractorFunctions, Fault, KeptBackward, open_device};
use hemlock_stage::{StageError, VALUE, short};
use ndarray::{ArrayView4, Axis, Slice};
use numpy::{PyArray1, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use std::sync::{Arc, Mutex, PoisonError};

/// Images that an extractor is tried on before the work begins.
const TRIED: usize = 2;

/// The first exception that a function raised.
pub(crate) type Raised = Arc<Mutex<Option<PyErr>>>;

/// What Python gave as an extractor.
pub(crate) struct GivenFunctions {
    /// An object with the methods `forward(images)`, `forward_kept(images)` and `vjp(images, gradient)`.
    pub(crate) object: Py<PyAny>,
    pub(crate) name: String,
    /// Number of forward passes that it keeps at once.
    pub(crate) keep: usize,
}

/// The methods of an extractor of Python's, of which one at a time is called: not every network may be used by several
/// threads.
#[derive(Debug)]
struct Methods {
    object: Py<PyAny>,
    turn: Mutex<()>,
    raised: Raised,
}

/// An extractor of Python's, for images of one size.
#[derive(Debug)]
struct PythonFunctions {
    about: Description,
    methods: Arc<Methods>,
}

/// Why a method has no answer.
enum Unanswered {
    Raised(PyErr),
    Fault(Fault),
}

impl From<PyErr> for Unanswered {
    fn from(e: PyErr) -> Self {
        Self::Raised(e)
    }
}

impl Methods {
    /// Calls `ask` with the interpreter's lock, which nothing else here holds. `request` names what is asked for.
    fn ask<T>(
        &self,
        request: &'static str,
        ask: impl FnOnce(Python<'_>, &Bound<'_, PyAny>) -> Result<T, Unanswered>,
    ) -> Result<T, Fault> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        Python::attach(|py| {
            ask(py, self.object.bind(py)).map_err(|unanswered| match unanswered {
                Unanswered::Fault(fault) => fault,
                Unanswered::Raised(e) => {
                    let message = short(&words(py, &e), 4 * VALUE).into_owned();
                    self.raised.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                    Fault::Refused { request, message }
                }
            })
        })
    }
}

/// An exception in words: those of an error of Hemlock's, and otherwise with the type before them.
fn words(py: Python<'_>, e: &PyErr) -> String {
    let said = e.value(py).to_string();
    if e.is_instance_of::<crate::failure::Error>(py) {
        return said;
    }
    let kind = e.get_type(py).qualname().map_or_else(|_| "an exception".to_owned(), |name| name.to_string());
    format!("{kind}: {said}")
}

/// Numbers as an array of NumPy's.
fn array<'py>(py: Python<'py>, numbers: &[f32], shape: &[usize]) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    PyArray1::from_slice(py, numbers).reshape(shape)
}

/// The numbers of an answer. Its shape has to be the expected one; where that is 0, any number will do.
fn numbers(
    request: &'static str,
    answer: &Bound<'_, PyAny>,
    expected: &[usize],
) -> Result<(Vec<f32>, Vec<usize>), Unanswered> {
    let wrong = |found: String| {
        let any = |length: &usize| if *length == 0 { "d".to_owned() } else { length.to_string() };
        let expected = expected.iter().map(any).collect::<Vec<_>>().join(", ");
        Unanswered::Fault(Fault::Shape { request, found, expected: format!("the shape [{expected}]") })
    };
    let Ok(array) = answer.cast::<PyArrayDyn<f32>>() else {
        return Err(wrong(format!("an object of the type {}", answer.get_type().qualname()?)));
    };
    let found = array.shape().to_vec();
    let fits = found.len() == expected.len()
        && found.iter().zip(expected).all(|(found, expected)| *found > 0 && (*expected == 0 || found == expected));
    if !fits {
        return Err(wrong(format!("the shape {found:?}")));
    }
    match array.to_vec() {
        Ok(numbers) => Ok((numbers, found)),
        Err(_) => Err(wrong("an array that is not in C order".to_owned())),
    }
}

impl PythonFunctions {
    fn shape(&self, pixels: &[f32]) -> [usize; 4] {
        let [height, width] = self.about.image_size;
        [pixels.len() / (3 * height * width), 3, height, width]
    }

    /// Asks for features `[n, d]`; any number of them if `features` is 0.
    fn features(&self, pixels: &[f32], features: usize) -> Result<(Vec<f32>, Vec<usize>), Fault> {
        let shape = self.shape(pixels);
        self.methods.ask("forward", |py, object| {
            let answer = object.call_method1("forward", (array(py, pixels, &shape)?,))?;
            numbers("forward", &answer, &[shape[0], features])
        })
    }
}

impl ExtractorFunctions for PythonFunctions {
    fn about(&self) -> &Description {
        &self.about
    }

    fn forward(&self, pixels: &[f32]) -> Result<Vec<f32>, Fault> {
        Ok(self.features(pixels, self.about.features)?.0)
    }

    fn forward_kept(&self, pixels: &[f32]) -> Result<(Vec<f32>, Option<KeptBackward>), Fault> {
        let (shape, d) = (self.shape(pixels), self.about.features);
        let (features, back) = self.methods.ask("forward", |py, object| {
            let answer = object.call_method1("forward_kept", (array(py, pixels, &shape)?,))?;
            let (features, back): (Bound<'_, PyAny>, Option<Py<PyAny>>) = answer.extract()?;
            Ok((numbers("forward", &features, &[shape[0], d])?.0, back))
        })?;
        let methods = Arc::clone(&self.methods);
        let kept = back.map(|back| -> KeptBackward {
            Box::new(move |gradient: &[f32]| {
                methods.ask("vjp", |py, _| {
                    let answer = back.call1(py, (array(py, gradient, &[shape[0], d])?,))?;
                    Ok(numbers("vjp", answer.bind(py), &shape)?.0)
                })
            })
        });
        Ok((features, kept))
    }

    fn vjp(&self, pixels: &[f32], grad_features: &[f32]) -> Result<Vec<f32>, Fault> {
        let (shape, d) = (self.shape(pixels), self.about.features);
        self.methods.ask("vjp", |py, object| {
            let given = (array(py, pixels, &shape)?, array(py, grad_features, &[shape[0], d])?);
            Ok(numbers("vjp", &object.call_method1("vjp", given)?, &shape)?.0)
        })
    }
}

impl GivenFunctions {
    /// An extractor for images of this size, tried on the first of them: the number of features is not known before.
    /// `gradients`: the work needs gradients, too.
    pub(crate) fn open(
        &self,
        images: ArrayView4<'_, u8>,
        device: &str,
        gradients: bool,
        raised: &Raised,
    ) -> Result<Extractor, Failed> {
        let (n, _, height, width) = images.dim();
        let first = images.slice_axis(Axis(0), Slice::from(..n.min(TRIED)));
        let pixels: Vec<f32> = first.iter().map(|p| f32::from(*p) / 255.0).collect();
        let about = Description { name: self.name.clone(), features: 0, image_size: [height, width], keep: self.keep };
        let object = Python::attach(|py| self.object.clone_ref(py));
        let methods = Arc::new(Methods { object, turn: Mutex::default(), raised: Arc::clone(raised) });
        let mut functions = PythonFunctions { about, methods };
        let (_, shape) = functions.features(&pixels, 0).map_err(|fault| {
            let name = self.name.clone();
            crate::failure::failed(hemlock_models::FunctionError { name, fault })
        })?;
        functions.about.features = shape[1];
        let extractor = Extractor::functions(Arc::new(functions), &open_device(device)?);
        if gradients {
            extractor.vjp(&pixels, |_, features| features.to_vec()).map_err(StageError::from)?;
        }
        Ok(extractor)
    }
}
