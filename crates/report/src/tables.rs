//! The tables of results, of noise, of findings, and of the comparisons of a finding.

mod results;

pub use results::results;

use crate::{
    ConfigGroup,
    config_group::{Quantity, quantity},
    findings::{Finding, FindingComparison, Unit, Verdict, unlearnable},
    statistics::{Components, Estimate},
    table::{DIGITS, Table, TableCell},
    words,
};
use hemlock_artifact::{AttackId, LearnerState};
use hemlock_pipeline::as_csv;
use hemlock_stage::StageError;

fn percent(e: Option<Estimate>) -> TableCell {
    e.map_or_else(TableCell::none, |e| {
        TableCell::numbers(words::percent_over_seeds(&e), vec![Some(100.0 * e.mean), Some(100.0 * e.std)])
    })
}

fn interval(e: Option<Estimate>) -> TableCell {
    e.map_or_else(TableCell::none, |e| {
        let end = |sign: f64| e.half_width().map(|half| 100.0 * (e.mean + sign * half));
        TableCell::numbers(words::points_with_interval(&e), vec![Some(100.0 * e.mean), end(-1.0), end(1.0)])
    })
}

/// A poison fraction, in per cent.
fn share(poison_fraction: f64) -> TableCell {
    TableCell::numbers(words::share(poison_fraction).trim_end_matches(" %"), vec![Some(100.0 * poison_fraction)])
}

fn plain(e: Option<Estimate>, digits: usize) -> TableCell {
    e.map_or_else(TableCell::none, |e| {
        TableCell::numbers(words::over_seeds(&e, digits), vec![Some(e.mean), Some(e.std)])
    })
}

/// All results as CSV, one line per row, with all parameters. The columns have the names of `hemlock results --json`.
///
/// # Errors
/// A row has no form as a line of a table, which is a bug.
pub fn rows(configs: &[ConfigGroup]) -> Result<String, StageError> {
    // Only measured numbers are rounded, and no parameters.
    as_csv(configs.iter().flat_map(|c| &c.rows), |measured| words::short(measured, DIGITS))
}

/// The names of all tables, except for those of findings.
pub const NAMES: [&str; 7] = ["results", "paper", "noise", "rows", "findings", "times", "artifacts"];

/// The table of noise: the drop by the surrogate that the noise was crafted against and by the victim.
pub fn noise(configs: &[ConfigGroup]) -> Table {
    let caption = "Noise: the drop of accuracy in points with its 95 % confidence interval, by the \
                   surrogate that the noise was crafted against → the victim that trains on it. A linear victim is a \
                   head on the frozen extractor. `Best epoch` compares the best epoch on noise with the best epoch on \
                   clean data. Loss and error are those of the surrogate on the training images with the noise, after \
                   its last training.";
    let columns = ["frozen → linear", "frozen → end-to-end", "end-to-end → linear", "end-to-end → end-to-end"];
    let mut table = Table::new("noise", caption).texts("noise").texts("setting").numbers("poison fraction, %", &[""]);
    table = columns.into_iter().fold(table, |table, title| table.numbers(title, &["", "low", "high"]));
    table = table.numbers("end-to-end → end-to-end, best epoch", &["", "low", "high"]);
    for surrogate in SURROGATES {
        table = table.numbers(format!("{surrogate} surrogate: loss, error"), &["loss", "error", "rounds"]);
    }
    for kind in unlearnable::kinds(configs) {
        let drop = |surrogate: &str, victim: &str, of: Quantity| {
            kind.iter().find(|c| unlearnable::surrogate_of(c) == Some(surrogate) && c.victim() == victim)?.mean(of)
        };
        let mut row = vec![
            TableCell::text(kind_of_noise(kind[0])),
            TableCell::text(&kind[0].experiment),
            share(kind[0].poison_fraction()),
        ];
        let pairs = SURROGATES.map(|surrogate| ["linear", unlearnable::END_TO_END].map(|v| (surrogate, v)));
        row.extend(pairs.as_flattened().iter().map(|(of, v)| interval(drop(of, v, quantity::drop_on_images))));
        let both = unlearnable::END_TO_END;
        row.push(interval(drop(both, both, quantity::drop_of_best_epochs)));
        row.extend(SURROGATES.map(|of| {
            kind.iter()
                .find(|c| unlearnable::surrogate_of(c) == Some(of))
                .map_or_else(TableCell::none, |c| surrogate(c))
        }));
        table.push(row);
    }
    table
}

