//! Files that other tools wrote.

use crate::{ErrorKind, StageError};
use std::{
    fmt::Display,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Opens a regular file to read it. Whatever else has the name (a folder, a pipe, a socket, a device) is refused
/// unopened, because opening or reading it may never end.
///
/// # Errors
/// It is not there, no regular file, or cannot be opened.
pub fn open_file(path: &Path) -> io::Result<File> {
    let kind = fs::metadata(path)?.file_type();
    let what = match () {
        () if kind.is_file() => return File::open(path),
        () if kind.is_dir() => "a folder",
        () => "a pipe, a socket or a device",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what}; expected a file")))
}

/// Reads a regular file ([`open_file`]) of at most so many MiB.
///
/// # Errors
/// As [`open_file`]; it cannot be read, or is longer.
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
    // No longer than the limit.
    let mut bytes = Vec::with_capacity(length as usize);
    // A file may be longer than it says, as those of the system are.
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { too_long(limit_mib + 1) } else { Ok(bytes) }
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
