//! MoCo v3: the query of one view of an image is attracted by the key of its other view, which a momentum encoder
//! computes.
//!
//! Chen, Xie and He, "An empirical study of training self-supervised vision transformers" (ICCV 2021), algorithm 1,
//! with the heads of the authors' released code:
//!
//! - The online (query) encoder is network, projector and predictor. The momentum (key) encoder is network and
//!   projector, and receives no gradients.
//! - Projector and predictor are MLPs of two layers without biases, with batch norm and ReLU in the hidden layer. The
//!   projector's output has batch norm without scale and shift. The predictor's output has it for transformers, and has
//!   none for ResNets, as in the last version of the authors' code (the first version had it).
//! - The loss is `ctr(q1, k2) + ctr(q2, k1)`, where `ctr` includes the factor 2 t ([`crate::infonce`]).
//! - After every step of the optimiser, the momentum encoder's parameters become `m key + (1 - m) query`, where m rises
//!   from [`TrainConfig::momentum`] to 1 along half a cosine. The batch norms of both encoders use batch statistics.
//!
//! The extractor is the online encoder's network. Two things differ from the paper, as everywhere in this crate: the
//! widths, which suit a CPU, and blur, which has one distribution for both views.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor};
use hemlock_models::Network;
use hemlock_models::weights::{Path, Weights, WeightsError};
use hemlock_optim::half_cosine;
use rand_chacha::ChaCha8Rng;

use crate::config::TrainConfig;
use crate::infonce::info_nce;
use crate::online_network::{Named, OnlineNetwork, Output, ProjectionMlp, copy_on, parameters};
use crate::step::{TrainingObjective, joined};

/// Added to the variance before the square root, as in burn and PyTorch.
const EPSILON: f64 = 1e-5;

/// The objective, with the momentum encoder.
pub(crate) struct MocoV3 {
    keys: Encoder,
    momentum: f64,
    temperature: f64,
}

/// The online (query) encoder. It has the fields of the momentum encoder, so that their tensors have the same names.
#[derive(Module, Debug)]
pub(crate) struct Query {
    net: Network,
    projector: ProjectionMlp,
    predictor: ProjectionMlp,
    /// Whether the predictor's output has a batch norm.
    standardises: bool,
}

/// The momentum (key) encoder.
#[derive(Module, Debug)]
struct Encoder {
    net: Network,
    projector: ProjectionMlp,
}

impl OnlineNetwork for Query {
    fn net(&self) -> &Network {
        &self.net
    }

    fn forward(&self, images: Tensor<4>) -> Output {
        let projected = self.projector.forward(self.net.forward(images));
        let predicted = self.predictor.forward(standardised(projected.clone()));
        let embeddings = if self.standardises { standardised(predicted) } else { predicted };
        // The monitor reads the projection before its batch norm, which would spread collapsed embeddings again.
        Output { embeddings, monitored: projected }
    }
}

impl MocoV3 {
    /// The objective, and the online network around `net`, whose heads are drawn from `rng`.
    pub(crate) fn new(config: &TrainConfig, net: Network, rng: &mut ChaCha8Rng, device: &Device) -> (Self, Query) {
        let TrainConfig { momentum, temperature, projector, predictor, .. } = *config;
        let out = projector.out;
        let query = Query {
            standardises: matches!(net, Network::Vit(_)),
            net,
            projector: ProjectionMlp::new([config.arch.feature_dim(), projector.hidden, out], false, rng, device),
            predictor: ProjectionMlp::new([out, predictor.hidden, out], false, rng, device),
        };
        // `valid` copies: clones would share running statistics.
        let keys = Encoder { net: query.net.valid(), projector: query.projector.valid() };
        (Self { keys, momentum, temperature }, query)
    }

    /// The momentum after the share `done` of the training: 1 - (1 - m) (1 + cos(pi done)) / 2.
    fn momentum_at(&self, done: f64) -> f64 {
        1.0 - (1.0 - self.momentum) * half_cosine(done, 1.0)
    }
}

impl TrainingObjective for MocoV3 {
    type OnlineNetwork = Query;
    /// Keys `[n, p]`.
    type Target = Tensor<2>;

    fn join(keys: Vec<Tensor<2>>, device: &Device) -> Tensor<2> {
        joined(keys, device)
    }

    fn target(&self, images: &Tensor<4>, _: &[usize]) -> Tensor<2> {
        // In training mode, so that batch norms use batch statistics, but without a gradient graph.
        let Encoder { net, projector } = copy_on(&self.keys, &images.device().inner()).no_grad();
        standardised(projector.forward(net.forward(images.clone()))).inner()
    }

    fn loss(&self, [qa, qb]: [Tensor<2>; 2], [ka, kb]: [Tensor<2>; 2]) -> Tensor<1> {
        let keys = Tensor::from_inner;
        info_nce(qa, keys(kb), self.temperature) + info_nce(qb, keys(ka), self.temperature)
    }

    fn after_step(&mut self, online: &Query, done: f64) {
        let momentum = self.momentum_at(done);
        let mut mean = MovingMean { path: Path::default(), towards: parameters(online), momentum };
        self.keys = self.keys.clone().map(&mut mean);
    }

    fn state(&self) -> Weights {
        Weights::collect(&self.keys)
    }

    fn restore(&mut self, state: Weights) -> Result<(), WeightsError> {
        self.keys = state.load(self.keys.valid())?;
        Ok(())
    }
}

