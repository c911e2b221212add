//! The results of a report: the rows of all pipelines, and the artifacts behind them as far as they still exist.

use crate::{
    ConfigGroup, PipelineResults,
    config_group::PretrainingKind,
    findings::{Finding, findings},
    words,
};
use hemlock_artifact::{Features, SteppedBack};
use hemlock_head::subsample;
use hemlock_perturb::CleanFeatureStats;
use hemlock_pipeline::{ResultRow, ResultsFile, SavedPipeline, Task, unknown};
use hemlock_store::{Artifact, Key, Manifest, Store, StoreError};
use ndarray::Axis;
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
};

/// The largest number of clean test samples whose outliers are counted.
const SAMPLES: usize = 1000;

/// A pipeline on one source of downstream data. Its configurations are compared in one chart.
pub struct Experiment<'e> {
    /// The pipeline with its results.
    pub results: &'e PipelineResults,
    /// The common value of [`ConfigGroup::experiment`].
    pub name: String,
    /// The configurations; empty if the pipeline has no result.
    pub configs: Vec<&'e ConfigGroup>,
}

/// All results of the pipelines of a report.
pub struct ResultSet<'a> {
    /// The pipelines.
    pub pipelines: Vec<PipelineResults>,
    /// The results of all pipelines, grouped over seeds.
    pub configs: Vec<ConfigGroup>,
    store: &'a Store,
    /// Artifacts that were looked for and do not exist any more, by stage and key.
    gone: RefCell<BTreeSet<(&'static str, Key)>>,
    /// How often an artifact was looked for that does not exist any more.
    missed: Cell<usize>,
}

impl<'a> ResultSet<'a> {
    /// Groups the rows of some pipelines into configurations, and counts outliers among clean features.
    pub fn new(pipelines: Vec<PipelineResults>, store: &'a Store) -> Result<Self, StoreError> {
        let rows: Vec<ResultRow> = pipelines.iter().flat_map(|m| m.rows.iter().cloned()).collect();
        let (gone, missed) = (RefCell::default(), Cell::default());
        let mut result_set = Self { pipelines, configs: ConfigGroup::all(&rows), store, gone, missed };
        let outliers = result_set.clean_outliers()?;
        for row in result_set.configs.iter_mut().flat_map(|c| &mut c.rows) {
            row.clean_outliers = row.clean_outliers.or_else(|| outliers.get(&row.key).copied());
        }
        Ok(result_set)
    }

    /// All results, as they are saved to be reported again.
    pub fn saved(&self) -> ResultsFile {
        let saved = |m: &PipelineResults| SavedPipeline {
            name: m.name.clone(),
            description: m.description.clone(),
            command: m.command.clone(),
            missing: m.missing,
        };
        let rows = self.configs.iter().flat_map(|c| c.rows.iter().cloned()).collect();
        ResultsFile { pipelines: self.pipelines.iter().map(saved).collect(), rows }
    }

    /// The manifest of a task's artifact; `None` if the artifact does not exist.
    pub fn manifest(&self, task: &Task) -> Result<Option<Manifest>, StoreError> {
        self.store.lookup(task.stage, &task.key)
    }

    /// The task that is an input of a row's evaluation, by the role of the input, such as `poisons`.
    pub fn input(&self, row: &ResultRow, role: &str) -> Option<&Task> {
        if self.pipelines.iter().all(|m| m.tasks.is_empty()) {
            // Results of files come without the artifacts behind them.
            self.missed.set(self.missed.get() + 1);
        }
        let key: Key = row.key.parse().ok()?;
        let tasks = self.pipelines.iter().map(|m| &m.tasks);
        tasks.into_iter().find_map(|tasks| {
            let evaluate = tasks.iter().find(|t| t.key == key)?;
            evaluate.inputs.get(role).map(|i| &tasks[*i])
        })
    }

    /// The artifact that is an input of a row's evaluation, by the role of the input; `None` if the evaluation has no
    /// such input, or if the artifact does not exist any more.
    pub fn read<A: Artifact>(&self, row: &ResultRow, role: &str) -> Result<Option<A>, StoreError> {
        let Some(task) = self.input(row, role) else { return Ok(None) };
        let manifest = self.manifest(task)?;
        if manifest.is_none() {
            self.gone.borrow_mut().insert((task.stage, task.key));
            self.missed.set(self.missed.get() + 1);
        }
        manifest.map(|manifest| self.store.read(&manifest)).transpose()
    }

    /// Calls `work` and returns its result, and whether `work` looked for artifacts that do not exist any more.
    pub fn watched<T>(&self, work: impl FnOnce() -> T) -> (T, bool) {
        let before = self.missed.get();
        let done = work();
        (done, self.missed.get() > before)
    }

