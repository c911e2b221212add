//! The tables of results, of noise, and of the comparisons of a finding.

use crate::{
    Case,
    case::{Quantity, quantity},
    findings::{Comparison, Finding, Unit, unlearnable},
    statistics::{Components, Estimate},
    strength::Strength,
    table::{Cell, DIGITS, Table},
    words,
};
use hemlock_artifact::LearnerState;
use hemlock_pipeline::{Row, as_csv, telling};
use hemlock_stage::StageError;

fn percent(e: Option<Estimate>) -> Cell {
    e.map_or_else(Cell::none, |e| {
        Cell::numbers(words::percent_over_seeds(&e), vec![Some(100.0 * e.mean), Some(100.0 * e.std)])
    })
}

fn interval(e: Option<Estimate>) -> Cell {
    e.map_or_else(Cell::none, |e| {
        let end = |sign: f64| e.half_width().map(|half| 100.0 * (e.mean + sign * half));
        Cell::numbers(words::points_with_interval(&e), vec![Some(100.0 * e.mean), end(-1.0), end(1.0)])
    })
}

fn plain(e: Option<Estimate>, digits: usize) -> Cell {
    e.map_or_else(Cell::none, |e| Cell::numbers(words::over_seeds(&e, digits), vec![Some(e.mean), Some(e.std)]))
}

/// The table of results, one row per case: accuracies, drop, visibility and time.
pub fn results(cases: &[Case]) -> Table {
    let several = cases.iter().any(|c| c.scene != cases[0].scene);
    let epochs = cases.iter().any(|c| c.mean(quantity::best_epoch).is_some());
    let removed = cases.iter().any(|c| c.mean(quantity::removed).is_some());
    let of_features = cases.iter().any(|c| c.mean(quantity::outliers_of_features).is_some());
    let curves = cases.iter().any(|c| c.strength != Strength::NotAsked);
    let caption = "Test accuracy in %, mean ± standard deviation over seeds. Drop: clean accuracy minus that with \
                   poisoned images (with poisoned features, where there are no images), in points, with its \
                   95 % confidence interval, over all that seeds draw anew and over test images. PSNR in dB, SSIM and L∞ (in grey levels of \
                   255) against the images that poisons are made of. Outliers: % of the poisons, and of the poisoned \
                   features that images were made of. Curve: of attacks on pixels, whether runs of other lengths say \
                   that more passes would bring no more than a twentieth of what the objective gains; of noise, \
                   whether it ended by itself.";
    let mut table = Table::new("results", caption).texts("attack");
    if several {
        table = table.texts("setting");
    }
    table = table.numbers("ε_d, %", &[""]).texts("labels").texts("victim").numbers("seeds", &[""]);
    table = table.numbers("clean", &["", "std"]).numbers("drop [95 % CI]", &["", "low", "high"]);
    table = table.numbers("target", &["", "std"]).numbers("features", &["", "std"]).numbers("images", &["", "std"]);
    if epochs {
        table = table
            .numbers("images, best epoch", &["", "std"])
            .numbers("drop, best epochs [95 % CI]", &["", "low", "high"]);
    }
    table = table
        .numbers("random flips", &["", "std"])
        .numbers("influence flips", &["", "std"])
        .numbers("duplicates", &["", "std"]);
    if removed {
        table = table.numbers("removed", &["", "std"]);
    }
    table = table.below().numbers("PSNR", &["", "std"]).numbers("SSIM", &["", "std"]).numbers("L∞", &["", "std"]);
    table = table.numbers("outliers, %", &["", "std"]);
    if of_features {
        table = table.numbers("outliers of features, %", &["", "std"]);
    }
    if curves {
        table = table.texts("curve over passes");
    }
    table = table.numbers("seconds", &["", "std"]);
    let telling = telling(cases.iter().flat_map(|c| &c.rows[0].params).map(|(node, params)| (*node, params)));
    table = telling.iter().fold(table, |table, (node, field)| table.aside(format!("{node}.{field}")));
    table = table.aside("pipeline").aside("seeds, in order").aside("keys, in order");
    for c in cases {
        let mut row = vec![Cell::text(&c.label)];
        if several {
            row.push(Cell::text(&c.scene));
        }
        let labels = if c.clean_label() {
            "clean".to_owned()
        } else {
            c.of_attack("labels").map_or_else(|| "dirty".to_owned(), words::value)
        };
        row.extend([
            Cell::numbers(
                words::share(c.poison_fraction()).trim_end_matches(" %"),
                vec![Some(100.0 * c.poison_fraction())],
            ),
            Cell::text(labels),
            Cell::text(c.victim()),
            Cell::numbers(c.rows.len().to_string(), vec![Some(c.rows.len() as f64)]),
            percent(c.mean(quantity::clean)),
            interval(c.mean(quantity::drop)).class("strong"),
            percent(c.mean(quantity::target)),
            percent(c.mean(quantity::features)),
            percent(c.mean(quantity::images)),
        ]);
        if epochs {
            row.extend([percent(c.mean(quantity::best_epoch)), interval(c.mean(quantity::drop_of_best_epochs))]);
        }
        row.extend([
            percent(c.mean(quantity::random_flips)),
            percent(c.mean(quantity::influence_flips)),
            percent(c.mean(quantity::duplicates)),
        ]);
        if removed {
            row.push(percent(c.mean(quantity::removed)));
        }
        row.extend([
            plain(c.mean(quantity::psnr), 1),
            plain(c.mean(quantity::ssim), 2),
            plain(c.mean(quantity::linf), 1),
            percent(c.mean(quantity::outliers)),
        ]);
        if of_features {
            row.push(percent(c.mean(quantity::outliers_of_features)));
        }
        if curves {
            row.push(Cell::text(c.strength.told()));
        }
        row.push(plain(c.mean(quantity::seconds), 1));
        let every = |of: fn(&Row) -> String| c.rows.iter().map(of).collect::<Vec<_>>().join(" ");
        row.extend(telling.iter().map(|(node, field)| {
            c.parameter(node, field).map_or_else(Cell::none, |value| Cell::text(words::value(value)))
        }));
        row.extend([c.pipeline().to_owned(), every(|r| r.seed.to_string()), every(|r| r.key.clone())].map(Cell::text));
        table.push(row);
    }
    table
}

