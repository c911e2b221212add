//! A temporary folder that does not outlive its process.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use tempfile::TempDir;

const PREFIX: &str = ".fetch-";
/// The first file in the folder, which is locked while the folder is in use. The kernel unlocks it if the process dies.
const LOCK: &str = "lock";

/// A folder for data that is being fetched. It is removed when it is dropped. [`remove_stale`] removes the folders of
/// processes that were killed.
pub(crate) struct Temporary {
    // Fields are dropped in order, so that the folder is removed before the lock is released.
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
                    // Without locks, `remove_unused` fails on the folder, so that it stays.
                    if let Err(error) = lock.lock() {
                        tracing::warn!("{} cannot be locked: {error}", folder.path().display());
                    }
                    return Ok(Self { folder, _lock: lock });
                }
                // Another process found the folder still empty, and removed it as stale.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes the folders in `root` that no process uses any more. Warns of folders that cannot be removed.
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
        // Another process may be about to create the lock file. If the folder is removed while it is empty, that
        // process notices.
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
