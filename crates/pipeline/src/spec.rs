//! Pipeline specs: `pipelines/*.toml`.
//!
//! ```toml
//! description = "what this pipeline shows"
//! seeds = [0, 1, 2]          # one branch each
//!
//! [dataset.downstream]       # a table per node of the graph
//! source = "cifar10"
//!
//! [poison-features]
//! poison_fraction = [0.01, 0.03]       # a list fans out
//!
//! [[invert]]                 # so does an array of tables
//! method = "decoder"
//!
//! [resources.pretrain]       # what its tasks take on a cluster; no key depends on it
//! gpus = 1
//!
//! [profiles.paper.poison-features]    # replaces [poison-features] if `profile = "paper"`
//! attack = "gradient-canceling"
//! ```

use crate::{
    Graph, Node, Resources, branches,
    connections::connected,
    profiles::{self, PROFILE, PROFILES},
    resources::ResourcesByStage,
    source::{EXTENDS, SpecSource, to_json},
    variants::Variants,
};
use hemlock_stage::{ParamError, VALUE, short};
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    path::{Path, PathBuf},
};

/// Most parts of an override's path. Tables are nested at most five deep in practice.
const DEEPEST: usize = 16;

/// The checked parameters of all variants, for every node that a spec has.
/// The variants of every node's table.
pub(crate) type Tables = BTreeMap<&'static str, Vec<Value>>;

/// A parsed spec. All of its parameters have been checked, and it has at most [`MOST_BRANCHES`](crate::MOST_BRANCHES)
/// branches.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Name of the file without its extension.
    pub name: String,
    /// Path of the file.
    pub path: PathBuf,
    /// Description of what the pipeline shows.
    pub description: String,
    /// Seeds of the attack, with one branch per seed.
    pub seeds: Vec<u64>,
    /// Name of the profile that was chosen, if any. Its tables replace the spec's tables of the same name.
    pub profile: Option<String>,
    /// The overrides that were applied, as they were given.
    pub overrides: Vec<Override>,
    /// Number of branches of the plan.
    pub branches: usize,
    /// The checked parameters of all variants, for every node that the spec has.
    pub(crate) variants: Tables,
    resources: ResourcesByStage,
}

/// An override from the command line, `stage.field=value`. The value is TOML; anything else is taken as a string.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    path: Vec<String>,
    value: Value,
    text: String,
}

impl std::str::FromStr for Override {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (shown, expected) = (short(text, VALUE), "expected `stage.field=value`, such as `pretrain.epochs=5`");
        // A shell, and `just`, split arguments at spaces.
        let quotes =
            "one with spaces in it stands in quotes as a whole, such as 'poison-features.poison_fraction=[0.01, 0.03]'";
        let (path, value) =
            text.split_once('=').ok_or_else(|| format!("'{shown}' is no override; {expected}; {quotes}"))?;
        let path: Vec<String> = path.trim().split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) {
            return Err(format!("'{shown}' names no field; {expected}"));
        }
        if path.len() > DEEPEST {
            return Err(format!(
                "'{shown}' has {} parts, and no field has more than {DEEPEST}; {expected}",
                path.len()
            ));
        }
        // A value with a second line may add another field or table.
        let table = toml::from_str::<toml::Table>(&format!("v = {value}")).ok();
        if table.as_ref().is_some_and(|table| table.len() > 1) {
            return Err(format!("'{shown}' is more than one override; give each a `--set` of its own"));
        }
        let value = match table.and_then(|mut t| t.remove("v")) {
            Some(value) => to_json(value, &mut Vec::new()).map_err(|(_, message)| format!("'{shown}': {message}"))?,
            None if value.trim_start().starts_with(['[', '{']) => {
                return Err(format!("'{shown}' has a value that is no list or table of TOML; {quotes}"));
            }
            None => Value::String(value.trim().to_owned()),
        };
        Ok(Self { path, value, text: text.to_owned() })
    }
}

impl Override {
    /// The override's value, if it overrides the top-level field `field` of the spec.
    pub(crate) fn of(&self, field: &str) -> Option<&Value> {
        (self.path == [field]).then_some(&self.value)
    }

    /// The override as a message quotes it.
    fn shown(&self) -> String {
        format!("--set {}", short(&self.text, VALUE))
    }

