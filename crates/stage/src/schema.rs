//! JSON Schemas of what specs may hold and of what results have, made from the types that are read and written.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value};

/// The JSON Schema of a part of a spec. TOML has no `null`: what is `null` by default is a field that may be absent.
///
/// Descriptions are the doc comments of the type and of its fields.
#[must_use]
pub fn spec_schema<T: JsonSchema>() -> Value {
    let mut schema = of::<T>(SchemaSettings::draft2020_12().for_deserialize());
    each(&mut schema, &mut |schema| {
        without_null(schema);
        plain(schema);
    });
    schema
}

/// The JSON Schema of a value that is written as JSON.
///
/// Descriptions are the doc comments of the type and of its fields, with `null` for Rust's `None`.
#[must_use]
pub fn output_schema<T: JsonSchema>() -> Value {
    let mut schema = of::<T>(SchemaSettings::draft2020_12().for_serialize());
    each(&mut schema, &mut |schema| {
        if let Some(Value::String(text)) = schema.get_mut("description") {
            *text = text.replace("`None`", "`null`").replace("`Some`", "a value");
        }
        plain(schema);
    });
    schema
}

fn of<T: JsonSchema>(settings: SchemaSettings) -> Value {
    let inline = |settings: &mut SchemaSettings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    };
    let mut schema = settings.with(inline).into_generator().into_root_schema_for::<T>();
    schema.remove("title");
    schema.to_value()
}

/// Calls `edit` with every schema inside a schema, and at last with the schema itself.
pub fn each(schema: &mut Value, edit: &mut dyn FnMut(&mut Map<String, Value>)) {
    let Value::Object(schema) = schema else { return };
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().for_each(|property| each(property, edit));
    }
    for several in ["anyOf", "oneOf", "allOf"] {
        if let Some(Value::Array(alternatives)) = schema.get_mut(several) {
            alternatives.iter_mut().for_each(|alternative| each(alternative, edit));
        }
    }
    for one in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(one) {
            each(inner, edit);
        }
    }
    edit(schema);
}

/// Removes what says only how wide Rust's number is, and joins the lines of a paragraph.
fn plain(schema: &mut Map<String, Value>) {
    schema.remove("format");
    if let Some(Value::String(text)) = schema.get_mut("description") {
        let paragraphs = text.split("\n\n").map(|paragraph| paragraph.replace('\n', " "));
        *text = paragraphs.collect::<Vec<_>>().join("\n\n");
    }
}

/// Removes `null` from the types and the values that a schema allows.
fn without_null(schema: &mut Map<String, Value>) {
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            schema.insert("type".to_owned(), one);
        }
    }
    if let Some(Value::Array(values)) = schema.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    let Some(Value::Array(alternatives)) = schema.get_mut("anyOf") else { return };
    alternatives.retain(|alternative| alternative.get("type").is_none_or(|name| name != "null"));
    if let [Value::Object(one)] = alternatives.as_slice() {
        let one = one.clone();
        schema.remove("anyOf");
        for (keyword, value) in one {
            schema.entry(keyword).or_insert(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    /// A table.
    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    struct Table {
        /// Number of things. `None` for
        /// others.
        #[schemars(range(min = 1))]
        count: Option<u32>,
        /// The seed.
        seed: Option<Seed>,
    }

    impl Default for Table {
        fn default() -> Self {
            Self { count: None, seed: Some(Seed::Run) }
        }
    }

    #[test]
    fn a_spec_has_no_null() {
        let properties = json!({
            "count": { "description": "Number of things. `None` for others.", "minimum": 1, "type": "integer" },
            "seed": {
                "description": "The seed.", "default": "run",
                "anyOf": [{ "type": "integer", "minimum": 0 }, { "const": "run" }],
            },
        });
        let table = json!({
            "type": "object", "description": "A table.", "properties": properties, "additionalProperties": false,
        });
        assert_eq!(spec_schema::<Table>(), table);
    }

    #[test]
    fn an_output_may_have_null() {
        let count = &output_schema::<Table>()["properties"]["count"];
        assert_eq!(count["type"], json!(["integer", "null"]));
        assert_eq!(count["description"], "Number of things. `null` for others.");
    }
}
