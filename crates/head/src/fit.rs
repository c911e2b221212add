//! Training a head to its minimum.

use std::sync::Arc;

use crate::loss::objective;
use crate::precondition::Preconditioner;
use crate::samples::count;
use crate::{Head, HeadError, Passes, Samples};
use hemlock_optim::Limits;

/// Options of [`fit`].
#[derive(Debug, Clone, PartialEq)]
pub struct FitOptions {
    /// `λ >= 0` in the objective `mean cross-entropy + λ/2 |W|²`. With `λ = 0`, separable data has no minimum.
    pub weight_decay: f64,
    /// The head counts as trained when the L2 norm of the objective's gradient is at most this.
    pub gradient_tolerance: f64,
    /// Largest number of steps.
    pub max_iterations: usize,
    /// The head that training starts from; `None` is the zero head. It affects the time to reach the minimum, but not
    /// the minimum.
    pub start: Option<Head>,
    /// A preconditioner to reuse; `None` makes a new one. It does not affect the minimum either.
    pub preconditioner: Option<Arc<Preconditioner>>,
}

impl FitOptions {
    /// Trains from the zero head to a gradient norm of 1e-6, in at most 10,000 steps.
    pub fn new(weight_decay: f64) -> Self {
        Self { weight_decay, gradient_tolerance: 1e-6, max_iterations: 10_000, start: None, preconditioner: None }
    }
}

/// A trained head, and how its training ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// The trained head.
    pub head: Head,
    /// Number of steps taken.
    pub iterations: usize,
    /// The L2 norm of the objective's gradient at the head.
    pub gradient_norm: f64,
    /// The objective at the head: mean cross-entropy with weight decay.
    pub objective: f64,
    /// Whether the gradient tolerance was met. If not, the limit of steps was reached, the caller stopped the training,
    /// or rounding left no step that descends.
    pub converged: bool,
}

