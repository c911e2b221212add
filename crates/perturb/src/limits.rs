//! How far images may go from those that they are made of.

use crate::{GreyLevels, unit};
use hemlock_optim::boxed::Bounds;
use hemlock_stage::ParamError;
use ndarray::{ArrayView4, Axis};

/// Images that poisons are made of, and what holds these near them.
#[derive(Debug, Clone, Copy)]
pub struct PixelLimits<'a> {
    /// The images `x_b`, `[m, 3, height, width]`.
    pub base: ArrayView4<'a, u8>,
    /// Weight of `|x - x_b|^2`, pixels in `[0, 1]`.
    pub beta: f64,
    /// Where pixels may lie.
    pub range: PixelRange,
}

/// Where pixels may lie, in units where images have `[0, 1]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PixelRange {
    /// In `[0, 1]`.
    Unit,
    /// In `[0, 1]`, and no farther than so much from the base image.
    Near(f32),
    /// Anywhere: no image file can hold such pixels.
    Free,
}

impl PixelRange {
    /// As specs say it: the largest change of a pixel, if there is one, and whether pixels are clipped to `[0, 1]`.
    #[must_use]
    pub fn new(linf: Option<GreyLevels>, clip: bool) -> Self {
        match linf {
            _ if !clip => Self::Free,
            Some(levels) => Self::Near(levels.as_pixel()),
            None => Self::Unit,
        }
    }

    /// The bounds of pixels around those of a base image.
    pub(crate) fn around(self, base: &[f32]) -> Bounds {
        let within = |x: f32| x.clamp(0.0, 1.0);
        let bounds = |b: &f32| match self {
            Self::Unit => (0.0, 1.0),
            Self::Near(radius) => (within(b - radius), within(b + radius)),
            Self::Free => (f32::NEG_INFINITY, f32::INFINITY),
        };
        let (low, high) = base.iter().map(bounds).unzip();
        Bounds::new(low, high)
    }

    /// Checks the parameters of [`PixelRange::new`].
    ///
    /// # Errors
    /// Pixels have a largest change, and are not clipped.
    pub fn check(linf: Option<GreyLevels>, clip: bool) -> Result<(), ParamError> {
        let message = "goes with pixels in [0, 1]; leave it out if `clip = false`";
        if !clip && linf.is_some() { Err(ParamError::new("linf", message)) } else { Ok(()) }
    }
}

impl PixelLimits<'_> {
    /// Base image of a poison, in `[0, 1]`.
    #[must_use]
    pub fn base_pixels(&self, row: usize) -> Vec<f32> {
        unit(self.base.index_axis(Axis(0), row))
    }

    /// Where the pixels of a poison may lie.
    pub(crate) fn bounds(&self, row: usize) -> Bounds {
        self.range.around(&self.base_pixels(row))
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
