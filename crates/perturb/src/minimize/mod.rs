//! Minimisers of one image within bounds. Each says where it wants the loss and its gradient, and is told: so images of
//! one batch share the network's passes and nothing else.

use crate::limits::PixelRange;

mod adam;
mod lbfgs;
pub(crate) mod on_device;

pub(crate) use adam::Adam;
pub(crate) use lbfgs::Lbfgs;

/// What an optimiser wants next.
pub(crate) trait Minimizer: Send {
    /// Where it wants the loss and the gradient.
    fn point(&self) -> &[f32];
    /// Tells it the loss and the gradient at that point. Returns whether it goes on.
    fn tell(&mut self, loss: f64, gradient: &[f32]) -> bool;
}

/// The box of a constrained problem: a lowest and a highest value of every coordinate.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    low: Vec<f32>,
    high: Vec<f32>,
}

impl Bounds {
    /// A range around a base image.
    pub(crate) fn new(base: &[f32], range: PixelRange) -> Self {
        let within = |x: f32| x.clamp(0.0, 1.0);
        let (low, high): (Vec<f32>, Vec<f32>) = base
            .iter()
            .map(|b| match range {
                PixelRange::Unit => (0.0, 1.0),
                PixelRange::Near(radius) => (within(b - radius), within(b + radius)),
                PixelRange::Free => (f32::NEG_INFINITY, f32::INFINITY),
            })
            .unzip();
        Self { low, high }
    }

    /// Moves every coordinate to the nearest value that is allowed.
    pub(crate) fn project(&self, x: &mut [f32]) {
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
