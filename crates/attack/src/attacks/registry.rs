//! Attacks by their names, whatever their types.

use super::{ATTACKS, Attack, Defaults, Given, Moves};
use crate::Objective;
use hemlock_artifact::{Aim, Features, TargetParams};
use hemlock_head::Samples;
use hemlock_stage::{Cancel, ParamError, StageError, read};
use hemlock_threat::Constraint;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value};
use std::{fmt, marker::PhantomData, ops::Deref};

/// Any attack, its type erased. A table holds the fields of all attacks, or more; an attack sees its own.
pub trait AnyAttack: Sync {
    /// [`Attack::NAME`].
    fn name(&self) -> &'static str;
    /// [`Attack::SHOWN`].
    fn shown(&self) -> &'static str;
    /// [`Attack::DEFAULTS`].
    fn defaults(&self) -> Defaults;
    /// [`Attack::ENDS`].
    fn ends(&self) -> bool;
    /// [`Attack::AIMS`].
    fn aims(&self) -> bool;
    /// [`Attack::moves`]; of a table that cannot be read nothing does.
    fn moves(&self, table: &Map<String, Value>) -> Option<Moves>;
    /// The attack's fields in a table, those that it lacks at their defaults.
    ///
    /// # Errors
    /// The first field that is of the wrong type.
    fn own(&self, table: &Map<String, Value>) -> Result<Map<String, Value>, ParamError>;
    /// [`Attack::resolved`] of those fields.
    ///
    /// # Errors
    /// The first field that is of the wrong type or out of range.
    fn resolved(&self, table: &Map<String, Value>) -> Result<Map<String, Value>, ParamError>;
    /// [`Attack::objective`].
    ///
    /// # Errors
    /// As [`AnyAttack::resolved`] and [`Attack::objective`].
    fn objective<'a>(
        &self,
        table: &Map<String, Value>,
        given: &Given<'a>,
    ) -> Result<Box<dyn Objective + 'a>, StageError>;
}

/// Erases an attack's type; zero-sized.
pub(super) struct Erased<A>(PhantomData<fn() -> A>);

impl<A: Attack> Erased<A> {
    pub(super) const NEW: Self = Self(PhantomData);

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

impl<A: Attack> AnyAttack for Erased<A> {
    fn name(&self) -> &'static str {
        A::NAME
    }
    fn shown(&self) -> &'static str {
        A::SHOWN
    }
    fn defaults(&self) -> Defaults {
        A::DEFAULTS
    }
    fn ends(&self) -> bool {
        A::ENDS
    }
    fn aims(&self) -> bool {
        A::AIMS
    }
    fn moves(&self, table: &Map<String, Value>) -> Option<Moves> {
        Self::typed(table).ok().and_then(|attack| attack.moves())
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
        given: &Given<'a>,
    ) -> Result<Box<dyn Objective + 'a>, StageError> {
        Self::typed(table)?.objective(given)
    }
}

/// The attack of that name.
#[must_use]
pub fn find(name: &str) -> Option<Known> {
    ATTACKS.iter().find(|attack| attack.name() == name).map(|attack| Known(*attack))
}

/// The set that the poisons of `aim` have to lie in, measured on the clean samples.
///
/// # Errors
/// The clean samples do not define that set, or leave it empty.
pub fn constraint(aim: &Aim, clean: Samples) -> Result<Constraint, ParamError> {
    Constraint::new(&aim.constraint, clean, aim.quantile, aim.neighbors as usize)
        .map_err(|e| ParamError::new("constraint", e.to_string()))
}

/// What `aim` means for a victim that trains on the clean samples of `features`. Where `cancel` asks for a stop, it
/// gives some value soon.
///
/// # Errors
/// An attack that is not known, and as [`Attack::objective`].
pub fn objective<'a>(
    aim: &Aim,
    features: &'a Features,
    target: &'a TargetParams,
    cancel: &'a Cancel,
) -> Result<Box<dyn Objective + 'a>, StageError> {
    let attack = find(&aim.attack)
        .ok_or_else(|| StageError::internal(format!("poisons were made by an unknown attack, `{}`", aim.attack)))?;
    let classes = features.classes.len();
    let (clean, validation) = (features.train.samples(classes)?, features.validation.samples(classes)?);
    attack.objective(&aim.parameters, &Given { clean, validation, target, seed: aim.seed, cancel })
}

/// An attack of [`ATTACKS`], which specs write as its name.
#[derive(Clone, Copy)]
pub struct Known(&'static dyn AnyAttack);

impl Deref for Known {
    type Target = dyn AnyAttack;
    fn deref(&self) -> &Self::Target {
        self.0
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Known {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Known {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        find(&name).ok_or_else(|| {
            let known: Vec<String> = ATTACKS.iter().map(|attack| format!("`{}`", attack.name())).collect();
            de::Error::custom(format!("unknown variant `{name}`, expected one of {}", known.join(", ")))
        })
    }
}
