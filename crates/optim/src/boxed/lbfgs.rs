//! Projected L-BFGS with bounds on every coordinate.
//!
//! This is two-metric projection (Bertsekas, 1982), with L-BFGS as in Schmidt, Kim & Sra, "Projected Newton-type
//! methods in machine learning" (2012):
//!
//! - A coordinate stays if it is at a bound and the negative gradient points out of the box. The others are free.
//! - The direction of the free coordinates is that of L-BFGS (Nocedal & Wright, algorithm 7.4). All inner products are
//!   taken over the free coordinates alone.
//! - A step follows the projection arc `P(x + t d)`. It is shortened until the loss decreases enough (Armijo).

use super::{BoxBounds, Minimizer, dot};
use std::collections::VecDeque;

/// Number of pairs of a step and a gradient change that are kept.
pub const MEMORY: usize = 10;
/// Armijo constant: the fraction of the decrease predicted by the slope that a step has to achieve.
pub const ARMIJO: f64 = 1e-4;
/// Number of times that a step is shortened before its direction is abandoned.
pub const SHORTENINGS: u32 = 12;
/// The smallest cosine of an angle whose sign counts. A pair is used if the cosine between step and gradient change is
/// larger, and a direction if the cosine between it and the negative gradient is.
pub const COSINE: f64 = 1e-8;

/// A change `s` of the point and the change `y` of the gradient that it caused.
struct Pair {
    s: Vec<f32>,
    y: Vec<f32>,
    /// `<s, s>`.
    square: f64,
}

/// The state of one minimisation by projected L-BFGS.
pub struct ProjectedLbfgs {
    bounds: BoxBounds,
    /// Largest change of a coordinate in a step along the negative gradient.
    first_step: f32,
    /// The point at which the loss is needed next.
    trial: Vec<f32>,
    /// The last accepted point; `None` before the first evaluation.
    accepted: Option<Accepted>,
    pairs: VecDeque<Pair>,
}

struct Accepted {
    x: Vec<f32>,
    loss: f64,
    gradient: Vec<f32>,
    direction: Vec<f32>,
    length: f32,
    shortenings: u32,
}

impl ProjectedLbfgs {
    /// Starts at `start`, projected onto `bounds`. As long as no curvature is known, a step changes no coordinate by
    /// more than `first_step`.
    #[must_use]
    pub fn new(mut start: Vec<f32>, bounds: BoxBounds, first_step: f32) -> Self {
        bounds.project(&mut start);
        Self { bounds, first_step, trial: start, accepted: None, pairs: VecDeque::new() }
    }

    /// Accepts the trial point and chooses the next one. Returns false if no direction descends from it.
    fn accept(&mut self, loss: f64, gradient: &[f32]) -> bool {
        if let Some(last) = &self.accepted {
            let change = |a: &[f32], b: &[f32]| -> Vec<f32> { a.iter().zip(b).map(|(a, b)| a - b).collect() };
            let (s, y) = (change(&self.trial, &last.x), change(gradient, &last.gradient));
            let pair = Pair { square: dot(&s, &s), s, y };
            if self.pairs.len() == MEMORY {
                self.pairs.pop_front();
            }
            self.pairs.push_back(pair);
        }
        let (x, gradient) = (self.trial.clone(), gradient.to_vec());
        let mut next = Accepted { x, loss, gradient, direction: Vec::new(), length: 1.0, shortenings: 0 };
        let going = self.aim(&mut next);
        self.accepted = Some(next);
        going
    }

    /// Chooses a direction and a length at an accepted point, and sets the trial point. Returns false if the gradient
    /// of the free coordinates is zero.
    fn aim(&mut self, from: &mut Accepted) -> bool {
        let mut free = vec![0.0; from.x.len()];
        self.bounds.free(&from.x, &from.gradient, &mut free);
        let steepest: Vec<f32> = from.gradient.iter().zip(&free).map(|(g, free)| -g * free).collect();
        let largest = steepest.iter().fold(0.0f32, |m, g| m.max(g.abs()));
        if largest == 0.0 {
            return false;
        }
        let quasi_newton = two_loop(&self.pairs, &free, &steepest).filter(|d| {
            let slope = dot(d, &from.gradient);
            slope.is_finite() && slope < -COSINE * (dot(d, d) * dot(&steepest, &steepest)).sqrt()
        });
        from.shortenings = 0;
        (from.direction, from.length) = match quasi_newton {
            Some(d) => (d, 1.0),
            None => {
                self.pairs.clear();
                (steepest, self.first_step / largest)
            }
        };
        self.step(from);
        true
    }

