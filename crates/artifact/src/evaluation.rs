//! What an attack did to its victim.

use crate::{Bounds, arrays};
use hemlock_head::Head;
use hemlock_store::{Artifact, PayloadReader, PayloadWriter, StoreError};
use ndarray::{Array2, ArrayView1};
use serde::{Deserialize, Serialize};

/// One quantity for every training set that the head was trained on; `None` where a pipeline has no such stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured<T> {
    /// Head trained on clean data.
    pub clean: T,
    /// The attacker's target itself, not retrained.
    pub target: T,
    /// Head retrained on clean data and poisoned features.
    pub features: Option<T>,
    /// Head retrained on clean data and the features of the 8-bit poisons.
    pub images: Option<T>,
    /// Control: as many clean images with a random wrong label.
    pub random_flips: T,
    /// Control: as many clean images, and wrong labels, that are chosen for their influence; `None` without a validation split.
    pub aligned_flips: Option<T>,
    /// Control: as many clean images a second time.
    pub duplicates: T,
}

impl<T> Measured<T> {
    /// The same quantities, mapped.
    pub fn map<U>(&self, f: impl Fn(&T) -> U) -> Measured<U> {
        let Ok(mapped) = self.try_map(|x| Ok::<U, std::convert::Infallible>(f(x)));
        mapped
    }

    /// The same quantities, mapped by what may fail.
    ///
    /// # Errors
    /// The first failure.
    pub fn try_map<U, E>(&self, f: impl Fn(&T) -> Result<U, E>) -> Result<Measured<U>, E> {
        Ok(Measured {
            clean: f(&self.clean)?,
            target: f(&self.target)?,
            features: self.features.as_ref().map(&f).transpose()?,
            images: self.images.as_ref().map(&f).transpose()?,
            random_flips: f(&self.random_flips)?,
            aligned_flips: self.aligned_flips.as_ref().map(&f).transpose()?,
            duplicates: f(&self.duplicates)?,
        })
    }

    /// The quantities under their names, those that there are.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &T)> {
        [
            ("clean", Some(&self.clean)),
            ("target", Some(&self.target)),
            ("features", self.features.as_ref()),
            ("images", self.images.as_ref()),
            ("random_flips", Some(&self.random_flips)),
            ("aligned_flips", self.aligned_flips.as_ref()),
            ("duplicates", Some(&self.duplicates)),
        ]
        .into_iter()
        .filter_map(|(name, x)| Some((name, x?)))
    }
}

/// Accuracy on the test split.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Share of the test split, in `[0, 1]`.
    pub overall: f64,
    /// The same within every class; `None` for a class without test images.
    pub per_class: Vec<Option<f64>>,
}

/// How visible poisons are beside the images they are made of, and how well they were matched. Pixels in `[0, 1]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Visibility {
    /// Largest change of a pixel, mean over poisons.
    pub linf: f64,
    /// Euclidean norm of the change, mean over poisons.
    pub l2: f64,
    /// Peak signal-to-noise ratio, dB, mean over poisons.
    pub psnr: f64,
    /// Structural similarity, 1 for an unchanged image, mean over poisons.
    pub ssim: f64,
    /// Share of the poisons whose features are outliers among clean ones: [`Fit::is_outlier`](crate::Fit::is_outlier).
    pub outliers: f64,
    /// Share of the poisons whose features lie outside of the set that they had to lie in: [`Poisons::outside`](crate::Poisons::outside).
    pub outside: f64,
    /// Median feature distance: [`Poisons::relative_distance`](crate::Poisons::relative_distance).
    pub relative_distance: f64,
}

/// How far one poison is from the image it is made of. Pixels in `[0, 1]`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Change {
    /// Largest change of a pixel.
    pub linf: f32,
    /// Euclidean norm of the change.
    pub l2: f32,
    /// Peak signal-to-noise ratio, dB.
    pub psnr: f32,
    /// Structural similarity, 1 for an unchanged image.
    pub ssim: f32,
}

