//! The greedy conditional gradient method (Frank & Wolfe, 1956; Koh et al., 2022, for poisons). Poisons are added one
//! by one; each is the poison within the constraint that lowers the objective most, to first order. Afterwards, each
//! poison is exchanged for a better one if there is one.

use crate::Objective;
use hemlock_head::{HeadError, Samples};
use hemlock_threat::Constraint;
use ndarray::{Array2, ArrayView1, Axis, Slice};
use rayon::prelude::*;

/// The labels that a poison may have.
#[derive(Debug, Clone)]
pub enum Choice {
    /// One given label for each poison, `[m]`.
    Given(Vec<u32>),
    /// Any label, with a limit on how many poisons have it.
    Any {
        /// The largest number of poisons with each label, `[K]`.
        most: Vec<usize>,
    },
}

/// Poisons that were added one by one.
#[derive(Debug, Clone)]
pub struct Added {
    /// The features, `[m, d]`.
    pub features: Array2<f64>,
    /// The labels, `[m]`.
    pub labels: Vec<u32>,
    /// The value of the objective for these poisons.
    pub value: f64,
}

/// Adds `count` poisons. Then it goes through all of them `sweeps` times, and exchanges each for the best one given the
/// others if that lowers the objective. Before each poison, `visit` is called with the number of poisons considered so
/// far and the displayed objective.
///
/// # Errors
/// Returns an error if the samples do not fit the objective's head, if no label is left for a poison, or if `visit`
/// returns an error.
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
        let local = objective.evaluate(first(&z, poison).view(), &labels)?;
        visit(poison as u32, objective.display_value(local.value))?;
        let best = local.best_poison(constraint, clean, &choice.labels(poison, &labels))?;
        z.row_mut(poison).assign(&best.features);
        labels.push(best.label);
    }
    let mut value = objective.evaluate(z.view(), &labels)?.value;
    for sweep in 0..sweeps {
        for poison in 0..count {
            visit(
                (sweep + 1).saturating_mul(count as u32).saturating_add(poison as u32),
                objective.display_value(value),
            )?;
            let others: Vec<usize> = (0..count).filter(|i| *i != poison).collect();
            let other_labels: Vec<u32> = others.iter().map(|i| labels[*i]).collect();
            let local = objective.evaluate(z.select(Axis(0), &others).view(), &other_labels)?;
            let best = local.best_poison(constraint, clean, &choice.labels(poison, &other_labels))?;
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
    /// The labels that are left for poison number `poison`, given the labels of the others.
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

/// Which clean samples a poison may be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// All samples.
    Any,
    /// The samples with the poison's label.
    Own,
    /// The samples with other labels than the poison's.
    Other,
}

/// A clean sample for each poison: the nearest allowed one that no earlier poison took. If all near ones are taken, it
/// is the nearest allowed one.
///
/// # Panics
/// Panics if no clean sample is allowed for a poison.
#[must_use]
pub fn nearest_samples(features: &Array2<f64>, labels: &[u32], clean: Samples, class: Class) -> Vec<u32> {
    let allowed = |row: u32, label: u32| match class {
        Class::Any => true,
        Class::Own => clean.labels()[row as usize] == label,
        Class::Other => clean.labels()[row as usize] != label,
    };
    // For each poison, the allowed samples ordered by distance: |x|^2 - 2 <x, z> gives the same order as |x - z|^2.
    let order = |(poison, label): (ArrayView1<f64>, &u32)| -> Vec<u32> {
        let mut candidates: Vec<(f64, u32)> = Vec::new();
        let mut row = 0;
        for chunk in clean.chunks() {
            let z = chunk.to_f64();
            let along = z.dot(&poison);
            for (x, along) in z.rows().into_iter().zip(&along) {
                if allowed(row, *label) {
                    candidates.push((x.dot(&x) - 2.0 * along, row));
                }
                row += 1;
            }
        }
        candidates.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        candidates.truncate(labels.len());
        candidates.into_iter().map(|(_, row)| row).collect()
    };
    let rows: Vec<_> = features.rows().into_iter().zip(labels).collect();
    let orders: Vec<Vec<u32>> = rows.into_par_iter().map(order).collect();
    let mut taken = vec![false; clean.len()];
    let choose = |order: &Vec<u32>| {
        let untaken = order.iter().find(|row| !taken[**row as usize]).or(order.first());
        let row = *untaken.expect("there is a clean sample that a poison with such a label may be made of");
        taken[row as usize] = true;
        row
    };
    orders.iter().map(choose).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CancelingObjective;
    use crate::testing::Clouds;

    #[test]
    fn it_cancels_and_exchanging_helps() {
        let setting = Clouds::new();
        let target = hemlock_head::Head::from_packed(&setting.head.packed() * 0.7).unwrap();
        let clean = setting.clean();
        let ball = Constraint::ball(1.5);
        let run = |count, choice: &Choice, sweeps| {
            let mut canceling = CancelingObjective::new(&target, clean, 1e-2).unwrap();
            let added =
                add(&mut canceling, count, choice, &ball, clean, sweeps, |_, _| Ok::<_, HeadError>(())).unwrap();
            assert!(added.features.rows().into_iter().all(|z| z.dot(&z).sqrt() <= 1.5 + 1e-9));
            let any_labels = matches!(choice, Choice::Any { .. });
            let bound =
                canceling.residual_bound(added.features.view(), &added.labels, any_labels, &ball, clean).unwrap();
            let residual = canceling.display_value(added.value);
            assert!(bound <= residual + 1e-9, "{bound} above {residual}");
            (residual, bound, added.labels)
        };
        let any = Choice::Any { most: vec![300; 3] };
        let (few, few_bound, _) = run(5, &any, 0);
        let (many, _, _) = run(20, &any, 0);
        let (exchanged, _, _) = run(20, &any, 2);
        assert!(many < few && exchanged <= many, "{few} {many} {exchanged}");
        // Few poisons cannot cancel the gradient, and the bound reflects that.
        assert!(few_bound > 0.1, "{few_bound}");
        let (_, _, labels) = run(6, &Choice::Given(vec![0, 1, 2, 0, 1, 2]), 1);
        assert_eq!(labels, [0, 1, 2, 0, 1, 2]);
        let (_, _, labels) = run(6, &Choice::Any { most: vec![1, 2, 300] }, 1);
        assert!(labels.iter().filter(|l| **l == 0).count() <= 1 && labels.iter().filter(|l| **l == 1).count() <= 2);
    }

    #[test]
    fn nearest_samples_are_near_and_different() {
        let setting = Clouds::new();
        let clean = setting.clean();
        let z = clean.select(&[7, 7, 30]);
        let found = nearest_samples(&z, &[2, 2, 0], clean, Class::Any);
        assert_eq!((found[0], found[2]), (7, 30));
        assert_ne!(found[1], 7);
        let found = nearest_samples(&z, &[2, 0, 1], clean, Class::Own);
        assert_eq!(found.iter().map(|i| clean.labels()[*i as usize]).collect::<Vec<_>>(), [2, 0, 1]);
        let found = nearest_samples(&z, &[1, 1, 0], clean, Class::Other);
        assert!(found.iter().zip([1, 1, 0]).all(|(i, label)| clean.labels()[*i as usize] != label));
    }
}
