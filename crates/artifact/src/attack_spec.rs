//! What an attack on features minimises, and within which constraint: what is needed to continue it.

use hemlock_threat::ConstraintKinds;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What an attack minimises, and where its poisoned features may lie.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttackSpec {
    /// The attack, as specs name it.
    pub attack: String,
    /// The attack's own parameters, those that idle at their defaults.
    #[serde(with = "json")]
    pub parameters: Map<String, Value>,
    /// The seed that the attack's objective draws from; 0, where it draws nothing.
    pub seed: u64,
    /// Where the poisoned features may lie.
    pub constraint: ConstraintKinds,
    /// The share of the clean features that the constraint lets through.
    pub quantile: f64,
    /// The k of a k-NN constraint.
    pub neighbors: u32,
}

/// A table as JSON text: values in artifacts have no types of their own.
mod json {
    use serde::{Deserialize, Deserializer, Serializer, de, ser};
    use serde_json::{Map, Value};

    pub(super) fn serialize<S: Serializer>(table: &Map<String, Value>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&serde_json::to_string(table).map_err(ser::Error::custom)?)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Map<String, Value>, D::Error> {
        serde_json::from_str(&String::deserialize(from)?).map_err(de::Error::custom)
    }
}
