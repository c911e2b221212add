//! GradPC: gradient-based parameter corruption in an L2 ball.

use hemlock_head::{Head, HeadError, Samples, gradient_sum, norm};
use ndarray::Array2;

/// How far and how fast to ascend.
#[derive(Debug, Clone, Copy)]
pub struct Ascent {
    /// Radius of the L2 ball around the start, absolute.
    pub radius: f64,
    /// Length of a step, absolute.
    pub step: f64,
    /// Number of steps.
    pub steps: u32,
}

/// Ascends the summed training loss from `start`: `v <- Proj(v + step * g / |g|)`, `g` the gradient at `start + v` and the
/// projection that onto the ball. `visit` sees the head before the first step and after every one.
///
/// # Errors
/// Samples that do not fit the head, parameters that stop being finite, or what `visit` returns.
pub fn ascend<E: From<HeadError>>(
    start: &Head,
    samples: Samples,
    ascent: &Ascent,
    mut visit: impl FnMut(u32, &Head) -> Result<(), E>,
) -> Result<Head, E> {
    let mut v = Array2::<f64>::zeros(start.packed().raw_dim());
    let mut head = start.clone();
    visit(0, &head)?;
    for step in 1..=ascent.steps {
        let gradient = gradient_sum(&head, &[samples])?;
        // At an exact minimum there is no direction to go.
        let length = norm(&gradient).max(f64::MIN_POSITIVE);
        v.scaled_add(ascent.step / length, &gradient);
        let reached = norm(&v);
        if reached > ascent.radius {
            v *= ascent.radius / reached;
        }
        head = Head::from_packed(&start.packed() + &v)?;
        visit(step, &head)?;
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    //! GradPC against an independent float64 implementation (numpy): `gradpc_reference.json` holds its data and its answer for
    //! 30 steps of a tenth of the radius, in a ball of half the clean head's norm.

    use super::*;
    use hemlock_head::mean_loss;
    use serde_json::Value;

    fn matrix(v: &Value) -> Array2<f64> {
        let rows: Vec<Vec<f64>> = serde_json::from_value(v.clone()).unwrap();
        Array2::from_shape_vec((rows.len(), rows[0].len()), rows.concat()).unwrap()
    }

    #[test]
    fn reaches_the_reference_target() {
        let reference: Value = serde_json::from_str(include_str!("../tests/gradpc_reference.json")).unwrap();
        let z = matrix(&reference["Z"]);
        let labels: Vec<u32> = serde_json::from_value(reference["Y"].clone()).unwrap();
        let samples = Samples::new(z.view(), &labels, 3).unwrap();
        let clean = Head::from_packed(matrix(&reference["w_clean"])).unwrap();
        let radius = 0.5 * clean.norm();
        let ascent = Ascent { radius, step: radius / 10.0, steps: 30 };
        let mut visited = 0;
        let target = ascend(&clean, samples, &ascent, |_, head| {
            visited += 1;
            let v = &head.packed() - &clean.packed();
            assert!(v.iter().map(|x| x * x).sum::<f64>().sqrt() <= radius * (1.0 + 1e-12));
            Ok::<_, HeadError>(())
        })
        .unwrap();
        assert_eq!(visited, 31);
        let expected = matrix(&reference["gradpc_l2_half_radius"]);
        let off = (&target.packed() - &expected).iter().fold(0.0f64, |m, x| m.max(x.abs()));
        // The clean head is known to about 1e-6, and normalised steps keep that error.
        assert!(off < 1e-5, "largest difference {off:e}");
        let loss = mean_loss(&target, &[samples]).unwrap();
        assert!((loss - reference["gradpc_mean_loss"].as_f64().unwrap()).abs() < 1e-6);
    }
}