    /// Sets the trial point on the projection arc.
    fn step(&mut self, from: &Accepted) {
        for ((trial, x), d) in self.trial.iter_mut().zip(&from.x).zip(&from.direction) {
            *trial = x + from.length * d;
        }
        self.bounds.project(&mut self.trial);
    }

    /// Shortens the last step or, after [`SHORTENINGS`] times, replaces its direction by the negative gradient. Returns
    /// false if that has failed as well.
    fn shorten(&mut self, from: &mut Accepted, loss: f64, promised: f64) -> bool {
        from.shortenings += 1;
        if from.shortenings > SHORTENINGS {
            let tried = self.pairs.is_empty();
            self.pairs.clear();
            return !tried && self.aim(from);
        }
        // The minimum of the parabola through both losses, with the slope at the accepted point.
        let best = -promised / (2.0 * (loss - from.loss - promised));
        from.length *= best.clamp(0.1, 0.5) as f32;
        self.step(from);
        true
    }
}

impl Minimizer for ProjectedLbfgs {
    fn point(&self) -> &[f32] {
        &self.trial
    }

    fn tell(&mut self, loss: f64, gradient: &[f32]) -> bool {
        let Some(mut from) = self.accepted.take() else { return self.accept(loss, gradient) };
        let moved: Vec<f32> = self.trial.iter().zip(&from.x).map(|(a, b)| a - b).collect();
        let promised = dot(&from.gradient, &moved);
        if promised < 0.0 && loss <= from.loss + ARMIJO * promised {
            self.accepted = Some(from);
            return self.accept(loss, gradient);
        }
        let going = self.shorten(&mut from, loss, promised);
        self.accepted = Some(from);
        going
    }
}

/// The two-loop recursion on the free coordinates. Returns the inverse Hessian times `steepest`, the negative gradient
/// of the free coordinates, or `None` if no pair is usable.
fn two_loop(pairs: &VecDeque<Pair>, free: &[f32], steepest: &[f32]) -> Option<Vec<f32>> {
    let mut q = steepest.to_vec();
    let mut used = Vec::with_capacity(pairs.len());
    for pair in pairs.iter().rev() {
        let (curvature, square) = free_products(&pair.s, &pair.y, free);
        // Pairs without positive curvature would make the approximate Hessian indefinite.
        if curvature <= COSINE * (square * pair.square).sqrt() {
            continue;
        }
        let a = dot(&pair.s, &q) / curvature;
        add_free(&mut q, -a, &pair.y, free);
        used.push((pair, a, curvature, square));
    }
    let (_, _, curvature, square) = used.first()?;
    let scale = (curvature / square) as f32;
    q.iter_mut().for_each(|q| *q *= scale);
    for (pair, a, curvature, _) in used.iter().rev() {
        let b = dot(&pair.y, &q) / curvature;
        add_free(&mut q, a - b, &pair.s, free);
    }
    Some(q)
}

