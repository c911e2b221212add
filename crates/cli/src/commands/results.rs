//! The command `results`: prints the results of a pipeline, or says where there are others.

use super::App;
use crate::{
    args::{Changes, Form, Pipeline},
    exit::Usage,
    project::FoundResults,
    render,
    results::{self, FILE_WIDTH, TableRow, TableView},
};
use anyhow::Result;
use hemlock_pipeline::{Plan, ResultRow, Spec, as_csv, history, read_answers, unknown};
use hemlock_report::words;
use hemlock_stage::{ErrorKind, StageError};

impl App<'_> {
    pub(super) fn list(&self, pipeline: &Pipeline) -> Result<()> {
        // A label is not looked up here, because all runs are listed.
        let all = Pipeline { pipeline: pipeline.pipeline.clone(), changes: Changes::default() };
        let spec = self.spec(&all, false)?;
        let asked = history(&spec.path, &self.store())?;
        if asked.is_empty() {
            let message = format!("'{}' was not run yet; run `hemlock run {}` first", spec.name, all.pipeline);
            return Err(StageError::new(ErrorKind::Artifact, message).into());
        }
        self.printer.result(&render::history(&asked, &self.project.graph, &self.store()))?;
        let shows = "with the overrides of a line, or `--as` and its name, shows its results";
        self.printer.note(&format!("`hemlock results {}` {shows}", all.pipeline));
        Ok(())
    }

    pub(super) fn results(&self, pipeline: &Pipeline, form: &Form) -> Result<()> {
        let (spec, plan) = self.planned(pipeline)?;
        let named = self.named(pipeline);
        let FoundResults { mut rows, missing, elsewhere } = self.project.results(&spec, &plan, &named)?;
        if form.json {
            rows.iter().try_for_each(|row| self.printer.result(&serde_json::to_string(row)?))?;
        } else if form.csv {
            self.printer.result(&as_csv(rows.iter(), |measured| format!("{measured:?}"))?)?;
        } else {
            self.printer.result(&self.table(&spec, &mut rows, form)?)?;
        }
        if missing > 0 {
            let why = elsewhere.map(|why| format!("; {why}")).unwrap_or_default();
            let unfinished = words::unfinished(missing, rows.len() + missing);
            self.printer.note(&format!("{unfinished}{why}"));
        }
        if !form.json && !form.csv {
            self.printer.note(&next(&plan, &named));
        }
        unknown(&rows).iter().for_each(|what| self.printer.note(what));
        Ok(())
    }

    /// Writes the requested table. A table of few columns is as wide as the terminal, or [`FILE_WIDTH`] in a file.
    fn table(&self, spec: &Spec, rows: &mut [ResultRow], form: &Form) -> Result<String> {
        let view = match form {
            Form { columns, .. } if !columns.is_empty() => TableView::Named(columns.clone()),
            Form { wide: true, .. } => TableView::Wide,
            _ => TableView::Few(self.printer.width().unwrap_or(FILE_WIDTH)),
        };
        // Intervals are over test images, too.
        read_answers(rows, &self.store())?;
        let asked = results::TableRequest { view, sort: form.sort.as_deref(), legend: form.legend };
        Ok(results::results(&spec.name, &TableRow::all(rows), &asked).map_err(Usage)?)
    }
}

/// Suggests the next command.
fn next(plan: &Plan, named: &str) -> String {
    let report = format!("next: `hemlock report {named}`: a page with figures");
    match plan.tasks.iter().find(|task| task.about.role.makes_images()).map(|task| task.stage) {
        Some(stage) => {
            format!("{report}\n      `hemlock export {named} {stage} -o DIR --format png`: the poisons as pictures")
        }
        None => report,
    }
}
