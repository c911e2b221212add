//! Functions that read a quantity from a row. Accuracies are test accuracies, and drops are differences of these:
//! fractions, not per cent.

use hemlock_artifact::TrainingSet;
use hemlock_pipeline::ResultRow;

/// Accuracy of the victim that is trained on clean data alone.
pub fn clean(r: &ResultRow) -> Option<f64> {
    Some(r.accuracy.clean)
}
/// Accuracy of the target head.
pub fn target(r: &ResultRow) -> Option<f64> {
    r.accuracy.target().copied()
}
/// Accuracy after retraining on poisoned features.
pub fn features(r: &ResultRow) -> Option<f64> {
    r.accuracy.features().copied()
}
/// Accuracy after retraining on poisoned images.
pub fn images(r: &ResultRow) -> Option<f64> {
    r.accuracy.images().copied()
}
/// Accuracy with influence flips (a control).
pub fn influence_flips(r: &ResultRow) -> Option<f64> {
    r.accuracy.get("influence_flips").copied()
}
/// Accuracy without the poisons' base images (a control).
pub fn removed(r: &ResultRow) -> Option<f64> {
    r.accuracy.get("removed").copied()
}
/// Accuracy after the best epoch of training on poisoned images; `None` if the victim has no epochs. Only the
/// answers after the last epoch are known, so the error by test images is theirs.
pub fn best_epoch(r: &ResultRow) -> Option<f64> {
    r.best.as_ref()?.images().copied()
}
/// The drop from the best epoch on clean data to the best epoch on poisoned images.
pub fn drop_of_best_epochs(r: &ResultRow) -> Option<f64> {
    Some(r.best.as_ref()?.clean - best_epoch(r)?)
}
/// The drop with poisoned images or, if there are none, with poisoned features.
pub fn drop(r: &ResultRow) -> Option<f64> {
    drop_on_images(r).or_else(|| drop_on_features(r))
}
/// The drop with poisoned features.
pub fn drop_on_features(r: &ResultRow) -> Option<f64> {
    Some(clean(r)? - features(r)?)
}
/// The drop without the poisons' base images (a control).
pub fn drop_of_removed(r: &ResultRow) -> Option<f64> {
    Some(clean(r)? - removed(r)?)
}
/// The drop with poisoned images.
pub fn drop_on_images(r: &ResultRow) -> Option<f64> {
    Some(clean(r)? - images(r)?)
}
/// How much larger poisoned features make the loss on clean training data, as a share of the clean victim's. `None`
/// if the victim has no such loss.
pub fn rise_on_features(r: &ResultRow) -> Option<f64> {
    let loss = r.clean_loss.as_ref()?;
    Some(loss.features()? / loss.clean - 1.0)
}
/// [`rise_on_features`] with poisoned images or, if there are none, with poisoned features.
pub fn rise(r: &ResultRow) -> Option<f64> {
    let loss = r.clean_loss.as_ref()?;
    Some(loss.poisoned()? / loss.clean - 1.0)
}
/// The drop as a share of what the clean victim has above chance: `drop / (clean - 1/K)` with `K` classes. `None`
/// if the clean victim is not better than chance.
pub fn share_above_chance(r: &ResultRow) -> Option<f64> {
    let classes = Some(r.per_class.clean.len()).filter(|k| *k > 0)?;
    let above = clean(r)? - 1.0 / classes as f64;
    (above > 0.0).then_some(drop(r)? / above)
}
/// The drop with influence flips (a control).
pub fn drop_of_flips(r: &ResultRow) -> Option<f64> {
    Some(clean(r)? - influence_flips(r)?)
}
/// Accuracy without the defence, on clean data.
pub fn undefended_clean(r: &ResultRow) -> Option<f64> {
    r.accuracy.get(TrainingSet::UNDEFENDED_CLEAN).copied()
}
/// Accuracy without the defence, on the same poisons.
pub fn undefended(r: &ResultRow) -> Option<f64> {
    r.accuracy.get(TrainingSet::UNDEFENDED).copied()
}
/// The accuracy on clean data that the defence costs.
pub fn cost(r: &ResultRow) -> Option<f64> {
    Some(undefended_clean(r)? - clean(r)?)
}
/// The accuracy under the attack that the defence brings back.
pub fn regained(r: &ResultRow) -> Option<f64> {
    Some(r.accuracy.poisoned()? - undefended(r)?)
}
/// The share of the attack's damage that the defence undoes: what it brings back, divided by what the attack costs
/// the victim without it. `None` if it costs nothing.
pub fn recovery(r: &ResultRow) -> Option<f64> {
    let damage = undefended_clean(r)? - undefended(r)?;
    (damage > 0.0).then_some(regained(r)? / damage)
}
/// Share of the poisons that a filter removes.
pub fn recall(r: &ResultRow) -> Option<f64> {
    r.detection?.recall
}
/// Share of the clean samples that a filter removes.
pub fn false_positives(r: &ResultRow) -> Option<f64> {
    r.detection?.false_positives
}
/// Probability that a filter finds a poison more suspicious than a clean sample.
pub fn auroc(r: &ResultRow) -> Option<f64> {
    r.detection?.auroc
}
/// The value of the attack's objective at its end.
pub fn objective(r: &ResultRow) -> Option<f64> {
    Some(r.objective)
}
/// Peak signal-to-noise ratio against the base images, in dB.
pub fn psnr(r: &ResultRow) -> Option<f64> {
    r.visibility.as_ref().map(|v| v.psnr)
}
/// Structural similarity (SSIM) to the base images.
pub fn ssim(r: &ResultRow) -> Option<f64> {
    r.visibility.as_ref().map(|v| v.ssim)
}
/// Largest change of a pixel, in grey levels of 255.
pub fn linf(r: &ResultRow) -> Option<f64> {
    r.visibility.as_ref().map(|v| 255.0 * v.linf)
}
/// Share of outliers among the poisons.
pub fn outliers(r: &ResultRow) -> Option<f64> {
    r.visibility.as_ref().map(|v| v.outliers)
}
/// Share of outliers among the poisoned features that images were made from.
pub fn outliers_of_features(r: &ResultRow) -> Option<f64> {
    r.visibility.as_ref()?.outliers_of_features
}
/// Time of the attack's stages, in seconds.
pub fn seconds(r: &ResultRow) -> Option<f64> {
    r.seconds
}