    /// Refuses an override of what decides which tables a spec has.
    fn allowed(&self) -> Result<(), String> {
        match &self.path[..] {
            [first, ..] if first == EXTENDS => {
                Err(format!("`{EXTENDS}` stands in the file; expected a field of a stage"))
            }
            [first, _, field @ ..] if first == PROFILES => {
                let instead = format!("--set {}={}", field.join("."), self.value);
                Err(format!("overrides come on top of the profile; expected `{}`", short(&instead, VALUE)))
            }
            _ => Ok(()),
        }
    }

    /// Sets the field in a spec's root table. In an array of tables, it is set in all tables that know the field.
    fn apply(&self, root: &mut Value, graph: &Graph) -> Result<(), String> {
        for node in graph.nodes() {
            let name: Vec<&str> = node.name.split('.').collect();
            let Some((inner, [field, ..])) = self.path.split_at_checked(name.len()) else { continue };
            let tables = root.pointer_mut(&format!("/{}", name.join("/")));
            let (true, Some(Value::Array(tables))) = (inner == name, tables) else { continue };
            let knows = |table: &Value| {
                let unknown = |e: &ParamError| Unknown::find(&e.message).is_some_and(|u| u.is_field && u.word == field);
                Variants::new(table.clone(), node.stage.lists())
                    .is_ok_and(|v| !v.tables().any(|t| node.stage.parse(t).is_err_and(|e| unknown(&e))))
            };
            let path = &self.path[name.len()..];
            let mut changed = tables.clone();
            changed.iter_mut().try_for_each(|table| set(table, path, &self.value))?;
            let none = !changed.iter().any(knows);
            for (table, changed) in tables.iter_mut().zip(changed) {
                // If no table knows the field, all of them get it, so that the check of the tables says what is wrong.
                if none || knows(&changed) {
                    *table = changed;
                }
            }
            return Ok(());
        }
        set(root, &self.path, &self.value)
    }
}

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Fields and words of earlier versions, with what replaced them.
const RENAMED: [(&str, &str); 3] =
    [("objective", "sees = [\"train\", \"validation\"]"), ("recipe", PROFILE), ("recipes", PROFILES)];

/// An error in a spec: where it is, what is wrong, and what may have been meant.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {message}{}", path.display(), line.map(|l| format!(":{l}")).unwrap_or_default(),
        suggestion.as_ref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default())]
pub struct SpecError {
    /// The file with the error.
    pub path: PathBuf,
    /// Line in the file, counted from 1.
    pub line: Option<usize>,
    /// What is wrong, and what was expected.
    pub message: String,
    /// The most similar valid word, if there is one.
    pub suggestion: Option<String>,
}

impl Spec {
    /// Reads and checks a spec and all that it extends.
    ///
    /// # Errors
    /// - A file cannot be read, or is not valid TOML.
    /// - The spec extends itself, or too many files.
    /// - An override cannot be applied, or there is no profile of the chosen name.
    /// - A field is unknown, missing, of the wrong type or out of range.
    /// - A stage lacks an input, or cannot read what an earlier stage makes.
    /// - The spec has more than [`MOST_BRANCHES`](crate::MOST_BRANCHES) branches, or no stage.
    pub fn load(path: &Path, overrides: &[Override], graph: &Graph) -> Result<Self, SpecError> {
        let (source, root) = SpecSource::load(path)?;
        Self::check(root, &source, overrides, graph)
    }

    /// Checks the text of a spec. `path` names it: paths that the text extends are relative to the folder of `path`.
    ///
    /// # Errors
    /// The conditions are those of [`Spec::load`].
    pub fn parse(path: &Path, text: &str, overrides: &[Override], graph: &Graph) -> Result<Self, SpecError> {
        let (source, root) = SpecSource::parse(path, text)?;
        Self::check(root, &source, overrides, graph)
    }

