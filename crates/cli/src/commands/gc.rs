//! The command `gc`: lists or deletes artifacts that no pipeline reaches any more.

use super::App;
use crate::{
    args::{Changes, Pipeline},
    render,
};
use anyhow::Result;
use hemlock_pipeline::{GarbageSurvey, survey};
use hemlock_report::words::count;
use hemlock_store::Entry;
use std::path::Path;

impl App<'_> {
    pub(super) fn gc(&self, pipeline: Option<&str>, delete: bool) -> Result<()> {
        let store = self.store();
        if let Some(name) = pipeline.filter(|name| !self.project.names().iter().any(|n| n == name)) {
            let made = |e: &Entry| e.manifest.as_ref().is_ok_and(|m| m.pipeline == name);
            if !store.list()?.iter().any(made) {
                return Err(self.project.no_pipeline(name, "it has neither a spec nor artifacts"));
            }
        }
        let specs = self.project.specs().iter().map(std::path::absolute).collect::<Result<Vec<_>, _>>()?;
        let plan = |spec: &Path| {
            let named = Pipeline { pipeline: spec.display().to_string(), changes: Changes::default() };
            self.planned(&named).map(|(_, plan)| plan)
        };
        // Before anything is deleted, the sweep keeps runs from beginning, so that none can find an artifact that goes
        // away.
        let waiting = || self.printer.note("waiting for runs that begin");
        // A folder without artifacts is left as it is.
        let root = store.root().join(".locks").is_dir() || !store.list()?.is_empty();
        let sweep = (delete && root).then(|| store.sweep(waiting)).transpose()?;
        let survey = survey(&store, &specs, plan, pipeline)?;
        self.tell_what_stays(&survey, pipeline);
        let GarbageSurvey { keep, gone, unplanned, .. } = survey;
        for spec in unplanned {
            if pipeline == Some(spec.pipeline.as_str()) || (delete && pipeline.is_none() && !spec.recorded) {
                let spec_path = spec.spec.display();
                let what =
                    format!("nothing is deleted, as it is not known what {spec_path} reaches: it cannot be planned");
                return Err(spec.why.context(what));
            }
        }
        let Some(sweep) = sweep else {
            let garbage = store.garbage(&keep)?;
            for g in &garbage {
                self.printer.result(&format!("{:>10}  {}", render::bytes(g.bytes), g.path.display()))?;
            }
            let total = render::bytes(garbage.iter().map(|g| g.bytes).sum());
            self.printer.note(&format!(
                "{} that no pipeline reaches, {total}; `--delete` deletes what is listed",
                count(garbage.len(), "artifact")
            ));
            return Ok(());
        };
        let removal = sweep.remove(&keep)?;
        for g in &removal.in_use {
            self.printer.note(&format!("{} is in use and stays", g.path.display()));
        }
        gone.iter().filter(|r| pipeline == Some(&r.pipeline)).try_for_each(|record| sweep.forget(record))?;
        let total = render::bytes(removal.removed.iter().map(|g| g.bytes).sum());
        self.printer.note(&format!("{} deleted, {total}", count(removal.removed.len(), "artifact")));
        Ok(())
    }

    /// Prints the pipelines whose artifacts are kept because it is not known what they reach.
    fn tell_what_stays(&self, survey: &GarbageSurvey<anyhow::Error>, pipeline: Option<&str>) {
        if let Some(name) = pipeline {
            for record in survey.gone.iter().filter(|r| r.pipeline == name && !survey.alive) {
                let spec = record.spec.display();
                self.printer
                    .note(&format!("what '{name}' reached is given up, as its spec {spec} is not there any more"));
            }
            return;
        }
        for record in &survey.gone {
            let (name, spec) = (&record.pipeline, record.spec.display());
            self.printer.note(&format!(
                "what '{name}' reached stays, though its spec {spec} is not there any more; `hemlock gc {name} --delete` gives it up"
            ));
        }
        for name in survey.unknown.iter().filter(|name| !survey.gone.iter().any(|r| r.pipeline == **name)) {
            self.printer.note(&format!(
                "what '{name}' made stays, though there is neither a spec nor a record of it; `hemlock gc {name} --delete` gives it up"
            ));
        }
        for spec in &survey.unplanned {
            let (name, path) = (&spec.pipeline, spec.spec.display());
            self.printer.note(&format!("what '{name}' made stays: {path} cannot be planned now: {:#}", spec.why));
        }
    }
}
