//! The store: where artifacts are, and how they are found.

use std::path::{Path, PathBuf};

use crate::fs::{file_len, is_dir, read};
use crate::lock::{Lock, SharedLock};
use crate::manifest::Manifest;
use crate::names::{MANIFEST, check_name};
use crate::payload::{Artifact, PayloadFile, PayloadReader};
use crate::{Key, Result, StoreError};

/// A folder of artifacts. It is cheap to clone. Clones and other processes may use the folder at the same time.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens the store in a folder. If the folder does not exist, the store is empty, and the first task creates it.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Finds an artifact; `Ok(None)` if it was never made. Reads its manifest, and checks that its files are there and
    /// have the right lengths.
    ///
    /// # Errors
    /// - [`StoreError::Corrupt`], [`StoreError::Missing`] or [`StoreError::NewerFormat`] if the artifact was made but
    ///   cannot be used.
    /// - [`StoreError::Io`] if a file cannot be read.
    /// - [`StoreError::Refused`] if the stage's name is illegal.
    pub fn lookup(&self, stage: &str, key: &Key) -> Result<Option<Manifest>> {
        check_name("stage", stage)?;
        let dir = self.artifact_dir(stage, key);
        if !is_dir(&dir)? {
            return Ok(None);
        }
        let path = dir.join(MANIFEST);
        let text = read(&path)?.ok_or_else(|| StoreError::missing(&path, "manifest"))?;
        let manifest = Manifest::from_text(&path, &text)?;
        if manifest.key != *key || manifest.identity.stage != stage {
            return Err(StoreError::corrupt(
                &path,
                format!("it is the manifest of {}/{}", manifest.identity.stage, manifest.key),
            ));
        }
        for (name, record) in &manifest.files {
            if check_name("file name", name).is_err() {
                return Err(StoreError::corrupt(&path, format!("it lists a file with the illegal name `{name}`")));
            }
            let path = dir.join(name);
            let found = file_len(&path)?.ok_or_else(|| StoreError::missing(&path, "payload file"))?;
            if found != record.bytes {
                return Err(StoreError::corrupt(
                    &path,
                    format!("it is {found} bytes long, and its manifest lists {}", record.bytes),
                ));
            }
        }
        Ok(Some(manifest))
    }

    /// Reads a whole artifact and checks every digest.
    ///
    /// # Errors
    /// The errors of [`lookup`](Self::lookup); [`StoreError::Missing`] also if the artifact was never made.
    pub fn verify(&self, stage: &str, key: &Key) -> Result<Manifest> {
        let dir = self.artifact_dir(stage, key);
        let manifest = self.lookup(stage, key)?.ok_or_else(|| StoreError::missing(&dir, "artifact"))?;
        for (name, record) in &manifest.files {
            let file = PayloadFile::open(&dir.join(name))?;
            file.expect_record(record)?;
            file.verify()?;
        }
        Ok(manifest)
    }

    /// Returns a reader of the files of an artifact of the given [`Artifact::KIND`].
    pub fn reader(&self, manifest: &Manifest, kind: &str) -> PayloadReader {
        let dir = self.artifact_dir(&manifest.identity.stage, &manifest.key);
        PayloadReader::new(dir, kind, manifest.files.clone())
    }

    /// Reads an artifact.
    ///
    /// # Errors
    /// The errors of [`PayloadReader`].
    pub fn read<A: Artifact>(&self, manifest: &Manifest) -> Result<A> {
        A::read(&self.reader(manifest, A::KIND))
    }

    /// Takes the lock of a task. If somebody holds it, calls `on_wait` and waits.
    ///
    /// The caller should [look](Self::lookup) for the artifact again afterwards, because the last holder may have made
    /// it.
    ///
    /// # Errors
    /// - [`StoreError::Io`] if the lock's file cannot be created, or if the file system has no locks.
    /// - [`StoreError::Refused`] if the stage's name is illegal.
    pub fn lock(&self, stage: &str, key: &Key, on_wait: impl FnOnce()) -> Result<Lock> {
        Lock::acquire(self, stage, key, on_wait)
    }

    /// Takes the lock of a task, or returns `None` if somebody holds it.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    pub fn try_lock(&self, stage: &str, key: &Key) -> Result<Option<Lock>> {
        Lock::try_acquire(self, stage, key)
    }

    /// Takes the shared lock of a task, or returns `None` if somebody holds its lock.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    pub fn try_shared_lock(&self, stage: &str, key: &Key) -> Result<Option<SharedLock>> {
        SharedLock::try_acquire(self, stage, key)
    }

    /// Removes what a killed attempt at a task left, except its checkpoint and its pieces, unless somebody works on the
    /// task.
    ///
    /// # Errors
    /// As [`lock`](Self::lock), and [`StoreError::Io`] if something cannot be removed.
    pub fn tidy(&self, stage: &str, key: &Key) -> Result<()> {
        if self.scratch_dir(stage, key).is_dir()
            && let Some(lock) = self.try_lock(stage, key)?
        {
            lock.tidy()?;
        }
        Ok(())
    }

    /// Returns the folder of a published artifact, whether it exists or not.
    pub fn artifact_dir(&self, stage: &str, key: &Key) -> PathBuf {
        self.root.join(stage).join(key.to_string())
    }

    pub(crate) fn all_scratch(&self) -> PathBuf {
        self.root.join(".partial")
    }

    pub(crate) fn scratch_dir(&self, stage: &str, key: &Key) -> PathBuf {
        self.all_scratch().join(format!("{stage}-{key}"))
    }

    pub(crate) fn lock_path(&self, name: &str) -> PathBuf {
        self.root.join(".locks").join(format!("{name}.lock"))
    }
}
