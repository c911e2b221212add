//! The subcommands. Each makes one call into the library, and prints its result.

mod diff;
mod gc;
mod init;
mod reference;
mod results;
mod run_reporter;
mod self_test;
mod submit;

use crate::{
    args::{self, Args, Changes, Command, Commands, DataArgs, DatasetArg, Fixed, FormatArg, Label, OneStage, Pipeline},
    exit::Usage,
    printer::Printer,
    project::{ProjectContext, RunRequest, failures},
    render,
};
use anyhow::Result;
use hemlock_data::{ArchiveOrigin, Cifar, DataError, KnownDataset, Trust};
use hemlock_models::Backend;
use hemlock_pipeline::{Format, Graph, Plan, Selection, SetFormat, Spec, Summary, Task, export};
use hemlock_stage::{Cancel, ChildCommand, Environment, Part, Progress as _, StageError};
use hemlock_store::{Key, Store};
use run_reporter::RunReporter;
use serde_json::json;
use std::{
    collections::BTreeSet,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// Runs the subcommand that was given. `program` is the path of this command; `None` stands for this process's program.
pub fn execute(args: &Args, graph: Graph, program: Option<&Path>, printer: &Printer, cancel: &Cancel) -> Result<()> {
    let env = Environment { data: Some(args.data.clone()), ..Environment::default() };
    let (root, pipelines, device) = (args.root.clone(), args.pipelines.clone(), args.device);
    let project = ProjectContext { graph, env, root, pipelines, device };
    let app = App { args, printer, cancel, project, program };
    let command = match &args.command {
        Command::Fixed(command) => command,
        Command::Stage(stage, one) => return app.stage(stage, one),
    };
    match command {
        Fixed::Init(init) => app.init(init),
        Fixed::Run { pipeline, force: true, .. } => Err(no_force(pipeline).into()),
        Fixed::Run { pipeline, task, part, force: false, repair, jobs, commands } => app.run(
            pipeline,
            What {
                only: *task,
                part: *part,
                repair: *repair,
                jobs: Some(*jobs),
                commands: *commands,
                ..What::default()
            },
        ),
        Fixed::Submit { engine, pipeline, dry_run, commands } => app.submit(*engine, pipeline, *dry_run, *commands),
        Fixed::Plan { pipeline, json } => app.plan(pipeline, *json),
        Fixed::Status { pipeline } => app.status(pipeline),
        Fixed::Why { pipeline, stage, json } => app.why(pipeline, stage.as_deref(), *json),
        Fixed::Results { pipeline, list: true, .. } => app.list(pipeline),
        Fixed::Results { pipeline, form, list: false } => app.results(pipeline, form),
        Fixed::Report { names, from, changes, paper, output } => {
            app.report((names, from), changes, paper.as_deref(), output.as_deref())
        }
        Fixed::Export { pipeline, stage, output, select, format, dataset } => {
            let format = match (dataset, format) {
                (Some(DatasetArg::Folder), _) => Format::Dataset(SetFormat::Folder),
                (Some(DatasetArg::Npz), _) => Format::Dataset(SetFormat::Npz),
                (Some(DatasetArg::Parquet), _) => Format::Dataset(SetFormat::Parquet),
                (None, FormatArg::Safetensors) => Format::Safetensors,
                (None, FormatArg::Png) => Format::Png,
            };
            app.export(pipeline, stage, output, select, format)
        }
        Fixed::Gc { pipeline, delete } => app.gc(pipeline.as_deref().map(name_of), *delete),
        Fixed::Data(data) => app.data(data),
        Fixed::SelfTest { filter, jobs, json, output } => {
            app.self_test(filter.as_deref(), *jobs, *json, output.as_deref())
        }
        Fixed::Schema { of } => app.schema(*of),
        Fixed::Reference { folder } => app.reference(folder),
        Fixed::Diff(diff) => app.diff(diff),
    }
}

/// The error for `--force` without a stage.
fn no_force(Pipeline { pipeline: name, .. }: &Pipeline) -> Usage {
    let name = if name.contains('=') { "NAME" } else { name };
    Usage(format!(
        "--force is for one stage: `hemlock invert {name} --force`, or `just invert {name} --force`; all that reads \
         what it makes follows if that differs. All stages anew: `hemlock run {name} --root OTHER`, in an empty folder"
    ))
}

/// The name of a pipeline, which may be given by the path of its spec.
fn name_of(pipeline: &str) -> &str {
    let stem = || Path::new(pipeline).file_stem()?.to_str();
    if pipeline.ends_with(".toml") { stem().unwrap_or(pipeline) } else { pipeline }
}

/// Which part of a pipeline to run.
#[derive(Default)]
struct What<'a> {
    until: Option<&'a str>,
    only: Option<Key>,
    part: Option<Part>,
    force: bool,
    repair: bool,
    jobs: Option<NonZeroUsize>,
    commands: Commands,
    on_the_way: bool,
}

