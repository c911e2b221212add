//! Comparison of two artifact roots, to show what a backend or a version changes.

use crate::Graph;
use hemlock_artifact::{Data, Evaluation, Exported};
use hemlock_stage::{ErrorKind, StageError};
use hemlock_store::{Key, Manifest, Store, StoreError};
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;
use std::collections::BTreeMap;

/// The largest difference of one tensor between two artifacts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// File and name of the tensor, as an export has them.
    pub name: String,
    /// Largest absolute difference of two values; `None` if the shapes differ, or if one artifact does not have the
    /// tensor.
    pub largest: Option<f64>,
    /// Largest absolute value in the first root, for scale. It is 0 if the first root does not have the tensor.
    pub scale: f64,
}

impl Difference {
    /// The largest difference, divided by the scale. It is infinite if the tensors cannot be compared.
    #[must_use]
    pub fn relative(&self) -> f64 {
        self.largest.map_or(f64::INFINITY, |l| l / self.scale.max(f64::MIN_POSITIVE))
    }
}

/// How two artifacts with the same key differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageDifference {
    /// Name of the stage.
    pub stage: String,
    /// The key of both artifacts.
    pub key: Key,
    /// The devices on which they were made.
    pub devices: [String; 2],
    /// The time that each took, in seconds.
    pub seconds: [f64; 2],
    /// Whether all files are identical.
    pub identical: bool,
    /// The tensors that differ, in order of decreasing relative difference.
    pub tensors: Vec<Difference>,
    /// For evaluations: test accuracy by training set, in `[0, 1]`.
    pub accuracy: BTreeMap<String, [f64; 2]>,
}

impl StageDifference {
    /// The largest relative difference of a tensor; 0 if no tensor differs.
    #[must_use]
    pub fn relative(&self) -> f64 {
        self.tensors.first().map_or(0.0, Difference::relative)
    }

    /// The largest difference of an accuracy, in `[0, 1]`; 0 if there are no accuracies.
    #[must_use]
    pub fn apart(&self) -> f64 {
        self.accuracy.values().fold(0.0, |most, [a, b]| most.max((a - b).abs()))
    }
}

/// Totals over all artifacts of a stage that both roots have.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageTotal {
    /// Name of the stage.
    pub stage: String,
    /// Number of artifacts.
    pub artifacts: usize,
    /// Number of artifacts whose files are all identical.
    pub identical: usize,
    /// The time that they took in all, in seconds.
    pub seconds: [f64; 2],
    /// The largest relative difference of a tensor.
    pub relative: f64,
    /// The largest difference of an accuracy, in `[0, 1]`; `None` if no accuracy was measured.
    pub apart: Option<f64>,
}

/// Sums up differences by stage, in the given order. Differences of the same stage must be adjacent.
#[must_use]
pub fn totals(differences: &[StageDifference]) -> Vec<StageTotal> {
    let mut totals: Vec<StageTotal> = Vec::new();
    for d in differences {
        if totals.last().is_none_or(|total| total.stage != d.stage) {
            let stage = d.stage.clone();
            totals.push(StageTotal {
                stage,
                artifacts: 0,
                identical: 0,
                seconds: [0.0; 2],
                relative: 0.0,
                apart: None,
            });
        }
        let Some(total) = totals.last_mut() else { continue };
        total.artifacts += 1;
        total.identical += usize::from(d.identical);
        total.seconds = [total.seconds[0] + d.seconds[0], total.seconds[1] + d.seconds[1]];
        total.relative = total.relative.max(d.relative());
        if !d.accuracy.is_empty() {
            total.apart = Some(total.apart.unwrap_or(0.0).max(d.apart()));
        }
    }
    totals
}