    fn check(
        root: Map<String, Value>,
        source: &SpecSource,
        overrides: &[Override],
        graph: &Graph,
    ) -> Result<Self, SpecError> {
        let mut root = Value::Object(root);
        let profile = profiles::choose(&mut root, overrides, graph, source)?;
        for o in overrides.iter().filter(|o| o.of(PROFILE).is_none()) {
            o.allowed().and_then(|()| o.apply(&mut root, graph)).map_err(|m| {
                let message = format!("{}: {m}", o.shown());
                source.error(&[], message)
            })?;
        }
        let Value::Object(mut root) = root else { return Err(source.error(&[], "expected a table")) };

        let description = match root.remove("description") {
            None => String::new(),
            Some(Value::String(s)) => s,
            Some(v) => {
                let message = format!("`description` is {}; expected a string", quoted(&v));
                return Err(source.error(&["description"], message));
            }
        };
        let seeds = seeds(root.remove("seeds")).map_err(|m| source.error(&["seeds"], m))?;

        let resources = resources(root.remove("resources"), graph, source)?;

        let mut variants = BTreeMap::new();
        for node in graph.nodes() {
            let Some(value) = take(&mut root, node.name) else { continue };
            let own: Vec<&str> = node.name.split('.').collect();
            let at = match &profile {
                Some(profile) if profile.nodes.contains(&node.name) => [&[PROFILES, &profile.name], &own[..]].concat(),
                _ => own,
            };
            let checked = check(node, value, &at, source, overrides)?;
            // An empty array of tables takes a node out of a spec that this one extends.
            if !checked.is_empty() {
                variants.insert(node.name, checked);
            }
        }
        if let Some(unknown) = first_leaf(&root, graph) {
            return Err(unknown_key(&unknown, graph, source));
        }
        if variants.is_empty() {
            return Err(source.error(&[], "the spec has no stage; expected a table such as [dataset.downstream]"));
        }
        adapt(&mut variants, graph, source)?;
        let branches = branches::check(&variants, seeds.len(), graph).map_err(|e| source.error(&[], e.to_string()))?;
        connected(&variants, graph, source)?;
        let path = source.path().to_owned();
        let name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let profile = profile.map(|profile| profile.name);
        let overrides = overrides.to_vec();
        Ok(Self { name, path, description, seeds, profile, overrides, branches, variants, resources })
    }

    /// The resources that a task of a stage takes on a cluster.
    #[must_use]
    pub fn resources(&self, stage: &str) -> Resources {
        self.resources.of(stage)
    }
}

fn unknown_key(path: &[String], graph: &Graph, source: &SpecSource) -> SpecError {
    let at: Vec<&str> = path.iter().map(String::as_str).collect();
    let mut known: Vec<&str> = graph.nodes().map(|n| n.name).collect();
    known.extend([EXTENDS, "description", "seeds", PROFILE, PROFILES, "resources"]);
    let unknown = path.join(".");
    let message = format!("unknown key `{}`; expected one of {}", short(&unknown, VALUE), known.join(", "));
    SpecError { suggestion: meant(&unknown, &known), ..source.error(&at, message) }
}

/// Replaces every variant that adapts to another node by one for each of that node's variants
/// ([`About::adapts_to`](hemlock_stage::About::adapts_to)).
fn adapt(variants: &mut Tables, graph: &Graph, source: &SpecSource) -> Result<(), SpecError> {
    for node in graph.nodes() {
        let Some((field, to)) = node.stage.about().adapts_to else { continue };
        let Some(own) = variants.remove(node.name) else { continue };
        let mut all = Vec::new();
        for params in own {
            let at: Vec<&str> = node.name.split('.').chain([field]).collect();
            match params.get(field) {
                Some(Value::Bool(true)) => {}
                Some(given @ Value::Object(_)) => {
                    let message = format!("[{}] `{field}` is {}; expected true or false", node.name, quoted(given));
                    return Err(source.error(&at, message));
                }
                _ => {
                    all.push(params);
                    continue;
                }
            }
            let Some(others) = variants.get(to) else {
                let message = format!("[{}] `{field}` is true: it adapts to [{to}], and the spec has none", node.name);
                return Err(source.error(&at, message));
            };
            for other in others {
                let mut params = params.clone();
                params[field] = other.clone();
                all.push(
                    node.stage
                        .parse(params)
                        .map_err(|e| source.param_error(&at[..at.len() - 1], node.name, &e, &[]))?,
                );
            }
        }
        variants.insert(node.name, all);
    }
    Ok(())
}

