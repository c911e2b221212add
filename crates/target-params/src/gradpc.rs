//! GradPC: gradient-based parameter corruption in a ball.

use hemlock_head::{Head, HeadError};
use hemlock_optim::norm;
use ndarray::Array2;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A norm of parameters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Norm {
    /// The Euclidean norm of all parameters.
    #[default]
    L2,
    /// The largest absolute value of a parameter.
    Linf,
}

impl Norm {
    /// The norm of packed parameters `[K, d + 1]`.
    #[must_use]
    pub fn of(self, v: &Array2<f64>) -> f64 {
        match self {
            Self::L2 => norm(v),
            Self::Linf => v.fold(0.0, |largest, x| x.abs().max(largest)),
        }
    }

    /// Projects `v` onto the ball of radius `radius` around 0.
    fn project(self, v: &mut Array2<f64>, radius: f64) {
        match self {
            Self::L2 => {
                let length = norm(v);
                if length > radius {
                    *v *= radius / length;
                }
            }
            Self::Linf => v.mapv_inplace(|x| x.clamp(-radius, radius)),
        }
    }
}

/// Parameters of the ascent.
#[derive(Debug, Clone, Copy)]
pub struct Ascent {
    /// Norm of the ball and of the steps.
    pub norm: Norm,
    /// Radius of the ball around the start, in the units of the parameters.
    pub radius: f64,
    /// Length of a step, in the units of the parameters.
    pub step: f64,
    /// Number of steps.
    pub steps: u32,
    /// Largest number of parameters that are corrupted: those with the largest corruption. `None` allows all.
    pub coordinates: Option<usize>,
}

/// Ascends a loss, starting from `start`. Returns the last head.
///
/// A step is `v <- Proj(v + step * g / |g|)`, where `g` is the gradient at `start + v`. The projection first sets all
/// but the largest `coordinates` of `v` to zero, and then projects onto the ball. `gradient` is called with the number
/// of steps taken and the head before every step, and returns the gradient there, `[K, d + 1]`, of any length.
///
/// # Errors
/// Returns an error if the parameters stop being finite, or if `gradient` returns one.
pub fn ascend<E: From<HeadError>>(
    start: &Head,
    ascent: &Ascent,
    mut gradient: impl FnMut(u32, &Head) -> Result<Array2<f64>, E>,
) -> Result<Head, E> {
    let mut v = Array2::<f64>::zeros(start.packed().raw_dim());
    let mut head = start.clone();
    for step in 0..ascent.steps {
        let gradient = gradient(step, &head)?;
        // At an exact minimum, the gradient is zero and has no direction.
        let length = ascent.norm.of(&gradient).max(f64::MIN_POSITIVE);
        v.scaled_add(ascent.step / length, &gradient);
        if let Some(count) = ascent.coordinates {
            keep_largest(&mut v, count);
        }
        ascent.norm.project(&mut v, ascent.radius);
        head = Head::from_packed(&start.packed() + &v)?;
    }
    Ok(head)
}

/// Sets all entries to zero except the `count` largest in absolute value. Of equal ones, the first are kept.
fn keep_largest(v: &mut Array2<f64>, count: usize) {
    let mut order: Vec<(usize, f64)> = v.iter().map(|x| x.abs()).enumerate().collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    let rest: std::collections::BTreeSet<usize> = order.into_iter().skip(count).map(|(i, _)| i).collect();
    v.iter_mut().enumerate().filter(|(i, _)| rest.contains(i)).for_each(|(_, x)| *x = 0.0);
}

#[cfg(test)]
mod tests {
    //! Compares GradPC with an independent float64 implementation (numpy). `head_reference.json` holds its data, and
    //! its result for 30 steps of a tenth of the radius in a ball whose radius is half the norm of the clean head.

    use super::*;
    use hemlock_head::{Samples, gradient_sum, mean_loss};
    use serde_json::Value;

    fn matrix(v: &Value) -> Array2<f64> {
        let rows: Vec<Vec<f64>> = serde_json::from_value(v.clone()).unwrap();
        Array2::from_shape_vec((rows.len(), rows[0].len()), rows.concat()).unwrap()
    }

    /// The reference, its features and labels, and its clean head.
    fn reference() -> (Value, Array2<f64>, Vec<u32>, Head) {
        let json: Value = serde_json::from_str(include_str!("../../head/tests/reference/head_reference.json")).unwrap();
        let labels = serde_json::from_value(json["Y"].clone()).unwrap();
        let (z, clean) = (matrix(&json["Z"]), Head::from_packed(matrix(&json["w_clean"])).unwrap());
        (json, z, labels, clean)
    }

    #[test]
    fn reaches_the_reference_target() {
        let (reference, z, labels, clean) = reference();
        let samples = Samples::new(z.view(), &labels, 3).unwrap();
        let radius = 0.5 * clean.norm();
        let ascent = Ascent { norm: Norm::L2, radius, step: radius / 10.0, steps: 30, coordinates: None };
        let mut visited = 0;
        let target = ascend(&clean, &ascent, |step, head| {
            assert_eq!(step, visited);
            visited += 1;
            let v = &head.packed() - &clean.packed();
            assert!(v.iter().map(|x| x * x).sum::<f64>().sqrt() <= radius * (1.0 + 1e-12));
            gradient_sum(head, &[samples])
        })
        .unwrap();
        assert_eq!(visited, 30);
        let expected = matrix(&reference["gradpc_l2_half_radius"]);
        let off = (&target.packed() - &expected).iter().fold(0.0f64, |m, x| m.max(x.abs()));
        // The clean head is known to about 1e-6, and normalised steps do not increase this error much.
        assert!(off < 1e-5, "largest difference {off:e}");
        let loss = mean_loss(&target, &[samples]).unwrap();
        assert!((loss - reference["gradpc_mean_loss"].as_f64().unwrap()).abs() < 1e-6);
    }

    #[test]
    fn a_ball_in_the_largest_norm_is_a_box_and_few_coordinates_are_few() {
        let (_, z, labels, clean) = reference();
        let samples = Samples::new(z.view(), &labels, 3).unwrap();
        let loss = |norm, coordinates| {
            let ascent = Ascent { norm, radius: 0.3, step: 0.05, steps: 40, coordinates };
            let target = ascend(&clean, &ascent, |_, head| gradient_sum(head, &[samples])).unwrap();
            let v = &target.packed() - &clean.packed();
            assert!(norm.of(&v) <= 0.3 + 1e-12);
            let corrupted = v.iter().filter(|x| **x != 0.0).count();
            assert!(coordinates.is_none_or(|most| corrupted <= most), "{corrupted}");
            mean_loss(&target, &[samples]).unwrap()
        };
        let at_start = mean_loss(&clean, &[samples]).unwrap();
        let (ball, cube) = (loss(Norm::L2, None), loss(Norm::Linf, None));
        // The box contains the ball, so the loss at its corner is larger.
        assert!(cube > ball && ball > at_start, "{at_start} {ball} {cube}");
        let few = loss(Norm::L2, Some(3));
        assert!(few < ball && few > at_start, "{few}");
    }
}
