//! Controls: what adding as many samples does without an attack.

use hemlock_head::{
    FitOptions, Head, Preconditioner, Samples, SolveOptions, fit, logits, probabilities, smoothed_error, solve_hessian,
};
use hemlock_stage::{Context, StageError};
use hemlock_streams::Purpose;
use rand::{RngExt, seq::index};
use std::sync::Arc;

/// Clean samples by their numbers, with labels that may be others than theirs.
#[derive(Debug, PartialEq)]
pub(crate) struct Control {
    pub(crate) rows: Vec<usize>,
    pub(crate) labels: Vec<u32>,
}

/// `m` different clean samples, as they are, drawn uniformly.
pub(crate) fn duplicates(clean: Samples, m: usize, seed: u64) -> Control {
    let mut rows = index::sample(&mut Purpose::ControlSamples.of(seed), clean.len(), m.min(clean.len())).into_vec();
    rows.sort_unstable();
    let labels = rows.iter().map(|i| clean.labels()[*i]).collect();
    Control { rows, labels }
}

/// The samples of [`duplicates`], each with a label drawn uniformly from the other classes.
pub(crate) fn random_flips(clean: Samples, m: usize, seed: u64) -> Control {
    let mut rng = Purpose::ControlLabels.of(seed);
    let mut control = duplicates(clean, m, seed);
    let classes = clean.classes() as u32;
    for label in &mut control.labels {
        *label = (*label + rng.random_range(1..classes)) % classes;
    }
    control
}

/// Rounds in which aligned flips are chosen.
pub(crate) const ROUNDS: usize = 10;
/// Of the error that they raise: that of the bilevel attack where a spec says nothing.
const TEMPERATURE: f64 = 0.5;

/// Clean samples with wrong labels, chosen to raise the error on some samples by their influence on the head (Koh &
/// Liang, 2017): adding a sample (z, y) to n others raises it to first order by `-1/n <U, G(z, y)> = 1/n ((U [z, 1])_y
/// - <p, U [z, 1]>)`, with `U` the inverse Hessian times the gradient of the [smoothed error](smoothed_error). Where a
/// flipped sample stands in the place of itself, its own label's share is gone, which leaves `1/n ((U [z, 1])_y - (U
/// [z, 1])_own)`.
///
/// They are chosen in rounds, with the head trained anew in between, so that later ones know what earlier ones did. A
/// flip that is added beside the sample may be chosen again in a later round, as a poison may be repeated.
pub(crate) struct AlignedFlips<'a, 's> {
    pub(crate) clean: Samples<'s>,
    /// Whose error is raised.
    pub(crate) raised: &'a [Samples<'s>],
    pub(crate) weight_decay: f64,
    /// Whether a flipped sample stands in the place of itself.
    pub(crate) replaces: bool,
}

impl AlignedFlips<'_, '_> {
    /// `m` flips, or as many as there are samples to replace, from the head of the clean samples on.
    ///
    /// # Errors
    /// Samples that do not fit the head, none whose error is raised, or an interruption.
    pub(crate) fn choose(&self, head: &Head, m: usize, rounds: usize, ctx: &Context) -> Result<Control, StageError> {
        let bar = ctx.progress.start("choice of flips", rounds as u64, "rounds");
        let m = if self.replaces { m.min(self.clean.len()) } else { m };
        let preconditioner = Arc::new(Preconditioner::at(head, &[self.clean], self.weight_decay)?);
        let mut control = Control { rows: Vec::new(), labels: Vec::new() };
        let (mut head, mut solution) = (head.clone(), None);
        for round in 0..rounds {
            ctx.check()?;
            let count = m * (round + 1) / rounds - control.rows.len();
            if count == 0 {
                continue;
            }
            let z = self.clean.select(&control.rows);
            let flipped = Samples::new(z.view(), &control.labels, self.clean.classes())?;
            let (kept, labels);
            let rest = if self.replaces && !control.rows.is_empty() {
                let free = self.free(&control.rows);
                let rows: Vec<usize> = (0..self.clean.len()).filter(|row| free[*row]).collect();
                labels = rows.iter().map(|row| self.clean.labels()[*row]).collect::<Vec<u32>>();
                kept = self.clean.select(&rows);
                Samples::new(kept.view(), &labels, self.clean.classes())?
            } else {
                self.clean.reborrow()
            };
            let training = [rest, flipped];
            if !control.rows.is_empty() {
                let options = FitOptions {
                    // Enough to rank samples by.
                    gradient_tolerance: 1e-5,
                    start: Some(head),
                    preconditioner: Some(Arc::clone(&preconditioner)),
                    ..FitOptions::new(self.weight_decay)
                };
                head = fit(&training, &options, &|_, _| !ctx.cancel.requested())?.head;
            }
            let (_, gradient) = smoothed_error(&head, self.raised, TEMPERATURE)?;
            let options = SolveOptions {
                tolerance: 1e-4,
                start: solution.take(),
                preconditioner: Some(Arc::clone(&preconditioner)),
                ..SolveOptions::new(self.weight_decay)
            };
            let influence = solve_hessian(&head, &training, gradient.view(), &options)?.solution;
            for (row, label) in self.best(&head, Head::from_packed(influence.clone())?, count, &control.rows)? {
                control.rows.push(row);
                control.labels.push(label);
            }
            solution = Some(influence);
            bar.at(round as u64 + 1);
        }
        Ok(control)
    }

