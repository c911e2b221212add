//! Which artifacts pipelines still reach.
//!
//! Every run records its plan below the artifact root. An artifact is reachable if the last recorded plan of a pipeline
//! names it, whether the pipeline's spec is still there or not, or a run that was given a name, or the plan that any
//! given spec has now. Of what is not reachable, what a pipeline made that can be planned is garbage. What others made
//! stays: nobody knows what they reach.

use crate::{Plan, history::named};
use hemlock_store::{Keep, Manifest, Record, Store, StoreError};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// What a run of a plan relies on.
pub(crate) fn record(plan: &Plan) -> Result<Record, StoreError> {
    let spec = std::path::absolute(&plan.spec).map_err(StoreError::io(&plan.spec, "find"))?;
    let tasks = plan.tasks.iter().map(|t| (t.stage.to_owned(), t.key)).collect();
    Ok(Record { pipeline: plan.pipeline.clone(), spec, tasks })
}

/// What is known of who reaches what.
#[derive(Debug)]
pub struct Survey<E> {
    /// What is to stay.
    pub keep: Keep,
    /// Records of specs that are not where they were; what they name stays, unless garbage of their pipeline is asked
    /// for.
    pub gone: Vec<Record>,
    /// Whether a spec of the pipeline that was named can be planned; then nothing of that name is given up.
    pub alive: bool,
    /// Specs that are there and cannot be planned now, of which something is here.
    pub unplanned: Vec<Unplanned<E>>,
    /// Pipelines of which there is neither a spec nor a record, and whose artifacts stay.
    pub unknown: BTreeSet<String>,
}

/// A spec that cannot be planned now.
#[derive(Debug)]
pub struct Unplanned<E> {
    /// The spec.
    pub spec: PathBuf,
    /// Its pipeline.
    pub pipeline: String,
    /// Whether a run of it is recorded. If not, nobody knows what it reaches of what others made.
    pub recorded: bool,
    /// Why it cannot be planned.
    pub why: E,
}

/// Finds out what specs, those given and those that were run, reach; with a name, what is garbage of that pipeline
/// alone. For a [`Sweep`](hemlock_store::Sweep), the survey is made under it.
///
/// # Errors
/// The artifact root cannot be read, or a record is damaged.
pub fn survey<E>(
    store: &Store,
    specs: &[PathBuf],
    plan: impl Fn(&Path) -> Result<Plan, E>,
    only: Option<&str>,
) -> Result<Survey<E>, StoreError> {
    let (there, gone): (Vec<Record>, Vec<Record>) = store.records()?.into_iter().partition(|r| r.spec.is_file());
    let made: Vec<Manifest> = store.list()?.into_iter().filter_map(|entry| entry.manifest.ok()).collect();
    let mut keep = Keep { only: only.is_some(), ..Keep::default() };
    let mut unplanned = Vec::new();
    let all: BTreeSet<&Path> = specs.iter().chain(there.iter().map(|r| &r.spec)).map(PathBuf::as_path).collect();
    for spec in all {
        match plan(spec) {
            Ok(plan) => {
                keep.reachable.extend(plan.tasks.iter().map(|t| (t.stage.to_owned(), t.key)));
                keep.known.insert(plan.pipeline);
            }
            Err(why) => {
                let pipeline = spec.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
                let recorded = there.iter().any(|r| r.spec == spec);
                if recorded || made.iter().any(|m| m.pipeline == pipeline) {
                    unplanned.push(Unplanned { spec: spec.to_owned(), pipeline, recorded, why });
                }
            }
        }
    }
    // A pipeline is given up where nothing of its name is alive: specs in different folders may have one name.
    let lost = only.filter(|name| !keep.known.contains(*name));
    let alive = only.is_some() && lost.is_none();
    let given_up = |r: &&Record| lost == Some(&r.pipeline);
    let counting = there.iter().chain(gone.iter().filter(|r| !given_up(r)));
    keep.reachable.extend(counting.flat_map(|r| r.tasks.iter().cloned()));
    let named =
        named(store)?.into_iter().filter(|asked| asked.spec.is_file() || lost != Some(asked.pipeline().as_str()));
    keep.reachable.extend(named.flat_map(|asked| asked.tasks));
    if let Some(name) = only {
        keep.known = [name.to_owned()].into();
    }
    let reachable = |m: &&Manifest| keep.reachable.contains(&(m.identity.stage.clone(), m.key));
    let mut unknown: BTreeSet<String> = made.iter().filter(|m| !reachable(m)).map(|m| m.pipeline.clone()).collect();
    unknown.retain(|name| !keep.known.contains(name) && !unplanned.iter().any(|u| u.pipeline == *name));
    Ok(Survey { keep, gone, alive, unplanned, unknown })
}
