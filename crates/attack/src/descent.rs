//! Solvers that move all poisons at once: projected gradient descent, Adam and L-BFGS, for any objective and
//! constraint.

use crate::{Objective, ObjectiveGradient};
use hemlock_head::HeadError;
use hemlock_optim::{Adam, LbfgsMemory, half_cosine, inner};
use hemlock_threat::Constraint;
use ndarray::{Array2, Zip};
use std::time::{Duration, Instant};

/// The share of the promised decrease that a step of L-BFGS must bring (Armijo), and how often it is halved for that.
const DECREASE: f64 = 1e-4;
const PROBES: usize = 20;
/// An improvement below this share of the objective is none.
const IMPROVEMENT: f64 = 1e-4;

/// How all poisons are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Solver {
    /// Along the gradient, at a fixed rate: that at which the first step moves a coordinate by the step's length at
    /// most.
    GradientDescent,
    /// Along the gradient of the norm that is left, in sums over samples, rather than of its square, at an absolute
    /// rate that falls to 0 along half a cosine: as in the authors' public script.
    NormDescent,
    /// Adam with a cosine schedule.
    Adam,
    /// L-BFGS along the projected path, with a line search.
    Lbfgs,
}

/// How poisons are moved, and until when.
#[derive(Debug, Clone, Copy)]
pub struct Descent {
    /// The method.
    pub solver: Solver,
    /// Steps at most.
    pub steps: u32,
    /// Length of the first step per coordinate, in features' units; of [`Solver::NormDescent`] the rate.
    pub step: f64,
    /// Steps from one choice of the labels, by best response, to the next; `None` keeps them.
    pub label_update_interval: Option<u32>,
    /// Value to stop at.
    pub target: f64,
    /// Steps without improvement to stop after.
    pub patience: Option<u32>,
    /// Time to stop after. What is found then depends on the machine.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The target was met.
    Target,
    /// All steps were taken.
    Steps,
    /// Nothing improved any more.
    Stall,
    /// Time was up.
    Time,
}

impl Stop {
    /// The reason in a word.
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

/// The best poisons seen; the last ones where values cannot be compared.
#[derive(Debug, Clone)]
pub struct Descended {
    /// `[m, d]`.
    pub features: Array2<f64>,
    /// Their labels.
    pub labels: Vec<u32>,
    /// The objective with them.
    pub value: f64,
    /// The step at which they were found.
    pub step: u32,
    /// Why the search ended.
    pub stopped: Stop,
}

/// Minimises an objective over the poisons' features within a constraint, and over their labels where `descent` says
/// so. `visit` hears the objective, as it is shown, before every step.
///
/// # Errors
/// Features that do not fit the head, or are not finite; what `visit` returns.
pub fn descend<E: From<HeadError>>(
    objective: &mut dyn Objective,
    start: Array2<f64>,
    mut labels: Vec<u32>,
    constraint: &Constraint,
    descent: &Descent,
    mut visit: impl FnMut(u32, f64) -> Result<(), E>,
) -> Result<Descended, E> {
    let started = Instant::now();
    // What is made of it, steps and gradients, lies in memory as it does.
    let mut z = if start.is_standard_layout() { start } else { start.as_standard_layout().into_owned() };
    constraint.project(&mut z, &labels);
    let mut method = Method::new(descent, z.dim());
    let mut local = objective.evaluate(z.view(), &labels)?;
    let mut best = Best { value: local.value, step: 0, left: None };
    let mut improved = (0, local.value);
    let mut step = 0;
    loop {
        visit(step, objective.display_value(local.value))?;
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
    /// The poisons, unless the search is still there.
    left: Option<(Array2<f64>, Vec<u32>)>,
}

impl Best {
    /// What a search found that ended at these poisons.
    fn found(self, features: Array2<f64>, labels: Vec<u32>, stopped: Stop) -> Descended {
        let (features, labels) = self.left.unwrap_or((features, labels));
        Descended { features, labels, value: self.value, step: self.step, stopped }
    }
}

/// A solver's state.
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
    /// With the gradient where the last step led.
    Lbfgs {
        step: f64,
        memory: LbfgsMemory,
        gradient: Option<Array2<f64>>,
    },
}

/// Where a step leads, and the objective there where it is known.
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

    /// Steps that were taken for other labels say little.
    fn forget(&mut self) {
        if let Self::Lbfgs { memory, gradient, .. } = self {
            memory.clear();
            *gradient = None;
        }
    }

    /// The next point within the constraint; `None` where nothing descends any more.
    fn step(
        &mut self,
        objective: &mut dyn Objective,
        z: &Array2<f64>,
        labels: &[u32],
        local: &ObjectiveGradient,
        constraint: &Constraint,
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
                let rate = rate * objective.per_norm(local.value).unwrap_or(1.0);
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

/// Where a step of L-BFGS starts.
struct Here<'a> {
    z: &'a Array2<f64>,
    labels: &'a [u32],
    local: &'a ObjectiveGradient,
    gradient: &'a Array2<f64>,
    constraint: &'a Constraint,
}

impl Here<'_> {
    /// Backtracks along the projected path until the objective falls; starts anew along the gradient where it does not.
    /// Returns the gradient there, too.
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
    use hemlock_head::Head;
    use ndarray::{ArrayView2, array};

    /// An objective with a constant gradient pulls a poison of a head without opinion along the label's weights.
    struct Pull(Head);

    impl Objective for Pull {
        fn evaluate(&mut self, z: ArrayView2<f64>, labels: &[u32]) -> Result<ObjectiveGradient, HeadError> {
            let head = Head::zeros(2, z.ncols())?;
            let samples = hemlock_head::Samples::new(z, labels, 2)?;
            let gradient = hemlock_head::gradient_sum(&head, &[samples])?;
            let value = inner(&gradient, &self.0.packed().to_owned());
            Ok(ObjectiveGradient { value, head, adjoint: self.0.packed().to_owned(), probabilities: None })
        }
        fn display_value(&self, value: f64) -> f64 {
            value
        }
    }

    fn run(descent: &Descent) -> Descended {
        // <adjoint, g> = -z_0 for label 0 and +z_0 for label 1: the best of a ball is its rim.
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

    /// The same poisons, however their features lie in memory.
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
        // The second poison's label is wrong for where it starts.
        let found = run(&Descent { steps: 300, step: 0.3, label_update_interval: Some(1), ..Descent::default() });
        assert!((found.value + 4.0).abs() < 1e-2, "{found:?}");
        assert_eq!(found.labels, [0, 0]);
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
