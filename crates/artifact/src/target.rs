//! The clean head and the target head.

use crate::arrays;
use hemlock_head::Head;
use hemlock_store::{Artifact, PayloadReader, PayloadWriter, StoreError};
use hemlock_threat::PoisonFractionBounds;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// The clean head, the target head, and the path between them.
#[derive(Debug, Clone)]
pub struct TargetParams {
    /// The head that is trained on the clean training set.
    pub clean: Head,
    /// The head that the attacker wants victims to learn.
    pub target: Head,
    /// The weight decay that victims train with.
    pub weight_decay: f64,
    /// Norm of the gradient of the mean objective when training of the clean head stopped.
    pub clean_gradient_norm: f64,
    /// The method that made the target head, such as `gradpc`.
    pub method: String,
    /// The constraint that the poison fraction bounds along the path assume, such as `ball`.
    pub constraint: String,
    /// One point per step of the ascent, beginning with the clean head. If the target head was calibrated, it is the
    /// last point.
    pub path: Vec<PathPoint>,
    /// The weaker strength that was taken if the one that was asked for could not be calibrated; otherwise `None`.
    pub stepped_back: Option<SteppedBack>,
}

/// A record that the target head is weaker than was asked for, because calibration would have undone a stronger one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SteppedBack {
    /// The parameter that sets the strength of the target head: `radius` or `share`.
    pub field: String,
    /// The value that was asked for.
    pub asked: f64,
    /// The value that was taken instead.
    pub used: f64,
}

impl SteppedBack {
    /// Reads the record from the summary of a target, if the summary has one.
    #[must_use]
    pub fn in_summary(summary: &serde_json::Value) -> Option<Self> {
        ["radius", "share"].into_iter().find_map(|field| {
            let said = |what: &str| summary[format!("{field}_{what}")].as_f64();
            Some(Self { field: field.to_owned(), asked: said("asked")?, used: said("used")? })
        })
    }
}

/// The file that holds [`TargetParams::stepped_back`]; absent if that is `None`.
const STEPPED_BACK: &str = "stepped_back";

/// Measurements of a head on the path from the clean head to the target head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PathPoint {
    /// Number of the step of the ascent; 0 is the clean head.
    pub step: u32,
    /// L2 distance from the clean head.
    pub radius: f64,
    /// Mean training loss, without weight decay.
    pub loss: f64,
    /// Norm of the gradient of the mean training loss, without weight decay.
    pub gradient_norm: f64,
    /// Lower bounds of the poison fraction that makes this head stationary: see
    /// [`hemlock_threat::PoisonFractionBounds`].
    pub poison_fraction_bound: Bounds,
    /// Accuracy on the training split, in `[0, 1]`.
    pub train_accuracy: f64,
    /// Accuracy on the test split, in `[0, 1]`; it is reported, and chooses nothing.
    pub test_accuracy: f64,
}

/// Lower bounds of the poison fraction that a head needs; infinite, and `null` in JSON, if no number of poisons is
/// enough.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Bounds {
    /// The bound from norms.
    #[serde(deserialize_with = "infinite")]
    #[schemars(with = "Option<f64>")]
    pub norm: f64,
    /// The bound from the support function of a poison's contribution, whose maximum a search approximates.
    #[serde(deserialize_with = "infinite")]
    #[schemars(with = "Option<f64>")]
    pub support: f64,
    /// The bound from an upper bound of that maximum: certified, but weaker.
    #[serde(deserialize_with = "infinite")]
    #[schemars(with = "Option<f64>")]
    pub certified: f64,
}

/// Reads a number that is infinite if it is `null` in JSON.
fn infinite<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    match from.is_human_readable() {
        true => Ok(Option::deserialize(from)?.unwrap_or(f64::INFINITY)),
        false => f64::deserialize(from),
    }
}

impl From<PoisonFractionBounds> for Bounds {
    fn from(PoisonFractionBounds { norm, support, certified }: PoisonFractionBounds) -> Self {
        Self { norm, support, certified }
    }
}

#[derive(Serialize, Deserialize)]
struct Info {
    method: String,
    constraint: String,
    weight_decay: f64,
    clean_gradient_norm: f64,
    path: Vec<PathPoint>,
}

impl Artifact for TargetParams {
    const KIND: &'static str = "target-params";

    fn write(&self, w: &mut PayloadWriter) -> Result<(), StoreError> {
        let info = Info {
            method: self.method.clone(),
            constraint: self.constraint.clone(),
            weight_decay: self.weight_decay,
            clean_gradient_norm: self.clean_gradient_norm,
            path: self.path.clone(),
        };
        w.value("info", &info)?;
        self.stepped_back.iter().try_for_each(|stepped_back| w.value(STEPPED_BACK, stepped_back))?;
        arrays::write(w, "clean", &self.clean.packed().to_owned())?;
        arrays::write(w, "target", &self.target.packed().to_owned())
    }

    fn read(r: &PayloadReader) -> Result<Self, StoreError> {
        let Info { method, constraint, weight_decay, clean_gradient_norm, path } = r.value("info")?;
        let head = |name: &str| -> Result<Head, StoreError> {
            Head::from_packed(arrays::read(r, name)?).map_err(|e| r.corrupt(name, e.to_string()))
        };
        let (clean, target) = (head("clean")?, head("target")?);
        let stepped_back = r.files().contains_key(STEPPED_BACK).then(|| r.value(STEPPED_BACK)).transpose()?;
        Ok(Self { clean, target, method, constraint, weight_decay, clean_gradient_norm, path, stepped_back })
    }

    fn summary(&self) -> serde_json::Value {
        let (first, last) = (self.path.first(), self.path.last());
        let mut summary = serde_json::json!({
            "clean_accuracy": first.map(|p| p.test_accuracy), "target_accuracy": last.map(|p| p.test_accuracy),
            "method": self.method, "radius": last.map(|p| p.radius), "clean_norm": self.clean.norm(),
            "constraint": self.constraint, "poison_fraction_bound": last.map(|p| p.poison_fraction_bound),
        });
        if let Some(SteppedBack { field, asked, used }) = &self.stepped_back {
            summary[format!("{field}_asked")] = (*asked).into();
            summary[format!("{field}_used")] = (*used).into();
        }
        summary
    }
}
