//! The results of an evaluation: how accurate victims are after training on poisons and on controls.

use crate::{AttackId, Bounds, Detection, Features, LearnerState, Measured, TestGroups, arrays};
use hemlock_head::{Head, judge};
use hemlock_store::{Artifact, Manifest, PayloadReader, PayloadWriter, Store, StoreError};
use ndarray::{Array2, ArrayView1, ArrayView2};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Accuracy on the test split.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Share of the test images that are classified correctly, in `[0, 1]`.
    pub overall: f64,
    /// Share of the test images of each class that are classified correctly; `None` for a class without test images.
    pub per_class: Vec<Option<f64>>,
}

/// The predictions of a victim for every image of the test split, in the order of the split.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answers {
    /// Whether each image was classified correctly, `[n]`.
    pub right: Vec<bool>,
    /// The margin of each image, `[n]`: the score of its class minus the largest other score. Scores are logits, or
    /// votes if the victim is `knn`.
    pub margins: Vec<f32>,
}

/// The file that holds [`Answers::right`], with one row per training set. A row begins with the number of images,
/// followed by the bits in 32-bit words. The first image is the lowest bit.
const RIGHT: &str = "right";
/// The file that holds [`Answers::margins`], with one row per training set.
const MARGINS: &str = "margins";

impl Answers {
    /// Collects [judgements](hemlock_head::judgements), one per test image.
    #[must_use]
    pub fn of(judged: impl IntoIterator<Item = (bool, f64)>) -> Self {
        let (right, margins) = judged.into_iter().map(|(right, margin)| (right, margin as f32)).unzip();
        Self { right, margins }
    }

    /// Judges scores `[n, K]` by the classes of the images, `[n]`.
    #[must_use]
    pub fn of_scores(scores: ArrayView2<f64>, labels: &[u32]) -> Self {
        debug_assert_eq!(scores.nrows(), labels.len(), "every sample has scores");
        Self::of(scores.rows().into_iter().zip(labels).map(|(row, label)| judge(row, *label)))
    }

    /// Share of the images that are classified correctly, in `[0, 1]`; 0 if there are no images.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.right.iter().filter(|right| **right).count() as f64 / self.right.len().max(1) as f64
    }

    /// Reads [`Answers::right`] of an [`Evaluation`], without its margins. `sets` are the training sets of the
    /// evaluation.
    ///
    /// # Errors
    /// If the file is missing or damaged.
    pub fn read_right<T>(r: &PayloadReader, sets: &Measured<T>) -> Result<Measured<Vec<bool>>, StoreError> {
        let names: Vec<&str> = sets.named().map(|(name, _)| name).collect();
        let right: BTreeMap<&str, Vec<bool>> = names.iter().copied().zip(read_right(r, names.len())?).collect();
        Ok(sets.map_named(|name, _| right[name].clone()))
    }

    /// Reads the answers of `sets` training sets, in the order in which they were written.
    pub(crate) fn read(r: &PayloadReader, sets: usize) -> Result<Vec<Self>, StoreError> {
        let (right, margins): (_, Array2<f32>) = (read_right(r, sets)?, arrays::read(r, MARGINS)?);
        let n = right.first().map_or(0, Vec::len);
        if margins.dim() != (sets, n) {
            return Err(r.corrupt(MARGINS, format!("has shape {:?}; expected [{sets}, {n}]", margins.shape())));
        }
        Ok(right.into_iter().zip(margins.rows()).map(|(right, row)| Self { right, margins: row.to_vec() }).collect())
    }

    /// Writes the answers of several training sets. They share two files, because each file costs a flush of its own.
    pub(crate) fn write(w: &mut PayloadWriter, sets: &[&Self]) -> Result<(), StoreError> {
        let n = sets.first().map_or(0, |set| set.right.len());
        if sets.iter().any(|set| set.right.len() != n || set.margins.len() != n) {
            return Err(StoreError::Refused {
                what: "training sets were tested on different numbers of images".to_owned(),
            });
        }
        let count =
            u32::try_from(n).map_err(|_| StoreError::Refused { what: "more than 2^32 test images".to_owned() })?;
        let word = |bits: &[bool]| bits.iter().enumerate().map(|(i, bit)| u32::from(*bit) << i).sum::<u32>();
        let rows = sets.iter().flat_map(|set| std::iter::once(count).chain(set.right.chunks(32).map(word)));
        w.array(RIGHT, &[sets.len(), 1 + n.div_ceil(32)], &rows.collect::<Vec<u32>>())?;
        let margins = sets.iter().flat_map(|set| set.margins.iter().copied());
        w.array(MARGINS, &[sets.len(), n], &margins.collect::<Vec<f32>>())
    }
}

