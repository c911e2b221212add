//! Poisons: as features, and as images.

use crate::{AttackSpec, arrays};
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
    /// Training image that every poison is made of.
    pub base_index: Vec<u32>,
    /// What they were made for, and where they may lie.
    pub spec: AttackSpec,
    /// Whether every label is that of the training sample that the poison is made of.
    pub clean_label: bool,
    /// The share of the clean count that was asked for; `m` is the nearest whole number.
    pub poison_fraction: f64,
    /// What the attack optimises, for these poisons, as the attack shows it: of Gradient Canceling, for one, the norm
    /// of the gradient that is left at the target, divided by that of the clean gradient there.
    pub objective: f64,
    /// Where the attack knows one, as Gradient Canceling does: a lower bound of the objective over all poisons that the
    /// constraint lets through with these labels; with any labels, where the attack chose them freely.
    pub bound: Option<f64>,
    /// Of labels that the attack chose freely: how much the search that began with free labels ended behind the best
    /// one, in the objective as it is shown; 0: it was the best. A lower bound of what the optimiser leaves.
    pub gap: Option<f64>,
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

/// Poisons as images, 8-bit, as a victim would get them.
#[derive(Debug, Clone, PartialEq)]
pub struct Poisons {
    /// `[m, 3, height, width]`; of free pixels, what an 8-bit image can show of them.
    pub images: Array4<u8>,
    /// Of an attack that may leave `[0, 1]`, which no image file can: the pixels that the victim trains on, in units
    /// where `[0, 1]` is what images have.
    pub pixels: Option<Array4<f32>>,
    /// Label of every poison.
    pub labels: Vec<u32>,
    /// Training image that every poison is made of.
    pub base_index: Vec<u32>,
    /// What they are to do, such as `gradient-canceling`.
    pub attack: String,
    /// How they were made, such as `feature-matching`.
    pub method: String,
    /// What the attack optimised: of poisoned features [`PoisonFeatures::objective`], of an attack on pixels the same
    /// at their features, before rounding.
    pub objective: f64,
    /// Whether every label is that of the training sample that the poison is made of.
    pub clean_label: bool,
    /// Whether they stand in the place of the training images that they are made of, rather than beside them.
    pub replaces: bool,
    /// The share of the clean count that was asked for; `m` is the nearest whole number.
    pub poison_fraction: f64,
    /// How well each was matched, and how usual its features are.
    pub fits: Vec<Fit>,
    /// The yardstick of feature distances: the median, over the clean training samples, of the distance to the nearest
    /// other one.
    pub clean_nearest: f64,
    /// Share of the poisoned features that count as outliers as those of images do; `None` where images were not made
    /// of features.
    pub outliers_of_features: Option<f64>,
    /// Of error-minimising noise: how its making ended.
    pub learner: Option<LearnerState>,
    /// Mean over the poisons of what feature matching minimises, the least so far, at some passes; otherwise empty.
    pub curve: Vec<CurvePoint>,
    /// The attack's objective at the features of the images, at some steps of their refinement, or of an attack on
    /// pixels; otherwise empty.
    pub refined: Vec<CurvePoint>,
}

/// How the making of error-minimising noise ended: what the learner that it was made against makes of the training
/// images with noise, after it has trained on them for the last time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LearnerState {
    /// Turns of training and noise that were taken.
    pub rounds: u32,
    /// Mean cross-entropy on the images with noise, in nats.
    pub loss: f64,
    /// Share of them that is mistaken.
    pub mistaken: f64,
    /// Why it ended.
    pub stopped: Stopped,
}

/// Why the making of noise ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stopped {
    /// Hardly an image with noise was mistaken.
    Learnt,
    /// The loss had not fallen for long.
    Stalled,
    /// There were no more rounds.
    Rounds,
}

/// How well one poison was matched, and how usual its features are among clean ones. Distances and norms are L2, in the
/// space that the head sees. Of an attack on pixels, the poisoned features are those before rounding.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Fit {
    /// From the features of the base image to the poisoned features.
    pub start_distance: f32,
    /// From the image's features, before rounding to 8 bits, to the poisoned features.
    pub distance_unrounded: f32,
    /// The same after rounding.
    pub distance: f32,
    /// From the 8-bit image's features to the set that the poisoned features had to lie in; with `knn`, to a near point
    /// of it.
    pub outside: f32,
    /// Norm of the 8-bit image's features.
    pub norm: f32,
    /// Robust z-score of that norm among the clean training samples'.
    pub norm_z: f32,
    /// From the 8-bit image's features to the nearest clean training sample.
    pub nearest: f32,
    /// Robust z-score of that distance among the clean training samples' distances to their nearest others.
    pub nearest_z: f32,
    /// Passes through the extractor, forward and backward, that its inversion took.
    pub passes: u32,
}

