//! What pipelines were asked for, so that results are found again: every run notes its overrides, and the name that
//! it was given.
//!
//! A spec has a folder below `.runs` in the artifact root, with a file for every set of overrides that it was run
//! with. The file is JSON; its first line is a digest of the rest.

use crate::Plan;
use hemlock_store::{Digest, Key, Store, StoreError, now};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A run as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// File of the spec, absolute.
    pub spec: PathBuf,
    /// Overrides, as they were given.
    pub overrides: Vec<String>,
    /// The name that the run was given.
    pub label: Option<String>,
    /// When it last began, RFC 3339 in UTC.
    pub time: String,
    /// Stage and key of every task of its plan.
    pub tasks: Vec<(String, Key)>,
}

impl Asked {
    /// Name of the pipeline.
    pub(crate) fn pipeline(&self) -> String {
        self.spec.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// How many of the run's results are there, and how many it was to have.
    #[must_use]
    pub fn results(&self, store: &Store) -> (usize, usize) {
        let all: Vec<_> = self.tasks.iter().filter(|(stage, _)| stage == "evaluate").collect();
        let there = all.iter().filter(|(stage, key)| store.artifact_dir(stage, key).is_dir()).count();
        (there, all.len())
    }
}

/// Folder of all notes, below the artifact root.
fn notes(store: &Store) -> PathBuf {
    store.root().join(".runs")
}

/// A spec's path as it is noted: absolute, and readable.
fn absolute(spec: &Path) -> Result<PathBuf, StoreError> {
    let path = std::path::absolute(spec).map_err(StoreError::io(spec, "find"))?;
    Ok(path.to_string_lossy().into_owned().into())
}

/// Folder of a spec's notes. Specs in different folders may have one name.
fn folder(spec: &Path, store: &Store) -> PathBuf {
    let name = spec.file_stem().unwrap_or_default().to_string_lossy();
    let digest = Digest::of(spec.as_os_str().as_encoded_bytes()).to_string();
    notes(store).join(format!("{name:.60}-{digest:.12}"))
}

/// Notes that a plan is run, under a label where it is given one; returns the overrides of the run that had the label
/// until now.
///
/// # Errors
/// The note cannot be written, or another one cannot be read. In a root that is read-only, only a label has to be
/// noted.
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
    // Written aside and renamed, so that a reader never sees half of it.
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
    // To open a fifo may never end.
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

/// What is in a folder, which need not be there; what begins with a dot was left half-written.
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

/// What a spec was run with, the newest first. A note that is damaged is left out, and warned of: no result hangs on
/// it.
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

/// All runs that were given a name.
///
/// # Errors
/// A note cannot be read, or is damaged: what it names may be worth keeping.
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
        // The same settings again stand in the place of the older note.
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