fn read_right(r: &PayloadReader, sets: usize) -> Result<Vec<Vec<bool>>, StoreError> {
    let rows: Array2<u32> = arrays::read(r, RIGHT)?;
    let n = rows.first().map_or(0, |n| *n as usize);
    let expected = (sets, 1 + n.div_ceil(32));
    if rows.dim() != expected || rows.column(0).iter().any(|count| *count as usize != n) {
        return Err(r.corrupt(RIGHT, format!("has shape {:?}; expected {expected:?} for {n} images", rows.dim())));
    }
    let bits = |row: ArrayView1<u32>| (0..n).map(|i| row[1 + i / 32] >> (i % 32) & 1 == 1).collect();
    Ok(rows.rows().into_iter().map(bits).collect())
}

/// The samples that victims were trained and tested on, as
/// [`FeatureSplit::source_index`](crate::FeatureSplit::source_index) numbers them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drawn {
    /// The test samples, in the order of the split.
    pub test: Vec<u32>,
    /// The training samples.
    pub train: Vec<u32>,
    /// The validation samples.
    pub validation: Vec<u32>,
}

impl Drawn {
    /// The file: the numbers of test, training and validation samples, then the indices of these samples in that order.
    const FILE: &'static str = "drawn";

    /// Returns the samples that features were computed of.
    #[must_use]
    pub fn of(features: &Features) -> Self {
        let [test, train, validation] =
            [&features.test, &features.train, &features.validation].map(|split| split.source_index.clone());
        Self { test, train, validation }
    }

    /// Reads the samples of an [`Evaluation`].
    ///
    /// # Errors
    /// If the file is missing or damaged.
    pub fn read(r: &PayloadReader) -> Result<Self, StoreError> {
        let all: Vec<u32> = arrays::read_vec(r, Self::FILE)?;
        let cut = all.split_first_chunk::<3>().and_then(|(counts, all)| {
            let [test, train, validation] = counts.map(|n| n as usize);
            let (first, rest) = all.split_at_checked(test)?;
            let (second, third) = rest.split_at_checked(train)?;
            (third.len() == validation).then(|| [first, second, third].map(<[u32]>::to_vec))
        });
        let Some([test, train, validation]) = cut else {
            return Err(r.corrupt(Self::FILE, "does not have as many numbers as it says"));
        };
        Ok(Self { test, train, validation })
    }

    fn write(&self, w: &mut PayloadWriter) -> Result<(), StoreError> {
        let Self { test, train, validation } = self;
        let counts = [test.len() as u32, train.len() as u32, validation.len() as u32];
        arrays::write_vec(w, Self::FILE, &[&counts[..], &test[..], &train[..], &validation[..]].concat())
    }
}

impl Accuracy {
    /// Computes accuracies from the predictions and the classes of the test images.
    #[must_use]
    pub fn of(answers: &Answers, labels: &[u32], classes: usize) -> Self {
        debug_assert_eq!(answers.right.len(), labels.len(), "every sample has an answer");
        let mut counts = vec![(0u32, 0u32); classes];
        for (answer, label) in answers.right.iter().zip(labels) {
            if let Some((right, all)) = counts.get_mut(*label as usize) {
                *right += u32::from(*answer);
                *all += 1;
            }
        }
        let right: u32 = counts.iter().map(|(right, _)| right).sum();
        let share = |right, all| (all > 0).then(|| f64::from(right) / f64::from(all));
        Self {
            overall: f64::from(right) / labels.len().max(1) as f64,
            per_class: counts.into_iter().map(|(right, all)| share(right, all)).collect(),
        }
    }

    /// Mean of the accuracies of the classes that have test images, in `[0, 1]`; 0 if there are none.
    #[must_use]
    pub fn mean_per_class(&self) -> f64 {
        let known = || self.per_class.iter().flatten();
        known().sum::<f64>() / known().count().max(1) as f64
    }
}

