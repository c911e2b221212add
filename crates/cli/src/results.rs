//! The result table: the few columns that answer the question, within the available width, or the columns that the user
//! asks for.

mod columns;
mod layout;
pub(crate) mod words;

use columns::{CORE, NONE, Place, ResultColumn, columns};
use hemlock_pipeline::{AggregatedRow, ResultRow, aggregate, nearest};
use hemlock_report::{ConfigGroup, statistics::Estimate};
use layout::TableLayout;

/// Width of a table that is written to a file or a pipe, in characters.
pub const FILE_WIDTH: usize = 100;

/// Most characters of a line of text above or below a table, however wide the table is.
const TEXT: usize = 120;

/// The choice of the columns that are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableView {
    /// The columns that answer the question and those that distinguish rows, within the given number of characters.
    /// What all rows have in common is written above the table.
    Few(usize),
    /// All columns, whatever their width.
    Wide,
    /// The columns of these names, in this order.
    Named(Vec<String>),
}

/// A request for a table.
#[derive(Debug)]
pub struct TableRequest<'a> {
    /// The columns to show.
    pub view: TableView,
    /// The column by which rows are sorted. A leading `-` reverses the order.
    pub sort: Option<&'a str>,
    /// Whether the columns are explained below the table.
    pub legend: bool,
}

/// A row of the table: results that differ in seeds only.
pub struct TableRow {
    group: AggregatedRow,
    /// Mean accuracy of the victim on clean data.
    clean: f64,
    /// Mean accuracy of the victim on poisoned data: with poisoned images or, if there are none, with poisoned
    /// features.
    poisoned: Option<Estimate>,
}

impl TableRow {
    /// Makes the rows of a table from results. Their answers must have been [read](hemlock_pipeline::read_answers),
    /// because the intervals are over seeds and test images.
    pub fn all(rows: &[ResultRow]) -> Vec<Self> {
        let row = |config: &ConfigGroup| {
            let poisoned = config.mean(|row| row.accuracy.poisoned().copied());
            let clean = config.mean(|row| Some(row.accuracy.clean));
            let of = move |group: AggregatedRow| {
                let clean = clean.map_or(group.accuracy.clean.mean, |clean| clean.mean);
                Self { clean, poisoned, group }
            };
            aggregate(&config.rows).into_iter().map(of)
        };
        ConfigGroup::all(rows).iter().flat_map(row).collect()
    }

    /// Half of the width of the poisoned accuracy's 95 % confidence interval, if it is known.
    fn half(&self) -> Option<f64> {
        self.poisoned?.half_width()
    }
}

/// Finds a column by its name or, if no column has that name, by its heading.
fn find<'a>(columns: &'a [ResultColumn], asked: &str) -> Result<&'a ResultColumn, String> {
    let asked = asked.trim();
    let exact = columns.iter().find(|c| c.name == asked);
    let alike = || columns.iter().find(|c| c.name.eq_ignore_ascii_case(asked));
    let heading = || columns.iter().find(|c| c.heading.eq_ignore_ascii_case(asked));
    exact.or_else(alike).or_else(heading).ok_or_else(|| {
        let known: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
        let meant = nearest(asked, &known).map_or_else(String::new, |n| format!("; did you mean `{n}`?"));
        let name: String = asked.chars().take(60).collect();
        format!("there is no column '{name}'; expected some of {}{meant}", known.join(", "))
    })
}

/// Numbers of the rows in the requested order.
fn order(columns: &[ResultColumn], rows: usize, sort: Option<&str>) -> Result<Vec<usize>, String> {
    let Some(sort) = sort else { return Ok((0..rows).collect()) };
    let (name, descending) = sort.strip_prefix('-').map_or((sort, false), |name| (name, true));
    find(columns, name).map(|column| column.order(descending)).map_err(|e| format!("--sort: {e}"))
}

/// Writes the result table of a pipeline, with means over seeds.
///
/// # Errors
/// No column has a requested name. The message lists the columns.
pub fn results(pipeline: &str, table_rows: &[TableRow], asked: &TableRequest) -> Result<String, String> {
    let columns = columns(table_rows);
    let order = order(&columns, table_rows.len(), asked.sort)?;
    let shown: Vec<&ResultColumn> = match &asked.view {
        TableView::Few(width) => return Ok(few(pipeline, (table_rows, &columns, &order), *width, asked)),
        TableView::Wide => columns.iter().filter(|c| c.place != Place::Answer).collect(),
        TableView::Named(names) => {
            let found = names.iter().map(|name| find(&columns, name));
            found.collect::<Result<_, _>>().map_err(|e| format!("--columns: {e}"))?
        }
    };
    let mut out = TableLayout::plain(shown.clone()).text(&order, TEXT) + "\n";
    out += &words::deviations(table_rows, asked.legend, TEXT);
    if asked.legend {
        out += &("\n".to_owned() + &words::legend(table_rows, &shown, TEXT));
    }
    Ok(out + &words::warnings(table_rows, TEXT))
}

/// Writes the table of few columns.
fn few(
    pipeline: &str,
    (table_rows, columns, order): (&[TableRow], &[ResultColumn], &[usize]),
    width: usize,
    &TableRequest { sort, legend, .. }: &TableRequest,
) -> String {
    let text = width.min(TEXT);
    let in_common = |c: &&ResultColumn| c.place == Place::Setting && c.common().is_some_and(|common| common != NONE);
    // A single result has nothing in common with others, so its core columns stay in the table.
    let alone = |c: &&ResultColumn| table_rows.len() == 1 && CORE.contains(&c.name.as_str());
    let common: Vec<&ResultColumn> = columns.iter().filter(|c| in_common(c) && !alone(c)).collect();
    let asked = |c: &&ResultColumn| match c.place {
        Place::Setting => alone(c) || c.common().is_none(),
        Place::Answer | Place::Both => true,
        Place::Detail => false,
    };
    let asked: Vec<&ResultColumn> = columns.iter().filter(|c| asked(c) && !c.is_empty()).collect();
    let layout = TableLayout::fitting(&asked, width);
    let has = |c: &ResultColumn| layout.columns.iter().any(|shown| shown.name == c.name);
    let left_out: Vec<&str> = asked.iter().filter(|c| !has(c)).map(|c| c.heading.as_str()).collect();
    let order = if sort.is_some() { order.to_vec() } else { layout.gathered(order) };
    let mut out = words::above(pipeline, table_rows, &common, text) + "\n" + &layout.text(&order, text) + "\n";
    out += &words::more(&left_out, legend, text);
    if legend {
        let explained: Vec<&ResultColumn> = columns.iter().filter(|c| has(c) || in_common(c)).collect();
        out += &("\n".to_owned() + &words::legend(table_rows, &explained, text));
    }
    out + &words::warnings(table_rows, text)
}

#[cfg(test)]
mod tests;
