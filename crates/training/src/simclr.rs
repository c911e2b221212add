//! SimCLR: two views of an image attract each other, and repel those of all other images.
//!
//! Chen et al., "A simple framework for contrastive learning of visual representations" (ICML 2020): the projection
//! head of section 4.2, the loss of section 2.1.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use hemlock_models::Network;
use rand_chacha::ChaCha8Rng;

use crate::config::TrainConfig;
use crate::ntxent::nt_xent;
use crate::online_network::{OnlineNetwork, Output, ProjectionMlp};
use crate::step::TrainingObjective;

/// The NT-Xent objective of SimCLR.
pub(crate) struct Simclr {
    temperature: f64,
}

/// A network and its projector.
#[derive(Module, Debug)]
pub(crate) struct Projected {
    net: Network,
    projector: ProjectionMlp,
}

impl OnlineNetwork for Projected {
    fn net(&self) -> &Network {
        &self.net
    }

    fn forward(&self, images: Tensor<4>) -> Output {
        let embeddings = self.projector.forward(self.net.forward(images));
        Output { monitored: embeddings.clone(), embeddings }
    }
}

impl Simclr {
    /// The objective, and the online network around `net`, whose projector is drawn from `rng`.
    pub(crate) fn new(config: &TrainConfig, net: Network, rng: &mut ChaCha8Rng, device: &Device) -> (Self, Projected) {
        let widths = [config.arch.feature_dim(), config.projector.hidden, config.projector.out];
        let projector = ProjectionMlp::new(widths, true, rng, device);
        (Self { temperature: config.temperature }, Projected { net, projector })
    }
}

impl TrainingObjective for Simclr {
    type OnlineNetwork = Projected;
    type Target = ();

    fn join(_: Vec<()>, _: &Device) {}

    fn target(&self, _: &Tensor<4>, _: &[usize]) {}

    fn loss(&self, [a, b]: [Tensor<2>; 2], _: [(); 2]) -> Tensor<1> {
        nt_xent(a, b, self.temperature)
    }
}
