//! Poisons, as features and as images.

use crate::{AttackSpec, arrays};
use hemlock_store::{Artifact, PayloadReader, PayloadWriter, StoreError};
use ndarray::{Array2, Array4};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Poisoned features: the features that the poisons are to have.
#[derive(Debug, Clone, PartialEq)]
pub struct PoisonFeatures {
    /// The features, `[m, d]`, normalised as the head sees them.
    pub features: Array2<f32>,
    /// The label of every poison, `[m]`.
    pub labels: Vec<u32>,
    /// The index of every poison's base image in the training split, `[m]`.
    pub base_index: Vec<u32>,
    /// The objective that they were made for, and their constraint.
    pub spec: AttackSpec,
    /// Whether every label is that of the poison's base image.
    pub clean_label: bool,
    /// The poison fraction that was asked for; `m` is the nearest whole number of poisons.
    pub poison_fraction: f64,
    /// The value of the attack's objective for these poisons, as the attack displays it. For Gradient Canceling it is
    /// the norm of the gradient that is left at the target head, divided by the norm of the clean gradient there.
    pub objective: f64,
    /// A lower bound of the objective over all poisons that the constraint lets through, if the attack knows one
    /// (Gradient Canceling does). It is a bound over all labels if the attack chose them, and otherwise for these
    /// labels.
    pub bound: Option<f64>,
    /// How far the search that started from adversarial labels ended behind the best search, in the displayed
    /// objective; 0 if it was the best. It is a lower bound of what the optimiser misses, and `None` if there was one
    /// search only.
    pub gap: Option<f64>,
    /// Why the attack stopped: `target`, `steps`, `stall` or `time`.
    pub stopped: String,
    /// The objective at some of the steps.
    pub curve: Vec<CurvePoint>,
}

/// One point of an optimiser's progress.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Number of the step or epoch.
    pub step: u32,
    /// The value of the objective there.
    pub objective: f64,
}

#[derive(Serialize, Deserialize)]
struct FeatureInfo {
    spec: AttackSpec,
    clean_label: bool,
    poison_fraction: f64,
    objective: f64,
    bound: Option<f64>,
    gap: Option<f64>,
    stopped: String,
    curve: Vec<CurvePoint>,
}

impl Artifact for PoisonFeatures {
    const KIND: &'static str = "poison-features";

    fn write(&self, w: &mut PayloadWriter) -> Result<(), StoreError> {
        let info = FeatureInfo {
            spec: self.spec.clone(),
            clean_label: self.clean_label,
            poison_fraction: self.poison_fraction,
            objective: self.objective,
            bound: self.bound,
            gap: self.gap,
            stopped: self.stopped.clone(),
            curve: self.curve.clone(),
        };
        w.value("info", &info)?;
        arrays::write(w, "features", &self.features)?;
        arrays::write_vec(w, "labels", &self.labels)?;
        arrays::write_vec(w, "base_index", &self.base_index)
    }

    fn read(r: &PayloadReader) -> Result<Self, StoreError> {
        let FeatureInfo { spec, clean_label, poison_fraction, objective, bound, gap, stopped, curve } =
            r.value("info")?;
        Ok(Self {
            features: arrays::read(r, "features")?,
            labels: arrays::read_vec(r, "labels")?,
            base_index: arrays::read_vec(r, "base_index")?,
            spec,
            clean_label,
            poison_fraction,
            objective,
            bound,
            gap,
            stopped,
            curve,
        })
    }

    fn summary(&self) -> serde_json::Value {
        serde_json::json!({
            "attack": self.spec.attack, "clean_label": self.clean_label, "poison_fraction": self.poison_fraction, "poisons": self.labels.len(),
            "objective": self.objective, "bound": self.bound, "gap": self.gap, "stopped": self.stopped,
        })
    }
}

