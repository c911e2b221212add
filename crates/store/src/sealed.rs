//! JSON files in which any change is detected.
//!
//! Indented JSON with the names of each object in ascending order. The field `format` is the format as major.minor; the
//! field `check` is the BLAKE3 of the canonical JSON (see [`identity`](crate::identity)) of all other fields.

use std::path::Path;

use serde_json::Value;

use crate::hash::Digest;
use crate::identity::canonical;
use crate::{Result, StoreError};

const MAJOR: u32 = 1;
/// The format of files that are written, as major.minor.
pub const FORMAT: &str = "1.0";

/// Returns the text of an object with its `check`.
pub fn seal(fields: Value) -> serde_json::Result<String> {
    let mut fields = canonical(fields);
    fields["check"] = check(&fields).into();
    pretty(fields)
}

/// Parses the text of the file at `path`, and returns its fields without `check`. Any change to the text is an error.
pub fn unseal(path: &Path, text: &[u8]) -> Result<Value> {
    let corrupt = |what: &str| StoreError::corrupt(path, what);
    let whole: Value = serde_json::from_slice(text).map_err(|e| corrupt(&format!("it is not JSON: {e}")))?;
    let format = whole.get("format").and_then(Value::as_str).ok_or_else(|| corrupt("it names no format"))?;
    match format.split_once('.').and_then(|(major, _)| major.parse::<u32>().ok()) {
        Some(MAJOR) => {}
        Some(major) if major > MAJOR => {
            return Err(StoreError::NewerFormat {
                path: path.to_owned(),
                found: format.to_owned(),
                supported: FORMAT.to_owned(),
            });
        }
        _ => return Err(corrupt("it names a format that never was")),
    }
    // The check covers values only. Without this comparison, `1e20` could become `1E20` undetected.
    if pretty(canonical(whole.clone())).ok().as_deref().map(str::as_bytes) != Some(text) {
        return Err(corrupt("it is not laid out as it was written"));
    }
    let Value::Object(mut fields) = whole else { return Err(corrupt("it is no JSON object")) };
    let found = fields.remove("check");
    let fields = canonical(Value::Object(fields));
    if found != Some(check(&fields).into()) {
        return Err(corrupt("its content does not match its check"));
    }
    Ok(fields)
}

fn check(fields: &Value) -> String {
    Digest::of(fields.to_string().as_bytes()).to_string()
}

fn pretty(whole: Value) -> serde_json::Result<String> {
    serde_json::to_string_pretty(&canonical(whole)).map(|text| text + "\n")
}
