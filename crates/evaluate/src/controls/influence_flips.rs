//! Control: flipped labels that are chosen by their influence on the error that attacks raise.

use super::{Basis, Control, Relabelled};
use blake3::{Hash, Hasher};
use hemlock_head::{
    FitOptions, Head, Preconditioner, Samples, SolveOptions, fit, logits, probabilities, smoothed_error, solve_hessian,
};
use hemlock_stage::{Context, StageError};
use hemlock_victims::TrainingSetChange;
use ndarray::Array2;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// The control of flips that are chosen by their influence.
pub(super) static CONTROL: Control = Control {
    name: "influence-flips",
    about: "after as many clean samples were added, or replaced, with the wrong labels that influence most",
    make,
};

fn make(of: &Basis) -> Result<Option<TrainingSetChange>, StageError> {
    let clean = of.clean()?;
    let raised = of.sees.samples(clean, of.data.features.validation.samples(of.data.classes())?)?;
    let (weight_decay, replaces) = (of.data.weight_decay, of.replaced.is_some());
    let flips = InfluenceFlips { clean, raised: &raised, weight_decay, replaces };
    let Choice { flips, unsolved: relative_residual } = flips.known_or_chosen(of.head, of.count, of.data.ctx)?;
    if relative_residual > 0.0 {
        tracing::warn!(relative_residual, "influences of flips are not exact: a linear system was not solved");
    }
    Ok(Some(of.change(flips)))
}

/// Chosen flips.
#[derive(Debug, Clone, PartialEq)]
struct Choice {
    flips: Relabelled,
    /// The largest relative residual at which a linear system was left above its tolerance; 0 if all were solved.
    unsolved: f64,
}

/// The last choices of this process, each with the digest of what it depends on. Attacks with the same data and the
/// same number of poisons are all compared with the same flips.
static CHOICES: Mutex<VecDeque<(Hash, Choice)>> = Mutex::new(VecDeque::new());
/// The number of choices that are kept.
const KEPT: usize = 16;

/// Number of rounds in which influence flips are chosen.
const ROUNDS: usize = 10;
/// Temperature of the smoothed error that the flips raise; the default of the bilevel attack.
const TEMPERATURE: f64 = 0.5;

/// Chooses clean samples and wrong labels for them that raise the error on some samples, by their influence on the head
/// (Koh & Liang, 2017).
///
/// With `U` the inverse Hessian times the gradient of the [smoothed error](smoothed_error), these changes raise the
/// error to first order by
///
/// - `-1/n <U, G(z, y)> = 1/n ((U [z, 1])_y - <p, U [z, 1]>)`, if a sample `(z, y)` is added to n others;
/// - `1/n ((U [z, 1])_y - (U [z, 1])_own)`, if the flipped sample replaces itself, so that its own label contributes no
///   more.
///
/// The flips are chosen in [`ROUNDS`] rounds. The head is retrained after each, so that later flips take earlier ones
/// into account. If flips are added, a later round may choose the same flip again, as poisons may repeat, too.
pub(crate) struct InfluenceFlips<'a, 's> {
    pub(crate) clean: Samples<'s>,
    /// The samples whose error is raised.
    pub(crate) raised: &'a [Samples<'s>],
    pub(crate) weight_decay: f64,
    /// Whether a flipped sample replaces itself; otherwise it is added.
    pub(crate) replaces: bool,
}

impl InfluenceFlips<'_, '_> {
    /// [`InfluenceFlips::choose`], unless this process has made the same choice before.
    fn known_or_chosen(&self, head: &Head, m: usize, ctx: &Context) -> Result<Choice, StageError> {
        let choices = || CHOICES.lock().unwrap_or_else(PoisonError::into_inner);
        let digest = self.digest(head, m);
        let known = choices().iter().find(|(of, _)| *of == digest).map(|(_, choice)| choice.clone());
        if let Some(choice) = known {
            return Ok(choice);
        }
        // Other threads are not kept waiting: two that need the same at the same time both choose.
        let choice = self.choose(head, m, ctx)?;
        let mut choices = choices();
        choices.truncate(KEPT - 1);
        choices.push_front((digest, choice.clone()));
        Ok(choice)
    }

