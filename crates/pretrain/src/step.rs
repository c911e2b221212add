//! One step of any training: two halves, one loss.
//!
//! The halves are as a rule the two views of every image, in a supervised step the two halves of the batch. They go
//! through the network separately, each with its own batch statistics (as in MoCo v3), so that each has a gradient graph of
//! its own and both run side by side, on half of the threads each. The graphs are cut at the embeddings z: with g = dL/dz from the
//! loss on the detached embeddings, the gradient of sum(z * g) with g constant is, by the chain rule, the exact gradient of
//! L. There are always two halves, so the bytes don't depend on the thread count.

use burn::tensor::Tensor;
use hemlock_models::tiles::Pair;
use hemlock_models::weights::{Weights, WeightsError};

use crate::optimizer::Optimizer;
use crate::student::{Named, Output, Student, gradients, running_statistics, training_copy};

/// What a method trains the network for: all that the methods differ in.
pub(crate) trait Objective: Sync {
    /// The network in training.
    type Student: Student;
    /// What a half brings to the loss beside its embeddings.
    type Target: Send;

    /// The two halves of a step on a batch.
    fn parts<'b>(&self, batch: &'b [usize]) -> [Part<'b>; 2] {
        [0, 1].map(|view| Part { images: batch, view })
    }

    /// The target of normalised images `[n, 3, h, w]`, which have these numbers in the training set.
    fn target(&self, images: &Tensor<4>, numbers: &[usize]) -> Self::Target;

    /// The loss `[1]` of both halves' embeddings.
    fn loss(&self, embeddings: [Tensor<2>; 2], targets: [Self::Target; 2]) -> Tensor<1>;

    /// Changes what follows the student, after a step of the optimiser; `done` is the share of the training before it.
    fn after_step(&mut self, _student: &Self::Student, _done: f64) {}

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

/// One half's way through a copy of the student.
pub(crate) struct Half<O: Objective> {
    pub(crate) student: O::Student,
    pub(crate) output: Output,
    pub(crate) target: O::Target,
}

/// One step of the optimiser on two halves (what the network reads, and the images' numbers): the new student, the loss, and what
/// the monitor sees of the first half.
pub(crate) fn step<O: Objective>(
    pair: &Pair,
    objective: &O,
    student: O::Student,
    optimizer: &mut Optimizer,
    [a, b]: [(Tensor<4>, &[usize]); 2],
    lr: f64,
) -> (O::Student, f32, Tensor<2>) {
    let (a, b) = pair.run(|| forward(objective, &student, a), || forward(objective, &student, b));
    let monitored = a.output.monitored.inner();
    let (za, zb) = (a.output.embeddings, b.output.embeddings);
    let (loss, [ga, gb]) = loss(objective, [&za, &zb], [a.target, b.target]);
    let (a, b) = pair.run(|| backward(&a.student, za, ga), || backward(&b.student, zb, gb));
    let gradients = merge(a.0, b.0, |a, b| a + b);
    let statistics = merge(a.1, b.1, |a, b| (a + b).div_scalar(2.0));
    let student = optimizer.step(student, lr, gradients, statistics);
    (student, loss, monitored)
}

/// One half's way through a copy of the student.
pub(crate) fn forward<O: Objective>(
    objective: &O,
    student: &O::Student,
    (images, numbers): (Tensor<4>, &[usize]),
) -> Half<O> {
    let student = training_copy(student);
    let target = objective.target(&images, numbers);
    let output = student.forward(images);
    Half { student, output, target }
}

/// The loss and its gradient with respect to both halves' embeddings.
pub(crate) fn loss<O: Objective>(
    objective: &O,
    embeddings: [&Tensor<2>; 2],
    targets: [O::Target; 2],
) -> (f32, [Tensor<2>; 2]) {
    let leaves = embeddings.map(|z| Tensor::from_inner(z.clone().inner()).require_grad());
    let loss = objective.loss(leaves.clone(), targets);
    let gradients = loss.backward();
    let gradient = |z: Tensor<2>| z.grad(&gradients).unwrap_or_else(|| z.zeros_like().inner());
    (loss.into_scalar::<f32>(), leaves.map(gradient))
}

/// Gradients of the parameters when dL/dz is `gradient`, and the new running statistics.
pub(crate) fn backward(student: &impl Student, embeddings: Tensor<2>, gradient: Tensor<2>) -> (Named, Named) {
    let by_parameter = (embeddings * gradient).sum().backward();
    (gradients(student, &by_parameter), running_statistics(student))
}

/// Tensors of both halves by name, combined by `with`.
pub(crate) fn merge(a: Named, mut b: Named, with: impl Fn(Tensor<1>, Tensor<1>) -> Tensor<1>) -> Named {
    let merged = a.into_iter().map(|(name, a)| {
        let both = match b.remove(&name) {
            Some(b) => with(a, b),
            None => a,
        };
        (name, both)
    });
    merged.collect()
}