/// What all commands share.
struct App<'a> {
    args: &'a Args,
    printer: &'a Printer,
    cancel: &'a Cancel,
    project: ProjectContext,
    program: Option<&'a Path>,
}

impl App<'_> {
    /// Loads the spec of a pipeline, with its overrides. `runs`: the command runs the pipeline, so its label may be
    /// new.
    fn spec(&self, pipeline: &Pipeline, runs: bool) -> Result<Spec> {
        let Changes { set, label } = &pipeline.changes;
        self.project.spec(&pipeline.pipeline, set, label.as_ref().map(|Label(label)| label.as_str()), runs)
    }

    fn planned(&self, pipeline: &Pipeline) -> Result<(Spec, Plan)> {
        self.plan_of(self.spec(pipeline, false)?)
    }

    fn plan_of(&self, spec: Spec) -> Result<(Spec, Plan)> {
        let plan = self.project.plan(&spec)?;
        Ok((spec, plan))
    }

    fn store(&self) -> Store {
        self.project.store()
    }

    /// The program that further processes of this command are of.
    fn program(&self) -> Result<PathBuf> {
        Ok(self.program.map_or_else(std::env::current_exe, |program| Ok(program.to_owned()))?)
    }

    fn stage(&self, stage: &str, one: &OneStage) -> Result<()> {
        let OneStage { pipeline, force, repair, jobs, commands, on_the_way } = one;
        let (jobs, commands, on_the_way) = (Some(*jobs), *commands, *on_the_way);
        let (force, repair) = (*force, *repair);
        self.run(
            pipeline,
            What { until: Some(stage), only: None, part: None, force, repair, jobs, commands, on_the_way },
        )
    }

    fn run(&self, pipeline: &Pipeline, what: What) -> Result<()> {
        let (spec, plan) = self.plan_of(self.spec(pipeline, true)?)?;
        if let Some(stage) = what.until.filter(|stage| !plan.tasks.iter().any(|t| t.stage == *stage)) {
            // This is no error, so that recipes can run all stages, whichever of them a spec leaves out.
            if !what.on_the_way {
                self.printer.note(&format!("{}: there is no [{stage}] in this spec, and nothing to do", spec.name));
            }
            return Ok(());
        }
        let request = RunRequest {
            until: what.until,
            only: what.only,
            part: what.part,
            force: what.force,
            label: pipeline.changes.label.as_ref().map(|Label(label)| label.as_str()),
            repair: what.repair,
            jobs: what.jobs.unwrap_or(NonZeroUsize::MIN),
        };
        let reporter = RunReporter::new(self.printer, &plan, what.until, self.args.verbose > 0, what.on_the_way);
        let permit = |commands: &[ChildCommand]| self.permit(&spec, commands, what.commands);
        let summary = self.project.run(&plan, &request, permit, (self.printer, self.cancel), &reporter)?;
        if let (Some(before), Some(label)) = (&summary.renamed, request.label) {
            let before = if before.is_empty() { "no overrides".to_owned() } else { render::options(before, 200) };
            self.printer.note(&format!("'{label}' was the name of a run with {before}, and is that of this one now"));
        }
        match what.part.filter(|_| summary.ran().next().is_some()) {
            Some(part) => self.printer.note(&format!("{}: part {part} is kept for the run of the task", spec.name)),
            None => reporter.sum_up(&summary),
        }
        self.failures(&plan, summary)
    }

    /// Asks on the terminal whether the commands of a spec may run, if that was not said before.
    fn permit(&self, spec: &Spec, commands: &[ChildCommand], given: Commands) -> Result<()> {
        let folder = self.project.env.command_folder();
        let would = || {
            let commands: String = commands.iter().map(|command| format!("\n  {command}")).collect();
            format!("{} runs on this machine, in {}:{commands}", spec.path.display(), folder.display())
        };
        if commands.is_empty() || given.allow_command {
            return Ok(());
        }
        match self.printer.confirm(&format!("{}\nRun that? [y/N] ", would()))? {
            Some(true) => Ok(()),
            Some(false) => Err(Usage("the command was not allowed, and nothing ran".to_owned()).into()),
            None => {
                let message = "\nA spec that others wrote can run anything so; --allow-command allows it";
                Err(Usage(would() + message).into())
            }
        }
    }

    /// Returns the first failure of a run, and prints the others.
    fn failures(&self, plan: &Plan, summary: Summary) -> Result<()> {
        let mut failures = failures(plan, summary).into_iter();
        let first = failures.next();
        failures.for_each(|e| self.printer.error(&e));
        first.map_or(Ok(()), Err)
    }

    fn plan(&self, pipeline: &Pipeline, json: bool) -> Result<()> {
        let (spec, plan) = self.planned(pipeline)?;
        let decisions = plan.decide(&self.store(), false);
        if !json {
            self.printer.result(&render::plan(&plan, &decisions))?;
            return Ok(());
        }
        let tasks: Vec<_> = plan
            .tasks
            .iter()
            .zip(&decisions)
            .enumerate()
            .map(|(id, (task, decision))| {
                let mut argv = self.argv(Path::new("hemlock"), &spec, task, self.args.device, Path::to_owned);
                argv.extend(self.args.directory.iter().flat_map(|dir| ["-C".to_owned(), dir.display().to_string()]));
                let folder = |i: &usize| self.args.root.join(plan.tasks[*i].folder()).display().to_string();
                json!({
                    "id": id, "node": task.node, "stage": task.stage, "key": task.key, "argv": argv,
                    "inputs": task.inputs.iter().map(|(role, i)| (*role, folder(i))).collect::<std::collections::BTreeMap<_, _>>(),
                    "outputs": [folder(&id)], "deps": task.inputs.values().collect::<BTreeSet<_>>(),
                    "seed": task.identity.seed, "params": task.params, "state": render::state(decision),
                })
            })
            .collect();
        self.printer.result(&format!("{:#}", json!({ "pipeline": spec.name, "version": 1, "tasks": tasks })))?;
        Ok(())
    }

    /// The command line of a process that runs one task on a device. `place` is called with a path and returns how to
    /// write it.
    fn argv(
        &self,
        program: &Path,
        spec: &Spec,
        task: &Task,
        device: Backend,
        place: impl Fn(&Path) -> PathBuf,
    ) -> Vec<String> {
        let path = |path: &Path| place(path).display().to_string();
        let mut argv = vec![program.display().to_string(), "run".to_owned(), path(&spec.path)];
        argv.extend(spec.overrides.iter().flat_map(|o| ["--set".to_owned(), o.to_string()]));
        argv.extend(["--task".to_owned(), task.key.to_string()]);
        argv.extend(["--root".to_owned(), path(&self.args.root)]);
        argv.extend(["--data".to_owned(), path(&self.args.data)]);
        argv.extend(["--device".to_owned(), device.to_string()]);
        argv
    }

    fn status(&self, pipeline: &Pipeline) -> Result<()> {
        let (spec, plan) = self.planned(pipeline)?;
        self.printer.result(&render::status(&spec, &plan, &plan.decide(&self.store(), false)))?;
        Ok(())
    }

    fn why(&self, pipeline: &Pipeline, stage: Option<&str>, json: bool) -> Result<()> {
        let (_, plan) = self.planned(pipeline)?;
        stage.map_or(Ok(()), |s| self.project.known_stage(s))?;
        let decisions = plan.decide(&self.store(), false);
        let tasks = plan.tasks.iter().zip(&decisions).filter(|(t, _)| stage.is_none_or(|s| s == t.stage));
        let said = if json { render::why_json(tasks)? } else { render::why(&plan, &decisions, stage) };
        self.printer.result(&said)?;
        Ok(())
    }

    /// Writes a pipeline and its overrides as arguments of a command.
    fn named(&self, pipeline: &Pipeline) -> String {
        let given: Vec<String> = pipeline.changes.set.iter().map(ToString::to_string).collect();
        let label = pipeline.changes.label.iter().map(|Label(label)| format!("--as {label}"));
        let options = [render::options(&given, usize::MAX)].into_iter().filter(|o| !o.is_empty()).chain(label);
        [pipeline.pipeline.clone()].into_iter().chain(options).collect::<Vec<_>>().join(" ")
    }

    fn report(
        &self,
        (pipelines, saved): (&[String], &[PathBuf]),
        changes: &Changes,
        paper: Option<&Path>,
        output: Option<&Path>,
    ) -> Result<()> {
        let sets: String = changes.set.iter().map(|o| format!(" --set '{o}'")).collect();
        let sets = sets + &changes.label.iter().map(|Label(label)| format!(" --as {label}")).collect::<String>();
        let planned = |pipeline: &String| {
            let (spec, plan) = self.planned(&Pipeline { pipeline: pipeline.clone(), changes: changes.clone() })?;
            Ok((pipeline.clone(), spec, plan))
        };
        let planned = pipelines.iter().map(planned).collect::<Result<Vec<_>>>()?;
        let written = match saved {
            [] => self.project.report(planned, &sets, paper, output)?,
            saved => self.project.report_saved(saved, paper, output)?,
        };
        written.missing.iter().for_each(|missing| self.printer.note(missing));
        self.printer.result(&written.page.display().to_string())?;
        self.printer.result(&written.tables.display().to_string())?;
        self.printer.result(&written.figures.display().to_string())
    }

    fn export(
        &self,
        pipeline: &Pipeline,
        stage: &str,
        output: &Path,
        select: &Selection,
        format: Format,
    ) -> Result<()> {
        self.project.known_stage(stage)?;
        let (_, plan) = self.planned(pipeline)?;
        let files = export(&plan, &self.project.graph, &self.store(), stage, select, format, output)?;
        match files.as_slice() {
            many if many.len() > 20 => {
                self.printer.result(&format!("{} files below {}", many.len(), output.display()))?
            }
            few => few.iter().try_for_each(|f| self.printer.result(&f.display().to_string()))?,
        }
        Ok(())
    }

    fn data(&self, DataArgs { dataset, url, from, digest, trust }: &DataArgs) -> Result<()> {
        if dataset == args::LIST {
            return self.list_datasets();
        }
        let origin = match from {
            Some(path) => ArchiveOrigin::Path(path.clone()),
            None => url.clone().map_or(ArchiveOrigin::Official, ArchiveOrigin::Url),
        };
        let trust = match (digest, trust) {
            (Some(digest), _) => {
                Trust::Expected(digest.parse().map_err(|e: DataError| Usage(format!("--digest: {e}")))?)
            }
            (None, true) => Trust::Any,
            (None, false) => Trust::Known,
        };
        let bar = OnceLock::new();
        let progress = |done, total: Option<u64>| {
            bar.get_or_init(|| self.printer.start(dataset, total.unwrap_or(0), "bytes")).at(done);
            !self.cancel.requested()
        };
        let cifar = Cifar::ALL.into_iter().find(|cifar| cifar.name() == dataset);
        let (folder, already_there, what) = match (cifar, KnownDataset::named(dataset)) {
            (Some(cifar), _) => {
                let fetched = hemlock_data::fetch(cifar, &origin, &trust, &self.args.data, &progress);
                let fetched = fetched.map_err(StageError::from)?;
                let what = format!("{} train and {} test images", fetched.train, fetched.test);
                (fetched.folder, fetched.already_there, what)
            }
            (None, Some(known)) => {
                let fetched = known.fetch(&origin, &trust, &self.args.data, &progress).map_err(StageError::from)?;
                (fetched.folder, fetched.already_there, format!("source = {}", known.source))
            }
            (None, None) => return Err(Usage(format!("no dataset is called `{dataset}`")).into()),
        };
        drop(bar);
        if already_there && !matches!((origin, trust), (ArchiveOrigin::Official, Trust::Known)) {
            let message = format!("{} is there already; remove it to replace it", folder.display());
            return Err(Usage(message).into());
        }
        let there = if already_there { " was there already" } else { "" };
        self.printer.result(&format!("{}{there}: {what}", folder.display()))?;
        Ok(())
    }

    /// Prints the published datasets that are known by name.
    fn list_datasets(&self) -> Result<()> {
        self.printer.result(&render::datasets())?;
        Ok(())
    }
}
