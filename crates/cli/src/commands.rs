//! What each subcommand does: one call into the library, and its result printed.

use crate::{
    args::{Args, Command, DatasetArg, EngineArg, FormatArg, OneStage, Pipeline},
    exit::Usage,
    printer::Printer,
    render,
};
use anyhow::Result;
use hemlock_data::{Cifar, DataError, Origin, Trust};
use hemlock_models::Backend;
use hemlock_pipeline::{
    Decision, Event, Format, Graph, Observer, Outcome, Override, Plan, RunOptions, Selection, Spec, Task, aggregate,
    diff, export, garbage, recorded_specs, rows, run,
};
use hemlock_report::{Subject, report};
use hemlock_stage::{Cancel, Environment, ErrorKind, MESSAGE, Progress as _, StageError, VALUE, short};
use hemlock_store::{Entry, Key, Store};
use hemlock_submit::{Batch, Engine, HyperQueue, Job, Slurm, Submitted};
use serde_json::json;
use std::{
    collections::BTreeSet,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// Carries out the command line.
pub fn execute(args: &Args, printer: &Printer, cancel: &Cancel) -> Result<()> {
    let env = Environment { data: Some(args.data.clone()) };
    let house = House { args, printer, cancel, graph: hemlock::graph(), env };
    match &args.command {
        Command::Dataset(one) => house.stage("dataset", one),
        Command::Pretrain(one) => house.stage("pretrain", one),
        Command::Features(one) => house.stage("features", one),
        Command::TargetParams(one) => house.stage("target-params", one),
        Command::PoisonFeatures(one) => house.stage("poison-features", one),
        Command::Decoder(one) => house.stage("decoder", one),
        Command::Invert(one) => house.stage("invert", one),
        Command::PoisonImages(one) => house.stage("poison-images", one),
        Command::Unlearnable(one) => house.stage("unlearnable", one),
        Command::Victim(one) => house.stage("victim", one),
        Command::Evaluate(one) => house.stage("evaluate", one),
        Command::Run { pipeline, task, repair, jobs } => {
            house.run(pipeline, What { only: *task, repair: *repair, jobs: Some(*jobs), ..What::default() })
        }
        Command::Submit { engine, pipeline, dry_run } => house.submit(*engine, pipeline, *dry_run),
        Command::Plan { pipeline, json } => house.plan(pipeline, *json),
        Command::Status { pipeline } => house.status(pipeline),
        Command::Why { pipeline, stage, json } => house.why(pipeline, stage.as_deref(), *json),
        Command::Results { pipeline, json } => house.results(pipeline, *json),
        Command::Report { names, set, output } => house.report(names, set, output.as_deref()),
        Command::Export { pipeline, stage, output, select, format } => {
            house.export(pipeline, stage, output, select, *format)
        }
        Command::Gc { pipeline, delete } => {
            // A spec's path names its pipeline, too.
            let stem = |p: &str| p.ends_with(".toml").then(|| Path::new(p).file_stem()?.to_str().map(str::to_owned));
            let name = pipeline.as_deref().map(|p| stem(p).flatten().unwrap_or_else(|| p.to_owned()));
            house.gc(name.as_deref(), *delete)
        }
        Command::Data { dataset, url, from, digest, trust } => {
            let origin = match from {
                Some(path) => Origin::Path(path.clone()),
                None => url.clone().map_or(Origin::Official, Origin::Url),
            };
            let trust = match (digest, trust) {
                (Some(digest), _) => {
                    Trust::Expected(digest.parse().map_err(|e: DataError| Usage(format!("--digest: {e}")))?)
                }
                (None, true) => Trust::Any,
                (None, false) => Trust::Known,
            };
            house.data(*dataset, &origin, &trust)
        }
        Command::Diff { a, b, json, tolerance, points } => house.diff(a, b, *json, *tolerance, *points),
    }
}

/// What to run of a pipeline.
#[derive(Default)]
struct What<'a> {
    until: Option<&'a str>,
    only: Option<Key>,
    force: bool,
    repair: bool,
    jobs: Option<NonZeroUsize>,
}

