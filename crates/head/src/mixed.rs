//! The mixed derivative: how the gradient changes with the features of a sample. Through retraining, it also gives the
//! gradient of a validation loss.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, Slice};
use rayon::prelude::*;

use crate::kernel::{ROWS, apply_softmax_jacobian, probabilities_of, scores, subtract_labels};
use crate::product::add_weighted;
use crate::{Head, HeadError, Samples};

/// The gradient of `⟨R, G(z, y)⟩` with respect to the features of every sample, `[m, d]`: `R_Wᵀ (p - e_y) + Wᵀ (diag
/// p - p pᵀ) (R_W z + R_b)`.
///
/// `direction` is `R`, packed like the head. Two attacks use this:
///
/// - If `R` is the residual gradient that poisons fail to cancel, the result is the gradient of Gradient Canceling's
///   objective (Lu et al., 2023), times the squared clean count.
/// - If `R` is the solution of a linear system with the Hessian, it is the mixed term of total gradient descent ascent.
///
/// # Errors
/// Returns an error if the samples or the direction do not fit the head.
pub fn mixed_derivative(
    head: &Head,
    samples: Samples<'_>,
    direction: ArrayView2<'_, f64>,
) -> Result<Array2<f64>, HeadError> {
    Ok(derivative(head, samples, None, direction)?.1)
}

/// `⟨R, G(z, y)⟩` for every sample, `[m]`, and its gradient with respect to the features, which is
/// [`mixed_derivative`].
///
/// # Errors
/// Returns an error if the samples or the direction do not fit the head.
pub fn product_and_derivative(
    head: &Head,
    samples: Samples<'_>,
    direction: ArrayView2<'_, f64>,
) -> Result<(Vec<f64>, Array2<f64>), HeadError> {
    derivative(head, samples, None, direction)
}

/// [`mixed_derivative`] for samples whose probabilities at the head, `[m, K]`, are already known. The result has the
/// same bits.
///
/// # Errors
/// Returns an error if the samples, the probabilities or the direction do not fit the head.
pub fn mixed_derivative_of(
    head: &Head,
    samples: Samples<'_>,
    probabilities: &Array2<f64>,
    direction: ArrayView2<'_, f64>,
) -> Result<Array2<f64>, HeadError> {
    samples.check_probabilities(probabilities)?;
    Ok(derivative(head, samples, Some(probabilities), direction)?.1)
}

fn derivative(
    head: &Head,
    samples: Samples<'_>,
    known: Option<&Array2<f64>>,
    direction: ArrayView2<'_, f64>,
) -> Result<(Vec<f64>, Array2<f64>), HeadError> {
    head.check_samples(&[samples])?;
    head.check_packed("the direction", &direction)?;
    let mut products = vec![0.0; samples.len()];
    let mut derivative = Array2::zeros((samples.len(), samples.dim()));
    let chunks: Vec<_> = samples.chunks_of(ROWS).collect();
    let part = |scratch: &mut Array2<f64>,
                (i, ((mut derivative, products), chunk)): (usize, (Parts<'_>, Samples<'_>))| {
        let features = chunk.read(scratch);
        let rows = Slice::from(i * ROWS..i * ROWS + chunk.len());
        let mut probabilities = match known {
            Some(known) => known.slice_axis(Axis(0), rows).to_owned(),
            None => probabilities_of(head, features),
        };
        let mut change = Array2::zeros(probabilities.dim());
        scores(direction, features, &mut change.view_mut());
        for (((product, p), u), y) in
            products.iter_mut().zip(probabilities.rows()).zip(change.rows()).zip(chunk.labels())
        {
            *product = p.dot(&u) - u[*y as usize];
        }
        apply_softmax_jacobian(&probabilities.view(), &mut change.view_mut());
        subtract_labels(&mut probabilities.view_mut(), chunk.labels());
        add_weighted(probabilities.view(), direction, &mut derivative);
        add_weighted(change.view(), head.packed(), &mut derivative);
    };
    let parts = derivative.axis_chunks_iter_mut(Axis(0), ROWS).into_par_iter().zip(products.par_chunks_mut(ROWS));
    parts.zip(chunks).enumerate().for_each_init(|| Array2::zeros((0, 0)), part);
    Ok((products, derivative))
}

/// The derivatives of a chunk's samples, and their products.
type Parts<'a> = (ArrayViewMut2<'a, f64>, &'a mut [f64]);

/// The gradient of the retrained head's validation loss with respect to the features of training samples, `[m, d]`, by
/// the implicit function theorem: `dL_val(w*)/dz = -1/N d⟨U, G(z, y)⟩/dz`.
///
/// - `retrained` is `w*`, the minimiser of the training objective.
/// - `samples` are some of the training samples; `training_count` is the number `N` of all of them.
/// - `solution` is `U = H(w*)⁻¹ ∇L_val(w*)`, packed, from [`solve_hessian`](crate::solve_hessian).
///
/// # Errors
/// Returns an error if the samples or the solution do not fit the head, or if `training_count` is 0.
pub fn implicit_gradient(
    retrained: &Head,
    samples: Samples<'_>,
    solution: ArrayView2<'_, f64>,
    training_count: usize,
) -> Result<Array2<f64>, HeadError> {
    if training_count == 0 {
        return Err(HeadError::Empty);
    }
    Ok(mixed_derivative(retrained, samples, solution)? / -(training_count as f64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gradient_sum;
    use crate::testing::{GaussianClusters, assert_close, derivative, random};
    use hemlock_optim::inner;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn is_the_derivative_of_the_gradient_by_features(
            m in 1usize..8, d in 1usize..6, classes in 2usize..6, seed: u64,
        ) {
            let data = GaussianClusters::new(m, d, classes, seed);
            let head = Head::from_packed(random(classes, d + 1, seed ^ 1)).unwrap();
            let direction = random(classes, d + 1, seed ^ 2);
            let along = |features: &Array2<f64>| {
                let samples = Samples::new(features.view(), data.samples().labels(), classes).unwrap();
                inner(&direction, &gradient_sum(&head, &[samples]).unwrap())
            };
            let (products, found) = product_and_derivative(&head, data.samples(), direction.view()).unwrap();
            assert_close(&found, &derivative(along, &data.features), 1e-7);
            prop_assert!((products.iter().sum::<f64>() - along(&data.features)).abs() < 1e-9);
        }
    }

    #[test]
    fn no_poisons_have_no_derivative() {
        let (head, data) = (Head::zeros(3, 2).unwrap(), GaussianClusters::new(4, 2, 3, 0));
        let none = data.samples().rows(0..0);
        assert_eq!(mixed_derivative(&head, none, head.packed()).unwrap().dim(), (0, 2));
        assert_eq!(implicit_gradient(&head, none, head.packed(), 0), Err(HeadError::Empty));
    }

    #[test]
    fn refuses_a_direction_of_another_shape() {
        let (head, data) = (Head::zeros(3, 2).unwrap(), GaussianClusters::new(4, 2, 3, 0));
        let found = mixed_derivative(&head, data.samples(), Array2::zeros((3, 2)).view());
        let expected = HeadError::PackedShape { what: "the direction", expected: (3, 3), found: (3, 2) };
        assert_eq!(found, Err(expected));
    }
}
