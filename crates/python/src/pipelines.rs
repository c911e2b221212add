//! Pipelines and the command line: what `hemlock` does in a terminal, and the same results in Python.

use crate::failure::{Failed, failed};
use crate::work::{Call, work};
use hemlock::project::{FoundResults, ProjectContext, RunRequest, failures};
use hemlock_pipeline::{Event, Observer, Override, Plan, Selection, Spec, TaskOutcome, as_csv};
use hemlock_stage::{Environment, ErrorKind};
use pyo3::prelude::*;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Where a project is: the folders of artifacts, data and specs, and the device.
type Place = (PathBuf, PathBuf, PathBuf, String);

/// A spec by its name or path, or by a name and its content in JSON; its overrides, and its label.
type Named = (String, Option<String>, Vec<String>, Option<String>);

/// Runs the command `hemlock`, and returns its exit code. `program` is what starts further processes.
#[pyfunction]
#[pyo3(signature = (arguments, program=None))]
pub fn command(py: Python<'_>, arguments: Vec<OsString>, program: Option<PathBuf>) -> u8 {
    py.detach(|| hemlock::command(hemlock::graph(), arguments, program.as_deref()))
}

fn wrong(message: String) -> Failed {
    Failed::new(ErrorKind::Params, message)
}

fn project((root, data, pipelines, device): Place) -> Result<ProjectContext, Failed> {
    let env = Environment { data: Some(data), commands: Vec::new() };
    let device = device.parse().map_err(|e| wrong(format!("`device`: {e}")))?;
    Ok(ProjectContext { graph: hemlock::graph(), env, root, pipelines, device })
}

/// The spec that is named, and its overrides and label as options of a command, each after a space.
fn spec_of(
    project: &ProjectContext,
    (named, content, set, label): &Named,
    runs: bool,
) -> Result<(Spec, String), Failed> {
    let parse = |text: &String| text.parse::<Override>().map_err(|e| wrong(format!("`set`: '{text}': {e}")));
    let set = set.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    let spec = match content {
        None => project.spec(named, &set, label.as_deref(), runs),
        Some(content) => project.spec_of(named, &as_toml(content)?, &set, label.as_deref(), runs),
    };
    let options =
        set.iter().map(|set| format!(" --set '{set}'")).chain(label.iter().map(|label| format!(" --as {label}")));
    Ok((spec.map_err(|e| Failed::of(&e))?, options.collect()))
}

/// The text of a spec, from its content in JSON.
fn as_toml(content: &str) -> Result<String, Failed> {
    let content: Value = serde_json::from_str(content).map_err(|e| Failed::internal(e.to_string()))?;
    if let Some(path) = first_null(&content) {
        return Err(wrong(format!("`{path}` is None; expected a value, or leave the field out")));
    }
    let table = toml::Value::try_from(content).and_then(|table| toml::to_string(&table));
    table.map_err(|e| wrong(format!("the spec cannot be written as TOML: {e}")))
}

/// The path of the first field that is null.
fn first_null(value: &Value) -> Option<String> {
    let inside = |key: String, value: &Value| {
        first_null(value).map(|rest| if rest.is_empty() { key.clone() } else { format!("{key}.{rest}") })
    };
    match value {
        Value::Null => Some(String::new()),
        Value::Object(fields) => fields.iter().find_map(|(key, value)| inside(key.clone(), value)),
        Value::Array(list) => list.iter().enumerate().find_map(|(i, value)| inside(i.to_string(), value)),
        _ => None,
    }
}

fn plan_of(project: &ProjectContext, spec: &Spec) -> Result<Plan, Failed> {
    project.plan(spec).map_err(|e| Failed::of(&e))
}

/// Notes what happens during a run.
struct Notes<'a>(&'a Call);