/// How many poisons the predictions of a victim withstand, whatever the poisons are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Certificate {
    /// What is counted, such as `samples added or removed`.
    pub unit: String,
    /// The share of the test images, in `[0, 1]`, that are classified correctly as long as at most so many are: for 0,
    /// 1 and so on. It is 0 beyond the end.
    pub accuracy: Vec<f64>,
}

/// A victim after its training on one training set.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Accuracy on the test split, at the end of training.
    pub accuracy: Accuracy,
    /// Predictions for every test image, at the end of training; empty after [`Evaluation::read_numbers`].
    pub answers: Answers,
    /// Share of the test images that are classified correctly after every epoch, in `[0, 1]`; empty if the victim has
    /// no epochs.
    pub epochs: Vec<f64>,
    /// Mean cross-entropy on the clean training split, in nats; `None` if the victim is not linear.
    pub clean_loss: Option<f64>,
    /// Norm of the gradient of the mean objective when training stopped; `None` if the victim is not linear.
    pub gradient_norm: Option<f64>,
    /// Whether training reached its stopping criterion.
    pub converged: bool,
    /// The weight decay that the victim chose; `None` if it was given.
    pub weight_decay: Option<f64>,
    /// How many poisons its predictions withstand; `None` if the victim certifies nothing.
    pub certificate: Option<Certificate>,
    /// The trained head; `None` if the victim is not linear.
    pub head: Option<Head>,
}

impl Outcome {
    /// The accuracy after the epoch that was best on the test split, in `[0, 1]`; the accuracy at the end if the victim
    /// has no epochs. An attack should be measured against it if victims may stop early. It does not estimate what
    /// early stopping would reach, because it chooses the epoch by test labels.
    #[must_use]
    pub fn best(&self) -> f64 {
        self.epochs.iter().copied().fold(self.accuracy.overall, f64::max)
    }

    pub(crate) fn info(&self) -> OutcomeInfo {
        let Self { accuracy, answers: _, epochs, clean_loss, gradient_norm, converged, .. } = self.clone();
        let (weight_decay, certificate, linear) = (self.weight_decay, self.certificate.clone(), self.head.is_some());
        OutcomeInfo { accuracy, epochs, clean_loss, gradient_norm, converged, weight_decay, certificate, linear }
    }

    pub(crate) fn write_head(&self, w: &mut PayloadWriter, name: &str) -> Result<(), StoreError> {
        self.head.iter().try_for_each(|head| arrays::write(w, &format!("head.{name}"), &head.packed().to_owned()))
    }

    fn numbers(info: OutcomeInfo) -> Self {
        let OutcomeInfo { accuracy, epochs, clean_loss, gradient_norm, converged, .. } = info;
        let OutcomeInfo { weight_decay, certificate, .. } = info;
        let (answers, head) = (Answers::default(), None);
        Self { accuracy, answers, epochs, clean_loss, gradient_norm, converged, weight_decay, certificate, head }
    }

    pub(crate) fn read(r: &PayloadReader, info: OutcomeInfo, answers: Answers, name: &str) -> Result<Self, StoreError> {
        let file = format!("head.{name}");
        let read = || Head::from_packed(arrays::read(r, &file)?).map_err(|e| r.corrupt(&file, e.to_string()));
        let head = info.linear.then(read).transpose()?;
        Ok(Self { answers, head, ..Self::numbers(info) })
    }
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct OutcomeInfo {
    accuracy: Accuracy,
    epochs: Vec<f64>,
    clean_loss: Option<f64>,
    gradient_norm: Option<f64>,
    converged: bool,
    weight_decay: Option<f64>,
    certificate: Option<Certificate>,
    linear: bool,
}

/// A victim: how it trains, and its accuracy after training on clean data.
#[derive(Debug, Clone)]
pub struct Victim {
    /// The name of its kind, such as `knn`.
    pub kind: String,
    /// The parameters of the stage that made it, as JSON; they say how it trains.
    pub params: String,
    /// The outcome of training on clean data.
    pub clean: Outcome,
}

#[derive(Serialize, Deserialize)]
struct VictimInfo {
    kind: String,
    params: String,
    clean: OutcomeInfo,
}

impl Artifact for Victim {
    const KIND: &'static str = "victim";

