//! The text above and below the result table.

use super::{
    TableRow,
    columns::{Place, ResultColumn, common_control, extractors},
};
use hemlock_artifact::AttackId;
use hemlock_attack::attacks::all;
use hemlock_pipeline::AggregatedRow;
use hemlock_report::words::list;
use std::collections::BTreeSet;

/// A clean accuracy is near chance if it is less than this share of the way from chance to 1.
const NEAR_CHANCE: f64 = 0.1;

/// A value of a setting, in words.
pub fn setting(column: &ResultColumn, cell: &str) -> String {
    match column.name.as_str() {
        "attack" | "method" => cell.to_owned(),
        "poison" => format!("poison fraction {cell}"),
        "labels" => format!("{cell} labels"),
        "sees" => format!("an attacker that sees {}", cell.replacen("; controls", " and controls that see", 1)),
        "seeds" if cell == "1" => "1 seed".to_owned(),
        "seeds" => format!("{cell} seeds"),
        _ => format!("{} {cell}", column.heading),
    }
}

/// The text above the table: what all rows have in common, and what the accuracies are.
pub fn above(pipeline: &str, table_rows: &[TableRow], common: &[&ResultColumn], width: usize) -> String {
    let value = |column: &&ResultColumn| {
        let cell = column.common()?;
        let bare = ["attack", "method"].contains(&column.name.as_str());
        Some(if bare { format!("the {} {cell}", column.heading) } else { setting(column, cell) })
    };
    let mut said: Vec<String> = common.iter().filter_map(value).collect();
    said.extend(common_control(table_rows).map(|control| format!("{control} as the best control")));
    let rows = match table_rows.len() {
        1 => "1 result".to_owned(),
        n => format!("{n} results, all"),
    };
    wrapped(&format!("{pipeline}: {rows} with {}.", list(&said)), width) + &wrapped(&intervals(table_rows), width)
}

/// Says what the accuracies are, and what is known about their errors.
fn intervals(table_rows: &[TableRow]) -> String {
    const INTERVAL: &str = "± half of its 95 % confidence interval over seeds and test images";
    let known = table_rows.iter().filter(|s| s.half().is_some()).count();
    let error = match known {
        0 if table_rows.iter().all(|s| s.group.seeds == 1) => "; there is no interval for one seed".to_owned(),
        0 => "; there is no interval, as all seeds give the same result".to_owned(),
        n if n == table_rows.len() => format!(", {INTERVAL}"),
        _ => format!(", {INTERVAL}; none for one seed, or if all seeds give the same result"),
    };
    format!("Accuracy in % of the test split{error}.")
}

/// Says which columns were left out, if any were, and which options show everything.
pub fn more(left_out: &[&str], legend: bool, width: usize) -> String {
    let all = if legend { "--wide shows every column" } else { "--wide shows every column, --legend explains them" };
    match left_out {
        [] => wrapped(&format!("{all}."), width),
        names => wrapped(&format!("These columns do not fit: {}. {all}.", names.join(", ")), width),
    }
}

/// Says what the accuracies in a table of many columns are, and which option explains the rest.
pub fn deviations(table_rows: &[TableRow], legend: bool, width: usize) -> String {
    let over =
        if table_rows.iter().any(|s| s.group.seeds > 1) { ", ± their standard deviation over seeds" } else { "" };
    let more = if legend { "" } else { " --legend explains the columns." };
    wrapped(&format!("Accuracies are in % of the test split{over}.{more}"), width)
}

/// Explains columns, with a paragraph each.
pub fn legend(table_rows: &[TableRow], columns: &[&ResultColumn], width: usize) -> String {
    let mut out = String::new();
    for column in columns {
        out += &wrapped(&format!("{}: {}", column.heading, column.meaning), width);
        if column.name == "objective" {
            let shown = all().map(|attack| (attack.name(), attack.value_label()));
            for (name, shown) in shown.chain(AttackId::NOISES) {
                if table_rows.iter().any(|s| s.group.attack.objective == name) {
                    out += &wrapped(&format!("objective of {name}: This is {shown}."), width);
                }
            }
        }
    }
    if columns.iter().any(|c| c.place == Place::Detail) && table_rows.iter().any(|s| still(&s.group)) {
        out += &wrapped("± 0.00: The attack draws nothing at random, so that all seeds give the same result.", width);
    }
    out
}

/// Whether the poisoned accuracy is exactly the same for all of several seeds.
fn still(g: &AggregatedRow) -> bool {
    g.seeds > 1 && [g.accuracy.features(), g.accuracy.images()].into_iter().flatten().any(|c| c.std == 0.0)
}

/// Warnings about the results, with a paragraph each.
pub fn warnings(table_rows: &[TableRow], width: usize) -> String {
    let groups: Vec<&AggregatedRow> = table_rows.iter().map(|s| &s.group).collect();
    let names = |of: &dyn Fn(&AggregatedRow) -> bool| {
        let names: BTreeSet<String> = groups.iter().filter(|g| of(g)).map(|g| extractors(&g.params)).collect();
        (!names.is_empty()).then(|| Vec::from_iter(names).join(", "))
    };
    let unconverged = groups.iter().filter_map(|g| g.unconverged).max_by(f64::total_cmp).map(|worst| {
        format!("NOT CONVERGED: a head's training stopped at a gradient norm of {worst:.1e}, above its tolerance.")
    });
    let unverified = names(&|g| g.verified == Some(false)).map(|names| {
        format!(
            "UNVERIFIED IMPORT: no `probe` has shown that an extractor ({names}) computes the network that its weights \
             were trained in (docs/pretraining.md)."
        )
    });
    let collapsed = names(&|g| g.collapsed == Some(true)).map(|names| {
        format!("COLLAPSED: the embeddings of an extractor ({names}) all point in nearly the same direction.")
    });
    let all = [unconverged, stepped_back(&groups), unverified, collapsed, near_chance(&groups)];
    all.into_iter().flatten().map(|text| wrapped(&text, width)).collect()
}

fn stepped_back(groups: &[&AggregatedRow]) -> Option<String> {
    let weaker = groups.iter().flat_map(|g| &g.stepped_back);
    let weaker: BTreeSet<String> =
        weaker.map(|s| format!("{} is {} instead of {}", s.field, s.used, s.asked)).collect();
    (!weaker.is_empty()).then(|| {
        let weaker = Vec::from_iter(weaker).join(", ");
        format!("WEAKER TARGET: calibration leaves nothing of a stronger target: {weaker}.")
    })
}

fn near_chance(groups: &[&AggregatedRow]) -> Option<String> {
    let chance = |g: &AggregatedRow| 1.0 / g.classes.max(1) as f64;
    let near =
        |g: &&&AggregatedRow| g.classes > 1 && g.accuracy.clean.mean - chance(g) < NEAR_CHANCE * (1.0 - chance(g));
    let worst = groups.iter().filter(near).min_by(|a, b| a.accuracy.clean.mean.total_cmp(&b.accuracy.clean.mean))?;
    Some(format!(
        "NEAR CHANCE: a clean accuracy is {:.2} %, and guessing among {} classes gives {:.2} %. Such a head has \
         little accuracy to lose, so that drops mean little.",
        100.0 * worst.accuracy.clean.mean,
        worst.classes,
        100.0 * chance(worst)
    ))
}

/// Breaks a text into lines of at most `width` characters. A longer word gets a line of its own.
pub fn wrapped(text: &str, width: usize) -> String {
    let (mut out, mut line) = (String::new(), String::new());
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            out += &line;
            out.push('\n');
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    out + &line + "\n"
}
