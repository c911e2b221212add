//! Defences: what is done with a training set before a victim trains on it.

use crate::training::on_set;
use crate::{Train, TrainingSetChange, VictimData};
use hemlock_artifact::{Detection, Outcome};
use hemlock_defences::{DefenceSpec, metrics};
use hemlock_stage::StageError;
use ndarray::Axis;

/// Filters clean data with a change, and trains a victim on what is left. Samples that the change adds count as
/// poisons in what is detected. Behind a transformation, data and change are what it made of them
/// ([`DefendedData`](crate::DefendedData)), and nothing is removed.
///
/// # Errors
/// If the filter would remove a whole class or cannot be applied, or if training fails or is interrupted.
pub fn train_behind(
    defence: &DefenceSpec,
    victim: &dyn Train,
    what: &str,
    data: &VictimData,
    change: &TrainingSetChange,
) -> Result<(Outcome, Option<Detection>), StageError> {
    let Some(filter) = defence.filter() else { return Ok((victim.train(what, data, change)?, None)) };
    let bar = data.ctx.progress.start(&format!("{} on {what}", defence.kind.name()), 0, "steps");
    let filtered = on_set(data, change, |set| Ok(filter.apply(set)?))?;
    drop(bar);
    let n = data.features.train.labels.len();
    let clean = change.kept(n).unwrap_or_else(|| (0..n).collect());
    let is_poison: Vec<bool> = (0..filtered.removed.len()).map(|row| row >= clean.len()).collect();
    let found = metrics::detection(&filtered, &is_poison)?;
    let (of_clean, of_added) = filtered.removed.split_at(clean.len());
    let stays: Vec<usize> = (0..of_added.len()).filter(|row| !of_added[*row]).collect();
    let gone = clean.iter().zip(of_clean).filter(|(_, removed)| **removed).map(|(row, _)| *row as u32);
    let left = TrainingSetChange {
        features: change.features.select(Axis(0), &stays),
        images: None,
        labels: stays.iter().map(|row| change.labels[*row]).collect(),
        removed: change.removed.iter().copied().chain(gone).collect(),
    };
    let metrics::DetectionRates { recall, false_positives, auroc, removed } = found;
    Ok((victim.train(what, data, &left)?, Some(Detection { recall, false_positives, auroc, removed })))
}