/// All results as CSV, one line per row, with all parameters. The columns have the names of `hemlock results --json`.
///
/// # Errors
/// A row has no form as a line of a table, which is a bug.
pub fn rows(cases: &[Case]) -> Result<String, StageError> {
    // Only measured numbers are rounded, and no parameters.
    as_csv(cases.iter().flat_map(|c| &c.rows), |measured| words::short(measured, DIGITS))
}

/// The names of all tables, except for those of findings.
pub const NAMES: [&str; 6] = ["results", "paper", "noise", "rows", "times", "artifacts"];

/// The table of error-minimising noise: the drop by the model that the noise was made against and by the victim.
pub fn noise(cases: &[Case]) -> Table {
    let caption = "Error-minimising noise: drop of accuracy in points [95 % CI] by whom it was made against, and who \
                   trains on it. Linear: a head on the frozen extractor. Best epoch: of the end-to-end victim, best \
                   against best. Loss, mistaken: what the learner that noise was made against makes of the training \
                   images with it, after its last training.";
    let columns = ["frozen → linear", "frozen → end-to-end", "end-to-end → linear", "end-to-end → end-to-end"];
    let mut table = Table::new("noise", caption).texts("noise").texts("setting").numbers("ε_d, %", &[""]);
    table = columns.into_iter().fold(table, |table, title| table.numbers(title, &["", "low", "high"]));
    table = table.numbers("end-to-end → end-to-end, best epoch", &["", "low", "high"]);
    for against in LEARNERS {
        table = table.numbers(format!("made against {against}: loss, mistaken"), &["loss", "mistaken", "rounds"]);
    }
    for kind in unlearnable::kinds(cases) {
        let drop = |against: &str, victim: &str, of: Quantity| {
            kind.iter().find(|c| unlearnable::against(c) == Some(against) && c.victim() == victim)?.mean(of)
        };
        let poison_fraction = kind[0].poison_fraction();
        let mut row = vec![
            Cell::text(kind[0].making().unwrap_or_default()),
            Cell::text(&kind[0].scene),
            Cell::numbers(words::share(poison_fraction).trim_end_matches(" %"), vec![Some(100.0 * poison_fraction)]),
        ];
        let pairs = LEARNERS.map(|against| ["linear", unlearnable::END_TO_END].map(|v| (against, v)));
        row.extend(
            pairs.as_flattened().iter().map(|(against, v)| interval(drop(against, v, quantity::drop_on_images))),
        );
        let both = unlearnable::END_TO_END;
        row.push(interval(drop(both, both, quantity::drop_of_best_epochs)));
        row.extend(LEARNERS.map(|against| {
            kind.iter().find(|c| unlearnable::against(c) == Some(against)).map_or_else(Cell::none, |c| learner(c))
        }));
        table.push(row);
    }
    table
}

