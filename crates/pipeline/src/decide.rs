//! Which tasks of a plan have to run, and why. The commands `plan`, `status`, `why` and `run` all decide here.

use crate::{
    Plan, Task,
    kin::{Cause, Kin},
};
use hemlock_store::{Key, Manifest, Store, StoreError};
use serde::Serialize;
use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

/// The reason why a task has to run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum DirtyReason {
    /// The artifact root has no artifact of the stage that the task could be compared with.
    NeverRan,
    /// The task differs from every artifact of its stage.
    Changed {
        /// Key of the nearest artifact.
        nearest: Key,
        /// The pipeline that made the nearest artifact, if it is another pipeline.
        #[serde(skip_serializing_if = "Option::is_none")]
        pipeline: Option<String>,
        /// The causes of the differences, at the nodes where they arise, in the order of the graph.
        changes: Vec<Cause>,
    },
    /// The artifact exists, but one of its inputs has been made again since, with other content.
    InputRebuilt {
        /// Role of the input.
        role: String,
    },
    /// The artifact is damaged.
    Damaged {
        /// What is wrong with the artifact.
        what: String,
    },
    /// The user forced the stage to run.
    Forced,
}

impl fmt::Display for DirtyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverRan => write!(f, "never ran here"),
            Self::Changed { nearest, changes, .. } => {
                let changes: Vec<String> = changes.iter().map(|c| format!("[{}] {}", c.node, c.change)).collect();
                write!(f, "differs from {}: {}", nearest.short(), changes.join("; "))
            }
            Self::InputRebuilt { role } => write!(f, "was made from another '{role}', which has been made again since"),
            Self::Damaged { what } => write!(f, "is damaged: {what}"),
            Self::Forced => write!(f, "was forced"),
        }
    }
}

/// The decision about a task.
#[derive(Debug)]
pub enum Decision {
    /// The artifact exists; there is nothing to do.
    Cached(Box<Manifest>),
    /// The task has to run.
    Run(DirtyReason),
    /// The artifact is damaged or cannot be read. A damaged one is only rebuilt if the user asks for it.
    Unusable(StoreError),
}

/// Makes decisions about the tasks of a plan, against one artifact root.
pub(crate) struct CacheCheck<'a> {
    plan: &'a Plan,
    store: &'a Store,
    /// Whether damaged artifacts are rebuilt rather than refused. If so, artifacts are checked byte by byte.
    repair: bool,
    /// Earlier artifacts, with which tasks that have to run are compared.
    kin: Mutex<Kin>,
}

impl<'a> CacheCheck<'a> {
    pub(crate) fn new(plan: &'a Plan, store: &'a Store, repair: bool) -> Self {
        Self { plan, store, repair, kin: Mutex::default() }
    }

    /// Decides about a task of the plan. `upstream` is called with the number of an input's task and returns the digest
    /// of the content that this input has now, if its artifact exists.
    pub(crate) fn decide(&self, number: usize, upstream: impl Fn(usize) -> Option<String>) -> Decision {
        let task: &Task = &self.plan.tasks[number];
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
            Ok(None) => {
                let mut kin = self.kin.lock().unwrap_or_else(PoisonError::into_inner);
                Decision::Run(kin.nearest(self.plan, number, self.store))
            }
            Err(e) if self.repair && e.rebuild_helps() => Decision::Run(DirtyReason::Damaged { what: e.to_string() }),
            Err(e) => Decision::Unusable(e),
        }
    }
}

impl Plan {
    /// Decides about every task, as far as the decisions can be known before anything runs.
    #[must_use]
    pub fn decide(&self, store: &Store, repair: bool) -> Vec<Decision> {
        let cache = CacheCheck::new(self, store, repair);
        let mut decisions: Vec<Decision> = Vec::with_capacity(self.tasks.len());
        for number in 0..self.tasks.len() {
            let decision = cache.decide(number, |i| match &decisions[i] {
                Decision::Cached(m) => Some(m.content.to_string()),
                _ => None,
            });
            decisions.push(decision);
        }
        decisions
    }
}
