//! Refinement: all images at once, on the objective that their features were made for.
//!
//! Matching leaves an error on every image, and these errors add up in the head, whatever they do to the attack. Refinement goes on
//! from there with the attack itself: at every step the objective is evaluated at the features that the images have, and every image
//! goes towards features that are a step further down the objective, projected onto the constraint. Where no image moves any more,
//! its features are stationary for the attack among those of the images in reach.

use crate::{
    matching::Problem,
    minimize::{Adam, Bounds, Minimizer},
};
use hemlock_artifact::CurvePoint;
use hemlock_head::Constraint;
use hemlock_poison_features::Objective;
use hemlock_stage::{Context, StageError};
use ndarray::{Array2, Array4, Axis};
use rayon::prelude::*;

/// How long, and with what.
pub(crate) struct Refinement<'a> {
    /// Steps, each a pass of all images through the network, and one more of the features alone.
    pub(crate) steps: u32,
    /// Length of Adam's first step, in pixel units.
    pub(crate) step: f64,
    /// Labels of the poisons.
    pub(crate) labels: &'a [u32],
    /// Where their features may lie.
    pub(crate) constraint: &'a Constraint,
}

impl Refinement<'_> {
    /// Moves the images `pixels`, `[m, 3, height, width]` in `[0, 1]`, within the bounds of `problem` and with its penalty; what they were
    /// matched with is not looked at. Returns the images, and the objective as it is shown, at some steps.
    pub(crate) fn run(
        &self,
        problem: &Problem,
        objective: &mut dyn Objective,
        pixels: Array4<f32>,
        ctx: &Context,
    ) -> Result<(Array4<f32>, Vec<CurvePoint>), StageError> {
        let (m, channels, height, width) = pixels.dim();
        let (shape, size) = ([m, channels, height, width], channels * height * width);
        let bases: Vec<Vec<f32>> = (0..m).map(|row| problem.base(row)).collect();
        let begin = |(row, base): (usize, &Vec<f32>)| {
            let from = pixels.index_axis(Axis(0), row).iter().copied().collect();
            Adam::new(from, Bounds::around(base, problem.linf), self.step as f32, self.steps)
        };
        let mut images: Vec<Adam> = bases.iter().enumerate().map(begin).collect();
        let bar = ctx.progress.start("refinement", self.steps.into(), "steps");
        let every = self.steps.div_ceil(50).max(1);
        let mut curve = Vec::new();
        for step in 0..=self.steps {
            ctx.check()?;
            let flat: Vec<f32> = images.iter().flat_map(Adam::point).copied().collect();
            let pixels = Array4::from_shape_vec(pixels.raw_dim(), flat)
                .map_err(|e| StageError::internal(format!("refined images have another size: {e}")))?;
            let z = problem.frozen.features(pixels.view(), ctx)?.mapv(f64::from);
            let force = objective.evaluate(z.view(), self.labels)?;
            let shown = objective.shown(force.value);
            if step.is_multiple_of(every) || step == self.steps {
                curve.push(CurvePoint { step, objective: shown });
            }
            bar.at(step.into());
            bar.say(format!("{shown:.4}"));
            if step == self.steps {
                return Ok((pixels, curve));
            }
            let aim = self.aim(&z, force.gradient(z.view(), self.labels)?);
            let flat = pixels.into_raw_vec_and_offset().0;
            let (_, mut gradient) = problem.frozen.gradient_in_tiles(&flat, shape, &aim)?;
            let of_images = images.par_iter_mut().zip(&bases).zip(gradient.par_chunks_mut(size));
            of_images.for_each(|((image, base), gradient)| {
                problem.penalise(image.point(), base, gradient);
                image.tell(0.0, gradient);
            });
        }
        Err(StageError::internal("the refinement did not end"))
    }

    /// Features one step down the objective: as far, in the root mean square, as features are long.
    fn aim(&self, z: &Array2<f64>, gradient: Array2<f64>) -> Vec<f32> {
        let square = |a: &Array2<f64>| a.iter().map(|x| x * x).sum::<f64>();
        let mut aim = z - gradient.clone() * (square(z) / square(&gradient).max(f64::MIN_POSITIVE)).sqrt();
        self.constraint.project(&mut aim, self.labels);
        aim.iter().map(|x| *x as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pass::Frozen,
        testing::{context, extractor, images, on_threads},
    };
    use hemlock_artifact::Affine;
    use hemlock_head::{FitOptions, Head, Samples, fit};
    use hemlock_poison_features::Canceling;

    const LABELS: [u32; 6] = [0, 1, 0, 1, 0, 1];

    /// Clean features of 60 images and a target that their head is not.
    struct Setting {
        extractor: hemlock_models::Extractor,
        features: Array2<f64>,
        labels: Vec<u32>,
        target: Head,
    }

    impl Setting {
        fn new() -> Self {
            let extractor = extractor("resnet8-w4", 8);
            let features = extractor.features(images(60, 8, 3).view(), &|_| true).unwrap().mapv(f64::from);
            let labels: Vec<u32> = (0..60).map(|i| u32::from(i % 3 == 0)).collect();
            let clean = Samples::new(features.view(), &labels, 2).unwrap();
            let head = fit(&[clean], &FitOptions::new(1e-2), &|_, _| true).unwrap().head;
            let target = Head::from_packed(&head.packed() * 0.5).unwrap();
            Self { extractor, features, labels, target }
        }
        /// Images refined from their bases, the objective before and after, and the largest feature norm at the end.
        fn refine(&self, steps: u32, linf: Option<f32>, constraint: &Constraint) -> (Array4<f32>, [f64; 2], f64) {
            let frozen = Frozen::new(&self.extractor, &Affine::identity(self.features.ncols()));
            let base = images(6, 8, 0);
            let zeta = Array2::zeros((6, self.features.ncols()));
            let problem =
                Problem { frozen: &frozen, base: base.view(), zeta: zeta.view(), beta: 0.0, linf, exact: 0.0 };
            let clean = Samples::new(self.features.view(), &self.labels, 2).unwrap();
            let mut objective = Canceling::new(&self.target, clean, 1e-2).unwrap();
            let refinement = Refinement { steps, step: 0.02, labels: &LABELS, constraint };
            let pixels = base.mapv(|p| f32::from(p) / 255.0);
            context(|ctx| {
                let (pixels, curve) = refinement.run(&problem, &mut objective, pixels, ctx).unwrap();
                let z = frozen.features(pixels.view(), ctx).unwrap();
                let longest = z.rows().into_iter().map(|z| f64::from(z.dot(&z)).sqrt()).fold(0.0, f64::max);
                (pixels, [curve.first().unwrap().objective, curve.last().unwrap().objective], longest)
            })
        }
    }

    #[test]
    fn it_lowers_the_attack_s_own_objective_within_every_bound() {
        let setting = Setting::new();
        let (free, [first, last], longest) = setting.refine(60, None, &Constraint::default());
        assert!(last < 0.9 * first, "{first} to {last}");
        assert!(free.iter().all(|p| (0.0..=1.0).contains(p)));

        let radius = 0.8 * longest;
        let (_, [_, held], longest) = setting.refine(60, None, &Constraint::ball(radius));
        assert!(longest < 1.05 * radius, "{longest} over {radius}");
        assert!(held > last && held < first, "{held} between {last} and {first}");

        let (near, [_, bound], _) = setting.refine(60, Some(4.0 / 255.0), &Constraint::default());
        let base = images(6, 8, 0).mapv(|p| f32::from(p) / 255.0);
        let moved = (&near - &base).iter().fold(0.0f32, |m, d| m.max(d.abs()));
        assert!(moved <= 4.0 / 255.0 + 1e-6 && moved > 1.0 / 255.0, "{moved}");
        assert!(bound < first && bound > last, "{bound} between {last} and {first}");
    }

    #[test]
    fn threads_change_nothing() {
        let setting = Setting::new();
        let run = |threads| on_threads(threads, || setting.refine(3, None, &Constraint::default()));
        assert_eq!(run(1), run(3));
    }
}
