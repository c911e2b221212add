//! A paper's numbers beside the measured ones, from a CSV file that somebody typed from the paper.
//!
//! The first line of the file names the columns. A column is
//!
//! - a condition that says which result a line belongs to: `pipeline`, `attack`, `method`, `victim`, `poison_fraction`,
//!   or a parameter such as `poison-features.constraint`;
//! - or a number of the paper, in per cent: `clean`, `target`, `features`, `images`, or `drop` (in points).
//!
//! Every other line has to match exactly one result of the report. An empty cell is no condition and no number. Lines
//! that begin with `#` are comments.

use crate::{
    ConfigGroup, ReportError,
    config_group::{Quantity, quantity},
    table::{Table, TableCell},
    words,
};
use hemlock_pipeline::nearest;
use hemlock_stage::{VALUE, few, read_file, short};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// The quantities that can be compared, by the name of their column.
const MEASURED: [(&str, Quantity); 5] = [
    ("clean", quantity::clean),
    ("target", quantity::target),
    ("features", quantity::features),
    ("images", quantity::images),
    ("drop", quantity::drop),
];
/// The conditions that are no parameters.
const CONDITIONS: [&str; 5] = ["pipeline", "attack", "method", "victim", "poison_fraction"];

/// The numbers of a paper as they were typed.
#[derive(Debug)]
pub struct Paper {
    path: PathBuf,
    rows: Vec<PaperRow>,
}

/// A line of the file.
#[derive(Debug)]
struct PaperRow {
    line: u64,
    /// The conditions: column and value.
    conditions: Vec<(String, String)>,
    /// The numbers: index of the quantity in [`MEASURED`], and value in per cent.
    numbers: Vec<(usize, f64)>,
}

impl Paper {
    /// Reads a file of a paper's numbers.
    ///
    /// # Errors
    /// - The file cannot be read, or is no CSV.
    /// - It has no line that names columns, no column with a number of the paper, or a column twice.
    /// - It has no other line, or a line without a number of the paper.
    /// - A number is not a number between -100 and 100.
    pub fn read(path: &Path) -> Result<Self, ReportError> {
        let wrong = |line, what: String| ReportError::Paper { path: path.to_owned(), line, what };
        let bytes = read_file(path, 1).map_err(|e| wrong(None, format!("it cannot be read: {e}")))?;
        let mut reader = csv::ReaderBuilder::new().comment(Some(b'#')).trim(csv::Trim::All).from_reader(&bytes[..]);
        let line_of = |at: Option<&csv::Position>| at.map(|at| line(&bytes, at.byte() as usize));
        let malformed = |e: csv::Error| wrong(line_of(e.position()), format!("it is no CSV: {e}"));
        let columns: Vec<String> = reader.headers().map_err(malformed)?.iter().map(str::to_owned).collect();
        let names: Vec<&str> = MEASURED.iter().map(|(name, _)| *name).collect();
        if columns.is_empty() {
            return Err(wrong(None, "it is empty; expected a first line that names columns".to_owned()));
        }
        if !columns.iter().any(|column| names.contains(&column.as_str())) {
            let what = format!("no column is a number of the paper's; expected one of {}", names.join(", "));
            return Err(wrong(Some(line(&bytes, 0)), what));
        }
        let mut different = BTreeSet::new();
        if let Some(twice) = columns.iter().find(|column| !different.insert(column.as_str())) {
            return Err(wrong(Some(line(&bytes, 0)), format!("the column `{}` is there twice", short(twice, VALUE))));
        }
        let mut rows = Vec::new();
        for record in reader.records() {
            let record = record.map_err(malformed)?;
            let line = line_of(record.position());
            let mut row = PaperRow { line: line.unwrap_or(0), conditions: Vec::new(), numbers: Vec::new() };
            for (column, cell) in columns.iter().zip(&record).filter(|(_, cell)| !cell.is_empty()) {
                match names.iter().position(|name| name == column) {
                    Some(measured) => {
                        let number = cell.parse().ok().filter(|x: &f64| (-100.0..=100.0).contains(x));
                        let cell = short(cell, VALUE);
                        let expected = "a number of per cent, such as 12.34";
                        let refused = || wrong(line, format!("`{column}` is '{cell}'; expected {expected}"));
                        row.numbers.push((measured, number.ok_or_else(refused)?));
                    }
                    None => row.conditions.push((column.clone(), cell.to_owned())),
                }
            }
            if row.numbers.is_empty() {
                return Err(wrong(line, format!("there is no number; expected one of {}", names.join(", "))));
            }
            rows.push(row);
        }
        if rows.is_empty() {
            return Err(wrong(None, "it has no line below its first".to_owned()));
        }
        Ok(Self { path: path.to_owned(), rows })
    }

