//! Supervised training with a linear classifier and cross-entropy, for comparison with methods that learn without
//! labels.
//!
//! The two halves of a step are the two halves of the batch. Each has its own batch statistics, as on two devices in
//! data-parallel training.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use hemlock_models::Network;
use hemlock_stage::ParamError;
use rand_chacha::ChaCha8Rng;

use crate::config::TrainConfig;
use crate::online_network::{OnlineNetwork, Output, linear};
use crate::step::{Part, TrainingObjective};

/// The cross-entropy objective.
pub(crate) struct Supervised<'a> {
    pub(crate) labels: &'a [u32],
}

/// A network with a linear classifier.
#[derive(Module, Debug)]
pub(crate) struct Classified {
    net: Network,
    pub(crate) classifier: Linear,
    #[module(skip)]
    reads: Reads,
}

/// The input of a network in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    /// Normalised images.
    Images,
    /// The output of its first blocks, so many, which take no part.
    Activations(usize),
}

impl Classified {
    /// `net` with a classifier from `dim` features to `classes` classes, drawn from `rng`.
    pub(crate) fn new(
        net: Network,
        [dim, classes]: [usize; 2],
        reads: Reads,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Self {
        Self { net, classifier: linear([dim, classes], true, rng, device), reads }
    }
}

impl OnlineNetwork for Classified {
    fn net(&self) -> &Network {
        &self.net
    }

    fn forward(&self, x: Tensor<4>) -> Output {
        let features = match self.reads {
            Reads::Images => self.net.forward(x),
            Reads::Activations(blocks) => self.net.after(blocks, x),
        };
        Output { embeddings: self.classifier.forward(features.clone()), monitored: features }
    }
}

impl<'a> Supervised<'a> {
    /// The objective, and the online network around `net`, with one class for each label up to the largest.
    ///
    /// # Errors
    /// If there are fewer than two classes.
    pub(crate) fn new(
        config: &TrainConfig,
        labels: &'a [u32],
        net: Network,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Result<(Self, Classified), ParamError> {
        let classes = labels.iter().max().map_or(0, |&label| label as usize + 1);
        ParamError::require(classes >= 2, "method", "supervised", "another one for images of a single class")?;
        let sizes = [config.arch.feature_dim(), classes];
        Ok((Self { labels }, Classified::new(net, sizes, Reads::Images, rng, device)))
    }
}

impl TrainingObjective for Supervised<'_> {
    type OnlineNetwork = Classified;
    /// Labels, on the host.
    type Target = Vec<u32>;

    fn parts<'b>(&self, batch: &'b [usize]) -> [Part<'b>; 2] {
        let (a, b) = batch.split_at(batch.len() / 2);
        [a, b].map(|images| Part { images, view: 0 })
    }

    fn join(labels: Vec<Vec<u32>>, _: &Device) -> Vec<u32> {
        labels.concat()
    }

    fn target(&self, _: &Tensor<4>, images: &[usize]) -> Vec<u32> {
        images.iter().map(|&i| self.labels[i]).collect()
    }

    fn loss(&self, [a, b]: [Tensor<2>; 2], labels: [Vec<u32>; 2]) -> Tensor<1> {
        cross_entropy(Tensor::cat(vec![a, b], 0), &labels.concat())
    }
}

/// Mean cross-entropy `[1]` of logits `[n, K]`, in nats.
fn cross_entropy(logits: Tensor<2>, labels: &[u32]) -> Tensor<1> {
    let labels: Vec<i32> = labels.iter().map(|&label| label as i32).collect();
    let shape = [labels.len(), 1];
    let labels = Tensor::<2, Int>::from_data(TensorData::new(labels, shape), &logits.device());
    -log_softmax(logits, 1).gather(1, labels).mean()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_models::device::{self, Backend};

    /// Its gradient is (softmax - one-hot) / n.
    #[test]
    fn cross_entropy_and_its_gradient_by_hand() {
        let device = device::open(Backend::default()).unwrap().autodiff();
        let rows = [[1.0f32, 2.0, 0.5], [0.0, -1.0, 3.0]];
        let labels = [1u32, 0];
        let logits = Tensor::<2>::from_floats(rows, &device).require_grad();
        let loss = cross_entropy(logits.clone(), &labels);
        let gradients = loss.backward();
        let gradient: Vec<f32> = logits.grad(&gradients).unwrap().into_data().iter().collect();
        let mut expected = 0.0;
        for (i, (row, label)) in rows.iter().zip(labels).enumerate() {
            let total: f32 = row.iter().map(|z| z.exp()).sum();
            expected += (total.ln() - row[label as usize]) / 2.0;
            for (k, z) in row.iter().enumerate() {
                let by_hand = (z.exp() / total - f32::from(k == label as usize)) / 2.0;
                assert!((gradient[3 * i + k] - by_hand).abs() < 1e-6, "{gradient:?}");
            }
        }
        assert!((loss.into_scalar::<f32>() - expected).abs() < 1e-6);
    }
}
