//! What is kept of unfinished searches, so that a run that was stopped goes on where it was.

use std::time::{Duration, Instant};

use hemlock_artifact::CurvePoint;
use hemlock_attack::{Descended, Objective, SearchWatch};
use hemlock_optim::Snapshot;
use hemlock_stage::{Context, StageError};

use crate::search::Record;

/// The time between two checkpoints.
const INTERVAL: Duration = Duration::from_secs(120);

/// The searches of a run, in their order: those that ended, and the state of the one that goes on.
pub(crate) struct Journal {
    /// What an earlier run kept.
    kept: Option<Snapshot>,
    ended: Vec<Snapshot>,
    saved: Instant,
}

impl Journal {
    /// The journal that an earlier run kept; an empty one if there is none, or if it cannot be read.
    pub(crate) fn load(ctx: &Context<'_>) -> Self {
        let found = ctx.checkpoints.load().map_err(|e| e.to_string());
        let read = found.and_then(|bytes| bytes.map(|bytes| Snapshot::from_bytes(&bytes)).transpose());
        let kept = read.unwrap_or_else(|reason| {
            tracing::warn!("the checkpoint is not used, the search starts over: {reason}");
            None
        });
        Self { kept, ended: Vec::new(), saved: Instant::now() }
    }

    /// The end of the next search and its curve, if an earlier run kept them. The objective is then as it was there.
    pub(crate) fn next_ended(&mut self, objective: &mut dyn Objective) -> Option<(Descended, Vec<CurvePoint>)> {
        let kept = self.kept.as_ref()?;
        let next = self.ended.len();
        if next >= kept.get("search").unwrap_or(0) {
            return None;
        }
        let ended = kept.under(&format!("ended.{next}"));
        let mut read = || -> Result<_, String> {
            let found = Descended::from_state(&ended.under("found"))?;
            let curve = ended.get("curve")?;
            objective.restore(&ended.under("objective"))?;
            Ok((found, curve))
        };
        match read() {
            Ok(found) => {
                self.ended.push(ended);
                Some(found)
            }
            Err(reason) => {
                tracing::warn!("the checkpoint is not used: {reason}");
                self.kept = None;
                None
            }
        }
    }

    /// Notes the end of a search.
    pub(crate) fn end(&mut self, found: &Descended, curve: &[CurvePoint], objective: &dyn Objective) {
        let state = Snapshot::default().with("curve", curve).with_all("found", found.state());
        self.ended.push(state.with_all("objective", objective.state().unwrap_or_default()));
    }
}

/// Shows the progress of a search, and keeps its state.
pub(crate) struct Watch<'a, 'c> {
    pub(crate) record: &'a mut Record<'c>,
    pub(crate) journal: &'a mut Journal,
    pub(crate) ctx: &'a Context<'c>,
}

impl SearchWatch<StageError> for Watch<'_, '_> {
    fn visit(&mut self, step: u32, displayed: f64) -> Result<(), StageError> {
        self.record.point(step, displayed)
    }

    fn resume(&mut self) -> Option<Snapshot> {
        let kept = self.journal.kept.take()?;
        if kept.get("search") != Ok(self.journal.ended.len()) {
            return None;
        }
        self.record.curve = kept.get("curve").ok()?;
        Some(kept.under("state"))
    }

    fn is_due(&self, stopping: bool) -> bool {
        stopping || self.journal.saved.elapsed() >= INTERVAL
    }

    fn keep(&mut self, state: Snapshot) -> Result<(), StageError> {
        let ended = self.journal.ended.iter().enumerate();
        // The search visits its step again.
        let step = state.get("step").unwrap_or(u32::MAX);
        let curve: Vec<&CurvePoint> = self.record.curve.iter().filter(|point| point.step < step).collect();
        let all =
            Snapshot::default().with("search", self.journal.ended.len()).with("curve", curve).with_all("state", state);
        let all = ended.fold(all, |all, (i, search)| all.with_all(&format!("ended.{i}"), search.clone()));
        match all.to_bytes() {
            Ok(bytes) => self.ctx.checkpoints.save(&bytes)?,
            Err(reason) => tracing::warn!("no checkpoint is kept: {reason}"),
        }
        self.journal.saved = Instant::now();
        Ok(())
    }
}