/// The surrogates that noise is made against.
const LEARNERS: [&str; 2] = ["frozen", unlearnable::END_TO_END];

/// The surrogate's loss and error on the images with noise at the end, and the number of rounds; means over seeds.
fn learner(case: &Case) -> Cell {
    let mean = |of: fn(&LearnerState) -> f64| Some(case.mean(|r| r.learner.as_ref().map(of))?.mean);
    let numbers = [mean(|t| t.loss), mean(|t| t.mistaken), mean(|t| f64::from(t.rounds))];
    let [Some(loss), Some(mistaken), Some(rounds)] = numbers else { return Cell::none() };
    let text = format!(
        "{} nats, {} % after {} rounds ({})",
        words::number(loss, 3),
        words::number(100.0 * mistaken, 1),
        words::number(rounds, 0),
        case.strength.told()
    );
    Cell::numbers(text, numbers.to_vec())
}

/// The table of a finding, one row per comparison.
pub fn comparisons(finding: &Finding) -> Table {
    let mut table = Table::new(
        &format!("finding-{}", finding.id),
        format!("What {} was tested on. The claim is that the difference is above 0.", finding.id),
    )
    .texts("compared")
    .texts("difference of")
    .texts("unit")
    .numbers("difference [95 % CI]", &["", "low", "high"])
    .numbers("p, one-sided", &["", "degrees of freedom"])
    .numbers("seeds", &[""])
    .texts("says")
    .texts("holds");
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
            Cell::text(&c.rows),
            Cell::text(c.quantity),
            Cell::text(unit),
            Cell::numbers(text, values.to_vec()),
            Cell::numbers(
                c.p.map_or_else(|| "–".to_owned(), words::p_value),
                vec![c.p, c.inference.ok().map(|i| i.freedom()).filter(|f| f.is_finite())],
            ),
            Cell::numbers(c.seeds.to_string(), vec![Some(c.seeds as f64)]),
            Cell::text(says(c)).class(c.verdict.word()),
            Cell::text(c.holds()),
        ];
        let part =
            |of: fn(&Components) -> f64| Some(words::short(scale * scale * of(&c.inference.ok()?.components), DIGITS));
        row.extend(COMPONENTS.iter().map(|(_, of)| part(*of).map_or_else(Cell::none, Cell::text)));
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

fn says(c: &Comparison) -> &'static str {
    match c.verdict {
        crate::findings::Verdict::Confirmed => "for it",
        crate::findings::Verdict::Contradicted => "against it",
        crate::findings::Verdict::Undecided => "open",
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
                .case()
        };
        let cases = [with("ball"), with("none")];
        let means = records(&results(&cases).csv());
        assert_eq!(means.len(), 2);
        for (record, case) in means.iter().zip(&cases) {
            assert_eq!(
                record["poison-features.constraint"],
                case.parameter("poison-features", "constraint").unwrap().as_str().unwrap()
            );
            assert_eq!(record["seeds, in order"], "0 1 2");
            assert!(record["keys, in order"].ends_with(&case.rows[2].key));
            assert_eq!(record["drop [95 % CI]"], "9.86667", "no noise of rounding");
            assert!(!record.contains_key("poison-features.quantile"), "it is the same for all");
        }
        let rows = records(&rows(&cases).unwrap());
        assert_eq!(rows.len(), 6);
        let last = &rows[5];
        assert_eq!(
            (&*last["seed"], &*last["params.poison-features.quantile"], &*last["accuracy.images"]),
            ("2", "0.95", "0.7")
        );
        assert_eq!((&*last["key"], &*last["visibility.psnr"]), (cases[1].rows[2].key.as_str(), "19.8"));
    }
}
