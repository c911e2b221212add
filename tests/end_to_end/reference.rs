//! The reference and the JSON Schemas: made from the types that Hemlock reads and writes, and true of them.

use crate::project::{Project, TINY};
use hemlock_pipeline::{Graph, Spec, schema};
use serde_json::{Map, Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The files in a folder and in the folders below it whose names end with `.extension`.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|other| other == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn the_pages_are_those_that_the_types_give() {
    let project = Project::new();
    project.ok("reference .");
    let pages = root().join("docs/reference");
    for page in fs::read_dir(&pages).unwrap().map(|entry| entry.unwrap().path()) {
        let made = fs::read_to_string(project.path().join(page.file_name().unwrap())).unwrap();
        let shipped = fs::read_to_string(&page).unwrap();
        assert!(made == shipped, "{} is not up to date: run `just reference`", page.display());
    }
}

#[test]
fn descriptions_are_written_for_authors_of_specs() {
    for page in files(&root().join("docs/reference"), "md") {
        let text = fs::read_to_string(&page).unwrap();
        for rust in ["[`", "::", "`None`", "`Some"] {
            let line = text.lines().find(|line| line.contains(rust) && !line.contains("](../"));
            assert_eq!(line, None, "{}", page.display());
        }
        for row in text.lines().filter(|line| line.starts_with("| `")) {
            assert!(!row.ends_with("|  |"), "{} lacks a description: {row}", page.display());
        }
    }
}

/// Whether a value agrees with a schema, as far as schemas of specs and results go; panics at any other keyword.
fn allows(schema: &Value, whole: &Value, value: &Value) -> bool {
    let Value::Object(keywords) = schema else { return schema != &Value::Bool(false) };
    let all = |schemas: &Value| -> Vec<bool> {
        schemas.as_array().unwrap().iter().map(|schema| allows(schema, whole, value)).collect()
    };
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("type {other}"),
    };
    let none = Map::new();
    let properties = keywords.get("properties").and_then(Value::as_object).unwrap_or(&none);
    keywords.iter().all(|(keyword, wanted)| match keyword.as_str() {
        "$schema" | "$defs" | "title" | "description" | "default" | "examples" | "pattern" => true,
        "$ref" => {
            let path = wanted.as_str().unwrap().trim_start_matches('#');
            allows(whole.pointer(path).unwrap(), whole, value)
        }
        "type" => match wanted {
            Value::Array(names) => names.iter().any(|name| is(name.as_str().unwrap())),
            name => is(name.as_str().unwrap()),
        },
        "const" => wanted == value,
        "enum" => wanted.as_array().unwrap().contains(value),
        "anyOf" => all(wanted).contains(&true),
        "oneOf" => all(wanted).into_iter().filter(|allowed| *allowed).count() == 1,
        "minimum" => value.as_f64().is_none_or(|number| number >= wanted.as_f64().unwrap()),
        "maximum" => value.as_f64().is_none_or(|number| number <= wanted.as_f64().unwrap()),
        "exclusiveMinimum" => value.as_f64().is_none_or(|number| number > wanted.as_f64().unwrap()),
        "exclusiveMaximum" => value.as_f64().is_none_or(|number| number < wanted.as_f64().unwrap()),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| allows(wanted, whole, item))),
        "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= wanted.as_u64().unwrap()),
        "maxItems" => value.as_array().is_none_or(|items| items.len() as u64 <= wanted.as_u64().unwrap()),
        "uniqueItems" => true,
        "minLength" => value.as_str().is_none_or(|text| text.chars().count() as u64 >= wanted.as_u64().unwrap()),
        "maxLength" => value.as_str().is_none_or(|text| text.chars().count() as u64 <= wanted.as_u64().unwrap()),
        "required" => {
            let has = |name: &Value| value.get(name.as_str().unwrap()).is_some();
            !value.is_object() || wanted.as_array().unwrap().iter().all(has)
        }
        "properties" => properties.iter().all(|(name, of)| value.get(name).is_none_or(|v| allows(of, whole, v))),
        "additionalProperties" => value.as_object().is_none_or(|fields| {
            let others = fields.iter().filter(|(name, _)| !properties.contains_key(*name));
            others.into_iter().all(|(_, other)| allows(wanted, whole, other))
        }),
        other => panic!("unknown keyword {other}"),
    })
}

