//! Relatives of a task: what was made before that it could be compared with, and which differences they come down to.

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

/// What something was made with: the parameters, sources, seeds and versions of all stages on the way to it, as numbers
/// in ascending order. Two that share more of them are nearer relatives.
type Origin = Arc<[u32]>;

/// Numbers of traits: a field of a stage, and its value.
#[derive(Default)]
struct Traits {
    numbers: HashMap<(String, String, String), u32>,
    /// Whether the trait of a number says which way is taken rather than how.
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

    /// The traits of an identity, and those of what it was made from.
    fn origin(&mut self, identity: &Identity, inputs: &[Origin]) -> Origin {
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

    /// How many traits two origins do not share: of tags, and in all. `None` as soon as that is no less than `bound`.
    /// What was met last varies most, and is looked at first.
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
struct Made {
    key: Key,
    elsewhere: bool,
    origin: Origin,
}

/// Artifacts that tasks of a plan may be compared with.
#[derive(Default)]
pub(crate) struct Kin {
    /// By stage, each read once: those of the plan's own pipeline first, and of these the newest.
    made: BTreeMap<&'static str, Vec<Made>>,
    manifests: HashMap<Key, Option<Manifest>>,
    traits: Traits,
    /// Of artifacts, by key, and of tasks, by number.
    origins: HashMap<Key, Origin>,
    tasks: HashMap<usize, Origin>,
    /// Of a task and an artifact.
    causes: HashMap<(usize, Key), Vec<Cause>>,
}

impl Kin {
    /// Compares a task that is not there with the nearest that its stage has made: of this pipeline, on the same
    /// branch, with the fewest differences over all that the task comes from, and the newest. What another pipeline
    /// made has to be near.
    pub(crate) fn nearest(&mut self, plan: &Plan, task: usize, store: &Store) -> DirtyReason {
        let stage = plan.tasks[task].stage;
        if !self.made.contains_key(stage) {
            let made = self.read(plan, stage, store);
            self.made.insert(stage, made);
        }
        let origin = self.origin_of_task(plan, task);
        let (mut nearest, mut bound) = (None, None);
        for (number, made) in self.made[stage].iter().enumerate() {
            if made.elsewhere && nearest.is_some() {
                break;
            }
            if let Some(apart) = self.traits.apart(&origin, &made.origin, bound) {
                (nearest, bound) = (Some(number), Some(apart));
                // One value in the place of another: nothing is nearer.
                if apart <= (0, 2) {
                    break;
                }
            }
        }
        let Some(made) = nearest.map(|number| &self.made[stage][number]) else { return DirtyReason::NeverRan };
        let (key, elsewhere) = (made.key, made.elsewhere);
        let changes = self.causes(plan, task, key, store);
        if elsewhere && (changes.len() > COUSINS || changes.iter().any(Cause::is_of_another_branch)) {
            return DirtyReason::NeverRan;
        }
        let pipeline = self.manifests.get(&key).and_then(Option::as_ref).map(|made| made.pipeline.clone());
        DirtyReason::Changed { nearest: key, pipeline: pipeline.filter(|_| elsewhere), changes }
    }

    /// What a stage has made.
    fn read(&mut self, plan: &Plan, stage: &str, store: &Store) -> Vec<Made> {
        let mut made = store.manifests(stage).unwrap_or_default();
        made.sort_by_cached_key(|m| (m.pipeline != plan.pipeline, Reverse(m.created.clone())));
        let kept = made.iter().map(|m| (m.key, m.pipeline != plan.pipeline)).collect::<Vec<_>>();
        self.manifests.extend(made.into_iter().map(|m| (m.key, Some(m))));
        let mut found = Vec::new();
        for (key, elsewhere) in kept {
            found.push(Made { key, elsewhere, origin: self.origin_of_artifact(stage, key, store) });
        }
        found
    }

    fn origin_of_task(&mut self, plan: &Plan, task: usize) -> Origin {
        if let Some(known) = self.tasks.get(&task) {
            return known.clone();
        }
        let inputs: Vec<Origin> =
            plan.tasks[task].inputs.values().map(|input| self.origin_of_task(plan, *input)).collect();
        let origin = self.traits.origin(&plan.tasks[task].identity, &inputs);
        self.tasks.insert(task, origin.clone());
        origin
    }

    /// Of what is gone, nothing is known.
    fn origin_of_artifact(&mut self, stage: &str, key: Key, store: &Store) -> Origin {
        if let Some(known) = self.origins.get(&key) {
            return known.clone();
        }
        let origin = match self.manifest(stage, key, store) {
            None => Origin::default(),
            Some(made) => {
                let inputs: Vec<Origin> =
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

    /// What makes a task differ from an artifact, upstream first.
    fn causes(&mut self, plan: &Plan, task: usize, key: Key, store: &Store) -> Vec<Cause> {
        if let Some(known) = self.causes.get(&(task, key)) {
            return known.clone();
        }
        let Some(made) = self.manifest(plan.tasks[task].stage, key, store) else { return Vec::new() };
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