    fn write(&self, w: &mut PayloadWriter) -> Result<(), StoreError> {
        let info = VictimInfo { kind: self.kind.clone(), params: self.params.clone(), clean: self.clean.info() };
        w.value("info", &info)?;
        Answers::write(w, &[&self.clean.answers])?;
        self.clean.write_head(w, "clean")
    }

    fn read(r: &PayloadReader) -> Result<Self, StoreError> {
        let VictimInfo { kind, params, clean } = r.value("info")?;
        let answers = Answers::read(r, 1)?.pop().expect("as many were read as were asked for");
        Ok(Self { kind, params, clean: Outcome::read(r, clean, answers, "clean")? })
    }

    fn summary(&self) -> serde_json::Value {
        serde_json::json!({ "kind": self.kind, "clean": self.clean.accuracy.overall })
    }
}

/// How visible poisons are next to their base images, and how well they were matched. Pixels are in `[0, 1]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Visibility {
    /// Largest change of a pixel, mean over poisons.
    pub linf: f64,
    /// Euclidean norm of the change, mean over poisons.
    pub l2: f64,
    /// Peak signal-to-noise ratio in dB, mean over poisons.
    pub psnr: f64,
    /// Structural similarity, 1 for an unchanged image, mean over poisons.
    pub ssim: f64,
    /// Share of the poisons whose features have an unusual norm, or whose nearest clean sample is unusually far (a
    /// robust z-score above 3.5).
    pub outliers: f64,
    /// The same for the poisoned features that the images were made for. `None` if there are none.
    pub outliers_of_features: Option<f64>,
    /// Share of the poisons whose features lie outside the attack's constraint, by more than a hundredth of their norm.
    pub outside: f64,
    /// Median distance between the features of the images and the poisoned features (for attacks on pixels: the
    /// features before rounding), in units of the median distance of a clean sample to its nearest neighbour.
    pub relative_distance: f64,
}

/// How far one poison is from its base image. Pixels are in `[0, 1]`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PixelChange {
    /// Largest absolute change of a pixel.
    pub linf: f32,
    /// L2 norm of the change.
    pub l2: f32,
    /// Peak signal-to-noise ratio, in dB.
    pub psnr: f32,
    /// Structural similarity, 1 for an unchanged image.
    pub ssim: f32,
}

impl PixelChange {
    /// Names of the four measures, in the order of [`PixelChange::numbers`].
    pub const NUMBERS: [&'static str; 4] = ["linf", "l2", "psnr", "ssim"];

    /// The four measures as an array.
    #[must_use]
    pub fn numbers(&self) -> [f32; 4] {
        [self.linf, self.l2, self.psnr, self.ssim]
    }
}

/// What an attack did to its victim.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// The attack that made the poisons.
    pub attack: AttackId,
    /// The kind of the victim: [`Victim::kind`].
    pub victim: String,
    /// Whether every poison has the label of its base image.
    pub clean_label: bool,
    /// Whether poisons replace their base images in the training set; otherwise they are added to it.
    pub replaces: bool,
    /// The poison fraction that was asked for.
    pub poison_fraction: f64,
    /// The value that the attack optimised: see [`Poisons::objective`](crate::Poisons::objective).
    pub objective: f64,
    /// The objective at the base images, where an attack on pixels started; `None` for other attacks.
    pub initial_objective: Option<f64>,
    /// How the making of noise ended; `None` for other attacks.
    pub learner: Option<LearnerState>,
    /// A lower bound of the objective: see [`PoisonFeatures::bound`](crate::PoisonFeatures::bound).
    pub bound: Option<f64>,
    /// How much the search from adversarial labels missed, if there were several searches: see
    /// [`PoisonFeatures::gap`](crate::PoisonFeatures::gap).
    pub gap: Option<f64>,
    /// Lower bounds of the poison fraction that the target head needs.
    pub poison_fraction_bound: Option<Bounds>,
    /// Number of poisons.
    pub poisons: u64,
    /// The outcome of every training set.
    pub outcomes: Measured<Outcome>,
    /// The samples that the victims were trained and tested on.
    pub drawn: Drawn,
    /// An upper bound of the clean loss over all sets of [`poisons`](Self::poisons) poisons that the attack's
    /// constraint lets through, with any labels: [`hemlock_threat::loss_bound`]. It holds for linear heads that are
    /// trained to the minimum on all clean data and the poisons. It is `None` for other victims, for poisons that
    /// replace clean samples, and for victims with another extractor than the attacker's.
    pub loss_bound: Option<f64>,
    /// How visible the poisons are; `None` if the poisons are features only.
    pub visibility: Option<Visibility>,
    /// What a filter removed from clean data and poisons; `None` without a filter.
    pub detection: Option<Detection>,
    /// The change of every poison's image; empty if the poisons are features only.
    pub changes: Vec<PixelChange>,
    /// The groups of the test images, if the dataset has groups; `None` after [`Evaluation::read_numbers`].
    pub test_groups: Option<TestGroups>,
}