    /// The paper's numbers beside the measured ones, one row per number.
    ///
    /// # Errors
    /// - A line matches no result, or several.
    /// - The result of a line does not have a quantity that the line gives.
    /// - A quantity of a result is given twice.
    pub fn table(&self, configs: &[ConfigGroup]) -> Result<Table, ReportError> {
        let caption = "The paper's numbers beside ours: test accuracies in %, and drops in points. The paper's numbers \
                       were typed by whoever made this report, and its extractor and data may differ from ours.";
        let mut table =
            Table::new("paper", caption).texts("attack").numbers("poison fraction, %", &[""]).texts("number");
        table = table.numbers("ours", &[""]).numbers("paper", &[""]).numbers("ours − paper", &[""]);
        let fields: Vec<BTreeMap<String, String>> = configs.iter().map(fields).collect();
        let mut taken = BTreeMap::new();
        for row in &self.rows {
            let wrong = |what: String| ReportError::Paper { path: self.path.clone(), line: Some(row.line), what };
            let met = row.only(&fields).map_err(wrong)?;
            let config = &configs[met];
            for (measured, paper) in &row.numbers {
                let (name, quantity) = MEASURED[*measured];
                if let Some(before) = taken.insert((met, *measured), row.line) {
                    let what = format!("`{name}` of this result is given in line {before}, too; expected it once");
                    return Err(wrong(what));
                }
                let ours = config.mean(quantity).map(|e| 100.0 * e.mean);
                let ours = ours.ok_or_else(|| wrong(format!("`{name}` is a number that this result does not have")))?;
                let number = |x: f64| TableCell::numbers(words::number(x, 2), vec![Some(x)]);
                table.push(vec![
                    TableCell::text(&config.name),
                    TableCell::numbers(
                        words::share(config.poison_fraction()).trim_end_matches(" %"),
                        vec![Some(100.0 * config.poison_fraction())],
                    ),
                    TableCell::text(name),
                    number(ours),
                    number(*paper),
                    number(ours - paper),
                ]);
            }
        }
        Ok(table)
    }
}

impl PaperRow {
    /// The index of the only result that meets all conditions, or a text that says why there is not exactly one.
    fn only(&self, results: &[BTreeMap<String, String>]) -> Result<usize, String> {
        for (column, value) in &self.conditions {
            let known: BTreeSet<&str> = results.iter().flat_map(|fields| fields.keys().map(String::as_str)).collect();
            let near =
                |name: &str, known: &[&str]| nearest(name, known).map(|near| format!("; did you mean `{near}`?"));
            if !known.contains(column.as_str()) {
                let hint = near(column, &known.into_iter().collect::<Vec<_>>()).unwrap_or_default();
                let (column, conditions) = (short(column, VALUE), CONDITIONS.join(", "));
                return Err(format!(
                    "no result has a column `{column}`; expected one of {conditions}, or a parameter such as `invert.beta`{hint}"
                ));
            }
            let there: BTreeSet<&str> =
                results.iter().filter_map(|fields| Some(fields.get(column)?.as_str())).collect();
            if !there.iter().any(|known| equal(known, value)) {
                if let Some((attack, method)) = value.split_once(" + ").filter(|_| column == "attack") {
                    let (attack, method) = (short(attack, VALUE), short(method, VALUE));
                    return Err(format!(
                        "`attack` is the objective, and `method` is how images are made, a column each; expected {attack}, \
                         and {method}"
                    ));
                }
                let hint = near(value, &there.iter().copied().collect::<Vec<_>>()).unwrap_or_default();
                let (value, there) = (short(value, VALUE), few(there));
                return Err(format!("no result has `{column}` {value}; there is {there}{hint}"));
            }
        }
        let holds = |fields: &BTreeMap<String, String>| {
            self.conditions.iter().all(|(column, value)| fields.get(column).is_some_and(|known| equal(known, value)))
        };
        let met: Vec<usize> = (0..results.len()).filter(|i| holds(&results[*i])).collect();
        match met.as_slice() {
            [one] => Ok(*one),
            [] => Err("no result has all of this together".to_owned()),
            [first, second, ..] => {
                let (a, b) = (&results[*first], &results[*second]);
                let apart = a.iter().filter(|(field, value)| b.get(*field) != Some(value)).map(|(field, _)| field);
                let apart = few(apart.map(|field| format!("`{field}`")));
                Err(format!("{} results have this; tell them apart by a column, such as {apart}", met.len()))
            }
        }
    }
}

/// The number, counted from 1, of the line of the first record that begins at or after a byte. The parser's positions
/// may stand before comments and empty lines, which are skipped.
fn line(bytes: &[u8], at: usize) -> u64 {
    let (before, after) = bytes.split_at(at.min(bytes.len()));
    let lines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
    let no_record = |line: &&[u8]| line.starts_with(b"#") || line.trim_ascii().is_empty();
    1 + lines(before) + after.split(|byte| *byte == b'\n').take_while(no_record).count() as u64
}

