//! The bilevel attack: poisons that raise the validation error of the *retrained* head, by exact implicit differentiation.
//!
//! The leader chooses the poisons' features, the follower trains a head on the clean data and the poisons. The follower's
//! problem is convex and small, so that it is solved anew at every step (L-BFGS, started from the last head), and the gradient
//! of the leader's loss through it is exact: with `U = H(w*)^-1 grad L_val(w*)`, by conjugate gradients,
//!
//! ```text
//! dL_val(w*)/dz_j = -1/N d<U, G(z_j, y_j)>/dz
//! ```
//!
//! This is the problem that Gradient Canceling and TGDA approximate. The leader's loss is bounded
//! ([`smoothed_error`]): cross-entropy soars while accuracy hardly moves.

use crate::{Constraint, adam::Adam};
use hemlock_head::{
    FitOptions, Head, HeadError, Samples, SolveOptions, fit, implicit_gradient, predict, smoothed_error, solve_hessian,
};
use ndarray::Array2;

/// Gradient norm at which the follower counts as trained within a step.
const FOLLOWER_TOLERANCE: f64 = 1e-5;
/// Relative residual at which the Hessian counts as inverted.
const SOLVE_TOLERANCE: f64 = 1e-4;

/// The problem: what the follower trains on besides the poisons, and what the leader wants it to get wrong.
#[derive(Clone, Copy)]
pub struct Bilevel<'a> {
    /// Clean training samples.
    pub clean: Samples<'a>,
    /// Samples whose error is raised.
    pub validation: Samples<'a>,
    /// Weight decay of the follower's training.
    pub weight_decay: f64,
    /// Temperature of the leader's loss.
    pub temperature: f64,
    /// Where the follower starts before the first step: the clean head.
    pub start: &'a Head,
}

/// Projected Adam with a cosine schedule.
#[derive(Debug, Clone, Copy)]
pub struct Leader {
    /// Steps.
    pub steps: u32,
    /// Length of the first step per coordinate, in features' units.
    pub step: f64,
    /// Steps from one choice of the labels to the next; `None` keeps them.
    pub relabel_every: Option<u32>,
}

/// The strongest poisons seen.
#[derive(Debug, Clone)]
pub struct Strongest {
    /// `[m, d]`.
    pub features: Array2<f64>,
    /// Their labels.
    pub labels: Vec<u32>,
    /// The leader's loss with them: smoothed validation error of the retrained head.
    pub error: f64,
    /// The step at which they were found.
    pub step: u32,
}

/// What the leader knows about one retrained head.
struct Response {
    head: Head,
    error: f64,
    /// `U = H^-1 grad L_val`, packed.
    solution: Array2<f64>,
}

impl Bilevel<'_> {
    /// Retrains the follower and differentiates the leader's loss through it.
    fn respond(&self, training: &[Samples<'_>], start: Head) -> Result<Response, HeadError> {
        let options = FitOptions {
            gradient_tolerance: FOLLOWER_TOLERANCE,
            start: Some(start),
            ..FitOptions::new(self.weight_decay)
        };
        let head = fit(training, &options, &|_, _| true)?.head;
        let (error, gradient) = smoothed_error(&head, self.validation.reborrow(), self.temperature)?;
        let options = SolveOptions { tolerance: SOLVE_TOLERANCE, ..SolveOptions::new(self.weight_decay) };
        let solution = solve_hessian(&head, training, gradient.view(), &options)?.solution;
        Ok(Response { head, error, solution })
    }
}

/// For every row of `features`, the label that raises the leader's loss most, to first order: the largest entry of
/// `U [z, 1]`, as `<U, G(z, y)> = <p, U [z, 1]> - (U [z, 1])_y`.
fn best_labels(solution: Array2<f64>, features: &Array2<f64>) -> Result<Vec<u32>, HeadError> {
    predict(&Head::from_packed(solution)?, features.view())
}

