//! Which parameters distinguish tasks or results from each other.

use crate::Plan;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Fields that say which variant of a stage a table is for. They decide which other fields the table has: parameters of
/// one method mean nothing to another.
pub(crate) const TAGS: [&str; 3] = ["attack", "method", "kind"];

/// Most characters of a value in a task's label.
const LONGEST: usize = 40;

/// The fields, as pairs of node and name, that distinguish the parameters of a node: tags that differ, and other fields
/// that differ between parameters of the same tags.
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

/// A label for every task of a plan that distinguishes it from the other tasks of its node, such as `bilevel, 3 %,
/// constraint=ball, decoder, seed 0`. It names parameters of the task and of all that it comes from, but neither the
/// node nor the key.
#[must_use]
pub fn labels(plan: &Plan) -> Vec<String> {
    let mut sources: Vec<BTreeSet<usize>> = Vec::with_capacity(plan.tasks.len());
    for (number, task) in plan.tasks.iter().enumerate() {
        // Inputs come before the tasks that read them, so their sources are known.
        let inputs = task.inputs.values().flat_map(|input| sources[*input].iter().copied());
        let all = inputs.chain([number]).collect();
        sources.push(all);
    }
    let mut nodes: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for (task, sources) in plan.tasks.iter().zip(&sources) {
        nodes.entry(task.node).or_default().extend(sources);
    }
    let params = |tasks: &BTreeSet<usize>| {
        let params: Vec<_> = tasks.iter().map(|i| (plan.tasks[*i].node, &plan.tasks[*i].params)).collect();
        telling(params.into_iter())
    };
    let telling: BTreeMap<&str, BTreeSet<(&str, &str)>> =
        nodes.iter().map(|(node, tasks)| (*node, params(tasks))).collect();
    let label = |(task, sources): (usize, &BTreeSet<usize>)| {
        let telling = &telling[plan.tasks[task].node];
        let mut words = Vec::new();
        for source in sources.iter().map(|i| &plan.tasks[*i]) {
            let fields = source.params.as_object().into_iter().flatten();
            let mut said: Vec<(&str, &Value)> = fields
                .map(|(field, value)| (field.as_str(), value))
                .filter(|(field, _)| telling.contains(&(source.node, *field)) || source.about.named_by.contains(field))
                .collect();
            // Says first which variant the task is, and then how it is set.
            said.sort_by_key(|(field, _)| (!is_bare(field), *field != "poison_fraction"));
            words.extend(said.into_iter().map(|(field, value)| word(source.node, field, value, telling)));
        }
        words.extend(sources.iter().find_map(|i| plan.tasks[*i].identity.seed).map(|seed| format!("seed {seed}")));
        words.join(", ")
    };
    sources.iter().enumerate().map(label).collect()
}

/// Whether a field's value is clear without the field's name.
fn is_bare(field: &str) -> bool {
    TAGS.contains(&field) || field == "noise"
}

/// A table with a kind, such as `sphere(expected=0.05)`.
fn of_kind(fields: &Map<String, Value>) -> Option<String> {
    let kind = fields.get("kind")?.as_str()?;
    let others: Vec<String> = fields
        .iter()
        .filter(|(name, _)| *name != "kind")
        .map(|(name, value)| format!("{name}={}", value_text(value)))
        .collect();
    Some(if others.is_empty() { kind.to_owned() } else { format!("{kind}({})", others.join(", ")) })
}

/// A parameter's value in a label or a table: texts without quotation marks, and a table with a kind as
/// `sphere(expected=0.05)`.
#[must_use]
pub fn value_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(fields) => of_kind(fields).unwrap_or_else(|| value.to_string()),
        other => other.to_string(),
    }
}

fn word(node: &str, field: &str, value: &Value, telling: &BTreeSet<(&str, &str)>) -> String {
    let text = value_text(value);
    let text = match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    };
    let elsewhere = telling.iter().any(|(other, name)| *name == field && *other != node);
    match value.as_f64() {
        // 0.03 * 100 is not exactly 3.
        Some(share) if field == "poison_fraction" => format!("{} %", (share * 1e10).round() / 1e8),
        _ if node.starts_with("victim-extractor.") => format!("{node}.{field}={text}"),
        _ if is_bare(field) => text,
        _ if elsewhere => format!("{node}.{field}={text}"),
        _ => format!("{field}={text}"),
    }
}