impl Observer for Notes<'_> {
    fn event(&self, event: Event) {
        let name = |task: &hemlock_pipeline::Task| format!("{} {}", task.node, task.key.short());
        match event {
            Event::Planned { tasks, cached } => self.0.bars.note(format!("{tasks} tasks, {cached} cached")),
            Event::Started(task, _) => self.0.bars.note(format!("running {}", name(task))),
            Event::Waiting(task) => self.0.bars.note(format!("waiting {}: another process works on it", name(task))),
            Event::Sweeping => self.0.bars.note("waiting for another process to finish removing garbage".to_owned()),
            Event::Finished(task, TaskOutcome::Ran { took, .. }) => {
                self.0.bars.note(format!("done {} in {:.1} s", name(task), took.as_secs_f64()));
            }
            Event::Finished(task, TaskOutcome::Failed(_)) => self.0.bars.note(format!("failed {}", name(task))),
            Event::Finished(..) => {}
        }
    }
}

/// What to run: the last stage, whether it runs again, whether artifacts are repaired, how many tasks run side by side,
/// and whether commands may run.
type Request = (Option<String>, bool, bool, NonZeroUsize, bool);

/// Runs a pipeline. Returns its tasks, in JSON.
#[pyfunction]
#[pyo3(signature = (place, named, request, show=None))]
pub fn run(py: Python<'_>, place: Place, named: Named, request: Request, show: Option<Py<PyAny>>) -> PyResult<String> {
    let (until, force, repair, jobs, allow) = request;
    work(py, show.as_ref(), move |call| {
        let project = project(place)?;
        let (spec, _) = spec_of(&project, &named, true)?;
        let plan = plan_of(&project, &spec)?;
        if let Some(stage) = &until {
            project.known_stage(stage).map_err(|e| Failed::of(&e))?;
        }
        let request = RunRequest {
            until: until.as_deref(),
            only: None,
            part: None,
            force,
            label: named.3.as_deref(),
            repair,
            jobs,
        };
        let permit = |commands: &[hemlock_stage::ChildCommand]| match commands {
            [first, ..] if !allow => {
                let message = format!(
                    "the spec runs `{first}` on this machine; allow_command=True allows it. A spec that others wrote \
                     can run anything so"
                );
                Err(hemlock_stage::StageError::new(ErrorKind::Params, message).into())
            }
            _ => Ok(()),
        };
        let summary = project.run(&plan, &request, permit, (&call.bars, &call.cancel), &Notes(call));
        let summary = summary.map_err(|e| Failed::of(&e))?;
        let tasks: Vec<Value> = summary
            .outcomes
            .iter()
            .map(|(i, outcome)| {
                let task = &plan.tasks[*i];
                let (state, seconds) = match outcome {
                    TaskOutcome::Cached => ("cached", None),
                    TaskOutcome::Ran { took, .. } => ("ran", Some(took.as_secs_f64())),
                    TaskOutcome::Failed(_) => ("failed", None),
                    TaskOutcome::Skipped { .. } => ("skipped", None),
                };
                json!({ "node": task.node, "stage": task.stage, "key": task.key, "state": state, "seconds": seconds })
            })
            .collect();
        call.check()?;
        match failures(&plan, summary).as_slice() {
            [] => Ok(json!({ "pipeline": spec.name, "tasks": tasks }).to_string()),
            [first, others @ ..] => {
                let more = others.iter().map(|e| format!("\n{e:#}")).collect::<String>();
                Err(match Failed::of(first) {
                    Failed::Said(kind, message) => Failed::Said(kind, message + &more),
                    other => other,
                })
            }
        }
    })
}

/// The results of a pipeline: one JSON object per result, or all as comma-separated values, as the command prints them;
/// how many are missing, and where there are others.
#[pyfunction]
#[pyo3(signature = (place, named, csv, show=None))]
pub fn results(
    py: Python<'_>,
    place: Place,
    named: Named,
    csv: bool,
    show: Option<Py<PyAny>>,
) -> PyResult<(Vec<String>, usize, Option<String>)> {
    work(py, show.as_ref(), move |_| {
        let project = project(place)?;
        let (spec, options) = spec_of(&project, &named, false)?;
        let plan = plan_of(&project, &spec)?;
        let found = project.results(&spec, &plan, &(named.0 + &options)).map_err(|e| Failed::of(&e))?;
        let FoundResults { rows, missing, elsewhere } = found;
        let internal = |e: &dyn std::fmt::Display| Failed::internal(e.to_string());
        let texts = if csv {
            vec![as_csv(rows.iter(), |measured| format!("{measured:?}")).map_err(|e| internal(&e))?]
        } else {
            rows.iter().map(serde_json::to_string).collect::<Result<_, _>>().map_err(|e| internal(&e))?
        };
        Ok((texts, missing, elsewhere))
    })
}

