//! Relatives of a task: earlier artifacts that it can be compared with, and the differences from them.

use crate::{DirtyReason, Plan, telling::TAGS};
use hemlock_store::{Change, Identity, Key, Manifest, Store};
use serde::Serialize;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Most differences at which an artifact of another pipeline counts as a relative.
const COUSINS: usize = 3;

/// A root cause of a difference: for example a parameter, at the node where it is set. Inputs that differ because of it
/// are no causes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cause {
    /// Node of the graph where the cause lies.
    pub node: &'static str,
    /// The difference at that node.
    #[serde(flatten)]
    pub change: Change,
}

impl Cause {
    /// Whether the cause is a choice of another method, attack or kind: then the two are on different branches.
    fn is_of_another_branch(&self) -> bool {
        match &self.change {
            Change::Stage { .. } => true,
            Change::Param { path, .. } => TAGS.contains(&path.as_str()),
            _ => false,
        }
    }
}

/// What a task or an artifact comes from: the parameters, sources, seeds and versions of all stages that lead to it, as
/// ascending numbers ([`Traits`]). Two that share more of them are nearer relatives.
type TraitSet = Arc<[u32]>;

/// Numbers for traits. A trait is a field of a stage with its value.
#[derive(Default)]
struct Traits {
    numbers: HashMap<(String, String, String), u32>,
    /// By number: whether the trait says which method is used ([`TAGS`]) rather than how it is set.
    tags: Vec<bool>,
}

impl Traits {
    fn number(&mut self, stage: &str, field: &str, value: String) -> u32 {
        let new = self.tags.len() as u32;
        let number = *self.numbers.entry((stage.to_owned(), field.to_owned(), value)).or_insert(new);
        if number == new {
            self.tags.push(TAGS.contains(&field));
        }
        number
    }

    /// The traits of an identity and of all its inputs.
    fn origin(&mut self, identity: &Identity, inputs: &[TraitSet]) -> TraitSet {
        let stage = identity.stage.as_str();
        let mut all: Vec<u32> = inputs.iter().flat_map(|origin| origin.iter().copied()).collect();
        for (field, value) in identity.params.as_object().into_iter().flatten() {
            all.push(self.number(stage, field, value.to_string()));
        }
        all.push(self.number(stage, "stage_version", identity.stage_version.to_string()));
        all.extend(identity.seed.map(|seed| self.number(stage, "pipeline's seed", seed.to_string())));
        all.extend(identity.source.as_ref().map(|source| self.number(stage, "raw data", source.clone())));
        all.sort_unstable();
        all.dedup();
        all.into()
    }

    /// Counts the traits that only one of two origins has: those that are tags, and all of them. Returns `None` as soon
    /// as the counts reach `bound`. It starts at the largest numbers, because the traits that were seen last vary most.
    fn apart(&self, a: &[u32], b: &[u32], bound: Option<(usize, usize)>) -> Option<(usize, usize)> {
        let (mut a, mut b) = (a.iter().rev().peekable(), b.iter().rev().peekable());
        let (mut tags, mut all) = (0, 0);
        loop {
            let alone = match (a.peek(), b.peek()) {
                (None, None) => return Some((tags, all)).filter(|found| bound.is_none_or(|bound| *found < bound)),
                (Some(x), Some(y)) if x == y => {
                    a.next();
                    b.next();
                    continue;
                }
                (Some(x), Some(y)) if x < y => b.next(),
                (None, _) => b.next(),
                _ => a.next(),
            };
            all += 1;
            tags += usize::from(alone.is_some_and(|number| self.tags[*number as usize]));
            if bound.is_some_and(|bound| (tags, all) >= bound) {
                return None;
            }
        }
    }
}

/// An artifact that tasks may be compared with.
struct EarlierArtifact {
    key: Key,
    /// Whether another pipeline made it.
    elsewhere: bool,
    origin: TraitSet,
}

/// The artifacts that tasks of a plan may be compared with.
#[derive(Default)]
pub(crate) struct Kin {
    /// The artifacts by stage, each stage read once. Those of the plan's own pipeline come first, and within each part
    /// the newest.
    earlier: BTreeMap<&'static str, Vec<EarlierArtifact>>,
    manifests: HashMap<Key, Option<Manifest>>,
    traits: Traits,
    /// Origins of artifacts by key; `tasks` holds the origins of tasks by number.
    origins: HashMap<Key, TraitSet>,
    tasks: HashMap<usize, TraitSet>,
    /// Causes of the differences between a task and an artifact.
    causes: HashMap<(usize, Key), Vec<Cause>>,
}

