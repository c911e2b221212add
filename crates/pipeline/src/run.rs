//! The runner: runs the tasks of a plan in this process, one at a time or several side by side.

mod kept;
mod task_queue;

use crate::{Decision, DirtyReason, Graph, Node, Plan, Task, decide::CacheCheck, garbage, history::remember};
use hemlock_stage::{Bar, Cancel, ChildCommand, Context, Environment, ErrorKind, InputSet, Part, Progress, StageError};
use hemlock_store::{InputRecord, Key, Manifest, ManifestDraft, Store, StoreError};
use kept::{Kept, Right};
use std::{
    collections::{BTreeMap, BTreeSet},
    iter::once,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    thread,
    time::{Duration, Instant},
};
use task_queue::TaskQueue;

/// What to run, and how.
pub struct RunOptions<'a> {
    /// Name of the last stage to run; `None` runs all stages.
    pub until: Option<&'a str>,
    /// Runs only the task with this key, whose inputs must exist.
    pub only: Option<Key>,
    /// Computes only this part of the task [`RunOptions::only`], and keeps it for the run of the whole task.
    pub part: Option<Part>,
    /// Name of a stage whose tasks run even if their artifacts exist.
    pub force: Option<&'a str>,
    /// Label of the run, by which its results can be found again.
    pub label: Option<&'a str>,
    /// Whether artifacts are checked byte by byte, and damaged ones are rebuilt rather than refused.
    pub repair: bool,
    /// Most tasks that run at the same time. They share the processor's threads, and the number does not change
    /// results.
    pub jobs: NonZeroUsize,
    /// Name of the backend to compute on.
    pub backend: &'a str,
    /// Names of the backend's devices, at least one. Tasks that run side by side use different devices, as far as there
    /// are enough.
    pub devices: &'a [String],
    /// Whether the backend gives the same bytes every time.
    pub deterministic: bool,
    /// Opens the backend's device. It is called once, before any task runs, if a task needs the device.
    pub probe: &'a (dyn Fn() -> Result<(), StageError> + Sync),
    /// Where raw data is found.
    pub env: &'a Environment,
    /// Shows the progress of stages.
    pub progress: &'a dyn Progress,
    /// The request to stop.
    pub cancel: &'a Cancel,
}

/// The outcome of a task.
#[derive(Debug)]
pub enum TaskOutcome {
    /// The artifact existed already.
    Cached,
    /// The task ran.
    Ran {
        /// Why the task had to run.
        reason: DirtyReason,
        /// How long the task took.
        took: Duration,
    },
    /// The task failed.
    Failed(StageError),
    /// The task was not run, because it depends on another task that failed.
    Skipped {
        /// Number in the plan of the task that failed.
        because: usize,
    },
}

/// An event during a run.
pub enum Event<'a> {
    /// The run begins.
    Planned {
        /// Number of tasks that were asked for.
        tasks: usize,
        /// Number of those tasks that have nothing to do, as far as is known before anything runs.
        cached: usize,
    },
    /// A task begins, for the given reason.
    Started(&'a Task, &'a DirtyReason),
    /// Another process works on the task's artifact, and this one waits for it.
    Waiting(&'a Task),
    /// A task has ended, with the given outcome.
    Finished(&'a Task, &'a TaskOutcome),
    /// Another process removes garbage, and the run waits for it.
    Sweeping,
}

/// Observes a run.
pub trait Observer: Sync {
    /// Called with every event, from the thread where it happens.
    fn event(&self, event: Event);
}

/// The result of a run.
#[derive(Debug, Default)]
pub struct Summary {
    /// The outcome of every task that was looked at, with the task's number in the plan, in the order of the numbers.
    pub outcomes: Vec<(usize, TaskOutcome)>,
    /// Overrides of the run that had this run's label before, if it was another run.
    pub renamed: Option<Vec<String>>,
}

impl Summary {
    /// Numbers of the tasks that ran.
    pub fn ran(&self) -> impl Iterator<Item = usize> {
        self.outcomes.iter().filter(|(_, o)| matches!(o, TaskOutcome::Ran { .. })).map(|(i, _)| *i)
    }
    /// All failures, with the numbers of their tasks. If several tasks were interrupted, only the first one is
    /// included.
    pub fn into_failures(self) -> impl Iterator<Item = (usize, StageError)> {
        let mut interrupted = false;
        self.outcomes.into_iter().filter_map(move |(i, o)| match o {
            TaskOutcome::Failed(e)
                if e.kind() == ErrorKind::Interrupted && std::mem::replace(&mut interrupted, true) =>
            {
                None
            }
            TaskOutcome::Failed(e) => Some((i, e)),
            _ => None,
        })
    }
}

