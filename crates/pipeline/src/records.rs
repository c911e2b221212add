//! Results as comma-separated values.

use crate::ResultRow;
use hemlock_stage::StageError;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

/// Prefix of the names of parameters.
const PARAMS: &str = "params.";

/// The first columns, which say which result a record holds.
const FIRST: [&str; 6] = ["pipeline", "attack", "victim", "seed", "key", "poison_fraction"];

/// Writes results as CSV: a header, and a record per result.
///
/// Columns have the names of the fields of a result in JSON, with a dot between nested names. Their order is: which
/// result it is, what was measured, the parameters. `number` is called with every measured number and returns its text.
///
/// # Errors
/// A result cannot be written as JSON or as CSV.
pub fn as_csv<'a>(
    rows: impl Iterator<Item = &'a ResultRow>,
    number: impl Fn(f64) -> String,
) -> Result<String, StageError> {
    let refused = |e: &dyn Display| StageError::internal(format!("results cannot be written as CSV: {e}"));
    let mut records: Vec<BTreeMap<String, String>> = Vec::new();
    for row in rows {
        let mut fields = BTreeMap::new();
        flatten("", &serde_json::to_value(row).map_err(|e| refused(&e))?, &number, &mut fields);
        records.push(fields);
    }
    let named: BTreeSet<&String> = records.iter().flat_map(BTreeMap::keys).collect();
    let (params, measured): (Vec<&String>, Vec<&String>) =
        named.into_iter().filter(|name| !FIRST.contains(&name.as_str())).partition(|name| name.starts_with(PARAMS));
    let columns: Vec<&str> = FIRST.into_iter().chain(measured.into_iter().chain(params).map(String::as_str)).collect();
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(&columns).map_err(|e| refused(&e))?;
    for record in &records {
        let cells = columns.iter().map(|column| record.get(*column).map_or("", String::as_str));
        writer.write_record(cells).map_err(|e| refused(&e))?;
    }
    let bytes = writer.into_inner().map_err(|e| refused(&e))?;
    String::from_utf8(bytes).map_err(|e| refused(&e))
}

/// Collects the fields of an object, and of objects in it, by their paths: `a.b`. Numbers among the parameters are
/// written as they are, without `number`.
fn flatten(path: &str, value: &Value, number: &impl Fn(f64) -> String, fields: &mut BTreeMap<String, String>) {
    let text = match value {
        Value::Object(object) => {
            for (name, value) in object {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(&path, value, number, fields);
            }
            return;
        }
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(n) => match n.as_f64().filter(|_| n.is_f64() && !path.starts_with(PARAMS)) {
            Some(measured) => number(measured),
            None => n.to_string(),
        },
        Value::Array(values) if !path.starts_with(PARAMS) && values.iter().all(|v| v.is_number() || v.is_null()) => {
            let numbers = values.iter().map(|v| v.as_f64().map(number));
            numbers.map(Option::unwrap_or_default).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    };
    fields.insert(path.to_owned(), text);
}
