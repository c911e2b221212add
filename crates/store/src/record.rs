//! Records of the artifacts that each pipeline reached when it was last run. Artifacts that a record names are kept.
//!
//! A record is a [`sealed`](crate::sealed) file below `.pipelines`. One lock protects all records:
//!
//! - A run holds it, shared, while it writes its record, and reads no artifact before.
//! - A process that removes garbage holds it exclusively.
//!
//! Whatever a run finds is therefore either recorded before garbage is searched, or found after garbage was removed.
//!
//! A later run of the same spec may replace the record while an earlier run is still working. So each run also leaves a
//! copy, `.pipelines/.live-<digest>`, and holds a lock of it to the end. All runs of one plan share one copy.

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

/// Numbers the files that this process writes before it renames them.
static TURN: AtomicU64 = AtomicU64::new(0);

/// The artifacts that a pipeline reached when it was last run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The name of the pipeline.
    pub pipeline: String,
    /// The path of its spec.
    pub spec: PathBuf,
    /// The artifacts that it reaches, by stage and key.
    pub tasks: BTreeSet<(String, Key)>,
}

/// A record as it is stored in its file.
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

    /// Returns the path of the record's file. It depends on the spec's path, because specs in different folders may
    /// have one name.
    fn path(&self, store: &Store) -> PathBuf {
        let spec = Digest::of(format!("{}\n", self.spec.display()).as_bytes()).to_string();
        folder(store).join(format!("{}-{}", self.pipeline, &spec[..12]))
    }
}

/// Protects the artifacts of a record from removal until it is dropped.
#[derive(Debug)]
pub struct Claim {
    store: Store,
    live: Option<(PathBuf, File)>,
}

/// The exclusive right to remove garbage. Runs that begin meanwhile wait before they record their plans.
#[derive(Debug)]
pub struct Sweep {
    store: Store,
    _gate: File,
}

impl Store {
    /// Records the artifacts that a spec reaches, replacing its older record, and claims them for a run. Calls
    /// `on_wait` before waiting for a process that removes garbage. The caller must look for artifacts afterwards, not
    /// before.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the record cannot be written. If the root is read-only, nothing can be removed from it
    /// either; then it is no error if the same record is there already.
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
            // The file is written under another name and renamed, so that a reader never sees a part of it.
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

    /// Reads all records, including those whose specs do not exist any more.
    ///
    /// # Errors
    /// - [`StoreError::Record`] if a record is damaged, because the artifacts that it protects are then unknown.
    /// - [`StoreError::Io`] if a record cannot be read.
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

    /// Takes the right to remove garbage. Calls `on_wait` before waiting for runs that write their records.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the lock cannot be taken.
    pub fn sweep(&self, on_wait: impl FnOnce()) -> Result<Sweep> {
        let (at, file) = self.gate()?;
        wait(&at, file.try_lock(), on_wait, || file.lock())?;
        Ok(Sweep { store: self.clone(), _gate: file })
    }

    /// Opens the file of the lock that protects all records.
    fn gate(&self) -> Result<(PathBuf, File)> {
        let path = self.lock_path("records");
        let file = open_lock(&path)?;
        Ok((path, file))
    }
}

impl Sweep {
    /// Removes everything that `keep` does not protect, each piece under its task's lock. Pieces that somebody works on
    /// are kept. The garbage is searched now; `keep` must be made from records that were read during this sweep.
    ///
    /// # Errors
    /// [`StoreError::Io`] if a piece cannot be removed; the pieces before it are gone.
    pub fn remove(&self, keep: &Keep) -> Result<Removal> {
        let store = &self.store;
        let removal = store.remove(&store.garbage(keep)?)?;
        // The files of runs that died. No run can claim anything while the sweep lasts.
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
    /// [`StoreError::Io`] if the record's file cannot be removed.
    pub fn forget(&self, record: &Record) -> Result<()> {
        let path = record.path(&self.store);
        absent_ok(fs::remove_file(&path)).map(drop).map_err(StoreError::io(&path, "remove"))
    }
}

impl Drop for Claim {
    /// Removes the copy of the record, unless another run holds it or may be about to.
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

/// Writes the copy of a record, and locks it for a run.
fn live(store: &Store, text: &str) -> Result<(PathBuf, File)> {
    let digest = Digest::of(text.as_bytes()).to_string();
    let path = folder(store).join(format!("{LIVE}{}", &digest[..12]));
    let mut file = open_lock(&path)?;
    file.lock_shared().map_err(StoreError::io(&path, "lock"))?;
    let mut found = Vec::new();
    file.read_to_end(&mut found).map_err(StoreError::io(&path, "read"))?;
    if found != text.as_bytes() {
        // Other runs that hold the copy write the same text, and nobody reads it while the records' lock is held.
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes()));
        written.map_err(StoreError::io(&path, "write"))?;
    }
    Ok((path, file))
}

/// Whether a run holds a lock of this copy.
fn is_held(path: &Path) -> Result<bool> {
    if file_len(path)?.is_none() {
        return Ok(false);
    }
    // Some file systems lock only files that are open for writing.
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

/// Whether an operation failed because this process must not write there.
fn read_only(e: &StoreError) -> bool {
    let kinds = [io::ErrorKind::ReadOnlyFilesystem, io::ErrorKind::PermissionDenied];
    matches!(e, StoreError::Io { source, .. } if kinds.contains(&source.kind()))
}
