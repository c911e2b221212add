//! Works that attack features: 300 poisons in a ball, among the features of a [`Problem`].

use super::heads::{CLASSES, DECAY, Problem, gradient_operations, train};
use crate::{Amount, Limit, PeerInputs, Run, Work};
use anyhow::{Result, ensure};
use hemlock_attack::{BilevelObjective, CancelingObjective, Descended, Descent, Objective, Solver, Stop, descend};
use hemlock_head::{Head, HeadError, Samples};
use hemlock_threat::Constraint;
use ndarray::{Axis, Slice};
use serde_json::{Value, json};

const CLEAN: usize = 10_000;
/// Number of samples whose error the bilevel attack raises.
const HELD_OUT: usize = 5_000;
const DIM: usize = 64;
const POISONS: usize = 300;
/// Step size at the beginning.
const STEP: f64 = 0.1;

/// The data that an attack starts from.
struct Scene {
    all: Problem,
    /// The head that is trained on the clean samples.
    head: Head,
    ball: Constraint,
}

impl Scene {
    fn new() -> Result<Self> {
        let all = Problem::new(CLEAN + HELD_OUT, DIM)?;
        let head = train(all.rows(0..CLEAN)?)?.head;
        Ok(Self { all, head, ball: Constraint::ball(radius()) })
    }

    fn clean(&self) -> Result<Samples<'_>> {
        self.all.rows(0..CLEAN)
    }

    /// Moves poisons that start as copies of the first clean samples.
    fn descend(&self, solver: Solver, objective: &mut dyn Objective, steps: u32, target: f64) -> Result<Descended> {
        let start = self.all.features.slice_axis(Axis(0), Slice::from(..POISONS)).to_owned();
        let labels = self.all.labels[..POISONS].to_vec();
        let descent = Descent { solver, steps, step: STEP, target, ..Descent::default() };
        Ok(descend(objective, start, labels, &self.ball, &descent, |_, _| Ok::<_, HeadError>(()))?)
    }

    /// Returns the inputs for a peer, with the numbers that are special to one attack.
    fn given(self, mut numbers: Value) -> PeerInputs {
        let common = json!({
            "classes": CLASSES, "weight_decay": DECAY, "clean": CLEAN, "poisons": POISONS, "radius": radius(), "step": STEP,
        });
        if let (Value::Object(numbers), Value::Object(common)) = (&mut numbers, common) {
            numbers.extend(common);
        }
        let Problem { features, labels } = self.all;
        let head = self.head.into_packed().into();
        PeerInputs { numbers, arrays: vec![("features", features.into()), ("labels", labels.into()), ("head", head)] }
    }
}

/// Radius of the ball: one and a half times the root mean square norm of features with unit variance.
fn radius() -> f64 {
    1.5 * (DIM as f64).sqrt()
}

/// Gradient Canceling with a shrunk clean head as the target head, until a given share of the clean gradient is left.
pub(super) struct Canceling(pub(super) Solver);

impl Canceling {
    const SHRUNK: f64 = 0.9;
    const RESIDUAL: f64 = 1e-3;
    /// Largest number of steps. Adam's step sizes decrease over this number.
    const STEPS: u32 = 2000;

    fn target(scene: &Scene) -> Result<Head> {
        Ok(Head::from_packed(&scene.head.packed() * Self::SHRUNK)?)
    }

    fn run(solver: Solver, scene: &Scene, target: &Head) -> Result<Descended> {
        let mut objective = CancelingObjective::new(target, scene.clean()?, DECAY)?;
        let end = objective.stop_value(Self::RESIDUAL);
        let found = scene.descend(solver, &mut objective, Self::STEPS, end)?;
        ensure!(found.stopped == Stop::Target, "a residual of {} was left", objective.display_value(found.value));
        Ok(found)
    }
}

impl Work for Canceling {
    fn what(&self) -> String {
        format!(
            "Gradient Canceling by {:?}, {POISONS} poisons among {CLEAN} x {DIM}, until {} of the gradient is left",
            self.0,
            Self::RESIDUAL
        )
    }

    /// One step computes the gradient of the poisons, and its derivative with respect to them, which takes twice as
    /// much.
    fn amount(&self) -> Result<Option<Amount>> {
        let scene = Scene::new()?;
        let steps = Self::run(self.0, &scene, &Self::target(&scene)?)?.step;
        let step = 3.0 * gradient_operations(POISONS, DIM);
        Ok(Some(Amount { limit: Limit::Double, count: f64::from(steps) * step + gradient_operations(CLEAN, DIM) }))
    }

    fn prepare(&self) -> Result<Run> {
        let scene = Scene::new()?;
        let (solver, target) = (self.0, Self::target(&scene)?);
        Ok(Box::new(move || Self::run(solver, &scene, &target).map(drop)))
    }

    fn given(&self) -> Result<PeerInputs> {
        let scene = Scene::new()?;
        let target = Self::target(&scene)?.into_packed();
        let mut given = scene.given(json!({ "residual": Self::RESIDUAL, "steps": Self::STEPS }));
        given.arrays.push(("target", target.into()));
        Ok(given)
    }
}

/// The bilevel attack, in which the head is retrained in every step.
pub(super) struct Bilevel;

impl Bilevel {
    const STEPS: u32 = 20;
    const TEMPERATURE: f64 = 1.0;

    /// Runs the attack, and returns the error at its end.
    fn run(scene: &Scene) -> Result<f64> {
        let raised = vec![scene.all.rows(CLEAN..CLEAN + HELD_OUT)?];
        let mut objective =
            BilevelObjective::new(scene.clean()?, raised, scene.head.clone(), DECAY, Self::TEMPERATURE)?;
        let found = scene.descend(Solver::Adam, &mut objective, Self::STEPS, f64::NEG_INFINITY)?;
        Ok(objective.display_value(found.value))
    }
}

impl Work for Bilevel {
    fn what(&self) -> String {
        format!("bilevel attack, {POISONS} poisons among {CLEAN} x {DIM}, {} steps", Self::STEPS)
    }

    /// Only the solvers inside know how many products they compute.
    fn amount(&self) -> Result<Option<Amount>> {
        Ok(None)
    }

    fn prepare(&self) -> Result<Run> {
        let scene = Scene::new()?;
        Ok(Box::new(move || Self::run(&scene).map(drop)))
    }

    fn given(&self) -> Result<PeerInputs> {
        let scene = Scene::new()?;
        let error = Self::run(&scene)?;
        Ok(scene.given(json!({ "steps": Self::STEPS, "temperature": Self::TEMPERATURE, "error": error })))
    }
}
