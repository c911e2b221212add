//! The truncated cross-entropy.

use hemlock_head::{Head, add_weight_decay};
use ndarray::Array2;

use crate::losses::{losses, retrain, train};
use crate::{DefenceError, TrainingData};

/// The gradient norm at which heads count as trained.
const TOLERANCE: f64 = 1e-6;
/// Largest number of trainings after the first.
const ROUNDS: usize = 50;

/// A head that is trained with a truncated loss.
#[derive(Debug, Clone, PartialEq)]
pub struct Truncated {
    /// The head.
    pub head: Head,
    /// Whether the loss of a sample is below the threshold, `[N]`. The others have no influence on the head.
    pub kept: Vec<bool>,
    /// The objective: the mean of the truncated losses plus weight decay.
    pub objective: f64,
    /// Number of trainings after the first.
    pub rounds: usize,
}

/// Minimises `mean min(cross-entropy, threshold) + λ/2 |W|²`, with the threshold in nats.
///
/// The problem is not convex. From the head that is trained on everything, training on the samples with a loss below
/// the threshold and choosing these samples alternate until the choice is stable. No round raises the objective: with
/// the others at the threshold, the training minimises an upper bound of the objective that is tight at the head
/// before. The result is therefore a local minimum.
///
/// # Errors
/// Returns an error if the threshold is not finite and positive, if no loss is below it, or if a head cannot be
/// trained.
pub fn truncated_loss(set: &TrainingData<'_>, threshold: f64) -> Result<Truncated, DefenceError> {
    DefenceError::check_positive("threshold", threshold)?;
    let (mut head, preconditioner) = train(set, TOLERANCE)?;
    let mut now = losses(&head, set);
    let mut rounds = 0;
    loop {
        let kept: Vec<bool> = now.iter().map(|loss| *loss < threshold).collect();
        let count = kept.iter().filter(|kept| **kept).count();
        let subset = set.filter(&kept)?;
        // The mean is still taken over all samples, so that weight decay counts for more among the kept ones.
        let weight_decay = set.weight_decay() * set.len() as f64 / count.max(1) as f64;
        head = retrain(&[subset.samples()], weight_decay, TOLERANCE, Some(&head), &preconditioner)?;
        now = losses(&head, set);
        rounds += 1;
        let stable = now.iter().zip(&kept).all(|(loss, kept)| (*loss < threshold) == *kept);
        if stable || rounds == ROUNDS {
            let objective = objective(&head, &now, threshold, set.weight_decay());
            return Ok(Truncated { kept: now.iter().map(|loss| *loss < threshold).collect(), objective, rounds, head });
        }
    }
}

fn objective(head: &Head, losses: &[f64], threshold: f64, weight_decay: f64) -> f64 {
    let mut ignored = Array2::zeros(head.packed().dim());
    let decay = add_weight_decay(head.packed(), weight_decay, &mut ignored);
    losses.iter().map(|loss| loss.min(threshold)).sum::<f64>() / losses.len() as f64 + decay
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_head::testing::{GaussianClusters, random};
    use hemlock_head::{FitOptions, HeadError, Samples, accuracy, fit};

    /// Clean clusters, and poisons far out with one label.
    fn poisoned(test: impl Fn(&TrainingData<'_>, Samples<'_>)) {
        let data = GaussianClusters::new(300, 3, 2, 1);
        let rows: Vec<usize> = (0..300).filter(|row| data.samples().labels()[*row] == 1).take(30).collect();
        let far = data.samples().select(&rows) * 3.0;
        let blocks = [data.samples(), Samples::new(far.view(), &[0; 30], 2).unwrap()];
        test(&TrainingData::new(&blocks, 1e-3, 0).unwrap(), data.samples());
    }

    #[test]
    fn it_is_a_local_minimum_that_ignores_poisons() {
        poisoned(|set, clean| {
            let found = truncated_loss(set, 1.5).unwrap();
            let plain = fit(set.blocks(), &FitOptions::new(1e-3), &|_, _| true).unwrap().head;
            assert!(accuracy(&found.head, clean).unwrap() > accuracy(&plain, clean).unwrap() + 0.02);
            let of = |head: &Head| objective(head, &losses(head, set), 1.5, 1e-3);
            assert_eq!(found.objective, of(&found.head));
            assert!(found.objective < of(&plain));
            for seed in 0..20 {
                let near = found.head.packed().to_owned() + random(2, 4, seed) * 1e-3;
                assert!(of(&Head::from_packed(near).unwrap()) > found.objective);
            }
            assert!(found.kept[300..].iter().filter(|kept| **kept).count() < 15);
        });
    }

    #[test]
    fn a_threshold_above_all_losses_changes_nothing() {
        poisoned(|set, _| {
            let plain = fit(set.blocks(), &FitOptions::new(1e-3), &|_, _| true).unwrap().head;
            let found = truncated_loss(set, 1e3).unwrap();
            assert!(found.kept.iter().all(|kept| *kept) && found.rounds == 1);
            assert!((&found.head.packed() - &plain.packed()).iter().all(|difference| difference.abs() < 1e-4));
            assert_eq!(truncated_loss(set, 1e-9), Err(DefenceError::Head(HeadError::Empty)));
        });
    }
}
