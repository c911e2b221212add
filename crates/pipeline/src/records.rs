//! Results as comma-separated values.

use crate::Row;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What the names of parameters begin with.
const PARAMS: &str = "params.";

/// Columns that stand first: what a result is of.
const FIRST: [&str; 6] = ["pipeline", "attack", "victim", "seed", "key", "eps_d"];

/// Results as CSV: a header, and a record a result. Columns are named as the fields of a result in JSON, with a dot
/// before the fields of fields: what a result is of, what was measured, and the parameters. Measured numbers are
/// written by `number`.
#[must_use]
pub fn as_csv<'a>(rows: impl Iterator<Item = &'a Row>, number: impl Fn(f64) -> String) -> String {
    let record = |row: &Row| {
        let mut fields = BTreeMap::new();
        flatten("", &serde_json::to_value(row).unwrap_or_default(), &number, &mut fields);
        fields
    };
    let rows: Vec<BTreeMap<String, String>> = rows.map(record).collect();
    let named: BTreeSet<&String> = rows.iter().flat_map(BTreeMap::keys).collect();
    let (params, measured): (Vec<&String>, Vec<&String>) =
        named.into_iter().filter(|name| !FIRST.contains(&name.as_str())).partition(|name| name.starts_with(PARAMS));
    let columns: Vec<&str> = FIRST.into_iter().chain(measured.into_iter().chain(params).map(String::as_str)).collect();
    let mut writer = csv::Writer::from_writer(Vec::new());
    let records = rows.iter().map(|row| columns.iter().map(|c| row.get(*c).map_or("", String::as_str)).collect());
    // Writing to memory, records of one length: neither can fail.
    std::iter::once(columns.clone()).chain(records).for_each(|record| drop(writer.write_record(record)));
    String::from_utf8(writer.into_inner().unwrap_or_default()).unwrap_or_default()
}

/// The fields of an object, and of objects in it, under their paths: `a.b`. Parameters stay as they are.
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
