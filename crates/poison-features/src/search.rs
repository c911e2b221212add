//! Starts poisons and moves them. With adversarial labels, it searches several times and takes the best result.

use crate::journal::{Journal, Watch};
use crate::{Params, SolverKind};
use hemlock_artifact::{AttackSpec, CurvePoint, PoisonFeatures};
use hemlock_attack::adaptive::{self, AdaptivePoisons, Evasion, move_back};
use hemlock_attack::{
    Base, Descent, InitialPoisons, Initialization, Labels, Objective, Solver, Start, Stop, descend_watched,
    nearest_samples,
};
use hemlock_head::Samples;
use hemlock_stage::{Bar, Context, StageError};
use hemlock_threat::{Constraint, Project};
use ndarray::Array2;
use std::cell::RefCell;
use std::time::Duration;

/// The poisons of one search, and how it went.
#[derive(Clone)]
pub(crate) struct FoundPoisons {
    pub(crate) start: InitialPoisons,
    pub(crate) curve: Vec<CurvePoint>,
    /// The value of the objective at the end; `objective` is the displayed one.
    pub(crate) value: f64,
    objective: f64,
    stopped: Stop,
    /// With adversarial labels: the distance in the displayed objective between the best search and the search that has
    /// adversarial labels from its own start. It is 0 if the latter is the best.
    pub(crate) gap: Option<f64>,
}

/// The solver that moves poisons, its largest number of steps, and the length of the first one.
#[derive(Clone, Copy)]
struct Pace {
    solver: Solver,
    steps: u32,
    step: f64,
}

/// The length of the first step in a turn with a filter, as a share of what it is without one. All turns together take
/// half as many steps. Short ways leave poisons closer to what the filter kept, and each retrained head closer to the
/// last one.
const STEP_OF_TURN: f64 = 0.5;

/// The inputs of the search for poisons.
pub(crate) struct Search<'a> {
    pub(crate) params: &'a Params,
    pub(crate) clean: Samples<'a>,
    pub(crate) count: usize,
    pub(crate) constraint: &'a Constraint,
    pub(crate) ctx: &'a Context<'a>,
    /// What is kept of the searches.
    pub(crate) journal: RefCell<Journal>,
}