impl Evaluation {
    /// Reads the values that describe the evaluation as a whole, and leaves out those of single images, poisons and
    /// weights. This reads a few kilobytes instead of megabytes.
    ///
    /// # Errors
    /// If a file is missing or damaged.
    pub fn read_numbers(store: &Store, manifest: &Manifest) -> Result<Self, StoreError> {
        let info: Info = store.reader(manifest, Self::KIND).value("info")?;
        let outcomes = info.outcomes.map(|outcome| Outcome::numbers(outcome.clone()));
        Ok(Self::of(info, outcomes, Drawn::default(), Vec::new()))
    }

    fn of(info: Info, outcomes: Measured<Outcome>, drawn: Drawn, changes: Vec<PixelChange>) -> Self {
        Self {
            attack: info.attack,
            victim: info.victim,
            clean_label: info.clean_label,
            replaces: info.replaces,
            poison_fraction: info.poison_fraction,
            objective: info.objective,
            initial_objective: info.initial_objective,
            learner: info.learner,
            bound: info.bound,
            gap: info.gap,
            poison_fraction_bound: info.poison_fraction_bound,
            poisons: info.poisons,
            outcomes,
            drawn,
            loss_bound: info.loss_bound,
            visibility: info.visibility,
            detection: info.detection,
            changes,
            test_groups: None,
        }
    }

    /// The largest gradient norm at which the training of a linear victim stopped; `None` if no victim is linear.
    #[must_use]
    pub fn gradient_norm(&self) -> Option<f64> {
        self.outcomes.named().filter_map(|(_, outcome)| outcome.gradient_norm).max_by(f64::total_cmp)
    }
}

#[derive(Serialize, Deserialize)]
struct Info {
    attack: AttackId,
    victim: String,
    clean_label: bool,
    replaces: bool,
    poison_fraction: f64,
    objective: f64,
    initial_objective: Option<f64>,
    learner: Option<LearnerState>,
    bound: Option<f64>,
    gap: Option<f64>,
    poison_fraction_bound: Option<Bounds>,
    poisons: u64,
    outcomes: Measured<OutcomeInfo>,
    loss_bound: Option<f64>,
    visibility: Option<Visibility>,
    detection: Option<Detection>,
}

impl Artifact for Evaluation {
    const KIND: &'static str = "evaluation";

    fn write(&self, w: &mut PayloadWriter) -> Result<(), StoreError> {
        w.value(
            "info",
            &Info {
                attack: self.attack.clone(),
                victim: self.victim.clone(),
                clean_label: self.clean_label,
                replaces: self.replaces,
                poison_fraction: self.poison_fraction,
                objective: self.objective,
                initial_objective: self.initial_objective,
                learner: self.learner,
                bound: self.bound,
                gap: self.gap,
                poison_fraction_bound: self.poison_fraction_bound,
                poisons: self.poisons,
                outcomes: self.outcomes.map(Outcome::info),
                loss_bound: self.loss_bound,
                visibility: self.visibility.clone(),
                detection: self.detection,
            },
        )?;
        for (name, outcome) in self.outcomes.named() {
            outcome.write_head(w, name)?;
        }
        Answers::write(w, &self.outcomes.named().map(|(_, outcome)| &outcome.answers).collect::<Vec<_>>())?;
        self.drawn.write(w)?;
        TestGroups::write(self.test_groups.as_ref(), w)?;
        let numbers = Array2::from_shape_fn((self.changes.len(), 4), |(i, j)| self.changes[i].numbers()[j]);
        arrays::write(w, "changes", &numbers)
    }