/// Everything that commands share.
struct House<'a> {
    args: &'a Args,
    printer: &'a Printer,
    cancel: &'a Cancel,
    graph: Graph,
    env: Environment,
}

impl House<'_> {
    fn spec(&self, pipeline: &Pipeline) -> Result<Spec> {
        let named = &pipeline.pipeline;
        let path = if named.ends_with(".toml") {
            PathBuf::from(named)
        } else {
            self.args.pipelines.join(format!("{named}.toml"))
        };
        if !path.exists() {
            let reason = format!("{} is not there", short(&path.display().to_string(), VALUE));
            return Err(self.no_pipeline(named, &reason));
        }
        Ok(Spec::load(&path, &pipeline.set, &self.graph)?)
    }

    /// All specs of the pipelines folder.
    fn specs(&self) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(&self.args.pipelines)
            .map(|dir| dir.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "toml")).collect())
            .unwrap_or_default();
        paths.sort();
        paths
    }

    fn names(&self) -> Vec<String> {
        self.specs().iter().filter_map(|p| Some(p.file_stem()?.to_str()?.to_owned())).collect()
    }

    fn no_pipeline(&self, named: &str, reason: &str) -> anyhow::Error {
        let known = self.names();
        let known =
            if known.is_empty() { "(none found)".to_owned() } else { short(&known.join(", "), MESSAGE).into_owned() };
        let named = short(named, VALUE);
        Usage(format!("there is no pipeline '{named}': {reason}; expected one of {known}")).into()
    }

    fn planned(&self, pipeline: &Pipeline) -> Result<(Spec, Plan)> {
        let spec = self.spec(pipeline)?;
        let plan = Plan::new(&spec, &self.graph, &self.env)?;
        Ok((spec, plan))
    }

    fn store(&self) -> Store {
        Store::new(&self.args.root)
    }

    fn known_stage(&self, stage: &str) -> Result<()> {
        let known = self.graph.stages();
        if known.contains(&stage) {
            return Ok(());
        }
        let stage = short(stage, VALUE);
        Err(Usage(format!("there is no stage '{stage}'; expected one of {}", known.join(", "))).into())
    }

    fn stage(&self, stage: &str, one: &OneStage) -> Result<()> {
        let OneStage { pipeline, force, repair, jobs } = one;
        let jobs = Some(*jobs);
        self.run(pipeline, What { until: Some(stage), force: *force, repair: *repair, jobs, ..What::default() })
    }

    fn run(&self, pipeline: &Pipeline, what: What) -> Result<()> {
        let (spec, plan) = self.planned(pipeline)?;
        if let Some(stage) = what.until.filter(|stage| !plan.tasks.iter().any(|t| t.stage == *stage)) {
            // So that recipes can go through all stages whatever a spec leaves out.
            self.printer.note(&format!("{}: there is no [{stage}] in this spec, and nothing to do", spec.name));
            return Ok(());
        }
        let store = self.store();
        let options = RunOptions {
            until: what.until,
            only: what.only,
            force: what.until.filter(|_| what.force),
            repair: what.repair,
            jobs: what.jobs.unwrap_or(NonZeroUsize::MIN),
            backend: &self.args.device.to_string(),
            devices: &hemlock_models::device::names_of(self.args.device),
            deterministic: self.args.device.is_deterministic(),
            probe: &|| Ok(hemlock_models::device::open(self.args.device).map(|_| ())?),
            env: &self.env,
            progress: self.printer,
            cancel: self.cancel,
        };
        let summary = run(&plan, &self.graph, &store, &options, &Narrator(self.printer))?;
        let ran = summary.ran().count();
        let cached = summary.outcomes.iter().filter(|(_, o)| matches!(o, Outcome::Cached)).count();
        self.printer.note(&format!("{}: {ran} tasks ran, {cached} were cached", spec.name));
        let failed = |(i, e): (usize, StageError)| anyhow::Error::new(e).context(render::task(&plan.tasks[i]));
        let mut failures = summary.into_failures().map(failed);
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
                let argv = self.argv(Path::new("hemlock"), &spec, task, self.args.device, Path::to_owned);
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

    /// The process that does a task on a device; `place` says how paths are written.
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

    fn submit(&self, engine: EngineArg, pipeline: &Pipeline, dry_run: bool) -> Result<()> {
        let (spec, plan) = self.planned(pipeline)?;
        let (program, folder) = (std::env::current_exe()?, std::env::current_dir()?);
        // One name for one folder, by which jobs in the queue are known.
        let root = folder.join(&self.args.root);
        let root = root.canonicalize().or_else(|_| std::path::absolute(&root))?;
        let mut left = BTreeSet::new();
        let mut jobs = Vec::new();
        for (id, (task, decision)) in plan.tasks.iter().zip(plan.decide(&self.store(), false)).enumerate() {
            match decision {
                Decision::Cached(_) => continue,
                Decision::Run(_) => left.insert(id),
                Decision::Refuse(e) => return Err(e.into()),
            };
            let resources = spec.resources(task.stage);
            let device: Backend = match &resources.device {
                Some(device) => device.parse().map_err(|e| Usage(format!("[resources] `device`: {e}")))?,
                None => self.args.device,
            };
            jobs.push(Job {
                id,
                name: format!("{}-{}", task.node, task.key.short()),
                artifact: root.join(task.folder()),
                argv: self.argv(&program, &spec, task, device, |path| folder.join(path)),
                after: task
                    .inputs
                    .values()
                    .copied()
                    .filter(|input| left.contains(input))
                    .collect::<BTreeSet<_>>()
                    .into_iter()
                    .collect(),
                resources,
                log: root.join(format!("logs/{}.log", task.folder())),
            });
        }
        let batch = Batch { pipeline: spec.name, folder, jobs };
        let engine: Box<dyn Engine> = match engine {
            EngineArg::Slurm => Box::new(Slurm),
            EngineArg::Hyperqueue => {
                Box::new(HyperQueue { file: root.join(format!("logs/{}.hyperqueue.toml", batch.pipeline)) })
            }
        };
        let cached = plan.tasks.len() - batch.jobs.len();
        if batch.jobs.is_empty() {
            self.printer.note(&format!("{}: all {cached} tasks are cached, and nothing is left to do", batch.pipeline));
            return Ok(());
        }
        if dry_run {
            return self.printer.result(&engine.show(&batch));
        }
        let mut told = Ok(());
        let mut tell = |line: &str| told = self.printer.result(line);
        let Submitted { new, queued } = engine.submit(&batch, &mut tell)?;
        told?;
        self.printer.note(&format!(
            "{}: {new} tasks submitted, {queued} were in the queue, {cached} are cached; logs go to {}",
            batch.pipeline,
            root.join("logs").display()
        ));
        Ok(())
    }

    fn status(&self, pipeline: &Pipeline) -> Result<()> {
        let (spec, plan) = self.planned(pipeline)?;
        self.printer.result(&render::status(&spec, &plan, &plan.decide(&self.store(), false)))?;
        Ok(())
    }

    fn why(&self, pipeline: &Pipeline, stage: Option<&str>, json: bool) -> Result<()> {
        let (_, plan) = self.planned(pipeline)?;
        stage.map_or(Ok(()), |s| self.known_stage(s))?;
        let decisions = plan.decide(&self.store(), false);
        let tasks = plan.tasks.iter().zip(&decisions).filter(|(t, _)| stage.is_none_or(|s| s == t.stage));
        self.printer.result(&if json { render::why_json(tasks)? } else { render::why(tasks) })?;
        Ok(())
    }

    fn results(&self, pipeline: &Pipeline, json: bool) -> Result<()> {
        let (spec, plan) = self.planned(pipeline)?;
        if !plan.tasks.iter().any(|t| t.stage == "evaluate") {
            return Err(Usage(format!("'{}' has no [evaluate], and so no results", spec.name)).into());
        }
        let (rows, missing) = rows(&plan, &self.store())?;
        if rows.is_empty() {
            let message =
                format!("there are no results of '{}' yet; run `hemlock run {}` first", spec.name, pipeline.pipeline);
            return Err(StageError::new(ErrorKind::Artifact, message).into());
        }
        if json {
            for row in &rows {
                self.printer.result(&serde_json::to_string(row)?)?;
            }
        } else {
            self.printer.result(&render::results(&aggregate(&rows)))?;
        }
        if missing > 0 {
            self.printer.note(&format!("{missing} of {} branches have no result yet", rows.len() + missing));
        }
        Ok(())
    }

    fn report(&self, pipelines: &[String], set: &[Override], output: Option<&Path>) -> Result<()> {
        let sets: String = set.iter().map(|o| format!(" --set '{o}'")).collect();
        let mut subjects: Vec<Subject> = Vec::new();
        for pipeline in pipelines {
            let (spec, plan) = self.planned(&Pipeline { pipeline: pipeline.clone(), set: set.to_vec() })?;
            if !plan.tasks.iter().any(|t| t.stage == "evaluate") {
                return Err(Usage(format!("'{}' has no [evaluate], and so nothing to report", spec.name)).into());
            }
            if !subjects.iter().any(|s| s.spec.name == spec.name) {
                subjects.push(Subject { spec, plan, command: format!("hemlock run {pipeline}{sets}") });
            }
        }
        let names: Vec<&str> = subjects.iter().map(|s| s.spec.name.as_str()).collect();
        let file = output.map_or_else(|| Path::new("reports").join(names.join("+") + ".html"), Path::to_owned);
        let command = format!("hemlock report {}{sets} -o {}", pipelines.join(" "), file.display());
        let written = report(&subjects, &self.store(), &command, &file)?;
        written.missing.iter().for_each(|missing| self.printer.note(missing));
        self.printer.result(&written.page.display().to_string())?;
        self.printer.result(&written.tables.display().to_string())
    }

    fn export(
        &self,
        pipeline: &Pipeline,
        stage: &str,
        output: &Path,
        select: &Selection,
        format: FormatArg,
    ) -> Result<()> {
        self.known_stage(stage)?;
        let (_, plan) = self.planned(pipeline)?;
        select.check(&plan).map_err(|e| Usage(format!("--select: {e}")))?;
        let format = match format {
            FormatArg::Safetensors => Format::Safetensors,
            FormatArg::Png => Format::Png,
        };
        let files = export(&plan, &self.graph, &self.store(), stage, select, format, output)?;
        match files.as_slice() {
            many if many.len() > 20 => {
                self.printer.result(&format!("{} files below {}", many.len(), output.display()))?
            }
            few => few.iter().try_for_each(|f| self.printer.result(&f.display().to_string()))?,
        }
        Ok(())
    }

    fn gc(&self, pipeline: Option<&str>, delete: bool) -> Result<()> {
        let store = self.store();
        if let Some(name) = pipeline.filter(|name| !self.names().iter().any(|n| n == name)) {
            let made = |e: &Entry| e.manifest.as_ref().is_ok_and(|m| m.pipeline == name);
            if !store.list()?.iter().any(made) {
                return Err(self.no_pipeline(name, "it has neither a spec nor artifacts"));
            }
        }
        let mut specs = recorded_specs(&store)?;
        for path in self.specs() {
            specs.push(std::path::absolute(path)?);
        }
        specs.sort();
        specs.dedup();
        let mut plans = Vec::new();
        for path in specs {
            let named = Pipeline { pipeline: path.display().to_string(), set: Vec::new() };
            match self.planned(&named) {
                Ok((_, plan)) => plans.push(plan),
                // Its last run still counts.
                Err(e) => self.printer.note(&format!("{} cannot be planned now: {e:#}", path.display())),
            }
        }
        let garbage = garbage(&store, &plans, pipeline)?;
        let total = render::bytes(garbage.iter().map(|g| g.bytes).sum());
        if !delete {
            for g in &garbage {
                self.printer.result(&format!("{:>10}  {}", render::bytes(g.bytes), g.path.display()))?;
            }
            self.printer.note(&format!(
                "{} artifacts that no pipeline reaches, {total}; `--delete` deletes them",
                garbage.len()
            ));
            return Ok(());
        }
        let removal = store.remove(&garbage)?;
        for g in &removal.in_use {
            self.printer.note(&format!("{} is in use and stays", g.path.display()));
        }
        self.printer.note(&format!("{} artifacts deleted", removal.removed.len()));
        Ok(())
    }

    fn data(&self, dataset: DatasetArg, origin: &Origin, trust: &Trust) -> Result<()> {
        let dataset = match dataset {
            DatasetArg::Cifar10 => Cifar::Cifar10,
            DatasetArg::Cifar100 => Cifar::Cifar100,
        };
        let bar = OnceLock::new();
        let fetched = hemlock_data::fetch(dataset, origin, trust, &self.args.data, &|done, total| {
            bar.get_or_init(|| self.printer.start(&dataset.to_string(), total.unwrap_or(0), "bytes")).at(done);
            !self.cancel.requested()
        })
        .map_err(StageError::from)?;
        drop(bar);
        if fetched.already_there && !matches!((origin, trust), (Origin::Official, Trust::Known)) {
            let message = format!("{} is there already; remove it to replace it", fetched.folder.display());
            return Err(Usage(message).into());
        }
        let there = if fetched.already_there { " was there already" } else { "" };
        let (train, test) = (fetched.train, fetched.test);
        self.printer.result(&format!("{}{there}: {train} train and {test} test images", fetched.folder.display()))?;
        Ok(())
    }

    fn diff(&self, a: &Path, b: &Path, json: bool, tolerance: Option<f64>, points: Option<f64>) -> Result<()> {
        for root in [a, b] {
            if !root.is_dir() {
                return Err(Usage(format!("{} is no artifact root", root.display())).into());
            }
        }
        let (differences, alone) = diff(&Store::new(a), &Store::new(b), &self.graph)?;
        if json {
            for d in &differences {
                self.printer.result(&serde_json::to_string(d)?)?;
            }
        } else {
            self.printer.result(&render::diff(&differences, alone))?;
        }
        if differences.is_empty() {
            let message =
                format!("{} and {} have no artifact in common, and nothing was compared", a.display(), b.display());
            return Err(StageError::new(ErrorKind::Artifact, message).into());
        }
        let different = |what: String| Err(StageError::new(ErrorKind::Numeric, what).into());
        for d in &differences {
            let (stage, key, relative, apart) = (&d.stage, &d.key, d.relative(), d.apart());
            if tolerance.is_some_and(|most| relative > most) {
                return different(format!(
                    "{stage}/{key} differs by more than the tolerance, relatively by {relative:.3e}"
                ));
            }
            if points.is_some_and(|most| 100.0 * apart > most) {
                return different(format!("{stage}/{key}: accuracy differs by {:.2} points", 100.0 * apart));
            }
        }
        let within = |asked: bool, what: &str| if asked { format!(", {what}") } else { String::new() };
        let verdict = match differences.iter().all(|d| d.identical) {
            true => "verdict: the same bytes".to_owned(),
            false => format!(
                "verdict: not the same bytes{}{}",
                within(tolerance.is_some(), "values within the tolerance"),
                within(points.is_some(), "accuracy within the points")
            ),
        };
        if json { Ok(()) } else { self.printer.result(&verdict) }
    }
}

/// Tells what happens during a run.
struct Narrator<'a>(&'a Printer);

impl Observer for Narrator<'_> {
    fn event(&self, event: Event) {
        match event {
            Event::Started(task, reason) => {
                self.0.note(&format!("{:>10}  {} ({})", "running", render::task(task), render::brief(reason)));
            }
            Event::Waiting(task) => {
                self.0.note(&format!("{:>10}  {}: another process works on it", "waiting", render::task(task)));
            }
            Event::Finished(task, outcome) => match outcome {
                Outcome::Cached => self.0.note(&format!("{:>10}  {}", "cached", render::task(task))),
                Outcome::Ran { took, .. } => {
                    self.0.note(&format!("{:>10}  {} in {:.1}s", "done", render::task(task), took.as_secs_f64()));
                }
                Outcome::Failed(_) => self.0.note(&format!("{:>10}  {}", "failed", render::task(task))),
                Outcome::Skipped { .. } => {
                    self.0.note(&format!("{:>10}  {}: an input is missing", "skipped", render::task(task)));
                }
            },
        }
    }
}
