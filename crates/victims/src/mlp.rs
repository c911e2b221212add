//! The victim `mlp`: a head with a hidden layer.

use crate::training::on_samples;
use crate::{Train, TrainingSetChange, VictimData};
use burn::{
    module::Module,
    nn::{Initializer, Linear, LinearConfig},
    optim::{AdamWConfig, GradientsParams},
    tensor::{
        Device, Int, Tensor, TensorData,
        activation::{log_softmax, relu},
    },
};
use hemlock_artifact::{Answers, Outcome};
use hemlock_head::judge;
use hemlock_models::{initial::normal, open_device};
use hemlock_optim::half_cosine;
use hemlock_stage::{ErrorKind, ParamError, StageError};
use hemlock_streams::Purpose;
use ndarray::{Array2, ArrayView2, Axis, concatenate};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Number of samples that are predicted together.
const TOGETHER: usize = 1024;

/// A head with a hidden layer of ReLUs, which is trained by AdamW with a cosine schedule.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Mlp {
    /// Number of units of the hidden layer.
    #[schemars(range(min = 1, max = 65536))]
    pub hidden: usize,
    /// Number of passes over the training set.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub epochs: u32,
    /// Number of samples per step; the incomplete batch at the end of an epoch is dropped.
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// Learning rate of the first step.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// Decoupled weight decay, as in AdamW.
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
}

impl Default for Mlp {
    fn default() -> Self {
        Self { hidden: 128, epochs: 30, batch: 128, learning_rate: 1e-3, weight_decay: 1e-2 }
    }
}

impl Mlp {
    pub(crate) fn check(&self) -> Result<(), ParamError> {
        ParamError::units("hidden", self.hidden)?;
        ParamError::epochs("epochs", self.epochs as usize)?;
        ParamError::at_least_one("batch", self.batch as u64)?;
        ParamError::positive("learning_rate", self.learning_rate)?;
        ParamError::non_negative("weight_decay", self.weight_decay)
    }
}

#[derive(Module, Debug)]
struct Layers {
    hidden: Linear,
    out: Linear,
}

impl Layers {
    fn new([from, hidden, to]: [usize; 3], rng: &mut ChaCha8Rng, device: &Device) -> Self {
        // The variance of He et al. (2015) before a ReLU, and a small one for logits near 0.
        let mut layer = |from: usize, to: usize, variance: f32| {
            let mut layer = LinearConfig::new(from, to).with_initializer(Initializer::Zeros).init(device);
            layer.weight = normal([from, to], (variance / from as f32).sqrt(), rng, device);
            layer
        };
        Self { hidden: layer(from, hidden, 2.0), out: layer(hidden, to, 0.01) }
    }

    fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        self.out.forward(relu(self.hidden.forward(features)))
    }

    /// Predicts features `[n, d]` and compares with labels, `[n]`.
    fn answers(&self, features: ArrayView2<f32>, labels: &[u32], device: &Device) -> Answers {
        let layers = self.valid();
        let tiles = features.axis_chunks_iter(Axis(0), TOGETHER).zip(labels.chunks(TOGETHER));
        Answers::of(tiles.flat_map(|(rows, labels)| {
            let logits = layers.forward(tensor(rows, device));
            let classes = logits.dims()[1];
            let logits: Vec<f64> = logits.into_data().iter::<f64>().collect();
            let judged = logits.chunks_exact(classes).zip(labels).map(|(row, label)| judge(row.into(), *label));
            judged.collect::<Vec<_>>()
        }))
    }
}

fn tensor(rows: ArrayView2<f32>, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(rows.iter().copied().collect::<Vec<f32>>(), [rows.nrows(), rows.ncols()]), device)
}

impl Train for &Mlp {
    fn train(&self, what: &str, data: &VictimData, change: &TrainingSetChange) -> Result<Outcome, StageError> {
        let Mlp { hidden, epochs, batch, learning_rate, weight_decay } = **self;
        let (ctx, classes) = (data.ctx, data.classes());
        let (features, labels) = on_samples(data, change, |samples| {
            let parts: Vec<Array2<f32>> = samples.iter().map(|part| part.to_f64().mapv(|z| z as f32)).collect();
            let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
            let features = concatenate(Axis(0), &views).map_err(|e| StageError::internal(e.to_string()))?;
            Ok((features, samples.iter().flat_map(|part| part.labels()).copied().collect::<Vec<u32>>()))
        })?;
        // The bytes of the weights, their gradients and AdamW's two moments, and of a batch's activations.
        let weights = hidden as f64 * (features.ncols() + classes) as f64;
        let bytes = 4.0 * (4.0 * weights + hidden as f64 * batch.min(labels.len()) as f64);
        ParamError::fits("hidden", format!("a head with {hidden} hidden units"), bytes)?;
        let device = open_device(ctx.device)?;
        let training = device.clone().autodiff();
        let [mut weights, mut rng] = [Purpose::HiddenLayerWeights, Purpose::HiddenLayerOrder].map(|p| p.of(ctx.seed));
        let mut layers = Layers::new([features.ncols(), hidden, classes], &mut weights, &training);
        let mut adam = AdamWConfig::new().with_weight_decay(weight_decay as f32).init();
        let batch = batch.min(labels.len());
        let all = u64::from(epochs) * (labels.len() / batch) as u64;
        let bar = ctx.progress.start(what, all, "steps");
        let mut order: Vec<usize> = (0..labels.len()).collect();
        let test = &data.features.test;
        let (mut done, mut answers, mut curve) = (0, Answers::default(), Vec::new());
        for epoch in 1..=epochs {
            order.shuffle(&mut rng);
            for rows in order.chunks_exact(batch) {
                ctx.check()?;
                let targets: Vec<i32> = rows.iter().map(|row| labels[*row] as i32).collect();
                let targets = Tensor::<2, Int>::from_data(TensorData::new(targets, [batch, 1]), &training);
                let logits = layers.forward(tensor(features.select(Axis(0), rows).view(), &training));
                let loss = -log_softmax(logits, 1).gather(1, targets).mean();
                let value = loss.clone().into_scalar::<f32>();
                if !value.is_finite() {
                    let message = format!("the victim's loss is {value} in epoch {epoch}; lower `learning_rate`");
                    return Err(StageError::new(ErrorKind::Numeric, message));
                }
                let rate = learning_rate * half_cosine(done as f64, all as f64);
                let gradients = GradientsParams::from_grads(loss.backward(), &layers);
                layers = adam.step(rate, layers, gradients);
                done += 1;
                bar.at(done);
                bar.say(format!("epoch {epoch}/{epochs} loss {value:.3}"));
            }
            answers = layers.answers(test.features.view(), &test.labels, &device);
            curve.push(answers.share());
        }
        Ok(Outcome { epochs: curve, ..data.outcome(answers) })
    }
}
