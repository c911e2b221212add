//! Reading files that other tools wrote.

use crate::{ErrorKind, StageError};
use std::{
    fmt::Display,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Opens a regular file for reading. Anything else of that name (a folder, a pipe, a socket, a device) is refused
/// without opening it, because opening or reading it may never end.
///
/// # Errors
/// The file does not exist, is no regular file, or cannot be opened.
pub fn open_file(path: &Path) -> io::Result<File> {
    let kind = fs::metadata(path)?.file_type();
    let what = match () {
        () if kind.is_file() => return File::open(path),
        () if kind.is_dir() => "a folder",
        () => "a pipe, a socket or a device",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}; expected a file")))
}

/// Reads a regular file of at most `limit_mib` MiB.
///
/// # Errors
/// [`open_file`] returns an error, or the file cannot be read, or it is longer than the limit.
pub fn read_file(path: &Path, limit_mib: u64) -> io::Result<Vec<u8>> {
    let (file, limit) = (open_file(path)?, limit_mib << 20);
    let length = file.metadata()?.len();
    let too_long = |mib: u64| {
        let message = format!("it has {mib} MiB; the limit is {limit_mib} MiB");
        Err(io::Error::new(io::ErrorKind::FileTooLarge, message))
    };
    if length > limit {
        return too_long(length.div_ceil(1 << 20));
    }
    // This fits into memory: it is at most the limit.
    let mut bytes = Vec::with_capacity(length as usize);
    // A file can be longer than its metadata say: files of the system (`/proc`) have a length of 0.
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { too_long(limit_mib + 1) } else { Ok(bytes) }
}

/// An error of reading a file: it cannot be read, or is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file system failed.
    #[error("cannot read {}, which should be a {expected}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the file should be, after its name.
        expected: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The file is damaged, or of another kind than expected.
    #[error("{} is damaged, or no {expected}: {reason}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What the file should be, after its name.
        expected: &'static str,
        /// What the reader found wrong.
        reason: String,
    },
}

impl FileError {
    /// Returns a function that turns an error of the file system into a [`FileError::Read`], for `map_err`. `expected`
    /// says what the file should be.
    pub fn unreadable(path: &Path, expected: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Read { path: path.to_owned(), expected, source }
    }

    /// Returns a function that turns a reader's error into a [`FileError::Format`], for `map_err`. `expected` says what
    /// the file should be.
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
        let path = |name| folder.path().join(name);
        fs::write(path("file"), [7; 3]).unwrap();
        assert_eq!(read_file(&path("file"), 1).unwrap(), [7; 3]);
        assert_eq!(read_file(&path("none"), 1).unwrap_err().kind(), io::ErrorKind::NotFound);
        let refused = |path: &Path| read_file(path, 1).unwrap_err().to_string();
        assert_eq!(refused(folder.path()), "it is a folder; expected a file");
        File::create(path("long")).unwrap().set_len((5 << 20) + 1).unwrap();
        assert_eq!(refused(&path("long")), "it has 6 MiB; the limit is 1 MiB");
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("/dev/zero", path("endless")).unwrap();
            assert_eq!(refused(&path("endless")), "it is a pipe, a socket or a device; expected a file");
            let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
            assert_eq!(refused(&path("socket")), "it is a pipe, a socket or a device; expected a file");
        }
    }
}
