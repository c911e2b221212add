//! The columns of the result table: their names, headings and meanings.

use super::TableRow;
use hemlock_artifact::TrainingSet;
use hemlock_evaluate::about;
use hemlock_pipeline::{AggregatedRow, MeanStd, nodes, telling, value_text};
use hemlock_report::words::share;
use hemlock_stage::StageRole;
use serde_json::Value;
use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// Text of a cell without a value.
pub const NONE: &str = "-";

/// Text for a number that is not known.
pub const UNKNOWN: &str = "?";

/// The tables in which a column appears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The column says which result a row shows. It is in the table of few columns if rows differ in it.
    Setting,
    /// The column answers the question, but is composed of other columns: it is in the table of few columns only.
    Answer,
    /// The column answers the question, and is in both tables.
    Both,
    /// The column is in the table of all columns only.
    Detail,
}

/// A column of the table.
pub struct ResultColumn {
    /// The name by which the column is asked for.
    pub name: String,
    /// The heading, in words.
    pub heading: String,
    /// What the column means, in whole sentences.
    pub meaning: String,
    /// The text of every row.
    pub cells: Vec<String>,
    /// The text of every row with fewer digits, for narrow tables.
    pub short: Vec<String>,
    /// Whether the texts are aligned to the right.
    pub right: bool,
    /// The tables in which the column appears.
    pub place: Place,
    /// The numbers by which rows are sorted; `None` for cells without a number.
    values: Vec<Option<f64>>,
}

/// Settings that have columns of their own whenever rows differ in them, and also in the table of a single result.
pub const CORE: [&str; 3] = ["attack", "method", "poison"];

/// Name, heading and meaning of all columns except parameters, in the order of the table.
const KNOWN: [(&str, &str, &str); 29] = [
    ("attack", "attack", "This is the objective that the poisons optimise; docs/attacks.md describes each attack."),
    (
        "method",
        "method",
        "This is how the images of the poisons are made: features are matched or decoded, or pixels are attacked \
         directly. A dash means that there are no images, and that the poisons are features.",
    ),
    ("poison", "poison fraction", "This is the number of poisons, in % of the number of clean training samples."),
    (
        "labels",
        "labels",
        "Poisons have the labels of their base images (clean), or other labels, which are drawn at random or chosen by \
         the attacker (adversarial).",
    ),
    (
        "extractor",
        "extractor",
        "This is how the frozen feature extractor was trained, or the file that features were imported from.",
    ),
    (
        "sees",
        "splits seen",
        "These are the labelled clean splits that the attacker uses, and those that the controls use, if they differ.",
    ),
    ("victim", "victim", "The victim is what is trained on the poisoned data."),
    (
        "defence",
        "defence",
        "The defence is what is done with the poisoned training set before the victim trains on it.",
    ),
    ("seeds", "seeds", "This is the number of results whose mean a row shows; they differ only in seeds."),
    (
        "accuracy",
        "clean -> poisoned",
        "This is the accuracy of the victim on the test split, in %, when it is trained on clean data and when it \
         is trained on poisoned data: on the images of the poisons or, if there are none, on their features. \
         The number after ± is half of the width of the 95 % confidence interval of the poisoned accuracy, over \
         everything that seeds draw anew and over test images, as in the report. There is no interval for one seed, or \
         if all seeds give the same result.",
    ),
    (
        "control",
        "best control",
        "This is the accuracy, in %, of the victim that is trained on the control with the lowest accuracy. An attack \
         that leaves a higher accuracy is weaker than this control.",
    ),
    ("clean", "clean", "This is the accuracy, in %, of the victim that is trained on clean data."),
    ("target", "target head", "This is the accuracy, in %, of the target head that the attacker aims at."),
    (
        "features",
        "poisoned features",
        "This is the accuracy, in %, of the victim that is trained on poisoned features.",
    ),
    ("images", "poisoned images", "This is the accuracy, in %, of the victim that is trained on the poisons' images."),
    (
        "drop",
        "drop",
        "This is the clean accuracy minus that with poisoned images or, where there are none, with poisoned \
         features, in points.",
    ),
    (
        "kept",
        "share kept, %",
        "This is the drop by poisoned images as a share of the drop by poisoned features. Above 100 images cost more \
         accuracy than features, and below 0 they raise it.",
    ),
    (
        "undefended",
        "undefended",
        "These are the accuracies, in %, of the same victim without the defence, on clean data and on the poisons.",
    ),
    ("recall", "recall, %", "This is the share of the poisons that the defence removes."),
    ("false_positives", "false positives, %", "This is the share of the clean samples that the defence removes."),
    (
        "auroc",
        "AUROC, %",
        "This is the probability that the defence finds a poison more suspicious than a clean sample; 50 is chance.",
    ),
    ("PSNR", "PSNR, dB", "This is the peak signal-to-noise ratio between poisoned images and their base images."),
    (
        "SSIM",
        "SSIM",
        "This is the structural similarity of poisoned images and their base images; it is 1 for unchanged images.",
    ),
    (
        "Linf",
        "largest change",
        "This is the largest change of a pixel, in grey levels of 255, as a mean over the poisons.",
    ),
    (
        "distance",
        "relative distance",
        "This is the median distance of the images' features to the poisoned features (of attacks on pixels, to the \
         features before rounding), in units of the distance between clean nearest neighbours.",
    ),
    (
        "outliers",
        "outliers, %",
        "This is the share of the poisons whose features have an unusual norm or are far from all clean features, so \
         that a defender could find them.",
    ),
    (
        "outside",
        "violations, %",
        "This is the share of the poisons whose features violate the attack's constraint by more than one hundredth.",
    ),
    ("objective", "objective", "This is the final value of the attack's objective."),
    (
        "seconds",
        "seconds",
        "This is the time of the attacker's stages, from target-params to images or noise; it is `?` if one of their \
         artifacts is gone.",
    ),
];

