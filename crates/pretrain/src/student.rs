//! The network in training: it, and the projection head that the loss sees.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::{BatchNorm, BatchNormConfig, Initializer, Linear, LinearConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Gradients, Tensor};
use hemlock_models::resnet::normal;
use hemlock_models::weights::Path;
use hemlock_models::{Arch, Network};
use rand_chacha::ChaCha8Rng;

use crate::config::ProjectorConfig;

/// Tensors by their name in the module, flattened to one axis.
pub(crate) type Named = BTreeMap<String, Tensor<1>>;

/// A network and its projector.
#[derive(Module, Debug)]
pub(crate) struct Student {
    pub(crate) net: Network,
    projector: Projector,
}

/// Linear, batch norm, ReLU, linear (SimCLR, section 4.2).
#[derive(Module, Debug)]
struct Projector {
    hidden: Linear,
    norm: BatchNorm,
    out: Linear,
}

impl Student {
    /// A student whose network has the same initial values for every projector.
    pub(crate) fn new(
        arch: Arch,
        size: [usize; 2],
        projector: ProjectorConfig,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Self {
        let net = Network::new(arch, size, rng, device);
        let ProjectorConfig { hidden, out } = projector;
        let mut linear = |from: usize, to: usize, bias: bool| {
            let mut layer =
                LinearConfig::new(from, to).with_bias(bias).with_initializer(Initializer::Zeros).init(device);
            layer.weight = normal([from, to], (1.0 / from as f32).sqrt(), rng, device);
            layer
        };
        let projector = Projector {
            // The batch norm that follows has a shift of its own.
            hidden: linear(arch.feature_dim(), hidden, false),
            norm: BatchNormConfig::new(hidden).init(device),
            out: linear(hidden, out, true),
        };
        Self { net, projector }
    }

    /// The device that holds it.
    pub(crate) fn device(&self) -> Device {
        self.projector.out.weight.lazy_device()
    }

    /// Embeddings `[n, p]` of normalised images `[n, 3, h, w]`.
    pub(crate) fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let Projector { hidden, norm, out } = &self.projector;
        out.forward(relu(norm.forward(hidden.forward(self.net.forward(images)))))
    }

    /// A copy with a gradient graph and running statistics of its own.
    pub(crate) fn training_copy(&self) -> Self {
        // `valid` is what separates the running statistics, which plain clones share.
        self.valid().train()
    }

    /// The gradient of every parameter.
    pub(crate) fn gradients(&self, gradients: &Gradients) -> Named {
        self.named(Pick::Gradients(gradients))
    }

    /// The running statistics of every batch norm, up to date.
    pub(crate) fn running_statistics(&self) -> Named {
        self.valid().named(Pick::RunningStatistics)
    }

    fn named(&self, pick: Pick<'_>) -> Named {
        let mut visitor = Collect { path: Path::default(), pick, picked: Named::new() };
        self.visit(&mut visitor);
        visitor.picked
    }
}

enum Pick<'a> {
    Gradients(&'a Gradients),
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
        let tensor = match self.pick {
            Pick::Gradients(gradients) => param.val().grad(gradients),
            Pick::RunningStatistics => name.contains(".running_").then(|| param.val()),
        };
        if let Some(tensor) = tensor {
            let values = tensor.shape().num_elements();
            self.picked.insert(name, tensor.reshape([values]));
        }
    }
}