    /// A digest of all that a choice depends on.
    fn digest(&self, head: &Head, m: usize) -> Hash {
        let mut hasher = Hasher::new();
        let mut add = |values: &[f64]| {
            hasher.update(bytemuck::cast_slice(values));
        };
        add(&[m as f64, f64::from(self.replaces), self.weight_decay, self.clean.classes() as f64]);
        head.packed().iter().for_each(|value| add(&[*value]));
        for samples in std::iter::once(&self.clean).chain(self.raised) {
            add(&[samples.len() as f64, samples.dim() as f64]);
            for chunk in samples.chunks() {
                add(&chunk.to_f64().iter().copied().collect::<Vec<f64>>());
                chunk.labels().iter().for_each(|label| add(&[f64::from(*label)]));
            }
        }
        hasher.finalize()
    }

    /// Chooses `m` flips, or as many as there are samples to replace. They are those of the rounds, which start from
    /// `head`, or `m` flips that are chosen at once, if these raise the error more.
    ///
    /// # Errors
    /// If the samples do not fit the head, if there are none whose error is raised, or if the run was interrupted.
    fn choose(&self, head: &Head, m: usize, ctx: &Context) -> Result<Choice, StageError> {
        let m = if self.replaces { m.min(self.clean.len()) } else { m };
        let preconditioner = Arc::new(Preconditioner::at(head, &[self.clean.reborrow()], self.weight_decay)?);
        let mut solver = Solver { ctx, preconditioner, head: head.clone(), solution: None, unsolved: 0.0 };
        let bar = ctx.progress.start("choice of flips", ROUNDS as u64, "rounds");
        let (mut rounds, mut at_once) = (Relabelled::default(), Relabelled::default());
        for round in 0..ROUNDS {
            ctx.check()?;
            let count = m * (round + 1) / ROUNDS - rounds.rows.len();
            if count > 0 {
                let mut gains = self.trained_on(&rounds, |training| {
                    let influence = solver.influence(training, self.raised, self.weight_decay)?;
                    self.gains(&solver.head, &influence)
                })?;
                gains.sort_by(|a, b| b.gain.total_cmp(&a.gain));
                if rounds.rows.is_empty() {
                    at_once.extend(gains.iter().take(m));
                }
                let available = self.available(&rounds.rows);
                rounds.extend(gains.iter().filter(|flip| available[flip.row]).take(count));
            }
            bar.at(round as u64 + 1);
        }
        let mut error = |control: &Relabelled| {
            let trained = self.trained_on(control, |training| solver.train(training, self.weight_decay));
            trained.and_then(|()| Ok(smoothed_error(&solver.head, self.raised, TEMPERATURE)?.0))
        };
        let flips = if error(&rounds)? >= error(&at_once)? { rounds } else { at_once };
        Ok(Choice { flips, unsolved: solver.unsolved })
    }

