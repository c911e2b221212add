//! Prints what happens during a run as it happens: what there is to do, each task, and a summary.

use crate::{printer::Printer, render};
use hemlock_pipeline::{DirtyReason, Event, Observer, Plan, Summary, Task, TaskOutcome};
use hemlock_report::words;
use hemlock_store::Key;
use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

/// An observer that prints what happens during a run.
pub(super) struct RunReporter<'a> {
    printer: &'a Printer,
    /// What is run: a pipeline, or a part of it.
    what: String,
    /// Descriptions of the tasks, by node and key.
    names: HashMap<(&'static str, Key), String>,
    /// Whether tasks with nothing to do are printed. Otherwise, only their number is, at the end.
    all: bool,
    /// Whether this run is on the way to a later one, which prints plan and summary. Then only tasks are printed.
    on_the_way: bool,
    started: Instant,
    /// Number of tasks that were left to do at the beginning; `done` is the number of those that have ended.
    left: AtomicUsize,
    done: AtomicUsize,
}

impl<'a> RunReporter<'a> {
    /// Makes an observer for the tasks of a plan, up to a stage.
    pub(super) fn new(printer: &'a Printer, plan: &Plan, until: Option<&str>, all: bool, on_the_way: bool) -> Self {
        let names = plan.tasks.iter().map(|task| (task.node, task.key)).zip(render::tasks(plan)).collect();
        let what = until.map_or_else(|| plan.pipeline.clone(), |stage| format!("{} up to {stage}", plan.pipeline));
        let (left, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { printer, what, names, all, on_the_way, started: Instant::now(), left, done }
    }

    fn say(&self, what: &str, task: &Task, more: &str) {
        let name = self.names.get(&(task.node, task.key)).map_or(task.node, String::as_str);
        self.printer.note(&format!("{what:>10}  {name}{more}"));
    }

    /// Counts the task that has just ended, and returns how many of the tasks that were left are done.
    fn counted(&self) -> String {
        let (done, left) = (self.done.fetch_add(1, Ordering::Relaxed) + 1, self.left.load(Ordering::Relaxed));
        if left > 1 && done <= left { format!(" ({done} of {left})") } else { String::new() }
    }

    /// Prints a summary of a run.
    pub(super) fn sum_up(&self, summary: &Summary) {
        let count = |of: fn(&TaskOutcome) -> bool| summary.outcomes.iter().filter(|(_, outcome)| of(outcome)).count();
        let ran = count(|o| matches!(o, TaskOutcome::Ran { .. }));
        let cached = count(|o| matches!(o, TaskOutcome::Cached));
        let failed = count(|o| matches!(o, TaskOutcome::Failed(_)));
        let skipped = count(|o| matches!(o, TaskOutcome::Skipped { .. }));
        if self.on_the_way && failed + skipped == 0 {
            return;
        }
        let mut said = format!("{}: {} ran, {cached} cached", self.what, words::count(ran, "task"));
        for (number, how) in [(failed, "failed"), (skipped, "skipped")].into_iter().filter(|(n, _)| *n > 0) {
            said += &format!(", {number} {how}");
        }
        if ran + failed > 0 {
            said += &format!(", {}", words::seconds(self.started.elapsed().as_secs_f64()));
        }
        self.printer.note(&said);
    }
}

impl Observer for RunReporter<'_> {
    fn event(&self, event: Event) {
        match event {
            Event::Planned { tasks, cached } => {
                let left = tasks - cached;
                self.left.store(left, Ordering::Relaxed);
                if left > 0 && !self.on_the_way {
                    let tasks = words::count(tasks, "task");
                    self.printer.note(&format!("{}: {tasks}, {cached} cached, {left} to run", self.what));
                }
            }
            Event::Started(task, DirtyReason::NeverRan) => self.say("running", task, ""),
            Event::Started(task, reason) => {
                self.say("running", task, &format!(" ({})", render::brief(reason, task.node)));
            }
            Event::Sweeping => self.printer.note("waiting for another process to finish removing garbage"),
            Event::Waiting(task) => self.say("waiting", task, ": another process is working on it"),
            Event::Finished(task, outcome) => match outcome {
                TaskOutcome::Cached if !self.all => {}
                TaskOutcome::Cached => self.say("cached", task, ""),
                TaskOutcome::Ran { took, .. } => {
                    let took = words::seconds(took.as_secs_f64());
                    self.say("done", task, &format!(" in {took}{}", self.counted()));
                }
                TaskOutcome::Failed(_) => self.say("failed", task, ""),
                TaskOutcome::Skipped { .. } => self.say("skipped", task, ": a task that it reads from failed"),
            },
        }
    }
}
