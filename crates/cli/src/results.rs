//! The result table: the few columns that answer the question, within the available width, or the columns that the user
//! asks for.

mod columns;
mod layout;
mod words;

use columns::{CORE, Column, NONE, Place, columns};
use hemlock_pipeline::{Group, Row, aggregate, nearest};
use hemlock_report::{Case, statistics::Estimate};
use layout::Layout;

/// Width of a table that is written to a file or a pipe, in characters.
pub const FILE_WIDTH: usize = 100;

/// Most characters of a line of text above or below a table, however wide the table is.
const TEXT: usize = 120;

/// The choice of the columns that are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
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
pub struct Asked<'a> {
    /// The columns to show.
    pub view: View,
    /// The column by which rows are sorted. A leading `-` reverses the order.
    pub sort: Option<&'a str>,
    /// Whether the columns are explained below the table.
    pub legend: bool,
}

/// A row of the table: results that differ in seeds only.
pub struct Setting {
    group: Group,
    /// Mean accuracy of the victim on clean data.
    clean: f64,
    /// Mean accuracy of the victim on poisoned data: with poisoned images or, if there are none, with poisoned
    /// features.
    poisoned: Option<Estimate>,
}

impl Setting {
    /// Makes the rows of a table from results. Their answers must have been [read](hemlock_pipeline::read_answers),
    /// because the intervals are over seeds and test images.
    pub fn all(rows: &[Row]) -> Vec<Self> {
        let setting = |case: &Case| {
            let poisoned = case.mean(|row| row.accuracy.poisoned().copied());
            let clean = case.mean(|row| Some(row.accuracy.clean));
            let of = move |group: Group| {
                let clean = clean.map_or(group.accuracy.clean.mean, |clean| clean.mean);
                Self { clean, poisoned, group }
            };
            aggregate(&case.rows).into_iter().map(of)
        };
        Case::all(rows).iter().flat_map(setting).collect()
    }

    /// Half of the width of the poisoned accuracy's 95 % confidence interval, if it is known.
    fn half(&self) -> Option<f64> {
        self.poisoned?.half_width()
    }
}

/// Finds a column by its name or, if no column has that name, by its heading.
fn find<'a>(columns: &'a [Column], asked: &str) -> Result<&'a Column, String> {
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
fn order(columns: &[Column], rows: usize, sort: Option<&str>) -> Result<Vec<usize>, String> {
    let Some(sort) = sort else { return Ok((0..rows).collect()) };
    let (name, descending) = sort.strip_prefix('-').map_or((sort, false), |name| (name, true));
    find(columns, name).map(|column| column.order(descending)).map_err(|e| format!("--sort: {e}"))
}

/// Writes the result table of a pipeline, with means over seeds.
///
/// # Errors
/// No column has a requested name. The message lists the columns.
pub fn results(pipeline: &str, settings: &[Setting], asked: &Asked) -> Result<String, String> {
    let columns = columns(settings);
    let order = order(&columns, settings.len(), asked.sort)?;
    let shown: Vec<&Column> = match &asked.view {
        View::Few(width) => return Ok(few(pipeline, settings, &columns, &order, *width, asked.legend)),
        View::Wide => columns.iter().filter(|c| c.place != Place::Answer).collect(),
        View::Named(names) => {
            let found = names.iter().map(|name| find(&columns, name));
            found.collect::<Result<_, _>>().map_err(|e| format!("--columns: {e}"))?
        }
    };
    let mut out = Layout::plain(shown.clone()).text(&order, TEXT) + "\n";
    out += &words::deviations(settings, asked.legend, TEXT);
    if asked.legend {
        out += &("\n".to_owned() + &words::legend(settings, &shown, TEXT));
    }
    Ok(out + &words::warnings(settings, TEXT))
}

/// Writes the table of few columns.
fn few(
    pipeline: &str,
    settings: &[Setting],
    columns: &[Column],
    order: &[usize],
    width: usize,
    legend: bool,
) -> String {
    let text = width.min(TEXT);
    let told = |c: &&Column| c.place == Place::Setting && c.common().is_some_and(|common| common != NONE);
    // A single result has nothing in common with others, so its core columns stay in the table.
    let alone = |c: &&Column| settings.len() == 1 && CORE.contains(&c.name.as_str());
    let common: Vec<&Column> = columns.iter().filter(|c| told(c) && !alone(c)).collect();
    let asked = |c: &&Column| match c.place {
        Place::Setting => alone(c) || c.common().is_none(),
        Place::Answer | Place::Both => true,
        Place::Detail => false,
    };
    let asked: Vec<&Column> = columns.iter().filter(|c| asked(c) && !c.is_empty()).collect();
    let layout = Layout::fitting(&asked, width);
    let has = |c: &Column| layout.columns.iter().any(|shown| shown.name == c.name);
    let left_out: Vec<&str> = asked.iter().filter(|c| !has(c)).map(|c| c.heading.as_str()).collect();
    let mut out = words::above(pipeline, settings, &common, text) + "\n" + &layout.text(order, text) + "\n";
    out += &words::more(&left_out, legend, text);
    if legend {
        let explained: Vec<&Column> = columns.iter().filter(|c| has(c) || told(c)).collect();
        out += &("\n".to_owned() + &words::legend(settings, &explained, text));
    }
    out + &words::warnings(settings, text)
}

#[cfg(test)]
mod tests;
