//! Heads: the clean one and the attacker's target.

use crate::arrays;
use hemlock_head::Head;
use hemlock_store::{Artifact, PayloadReader, PayloadWriter, StoreError};
use hemlock_threat::PoisonFractionBounds;
use serde::{Deserialize, Serialize};

/// The clean head, the target head, and the way from one to the other.
#[derive(Debug, Clone)]
pub struct TargetParams {
    /// Head trained on the clean training set.
    pub clean: Head,
    /// Head that the attacker wants the victim to end at.
    pub target: Head,
    /// Weight decay that the victim trains with.
    pub weight_decay: f64,
    /// Gradient norm of the mean objective at which the clean head's training stopped.
    pub clean_gradient_norm: f64,
    /// How the target was made, such as `gradpc`.
    pub method: String,
    /// The constraint that the bounds along the path are for, such as `ball`.
    pub constraint: String,
    /// One point per step of the ascent, the clean head first; then, where it was calibrated, the target.
    pub path: Vec<PathPoint>,
    /// Of a target as strong as was asked for: nothing.
    pub stepped_back: Option<SteppedBack>,
}

/// Of a target that is weaker than was asked for, since calibration leaves nothing of a stronger one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SteppedBack {
    /// The parameter that says how strong a target is: `radius`, or `share`.
    pub field: String,
    /// What it was.
    pub asked: f64,
    /// What was taken in its place.
    pub used: f64,
}

impl SteppedBack {
    /// What the summary of a target says of it.
    #[must_use]
    pub fn in_summary(summary: &serde_json::Value) -> Option<Self> {
        ["radius", "share"].into_iter().find_map(|field| {
            let said = |what: &str| summary[format!("{field}_{what}")].as_f64();
            Some(Self { field: field.to_owned(), asked: said("asked")?, used: said("used")? })
        })
    }
}

/// Name of the file that only a target has which was stepped back.
const STEPPED_BACK: &str = "stepped_back";

/// What a head on the way from clean to target is like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PathPoint {
    /// Step of the ascent; 0 is the clean head.
    pub step: u32,
    /// Distance from the clean head, L2.
    pub radius: f64,
    /// Mean training loss, without weight decay.
    pub loss: f64,
    /// Norm of the gradient of the mean training loss, without weight decay.
    pub gradient_norm: f64,
    /// Lower bounds of the share of poisons that makes the head stationary: see
    /// [`hemlock_threat::PoisonFractionBounds`].
    pub poison_fraction_bound: Bounds,
    /// Accuracy on the training split, in `[0, 1]`.
    pub train_accuracy: f64,
    /// Accuracy on the test split, in `[0, 1]`; for the reader, never for a choice.
    pub test_accuracy: f64,
}

/// Lower bounds of the share of poisons, of the clean count, that a head takes; infinite where none is enough.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// From norms.
    pub norm: f64,
    /// From the support function of a poison's contribution, as far as a search finds its maximum.
    pub support: f64,
    /// From an upper bound of that maximum: certified, and weaker.
    pub certified: f64,
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
