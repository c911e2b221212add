//! The greedy conditional gradient: poisons are added one by one, each the one within the constraint that helps most, to first order
//! (Frank & Wolfe, 1956; Koh et al., 2022, for poisons). Then each is exchanged for a better one, if there is one.

use crate::Objective;
use hemlock_head::{Constraint, HeadError, Samples};
use ndarray::{Array2, ArrayView1, Axis, Slice};

/// Which labels a poison may have.
#[derive(Debug, Clone)]
pub enum Choice {
    /// The label that is given for every poison.
    Given(Vec<u32>),
    /// Any, but each label for so many poisons at most.
    Any {
        /// `[K]`.
        most: Vec<usize>,
    },
}

/// Poisons that were added one by one.
#[derive(Debug, Clone)]
pub struct Added {
    /// `[m, d]`.
    pub features: Array2<f64>,
    /// Their labels.
    pub labels: Vec<u32>,
    /// The objective with them.
    pub value: f64,
}

/// Adds `count` poisons, then goes through all of them `sweeps` times and exchanges each for the best one given the others, where
/// that lowers the objective. `visit` hears the number of poisons looked at and the objective, as it is shown.
///
/// # Errors
/// Samples that do not fit the objective's head; what `visit` returns.
pub fn add<E: From<HeadError>>(
    objective: &mut dyn Objective,
    count: usize,
    choice: &Choice,
    constraint: &Constraint,
    clean: Samples,
    sweeps: u32,
    mut visit: impl FnMut(u32, f64) -> Result<(), E>,
) -> Result<Added, E> {
    let mut z = Array2::zeros((count, clean.dim()));
    let mut labels: Vec<u32> = Vec::with_capacity(count);
    let first = |z: &Array2<f64>, some: usize| z.slice_axis(Axis(0), Slice::from(..some)).to_owned();
    for poison in 0..count {
        let force = objective.evaluate(first(&z, poison).view(), &labels)?;
        visit(poison as u32, objective.shown(force.value))?;
        let best = force.best_poison(constraint, clean, &choice.labels(poison, &labels))?;
        z.row_mut(poison).assign(&best.features);
        labels.push(best.label);
    }
    let mut value = objective.evaluate(z.view(), &labels)?.value;
    for sweep in 0..sweeps {
        for poison in 0..count {
            visit((sweep + 1) * count as u32 + poison as u32, objective.shown(value))?;
            let others: Vec<usize> = (0..count).filter(|i| *i != poison).collect();
            let other_labels: Vec<u32> = others.iter().map(|i| labels[*i]).collect();
            let force = objective.evaluate(z.select(Axis(0), &others).view(), &other_labels)?;
            let best = force.best_poison(constraint, clean, &choice.labels(poison, &other_labels))?;
            let old = (z.row(poison).to_owned(), labels[poison]);
            z.row_mut(poison).assign(&best.features);
            labels[poison] = best.label;
            let next = objective.evaluate(z.view(), &labels)?.value;
            if next < value {
                value = next;
            } else {
                z.row_mut(poison).assign(&old.0);
                labels[poison] = old.1;
            }
        }
    }
    Ok(Added { features: z, labels, value })
}

impl Choice {
    /// Labels that are left for a poison beside others.
    fn labels(&self, poison: usize, others: &[u32]) -> Vec<u32> {
        match self {
            Self::Given(labels) => vec![labels[poison]],
            Self::Any { most } => {
                let used = |label: u32| others.iter().filter(|other| **other == label).count();
                (0u32..).zip(most).filter(|(label, most)| used(*label) < **most).map(|(label, _)| label).collect()
            }
        }
    }
}

/// A different clean sample for every poison: the nearest that no poison before it took, of its label where `same_label` says so.
#[must_use]
pub fn nearest_samples(features: &Array2<f64>, labels: &[u32], clean: Samples, same_label: bool) -> Vec<u32> {
    let z = clean.to_f64();
    let mut taken = vec![false; clean.len()];
    let square = |a: ArrayView1<f64>, b: ArrayView1<f64>| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
    let mut nearest = Vec::with_capacity(labels.len());
    for (poison, label) in features.rows().into_iter().zip(labels) {
        let free = (0..clean.len()).filter(|i| !taken[*i] && (!same_label || clean.labels()[*i] == *label));
        let best = free.map(|i| (square(z.row(i), poison), i)).min_by(|a, b| a.0.total_cmp(&b.0));
        // More poisons than samples of the label share the last one.
        let row = best.map_or_else(|| nearest.last().map_or(0, |last: &u32| *last as usize), |(_, row)| row);
        taken[row] = true;
        nearest.push(row as u32);
    }
    nearest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Canceling;
    use crate::testing::Setting;

    #[test]
    fn it_cancels_and_exchanging_helps() {
        let setting = Setting::new();
        let target = hemlock_head::Head::from_packed(&setting.head.packed() * 0.7).unwrap();
        let clean = setting.clean();
        let ball = Constraint::ball(1.5);
        let run = |count, choice: &Choice, sweeps| {
            let mut canceling = Canceling::new(&target, clean, 1e-2).unwrap();
            let added =
                add(&mut canceling, count, choice, &ball, clean, sweeps, |_, _| Ok::<_, HeadError>(())).unwrap();
            assert!(added.features.rows().into_iter().all(|z| z.dot(&z).sqrt() <= 1.5 + 1e-9));
            let free = matches!(choice, Choice::Any { .. });
            let bound = canceling.residual_bound(added.features.view(), &added.labels, free, &ball, clean).unwrap();
            let residual = canceling.shown(added.value);
            assert!(bound <= residual + 1e-9, "{bound} above {residual}");
            (residual, bound, added.labels)
        };
        let any = Choice::Any { most: vec![300; 3] };
        let (few, few_bound, _) = run(5, &any, 0);
        let (many, _, _) = run(20, &any, 0);
        let (exchanged, _, _) = run(20, &any, 2);
        assert!(many < few && exchanged <= many, "{few} {many} {exchanged}");
        // Few poisons cannot cancel the gradient, and the bound says so.
        assert!(few_bound > 0.1, "{few_bound}");
        let (_, _, labels) = run(6, &Choice::Given(vec![0, 1, 2, 0, 1, 2]), 1);
        assert_eq!(labels, [0, 1, 2, 0, 1, 2]);
        let (_, _, labels) = run(6, &Choice::Any { most: vec![1, 2, 300] }, 1);
        assert!(labels.iter().filter(|l| **l == 0).count() <= 1 && labels.iter().filter(|l| **l == 1).count() <= 2);
    }

    #[test]
    fn nearest_samples_are_near_and_different() {
        let setting = Setting::new();
        let clean = setting.clean();
        let z = clean.select(&[7, 7, 30]);
        let found = nearest_samples(&z, &[2, 2, 0], clean, false);
        assert_eq!((found[0], found[2]), (7, 30));
        assert_ne!(found[1], 7);
        let found = nearest_samples(&z, &[2, 0, 1], clean, true);
        assert_eq!(found.iter().map(|i| clean.labels()[*i as usize]).collect::<Vec<_>>(), [2, 0, 1]);
    }
}
