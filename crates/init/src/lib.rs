//! Drafts of first specs for images or features of one's own, with parameters that fit their number and size.
//!
//! [`images()`] and [`features()`] examine a folder or a file and draft a commented spec. [`write()`] writes it as a
//! whole or not at all.

mod features;
mod images;
mod words;

pub use features::features;
pub use images::images;

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

/// A summary of the data that was found, and a spec for it.
#[derive(Debug)]
pub struct SpecDraft {
    /// The summary, in a sentence.
    pub found: String,
    /// The text of the spec.
    pub spec: String,
}

/// The error that a spec was not written. A file of that name stays as it was.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The file exists already.
    #[error("{} is there already; give another name, or --force to replace it", .0.display())]
    Taken(PathBuf),
    /// The file system failed.
    #[error("cannot write {}: {source}", .file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Checks that a file may be written: it does not exist, or it is to be replaced.
///
/// # Errors
/// [`WriteError::Taken`] if the file exists and is not to be replaced.
pub fn vacant(file: &Path, replace: bool) -> Result<(), WriteError> {
    if replace || fs::symlink_metadata(file).is_err() { Ok(()) } else { Err(WriteError::Taken(file.to_owned())) }
}

/// Writes a text to a file, and creates the file's folder if necessary. If the file exists, it is replaced if `replace`
/// is true.
///
/// # Errors
/// - [`WriteError::Taken`] if the file exists and is not to be replaced.
/// - [`WriteError::Write`] if the file system fails.
pub fn write(file: &Path, text: &str, replace: bool) -> Result<(), WriteError> {
    let failed = |source| WriteError::Write { file: file.to_owned(), source };
    let written = || -> io::Result<tempfile::NamedTempFile> {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut whole = readable(&mut tempfile::Builder::new()).tempfile_in(folder)?;
        whole.write_all(text.as_bytes())?;
        whole.as_file().sync_all()?;
        Ok(whole)
    };
    let whole = written().map_err(failed)?;
    if replace {
        return whole.persist(file).map(|_| ()).map_err(|e| failed(e.error));
    }
    whole.persist_noclobber(file).map(|_| ()).map_err(|e| match e.error.kind() {
        io::ErrorKind::AlreadyExists => WriteError::Taken(file.to_owned()),
        _ => failed(e.error),
    })
}

/// Gives a temporary file the permissions of ordinary files; by default only its owner could read it.
fn readable<'a, 'b, 'c>(builder: &'c mut tempfile::Builder<'a, 'b>) -> &'c mut tempfile::Builder<'a, 'b> {
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_whole_and_replaced_only_when_told_to() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/spec.toml");
        write(&file, "one", false).unwrap();
        assert!(vacant(&file, false).is_err() && vacant(&file, true).is_ok());
        assert!(matches!(write(&file, "two", false), Err(WriteError::Taken(_))));
        assert_eq!(fs::read_to_string(&file).unwrap(), "one");
        write(&file, "three", true).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "three");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let usual = folder.path().join("usual");
            fs::write(&usual, "").unwrap();
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode(&file), mode(&usual));
        }
        let inside = write(&file.join("spec.toml"), "four", false).unwrap_err();
        assert!(matches!(inside, WriteError::Write { .. }), "{inside}");
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "nothing stays behind");
    }
}
