//! What happens during a run, told as it happens.

use crate::{printer::Printer, render};
use hemlock_pipeline::{Event, Observer, Outcome, Plan, Task};
use hemlock_store::Key;
use std::collections::HashMap;

/// Tells what happens during a run.
pub(super) struct Narrator<'a> {
    printer: &'a Printer,
    /// What tasks are called, by node and key.
    names: HashMap<(&'static str, Key), String>,
    /// Whether it tells of tasks with nothing to do; else their number is said at the end.
    all: bool,
}

impl<'a> Narrator<'a> {
    /// Of the tasks of a plan.
    pub(super) fn new(printer: &'a Printer, plan: &Plan, all: bool) -> Self {
        let names = plan.tasks.iter().map(|task| (task.node, task.key)).zip(render::tasks(plan)).collect();
        Self { printer, names, all }
    }

    fn say(&self, what: &str, task: &Task, more: &str) {
        let name = self.names.get(&(task.node, task.key)).map_or(task.node, String::as_str);
        self.printer.note(&format!("{what:>10}  {name}{more}"));
    }
}

impl Observer for Narrator<'_> {
    fn event(&self, event: Event) {
        match event {
            Event::Started(task, reason) => {
                self.say("running", task, &format!(" ({})", render::brief(reason, task.node)));
            }
            Event::Sweeping => self.printer.note("waiting for another process, which removes garbage"),
            Event::Waiting(task) => {
                self.say("waiting", task, ": another process works on it");
            }
            Event::Finished(task, outcome) => match outcome {
                Outcome::Cached if !self.all => {}
                Outcome::Cached => self.say("cached", task, ""),
                Outcome::Ran { took, .. } => self.say("done", task, &format!(" in {:.1}s", took.as_secs_f64())),
                Outcome::Failed(_) => self.say("failed", task, ""),
                Outcome::Skipped { .. } => self.say("skipped", task, ": an input is missing"),
            },
        }
    }
}