    /// Calls `run` with the training set of clean and flipped samples that a control leads to.
    fn trained_on<T>(
        &self,
        control: &Relabelled,
        run: impl FnOnce(&[Samples<'_>]) -> Result<T, StageError>,
    ) -> Result<T, StageError> {
        let classes = self.clean.classes();
        let z = self.clean.select(&control.rows);
        let flipped = Samples::new(z.view(), &control.labels, classes)?;
        if !self.replaces || control.rows.is_empty() {
            return run(&[self.clean.reborrow(), flipped]);
        }
        let available = self.available(&control.rows);
        let rows: Vec<usize> = (0..self.clean.len()).filter(|row| available[*row]).collect();
        let labels: Vec<u32> = rows.iter().map(|row| self.clean.labels()[*row]).collect();
        let kept = self.clean.select(&rows);
        run(&[Samples::new(kept.view(), &labels, classes)?, flipped])
    }

    /// Returns for every clean sample whether it may still be flipped after those in `taken`.
    fn available(&self, taken: &[usize]) -> Vec<bool> {
        let mut available = vec![true; self.clean.len()];
        if self.replaces {
            taken.iter().for_each(|row| available[*row] = false);
        }
        available
    }

    /// Finds the best flip of every clean sample by its first-order gain at a head, in the order of the samples.
    fn gains(&self, head: &Head, influence: &Head) -> Result<Vec<Flip>, StageError> {
        let mut flips = Vec::with_capacity(self.clean.len());
        for chunk in self.clean.chunks() {
            let z = chunk.to_f64();
            let (scores, probabilities) = (logits(influence, z.view())?, probabilities(head, z.view())?);
            for ((u, p), own) in scores.rows().into_iter().zip(probabilities.rows()).zip(chunk.labels()) {
                let without = if self.replaces { u[*own as usize] } else { u.dot(&p) };
                let wrong = (0u32..).zip(u).filter(|(label, _)| label != own);
                let (label, score) = wrong.max_by(|a, b| a.1.total_cmp(b.1)).unwrap_or((*own, &without));
                flips.push(Flip { gain: score - without, row: flips.len(), label });
            }
        }
        Ok(flips)
    }
}

/// A clean sample with a wrong label.
struct Flip {
    /// The increase of the error to first order, times the number of samples.
    gain: f64,
    row: usize,
    label: u32,
}

impl Relabelled {
    fn extend<'f>(&mut self, flips: impl Iterator<Item = &'f Flip>) {
        for flip in flips {
            self.rows.push(flip.row);
            self.labels.push(flip.label);
        }
    }
}

/// Trains heads and solves linear systems with their Hessians. Each starts from the last solution.
struct Solver<'a> {
    ctx: &'a Context<'a>,
    preconditioner: Arc<Preconditioner>,
    head: Head,
    solution: Option<Array2<f64>>,
    /// The largest relative residual at which a system was left above its tolerance; 0 if all were solved.
    unsolved: f64,
}

