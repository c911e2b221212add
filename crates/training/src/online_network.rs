//! The online network: a network in training with its heads, and its tensors by name.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::{BatchNorm, BatchNormConfig, Initializer, Linear, LinearConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Gradients, Tensor};
use hemlock_models::Network;
use hemlock_models::initial::normal;
use hemlock_models::weights::Path;
use rand_chacha::ChaCha8Rng;

/// Tensors by their name in the module, each flattened to one axis.
pub(crate) type Named = BTreeMap<String, Tensor<1>>;

/// A network with the heads that the loss needs, which are dropped after training.
pub(crate) trait OnlineNetwork: Module + Send + Sync {
    /// The network that becomes the extractor.
    fn net(&self) -> &Network;
    /// The outputs for normalised images `[n, 3, h, w]`.
    fn forward(&self, images: Tensor<4>) -> Output;
}

/// The outputs of an online network for n images.
pub(crate) struct Output {
    /// The embeddings `[n, p]` that the loss is computed from.
    pub(crate) embeddings: Tensor<2>,
    /// Vectors `[n, q]` whose spread shows a collapse.
    pub(crate) monitored: Tensor<2>,
}

/// A projector or predictor: linear, batch norm, ReLU, linear.
#[derive(Module, Debug)]
pub(crate) struct ProjectionMlp {
    hidden: Linear,
    norm: BatchNorm,
    out: Linear,
}

impl ProjectionMlp {
    /// An MLP with the widths `[from, hidden, to]`. `bias` is that of the last layer; the first one has none, as the
    /// batch norm after it has a shift.
    pub(crate) fn new(widths: [usize; 3], bias: bool, rng: &mut ChaCha8Rng, device: &Device) -> Self {
        let [from, hidden, to] = widths;
        Self {
            hidden: linear([from, hidden], false, rng, device),
            norm: BatchNormConfig::new(hidden).init(device),
            out: linear([hidden, to], bias, rng, device),
        }
    }

    /// Maps `[n, from]` to `[n, to]`.
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.out.forward(relu(self.norm.forward(self.hidden.forward(x))))
    }
}

/// A linear layer with weights from N(0, 1 / from) and a bias of zeros.
pub(crate) fn linear([from, to]: [usize; 2], bias: bool, rng: &mut ChaCha8Rng, device: &Device) -> Linear {
    let mut layer = LinearConfig::new(from, to).with_bias(bias).with_initializer(Initializer::Zeros).init(device);
    layer.weight = normal([from, to], (1.0 / from as f32).sqrt(), rng, device);
    layer
}

/// A copy on a device, with its own gradient graph and running statistics.
pub(crate) fn copy_on<M: Module>(module: &M, device: &Device) -> M {
    // `valid` gives the copy running statistics of its own, which plain clones share.
    let copy = module.valid();
    // `to_device` would copy once more, even to the same device.
    let elsewhere = copy.devices().iter().any(|found| found.clone().inner() != *device);
    if elsewhere { copy.to_device(device).train() } else { copy.train() }
}

/// The gradients of all parameters.
pub(crate) fn gradients<M: Module>(module: &M, gradients: &Gradients) -> Named {
    named(module, Pick::Gradients(gradients))
}

/// All parameters.
pub(crate) fn parameters<M: Module>(module: &M) -> Named {
    named(module, Pick::Parameters)
}

/// The running statistics of all batch norms, synchronised.
pub(crate) fn running_statistics<M: Module>(module: &M) -> Named {
    named(&module.valid(), Pick::RunningStatistics)
}

fn named<M: Module>(module: &M, pick: Pick<'_>) -> Named {
    let mut visitor = Collect { path: Path::default(), pick, picked: Named::new() };
    module.visit(&mut visitor);
    visitor.picked
}

enum Pick<'a> {
    Gradients(&'a Gradients),
    Parameters,
    RunningStatistics,
}

struct Collect<'a> {
    path: Path,
    pick: Pick<'a>,
    picked: Named,
}

impl ModuleVisitor for Collect<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.path.name();
        let statistic = name.contains(".running_");
        let tensor = match self.pick {
            Pick::Gradients(gradients) => param.val().grad(gradients),
            Pick::Parameters => (!statistic).then(|| param.val()),
            Pick::RunningStatistics => statistic.then(|| param.val()),
        };
        if let Some(tensor) = tensor {
            let values = tensor.shape().num_elements();
            self.picked.insert(name, tensor.reshape([values]));
        }
    }
}