/// The fields of a configuration that conditions can name, with their values: conditions that are no parameters, and
/// parameters that all rows have in common.
fn fields(config: &ConfigGroup) -> BTreeMap<String, String> {
    let row = &config.rows[0];
    let parameters = row.params.iter().flat_map(|(node, params)| {
        let alike = |field: &str, value: &Value| config.rows.iter().all(|r| r.params[node].get(field) == Some(value));
        let fields = params.as_object().into_iter().flatten();
        let fields = fields.filter(move |(field, value)| !value.is_null() && alike(field, value));
        fields.map(move |(field, value)| (format!("{node}.{field}"), text(value)))
    });
    let mut fields: BTreeMap<String, String> = parameters.collect();
    let own =
        [config.pipeline(), config.aim(), config.making().unwrap_or_default(), config.victim()].map(str::to_owned);
    let own = own.into_iter().chain([config.poison_fraction().to_string()]);
    fields.extend(CONDITIONS.into_iter().map(str::to_owned).zip(own));
    fields
}

/// The value of a parameter as text, without quotation marks.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Whether two values are equal as texts or as numbers, such as `1` and `1.0`.
fn equal(a: &str, b: &str) -> bool {
    a == b || a.parse::<f64>().is_ok_and(|a| b.parse() == Ok(a))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::testing::made_up;
    use serde_json::json;

    fn configs() -> [ConfigGroup; 2] {
        ["ball", "none"].map(|constraint| {
            made_up("gradient-canceling + feature-matching")
                .with("poison-features", json!({ "attack": "gradient-canceling", "constraint": constraint }))
                .images([0.7, 0.702, 0.698])
                .config()
        })
    }

    fn read(text: &str) -> Result<Paper, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("paper.csv");
        std::fs::write(&path, text).unwrap();
        Paper::read(&path).map_err(|e| e.to_string().replace(&path.display().to_string(), "paper.csv"))
    }

    fn table(text: &str) -> Result<Table, String> {
        let paper = read(text).unwrap();
        let name = paper.path.display().to_string();
        paper.table(&configs()).map_err(|e| e.to_string().replace(&name, "paper.csv"))
    }

    #[test]
    fn the_paper_stands_beside_ours() {
        let text = "# made up\nattack, poison-features.constraint, poison_fraction, images, drop\n\
                    gradient-canceling, ball, 0.030, 71.5, 8.5\n,none,,69,\n";
        let csv = table(text).unwrap().csv();
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines[0], "attack,\"poison fraction, %\",number,ours,paper,ours − paper");
        assert!(lines[1].ends_with(",3,images,70,71.5,-1.5"), "{csv}");
        assert!(lines[2].ends_with(",3,drop,10,8.5,1.5") && lines[3].ends_with(",3,images,70,69,1"), "{csv}");
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn a_line_without_one_result_is_an_error() {
        let error = |text: &str| table(text).err().unwrap();
        assert_eq!(
            error("attack,poison-features.constraint,drop\ngradient-canceling,bal,8.5\n"),
            "paper.csv, line 2: no result has `poison-features.constraint` bal; there is ball, none; did you mean `ball`?"
        );
        assert!(
            error("poison-features.constrain,drop\nball,8.5\n").contains("did you mean `poison-features.constraint`?")
        );
        assert_eq!(
            error("attack,drop\ngradient-canceling,8.5\n"),
            "paper.csv, line 2: 2 results have this; tell them apart by a column, such as `poison-features.constraint`"
        );
        assert!(
            error("poison-features.constraint,drop\nball,1\n\nball,2\n")
                .contains("line 4: `drop` of this result is given in line 2")
        );
        assert_eq!(
            error("attack,drop\ngradient-canceling + feature-matching,8\n"),
            "paper.csv, line 2: `attack` is the objective, and `method` is how images are made, a column each; \
             expected gradient-canceling, and feature-matching"
        );
        assert!(error("# one\n\ndrop\n# two\n8\n").starts_with("paper.csv, line 5: 2 results"));
        assert!(error("poison-features.constraint,features\nball,1\n").ends_with("that this result does not have"));
    }

    #[test]
    fn a_file_that_is_no_table_is_an_error() {
        let error = |text: &str| read(text).err().unwrap();
        assert!(error("attack,poison_fraction\n").contains("line 1: no column is a number of the paper's"));
        assert!(error("drop,drop\n1,2\n").contains("`drop` is there twice"));
        assert!(error("attack,drop\n").contains("has no line below its first"));
        for empty in ["", "\n\n", "# nothing\n"] {
            assert_eq!(error(empty), "paper.csv: it is empty; expected a first line that names columns", "{empty:?}");
        }
        assert!(error("attack,drop\ntgda,\n").contains("line 2: there is no number"));
        assert_eq!(error("drop\n8,5\n").split(':').next(), Some("paper.csv, line 2"));
        for number in ["x", "NaN", "1e9", "\"8,5\""] {
            assert!(error(&format!("drop\n{number}\n")).contains("expected a number of per cent"), "{number}");
        }
        let missing = Paper::read(Path::new("nowhere/paper.csv")).unwrap_err().to_string();
        assert!(missing.starts_with("nowhere/paper.csv: it cannot be read"), "{missing}");
    }
}
