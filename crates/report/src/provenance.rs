//! The provenance of a report: tasks, keys, versions, devices, and times.

use crate::{
    ReportError,
    evidence::Evidence,
    table::{Cell, Table},
    words,
};
use hemlock_store::Manifest;
use std::collections::BTreeMap;

/// The tasks of all pipelines, each once, with the manifests of their artifacts.
pub struct Provenance {
    tasks: Vec<Record>,
}

struct Record {
    pipeline: String,
    node: &'static str,
    key: String,
    manifest: Option<Manifest>,
    seed: Option<u64>,
    version: u32,
    source: Option<String>,
}

/// The times of a stage's tasks.
pub struct Taken {
    /// The name of the stage.
    pub stage: String,
    /// The time of every task, in seconds.
    pub seconds: Vec<f64>,
}

impl Provenance {
    /// Reads the manifests of all tasks.
    pub fn new(evidence: &Evidence) -> Result<Self, ReportError> {
        let mut tasks: Vec<Record> = Vec::new();
        for m in &evidence.measured {
            for task in &m.subject.plan.tasks {
                let key = task.key.to_string();
                if tasks.iter().any(|t| t.key == key) {
                    continue;
                }
                tasks.push(Record {
                    pipeline: m.subject.spec.name.clone(),
                    node: task.node,
                    key,
                    manifest: evidence.manifest(task)?,
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
        let every = |of: &dyn Fn(&Record) -> Option<String>| {
            let mut values: Vec<String> = self.tasks.iter().filter_map(of).collect();
            values.sort();
            values.dedup();
            values
        };
        let of = |f: fn(&Manifest) -> String| move |t: &Record| t.manifest.as_ref().map(f);
        let mut seeds: Vec<u64> = self.tasks.iter().filter_map(|t| t.seed).collect();
        seeds.sort_unstable();
        seeds.dedup();
        vec![
            ("Versions of Hemlock", every(&of(|m| m.hemlock_version.clone()))),
            (
                "Devices",
                every(&of(|m| {
                    if m.deterministic { m.device.clone() } else { format!("{} (not deterministic)", m.device) }
                })),
            ),
            ("Seeds", vec![words::list(&seeds.iter().map(u64::to_string).collect::<Vec<_>>())]),
            ("Raw data", every(&|t| Some(format!("{} {}", t.node, t.source.clone()?)))),
            ("Artifacts made", self.span().into_iter().collect()),
        ]
    }

    fn span(&self) -> Option<String> {
        let (first, last) = (self.made().map(|m| &m.created).min()?, self.made().map(|m| &m.created).max()?);
        Some(if first == last { first.clone() } else { format!("{first} to {last}") })
    }

    /// The times of every stage.
    pub fn taken(&self) -> Vec<Taken> {
        let mut taken: Vec<Taken> = Vec::new();
        for m in self.made() {
            let stage = &m.identity.stage;
            match taken.iter_mut().find(|t| t.stage == *stage) {
                Some(t) => t.seconds.push(m.seconds),
                None => taken.push(Taken { stage: stage.clone(), seconds: vec![m.seconds] }),
            }
        }
        taken
    }

    /// A table of the stages: versions, number of tasks, times and devices.
    pub fn times(&self) -> Table {
        let mut table = Table::new("times", "Time of every stage, from the manifests of its artifacts.")
            .texts("stage")
            .texts("versions")
            .numbers("tasks", &[""])
            .numbers("seconds a task", &["", "std"])
            .numbers("seconds in all", &[""])
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
        for Taken { stage, seconds } in self.taken() {
            let Some(e) = crate::statistics::Estimate::of(&seconds) else { continue };
            let total: f64 = seconds.iter().sum();
            let join = |map: &BTreeMap<String, Vec<String>>| map.get(&stage).map(|v| v.join(", ")).unwrap_or_default();
            table.push(vec![
                Cell::text(&stage),
                Cell::text(join(&versions)),
                Cell::numbers(seconds.len().to_string(), vec![Some(seconds.len() as f64)]),
                Cell::numbers(words::over_seeds(&e, 1), vec![Some(e.mean), Some(e.std)]),
                Cell::numbers(words::number(total, 1), vec![Some(total)]),
                Cell::text(join(&devices)),
            ]);
        }
        table
    }

    /// A table of all tasks with keys, seeds, versions, devices and times.
    pub fn table(&self) -> Table {
        let mut table = Table::new(
            "artifacts",
            "Every artifact that the pipelines consist of. A key is a hash of all that decides the content.",
        )
        .texts("node")
        .texts("key")
        .texts("seed")
        .numbers("version", &[""])
        .texts("device")
        .texts("hemlock")
        .numbers("seconds", &[""])
        .texts("made")
        .texts("first for")
        .texts("content");
        for t in &self.tasks {
            let m = t.manifest.as_ref();
            let text = |of: fn(&Manifest) -> String| m.map_or_else(Cell::none, |m| Cell::text(of(m)));
            table.push(vec![
                Cell::text(t.node),
                Cell::text(&t.key).class("code"),
                Cell::text(t.seed.map(|s| s.to_string()).unwrap_or_default()),
                Cell::numbers(t.version.to_string(), vec![Some(f64::from(t.version))]),
                text(|m| m.device.clone()),
                text(|m| m.hemlock_version.clone()),
                m.map_or_else(Cell::none, |m| Cell::numbers(words::number(m.seconds, 1), vec![Some(m.seconds)])),
                m.map_or_else(|| Cell::text("not there yet"), |m| Cell::text(&m.created)),
                Cell::text(m.map_or(&t.pipeline, |m| &m.pipeline)),
                text(|m| m.content.to_string()[..16].to_owned()).class("code"),
            ]);
        }
        table
    }
}