/// Raises the leader's loss over the poisons' features within a constraint, and over their labels where `leader` says so.
/// `visit` hears the loss before every step.
///
/// # Errors
/// Features that do not fit the head, or are not finite; no validation samples; what `visit` returns.
pub fn ascend<E: From<HeadError>>(
    problem: &Bilevel,
    start: Array2<f64>,
    mut labels: Vec<u32>,
    constraint: &Constraint,
    leader: &Leader,
    mut visit: impl FnMut(u32, f64) -> Result<(), E>,
) -> Result<Strongest, E> {
    let classes = problem.clean.classes();
    let mut z = start;
    let mut head = problem.start.clone();
    if leader.relabel_every.is_some() {
        labels = best_labels(problem.respond(&[problem.clean.reborrow()], head.clone())?.solution, &z)?;
    }
    constraint.project(&mut z, &labels);
    let mut adam = Adam::new(z.dim(), leader.step, leader.steps);
    let mut best: Option<Strongest> = None;
    for step in 0..=leader.steps {
        let poisons = Samples::new(z.view(), &labels, classes)?;
        let training = [problem.clean.reborrow(), poisons];
        let response = problem.respond(&training, head)?;
        visit(step, response.error)?;
        if best.as_ref().is_none_or(|best| response.error > best.error) {
            best = Some(Strongest { features: z.clone(), labels: labels.clone(), error: response.error, step });
        }
        head = response.head;
        if step == leader.steps {
            break;
        }
        let count = problem.clean.len() + labels.len();
        let mut down = implicit_gradient(&head, poisons, response.solution.view(), count)?;
        down *= -1.0;
        adam.step(&mut z, &down);
        if leader.relabel_every.is_some_and(|every| (step + 1).is_multiple_of(every)) {
            labels = best_labels(response.solution, &z)?;
        }
        constraint.project(&mut z, &labels);
    }
    // The loop ran at least once.
    best.ok_or_else(|| HeadError::Empty.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_head::accuracy;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Overlapping clouds around the corners of a triangle.
    fn clouds(n: usize, seed: u64) -> (Array2<f64>, Vec<u32>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let labels: Vec<u32> = (0..n).map(|i| (i % 3) as u32).collect();
        let z = Array2::from_shape_fn((n, 2), |(i, j)| {
            let corner = [[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]][i % 3][j];
            corner + (0..4).map(|_| rng.random_range(-0.5..0.5)).sum::<f64>()
        });
        (z, labels)
    }

    struct Setting {
        clean: (Array2<f64>, Vec<u32>),
        validation: (Array2<f64>, Vec<u32>),
        head: Head,
    }

    impl Setting {
        fn new() -> Self {
            let clean = clouds(300, 1);
            let samples = Samples::new(clean.0.view(), &clean.1, 3).unwrap();
            let head = fit(&[samples], &FitOptions::new(1e-2), &|_, _| true).unwrap().head;
            Self { clean, validation: clouds(150, 2), head }
        }
        fn problem(&self) -> Bilevel<'_> {
            Bilevel {
                clean: Samples::new(self.clean.0.view(), &self.clean.1, 3).unwrap(),
                validation: Samples::new(self.validation.0.view(), &self.validation.1, 3).unwrap(),
                weight_decay: 1e-2,
                temperature: 1.0,
                start: &self.head,
            }
        }
    }

    /// The leader's loss of poisons, with a follower trained to the last digit.
    fn loss(problem: &Bilevel, z: &Array2<f64>, labels: &[u32]) -> f64 {
        let poisons = Samples::new(z.view(), labels, 3).unwrap();
        let options = FitOptions { gradient_tolerance: 1e-11, ..FitOptions::new(problem.weight_decay) };
        let head = fit(&[problem.clean.reborrow(), poisons], &options, &|_, _| true).unwrap().head;
        smoothed_error(&head, problem.validation.reborrow(), problem.temperature).unwrap().0
    }

    #[test]
    fn the_gradient_goes_through_retraining() {
        let setting = Setting::new();
        let problem = setting.problem();
        let (z, labels) = clouds(6, 3);
        let poisons = Samples::new(z.view(), &labels, 3).unwrap();
        let response = problem.respond(&[problem.clean, poisons], setting.head.clone()).unwrap();
        let found = implicit_gradient(&response.head, poisons, response.solution.view(), 306).unwrap();
        let largest = found.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        for i in 0..6 {
            for j in 0..2 {
                let moved = |by: f64| {
                    let mut z = z.clone();
                    z[(i, j)] += by;
                    loss(&problem, &z, &labels)
                };
                let expected = (moved(1e-4) - moved(-1e-4)) / 2e-4;
                assert!((found[(i, j)] - expected).abs() < 1e-2 * largest, "{} {expected}", found[(i, j)]);
            }
        }
    }

    #[test]
    fn best_labels_are_the_best_by_trial() {
        let setting = Setting::new();
        let problem = setting.problem();
        let response = problem.respond(&[problem.clean], setting.head.clone()).unwrap();
        let (z, _) = clouds(12, 4);
        let labels = best_labels(response.solution, &z).unwrap();
        for (row, label) in z.rows().into_iter().zip(labels) {
            let one = row.to_owned().insert_axis(ndarray::Axis(0));
            let by_trial = (0..3).max_by(|a, b| loss(&problem, &one, &[*a]).total_cmp(&loss(&problem, &one, &[*b])));
            assert_eq!(Some(label), by_trial);
        }
    }

    #[test]
    fn it_beats_its_start_and_more_freedom_beats_less() {
        let setting = Setting::new();
        let problem = setting.problem();
        let (z, labels) = clouds(15, 5);
        let ball = Constraint::Ball { radius: 1.5 };
        let run = |relabel_every, constraint: &Constraint| {
            let leader = Leader { steps: 60, step: 0.2, relabel_every };
            let mut first = None;
            let found = ascend(&problem, z.clone(), labels.clone(), constraint, &leader, |_, error| {
                first.get_or_insert(error);
                Ok::<_, HeadError>(())
            })
            .unwrap();
            // What it says is what a follower trained from scratch gives.
            assert!((loss(&problem, &found.features, &found.labels) - found.error).abs() < 1e-4);
            (first.unwrap(), found)
        };
        let (first, kept) = run(None, &ball);
        assert_eq!(kept.labels, labels);
        assert!(kept.error > first + 0.005, "{first} to {}", kept.error);
        assert!(kept.features.rows().into_iter().all(|z| z.dot(&z).sqrt() <= 1.5 + 1e-12));
        let (_, chosen) = run(Some(10), &ball);
        let (_, free) = run(Some(10), &Constraint::None);
        assert!(chosen.error > kept.error + 0.005, "{} over {}", chosen.error, kept.error);
        assert!(free.error > chosen.error + 0.005, "{} over {}", free.error, chosen.error);
        assert!(accuracy(problem.start, problem.validation).unwrap() > 0.7);
    }
}
