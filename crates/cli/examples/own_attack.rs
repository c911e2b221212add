//! `hemlock` with one attack more: poisons on which a single step of training, from the clean head on, raises the loss
//! as fast as possible. The rest of Hemlock finds it by its name, `one-step`, in `[poison-features]` and
//! `[poison-images]`.

use hemlock_attack::Base;
use hemlock_attack::{
    Objective, ObjectiveGradient, Start,
    attacks::{self, Attack, Defaults, ErasedAttack, ObjectiveInputs},
};
use hemlock_head::{Head, HeadError, Samples, gradient_sum, loss_and_gradient};
use hemlock_optim::inner;
use hemlock_stage::StageError;
use hemlock_threat::Sees;
use ndarray::{Array2, ArrayView2};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::process::ExitCode;

/// Raises the loss after a single step of training. The fields are parameters that only this attack reads.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct OneStep {
    /// The splits whose loss is raised.
    sees: Sees,
}

impl Attack for OneStep {
    const NAME: &'static str = "one-step";
    const VALUE_LABEL: &'static str = "the rate at which a training step on the poisons raises the loss";
    const DEFAULTS: Defaults = Defaults {
        start: Start::Influence,
        base: Base::Nearest,
        label_update_interval: 20,
        steps: 200,
        step: 0.1,
        unconstrained_step: 0.3,
    };

    fn objective<'a>(&self, inputs: &ObjectiveInputs<'a>) -> Result<Box<dyn Objective + 'a>, StageError> {
        let head = &inputs.target.clean;
        let (_, raised) = loss_and_gradient(head, &inputs.raised(self.sees)?, 0.0)?;
        Ok(Box::new(Step { head, raised }))
    }
}

/// The objective `<grad L(w), 1/m sum_j g(z_j, y_j)>` at the clean head `w`: its adjoint is `grad L(w) / m`.
struct Step<'a> {
    head: &'a Head,
    /// `grad L(w)`, packed `[K, d + 1]`.
    raised: Array2<f64>,
}

impl Objective for Step<'_> {
    fn evaluate(&mut self, features: ArrayView2<f64>, labels: &[u32]) -> Result<ObjectiveGradient, HeadError> {
        let poisons = Samples::new(features, labels, self.head.classes())?;
        let adjoint = &self.raised / labels.len().max(1) as f64;
        let value = inner(&adjoint, &gradient_sum(self.head, &[poisons])?);
        Ok(ObjectiveGradient::new(value, self.head.clone(), adjoint))
    }

    fn display_value(&self, value: f64) -> f64 {
        -value
    }
}

fn main() -> ExitCode {
    attacks::register(&[&ErasedAttack::<OneStep>::NEW]);
    hemlock::main(hemlock::graph())
}
