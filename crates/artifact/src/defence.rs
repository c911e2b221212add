//! Defences.

use crate::evaluation::OutcomeInfo;
use crate::{Answers, Outcome};
use hemlock_store::{Artifact, PayloadReader, PayloadWriter, StoreError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a filter removed from a training set. Shares are in `[0, 1]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Detection {
    /// Removed poisons, as a share of all poisons. `None` without poisons.
    pub recall: Option<f64>,
    /// Removed clean samples, as a share of all clean samples. `None` without clean samples.
    pub false_positives: Option<f64>,
    /// Probability that a poison is more suspicious than a clean sample: the area under the curve of the recall over
    /// the false positives. `None` without poisons.
    pub auroc: Option<f64>,
    /// Removed samples, as a share of all samples.
    pub removed: f64,
}

/// A defence, and what it does to a victim that trains on clean data.
#[derive(Debug, Clone)]
pub struct Defence {
    /// The name of its kind, such as `sphere`.
    pub kind: String,
    /// The parameters of the stage that made it, as JSON; they say how it works.
    pub params: String,
    /// The outcome of training on clean data with the defence.
    pub clean: Outcome,
    /// What it removes from clean data.
    pub detection: Detection,
}

#[derive(Serialize, Deserialize)]
struct DefenceInfo {
    kind: String,
    params: String,
    clean: OutcomeInfo,
    detection: Detection,
}

impl Artifact for Defence {
    const KIND: &'static str = "defence";

    fn write(&self, w: &mut PayloadWriter) -> Result<(), StoreError> {
        let Self { kind, params, clean, detection } = self;
        let (kind, params) = (kind.clone(), params.clone());
        w.value("info", &DefenceInfo { kind, params, clean: clean.info(), detection: *detection })?;
        Answers::write(w, &[&self.clean.answers])?;
        self.clean.write_head(w, "clean")
    }

    fn read(r: &PayloadReader) -> Result<Self, StoreError> {
        let DefenceInfo { kind, params, clean, detection } = r.value("info")?;
        let answers = Answers::read(r, 1)?.pop().expect("as many were read as were asked for");
        Ok(Self { kind, params, clean: Outcome::read(r, clean, answers, "clean")?, detection })
    }

    fn summary(&self) -> serde_json::Value {
        let (clean, removed) = (self.clean.accuracy.overall, self.detection.removed);
        serde_json::json!({ "kind": self.kind, "clean": clean, "removed": removed })
    }
}
