//! Limited-memory BFGS (Nocedal & Wright, Numerical Optimization, algorithms 7.4 and 7.5), for smooth convex functions
//! of a matrix.

use std::collections::VecDeque;

use ndarray::Array2;

use crate::{inner, norm};

/// Number of pairs of a step and a gradient change that are kept.
const MEMORY: usize = 20;
/// Armijo constant: the fraction of the predicted decrease that a step has to achieve.
const DECREASE: f64 = 1e-4;
/// Wolfe constant: the largest fraction of the slope that may remain after a step.
const CURVATURE: f64 = 0.9;
/// Largest number of points that one line search evaluates.
const PROBES: usize = 30;
/// Relative changes of a value in double precision below this are rounding noise.
const NOISE: f64 = 1e-14;
/// Steps without a smaller gradient after which a level that is not the last counts as exhausted.
const PATIENCE: u32 = 10;

/// A function of a matrix, and its gradient.
pub type Objective<'a> = &'a dyn Fn(&Array2<f64>) -> (f64, Array2<f64>);

/// A function as it is computed with some precision.
#[derive(Clone, Copy)]
pub struct Level<'a> {
    /// The function, and its gradient.
    pub objective: Objective<'a>,
    /// Changes of its value below this, relative to `1 +` its value, are rounding noise.
    pub noise: f64,
}

impl<'a> Level<'a> {
    /// A function in double precision.
    #[must_use]
    pub fn exact(objective: Objective<'a>) -> Self {
        Self { objective, noise: NOISE }
    }
}

/// When a minimisation ends.
pub struct Limits {
    /// The minimum counts as found when the L2 norm of the gradient is at most this.
    pub gradient_tolerance: f64,
    /// Largest number of steps.
    pub max_iterations: usize,
}

/// The result of a minimisation.
pub struct Minimum {
    /// The last point.
    pub at: Array2<f64>,
    /// The function's value at the last point.
    pub value: f64,
    /// The L2 norm of the gradient at the last point.
    pub gradient_norm: f64,
    /// Number of steps taken.
    pub iterations: usize,
    /// Whether the gradient norm is within the tolerance.
    pub converged: bool,
}

/// [`minimize_in_levels`] of one function in double precision.
pub fn minimize(
    start: Array2<f64>,
    objective: impl Fn(&Array2<f64>) -> (f64, Array2<f64>),
    precondition: impl Fn(&Array2<f64>) -> Array2<f64>,
    limits: &Limits,
    keep_going: &dyn Fn(usize, f64) -> bool,
) -> Minimum {
    minimize_in_levels(start, (&[], Level::exact(&objective)), precondition, limits, keep_going)
}

