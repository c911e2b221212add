//! Training a head by stochastic gradient descent, for victims that train linear probes this way.

use hemlock_optim::half_cosine;
use ndarray::{Array2, Axis};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::kernel::{add_outer, residuals, scores};
use crate::loss::add_weight_decay;
use crate::samples::count;
use crate::{Head, HeadError, Samples};

/// Options of [`fit_sgd`].
#[derive(Debug, Clone, PartialEq)]
pub struct SgdOptions {
    /// `λ >= 0` in the objective `mean cross-entropy + λ/2 |W|²`.
    pub weight_decay: f64,
    /// Number of passes over the samples.
    pub epochs: u32,
    /// Number of samples in a step. The last step of an epoch takes the remaining ones.
    pub batch: usize,
    /// Learning rate of the first step.
    pub learning_rate: f64,
    /// How the learning rate changes after the first step.
    pub schedule: SgdSchedule,
    /// The fraction of the last step that is added to the next one, in `[0, 1)`.
    pub momentum: f64,
}

/// How the learning rate changes over the steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SgdSchedule {
    /// It falls to 0 along half a cosine.
    #[default]
    Cosine,
    /// It stays constant.
    Constant,
}

/// Trains a head on the samples of all blocks, starting from the zero head: `v <- momentum v + g`, `w <- w - rate v`,
/// where `g` is the gradient of the objective on a batch. The order of the samples is drawn from `rng`.
///
/// `visit` is called after every epoch with the epoch (counted from 0), the head, and the mean cross-entropy over the
/// epoch's batches. If it returns false, the current head is returned.
///
/// # Errors
/// Returns an error if there are no samples, if the blocks differ in features or classes, if an option is out of range,
/// or if the parameters stop being finite.
pub fn fit_sgd(
    blocks: &[Samples<'_>],
    options: &SgdOptions,
    rng: &mut ChaCha8Rng,
    visit: &mut dyn FnMut(u32, &Head, f64) -> bool,
) -> Result<Head, HeadError> {
    options.check()?;
    let count = count(blocks)?;
    let first = blocks.first().ok_or(HeadError::Empty)?;
    let mut head = Head::zeros(first.classes(), first.dim())?;
    head.check_samples(blocks)?;
    // `(block, row)` of all samples.
    let mut order: Vec<(usize, usize)> =
        blocks.iter().enumerate().flat_map(|(b, block)| (0..block.len()).map(move |row| (b, row))).collect();
    let mut velocity = Array2::<f64>::zeros(head.packed().dim());
    let (mut taken, steps) = (0.0, options.epochs as f64 * count.div_ceil(options.batch) as f64);
    for epoch in 0..options.epochs {
        order.shuffle(rng);
        let mut sum = 0.0;
        for rows in order.chunks(options.batch) {
            let (loss, gradient) = batch_gradient(&head, blocks, rows, options.weight_decay);
            velocity *= options.momentum;
            velocity += &gradient;
            let rate = match options.schedule {
                SgdSchedule::Cosine => options.learning_rate * half_cosine(taken, steps),
                SgdSchedule::Constant => options.learning_rate,
            };
            let mut packed = head.into_packed();
            packed.scaled_add(-rate, &velocity);
            head = Head::from_packed(packed)?;
            sum += loss;
            taken += 1.0;
        }
        if !visit(epoch, &head, sum / count as f64) {
            break;
        }
    }
    Ok(head)
}

/// The summed cross-entropy of a batch, given as `(block, row)`, and the gradient of the batch's mean objective, `[K,
/// d + 1]`.
fn batch_gradient(
    head: &Head,
    blocks: &[Samples<'_>],
    rows: &[(usize, usize)],
    weight_decay: f64,
) -> (f64, Array2<f64>) {
    let mut z = Array2::zeros((rows.len(), head.dim()));
    let mut labels = Vec::with_capacity(rows.len());
    for (mut to, (block, row)) in z.axis_iter_mut(Axis(0)).zip(rows) {
        let sample = blocks[*block].rows(*row..row + 1);
        to.assign(&sample.to_f64().row(0));
        labels.extend(sample.labels());
    }
    let mut logits = Array2::zeros((rows.len(), head.classes()));
    scores(head.packed(), z.view(), &mut logits.view_mut());
    let loss = residuals(&mut logits.view_mut(), &labels).sum;
    let mut gradient = Array2::zeros(head.packed().dim());
    add_outer(&logits.view(), z.view(), &mut gradient);
    gradient /= rows.len() as f64;
    add_weight_decay(head.packed(), weight_decay, &mut gradient);
    (loss, gradient)
}

impl SgdOptions {
    fn check(&self) -> Result<(), HeadError> {
        HeadError::check_non_negative("weight_decay", self.weight_decay)?;
        HeadError::check_non_negative("learning_rate", self.learning_rate)?;
        if self.batch == 0 {
            return Err(HeadError::InvalidOption { name: "batch", value: 0.0, expected: "at least 1" });
        }
        if !(0.0..1.0).contains(&self.momentum) {
            let expected = "at least 0 and below 1";
            return Err(HeadError::InvalidOption { name: "momentum", value: self.momentum, expected });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{GaussianClusters, random};
    use crate::{FitOptions, accuracy, fit, loss_and_gradient};
    use hemlock_streams::Purpose;

    const OPTIONS: SgdOptions = SgdOptions {
        weight_decay: 1e-3,
        epochs: 60,
        batch: 50,
        learning_rate: 0.2,
        schedule: SgdSchedule::Cosine,
        momentum: 0.9,
    };

    fn keep(_: u32, _: &Head, _: f64) -> bool {
        true
    }

    #[test]
    fn comes_close_to_the_minimum() {
        let data = GaussianClusters::new(1_000, 8, 4, 1);
        let (clean, poisons) = (data.samples().rows(0..900), data.samples().rows(900..1_000));
        let mut losses = Vec::new();
        let head = fit_sgd(&[clean, poisons], &OPTIONS, &mut Purpose::Test.of(3), &mut |_, _, loss| {
            losses.push(loss);
            true
        })
        .unwrap();
        let best = fit(&[data.samples()], &FitOptions::new(1e-3), &|_, _| true).unwrap();
        let (objective, _) = loss_and_gradient(&head, &[data.samples()], 1e-3).unwrap();
        assert!(objective < best.objective + 1e-3, "{objective} against {}", best.objective);
        assert_eq!(losses.len(), 60);
        assert!(losses[59] < losses[0]);
        assert!(
            (accuracy(&head, data.samples()).unwrap() - accuracy(&best.head, data.samples()).unwrap()).abs() < 0.01
        );
    }

    #[test]
    fn one_full_batch_step_by_hand() {
        let data = GaussianClusters::new(20, 3, 3, 2);
        let options = SgdOptions { epochs: 1, batch: 20, ..OPTIONS };
        let head = fit_sgd(&[data.samples()], &options, &mut Purpose::Test.of(3), &mut keep).unwrap();
        let (_, gradient) = loss_and_gradient(&Head::zeros(3, 3).unwrap(), &[data.samples()], 1e-3).unwrap();
        assert!((&head.packed() + &(gradient * 0.2)).iter().all(|off| off.abs() < 1e-14));
    }

    /// Compares with two full-batch steps at a constant rate.
    #[test]
    fn a_constant_rate_stays() {
        let data = GaussianClusters::new(20, 3, 3, 2);
        let constant = SgdSchedule::Constant;
        let options = SgdOptions { epochs: 2, batch: 20, momentum: 0.0, schedule: constant, ..OPTIONS };
        let head = fit_sgd(&[data.samples()], &options, &mut Purpose::Test.of(3), &mut keep).unwrap();
        let mut expected = Head::zeros(3, 3).unwrap();
        for _ in 0..2 {
            let (_, gradient) = loss_and_gradient(&expected, &[data.samples()], 1e-3).unwrap();
            expected = Head::from_packed(&expected.packed() - &(gradient * 0.2)).unwrap();
        }
        assert!((&head.packed() - &expected.packed()).iter().all(|off| off.abs() < 1e-14));
    }

    #[test]
    fn only_the_seed_changes_the_outcome() {
        let data = GaussianClusters::new(200, 4, 3, 5);
        let options = SgdOptions { epochs: 2, ..OPTIONS };
        let run = |seed| fit_sgd(&[data.samples()], &options, &mut Purpose::Test.of(seed), &mut keep).unwrap();
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        let stopped = fit_sgd(&[data.samples()], &OPTIONS, &mut Purpose::Test.of(1), &mut |epoch, _, _| epoch < 1);
        assert_ne!(stopped.unwrap(), run(1), "the schedule is that of all epochs");
    }

    #[test]
    fn refuses_what_cannot_be_trained() {
        let data = GaussianClusters::new(20, 2, 3, 0);
        let refused = |options: SgdOptions| {
            fit_sgd(&[data.samples()], &options, &mut Purpose::Test.of(3), &mut keep).unwrap_err()
        };
        assert!(matches!(
            refused(SgdOptions { momentum: 1.0, ..OPTIONS }),
            HeadError::InvalidOption { name: "momentum", .. }
        ));
        assert!(matches!(refused(SgdOptions { batch: 0, ..OPTIONS }), HeadError::InvalidOption { name: "batch", .. }));
        assert_eq!(fit_sgd(&[], &OPTIONS, &mut Purpose::Test.of(3), &mut keep).unwrap_err(), HeadError::Empty);
        let far = random(20, 2, 1) * 1e200;
        let labels = vec![0; 20];
        let far = Samples::new(far.view(), &labels, 3).unwrap();
        let diverged =
            fit_sgd(&[far], &SgdOptions { learning_rate: 1e200, ..OPTIONS }, &mut Purpose::Test.of(3), &mut keep)
                .unwrap_err();
        assert!(matches!(diverged, HeadError::NonFiniteParameter { .. }), "{diverged}");
    }
}
