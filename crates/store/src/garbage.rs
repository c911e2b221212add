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
    /// Of the scratch of a task that stays: what a killed attempt left beside the checkpoint.
    Leftovers,
}

/// What is to stay when garbage is removed.
#[derive(Debug, Clone, Default)]
pub struct Keep {
    /// Artifacts that somebody may still ask for, by stage and key.
    pub reachable: BTreeSet<(String, Key)>,
    /// Names of the pipelines whose artifacts are garbage where they are not reachable. What others made stays, as it
    /// is not known what they reach; but what does not say who made it is garbage.
    pub known: BTreeSet<String>,
    /// Whether artifacts of `known` pipelines alone are garbage: no scratch, and nothing that does not say who made it.
    pub only: bool,
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

/// What [`Sweep::remove`](crate::Sweep::remove) did.
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

    /// What may be removed if only what is to be kept stays: other artifacts, and the scratch of other tasks that
    /// nobody works on. Of the scratch of reachable tasks the checkpoint stays: it will be resumed.
    ///
    /// # Errors
    /// As [`list`](Self::list).
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

    /// Whether an artifact was made by a pipeline of which nothing is known.
    fn spared(&self, (stage, key): &(String, Key), keep: &Keep) -> bool {
        self.lookup(stage, key).ok().flatten().is_some_and(|m| !keep.known.contains(&m.pipeline))
    }

    /// Removes garbage, each piece under its task's lock; what somebody works on is kept.
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

/// The task of a folder named `<stage>-<key>`.
fn parse_scratch(name: &str) -> Option<(String, Key)> {
    let (stage, key) = name.rsplit_once('-')?;
    check_name("stage", stage).ok()?;
    Some((stage.to_owned(), key.parse().ok()?))
}
