//! Poisons: as features, and as images.

use crate::arrays;
use hemlock_store::{Artifact, PayloadReader, PayloadWriter, StoreError};
use ndarray::{Array2, Array4};
use serde::{Deserialize, Serialize};

/// Poisoned features: what the attacker would like the extractor to see.
#[derive(Debug, Clone, PartialEq)]
pub struct PoisonFeatures {
    /// `[m, d]`, in the space that the head sees.
    pub features: Array2<f32>,
    /// Label of every poison.
    pub labels: Vec<u32>,
    /// Training image that every poison started from.
    pub base_index: Vec<u32>,
    /// How they were made, such as `gradient-canceling`.
    pub attack: String,
    /// Whether every label is that of the training sample that the poison started from.
    pub clean_label: bool,
    /// The share of the clean count that was asked for; `m` is the nearest whole number.
    pub eps_d: f64,
    /// What the attack optimises, for these poisons. Of Gradient Canceling the norm of the gradient that is left at the target,
    /// divided by that of the clean gradient there: 0 makes the target stationary. Of the bilevel attack the smoothed error of the
    /// retrained head on the validation split.
    pub objective: f64,
    /// Of Gradient Canceling, a lower bound of the objective over all poisons of that number that the constraint lets through.
    pub bound: Option<f64>,
    /// Why the attack stopped: `target`, `steps`, `stall` or `time`.
    pub stopped: String,
    /// The objective at some steps.
    pub curve: Vec<CurvePoint>,
}

/// How far an optimiser was at some step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Step or epoch.
    pub step: u32,
    /// What it optimises.
    pub objective: f64,
}

#[derive(Serialize, Deserialize)]
struct FeatureInfo {
    attack: String,
    clean_label: bool,
    eps_d: f64,
    objective: f64,
    bound: Option<f64>,
    stopped: String,
    curve: Vec<CurvePoint>,
}

impl Artifact for PoisonFeatures {
    const KIND: &'static str = "poison-features";

    fn write(&self, w: &mut PayloadWriter) -> Result<(), StoreError> {
        let info = FeatureInfo {
            attack: self.attack.clone(),
            clean_label: self.clean_label,
            eps_d: self.eps_d,
            objective: self.objective,
            bound: self.bound,
            stopped: self.stopped.clone(),
            curve: self.curve.clone(),
        };
        w.value("info", &info)?;
        arrays::write(w, "features", &self.features)?;
        arrays::write_vec(w, "labels", &self.labels)?;
        arrays::write_vec(w, "base_index", &self.base_index)
    }

    fn read(r: &PayloadReader) -> Result<Self, StoreError> {
        let FeatureInfo { attack, clean_label, eps_d, objective, bound, stopped, curve } = r.value("info")?;
        Ok(Self {
            features: arrays::read(r, "features")?,
            labels: arrays::read_vec(r, "labels")?,
            base_index: arrays::read_vec(r, "base_index")?,
            attack,
            clean_label,
            eps_d,
            objective,
            bound,
            stopped,
            curve,
        })
    }

    fn summary(&self) -> serde_json::Value {
        serde_json::json!({
            "attack": self.attack, "clean_label": self.clean_label, "eps_d": self.eps_d, "poisons": self.labels.len(),
            "objective": self.objective, "bound": self.bound, "stopped": self.stopped,
        })
    }
}

/// Poisons as images, 8-bit, as a victim would get them.
#[derive(Debug, Clone, PartialEq)]
pub struct Poisons {
    /// `[m, 3, height, width]`.
    pub images: Array4<u8>,
    /// Label of every poison.
    pub labels: Vec<u32>,
    /// Training image that every poison started from.
    pub base_index: Vec<u32>,
    /// How they were made, such as `feature-matching`.
    pub method: String,
    /// Distance of every image's features, after rounding to 8 bits, to the poisoned features; L2, in the space that the head sees.
    pub distance: Vec<f32>,
    /// Mean loss of the inversion, at some steps or epochs.
    pub curve: Vec<CurvePoint>,
}

#[derive(Serialize, Deserialize)]
struct PoisonInfo {
    method: String,
    curve: Vec<CurvePoint>,
}

impl Artifact for Poisons {
    const KIND: &'static str = "poisons";

    fn write(&self, w: &mut PayloadWriter) -> Result<(), StoreError> {
        w.value("info", &PoisonInfo { method: self.method.clone(), curve: self.curve.clone() })?;
        arrays::write(w, "images", &self.images)?;
        arrays::write_vec(w, "labels", &self.labels)?;
        arrays::write_vec(w, "base_index", &self.base_index)?;
        arrays::write_vec(w, "distance", &self.distance)
    }

    fn read(r: &PayloadReader) -> Result<Self, StoreError> {
        let PoisonInfo { method, curve } = r.value("info")?;
        Ok(Self {
            images: arrays::read(r, "images")?,
            labels: arrays::read_vec(r, "labels")?,
            base_index: arrays::read_vec(r, "base_index")?,
            method,
            distance: arrays::read_vec(r, "distance")?,
            curve,
        })
    }

    fn summary(&self) -> serde_json::Value {
        let mean = self.distance.iter().sum::<f32>() / self.distance.len().max(1) as f32;
        serde_json::json!({ "method": self.method, "poisons": self.labels.len(), "mean_distance": mean })
    }
}
