//! Which artifacts pipelines still reach.
//!
//! Every run records its plan below the artifact root. An artifact is reachable if the last recorded plan of a
//! pipeline whose spec is still there names it, or the plan that any given spec has now.

use crate::Plan;
use hemlock_store::{Garbage, Key, Store, StoreError};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Folder of the records, below the artifact root.
fn records(store: &Store) -> PathBuf {
    store.root().join(".pipelines")
}

/// Remembers what a pipeline reaches, in a file named after it: the path of its spec, and a line `stage/key` per task.
pub(crate) fn record(plan: &Plan, store: &Store) -> Result<(), StoreError> {
    let dir = records(store);
    let path = dir.join(&plan.pipeline);
    let spec = std::path::absolute(&plan.spec).map_err(StoreError::io(&plan.spec, "find"))?;
    let mut lines = format!("{}\n", spec.display());
    lines.extend(plan.tasks.iter().map(|t| t.folder() + "\n"));
    if fs::read_to_string(&path).is_ok_and(|known| known == lines) {
        return Ok(());
    }
    // Written aside and renamed, so that a reader never sees half of it.
    let aside = dir.join(format!(".{}.{}", plan.pipeline, std::process::id()));
    fs::create_dir_all(&dir)
        .and_then(|()| fs::write(&aside, lines))
        .and_then(|()| fs::rename(&aside, &path))
        .map_err(StoreError::io(&path, "write"))
}

/// What all recorded plans reach.
fn recorded(store: &Store) -> Result<BTreeSet<(String, Key)>, StoreError> {
    let dir = records(store);
    let mut reached = BTreeSet::new();
    if !dir.is_dir() {
        return Ok(reached);
    }
    let records = fs::read_dir(&dir).map_err(StoreError::io(&dir, "read"))?.flatten();
    // What begins with a dot was left half-written.
    for file in records.filter(|f| !f.file_name().to_string_lossy().starts_with('.')) {
        let text = fs::read_to_string(file.path()).map_err(StoreError::io(&file.path(), "read"))?;
        let Some((_, tasks)) = text.split_once('\n').filter(|(spec, _)| Path::new(spec).is_file()) else { continue };
        reached.extend(tasks.lines().filter_map(|line| {
            let (stage, key) = line.split_once('/')?;
            Some((stage.to_owned(), key.parse().ok()?))
        }));
    }
    Ok(reached)
}

/// What no recorded plan and none of `plans` reaches; with a name, only what that pipeline made.
///
/// # Errors
/// The artifact root cannot be read.
pub fn garbage(store: &Store, plans: &[Plan], pipeline: Option<&str>) -> Result<Vec<Garbage>, StoreError> {
    let mut reachable: BTreeSet<(String, Key)> =
        plans.iter().flat_map(|p| &p.tasks).map(|t| (t.stage.to_owned(), t.key)).collect();
    reachable.extend(recorded(store)?);
    store.garbage(&reachable, pipeline)
}
