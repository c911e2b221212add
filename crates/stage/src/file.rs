//! Files that other tools wrote.

use crate::{ErrorKind, StageError};
use std::{
    fmt::Display,
    io,
    path::{Path, PathBuf},
};

/// A file that cannot be read, or is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file system failed.
    #[error("cannot read {}, which should be a {expected}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What its name promises.
        expected: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The file is damaged, or of another kind.
    #[error("{} is damaged, or no {expected}: {reason}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What its name promises.
        expected: &'static str,
        /// What the reader met.
        reason: String,
    },
}

impl FileError {
    /// What the file system's error means for a file whose name promises `expected`.
    pub fn unreadable(path: &Path, expected: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Read { path: path.to_owned(), expected, source }
    }

    /// What a reader's error means for a file whose name promises `expected`.
    pub fn damaged<E: Display>(path: &Path, expected: &'static str) -> impl FnOnce(E) -> Self {
        move |e| Self::Format { path: path.to_owned(), expected, reason: e.to_string() }
    }
}

impl From<FileError> for StageError {
    fn from(e: FileError) -> Self {
        Self::new(ErrorKind::Data, e)
    }
}