/// `<s, y>` and `<y, y>` over the free coordinates, in one pass.
fn free_products(s: &[f32], y: &[f32], free: &[f32]) -> (f64, f64) {
    const LANES: usize = 16;
    let (mut sy, mut yy) = ([0.0f32; LANES], [0.0f32; LANES]);
    let mut add = |lane: usize, s: f32, y: f32, free: f32| {
        let y = y * free;
        sy[lane] += s * y;
        yy[lane] += y * y;
    };
    let ((s, s_rest), (y, y_rest)) = (s.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    let (free, free_rest) = free.as_chunks::<LANES>();
    for ((s, y), free) in s.iter().zip(y).zip(free) {
        for lane in 0..LANES {
            add(lane, s[lane], y[lane], free[lane]);
        }
    }
    for (lane, ((s, y), free)) in s_rest.iter().zip(y_rest).zip(free_rest).enumerate() {
        add(lane, *s, *y, *free);
    }
    let sum = |lanes: [f32; LANES]| lanes.into_iter().map(f64::from).sum();
    (sum(sy), sum(yy))
}

/// Adds `factor * values` to the free coordinates of `to`.
fn add_free(to: &mut [f32], factor: f64, values: &[f32], free: &[f32]) {
    for ((to, v), free) in to.iter_mut().zip(values).zip(free) {
        *to += factor as f32 * (v * free);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The function `1/2 sum_i c_i (x_i - t_i)^2`, plus a coupling of neighbouring coordinates.
    struct Quadratic {
        curvature: Vec<f32>,
        target: Vec<f32>,
        coupling: f32,
    }

    impl Quadratic {
        fn new(n: usize, coupling: f32) -> Self {
            let target = (0..n).map(|i| ((i * 37) % 100) as f32 / 40.0 - 0.75).collect();
            Self { curvature: (0..n).map(|i| 1.0 + ((i * 53) % 97) as f32).collect(), target, coupling }
        }
        fn at(&self, x: &[f32]) -> (f64, Vec<f32>) {
            let off: Vec<f32> = x.iter().zip(&self.target).map(|(x, t)| x - t).collect();
            let mut gradient: Vec<f32> = off.iter().zip(&self.curvature).map(|(o, c)| o * c).collect();
            // Summed in f64, because losses near the minimum would be equal in f32.
            let mut loss = off.iter().zip(&gradient).map(|(o, g)| 0.5 * f64::from(*o) * f64::from(*g)).sum::<f64>();
            for i in 1..x.len() {
                let sum = x[i - 1] + x[i];
                loss += 0.5 * f64::from(self.coupling) * f64::from(sum).powi(2);
                gradient[i - 1] += self.coupling * sum;
                gradient[i] += self.coupling * sum;
            }
            (loss, gradient)
        }
    }

    fn minimise(problem: &Quadratic, mut minimizer: impl Minimizer, passes: usize) -> (Vec<f32>, f64) {
        let mut best = (minimizer.point().to_vec(), f64::INFINITY);
        for _ in 0..passes {
            let (loss, gradient) = problem.at(minimizer.point());
            if loss < best.1 {
                best = (minimizer.point().to_vec(), loss);
            }
            if !minimizer.tell(loss, &gradient) {
                break;
            }
        }
        best
    }

    /// Without coupling, the minimum in a box is the target, with each coordinate clamped separately.
    #[test]
    fn a_separable_quadratic_ends_at_the_clamped_target() {
        let problem = Quadratic::new(200, 0.0);
        let bounds = BoxBounds::new(vec![0.25; 200], vec![0.75; 200]);
        let (x, _) = minimise(&problem, ProjectedLbfgs::new(vec![0.5; 200], bounds, 0.02), 120);
        for (x, t) in x.iter().zip(&problem.target) {
            assert!((x - t.clamp(0.25, 0.75)).abs() < 1e-4, "{x} {t}");
        }
    }

    /// With coupling, the projected gradient vanishes at the minimum (Karush, Kuhn & Tucker).
    #[test]
    fn a_coupled_quadratic_ends_where_no_coordinate_can_descend() {
        let problem = Quadratic::new(200, 20.0);
        let bounds = BoxBounds::new(vec![0.0; 200], vec![1.0; 200]);
        let (x, loss) = minimise(&problem, ProjectedLbfgs::new(vec![0.9; 200], bounds.clone(), 0.02), 400);
        let (_, gradient) = problem.at(&x);
        let mut free = vec![0.0; 200];
        bounds.free(&x, &gradient, &mut free);
        let stuck = free.iter().filter(|f| **f == 0.0).count();
        assert!(stuck > 20 && stuck < 180, "{stuck} at bounds");
        let left = gradient.iter().zip(&free).fold(0.0f32, |m, (g, f)| m.max((g * f).abs()));
        assert!(left < 2e-2, "gradient {left} is left");
        // Adam reaches no lower loss, up to rounding.
        let (_, adam) = minimise(&problem, super::super::ProjectedAdam::new(vec![0.9; 200], bounds, 0.02, 400), 400);
        assert!(loss <= adam * (1.0 + 1e-8), "{loss} {adam}");
    }

    #[test]
    fn a_minimum_is_left_alone() {
        let problem = Quadratic::new(4, 0.0);
        let start: Vec<f32> = problem.target.iter().map(|t| t.clamp(0.0, 1.0)).collect();
        let mut minimizer = ProjectedLbfgs::new(start.clone(), BoxBounds::new(vec![0.0; 4], vec![1.0; 4]), 0.02);
        let (loss, gradient) = problem.at(minimizer.point());
        assert!(!minimizer.tell(loss, &gradient), "there is no way down");
    }

    /// The gradient contradicts the loss, so no step decreases it and the minimiser gives up.
    #[test]
    fn it_gives_up_where_nothing_descends() {
        let mut minimizer = ProjectedLbfgs::new(vec![0.5; 8], BoxBounds::new(vec![0.0; 8], vec![1.0; 8]), 0.02);
        let mut passes = 0;
        while minimizer.tell(f64::from(passes), &[1.0; 8]) {
            passes += 1;
            assert!(passes < 100);
        }
        assert!(passes > SHORTENINGS as i32 - 1);
    }
}
