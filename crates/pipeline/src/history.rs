//! Notes on what was run, so that results can be found again. Every run notes its overrides and its label.
//!
//! A spec has a folder below `.runs` in the artifact root, with one file for every set of overrides that it was run
//! with. The first line of a file is a digest of the rest, which is JSON.

use crate::{Graph, Plan};
use hemlock_store::{Digest, Key, Store, StoreError, now};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A run as it was requested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Absolute path of the spec.
    pub spec: PathBuf,
    /// The overrides, as they were given.
    pub overrides: Vec<String>,
    /// The label that the run was given, if any.
    pub label: Option<String>,
    /// When the run last began, as RFC 3339 in UTC.
    pub time: String,
    /// Stage and key of every task of its plan.
    pub tasks: Vec<(String, Key)>,
}

impl Asked {
    /// Name of the pipeline.
    pub(crate) fn pipeline(&self) -> String {
        self.spec.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The number of the run's results that exist, and the number that it was to have.
    #[must_use]
    pub fn results(&self, graph: &Graph, store: &Store) -> (usize, usize) {
        let all: Vec<_> = self.tasks.iter().filter(|(stage, _)| graph.evaluates(stage)).collect();
        let there = all.iter().filter(|(stage, key)| store.artifact_dir(stage, key).is_dir()).count();
        (there, all.len())
    }
}

/// Folder of all notes, in the artifact root.
fn notes(store: &Store) -> PathBuf {
    store.root().join(".runs")
}

/// A spec's path as it is noted: absolute, and valid UTF-8.
fn absolute(spec: &Path) -> Result<PathBuf, StoreError> {
    let path = std::path::absolute(spec).map_err(StoreError::io(spec, "find"))?;
    Ok(path.to_string_lossy().into_owned().into())
}

/// Folder of the notes on a spec. It has a digest of the path in its name, since specs in different folders may have
/// one name.
fn folder(spec: &Path, store: &Store) -> PathBuf {
    let name = spec.file_stem().unwrap_or_default().to_string_lossy();
    let digest = Digest::of(spec.as_os_str().as_encoded_bytes()).to_string();
    notes(store).join(format!("{name:.60}-{digest:.12}"))
}

/// Notes that a plan is run, with a label if one is given. Returns the overrides of the run that had the label before,
/// if it was another run: that run loses the label. Without a new label, a run keeps the one that it had.
///
/// # Errors
/// - The note cannot be written. In a read-only root, this is an error only if a label is given.
/// - Another note of the spec cannot be read. A damaged note is no error.
pub fn remember(plan: &Plan, label: Option<&str>, store: &Store) -> Result<Option<Vec<String>>, StoreError> {
    let overrides = plan.overrides.clone();
    let known = history(&plan.spec, store)?;
    let before = known.iter().find(|asked| asked.overrides == overrides).and_then(|asked| asked.label.clone());
    let renamed = known.into_iter().find(|asked| label.is_some() && asked.label.as_deref() == label);
    let renamed = renamed.filter(|asked| asked.overrides != overrides);
    if let Some(asked) = &renamed {
        write(&Asked { label: None, ..asked.clone() }, store)?;
    }
    let tasks = plan.tasks.iter().map(|task| (task.stage.to_owned(), task.key)).collect();
    let named = label.is_some();
    let label = label.map(str::to_owned).or(before);
    match write(&Asked { spec: absolute(&plan.spec)?, overrides, label, time: now(), tasks }, store) {
        Err(StoreError::Io { source, .. }) if !named && is_read_only(&source) => {}
        written => written?,
    }
    Ok(renamed.map(|asked| asked.overrides))
}

fn is_read_only(e: &io::Error) -> bool {
    [io::ErrorKind::ReadOnlyFilesystem, io::ErrorKind::PermissionDenied].contains(&e.kind())
}

fn write(asked: &Asked, store: &Store) -> Result<(), StoreError> {
    let dir = folder(&asked.spec, store);
    let name = format!("{:.24}", Digest::of(asked.overrides.join("\n").as_bytes()).to_string());
    let path = dir.join(&name);
    let unfit = |e: serde_json::Error| StoreError::Io { path: path.clone(), action: "write", source: e.into() };
    let text = serde_json::to_string(asked).map_err(unfit)?;
    let text = format!("{}\n{text}\n", Digest::of(text.as_bytes()));
    // The file is written under another name and renamed, so that a reader never sees half of it.
    let aside = dir.join(format!(".{name}.{}", std::process::id()));
    fs::create_dir_all(&dir)
        .and_then(|()| fs::write(&aside, text))
        .and_then(|()| fs::rename(&aside, &path))
        .map_err(StoreError::io(&path, "write"))
}

fn read(path: &Path) -> Result<Asked, StoreError> {
    let damaged = |what: &str| {
        let what = format!("{what}; remove the file, and the run that it notes is forgotten");
        StoreError::io(path, "read")(io::Error::new(io::ErrorKind::InvalidData, what))
    };
    // Opening a fifo may never return.
    let found = fs::metadata(path).map_err(StoreError::io(path, "read"))?;
    if !found.is_file() {
        return Err(damaged("it is no regular file"));
    }
    let text = fs::read_to_string(path).map_err(StoreError::io(path, "read"))?;
    let (digest, text) = text.split_once('\n').ok_or_else(|| damaged("it is cut off"))?;
    if digest != Digest::of(text.trim_end().as_bytes()).to_string() {
        return Err(damaged("its content does not match its digest"));
    }
    serde_json::from_str(text).map_err(|_| damaged("it notes no run"))
}

/// The files in a folder, or none if the folder does not exist. Names that begin with a dot are left out: these files
/// are unfinished.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(StoreError::io(dir, "read")(e)),
        Ok(entries) => {
            let finished = |e: &fs::DirEntry| !e.file_name().to_string_lossy().starts_with('.');
            Ok(entries.flatten().filter(finished).map(|e| e.path()).collect())
        }
    }
}

