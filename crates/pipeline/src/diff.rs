//! Two artifact roots, compared: what a backend or a version changes.

use crate::Graph;
use hemlock_artifact::{Data, Evaluation, Exported};
use hemlock_stage::{ErrorKind, StageError};
use hemlock_store::{Key, Manifest, Store, StoreError};
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;
use std::collections::BTreeMap;

/// The largest difference of one tensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// File and name of the tensor, as it would be exported.
    pub name: String,
    /// Largest absolute difference of two values; `None` where the shapes differ, or one side lacks the tensor.
    pub largest: Option<f64>,
    /// Largest absolute value in the first root, for scale.
    pub scale: f64,
}

impl Difference {
    /// The largest difference as a share of the scale.
    #[must_use]
    pub fn relative(&self) -> f64 {
        self.largest.map_or(f64::INFINITY, |l| l / self.scale.max(f64::MIN_POSITIVE))
    }
}

/// How two artifacts of one key differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageDifference {
    /// The stage.
    pub stage: String,
    /// The key, which both have.
    pub key: Key,
    /// Where the two were made.
    pub devices: [String; 2],
    /// How long each took.
    pub seconds: [f64; 2],
    /// Whether every file is the same.
    pub identical: bool,
    /// The tensors that differ, the largest relative difference first.
    pub tensors: Vec<Difference>,
    /// Test accuracy by head, for evaluations.
    pub accuracy: BTreeMap<String, [f64; 2]>,
}

impl StageDifference {
    /// The largest relative difference of a tensor.
    #[must_use]
    pub fn relative(&self) -> f64 {
        self.tensors.first().map_or(0.0, Difference::relative)
    }

    /// The largest difference of an accuracy, as a fraction.
    #[must_use]
    pub fn apart(&self) -> f64 {
        self.accuracy.values().fold(0.0, |most, [a, b]| most.max((a - b).abs()))
    }
}

/// All artifacts of a stage that two roots have both.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageTotal {
    /// The stage.
    pub stage: String,
    /// Number of artifacts.
    pub artifacts: usize,
    /// How many of them are the same in every byte.
    pub identical: usize,
    /// How long they took in all.
    pub seconds: [f64; 2],
    /// The largest relative difference of a tensor.
    pub relative: f64,
    /// The largest difference of an accuracy, as a fraction; `None` where none was measured.
    pub apart: Option<f64>,
}

/// Differences by stage, in their order.
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

/// Compares all artifacts that two roots have both, in the order of the graph; also returns how many stand in one root
/// alone. What is compared is read in both roots, and its digests are checked.
///
/// # Errors
/// Artifacts are damaged; the message names them.
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

/// All damage in one error.
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
    if stage == "evaluate" {
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

/// How far two values are apart; a number from what is none: infinitely far.
fn apart((a, b): (&f64, &f64)) -> f64 {
    match (a - b).abs() {
        _ if a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()) => 0.0,
        distance if distance.is_nan() => f64::INFINITY,
        distance => distance,
    }
}

type Numbers = BTreeMap<String, (Vec<usize>, Vec<f64>)>;

/// All tensors of an artifact, those in safetensors files of its own included.
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
