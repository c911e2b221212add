//! The columns of the result table: their names, headings and meanings.

use super::Setting;
use hemlock_artifact::TrainingSet;
use hemlock_evaluate::about;
use hemlock_pipeline::{Cell, Group, telling};
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
pub struct Column {
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
const KNOWN: [(&str, &str, &str); 24] = [
    ("attack", "attack", "This is what the poisons are optimised for; docs/attacks.md describes each attack."),
    (
        "method",
        "method",
        "This is how the images of the poisons are made: features are matched or decoded, or pixels are attacked at \
         once. A dash means that there are no images, and that the poisons are features.",
    ),
    ("poison", "poison fraction", "This is the number of poisons, in % of the number of clean training samples."),
    (
        "labels",
        "labels",
        "Poisons have the labels of the samples that they are made of (clean), or others, which are drawn at random or \
         chosen by the attacker (adversarial).",
    ),
    (
        "extractor",
        "extractor",
        "The frozen feature extractor is named after how it was trained, or after the file that features come from.",
    ),
    (
        "sees",
        "splits seen",
        "These are the labelled clean splits that the attacker looks at, and those that the controls look at, where \
         these are others.",
    ),
    ("victim", "victim", "The victim is what is trained on the poisoned data."),
    ("seeds", "seeds", "A row is the mean of so many results, which differ in seeds alone."),
    (
        "accuracy",
        "clean -> poisoned",
        "This is the accuracy of the victim on the test split, in %, when it is trained on clean data and when it \
         is trained on poisoned data: on the images of the poisons or, where there are none, on their features. \
         What follows ± is half of the 95 % confidence interval of the poisoned accuracy, over all that seeds \
         draw anew and over test images, as in the report. There is none for one seed, nor where all seeds give \
         the same.",
    ),
    (
        "control",
        "best control",
        "This is the accuracy, in %, that the strongest control leaves: the one that costs the victim most of random \
         flips, influence flips, duplicates and the removal of images. An attack that leaves more is weaker than it.",
    ),
    ("clean", "clean", "This is the accuracy, in %, of the victim that is trained on clean data."),
    (
        "target",
        "target head",
        "This is the accuracy, in %, of the head that the attacker aims at, which nobody trains.",
    ),
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
        "The images keep so much of the drop by poisoned features. Above 100 they do more harm than the features, \
         below 0 they help the victim.",
    ),
    ("PSNR", "PSNR, dB", "The peak signal-to-noise ratio compares the images with those that they are made of."),
    ("SSIM", "SSIM", "The structural similarity compares the same images, and is 1 for unchanged ones."),
    (
        "Linf",
        "largest change",
        "This is the largest change of a pixel, in grey levels of 255, as a mean over the poisons.",
    ),
    (
        "distance",
        "relative distance",
        "This is the median distance of the images' features to the poisoned ones (of attacks on pixels, to those \
         before rounding), in units of the distance between clean nearest neighbours.",
    ),
    (
        "outliers",
        "outliers, %",
        "This share of the poisons has features of an unusual norm or far from all clean ones, so that a defender \
         could find them.",
    ),
    (
        "outside",
        "violations, %",
        "This share of the poisons has features that violate the attack's constraint by more than a hundredth.",
    ),
    ("objective", "objective", "This is what the attack optimised."),
    (
        "seconds",
        "seconds",
        "The attacker computed for so long, from target-params to images or noise; `?` stands where an artifact \
         behind this is gone.",
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

impl Column {
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
    fn numbers(name: &str, settings: &[Setting], digits: usize, of: impl Fn(&Group) -> Option<f64>) -> Self {
        let values: Vec<Option<f64>> = settings.iter().map(|s| of(&s.group)).collect();
        let cells = values.iter().map(|v| v.map_or_else(|| NONE.to_owned(), |x| format!("{x:.digits$}")));
        Self { right: true, ..Self { values: values.clone(), ..Self::new(name, cells.collect(), Place::Detail) } }
    }

    /// Makes a column of shares that may be missing, in percent, with their standard deviation over seeds.
    fn percent(name: &str, settings: &[Setting], of: impl Fn(&Group) -> Option<Cell>) -> Self {
        let cell = |s: &Setting| match of(&s.group) {
            None => NONE.to_owned(),
            Some(c) if s.group.seeds > 1 => format!("{:.2} ± {:.2}", 100.0 * c.mean, 100.0 * c.std),
            Some(c) => format!("{:.2}", 100.0 * c.mean),
        };
        let values = settings.iter().map(|s| of(&s.group).map(|c| c.mean)).collect();
        let cells = settings.iter().map(cell).collect();
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
    if let Some(path) = field("features", "path") {
        return Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned();
    }
    let field = |name| field("pretrain", name);
    let trained = field("trained").map(|trained| format!(" ({trained})"));
    field("method").unwrap_or_default().to_owned() + &trained.unwrap_or_default()
}

/// Describes the attacker's extractor and, if there is one, the victim extractor.
pub fn extractors(params: &BTreeMap<&'static str, Value>) -> String {
    match params.get("victim-extractor.pretrain").and_then(|other| other.get("method")) {
        Some(other) => format!("{}, of victims: {}", extractor(params), parameter(other)),
        None => extractor(params),
    }
}

/// Text of a parameter in a cell. A limit that is not set reads "none".
fn parameter(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        value => crate::render::value(value),
    }
}

/// Whether a column other than the parameter's own shows it: attacks and extractors are named after their tags.
fn has_column(role: Option<StageRole>, node: &str, field: &str) -> bool {
    match field {
        "attack" | "labels" | "poison_fraction" | "noise" => role.is_some_and(StageRole::is_attack),
        "method" => role == Some(StageRole::Inversion) || ["features", "pretrain"].contains(&node),
        "path" => node == "features",
        "trained" => node == "pretrain",
        "kind" => role == Some(StageRole::Victim),
        _ => false,
    }
}

/// Columns for the parameters in which rows differ and that no other column shows.
fn parameters(settings: &[Setting]) -> Vec<Column> {
    let params = settings.iter().flat_map(|s| &s.group.params).map(|(node, params)| (*node, params));
    let mut telling = telling(params);
    let role = |node: &str| settings.iter().find_map(|s| s.group.roles.get(node).copied());
    telling.retain(|(node, field)| !has_column(role(node), node, field));
    // A branch makes poisons from features or in pixels. A parameter that both ways have is a single column.
    let twins = telling.clone();
    let twin = |field: &str| ["invert", "poison-features"].into_iter().find(|node| twins.contains(&(*node, field)));
    telling.retain(|(node, field)| *node != "poison-images" || twin(field).is_none());
    let column = |(node, field): &(&str, &str)| {
        let cell = |s: &Setting| {
            let other = || s.group.params.get("poison-images").filter(|_| twin(field) == Some(*node));
            let params = s.group.params.get(*node).or_else(other);
            params.and_then(|p| p.get(*field)).map_or_else(|| NONE.to_owned(), parameter)
        };
        let several = telling.iter().any(|(other, name)| name == field && other != node);
        let name = if several { format!("{node}.{field}") } else { (*field).to_owned() };
        Column::new(name, settings.iter().map(cell).collect(), Place::Setting)
    };
    telling.iter().map(column).collect()
}

/// The columns that say which result a row shows.
fn identities(settings: &[Setting]) -> Vec<Column> {
    let words = |name: &str, cell: &dyn Fn(&Group) -> String| {
        Column::new(name, settings.iter().map(|s| cell(&s.group)).collect(), Place::Setting)
    };
    let method = |g: &Group| g.attack.method.clone().unwrap_or_else(|| NONE.to_owned());
    let labels = |g: &Group| {
        let chosen = ["poison-features", "poison-images"].iter().find_map(|node| g.params.get(node)?.get("labels"));
        if g.clean_label { "clean".to_owned() } else { chosen.map_or_else(|| "dirty".to_owned(), parameter) }
    };
    let sees = |g: &Group| match g.sees == g.controls_see {
        true => g.sees.to_string(),
        false => format!("{}; controls {}", g.sees, g.controls_see),
    };
    let values = settings.iter().map(|s| Some(s.group.poison_fraction)).collect();
    let mut columns = vec![words("attack", &|g| g.attack.objective.clone()), words("method", &method)];
    columns.push(Column { right: true, values, ..words("poison", &|g| share(g.poison_fraction)) });
    columns.extend(parameters(settings));
    columns.extend([words("labels", &labels), words("extractor", &|g| extractors(&g.params)), words("sees", &sees)]);
    columns.extend([words("victim", &|g| g.victim.clone()), words("seeds", &|g| g.seeds.to_string())]);
    columns
}

/// The column of accuracies on clean and on poisoned data, with the interval of the latter.
fn accuracy(settings: &[Setting]) -> Column {
    let cell = |s: &Setting, digits: usize| {
        let width = digits + 3;
        let percent = |x: f64| format!("{:>width$.digits$}", 100.0 * x);
        let poisoned = s.poisoned.map_or_else(|| NONE.to_owned(), |e| percent(e.mean));
        let half = s.half().map(|half| format!(" ± {:.digits$}", 100.0 * half));
        format!("{} -> {poisoned}{}", percent(s.clean), half.unwrap_or_default())
    };
    let cells = |digits| settings.iter().map(|s| cell(s, digits)).collect();
    let values = settings.iter().map(|s| Some(s.poisoned?.mean)).collect();
    Column { short: cells(1), values, ..Column::new("accuracy", cells(2), Place::Answer) }
}

/// The control that lowers the victim's accuracy most, in words, and the accuracy that it leaves.
fn strongest(group: &Group) -> Option<(String, f64)> {
    let there = group.accuracy.controls().map(|(set, cell)| (set.words(), cell.mean));
    there.min_by(|a, b| a.1.total_cmp(&b.1))
}

/// The strongest control, if there are several rows and it is the same in all rows that have controls.
pub fn common_control(settings: &[Setting]) -> Option<String> {
    let names: BTreeSet<String> = settings.iter().filter_map(|s| Some(strongest(&s.group)?.0)).collect();
    names.first().cloned().filter(|_| settings.len() > 1 && names.len() == 1)
}

/// Makes a column for every control.
fn controls(settings: &[Setting]) -> Vec<Column> {
    let mut seen: Vec<&TrainingSet> = Vec::new();
    for (set, _) in settings.iter().flat_map(|s| s.group.accuracy.controls()) {
        if !seen.contains(&set) {
            seen.push(set);
        }
    }
    let column = |set: &TrainingSet| Column {
        meaning: format!(
            "This control is the accuracy, in %, {}.",
            about(&set.name).unwrap_or("of another training set")
        ),
        ..Column::percent(&set.name, settings, |g| g.accuracy.get(&set.name).copied())
    };
    seen.into_iter().map(column).collect()
}

/// The column of accuracies with the strongest control, with its name if rows differ in it.
fn control(settings: &[Setting]) -> Column {
    let common = common_control(settings).is_some();
    let cells = |digits: usize| {
        let cell = |s: &Setting| match strongest(&s.group) {
            None => NONE.to_owned(),
            Some((_, left)) if common => format!("{:.digits$}", 100.0 * left),
            Some((name, left)) => format!("{name} {:.digits$}", 100.0 * left),
        };
        settings.iter().map(cell).collect()
    };
    let values = settings.iter().map(|s| Some(strongest(&s.group)?.1)).collect();
    Column { short: cells(1), values, right: true, ..Column::new("control", cells(2), Place::Answer) }
}

/// Share of the drop through poisoned features that the poisoned images keep, in percent.
fn kept(g: &Group) -> Option<f64> {
    let drop = |poisoned: Cell| g.accuracy.clean.mean - poisoned.mean;
    // For a drop below one percentage point, the share would be noise.
    let asked = g.accuracy.features().copied().map(drop).filter(|drop| *drop >= 0.01)?;
    Some(100.0 * drop(*g.accuracy.images()?) / asked)
}

/// The columns that stages declare.
fn of_stages(settings: &[Setting]) -> Vec<Column> {
    let mut declared: Vec<(&str, hemlock_stage::Column)> = Vec::new();
    for of in settings.iter().flat_map(|s| &s.group.declared) {
        if !declared.contains(of) {
            declared.push(*of);
        }
    }
    let column = |(node, declared): (&str, hemlock_stage::Column)| Column {
        heading: declared.heading.to_owned(),
        meaning: declared.meaning.to_owned(),
        ..Column::numbers(declared.field, settings, declared.digits, |g| {
            g.stages.get(node)?.get(declared.field).copied()
        })
    };
    declared.into_iter().map(column).collect()
}

/// All columns of the table, in order.
pub fn columns(settings: &[Setting]) -> Vec<Column> {
    let mut columns = identities(settings);
    columns.extend([accuracy(settings), control(settings)]);
    let percent = |name: &str, of: &dyn Fn(&Group) -> Option<Cell>| Column::percent(name, settings, of);
    columns.push(percent("clean", &|g| Some(g.accuracy.clean)));
    columns.push(percent("target", &|g| g.accuracy.target().copied()));
    columns.push(percent("features", &|g| g.accuracy.features().copied()));
    columns.push(percent("images", &|g| g.accuracy.images().copied()));
    columns.push(percent("drop", &|g| g.drop));
    columns.extend(controls(settings));
    let number =
        |name: &str, digits: usize, of: &dyn Fn(&Group) -> Option<f64>| Column::numbers(name, settings, digits, of);
    columns.push(number("kept", 0, &kept));
    columns.push(Column { place: Place::Both, ..number("PSNR", 1, &|g| Some(g.visibility?.psnr.mean)) });
    columns.push(number("SSIM", 2, &|g| Some(g.visibility?.ssim.mean)));
    columns.push(number("Linf", 1, &|g| Some(255.0 * g.visibility?.linf.mean)));
    columns.push(number("distance", 2, &|g| Some(g.visibility?.relative_distance.mean)));
    columns.push(number("outliers", 0, &|g| Some(100.0 * g.visibility?.outliers.mean)));
    columns.push(number("outside", 0, &|g| Some(100.0 * g.visibility?.outside.mean)));
    columns.push(number("objective", 3, &|g| Some(g.objective.mean)));
    let seconds = number("seconds", 1, &|g| g.seconds.map(|seconds| seconds.mean));
    columns.extend(of_stages(settings));
    let known = |cell: &String| if cell == NONE { UNKNOWN.to_owned() } else { cell.clone() };
    columns.push(Column { cells: seconds.cells.iter().map(known).collect(), ..seconds });
    columns
}
