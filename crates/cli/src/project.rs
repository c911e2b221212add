//! A project: where its specs, its data and its artifacts are. The command line and the Python module open it, and ask
//! it the same questions.

use crate::{args::misplaced, exit::Usage, render};
use anyhow::Result;
use hemlock_models::Backend;
use hemlock_pipeline::{
    Asked, Graph, Observer, Override, Plan, ResultRow, RunOptions, Spec, SpecError, Summary, Task, commands, history,
    nearest, rows, run,
};
use hemlock_report::{PipelineResults, ReportError, ReportFiles, report};
use hemlock_stage::{Cancel, ChildCommand, Environment, ErrorKind, Part, Progress, StageError, VALUE, short};
use hemlock_store::{Key, Store};
use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

/// Where a project's specs, data and artifacts are, and the device to compute on.
pub struct ProjectContext {
    /// The stages of its pipelines.
    pub graph: Graph,
    /// Where raw data is found.
    pub env: Environment,
    /// The folder of the artifacts.
    pub root: PathBuf,
    /// The folder of the specs that are given by name.
    pub pipelines: PathBuf,
    /// The backend to compute on.
    pub device: Backend,
}

/// Which part of a pipeline to run, and how.
#[derive(Clone, Copy)]
pub struct RunRequest<'a> {
    /// Name of the last stage to run; `None` runs all stages.
    pub until: Option<&'a str>,
    /// Runs only the task with this key.
    pub only: Option<Key>,
    /// Computes only this part of the task `only`.
    pub part: Option<Part>,
    /// Whether the tasks of the stage `until` run even if their artifacts exist.
    pub force: bool,
    /// Label of the run.
    pub label: Option<&'a str>,
    /// Whether artifacts are checked byte by byte, and damaged ones are rebuilt.
    pub repair: bool,
    /// Most tasks that run at the same time.
    pub jobs: NonZeroUsize,
}

/// The results of a plan so far.
pub struct FoundResults {
    /// One row per result, at least one.
    pub rows: Vec<ResultRow>,
    /// Number of results that are still missing.
    pub missing: usize,
    /// Where there are others, if some are missing.
    pub elsewhere: Option<String>,
}

impl ProjectContext {
    /// The store of its artifacts.
    #[must_use]
    pub fn store(&self) -> Store {
        Store::new(&self.root)
    }

    /// Loads the spec of a pipeline: its name in the pipelines folder, or the path of a .toml file. `runs`: it will be
    /// run, so its label may be new.
    ///
    /// # Errors
    /// There is no such pipeline, no run has the label, or the spec cannot be loaded.
    pub fn spec(&self, named: &str, set: &[Override], label: Option<&str>, runs: bool) -> Result<Spec> {
        let path =
            if named.ends_with(".toml") { PathBuf::from(named) } else { self.pipelines.join(format!("{named}.toml")) };
        if !path.exists() {
            if let Some(instead) = misplaced(named) {
                return Err(Usage(instead).into());
            }
            let reason = format!("{} is not there", short(&path.display().to_string(), VALUE));
            return Err(self.no_pipeline(named, &reason));
        }
        let overrides = self.overrides(&path, set, label, runs)?;
        Ok(Spec::load(&path, &overrides, &self.graph)?)
    }

    /// Checks the text of a spec that stands in no file. It counts as the pipeline `name`, and paths that it extends
    /// are relative to the pipelines folder.
    ///
    /// # Errors
    /// No run has the label, or the spec is wrong. The message names no line, because the text has no file.
    pub fn spec_of(&self, name: &str, text: &str, set: &[Override], label: Option<&str>, runs: bool) -> Result<Spec> {
        let path = self.pipelines.join(format!("{name}.toml"));
        let overrides = self.overrides(&path, set, label, runs)?;
        let nowhere = |e: SpecError| {
            if e.path == path { SpecError { path: format!("the spec '{name}'").into(), line: None, ..e } } else { e }
        };
        Ok(Spec::parse(&path, text, &overrides, &self.graph).map_err(nowhere)?)
    }

