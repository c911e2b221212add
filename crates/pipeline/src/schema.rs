//! The JSON Schema of a spec, for editors.
//!
//! It knows every table and field, with types, defaults, ranges of single fields, and descriptions. It does not know
//! which fields a spec has to give, nor how they depend on each other: fields may come from a spec that this one
//! extends, so only [`Spec::load`](crate::Spec::load) can tell.

use crate::{
    Graph, Resources,
    profiles::{PROFILE, PROFILES},
    source::EXTENDS,
};
use hemlock_stage::{AnyStage, each, spec_schema};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The JSON Schema of the specs of a graph.
#[must_use]
pub fn schema(graph: &Graph) -> Value {
    let mut stages = Map::new();
    for stage in graph.nodes().map(|node| node.stage.as_ref()) {
        stages.entry(stage.name()).or_insert_with(|| stage_schema(stage));
    }
    let tables = tables(graph);
    let resources = resources(stages.keys());
    let mut fields = tables.clone();
    let of_all = json!({
        "description": {
            "description": "What the experiment shows. Reports print it.",
            "type": "string",
        },
        "seeds": {
            "description": "Seeds of the attack, one branch each.",
            "type": "array", "items": { "type": "integer", "minimum": 0 }, "minItems": 1, "uniqueItems": true,
            "default": [0],
        },
        EXTENDS: {
            "description": "Specs that this one extends: paths that start at this file. Of several, later ones win.",
            "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }],
        },
        PROFILE: {
            "description": "The profile whose tables replace those of the spec.",
            "type": "string",
        },
        PROFILES: {
            "description": "Profiles by name: tables of stages that replace those of the spec as a whole.",
            "type": "object",
            "additionalProperties": { "type": "object", "properties": tables, "additionalProperties": false },
        },
        "resources": resources,
    });
    if let Value::Object(of_all) = of_all {
        fields.extend(of_all);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Hemlock spec",
        "description": "An experiment: one table per stage.",
        "type": "object", "properties": fields, "additionalProperties": false,
        "$defs": stages,
    })
}

/// One table for every node, under its dotted name.
fn tables(graph: &Graph) -> Map<String, Value> {
    let mut tables = Map::new();
    for node in graph.nodes() {
        let reference = json!({ "$ref": format!("#/$defs/{}", node.stage.name()) });
        let table = json!({
            "description": format!("Stage {}: {}.", node.name, node.stage.about().does),
            "anyOf": [reference, { "type": "array", "items": reference }],
        });
        match node.name.split_once('.') {
            None => drop(tables.insert(node.name.to_owned(), table)),
            Some((outer, inner)) => {
                let empty = json!({ "type": "object", "properties": {}, "additionalProperties": false });
                tables.entry(outer).or_insert(empty)["properties"][inner] = table;
            }
        }
    }
    tables
}

/// The table of a stage, where lists fan out.
fn stage_schema(stage: &dyn AnyStage) -> Value {
    let mut schema = stage.schema();
    each(&mut schema, &mut merge);
    if let Some(Value::Object(fields)) = schema.get_mut("properties") {
        for (name, field) in fields {
            // A list for such a field is one value already, and a list of lists fans out.
            let is_list = stage.lists().contains(&name.as_str());
            *field = fanned(field.take(), is_list);
        }
    }
    schema
}

/// A field that may also be a list of its values, one branch each.
fn fanned(mut field: Value, is_list: bool) -> Value {
    let mut all = Map::new();
    for keyword in ["description", "default"] {
        if let Some(value) = field.as_object_mut().and_then(|field| field.remove(keyword)) {
            all.insert(keyword.to_owned(), value);
        }
    }
    let least = usize::from(!is_list);
    let list = json!({ "type": "array", "items": field, "minItems": least });
    all.insert("anyOf".to_owned(), json!([field, list]));
    Value::Object(all)
}

/// Makes one table of a choice between tables: it has the fields of all of them, and none is required.
fn merge(schema: &mut Map<String, Value>) {
    schema.remove("required");
    let tables = schema.get("oneOf").and_then(Value::as_array);
    let Some(tables) = tables.filter(|tables| tables.iter().all(|table| table.get("properties").is_some())) else {
        return;
    };
    let mut fields: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for table in tables {
        for (name, field) in table["properties"].as_object().into_iter().flatten() {
            let mut field = field.clone();
            // The field that tells the tables apart: what the table is describes its value.
            if let (Some(field), Some(meaning)) = (field.as_object_mut(), table.get("description"))
                && field.contains_key("const")
            {
                field.insert("description".to_owned(), meaning.clone());
            }
            let alternatives = fields.entry(name.clone()).or_default();
            if !alternatives.contains(&field) {
                alternatives.push(field);
            }
        }
    }
    let any = |alternatives: Vec<Value>| match <[Value; 1]>::try_from(alternatives) {
        Ok([one]) => one,
        Err(several) => json!({ "anyOf": several }),
    };
    let fields: Map<String, Value> = fields.into_iter().map(|(name, several)| (name, any(several))).collect();
    schema.remove("oneOf");
    schema.insert("type".to_owned(), "object".into());
    schema.insert("properties".to_owned(), fields.into());
    schema.insert("additionalProperties".to_owned(), false.into());
}

/// The table `[resources]`, and `[resources.STAGE]`.
fn resources<'a>(stages: impl Iterator<Item = &'a String>) -> Value {
    let mut schema = spec_schema::<Resources>();
    let of_stage = schema.clone();
    if let Some(Value::Object(fields)) = schema.get_mut("properties") {
        fields.extend(stages.map(|stage| (stage.clone(), of_stage.clone())));
    }
    schema
}
