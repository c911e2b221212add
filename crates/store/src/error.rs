//! The errors of the store.

use hemlock_failure::{ErrorKind, Failure};
use std::io;
use std::path::{Path, PathBuf};

/// A result whose error is a [`StoreError`].
pub type Result<T> = std::result::Result<T, StoreError>;

/// An error of the store. Each message names the file and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused an operation. The reason is the error's source.
    #[error("{}cannot {action} `{}`{}", prefix(.source), .path.display(), advice(.source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operation that failed, as a verb: "read", "write", "lock".
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A file does not hold what was written to it.
    #[error("`{}` is damaged: {what}; rebuild it with --repair", .path.display())]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A payload file does not have the type that the reader asked for.
    #[error("`{}` holds {found} where {expected} was expected; rebuild it with --repair", .path.display())]
    Mismatch {
        /// The file that was read.
        path: PathBuf,
        /// The type that the reader asked for.
        expected: String,
        /// The type that the file's header names.
        found: String,
    },
    /// A file has a format that only a newer hemlock can read.
    #[error(
        "`{}` has format {found}, and this hemlock reads formats up to {supported}; \
         read it with a newer hemlock, or rebuild it with --repair", .path.display()
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The file's format, as major.minor.
        found: String,
        /// The newest format that can be read, as major.minor.
        supported: String,
    },
    /// An artifact or one of its files is missing.
    #[error("there is no {what} at `{}`; run the pipeline that makes it, or rebuild it with --repair", .path.display())]
    Missing {
        /// The path where it was expected.
        path: PathBuf,
        /// A description of what is missing.
        what: String,
    },
    /// A record is damaged, so that it is unknown which artifacts its pipeline reaches.
    #[error(
        "the record `{}` is damaged: {what}; run its pipeline again, which writes it anew, or remove the file to give its \
         artifacts up", .path.display()
    )]
    Record {
        /// The record's file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The request is invalid, for example because of an illegal name. Nothing was read or written.
    #[error("refused: {what}")]
    Refused {
        /// What is wrong with the request.
        what: String,
    },
}

impl Failure for StoreError {
    fn class(&self) -> ErrorKind {
        ErrorKind::Artifact
    }
}

/// The kind of a [`StoreError`], by which callers decide how to react.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// The operating system refused an operation for another reason than a full disk.
    Io,
    /// The disk, or the user's quota of it, is full.
    DiskFull,
    /// A file is damaged, or has another type than the reader asked for.
    Corrupt,
    /// A file was written by a newer hemlock.
    NewerFormat,
    /// An artifact or one of its files is missing.
    Missing,
    /// The request was invalid.
    Refused,
}

impl StoreError {
    /// The kind of this error.
    pub fn kind(&self) -> StoreErrorKind {
        match self {
            Self::Io { source, .. } if is_full(source) => StoreErrorKind::DiskFull,
            Self::Io { .. } => StoreErrorKind::Io,
            Self::Corrupt { .. } | Self::Mismatch { .. } | Self::Record { .. } => StoreErrorKind::Corrupt,
            Self::NewerFormat { .. } => StoreErrorKind::NewerFormat,
            Self::Missing { .. } => StoreErrorKind::Missing,
            Self::Refused { .. } => StoreErrorKind::Refused,
        }
    }

    /// Whether an operation failed because the disk, or the user's quota of it, is full.
    pub fn is_disk_full(&self) -> bool {
        self.kind() == StoreErrorKind::DiskFull
    }

    /// Whether rebuilding the artifact would help: it is damaged, incomplete, or of a newer format.
    pub fn rebuild_helps(&self) -> bool {
        matches!(self.kind(), StoreErrorKind::Corrupt | StoreErrorKind::Missing | StoreErrorKind::NewerFormat)
    }

    /// For `map_err`: a [`StoreError::Io`] about `path`; `action` is what failed, such as `read`.
    pub fn io<'a>(path: &'a Path, action: &'static str) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { path: path.to_owned(), action, source }
    }

    pub(crate) fn corrupt(path: &Path, what: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_owned(), what: what.into() }
    }

    pub(crate) fn missing(path: &Path, what: impl Into<String>) -> Self {
        Self::Missing { path: path.to_owned(), what: what.into() }
    }

    pub(crate) fn refused(what: impl Into<String>) -> Self {
        Self::Refused { what: what.into() }
    }
}

fn is_full(source: &io::Error) -> bool {
    matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn prefix(source: &io::Error) -> &'static str {
    if is_full(source) { "disk full: " } else { "" }
}

fn advice(source: &io::Error) -> &'static str {
    if is_full(source) { "; free some space and run again" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_called_so() {
        let full = StoreError::io(Path::new("a/b"), "write")(io::ErrorKind::StorageFull.into());
        assert!(full.is_disk_full());
        assert_eq!(full.to_string(), "disk full: cannot write `a/b`; free some space and run again");

        let other = StoreError::io(Path::new("a/b"), "write")(io::ErrorKind::PermissionDenied.into());
        assert_eq!(other.kind(), StoreErrorKind::Io);
        assert_eq!(other.to_string(), "cannot write `a/b`");
    }
}