/// The scope of noise, and its objective unless it is error-minimising.
fn kind_of_noise(config: &ConfigGroup) -> String {
    let scope = config.making().unwrap_or_default();
    if config.aim() == AttackId::ERROR_MINIMIZING { scope.to_owned() } else { format!("{}, {scope}", config.aim()) }
}

/// The surrogates that noise is crafted against.
const SURROGATES: [&str; 2] = ["frozen", unlearnable::END_TO_END];

/// The surrogate's loss and error on the images with noise at the end, and the number of rounds; means over seeds.
fn surrogate(config: &ConfigGroup) -> TableCell {
    let mean = |of: fn(&LearnerState) -> f64| Some(config.mean(|r| r.learner.as_ref().map(of))?.mean);
    let numbers = [mean(|t| t.loss), mean(|t| t.mistaken), mean(|t| f64::from(t.rounds))];
    let [Some(loss), Some(error), Some(rounds)] = numbers else { return TableCell::none() };
    let text = format!(
        "{} nats, {} % after {} rounds ({})",
        words::number(loss, 3),
        words::number(100.0 * error, 1),
        words::number(rounds, 0),
        config.passes_curve.words()
    );
    TableCell::numbers(text, numbers.to_vec())
}

/// The table of findings: their verdicts, and what these generalise to.
pub fn findings<'f>(findings: impl Iterator<Item = &'f Finding>) -> Table {
    let caption = "The verdict on every claim that was tested. A comparison counts as for the claim at the level 0.05, \
                   and as against it at 0.05 divided by the number of comparisons.";
    let mut table = Table::new("findings", caption)
        .texts("finding")
        .texts("claim")
        .texts("verdict")
        .numbers("comparisons", &[""])
        .numbers("for", &[""])
        .numbers("against", &[""])
        .texts("holds");
    for f in findings {
        let count = |of: &dyn Fn(&FindingComparison) -> bool| {
            let count = f.comparisons.iter().filter(|c| of(c)).count();
            TableCell::numbers(count.to_string(), vec![Some(count as f64)])
        };
        table.push(vec![
            TableCell::text(f.id),
            TableCell::text(f.claim),
            TableCell::text(f.verdict.word()),
            count(&|_| true),
            count(&|c| c.verdict == Verdict::Confirmed),
            count(&|c| c.verdict == Verdict::Contradicted),
            TableCell::text(f.scopes().join("; ")),
        ]);
    }
    table
}

