//! The runner: does what a plan leaves to do, in this process, one task at a time or several side by side.

use crate::{Decision, DirtyReason, Graph, Plan, Task, decide::Decider, garbage, history::remember};
use hemlock_stage::{Bar, Cancel, Checkpoints, Context, Environment, ErrorKind, InputSet, Progress, StageError};
use hemlock_store::{InputRecord, Key, Lock, Manifest, ManifestDraft, Store, StoreError};
use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
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
    /// Name of the run, by which its results are found again.
    pub label: Option<&'a str>,
    /// Checks artifacts byte by byte, and rebuilds damaged ones rather than refusing them.
    pub repair: bool,
    /// Most tasks at a time. They share the threads of the processor, and what comes out is the same.
    pub jobs: NonZeroUsize,
    /// Name of the backend to compute on.
    pub backend: &'a str,
    /// Names of its devices, at least one. Tasks that run side by side take different ones, as far as there are.
    pub devices: &'a [String],
    /// Whether that backend gives the same bytes every time.
    pub deterministic: bool,
    /// Opens the backend's device; asked once, before any task that would need it.
    pub probe: &'a (dyn Fn() -> Result<(), StageError> + Sync),
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
    /// The run begins: so many tasks were asked for, and the artifacts of so many of them are there.
    Planned {
        /// Number of tasks.
        tasks: usize,
        /// Number of those with nothing to do, as far as is known before anything runs.
        cached: usize,
    },
    /// A task begins.
    Started(&'a Task, &'a DirtyReason),
    /// Another process works on the same artifact; this one waits for it.
    Waiting(&'a Task),
    /// A task is through.
    Finished(&'a Task, &'a Outcome),
    /// Another process removes garbage; the run begins when it is done.
    Sweeping,
}

/// Watches a run.
pub trait Observer: Sync {
    /// Something happened.
    fn event(&self, event: Event);
}

/// What a run did.
#[derive(Debug, Default)]
pub struct Summary {
    /// Outcome of every task that was looked at, by its number in the plan, in that order.
    pub outcomes: Vec<(usize, Outcome)>,
    /// Overrides of the run that had the label of this one until now.
    pub renamed: Option<Vec<String>>,
}

