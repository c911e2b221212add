//! What samples do to the loss on samples that are held out.

use hemlock_head::{Head, Preconditioner, Samples, SolveOptions, loss_and_gradient, mean_loss, solve_hessian};
use ndarray::Array2;
use rayon::prelude::*;
use std::sync::Arc;

use super::{Filter, FilterOptions, Filtered, RemovalRule, count_of, descending, remove_of_all};
use crate::hash::{hashes, word};
use crate::linalg::times_transposed;
use crate::losses::retrain;
use crate::{DefenceError, TrainingData};
use hemlock_head::kernel::{probabilities_of, subtract_labels};

/// Number of groups of each half that are left out to see what they do.
const GROUPS: usize = 4;
const PURPOSE: &str = "hemlock 2026 halves of the filter roni";

pub(super) static FILTER: Filter = Filter {
    name: "roni",
    score: "to first order, how much the sample raises the mean cross-entropy, in nats, on the half of the set that it \
            is not in",
    rule: "of the expected share of all samples with the largest scores, in 4 groups of each half, those groups \
           without which a retrained head has a smaller loss on the other half",
    by_class: false,
    multiple: 1.0,
    source: "Nelson et al., 2008 (reject on negative impact), on groups; scores: Koh & Liang, 2017",
    run,
    fixed: None,
};

fn run(set: &TrainingData<'_>, options: &FilterOptions) -> Result<Filtered, DefenceError> {
    let hashes = hashes(set, PURPOSE);
    let halves = [0, 1].map(|half| (0..set.len()).filter(|row| word(&hashes[*row], 0) % 2 == half).collect::<Vec<_>>());
    if halves.iter().any(Vec::is_empty) {
        let expected = "enough for both halves".to_owned();
        return Err(DefenceError::Parameter {
            name: "the number of different samples",
            value: set.len() as f64,
            expected,
        });
    }
    let judge = |half: usize| judged(set, &halves[half], &halves[1 - half], options);
    let results = (0..2).into_par_iter().map(judge).collect::<Result<Vec<_>, _>>()?;
    let mut scores = vec![0.0; set.len()];
    let mut removed = vec![false; set.len()];
    for (rows, (own, harmful)) in halves.iter().zip(results) {
        rows.iter().zip(own).for_each(|(row, score)| scores[*row] = score);
        harmful.into_iter().for_each(|row| removed[row] = true);
    }
    Ok(match options.removal {
        RemovalRule::Share(share) => remove_of_all(scores, share),
        RemovalRule::Paper { .. } => Filtered { scores, removed },
    })
}

/// The scores of the samples of a half and, by the rule of the paper, the rows among them that are removed.
fn judged(
    set: &TrainingData<'_>,
    half: &[usize],
    other: &[usize],
    options: &FilterOptions,
) -> Result<(Vec<f64>, Vec<usize>), DefenceError> {
    let (judged, held_out) = (set.select(half), set.select(other));
    let half_set = TrainingData::new(&[judged.samples()], set.weight_decay(), set.seed())?;
    let judge = Judge::new(&half_set, options.tolerance_for(set))?;
    let held_out = [held_out.samples()];
    let scores = judge.scores(&held_out)?;
    let RemovalRule::Paper { expected } = options.removal else { return Ok((scores, Vec::new())) };
    let mut order: Vec<usize> = (0..half.len()).collect();
    order.sort_by(descending(&scores));
    order.truncate(count_of(expected, half.len()));
    let with = mean_loss(&judge.head, &held_out)?;
    let groups: Vec<_> = order.chunks(order.len().div_ceil(GROUPS).max(1)).collect();
    let harmful = |group: &&[usize]| -> Result<Vec<usize>, DefenceError> {
        let harms = mean_loss(&judge.without(group)?, &held_out)? < with;
        Ok(if harms { group.iter().map(|i| half[*i]).collect() } else { Vec::new() })
    };
    let harmful = groups.par_iter().map(harmful).collect::<Result<Vec<_>, _>>()?;
    Ok((scores, harmful.concat()))
}

/// A half of the set, with a head that is trained on it.
struct Judge<'a> {
    set: &'a TrainingData<'a>,
    head: Head,
    preconditioner: Arc<Preconditioner>,
    tolerance: f64,
}

impl<'a> Judge<'a> {
    fn new(set: &'a TrainingData<'a>, tolerance: f64) -> Result<Self, DefenceError> {
        let preconditioner = Arc::new(Preconditioner::new(set.blocks(), set.weight_decay())?);
        let head = retrain(set.blocks(), set.weight_decay(), tolerance, None, &preconditioner)?;
        Ok(Self { set, head, preconditioner, tolerance })
    }

    /// `-<H⁻¹ ∇L, g_i> / n` for every sample, with the gradient of the mean loss `L` on what is held out: without the
    /// sample, the head would move by `H⁻¹ g_i / n`.
    fn scores(&self, held_out: &[Samples<'_>]) -> Result<Vec<f64>, DefenceError> {
        let (_, gradient) = loss_and_gradient(&self.head, held_out, 0.0)?;
        let options = SolveOptions {
            tolerance: self.tolerance,
            preconditioner: Some(Arc::clone(&self.preconditioner)),
            ..SolveOptions::new(self.set.weight_decay())
        };
        let solved = solve_hessian(&self.head, self.set.blocks(), gradient.view(), &options)?;
        let direction = Head::from_packed(solved.solution)?;
        let count = self.set.len() as f64;
        let parts = self.set.map_chunks(|chunk, z| {
            let mut residuals: Array2<f64> = probabilities_of(&self.head, z);
            subtract_labels(&mut residuals.view_mut(), chunk.labels());
            let along = times_transposed(z, direction.weight()) + direction.bias();
            let each = along.rows().into_iter().zip(residuals.rows());
            each.map(|(along, residual)| -along.dot(&residual) / count).collect::<Vec<_>>()
        });
        Ok(parts.flatten().collect())
    }

    /// The head without the samples of a group.
    fn without(&self, group: &[usize]) -> Result<Head, DefenceError> {
        let mut kept = vec![true; self.set.len()];
        group.iter().for_each(|row| kept[*row] = false);
        let rest = self.set.filter(&kept)?;
        let (decay, start) = (self.set.weight_decay(), Some(&self.head));
        Ok(retrain(&[rest.samples()], decay, self.tolerance, start, &self.preconditioner)?)
    }
}
