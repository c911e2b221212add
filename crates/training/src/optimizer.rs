//! AdamW, gradient descent with momentum, and LARS, over the named tensors of a network in training.
//!
//! On the processor, a step is one pass over the memory of a tensor; by burn's operations it would be up to fourteen.
//!
//! burn's optimisers key their state by parameter identifiers that are drawn at random in every process, and restore it
//! on burn's default device. To be resumable and explicitly placed, the state here is keyed by name. Weight decay and
//! the adaptation of LARS skip biases and batch norms.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};
use hemlock_models::device::runs_on_rayon;
use hemlock_models::weights::{Path, Weight, Weights};
use rayon::prelude::*;

use crate::config::OptimizerKind;
use crate::online_network::Named;

const MOMENTUM: f64 = 0.9;
const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
const EPSILON: f64 = 1e-8;
/// The trust coefficient of LARS.
const TRUST: f64 = 1e-3;

/// Numbers of a tensor that one task updates.
const CHUNK: usize = 1 << 14;

/// An optimiser with its state.
pub(crate) struct Optimizer {
    kind: OptimizerKind,
    weight_decay: f64,
    /// Number of steps taken.
    pub(crate) steps: usize,
    /// The mean of the gradients (AdamW), or the velocity (momentum descent; in LARS, with the learning rates
    /// included).
    first: Named,
    /// The mean of the squared gradients (AdamW).
    second: Named,
}

impl Optimizer {
    pub(crate) fn new(kind: OptimizerKind, weight_decay: f64) -> Self {
        Self { kind, weight_decay, steps: 0, first: Named::new(), second: Named::new() }
    }

    /// The network after one step along `gradients`, with `buffers` as its running statistics.
    pub(crate) fn step<M: Module>(&mut self, online: M, lr: f64, gradients: Named, buffers: Named) -> M {
        self.steps += 1;
        online.map(&mut Step { path: Path::default(), optimizer: self, lr, gradients, buffers })
    }

    /// The parameter after the step.
    fn update(&mut self, step: ParameterStep) -> Tensor<1> {
        let on_host = runs_on_rayon(&step.parameter.device());
        if on_host { self.update_on_host(step) } else { self.update_on_device(step) }
    }

