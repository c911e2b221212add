//! File operations that last: what they report as done is on the disk.

use std::fs::{self, File, FileType};
use std::io::{self, Read, Write};
use std::path::Path;

use crate::{Result, StoreError};

/// Writes a file whole and waits until the disk has it.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    File::create(path)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .map_err(StoreError::io(path, "write"))
}

/// Renames a file or folder, and waits until the disk has the new name.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(StoreError::io(to, "rename a finished file or folder to"))?;
    match to.parent() {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

/// Waits until the disk has the names in a folder. Only Unix can, and needs to.
pub fn sync_dir(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(dir).and_then(|d| d.sync_all()).map_err(StoreError::io(dir, "flush"))?;
    }
    Ok(())
}

/// Makes a folder and those above it.
pub fn create_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(StoreError::io(dir, "create"))
}

/// The length of a file; `None` if it is not there. Anything but a regular file is an error: to open a fifo, or to read
/// a device, may never end.
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

/// Opens a regular file to read; `None` if it is not there.
pub fn open(path: &Path) -> Result<Option<File>> {
    if file_len(path)?.is_none() {
        return Ok(None);
    }
    absent_ok(File::open(path)).map_err(StoreError::io(path, "open"))
}

/// The bytes of a regular file; `None` if it is not there.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let Some(mut file) = open(path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(StoreError::io(path, "read"))?;
    Ok(Some(bytes))
}

/// Whether there is a folder; anything else in its place is an error.
pub fn is_dir(path: &Path) -> Result<bool> {
    match absent_ok(fs::metadata(path)).map_err(StoreError::io(path, "find"))? {
        Some(found) if !found.is_dir() => {
            let what = format!("it is {}, where a folder was expected", describe(found.file_type()));
            Err(StoreError::corrupt(path, what))
        }
        found => Ok(found.is_some()),
    }
}

/// What a message calls a thing of this type.
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

/// Removes a folder with all in it, or whatever stands in its place, if it is there.
pub fn remove_dir(dir: &Path) -> Result<()> {
    let removed = match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => fs::remove_file(dir),
        other => other,
    };
    absent_ok(removed).map_err(StoreError::io(dir, "remove"))?;
    Ok(())
}

/// The names in a folder, in order; none if it is not there. Names that are not text are left out.
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

/// The bytes of all files in a folder, or of the file in its place; zero if there is none.
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

/// `None` for what is not there, or is gone again.
pub fn absent_ok<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