/// An error because of which a run could not begin.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The plan has no task with the given key.
    #[error(
        "the plan of '{pipeline}' has no task {key}; the spec, its overrides or its data differ from those the key was made from"
    )]
    NoSuchTask {
        /// Name of the pipeline.
        pipeline: String,
        /// The key.
        key: Key,
    },
    /// The task cannot be computed in parts.
    #[error("the task of the stage '{stage}' is not computed in parts with these parameters; leave `--part` out")]
    NoParts {
        /// The task's stage.
        stage: &'static str,
    },
    /// The artifact root cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The device cannot be used, or it is not known whether a task needs it.
    #[error(transparent)]
    Device(#[from] StageError),
}

/// Runs a plan. If a task fails, tasks that depend on it are skipped, and all others still run.
///
/// # Errors
/// The run cannot begin:
///
/// - The plan has no task with the key [`RunOptions::only`], or that task has no parts, and one was asked for.
/// - The device cannot be opened.
/// - A task is not of this graph, or its parameters are not its stage's.
/// - The artifact root cannot be used.
///
/// Failures of tasks are in the summary.
pub fn run(
    plan: &Plan,
    graph: &Graph,
    store: &Store,
    options: &RunOptions,
    observer: &dyn Observer,
) -> Result<Summary, RunError> {
    let wanted = wanted(plan, graph, options)?;
    let left = left(plan, &wanted, store, options);
    let mut needs_device = false;
    for task in &left {
        let stage = &node(graph, task)?.stage;
        needs_device |= stage.uses_device(&task.params)?;
        if options.part.is_some() && !stage.splits(&task.params)? {
            return Err(RunError::NoParts { stage: task.stage });
        }
    }
    if needs_device {
        (options.probe)()?;
    }
    observer.event(Event::Planned { tasks: wanted.len(), cached: wanted.len() - left.len() });
    // This comes before any artifact is looked up, so that no artifact that is found can be removed before it is read.
    let _claim = store.claim(&garbage::record(plan)?, || observer.event(Event::Sweeping))?;
    // A single task belongs to a run that was noted elsewhere.
    let renamed = match options.only {
        Some(_) => None,
        None => remember(plan, options.label, store)?,
    };
    let runner = Runner { plan, graph, store, options, observer, cache: CacheCheck::new(plan, store, options.repair) };
    let tasks = wanted.len();
    let queue = TaskQueue::new(plan, wanted);
    thread::scope(|scope| {
        let (runner, queue) = (&runner, &queue);
        for worker in 1..options.jobs.get().min(tasks).min(MOST_WORKERS) {
            let work = move || runner.work(worker, queue);
            if let Err(e) = thread::Builder::new().spawn_scoped(scope, work) {
                tracing::warn!("fewer tasks run side by side, as there is no thread for more than {worker}: {e}");
                break;
            }
        }
        runner.work(0, queue);
    });
    Ok(Summary { renamed, ..queue.summary() })
}

/// The commands that a run would let stages start as child processes: those of tasks that are left to do, and of what
/// these read. If artifacts are checked byte by byte, every task may be left to do.
///
/// # Errors
/// As [`run`], if a task is not of this graph, or if the plan lacks the task that was asked for.
pub fn commands(
    plan: &Plan,
    graph: &Graph,
    store: &Store,
    options: &RunOptions,
) -> Result<Vec<ChildCommand>, RunError> {
    let wanted = wanted(plan, graph, options)?;
    let left = if options.repair {
        wanted.iter().map(|i| &plan.tasks[*i]).collect()
    } else {
        left(plan, &wanted, store, options)
    };
    Ok(commands_of(plan, graph, left)?)
}

/// The commands that tasks would let stages start as child processes: their own, and those of what they read.
///
/// # Errors
/// If a task is not of this graph, or its parameters are not its stage's.
pub fn commands_of<'p>(
    plan: &'p Plan,
    graph: &Graph,
    tasks: impl IntoIterator<Item = &'p Task>,
) -> Result<Vec<ChildCommand>, StageError> {
    let mut commands: Vec<ChildCommand> = Vec::new();
    let read = |task: &'p Task| task.inputs.values().map(|i| &plan.tasks[*i]);
    for task in tasks.into_iter().flat_map(|task| once(task).chain(read(task))) {
        if let Some(command) = node(graph, task)?.stage.command(&task.params)?
            && !commands.iter().any(|known| known.words == command.words)
        {
            commands.push(command);
        }
    }
    Ok(commands)
}

/// The tasks among `wanted` that have something to do, as far as is known before anything runs.
fn left<'p>(plan: &'p Plan, wanted: &BTreeSet<usize>, store: &Store, options: &RunOptions) -> Vec<&'p Task> {
    let left =
        |task: &&Task| options.force == Some(task.stage) || !matches!(store.lookup(task.stage, &task.key), Ok(Some(_)));
    wanted.iter().map(|i| &plan.tasks[*i]).filter(left).collect()
}

