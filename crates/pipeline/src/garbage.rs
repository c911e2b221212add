//! Which artifacts pipelines still reach.
//!
//! Every run records its plan below the artifact root. An artifact is reachable if one of these names it:
//!
//! - the last recorded plan of a pipeline, whether or not the pipeline's spec still exists,
//! - a run that was given a name,
//! - the plan that any of the given specs has now.
//!
//! An artifact that is not reachable is garbage if the pipeline that made it can be planned. Artifacts of other
//! pipelines stay, because it is not known what these pipelines reach.

use crate::{Plan, history::named};
use hemlock_store::{Keep, Manifest, Record, Store, StoreError};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// The record of a plan: all artifacts that a run of it relies on.
pub(crate) fn record(plan: &Plan) -> Result<Record, StoreError> {
    let spec = std::path::absolute(&plan.spec).map_err(StoreError::io(&plan.spec, "find"))?;
    let tasks = plan.tasks.iter().map(|t| (t.stage.to_owned(), t.key)).collect();
    Ok(Record { pipeline: plan.pipeline.clone(), spec, tasks })
}

/// The result of [`survey`]: which artifacts are kept, and which pipelines are not known well enough.
#[derive(Debug)]
pub struct GarbageSurvey<E> {
    /// The artifacts and pipelines to keep.
    pub keep: Keep,
    /// Records of specs that no longer exist. The artifacts that they name are kept, unless garbage of their pipeline
    /// is asked for.
    pub gone: Vec<Record>,
    /// Whether garbage of one pipeline was asked for, and a spec of that name can be planned. If so, no record of that
    /// name is given up.
    pub alive: bool,
    /// Specs that exist but cannot be planned now, if the root holds a record or an artifact of theirs.
    pub unplanned: Vec<Unplanned<E>>,
    /// Pipelines that have unreachable artifacts but no spec; these artifacts are kept. If garbage of one pipeline was
    /// asked for, every other pipeline with unreachable artifacts is included.
    pub unknown: BTreeSet<String>,
}

/// A spec that cannot be planned now.
#[derive(Debug)]
pub struct Unplanned<E> {
    /// Path of the spec.
    pub spec: PathBuf,
    /// Name of its pipeline.
    pub pipeline: String,
    /// Whether a run of it is recorded. If not, it is not known which artifacts of other pipelines it reaches.
    pub recorded: bool,
    /// Why it cannot be planned.
    pub why: E,
}

/// Finds out which artifacts are reached by `specs` and by all specs that were run. With `only`, what is not reached is
/// garbage for the pipeline of that name alone. If a [`Sweep`](hemlock_store::Sweep) follows, the caller makes it first
/// and surveys while holding it.
///
/// # Errors
/// The artifact root cannot be read, or a record is damaged.
pub fn survey<E>(
    store: &Store,
    specs: &[PathBuf],
    plan: impl Fn(&Path) -> Result<Plan, E>,
    only: Option<&str>,
) -> Result<GarbageSurvey<E>, StoreError> {
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
    // Specs in different folders may have one name, so a pipeline is given up only if no spec of its name can be
    // planned.
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
    Ok(GarbageSurvey { keep, gone, alive, unplanned, unknown })
}