impl Search<'_> {
    /// Searches for poisons.
    ///
    /// Adversarial labels include clean labels as a special case, so they must not give a worse result. There are three
    /// searches, and the best result is taken: one with clean labels, one with adversarial labels from its own start,
    /// and one with adversarial labels from the end of the first (not with `conditional-gradient`). If the objective is
    /// stochastic, values cannot be compared, and there is one search.
    pub(crate) fn make(&self, objective: &mut dyn Objective) -> Result<FoundPoisons, StageError> {
        if self.params.labels != Labels::Adversarial || objective.is_stochastic() {
            return self.search(objective, self.params.labels, None);
        }
        let kept = self.search(objective, Labels::Clean, None)?;
        let alone = self.search(objective, Labels::Adversarial, None)?;
        let gap = |best: &FoundPoisons| Some((best.objective - alone.objective).abs());
        let mut best = kept;
        if self.params.solver != SolverKind::ConditionalGradient {
            let onwards = self.search(objective, Labels::Adversarial, Some(&best))?;
            best = if onwards.value < best.value { onwards } else { best };
        }
        if alone.value <= best.value {
            return Ok(FoundPoisons { gap: Some(0.0), ..alone });
        }
        Ok(FoundPoisons { gap: gap(&best), ..best })
    }

    /// One search with the given labels, either from the start that the parameters name or from the end of another
    /// search.
    fn search(
        &self,
        objective: &mut dyn Objective,
        labels: Labels,
        from: Option<&FoundPoisons>,
    ) -> Result<FoundPoisons, StageError> {
        let params = self.params;
        let (start, greedy) = match from {
            // Labels are chosen here if no step of the search chooses them.
            Some(found) => (onwards(objective, &found.start, params.label_update_interval().is_none())?, Vec::new()),
            None => self.start(objective, labels)?,
        };
        let Some(solver) = solver(params.solver) else {
            let value = objective.evaluate(start.features.view(), &start.labels)?.value;
            let objective = objective.display_value(value);
            return Ok(FoundPoisons { start, curve: greedy, value, objective, stopped: Stop::Steps, gap: None });
        };
        let before = from.map_or(&[][..], |found| &found.curve);
        let pace = Pace { solver, steps: params.steps(), step: self.step(solver) };
        self.descend(objective, labels, start, before, pace, self.constraint)
    }

    /// The length of the first step, in the solver's unit.
    fn step(&self, solver: Solver) -> f64 {
        let unit = if solver == Solver::NormDescent { 1.0 } else { root_mean_square(self.clean) };
        self.params.step() * unit
    }

    /// Moves poisons at a pace. `before` is the curve that led to them.
    fn descend(
        &self,
        objective: &mut dyn Objective,
        labels: Labels,
        start: InitialPoisons,
        before: &[CurvePoint],
        Pace { solver, steps, step }: Pace,
        set: &dyn Project,
    ) -> Result<FoundPoisons, StageError> {
        let Self { params, clean, ctx, .. } = *self;
        let descent = Descent {
            solver,
            steps,
            step,
            label_update_interval: if labels == Labels::Adversarial { params.label_update_interval() } else { None },
            target: objective.stop_value(params.tolerance),
            patience: params.patience,
            time: params.max_seconds.map(Duration::from_secs_f64),
        };
        let mut record = Record::new("poisons", descent.steps, ctx);
        let InitialPoisons { base, features, labels: given } = start;
        let mut journal = self.journal.borrow_mut();
        let (found, curve) = match journal.next_ended(objective) {
            Some(ended) => ended,
            None => {
                let mut watch = Watch { record: &mut record, journal: &mut journal, ctx };
                let found = descend_watched(objective, (features, given), set, &descent, &mut watch)?;
                journal.end(&found, &record.curve, objective);
                (found, record.curve)
            }
        };
        let base = match params.base() {
            Base::Start => base,
            Base::Nearest => nearest_samples(&found.features, &found.labels, clean, labels.base_class()),
        };
        let taken = before.last().map_or(0, |point| point.step + 1);
        let after = curve.into_iter().map(|point| CurvePoint { step: point.step + taken, ..point });
        Ok(FoundPoisons {
            value: found.value,
            objective: objective.display_value(found.value),
            stopped: found.stopped,
            start: InitialPoisons { base, features: found.features, labels: found.labels },
            curve: before.iter().cloned().chain(after).collect(),
            gap: None,
        })
    }

    /// Adapts poisons to a filter, see [`adaptive`]. The value of the result is that of the poisons which the filter
    /// keeps.
    pub(crate) fn adapt(
        &self,
        objective: &mut dyn Objective,
        evasion: &Evasion,
        found: FoundPoisons,
    ) -> Result<FoundPoisons, StageError> {
        let Some(solver) = solver(self.params.solver) else { return Ok(found) };
        let (gap, steps) = (found.gap, adaptive::steps_of_turn(self.params.steps().div_ceil(2)));
        let pace = Pace { solver, steps, step: STEP_OF_TURN * self.step(solver) };
        let mut poisons = AdaptiveSearch { search: self, pace, best: found.clone(), now: found };
        evasion.adapt(objective, self.constraint, &mut poisons)?;
        let objective = objective.display_value(poisons.best.value);
        Ok(FoundPoisons { gap, objective, ..poisons.best })
    }

    /// The start that the parameters name, and the curve of a greedy search for it. Conditional gradient is such a
    /// search, with sweeps over all poisons, and does not move them afterwards.
    fn start(
        &self,
        objective: &mut dyn Objective,
        labels: Labels,
    ) -> Result<(InitialPoisons, Vec<CurvePoint>), StageError> {
        let Self { params, clean, count, constraint, ctx, .. } = *self;
        let (kind, sweeps) = match params.solver {
            SolverKind::ConditionalGradient => (Start::Greedy, params.steps()),
            _ => (params.start(), 0),
        };
        let plan = Initialization { clean, count, kind, labels, sweeps, seed: ctx.seed };
        let mut greedy: Option<Record> = None;
        let start = plan.make(objective, constraint, &mut |at, value| {
            let steps = (sweeps + 1).saturating_mul(count as u32);
            greedy.get_or_insert_with(|| Record::new("greedy", steps, ctx)).point(at, value)
        })?;
        Ok((start, greedy.map(|greedy| greedy.curve).unwrap_or_default()))
    }
}