/// Compares two values for sorting. Missing values come last in both directions.
fn compared(a: Option<f64>, b: Option<f64>, descending: bool) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) if descending => b.total_cmp(&a),
        (Some(a), Some(b)) => a.total_cmp(&b),
        (a, b) => b.is_some().cmp(&a.is_some()),
    }
}

impl ResultColumn {
    fn new(name: impl Into<String>, cells: Vec<String>, place: Place) -> Self {
        let name = name.into();
        let known = KNOWN.iter().find(|(known, ..)| *known == name);
        let (heading, meaning) = match known {
            Some((_, heading, meaning)) => ((*heading).to_owned(), (*meaning).to_owned()),
            None => {
                (name.replace('_', " "), format!("This is the parameter `{name}` of the spec, in which rows differ."))
            }
        };
        // Texts that are numbers are sorted as numbers.
        let values = cells.iter().map(|cell| cell.parse().ok()).collect();
        Self { name, heading, meaning, short: cells.clone(), cells, right: false, place, values }
    }

    /// Makes a column of numbers that may be missing, with `digits` digits after the decimal point.
    fn numbers(name: &str, table_rows: &[TableRow], digits: usize, of: impl Fn(&AggregatedRow) -> Option<f64>) -> Self {
        let values: Vec<Option<f64>> = table_rows.iter().map(|s| of(&s.group)).collect();
        let cells = values.iter().map(|v| v.map_or_else(|| NONE.to_owned(), |x| format!("{x:.digits$}")));
        Self { right: true, ..Self { values: values.clone(), ..Self::new(name, cells.collect(), Place::Detail) } }
    }

    /// Makes a column of shares that may be missing, in percent, with their standard deviation over seeds.
    fn percent(name: &str, table_rows: &[TableRow], of: impl Fn(&AggregatedRow) -> Option<MeanStd>) -> Self {
        let cell = |s: &TableRow| match of(&s.group) {
            None => NONE.to_owned(),
            Some(c) if s.group.seeds > 1 => format!("{:.2} ± {:.2}", 100.0 * c.mean, 100.0 * c.std),
            Some(c) => format!("{:.2}", 100.0 * c.mean),
        };
        let values = table_rows.iter().map(|s| of(&s.group).map(|c| c.mean)).collect();
        let cells = table_rows.iter().map(cell).collect();
        Self { right: true, values, ..Self::new(name, cells, Place::Detail) }
    }

    /// Whether no row has a value.
    pub fn is_empty(&self) -> bool {
        self.cells.iter().all(|cell| cell == NONE)
    }

    /// The text that all rows share, or `None` if they differ.
    pub fn common(&self) -> Option<&str> {
        self.cells.first().filter(|first| self.cells.iter().all(|cell| cell == *first)).map(String::as_str)
    }

    /// Whether rows with equal texts in this column always have equal texts in `other`.
    pub fn determines(&self, other: &Self) -> bool {
        let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
        self.cells.iter().zip(&other.cells).all(|(mine, theirs)| *seen.entry(mine).or_insert(theirs) == theirs)
    }