/// Returns the checked parameters of all variants of a node, without duplicates. `at` is their path in the text.
pub(crate) fn check(
    node: &Node,
    value: Value,
    at: &[&str],
    source: &SpecSource,
    overrides: &[Override],
) -> Result<Vec<Value>, SpecError> {
    let variants = Variants::new(value, node.stage.lists());
    let variants = variants.map_err(|m| source.error(at, format!("[{}] {m}", node.name)))?;
    let (mut checked, mut seen) = (Vec::new(), HashSet::new());
    for table in variants.tables() {
        let params = node.stage.parse(table).map_err(|e| source.param_error(at, node.name, &e, overrides))?;
        if seen.insert(params.to_string()) {
            checked.push(params);
        }
    }
    Ok(checked)
}

/// Parses the table `[resources]`: defaults for all stages, and a table for every stage that differs from them.
fn resources(value: Option<Value>, graph: &Graph, source: &SpecSource) -> Result<ResourcesByStage, SpecError> {
    let mut usual = match value {
        None => return Ok(ResourcesByStage::default()),
        Some(Value::Object(table)) => table,
        Some(other) => {
            let message = format!("`resources` is {}; expected a table such as `cpus = 4`", quoted(&other));
            return Err(source.error(&["resources"], message));
        }
    };
    let read = |at: &[&str], value: Value| {
        hemlock_stage::read(&value).map_err(|e| source.param_error(at, &at.join("."), &e, &[]))
    };
    let mut stages = BTreeMap::new();
    for stage in graph.stages() {
        if let Some(value) = usual.remove(stage) {
            stages.insert(stage, read(&["resources", stage], value)?);
        }
    }
    Ok(ResourcesByStage { usual: read(&["resources"], Value::Object(usual))?, stages })
}

fn seeds(value: Option<Value>) -> Result<Vec<u64>, String> {
    let expected = "expected a list of different integers from 0, such as [0, 1, 2]";
    let list = match value {
        None => return Ok(vec![0]),
        Some(Value::Array(list)) => list,
        Some(one @ Value::Number(_)) => {
            return Err(format!(
                "`seeds` is {one}; expected a list: `[{one}]` for the seed {one}, `[0, 1, 2]` for three seeds"
            ));
        }
        Some(other) => return Err(format!("`seeds` is {}; {expected}", quoted(&other))),
    };
    let (mut seeds, mut seen) = (Vec::new(), HashSet::new());
    for v in &list {
        let seed = v.as_u64().ok_or_else(|| format!("`seeds` holds {}; {expected}", quoted(v)))?;
        if !seen.insert(seed) {
            return Err(format!("`seeds` holds {seed} twice; {expected}"));
        }
        seeds.push(seed);
    }
    if seeds.is_empty() { Err(format!("`seeds` is empty; {expected}")) } else { Ok(seeds) }
}

/// A value as a message quotes it.
pub(crate) fn quoted(value: &Value) -> String {
    short(&value.to_string(), VALUE).into_owned()
}

/// Removes the value at a dotted path from a table, and returns it. Tables that become empty are removed, too.
pub(crate) fn take(root: &mut Map<String, Value>, dotted: &str) -> Option<Value> {
    match dotted.split_once('.') {
        None => root.remove(dotted),
        Some((first, rest)) => {
            let Value::Object(inner) = root.get_mut(first)? else { return None };
            let value = take(inner, rest);
            if inner.is_empty() {
                root.remove(first);
            }
            value
        }
    }
}

/// Sets a value at a path. In an array of tables, it is set in every table.
pub(crate) fn set(at: &mut Value, path: &[String], value: &Value) -> Result<(), String> {
    match (at, path) {
        (at, []) => *at = value.clone(),
        (Value::Object(table), [first, rest @ ..]) => {
            let inner = table.entry(first.clone()).or_insert_with(|| Value::Object(Map::new()));
            set(inner, rest, value)?;
        }
        (Value::Array(tables), path) => {
            for table in tables {
                set(table, path, value)?;
            }
        }
        (other, [first, ..]) => {
            return Err(format!("`{}` would stand inside {}, which is no table", short(first, VALUE), quoted(other)));
        }
    }
    Ok(())
}

