//! How far images may go from those that they are made of.

use crate::{minimize::Bounds, unit};
use ndarray::{ArrayView4, Axis};

/// Images that poisons are made of, and what holds these near them.
#[derive(Debug, Clone, Copy)]
pub struct Limits<'a> {
    /// The images `x_b`, `[m, 3, height, width]`.
    pub base: ArrayView4<'a, u8>,
    /// Weight of `|x - x_b|^2`, pixels in `[0, 1]`.
    pub beta: f64,
    /// Largest change of a pixel, in `[0, 1]`; `None`: any within `[0, 1]`.
    pub linf: Option<f32>,
}

impl Limits<'_> {
    /// Base image of a poison, in `[0, 1]`.
    #[must_use]
    pub fn base_pixels(&self, row: usize) -> Vec<f32> {
        unit(self.base.index_axis(Axis(0), row))
    }

    /// Where the pixels of a poison may lie.
    pub(crate) fn bounds(&self, row: usize) -> Bounds {
        Bounds::around(&self.base_pixels(row), self.linf)
    }

    /// `beta |x - x_b|^2` of a poison's pixels `x`, and adds its gradient.
    pub(crate) fn penalise(&self, row: usize, x: &[f32], gradient: &mut [f32]) -> f64 {
        if self.beta == 0.0 {
            return 0.0;
        }
        let mut moved = 0.0;
        for ((g, x), b) in gradient.iter_mut().zip(x).zip(self.base_pixels(row)) {
            *g += 2.0 * self.beta as f32 * (x - b);
            moved += f64::from((x - b).powi(2));
        }
        self.beta * moved
    }
}
