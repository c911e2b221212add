//! Work on one task at a time: the task's lock, its checkpoint, and its pieces.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::draft::Draft;
use crate::fs::{absent_ok, create_dir, describe, dir_bytes, names, remove_dir, rename, sync_dir, write};
use crate::hash::Digest;
use crate::names::{MANIFEST, check_name};
use crate::payload::{Encoding, PayloadFile};
use crate::store::Store;
use crate::{Key, Result, StoreError};

/// Name of the checkpoint's file, and the label in its header.
const CHECKPOINT: &str = "checkpoint";

/// What the name of a piece's file begins with, and the label in its header.
const PIECE: &str = "piece";

/// The exclusive right to work on a task. It ends when this is dropped or when the process dies.
///
/// The lock's file stays behind, empty. If it were removed, one process could hold a lock of the old file while another
/// holds one of a new file.
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
        Self::tried(store, stage, key, File::try_lock)
    }

    /// The lock of a task, if `take` gets that of its file.
    fn tried(
        store: &Store,
        stage: &str,
        key: &Key,
        take: impl FnOnce(&File) -> std::result::Result<(), TryLockError>,
    ) -> Result<Option<Self>> {
        let (path, file) = open(store, stage, key)?;
        match take(&file) {
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

    /// Begins a new output. Removes what an earlier attempt left, except the checkpoint and the pieces.
    ///
    /// There is room for one output only: drop or publish a draft before you begin another.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the file system fails.
    pub fn begin(&self) -> Result<Draft<'_>> {
        self.tidy()?;
        let output = self.output_dir();
        create_dir(&output)?;
        Ok(Draft::new(self, output))
    }

    /// Returns a folder for files that are needed only while the task is worked on. It is on the file system of the
    /// artifacts.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the folder cannot be created.
    pub fn scratch(&self) -> Result<PathBuf> {
        let dir = self.scratch_dir();
        create_dir(&dir)?;
        Ok(dir)
    }

    /// Reads the last checkpoint of this task. A damaged one is ignored with a warning.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the file system fails.
    pub fn load_checkpoint(&self) -> Result<Option<Vec<u8>>> {
        self.load(CHECKPOINT, CHECKPOINT)
    }

    /// Reads a file of the scratch. A damaged one is ignored with a warning.
    fn load(&self, name: &str, label: &str) -> Result<Option<Vec<u8>>> {
        let read = || {
            let file = PayloadFile::open(&self.scratch_dir().join(name))?;
            file.expect(label, Encoding::U8)?;
            let mut bytes = vec![0; file.header().elements()];
            file.read_into(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::Missing { .. }) => Ok(None),
            Err(e @ StoreError::Io { .. }) => Err(e),
            Err(e) => {
                tracing::warn!(stage = self.stage, key = %self.key, "the {label} is ignored: {e}");
                Ok(None)
            }
        }
    }

    /// Saves a checkpoint. The last one is replaced only when the new one is on the disk.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the file system fails.
    pub fn save_checkpoint(&self, bytes: &[u8]) -> Result<()> {
        self.save(CHECKPOINT, CHECKPOINT, bytes)
    }

    /// Reads all pieces of this task, in no particular order. Damaged ones are ignored with a warning.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the file system fails.
    pub fn load_pieces(&self) -> Result<Vec<Vec<u8>>> {
        let names = names(&self.scratch_dir())?;
        let read = |name: &String| self.load(name, PIECE).transpose();
        names.iter().filter(|name| is_piece(name)).filter_map(read).collect()
    }

    /// Adds a piece: finished work of a task whose output is not finished. A piece with the same bytes as another one
    /// replaces it.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the file system fails.
    pub fn add_piece(&self, bytes: &[u8]) -> Result<()> {
        self.save(&format!("{PIECE}-{}", Digest::of(bytes)), PIECE, bytes)
    }

    /// Writes a file of the scratch. An older one is replaced only when the new one is on the disk.
    fn save(&self, name: &str, label: &str, bytes: &[u8]) -> Result<()> {
        let dir = self.scratch()?;
        let new = dir.join(format!("{name}.new"));
        PayloadFile::create(&new, label, Encoding::U8, &[bytes.len()], bytes)?;
        rename(&new, &dir.join(name))
    }

    /// Publishes the finished output as the artifact, replacing an older one.
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
        // The artifact is published. Scratch that cannot be removed is garbage rather than a failure.
        if let Err(e) = remove_dir(&self.scratch_dir()) {
            tracing::warn!("scratch stays behind: {e}");
        }
        Ok(())
    }

    /// Removes the artifact and all scratch of the task. A reader never sees a part of the artifact.
    pub(crate) fn discard(&self) -> Result<()> {
        // The artifact is moved to the scratch folder's place: a full disk might have no room for another folder.
        self.discard_scratch()?;
        create_dir(&self.store.all_scratch())?;
        self.move_artifact(&self.scratch_dir())?;
        self.discard_scratch()
    }

    /// Removes what earlier attempts left in the scratch of the task, except the checkpoint and the pieces.
    pub(crate) fn tidy(&self) -> Result<()> {
        let dir = self.scratch_dir();
        let mut left = names(&dir)?;
        left.retain(|name| !stays(name));
        left.iter().try_for_each(|name| remove_dir(&dir.join(name)))?;
        match fs::remove_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            other => absent_ok(other).map(drop).map_err(StoreError::io(&dir, "remove")),
        }
    }

    /// The number of bytes that [`tidy`](Self::tidy) would free.
    pub(crate) fn untidy(&self) -> Result<u64> {
        let dir = self.scratch_dir();
        names(&dir)?.iter().filter(|name| !stays(name)).map(|name| dir_bytes(&dir.join(name))).sum()
    }

    /// Removes the scratch of the task.
    pub(crate) fn discard_scratch(&self) -> Result<()> {
        remove_dir(&self.scratch_dir())
    }

    /// Moves the artifact, if there is one, out of readers' sight in one step. Returns whether there was one.
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