/// The artifacts that a stage of a pipeline has made, on the branches that are selected, in JSON. Their digests are
/// checked.
#[pyfunction]
#[pyo3(signature = (place, named, stage, select, show=None))]
pub fn artifacts(
    py: Python<'_>,
    place: Place,
    named: Named,
    stage: String,
    select: String,
    show: Option<Py<PyAny>>,
) -> PyResult<String> {
    work(py, show.as_ref(), move |call| {
        let project = project(place)?;
        let (spec, options) = spec_of(&project, &named, false)?;
        let plan = plan_of(&project, &spec)?;
        project.known_stage(&stage).map_err(|e| Failed::of(&e))?;
        let selection: Selection = select.parse().map_err(|e| wrong(format!("`select`: {e}")))?;
        let branches = selection.of(&plan).map_err(|e| wrong(format!("`select`: {e}")))?;
        let store = project.store();
        let mut keys = Vec::new();
        let mut made: Vec<Value> = Vec::new();
        for (node, number) in branches.iter().flat_map(|branch| &branch.tasks) {
            let task = &plan.tasks[*number];
            if task.stage != stage || keys.contains(&task.key) {
                continue;
            }
            call.check()?;
            keys.push(task.key);
            let there = store.lookup(task.stage, &task.key).map_err(failed)?;
            if there.is_none() {
                let message =
                    format!("{} is not there yet; run `hemlock {stage} {}{options}` first", task.folder(), named.0);
                return Err(Failed::new(ErrorKind::Artifact, message));
            }
            let checked = store.verify(task.stage, &task.key);
            let manifest = checked.map_err(failed)?;
            made.push(json!({
                "stage": task.stage, "node": node, "key": task.key, "params": task.params,
                "seed": task.identity.seed, "folder": store.artifact_dir(task.stage, &task.key),
                "summary": manifest.summary, "files": manifest.files.keys().collect::<Vec<_>>(),
            }));
        }
        if made.is_empty() {
            return Err(wrong(format!("no branch of '{}' that is selected has the stage '{stage}'", spec.name)));
        }
        Ok(json!(made).to_string())
    })
}

/// Writes a report on pipelines that have the same overrides, or on the results files `saved`, to a page and folders
/// beside it. Returns the paths of the page, of the tables and of the figures, and what was missing.
#[pyfunction]
#[pyo3(signature = (place, all, saved, paper=None, output=None, show=None))]
pub fn report(
    py: Python<'_>,
    place: Place,
    all: Vec<Named>,
    saved: Vec<PathBuf>,
    paper: Option<PathBuf>,
    output: Option<PathBuf>,
    show: Option<Py<PyAny>>,
) -> PyResult<(PathBuf, PathBuf, PathBuf, Vec<String>)> {
    work(py, show.as_ref(), move |_| {
        let project = project(place)?;
        let (mut pipelines, mut sets) = (Vec::new(), String::new());
        for named in all {
            let (spec, options) = spec_of(&project, &named, false)?;
            let plan = plan_of(&project, &spec)?;
            pipelines.push((named.0, spec, plan));
            sets = options;
        }
        let (paper, output) = (paper.as_deref(), output.as_deref());
        let written = match saved.as_slice() {
            [] => project.report(pipelines, &sets, paper, output),
            saved => project.report_saved(saved, paper, output).map_err(Into::into),
        };
        let written = written.map_err(|e| Failed::of(&e))?;
        Ok((written.page, written.tables, written.figures, written.missing))
    })
}
