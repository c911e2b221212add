//! The fields of the attacks in a stage's table.

use super::{AttackRef, Stochasticity, all};
use hemlock_stage::ParamError;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::borrow::Cow;

/// The fields of all attacks, flattened into a stage's table. It includes fields of attacks that were not chosen. It
/// also collects all fields that the stage does not know, which [`AttackParams::check`] refuses.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct AttackParams(Map<String, Value>);

impl<'de> Deserialize<'de> for AttackParams {
    /// Fills in defaults. A field that cannot be read is kept, so that [`AttackParams::check`] can report it.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut table = Map::deserialize(from)?;
        for attack in all() {
            if let Ok(own) = attack.own(&table) {
                table.extend(own);
            }
        }
        Ok(Self(table))
    }
}

impl JsonSchema for AttackParams {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "AttackParams".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut fields = Map::new();
        for attack in all() {
            for (name, field) in attack.schema()["properties"].as_object().into_iter().flatten() {
                let users = all().filter(|attack| attack.schema()["properties"].get(name).is_some());
                let users: Vec<String> = users.map(|attack| format!("`{}`", attack.name())).collect();
                let mut field = field.clone();
                let about = field["description"].as_str().unwrap_or_default();
                field["description"] = format!("For {}. {about}", users.join(", ")).into();
                fields.entry(name.clone()).or_insert(field);
            }
        }
        json_schema!({ "type": "object", "properties": fields, "additionalProperties": false })
    }
}

impl AttackParams {
    /// Checks the fields of all attacks. `beside` lists the fields that belong to the stage, and are known as well.
    ///
    /// # Errors
    /// Returns an error that names the first field that is unknown, has the wrong type, or is out of its range.
    pub fn check(&self, beside: &[&str]) -> Result<(), ParamError> {
        let mut known: Vec<String> = beside.iter().map(|field| (*field).to_owned()).collect();
        for (field, _) in all().flat_map(|attack| attack.own(&Map::new())).flatten() {
            if !known.contains(&field) {
                known.push(field);
            }
        }
        if let Some((field, _)) = self.0.iter().find(|(field, _)| !known.contains(field)) {
            let message = format!("unknown field `{field}`, expected one of `{}`", known.join("`, `"));
            return Err(ParamError::new(field, message));
        }
        all().try_for_each(|attack| attack.resolved(&self.0).map(drop))
    }

    /// The fields of one attack, as they appear in keys and artifacts.
    ///
    /// # Errors
    /// Returns an error that names the first field of this attack that has the wrong type or is out of its range.
    pub fn of(&self, attack: AttackRef) -> Result<Self, ParamError> {
        Ok(Self(attack.resolved(&self.0)?))
    }

    /// See [`Attack::stochasticity`](super::Attack::stochasticity).
    #[must_use]
    pub fn stochasticity(&self, attack: AttackRef) -> Option<Stochasticity> {
        attack.stochasticity(&self.0)
    }

    /// The fields as names and values.
    #[must_use]
    pub fn into_table(self) -> Map<String, Value> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attacks::find;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    fn own(table: Value) -> AttackParams {
        serde_json::from_value(table).unwrap()
    }

    /// All attacks share one table. No two attacks have the same name, and fields that they share have the same
    /// default.
    #[test]
    fn attacks_do_not_get_into_each_other_s_way() {
        let mut fields: BTreeMap<String, Value> = BTreeMap::new();
        for attack in all() {
            assert_eq!(find(attack.name()).unwrap().value_label(), attack.value_label());
            for (field, default) in attack.own(&Map::new()).unwrap() {
                let first = fields.entry(field).or_insert_with(|| default.clone());
                assert_eq!(*first, default, "{}", attack.name());
            }
        }
        assert_eq!(own(json!({})).0.into_iter().collect::<BTreeMap<_, _>>(), fields);
        assert!(own(json!({})).check(&[]).is_ok(), "defaults are within their ranges");
    }

    #[test]
    fn what_idles_is_in_the_table_and_not_in_the_key() {
        let of = |attack: &str, table: Value| own(table).of(find(attack).unwrap()).unwrap().into_table();
        let table = json!({ "temperature": 2.0, "inner": { "steps": 3, "batch": 7 } });
        let whole = json!({ "temperature": 2.0, "sees": ["train"],
                            "gradient": "all", "inner": { "steps": 3, "batch": 7, "learning_rate": 0.1 },
                            "weight_decays": [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0] });
        assert_eq!(Value::Object(own(table.clone()).into_table()), whole);
        assert_eq!(Value::Object(of("gradient-canceling", table.clone())), json!({ "gradient": "all" }));
        assert_eq!(Value::Object(of("bilevel", table.clone())), json!({ "sees": ["train"], "temperature": 2.0 }));
        assert_eq!(Value::Object(of("bilevel-cross-entropy", table)), json!({ "sees": ["train"] }));
        assert!(own(json!({})).stochasticity(find("tgda").unwrap()).is_some());
        assert!(own(json!({})).stochasticity(find("bilevel-cross-entropy").unwrap()).is_none());
    }

    #[test]
    fn the_first_field_that_is_wrong_is_named() {
        let wrong = |table: Value| own(table).check(&["attack", "poison_fraction"]).unwrap_err().to_string();
        let unknown = "`temprature`: unknown field `temprature`, expected one of `attack`, `poison_fraction`, `gradient`, `sees`, `temperature`";
        assert!(wrong(json!({ "temprature": 1.0 })).starts_with(unknown), "{}", wrong(json!({ "temprature": 1.0 })));
        assert_eq!(wrong(json!({ "temperature": -1.0 })), "`temperature`: is -1; expected a number above 0");
        let inner = |table: Value| wrong(json!({ "inner": table }));
        assert!(inner(json!({ "steps": 0 })).contains("is 0; expected at least 1; with the head retrained"));
        assert_eq!(inner(json!({ "batch": 0 })), "`inner.batch`: is 0; expected at least 1");
        assert!(inner(json!({ "steps": "x" })).ends_with("expected a whole number from 0 to 4294967295"));
        assert!(inner(json!({ "stps": 1 })).starts_with("`inner.stps`: unknown field `stps`"));
    }
}