    /// Numbers of the rows, sorted by this column.
    pub fn order(&self, descending: bool) -> Vec<usize> {
        let mut rows: Vec<usize> = (0..self.cells.len()).collect();
        let text = self.values.iter().all(Option::is_none);
        rows.sort_by(|a, b| match (text, descending) {
            (false, _) => compared(self.values[*a], self.values[*b], descending),
            (true, false) => self.cells[*a].cmp(&self.cells[*b]),
            (true, true) => self.cells[*b].cmp(&self.cells[*a]),
        });
        rows
    }
}

/// Describes how an extractor was made, from the stages' parameters: `simclr`, or `import (supervised)`. Imported
/// features are named after their file.
fn extractor(params: &BTreeMap<&'static str, Value>) -> String {
    let field = |node, name| params.get(node)?.get(name)?.as_str();
    if let Some(path) = field(nodes::FEATURES, "path") {
        return Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned();
    }
    let field = |name| field(nodes::EXTRACTOR, name);
    let trained = field("trained").map(|trained| format!(" ({trained})"));
    field("method").unwrap_or_default().to_owned() + &trained.unwrap_or_default()
}

/// Describes the attacker's extractor and, if there is one, the victim extractor.
pub fn extractors(params: &BTreeMap<&'static str, Value>) -> String {
    match params.get(nodes::VICTIM_EXTRACTOR).and_then(|other| other.get("method")) {
        Some(other) => format!("{}, of victims: {}", extractor(params), parameter(other)),
        None => extractor(params),
    }
}

/// Text of a parameter in a cell. A limit that is not set reads "none".
fn parameter(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        value => value_text(value),
    }
}

/// Whether a column other than the parameter's own shows it: attacks and extractors are named after their tags.
fn has_column(role: Option<StageRole>, node: &str, field: &str) -> bool {
    match field {
        "attack" | "labels" | "poison_fraction" | "noise" => role.is_some_and(StageRole::is_attack),
        "method" => role == Some(StageRole::Inversion) || [nodes::FEATURES, nodes::EXTRACTOR].contains(&node),
        "path" => node == nodes::FEATURES,
        "trained" => node == nodes::EXTRACTOR,
        "kind" => matches!(role, Some(StageRole::Victim | StageRole::Defence)),
        _ => false,
    }
}

/// Columns for the parameters in which rows differ and that no other column shows.
fn parameters(table_rows: &[TableRow]) -> Vec<ResultColumn> {
    let params = table_rows.iter().flat_map(|s| &s.group.params).map(|(node, params)| (*node, params));
    let mut telling = telling(params);
    let role = |node: &str| table_rows.iter().find_map(|s| s.group.roles.get(node).copied());
    telling.retain(|(node, field)| !has_column(role(node), node, field));
    // A branch makes poisons from features or in pixels. A parameter that both ways have is a single column: that of
    // the inversion or, if it does not have the parameter, that of the attack on features.
    let twins = telling.clone();
    let on_features = [StageRole::Inversion, StageRole::FeatureAttack];
    let twin = |field: &str| {
        let with = |of: StageRole| twins.iter().find(|(node, name)| *name == field && role(node) == Some(of));
        on_features.into_iter().find_map(with).map(|(node, _)| *node)
    };
    let in_pixels = |node: &str| role(node) == Some(StageRole::ImageAttack);
    telling.retain(|(node, field)| !in_pixels(node) || twin(field).is_none());
    let column = |(node, field): &(&str, &str)| {
        let cell = |row: &TableRow| {
            let params = &row.group.params;
            let other = || params.iter().find(|(other, _)| in_pixels(other)).map(|(_, other)| other);
            let other = || other().filter(|_| twin(field) == Some(*node));
            let value = params.get(*node).or_else(other).and_then(|params| params.get(*field));
            value.map_or_else(|| NONE.to_owned(), parameter)
        };
        let several = telling.iter().any(|(other, name)| name == field && other != node);
        let name = if several { format!("{node}.{field}") } else { (*field).to_owned() };
        ResultColumn::new(name, table_rows.iter().map(cell).collect(), Place::Setting)
    };
    telling.iter().map(column).collect()
}

