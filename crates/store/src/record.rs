//! Records: which artifacts a pipeline reached when it was last run. What they name is no garbage.
//!
//! A record is a [`sealed`](crate::sealed) file below `.pipelines`. Its lock is that of all records: a run holds it,
//! shared, while it writes its record, and reads no artifact before; who removes garbage holds it alone. So whatever a
//! run finds is either recorded before garbage is looked for, or looked for after garbage is gone.
//!
//! A later run of the same spec may replace a record while an earlier run is under way. So a run also leaves a copy
//! that it holds a lock of to its end: `.pipelines/.live-<digest>`, one file for all runs of one plan.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::fs::{absent_ok, create_dir, file_len, names, read, rename, write};
use crate::garbage::{Keep, Removal};
use crate::hash::Digest;
use crate::lock::open_lock;
use crate::sealed::{FORMAT, seal, unseal};
use crate::store::Store;
use crate::{Key, Result, StoreError};

const LIVE: &str = ".live-";
const ASIDE: &str = ".new-";

/// Tells the files apart that one process writes aside.
static TURN: AtomicU64 = AtomicU64::new(0);

/// What a pipeline reached when it was last run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Name of the pipeline.
    pub pipeline: String,
    /// File of its spec.
    pub spec: PathBuf,
    /// The artifacts, by stage and key.
    pub tasks: BTreeSet<(String, Key)>,
}

/// A record as it stands in its file.
#[derive(Serialize, Deserialize)]
struct Written {
    format: String,
    pipeline: String,
    spec: String,
    tasks: Vec<String>,
}

impl Record {
    fn to_text(&self) -> Result<String> {
        let illegal =
            |e: serde_json::Error| StoreError::refused(format!("the record of '{}' is not JSON: {e}", self.pipeline));
        let written = Written {
            format: FORMAT.to_owned(),
            pipeline: self.pipeline.clone(),
            spec: self.spec.to_string_lossy().into_owned(),
            tasks: self.tasks.iter().map(|(stage, key)| format!("{stage}/{key}")).collect(),
        };
        seal(serde_json::to_value(written).map_err(illegal)?).map_err(illegal)
    }

    fn from_text(path: &Path, text: &[u8]) -> Result<Self> {
        let untrusted = |what: String| StoreError::Record { path: path.to_owned(), what };
        let fields = unseal(path, text).map_err(|e| match e {
            StoreError::Corrupt { what, .. } => untrusted(what),
            StoreError::NewerFormat { found, .. } => untrusted(format!("it has the format {found} of a newer hemlock")),
            other => other,
        })?;
        let written: Written =
            serde_json::from_value(fields).map_err(|e| untrusted(format!("it is no record: {e}")))?;
        let task = |line: &String| {
            let (stage, key) = line.split_once('/')?;
            Some((stage.to_owned(), key.parse().ok()?))
        };
        let tasks: Option<BTreeSet<_>> = written.tasks.iter().map(task).collect();
        let tasks = tasks.ok_or_else(|| untrusted("it names a task that is none".to_owned()))?;
        Ok(Self { pipeline: written.pipeline, spec: written.spec.into(), tasks })
    }

    /// The record's file. Specs in different folders may have one name.
    fn path(&self, store: &Store) -> PathBuf {
        let spec = Digest::of(format!("{}\n", self.spec.display()).as_bytes()).to_string();
        folder(store).join(format!("{}-{}", self.pipeline, &spec[..12]))
    }
}

/// What a run relies on until this is dropped.
#[derive(Debug)]
pub struct Claim {
    store: Store,
    live: Option<(PathBuf, File)>,
}

/// The right to remove garbage. No run begins meanwhile: it waits where it records its plan.
#[derive(Debug)]
pub struct Sweep {
    store: Store,
    _gate: File,
}

impl Store {
    /// Records what a spec reaches, in the place of what it reached before, and claims it for a run; calls `on_wait`
    /// before it waits for somebody who removes garbage. Artifacts are to be looked for afterwards.
    ///
    /// # Errors
    /// [`StoreError::Io`]; but a root that cannot be written to, where nothing can be removed either, is no error where
    /// the record stands there already.
    pub fn claim(&self, record: &Record, on_wait: impl FnOnce()) -> Result<Claim> {
        let claim = |live| Ok(Claim { store: self.clone(), live });
        let (path, text) = (record.path(self), record.to_text()?);
        let known = || read(&path).is_ok_and(|found| found.as_deref() == Some(text.as_bytes()));
        let _gate = match self.gate() {
            Ok((at, file)) => {
                wait(&at, file.try_lock_shared(), on_wait, || file.lock_shared())?;
                file
            }
            Err(e) if read_only(&e) && known() => return claim(None),
            Err(e) => return Err(e),
        };
        create_dir(&folder(self))?;
        if !known() {
            // Written aside and renamed, so that a reader never sees half of it.
            let (process, turn) = (std::process::id(), TURN.fetch_add(1, Ordering::Relaxed));
            let aside = folder(self).join(format!("{ASIDE}{process}-{turn}"));
            write(&aside, text.as_bytes())?;
            rename(&aside, &path)?;
        }
        match live(self, &text) {
            Err(e) if read_only(&e) => claim(None),
            live => claim(Some(live?)),
        }
    }

