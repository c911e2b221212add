//! One step of a training: two halves, one loss.
//!
//! The halves are the two views of every image, or, in supervised training, the two halves of the batch. They pass the
//! network separately, each with its own batch statistics (as in MoCo v3), so that each has its own gradient graph and
//! both run side by side on half of the threads each. The graphs are cut at the embeddings z: with g = dL/dz from the
//! loss on the detached embeddings, the gradient of sum(z * g) with g constant is, by the chain rule, the exact
//! gradient of L. There are always two halves, so that the bytes do not depend on the number of threads.
//!
//! On several devices, a half is cut into shards, one per device, each with a copy of the network and batch statistics
//! of its own, as is usual in data-parallel training. Only embeddings, their gradients, parameters and parameter
//! gradients are transferred. The loss is that of the whole batch and is computed on the first device, where the
//! optimiser is, too.

use burn::tensor::{Device, Tensor};
use hemlock_models::tiles::PoolPair;
use hemlock_models::weights::{Weights, WeightsError};

use crate::online_network::{Named, OnlineNetwork, Output, copy_on, gradients, running_statistics};
use crate::optimizer::Optimizer;

/// The objective of a training method: everything that the methods differ in.
pub(crate) trait TrainingObjective: Sync {
    /// The network in training.
    type OnlineNetwork: OnlineNetwork;
    /// What the loss needs of a half besides its embeddings.
    type Target: Send;

    /// Concatenates the targets of shards, on `device`.
    fn join(targets: Vec<Self::Target>, device: &Device) -> Self::Target;

    /// The two halves of a step on a batch.
    fn parts<'b>(&self, batch: &'b [usize]) -> [Part<'b>; 2] {
        [0, 1].map(|view| Part { images: batch, view })
    }

    /// The target of normalised images `[n, 3, h, w]`, whose numbers in the training set are `numbers`.
    fn target(&self, images: &Tensor<4>, numbers: &[usize]) -> Self::Target;

    /// The loss `[1]` of the embeddings of both halves.
    fn loss(&self, embeddings: [Tensor<2>; 2], targets: [Self::Target; 2]) -> Tensor<1>;

    /// Updates the objective's own state, such as a momentum encoder, after a step of the optimiser. `done` is the
    /// share of the training that was finished before the step.
    fn after_step(&mut self, _online: &Self::OnlineNetwork, _done: f64) {}

    /// The state that [`after_step`](Self::after_step) updates, for a checkpoint.
    fn state(&self) -> Weights {
        Weights::default()
    }

    /// Restores a [`state`](Self::state).
    fn restore(&mut self, _state: Weights) -> Result<(), WeightsError> {
        Ok(())
    }
}

/// The images of one half.
pub(crate) struct Part<'b> {
    /// Numbers of the images in the training set.
    pub(crate) images: &'b [usize],
    /// Number of the view, 0 or 1.
    pub(crate) view: usize,
}

/// The input of the network for one half, with the numbers of its images, shard by shard, each on its own device.
pub(crate) type Shards<'b> = Vec<(Tensor<4>, &'b [usize])>;

/// The forward pass of one half, through one copy of the online network per shard.
pub(crate) struct Half<O: TrainingObjective> {
    pub(crate) shards: Vec<(O::OnlineNetwork, Tensor<2>)>,
    /// The embeddings of all shards, on the first device, without a gradient graph.
    pub(crate) embeddings: Tensor<2>,
    pub(crate) monitored: Tensor<2>,
    pub(crate) target: O::Target,
}

/// Takes one step of the optimiser on two halves. Returns the new online network, the loss, and the monitored vectors
/// of the first half. Everything is on `device`, except for shards on other devices. No result is read back, so that a
/// GPU can be sent the whole step at once.
pub(crate) fn step<O: TrainingObjective>(
    pair: &PoolPair,
    objective: &O,
    online: O::OnlineNetwork,
    optimizer: &mut Optimizer,
    [a, b]: [Shards<'_>; 2],
    device: &Device,
    lr: f64,
) -> (O::OnlineNetwork, Tensor<1>, Tensor<2>) {
    let count = (a.len() + b.len()) as f32;
    // Copies are placed before the devices are busy, so that the devices work side by side.
    let [a, b] = [a, b].map(|shards| placed(&online, shards));
    let (a, b) = pair.run(|| forward(objective, a, device), || forward(objective, b, device));
    let (loss, gradients) = loss(objective, [&a.embeddings, &b.embeddings], [a.target, b.target]);
    let [ga, gb] = [(&a.shards, &gradients[0]), (&b.shards, &gradients[1])].map(|(shards, all)| cut(shards, all));
    let (a_back, b_back) = pair.run(|| backward(a.shards, ga), || backward(b.shards, gb));
    let [gradients, statistics] = sums([a_back, b_back].concat(), device);
    let statistics = statistics.into_iter().map(|(name, sum)| (name, sum.div_scalar(count))).collect();
    let online = optimizer.step(online, lr, gradients, statistics);
    (online, loss, a.monitored)
}

/// Pairs each shard with a copy of the online network on its device.
pub(crate) fn placed<'b, S: OnlineNetwork>(online: &S, shards: Shards<'b>) -> Vec<(S, Tensor<4>, &'b [usize])> {
    let shards = shards.into_iter();
    shards.map(|(images, numbers)| (copy_on(online, &images.device().inner()), images, numbers)).collect()
}

