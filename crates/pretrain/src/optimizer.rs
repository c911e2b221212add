//! AdamW and momentum descent over the named tensors of a student.
//!
//! burn's optimisers key their state by parameter identifiers that are drawn at random in every
//! process, and restore it on its default device; a resumable, explicitly placed state is keyed by
//! name. Here weight decay also spares biases and batch norms.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};
use hemlock_models::weights::{Path, Weight, Weights};

use crate::config::OptimizerKind;
use crate::student::{Named, Student};

const MOMENTUM: f64 = 0.9;
const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// An optimiser and its state.
pub(crate) struct Optimizer {
    kind: OptimizerKind,
    weight_decay: f64,
    /// Steps taken.
    pub(crate) steps: usize,
    /// Running mean of the gradients (AdamW), or the velocity (momentum descent).
    first: Named,
    /// Running mean of the squared gradients (AdamW).
    second: Named,
}

impl Optimizer {
    pub(crate) fn new(kind: OptimizerKind, weight_decay: f64) -> Self {
        Self { kind, weight_decay, steps: 0, first: Named::new(), second: Named::new() }
    }

    /// The student after one step along `gradients`, with the running statistics `buffers`.
    pub(crate) fn step(&mut self, student: Student, lr: f64, gradients: Named, buffers: Named) -> Student {
        self.steps += 1;
        student.map(&mut Step { path: Path::default(), optimizer: self, lr, gradients, buffers })
    }

    /// `parameter` after one step.
    fn update(&mut self, name: String, parameter: Tensor<1>, gradient: Tensor<1>, lr: f64, decay: f64) -> Tensor<1> {
        let zeros = || Tensor::zeros(gradient.shape(), &gradient.device());
        let first = self.first.remove(&name).unwrap_or_else(zeros);
        match self.kind {
            OptimizerKind::Sgd => {
                let gradient = gradient + parameter.clone().mul_scalar(decay);
                let velocity = first.mul_scalar(MOMENTUM) + gradient;
                self.first.insert(name, velocity.clone());
                parameter - velocity.mul_scalar(lr)
            }
            // Loshchilov and Hutter (2019), algorithm 2.
            OptimizerKind::AdamW => {
                let second = self.second.remove(&name).unwrap_or_else(zeros);
                let mean = first.mul_scalar(BETA_1) + gradient.clone().mul_scalar(1.0 - BETA_1);
                let square = second.mul_scalar(BETA_2) + gradient.square().mul_scalar(1.0 - BETA_2);
                self.first.insert(name.clone(), mean.clone());
                self.second.insert(name, square.clone());
                let steps = self.steps as f64;
                let mean = mean.mul_scalar(lr / (1.0 - BETA_1.powf(steps)));
                let root = square.div_scalar(1.0 - BETA_2.powf(steps)).sqrt();
                parameter.mul_scalar(1.0 - lr * decay) - mean / root.add_scalar(EPSILON)
            }
        }
    }

    /// The state as weights: `first.` and `second.` before each name.
    pub(crate) fn state(&self) -> Weights {
        let mut weights = Weights::default();
        for (prefix, named) in [("first.", &self.first), ("second.", &self.second)] {
            let state = named.iter().map(|(name, tensor)| {
                let values: Vec<f32> = tensor.to_data().iter().collect();
                let shape = vec![values.len()];
                (name.clone(), Weight { shape, values })
            });
            weights.put_under(prefix, Weights(state.collect()));
        }
        weights
    }

    /// Takes up a [`state`](Self::state) after `steps` steps.
    pub(crate) fn restore(&mut self, state: &Weights, steps: usize, device: &Device) {
        let named = |prefix: &str| -> BTreeMap<String, Tensor<1>> {
            let weights = state.under(prefix).0.into_iter();
            weights
                .map(|(name, w)| {
                    let data = TensorData::new(w.values, w.shape);
                    (name, Tensor::from_data(data, device))
                })
                .collect()
        };
        self.steps = steps;
        self.first = named("first.");
        self.second = named("second.");
    }
}

struct Step<'a> {
    path: Path,
    optimizer: &'a mut Optimizer,
    lr: f64,
    gradients: Named,
    buffers: Named,
}

impl ModuleMapper for Step<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.name();
        param.map(|old| {
            let shape = old.shape();
            if let Some(buffer) = self.buffers.remove(&name) {
                return buffer.reshape(shape);
            }
            let Some(gradient) = self.gradients.remove(&name) else {
                return old;
            };
            let decay = if D > 1 { self.optimizer.weight_decay } else { 0.0 };
            let flat = old.reshape([shape.num_elements()]);
            let new = self.optimizer.update(name, flat, gradient, self.lr, decay);
            new.reshape(shape)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_models::device::{self, Backend};

    /// Three steps against the update rules written out in f64.
    #[test]
    fn updates_follow_the_published_rules() {
        let device = device::open(Backend::default()).unwrap();
        let (lr, decay) = (0.1, 0.01);
        let gradients = [0.5, -0.2, 0.4];
        for kind in [OptimizerKind::Sgd, OptimizerKind::AdamW] {
            let mut optimizer = Optimizer::new(kind, decay);
            let mut tensor = Tensor::<1>::from_floats([1.0], &device);
            let (mut p, mut m, mut v) = (1.0f64, 0.0f64, 0.0f64);
            for (i, g) in gradients.into_iter().enumerate() {
                optimizer.steps += 1;
                let gradient = Tensor::from_floats([g as f32], &device);
                tensor = optimizer.update("w".into(), tensor, gradient, lr, decay);
                let t = (i + 1) as i32;
                match kind {
                    OptimizerKind::Sgd => {
                        m = 0.9 * m + g + decay * p;
                        p -= lr * m;
                    }
                    OptimizerKind::AdamW => {
                        m = 0.9 * m + 0.1 * g;
                        v = 0.999 * v + 0.001 * g * g;
                        let step = (m / (1.0 - 0.9f64.powi(t))) / ((v / (1.0 - 0.999f64.powi(t))).sqrt() + 1e-8);
                        p = p - lr * decay * p - lr * step;
                    }
                }
            }
            let value = f64::from(tensor.into_scalar::<f32>());
            assert!((value - p).abs() < 1e-5, "{kind:?}: {value} against {p}");
        }
    }
}
