//! What can go wrong.

use hemlock_stage::StageError;
use hemlock_store::StoreError;
use std::path::{Path, PathBuf};

/// A report that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// There is nothing to tell.
    #[error("there are no results of {pipelines} yet; run `{command}` first")]
    NothingMeasured {
        /// Names of the pipelines.
        pipelines: String,
        /// The command that makes results.
        command: String,
    },
    /// A file of a paper's numbers is none.
    #[error("{}{}: {what}", path.display(), line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Paper {
        /// The file.
        path: PathBuf,
        /// Where in it.
        line: Option<u64>,
        /// What is wrong, and what was expected.
        what: String,
    },
    /// An artifact cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file cannot be written.
    #[error("cannot write {}: {what}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// Results have no form as a table: a bug.
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
