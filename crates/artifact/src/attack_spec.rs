//! What an attack on features minimises, and under which constraint. A stage that continues the attack needs both.

use hemlock_threat::ConstraintKinds;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What an attack minimises, and which constraint its poisoned features have to satisfy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttackSpec {
    /// The attack, as specs name it.
    pub attack: String,
    /// The attack's own parameters, including those that have no effect at their default values.
    #[serde(with = "json")]
    pub parameters: Map<String, Value>,
    /// The seed of the random numbers that the attack's objective draws; 0 if it draws none.
    pub seed: u64,
    /// The set that the poisoned features have to lie in.
    pub constraint: ConstraintKinds,
    /// The share of the clean features that the constraint lets through.
    pub quantile: f64,
    /// The number of neighbours, k, of a k-NN constraint.
    pub neighbors: u32,
    /// The filter that the poisons have to pass, if the attack adapts to one.
    pub filter: Option<SimulatedFilter>,
}

/// The filter of a victim, as an attacker simulates it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SimulatedFilter {
    /// The filter as specs write it, in JSON.
    pub params: String,
    /// The seed of what the attacker draws where the filter draws at random.
    pub seed: u64,
}

/// Serialises a JSON table as text, because the payload format stores no types and cannot read a
/// [`Value`](serde_json::Value) back.
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
