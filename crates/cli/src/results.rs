//! The result table: all of it for files and pipes, and what fits for a terminal.

use crate::render::{text, value};
use comfy_table::{Cell as TableCell, CellAlignment, ContentArrangement, Table, presets};
use hemlock_attack::attacks::ATTACKS;
use hemlock_pipeline::{Cell, Group, nearest, telling};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Which columns are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    /// All, whatever their width.
    Wide,
    /// Those that tell rows apart or were measured, as far as they fit into so many characters. What all rows have in
    /// common stands above the table.
    Fitting(usize),
    /// Those of these names, in this order.
    Named(Vec<String>),
}

/// A column of the table.
struct Column {
    /// By which it is asked for, and what stands above it.
    name: String,
    cells: Vec<String>,
    /// The same without deviations, and of accuracies with one digit less.
    short: Vec<String>,
    align: CellAlignment,
    /// Whether it stands above the table where it is the same in all rows.
    lifts: bool,
}

/// What a column without a value has.
const NONE: &str = "-";

/// What gives way first where a terminal is narrow, up to the deviations over seeds, and what gives way after them.
const LESS_ASKED: [&str; 15] = [
    "removed",
    "duplicates",
    "aligned",
    "random",
    "seconds",
    "outside",
    "distance",
    "objective",
    "kept",
    "SSIM",
    "PSNR",
    "target",
    "outliers",
    "Linf",
    "seeds",
];
const MORE_ASKED: [&str; 2] = ["clean", "features"];

/// What columns mean, in the order of the table.
const MEANINGS: [(&str, &str); 19] = [
    ("poison", "number of poisons, in % of the clean samples"),
    (
        "labels",
        "of the samples that poisons are made of (clean), or not: random, or aligned by the attacker; free where they are \
         the attack's choice",
    ),
    ("sees", "the labelled clean splits that the attacker looks at, and controls, where these look at others"),
    ("clean", "the head that is trained on clean data"),
    ("target", "the attacker's target, not retrained"),
    ("features", "retrained with the poisoned features"),
    ("images", "retrained with their 8-bit images"),
    ("drop", "clean minus images, or minus features where there are no images, in points"),
    ("random", "retrained with as many random label flips"),
    ("aligned", "retrained with as many label flips chosen by influence"),
    ("duplicates", "retrained with as many clean samples a second time"),
    ("removed", "retrained without the images that poisons replace"),
    (
        "kept",
        "% of the features' drop that the images keep; above 100 they do more harm than the features, below 0 they help \
         the victim",
    ),
    ("PSNR", "of the images against those that they are made of, in dB"),
    ("SSIM", "the same as structural similarity, 1 for unchanged images"),
    ("Linf", "largest change of a pixel, in grey levels of 255"),
    (
        "distance",
        "median distance of the images' features to the poisoned ones (of attacks on pixels to those before rounding), in \
         distances of clean nearest neighbours",
    ),
    (
        "outliers",
        "% of the poisons with features of an unusual norm or far from clean ones: a defender could find them",
    ),
    ("outside", "% of the poisons outside of the attack's constraint, by a hundredth"),
];
const SECONDS: &str = "of the attacker, target-params to images or noise; `?` where an artifact behind it is gone";

/// What stands for a number that is not known.
const UNKNOWN: &str = "?";

/// The share of the way from chance to 1 below which a clean accuracy is near chance.
const NEAR_CHANCE: f64 = 0.1;

impl Column {
    fn words(name: impl Into<String>, cells: Vec<String>) -> Self {
        Self { name: name.into(), short: cells.clone(), cells, align: CellAlignment::Left, lifts: true }
    }

    fn numbers(name: &str, cells: Vec<String>) -> Self {
        Self { align: CellAlignment::Right, lifts: false, ..Self::words(name, cells) }
    }

    /// Of values that may be missing, in hundredths.
    fn percent(name: &str, groups: &[Group], of: impl Fn(&Group) -> Option<Cell>) -> Self {
        let cells = |std: bool| -> Vec<String> {
            let cell = |g: &Group| match of(g) {
                None => NONE.to_owned(),
                Some(c) if std && g.seeds > 1 => format!("{:.2} ± {:.2}", 100.0 * c.mean, 100.0 * c.std),
                Some(c) if std => format!("{:.2}", 100.0 * c.mean),
                Some(c) => format!("{:.1}", 100.0 * c.mean),
            };
            groups.iter().map(cell).collect()
        };
        Self { short: cells(false), ..Self::numbers(name, cells(true)) }
    }

