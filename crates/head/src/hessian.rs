//! The Hessian of the training objective: products with it, and linear systems.

use std::sync::Arc;

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;

use crate::kernel::{ROWS, apply_softmax_jacobian, fill_probabilities, probabilities_of, scores, sum_outer};
use crate::loss::{Precision, add_weight_decay};
use crate::precondition::Preconditioner;
use crate::samples::count;
use crate::{Head, HeadError, Passes, Samples};
use hemlock_optim::{inner, norm};

/// Relative residuals below this are rounding noise in single precision.
const SINGLE_RESIDUAL: f64 = 1e-4;

/// The Hessian of the summed cross-entropy times a direction `V`, packed `[K, d + 1]`: `H V = (P ∘ (U - Σₖ Pₖ Uₖ))ᵀ [Z,
/// 1]` with `U = [Z, 1] Vᵀ`. Weight decay is not included. The labels have no effect.
///
/// # Errors
/// Returns an error if the samples or the direction do not fit the head.
pub fn hessian_vector_sum(
    head: &Head,
    blocks: &[Samples<'_>],
    direction: ArrayView2<'_, f64>,
) -> Result<Array2<f64>, HeadError> {
    head.check_samples(blocks)?;
    head.check_packed("the direction", &direction)?;
    Ok(Hessian::new(head, blocks).times(direction))
}

/// Options of [`solve_hessian`].
#[derive(Debug, Clone, PartialEq)]
pub struct SolveOptions {
    /// `λ >= 0` of the training objective.
    pub weight_decay: f64,
    /// The L2 norm of the residual at which the solver stops, relative to the norm of the right side.
    pub tolerance: f64,
    /// Largest number of products with the Hessian.
    pub max_iterations: usize,
    /// The start, packed: for example, the solution of a similar system. `None` is zero.
    pub start: Option<Array2<f64>>,
    /// A preconditioner to reuse; `None` makes a new one.
    pub preconditioner: Option<Arc<Preconditioner>>,
}

impl SolveOptions {
    /// Solves to a relative residual of 1e-8 in at most 1,000 steps.
    pub fn new(weight_decay: f64) -> Self {
        Self { weight_decay, tolerance: 1e-8, max_iterations: 1_000, start: None, preconditioner: None }
    }
}

/// A solution of `H U = G`, and how good it is.
#[derive(Debug, Clone, PartialEq)]
pub struct HessianSolution {
    /// `U`, packed `[K, d + 1]`.
    pub solution: Array2<f64>,
    /// Number of products with the Hessian.
    pub iterations: usize,
    /// The L2 norm of the residual relative to the norm of the right side; 0 if the right side is zero.
    pub residual: f64,
    /// Whether the residual is within twice the tolerance. The factor of two allows for rounding.
    pub converged: bool,
}

/// Solves `H U = G` by preconditioned conjugate gradients, where `H` is the Hessian of the training objective `mean
/// cross-entropy + λ/2 |W|²` at `head`.
///
/// `H` is singular, because adding a constant to all biases changes no probability. The system has a solution
/// nevertheless if the biases of the right side sum to zero, as they do for every gradient of a cross-entropy. The
/// solution whose biases sum to zero is returned. For any other right side, the result is marked as not converged.
///
/// # Errors
/// Returns an error if there are no samples, if the samples, the right side, the start or the preconditioner do not fit
/// the head, or if an option is negative or not finite.
pub fn solve_hessian(
    head: &Head,
    blocks: &[Samples<'_>],
    right_side: ArrayView2<'_, f64>,
    options: &SolveOptions,
) -> Result<HessianSolution, HeadError> {
    solve_hessian_with(&Passes::new(blocks), head, right_side, options)
}

/// [`solve_hessian`] with given passes over the samples. If they have rough products with the Hessian, these lead; the
/// residual is an exact one, and exact products go on as long as it is too large.
///
/// # Errors
/// Returns the errors of [`solve_hessian`].
pub fn solve_hessian_with(
    passes: &Passes<'_, '_>,
    head: &Head,
    right_side: ArrayView2<'_, f64>,
    options: &SolveOptions,
) -> Result<HessianSolution, HeadError> {
    let blocks = passes.blocks();
    HeadError::check_non_negative("weight_decay", options.weight_decay)?;
    HeadError::check_non_negative("tolerance", options.tolerance)?;
    head.check_samples(blocks)?;
    head.check_packed("the right side", &right_side)?;
    let count = count(blocks)?;
    let mean = |direction: &Array2<f64>, sum: Array2<f64>| {
        let mut product = sum / count as f64;
        add_weight_decay(direction.view(), options.weight_decay, &mut product);
        product
    };
    let given = options.preconditioner.as_ref();
    let preconditioner = Preconditioner::given_or_new(given, blocks, options.weight_decay, head)?;
    let mut search = ConjugateGradients {
        right_side: &right_side,
        preconditioner: &preconditioner,
        left: options.max_iterations,
        solution: Array2::zeros(right_side.dim()),
    };
    if let Some(start) = &options.start {
        head.check_packed("the start", &start.view())?;
        search.solution.assign(start);
    }
    for (hessian, precision) in passes.rough_hessians() {
        let tolerance = match precision {
            Precision::Single => options.tolerance.max(SINGLE_RESIDUAL),
            Precision::Double => options.tolerance,
        };
        search.run(tolerance, |direction| mean(direction, hessian(head.packed(), direction.view())));
    }
    let cross_entropy = Hessian::new(head, blocks);
    let multiply = |direction: &Array2<f64>| mean(direction, cross_entropy.times(direction.view()));
    let led = passes.rough_hessians().next().is_some();
    let mut residual = if led { search.residual(multiply) } else { f64::INFINITY };
    if residual > 2.0 * options.tolerance {
        search.run(options.tolerance, multiply);
        // The residual of the recurrence drifts away from the true one, so the true one is computed.
        residual = search.residual(multiply);
    }
    Ok(HessianSolution {
        solution: search.solution,
        iterations: options.max_iterations - search.left,
        residual,
        converged: residual <= 2.0 * options.tolerance,
    })
}

/// A search for the solution of `H U = G` by preconditioned conjugate gradients.
struct ConjugateGradients<'a> {
    right_side: &'a ArrayView2<'a, f64>,
    preconditioner: &'a Preconditioner,
    /// How many products with the Hessian may still be computed.
    left: usize,
    solution: Array2<f64>,
}

impl ConjugateGradients<'_> {
    /// Goes on from the solution so far to a relative residual of `tolerance`, with products by `multiply`.
    fn run(&mut self, tolerance: f64, multiply: impl Fn(&Array2<f64>) -> Array2<f64>) {
        let mut residual = self.right_side.to_owned();
        let target = tolerance * norm(&residual);
        if self.solution.iter().any(|u| *u != 0.0) {
            residual -= &multiply(&self.solution);
        }
        let mut direction = self.preconditioner.apply(&residual);
        let mut energy = inner(&residual, &direction);
        while norm(&residual) > target && self.left > 0 {
            let product = multiply(&direction);
            let curvature = inner(&direction, &product);
            // The direction is in the null space. (The curvature is not a number if the right side is not.)
            if curvature.is_nan() || curvature <= 0.0 {
                break;
            }
            let step = energy / curvature;
            self.solution.scaled_add(step, &direction);
            residual.scaled_add(-step, &product);
            let preconditioned = self.preconditioner.apply(&residual);
            let next = inner(&residual, &preconditioned);
            direction *= next / energy;
            direction += &preconditioned;
            energy = next;
            self.left -= 1;
        }
    }

    /// Chooses the solution whose biases sum to zero, since adding a constant to all biases changes nothing. Returns
    /// the L2 norm of its residual relative to the norm of the right side; 0 if the right side is zero.
    fn residual(&mut self, multiply: impl Fn(&Array2<f64>) -> Array2<f64>) -> f64 {
        let bias = self.solution.ncols() - 1;
        let mut biases = self.solution.column_mut(bias);
        let mean = biases.sum() / biases.len() as f64;
        biases -= mean;
        let size = norm(&self.right_side.to_owned());
        if size == 0.0 { 0.0 } else { norm(&(self.right_side - &multiply(&self.solution))) / size }
    }
}

