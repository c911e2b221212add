//! Minimisers of a vector with bounds on every coordinate.
//!
//! The caller evaluates the function: a minimiser names the next point ([`Minimizer::point`]) and is given the loss and
//! the gradient there ([`Minimizer::tell`]). The points of many minimisers can therefore be evaluated together.

mod adam;
mod lbfgs;

pub use adam::ProjectedAdam;
pub use lbfgs::{ARMIJO, COSINE, MEMORY, ProjectedLbfgs, SHORTENINGS};

/// A minimiser whose function the caller evaluates.
pub trait Minimizer: Send {
    /// The next point at which the minimiser needs the loss and the gradient, `[d]`.
    fn point(&self) -> &[f32];
    /// Takes the loss and the gradient at [`Minimizer::point`], and chooses the next point. Returns false if the
    /// minimisation has ended.
    fn tell(&mut self, loss: f64, gradient: &[f32]) -> bool;
}

/// Lower and upper bounds for every coordinate.
#[derive(Debug, Clone)]
pub struct BoxBounds {
    low: Vec<f32>,
    high: Vec<f32>,
}

impl BoxBounds {
    /// The bounds `low` and `high`, which have the same length.
    #[must_use]
    pub fn new(low: Vec<f32>, high: Vec<f32>) -> Self {
        Self { low, high }
    }

    /// Projects `x` onto the box: clamps every coordinate to its bounds.
    pub fn project(&self, x: &mut [f32]) {
        for ((x, low), high) in x.iter_mut().zip(&self.low).zip(&self.high) {
            *x = x.clamp(*low, *high);
        }
    }

    /// Writes a mask to `free`: 0 for a coordinate at a bound where a step along `-gradient` would leave the box, 1
    /// elsewhere.
    fn free(&self, x: &[f32], gradient: &[f32], free: &mut [f32]) {
        for (i, free) in free.iter_mut().enumerate() {
            let stuck = (x[i] <= self.low[i] && gradient[i] > 0.0) || (x[i] >= self.high[i] && gradient[i] < 0.0);
            *free = if stuck { 0.0 } else { 1.0 };
        }
    }
}

/// The inner product of two vectors. Partial sums in lanes make it fast; their number is fixed, so that every processor
/// gives the same bits.
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