    fn is_empty(&self) -> bool {
        self.cells.iter().all(|cell| cell == NONE)
    }

    /// What all rows have in common.
    fn common(&self) -> Option<&str> {
        self.cells
            .first()
            .filter(|first| self.lifts && self.cells.iter().all(|cell| cell == *first))
            .map(String::as_str)
    }

    fn width(&self, deviations: bool) -> usize {
        let cells = if deviations { &self.cells } else { &self.short };
        cells.iter().chain([&self.name]).map(|cell| cell.chars().count()).max().unwrap_or(0)
    }
}

/// How an extractor was made, from the stages' parameters: `simclr`, or `import (supervised)`. Imported features are
/// named after their file.
fn extractor(params: &BTreeMap<&'static str, Value>) -> String {
    let field = |node, name| params.get(node)?.get(name)?.as_str();
    if let Some(path) = field("features", "path") {
        return Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned();
    }
    let field = |name| field("pretrain", name);
    let trained = field("trained").map(|trained| format!(" ({trained})"));
    field("method").unwrap_or_default().to_owned() + &trained.unwrap_or_default()
}

/// The attacker's extractor, and the one that is deployed where that is another.
fn extractors(params: &BTreeMap<&'static str, Value>) -> String {
    match params.get("deployed.pretrain").and_then(|deployed| deployed.get("method")) {
        Some(deployed) => format!("{}, deployed: {}", extractor(params), value(deployed)),
        None => extractor(params),
    }
}

/// Columns for what differs between rows and has no column of its own.
fn settings(groups: &[Group]) -> Vec<Column> {
    let mut telling = telling(groups.iter().flat_map(|g| &g.params).map(|(node, params)| (*node, params)));
    // These have columns: attack and extractor are named after their tags.
    let columns = [
        ("poison-features", "attack"),
        ("poison-features", "labels"),
        ("poison-features", "eps_d"),
        ("invert", "method"),
        ("poison-images", "attack"),
        ("poison-images", "labels"),
        ("poison-images", "eps_d"),
        ("unlearnable", "noise"),
        ("unlearnable", "eps_d"),
        ("features", "method"),
        ("features", "path"),
        ("pretrain", "method"),
        ("pretrain", "trained"),
        ("victim", "kind"),
    ];
    telling.retain(|column| !columns.contains(column));
    // A branch makes poisons in features or in pixels, and what both have is one column.
    let twins = telling.clone();
    let twin = |field: &str| ["invert", "poison-features"].into_iter().find(|node| twins.contains(&(*node, field)));
    telling.retain(|(node, field)| *node != "poison-images" || twin(field).is_none());
    let column = |(node, field): &(&str, &str)| {
        let cell = |g: &Group| {
            let other = || g.params.get("poison-images").filter(|_| twin(field) == Some(*node));
            let params = g.params.get(*node).or_else(other);
            params.and_then(|p| p.get(*field)).map_or_else(|| NONE.to_owned(), value)
        };
        let several = telling.iter().any(|(other, name)| name == field && other != node);
        let name = if several { format!("{node}.{field}") } else { (*field).to_owned() };
        Column::words(name, groups.iter().map(cell).collect())
    };
    telling.iter().map(column).collect()
}

