//! Pipeline specs, the planner, the runner, and the questions that a plan can answer: status, why, results, diff,
//! export.
//!
//! A spec ([`Spec`]) sets parameters for the nodes of the graph ([`Graph`]). Lists fan out into branches, and
//! [`Plan::new`] turns these into tasks whose keys are known before anything runs. [`Plan::decide`] compares the tasks
//! with the artifact root, and [`run`] does what is left to do.

mod aggregate;
mod branches;
mod compare;
mod connections;
mod decide;
mod diff;
mod export;
mod garbage;
mod graph;
mod history;
mod kin;
pub mod nodes;
mod origin;
mod plan;
mod profiles;
mod records;
mod resources;
mod results;
mod results_file;
mod run;
mod schema;
mod select;
mod source;
mod spec;
mod telling;
#[cfg(test)]
mod tests;
mod variants;

pub use aggregate::{AggregatedRow, DetectionStats, MeanStd, VisibilityStats, aggregate, grouped};
pub use branches::MOST_BRANCHES;
pub use compare::{Both, Compared, Comparison, Pair, Side, compare, side};
pub use decide::{Decision, DirtyReason};
pub use diff::{Difference, StageDifference, StageTotal, diff, totals};
pub use export::{ExportError, Format, export, export_set};
pub use garbage::{GarbageSurvey, Unplanned, survey};
pub use graph::{Graph, Node};
pub use hemlock_poisoned_set::{LabelledSamples, PoisonedSet, SetFormat, SetSamples};
pub use history::{Asked, history, remember};
pub use kin::Cause;
pub use origin::{Answered, Origin, REPLICATED, read_answers};
pub use plan::{Branch, Plan, PlanError, Task};
pub use records::as_csv;
pub use resources::{Memory, Resources, Time};
pub use results::{ResultRow, rows, unknown};
pub use results_file::{ResultsFile, ResultsFileError, SavedPipeline};
pub use run::{Event, Observer, RunError, RunOptions, Summary, TaskOutcome, commands, commands_of, run};
pub use schema::schema;
pub use select::Selection;
pub use spec::{Override, Spec, SpecError, nearest};
pub use telling::{labels, telling, value_text};