    /// All records, those of specs that are gone included.
    ///
    /// # Errors
    /// [`StoreError::Record`] for the first one that is damaged, as what it names cannot be known; [`StoreError::Io`].
    pub fn records(&self) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        for name in names(&folder(self))? {
            let path = folder(self).join(&name);
            if name.starts_with(ASIDE) || (name.starts_with(LIVE) && !is_held(&path)?) {
                continue;
            }
            let text = read(&path).map_err(|e| match e {
                StoreError::Corrupt { path, what } => StoreError::Record { path, what },
                other => other,
            });
            records.extend(text?.map(|text| Record::from_text(&path, &text)).transpose()?);
        }
        Ok(records)
    }

    /// Takes the right to remove garbage, waiting for runs that write their records; calls `on_wait` before it waits.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn sweep(&self, on_wait: impl FnOnce()) -> Result<Sweep> {
        let (at, file) = self.gate()?;
        wait(&at, file.try_lock(), on_wait, || file.lock())?;
        Ok(Sweep { store: self.clone(), _gate: file })
    }

    /// The file of the records' lock.
    fn gate(&self) -> Result<(PathBuf, File)> {
        let path = self.lock_path("records");
        let file = open_lock(&path)?;
        Ok((path, file))
    }
}

impl Sweep {
    /// Removes what is not to stay, each piece under its task's lock; what somebody works on is kept. What there is is
    /// looked for now, and `keep` is to be made of records that were read under this sweep.
    ///
    /// # Errors
    /// [`StoreError::Io`] at the first piece that cannot be removed.
    pub fn remove(&self, keep: &Keep) -> Result<Removal> {
        let store = &self.store;
        let removal = store.remove(&store.garbage(keep)?)?;
        // What dead runs left; no run claims anything now.
        for name in names(&folder(store))? {
            let path = folder(store).join(&name);
            if name.starts_with(ASIDE) || (name.starts_with(LIVE) && !is_held(&path)?) {
                absent_ok(fs::remove_file(&path)).map_err(StoreError::io(&path, "remove"))?;
            }
        }
        Ok(removal)
    }

    /// Removes a record.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn forget(&self, record: &Record) -> Result<()> {
        let path = record.path(&self.store);
        absent_ok(fs::remove_file(&path)).map(drop).map_err(StoreError::io(&path, "remove"))
    }
}

impl Drop for Claim {
    /// Removes the copy, unless another run holds it or is about to.
    fn drop(&mut self) {
        let Some((path, file)) = self.live.take() else { return };
        let alone = self.store.gate().is_ok_and(|(_, gate)| gate.try_lock().is_ok() && file.try_lock().is_ok());
        if alone && let Err(e) = fs::remove_file(&path) {
            tracing::debug!("the record of a run stays behind: {e}");
        }
    }
}

fn folder(store: &Store) -> PathBuf {
    store.root().join(".pipelines")
}

/// The copy of a record that a run holds a lock of.
fn live(store: &Store, text: &str) -> Result<(PathBuf, File)> {
    let digest = Digest::of(text.as_bytes()).to_string();
    let path = folder(store).join(format!("{LIVE}{}", &digest[..12]));
    let mut file = open_lock(&path)?;
    file.lock_shared().map_err(StoreError::io(&path, "lock"))?;
    let mut found = Vec::new();
    file.read_to_end(&mut found).map_err(StoreError::io(&path, "read"))?;
    if found != text.as_bytes() {
        // Others that hold it write the same, and nobody reads it while the records' lock is held.
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes()));
        written.map_err(StoreError::io(&path, "write"))?;
    }
    Ok((path, file))
}

/// Whether a run holds the copy of a record.
fn is_held(path: &Path) -> Result<bool> {
    if file_len(path)?.is_none() {
        return Ok(false);
    }
    // Some file systems lock only what may be written to.
    let file = match absent_ok(File::options().read(true).write(true).open(path)).map_err(StoreError::io(path, "open"))
    {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(false),
        Err(e) if read_only(&e) => return Ok(true),
        Err(e) => return Err(e),
    };
    match file.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(e)) => Err(StoreError::io(path, "lock")(e)),
    }
}

fn wait(
    path: &Path,
    tried: std::result::Result<(), TryLockError>,
    on_wait: impl FnOnce(),
    lock: impl FnOnce() -> io::Result<()>,
) -> Result<()> {
    match tried {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            on_wait();
            lock().map_err(StoreError::io(path, "lock"))
        }
        Err(TryLockError::Error(e)) => Err(StoreError::io(path, "lock")(e)),
    }
}

/// Whether an operation failed because this process may not write there.
fn read_only(e: &StoreError) -> bool {
    let kinds = [io::ErrorKind::ReadOnlyFilesystem, io::ErrorKind::PermissionDenied];
    matches!(e, StoreError::Io { source, .. } if kinds.contains(&source.kind()))
}