impl Kin {
    /// Compares a task whose artifact is missing with the nearest artifact of its stage. The order of preference is:
    /// the same pipeline, the same branch, the fewest differences over all that the task comes from, the newest. An
    /// artifact of another pipeline only counts if it is near ([`COUSINS`]).
    pub(crate) fn nearest(&mut self, plan: &Plan, task: usize, store: &Store) -> DirtyReason {
        let stage = plan.tasks[task].stage;
        if !self.earlier.contains_key(stage) {
            let earlier = self.read(plan, stage, store);
            self.earlier.insert(stage, earlier);
        }
        let origin = self.origin_of_task(plan, task);
        let (mut nearest, mut bound) = (None, None);
        for (number, artifact) in self.earlier[stage].iter().enumerate() {
            if artifact.elsewhere && nearest.is_some() {
                break;
            }
            if let Some(apart) = self.traits.apart(&origin, &artifact.origin, bound) {
                (nearest, bound) = (Some(number), Some(apart));
                // The two differ in one value only: no artifact can be nearer.
                if apart <= (0, 2) {
                    break;
                }
            }
        }
        let Some(EarlierArtifact { key, elsewhere, .. }) = nearest.map(|number| &self.earlier[stage][number]) else {
            return DirtyReason::NeverRan;
        };
        let (key, elsewhere) = (*key, *elsewhere);
        let changes = self.causes(plan, task, key, store);
        if elsewhere && (changes.len() > COUSINS || changes.iter().any(Cause::is_of_another_branch)) {
            return DirtyReason::NeverRan;
        }
        let pipeline = self.manifests.get(&key).and_then(Option::as_ref).map(|made| made.pipeline.clone());
        DirtyReason::Changed { nearest: key, pipeline: pipeline.filter(|_| elsewhere), changes }
    }

    /// Reads the artifacts of a stage.
    fn read(&mut self, plan: &Plan, stage: &str, store: &Store) -> Vec<EarlierArtifact> {
        let mut made = store.manifests(stage).unwrap_or_default();
        made.sort_by_cached_key(|m| (m.pipeline != plan.pipeline, Reverse(m.created.clone())));
        let kept = made.iter().map(|m| (m.key, m.pipeline != plan.pipeline)).collect::<Vec<_>>();
        self.manifests.extend(made.into_iter().map(|m| (m.key, Some(m))));
        let mut found = Vec::new();
        for (key, elsewhere) in kept {
            found.push(EarlierArtifact { key, elsewhere, origin: self.origin_of_artifact(stage, key, store) });
        }
        found
    }

    fn origin_of_task(&mut self, plan: &Plan, task: usize) -> TraitSet {
        if let Some(known) = self.tasks.get(&task) {
            return known.clone();
        }
        let inputs: Vec<TraitSet> =
            plan.tasks[task].inputs.values().map(|input| self.origin_of_task(plan, *input)).collect();
        let origin = self.traits.origin(&plan.tasks[task].identity, &inputs);
        self.tasks.insert(task, origin.clone());
        origin
    }

    /// The origin of an artifact. It is empty if the artifact is gone, because nothing is known about it then.
    fn origin_of_artifact(&mut self, stage: &str, key: Key, store: &Store) -> TraitSet {
        if let Some(known) = self.origins.get(&key) {
            return known.clone();
        }
        let origin = match self.manifest(stage, key, store) {
            None => TraitSet::default(),
            Some(made) => {
                let inputs: Vec<TraitSet> =
                    made.inputs.values().map(|input| self.origin_of_artifact(&input.stage, input.key, store)).collect();
                self.traits.origin(&made.identity, &inputs)
            }
        };
        self.origins.insert(key, origin.clone());
        origin
    }

    fn manifest(&mut self, stage: &str, key: Key, store: &Store) -> Option<Manifest> {
        let found = || store.lookup(stage, &key).ok().flatten();
        self.manifests.entry(key).or_insert_with(found).clone()
    }

    /// The causes of the differences between a task and an artifact, upstream first.
    fn causes(&mut self, plan: &Plan, task: usize, key: Key, store: &Store) -> Vec<Cause> {
        if let Some(known) = self.causes.get(&(task, key)) {
            return known.clone();
        }
        let Some(made) = self.manifest(plan.tasks[task].stage, key, store) else { return Vec::new() };
        let this = &plan.tasks[task];
        let mut changes = this.identity.diff(&made.identity);
        if changes.iter().any(|change| matches!(change, Change::Stage { .. })) {
            // Parameters and inputs of different stages cannot be compared.
            changes.truncate(1);
        }
        let (mut causes, mut own) = (Vec::new(), Vec::new());
        for change in changes {
            let Change::Input { role, old: Some(old), new: Some(_) } = &change else {
                own.push(Cause { node: this.node, change });
                continue;
            };
            let stage = made.inputs.get(role).map_or("", |input| &input.stage);
            match (this.inputs.get(role.as_str()), self.manifest(stage, *old, store)) {
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
        // If a parameter differs, it also decides which roles are read, so these differences are no causes.
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