/// The columns that say which result a row shows.
fn identities(table_rows: &[TableRow]) -> Vec<ResultColumn> {
    let words = |name: &str, cell: &dyn Fn(&AggregatedRow) -> String| {
        ResultColumn::new(name, table_rows.iter().map(|s| cell(&s.group)).collect(), Place::Setting)
    };
    let method = |g: &AggregatedRow| g.attack.method.clone().unwrap_or_else(|| NONE.to_owned());
    let labels = |g: &AggregatedRow| {
        let attacks = g.roles.iter().filter(|(_, role)| role.is_attack());
        let chosen = attacks.map(|(node, _)| node).find_map(|node| g.params.get(node)?.get("labels"));
        if g.clean_label { "clean".to_owned() } else { chosen.map_or_else(|| "dirty".to_owned(), parameter) }
    };
    let sees = |g: &AggregatedRow| match g.sees == g.controls_see {
        true => g.sees.to_string(),
        false => format!("{}; controls {}", g.sees, g.controls_see),
    };
    let values = table_rows.iter().map(|s| Some(s.group.poison_fraction)).collect();
    let mut columns = vec![words("attack", &|g| g.attack.objective.clone()), words("method", &method)];
    columns.push(ResultColumn { right: true, values, ..words("poison", &|g| share(g.poison_fraction)) });
    columns.extend(parameters(table_rows));
    columns.extend([words("labels", &labels), words("extractor", &|g| extractors(&g.params)), words("sees", &sees)]);
    let defence = |g: &AggregatedRow| {
        let of = g.roles.iter().filter(|(_, role)| **role == StageRole::Defence);
        let kind = of.map(|(node, _)| node).find_map(|node| g.params.get(node)?.get("kind"));
        kind.map_or_else(|| NONE.to_owned(), parameter)
    };
    columns.push(words("victim", &|g| g.victim.clone()));
    columns.extend(Some(words("defence", &defence)).filter(|column| !column.is_empty()));
    columns.extend([words("seeds", &|g| g.seeds.to_string())]);
    columns
}

/// The column of accuracies on clean and on poisoned data, with the interval of the latter.
fn accuracy(table_rows: &[TableRow]) -> ResultColumn {
    let cell = |s: &TableRow, digits: usize| {
        let width = digits + 3;
        let percent = |x: f64| format!("{:>width$.digits$}", 100.0 * x);
        let poisoned = s.poisoned.map_or_else(|| NONE.to_owned(), |e| percent(e.mean));
        let half = s.half().map(|half| format!(" ± {:.digits$}", 100.0 * half));
        format!("{} -> {poisoned}{}", percent(s.clean), half.unwrap_or_default())
    };
    let cells = |digits| table_rows.iter().map(|s| cell(s, digits)).collect();
    let values = table_rows.iter().map(|s| Some(s.poisoned?.mean)).collect();
    ResultColumn { short: cells(1), values, ..ResultColumn::new("accuracy", cells(2), Place::Answer) }
}

/// The column of accuracies without the defence, on clean and on poisoned data.
fn undefended(table_rows: &[TableRow]) -> ResultColumn {
    let of = |s: &TableRow, name: &str| s.group.accuracy.get(name).map(|accuracy| 100.0 * accuracy.mean);
    let cells = |digits: usize| {
        let cell = |s: &TableRow| {
            let (clean, poisoned) = (of(s, TrainingSet::UNDEFENDED_CLEAN)?, of(s, TrainingSet::UNDEFENDED)?);
            Some(format!("{clean:.digits$} -> {poisoned:.digits$}"))
        };
        table_rows.iter().map(|s| cell(s).unwrap_or_else(|| NONE.to_owned())).collect()
    };
    let values = table_rows.iter().map(|s| of(s, TrainingSet::UNDEFENDED)).collect();
    ResultColumn { short: cells(1), values, ..ResultColumn::new("undefended", cells(2), Place::Answer) }
}

/// The control that lowers the victim's accuracy most, in words, and the accuracy that it leaves.
fn strongest(group: &AggregatedRow) -> Option<(String, f64)> {
    let there = group.accuracy.controls().map(|(set, cell)| (set.words(), cell.mean));
    there.min_by(|a, b| a.1.total_cmp(&b.1))
}

/// The strongest control, if there are several rows and it is the same in all rows that have controls.
pub fn common_control(table_rows: &[TableRow]) -> Option<String> {
    let names: BTreeSet<String> = table_rows.iter().filter_map(|s| Some(strongest(&s.group)?.0)).collect();
    names.first().cloned().filter(|_| table_rows.len() > 1 && names.len() == 1)
}

/// Makes a column for every control.
fn controls(table_rows: &[TableRow]) -> Vec<ResultColumn> {
    let mut seen: Vec<&TrainingSet> = Vec::new();
    for (set, _) in table_rows.iter().flat_map(|s| s.group.accuracy.controls()) {
        if !seen.contains(&set) {
            seen.push(set);
        }
    }
    let column = |set: &TrainingSet| ResultColumn {
        meaning: format!(
            "This control is the accuracy, in %, {}.",
            about(&set.name).unwrap_or("of another training set")
        ),
        ..ResultColumn::percent(&set.name, table_rows, |g| g.accuracy.get(&set.name).copied())
    };
    seen.into_iter().map(column).collect()
}

