//! Values that are measured once per training set.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{borrow::Cow, fmt, marker::PhantomData};

/// What a training set is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Clean data: the reference.
    Clean,
    /// No training set: the target head itself, which is not retrained.
    Target,
    /// Clean data with poisons.
    Poisoned,
    /// A control: clean data with as many changed samples, but without an attack.
    Control,
    /// Clean data, or clean data with poisons, without the defence that the other outcomes have.
    Undefended,
}

/// A training set: its name in results and files, and its role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainingSet {
    /// The name, such as `random_flips`.
    pub name: String,
    role: Role,
}

impl Role {
    /// The role of the training set of that name.
    fn of(name: &str) -> Self {
        match name {
            TrainingSet::CLEAN => Self::Clean,
            TrainingSet::TARGET => Self::Target,
            TrainingSet::FEATURES | TrainingSet::IMAGES => Self::Poisoned,
            TrainingSet::UNDEFENDED | TrainingSet::UNDEFENDED_CLEAN => Self::Undefended,
            _ => Self::Control,
        }
    }
}

impl TrainingSet {
    /// Name of the training set of clean data.
    const CLEAN: &'static str = "clean";
    /// Name of the outcome of the target head itself.
    pub const TARGET: &'static str = "target";
    /// Name of the training set of clean data and poisoned features.
    pub const FEATURES: &'static str = "features";
    /// Name of the training set of clean data and poisons as images.
    pub const IMAGES: &'static str = "images";
    /// Name of the training set of clean data, without the defence.
    pub const UNDEFENDED_CLEAN: &'static str = "undefended_clean";
    /// Name of the training set of clean data and poisons in the form that victims get, without the defence.
    pub const UNDEFENDED: &'static str = "undefended";

    /// The training set of that name. The name decides its role: if it is none of the constants, the set is a control.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self { role: Role::of(&name), name }
    }

    /// What the training set is for.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The name with spaces instead of `_` and `-`.
    #[must_use]
    pub fn words(&self) -> String {
        self.name.replace(['_', '-'], " ")
    }
}

/// One value for every training set: clean data first, then the others in the order in which they were added.
///
/// As JSON it is an object with one field per training set.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured<T> {
    /// The value for clean data.
    pub clean: T,
    others: Vec<(TrainingSet, T)>,
}

impl<T: Default> Default for Measured<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Measured<T> {
    /// Starts with the value for clean data only.
    pub fn new(clean: T) -> Self {
        Self { clean, others: Vec::new() }
    }

    /// Returns the values with one more, as [`set`](Self::set) adds it.
    #[must_use]
    pub fn with(mut self, name: &str, value: T) -> Self {
        self.set(TrainingSet::new(name), value);
        self
    }

    /// Adds the value for a training set after the others. If there is one of that name, its value is replaced.
    pub fn set(&mut self, of: TrainingSet, value: T) {
        match self.others.iter_mut().find(|(set, _)| set.name == of.name) {
            Some((_, old)) => *old = value,
            None => self.others.push((of, value)),
        }
    }