/// Compares all artifacts that both roots have, in the order of the graph. The second value is the number of artifacts
/// that only one root has. The digests of all artifacts that are compared are checked.
///
/// # Errors
/// - A root cannot be read.
/// - Artifacts are damaged. The message names the first ones, and nothing is compared.
/// - A stage cannot export an artifact.
pub fn diff(a: &Store, b: &Store, graph: &Graph) -> Result<(Vec<StageDifference>, usize), StageError> {
    let stages = graph.stages();
    let mut damaged = Vec::new();
    let mut manifests = |store: &Store| -> Result<BTreeMap<(usize, Key), Manifest>, StageError> {
        let mut found = BTreeMap::new();
        for entry in store.list()? {
            let order = stages.iter().position(|s| *s == entry.stage).unwrap_or(stages.len());
            match entry.manifest {
                Ok(manifest) => drop(found.insert((order, manifest.key), manifest)),
                Err(e) if e.rebuild_helps() => damaged.push(e),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(found)
    };
    let (left, right) = (manifests(a)?, manifests(b)?);
    let shared = left.keys().filter(|k| right.contains_key(k)).count();
    let alone = left.len() + right.len() - 2 * shared;
    let both: Vec<_> = left.iter().filter_map(|(k, l)| right.get(k).map(|r| (l, r))).collect();
    for (l, r) in &both {
        for (store, manifest) in [(a, l), (b, r)] {
            match store.verify(&manifest.identity.stage, &manifest.key) {
                Ok(_) => {}
                Err(e) if e.rebuild_helps() => damaged.push(e),
                Err(e) => return Err(e.into()),
            }
        }
    }
    if !damaged.is_empty() {
        return Err(several(&damaged));
    }
    let differences = both.into_iter().map(|(l, r)| compare(graph, (a, l), (b, r))).collect::<Result<_, _>>()?;
    Ok((differences, alone))
}

/// Combines all damage in one error.
fn several(damaged: &[StoreError]) -> StageError {
    const SHOWN: usize = 3;
    let shown = damaged.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join("\n  ");
    let more = match damaged.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!("\n  and {more} more"),
    };
    let artifacts = if damaged.len() == 1 { "an artifact is" } else { "artifacts are" };
    let message = format!("{artifacts} damaged, and nothing was compared:\n  {shown}{more}");
    StageError::new(ErrorKind::Artifact, message)
}

fn compare(
    graph: &Graph,
    left: (&Store, &Manifest),
    right: (&Store, &Manifest),
) -> Result<StageDifference, StageError> {
    let (l, r) = (left.1, right.1);
    let stage = l.identity.stage.clone();
    let identical = l.content == r.content;
    let mut tensors = Vec::new();
    if let (false, Some(node)) = (identical, graph.nodes().find(|n| n.stage.name() == stage)) {
        let other = numbers(node.stage.export(right.0, r)?)?;
        let own = numbers(node.stage.export(left.0, l)?)?;
        let missing = other.keys().filter(|name| !own.contains_key(*name));
        tensors.extend(missing.map(|name| Difference { name: name.clone(), largest: None, scale: 0.0 }));
        for (name, (shape, values)) in own {
            let scale = values.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
            let same_shape = other.get(&name).filter(|(other, _)| shape == *other);
            let largest = same_shape.map(|(_, other)| values.iter().zip(other).map(apart).fold(0.0, f64::max));
            if largest != Some(0.0) {
                tensors.push(Difference { name, largest, scale });
            }
        }
        tensors.sort_by(|x, y| y.relative().total_cmp(&x.relative()));
    }
    let mut accuracy = BTreeMap::new();
    if graph.evaluates(&stage) {
        let read = |store, manifest| Evaluation::read_numbers(store, manifest).map(|evaluation| evaluation.outcomes);
        let (x, y) = (read(left.0, l)?, read(right.0, r)?);
        for (name, x) in x.named() {
            let y = y.get(name).map(|y| [x.accuracy.overall, y.accuracy.overall]);
            accuracy.extend(y.map(|both| (name.to_owned(), both)));
        }
    }
    Ok(StageDifference {
        stage,
        key: l.key,
        devices: [l.device.clone(), r.device.clone()],
        seconds: [l.seconds, r.seconds],
        identical,
        tensors,
        accuracy,
    })
}

/// The distance between two values. It is infinite between a number and NaN or an infinity, and 0 between equal values
/// and between two NaNs.
fn apart((a, b): (&f64, &f64)) -> f64 {
    match (a - b).abs() {
        _ if a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()) => 0.0,
        distance if distance.is_nan() => f64::INFINITY,
        distance => distance,
    }
}

type Numbers = BTreeMap<String, (Vec<usize>, Vec<f64>)>;

/// All tensors of an artifact by name, including those in safetensors files that the stage exports as a whole.
fn numbers(exported: Exported) -> Result<Numbers, StageError> {
    let mut found = Numbers::new();
    for (file, tensors) in exported.tensors {
        for t in tensors {
            let values = match t.data {
                Data::F32(v) => v.into_iter().map(f64::from).collect(),
                Data::F64(v) => v,
                Data::U8(v) => v.into_iter().map(f64::from).collect(),
                Data::I64(v) => v.into_iter().map(|x| x as f64).collect(),
            };
            found.insert(format!("{file}/{}", t.name), (t.shape, values));
        }
    }
    for (file, bytes) in exported.files.iter().filter(|(file, _)| file.ends_with(".safetensors")) {
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| StageError::internal(format!("{file}: {e}")))?;
        for (name, t) in tensors.iter().filter(|(_, t)| t.dtype() == Dtype::F32) {
            let values = t.data().as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect();
            found.insert(format!("{file}/{name}"), (t.shape().to_vec(), values));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_far_from_every_number() {
        assert_eq!(apart((&1.0, &-2.0)), 3.0);
        assert_eq!(apart((&f64::NAN, &1.0)), f64::INFINITY);
        assert_eq!(apart((&f64::NAN, &f64::NAN)), 0.0);
        assert_eq!(apart((&f64::INFINITY, &f64::INFINITY)), 0.0);
        assert_eq!(apart((&f64::INFINITY, &1.0)), f64::INFINITY);
    }
}
