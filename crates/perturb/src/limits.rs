//! Limits of the pixels of poisons.

use crate::{GreyLevels, unit};
use hemlock_optim::boxed::BoxBounds;
use hemlock_stage::ParamError;
use ndarray::{ArrayView4, Axis};

/// The base images of poisons, and how far their pixels may be from these.
#[derive(Debug, Clone, Copy)]
pub struct PixelLimits<'a> {
    /// The base images `x_b`, `[m, 3, height, width]`.
    pub base: ArrayView4<'a, u8>,
    /// Weight of the penalty `|x - x_b|^2`, for pixels in `[0, 1]`.
    pub beta: f64,
    /// The range of the pixels.
    pub range: PixelRange,
}

/// The range of pixels, in units in which 8-bit images are in `[0, 1]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PixelRange {
    /// In `[0, 1]`.
    Unit,
    /// In `[0, 1]`, and at most this far from the base image (an Linf ball).
    Near(f32),
    /// Unlimited. Image files cannot hold such pixels.
    Unclipped,
}

impl PixelRange {
    /// The range of a spec: `linf` is the largest change of a pixel, and `clip` says whether pixels are clipped to
    /// `[0, 1]`.
    #[must_use]
    pub fn new(linf: Option<GreyLevels>, clip: bool) -> Self {
        match linf {
            _ if !clip => Self::Unclipped,
            Some(levels) => Self::Near(levels.as_pixel()),
            None => Self::Unit,
        }
    }

    /// The lower and upper bounds of pixels around those of a base image.
    pub(crate) fn around(self, base: &[f32]) -> BoxBounds {
        let within = |x: f32| x.clamp(0.0, 1.0);
        let bounds = |b: &f32| match self {
            Self::Unit => (0.0, 1.0),
            Self::Near(radius) => (within(b - radius), within(b + radius)),
            Self::Unclipped => (f32::NEG_INFINITY, f32::INFINITY),
        };
        let (low, high) = base.iter().map(bounds).unzip();
        BoxBounds::new(low, high)
    }

    /// Checks the arguments of [`PixelRange::new`].
    ///
    /// # Errors
    /// If there is a largest change although pixels are not clipped.
    pub fn check(linf: Option<GreyLevels>, clip: bool) -> Result<(), ParamError> {
        let message = "goes with pixels in [0, 1]; leave it out if `clip = false`";
        if !clip && linf.is_some() { Err(ParamError::new("linf", message)) } else { Ok(()) }
    }
}

impl PixelLimits<'_> {
    /// The base image of a poison, `[3, height, width]`, in `[0, 1]`.
    #[must_use]
    pub fn base_pixels(&self, row: usize) -> Vec<f32> {
        unit(self.base.index_axis(Axis(0), row))
    }

    /// The bounds of the pixels of a poison.
    pub(crate) fn bounds(&self, row: usize) -> BoxBounds {
        self.range.around(&self.base_pixels(row))
    }

    /// Returns the penalty `beta |x - x_b|^2` of a poison's pixels `x`, and adds its gradient to `gradient`.
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
