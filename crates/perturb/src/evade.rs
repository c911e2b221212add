//! Images that adapt to a filter: refinement, and the filter, in turns ([`hemlock_attack::adaptive`]).

use crate::{FrozenExtractor, PixelLimits, Refinement};
use hemlock_artifact::CurvePoint;
use hemlock_attack::Objective;
use hemlock_attack::adaptive::{self, AdaptivePoisons, Evasion};
use hemlock_stage::{Context, StageError};
use hemlock_threat::{Constraint, Project};
use ndarray::{Array2, Array4, Axis, Zip};

impl Refinement<'_> {
    /// Adapts images that were refined without a filter, `pixels`, `[m, 3, height, width]` in `[0, 1]`, with the curve
    /// that led to them. The last point of the new curve has the value of the images that the filter keeps.
    ///
    /// # Errors
    /// Returns the errors of [`Refinement::run`], and an error if the filter cannot be applied.
    pub fn adapt<'a>(
        &'a self,
        frozen: &'a FrozenExtractor<'a>,
        limits: &PixelLimits,
        objective: &mut dyn Objective,
        (evasion, constraint): (&Evasion, &Constraint),
        (pixels, curve): (Array4<f32>, Vec<CurvePoint>),
        ctx: &'a Context<'a>,
    ) -> Result<(Array4<f32>, Vec<CurvePoint>), StageError> {
        let best = (f64::NAN, pixels.clone());
        let mut images = AdaptiveImages { refinement: self, frozen, limits: *limits, pixels, curve, best, ctx };
        evasion.adapt(objective, constraint, &mut images)?;
        let AdaptiveImages { mut curve, best: (value, pixels), .. } = images;
        append(&mut curve, [CurvePoint { step: 0, objective: objective.display_value(value) }]);
        Ok((pixels, curve))
    }
}

/// Continues a curve.
fn append(curve: &mut Vec<CurvePoint>, after: impl IntoIterator<Item = CurvePoint>) {
    let taken = curve.last().map_or(0, |point| point.step + 1);
    curve.extend(after.into_iter().map(|point| CurvePoint { step: point.step + taken, ..point }));
}

/// Images that refinement moves in turns with a filter.
struct AdaptiveImages<'a, 'l> {
    refinement: &'a Refinement<'a>,
    frozen: &'a FrozenExtractor<'a>,
    limits: PixelLimits<'l>,
    pixels: Array4<f32>,
    curve: Vec<CurvePoint>,
    /// The value of the best images, and their pixels.
    best: (f64, Array4<f32>),
    ctx: &'a Context<'a>,
}

impl AdaptivePoisons for AdaptiveImages<'_, '_> {
    fn labels(&self) -> &[u32] {
        self.refinement.labels
    }

    fn features(&self) -> Result<Array2<f64>, StageError> {
        Ok(self.frozen.features(self.pixels.view(), self.ctx)?.mapv(f64::from))
    }

    /// Images go back towards their base images.
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

    fn descend(&mut self, objective: &mut dyn Objective, set: &dyn Project) -> Result<(), StageError> {
        let Refinement { name, steps, step, labels, .. } = *self.refinement;
        let turn = Refinement { name, steps: adaptive::steps_of_turn(steps), step, labels, constraint: set };
        let start = std::mem::take(&mut self.pixels);
        let (moved, after) = turn.run(self.frozen, &self.limits, objective, start, self.ctx)?;
        self.pixels = moved;
        append(&mut self.curve, after);
        Ok(())
    }

    fn remember(&mut self, value: f64) {
        self.best.0 = value;
        self.best.1.assign(&self.pixels);
    }
}
