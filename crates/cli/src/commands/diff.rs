//! The command `diff`: compares two artifact roots, or two settings of one pipeline.

use super::App;
use crate::{
    args::{Changes, DiffArgs, Pipeline},
    exit::Usage,
    render,
};
use anyhow::Result;
use hemlock_pipeline::{Override, Selection, Side, compare, diff, side, unknown};
use hemlock_report::words::{count, unfinished};
use hemlock_stage::{ErrorKind, StageError};
use hemlock_store::Store;
use std::path::Path;

impl App<'_> {
    /// Compares two artifact roots, or two settings of one pipeline.
    pub(super) fn diff(&self, args: &DiffArgs) -> Result<()> {
        let DiffArgs { one, other, json, a, b, set, set_a, set_b, tolerance, points } = args;
        let sides = [(a, set_a), (b, set_b)];
        let settings = sides.iter().any(|(select, set)| !select.is_empty() || !set.is_empty());
        let unfit = |what: String| Err(Usage(what).into());
        match other {
            Some(_) if settings || !set.is_empty() => {
                unfit("--a, --b and --set choose settings of one pipeline; expected no second root".to_owned())
            }
            Some(other) => self.roots(Path::new(one), other, *json, *tolerance, *points),
            None if !settings => unfit(format!(
                "two things are compared: expected two artifact roots, or settings of a pipeline: \
                 hemlock diff {one} --a FIELD=VALUE --b FIELD=VALUE"
            )),
            None if tolerance.is_some() || points.is_some() => {
                unfit("--tolerance and --points are for two roots; expected a second one".to_owned())
            }
            None => self.settings(one, set, sides, *json),
        }
    }

    /// Compares two artifact roots.
    fn roots(&self, a: &Path, b: &Path, json: bool, tolerance: Option<f64>, points: Option<f64>) -> Result<()> {
        for root in [a, b] {
            if !root.is_dir() {
                return Err(Usage(format!("{} is no artifact root", root.display())).into());
            }
        }
        let (differences, alone) = diff(&Store::new(a), &Store::new(b), &self.project.graph)?;
        if differences.is_empty() {
            let message = format!(
                "{} and {} have none of their {} in common, and nothing was compared",
                a.display(),
                b.display(),
                count(alone, "artifact")
            );
            return Err(StageError::new(ErrorKind::Artifact, message).into());
        }
        if json {
            for d in &differences {
                self.printer.result(&serde_json::to_string(d)?)?;
            }
        } else {
            self.printer.result(&render::diff(&differences, alone))?;
        }
        if points.is_some() && differences.iter().all(|d| d.accuracy.is_empty()) {
            let message = "the roots have no evaluation in common, and no accuracy was compared";
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
            true if alone > 0 => {
                format!("verdict: the same bytes, of what both have; in one root alone: {}", count(alone, "artifact"))
            }
            true => "verdict: the same bytes".to_owned(),
            false => format!(
                "verdict: not the same bytes{}{}",
                within(tolerance.is_some(), "values within the tolerance"),
                within(points.is_some(), "accuracy within the points")
            ),
        };
        if json { Ok(()) } else { self.printer.result(&verdict) }
    }

    /// Compares two settings of one pipeline.
    fn settings(
        &self,
        name: &str,
        set: &[Override],
        sides: [(&Selection, &Vec<Override>); 2],
        json: bool,
    ) -> Result<()> {
        if sides[0] == sides[1] {
            return Err(Usage("--a and --b choose the same; expected two settings that differ".to_owned()).into());
        }
        let store = self.store();
        let found = |(option, (select, own)): (&str, (&Selection, &Vec<Override>))| -> Result<Side> {
            let set = [set, own.as_slice()].concat();
            let sets: String = set.iter().map(|o| format!(" --set '{o}'")).collect();
            let (spec, plan) =
                self.planned(&Pipeline { pipeline: name.to_owned(), changes: Changes { set, label: None } })?;
            let side = side(&plan, select, &store)?.map_err(|e| Usage(format!("--{option}: {e}")))?;
            if side.rows.is_empty() {
                let message = format!(
                    "there are no results of '{}' for --{option} yet; run `hemlock run {name}{sets}` first",
                    spec.name
                );
                return Err(StageError::new(ErrorKind::Artifact, message).into());
            }
            if side.missing > 0 {
                let unfinished = unfinished(side.missing, side.rows.len() + side.missing);
                self.printer.note(&format!("--{option}: {unfinished}"));
            }
            Ok(side)
        };
        let [a, b] = sides;
        let (a, b) = (found(("a", a))?, found(("b", b))?);
        let comparison = compare(&a.rows, &b.rows);
        if comparison.pairs.is_empty() {
            return Err(Usage("both sides are the same results; expected two settings that differ".to_owned()).into());
        }
        if json {
            comparison.pairs.iter().try_for_each(|pair| self.printer.result(&serde_json::to_string(pair)?))?;
        } else {
            self.printer.result(&render::comparison(&comparison))?;
        }
        let [only_a, only_b] = comparison.alone;
        if only_a + only_b > 0 {
            self.printer.note(&format!(
                "{} of --a and {only_b} of --b have no counterpart that differs as little, and are left out",
                count(only_a, "result")
            ));
        }
        unknown(&[a.rows, b.rows].concat()).iter().for_each(|what| self.printer.note(what));
        Ok(())
    }
}
