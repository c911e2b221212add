//! The command `submit`: hands a pipeline's remaining tasks to a cluster.

use super::App;
use crate::{
    args::{Commands, EngineArg, Label, Pipeline},
    exit::Usage,
};
use anyhow::Result;
use hemlock_models::Backend;
use hemlock_pipeline::{Decision, Plan, Spec, Task, commands_of, remember};
use hemlock_report::words::count;
use hemlock_submit::{Batch, Engine, HyperQueue, Job, Slurm, Submitted};
use std::{collections::BTreeSet, path::Path};

impl App<'_> {
    pub(super) fn submit(&self, engine: EngineArg, pipeline: &Pipeline, dry_run: bool, given: Commands) -> Result<()> {
        let (spec, plan) = self.plan_of(self.spec(pipeline, true)?)?;
        let label = pipeline.changes.label.as_ref().map(|Label(label)| label.as_str());
        let folder = std::env::current_dir()?;
        // Jobs in the queue are recognised by the root's path, so a folder must have a single name.
        let root = folder.join(&self.args.root);
        let root = root.canonicalize().or_else(|_| std::path::absolute(&root))?;
        let mut jobs = self.jobs(&spec, &plan, &root, &folder)?;
        let commands = commands_of(&plan, &self.project.graph, jobs.iter().map(|job| &plan.tasks[job.id]))?;
        self.permit(&spec, &commands, given)?;
        if !commands.is_empty() {
            // Nobody is at a terminal of theirs.
            jobs.iter_mut().for_each(|job| job.argv.push("--allow-command".to_owned()));
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
            let cached = count(cached, "task");
            self.printer.note(&format!("{}: {cached} cached, and nothing is left to do", batch.pipeline));
            return Ok(());
        }
        if dry_run {
            return self.printer.result(&engine.show(&batch));
        }
        let mut told = Ok(());
        let mut tell = |line: &str| told = self.printer.result(line);
        let Submitted { new, queued } = engine.submit(&batch, &mut tell)?;
        told?;
        remember(&plan, label, &self.store())?;
        self.printer.note(&format!(
            "{}: {} submitted, {queued} in the queue already, {cached} cached; logs go to {}",
            batch.pipeline,
            count(new, "task"),
            root.join("logs").display()
        ));
        Ok(())
    }

    /// One job per task that is left, which runs in `folder`.
    fn jobs(&self, spec: &Spec, plan: &Plan, root: &Path, folder: &Path) -> Result<Vec<Job>> {
        let program = self.program()?;
        let mut left = BTreeSet::new();
        let mut jobs = Vec::new();
        for (id, (task, decision)) in plan.tasks.iter().zip(plan.decide(&self.store(), false)).enumerate() {
            match decision {
                Decision::Cached(_) => continue,
                Decision::Run(_) => left.insert(id),
                Decision::Unusable(e) => return Err(e.into()),
            };
            let resources = spec.resources(task.stage);
            let device: Backend = match &resources.device {
                Some(device) => device.parse().map_err(|e| Usage(format!("[resources] `device`: {e}")))?,
                None => self.args.device,
            };
            let inputs: BTreeSet<usize> = task.inputs.values().copied().collect();
            jobs.push(Job {
                id,
                name: format!("{}-{}", task.node, task.key.short()),
                artifact: root.join(task.folder()),
                argv: self.argv(&program, spec, task, device, |path| folder.join(path)),
                parts: if self.splits(task)? { resources.parts() } else { 1 },
                after: inputs.intersection(&left).copied().collect(),
                resources,
                log: root.join(format!("logs/{}.log", task.folder())),
            });
        }
        Ok(jobs)
    }

    /// Whether a task can be computed in parts.
    fn splits(&self, task: &Task) -> Result<bool> {
        let node = self.project.graph.node(task.node);
        Ok(node.map(|node| node.stage.splits(&task.params)).transpose()?.unwrap_or(false))
    }
}