    /// [`Optimizer::update`] by burn's operations.
    fn update_on_device(&mut self, step: ParameterStep) -> Tensor<1> {
        let ParameterStep { name, parameter, gradient, lr, matrix } = step;
        let decay = if matrix { self.weight_decay } else { 0.0 };
        let zeros = || Tensor::zeros(gradient.shape(), &gradient.device());
        let first = self.first.remove(&name).unwrap_or_else(zeros);
        match self.kind {
            OptimizerKind::Sgd => {
                let gradient = gradient + parameter.clone().mul_scalar(decay);
                let velocity = first.mul_scalar(MOMENTUM) + gradient;
                self.first.insert(name, velocity.clone());
                parameter - velocity.mul_scalar(lr)
            }
            // You, Gitman and Ginsburg (2017), algorithm 1. As in SimCLR, biases and batch norms take plain momentum
            // steps.
            OptimizerKind::Lars => {
                let mut step = gradient.clone() + parameter.clone().mul_scalar(decay);
                if matrix {
                    step = step * self.adapted_rate(&parameter, &gradient);
                }
                let velocity = first.mul_scalar(MOMENTUM) + step.mul_scalar(lr);
                self.first.insert(name, velocity.clone());
                parameter - velocity
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

    /// [`Optimizer::update`] in one pass over the memory, with the same bytes as by burn's operations.
    fn update_on_host(&mut self, step: ParameterStep) -> Tensor<1> {
        let ParameterStep { name, parameter, gradient, lr, matrix } = step;
        let (device, count) = (parameter.device(), parameter.shape().num_elements());
        let rate = if self.kind == OptimizerKind::Lars && matrix {
            self.adapted_rate(&parameter, &gradient).into_scalar::<f32>()
        } else {
            1.0
        };
        let decay = if matrix { self.weight_decay } else { 0.0 };
        let rule = Rule { kind: self.kind, lr, decay, rate, steps: self.steps as f64 };
        let taken = |state: &mut Named| match state.remove(&name) {
            Some(tensor) => tensor.into_data(),
            None => TensorData::zeros::<f32, _>([count]),
        };
        let mut first = taken(&mut self.first);
        let mut second = (self.kind == OptimizerKind::AdamW).then(|| taken(&mut self.second));
        let [mut parameter, mut gradient] = [parameter, gradient].map(Tensor::into_data);
        let state = (numbers(&mut first), second.as_mut().map_or(&mut [][..], numbers));
        rule.apply(numbers(&mut parameter), numbers(&mut gradient), state);
        let tensor = |data| Tensor::from_data(data, &device);
        self.first.insert(name.clone(), tensor(first));
        self.second.extend(second.map(|second| (name, tensor(second))));
        tensor(parameter)
    }

    /// What LARS multiplies the step of a matrix with, `[1]`.
    fn adapted_rate(&self, parameter: &Tensor<1>, gradient: &Tensor<1>) -> Tensor<1> {
        let norm = |x: &Tensor<1>| x.clone().square().sum().sqrt();
        let (weight, slope) = (norm(parameter), norm(gradient));
        let idle = weight.clone().equal_scalar(0.0).bool_or(slope.clone().equal_scalar(0.0));
        let rate = weight.clone().mul_scalar(TRUST) / (slope + weight.mul_scalar(self.weight_decay));
        rate.mask_fill(idle, 1.0)
    }

    /// The state as weights, with the prefixes `first.` and `second.` before the names of parameters.
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

    /// Restores a [`state`](Self::state) that was saved after `steps` steps.
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

/// A step of one parameter.
struct ParameterStep {
    name: String,
    parameter: Tensor<1>,
    gradient: Tensor<1>,
    lr: f64,
    /// Whether it is a matrix or a convolution, to which weight decay and the adaptation of LARS apply.
    matrix: bool,
}

/// The rule of one step for one tensor.
struct Rule {
    kind: OptimizerKind,
    lr: f64,
    decay: f64,
    /// What LARS multiplies a step with.
    rate: f32,
    /// Number of steps, with this one.
    steps: f64,
}

impl Rule {
    /// Updates a parameter and the optimiser's state, first and second, on the threads of the current rayon pool.
    fn apply(&self, parameter: &mut [f32], gradient: &[f32], (first, second): (&mut [f32], &mut [f32])) {
        let tensors = parameter.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK)).zip(first.par_chunks_mut(CHUNK));
        match self.kind {
            OptimizerKind::AdamW => tensors
                .zip(second.par_chunks_mut(CHUNK))
                .for_each(|(((parameter, gradient), first), second)| self.adamw(parameter, gradient, first, second)),
            OptimizerKind::Sgd | OptimizerKind::Lars => {
                tensors.for_each(|((parameter, gradient), first)| self.momentum(parameter, gradient, first));
            }
        }
    }

    fn adamw(&self, parameter: &mut [f32], gradient: &[f32], mean: &mut [f32], square: &mut [f32]) {
        let [beta_1, gain_1, beta_2, gain_2] = [BETA_1, 1.0 - BETA_1, BETA_2, 1.0 - BETA_2].map(|beta| beta as f32);
        let step = (self.lr / (1.0 - BETA_1.powf(self.steps))) as f32;
        let correction = (1.0 - BETA_2.powf(self.steps)) as f32;
        let (kept, epsilon) = ((1.0 - self.lr * self.decay) as f32, EPSILON as f32);
        for (((p, g), m), v) in parameter.iter_mut().zip(gradient).zip(mean).zip(square) {
            *m = *m * beta_1 + g * gain_1;
            *v = *v * beta_2 + g * g * gain_2;
            *p = *p * kept - *m * step / ((*v / correction).sqrt() + epsilon);
        }
    }

    /// Gradient descent with momentum and LARS, whose velocity has the learning rates included.
    fn momentum(&self, parameter: &mut [f32], gradient: &[f32], velocity: &mut [f32]) {
        let [momentum, decay, lr] = [MOMENTUM, self.decay, self.lr].map(|number| number as f32);
        let [inside, outside] = if self.kind == OptimizerKind::Lars { [lr, 1.0] } else { [1.0, lr] };
        for ((p, g), v) in parameter.iter_mut().zip(gradient).zip(velocity) {
            *v = *v * momentum + (g + *p * decay) * self.rate * inside;
            *p -= *v * outside;
        }
    }
}

/// The numbers of a tensor in training, which are f32.
fn numbers(data: &mut TensorData) -> &mut [f32] {
    match data.as_mut_slice() {
        Ok(numbers) => numbers,
        Err(e) => unreachable!("a tensor in training has other numbers: {e}"),
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
            let parameter = old.reshape([shape.num_elements()]);
            let step = ParameterStep { name, parameter, gradient, lr: self.lr, matrix: D > 1 };
            self.optimizer.update(step).reshape(shape)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_models::device::{self, Backend};
    use hemlock_models::initial::WeightSource;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    const ALL: [OptimizerKind; 3] = [OptimizerKind::AdamW, OptimizerKind::Sgd, OptimizerKind::Lars];

    fn step(parameter: Tensor<1>, gradient: Tensor<1>, lr: f64, matrix: bool) -> ParameterStep {
        ParameterStep { name: "w".into(), parameter, gradient, lr, matrix }
    }

    /// Three steps against the update rules written out in f64, of a matrix and of a bias.
    #[test]
    fn updates_follow_the_published_rules() {
        let device = device::open(Backend::default()).unwrap();
        let (lr, weight_decay) = (0.1, 0.01);
        let gradients = [[0.5, -1.0], [-0.2, 0.3], [0.4, 0.1]];
        for (kind, matrix) in ALL.into_iter().flat_map(|kind| [(kind, true), (kind, false)]) {
            let mut optimizer = Optimizer::new(kind, weight_decay);
            let decay = if matrix { weight_decay } else { 0.0 };
            let mut tensor = Tensor::<1>::from_floats([1.0, -2.0], &device);
            let (mut p, mut m, mut v) = ([1.0f64, -2.0], [0.0f64; 2], [0.0f64; 2]);
            let norm = |x: [f64; 2]| (x[0] * x[0] + x[1] * x[1]).sqrt();
            for (i, g) in gradients.into_iter().enumerate() {
                optimizer.steps += 1;
                let gradient = Tensor::from_floats(g.map(|g| g as f32), &device);
                tensor = optimizer.update(step(tensor, gradient, lr, matrix));
                let t = (i + 1) as i32;
                let rate = if matrix { lr * 0.001 * norm(p) / (norm(g) + decay * norm(p)) } else { lr };
                for i in 0..2 {
                    match kind {
                        OptimizerKind::Sgd => {
                            m[i] = 0.9 * m[i] + g[i] + decay * p[i];
                            p[i] -= lr * m[i];
                        }
                        OptimizerKind::Lars => {
                            m[i] = 0.9 * m[i] + rate * (g[i] + decay * p[i]);
                            p[i] -= m[i];
                        }
                        OptimizerKind::AdamW => {
                            m[i] = 0.9 * m[i] + 0.1 * g[i];
                            v[i] = 0.999 * v[i] + 0.001 * g[i] * g[i];
                            let root = (v[i] / (1.0 - 0.999f64.powi(t))).sqrt();
                            let step = (m[i] / (1.0 - 0.9f64.powi(t))) / (root + 1e-8);
                            p[i] = p[i] - lr * decay * p[i] - lr * step;
                        }
                    }
                }
            }
            for (value, p) in tensor.into_data().iter::<f32>().zip(p) {
                assert!((f64::from(value) - p).abs() < 1e-5, "{kind:?} {matrix}: {value} against {p}");
            }
        }
    }

    /// Of more numbers than one task updates, and of few.
    #[test]
    fn one_pass_gives_the_bytes_of_burn() {
        let device = device::open(Backend::Flex).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut random = |n| Tensor::<1>::from_data(TensorData::new(rng.normal(n, 1.0), [n]), &device);
        for (kind, matrix, n) in ALL.into_iter().flat_map(|k| [(k, true, 3 * CHUNK + 7), (k, false, 5)]) {
            let [mut host, mut burn] = [(); 2].map(|()| Optimizer::new(kind, 0.01));
            let start = random(n);
            let mut tensors = [start.clone(), start];
            for steps in 1..4 {
                let gradient = random(n);
                (host.steps, burn.steps) = (steps, steps);
                let [a, b] = tensors;
                tensors = [
                    host.update_on_host(step(a, gradient.clone(), 0.1, matrix)),
                    burn.update_on_device(step(b, gradient, 0.1, matrix)),
                ];
            }
            let [a, b] = tensors.map(|tensor| tensor.into_data());
            assert_eq!(a, b, "{kind:?} {matrix}");
            assert_eq!(host.state(), burn.state(), "{kind:?} {matrix}");
        }
    }

    /// Its steps are a thousandth of a weight's norm, whatever the gradient's size; without one of both norms there is
    /// nothing to adapt to.
    #[test]
    fn lars_adapts_to_norms_and_takes_zeros() {
        let device = device::open(Backend::default()).unwrap();
        let moved = |p: [f32; 2], g: [f32; 2]| -> Vec<f32> {
            let mut optimizer = Optimizer::new(OptimizerKind::Lars, 0.0);
            let tensor = |v: [f32; 2]| Tensor::<1>::from_floats(v, &device);
            optimizer.update(step(tensor(p), tensor(g), 1.0, true)).into_data().iter().collect()
        };
        for size in [1e-3, 1.0, 1e3] {
            let after = moved([3.0, 4.0], [size, 0.0]);
            assert!((after[0] - 2.995).abs() < 1e-5 && after[1] == 4.0, "{after:?}");
        }
        assert_eq!(moved([0.0, 0.0], [0.5, 0.0]), [-0.5, 0.0]);
        assert_eq!(moved([1.0, 2.0], [0.0, 0.0]), [1.0, 2.0]);
    }
}
