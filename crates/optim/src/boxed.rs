//! Minimisers of a vector within bounds on every coordinate.
//!
//! Each names the next point at which it wants the loss and its gradient, and is handed both: so the points of many
//! minimisers can be evaluated together.

mod adam;
mod lbfgs;

pub use adam::Adam;
pub use lbfgs::{ARMIJO, Lbfgs, MEMORY, SHORTENINGS};

/// What an optimiser wants next.
pub trait Minimizer: Send {
    /// Where it wants the loss and the gradient.
    fn point(&self) -> &[f32];
    /// Tells it the loss and the gradient at that point. Returns whether it goes on.
    fn tell(&mut self, loss: f64, gradient: &[f32]) -> bool;
}

/// The box of a constrained problem: a lowest and a highest value of every coordinate.
#[derive(Debug, Clone)]
pub struct Bounds {
    low: Vec<f32>,
    high: Vec<f32>,
}

impl Bounds {
    /// The box between `low` and `high`, of one length.
    #[must_use]
    pub fn new(low: Vec<f32>, high: Vec<f32>) -> Self {
        Self { low, high }
    }

    /// Moves every coordinate to the nearest value that is allowed.
    pub fn project(&self, x: &mut [f32]) {
        for ((x, low), high) in x.iter_mut().zip(&self.low).zip(&self.high) {
            *x = x.clamp(*low, *high);
        }
    }

    /// 0 where `x` is at a bound and `gradient` descends out of the box, 1 elsewhere.
    fn free(&self, x: &[f32], gradient: &[f32], free: &mut [f32]) {
        for (i, free) in free.iter_mut().enumerate() {
            let stuck = (x[i] <= self.low[i] && gradient[i] > 0.0) || (x[i] >= self.high[i] && gradient[i] < 0.0);
            *free = if stuck { 0.0 } else { 1.0 };
        }
    }
}

/// Sum of products. Lanes make it fast, and their fixed number gives the same bits on every processor.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    const LANES: usize = 16;
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().copied().map(f64::from).sum::<f64>() + f64::from(rest)
}
