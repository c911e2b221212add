//! Differences between two identities.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::Identity;
use crate::Key;

/// One difference between an older and a newer [`Identity`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Change {
    /// The stages are different.
    Stage {
        /// The older name.
        old: String,
        /// The newer name.
        new: String,
    },
    /// The version of the stage's code, which changes when its results do.
    StageVersion {
        /// The older version.
        old: u32,
        /// The newer version.
        new: u32,
    },
    /// A parameter.
    Param {
        /// The path of the parameter, such as `optimiser.rates[2]`; empty for the parameters as a whole.
        path: String,
        /// The older value; `None` if there was none.
        old: Option<Value>,
        /// The newer value; `None` if there is none.
        new: Option<Value>,
    },
    /// The seed.
    Seed {
        /// The older seed.
        old: Option<u64>,
        /// The newer seed.
        new: Option<u64>,
    },
    /// The digest of the raw data.
    Source {
        /// The older digest.
        old: Option<String>,
        /// The newer digest.
        new: Option<String>,
    },
    /// An input.
    Input {
        /// The role of the input.
        role: String,
        /// The older key; `None` if there was no such input.
        old: Option<Key>,
        /// The newer key; `None` if there is no such input.
        new: Option<Key>,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stage { old, new } => write!(f, "stage: {old} -> {new}"),
            Self::StageVersion { old, new } => write!(f, "stage version: {old} -> {new}"),
            Self::Param { path, old, new } if path.is_empty() => {
                write!(f, "parameters: {} -> {}", or_none(old), or_none(new))
            }
            Self::Param { path, old, new } => write!(f, "parameter {path}: {} -> {}", or_none(old), or_none(new)),
            Self::Seed { old, new } => write!(f, "seed: {} -> {}", or_none(old), or_none(new)),
            Self::Source { old, new } => write!(f, "raw data's digest: {} -> {}", or_none(old), or_none(new)),
            Self::Input { role, old, new } => write!(f, "input {role}: {} -> {}", or_none(old), or_none(new)),
        }
    }
}

fn or_none(value: &Option<impl fmt::Display>) -> String {
    value.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)
}

/// Implements [`Identity::diff`].
pub fn diff(new: &Identity, old: &Identity) -> Vec<Change> {
    let mut changes = Vec::new();
    if new.stage != old.stage {
        changes.push(Change::Stage { old: old.stage.clone(), new: new.stage.clone() });
    }
    if new.stage_version != old.stage_version {
        changes.push(Change::StageVersion { old: old.stage_version, new: new.stage_version });
    }
    params("", Some(&old.params), Some(&new.params), &mut changes);
    if new.seed != old.seed {
        changes.push(Change::Seed { old: old.seed, new: new.seed });
    }
    if new.source != old.source {
        changes.push(Change::Source { old: old.source.clone(), new: new.source.clone() });
    }
    for role in union(old.inputs.keys(), new.inputs.keys()) {
        let (old, new) = (old.inputs.get(role).copied(), new.inputs.get(role).copied());
        if old != new {
            changes.push(Change::Input { role: role.clone(), old, new });
        }
    }
    changes
}

/// Descends into both values as long as they have the same form, so that a change is reported at its innermost path.
fn params(path: &str, old: Option<&Value>, new: Option<&Value>, changes: &mut Vec<Change>) {
    match (old, new) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            for name in union(old.keys(), new.keys()) {
                let dot = if path.is_empty() { "" } else { "." };
                params(&format!("{path}{dot}{name}"), old.get(name), new.get(name), changes);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) if old.len() == new.len() => {
            for (n, (old, new)) in old.iter().zip(new).enumerate() {
                params(&format!("{path}[{n}]"), Some(old), Some(new), changes);
            }
        }
        _ if old != new => {
            changes.push(Change::Param { path: path.to_owned(), old: old.cloned(), new: new.cloned() });
        }
        _ => {}
    }
}

fn union<'a>(a: impl Iterator<Item = &'a String>, b: impl Iterator<Item = &'a String>) -> BTreeSet<&'a String> {
    a.chain(b).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[test]
    fn each_difference_is_named_where_it_is() {
        let old = Identity {
            stage: "pretrain".into(),
            stage_version: 1,
            params: json!({ "optimiser": { "rates": [0.1, 0.2], "kind": "sgd" }, "epochs": 10 }),
            seed: Some(1),
            source: None,
            inputs: BTreeMap::from([("data".into(), Key::new([1; 16]))]),
        };
        let new = Identity {
            stage_version: 2,
            params: json!({ "optimiser": { "rates": [0.1, 0.3], "kind": "sgd" }, "batch": 64 }),
            seed: None,
            inputs: BTreeMap::from([("data".into(), Key::new([2; 16]))]),
            ..old.clone()
        };
        let lines: Vec<String> = new.diff(&old).iter().map(Change::to_string).collect();
        assert_eq!(
            lines,
            [
                "stage version: 1 -> 2",
                "parameter batch: none -> 64",
                "parameter epochs: 10 -> none",
                "parameter optimiser.rates[1]: 0.2 -> 0.3",
                "seed: 1 -> none",
                "input data: 01010101010101010101010101010101 -> 02020202020202020202020202020202",
            ]
        );
        assert_eq!(
            serde_json::to_value(&new.diff(&old)[0]).unwrap(),
            json!({ "what": "stage-version", "old": 1, "new": 2 })
        );
    }
}