    /// The value for the training set of that name, if there is one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&T> {
        if name == TrainingSet::CLEAN {
            return Some(&self.clean);
        }
        self.others().find(|(set, _)| set.name == name).map(|(_, value)| value)
    }

    /// Mutable access to the value for the training set of that name, if there is one.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut T> {
        if name == TrainingSet::CLEAN {
            return Some(&mut self.clean);
        }
        self.others.iter_mut().find(|(set, _)| set.name == name).map(|(_, value)| value)
    }

    /// The value for the target head itself, which is not retrained.
    #[must_use]
    pub fn target(&self) -> Option<&T> {
        self.get(TrainingSet::TARGET)
    }

    /// The value for clean data with poisoned features.
    #[must_use]
    pub fn features(&self) -> Option<&T> {
        self.get(TrainingSet::FEATURES)
    }

    /// The value for clean data with poisons as images.
    #[must_use]
    pub fn images(&self) -> Option<&T> {
        self.get(TrainingSet::IMAGES)
    }

    /// The value for the poisons in the form that victims get: as images, or as features if there are no images.
    #[must_use]
    pub fn poisoned(&self) -> Option<&T> {
        self.images().or_else(|| self.features())
    }

    /// All training sets except clean data, with their values.
    pub fn others(&self) -> impl Iterator<Item = (&TrainingSet, &T)> {
        self.others.iter().map(|(set, value)| (set, value))
    }

    /// The training sets that are controls, with their values.
    pub fn controls(&self) -> impl Iterator<Item = (&TrainingSet, &T)> {
        self.others().filter(|(set, _)| set.role == Role::Control)
    }

    /// The names of all training sets with their values, clean data first.
    pub fn named(&self) -> impl Iterator<Item = (&str, &T)> {
        std::iter::once((TrainingSet::CLEAN, &self.clean))
            .chain(self.others().map(|(set, value)| (set.name.as_str(), value)))
    }

    /// Applies `f` to every value.
    pub fn map<U>(&self, f: impl Fn(&T) -> U) -> Measured<U> {
        self.map_named(|_, value| f(value))
    }

    /// Applies `f` to every name and value.
    pub fn map_named<U>(&self, f: impl Fn(&str, &T) -> U) -> Measured<U> {
        let Ok(mapped) = self.try_map(|name, value| Ok::<U, std::convert::Infallible>(f(name, value)));
        mapped
    }

    /// Applies `f` to every name and value, and stops at the first error.
    ///
    /// # Errors
    /// The first error that `f` returns; clean data comes first.
    pub fn try_map<U, E>(&self, f: impl Fn(&str, &T) -> Result<U, E>) -> Result<Measured<U>, E> {
        let clean = f(TrainingSet::CLEAN, &self.clean)?;
        let others = self.others().map(|(set, value)| Ok((set.clone(), f(&set.name, value)?)));
        Ok(Measured { clean, others: others.collect::<Result<_, E>>()? })
    }
}

impl<T: Serialize> Serialize for Measured<T> {
    /// Human-readable formats get an object; others get the training sets with their roles, and the values.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if to.is_human_readable() { to.collect_map(self.named()) } else { (&self.clean, &self.others).serialize(to) }
    }
}

impl<T: JsonSchema> JsonSchema for Measured<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Measured_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        json_schema!({ "type": "object", "additionalProperties": value })
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Measured<T> {
    /// An object does not contain the roles of training sets. They follow from the names.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        if from.is_human_readable() {
            return from.deserialize_map(ByName(PhantomData));
        }
        let (clean, others) = Deserialize::deserialize(from)?;
        Ok(Self { clean, others })
    }
}

/// Reads an object with one field per training set, in the order of its fields.
struct ByName<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> de::Visitor<'de> for ByName<T> {
    type Value = Measured<T>;

    fn expecting(&self, to: &mut fmt::Formatter) -> fmt::Result {
        write!(to, "an object with a field `{}`, and one for every other training set", TrainingSet::CLEAN)
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut fields: A) -> Result<Measured<T>, A::Error> {
        let (mut clean, mut others) = (None, Vec::new());
        while let Some((name, value)) = fields.next_entry::<String, T>()? {
            match TrainingSet::new(name) {
                set if set.role == Role::Clean => clean = Some(value),
                set => others.push((set, value)),
            }
        }
        Ok(Measured { clean: clean.ok_or_else(|| de::Error::missing_field(TrainingSet::CLEAN))?, others })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_name_and_role() {
        let mut measured = Measured::new(0.8).with("target", 0.1).with("images", 0.5);
        measured.set(TrainingSet::new("random_flips"), 0.7);
        measured.set(TrainingSet::new("random_flips"), 0.75);
        assert_eq!((measured.get("clean"), measured.target(), measured.features()), (Some(&0.8), Some(&0.1), None));
        assert_eq!((measured.poisoned(), measured.get("duplicates")), (Some(&0.5), None));
        let controls: Vec<(String, f64)> = measured.controls().map(|(set, x)| (set.words(), *x)).collect();
        assert_eq!(controls, [("random flips".to_owned(), 0.75)]);
        let json = serde_json::to_string(&measured.map(|x| 100.0 * x)).unwrap();
        assert_eq!(json, r#"{"clean":80.0,"target":10.0,"images":50.0,"random_flips":75.0}"#);
        assert_eq!(serde_json::from_str::<Measured<f64>>(&json).unwrap(), measured.map(|x| 100.0 * x));
        let error = serde_json::from_str::<Measured<f64>>(r#"{"images":1.0}"#).unwrap_err();
        assert_eq!(error.to_string(), "missing field `clean` at line 1 column 14");
    }
}
