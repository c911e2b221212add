//! One step of any training: two halves, one loss.
//!
//! The halves are as a rule the two views of every image, in a supervised step the two halves of the batch. They go
//! through the network separately, each with its own batch statistics (as in MoCo v3), so that each has a gradient
//! graph of its own and both run side by side, on half of the threads each. The graphs are cut at the embeddings z:
//! with g = dL/dz from the loss on the detached embeddings, the gradient of sum(z * g) with g constant is, by the chain
//! rule, the exact gradient of L. There are always two halves, so the bytes don't depend on the thread count.
//!
//! On several devices a half is cut into shards, one a device, each with a copy of the network and batch statistics of
//! its own, as in data-parallel training everywhere. Only embeddings, their derivatives, and the network's parameters
//! and gradients travel: the loss is that of the whole batch, on the first device, where the optimiser is, too.

use burn::tensor::{Device, Tensor};
use hemlock_models::tiles::Pair;
use hemlock_models::weights::{Weights, WeightsError};

use crate::optimizer::Optimizer;
use crate::student::{Named, OnlineNetwork, Output, copy_on, gradients, running_statistics};

/// What a method trains the network for: all that the methods differ in.
pub(crate) trait TrainingObjective: Sync {
    /// The network in training.
    type OnlineNetwork: OnlineNetwork;
    /// What a half brings to the loss beside its embeddings.
    type Target: Send;

    /// The target of shards together, on a device.
    fn join(targets: Vec<Self::Target>, device: &Device) -> Self::Target;

    /// The two halves of a step on a batch.
    fn parts<'b>(&self, batch: &'b [usize]) -> [Part<'b>; 2] {
        [0, 1].map(|view| Part { images: batch, view })
    }

    /// The target of normalised images `[n, 3, h, w]`, which have these numbers in the training set.
    fn target(&self, images: &Tensor<4>, numbers: &[usize]) -> Self::Target;

    /// The loss `[1]` of both halves' embeddings.
    fn loss(&self, embeddings: [Tensor<2>; 2], targets: [Self::Target; 2]) -> Tensor<1>;

    /// Changes what follows the student, after a step of the optimiser; `done` is the share of the training before it.
    fn after_step(&mut self, _student: &Self::OnlineNetwork, _done: f64) {}

    /// What [`after_step`](Self::after_step) changes, for a checkpoint.
    fn state(&self) -> Weights {
        Weights::default()
    }

    /// Takes up a [`state`](Self::state).
    fn restore(&mut self, _state: &Weights) -> Result<(), WeightsError> {
        Ok(())
    }
}

/// The images of one half.
pub(crate) struct Part<'b> {
    /// Their numbers in the training set.
    pub(crate) images: &'b [usize],
    /// Which of their views.
    pub(crate) view: usize,
}

/// What the network reads of a half, and the images' numbers, shard by shard: each shard on its device.
pub(crate) type Shards<'b> = Vec<(Tensor<4>, &'b [usize])>;

/// One half's way through copies of the student, one a shard.
pub(crate) struct Half<O: TrainingObjective> {
    pub(crate) shards: Vec<(O::OnlineNetwork, Tensor<2>)>,
    /// Of all shards, on the first device, without a graph.
    pub(crate) embeddings: Tensor<2>,
    pub(crate) monitored: Tensor<2>,
    pub(crate) target: O::Target,
}