/// A search that takes turns with a filter.
struct AdaptiveSearch<'a, 's> {
    search: &'a Search<'s>,
    /// The pace in a turn.
    pace: Pace,
    now: FoundPoisons,
    best: FoundPoisons,
}

impl AdaptivePoisons for AdaptiveSearch<'_, '_> {
    fn labels(&self) -> &[u32] {
        &self.now.start.labels
    }

    fn features(&self) -> Result<Array2<f64>, StageError> {
        Ok(self.now.start.features.clone())
    }

    fn back(&mut self, rows: &[usize], share: f64, least: &[Option<usize>]) -> Result<Array2<f64>, StageError> {
        self.search.ctx.check()?;
        let InitialPoisons { features, labels, .. } = &mut self.now.start;
        Ok(move_back(features, labels, (rows, share, least), self.search.clean, self.search.constraint))
    }

    fn descend(&mut self, objective: &mut dyn Objective, set: &dyn Project) -> Result<(), StageError> {
        let FoundPoisons { start, curve, .. } = self.now.clone();
        self.now = self.search.descend(objective, self.search.params.labels, start, &curve, self.pace, set)?;
        Ok(())
    }

    fn remember(&mut self, value: f64) {
        self.best = FoundPoisons { value, ..self.now.clone() };
    }
}

/// The solver that moves poisons; `None` if they stay where they start.
fn solver(kind: SolverKind) -> Option<Solver> {
    match kind {
        SolverKind::ConditionalGradient => None,
        SolverKind::GradientDescent => Some(Solver::GradientDescent),
        SolverKind::NormDescent => Some(Solver::NormDescent),
        SolverKind::Adam => Some(Solver::Adam),
        SolverKind::Lbfgs => Some(Solver::Lbfgs),
    }
}

/// A start at the end of another search. `relabel`: labels are chosen here, because no step of the search chooses them.
fn onwards(objective: &mut dyn Objective, end: &InitialPoisons, relabel: bool) -> Result<InitialPoisons, StageError> {
    let InitialPoisons { base, features, labels } = end;
    let labels = if relabel {
        objective.evaluate(features.view(), labels)?.best_labels(features.view())?
    } else {
        labels.clone()
    };
    Ok(InitialPoisons { base: base.clone(), features: features.clone(), labels })
}

/// The root mean square of all coordinates of some samples.
fn root_mean_square(samples: Samples) -> f64 {
    let square: f64 = samples.chunks().map(|c| c.to_f64().iter().map(|z| z * z).sum::<f64>()).sum();
    (square / (samples.len() * samples.dim()) as f64).sqrt()
}

impl FoundPoisons {
    pub(crate) fn artifact(self, params: &Params, spec: AttackSpec, bound: Option<f64>) -> PoisonFeatures {
        PoisonFeatures {
            features: self.start.features.mapv(|x| x as f32),
            labels: self.start.labels,
            base_index: self.start.base,
            spec,
            clean_label: params.labels == Labels::Clean,
            poison_fraction: params.poison_fraction,
            objective: self.objective,
            bound,
            gap: self.gap,
            stopped: self.stopped.name().to_owned(),
            curve: self.curve,
        }
    }
}

/// The curve of an attack, which is reported as progress while it grows.
pub(crate) struct Record<'a> {
    ctx: &'a Context<'a>,
    bar: Box<dyn Bar>,
    every: u32,
    pub(crate) curve: Vec<CurvePoint>,
}

impl<'a> Record<'a> {
    fn new(label: &str, steps: u32, ctx: &'a Context<'a>) -> Self {
        let bar = ctx.progress.start(label, steps.into(), "steps");
        Self { ctx, bar, every: steps.div_ceil(200).max(1), curve: Vec::new() }
    }

    pub(crate) fn point(&mut self, step: u32, objective: f64) -> Result<(), StageError> {
        if step.is_multiple_of(self.every) {
            self.curve.push(CurvePoint { step, objective });
            self.bar.at(step.into());
            self.bar.say(format!("{objective:.4}"));
        }
        self.ctx.check()
    }
}