    /// One sentence for every target that is weaker than its parameters say.
    pub fn stepped_back(&self) -> BTreeSet<String> {
        let rows = self.configs.iter().flat_map(|c| &c.rows);
        let stepped_back = rows.filter_map(|row| Some((row, row.stepped_back.as_ref()?)));
        let sentences = stepped_back.map(|(row, SteppedBack { field, asked, used })| {
            format!(
                "{}: the {field} of the target is {used} instead of {asked}, because calibration leaves nothing of a \
                 stronger target: its reverse fits the clean data better.",
                row.pipeline
            )
        });
        sentences.collect()
    }

    /// A sentence about results that cannot be shown because artifacts behind them do not exist any more; empty if
    /// there are none.
    pub fn gone(&self) -> Vec<String> {
        let mut stages: BTreeMap<&str, usize> = BTreeMap::new();
        self.gone.borrow().iter().for_each(|(stage, _)| *stages.entry(stage).or_default() += 1);
        let stages: Vec<String> =
            stages.iter().map(|(stage, n)| format!("{} of {stage}", words::count(*n, "artifact"))).collect();
        if stages.is_empty() {
            return Vec::new();
        }
        let commands: Vec<String> = self.pipelines.iter().map(|m| format!("`{}`", m.command)).collect();
        vec![format!(
            "figures that need {} are left out, because these artifacts are gone; {} {} them again",
            words::list(&stages),
            words::list(&commands),
            if commands.len() == 1 { "computes" } else { "compute" }
        )]
    }

    /// The experiments, pipeline by pipeline. A pipeline without results has one experiment without configurations.
    pub fn experiments(&self) -> Vec<Experiment<'_>> {
        let mut experiments: Vec<Experiment> = Vec::new();
        for results in &self.pipelines {
            let name = &results.name;
            let before = experiments.len();
            for config in self.configs.iter().filter(|c| c.pipeline() == name) {
                match experiments[before..].iter_mut().find(|experiment| experiment.name == config.experiment) {
                    Some(experiment) => experiment.configs.push(config),
                    None => {
                        experiments.push(Experiment { results, name: config.experiment.clone(), configs: vec![config] })
                    }
                }
            }
            if experiments.len() == before {
                experiments.push(Experiment { results, name: name.clone(), configs: Vec::new() });
            }
        }
        experiments
    }

    /// All findings, tested on these results.
    pub fn findings(&self) -> Vec<Finding> {
        findings(&self.configs)
    }

    /// A sentence about imported extractors that no probe has checked; `None` if there are none.
    pub fn unverified(&self) -> Option<String> {
        let of = |m: &&PipelineResults| m.rows.iter().any(|row| row.verified == Some(false));
        let names: Vec<String> = self.pipelines.iter().filter(of).map(|m| m.name.clone()).collect();
        (!names.is_empty()).then(|| {
            let names = words::list(&names);
            format!(
                "No probe has shown that the imported extractor of {names} computes the network that its weights were \
                 trained in; see docs/pretraining.md."
            )
        })
    }

    /// One sentence for every pipeline with branches that have no result yet.
    fn pending(&self) -> impl Iterator<Item = String> {
        let missing = self.pipelines.iter().filter(|m| m.missing > 0);
        missing.map(|m| {
            let unfinished = words::unfinished(m.missing, m.rows.len() + m.missing);
            format!("{}: {unfinished}; `{}` computes what is missing", m.name, m.command)
        })
    }

    /// One sentence each about results that are missing, figures that cannot be drawn, and values that are not known,
    /// because artifacts do not exist (any more).
    pub fn notes(&self) -> Vec<String> {
        let unknown = |m: &PipelineResults| Some(format!("{}: {}", m.name, unknown(&m.rows)?));
        self.pending().chain(self.gone()).chain(self.pipelines.iter().filter_map(unknown)).collect()
    }

    /// Counts outliers among clean test samples, for the configurations whose finding needs them: unlimited images in
    /// transfer. Returns them by the key of a row.
    fn clean_outliers(&self) -> Result<BTreeMap<String, f64>, StoreError> {
        let mut counted: BTreeMap<Key, f64> = BTreeMap::new();
        let mut outliers = BTreeMap::new();
        let asked = self.configs.iter().filter(|c| c.pretraining() == PretrainingKind::Transfer && c.unlimited());
        for row in asked.flat_map(|c| c.rows.iter().filter(|r| r.visibility.is_some())) {
            let Some(task) = self.input(row, "features") else { continue };
            if !counted.contains_key(&task.key)
                && let Some(features) = self.read::<Features>(row, "features")?
            {
                let (train, test) = (features.train.features.view(), features.test.features.view());
                let some = test.select(Axis(0), &subsample(test.nrows(), SAMPLES));
                counted.insert(task.key, CleanFeatureStats::new(train).outliers(some.view(), train));
            }
            outliers.extend(counted.get(&task.key).map(|share| (row.key.clone(), *share)));
        }
        Ok(outliers)
    }
}