    /// The overrides that were given or, if a label was given, those of the run with that label.
    fn overrides(&self, spec: &Path, set: &[Override], label: Option<&str>, runs: bool) -> Result<Vec<Override>> {
        let Some(label) = label else { return Ok(set.to_vec()) };
        let known = history(spec, &self.store())?;
        let named = known.iter().find(|asked| asked.label.as_deref() == Some(label));
        let given: Vec<String> = set.iter().map(ToString::to_string).collect();
        match named {
            Some(asked) if set.is_empty() => {
                let parse = |o: &String| o.parse().map_err(|e| Usage(format!("--as {label}: {e}")));
                Ok(asked.overrides.iter().map(parse).collect::<Result<_, _>>()?)
            }
            Some(asked) if runs || asked.overrides == given => Ok(set.to_vec()),
            Some(_) => {
                let message = format!(
                    "--as {label} stands for the overrides of that run, which are others; give one of --as and --set"
                );
                Err(Usage(message).into())
            }
            None if runs => Ok(set.to_vec()),
            None => {
                let spec = spec.file_stem().unwrap_or_default().to_string_lossy();
                let labels: Vec<&str> = known.iter().filter_map(|asked| asked.label.as_deref()).collect();
                let expected = match (nearest(label, &labels), labels.is_empty()) {
                    (_, true) => format!("none has a name, which `hemlock run {spec} --as NAME` gives"),
                    (Some(meant), _) => format!("did you mean `{meant}`?"),
                    (None, _) => format!("`hemlock results {spec} --list` lists them"),
                };
                Err(Usage(format!("no run of '{spec}' is named '{label}'; {expected}")).into())
            }
        }
    }