/// Largest number of probabilities that are kept. If there are more, every product computes them again.
const MOST_KEPT: usize = 1 << 27;

/// The Hessian of the summed cross-entropy at one head.
struct Hessian<'a, 's> {
    head: &'a Head,
    blocks: &'a [Samples<'s>],
    /// The probabilities of all samples, `[n, K]`, unless there are too many.
    probabilities: Option<Array2<f64>>,
}

impl<'a, 's> Hessian<'a, 's> {
    /// The Hessian at a head that fits the samples.
    fn new(head: &'a Head, blocks: &'a [Samples<'s>]) -> Self {
        Self::keeping(head, blocks, MOST_KEPT)
    }

    fn keeping(head: &'a Head, blocks: &'a [Samples<'s>], most: usize) -> Self {
        let count: usize = blocks.iter().map(Samples::len).sum();
        let probabilities = (count * head.classes() <= most).then(|| {
            let mut all = Array2::zeros((count, head.classes()));
            let chunks: Vec<_> = blocks.iter().flat_map(|block| block.chunks_of(ROWS)).collect();
            let mut rest = all.view_mut();
            let mut parts = Vec::new();
            for chunk in chunks {
                let (part, after) = rest.split_at(Axis(0), chunk.len());
                parts.push((chunk, part));
                rest = after;
            }
            parts.into_par_iter().for_each(|(chunk, mut to)| {
                fill_probabilities(head, chunk.read(&mut Array2::zeros((0, 0))), &mut to);
            });
            all
        });
        Self { head, blocks, probabilities }
    }

    /// The product with a packed direction, `[K, d + 1]`.
    fn times(&self, direction: ArrayView2<'_, f64>) -> Array2<f64> {
        let of_chunk = |before: usize, c: &mut ArrayViewMut2<'_, f64>, z: ArrayView2<'_, f64>, chunk: Samples<'_>| {
            scores(direction, z, c);
            match &self.probabilities {
                Some(all) => apply_softmax_jacobian(&all.slice(s![before..before + chunk.len(), ..]), c),
                None => apply_softmax_jacobian(&probabilities_of(self.head, z).view(), c),
            }
            0.0
        };
        sum_outer(self.blocks, direction.dim(), of_chunk).1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{GaussianClusters, assert_close, derivative, random};
    use crate::{gradient_sum, loss_and_gradient};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn product_is_the_derivative_of_the_gradient(
            n in 1usize..40, d in 1usize..6, classes in 2usize..6, seed: u64,
        ) {
            let data = GaussianClusters::new(n, d, classes, seed);
            let blocks = [data.samples().rows(0..n / 2), data.samples().rows(n / 2..n)];
            let (packed, direction) = (random(classes, d + 1, seed ^ 1), random(classes, d + 1, seed ^ 2));
            let along = |packed: &Array2<f64>| {
                inner(&direction, &gradient_sum(&Head::from_packed(packed.clone()).unwrap(), &blocks).unwrap())
            };
            let head = Head::from_packed(packed.clone()).unwrap();
            // The Hessian is symmetric, so the gradient of ⟨V, G⟩ is H V.
            let found = hessian_vector_sum(&head, &blocks, direction.view()).unwrap();
            assert_close(&found, &derivative(along, &packed), 1e-7);
        }

        #[test]
        fn solution_solves(n in 1usize..60, d in 1usize..6, classes in 2usize..6, seed: u64) {
            let data = GaussianClusters::new(n, d, classes, seed);
            let blocks = [data.samples()];
            let head = Head::from_packed(random(classes, d + 1, seed ^ 1)).unwrap();
            let (_, right_side) = loss_and_gradient(&head, &blocks, 0.0).unwrap();
            let found = solve_hessian(&head, &blocks, right_side.view(), &SolveOptions::new(0.01)).unwrap();
            prop_assert!(found.converged, "residual {:e}", found.residual);
            let mut product = hessian_vector_sum(&head, &blocks, found.solution.view()).unwrap() / n as f64;
            add_weight_decay(found.solution.view(), 0.01, &mut product);
            assert_close(&product, &right_side, 1e-7);
            prop_assert!(found.solution.column(d).sum().abs() < 1e-6 * norm(&found.solution));
            // Solves again from near the solution, with a preconditioner for half of the samples.
            let some = Preconditioner::new(&[data.samples().rows(0..n.div_ceil(2))], 0.01).unwrap();
            let warm = SolveOptions {
                start: Some(&found.solution * 1.001),
                preconditioner: Some(Arc::new(some)),
                ..SolveOptions::new(0.01)
            };
            let again = solve_hessian(&head, &blocks, right_side.view(), &warm).unwrap();
            prop_assert!(again.converged, "residual {:e}", again.residual);
            assert_close(&again.solution, &found.solution, 1e-5);
            prop_assert!(again.solution.column(d).sum().abs() < 1e-6 * norm(&again.solution));
        }
    }

    #[test]
    fn probabilities_that_are_not_kept_are_computed_again() {
        let data = GaussianClusters::new(700, 5, 4, 3);
        let (head, direction) = (Head::from_packed(random(4, 6, 1)).unwrap(), random(4, 6, 2));
        let blocks = [data.samples().rows(0..301), data.samples().rows(301..700)];
        let times = |most| Hessian::keeping(&head, &blocks, most).times(direction.view());
        assert_eq!(times(0), times(usize::MAX));
    }

    #[test]
    fn says_when_there_is_no_solution() {
        let data = GaussianClusters::new(30, 2, 3, 0);
        let head = Head::zeros(3, 2).unwrap();
        let found = solve_hessian(&head, &[data.samples()], Array2::ones((3, 3)).view(), &SolveOptions::new(0.0));
        assert!(!found.unwrap().converged);
    }
}
