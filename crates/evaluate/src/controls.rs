//! Controls: training sets of the size of a poisoned one, without an attack. Each control is one file in this folder
//! and one line of controls.

mod duplicates;
mod influence_flips;
mod random_flips;
mod removed;

use hemlock_head::{Head, Samples};
use hemlock_stage::StageError;
use hemlock_threat::Sees;
use hemlock_victims::{TrainingSetChange, VictimData};
use ndarray::Axis;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::json;
use std::borrow::Cow;
use std::fmt;

/// All controls, in the order in which victims are trained on them.
static CONTROLS: [&Control; 4] =
    [&random_flips::CONTROL, &influence_flips::CONTROL, &duplicates::CONTROL, &removed::CONTROL];

/// A training set that differs from clean data in as many samples as a poisoned one, without an attack.
pub(crate) struct Control {
    /// The name in specs, such as `random-flips`.
    pub(crate) name: &'static str,
    /// A description of the accuracy of its outcome, which continues "the accuracy …".
    about: &'static str,
    /// Returns the change of clean data, or `None` if the control does not exist for these poisons.
    make: fn(&Basis) -> Result<Option<TrainingSetChange>, StageError>,
}

/// The data that controls are made from.
pub(crate) struct Basis<'a> {
    /// The clean data.
    pub(crate) data: &'a VictimData<'a>,
    /// A linear head that is trained on the clean data.
    pub(crate) head: &'a Head,
    /// The number of poisons.
    pub(crate) count: usize,
    /// The numbers of the clean samples that poisons replace; `None` if poisons are added.
    pub(crate) replaced: Option<&'a [u32]>,
    /// The splits whose error the attacks raise.
    pub(crate) sees: Sees,
    /// Whether the victim trains on images rather than on features.
    pub(crate) reads_images: bool,
}

/// Clean samples, given by their row numbers, with labels that may differ from their own.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Relabelled {
    pub(crate) rows: Vec<usize>,
    pub(crate) labels: Vec<u32>,
}

impl Basis<'_> {
    fn clean(&self) -> Result<Samples<'_>, StageError> {
        Ok(self.data.features.train.samples(self.data.classes())?)
    }

    /// Returns the change that adds these samples to clean data or, if poisons replace samples, that puts them in place
    /// of themselves.
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

/// Returns a description of the accuracy of a control's outcome, which continues "the accuracy …"; `None` if no control
/// has an outcome of that name.
#[must_use]
pub fn about(outcome: &str) -> Option<&'static str> {
    ControlRef::all().into_iter().find(|control| control.outcome() == outcome).map(|control| control.0.about)
}

/// One of the controls. Specs write it as its name.
#[derive(Clone, Copy)]
pub struct ControlRef(&'static Control);

impl ControlRef {
    /// All controls.
    pub(crate) fn all() -> Vec<Self> {
        CONTROLS.map(Self).to_vec()
    }

    /// The name of its outcome in results and files, such as `random_flips`.
    pub(crate) fn outcome(self) -> String {
        self.0.name.replace('-', "_")
    }

    /// Returns the change of clean data, or `None` if the control does not exist for these poisons.
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

impl JsonSchema for ControlRef {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ControlRef".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let described = |control: &Control| json!({ "const": control.name, "description": format!("The accuracy {}.", control.about) });
        json_schema!({ "oneOf": CONTROLS.map(described) })
    }
}