impl Change {
    /// Names of the numbers, in the order of [`Change::numbers`].
    pub const NUMBERS: [&'static str; 4] = ["linf", "l2", "psnr", "ssim"];

    /// The numbers.
    #[must_use]
    pub fn numbers(&self) -> [f32; 4] {
        [self.linf, self.l2, self.psnr, self.ssim]
    }
}

/// What an attack did to its victim.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// How the poisons were made, such as `gradient-canceling + feature-matching`.
    pub attack: String,
    /// Whether every poison has the label of the training sample that it is made of.
    pub clean_label: bool,
    /// The share of the clean count that was asked for.
    pub eps_d: f64,
    /// What the attack optimised: see [`Poisons::objective`](crate::Poisons::objective).
    pub objective: f64,
    /// The lower bound of that: see [`PoisonFeatures::bound`](crate::PoisonFeatures::bound).
    pub bound: Option<f64>,
    /// Lower bounds of the share of poisons that the target takes.
    pub poisonability: Option<Bounds>,
    /// Number of poisons.
    pub poisons: u64,
    /// Test accuracy of every head.
    pub accuracy: Measured<Accuracy>,
    /// Mean cross-entropy of every head on the clean training split, in nats.
    pub clean_loss: Measured<f64>,
    /// An upper bound of that loss over all poisons, as many as these, that the attack's constraint lets through with any labels:
    /// [`hemlock_head::loss_ceiling`]. It holds for heads that are trained to the minimum.
    pub ceiling: f64,
    /// The heads that were measured.
    pub heads: Measured<Head>,
    /// Largest gradient norm of the mean objective at which a head's training stopped.
    pub gradient_norm: f64,
    /// Visibility of the images, where there are any.
    pub visibility: Option<Visibility>,
    /// Change of every poison's image, where there are any.
    pub changes: Vec<Change>,
}

#[derive(Serialize, Deserialize)]
struct Info {
    attack: String,
    clean_label: bool,
    eps_d: f64,
    objective: f64,
    bound: Option<f64>,
    poisonability: Option<Bounds>,
    poisons: u64,
    accuracy: Measured<Accuracy>,
    clean_loss: Measured<f64>,
    ceiling: f64,
    gradient_norm: f64,
    visibility: Option<Visibility>,
}

impl Artifact for Evaluation {
    const KIND: &'static str = "evaluation";

    fn write(&self, w: &mut PayloadWriter) -> Result<(), StoreError> {
        w.value(
            "info",
            &Info {
                attack: self.attack.clone(),
                clean_label: self.clean_label,
                eps_d: self.eps_d,
                objective: self.objective,
                bound: self.bound,
                poisonability: self.poisonability,
                poisons: self.poisons,
                accuracy: self.accuracy.clone(),
                clean_loss: self.clean_loss.clone(),
                ceiling: self.ceiling,
                gradient_norm: self.gradient_norm,
                visibility: self.visibility.clone(),
            },
        )?;
        for (name, head) in self.heads.named() {
            arrays::write(w, &format!("head.{name}"), &head.packed().to_owned())?;
        }
        let numbers = Array2::from_shape_fn((self.changes.len(), 4), |(i, j)| self.changes[i].numbers()[j]);
        arrays::write(w, "changes", &numbers)
    }

    fn read(r: &PayloadReader) -> Result<Self, StoreError> {
        let info: Info = r.value("info")?;
        let head = |name: &str| -> Result<Head, StoreError> {
            let name = format!("head.{name}");
            Head::from_packed(arrays::read(r, &name)?).map_err(|e| r.corrupt(&name, e.to_string()))
        };
        let heads = Measured {
            clean: head("clean")?,
            target: head("target")?,
            features: info.accuracy.features.as_ref().map(|_| head("features")).transpose()?,
            images: info.accuracy.images.as_ref().map(|_| head("images")).transpose()?,
            random_flips: head("random_flips")?,
            aligned_flips: info.accuracy.aligned_flips.as_ref().map(|_| head("aligned_flips")).transpose()?,
            duplicates: head("duplicates")?,
        };
        let numbers: Array2<f32> = arrays::read(r, "changes")?;
        if numbers.ncols() != 4 {
            return Err(r.corrupt("changes", format!("has {} columns; expected 4", numbers.ncols())));
        }
        let change = |row: ArrayView1<f32>| Change { linf: row[0], l2: row[1], psnr: row[2], ssim: row[3] };
        let changes = numbers.rows().into_iter().map(change).collect();
        Ok(Self {
            attack: info.attack,
            clean_label: info.clean_label,
            eps_d: info.eps_d,
            objective: info.objective,
            bound: info.bound,
            poisonability: info.poisonability,
            poisons: info.poisons,
            accuracy: info.accuracy,
            clean_loss: info.clean_loss,
            ceiling: info.ceiling,
            heads,
            gradient_norm: info.gradient_norm,
            visibility: info.visibility,
            changes,
        })
    }

    fn summary(&self) -> serde_json::Value {
        let mut summary = serde_json::json!({ "attack": self.attack });
        for (name, accuracy) in self.accuracy.named() {
            summary[name] = accuracy.overall.into();
        }
        summary
    }
}