/// Minimises the function of the last level from `start`. Levels before it are the same function with less precision,
/// and therefore faster: each is descended until its gradient is within the tolerance, or rounding hides what is left.
///
/// `precondition` multiplies by a positive definite approximation of the inverse Hessian, which should be good enough
/// for its step to have about the right length. `keep_going` is called with the number of steps taken and the gradient
/// norm before every step.
///
/// The minimisation ends without convergence in three cases: it reaches the limit of steps, `keep_going` returns false,
/// or rounding leaves no step that descends.
pub fn minimize_in_levels(
    start: Array2<f64>,
    (rough, exact): (&[Level<'_>], Level<'_>),
    precondition: impl Fn(&Array2<f64>) -> Array2<f64>,
    limits: &Limits,
    keep_going: &dyn Fn(usize, f64) -> bool,
) -> Minimum {
    let mut levels = rough.iter();
    let mut now = levels.next();
    let mut here = Point::new(start, now.unwrap_or(&exact).objective);
    let mut memory = Memory::default();
    let mut iterations = 0;
    let (mut least, mut waited, mut exhausted) = (f64::INFINITY, 0, false);
    let (gradient_norm, converged) = loop {
        let gradient_norm = norm(&here.gradient);
        waited = if gradient_norm < least { 0 } else { waited + 1 };
        least = least.min(gradient_norm);
        if now.is_some() && (exhausted || waited > PATIENCE || gradient_norm <= limits.gradient_tolerance) {
            now = levels.next();
            here = Point::new(here.at, now.unwrap_or(&exact).objective);
            (least, waited, exhausted) = (f64::INFINITY, 0, false);
            continue;
        }
        if gradient_norm <= limits.gradient_tolerance {
            break (gradient_norm, true);
        }
        if iterations == limits.max_iterations || !keep_going(iterations, gradient_norm) {
            break (gradient_norm, false);
        }
        let direction = memory.direction(&here.gradient, &precondition);
        match line_search(&here, &direction, now.unwrap_or(&exact)) {
            Some(next) => {
                memory.push(&next.at - &here.at, &next.gradient - &here.gradient, &precondition);
                here = next;
                iterations += 1;
            }
            None if now.is_some() => exhausted = true,
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
    fn new(at: Array2<f64>, objective: Objective<'_>) -> Self {
        let (value, gradient) = objective(&at);
        Self { at, value, gradient }
    }
}

/// A step and the gradient change that it caused.
struct Pair {
    step: Array2<f64>,
    change: Array2<f64>,
    /// `⟨step, change⟩`, which is positive.
    curvature: f64,
    /// The factor by which the preconditioner has to be scaled to fit this step.
    scale: f64,
}

/// The last steps and the gradient changes that they caused.
#[derive(Default)]
struct Memory(VecDeque<Pair>);

impl Memory {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn clear(&mut self) {
        self.0.clear();
    }

    /// Stores a step and the change of the gradient if the function has positive curvature along the step.
    /// `precondition` multiplies by an approximation of the inverse Hessian.
    fn push(&mut self, step: Array2<f64>, change: Array2<f64>, precondition: impl Fn(&Array2<f64>) -> Array2<f64>) {
        let curvature = inner(&step, &change);
        // A pair that is rounding noise would break positive definiteness.
        if curvature > f64::EPSILON * norm(&step) * norm(&change) {
            if self.0.len() == MEMORY {
                self.0.pop_front();
            }
            let scale = curvature / inner(&change, &precondition(&change));
            self.0.push_back(Pair { step, change, curvature, scale });
        }
    }

    /// Minus the approximate inverse Hessian times `gradient`.
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

/// Finds a point along `direction` that meets the Wolfe conditions, by bracketing and by the secant of the slopes
/// within a bracket. Where rounding hides the change of the value, the slope decides (the approximate Wolfe conditions
/// of Hager & Zhang, 2005). If no point meets the conditions, returns the last point that descends, or `None`.
fn line_search(here: &Point, direction: &Array2<f64>, level: &Level<'_>) -> Option<Point> {
    let slope = inner(&here.gradient, direction);
    if slope.is_nan() || slope >= 0.0 {
        return None;
    }
    let noise = level.noise * (1.0 + here.value.abs());
    let (mut low, mut high) = ((0.0, slope), None);
    let mut step = 1.0;
    let mut descended = None;
    for _ in 0..PROBES {
        let mut at = here.at.clone();
        at.scaled_add(step, direction);
        let probe = Point::new(at, level.objective);
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

/// The step between two `(step, slope)` at which linear interpolation makes the slope zero, kept away from both ends.
/// Returns the middle if the slopes do not bracket a zero.
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

    /// A rough function is descended first, and the minimum is that of the exact one.
    #[test]
    fn a_rough_function_saves_evaluations_of_the_exact_one() {
        let evaluated = std::cell::Cell::new(0);
        let curved = |x: &Array2<f64>| {
            let scale = |i: usize| 1.05f64.powi(i as i32);
            let value =
                x.iter().enumerate().map(|(i, x)| scale(i) * (x.powi(4) + (x - 1.0).powi(2)) / 2.0).sum::<f64>();
            let slopes = x.iter().enumerate().map(|(i, x)| scale(i) * (2.0 * x.powi(3) + x - 1.0));
            (value, Array2::from_shape_vec(x.dim(), slopes.collect()).unwrap())
        };
        let exact = |x: &Array2<f64>| {
            evaluated.set(evaluated.get() + 1);
            curved(x)
        };
        let rough = |x: &Array2<f64>| {
            let (value, gradient) = curved(x);
            (f64::from(value as f32), gradient.mapv(|g| f64::from((g + 1e-6 * g.sin()) as f32)))
        };
        let levels = [Level { objective: &rough, noise: 1e-7 }];
        let run = |levels: &[Level<'_>]| {
            evaluated.set(0);
            let start = Array2::zeros((1, 60));
            let found = minimize_in_levels(start, (levels, Level::exact(&exact)), Array2::clone, &LIMITS, &|_, _| true);
            assert!(found.converged && norm(&curved(&found.at).1) <= LIMITS.gradient_tolerance);
            (evaluated.get(), found.at)
        };
        let ((alone, at), (saved, at_saved)) = (run(&[]), run(&levels));
        assert!(2 * saved < alone, "{saved} {alone}");
        assert!((at - at_saved).iter().all(|error| error.abs() < 1e-8));
    }

    #[test]
    fn ends_where_nothing_can_be_found() {
        // A function that decreases forever and has a gradient that never vanishes.
        let line = |x: &Array2<f64>| (x.sum(), Array2::ones(x.dim()));
        let found = minimize(array![[0.0]], line, Array2::clone, &LIMITS, &|_, _| true);
        assert!(!found.converged && found.at[(0, 0)] < -1e6);

        // A function whose gradient predicts a descent that does not exist.
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
