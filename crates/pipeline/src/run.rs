//! The runner: does what a plan leaves to do, one task at a time, in this process.

use crate::{Decision, DirtyReason, Graph, Plan, Task, decide::Decider, garbage};
use hemlock_stage::{Cancel, Checkpoints, Context, Environment, ErrorKind, InputSet, Progress, StageError};
use hemlock_store::{InputRecord, Key, Lock, Manifest, ManifestDraft, Store, StoreError};
use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

/// What to run and how.
pub struct RunOptions<'a> {
    /// Last stage to run; all of them where it is `None`.
    pub until: Option<&'a str>,
    /// Runs the task of this key and nothing else; its inputs must be there.
    pub only: Option<Key>,
    /// Stage whose tasks run even where their artifacts are there.
    pub force: Option<&'a str>,
    /// Checks artifacts byte by byte, and rebuilds damaged ones rather than refusing them.
    pub repair: bool,
    /// Name of the backend to compute on.
    pub device: &'a str,
    /// Whether that backend gives the same bytes every time.
    pub deterministic: bool,
    /// Opens the backend's device; asked once, before any task that would need it.
    pub probe: &'a dyn Fn() -> Result<(), StageError>,
    /// Where raw data is found.
    pub env: &'a Environment,
    /// Shows how far a stage is.
    pub progress: &'a dyn Progress,
    /// A request to stop.
    pub cancel: &'a Cancel,
}

/// What becomes of a task.
#[derive(Debug)]
pub enum Outcome {
    /// The artifact was there.
    Cached,
    /// The task ran.
    Ran {
        /// Why it had to.
        reason: DirtyReason,
        /// How long it took.
        took: Duration,
    },
    /// The task failed.
    Failed(StageError),
    /// The task needs the artifact of another one, which failed.
    Skipped {
        /// Number of the other task in the plan.
        because: usize,
    },
}

/// What happens during a run, in order.
pub enum Event<'a> {
    /// A task begins.
    Started(&'a Task, &'a DirtyReason),
    /// Another process works on the same artifact; this one waits for it.
    Waiting(&'a Task),
    /// A task is through.
    Finished(&'a Task, &'a Outcome),
}

/// Watches a run.
pub trait Observer {
    /// Something happened.
    fn event(&self, event: Event);
}

/// What a run did.
#[derive(Debug, Default)]
pub struct Summary {
    /// Outcome of every task that was looked at, by its number in the plan.
    pub outcomes: Vec<(usize, Outcome)>,
}

impl Summary {
    /// Numbers of the tasks that ran.
    pub fn ran(&self) -> impl Iterator<Item = usize> {
        self.outcomes.iter().filter(|(_, o)| matches!(o, Outcome::Ran { .. })).map(|(i, _)| *i)
    }
    /// All failures, with the tasks' numbers.
    pub fn into_failures(self) -> impl Iterator<Item = (usize, StageError)> {
        self.outcomes.into_iter().filter_map(|(i, o)| match o {
            Outcome::Failed(e) => Some((i, e)),
            _ => None,
        })
    }
}

/// A run that could not begin.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The plan has no task of the key that was asked for.
    #[error(
        "the plan of '{pipeline}' has no task {key}; the spec, its overrides or its data differ from those the key was made from"
    )]
    NoSuchTask {
        /// Name of the pipeline.
        pipeline: String,
        /// The key.
        key: Key,
    },
    /// The artifact root cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The device cannot be used.
    #[error(transparent)]
    Device(#[from] StageError),
}

/// Runs a plan. A failing task leaves the others' results intact: only what reads its artifact is skipped.
///
/// # Errors
/// The run cannot begin. Failures of tasks are in the summary.
pub fn run(
    plan: &Plan,
    graph: &Graph,
    store: &Store,
    options: &RunOptions,
    observer: &dyn Observer,
) -> Result<Summary, RunError> {
    let wanted = wanted(plan, graph, options)?;
    let decisions = plan.decide(store, options.repair);
    let needs_device = |i: &usize| {
        let task = &plan.tasks[*i];
        let runs = options.force == Some(task.stage) || !matches!(decisions[*i], Decision::Cached(_));
        runs && graph.node(task.node).is_some_and(|n| n.stage.uses_device(&task.params).unwrap_or(true))
    };
    if wanted.iter().any(needs_device) {
        (options.probe)()?;
    }
    garbage::record(plan, store)?;
    let decider = Decider::new(store, options.repair);
    let mut contents: Vec<Option<String>> = vec![None; plan.tasks.len()];
    let mut failed: Vec<Option<usize>> = vec![None; plan.tasks.len()];
    let mut summary = Summary::default();
    for (i, task) in plan.tasks.iter().enumerate().filter(|(i, _)| wanted.contains(i)) {
        let outcome = if let Some(because) = task.inputs.values().find_map(|input| failed[*input]) {
            Outcome::Skipped { because }
        } else {
            let runner = Runner { plan, graph, store, options, observer, decider: &decider, contents: &contents };
            match runner.task(task) {
                Ok((outcome, manifest)) => {
                    contents[i] = Some(manifest.content.to_string());
                    outcome
                }
                Err(e) => Outcome::Failed(e),
            }
        };
        observer.event(Event::Finished(task, &outcome));
        let stop = matches!(&outcome, Outcome::Failed(e) if e.kind() == ErrorKind::Interrupted);
        failed[i] = match &outcome {
            Outcome::Failed(_) => Some(i),
            Outcome::Skipped { because } => Some(*because),
            Outcome::Cached | Outcome::Ran { .. } => None,
        };
        summary.outcomes.push((i, outcome));
        if stop {
            break;
        }
    }
    Ok(summary)
}

