//! The native half of the module `hemlock` of Python. Its functions take arrays of NumPy's and parameters in JSON,
//! which the types that read specs parse. The other half, `python/hemlock`, makes these of what users give.

mod arrays;
mod data;
mod defences;
mod extractors;
mod failure;
mod features;
mod functions;
mod head;
mod images;
mod measured;
mod pipelines;
mod progress;
mod work;
mod written;

use pyo3::prelude::*;

/// The native half of the module.
#[pymodule]
mod _hemlock {
    #[pymodule_export]
    use super::data::GivenData;
    #[pymodule_export]
    use super::defences::{certify, filter};
    #[pymodule_export]
    use super::extractors::{GivenExtractor, features};
    #[pymodule_export]
    use super::failure::Error;
    #[pymodule_export]
    use super::features::{attack, bounds, controls, target};
    #[pymodule_export]
    use super::head::{fit, scores};
    #[pymodule_export]
    use super::images::{attack_images, invert};
    #[pymodule_export]
    use super::measured::evaluate;
    #[pymodule_export]
    use super::pipelines::{artifacts, command, report, results, run};
    #[pymodule_export]
    use super::written::save_dataset;
    use super::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
