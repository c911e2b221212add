//! Which artifacts pipelines still reach.
//!
//! Every run records its plan below the artifact root. An artifact is reachable if the last recorded plan of a
//! pipeline whose spec is still there names it, or a run that was given a name, or the plan that any given spec has
//! now.

use crate::{Plan, history::named};
use hemlock_store::{Digest, Garbage, Key, Store, StoreError};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Folder of the records, below the artifact root.
fn records(store: &Store) -> PathBuf {
    store.root().join(".pipelines")
}

/// Remembers what a spec reached last, in a file of its own: its path, and a line `stage/key` per task.
pub(crate) fn record(plan: &Plan, store: &Store) -> Result<(), StoreError> {
    let dir = records(store);
    let spec = std::path::absolute(&plan.spec).map_err(StoreError::io(&plan.spec, "find"))?;
    let mut lines = format!("{}\n", spec.display());
    // Specs in different folders may have one name.
    let name = format!("{}-{:.12}", plan.pipeline, Digest::of(lines.as_bytes()).to_string());
    let path = dir.join(&name);
    lines.extend(plan.tasks.iter().map(|t| t.folder() + "\n"));
    if fs::read_to_string(&path).is_ok_and(|known| known == lines) {
        return Ok(());
    }
    // Written aside and renamed, so that a reader never sees half of it.
    let aside = dir.join(format!(".{name}.{}", std::process::id()));
    fs::create_dir_all(&dir)
        .and_then(|()| fs::write(&aside, lines))
        .and_then(|()| fs::rename(&aside, &path))
        .map_err(StoreError::io(&path, "write"))
}

/// Every spec that was run and is still there, and the tasks of its last run.
type Recorded = Vec<(PathBuf, Vec<(String, Key)>)>;

fn recorded(store: &Store) -> Result<Recorded, StoreError> {
    let dir = records(store);
    let mut recorded = Vec::new();
    if !dir.is_dir() {
        return Ok(recorded);
    }
    let records = fs::read_dir(&dir).map_err(StoreError::io(&dir, "read"))?.flatten();
    // What begins with a dot was left half-written.
    for file in records.filter(|f| !f.file_name().to_string_lossy().starts_with('.')) {
        let text = fs::read_to_string(file.path()).map_err(StoreError::io(&file.path(), "read"))?;
        let Some((spec, tasks)) = text.split_once('\n').filter(|(spec, _)| Path::new(spec).is_file()) else { continue };
        let tasks = tasks.lines().filter_map(|line| {
            let (stage, key) = line.split_once('/')?;
            Some((stage.to_owned(), key.parse().ok()?))
        });
        recorded.push((PathBuf::from(spec), tasks.collect()));
    }
    Ok(recorded)
}

/// The specs that were run with this store, wherever they are, and are still there.
///
/// # Errors
/// The records cannot be read.
pub fn recorded_specs(store: &Store) -> Result<Vec<PathBuf>, StoreError> {
    Ok(recorded(store)?.into_iter().map(|(spec, _)| spec).collect())
}

/// What no recorded plan, no run with a name and none of `plans` reaches; with a name, only what that pipeline made.
///
/// # Errors
/// The artifact root cannot be read.
pub fn garbage(store: &Store, plans: &[Plan], pipeline: Option<&str>) -> Result<Vec<Garbage>, StoreError> {
    let mut reachable: BTreeSet<(String, Key)> =
        plans.iter().flat_map(|p| &p.tasks).map(|t| (t.stage.to_owned(), t.key)).collect();
    reachable.extend(recorded(store)?.into_iter().flat_map(|(_, tasks)| tasks));
    reachable.extend(named(store)?);
    store.garbage(&reachable, pipeline)
}
