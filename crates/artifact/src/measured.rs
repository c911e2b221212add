//! One value for every training set that victims were trained on.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What a training set is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Clean data: the reference.
    Clean,
    /// No training set: the attacker's target itself.
    Target,
    /// Clean data and poisons.
    Poisoned,
    /// As many changed samples, without an attack.
    Control,
}

/// A training set: its name in results and files, and what it is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainingSet {
    /// The name, such as `random_flips`.
    pub name: String,
    /// What it is for.
    pub role: Role,
}

impl TrainingSet {
    /// The attacker's target itself.
    pub const TARGET: &'static str = "target";
    /// Clean data and poisoned features.
    pub const FEATURES: &'static str = "features";
    /// Clean data and poisons as images.
    pub const IMAGES: &'static str = "images";

    /// A training set of that name.
    pub fn new(name: impl Into<String>, role: Role) -> Self {
        Self { name: name.into(), role }
    }

    /// The name as words.
    #[must_use]
    pub fn words(&self) -> String {
        self.name.replace(['_', '-'], " ")
    }
}

/// One value for every training set: that of clean data, and those of the others, in order.
///
/// As JSON it is an object, a field per training set.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured<T> {
    /// The value of clean data.
    pub clean: T,
    others: Vec<(TrainingSet, T)>,
}

impl<T: Default> Default for Measured<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Measured<T> {
    /// The name of clean data.
    const CLEAN: &'static str = "clean";

    /// The value of clean data alone.
    pub fn new(clean: T) -> Self {
        Self { clean, others: Vec::new() }
    }

    /// The same with the value of another training set, behind the others or in the place of one of that name.
    #[must_use]
    pub fn with(mut self, name: &str, role: Role, value: T) -> Self {
        self.set(TrainingSet::new(name, role), value);
        self
    }

    /// Adds the value of a training set behind the others, or puts it in the place of one of that name.
    pub fn set(&mut self, of: TrainingSet, value: T) {
        match self.others.iter_mut().find(|(set, _)| set.name == of.name) {
            Some((_, old)) => *old = value,
            None => self.others.push((of, value)),
        }
    }

    /// The value of the training set of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&T> {
        if name == Self::CLEAN {
            return Some(&self.clean);
        }
        self.others().find(|(set, _)| set.name == name).map(|(_, value)| value)
    }

    /// The value of the training set of that name, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut T> {
        if name == Self::CLEAN {
            return Some(&mut self.clean);
        }
        self.others.iter_mut().find(|(set, _)| set.name == name).map(|(_, value)| value)
    }

    /// The value of the attacker's target itself, which is not retrained.
    #[must_use]
    pub fn target(&self) -> Option<&T> {
        self.get(TrainingSet::TARGET)
    }

    /// The value of clean data and poisoned features.
    #[must_use]
    pub fn features(&self) -> Option<&T> {
        self.get(TrainingSet::FEATURES)
    }

    /// The value of clean data and poisons as images.
    #[must_use]
    pub fn images(&self) -> Option<&T> {
        self.get(TrainingSet::IMAGES)
    }

    /// The value of the poisons as victims get them: as images, or as features if there are no images.
    #[must_use]
    pub fn poisoned(&self) -> Option<&T> {
        self.images().or_else(|| self.features())
    }

    /// All training sets but clean data, with their values.
    pub fn others(&self) -> impl Iterator<Item = (&TrainingSet, &T)> {
        self.others.iter().map(|(set, value)| (set, value))
    }

    /// The controls, with their values.
    pub fn controls(&self) -> impl Iterator<Item = (&TrainingSet, &T)> {
        self.others().filter(|(set, _)| set.role == Role::Control)
    }

    /// All training sets by name, clean data first, with their values.
    pub fn named(&self) -> impl Iterator<Item = (&str, &T)> {
        std::iter::once((Self::CLEAN, &self.clean)).chain(self.others().map(|(set, value)| (set.name.as_str(), value)))
    }

    /// The values of the same training sets, mapped.
    pub fn map<U>(&self, f: impl Fn(&T) -> U) -> Measured<U> {
        self.map_named(|_, value| f(value))
    }

    /// The values of the same training sets, mapped by a function that is called with the names, too.
    pub fn map_named<U>(&self, f: impl Fn(&str, &T) -> U) -> Measured<U> {
        let Ok(mapped) = self.try_map(|name, value| Ok::<U, std::convert::Infallible>(f(name, value)));
        mapped
    }

    /// The values of the same training sets, mapped by a function that may fail.
    ///
    /// # Errors
    /// The first failure.
    pub fn try_map<U, E>(&self, f: impl Fn(&str, &T) -> Result<U, E>) -> Result<Measured<U>, E> {
        let clean = f(Self::CLEAN, &self.clean)?;
        let others = self.others().map(|(set, value)| Ok((set.clone(), f(&set.name, value)?)));
        Ok(Measured { clean, others: others.collect::<Result<_, E>>()? })
    }
}

impl<T: Serialize> Serialize for Measured<T> {
    /// In formats for people an object, in others the training sets and their values.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if to.is_human_readable() { to.collect_map(self.named()) } else { (&self.clean, &self.others).serialize(to) }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Measured<T> {
    /// Reads what a format that is not for people holds: an object does not say what its training sets are for.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        if from.is_human_readable() {
            return Err(de::Error::custom("training sets are read from artifacts alone"));
        }
        let (clean, others) = Deserialize::deserialize(from)?;
        Ok(Self { clean, others })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_name_and_role() {
        let mut measured = Measured::new(0.8).with("target", Role::Target, 0.1).with("images", Role::Poisoned, 0.5);
        measured.set(TrainingSet::new("random_flips", Role::Control), 0.7);
        measured.set(TrainingSet::new("random_flips", Role::Control), 0.75);
        assert_eq!((measured.get("clean"), measured.target(), measured.features()), (Some(&0.8), Some(&0.1), None));
        assert_eq!((measured.poisoned(), measured.get("duplicates")), (Some(&0.5), None));
        let controls: Vec<(String, f64)> = measured.controls().map(|(set, x)| (set.words(), *x)).collect();
        assert_eq!(controls, [("random flips".to_owned(), 0.75)]);
        let json = serde_json::to_string(&measured.map(|x| 100.0 * x)).unwrap();
        assert_eq!(json, r#"{"clean":80.0,"target":10.0,"images":50.0,"random_flips":75.0}"#);
        assert!(serde_json::from_str::<Measured<f64>>(&json).is_err());
    }
}
