//! Ensembles of heads on parts of the training set.

use hemlock_head::{FitOptions, Head, HeadError, fit};
use ndarray::{Array2, ArrayView1, ArrayView2, Axis, s};
use rayon::prelude::*;

use super::Certificates;
use crate::hash::{hash_of, hashes, part, word};
use crate::{DefenceError, TrainingData};

const PURPOSE: &str = "hemlock 2026 parts of a certified ensemble";
const SPREAD: &str = "hemlock 2026 spread of a certified ensemble";
/// Test samples whose votes are in memory at a time.
const ROWS: usize = 64;

/// Heads that are trained on parts of the training set, so that a sample has an influence on few of them.
///
/// Samples are dealt into parts by a hash of their features. A part is sorted by the hash before a head is trained on
/// it, so that a head depends on the set of its samples and on nothing else. A part without samples has the zero head,
/// whose vote goes to class 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Ensemble {
    heads: Vec<Head>,
    /// The offsets from a part to the heads that it has a share in; `[spread]`.
    offsets: Vec<usize>,
}

impl Ensemble {
    /// Trains `heads` heads. With a `spread` of 1, each sample has an influence on one of them (deep partition
    /// aggregation). With a larger one, there are as many parts as heads, and each part is trained on by `spread` heads
    /// (finite aggregation; Wang, Levine & Feizi write `k d` for the number of heads and `d` for the spread).
    ///
    /// # Errors
    /// Returns an error if there are no heads, if the spread is not between 1 and their number, or if a head cannot be
    /// trained.
    pub fn train(set: &TrainingData<'_>, heads: usize, spread: usize) -> Result<Self, DefenceError> {
        DefenceError::check_count("heads", heads, 1, 1 << 20)?;
        DefenceError::check_count("spread", spread, 1, heads)?;
        let offsets = offsets(heads, spread, set.seed());
        let mut parts: Vec<Vec<(usize, [u8; 32], u32)>> = vec![Vec::new(); heads];
        for ((row, hash), label) in hashes(set, PURPOSE).into_iter().enumerate().zip(set.labels()) {
            parts[part(&hash, heads)].push((row, hash, label));
        }
        let train_on = |head: usize| {
            // Part `p` is trained on by the heads `p + offset`.
            let own = offsets.iter().flat_map(|offset| &parts[(head + heads - offset) % heads]);
            let mut own: Vec<_> = own.collect();
            own.sort_by_key(|(_, hash, label)| (*hash, *label));
            let rows: Vec<usize> = own.iter().map(|(row, ..)| *row).collect();
            if rows.is_empty() {
                return Head::zeros(set.classes(), set.dim());
            }
            let subset = set.select(&rows);
            Ok(fit(&[subset.samples()], &FitOptions::new(set.weight_decay()), &|_, _| true)?.head)
        };
        let heads = (0..heads).into_par_iter().map(train_on).collect::<Result<_, HeadError>>()?;
        Ok(Self { heads, offsets })
    }

    /// The heads.
    #[must_use]
    pub fn heads(&self) -> &[Head] {
        &self.heads
    }

    /// Predicts the class with the most votes, of equal numbers the first one.
    ///
    /// # Errors
    /// Returns an error if the features `[n, d]` have another number of columns than the heads.
    pub fn plurality(&self, features: ArrayView2<'_, f64>) -> Result<Certificates, DefenceError> {
        self.map(features, |logits| self.plurality_of(&votes_of(logits), logits.ncols()))
    }

