//! Files that other tools wrote.

use crate::{ErrorKind, StageError};
use std::{
    fmt::Display,
    fs::File,
    io,
    path::{Path, PathBuf},
};

/// Opens a regular file to read it. A pipe would be waited for, and a device read without end.
///
/// # Errors
/// It cannot be opened, or is no regular file: a folder, a pipe, a device.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let kind = path.metadata()?.file_type();
    if kind.is_file() {
        return File::open(path);
    }
    let what = if kind.is_dir() { "a folder" } else { "a pipe, a socket or a device" };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}; expected a regular file")))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(open_regular(&file).is_ok());
        let message = |path: &Path| open_regular(path).unwrap_err().to_string();
        assert_eq!(message(folder.path()), "it is a folder; expected a regular file");
        if cfg!(unix) {
            assert_eq!(message(Path::new("/dev/zero")), "it is a pipe, a socket or a device; expected a regular file");
        }
        assert_eq!(open_regular(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