/// Most workers, whatever is asked for, because each is a thread.
const MOST_WORKERS: usize = 256;

/// The node of a task.
fn node<'g>(graph: &'g Graph, task: &Task) -> Result<&'g Node, StageError> {
    graph.node(task.node).ok_or_else(|| StageError::internal(format!("the graph has no node '{}'", task.node)))
}

/// Numbers of the tasks that the options ask for.
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
    cache: CacheCheck<'a>,
}

impl Runner<'_> {
    /// Runs tasks until none is left, on the device of the given worker.
    fn work(&self, worker: usize, queue: &TaskQueue) {
        let devices = self.options.devices;
        let device = devices.get(worker % devices.len().max(1)).map_or(self.options.backend, String::as_str);
        while let Some((i, sharing)) = queue.take(self.options.jobs.get()) {
            let task = &self.plan.tasks[i];
            let (outcome, content) = match queue.obstacle(i) {
                Some(because) => (TaskOutcome::Skipped { because }, None),
                // A panic must not escape: other workers wait for this task to end.
                None => match caught(task, || self.task(i, queue, device, sharing)) {
                    Ok((outcome, manifest)) => (outcome, manifest.map(|manifest| manifest.content.to_string())),
                    Err(e) => (TaskOutcome::Failed(e), None),
                },
            };
            self.observer.event(Event::Finished(task, &outcome));
            queue.finish(i, outcome, content);
        }
    }

    fn decide(&self, number: usize, queue: &TaskQueue) -> Result<Result<Manifest, DirtyReason>, StageError> {
        let task = &self.plan.tasks[number];
        let content = |i: usize| {
            let input = &self.plan.tasks[i];
            let found = || self.store.lookup(input.stage, &input.key).ok().flatten().map(|m| m.content.to_string());
            queue.content(i).or_else(found)
        };
        match self.cache.decide(number, content) {
            Decision::Cached(_) if self.options.force == Some(task.stage) => Ok(Err(DirtyReason::Forced)),
            Decision::Cached(manifest) => Ok(Ok(*manifest)),
            Decision::Run(reason) => Ok(Err(reason)),
            Decision::Unusable(e) => Err(e.into()),
        }
    }

    /// Runs a task, or the part of it that was asked for. Returns the manifest of its artifact; a part has none.
    fn task(
        &self,
        number: usize,
        queue: &TaskQueue,
        device: &str,
        sharing: usize,
    ) -> Result<(TaskOutcome, Option<Manifest>), StageError> {
        let task = &self.plan.tasks[number];
        if let Ok(Ok(manifest)) = self.decide(number, queue) {
            if let Err(e) = self.store.tidy(task.stage, &task.key) {
                tracing::debug!("scratch of {} stays behind: {e}", task.folder());
            }
            return Ok((TaskOutcome::Cached, Some(manifest)));
        }
        let right = self.right(task)?;
        // Another process may have made or replaced the artifact while this one waited.
        let reason = match self.decide(number, queue)? {
            Ok(manifest) => return Ok((TaskOutcome::Cached, Some(manifest))),
            Err(reason) => reason,
        };
        self.observer.event(Event::Started(task, &reason));
        let started = Instant::now();
        let manifest = on_share(sharing, || self.compute(task, &right, device, started))?;
        Ok((TaskOutcome::Ran { reason, took: started.elapsed() }, manifest))
    }

    /// Takes the lock of a task, or the shared one of its parts, and waits if another process keeps it from that.
    fn right(&self, task: &Task) -> Result<Right, StageError> {
        let mut told = false;
        loop {
            if self.options.cancel.requested() {
                return Err(StageError::interrupted());
            }
            let (stage, key) = (task.stage, &task.key);
            let taken = match self.options.part {
                None => self.store.try_lock(stage, key)?.map(Right::Whole),
                Some(part) => self.store.try_shared_lock(stage, key)?.map(|lock| Right::Part(lock, part)),
            };
            if let Some(right) = taken {
                return Ok(right);
            }
            if !told {
                self.observer.event(Event::Waiting(task));
                told = true;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The artifacts that a task reads, and their record in its manifest.
    fn inputs(&self, task: &Task) -> Result<(InputSet, BTreeMap<String, InputRecord>), StageError> {
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
        Ok((InputSet::new(self.store.clone(), manifests), used))
    }

    /// Calls `work` with what a task is given besides parameters and inputs.
    fn in_context<T>(
        &self,
        task: &Task,
        device: &str,
        (kept, scratch): (&Kept, &Path),
        work: impl FnOnce(&Context) -> Result<T, StageError>,
    ) -> Result<T, StageError> {
        let named = Named { progress: self.options.progress, task };
        work(&Context {
            seed: task.identity.seed.unwrap_or(0),
            device,
            env: self.options.env,
            progress: if self.options.jobs.get() > 1 { &named } else { self.options.progress },
            cancel: self.options.cancel,
            checkpoints: kept,
            on_device: &kept.on_backend,
            scratch,
        })
    }

    /// Runs a task, and publishes its artifact; a part of a task is kept for the run of the whole task, and has none.
    fn compute(
        &self,
        task: &Task,
        right: &Right,
        device: &str,
        started: Instant,
    ) -> Result<Option<Manifest>, StageError> {
        let stage = &node(self.graph, task)?.stage;
        let (set, used) = self.inputs(task)?;
        let kept = Kept::new(right, self.options.backend, stage.uses_device(&task.params)?);
        let kept = (&kept, &*right.scratch()?);
        let lock = match right {
            Right::Whole(lock) => lock,
            Right::Part(_, part) => {
                self.in_context(task, device, kept, |context| stage.part(&task.params, &set, *part, context))?;
                return Ok(None);
            }
        };
        let mut draft = lock.begin()?;
        let summary =
            self.in_context(task, device, kept, |context| stage.run(&task.params, &set, context, &mut draft))?;
        let backends = kept.0.backends();
        let on_host = backends.iter().all(|backend| backend == kept::HOST);
        let manifest = draft.publish(ManifestDraft {
            identity: task.identity.clone(),
            inputs: used,
            deterministic: backends.len() == 1 && (on_host || self.options.deterministic),
            device: backends.join(" and "),
            hemlock_version: env!("CARGO_PKG_VERSION").to_owned(),
            pipeline: self.plan.pipeline.clone(),
            seconds: started.elapsed().as_secs_f64(),
            summary,
        })?;
        Ok(Some(manifest))
    }
}

/// Runs `work`, and turns a panic into an error. Backends panic when they fail: if a device is lost, for example, or
/// memory is exhausted.
fn caught<T>(task: &Task, work: impl FnOnce() -> Result<T, StageError>) -> Result<T, StageError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(panicked(task.stage, what.unwrap_or("unknown panic")))
    })
}

