//! The provenance of a report: tasks, keys, versions, devices, and times.

use crate::{
    ReportError,
    result_set::ResultSet,
    table::{Table, TableCell},
    words,
};
use hemlock_store::Manifest;
use std::collections::{BTreeMap, BTreeSet};

/// The tasks of all pipelines, each once, with the manifests of their artifacts.
pub struct Provenance {
    tasks: Vec<TaskRecord>,
}

struct TaskRecord {
    pipeline: String,
    node: &'static str,
    key: String,
    manifest: Option<Manifest>,
    /// What the stage does, as it describes itself.
    does: &'static str,
    seed: Option<u64>,
    version: u32,
    source: Option<String>,
}

/// The times of a stage's tasks.
pub struct StageTimes {
    /// The name of the stage.
    pub stage: String,
    /// The time of every task, in seconds.
    pub seconds: Vec<f64>,
}

impl Provenance {
    /// Reads the manifests of all tasks.
    pub fn new(result_set: &ResultSet) -> Result<Self, ReportError> {
        let mut tasks: Vec<TaskRecord> = Vec::new();
        for m in &result_set.pipelines {
            for task in &m.tasks {
                let key = task.key.to_string();
                if tasks.iter().any(|t| t.key == key) {
                    continue;
                }
                tasks.push(TaskRecord {
                    pipeline: m.name.clone(),
                    node: task.node,
                    key,
                    does: task.about.does,
                    manifest: result_set.manifest(task)?,
                    seed: task.identity.seed,
                    version: task.identity.stage_version,
                    source: task.identity.source.clone(),
                });
            }
        }
        Ok(Self { tasks })
    }

    /// The number of artifacts that do not exist, and the number of all.
    pub fn missing(&self) -> (usize, usize) {
        (self.tasks.iter().filter(|t| t.manifest.is_none()).count(), self.tasks.len())
    }

    fn made(&self) -> impl Iterator<Item = &Manifest> {
        self.tasks.iter().filter_map(|t| t.manifest.as_ref())
    }

    /// Facts about all artifacts together: label and values.
    pub fn facts(&self) -> Vec<(&'static str, Vec<String>)> {
        let every = |of: &dyn Fn(&TaskRecord) -> Option<String>| {
            let mut values: Vec<String> = self.tasks.iter().filter_map(of).collect();
            values.sort();
            values.dedup();
            values
        };
        let of = |f: fn(&Manifest) -> String| move |t: &TaskRecord| t.manifest.as_ref().map(f);
        let seeds: BTreeSet<u64> = self.tasks.iter().filter_map(|t| t.seed).collect();
        let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
        vec![
            ("Versions of Hemlock", every(&of(|m| m.hemlock_version.clone()))),
            (
                "Devices",
                every(&of(|m| {
                    if m.deterministic { m.device.clone() } else { format!("{} (not deterministic)", m.device) }
                })),
            ),
            ("Seeds", Some(words::list(&seeds)).filter(|list| !list.is_empty()).into_iter().collect()),
            ("Raw data", every(&|t| Some(format!("{} {}", t.node, t.source.clone()?)))),
            ("Artifacts made", self.span().into_iter().collect()),
        ]
    }

    fn span(&self) -> Option<String> {
        let (first, last) = (self.made().map(|m| &m.created).min()?, self.made().map(|m| &m.created).max()?);
        Some(if first == last { first.clone() } else { format!("{first} to {last}") })
    }

    /// The times of every stage.
    pub fn taken(&self) -> Vec<StageTimes> {
        let mut taken: Vec<StageTimes> = Vec::new();
        for m in self.made() {
            let stage = &m.identity.stage;
            match taken.iter_mut().find(|t| t.stage == *stage) {
                Some(t) => t.seconds.push(m.seconds),
                None => taken.push(StageTimes { stage: stage.clone(), seconds: vec![m.seconds] }),
            }
        }
        taken
    }

    /// What a stage does, as it describes itself.
    fn does(&self, stage: &str) -> &'static str {
        let of = |task: &&TaskRecord| task.manifest.as_ref().is_some_and(|m| m.identity.stage == stage);
        self.tasks.iter().find(of).map_or("", |task| task.does)
    }

    /// A table of the stages: versions, number of tasks, times and devices.
    pub fn times(&self) -> Table {
        let mut table = Table::new("times", "The time of every stage, from the manifests of its artifacts.")
            .texts("stage")
            .texts("what it does")
            .texts("versions")
            .numbers("tasks", &[""])
            .numbers("seconds per task", &["", "std"])
            .numbers("seconds, total", &[""])
            .texts("devices");
        let (mut versions, mut devices) = (BTreeMap::new(), BTreeMap::new());
        for m in self.made() {
            let entry = |map: &mut BTreeMap<String, Vec<String>>, value: String| {
                let values = map.entry(m.identity.stage.clone()).or_default();
                if !values.contains(&value) {
                    values.push(value);
                }
            };
            entry(&mut versions, m.identity.stage_version.to_string());
            entry(&mut devices, m.device.clone());
        }
        for StageTimes { stage, seconds } in self.taken() {
            let Some(e) = crate::statistics::Estimate::of(&seconds) else { continue };
            let total: f64 = seconds.iter().sum();
            let join = |map: &BTreeMap<String, Vec<String>>| map.get(&stage).map(|v| v.join(", ")).unwrap_or_default();
            table.push(vec![
                TableCell::text(&stage),
                TableCell::text(self.does(&stage)),
                TableCell::text(join(&versions)),
                TableCell::numbers(seconds.len().to_string(), vec![Some(seconds.len() as f64)]),
                TableCell::numbers(words::over_seeds(&e, 1), vec![Some(e.mean), Some(e.std)]),
                TableCell::numbers(words::number(total, 1), vec![Some(total)]),
                TableCell::text(join(&devices)),
            ]);
        }
        table
    }

    /// A table of all tasks with keys, seeds, versions, devices and times.
    pub fn table(&self) -> Table {
        let mut table = Table::new(
            "artifacts",
            "All artifacts of the pipelines. The key of an artifact is a hash of everything that decides its content.",
        )
        .texts("node")
        .texts("key")
        .texts("seed")
        .numbers("version", &[""])
        .texts("device")
        .texts("hemlock")
        .numbers("seconds", &[""])
        .texts("made")
        .texts("made for")
        .texts("content");
        for t in &self.tasks {
            let m = t.manifest.as_ref();
            let text = |of: fn(&Manifest) -> String| m.map_or_else(TableCell::none, |m| TableCell::text(of(m)));
            table.push(vec![
                TableCell::text(t.node),
                TableCell::text(&t.key).class("code"),
                TableCell::text(t.seed.map(|s| s.to_string()).unwrap_or_default()),
                TableCell::numbers(t.version.to_string(), vec![Some(f64::from(t.version))]),
                text(|m| m.device.clone()),
                text(|m| m.hemlock_version.clone()),
                m.map_or_else(TableCell::none, |m| {
                    TableCell::numbers(words::number(m.seconds, 1), vec![Some(m.seconds)])
                }),
                m.map_or_else(|| TableCell::text("missing"), |m| TableCell::text(&m.created)),
                TableCell::text(m.map_or(&t.pipeline, |m| &m.pipeline)),
                text(|m| m.content.to_string()[..16].to_owned()).class("code"),
            ]);
        }
        table
    }
}
