//! Attacks by name, with their types erased.

use super::{ATTACKS, Attack, Defaults, ObjectiveInputs, Stochasticity};
use crate::Objective;
use hemlock_artifact::{AttackSpec, Features, TargetParams};
use hemlock_head::{MakePasses, Samples};
use hemlock_stage::{Cancel, ParamError, StageError, read, spec_schema};
use hemlock_threat::Constraint;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value, json};
use std::{borrow::Cow, fmt, marker::PhantomData, ops::Deref, sync::OnceLock};

/// An attack with its type erased. A table may hold the fields of all attacks and further ones; each attack reads its
/// own.
pub trait AnyAttack: Sync {
    /// See [`Attack::NAME`].
    fn name(&self) -> &'static str;
    /// See [`Attack::VALUE_LABEL`].
    fn value_label(&self) -> &'static str;
    /// See [`Attack::DEFAULTS`].
    fn defaults(&self) -> Defaults;
    /// See [`Attack::HAS_ZERO_MINIMUM`].
    fn has_zero_minimum(&self) -> bool;
    /// See [`Attack::USES_TARGET`].
    fn uses_target(&self) -> bool;
    /// See [`Attack::stochasticity`]. Returns `None` if the table cannot be read.
    fn stochasticity(&self, table: &Map<String, Value>) -> Option<Stochasticity>;
    /// The JSON Schema of the attack's fields.
    fn schema(&self) -> Value;
    /// The attack's fields of a table, with defaults for those that are missing.
    ///
    /// # Errors
    /// Returns an error that names the first field of the wrong type.
    fn own(&self, table: &Map<String, Value>) -> Result<Map<String, Value>, ParamError>;
    /// [`Attack::resolved`] for the attack's fields of a table, after [`Attack::check`].
    ///
    /// # Errors
    /// Returns an error that names the first field of the wrong type or out of its range.
    fn resolved(&self, table: &Map<String, Value>) -> Result<Map<String, Value>, ParamError>;
    /// [`Attack::objective`] for the attack's fields of a table.
    ///
    /// # Errors
    /// Returns an error if a field has the wrong type, and the errors of [`Attack::objective`].
    fn objective<'a>(
        &self,
        table: &Map<String, Value>,
        given: &ObjectiveInputs<'a>,
    ) -> Result<Box<dyn Objective + 'a>, StageError>;
}

/// A zero-sized value that implements [`AnyAttack`] for an attack's type.
pub struct ErasedAttack<A>(PhantomData<fn() -> A>);

impl<A: Attack> ErasedAttack<A> {
    /// The value itself, as a list of attacks holds it.
    pub const NEW: Self = Self(PhantomData);

    fn typed(table: &Map<String, Value>) -> Result<A, ParamError> {
        read(&Value::Object(table.clone()))
    }

    fn table(attack: &A) -> Result<Map<String, Value>, ParamError> {
        match serde_json::to_value(attack) {
            Ok(Value::Object(table)) => Ok(table),
            Ok(other) => Err(ParamError::new("attack", format!("has the parameters {other}; expected a table"))),
            Err(e) => Err(ParamError::new("attack", e.to_string())),
        }
    }
}

impl<A: Attack> AnyAttack for ErasedAttack<A> {
    fn name(&self) -> &'static str {
        A::NAME
    }
    fn value_label(&self) -> &'static str {
        A::VALUE_LABEL
    }
    fn defaults(&self) -> Defaults {
        A::DEFAULTS
    }
    fn has_zero_minimum(&self) -> bool {
        A::HAS_ZERO_MINIMUM
    }
    fn uses_target(&self) -> bool {
        A::USES_TARGET
    }
    fn stochasticity(&self, table: &Map<String, Value>) -> Option<Stochasticity> {
        Self::typed(table).ok().and_then(|attack| attack.stochasticity())
    }
    fn schema(&self) -> Value {
        spec_schema::<A>()
    }
    fn own(&self, table: &Map<String, Value>) -> Result<Map<String, Value>, ParamError> {
        Self::table(&Self::typed(table)?)
    }
    fn resolved(&self, table: &Map<String, Value>) -> Result<Map<String, Value>, ParamError> {
        let attack = Self::typed(table)?;
        attack.check()?;
        Self::table(&attack.resolved())
    }
    fn objective<'a>(
        &self,
        table: &Map<String, Value>,
        given: &ObjectiveInputs<'a>,
    ) -> Result<Box<dyn Objective + 'a>, StageError> {
        Self::typed(table)?.objective(given)
    }
}

