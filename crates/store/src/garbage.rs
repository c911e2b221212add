//! Listing of the whole store, and removal of garbage.

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
    /// The stage that made the artifact.
    pub stage: String,
    /// The artifact's key.
    pub key: Key,
    /// The artifact's size on disk, in bytes.
    pub bytes: u64,
    /// The manifest, or the error of [`Store::lookup`].
    pub manifest: Result<Manifest>,
}

/// The kind of a piece of garbage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    /// A published artifact that is not reachable.
    Artifact,
    /// The scratch of a task that nobody works on: an unfinished output, a checkpoint, pieces.
    Scratch,
    /// What a killed attempt left in a task's scratch, except the checkpoint and pieces, which stay.
    Leftovers,
}

/// What to keep when garbage is removed.
#[derive(Debug, Clone, Default)]
pub struct Keep {
    /// Artifacts that somebody may still ask for, by stage and key.
    pub reachable: BTreeSet<(String, Key)>,
    /// Names of the pipelines whose reachable artifacts are all in `reachable`; their other artifacts are garbage. The
    /// artifacts of other pipelines stay, because it is unknown what these reach. An artifact without a readable
    /// manifest is garbage.
    pub known: BTreeSet<String>,
    /// Whether to remove only artifacts of `known` pipelines: no scratch, and no artifact without a readable manifest.
    pub only: bool,
}

/// Something that may be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Garbage {
    /// The task's stage.
    pub stage: String,
    /// The task's key.
    pub key: Key,
    /// The kind of this piece.
    pub what: Remains,
    /// The folder that it is in.
    pub path: PathBuf,
    /// The size on disk, in bytes.
    pub bytes: u64,
}

/// The effect of [`Sweep::remove`](crate::Sweep::remove).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// The garbage that was removed.
    pub removed: Vec<Garbage>,
    /// The garbage that was kept because somebody works on the task.
    pub in_use: Vec<Garbage>,
}

impl Store {
    /// Lists all published artifacts, by stage and key. Files that are not artifacts are skipped.
    ///
    /// # Errors
    /// [`StoreError::Io`](crate::StoreError::Io) if a folder cannot be read. An artifact that cannot be read is listed
    /// with its error.
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

    /// Returns the manifests of a stage's artifacts, except those that cannot be read.
    ///
    /// # Errors
    /// [`StoreError::Io`](crate::StoreError::Io) if the stage's folder cannot be read.
    pub fn manifests(&self, stage: &str) -> Result<Vec<Manifest>> {
        Ok(self.keys(stage)?.iter().filter_map(|key| self.lookup(stage, key).ok().flatten()).collect())
    }

    /// Returns the keys of a stage's artifacts; none if the folder is not a stage's.
    fn keys(&self, stage: &str) -> Result<Vec<Key>> {
        let dir = self.root().join(stage);
        if check_name("stage", stage).is_err() || !dir.is_dir() {
            return Ok(Vec::new());
        }
        Ok(names(&dir)?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Finds what may be removed, given what to keep: artifacts, and scratch that nobody works on. A reachable task
    /// keeps the checkpoint and the pieces in its scratch, to be resumed.
    ///
    /// # Errors
    /// As [`list`](Self::list), and [`StoreError::Io`](crate::StoreError::Io) if a task's lock cannot be taken.
    pub fn garbage(&self, keep: &Keep) -> Result<Vec<Garbage>> {
        let mut garbage = Vec::new();
        for Entry { stage, key, bytes, manifest } in self.list()? {
            let made_by_known = manifest.map_or(!keep.only, |m| keep.known.contains(&m.pipeline));
            let path = self.artifact_dir(&stage, &key);
            let id = (stage, key);
            if made_by_known && !keep.reachable.contains(&id) {
                garbage.push(Garbage { stage: id.0, key, what: Remains::Artifact, path, bytes });
            }
        }
        if keep.only {
            return Ok(garbage);
        }
        for id in names(&self.all_scratch())?.iter().filter_map(|name| parse_scratch(name)) {
            let Some(lock) = self.try_lock(&id.0, &id.1)? else { continue };
            let path = self.scratch_dir(&id.0, &id.1);
            let (what, bytes) = match keep.reachable.contains(&id) || self.spared(&id, keep) {
                true => (Remains::Leftovers, lock.untidy()?),
                false => (Remains::Scratch, dir_bytes(&path)?),
            };
            let (stage, key) = id;
            if what == Remains::Scratch || bytes > 0 {
                garbage.push(Garbage { stage, key, what, path, bytes });
            }
        }
        Ok(garbage)
    }

    /// Whether an artifact was made by a pipeline that is not known.
    fn spared(&self, (stage, key): &(String, Key), keep: &Keep) -> bool {
        self.lookup(stage, key).ok().flatten().is_some_and(|m| !keep.known.contains(&m.pipeline))
    }

    /// Removes garbage, each piece under its task's lock. Pieces that somebody works on are kept.
    pub(crate) fn remove(&self, garbage: &[Garbage]) -> Result<Removal> {
        let mut removal = Removal::default();
        for piece in garbage {
            let Some(lock) = self.try_lock(&piece.stage, &piece.key)? else {
                removal.in_use.push(piece.clone());
                continue;
            };
            match piece.what {
                Remains::Artifact => lock.discard()?,
                Remains::Scratch => lock.discard_scratch()?,
                Remains::Leftovers => lock.tidy()?,
            }
            removal.removed.push(piece.clone());
        }
        Ok(removal)
    }
}

/// Parses the name of a scratch folder, `<stage>-<key>`.
fn parse_scratch(name: &str) -> Option<(String, Key)> {
    let (stage, key) = name.rsplit_once('-')?;
    check_name("stage", stage).ok()?;
    Some((stage.to_owned(), key.parse().ok()?))
}
