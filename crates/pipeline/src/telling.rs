//! Which parameters tell tasks, or results, apart.

use serde_json::Value;
use std::collections::BTreeSet;

/// Fields that say which variant of a stage a table is of, and so which other fields it has.
const TAGS: [&str; 3] = ["attack", "method", "kind"];

/// The fields, as node and name, that tell parameters of one node apart: tags that differ, and what differs where the tags are
/// the same.
#[must_use]
pub fn telling<'a>(params: impl Iterator<Item = (&'a str, &'a Value)>) -> BTreeSet<(&'a str, &'a str)> {
    let mut seen: Vec<(&str, &Value)> = Vec::new();
    let mut telling = BTreeSet::new();
    for (node, params) in params {
        let tags = |params: &'a Value| TAGS.map(|tag| params.get(tag));
        if let Some((_, first)) = seen.iter().find(|(n, _)| *n == node) {
            telling.extend(TAGS.iter().filter(|tag| first.get(**tag) != params.get(**tag)).map(|tag| (node, *tag)));
        }
        match seen.iter().find(|(n, first)| *n == node && tags(first) == tags(params)) {
            Some((_, first)) => {
                let fields = [*first, params].into_iter().filter_map(Value::as_object).flat_map(|fields| fields.keys());
                telling.extend(fields.filter(|f| first.get(f) != params.get(f)).map(|f| (node, f.as_str())));
            }
            None => seen.push((node, params)),
        }
    }
    telling
}
