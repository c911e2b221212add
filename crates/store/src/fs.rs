//! Durable file operations: when one returns, its effect is on the disk.

use std::fs::{self, File, FileType};
use std::io::{self, Read, Write};
use std::path::Path;

use crate::{Result, StoreError};

/// Writes a whole file and waits until it is on the disk.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    File::create(path)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .map_err(StoreError::io(path, "write"))
}

/// Renames a file or folder and waits until the new name is on the disk.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(StoreError::io(to, "rename a finished file or folder to"))?;
    match to.parent() {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

/// Waits until the names in a folder are on the disk. Only Unix can do this, and needs it.
pub fn sync_dir(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(dir).and_then(|d| d.sync_all()).map_err(StoreError::io(dir, "flush"))?;
    }
    Ok(())
}

/// Creates a folder and its parents.
pub fn create_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(StoreError::io(dir, "create"))
}

/// Returns the length of a file in bytes; `None` if it does not exist. Anything but a regular file is an error, because
/// opening a fifo or reading a device may never end.
pub fn file_len(path: &Path) -> Result<Option<u64>> {
    match absent_ok(fs::metadata(path)).map_err(StoreError::io(path, "find"))? {
        Some(found) if found.is_file() => Ok(Some(found.len())),
        Some(found) => {
            let what = format!("it is {}, where a file was expected", describe(found.file_type()));
            Err(StoreError::corrupt(path, what))
        }
        None => Ok(None),
    }
}

/// Opens a regular file for reading; `None` if it does not exist.
pub fn open(path: &Path) -> Result<Option<File>> {
    if file_len(path)?.is_none() {
        return Ok(None);
    }
    absent_ok(File::open(path)).map_err(StoreError::io(path, "open"))
}

/// Reads a regular file; `None` if it does not exist.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let Some(mut file) = open(path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(StoreError::io(path, "read"))?;
    Ok(Some(bytes))
}

/// Whether a folder exists. Anything else at the path is an error.
pub fn is_dir(path: &Path) -> Result<bool> {
    match absent_ok(fs::metadata(path)).map_err(StoreError::io(path, "find"))? {
        Some(found) if !found.is_dir() => {
            let what = format!("it is {}, where a folder was expected", describe(found.file_type()));
            Err(StoreError::corrupt(path, what))
        }
        found => Ok(found.is_some()),
    }
}

/// Returns the words for this type of file in a message.
pub fn describe(found: FileType) -> &'static str {
    if found.is_dir() {
        return "a folder";
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if found.is_fifo() {
            return "a fifo";
        }
        if found.is_socket() {
            return "a socket";
        }
        if found.is_char_device() || found.is_block_device() {
            return "a device";
        }
    }
    if found.is_file() { "a file" } else { "no regular file" }
}

/// Removes a folder with its contents, or a file at the path, if there is one.
pub fn remove_dir(dir: &Path) -> Result<()> {
    let removed = match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => fs::remove_file(dir),
        other => other,
    };
    absent_ok(removed).map_err(StoreError::io(dir, "remove"))?;
    Ok(())
}

/// Returns the sorted names in a folder; none if it does not exist. Names that are not UTF-8 are left out.
pub fn names(dir: &Path) -> Result<Vec<String>> {
    let read = || -> io::Result<Vec<String>> {
        let Some(entries) = absent_ok(fs::read_dir(dir))? else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    };
    read().map_err(StoreError::io(dir, "list"))
}

/// Returns the size in bytes of all files in a folder, or of a file at the path; 0 if there is neither.
pub fn dir_bytes(dir: &Path) -> Result<u64> {
    fn sum(dir: &Path) -> io::Result<u64> {
        let entries = match absent_ok(fs::read_dir(dir)) {
            Ok(Some(entries)) => entries,
            Ok(None) => return Ok(0),
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                return Ok(absent_ok(fs::symlink_metadata(dir))?.map_or(0, |found| found.len()));
            }
            Err(e) => return Err(e),
        };
        let mut bytes = 0;
        for entry in entries {
            let entry = entry?;
            bytes += match absent_ok(entry.metadata())? {
                Some(found) if found.is_dir() => sum(&entry.path())?,
                Some(found) => found.len(),
                None => 0,
            };
        }
        Ok(bytes)
    }
    sum(dir).map_err(StoreError::io(dir, "measure"))
}

/// Turns the error that a file does not exist, or does not any more, into `None`.
pub fn absent_ok<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