/// All columns of the table.
fn columns(groups: &[Group]) -> Vec<Column> {
    let words = |name: &str, cell: &dyn Fn(&Group) -> String| Column::words(name, groups.iter().map(cell).collect());
    let part = |g: &Group, n: usize| g.attack.splitn(2, " + ").nth(n).unwrap_or(NONE).to_owned();
    let labels = |g: &Group| {
        let chosen = ["poison-features", "poison-images"].iter().find_map(|node| g.params.get(node)?.get("labels"));
        if g.clean_label { "clean".to_owned() } else { chosen.map_or_else(|| "free".to_owned(), value) }
    };
    // 0.03 * 100 is no 3.
    let poison = |g: &Group| format!("{} %", (g.eps_d * 1e10).round() / 1e8);
    let mut columns = vec![words("attack", &|g| part(g, 0)), words("method", &|g| part(g, 1))];
    columns.push(Column { align: CellAlignment::Right, ..words("poison", &poison) });
    columns.extend(settings(groups));
    columns.extend([words("labels", &labels), words("extractor", &|g| extractors(&g.params))]);
    let sees = |g: &Group| match g.sees == g.controls_see {
        true => g.sees.to_string(),
        false => format!("{}; controls {}", g.sees, g.controls_see),
    };
    columns.push(words("sees", &sees));
    columns.extend([words("victim", &|g| g.victim.clone()), words("seeds", &|g| g.seeds.to_string())]);

    let percent = |name: &str, of: &dyn Fn(&Group) -> Option<Cell>| Column::percent(name, groups, of);
    columns.push(Column { lifts: true, ..percent("clean", &|g| Some(g.accuracy.clean)) });
    columns.push(percent("target", &|g| g.accuracy.target));
    columns.push(percent("features", &|g| g.accuracy.features));
    columns.push(percent("images", &|g| g.accuracy.images));
    columns.push(percent("drop", &|g| g.drop));
    columns.push(percent("random", &|g| g.accuracy.random_flips));
    columns.push(percent("aligned", &|g| g.accuracy.aligned_flips));
    columns.push(percent("duplicates", &|g| g.accuracy.duplicates));
    columns.push(percent("removed", &|g| g.accuracy.removed));
    let number = |name: &str, digits: usize, of: &dyn Fn(&Group) -> Option<f64>| {
        let cell = |g: &Group| of(g).map_or_else(|| NONE.to_owned(), |x| format!("{x:.digits$}"));
        Column::numbers(name, groups.iter().map(cell).collect())
    };
    let kept = |g: &Group| {
        let drop = |poisoned: Cell| g.accuracy.clean.mean - poisoned.mean;
        // Of a drop of less than a point nothing can be said.
        let asked = g.accuracy.features.map(drop).filter(|drop| *drop >= 0.01)?;
        Some(100.0 * drop(g.accuracy.images?) / asked)
    };
    columns.push(number("kept", 0, &kept));
    columns.push(number("PSNR", 1, &|g| Some(g.visibility?.psnr.mean)));
    columns.push(number("SSIM", 2, &|g| Some(g.visibility?.ssim.mean)));
    columns.push(number("Linf", 1, &|g| Some(255.0 * g.visibility?.linf.mean)));
    columns.push(number("distance", 2, &|g| Some(g.visibility?.relative_distance.mean)));
    columns.push(number("outliers", 0, &|g| Some(100.0 * g.visibility?.outliers.mean)));
    columns.push(number("outside", 0, &|g| Some(100.0 * g.visibility?.outside.mean)));
    columns.push(number("objective", 3, &|g| Some(g.objective.mean)));
    let seconds = |g: &Group| g.seconds.map_or_else(|| UNKNOWN.to_owned(), |seconds| format!("{:.1}", seconds.mean));
    columns.push(Column::numbers("seconds", groups.iter().map(seconds).collect()));
    columns
}

/// The columns that fit, by their numbers, and whether deviations do; the rest that was measured, by name.
fn fit(columns: &[Column], width: usize) -> (Vec<usize>, bool, Vec<&str>) {
    let always = |name: &str| ["attack", "method", "poison"].contains(&name);
    let worth = |c: &Column| !c.is_empty() && (always(&c.name) || c.common().is_none());
    let mut shown: BTreeSet<usize> = (0..columns.len()).filter(|i| worth(&columns[*i])).collect();
    let total = |shown: &BTreeSet<usize>, deviations: bool| {
        let widths: usize = shown.iter().map(|i| columns[*i].width(deviations)).sum();
        widths + 2 * shown.len().saturating_sub(1)
    };
    let mut left_out = Vec::new();
    let mut deviations = true;
    let mut give_way = |shown: &mut BTreeSet<usize>, deviations: bool, names: &[&str]| {
        for name in names {
            if total(shown, deviations) <= width {
                break;
            }
            if let Some(i) = shown.iter().copied().find(|i| columns[*i].name == *name) {
                shown.remove(&i);
                left_out.push(i);
            }
        }
    };
    give_way(&mut shown, true, &LESS_ASKED);
    if total(&shown, true) > width {
        deviations = false;
        give_way(&mut shown, false, &MORE_ASKED);
    }
    // What is asked for most takes the room that the others leave.
    for i in left_out.iter().rev() {
        let mut more = shown.clone();
        more.insert(*i);
        if total(&more, deviations) <= width {
            shown = more;
        }
    }
    left_out.retain(|i| !shown.contains(i));
    left_out.sort_unstable();
    let missing = left_out.iter().map(|i| columns[*i].name.as_str()).collect();
    (shown.into_iter().collect(), deviations, missing)
}