/// `x` `[n, p]`, standardised to mean 0 and variance 1 in every column: batch norm without scale and shift.
fn standardised(x: Tensor<2>) -> Tensor<2> {
    let centred = x.clone() - x.mean_dim(0);
    let variance = centred.clone().square().mean_dim(0);
    centred / variance.add_scalar(EPSILON).sqrt()
}

/// The update of an exponential moving average: moves every parameter towards that of the same name.
struct MovingMean {
    path: Path,
    towards: Named,
    momentum: f64,
}

impl ModuleMapper for MovingMean {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let towards = self.towards.remove(&self.path.name());
        param.map(|old| match towards {
            Some(new) => {
                let new = new.reshape(old.shape());
                old.mul_scalar(self.momentum) + new.mul_scalar(1.0 - self.momentum)
            }
            None => old,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PredictorConfig, ProjectorConfig};
    use burn::tensor::TensorData;
    use hemlock_models::device::{self, Backend};
    use hemlock_streams::Purpose;

    fn open() -> Device {
        device::open(Backend::default()).unwrap()
    }

    fn build(momentum: f64, device: &Device) -> (MocoV3, Query) {
        let config = TrainConfig {
            arch: "resnet8-w4".parse().unwrap(),
            momentum,
            projector: ProjectorConfig { hidden: 8, out: 4 },
            predictor: PredictorConfig { hidden: 6 },
            ..TrainConfig::default()
        };
        let mut rng = Purpose::Test.of(0);
        let net = Network::new(config.arch, [8, 8], &mut rng, device);
        MocoV3::new(&config, net, &mut rng, device)
    }

    fn values(tensor: &Tensor<1>) -> Vec<f32> {
        tensor.to_data().iter().collect()
    }

    #[test]
    fn momentum_rises_along_half_a_cosine_to_1() {
        let (moco, _) = build(0.99, &open());
        assert!((moco.momentum_at(0.0) - 0.99).abs() < 1e-12);
        assert!((moco.momentum_at(0.5) - 0.995).abs() < 1e-12);
        assert!((moco.momentum_at(1.0) - 1.0).abs() < 1e-12);
    }

    /// If both encoders are equal and then every parameter of the online encoder grows by 2, the momentum encoder moves
    /// by (1 - m) 2.
    #[test]
    fn the_key_encoder_follows_the_query_encoder() {
        struct Add(f64);
        impl ModuleMapper for Add {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                param.map(|p| p.add_scalar(self.0))
            }
        }
        let (moco, query) = build(0.75, &open());
        let before = parameters(&moco.keys);
        for (name, key) in &before {
            assert_eq!(values(key), values(&parameters(&query)[name]), "{name}");
        }
        let moved = query.map(&mut Add(2.0));
        for (done, step) in [(0.0, 0.5), (0.5, 0.25), (1.0, 0.0)] {
            let (mut moco, _) = build(0.75, &open());
            moco.after_step(&moved, done);
            let after = parameters(&moco.keys);
            assert_eq!(after.len(), before.len());
            for (name, key) in &after {
                for (a, b) in values(key).iter().zip(values(&before[name])) {
                    assert!((a - b - step).abs() < 1e-5, "{name} at {done}: {a} {b}");
                }
            }
        }
    }

    /// With a batch norm at the end, every coordinate would have mean 0 over the batch.
    #[test]
    fn a_resnet_s_queries_are_not_standardised() {
        let device = open();
        let pixels: Vec<f32> = (0..4 * 3 * 64).map(|i| ((i * i * 31 + i * 7) % 255) as f32 / 255.0).collect();
        let images = Tensor::<4>::from_data(TensorData::new(pixels, [4, 3, 8, 8]), &device.clone().autodiff());
        let means = |arch: &str| -> Vec<f32> {
            let config = TrainConfig {
                arch: arch.parse().unwrap(),
                projector: ProjectorConfig { hidden: 8, out: 4 },
                predictor: PredictorConfig { hidden: 6 },
                ..TrainConfig::default()
            };
            let mut rng = Purpose::Test.of(0);
            let net = Network::new(config.arch, [8, 8], &mut rng, &device);
            let (_, query) = MocoV3::new(&config, net, &mut rng, &device);
            let queries = copy_on(&query, &device).forward(images.clone()).embeddings.inner();
            queries.mean_dim(0).abs().into_data().iter().collect()
        };
        assert!(means("resnet8-w4").iter().any(|mean| *mean > 1e-2));
        assert!(means("vit-nano-p4-d1").iter().all(|mean| *mean < 1e-4));
    }

    #[test]
    fn keys_are_standardised_projections_that_leave_the_encoder_as_it_is() {
        let device = open();
        let (moco, query) = build(0.9, &device);
        let pixels: Vec<f32> = (0..4 * 3 * 64).map(|i| ((i * i * 31 + i * 7) % 255) as f32 / 255.0).collect();
        let images = Tensor::<4>::from_data(TensorData::new(pixels, [4, 3, 8, 8]), &device.clone().autodiff());
        let before = moco.state();
        let keys = moco.target(&images, &[]);
        assert_eq!(moco.state(), before);
        // The online encoder has the same weights here, and monitors the projection before its batch norm.
        let projected = copy_on(&query, &device).forward(images).monitored.inner();
        let expected: Vec<f32> = standardised(projected).into_data().iter().collect();
        let keys: Vec<f32> = keys.into_data().iter().collect();
        assert_eq!(keys, expected);
        for column in 0..4 {
            let values: Vec<f32> = keys.iter().skip(column).step_by(4).copied().collect();
            let mean = values.iter().sum::<f32>() / 4.0;
            let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / 4.0;
            assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 0.01, "{mean} {variance}");
        }
    }
}
