//! The state of a search, from which another process goes on.

use hemlock_head::HeadError;
use hemlock_optim::{LbfgsMemory, Snapshot};
use hemlock_threat::Project;
use ndarray::Array2;

use super::{Best, Descended, Descent, Method};
use crate::{Objective, ObjectiveGradient};

/// Everything that decides how a search goes on, besides the objective's own state.
pub(super) struct State {
    pub(super) z: Array2<f64>,
    pub(super) labels: Vec<u32>,
    pub(super) method: Method,
    pub(super) local: ObjectiveGradient,
    pub(super) best: Best,
    /// The step of the last improvement, and the value there.
    pub(super) improved: (u32, f64),
    pub(super) step: u32,
}

impl State {
    /// The state before the first step.
    pub(super) fn new(
        objective: &mut dyn Objective,
        (start, labels): (Array2<f64>, Vec<u32>),
        constraint: &dyn Project,
        descent: &Descent,
    ) -> Result<Self, HeadError> {
        // Steps and gradients take the memory layout of the features, and L-BFGS needs the standard one.
        let mut z = if start.is_standard_layout() { start } else { start.as_standard_layout().into_owned() };
        constraint.project(&mut z, &labels);
        let method = Method::new(descent, z.dim());
        let local = objective.evaluate(z.view(), &labels)?;
        let best = Best { value: local.value, step: 0, left: None };
        let improved = (0, local.value);
        Ok(Self { z, labels, method, local, best, improved, step: 0 })
    }

    pub(super) fn write(&self, objective: Snapshot) -> Snapshot {
        let Best { value, step, left } = &self.best;
        let mut best = Snapshot::default().with("value", value).with("step", step);
        if let Some((z, labels)) = left {
            best = best.with_matrix("z", z).with("labels", labels);
        }
        Snapshot::default()
            .with("step", self.step)
            .with("improved", self.improved)
            .with("labels", &self.labels)
            .with_matrix("z", &self.z)
            .with_all("best", best)
            .with_all("local", self.local.state())
            .with_all("method", self.method.state())
            .with_all("objective", objective)
    }

    /// The state of a snapshot. The objective is restored last, so that an error leaves it as it was.
    pub(super) fn read(
        kept: &Snapshot,
        objective: &mut dyn Objective,
        descent: &Descent,
        shape: (usize, usize),
    ) -> Result<Self, String> {
        let poisons = |kept: &Snapshot| -> Result<(Array2<f64>, Vec<u32>), String> {
            let (z, labels) = (kept.matrix("z")?, kept.get::<Vec<u32>>("labels")?);
            if z.dim() == shape && labels.len() == shape.0 {
                Ok((z, labels))
            } else {
                Err("its poisons have another shape".to_owned())
            }
        };
        let (z, labels) = poisons(kept)?;
        let best = kept.under("best");
        let left = best.find_matrix("z").is_some().then(|| poisons(&best)).transpose()?;
        let state = Self {
            z,
            labels,
            method: Method::read(&kept.under("method"), descent, shape)?,
            local: ObjectiveGradient::from_state(&kept.under("local"))?,
            best: Best { value: best.get("value")?, step: best.get("step")?, left },
            improved: kept.get("improved")?,
            step: kept.get("step")?,
        };
        objective.restore(&kept.under("objective"))?;
        Ok(state)
    }
}

impl Method {
    fn state(&self) -> Snapshot {
        match self {
            Self::GradientDescent { rate, .. } => Snapshot::default().with("rate", rate),
            Self::NormDescent { taken, .. } => Snapshot::default().with("taken", taken),
            Self::Adam(adam) => adam.state(),
            Self::Lbfgs { memory, gradient, .. } => {
                let state = memory.state();
                gradient.iter().fold(state, |state, gradient| state.with_matrix("gradient", gradient))
            }
        }
    }

    /// The method with a state.
    fn read(state: &Snapshot, descent: &Descent, shape: (usize, usize)) -> Result<Self, String> {
        let mut method = Self::new(descent, shape);
        match &mut method {
            Self::GradientDescent { rate, .. } => *rate = state.get("rate")?,
            Self::NormDescent { taken, .. } => *taken = state.get("taken")?,
            Self::Adam(adam) => adam.restore(state)?,
            Self::Lbfgs { memory, gradient, .. } => {
                *memory = LbfgsMemory::from_state(state, shape)?;
                *gradient = state.find_matrix("gradient");
                if gradient.as_ref().is_some_and(|gradient| gradient.dim() != shape) {
                    return Err("its gradient has another shape".to_owned());
                }
            }
        }
        Ok(method)
    }
}

impl Descended {
    /// The result as a state.
    #[must_use]
    pub fn state(&self) -> Snapshot {
        Snapshot::default()
            .with_matrix("features", &self.features)
            .with("labels", &self.labels)
            .with("value", self.value)
            .with("step", self.step)
            .with("stopped", self.stopped)
    }

    /// The result with a state.
    ///
    /// # Errors
    /// Returns what is wrong with the state.
    pub fn from_state(state: &Snapshot) -> Result<Self, String> {
        Ok(Self {
            features: state.matrix("features")?,
            labels: state.get("labels")?,
            value: state.get("value")?,
            step: state.get("step")?,
            stopped: state.get("stopped")?,
        })
    }
}
