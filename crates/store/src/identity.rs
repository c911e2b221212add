//! The identity of a task: everything that decides its result, and the key that is computed from it.
//!
//! | what                             | in the key | why                                                            |
//! |----------------------------------|------------|----------------------------------------------------------------|
//! | stage                            | yes        | stages compute different things                                |
//! | stage version                    | yes        | raised when a stage's code would give another result           |
//! | parameters                       | yes        | every one of them, defaults filled in                          |
//! | seed                             | yes        | decides every random choice; `null` for a stage without any    |
//! | digest of the raw data           | yes        | the bytes themselves, wherever they came from                  |
//! | keys of the inputs, by role      | yes        | through them the whole history of the data                     |
//! | wall clock, user, host           | no         | tell about a run, not about its result                         |
//! | paths of the store and the data  | no         | moving a folder changes no bytes                               |
//! | number of threads                | no         | reductions are ordered: any number gives the same bytes        |
//! | log level, progress, `--json`    | no         | seen by people only                                            |
//! | device                           | no         | devices agree up to rounding; the manifest names the one used  |
//! | version of hemlock               | no         | a release that changes a result raises that stage's version    |
//! | name of the pipeline             | no         | pipelines share what they have in common                       |
//!
//! The key is the first 16 bytes of the BLAKE3 of the identity's canonical JSON: no white space,
//! the names of each object in ascending order of bytes, and numbers as `serde_json` prints them. So `1`
//! and `1.0` differ. JSON has no NaN and no infinities, and parameters are checked to be free of them
//! and of `-0.0` before they get here.

mod change;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use change::Change;

use crate::Key;

/// Everything that decides the result of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// The stage's name.
    pub stage: String,
    /// The stage's version.
    pub stage_version: u32,
    /// The stage's parameters, with defaults filled in.
    pub params: Value,
    /// The seed of the stage's random choices; `None` if it makes none.
    pub seed: Option<u64>,
    /// The digest of the raw data that the stage reads (a dataset, a file of weights); `None` if it reads none.
    pub source: Option<String>,
    /// The keys of the inputs, by role.
    pub inputs: BTreeMap<String, Key>,
}

impl Identity {
    /// Returns the task's name: the hash of the whole identity.
    pub fn key(&self) -> Key {
        let Self { stage, stage_version, params, seed, source, inputs } = self;
        let inputs: Map<_, _> = inputs.iter().map(|(role, key)| (role.clone(), key.to_string().into())).collect();
        let whole = json!({
            "stage": stage,
            "stage_version": stage_version,
            "params": params,
            "seed": seed,
            "source": source,
            "inputs": inputs,
        });
        Key::of(canonical(whole).to_string().as_bytes())
    }

    /// Returns the changes since `old`, in a fixed order. It is empty if and only if the keys are equal.
    pub fn diff(&self, old: &Self) -> Vec<Change> {
        change::diff(self, old)
    }
}

/// Sorts the names of each object, whichever kind of map `serde_json` was built with.
pub(crate) fn canonical(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<String, Value> = map.into_iter().collect();
            sorted.into_iter().map(|(name, value)| (name, canonical(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(canonical).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity() -> Identity {
        Identity {
            stage: "features".into(),
            stage_version: 3,
            params: json!({ "batch": 256, "normalise": true, "scale": 0.1, "layers": ["a", "b"] }),
            seed: Some(7),
            source: Some("sha256:00ff".into()),
            inputs: BTreeMap::from([("model".into(), Key::new([0xab; 16]))]),
        }
    }

    #[test]
    fn the_key_is_a_plain_hash_of_plain_text() {
        let text = concat!(
            r#"{"inputs":{"model":"abababababababababababababababab"},"#,
            r#""params":{"batch":256,"layers":["a","b"],"normalise":true,"scale":0.1},"#,
            r#""seed":7,"source":"sha256:00ff","stage":"features","stage_version":3}"#
        );
        assert_eq!(identity().key(), Key::of(text.as_bytes()));
        // If this value changes, no artifact that was ever made is found again. So it must not change by accident.
        assert_eq!(identity().key().to_string(), "2fe63dcd7ee5fe2f38e7bbbf0c1de465");
    }

    #[test]
    fn every_field_changes_the_key() {
        let edits: [fn(&mut Identity); 8] = [
            |i| i.stage = "invert".into(),
            |i| i.stage_version = 4,
            |i| i.params["batch"] = 257.into(),
            |i| i.params["scale"] = json!(0.100_000_000_000_000_02),
            |i| i.seed = None,
            |i| i.source = None,
            |i| i.inputs.clear(),
            |i| {
                i.inputs.insert("model".into(), Key::new([0xac; 16]));
            },
        ];
        for (n, edit) in edits.into_iter().enumerate() {
            let mut edited = identity();
            edit(&mut edited);
            assert_ne!(edited.key(), identity().key(), "edit {n}");
        }
    }

    /// Parameters without `-0.0`, which the documentation excludes.
    fn params() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e3..1e3).prop_map(|x: f64| Value::from(x + 0.0)),
            "[a-c]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-c]{1,2}", inner, 0..3)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_key_survives_json(params in params()) {
            let there = Identity { params, ..identity() };
            let back: Identity = serde_json::from_str(&serde_json::to_string(&there).unwrap()).unwrap();
            prop_assert_eq!(back.key(), there.key());
        }

        #[test]
        fn no_difference_means_the_same_key(a in params(), b in params()) {
            let (a, b) = (Identity { params: a, ..identity() }, Identity { params: b, ..identity() });
            prop_assert_eq!(a.diff(&b).is_empty(), a.key() == b.key());
            prop_assert!(a.diff(&a.clone()).is_empty());
        }
    }
}