    fn read(r: &PayloadReader) -> Result<Self, StoreError> {
        let info: Info = r.value("info")?;
        let names: Vec<&str> = info.outcomes.named().map(|(name, _)| name).collect();
        let answers: BTreeMap<&str, Answers> = names.iter().copied().zip(Answers::read(r, names.len())?).collect();
        let outcomes =
            info.outcomes.try_map(|name, outcome| Outcome::read(r, outcome.clone(), answers[name].clone(), name))?;
        let numbers: Array2<f32> = arrays::read(r, "changes")?;
        if numbers.ncols() != 4 {
            return Err(r.corrupt("changes", format!("has {} columns; expected 4", numbers.ncols())));
        }
        let change = |row: ArrayView1<f32>| PixelChange { linf: row[0], l2: row[1], psnr: row[2], ssim: row[3] };
        let changes = numbers.rows().into_iter().map(change).collect();
        let drawn = Drawn::read(r)?;
        let n = outcomes.clean.answers.right.len();
        if drawn.test.len() != n {
            return Err(r.corrupt(RIGHT, format!("is of {n} images; expected {}", drawn.test.len())));
        }
        Ok(Self { test_groups: TestGroups::read(r)?, ..Self::of(info, outcomes, drawn, changes) })
    }

    fn summary(&self) -> serde_json::Value {
        let mut summary = serde_json::json!({ "attack": self.attack.to_string(), "victim": self.victim });
        for (name, outcome) in self.outcomes.named() {
            summary[name] = outcome.accuracy.overall.into();
        }
        summary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_by_hand() {
        let answers = Answers::of([true, true, false, true].map(|right| (right, 0.0)));
        let accuracy = Accuracy::of(&answers, &[0, 1, 0, 0], 3);
        assert_eq!(answers.share(), accuracy.overall);
        assert_eq!(accuracy, Accuracy { overall: 0.75, per_class: vec![Some(2.0 / 3.0), Some(1.0), None] });
        assert_eq!(accuracy.mean_per_class(), (2.0 / 3.0 + 1.0) / 2.0);
        assert_eq!(Accuracy::default().mean_per_class(), 0.0);
    }

    #[test]
    fn bits_come_back_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        for n in [0, 1, 31, 32, 33, 100] {
            let of = |turn: u32| Answers::of((0..n).map(|i| ((i + turn).is_multiple_of(3), f64::from(i + turn))));
            let dir = dir.path().join(n.to_string());
            std::fs::create_dir(&dir).unwrap();
            let mut w = PayloadWriter::new(&dir, Evaluation::KIND);
            Answers::write(&mut w, &[&of(0), &of(1)]).unwrap();
            let drawn = Drawn { test: (0..n).collect(), train: vec![7, 9], validation: vec![8] };
            drawn.write(&mut w).unwrap();
            let r = PayloadReader::new(&dir, Evaluation::KIND, w.files().clone());
            assert_eq!(Answers::read(&r, 2).unwrap(), [of(0), of(1)]);
            let sets = Measured::new(()).with("images", ());
            assert_eq!(Answers::read_right(&r, &sets).unwrap().images(), Some(&of(1).right));
            assert_eq!(Drawn::read(&r).unwrap(), drawn);
            assert!(Answers::read(&r, 3).unwrap_err().to_string().contains("expected (3, "));
        }
        let mut w = PayloadWriter::new(dir.path(), Evaluation::KIND);
        w.array(RIGHT, &[1, 2], &[33u32, 0]).unwrap();
        arrays::write_vec(&mut w, Drawn::FILE, &[2u32, 0, 0, 5]).unwrap();
        let (one, two) = ([(true, 0.0)], [(true, 0.0), (false, 1.0)]);
        assert!(Answers::write(&mut w, &[&Answers::of(one), &Answers::of(two)]).is_err());
        let r = PayloadReader::new(dir.path(), Evaluation::KIND, w.files().clone());
        assert!(
            Answers::read(&r, 1).unwrap_err().to_string().contains("has shape (1, 2); expected (1, 3) for 33 images")
        );
        assert!(Drawn::read(&r).is_err());
    }
}