impl Summary {
    /// Numbers of the tasks that ran.
    pub fn ran(&self) -> impl Iterator<Item = usize> {
        self.outcomes.iter().filter(|(_, o)| matches!(o, Outcome::Ran { .. })).map(|(i, _)| *i)
    }
    /// All failures, with the tasks' numbers; of tasks that were interrupted the first one.
    pub fn into_failures(self) -> impl Iterator<Item = (usize, StageError)> {
        let mut interrupted = false;
        self.outcomes.into_iter().filter_map(move |(i, o)| match o {
            Outcome::Failed(e) if e.kind() == ErrorKind::Interrupted && std::mem::replace(&mut interrupted, true) => {
                None
            }
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
    let left = |i: &&usize| {
        let task = &plan.tasks[**i];
        options.force == Some(task.stage) || !matches!(store.lookup(task.stage, &task.key), Ok(Some(_)))
    };
    let left: Vec<&Task> = wanted.iter().filter(left).map(|i| &plan.tasks[*i]).collect();
    let needs_device =
        |task: &&Task| graph.node(task.node).is_some_and(|n| n.stage.uses_device(&task.params).unwrap_or(true));
    if left.iter().any(needs_device) {
        (options.probe)()?;
    }
    observer.event(Event::Planned { tasks: wanted.len(), cached: wanted.len() - left.len() });
    // Before anything is looked for: what is found shall still be there when it is read.
    let _claim = store.claim(&garbage::record(plan)?, || observer.event(Event::Sweeping))?;
    // A single task is part of what was asked for elsewhere.
    let renamed = match options.only {
        Some(_) => None,
        None => remember(plan, options.label, store)?,
    };
    let runner = Runner { plan, graph, store, options, observer, decider: Decider::new(plan, store, options.repair) };
    let tasks = wanted.len();
    let board = Board::new(plan, wanted);
    thread::scope(|scope| {
        let (runner, board) = (&runner, &board);
        for worker in 1..options.jobs.get().min(tasks).min(MOST_WORKERS) {
            let work = move || runner.work(worker, board);
            if let Err(e) = thread::Builder::new().spawn_scoped(scope, work) {
                tracing::warn!("fewer tasks run side by side, as there is no thread for more than {worker}: {e}");
                break;
            }
        }
        runner.work(0, board);
    });
    Ok(Summary { renamed, ..board.summary() })
}

/// Most tasks at a time, whatever is asked for: each is a thread.
const MOST_WORKERS: usize = 256;

/// Which tasks are waiting, under way and through; workers take tasks from it.
struct Board<'a> {
    plan: &'a Plan,
    state: Mutex<State>,
    /// Told whenever a task is through.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: BTreeSet<usize>,
    running: BTreeSet<usize>,
    outcomes: BTreeMap<usize, Outcome>,
    /// Of tasks that failed or were skipped: the one that failed.
    failed: BTreeMap<usize, usize>,
    /// Content of every artifact that this run has seen.
    contents: BTreeMap<usize, String>,
    /// No task is begun any more.
    stopped: bool,
}

impl<'a> Board<'a> {
    fn new(plan: &'a Plan, wanted: BTreeSet<usize>) -> Self {
        Self { plan, state: Mutex::new(State { waiting: wanted, ..State::default() }), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the first task whose inputs are through, waiting for one if need be; `None`: there is none any more. With
    /// it comes how many tasks share the processor, of `most` that may.
    fn take(&self, most: usize) -> Option<(usize, usize)> {
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

    /// The failed task because of which a task cannot run.
    fn obstacle(&self, task: usize) -> Option<usize> {
        let state = self.state();
        self.plan.tasks[task].inputs.values().find_map(|input| state.failed.get(input).copied())
    }

    fn content(&self, task: usize) -> Option<String> {
        self.state().contents.get(&task).cloned()
    }

    fn finish(&self, task: usize, outcome: Outcome, content: Option<String>) {
        let mut state = self.state();
        match &outcome {
            Outcome::Failed(e) => {
                state.stopped |= e.kind() == ErrorKind::Interrupted;
                state.failed.insert(task, task);
            }
            Outcome::Skipped { because } => drop(state.failed.insert(task, *because)),
            Outcome::Cached | Outcome::Ran { .. } => {}
        }
        state.contents.extend(content.map(|content| (task, content)));
        state.running.remove(&task);
        state.outcomes.insert(task, outcome);
        drop(state);
        self.changed.notify_all();
    }

    fn summary(self) -> Summary {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        Summary { outcomes: state.outcomes.into_iter().collect(), renamed: None }
    }
}

impl State {
    /// Whether all inputs of a task are through, as far as they are asked for.
    fn is_ready(&self, plan: &Plan, task: usize) -> bool {
        !plan.tasks[task].inputs.values().any(|input| self.waiting.contains(input) || self.running.contains(input))
    }
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
    decider: Decider<'a>,
}

impl Runner<'_> {
    /// Does tasks until none is left, on the device that falls to the worker of that number.
    fn work(&self, worker: usize, board: &Board) {
        let devices = self.options.devices;
        let device = devices.get(worker % devices.len().max(1)).map_or(self.options.backend, String::as_str);
        while let Some((i, sharing)) = board.take(self.options.jobs.get()) {
            let task = &self.plan.tasks[i];
            let (outcome, content) = match board.obstacle(i) {
                Some(because) => (Outcome::Skipped { because }, None),
                // Whatever happens, others wait for this task to be through.
                None => match caught(task, || self.task(i, board, device, sharing)) {
                    Ok((outcome, manifest)) => (outcome, Some(manifest.content.to_string())),
                    Err(e) => (Outcome::Failed(e), None),
                },
            };
            self.observer.event(Event::Finished(task, &outcome));
            board.finish(i, outcome, content);
        }
    }

    fn decide(&self, number: usize, board: &Board) -> Result<Result<Manifest, DirtyReason>, StageError> {
        let task = &self.plan.tasks[number];
        let content = |i: usize| {
            let input = &self.plan.tasks[i];
            let found = || self.store.lookup(input.stage, &input.key).ok().flatten().map(|m| m.content.to_string());
            board.content(i).or_else(found)
        };
        match self.decider.decide(number, content) {
            Decision::Cached(_) if self.options.force == Some(task.stage) => Ok(Err(DirtyReason::Forced)),
            Decision::Cached(manifest) => Ok(Ok(*manifest)),
            Decision::Run(reason) => Ok(Err(reason)),
            Decision::Refuse(e) => Err(e.into()),
        }
    }

    fn task(
        &self,
        number: usize,
        board: &Board,
        device: &str,
        sharing: usize,
    ) -> Result<(Outcome, Manifest), StageError> {
        let task = &self.plan.tasks[number];
        if let Ok(Ok(manifest)) = self.decide(number, board) {
            if let Err(e) = self.store.tidy(task.stage, &task.key) {
                tracing::debug!("scratch of {} stays behind: {e}", task.folder());
            }
            return Ok((Outcome::Cached, manifest));
        }
        let lock = self.lock(task)?;
        // Another process may have made or replaced the artifact while this one waited.
        let reason = match self.decide(number, board)? {
            Ok(manifest) => return Ok((Outcome::Cached, manifest)),
            Err(reason) => reason,
        };
        self.observer.event(Event::Started(task, &reason));
        let started = Instant::now();
        let manifest = on_share(sharing, || self.compute(task, &lock, device, started))?;
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
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn compute(&self, task: &Task, lock: &Lock, device: &str, started: Instant) -> Result<Manifest, StageError> {
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
        let named = Named { progress: self.options.progress, task };
        let context = Context {
            seed: task.identity.seed.unwrap_or(0),
            device,
            env: self.options.env,
            progress: if self.options.jobs.get() > 1 { &named } else { self.options.progress },
            cancel: self.options.cancel,
            checkpoints: &LockCheckpoints(lock),
            scratch: &lock.scratch()?,
        };
        let summary = node.stage.run(&task.params, &set, &context, &mut draft)?;
        let host = !node.stage.uses_device(&task.params)?;
        Ok(draft.publish(ManifestDraft {
            identity: task.identity.clone(),
            inputs: used,
            device: if host { "host".to_owned() } else { self.options.backend.to_owned() },
            deterministic: host || self.options.deterministic,
            hemlock_version: env!("CARGO_PKG_VERSION").to_owned(),
            pipeline: self.plan.pipeline.clone(),
            seconds: started.elapsed().as_secs_f64(),
            summary,
        })?)
    }
}

/// Runs `work`, and turns a panic into an error: backends panic where they fail (a lost device, memory that is used
/// up).
fn caught<T>(task: &Task, work: impl FnOnce() -> Result<T, StageError>) -> Result<T, StageError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(panicked(task.stage, what.unwrap_or("unknown panic")))
    })
}

/// What a panic in a stage means.
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

/// Runs `work` on as many threads as fall to one of `sharing` tasks.
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

/// Progress of one of several tasks: it says which.
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

struct LockCheckpoints<'a>(&'a Lock);

impl Checkpoints for LockCheckpoints<'_> {
    fn load(&self) -> Result<Option<Vec<u8>>, StageError> {
        Ok(self.0.load_checkpoint()?)
    }
    fn save(&self, state: &[u8]) -> Result<(), StageError> {
        Ok(self.0.save_checkpoint(state)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_stage::{About, StageRole};
    use hemlock_store::Identity;
    use serde_json::Value;

    /// A plan of tasks that read what those of these numbers make.
    fn plan(inputs: &[&[usize]]) -> Plan {
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

    fn board(plan: &Plan) -> Board<'_> {
        Board::new(plan, (0..plan.tasks.len()).collect())
    }

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
    fn tasks_are_taken_as_their_inputs_come_through_and_share_by_how_many_could_run() {
        // 0 and 1 begin; 2 and 3 read 0; 4 reads 1 and 2.
        let plan = plan(&[&[], &[], &[0], &[0], &[1, 2]]);
        let board = board(&plan);
        assert_eq!(board.take(4), Some((0, 2)));
        assert_eq!(board.take(4), Some((1, 2)));
        board.finish(0, Outcome::Cached, Some("content".to_owned()));
        assert_eq!(board.content(0).as_deref(), Some("content"));
        assert_eq!(board.take(2), Some((2, 2)), "of three that could run, two may");
        assert_eq!(board.take(4), Some((3, 3)));
        for task in [1, 2, 3] {
            board.finish(task, Outcome::Cached, None);
        }
        assert_eq!(board.take(4), Some((4, 1)));
        board.finish(4, Outcome::Cached, None);
        assert_eq!(board.take(4), None);
        assert_eq!(board.summary().outcomes.len(), 5);
    }

    #[test]
    fn a_failure_stands_in_the_way_of_what_reads_it_and_an_interruption_of_all() {
        let plan = plan(&[&[], &[0], &[1], &[]]);
        let board = board(&plan);
        board.take(1);
        board.finish(0, Outcome::Failed(StageError::internal("no")), None);
        assert_eq!((board.take(1), board.obstacle(1)), (Some((1, 1)), Some(0)));
        board.finish(1, Outcome::Skipped { because: 0 }, None);
        assert_eq!((board.obstacle(2), board.obstacle(3)), (Some(0), None));
        board.finish(2, Outcome::Failed(StageError::interrupted()), None);
        assert_eq!(board.take(1), None);
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
