//! Images that adapt to a filter: refinement, and the filter, in turns ([`hemlock_attack::adaptive`]).

use crate::{FrozenExtractor, PixelLimits, Refinement};
use hemlock_artifact::CurvePoint;
use hemlock_attack::Objective;
use hemlock_attack::adaptive::{self, Evasion};
use hemlock_stage::{Context, StageError};
use hemlock_threat::Constraint;
use ndarray::{Array2, Array4, Axis, Zip};

impl Refinement<'_> {
    /// Adapts images that were refined without a filter, `pixels`, `[m, 3, height, width]` in `[0, 1]`, with the curve
    /// that led to them. The last point of the new curve has the value of the images that the filter keeps.
    ///
    /// # Errors
    /// Returns the errors of [`Refinement::run`], and an error if the filter cannot be applied.
    pub fn adapt<'a>(
        &self,
        frozen: &'a FrozenExtractor<'a>,
        limits: &PixelLimits,
        objective: &mut dyn Objective,
        (evasion, constraint): (&Evasion, &Constraint),
        (pixels, mut curve): (Array4<f32>, Vec<CurvePoint>),
        ctx: &'a Context<'a>,
    ) -> Result<(Array4<f32>, Vec<CurvePoint>), StageError> {
        let steps = adaptive::steps_of_turn(self.steps);
        let mut images = EvadingImages { frozen, limits: *limits, pixels, ctx };
        let mut found = images.pixels.clone();
        let features = images.features()?;
        let kept = evasion.keeps(features.view(), self.labels)?;
        let mut best = Evasion::value(objective, &features, self.labels, &kept)?;
        for turns in 0..=adaptive::TURNS {
            if turns > 0 {
                let passing = evasion.passing(constraint, images.features()?.view(), self.labels)?;
                let Refinement { name, step, labels, .. } = *self;
                let turn = Refinement { name, steps, step, labels, constraint: &passing };
                let start = std::mem::take(&mut images.pixels);
                let (moved, after) = turn.run(frozen, limits, objective, start, ctx)?;
                images.pixels = moved;
                append(&mut curve, after);
            }
            let value = images.retreat(self.labels, objective, evasion)?;
            if value < best || objective.is_stochastic() {
                best = value;
                found.assign(&images.pixels);
            }
        }
        append(&mut curve, [CurvePoint { step: 0, objective: objective.display_value(best) }]);
        Ok((found, curve))
    }
}

/// Continues a curve.
fn append(curve: &mut Vec<CurvePoint>, after: impl IntoIterator<Item = CurvePoint>) {
    let taken = curve.last().map_or(0, |point| point.step + 1);
    curve.extend(after.into_iter().map(|point| CurvePoint { step: point.step + taken, ..point }));
}

/// Poisoned images, which go back towards their base images.
struct EvadingImages<'a, 'l> {
    frozen: &'a FrozenExtractor<'a>,
    limits: PixelLimits<'l>,
    pixels: Array4<f32>,
    ctx: &'a Context<'a>,
}

impl EvadingImages<'_, '_> {
    fn features(&self) -> Result<Array2<f64>, StageError> {
        Ok(self.frozen.features(self.pixels.view(), self.ctx)?.mapv(f64::from))
    }

    /// Moves images back until the filter keeps them. Returns the value of those that it keeps.
    fn retreat(&mut self, labels: &[u32], objective: &mut dyn Objective, evasion: &Evasion) -> Result<f64, StageError> {
        let mut features = self.features()?;
        let kept = evasion.retreat(self, &mut features, labels)?;
        Evasion::value(objective, &features, labels, &kept)
    }
}

impl adaptive::Retreat for EvadingImages<'_, '_> {
    fn back(&mut self, rows: &[usize], share: f64, _: &[Option<usize>]) -> Result<Array2<f64>, StageError> {
        for row in rows {
            let (image, base) = (self.pixels.index_axis_mut(Axis(0), *row), self.limits.base.index_axis(Axis(0), *row));
            Zip::from(image).and(base).for_each(|x, base| {
                let base = f32::from(*base) / 255.0;
                *x = base + share as f32 * (*x - base);
            });
        }
        Ok(self.frozen.features(self.pixels.select(Axis(0), rows).view(), self.ctx)?.mapv(f64::from))
    }
}
