//! Solvers that move all poisons at once: projected gradient descent, Adam and L-BFGS, for every objective and
//! constraint.

mod state;

use crate::{Objective, ObjectiveGradient};
use hemlock_head::HeadError;
use hemlock_optim::{Adam, LbfgsMemory, Snapshot, half_cosine, inner};
use hemlock_threat::Project;
use ndarray::{Array2, Zip};
use serde::{Deserialize, Serialize};
use state::State;
use std::time::{Duration, Instant};

/// The fraction of the predicted decrease that a step of L-BFGS has to achieve (Armijo), and the number of step lengths
/// that it tries; each is half of the last.
const DECREASE: f64 = 1e-4;
const PROBES: usize = 20;
/// Relative improvements of the objective below this do not count as improvements.
const IMPROVEMENT: f64 = 1e-4;

/// The method that moves all poisons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Solver {
    /// Gradient descent at a fixed rate. The rate is chosen such that the first step moves no coordinate by more than
    /// [`Descent::step`].
    GradientDescent,
    /// Gradient descent on the norm of the residual, in sums over samples, and not on its square. The rate is absolute
    /// and falls to 0 along half a cosine, as in the authors' public script.
    NormDescent,
    /// Adam with a cosine schedule.
    Adam,
    /// L-BFGS along the projected path, with a backtracking line search.
    Lbfgs,
}

/// How poisons are moved, and when the search stops.
#[derive(Debug, Clone, Copy)]
pub struct Descent {
    /// The method.
    pub solver: Solver,
    /// Largest number of steps.
    pub steps: u32,
    /// Length of the first step for each coordinate, in the units of the features; for [`Solver::NormDescent`], the
    /// rate.
    pub step: f64,
    /// Number of steps after which labels are chosen again, by best response; `None` keeps the labels.
    pub label_update_interval: Option<u32>,
    /// Value of the objective at which the search stops.
    pub target: f64,
    /// Number of steps without improvement after which the search stops.
    pub patience: Option<u32>,
    /// Time after which the search stops. The result then depends on the machine.
    pub time: Option<Duration>,
}

impl Default for Descent {
    fn default() -> Self {
        Self {
            solver: Solver::Adam,
            steps: 100,
            step: 0.1,
            label_update_interval: None,
            target: f64::NEG_INFINITY,
            patience: None,
            time: None,
        }
    }
}

/// Why a solver stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// The objective reached [`Descent::target`].
    Target,
    /// All steps were taken.
    Steps,
    /// The objective did not improve for too long, or no step descends.
    Stall,
    /// The time was up.
    Time,
}

impl Stop {
    /// The reason in one word, as it stands in artifacts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::Steps => "steps",
            Self::Stall => "patience",
            Self::Time => "time",
        }
    }
}

/// The best poisons of a search, or the last ones if values cannot be compared ([`Objective::is_stochastic`]).
#[derive(Debug, Clone)]
pub struct Descended {
    /// The features, `[m, d]`.
    pub features: Array2<f64>,
    /// The labels, `[m]`.
    pub labels: Vec<u32>,
    /// The value of the objective for these poisons.
    pub value: f64,
    /// The step at which they were found.
    pub step: u32,
    /// Why the search ended.
    pub stopped: Stop,
}

/// What watches a search, and keeps its state so that another process can continue it.
pub trait SearchWatch<E> {
    /// Called before the first step and after every step, with the number of steps taken and the displayed objective.
    ///
    /// # Errors
    /// An error ends the search.
    fn visit(&mut self, step: u32, displayed: f64) -> Result<(), E>;

    /// The state that the search goes on from.
    fn resume(&mut self) -> Option<Snapshot> {
        None
    }

    /// Whether the state should be kept now. `stopping`: the search ends now with the error of a visit.
    fn is_due(&self, _stopping: bool) -> bool {
        false
    }

    /// Keeps a state.
    ///
    /// # Errors
    /// An error ends the search.
    fn keep(&mut self, _state: Snapshot) -> Result<(), E> {
        Ok(())
    }
}

/// A function that is called at every step.
struct Visit<F>(F);

impl<E, F: FnMut(u32, f64) -> Result<(), E>> SearchWatch<E> for Visit<F> {
    fn visit(&mut self, step: u32, displayed: f64) -> Result<(), E> {
        (self.0)(step, displayed)
    }
}

