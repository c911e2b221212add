//! Projected Adam with a cosine schedule (Kingma & Ba, 2015).

use super::{BoxBounds, Minimizer};
use crate::half_cosine;

/// Projected Adam. The step length falls from `step` to 0 over `passes` evaluations.
pub struct ProjectedAdam {
    bounds: BoxBounds,
    x: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    step: f32,
    passes: u32,
    done: u32,
}

impl ProjectedAdam {
    /// The decay rates of the first and of the second moment.
    pub const DECAY: (f32, f32) = (0.9, 0.999);
    /// The number that is added to the root of the second moment, so that no step divides by 0.
    pub const EPSILON: f32 = 1e-8;

    /// Starts at `start`, projected onto `bounds`.
    #[must_use]
    pub fn new(mut start: Vec<f32>, bounds: BoxBounds, step: f32, passes: u32) -> Self {
        bounds.project(&mut start);
        let zeros = vec![0.0; start.len()];
        Self { bounds, x: start, first: zeros.clone(), second: zeros, step, passes, done: 0 }
    }
}

impl Minimizer for ProjectedAdam {
    fn point(&self) -> &[f32] {
        &self.x
    }

    fn tell(&mut self, _loss: f64, gradient: &[f32]) -> bool {
        let (a, b) = Self::DECAY;
        let rate = self.step * half_cosine(self.done.into(), self.passes.into()) as f32;
        self.done += 1;
        let (bias1, bias2) = (1.0 - a.powi(self.done as i32), 1.0 - b.powi(self.done as i32));
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((x, (first, second)), g) in self.x.iter_mut().zip(moments).zip(gradient) {
            *first = a * *first + (1.0 - a) * g;
            *second = b * *second + (1.0 - b) * g * g;
            *x -= rate * (*first / bias1) / ((*second / bias2).sqrt() + Self::EPSILON);
        }
        self.bounds.project(&mut self.x);
        self.done < self.passes
    }
}
