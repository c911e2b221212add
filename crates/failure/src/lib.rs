//! What class a failure is of.
//!
//! Every library's error says its class by [`Failure`], so that whoever passes it on (a stage, the command line) needs
//! to know no library's errors: `hemlock-stage` turns any failure into a stage's, and `hemlock` exits with the code of
//! its class.

use std::error::Error;

/// The class of a failure; each has its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A parameter is wrong, by itself or for this data.
    Params,
    /// Raw data is missing or damaged.
    Data,
    /// An artifact is missing or damaged, or the artifact root cannot be used.
    Artifact,
    /// The device is not compiled in or not there.
    Device,
    /// A computation gave numbers that are not finite, or did not converge.
    Numeric,
    /// The user asked to stop.
    Interrupted,
    /// A bug.
    Internal,
}

/// An error that knows its class.
pub trait Failure: Error + Send + Sync + 'static {
    /// The class.
    fn class(&self) -> ErrorKind;
}