/// The result table of a pipeline: means over seeds.
///
/// # Errors
/// A column that was asked for is none, in words.
pub fn results(pipeline: &str, groups: &[Group], view: &View) -> Result<String, String> {
    let columns = columns(groups);
    let (shown, deviations, missing) = match view {
        View::Wide => ((0..columns.len()).collect(), true, Vec::new()),
        View::Fitting(width) => fit(&columns, *width),
        View::Named(names) => {
            let known: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
            let find = |name: &String| {
                let found = known.iter().position(|known| known.eq_ignore_ascii_case(name.trim()));
                found.ok_or_else(|| {
                    let meant = nearest(name, &known).map_or_else(String::new, |n| format!("; did you mean `{n}`?"));
                    let name: String = name.chars().take(60).collect();
                    format!("there is no column '{name}'; expected some of {}{meant}", known.join(", "))
                })
            };
            (names.iter().map(find).collect::<Result<Vec<_>, _>>()?, true, Vec::new())
        }
    };
    let mut rows = Table::new();
    rows.load_style(presets::NOTHING).set_header(shown.iter().map(|i| columns[*i].head()));
    if let View::Fitting(width) = view {
        // Where even the least is too wide, cells are broken rather than rows.
        rows.set_content_arrangement(ContentArrangement::Dynamic)
            .set_width((width + 2).min(usize::from(u16::MAX)) as u16);
    }
    for row in 0..groups.len() {
        let cell = |i: &usize| {
            let column = &columns[*i];
            TableCell::new(if deviations { &column.cells[row] } else { &column.short[row] }).set_alignment(column.align)
        };
        rows.add_row(shown.iter().map(cell));
    }
    let mut out = String::new();
    let width = if let View::Fitting(width) = view { (*width).min(120) } else { 120 };
    if matches!(view, View::Fitting(_)) {
        let common = |c: &Column| match (c.name.as_str(), c.common()?) {
            ("attack" | "method" | "poison", _) | (_, NONE) => None,
            ("seeds", "1") => Some("1 seed".to_owned()),
            ("seeds", seeds) => Some(format!("{seeds} seeds")),
            (name, common) => Some(format!("{name} {common}")),
        };
        let common: Vec<String> = columns.iter().filter_map(common).collect();
        out += &wrapped(&format!("{pipeline}: {}", common.join(", ")), width);
        out += "\n";
    }
    out += &text(&rows);
    out += "\n";
    let is_shown = |name: &str| shown.iter().any(|i| columns[*i].name == name);
    out += &legend(groups, &is_shown, deviations, width);
    if !missing.is_empty() {
        let missing = format!(
            "Too wide for this terminal: {}. --wide shows all, --columns those that it names.",
            missing.join(", ")
        );
        out += &wrapped(&missing, width);
    }
    Ok(out + &warnings(groups, width))
}

impl Column {
    fn head(&self) -> TableCell {
        TableCell::new(&self.name).set_alignment(self.align)
    }
}

/// What the columns mean that are shown.
fn legend(groups: &[Group], is_shown: &dyn Fn(&str) -> bool, deviations: bool, width: usize) -> String {
    let accuracies = ["clean", "target", "features", "images", "random", "aligned", "duplicates", "removed"];
    let mut parts = Vec::new();
    if accuracies.iter().any(|name| is_shown(name)) {
        let several = groups.iter().any(|g| g.seeds > 1);
        parts.push(match (several, deviations) {
            (false, _) => "Accuracy in % of the test split.".to_owned(),
            (true, true) => "Accuracy in % of the test split, mean ± standard deviation over seeds.".to_owned(),
            (true, false) => "Accuracy in % of the test split, mean over seeds.".to_owned(),
        });
    }
    let meanings = MEANINGS.iter().chain([&("seconds", SECONDS)]);
    parts.extend(meanings.filter(|(name, _)| is_shown(name)).map(|(name, meaning)| format!("{name}: {meaning}.")));
    let mut out = wrapped(&parts.join(" "), width);
    if is_shown("objective") {
        let shown = ATTACKS.iter().map(|attack| (attack.name(), attack.value_label()));
        for (name, shown) in shown.chain([(hemlock_unlearnable::NAME, hemlock_unlearnable::VALUE_LABEL)]) {
            if groups.iter().any(|g| g.attack.split(' ').next() == Some(name)) {
                out += &wrapped(&format!("objective of {name}: {shown}."), width);
            }
        }
    }
    let still =
        |g: &Group| g.seeds > 1 && [g.accuracy.features, g.accuracy.images].iter().flatten().any(|c| c.std == 0.0);
    if deviations && ["features", "images"].iter().any(|name| is_shown(name)) && groups.iter().any(still) {
        out += &wrapped("± 0.00: the attack draws nothing at random, and is the same whatever the seed.", width);
    }
    out
}

