//! The reference of specs, results and commands, as Markdown: made from the types that are parsed and written.

use crate::{args::Args, exit, results::words::wrapped};
use clap::{Arg, Command, CommandFactory};
use hemlock_pipeline::{Graph, Resources, ResultRow, schema};
use hemlock_stage::{AnyStage, output_schema, spec_schema};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// The first line of every page.
const MADE: &str = "<!-- Made by `just reference` from the source code. Edit the doc comments there. -->\n\n";

/// The pages of the reference, as pairs of a file's name and its content.
pub fn pages(graph: &Graph) -> Vec<(&'static str, String)> {
    let json = |schema: Value| format!("{schema:#}\n");
    vec![
        ("spec.md", spec(graph)),
        ("results.md", results()),
        ("command-line.md", command_line()),
        ("spec.schema.json", json(schema(graph))),
        ("results.schema.json", json(results_schema())),
    ]
}

/// The JSON Schema of a result.
pub fn results_schema() -> Value {
    let mut schema = output_schema::<ResultRow>();
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
        schema.insert("title".to_owned(), "Hemlock result".into());
    }
    schema
}

fn spec(graph: &Graph) -> String {
    let mut page = format!("{MADE}# Fields of the spec\n\n");
    page += &filled(
        "Every table and field of a spec, with its default. [The spec](../spec.md) explains how tables, lists, \
         profiles and specs that extend others work together. `hemlock schema` prints the same as a JSON Schema, for \
         editors.\n\n\
         A dash in the column *default* means that the field has to be given. *none* means that it may be absent.",
    );
    let whole = schema(graph);
    let of_nodes: Vec<&str> = graph.nodes().filter_map(|node| node.name.split('.').next()).collect();
    let fields = whole["properties"].as_object().into_iter().flatten();
    let mut top: Map<String, Value> =
        fields.filter(|(name, _)| !of_nodes.contains(&name.as_str())).map(|(n, f)| (n.clone(), f.clone())).collect();
    // It has a section of its own.
    if let Some(fields) = top.get_mut("resources").and_then(Value::as_object_mut) {
        fields.remove("properties");
    }
    page += "\n## Top level\n\n";
    page += &table(&json!({ "properties": top }), "");
    for name in graph.stages() {
        let nodes: Vec<_> = graph.nodes().filter(|node| node.stage.name() == name).collect();
        let headings: Vec<String> = nodes.iter().map(|node| format!("`[{}]`", node.name)).collect();
        let _ = write!(page, "\n## {}\n\n", headings.join(" and "));
        if let Some(node) = nodes.first() {
            page += &stage(node.stage.as_ref());
        }
    }
    page += "\n## `[resources]`\n\n";
    page += "What tasks take on a [cluster](../cluster.md). `[resources.STAGE]` changes single fields for one \
        stage.\n\n";
    page + &table(&spec_schema::<Resources>(), "")
}

fn stage(stage: &dyn AnyStage) -> String {
    let schema = stage.schema();
    let mut text = format!("Stage `{}`: {}.", stage.name(), stage.about().does);
    if let Some(meaning) = schema.get("description").and_then(Value::as_str) {
        let _ = write!(text, " {meaning}");
    }
    let mut text = filled(&text);
    if !stage.lists().is_empty() {
        let lists: Vec<String> = stage.lists().iter().map(|field| format!("`{field}`")).collect();
        let _ = write!(text, "\nA list for {} is one value. To fan out, write a list of lists.\n", lists.join(", "));
    }
    text.push('\n');
    text + &tables(&schema, "")
}

/// The table of a schema's fields or, of a choice between tables, a table for each group of choices with the same
/// fields.
fn tables(schema: &Value, prefix: &str) -> String {
    let Some(choices) = choices(schema) else { return table(schema, prefix) };
    let mut text = String::new();
    let mut groups: Vec<(Vec<&Choice>, &Value)> = Vec::new();
    for choice in &choices {
        match groups.iter_mut().find(|(_, fields)| **fields == choice.fields) {
            Some((group, _)) => group.push(choice),
            None => groups.push((vec![choice], &choice.fields)),
        }
    }
    for (group, fields) in groups {
        for Choice { tag, value, meaning, .. } in &group {
            let item = filled(&format!("- `{prefix}{tag} = {value}`: {meaning}"));
            let _ = writeln!(text, "{}", item.trim_end().replace('\n', "\n  "));
        }
        let has_fields = fields["properties"].as_object().is_some_and(|fields| !fields.is_empty());
        if has_fields {
            let _ = write!(text, "\n{}\n", table(fields, prefix));
        } else {
            text += "\nThere are no further fields.\n\n";
        }
    }
    format!("{}\n", text.trim_end())
}

/// A table that a spec can choose, by the value of one of its fields.
struct Choice {
    tag: String,
    value: Value,
    meaning: String,
    /// The schema of the table, without the field that chooses it.
    fields: Value,
}