/// Minimises an objective over the features of the poisons within a constraint, starting from `start`. Labels are
/// chosen again if [`Descent::label_update_interval`] is set. `visit` is called before the first step and after every
/// step, with the number of steps taken and the displayed objective.
///
/// # Errors
/// Returns an error if the features do not fit the head or are not finite, or if `visit` returns an error.
pub fn descend<E: From<HeadError>>(
    objective: &mut dyn Objective,
    start: Array2<f64>,
    labels: Vec<u32>,
    constraint: &dyn Project,
    descent: &Descent,
    visit: impl FnMut(u32, f64) -> Result<(), E>,
) -> Result<Descended, E> {
    descend_watched(objective, (start, labels), constraint, descent, &mut Visit(visit))
}

/// [`descend`] that can be continued. A search that goes on from a state that was kept ends with the same bits as one
/// that was not interrupted. A state that does not fit is not used.
///
/// # Errors
/// Returns the errors of [`descend`] and of the watch.
pub fn descend_watched<E: From<HeadError>>(
    objective: &mut dyn Objective,
    (start, given): (Array2<f64>, Vec<u32>),
    constraint: &dyn Project,
    descent: &Descent,
    watch: &mut dyn SearchWatch<E>,
) -> Result<Descended, E> {
    let started = Instant::now();
    let kept = watch.resume().and_then(|state| match State::read(&state, objective, descent, start.dim()) {
        Ok(kept) => Some(kept),
        Err(reason) => {
            tracing::warn!("the checkpoint is not used, the search starts over: {reason}");
            None
        }
    });
    let State { mut z, mut labels, mut method, mut local, mut best, mut improved, mut step } = match kept {
        Some(kept) => kept,
        None => State::new(objective, (start, given), constraint, descent)?,
    };
    loop {
        let visited = watch.visit(step, objective.display_value(local.value));
        if watch.is_due(visited.is_err())
            && let Some(of_objective) = objective.state()
        {
            let state = State { z, labels, method, local, best, improved, step };
            watch.keep(state.write(of_objective))?;
            State { z, labels, method, local, best, improved, step } = state;
        }
        visited?;
        if local.value < best.value || objective.is_stochastic() {
            best = Best { value: local.value, step, left: None };
        }
        if best.value < improved.1 - IMPROVEMENT * improved.1.abs() {
            improved = (step, best.value);
        }
        let stop = if best.value <= descent.target {
            Some(Stop::Target)
        } else if step == descent.steps {
            Some(Stop::Steps)
        } else if descent.patience.is_some_and(|most| step - improved.0 >= most) {
            Some(Stop::Stall)
        } else {
            descent.time.is_some_and(|most| started.elapsed() >= most).then_some(Stop::Time)
        };
        if let Some(stopped) = stop {
            return Ok(best.found(z, labels, stopped));
        }
        let Some(next) = method.step(objective, &z, &labels, &local, constraint)? else {
            return Ok(best.found(z, labels, Stop::Stall));
        };
        let left = std::mem::replace(&mut z, next.features);
        best.left.get_or_insert_with(|| (left, labels.clone()));
        let relabel = descent.label_update_interval.is_some_and(|every| (step + 1).is_multiple_of(every));
        local = match next.local {
            Some(local) if !relabel => local,
            known => {
                if relabel {
                    labels = known.as_ref().unwrap_or(&local).best_labels(z.view())?;
                    constraint.project(&mut z, &labels);
                    method.forget();
                }
                objective.evaluate(z.view(), &labels)?
            }
        };
        step += 1;
    }
}

/// The best poisons so far.
struct Best {
    value: f64,
    step: u32,
    /// The poisons, or `None` while they are the current ones.
    left: Option<(Array2<f64>, Vec<u32>)>,
}

impl Best {
    /// The result of a search that ended at the given poisons.
    fn found(self, features: Array2<f64>, labels: Vec<u32>, stopped: Stop) -> Descended {
        let (features, labels) = self.left.unwrap_or((features, labels));
        Descended { features, labels, value: self.value, step: self.step, stopped }
    }
}

/// The state of a solver.
enum Method {
    GradientDescent {
        step: f64,
        rate: Option<f64>,
    },
    NormDescent {
        rate: f64,
        taken: u32,
        steps: u32,
    },
    Adam(Adam),
    /// L-BFGS; `gradient` is the gradient at the end of the last step.
    Lbfgs {
        step: f64,
        memory: LbfgsMemory,
        gradient: Option<Array2<f64>>,
    },
}

