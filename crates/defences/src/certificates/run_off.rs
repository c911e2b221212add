//! Run-off election: the two classes with the most votes meet in a second round.

use ndarray::{ArrayView1, ArrayView2};

use super::Certificates;
use super::ensemble::{Ensemble, counts, first_most, votes_of};
use crate::DefenceError;

impl Ensemble {
    /// Predicts by a run-off election: of the two classes with the most votes, the one that more heads give a larger
    /// logit than the other. Of equal numbers and logits, the first class counts as the larger one, in both rounds.
    ///
    /// With a spread above 1, every poison is taken to reach as many heads as it can, each of them a different one.
    ///
    /// # Errors
    /// Returns an error if the features `[n, d]` have another number of columns than the heads.
    pub fn run_off(&self, features: ArrayView2<'_, f64>) -> Result<Certificates, DefenceError> {
        self.map(features, |logits| {
            let election = Election::of(logits);
            (election.winner as u32, (election.heads_to_change() - 1) / self.spread())
        })
    }
}

/// The numbers of both rounds.
struct Election<'a> {
    logits: ArrayView2<'a, f64>,
    counts: Vec<usize>,
    winner: usize,
}

impl<'a> Election<'a> {
    fn of(logits: ArrayView2<'a, f64>) -> Self {
        let counts = counts(&votes_of(logits), logits.ncols());
        let first = first_most(&counts);
        let others: Vec<usize> = (0..counts.len()).filter(|class| *class != first).collect();
        let second = others.iter().copied().reduce(|best, next| if counts[next] > counts[best] { next } else { best });
        let mut election = Self { logits, counts, winner: first };
        // There are at least two classes.
        if let Some(second) = second
            && election.second_round(first, second) < 0
        {
            election.winner = second;
        }
        election
    }

    /// The votes for `a` minus those for `b` in a second round, minus 1 if `b` wins a tie. If that is at least 0, `a`
    /// wins.
    fn second_round(&self, a: usize, b: usize) -> isize {
        let for_a = |row: ArrayView1<'_, f64>| row[a] > row[b] || (row[a] == row[b] && a < b);
        let votes = self.logits.rows().into_iter().filter(|row| for_a(*row)).count() as isize;
        2 * votes - self.logits.nrows() as isize - isize::from(b < a)
    }

    /// The votes for `a` minus those for `b` in the first round, minus 1 if `b` stands before `a` in a tie.
    fn first_round(&self, a: usize, b: usize) -> isize {
        self.counts[a] as isize - self.counts[b] as isize - isize::from(b < a)
    }

    /// A lower bound of the number of heads that have to change for another winner. There are two ways to one:
    ///
    /// - Two classes overtake the winner in the first round. A change moves the two margins by at most 2 and 1.
    /// - Another class reaches the second round, for which it has to overtake all but the winner, and wins it. A change
    ///   moves each margin by at most 2, and one change may move both.
    fn heads_to_change(&self) -> usize {
        let (winner, classes) = (self.winner, self.counts.len());
        let others: Vec<usize> = (0..classes).filter(|class| *class != winner).collect();
        // What a margin has to lose until it is negative.
        let to_lose = |margin: isize| usize::try_from(margin + 1).unwrap_or(0);
        let first_round = |a: usize, b: usize| {
            let (a, b) = (to_lose(self.first_round(winner, a)), to_lose(self.first_round(winner, b)));
            a.div_ceil(2).max(b.div_ceil(2)).max((a + b).div_ceil(3))
        };
        let pairs = others.iter().enumerate().flat_map(|(i, a)| others[i + 1..].iter().map(move |b| (*a, *b)));
        let overtaken = pairs.map(|(a, b)| first_round(a, b));
        let beaten = others.iter().map(|other| {
            let rest = others.iter().filter(|class| *class != other);
            let reached = rest.map(|class| to_lose(self.first_round(*class, *other))).max().unwrap_or(0);
            reached.max(to_lose(self.second_round(winner, *other))).div_ceil(2)
        });
        // The winner wins as it is, so that at least one head has to change.
        overtaken.chain(beaten).min().unwrap_or(1).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_head::testing::random;
    use ndarray::{Array2, array};

    /// Logits of a head that ranks the classes in this order.
    fn ranking(order: &[usize]) -> Vec<f64> {
        let mut row = vec![0.0; order.len()];
        order.iter().enumerate().for_each(|(place, class)| row[*class] = -(place as f64));
        row
    }

    #[test]
    fn elections_by_hand() {
        // Class 0 has the most votes, and loses the second round against class 1 by 2 to 3.
        let rows = [[0, 1, 2], [0, 1, 2], [1, 2, 0], [1, 0, 2], [2, 1, 0]].map(|order| ranking(&order));
        let logits = Array2::from_shape_vec((5, 3), rows.concat()).unwrap();
        let election = Election::of(logits.view());
        assert_eq!((election.winner, election.second_round(1, 0), election.second_round(0, 1)), (1, 0, -1));
        assert_eq!(election.heads_to_change(), 1);
        let all = Array2::from_shape_vec((6, 3), ranking(&[2, 0, 1]).repeat(6)).unwrap();
        // Class 2 has 6 votes against none, and loses a tie. To overtake it in the first round, both others need 6
        // votes of margin, at most 3 of these 12 from a head; in the second round, one needs 6, at most 2 from a head.
        assert_eq!(Election::of(all.view()).heads_to_change(), 3);
        let two = array![[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]];
        assert_eq!(Election::of(two.view()).heads_to_change(), 1);
    }

    /// All changes of up to two heads of five, over three classes: each may get any ranking.
    #[test]
    fn no_change_below_the_bound_changes_the_winner() {
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]].map(|order| ranking(&order));
        let (mut certified, mut exact) = ([0; 2], [0; 2]);
        for seed in 0..150 {
            let mut logits = random(5, 3, seed);
            logits.column_mut(seed as usize % 3).mapv_inplace(|logit| logit + (seed % 4) as f64);
            let election = Election::of(logits.view());
            let (winner, bound) = (election.winner, election.heads_to_change());
            let mut stays = [true; 2];
            for (a, b) in (0..5).flat_map(|a| (a..5).map(move |b| (a, b))) {
                for (first, second) in orders.iter().flat_map(|one| orders.iter().map(move |two| (one, two))) {
                    let mut changed = logits.clone();
                    changed.row_mut(a).assign(&ndarray::aview1(first));
                    changed.row_mut(b).assign(&ndarray::aview1(second));
                    stays[usize::from(a != b)] &= Election::of(changed.view()).winner == winner;
                }
            }
            for changes in 0..2 {
                let stays = stays[..=changes].iter().all(|stays| *stays);
                certified[changes] += usize::from(bound > changes + 1);
                exact[changes] += usize::from(stays);
                assert!(stays || bound <= changes + 1, "{changes} {bound} {logits}");
            }
        }
        // In these elections, the bound is exact.
        assert_eq!(certified, exact);
    }
}
