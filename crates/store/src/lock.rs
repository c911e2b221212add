//! Working on one task at a time: its lock and its checkpoint.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::draft::Draft;
use crate::fs::{absent_ok, create_dir, describe, dir_bytes, names, remove_dir, rename, sync_dir, write};
use crate::names::{MANIFEST, check_name};
use crate::payload::{Encoding, PayloadFile};
use crate::store::Store;
use crate::{Key, Result, StoreError};

/// The name of a checkpoint's file, and the label in its header.
const CHECKPOINT: &str = "checkpoint";

/// The right to work on a task. Given up when dropped; the kernel takes it from a process that dies.
///
/// The lock's file stays behind, empty: removing it would let two processes hold "the" lock, one of
/// the old file and one of the new.
#[derive(Debug)]
pub struct Lock {
    store: Store,
    stage: String,
    key: Key,
    _file: File,
}

impl Lock {
    pub(crate) fn acquire(store: &Store, stage: &str, key: &Key, on_wait: impl FnOnce()) -> Result<Self> {
        let (path, file) = open(store, stage, key)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                on_wait();
                file.lock().map_err(StoreError::io(&path, "lock"))?;
            }
            Err(TryLockError::Error(e)) => return Err(StoreError::io(&path, "lock")(e)),
        }
        Ok(Self { store: store.clone(), stage: stage.to_owned(), key: *key, _file: file })
    }

    pub(crate) fn try_acquire(store: &Store, stage: &str, key: &Key) -> Result<Option<Self>> {
        let (path, file) = open(store, stage, key)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { store: store.clone(), stage: stage.to_owned(), key: *key, _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(StoreError::io(&path, "lock")(e)),
        }
    }

    /// The task's stage.
    pub fn stage(&self) -> &str {
        &self.stage
    }

    /// The task's key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Starts an output from nothing; what an earlier attempt left is removed, but not its checkpoint.
    ///
    /// There is room for one output: drop or publish a draft before beginning another.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn begin(&self) -> Result<Draft<'_>> {
        self.tidy()?;
        let output = self.output_dir();
        create_dir(&output)?;
        Ok(Draft::new(self, output))
    }

    /// A folder for files that live no longer than the work on the task, on the artifacts' file system.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn scratch(&self) -> Result<PathBuf> {
        let dir = self.scratch_dir();
        create_dir(&dir)?;
        Ok(dir)
    }

    /// The last checkpoint saved for this task. A damaged one is as good as none, and is warned of.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn load_checkpoint(&self) -> Result<Option<Vec<u8>>> {
        let read = || {
            let file = PayloadFile::open(&self.scratch_dir().join(CHECKPOINT))?;
            file.expect(CHECKPOINT, Encoding::U8)?;
            let mut bytes = vec![0; file.header().elements()];
            file.read_into(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::Missing { .. }) => Ok(None),
            Err(e @ StoreError::Io { .. }) => Err(e),
            Err(e) => {
                tracing::warn!(stage = self.stage, key = %self.key, "the checkpoint is ignored: {e}");
                Ok(None)
            }
        }
    }

    /// Saves a checkpoint in place of the last one, which is lost only once the new one is safe.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn save_checkpoint(&self, bytes: &[u8]) -> Result<()> {
        let dir = self.scratch()?;
        let new = dir.join("checkpoint.new");
        PayloadFile::create(&new, CHECKPOINT, Encoding::U8, &[bytes.len()], bytes)?;
        rename(&new, &dir.join(CHECKPOINT))
    }

    /// Makes the finished output the artifact, in place of an older one if there is one.
    pub(crate) fn publish(&self, manifest: &str) -> Result<()> {
        let output = self.output_dir();
        let target = self.store.artifact_dir(&self.stage, &self.key);
        let stage_dir = self.store.root().join(&self.stage);
        write(&output.join(MANIFEST), manifest.as_bytes())?;
        sync_dir(&output)?;
        create_dir(&stage_dir)?;
        sync_dir(self.store.root())?;
        remove_dir(&self.old_dir())?;
        let replaced = self.move_artifact(&self.old_dir())?;
        if let Err(e) = rename(&output, &target) {
            if replaced && let Err(e) = fs::rename(self.old_dir(), &target) {
                tracing::warn!(path = %target.display(), "the older artifact could not be put back: {e}");
            }
            return Err(e);
        }
        // The artifact is safe: scratch that cannot be removed is garbage, no failure.
        if let Err(e) = remove_dir(&self.scratch_dir()) {
            tracing::warn!("scratch stays behind: {e}");
        }
        Ok(())
    }

    /// Removes the artifact, if any, and all scratch of the task. A reader never sees a half of it.
    pub(crate) fn discard(&self) -> Result<()> {
        // The artifact takes the place of the scratch folder, for which a full disk might have no room.
        self.discard_scratch()?;
        create_dir(&self.store.all_scratch())?;
        self.move_artifact(&self.scratch_dir())?;
        self.discard_scratch()
    }

    /// Removes what earlier attempts left in the scratch of the task, but for the checkpoint.
    pub(crate) fn tidy(&self) -> Result<()> {
        let dir = self.scratch_dir();
        let mut left = names(&dir)?;
        left.retain(|name| name != CHECKPOINT);
        left.iter().try_for_each(|name| remove_dir(&dir.join(name)))?;
        match fs::remove_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            other => absent_ok(other).map(drop).map_err(StoreError::io(&dir, "remove")),
        }
    }

    /// The bytes that [`tidy`](Self::tidy) would free.
    pub(crate) fn untidy(&self) -> Result<u64> {
        let dir = self.scratch_dir();
        names(&dir)?.iter().filter(|name| *name != CHECKPOINT).map(|name| dir_bytes(&dir.join(name))).sum()
    }

    /// Removes the scratch of the task.
    pub(crate) fn discard_scratch(&self) -> Result<()> {
        remove_dir(&self.scratch_dir())
    }

    /// Moves the artifact, if any, out of sight in one step. Whether there was one.
    fn move_artifact(&self, to: &Path) -> Result<bool> {
        let artifact = self.store.artifact_dir(&self.stage, &self.key);
        absent_ok(fs::rename(&artifact, to))
            .map(|moved| moved.is_some())
            .map_err(StoreError::io(&artifact, "set aside"))
    }

    fn scratch_dir(&self) -> PathBuf {
        self.store.scratch_dir(&self.stage, &self.key)
    }

    fn output_dir(&self) -> PathBuf {
        self.scratch_dir().join("output")
    }

    fn old_dir(&self) -> PathBuf {
        self.scratch_dir().join("old")
    }
}

fn open(store: &Store, stage: &str, key: &Key) -> Result<(PathBuf, File)> {
    check_name("stage", stage)?;
    let path = store.lock_path(&format!("{stage}-{key}"));
    let file = open_lock(&path)?;
    Ok((path, file))
}

/// Opens the file of a lock, which is made where there is none.
pub(crate) fn open_lock(path: &Path) -> Result<File> {
    if let Some(dir) = path.parent() {
        create_dir(dir)?;
    }
    // To open a fifo may never end.
    if let Some(other) = fs::metadata(path).ok().filter(|found| !found.is_file()) {
        let what = describe(other.file_type());
        let path = path.display();
        return Err(StoreError::refused(format!(
            "`{path}` is {what}, where the file of a lock was expected; remove it"
        )));
    }
    File::options().create(true).read(true).write(true).truncate(false).open(path).map_err(StoreError::io(path, "open"))
}
