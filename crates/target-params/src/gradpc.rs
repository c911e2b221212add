//! GradPC: gradient-based parameter corruption in an L2 ball.

use hemlock_head::{Head, HeadError, Samples, gradient_sum};
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

/// L2 norm of packed parameters.
pub(crate) fn norm(a: &Array2<f64>) -> f64 {
    a.iter().map(|x| x * x).sum::<f64>().sqrt()
}