/// What to be wary of.
fn warnings(groups: &[Group], width: usize) -> String {
    let mut out = String::new();
    if let Some(worst) = groups.iter().filter_map(|g| g.unconverged).max_by(f64::total_cmp) {
        let text =
            format!("NOT CONVERGED: a head's training stopped at a gradient norm of {worst:.1e}, above its tolerance.");
        out += &wrapped(&text, width);
    }
    let weaker = groups.iter().flat_map(|g| &g.stepped_back);
    let weaker: BTreeSet<String> =
        weaker.map(|s| format!("{} is {} in the place of {}", s.field, s.used, s.asked)).collect();
    if !weaker.is_empty() {
        let weaker = Vec::from_iter(weaker).join(", ");
        out += &wrapped(&format!("STEPPED BACK: calibration leaves nothing of a stronger target: {weaker}."), width);
    }
    let unverified = groups.iter().filter(|g| g.verified == Some(false)).map(|g| extractors(&g.params));
    let unverified: BTreeSet<String> = unverified.collect();
    if !unverified.is_empty() {
        let names = Vec::from_iter(unverified).join(", ");
        let text = format!(
            "UNVERIFIED IMPORT: nothing shows that an extractor ({names}) computes what its weights were trained in; a `probe` \
             does (docs/pretraining.md)."
        );
        out += &wrapped(&text, width);
    }
    let collapsed: BTreeSet<String> =
        groups.iter().filter(|g| g.collapsed == Some(true)).map(|g| extractors(&g.params)).collect();
    if !collapsed.is_empty() {
        let names = Vec::from_iter(collapsed).join(", ");
        let text = format!("COLLAPSED: the embeddings of an extractor ({names}) all point nearly the same way.");
        out += &wrapped(&text, width);
    }
    let chance = |g: &Group| 1.0 / g.classes.max(1) as f64;
    let near = |g: &&Group| g.classes > 1 && g.accuracy.clean.mean - chance(g) < NEAR_CHANCE * (1.0 - chance(g));
    let worst = groups.iter().filter(near).min_by(|a, b| a.accuracy.clean.mean.total_cmp(&b.accuracy.clean.mean));
    if let Some(g) = worst {
        out += &wrapped(
            &format!(
                "NEAR CHANCE: a clean accuracy is {:.2} %, and guessing among {} classes gives {:.2} %. Such a head \
                 has little to lose, and drops say little.",
                100.0 * g.accuracy.clean.mean,
                g.classes,
                100.0 * chance(g)
            ),
            width,
        );
    }
    out
}