impl Solver<'_> {
    /// Moves the head close enough to the minimum to rank samples by influence.
    fn train(&mut self, training: &[Samples<'_>], weight_decay: f64) -> Result<(), StageError> {
        let options = FitOptions {
            gradient_tolerance: 1e-5,
            start: Some(self.head.clone()),
            preconditioner: Some(Arc::clone(&self.preconditioner)),
            ..FitOptions::new(weight_decay)
        };
        self.head = fit(training, &options, &|_, _| !self.ctx.cancel.requested())?.head;
        self.ctx.check()
    }

    /// Trains the head, and returns the inverse Hessian times the gradient of the error there.
    fn influence(
        &mut self,
        training: &[Samples<'_>],
        raised: &[Samples<'_>],
        weight_decay: f64,
    ) -> Result<Head, StageError> {
        self.train(training, weight_decay)?;
        let (_, gradient) = smoothed_error(&self.head, raised, TEMPERATURE)?;
        let options = SolveOptions {
            tolerance: 1e-4,
            start: self.solution.take(),
            preconditioner: Some(Arc::clone(&self.preconditioner)),
            ..SolveOptions::new(weight_decay)
        };
        let solved = solve_hessian(&self.head, training, gradient.view(), &options)?;
        if !solved.converged {
            self.unsolved = self.unsolved.max(solved.residual);
        }
        self.solution = Some(solved.solution.clone());
        Ok(Head::from_packed(solved.solution)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{duplicates, random_flips};
    use super::*;
    use hemlock_fixtures::{context, in_context};
    use hemlock_stage::{Cancel, Silent};
    use hemlock_streams::Purpose;
    use ndarray::Array2;
    use rand::RngExt;

    #[test]
    fn flips_differ_from_duplicates_in_every_label_and_nothing_else() {
        let z = Array2::from_shape_fn((50, 2), |(i, j)| (i * 2 + j) as f64);
        let labels: Vec<u32> = (0..50).map(|i| i % 5).collect();
        let clean = Samples::new(z.view(), &labels, 5).unwrap();
        let flipped = random_flips::draw(clean, 20, 3);
        let same = duplicates::draw(clean, 20, 3);
        assert_eq!(flipped.rows, same.rows);
        assert!(flipped.labels.iter().zip(&same.labels).all(|(a, b)| a != b && *a < 5));
        assert!(same.rows.iter().zip(&same.labels).all(|(row, label)| labels[*row] == *label));
        assert!(flipped.labels.iter().collect::<std::collections::BTreeSet<_>>().len() > 2);
    }

    /// Two classes that overlap, the head that is trained on them, and ways to measure chosen flips.
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
        fn flips<'a>(&'a self, raised: &'a [Samples<'a>], replaces: bool) -> InfluenceFlips<'a, 'a> {
            InfluenceFlips { clean: self.clean(), raised, weight_decay: self.options.weight_decay, replaces }
        }
        fn solver<T>(&self, run: impl FnOnce(&mut Solver) -> T) -> T {
            let decay = self.options.weight_decay;
            let preconditioner = Arc::new(Preconditioner::at(&self.head, &[self.clean()], decay).unwrap());
            let head = self.head.clone();
            context(0, |ctx| run(&mut Solver { ctx, preconditioner, head, solution: None, unsolved: 0.0 }))
        }
        fn choose(&self, m: usize, replaces: bool) -> Relabelled {
            let raised = self.raised();
            let control = self.solver(|s| self.flips(&raised, replaces).choose(&self.head, m, s.ctx).unwrap().flips);
            assert!(control.rows.iter().zip(&control.labels).all(|(row, label)| self.train.1[*row] != *label));
            assert_eq!(control.rows.len(), m);
            control
        }
        /// The best flip of every sample, in their order.
        fn gains(&self, replaces: bool) -> Vec<Flip> {
            let raised = self.raised();
            let influence = self.solver(|s| s.influence(&[self.clean()], &raised, self.options.weight_decay).unwrap());
            self.flips(&raised, replaces).gains(&self.head, &influence).unwrap()
        }
        /// Flips that are all chosen in one round.
        fn at_once(&self, m: usize, replaces: bool) -> Relabelled {
            let mut gains = self.gains(replaces);
            gains.sort_by(|a, b| b.gain.total_cmp(&a.gain));
            let mut control = Relabelled::default();
            control.extend(gains.iter().take(m));
            control
        }
        /// The smoothed error of a head that is trained on the samples with other labels, or with further samples.
        fn error(&self, labels: &[u32], added: &Relabelled) -> f64 {
            let z = self.clean().select(&added.rows);
            let added = Samples::new(z.view(), &added.labels, 2).unwrap();
            let training = [Samples::new(self.train.0.view(), labels, 2).unwrap(), added];
            let victim = fit(&training, &self.options, &|_, _| true).unwrap().head;
            smoothed_error(&victim, &self.raised(), TEMPERATURE).unwrap().0
        }
        fn error_beside(&self, control: &Relabelled) -> f64 {
            self.error(&self.train.1, control)
        }
        fn error_in_place(&self, control: &Relabelled) -> f64 {
            let mut labels = self.train.1.clone();
            control.rows.iter().zip(&control.labels).for_each(|(row, label)| labels[*row] = *label);
            self.error(&labels, &Relabelled::default())
        }
    }

    #[test]
    fn influence_flips_cost_more_than_random_ones() {
        let data = Overlapping::new(400, 1e-3);
        let none = data.error_beside(&Relabelled::default());
        let aligned = data.error_beside(&data.choose(20, false));
        for seed in 0..3 {
            let random = data.error_beside(&random_flips::draw(data.clean(), 20, seed));
            assert!(aligned - none > 1.5 * (random - none), "{none} {random} {aligned}");
        }
    }

    /// Later rounds take earlier ones into account and may repeat their flips; a sample that is replaced is replaced
    /// once.
    #[test]
    fn rounds_cost_more_than_a_choice_at_once() {
        let data = Overlapping::new(400, 1e-3);
        let different = |control: &Relabelled| control.rows.iter().collect::<std::collections::BTreeSet<_>>().len();
        for m in [40, 100] {
            let (once, rounds) = (data.at_once(m, false), data.choose(m, false));
            assert!(different(&rounds) < m && different(&once) == m, "of {m}, {} differ", different(&rounds));
            let [none, once, rounds] = [Relabelled::default(), once, rounds].map(|c| data.error_beside(&c));
            assert!(rounds - none > 1.1 * (once - none), "{m}: {none} {once} {rounds}");
            let (once, rounds) = (data.at_once(m, true), data.choose(m, true));
            assert_eq!(different(&rounds), m);
            assert!(data.error_in_place(&rounds) >= data.error_in_place(&once) - 1e-4);
        }
    }

    /// First-order gains agree with those of retraining, for flips that are added and for flips that replace.
    #[test]
    fn gains_are_those_of_trial() {
        let data = Overlapping::new(200, 1e-2);
        let by_trial = |error: &dyn Fn(&Relabelled) -> f64| -> Vec<f64> {
            let flip = |row: usize| Relabelled { rows: vec![row], labels: vec![1 - data.train.1[row]] };
            (0..200).map(|row| error(&flip(row))).collect()
        };
        let (in_place, beside) = (by_trial(&|c| data.error_in_place(c)), by_trial(&|c| data.error_beside(c)));
        let gains = |replaces| data.gains(replaces).iter().map(|flip| flip.gain).collect::<Vec<f64>>();
        for (trial, replaces) in [(&in_place, true), (&beside, false)] {
            let (own, other) = (correlation(&gains(replaces), trial), correlation(&gains(!replaces), trial));
            assert!(own > 0.99 && other < own - 0.005, "{replaces}: {own}, {other}");
        }
    }

    #[test]
    fn the_same_choice_is_made_once() {
        let (data, other) = (Overlapping::new(90, 1e-2), Overlapping::new(91, 1e-2));
        let (raised, own) = (data.raised(), [data.clean()]);
        let stopped = Cancel::default();
        stopped.request();
        let known = |flips: InfluenceFlips<'_, '_>, head: &Head, m: usize| {
            in_context("flex", &Silent, &stopped, |ctx| flips.known_or_chosen(head, m, ctx).ok())
        };
        assert!(known(data.flips(&raised, false), &data.head, 9).is_none());
        let chosen = data.solver(|s| data.flips(&raised, false).known_or_chosen(&data.head, 9, s.ctx).unwrap());
        assert_eq!(known(data.flips(&raised, false), &data.head, 9), Some(chosen));
        // Nothing else is taken for it.
        assert!(known(data.flips(&raised, false), &data.head, 8).is_none());
        assert!(known(data.flips(&raised, true), &data.head, 9).is_none());
        assert!(known(data.flips(&own, false), &data.head, 9).is_none());
        assert!(known(data.flips(&raised, false), &other.head, 9).is_none());
        assert!(known(other.flips(&raised, false), &data.head, 9).is_none());
    }

    fn correlation(a: &[f64], b: &[f64]) -> f64 {
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let (ma, mb) = (mean(a), mean(b));
        let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| f(a - ma, b - mb)).sum::<f64>();
        sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
    }

    /// One feature in which two classes overlap, and labels.
    fn overlapping(n: usize, seed: u64) -> (Array2<f64>, Vec<u32>) {
        let mut rng = Purpose::Test.of(seed);
        let labels: Vec<u32> = (0..n).map(|i| (i % 2) as u32).collect();
        let z = Array2::from_shape_fn((n, 2), |(i, _)| (i % 2) as f64 + rng.random_range(-1.0..1.0));
        (z, labels)
    }
}