/// The right to add pieces to a task, which several processes can have at the same time, and none while another has the
/// task's [`Lock`]. It ends when this is dropped or when the process dies.
#[derive(Debug)]
pub struct SharedLock(Lock);

impl SharedLock {
    pub(crate) fn try_acquire(store: &Store, stage: &str, key: &Key) -> Result<Option<Self>> {
        Ok(Lock::tried(store, stage, key, File::try_lock_shared)?.map(Self))
    }

    /// [`Lock::scratch`].
    ///
    /// # Errors
    /// As there.
    pub fn scratch(&self) -> Result<PathBuf> {
        self.0.scratch()
    }

    /// [`Lock::load_pieces`].
    ///
    /// # Errors
    /// As there.
    pub fn load_pieces(&self) -> Result<Vec<Vec<u8>>> {
        self.0.load_pieces()
    }

    /// [`Lock::add_piece`].
    ///
    /// # Errors
    /// As there.
    pub fn add_piece(&self, bytes: &[u8]) -> Result<()> {
        self.0.add_piece(bytes)
    }
}

/// Whether a file of the scratch is a piece.
fn is_piece(name: &str) -> bool {
    name.starts_with(PIECE) && !name.ends_with(".new")
}

/// Whether a file of the scratch is needed by the next attempt.
fn stays(name: &str) -> bool {
    name == CHECKPOINT || is_piece(name)
}

fn open(store: &Store, stage: &str, key: &Key) -> Result<(PathBuf, File)> {
    check_name("stage", stage)?;
    let path = store.lock_path(&format!("{stage}-{key}"));
    let file = open_lock(&path)?;
    Ok((path, file))
}

/// Opens the file of a lock, and creates it if necessary.
pub(crate) fn open_lock(path: &Path) -> Result<File> {
    if let Some(dir) = path.parent() {
        create_dir(dir)?;
    }
    // Opening a fifo may never end.
    if let Some(other) = fs::metadata(path).ok().filter(|found| !found.is_file()) {
        let what = describe(other.file_type());
        let path = path.display();
        return Err(StoreError::refused(format!(
            "`{path}` is {what}, where the file of a lock was expected; remove it"
        )));
    }
    File::options().create(true).read(true).write(true).truncate(false).open(path).map_err(StoreError::io(path, "open"))
}
