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
    /// The share of the clean count that was asked for; `m` is the nearest whole number.
    pub eps_d: f64,
    /// One point per recorded step.
    pub curve: Vec<ResidualPoint>,
}

/// How far the poisons cancel the clean gradient at the target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResidualPoint {
    /// Step of the optimiser.
    pub step: u32,
    /// Norm of the gradient that is left, divided by the norm without poisons: 0 makes the target stationary.
    pub residual: f64,
}

#[derive(Serialize, Deserialize)]
struct FeatureInfo {
    attack: String,
    eps_d: f64,
    curve: Vec<ResidualPoint>,
}

impl Artifact for PoisonFeatures {
    const KIND: &'static str = "poison-features";

    fn write(&self, w: &mut PayloadWriter) -> Result<(), StoreError> {
        w.value("info", &FeatureInfo { attack: self.attack.clone(), eps_d: self.eps_d, curve: self.curve.clone() })?;
        arrays::write(w, "features", &self.features)?;
        arrays::write_vec(w, "labels", &self.labels)?;
        arrays::write_vec(w, "base_index", &self.base_index)
    }

    fn read(r: &PayloadReader) -> Result<Self, StoreError> {
        let FeatureInfo { attack, eps_d, curve } = r.value("info")?;
        Ok(Self {
            features: arrays::read(r, "features")?,
            labels: arrays::read_vec(r, "labels")?,
            base_index: arrays::read_vec(r, "base_index")?,
            attack,
            eps_d,
            curve,
        })
    }

    fn summary(&self) -> serde_json::Value {
        serde_json::json!({
            "attack": self.attack, "eps_d": self.eps_d, "poisons": self.labels.len(),
            "residual": self.curve.last().map(|p| p.residual),
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
    /// One point per recorded step or epoch.
    pub curve: Vec<InversionPoint>,
}

/// How far an inversion is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InversionPoint {
    /// Step or epoch.
    pub step: u32,
    /// Mean loss at that step.
    pub loss: f64,
}

#[derive(Serialize, Deserialize)]
struct PoisonInfo {
    method: String,
    curve: Vec<InversionPoint>,
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