/// The error for a panic in a stage.
fn panicked(stage: &str, what: &str) -> StageError {
    if what.contains("out of device memory") || what.contains("Out of memory") {
        let message = format!(
            "the stage '{stage}' needs more memory than the device has left: end what else runs on it, run fewer tasks \
             side by side, or lower the stage's `batch`, if it has one"
        );
        return StageError::new(ErrorKind::Device, message);
    }
    StageError::internal(format!("the stage '{stage}' failed inside: {what}"))
}

/// Runs `work` on one task's share of the threads, where `sharing` tasks run side by side.
fn on_share<T: Send>(sharing: usize, work: impl FnOnce() -> T + Send) -> T {
    if sharing <= 1 {
        return work();
    }
    let threads = (rayon::current_num_threads() / sharing).max(1);
    match rayon::ThreadPoolBuilder::new().num_threads(threads).build() {
        Ok(pool) => pool.install(work),
        Err(e) => {
            tracing::warn!("tasks share all threads: {e}");
            work()
        }
    }
}

/// Progress that names the task, for when several tasks run side by side.
struct Named<'a> {
    progress: &'a dyn Progress,
    task: &'a Task,
}

impl Progress for Named<'_> {
    fn start(&self, label: &str, total: u64, unit: &'static str) -> Box<dyn Bar> {
        let Task { node, key, .. } = self.task;
        self.progress.start(&format!("{node} {}: {label}", key.short()), total, unit)
    }
}

#[cfg(test)]
mod tests {
    use super::{task_queue::tests::plan, *};

    #[test]
    fn a_device_without_memory_is_no_bug() {
        let e = panicked(
            "pretrain",
            "Error while reading data\nCaused by:\n  out of device memory allocating 135266304 bytes",
        );
        assert_eq!(e.kind(), ErrorKind::Device);
        assert!(e.to_string().contains("lower the stage's `batch`"), "{e}");
        assert_eq!(panicked("pretrain", "index out of bounds").kind(), ErrorKind::Internal);
    }

    #[test]
    fn threads_are_shared() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(6).build().unwrap();
        let threads = |sharing| pool.install(|| on_share(sharing, rayon::current_num_threads));
        assert_eq!([1, 2, 4, 6, 9].map(threads), [6, 3, 1, 1, 1]);
    }

    #[test]
    fn a_panic_is_an_error() {
        let plan = plan(&[&[]]);
        let e = caught::<()>(&plan.tasks[0], || panic!("lost")).unwrap_err();
        assert_eq!(e.to_string(), "the stage 'stage' failed inside: lost");
    }
}
