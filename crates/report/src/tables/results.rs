//! The table of results.

use super::{interval, percent, plain, share};
use crate::{
    ConfigGroup,
    config_group::quantity,
    passes_curve::PassesCurve,
    statistics::Estimate,
    table::{Table, TableCell},
    words,
};
use hemlock_artifact::TrainingSet;
use hemlock_pipeline::{ResultRow, telling};
use std::collections::BTreeSet;

/// A number with its standard deviation, and a number with its confidence interval.
const STD: &[&str] = &["", "std"];
const INTERVAL: &[&str] = &["", "low", "high"];

/// Returns the cell of a configuration.
type CellOf<'a> = Box<dyn Fn(&ConfigGroup) -> TableCell + 'a>;

/// How a column is shown.
enum ColumnKind {
    /// As text.
    Text,
    /// As numbers, with what is appended to the title for each of them.
    Numbers(&'static [&'static str]),
    /// In the files alone.
    Aside,
}

/// Columns, with the cells of every configuration.
#[derive(Default)]
struct Columns<'a>(Vec<(String, ColumnKind, CellOf<'a>)>);

impl<'a> Columns<'a> {
    fn add(&mut self, title: impl Into<String>, kind: ColumnKind, cell: impl Fn(&ConfigGroup) -> TableCell + 'a) {
        self.0.push((title.into(), kind, Box::new(cell)));
    }

    /// Adds a mean in per cent, with its standard deviation over seeds.
    fn percent(&mut self, title: impl Into<String>, of: impl Fn(&ResultRow) -> Option<f64> + 'a) {
        self.add(title, ColumnKind::Numbers(STD), move |c| percent(c.mean(&of)));
    }

    /// Adds a mean with its standard deviation over seeds.
    fn plain(&mut self, title: impl Into<String>, digits: usize, of: impl Fn(&ResultRow) -> Option<f64> + 'a) {
        self.add(title, ColumnKind::Numbers(STD), move |c| plain(c.mean(&of), digits));
    }

    /// Adds a mean in points, with its confidence interval.
    fn interval(&mut self, title: &str, class: &'static str, of: impl Fn(&ConfigGroup) -> Option<Estimate> + 'a) {
        self.add(title, ColumnKind::Numbers(INTERVAL), move |c| interval(of(c)).class(class));
    }

    /// Appends the columns to a table.
    fn declare(&self, table: Table) -> Table {
        self.0.iter().fold(table, |table, (title, kind, _)| match kind {
            ColumnKind::Text => table.texts(title),
            ColumnKind::Numbers(parts) => table.numbers(title, parts),
            ColumnKind::Aside => table.aside(title),
        })
    }

    fn cells(&self, config: &ConfigGroup) -> impl Iterator<Item = TableCell> {
        self.0.iter().map(|(.., cell)| cell(config))
    }
}

/// The table of results, one row per configuration: accuracies, drop, visibility and time. Controls, and what stages
/// declare as columns of results, have a column as far as some result has them.
pub fn results(configs: &[ConfigGroup]) -> Table {
    let parts = [accuracies(configs), defences(configs), controls(configs), visibility(configs)];
    let aside = aside(configs);
    // Each part is a table of its own in the page, because a page is too narrow for all columns.
    let declared =
        parts.iter().fold(Table::new("results", caption(configs)), |table, part| part.declare(table).below());
    let mut table = aside.declare(declared);
    for config in configs {
        table.push(parts.iter().chain([&aside]).flat_map(|part| part.cells(config)).collect());
    }
    table
}

/// What the optimiser is known to miss.
fn gap(row: &ResultRow) -> Option<f64> {
    row.gap
}

fn caption(configs: &[ConfigGroup]) -> String {
    let mut caption =
        "The table shows test accuracies in %, as means ± standard deviations over seeds. The attacker sees \
                       the labels of the splits under `sees`. The drop is the clean accuracy minus the accuracy with \
                       poisoned images (with poisoned features, if there are no images), in points, with its 95 % \
                       confidence interval over everything that seeds draw anew and over test images. PSNR (in dB), \
                       SSIM and L∞ (in grey levels of 255) compare poisons with their base images. Outliers are given \
                       in % of the poisons, and of the poisoned features that images were made from. The curve of an \
                       attack on pixels is flat if runs of other lengths show that more passes would bring at most a \
                       twentieth of the gain of the objective; that of noise is flat if its crafting ended by itself."
            .to_owned();
    if configs.iter().any(|c| c.mean(gap).is_some()) {
        caption += " The gap is how far the search that began with adversarial labels ended behind the best search, in \
                    the attack's objective.";
    }
    if configs.iter().any(|c| c.mean(quantity::undefended).is_some()) {
        caption += " Clean, images and features are accuracies behind the defence, and undefended ones are those of the \
                    same victim without it. The cost is the accuracy on clean data that the defence takes, in points; \
                    what it regains is the accuracy under the attack that it brings back, in points; and the recovery \
                    is what it regains as a share of what the attack takes from the undefended victim.";
    }
    for (_, column) in declared(configs) {
        caption += &format!(" {}: {}", words::capital(column.heading), column.meaning);
    }
    caption
}

