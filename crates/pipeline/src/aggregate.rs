//! Means of results over seeds.

use crate::{
    ResultRow,
    origin::{REPLICATED, replicates},
};
use hemlock_artifact::{AttackId, Detection, Measured, SteppedBack, Visibility};
use hemlock_stage::{Column, StageRole};
use hemlock_threat::Sees;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Mean and standard deviation over seeds. The denominator is n - 1; the deviation over one seed is 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MeanStd {
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub std: f64,
}

impl MeanStd {
    /// Mean and standard deviation of at least one value.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        Self { mean, std: variance.sqrt() }
    }
}

/// Means of [`Visibility`] over seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct VisibilityStats {
    /// Peak signal-to-noise ratio, in dB.
    pub psnr: MeanStd,
    /// Structural similarity.
    pub ssim: MeanStd,
    /// Largest change of a pixel.
    pub linf: MeanStd,
    /// Relative distance of features to the poisoned features.
    pub relative_distance: MeanStd,
    /// Share of outliers.
    pub outliers: MeanStd,
    /// Share of the poisons whose features lie outside the attack's constraint.
    pub outside: MeanStd,
}

/// Means of [`Detection`] over seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DetectionStats {
    /// Share of the poisons that are removed.
    pub recall: Option<MeanStd>,
    /// Share of the clean samples that are removed.
    pub false_positives: Option<MeanStd>,
    /// Probability that a poison is more suspicious than a clean sample.
    pub auroc: Option<MeanStd>,
    /// Share of all samples that is removed.
    pub removed: MeanStd,
}

/// Means of the rows that differ in seeds only.
#[derive(Debug, Clone, Serialize)]
pub struct AggregatedRow {
    /// Which attack made the poisons: the fields `attack` and `method`.
    #[serde(flatten)]
    pub attack: AttackId,
    /// Name of the victim.
    pub victim: String,
    /// Whether the poisons have the labels of the samples they are made of.
    pub clean_label: bool,
    /// Number of poisons, divided by the number of clean training samples.
    pub poison_fraction: f64,
    /// The value that the attack optimised.
    pub objective: MeanStd,
    /// The lower bound of the objective, if the attack knows one.
    pub bound: Option<MeanStd>,
    /// The data that the attacker saw.
    pub sees: Sees,
    /// The data that was seen in making the controls.
    pub controls_see: Sees,
    /// Means of the numbers that stages declare as columns of results, by node and field.
    pub stages: BTreeMap<&'static str, BTreeMap<&'static str, f64>>,
    /// The columns that stages declare, by node.
    #[serde(skip)]
    pub declared: Vec<(&'static str, Column)>,
    /// The role of every stage, by node.
    #[serde(skip)]
    pub roles: BTreeMap<&'static str, StageRole>,
    /// Parameters of every stage, by node, without the seeds in which the rows differ.
    pub params: BTreeMap<&'static str, Value>,
    /// Number of rows: of seeds or, if extractors or images have seeds of their own, of combinations of seeds.
    pub seeds: usize,
    /// Number of classes.
    pub classes: usize,
    /// Whether the embeddings of any row's extractor had collapsed at the end of training; `None` if this is not known.
    pub collapsed: Option<bool>,
    /// Whether every imported extractor was compared with a probe; `None` if none was imported.
    pub verified: Option<bool>,
    /// The targets that are weaker than their parameters say, without duplicates.
    pub stepped_back: Vec<SteppedBack>,
    /// The largest gradient norm at which the training of a victim stopped without converging; `None` if all converged.
    pub unconverged: Option<f64>,
    /// Test accuracy by training set, in `[0, 1]`.
    pub accuracy: Measured<MeanStd>,
    /// Clean accuracy minus poisoned accuracy: with poisoned images or, if there are none, with poisoned features.
    pub drop: Option<MeanStd>,
    /// What a filter removed. `None` without a filter.
    pub detection: Option<DetectionStats>,
    /// Visibility of the poisoned images.
    pub visibility: Option<VisibilityStats>,
    /// Time that the attack's stages took, in seconds; `None` if it is not known for all rows.
    pub seconds: Option<MeanStd>,
}

/// Groups rows that differ in seeds only: the seed of the run, of an extractor, or of the choice of images. Groups are
/// in the order of their first rows.
#[must_use]
pub fn grouped(rows: &[ResultRow]) -> Vec<Vec<&ResultRow>> {
    let mut groups: Vec<Vec<&ResultRow>> = Vec::new();
    for row in rows {
        match groups.iter_mut().find(|g| g[0].attack == row.attack && replicates(&g[0].params, &row.params)) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups
}

/// The parameters of rows that differ in seeds only, without the seeds that differ.
fn common(rows: &[&ResultRow]) -> BTreeMap<&'static str, Value> {
    let mut params = rows[0].params.clone();
    for (node, params) in params.iter_mut().filter(|(node, _)| REPLICATED.contains(node)) {
        let seed = params.get("seed").cloned();
        if let (Some(params), true) =
            (params.as_object_mut(), rows.iter().any(|r| r.params[node].get("seed") != seed.as_ref()))
        {
            params.remove("seed");
        }
    }
    params
}

/// The items without duplicates, in order.
fn distinct<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    items.fold(Vec::new(), |mut seen, item| {
        if !seen.contains(&item) {
            seen.push(item);
        }
        seen
    })
}

