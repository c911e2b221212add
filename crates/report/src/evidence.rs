//! What a report stands on: rows of results, and the artifacts behind them, each as far as it is there.

use crate::{
    Case, Subject,
    case::Pretraining,
    findings::{Finding, findings},
    words,
};
use hemlock_artifact::Features;
use hemlock_head::spread;
use hemlock_invert::Clean;
use hemlock_pipeline::{Row, Task, unknown};
use hemlock_store::{Artifact, Key, Manifest, Store, StoreError};
use ndarray::Axis;
use std::collections::BTreeMap;

/// Most clean test samples whose outliers are counted.
const SAMPLES: usize = 1000;

/// A pipeline and what it measured so far.
pub struct Measurement<'a> {
    /// The pipeline.
    pub subject: &'a Subject,
    /// Its results.
    pub rows: Vec<Row>,
    /// Number of branches without a result.
    pub missing: usize,
}

/// Cases that are compared in one chart.
pub struct Scene<'e> {
    /// The pipeline.
    pub measured: &'e Measurement<'e>,
    /// [`Case::scene`].
    pub name: String,
    /// The cases.
    pub cases: Vec<&'e Case>,
}

/// Everything that was measured.
pub struct Evidence<'a> {
    /// The pipelines.
    pub measured: Vec<Measurement<'a>>,
    /// Their results, over seeds.
    pub cases: Vec<Case>,
    store: &'a Store,
    /// By the key of a features artifact: the share of clean test samples that count as outliers.
    outliers: BTreeMap<Key, f64>,
}

impl<'a> Evidence<'a> {
    /// The evidence of some pipelines.
    pub fn new(measured: Vec<Measurement<'a>>, store: &'a Store) -> Result<Self, StoreError> {
        let rows: Vec<Row> = measured.iter().flat_map(|m| m.rows.iter().cloned()).collect();
        let mut evidence = Self { measured, cases: Case::all(&rows), store, outliers: BTreeMap::new() };
        evidence.outliers = evidence.clean_outliers()?;
        Ok(evidence)
    }

    /// The manifest of a task's artifact; `None` where it is not there.
    pub fn manifest(&self, task: &Task) -> Result<Option<Manifest>, StoreError> {
        self.store.lookup(task.stage, &task.key)
    }

    /// What fills a role of a row's evaluation, such as `poisons`.
    pub fn input(&self, row: &Row, role: &str) -> Option<&Task> {
        let key: Key = row.key.parse().ok()?;
        let tasks = self.measured.iter().map(|m| &m.subject.plan.tasks);
        tasks.into_iter().find_map(|tasks| {
            let evaluate = tasks.iter().find(|t| t.key == key)?;
            evaluate.inputs.get(role).map(|i| &tasks[*i])
        })
    }

    /// The artifact that fills a role of a row's evaluation; `None` where there is none, or it is not there any more.
    pub fn read<A: Artifact>(&self, row: &Row, role: &str) -> Result<Option<A>, StoreError> {
        let Some(task) = self.input(row, role) else { return Ok(None) };
        self.manifest(task)?.map(|manifest| self.store.read(&manifest)).transpose()
    }

    /// The scenes, pipeline by pipeline; of one without results a scene without cases.
    pub fn scenes(&self) -> Vec<Scene<'_>> {
        let mut scenes: Vec<Scene> = Vec::new();
        for measured in &self.measured {
            let name = &measured.subject.spec.name;
            let before = scenes.len();
            for case in self.cases.iter().filter(|c| c.pipeline() == name) {
                match scenes[before..].iter_mut().find(|scene| scene.name == case.scene) {
                    Some(scene) => scene.cases.push(case),
                    None => scenes.push(Scene { measured, name: case.scene.clone(), cases: vec![case] }),
                }
            }
            if scenes.len() == before {
                scenes.push(Scene { measured, name: name.clone(), cases: Vec::new() });
            }
        }
        scenes
    }

    /// What is said of the findings.
    pub fn findings(&self) -> Vec<Finding> {
        let rows = self.cases.iter().flat_map(|c| &c.rows);
        let outliers = rows.filter_map(|r| Some((r.key.clone(), *self.outliers.get(&self.input(r, "features")?.key)?)));
        findings(&self.cases, &outliers.collect())
    }

    /// The pipelines whose branches have no result yet, a sentence each.
    fn missing(&self) -> Vec<String> {
        let missing = self.measured.iter().filter(|m| m.missing > 0);
        missing
            .map(|m| {
                let all = words::count(m.rows.len() + m.missing, "branch");
                format!(
                    "{}: {} of {all} have no result yet; `{}` makes them",
                    m.subject.spec.name, m.missing, m.subject.command
                )
            })
            .collect()
    }

    /// What is missing, and what is not known because artifacts are gone, a sentence each.
    pub fn notes(&self) -> Vec<String> {
        let gone = self.measured.iter().filter_map(|m| Some(format!("{}: {}", m.subject.spec.name, unknown(&m.rows)?)));
        self.missing().into_iter().chain(gone).collect()
    }

    /// Counts outliers among clean test samples, where a finding asks for them: under transfer.
    fn clean_outliers(&self) -> Result<BTreeMap<Key, f64>, StoreError> {
        let mut counted = BTreeMap::new();
        let asked = self.cases.iter().filter(|c| c.pretraining() == Pretraining::Transfer && c.unlimited());
        for row in asked.flat_map(|c| c.rows.iter().filter(|r| r.visibility.is_some())) {
            let Some(task) = self.input(row, "features") else { continue };
            if counted.contains_key(&task.key) {
                continue;
            }
            if let Some(features) = self.read::<Features>(row, "features")? {
                let (train, test) = (features.train.features.view(), features.test.features.view());
                let some = test.select(Axis(0), &spread(test.nrows(), SAMPLES));
                counted.insert(task.key, Clean::new(train).outliers(some.view(), train));
            }
        }
        Ok(counted)
    }
}