/// Robust z-score beyond which a value counts as an outlier (Iglewicz & Hoaglin, 1993).
pub const OUTLIER: f32 = 3.5;

impl Fit {
    /// Whether the norm is unusual among clean samples, or the nearest clean sample unusually far. (That it is near is
    /// no wonder: the image that a poison is made of is among them.)
    #[must_use]
    pub fn is_outlier(&self) -> bool {
        self.norm_z.abs() > OUTLIER || self.nearest_z > OUTLIER
    }

    /// The share of its norm by which an image may miss a set and still count as inside: rounding to 8 bits moves
    /// features as far.
    pub const TOUCH: f32 = 0.01;

    /// Names of the measured numbers, in the order of [`Fit::numbers`].
    pub const NUMBERS: [&'static str; 8] =
        ["start_distance", "distance_unrounded", "distance", "outside", "norm", "norm_z", "nearest", "nearest_z"];

    /// The measured numbers.
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
    /// Median over the poisons of the distance after rounding, in units of the clean samples' median distance to their
    /// nearest others.
    #[must_use]
    pub fn relative_distance(&self) -> f64 {
        let mut distances: Vec<f64> = self.fits.iter().map(|f| f64::from(f.distance) / self.clean_nearest).collect();
        median(&mut distances)
    }

    /// Share of the poisons whose features lie outside of the set that they had to lie in, by more than [`Fit::TOUCH`]
    /// of their norm.
    #[must_use]
    pub fn outside(&self) -> f64 {
        let out = |f: &&Fit| f.outside > Fit::TOUCH * f.norm;
        self.fits.iter().filter(out).count() as f64 / self.fits.len().max(1) as f64
    }

    /// Share of the poisons that are outliers.
    #[must_use]
    pub fn outliers(&self) -> f64 {
        self.fits.iter().filter(|f| f.is_outlier()).count() as f64 / self.fits.len().max(1) as f64
    }
}

/// The median, which sorts the values; NaN if there are none.
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
    free: bool,
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
            free: self.pixels.is_some(),
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
        arrays::write_vec(w, "labels", &self.labels)?;
        arrays::write_vec(w, "base_index", &self.base_index)?;
        for (i, name) in Fit::NUMBERS.into_iter().enumerate() {
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
            free,
            poison_fraction,
            clean_nearest,
            outliers_of_features,
            learner,
            curve,
            refined,
        } = r.value("info")?;
        let passes: Vec<u32> = arrays::read_vec(r, "passes")?;
        let columns = Fit::NUMBERS.map(|name| arrays::read_vec::<f32>(r, name));
        let mut fits: Vec<([f32; 8], u32)> = passes.into_iter().map(|p| ([0.0; 8], p)).collect();
        for (i, (column, name)) in columns.into_iter().zip(Fit::NUMBERS).enumerate() {
            let column = column?;
            if column.len() != fits.len() {
                return Err(r.corrupt(name, format!("has {} values; expected {}", column.len(), fits.len())));
            }
            fits.iter_mut().zip(column).for_each(|((numbers, _), value)| numbers[i] = value);
        }
        Ok(Self {
            images: arrays::read(r, "images")?,
            pixels: free.then(|| arrays::read(r, "pixels")).transpose()?,
            labels: arrays::read_vec(r, "labels")?,
            base_index: arrays::read_vec(r, "base_index")?,
            attack,
            method,
            objective,
            clean_label,
            replaces,
            poison_fraction,
            fits: fits.into_iter().map(|(numbers, passes)| Fit::from_numbers(numbers, passes)).collect(),
            clean_nearest,
            outliers_of_features,
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
        let fit = |norm_z, nearest_z| Fit { norm_z, nearest_z, distance: 3.0, ..Fit::default() };
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
            learner: None,
            curve: vec![],
            refined: vec![],
        };
        assert_eq!((poisons.outliers(), poisons.relative_distance()), (0.5, 1.5));
    }
}