/// Path of the first value that is left in a table, in the order of its keys, for a message about an unknown key.
pub(crate) fn first_leaf(table: &Map<String, Value>, graph: &Graph) -> Option<Vec<String>> {
    let (key, value) = table.iter().next()?;
    let mut path = vec![key.clone()];
    // `dataset.downstream` is a node, so in `dataset.downstraem` the whole path is unknown, and not `dataset`.
    if let Value::Object(inner) = value
        && graph.nodes().any(|n| n.name.starts_with(&format!("{key}.")))
        && let Some((inner, _)) = inner.iter().next()
    {
        path.push(inner.clone());
    }
    Some(path)
}

/// The known word that was probably meant by an unknown one: its new name if it was renamed, or else the most similar
/// word.
fn meant(word: &str, known: &[&str]) -> Option<String> {
    let renamed = RENAMED.iter().find(|(old, new)| *old == word && known.iter().any(|k| new.starts_with(k)));
    renamed.map_or_else(|| nearest(word, known), |(_, new)| Some((*new).to_owned()))
}

/// The known word that is most similar to an unknown one. Returns `None` if no word is similar enough.
#[must_use]
pub fn nearest(word: &str, known: &[&str]) -> Option<String> {
    if word.len() > VALUE {
        return None;
    }
    known
        .iter()
        .map(|k| (strsim::jaro_winkler(word, k), *k))
        .filter(|(similarity, k)| *similarity > 0.75 && is_slip(word, k))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k.to_owned())
}

/// Whether two words differ by a few typing errors, and do not merely begin or end in the same way.
fn is_slip(word: &str, other: &str) -> bool {
    let longer = word.chars().count().max(other.chars().count());
    strsim::osa_distance(word, other) <= 1 + longer / 3
}

impl SpecSource {
    fn param_error(&self, table: &[&str], node: &str, e: &ParamError, overrides: &[Override]) -> SpecError {
        let unknown = Unknown::find(&e.message);
        let mut at = table.to_vec();
        at.extend(e.path.split('.').filter(|s| !s.is_empty()));
        let message = match e.path.as_str() {
            "" => format!("[{node}] {}", e.message),
            path => format!("[{node}] `{path}`: {}", e.message),
        };
        let suggestion = unknown.and_then(|u| meant(u.word, &u.known));
        let field: Vec<&str> = node.split('.').chain(e.path.split('.').filter(|s| !s.is_empty())).collect();
        match overrides.iter().rev().find(|o| field.iter().take(o.path.len()).eq(&o.path)) {
            // The error is in the override, and not in the file.
            Some(o) => SpecError { suggestion, line: None, ..self.error(&[], format!("{}: {message}", o.shown())) },
            None => SpecError { suggestion, ..self.error(&at, message) },
        }
    }
}

/// A field or variant that serde did not know, with those that it knows.
struct Unknown<'a> {
    is_field: bool,
    word: &'a str,
    known: Vec<&'a str>,
}

impl<'a> Unknown<'a> {
    /// Parses serde's message, which has no typed form: "unknown field `a`, expected one of `b`, `c`". A test below
    /// fails if serde's wording changes.
    fn find(message: &'a str) -> Option<Self> {
        let is_field = message.starts_with("unknown field");
        if !is_field && !message.starts_with("unknown variant") {
            return None;
        }
        let mut words = message.split('`').skip(1).step_by(2);
        Some(Self { is_field, word: words.next()?, known: words.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    #[allow(dead_code)]
    enum Known {
        First { one: u32, two: u32 },
        Second {},
    }

    #[test]
    fn unknown_words_are_found_in_messages_of_serde() {
        let message = |value: Value| hemlock_stage::read::<Known>(&value).unwrap_err().message;
        let (field, variant) = (message(json!({ "first": { "three": 3 } })), message(json!({ "third": {} })));
        let (field, variant) = (Unknown::find(&field).unwrap(), Unknown::find(&variant).unwrap());
        assert_eq!((field.is_field, field.word, field.known), (true, "three", vec!["one", "two"]));
        assert_eq!((variant.is_field, variant.word, variant.known), (false, "third", vec!["first", "second"]));
        assert!(Unknown::find(&message(json!({ "first": { "one": 1 } }))).is_none());
    }
}
