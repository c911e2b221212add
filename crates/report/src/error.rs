//! The errors of a report.

use hemlock_pipeline::ResultsFileError;
use hemlock_stage::StageError;
use hemlock_store::StoreError;
use std::path::{Path, PathBuf};

/// The reason why a report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// No pipeline has a result.
    #[error("there are no results of {pipelines} yet; run `{command}` first")]
    NothingMeasured {
        /// Names of the pipelines, separated by commas.
        pipelines: String,
        /// The command that computes the results.
        command: String,
    },
    /// A file with a paper's numbers cannot be read, is malformed, or does not match the results.
    #[error("{}{}: {what}", path.display(), line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Paper {
        /// The file.
        path: PathBuf,
        /// The line in the file, counted from 1, if the error belongs to one.
        line: Option<u64>,
        /// What is wrong, and what was expected.
        what: String,
    },
    /// An artifact cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A results file cannot be read.
    #[error(transparent)]
    Saved(#[from] ResultsFileError),
    /// A file cannot be written.
    #[error("cannot write {}: {what}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The reason.
        what: String,
    },
    /// The results cannot be written as CSV, which is a bug.
    #[error(transparent)]
    Rows(#[from] StageError),
    /// A chart or a picture cannot be drawn.
    #[error("cannot draw a figure: {0}")]
    Draw(String),
}

impl ReportError {
    pub(crate) fn write(path: &Path, what: impl ToString) -> Self {
        Self::Write { path: path.to_owned(), what: what.to_string() }
    }

    pub(crate) fn draw(what: impl ToString) -> Self {
        Self::Draw(what.to_string())
    }
}
