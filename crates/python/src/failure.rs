//! Errors of Hemlock's, as exceptions of Python's.

use hemlock_stage::{ErrorKind, Failure, ParamError, Params, StageError};
use pyo3::create_exception;
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

create_exception!(hemlock, Error, PyValueError, "What Hemlock refuses, or could not do: it says which value, and why.");

/// An error on its way to Python.
pub(crate) enum Failed {
    /// An error of Hemlock's, with the class that the command line's exit code says.
    Said(&'static str, String),
    /// A stop that was asked for.
    Interrupted,
}

/// The name of a class of failures, which is the exception's `kind`.
fn name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Params => "parameters",
        ErrorKind::Data => "data",
        ErrorKind::Artifact => "artifact",
        ErrorKind::Device => "device",
        ErrorKind::Numeric => "numeric",
        ErrorKind::Interrupted => "interrupted",
        ErrorKind::Internal => "internal",
    }
}

impl Failed {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        match kind {
            ErrorKind::Interrupted => Self::Interrupted,
            kind => Self::Said(name(kind), message.into()),
        }
    }

    pub(crate) fn data(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Data, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// An error of the command line's library, with all of its causes.
    pub(crate) fn of(e: &anyhow::Error) -> Self {
        let kind = match hemlock::code(e) {
            2 => ErrorKind::Params,
            3 => ErrorKind::Data,
            4 => ErrorKind::Artifact,
            5 => ErrorKind::Device,
            130 => ErrorKind::Interrupted,
            _ => ErrorKind::Numeric,
        };
        Self::new(kind, format!("{e:#}"))
    }
}

impl From<StageError> for Failed {
    fn from(e: StageError) -> Self {
        Self::new(e.kind(), e.to_string())
    }
}

impl From<ParamError> for Failed {
    fn from(e: ParamError) -> Self {
        Self::new(ErrorKind::Params, e.to_string())
    }
}

/// An error of a library that knows its class.
pub(crate) fn failed(e: impl Failure) -> Failed {
    StageError::from(e).into()
}

impl From<Failed> for PyErr {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Interrupted => PyKeyboardInterrupt::new_err("interrupted"),
            Failed::Said("internal", message) => {
                PyRuntimeError::new_err(format!("hemlock failed inside; please report this: {message}"))
            }
            Failed::Said(kind, message) => {
                let e = Error::new_err(message);
                Python::attach(|py| match e.value(py).setattr("kind", kind) {
                    Ok(()) => e,
                    Err(e) => e,
                })
            }
        }
    }
}

/// Parses parameters as the spec's table of a stage.
pub(crate) fn parameters<P: Params>(table: &str) -> Result<P, Failed> {
    let table = serde_json::from_str(table).map_err(|e| Failed::internal(format!("parameters are no JSON: {e}")))?;
    let params: P = hemlock_stage::read(&table)?;
    params.check()?;
    Ok(params)
}
