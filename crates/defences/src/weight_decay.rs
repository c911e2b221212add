//! A weight decay that data choose: on held-out data, on trusted data, or by cross-validation.
//!
//! Victims with a fixed weight decay look more fragile than victims that choose it (Carnerero-Cano et al., 2021 and
//! 2023): where poisons force large weights, another weight decay is better on data that the poisons are not part of.

use hemlock_head::{FitOptions, Head, HeadError, Preconditioner, Samples, fit, judgements};
use std::sync::Arc;

use crate::hash::{hashes, part, word};
use crate::losses::losses;
use crate::{DefenceError, Subset, TrainingData};

/// The gradient norm at which the heads that are compared count as trained.
const TOLERANCE: f64 = 1e-4;
/// Number of standard errors after which a weight decay is dropped from cross-validation.
const HOPELESS: f64 = 6.0;

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
    /// The mean cross-entropy on data that were not trained on, in nats. For a weight decay that was dropped from
    /// cross-validation, these are the folds until then.
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
/// compared and the heads are not used, training ends at a gradient norm of 1e-4. The losses of weight decays below
/// 1e-4 are then off by less than 1e-3 nats, which is less than they vary with the samples that are held out. In
/// cross-validation, a weight decay is dropped after the fold at which it is worse than the best one by more than 6
/// standard errors of the mean difference.
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
            let held_out = hashes(set, PURPOSE).iter().map(|hash| usize::from(word(hash, 0) < below)).collect();
            let parts = Parts::of(set, held_out, 2)?;
            grid.add(&parts.without(1), &[parts.0[1].samples()], None, &mut sums)?;
        }
        Trial::Folds(folds) => {
            DefenceError::check_count("the number of folds", folds, 2, set.len())?;
            let parts = Parts::of(set, hashes(set, PURPOSE).iter().map(|hash| part(hash, folds)).collect(), folds)?;
            let mut starts = None;
            for (fold, held_out) in parts.0.iter().enumerate() {
                // A fold may be empty if there are few samples.
                if !held_out.labels.is_empty() {
                    let heads = grid.add(&parts.without(fold), &[held_out.samples()], starts.as_deref(), &mut sums)?;
                    starts.get_or_insert(heads);
                    drop_hopeless(&mut sums, criterion);
                }
            }
        }
    }
    // A dropped weight decay is not chosen, whatever it does on the samples that it was compared on.
    let dropped: Vec<f64> =
        grid.0.iter().zip(&sums).filter(|(_, sum)| sum.dropped).map(|((decay, _), _)| *decay).collect();
    let mut candidates: Vec<Candidate> =
        grid.0.iter().zip(sums).map(|((decay, _), sum)| sum.mean(*decay)).collect::<Result<_, _>>()?;
    // The first of equals has the largest weight decay.
    let better = |best: Candidate, next: Candidate| {
        let is_better = match criterion {
            Criterion::Loss => next.loss < best.loss,
            Criterion::Accuracy => next.accuracy > best.accuracy,
        };
        if is_better { next } else { best }
    };
    let running = candidates.iter().copied().filter(|candidate| !dropped.contains(&candidate.weight_decay));
    let best = running.reduce(better).ok_or(HeadError::Empty)?;
    candidates.reverse();
    Ok(ChosenDecay { best, candidates })
}

/// Weight decays, largest first, with their preconditioners.
struct Grid(Vec<(f64, Arc<Preconditioner>)>);

/// Copies of the parts of a training set.
struct Parts(Vec<Subset>);

impl Parts {
    /// `part` has the part of every sample.
    fn of(set: &TrainingData<'_>, part: Vec<usize>, count: usize) -> Result<Self, DefenceError> {
        let of = |one: usize| set.filter(&part.iter().map(|part| *part == one).collect::<Vec<_>>());
        Ok(Self((0..count).map(of).collect::<Result<_, _>>()?))
    }

    /// The samples of all parts but one.
    fn without(&self, left_out: usize) -> Vec<Samples<'_>> {
        let others = self.0.iter().enumerate().filter(|(part, _)| *part != left_out);
        others.map(|(_, part)| part.samples()).collect()
    }
}

