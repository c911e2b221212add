//! Calibration: the best scale and biases of a head.

use ndarray::{Array2, Axis};

use crate::loss::objective;
use crate::samples::count;
use crate::{Fit, Head, HeadError, Passes};
use hemlock_optim::Limits;

/// Fits the head `(a W, b)` to minimise the training objective over the scale `a` and the biases `b`, while the
/// direction of the weights `W` stays. The gradient norm of the result is that with respect to `a` and `b`.
///
/// At such a head the gradient is orthogonal to the weights and zero in the biases, which makes it reachable for few
/// poisons:
///
/// - A poison `(z, y)` with logits `s` contributes `<w, g> = E_p[s] - s_y` to the inner product of the gradient with
///   the parameters `w`. That is bounded below by a constant that depends on the number of classes alone, however large
///   `z` is.
/// - To the gradient with respect to the biases, it contributes at most 1 in each class.
///
/// Hence `m` poisons, even with unbounded features, can cancel only a gradient whose inner product with the parameters
/// and whose bias part are at most of order `m`.
///
/// # Errors
/// Returns an error if there are no samples, if the samples do not fit the head, if the weight decay is negative or not
/// finite, or if the best scale is not positive ([`HeadError::NoScale`]): the reversed head would fit better.
pub fn calibrate(head: &Head, passes: &Passes<'_, '_>, weight_decay: f64) -> Result<Fit, HeadError> {
    HeadError::check_non_negative("weight_decay", weight_decay)?;
    head.check_samples(passes.blocks())?;
    let count = count(passes.blocks())?;
    let (classes, dim) = (head.classes(), head.dim());
    let expand = |scale_and_bias: &Array2<f64>| {
        let mut packed = head.packed().to_owned();
        let (mut weight, mut bias) = packed.view_mut().split_at(Axis(1), dim);
        weight *= scale_and_bias[[0, 0]];
        bias.iter_mut().zip(scale_and_bias.iter().skip(1)).for_each(|(to, from)| *to = *from);
        packed
    };
    let mut start = Array2::ones((1, classes + 1));
    start.iter_mut().skip(1).zip(head.bias()).for_each(|(to, from)| *to = *from);
    let found = passes.minimize(
        start,
        |at, pass| {
            let packed = expand(at);
            let (value, gradient) = objective(packed.view(), pass(packed.view()), (count, weight_decay));
            let (along_weight, along_bias) = gradient.view().split_at(Axis(1), dim);
            let mut reduced = Array2::zeros((1, classes + 1));
            reduced[[0, 0]] = along_weight.iter().zip(head.weight()).map(|(g, w)| g * w).sum();
            reduced.iter_mut().skip(1).zip(along_bias).for_each(|(to, from)| *to = *from);
            (value, reduced)
        },
        Array2::clone,
        &Limits { gradient_tolerance: 1e-9, max_iterations: 1000 },
        &|_, _| true,
    );
    let scale = found.at[[0, 0]];
    if scale <= 0.0 {
        return Err(HeadError::NoScale { scale });
    }
    Ok(Fit {
        head: Head::from_packed(expand(&found.at))?,
        iterations: found.iterations,
        gradient_norm: found.gradient_norm,
        objective: found.value,
        converged: found.converged,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss_and_gradient;
    use crate::testing::{GaussianClusters, random};

    #[test]
    fn refuses_a_head_that_is_better_reversed() {
        let data = GaussianClusters::new(400, 6, 4, 3);
        let clean = crate::fit(&[data.samples()], &crate::FitOptions::new(1e-3), &|_, _| true).unwrap().head;
        let reversed = Head::from_packed(&clean.packed() * -1.0).unwrap();
        assert!(matches!(calibrate(&reversed, &Passes::new(&[data.samples()]), 1e-3), Err(HeadError::NoScale { .. })));
    }

    #[test]
    fn rough_passes_find_the_same_scale() {
        let data = GaussianClusters::new(400, 6, 4, 3);
        let blocks = [data.samples()];
        let clean = crate::fit(&blocks, &crate::FitOptions::new(1e-3), &|_, _| true).unwrap().head;
        let head = Head::from_packed(&clean.packed() * 2.0 + random(4, 7, 9)).unwrap();
        let [rough, exact] =
            [Passes::in_single(&blocks), Passes::new(&blocks)].map(|passes| calibrate(&head, &passes, 1e-3).unwrap());
        assert!(rough.converged && rough.gradient_norm <= 1e-9);
        crate::testing::assert_close(&rough.head.into_packed(), &exact.head.into_packed(), 1e-6);
    }

    /// The derivative with respect to the scale of weights this large has a rounding error above the tolerance.
    #[test]
    fn says_where_it_stops_before_its_tolerance() {
        let data = GaussianClusters::new(400, 6, 4, 3);
        let clean = crate::fit(&[data.samples()], &crate::FitOptions::new(1e-3), &|_, _| true).unwrap().head;
        assert!(calibrate(&clean, &Passes::new(&[data.samples()]), 1e-3).unwrap().converged);
        let large = Head::from_packed(&clean.packed() * 1e9).unwrap();
        assert!(!calibrate(&large, &Passes::new(&[data.samples()]), 1e-3).unwrap().converged);
    }

    #[test]
    fn leaves_no_gradient_along_the_weights_and_the_biases() {
        let data = GaussianClusters::new(400, 6, 4, 3);
        let clean = crate::fit(&[data.samples()], &crate::FitOptions::new(1e-3), &|_, _| true).unwrap().head;
        let head = Head::from_packed(&clean.packed() * 2.0 + random(4, 7, 9)).unwrap();
        let Fit { head: calibrated, converged, .. } = calibrate(&head, &Passes::new(&[data.samples()]), 1e-3).unwrap();
        assert!(converged);
        let (value, gradient) = loss_and_gradient(&calibrated, &[data.samples()], 1e-3).unwrap();
        assert!(value < loss_and_gradient(&head, &[data.samples()], 1e-3).unwrap().0);
        let (along_weight, along_bias) = gradient.view().split_at(Axis(1), 6);
        assert!(along_bias.iter().all(|g| g.abs() < 1e-8), "{along_bias}");
        let radial: f64 = along_weight.iter().zip(head.weight()).map(|(g, w)| g * w).sum();
        assert!(radial.abs() < 1e-8, "{radial}");
        // Only the scale of the weights may differ.
        let scale = calibrated.weight()[[0, 0]] / head.weight()[[0, 0]];
        let off = (&calibrated.weight() - &(&head.weight() * scale)).iter().fold(0.0f64, |m, x| m.max(x.abs()));
        assert!(off < 1e-12 && scale.abs() < 1.0, "{scale}");
    }
}
