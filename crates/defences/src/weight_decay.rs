//! A weight decay that data choose: on held-out data, on trusted data, or by cross-validation.
//!
//! Victims with a fixed weight decay look more fragile than victims that choose it (Carnerero-Cano et al., 2021 and
//! 2023): where poisons force large weights, another weight decay is better on data that the poisons are not part of.

use hemlock_head::{FitOptions, Head, HeadError, Preconditioner, Samples, accuracy, fit, mean_loss};
use std::sync::Arc;

use crate::hash::{hashes, part, word};
use crate::losses::rough_tolerance;
use crate::{DefenceError, TrainingData};

const PURPOSE: &str = "hemlock 2026 folds of the choice of weight decay";

/// The data on which weight decays are compared.
#[derive(Debug, Clone, Copy)]
pub enum Trial<'a> {
    /// A share of the training set, in `(0, 1)`, is held out. Poisons are held out with it.
    HeldOut(f64),
    /// Samples that the defender trusts. They are not trained on.
    Trusted(&'a [Samples<'a>]),
    /// Cross-validation with this number of folds, at least 2: every sample is held out once.
    Folds(usize),
}

/// What a good weight decay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Criterion {
    /// The smallest mean cross-entropy.
    Loss,
    /// The largest accuracy; of equal accuracies, the one with the largest weight decay.
    Accuracy,
}

/// How good a weight decay is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The weight decay.
    pub weight_decay: f64,
    /// The mean cross-entropy on data that were not trained on, in nats.
    pub loss: f64,
    /// The accuracy on the same data, in `[0, 1]`.
    pub accuracy: f64,
}

/// The weight decay that was chosen, and all that it was chosen from.
#[derive(Debug, Clone, PartialEq)]
pub struct ChosenDecay {
    /// The chosen one.
    pub best: Candidate,
    /// All of the grid, in ascending order of the weight decay.
    pub candidates: Vec<Candidate>,
}

/// Chooses a weight decay of `grid`. The weight decay of the training set itself is ignored. What is held out is chosen
/// by a hash of the samples and the seed of the set.
///
/// Heads are trained from the largest weight decay to the smallest, each from the one before it; in cross-validation,
/// heads of other folds start from those of the first one, moved by what the fold changed before. As losses are
/// compared and the heads are not used, training ends at a gradient norm of three times the weight decay, but at least
/// 1e-6 and at most 1e-4.
///
/// # Errors
/// Returns an error if the grid is empty or has a value that is not finite and positive, if the share or the number of
/// folds is out of its range, if nothing is left to train on or to compare on, or if the trusted samples do not fit the
/// training set.
pub fn choose(
    set: &TrainingData<'_>,
    grid: &[f64],
    trial: Trial<'_>,
    criterion: Criterion,
) -> Result<ChosenDecay, DefenceError> {
    DefenceError::check_count("the number of weight decays", grid.len(), 1, usize::MAX)?;
    grid.iter().try_for_each(|decay| DefenceError::check_positive("weight_decay", *decay))?;
    let mut grid = grid.to_vec();
    grid.sort_by(|a, b| b.total_cmp(a));
    grid.dedup();
    let preconditioners = Preconditioner::for_each(set.blocks(), &grid)?;
    let grid = Grid(grid.into_iter().zip(preconditioners.into_iter().map(Arc::new)).collect());

    let mut sums = vec![Sums::default(); grid.0.len()];
    match trial {
        Trial::Trusted(trusted) => grid.add(set.blocks(), trusted, None, &mut sums).map(drop)?,
        Trial::HeldOut(share) => {
            DefenceError::check_positive("the share that is held out", share)?;
            DefenceError::check_share("the share that is held out", share)?;
            let below = (share * u64::MAX as f64) as u64;
            let held_out: Vec<bool> = hashes(set, PURPOSE).iter().map(|hash| word(hash, 0) < below).collect();
            grid.add_held_out(set, &held_out, None, &mut sums)?;
        }
        Trial::Folds(folds) => {
            DefenceError::check_count("the number of folds", folds, 2, set.len())?;
            let hashes = hashes(set, PURPOSE);
            let mut starts = None;
            for fold in 0..folds {
                let held_out: Vec<bool> = hashes.iter().map(|hash| part(hash, folds) == fold).collect();
                // A fold may be empty if there are few samples.
                if held_out.contains(&true) {
                    let heads = grid.add_held_out(set, &held_out, starts.as_deref(), &mut sums)?;
                    starts.get_or_insert(heads);
                }
            }
        }
    }
    let mut candidates: Vec<Candidate> = grid.0.iter().zip(sums).map(|((decay, _), sum)| sum.mean(*decay)).collect();
    // The first of equals has the largest weight decay.
    let better = |best: Candidate, next: Candidate| {
        let is_better = match criterion {
            Criterion::Loss => next.loss < best.loss,
            Criterion::Accuracy => next.accuracy > best.accuracy,
        };
        if is_better { next } else { best }
    };
    let best = candidates.iter().copied().reduce(better).ok_or(HeadError::Empty)?;
    candidates.reverse();
    Ok(ChosenDecay { best, candidates })
}

