//! The command `results`: prints the results of a pipeline, or says where there are others.

use super::App;
use crate::{
    args::{Changes, Form, Pipeline},
    exit::Usage,
    render,
    results::{self, FILE_WIDTH, TableRow, TableView},
};
use anyhow::Result;
use hemlock_pipeline::{Asked, Plan, ResultRow, Spec, Task, as_csv, history, read_answers, rows, unknown};
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
        self.printer.result(&render::history(&asked, &self.graph, &self.store()))?;
        let shows = "with the overrides of a line, or `--as` and its name, shows its results";
        self.printer.note(&format!("`hemlock results {}` {shows}", all.pipeline));
        Ok(())
    }

    /// Says why a plan has no results although something was run: the run had other overrides, or the spec has changed.
    pub(super) fn elsewhere(&self, spec: &Spec, plan: &Plan, named: &str) -> Result<Option<String>> {
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

    pub(super) fn results(&self, pipeline: &Pipeline, form: &Form) -> Result<()> {
        let (spec, plan) = self.planned(pipeline)?;
        if !plan.tasks.iter().any(Task::is_evaluation) {
            return Err(Usage(format!("'{}' has no [evaluate], and so no results", spec.name)).into());
        }
        let (mut rows, missing) = rows(&plan, &self.store())?;
        let named = self.named(pipeline);
        let elsewhere = if missing > 0 { self.elsewhere(&spec, &plan, &named)? } else { None };
        if rows.is_empty() {
            return Err(none(&spec, &plan, &named, elsewhere).into());
        }
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