/// The column of accuracies with the strongest control, with its name if rows differ in it.
fn control(table_rows: &[TableRow]) -> ResultColumn {
    let common = common_control(table_rows).is_some();
    let cells = |digits: usize| {
        let cell = |s: &TableRow| match strongest(&s.group) {
            None => NONE.to_owned(),
            Some((_, left)) if common => format!("{:.digits$}", 100.0 * left),
            Some((name, left)) => format!("{name} {:.digits$}", 100.0 * left),
        };
        table_rows.iter().map(cell).collect()
    };
    let values = table_rows.iter().map(|s| Some(strongest(&s.group)?.1)).collect();
    ResultColumn { short: cells(1), values, right: true, ..ResultColumn::new("control", cells(2), Place::Answer) }
}

/// Share of the drop through poisoned features that the poisoned images keep, in percent.
fn kept(g: &AggregatedRow) -> Option<f64> {
    let drop = |poisoned: MeanStd| g.accuracy.clean.mean - poisoned.mean;
    // For a drop below one percentage point, the share would be noise.
    let asked = g.accuracy.features().copied().map(drop).filter(|drop| *drop >= 0.01)?;
    Some(100.0 * drop(*g.accuracy.images()?) / asked)
}

/// The columns that stages declare.
fn of_stages(table_rows: &[TableRow]) -> Vec<ResultColumn> {
    let mut declared: Vec<(&str, hemlock_stage::Column)> = Vec::new();
    for of in table_rows.iter().flat_map(|s| &s.group.declared) {
        if !declared.contains(of) {
            declared.push(*of);
        }
    }
    let column = |(node, declared): (&str, hemlock_stage::Column)| ResultColumn {
        heading: declared.heading.to_owned(),
        meaning: declared.meaning.to_owned(),
        ..ResultColumn::numbers(declared.field, table_rows, declared.digits, |g| {
            g.stages.get(node)?.get(declared.field).copied()
        })
    };
    declared.into_iter().map(column).collect()
}

/// All columns of the table, in order.
pub fn columns(table_rows: &[TableRow]) -> Vec<ResultColumn> {
    let mut columns = identities(table_rows);
    columns.extend([accuracy(table_rows), undefended(table_rows), control(table_rows)]);
    let percent =
        |name: &str, of: &dyn Fn(&AggregatedRow) -> Option<MeanStd>| ResultColumn::percent(name, table_rows, of);
    columns.push(percent("clean", &|g| Some(g.accuracy.clean)));
    columns.push(percent("target", &|g| g.accuracy.target().copied()));
    columns.push(percent("features", &|g| g.accuracy.features().copied()));
    columns.push(percent("images", &|g| g.accuracy.images().copied()));
    columns.push(percent("drop", &|g| g.drop));
    columns.extend(controls(table_rows));
    let number = |name: &str, digits: usize, of: &dyn Fn(&AggregatedRow) -> Option<f64>| {
        ResultColumn::numbers(name, table_rows, digits, of)
    };
    let of_defence = [
        percent("recall", &|g| g.detection?.recall),
        percent("false_positives", &|g| g.detection?.false_positives),
        percent("auroc", &|g| g.detection?.auroc),
    ];
    columns.extend(of_defence.into_iter().filter(|column| !column.is_empty()));
    columns.push(number("kept", 0, &kept));
    columns.push(ResultColumn { place: Place::Both, ..number("PSNR", 1, &|g| Some(g.visibility?.psnr.mean)) });
    columns.push(number("SSIM", 2, &|g| Some(g.visibility?.ssim.mean)));
    columns.push(number("Linf", 1, &|g| Some(255.0 * g.visibility?.linf.mean)));
    columns.push(number("distance", 2, &|g| Some(g.visibility?.relative_distance.mean)));
    columns.push(number("outliers", 0, &|g| Some(100.0 * g.visibility?.outliers.mean)));
    columns.push(number("outside", 0, &|g| Some(100.0 * g.visibility?.outside.mean)));
    columns.push(number("objective", 3, &|g| Some(g.objective.mean)));
    let seconds = number("seconds", 1, &|g| g.seconds.map(|seconds| seconds.mean));
    columns.extend(of_stages(table_rows));
    let known = |cell: &String| if cell == NONE { UNKNOWN.to_owned() } else { cell.clone() };
    columns.push(ResultColumn { cells: seconds.cells.iter().map(known).collect(), ..seconds });
    columns
}