/// The table of a finding, one row per comparison.
pub fn comparisons(finding: &Finding) -> Table {
    let mut table = Table::new(
        &format!("finding-{}", finding.id),
        format!("The comparisons that test {}. The claim is that each difference is above 0.", finding.id),
    )
    .texts("compared")
    .texts("difference of")
    .texts("unit")
    .numbers("difference [95 % CI]", &["", "low", "high"])
    .numbers("p, one-sided", &["", "against", "degrees of freedom"])
    .numbers("seeds", &[""])
    .texts("verdict")
    .texts("generalises to");
    // Parts of the variance of the difference, by source.
    table = COMPONENTS.iter().fold(table, |table, (name, _)| table.aside(format!("variance by {name}")));
    for c in &finding.comparisons {
        let (scale, unit, digits) = unit(c.unit);
        let number = |x: f64| words::number(scale * x, digits);
        let ends = c.half_width.map(|half| [c.difference - half, c.difference + half]);
        let text = match ends {
            Some([low, high]) => format!("{} [{}, {}]", number(c.difference), number(low), number(high)),
            None => number(c.difference),
        };
        let values = [Some(c.difference), ends.map(|e| e[0]), ends.map(|e| e[1])].map(|v| v.map(|v| scale * v));
        let mut row = vec![
            TableCell::text(&c.rows),
            TableCell::text(c.quantity),
            TableCell::text(unit),
            TableCell::numbers(text, values.to_vec()),
            TableCell::numbers(
                c.p.map_or_else(|| "–".to_owned(), words::p_value),
                vec![c.p, c.p_against, c.inference.ok().map(|i| i.freedom()).filter(|f| f.is_finite())],
            ),
            TableCell::numbers(c.seeds.to_string(), vec![Some(c.seeds as f64)]),
            TableCell::text(verdict(c)).class(c.verdict.word()),
            TableCell::text(c.holds()),
        ];
        let part =
            |of: fn(&Components) -> f64| Some(words::short(scale * scale * of(&c.inference.ok()?.components), DIGITS));
        row.extend(COMPONENTS.iter().map(|(_, of)| part(*of).map_or_else(TableCell::none, TableCell::text)));
        table.push(row);
    }
    table
}

/// A part of a variance: the name of its source, and a function that reads it.
type Part = (&'static str, fn(&Components) -> f64);

/// The sources of variance.
const COMPONENTS: [Part; 4] = [
    ("test images", |c| c.images),
    ("extractors", |c| c.extractors),
    ("training data", |c| c.draws),
    ("the rest", |c| c.rest),
];

fn verdict(c: &FindingComparison) -> &'static str {
    match c.verdict {
        Verdict::Confirmed => "supports the claim",
        Verdict::Contradicted => "contradicts the claim",
        Verdict::Undecided => "undecided",
    }
}

fn unit(unit: Unit) -> (f64, &'static str, usize) {
    match unit {
        Unit::Points => (100.0, "points", 2),
        Unit::Percent => (100.0, "%", 2),
        Unit::Decibels => (1.0, "dB", 2),
        Unit::Plain => (1.0, "", 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::testing::made_up;
    use serde_json::json;
    use std::collections::BTreeMap;

    /// The records of a CSV file, by the names of the columns.
    fn records(csv: &str) -> Vec<BTreeMap<String, String>> {
        csv::Reader::from_reader(csv.as_bytes()).deserialize().map(Result::unwrap).collect()
    }

    #[test]
    fn a_result_can_be_traced() {
        let with = |constraint: &str| {
            made_up("bilevel + feature-matching")
                .with("poison-features", json!({ "attack": "bilevel", "constraint": constraint, "quantile": 0.95 }))
                .images([0.7, 0.704, 0.7])
                .psnr(20.0)
                .config()
        };
        let configs = [with("ball"), with("none")];
        let means = records(&results(&configs).csv());
        assert_eq!(means.len(), 2);
        for (record, config) in means.iter().zip(&configs) {
            assert_eq!(
                record["poison-features.constraint"],
                config.parameter("poison-features", "constraint").unwrap().as_str().unwrap()
            );
            assert_eq!(record["seeds, in order"], "0 1 2");
            assert!(record["keys, in order"].ends_with(&config.rows[2].key));
            assert_eq!(record["drop [95 % CI]"], "9.86667", "no noise of rounding");
            assert!(!record.contains_key("poison-features.quantile"), "it is the same for all");
        }
        let rows = records(&rows(&configs).unwrap());
        assert_eq!(rows.len(), 6);
        let last = &rows[5];
        assert_eq!(
            (&*last["seed"], &*last["params.poison-features.quantile"], &*last["accuracy.images"]),
            ("2", "0.95", "0.7")
        );
        assert_eq!((&*last["key"], &*last["visibility.psnr"]), (configs[1].rows[2].key.as_str(), "19.8"));
    }
}