/// Means of the declared columns for which all rows have a value.
fn stages(rows: &[&ResultRow]) -> BTreeMap<&'static str, BTreeMap<&'static str, f64>> {
    let mean = |node: &str, field: &str| {
        let values: Option<Vec<f64>> = rows.iter().map(|row| row.stages.get(node)?.get(field).copied()).collect();
        values.map(|values| MeanStd::of(&values).mean)
    };
    let fields = |node: &'static str, fields: &BTreeMap<&'static str, f64>| {
        fields.keys().filter_map(|field| Some((*field, mean(node, field)?))).collect()
    };
    rows[0].stages.iter().map(|(node, of)| (*node, fields(node, of))).collect()
}

/// Accuracies over some rows, for the training sets that all of them have.
fn accuracies(rows: &[&ResultRow]) -> Measured<MeanStd> {
    let over = |name: &str| {
        let values: Option<Vec<f64>> = rows.iter().map(|row| row.accuracy.get(name).copied()).collect();
        values.map(|values| MeanStd::of(&values))
    };
    let clean: Vec<f64> = rows.iter().map(|row| row.accuracy.clean).collect();
    let mut accuracies = Measured::new(MeanStd::of(&clean));
    for (set, _) in rows[0].accuracy.others() {
        over(&set.name).into_iter().for_each(|mean| accuracies.set(set.clone(), mean));
    }
    accuracies
}

/// Means over the rows of every group of [`grouped`] rows.
#[must_use]
pub fn aggregate(rows: &[ResultRow]) -> Vec<AggregatedRow> {
    grouped(rows)
        .into_iter()
        .map(|rows| {
            let mean = |f: &dyn Fn(&ResultRow) -> f64| MeanStd::of(&rows.iter().map(|r| f(r)).collect::<Vec<_>>());
            let optional = |f: &dyn Fn(&ResultRow) -> Option<f64>| {
                let values: Option<Vec<f64>> = rows.iter().map(|r| f(r)).collect();
                values.map(|v| MeanStd::of(&v))
            };
            let visible = |f: &dyn Fn(&Visibility) -> f64| optional(&|r| r.visibility.as_ref().map(f));
            AggregatedRow {
                attack: rows[0].attack.clone(),
                victim: rows[0].victim.clone(),
                clean_label: rows[0].clean_label,
                poison_fraction: rows[0].poison_fraction,
                objective: mean(&|r| r.objective),
                bound: optional(&|r| r.bound),
                sees: rows[0].sees,
                controls_see: rows[0].controls_see,
                stages: stages(&rows),
                declared: rows[0].declared.clone(),
                roles: rows[0].roles.clone(),
                params: common(&rows),
                seeds: rows.len(),
                classes: rows[0].per_class.clean.len(),
                collapsed: match rows.iter().any(|r| r.collapsed == Some(true)) {
                    true => Some(true),
                    false => rows.iter().try_fold(false, |_, r| r.collapsed),
                },
                verified: rows[0].verified,
                stepped_back: distinct(rows.iter().filter_map(|r| r.stepped_back.clone())),
                unconverged: rows
                    .iter()
                    .filter(|r| !r.converged)
                    .filter_map(|r| r.gradient_norm)
                    .max_by(f64::total_cmp),
                accuracy: accuracies(&rows),
                drop: optional(&|r| Some(r.accuracy.clean - r.accuracy.poisoned()?)),
                detection: optional(&|r| Some(r.detection?.removed)).map(|removed| {
                    let of = |f: fn(&Detection) -> Option<f64>| optional(&|r| f(r.detection.as_ref()?));
                    let (recall, false_positives) = (of(|d| d.recall), of(|d| d.false_positives));
                    DetectionStats { recall, false_positives, auroc: of(|d| d.auroc), removed }
                }),
                visibility: visible(&|v| v.psnr).and_then(|psnr| {
                    Some(VisibilityStats {
                        psnr,
                        ssim: visible(&|v| v.ssim)?,
                        linf: visible(&|v| v.linf)?,
                        relative_distance: visible(&|v| v.relative_distance)?,
                        outliers: visible(&|v| v.outliers)?,
                        outside: visible(&|v| v.outside)?,
                    })
                }),
                seconds: optional(&|r| r.seconds),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviation_of_two_values_by_hand() {
        let mean = MeanStd::of(&[1.0, 3.0]);
        assert_eq!(mean.mean, 2.0);
        assert!((mean.std - 2f64.sqrt()).abs() < 1e-15);
        assert_eq!(MeanStd::of(&[5.0]), MeanStd { mean: 5.0, std: 0.0 });
    }
}