/// The forward pass of one half.
pub(crate) fn forward<O: TrainingObjective>(
    objective: &O,
    shards: Vec<(O::OnlineNetwork, Tensor<4>, &[usize])>,
    device: &Device,
) -> Half<O> {
    let (mut passed, mut seen, mut targets) = (Vec::new(), Vec::new(), Vec::new());
    for (online, images, numbers) in shards {
        targets.push(objective.target(&images, numbers));
        let Output { embeddings, monitored } = online.forward(images);
        passed.push((online, embeddings));
        seen.push(monitored.inner());
    }
    let embeddings = passed.iter().map(|(_, embeddings)| embeddings.clone().inner()).collect();
    Half {
        embeddings: joined(embeddings, device),
        monitored: joined(seen, device),
        target: O::join(targets, device),
        shards: passed,
    }
}

/// Concatenates the rows of tensors, on `device`.
pub(crate) fn joined(mut tensors: Vec<Tensor<2>>, device: &Device) -> Tensor<2> {
    match tensors.pop() {
        Some(one) if tensors.is_empty() && one.device() == *device => one,
        last => Tensor::cat(tensors.into_iter().chain(last).map(|tensor| tensor.to_device(device)).collect(), 0),
    }
}

/// The loss, and its gradient with respect to the embeddings of both halves.
pub(crate) fn loss<O: TrainingObjective>(
    objective: &O,
    embeddings: [&Tensor<2>; 2],
    targets: [O::Target; 2],
) -> (Tensor<1>, [Tensor<2>; 2]) {
    let leaves = embeddings.map(|z| Tensor::from_inner(z.clone()).require_grad());
    let loss = objective.loss(leaves.clone(), targets);
    let gradients = loss.backward();
    let gradient = |z: Tensor<2>| z.grad(&gradients).unwrap_or_else(|| z.zeros_like().inner());
    (loss.inner(), leaves.map(gradient))
}

/// Cuts the gradient with respect to the embeddings of a half into those of its shards, each on its own device.
pub(crate) fn cut<S>(shards: &[(S, Tensor<2>)], gradient: &Tensor<2>) -> Vec<Tensor<2>> {
    let mut row = 0;
    let mut next = |embeddings: &Tensor<2>| {
        let rows = embeddings.dims()[0];
        row += rows;
        gradient.clone().narrow(0, row - rows, rows).to_device(&embeddings.device().inner())
    };
    shards.iter().map(|(_, embeddings)| next(embeddings)).collect()
}

/// The backward pass of shards, given the gradient dL/dz of each. Returns, for each, the gradients of the parameters
/// and the new running statistics, on its device.
pub(crate) fn backward<S: OnlineNetwork>(shards: Vec<(S, Tensor<2>)>, gradient: Vec<Tensor<2>>) -> Vec<[Named; 2]> {
    let shards = shards.into_iter().zip(gradient);
    let back = |((online, embeddings), gradient): ((S, Tensor<2>), Tensor<2>)| {
        let by_parameter = (embeddings * Tensor::from_inner(gradient)).sum().backward();
        [gradients(&online, &by_parameter), running_statistics(&online)]
    };
    shards.map(back).collect()
}

/// Sums over shards, on `device`.
pub(crate) fn sums(shards: Vec<[Named; 2]>, device: &Device) -> [Named; 2] {
    let here = |named: Named| named.into_iter().map(|(name, tensor)| (name, tensor.to_device(device))).collect();
    let add = |[g, s]: [Named; 2], [gradients, statistics]: [Named; 2]| {
        [merge(g, here(gradients), |a, b| a + b), merge(s, here(statistics), |a, b| a + b)]
    };
    shards.into_iter().fold(Default::default(), add)
}

/// The union of two sets of named tensors; tensors that are in both are combined by `with`.
pub(crate) fn merge(mut a: Named, b: Named, with: impl Fn(Tensor<1>, Tensor<1>) -> Tensor<1>) -> Named {
    for (name, b) in b {
        let both = match a.remove(&name) {
            Some(a) => with(a, b),
            None => b,
        };
        a.insert(name, both);
    }
    a
}
