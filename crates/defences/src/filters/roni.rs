//! What a group of samples does to the loss on samples that are held out.

use hemlock_head::{Preconditioner, Samples, mean_loss};
use std::sync::Arc;

use super::{Filter, FilterOptions, Filtered, Removal, count_of};
use crate::hash::{hashes, word};
use crate::losses::{losses, retrain};
use crate::{DefenceError, TrainingSet};

/// Number of groups of a partition of a half, and of independent partitions. A sample's score is a mean over
/// partitions, so that a half has `GROUPS^PARTITIONS` different scores.
const GROUPS: usize = 5;
const PARTITIONS: usize = 2;
const PURPOSE: &str = "hemlock 2026 groups of the filter roni";

pub(super) static FILTER: Filter = Filter {
    name: "roni",
    score: "how much the sample's group raises the mean loss, in nats, on the half of the set that it is not in: the \
            mean over 2 random partitions of each half into 5 groups; among equal scores, samples with more loss go \
            first",
    rule: "of the samples with a positive score, those with the largest, at most the expected share of all samples",
    by_class: false,
    source: "Nelson et al., 2008 (reject on negative impact), for groups instead of single samples",
    run,
};

fn run(set: &TrainingSet<'_>, options: &FilterOptions) -> Result<Filtered, DefenceError> {
    let hashes = hashes(set, PURPOSE);
    let halves = [0, 1].map(|half| (0..set.len()).filter(|row| word(&hashes[*row], 0) % 2 == half).collect::<Vec<_>>());
    if halves.iter().any(Vec::is_empty) {
        let least = 2;
        return Err(DefenceError::FewSamples { defence: FILTER.name, class: 0, needed: least, found: set.len() });
    }
    let (mut scores, mut own_losses) = (vec![0.0; set.len()], vec![0.0; set.len()]);
    for (half, rows) in halves.iter().enumerate() {
        let (judged, held_out) = (set.select(rows), set.select(&halves[1 - half]));
        let (judged, held_out) = ([judged.samples()], [held_out.samples()]);
        let half_set = TrainingSet::new(&judged, set.weight_decay(), set.seed())?;
        let preconditioner = Arc::new(Preconditioner::new(&judged, set.weight_decay())?);
        let train = |blocks: &[Samples<'_>], start| retrain(blocks, set.weight_decay(), start, &preconditioner);
        let all = train(&judged, None)?.head;
        let with = mean_loss(&all, &held_out)?;
        rows.iter().zip(losses(&all, &half_set)).for_each(|(row, loss)| own_losses[*row] = loss);
        for partition in 0..PARTITIONS {
            let group_of = |row: usize| (word(&hashes[row], 1 + partition) % GROUPS as u64) as usize;
            for group in 0..GROUPS {
                let outside: Vec<usize> = (0..rows.len()).filter(|i| group_of(rows[*i]) != group).collect();
                // A group without samples raises nothing, and without the others there is nothing to compare with.
                if outside.is_empty() || outside.len() == rows.len() {
                    continue;
                }
                let rest = half_set.select(&outside);
                let without = mean_loss(&train(&[rest.samples()], Some(&all))?.head, &held_out)?;
                let inside = rows.iter().filter(|row| group_of(**row) == group);
                inside.for_each(|row| scores[*row] += (with - without) / PARTITIONS as f64);
            }
        }
    }
    let mut order: Vec<usize> = (0..set.len()).collect();
    let by = |a: &usize, b: &usize| {
        let losses = own_losses[*b].total_cmp(&own_losses[*a]);
        scores[*b].total_cmp(&scores[*a]).then(losses).then(a.cmp(b))
    };
    order.sort_by(by);
    let least = if matches!(options.removal, Removal::Rule { .. }) { 0.0 } else { f64::NEG_INFINITY };
    let mut removed = vec![false; set.len()];
    let first = order.iter().take(count_of(options.fraction(), set.len()));
    first.filter(|row| scores[**row] > least).for_each(|row| removed[*row] = true);
    Ok(Filtered { scores, removed })
}
