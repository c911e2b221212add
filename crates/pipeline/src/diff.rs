//! Two artifact roots, compared: what a backend or a version changes.

use hemlock_artifact::Evaluation;
use hemlock_store::{Block, Key, Manifest, Store, StoreError};
use serde::Serialize;
use std::collections::BTreeMap;

/// The largest difference of one kind of tensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// File of the artifact.
    pub file: String,
    /// Largest absolute difference of two values; `None` where the shapes differ.
    pub largest: Option<f64>,
    /// Largest absolute value in the first root, for scale.
    pub scale: f64,
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
    /// The arrays that differ, the largest relative difference first.
    pub tensors: Vec<Difference>,
    /// Test accuracy by head, for evaluations.
    pub accuracy: BTreeMap<&'static str, [f64; 2]>,
}

/// Compares all artifacts that two roots have both, in the order of `stages`; also returns how many stand in one root alone.
///
/// # Errors
/// An artifact is damaged.
pub fn diff(a: &Store, b: &Store, stages: &[&str]) -> Result<(Vec<StageDifference>, usize), StoreError> {
    let manifests = |store: &Store| -> Result<BTreeMap<(usize, Key), Manifest>, StoreError> {
        let mut found = BTreeMap::new();
        for entry in store.list()? {
            let order = stages.iter().position(|s| *s == entry.stage).unwrap_or(stages.len());
            let manifest = entry.manifest?;
            found.insert((order, manifest.key), manifest);
        }
        Ok(found)
    };
    let (left, right) = (manifests(a)?, manifests(b)?);
    let shared = left.keys().filter(|k| right.contains_key(k)).count();
    let alone = left.len() + right.len() - 2 * shared;
    let both = left.iter().filter_map(|(k, l)| right.get(k).map(|r| (l, r)));
    let differences = both.map(|(l, r)| compare(a, l, b, r)).collect::<Result<_, _>>()?;
    Ok((differences, alone))
}

fn compare(a: &Store, left: &Manifest, b: &Store, right: &Manifest) -> Result<StageDifference, StoreError> {
    let identical = left.content == right.content;
    let mut tensors = Vec::new();
    for (file, record) in &left.files {
        let differs = right.files.get(file).is_some_and(|other| other.digest != record.digest);
        if differs && let (Some(x), Some(y)) = (a.numbers(left, file)?, b.numbers(right, file)?) {
            tensors.push(difference(file, &x, &y));
        }
    }
    tensors.sort_by(|x, y| relative(y).total_cmp(&relative(x)));
    let mut accuracy = BTreeMap::new();
    if left.identity.stage == "evaluate" {
        let (x, y) = (a.read::<Evaluation>(left)?.accuracy, b.read::<Evaluation>(right)?.accuracy);
        for ((name, x), (_, y)) in x.named().zip(y.named()) {
            accuracy.insert(name, [x.overall, y.overall]);
        }
    }
    Ok(StageDifference {
        stage: left.identity.stage.clone(),
        key: left.key,
        devices: [left.device.clone(), right.device.clone()],
        seconds: [left.seconds, right.seconds],
        identical,
        tensors,
        accuracy,
    })
}

fn relative(d: &Difference) -> f64 {
    d.largest.map_or(f64::INFINITY, |l| l / d.scale.max(f64::MIN_POSITIVE))
}

fn difference(file: &str, x: &Block<f64>, y: &Block<f64>) -> Difference {
    let scale = x.data.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    let largest =
        (x.shape == y.shape).then(|| x.data.iter().zip(&y.data).fold(0.0, |m: f64, (p, q)| m.max((p - q).abs())));
    Difference { file: file.to_owned(), largest, scale }
}
