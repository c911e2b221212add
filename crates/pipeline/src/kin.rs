//! Relatives of a task: what was made before that it could be compared with, and which differences they come down to.

use crate::{DirtyReason, Plan, telling::TAGS};
use hemlock_store::{Change, Key, Manifest, Store};
use serde::Serialize;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

/// Most differences at which an artifact of another pipeline counts as a relative.
const COUSINS: usize = 3;

/// A difference that comes from nothing else: a parameter at the node where it stands, and not the inputs that follow
/// from it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cause {
    /// Node of the graph.
    pub node: &'static str,
    /// What differs there.
    #[serde(flatten)]
    pub change: Change,
}

impl Cause {
    /// Whether it is about which way is taken rather than how: the two stand on different branches.
    fn is_of_another_branch(&self) -> bool {
        match &self.change {
            Change::Stage { .. } => true,
            Change::Param { path, .. } => TAGS.contains(&path.as_str()),
            _ => false,
        }
    }
}

/// Artifacts that tasks of a plan may be compared with.
#[derive(Default)]
pub(crate) struct Kin {
    /// By stage, each read once.
    made: BTreeMap<&'static str, Vec<Key>>,
    manifests: HashMap<Key, Option<Manifest>>,
    /// Of a task and an artifact.
    causes: HashMap<(usize, Key), Vec<Cause>>,
}

impl Kin {
    /// Compares a task that is not there with the nearest that its stage has made: of this pipeline, on the same
    /// branch, with the fewest causes over all that the task comes from, and the newest. What another pipeline made
    /// has to be near.
    pub(crate) fn nearest(&mut self, plan: &Plan, task: usize, store: &Store) -> DirtyReason {
        let stage = plan.tasks[task].stage;
        if !self.made.contains_key(stage) {
            let made = store.manifests(stage).unwrap_or_default();
            self.made.insert(stage, made.iter().map(|m| m.key).collect());
            self.manifests.extend(made.into_iter().map(|m| (m.key, Some(m))));
        }
        let mut nearest = None;
        for key in self.made[stage].clone() {
            let causes = self.causes(plan, task, key, store);
            let Some(Some(made)) = self.manifests.get(&key) else { continue };
            let elsewhere = made.pipeline != plan.pipeline;
            let apart = causes.iter().filter(|c| c.is_of_another_branch()).count();
            if elsewhere && (apart > 0 || causes.len() > COUSINS) {
                continue;
            }
            let rank = (elsewhere, apart, causes.len(), Reverse(made.created.clone()));
            if nearest.as_ref().is_none_or(|(best, _)| rank < *best) {
                let pipeline = elsewhere.then(|| made.pipeline.clone());
                nearest = Some((rank, DirtyReason::Changed { nearest: key, pipeline, changes: causes }));
            }
        }
        nearest.map_or(DirtyReason::NeverRan, |(_, reason)| reason)
    }

    /// What makes a task differ from an artifact, upstream first.
    fn causes(&mut self, plan: &Plan, task: usize, key: Key, store: &Store) -> Vec<Cause> {
        if let Some(known) = self.causes.get(&(task, key)) {
            return known.clone();
        }
        let Some(Some(made)) = self.manifests.get(&key) else { return Vec::new() };
        let made = made.clone();
        let this = &plan.tasks[task];
        let mut changes = this.identity.diff(&made.identity);
        if changes.iter().any(|change| matches!(change, Change::Stage { .. })) {
            // Parameters and inputs of different stages have nothing to do with each other.
            changes.truncate(1);
        }
        let (mut causes, mut own) = (Vec::new(), Vec::new());
        for change in changes {
            let Change::Input { role, old: Some(old), new: Some(_) } = &change else {
                own.push(Cause { node: this.node, change });
                continue;
            };
            if !self.manifests.contains_key(old) {
                let stage = made.inputs.get(role).map_or("", |input| &input.stage);
                let found = store.lookup(stage, old).ok().flatten();
                self.manifests.insert(*old, found);
            }
            match (this.inputs.get(role.as_str()), &self.manifests[old]) {
                (Some(input), Some(_)) => {
                    for cause in self.causes(plan, *input, *old, store) {
                        if !causes.contains(&cause) {
                            causes.push(cause);
                        }
                    }
                }
                _ => own.push(Cause { node: this.node, change }),
            }
        }
        // That a role is read, or is not, follows from a parameter, where one differs.
        let is_param = |cause: &Cause| matches!(cause.change, Change::Param { .. });
        if own.iter().any(is_param) {
            own.retain(
                |cause| !matches!(&cause.change, Change::Input { old, new, .. } if old.is_none() || new.is_none()),
            );
        }
        causes.extend(own);
        self.causes.insert((task, key), causes.clone());
        causes
    }
}
