//! Looking over the whole store, and clearing it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::fs::{dir_bytes, names};
use crate::manifest::Manifest;
use crate::names::check_name;
use crate::store::Store;
use crate::{Key, Result};

/// A published artifact.
#[derive(Debug)]
pub struct Entry {
    /// The stage that made it.
    pub stage: String,
    /// Its key.
    pub key: Key,
    /// The bytes that it takes.
    pub bytes: u64,
    /// Its manifest, or why [`Store::lookup`] cannot give it.
    pub manifest: Result<Manifest>,
}

/// What a piece of garbage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    /// A published artifact that nothing reaches.
    Artifact,
    /// The scratch of a task that nobody works on: half an output, a checkpoint.
    Scratch,
}

/// Something that may be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Garbage {
    /// The task's stage.
    pub stage: String,
    /// The task's key.
    pub key: Key,
    /// What there is of it.
    pub what: Remains,
    /// Its folder, to be shown.
    pub path: PathBuf,
    /// The bytes that it takes.
    pub bytes: u64,
}

/// What [`Store::remove`] did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// What is gone.
    pub removed: Vec<Garbage>,
    /// What was kept because somebody works on the task.
    pub in_use: Vec<Garbage>,
}

impl Store {
    /// All published artifacts, by stage and key. Files that are no artifacts are passed over.
    ///
    /// # Errors
    /// [`StoreError::Io`](crate::StoreError::Io) if the folders cannot be read; an artifact that cannot is
    /// listed with its error.
    pub fn list(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for stage in names(self.root())? {
            for key in self.keys(&stage)? {
                let bytes = dir_bytes(&self.artifact_dir(&stage, &key))?;
                let Some(manifest) = self.lookup(&stage, &key).transpose() else { continue };
                entries.push(Entry { stage: stage.clone(), key, bytes, manifest });
            }
        }
        Ok(entries)
    }

    /// The manifests of a stage's artifacts, those that can be read.
    ///
    /// # Errors
    /// [`StoreError::Io`](crate::StoreError::Io) if the stage's folder cannot be read.
    pub fn manifests(&self, stage: &str) -> Result<Vec<Manifest>> {
        Ok(self.keys(stage)?.iter().filter_map(|key| self.lookup(stage, key).ok().flatten()).collect())
    }

    /// The keys of a stage's artifacts; of a folder that is no stage's, none.
    fn keys(&self, stage: &str) -> Result<Vec<Key>> {
        let dir = self.root().join(stage);
        if check_name("stage", stage).is_err() || !dir.is_dir() {
            return Ok(Vec::new());
        }
        Ok(names(&dir)?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// What may be removed if only `reachable` artifacts are to stay: other artifacts, and the scratch of
    /// other tasks that nobody works on. Scratch of reachable tasks stays: its checkpoint will be resumed.
    ///
    /// With a `pipeline`, only artifacts which that pipeline made: damaged ones and scratch do not tell.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn garbage(&self, reachable: &BTreeSet<(String, Key)>, pipeline: Option<&str>) -> Result<Vec<Garbage>> {
        let mut garbage = Vec::new();
        for Entry { stage, key, bytes, manifest } in self.list()? {
            let wanted = pipeline.is_none_or(|name| manifest.is_ok_and(|m| m.pipeline == name));
            let path = self.artifact_dir(&stage, &key);
            let id = (stage, key);
            if wanted && !reachable.contains(&id) {
                garbage.push(Garbage { stage: id.0, key, what: Remains::Artifact, path, bytes });
            }
        }
        if pipeline.is_some() {
            return Ok(garbage);
        }
        for id in names(&self.all_scratch())?.iter().filter_map(|name| parse_scratch(name)) {
            if !reachable.contains(&id) && self.try_lock(&id.0, &id.1)?.is_some() {
                let (stage, key) = id;
                let path = self.scratch_dir(&stage, &key);
                let bytes = dir_bytes(&path)?;
                garbage.push(Garbage { stage, key, what: Remains::Scratch, path, bytes });
            }
        }
        Ok(garbage)
    }

    /// Removes garbage, each piece under its task's lock; what somebody works on is kept.
    ///
    /// # Errors
    /// [`StoreError::Io`](crate::StoreError::Io) at the first piece that cannot be removed.
    pub fn remove(&self, garbage: &[Garbage]) -> Result<Removal> {
        let mut removal = Removal::default();
        for piece in garbage {
            let Some(lock) = self.try_lock(&piece.stage, &piece.key)? else {
                removal.in_use.push(piece.clone());
                continue;
            };
            match piece.what {
                Remains::Artifact => lock.discard()?,
                Remains::Scratch => lock.discard_scratch()?,
            }
            removal.removed.push(piece.clone());
        }
        Ok(removal)
    }
}

/// The task of a folder named `<stage>-<key>`.
fn parse_scratch(name: &str) -> Option<(String, Key)> {
    let (stage, key) = name.rsplit_once('-')?;
    check_name("stage", stage).ok()?;
    Some((stage.to_owned(), key.parse().ok()?))
}
