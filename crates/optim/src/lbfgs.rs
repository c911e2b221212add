//! Limited-memory BFGS (Nocedal & Wright, Numerical Optimization, algorithms 7.4 and 7.5), for smooth convex functions
//! of a matrix.

use std::collections::VecDeque;

use ndarray::Array2;

use crate::{inner, norm};

/// Steps remembered.
const MEMORY: usize = 20;
/// The share of the promised decrease that a step must bring (Armijo).
const DECREASE: f64 = 1e-4;
/// The share of the slope that may be left after a step (Wolfe).
const CURVATURE: f64 = 0.9;
/// Points that one line search may evaluate.
const PROBES: usize = 30;
/// Changes of the value below this share of it are rounding noise.
const NOISE: f64 = 1e-14;

/// When to end.
pub struct Limits {
    /// L2 norm of the gradient at which the minimum counts as found.
    pub gradient_tolerance: f64,
    /// Steps taken at most.
    pub max_iterations: usize,
}

/// Where a minimisation ended.
pub struct Minimum {
    /// The last point.
    pub at: Array2<f64>,
    /// The function there.
    pub value: f64,
    /// The L2 norm of its gradient there.
    pub gradient_norm: f64,
    /// Steps taken.
    pub iterations: usize,
    /// Whether the gradient's norm is small enough.
    pub converged: bool,
}

/// Minimises `objective` (its value and gradient) from `start`.
///
/// `precondition` multiplies by a positive definite guess of the inverse Hessian, good enough that its step has about
/// the right length. `keep_going` sees the iteration and the gradient norm before every step. Ends unconverged when the
/// limit is reached, when `keep_going` says no, or when rounding leaves no step that descends.
pub fn minimize(
    start: Array2<f64>,
    objective: impl Fn(&Array2<f64>) -> (f64, Array2<f64>),
    precondition: impl Fn(&Array2<f64>) -> Array2<f64>,
    limits: &Limits,
    keep_going: &dyn Fn(usize, f64) -> bool,
) -> Minimum {
    let mut here = Point::new(start, &objective);
    let mut memory = Memory::default();
    let mut iterations = 0;
    let (gradient_norm, converged) = loop {
        let gradient_norm = norm(&here.gradient);
        if gradient_norm <= limits.gradient_tolerance {
            break (gradient_norm, true);
        }
        if iterations == limits.max_iterations || !keep_going(iterations, gradient_norm) {
            break (gradient_norm, false);
        }
        let direction = memory.direction(&here.gradient, &precondition);
        match line_search(&here, &direction, &objective) {
            Some(next) => {
                memory.push(&next.at - &here.at, &next.gradient - &here.gradient, &precondition);
                here = next;
                iterations += 1;
            }
            None if memory.is_empty() => break (gradient_norm, false),
            None => memory.clear(),
        }
    };
    Minimum { at: here.at, value: here.value, gradient_norm, iterations, converged }
}

struct Point {
    at: Array2<f64>,
    value: f64,
    gradient: Array2<f64>,
}

impl Point {
    fn new(at: Array2<f64>, objective: impl Fn(&Array2<f64>) -> (f64, Array2<f64>)) -> Self {
        let (value, gradient) = objective(&at);
        Self { at, value, gradient }
    }
}

/// A step, and what it did to the gradient.
struct Pair {
    step: Array2<f64>,
    change: Array2<f64>,
    /// `⟨step, change⟩`, positive.
    curvature: f64,
    /// By how much the preconditioner must be scaled to fit this step.
    scale: f64,
}

/// The last steps of a quasi-Newton method, and what they did to the gradient.
#[derive(Default)]
struct Memory(VecDeque<Pair>);

impl Memory {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn clear(&mut self) {
        self.0.clear();
    }

    /// Remembers a step and the change of the gradient, if the function curves upwards along it. `precondition`
    /// multiplies by a guess of the inverse Hessian.
    fn push(&mut self, step: Array2<f64>, change: Array2<f64>, precondition: impl Fn(&Array2<f64>) -> Array2<f64>) {
        let curvature = inner(&step, &change);
        // A pair of rounding noise would break positive definiteness.
        if curvature > f64::EPSILON * norm(&step) * norm(&change) {
            if self.0.len() == MEMORY {
                self.0.pop_front();
            }
            let scale = curvature / inner(&change, &precondition(&change));
            self.0.push_back(Pair { step, change, curvature, scale });
        }
    }