/// The end of a step, and the objective there if it was evaluated.
struct Next {
    features: Array2<f64>,
    local: Option<ObjectiveGradient>,
}

impl Method {
    fn new(descent: &Descent, shape: (usize, usize)) -> Self {
        let step = descent.step;
        match descent.solver {
            Solver::GradientDescent => Self::GradientDescent { step, rate: None },
            Solver::NormDescent => Self::NormDescent { rate: step, taken: 0, steps: descent.steps },
            Solver::Adam => Self::Adam(Adam::new(shape, step, descent.steps)),
            Solver::Lbfgs => Self::Lbfgs { step, memory: LbfgsMemory::new(), gradient: None },
        }
    }

    /// Discards what was learned with other labels.
    fn forget(&mut self) {
        if let Self::Lbfgs { memory, gradient, .. } = self {
            memory.clear();
            *gradient = None;
        }
    }

    /// The next point within the constraint; `None` if no step descends.
    fn step(
        &mut self,
        objective: &mut dyn Objective,
        z: &Array2<f64>,
        labels: &[u32],
        local: &ObjectiveGradient,
        constraint: &dyn Project,
    ) -> Result<Option<Next>, HeadError> {
        let mut features;
        match self {
            Self::GradientDescent { step, rate } => {
                let gradient = local.gradient(z.view(), labels)?;
                let rate = *rate.get_or_insert_with(|| *step / largest(&gradient));
                features = z.clone();
                features.scaled_add(-rate, &gradient);
            }
            Self::NormDescent { rate, taken, steps } => {
                let done = f64::from(*taken) / f64::from(*steps);
                let rate = *rate * half_cosine(done, 1.0);
                let rate = rate * objective.per_norm(local.value);
                features = z.clone();
                features.scaled_add(-rate, &local.gradient(z.view(), labels)?);
                *taken += 1;
            }
            Self::Adam(adam) => {
                features = z.clone();
                adam.step(&mut features, &local.gradient(z.view(), labels)?);
            }
            Self::Lbfgs { step, memory, gradient } => {
                let known = gradient.take();
                let slope = known.map_or_else(|| local.gradient(z.view(), labels), Ok)?;
                let here = Here { z, labels, local, gradient: &slope, constraint };
                let Some((next, there)) = here.search(objective, *step, memory)? else { return Ok(None) };
                *gradient = Some(there);
                return Ok(Some(next));
            }
        }
        constraint.project(&mut features, labels);
        Ok(Some(Next { features, local: None }))
    }
}

/// The start of a step of L-BFGS.
struct Here<'a> {
    z: &'a Array2<f64>,
    labels: &'a [u32],
    local: &'a ObjectiveGradient,
    gradient: &'a Array2<f64>,
    constraint: &'a dyn Project,
}

impl Here<'_> {
    /// Backtracks along the projected path until the objective decreases enough. If it never does, the memory is
    /// cleared and the search repeats along the negative gradient; returns `None` if that fails, too. Also returns the
    /// gradient at the new point.
    fn search(
        &self,
        objective: &mut dyn Objective,
        step: f64,
        memory: &mut LbfgsMemory,
    ) -> Result<Option<(Next, Array2<f64>)>, HeadError> {
        loop {
            let mut direction = memory.direction(self.gradient);
            if memory.is_empty() {
                direction *= step / largest(self.gradient);
            }
            let mut length = 1.0;
            for _ in 0..PROBES {
                let mut features = Zip::from(self.z).and(&direction).map_collect(|z, along| z + length * along);
                self.constraint.project(&mut features, self.labels);
                let moved = &features - self.z;
                let promised = inner(self.gradient, &moved);
                if promised < 0.0 {
                    let next = objective.evaluate(features.view(), self.labels)?;
                    if next.value <= self.local.value + DECREASE * promised {
                        let gradient = next.gradient(features.view(), self.labels)?;
                        memory.push(moved, &gradient - self.gradient);
                        return Ok(Some((Next { features, local: Some(next) }, gradient)));
                    }
                }
                length *= 0.5;
            }
            if memory.is_empty() {
                return Ok(None);
            }
            memory.clear();
        }
    }
}

