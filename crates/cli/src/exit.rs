//! Exit codes.

use hemlock_init::WriteError;
use hemlock_pipeline::{ExportError, PlanError, RunError, SpecError};
use hemlock_report::ReportError;
use hemlock_stage::{ErrorKind, StageError};
use hemlock_store::StoreError;
use hemlock_submit::SubmitError;

/// All exit codes, with their meanings.
pub const CODES: [(u8, &str); 7] = [
    (0, "done"),
    (
        1,
        "a numerical failure: no convergence, a value that is not finite, results further apart than allowed; or a bug",
    ),
    (USAGE, "wrong usage: the command line, a spec, or a parameter that does not fit the data"),
    (
        3,
        "raw data is missing or damaged: a dataset, or weights or features to import; or the process of an extractor fails",
    ),
    (
        4,
        "an artifact is missing or damaged, or the artifact root or an output cannot be written, for example because the disk is full",
    ),
    (
        5,
        "the device is not compiled in, does not exist or runs out of memory; or a cluster's engine is missing or refuses jobs",
    ),
    (INTERRUPTED, "interrupted"),
];

/// The exit code for wrong usage.
pub const USAGE: u8 = 2;

/// The exit code after an interruption by the user.
pub const INTERRUPTED: u8 = 130;

/// A wrong use of the command line that the parser does not find.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// An output that could not be written to stdout.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to stdout")]
pub struct Unwritten(#[from] pub std::io::Error);

fn of_kind(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Numeric | ErrorKind::Internal => 1,
        ErrorKind::Params => USAGE,
        ErrorKind::Data => 3,
        ErrorKind::Artifact => 4,
        ErrorKind::Device => 5,
        ErrorKind::Interrupted => INTERRUPTED,
    }
}

/// Returns the exit code for an error.
pub fn code(e: &anyhow::Error) -> u8 {
    for cause in e.chain() {
        if let Some(e) = cause.downcast_ref::<StageError>() {
            return of_kind(e.kind());
        }
        if let Some(e) = cause.downcast_ref::<PlanError>() {
            return of_kind(e.source.kind());
        }
        match cause.downcast_ref::<RunError>() {
            Some(RunError::NoSuchTask { .. } | RunError::NoParts { .. }) => return 2,
            Some(RunError::Store(_)) => return 4,
            Some(RunError::Device(e)) => return of_kind(e.kind()),
            None => {}
        }
        match cause.downcast_ref::<ExportError>() {
            Some(
                ExportError::Selection(_)
                | ExportError::NothingSelected { .. }
                | ExportError::NoPictures(_)
                | ExportError::NoPoisons(_)
                | ExportError::Set(_),
            ) => {
                return 2;
            }
            Some(ExportError::Stage(e)) => return of_kind(e.kind()),
            Some(
                ExportError::NotRun { .. }
                | ExportError::Store(_)
                | ExportError::Write { .. }
                | ExportError::Taken { .. }
                | ExportError::List { .. },
            ) => return 4,
            None => {}
        }
        match cause.downcast_ref::<ReportError>() {
            Some(ReportError::Draw(_) | ReportError::Rows(_)) => return 1,
            Some(ReportError::Paper { .. }) => return 2,
            Some(_) => return 4,
            None => {}
        }
        match cause.downcast_ref::<WriteError>() {
            Some(WriteError::Taken(_)) => return USAGE,
            Some(WriteError::Write { .. }) => return 4,
            None => {}
        }
        match cause.downcast_ref::<SubmitError>() {
            Some(SubmitError::NoEngine { .. } | SubmitError::Refused { .. } | SubmitError::NoNumber { .. }) => {
                return 5;
            }
            Some(SubmitError::Folder { .. } | SubmitError::Placeholder { .. }) => return 4,
            None => {}
        }
        if cause.is::<Usage>() || cause.is::<SpecError>() {
            return 2;
        }
        if cause.is::<StoreError>() || cause.is::<Unwritten>() {
            return 4;
        }
    }
    1
}