/// The tables between which a schema chooses, if it does.
fn choices(schema: &Value) -> Option<Vec<Choice>> {
    let choice = |table: &Value| {
        let mut fields = table.clone();
        let (tag, value) = table["properties"]
            .as_object()?
            .iter()
            .find_map(|(name, field)| field.get("const").map(|value| (name.clone(), value.clone())))?;
        fields["properties"].as_object_mut()?.remove(&tag);
        fields.as_object_mut()?.remove("description");
        if let Some(required) = fields.get_mut("required").and_then(Value::as_array_mut) {
            required.retain(|name| *name != tag.as_str());
        }
        let meaning = table.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
        Some(Choice { tag, value, meaning, fields })
    };
    let tables = schema.get("oneOf").or_else(|| schema.get("anyOf"))?.as_array()?;
    tables.iter().find_map(choices).or_else(|| tables.iter().map(choice).collect())
}

/// The table of an object's fields: those that have to be given first. Fields of tables within have dotted names.
fn table(schema: &Value, prefix: &str) -> String {
    let mut rows = Vec::new();
    add_rows(schema, prefix, &mut rows);
    rows.sort_by_key(|row| row.default != "-");
    let mut text = "| field | type | default | meaning |\n| --- | --- | --- | --- |\n".to_owned();
    for Line { name, kind, default, meaning, .. } in &rows {
        let _ = writeln!(text, "| `{name}` | {kind} | {default} | {meaning} |");
    }
    for Line { name, schema, .. } in &rows {
        if choices(schema).is_some() {
            let _ = write!(text, "\n### `{name}`\n\n{}", tables(schema, &format!("{name}.")));
        }
    }
    text
}

/// A line of a table of fields.
struct Line {
    name: String,
    kind: String,
    default: String,
    meaning: String,
    schema: Value,
}

fn add_rows(schema: &Value, prefix: &str, rows: &mut Vec<Line>) {
    let required = |name: &str| {
        schema.get("required").and_then(Value::as_array).is_some_and(|required| required.iter().any(|r| r == name))
    };
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{prefix}{name}");
        if field.get("properties").is_some() && !nullable(field) {
            add_rows(field, &format!("{path}."), rows);
            continue;
        }
        let default = match field.get("default") {
            Some(default) => format!("`{default}`"),
            None if required(name) => "-".to_owned(),
            None => "none".to_owned(),
        };
        rows.push(Line { name: path, kind: kind(field), default, meaning: meaning(field), schema: field.clone() });
    }
}

/// The values that a schema allows, in words.
fn kind(schema: &Value) -> String {
    let code = |values: &[Value]| values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ");
    if let Some(value) = schema.get("const") {
        return format!("`{value}`");
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return code(values);
    }
    if let Some(kinds) = schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Value::as_array) {
        if kinds.iter().all(|kind| kind.get("const").is_some()) {
            return kinds.iter().map(kind).collect::<Vec<_>>().join(", ");
        }
        if choices(schema).is_some() && kinds.iter().all(|kind| kind.get("properties").is_some()) {
            return "table".to_owned();
        }
        return kinds.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    let names: Vec<&str> = match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => vec!["any value"],
    };
    let kinds: Vec<String> = names.into_iter().map(|name| kind_of_type(name, schema)).collect();
    kinds.join(" or ")
}

/// [`kind`] in the plural.
fn kinds(schema: &Value) -> String {
    let kind = kind(schema);
    let (name, rest) = kind.split_once(' ').map_or((kind.as_str(), ""), |(name, rest)| (name, rest));
    let rest = if rest.is_empty() { String::new() } else { format!(" {rest}") };
    if name.starts_with('`') { kind } else { format!("{name}s{rest}") }
}

fn kind_of_type(name: &str, schema: &Value) -> String {
    let examples = schema.get("examples").and_then(Value::as_array);
    match (name, examples) {
        ("integer" | "number", _) => format!("{name}{}", range(schema)),
        ("string", Some(examples)) => {
            let examples: Vec<String> = examples.iter().map(|example| format!("`{example}`")).collect();
            format!("string such as {}", examples.join(", "))
        }
        ("array", _) => {
            let exactly = schema.get("minItems").filter(|least| Some(*least) == schema.get("maxItems"));
            let number = exactly.map_or_else(String::new, |number| format!("{number} "));
            format!("list of {number}{}", schema.get("items").map_or_else(|| "values".to_owned(), kinds))
        }
        ("object", _) => match schema.get("additionalProperties").filter(|inner| inner.is_object()) {
            Some(inner) => format!("object of {}", kinds(inner)),
            None => "table".to_owned(),
        },
        ("null", _) => "`null`".to_owned(),
        (name, _) => name.to_owned(),
    }
}

/// A number with commas between thousands.
fn grouped(number: &Value) -> String {
    let digits = number.to_string();
    if digits.len() < 5 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return digits;
    }
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

fn range(schema: &Value) -> String {
    let bound = |keyword: &str| schema.get(keyword).map(grouped);
    let least = bound("minimum").map(|least| format!("from {least}"));
    let above = bound("exclusiveMinimum").map(|above| format!("above {above}"));
    let most = bound("maximum").map(|most| format!("to {most}"));
    let below = bound("exclusiveMaximum").map(|below| format!("below {below}"));
    let parts: Vec<String> = [least.or(above), most.or(below)].into_iter().flatten().collect();
    if parts.is_empty() { String::new() } else { format!(" {}", parts.join(" ")) }
}

