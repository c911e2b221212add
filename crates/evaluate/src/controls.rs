//! Controls: what as many samples do without an attack. Each is a file here, and a line of [`CONTROLS`].

mod duplicates;
mod influence_flips;
mod random_flips;
mod removed;

use hemlock_head::{Head, Samples};
use hemlock_stage::StageError;
use hemlock_threat::Sees;
use hemlock_victims::{TrainingSetChange, VictimData};
use ndarray::Axis;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// All controls, in the order in which victims are trained on them. A new one is a new line here.
static CONTROLS: [&Control; 4] =
    [&random_flips::CONTROL, &influence_flips::CONTROL, &duplicates::CONTROL, &removed::CONTROL];

/// A training set that differs from clean data as much as one with poisons, without an attack.
pub(crate) struct Control {
    /// The name in specs.
    pub(crate) name: &'static str,
    /// Which accuracy its outcome is, after "the accuracy".
    about: &'static str,
    /// How clean data is changed; `None` if there is no such control for these poisons.
    make: fn(&Basis) -> Result<Option<TrainingSetChange>, StageError>,
}

/// What controls are made of.
pub(crate) struct Basis<'a> {
    /// Clean data.
    pub(crate) data: &'a VictimData<'a>,
    /// A linear head that is trained on it.
    pub(crate) head: &'a Head,
    /// The number of poisons.
    pub(crate) count: usize,
    /// The samples that poisons replace; `None` if poisons are added.
    pub(crate) replaced: Option<&'a [u32]>,
    /// The splits whose error is raised.
    pub(crate) sees: Sees,
    /// Whether the victim trains on images rather than on features.
    pub(crate) reads_images: bool,
}

/// Clean samples by their numbers, with labels that may be others than theirs.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Relabelled {
    pub(crate) rows: Vec<usize>,
    pub(crate) labels: Vec<u32>,
}

impl Basis<'_> {
    fn clean(&self) -> Result<Samples<'_>, StageError> {
        Ok(self.data.features.train.samples(self.data.classes())?)
    }

    /// Adds samples to clean data, or puts them in their own place if poisons replace samples.
    fn change(&self, Relabelled { rows, labels }: Relabelled) -> TrainingSetChange {
        let images = self.data.images.filter(|_| self.reads_images);
        TrainingSetChange {
            features: self.data.features.train.features.view().select(Axis(0), &rows).mapv(f64::from),
            images: images.map(|dataset| dataset.train.pixels.view().select(Axis(0), &rows)),
            labels,
            removed: if self.replaced.is_some() {
                rows.into_iter().map(|row| row as u32).collect()
            } else {
                Vec::new()
            },
        }
    }
}

/// Which accuracy the outcome of a control is, after "the accuracy"; `None` if no control has that name.
#[must_use]
pub fn about(outcome: &str) -> Option<&'static str> {
    ControlRef::all().into_iter().find(|control| control.outcome() == outcome).map(|control| control.0.about)
}

/// A control of [`CONTROLS`], which specs write as its name.
#[derive(Clone, Copy)]
pub struct ControlRef(&'static Control);

impl ControlRef {
    /// All controls.
    pub(crate) fn all() -> Vec<Self> {
        CONTROLS.map(Self).to_vec()
    }

    /// The name in results and files.
    pub(crate) fn outcome(self) -> String {
        self.0.name.replace('-', "_")
    }

    /// How clean data is changed; `None` if there is no such control for these poisons.
    pub(crate) fn make(self, of: &Basis) -> Result<Option<TrainingSetChange>, StageError> {
        (self.0.make)(of)
    }
}

impl fmt::Debug for ControlRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

impl Serialize for ControlRef {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.0.name)
    }
}

impl<'de> Deserialize<'de> for ControlRef {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        let found = CONTROLS.into_iter().find(|control| control.name == name);
        found.map(Self).ok_or_else(|| {
            let known = CONTROLS.map(|control| format!("`{}`", control.name)).join(", ");
            de::Error::custom(format!("unknown variant `{name}`, expected one of {known}"))
        })
    }
}