/// Poisons as 8-bit images, in the form that a victim gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Poisons {
    /// The images, `[m, 3, height, width]`. If the attack did not clip pixels, these are the nearest 8-bit images.
    pub images: Array4<u8>,
    /// The pixels that the victim trains on, `[m, 3, height, width]`, if the attack did not clip them to `[0, 1]`, the
    /// range that image files can hold.
    pub pixels: Option<Array4<f32>>,
    /// The label of every poison, `[m]`.
    pub labels: Vec<u32>,
    /// The index of every poison's base image in the training split, `[m]`.
    pub base_index: Vec<u32>,
    /// The name of the attack, which says what it minimises, such as `gradient-canceling`.
    pub attack: String,
    /// The method that made the images, such as `feature-matching`.
    pub method: String,
    /// The value that the attack optimised. For images that were made from poisoned features it is
    /// [`PoisonFeatures::objective`]. For an attack on pixels it is the same quantity at the features of the images,
    /// before rounding.
    pub objective: f64,
    /// Whether every label is that of the poison's base image.
    pub clean_label: bool,
    /// Whether the poisons replace their base images in the training set; otherwise they are added to it.
    pub replaces: bool,
    /// The poison fraction that was asked for; `m` is the nearest whole number of poisons.
    pub poison_fraction: f64,
    /// How well each poison was matched, and how usual its features are, `[m]`.
    pub fits: Vec<PoisonFit>,
    /// The unit of relative feature distances: the distance from a clean training sample to its nearest other one,
    /// median over the samples.
    pub clean_nearest: f64,
    /// Share of the poisoned features that are outliers by the rule for images; `None` if the images were not made from
    /// poisoned features.
    pub outliers_of_features: Option<f64>,
    /// For an attack on pixels, as [`PoisonFeatures::gap`]; otherwise `None`.
    pub gap: Option<f64>,
    /// How the making of noise ended; `None` for other attacks.
    pub learner: Option<LearnerState>,
    /// The least value so far of the objective of feature matching, mean over the poisons, at some of the passes; empty
    /// for other methods.
    pub curve: Vec<CurvePoint>,
    /// The attack's objective at the features of the images, at some steps of their refinement or of an attack on
    /// pixels; otherwise empty.
    pub refined: Vec<CurvePoint>,
}

/// How the making of noise ended. The numbers describe the learner that the noise was made against, on the training
/// images with noise, after it was trained on them for the last time. The class that an image is compared with is the
/// one that the noise aims at: its own, or the designated wrong one of BAIT.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LearnerState {
    /// Number of rounds; each trains the learner and then changes the noise.
    pub rounds: u32,
    /// Mean cross-entropy on the images with noise, in nats.
    pub loss: f64,
    /// Share of these images that are assigned to another class, in `[0, 1]`.
    pub mistaken: f64,
    /// Why the rounds ended.
    pub stopped: Stopped,
}

/// Why the making of noise ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stopped {
    /// Hardly any image with noise was assigned to another class.
    Learnt,
    /// The loss had not fallen for many rounds.
    Stalled,
    /// The largest number of rounds was reached.
    Rounds,
}

/// How well one poison was matched, and how usual its features are among clean ones. Distances and norms are L2, in the
/// normalised feature space of the head. For an attack on pixels, the poisoned features are the features of the image
/// before rounding.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PoisonFit {
    /// Distance from the features of the base image to the poisoned features.
    pub start_distance: f32,
    /// Distance from the image's features before rounding to 8 bits to the poisoned features.
    pub distance_unrounded: f32,
    /// Distance from the 8-bit image's features to the poisoned features.
    pub distance: f32,
    /// Distance from the 8-bit image's features to the attack's constraint; for the constraint `knn`, to a near point
    /// of it.
    pub outside: f32,
    /// Norm of the 8-bit image's features.
    pub norm: f32,
    /// Robust z-score of that norm among the clean training samples'.
    pub norm_z: f32,
    /// Distance from the 8-bit image's features to the nearest clean training sample.
    pub nearest: f32,
    /// Robust z-score of that distance among the distances of clean training samples to their nearest other ones.
    pub nearest_z: f32,
    /// Number of passes through the extractor, forward and backward, that the inversion took.
    pub passes: u32,
}

/// Robust z-score beyond which a value counts as an outlier (Iglewicz & Hoaglin, 1993).
pub const OUTLIER: f32 = 3.5;