    /// Minus the gradient times the inverse Hessian, as far as remembered.
    fn direction(&self, gradient: &Array2<f64>, precondition: impl Fn(&Array2<f64>) -> Array2<f64>) -> Array2<f64> {
        let mut rest = -gradient;
        let mut along = Vec::with_capacity(self.0.len());
        for pair in self.0.iter().rev() {
            let share = inner(&pair.step, &rest) / pair.curvature;
            rest.scaled_add(-share, &pair.change);
            along.push(share);
        }
        let mut direction = precondition(&rest);
        if let Some(newest) = self.0.back() {
            direction *= newest.scale;
        }
        for (pair, share) in self.0.iter().zip(along.into_iter().rev()) {
            let known = inner(&pair.change, &direction) / pair.curvature;
            direction.scaled_add(share - known, &pair.step);
        }
        direction
    }
}

/// A point along `direction` that meets the Wolfe conditions: bracketing, with the secant of the slopes inside of a
/// bracket. Where the value's change drowns in noise, the slope decides (the approximate Wolfe conditions of Hager &
/// Zhang, 2005). Without such a point, the last that descends, if any.
fn line_search(
    here: &Point,
    direction: &Array2<f64>,
    objective: impl Fn(&Array2<f64>) -> (f64, Array2<f64>),
) -> Option<Point> {
    let slope = inner(&here.gradient, direction);
    if slope.is_nan() || slope >= 0.0 {
        return None;
    }
    let noise = NOISE * (1.0 + here.value.abs());
    let (mut low, mut high) = ((0.0, slope), None);
    let mut step = 1.0;
    let mut descended = None;
    for _ in 0..PROBES {
        let mut at = here.at.clone();
        at.scaled_add(step, direction);
        let probe = Point::new(at, &objective);
        let slope_there = inner(&probe.gradient, direction);
        let descends = probe.value <= here.value + DECREASE * step * slope
            || (probe.value <= here.value + noise && slope_there <= (2.0 * DECREASE - 1.0) * slope);
        if !descends {
            high = Some((step, slope_there));
        } else if slope_there < CURVATURE * slope {
            low = (step, slope_there);
            descended = Some(probe);
        } else {
            return Some(probe);
        }
        step = match high {
            None => 2.0 * step,
            Some(high) => between(low, high),
        };
    }
    descended
}

/// Where the slope is zero between two `(step, slope)`, by linear interpolation; never close to either end. The middle,
/// if the slopes do not bracket a zero.
fn between((low, low_slope): (f64, f64), (high, high_slope): (f64, f64)) -> f64 {
    let share = low_slope / (low_slope - high_slope);
    let share = if high_slope > 0.0 && share.is_finite() { share.clamp(0.1, 0.9) } else { 0.5 };
    low + share * (high - low)
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    const LIMITS: Limits = Limits { gradient_tolerance: 1e-9, max_iterations: 500 };

    fn rosenbrock(x: &Array2<f64>) -> (f64, Array2<f64>) {
        let (a, b) = (x[(0, 0)], x[(0, 1)]);
        let (first, second) = (1.0 - a, b - a * a);
        (first * first + 100.0 * second * second, array![[-2.0 * first - 400.0 * a * second, 200.0 * second]])
    }

    #[test]
    fn finds_the_minimum_of_a_curved_valley() {
        let found = minimize(array![[-1.2, 1.0]], rosenbrock, Array2::clone, &LIMITS, &|_, _| true);
        assert!(found.converged && found.iterations < 60, "{} iterations", found.iterations);
        assert!((found.at - array![[1.0, 1.0]]).iter().all(|error| error.abs() < 1e-8));
    }

    #[test]
    fn ends_where_nothing_can_be_found() {
        // Decreases forever, with a gradient that never vanishes.
        let line = |x: &Array2<f64>| (x.sum(), Array2::ones(x.dim()));
        let found = minimize(array![[0.0]], line, Array2::clone, &LIMITS, &|_, _| true);
        assert!(!found.converged && found.at[(0, 0)] < -1e6);

        // A gradient that promises a descent which is not there.
        let lie = |x: &Array2<f64>| (x.sum().abs(), Array2::ones(x.dim()));
        let found = minimize(array![[0.0]], lie, Array2::clone, &LIMITS, &|_, _| true);
        assert!(!found.converged && found.iterations == 0 && found.value == 0.0);
    }

    #[test]
    fn obeys_the_limit_and_the_caller() {
        let limits = Limits { max_iterations: 3, ..LIMITS };
        let found = minimize(array![[-1.2, 1.0]], rosenbrock, Array2::clone, &limits, &|_, _| true);
        assert!(!found.converged && found.iterations == 3);
        let found = minimize(array![[-1.2, 1.0]], rosenbrock, Array2::clone, &LIMITS, &|iteration, _| iteration < 2);
        assert!(!found.converged && found.iterations == 2);
    }
}