impl Grid {
    /// Trains with every weight decay that is not dropped yet, and adds what each head does on `judge`. Returns the
    /// heads.
    fn add(
        &self,
        train: &[Samples<'_>],
        judge: &[Samples<'_>],
        starts: Option<&[Option<Head>]>,
        sums: &mut [Sums],
    ) -> Result<Vec<Option<Head>>, DefenceError> {
        let mut heads: Vec<Option<Head>> = Vec::with_capacity(self.0.len());
        let mut last: Option<usize> = None;
        for (i, ((weight_decay, preconditioner), sum)) in self.0.iter().zip(sums).enumerate() {
            if sum.dropped {
                heads.push(None);
                continue;
            }
            let own = starts.and_then(|starts| starts[i].as_ref());
            let before = last.and_then(|last| heads[last].as_ref());
            let started = starts.zip(last).and_then(|(starts, last)| starts[last].as_ref());
            let start = match (own, before, started) {
                // What this fold changed at the weight decay before, it changes again, nearly.
                (Some(own), Some(before), Some(started)) => {
                    Some(Head::from_packed(&own.packed() + &before.packed() - started.packed())?)
                }
                (Some(own), ..) => Some(own.clone()),
                (None, before, _) => before.cloned(),
            };
            let options = FitOptions {
                gradient_tolerance: TOLERANCE,
                start,
                preconditioner: Some(Arc::clone(preconditioner)),
                ..FitOptions::new(*weight_decay)
            };
            let head = fit(train, &options, &|_, _| true)?.head;
            sum.add(&head, judge)?;
            heads.push(Some(head));
            last = Some(i);
        }
        Ok(heads)
    }
}

/// What a weight decay does on samples that were not trained on.
#[derive(Clone, Default)]
struct Sums {
    /// The cross-entropy of every sample, and whether it is predicted correctly.
    each: Vec<(f64, bool)>,
    /// Whether no more heads are trained with it.
    dropped: bool,
}

impl Sums {
    fn add(&mut self, head: &Head, judge: &[Samples<'_>]) -> Result<(), DefenceError> {
        for block in judge.iter().filter(|block| !block.is_empty()) {
            let hits = judgements(head, *block)?.into_iter().map(|(right, _)| right);
            let losses = losses(head, &TrainingData::new(std::slice::from_ref(block), 0.0, 0)?);
            self.each.extend(losses.into_iter().zip(hits));
        }
        Ok(())
    }

    fn mean(&self, weight_decay: f64) -> Result<Candidate, HeadError> {
        if self.each.is_empty() {
            return Err(HeadError::Empty);
        }
        let count = self.each.len() as f64;
        let loss = self.each.iter().map(|(loss, _)| loss).sum::<f64>() / count;
        let accuracy = self.each.iter().filter(|(_, right)| *right).count() as f64 / count;
        Ok(Candidate { weight_decay, loss, accuracy })
    }
}

/// Drops the weight decays that are worse than the best one so far by more than [`HOPELESS`] standard errors of the
/// mean difference on the same samples: a race (Maron & Moore, 1994).
fn drop_hopeless(sums: &mut [Sums], criterion: Criterion) {
    let worse = |one: &(f64, bool), other: &(f64, bool)| match criterion {
        Criterion::Loss => one.0 - other.0,
        Criterion::Accuracy => f64::from(u8::from(other.1)) - f64::from(u8::from(one.1)),
    };
    // The mean difference to another weight decay, and its standard error.
    let difference = |one: &Sums, other: &Sums| {
        let count = one.each.len() as f64;
        let each = || one.each.iter().zip(&other.each).map(|(one, other)| worse(one, other));
        let mean = each().sum::<f64>() / count;
        (mean, (each().map(|worse| (worse - mean).powi(2)).sum::<f64>() / (count * (count - 1.0).max(1.0))).sqrt())
    };
    let running: Vec<usize> = (0..sums.len()).filter(|i| !sums[*i].dropped).collect();
    let best = running.iter().copied().reduce(
        |best, next| {
            if difference(&sums[next], &sums[best]).0 < 0.0 { next } else { best }
        },
    );
    for i in running {
        let (mean, error) = best.map_or((0.0, 0.0), |best| difference(&sums[i], &sums[best]));
        sums[i].dropped = mean > HOPELESS * error && mean > 0.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_head::testing::GaussianClusters;
    use hemlock_head::{accuracy, mean_loss};

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