/// Weight decays, largest first, with their preconditioners.
struct Grid(Vec<(f64, Arc<Preconditioner>)>);

impl Grid {
    /// Trains on what is not held out, and adds what each head does on what is held out. Returns the heads.
    fn add_held_out(
        &self,
        set: &TrainingData<'_>,
        held_out: &[bool],
        starts: Option<&[Head]>,
        sums: &mut [Sums],
    ) -> Result<Vec<Head>, DefenceError> {
        let outside: Vec<bool> = held_out.iter().map(|held_out| !held_out).collect();
        let (rest, held_out) = (set.filter(&outside)?, set.filter(held_out)?);
        self.add(&[rest.samples()], &[held_out.samples()], starts, sums)
    }

    fn add(
        &self,
        train: &[Samples<'_>],
        judge: &[Samples<'_>],
        starts: Option<&[Head]>,
        sums: &mut [Sums],
    ) -> Result<Vec<Head>, DefenceError> {
        let mut heads: Vec<Head> = Vec::with_capacity(self.0.len());
        for (i, ((weight_decay, preconditioner), sum)) in self.0.iter().zip(sums).enumerate() {
            let start = match (starts, heads.last()) {
                // What this fold changed at the weight decay before, it changes again, nearly.
                (Some(starts), Some(last)) => {
                    let packed = &starts[i].packed() + &last.packed() - starts[i - 1].packed();
                    Some(Head::from_packed(packed)?)
                }
                (Some(starts), None) => starts.first().cloned(),
                (None, last) => last.cloned(),
            };
            let options = FitOptions {
                gradient_tolerance: rough_tolerance(*weight_decay),
                start,
                preconditioner: Some(Arc::clone(preconditioner)),
                ..FitOptions::new(*weight_decay)
            };
            let head = fit(train, &options, &|_, _| true)?.head;
            let count: usize = judge.iter().map(Samples::len).sum();
            sum.count += count as f64;
            sum.loss += mean_loss(&head, judge)? * count as f64;
            for block in judge.iter().filter(|block| !block.is_empty()) {
                sum.hits += accuracy(&head, *block)? * block.len() as f64;
            }
            heads.push(head);
        }
        Ok(heads)
    }
}

/// Sums over samples that were not trained on.
#[derive(Clone, Default)]
struct Sums {
    count: f64,
    loss: f64,
    hits: f64,
}

impl Sums {
    fn mean(&self, weight_decay: f64) -> Candidate {
        Candidate { weight_decay, loss: self.loss / self.count, accuracy: self.hits / self.count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Subset;
    use hemlock_head::testing::GaussianClusters;

    const GRID: [f64; 4] = [1e-1, 1e-4, 1e-2, 1e-3];

    fn trained(set: &TrainingData<'_>, keep: &[bool], decay: f64) -> (Subset, Head) {
        let rest = set.filter(keep).unwrap();
        let head = fit(&[rest.samples()], &FitOptions::new(decay), &|_, _| true).unwrap().head;
        (rest, head)
    }

    /// Compares with heads that are trained one by one, from the zero head.
    #[test]
    fn candidates_are_what_single_trainings_give() {
        let data = GaussianClusters::new(300, 5, 3, 1);
        let other = GaussianClusters::new(100, 5, 3, 2);
        let blocks = [data.samples()];
        let set = TrainingData::new(&blocks, 0.0, 3).unwrap();
        let trusted = [other.samples()];
        let chosen = choose(&set, &GRID, Trial::Trusted(&trusted), Criterion::Loss).unwrap();
        assert!(chosen.candidates.windows(2).all(|pair| pair[0].weight_decay < pair[1].weight_decay));
        for candidate in &chosen.candidates {
            let head = trained(&set, &[true; 300], candidate.weight_decay).1;
            assert!((candidate.loss - mean_loss(&head, &trusted).unwrap()).abs() < 1e-4, "{candidate:?}");
            assert!((candidate.accuracy - accuracy(&head, trusted[0]).unwrap()).abs() < 0.011, "{candidate:?}");
            assert!(candidate.loss >= chosen.best.loss);
        }

        let folds = choose(&set, &GRID, Trial::Folds(4), Criterion::Loss).unwrap();
        let hashes = hashes(&set, PURPOSE);
        for candidate in &folds.candidates {
            let loss = |fold| {
                let held_out: Vec<bool> = hashes.iter().map(|hash| part(hash, 4) == fold).collect();
                let keep: Vec<bool> = held_out.iter().map(|held_out| !held_out).collect();
                let (held_out, head) = (set.filter(&held_out).unwrap(), trained(&set, &keep, candidate.weight_decay).1);
                mean_loss(&head, &[held_out.samples()]).unwrap() * held_out.labels.len() as f64
            };
            let expected = (0..4).map(loss).sum::<f64>() / 300.0;
            assert!((candidate.loss - expected).abs() < 1e-4, "{} {expected}", candidate.loss);
        }
    }

    /// Labels without relation to the features: only a large weight decay avoids learning them.
    #[test]
    fn noise_is_decayed_away() {
        let data = GaussianClusters::new(200, 20, 2, 4);
        let labels: Vec<u32> = (0..200).map(|i| (i * i / 7 % 2) as u32).collect();
        let blocks = [Samples::new(data.features.view(), &labels, 2).unwrap()];
        let set = TrainingData::new(&blocks, 0.0, 0).unwrap();
        for trial in [Trial::HeldOut(0.3), Trial::Folds(5)] {
            assert_eq!(choose(&set, &GRID, trial, Criterion::Loss).unwrap().best.weight_decay, 0.1);
        }
    }

    #[test]
    fn equal_accuracies_take_the_largest_weight_decay() {
        let z = ndarray::array![[-1.0], [-2.0], [1.0], [2.0]];
        let blocks = [Samples::new(z.view(), &[0, 0, 1, 1], 2).unwrap()];
        let set = TrainingData::new(&blocks, 0.0, 0).unwrap();
        let chosen = choose(&set, &[1e-3, 1e-2], Trial::Trusted(&blocks), Criterion::Accuracy).unwrap();
        assert_eq!((chosen.best.weight_decay, chosen.best.accuracy), (1e-2, 1.0));
    }

    #[test]
    fn order_of_samples_and_threads_choose_nothing() {
        let data = GaussianClusters::new(200, 4, 3, 4);
        let blocks = [data.samples()];
        let set = TrainingData::new(&blocks, 0.0, 5).unwrap();
        let reversed = set.select(&(0..200).rev().collect::<Vec<_>>());
        let reversed = [reversed.samples()];
        let reversed = TrainingData::new(&reversed, 0.0, 5).unwrap();
        let run = |set: &TrainingData<'_>, threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| choose(set, &GRID, Trial::HeldOut(0.5), Criterion::Loss).unwrap())
        };
        let one = run(&set, 1);
        assert_eq!(one, run(&set, 3));
        let other = run(&reversed, 1);
        assert!(one.candidates.iter().zip(&other.candidates).all(|(a, b)| (a.loss - b.loss).abs() < 1e-6));
    }

    #[test]
    fn refuses_what_compares_nothing() {
        let data = GaussianClusters::new(20, 2, 2, 1);
        let blocks = [data.samples()];
        let set = TrainingData::new(&blocks, 0.0, 0).unwrap();
        let refused = |grid: &[f64], trial| choose(&set, grid, trial, Criterion::Loss).unwrap_err();
        assert!(matches!(refused(&[], Trial::Folds(2)), DefenceError::Parameter { .. }));
        assert!(matches!(refused(&[0.0], Trial::Folds(2)), DefenceError::Parameter { name: "weight_decay", .. }));
        assert!(matches!(refused(&GRID, Trial::Folds(1)), DefenceError::Parameter { .. }));
        assert!(matches!(refused(&GRID, Trial::HeldOut(0.0)), DefenceError::Parameter { .. }));
        assert!(matches!(refused(&GRID, Trial::Trusted(&[])), DefenceError::Head(HeadError::Empty)));
        assert!(matches!(refused(&GRID, Trial::HeldOut(1e-9)), DefenceError::Head(HeadError::Empty)));
    }
}