/// One step of the optimiser on two halves: the new student, the loss, and what the monitor sees of the first half. All
/// is on `device` but for shards on other ones. Nothing is read here, so that a GPU has all of the step to do at once.
pub(crate) fn step<O: TrainingObjective>(
    pair: &Pair,
    objective: &O,
    student: O::OnlineNetwork,
    optimizer: &mut Optimizer,
    [a, b]: [Shards<'_>; 2],
    device: &Device,
    lr: f64,
) -> (O::OnlineNetwork, Tensor<1>, Tensor<2>) {
    let count = (a.len() + b.len()) as f32;
    // What travels does so before devices are busy, so that they work side by side.
    let [a, b] = [a, b].map(|shards| placed(&student, shards));
    let (a, b) = pair.run(|| forward(objective, a, device), || forward(objective, b, device));
    let (loss, gradients) = loss(objective, [&a.embeddings, &b.embeddings], [a.target, b.target]);
    let [ga, gb] = [(&a.shards, &gradients[0]), (&b.shards, &gradients[1])].map(|(shards, all)| cut(shards, all));
    let (a_back, b_back) = pair.run(|| backward(a.shards, ga), || backward(b.shards, gb));
    let [gradients, statistics] = sums([a_back, b_back].concat(), device);
    let statistics = statistics.into_iter().map(|(name, sum)| (name, sum.div_scalar(count))).collect();
    let student = optimizer.step(student, lr, gradients, statistics);
    (student, loss, a.monitored)
}

/// Copies of the student for shards, each on its shard's device.
pub(crate) fn placed<'b, S: OnlineNetwork>(student: &S, shards: Shards<'b>) -> Vec<(S, Tensor<4>, &'b [usize])> {
    let shards = shards.into_iter();
    shards.map(|(images, numbers)| (copy_on(student, &images.device().inner()), images, numbers)).collect()
}

/// One half's way through copies of the student.
pub(crate) fn forward<O: TrainingObjective>(
    objective: &O,
    shards: Vec<(O::OnlineNetwork, Tensor<4>, &[usize])>,
    device: &Device,
) -> Half<O> {
    let (mut passed, mut seen, mut targets) = (Vec::new(), Vec::new(), Vec::new());
    for (student, images, numbers) in shards {
        targets.push(objective.target(&images, numbers));
        let Output { embeddings, monitored } = student.forward(images);
        passed.push((student, embeddings));
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

/// Tensors of shards one below the other, on a device.
pub(crate) fn joined(mut tensors: Vec<Tensor<2>>, device: &Device) -> Tensor<2> {
    match tensors.pop() {
        Some(one) if tensors.is_empty() && one.device() == *device => one,
        last => Tensor::cat(tensors.into_iter().chain(last).map(|tensor| tensor.to_device(device)).collect(), 0),
    }
}

/// The loss and its gradient with respect to both halves' embeddings.
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

/// A gradient with respect to a half's embeddings, cut for its shards, each on its shard's device.
pub(crate) fn cut<S>(shards: &[(S, Tensor<2>)], gradient: &Tensor<2>) -> Vec<Tensor<2>> {
    let mut row = 0;
    let mut next = |embeddings: &Tensor<2>| {
        let rows = embeddings.dims()[0];
        row += rows;
        gradient.clone().narrow(0, row - rows, rows).to_device(&embeddings.device().inner())
    };
    shards.iter().map(|(_, embeddings)| next(embeddings)).collect()
}

/// Of every shard the gradients of the parameters when dL/dz is its cut of the gradient, and the new running
/// statistics, on its device.
pub(crate) fn backward<S: OnlineNetwork>(shards: Vec<(S, Tensor<2>)>, gradient: Vec<Tensor<2>>) -> Vec<[Named; 2]> {
    let shards = shards.into_iter().zip(gradient);
    let back = |((student, embeddings), gradient): ((S, Tensor<2>), Tensor<2>)| {
        let by_parameter = (embeddings * Tensor::from_inner(gradient)).sum().backward();
        [gradients(&student, &by_parameter), running_statistics(&student)]
    };
    shards.map(back).collect()
}

/// Sums over shards, on a device.
pub(crate) fn sums(shards: Vec<[Named; 2]>, device: &Device) -> [Named; 2] {
    let here = |named: Named| named.into_iter().map(|(name, tensor)| (name, tensor.to_device(device))).collect();
    let add = |[g, s]: [Named; 2], [gradients, statistics]: [Named; 2]| {
        [merge(g, here(gradients), |a, b| a + b), merge(s, here(statistics), |a, b| a + b)]
    };
    shards.into_iter().fold(Default::default(), add)
}

/// Tensors of both by name, those that both have combined by `with`.
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
