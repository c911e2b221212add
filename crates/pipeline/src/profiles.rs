//! Profiles: `[profiles.NAME.STAGE]` replaces `[STAGE]` if `profile = "NAME"`.

use crate::{
    Graph, Override, SpecError,
    source::SpecSource,
    spec::{check, first_leaf, quoted, set, take},
};
use hemlock_stage::{VALUE, few, short};
use serde_json::{Map, Value};

/// The field that chooses a profile.
pub(crate) const PROFILE: &str = "profile";
/// The table that holds all profiles.
pub(crate) const PROFILES: &str = "profiles";

/// The profile that was chosen.
pub(crate) struct Profile {
    pub name: String,
    /// The nodes whose tables the profile replaced.
    pub nodes: Vec<&'static str>,
}

/// The tables of a profile, by node.
type Tables = Vec<(&'static str, Value)>;

/// Removes the profiles from a spec, checks them all, and replaces the spec's tables by those of the chosen profile.
///
/// # Errors
/// - There is no profile of the chosen name.
/// - A profile has a table for no stage, or one that its stage cannot read.
pub(crate) fn choose(
    root: &mut Value,
    overrides: &[Override],
    graph: &Graph,
    source: &SpecSource,
) -> Result<Option<Profile>, SpecError> {
    let Value::Object(table) = &mut *root else { return Ok(None) };
    let written = table.remove(PROFILE);
    let chosen = overrides.iter().rev().find_map(|o| o.of(PROFILE)).cloned().or(written);
    let profiles = match table.remove(PROFILES) {
        None => Map::new(),
        Some(Value::Object(profiles)) => profiles,
        Some(other) => {
            let other = quoted(&other);
            let message = format!("`{PROFILES}` is {other}; expected tables such as [profiles.paper.poison-features]");
            return Err(source.error(&[PROFILES], message));
        }
    };
    let mut found = None;
    for (name, tables) in &profiles {
        let tables = checked(name, tables, graph, source)?;
        if chosen.as_ref().and_then(Value::as_str) == Some(name) {
            found = Some((name.clone(), tables));
        }
    }
    match (found, chosen) {
        (Some((name, tables)), _) => {
            let nodes = tables.iter().map(|(node, _)| *node).collect();
            for (node, table) in tables {
                let path: Vec<String> = node.split('.').map(str::to_owned).collect();
                set(root, &path, &table).map_err(|m| source.error(&[PROFILES, &name], m))?;
            }
            Ok(Some(Profile { name, nodes }))
        }
        (None, Some(wanted)) => {
            let known = match profiles.is_empty() {
                true => "the spec has none".to_owned(),
                false => format!("expected one of {}", few(profiles.keys().map(|name| format!("\"{name}\"")))),
            };
            Err(source.error(&[PROFILE], format!("there is no profile {}; {known}", quoted(&wanted))))
        }
        (None, None) => Ok(None),
    }
}

/// Returns the tables of a profile, after checking that each can be read by its stage.
fn checked(name: &str, tables: &Value, graph: &Graph, source: &SpecSource) -> Result<Tables, SpecError> {
    let at = [PROFILES, name];
    let Value::Object(mut tables) = tables.clone() else {
        let name = short(name, VALUE);
        return Err(source.error(&at, format!("profile `{name}` is no table; expected [profiles.{name}.STAGE]")));
    };
    let mut checked = Tables::new();
    for node in graph.nodes() {
        let Some(value) = take(&mut tables, node.name) else { continue };
        let path: Vec<&str> = node.name.split('.').collect();
        check(node, value.clone(), &[&at, &path[..]].concat(), source, &[])?;
        checked.push((node.name, value));
    }
    if let Some(unknown) = first_leaf(&tables, graph) {
        let (name, unknown) = (short(name, VALUE), unknown.join("."));
        let message = format!("profile `{name}` has the unknown table `{}`", short(&unknown, VALUE));
        return Err(source.error(&at, message));
    }
    Ok(checked)
}