/// The TOML blocks of the documents that are specs, or parts of specs, each with its place.
fn snippets() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for page in [files(&root().join("docs"), "md"), vec![root().join("README.md")]].concat() {
        let text = fs::read_to_string(&page).unwrap();
        for (i, block) in text.split("```toml\n").skip(1).enumerate() {
            let snippet = block.split("```").next().unwrap();
            // The attack that docs/extending.md adds is one that this binary does not have.
            let snippet = snippet.replace("one-step", "tgda");
            found.push((format!("{}, block {}", page.display(), i + 1), snippet));
        }
    }
    assert!(found.len() > 5, "{found:?}");
    found
}

/// The schema, and what it says about a text in TOML.
fn is_allowed(graph: &Graph, toml: &str) -> bool {
    let whole = schema(graph);
    allows(&whole, &whole, &toml::from_str(toml).unwrap())
}

#[test]
fn all_specs_agree_with_the_schema() {
    let graph = hemlock::graph();
    for spec in [files(&root().join("pipelines"), "toml"), files(&root().join("tests/specs"), "toml")].concat() {
        assert!(is_allowed(&graph, &fs::read_to_string(&spec).unwrap()), "{}", spec.display());
    }
    for (place, snippet) in snippets() {
        assert!(is_allowed(&graph, &snippet), "{place}");
    }
    for wrong in [
        "seed = [0]",
        "[pretrain]\nepoch = 3",
        "[pretrain]\nmethod = 'simclr'\nepochs = 0",
        "[pretrain]\nmethod = 'moco'",
        "[poison-features]\npoison_fraction = [0.1, 1.5]",
        "[invert]\nlinf = 8",
        "[[victim]]\nkind = 'linear'\nneighbours = 3",
        "[dataset.downstream]\nsource = 'cifar'",
        "[evaluate]\ncontrols = ['flips']",
        "[resources.pretrain]\ncpu = 2",
    ] {
        assert!(!is_allowed(&graph, wrong), "{wrong}");
    }
}

/// A part of a spec is taken as one that extends the smallest pipeline.
#[test]
fn every_spec_in_the_documents_is_one() {
    let project = Project::new();
    project.spec("tiny", TINY);
    for (place, snippet) in snippets() {
        let whole = ["extends =", "seeds ="].iter().any(|start| snippet.starts_with(start));
        let text = if whole { snippet } else { format!("extends = \"tiny.toml\"\n{snippet}") };
        let path = project.path().join("pipelines/snippet.toml");
        fs::write(&path, text).unwrap();
        if let Err(e) = Spec::load(&path, &[], &hemlock::graph()) {
            panic!("{place}: {e}");
        }
    }
}

#[test]
fn results_agree_with_their_schema() {
    let project = Project::new();
    project.ok("run tiny");
    let whole: Value = serde_json::from_str(&project.ok("schema results").out).unwrap();
    for line in project.ok("results tiny --json").out.lines() {
        let mut result: Value = serde_json::from_str(line).unwrap();
        assert!(allows(&whole, &whole, &result), "{result}");
        let fields: Vec<&String> = result.as_object().unwrap().keys().collect();
        let known: Vec<&String> = whole["properties"].as_object().unwrap().keys().collect();
        assert_eq!(fields, known);
        result["accuracy"]["clean"] = json!("high");
        assert!(!allows(&whole, &whole, &result));
    }
}

/// The smallest valid tables of each stage: one for every choice of tables.
fn valid_tables(stage: &str) -> Vec<Value> {
    let attack = json!({ "attack": "bilevel", "poison_fraction": 0.1 });
    match stage {
        "dataset" => vec![
            json!({ "source": "cifar10" }),
            json!({ "source": { "kind": "image-folder", "path": "flowers" } }),
            json!({ "source": { "kind": "synthetic", "domain": "a" } }),
        ],
        "pretrain" => {
            let import = json!({
                "method": "import", "weights": "x.pth", "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2],
            });
            vec![
                json!({ "method": "simclr" }),
                json!({ "method": "moco-v3" }),
                json!({ "method": "supervised" }),
                import,
            ]
        }
        "features" => vec![json!({ "method": "extract" }), json!({ "method": "import", "path": "x.npz" })],
        "poison-features" | "poison-images" => vec![attack],
        "invert" => vec![json!({ "method": "feature-matching" }), json!({ "method": "decoder" })],
        "unlearnable" => vec![json!({ "poison_fraction": 0.1, "surrogate": "end-to-end" })],
        "victim" => {
            let kinds = [
                "linear",
                "linear-sgd",
                "hinge",
                "truncated-loss",
                "median-of-means",
                "voting",
                "prototypes",
                "ridge",
                "certified-linear",
                "knn",
                "mlp",
                "last-block",
                "fine-tune",
                "end-to-end",
            ];
            kinds.iter().map(|kind| json!({ "kind": kind })).collect()
        }
        "defence" => vec![json!({ "kind": "sphere" })],
        _ => vec![json!({})],
    }
}