fn largest(gradient: &Array2<f64>) -> f64 {
    gradient.fold(f64::MIN_POSITIVE, |most, g| g.abs().max(most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Clouds, clouds};
    use crate::{BilevelObjective, CancelingObjective, InnerLoop};
    use hemlock_head::Head;
    use hemlock_threat::Constraint;
    use ndarray::{ArrayView2, array};

    /// An objective with a constant adjoint. At a head of zeros, it moves a poison along the weights of its label.
    struct Pull(Head);

    impl Objective for Pull {
        fn evaluate(&mut self, z: ArrayView2<f64>, labels: &[u32]) -> Result<ObjectiveGradient, HeadError> {
            let head = Head::zeros(2, z.ncols())?;
            let samples = hemlock_head::Samples::new(z, labels, 2)?;
            let gradient = hemlock_head::gradient_sum(&head, &[samples])?;
            let value = inner(&gradient, &self.0.packed().to_owned());
            Ok(ObjectiveGradient::new(value, head, self.0.packed().to_owned()))
        }
        fn display_value(&self, value: f64) -> f64 {
            value
        }
    }

    fn run(descent: &Descent) -> Descended {
        // <adjoint, g> is -z_0 for label 0 and +z_0 for label 1, so the minimum over a ball is on its boundary.
        let mut pull = Pull(Head::from_packed(array![[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]).unwrap());
        let ball = Constraint::ball(2.0);
        descend(&mut pull, array![[0.5, 1.0], [0.5, -1.0]], vec![0, 1], &ball, descent, |_, _| Ok::<_, HeadError>(()))
            .unwrap()
    }

    #[test]
    fn every_solver_goes_to_the_rim() {
        for solver in [Solver::GradientDescent, Solver::Adam, Solver::Lbfgs] {
            let found = run(&Descent { solver, steps: 300, step: 0.3, ..Descent::default() });
            assert!((found.value + 4.0).abs() < 1e-2, "{solver:?}: {found:?}");
            assert_eq!(found.labels, [0, 1]);
        }
    }

    /// The memory layout of the features does not affect the result.
    #[test]
    fn columns_may_lie_one_after_another() {
        let pull = Pull(Head::from_packed(array![[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]).unwrap());
        let start = array![[0.5, 1.0], [0.5, -1.0]];
        let by_columns = start.t().as_standard_layout().into_owned().reversed_axes();
        assert!(!by_columns.is_standard_layout() && by_columns == start);
        let run = |start| {
            let descent = Descent { solver: Solver::Lbfgs, steps: 30, step: 0.3, ..Descent::default() };
            let visit = |_, _| Ok::<_, HeadError>(());
            descend(&mut Pull(pull.0.clone()), start, vec![0, 1], &Constraint::ball(2.0), &descent, visit).unwrap()
        };
        assert_eq!(run(by_columns).features, run(start).features);
    }

    #[test]
    fn labels_are_chosen_anew() {
        // The second poison starts where the other label is better.
        let found = run(&Descent { steps: 300, step: 0.3, label_update_interval: Some(1), ..Descent::default() });
        assert!((found.value + 4.0).abs() < 1e-2, "{found:?}");
        assert_eq!(found.labels, [0, 0]);
    }

    /// Keeps the state before step `at`, as bytes, and ends the search there.
    struct Interrupted {
        at: u32,
        kept: Option<Vec<u8>>,
        seen: Vec<u32>,
    }

    impl SearchWatch<HeadError> for Interrupted {
        fn visit(&mut self, step: u32, _: f64) -> Result<(), HeadError> {
            self.seen.push(step);
            if step == self.at { Err(HeadError::Empty) } else { Ok(()) }
        }
        fn resume(&mut self) -> Option<Snapshot> {
            self.kept.take().map(|bytes| Snapshot::from_bytes(&bytes).unwrap())
        }
        fn is_due(&self, stopping: bool) -> bool {
            stopping
        }
        fn keep(&mut self, state: Snapshot) -> Result<(), HeadError> {
            self.kept = Some(state.to_bytes().unwrap());
            Ok(())
        }
    }

    #[test]
    fn a_search_that_was_interrupted_ends_with_the_same_bits() {
        let setting = Clouds::new();
        let (start, labels) = clouds(8, 5);
        let (clean, raised) = (setting.clean(), vec![setting.validation()]);
        let target = Head::from_packed(&setting.head.packed() * 0.6).unwrap();
        let set = Constraint::new(&"ball".parse().unwrap(), clean, 0.9, 3).unwrap();
        let canceling = || CancelingObjective::new(&target, clean, 1e-2).unwrap();
        let bilevel = || BilevelObjective::new(clean, raised.clone(), setting.head.clone(), 1e-2, 1.0).unwrap();
        let inner = InnerLoop { steps: 3, learning_rate: 0.1, batch: 16 };
        let tgda = || BilevelObjective::tgda(clean, raised.clone(), setting.head.clone(), 1e-2, inner, 3).unwrap();
        let objectives: [&dyn Fn() -> Box<dyn Objective>; 3] =
            [&|| Box::new(canceling()), &|| Box::new(bilevel()), &|| Box::new(tgda())];
        for solver in [Solver::GradientDescent, Solver::NormDescent, Solver::Adam, Solver::Lbfgs] {
            let descent =
                Descent { solver, steps: 12, step: 0.3, label_update_interval: Some(5), ..Descent::default() };
            for objective in objectives {
                let run = |watch: &mut dyn SearchWatch<HeadError>| {
                    descend_watched(&mut *objective(), (start.clone(), labels.clone()), &set, &descent, watch)
                };
                let whole = run(&mut Visit(|_, _| Ok(()))).unwrap();
                for at in [1, 6, 7] {
                    let mut watch = Interrupted { at, kept: None, seen: Vec::new() };
                    if run(&mut watch).is_ok() {
                        // The search ended before that step.
                        continue;
                    }
                    watch.at = u32::MAX;
                    let resumed = run(&mut watch).unwrap();
                    assert_eq!(resumed.features, whole.features, "{solver:?} {at}");
                    let found =
                        |found: &Descended| (found.labels.clone(), found.value.to_bits(), found.step, found.stopped);
                    assert_eq!(found(&resumed), found(&whole));
                    assert_eq!(watch.seen[at as usize + 1], at, "it goes on at the step where it was interrupted");
                }
            }
        }
    }

    #[test]
    fn a_state_that_does_not_fit_is_not_used() {
        let setting = Clouds::new();
        let (start, labels) = clouds(8, 5);
        let set = Constraint::ball(3.0);
        let run = |solver, watch: &mut Interrupted| {
            let mut objective = CancelingObjective::new(&setting.head, setting.clean(), 1e-2).unwrap();
            let descent = Descent { solver, steps: 9, ..Descent::default() };
            descend_watched(&mut objective, (start.clone(), labels.clone()), &set, &descent, watch)
        };
        let mut watch = Interrupted { at: 4, kept: None, seen: Vec::new() };
        run(Solver::Adam, &mut watch).unwrap_err();
        let of_adam = watch.kept.take().map(|bytes| Snapshot::from_bytes(&bytes).unwrap()).unwrap();
        run(Solver::Lbfgs, &mut watch).unwrap_err();
        let of_lbfgs = watch.kept.take().map(|bytes| Snapshot::from_bytes(&bytes).unwrap()).unwrap();
        let other = Array2::zeros((2, 2));
        for (solver, state) in [
            (Solver::Lbfgs, of_adam.clone()),
            (Solver::Adam, of_adam.clone().with_matrix("method.first", &other)),
            (Solver::Adam, of_adam.clone().with_matrix("z", &other)),
            (Solver::Adam, of_adam.with_matrix("local.0.adjoint", &other)),
            (Solver::Lbfgs, of_lbfgs.clone().with_matrix("method.gradient", &other)),
            (Solver::Lbfgs, of_lbfgs.with_matrix("method.0", &other)),
        ] {
            watch = Interrupted { at: u32::MAX, kept: Some(state.to_bytes().unwrap()), seen: Vec::new() };
            run(solver, &mut watch).unwrap();
            assert_eq!(watch.seen[0], 0);
        }
    }

    #[test]
    fn says_why_it_stops() {
        let all = Descent { steps: 300, step: 0.3, ..Descent::default() };
        assert_eq!(run(&Descent { target: -3.0, ..all }).stopped, Stop::Target);
        assert_eq!(run(&Descent { steps: 2, ..all }).stopped, Stop::Steps);
        assert_eq!(run(&Descent { patience: Some(20), ..all }).stopped, Stop::Stall);
        assert_eq!(run(&Descent { time: Some(Duration::ZERO), ..all }).stopped, Stop::Time);
    }
}