/// The description of a field, and of its values if they have descriptions.
fn meaning(schema: &Value) -> String {
    let mut lines = vec![schema.get("description").and_then(Value::as_str).unwrap_or_default().to_owned()];
    let choices = schema.get("oneOf").or_else(|| schema.get("items")?.get("oneOf")).and_then(Value::as_array);
    for choice in choices.into_iter().flatten() {
        if let (Some(value), Some(meaning)) = (choice.get("const"), choice.get("description").and_then(Value::as_str)) {
            lines.push(format!("`{value}`: {meaning}"));
        }
    }
    lines.retain(|line| !line.is_empty());
    lines.join("<br>").replace("\n\n", "<br>").replace('\n', " ").replace('|', "\\|")
}

fn nullable(schema: &Value) -> bool {
    schema.get("type").and_then(Value::as_array).is_some_and(|names| names.iter().any(|name| name == "null"))
}

fn results() -> String {
    let mut page = format!("{MADE}# Fields of a result\n\n");
    page += &filled(
        "What `hemlock results NAME --json` prints for every attack, victim and seed. `--csv` has the same fields, \
         those of objects with a dot in their names. [What a result has](../results.md) explains how to read them. \
         `hemlock schema results` prints the same as a JSON Schema.",
    );
    page += "\n| field | type | meaning |\n| --- | --- | --- |\n";
    result_rows(&results_schema(), "", &mut page);
    page
}

fn result_rows(schema: &Value, prefix: &str, page: &mut String) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{prefix}{name}");
        let _ = writeln!(page, "| `{path}` | {} | {} |", kind(field), meaning(field));
        // A nested object may itself be null.
        let objects = field.get("anyOf").and_then(Value::as_array);
        let object = objects.and_then(|kinds| kinds.iter().find(|kind| kind.get("properties").is_some()));
        result_rows(object.unwrap_or(field), &format!("{path}."), page);
    }
}

fn command_line() -> String {
    let mut page = format!("{MADE}# Commands\n\n");
    page += &filled(
        "Every command with its options, as `hemlock COMMAND --help` prints them. [The command \
         line](../command-line.md) explains them in context.",
    );
    let mut root = Args::command();
    root.build();
    page += "\n## Options of all commands\n\n";
    page += &options(root.get_arguments().filter(|arg| arg.is_global_set()));
    for command in root.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        page += &of_command(command);
    }
    page += "\n## Exit codes\n\n| code | meaning |\n| --- | --- |\n";
    for (code, meaning) in exit::CODES {
        let _ = writeln!(page, "| {code} | {meaning} |");
    }
    page
}

fn of_command(command: &Command) -> String {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let mut text = format!("\n## `{}`\n\n{}\n    {usage}\n", command.get_name(), filled(&format!("{about}.")));
    let own: Vec<&Arg> = command.get_arguments().filter(|arg| !arg.is_global_set() && arg.get_id() != "help").collect();
    let shown = own.into_iter().filter(|arg| !arg.is_hide_set());
    let rows = options(shown);
    if rows.lines().count() > 2 {
        let _ = write!(text, "\n{rows}");
    }
    if let Some(more) = command.get_after_help() {
        let _ = write!(text, "\n```text\n{more}\n```\n");
    }
    text
}

fn options<'a>(arguments: impl Iterator<Item = &'a Arg>) -> String {
    let mut text = "| option | default | meaning |\n| --- | --- | --- |\n".to_owned();
    for arg in arguments {
        let values: Vec<String> = arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
        let values = if arg.get_action().takes_values() { values.join(" ") } else { String::new() };
        let names: Vec<String> =
            [arg.get_short().map(|c| format!("-{c}")), arg.get_long().map(|long| format!("--{long}"))]
                .into_iter()
                .flatten()
                .collect();
        let name = format!("{} {values}", names.join(", "));
        let defaults: Vec<String> =
            arg.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
        let hidden = !arg.get_action().takes_values() || arg.is_hide_default_value_set();
        let default = if hidden { String::new() } else { defaults.join(" ") };
        let mut meaning = arg.get_help().map(ToString::to_string).unwrap_or_default().replace('\n', " ");
        let possible: Vec<String> =
            arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
        if arg.get_action().takes_values() && !possible.is_empty() {
            let _ = write!(meaning, ": {}", possible.join(", "));
        }
        if let Some(variable) = arg.get_env() {
            let _ = write!(meaning, " (environment variable `{}`)", variable.to_string_lossy());
        }
        let _ = writeln!(text, "| `{}` | {default} | {} |", name.trim(), meaning.replace('|', "\\|"));
    }
    text
}

/// Paragraphs in lines of at most 118 columns, which leaves room for an indent.
fn filled(text: &str) -> String {
    text.split("\n\n").map(|paragraph| wrapped(paragraph, 118)).collect::<Vec<_>>().join("\n")
}