/// The dotted paths of the numbers in a schema's tables.
fn numbers(schema: &Value, prefix: &str, found: &mut Vec<Vec<String>>) {
    for alternatives in ["anyOf", "oneOf"] {
        for schema in schema.get(alternatives).and_then(Value::as_array).into_iter().flatten() {
            numbers(schema, prefix, found);
        }
    }
    for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = format!("{prefix}{name}");
        if field.get("type").is_some_and(|name| name == "integer" || name == "number") {
            found.push(path.split('.').map(str::to_owned).collect());
        }
        numbers(field, &format!("{path}."), found);
    }
}

/// Parts of messages about fields that depend on each other.
const DEPENDS: [&str; 6] = [
    "fewer than `epochs`",
    "even number",
    "twice as many",
    "unless `solver` is",
    "at most `heads`",
    "except for a victim `fine-tune`",
];

/// For every number that a table may have, and a few values: the schema allows it exactly if the stage does. A value
/// that the stage refuses together with another field is not a matter of the schema.
#[test]
fn ranges_in_the_schema_are_those_that_are_checked() {
    let graph = hemlock::graph();
    let (mut compared, mut differ) = (0, Vec::new());
    for node in graph.nodes() {
        let stage = node.stage.as_ref();
        let schema = stage.schema();
        let mut paths = Vec::new();
        numbers(&schema, "", &mut paths);
        for table in valid_tables(stage.name()) {
            assert!(allows(&schema, &schema, &table), "{table}");
            stage.parse(table.clone()).unwrap();
            for path in &paths {
                for value in [
                    json!(-1),
                    json!(0),
                    json!(0.005),
                    json!(0.5),
                    json!(1),
                    json!(1.5),
                    json!(3),
                    json!(4),
                    json!(70_000),
                    json!(2e9),
                ] {
                    let mut table = table.clone();
                    let (field, outer) = path.split_last().unwrap();
                    let mut at = &mut table;
                    for name in outer {
                        if !at[name].is_object() {
                            at[name] = json!({});
                        }
                        at = &mut at[name];
                    }
                    at[field] = value;
                    let allowed = allows(&schema, &schema, &table);
                    match stage.parse(table.clone()).map_err(|e| e.to_string()) {
                        Ok(_) if !allowed => differ.push(format!("the schema refuses {} {table}", node.name)),
                        Err(message) if allowed && !DEPENDS.iter().any(|depends| message.contains(depends)) => {
                            differ.push(format!("the schema allows {} {table}: {message}", node.name));
                        }
                        _ => {}
                    }
                    compared += 1;
                }
            }
        }
    }
    assert!(differ.is_empty(), "{differ:#?}");
    assert!(compared > 1000, "{compared}");
}

#[test]
fn results_know_nodes_that_exist() {
    let graph = hemlock::graph();
    for name in hemlock_pipeline::nodes::ALL {
        assert!(graph.node(name).is_some(), "{name}");
    }
    let evaluations = graph.nodes().filter(|node| node.stage.about().role == hemlock_stage::StageRole::Evaluation);
    assert_eq!(evaluations.count(), 1, "a branch has one result");
}

/// The strings that a schema allows by name.
fn strings<'v>(schema: &'v Value, found: &mut Vec<&'v str>) {
    match schema {
        Value::Object(keywords) => {
            found.extend(keywords.get("const").and_then(Value::as_str));
            found
                .extend(keywords.get("enum").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str));
            keywords.values().for_each(|inner| strings(inner, found));
        }
        Value::Array(several) => several.iter().for_each(|inner| strings(inner, found)),
        _ => {}
    }
}

#[test]
fn reports_have_words_for_values_that_exist() {
    let schema = schema(&hemlock::graph());
    let mut known = Vec::new();
    strings(&schema, &mut known);
    for value in hemlock_report::known_values() {
        assert!(known.contains(&value), "{value}");
    }
}

/// The findings list some fields by name. `memory` is a field of keys alone.
#[test]
fn findings_know_fields_that_exist() {
    let schema = schema(&hemlock::graph()).to_string();
    for field in hemlock_report::findings::known_fields() {
        assert!(field == "memory" || schema.contains(&format!("\"{field}\":")), "{field}");
    }
}