    /// Paths of all specs in the pipelines folder.
    #[must_use]
    pub fn specs(&self) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(&self.pipelines)
            .map(|dir| dir.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "toml")).collect())
            .unwrap_or_default();
        paths.sort();
        paths
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.specs().iter().filter_map(|p| Some(p.file_stem()?.to_str()?.to_owned())).collect()
    }

    pub(crate) fn no_pipeline(&self, named: &str, reason: &str) -> anyhow::Error {
        let known = self.names();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let folder = self.pipelines.display();
        let expected = match (nearest(named, &known), known.len()) {
            (_, 0) => format!("there are no specs in {folder}; from another folder, -C DIR says where the project is"),
            (Some(meant), _) => format!("did you mean `{meant}`?"),
            (None, 0..=8) => format!("expected one of {}", known.join(", ")),
            (None, n) => format!("expected one of {} and {} more in {folder}", known[..6].join(", "), n - 6),
        };
        let named = short(named, VALUE);
        Usage(format!("there is no pipeline '{named}': {reason}; {expected}")).into()
    }

    /// Plans a spec.
    ///
    /// # Errors
    /// Raw data is missing or damaged.
    pub fn plan(&self, spec: &Spec) -> Result<Plan> {
        Ok(Plan::new(spec, &self.graph, &self.env)?)
    }

    /// Checks that the graph has a stage.
    ///
    /// # Errors
    /// It has not.
    pub fn known_stage(&self, stage: &str) -> Result<()> {
        let known = self.graph.stages();
        if known.contains(&stage) {
            return Ok(());
        }
        let meant = nearest(stage, &known).map_or_else(String::new, |meant| format!("; did you mean `{meant}`?"));
        let stage = short(stage, VALUE);
        Err(Usage(format!("there is no stage '{stage}'; expected one of {}{meant}", known.join(", "))).into())
    }

    /// Runs a plan. `permit` is called with the commands that it would start, and returns an error if they may not run.
    ///
    /// # Errors
    /// The run cannot begin, or its commands are not permitted. Failures of tasks are in the summary.
    pub fn run(
        &self,
        plan: &Plan,
        request: &RunRequest,
        permit: impl FnOnce(&[ChildCommand]) -> Result<()>,
        (progress, cancel): (&dyn Progress, &Cancel),
        observer: &dyn Observer,
    ) -> Result<Summary> {
        let (store, device) = (self.store(), self.device);
        let options = RunOptions {
            until: request.until,
            only: request.only,
            part: request.part,
            force: request.until.filter(|_| request.force),
            label: request.label,
            repair: request.repair,
            jobs: request.jobs,
            backend: &device.to_string(),
            devices: &hemlock_models::device::names_of(device),
            deterministic: device.is_deterministic(),
            probe: &|| Ok(hemlock_models::device::open(device).map(|_| ())?),
            env: &self.env,
            progress,
            cancel,
        };
        let commands = commands(plan, &self.graph, &store, &options)?;
        permit(&commands)?;
        let env = Environment { commands, ..self.env.clone() };
        Ok(run(plan, &self.graph, &store, &RunOptions { env: &env, ..options }, observer)?)
    }

    /// The results of a plan. `named` is what its commands call it.
    ///
    /// # Errors
    /// There are none yet, or an artifact is damaged.
    pub fn results(&self, spec: &Spec, plan: &Plan, named: &str) -> Result<FoundResults> {
        if !plan.tasks.iter().any(Task::is_evaluation) {
            return Err(Usage(format!("'{}' has no [evaluate], and so no results", spec.name)).into());
        }
        let (rows, missing) = rows(plan, &self.store())?;
        let elsewhere = if missing > 0 { self.elsewhere(spec, plan, named)? } else { None };
        if rows.is_empty() {
            return Err(none(spec, plan, named, elsewhere).into());
        }
        Ok(FoundResults { rows, missing, elsewhere })
    }

    /// Writes a report on pipelines, each given by its name in commands, its spec and its plan. `sets` are the
    /// overrides of all, as options of a command that begin with a space. The page is `output` or, without one, a file
    /// below `reports` that has the names of the pipelines.
    ///
    /// # Errors
    /// A pipeline evaluates nothing, none has a result, or there is an error of [`hemlock_report::report`].
    pub fn report(
        &self,
        pipelines: Vec<(String, Spec, Plan)>,
        sets: &str,
        paper: Option<&Path>,
        output: Option<&Path>,
    ) -> Result<ReportFiles> {
        let called: Vec<&str> = pipelines.iter().map(|(called, ..)| called.as_str()).collect();
        let mut reported: Vec<PipelineResults> = Vec::new();
        for (called, spec, plan) in &pipelines {
            if !plan.tasks.iter().any(Task::is_evaluation) {
                return Err(Usage(format!("'{}' has no [evaluate], and so nothing to report", spec.name)).into());
            }
            if !reported.iter().any(|p| p.name == spec.name) {
                let command = format!("hemlock run {called}{sets}");
                reported.push(PipelineResults::in_store(spec, plan, command, &self.store())?);
            }
        }
        let e = match self.write_report(reported, &format!("{}{sets}", called.join(" ")), "", paper, output) {
            Err(e @ ReportError::NothingMeasured { .. }) => anyhow::Error::new(e),
            written => return Ok(written?),
        };
        let elsewhere = pipelines.iter().map(|(_, spec, plan)| self.elsewhere(spec, plan, &(spec.name.clone() + sets)));
        let elsewhere = elsewhere.collect::<Result<Vec<_>>>()?.into_iter().flatten().next();
        Err(match elsewhere {
            Some(elsewhere) => e.context(elsewhere),
            None => e,
        })
    }

    /// Writes a report on the results in [results files](hemlock_pipeline::ResultsFile), as [`ProjectContext::report`]
    /// does.
    ///
    /// # Errors
    /// A file cannot be read, none has a result, or there is an error of [`hemlock_report::report`].
    pub fn report_saved(
        &self,
        files: &[PathBuf],
        paper: Option<&Path>,
        output: Option<&Path>,
    ) -> Result<ReportFiles, ReportError> {
        let from: Vec<String> = files.iter().map(|file| format!("--from {}", file.display())).collect();
        // Not the name of the report on the artifacts.
        self.write_report(PipelineResults::in_files(files)?, &from.join(" "), ".saved", paper, output)
    }

    /// Writes a report. `of` are the arguments of the command that it is about, and `suffix` ends the name of its file
    /// if there is no `output`.
    fn write_report(
        &self,
        reported: Vec<PipelineResults>,
        of: &str,
        suffix: &str,
        paper: Option<&Path>,
        output: Option<&Path>,
    ) -> Result<ReportFiles, ReportError> {
        let names: Vec<&str> = reported.iter().map(|p| p.name.as_str()).collect();
        let file = || Path::new("reports").join(format!("{}{suffix}.html", names.join("+")));
        let file = output.map_or_else(file, Path::to_owned);
        let typed = paper.map(|paper| format!(" --paper {}", paper.display())).unwrap_or_default();
        let command = format!("hemlock report {of}{typed} -o {}", file.display());
        report(reported, &self.store(), &command, paper, &file)
    }

    /// Says why a plan has no results although something was run: the run had other overrides, or the spec has changed.
    pub(crate) fn elsewhere(&self, spec: &Spec, plan: &Plan, named: &str) -> Result<Option<String>> {
        let store = self.store();
        let asked = history(&spec.path, &store)?;
        let (here, others): (Vec<&Asked>, Vec<&Asked>) = asked.iter().partition(|a| a.overrides == plan.overrides);
        let key = |t: &Task| (t.stage.to_owned(), t.key);
        let is_new = |a: &&&Asked| plan.tasks.iter().any(|t| t.is_evaluation() && !a.tasks.contains(&key(t)));
        if let Some(a) = here.first().filter(is_new) {
            let said = "the spec, or what it reads, has changed since it was run";
            return Ok(Some(format!("{said} ({}): `hemlock why {named}` says how", a.time)));
        }
        let others: Vec<&Asked> = others.into_iter().filter(|a| a.results(&self.graph, &store).0 > 0).collect();
        let Some(newest) = others.first() else { return Ok(None) };
        let name = &spec.name;
        let options = match (&newest.label, newest.overrides.as_slice()) {
            (Some(label), _) => format!(" --as {label}"),
            (None, []) => String::new(),
            (None, overrides) => format!(" {}", render::options(overrides, 300)),
        };
        let others = match others.len() {
            1 => String::new(),
            n => format!("; `hemlock results {name} --list` lists all {n} settings that have results"),
        };
        Ok(Some(format!("there are results of the run of {}: `hemlock results {name}{options}`{others}", newest.time)))
    }
}