    /// The prediction and the radius, from the classes that the heads vote for.
    ///
    /// For another class to win, it has to gain a margin of `n_c - n_c' + [c < c']` votes. A poison reaches the heads
    /// of one part. It moves the margin by at most 2 for each of them that votes for `c`, by 0 for each that votes for
    /// `c'`, and by 1 for the others; the parts that move it most come first. With a spread of 1 and enough votes for
    /// `c`, that is the bound of Levine & Feizi, `r <= (n_c - n_c' - [c' < c]) / 2`.
    pub(super) fn plurality_of(&self, votes: &[u32], classes: usize) -> (u32, usize) {
        let counts = counts(votes, classes);
        let winner = first_most(&counts);
        let radius = |other: usize| {
            let margin = counts[winner] - counts[other] - usize::from(other < winner);
            let mut moves: Vec<usize> = (0..votes.len())
                .map(|part| {
                    let reached = self.offsets.iter().map(|offset| votes[(part + offset) % votes.len()] as usize);
                    reached.map(|vote| if vote == winner { 2 } else { usize::from(vote != other) }).sum()
                })
                .collect();
            moves.sort_unstable_by(|a, b| b.cmp(a));
            let mut moved = 0;
            let within = |by: &&usize| {
                moved += **by;
                moved <= margin
            };
            moves.iter().take_while(within).count()
        };
        let radius = (0..classes).filter(|other| *other != winner).map(radius).min().unwrap_or(0);
        (winner as u32, radius)
    }

    /// The number of heads that a sample has an influence on.
    pub(super) fn spread(&self) -> usize {
        self.offsets.len()
    }

    /// Calls `part` for every row of features with the logits of all heads, `[heads, K]`.
    pub(super) fn map(
        &self,
        features: ArrayView2<'_, f64>,
        part: impl Fn(ArrayView2<'_, f64>) -> (u32, usize) + Sync,
    ) -> Result<Certificates, DefenceError> {
        let (count, classes, dim) = (self.heads.len(), self.heads[0].classes(), self.heads[0].dim());
        if features.ncols() != dim {
            return Err(HeadError::FeatureCount { expected: dim, found: features.ncols() }.into());
        }
        // The parameters of all heads, one below the other.
        let mut packed = Array2::zeros((count * classes, dim + 1));
        for (mut rows, head) in packed.axis_chunks_iter_mut(Axis(0), classes).zip(&self.heads) {
            rows.assign(&head.packed());
        }
        let (weights, biases) = (packed.slice(s![.., ..dim]), packed.column(dim));
        let chunks: Vec<_> = features.axis_chunks_iter(Axis(0), ROWS).collect();
        let of_chunk = |z: ArrayView2<'_, f64>| {
            let logits = z.dot(&weights.t()) + biases;
            let of_row = |row: ArrayView1<'_, f64>| {
                part(row.to_shape((count, classes)).expect("a row holds every class of every head").view())
            };
            logits.rows().into_iter().map(of_row).collect::<Vec<_>>()
        };
        let all: Vec<Vec<(u32, usize)>> = chunks.into_par_iter().map(of_chunk).collect();
        Ok(all.into_iter().flatten().collect())
    }
}

/// Different offsets from a part to its heads, the first of which is 0. Wang, Levine & Feizi draw them at random, so
/// that two parts share few heads.
fn offsets(heads: usize, spread: usize, seed: u64) -> Vec<usize> {
    let mut offsets = vec![0];
    let mut draws = (0u32..).map(|draw| {
        let hash = hash_of(ndarray::aview1(&[f64::from(draw)]), SPREAD, seed);
        (word(&hash, 0) % heads as u64) as usize
    });
    while offsets.len() < spread {
        let next = draws.next().expect("there is no last draw");
        if !offsets.contains(&next) {
            offsets.push(next);
        }
    }
    offsets
}

/// The class with the largest logit of each head, the first of equal ones.
pub(super) fn votes_of(logits: ArrayView2<'_, f64>) -> Vec<u32> {
    let largest = |row: ArrayView1<'_, f64>| {
        (1..row.len()).fold(0, |best, class| if row[class] > row[best] { class } else { best }) as u32
    };
    logits.rows().into_iter().map(largest).collect()
}

pub(super) fn counts(votes: &[u32], classes: usize) -> Vec<usize> {
    let mut counts = vec![0; classes];
    votes.iter().for_each(|vote| counts[*vote as usize] += 1);
    counts
}