    /// Which samples may be flipped where those of `taken` were.
    fn free(&self, taken: &[usize]) -> Vec<bool> {
        let mut free = vec![true; self.clean.len()];
        if self.replaces {
            taken.iter().for_each(|row| free[*row] = false);
        }
        free
    }

    /// The best `count` flips at a head, each of another sample; those of `taken` cannot be replaced once more.
    fn best(
        &self,
        head: &Head,
        influence: Head,
        count: usize,
        taken: &[usize],
    ) -> Result<Vec<(usize, u32)>, StageError> {
        let free = self.free(taken);
        // The gain in error, the row, and the label of the best flip of every sample.
        let mut flips: Vec<(f64, usize, u32)> = Vec::with_capacity(self.clean.len());
        let mut row = 0;
        for chunk in self.clean.chunks() {
            let z = chunk.to_f64();
            let (scores, probabilities) = (logits(&influence, z.view())?, probabilities(head, z.view())?);
            for ((u, p), own) in scores.rows().into_iter().zip(probabilities.rows()).zip(chunk.labels()) {
                let wrong = (0u32..).zip(u).filter(|(label, _)| label != own);
                let best = wrong.max_by(|a, b| a.1.total_cmp(b.1)).filter(|_| free[row]);
                let without = if self.replaces { u[*own as usize] } else { u.dot(&p) };
                flips.extend(best.map(|(label, score)| (score - without, row, label)));
                row += 1;
            }
        }
        flips.sort_by(|a, b| b.0.total_cmp(&a.0));
        flips.truncate(count);
        Ok(flips.into_iter().map(|(_, row, label)| (row, label)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_stage::{Cancel, Environment, NoCheckpoints, Silent};
    use ndarray::Array2;

    #[test]
    fn flips_differ_from_duplicates_in_every_label_and_nothing_else() {
        let z = Array2::from_shape_fn((50, 2), |(i, j)| (i * 2 + j) as f64);
        let labels: Vec<u32> = (0..50).map(|i| i % 5).collect();
        let clean = Samples::new(z.view(), &labels, 5).unwrap();
        let flipped = random_flips(clean, 20, 3);
        let same = duplicates(clean, 20, 3);
        assert_eq!(flipped.rows, same.rows);
        assert!(flipped.labels.iter().zip(&same.labels).all(|(a, b)| a != b && *a < 5));
        assert!(same.rows.iter().zip(&same.labels).all(|(row, label)| labels[*row] == *label));
        assert!(flipped.labels.iter().collect::<std::collections::BTreeSet<_>>().len() > 2);
    }

    /// Two classes that overlap, their head, and what a choice of flips does to it.
    struct Overlapping {
        train: (Array2<f64>, Vec<u32>),
        validation: (Array2<f64>, Vec<u32>),
        options: FitOptions,
        head: Head,
    }

    impl Overlapping {
        fn new(n: usize, weight_decay: f64) -> Self {
            let (train, validation) = (overlapping(n, 1), overlapping(200, 2));
            let options = FitOptions { gradient_tolerance: 1e-10, ..FitOptions::new(weight_decay) };
            let clean = Samples::new(train.0.view(), &train.1, 2).unwrap();
            let head = fit(&[clean], &options, &|_, _| true).unwrap().head;
            Self { train, validation, options, head }
        }
        fn clean(&self) -> Samples<'_> {
            Samples::new(self.train.0.view(), &self.train.1, 2).unwrap()
        }
        fn raised(&self) -> [Samples<'_>; 1] {
            [Samples::new(self.validation.0.view(), &self.validation.1, 2).unwrap()]
        }
        fn choose(&self, m: usize, rounds: usize, replaces: bool) -> Control {
            let (env, cancel) = (Environment::default(), Cancel::default());
            let ctx = Context {
                seed: 0,
                device: "flex",
                env: &env,
                progress: &Silent,
                cancel: &cancel,
                checkpoints: &NoCheckpoints,
                scratch: &std::env::temp_dir(),
            };
            let (clean, weight_decay) = (self.clean(), self.options.weight_decay);
            let chosen = AlignedFlips { clean, raised: &self.raised(), weight_decay, replaces };
            let control = chosen.choose(&self.head, m, rounds, &ctx).unwrap();
            assert!(control.rows.iter().zip(&control.labels).all(|(row, label)| self.train.1[*row] != *label));
            assert_eq!(control.rows.len(), m);
            control
        }
        /// The smoothed error of a head that is trained on other labels, or on further samples.
        fn error(&self, labels: &[u32], added: &Control) -> f64 {
            let z = self.clean().select(&added.rows);
            let added = Samples::new(z.view(), &added.labels, 2).unwrap();
            let training = [Samples::new(self.train.0.view(), labels, 2).unwrap(), added];
            let victim = fit(&training, &self.options, &|_, _| true).unwrap().head;
            smoothed_error(&victim, &self.raised(), TEMPERATURE).unwrap().0
        }
        fn error_beside(&self, control: &Control) -> f64 {
            self.error(&self.train.1, control)
        }
        fn error_in_place(&self, control: &Control) -> f64 {
            let mut labels = self.train.1.clone();
            control.rows.iter().zip(&control.labels).for_each(|(row, label)| labels[*row] = *label);
            self.error(&labels, &Control { rows: Vec::new(), labels: Vec::new() })
        }
    }

    #[test]
    fn aligned_flips_cost_more_than_random_ones() {
        let data = Overlapping::new(400, 1e-3);
        let none = data.error_beside(&Control { rows: Vec::new(), labels: Vec::new() });
        let aligned = data.error_beside(&data.choose(20, ROUNDS, false));
        for seed in 0..3 {
            let random = data.error_beside(&random_flips(data.clean(), 20, seed));
            assert!(aligned - none > 1.5 * (random - none), "{none} {random} {aligned}");
        }
    }

    /// Later rounds know what earlier ones did, and may repeat them; a sample that is replaced is replaced once.
    #[test]
    fn rounds_cost_more_than_one() {
        let data = Overlapping::new(400, 1e-3);
        let different = |control: &Control| control.rows.iter().collect::<std::collections::BTreeSet<_>>().len();
        for m in [40, 100] {
            let (once, rounds) = (data.choose(m, 1, false), data.choose(m, ROUNDS, false));
            assert!(different(&rounds) < m && different(&once) == m, "of {m}, {} differ", different(&rounds));
            let [none, once, rounds] =
                [Control { rows: Vec::new(), labels: Vec::new() }, once, rounds].map(|c| data.error_beside(&c));
            assert!(rounds - none > 1.02 * (once - none), "{m}: {none} {once} {rounds}");
            let (once, rounds) = (data.choose(m, 1, true), data.choose(m, ROUNDS, true));
            assert_eq!(different(&rounds), m);
            assert!(data.error_in_place(&rounds) >= data.error_in_place(&once) - 1e-6);
        }
    }

    /// Flips in place are those of the largest gain by trial, which flips beside the samples are not.
    #[test]
    fn flips_in_place_are_ranked_by_what_they_replace() {
        let data = Overlapping::new(60, 1e-2);
        let error = |row: usize| data.error_in_place(&Control { rows: vec![row], labels: vec![1 - data.train.1[row]] });
        let mut by_trial: Vec<usize> = (0..60).collect();
        by_trial.sort_by(|a, b| error(*b).total_cmp(&error(*a)));
        let agree = |control: Control| control.rows.iter().filter(|row| by_trial[..20].contains(row)).count();
        let (in_place, beside) = (agree(data.choose(20, 1, true)), agree(data.choose(20, 1, false)));
        assert!(in_place >= 18 && in_place > beside, "{in_place} of those in place, {beside} of those beside, of 20");
    }

    /// A feature in which two classes overlap.
    fn overlapping(n: usize, seed: u64) -> (Array2<f64>, Vec<u32>) {
        let mut rng = Purpose::Test.of(seed);
        let labels: Vec<u32> = (0..n).map(|i| (i % 2) as u32).collect();
        let z = Array2::from_shape_fn((n, 2), |(i, _)| (i % 2) as f64 + rng.random_range(-1.0..1.0));
        (z, labels)
    }
}
