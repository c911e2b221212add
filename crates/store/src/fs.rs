//! File operations that last: what they report as done is on the disk.

use std::fs::{self, File};
use std::io::{self, Write};
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

/// Removes a folder with all in it, if it is there.
pub fn remove_dir(dir: &Path) -> Result<()> {
    absent_ok(fs::remove_dir_all(dir)).map_err(StoreError::io(dir, "remove"))?;
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

/// The bytes of all files in a folder; zero if it is not there.
pub fn dir_bytes(dir: &Path) -> Result<u64> {
    fn sum(dir: &Path) -> io::Result<u64> {
        let Some(entries) = absent_ok(fs::read_dir(dir))? else { return Ok(0) };
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