/// The failures of a run, each with its task. A failure that stops several tasks counts once, such as a damaged file
/// that all of them read.
#[must_use]
pub fn failures(plan: &Plan, summary: Summary) -> Vec<anyhow::Error> {
    let mut failures: Vec<(String, StageError, Vec<String>)> = Vec::new();
    let names = render::tasks(plan);
    for (i, e) in summary.into_failures() {
        let (said, name) = (chain(&e), names[i].clone());
        match failures.iter_mut().find(|(known, ..)| *known == said) {
            Some((.., tasks)) => tasks.push(name),
            None => failures.push((said, e, vec![name])),
        }
    }
    let failed = |(_, e, tasks): (String, StageError, Vec<String>)| {
        let tasks = match tasks.as_slice() {
            [one] => one.clone(),
            [first, others @ ..] => format!("{first} and {} more", others.len()),
            [] => String::new(),
        };
        anyhow::Error::new(e).context(tasks)
    };
    failures.into_iter().map(failed).collect()
}

/// An error and its causes, in words.
fn chain(e: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(e), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The error that there are no results. It says what makes them, or where others are.
fn none(spec: &Spec, plan: &Plan, named: &str, elsewhere: Option<String>) -> StageError {
    let name = &spec.name;
    let with = if plan.overrides.is_empty() { "as its spec stands" } else { "with these overrides" };
    let message = match elsewhere {
        Some(elsewhere) => {
            format!("there are no results of '{name}' {with}, and `hemlock run {named}` makes them; {elsewhere}")
        }
        None => format!("there are no results of '{name}' yet; run `hemlock run {named}` first"),
    };
    StageError::new(ErrorKind::Artifact, message)
}