impl PoisonFit {
    /// Whether the norm is unusual among clean samples, or the nearest clean sample is unusually far away. A sample
    /// that is unusually near is no sign of an outlier, because the base image is among the clean samples.
    #[must_use]
    pub fn is_outlier(&self) -> bool {
        self.norm_z.abs() > OUTLIER || self.nearest_z > OUTLIER
    }

    /// The distance to a set, divided by the norm of the features, up to which features count as inside it. Rounding an
    /// image to 8 bits moves features as far.
    pub const TOUCH: f32 = 0.01;

    /// Names of the measures, in the order of [`PoisonFit::numbers`].
    pub const NUMBERS: [&'static str; 8] =
        ["start_distance", "distance_unrounded", "distance", "outside", "norm", "norm_z", "nearest", "nearest_z"];

    /// The measures as an array.
    #[must_use]
    pub fn numbers(&self) -> [f32; 8] {
        let Self { start_distance, distance_unrounded, distance, outside, norm, norm_z, nearest, nearest_z, passes: _ } =
            *self;
        [start_distance, distance_unrounded, distance, outside, norm, norm_z, nearest, nearest_z]
    }

    fn from_numbers(numbers: [f32; 8], passes: u32) -> Self {
        let [start_distance, distance_unrounded, distance, outside, norm, norm_z, nearest, nearest_z] = numbers;
        Self { start_distance, distance_unrounded, distance, outside, norm, norm_z, nearest, nearest_z, passes }
    }
}

impl Poisons {
    /// Distance of the 8-bit images' features to the poisoned features, median over the poisons, divided by
    /// [`clean_nearest`](Self::clean_nearest).
    #[must_use]
    pub fn relative_distance(&self) -> f64 {
        let mut distances: Vec<f64> = self.fits.iter().map(|f| f64::from(f.distance) / self.clean_nearest).collect();
        median(&mut distances)
    }

    /// Share of the poisons whose features lie outside the attack's constraint by more than [`PoisonFit::TOUCH`] of
    /// their norm, in `[0, 1]`.
    #[must_use]
    pub fn outside(&self) -> f64 {
        let out = |f: &&PoisonFit| f.outside > PoisonFit::TOUCH * f.norm;
        self.fits.iter().filter(out).count() as f64 / self.fits.len().max(1) as f64
    }

    /// Share of the poisons that are outliers, in `[0, 1]`.
    #[must_use]
    pub fn outliers(&self) -> f64 {
        self.fits.iter().filter(|f| f.is_outlier()).count() as f64 / self.fits.len().max(1) as f64
    }
}

/// Returns the median of the values, which are sorted in place; NaN if there are no values.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = |i: usize| values.get(i).copied().unwrap_or(f64::NAN);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { at(half) } else { 0.5 * (at(half.wrapping_sub(1)) + at(half)) }
}

#[derive(Serialize, Deserialize)]
struct PoisonInfo {
    attack: String,
    method: String,
    objective: f64,
    clean_label: bool,
    replaces: bool,
    unclipped: bool,
    poison_fraction: f64,
    clean_nearest: f64,
    outliers_of_features: Option<f64>,
    learner: Option<LearnerState>,
    curve: Vec<CurvePoint>,
    refined: Vec<CurvePoint>,
}

impl Artifact for Poisons {
    const KIND: &'static str = "poisons";

    fn write(&self, w: &mut PayloadWriter) -> Result<(), StoreError> {
        let info = PoisonInfo {
            attack: self.attack.clone(),
            method: self.method.clone(),
            objective: self.objective,
            clean_label: self.clean_label,
            replaces: self.replaces,
            unclipped: self.pixels.is_some(),
            poison_fraction: self.poison_fraction,
            clean_nearest: self.clean_nearest,
            outliers_of_features: self.outliers_of_features,
            learner: self.learner,
            curve: self.curve.clone(),
            refined: self.refined.clone(),
        };
        w.value("info", &info)?;
        arrays::write(w, "images", &self.images)?;
        self.pixels.iter().try_for_each(|pixels| arrays::write(w, "pixels", pixels))?;
        self.gap.iter().try_for_each(|gap| w.value("gap", gap))?;
        arrays::write_vec(w, "labels", &self.labels)?;
        arrays::write_vec(w, "base_index", &self.base_index)?;
        for (i, name) in PoisonFit::NUMBERS.into_iter().enumerate() {
            arrays::write_vec(w, name, &self.fits.iter().map(|f| f.numbers()[i]).collect::<Vec<_>>())?;
        }
        arrays::write_vec(w, "passes", &self.fits.iter().map(|f| f.passes).collect::<Vec<_>>())
    }