/// Text in lines of at most so many characters, as far as its words allow.
fn wrapped(text: &str, width: usize) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_artifact::Measured;
    use hemlock_pipeline::Seen;
    use serde_json::json;

    fn group(attack: &str, method: &str, constraint: &str, eps_d: f64) -> Group {
        let cell = |mean: f64| Cell { mean, std: 0.0123 };
        let params = BTreeMap::from([
            ("poison-features", json!({ "attack": attack, "eps_d": eps_d, "constraint": constraint })),
            ("invert", json!({ "method": method })),
            ("pretrain", json!({ "method": "simclr" })),
        ]);
        Group {
            attack: format!("{attack} + {method}"),
            victim: "linear".to_owned(),
            clean_label: true,
            eps_d,
            objective: cell(0.5),
            bound: None,
            params,
            seeds: 2,
            classes: 10,
            collapsed: Some(false),
            sees: Default::default(),
            controls_see: Default::default(),
            verified: None,
            stepped_back: Vec::new(),
            unconverged: None,
            accuracy: Measured {
                clean: cell(0.8135),
                target: Some(cell(0.4)),
                features: Some(cell(0.7)),
                images: Some(cell(0.75)),
                random_flips: Some(cell(0.8)),
                aligned_flips: Some(cell(0.79)),
                duplicates: Some(cell(0.81)),
                removed: None,
            },
            drop: Some(cell(0.0635)),
            visibility: Some(Seen {
                psnr: cell(20.0),
                ssim: cell(0.9),
                linf: cell(150.0 / 255.0),
                relative_distance: cell(1.5),
                outliers: cell(1.0),
                outside: cell(0.0),
            }),
            seconds: Some(cell(12.0)),
        }
    }

    fn groups() -> Vec<Group> {
        let mut groups = Vec::new();
        for (attack, constraint, eps_d) in [
            ("bilevel", "ball", 0.01),
            ("bilevel", "ball", 0.03),
            ("gradient-canceling", "none", 0.03),
            ("gradient-canceling", "ball", 0.03),
        ] {
            groups.extend(["feature-matching", "decoder"].map(|method| group(attack, method, constraint, eps_d)));
        }
        groups
    }

    #[test]
    fn a_table_fits_its_terminal_and_keeps_what_is_asked_for_most() {
        let groups = groups();
        for width in [80, 120, 200] {
            let table = results("quickstart", &groups, &View::Fitting(width)).unwrap();
            assert!(table.lines().all(|line| line.chars().count() <= width), "{width}:\n{table}");
            let rows: Vec<&str> =
                table.lines().filter(|l| ["bilevel ", "gradient-"].iter().any(|a| l.starts_with(a))).collect();
            assert_eq!(rows.len(), 8, "a row is a line, {width}:\n{table}");
            let header = table.lines().find(|l| l.starts_with("attack")).unwrap();
            for column in ["attack", "method", "poison", "constraint", "features", "images", "drop"] {
                assert!(header.split_whitespace().any(|word| word == column), "{column} at {width}:\n{table}");
            }
            let common =
                "quickstart: labels clean, extractor simclr, sees train, victim linear, 2 seeds, clean 81.35 ± 1.23";
            assert!(table.split_whitespace().zip(common.split_whitespace()).all(|(a, b)| a == b), "{table}");
            assert_eq!(header.contains("PSNR"), width > 80, "{table}");
        }
        let narrow = results("quickstart", &groups, &View::Fitting(80)).unwrap();
        assert!(narrow.contains("Too wide for this terminal: ") && narrow.contains("--wide shows all"), "{narrow}");
        // Far too narrow: cells break, and lines do not.
        let tiny = results("quickstart", &groups, &View::Fitting(50)).unwrap();
        assert!(tiny.lines().all(|line| line.chars().count() <= 50), "{tiny}");
    }

    #[test]
    fn constants_leave_the_table_only_on_a_terminal() {
        let mut groups = groups();
        let wide = results("p", &groups, &View::Wide).unwrap();
        assert!(wide.starts_with("attack "), "{wide}");
        assert!(["removed", "extractor", "150.0", "81.35 ± 1.23"].iter().all(|words| wide.contains(words)), "{wide}");
        groups[1].victim = "knn".to_owned();
        let table = results("p", &groups, &View::Fitting(200)).unwrap();
        assert!(table.contains(" victim ") && !table.lines().next().unwrap().contains("victim"), "{table}");
    }

    #[test]
    fn a_head_near_chance_and_an_attack_that_draws_nothing_are_said() {
        let one = |classes: usize, clean: f64| {
            let mut group = group("bilevel", "decoder", "ball", 0.03);
            (group.classes, group.accuracy.clean.mean) = (classes, clean);
            results("p", &[group], &View::Wide).unwrap()
        };
        assert!(
            one(100, 0.096)
                .contains("NEAR CHANCE: a clean accuracy is 9.60 %, and guessing among 100 classes gives 1.00 %")
        );
        assert!(one(2, 0.54).contains("NEAR CHANCE") && one(10, 0.12).contains("NEAR CHANCE"));
        assert!(!one(100, 0.2).contains("NEAR CHANCE") && !one(2, 0.6).contains("NEAR CHANCE"));
        assert!(!one(10, 0.5).contains("± 0.00: the attack draws nothing"));
        let mut still = group("bilevel", "decoder", "ball", 0.03);
        still.accuracy.features = Some(Cell { mean: 0.7, std: 0.0 });
        assert!(results("p", &[still], &View::Wide).unwrap().contains("± 0.00: the attack draws nothing"));
    }

    #[test]
    fn columns_are_found_by_name() {
        let view = View::Named(vec!["Drop".to_owned(), "constraint".to_owned()]);
        let table = results("p", &groups(), &view).unwrap();
        assert_eq!(table.lines().next().unwrap().split_whitespace().collect::<Vec<_>>(), ["drop", "constraint"]);
        let e = results("p", &groups(), &View::Named(vec!["imges".to_owned()])).unwrap_err();
        assert!(e.contains("no column 'imges'") && e.ends_with("did you mean `images`?"), "{e}");
    }
}
