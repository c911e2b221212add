//! The result table: the few columns that answer the question, in the width that there is, or those that are asked for.

mod columns;
mod layout;
mod words;

use columns::{CORE, Column, NONE, Place, columns};
use hemlock_pipeline::{Group, Row, aggregate, nearest};
use hemlock_report::{Case, statistics::Estimate};
use layout::Layout;

/// The width of a table in a file or a pipe.
pub const FILE_WIDTH: usize = 100;

/// The longest line of text around a table, however wide that is.
const TEXT: usize = 120;

/// Which columns are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    /// Those that answer the question and those that tell rows apart, within so many characters. What all rows have in
    /// common stands above the table.
    Few(usize),
    /// All, whatever their width.
    Wide,
    /// Those of these names, in this order.
    Named(Vec<String>),
}

/// A table that is asked for.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Its columns.
    pub view: View,
    /// The column that its rows are sorted by; a leading `-` turns the order around.
    pub sort: Option<&'a str>,
    /// Whether its columns are explained.
    pub legend: bool,
}

/// Results that differ in seeds alone: a row of the table.
pub struct Setting {
    group: Group,
    /// Mean accuracy of the victim on clean data.
    clean: f64,
    /// The same on the images of poisons, or on their features where there are no images.
    poisoned: Option<Estimate>,
}

impl Setting {
    /// The rows of a table, from results whose answers were [read](hemlock_pipeline::read_answers): intervals are of
    /// seeds and test images.
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

    /// Half of the 95 % confidence interval of the poisoned accuracy, where something is known of it.
    fn half(&self) -> Option<f64> {
        self.poisoned?.half_width()
    }
}

/// A column by what it is asked for: its name or, if there is none of that name, its heading.
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

/// The rows in the order that is asked for.
fn order(columns: &[Column], rows: usize, sort: Option<&str>) -> Result<Vec<usize>, String> {
    let Some(sort) = sort else { return Ok((0..rows).collect()) };
    let (name, descending) = sort.strip_prefix('-').map_or((sort, false), |name| (name, true));
    find(columns, name).map(|column| column.order(descending)).map_err(|e| format!("--sort: {e}"))
}

/// The result table of a pipeline: means over seeds.
///
/// # Errors
/// There is no column of a name that was asked for; the message says which there are.
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

/// The table of few columns.
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
    // A single result is no list of what it has in common.
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