/// Attacks of other crates.
static REGISTERED: OnceLock<Vec<&'static dyn AnyAttack>> = OnceLock::new();

/// Adds attacks of other crates. Call it before anything reads a spec. Returns false, and adds nothing, if it was
/// called before.
pub fn register(attacks: &[&'static dyn AnyAttack]) -> bool {
    REGISTERED.set(attacks.to_vec()).is_ok()
}

/// All attacks: the attacks of this crate, and those that were [registered](register).
pub fn all() -> impl Iterator<Item = &'static dyn AnyAttack> {
    ATTACKS.iter().chain(REGISTERED.get().into_iter().flatten()).copied()
}

/// The attack with the given name, if there is one.
#[must_use]
pub fn find(name: &str) -> Option<AttackRef> {
    all().find(|attack| attack.name() == name).map(AttackRef)
}

/// The constraint of `spec`, measured on the clean samples.
///
/// # Errors
/// Returns an error if the clean samples do not define the constraint, or if it is empty.
pub fn constraint(spec: &AttackSpec, clean: Samples) -> Result<Constraint, ParamError> {
    Constraint::new(&spec.constraint, clean, spec.quantile, spec.neighbors as usize)
        .map_err(|e| ParamError::new("constraint", e.to_string()))
}

/// The objective of `spec` against a victim that trains on the clean samples of `features`. After `cancel` requests a
/// stop, evaluations return soon, with meaningless values. `passes` makes passes over the clean training samples of
/// `features` and poisons.
///
/// # Errors
/// Returns an error if the attack is unknown, and the errors of [`Attack::objective`].
pub fn objective<'a>(
    spec: &AttackSpec,
    features: &'a Features,
    target: &'a TargetParams,
    cancel: &'a Cancel,
    passes: &'a dyn MakePasses,
) -> Result<Box<dyn Objective + 'a>, StageError> {
    let attack = find(&spec.attack)
        .ok_or_else(|| StageError::internal(format!("poisons were made by an unknown attack, `{}`", spec.attack)))?;
    let classes = features.classes.len();
    let (clean, validation) = (features.train.samples(classes)?, features.validation.samples(classes)?);
    attack.objective(&spec.parameters, &ObjectiveInputs { clean, validation, target, seed: spec.seed, cancel, passes })
}

/// One of the attacks that [`all`] lists. Specs refer to it by its name.
#[derive(Clone, Copy)]
pub struct AttackRef(&'static dyn AnyAttack);

impl Deref for AttackRef {
    type Target = dyn AnyAttack;
    fn deref(&self) -> &Self::Target {
        self.0
    }
}

impl fmt::Debug for AttackRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for AttackRef {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for AttackRef {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        find(&name).ok_or_else(|| {
            let known: Vec<String> = all().map(|attack| format!("`{}`", attack.name())).collect();
            de::Error::custom(format!("unknown variant `{name}`, expected one of {}", known.join(", ")))
        })
    }
}

impl JsonSchema for AttackRef {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "AttackRef".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let attacks = all().map(|attack| {
            let schema = attack.schema();
            let about = schema.get("description").and_then(Value::as_str).unwrap_or_default();
            let Defaults { start, base, label_update_interval, steps, step, unconstrained_step } = attack.defaults();
            let defaults = format!(
                "Defaults in `[poison-features]`: `start = {}`, `base = {}`, `label_update_interval = \
                 {label_update_interval}`, `steps = {steps}`, `step = {step}` ({unconstrained_step} without a constraint).",
                json!(start),
                json!(base)
            );
            json!({ "const": attack.name(), "description": format!("{about} {defaults}") })
        });
        json_schema!({ "oneOf": attacks.collect::<Vec<_>>() })
    }
}
