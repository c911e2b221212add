//! Which tasks of a plan have to run, and why. `plan`, `status`, `why` and `run` all ask here.

use crate::{Plan, Task};
use hemlock_store::{Change, Key, Manifest, Store, StoreError};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
};

/// Why a task has to run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum DirtyReason {
    /// No artifact of this stage was ever made here.
    NeverRan,
    /// The nearest artifact that this stage has made differs in these inputs.
    Changed {
        /// Key of that artifact.
        nearest: Key,
        /// What differs.
        changes: Vec<Change>,
    },
    /// The artifact was made from an input whose content was another.
    InputRebuilt {
        /// The input.
        role: String,
    },
    /// The artifact is damaged.
    Damaged {
        /// What is wrong with it.
        what: String,
    },
    /// The user asked for it.
    Forced,
}

impl fmt::Display for DirtyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverRan => write!(f, "never ran here"),
            Self::Changed { nearest, changes } => {
                let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
                write!(f, "differs from {}: {}", nearest.short(), changes.join("; "))
            }
            Self::InputRebuilt { role } => write!(f, "had another content of its input '{role}'"),
            Self::Damaged { what } => write!(f, "is damaged: {what}"),
            Self::Forced => write!(f, "was forced"),
        }
    }
}

/// What is to be done about a task.
#[derive(Debug)]
pub enum Decision {
    /// The artifact is there.
    Cached(Box<Manifest>),
    /// The task has to run.
    Run(DirtyReason),
    /// The artifact is damaged, and is only rebuilt when asked.
    Refuse(StoreError),
}

/// Decides about tasks, against one artifact root.
pub(crate) struct Decider<'a> {
    store: &'a Store,
    /// Damaged artifacts are rebuilt rather than refused, and are looked for byte by byte.
    repair: bool,
    /// Manifests by stage, each stage's read once, to say what changed.
    made: Mutex<BTreeMap<String, Vec<Manifest>>>,
}

impl<'a> Decider<'a> {
    pub(crate) fn new(store: &'a Store, repair: bool) -> Self {
        Self { store, repair, made: Mutex::default() }
    }

    /// What is to be done about a task; `upstream` gives the content that an input has now, if it is there.
    pub(crate) fn decide(&self, task: &Task, upstream: impl Fn(usize) -> Option<String>) -> Decision {
        let found = if self.repair {
            self.store.lookup(task.stage, &task.key).and_then(|m| match m {
                Some(_) => self.store.verify(task.stage, &task.key).map(Some),
                None => Ok(None),
            })
        } else {
            self.store.lookup(task.stage, &task.key)
        };
        match found {
            Ok(Some(manifest)) => {
                let rebuilt = task.inputs.iter().find(|(role, input)| {
                    let used = manifest.inputs.get(**role).map(|i| i.content.to_string());
                    upstream(**input).is_some_and(|now| used.is_some_and(|used| used != now))
                });
                match rebuilt {
                    Some((role, _)) => Decision::Run(DirtyReason::InputRebuilt { role: (*role).to_owned() }),
                    None => Decision::Cached(Box::new(manifest)),
                }
            }
            Ok(None) => Decision::Run(self.what_changed(task)),
            Err(e) if self.repair && e.rebuild_helps() => Decision::Run(DirtyReason::Damaged { what: e.to_string() }),
            Err(e) => Decision::Refuse(e),
        }
    }

    /// Compares a task that is not there with what its stage has made: fewest changes first, then the newest.
    fn what_changed(&self, task: &Task) -> DirtyReason {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let of_stage = made.entry(task.stage.to_owned());
        of_stage
            .or_insert_with(|| self.store.manifests(task.stage).unwrap_or_default())
            .iter()
            .map(|m| (task.identity.diff(&m.identity), m))
            .min_by(|a, b| a.0.len().cmp(&b.0.len()).then_with(|| b.1.created.cmp(&a.1.created)))
            .map_or(DirtyReason::NeverRan, |(changes, m)| DirtyReason::Changed { nearest: m.key, changes })
    }
}

impl Plan {
    /// Decides about every task, as far as that can be known before anything runs.
    #[must_use]
    pub fn decide(&self, store: &Store, repair: bool) -> Vec<Decision> {
        let decider = Decider::new(store, repair);
        let mut decisions: Vec<Decision> = Vec::with_capacity(self.tasks.len());
        for task in &self.tasks {
            let decision = decider.decide(task, |i| match &decisions[i] {
                Decision::Cached(m) => Some(m.content.to_string()),
                _ => None,
            });
            decisions.push(decision);
        }
        decisions
    }
}
