//! A folder that is gone when its process is.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use tempfile::TempDir;

const PREFIX: &str = ".fetch-";
/// Locked as long as the folder is in use, and the first file in it: the kernel unlocks it when its process dies.
const LOCK: &str = "lock";

/// A folder for what is being fetched. Dropped, it is removed; of a process that was killed, [`remove_stale`] removes
/// it.
pub(crate) struct Temporary {
    // Removed before the lock is given up.
    folder: TempDir,
    _lock: File,
}

impl Temporary {
    /// Creates a folder in `root`.
    pub fn new(root: &Path) -> io::Result<Self> {
        loop {
            let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(root)?;
            match File::create_new(folder.path().join(LOCK)) {
                Ok(lock) => {
                    // Where files cannot be locked, no process takes the folder for stale.
                    if let Err(error) = lock.lock() {
                        tracing::warn!("{} cannot be locked: {error}", folder.path().display());
                    }
                    return Ok(Self { folder, _lock: lock });
                }
                // Another process took the folder for one that was left behind empty.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes the folders in `root` that no process uses any more. Those that cannot be removed are warned of.
pub(crate) fn remove_stale(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().starts_with(PREFIX)
            && let Err(error) = remove_unused(&entry.path())
        {
            tracing::warn!("{} stays behind: {error}", entry.path().display());
        }
    }
}

/// Removes the folder unless a living process uses it.
fn remove_unused(folder: &Path) -> io::Result<()> {
    let gone = |removed: io::Result<()>| match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    };
    match File::options().write(true).open(folder.join(LOCK)) {
        Ok(lock) => match lock.try_lock() {
            Ok(()) => gone(fs::remove_dir_all(folder)),
            Err(TryLockError::WouldBlock) => Ok(()),
            Err(TryLockError::Error(error)) => Err(error),
        },
        // A process may be about to lock it: if it is still empty, removing it is noticed there.
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::remove_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && !folder.join(LOCK).exists() => {
                gone(fs::remove_dir_all(folder))
            }
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            removed => gone(removed),
        },
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_the_dead_are_removed_and_of_the_living_are_not() {
        let root = tempfile::tempdir().unwrap();
        let leave = |name: &str, files: &[&str]| {
            let folder = root.path().join(name);
            fs::create_dir(&folder).unwrap();
            for file in files {
                fs::write(folder.join(file), "half").unwrap();
            }
            folder
        };
        let stale = [leave(".fetch-a", &[]), leave(".fetch-b", &["archive"]), leave(".fetch-c", &["archive", LOCK])];
        let other = leave(".other", &[]);
        let living = Temporary::new(root.path()).unwrap();
        remove_stale(root.path());
        assert!(stale.iter().all(|folder| !folder.exists()));
        assert!(living.path().join(LOCK).exists() && other.exists());
        drop(living);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
