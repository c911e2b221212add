//! Which tasks of a plan have to run, and why. `plan`, `status`, `why` and `run` all ask here.

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

/// Why a task has to run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum DirtyReason {
    /// Nothing that could be compared with it was ever made here.
    NeverRan,
    /// The nearest artifact that its stage has made is another one.
    Changed {
        /// Key of that artifact.
        nearest: Key,
        /// The pipeline that made it, where that is another one.
        #[serde(skip_serializing_if = "Option::is_none")]
        pipeline: Option<String>,
        /// What this comes down to: differences at the nodes where they arise, in the order of the graph.
        changes: Vec<Cause>,
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
    plan: &'a Plan,
    store: &'a Store,
    /// Damaged artifacts are rebuilt rather than refused, and are looked for byte by byte.
    repair: bool,
    /// What there was before, to say what changed.
    kin: Mutex<Kin>,
}

impl<'a> Decider<'a> {
    pub(crate) fn new(plan: &'a Plan, store: &'a Store, repair: bool) -> Self {
        Self { plan, store, repair, kin: Mutex::default() }
    }

    /// What is to be done about a task of the plan; `upstream` gives the content that an input has now, if it is there.
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
            Err(e) => Decision::Refuse(e),
        }
    }
}

impl Plan {
    /// Decides about every task, as far as that can be known before anything runs.
    #[must_use]
    pub fn decide(&self, store: &Store, repair: bool) -> Vec<Decision> {
        let decider = Decider::new(self, store, repair);
        let mut decisions: Vec<Decision> = Vec::with_capacity(self.tasks.len());
        for number in 0..self.tasks.len() {
            let decision = decider.decide(number, |i| match &decisions[i] {
                Decision::Cached(m) => Some(m.content.to_string()),
                _ => None,
            });
            decisions.push(decision);
        }
        decisions
    }
}