pub(super) fn first_most(counts: &[usize]) -> usize {
    (1..counts.len()).fold(0, |best, class| if counts[class] > counts[best] { class } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_head::testing::GaussianClusters;

    fn voters(heads: usize, offsets: &[usize]) -> Ensemble {
        Ensemble { heads: vec![Head::zeros(2, 1).unwrap(); heads], offsets: offsets.to_vec() }
    }

    #[test]
    fn radii_by_hand() {
        let dpa = voters(7, &[0]);
        assert_eq!(dpa.plurality_of(&[0, 0, 0, 0, 0, 1, 1], 3), (0, 1));
        // The second class needs one vote more than the first, and the first one vote less.
        assert_eq!(dpa.plurality_of(&[0, 0, 0, 0, 1, 1, 1], 2), (0, 0));
        assert_eq!(dpa.plurality_of(&[0, 0, 1, 1, 1, 1, 1], 2), (1, 1));
        assert_eq!(dpa.plurality_of(&[1, 1, 1, 1, 1, 1, 1], 2), (1, 3));
        // A margin of 8 - 2: two parts reach three votes of the winner between them, or four.
        let spread = voters(10, &[0, 1]);
        assert_eq!(spread.plurality_of(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 1], 2), (0, 1));
        let all = voters(10, &[0, 1, 2]);
        assert_eq!(all.plurality_of(&[0; 10], 2), (0, 1));
    }

    /// The closed form of Levine & Feizi, for all votes of six heads over three classes. It may be smaller, where the
    /// votes for the winner run out.
    #[test]
    fn spread_one_is_the_closed_form() {
        for code in 0..3usize.pow(6) {
            let votes: Vec<u32> = (0..6).map(|head| (code / 3usize.pow(head) % 3) as u32).collect();
            let (winner, radius) = voters(6, &[0]).plurality_of(&votes, 3);
            let counts = counts(&votes, 3);
            let winner = winner as usize;
            assert!(counts.iter().enumerate().all(|(class, n)| *n < counts[winner] + usize::from(class >= winner)));
            let closed = |other: usize| (counts[winner] - counts[other] - usize::from(other < winner)) / 2;
            let closed = (0..3).filter(|other| *other != winner).map(closed).min().unwrap();
            assert_eq!(radius, closed, "{votes:?}");
        }
    }

    #[test]
    fn heads_depend_on_sets_and_not_on_rows_or_threads() {
        let data = GaussianClusters::new(120, 3, 3, 1);
        let all = [data.samples()];
        let set = TrainingData::new(&all, 1e-2, 4).unwrap();
        let reversed = set.select(&(0..120).rev().collect::<Vec<_>>());
        let blocks = [reversed.samples()];
        let reversed = TrainingData::new(&blocks, 1e-2, 4).unwrap();
        let train = |set: &TrainingData<'_>, threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| Ensemble::train(set, 6, 2).unwrap())
        };
        let one = train(&set, 1);
        assert!(one == train(&reversed, 3));

        // Without one sample, only the heads that its part belongs to change.
        let fewer = set.select(&(1..120).collect::<Vec<_>>());
        let blocks = [fewer.samples()];
        let fewer = train(&TrainingData::new(&blocks, 1e-2, 4).unwrap(), 2);
        let changed = one.heads.iter().zip(&fewer.heads).filter(|(a, b)| a != b).count();
        assert_eq!(changed, 2);
        let other = TrainingData::new(&all, 1e-2, 5).unwrap();
        assert!(one != train(&other, 1));
    }

    #[test]
    fn impossible_ensembles_are_refused() {
        let data = GaussianClusters::new(20, 3, 3, 1);
        let blocks = [data.samples()];
        let set = TrainingData::new(&blocks, 1e-2, 4).unwrap();
        assert!(Ensemble::train(&set, 0, 1).is_err());
        assert!(Ensemble::train(&set, 3, 4).is_err());
        // Most parts are empty.
        let ensemble = Ensemble::train(&set, 200, 1).unwrap();
        let predictions = ensemble.plurality(data.features.view()).unwrap().predictions;
        assert!(predictions.iter().all(|class| *class == 0));
        assert!(ensemble.plurality(Array2::zeros((1, 2)).view()).is_err());
    }
}
