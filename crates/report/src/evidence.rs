//! What a report stands on: rows of results, and the artifacts behind them, each as far as it is there.

use crate::{
    Case, Subject,
    case::Pretraining,
    findings::{Finding, findings},
    words,
};
use hemlock_artifact::{Features, SteppedBack};
use hemlock_head::spread;
use hemlock_perturb::CleanFeatureStats;
use hemlock_pipeline::{Row, Task, unknown};
use hemlock_store::{Artifact, Key, Manifest, Store, StoreError};
use ndarray::Axis;
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
};

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
    /// Artifacts behind results that were looked for and are not there, by stage and key.
    gone: RefCell<BTreeSet<(&'static str, Key)>>,
    /// How often one was looked for.
    missed: Cell<usize>,
}

impl<'a> Evidence<'a> {
    /// The evidence of some pipelines.
    pub fn new(measured: Vec<Measurement<'a>>, store: &'a Store) -> Result<Self, StoreError> {
        let rows: Vec<Row> = measured.iter().flat_map(|m| m.rows.iter().cloned()).collect();
        let (gone, missed) = (RefCell::default(), Cell::default());
        let mut evidence = Self { measured, cases: Case::all(&rows), store, outliers: BTreeMap::new(), gone, missed };
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
        let manifest = self.manifest(task)?;
        if manifest.is_none() {
            self.gone.borrow_mut().insert((task.stage, task.key));
            self.missed.set(self.missed.get() + 1);
        }
        manifest.map(|manifest| self.store.read(&manifest)).transpose()
    }

    /// The number of samples that a row's accuracy is measured on, where the manifest of its features is there.
    pub fn tested_on(&self, row: &Row) -> Option<u64> {
        let manifest = self.manifest(self.input(row, "features")?).ok()??;
        manifest.summary["test"].as_u64().filter(|n| *n > 0)
    }

    /// What some work gives, and whether it looked for artifacts that are gone.
    pub fn watched<T>(&self, work: impl FnOnce() -> T) -> (T, bool) {
        let before = self.missed.get();
        let done = work();
        (done, self.missed.get() > before)
    }

    /// What is said of targets that are weaker than their parameters say.
    pub fn stepped_back(&self) -> BTreeSet<String> {
        let rows = self.cases.iter().flat_map(|c| &c.rows);
        let stepped_back = rows.filter_map(|row| Some((row, row.stepped_back.as_ref()?)));
        let told = stepped_back.map(|(row, SteppedBack { field, asked, used })| {
            format!(
                "{}: the target's {field} is {used} in the place of {asked}, since calibration leaves nothing of a stronger target: its \
                 reverse fits the clean data better.",
                row.pipeline
            )
        });
        told.collect()
    }

    /// What of the results that are there cannot be shown, a sentence a stage: artifacts behind them are gone.
    pub fn gone(&self) -> Vec<String> {
        let mut stages: BTreeMap<&str, usize> = BTreeMap::new();
        self.gone.borrow().iter().for_each(|(stage, _)| *stages.entry(stage).or_default() += 1);
        let stages: Vec<String> =
            stages.iter().map(|(stage, n)| format!("{} of {stage}", words::count(*n, "artifact"))).collect();
        if stages.is_empty() {
            return Vec::new();
        }
        let commands: Vec<String> = self.measured.iter().map(|m| format!("`{}`", m.subject.command)).collect();
        vec![format!(
            "what is drawn from {} is left out, as they are gone; {} {} them again",
            words::list(&stages),
            words::list(&commands),
            if commands.len() == 1 { "makes" } else { "make" }
        )]
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

    /// Whether nothing was compared with what an imported extractor computes, in a sentence.
    pub fn unverified(&self) -> Option<String> {
        let of = |m: &&Measurement| m.rows.iter().any(|row| row.verified == Some(false));
        let names: Vec<String> = self.measured.iter().filter(of).map(|m| m.subject.spec.name.clone()).collect();
        (!names.is_empty()).then(|| {
            let names = words::list(&names);
            format!(
                "Nothing shows that an imported extractor of {names} computes what its weights were trained in. A probe does: see \
                 docs/pretraining.md."
            )
        })
    }

    /// The pipelines whose branches have no result yet, a sentence each.
    fn pending(&self) -> impl Iterator<Item = String> {
        let missing = self.measured.iter().filter(|m| m.missing > 0);
        missing.map(|m| {
            let Subject { spec, command, .. } = m.subject;
            let unfinished = words::unfinished(m.missing, m.rows.len() + m.missing);
            format!("{}: {unfinished}; `{command}` makes what is missing", spec.name)
        })
    }

    /// What is missing, what cannot be drawn, and what is not known because artifacts are gone: a sentence each.
    pub fn notes(&self) -> Vec<String> {
        let unknown = |m: &Measurement| Some(format!("{}: {}", m.subject.spec.name, unknown(&m.rows)?));
        self.pending().chain(self.gone()).chain(self.measured.iter().filter_map(unknown)).collect()
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
                counted.insert(task.key, CleanFeatureStats::new(train).outliers(some.view(), train));
            }
        }
        Ok(counted)
    }
}
