//! The Hessian of the training objective: its product with a direction, and its inverse's.

use std::sync::Arc;

use ndarray::{Array2, ArrayView2};

use crate::kernel::{CHUNK, apply_softmax_jacobian, map_chunks, probabilities_of, scores, sum_outer};
use crate::loss::add_weight_decay;
use crate::precondition::Preconditioner;
use crate::samples::count;
use crate::{Head, HeadError, Samples};
use hemlock_optim::{inner, norm};

/// `H V = (P ∘ (U - Σₖ Pₖ Uₖ))ᵀ [Z, 1]` with `U = [Z, 1] Vᵀ`, `[K, d + 1]`: the Hessian of the summed cross-entropy
/// times a direction `V`, packed like the head; without weight decay. The labels play no part.
///
/// # Errors
/// Samples or a direction that do not fit the head.
pub fn hessian_vector_sum(
    head: &Head,
    blocks: &[Samples<'_>],
    direction: ArrayView2<'_, f64>,
) -> Result<Array2<f64>, HeadError> {
    head.check_samples(blocks)?;
    head.check_packed("the direction", &direction)?;
    Ok(Hessian::new(head, blocks).times(direction))
}

/// How a linear system with the Hessian is solved.
#[derive(Debug, Clone, PartialEq)]
pub struct SolveOptions {
    /// `λ >= 0` of the training objective.
    pub weight_decay: f64,
    /// The residual's L2 norm that is small enough, as a share of the right side's.
    pub tolerance: f64,
    /// Products with the Hessian at most.
    pub max_iterations: usize,
    /// Where to start, packed: the solution of a system like this one; `None` for zero.
    pub start: Option<Array2<f64>>,
    /// A preconditioner that was made before; `None` makes one.
    pub preconditioner: Option<Arc<Preconditioner>>,
}

impl SolveOptions {
    /// To a relative residual of 1e-8 in at most 1,000 steps.
    pub fn new(weight_decay: f64) -> Self {
        Self { weight_decay, tolerance: 1e-8, max_iterations: 1_000, start: None, preconditioner: None }
    }
}

/// A solution of `H U = G`.
#[derive(Debug, Clone, PartialEq)]
pub struct HessianSolution {
    /// `U`, packed `[K, d + 1]`.
    pub solution: Array2<f64>,
    /// Products with the Hessian.
    pub iterations: usize,
    /// The residual's L2 norm as a share of the right side's.
    pub residual: f64,
    /// Whether the residual is within twice the tolerance, the slack being for rounding.
    pub converged: bool,
}

/// Solves `H U = G`, where `H` is the Hessian at `head` of the training objective `mean cross-entropy + λ/2 |W|²`, by
/// preconditioned conjugate gradients.
///
/// `H` is singular: adding a constant to all biases changes no probability. A right side whose biases sum to zero,
/// as those of every cross-entropy gradient do, has a solution all the same, and the one whose biases sum to zero is
/// found. Any other right side is reported as not converged.
///
/// # Errors
/// No samples, samples or a right side that do not fit the head, or an option out of range.
pub fn solve_hessian(
    head: &Head,
    blocks: &[Samples<'_>],
    right_side: ArrayView2<'_, f64>,
    options: &SolveOptions,
) -> Result<HessianSolution, HeadError> {
    HeadError::check_non_negative("weight_decay", options.weight_decay)?;
    HeadError::check_non_negative("tolerance", options.tolerance)?;
    head.check_samples(blocks)?;
    head.check_packed("the right side", &right_side)?;
    let count = count(blocks)?;
    let cross_entropy = Hessian::new(head, blocks);
    let multiply = |direction: &Array2<f64>| {
        let mut product = cross_entropy.times(direction.view()) / count as f64;
        add_weight_decay(direction.view(), options.weight_decay, &mut product);
        product
    };
    let given = options.preconditioner.as_ref();
    let preconditioner = Preconditioner::given_or_new(given, blocks, options.weight_decay, head)?;

    let size = norm(&right_side.to_owned());
    let (mut solution, mut residual) = (Array2::zeros(right_side.dim()), right_side.to_owned());
    if let Some(start) = &options.start {
        head.check_packed("the start", &start.view())?;
        solution.assign(start);
        residual -= &multiply(start);
    }
    let mut direction = preconditioner.apply(&residual);
    let mut energy = inner(&residual, &direction);
    let target = options.tolerance * size;
    let mut iterations = 0;
    while norm(&residual) > target && iterations < options.max_iterations {
        let product = multiply(&direction);
        let curvature = inner(&direction, &product);
        // In the null space there is nowhere to go. (Not a number, if the right side is not.)
        if curvature.is_nan() || curvature <= 0.0 {
            break;
        }
        let step = energy / curvature;
        solution.scaled_add(step, &direction);
        residual.scaled_add(-step, &product);
        let preconditioned = preconditioner.apply(&residual);
        let next = inner(&residual, &preconditioned);
        direction *= next / energy;
        direction += &preconditioned;
        energy = next;
        iterations += 1;
    }
    // A constant in all biases changes nothing.
    let mut biases = solution.column_mut(head.dim());
    biases -= biases.sum() / head.classes() as f64;
    // The recurrence drifts from the truth: report the residual itself.
    let residual = if size == 0.0 { 0.0 } else { norm(&(&right_side - &multiply(&solution))) / size };
    Ok(HessianSolution { solution, iterations, residual, converged: residual <= 2.0 * options.tolerance })
}

/// The Hessian of the summed cross-entropy at one head. Products share its probabilities.
struct Hessian<'a> {
    /// Some samples and their probabilities `[rows, K]`, in row order.
    chunks: Vec<(Samples<'a>, Array2<f64>)>,
}

impl<'a> Hessian<'a> {
    /// At a head that fits the samples.
    fn new(head: &Head, blocks: &[Samples<'a>]) -> Self {
        let chunks = map_chunks(blocks, CHUNK, 0, |_, z, chunk| (chunk, probabilities_of(head, z)));
        Self { chunks }
    }

    /// The product with a packed direction, `[K, d + 1]`.
    fn times(&self, direction: ArrayView2<'_, f64>) -> Array2<f64> {
        sum_outer(&self.chunks, direction.dim(), |_, features, probabilities| {
            let mut change = Array2::zeros(probabilities.dim());
            scores(direction, features, &mut change.view_mut());
            apply_softmax_jacobian(&probabilities.view(), &mut change.view_mut());
            change
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Data, assert_close, derivative, random};
    use crate::{gradient_sum, loss_and_gradient};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn product_is_the_derivative_of_the_gradient(
            n in 1usize..40, d in 1usize..6, classes in 2usize..6, seed: u64,
        ) {
            let data = Data::new(n, d, classes, seed);
            let blocks = [data.samples().rows(0..n / 2), data.samples().rows(n / 2..n)];
            let (packed, direction) = (random(classes, d + 1, seed ^ 1), random(classes, d + 1, seed ^ 2));
            let along = |packed: &Array2<f64>| {
                inner(&direction, &gradient_sum(&Head::from_packed(packed.clone()).unwrap(), &blocks).unwrap())
            };
            let head = Head::from_packed(packed.clone()).unwrap();
            // The Hessian is symmetric: the derivative of ⟨V, G⟩ is H V.
            let found = hessian_vector_sum(&head, &blocks, direction.view()).unwrap();
            assert_close(&found, &derivative(along, &packed), 1e-7);
        }

        #[test]
        fn solution_solves(n in 1usize..60, d in 1usize..6, classes in 2usize..6, seed: u64) {
            let data = Data::new(n, d, classes, seed);
            let blocks = [data.samples()];
            let head = Head::from_packed(random(classes, d + 1, seed ^ 1)).unwrap();
            let (_, right_side) = loss_and_gradient(&head, &blocks, 0.0).unwrap();
            let found = solve_hessian(&head, &blocks, right_side.view(), &SolveOptions::new(0.01)).unwrap();
            prop_assert!(found.converged, "residual {:e}", found.residual);
            let mut product = hessian_vector_sum(&head, &blocks, found.solution.view()).unwrap() / n as f64;
            add_weight_decay(found.solution.view(), 0.01, &mut product);
            assert_close(&product, &right_side, 1e-7);
            prop_assert!(found.solution.column(d).sum().abs() < 1e-6 * norm(&found.solution));
            // From near the solution, with the preconditioner of some of the samples.
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
    fn says_when_there_is_no_solution() {
        let data = Data::new(30, 2, 3, 0);
        let head = Head::zeros(3, 2).unwrap();
        let found = solve_hessian(&head, &[data.samples()], Array2::ones((3, 3)).view(), &SolveOptions::new(0.0));
        assert!(!found.unwrap().converged);
    }
}
