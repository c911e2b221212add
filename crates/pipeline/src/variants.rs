//! The variants of a node: all combinations of the lists in its table.

use crate::{MOST_BRANCHES, branches::Count, spec::quoted};
use hemlock_stage::few;
use serde_json::{Map, Value};
use std::collections::HashSet;

/// All combinations of a node's tables, with one per element of an array of tables and per element of every list. They
/// are counted before any is made.
pub(crate) struct Variants(Vec<Vec<Field>>);

/// A field and its choices.
type Field = (String, Vec<Value>);

impl Variants {
    /// Takes a node's table, or an array of tables. For the fields in `lists`, whose value is a list, only a list of
    /// lists is a list of choices.
    ///
    /// # Errors
    /// - The value is no table or array of tables.
    /// - A list of choices is empty, or holds a value twice.
    /// - There are more variants than a spec may have branches.
    pub(crate) fn new(value: Value, lists: &[&str]) -> Result<Self, String> {
        let tables = match value {
            Value::Array(tables) => tables,
            table => vec![table],
        };
        let (mut variants, mut all) = (Vec::new(), Count::default());
        for table in tables {
            let Value::Object(table) = table else {
                return Err(format!("is {}; expected a table", quoted(&table)));
            };
            let mut fields = Vec::new();
            for (key, value) in table {
                let choices = match value {
                    Value::Array(list)
                        if lists.contains(&key.as_str()) && !list.first().is_some_and(Value::is_array) =>
                    {
                        vec![Value::Array(list)]
                    }
                    Value::Array(list) if list.is_empty() => {
                        return Err(format!("{} is an empty list", few([format!("`{key}`")])));
                    }
                    Value::Array(list) => {
                        let mut seen = HashSet::new();
                        if let Some(twice) = list.iter().find(|value| !seen.insert(*value)) {
                            return Err(format!("`{key}` holds {} twice", quoted(twice)));
                        }
                        list
                    }
                    one => vec![one],
                };
                fields.push((key, choices));
            }
            let count = fields.iter().fold(Count::ONE, |count, (_, choices)| count.times(choices.len()));
            all = all.plus(count);
            if all.is_too_many() {
                let long = fields.iter().filter(|(_, choices)| choices.len() > 1);
                let long: Vec<String> = long.map(|(key, choices)| format!("`{key}` ({})", choices.len())).collect();
                let lists =
                    if long.is_empty() { String::new() } else { format!(": its lists multiply, {}", few(long)) };
                return Err(format!("has {all} variants or more, and a spec has at most {MOST_BRANCHES}{lists}"));
            }
            variants.push(fields);
        }
        Ok(Self(variants))
    }

    /// The tables, one after the other. The choices of the last field change fastest.
    pub(crate) fn tables(&self) -> impl Iterator<Item = Value> {
        self.0.iter().flat_map(|fields| {
            let count: usize = fields.iter().map(|(_, choices)| choices.len()).product();
            (0..count).map(move |i| Value::Object(combination(fields, i)))
        })
    }
}

/// The combination of the given number.
fn combination(fields: &[Field], number: usize) -> Map<String, Value> {
    let mut rest = number;
    let pick = |(key, choices): &Field| {
        let choice = choices[rest % choices.len()].clone();
        rest /= choices.len();
        (key.clone(), choice)
    };
    fields.iter().rev().map(pick).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tables(value: Value) -> Result<Vec<Value>, String> {
        Ok(Variants::new(value, &["list"])?.tables().collect())
    }

    #[test]
    fn lists_and_arrays_of_tables_fan_out_and_lists_that_are_values_do_not() {
        assert_eq!(
            tables(json!({"a": [1, 2], "b": [3, 4], "list": [5, 6], "c": 7})).unwrap(),
            [(1, 3), (1, 4), (2, 3), (2, 4)].map(|(a, b)| json!({"a": a, "b": b, "list": [5, 6], "c": 7}))
        );
        assert_eq!(tables(json!({"list": [[1], [2]]})).unwrap(), [json!({"list": [1]}), json!({"list": [2]})]);
        assert_eq!(tables(json!([{"a": 1}, {"a": [2, 3]}])).unwrap(), [1, 2, 3].map(|a| json!({"a": a})));
        assert_eq!(tables(json!({})).unwrap(), [json!({})]);
        assert_eq!(tables(json!({"a": []})).unwrap_err(), "`a` is an empty list");
        assert_eq!(tables(json!({"a": [0, 1, 0]})).unwrap_err(), "`a` holds 0 twice");
        assert_eq!(tables(json!([1])).unwrap_err(), "is 1; expected a table");
    }

    #[test]
    fn too_many_variants_are_refused_before_any_is_made() {
        let long: Vec<usize> = (0..1000).collect();
        let fields: Map<String, Value> = (0..30).map(|i| (format!("f{i:02}"), json!(long))).collect();
        let message = tables(Value::Object(fields)).unwrap_err();
        assert!(message.starts_with("has 1e90 variants or more, and a spec has at most"), "{message}");
        assert!(
            message.ends_with(
                "`f00` (1000), `f01` (1000), `f02` (1000), `f03` (1000), `f04` (1000), `f05` (1000), \
            `f06` (1000), `f07` (1000), `f08` (1000), `f09` (1000) and 20 more"
            ),
            "{message}"
        );
        let most: Vec<Value> = (0..MOST_BRANCHES).map(|i| json!({"a": i})).collect();
        assert_eq!(tables(Value::Array(most.clone())).unwrap().len(), MOST_BRANCHES);
        let more = tables(Value::Array([most, vec![json!({})]].concat())).unwrap_err();
        assert_eq!(more, format!("has {} variants or more, and a spec has at most {MOST_BRANCHES}", MOST_BRANCHES + 1));
    }
}