/// The runs of a spec that were noted, the newest first. A damaged note is skipped with a warning, because no result
/// depends on it.
///
/// # Errors
/// A note cannot be read.
pub fn history(spec: &Path, store: &Store) -> Result<Vec<Asked>, StoreError> {
    let mut found = Vec::new();
    for path in entries(&folder(&absolute(spec)?, store))? {
        let written = fs::metadata(&path).and_then(|m| m.modified()).ok();
        let asked = match read(&path) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!("a note of a run is left out: {}: {source}", path.display());
                continue;
            }
            read => read?,
        };
        found.push((asked.time.clone(), written, asked));
    }
    found.sort_by(|a, b| (&b.0, b.1).cmp(&(&a.0, a.1)));
    Ok(found.into_iter().map(|(_, _, asked)| asked).collect())
}

/// All runs that have a label.
///
/// # Errors
/// A note cannot be read or is damaged. Damage is an error here because the note may name artifacts that have to be
/// kept.
pub(crate) fn named(store: &Store) -> Result<Vec<Asked>, StoreError> {
    let mut found = Vec::new();
    for path in entries(&notes(store))?.iter().map(|folder| entries(folder)).collect::<Result<Vec<_>, _>>()?.concat() {
        found.extend(Some(read(&path)?).filter(|asked| asked.label.is_some()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(overrides: &[&str], time: &str) -> Asked {
        Asked {
            spec: PathBuf::from("/somewhere/p.toml"),
            overrides: overrides.iter().map(|o| (*o).to_owned()).collect(),
            label: None,
            time: time.to_owned(),
            tasks: vec![("evaluate".to_owned(), Key::new([7; 16]))],
        }
    }

    #[test]
    fn notes_are_read_back_the_newest_first_and_damage_is_left_out() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(root.path());
        let spec = Path::new("/somewhere/p.toml");
        assert_eq!(history(spec, &store).unwrap(), []);
        let (old, new) = (asked(&["a.b=1", "c=[1, 2]"], "2024-01-01T00:00:00Z"), asked(&[], "2025-01-01T00:00:00Z"));
        write(&new, &store).unwrap();
        write(&old, &store).unwrap();
        assert_eq!(history(spec, &store).unwrap(), [new.clone(), old]);
        assert_eq!(history(Path::new("/elsewhere/p.toml"), &store).unwrap(), []);
        // A run with the same overrides replaces the older note.
        let again = Asked { time: "2026-01-01T00:00:00Z".to_owned(), ..new };
        write(&again, &store).unwrap();
        assert_eq!(history(spec, &store).unwrap().len(), 2);
        assert_eq!(history(spec, &store).unwrap()[0], again);
        let note = entries(&folder(spec, &store)).unwrap().remove(0);
        let text = fs::read_to_string(&note).unwrap();
        fs::write(&note, text.replace("evaluate", "evaluato")).unwrap();
        assert_eq!(history(spec, &store).unwrap().len(), 1);
        fs::write(&note, [0xFF, 0xFE]).unwrap();
        assert_eq!(history(spec, &store).unwrap().len(), 1);
    }
}