/// Trains a head on the samples of all blocks, by full-batch preconditioned L-BFGS. With large samples
/// ([`Passes::new`]) the first steps are taken in single precision, and the last in double precision.
///
/// `keep_going` is called before every step with the number of steps taken and the gradient norm. If it returns false,
/// the current head is returned, with `converged` false.
///
/// # Errors
/// Returns an error if
///
/// - there are no samples,
/// - the blocks differ in features or classes, or do not fit the start or the preconditioner,
/// - the weight decay or the tolerance is negative or not finite, or
/// - the parameters stop being finite.
pub fn fit(
    blocks: &[Samples<'_>],
    options: &FitOptions,
    keep_going: &dyn Fn(usize, f64) -> bool,
) -> Result<Fit, HeadError> {
    fit_with(&Passes::new(blocks), options, keep_going)
}

/// [`fit`] with given passes over the samples.
///
/// # Errors
/// Returns the errors of [`fit`].
pub fn fit_with(
    passes: &Passes<'_, '_>,
    options: &FitOptions,
    keep_going: &dyn Fn(usize, f64) -> bool,
) -> Result<Fit, HeadError> {
    let blocks = passes.blocks();
    HeadError::check_non_negative("weight_decay", options.weight_decay)?;
    HeadError::check_non_negative("gradient_tolerance", options.gradient_tolerance)?;
    let count = count(blocks)?;
    let start = match (&options.start, blocks) {
        (Some(start), _) => start.clone(),
        (None, [first, ..]) => Head::zeros(first.classes(), first.dim())?,
        (None, []) => return Err(HeadError::Empty),
    };
    start.check_samples(blocks)?;

    let given = options.preconditioner.as_ref();
    let preconditioner = Preconditioner::given_or_new(given, blocks, options.weight_decay, &start)?;
    let limits = Limits { gradient_tolerance: options.gradient_tolerance, max_iterations: options.max_iterations };
    let found = passes.minimize(
        start.into_packed(),
        |packed, pass| objective(packed.view(), pass(packed.view()), (count, options.weight_decay)),
        |gradient| preconditioner.apply(gradient),
        &limits,
        keep_going,
    );
    Ok(Fit {
        head: Head::from_packed(found.at)?,
        iterations: found.iterations,
        gradient_norm: found.gradient_norm,
        objective: found.value,
        converged: found.converged,
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use ndarray::{Array2, Axis, array};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{GaussianClusters, assert_close, random};
    use crate::{accuracy, loss_and_gradient};

    fn run(blocks: &[Samples<'_>], options: &FitOptions) -> Fit {
        fit(blocks, options, &|_, _| true).unwrap()
    }

    /// Asserts that the reported gradient norm and objective are true, and that other heads are worse.
    #[track_caller]
    fn assert_minimum(found: &Fit, blocks: &[Samples<'_>], options: &FitOptions) {
        assert!(found.converged, "gradient norm {:e} after {} steps", found.gradient_norm, found.iterations);
        let (objective, gradient) = loss_and_gradient(&found.head, blocks, options.weight_decay).unwrap();
        assert_eq!(objective, found.objective);
        assert!(gradient.iter().map(|g| g * g).sum::<f64>().sqrt() <= options.gradient_tolerance);
        for seed in 0..3 {
            let packed = found.head.packed();
            let other = Head::from_packed(&packed + random(packed.nrows(), packed.ncols(), seed) * 1e-2).unwrap();
            assert!(loss_and_gradient(&other, blocks, options.weight_decay).unwrap().0 > objective);
        }
    }

    #[test]
    fn converges_on_ordinary_data() {
        let data = GaussianClusters::new(2_000, 64, 10, 1);
        let options = FitOptions::new(1e-4);
        let found = run(&[data.samples()], &options);
        assert_minimum(&found, &[data.samples()], &options);
        assert!(found.iterations < 100, "{} iterations", found.iterations);
        assert!(accuracy(&found.head, data.samples()).unwrap() > 0.9);
    }

    #[test]
    fn converges_on_badly_scaled_offset_constant_and_empty_columns() {
        let mut data = GaussianClusters::new(1_000, 12, 4, 2);
        for (column, mut values) in data.features.axis_iter_mut(Axis(1)).enumerate() {
            match column {
                10 => values.fill(1e3),
                11 => values.fill(0.0),
                _ => values.mapv_inplace(|value| (value + column as f64) * 10f64.powi(column as i32 % 7 - 3)),
            }
        }
        for weight_decay in [0.0, 1e-4] {
            let options = FitOptions::new(weight_decay);
            let found = run(&[data.samples()], &options);
            assert!(found.converged && found.iterations < 500, "{found:?}");
        }
    }

    #[test]
    fn separable_data_ends() {
        let features = array![[-1.0], [-0.5], [0.5], [1.0]];
        let samples = [Samples::new(features.view(), &[0, 0, 1, 1], 2).unwrap()];
        let options = FitOptions { gradient_tolerance: 0.0, max_iterations: 200, ..FitOptions::new(1e-12) };
        let found = run(&samples, &options);
        assert!(!found.converged && found.objective < 1e-6, "{found:?}");
        assert_eq!(accuracy(&found.head, samples[0]).unwrap(), 1.0);
    }

    #[test]
    fn two_classes_one_feature_by_hand() {
        // The class probabilities at z = 1 and z = -1 are 3/4 and 1/4, so the minimum has logit differences of ln 3 and
        // -ln 3.
        let features = array![[1.0], [1.0], [1.0], [1.0], [-1.0], [-1.0], [-1.0], [-1.0]];
        let samples = [Samples::new(features.view(), &[1, 1, 1, 0, 0, 0, 0, 1], 2).unwrap()];
        let options = FitOptions { gradient_tolerance: 1e-12, ..FitOptions::new(0.0) };
        let half = 3f64.ln() / 2.0;
        let found = run(&samples, &options);
        assert_close(&found.head.into_packed(), &array![[-half, 0.0], [half, 0.0]], 1e-10);
    }

    #[test]
    fn warm_start_and_blocks_find_the_same_minimum() {
        let data = GaussianClusters::new(500, 5, 3, 4);
        let (clean, poisons) = (data.samples().rows(0..450), data.samples().rows(450..500));
        let options = FitOptions { gradient_tolerance: 1e-10, ..FitOptions::new(1e-3) };
        let whole = run(&[data.samples()], &options);
        let start = Some(run(&[clean], &options).head);
        let warm = run(&[clean, poisons], &FitOptions { start, ..options.clone() });
        assert_close(&warm.head.clone().into_packed(), &whole.head.into_packed(), 1e-7);
        let again = run(&[clean, poisons], &FitOptions { start: Some(warm.head.clone()), ..options });
        assert_eq!(again, Fit { iterations: 0, ..warm });
    }

    #[test]
    fn stops_when_told() {
        let data = GaussianClusters::new(500, 5, 3, 4);
        let last = Cell::new((0, 0.0));
        let found = fit(&[data.samples()], &FitOptions::new(1e-3), &|iteration, norm| {
            last.set((iteration, norm));
            iteration < 2
        });
        let found = found.unwrap();
        assert!(!found.converged);
        assert_eq!((found.iterations, found.gradient_norm), last.get());
        assert_eq!(found.iterations, 2);
    }

    #[test]
    fn thread_count_changes_no_bit() {
        let data = GaussianClusters::new(5_000, 8, 3, 5);
        let (clean, poisons) = (data.samples().rows(0..4_500), data.samples().rows(4_500..5_000));
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let found = run(&[clean, poisons], &FitOptions::new(1e-4));
                let gradient = loss_and_gradient(&found.head, &[clean, poisons], 1e-4).unwrap();
                let solution = crate::solve_hessian(
                    &found.head,
                    &[clean, poisons],
                    crate::gradient_sum(&found.head, &[poisons]).unwrap().view(),
                    &crate::SolveOptions::new(1e-4),
                );
                let mixed = crate::mixed_derivative(&found.head, data.samples(), found.head.packed()).unwrap();
                (found, gradient, solution.unwrap(), mixed)
            })
        };
        assert!(on(1) == on(3));
    }

    #[test]
    fn single_precision_features_train_as_if_converted() {
        let data = GaussianClusters::new(700, 6, 3, 8);
        let single = data.features.mapv(|z| z as f32);
        let double = single.mapv(f64::from);
        let labels = data.samples().labels();
        let (stored, converted) =
            (Samples::from_f32(single.view(), labels, 3).unwrap(), Samples::new(double.view(), labels, 3).unwrap());
        let all = |samples: Samples<'_>| {
            let found = run(&[samples], &FitOptions::new(1e-3));
            let solve = crate::SolveOptions::new(1e-3);
            let (error, gradient) = crate::smoothed_error(&found.head, &[samples], 1.0).unwrap();
            let solved = crate::solve_hessian(&found.head, &[samples], gradient.view(), &solve).unwrap();
            let mixed = crate::mixed_derivative(&found.head, samples, solved.solution.view()).unwrap();
            (accuracy(&found.head, samples).unwrap(), found, error, solved, mixed)
        };
        assert!(all(stored) == all(converted));
    }

    #[test]
    fn first_steps_in_single_precision_find_the_same_minimum() {
        let data = GaussianClusters::new(3_000, 20, 12, 9);
        let (clean, poisons) = (data.samples().rows(0..2_900), data.samples().rows(2_900..3_000));
        let options = FitOptions { gradient_tolerance: 1e-9, ..FitOptions::new(1e-3) };
        let blocks = [clean, poisons];
        let double = run(&blocks, &options);
        let single = fit_with(&Passes::in_single(&blocks), &options, &|_, _| true).unwrap();
        assert_minimum(&single, &blocks, &options);
        assert_close(&single.head.into_packed(), &double.head.into_packed(), 1e-6);
        assert!(single.iterations < 2 * double.iterations, "{} {}", single.iterations, double.iterations);
    }

    #[test]
    fn refuses_what_cannot_be_trained() {
        let (data, other) = (GaussianClusters::new(4, 2, 3, 0), GaussianClusters::new(4, 1, 3, 0));
        let refused = |blocks: &[Samples<'_>], options| fit(blocks, &options, &|_, _| true).unwrap_err();
        assert_eq!(refused(&[], FitOptions::new(0.0)), HeadError::Empty);
        let mixed = [data.samples(), other.samples()];
        assert_eq!(refused(&mixed, FitOptions::new(0.0)), HeadError::FeatureCount { expected: 2, found: 1 });
        assert!(matches!(
            refused(&[data.samples()], FitOptions::new(f64::NAN)),
            HeadError::InvalidOption { name: "weight_decay", .. }
        ));
        let start = Some(Head::zeros(2, 2).unwrap());
        let expected = HeadError::ClassCount { expected: 2, found: 3 };
        assert_eq!(refused(&[data.samples()], FitOptions { start, ..FitOptions::new(0.0) }), expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn finds_the_minimum_of_any_size(n in 1usize..60, d in 1usize..8, classes in 2usize..6, seed: u64) {
            let data = GaussianClusters::new(n, d, classes, seed);
            let options = FitOptions { gradient_tolerance: 1e-8, ..FitOptions::new(1e-3) };
            // Biases are not decayed, so a class without samples would leave no minimum. Every class gets one sample.
            let centres: Array2<f64> = random(classes, d, seed ^ 1);
            let labels: Vec<u32> = (0..classes as u32).collect();
            let all = [data.samples(), Samples::new(centres.view(), &labels, classes).unwrap()];
            assert_minimum(&run(&all, &options), &all, &options);
        }
    }
}