/// The columns that name a result, and those of accuracies.
fn accuracies(configs: &[ConfigGroup]) -> Columns<'_> {
    let mut columns = Columns::default();
    columns.add("attack", ColumnKind::Text, |c| TableCell::text(&c.label));
    if configs.iter().any(|c| c.experiment != configs[0].experiment) {
        columns.add("setting", ColumnKind::Text, |c| TableCell::text(&c.experiment));
    }
    columns.add("poison fraction, %", ColumnKind::Numbers(&[""]), |c| share(c.poison_fraction()));
    columns.add("labels", ColumnKind::Text, |c| {
        let chosen = || c.of_attack("labels").map_or_else(|| "dirty".to_owned(), words::value);
        TableCell::text(if c.clean_label() { "clean".to_owned() } else { chosen() })
    });
    columns.add("sees", ColumnKind::Text, |c| TableCell::text(c.row().sees.to_string()));
    columns.add("victim", ColumnKind::Text, |c| TableCell::text(c.victim()));
    columns.add("seeds", ColumnKind::Numbers(&[""]), |c| {
        TableCell::numbers(c.rows.len().to_string(), vec![Some(c.rows.len() as f64)])
    });
    columns.percent("clean", quantity::clean);
    columns.interval("drop [95 % CI]", "strong", |c| c.mean(quantity::drop));
    columns.percent("target", quantity::target);
    columns.percent("features", quantity::features);
    columns.percent("images", quantity::images);
    columns
}

/// The columns of defences, if some result has one.
fn defences(configs: &[ConfigGroup]) -> Columns<'_> {
    let mut columns = Columns::default();
    if configs.iter().any(|c| c.mean(quantity::undefended).is_some()) {
        columns.percent("undefended clean", quantity::undefended_clean);
        columns.percent("undefended", quantity::undefended);
        columns.interval("cost on clean data [95 % CI]", "", |c| c.mean(quantity::cost));
        columns.interval("regained [95 % CI]", "", |c| c.mean(quantity::regained));
        columns.interval("recovery, % [95 % CI]", "", |c| c.mean(quantity::recovery));
        columns.percent("recall, %", quantity::recall);
        columns.percent("false positives, %", quantity::false_positives);
        columns.percent("AUROC, %", quantity::auroc);
    }
    columns
}

/// The columns of best epochs and of controls.
fn controls(configs: &[ConfigGroup]) -> Columns<'_> {
    let mut columns = Columns::default();
    if configs.iter().any(|c| c.mean(quantity::best_epoch).is_some()) {
        columns.percent("images, best epoch", quantity::best_epoch);
        columns.interval("drop, best epochs [95 % CI]", "", |c| c.mean(quantity::drop_of_best_epochs));
    }
    let mut controls: Vec<&TrainingSet> = Vec::new();
    for (control, _) in configs.iter().flat_map(|c| c.row().accuracy.controls()) {
        if !controls.contains(&control) {
            controls.push(control);
        }
    }
    for control in controls {
        columns.percent(control.words(), |row| row.accuracy.get(&control.name).copied());
    }
    columns
}

/// The columns of visibility, of the curve over passes, of what stages declare, and of time.
fn visibility(configs: &[ConfigGroup]) -> Columns<'_> {
    let mut columns = Columns::default();
    columns.plain("PSNR", 1, quantity::psnr);
    columns.plain("SSIM", 2, quantity::ssim);
    columns.plain("L∞", 1, quantity::linf);
    columns.percent("outliers, %", quantity::outliers);
    if configs.iter().any(|c| c.mean(quantity::outliers_of_features).is_some()) {
        columns.percent("outliers of features, %", quantity::outliers_of_features);
    }
    if configs.iter().any(|c| c.passes_curve != PassesCurve::NotAsked) {
        columns.add("curve over passes", ColumnKind::Text, |c| TableCell::text(c.passes_curve.words()));
    }
    if configs.iter().any(|c| c.mean(gap).is_some()) {
        columns.plain("gap", 4, gap);
    }
    for (node, column) in declared(configs) {
        let of = move |row: &ResultRow| row.stages.get(node)?.get(column.field).copied();
        columns.plain(column.heading, column.digits, of);
    }
    columns.plain("seconds", 1, quantity::seconds);
    columns
}

/// The columns of the files alone: the parameters in which results differ, and where results come from.
fn aside(configs: &[ConfigGroup]) -> Columns<'_> {
    let mut columns = Columns::default();
    let params = configs.iter().flat_map(|c| &c.row().params).map(|(node, params)| (*node, params));
    for (node, field) in telling(params) {
        columns.add(format!("{node}.{field}"), ColumnKind::Aside, move |c| {
            c.parameter(node, field).map_or_else(TableCell::none, |value| TableCell::text(words::value(value)))
        });
    }
    let every = |c: &ConfigGroup, of: fn(&ResultRow) -> String| {
        TableCell::text(c.rows.iter().map(of).collect::<Vec<_>>().join(" "))
    };
    columns.add("pipeline", ColumnKind::Aside, |c| TableCell::text(c.pipeline()));
    columns.add("seeds, in order", ColumnKind::Aside, move |c| every(c, |row| row.seed.to_string()));
    columns.add("keys, in order", ColumnKind::Aside, move |c| every(c, |row| row.key.clone()));
    columns
}

/// The columns that stages declare, each once: node and column.
fn declared(configs: &[ConfigGroup]) -> Vec<(&'static str, hemlock_stage::Column)> {
    let mut seen = BTreeSet::new();
    let all = configs.iter().flat_map(|c| c.row().declared.iter().copied());
    all.filter(|(node, column)| seen.insert((*node, column.field))).collect()
}
