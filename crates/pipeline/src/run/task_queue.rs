//! The tasks of a run: which wait, run and have ended. Workers take their tasks from here.

use super::{Summary, TaskOutcome};
use crate::Plan;
use hemlock_stage::ErrorKind;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

/// Keeps track of which tasks wait, run and have ended.
pub(super) struct TaskQueue<'a> {
    plan: &'a Plan,
    state: Mutex<State>,
    /// Notified whenever a task has ended.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: BTreeSet<usize>,
    running: BTreeSet<usize>,
    outcomes: BTreeMap<usize, TaskOutcome>,
    /// For tasks that failed or were skipped: the task that failed.
    failed: BTreeMap<usize, usize>,
    /// Digest of the content of every artifact that this run has seen.
    contents: BTreeMap<usize, String>,
    /// Whether no further task may begin.
    stopped: bool,
}

impl<'a> TaskQueue<'a> {
    pub(super) fn new(plan: &'a Plan, wanted: BTreeSet<usize>) -> Self {
        Self { plan, state: Mutex::new(State { waiting: wanted, ..State::default() }), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the first task whose inputs have ended, and waits for one if necessary. Returns the task's number, and how
    /// many tasks share the processor, at most `most`. Returns `None` if no task is left or the run was stopped.
    pub(super) fn take(&self, most: usize) -> Option<(usize, usize)> {
        let mut state = self.state();
        loop {
            if state.stopped || state.waiting.is_empty() {
                return None;
            }
            let ready = state.waiting.iter().copied().filter(|i| state.is_ready(self.plan, *i));
            let ready: Vec<usize> = ready.take(most).collect();
            if let Some(task) = ready.first() {
                state.waiting.remove(task);
                state.running.insert(*task);
                return Some((*task, most.min(state.running.len() + ready.len() - 1)));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The failed task because of which `task` cannot run, if there is one.
    pub(super) fn obstacle(&self, task: usize) -> Option<usize> {
        let state = self.state();
        self.plan.tasks[task].inputs.values().find_map(|input| state.failed.get(input).copied())
    }

    pub(super) fn content(&self, task: usize) -> Option<String> {
        self.state().contents.get(&task).cloned()
    }

    pub(super) fn finish(&self, task: usize, outcome: TaskOutcome, content: Option<String>) {
        let mut state = self.state();
        match &outcome {
            TaskOutcome::Failed(e) => {
                state.stopped |= e.kind() == ErrorKind::Interrupted;
                state.failed.insert(task, task);
            }
            TaskOutcome::Skipped { because } => drop(state.failed.insert(task, *because)),
            TaskOutcome::Cached | TaskOutcome::Ran { .. } => {}
        }
        state.contents.extend(content.map(|content| (task, content)));
        state.running.remove(&task);
        state.outcomes.insert(task, outcome);
        drop(state);
        self.changed.notify_all();
    }

    pub(super) fn summary(self) -> Summary {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        Summary { outcomes: state.outcomes.into_iter().collect(), renamed: None }
    }
}

impl State {
    /// Whether no input of a task still waits or runs.
    fn is_ready(&self, plan: &Plan, task: usize) -> bool {
        !plan.tasks[task].inputs.values().any(|input| self.waiting.contains(input) || self.running.contains(input))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::Task;
    use hemlock_stage::{About, StageError, StageRole};
    use hemlock_store::Identity;
    use serde_json::Value;

    /// A plan whose tasks read the tasks with the given numbers.
    pub(in crate::run) fn plan(inputs: &[&[usize]]) -> Plan {
        let task = |(i, inputs): (usize, &&[usize])| {
            let identity = Identity {
                stage: "stage".to_owned(),
                stage_version: 1,
                params: Value::from(i),
                seed: None,
                source: None,
                inputs: BTreeMap::new(),
            };
            let roles = ["a", "b", "c"].into_iter().zip(inputs.iter().copied());
            Task {
                about: About::new(StageRole::Data, "make a test"),
                node: "stage",
                stage: "stage",
                params: Value::Null,
                key: identity.key(),
                identity,
                inputs: roles.collect(),
            }
        };
        let tasks = inputs.iter().enumerate().map(task).collect();
        Plan { pipeline: "p".to_owned(), spec: "p.toml".into(), overrides: Vec::new(), tasks, branches: Vec::new() }
    }

    fn queue(plan: &Plan) -> TaskQueue<'_> {
        TaskQueue::new(plan, (0..plan.tasks.len()).collect())
    }

    #[test]
    fn tasks_are_taken_as_their_inputs_come_through_and_share_by_how_many_could_run() {
        // 0 and 1 read nothing; 2 and 3 read 0; 4 reads 1 and 2.
        let plan = plan(&[&[], &[], &[0], &[0], &[1, 2]]);
        let queue = queue(&plan);
        assert_eq!(queue.take(4), Some((0, 2)));
        assert_eq!(queue.take(4), Some((1, 2)));
        queue.finish(0, TaskOutcome::Cached, Some("content".to_owned()));
        assert_eq!(queue.content(0).as_deref(), Some("content"));
        assert_eq!(queue.take(2), Some((2, 2)), "of three that could run, two may");
        assert_eq!(queue.take(4), Some((3, 3)));
        for task in [1, 2, 3] {
            queue.finish(task, TaskOutcome::Cached, None);
        }
        assert_eq!(queue.take(4), Some((4, 1)));
        queue.finish(4, TaskOutcome::Cached, None);
        assert_eq!(queue.take(4), None);
        assert_eq!(queue.summary().outcomes.len(), 5);
    }

    #[test]
    fn a_failure_stands_in_the_way_of_what_reads_it_and_an_interruption_of_all() {
        let plan = plan(&[&[], &[0], &[1], &[]]);
        let queue = queue(&plan);
        queue.take(1);
        queue.finish(0, TaskOutcome::Failed(StageError::internal("no")), None);
        assert_eq!((queue.take(1), queue.obstacle(1)), (Some((1, 1)), Some(0)));
        queue.finish(1, TaskOutcome::Skipped { because: 0 }, None);
        assert_eq!((queue.obstacle(2), queue.obstacle(3)), (Some(0), None));
        queue.finish(2, TaskOutcome::Failed(StageError::interrupted()), None);
        assert_eq!(queue.take(1), None);
    }
}