    fn read(r: &PayloadReader) -> Result<Self, StoreError> {
        let PoisonInfo {
            attack,
            method,
            objective,
            clean_label,
            replaces,
            unclipped,
            poison_fraction,
            clean_nearest,
            outliers_of_features,
            learner,
            curve,
            refined,
        } = r.value("info")?;
        let passes: Vec<u32> = arrays::read_vec(r, "passes")?;
        let columns = PoisonFit::NUMBERS.map(|name| arrays::read_vec::<f32>(r, name));
        let mut fits: Vec<([f32; 8], u32)> = passes.into_iter().map(|p| ([0.0; 8], p)).collect();
        for (i, (column, name)) in columns.into_iter().zip(PoisonFit::NUMBERS).enumerate() {
            let column = column?;
            if column.len() != fits.len() {
                return Err(r.corrupt(name, format!("has {} values; expected {}", column.len(), fits.len())));
            }
            fits.iter_mut().zip(column).for_each(|((numbers, _), value)| numbers[i] = value);
        }
        Ok(Self {
            images: arrays::read(r, "images")?,
            pixels: unclipped.then(|| arrays::read(r, "pixels")).transpose()?,
            labels: arrays::read_vec(r, "labels")?,
            base_index: arrays::read_vec(r, "base_index")?,
            attack,
            method,
            objective,
            clean_label,
            replaces,
            poison_fraction,
            fits: fits.into_iter().map(|(numbers, passes)| PoisonFit::from_numbers(numbers, passes)).collect(),
            clean_nearest,
            outliers_of_features,
            gap: r.files().contains_key("gap").then(|| r.value("gap")).transpose()?,
            learner,
            curve,
            refined,
        })
    }

    fn summary(&self) -> serde_json::Value {
        let passes = self.fits.iter().map(|f| f64::from(f.passes)).sum::<f64>() / self.fits.len().max(1) as f64;
        serde_json::json!({
            "attack": self.attack, "method": self.method, "poisons": self.labels.len(), "relative_distance": self.relative_distance(),
            "outliers": self.outliers(), "outside": self.outside(), "passes": passes, "learner": self.learner,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_by_hand() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 3.0, 2.0]), 2.5);
        assert!(median(&mut []).is_nan());
    }

    #[test]
    fn outliers_are_unusual_by_norm_or_far_from_clean_samples() {
        let fit = |norm_z, nearest_z| PoisonFit { norm_z, nearest_z, distance: 3.0, ..PoisonFit::default() };
        assert!(!fit(3.4, -3.4).is_outlier());
        assert!(fit(3.6, 0.0).is_outlier() && fit(-3.6, 0.0).is_outlier() && fit(0.0, 3.6).is_outlier());
        assert!(!fit(0.0, -3.6).is_outlier());
        let poisons = Poisons {
            images: Array4::zeros((2, 3, 1, 1)),
            pixels: None,
            labels: vec![0, 0],
            base_index: vec![0, 0],
            attack: String::new(),
            method: String::new(),
            objective: 0.0,
            clean_label: true,
            replaces: false,
            poison_fraction: 0.1,
            fits: vec![fit(0.0, 0.0), fit(9.0, 0.0)],
            clean_nearest: 2.0,
            outliers_of_features: None,
            gap: None,
            learner: None,
            curve: vec![],
            refined: vec![],
        };
        assert_eq!((poisons.outliers(), poisons.relative_distance()), (0.5, 1.5));
    }
}
