//! Feature matching: pixels whose features come close to given ones.

use crate::{HeadSpace, cosine, matrix, unit_pixels};
use burn::tensor::Tensor;
use hemlock_artifact::CurvePoint;
use hemlock_models::{Extractor, tiles::on_device};
use hemlock_stage::{Context, ErrorKind, StageError};
use ndarray::{Array4, ArrayView2, ArrayView4, Axis, Slice};
use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

/// Poisons that are optimised together, on one thread of the CPU. Images do not touch each other, so the number changes no result.
const TILE: usize = 32;

/// What became of the poisons of a tile.
struct Tile {
    /// In `[0, 1]`, `[rows, 3, height, width]`.
    pixels: Vec<f32>,
    /// Sum of their losses, at some steps.
    losses: Vec<(u32, f64)>,
}

/// Adam on pixels, projected onto `[0, 1]`, with a cosine schedule.
pub(crate) struct Matching {
    pub(crate) beta: f64,
    pub(crate) steps: u32,
    pub(crate) step: f64,
}

impl Matching {
    /// Pixels `[m, 3, height, width]` in `[0, 1]` that minimise `|f(x) - zeta|^2 + beta |x - x_b|^2` from `x = x_b`, `f` in the
    /// head's space; and the mean of that loss over the poisons at some steps.
    pub(crate) fn run(
        &self,
        extractor: &Extractor,
        head_space: &HeadSpace,
        base: ArrayView4<u8>,
        zeta: ArrayView2<f32>,
        ctx: &Context,
    ) -> Result<(Array4<f32>, Vec<CurvePoint>), StageError> {
        let m = zeta.nrows();
        let bar = ctx.progress.start("feature matching", u64::from(self.steps) * m as u64, "image steps");
        let done = AtomicU64::new(0);
        let every = self.steps.div_ceil(50);
        let tile = |rows: Range<usize>| -> Result<Tile, StageError> {
            let slice = Slice::from(rows.clone());
            let base = unit_pixels(base.slice_axis(Axis(0), slice), extractor.device());
            let zeta = matrix(zeta.slice_axis(Axis(0), slice), extractor.device());
            let mut adam = Adam::new(&base);
            let (mut x, mut losses) = (base.clone(), Vec::new());
            for step in 0..self.steps {
                ctx.check()?;
                let (loss, gradient) = self.gradient(extractor, head_space, &x, &base, &zeta)?;
                if step % every == 0 || step + 1 == self.steps {
                    let sum = f64::from(loss.into_scalar::<f32>());
                    if !sum.is_finite() {
                        let message = format!("feature matching diverged at step {step}; lower `step` or `beta`");
                        return Err(StageError::new(ErrorKind::Numeric, message));
                    }
                    losses.push((step, sum));
                }
                let rate = self.step * cosine(step.into(), self.steps.into());
                x = (x - adam.direction(gradient) * rate).clamp(0.0, 1.0);
                bar.at(done.fetch_add(rows.len() as u64, Ordering::Relaxed) + rows.len() as u64);
            }
            Ok(Tile { pixels: x.into_data().iter::<f32>().collect(), losses })
        };
        let tiles = on_device(extractor.device(), m, TILE, tile)?;

        let (_, channels, height, width) = base.dim();
        let mut pixels = Array4::zeros((m, channels, height, width));
        pixels.iter_mut().zip(tiles.iter().flat_map(|t| &t.pixels)).for_each(|(to, from)| *to = *from);
        let recorded = tiles.first().map_or(&[][..], |t| &t.losses);
        let curve = recorded.iter().enumerate().map(|(i, (step, _))| {
            let sum: f64 = tiles.iter().filter_map(|t| t.losses.get(i)).map(|(_, loss)| loss).sum();
            CurvePoint { step: *step, objective: sum / m as f64 }
        });
        let curve = curve.collect();
        Ok((pixels, curve))
    }

    /// Sum of the losses of a tile, and its gradient with respect to the pixels.
    fn gradient(
        &self,
        extractor: &Extractor,
        head_space: &HeadSpace,
        x: &Tensor<4>,
        base: &Tensor<4>,
        zeta: &Tensor<2>,
    ) -> Result<(Tensor<1>, Tensor<4>), StageError> {
        let tracked = Tensor::<4>::from_inner(x.clone()).require_grad();
        let off = head_space.apply(extractor.forward(tracked.clone())) - zeta.clone();
        let feature_loss = off.powi_scalar(2).sum();
        let mut gradients = feature_loss.backward();
        let gradient =
            tracked.grad_remove(&mut gradients).ok_or_else(|| StageError::internal("pixels got no gradient"))?;
        // The penalty is quadratic: its gradient needs no tape.
        let moved = x.clone() - base.clone();
        let loss = feature_loss.inner() + moved.clone().powi_scalar(2).sum() * self.beta;
        Ok((loss, gradient + moved * (2.0 * self.beta)))
    }
}

/// Adam's moments, for a tensor that is no module's parameter.
struct Adam {
    first: Tensor<4>,
    second: Tensor<4>,
    steps: i32,
}

impl Adam {
    const DECAY: (f64, f64) = (0.9, 0.999);

    fn new(like: &Tensor<4>) -> Self {
        Self { first: like.zeros_like(), second: like.zeros_like(), steps: 0 }
    }

    /// The step to take, for a rate of 1.
    fn direction(&mut self, gradient: Tensor<4>) -> Tensor<4> {
        let (a, b) = Self::DECAY;
        self.steps += 1;
        self.first = self.first.clone() * a + gradient.clone() * (1.0 - a);
        self.second = self.second.clone() * b + gradient.powi_scalar(2) * (1.0 - b);
        let first = self.first.clone() / (1.0 - a.powi(self.steps));
        let second = self.second.clone() / (1.0 - b.powi(self.steps));
        first / (second.sqrt() + 1e-8)
    }
}
