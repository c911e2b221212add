//! The classes of failures, and the trait by which an error reports its class.
//!
//! The error types of all libraries implement [`Failure`]. A stage or the command line can therefore pass an error on
//! without knowing the library that it comes from: `hemlock-stage` turns any failure into a stage's error, and
//! `hemlock` exits with the exit code of the failure's class.

use std::error::Error;

/// The class of a failure. Each class has an exit code of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A parameter is invalid, either by itself or for the given data.
    Params,
    /// Raw data is missing or damaged.
    Data,
    /// An artifact is missing or damaged, or the artifact root cannot be used.
    Artifact,
    /// The device is not compiled in, or the machine does not have it.
    Device,
    /// A computation produced numbers that are not finite, or did not converge.
    Numeric,
    /// The user asked to stop.
    Interrupted,
    /// The program has a bug.
    Internal,
}

/// An error that reports its class.
pub trait Failure: Error + Send + Sync + 'static {
    /// The class of this error.
    fn class(&self) -> ErrorKind;
}