/// The tasks that the options ask for.
fn wanted(plan: &Plan, graph: &Graph, options: &RunOptions) -> Result<BTreeSet<usize>, RunError> {
    if let Some(key) = options.only {
        let task = plan.tasks.iter().position(|t| t.key == key);
        return task
            .map(|t| BTreeSet::from([t]))
            .ok_or_else(|| RunError::NoSuchTask { pipeline: plan.pipeline.clone(), key });
    }
    let Some(until) = options.until else { return Ok((0..plan.tasks.len()).collect()) };
    debug_assert!(graph.stages().contains(&until));
    let mut wanted: BTreeSet<usize> = BTreeSet::new();
    for (i, task) in plan.tasks.iter().enumerate().rev() {
        if task.stage == until || wanted.contains(&i) {
            wanted.insert(i);
            wanted.extend(task.inputs.values());
        }
    }
    Ok(wanted)
}

struct Runner<'a> {
    plan: &'a Plan,
    graph: &'a Graph,
    store: &'a Store,
    options: &'a RunOptions<'a>,
    observer: &'a dyn Observer,
    decider: &'a Decider<'a>,
    /// Content of every artifact that this run has seen.
    contents: &'a [Option<String>],
}

impl Runner<'_> {
    fn decide(&self, task: &Task) -> Result<Result<Manifest, DirtyReason>, StageError> {
        let content = |i: usize| {
            let input = &self.plan.tasks[i];
            let found = || self.store.lookup(input.stage, &input.key).ok().flatten().map(|m| m.content.to_string());
            self.contents[i].clone().or_else(found)
        };
        match self.decider.decide(task, content) {
            Decision::Cached(_) if self.options.force == Some(task.stage) => Ok(Err(DirtyReason::Forced)),
            Decision::Cached(manifest) => Ok(Ok(*manifest)),
            Decision::Run(reason) => Ok(Err(reason)),
            Decision::Refuse(e) => Err(e.into()),
        }
    }

    fn task(&self, task: &Task) -> Result<(Outcome, Manifest), StageError> {
        if let Ok(Ok(manifest)) = self.decide(task) {
            return Ok((Outcome::Cached, manifest));
        }
        let lock = self.lock(task)?;
        // Another process may have made or replaced the artifact while this one waited.
        let reason = match self.decide(task)? {
            Ok(manifest) => return Ok((Outcome::Cached, manifest)),
            Err(reason) => reason,
        };
        self.observer.event(Event::Started(task, &reason));
        let started = Instant::now();
        let manifest = self.compute(task, &lock, started)?;
        Ok((Outcome::Ran { reason, took: started.elapsed() }, manifest))
    }

    /// Takes a task's lock, waiting for whoever holds it.
    fn lock(&self, task: &Task) -> Result<Lock, StageError> {
        let mut told = false;
        loop {
            if self.options.cancel.requested() {
                return Err(StageError::interrupted());
            }
            if let Some(lock) = self.store.try_lock(task.stage, &task.key)? {
                return Ok(lock);
            }
            if !told {
                self.observer.event(Event::Waiting(task));
                told = true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn compute(&self, task: &Task, lock: &Lock, started: Instant) -> Result<Manifest, StageError> {
        let node = self
            .graph
            .node(task.node)
            .ok_or_else(|| StageError::internal(format!("the graph has no node '{}'", task.node)))?;
        let (mut manifests, mut used) = (BTreeMap::new(), BTreeMap::new());
        for (role, input) in &task.inputs {
            let input = &self.plan.tasks[*input];
            let manifest = self.store.lookup(input.stage, &input.key)?.ok_or_else(|| {
                let message = format!(
                    "the input '{role}' ({}) is not there; run the stage '{}' first",
                    input.folder(),
                    input.stage
                );
                StageError::new(ErrorKind::Artifact, message)
            })?;
            let (stage, key, content) = (input.stage.to_owned(), input.key, manifest.content);
            used.insert((*role).to_owned(), InputRecord { stage, key, content });
            manifests.insert(*role, manifest);
        }
        let set = InputSet::new(self.store.clone(), manifests);
        let mut draft = lock.begin()?;
        let context = Context {
            seed: task.identity.seed.unwrap_or(0),
            device: self.options.device,
            env: self.options.env,
            progress: self.options.progress,
            cancel: self.options.cancel,
            checkpoints: &LockCheckpoints(lock),
            scratch: &lock.scratch()?,
        };
        // Backends panic where they fail (a lost device, memory that is used up); a user gets an error.
        let ran = catch_unwind(AssertUnwindSafe(|| node.stage.run(&task.params, &set, &context, &mut draft)));
        let summary = ran.map_err(|panic| {
            let what =
                panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            StageError::internal(format!(
                "the stage '{}' failed inside: {}",
                task.stage,
                what.unwrap_or("unknown panic")
            ))
        })??;
        let host = !node.stage.uses_device(&task.params)?;
        Ok(draft.publish(ManifestDraft {
            identity: task.identity.clone(),
            inputs: used,
            device: if host { "host".to_owned() } else { self.options.device.to_owned() },
            deterministic: host || self.options.deterministic,
            hemlock_version: env!("CARGO_PKG_VERSION").to_owned(),
            pipeline: self.plan.pipeline.clone(),
            seconds: started.elapsed().as_secs_f64(),
            summary,
        })?)
    }
}

struct LockCheckpoints<'a>(&'a Lock);

impl Checkpoints for LockCheckpoints<'_> {
    fn load(&self) -> Result<Option<Vec<u8>>, StageError> {
        Ok(self.0.load_checkpoint()?)
    }
    fn save(&self, state: &[u8]) -> Result<(), StageError> {
        Ok(self.0.save_checkpoint(state)?)
    }
}
